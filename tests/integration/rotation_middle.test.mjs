// A rotation of keys in the middle of everything else that a node does at once: open cursors, change streams, a transaction and a
// snapshot of before, a build of an index, a freeze, collections that come and go, capped, time-series and TTL ones, documents of 16 MB,
// validate; what operators are told meanwhile; cancel; the schedule; keyrings that do not fit.
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {metrics} from '../support/metrics.mjs';
import {Node, bin, codeOf, until} from '../support/node.mjs';

const DOCUMENTS = 3000;
let node, client, db;
before(async () => {
  node = await Node.start({set: ['storage.ttl_period=200ms']});
  client = await node.client();
  db = client.db('m');
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const keys = async (...args) => (await node.vedctl('keys', ...args)).stdout;
const status = async () => JSON.parse(await keys('status', '--json'));
const rotation = async () => (await status()).rotation;
const history = async () => JSON.parse(await keys('history', '--json')).history;
const states = async () => (await status()).keys.map((k) => k.state);
const reached = async (state) =>
  await until(`the rotation is ${state}`, async () => {
    const now = await rotation();
    assert.notEqual(now.state, 'failed', now.note);
    return now.state === state && now;
  }, 60000);
const file = (name) => path.join(node.dir, 'data', name);

/** As an operator's terminal sees it, to the end. */
function watched() {
  const child = spawn(path.join(bin, 'vedctl'), ['--socket', node.info.controlSocket, 'keys', 'status', '--watch']);
  let out = '';
  child.stdout.on('data', (d) => (out += d));
  return {said: () => out, ended: new Promise((resolve) => child.on('close', (code) => resolve({code, out})))};
}

test('the data of before', async () => {
  for (let k = 0; k < DOCUMENTS; k += 1000)
    await db.collection('c').insertMany(Array.from({length: 1000}, (_, i) => ({_id: k + i, a: i, pad: 'x'.repeat(700)})));
  await db.collection('big').insertOne({_id: 1, v: 'b'.repeat(16 * 1024 * 1024 - 200)});
  await db.collection('long').createIndex({k: 1});
  await db.collection('long').insertMany(Array.from({length: 50}, (_, i) => ({_id: `${i}${'i'.repeat(900)}`, k: `${i}${'k'.repeat(1000)}`})));
  await db.createCollection('capped', {capped: true, size: 100000});
  await db.collection('capped').insertMany([{_id: 1}, {_id: 2}]);
  await db.createCollection('series', {timeseries: {timeField: 't', metaField: 'm'}});
  await db.collection('series').insertMany(Array.from({length: 200}, (_, i) => ({t: new Date(1.7e12 + i * 1000), m: i % 3, v: i})));
  await db.collection('ttl').createIndex({at: 1}, {expireAfterSeconds: 0});
  await db.collection('ttl').insertMany(Array.from({length: 100}, (_, i) => ({_id: i, at: new Date(Date.now() + 1e9)})));
  await db.createCollection('empty');
  await client.db('admin').command({fsync: 1}); // blocks of it are on disk, under the first key
});

test('cancelled at work and in a pause: both keys stay and open; the next one takes all with it', async () => {
  await keys('rotate', '--rate', '2MB/s', '--max-latency-rise', '0');
  await until('blocks were moved', async () => (await rotation()).blocks > 3);
  await keys('cancel');
  assert.deepEqual(await states(), ['decrypt-only', 'active']);
  await db.collection('c').updateOne({_id: 1}, {$set: {a: 'of key 2'}});
  await keys('rotate', '--rate', '2MB/s', '--max-latency-rise', '0');
  await until('blocks were moved', async () => (await rotation()).blocks > 3);
  await keys('pause');
  await reached('paused');
  await keys('cancel');
  assert.deepEqual(await states(), ['decrypt-only', 'decrypt-only', 'active']);
  assert.deepEqual((await history()).map((p) => [p.outcome, p.oldVersion, p.target]), [['cancelled', 1, 2], ['cancelled', 2, 3]]);
  await assert.rejects(node.vedctl('keys', 'verify'), /./, 'old keys still have blocks');
  assert.ok((await history()).at(-1).blocks > 10);
  await node.kill('storaged'); // and it opens with all three
  await node.whole();
  await until('it answers', async () => await db.collection('c').countDocuments({}).catch(() => 0) === DOCUMENTS);
});

test('everything goes on through it', async () => {
  const c = db.collection('c');
  const cursor = c.find({}, {batchSize: 100}).sort({_id: 1});
  let read = 0;
  const some = async (count) => {
    for (let i = 0; i < count; i++, read++) assert.equal((await cursor.next())._id, read);
  };
  await some(150);
  const grouped = c.aggregate([{$group: {_id: '$_id', n: {$sum: 1}}}, {$sort: {_id: -1}}], {batchSize: 100, allowDiskUse: true});
  assert.equal((await grouped.next())._id, DOCUMENTS - 1);
  const stream = db.collection('events').watch([], {batchSize: 1});
  await stream.tryNext(); // it is open now
  await db.collection('events').insertOne({_id: 'first'});
  assert.equal((await stream.next()).documentKey._id, 'first');
  const tail = db.collection('capped').find({}, {tailable: true, awaitData: true, maxAwaitTimeMS: 100});
  assert.equal((await tail.next())._id, 1);
  const session = client.startSession(), old = client.startSession({snapshot: true});
  session.startTransaction();
  await db.collection('long').insertOne({_id: 't1', k: 't1'}, {session});
  assert.equal((await db.collection('long').find({}, {session: old}).toArray()).length, 50);

  await keys('rotate', '--rate', '2MB/s', '--max-latency-rise', '0');
  const seen = watched();
  await until('blocks were moved', async () => (await rotation()).blocks > 3);
  // What operators are told is true.
  const told = await until('it has a pace', async () => {
    const now = await rotation();
    return now.rate > 0 && now.documents > 0 && now.bytesDone > 0 && now.current.startsWith('m.') && now;
  });
  assert.deepEqual([told.state, told.target, told.oldVersion, told.rateMax], ['reencrypting', 4, 3, 2 * 1024 * 1024]);
  assert.ok(told.bytesDone <= told.bytesTotal && told.documents <= 100000, JSON.stringify(told));
  assert.ok(told.etaSeconds >= 0, 'no estimate');
  const left = Object.fromEntries(told.blocksLeft.map((l) => [l.version, l.blocks]));
  assert.ok(left[3] > 0 && left[4] === 0, JSON.stringify(left));
  assert.equal(await codeOf(() => client.db('admin').command({rotateKey: 1})), 90090);

  await db.collection('long').insertOne({_id: 't2', k: 't2'}, {session});
  await session.commitTransaction();
  const builds = c.createIndex({pad: 1, a: 1}); // while it moves
  await some(150);
  await db.collection('events').insertOne({_id: 'second'});
  await db.collection('capped').insertOne({_id: 3});
  for (let i = 0; i < 5; i++) {
    await db.collection(`new${i}`).insertMany(Array.from({length: 100}, (_, k) => ({_id: k, pad: 'n'.repeat(500)})));
    if (i % 2 === 0) await db.collection(`new${i}`).rename(`renamed${i}`);
    else await db.collection(`new${i}`).drop();
  }
  await db.collection('series').insertMany(Array.from({length: 50}, (_, i) => ({t: new Date(1.8e12 + i), m: 1, v: i})));
  await db.collection('ttl').updateMany({_id: {$lt: 40}}, {$set: {at: new Date(0)}});
  assert.equal((await db.command({validate: 'c', full: true})).valid, true);
  await builds;
  await client.db('admin').command({fsync: 1, lock: true});
  await until('it rests under the lock', async () => (await rotation()).note.includes('fsyncUnlock'));
  const listed = () => fs.readdirSync(file('data')).filter((f) => f.endsWith('.wt')).map((f) => [f, fs.statSync(path.join(file('data'), f)).mtimeMs]);
  const frozen = listed();
  await keys('throttle', '--rate', '0');
  assert.equal((await rotation()).rate, 0);
  assert.deepEqual(listed(), frozen);
  await until('who watches has seen it', () => seen.said().includes('note: waits for fsyncUnlock'));
  await client.db('admin').command({fsyncUnlock: 1});
  await reached('completed');
  const {code, out} = await seen.ended;
  assert.equal(code, 0);
  for (const field of [/\[#* *\] +\d+\.\d %/, /pass \d+: [\d.]+ \w+ of [\d.]+ \w+, [\d.]+ \w+\/s \(at most/, /current: m\.\w+/, /blocks by key version  (1: \d+, 2: \d+, )?3: \d+, 4: 0/, /\d+ documents, \d+ blocks/, /note: waits for fsyncUnlock/, /rotation \d+  completed \(operator\), key 4 replaces keys up to 3/])
    assert.match(out, field);
  assert.deepEqual(await states(), ['destroyed', 'destroyed', 'destroyed', 'active']);
  // Behind the old keys.
  await some(DOCUMENTS - read);
  assert.equal(await cursor.next(), null);
  assert.equal((await grouped.toArray()).length, DOCUMENTS - 1);
  assert.equal((await stream.next()).documentKey._id, 'second');
  await db.collection('events').insertOne({_id: 'third'});
  assert.equal((await stream.next()).documentKey._id, 'third');
  assert.deepEqual([(await tail.next())._id, (await tail.next())._id], [2, 3]);
  assert.equal((await db.collection('long').find({}, {session: old}).toArray()).length, 50);
  assert.equal(await db.collection('long').countDocuments({k: /^t/}), 2);
  for (const each of [cursor, grouped, stream, tail]) await each.close();
  await session.endSession();
  await old.endSession();
  const past = (await history()).at(-1), now = await rotation();
  assert.deepEqual([past.kind, past.outcome, past.target, past.documents, past.bytes], ['rotation', 'completed', 4, now.documents, now.bytes]);
  assert.ok(past.documents >= DOCUMENTS && past.bytes >= told.bytesDone && past.bytes <= 1.5 * told.bytesTotal && past.endedMs > past.startedMs, JSON.stringify(past));
});

test('figures of it stand on the page of metrics, and alerts are about figures that are there', async () => {
  const now = await rotation();
  const page = await until('the page is of now', async () => {
    const got = await metrics(node.info);
    return got['veddb_keys_rotation_state{state="completed"}'] === 1 && got;
  });
  for (const [name, value] of Object.entries({
    'veddb_keys_rotation_state{state="reencrypting"}': 0,
    'veddb_keys_blocks_left{version="4"}': 0,
    veddb_keys_rotation_bytes: now.bytes,
    veddb_keys_rotation_documents: now.documents,
    veddb_keys_rotation_blocks: now.blocks,
    veddb_keys_rotation_number: now.number,
    veddb_keys_rotation_seconds: (now.changedMs - now.startedMs) / 1000,
    veddb_keys_rotation_bytes_per_second: 0,
    veddb_keys_rotation_failures_total: 0,
    veddb_keys_rotation_storage_attached: 1,
  }))
    assert.equal(page[name], value, name);
  assert.ok(page['veddb_keys_age_seconds{version="4",state="active"}'] > 0);
  assert.ok(!Object.keys(page).some((name) => name.startsWith('veddb_keys_age_seconds{version="1"')), 'of a destroyed key');
  assert.ok(page.veddb_keys_encrypted_blocks > 10);
  const folder = path.resolve(import.meta.dirname, '../../deploy/alerts');
  const there = new Set(Object.keys(page).map((name) => name.replace(/\{.*/, '')));
  for (const name of fs.readdirSync(folder).filter((f) => f.endsWith('.yaml')))
    for (const [, figure] of fs.readFileSync(path.join(folder, name), 'utf8').matchAll(/\b(veddb_[a-z0-9_]+)\b(?=[{[ )])/g))
      assert.ok(there.has(figure), `${name}: nobody gives ${figure}`);
});

test('the new key alone opens all of it', async () => {
  await node.down();
  await node.up();
  assert.equal(await db.collection('c').countDocuments({}), DOCUMENTS);
  assert.equal((await db.collection('big').findOne({_id: 1})).v.length, 16 * 1024 * 1024 - 200);
  assert.equal(await db.collection('series').countDocuments({}), 250);
  await until('what has expired is gone', async () => (await db.collection('ttl').countDocuments({})) === 60);
  for (const {name} of await db.listCollections({type: 'collection'}).toArray())
    assert.equal((await db.command({validate: name, full: true})).valid, true, name);
  await keys('verify');
});

test('keyrings that do not fit are refused, and by what is missing', async () => {
  await node.down();
  fs.cpSync(file('keys'), path.join(node.dir, 'right'), {recursive: true});
  const rings = fs.readdirSync(file('keys')).filter((f) => f.startsWith('keyring'));
  for (const [what, spoil, pattern] of [
    ['one that is tampered with', () => {
      for (const ring of rings) {
        const bytes = fs.readFileSync(path.join(file('keys'), ring));
        bytes[bytes.length >> 1] ^= 1;
        fs.writeFileSync(path.join(file('keys'), ring), bytes);
      }
    }, /keyring.*(damaged|tampered|wrong)/i],
    ['none', () => rings.forEach((ring) => fs.rmSync(path.join(file('keys'), ring))), /keyring|data key version 4/],
  ]) {
    spoil();
    fs.rmSync(path.join(node.dir, 'log'), {force: true});
    await assert.rejects(node.up(), what);
    assert.match(node.log(), pattern, what);
    fs.rmSync(file('keys'), {recursive: true});
    fs.cpSync(path.join(node.dir, 'right'), file('keys'), {recursive: true});
  }
  await node.up();
  assert.equal(await db.collection('c').countDocuments({}), DOCUMENTS);
});

test('by age and by count it begins by itself', async () => {
  await node.down();
  node.set.push('keys.rotate_after=1s');
  await node.up();
  await until('one by age has begun', async () => (await rotation()).reason === 'age' || (await history()).at(-1).reason === 'age');
  await node.down();
  node.set.push('keys.rotate_after=0ms', 'keys.rotate_blocks=1');
  await node.up(); // it goes on, and behind it comes the next one
  await until('it has completed', async () => (await history()).some((p) => p.reason === 'age' && p.outcome === 'completed'), 60000);
  await until('one by count has begun', async () => {
    await db.collection('counted').insertOne({}); // what the one before moved itself is not counted
    return (await rotation()).reason === 'blocks' || (await history()).at(-1).reason === 'blocks';
  });
  assert.equal(await db.collection('c').countDocuments({}), DOCUMENTS);
});
