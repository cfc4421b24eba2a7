// What does not fit into memory goes to sealed, nameless files; windows, gaps and buckets through the stock driver.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {Node, codeOf, foundInFiles, until} from '../support/node.mjs';

const MARK = 'Achthundert-Eisvoegel-4711';
let node, client, db, seed;
before(async () => {
  node = await Node.start();
  client = await node.client();
  db = client.db('windows');
  seed = db.collection('seed');
  await seed.insertOne({_id: 1});
});
after(async () => {
  await client?.close();
  await node?.stop();
});

/** count documents of about 1 KB, made by the pipeline itself. */
const many = (count) => [
  {$project: {a: {$range: [0, count / 1000]}}}, {$unwind: '$a'}, {$set: {b: {$range: [0, 1000]}}}, {$unwind: '$b'},
  {$project: {_id: {$add: [{$multiply: ['$a', 1000]}, '$b']}, k: {$mod: [{$multiply: [{$add: [{$multiply: ['$a', 1000]}, '$b']}, 7919]}, 1000003]}, pad: {$concat: Array(40).fill(`${MARK} `)}}},
];
const spillFolder = () => path.join(node.dir, 'data', 'data', 'spill');
/** Bytes of the files without a name that storaged has in the folder. */
const spilledNow = (pid) => {
  let bytes = 0;
  for (const fd of fs.readdirSync(`/proc/${pid}/fd`)) {
    try {
      if (fs.readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith(`${spillFolder()}/`)) bytes += fs.statSync(`/proc/${pid}/fd/${fd}`).size;
    } catch {}
  }
  return bytes;
};

test('a sort and a group over what fits into memory end, in order, and say so', async () => {
  let last = -1, n = 0;
  for await (const d of seed.aggregate([...many(130000), {$sort: {k: 1}}, {$project: {k: 1}}])) {
    assert.ok(d.k > last, `${d.k} behind ${last}`);
    last = d.k;
    n++;
  }
  assert.equal(n, 130000);
  const groups = await seed.aggregate([...many(130000), {$group: {_id: {k: '$k', p: '$pad'}, n: {$sum: 1}}}, {$group: {_id: '$n', n: {$sum: 1}}}]).toArray();
  assert.deepEqual(groups, [{_id: 1, n: 130000}]);
  const plan = await seed.aggregate([...many(130000), {$group: {_id: {k: '$k', p: '$pad'}}}, {$count: 'n'}]).explain('executionStats');
  const stage = plan.stages.find((s) => s.$group);
  assert.equal(stage.usedDisk, true);
  assert.ok(stage.spills > 0 && stage.spilledDataStorageSize > 1e6 && stage.spilledRecords > 0, JSON.stringify(stage));
  assert.match(node.log(), /slow operation.*used_disk=true/);
  assert.deepEqual(fs.readdirSync(spillFolder()), []);
});

test('allowDiskUse: false is refused with 292; so is one group that can not be divided, with 146', async () => {
  assert.equal(await codeOf(() => seed.aggregate([...many(130000), {$sort: {k: 1}}], {allowDiskUse: false}).toArray()), 292);
  assert.equal(await codeOf(() => seed.aggregate([...many(130000), {$group: {_id: {k: '$k', p: '$pad'}}}], {allowDiskUse: false}).toArray()), 292);
  assert.equal(await codeOf(() => seed.aggregate([...many(130000), {$group: {_id: 1, all: {$push: '$pad'}}}]).toArray()), 146);
});

test("find's sort", async () => {
  const c = db.collection('large');
  const pad = MARK.repeat(40000);
  for (let i = 0; i < 110; i++) await c.insertOne({_id: i, k: (i * 37) % 110, pad});
  const order = (await c.find({}, {projection: {k: 1}}).sort({k: -1}).toArray()).map((d) => d.k);
  assert.deepEqual(order, [...Array(110).keys()].reverse());
  assert.equal(await codeOf(() => c.find({}, {projection: {k: 1}, allowDiskUse: false}).sort({k: 1}).toArray()), 292);
  assert.equal((await c.find({}, {projection: {k: 1}, allowDiskUse: false}).sort({k: 1}).limit(3).toArray()).length, 3);
  const plan = await c.find().sort({k: 1}).explain('executionStats');
  const find = (s) => (s.stage === 'SORT' ? s : find(s.inputStage));
  assert.equal(find(plan.executionStats.executionStages).usedDisk, true);
  await c.drop();
});

test('a query that spills ends when its time is over', async () => {
  assert.equal(await codeOf(() => seed.aggregate([...many(3000000), {$sort: {k: 1}}, {$count: 'n'}], {maxTimeMS: 1500}).toArray()), 50);
  const worker = await node.worker('storaged');
  await until('its files are gone', () => spilledNow(worker.pid) === 0);
});

test('storaged is killed while a query spills: nothing of it stays, nothing of it could be read', async () => {
  // The gateway asks the next storaged again; the time is over then.
  const query = codeOf(() => seed.aggregate([...many(3000000), {$sort: {k: 1}}, {$count: 'n'}], {maxTimeMS: 12000}).toArray());
  const {pid} = await node.worker('storaged');
  await until('it has spilled', () => spilledNow(pid) > 50e6);
  assert.deepEqual(fs.readdirSync(spillFolder()), [], 'a file has a name');
  for (const fd of fs.readdirSync(`/proc/${pid}/fd`)) {
    let target = '';
    try {
      target = fs.readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {}
    if (target.startsWith(`${spillFolder()}/`)) {
      const head = Buffer.alloc(4e6);
      const file = fs.openSync(`/proc/${pid}/fd/${fd}`);
      const read = fs.readSync(file, head, 0, head.length, 0);
      fs.closeSync(file);
      assert.equal(head.subarray(0, read).includes('Eisvoegel'), false, 'a spill file is readable');
    }
  }
  fs.writeFileSync(path.join(spillFolder(), 'run-left'), 'of a crash');
  process.kill(pid, 'SIGKILL');
  await until('another one runs', async () => {
    const worker = await node.worker('storaged').catch(() => null);
    return worker?.state === 'running' && worker.pid !== pid;
  });
  await node.whole();
  assert.equal((await seed.find().toArray()).length, 1);
  assert.equal(await query, 50);
  assert.deepEqual(fs.readdirSync(spillFolder()), []);
  assert.deepEqual(foundInFiles(path.join(node.dir, 'data'), MARK), []);
});

test('windows, gaps, buckets and percentiles', async () => {
  const c = db.collection('sales');
  const day = (n) => new Date(Date.UTC(2024, 0, n));
  await c.insertMany([{_id: 1, s: 'a', d: day(1), x: 10}, {_id: 2, s: 'a', d: day(2), x: 20}, {_id: 3, s: 'a', d: day(4), x: 60}, {_id: 4, s: 'b', d: day(1), x: 5}]);
  const run = (...stages) => c.aggregate(stages).toArray();
  assert.deepEqual(
    await run({$setWindowFields: {partitionBy: '$s', sortBy: {d: 1}, output: {sum: {$sum: '$x', window: {documents: ['unbounded', 'current']}}, two: {$avg: '$x', window: {range: [-1, 'current'], unit: 'day'}}, rank: {$rank: {}}}}}, {$sort: {_id: 1}}, {$project: {sum: 1, two: 1, rank: 1}}),
    [{_id: 1, sum: 10, two: 10, rank: 1}, {_id: 2, sum: 30, two: 15, rank: 2}, {_id: 3, sum: 90, two: 60, rank: 3}, {_id: 4, sum: 5, two: 5, rank: 1}],
  );
  assert.deepEqual(
    await run({$match: {s: 'a'}}, {$densify: {field: 'd', range: {step: 1, unit: 'day', bounds: 'full'}}}, {$fill: {sortBy: {d: 1}, output: {x: {method: 'linear'}, s: {value: 'none'}}}}, {$project: {_id: 0, d: 1, x: 1, s: 1}}),
    [{s: 'a', d: day(1), x: 10}, {s: 'a', d: day(2), x: 20}, {d: day(3), x: 40, s: 'none'}, {s: 'a', d: day(4), x: 60}],
  );
  assert.deepEqual(await run({$bucketAuto: {groupBy: '$x', buckets: 2, output: {ids: {$push: '$_id'}}}}), [{_id: {min: 5, max: 20}, ids: [4, 1]}, {_id: {min: 20, max: 60}, ids: [2, 3]}]);
  assert.deepEqual(
    await run({$group: {_id: null, m: {$median: {input: '$x', method: 'approximate'}}, p: {$percentile: {input: '$x', p: [0, 0.9], method: 'approximate'}}}}),
    [{_id: null, m: 10, p: [5, 60]}],
  );
  assert.equal(await codeOf(() => run({$setWindowFields: {output: {r: {$rank: {}}}}})), 5371602);
});
