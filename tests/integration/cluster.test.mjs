// cluster.test.mjs — three real nodes: copies, deaths of single processes, a replica that was away, partitions, certificates,
// hand-over by an operator. After each test the set is whole and all nodes hold the same.
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import tls from 'node:tls';
import {after, afterEach, before, describe, test} from 'node:test';
import {Cluster, Workload} from '../support/cluster.mjs';
import {sleep, until} from '../support/node.mjs';

let set, client;
let databases = 0;
let db; // of the test

before(async () => {
  set = await Cluster.start({network: true});
  client = await set.client({driver: {retryWrites: true}});
}, {timeout: 120000});
after(async () => await set?.stop(), {timeout: 60000});

function database() {
  db = `d${++databases}`;
  return client.db(db);
}

afterEach(async () => {
  if (!set || !db) return;
  set.heal();
  await set.whole();
  await set.equal(db);
});

const others = (name) => set.names.filter((n) => n !== name);

/** A workload runs while disturb does its work; nothing acknowledged is lost, and it goes on afterwards. */
async function under(disturb, options) {
  const collection = database().collection('w');
  const load = new Workload(collection, options);
  try {
    await load.more(50);
    await disturb(load);
    set.heal();
    await load.more(50);
  } finally {
    await load.stop();
  }
  await set.whole();
  assert.deepEqual(await load.lost(), []);
  return load;
}

describe('copies', () => {
  test('every kind of write reaches every node', async () => {
    const d = database();
    const c = d.collection('c');
    await c.insertMany(Array.from({length: 500}, (_, i) => ({_id: i, a: i, text: 'x'.repeat(i)})), {writeConcern: {w: 3, wtimeoutMS: 20000}});
    await c.updateMany({_id: {$lt: 100}}, {$set: {b: 1}, $unset: {text: ''}});
    await c.deleteMany({_id: {$gte: 400}});
    await c.replaceOne({_id: 5}, {a: -5});
    await d.createCollection('capped_name', {validator: {a: {$type: 'int'}}});
    await d.collection('old').insertOne({_id: 1});
    await d.collection('old').rename('new');
    await d.collection('gone').insertOne({_id: 1});
    await d.collection('gone').drop({writeConcern: {w: 3, wtimeoutMS: 20000}});
    await set.equal(db);
    for (const name of set.names) {
      const one = await set.client({node: name, driver: {readPreference: 'secondaryPreferred'}});
      const found = one.db(db);
      assert.equal(await found.collection('c').countDocuments({}), 400, name);
      assert.deepEqual(await found.collection('c').findOne({_id: 5}), {_id: 5, a: -5}, name);
      assert.deepEqual((await found.collections()).map((x) => x.collectionName).sort(), ['c', 'capped_name', 'new'], name);
      assert.deepEqual((await found.collection('c').indexes()).map((x) => x.name), ['_id_'], name);
      await one.close();
    }
  });

  test('a replica takes no writes, and says who does', async () => {
    const replica = (await set.secondaries())[0];
    const one = await set.client({node: replica});
    await assert.rejects(one.db(database().databaseName).collection('c').insertOne({}), {code: 10107});
    const hello = await one.db('admin').command({hello: 1});
    assert.equal(hello.secondary, true);
    assert.equal(hello.isWritablePrimary, false);
    assert.equal(set.nameOf(hello.primary), await set.primary());
    assert.deepEqual([...hello.hosts].sort(), set.info.nodes.map((n) => n.host).sort());
    await one.close();
  });

  test('the driver finds the members and reads from replicas', async () => {
    const c = database().collection('c');
    await c.insertOne({_id: 1}, {writeConcern: {w: 3, wtimeoutMS: 20000}});
    const reader = await set.client({driver: {readPreference: 'secondary', monitorCommands: true}});
    const seen = new Set();
    reader.on('commandStarted', (e) => e.commandName === 'find' && seen.add(set.nameOf(e.address)));
    for (let i = 0; i < 40; i++) assert.equal((await reader.db(db).collection('c').findOne({_id: 1}))?._id, 1);
    const primary = await set.primary();
    assert.ok(!seen.has(primary), `${[...seen]} without ${primary}`);
    assert.ok(seen.size > 0);
    await reader.close();
  });

  test('a causal session reads its own writes from a replica', async () => {
    database();
    const one = await set.client({driver: {readPreference: 'secondary', readConcernLevel: 'majority', w: 'majority'}});
    const session = one.startSession({causalConsistency: true});
    const c = one.db(db).collection('c');
    for (let i = 0; i < 30; i++) {
      await c.insertOne({_id: i}, {session});
      assert.equal((await c.findOne({_id: i}, {session}))?._id, i);
    }
    await session.endSession();
    await one.close();
  });

  test('a write concern that can not be reached is told', async () => {
    const c = database().collection('c');
    await assert.rejects(c.insertOne({_id: 1}, {writeConcern: {w: 9, wtimeoutMS: 2000}}), {code: 100});
    const primary = await set.primary();
    set.partition(primary, others(primary)[0]);
    await assert.rejects(c.insertOne({_id: 2}, {writeConcern: {w: 3, wtimeoutMS: 1000}}), {code: 64});
    set.heal();
    assert.equal((await c.findOne({_id: 2}))._id, 2, 'it was written nevertheless');
  });
});

describe('deaths', () => {
  for (const role of ['primary', 'secondary'])
    for (const worker of ['replicad', 'gatewayd', 'rotated', 'storaged'])
      test(`${worker} of a ${role} is killed under load`, {timeout: 60000}, async () => {
        await under(async (load) => {
          const primary = await set.primary();
          const name = role === 'primary' ? primary : others(primary)[0];
          const before = await set.killWorker(name, worker);
          await set.workerBack(name, worker, before.starts);
          await set.primary();
          await load.more(20);
        });
      });

  test('a replica that was away for long catches up', {timeout: 80000}, async () => {
    const away = others(await set.primary())[0];
    await under(async (load) => {
      await set.killNode(away);
      await load.more(1500, 60000); // the other two are a majority
      await set.startNode(away);
      await until(`${away} has caught up`, async () => (await set.state(away)) === 'SECONDARY');
    });
  });
});

describe('network', () => {
  test('changed bytes are noticed, and nothing changed is applied', {timeout: 60000}, async () => {
    await under(async (load) => {
      const primary = await set.primary();
      for (let i = 0; i < 5; i++) {
        for (const name of others(primary)) set.network.both(primary, name, {corrupt: 1});
        await load.more(20);
      }
      const changed = others(primary).map((n) => set.network.count(primary, n).corrupted + set.network.count(n, primary).corrupted);
      assert.ok(changed.every((n) => n > 0), `changed ${changed}`);
    });
  });

  test('bytes that are missing are noticed', {timeout: 60000}, async () => {
    await under(async (load) => {
      const primary = await set.primary();
      for (const name of others(primary)) set.network.both(primary, name, {drop: 7});
      await load.more(50);
    });
  });

  test('connections that are cut again and again', {timeout: 60000}, async () => {
    await under(async (load) => {
      for (let i = 0; i < 20; i++) {
        for (const a of set.names) for (const b of set.names) if (a < b) set.network.cut(a, b);
        await sleep(50);
      }
      await load.more(20);
    });
  });

  test('one replica is cut off: the others go on', {timeout: 60000}, async () => {
    await under(async (load) => {
      const primary = await set.primary();
      set.partition(others(primary)[0], others(others(primary)[0]));
      await load.more(200);
      assert.equal(await set.primary(), primary);
    });
  });

  test('one replica hears, but is not heard', {timeout: 60000}, async () => {
    await under(async (load) => {
      const primary = await set.primary();
      set.partition(others(primary)[0], others(others(primary)[0]), {oneWay: true});
      await load.more(200);
    });
  });

  test('a slow replica slows nobody', {timeout: 60000}, async () => {
    await under(async (load) => {
      const primary = await set.primary();
      set.network.set(primary, others(primary)[0], {bytesPerSecond: 2000, delayMs: 200});
      const from = load.acknowledged.length;
      await sleep(5000);
      assert.ok(load.acknowledged.length - from > 200, `${load.acknowledged.length - from} writes in 5 s`);
    });
  });

  test('a primary that is cut off acknowledges nothing, and steps down', {timeout: 80000}, async () => {
    const c = database().collection('c');
    const old = await set.primary();
    const alone = await set.client({node: old, driver: {retryWrites: false}});
    await c.insertOne({_id: 'before'}, {writeConcern: {w: 'majority', wtimeoutMS: 10000}});
    set.partition(old, others(old));
    await until('it is primary no more', async () => (await set.state(old)) !== 'PRIMARY', 20000);
    await assert.rejects(alone.db(db).collection('c').insertOne({_id: 'lost'}, {writeConcern: {w: 'majority', wtimeoutMS: 1000}}));
    const next = others(old)[0];
    await set.vedctl(next, 'replication', 'promote', next);
    assert.equal(await set.primary(20000, others(old)), next);
    const there = await set.client({node: next});
    await there.db(db).collection('c').insertOne({_id: 'after'}, {writeConcern: {w: 'majority', wtimeoutMS: 10000}});
    set.heal();
    await set.whole();
    assert.deepEqual((await c.find().sort({_id: 1}).toArray()).map((d) => d._id), ['after', 'before']);
    await alone.close();
    await there.close();
  });
});

describe('hand-over', () => {
  test('promote and step-down under load, again and again', {timeout: 80000}, async () => {
    const load = await under(async (running) => {
      for (let i = 0; i < 6; i++) {
        const old = await set.primary();
        const next = others(old)[i % 2];
        if (i % 2 === 0) {
          await set.vedctl(next, 'replication', 'freeze', '0'); // it may be the one that stepped down for 5 s
          await set.vedctl(old, 'replication', 'promote', next);
        } else await set.vedctl(old, 'replication', 'step-down', '5', '--to', next);
        assert.equal(await set.primary(), next);
        await running.more(20);
      }
    });
    console.log(`waits of writers over 500 ms: ${load.gaps} ms`);
    assert.ok(Math.max(0, ...load.gaps) < 10000);
  });

  test('what makes no sense is refused with a reason and exit code 1', async () => {
    const primary = await set.primary();
    for (const [name, ...words] of [
      [others(primary)[0], 'step-down'],
      [primary, 'promote', 'nobody'],
      [primary, 'remove', 'nobody'],
      [primary, 'remove', primary],
      [primary, 'force-sync', primary],
    ]) {
      const e = await set.vedctl(name, 'replication', ...words).then(() => null, (x) => x);
      assert.equal(e?.code, 1, words.join(' '));
      assert.match(e.stderr, /^vedctl: ..../, words.join(' '));
    }
    assert.equal(await set.primary(), primary);
  });

  test('a replica is removed, and added again', {timeout: 60000}, async () => {
    const c = database().collection('c');
    const primary = await set.primary();
    const name = others(primary)[0];
    await set.vedctl(primary, 'replication', 'remove', name);
    await until('it knows', async () => (await set.state(name)) === 'REMOVED');
    await c.insertOne({_id: 1});
    const {replication} = set.node(name);
    await set.vedctl(primary, 'replication', 'add', replication, '--name', name);
    await until('it is back', async () => (await set.state(name)) === 'SECONDARY');
  });

  test('force-sync loads everything anew', {timeout: 60000}, async () => {
    const c = database().collection('c');
    await c.insertMany(Array.from({length: 5000}, (_, i) => ({_id: i, text: 'y'.repeat(200)})));
    const name = others(await set.primary())[0];
    await set.vedctl(name, 'replication', 'force-sync');
    await until('it is back', async () => (await set.state(name)) === 'SECONDARY');
  });

  test('vedctl shows the set', async () => {
    const primary = await set.primary();
    const {stdout} = await set.vedctl(primary, 'replication', 'status');
    for (const name of set.names) assert.match(stdout, new RegExp(`^${name} +${name === primary ? 'PRIMARY' : 'SECONDARY'} +yes`, 'm'));
    const shown = (await set.vedctl(primary, 'status')).stdout;
    assert.match(shown, /^replicad +running/m);
    assert.match(shown, /role PRIMARY in set veddb, term \d+/);
  });
});

describe('certificates', () => {
  const openssl = (...args) => execFileSync('openssl', args, {stdio: 'pipe'});

  /** {cert, key} for a node, signed by an authority of the cluster's folder. */
  function certificate({authority = 'cluster', unit = 'veddb-node', days = 2, foreign = false}) {
    const folder = fs.mkdtempSync(path.join(set.dir, 'cert-'));
    const at = (name) => path.join(folder, name);
    let ca = path.join(set.dir, authority);
    if (foreign) {
      ca = folder;
      openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', at('ca.key'), '-out', at('ca.pem'),
        '-subj', '/O=VedDB development/CN=VedDB development cluster CA', '-days', '2');
    }
    openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', at('key'), '-out', at('csr'), '-subj',
      `/O=VedDB development${unit ? `/OU=${unit}` : ''}/CN=n9`);
    fs.writeFileSync(at('ext'), 'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3\n');
    openssl('x509', '-req', '-in', at('csr'), '-CA', path.join(ca, 'ca.pem'), '-CAkey', path.join(ca, 'ca.key'), '-CAcreateserial',
      '-CAserial', at('serial'), '-days', String(days), '-extfile', at('ext'), '-out', at('pem'));
    return {cert: fs.readFileSync(at('pem')), key: fs.readFileSync(at('key'))};
  }

  /** Whether a node keeps a connection with such a certificate open: a TLS 1.3 server says no after the client is done. */
  async function accepted(identity) {
    const [host, port] = set.node(await set.primary()).replication.split(':');
    return await new Promise((resolve) => {
      const socket = tls.connect({host, port: Number(port), ca: fs.readFileSync(path.join(set.dir, 'cluster/ca.pem')), ...identity});
      const timer = setTimeout(() => end(true), 1500);
      const end = (value) => {
        clearTimeout(timer);
        socket.destroy();
        resolve(value);
      };
      socket.on('error', () => end(false));
      socket.on('end', () => end(false));
      socket.on('close', () => end(false));
      socket.resume();
    });
  }

  test('one of a node is let in', async () => assert.equal(await accepted(certificate({})), true));
  test('none at all is refused', async () => assert.equal(await accepted({}), false));
  test('one that is no node is refused', async () => assert.equal(await accepted(certificate({unit: 'people'})), false));
  test('one without a unit is refused', async () => assert.equal(await accepted(certificate({unit: ''})), false));
  test('one that is over is refused', async () => assert.equal(await accepted(certificate({days: -1})), false));
  test('one of another authority is refused', async () => assert.equal(await accepted(certificate({foreign: true})), false));
  test('one of the clients\' authority is refused', async () => assert.equal(await accepted(certificate({authority: 'certs'})), false));
});
