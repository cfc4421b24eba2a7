// What applications do, through the official Node driver: every call of CRUD, cursors, collections, types, limits, sessions, concerns.
import assert from 'node:assert/strict';
import {after, before, beforeEach, describe, test} from 'node:test';
import {BSON, Binary, BSONRegExp, Code, Decimal128, Double, Int32, Long, MaxKey, MinKey, ObjectId, Timestamp, UUID} from 'mongodb';
import {Node, codeOf, sleep, until} from '../support/node.mjs';
import {FLAG, Raw, msg} from '../support/wire.mjs';

const {EJSON, deserialize, serialize} = BSON;

let node, client, db, c, turn = 0;
before(async () => {
  node = await Node.start({set: ['test.faults=true']});
  client = await node.client();
});
after(async () => {
  await client?.close();
  await node?.stop();
});
beforeEach(() => {
  db = client.db('crud');
  c = db.collection(`t${++turn}`);
});

const numbers = (n, more = () => ({})) => [...Array(n).keys()].map((i) => ({_id: i, ...more(i)}));
const failed = async (promise) => await promise.then(() => assert.fail('no error'), (e) => e);

describe('insert', () => {
  test('insertOne: acknowledged, the driver makes the _id; a caller may bring any _id', async () => {
    const r = await c.insertOne({a: 1});
    assert.equal(r.acknowledged, true);
    assert.ok(r.insertedId instanceof ObjectId);
    for (const id of ['text', 7, 7.5, Long.fromString('9223372036854775807'), new Date(5), true, {a: {b: 1}}, new UUID(), Decimal128.fromString('1.10'), new Binary(Buffer.from('x')), MinKey, MaxKey]) {
      const _id = id === MinKey ? new MinKey() : id === MaxKey ? new MaxKey() : id;
      await c.insertOne({_id, v: 1});
      assert.equal(await c.countDocuments({_id}), 1, EJSON.stringify({_id}));
    }
  });

  test('the server makes an _id when a client sends none, and puts _id first', async () => {
    await db.command({insert: c.collectionName, documents: [{b: 2}, {b: 1, _id: 5}]});
    const docs = await c.find({}, {sort: {b: 1}}).toArray();
    assert.deepEqual(docs[0], {_id: 5, b: 1});
    assert.deepEqual(Object.keys(docs[0]), ['_id', 'b']);
    assert.ok(docs[1]._id instanceof ObjectId);
  });

  test('_id of a forbidden type is refused', async () => {
    for (const _id of [[1], /x/, {$a: 1}]) assert.ok([2, 53, 52].includes(await codeOf(() => c.insertOne({_id}))), EJSON.stringify({_id}));
    const e = await failed(db.command({insert: c.collectionName, documents: [{_id: [1]}]}).then((r) => Promise.reject(r.writeErrors[0])));
    assert.equal(e.code, 2);
    assert.match(e.errmsg, /can't use an array for _id|_id.*array/);
  });

  test('duplicate: 11000 with keyPattern and keyValue', async () => {
    await c.insertOne({_id: 1});
    const e = await failed(c.insertOne({_id: 1}));
    assert.equal(e.code, 11000);
    assert.match(e.message, /E11000 duplicate key error collection: crud\.t\d+ index: _id_ dup key: \{ _id: 1 \}/);
    assert.deepEqual(e.keyPattern ?? e.errorResponse?.keyPattern, {_id: 1});
    assert.deepEqual(e.keyValue ?? e.errorResponse?.keyValue, {_id: 1});
  });

  test('numbers of different types are one _id', async () => {
    await c.insertOne({_id: 1});
    for (const _id of [new Double(1), Long.fromNumber(1), Decimal128.fromString('1.0')]) assert.equal(await codeOf(() => c.insertOne({_id})), 11000);
  });

  test('insertMany ordered stops at the first error, unordered goes on', async () => {
    const docs = [{_id: 1}, {_id: 2}, {_id: 1, x: 1}, {_id: 3}, {_id: 2, x: 1}, {_id: 4}];
    let e = await failed(c.insertMany(docs));
    assert.equal(e.code, 11000);
    assert.equal(e.result.insertedCount, 2);
    assert.deepEqual(e.writeErrors.map((w) => w.index), [2]);
    await c.deleteMany({});
    e = await failed(c.insertMany(docs, {ordered: false}));
    assert.equal(e.result.insertedCount, 4);
    assert.deepEqual(e.writeErrors.map((w) => [w.index, w.code]), [[2, 11000], [4, 11000]]);
    assert.deepEqual(e.writeErrors[1].err.op?._id, 2);
    assert.deepEqual((await c.find().toArray()).map((d) => d._id), [1, 2, 3, 4]);
  });

  test('20,000 documents in one call', async () => {
    const r = await c.insertMany(numbers(20000, (i) => ({s: `s${i}`})));
    assert.equal(r.insertedCount, 20000);
    assert.equal(await c.countDocuments(), 20000);
    assert.equal(await c.estimatedDocumentCount(), 20000);
  });

  test('insert into bad names is refused with 73', async () => {
    for (const [name, cmd] of [['crud', {insert: '', documents: [{a: 1}]}], ['crud', {insert: 'a..b$', documents: [{a: 1}]}], ['crud', {insert: 'system.wrong', documents: [{a: 1}]}], ['crud', {insert: 'x'.repeat(300), documents: [{a: 1}]}]])
      assert.ok([73, 13, 2, 67].includes(await codeOf(() => client.db(name).command(cmd))), JSON.stringify(cmd).slice(0, 60));
    assert.equal(await codeOf(() => db.command({insert: 'x', documents: []})), 16, 'an empty batch');
    assert.ok([40414, 9].includes(await codeOf(() => db.command({insert: 'x'}))));
    assert.equal(await codeOf(() => db.command({insert: 'x', documents: [{a: 1}], nonsense: 1})), 40415);
  });
});

describe('find and cursors', () => {
  const set = async (n = 500) => {
    await c.insertMany(numbers(n, (i) => ({g: i % 7, s: `name-${String(n - i).padStart(5, '0')}`})));
  };

  test('the first batch holds 101 documents, later ones come on demand', async () => {
    await set(1000);
    const first = await db.command({find: c.collectionName});
    assert.equal(first.cursor.firstBatch.length, 101);
    assert.equal(first.cursor.ns, `crud.${c.collectionName}`);
    const id = first.cursor.id;
    assert.ok(!Long.fromValue(id).isZero());
    const more = await db.command({getMore: Long.fromValue(id), collection: c.collectionName, batchSize: 50});
    assert.deepEqual(more.cursor.nextBatch.map((d) => d._id), numbers(50).map((d) => d._id + 101));
    const killed = await db.command({killCursors: c.collectionName, cursors: [Long.fromValue(id), Long.fromNumber(77)]});
    assert.deepEqual(killed.cursorsKilled.map(String), [String(id)]);
    assert.deepEqual(killed.cursorsNotFound.map(String), ['77']);
    assert.equal(await codeOf(() => db.command({getMore: Long.fromValue(id), collection: c.collectionName})), 43);
    assert.deepEqual((await c.find().toArray()).map((d) => d._id), numbers(1000).map((d) => d._id));
  });

  test('cursors of no collection are killed by the name that the reply gave', async () => {
    await set(3);
    const opened = {'$cmd.aggregate': {aggregate: 1, pipeline: [{$documents: [{a: 1}, {a: 2}]}], cursor: {batchSize: 1}}, '$cmd.listCollections': {listCollections: 1, cursor: {batchSize: 0}}};
    for (const [name, command] of Object.entries(opened)) {
      const {cursor} = await db.command(command);
      assert.equal(cursor.ns, `crud.${name}`);
      const killed = await db.command({killCursors: name, cursors: [Long.fromValue(cursor.id)]});
      assert.deepEqual(killed.cursorsKilled.map(String), [String(cursor.id)]);
    }
    assert.equal(await codeOf(() => db.command({killCursors: '$other', cursors: []})), 73);
  });

  test('$out and $merge read at no linearizable point', async () => {
    for (const stage of [{$out: 'written'}, {$merge: 'written'}])
      assert.equal(await codeOf(() => c.aggregate([stage], {readConcern: {level: 'linearizable'}}).toArray()), 72);
  });

  test('one document that unwinds to a million stops at maxTimeMS', async () => {
    await set(1);
    const long = [{$project: {a: {$range: [0, 3000000]}}}, {$unwind: '$a'}, {$group: {_id: null, n: {$sum: '$a'}}}];
    assert.equal(await codeOf(() => c.aggregate(long, {maxTimeMS: 1}).toArray()), 50);
  });

  test('batchSize, limit, skip, singleBatch, negative limit', async () => {
    await set();
    assert.equal((await c.find().batchSize(1).limit(7).toArray()).length, 7);
    assert.deepEqual((await c.find().skip(490).toArray()).map((d) => d._id), [490, 491, 492, 493, 494, 495, 496, 497, 498, 499]);
    assert.deepEqual((await c.find().skip(3).limit(2).toArray()).map((d) => d._id), [3, 4]);
    assert.equal((await c.find().skip(1000).toArray()).length, 0);
    assert.equal((await c.find().limit(-5).toArray()).length, 5);
    const r = await db.command({find: c.collectionName, batchSize: 0});
    assert.equal(r.cursor.firstBatch.length, 0);
    assert.ok(!Long.fromValue(r.cursor.id).isZero());
    await db.command({killCursors: c.collectionName, cursors: [Long.fromValue(r.cursor.id)]});
    const s = await db.command({find: c.collectionName, batchSize: 5, singleBatch: true});
    assert.equal(s.cursor.firstBatch.length, 5);
    assert.ok(Long.fromValue(s.cursor.id).isZero());
    for (const bad of [{limit: -1}, {skip: -1}, {batchSize: -1}, {limit: 'x'}, {filter: 1}, {sort: 1}, {nonsense: 1}])
      assert.ok([2, 9, 14, 40415, 51024].includes(await codeOf(() => db.command({find: c.collectionName, ...bad}))), JSON.stringify(bad));
  });

  test('sort, also with skip and limit and over several keys; stable with _id', async () => {
    await set();
    assert.deepEqual((await c.find().sort({_id: -1}).limit(3).toArray()).map((d) => d._id), [499, 498, 497]);
    assert.deepEqual((await c.find().sort({s: 1}).limit(2).toArray()).map((d) => d._id), [499, 498]);
    const got = (await c.find().sort({g: -1, s: 1}).skip(2).limit(4).toArray()).map((d) => [d.g, d._id]);
    const want = numbers(500).map((d) => [d._id % 7, d._id]).sort((a, b) => b[0] - a[0] || b[1] - a[1]).slice(2, 6);
    assert.deepEqual(got, want);
    const all = (await c.find().sort({s: 1}).batchSize(17).toArray()).map((d) => d._id);
    assert.deepEqual(all, numbers(500).map((d) => 499 - d._id));
  });

  test('large documents: batches stop at 16 MB and nothing is lost', async () => {
    const pad = 'p'.repeat(1 << 20);
    for (let i = 0; i < 40; i++) await c.insertOne({_id: i, pad});
    const r = await db.command({find: c.collectionName});
    assert.ok(r.cursor.firstBatch.length >= 10 && r.cursor.firstBatch.length <= 16, `${r.cursor.firstBatch.length} documents in the first batch`);
    await db.command({killCursors: c.collectionName, cursors: [Long.fromValue(r.cursor.id)]});
    let n = 0;
    for await (const d of c.find().batchSize(1000)) {
      assert.equal(d._id, n++);
      assert.equal(d.pad.length, pad.length);
    }
    assert.equal(n, 40);
    await c.drop();
  });

  test('a cursor goes on while others write; it never shows a document twice', async () => {
    await set(2000);
    const cursor = c.find({}, {batchSize: 100});
    const seen = new Set();
    let i = 0;
    for await (const d of cursor) {
      assert.ok(!seen.has(d._id), 'twice');
      seen.add(d._id);
      if (++i % 200 === 0) {
        await c.insertOne({_id: 100000 + i});
        await c.deleteOne({_id: 1999 - i / 200});
        await c.updateMany({g: 3}, {$set: {pad: 'x'.repeat(300)}});
      }
    }
    assert.ok(seen.size >= 1980);
    for (let k = 0; k < 1900; k++) assert.ok(seen.has(k));
  });

  test('a cursor on a dropped collection ends with an error or nothing, never with others documents', async () => {
    await set(1000);
    const cursor = c.find({}, {batchSize: 10});
    await cursor.next();
    await c.drop();
    const code = await cursor.toArray().then((docs) => docs.length, (e) => e.code);
    assert.ok([175, 43, 26].includes(code) || code < 1000, `got ${code}`);
  });

  test('getMore by another user or on another collection is refused', async () => {
    await set();
    const r = await db.command({find: c.collectionName, batchSize: 2});
    const id = Long.fromValue(r.cursor.id);
    assert.equal(await codeOf(() => db.command({getMore: id, collection: 'another'})), 13);
    await client.db('admin').command({createUser: 'peeper', pwd: 'peeper', roles: [{role: 'read', db: 'crud'}]});
    const other = await node.client({uri: node.uri.replace(/admin:[^@]*@/, 'peeper:peeper@')});
    assert.equal(await codeOf(() => other.db('crud').command({getMore: id, collection: c.collectionName})), 13);
    await other.close();
    assert.equal((await db.command({getMore: id, collection: c.collectionName})).cursor.nextBatch.length > 0, true);
  });

  test('projections', async () => {
    await c.insertOne({_id: 1, a: 1, b: {c: 2, d: 3}, e: [{f: 1, g: 2}, {f: 3, g: 4}]});
    for (const [projection, want] of [
      [{a: 1}, {_id: 1, a: 1}],
      [{a: 1, _id: 0}, {a: 1}],
      [{a: 0, e: 0}, {_id: 1, b: {c: 2, d: 3}}],
      [{'b.c': 1}, {_id: 1, b: {c: 2}}],
      [{'e.f': 1, _id: 0}, {e: [{f: 1}, {f: 3}]}],
      [{e: {$slice: 1}, _id: 0, b: 0}, {a: 1, e: [{f: 1, g: 2}]}],
      [{e: {$elemMatch: {f: 3}}}, {_id: 1, e: [{f: 3, g: 4}]}],
      [{s: {$add: ['$a', '$b.c']}, _id: 0}, {s: 3}],
    ])
      assert.deepEqual(await c.findOne({}, {projection}), want, JSON.stringify(projection));
    assert.deepEqual(await c.findOne({'e.f': 3}, {projection: {'e.$': 1, _id: 0}}), {e: [{f: 3, g: 4}]});
    assert.equal(await codeOf(() => c.findOne({}, {projection: {a: 1, b: 0}})), 31254);
  });

  test('findOne of nothing is null; find on no collection is empty', async () => {
    assert.equal(await c.findOne({a: 1}), null);
    assert.deepEqual(await db.collection('never made').find().toArray(), []);
  });

  test('hint: _id works, another index is refused', async () => {
    await set(10);
    assert.equal((await c.find().hint({_id: 1}).toArray()).length, 10);
    assert.equal((await c.find().hint('_id_').toArray()).length, 10);
    assert.equal((await c.find().hint({$natural: 1}).toArray()).length, 10);
    assert.deepEqual((await c.find().hint({$natural: -1}).limit(2).toArray()).map((d) => d._id), [9, 8]);
    assert.equal(await codeOf(() => c.find().hint({s: 1}).toArray()), 2);
  });

  test('tailable and other unbuilt options are refused, not ignored', async () => {
    await set(3);
    for (const options of [{tailable: true}, {min: {_id: 1}}, {max: {_id: 1}}]) {
      const r = await db.command({find: c.collectionName, ...options}).then((x) => x, (e) => e.code);
      assert.equal(typeof r, 'number', `${JSON.stringify(options)} was taken`);
    }
  });

  test('showRecordId adds what the record is known by, whatever is projected or sorted', async () => {
    await set(3);
    const of = async (options) => (await db.command({find: c.collectionName, showRecordId: true, ...options})).cursor.firstBatch;
    const plain = await of({}), sorted = await of({sort: {n: -1}, projection: {_id: 1}});
    assert.equal(new Set(plain.map((d) => d.$recordId.toString('hex'))).size, 3);
    assert.deepEqual(sorted.map((d) => [d._id, d.$recordId.toString('hex')]).sort(), plain.map((d) => [d._id, d.$recordId.toString('hex')]).sort());
    assert.deepEqual(Object.keys((await of({filter: {_id: plain[0]._id}, projection: {_id: 1}}))[0]), ['_id', '$recordId']);
  });

  test('$$USER_ROLES tells what the user has, also in a view and behind getMore', async () => {
    await set(3);
    const root = {_id: 'admin.root', role: 'root', db: 'admin'};
    assert.deepEqual(await c.find({}, {projection: {_id: 0, r: '$$USER_ROLES'}, batchSize: 1}).toArray(), [{r: [root]}, {r: [root]}, {r: [root]}]);
    await db.createCollection('mine', {viewOn: c.collectionName, pipeline: [{$match: {$expr: {$in: ['root', '$$USER_ROLES.role']}}}]});
    assert.equal((await db.collection('mine').find().toArray()).length, 3);
    await c.updateMany({}, [{$set: {by: '$$USER_ROLES.db'}}]);
    assert.deepEqual((await c.findOne()).by, ['admin']);
    await db.dropCollection('mine');
  });

  test('count, countDocuments, estimatedDocumentCount, distinct', async () => {
    await set();
    assert.equal(await c.countDocuments({g: 3}), numbers(500).filter((d) => d._id % 7 === 3).length);
    assert.equal(await c.countDocuments({}, {skip: 490}), 10);
    assert.equal(await c.countDocuments({}, {limit: 7}), 7);
    assert.equal((await db.command({count: c.collectionName, query: {_id: {$gte: 450}}, skip: 10, limit: 20})).n, 20);
    assert.equal((await db.command({count: 'no such'})).n, 0);
    assert.deepEqual(await c.distinct('g'), [0, 1, 2, 3, 4, 5, 6]);
    assert.deepEqual(await c.distinct('g', {_id: {$lt: 3}}), [0, 1, 2]);
    await c.insertOne({_id: 'arr', t: [1, 2, [3, 4], 2], n: [{x: 'a'}, {x: 'b'}]});
    assert.deepEqual(await c.distinct('t'), [1, 2, [3, 4]]);
    assert.deepEqual(await c.distinct('n.x'), ['a', 'b']);
    assert.deepEqual(await c.distinct('not.there'), []);
  });
});

describe('update, replace, delete', () => {
  test('updateOne, updateMany: counts', async () => {
    await c.insertMany(numbers(10, (i) => ({g: i % 2})));
    let r = await c.updateOne({g: 1}, {$set: {x: 1}});
    assert.deepEqual([r.matchedCount, r.modifiedCount, r.upsertedCount], [1, 1, 0]);
    r = await c.updateMany({g: 1}, {$set: {x: 1}});
    assert.deepEqual([r.matchedCount, r.modifiedCount], [5, 4]);
    r = await c.updateMany({g: 9}, {$set: {x: 1}});
    assert.deepEqual([r.matchedCount, r.modifiedCount], [0, 0]);
    r = await c.updateMany({}, {$inc: {n: 1}});
    assert.deepEqual([r.matchedCount, r.modifiedCount], [10, 10]);
  });

  test('updateMany with a growing value meets each document once', async () => {
    await c.insertMany(numbers(3000, () => ({n: 0})));
    const r = await c.updateMany({}, {$inc: {n: 1}, $set: {pad: 'y'.repeat(500)}});
    assert.equal(r.modifiedCount, 3000);
    assert.equal(await c.countDocuments({n: 1}), 3000);
  });

  test('upserts take equalities from the filter and $setOnInsert', async () => {
    let r = await c.updateOne({_id: 5, a: 1, b: {$gt: 3}, 'd.e': 2}, {$set: {z: 1}, $setOnInsert: {s: 1}}, {upsert: true});
    assert.deepEqual([r.matchedCount, r.upsertedCount, r.upsertedId], [0, 1, 5]);
    assert.deepEqual(await c.findOne({_id: 5}), {_id: 5, a: 1, d: {e: 2}, z: 1, s: 1});
    r = await c.updateOne({_id: 5}, {$setOnInsert: {s: 2}}, {upsert: true});
    assert.deepEqual([r.matchedCount, r.modifiedCount, r.upsertedCount], [1, 0, 0]);
    r = await c.updateOne({a: 77}, {$inc: {n: 2}}, {upsert: true});
    assert.ok(r.upsertedId instanceof ObjectId);
    r = await c.replaceOne({_id: 6}, {r: 1}, {upsert: true});
    assert.equal(r.upsertedId, 6);
    assert.deepEqual(await c.findOne({_id: 6}), {_id: 6, r: 1});
  });

  test('upserts from many clients at once leave one document', async () => {
    await Promise.all([...Array(20).keys()].map(() => c.updateOne({_id: 'one'}, {$inc: {n: 1}}, {upsert: true})));
    assert.deepEqual(await c.find().toArray(), [{_id: 'one', n: 20}]);
  });

  test('many clients increment one document: nothing is lost', async () => {
    await c.insertOne({_id: 1, n: 0});
    await Promise.all([...Array(16).keys()].map(async () => {
      for (let i = 0; i < 25; i++) await c.updateOne({_id: 1}, {$inc: {n: 1}});
    }));
    assert.equal((await c.findOne({_id: 1})).n, 400);
  });

  test('replaceOne keeps _id, refuses operators and another _id', async () => {
    await c.insertOne({_id: 1, a: 1});
    const r = await c.replaceOne({_id: 1}, {b: 2});
    assert.equal(r.modifiedCount, 1);
    assert.deepEqual(await c.findOne(), {_id: 1, b: 2});
    assert.equal(await codeOf(() => c.replaceOne({_id: 1}, {_id: 2, b: 2})), 66);
    assert.equal(await codeOf(() => c.updateOne({_id: 1}, {$set: {_id: 2}})), 66);
    assert.equal(await codeOf(() => db.command({update: c.collectionName, updates: [{q: {}, u: {a: 1, $set: {b: 1}}}]}).then((x) => Promise.reject(x.writeErrors[0]))), 52);
    assert.equal(await codeOf(() => db.command({update: c.collectionName, updates: [{q: {}, u: {a: 1}, multi: true}]}).then((x) => Promise.reject(x.writeErrors[0]))), 9);
  });

  test('arrayFilters, positional, pipeline updates', async () => {
    await c.insertOne({_id: 1, a: [{k: 1, n: 1}, {k: 2, n: 2}, {k: 3, n: 3}], t: [5, 8, 5]});
    await c.updateOne({_id: 1}, {$inc: {'a.$[big].n': 10}}, {arrayFilters: [{'big.k': {$gte: 2}}]});
    assert.deepEqual((await c.findOne()).a.map((x) => x.n), [1, 12, 13]);
    await c.updateOne({'a.k': 2}, {$set: {'a.$.n': 0}});
    assert.deepEqual((await c.findOne()).a.map((x) => x.n), [1, 0, 13]);
    await c.updateOne({}, {$mul: {'t.$[]': 2}});
    assert.deepEqual((await c.findOne()).t, [10, 16, 10]);
    await c.updateOne({}, [{$set: {sum: {$sum: '$t'}, first: {$arrayElemAt: ['$t', 0]}}}, {$unset: 'a'}]);
    assert.deepEqual(await c.findOne(), {_id: 1, t: [10, 16, 10], sum: 36, first: 10});
    assert.equal(await codeOf(() => c.updateOne({}, {$set: {'t.$[x]': 1}})), 2);
    assert.equal(await codeOf(() => c.updateOne({}, {$set: {t: 1, 't.0': 2}})), 40);
    assert.equal(await codeOf(() => c.updateOne({}, {$push: {sum: 2}})), 2);
    assert.equal(await codeOf(() => c.updateOne({}, {$inc: {sum: 'x'}})), 14);
    assert.equal(await codeOf(() => c.updateOne({}, {$wrong: {sum: 1}})), 9);
  });

  test('a failing update of many changes the ones before it only, and says so', async () => {
    await c.insertMany([{_id: 1, n: 1}, {_id: 2, n: 'x'}, {_id: 3, n: 1}]);
    assert.equal(await codeOf(() => c.updateMany({}, {$inc: {n: 1}})), 14);
    assert.equal((await c.findOne({_id: 2})).n, 'x');
    assert.equal((await c.findOne({_id: 3})).n, 1);
  });

  test('deleteOne, deleteMany, limits', async () => {
    await c.insertMany(numbers(100, (i) => ({g: i % 2})));
    assert.equal((await c.deleteOne({g: 1})).deletedCount, 1);
    assert.equal((await c.deleteMany({g: 1})).deletedCount, 49);
    assert.equal((await c.deleteMany({g: 1})).deletedCount, 0);
    assert.equal((await c.deleteMany({})).deletedCount, 50);
    assert.equal(await c.estimatedDocumentCount(), 0);
    assert.equal(await codeOf(() => db.command({delete: c.collectionName, deletes: [{q: {}, limit: 2}]})), 9);
  });

  test('findOneAndUpdate, Replace, Delete with sort, projection, upsert, before and after', async () => {
    await c.insertMany(numbers(5, (i) => ({n: i})));
    assert.deepEqual(await c.findOneAndUpdate({_id: 1}, {$inc: {n: 10}}), {_id: 1, n: 1});
    assert.deepEqual(await c.findOneAndUpdate({_id: 1}, {$inc: {n: 10}}, {returnDocument: 'after'}), {_id: 1, n: 21});
    assert.deepEqual(await c.findOneAndUpdate({}, {$set: {top: 1}}, {sort: {n: -1}, projection: {_id: 1}}), {_id: 1});
    assert.deepEqual(await c.findOneAndReplace({_id: 2}, {r: 1}, {returnDocument: 'after'}), {_id: 2, r: 1});
    assert.deepEqual(await c.findOneAndDelete({}, {sort: {_id: -1}}), {_id: 4, n: 4});
    assert.equal(await c.findOneAndDelete({_id: 4}), null);
    assert.deepEqual(await c.findOneAndUpdate({_id: 9}, {$set: {u: 1}}, {upsert: true, returnDocument: 'after'}), {_id: 9, u: 1});
    const r = await c.findOneAndUpdate({_id: 10}, {$set: {u: 1}}, {upsert: true, includeResultMetadata: true});
    assert.deepEqual([r.value, r.lastErrorObject], [null, {n: 1, updatedExisting: false, upserted: 10}]);
    const m = await c.findOneAndUpdate({_id: 10}, {$set: {u: 2}}, {includeResultMetadata: true});
    assert.deepEqual(m.lastErrorObject, {n: 1, updatedExisting: true});
    assert.equal(await codeOf(() => db.command({findAndModify: c.collectionName, query: {}, update: {$set: {a: 1}}, remove: true})), 9);
    assert.deepEqual(await c.findOneAndUpdate({_id: 10}, [{$set: {u: {$add: ['$u', 1]}}}], {returnDocument: 'after'}), {_id: 10, u: 3});
  });

  test('a queue: findOneAndDelete by many gives each document to one', async () => {
    await c.insertMany(numbers(200));
    const taken = (await Promise.all([...Array(10).keys()].map(async () => {
      const mine = [];
      for (let d; (d = await c.findOneAndDelete({}, {sort: {_id: 1}})); ) mine.push(d._id);
      return mine;
    }))).flat();
    assert.equal(taken.length, 200);
    assert.equal(new Set(taken).size, 200);
  });

  test('bulkWrite mixed, ordered and not', async () => {
    const r = await c.bulkWrite([
      {insertOne: {document: {_id: 1, a: 1}}},
      {insertOne: {document: {_id: 2, a: 1}}},
      {updateMany: {filter: {a: 1}, update: {$inc: {a: 1}}}},
      {updateOne: {filter: {_id: 7}, update: {$set: {a: 7}}, upsert: true}},
      {replaceOne: {filter: {_id: 2}, replacement: {b: 1}}},
      {deleteOne: {filter: {_id: 1}}},
      {deleteMany: {filter: {none: 1}}},
    ]);
    assert.deepEqual([r.insertedCount, r.matchedCount, r.modifiedCount, r.upsertedCount, r.deletedCount], [2, 3, 3, 1, 1]);
    assert.deepEqual(await c.find().toArray(), [{_id: 2, b: 1}, {_id: 7, a: 7}]);
    const e = await failed(c.bulkWrite([{insertOne: {document: {_id: 2}}}, {deleteMany: {filter: {}}}], {ordered: false}));
    assert.equal(e.writeErrors.length, 1);
    assert.equal(e.result.deletedCount, 2);
  });

  test('variables of let in filters and updates', async () => {
    await c.insertMany(numbers(5));
    assert.equal((await db.command({find: c.collectionName, filter: {$expr: {$gte: ['$_id', '$$min']}}, let: {min: 3}})).cursor.firstBatch.length, 2);
    await c.updateMany({$expr: {$eq: ['$_id', '$$x']}}, [{$set: {v: '$$y'}}], {let: {x: 2, y: 'yes'}});
    assert.deepEqual(await c.findOne({_id: 2}), {_id: 2, v: 'yes'});
    assert.equal((await c.deleteMany({$expr: {$lt: ['$_id', '$$x']}}, {let: {x: 2}})).deletedCount, 2);
  });
});

describe('aggregate and explain', () => {
  const run = async (pipeline, options) => await c.aggregate(pipeline, options).toArray();
  test('stages that exist', async () => {
    await c.insertMany(numbers(300, (i) => ({g: i % 3, n: i, tags: ['a', `t${i % 2}`]})));
    assert.deepEqual(await run([{$match: {n: {$lt: 9}}}, {$group: {_id: '$g', total: {$sum: '$n'}, count: {$sum: 1}}}, {$sort: {_id: 1}}]), [
      {_id: 0, total: 9, count: 3}, {_id: 1, total: 12, count: 3}, {_id: 2, total: 15, count: 3},
    ]);
    assert.deepEqual(await run([{$sort: {n: -1}}, {$skip: 1}, {$limit: 2}, {$project: {n: 1, double: {$multiply: ['$n', 2]}, _id: 0}}]), [{n: 298, double: 596}, {n: 297, double: 594}]);
    assert.deepEqual(await run([{$match: {g: 1}}, {$count: 'many'}]), [{many: 100}]);
    assert.deepEqual(await run([{$match: {g: 77}}, {$count: 'many'}]), []);
    assert.equal((await run([])).length, 300);
    assert.equal((await run([{$match: {}}], {batchSize: 7})).length, 300);
    assert.equal((await run([{$group: {_id: null, n: {$sum: 1}}}]))[0].n, 300);
    assert.deepEqual(await c.aggregate([{$match: {$expr: {$eq: ['$n', '$$k']}}}, {$project: {_id: 1}}], {let: {k: 7}}).toArray(), [{_id: 7}]);
  });
  test('groups with all accumulators', async () => {
    await c.insertMany([{_id: 1, g: 'a', v: 2}, {_id: 2, g: 'a', v: 4}, {_id: 3, g: 'b', v: 9}]);
    assert.deepEqual(
      await run([{$group: {_id: '$g', s: {$sum: '$v'}, avg: {$avg: '$v'}, lo: {$min: '$v'}, hi: {$max: '$v'}, first: {$first: '$v'}, last: {$last: '$v'}, all: {$push: '$v'}}}, {$sort: {_id: 1}}]),
      [{_id: 'a', s: 6, avg: 3, lo: 2, hi: 4, first: 2, last: 4, all: [2, 4]}, {_id: 'b', s: 9, avg: 9, lo: 9, hi: 9, first: 9, last: 9, all: [9]}],
    );
  });
  test('stages that do not exist: 40324; those not built: a clear refusal; never silence', async () => {
    await c.insertOne({_id: 1});
    assert.equal(await codeOf(() => run([{$nonsense: 1}])), 40324);
    for (const stage of [{$geoNear: {}}, {$planCacheStats: {a: 1}}, {$facet: {}}]) {
      const e = await failed(run([stage]));
      assert.equal(typeof e.code, 'number');
      assert.ok(e.message.includes(Object.keys(stage)[0]), `${Object.keys(stage)[0]}: ${e.message}`);
    }
    assert.equal(await codeOf(() => run([{$match: {}, $limit: 1}])), 40323);
    assert.equal(await codeOf(() => run([{$limit: 0}])), 15958);
    assert.match((await failed(run([{$listSearchIndexes: {}}]))).message, /Atlas/);
  });
  test('explain of find, aggregate, count, distinct, update, delete', async () => {
    await c.insertMany(numbers(100));
    const plan = await c.find({_id: {$gte: 90}}).explain('executionStats');
    assert.equal(plan.ok, 1);
    assert.ok(plan.queryPlanner?.winningPlan, JSON.stringify(Object.keys(plan)));
    assert.equal(plan.queryPlanner.namespace, `crud.${c.collectionName}`);
    assert.equal(plan.executionStats.nReturned, 10);
    assert.ok(plan.executionStats.totalDocsExamined <= 12, 'a range of _id is used');
    assert.equal((await c.find({a: 1}).explain('executionStats')).executionStats.totalDocsExamined, 100);
    for (const command of [
      {count: c.collectionName, query: {a: 1}}, {distinct: c.collectionName, key: 'a'}, {aggregate: c.collectionName, pipeline: [{$match: {}}], cursor: {}},
      {update: c.collectionName, updates: [{q: {a: 1}, u: {$set: {b: 1}}}]}, {delete: c.collectionName, deletes: [{q: {a: 1}, limit: 1}]}, {findAndModify: c.collectionName, query: {a: 1}, remove: true},
    ]) {
      const r = await db.command({explain: command, verbosity: 'queryPlanner'});
      assert.equal(r.ok, 1, JSON.stringify(command));
    }
    assert.equal(await c.countDocuments(), 100, 'explain changes nothing');
    assert.equal(typeof (await codeOf(() => db.command({explain: {ping: 1}}))), 'number');
  });
});

describe('collections and databases', () => {
  test('createCollection, listCollections, drop', async () => {
    await db.createCollection(c.collectionName);
    assert.equal(await codeOf(() => db.createCollection(c.collectionName, {validator: {a: 1}})), 48);
    const [info] = await db.listCollections({name: c.collectionName}).toArray();
    assert.equal(info.type, 'collection');
    assert.equal(info.info.readOnly, false);
    assert.ok(info.info.uuid instanceof UUID || info.info.uuid?.sub_type === 4);
    assert.deepEqual(info.idIndex, {v: 2, key: {_id: 1}, name: '_id_'});
    assert.deepEqual(await db.listCollections({name: c.collectionName}, {nameOnly: true}).toArray(), [{name: c.collectionName, type: 'collection'}]);
    assert.equal(await c.drop(), true);
    assert.deepEqual(await db.listCollections({name: c.collectionName}).toArray(), []);
    const gone = await db.command({drop: c.collectionName}).catch((e) => e);
    assert.ok(gone.ok === 1 || gone.code === 26);
  });

  test('validators: $jsonSchema with errInfo, actions, levels, bypass', async () => {
    await db.createCollection(c.collectionName, {
      validator: {$jsonSchema: {bsonType: 'object', required: ['name'], properties: {name: {bsonType: 'string'}, age: {bsonType: 'int', minimum: 0}}}},
    });
    await c.insertOne({name: 'x', age: 3});
    const e = await failed(c.insertOne({_id: 1, age: -1}));
    assert.equal(e.code, 121);
    const info = e.errInfo ?? e.errorResponse?.errInfo ?? e.writeErrors?.[0]?.err?.errInfo;
    assert.equal(info.failingDocumentId, 1);
    assert.equal(info.details.operatorName, '$jsonSchema');
    assert.ok(info.details.schemaRulesNotSatisfied.length >= 1);
    assert.equal(await codeOf(() => c.updateOne({name: 'x'}, {$set: {age: 'old'}})), 121);
    await c.insertOne({_id: 2}, {bypassDocumentValidation: true});
    await db.command({collMod: c.collectionName, validationLevel: 'moderate'});
    await c.updateOne({_id: 2}, {$set: {other: 1}});
    await db.command({collMod: c.collectionName, validationAction: 'warn'});
    await c.insertOne({_id: 3});
    await db.command({collMod: c.collectionName, validator: {n: {$gt: 3}}, validationAction: 'error', validationLevel: 'strict'});
    assert.equal(await codeOf(() => c.insertOne({_id: 4, n: 3})), 121);
    await c.insertOne({_id: 4, n: 4});
    await db.command({collMod: c.collectionName, validator: {}});
    await c.insertOne({_id: 5});
    const [listed] = await db.listCollections({name: c.collectionName}).toArray();
    assert.equal(listed.options.validationLevel, 'strict');
    assert.equal(typeof (await codeOf(() => db.createCollection('badly', {validator: {$where: '1'}}))), 'number');
    assert.equal(typeof (await codeOf(() => db.createCollection('badly', {validator: {$jsonSchema: {bsonType: 'nonsense'}}}))), 'number');
    assert.equal(await codeOf(() => db.command({collMod: 'no such thing'})), 26);
  });

  test('unbuilt kinds of collections are refused by name', async () => {
    for (const options of [{expireAfterSeconds: 3}, {clusteredIndex: {key: {x: 1}, unique: true}}])
      assert.equal(typeof (await codeOf(() => db.createCollection('kind', options))), 'number', JSON.stringify(options));
    assert.deepEqual(await db.listCollections({name: 'kind'}).toArray(), []);
    assert.equal(await codeOf(() => db.command({create: 'kind', nonsense: 1})), 40415);
  });

  test('rename, also over another and into another database', async () => {
    await c.insertMany(numbers(10));
    await db.collection('target').insertOne({_id: 'old'});
    assert.equal(await codeOf(() => c.rename('target')), 48);
    await c.rename('target', {dropTarget: true});
    assert.equal(await db.collection('target').countDocuments(), 10);
    assert.equal(await c.countDocuments(), 0);
    assert.equal(await codeOf(() => client.db('admin').command({renameCollection: 'crud.not there', to: 'crud.x'})), 26);
    assert.equal(await codeOf(() => client.db('admin').command({renameCollection: 'crud.target', to: 'crud.target'})), 20);
    const across = await client.db('admin').command({renameCollection: 'crud.target', to: 'elsewhere.target'}).then(() => 1, (e) => e.code);
    if (across === 1) assert.equal(await client.db('elsewhere').collection('target').countDocuments(), 10);
    else assert.equal(typeof across, 'number');
  });

  test('indexes: _id_ is there; kinds that are not built are refused clearly; drops', async () => {
    await c.insertOne({a: 1});
    assert.deepEqual(await c.listIndexes().toArray(), [{v: 2, key: {_id: 1}, name: '_id_'}]);
    assert.equal(await codeOf(() => db.collection('not there').listIndexes().toArray()), 26);
    for (const [key, options] of [[{a: 'text'}], [{a: '2dsphere'}], [{a: '2d'}], [{a: 0}]]) {
      const e = await failed(c.createIndex(key, options));
      assert.equal(typeof e.code, 'number');
      assert.match(e.message, /index|collation/i);
    }
    await db.command({createIndexes: c.collectionName, indexes: [{key: {_id: 1}, name: '_id_'}]});
    assert.equal(await codeOf(() => c.dropIndex('_id_')), 72);
    assert.equal(await codeOf(() => c.dropIndex('a_1')), 27);
    await c.dropIndexes();
    assert.equal((await c.listIndexes().toArray()).length, 1);
  });

  test('listDatabases, dropDatabase', async () => {
    const other = client.db('crud_other');
    await other.collection('one').insertMany(numbers(100));
    await other.collection('two').insertOne({});
    const listed = (await client.db().admin().listDatabases()).databases.find((d) => d.name === 'crud_other');
    assert.equal(listed.empty, false);
    assert.equal(typeof Number(listed.sizeOnDisk), 'number');
    assert.deepEqual((await client.db('admin').command({listDatabases: 1, nameOnly: true, filter: {name: /^crud_o/}})).databases, [{name: 'crud_other'}]);
    assert.equal(await other.dropDatabase(), true);
    assert.ok(!(await client.db().admin().listDatabases({nameOnly: true})).databases.some((d) => d.name === 'crud_other'));
    assert.equal(await other.collection('one').countDocuments(), 0);
    assert.equal((await other.command({dropDatabase: 1})).ok, 1);
    assert.equal(typeof (await codeOf(() => client.db('admin').command({dropDatabase: 1}))), 'number', 'admin stays');
  });

  test('many collections at once', async () => {
    await Promise.all([...Array(60).keys()].map((i) => client.db('many').collection(`k${i}`).insertOne({i})));
    assert.equal((await client.db('many').listCollections({}, {nameOnly: true}).toArray()).length, 60);
    await client.db('many').dropDatabase();
  });

  test('collStats, dbStats, validate, $collStats', async () => {
    await c.insertMany(numbers(100, () => ({pad: 'x'.repeat(100)})));
    const stats = await db.command({collStats: c.collectionName});
    assert.equal(stats.ns, `crud.${c.collectionName}`);
    assert.equal(stats.count, 100);
    assert.ok(Number(stats.size) > 100 * 100 && Number(stats.avgObjSize) > 100);
    assert.equal(stats.nindexes, 1);
    assert.equal(stats.capped, false);
    const d = await db.stats();
    assert.equal(d.db, 'crud');
    assert.ok(Number(d.objects) >= 100 && Number(d.collections) >= 1);
    const v = await db.command({validate: c.collectionName});
    assert.equal(v.valid, true);
    assert.equal(Number(v.nrecords), 100);
    assert.equal(await codeOf(() => db.command({validate: 'not there'})), 26);
    const [s] = await c.aggregate([{$collStats: {storageStats: {}, count: {}}}]).toArray();
    assert.equal(Number(s.count), 100);
    assert.equal(Number(s.storageStats.count), 100);
  });
});

describe('values and limits', () => {
  test('every BSON type comes back byte for byte', async () => {
    const types = {
      _id: 1, double: new Double(1.5), negzero: new Double(-0), nan: new Double(NaN), inf: new Double(-Infinity), tiny: new Double(5e-324), str: 'grüße 🦉 \u0000 x', empty: '',
      doc: {}, nested: {a: {b: [[], {}, [1, [2]]]}}, arr: [1, 'a', null], bin: new Binary(Buffer.from([0, 1, 255]), 0), bin2: new Binary(Buffer.from([9, 9]), 128), uuid: new UUID('00112233-4455-6677-8899-aabbccddeeff'),
      md5: new Binary(Buffer.alloc(16, 7), 5), oid: new ObjectId('0123456789abcdef01234567'), yes: true, no: false, date: new Date(-1), far: new Date(253402300799999), nil: null, re: new BSONRegExp('^a.*b', 'im'),
      code: new Code('return 1'), scoped: new Code('return x', {x: 1}), i32: new Int32(-2147483648), ts: new Timestamp({t: 4294967295, i: 4294967295}), i64: Long.MIN_VALUE, big: Long.MAX_VALUE,
      dec: Decimal128.fromString('-0.00'), dec2: Decimal128.fromString('9.999999999999999999999999999999999E+6144'), decnan: Decimal128.fromString('NaN'), decinf: Decimal128.fromString('-Infinity'), decp: Decimal128.fromString('1.100'),
      min: new MinKey(), max: new MaxKey(),
    };
    const bytes = serialize(types);
    const raw = db.collection(c.collectionName, {raw: true, promoteValues: false});
    await c.insertOne(deserialize(bytes, {promoteValues: false, promoteBuffers: false, bsonRegExp: true}));
    const back = await raw.findOne({_id: 1});
    assert.equal(Buffer.from(back).toString('hex'), Buffer.from(bytes).toString('hex'));
  });

  test('a timestamp of zero is filled in by the server at the top level', async () => {
    await c.insertOne({_id: 1, t: new Timestamp(0n), in: {t: new Timestamp(0n)}});
    const d = await c.findOne();
    assert.ok(d.t.getHighBits() > 1.6e9, 'filled');
    assert.equal(d.in.t.toString(), '0', 'nested ones stay');
  });

  test('deprecated types: symbol, dbPointer, undefined keep their bytes', async () => {
    const body = Buffer.concat([
      Buffer.from([0x0e]), Buffer.from('sym\0'), Buffer.from([2, 0, 0, 0]), Buffer.from('s\0'),
      Buffer.from([0x06]), Buffer.from('und\0'),
      Buffer.from([0x0c]), Buffer.from('ptr\0'), Buffer.from([4, 0, 0, 0]), Buffer.from('a.b\0'), Buffer.alloc(12, 3),
    ]);
    const id = Buffer.concat([Buffer.from([0x10]), Buffer.from('_id\0'), Buffer.from([1, 0, 0, 0])]);
    const doc = Buffer.concat([Buffer.alloc(4), id, body, Buffer.from([0])]);
    doc.writeInt32LE(doc.length);
    const raw = await Raw.connect(node); // the driver has no such types
    await raw.login();
    assert.equal((await raw.run({insert: c.collectionName, $db: 'crud'}, {sections: [{kind: 1, name: 'documents', docs: [doc]}]})).n, 1);
    raw.close();
    assert.equal(Buffer.from(await db.collection(c.collectionName, {raw: true}).findOne({})).toString('hex'), doc.toString('hex'));
  });

  test('16 MB: just below is stored, above is refused with 10334 and the connection lives', async () => {
    const overhead = serialize({_id: 1, s: ''}).length;
    const fits = {_id: 1, s: 'x'.repeat(16777216 - overhead)};
    await c.insertOne(fits);
    assert.equal((await c.findOne({_id: 1})).s.length, fits.s.length);
    const e = await failed(db.command({insert: c.collectionName, documents: [{_id: 2, s: `${fits.s}y`}]}).then((r) => Promise.reject(r.writeErrors[0])));
    assert.ok([10334, 2, 17280].includes(e.code) || /too large|size/i.test(e.message ?? e.errmsg), `${e.code} ${e.message ?? e.errmsg}`);
    assert.ok([10334, 17419, 17420, 2].includes(await codeOf(() => c.updateOne({_id: 1}, {$set: {more: 'zz'}}))));
    assert.equal((await c.findOne({_id: 1})).more, undefined);
    assert.equal(await c.countDocuments(), 1);
    await c.drop();
  });

  test('nesting: 170 deep is stored, 300 is refused', async () => {
    const deep = (n) => (n === 0 ? 1 : {a: deep(n - 1)});
    await c.insertOne({_id: 1, d: deep(170)});
    assert.deepEqual((await c.findOne({_id: 1})).d, deep(170));
    assert.equal(typeof (await codeOf(() => c.insertOne({_id: 2, d: deep(300)}))), 'number');
    assert.equal(typeof (await codeOf(() => c.find({$and: [JSON.parse('{"$and":['.repeat(150) + '{"a":1}' + ']}'.repeat(150))]}).toArray())), 'number');
    assert.equal(await c.countDocuments(), 1);
  });

  test('field names: dots, dollars, empty, long', async () => {
    await c.insertOne({_id: 1, 'a.b': 1, '': 2, ['n'.repeat(5000)]: 3, inner: {'x.y': {$z: 1}}});
    const d = await c.findOne();
    assert.equal(d['a.b'], 1);
    assert.equal(d[''], 2);
    assert.deepEqual(d.inner, {'x.y': {$z: 1}});
  });

  test('100,000 operations are the limit of a batch', async () => {
    const r = await c.insertMany(numbers(100000));
    assert.equal(r.insertedCount, 100000);
    const e = await failed(db.command({delete: c.collectionName, deletes: Array(100001).fill({q: {_id: -1}, limit: 1})}));
    assert.equal(e.code, 16);
    assert.equal((await c.deleteMany({})).deletedCount, 100000);
  });
});

describe('time limits, killing, sessions, concerns', () => {
  test('maxTimeMS ends a long scan with 50', {timeout: 60000}, async () => {
    await c.insertMany(numbers(60000, (i) => ({s: `${`text ${i} `.repeat(10)}zz`})));
    const filter = {s: {$regex: '(t.*e.*x.*t.*){6}zzz'}};
    const e = await failed(c.find(filter).maxTimeMS(20).toArray());
    assert.equal(e.code, 50);
    assert.equal((await failed(c.updateMany(filter, {$set: {x: 1}}, {maxTimeMS: 20}))).code, 50);
    assert.equal(await codeOf(() => db.command({find: c.collectionName, maxTimeMS: -1})), 2);
    assert.equal((await c.find({_id: 5}).maxTimeMS(10000).toArray()).length, 1);
  });

  test('currentOp shows a running operation, killOp ends it with 11601', {timeout: 60000}, async () => {
    await c.insertMany(numbers(60000, (i) => ({s: `${`text ${i} `.repeat(10)}zz`})));
    const long = c.find({s: {$regex: '(t.*e.*x.*t.*){6}zzz'}}, {comment: 'the long one'}).toArray().then(() => 'ended', (e) => e.code);
    const op = await until('the operation is shown', async () => {
      const ops = await client.db('admin').aggregate([{$currentOp: {allUsers: true}}, {$match: {ns: `crud.${c.collectionName}`}}]).toArray();
      return ops.find((o) => o.command?.comment === 'the long one');
    }, 10000);
    assert.equal(op.active, true);
    assert.equal((await client.db('admin').command({currentOp: 1})).ok, 1);
    await client.db('admin').command({killOp: 1, op: op.opid});
    assert.equal(await long, 11601);
  });

  test('idle cursors end with their session; killSessions, killAllSessions', async () => {
    await c.insertMany(numbers(500));
    const session = client.startSession();
    const cursor = c.find({}, {session, batchSize: 2});
    await cursor.next();
    const lsid = session.id;
    await db.command({killSessions: [lsid]});
    const code = await (async () => {
      for (let i = 0; i < 3; i++) await cursor.next();
    })().then(() => 0, (e) => e.code);
    assert.ok([43, 11601, 237].includes(code), `got ${code}`);
    await session.endSession();
  });

  test('sessions: start, causal reads, refresh, end', async () => {
    const started = await client.db('admin').command({startSession: 1});
    assert.equal(started.timeoutMinutes, 30);
    assert.equal(started.id.id.sub_type, 4);
    await client.withSession({causalConsistency: true}, async (session) => {
      for (let i = 0; i < 20; i++) {
        await c.insertOne({_id: i}, {session});
        assert.equal((await c.findOne({_id: i}, {session}))._id, i);
      }
      assert.ok(session.operationTime, 'replies name an operationTime');
      assert.ok(session.clusterTime?.clusterTime ?? true);
    });
    await client.db('admin').command({refreshSessions: [started.id]});
    await client.db('admin').command({endSessions: [started.id]});
    const r = await db.command({ping: 1});
    assert.equal(r.ok, 1);
    const w = await db.command({insert: c.collectionName, documents: [{_id: 'x'}]});
    assert.ok(w.operationTime instanceof Timestamp || w.operationTime?._bsontype === 'Timestamp');
    assert.ok(w.$clusterTime?.clusterTime, '$clusterTime');
  });

  test('a retryable write sent twice is done once, with the same reply', async () => {
    const one = await node.client({driver: {maxPoolSize: 1, retryWrites: false}});
    const lsid = {id: new UUID().toBinary()};
    const d = one.db('crud');
    const send = (cmd) => d.command({...cmd, lsid, txnNumber: Long.fromNumber(send.txn)});
    await c.insertOne({_id: 'n', n: 0});
    send.txn = 1;
    for (let i = 0; i < 3; i++) assert.equal((await send({update: c.collectionName, updates: [{q: {_id: 'n'}, u: {$inc: {n: 1}}}]})).nModified, 1);
    assert.equal((await c.findOne({_id: 'n'})).n, 1);
    send.txn = 2;
    for (let i = 0; i < 2; i++) assert.equal((await send({insert: c.collectionName, documents: [{_id: 1}, {_id: 2}]})).n, 2);
    send.txn = 3;
    const docs = [];
    for (let i = 0; i < 2; i++) docs.push((await send({findAndModify: c.collectionName, query: {_id: 'n'}, update: {$inc: {n: 1}}, new: true})).value);
    assert.deepEqual(docs, [{_id: 'n', n: 2}, {_id: 'n', n: 2}]);
    send.txn = 4;
    for (let i = 0; i < 2; i++) assert.equal((await send({delete: c.collectionName, deletes: [{q: {_id: 1}, limit: 1}]})).n, 1);
    send.txn = 5;
    const ups = [];
    for (let i = 0; i < 2; i++) ups.push((await send({update: c.collectionName, updates: [{q: {_id: 'up'}, u: {$inc: {n: 1}}, upsert: true}]})).upserted);
    assert.deepEqual(ups[0], [{index: 0, _id: 'up'}]);
    assert.deepEqual(ups[1], ups[0]);
    send.txn = 2;
    assert.equal(await codeOf(() => send({insert: c.collectionName, documents: [{_id: 9}]})), 225);
    await one.close();
  });

  test('transactions (more in transactions.test.mjs)', async () => {
    const session = client.startSession();
    session.startTransaction();
    await c.insertOne({_id: 1}, {session});
    await session.abortTransaction();
    await session.withTransaction(async () => await c.insertOne({_id: 2}, {session}));
    await session.endSession();
    assert.deepEqual(await c.find().toArray(), [{_id: 2}]);
  });

  test('write concerns: w 0, 1, majority, j; w 2 is an error of the concern, the write stands', async () => {
    await c.insertOne({_id: 0}, {writeConcern: {w: 0}});
    await until('the unacknowledged write is there', async () => await c.findOne({_id: 0}), 5000);
    for (const [i, w] of [{w: 1}, {w: 'majority'}, {w: 1, j: true}, {w: 'majority', wtimeoutMS: 1000}].entries()) await c.insertOne({_id: i + 1}, {writeConcern: w});
    const r = await db.command({insert: c.collectionName, documents: [{_id: 50}], writeConcern: {w: 2, wtimeout: 200}}).catch((e) => e);
    const concern = r.writeConcernError ?? r.result?.writeConcernError ?? r.errorResponse?.writeConcernError;
    assert.ok(concern, JSON.stringify(r));
    assert.ok([100, 64].includes(concern.code));
    assert.ok(await c.findOne({_id: 50}), 'the write stands');
    assert.equal(typeof (await codeOf(() => db.command({insert: c.collectionName, documents: [{_id: 51}], writeConcern: {w: -3}}))), 'number');
    assert.equal(typeof (await codeOf(() => db.command({insert: c.collectionName, documents: [{_id: 52}], writeConcern: {w: 'nowhere'}})
      .then((x) => (x.writeConcernError ? Promise.reject(x.writeConcernError) : x)))), 'number');
  });

  test('read concerns', async () => {
    await c.insertOne({_id: 1});
    for (const level of ['local', 'available', 'majority', 'linearizable', 'snapshot']) assert.equal((await c.find({_id: 1}, {readConcern: {level}}).toArray()).length, 1, level);
    assert.equal(await codeOf(() => c.find({}, {readConcern: {level: 'nonsense'}}).toArray()), 2);
    const r = await db.command({insert: c.collectionName, documents: [{_id: 2}]});
    assert.equal((await db.command({find: c.collectionName, readConcern: {afterClusterTime: r.operationTime}})).cursor.firstBatch.length, 2);
    const far = Timestamp.fromBits(1, Math.floor(Date.now() / 1000) + 3600);
    assert.equal(typeof (await codeOf(() => db.command({find: c.collectionName, readConcern: {afterClusterTime: far}, maxTimeMS: 500}))), 'number');
  });

  test('read preferences all read from the one member', async () => {
    await c.insertOne({_id: 1});
    for (const mode of ['primary', 'primaryPreferred', 'nearest', 'secondaryPreferred']) assert.equal((await c.find({}, {readPreference: mode}).toArray()).length, 1, mode);
  });

  test('failCommand: errors, closed connections, blocking; the driver retries', async () => {
    const admin = client.db('admin');
    const point = (data, mode = {times: 1}) => admin.command({configureFailPoint: 'failCommand', mode, data});
    await c.insertOne({_id: 1});
    await point({failCommands: ['find'], errorCode: 2});
    assert.equal(await codeOf(() => c.findOne()), 2);
    await point({failCommands: ['find'], closeConnection: true});
    assert.deepEqual(await c.findOne(), {_id: 1}, 'a retried read');
    await point({failCommands: ['insert'], errorCode: 91, errorLabels: ['RetryableWriteError']});
    await c.insertOne({_id: 2});
    await point({failCommands: ['insert'], closeConnection: true});
    await c.insertOne({_id: 3});
    await point({failCommands: ['find'], blockConnection: true, blockTimeMS: 300});
    const start = Date.now();
    await c.findOne();
    assert.ok(Date.now() - start >= 290);
    await point({failCommands: ['find'], errorCode: 50}, {skip: 1});
    await c.findOne();
    assert.equal(await codeOf(() => c.findOne()), 50);
    const concern = {failCommands: ['insert'], writeConcernError: {code: 91, errmsg: 'ends'}};
    await point(concern);
    await c.insertOne({_id: 4});
    await point(concern, {times: 2});
    await assert.rejects(c.insertOne({_id: 5}), (e) => e.code === 91 && e.hasErrorLabel('RetryableWriteError'));
    await point({}, 'off');
    await c.findOne();
    assert.equal(await c.countDocuments(), 5);
    await admin.command({configureFailPoint: 'failGetMoreAfterCursorCheckout', mode: {times: 1}, data: {errorCode: 6}});
    await assert.rejects(c.find().batchSize(2).toArray(), (e) => e.code === 6 && e.hasErrorLabel('ResumableChangeStreamError'));
    await point({failCommands: ['getMore'], errorCode: 6});
    await assert.rejects(c.find().batchSize(2).toArray(), (e) => e.code === 6 && !e.hasErrorLabel('ResumableChangeStreamError'));
    assert.equal((await c.find().batchSize(2).toArray()).length, 5);
  });

  test('failCommand: each reply of a streamed hello is as one to a command of its own', async () => {
    const raw = await Raw.connect(node);
    const {topologyVersion} = await raw.run({hello: 1, client: {application: {name: 'stream'}, driver: {name: 'raw', version: '1'}, os: {type: 'Linux'}}, $db: 'admin'});
    raw.send(msg({hello: 1, topologyVersion, maxAwaitTimeMS: 100, $db: 'admin'}, {flags: FLAG.EXHAUST}));
    for (let i = 0; i < 2; i++) assert.deepEqual((({doc, flags}) => [doc.ok, flags & FLAG.MORE])(await raw.reply()), [1, FLAG.MORE]);
    await client.db('admin').command({configureFailPoint: 'failCommand', mode: {times: 1}, data: {failCommands: ['hello'], appName: 'stream', errorCode: 91, blockConnection: true, blockTimeMS: 20}});
    let ended;
    await until('the stream fails', async () => (ended = await raw.reply()).doc.ok === 0);
    assert.deepEqual([ended.doc.code, ended.flags & FLAG.MORE], [91, 0]);
    assert.equal((await raw.run({hello: 1, $db: 'admin'})).ok, 1, 'the connection is as it was');
    raw.close();
  });

  test('maxTimeAlwaysTimeOut: whatever has a maxTimeMS is out of time', async () => {
    const point = (mode) => client.db('admin').command({configureFailPoint: 'maxTimeAlwaysTimeOut', mode});
    await c.insertMany([{_id: 1}, {_id: 2}, {_id: 3}]);
    const cursor = c.find({}, {batchSize: 1, maxTimeMS: 60000});
    await cursor.next();
    await point('alwaysOn');
    assert.equal(await codeOf(() => cursor.toArray()), 50, 'a getMore');
    assert.equal(await codeOf(() => c.findOne({}, {maxTimeMS: 60000})), 50);
    assert.equal(await codeOf(() => c.createIndex({a: 1}, {maxTimeMS: 60000})), 50);
    assert.equal(await codeOf(() => db.command({listCollections: 1, maxTimeMS: 60000})), 50);
    assert.equal(await c.countDocuments(), 3);
    assert.ok((await point('off')).count >= 4);
    assert.equal(await c.countDocuments({}, {maxTimeMS: 60000}), 3);
  });

  test('onPrimaryTransactionalWrite: a retryable write is committed or not, its connection closed; the driver retries', async () => {
    const admin = client.db('admin');
    const point = (mode, data) => admin.command({configureFailPoint: 'onPrimaryTransactionalWrite', mode, ...(data && {data})});
    await point({times: 1});
    await c.insertOne({_id: 1, n: 0});
    assert.equal((await point({times: 1}, {failBeforeCommitExceptionCode: 1})).count, 1);
    await c.updateOne({_id: 1}, {$inc: {n: 1}});
    await point('alwaysOn', {failBeforeCommitExceptionCode: 1});
    await assert.rejects(c.updateOne({_id: 1}, {$inc: {n: 1}}), (e) => e.code === undefined && e.hasErrorLabel('RetryableWriteError'));
    await c.updateMany({_id: 1}, {$set: {m: 1}});
    await point('alwaysOn', {failBeforeCommitExceptionCode: 11601, closeConnection: false});
    assert.equal(await codeOf(() => c.updateOne({_id: 1}, {$inc: {n: 1}})), 11601);
    await point('off');
    assert.deepEqual(await c.findOne(), {_id: 1, n: 1, m: 1});
    assert.equal(await codeOf(() => admin.command({configureFailPoint: 'another', mode: 'off'})), 82);
    assert.equal(await codeOf(() => point('perhaps')), 2);
  });
});

test('the API version: strict refuses what is not in it, unknown versions are refused', async () => {
  const strict = await node.client({driver: {serverApi: {version: '1', strict: true, deprecationErrors: true}}});
  const t = strict.db('crud').collection('api');
  await t.insertOne({_id: 1});
  assert.equal(await t.countDocuments(), 1);
  assert.equal(await codeOf(() => strict.db('crud').command({distinct: 'api', key: 'a'})), 323);
  for (const stage of [{$indexStats: {}}, {$collStats: {storageStats: {}}}, {$lookup: {from: 'api', pipeline: [{$indexStats: {}}], as: 'x'}}])
    assert.equal(await codeOf(() => t.aggregate([stage]).toArray()), 323, JSON.stringify(stage));
  assert.equal(await codeOf(() => strict.db('crud').aggregate([{$listLocalSessions: {}}]).toArray()), 323);
  assert.equal((await t.aggregate([{$collStats: {count: {}}}]).toArray())[0].count, 1);
  await strict.close();
  assert.equal(await codeOf(() => client.db('crud').command({ping: 1, apiVersion: '2'})), 322);
  assert.equal(await codeOf(() => client.db('crud').command({nonsense: 1})), 59);
});

test('figures of the server are sane and move', async () => {
  const admin = client.db('admin');
  const one = await admin.command({serverStatus: 1});
  for (const part of ['version', 'process', 'pid', 'uptime', 'localTime', 'connections', 'network', 'opcounters', 'mem', 'asserts', 'wiredTiger', 'storageEngine', 'repl'].slice(0, 10))
    assert.ok(one[part] !== undefined, part);
  await c.insertMany(numbers(5));
  await sleep(50);
  const two = await admin.command({serverStatus: 1});
  assert.ok(Number(two.opcounters.insert) > Number(one.opcounters.insert));
  assert.ok(Number(two.connections.current) >= 1);
});
