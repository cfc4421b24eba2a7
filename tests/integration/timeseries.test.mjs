// Time-series collections through the official driver: what is shown of them, inserts, queries by time and metadata, updates and deletes
// as far as MongoDB allows them, expiry, what is refused; and {$meta: "indexKey"}.
import assert from 'node:assert/strict';
import {after, before, describe, test} from 'node:test';
import {ObjectId} from 'mongodb';
import {Node, codeOf, until} from '../support/node.mjs';

const SERIES = {timeField: 't', metaField: 'm', granularity: 'minutes'};
const at = (minute) => new Date(Date.UTC(2024, 0, 1, 0, minute));
const values = (documents) => documents.map((d) => d.v);
const planOf = (explained) => JSON.stringify(explained.queryPlanner?.winningPlan ?? explained);

describe('one node', () => {
  let node, client, db;
  const series = (name, options = {}) => db.createCollection(name, {timeseries: SERIES, ...options});
  const valid = async (name) => {
    const result = await db.command({validate: name, full: true});
    assert.deepEqual([result.valid, result.errors], [true, []]);
  };
  before(async () => {
    node = await Node.start({set: ['storage.ttl_period=500ms']});
    client = await node.client();
    db = client.db('series');
  });
  after(async () => {
    await client?.close();
    await node?.stop();
  });

  test('options: defaults, what is listed, what is refused', async () => {
    const c = await db.createCollection('options', {timeseries: {timeField: 't', metaField: 'm'}, expireAfterSeconds: 3600});
    await db.createCollection('options', {timeseries: {timeField: 't', metaField: 'm'}, expireAfterSeconds: 3600}); // the same again
    assert.equal(await codeOf(() => db.createCollection('options', {timeseries: {timeField: 't'}})), 48);
    const [row] = await db.listCollections({name: 'options'}).toArray();
    assert.deepEqual([row.type, row.options, row.info, row.idIndex], ['timeseries', {
      timeseries: {timeField: 't', metaField: 'm', granularity: 'seconds', bucketMaxSpanSeconds: 3600}, expireAfterSeconds: 3600,
    }, {readOnly: false}, undefined]);
    assert.deepEqual(await db.listCollections({name: /buckets|views/}).toArray(), []);
    assert.deepEqual(await c.indexes(), [{v: 2, key: {m: 1, t: 1}, name: 'm_1_t_1'}]);
    assert.equal((await db.command({collStats: 'options'})).nindexes, 1);
    for (const [options, code] of [
      [{timeseries: {}}, 40414],
      [{timeseries: {timeField: 5}}, 14],
      [{timeseries: {timeField: 'a.b'}}, 72],
      [{timeseries: {timeField: 't', metaField: 't'}}, 72],
      [{timeseries: {timeField: 't', metaField: '_id'}}, 72],
      [{timeseries: {timeField: 't', metaField: 'a.b'}}, 72],
      [{timeseries: {timeField: 't', granularity: 'days'}}, 2],
      [{timeseries: {timeField: 't', other: 1}}, 40415],
      [{timeseries: {timeField: 't', bucketMaxSpanSeconds: 100}}, 72],
      [{timeseries: {timeField: 't', bucketMaxSpanSeconds: 100, bucketRoundingSeconds: 50}}, 72],
      [{timeseries: {timeField: 't', bucketMaxSpanSeconds: 0, bucketRoundingSeconds: 0}}, 51024],
      [{timeseries: {timeField: 't', granularity: 'hours', bucketMaxSpanSeconds: 100}}, 72],
      [{timeseries: {timeField: 't'}, capped: true, size: 1000}, 72],
      [{timeseries: {timeField: 't'}, validator: {a: 1}}, 72],
      [{timeseries: {timeField: 't'}, viewOn: 'x'}, 72],
      [{timeseries: {timeField: 't'}, expireAfterSeconds: -1}, 72],
      [{expireAfterSeconds: 5}, 72],
    ]) assert.equal(await codeOf(() => db.command({create: 'refused', ...options})), code, JSON.stringify(options));
    await db.createCollection('span', {timeseries: {timeField: 't', bucketMaxSpanSeconds: 300, bucketRoundingSeconds: 300}});
    assert.deepEqual(await db.collection('span').options(), {timeseries: {timeField: 't', bucketMaxSpanSeconds: 300, bucketRoundingSeconds: 300}});
    assert.deepEqual(await db.collection('span').indexes(), []);
  });

  test('collMod: granularity grows, expiry changes, the rest is refused', async () => {
    await db.createCollection('mod', {timeseries: {timeField: 't'}});
    await db.command({collMod: 'mod', timeseries: {granularity: 'minutes'}, expireAfterSeconds: 60});
    assert.deepEqual(await db.collection('mod').options(), {timeseries: {timeField: 't', granularity: 'minutes', bucketMaxSpanSeconds: 86400}, expireAfterSeconds: 60});
    await db.command({collMod: 'mod', expireAfterSeconds: 'off'});
    assert.equal((await db.collection('mod').options()).expireAfterSeconds, undefined);
    for (const [change, code] of [
      [{timeseries: {granularity: 'seconds'}}, 72],
      [{timeseries: {bucketMaxSpanSeconds: 60, bucketRoundingSeconds: 60}}, 72],
      [{timeseries: {bucketMaxSpanSeconds: 100000}}, 72],
      [{timeseries: {timeField: 'x'}}, 40415],
      [{validator: {a: 1}}, 72],
      [{expireAfterSeconds: 'never'}, 72],
      [{expireAfterSeconds: -5}, 72],
    ]) assert.equal(await codeOf(() => db.command({collMod: 'mod', ...change})), code, JSON.stringify(change));
    await db.createCollection('plain');
    assert.equal(await codeOf(() => db.command({collMod: 'plain', timeseries: {granularity: 'hours'}})), 72);
    assert.equal(await codeOf(() => db.command({collMod: 'plain', expireAfterSeconds: 5})), 72);
  });

  test('inserts: any order of time, an _id twice, times that are none', async () => {
    const c = await series('inserts');
    const id = new ObjectId();
    await c.insertMany([5, 1, 3].map((v) => ({t: at(v), m: 'a', v})));
    await c.insertOne({v: 2, _id: id, m: 'a', t: at(2)});
    await c.insertOne({v: 4, _id: id, t: at(4)});
    assert.deepEqual(values(await c.find().toArray()), [1, 2, 3, 4, 5]);
    assert.deepEqual(values(await c.find({_id: id}).sort({t: -1}).toArray()), [4, 2]);
    assert.deepEqual(Object.keys(await c.findOne({v: 2})), ['t', 'm', '_id', 'v']);
    assert.deepEqual((await c.find({}, {projection: {_id: 1}, sort: {t: 1}}).toArray()).filter((d) => id.equals(d._id)).length, 2);
    const error = await c.insertOne({m: 'a', v: 6}).catch((e) => e);
    assert.deepEqual([error.code, error.message], [2, "'t' must be present and contain a valid BSON UTC datetime value"]);
    for (const t of [null, 5, 'x', [at(1)], {}]) assert.equal(await codeOf(() => c.insertOne({t, v: 6})), 2);
    const some = [{t: at(10), v: 10}, {t: 'no'}, {t: at(11), v: 11}];
    const ordered = await c.insertMany(some.map((d) => ({...d}))).catch((e) => e);
    assert.deepEqual([ordered.insertedCount, ordered.writeErrors.length, ordered.writeErrors[0].index], [1, 1, 1]);
    const unordered = await c.insertMany(some.map((d) => ({...d})), {ordered: false}).catch((e) => e);
    assert.deepEqual([unordered.insertedCount, unordered.writeErrors.length], [2, 1]);
    const bulk = await c.bulkWrite([{insertOne: {document: {t: at(20), v: 20}}}, {deleteMany: {filter: {v: 10}}}]);
    assert.deepEqual([bulk.insertedCount, bulk.deletedCount], [1, 2]);
    const far = [-8640000000000000, -1, 0, 8640000000000000].map((ms) => new Date(ms));
    await c.insertMany(far.map((t) => ({t, v: 'far'})));
    assert.deepEqual((await c.find({v: 'far'}).sort({t: 1}).toArray()).map((d) => +d.t), far.map(Number));
    await valid('inserts');
  });

  test('queries by time and metadata: plans, order, the usual stages', async () => {
    const c = await series('queries');
    const all = Array.from({length: 600}, (_, i) => ({t: at(i), m: {sensor: i % 3, site: 's'}, v: i}));
    await c.insertMany(all.toSorted(() => Math.random() - 0.5));
    const range = {t: {$gte: at(100), $lt: at(110)}};
    assert.deepEqual(values(await c.find(range).toArray()), [100, 101, 102, 103, 104, 105, 106, 107, 108, 109]);
    assert.deepEqual(values(await c.find({t: {$gt: at(596), $lte: at(598)}}).sort({t: -1}).toArray()), [598, 597]);
    assert.deepEqual(values(await c.find({t: {$in: [at(7), at(3)]}}).toArray()), [3, 7]);
    assert.deepEqual(values(await c.find({t: at(9)}).toArray()), [9]);
    for (const filter of [{t: {$lt: 5}}, {t: null}, {t: {$gt: 'x'}}, {t: 5}]) assert.equal(await c.countDocuments(filter), 0);
    assert.equal(await c.countDocuments({t: {$ne: 5}}), 600);
    const explained = await c.find(range).sort({t: 1}).explain('executionStats');
    assert.equal(explained.executionStats.totalDocsExamined, 10, planOf(explained));
    const last = await c.find({}).sort({t: -1}).limit(1).explain('executionStats');
    assert.ok(last.executionStats.totalDocsExamined <= 2, planOf(last));
    await c.createIndex({'m.sensor': 1, t: -1});
    assert.match(planOf(await c.find({'m.sensor': 77}).sort({t: -1}).explain()), /m\.sensor_1_t_-1/);
    assert.deepEqual(values(await c.find({'m.sensor': 2, ...range}).sort({t: -1}).toArray()), [107, 104, 101]);
    assert.deepEqual(values(await c.find({m: {sensor: 1, site: 's'}, t: {$lt: at(8)}}).hint('m_1_t_1').toArray()), [1, 4, 7]);
    assert.equal(await codeOf(() => c.find({}).hint('_id_').toArray()), 2);
    assert.deepEqual((await c.distinct('m.sensor')).toSorted(), [0, 1, 2]);
    assert.equal((await c.distinct('_id')).length, 600);
    assert.equal(await c.estimatedDocumentCount(), 600);
    assert.deepEqual(await c.aggregate([
      {$match: {t: {$lt: at(120)}}},
      {$group: {_id: {h: {$dateTrunc: {date: '$t', unit: 'hour'}}, s: '$m.sensor'}, sum: {$sum: '$v'}}},
      {$sort: {_id: 1}}, {$limit: 2},
    ]).toArray(), [{_id: {h: at(0), s: 0}, sum: 570}, {_id: {h: at(0), s: 1}, sum: 590}]);
    const windows = await c.aggregate([{$setWindowFields: {partitionBy: '$m.sensor', sortBy: {t: 1}, output: {n: {$sum: '$v', window: {range: [-6, 0], unit: 'minute'}}}}}, {$match: {v: {$in: [6, 7]}}}, {$sort: {v: 1}}]).toArray();
    assert.deepEqual(windows.map((d) => d.n), [0 + 3 + 6, 1 + 4 + 7]);
    assert.equal((await c.aggregate([{$sample: {size: 3}}]).toArray()).every((d) => Object.keys(d).join() === 't,m,_id,v'), true);
    assert.equal((await c.aggregate([{$lookup: {from: 'queries', localField: 'v', foreignField: 'v', as: 'same'}}, {$match: {'same.0._id': {$type: 'objectId'}}}, {$count: 'n'}]).toArray())[0].n, 600);
    const ids = new Set((await c.find().toArray()).map((d) => String(d._id)));
    assert.ok((await c.find({'m.sensor': 1}, {projection: {_id: 1, t: 1, 'm.sensor': 1}}).toArray()).every((d) => ids.has(String(d._id))));
    assert.deepEqual(values(await c.find().batchSize(50).toArray()), all.map((d) => d.v));
    await db.createCollection('on', {viewOn: 'queries', pipeline: [{$match: {v: {$lt: 2}}}]});
    assert.deepEqual(values(await db.collection('on').find().toArray()), [0, 1]);
    await valid('queries');
  });

  test('deleteMany by anything; updateMany of metadata alone', async () => {
    const c = await series('changes');
    await c.insertMany(Array.from({length: 40}, (_, v) => ({t: at(v), m: {s: v % 4}, v})));
    const one = await c.findOne({v: 39});
    assert.equal((await c.deleteMany({_id: one._id})).deletedCount, 1);
    assert.equal((await c.deleteMany({v: {$gte: 36}})).deletedCount, 3);
    assert.equal((await c.deleteMany({t: {$lt: at(4)}, 'm.s': {$ne: 0}})).deletedCount, 3);
    assert.deepEqual((await c.updateMany({'m.s': 1}, {$set: {'m.s': 9, 'm.new': true}})).modifiedCount, 8);
    assert.equal(await c.countDocuments({'m.s': 9, 'm.new': true}), 8);
    assert.deepEqual((await c.updateMany({}, {$unset: {m: ''}})).modifiedCount, 33);
    assert.deepEqual(Object.keys(await c.findOne({v: 20})), ['t', '_id', 'v']);
    for (const [filter, update, code, message] of [
      [{v: 1}, {$set: {m: 1}}, 72, /when querying on a field that is not the metaField 'm'/],
      [{$or: [{m: 1}, {t: at(1)}]}, {$set: {m: 1}}, 72, /when querying on a field that is not the metaField/],
      [{$expr: {$eq: ['$m', 1]}}, {$set: {m: 1}}, 72, /Cannot use \$expr/],
      [{m: 1}, {$set: {v: 1}}, 72, /updates a field that is not the metaField 'm'/],
      [{m: 1}, {$rename: {m: 'v'}}, 72, /updates a field that is not the metaField 'm'/],
      [{m: 1}, [{$set: {m: 2}}], 72, /using a pipeline update/],
    ]) {
      const error = await c.updateMany(filter, update).catch((e) => e);
      assert.equal(error.code, code, JSON.stringify(filter));
      assert.match(error.message, message);
    }
    assert.equal(await codeOf(() => c.updateOne({m: 1}, {$set: {m: 2}})), 72);
    assert.equal(await codeOf(() => c.updateMany({m: 1}, {$set: {m: 2}}, {upsert: true})), 72);
    assert.equal(await codeOf(() => c.replaceOne({m: 1}, {t: at(1)})), 72);
    const single = await c.deleteOne({}).catch((e) => e.originalError ?? e); // drivers have words of their own for 20
    assert.deepEqual([single.code, single.message], [20, 'Cannot perform a non-multi delete on a time-series collection']);
    assert.equal(await codeOf(() => c.findOneAndUpdate({}, {$set: {m: 1}})), 166);
    assert.equal(await codeOf(() => db.collection('span').updateMany({}, {$set: {m: 1}})), 72); // it has no metaField
    await valid('changes');
    assert.equal((await c.deleteMany({})).deletedCount, 33);
    assert.equal(await c.countDocuments(), 0);
  });

  test('indexes, commands and transactions that are refused', async () => {
    const c = await series('refused');
    await c.insertOne({t: at(1), m: 1, v: 1});
    for (const [key, options, code] of [
      [{v: 1}, {unique: true}, 72],
      [{t: 1}, {expireAfterSeconds: 5}, 72],
      [{v: 1}, {expireAfterSeconds: 5, partialFilterExpression: {m: 1}}, 72],
      [{v: 1}, {sparse: true}, 72],
      [{_id: 1, v: 1}, {}, 67],
      [{'$**': 1}, {}, 67],
      [{t: 'hashed'}, {}, 67],
      [{v: 'hashed'}, {}, 67],
    ]) assert.equal(await codeOf(() => c.createIndex(key, options)), code, JSON.stringify([key, options]));
    for (const [key, options] of [[{t: 1}, {}], [{m: 'hashed'}, {}], [{'m.$**': 1}, {}], [{v: 1, t: -1}, {}], [{m: -1}, {sparse: true}], [{t: -1}, {expireAfterSeconds: 1e9, partialFilterExpression: {m: {$gt: 5}}}]])
      await c.createIndex(key, options);
    assert.deepEqual(values(await c.find({v: 1}).hint('v_1_t_-1').toArray()), [1]);
    assert.equal(await codeOf(() => db.renameCollection('refused', 'other')), 166);
    assert.equal(await codeOf(() => db.renameCollection('plain', 'refused', {dropTarget: true})), 166);
    assert.equal(await codeOf(() => db.command({convertToCapped: 'refused', size: 1000})), 166);
    assert.equal(await codeOf(() => db.collection('plain').aggregate([{$merge: 'refused'}]).toArray()), 166);
    const stream = c.watch();
    assert.equal(await codeOf(() => stream.tryNext()), 166);
    await stream.close().catch(() => {});
    const session = client.startSession();
    for (const [write, code] of [[() => c.insertOne({t: at(2)}, {session}), 263], [() => c.deleteMany({}, {session}), 263], [() => c.updateMany({}, {$set: {m: 1}}, {session}), 263]]) {
      session.startTransaction();
      assert.equal(await codeOf(write), code);
      await session.abortTransaction();
    }
    session.startTransaction();
    assert.equal((await c.find({}, {session}).toArray()).length, 1);
    await session.commitTransaction();
    await session.endSession();
    await valid('refused');
    assert.equal(await c.drop(), true);
    assert.deepEqual(await db.listCollections({name: 'refused'}).toArray(), []);
  });

  test('change streams of the database tell nothing of measurements', async () => {
    const plain = db.collection('streamed');
    await plain.insertOne({_id: 0});
    const stream = db.watch();
    await stream.tryNext();
    const c = await series('unseen');
    await c.insertMany([{t: at(1), m: 1}, {t: at(2), m: 1}]);
    await c.deleteMany({});
    await plain.insertOne({_id: 1});
    const event = await stream.next();
    assert.deepEqual([event.ns.coll, event.documentKey], ['streamed', {_id: 1}]);
    await stream.close();
  });

  test('$out makes one, and writes to one that is there', async () => {
    const from = db.collection('from');
    await from.insertMany([{_id: 1, t: at(2), m: 'x', v: 2}, {_id: 2, t: at(1), m: 'y', v: 1}]);
    const out = (spec) => from.aggregate([{$out: spec}]).toArray();
    await out({db: 'series', coll: 'made', timeseries: {timeField: 't', metaField: 'm'}});
    assert.deepEqual(values(await db.collection('made').find().toArray()), [1, 2]);
    await from.insertOne({_id: 3, t: at(0), v: 0});
    await out('made');
    assert.deepEqual(values(await db.collection('made').find().toArray()), [0, 1, 2]);
    assert.equal((await db.listCollections({name: 'made'}).toArray())[0].type, 'timeseries');
    assert.equal(await codeOf(() => out({db: 'series', coll: 'streamed', timeseries: {timeField: 't'}})), 7268700);
    assert.equal(await codeOf(() => out({db: 'series', coll: 'made', timeseries: {timeField: 'v'}})), 7406103);
    await from.insertOne({_id: 4});
    assert.equal(await codeOf(() => out('made')), 2);
    assert.equal(await db.collection('made').countDocuments(), 3);
    await valid('made');
  });

  test('measurements expire by their time', async () => {
    const c = await series('expiring', {expireAfterSeconds: 3600});
    const now = Date.now();
    await c.insertMany([...Array.from({length: 300}, (_, i) => ({t: new Date(now - 7200e3 - i), v: 'old'})), {t: new Date(now), v: 'new'}, {t: new Date(now + 1e9), v: 'later'}]);
    await until('the old ones are gone', async () => (await c.countDocuments({v: 'old'})) === 0);
    assert.deepEqual(values(await c.find().toArray()), ['new', 'later']);
    await valid('expiring');
  });

  test('{$meta: "indexKey"} tells the key of the index that found a document', async () => {
    const c = db.collection('keys');
    await c.insertMany([{_id: 1, a: 5, b: 'x'}, {_id: 2, a: 6, b: 'w'}]);
    await c.createIndex({a: 1, b: -1});
    const projection = {_id: 1, k: {$meta: 'indexKey'}}, hint = 'a_1_b_-1';
    assert.deepEqual(await c.find({a: {$gt: 0}}, {projection, hint}).toArray(), [{_id: 1, k: {a: 5, b: 'x'}}, {_id: 2, k: {a: 6, b: 'w'}}]);
    assert.deepEqual(await c.find({a: {$gt: 0}}, {projection, hint}).sort({b: 1}).toArray(), [{_id: 2, k: {a: 6, b: 'w'}}, {_id: 1, k: {a: 5, b: 'x'}}]);
    assert.deepEqual(await c.find({}, {projection}).toArray(), [{_id: 1}, {_id: 2}]);
    assert.deepEqual(await c.findOne({_id: 2}, {projection}), {_id: 2, k: {_id: 2}});
    assert.deepEqual(await c.aggregate([{$match: {a: 5}}, {$limit: 1}, {$project: {k: {$concat: [{$toString: '$a'}, {$getField: {field: 'b', input: {$meta: 'indexKey'}}}]}}}], {hint}).toArray(), [{_id: 1, k: '5x'}]);
    assert.deepEqual(await c.aggregate([{$match: {a: 6}}, {$set: {k: {$meta: 'indexKey'}}}, {$group: {_id: '$k', n: {$sum: 1}}}, {$set: {k: {$meta: 'indexKey'}}}], {hint}).toArray(), [{_id: {a: 6, b: 'w'}, n: 1}]);
    assert.deepEqual(await c.find({a: 5}, {returnKey: true, hint}).toArray(), [{a: 5, b: 'x'}]);
  });

  test('all of it is there after a restart', async () => {
    const c = await series('kept');
    await c.insertMany([{t: at(2), m: 1, v: 2}, {t: at(1), m: 1, v: 1}]);
    await client.close();
    await node.down();
    await node.up();
    client = await node.client();
    db = client.db('series');
    const again = db.collection('kept');
    await again.insertOne({t: at(0), m: 1, v: 0});
    assert.deepEqual(values(await again.find({m: 1}).toArray()), [0, 1, 2]);
    assert.deepEqual((await again.options()).timeseries.metaField, 'm');
    await valid('kept');
  });
});
