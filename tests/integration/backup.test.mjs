// Backups of a running node: made under writes, checked, kept over kills; a rotation of keys waits for those that need the old key; a copy
// made after the proof opens without it, one of before never again.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {metrics} from '../support/metrics.mjs';
import {Node, until} from '../support/node.mjs';

let node, client;
before(async () => {
  // The second backup of a start of storage dies with it.
  node = await Node.start({set: ['test.faults=true', 'test.fault_points=backup.copying=kill:skip=1']});
  client = await node.client();
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const backup = async (...args) => (await node.vedctl('backup', ...args)).stdout;
const list = async () => JSON.parse(await backup('list', '--json'));
const named = async (name) => (await list()).backups.find((b) => b.name === name);
const refused = async (code, pattern, ...args) =>
  await assert.rejects(node.vedctl(...args), (e) => e.code === code && (assert.match(e.stderr, pattern), true));
const rotation = async () => JSON.parse((await node.vedctl('keys', 'status', '--json')).stdout).rotation;
const folder = (name = '') => path.join(node.dir, 'data/data/backups', name);
const events = async (atype) =>
  JSON.parse((await node.vedctl('audit', 'search', `atype=${atype}`, '--json')).stdout).records.map((r) => r.event.param);

const pad = 'x'.repeat(500);
let acknowledged = 0;

test('made while clients write: it holds all that was acknowledged before, and is what its manifest says', async () => {
  const c = client.db('b').collection('c');
  await c.createIndex({a: 1});
  for (let k = 0; k < 1000; k += 500)
    await c.insertMany(Array.from({length: 500}, (_, i) => ({_id: k + i, a: i, pad: pad + Math.random()})));
  let stop = false, next = 1000;
  const writes = (async () => {
    while (!stop) await c.insertOne({_id: next++, a: next, pad});
  })();
  try {
    await until('the writer runs', () => next > 1050);
    acknowledged = next - 1;
    assert.match(await backup('create', '--dir', 'first'), /create of first: done/);
  } finally {
    stop = true;
    await writes;
  }
  const {oldestKey, keyring, there} = await named('first');
  assert.deepEqual({oldestKey, keyring, there}, {oldestKey: 1, keyring: true, there: true});
  for (const file of fs.readdirSync(folder('first')))
    assert.equal(fs.statSync(folder(`first/${file}`)).mode & 0o777, 0o600, file);
  assert.match(await backup('verify', 'first'), /done/);
  assert.ok((await named('first')).good);
  assert.equal((await c.countDocuments({})), next);
});

test('words that name no backup, or one that is there, are refused', async () => {
  await refused(1, /there is a backup first/, 'backup', 'create', '--dir', 'first');
  await refused(1, /a name in backup\.folder, not a path/, 'backup', 'create', '--dir', '../elsewhere');
  await refused(1, /there is no backup second/, 'backup', 'verify', 'second');
  await refused(1, /there is no backup second/, 'backup', 'remove', 'second');
  await refused(64, /usage/, 'backup', 'restore', folder('first'));
  await refused(1, /holds a database/, 'backup', 'restore', folder('first'), '--into', path.join(node.dir, 'data/data'));
});

test('a changed byte is found, and named', async () => {
  const file = folder('first/catalog.wt');
  const right = fs.readFileSync(file), wrong = Buffer.from(right);
  wrong[5000] ^= 1;
  fs.writeFileSync(file, wrong);
  await refused(1, /catalog\.wt is damaged/, 'backup', 'verify', 'first');
  assert.equal((await named('first')).good, false);
  fs.writeFileSync(file, right);
  await backup('verify', 'first');
});

test('storage that is killed in the middle leaves no backup, and goes on', async () => {
  const {starts} = await node.worker('storaged');
  await backup('create', '--dir', 'killed', '--no-wait');
  await until('it is started again', async () => (await node.worker('storaged')).starts > starts);
  await node.whole();
  assert.deepEqual((await list()).backups.map((b) => b.name), ['first']);
  assert.deepEqual(fs.readdirSync(folder()), ['first']);
  assert.match(node.log(), /a backup that was not finished is removed/);
  assert.match(node.log(), /a backup was being made when the process ended/);
  assert.equal(await client.db('b').collection('c').countDocuments({_id: {$lte: acknowledged}}), acknowledged + 1);
});

test('a rotation that is proven waits for the backup that needs the old key, by name', async () => {
  await node.vedctl('keys', 'rotate', '--max-latency-rise', '0');
  const waits = await until('it waits', async () => {
    const now = await rotation();
    return now.waitsForBackups && now;
  });
  assert.equal(waits.state, 'verifying');
  assert.deepEqual(waits.backups, [{name: 'first', oldestVersion: 1}]);
  assert.match((await node.vedctl('keys', 'status')).stdout, /backups that need an old key: first\nproven, and WAITS/);
  const status = await client.db('admin').command({rotationStatus: 1});
  assert.deepEqual(status.backups.map((b) => b.name), ['first']);
  await refused(1, /--force/, 'keys', 'resume');
  // Behind the proof nothing needs the old key: so this one does not.
  await backup('create', '--dir', 'second');
  assert.equal((await named('second')).oldestKey, 2);
  // A key holder that is killed finds the proof again, and waits again.
  await node.kill('rotated');
  await until('it waits again', async () => await rotation().then((now) => now.waitsForBackups, () => false));
  assert.deepEqual(JSON.parse((await node.vedctl('keys', 'status', '--json')).stdout).keys.map((k) => k.state), ['decrypt-only', 'active']);
});

test('forced, it goes on; the copies of the keyring have the destroyed key no more', async () => {
  const early = fs.readFileSync(folder('first/keyring'));
  assert.match((await node.vedctl('keys', 'resume', '--force')).stdout, /rotation 1/);
  await until('it is completed', async () => (await rotation()).state === 'completed');
  const now = () => fs.readFileSync(path.join(node.dir, 'data/keys/keyring'));
  for (const name of ['first', 'second'])
    await until(`the copy beside ${name} is today's`, () => fs.readFileSync(folder(`${name}/keyring`)).equals(now()));
  assert.ok(!early.equals(fs.readFileSync(folder('first/keyring'))));
  for (const [line, value] of [['veddb_backups', 2], ['veddb_keys_rotation_backups', 1], ['veddb_backups_failures_total', 0]])
    await until(line, async () => (await metrics(node.info))[line] === value);
});

test('what was done stands in the audit log', async () => {
  for (const [atype, name] of [['backupCreated', 'first'], ['backupVerified', 'first'], ['backupVerifyFailed', 'first'], ['backupCreated', 'second']])
    await until(`${atype} of ${name} is sealed`, async () => (await events(atype)).some((p) => p.name === name));
  const details = async (atype) => (await events(atype)).map((p) => p.detail);
  await until('the force is sealed', async () => (await details('keyRotationForced')).length > 0);
  assert.match((await details('keysRetained'))[0], /1 retained backups need them: first/);
  assert.ok((await details('operator')).some((d) => /^backup create uid/.test(d)));
});

test('put in place of lost folders, with the keyring beside it, a backup of after is whole; one of before is refused', async () => {
  await client.close();
  client = undefined;
  await node.down();
  const data = path.join(node.dir, 'data/data'), keys = path.join(node.dir, 'data/keys');
  const kept = path.join(node.dir, 'kept');
  fs.mkdirSync(kept);
  fs.renameSync(path.join(data, 'backups'), path.join(kept, 'backups'));
  fs.rmSync(data, {recursive: true});
  fs.rmSync(keys, {recursive: true});
  const restore = (name) => node.vedctl('backup', 'restore', path.join(kept, 'backups', name), '--into', data);
  await restore('first');
  await node.vedctl('backup', 'restore', path.join(kept, 'backups/first'), '--into', data, '--keys', keys);
  fs.rmSync(node.info.logFile ?? path.join(node.dir, 'log'), {force: true});
  await assert.rejects(node.up());
  assert.match(node.log(), /needs data key version 1/);
  await restore('second'); // over the copy that never started
  await node.up();
  client = await node.client();
  const c = client.db('b').collection('c');
  assert.ok((await c.countDocuments({})) > acknowledged);
  assert.equal((await client.db('b').command({validate: 'c', full: true})).valid, true);
  assert.equal((await c.find({a: 7}).hint({a: 1}).toArray()).filter((d) => d._id < 1000).length, 2);
  await c.insertOne({_id: 'after'});
  await node.vedctl('keys', 'verify');
  assert.equal((await node.vedctl('audit', 'verify')).stderr, '');
});
