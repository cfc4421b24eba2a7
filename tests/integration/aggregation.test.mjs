// Aggregations that join, branch and write, and views, through the official Node driver; and the same pipelines run by mingo, an
// implementation of MongoDB's language that shares nothing with this one.
import assert from 'node:assert/strict';
import {after, before, beforeEach, describe, test} from 'node:test';
import {Aggregator} from 'mingo';
import {Node, codeOf} from '../support/node.mjs';

let node, client, db, turn = 0;
before(async () => {
  node = await Node.start();
  client = await node.client();
});
after(async () => {
  await client?.close();
  await node?.stop();
});
beforeEach(() => {
  db = client.db(`agg${++turn}`);
});

const numbers = (n, more = () => ({})) => [...Array(n).keys()].map((i) => ({_id: i, ...more(i)}));
const run = (name, pipeline, options) => db.collection(name).aggregate(pipeline, options).toArray();

describe('$lookup', () => {
  beforeEach(async () => {
    await db.collection('orders').insertMany([{_id: 1, item: 'a', n: 2}, {_id: 2, item: 'b', n: 1}, {_id: 3}, {_id: 4, item: null}, {_id: 5, item: ['a', 'c']}]);
    await db.collection('stock').insertMany([{_id: 1, sku: 'a', q: 120}, {_id: 2, sku: 'b', q: 80}, {_id: 3, sku: null}, {_id: 4}, {_id: 5, sku: ['c', 'a'], q: 1}]);
  });
  const ids = (docs) => docs.map((d) => [d._id, d.r.map((r) => r._id)]);

  test('by fields: null and missing alike, arrays by their elements', async () => {
    const docs = await run('orders', [{$lookup: {from: 'stock', localField: 'item', foreignField: 'sku', as: 'r'}}]);
    assert.deepEqual(ids(docs), [[1, [1, 5]], [2, [2]], [3, [3, 4]], [4, [3, 4]], [5, [1, 5]]]);
  });

  test('by pipeline and let; by both; without connection', async () => {
    const byLet = await run('orders', [{$match: {_id: {$lt: 3}}}, {$lookup: {from: 'stock', let: {i: '$item', n: '$n'}, pipeline: [{$match: {$expr: {$and: [{$eq: ['$sku', '$$i']}, {$gte: ['$q', '$$n']}]}}}, {$project: {q: 1}}], as: 'r'}}]);
    assert.deepEqual(byLet.map((d) => d.r), [[{_id: 1, q: 120}], [{_id: 2, q: 80}]]);
    const both = await run('orders', [{$lookup: {from: 'stock', localField: 'item', foreignField: 'sku', pipeline: [{$match: {q: {$gt: 1}}}, {$project: {_id: 1}}], as: 'r'}}]);
    assert.deepEqual(ids(both), [[1, [1]], [2, [2]], [3, []], [4, []], [5, [1]]]);
    const free = await run('orders', [{$lookup: {from: 'stock', pipeline: [{$group: {_id: null, sum: {$sum: '$q'}}}], as: 'r'}}]);
    assert.deepEqual(free.map((d) => d.r[0].sum), [201, 201, 201, 201, 201]);
  });

  test('with $unwind behind it, in small batches over many documents', async () => {
    const many = numbers(2500, (i) => ({k: i % 700}));
    await db.collection('many').insertMany(many);
    await db.collection('other').insertMany(numbers(700, (i) => ({k: i, pad: 'x'.repeat(200)})));
    const cursor = db.collection('many').aggregate([{$lookup: {from: 'other', localField: 'k', foreignField: 'k', as: 'o'}}, {$unwind: {path: '$o', includeArrayIndex: 'i'}}, {$project: {k: 1, ok: {$eq: ['$k', '$o.k']}, i: 1}}], {batchSize: 7});
    let n = 0;
    for await (const d of cursor) {
      assert.equal(d._id, n++);
      assert.equal(d.ok, true);
      assert.equal(Number(d.i), 0);
    }
    assert.equal(n, 2500);
    const kept = await run('orders', [{$lookup: {from: 'nothing', localField: 'a', foreignField: 'b', as: 'r'}}, {$unwind: {path: '$r', preserveNullAndEmptyArrays: true}}]);
    assert.equal(kept.length, 5);
    assert.ok(!('r' in kept[0]));
  });

  test('explain shows the $unwind inside, and what the head took', async () => {
    const e = await db.collection('orders').aggregate([{$lookup: {from: 'stock', localField: 'item', foreignField: 'sku', as: 'r'}}, {$unwind: '$r'}, {$match: {item: 'a'}}]).explain('executionStats');
    assert.equal(e.stages.length, 2);
    assert.deepEqual(e.stages[0].$cursor.queryPlanner.parsedQuery, {item: {$eq: 'a'}});
    assert.deepEqual(e.stages[1].$lookup.unwinding, {preserveNullAndEmptyArrays: false});
  });

  test('a result of more than 16 MB is refused, and can be unwound', async () => {
    await db.collection('big').insertMany(numbers(20, () => ({k: 1, pad: 'x'.repeat(1000000)})));
    await db.collection('one').insertOne({_id: 1, k: 1});
    const stage = {$lookup: {from: 'big', localField: 'k', foreignField: 'k', as: 'r'}};
    assert.equal(await codeOf(() => run('one', [stage])), 10334);
    assert.equal((await run('one', [stage, {$unwind: '$r'}, {$count: 'n'}]))[0].n, 20);
  });

  test('a collection that is dropped between two batches ends the cursor', async () => {
    await db.collection('many').insertMany(numbers(500));
    const cursor = db.collection('many').aggregate([{$lookup: {from: 'stock', localField: 'x', foreignField: 'sku', as: 'r'}}], {batchSize: 5});
    await cursor.next();
    await db.collection('stock').drop();
    assert.equal(await codeOf(() => cursor.toArray()), 175);
  });
});

describe('$graphLookup, $unionWith, $facet', () => {
  beforeEach(async () => {
    await db.collection('staff').insertMany([{_id: 1, name: 'A'}, {_id: 2, name: 'B', boss: 'A'}, {_id: 3, name: 'C', boss: 'B'}, {_id: 4, name: 'D', boss: ['C', 'A']}, {_id: 5, name: 'E', boss: 'E'}]);
  });
  const graph = (more = {}) => [{$graphLookup: {from: 'staff', startWith: '$boss', connectFromField: 'boss', connectToField: 'name', as: 'r', ...more}}];
  const ids = (docs) => docs.map((d) => d.r.map((r) => r._id).sort());

  test('follows connections, also in circles, to a depth, with a restriction', async () => {
    assert.deepEqual(ids(await run('staff', graph())), [[], [1], [1, 2], [1, 2, 3], [5]]);
    assert.deepEqual(ids(await run('staff', graph({maxDepth: 0}))), [[], [1], [2], [1, 3], [5]]);
    assert.deepEqual(ids(await run('staff', graph({restrictSearchWithMatch: {name: {$ne: 'B'}}}))), [[], [1], [], [1, 3], [5]]);
    const [d] = await run('staff', [{$match: {_id: 3}}, ...graph({depthField: 'far'})]);
    assert.deepEqual(Object.fromEntries(d.r.map((r) => [r._id, Number(r.far)])), {1: 1, 2: 0});
    const flat = await run('staff', [...graph(), {$unwind: '$r'}, {$project: {r: '$r._id'}}]);
    assert.equal(flat.length, 7);
  });

  test('$unionWith: a name, a pipeline, batch after batch', async () => {
    await db.collection('x').insertMany(numbers(300));
    const cursor = db.collection('staff').aggregate([{$project: {_id: 1}}, {$unionWith: 'x'}, {$unionWith: {coll: 'x', pipeline: [{$match: {_id: {$gte: 298}}}]}}], {batchSize: 9});
    const got = (await cursor.toArray()).map((d) => d._id);
    assert.deepEqual(got, [1, 2, 3, 4, 5, ...numbers(300).map((d) => d._id), 298, 299]);
  });

  test('$facet', async () => {
    const [d] = await run('staff', [{$facet: {n: [{$count: 'n'}], joined: [{$lookup: {from: 'staff', localField: 'boss', foreignField: 'name', as: 'b'}}, {$match: {b: {$size: 2}}}, {$project: {_id: 1}}], none: [{$match: {_id: 99}}]}}]);
    assert.deepEqual(d, {n: [{n: 5}], joined: [{_id: 4}], none: []});
  });

  test('what may not stand inside', async () => {
    const code = (pipeline) => codeOf(() => run('staff', pipeline));
    assert.equal(await code([{$lookup: {from: 'x', pipeline: [{$out: 'y'}], as: 'r'}}]), 51047);
    assert.equal(await code([{$unionWith: {coll: 'x', pipeline: [{$merge: 'y'}]}}]), 31441);
    assert.equal(await code([{$facet: {a: [{$out: 'y'}]}}]), 40600);
    let inner = [];
    for (let i = 0; i < 21; i++) inner = [{$lookup: {from: 'x', pipeline: inner, as: 'r'}}];
    assert.equal(await code(inner), 232);
  });

  test('is killed by its time limit', async () => {
    await db.collection('n').insertMany(numbers(3000));
    const slow = [{$lookup: {from: 'n', let: {a: '$_id'}, pipeline: [{$match: {$expr: {$eq: [{$add: ['$_id', '$$a']}, -1]}}}], as: 'r'}}, {$count: 'n'}];
    assert.equal(await codeOf(() => run('n', slow, {maxTimeMS: 50})), 50);
  });
});

describe('$out', () => {
  beforeEach(async () => {
    await db.collection('from').insertMany(numbers(1200, (i) => ({v: i % 3})));
  });

  test('its write concern is one: what can not be had is told; without $out or $merge there is none', async () => {
    const aggregate = (pipeline) => db.command({aggregate: 'from', pipeline, cursor: {}, writeConcern: {w: 30, wtimeout: 500}});
    for (const stage of [{$out: 'to'}, {$merge: {into: 'to'}}])
      await assert.rejects(aggregate([{$limit: 1}, stage]), (e) => (e.code ?? e.result.writeConcernError.code) === 100, Object.keys(stage)[0]);
    assert.equal(await db.collection('to').countDocuments(), 1);
    await assert.rejects(aggregate([{$limit: 1}]), {code: 72});
  });

  test('makes a collection, replaces one and keeps its options; nothing temporary is left', async () => {
    assert.deepEqual(await run('from', [{$match: {v: 1}}, {$out: 'to'}]), []);
    assert.equal(await db.collection('to').countDocuments(), 400);
    await db.createCollection('checked', {validator: {v: {$gte: 0}}});
    await db.collection('checked').insertOne({_id: 'old', v: 5});
    await run('from', [{$project: {v: 1}}, {$out: 'checked'}]);
    assert.equal(await db.collection('checked').countDocuments({_id: 'old'}), 0);
    assert.equal(await db.collection('checked').countDocuments(), 1200);
    assert.deepEqual((await db.listCollections({name: 'checked'}).toArray())[0].options.validator, {v: {$gte: 0}});
    await run('from', [{$match: {_id: {$lt: 2}}}, {$out: {db: `${db.databaseName}x`, coll: 'far'}}]);
    assert.equal(await client.db(`${db.databaseName}x`).collection('far').countDocuments(), 2);
    assert.deepEqual((await db.listCollections({name: /^tmp/}).toArray()), []);
  });

  test('a failure leaves the target as it was', async () => {
    await db.createCollection('checked', {validator: {v: {$lt: 2}}});
    await db.collection('checked').insertOne({_id: 'old', v: 1});
    assert.equal(await codeOf(() => run('from', [{$out: 'checked'}])), 121);
    assert.deepEqual(await db.collection('checked').find().toArray(), [{_id: 'old', v: 1}]);
    assert.equal(await codeOf(() => run('from', [{$project: {_id: '$v'}}, {$out: 'to'}])), 11000);
    assert.deepEqual((await db.listCollections({name: {$in: ['to', /^tmp/]}}).toArray()), []);
    assert.equal((await run('from', [{$out: 'checked'}], {bypassDocumentValidation: true})).length, 0);
    assert.equal(await db.collection('checked').countDocuments(), 1200);
  });

  test('writes what it reads: the collection becomes its own result', async () => {
    await run('from', [{$match: {v: 2}}, {$out: 'from'}]);
    assert.equal(await db.collection('from').countDocuments(), 400);
  });
});

describe('$merge and $out with secondary indexes', () => {
  test('$merge finds documents by the fields of a unique index, and they keep their _id', async () => {
    const to = db.collection('byKey');
    await to.drop();
    await db.collection('keys').drop();
    await to.createIndex({k: 1, l: 1}, {unique: true});
    await to.insertMany([{_id: 1, k: 'a', l: 1, n: 1}, {_id: 2, k: 'b', l: 1, n: 2}]);
    await db.collection('keys').insertMany([{k: 'a', l: 1, m: 10}, {k: 'c', l: 1, m: 30}]);
    const merge = (more = {}, front = [{$unset: '_id'}]) => run('keys', [...front, {$merge: {into: 'byKey', on: ['l', 'k'], ...more}}]);
    await merge();
    assert.deepEqual(await to.find({}, {projection: {_id: 0}}).sort({k: 1}).toArray(), [{k: 'a', l: 1, n: 1, m: 10}, {k: 'b', l: 1, n: 2}, {k: 'c', l: 1, m: 30}]);
    assert.equal((await to.findOne({k: 'a'}))._id, 1);
    await merge({whenMatched: 'replace'});
    assert.deepEqual(await to.findOne({k: 'a'}), {_id: 1, k: 'a', l: 1, m: 10});
    await merge({whenMatched: [{$set: {m: {$add: ['$m', '$$new.m']}}}]});
    assert.equal((await to.findOne({k: 'a'})).m, 20);
    assert.equal(await codeOf(() => merge({whenMatched: 'fail'})), 11000);
    assert.equal(await codeOf(() => merge({}, [])), 66, 'another _id');
    assert.equal(await codeOf(() => merge({on: 'k'})), 51183, 'not unique');
    assert.equal(await codeOf(() => merge({}, [{$unset: ['_id', 'l']}])), 51132);
    assert.equal(await codeOf(() => run('keys', [{$unset: '_id'}, {$merge: {into: 'nowhere', on: 'k'}}])), 51183);
    await db.command({collMod: 'byKey', cas: 'required'});
    assert.equal(await codeOf(() => merge()), 90019, 'a blind update');
    await merge({whenMatched: 'keepExisting'});
    assert.equal((await db.command({validate: 'byKey'})).valid, true);
  });

  test('$out keeps the indexes of its target', async () => {
    const to = db.collection('indexed');
    await to.drop();
    await to.createIndex({k: 1}, {unique: true, name: 'unique k'});
    await to.createIndex({m: -1}, {sparse: true});
    await to.insertOne({k: 'old'});
    await db.collection('keys').insertMany([{k: 'a', m: 10}, {k: 'c', m: 30}]);
    const before = await to.indexes();
    await run('keys', [{$out: 'indexed'}]);
    assert.deepEqual(await to.indexes(), before);
    assert.equal(await to.countDocuments(), 2);
    assert.deepEqual((await to.find({}, {projection: {_id: 0, m: 1}}).hint('m_-1').sort({m: -1}).toArray()), [{m: 30}, {m: 10}]);
    assert.equal(await codeOf(() => run('keys', [{$set: {k: 1}}, {$out: 'indexed'}])), 11000);
    assert.equal(await to.countDocuments(), 2, 'the target is as it was');
    assert.equal((await db.command({validate: 'indexed', full: true})).valid, true);
  });
});

describe('$merge', () => {
  beforeEach(async () => {
    await db.collection('from').insertMany([{_id: 1, a: 10}, {_id: 2, a: 20}, {_id: 3, a: 30}]);
    await db.collection('to').insertMany([{_id: 1, b: 1}, {_id: 2, a: 2, b: 2}]);
  });
  const all = () => db.collection('to').find().sort({_id: 1}).toArray();
  const merge = (more = {}) => run('from', [{$merge: {into: 'to', ...more}}]);

  test('merge, replace, keepExisting', async () => {
    await merge();
    assert.deepEqual(await all(), [{_id: 1, b: 1, a: 10}, {_id: 2, a: 20, b: 2}, {_id: 3, a: 30}]);
    await merge({whenMatched: 'replace'});
    assert.deepEqual(await all(), [{_id: 1, a: 10}, {_id: 2, a: 20}, {_id: 3, a: 30}]);
    await db.collection('from').updateMany({}, {$set: {a: 0}});
    await merge({whenMatched: 'keepExisting'});
    assert.deepEqual((await all()).map((d) => d.a), [10, 20, 30]);
  });

  test('fail, discard; what came before stays', async () => {
    assert.equal(await codeOf(() => merge({whenMatched: 'fail'})), 11000);
    await db.collection('to').deleteOne({_id: 2});
    assert.equal(await codeOf(() => merge({whenNotMatched: 'fail'})), 13113);
    assert.deepEqual(await all(), [{_id: 1, b: 1, a: 10}]);
    await merge({whenNotMatched: 'discard'});
    assert.equal((await all()).length, 1);
  });

  test('a pipeline with $$new and let', async () => {
    await merge({let: {k: '$a'}, whenMatched: [{$set: {sum: {$add: ['$b', '$$new.a']}, k: '$$k'}}]});
    assert.deepEqual(await all(), [{_id: 1, b: 1, sum: 11, k: 10}, {_id: 2, a: 2, b: 2, sum: 22, k: 20}, {_id: 3, a: 30}]);
  });

  test('makes the target; another database; other fields need a unique index; validators hold', async () => {
    await run('from', [{$merge: {into: {db: `${db.databaseName}y`, coll: 'new'}}}]);
    assert.equal(await client.db(`${db.databaseName}y`).collection('new').countDocuments(), 3);
    assert.equal(await codeOf(() => merge({on: 'a'})), 51183);
    await db.command({collMod: 'to', validator: {a: {$lt: 15}}});
    assert.equal(await codeOf(() => merge()), 121);
    assert.equal((await all())[0].a, 10);
    await run('from', [{$unset: '_id'}, {$merge: 'fresh'}]);
    assert.equal(await db.collection('fresh').countDocuments(), 3);
  });

  test('is told to change streams, like every write', async () => {
    const stream = db.collection('to').watch();
    const seen = [];
    await stream.tryNext();
    await merge({whenMatched: 'replace'});
    while (seen.length < 3) seen.push((await stream.next()).operationType);
    await stream.close();
    assert.deepEqual(seen, ['replace', 'replace', 'insert']);
  });
});

describe('views', () => {
  beforeEach(async () => {
    await db.collection('c').insertMany(numbers(10, (i) => ({v: i, p: i % 2})));
    await db.createCollection('even', {viewOn: 'c', pipeline: [{$match: {p: 0}}, {$project: {p: 0}}]});
    await db.createCollection('small', {viewOn: 'even', pipeline: [{$match: {v: {$lt: 5}}}]});
  });

  test('find, count, distinct, aggregate, in batches', async () => {
    assert.deepEqual((await db.collection('even').find({v: {$gt: 2}}, {sort: {v: -1}, limit: 2, projection: {v: 1, _id: 0}}).toArray()), [{v: 8}, {v: 6}]);
    assert.deepEqual((await db.collection('even').find({}, {batchSize: 2}).toArray()).map((d) => d._id), [0, 2, 4, 6, 8]);
    assert.equal(await db.collection('small').countDocuments(), 3);
    assert.equal(await db.collection('small').estimatedDocumentCount(), 3);
    assert.equal(await db.collection('small').countDocuments({v: {$gt: 0}}), 2);
    assert.deepEqual(await db.collection('small').distinct('v'), [0, 2, 4]);
    assert.deepEqual(await db.collection('small').findOne({_id: 2}), {_id: 2, v: 2});
    assert.equal(await db.collection('small').findOne({_id: 6}), null);
    assert.deepEqual((await run('small', [{$group: {_id: null, s: {$sum: '$v'}}}]))[0].s, 6);
    const [j] = await run('c', [{$match: {_id: 2}}, {$lookup: {from: 'small', localField: 'v', foreignField: 'v', as: 'r'}}]);
    assert.deepEqual(j.r, [{_id: 2, v: 2}]);
    assert.equal((await run('c', [{$unionWith: 'small'}])).length, 13);
  });

  test('is listed, and explained as what it stands on', async () => {
    const [info] = await db.listCollections({name: 'even'}).toArray();
    assert.equal(info.type, 'view');
    assert.deepEqual(info.info, {readOnly: true});
    assert.deepEqual(info.options, {viewOn: 'c', pipeline: [{$match: {p: 0}}, {$project: {p: 0}}]});
    const e = await db.collection('small').find({v: 2}).explain('executionStats');
    assert.equal(e.stages[0].$cursor.queryPlanner.namespace, `${db.databaseName}.c`);
    const stats = await db.stats();
    assert.deepEqual([stats.collections, stats.views], [1, 2]);
  });

  test('takes no writes, no indexes, no new name', async () => {
    const v = db.collection('even');
    for (const write of [() => v.insertOne({}), () => v.updateOne({}, {$set: {a: 1}}), () => v.deleteOne({}), () => v.findOneAndUpdate({}, {$set: {a: 1}}), () => v.rename('other'), () => run('c', [{$out: 'even'}]), () => run('c', [{$merge: 'even'}]), () => db.command({collStats: 'even'}), () => db.command({validate: 'even'}), () => v.watch().next()])
      assert.equal(await codeOf(write), 166, String(write));
    assert.equal(await codeOf(() => db.collection('c').rename('even')), 48);
  });

  test('made again, changed, dropped', async () => {
    await db.createCollection('even', {viewOn: 'c', pipeline: [{$match: {p: 0}}, {$project: {p: 0}}]});
    assert.equal(await codeOf(() => db.createCollection('even', {viewOn: 'c', pipeline: []})), 48);
    await db.command({collMod: 'even', viewOn: 'c', pipeline: [{$match: {p: 1}}]});
    assert.equal(await db.collection('even').countDocuments(), 5);
    assert.equal((await db.collection('even').findOne()).p, 1);
    assert.equal(await codeOf(() => db.command({collMod: 'even', validator: {}})), 72);
    await db.collection('even').drop();
    assert.equal(await db.collection('small').countDocuments(), 0);
    assert.equal(await db.collection('c').countDocuments(), 10);
  });

  test('cycles, depth and stages that write are refused', async () => {
    assert.equal(await codeOf(() => db.command({collMod: 'even', viewOn: 'small', pipeline: []})), 5);
    assert.equal(await codeOf(() => db.command({collMod: 'even', viewOn: 'c', pipeline: [{$unionWith: 'small'}]})), 5);
    assert.equal(await codeOf(() => db.createCollection('self', {viewOn: 'self', pipeline: []})), 5);
    assert.equal(await codeOf(() => db.createCollection('w', {viewOn: 'c', pipeline: [{$out: 'x'}]})), 167);
    assert.equal(await codeOf(() => db.createCollection('w', {viewOn: 'c', pipeline: [{$foo: 1}]})), 40324);
    assert.equal(await codeOf(() => db.createCollection('w', {viewOn: 'c', pipeline: [], validator: {a: 1}})), 72);
    let last = 'c', code = 0, made = 0;
    for (let i = 0; i < 30 && !code; i++) {
      try {
        await db.createCollection(`d${i}`, {viewOn: last, pipeline: []});
        last = `d${i}`;
        made++;
      } catch (e) {
        code = e.code;
      }
    }
    assert.equal(code, 165);
    assert.equal(made, 20);
    assert.equal(await db.collection(last).countDocuments(), 10);
  });

  test('outlives a restart', async () => {
    await client.close();
    await node.down();
    await node.up();
    client = await node.client();
    db = client.db(`agg${turn}`);
    assert.equal(await db.collection('small').countDocuments(), 3);
    assert.equal((await db.listCollections({type: 'view'}).toArray()).length, 2);
  });
});

describe('privileges', () => {
  test('each collection that a pipeline touches is asked for', async () => {
    await db.collection('mine').insertOne({_id: 1, k: 1});
    await db.collection('secret').insertOne({_id: 1, k: 1});
    await db.createCollection('window', {viewOn: 'secret', pipeline: []});
    const name = db.databaseName;
    const right = (collection, actions) => ({resource: {db: name, collection}, actions});
    await db.command({createRole: 'few', privileges: [right('mine', ['find']), right('window', ['find']), right('mine2', ['insert', 'update', 'find'])], roles: []});
    await db.command({createUser: 'eve', pwd: 'eve-password-1', roles: [{role: 'few', db: name}]});
    const eve = await node.client({driver: {auth: {username: 'eve', password: 'eve-password-1'}, authSource: name}});
    try {
      const go = (pipeline) => codeOf(() => eve.db(name).collection('mine').aggregate(pipeline).toArray());
      const lookup = {from: 'secret', localField: 'k', foreignField: 'k', as: 'r'};
      for (const stage of [{$lookup: lookup}, {$lookup: {from: 'secret', pipeline: [], as: 'r'}}, {$graphLookup: {from: 'secret', startWith: 1, connectFromField: 'k', connectToField: 'k', as: 'r'}}, {$unionWith: 'secret'}, {$unionWith: {coll: 'mine', pipeline: [{$lookup: lookup}]}}, {$facet: {a: [{$lookup: lookup}]}}, {$out: 'other'}, {$merge: 'other'}, {$out: 'mine2'}])
        assert.equal(await go([stage]), 13, JSON.stringify(stage));
      assert.equal((await eve.db(name).collection('mine').aggregate([{$lookup: {...lookup, from: 'mine'}}]).toArray())[0].r.length, 1);
      await eve.db(name).collection('mine').aggregate([{$merge: 'mine2'}]).toArray();
      assert.equal(await eve.db(name).collection('window').countDocuments(), 1);
      assert.equal(await codeOf(() => eve.db(name).collection('secret').findOne()), 13);
    } finally {
      await eve.close();
    }
  });
});

describe('$listSessions', () => {
  test("one's own, those of all for who may, from both places", async () => {
    const session = client.startSession();
    await db.collection('x').insertOne({}, {session});
    const own = session.id.id.toString('hex');
    const local = await client.db('admin').aggregate([{$listLocalSessions: {}}]).toArray();
    const listed = await client.db('config').collection('system.sessions').aggregate([{$listSessions: {}}]).toArray();
    for (const list of [local, listed]) {
      const [mine] = list.filter((s) => s._id.id.toString('hex').replaceAll('-', '') === own);
      assert.ok(mine.lastUse instanceof Date);
      assert.ok(Math.abs(mine.lastUse - Date.now()) < 60000);
      assert.equal(mine._id.uid.length(), 32);
    }
    await session.endSession();
    assert.equal(await codeOf(() => db.collection('x').aggregate([{$listSessions: {}}]).toArray()), 73);
    assert.equal(await codeOf(() => client.db('admin').aggregate([{$listLocalSessions: {allUsers: true, users: []}}]).toArray()), 12);
    await db.command({createUser: 'nosy', pwd: 'nosy-password-1', roles: []});
    const nosy = await node.client({driver: {auth: {username: 'nosy', password: 'nosy-password-1'}, authSource: db.databaseName}});
    try {
      const see = (spec) => nosy.db('admin').aggregate([{$listLocalSessions: spec}]).toArray();
      const uids = new Set((await see({})).map((s) => s._id.uid.toString('hex')));
      assert.ok(uids.size <= 1);
      assert.equal(await codeOf(() => see({allUsers: true})), 13);
      assert.equal(await codeOf(() => see({users: [{user: 'root', db: 'admin'}]})), 13);
    } finally {
      await nosy.close();
    }
    const all = await client.db('admin').aggregate([{$listLocalSessions: {allUsers: true}}]).toArray();
    assert.ok(new Set(all.map((s) => s._id.uid.toString('hex'))).size >= 2);
  });
});

// Pipelines for both. Known differences, left out here:
// - mingo joins null and missing apart, and compares arrays as wholes in $lookup;
// - it has no types of numbers: int, long and double are one, so sums are compared as numbers;
// - it gives fields of a computed document in another order now and then: documents are compared without regard to order;
// - it keeps equal sort keys and groups in the order of arrival, which MongoDB does not promise: results are put in order first;
// - a value that equals a boundary of $bucket goes into the bucket below it there;
// - $sample and $redact of arrays in arrays.
describe('the same as mingo', () => {
  const people = numbers(60, (i) => ({name: `n${i % 17}`, age: 20 + ((i * 7) % 45), city: ['Bonn', 'Lyon', 'Rome', 'Oslo'][i % 4], tags: ['a', 'b', 'c', 'd'].slice(i % 3, 1 + (i % 4)), boss: i === 0 ? 'none' : Math.floor((i - 1) / 3), at: {x: i % 5, y: [i % 2, i % 7]}}));
  const cities = [{_id: 1, name: 'Bonn', country: 'DE', size: 3}, {_id: 2, name: 'Lyon', country: 'FR', size: 5}, {_id: 3, name: 'Rome', country: 'IT', size: 28}, {_id: 4, name: 'Rome', country: 'US', size: 1}];
  const pipelines = {
    'lookup': [{$lookup: {from: 'cities', localField: 'city', foreignField: 'name', as: 'c'}}],
    'lookup and unwind': [{$lookup: {from: 'cities', localField: 'city', foreignField: 'name', as: 'c'}}, {$unwind: '$c'}, {$match: {'c.size': {$gt: 2}, age: {$lt: 50}}}, {$project: {name: 1, country: '$c.country'}}],
    'lookup, unwind keeping': [{$lookup: {from: 'cities', localField: 'city', foreignField: 'name', as: 'c'}}, {$unwind: {path: '$c', preserveNullAndEmptyArrays: true}}, {$project: {c: '$c._id'}}],
    'lookup with let': [{$match: {_id: {$lt: 12}}}, {$lookup: {from: 'cities', let: {n: '$city', a: '$age'}, pipeline: [{$match: {$expr: {$and: [{$eq: ['$name', '$$n']}, {$lt: ['$size', '$$a']}]}}}, {$project: {_id: 0, country: 1}}], as: 'c'}}],
    'union': [{$project: {name: 1}}, {$unionWith: {coll: 'cities', pipeline: [{$project: {name: 1, country: 1}}, {$match: {country: {$ne: 'US'}}}]}}, {$group: {_id: '$name', n: {$sum: 1}}}],
    'facet': [{$match: {age: {$gte: 30}}}, {$facet: {byCity: [{$sortByCount: '$city'}, {$sort: {count: -1, _id: 1}}], oldest: [{$sort: {age: -1, _id: 1}}, {$limit: 3}, {$project: {age: 1}}], tags: [{$unwind: '$tags'}, {$group: {_id: '$tags', n: {$sum: 1}}}, {$sort: {_id: 1}}]}}],
    'bucket': [{$bucket: {groupBy: '$age', boundaries: [19.5, 30.5, 40.5, 50.5], default: 'older', output: {n: {$sum: 1}, youngest: {$min: '$age'}}}}],
    'graph': [{$match: {_id: {$in: [40, 59, 7]}}}, {$graphLookup: {from: 'people', startWith: '$boss', connectFromField: 'boss', connectToField: '_id', as: 'chain', depthField: 'd'}}, {$project: {chain: {$map: {input: {$sortArray: {input: '$chain', sortBy: {_id: 1}}}, as: 'c', in: '$$c._id'}}}}],
    'redact': [{$project: {age: 1, at: {x: 1}}}, {$redact: {$cond: [{$eq: ['$x', 3]}, '$$PRUNE', '$$DESCEND']}}],
    'match moved in front': [{$addFields: {twice: {$multiply: ['$age', 2]}}}, {$unwind: '$tags'}, {$sort: {_id: 1, tags: 1}}, {$match: {city: 'Oslo', twice: {$gt: 60}, tags: {$ne: 'b'}}}, {$project: {twice: 1, tags: 1}}],
    'match behind project': [{$project: {at: 1, name: 1}}, {$match: {'at.y': 0, name: {$in: ['n1', 'n2', 'n3']}}}, {$unset: 'at'}],
    'cuts': [{$sort: {age: 1, _id: 1}}, {$skip: 2}, {$skip: 3}, {$limit: 10}, {$limit: 4}, {$project: {age: 1}}],
  };
  const plain = (v) => JSON.parse(JSON.stringify(v));
  const sorted = (v) => (Array.isArray(v) ? v.map(sorted) : v && typeof v === 'object' ? Object.fromEntries(Object.keys(v).sort().map((k) => [k, sorted(v[k])])) : v);
  const canonical = (docs) => docs.map((d) => JSON.stringify(sorted(plain(d)))).sort();

  for (const [what, pipeline] of Object.entries(pipelines))
    test(what, async () => {
      await db.collection('people').insertMany(people);
      await db.collection('cities').insertMany(cities);
      const ours = await run('people', pipeline, {batchSize: 3});
      const theirs = new Aggregator(pipeline, {collectionResolver: (name) => structuredClone({people, cities}[name])}).run(structuredClone(people));
      assert.ok(theirs.length > 0);
      assert.deepEqual(canonical(ours), canonical(theirs));
    });
});
