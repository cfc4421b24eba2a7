// linear_cluster.test.mjs — what clients see of a replica set while one primary after another is handed over, steps down, loses a
// process, dies with its whole node or is cut off: every document is one linearizable register, and nothing acknowledged is lost.
// `./dev chaos --failovers N` runs it with N failovers.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Cluster, Workload} from '../support/cluster.mjs';
import {Recorder} from '../support/linear.mjs';
import {sleep, until} from '../support/node.mjs';

const CLIENTS = 8, DOCUMENTS = 5, FAILOVERS = Number(process.env.VD_FAILOVERS ?? 6);
const majority = {w: 'majority', wtimeoutMS: 20000};
let set;

before(async () => {
  set = await Cluster.start({etcd: true, network: true});
}, {timeout: 120000});
after(async () => await set?.stop(), {timeout: 60000});

const others = (name) => set.names.filter((n) => n !== name);

/** Clients that write and read the registers until they are stopped. */
class Clients {
  constructor(recorder) {
    Object.assign(this, {recorder, running: true, acknowledged: [], errors: new Map()});
  }

  async start() {
    // An operation that nobody answers is given up: it counts as one of which nothing is known.
    const options = {retryWrites: true, retryReads: true, socketTimeoutMS: 10000, maxPoolSize: 2};
    const clients = await Promise.all(Array.from({length: CLIENTS}, () => set.client({driver: options})));
    this.done = Promise.all(clients.map((client, i) => this.work(client.db('linear').collection('registers'), i)));
  }

  async work(collection, i) {
    for (let step = i; this.running; step++) {
      const key = (step * 7 + i) % DOCUMENTS;
      try {
        if ((step + i) % 2 === 0) await write(this.recorder, collection, key, this.acknowledged);
        else await read(this.recorder, collection, key);
      } catch (e) {
        const what = `${e.code ?? e.name} ${e.message}`.slice(0, 120);
        this.errors.set(what, (this.errors.get(what) ?? 0) + 1);
        await sleep(20);
      }
      await sleep(5);
    }
  }

  async more(count) {
    const from = this.acknowledged.length;
    await until(`${count} more writes (${JSON.stringify([...this.errors])})`, () => this.acknowledged.length >= from + count, 60000);
  }

  async stop() {
    this.running = false;
    await this.done;
  }
}

const missing = new Set(); // documents that were not found

async function write(recorder, collection, key, acknowledged) {
  await recorder.write(key, async (v) => {
    const {matchedCount} = await collection.updateOne({_id: key}, {$set: {v}}, {writeConcern: majority});
    if (matchedCount !== 1) missing.add(`written ${key}`);
  });
  acknowledged.push(performance.now());
}

async function read(recorder, collection, key) {
  await recorder.read(key, async () => {
    const found = await collection.findOne({_id: key}, {readConcern: {level: 'linearizable'}, readPreference: 'primary', maxTimeMS: 10000});
    if (found === null) missing.add(`read ${key}`);
    return found?.v;
  });
}

const faults = {
  async 'hand-over'(old, i) {
    const next = others(old)[i % 2];
    // Two who want to lead at once may both be refused: asked again, as an operator would.
    await until(`${next} is promoted`, () => set.vedctl(old, 'replication', 'promote', next).then(() => true, () => false), 60000);
  },
  async 'step-down'(old, i) {
    await until(`${old} steps down`, () => set.vedctl(old, 'replication', 'step-down', '5', '--to', others(old)[i % 2]).then(() => true, () => false), 60000);
    await set.primary(60000, others(old));
  },
  async storaged(old) {
    const {starts} = await set.killWorker(old, 'storaged');
    await set.workerBack(old, 'storaged', starts, 60000);
  },
  async replicad(old) {
    const {starts} = await set.killWorker(old, 'replicad');
    await set.workerBack(old, 'replicad', starts, 60000);
  },
  async node(old, i, clients) {
    await set.killNode(old);
    await set.primary(60000, others(old));
    await clients.more(20);
    await set.startNode(old);
    await until(`${old} follows`, async () => (await set.state(old)) === 'SECONDARY', 60000);
  },
  /** Cut off from the other nodes, though not from its clients: it must neither acknowledge nor answer a linearizable read. */
  async 'cut off'(old, i, clients) {
    set.partition(old, others(old));
    await set.primary(60000, others(old));
    await clients.more(20);
    set.heal();
    await until(`${old} follows`, async () => (await set.state(old)) === 'SECONDARY', 60000);
  },
};

/** "n 12, median 30, p90 50, max 70" */
function distribution(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b), at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  return `n ${sorted.length}, median ${at(0.5)}, p90 ${at(0.9)}, max ${sorted.at(-1)}`;
}

/** The longest time without an acknowledged write that ended between two moments. */
function longestGap(times, from, to) {
  let longest = 0;
  for (let i = 1; i < times.length; i++) if (times[i] >= from && times[i] <= to) longest = Math.max(longest, times[i] - times[i - 1]);
  return Math.round(longest);
}

test(`registers are linearizable through ${FAILOVERS} failovers`, {timeout: 120000 + FAILOVERS * 60000}, async (t) => {
  const client = await set.client({driver: {retryWrites: true, socketTimeoutMS: 10000}});
  const registers = client.db('linear').collection('registers');
  await registers.insertMany(Array.from({length: DOCUMENTS}, (_, _id) => ({_id, v: 0})), {writeConcern: {w: 3, wtimeoutMS: 30000}});
  const recorder = new Recorder();
  const clients = new Clients(recorder);
  const load = new Workload(client.db('linear').collection('inserted'), {writers: 2});
  const moments = [], order = Object.keys(faults);
  try {
    await clients.start();
    await clients.more(50);
    for (let i = 0; i < FAILOVERS; i++) {
      // One fault at a time: a node that says that it follows may still find out that it must copy everything anew, and does not
      // count until it has.
      await until('all nodes have a write', () => client.db('linear').collection('marks').insertOne({i, at: new Date()}, {writeConcern: {w: 3, wtimeoutMS: 1000}}).then(() => true, () => false), 120000);
      const kind = order[i % order.length], old = await set.primary(60000), from = performance.now();
      await faults[kind](old, i, clients);
      const next = await set.primary(60000);
      await clients.more(50);
      moments.push({kind, from, to: performance.now(), moved: next !== old});
      if (FAILOVERS > order.length) console.log(`${i + 1}/${FAILOVERS} ${kind}: ${old} -> ${next}, ${longestGap(clients.acknowledged, from, performance.now())} ms`);
    }
  } catch (e) {
    for (const name of set.names) console.log(`${name}: ${JSON.stringify(await set.status(name))}`);
    throw e;
  } finally {
    set.heal();
    await clients.stop();
    await load.stop();
  }
  await set.whole();
  for (let key = 0; key < DOCUMENTS; key++) await read(recorder, registers, key); // what was acknowledged last is there

  const gaps = moments.map(({kind, from, to}) => ({kind, ms: longestGap(clients.acknowledged, from, to)}));
  t.diagnostic(`without an acknowledged write, ms: ${distribution(gaps.map((g) => g.ms))}; another led after ${moments.filter((m) => m.moved).length}`);
  for (const kind of order) {
    const own = gaps.filter((g) => g.kind === kind).map((g) => g.ms);
    if (own.length > 0) t.diagnostic(`  ${kind}: ${distribution(own)}`);
  }
  t.diagnostic(`${JSON.stringify(recorder.counts)}, ${load.acknowledged.length} inserts; errors ${JSON.stringify([...clients.errors])}`);

  assert.deepEqual([...missing], []);
  assert.deepEqual(recorder.violations(0), []);
  assert.deepEqual(await load.lost(), []);
  await set.equal('linear');
});
