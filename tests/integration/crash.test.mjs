// SIGKILL at random, under load: no acknowledged write lost or doubled, nothing seen is taken back, retryable operations see no error.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Node, sleep, until} from '../support/node.mjs';

let node;
before(async () => (node = await Node.start()));
after(async () => node?.stop());

// The supervisor's pause doubles with each death in quick succession: with more, the test would mostly wait for it.
const KILLS = Number(process.env.VD_TEST_KILLS ?? 14);

/** Writers insert and increment; readers watch that no value goes back. All count what was acknowledged. */
class Load {
  /** connect() gives the client of one task. */
  constructor(connect, name) {
    this.connect = connect;
    this.name = name;
    this.acknowledged = [];
    this.increments = new Map();
    this.errors = [];
    this.reads = 0;
    this.stopped = false;
  }
  async collection() {
    return (await this.connect()).db('crash').collection(this.name);
  }
  async prepare(counters) {
    this.c = await this.collection();
    this.counters = counters;
    for (let i = 0; i < counters; i++) {
      await this.c.insertOne({_id: `counter-${i}`, n: 0});
      this.increments.set(i, 0);
    }
  }
  async writer(w) {
    const c = await this.collection();
    for (let i = 0; !this.stopped; i++) {
      const id = `${w}-${i}`;
      try {
        await c.insertOne({_id: id, w, i, pad: 'x'.repeat(200)});
        this.acknowledged.push(id);
        const k = (w + i) % this.counters;
        await c.updateOne({_id: `counter-${k}`}, {$inc: {n: 1}});
        this.increments.set(k, this.increments.get(k) + 1);
        if (i % 5 === 0) await c.findOneAndUpdate({_id: id}, {$set: {seen: true}}, {returnDocument: 'after'});
        this.went.add(`writer ${w}`);
      } catch (e) {
        this.errors.push(`${e.name} ${e.code} ${e.message}`);
      }
    }
  }
  async reader(r) {
    const c = await this.collection();
    const last = new Map();
    while (!this.stopped) {
      for (let k = 0; k < this.counters && !this.stopped; k++) {
        try {
          const d = await c.findOne({_id: `counter-${k}`});
          assert.ok(d, 'a counter is gone');
          if (d.n < (last.get(k) ?? 0)) this.errors.push(`counter ${k} went back from ${last.get(k)} to ${d.n}`);
          last.set(k, d.n);
          this.reads++;
          this.went.add(`reader ${r}`);
        } catch (e) {
          this.errors.push(`read: ${e.name} ${e.code} ${e.message}`);
        }
      }
    }
  }
  run(writers) {
    this.went = new Set();
    this.tasks = [...Array(writers).keys()].map((w) => this.writer(w));
    this.tasks.push(this.reader(0), this.reader(1));
  }
  /** Every task gets something done from now on. */
  async goesOn() {
    this.went.clear();
    await until('all tasks go on', () => this.went.size === this.tasks.length);
  }
  async stop() {
    this.stopped = true;
    await Promise.all(this.tasks);
  }
  async verify() {
    const ids = new Set((await this.c.find({w: {$exists: true}}, {projection: {_id: 1}}).toArray()).map((d) => d._id));
    for (const id of this.acknowledged) assert.ok(ids.has(id), `acknowledged insert ${id} is lost`);
    for (const [k, n] of this.increments) {
      const d = await this.c.findOne({_id: `counter-${k}`});
      assert.equal(d.n, n, `counter ${k}: acknowledged ${n}, stored ${d.n}`);
    }
    assert.equal(await this.c.countDocuments({}), await this.c.estimatedDocumentCount(), 'kept count is the counted one');
  }
}

// Storage's deaths are the gateway's to hide. The gateway's own are the driver's, and the Node driver retries a write once, and
// only when it still took the server for a known one as the connection broke (lib/sdam/server.js, decorateCommandError): of
// several writes in flight on one client the first, and none when its monitor noticed before. So where gateways die each task
// has a client of its own that polls, and no gateway dies before every task got through the last one.
const polling = {maxPoolSize: 1, serverMonitoringMode: 'poll'};

for (const victims of [['storaged'], ['gatewayd'], ['rotated'], ['storaged', 'gatewayd', 'rotated']]) {
  test(`kills under load: ${victims.join(', ')}`, {timeout: 300000}, async () => {
    const clients = [];
    const own = victims.includes('gatewayd');
    const connect = async () => {
      if (own || clients.length === 0) clients.push(await node.client(own ? {driver: polling} : {}));
      return clients.at(-1);
    };
    const load = new Load(connect, victims.join('-'));
    await load.prepare(8);
    load.run(8);
    for (let i = 0; i < KILLS / 2; i++) {
      await sleep(200 + Math.random() * 500);
      const victim = victims[Math.floor(Math.random() * victims.length)];
      if (victim === 'gatewayd') await load.goesOn();
      const old = await node.kill(victim);
      await until(`${victim} is back`, async () => {
        const w = await node.worker(victim);
        return w.pid !== old.pid && w.state === 'running';
      });
    }
    await sleep(500);
    await load.stop();
    assert.deepEqual(load.errors, [], 'retryable operations see no error');
    assert.ok(load.acknowledged.length > 50 && load.reads > 50, `${load.acknowledged.length} writes, ${load.reads} reads`);
    await load.verify();
    await Promise.all(clients.map((client) => client.close()));
  });
}

test('users are made and dropped exactly once while storage is killed', {timeout: 120000}, async () => {
  const client = await node.client();
  const db = client.db('crash');
  let rounds = 0;
  let stopped = false;
  const task = (async () => {
    for (; !stopped; rounds++) {
      const name = `user-${rounds}`;
      await db.command({createUser: name, pwd: 'p', roles: ['read']}); // done twice: 51003
      await db.command({grantRolesToUser: name, roles: ['readWrite']});
      const {users} = await db.command({usersInfo: name});
      assert.deepEqual(users[0].roles.map((r) => r.role).sort(), ['read', 'readWrite']);
      await db.command({dropUser: name}); // done twice: 11
    }
  })();
  for (let i = 0; i < KILLS / 4; i++) {
    await sleep(100 + Math.random() * 300);
    const old = await node.kill('storaged');
    await until('storaged is back', async () => {
      const w = await node.worker('storaged');
      return w.pid !== old.pid && w.state === 'running';
    });
  }
  stopped = true;
  await task;
  assert.ok(rounds > 5, `${rounds} rounds`);
  assert.deepEqual((await db.command({usersInfo: 1})).users, []);
  await client.close();
});

test('the supervisor is killed with all its workers: what was acknowledged is there after the next start', {timeout: 120000}, async () => {
  let client = await node.client({driver: {serverSelectionTimeoutMS: 2000}});
  const load = new Load(async () => client, 'whole');
  await load.prepare(4);
  for (let round = 0; round < 3; round++) {
    load.stopped = false;
    load.run(4);
    await sleep(700);
    node.killSupervisor();
    await load.stop(); // operations in flight fail: their outcome is unknown
    await client.close();
    await node.up();
    await node.whole();
    client = await node.client({driver: {serverSelectionTimeoutMS: 2000}});
    load.c = client.db('crash').collection('whole');
    const ids = new Set((await load.c.find({}, {projection: {_id: 1}}).toArray()).map((d) => d._id));
    for (const id of load.acknowledged) assert.ok(ids.has(id), `acknowledged insert ${id} is lost`);
    for (const [k, n] of load.increments) {
      const d = await load.c.findOne({_id: `counter-${k}`});
      assert.ok(d.n >= n, `counter ${k}: acknowledged ${n}, stored ${d.n}`);
      load.increments.set(k, d.n);
    }
  }
  await client.close();
});
