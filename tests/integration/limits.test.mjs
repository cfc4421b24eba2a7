// limits.test.mjs — limits of users, addresses and all together, set while the node runs: who is over one waits or is refused and
// recovers, others notice nothing; refusals are counted, and audited in sums.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import https from 'node:https';
import {after, before, test} from 'node:test';
import {MongoClient} from 'mongodb';
import {Node, sleep, until} from '../support/node.mjs';
import {metrics} from '../support/metrics.mjs';

let node, client, anna, bert;

/** A client of that user; no driver retries behind our back unless asked for. */
async function as(user, options = {}) {
  const url = new URL(node.uri.replace('mongodb:', 'http:'));
  url.username = user;
  url.password = 'pw';
  return await new MongoClient(url.href.replace('http:', 'mongodb:') + '&authSource=admin', {retryReads: false, retryWrites: false, ...options}).connect();
}
const limits = async (...words) => JSON.parse((await node.vedctl('--json', 'limits', ...words)).stdout);
const refused = (answer, kind, scope) => answer.refused.find((r) => r.kind === kind && r.scope === scope)?.count ?? 0;

before(async () => {
  node = await Node.start();
  client = await node.client();
  const admin = client.db('admin');
  for (const user of ['anna', 'bert', 'carl']) await admin.command({createUser: user, pwd: 'pw', roles: [{role: 'readWrite', db: 'shop'}]});
  await client.db('shop').collection('c').insertMany(Array.from({length: 500}, (_, i) => ({_id: i, text: 'x'.repeat(1000)})));
  [anna, bert] = [await as('anna'), await as('bert')];
});
after(async () => {
  await Promise.all([client, anna, bert].map((c) => c?.close()));
  await node?.stop();
});

test('the limits in force; what is no limit, or no value of one, is refused', async () => {
  const {stdout} = await node.vedctl('limits', 'show');
  assert.match(stdout, /operations_per_user +no limit/);
  assert.match(stdout, /connections_total +10000/);
  for (const words of [['set'], ['set', 'nonsense=1'], ['set', 'operations_per_user=x'], ['set', 'operations_per_user=-1'], ['set', 'burst=1ms'], ['set', 'operations_per_user=1', 'operations_per_user=2'],
    ['set', 'user=anna@admin', 'operations_total=1'], ['set', 'user=anna', 'operations_per_user=1'], ['show', 'x=1'], ['frob']])
    await assert.rejects(node.vedctl('limits', ...words), undefined, words.join(' '));
  for (const command of [{set: {nonsense: 1}}, {set: {operations_per_user: 'x'}}, {set: {}}, {set: {burst: 5}}, {set: {queue_wait: 5}, user: 'anna@admin'}, {reset: true, user: 3}, {set: {burst: 1000}, reset: true}])
    await assert.rejects(client.db('admin').command({limits: 1, ...command}), (e) => e.code > 0, JSON.stringify(command));
  await assert.rejects(anna.db('admin').command({limits: 1}), {code: 13});
  assert.deepEqual((await limits('show')).changed, {});
  await assert.rejects(node.vedctl('limits', 'set', 'operations_per_user=1', 'nonsense=1'));
  assert.deepEqual((await limits('show')).changed, {}, 'all of a change or nothing');
});

test('operations: who is over is refused, with labels; others go on; he recovers', async () => {
  await limits('set', 'user=anna@admin', 'operations_per_user=1');
  await limits('set', 'burst=5s', 'wait_max=0');
  const c = anna.db('shop').collection('c');
  const before = refused(await limits('show'), 'operations', 'user');
  let error, count = 0;
  await until('refused', async () => {
    for (let i = 0; i < 20; i++) await c.findOne({_id: 1}).catch((e) => ((error = e), count++));
    return count > 10;
  });
  assert.equal(error?.code, 462, String(error));
  assert.match(error.message, /over the limit of operations per user \(1\): try again in \d+ ms/);
  assert.ok(error.hasErrorLabel('SystemOverloadedError') && error.hasErrorLabel('RetryableError'));
  assert.ok(Number(error.errorResponse.baseBackoffMS) > 0);
  assert.equal(refused(await limits('show'), 'operations', 'user') - before, count);
  for (let i = 0; i < 100; i++) await bert.db('shop').collection('c').findOne({_id: i});
  // What helps or ends is not refused.
  const session = anna.startSession();
  await anna.db('admin').command({ping: 1});
  await session.endSession();
  await until('he may again', async () => (await c.findOne({_id: 1}).catch(() => null)) !== null);
  // A stock driver with retries waits as it is told, and gets through.
  const patient = await as('anna', {retryReads: true, retryWrites: true, maxAdaptiveRetries: 8});
  for (let i = 0; i < 3; i++) assert.equal((await patient.db('shop').collection('c').findOne({_id: i}))._id, i);
  await patient.close();
  await limits('reset', 'user=anna@admin');
  await limits('reset');
  for (let i = 0; i < 100; i++) await c.findOne({_id: i});
});

test('who waits is not refused: requests pass one after the other', async () => {
  await limits('set', 'user=anna@admin', 'operations_per_user=50');
  await limits('set', 'burst=100ms', 'wait_max=60s');
  const c = anna.db('shop').collection('c');
  const answers = await Promise.all(Array.from({length: 60}, (_, i) => c.findOne({_id: i})));
  assert.deepEqual(answers.map((a) => a._id), Array.from({length: 60}, (_, i) => i));
  const now = await limits('show');
  assert.ok(now.delayed.find((d) => d.kind === 'operations' && d.scope === 'user').count > 0);
  await limits('reset', 'user=anna@admin');
  await limits('reset');
});

test('bytes and what a scan cost are charged afterwards', async () => {
  for (const [limit, kind] of [['examined_per_user=1', 'examined'], ['bytes_out_per_user=2KB', 'bytes_out']]) {
    await limits('set', limit, 'burst=1s', 'wait_max=0');
    const c = anna.db('shop').collection('c');
    const before = refused(await limits('show'), kind, 'user');
    assert.equal((await c.find({}, {batchSize: 1000}).toArray()).length, 500, 'who owes nothing may');
    await assert.rejects(c.findOne({_id: 1}), {code: 462}, 'the next one pays');
    assert.notEqual(await bert.db('shop').collection('c').findOne({_id: 1}), null);
    assert.ok(refused(await limits('show'), kind, 'user') > before);
    await limits('reset');
  }
  await limits('set', 'bytes_in_total=4KB', 'burst=1s', 'wait_max=0');
  await anna.db('shop').collection('big').insertOne({_id: 1, text: 'x'.repeat(400000)});
  await assert.rejects(bert.db('shop').collection('c').findOne({_id: 1}), {code: 462}, 'the total is of all');
  await client.db('admin').command({limits: 1, reset: true});
  await anna.db('shop').collection('c').findOne({_id: 1});
});

test('an address', async () => {
  await limits('set', 'operations_per_address=1', 'burst=1s', 'wait_max=0');
  await until('refused', async () => {
    const codes = await Promise.all(Array.from({length: 10}, () => bert.db('shop').collection('c').findOne({_id: 1}).then(() => 0, (e) => e.code)));
    return codes.includes(462);
  });
  await limits('reset');
  const records = await until('told to the audit log', async () => {
    const found = JSON.parse((await node.vedctl('--json', 'audit', 'search', 'atype=limitExceeded', 'text=address').catch(() => ({stdout: '{"records":[]}'}))).stdout).records;
    return found.length > 0 && found;
  });
  assert.equal(records[0].event.remote.ip, '127.0.0.1');
});

test('connections of a user; new connections from an address', async () => {
  await limits('set', 'user=carl@admin', 'connections_per_user=1');
  const first = await as('carl', {maxPoolSize: 1});
  await first.db('shop').collection('c').findOne();
  const second = await as('carl', {maxPoolSize: 1}).catch((e) => e);
  const error = second instanceof Error ? second : await second.db('shop').collection('c').findOne().then(() => null, (e) => e);
  assert.equal(error?.code, 462, String(error));
  await second.close?.();
  await first.close();
  await until('his place is free again', async () => {
    const third = await as('carl', {maxPoolSize: 1}).catch(() => null);
    const good = await third?.db('shop').collection('c').findOne().then(() => true, () => false);
    await third?.close();
    return good;
  });
  await limits('reset', 'user=carl@admin');
  await limits('set', 'handshakes_per_address=1', 'burst=100ms');
  await until('refused', async () => {
    await Promise.all(Array.from({length: 5}, () => as('bert', {serverSelectionTimeoutMS: 300}).then((c) => c.close(), () => {})));
    return refused(await limits('show'), 'handshakes', 'address') > 0;
  });
  await limits('reset');
  await (await as('bert')).close();
});

test('cursors, sessions, sizes of batches and results', async () => {
  const db = anna.db('shop');
  await limits('set', 'cursors_per_user=2');
  const open = [];
  for (let i = 0; i < 2; i++) open.push(db.collection('c').find({}, {batchSize: 2}));
  for (const cursor of open) await cursor.next();
  await assert.rejects(db.collection('c').find({}, {batchSize: 2}).next(), {code: 90071});
  const his = bert.db('shop').collection('c').find({}, {batchSize: 2});
  await his.next();
  await his.close();
  await open[0].close();
  const again = db.collection('c').find({}, {batchSize: 2});
  await again.next();
  await again.close();
  await open[1].close();
  await limits('reset');

  await limits('set', 'batch_bytes=10KB');
  const {cursor} = await db.command({find: 'c', batchSize: 400});
  assert.ok(cursor.firstBatch.length > 1 && cursor.firstBatch.length < 12, String(cursor.firstBatch.length));
  assert.equal((await db.collection('c').find({}, {batchSize: 400}).toArray()).length, 500, 'only more batches');
  await limits('reset');

  await limits('set', 'result_bytes=100KB');
  let seen = 0;
  await assert.rejects(async () => {
    for await (const _ of db.collection('c').find({}, {batchSize: 10})) seen++;
  }, {code: 90070});
  assert.ok(seen >= 80 && seen <= 100, `${seen}`);
  await assert.rejects(db.collection('c').find({}).toArray(), {code: 90070});
  assert.equal((await db.collection('c').find({}).limit(50).toArray()).length, 50);
  await limits('reset');

  await limits('set', 'user=carl@admin', 'sessions_per_user=2');
  const carl = await as('carl');
  const codes = [];
  for (let i = 0; i < 4; i++) codes.push(await carl.db('shop').command({startSession: 1}).then(() => 0, (e) => e.code));
  assert.ok(codes.includes(261), String(codes));
  await carl.close();
  await limits('reset');
});

test('too much waits in storage: refused at once, and not refused any more when it has gone', async () => {
  const db = client.db('shop');
  // Long ones that hold every worker of their lane, and some that wait behind them.
  const pipeline = [{$lookup: {from: 'c', let: {a: '$_id'}, as: 'x', pipeline: [{$lookup: {from: 'c', let: {b: '$_id'}, as: 'y', pipeline: [{$match: {$expr: {$gt: [{$add: ['$$a', '$$b', '$_id']}, 1e9]}}}]}}]}}, {$count: 'n'}];
  const slow = Array.from({length: 12}, () => db.collection('c').aggregate(pipeline, {maxTimeMS: 120000}).toArray().then(() => 0, (e) => e.code));
  const running = async () => (await client.db('admin').command({currentOp: 1, 'command.aggregate': 'c'})).inprog;
  await until('all of them are in storage', async () => (await running()).length === 12);
  // Behind them, with little time: answered when that ends, although no worker has come; so is one that is killed.
  const late = await db.collection('c').aggregate([{$count: 'n'}], {maxTimeMS: 1500}).toArray().then(() => 0, (e) => e.code);
  assert.equal(late, 50);
  const doomed = db.collection('c').aggregate([{$count: 'n'}], {comment: 'doomed'}).toArray().then(() => 0, (e) => e.code);
  const op = await until('it waits', async () => (await running()).find((o) => o.command.comment === 'doomed'));
  await client.db('admin').command({killOp: 1, op: op.opid});
  assert.equal(await doomed, 11601);
  assert.equal((await running()).length, 12, 'they are still there, and nothing else');
  await sleep(50); // what is next has waited for longer than the millisecond that the next request gives itself
  const early = await anna.db('shop').collection('c').aggregate([{$group: {_id: '$text', n: {$sum: 1}}}], {maxTimeMS: 1}).toArray().then(() => null, (e) => e);
  assert.equal(early?.code, 462, String(early));
  assert.match(early.message, /too much waits: what is next has waited for \d+ ms/);
  assert.ok(early.hasErrorLabel('SystemOverloadedError'));
  assert.notEqual(await bert.db('shop').collection('c').findOne({_id: 1}), null, 'the other lane goes on');
  assert.ok(refused(await limits('show'), 'queue', 'total') > 0);
  await until('they end', async () => {
    const left = await running();
    await Promise.all(left.map((op) => client.db('admin').command({killOp: 1, op: op.opid})));
    return left.length === 0;
  });
  assert.deepEqual([...new Set(await Promise.all(slow))], [11601], 'they were still there');
  assert.equal((await anna.db('shop').collection('c').aggregate([{$count: 'n'}]).toArray())[0].n, 500);
});

test('HTTPS connections count among those of their address', async () => {
  /** Asks on a connection of its own. */
  const ask = () => new Promise((resolve) => {
    https.get(`${node.info.httpAddress}/healthz`, {ca: fs.readFileSync(node.info.caFile), agent: false}, (r) => r.resume().on('end', () => resolve(r.statusCode))).on('error', (e) => resolve(e.code ?? e.message));
  });
  assert.equal(await ask(), 200);
  const before = refused(await limits('show'), 'connections', 'address');
  await limits('set', 'connections_per_address=1');
  assert.notEqual(await ask(), 200, 'the drivers have more than one');
  assert.ok(refused(await limits('show'), 'connections', 'address') > before);
  await limits('reset');
  // None is counted for longer than it is there.
  const {veddb_gateway_connections: open} = await metrics(node.info);
  await limits('set', `connections_per_address=${open + 6}`);
  for (let i = 0; i < 20; i++) await until('a place', async () => (await ask()) === 200);
  await limits('reset');
  const handshakes = refused(await limits('show'), 'handshakes', 'address');
  await limits('set', 'handshakes_per_address=1', 'burst=100ms');
  await until('refused', async () => {
    await Promise.all(Array.from({length: 5}, ask));
    return refused(await limits('show'), 'handshakes', 'address') > handshakes;
  });
  await limits('reset');
  assert.equal(await ask(), 200);
  assert.ok((await metrics(node.info))['veddb_gateway_https_connections_rejected_total'] > 0);
});

test('counted in the metrics; audited in sums; a change of limits is audited, too', async () => {
  assert.ok((await metrics(node.info))['veddb_gateway_limits_refused_total{kind="operations",scope="user"}'] > 0);
  const find = async (...conditions) => JSON.parse((await node.vedctl('--json', 'audit', 'search', ...conditions, 'limit=1000').catch(() => ({stdout: '{"records":[]}'}))).stdout).records.map((r) => r.event);
  const total = refused(await limits('show'), 'operations', 'user');
  await limits('reset'); // what is not told yet is told now
  const events = await until('all refusals are in the audit log', async () => {
    const found = (await find('atype=limitExceeded', 'user=anna@admin')).filter((e) => e.param.kind === 'operations');
    return found.reduce((sum, e) => sum + Number(e.param.count), 0) === total && found;
  });
  assert.ok(events.length < total, 'sums, not one for each');
  assert.ok(events.every((e) => e.result === 462 && e.param.scope === 'user' && e.users[0].user === 'anna'));
  await client.db('admin').command({limits: 1, set: {burst: 9000}, user: 'x@y'}).catch(() => {});
  await client.db('admin').command({limits: 1, set: {cursors_per_user: 77}, user: 'x@y'});
  const [changed] = await until('the command', async () => {
    const found = (await find('atype=limits')).filter((e) => e.result === 0 && e.param.set?.cursors_per_user !== undefined);
    return found.length > 0 && found;
  });
  assert.equal(Number(changed.param.set.cursors_per_user), 77);
  assert.equal(changed.param.user, 'x@y');
  await until('the operator', async () => (await find('atype=operator', 'text=limits set user=anna@admin operations_per_user=1')).length > 0);
});

test('what was set live outlives the gateway', async () => {
  await limits('set', 'operations_per_user=123456', 'batch_bytes=1MB');
  await limits('set', 'user=carl@admin', 'cursors_per_user=3');
  await client.db('admin').command({limits: 1, set: {sessions_per_user: 4}, user: 'dora@shop'});
  assert.match((await node.vedctl('limits', 'show')).stdout, /outlives the gateway, not the node/);
  const set = ({limits: values, changed, users}) => ({values, changed, users});
  const was = set(await limits('show'));
  const again = async () => {
    await node.kill('gatewayd');
    await node.whole();
    return await until('it answers', async () => await limits('show').then(set, () => null));
  };
  assert.deepEqual(was.users.filter((u) => /carl|dora/.test(u.user)).map((u) => u.limit), ['cursors_per_user', 'sessions_per_user']);
  for (let i = 0; i < 2; i++) assert.deepEqual(await again(), was);
  await limits('reset', 'user=carl@admin');
  await limits('reset');
  assert.deepEqual((await again()).changed, {});
  assert.deepEqual(set(await limits('show')).users, []);
});
