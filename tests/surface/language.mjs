// tests/surface/language.mjs — filters, projections, fields of find, updates.
import assert from 'node:assert/strict';
import {Binary, MaxKey, MinKey} from 'mongodb';
import {D, L, all, code, command, exact, filters, fresh, go, has, kept, updates} from './kit.mjs';

const Q = filters('filters', [
  {_id: 1, a: 1, s: 'Apple', l: [1, 2, 3]}, {_id: 2, a: 2.5, s: 'banana', l: [{x: 1, y: 2}, {x: 2, y: 1}]}, {_id: 3, a: null, s: 'Cherry\npie', l: []},
  {_id: 4, l: [5]}, {_id: 5, a: L(20), s: ['apple', 'fig'], b: new Binary(Buffer.from([20]))}, {_id: 6, a: D('2.5'), o: {p: 1, q: [7]}}, {_id: 7, a: 'text', o: {p: 2}},
]);
const PLACES = [
  {_id: 1, at: {type: 'Point', coordinates: [0, 0]}, xy: [0, 0]}, {_id: 2, at: {type: 'Point', coordinates: [1, 1]}, xy: [1, 1]}, {_id: 3, at: {type: 'Point', coordinates: [20, 20]}, xy: [20, 20]},
];
const square = {type: 'Polygon', coordinates: [[[-0.5, -0.5], [2, -0.5], [2, 2], [-0.5, 2], [-0.5, -0.5]]]};
const point = (x, y) => ({type: 'Point', coordinates: [x, y]});
const places = (...cases) =>
  cases.map(([filter, want, key = '2dsphere']) => ({
    label: JSON.stringify(filter),
    want,
    run: async (ctx) => {
      const c = await fresh(ctx, PLACES);
      if (JSON.stringify(filter).match(/\$near|\$center|\$box|\$polygon/)) await c.createIndex(key === '2d' ? {xy: '2d'} : {at: key});
      return (await c.find(filter).toArray()).map((d) => d._id).sort();
    },
  }));
const texts = (want, find) => go('$text', async (ctx) => {
  const c = await fresh(ctx, [{_id: 1, t: 'fast red cars'}, {_id: 2, t: 'slow blue boat'}]);
  await c.createIndex({t: 'text'});
  return (await find(c)).map((d) => d._id);
}, want);

const query = {
  $eq: Q([{a: {$eq: 2.5}}, [2, 6]], [{a: null}, [3, 4]], [{l: [1, 2, 3]}, [1]], [{'o.q': 7}, [6]]),
  $gt: Q([{a: {$gt: 2}}, [2, 5, 6]], [{s: {$gt: 'b'}}, [2, 5]]),
  $gte: Q([{a: {$gte: 2.5}}, [2, 5, 6]], [{a: {$gte: null}}, [3, 4]]),
  $in: Q([{a: {$in: [1, 'text', null]}}, [1, 3, 4, 7]], [{s: {$in: [/^a/i]}}, [1, 5]], [{a: {$in: 1}}, code(2)]),
  $lt: Q([{a: {$lt: 2.5}}, [1]], [{l: {$lt: 2}}, [1]]),
  $lte: Q([{a: {$lte: D('2.5')}}, [1, 2, 6]]),
  $ne: Q([{a: {$ne: 1}}, [2, 3, 4, 5, 6, 7]], [{l: {$ne: 1}}, [2, 3, 4, 5, 6, 7]]),
  $nin: Q([{a: {$nin: [1, null]}}, [2, 5, 6, 7]]),
  $and: Q([{$and: [{a: {$gt: 1}}, {a: {$lt: 20}}]}, [2, 6]], [{$and: []}, code(2)]),
  $or: Q([{$or: [{a: 1}, {s: 'banana'}]}, [1, 2]], [{$or: {}}, code(2)]),
  $not: Q([{a: {$not: {$gt: 2}}}, [1, 3, 4, 7]], [{s: {$not: /an/}}, [1, 3, 4, 5, 6, 7]]),
  $exists: Q([{a: {$exists: false}}, [4]], [{'o.q': {$exists: true}}, [6]]),
  $regex: Q([{s: /^a/}, [5]], [{s: {$regex: 'an+a'}}, [2]], [{s: {$regex: '('}}, code(51091)]),
  $elemMatch: Q([{l: {$elemMatch: {x: 1, y: 1}}}, []], [{l: {$elemMatch: {x: 1, y: 2}}}, [2]], [{l: {$elemMatch: {$gt: 2, $lt: 5}}}, [1]]),
  $nor: Q([{$nor: [{a: {$exists: true}}, {_id: 9}]}, [4]]),
  $type: Q([{a: {$type: 'number'}}, [1, 2, 5, 6]], [{a: {$type: ['long', 'decimal']}}, [5, 6]], [{l: {$type: 'array'}}, [1, 2, 3, 4]], [{a: {$type: 'none'}}, code(2)]),
  $expr: Q([{$expr: {$gt: [{$size: {$ifNull: ['$l', []]}}, 2]}}, [1]]),
  $all: Q([{l: {$all: [1, 3]}}, [1]], [{l: {$all: [{$elemMatch: {x: 1}}, {$elemMatch: {y: 1}}]}}, [2]]),
  $size: Q([{l: {$size: 0}}, [3]], [{l: {$size: -1}}, code(2)]),
  $mod: Q([{a: {$mod: [5, 0]}}, [5]], [{a: {$mod: [0, 0]}}, code(2)]),
  $text: texts([1], (c) => c.find({$text: {$search: 'car'}}).toArray()),
  $geoWithin: places([{at: {$geoWithin: {$geometry: square}}}, [1, 2]]),
  $near: places([{at: {$near: {$geometry: point(0, 0), $maxDistance: 200000}}}, [1, 2]]),
  $nearSphere: places([{at: {$nearSphere: {$geometry: point(0, 0), $maxDistance: 1000}}}, [1]]),
  $geoIntersects: places([{at: {$geoIntersects: {$geometry: square}}}, [1, 2]]),
  $jsonSchema: Q([{$jsonSchema: {required: ['o'], properties: {o: {bsonType: 'object', required: ['q']}}}}, [6]], [{$jsonSchema: {wrong: 1}}, code(9)]),
  $options: Q([{s: {$regex: '^APPLE$', $options: 'i'}}, [1, 5]], [{s: {$regex: '^pie', $options: 'm'}}, [3]], [{s: {$options: 'i'}}, code(2)]),
  $where: Q([{$where: 'this.a === 1'}, [1]]),
  $bitsAllClear: Q([{a: {$bitsAllClear: [0, 1]}}, [5]], [{b: {$bitsAllClear: 3}}, [5]]),
  $bitsAllSet: Q([{a: {$bitsAllSet: 20}}, [5]], [{b: {$bitsAllSet: new Binary(Buffer.from([20]))}}, [5]]),
  $bitsAnyClear: Q([{a: {$bitsAnyClear: [0, 2]}}, [1, 5]]),
  $bitsAnySet: Q([{a: {$bitsAnySet: 5}}, [1, 5]], [{a: {$bitsAnySet: -1}}, code(9)]),
  $comment: Q([{a: 1, $comment: 'why'}, [1]]),
  $rand: Q([{$expr: {$lt: [{$rand: {}}, 1]}, _id: 1}, [1]], [{$expr: {$gte: [{$rand: {}}, 1]}}, []]),
  $natural: go('sort and hint {$natural: -1}', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1}, {_id: 2}, {_id: 3}]);
    return [(await c.find().sort({$natural: -1}).toArray()).map((d) => d._id), (await c.find().hint({$natural: 1}).toArray()).map((d) => d._id)];
  }, [[3, 2, 1], [1, 2, 3]]),
};

const geometry = {
  $geometry: places([{at: {$geoWithin: {$geometry: square}}}, [1, 2]]),
  $maxDistance: places([{at: {$near: {$geometry: point(0, 0), $maxDistance: 1000}}}, [1]]),
  $minDistance: places([{at: {$near: {$geometry: point(0, 0), $minDistance: 1000}}}, [2, 3]]),
  $centerSphere: places([{at: {$geoWithin: {$centerSphere: [[0, 0], 0.1]}}}, [1, 2]]),
  $box: places([{xy: {$geoWithin: {$box: [[-1, -1], [2, 2]]}}}, [1, 2], '2d']),
  $center: places([{xy: {$geoWithin: {$center: [[0, 0], 2]}}}, [1, 2], '2d']),
  $polygon: places([{xy: {$geoWithin: {$polygon: [[-1, -1], [2, -1], [2, 2], [-1, 2]]}}}, [1, 2], '2d']),
  $uniqueDocs: places([{xy: {$geoWithin: {$box: [[-1, -1], [2, 2]], $uniqueDocs: true}}}, [1, 2], '2d']),
};

const P = (...cases) => cases.map(([projection, want, filter = {}]) => ({
  label: JSON.stringify(projection),
  want,
  run: async (ctx) => (await kept(ctx, 'projections', [{_id: 1, l: [1, 2, 3, 4], o: [{x: 1, y: 1}, {x: 2, y: 2}]}])).findOne(filter, {projection}),
}));
const projection = {
  $: P([{'o.$': 1}, {_id: 1, o: [{x: 2, y: 2}]}, {'o.x': 2}], [{'l.$': 1}, {_id: 1, l: [3]}, {l: {$gt: 2}}], [{'o.$': 1, 'l.$': 1}, code(31276), {'o.x': 1}]),
  $elemMatch: P([{o: {$elemMatch: {y: 2}}}, {_id: 1, o: [{x: 2, y: 2}]}], [{o: {$elemMatch: {y: 9}}}, {_id: 1}]),
  $slice: P([{_id: 1, l: {$slice: -2}}, {_id: 1, l: [3, 4]}], [{_id: 1, l: {$slice: [1, 2]}}, {_id: 1, l: [2, 3]}], [{l: {$slice: [1, -2]}}, code(28724)]),
  $meta: all(
    go('{$meta: "indexKey"}', async (ctx) => {
      const c = await fresh(ctx, [{_id: 1, a: 5}]);
      await c.createIndex({a: 1});
      return c.findOne({a: 5}, {projection: {_id: 0, k: {$meta: 'indexKey'}}, hint: 'a_1'});
    }, {a: 5, k: {a: 5}}), // beside _id: 0, $meta leaves the other fields
    go('{$meta: "recordId"}', async (ctx) => (await fresh(ctx, [{_id: 1}])).findOne({}, {projection: {k: {$meta: 'recordId'}}}), (d) => assert.ok('k' in d)),
    texts([1, 2], (c) => c.find({$text: {$search: 'car boat'}}, {projection: {score: {$meta: 'textScore'}}}).sort({_id: 1}).toArray()),
  ),
};

const TEN = [...Array(10).keys()].map((i) => ({_id: i, a: i % 3, s: i % 2 ? 'a' : 'A'}));
/** A find command by hand; the _ids of its first batch, or what pick makes of the answer. */
const find = (fields, want, pick = (r) => r.cursor.firstBatch.map((d) => d._id)) => [{
  label: JSON.stringify(fields),
  want,
  run: async (ctx) => {
    await kept(ctx, 'ten', TEN);
    await ctx.db.collection('ten').createIndex({a: 1, _id: 1});
    return pick(await ctx.db.command({find: 'ten', ...fields}));
  },
}];
const cursor = {
  filter: all(find({filter: {a: 2}}, [2, 5, 8]), command({find: 'nothing', filter: {_id: 1}}, (r) => assert.deepEqual(r.cursor.firstBatch, [])), find({filter: 1}, code(14))),
  projection: all(find({projection: {a: 1, _id: 0}, limit: 2}, [{a: 0}, {a: 1}], (r) => r.cursor.firstBatch), find({projection: {a: 1, s: 0}}, code(31254))),
  sort: all(find({sort: {a: -1, _id: -1}, limit: 4}, [8, 5, 2, 7]), find({sort: {a: 5}}, code(15975))),
  limit: all(find({sort: {_id: 1}, limit: 3}, [0, 1, 2]), find({limit: -1}, code(51024))),
  skip: all(find({sort: {_id: 1}, skip: 8}, [8, 9]), find({skip: -1}, code(51024))),
  batchSize: all(
    go('batchSize 3, then getMore', async (ctx) => {
      await kept(ctx, 'ten', TEN);
      const r = await ctx.db.command({find: 'ten', batchSize: 3, sort: {_id: 1}});
      const m = await ctx.db.command({getMore: r.cursor.id, collection: 'ten'});
      return [r.cursor.firstBatch.length, m.cursor.nextBatch.length, String(m.cursor.id)];
    }, [3, 7, '0']),
    find({batchSize: 0, limit: 1}, 0, (r) => r.cursor.firstBatch.length),
  ),
  hint: all(find({filter: {a: 1}, hint: 'a_1__id_1'}, [1, 4, 7]), find({filter: {a: 1}, hint: {a: 1, _id: 1}}, [1, 4, 7]), find({hint: 'none'}, code(2))),
  singleBatch: find({batchSize: 2, singleBatch: true, sort: {_id: 1}}, [2, '0'], (r) => [r.cursor.firstBatch.length, String(r.cursor.id)]),
  comment: all(find({filter: {a: 2}, comment: 'why'}, [2, 5, 8]), find({filter: {a: 2}, comment: {by: 1}}, [2, 5, 8])),
  maxTimeMS: all(find({filter: {a: 2}, maxTimeMS: 10000}, [2, 5, 8]), find({maxTimeMS: -1}, code(2))),
  collation: all(find({filter: {s: 'a', a: 0}, collation: {locale: 'en', strength: 2}, sort: {_id: 1}}, [0, 3, 6, 9]), find({collation: {locale: 'none'}}, code(2))),
  readConcern: all(find({filter: {a: 2}, readConcern: {level: 'majority'}}, [2, 5, 8]), find({filter: {a: 2}, readConcern: {level: 'local'}}, [2, 5, 8]), find({readConcern: {level: 'none'}}, code(9, 2))),
  let: all(find({filter: {$expr: {$eq: ['$a', '$$want']}}, let: {want: 2}}, [2, 5, 8]), find({filter: {$expr: {$eq: ['$a', '$$none']}}}, code(17276))),
  allowDiskUse: all(find({filter: {a: 2}, sort: {_id: 1}, allowDiskUse: true}, [2, 5, 8]), find({allowDiskUse: 'x'}, code(14))),
  min: all(find({min: {a: 2, _id: 5}, hint: {a: 1, _id: 1}}, [5, 8]), find({min: {a: 2}}, code(51173))),
  max: all(find({max: {a: 0, _id: 4}, hint: {a: 1, _id: 1}}, [0, 3]), find({min: {a: 2, _id: 1}, max: {a: 1, _id: 1}, hint: {a: 1, _id: 1}}, code(51175))),
  returnKey: find({filter: {a: 2}, returnKey: true, hint: 'a_1__id_1', limit: 1}, [{a: 2, _id: 2}], (r) => r.cursor.firstBatch),
  showRecordId: find({filter: {_id: 2}, showRecordId: true}, (n) => assert.ok(n), (r) => '$recordId' in r.cursor.firstBatch[0]),
  tailable: all(
    find({tailable: true}, code(2)),
    go('on a capped collection', async (ctx) => {
      const c = await ctx.db.createCollection('tail', {capped: true, size: 65536});
      await c.insertOne({_id: 1});
      const r = await ctx.db.command({find: 'tail', tailable: true});
      await c.insertOne({_id: 2});
      const m = await ctx.db.command({getMore: r.cursor.id, collection: 'tail'});
      await ctx.db.command({killCursors: 'tail', cursors: [r.cursor.id]});
      return m.cursor.nextBatch;
    }, [{_id: 2}]),
  ),
  awaitData: all(
    find({awaitData: true}, code(9)),
    go('on a capped collection', async (ctx) => {
      const c = await ctx.db.createCollection('tailwait', {capped: true, size: 65536});
      await c.insertOne({_id: 1});
      const r = await ctx.db.command({find: 'tailwait', tailable: true, awaitData: true});
      const [m] = await Promise.all([ctx.db.command({getMore: r.cursor.id, collection: 'tailwait', maxTimeMS: 20000}), c.insertOne({_id: 2})]);
      await ctx.db.command({killCursors: 'tailwait', cursors: [r.cursor.id]});
      return m.cursor.nextBatch;
    }, [{_id: 2}]),
  ),
  noCursorTimeout: find({filter: {a: 2}, noCursorTimeout: true}, [2, 5, 8]),
  oplogReplay: find({filter: {a: 2}, oplogReplay: true}, [2, 5, 8]),
  allowPartialResults: find({filter: {a: 2}, allowPartialResults: true}, [2, 5, 8]),
};

const update = {
  $set: updates([{a: 1}, {$set: {'b.c': 2, a: 5}}, {a: 5, b: {c: 2}}], [{a: [1, 2]}, {$set: {'a.3': 4}}, {a: [1, 2, null, 4]}], [{a: 1}, {$set: {'a.b': 1}}, code(28)]),
  $unset: updates([{a: {b: 1, c: 2}, l: [1, 2]}, {$unset: {'a.b': '', 'l.0': '', x: ''}}, {a: {c: 2}, l: [null, 2]}]),
  $inc: updates([{a: 1}, {$inc: {a: 2, b: -1}}, {a: 3, b: -1}], [{a: 2147483647}, {$inc: {a: 1}}, {a: L('2147483648')}], [{a: 'x'}, {$inc: {a: 1}}, code(14)]),
  $push: updates([{a: [1]}, {$push: {a: 2, b: 3}}, {a: [1, 2], b: [3]}], [{a: 1}, {$push: {a: 2}}, code(2)]),
  $pull: updates([{a: [1, 5, 9]}, {$pull: {a: {$gte: 5}}}, {a: [1]}], [{a: [{x: 1, y: 1}, {x: 2}]}, {$pull: {a: {x: 1}}}, {a: [{x: 2}]}]),
  $addToSet: updates([{a: [1, 2]}, {$addToSet: {a: D('2.0')}}, {a: [1, 2]}], [{}, {$addToSet: {a: {$each: [1, 1, 2]}}}, {a: [1, 2]}]),
  $setOnInsert: all(updates([{a: 1}, {$set: {a: 2}, $setOnInsert: {b: 1}}, {a: 2}]), updates([null, {$setOnInsert: {b: 1}}, {a: 3, b: 1}, {filter: {a: 3}, upsert: true}])),
  $min: updates([{a: 5}, {$min: {a: 3, b: 1}}, {a: 3, b: 1}], [{a: 5}, {$min: {a: 7}}, {a: 5}]),
  $max: updates([{a: 5}, {$max: {a: 'text'}}, {a: 'text'}]),
  $mul: updates([{a: 3}, {$mul: {a: 4, b: 7}}, {a: 12, b: 0}]),
  $rename: updates([{a: {x: 1}}, {$rename: {'a.x': 'b.y'}}, {a: {}, b: {y: 1}}], [{a: [1]}, {$rename: {'a.0': 'b'}}, code(2)]),
  $currentDate: go('date and timestamp', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1}]);
    await c.updateOne({}, {$currentDate: {d: true, t: {$type: 'timestamp'}}});
    return c.findOne({d: {$type: 'date'}, t: {$type: 'timestamp'}}, {projection: {_id: 1}});
  }, {_id: 1}),
  $pop: updates([{a: [1, 2, 3]}, {$pop: {a: 1}}, {a: [1, 2]}], [{a: [1, 2, 3]}, {$pop: {a: -1}}, {a: [2, 3]}], [{a: [1]}, {$pop: {a: 2}}, code(9)]),
  $pullAll: updates([{a: [1, 2, 1, 3]}, {$pullAll: {a: [1, 3]}}, {a: [2]}]),
  $bit: updates([{a: 13}, {$bit: {a: {and: 10}}}, {a: 8}], [{a: 5}, {$bit: {a: {xor: 1}}}, {a: 4}], [{a: 1.5}, {$bit: {a: {or: 1}}}, code(2)]),
};
const modifiers = {
  $each: updates([{a: [1]}, {$push: {a: {$each: [2, 3]}}}, {a: [1, 2, 3]}], [{a: [1]}, {$push: {a: {$each: 5}}}, code(2)]),
  '$(positional)': updates([{a: [5, 8, 5]}, {$set: {'a.$': 0}}, {a: [0, 8, 5]}, {filter: {a: 5}}], [{a: [{b: 1}, {b: 2}]}, {$set: {'a.$.c': 9}}, {a: [{b: 1}, {b: 2, c: 9}]}, {filter: {'a.b': 2}}], [{a: [1]}, {$set: {'a.$': 1}}, code(2)]),
  $slice: updates([{a: [1, 2, 3]}, {$push: {a: {$each: [4], $slice: -2}}}, {a: [3, 4]}]),
  $sort: updates([{a: [{x: 3}, {x: 1}]}, {$push: {a: {$each: [{x: 2}], $sort: {x: 1}}}}, {a: [{x: 1}, {x: 2}, {x: 3}]}]),
  $position: updates([{a: [1, 2]}, {$push: {a: {$each: [9, 8], $position: 1}}}, {a: [1, 9, 8, 2]}]),
  '$[](all)': updates([{a: [1, 2]}, {$inc: {'a.$[]': 10}}, {a: [11, 12]}]),
  '$[name](arrayFilters)': updates([{a: [1, 5, 9]}, {$set: {'a.$[x]': 0}}, {a: [1, 0, 0]}, {arrayFilters: [{x: {$gt: 3}}]}], [{a: [1]}, {$set: {'a.$[x]': 0}}, code(2)]),
  'pipeline-update': updates([{a: 3, b: 4}, [{$set: {c: {$add: ['$a', '$b']}}}, {$unset: 'a'}], {b: 4, c: 7}], [{a: {b: 1}}, [{$replaceWith: '$a'}], {b: 1}], [{a: 1}, [{$match: {a: 1}}], code(72)]),
};

export default {
  'Query operators': query,
  'Geometry words inside geo operators': geometry,
  'Projection operators of find': projection,
  'Cursor options of find': cursor,
  'Update operators': update,
  'Update modifiers and positional forms': modifiers,
};
