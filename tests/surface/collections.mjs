// tests/surface/collections.mjs — kinds and options of indexes and collections, BSON types.
import assert from 'node:assert/strict';
import {BSON, BSONSymbol, Binary, Code, Int32, MaxKey, MinKey, ObjectId, Timestamp, UUID} from 'mongodb';
import {Raw, msg} from '../support/wire.mjs';
import {D, F, L, all, code, day, exact, fresh, go, has, show, text} from './kit.mjs';

/** A new collection, an index on it, a query by hint (so that the index answers it), and listIndexes' row. */
const index = (key, options, {docs = [{_id: 1, a: 1}, {_id: 2, a: 2, b: 1}], filter, want, row = {}, hint, sort = {_id: 1}}) => [{
  label: `${JSON.stringify(key)} ${JSON.stringify(options)}`,
  want: (got) => {
    has(row)(got.row);
    if (filter) assert.deepEqual(got.ids, want);
  },
  run: async (ctx) => {
    const c = await fresh(ctx, docs);
    const name = await c.createIndex(key, options);
    const rows = (await c.indexes()).filter((r) => r.name === name);
    const ids = filter && (await c.find(filter, options.collation && {collation: options.collation}).hint(hint === undefined ? name : hint).sort(sort).toArray()).map((d) => d._id);
    return {row: rows[0], ids};
  },
}];
const created = (spec, want, row) => [{
  label: JSON.stringify(spec),
  want,
  run: async (ctx) => {
    const c = await fresh(ctx, [{_id: 1, a: 1}]);
    await ctx.db.command({createIndexes: c.collectionName, indexes: [spec]});
    return row ? (await c.indexes()).find((r) => r.name === spec.name) : true;
  },
}];
const twice = (key, options, docs, want) => go(`${JSON.stringify(key)} ${JSON.stringify(options)} and duplicates`, async (ctx) => {
  const c = await fresh(ctx);
  await c.createIndex(key, options);
  for (const d of docs) await c.insertOne(d);
  return c.countDocuments();
}, want);

const SPHERE = [{_id: 1, at: {type: 'Point', coordinates: [0, 0]}}];
const kinds = {
  'single-field': all(index({a: 1}, {}, {filter: {a: 2}, want: [2], row: {key: {a: 1}, name: 'a_1', v: 2}}), index({a: -1}, {}, {filter: {a: {$gt: 0}}, want: [2, 1], sort: {a: -1}})),
  compound: index({a: 1, b: -1}, {}, {filter: {a: 2, b: 1}, want: [2], row: {key: {a: 1, b: -1}}}),
  multikey: index({l: 1}, {}, {docs: [{_id: 1, l: [1, 2]}, {_id: 2, l: [3]}], filter: {l: 2}, want: [1]}),
  unique: all(twice({a: 1}, {unique: true}, [{a: 1}, {a: 1}], code(11000)), twice({a: 1}, {unique: true}, [{}, {}], code(11000)), index({a: 1}, {unique: true}, {filter: {a: 1}, want: [1], row: {unique: true}})),
  _id: go('{_id: 1}', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1}]);
    const clash = await c.insertOne({_id: 1}).then(() => 0, (e) => e.code);
    return [(await c.indexes()).map((r) => r.name), clash, await c.dropIndex('_id_').then(() => 0, (e) => e.code)];
  }, [['_id_'], 11000, 72]),
  sparse: index({b: 1}, {sparse: true}, {filter: {}, want: [2], row: {sparse: true}}),
  partial: index({a: 1}, {partialFilterExpression: {a: {$gt: 1}}}, {filter: {a: {$gt: 1}}, want: [2], row: {partialFilterExpression: {a: {$gt: 1}}}}),
  TTL: index({at: 1}, {expireAfterSeconds: 3600}, {docs: [{_id: 1, at: day('2999-01-01')}], filter: {at: {$gt: day('2000-01-01')}}, want: [1], row: {expireAfterSeconds: 3600}}),
  text: index({t: 'text'}, {}, {docs: [{_id: 1, t: 'cars'}], filter: {$text: {$search: 'car'}}, want: [1]}),
  '2dsphere': index({at: '2dsphere'}, {}, {docs: SPHERE, filter: {at: {$geoWithin: {$centerSphere: [[0, 0], 0.1]}}}, want: [1]}),
  hashed: all(index({a: 'hashed'}, {}, {filter: {a: 2}, want: [2], row: {key: {a: 'hashed'}}}), twice({a: 'hashed'}, {}, [{a: [1]}], code(16766))),
  wildcard: index({'$**': 1}, {}, {docs: [{_id: 1, a: {b: 1}}, {_id: 2, a: {b: 2}}], filter: {'a.b': 2}, want: [2], row: {key: {'$**': 1}}}),
  hidden: all(index({a: 1}, {hidden: true}, {row: {hidden: true}}), index({a: 1}, {hidden: true}, {filter: {a: 1}, want: []}).map((e) => ({...e, want: code(2)}))),
  'collation-index': index({s: 1}, {collation: {locale: 'en', strength: 2}}, {docs: [{_id: 1, s: 'a'}, {_id: 2, s: 'A'}, {_id: 3, s: 'b'}], filter: {s: 'A'}, want: [1, 2]}),
  '2d': index({xy: '2d'}, {}, {docs: [{_id: 1, xy: [0, 0]}], filter: {xy: {$geoWithin: {$center: [[0, 0], 1]}}}, want: [1]}),
  clustered: go('clusteredIndex', async (ctx) => {
    const c = await ctx.db.createCollection('clustered', {clusteredIndex: {key: {_id: 1}, unique: true}});
    await c.insertOne({_id: 1});
    return (await c.indexes()).map((r) => [r.key, r.clustered]);
  }, [[{_id: 1}, true]]),
  'compound-wildcard': index({a: 1, 'b.$**': 1}, {}, {docs: [{_id: 1, a: 1, b: {c: 1}}, {_id: 2, a: 1, b: {c: 2}}], filter: {a: 1, 'b.c': 2}, want: [2]}),
};

const options = {
  key: all(created({key: {a: 1}, name: 'x'}, has({key: {a: 1}}), true), created({key: {}, name: 'x'}, code(67)), created({key: {a: 5.5}, name: 'y'}, true), created({key: {a: 'nothing'}, name: 'z'}, code(67)), created({name: 'x'}, code(9))),
  name: all(created({key: {a: 1}, name: 'my name'}, has({name: 'my name'}), true), created({key: {a: 1}}, code(9)), created({key: {a: 1}, name: ''}, code(67))),
  unique: all(created({key: {a: 1}, name: 'x', unique: true}, has({unique: true}), true), created({key: {a: 1}, name: 'x', unique: 'x'}, code(14))),
  sparse: all(created({key: {a: 1}, name: 'x', sparse: true}, has({sparse: true}), true), created({key: {a: 1}, name: 'x', sparse: true, partialFilterExpression: {a: 1}}, code(67))),
  partialFilterExpression: all(created({key: {a: 1}, name: 'x', partialFilterExpression: {a: {$exists: true}}}, has({partialFilterExpression: {a: {$exists: true}}}), true), created({key: {a: 1}, name: 'x', partialFilterExpression: {a: {$ne: 1}}}, code(67))),
  expireAfterSeconds: all(created({key: {a: 1}, name: 'x', expireAfterSeconds: 60}, has({expireAfterSeconds: 60}), true), created({key: {a: 1, b: 1}, name: 'x', expireAfterSeconds: 60}, code(67)), created({key: {a: 1}, name: 'x', expireAfterSeconds: -1}, code(67))),
  collation: created({key: {a: 1}, name: 'x', collation: {locale: 'en', strength: 2}}, (r) => assert.equal(r.collation.strength, 2), true),
  hidden: created({key: {a: 1}, name: 'x', hidden: true}, has({hidden: true}), true),
  weights: created({key: {a: 'text'}, name: 'x', weights: {a: 5}}, has({weights: {a: 5}}), true),
  default_language: created({key: {a: 'text'}, name: 'x', default_language: 'german'}, has({default_language: 'german'}), true),
  background: created({key: {a: 1}, name: 'x', background: true}, has({key: {a: 1}}), true),
  storageEngine: all(created({key: {a: 1}, name: 'x', storageEngine: {wiredTiger: {configString: ''}}}, has({key: {a: 1}}), true), created({key: {a: 1}, name: 'x', storageEngine: 1}, code(14))),
  language_override: created({key: {a: 'text'}, name: 'x', language_override: 'idioma'}, has({language_override: 'idioma'}), true),
  textIndexVersion: created({key: {a: 'text'}, name: 'x', textIndexVersion: 3}, has({textIndexVersion: 3}), true),
  '2dsphereIndexVersion': created({key: {a: '2dsphere'}, name: 'x', '2dsphereIndexVersion': 3}, code(16755), true),
  bits: created({key: {xy: '2d'}, name: 'x', bits: 20}, has({bits: 20}), true),
  min: created({key: {xy: '2d'}, name: 'x', min: -10}, has({min: -10}), true),
  max: created({key: {xy: '2d'}, name: 'x', max: 10}, has({max: 10}), true),
  wildcardProjection: all(
    index({'$**': 1}, {wildcardProjection: {a: 1}}, {docs: [{_id: 1, a: 1, b: 1}], filter: {a: 1}, want: [1], row: {wildcardProjection: {a: 1}}}),
    created({key: {a: 1}, name: 'x', wildcardProjection: {a: 1}}, code(2)),
  ),
  v: all(created({key: {a: 1}, name: 'x', v: 2}, has({v: 2}), true), created({key: {a: 1}, name: 'x', v: 0}, code(67))),
  prepareUnique: created({key: {a: 1}, name: 'x', prepareUnique: true}, has({prepareUnique: true}), true),
};

let made = 0;
/** Makes a collection with these options and gives listCollections' row, or what use makes of the collection. */
const create = (options, want, use) => go(JSON.stringify(options), async (ctx) => {
  const name = `kind${++made}`;
  await ctx.db.command({create: name, ...options});
  if (use) return use(ctx.db.collection(name), ctx);
  return (await ctx.db.listCollections({name}).toArray())[0];
}, want);
const kindsOfCollections = {
  'plain-collection': all(create({}, (r) => (has({type: 'collection', options: {}, idIndex: {v: 2, key: {_id: 1}, name: '_id_'}})(r), assert.ok(r.info.uuid), assert.equal(r.info.readOnly, false))), go('made twice', async (ctx) => (await ctx.db.createCollection('twice', {}), ctx.db.createCollection('twice', {validator: {a: 1}})), code(48))),
  view: go('viewOn and a pipeline', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1, a: 1}, {_id: 2, a: 2}]);
    await ctx.db.createCollection('view', {viewOn: c.collectionName, pipeline: [{$match: {a: 2}}, {$project: {a: 0}}]});
    return [await ctx.db.collection('view').find().toArray(), await ctx.db.collection('view').insertOne({}).then(() => 0, (e) => e.code)];
  }, [[{_id: 2}], 166]),
  'capped(size,max)': all(
    create({capped: true, size: 65536, max: 3}, [3, 4, 5], async (c) => {
      for (let i = 1; i <= 5; i++) await c.insertOne({_id: i});
      return (await c.find().toArray()).map((d) => d._id);
    }),
    create({capped: true}, code(72)),
  ),
  'validator(jsonSchema,query)': all(
    create({validator: {$jsonSchema: {required: ['a']}}}, code(121), (c) => c.insertOne({b: 1})),
    create({validator: {a: {$gt: 1}}}, [1, 121], async (c) => [(await c.insertOne({a: 2}), await c.countDocuments()), await c.updateOne({}, {$set: {a: 0}}).then(() => 0, (e) => e.code)]),
  ),
  collation: create({collation: {locale: 'en', strength: 2}}, [1, 2], async (c) => {
    await c.insertMany([{_id: 1, s: 'a'}, {_id: 2, s: 'A'}]);
    return (await c.find({s: 'a'}).sort({_id: 1}).toArray()).map((d) => d._id);
  }),
  'time-series': create({timeseries: {timeField: 't', metaField: 'm'}}, [{m: 1, v: 5}], async (c) => {
    await c.insertOne({t: new Date(), m: 1, v: 5});
    return c.find({}, {projection: {_id: 0, m: 1, v: 1}}).toArray();
  }),
  clusteredIndex: create({clusteredIndex: {key: {_id: 1}, unique: true}}, (r) => assert.deepEqual(r.options.clusteredIndex, {v: 2, key: {_id: 1}, name: '_id_', unique: true})),
  expireAfterSeconds: all(create({clusteredIndex: {key: {_id: 1}, unique: true}, expireAfterSeconds: 60}, (r) => assert.equal(Number(r.options.expireAfterSeconds), 60)), create({expireAfterSeconds: 60}, code(72))),
  changeStreamPreAndPostImages: create({changeStreamPreAndPostImages: {enabled: true}}, {_id: 1, a: 1}, async (c) => {
    await c.insertOne({_id: 1, a: 1});
    const stream = c.watch([], {fullDocumentBeforeChange: 'required', fullDocument: 'required'});
    try {
      await stream.tryNext();
      await c.updateOne({}, {$set: {a: 2}});
      return (await stream.next()).fullDocumentBeforeChange;
    } finally {
      await stream.close();
    }
  }),
  storageEngine: create({storageEngine: {wiredTiger: {configString: ''}}}, has({type: 'collection'})),
  indexOptionDefaults: create({indexOptionDefaults: {storageEngine: {wiredTiger: {configString: ''}}}}, has({type: 'collection'})),
  encryptedFields: create({encryptedFields: {fields: []}}, has({type: 'collection'})),
  validationLevel: all(create({validator: {a: 1}, validationLevel: 'moderate'}, has({type: 'collection'})), create({validator: {a: 1}, validationLevel: 'off'}, 1, async (c) => (await c.insertOne({}), c.countDocuments())), create({validationLevel: 'none'}, code(2))),
  validationAction: all(create({validator: {a: 1}, validationAction: 'warn'}, 1, async (c) => (await c.insertOne({}), c.countDocuments())), create({validationAction: 'none'}, code(2))),
};

/** Comes back as it was, is found by its value and by $type, and is named so by $type. */
const bson = (name, ...values) => values.map((value) => ({
  label: text(value),
  want: text([value, 1, 1, name]),
  run: async (ctx) => {
    const c = await fresh(ctx);
    await c.insertOne({_id: 1, v: value}, {ignoreUndefined: false});
    const [d] = await c.aggregate([{$project: {t: {$type: '$v'}}}]).toArray();
    const raw = await c.findOne({}, {...exact, promoteBuffers: false, bsonRegExp: true});
    return text([raw.v, await c.countDocuments({v: name === 'regex' ? {$eq: value} : value}), await c.countDocuments({v: {$type: name === 'undefined' ? 6 : name}}), d.t]);
  },
}));
/** Types that drivers no longer write: an insert with the element's bytes by hand. */
const raw = (name, type, bytes) => go(name, async (ctx) => {
  const c = await fresh(ctx, [{_id: 0}]);
  const element = Buffer.concat([Buffer.from([type]), Buffer.from('v\0'), bytes, Buffer.from([0])]);
  const doc = Buffer.concat([BSON.serialize({_id: 1}).subarray(0, -1), element]);
  doc.writeInt32LE(doc.length, 0);
  const wire = await Raw.connect(ctx.node);
  try {
    await wire.login();
    const said = await wire.run({insert: c.collectionName, $db: ctx.db.databaseName}, {sections: [{kind: 1, name: 'documents', docs: [doc]}]});
    assert.equal(said.n, 1, show(said));
    wire.send(msg({find: c.collectionName, filter: {_id: 1}, $db: ctx.db.databaseName}));
    const back = (await wire.message()).includes(doc);
    const [d] = await c.aggregate([{$match: {_id: 1}}, {$project: {t: {$type: '$v'}}}]).toArray();
    return [d.t, back, await c.countDocuments({v: {$type: type}})];
  } finally {
    wire.close();
  }
}, [name, true, 1]);
const text4 = (s) => Buffer.concat([Buffer.from([s.length + 1, 0, 0, 0]), Buffer.from(`${s}\0`)]);
const bsonTypes = {
  double: bson('double', F(1.5), F(2), F(Infinity)),
  string: bson('string', 'Grüße 🦉', '', 'a\0b'),
  object: bson('object', {a: {b: 1}}, {}),
  array: go('[1, "a", [2]]', async (ctx) => (await fresh(ctx, [{v: [1, 'a', [2]]}])).findOne({v: {$type: 'array'}}, {projection: {_id: 0}}), {v: [1, 'a', [2]]}),
  binData: bson('binData', new Binary(Buffer.from([1, 2, 3])), new Binary(Buffer.from('x'), 128)),
  objectId: bson('objectId', new ObjectId('0123456789abcdef01234567')),
  bool: bson('bool', true, false),
  date: bson('date', day('2024-02-29'), new Date(-1)),
  null: go('null', async (ctx) => (await fresh(ctx, [{_id: 1, v: null}, {_id: 2}])).find({v: {$type: 'null'}}).toArray(), [{_id: 1, v: null}]),
  int: bson('int', new Int32(5), new Int32(-2147483648)),
  long: bson('long', L(5), L('-9223372036854775808')),
  decimal: bson('decimal', D('1.50'), D('-0'), D('1E+6144')),
  regex: bson('regex', new BSON.BSONRegExp('a.b', 'im')),
  timestamp: bson('timestamp', new Timestamp({t: 5, i: 6})),
  'UUID(subtype-4)': bson('binData', new Binary(new UUID('00112233-4455-6677-8899-aabbccddeeff').buffer, 4)),
  minKey: bson('minKey', new MinKey()),
  maxKey: bson('maxKey', new MaxKey()),
  javascript: bson('javascript', new Code('function() {}')),
  javascriptWithScope: bson('javascriptWithScope', new Code('x', {x: 1})),
  symbol: raw('symbol', 14, text4('sym')),
  undefined: raw('undefined', 6, Buffer.alloc(0)),
  dbPointer: raw('dbPointer', 12, Buffer.concat([text4('a.b'), Buffer.alloc(12, 7)])),
};

export default {
  'Index types': kinds,
  'Options of createIndexes': options,
  'Collection kinds and options of create': kindsOfCollections,
  'BSON types': bsonTypes,
};
