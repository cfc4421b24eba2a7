// What a worker that somebody has taken over may do: each tries what it must not (test.faults), and dies, or is refused by the system, or is cut off.
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {after, before, describe, test} from 'node:test';
import * as memory from '../support/memory.mjs';
import {Node, bin, dev, until} from '../support/node.mjs';

const root = process.getuid() === 0;
const sanitized = bin.includes('asan');
const WORKERS = ['rotated', 'storaged', 'gatewayd'];
let node, client, set;

before(async () => {
  node = await Node.start({set: ['test.faults=true']});
  client = await node.client();
  set = (file) => path.join(node.dir, file);
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const said = async (...args) => {
  try {
    const r = await node.vedctl('misbehave', ...args);
    return r.stdout + r.stderr;
  } catch (e) {
    return `${e.stdout}${e.stderr}`;
  }
};

/** It dies of it, is started again, and the node serves on. */
async function dies(name, how, ...args) {
  const before = await node.worker(name);
  const from = node.log().length;
  await said(name, ...args);
  await until(`${name} is another process`, async () => {
    const w = await node.worker(name).catch(() => undefined);
    return w?.state === 'running' && w.pid !== before.pid;
  });
  const line = node.log().slice(from).split('\n').find((l) => l.includes('worker ended') && l.includes(`worker=${name}`));
  assert.match(line ?? '', how, `${name} ${args}`);
  await node.whole();
  assert.equal((await client.db('admin').command({ping: 1})).ok, 1);
}

async function isRefused(name, ...args) {
  const pid = (await node.worker(name)).pid;
  assert.match(await said(name, ...args), /Permission denied|No such file/, `${name} ${args}`);
  assert.equal((await node.worker(name)).pid, pid, 'it lives');
}

const status = (pid) => Object.fromEntries(fs.readFileSync(`/proc/${pid}/status`, 'utf8').split('\n').map((l) => l.split(':\t')));

describe('what each process is', () => {
  test('a user of its own, no privileges, a filter, no core dumps', async () => {
    const uids = new Set();
    for (const name of WORKERS) {
      const {pid} = await node.worker(name);
      const s = status(pid);
      assert.equal(s.NoNewPrivs, '1', name);
      if (!sanitized) assert.equal(s.Seccomp, '2', `${name} has a filter`);
      assert.match(fs.readFileSync(`/proc/${pid}/limits`, 'utf8'), /Max core file size +0 +0 /, name);
      // What is not dumpable belongs to root in /proc, whoever it runs as.
      if (!sanitized) assert.equal(fs.statSync(`/proc/${pid}/environ`).uid, 0, `${name} is not dumpable`);
      for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb']) if (root) assert.equal(BigInt(`0x${s[set]}`), 0n, `${name} ${set}`);
      if (root) {
        const [uid] = s.Uid.split('\t');
        assert.deepEqual(s.Uid.split('\t'), [uid, uid, uid, uid]);
        assert.equal(uid, execFileSync('id', ['-u', `veddb-${name}`], {encoding: 'utf8'}).trim());
        assert.equal(s.Groups.trim(), '', 'no further groups');
        uids.add(uid);
      }
      assert.equal(fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trim(), `veddb-${name}`.slice(0, 15));
    }
    if (root) assert.equal(uids.size, WORKERS.length);
  });

  test('the supervisor has kept what it needs to start others, and no more', () => {
    if (!root) return;
    const caps = BigInt(`0x${status(node.pid).CapEff}`);
    assert.equal(caps & ~((1n << 2n) | (1n << 5n) | (1n << 6n) | (1n << 7n)), 0n, 'DAC_READ_SEARCH, KILL, SETGID, SETUID');
    assert.equal(BigInt(`0x${status(node.pid).CapBnd}`), caps, 'nor can it get more');
  });

  test('keys are in locked memory that is in no dump', async () => {
    for (const name of WORKERS) {
      const {pid} = await node.worker(name);
      const maps = fs.readFileSync(`/proc/${pid}/smaps`, 'utf8').split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/);
      const locked = maps.filter((m) => /^VmFlags:.* lo( |$)/m.test(m));
      assert.ok(locked.length > 0, `${name} has locked memory`);
      for (const m of locked) assert.match(m, /^VmFlags:.* dd( |$)/m, `${name}: not dumped: ${m.split('\n')[0]}`);
    }
    assert.doesNotMatch(node.log(), /keys are not in locked memory|MEMORY FOR KEYS IS NOT LOCKED/);
  });

  // All of a process's memory is looked through: the keys stand where they may, and they do stand there.
  test('no byte of a key is anywhere else', {skip: (!root || sanitized) && 'memory of others is for root to read; sanitizers see OpenSSL\'s memory'}, async () => {
    await client.db('jail').collection('c').insertMany(Array.from({length: 2000}, (_, i) => ({_id: i, text: 'x'.repeat(100)})));
    await client.db('admin').command({fsync: 1});
    const {kek, wrapping, keys} = memory.keysOf(set('data'), set('kek'));
    const data = Object.fromEntries(Object.entries(keys).map(([id, key]) => [`data key ${id}`, key]));
    const blocks = memory.blockKeys(set('data/data'), keys), audit = memory.blockKeys(set('data/audit'), keys);
    const tls = memory.scalar(fs.readFileSync(set('certs/server.key')));
    const expected = {rotated: /^(kek|data key)/, storaged: /^block key/, gatewayd: /^private key/};
    for (const name of WORKERS) {
      const found = memory.search((await node.worker(name)).pid, {kek, wrapping, ...data, ...blocks, ...audit, ...tls});
      assert.ok(found.some((f) => expected[name].test(f.name)), `${name}: its own is found, so this test can find it`);
      for (const f of found) {
        const where = `${name}: ${f.name} at ${f.at} ${f.mapping.name} ${f.mapping.flags.join(' ')}`;
        for (const flag of ['lo', 'dd', 'wf']) assert.ok(f.mapping.flags.includes(flag), where);
        if (name === 'gatewayd') assert.match(f.name, expected.gatewayd, where);
        if (name === 'storaged') assert.doesNotMatch(f.name, /^(kek|private key)/, where);
      }
    }
  });

  test('folders and files are closed to others', () => {
    const open = [];
    for (const entry of fs.readdirSync(set('data'), {recursive: true, withFileTypes: true})) {
      const at = path.join(entry.parentPath ?? entry.path, entry.name);
      if ((fs.lstatSync(at).mode & 0o077) !== 0) open.push(at);
    }
    assert.deepEqual(open, []);
    if (!root) return;
    const owner = (uid) => execFileSync('id', ['-un', String(uid)], {encoding: 'utf8'}).trim();
    for (const [folder, user] of [['data', 'storaged'], ['keys', 'rotated'], ['audit', 'rotated']])
      assert.equal(owner(fs.statSync(set(`data/${folder}`)).uid), `veddb-${user}`);
  });
});

describe('a worker that was taken over', {skip: sanitized && 'there is no filter with sanitizers'}, () => {
  const killed = /signal 31 \(Bad system call\)/;
  test('rotated executes', () => dies('rotated', killed, 'exec'));
  test('storaged opens a TCP socket', () => dies('storaged', killed, 'tcp'));
  test('rotated opens a TCP socket', () => dies('rotated', killed, 'tcp'));
  test('gatewayd executes', () => dies('gatewayd', killed, 'exec'));
  test('storaged makes a process', () => dies('storaged', killed, 'fork'));
  test('gatewayd looks into its supervisor', () => dies('gatewayd', killed, 'ptrace'));
  test('gatewayd takes the handler away', () => dies('gatewayd', killed, 'handler'));
  test('a call that is not on the list is named', () => dies('rotated', /signal 31 \(Bad system call\): system call 121 getpgid/, 'unlisted'));

  test('gatewayd asks its supervisor for a file of somebody else', async () => {
    await dies('gatewayd', /signal 9/, 'file', set('kek'));
    assert.match(node.log(), /a worker asked for a file that is not its own: it is killed" worker=gatewayd/);
  });

  // It opens nothing at all once it serves: what it needs comes by the supervisor's door (the test above, reload in tls.test.mjs).
  const opened = /signal 31 \(Bad system call\): system call \d+ openat/;
  test('gatewayd opens a data file', () => dies('gatewayd', opened, 'open', set('data/data/WiredTiger.wt')));
  test('gatewayd writes a file', async () => {
    await dies('gatewayd', opened, 'write', '/tmp/veddb-jail-test');
    assert.ok(!fs.existsSync('/tmp/veddb-jail-test'));
  });

  test('gatewayd comes to nobody else\'s socket', async () => {
    if (root) await isRefused('gatewayd', 'connect', path.join(fs.readFileSync(set('run_folder'), 'utf8').trim(), 'storage-rotated/keys'));
  });

  test('nobody sees what is not theirs, or writes anywhere else', async () => {
    for (const name of ['rotated', 'storaged']) {
      await isRefused(name, 'open', '/etc/shadow');
      await isRefused(name, 'open', '/etc/hostname'); // open to all by its mode: only the view keeps it
      await isRefused(name, 'open', set('bootstrap.json'));
      await isRefused(name, 'write', '/tmp/veddb-jail-test');
    }
    await isRefused('storaged', 'open', set('data/keys/keyring'));
    await isRefused('storaged', 'open', set('data/audit/seal'));
    await isRefused('rotated', 'open', set('data/data/WiredTiger.wt'));
    assert.ok(!fs.existsSync('/tmp/veddb-jail-test'));
  });
});

describe('links carry what their peer may say, and nothing else', () => {
  const socket = (name) => path.join(fs.readFileSync(set('run_folder'), 'utf8').trim(), name);

  /** The other end cuts the link, and whoever is cut off ends with a code of its own and is started again. */
  const cutOff = (name, ...args) => dies(name, /exit code 76 \(cut off from a link\)/, ...args);
  const audited = (program) =>
    until('it is in the audit log', async () => {
      const {stdout} = await node.vedctl('audit', 'search', 'atype=linkCut').catch((e) => e);
      return new RegExp(`${program}.*not for`).test(stdout);
    });

  test('gatewayd asks storage for keys', async () => {
    await cutOff('gatewayd', 'key', socket('storage-gateway/operation'));
    assert.match(node.log(), /prog=veddb-storaged .*a link was cut.*link=storage-gateway\/operation .*KEYS_OPEN.*not for storage/);
    assert.match(node.log(), /prog=veddb-gatewayd .*a link was cut by its other end/);
    await audited('veddb-gatewayd');
  });

  test('storaged names a principal to rotated', async () => {
    await cutOff('storaged', 'principal', socket('storage-rotated/audit'));
    assert.match(node.log(), /prog=veddb-rotated .*a link was cut.*link=storage-rotated\/audit .*OPERATION_COMMAND.*not for the audit of rotated/);
    await audited('veddb-storaged');
  });

  test('replicad names a principal, executes, opens what is not its own', async () => {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'vd-'));
    const single = new Node();
    try {
      execFileSync(dev, ['up', '--dir', dir, '--nodes', '1', '--set', 'test.faults=true'], {env: {...process.env, VD_TEST_BIN: bin}, stdio: 'pipe'});
      const [info] = JSON.parse(fs.readFileSync(path.join(dir, 'connection.json'))).nodes;
      single.info = info;
      const misbehave = (...args) => spawnSync(path.join(bin, 'vedctl'), ['--socket', info.controlSocket, 'misbehave', 'replicad', ...args], {encoding: 'utf8'});
      const run = path.dirname(info.controlSocket);
      const dead = (how) => until(`it is dead of it: ${how}`, () => how.test(single.log())).then(() => single.whole());
      misbehave('principal', `${run}/storage-replicad/replication`);
      await dead(/worker ended.*worker=replicad how="exit code 76 \(cut off from a link\)/);
      assert.match(single.log(), /a link was cut.*link=storage-replicad\/replication .*OPERATION_COMMAND.*not for storage/);
      if (root && !sanitized) {
        const config = fs.readFileSync(info.configFile, 'utf8'), file = config.match(/^replication:(?:\n +.*)*?\n +key_file: (\S+)/m)[1];
        const found = memory.search((await single.worker('replicad')).pid, memory.scalar(fs.readFileSync(file)));
        assert.ok(found.length > 0, 'its private key');
        for (const f of found) for (const flag of ['lo', 'dd', 'wf']) assert.ok(f.mapping.flags.includes(flag), `${f.name} ${f.mapping.flags}`);
      }
      if (!sanitized) {
        assert.match(misbehave('open', `${info.folder}/data/data/WiredTiger.wt`).stderr, /Permission denied/); // it resolves names: it may read what is in view
        misbehave('write', '/tmp/veddb-jail-test');
        await dead(/worker ended.*worker=replicad how="signal 31.*openat/);
        misbehave('exec');
        await dead(/worker ended.*worker=replicad how="signal 31 \(Bad system call\)"/);
      }
    } finally {
      execFileSync(dev, ['down', '--dir', dir], {stdio: 'pipe'});
      fs.rmSync(dir, {recursive: true, force: true});
    }
  });
});

describe('the doors to all this', () => {
  test('without test.faults nobody misbehaves', async () => {
    const other = await Node.start();
    try {
      await assert.rejects(other.vedctl('misbehave', 'rotated', 'exec'), /misbehave needs test.faults/);
    } finally {
      await other.stop();
    }
  });

  test('the switches that open a node are refused where a network could reach it', () => {
    for (const flag of ['--test.faults=true', '--test.syscalls=note']) {
      const r = spawnSync(path.join(bin, 'veddb-supervisor'), ['--gateway.listen=0.0.0.0', flag], {encoding: 'utf8'});
      assert.equal(r.status, 125);
      assert.match(r.stderr, /is refused unless gateway.listen is on loopback/);
    }
  });

  test('root alone is refused', {skip: !root}, () => {
    const folder = fs.mkdtempSync('/tmp/vd-');
    try {
      const args = ['--node.users=false', `--node.run_folder=${folder}/run`, `--node.folder=${folder}/data`];
      for (const program of ['supervisor', 'rotated', 'storaged', 'gatewayd', 'replicad']) {
        const r = spawnSync(path.join(bin, `veddb-${program}`), args, {encoding: 'utf8'});
        assert.equal(r.status, 125, program);
        assert.match(r.stderr, /not run as root/, program);
      }
    } finally {
      fs.rmSync(folder, {recursive: true, force: true});
    }
  });
});
