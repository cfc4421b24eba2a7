// The gateway's cache of results on three nodes: who no longer leads serves nothing that was kept, through hand-overs under load.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Cluster} from '../support/cluster.mjs';
import {until} from '../support/node.mjs';

const KEYS = ['a', 'b', 'c'], HAND_OVERS = 3;
let set, client;

before(async () => {
  set = await Cluster.start({});
  client = await set.client({driver: {retryWrites: true, retryReads: true}});
}, {timeout: 120000});
after(async () => await set?.stop(), {timeout: 60000});

async function handOver() {
  const old = await set.primary(), next = set.names.find((n) => n !== old);
  await set.vedctl(next, 'replication', 'freeze', '0').catch(() => {}); // it may not be frozen
  await set.vedctl(old, 'replication', 'promote', next);
  await until('the other one leads', async () => (await set.primary()) === next);
  return {old, next};
}

test('a majority read is never older than what was acknowledged before it began', {timeout: 240000}, async () => {
  const c = client.db('kept').collection('c'), floor = new Map(KEYS.map((k) => [k, 0])), wrong = [];
  const state = {running: true, reads: 0, writes: 0};
  const raise = (key, n) => n > floor.get(key) && floor.set(key, n);
  await c.insertMany(KEYS.map((_id) => ({_id, n: 0})), {writeConcern: {w: 'majority'}});
  const writer = async (w) => {
    for (let i = w; state.running; i++) {
      const key = KEYS[i % KEYS.length];
      try {
        const d = await c.findOneAndUpdate({_id: key}, {$inc: {n: 1}}, {returnDocument: 'after', writeConcern: {w: 'majority', wtimeoutMS: 10000}});
        raise(key, d.n);
        state.writes++;
      } catch {} // whether it was done is not known
    }
  };
  const reader = async (r) => {
    for (let i = r; state.running; i++) {
      const key = KEYS[i % KEYS.length], least = floor.get(key);
      try {
        const {n} = await c.findOne({_id: key}, {readConcern: {level: 'majority'}});
        if (n < least) wrong.push(`${key}: ${n} after ${least}`);
        raise(key, n);
        state.reads++;
      } catch {}
    }
  };
  const more = async () => {
    const {reads, writes} = state;
    await until('all get on', () => wrong.length > 0 || (state.reads > reads + 200 && state.writes > writes + 20), 90000);
    assert.deepEqual(wrong, []);
  };
  const tasks = [writer(0), writer(1), reader(0), reader(1), reader(2)];
  try {
    await more();
    for (let i = 0; i < HAND_OVERS; i++) {
      await handOver();
      await more();
    }
  } finally {
    state.running = false;
    await Promise.all(tasks);
  }
  assert.deepEqual(wrong, []);
});

test('a member that led shows what it has, not what it kept', {timeout: 120000}, async () => {
  const old = await set.primary(), direct = await set.client({node: old, driver: {directConnection: true, readPreference: 'secondaryPreferred'}});
  const read = async () => (await direct.db('kept').collection('d').findOne({_id: 1})).n;
  const write = (n) => client.db('kept').collection('d').updateOne({_id: 1}, {$set: {n}}, {upsert: true, writeConcern: {w: 3, wtimeoutMS: 60000}});
  await write(1);
  for (let i = 0; i < 5; i++) assert.equal(await read(), 1); // it is kept by now
  await handOver();
  for (let n = 2; n < 10; n++) {
    await write(n);
    assert.equal(await read(), n);
  }
});
