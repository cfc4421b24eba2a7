// tests/clients: the list (../README.md) by the Node driver from npm.
import assert from 'node:assert/strict';
import {execSync} from 'node:child_process';
import crypto from 'node:crypto';
import {Binary, BSON, BSONRegExp, BSONSymbol, Code, Decimal128, GridFSBucket, Int32, Long, MaxKey, MinKey, MongoClient, ObjectId, Timestamp} from 'mongodb';

const eq = assert.deepEqual;
const uri = process.env.VD_URI;
const client = new MongoClient(uri, {authMechanism: 'SCRAM-SHA-256'});
const db = client.db('clients_javascript');
const c = db.collection('things');
const range = (n) => Array.from({length: n}, (_, i) => i);
const fails = async (code, promise) => {
  try {
    await promise;
  } catch (e) {
    if (code) eq(e.code, code, e.message);
    return e;
  }
  throw new Error('an error was expected');
};
const filled = async (n = 10) => {
  await c.drop();
  await c.insertMany(range(n).map((i) => ({_id: i, x: i % 3, s: 'aBc'[i % 3].repeat(2), tags: [i, i + 1]})));
};
const slow = [{$match: {_id: 1}}, {$project: {a: {$range: [0, 1000000]}}}, {$unwind: '$a'}, {$group: {_id: null, n: {$sum: '$a'}}}];
const collation = {locale: 'en', strength: 2};

const list = {
  async connect() {
    await db.dropDatabase();
    eq((await db.command({buildInfo: 1})).versionArray[0], 7);
  },
  async wrong_password() {
    await fails(18, MongoClient.connect(uri, {auth: {username: 'admin', password: 'wrong'}}));
  },
  async insert() {
    await c.drop();
    eq((await c.insertOne({_id: 1})).insertedId, 1);
    eq((await c.insertMany([{}, {}, {}])).insertedCount, 3);
  },
  async find() {
    await filled();
    eq(await c.find({x: 1}).sort({_id: -1}).skip(1).limit(1).project({_id: 1}).toArray(), [{_id: 4}]);
    await c.createIndex({x: 1});
    eq((await c.find({x: 1}).hint('x_1').toArray()).length, 3);
    eq((await c.find({s: 'bb'}, {collation}).toArray()).length, 3);
    eq((await c.find().min({_id: 8}).max({_id: 9}).hint({_id: 1}).toArray())[0]._id, 8);
    await fails(2, c.find({$nothing: 1}).toArray());
  },
  async update() {
    await filled();
    const r = await c.updateOne({_id: 1}, {$set: {y: 1}, $inc: {x: 5}});
    eq([r.matchedCount, r.modifiedCount, r.upsertedId], [1, 1, null]);
    eq((await c.updateMany({x: {$lt: 3}}, {$set: {y: 2}})).modifiedCount, 9);
    eq((await c.updateOne({_id: 77}, {$setOnInsert: {n: 1}}, {upsert: true})).upsertedId, 77);
    eq((await c.updateOne({_id: 1}, [{$set: {z: {$add: ['$x', '$y']}}}])).modifiedCount, 1);
    await c.updateOne({_id: 2}, {$set: {'tags.$[t]': 0}}, {arrayFilters: [{t: {$gt: 2}}]});
    eq((await c.findOne({_id: 2})).tags, [2, 0]);
    await fails(66, c.updateOne({_id: 1}, {$set: {_id: 2}}));
  },
  async replace() {
    await filled();
    eq((await c.replaceOne({_id: 1}, {a: 1})).modifiedCount, 1);
    eq((await c.replaceOne({_id: 100}, {a: 1}, {upsert: true})).upsertedId, 100);
  },
  async delete() {
    await filled();
    eq((await c.deleteOne({x: 1})).deletedCount, 1);
    eq((await c.deleteMany({x: 1})).deletedCount, 2);
    eq((await c.deleteMany({s: 'AA'}, {collation})).deletedCount, 4);
  },
  async find_and_modify() {
    await filled();
    eq((await c.findOneAndUpdate({x: 1}, {$inc: {x: 10}}, {sort: {_id: -1}}))._id, 7);
    eq(await c.findOneAndUpdate({_id: 7}, {$inc: {x: 1}}, {returnDocument: 'after', projection: {x: 1}}), {_id: 7, x: 12});
    eq(await c.findOneAndReplace({_id: 50}, {a: 1}, {upsert: true}), null);
    eq(await c.findOneAndDelete({_id: 50}), {_id: 50, a: 1});
    eq(await c.findOneAndDelete({_id: 50}), null);
  },
  async bulk() {
    await filled();
    const r = await c.bulkWrite([{insertOne: {document: {_id: 20}}}, {updateOne: {filter: {_id: 1}, update: {$set: {b: 1}}}}, {updateMany: {filter: {x: 0}, update: {$set: {b: 2}}}},
      {replaceOne: {filter: {_id: 30}, replacement: {r: 1}, upsert: true}}, {deleteOne: {filter: {_id: 2}}}, {deleteMany: {filter: {x: 2}}}]);
    eq([r.insertedCount, r.matchedCount, r.modifiedCount, r.deletedCount, r.upsertedIds], [1, 5, 5, 3, {3: 30}]);
  },
  async bulk_errors() {
    await filled(2);
    const ops = [...[5, 1, 6, 1].map((_id) => ({insertOne: {document: {_id}}})), {updateOne: {filter: {_id: 0}, update: {$set: {k: 1}}}}];
    eq((await fails(11000, c.bulkWrite(ops))).writeErrors.map((e) => e.index), [1]);
    await c.deleteOne({_id: 5});
    const e = await fails(11000, c.bulkWrite(ops, {ordered: false}));
    eq([e.writeErrors.map((w) => w.index), e.result.modifiedCount], [[1, 3], 1]);
  },
  async cursors() {
    await filled(250);
    eq((await c.find().batchSize(7).sort({_id: 1}).toArray()).map((d) => d._id), range(250));
    const cursor = c.find().batchSize(2);
    await cursor.next();
    await cursor.close();
    eq((await c.find().limit(-5).toArray()).length, 5);
  },
  async indexes() {
    await filled();
    eq(await c.createIndexes([{key: {x: 1, s: -1}, name: 'both'}, {key: {a: 1}, unique: true, partialFilterExpression: {a: {$exists: true}}}, {key: {when: 1}, expireAfterSeconds: 3600}]), ['both', 'a_1', 'when_1']);
    eq((await c.indexes()).map((i) => i.name), ['_id_', 'both', 'a_1', 'when_1']);
    await c.insertOne({a: 1});
    await fails(11000, c.insertOne({a: 1}));
    await fails(86, c.createIndex({x: 1}, {name: 'both'}));
    await c.dropIndex('both');
    await fails(27, c.dropIndex('both'));
    await c.dropIndexes();
  },
  async aggregation() {
    await filled();
    eq(await c.aggregate([{$match: {_id: {$lt: 9}}}, {$group: {_id: '$x', n: {$sum: 1}}}, {$sort: {_id: 1}}]).toArray(), range(3).map((_id) => ({_id, n: 3})));
    await db.collection('other').drop();
    await db.collection('other').insertMany(range(3).map((_id) => ({_id, name: `${_id}`})));
    eq((await c.aggregate([{$lookup: {from: 'other', localField: 'x', foreignField: '_id', as: 'o'}}, {$unwind: '$o'}, {$match: {'o.name': '1'}}]).toArray()).length, 3);
    eq(await c.aggregate([{$facet: {a: [{$count: 'n'}]}}]).toArray(), [{a: [{n: 10}]}]);
    eq((await c.aggregate([], {batchSize: 3}).toArray()).length, 10);
    await fails(40324, c.aggregate([{$nothing: {}}]).toArray());
  },
  async out() {
    await filled();
    await c.aggregate([{$match: {x: 1}}, {$out: 'copied'}]).toArray();
    eq(await db.collection('copied').countDocuments(), 3);
    await c.aggregate([{$set: {m: 1}}, {$merge: {into: 'copied'}}]).toArray();
    eq(await db.collection('copied').countDocuments({m: 1}), 10);
  },
  async distinct_count() {
    await filled();
    eq((await c.distinct('x')).sort(), [0, 1, 2]);
    eq([await c.countDocuments({x: 1}), await c.estimatedDocumentCount(), await c.countDocuments({}, {skip: 2, limit: 3})], [3, 10, 3]);
  },
  async explain() {
    await filled();
    eq((await c.find({_id: 3}).explain('executionStats')).executionStats.nReturned, 1);
  },
  async sessions() {
    await filled();
    await client.withSession({causalConsistency: true}, async (session) => {
      await c.insertOne({_id: 99}, {session});
      eq(await c.findOne({_id: 99}, {session}), {_id: 99});
      assert.ok(session.operationTime && session.clusterTime);
    });
  },
  async transactions() {
    await filled();
    await client.withSession((session) =>
      session.withTransaction(async () => {
        await c.insertOne({_id: 50}, {session});
        await c.updateOne({_id: 1}, {$set: {t: 1}}, {session});
        eq(await c.findOne({_id: 50}), null);
      }),
    );
    eq(await c.countDocuments({$or: [{_id: 50}, {t: 1}]}), 2);
    await client.withSession((s) =>
      client.withSession(async (o) => {
        s.startTransaction();
        await c.updateOne({_id: 2}, {$set: {t: 2}}, {session: s});
        o.startTransaction();
        assert.ok((await fails(112, c.updateOne({_id: 2}, {$set: {t: 3}}, {session: o}))).hasErrorLabel('TransientTransactionError'));
        await s.abortTransaction();
      }),
    );
    eq(await c.countDocuments({t: 2}), 0);
  },
  async change_streams() {
    await filled();
    const w = c.watch([], {fullDocument: 'updateLookup'});
    await w.tryNext();
    await c.insertOne({_id: 40});
    await c.updateOne({_id: 40}, {$set: {a: 1}});
    await c.deleteOne({_id: 40});
    const first = await w.next();
    eq([first.operationType, first.fullDocument], ['insert', {_id: 40}]);
    const again = db.watch([], {resumeAfter: first._id});
    eq([(await again.next()).operationType, (await again.next()).operationType], ['update', 'delete']);
    const whole = client.watch([], {startAtOperationTime: first.clusterTime});
    eq((await whole.next()).ns.coll, 'things');
    for (const s of [w, again, whole]) await s.close();
    const open = (await client.db('admin').aggregate([{$currentOp: {idleCursors: true, allUsers: true}}, {$match: {type: 'idleCursor'}}]).toArray()).filter((o) => /\$cmd\.aggregate/.test(o.ns));
    eq(open, [], 'streams stay open');
  },
  async gridfs() {
    const bucket = new GridFSBucket(db);
    const data = crypto.randomBytes(1000000);
    const up = bucket.openUploadStream('file', {metadata: {a: 1}});
    await new Promise((done, fail) => up.on('finish', done).on('error', fail).end(data));
    const parts = [];
    for await (const part of bucket.openDownloadStream(up.id)) parts.push(part);
    assert.ok(Buffer.concat(parts).equals(data));
    await bucket.delete(up.id);
  },
  async types() {
    const t = db.collection('types');
    await t.drop();
    const values = {_id: 1, double: 1.5, string: 'zß水🍌\0x', object: {a: {b: []}}, array: [1, 'a', null], id: new ObjectId(), yes: true, null: null, int: new Int32(7), long: Long.fromString('4611686018427387904'),
      decimal: Decimal128.fromString('-1.50E+6000'), dnan: Decimal128.fromString('NaN'), old: new Date(-2175000000123), ts: new Timestamp({t: 4294967295, i: 7}), min: new MinKey(), max: new MaxKey(),
      re: new BSONRegExp('a.*b/', 'imx'), code: new Code('f()'), scoped: new Code('f()', {x: 1}), symbol: new BSONSymbol('s')};
    for (const sub of [0, 1, 3, 4, 5, 128, 255]) values[`bin${sub}`] = new Binary(Buffer.from('0123456789abcdef'), sub);
    await t.insertOne(values);
    const [got] = await t.find({}, {raw: true}).toArray();
    assert.ok(Buffer.from(BSON.serialize(values)).equals(Buffer.from(got)));
    eq(await t.countDocuments({old: {$lt: new Date(0)}, symbol: {$type: 'symbol'}}), 1);
  },
  async large() {
    const t = db.collection('large');
    await t.drop();
    await t.insertOne({_id: 1, b: Buffer.alloc(15 << 20)});
    eq((await t.findOne()).b.length(), 15 << 20);
    await t.insertMany(range(6).map(() => ({b: Buffer.alloc(9 << 20)})));
    eq((await t.find({_id: {$ne: 1}}).toArray()).reduce((n, d) => n + d.b.length(), 0), 54 << 20);
  },
  async too_large() {
    await fails(0, db.collection('large').insertOne({b: Buffer.alloc((16 << 20) + 100)}));
    await fails(17419, db.collection('large').updateOne({_id: 1}, {$set: {c: Buffer.alloc(2 << 20)}}));
  },
  async duplicate_key() {
    await filled();
    const e = await fails(11000, c.insertOne({_id: 1}));
    eq([e.keyPattern, e.keyValue], [{_id: 1}, {_id: 1}]);
  },
  async lists() {
    await filled();
    assert.ok((await client.db().admin().listDatabases()).databases.some((d) => d.name === db.databaseName));
    await db.createCollection('view', {viewOn: 'things', pipeline: [{$match: {x: 1}}]});
    eq((await db.listCollections({name: 'view'}).toArray())[0].type, 'view');
    await fails(48, db.createCollection('things', {capped: true, size: 4096}));
  },
  async retry() {
    await filled();
    execSync(process.env.VD_KILL);
    for (const i of range(20)) await c.insertOne({_id: 100 + i});
    eq(await c.countDocuments({_id: {$gte: 100}}), 20);
  },
  async unacknowledged() {
    await filled();
    const writeConcern = {w: 0};
    eq((await c.insertOne({_id: 300}, {writeConcern})).acknowledged, false);
    await c.insertOne({_id: 1}, {writeConcern});
    for (let i = 0; i < 500 && !(await c.countDocuments({_id: 300})); i++);
    eq(await c.countDocuments({_id: 300}), 1);
  },
  async read_preference() {
    await filled();
    eq(await db.collection('things', {readPreference: {mode: 'secondaryPreferred', tags: [{dc: 'x'}, {}]}}).countDocuments(), 10);
    await fails(0, MongoClient.connect(uri, {readPreference: 'secondary', serverSelectionTimeoutMS: 300}));
  },
  async max_time() {
    await filled();
    await fails(50, c.aggregate(slow, {maxTimeMS: 1}).toArray());
  },
  async compression() {
    const z = await MongoClient.connect(uri, {compressors: ['zlib']});
    const t = z.db(db.databaseName).collection('squeezed');
    await t.insertMany(range(100).map(() => ({s: 'ab'.repeat(5000)})));
    eq((await t.find().toArray()).length, 100);
    await z.close();
  },
  async x509() {
    const x = await MongoClient.connect(process.env.VD_X509_URI);
    eq((await x.db('admin').command({connectionStatus: 1})).authInfo.authenticatedUsers[0].db, '$external');
    await x.close();
  },
};

let failed = 0;
console.log(`1..${Object.keys(list).length}`);
for (const [i, [name, body]] of Object.entries(list).entries())
  try {
    await body();
    console.log(`ok ${i + 1} - ${name}`);
  } catch (e) {
    failed++;
    console.log(`not ok ${i + 1} - ${name}\n# ${e.stack.replaceAll('\n', '\n# ')}`);
  }
await client.close();
process.exit(failed ? 1 : 0);
