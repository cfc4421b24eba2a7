// indexes.test.mjs — secondary indexes by the stock driver: made, listed, dropped; unique keys raced for; a build under
// writers that goes on after a SIGKILL; a set of three nodes that all have the same indexes, and what its members do when one of
// them dies, another one leads, or the build is given up, in the middle of one.
import assert from 'node:assert/strict';
import {after, before, describe, test} from 'node:test';
import {Cluster} from '../support/cluster.mjs';
import {Node, sleep, until} from '../support/node.mjs';

/** Names of the indexes that are being built, as this client's node says. */
const building = async (c) => (await c.db.command({collStats: c.name})).indexBuilds;
const names = async (c) => (await c.indexes()).map((x) => x.name);

/** Every entry has its document, and every document its entries. */
async function sound(collection, indexes) {
  const r = await collection.db.command({validate: collection.name});
  assert.equal(r.valid, true, JSON.stringify(r));
  assert.equal(r.nIndexes, indexes, JSON.stringify(r));
  return r;
}
const of = (db, name) => Object.assign(db.collection(name), {db, name});

describe('one node', () => {
  let node, client;
  before(async () => {
    node = await Node.start({set: ['storage.ttl_period=500ms']});
    client = await node.client();
  });
  after(async () => {
    await client?.close();
    await node?.stop();
  });

  test('made, listed, dropped', async () => {
    const c = of(client.db('idx'), 'c');
    await c.insertMany(Array.from({length: 3000}, (_, i) => ({_id: i, a: i, b: [i % 3, `s${i % 7}`], c: {d: i % 11}})));
    assert.equal(await c.createIndex({a: 1}, {unique: true}), 'a_1');
    assert.deepEqual(await c.createIndexes([{key: {b: 1, a: -1}}, {key: {'c.d': 'hashed'}}, {key: {'$**': 1}, name: 'all'}]), ['b_1_a_-1', 'c.d_hashed', 'all']);
    assert.equal(await c.createIndex({a: 1}, {unique: true}), 'a_1');
    assert.deepEqual(await c.indexes(), [
      {v: 2, key: {_id: 1}, name: '_id_'},
      {v: 2, key: {a: 1}, name: 'a_1', unique: true},
      {v: 2, key: {b: 1, a: -1}, name: 'b_1_a_-1'},
      {v: 2, key: {'c.d': 'hashed'}, name: 'c.d_hashed'},
      {v: 2, key: {'$**': 1}, name: 'all'},
    ]);
    await assert.rejects(c.createIndex({a: 1}, {name: 'other', unique: true}), {code: 85});
    await assert.rejects(c.createIndex({z: 1}, {name: 'a_1'}), {code: 86});
    await assert.rejects(c.createIndex({x: 'text'}), {code: 238});
    await assert.rejects(c.insertOne({a: 5}), (e) => e.code === 11000 && e.keyValue.a === 5 && /index: a_1 dup key: \{ a: 5 \}/.test(e.message));
    const r = await sound(c, 5);
    assert.equal(r.keysPerIndex['b_1_a_-1'], 6000);
    assert.ok((await c.aggregate([{$collStats: {storageStats: {}}}]).next()).storageStats.totalIndexSize > 0);
    await c.dropIndex('all');
    await c.dropIndex({b: 1, a: -1});
    await assert.rejects(c.dropIndex('all'), {code: 27});
    await c.dropIndexes();
    assert.equal((await c.indexes()).length, 1);
    await c.insertOne({a: 5});
  });

  test('one of sixteen wins each unique key', async () => {
    const clients = await Promise.all(Array.from({length: 16}, () => node.client()));
    const c = of(client.db('idx'), 'race');
    await c.createIndex({k: 1}, {unique: true});
    for (let k = 0; k < 40; k++) {
      const results = await Promise.allSettled(clients.map((one, i) => one.db('idx').collection('race').insertOne({_id: `${k}-${i}`, k})));
      assert.equal(results.filter((r) => r.status === 'fulfilled').length, 1);
      assert.ok(results.every((r) => r.status === 'fulfilled' || r.reason.code === 11000), results.find((r) => r.status === 'rejected' && r.reason.code !== 11000)?.reason);
    }
    // a key goes from one to another, again and again
    await Promise.all(clients.map(async (one, i) => {
      const mine = one.db('idx').collection('race');
      for (let n = 0; n < 30; n++)
        await mine.updateOne({_id: `${i}-${n % 16}`}, {$set: {k: 1000 + n}}).catch((e) => assert.equal(e.code, 11000));
    }));
    // upserts by a unique key: one inserts, the others find it
    const counts = await Promise.all(clients.map((one) => Promise.all(Array.from({length: 20}, (_, k) => one.db('idx').collection('race').updateOne({k: 5000 + k}, {$inc: {n: 1}}, {upsert: true})))));
    assert.equal(counts.flat().reduce((sum, r) => sum + r.upsertedCount, 0), 20);
    assert.ok((await c.find({k: {$gte: 5000}}).toArray()).every((d) => d.n === 16));
    await sound(c, 2);
    const keys = await c.find({}, {projection: {k: 1}}).toArray();
    assert.equal(new Set(keys.map((d) => d.k)).size, keys.length);
    await Promise.all(clients.map((one) => one.close()));
  });

  test('documents expire', async () => {
    const c = of(client.db('idx'), 'ttl');
    await c.createIndex({at: 1}, {expireAfterSeconds: 3600});
    await c.insertMany([{_id: 1, at: new Date(Date.now() - 7200e3)}, {_id: 2, at: new Date()}, {_id: 3, at: 'never'}, {_id: 4}]);
    await until('one has expired', async () => (await c.countDocuments({})) === 3);
    await c.db.command({collMod: 'ttl', index: {name: 'at_1', expireAfterSeconds: 0}});
    await until('two have expired', async () => (await c.countDocuments({})) === 2);
    assert.deepEqual((await c.find({}).sort({_id: 1}).toArray()).map((d) => d._id), [3, 4]);
    assert.ok((await client.db('admin').command({serverStatus: 1})).metrics.ttl.deletedDocuments >= 2);
    await sound(c, 2);
  });

  test('an index becomes unique', async () => {
    const c = of(client.db('idx'), 'conversion');
    await c.insertMany([{_id: 1, k: 1}, {_id: 2, k: 1}, {_id: 3, k: 2}]);
    await c.createIndex({k: 1});
    const mod = (index, more = {}) => c.db.command({collMod: c.name, index: {keyPattern: {k: 1}, ...index}, ...more});
    await assert.rejects(mod({unique: true}), {code: 72});
    assert.equal((await mod({prepareUnique: true})).prepareUnique_new, true);
    await assert.rejects(c.insertOne({k: 2}), (e) => e.code === 11000 && e.keyValue.k === 2);
    await assert.rejects(mod({unique: true}, {dryRun: true}), (e) => {
      assert.equal(e.codeName, 'CannotConvertIndexToUnique');
      assert.deepEqual(e.errorResponse.violations, [{ids: [1, 2]}]);
      return e.code === 359;
    });
    await c.deleteOne({_id: 2});
    assert.equal((await mod({unique: true})).unique_new, true);
    assert.deepEqual((await c.indexes())[1], {v: 2, key: {k: 1}, name: 'k_1', unique: true});
    await assert.rejects(c.insertOne({k: 1}), {code: 11000});
    await sound(c, 2);
  });

  test('background is shown as it was said, and makes no other index', async () => {
    const c = of(client.db('idx'), 'background');
    await c.createIndex({a: 1}, {background: true});
    await c.createIndex({a: 1});
    assert.deepEqual((await c.indexes())[1], {v: 2, key: {a: 1}, name: 'a_1', background: true});
  });

  test('no index of a collection with documents in a transaction', async () => {
    const c = of(client.db('idx'), 'txn');
    await c.insertOne({a: 1});
    await client.withSession(async (session) => {
      session.startTransaction();
      await assert.rejects(c.createIndex({a: 1}, {session}), {code: 263});
    });
    assert.equal((await c.indexes()).length, 1);
  });

  test('fsync with lock: writers wait, readers do not', async () => {
    const c = of(client.db('idx'), 'locked'), admin = client.db('admin');
    await c.insertMany(Array.from({length: 200}, (_, i) => ({_id: i, n: 0})));
    const session = client.startSession();
    session.startTransaction();
    await c.updateOne({_id: 1}, {$set: {n: 5}}, {session});
    await assert.rejects(admin.command({fsync: 1, lock: true, fsyncLockAcquisitionTimeoutMillis: 50}), {code: 24}); // the transaction has written
    const first = admin.command({fsync: 1, lock: true});
    await session.commitTransaction(); // waited for
    assert.deepEqual(Object.keys(await first).slice(0, 3), ['info', 'lockCount', 'seeAlso']);
    assert.equal((await admin.command({fsync: 1, lock: true})).lockCount, 2);
    assert.equal((await admin.command({currentOp: 1})).fsyncLock, true);
    let done = 0;
    const writes = Array.from({length: 40}, (_, i) => [
      () => c.updateOne({_id: i}, {$inc: {n: 1}}), () => c.updateMany({_id: {$gt: 1000}}, {$inc: {n: 1}}), () => c.insertOne({_id: `new${i}`}),
      () => c.aggregate([{$match: {_id: 0}}, {$out: `locked_${i}`}]).toArray(),
    ][i % 4]().then(() => done++));
    await assert.rejects(c.updateOne({_id: 1}, {$inc: {n: 100}}, {maxTimeMS: 100}), {code: 50});
    const wait = async () => (await admin.command({currentOp: 1})).inprog.filter((o) => ['update', 'insert', 'aggregate'].includes(Object.keys(o.command ?? {})[0]));
    await until('they wait', async () => (await wait()).length === 40);
    assert.equal((await c.find({}).sort({n: 1}).toArray()).length, 200);
    assert.deepEqual([await c.countDocuments({n: {$gt: 0}}), await c.estimatedDocumentCount(), done], [1, 200, 0]);
    assert.equal((await admin.command({fsyncUnlock: 1})).lockCount, 1);
    assert.equal((await c.findOne({_id: 0})).n, 0);
    assert.equal(done, 0);
    assert.equal((await admin.command({fsyncUnlock: 1})).lockCount, 0);
    await Promise.all(writes);
    await assert.rejects(admin.command({fsyncUnlock: 1}), {code: 20});
    assert.equal((await admin.command({currentOp: 1})).fsyncLock, undefined);
    assert.deepEqual([await c.countDocuments({}), (await c.findOne({_id: 1})).n], [210, 5]);
    // it does not outlive the process
    await admin.command({fsync: 1, lock: true});
    const write = c.insertOne({_id: 'behind'}).catch(() => c.insertOne({_id: 'behind'})).catch((e) => assert.equal(e.code, 11000));
    await node.kill('storaged');
    await node.whole();
    await write;
    await c.insertOne({_id: 'after'});
    await session.endSession();
  });

  test('a build under writers goes on after a kill', async () => {
    const c = of(client.db('idx'), 'big');
    const specs = [{key: {a: 1}, unique: true}, {key: {t: 1, a: 1}}];
    for (let at = 0; at < 60000; at += 10000)
      await c.insertMany(Array.from({length: 10000}, (_, i) => ({_id: at + i, a: (at + i) * 7919 % 60013, t: [`x${i % 100}`, i % 10]})));
    let stopped = false, written = 0;
    const writer = async (w) => {
      for (let i = 0; !stopped; i++, written++) {
        const id = (i * 16 + w) * 31 % 60000;
        await c.updateOne({_id: id}, {$set: {t: [`y${i % 50}`], a: 1000000 + 4 * i + w}}, {upsert: true});
        if (i % 10 === 0) await c.deleteOne({_id: (id + 1) % 60000});
      }
    };
    const writers = Array.from({length: 4}, (_, w) => writer(w));
    try {
      for (let kill = 0; kill < 2; kill++) {
        const build = c.createIndexes(specs).then(() => 'built', (e) => e);
        await until('a build is under way', async () => (await building(c)).length === 2 || (await c.indexes()).length === 3);
        await sleep(200 * kill);
        await node.kill('storaged');
        await build;
        await node.whole();
        const before = written;
        await until('writers go on', async () => written > before + 50);
        await until('the build goes on by itself', async () => {
          const all = await names(c);
          assert.ok(all.length === 1 || all.length === 3, `${all}`); // all of a command, or none
          return all.length === 3;
        });
        assert.equal((await c.db.command({createIndexes: c.name, indexes: specs.map((x) => ({...x, name: Object.entries(x.key).flat().join('_')}))})).note, 'all indexes already exist');
        await sound(c, 3);
        if (kill === 0) await c.dropIndexes();
      }
      const before = written;
      await until('writers go on', async () => written > before + 50);
    } finally {
      stopped = true;
      await Promise.all(writers);
    }
    await sound(c, 3);
  });
});

describe('three nodes', () => {
  let set, client;
  before(async () => {
    set = await Cluster.start();
    client = await set.client({driver: {retryWrites: true}});
  }, {timeout: 120000});
  after(async () => {
    await client?.close();
    await set?.stop();
  }, {timeout: 60000});

  async function everywhere(dbName, name, indexes) {
    await set.equal(dbName);
    for (const node of set.names) {
      const one = await set.client({node, driver: {readPreference: 'secondaryPreferred'}});
      const c = of(one.db(dbName), name);
      await until(`${node} has the indexes`, async () => (await c.indexes()).length === indexes);
      const r = await one.db(dbName).command({validate: name}, {readPreference: 'secondaryPreferred'});
      assert.equal(r.valid, true, `${node}: ${JSON.stringify(r)}`);
      assert.equal(r.nIndexes, indexes, node);
      await one.close();
    }
  }

  test('indexes are on every node, also on one that comes late', async () => {
    const c = of(client.db('set'), 'c');
    await c.insertMany(Array.from({length: 20000}, (_, i) => ({_id: i, a: i, b: [i % 5, i % 3]})));
    await c.createIndex({b: 1, a: 1});
    await c.createIndex({a: 1}, {unique: true});
    await c.updateMany({_id: {$lt: 3000}}, {$push: {b: 'new'}});
    await c.deleteMany({_id: {$gte: 19000}});
    await everywhere('set', 'c', 3);
    const late = (await set.secondaries())[0];
    await set.killNode(late);
    await c.createIndex({'$**': 1}, {name: 'all'});
    await c.dropIndex('b_1_a_1');
    await c.insertMany(Array.from({length: 1000}, (_, i) => ({_id: 50000 + i, a: 50000 + i, x: {y: i}})));
    await set.startNode(late);
    await set.whole();
    await everywhere('set', 'c', 3);
  });

  test('the next primary keeps them up', async () => {
    const c = of(client.db('set2'), 'c');
    await c.createIndex({k: 1});
    await c.insertMany(Array.from({length: 1000}, (_, i) => ({_id: i, k: i})), {writeConcern: {w: 'majority'}});
    await c.db.command({collMod: 'c', index: {name: 'k_1', prepareUnique: true}});
    await c.db.command({collMod: 'c', index: {name: 'k_1', unique: true}});
    const old = await set.primary(), next = (await set.secondaries())[0];
    await set.vedctl(old, 'replication', 'promote', next);
    assert.equal(await set.primary(), next);
    await c.insertMany(Array.from({length: 1000}, (_, i) => ({_id: 1000 + i, k: 1000 + i})), {writeConcern: {w: 'majority'}});
    await assert.rejects(c.insertOne({k: 5}), {code: 11000});
    await everywhere('set2', 'c', 2);
  });

  test('fsync with lock on a secondary: it applies nothing until it is unlocked', async () => {
    const [one] = await set.secondaries();
    const direct = await set.client({node: one, driver: {readPreference: 'secondaryPreferred'}});
    const run = (command) => direct.db('admin').command(command, {readPreference: 'secondaryPreferred'});
    const c = of(client.db('locks'), 'c'), there = direct.db('locks').collection('c');
    await c.insertOne({_id: 1}, {writeConcern: {w: 3}});
    assert.equal((await run({fsync: 1, lock: true})).lockCount, 1);
    await c.insertOne({_id: 2}, {writeConcern: {w: 2}});
    await assert.rejects(c.insertOne({_id: 3}, {writeConcern: {w: 3, wtimeoutMS: 300}}), {code: 64});
    assert.equal(await there.countDocuments({}), 1);
    assert.equal((await run({fsyncUnlock: 1})).lockCount, 0);
    await until('it goes on', async () => (await there.countDocuments({})) === 3);
    await direct.close();
  });

  test('commitQuorum: what can be, and what can not', async () => {
    const c = of(client.db('set3'), 'quorum');
    await c.insertMany(Array.from({length: 500}, (_, i) => ({_id: i, a: i})));
    for (const [i, commitQuorum] of [0, 1, 2, 3, 'majority', 'votingMembers'].entries()) {
      const r = await c.db.command({createIndexes: 'quorum', indexes: [{key: {[`f${i}`]: 1}, name: `f${i}`}], commitQuorum});
      assert.equal(r.commitQuorum, commitQuorum);
    }
    const wrong = (commitQuorum) => c.db.command({createIndexes: 'quorum', indexes: [{key: {x: 1}, name: 'x'}], commitQuorum});
    await assert.rejects(wrong(4), {code: 278, codeName: 'UnsatisfiableCommitQuorum'});
    await assert.rejects(wrong('nothing of the kind'), {code: 79});
    await assert.rejects(wrong(-1), {code: 9});
    await everywhere('set3', 'quorum', 7);
  });

  /** A build that waits for the third node, which is down; writes and reads of a majority go on beside it. */
  async function waiting(c, key, work) {
    await c.insertMany(Array.from({length: 3000}, (_, i) => ({_id: i, a: i, b: i % 7})));
    const [down, up] = await set.secondaries();
    await set.killNode(down);
    const index = Object.entries(key).flat().join('_');
    const build = c.createIndex(key, {commitQuorum: 3}).then(() => 'built', (e) => e);
    const other = await set.client({node: up, driver: {readPreference: 'secondaryPreferred'}});
    const there = of(other.db(c.db.databaseName), c.name);
    for (const one of [c, there]) await until('a build is under way', async () => (await building(one)).includes(index));
    for (let i = 0; i < 20; i++) await c.insertOne({_id: 5000 + i, a: -i, b: i}, {writeConcern: {w: 2}});
    assert.deepEqual(await names(c), ['_id_']);
    await work({down, up, there, index, build});
    await other.close();
  }

  test('a build goes on under the next primary', async () => {
    const c = of(client.db('set4'), 'c');
    await waiting(c, {a: 1}, async ({down, up, there, index, build}) => {
      await set.vedctl(await set.primary(), 'replication', 'promote', up);
      assert.equal(await set.primary(60000, set.names.filter((n) => n !== down)), up);
      assert.notEqual(await build, 'built'); // who asked hears that the primary is another one
      await until('it is built by the new one', async () => (await building(there)).includes(index));
      await c.insertOne({_id: 6000, a: 6000}, {writeConcern: {w: 2}});
      const quorum = (indexNames) => c.db.command({setIndexCommitQuorum: 'c', indexNames, commitQuorum: 'majority'});
      await assert.rejects(quorum(['other']), {code: 27});
      await quorum([index]);
      await until('the index is there, while a node is down', async () => (await names(c)).includes(index));
      await set.startNode(down);
      await set.whole();
    });
    await everywhere('set4', 'c', 2);
  });

  test('a build goes on after the primary has died', async () => {
    const c = of(client.db('set5'), 'c');
    await waiting(c, {b: 1, a: -1}, async ({down, index, build}) => {
      const primary = await set.primary(60000, set.names.filter((n) => n !== down));
      await set.killWorker(primary, 'storaged');
      await build;
      await until('it is begun anew', async () => (await building(c).catch(() => [])).includes(index)); // it may not lead yet
      await set.startNode(down);
      await set.whole();
      await until('the index is there', async () => (await names(c)).includes(index));
    });
    await everywhere('set5', 'c', 2);
  });

  test('dropIndexes, and drop, give a build up everywhere', async () => {
    const c = of(client.db('set6'), 'c');
    let many;
    await waiting(c, {b: 1}, async ({down, there, index, build}) => {
      // more of them than there are workers for long operations: they wait without one
      const all = Array.from({length: 20}, (_, i) => of(c.db, `many${i % 14}`)); // some wait for another one's build
      for (const one of all) await one.insertOne({a: 1});
      many = all.map((one) => one.createIndex({a: 1}, {commitQuorum: 3}).catch((e) => e));
      const under = async () => (await Promise.all(all.slice(0, 14).map(building))).flat().length;
      await until('all are under way', async () => (await under()) === 14);
      const asked = async () => (await client.db('admin').command({currentOp: 1, 'command.commitQuorum': 3})).inprog.length;
      await until('all wait', async () => (await asked()) === 21);
      assert.equal((await c.aggregate([{$match: {a: {$gte: 0}}}, {$sort: {b: 1, a: -1}}, {$group: {_id: '$b'}}]).toArray()).length >= 7, true);
      await c.dropIndex(index);
      assert.equal((await build).code, 276);
      for (const one of [c, there]) await until('nothing is built', async () => (await building(one)).length === 0);
      const again = c.createIndex({a: 1}, {commitQuorum: 3}).then(() => 'built', (e) => e);
      await until('a build is under way', async () => (await building(c)).length === 1);
      await c.drop();
      assert.ok((await again).code > 0, `${await again}`);
      await c.insertOne({_id: 1});
      await set.startNode(down);
      await set.whole();
    });
    assert.deepEqual(await Promise.all(many), Array(20).fill('a_1'));
    await everywhere('set6', 'c', 1);
  });
});
