// The gateway's cache of results: a hit shows what is there, whoever changed it and however; never less than what was acknowledged, also while
// processes are killed; privileges are asked for each time; secondaries and what differs from reader to reader are never served from it.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import https from 'node:https';
import {after, before, test} from 'node:test';
import {Long, Timestamp} from 'mongodb';
import {Node, until} from '../support/node.mjs';

let node, client;
before(async () => {
  node = await Node.start({set: ['storage.ttl_period=500ms']});
  client = await node.client();
});
after(async () => {
  await client?.close();
  await node?.stop();
});

async function figures(of = node) {
  const text = await new Promise((resolve, reject) => {
    const request = https.get(`${of.info.httpAddress}/metrics`, {ca: fs.readFileSync(of.info.caFile), auth: `${of.info.username}:${of.info.password}`, agent: false}, (reply) => {
      let body = '';
      reply.on('data', (d) => (body += d));
      reply.on('end', () => resolve(body));
    });
    request.on('error', reject);
  });
  const figure = (name) => Number(new RegExp(`^veddb_gateway_cache_${name} (\\d+)$`, 'm').exec(text)[1]);
  return {hits: figure('hits_total'), misses: figure('misses_total'), invalidations: figure('invalidations_total'), entries: figure('entries'), bytes: figure('bytes')};
}

/** Reads until the answer comes from the cache: what is asserted afterwards is about a reply that is kept. */
async function warm(read) {
  let value;
  await until('a hit', async () => {
    const before = await figures();
    value = await read();
    return (await figures()).hits > before.hits;
  });
  return value;
}

test('a hit shows what is there, whoever changed it and however', async () => {
  const db = client.db('kept'), other = await node.client();
  const c = db.collection('c'), read = () => c.findOne({_id: 'k'});
  try {
    const o = other.db('kept').collection('c');
    const changes = {
      update: () => o.updateOne({_id: 'k'}, {$set: {by: 'update'}}),
      replace: () => o.replaceOne({_id: 'k'}, {by: 'replace'}),
      'update of many': () => o.updateMany({}, {$set: {by: 'update of many'}}),
      findAndModify: () => o.findOneAndUpdate({_id: 'k'}, {$set: {by: 'findAndModify'}}),
      bulk: () => o.bulkWrite([{updateOne: {filter: {_id: 'k'}, update: {$set: {by: 'bulk'}}}}]),
      merge: () => o.aggregate([{$match: {_id: 'k'}}, {$set: {by: 'merge'}}, {$merge: {into: 'c', whenMatched: 'replace'}}]).toArray(),
      out: () => o.aggregate([{$set: {by: 'out'}}, {$out: 'c'}]).toArray(),
      transaction: () => other.withSession((s) => s.withTransaction(() => o.updateOne({_id: 'k'}, {$set: {by: 'transaction'}}, {session: s}))),
      rename: async () => {
        await other.db('kept').collection('d').insertOne({_id: 'k', by: 'rename'});
        await other.db('kept').collection('d').rename('c', {dropTarget: true});
      },
      'drop and create': async () => {
        await o.drop();
        await o.insertOne({_id: 'k', by: 'drop and create'});
      },
      'delete and insert': async () => {
        await o.deleteOne({_id: 'k'});
        assert.equal(await read(), null);
        await o.insertOne({_id: 'k', by: 'delete and insert'});
      },
    };
    await c.insertMany([{_id: 'k', by: 'insert'}, {_id: 'l'}]);
    for (const [by, change] of Object.entries(changes)) {
      await warm(read);
      await change();
      assert.equal((await read()).by, by);
      assert.equal((await warm(read)).by, by);
    }
    await other.db('kept').dropDatabase();
    assert.equal(await read(), null);
  } finally {
    await other.close();
  }
});

test('an open transaction is not seen, and sees itself', async () => {
  const c = client.db('kept').collection('open'), read = () => c.findOne({_id: 1}), session = client.startSession();
  await c.insertOne({_id: 1, n: 1});
  await warm(read);
  session.startTransaction();
  await c.updateOne({_id: 1}, {$set: {n: 2}}, {session});
  assert.equal((await read()).n, 1);
  assert.equal((await c.findOne({_id: 1}, {session})).n, 2);
  await session.abortTransaction();
  assert.equal((await warm(read)).n, 1);
  session.startTransaction();
  await c.updateOne({_id: 1}, {$set: {n: 3}}, {session});
  assert.equal((await read()).n, 1);
  await session.commitTransaction();
  assert.equal((await read()).n, 3);
  await session.endSession();
});

test('a document that expires goes', async () => {
  const c = client.db('kept').collection('expires'), read = () => c.findOne({_id: 1});
  await c.createIndex({at: 1}, {expireAfterSeconds: 0});
  await c.insertOne({_id: 1, at: new Date(Date.now() + 86400000)});
  await warm(read);
  await c.updateOne({_id: 1}, {$set: {at: new Date(0)}});
  await until('it is gone', async () => (await read()) === null);
});

test('forms of the same read are kept apart; what must not be kept is not', async () => {
  const db = client.db('kept'), c = db.collection('forms');
  await c.insertOne({_id: 1, a: 1, b: 2});
  for (const projection of [{a: 1}, {b: 0}, {a: true, _id: 0}]) {
    const there = await c.aggregate([{$match: {_id: 1}}, {$project: projection}]).next();
    assert.deepEqual(await warm(() => c.findOne({_id: 1}, {projection})), there);
  }
  for (const readConcern of [{level: 'local'}, {level: 'majority'}]) assert.deepEqual(await warm(() => c.findOne({_id: 1}, {readConcern})), {_id: 1, a: 1, b: 2});
  await db.createCollection('view', {viewOn: 'forms', pipeline: [{$set: {v: 1}}]});
  const reads = {
    'a view': () => db.collection('view').findOne({_id: 1}),
    'what is computed': () => c.findOne({_id: 1}, {projection: {now: '$$NOW'}}),
    'roles of the reader': () => c.findOne({_id: 1}, {projection: {roles: '$$USER_ROLES'}}),
    linearizable: () => c.findOne({_id: 1}, {readConcern: {level: 'linearizable'}}),
    snapshot: () => c.findOne({_id: 1}, {readConcern: {level: 'snapshot'}}),
    hint: () => c.findOne({_id: 1}, {hint: '_id_'}),
    collation: () => c.findOne({_id: 1}, {collation: {locale: 'en'}}),
    'nothing there': () => c.findOne({_id: 2}),
    'more than _id': () => c.findOne({_id: 1, a: 1}),
  };
  const before = await figures();
  for (const [what, read] of Object.entries(reads)) for (let i = 0; i < 3; i++) await read().catch((e) => assert.ok(e.code !== undefined, `${what}: ${e}`));
  assert.equal((await figures()).hits, before.hits);
});

test('times are true, and causal reads are served only by what is late enough', async () => {
  const db = client.db('kept'), c = db.collection('times');
  const find = (concern) => db.command({find: 'times', filter: {_id: 1}, limit: 1, singleBatch: true, ...(concern && {readConcern: concern})});
  await c.insertOne({_id: 1, n: 0});
  await warm(() => find());
  for (let n = 1; n <= 20; n++) {
    const written = await db.command({update: 'times', updates: [{q: {_id: 1}, u: {$set: {n}}}]});
    const read = await find({afterClusterTime: written.operationTime}), again = await find({afterClusterTime: written.operationTime});
    for (const reply of [read, again]) {
      assert.equal(reply.cursor.firstBatch[0].n, n);
      assert.ok(reply.operationTime.greaterThanOrEqual(written.operationTime), 'what is shown was written then');
      assert.ok(reply.$clusterTime.clusterTime.greaterThanOrEqual(reply.operationTime));
    }
  }
  const ahead = new Timestamp({t: Math.floor(Date.now() / 1000) + 1000, i: 1});
  await assert.rejects(find({afterClusterTime: ahead}), 'a time that nobody has seen is refused as ever');
  assert.equal(Long.isLong(ahead), true);
});

test('who may no longer read gets nothing', async () => {
  const admin = client.db('admin'), c = client.db('kept').collection('secret');
  await c.insertOne({_id: 1});
  await admin.command({createUser: 'reader', pwd: 'p', roles: [{role: 'read', db: 'kept'}]});
  await admin.command({createUser: 'nobody', pwd: 'p', roles: []});
  const as = (name) => node.client({driver: {auth: {username: name, password: 'p'}}});
  const reader = await as('reader'), nobody = await as('nobody');
  try {
    const read = () => reader.db('kept').collection('secret').findOne({_id: 1});
    await warm(read);
    await assert.rejects(nobody.db('kept').collection('secret').findOne({_id: 1}), {code: 13});
    await admin.command({revokeRolesFromUser: 'reader', roles: [{role: 'read', db: 'kept'}]});
    await assert.rejects(read(), {code: 13});
    await admin.command({grantRolesToUser: 'reader', roles: [{role: 'read', db: 'kept'}]});
    await warm(read);
    await admin.command({dropUser: 'reader'});
    await assert.rejects(read());
  } finally {
    await reader.close();
    await nobody.close();
  }
});

// ---- racing writers ----

const KEYS = 4, WRITERS = 6, READERS = 6, PAIRS = 2;

/** Counters on a few hot documents. What a read shows is at least what was acknowledged, or shown to anybody, before it began. */
class Race {
  constructor() {
    this.floor = new Map();
    this.stopped = false;
    this.reads = this.writes = this.commits = 0;
    this.wrong = [];
    this.clients = [];
  }
  raise(key, n) {
    if (n > (this.floor.get(key) ?? 0)) this.floor.set(key, n);
  }
  async connect() {
    const one = await node.client({driver: {maxPoolSize: 2, minPoolSize: 1}});
    this.clients.push(one);
    return {one, c: one.db('race').collection('c')};
  }
  async writer(w) {
    const {c} = await this.connect();
    for (let i = w; !this.stopped; i++) {
      const key = `k${i % KEYS}`;
      try {
        const d = await c.findOneAndUpdate({_id: key}, {$inc: {n: 1}}, {returnDocument: 'after'});
        this.raise(key, d.n);
        this.writes++;
      } catch {} // whether it was done is not known: nothing is claimed of it
    }
  }
  async mover(w) {
    const {one, c} = await this.connect();
    for (let i = w; !this.stopped; i++) {
      const keys = [`p${i % PAIRS}a`, `p${i % PAIRS}b`];
      try {
        let seen;
        await one.withSession((session) =>
          session.withTransaction(async () => {
            seen = [];
            for (const key of keys) seen.push((await c.findOneAndUpdate({_id: key}, {$inc: {n: 1}}, {session, returnDocument: 'after'})).n);
          }),
        );
        keys.forEach((key, k) => this.raise(key, seen[k]));
        this.commits++;
      } catch {}
    }
  }
  async reader(r) {
    const {c} = await this.connect();
    const keys = [...this.floor.keys()];
    for (let i = r; !this.stopped; i++) {
      const key = keys[i % keys.length], options = [{}, {readConcern: {level: 'majority'}}, {projection: {n: 1}}][i % 3];
      const floor = this.floor.get(key);
      try {
        const {n} = await c.findOne({_id: key}, options);
        if (n < floor) this.wrong.push(`${key}: ${n} after ${floor}`);
        this.raise(key, n);
        // A pair is written at once: the second one is at least so far when it is read later.
        if (key.endsWith('a')) {
          const b = await c.findOne({_id: key.replace('a', 'b')});
          if (b.n < n) this.wrong.push(`${key}: half of a transaction, ${n} and ${b.n}`);
          this.raise(key.replace('a', 'b'), b.n);
        }
        this.reads++;
      } catch (e) {
        if (e instanceof TypeError) this.wrong.push(`${key} is gone`);
      }
    }
  }
  async start() {
    const {c} = await this.connect();
    for (let i = 0; i < KEYS; i++) this.floor.set(`k${i}`, 0);
    for (let i = 0; i < PAIRS; i++) for (const half of ['a', 'b']) this.floor.set(`p${i}${half}`, 0);
    await c.insertMany([...this.floor.keys()].map((_id) => ({_id, n: 0})));
    this.tasks = [];
    for (let i = 0; i < WRITERS; i++) this.tasks.push(this.writer(i));
    for (let i = 0; i < PAIRS; i++) this.tasks.push(this.mover(i));
    for (let i = 0; i < READERS; i++) this.tasks.push(this.reader(i));
  }
  /** Until all have got on. */
  async goOn() {
    const {reads, writes, commits} = this;
    await until('everybody gets on', () => this.wrong.length > 0 || (this.reads > reads + 300 && this.writes > writes + 50 && this.commits > commits + 5), 120000);
    assert.deepEqual(this.wrong, []);
  }
  async stop() {
    this.stopped = true;
    await Promise.all(this.tasks ?? []);
    for (const one of this.clients) await one.close();
  }
}

test('racing writers: no read is older than what was acknowledged before it, also when processes die', async () => {
  const race = new Race();
  try {
    await race.start();
    await race.goOn();
    for (const name of ['storaged', 'gatewayd', 'storaged', 'storaged', 'gatewayd', 'storaged']) {
      await node.kill(name);
      await node.whole();
      await race.goOn();
    }
    const now = await figures();
    assert.ok(now.hits > 0 && now.invalidations > 0, JSON.stringify(now));
  } finally {
    await race.stop();
  }
  assert.deepEqual(race.wrong, []);
});
