// failover_etcd.test.mjs — three real nodes and a real etcd: a primary that dies, hangs or is cut off is replaced by itself, and no
// acknowledged write is lost; etcd away.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Cluster, Workload} from '../support/cluster.mjs';
import {until} from '../support/node.mjs';

let set, client;

before(async () => {
  set = await Cluster.start({etcd: true, network: true});
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
  const next = await set.primary(30000, others(old));
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

test('the primary\'s node is killed, three times', {timeout: 90000}, async () => {
  const times = [];
  await checked('killed', async (load) => {
    for (let i = 0; i < 3; i++) {
      const old = await set.primary();
      await set.killNode(old);
      const {ms} = await another(old);
      times.push(ms);
      await load.more(20);
      await set.startNode(old);
      await until(`${old} follows`, async () => (await set.state(old)) === 'SECONDARY');
    }
  });
  console.log(`until another node led: ${times} ms`);
  assert.ok(Math.max(...times) < 15000, `${times}`);
});

test('the primary hangs: when it wakes it acknowledges nothing', {timeout: 60000}, async () => {
  await checked('paused', async (load) => {
    const old = await set.primary();
    set.pauseNode(old);
    try {
      await another(old);
      await load.more(20);
    } finally {
      set.resumeNode(old);
    }
    await until('it follows', async () => (await set.state(old)) === 'SECONDARY');
  });
});

test('the primary is cut off from the other nodes', {timeout: 60000}, async () => {
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

test('a hand-over by an operator goes through etcd too', {timeout: 60000}, async () => {
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

test('etcd hangs: the present primary goes on and says so', {timeout: 60000}, async () => {
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
