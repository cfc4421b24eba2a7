// tests/bench/run.mjs — the same work against VedDB and PostgreSQL 15 on this machine in one run, with the floors; prints a table (--json FILE keeps the figures).
//   --quick        fewer records, shorter runs     --only A,C   these workloads only     --no-postgres
//   --pairs N      C with and without the cache of results, and its hits beside Redis, N times in turns (3; 0 = not)
//   --audit N      A with and without the audit log, N times in turns (0 = not)
//   --group-gb N   group N GB of keys under the budget of 100 MB (0 = not)
import {execFileSync, spawn, spawnSync} from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import {Node, build, sleep} from '../support/node.mjs';

const argument = (name) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : undefined);
const quick = process.argv.includes('--quick');
const records = Number(argument('--records') ?? (quick ? 20000 : 200000));
const seconds = Number(argument('--seconds') ?? (quick ? 3 : 10));
const clientCounts = (argument('--clients') ?? '1,16,64').split(',').map(Number);
const workloads = (argument('--only') ?? 'A,B,C,D,E,F,I').split(',');
const pairs = Number(argument('--pairs') ?? 3), groupGb = Number(argument('--group-gb') ?? 0), audits = Number(argument('--audit') ?? 0);
const bench = (name) => path.join(build, 'bench', name);
const rows = [];

function note(row) {
  rows.push(row);
  console.error(
    `  ${row.system.padEnd(14)} ${row.workload.padEnd(5)} ${String(row.clients).padStart(3)} clients ${String(Math.round(row.ops_per_s)).padStart(8)} ops/s  p50 ${String(row.p50_us ?? '').padStart(6)} us  p99 ${String(row.p99_us ?? '').padStart(6)} us  server CPU ${row.server_cpu_us?.toFixed(1)} us/op`,
  );
}

// ---- VedDB ----
function generate(program, info, pids, workload, clients, extra = []) {
  const url = new URL(info.uri.replace('mongodb:', 'http:'));
  const out = spawnSync(
    bench(program),
    ['--port', url.port, '--ca', info.caFile, '--user', info.username, '--workload', workload, '--clients', String(clients), '--seconds', String(seconds), '--records', String(records), '--pids', pids.join(','), ...extra],
    {encoding: 'utf8', env: {BENCH_PASSWORD: info.password}, stdio: ['ignore', 'pipe', 'inherit']},
  );
  if (!out.stdout) throw new Error(`${program} ${workload} failed`);
  return JSON.parse(out.stdout);
}

async function index(node) {
  const client = await node.client();
  await client.db('ycsb').collection('usertable').createIndex({group: 1});
  await client.close();
}

const pss = (pids) => pids.reduce((sum, p) => sum + Number(/^Pss:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${p}/smaps_rollup`, 'utf8'))[1]), 0);

async function veddb() {
  const start = Date.now();
  const node = await Node.start();
  try {
    const ready = /msg="node ready" took_ms=(\d+)/.exec(node.log());
    const all = await pidsOf(node);
    await sleep(1500);
    rows.push({system: 'VedDB', workload: 'idle', pss_kib: pss(all), ready_ms: Number(ready?.[1] ?? Date.now() - start)});
    console.error(`  VedDB idle: ${(pss(all) / 1024).toFixed(1)} MiB PSS of all processes, ready after ${ready?.[1]} ms`);
    note({system: 'VedDB', ...generate('bench_lean', node.info, all, 'load', 1)});
    for (const w of workloads)
      for (const c of clientCounts) {
        if (w === 'I') await index(node);
        note({system: 'VedDB', ...generate('bench_lean', node.info, all, w, c)});
      }
    for (const w of workloads.filter((x) => x === 'C' || x === 'A')) {
      note({system: 'VedDB uniform', ...generate('bench_lean', node.info, all, w, 16, ['--distribution', 'uniform'])});
      note({system: 'VedDB, driver', ...generate('bench_driver', node.info, all, w, 16)});
    }
  } finally {
    await node.stop();
  }
}

// ---- PostgreSQL: the same work through pgbench, prepared, TLS on, synchronous commit on ----
const pgBin = '/usr/lib/postgresql/15/bin';

class Postgres {
  async start() {
    this.dir = fs.mkdtempSync('/tmp/vd-pg-');
    fs.chmodSync(this.dir, 0o777);
    this.port = 20000 + Math.floor(Math.random() * 20000);
    const as = (cmd) => execFileSync('su', ['postgres', '-s', '/bin/bash', '-c', cmd], {encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe']});
    this.as = as;
    as(`${pgBin}/initdb -D ${this.dir}/data -A scram-sha-256 --pwfile=<(echo bench) -U bench`);
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', `${this.dir}/key.pem`, '-out', `${this.dir}/cert.pem`], {stdio: 'ignore'});
    execFileSync('chown', ['postgres', `${this.dir}/key.pem`, `${this.dir}/cert.pem`]);
    fs.chmodSync(`${this.dir}/key.pem`, 0o600);
    fs.appendFileSync(
      `${this.dir}/data/postgresql.conf`,
      `\nport=${this.port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories='${this.dir}'\nssl=on\nssl_cert_file='${this.dir}/cert.pem'\nssl_key_file='${this.dir}/key.pem'\nsynchronous_commit=on\nshared_buffers=512MB\nmax_connections=200\n`,
    );
    this.child = spawn('su', ['postgres', '-s', '/bin/bash', '-c', `exec ${pgBin}/postgres -D ${this.dir}/data`], {stdio: 'ignore'});
    this.env = {PATH: process.env.PATH, PGHOST: '127.0.0.1', PGPORT: String(this.port), PGUSER: 'bench', PGPASSWORD: 'bench', PGDATABASE: 'postgres', PGSSLMODE: 'require'};
    for (let i = 0; i < 100; i++) {
      if (spawnSync('psql', ['-c', 'select 1'], {env: this.env}).status === 0) break;
      await sleep(100);
    }
    this.postmaster = Number(fs.readFileSync(`${this.dir}/data/postmaster.pid`, 'utf8').split('\n')[0]);
  }
  psql(sql) {
    return execFileSync('psql', ['-qAt', '-v', 'ON_ERROR_STOP=1', '-c', sql], {env: this.env, encoding: 'utf8'});
  }
  /** CPU seconds of all server processes, those that have ended included. */
  cpu() {
    const clk = 100;
    let total = 0;
    const own = fs.readFileSync(`/proc/${this.postmaster}/stat`, 'utf8').split(') ')[1].split(' ');
    total += Number(own[11]) + Number(own[12]) + Number(own[13]) + Number(own[14]);
    for (const pid of fs.readdirSync('/proc').filter((p) => /^\d+$/.test(p))) {
      try {
        const f = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
        if (Number(f[1]) === this.postmaster) total += Number(f[11]) + Number(f[12]);
      } catch {}
    }
    return total / clk;
  }
  script(w) {
    const key = `\\set n random_zipfian(1, ${records}, 1.001)\n\\set k (:n * 7919) % ${records}\n`;
    const id = `'user' || lpad(:k::text, 12, '0')`;
    const value = `repeat(md5(random()::text), 4)::varchar(100)`;
    const read = `SELECT doc FROM usertable WHERE id = ${id};\n`;
    const update = `UPDATE usertable SET doc = doc || jsonb_build_object('field' || (random() * 9)::int, ${value}) WHERE id = ${id};\n`;
    const insert = `INSERT INTO usertable SELECT 'user' || lpad(nextval('more')::text, 12, '0'), doc FROM usertable WHERE id = ${id};\n`;
    const lookup = `SELECT doc FROM usertable WHERE (doc->>'group')::int = :k % ${Math.floor(records / 20)};\n`;
    const scan = `\\set l random(1, 100)\nSELECT doc FROM usertable WHERE id >= ${id} ORDER BY id LIMIT :l;\n`;
    return {A: [[50, key + read], [50, key + update]], B: [[95, key + read], [5, key + update]], I: [[1, key + lookup]], C: [[1, key + read]], D: [[95, key + read], [5, key + insert]], E: [[95, key + scan], [5, key + insert]], F: [[50, key + read], [50, key + read + update]]}[w];
  }
  load() {
    this.psql(`CREATE TABLE usertable (id text COLLATE "C" PRIMARY KEY, doc jsonb); CREATE SEQUENCE more START ${records + 1};`);
    const file = `${this.dir}/rows`;
    const fd = fs.openSync(file, 'w');
    const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
    const pool = Array.from({length: 65536}, () => letters[Math.floor(Math.random() * 64)]).join('');
    for (let i = 0; i < records; i++) {
      const id = `user${String(i).padStart(12, '0')}`;
      let doc = `{"_id":"${id}","group":${i % Math.floor(records / 20)}`;
      for (let f = 0; f < 10; f++) {
        const at = Math.floor(Math.random() * 65000);
        doc += `,"field${f}":"${pool.slice(at, at + 100)}"`;
      }
      fs.writeSync(fd, `${id}\t${doc}}\n`);
    }
    fs.closeSync(fd);
    const cpu = this.cpu(), start = Date.now();
    execFileSync('psql', ['-q', '-c', `\\copy usertable FROM '${file}'`], {env: this.env});
    const took = (Date.now() - start) / 1000;
    note({system: 'PostgreSQL', workload: 'load', clients: 1, ops_per_s: records / took, server_cpu_us: ((this.cpu() - cpu) * 1e6) / records});
    fs.rmSync(file);
    this.psql('VACUUM ANALYZE usertable');
    this.psql('CHECKPOINT');
  }
  run(w, clients) {
    if (w === 'I') this.psql(`CREATE INDEX IF NOT EXISTS by_group ON usertable (((doc->>'group')::int)); ANALYZE usertable`);
    const files = this.script(w).map(([weight, text], i) => {
      const file = `${this.dir}/${w}${i}.sql`;
      fs.writeFileSync(file, text);
      return ['-f', `${file}@${weight}`];
    });
    const prefix = `${this.dir}/log-${w}-${clients}`;
    const args = ['-n', '-M', 'prepared', '-c', String(clients), '-j', '1', ...files.flat()];
    spawnSync('pgbench', [...args, '-T', String(Math.max(1, Math.round(seconds / 5)))], {env: this.env});
    const cpu = this.cpu();
    const out = execFileSync('pgbench', [...args, '-T', String(seconds), '-l', `--log-prefix=${prefix}`], {env: this.env, encoding: 'utf8'});
    const used = this.cpu() - cpu;
    const latencies = [];
    for (const f of fs.readdirSync(this.dir).filter((x) => x.startsWith(path.basename(prefix))))
      for (const line of fs.readFileSync(path.join(this.dir, f), 'utf8').split('\n')) if (line) latencies.push(Number(line.split(' ')[2]));
    latencies.sort((a, b) => a - b);
    const n = Number(/transactions actually processed: (\d+)/.exec(out)[1]);
    note({
      system: 'PostgreSQL', workload: w, clients, ops: n, ops_per_s: Number(/tps = ([\d.]+)/.exec(out)[1]),
      p50_us: latencies[Math.floor(latencies.length * 0.5)], p99_us: latencies[Math.floor(latencies.length * 0.99)], server_cpu_us: (used * 1e6) / n,
    });
  }
  async stop() {
    process.kill(this.postmaster, 'SIGINT');
    await new Promise((r) => this.child.on('exit', r));
    fs.rmSync(this.dir, {recursive: true, force: true});
  }
}

async function postgres() {
  const pg = new Postgres();
  try {
    await pg.start();
    pg.load();
    for (const w of workloads) for (const c of clientCounts) pg.run(w, c);
  } finally {
    if (pg.postmaster) await pg.stop();
  }
}

// ---- floors ----
async function floors() {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'vd-floor-'));
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-keyout', `${dir}/key.pem`, '-out', `${dir}/cert.pem`], {stdio: 'ignore'});
  const child = spawn(bench('floor_tls'), [`${dir}/cert.pem`, `${dir}/key.pem`], {stdio: ['pipe', 'pipe', 'inherit']});
  const port = await new Promise((r) => readline.createInterface({input: child.stdout}).once('line', r));
  for (const c of [16]) {
    const out = spawnSync(bench('bench_lean'), ['--port', port, '--ca', `${dir}/cert.pem`, '--workload', 'C', '--clients', String(c), '--seconds', String(seconds), '--records', String(records), '--pids', String(child.pid)], {encoding: 'utf8', env: {}});
    note({system: 'TLS echo', ...JSON.parse(out.stdout)});
  }
  child.stdin.end();
  await new Promise((r) => child.on('exit', r));
  fs.rmSync(dir, {recursive: true, force: true});
  if (fs.existsSync(bench('floor_engine'))) {
    const out = spawnSync(bench('floor_engine'), [], {encoding: 'utf8'});
    console.error(out.stdout);
    rows.push({system: 'engine', workload: 'floor', text: out.stdout.trim()});
  }
}

// ---- the cache of results: with and without it, and a hit beside a GET of Redis over TLS, in turns ----
const HOT = 20000; // documents that all fit into the cache

class Redis {
  async start() {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'vd-redis-'));
    this.port = 20000 + Math.floor(Math.random() * 20000);
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-keyout', `${this.dir}/key.pem`, '-out', `${this.dir}/cert.pem`], {stdio: 'ignore'});
    this.tls = ['--tls', '--insecure', '-p', String(this.port)];
    this.child = spawn('redis-server', ['--port', '0', '--tls-port', String(this.port), '--tls-cert-file', `${this.dir}/cert.pem`, '--tls-key-file', `${this.dir}/key.pem`, '--tls-auth-clients', 'no', '--save', '', '--appendonly', 'no', '--dir', this.dir], {stdio: 'ignore'});
    for (let i = 0; i < 100 && spawnSync('redis-cli', [...this.tls, 'ping'], {encoding: 'utf8'}).stdout?.trim() !== 'PONG'; i++) await sleep(50);
    this.benchmark('set', 10 * HOT);
  }
  benchmark(what, n) {
    return execFileSync('redis-benchmark', [...this.tls, '-t', what, '-c', '16', '-n', String(n), '-r', String(HOT), '-d', '1100', '--csv'], {encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore']});
  }
  cpu() {
    const f = fs.readFileSync(`/proc/${this.child.pid}/stat`, 'utf8').split(') ')[1].split(' ');
    return (Number(f[11]) + Number(f[12])) / 100;
  }
  get() {
    const n = 30000 * seconds, before = this.cpu();
    const f = this.benchmark('get', n).trim().split('\n').at(-1).split(',').map((x) => x.replaceAll('"', ''));
    return {workload: 'GET', clients: 16, ops: n, ops_per_s: Number(f[1]), p50_us: Number(f[4]) * 1000, p99_us: Number(f[6]) * 1000, server_cpu_us: ((this.cpu() - before) * 1e6) / n};
  }
  async stop() {
    this.child.kill();
    await new Promise((r) => this.child.on('exit', r));
    fs.rmSync(this.dir, {recursive: true, force: true});
  }
}

const median = (list, f) => list.map(f).sort((a, b) => a - b)[Math.floor(list.length / 2)];
const pidsOf = async (node) => [node.pid, ...(await node.status()).workers.map((w) => w.pid)];

async function cachePairs() {
  const nodes = [], redis = new Redis(), got = {};
  const add = (system, row) => (note({system, ...row}), (got[`${system} ${row.workload}`] ??= []).push(row));
  try {
    for (const bytes of ['0', '64MB']) {
      const node = await Node.start({set: [`gateway.result_cache=${bytes}`]});
      nodes.push({node, system: bytes === '0' ? 'no cache' : 'cache', pids: await pidsOf(node)});
      generate('bench_lean', node.info, nodes.at(-1).pids, 'load', 1);
    }
    const withRedis = spawnSync('redis-server', ['--version']).status === 0;
    if (withRedis) await redis.start();
    for (let i = 0; i < pairs; i++) {
      for (const w of ['C', 'B', 'A']) for (const n of nodes) add(n.system, generate('bench_lean', n.node.info, n.pids, w, 16));
      for (const n of nodes) add(`${n.system}, uniform`, generate('bench_lean', n.node.info, n.pids, 'C', 16, ['--distribution', 'uniform']));
      add('hits', generate('bench_lean', nodes[1].node.info, nodes[1].pids, 'C', 16, ['--records', String(HOT)]));
      if (withRedis) add('Redis', redis.get());
    }
    for (const [a, b] of [['cache C', 'no cache C'], ['cache B', 'no cache B'], ['cache A', 'no cache A'], ['cache, uniform C', 'no cache, uniform C'], ['hits C', 'Redis GET']])
      if (got[a] && got[b])
        console.log(`${a} / ${b}: ops/s ${(median(got[a], (r) => r.ops_per_s) / median(got[b], (r) => r.ops_per_s)).toFixed(2)}, CPU per operation ${(median(got[a], (r) => r.server_cpu_us) / median(got[b], (r) => r.server_cpu_us)).toFixed(2)}`);
  } finally {
    for (const n of nodes) await n.node.stop();
    if (redis.child) await redis.stop();
  }
}

// ---- the audit log: the same updates and reads with and without it, in turns ----
async function auditPairs() {
  const nodes = [];
  try {
    for (const on of ['true', 'false']) {
      const node = await Node.start({set: [`audit.enabled=${on}`]});
      nodes.push({node, on, pids: await pidsOf(node), rows: []});
      generate('bench_lean', node.info, nodes.at(-1).pids, 'load', 1);
    }
    for (let i = 0; i < audits; i++)
      for (const n of nodes) {
        n.rows.push(generate('bench_lean', n.node.info, n.pids, 'A', 64));
        note({system: `audit ${n.on}`, ...n.rows.at(-1)});
      }
    const [on, off] = nodes.map((n) => ({ops: median(n.rows, (r) => r.ops_per_s), cpu: median(n.rows, (r) => r.server_cpu_us)}));
    console.log(`audit on / off, A at 64 clients: ops/s ${(on.ops / off.ops).toFixed(2)}, CPU per operation ${(on.cpu / off.cpu).toFixed(2)}`);
  } finally {
    for (const n of nodes) await n.node.stop();
  }
}

// ---- keys of a group that are 40 times the budget ----
async function groupKeys() {
  const node = await Node.start();
  try {
    const client = await node.client(), c = client.db('bench').collection('group');
    const kb = 'x'.repeat(1000), many = 1000;
    await c.insertMany(Array.from({length: groupGb * 1000}, (_, i) => ({_id: i})));
    const {pid} = await node.worker('storaged');
    const peak = () => Number(/^VmHWM:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1024;
    const before = peak(), start = Date.now();
    const pipeline = [{$project: {k: {$range: [0, many]}}}, {$unwind: '$k'}, {$group: {_id: {$concat: [{$toString: {$add: [{$multiply: ['$_id', many]}, '$k']}}, kb]}}}, {$count: 'n'}];
    const [{n}] = await c.aggregate(pipeline, {allowDiskUse: true}).toArray();
    if (n !== groupGb * 1000 * many) throw new Error(`${n} groups`);
    console.log(`$group of ${groupGb} GB of keys: ${((Date.now() - start) / 1000).toFixed(1)} s, storaged resident at most ${peak().toFixed(0)} MiB, ${before.toFixed(0)} before`);
    rows.push({system: 'VedDB', workload: 'group', gb: groupGb, took_s: (Date.now() - start) / 1000, peak_mib: peak(), before_mib: before});
    await client.close();
  } finally {
    await node.stop();
  }
}

// ---- the table ----
function table() {
  const get = (system, workload, clients) => rows.find((r) => r.system === system && r.workload === workload && r.clients === clients);
  const lines = ['| workload | clients | VedDB ops/s | PostgreSQL ops/s | ratio | VedDB p99 us | PostgreSQL p99 us | ratio | VedDB CPU us/op | PostgreSQL CPU us/op | ratio |', '|---|---|---|---|---|---|---|---|---|---|---|'];
  const ratio = (a, b) => (a && b ? (a / b).toFixed(2) : '');
  for (const w of ['load', ...workloads])
    for (const c of w === 'load' ? [1] : clientCounts) {
      const v = get('VedDB', w, c), p = get('PostgreSQL', w, c);
      if (!v) continue;
      lines.push(`| ${w} | ${c} | ${Math.round(v.ops_per_s)} | ${p ? Math.round(p.ops_per_s) : ''} | ${ratio(v.ops_per_s, p?.ops_per_s)} | ${v.p99_us ?? ''} | ${p?.p99_us ?? ''} | ${ratio(v.p99_us, p?.p99_us)} | ${v.server_cpu_us.toFixed(1)} | ${p ? p.server_cpu_us.toFixed(1) : ''} | ${ratio(v.server_cpu_us, p?.server_cpu_us)} |`);
    }
  return lines.join('\n');
}

if (!process.argv.includes('--no-floors')) await floors();
if (workloads[0] !== '') await veddb();
if (workloads[0] !== '' && !process.argv.includes('--no-postgres')) await postgres();
if (pairs > 0) await cachePairs();
if (audits > 0) await auditPairs();
if (groupGb > 0) await groupKeys();
console.log(table());
if (argument('--json')) fs.writeFileSync(argument('--json'), JSON.stringify({records, seconds, rows}, null, 1));
