// The data keys as an operator orders them: refusals, one rotation at a time, cancel, history, another key-encryption key.
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {damageLeaves} from '../support/blocks.mjs';
import {askPage} from '../support/https.mjs';
import {metrics} from '../support/metrics.mjs';
import {Node, codeOf, until} from '../support/node.mjs';

let node;
before(async () => {
  node = await Node.start({set: ['test.faults=true', 'test.fault_points=rotation.before_verify=wait']});
});
after(async () => await node?.stop());

const keys = async (...args) => (await node.vedctl('keys', ...args)).stdout;
const json = async (...args) => JSON.parse(await keys(...args, '--json'));
const rotation = async () => (await json('status')).rotation;
const history = async () => (await json('history')).history;
const refused = async (code, pattern, ...args) =>
  await assert.rejects(node.vedctl('keys', ...args), (e) => e.code === code && pattern.test(e.stderr));
const file = (name) => path.join(node.dir, name);

test('verbs that need a rotation are refused without one, and words that mean nothing', async () => {
  for (const verb of ['pause', 'resume', 'cancel']) await refused(1, /no rotation of keys is under way/, verb);
  await refused(1, /no rotation/, 'throttle', '--rate', '1MB/s');
  await refused(64, /usage/, 'throttle');
  await refused(64, /usage/, 'rotate', '--rate', 'quick');
  await refused(64, /usage/, 'rotate', '--max-latency-rise', '-3%');
  await refused(64, /usage/, 'rotate', '--speed', '3');
  await refused(64, /usage/, 'destroy');
  assert.match(await keys('status'), /no rotation so far/);
});

test('one rotation at a time; it is throttled, paused, resumed and cancelled, and both keys stay', async () => {
  // While storage stands still nothing of it can come to its end; it is woken long before anybody misses it.
  fs.cpSync(file('data/keys'), file('keys.before'), {recursive: true});
  const {pid} = await node.worker('storaged');
  process.kill(pid, 'SIGSTOP');
  try {
    assert.match(await keys('rotate', '--rate', '100MB/s', '--max-latency-rise', '10%'), /rotation 1: reencrypting/);
    await refused(1, /one at a time/, 'rotate');
    await refused(1, /verifies by itself/, 'verify');
    let now = await rotation();
    assert.deepEqual([now.rateMax, now.maxLatencyRise, now.target, now.oldVersion], [100 * 1024 * 1024, 10, 2, 1]);
    await keys('throttle', '--rate', '5MB');
    await keys('pause');
    now = await rotation();
    assert.deepEqual([now.state, now.rateMax, now.maxLatencyRise], ['paused', 5 * 1024 * 1024, 10]);
    await keys('resume');
    assert.equal((await rotation()).state, 'reencrypting');
    await keys('cancel');
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  const status = await json('status');
  assert.equal(status.rotation.state, 'cancelled');
  assert.deepEqual(status.keys.map((k) => k.state), ['decrypt-only', 'active']);
  assert.deepEqual((await history()).map((p) => [p.kind, p.outcome, p.oldVersion, p.target]), [['rotation', 'cancelled', 1, 2]]);
});

test('cancelled while it counts: both keys stay, and nothing is lost', async () => {
  const client = await node.client();
  try {
    const c = client.db('k').collection('c');
    await c.insertOne({_id: 'before'});
    await keys('rotate', '--max-latency-rise', '0');
    await until('it counts', async () => (await rotation()).state === 'verifying');
    await refused(1, /one at a time/, 'rotate');
    await c.insertOne({_id: 'meanwhile'});
    assert.match(await keys('cancel'), /cancelled/);
    await refused(1, /no rotation of keys is under way/, 'cancel');
    const {ok, state, target} = await client.db('admin').command({rotationStatus: 1});
    assert.deepEqual([ok, state, target], [1, 'cancelled', 3]);
    const past = (await history()).at(-1);
    assert.deepEqual([past.kind, past.outcome, past.oldVersion, past.target], ['rotation', 'cancelled', 2, 3]);
    await node.kill('storaged'); // whose count waits at the fault point for good
    await node.whole();
    const {rotation: now, keys: list} = await json('status');
    assert.deepEqual([now.state, ...list.map((k) => k.state)], ['cancelled', 'decrypt-only', 'decrypt-only', 'active']);
    await until('it answers', async () => await c.countDocuments({}).catch(() => 0) === 2);
  } finally {
    await client.close();
  }
});

test('figures of the keys stand on the page of metrics', async () => {
  for (const line of ['veddb_keys_rotation_state{state="cancelled"}', 'veddb_keys_age_seconds{version="3",state="active"}', 'veddb_keys_rotation_number'])
    await until(line, async () => (await metrics(node.info))[line] > 0);
});

test('a key holder that is killed has the same state and history when it is back', async () => {
  await node.kill('rotated');
  await until('rotated answers', async () => await history().catch(() => null));
  await node.whole();
  assert.equal((await rotation()).state, 'cancelled');
  assert.equal((await history()).length, 2);
});

test('a keyring from before the new keys is refused by name; the right one opens again', async () => {
  await node.vedctl('restart', 'storaged'); // which fetches the keys anew
  assert.match(node.log(), /msg="keys handed to storage" keys=3/);
  const client = await node.client();
  await client.db('k').collection('c').insertOne({_id: 0});
  await client.close();
  await node.down();
  node.set = [];
  fs.renameSync(file('data/keys'), file('keys.right'));
  fs.cpSync(file('keys.before'), file('data/keys'), {recursive: true});
  fs.rmSync(file('log'), {force: true});
  await assert.rejects(node.up());
  assert.match(node.log(), /data key [0-9a-f]{32}, which the keyring doesn't have: an older keyring|key version 3, but the keyring ends with version 1/);
  fs.rmSync(file('data/keys'), {recursive: true});
  fs.renameSync(file('keys.right'), file('data/keys'));
  await node.up();
});

test('rewrap: refused without a next key, then at once', async () => {
  const before = (await json('status')).keys.map((k) => k.id);
  await refused(1, /keys\.kek_file gives no next key/, 'rewrap');
  fs.copyFileSync(file('kek'), file('kek.new'));
  await refused(1, /in force already/, 'rewrap');
  const next = randomBytes(32).toString('hex');
  fs.writeFileSync(file('kek.new'), next, {mode: 0o600});
  assert.match(await keys('rewrap'), /under the new key-encryption key/);
  assert.equal(fs.readFileSync(file('kek'), 'utf8'), next, 'it took the place of the old one');
  assert.ok(!fs.existsSync(file('kek.new')));
  assert.deepEqual((await json('status')).keys.map((k) => k.id), before, 'no data key changed');
  assert.equal((await history()).at(-1).kind, 'rewrap');
  await node.kill('rotated');
  await until('rotated answers', async () => await history().catch(() => null));
  await node.whole();
});

/** A folder that rotated's user may enter: its command runs as that one. */
function opened(names) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vd-kek-'));
  fs.chmodSync(folder, 0o755);
  for (const [name, text, mode] of names) fs.writeFileSync(path.join(folder, name), text, {mode});
  return folder;
}

/** Each source of the key-encryption key, with `present`: how a node is started with it; what gives `next`; what makes that the present one. */
const sources = {
  file: (present) => {
    fs.writeFileSync(file('kek'), present, {mode: 0o600});
    return {set: [], next: (key) => fs.writeFileSync(file('kek.new'), key, {mode: 0o600}), settle: () => {
      assert.equal(fs.readdirSync(node.dir).filter((name) => name.startsWith('kek.new')).length, 0, 'its start has put it in place');
      assert.notEqual(fs.readFileSync(file('kek'), 'utf8').trim(), present);
    }};
  },
  command: (present) => {
    const folder = opened([['present', present, 0o644], ['give', '#!/bin/sh\nexec cat "$(dirname "$0")/$VEDDB_KEK"\n', 0o755]]);
    return {
      folder,
      set: ['keys.kek_file=', `keys.kek_command=${folder}/give`],
      next: (key) => fs.writeFileSync(path.join(folder, 'next'), key),
      settle: () => fs.renameSync(path.join(folder, 'next'), path.join(folder, 'present')),
    };
  },
  credential: (present) => {
    const folder = opened([['veddb-kek', present, 0o600]]);
    process.env.VD_TEST_CREDENTIALS = folder;
    return {
      folder,
      set: ['keys.kek_file=', 'keys.kek_credential=veddb-kek'],
      next: (key) => fs.writeFileSync(path.join(folder, 'veddb-kek.new'), key, {mode: 0o600}),
      settle: () => fs.renameSync(path.join(folder, 'veddb-kek.new'), path.join(folder, 'veddb-kek')),
    };
  },
};

for (const name of Object.keys(sources))
  test(`rewrap by a ${name} that is asked anew; rotated dies in the middle, and the node goes on`, async () => {
    const present = fs.readFileSync(file('kek'), 'utf8').trim(), next = randomBytes(32).toString('hex');
    await node.down(); // or it is down, after the source before
    const source = sources[name](present);
    try {
      node.set = [...source.set, 'test.faults=true', 'test.fault_points=keyring.half_shredded=kill'];
      await node.up();
      const ids = (await json('status')).keys.map((k) => k.id);
      await refused(1, new RegExp(`keys\\.kek_${name} gives no next key`), 'rewrap');
      source.next(next); // while it runs
      await refused(1, /rotated ended before it answered/, 'rewrap');
      await until('rotated answers', async () => await history().catch(() => null));
      assert.match(node.log(), /msg="the keyring is opened by the next key-encryption key"/);
      assert.deepEqual((await json('status')).keys.map((k) => k.id), ids);
      await node.whole();
      const client = await node.client();
      await client.db('k').collection('c').findOneAndUpdate({_id: name}, {$set: {a: 1}}, {upsert: true});
      await client.close();
      source.settle();
      await node.kill('rotated');
      await until('rotated answers', async () => await history().catch(() => null));
      await node.whole();
      assert.equal((await history()).at(-1).kind, 'rewrap');
      fs.writeFileSync(file('kek'), next, {mode: 0o600}); // for the next source
    } finally {
      delete process.env.VD_TEST_CREDENTIALS;
      await node.down();
      node.set = [];
      if (source.folder) fs.rmSync(source.folder, {recursive: true});
    }
  });

test('a verify has a number and a record of its own, and leaves the last rotation to be seen', async () => {
  await node.up();
  const last = await rotation();
  await node.vedctl('keys', 'verify').catch((e) => assert.match(e.stdout, /blocks of keys before version 3/)); // a cancelled rotation may leave some
  const now = await rotation();
  assert.deepEqual([now.number, now.state, now.target, now.startedMs], [last.number, 'cancelled', last.target, last.startedMs]);
  assert.equal(now.verify.number, 1);
  assert.ok(['completed', 'failed'].includes(now.verify.state));
  const past = (await history()).at(-1);
  assert.deepEqual([past.kind, past.number], ['verify', 1]);
  assert.match(await keys('status'), /rotation 2  cancelled[^]*verify 1  /);
});

test('one that meets a damaged block fails, says why wherever one looks, and the node serves', async () => {
  const client = await node.client();
  try {
    const admin = client.db('admin'), c = client.db('k').collection('c'), tables = () => fs.readdirSync(file('data/data')).filter((f) => /^c-\d+\.wt$/.test(f));
    const before = new Set(tables());
    await client.db('k').collection('hurt').insertMany(Array.from({length: 500}, (_, i) => ({_id: i, pad: `${i}`.repeat(200)})));
    await admin.command({fsync: 1});
    const [table] = tables().filter((f) => !before.has(f));
    await node.down();
    assert.ok(damageLeaves(file(`data/data/${table}`)) > 3);
    await node.up();
    const failed = async () => await until('it has failed', async () => {
      const now = await rotation();
      return now.state === 'failed' && now.attached && now;
    });
    const why = /^k\.hurt: a block encrypted with data key [0-9a-f]{32} is damaged: drop, restore or force-sync it; then resume or cancel$/;
    const {failures} = await rotation(), {starts} = await node.worker('storaged');
    await keys('rotate', '--max-latency-rise', '0');
    const now = await failed();
    assert.match(now.note, why);
    assert.equal(now.failures, failures + 1);
    assert.match(await keys('status'), /rotation \d+  failed [^]*\nFAILED: k\.hurt: a block .* is damaged: drop, restore/);
    await node.whole();
    const told = await until('the command answers', async () => await admin.command({rotationStatus: 1}).catch(() => null));
    assert.deepEqual([told.state, told.note, told.failures], ['failed', now.note, failures + 1]);
    await until('the page of metrics says so', async () => {
      const page = await metrics(node.info);
      return page['veddb_keys_rotation_state{state="failed"}'] === 1 && page.veddb_keys_rotation_failures_total === failures + 1;
    });
    // It serves, under the new key, and does nothing by itself.
    await c.insertOne({_id: 'behind a failure'});
    assert.ok(await c.countDocuments() > 0);
    await refused(1, /resume or cancel it first/, 'rotate');
    assert.equal(await codeOf(() => admin.command({rotateKey: 1})), 90090);
    await refused(1, /has failed and does nothing: resume or cancel/, 'pause');
    await node.kill('rotated');
    await until('rotated answers', async () => await history().catch(() => null));
    assert.match((await failed()).note, why);
    assert.equal((await node.worker('storaged')).starts, starts + 1, 'storage has ended once');
    await keys('cancel');
    await assert.rejects(node.vedctl('keys', 'verify'), (e) => /could not be counted/.test(e.stdout));
    await until('storage is back', async () => await client.db('k').collection('hurt').drop().catch(() => false));
    await until('its file is gone', () => !fs.existsSync(file(`data/data/${table}`)));
    await keys('rotate', '--max-latency-rise', '0');
    await until('it has completed', async () => (await rotation()).state === 'completed');
    assert.deepEqual((await json('status')).keys.map((k) => k.state), ['destroyed', 'destroyed', 'destroyed', 'destroyed', 'active']);
    await keys('verify');
    assert.equal(await c.countDocuments({_id: /^behind/}), 1);
  } finally {
    await client.close();
  }
});

test('the same by commands of a client, for who may', async () => {
  const client = await node.client();
  const admin = client.db('admin');
  const before = await history();
  const past = await admin.command({rotationHistory: 1});
  assert.deepEqual(past.history.map((p) => [p.kind, Number(p.number)]), before.map((p) => [p.kind, p.number]));
  assert.equal((await admin.command({verifyKeys: 1})).busy, true);
  await until('it has counted', async () => (await history()).length > before.length);
  assert.equal(await codeOf(() => admin.command({throttleRotation: 1, rate: 1})), 90091); // no rotation
  assert.equal(await codeOf(() => admin.command({throttleRotation: 1, force: true})), 40415);
  assert.equal(await codeOf(() => admin.command({resumeRotation: 1, force: true})), 90091);
  assert.notEqual(await codeOf(() => admin.command({rewrapKeys: 1})), 59);
  await admin.command({rotateKey: 1, rate: 1});
  const now = await admin.command({throttleRotation: 1, rate: 5000, maxLatencyRise: 7});
  assert.deepEqual([now.rateMax, now.maxLatencyRise], [5000, 7]);
  await admin.command({cancelRotation: 1});
  await admin.command({createUser: 'watcher', pwd: 'watcher-watcher', roles: ['clusterMonitor']});
  const other = await node.client({driver: {auth: {username: 'watcher', password: 'watcher-watcher'}}});
  assert.equal((await other.db('admin').command({rotationHistory: 1})).ok, 1);
  for (const name of ['throttleRotation', 'verifyKeys', 'rewrapKeys']) assert.equal(await codeOf(() => other.db('admin').command({[name]: 1})), 13, name);
  await other.close();
  await client.close();
});

test('the same over HTTPS, for who may', async () => {
  const {username, password} = node.info;
  const basic = (user, secret) => `Basic ${Buffer.from(`${user}:${secret}`).toString('base64')}`;
  const operator = basic(username, password), watcher = basic('watcher', 'watcher-watcher');
  const get = (page, authorization) => askPage(node.info, page, {method: 'GET', authorization});
  const post = (page, authorization, body) => askPage(node.info, page, {authorization, body});
  const code = async (page, body) => {
    const {status, body: said} = await post(page, operator, body);
    return [status, said.error, said.code];
  };
  // Who is nobody, or may look alone.
  for (const page of ['/v1/keys', '/v1/keys/history']) {
    assert.equal((await get(page)).status, 401, page);
    assert.equal((await get(page, watcher)).status, 200, page);
    assert.equal((await post(page, operator)).status, 405, page);
  }
  for (const verb of ['rotate', 'pause', 'resume', 'cancel', 'throttle', 'verify', 'rewrap']) {
    assert.equal((await post(`/v1/keys/${verb}`)).status, 401, verb);
    assert.equal((await post(`/v1/keys/${verb}`, watcher)).status, 403, verb);
    assert.deepEqual((({status, headers}) => [status, headers.allow])(await get(`/v1/keys/${verb}`, operator)), [405, 'POST'], verb);
  }
  assert.equal((await get('/v1/keys/other', operator)).status, 404);
  // What a page of somebody else tells a browser to post, which sends the operator's password along.
  for (const page of ['/v1/keys/rewrap', '/v1/tokens/revoke-all', '/v1/token']) assert.equal((await askPage(node.info, page, {authorization: operator, origin: 'https://elsewhere.example'})).status, 403, page);
  // What can't be done, and why.
  assert.deepEqual(await code('/v1/keys/pause'), [409, 'NoRotation', 90091]);
  for (const body of ['{', '[]', '{"rate": 1} {"rate": 2}', '{"rate": 1} more', '{"rate": "quick"}', {speed: 1}, '{"rate": 1, "rate": 2}', {rate: {$numberLong: 'x'}}]) assert.equal((await code('/v1/keys/rotate', body))[0], 400, JSON.stringify(body));
  assert.equal((await code('/v1/keys/rotate', {rate: -1}))[0], 400);
  assert.equal((await code('/v1/keys/throttle', {force: true}))[0], 400);
  // A rotation from its order to its end.
  assert.equal((await post('/v1/keys/rotate', operator, {rate: 1})).status, 200);
  assert.deepEqual(await code('/v1/keys/rotate'), [409, 'RotationInProgress', 90090]);
  assert.deepEqual((({status, body}) => [status, body.rateMax, body.maxLatencyRise])(await post('/v1/keys/throttle', operator, {rate: 5000, maxLatencyRise: 7})), [200, 5000, 7]);
  assert.equal((await post('/v1/keys/pause', operator)).body.state, 'paused');
  const seen = (await get('/v1/keys', operator)).body;
  assert.deepEqual([seen.state, seen.number], ['paused', (await rotation()).number]);
  assert.equal((await post('/v1/keys/resume', operator)).status, 200);
  assert.equal((await post('/v1/keys/cancel', operator)).status, 200);
  assert.deepEqual((await get('/v1/keys/history', operator)).body.history.map((h) => [h.kind, Number(h.number)]), (await history()).map((h) => [h.kind, h.number]));
  // In the audit log under the names of the commands, by whom, and what was refused.
  const events = async (filter, what) =>
    JSON.parse((await node.vedctl('audit', 'search', filter, '--json').catch(() => ({stdout: '{"records":[]}'}))).stdout).records.map((r) => r.event).filter((e) => JSON.stringify(e.param).includes(what));
  const orders = await until('they are sealed', async () => {
    const seen = await events('atype=rotateKey', 'HTTPS');
    return [0, 90090].every((result) => seen.some((e) => e.result === result)) && seen;
  });
  assert.ok(orders.every((e) => e.users.length === 1 && e.users[0].user === username && e.roles.length === 1 && e.roles[0].db === 'admin'), JSON.stringify(orders));
  const [refusal] = await events('atype=authCheck', 'HTTPS cancelRotation');
  assert.deepEqual([refusal.users.map((u) => u.user), refusal.roles.length], [['watcher'], 1]);
  assert.deepEqual((await events('atype=authCheck', 'HTTPS order of a web page')).map((e) => [e.result, e.users]), [[13, []], [13, []], [13, []]]);
});

test('orders and what became of them stand in the audit log', async () => {
  const records = async (atype) =>
    JSON.parse((await node.vedctl('audit', 'search', `atype=${atype}`, '--json')).stdout).records.map((r) => r.event.param.detail);
  for (const [atype, pattern] of [
    ['keyRotationStarted', /^number 1 key 2 replaces keys up to 1: operator$/],
    ['keyRotationPaused', /number 1/],
    ['keyRotationCancelled', /number 1/],
    ['keyRotationFailed', /number 3 .*k\.hurt: a block encrypted with data key .* is damaged/],
    ['keysRewrapped', /new key-encryption key/],
    ['operator', /keys rotate uid/],
  ])
    await until(`${atype} is sealed`, async () => (await records(atype)).some((detail) => pattern.test(detail)));
  assert.ok(!(await records('operator')).some((detail) => /keys (status|history)/.test(detail)), 'looking is not noted');
});
