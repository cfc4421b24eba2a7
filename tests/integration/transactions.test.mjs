// Multi-document transactions through the official driver, on one node: what is seen, labels, cursors, ends, and storage killed in the middle.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Node, codeOf, sleep, until} from '../support/node.mjs';
import {Lists, mover} from './transactions_suite.mjs';

let node, client, db;
before(async () => {
  node = await Node.start();
  client = await node.client({driver: {maxPoolSize: 100}});
  db = client.db('txn');
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const status = async () => (await client.db('admin').command({serverStatus: 1})).transactions;
async function fails(fn, code, label) {
  try {
    await fn();
  } catch (e) {
    assert.equal(e.code, code, e.message);
    if (label) assert.ok(e.hasErrorLabel(label), `${label} of ${e.message}`);
    return e;
  }
  assert.fail(`no error ${code}`);
}

test('withTransaction: reads its own writes, others see them at once', async () => {
  const a = db.collection('a'), b = db.collection('b'); // made by the transaction
  await client.withSession(async (session) => {
    await session.withTransaction(async () => {
      await a.insertMany([{_id: 1, n: 1}, {_id: 2, n: 2}], {session});
      await b.updateOne({_id: 'sum'}, {$inc: {n: 3}}, {session, upsert: true});
      assert.equal(await a.countDocuments({}, {session}), 2);
      assert.deepEqual(await a.distinct('n', {}, {session}), [1, 2]);
      assert.deepEqual(await a.find({}, {session, batchSize: 1}).toArray(), [{_id: 1, n: 1}, {_id: 2, n: 2}]);
      assert.deepEqual(await a.findOneAndUpdate({_id: 1}, {$inc: {n: 1}}, {session, returnDocument: 'after'}), {_id: 1, n: 2});
      assert.deepEqual(await a.aggregate([{$group: {_id: null, n: {$sum: '$n'}}}], {session}).toArray(), [{_id: null, n: 4}]);
      await a.bulkWrite([{insertOne: {document: {_id: 3}}}, {deleteOne: {filter: {_id: 2}}}], {session});
      assert.equal(await a.countDocuments({}), 0);
    }, {readConcern: {level: 'snapshot'}, writeConcern: {w: 'majority'}});
  });
  assert.deepEqual(await a.find().toArray(), [{_id: 1, n: 2}, {_id: 3}]);
  assert.deepEqual(await b.find().toArray(), [{_id: 'sum', n: 3}]);
  assert.deepEqual((await db.command({validate: 'a', full: true})).valid, true);
});

test('errors and their labels', async () => {
  const c = db.collection('labels');
  await c.insertOne({_id: 1});
  await client.withSession(async (one) => client.withSession(async (two) => {
    one.startTransaction();
    two.startTransaction();
    await c.updateOne({_id: 1}, {$set: {by: 'one'}}, {session: one});
    await fails(() => c.updateOne({_id: 1}, {$set: {by: 'two'}}, {session: two}), 112, 'TransientTransactionError');
    await fails(() => c.findOne({}, {session: two}), 251, 'TransientTransactionError');
    await two.abortTransaction();
    await fails(() => db.command({count: 'labels'}, {session: one}), 263);
    await fails(() => db.command({listCollections: 1}, {session: one}), 263);
    await fails(() => client.db('admin').command({ping: 1}, {session: one}), 263);
    await fails(() => client.db('local').collection('x').findOne({}, {session: one}), 263);
    await one.commitTransaction();
    await one.commitTransaction(); // again: the same answer
    await fails(() => client.db('admin').command({abortTransaction: 1, lsid: one.id, txnNumber: one.serverSession.txnNumber, autocommit: false}), 256).catch(() => {});
    one.startTransaction();
    await fails(() => c.insertOne({_id: 1}, {session: one}), 11000);
    await fails(() => c.findOne({}, {session: one}), 251);
    await one.abortTransaction();
  }));
  assert.deepEqual(await c.find().toArray(), [{_id: 1, by: 'one'}]);
});

test('a dropped connection ends nothing, the end of a session does', async () => {
  const c = db.collection('ends');
  await c.insertOne({_id: 0});
  const other = await node.client();
  const session = other.startSession();
  session.startTransaction();
  await other.db('txn').collection('ends').insertOne({_id: 1}, {session});
  assert.equal((await status()).currentOpen, 1);
  const ops = await client.db('admin').aggregate([{$currentOp: {allUsers: true, idleSessions: true}}, {$match: {type: 'idleSession'}}]).toArray();
  assert.equal(ops.length, 1);
  assert.equal(ops[0].desc, 'inactive transaction');
  assert.equal(ops[0].transaction.parameters.autocommit, false);
  assert.equal(String(ops[0].transaction.parameters.txnNumber), '1');
  await session.endSession(); // aborts
  assert.equal((await status()).currentOpen, 0);
  session.serverSession; // eslint-disable-line no-unused-expressions
  const again = other.startSession();
  again.startTransaction();
  await other.db('txn').collection('ends').insertOne({_id: 2}, {session: again});
  await other.close(true); // endSessions
  await until('it has ended', async () => (await status()).currentOpen === 0);
  assert.equal(await c.countDocuments({}), 1);
});

test('a change stream tells of a transaction at once, in order', async () => {
  const c = db.collection('watched');
  await c.insertOne({_id: 0});
  const stream = c.watch();
  await stream.tryNext();
  const number = await client.withSession(async (session) => {
    await session.withTransaction(async () => {
      await c.insertOne({_id: 1, n: 0}, {session});
      await c.updateOne({_id: 1}, {$inc: {n: 1}}, {session});
      await c.updateOne({_id: 1}, {$inc: {n: 1}}, {session});
      await c.deleteOne({_id: 0}, {session});
    });
    return {txnNumber: Number(session.serverSession.txnNumber), id: session.id.id.toString('hex')};
  });
  const events = [];
  for (let i = 0; i < 4; i++) events.push(await stream.next());
  await c.updateOne({_id: 1}, {$set: {plain: 1}});
  const plain = await stream.next();
  await stream.close();
  assert.deepEqual(events.map((e) => e.operationType), ['insert', 'update', 'update', 'delete']);
  assert.deepEqual(events[2].updateDescription.updatedFields, {n: 2});
  for (const e of events) {
    assert.ok(e.clusterTime.equals(events[0].clusterTime));
    assert.equal(Number(e.txnNumber), number.txnNumber);
    assert.equal(e.lsid.id.toString('hex'), number.id);
  }
  assert.equal(plain.txnNumber, undefined, 'a retryable write is none');
});

test('a snapshot session sees one state; readConcern snapshot by itself', async () => {
  const a = db.collection('snap1'), b = db.collection('snap2');
  await a.insertMany(Array.from({length: 300}, (_, i) => ({_id: i, n: 0})));
  await b.insertOne({_id: 1, n: 0});
  await client.withSession({snapshot: true}, async (session) => {
    assert.equal((await b.findOne({}, {session})).n, 0);
    const cursor = a.find({}, {session, batchSize: 10});
    await cursor.next();
    await a.updateMany({}, {$inc: {n: 1}});
    await b.updateOne({_id: 1}, {$inc: {n: 1}});
    assert.deepEqual([...new Set((await cursor.toArray()).map((d) => d.n))], [0]);
    assert.equal((await b.findOne({}, {session})).n, 0);
    assert.deepEqual(await a.distinct('n', {}, {session}), [0]);
    assert.deepEqual(await a.aggregate([{$group: {_id: '$n'}}], {session}).toArray(), [{_id: 0}]);
    const both = await Promise.all([a.countDocuments({n: 0}, {session}), b.countDocuments({n: 0}, {session})]);
    assert.deepEqual(both, [300, 1]);
  });
  assert.equal((await b.findOne({}, {readConcern: {level: 'snapshot'}})).n, 1);
});

test('16 clients move money while storage is killed; no error gets through, no money is lost', {timeout: 240000}, async () => {
  const accounts = 20, collection = db.collection('accounts');
  await collection.insertMany(Array.from({length: accounts}, (_, i) => ({_id: i, n: 100})));
  const state = {running: true, moved: 0, errors: []};
  const lists = new Lists(db.collection('lists'), {clients: 4});
  const movers = Array.from({length: 16}, () => mover(client, collection, accounts, state));
  await lists.run(client);
  try {
    for (let kills = 0; kills < 3; kills++) {
      const from = state.moved;
      await until('money moves', () => state.moved >= from + 40, 60000);
      await node.kill('storaged');
      await sleep(300);
    }
    const from = state.moved;
    await until('money moves again', () => state.moved >= from + 40, 60000);
  } finally {
    state.running = false;
    await Promise.all(movers);
    await lists.stop();
  }
  await node.whole();
  assert.deepEqual(state.errors.map((e) => `${e.code} ${e.message}`), []);
  assert.deepEqual(lists.errors.map((e) => `${e.code} ${e.message}`), []);
  const all = await collection.find().toArray();
  assert.equal(all.reduce((sum, d) => sum + d.n, 0), accounts * 100);
  assert.deepEqual(await lists.finish(), []);
  assert.ok(lists.history.filter((t) => t.status === 'ok').length > 50);
  for (const name of ['accounts', 'lists']) assert.equal((await db.command({validate: name, full: true})).valid, true);
  await until('none is left', async () => (await status()).currentOpen === 0);
});

test('collections and indexes of a transaction: unseen before the commit, and nothing of them after an abort', async () => {
  const db = client.db('made');
  const names = async () => (await db.listCollections({}, {nameOnly: true}).toArray()).map((c) => c.name).sort();
  const session = client.startSession();
  const fill = async () => {
    await db.createCollection('explicit', {session, validator: {a: {$type: 'int'}}});
    await db.collection('indexed').createIndex({a: 1}, {session, unique: true});
    await db.collection('indexed').insertMany([{_id: 1, a: 1}, {_id: 2, a: 2}], {session});
    await db.collection('implicit').insertOne({_id: 1}, {session});
    assert.deepEqual(await db.collection('indexed').find({a: 2}, {session}).hint('a_1').toArray(), [{_id: 2, a: 2}]);
    assert.equal((await db.collection('implicit').aggregate([{$lookup: {from: 'indexed', localField: '_id', foreignField: 'a', as: 'l'}}], {session}).toArray())[0].l.length, 1);
  };
  session.startTransaction();
  await fill();
  assert.deepEqual(await names(), []);
  assert.equal(await db.collection('indexed').countDocuments(), 0);
  await session.abortTransaction();
  assert.deepEqual(await names(), []);
  session.startTransaction();
  await fill();
  await session.commitTransaction();
  assert.deepEqual(await names(), ['explicit', 'implicit', 'indexed']);
  assert.equal(await codeOf(() => db.collection('indexed').insertOne({a: 2})), 11000);
  assert.equal(await codeOf(() => db.collection('explicit').insertOne({a: 'text'})), 121);
  for (const name of await names()) assert.equal((await db.command({validate: name})).valid, true);
  // Somebody else was faster: withTransaction tries again, and takes what is there.
  let tries = 0;
  await session.withTransaction(async () => {
    await db.collection('raced').insertOne({_id: `try ${++tries}`}, {session});
    if (tries === 1) await db.collection('raced').insertOne({_id: 'theirs'});
  });
  assert.deepEqual((await db.collection('raced').find().sort({_id: 1}).toArray()).map((d) => d._id), ['theirs', 'try 2']);
  await session.endSession();
});
