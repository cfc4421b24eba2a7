// streams_cluster.test.mjs — change streams on three real nodes: over deaths of storage and a step-down, on a secondary, with a filter; and the lag
// of members in entries, in status, table and metrics.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Cluster} from '../support/cluster.mjs';
import {metrics} from '../support/metrics.mjs';
import {until} from '../support/node.mjs';

let set, client;
before(async () => {
  set = await Cluster.start({});
  client = await set.client({driver: {retryWrites: true, retryReads: true, maxPoolSize: 60}});
}, {timeout: 120000});
after(async () => await set?.stop(), {timeout: 60000});

/** Writes until told to stop; resolves to the keys that are there. */
function writer(collection, group) {
  const state = {written: [], running: true};
  state.done = (async () => {
    for (let i = 0; state.running; i++) {
      for (;;) {
        try {
          await collection.insertOne({_id: `${group}${i}`, group}, {writeConcern: {w: 'majority', wtimeoutMS: 20000}});
          break;
        } catch (e) {
          if (e.code === 11000) break; // an attempt of ours had been written
        }
      }
      state.written.push(`${group}${i}`);
    }
  })();
  return state;
}

/** Everything of a stream up to the event of `last`. */
async function told(stream, last) {
  const seen = [];
  for (;;) {
    const event = await stream.next();
    if (event.documentKey._id === last) return seen;
    seen.push(event.documentKey._id);
  }
}

test('streams with and without filter, on the primary and on a secondary, over deaths and a step-down', {timeout: 400000}, async () => {
  const c = client.db('streams').collection('c');
  const away = await set.client({driver: {readPreference: 'secondaryPreferred', retryReads: true}});
  await c.insertOne({_id: 'first'}, {writeConcern: {w: 3, wtimeoutMS: 60000}});
  const only = (group) => [{$match: {operationType: 'insert', $or: [{'fullDocument.group': group}, {'documentKey._id': 'last'}]}}];
  const streams = {
    all: c.watch([], {maxAwaitTimeMS: 1000}),
    even: c.watch(only('a'), {maxAwaitTimeMS: 1000}),
    secondary: away.db('streams').collection('c').watch(only('b'), {maxAwaitTimeMS: 1000}),
    database: away.db('streams').watch([], {maxAwaitTimeMS: 1000}),
  };
  for (const s of Object.values(streams)) await s.tryNext();
  const reading = Object.fromEntries(Object.entries(streams).map(([name, s]) => [name, told(s, 'last')]));
  const a = writer(c, 'a'), b = writer(c, 'b');
  const more = async () => {
    const from = a.written.length;
    await until('writes go on', () => a.written.length >= from + 30, 90000);
  };
  try {
    await more();
    const primary = await set.primary();
    const {starts} = await set.killWorker(primary, 'storaged');
    await set.workerBack(primary, 'storaged', starts);
    await set.primary();
    await more();
    await set.stepDown();
    await more();
  } finally {
    a.running = b.running = false;
    await Promise.all([a.done, b.done]);
  }
  await until('the end is written', async () => {
    try {
      await c.updateOne({_id: 'last'}, {$set: {n: 1}}, {upsert: true, writeConcern: {w: 'majority'}});
      return true;
    } catch {
      return false;
    }
  });
  const seen = {};
  for (const name of Object.keys(reading)) seen[name] = await reading[name];
  for (const s of Object.values(streams)) await s.close();
  const of = (group, list) => list.filter((id) => id.startsWith(group));
  assert.deepEqual(seen.even, a.written);
  assert.deepEqual(seen.secondary, b.written);
  for (const name of ['all', 'database']) {
    assert.equal(seen[name].length, a.written.length + b.written.length, name);
    assert.deepEqual(of('a', seen[name]), a.written);
    assert.deepEqual(of('b', seen[name]), b.written);
  }
  await away.close();
});

test('lag in entries: exactly what a member has yet to take, in every place that shows it', {timeout: 200000}, async () => {
  await set.whole();
  const c = client.db('streams').collection('lag');
  const primary = await set.primary();
  const name = set.names.find((n) => n !== primary);
  const admin = await set.client({node: primary, driver: {directConnection: true}});
  const member = async (who = name) => (await set.status(primary))?.members.find((m) => m.name === who);
  await until('nobody is behind', async () => (await set.status(primary)).members.every((m) => m.lagEntries === 0 && m.lagReceivedEntries === 0 && m.lagFlushedEntries === 0), 60000);
  await set.killNode(name);
  const count = 500;
  for (let i = 0; i < count; i++) await c.insertOne({_id: i}, {writeConcern: {w: 1}});
  const shown = await until('it is behind by them', async () => {
    const m = await member();
    return m.lagEntries >= count && m;
  });
  assert.equal(shown.lagEntriesAtLeast, false);
  // The oplog shows one document for each entry that is a no-op, a creation or one insert: and nothing else is above its position.
  await until('status says what the oplog holds', async () => {
    const status = await admin.db('admin').command({replSetGetStatus: 1});
    const theirs = status.members.find((m) => m.veddb?.name === name);
    const entries = await admin.db('local').collection('oplog.rs').distinct('ts', {ts: {$gt: theirs.optime.ts}});
    const {lagReceivedEntries, lagFlushedEntries, lagAppliedEntries} = theirs.veddb;
    return entries.length >= count && lagAppliedEntries === entries.length && lagReceivedEntries >= count && lagFlushedEntries >= count;
  });
  const table = (await set.vedctl(primary, 'replication', 'status')).stdout;
  assert.match(table, new RegExp(`^${name} .* \\d{3}/\\d{3}/\\d{3}  `, 'm'));
  const page = await metrics({...set.info, ...set.node(primary)});
  for (const stage of ['received', 'flushed', 'applied']) assert.ok(page[`veddb_replication_member_lag_entries{member="${name}",stage="${stage}"}`] >= count, stage);
  await set.startNode(name);
  await until('it is level', async () => {
    const m = await member();
    return m.lagEntries === 0 && m.lagReceivedEntries === 0 && m.lagFlushedEntries === 0;
  }, 60000);
  await admin.close();
});
