// One container per process: the supervisor only watches; whoever plays the orchestrator (this test) starts, kills and restarts the rest.
import assert from 'node:assert/strict';
import {spawn, spawnSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, describe, test} from 'node:test';
import {Node, bin, until} from '../support/node.mjs';

const WORKERS = ['rotated', 'storaged', 'gatewayd'];

/** The processes of a node, each with a configuration file of its own that names only what it needs. */
class Containers {
  static async make() {
    const c = new Containers();
    c.node = await Node.start(); // for certificates, keys and a free port
    await c.node.down();
    c.dir = c.node.dir;
    c.run = fs.readFileSync(path.join(c.dir, 'run_folder'), 'utf8').trim();
    c.fresh();
    const kek = path.join(c.dir, 'kek');
    const of = {
      supervisor: {node: {run_folder: c.run}, supervisor: {mode: 'watch', heartbeat: '200ms', hang_timeout: '2s'}},
      rotated: {node: {folder: `${c.dir}/data`, run_folder: c.run}, keys: {kek_file: kek}, supervisor: {hang_timeout: '2s'}},
      storaged: {node: {folder: `${c.dir}/data`, run_folder: c.run, memory: '512MB'}, supervisor: {hang_timeout: '2s'}},
      gatewayd: {
        node: {run_folder: c.run},
        gateway: {listen: '127.0.0.1', port: c.node.port, http_port: 0, bootstrap_file: `${c.dir}/bootstrap.json`},
        tls: {certificate_file: `${c.dir}/certs/server.pem`, key_file: `${c.dir}/certs/server.key`, ca_file: `${c.dir}/certs/ca.pem`},
        supervisor: {hang_timeout: '2s'},
      },
    };
    // Whoever plays the orchestrator may be root: containers have users of their own, this has none.
    for (const sections of Object.values(of)) sections.node.allow_root = true;
    for (const [name, sections] of Object.entries(of)) {
      const text = Object.entries(sections).map(([s, o]) => `${s}:\n${Object.entries(o).map(([k, v]) => `  ${k}: ${v}\n`).join('')}`);
      fs.writeFileSync(path.join(c.dir, `${name}.yaml`), text.join(''), {mode: 0o600});
    }
    c.processes = new Map();
    c.clean = () => {
      for (const p of c.processes.values()) if (p.exitCode === null && p.signalCode === null) p.kill('SIGKILL');
      c.node.remove();
    };
    process.on('exit', c.clean); // whatever happens
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
    return c;
  }

  /** No data, no sockets, as on new volumes. */
  fresh() {
    for (const folder of [`${this.dir}/data`, this.run]) fs.rmSync(folder, {recursive: true, force: true});
    fs.mkdirSync(`${this.dir}/data`, {mode: 0o700});
    fs.mkdirSync(this.run, {recursive: true, mode: 0o700});
  }

  /** Options: {alone: no control link, flags} */
  start(name, {alone = false, flags = []} = {}) {
    assert.ok(!this.lives(name), `${name} runs already`);
    const env = {PATH: process.env.PATH, ASAN_OPTIONS: process.env.ASAN_OPTIONS ?? '', UBSAN_OPTIONS: process.env.UBSAN_OPTIONS ?? ''};
    if (name !== 'supervisor' && !alone) env.VEDDB_CONTROL_SOCKET = `${this.run}/supervisor-${name}/control`;
    const child = spawn(path.join(bin, `veddb-${name}`), ['--config', path.join(this.dir, `${name}.yaml`), ...flags], {env, stdio: ['ignore', 'ignore', 'pipe']});
    child.text = '';
    child.stderr.on('data', (d) => (child.text += d));
    child.ended = new Promise((resolve) => child.on('close', (code, signal) => resolve(signal ?? code)));
    this.processes.set(name, child);
    return child;
  }

  lives(name) {
    const child = this.processes.get(name);
    return child !== undefined && child.exitCode === null && child.signalCode === null;
  }

  /** Ends it and gives its exit code or signal. */
  async end(name, signal = 'SIGKILL') {
    const child = this.processes.get(name);
    if (this.lives(name)) child.kill(signal);
    return await child.ended;
  }

  vedctl(...args) {
    return spawnSync(path.join(bin, 'vedctl'), ['--socket', `${this.run}/control`, ...args], {encoding: 'utf8'});
  }

  status() {
    const r = this.vedctl('status', '--json');
    return r.stdout.startsWith('{') ? JSON.parse(r.stdout) : undefined;
  }

  worker(name) {
    return this.status()?.workers.find((w) => w.name === name);
  }

  async watched() {
    await until('all are watched', () => this.status()?.workers.every((w) => w.state === 'running')).catch((e) => {
      throw new Error(`${e.message}: ${this.vedctl('status').stdout}\n${[...this.processes].map(([n, p]) => `--- ${n}\n${p.text.slice(-1500)}`).join('\n')}`);
    });
  }

  /** In the order of a stop: clients, storage, keys. */
  async endAll(signal = 'SIGTERM') {
    const codes = {};
    for (const name of ['gatewayd', 'storaged', 'rotated', 'supervisor']) if (this.lives(name)) codes[name] = await this.end(name, signal);
    return codes;
  }

  async remove() {
    await this.endAll('SIGKILL');
    await this.node.stop();
  }
}

let c;
before(async () => (c = await Containers.make()));
after(async () => c?.remove());

describe('watched by a supervisor', () => {
  let client, t;
  before(async () => {
    c.start('supervisor');
    await until('the control socket', () => c.status());
    for (const name of ['gatewayd', 'storaged', 'rotated']) c.start(name); // an orchestrator keeps no order
    await c.watched();
    client = await c.node.client();
    t = client.db('boxes').collection('t');
  });
  after(async () => {
    await client?.close();
    await c.endAll('SIGKILL');
  });

  test('status shows all as watched; the supervisor has no child', () => {
    const status = c.status();
    assert.equal(status.mode, 'watch');
    assert.equal(status.state, 'running');
    assert.deepEqual(status.workers.map((w) => [w.name, w.state, w.pid]), WORKERS.map((name) => [name, 'running', 0]));
    for (const w of status.workers) assert.equal(typeof w.status, 'object', `${w.name} tells its figures`);
    const table = c.vedctl('status');
    assert.equal(table.status, 0, 'all run');
    for (const name of WORKERS) assert.match(table.stdout, new RegExp(`${name} +running`));
    const pid = c.processes.get('supervisor').pid;
    assert.equal(fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim(), '');
  });

  test('what an idle node holds in memory', (told) => {
    const pss = (name) => Number(/^Pss: +(\d+) kB/m.exec(fs.readFileSync(`/proc/${c.processes.get(name).pid}/smaps_rollup`, 'utf8'))[1]);
    const kb = ['supervisor', ...WORKERS].map((name) => [name, pss(name)]);
    told.diagnostic(`PSS in KiB: ${kb.map(([name, n]) => `${name} ${n}`).join(', ')}, together ${kb.reduce((sum, [, n]) => sum + n, 0)}`);
    assert.ok(kb.every(([, n]) => n > 0));
  });

  test('a driver works, the first administrator was made, keys and log levels answer', async () => {
    await t.insertMany([...Array(1000).keys()].map((i) => ({_id: i})));
    assert.equal(await t.countDocuments({_id: {$gte: 500}}), 500);
    assert.match(c.vedctl('keys', 'status').stdout, /1 {2}[0-9a-f]{32} {2}active/);
    assert.equal(c.vedctl('log-level', 'storaged', 'info').status, 0);
  });

  test('restart and drain are not the supervisor\'s to do', () => {
    for (const verb of [['restart', 'storaged'], ['drain']]) {
      const r = c.vedctl(...verb);
      assert.notEqual(r.status, 0, verb[0]);
      assert.match(r.stderr, /own containers/, verb[0]);
    }
    assert.ok(c.status().workers.every((w) => w.state === 'running'));
  });

  for (const name of ['storaged', 'rotated', 'gatewayd']) {
    test(`${name} is killed and started again: status tells it, service is back, nothing is lost`, {timeout: 60000}, async () => {
      const n = await t.countDocuments();
      await t.insertOne({_id: `before ${name}`});
      await c.end(name);
      await until(`${name} is shown as gone`, () => c.worker(name).state === 'waiting');
      assert.notEqual(c.vedctl('status').status, 0, 'not all run');
      // A write in the meantime: with the gateway there it waits for storage; without, the driver asks again until it is there.
      const meanwhile = name === 'gatewayd' ? undefined : t.insertOne({_id: `meanwhile ${name}`});
      c.start(name);
      await meanwhile;
      if (name === 'gatewayd') await t.insertOne({_id: `meanwhile ${name}`});
      await c.watched();
      assert.equal(await t.countDocuments(), n + 2);
      assert.deepEqual((await t.find({_id: {$in: [`before ${name}`, `meanwhile ${name}`]}}).toArray()).length, 2);
    });
  }

  test('however often a worker dies before it is ready, its next start is seen', {timeout: 60000}, async () => {
    await c.end('rotated');
    await c.end('storaged');
    for (let i = 0; i < 9; i++) {
      c.start('storaged'); // without a key holder it can't get further
      await until('storaged is starting', () => c.worker('storaged').state === 'starting');
      await c.end('storaged');
      await until('storaged is shown as gone', () => c.worker('storaged').state === 'waiting');
    }
    assert.equal(await c.start('rotated', {flags: [`--keys.kek_file=${c.dir}/none`]}).ended, 125, 'a key file that is not there');
    c.start('rotated');
    c.start('storaged');
    await c.watched();
    assert.equal(await t.countDocuments({_id: 5}), 1);
  });

  test('a worker that hangs ends itself, since nobody else may kill it', {timeout: 60000}, async () => {
    await c.end('storaged');
    const child = c.start('storaged', {flags: ['--test.faults=true', '--test.fault_points=request.before_handler=wait:times=1:skip=20']});
    let stopped = false, n = 0;
    const writing = (async () => {
      while (!stopped) await t.insertOne({_id: `hang ${n++}`});
    })();
    assert.equal(await child.ended, 1);
    assert.match(child.text, /a thread hangs: the process ends/);
    c.start('storaged');
    const seen = n;
    await until('writes go on', () => n > seen + 5);
    stopped = true;
    await writing;
    assert.equal(await t.countDocuments({_id: /^hang/}), n);
    await c.watched();
  });

  test('a paused worker is shown as gone, and is back when it goes on', {timeout: 60000}, async () => {
    c.processes.get('storaged').kill('SIGSTOP');
    try {
      await until('storaged is shown as gone', () => c.worker('storaged').state !== 'running');
    } finally {
      c.processes.get('storaged').kill('SIGCONT');
    }
    await c.watched();
    await t.insertOne({_id: 'after the pause'});
  });

  test('the supervisor comes and goes: the service does not notice', {timeout: 60000}, async () => {
    let stopped = false, writes = 0;
    const errors = [];
    const writer = (async () => {
      for (let i = 0; !stopped; i++) await t.insertOne({_id: `w${i}`}).then(() => writes++, (e) => errors.push(e.message));
    })();
    try {
      for (const signal of ['SIGTERM', 'SIGKILL']) {
        assert.equal(await c.end('supervisor', signal), signal === 'SIGTERM' ? 0 : 'SIGKILL');
        const seen = writes;
        await until('writes go on without it', () => writes > seen + 20);
        c.start('supervisor');
        await c.watched();
      }
    } finally {
      stopped = true;
      await writer;
    }
    assert.deepEqual(errors, []);
    assert.equal(await t.countDocuments({_id: /^w/}), writes);
  });

  test('SIGTERM ends each in order with code 0; all is there after the next start', {timeout: 60000}, async () => {
    const n = await t.countDocuments();
    await client.close();
    assert.deepEqual(await c.endAll(), {gatewayd: 0, storaged: 0, rotated: 0, supervisor: 0});
    for (const name of ['rotated', 'storaged', 'gatewayd', 'supervisor']) c.start(name); // this time the supervisor is last
    await c.watched();
    client = await c.node.client();
    t = client.db('boxes').collection('t');
    assert.equal(await t.countDocuments(), n);
  });
});

describe('without any supervisor', () => {
  before(() => {
    c.fresh();
    for (const pair of ['storage-rotated', 'storage-gateway']) fs.mkdirSync(path.join(c.run, pair), {mode: 0o700});
    for (const name of WORKERS) c.start(name, {alone: true});
  });
  after(async () => await c.endAll('SIGKILL'));

  test('workers alone serve, come back and end', {timeout: 60000}, async () => {
    const client = await c.node.client();
    const t = client.db('alone').collection('t');
    await t.insertOne({_id: 1});
    await c.end('storaged');
    c.start('storaged', {alone: true});
    await t.insertOne({_id: 2});
    assert.deepEqual(await t.find().toArray(), [{_id: 1}, {_id: 2}]);
    await client.close();
    assert.deepEqual(await c.endAll(), {gatewayd: 0, storaged: 0, rotated: 0});
  });

  test('one worker quite alone is ready, and ends when told', {timeout: 60000}, async () => {
    const child = c.start('rotated', {alone: true});
    await until('it is ready', () => /msg="?ready"?/.test(child.text) || child.exitCode !== null);
    assert.equal(child.exitCode, null, child.text);
    assert.equal(await c.end('rotated', 'SIGTERM'), 0);
  });

  test('a worker that is started twice is refused', {timeout: 60000}, async () => {
    const one = c.start('rotated', {alone: true});
    await until('it is ready', () => /msg="?ready"?/.test(one.text));
    c.processes.set('first', one);
    c.processes.delete('rotated');
    const two = c.start('rotated', {alone: true});
    assert.notEqual(await two.ended, 0, two.text);
    assert.equal(await c.end('first', 'SIGTERM'), 0);
  });
});
