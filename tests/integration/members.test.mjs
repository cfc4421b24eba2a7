// members.test.mjs — a hidden and a delayed member of a real set, the default read and write concern, and what an operator asks of members.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Cluster} from '../support/cluster.mjs';
import {until} from '../support/node.mjs';

const DELAY = 4; // seconds
let set, client, admin;

before(async () => {
  set = await Cluster.start({network: true, set: ['gateway.threads=4']});
  client = await set.client({driver: {retryWrites: true}});
  admin = client.db('admin');
}, {timeout: 120000});
after(async () => await set?.stop(), {timeout: 60000});

/** Changes members of the configuration by name; the others stay as they are. */
async function reconfigure(changes) {
  const {config} = await admin.command({replSetGetConfig: 1});
  for (const member of config.members) Object.assign(member, changes[set.nameOf(member.host)] ?? {});
  config.version++;
  await admin.command({replSetReconfig: config});
  await until('all have it', async () => {
    const seen = await Promise.all(set.names.map((name) => set.status(name)));
    return seen.every((s) => s !== null && s.configVersion === seen[0].configVersion);
  });
}

const hello = async (name) => {
  const one = await set.client({node: name});
  try {
    return await one.db('admin').command({hello: 1});
  } finally {
    await one.close();
  }
};

test('the default write and read concern: set, kept, replicated, honoured', {timeout: 120000}, async () => {
  const c = client.db('defaults').collection('c');
  await c.insertOne({_id: 'first'}, {writeConcern: {w: 3, wtimeoutMS: 30000}});
  assert.deepEqual((({defaultReadConcern, defaultWriteConcern, defaultReadConcernSource, defaultWriteConcernSource}) => [defaultReadConcern, defaultWriteConcern, defaultReadConcernSource, defaultWriteConcernSource])(await admin.command({getDefaultRWConcern: 1})),
    [{level: 'local'}, {w: 'majority', wtimeout: 0}, 'implicit', 'implicit']);
  for (const [command, code] of [
    [{}, 2],
    [{defaultWriteConcern: {w: 0}}, 2],
    [{defaultWriteConcern: {j: true}}, 2],
    [{defaultWriteConcern: {w: 51}}, 9],
    [{defaultWriteConcern: 1}, 14],
    [{defaultReadConcern: {level: 'linearizable'}}, 2],
    [{defaultReadConcern: {level: 'snapshot'}}, 2],
    [{defaultReadConcern: {level: 'local', afterClusterTime: 1}}, 2],
    [{nonsense: 1, defaultReadConcern: {level: 'local'}}, 40415],
  ]) await assert.rejects(admin.command({setDefaultRWConcern: 1, ...command}), {code}, JSON.stringify(command));
  const replica = set.names.find((n) => n !== 'n1');
  const there = await set.client({node: replica});
  await assert.rejects(there.db('admin').command({setDefaultRWConcern: 1, defaultReadConcern: {level: 'local'}}), {code: 10107});
  const told = await admin.command({setDefaultRWConcern: 1, defaultWriteConcern: {w: 3, wtimeout: 1000}, defaultReadConcern: {level: 'majority'}});
  assert.deepEqual([told.defaultWriteConcern, told.defaultReadConcern, told.defaultWriteConcernSource], [{w: 3, wtimeout: 1000}, {level: 'majority'}, 'global']);
  assert.ok(told.updateOpTime && told.updateWallClockTime instanceof Date);
  // A command that names no concern waits for three members: one is cut off, so it can't be had.
  set.partition('n3', ['n1', 'n2']);
  const timedOut = await client.db('defaults').command({insert: 'c', documents: [{_id: 'by default'}]}).catch((e) => e);
  assert.equal(timedOut.code, 64);
  assert.deepEqual((({w, wtimeout, provenance}) => ({w, wtimeout: Number(wtimeout), provenance}))(timedOut.result.writeConcernError.errInfo.writeConcern), {w: 3, wtimeout: 1000, provenance: 'customDefault'});
  const named = await client.db('defaults').command({insert: 'c', documents: [{_id: 'named'}], writeConcern: {w: 1}});
  assert.equal(named.writeConcernError, undefined);
  set.heal();
  // Every member knows it, and a write that it is replicated by can be read as any document.
  await until('the replica knows', async () => (await there.db('admin').command({getDefaultRWConcern: 1, inMemory: true})).defaultWriteConcern.w === 3);
  await there.close();
  const stored = await client.db('config').collection('settings').findOne({_id: 'ReadWriteConcernDefaults'});
  assert.deepEqual([stored.defaultWriteConcern, stored.defaultReadConcern], [{w: 3, wtimeout: 1000}, {level: 'majority'}]);
  // It outlives storage.
  const {starts} = await set.killWorker('n1', 'storaged');
  await set.workerBack('n1', 'storaged', starts, 60000);
  await until('it is kept', async () => (await admin.command({getDefaultRWConcern: 1, inMemory: true})).defaultWriteConcernSource === 'global');
  // It leads again, on all threads of the gateway; what is refused then is refused for what it is.
  await until('it refuses to take a write concern back', async () => {
    const refused = await admin.command({setDefaultRWConcern: 1, defaultWriteConcern: {}}).catch((e) => e);
    assert.ok([20, 10107].includes(refused.code), String(refused));
    return refused.code === 20;
  });
  const back = await admin.command({setDefaultRWConcern: 1, defaultWriteConcern: {w: 'majority'}, defaultReadConcern: {}});
  assert.deepEqual([back.defaultReadConcern, back.defaultReadConcernSource, back.defaultWriteConcern], [{level: 'local'}, 'implicit', {w: 'majority', wtimeout: 0}]);
});

test('every loop thread of the gateway follows the role', {timeout: 120000}, async () => {
  const old = await set.primary(), next = set.names.find((n) => n !== old);
  const many = await Promise.all(Array.from({length: 24}, () => set.client({node: old, driver: {maxPoolSize: 1, retryWrites: false}})));
  const both = async (state, code) => {
    for (const one of many) {
      const {isWritablePrimary, primary} = await one.db('admin').command({hello: 1});
      assert.equal(isWritablePrimary, state);
      assert.equal(set.nameOf(primary), state ? old : next);
      const e = await one.db('threads').collection('c').insertOne({}).then(() => null, (x) => x);
      assert.equal(e?.code, code);
    }
  };
  // Each waits as a driver's monitor does, and is woken by the change.
  const version = (await many[0].db('admin').command({hello: 1})).topologyVersion;
  await both(true, undefined);
  const waiting = many.map((one) => one.db('admin').command({hello: 1, topologyVersion: version, maxAwaitTimeMS: 60000}));
  await set.vedctl(old, 'replication', 'promote', next);
  assert.equal(await set.primary(), next);
  for (const told of await Promise.all(waiting)) assert.ok(Number(told.topologyVersion.counter) > Number(version.counter));
  await until('all know', async () => {
    const seen = await Promise.all(many.map((one) => one.db('admin').command({hello: 1})));
    return seen.every((h) => h.secondary && set.nameOf(h.primary) === next);
  });
  await both(false, 10107);
  await set.vedctl(next, 'replication', 'promote', old);
  assert.equal(await set.primary(), old);
  await until('all know', async () => (await Promise.all(many.map((one) => one.db('admin').command({hello: 1})))).every((h) => h.isWritablePrimary));
  await both(true, undefined);
  await Promise.all(many.map((one) => one.close()));
});

test('certificates of nodes are read again while the set goes on', {timeout: 60000}, async () => {
  const c = client.db('defaults').collection('reload');
  for (const name of set.names) {
    assert.match((await set.vedctl(name, 'reload', 'certs')).stdout, /read again[^]*read again/);
    await c.insertOne({_id: name}, {writeConcern: {w: 3, wtimeoutMS: 30000}});
  }
});

test('replSetFreeze is for secondaries', async () => {
  await assert.rejects(admin.command({replSetFreeze: 10}), {code: 95, codeName: 'NotSecondary'});
  const one = await set.client({node: (await set.secondaries())[0]});
  assert.equal((await one.db('admin').command({replSetFreeze: 1})).ok, 1);
  assert.equal((await one.db('admin').command({replSetFreeze: 0})).ok, 1);
  await one.close();
});

test('a reconfiguration waits for the one before it, and is on a majority when it is answered', {timeout: 60000}, async () => {
  const primary = await set.primary();
  for (let i = 0; i < 8; i++) {
    const {config} = await admin.command({replSetGetConfig: 1});
    Object.assign(config.members.find((m) => set.nameOf(m.host) !== primary), {tags: {round: String(i)}});
    config.version++;
    assert.equal((await admin.command({replSetReconfig: config, maxTimeMS: 30000})).ok, 1);
    const known = await Promise.all(set.names.map((name) => set.status(name)));
    assert.ok(known.filter((s) => s?.configVersion >= config.version).length >= 2, JSON.stringify(known.map((s) => s?.configVersion)));
    await assert.rejects(admin.command({replSetReconfig: config}), {code: 103}, 'the same version again');
  }
});

test('a hidden member is in no hello, and counts for the majority; a delayed one keeps its delay', {timeout: 180000}, async () => {
  const primary = await set.primary();
  const [hidden, delayed] = set.names.filter((n) => n !== primary);
  await reconfigure({[hidden]: {hidden: true, priority: 0}});
  await reconfigure({[delayed]: {priority: 0, secondaryDelaySecs: DELAY}});
  for (const name of set.names)
    await until(`hosts of ${name}`, async () => { // the new configuration is on a majority, and comes to the third
      const {hosts, passives} = await hello(name);
      return JSON.stringify([hosts, passives]) === JSON.stringify([[set.node(primary).host], [set.node(delayed).host]]);
    });
  const own = await hello(hidden);
  assert.equal(own.hidden, true);
  assert.equal(own.secondary, true);
  // The driver never goes there.
  const reader = await set.client({driver: {readPreference: 'nearest', monitorCommands: true}});
  const seen = new Set();
  reader.on('commandStarted', (e) => e.commandName === 'find' && seen.add(set.nameOf(e.address)));
  for (let i = 0; i < 20; i++) await reader.db('hidden').collection('c').findOne();
  assert.ok(!seen.has(hidden), [...seen].join());
  await reader.close();

  // The hidden one's vote makes a majority before the delayed one has anything.
  const c = client.db('hidden').collection('c');
  const one = await set.client({node: delayed, driver: {readPreference: 'secondaryPreferred'}});
  const there = one.db('hidden').collection('c');
  for (let i = 0; i < 3; i++) {
    const begun = Date.now();
    await c.insertOne({_id: i}, {writeConcern: {w: 'majority', wtimeoutMS: 30000}});
    await until(`the delayed one shows ${i}`, async () => (await there.findOne({_id: i})) !== null);
    assert.ok(Date.now() - begun >= (DELAY - 1) * 1000, `it was there after ${Date.now() - begun} ms`); // positions count whole seconds
  }
  await assert.rejects(c.insertOne({_id: 'all'}, {writeConcern: {w: 3, wtimeoutMS: 500}}), {code: 64});
  await c.updateOne({_id: 'all'}, {$set: {again: true}}, {writeConcern: {w: 3, wtimeoutMS: 60000}});

  // Without the hidden one the majority is the delayed one's: there in the end, not before.
  set.partition(hidden, [primary, delayed]);
  const begun = Date.now();
  await assert.rejects(c.insertOne({_id: 'late'}, {writeConcern: {w: 'majority', wtimeoutMS: 500}}), {code: 64});
  await c.updateOne({_id: 'late'}, {$set: {again: true}}, {writeConcern: {w: 'majority', wtimeoutMS: 60000}});
  assert.ok(Date.now() - begun >= (DELAY - 1) * 1000);
  assert.equal(await set.primary(), primary, 'a delayed vote keeps the primary');
  set.heal();
  await one.close();
  await set.whole();
  await set.equal('hidden');
});
