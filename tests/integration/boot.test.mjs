// The node as an operator sees it: start, status, restart, drain, stop, failures that are said.
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {Node, bin, until} from '../support/node.mjs';

let node;
before(async () => (node = await Node.start()));
after(async () => node?.stop());

const processes = (dir) =>
  execFileSync('ps', ['-eo', 'pid,ppid,stat,args'], {encoding: 'utf8'})
    .split('\n')
    .filter((l) => l.includes(dir) && l.includes('veddb-supervisor'));
const alive = (pid) => {
  try {
    return !/\) Z /.test(fs.readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
};

test('connection.json names all that outside tools rely on, and only its owner reads it', () => {
  for (const key of ['uri', 'caFile', 'username', 'password', 'httpAddress', 'controlSocket']) assert.ok(node.info[key], key);
  assert.equal(fs.statSync(path.join(node.dir, 'connection.json')).mode & 0o777, 0o600);
});

test('status: three workers run, as a table and as JSON', async () => {
  const status = await node.status();
  assert.deepEqual(status.workers.map((w) => [w.name, w.state]), [['rotated', 'running'], ['storaged', 'running'], ['gatewayd', 'running']]);
  const {stdout} = await node.vedctl('status');
  for (const word of ['rotated', 'storaged', 'gatewayd', 'running']) assert.match(stdout, new RegExp(word));
});

test('keys status shows one active key and no key bytes', async () => {
  const {stdout} = await node.vedctl('keys', 'status');
  assert.match(stdout, /1 {2}[0-9a-f]{32} {2}active/);
  const kek = fs.readFileSync(path.join(node.dir, 'kek'), 'utf8').trim();
  assert.ok(!stdout.includes(kek) && !node.log().includes(kek));
});

test('no secret stands in an argument or an environment', async () => {
  const secret = node.info.password;
  for (const w of [...(await node.status()).workers.map((x) => x.pid), node.pid]) {
    assert.ok(!fs.readFileSync(`/proc/${w}/cmdline`, 'utf8').includes(secret));
    assert.ok(!fs.readFileSync(`/proc/${w}/environ`, 'utf8').includes(secret));
    assert.match(fs.readFileSync(`/proc/${w}/limits`, 'utf8'), /Max core file size +0 +/);
  }
});

test('restart of each worker: it comes back with another pid, the others keep theirs', async () => {
  for (const name of ['rotated', 'storaged', 'gatewayd']) {
    const before = await node.status();
    await node.vedctl('restart', name);
    await node.whole();
    const now = await node.status();
    for (const w of now.workers) {
      const old = before.workers.find((x) => x.name === w.name);
      if (w.name === name) assert.notEqual(w.pid, old.pid);
      else assert.equal(w.pid, old.pid, `${w.name} must not notice`);
    }
  }
});

test('a restart of the gateway refuses nobody: the listener stays open', async () => {
  const stop = {done: false};
  let tried = 0;
  const knock = async () => {
    while (!stop.done) {
      await new Promise((resolve, reject) => {
        const s = net.connect(node.port, '127.0.0.1', () => (s.destroy(), resolve()));
        s.on('error', reject);
      });
      tried++;
    }
  };
  const knocking = knock();
  await node.vedctl('restart', 'gatewayd');
  stop.done = true;
  await knocking;
  assert.ok(tried > 5);
});

test('a hung worker is killed and restarted', {timeout: 60000}, async () => {
  const other = await Node.start({set: ['supervisor.hang_timeout=1500ms', 'supervisor.heartbeat=200ms']});
  try {
    const before = await other.kill('storaged', 'SIGSTOP');
    await until('storaged is restarted', async () => {
      const w = await other.worker('storaged');
      return w.pid !== before.pid && w.state === 'running';
    });
    assert.match(other.log(), /worker is killed/);
  } finally {
    await other.stop();
  }
});

test('killed workers come back and leave no zombie', async () => {
  for (const name of ['rotated', 'storaged', 'gatewayd']) {
    const old = await node.kill(name);
    await until(`${name} is back`, async () => {
      const w = await node.worker(name);
      return w.state === 'running' && w.pid !== old.pid;
    });
    assert.ok(!fs.existsSync(`/proc/${old.pid}`), 'reaped');
  }
});

test('log level: set live, bad level refused', async () => {
  await node.vedctl('log-level', 'debug');
  await node.vedctl('log-level', 'storaged', 'info');
  await assert.rejects(node.vedctl('log-level', 'loud'));
  await node.vedctl('log-level', 'info');
});

test('unknown verbs and workers are refused', async () => {
  await assert.rejects(node.vedctl('explode'));
  await assert.rejects(node.vedctl('restart', 'nobody'));
});

test('config check: good, unknown key with its line, bad value', () => {
  const file = path.join(node.dir, 'veddb.yaml');
  const check = (text) => {
    const f = path.join(node.dir, 'try.yaml');
    fs.writeFileSync(f, text);
    return spawnSync(path.join(bin, 'vedctl'), ['--config', f, 'config', 'check'], {encoding: 'utf8'});
  };
  assert.equal(check(fs.readFileSync(file, 'utf8')).status, 0);
  const unknown = check('node:\n  name: a\n  colour: red\n');
  assert.equal(unknown.status, 1);
  assert.match(unknown.stderr, /node\.colour/);
  assert.match(unknown.stderr, /:3/);
  assert.equal(check('gateway:\n  port: lots\n').status, 1);
});

test('a second supervisor of the same node is refused', () => {
  const second = spawnSync(path.join(bin, 'veddb-supervisor'), ['--config', path.join(node.dir, 'veddb.yaml')], {encoding: 'utf8', timeout: 10000});
  assert.equal(second.status, 125);
  assert.match(second.stderr, /another supervisor/);
});

test('drain closes the gateway only; restart opens it again', async () => {
  await node.vedctl('drain');
  await until('gateway stopped', async () => (await node.worker('gatewayd')).state === 'stopped');
  assert.equal((await node.worker('storaged')).state, 'running');
  await node.vedctl('restart', 'gatewayd');
  const client = await node.client();
  await client.db('admin').command({ping: 1});
  await client.close();
});

test('a killed supervisor leaves no orphan; the next start is whole', async () => {
  const pids = (await node.status()).workers.map((w) => w.pid);
  node.killSupervisor();
  await until('all workers are gone', () => pids.every((p) => !alive(p)), 5000);
  await node.up();
  await node.whole();
});

test('wrong key-encryption key: the node refuses to start and says so', async () => {
  const other = await Node.start();
  try {
    await other.down();
    fs.writeFileSync(path.join(other.dir, 'kek'), 'f'.repeat(64));
    await assert.rejects(other.up());
    assert.match(other.log(), /another key/);
    assert.equal(processes(other.dir).length, 0);
  } finally {
    await other.stop();
  }
});

test('stop is ordered: gateway, then storage, then the key holder', async () => {
  const other = await Node.start();
  await other.vedctl('stop');
  const log = other.log();
  const at = (name) => log.search(new RegExp(`worker ended.*worker=${name}`));
  assert.ok(at('gatewayd') > 0 && at('gatewayd') < at('storaged') && at('storaged') < at('rotated'), log);
  await other.stop();
});
