// tests/support/cluster.mjs — a real replica set for integration tests: `./dev up --nodes N`, its network through proxies where a
// test wants faults, nodes and single processes killed, stopped and started again, and what must hold at the end.
import {execFile, execFileSync, spawn} from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import {setTimeout} from 'node:timers/promises';
import {promisify} from 'node:util';
import {MongoClient} from 'mongodb';
import {Network, family, ownerOf} from './proxy.mjs';
import {bin, dev, sleep, until} from './node.mjs';

const run = promisify(execFile);
const MB = 1 << 20;
const CLOSE_MS = 5000;

/** Below those that the kernel gives to connections: a node that starts again finds its port still free. */
async function freePort(address) {
  for (;;) {
    const port = 15000 + Math.floor(Math.random() * 17000), server = net.createServer();
    const free = await new Promise((resolve) => server.once('error', () => resolve(false)).listen(port, address, () => resolve(true)));
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}

export class Cluster {
  /**
   * Options: {nodes: 3, etcd: false, network: false, set: ['option=value', 'n2:option=value'], disks: {n2: 1500}}; disks: nodes whose
   * folder is a file system of its own of so many MB (in memory; only for root).
   */
  static async start(options = {}) {
    const cluster = new Cluster();
    cluster.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'vdc-'));
    cluster.count = options.nodes ?? 3;
    cluster.names = Array.from({length: cluster.count}, (_, i) => `n${i + 1}`);
    cluster.clients = [];
    const sets = [...(options.set ?? [])];
    cluster.mounted = [];
    try {
      for (const [name, mb] of Object.entries(options.disks ?? {})) cluster.mount(name, mb);
      if (options.network) await cluster.makeNetwork(sets);
      const args = ['up', '--dir', cluster.dir, '--nodes', String(cluster.count)];
      if (options.etcd) args.push('--etcd');
      for (const s of sets) args.push('--set', s);
      await run(dev, args, {env: {...process.env, VD_TEST_BIN: bin}});
      cluster.info = JSON.parse(fs.readFileSync(path.join(cluster.dir, 'connection.json')));
      cluster.uri = cluster.info.uri;
    } catch (e) {
      await cluster.network?.close();
      cluster.remove();
      throw new Error(`the cluster does not start: ${e.stderr ?? e.message}`);
    }
    return cluster;
  }

  /** A proxy before each node: the others know only its address. */
  async makeNetwork(sets) {
    this.network = new Network((address, port) => {
      const families = {};
      for (const name of this.names) if (this.pid(name)) families[name] = this.pid(name);
      families.test = process.pid; // who comes as a node
      return ownerOf(address, port, families);
    });
    for (const [i, name] of this.names.entries()) {
      const host = `127.0.0.${i + 1}`;
      const port = await freePort(host);
      const address = await this.network.listen(name, {host, port}, host);
      sets.push(`${name}:replication.port=${port}`, `${name}:replication.address=${address}`);
    }
  }

  folder(name) {
    return path.join(this.dir, name);
  }

  /** Of the supervisor; 0 = it does not run. */
  pid(name) {
    try {
      const pid = Number(fs.readFileSync(path.join(this.folder(name), 'supervisor.pid')));
      return fs.readlinkSync(`/proc/${pid}/exe`).includes('veddb-supervisor') ? pid : 0;
    } catch {
      return 0;
    }
  }

  node(name) {
    return this.info.nodes.find((n) => n.name === name);
  }

  nameOf(host) {
    return this.info.nodes.find((n) => n.host === host)?.name;
  }

  log(name) {
    return fs.readFileSync(path.join(this.folder(name), 'log'), 'utf8');
  }

  // ---- operators ----

  async vedctl(name, ...args) {
    return await run(path.join(bin, 'vedctl'), ['--socket', this.node(name).controlSocket, ...args]);
  }

  /** As that node sees the set; null when it does not answer. */
  async status(name) {
    try {
      return JSON.parse((await this.vedctl(name, 'replication', 'status', '--json')).stdout);
    } catch {
      return null;
    }
  }

  async workers(name) {
    try {
      return JSON.parse((await this.vedctl(name, 'status', '--json')).stdout).workers;
    } catch (e) {
      if (e.stdout?.startsWith('{')) return JSON.parse(e.stdout).workers;
      throw e;
    }
  }

  async state(name) {
    return (await this.status(name))?.state ?? 'DOWN';
  }

  /** The one node that says itself that it is primary, among those asked. */
  async primary(ms = 60000, among = this.names) {
    return await until(`a primary among ${among}`, async () => {
      const states = await Promise.all(among.map((name) => this.state(name)));
      const found = among.filter((_, i) => states[i] === 'PRIMARY');
      return found.length === 1 ? found[0] : null;
    }, ms);
  }

  async secondaries() {
    const states = await Promise.all(this.names.map((name) => this.state(name)));
    return this.names.filter((_, i) => states[i] === 'SECONDARY');
  }

  /** All nodes run, one leads, the others follow and have applied what it has. */
  async whole(ms = 120000) {
    await until('the set is whole', async () => {
      const seen = await Promise.all(this.names.map((name) => this.status(name)));
      if (seen.some((s) => s === null)) return false;
      const leaders = seen.filter((s) => s.state === 'PRIMARY');
      return leaders.length === 1 && seen.every((s) => s === leaders[0] || (s.state === 'SECONDARY' && s.leader === leaders[0].node));
    }, ms);
  }

  // ---- faults of processes ----

  async killWorker(name, worker, signal = 'SIGKILL') {
    const found = (await this.workers(name)).find((w) => w.name === worker);
    if (!(found?.pid > 0)) throw new Error(`${worker} of ${name} does not run`);
    process.kill(found.pid, signal);
    return found;
  }

  async workerBack(name, worker, starts, ms = 60000) {
    await until(`${worker} of ${name} runs again`, async () => {
      const found = (await this.workers(name)).find((w) => w.name === worker);
      return found.state === 'running' && found.starts > starts;
    }, ms);
  }

  /** The whole node at once, as when its power fails: every process gets SIGKILL. */
  async killNode(name) {
    const pid = this.pid(name);
    const all = family(pid);
    process.kill(pid, 'SIGSTOP'); // it starts nobody again meanwhile
    for (const member of all) if (member !== pid) tryKill(member);
    process.kill(pid, 'SIGKILL');
    await until(`${name} is dead`, () => all.every((p) => !alive(p)));
  }

  /** SIGSTOP to all of a node: it is there, and says nothing. */
  pauseNode(name) {
    for (const pid of family(this.pid(name))) tryKill(pid, 'SIGSTOP');
  }

  resumeNode(name) {
    for (const pid of family(this.pid(name)).reverse()) tryKill(pid, 'SIGCONT');
  }

  /** The primary hands over; resolves when another one leads. */
  async stepDown() {
    const name = await this.primary();
    const admin = await this.client({node: name, driver: {directConnection: true}});
    try {
      await admin.db('admin').command({replSetStepDown: 60, secondaryCatchUpPeriodSecs: 10});
    } catch (e) {
      if (e.code !== undefined && ![11602, 10107, 189].includes(e.code)) throw e; // the connection may be closed instead
    } finally {
      await admin.close(true);
    }
    await until('another one leads', async () => (await this.primary()) !== name);
  }

  async stopNode(name) {
    await run(dev, ['down', '--dir', this.folder(name)]);
  }

  async startNode(name) {
    await run(dev, ['up', '--dir', this.folder(name)], {env: {...process.env, VD_TEST_BIN: bin}});
  }

  // ---- etcd ----

  /** SIGKILL; what is needed to start it again is remembered. */
  async stopEtcd() {
    const {pid} = this.info.etcd;
    this.etcdCommand = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
    process.kill(pid, 'SIGKILL');
    await until('etcd is dead', () => !alive(pid));
  }

  async startEtcd() {
    const {folder} = this.info.etcd, log = fs.openSync(path.join(folder, 'log'), 'a');
    const child = spawn(this.etcdCommand[0], this.etcdCommand.slice(1), {detached: true, stdio: ['ignore', log, log]});
    fs.closeSync(log);
    child.unref();
    this.info.etcd.pid = child.pid;
    noteStarted(child.pid);
    fs.writeFileSync(path.join(folder, 'etcd.pid'), `${child.pid}\n`); // `dev down` stops it
  }

  // ---- faults of the network ----

  /** a and b (names or lists) do not hear each other; oneWay: only what a says is lost. */
  partition(a, b, {oneWay = false} = {}) {
    for (const from of [a].flat())
      for (const to of [b].flat()) {
        this.network.set(from, to, {hold: true});
        if (!oneWay) this.network.set(to, from, {hold: true});
      }
  }

  heal() {
    this.network.heal();
  }

  // ---- clients ----

  /** A stock driver of the whole set, or with {node} of that node alone. */
  async client(options = {}) {
    const uri = options.node ? this.node(options.node).uri : this.uri;
    const client = new MongoClient(uri, {serverSelectionTimeoutMS: 30000, ...options.driver});
    this.clients.push(client);
    await client.connect();
    return client;
  }

  /** dbHash of a database on each node; all nodes must hold the same. */
  async hashes(database) {
    const found = {};
    for (const name of this.names) {
      const client = await this.client({node: name, driver: {readPreference: 'secondaryPreferred'}});
      try {
        const {collections, md5} = await client.db(database).command({dbHash: 1});
        found[name] = {collections, md5};
      } finally {
        await client.close();
      }
    }
    return found;
  }

  /** Waits until all nodes have the same; throws with the differences. */
  async equal(database, ms = 60000) {
    let last;
    try {
      return await until(`dbHash of ${database} is equal on all nodes`, async () => {
        try {
          last = await this.hashes(database);
        } catch (e) {
          last = e.message; // one that rolls back what nobody else has is RECOVERING for a while
          return null;
        }
        const all = Object.values(last).map((h) => JSON.stringify([h.md5, h.collections]));
        return all.every((h) => h === all[0]) ? last : null;
      }, ms);
    } catch (e) {
      throw new Error(`${e.message}: ${JSON.stringify(last)}`);
    }
  }

  /** VD_TEST_KEEP: the folder stays, for who wants to look at the logs. */
  async stop() {
    // A driver that finds no primary to end its sessions at waits for one, longer than a test file may take to end.
    const waited = new AbortController();
    await Promise.race([Promise.allSettled(this.clients.map((c) => c.close(true))), setTimeout(CLOSE_MS, null, {signal: waited.signal}).catch(() => {})]);
    waited.abort();
    for (const name of this.names) if (this.pid(name)) this.resumeNode(name);
    await run(dev, ['down', '--dir', this.dir]);
    await this.network?.close();
    this.remove();
  }

  remove() {
    for (const folder of this.mounted.splice(0)) execFileSync('umount', ['-l', folder]);
    if (!process.env.VD_TEST_KEEP) fs.rmSync(this.dir, {recursive: true, force: true});
  }

  // ---- disks of their own ----

  mount(name, mb) {
    fs.mkdirSync(this.folder(name), {mode: 0o700});
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mb}m,mode=0700`, 'veddb-test', this.folder(name)], {stdio: 'pipe'});
    this.mounted.push(this.folder(name));
  }

  free(name) {
    const s = fs.statfsSync(this.folder(name));
    return (s.bavail * s.bsize) / MB;
  }

  /** Somebody else's file takes what is free on its disk, but for so many MB. */
  leave(name, mb) {
    const fd = fs.openSync(path.join(this.folder(name), 'ballast'), 'a');
    for (let more = this.free(name) - mb; more > 0; more = this.free(name) - mb) fs.writeSync(fd, Buffer.alloc(Math.ceil(Math.min(more, 16) * MB), 0x55));
    fs.closeSync(fd);
  }

  relieve(name) {
    fs.rmSync(path.join(this.folder(name), 'ballast'), {force: true});
  }
}

/** For the runner of tests (`./dev test`), which stops what a killed test left: as `dev up` notes what it starts. */
function noteStarted(pid) {
  if (!process.env.VD_TEST_STARTED) return;
  const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(' ');
  fs.appendFileSync(process.env.VD_TEST_STARTED, `${pid} ${stat[21]}\n`);
}

function tryKill(pid, signal = 'SIGKILL') {
  try {
    process.kill(pid, signal);
  } catch {
    // it has just ended
  }
}

function alive(pid) {
  try {
    return !/^\d+ \(.*\) Z/.test(fs.readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** Writers with w: majority that note what was acknowledged; each _id is written once. */
export class Workload {
  constructor(collection, {writers = 4, writeConcern = {w: 'majority', wtimeoutMS: 10000}} = {}) {
    Object.assign(this, {collection, writers, writeConcern, acknowledged: [], failed: [], gaps: [], running: true});
    this.last = Date.now();
    this.done = Promise.all(Array.from({length: writers}, (_, w) => this.write(w)));
  }

  async write(writer) {
    for (let i = 0; this.running; i++) {
      const _id = `${writer}-${i}`;
      try {
        await this.collection.insertOne({_id, writer, i, at: new Date()}, {writeConcern: this.writeConcern});
        this.acknowledged.push(_id);
        const now = Date.now();
        if (now - this.last > 500) this.gaps.push(now - this.last);
        this.last = now;
      } catch (e) {
        this.failed.push({_id, code: e.code, message: e.message});
        await sleep(20);
      }
      await sleep(1);
    }
  }

  /** Waits until so many more were acknowledged. */
  async more(count, ms = 60000) {
    const from = this.acknowledged.length;
    await until(`${count} more acknowledged writes (last errors: ${JSON.stringify(this.failed.slice(-2))})`,
      () => this.acknowledged.length >= from + count, ms);
  }

  async stop() {
    this.running = false;
    await this.done;
  }

  /** What was acknowledged and is not there. */
  async lost(collection = this.collection) {
    const found = new Set((await collection.find({}, {projection: {_id: 1}}).toArray()).map((d) => d._id));
    return this.acknowledged.filter((_id) => !found.has(_id));
  }
}
