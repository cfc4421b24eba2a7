// Queries on secondary indexes through the official Node driver: what explain says, hints, that results are those of a scan, that writes find the same.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Node, codeOf} from '../support/node.mjs';

let node, client, db, c;
before(async () => {
  node = await Node.start();
  client = await node.client();
  db = client.db('planner');
  c = db.collection('orders');
  await c.insertMany([...Array(2000).keys()].map((i) => ({
    _id: i, user: i % 200, at: new Date(1.7e12 + i * 1000), total: (i * 7919) % 1000, status: i % 20 === 0 ? 'open' : 'done',
    tags: [`t${i % 30}`, `u${i % 7}`], lines: [{sku: i % 50, n: i % 3}, {sku: (i * 3) % 50, n: i % 5}], ...(i % 10 === 0 ? {note: `n${i}`} : {}),
  })));
  await c.createIndexes([
    {key: {user: 1, at: -1}}, {key: {status: 1, total: 1}}, {key: {tags: 1}}, {key: {'lines.sku': 1, 'lines.n': 1}, name: 'lines'},
    {key: {note: 1}, sparse: true}, {key: {total: 1}, name: 'open_total', partialFilterExpression: {status: 'open'}}, {key: {user: 'hashed'}},
  ]);
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const leaf = (stage) => (stage.inputStage ? leaf(stage.inputStage) : stage);
const explained = async (cursor) => await cursor.explain('executionStats');
const scan = {hint: {$natural: 1}};

test('each query gives what a scan of the collection gives', async () => {
  const queries = [
    [{user: 7}], [{user: {$in: [3, 150]}}, {sort: {at: -1}}], [{user: 7, at: {$gte: new Date(1.7e12 + 1e6)}}], [{status: 'open', total: {$lt: 500}}],
    [{tags: 't3'}], [{tags: {$all: ['t3', 'u3']}}], [{lines: {$elemMatch: {sku: 3, n: 1}}}], [{'lines.sku': 3, 'lines.n': 1}], [{note: {$exists: true}}],
    [{note: /^n1/}, {sort: {note: 1}}], [{$or: [{user: 3}, {tags: 't9', total: {$gt: 900}}]}], [{status: 'open', total: {$gt: 900}}, {sort: {total: -1}}],
    [{status: {$ne: 'done'}}], [{total: {$not: {$lt: 995}}}], [{note: null, user: 9}], [{_id: {$gte: 1990}, user: {$gt: 100}}],
  ];
  for (const [filter, options = {}] of queries) {
    const is = await c.find(filter, options).toArray(), want = await c.find(filter, {...options, ...scan}).toArray();
    const by = (docs) => docs.map((d) => d._id).sort((a, b) => a - b);
    assert.deepEqual(by(is), by(want), JSON.stringify(filter));
    assert.ok(want.length > 0, JSON.stringify(filter));
    if (options.sort) assert.deepEqual(is.map((d) => d.at && d.total), want.map((d) => d.at && d.total));
    assert.equal(await c.countDocuments(filter), want.length);
    assert.deepEqual((await c.distinct('user', filter)).sort((a, b) => a - b), [...new Set(want.map((d) => d.user))].sort((a, b) => a - b));
  }
});

test('explain names the index, its bounds and what was examined', async () => {
  const plan = await explained(c.find({user: 7}).sort({at: -1}).limit(3));
  const ix = leaf(plan.queryPlanner.winningPlan);
  assert.equal(ix.stage, 'IXSCAN');
  assert.equal(ix.indexName, 'user_1_at_-1');
  assert.deepEqual(ix.indexBounds.user, ['[7, 7]']);
  assert.equal(plan.executionStats.nReturned, 3);
  assert.equal(plan.executionStats.totalKeysExamined, 3);
  assert.equal(plan.executionStats.totalDocsExamined, 3);
  assert.ok(!JSON.stringify(plan.queryPlanner.winningPlan).includes('"SORT"'));
  assert.ok(plan.queryPlanner.rejectedPlans.length > 0);
  assert.ok(plan.queryPlanner.estimates.cost > 0);

  const covered = await explained(c.find({status: 'open'}, {projection: {_id: 0, total: 1}}));
  assert.equal(covered.executionStats.totalDocsExamined, 0);
  assert.equal(covered.queryPlanner.winningPlan.stage, 'PROJECTION_COVERED');
  const group = await c.aggregate([{$match: {status: 'open'}}, {$group: {_id: null, sum: {$sum: '$total'}}}]).explain('executionStats');
  assert.equal(group.stages[0].$cursor.executionStats.totalDocsExamined, 0);
  const counted = await db.command({explain: {count: 'orders', query: {tags: 't3'}}, verbosity: 'executionStats'});
  assert.equal(leaf(counted.queryPlanner.winningPlan).stage, 'COUNT_SCAN');
  const update = await db.command({explain: {update: 'orders', updates: [{q: {user: 7}, u: {$set: {x: 1}}, multi: true}]}, verbosity: 'executionStats'});
  assert.equal(leaf(update.queryPlanner.winningPlan).stage, 'IXSCAN');
  assert.equal(update.executionStats.executionStages.nMatched, 10);
  assert.equal(await c.countDocuments({x: 1}), 0);
});

test('hints by name and by pattern, and bad ones', async () => {
  for (const hint of ['status_1_total_1', {status: 1, total: 1}]) {
    const plan = await explained(c.find({user: 7, status: 'done'}).hint(hint));
    assert.equal(leaf(plan.queryPlanner.winningPlan).indexName, 'status_1_total_1');
  }
  for (const run of [
    () => c.find({}).hint('nope').toArray(), () => c.countDocuments({a: 1}, {hint: {nope: 1}}), () => c.aggregate([{$match: {a: 1}}], {hint: 'nope'}).toArray(),
    () => c.updateOne({user: 1}, {$set: {x: 1}}, {hint: 'nope'}), () => c.deleteMany({user: 1}, {hint: 'nope'}),
    () => c.findOneAndUpdate({user: 1}, {$set: {x: 1}}, {hint: 'nope'}),
  ]) assert.equal(await codeOf(run), 2);
  assert.equal((await c.find({}).hint('note_1').toArray()).length, 200, 'a sparse index gives what it has');
  assert.equal(await codeOf(() => c.find({total: 5}).hint('open_total').toArray()), 291);
  const keys = await c.find({}).hint('user_1_at_-1').min({user: 5, at: new Date(2e12)}).max({user: 6, at: new Date(2e12)}).returnKey(true).toArray();
  assert.equal(keys.length, 10);
  assert.deepEqual(Object.keys(keys[0]), ['user', 'at']);
});

test('cursors go on over batches while documents change', async () => {
  const d = db.collection('moving');
  await d.insertMany([...Array(500).keys()].map((i) => ({_id: i, a: i})));
  await d.createIndex({a: 1});
  const seen = new Set();
  for await (const doc of d.find({a: {$gte: 0}}).hint('a_1').batchSize(20)) {
    assert.ok(!seen.has(doc._id) || doc.a >= 1000, 'only what was moved comes again');
    seen.add(doc._id);
    if (doc._id % 50 === 0 && doc.a < 1000) await d.updateOne({_id: doc._id}, {$inc: {a: 1000}});
  }
  assert.equal(seen.size, 500);
  const r = await d.updateMany({a: {$gte: 0}}, {$inc: {a: 10000, n: 1}}, {hint: 'a_1'});
  assert.equal(r.modifiedCount, 500);
  assert.equal(await d.countDocuments({n: 1}), 500);
});

test('an index that goes under a cursor: error 175, and the next query is planned without it', async () => {
  const d = db.collection('dropped');
  await d.insertMany([...Array(300).keys()].map((i) => ({_id: i, a: i})));
  await d.createIndex({a: 1});
  const cursor = d.find({a: {$gte: 0}}).hint('a_1').batchSize(10);
  await cursor.next();
  await d.dropIndex('a_1');
  assert.equal(await codeOf(() => cursor.toArray()), 175);
  assert.equal((await d.find({a: {$lt: 5}}).toArray()).length, 5);
});

test('the plan cache can be seen and cleared', async () => {
  await c.find({user: 11, total: {$gt: 5}}).toArray();
  const stats = await c.aggregate([{$planCacheStats: {}}]).toArray();
  assert.ok(stats.length > 0 && stats[0].queryHash);
  await db.command({planCacheClear: 'orders'});
  assert.deepEqual(await c.aggregate([{$planCacheStats: {}}]).toArray(), []);
});

test('index filters and trials of all plans', async () => {
  const filter = {user: 7, status: 'done'};
  const all = (await c.find(filter).explain('allPlansExecution')).executionStats.allPlansExecution;
  assert.ok(all.length >= 2);
  for (const trial of all) assert.ok(trial.totalKeysExamined + trial.totalDocsExamined > 0 && trial.executionStages.nReturned >= 0);
  await db.command({planCacheSetFilter: 'orders', query: filter, indexes: ['status_1_total_1']});
  const {queryPlanner} = await explained(c.find({user: 8, status: 'open'}));
  assert.equal(queryPlanner.indexFilterSet, true);
  assert.equal(leaf(queryPlanner.winningPlan).indexName, 'status_1_total_1');
  assert.equal((await db.command({planCacheListFilters: 'orders'})).filters.length, 1);
  const asked = {user: 9, status: 'open'};
  await c.find(asked).toArray();
  const cached = (await c.aggregate([{$planCacheStats: {}}]).toArray()).find((one) => one.createdFromQuery?.query.user === 9);
  if (cached) { // one that is cheap enough to be kept
    assert.deepEqual(cached.createdFromQuery, {query: asked, sort: {}, projection: {}});
    assert.equal(cached.indexFilterSet, true);
  }
  await db.command({planCacheClearFilters: 'orders'});
  assert.equal((await explained(c.find(filter))).queryPlanner.indexFilterSet, false);
});
