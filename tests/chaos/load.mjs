// tests/chaos/load.mjs — clients that read and update documents by a zipfian choice, and know what each document may hold.
import {MongoClient} from 'mongodb';
import {sleep, until} from '../support/node.mjs';

/** Numbers that a seed gives again (mulberry32). */
export function seeded(seed) {
  let a = seed >>> 0;
  const next = () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  next.below = (n) => Math.floor(next() * n);
  next.of = (list) => list[next.below(list.length)];
  return next;
}

// A driver retries once, and only what was in flight on a server that it still took for known: so each task has a client of its own, which polls.
const driver = {maxPoolSize: 1, serverMonitoringMode: 'poll', serverSelectionTimeoutMS: 60000};

export class Load {
  constructor(random, {keys = 4000, large = 300, largeBytes = 50000} = {}) {
    Object.assign(this, {random, keys, large, largeBytes});
    this.acked = new Array(keys).fill(0); // increments that were acknowledged
    this.begun = new Array(keys).fill(0); // that were sent
    this.unknown = new Array(keys).fill(0); // that an outage left open
    this.seen = new Array(keys).fill(0);
    this.inserted = new Map(); // _id -> acknowledged
    this.errors = [];
    this.outages = []; // {from, to}: the supervisor was killed, and clients may notice
    this.operations = 0;
    this.clients = [];
    const zipf = [];
    let sum = 0;
    for (let i = 1; i <= keys; i++) zipf.push((sum += 1 / i ** 0.99));
    this.choose = () => {
      const at = this.random() * sum;
      let low = 0, high = keys - 1;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (zipf[middle] < at) low = middle + 1;
        else high = middle;
      }
      return (low * 7919) % keys;
    };
  }

  async prepare(uri) {
    this.uri = uri;
    const db = (await this.client()).db('chaos');
    const pool = Array.from({length: 25000}, () => this.random().toString(36).slice(2, 10).padEnd(8, '.')).join('');
    this.text = (n) => {
      const at = this.random.below(pool.length - n);
      return pool.slice(at, at + n);
    };
    for (let k = 0; k < this.keys; k += 1000)
      await db.collection('hot').insertMany(Array.from({length: Math.min(1000, this.keys - k)}, (_, i) => ({_id: k + i, n: 0, g: (k + i) % 50, f: this.text(1000)})));
    await db.collection('hot').createIndex({g: 1});
    await db.collection('hot').createIndex({f: 1, n: 1});
    for (let k = 0; k < this.large; k += 20)
      await db.collection('large').insertMany(Array.from({length: Math.min(20, this.large - k)}, (_, i) => ({_id: k + i, n: 0, body: this.text(this.largeBytes)})));
    await db.createCollection('ring', {capped: true, size: 200000});
    await db.createCollection('empty');
  }

  async client() {
    const client = await new MongoClient(this.uri, driver).connect();
    this.clients.push(client);
    return client;
  }

  /** An error that nobody may see, unless the operation touched an outage. */
  failed(what, begun, e) {
    const now = Date.now();
    if (this.outages.some((o) => begun <= (o.to ?? now) && now >= o.from)) return;
    this.errors.push(`${new Date().toISOString()} ${what}, begun ${now - begun} ms ago: ${e.name} ${e.code} ${e.message}`);
  }

  async update(db, k, begun) {
    this.begun[k]++;
    try {
      const r = await db.collection('hot').updateOne({_id: k}, {$inc: {n: 1}, $set: {f: this.text(1000)}});
      if (r.matchedCount !== 1) this.errors.push(`an update of ${k} matched ${r.matchedCount}`);
      this.acked[k]++;
    } catch (e) {
      this.unknown[k]++;
      this.failed(`update ${k}`, begun, e);
    }
  }

  async read(db, k, begun) {
    const least = Math.max(this.acked[k], this.seen[k]);
    try {
      const d = await db.collection('hot').findOne({_id: k});
      if (!d) this.errors.push(`document ${k} is gone`);
      else if (d.n < least || d.n > this.begun[k]) this.errors.push(`document ${k} has ${d.n}: not in ${least}..${this.begun[k]}`);
      else this.seen[k] = Math.max(this.seen[k], d.n);
    } catch (e) {
      this.failed(`read ${k}`, begun, e);
    }
  }

  async other(db, task, i, begun) {
    const id = `${task}-${i}`, kind = i % 4;
    try {
      if (kind === 0) {
        this.inserted.set(id, false);
        await db.collection('inserted').insertOne({_id: id, g: i % 7, f: this.text(300)});
        this.inserted.set(id, true);
      } else if (kind === 1) await db.collection('large').updateOne({_id: i % this.large}, {$inc: {n: 1}});
      else if (kind === 2) await db.collection('ring').insertOne({at: i, f: this.text(500)});
      else {
        const g = i % 50;
        const list = await db.collection('hot').find({g}).hint({g: 1}).project({g: 1}).limit(20).toArray();
        if (list.length !== Math.min(20, Math.ceil(this.keys / 50)) || list.some((d) => d.g !== g)) this.errors.push(`group ${g} by its index: ${list.length} documents`);
      }
    } catch (e) {
      this.failed(`operation ${kind}`, begun, e);
    }
  }

  async task(t) {
    const db = (await this.client()).db('chaos');
    for (let i = 0; !this.stopped; i++) {
      const begun = Date.now(), which = this.random();
      if (which < 0.47) await this.read(db, this.choose(), begun);
      else if (which < 0.94) await this.update(db, this.choose(), begun);
      else await this.other(db, t, i, begun);
      this.operations++;
      this.went?.add(t);
      await sleep(1 + this.random.below(4)); // the machine is to be left to others, too; a driver may refuse at once
    }
  }

  run(tasks) {
    this.tasks = Array.from({length: tasks}, (_, t) => this.task(t));
  }

  /** Every task gets something done from now on. */
  async goesOn() {
    this.went = new Set();
    await until('all clients go on', () => this.went.size === this.tasks.length, 90000);
  }

  async outage(what) {
    const outage = {from: Date.now()};
    this.outages.push(outage);
    try {
      return await what();
    } finally {
      await this.goesOn();
      outage.to = Date.now();
    }
  }

  check() {
    if (this.errors.length > 0) throw new Error(`the clients saw:\n  ${this.errors.slice(0, 20).join('\n  ')}`);
  }

  async stop() {
    this.stopped = true;
    await Promise.all(this.tasks ?? []);
  }

  /** All documents hold what was acknowledged; of what nobody knows, either. The tasks have stopped. */
  async verify() {
    const db = (await this.client()).db('chaos'), wrong = [];
    let unknown = 0;
    for await (const d of db.collection('hot').find({}, {projection: {n: 1}})) {
      unknown += this.unknown[d._id];
      if (d.n < this.acked[d._id] || d.n > this.acked[d._id] + this.unknown[d._id]) wrong.push(`${d._id} has ${d.n}: ${this.acked[d._id]} acknowledged, ${this.unknown[d._id]} open`);
    }
    const count = await db.collection('hot').countDocuments({});
    if (count !== this.keys) wrong.push(`${count} documents of ${this.keys}`);
    const there = new Set((await db.collection('inserted').find({}, {projection: {_id: 1}}).toArray()).map((d) => d._id));
    for (const [id, acknowledged] of this.inserted) if (acknowledged && !there.has(id)) wrong.push(`${id} is lost`);
    for (const id of there) if (!this.inserted.has(id)) wrong.push(`${id} was never inserted`);
    if (wrong.length > 0) throw new Error(`stored is not what was acknowledged:\n  ${wrong.slice(0, 20).join('\n  ')}`);
    return {updates: this.acked.reduce((a, b) => a + b), inserts: there.size, unknown};
  }

  async validate() {
    const db = (await this.client()).db('chaos');
    for (const {name} of await db.listCollections().toArray()) {
      const r = await db.command({validate: name, full: true});
      if (!r.valid) throw new Error(`${name} is not valid: ${JSON.stringify(r)}`);
    }
  }

  async close() {
    await Promise.all(this.clients.map((c) => c.close()));
  }
}
