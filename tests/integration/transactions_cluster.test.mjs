// transactions_cluster.test.mjs — transactions on three real nodes: storage is killed, primaries step down; money stays, and the histories of
// lists show nothing that snapshot isolation forbids.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Cluster} from '../support/cluster.mjs';
import {until} from '../support/node.mjs';
import {Lists, mover} from './transactions_suite.mjs';

let set, client;
before(async () => {
  set = await Cluster.start({});
  client = await set.client({driver: {retryWrites: true, retryReads: true, maxPoolSize: 60}});
}, {timeout: 120000});
after(async () => await set?.stop(), {timeout: 60000});

test('16 clients move money through deaths of storage and a step-down', {timeout: 400000}, async () => {
  const db = client.db('txn'), accounts = 20, collection = db.collection('accounts');
  await collection.insertMany(Array.from({length: accounts}, (_, i) => ({_id: i, n: 100})));
  const state = {running: true, moved: 0, errors: []};
  const lists = new Lists(db.collection('lists'), {clients: 4});
  const movers = Array.from({length: 16}, () => mover(client, collection, accounts, state));
  await lists.run(client);
  const more = async () => {
    const from = state.moved;
    await until(`money moves (${state.errors.slice(-1)})`, () => state.moved >= from + 40, 90000);
  };
  try {
    await more();
    for (let round = 0; round < 2; round++) {
      const primary = await set.primary();
      const {starts} = await set.killWorker(primary, 'storaged');
      await set.workerBack(primary, 'storaged', starts);
      await set.primary();
      await more();
      await set.stepDown();
      await more();
    }
    const secondary = (await set.secondaries())[0];
    const {starts} = await set.killWorker(secondary, 'storaged');
    await set.workerBack(secondary, 'storaged', starts);
    await more();
  } finally {
    state.running = false;
    await Promise.all(movers);
    await lists.stop();
  }
  await set.whole();
  assert.deepEqual(state.errors.map((e) => `${e.code} ${e.message}`), []);
  assert.deepEqual(lists.errors.map((e) => `${e.code} ${e.message}`), []);
  const all = await collection.find({}, {readConcern: {level: 'majority'}}).toArray();
  assert.equal(all.reduce((sum, d) => sum + d.n, 0), accounts * 100);
  assert.deepEqual(await lists.finish(), []);
  assert.ok(lists.history.filter((t) => t.status === 'ok').length > 50);
  await set.equal('txn');
  for (const name of set.names) {
    const one = await set.client({node: name, driver: {readPreference: 'secondaryPreferred'}});
    await until(`none is open on ${name}`, async () => (await one.db('admin').command({serverStatus: 1})).transactions.currentOpen === 0);
    for (const c of ['accounts', 'lists']) assert.equal((await one.db('txn').command({validate: c, full: true})).valid, true);
    await one.close(true);
  }
});

test('a large transaction arrives whole on every node', {timeout: 120000}, async () => {
  const c = client.db('big').collection('c'), text = 'x'.repeat(1024 * 1024);
  await client.withSession(async (session) => session.withTransaction(async () => {
    for (let i = 0; i < 18; i++) await c.insertOne({_id: i, text}, {session});
    await c.updateMany({_id: {$lt: 3}}, {$set: {n: 1}}, {session});
  }, {writeConcern: {w: 3}}));
  assert.equal(await c.countDocuments(), 18);
  await set.equal('big');
});

test('collections and indexes that a transaction makes are the same on every node; those of an aborted one on none', {timeout: 120000}, async () => {
  const db = client.db('made'), session = client.startSession();
  const fill = async (name) => {
    await db.collection(name).createIndex({a: 1}, {session, unique: true});
    await db.collection(name).insertMany([{_id: 1, a: 1}, {_id: 2, a: 2}], {session});
    await db.createCollection(`${name}_empty`, {session});
  };
  await session.withTransaction(async () => await fill('kept'));
  await assert.rejects(session.withTransaction(async () => {
    await fill('lost');
    throw new Error('no');
  }), /no/);
  await session.endSession();
  await set.equal('made');
  for (const node of set.names) {
    const own = (await set.client({node, driver: {readPreference: 'secondaryPreferred'}})).db('made');
    assert.deepEqual((await own.listCollections({}, {nameOnly: true}).toArray()).map((c) => c.name).sort(), ['kept', 'kept_empty'], node);
    assert.deepEqual(await own.collection('kept').find({a: 2}).hint('a_1').toArray(), [{_id: 2, a: 2}], node);
    assert.equal((await own.command({validate: 'kept'})).valid, true, node);
  }
});
