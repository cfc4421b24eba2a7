// failover_etcd.test.mjs — three real nodes and a real etcd: a primary that dies, hangs or is cut off is replaced by itself, and no
// acknowledged write is lost; etcd away.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {Cluster, Workload} from '../support/cluster.mjs';
import {until} from '../support/node.mjs';

let set, client;

before(async () => {
  set = await Cluster.start({etcd: true, network: true, set: ['replication.snapshot_rate=2MB']}); // a copy takes its time
  client = await set.client({driver: {retryWrites: true}});
}, {timeout: 120000});
after(async () => {
  if (!set) return;
  process.kill(set.info.etcd.pid, 'SIGCONT');
  await set.stop();
}, {timeout: 60000});

const others = (name) => set.names.filter((n) => n !== name);

/** How long it takes until another node leads, in ms. */
async function another(old) {
  const begun = Date.now();
  const next = await set.primary(60000, others(old));
  return {next, ms: Date.now() - begun};
}

async function checked(name, disturb) {
  const load = new Workload(client.db(name).collection('w'));
  try {
    await load.more(50);
    await disturb(load);
    await load.more(50);
  } finally {
    await load.stop();
  }
  set.heal();
  await set.whole();
  assert.deepEqual(await load.lost(), []);
  await set.equal(name);
}

test('the primary\'s node is killed, three times', {timeout: 240000}, async (t) => {
  const times = [];
  await checked('killed', async (load) => {
    for (let i = 0; i < 3; i++) {
      const old = await set.primary();
      await set.killNode(old);
      const {ms} = await another(old);
      times.push(ms);
      await load.more(20);
      await set.startNode(old);
      // What it alone had is rolled back first: it is level when a write is on all three.
      await until(`${old} is level`, async () => {
        const level = client.db('killed_level').collection('w');
        return level.insertOne({}, {writeConcern: {w: 3, wtimeoutMS: 2000}}).then(() => true, () => false);
      }, 60000);
    }
  });
  t.diagnostic(`until another node led: ${times} ms`);
});

test('the primary hangs: when it wakes it acknowledges nothing', {timeout: 180000}, async () => {
  // Its writers wait with it, since a stock driver has no time limit of its own; what they are told after it wakes must be true.
  await checked('paused', async () => {
    const old = await set.primary();
    const other = await set.client({driver: {retryWrites: true, socketTimeoutMS: 5000}});
    const load = new Workload(other.db('paused_others').collection('w'));
    try {
      await load.more(20);
      set.pauseNode(old);
      try {
        await another(old);
        await load.more(20, 60000);
      } finally {
        set.resumeNode(old);
      }
      await until('it follows', async () => (await set.state(old)) === 'SECONDARY', 60000);
    } finally {
      await load.stop();
    }
    assert.deepEqual(await load.lost(), []);
  });
  await set.equal('paused_others');
});

test('the primary is cut off from the other nodes', {timeout: 180000}, async () => {
  await checked('cut', async (load) => {
    const old = await set.primary();
    set.partition(old, others(old));
    await load.more(20); // whether it kept etcd's lease or not: somebody with a majority acknowledges
    const leading = [];
    for (const name of set.names) if ((await set.state(name)) === 'PRIMARY') leading.push(name);
    assert.ok(!leading.includes(old), `${old} leads without a majority`);
    set.heal();
  });
});

test('what a cut-off primary alone had is saved in its recovery folder, and it follows again', {timeout: 180000}, async () => {
  const old = await set.primary();
  const c = client.db('diverged').collection('c');
  await c.insertOne({_id: 'before'}, {writeConcern: {w: 3, wtimeoutMS: 30000}});
  const direct = await set.client({node: old, driver: {retryWrites: false}});
  set.partition(old, others(old));
  // It leads until its lease is over, and has told the client that this is on its own disk only.
  await direct.db('diverged').collection('c').insertOne({_id: 'alone'}, {writeConcern: {w: 1}});
  await direct.close();
  const {next} = await another(old);
  const there = await set.client({node: next, driver: {retryWrites: true}});
  await until('the others write on', () => there.db('diverged').collection('c').insertOne({_id: 'after'}, {writeConcern: {w: 'majority', wtimeoutMS: 30000}})
    .then(() => true, (e) => e.code === 11000), 60000);
  await there.close();
  set.heal();
  await set.whole();
  await set.equal('diverged');
  assert.deepEqual((await c.find().sort({_id: 1}).toArray()).map((d) => d._id), ['after', 'before']);
  const {rollbacks, rollbackFolder} = await set.status(old);
  assert.ok(rollbacks >= 1);
  const saved = fs.readdirSync(rollbackFolder).filter((name) => name.endsWith('.bson'));
  assert.ok(saved.some((name) => fs.readFileSync(path.join(rollbackFolder, name)).includes('alone')), `${rollbackFolder}: ${saved}`);
  // The audit log keeps what was taken back, and says that it was.
  const audited = async (...conditions) => JSON.parse((await set.vedctl(old, '--json', 'audit', 'search', ...conditions)).stdout).records;
  await until('it is in the audit log', async () => {
    const records = await audited('atype=rollback').catch(() => []);
    return records.some((r) => r.event.param.folder === rollbackFolder); // the node may have had others before
  });
  assert.equal((await until('the write stays', async () => audited('ns=diverged.c', 'text=alone').catch(() => false))).length, 1);
});

test('the source of a copy dies: who loads it votes for who has what it once acknowledged', {timeout: 240000}, async (t) => {
  const c = client.db('vouched').collection('c');
  for (let i = 0; i < 16; i++) await c.insertOne({_id: i, text: 'x'.repeat(1 << 20)}, {writeConcern: {w: 3, wtimeoutMS: 60000}});
  const old = await set.primary();
  const [loading, third] = others(old);
  await set.vedctl(loading, 'replication', 'force-sync');
  await until('it loads', async () => (await set.state(loading)) === 'RECOVERING', 60000);
  await set.killNode(old);
  // Only those two are left: a majority needs both votes.
  const {next, ms} = await another(old);
  t.diagnostic(`until ${next === third ? 'the third' : 'it, which had its copy by then,'} led: ${ms} ms`);
  await c.insertOne({_id: 'after'}, {writeConcern: {w: 'majority', wtimeoutMS: 60000}});
  await set.startNode(old);
  await set.whole();
  await set.equal('vouched');
  assert.equal(await c.countDocuments(), 17);
  await c.drop(); // what comes is copied faster without it
});

test('the primary\'s replicad hangs: its storage commits nothing once another leads', {timeout: 180000}, async () => {
  await checked('alone', async (load) => {
    const old = await set.primary();
    const direct = await set.client({node: old, driver: {retryWrites: false}});
    const c = direct.db('alone').collection('c');
    await c.insertOne({_id: 'before'}, {writeConcern: {w: 1}});
    const {pid} = await set.killWorker(old, 'replicad', 'SIGSTOP');
    try {
      await another(old);
      await assert.rejects(c.insertOne({_id: 'late'}, {writeConcern: {w: 1}}), (e) => [10107, 11602, 189].includes(e.code));
    } finally {
      try {
        process.kill(pid, 'SIGCONT');
      } catch (e) {
        assert.equal(e.code, 'ESRCH'); // the supervisor has started another
      }
    }
    await direct.close();
    await load.more(20);
  });
});

test('a hand-over by an operator goes through etcd too', {timeout: 180000}, async () => {
  await checked('handed', async (load) => {
    for (let i = 0; i < 4; i++) {
      const old = await set.primary();
      const next = others(old)[i % 2];
      await set.vedctl(old, 'replication', 'promote', next);
      assert.equal(await set.primary(), next);
      await load.more(10);
    }
  });
});

test('etcd hangs: the present primary goes on and says so', {timeout: 180000}, async () => {
  await checked('no_etcd', async (load) => {
    const primary = await set.primary();
    const {term} = await set.status(primary);
    process.kill(set.info.etcd.pid, 'SIGSTOP');
    try {
      await until('it is said', async () => (await set.status(primary))?.etcd?.reachable === false, 20000);
      await load.more(100);
      const now = await set.status(primary);
      assert.equal(now.state, 'PRIMARY');
      assert.equal(now.term, term, 'nobody else was elected');
    } finally {
      process.kill(set.info.etcd.pid, 'SIGCONT');
    }
    await until('etcd answers', async () => (await set.status(primary))?.etcd?.reachable === true, 20000);
  });
});

test('etcd dies and is started again: the primary has its lease again, and failover works', {timeout: 240000}, async () => {
  await checked('etcd_again', async (load) => {
    const primary = await set.primary();
    await set.stopEtcd();
    try {
      await until('it is said', async () => (await set.status(primary))?.etcd?.reachable === false, 60000);
      await load.more(100);
      assert.equal(await set.primary(), primary);
    } finally {
      await set.startEtcd();
    }
    const {members} = await set.status(primary);
    const {id} = members.find((m) => m.name === primary);
    await until('the lease is its own', async () => {
      const {etcd} = (await set.status(primary)) ?? {};
      return etcd?.reachable && etcd.leader === id;
    }, 60000);
    await set.killNode(primary);
    await another(primary);
    await load.more(20, 60000);
    await set.startNode(primary);
  });
});

test('the primary dies while etcd is away: another leads when etcd is back', {timeout: 240000}, async () => {
  await checked('both_away', async (load) => {
    const old = await set.primary();
    await set.stopEtcd();
    try {
      await until('all know', async () => (await Promise.all(set.names.map((n) => set.status(n)))).every((s) => s?.etcd?.reachable === false), 60000);
      await set.killNode(old);
      await until('the others miss it', async () => (await set.status(others(old)[0]))?.leader === '', 60000);
    } finally {
      await set.startEtcd();
    }
    await another(old);
    await load.more(20, 60000);
    await set.startNode(old);
  });
});
