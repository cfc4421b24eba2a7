// tests/bench/cluster.mjs — replica sets of one, two and three nodes on this machine: throughput by write concern, lag at saturation, copying and catching
// up, change streams. Prints a table (--json FILE keeps the figures). All nodes share the machine's cores: the figures are for comparing, not for quoting.
import {execFileSync, spawn} from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {MongoClient} from 'mongodb';
import {bin, build, dev, sleep} from '../support/node.mjs';

const argument = (name) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : undefined);
const quick = process.argv.includes('--quick');
const seconds = Number(argument('--seconds') ?? (quick ? 3 : 8));
const records = Number(argument('--records') ?? (quick ? 20000 : 100000));
const rows = [];

function note(what, figures) {
  rows.push({what, ...figures});
  console.error(`  ${what.padEnd(44)} ${Object.entries(figures).map(([k, v]) => `${k} ${typeof v === 'number' ? Math.round(v * 10) / 10 : v}`).join('  ')}`);
}

const percentile = (list, p) => (list.length === 0 ? 0 : list.sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * p))]);

class ReplicaSet {
  constructor(nodes) {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'vd-set-'));
    execFileSync(dev, ['up', '--dir', this.dir, '--nodes', String(nodes), '--port', '0'], {stdio: ['ignore', 'ignore', 'inherit'], env: {...process.env, VD_TEST_BIN: bin}});
    this.info = JSON.parse(fs.readFileSync(path.join(this.dir, 'connection.json'), 'utf8'));
    this.nodes = this.info.nodes ?? [{name: 'n1', uri: this.info.uri, controlSocket: this.info.controlSocket}];
  }
  stop() {
    execFileSync(dev, ['down', '--dir', this.dir], {stdio: 'ignore', env: {...process.env, VD_TEST_BIN: bin}});
    fs.rmSync(this.dir, {recursive: true, force: true});
  }
  ctl(node, ...args) {
    return execFileSync(path.join(bin, 'vedctl'), ['--socket', node.controlSocket, ...args], {encoding: 'utf8'});
  }
  status(node = this.nodes[0]) {
    return JSON.parse(this.ctl(node, 'replication', 'status', '--json'));
  }
  generate(workload, clients, extra = []) {
    const url = new URL(this.nodes[0].uri.replace('mongodb:', 'http:'));
    const args = ['--host', url.hostname, '--port', url.port, '--ca', this.info.caFile, '--user', this.info.username, '--workload', workload, '--clients', String(clients), '--seconds', String(seconds), '--records', String(records), ...extra];
    return new Promise((resolve, reject) => {
      const child = spawn(path.join(build, 'bench', 'bench_lean'), args, {env: {BENCH_PASSWORD: this.info.password}, stdio: ['ignore', 'pipe', 'inherit']});
      let out = '';
      child.stdout.on('data', (d) => (out += d));
      child.on('exit', (code) => (code === 0 ? resolve(JSON.parse(out)) : reject(new Error(`${workload}: exit ${code}`))));
    });
  }
  /** Runs and samples the greatest lag of any member meanwhile, in ms. */
  async underLoad(workload, clients, extra) {
    const lags = [];
    let busy = true;
    const sampler = (async () => {
      while (busy && this.nodes.length > 1) {
        for (const m of this.status().members) if (!m.self) lags.push((m.lagSeconds ?? 0) * 1000);
        await sleep(100);
      }
    })();
    const figures = await this.generate(workload, clients, extra);
    busy = false;
    await sampler;
    return {figures, lags};
  }
  async level(timeout = 120000) {
    const until = Date.now() + timeout;
    while (Date.now() < until) {
      const s = this.status();
      const newest = Math.max(...s.members.map((m) => Number(m.applied)));
      if (s.members.every((m) => m.up && Number(m.applied) === newest && /PRIMARY|SECONDARY/i.test(m.state))) return;
      await sleep(20);
    }
    throw new Error('the members did not become level');
  }
}

async function throughput(nodes) {
  const set = new ReplicaSet(nodes);
  try {
    await set.generate('load', 1);
    if (nodes > 1) await set.level();
    for (const w of nodes > 1 ? ['1', 'majority'] : ['majority'])
      for (const clients of [16, 64]) {
        const {figures, lags} = await set.underLoad('A', clients, ['--write-concern', w]);
        note(`A, ${nodes - 1} replicas, w: ${w}, ${clients} clients`, {ops_per_s: figures.ops_per_s, p50_us: figures.p50_us, p99_us: figures.p99_us, ...(nodes > 1 ? {lag_p50_ms: percentile(lags, 0.5), lag_p99_ms: percentile(lags, 0.99)} : {})});
        if (nodes > 1) await set.level();
      }
    if (nodes === 3) await copying(set), await streams(set);
  } finally {
    set.stop();
  }
}

async function copying(set) {
  const client = await new MongoClient(set.info.uri).connect();
  const bytes = (await client.db('ycsb').stats()).dataSize;
  let start = Date.now();
  set.ctl(set.nodes[0], 'replication', 'force-sync', set.nodes[2].name);
  await sleep(200);
  await set.level();
  note('snapshot of a member (force-sync)', {mb: bytes / 1e6, seconds: (Date.now() - start) / 1000, mb_per_s: bytes / 1e6 / ((Date.now() - start) / 1000)});
  // A replica that stands still while the primary writes, then catches up.
  const frozen = JSON.parse(set.ctl(set.nodes[2], 'status', '--json')).workers.find((w) => (w.kind ?? w.name) === 'replicad');
  process.kill(frozen.pid, 'SIGSTOP');
  const figures = await set.generate('A', 16, ['--write-concern', '1']);
  process.kill(frozen.pid, 'SIGCONT');
  start = Date.now();
  await set.level();
  const took = (Date.now() - start) / 1000;
  note('catch-up after a pause', {entries: figures.ops / 2, seconds: took, entries_per_s: figures.ops / 2 / took, of_the_primarys_rate: figures.ops / 2 / took / (figures.ops_per_s / 2)});
  await client.close();
}

async function streams(set) {
  const client = await new MongoClient(set.info.uri).connect();
  for (const listeners of [1, 10, 100]) {
    const collection = client.db('bench').collection(`fan${listeners}`);
    await collection.insertOne({start: true});
    const events = 500, late = [];
    const open = await Promise.all(
      Array.from({length: listeners}, async () => {
        const stream = collection.watch();
        await stream.tryNext();
        return stream;
      }),
    );
    const start = Date.now();
    const reading = open.map(async (stream) => {
      for (let i = 0; i < events; i++) late.push(Date.now() - (await stream.next()).fullDocument.at);
    });
    for (let i = 0; i < events; i++) await collection.insertOne({at: Date.now()});
    await Promise.all(reading);
    note(`change streams, ${listeners} listeners`, {events_per_s: (events * listeners * 1000) / (Date.now() - start), p50_ms: percentile(late, 0.5), p99_ms: percentile(late, 0.99)});
    await Promise.all(open.map((s) => s.close()));
  }
  await client.close();
}

for (const nodes of [1, 2, 3]) await throughput(nodes);
const columns = [...new Set(rows.flatMap((r) => Object.keys(r)))];
console.log(`| ${columns.join(' | ')} |\n|${columns.map(() => '---').join('|')}|`);
for (const r of rows) console.log(`| ${columns.map((c) => (typeof r[c] === 'number' ? Math.round(r[c] * 10) / 10 : (r[c] ?? ''))).join(' | ')} |`);
if (argument('--json')) fs.writeFileSync(argument('--json'), JSON.stringify(rows, null, 1));
