// cluster.test.mjs — three real nodes: copies, hand-over by an operator, certificates.
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import tls from 'node:tls';
import {describe, test} from 'node:test';
import {database, db, others, set, under, useCluster} from './cluster_suite.mjs';
import {until} from '../support/node.mjs';

useCluster();

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

  test('an aggregation that writes, sent to a replica, is refused and leaves the driver as it was', async () => {
    const d = database(), c = d.collection('c');
    await c.insertOne({_id: 1}, {writeConcern: {w: 3, wtimeoutMS: 20000}});
    const reader = await set.client({driver: {readPreference: 'secondary'}});
    let changes = 0;
    reader.on('serverDescriptionChanged', (e) => { if (e.newDescription.type === 'Unknown') changes++; });
    for (const stage of [{$out: 'copied'}, {$merge: {into: 'copied'}}])
      await assert.rejects(reader.db(d.databaseName).collection('c').aggregate([stage]).toArray(), (e) => e.code === 238 && /read preference primary/.test(e.message), Object.keys(stage)[0]);
    assert.equal(changes, 0);
    await reader.db(d.databaseName).collection('c').aggregate([{$out: 'copied'}], {readPreference: 'primary'}).toArray();
    assert.equal(await d.collection('copied').countDocuments(), 1);
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

describe('hand-over', () => {
  test('promote and step-down under load, again and again', {timeout: 180000}, async () => {
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
    assert.deepEqual(load.failed, [], 'a stock driver sees a pause, not an error');
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
    const one = await set.client({node: others(primary)[0]});
    for (const command of [{replSetStepDown: 60}, {replSetReconfig: {_id: 'veddb', version: 99, members: []}}])
      await assert.rejects(one.db('admin').command(command), {code: 10107}, Object.keys(command)[0]);
    await one.close();
    assert.equal(await set.primary(), primary);
  });

  test('replSetStepDown as drivers\' tests send it: a short period, by force', {timeout: 60000}, async () => {
    const primary = await set.primary(), one = await set.client({node: primary});
    await assert.rejects(one.db('admin').command({replSetStepDown: 5}), {code: 2});
    await assert.rejects(one.db('admin').command({replSetStepDown: 5, secondaryCatchUpPeriodSecs: 6, force: true}), {code: 2});
    assert.equal((await one.db('admin').command({replSetStepDown: 5, force: true})).ok, 1);
    await until('another leads', async () => (await set.primary()) !== primary, 30000);
    await one.close();
  });

  test('a replica is removed, and added again', {timeout: 180000}, async () => {
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

  test('force-sync loads everything anew', {timeout: 180000}, async () => {
    const c = database().collection('c');
    await c.insertMany(Array.from({length: 5000}, (_, i) => ({_id: i, text: 'y'.repeat(200)})));
    const primary = await set.primary();
    const name = others(primary)[0];
    const loads = () => set.log(name).split('msg="a load has ended"').length - 1;
    const before = loads();
    await set.vedctl(primary, 'replication', 'force-sync', name);
    await until('it has loaded all', () => loads() === before + 1, 60000);
    await until('it is back', async () => (await set.state(name)) === 'SECONDARY');
    const one = await set.client({node: name, driver: {readPreference: 'secondaryPreferred'}});
    assert.equal(await one.db(db).collection('c').countDocuments({}), 5000);
    await one.close();
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
