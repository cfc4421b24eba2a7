// tests/bench/rotation.mjs — what a rotation of the data keys costs: its own rate, what the foreground notices of it, the space that it takes, and beside
// them the plain cost of the other way to new keys: everything copied out through the driver and into a new node. Prints tables (--json FILE keeps the figures).
//   --mb N         data, in MB (1024; --quick: 100)      --seconds S   of one slice of the load (10; --quick: 3)
//   --clients N    of the load (16)                      --slices N    slices before, behind, and at most under each rotation (5; --quick: 3)
//   --dir D        where the node's folder is made       --no-copy     without the copy out and in
import {spawn} from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {BSON, MongoClient} from 'mongodb';
import {Node, build, sleep} from '../support/node.mjs';

const argument = (name) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : undefined);
const quick = process.argv.includes('--quick');
const megabytes = Number(argument('--mb') ?? (quick ? 100 : 1024));
const seconds = Number(argument('--seconds') ?? (quick ? 3 : 10));
const slices = Number(argument('--slices') ?? (quick ? 3 : 5));
const clients = Number(argument('--clients') ?? 16);
const MB = 1024 * 1024;
const rows = [];

function note(what, figures) {
  rows.push({what, ...figures});
  console.error(`  ${what.padEnd(36)} ${Object.entries(figures).map(([k, v]) => `${k} ${typeof v === 'number' ? Math.round(v * 10) / 10 : v}`).join('  ')}`);
}

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

// ---- the data: small and large documents, many indexes, a capped collection, values of megabytes ----
const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
const pool = Array.from({length: 4 * MB}, () => letters[Math.floor(Math.random() * 64)]).join('');
const text = (bytes) => {
  const at = Math.floor(Math.random() * (pool.length - bytes));
  return pool.slice(at, at + bytes);
};
const kinds = [
  {name: 'small', share: 0.15, bytes: 250, make: (i) => ({_id: i, name: text(24), group: i % 97, at: new Date(1.7e12 + i * 1000), note: text(140)})},
  {name: 'large', share: 0.25, bytes: 60000, make: (i) => ({_id: i, body: text(59000), n: i})},
  {
    name: 'indexed', share: 0.35, bytes: 1200, indexes: [{a: 1}, {b: 1, c: -1}, {tags: 1}, {mail: 1}],
    make: (i) => ({_id: i, a: (i * 7919) % 100003, b: text(12), c: i % 1000, tags: [text(6), text(6)], mail: `${text(16)}@example.org`, pad: text(1000)}),
  },
  {name: 'capped', share: 0.05, bytes: 1100, capped: true, make: (i) => ({_id: i, line: text(1000)})},
  {name: 'huge', share: 0.2, bytes: 3 * MB, make: (i) => ({_id: i, value: text(3 * MB - 100)})},
];

async function fill(db) {
  for (const kind of kinds) {
    const count = Math.max(2, Math.round((megabytes * MB * kind.share) / kind.bytes));
    const batch = Math.max(1, Math.min(1000, Math.floor((8 * MB) / kind.bytes)));
    if (kind.capped) await db.createCollection(kind.name, {capped: true, size: megabytes * MB});
    for (const keys of kind.indexes ?? []) await db.collection(kind.name).createIndex(keys);
    for (let i = 0; i < count; i += batch)
      await db.collection(kind.name).insertMany(Array.from({length: Math.min(batch, count - i)}, (_, k) => kind.make(i + k)));
  }
}

// ---- what is looked at ----
/** What the tables take: the log's files, which are reserved whole, would hide what a small data set shows. */
async function folderBytes(folder) {
  let sum = 0;
  for (const entry of await fs.promises.readdir(folder, {recursive: true, withFileTypes: true})) {
    if (!entry.isFile() || !entry.name.endsWith('.wt')) continue;
    const st = await fs.promises.stat(path.join(entry.parentPath ?? entry.path, entry.name)).catch(() => null); // gone meanwhile
    sum += (st?.blocks ?? 0) * 512;
  }
  return sum;
}

const ticks = (file) => {
  const f = fs.readFileSync(file, 'utf8').split(') ')[1].split(' ');
  return (Number(f[11]) + Number(f[12])) / 100;
};
/** CPU seconds of the thread that rotates, and of all of storage. */
function cpu(pid) {
  const task = fs.readdirSync(`/proc/${pid}/task`).find((t) => fs.readFileSync(`/proc/${pid}/task/${t}/comm`, 'utf8').trim() === 'rotation');
  return {thread: ticks(`/proc/${pid}/task/${task}/stat`), all: ticks(`/proc/${pid}/stat`)};
}

const keys = async (node, ...args) => JSON.parse((await node.vedctl('--json', 'keys', ...args)).stdout);

function load(node, pids, workload, extra = []) {
  const url = new URL(node.uri.replace('mongodb:', 'http:'));
  const args = ['--port', url.port, '--ca', node.info.caFile, '--user', node.info.username, '--workload', workload, '--clients', String(clients), '--seconds', String(seconds), '--records', String(Math.max(1000, Math.round(megabytes * 50))), '--pids', pids.join(','), ...extra];
  return new Promise((resolve, reject) => {
    const child = spawn(path.join(build, 'bench', 'bench_lean'), args, {env: {BENCH_PASSWORD: node.info.password}, stdio: ['ignore', 'pipe', 'inherit']});
    let out = '';
    child.stdout.on('data', (d) => (out += d));
    child.on('exit', (code) => (code === 0 ? resolve(JSON.parse(out)) : reject(new Error(`bench_lean ${workload}: exit ${code}`))));
  });
}

/** As many slices as fit before done() says so, `most` at most; the first slice is whole, whatever done() says. */
async function sliced(node, pids, most, done = () => false) {
  const list = [];
  while (list.length < most && (list.length === 0 || !done())) list.push(await load(node, pids, 'A'));
  return list;
}
const summary = (list) => ({
  slices: list.length, ops_per_s: median(list.map((r) => r.ops_per_s)), p50_us: median(list.map((r) => r.p50_us)),
  p99_us: median(list.map((r) => r.p99_us)), p99_worst_us: Math.max(...list.map((r) => r.p99_us)),
});

/**
 * One rotation from order to completed. beside(isOver): what runs meanwhile, awaited. Who looks takes processor time from the load:
 * often only where the rotation is short, and the load beside it no figure to be held.
 */
async function rotate(node, what, options, beside, lookMs = 200) {
  const folder = path.join(node.dir, 'data');
  const {pid} = await node.worker('storaged');
  const spaceBefore = await folderBytes(folder);
  let peak = spaceBefore, over = false, moved = null, total = 0;
  const start = Date.now(), cpuStart = cpu(pid);
  await node.vedctl('keys', 'rotate', ...options);
  const watch = (async () => {
    for (;;) {
      const {rotation} = await keys(node, 'status');
      if (rotation.state === 'failed') throw new Error(rotation.note);
      total = Math.max(total, rotation.bytesTotal ?? 0);
      // Re-encrypting: what the first pass has walked is what had to be moved.
      if (moved === null && total > 0 && (rotation.state !== 'reencrypting' || rotation.pass > 1)) moved = {ms: Date.now() - start, cpu: cpu(pid)};
      peak = Math.max(peak, await folderBytes(folder));
      if (rotation.state === 'completed') return;
      await sleep(lookMs);
    }
  })().finally(() => (over = true));
  const [figures] = await Promise.all([beside?.(() => over), watch]);
  const took = (Date.now() - start) / 1000;
  const thread = moved.cpu.thread - cpuStart.thread, all = cpu(pid).all - cpuStart.all;
  const row = {
    mb: total / MB, moved_s: moved.ms / 1000, mb_per_s: total / MB / (moved.ms / 1000), thread_cpu_s: thread, mb_per_cpu_s: total / MB / thread,
    completed_s: took, storaged_cpu_s: all, space_before_mb: spaceBefore / MB, space_peak_mb: peak / MB, space_ratio: peak / spaceBefore,
  };
  note(what, row);
  return {row, figures};
}

// ---- the other way: everything out through the driver, and into a new node ----
async function copyOut(client, folder) {
  let bytes = 0;
  const db = client.db('mixed');
  for (const {name} of await db.listCollections().toArray()) {
    const file = fs.createWriteStream(path.join(folder, name));
    for await (const doc of db.collection(name).find({}, {raw: true, batchSize: 10000}))
      if (((bytes += doc.length), !file.write(doc))) await new Promise((r) => file.once('drain', r));
    await new Promise((r) => file.end(r));
  }
  return bytes;
}

async function copyIn(client, folder) {
  const db = client.db('mixed');
  for (const kind of kinds) {
    if (kind.capped) await db.createCollection(kind.name, {capped: true, size: megabytes * MB});
    let batch = [], size = 0;
    const flush = async () => {
      if (batch.length > 0) await db.collection(kind.name).insertMany(batch);
      batch = [];
      size = 0;
    };
    const bytes = fs.readFileSync(path.join(folder, kind.name));
    for (let at = 0; at < bytes.length; ) {
      const len = bytes.readInt32LE(at);
      batch.push(BSON.deserialize(bytes.subarray(at, at + len)));
      size += len;
      at += len;
      if (size > 8 * MB || batch.length === 1000) await flush();
    }
    await flush();
    for (const keys of kind.indexes ?? []) await db.collection(kind.name).createIndex(keys);
  }
}

async function copy(node) {
  const folder = fs.mkdtempSync(path.join(argument('--dir') ?? os.tmpdir(), 'vd-copy-'));
  const other = await Node.start();
  try {
    const from = await new MongoClient(node.uri).connect(), to = await new MongoClient(other.uri).connect();
    const start = Date.now();
    const bytes = await copyOut(from, folder);
    const out = (Date.now() - start) / 1000;
    await copyIn(to, folder);
    const all = (Date.now() - start) / 1000;
    note('copied out and into a new node', {mb: bytes / MB, out_s: out, in_s: all - out, copy_s: all, copy_mb_per_s: bytes / MB / all});
    await from.close();
    await to.close();
    return all;
  } finally {
    await other.stop();
    fs.rmSync(folder, {recursive: true, force: true});
  }
}

// ---- the run ----
const table = (list, columns) => `| ${columns.join(' | ')} |\n|${columns.map(() => '---').join('|')}|\n${list.map((r) => `| ${columns.map((c) => (typeof r[c] === 'number' ? Math.round(r[c] * 10) / 10 : (r[c] ?? ''))).join(' | ')} |`).join('\n')}`;

const base = argument('--dir');
const node = await Node.start(base ? {dir: fs.mkdtempSync(path.join(base, 'vd-'))} : {});
try {
  const client = await node.client();
  const start = Date.now();
  await fill(client.db('mixed'));
  const pids = [node.pid, ...(await node.status()).workers.map((w) => w.pid)];
  await load(node, pids, 'load', ['--clients', '1']);
  await client.close();
  note('loaded', {took_s: (Date.now() - start) / 1000, folder_mb: (await folderBytes(path.join(node.dir, 'data'))) / MB});
  await sliced(node, pids, 1); // it warms up
  const fast = ['--rate', '0', '--max-latency-rise', '0'];
  const alone = await rotate(node, 'unthrottled, alone', fast);
  const before = summary(await sliced(node, pids, slices));
  note('A before', before);
  const busy = await rotate(node, 'unthrottled, beside A', fast, (over) => sliced(node, pids, 1000, over));
  note('A under the unthrottled rotation', summary(busy.figures));
  await sleep(1000);
  const again = summary(await sliced(node, pids, slices));
  note('A between', again);
  // At the throttle it may take long: when there are slices enough, it may hurry.
  const slow = await rotate(node, 'default throttle, beside A', [], async (over) => {
    const list = await sliced(node, pids, slices, over);
    const {rotation} = await keys(node, 'status');
    note('A under the throttled rotation', {...summary(list), rotated_mb: (rotation.bytesDone ?? 0) / MB});
    if (!over()) await node.vedctl('keys', 'throttle', ...fast).catch(() => {}); // it may have ended
    return list;
  }, 4000);
  const after = summary(await sliced(node, pids, slices));
  note('A after', after);
  const copied = process.argv.includes('--no-copy') ? undefined : await copy(node);
  console.log(table(rows.filter((r) => r.mb_per_cpu_s), ['what', 'mb', 'mb_per_s', 'mb_per_cpu_s', 'completed_s', 'space_before_mb', 'space_peak_mb', 'space_ratio']));
  console.log(`\n${table(rows.filter((r) => r.ops_per_s), ['what', 'slices', 'ops_per_s', 'p50_us', 'p99_us', 'p99_worst_us'])}`);
  // The load itself drifts: the throttled slices are compared with those on both sides of them.
  const around = (name) => (again[name] + after[name]) / 2, throttled = summary(slow.figures);
  const ratios = {
    rate_beside_traffic_mb_s: busy.row.mb_per_s, ops_throttled: throttled.ops_per_s / around('ops_per_s'), p50_throttled: throttled.p50_us / around('p50_us'),
    p99_throttled: throttled.p99_us / around('p99_us'), space: Math.max(busy.row.space_ratio, alone.row.space_ratio),
    ...(copied ? {copy_seconds_of_rotation_alone: copied / alone.row.completed_s} : {}),
  };
  console.log(`\n${Object.entries(ratios).map(([k, v]) => `${k} ${v.toFixed(2)}`).join('   ')}`);
  if (argument('--json')) fs.writeFileSync(argument('--json'), JSON.stringify({megabytes, seconds, clients, rows, ratios}, null, 1));
} finally {
  await node.stop();
}
