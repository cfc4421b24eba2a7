// oplog.test.mjs — local.oplog.rs and local.system.replset of a real set: the form of the entries, order, privileges, and what mongosh makes of them.
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {BSON} from 'mongodb';
import {Cluster} from '../support/cluster.mjs';
import {until} from '../support/node.mjs';

const {Timestamp} = BSON;
let set, client, oplog;

before(async () => {
  set = await Cluster.start({nodes: 2});
  client = await set.client();
  oplog = client.db('local').collection('oplog.rs');
}, {timeout: 120000});
after(async () => await set?.stop(), {timeout: 60000});

const all = {writeConcern: {w: 2, wtimeoutMS: 30000}};

/** Entries of a database in order; what differs from run to run is left out. */
async function entries(db, from = oplog) {
  const found = await from.find({$or: [{ns: {$regex: `^${db}\\.`}}, {'o.applyOps.ns': {$regex: `^${db}\\.`}}]}).toArray();
  for (const e of found) {
    assert.ok(e.ts instanceof Timestamp && e.wall instanceof Date, JSON.stringify(e));
    assert.equal(Number(e.v), 2);
    assert.ok(Number(e.t) >= 1);
    assert.equal(e.ts.high, Math.floor(e.ts.high));
  }
  for (let i = 1; i < found.length; i++) assert.ok(found[i].ts.greaterThanOrEqual(found[i - 1].ts), 'in order of time');
  return found;
}

test('each kind of change in MongoDB\'s form', async () => {
  const db = client.db('forms'), c = db.collection('c');
  await db.createCollection('c', all);
  await c.insertOne({_id: 1, a: {b: 1, c: 2}, list: [1, 2, 3], gone: true}, all);
  await c.updateOne({_id: 1}, {$set: {'a.b': 5, new: 'x'}, $unset: {gone: ''}, $push: {list: 4}}, all);
  await c.replaceOne({_id: 1}, {whole: true}, all);
  await c.deleteOne({_id: 1}, all);
  await c.insertMany([{_id: 2}, {_id: 3}], all);
  await c.rename('d');
  await db.collection('d').drop(all);
  const seen = await entries('forms');
  const {uuid} = {uuid: seen[0].ui};
  const plain = seen.map(({op, ns, o, o2}) => ({op, ns, o, ...(o2 ? {o2} : {})}));
  assert.deepEqual(plain[0].o.create, 'c');
  assert.deepEqual({...plain[0], o: undefined}, {op: 'c', ns: 'forms.$cmd', o: undefined});
  assert.deepEqual(plain.slice(1, 5), [
    {op: 'i', ns: 'forms.d', o: {_id: 1, a: {b: 1, c: 2}, list: [1, 2, 3], gone: true}, o2: {_id: 1}},
    {op: 'u', ns: 'forms.d', o: {$v: 2, diff: {d: {gone: false}, i: {new: 'x'}, sa: {u: {b: 5}}, slist: {a: true, u3: 4}}}, o2: {_id: 1}},
    {op: 'u', ns: 'forms.d', o: {_id: 1, whole: true}, o2: {_id: 1}},
    {op: 'd', ns: 'forms.d', o: {_id: 1}},
  ]);
  for (const e of seen.slice(1, 5)) assert.deepEqual(e.ui, uuid);
  const many = plain.slice(5, -2);
  const inserted = many.flatMap((e) => (e.op === 'c' ? e.o.applyOps : [e]));
  assert.deepEqual(inserted.map((e) => [e.op, e.ns, e.o._id]), [['i', 'forms.d', 2], ['i', 'forms.d', 3]]);
  assert.equal(plain.at(-2).o.renameCollection, 'forms.c');
  assert.equal(plain.at(-2).o.to, 'forms.d');
  assert.deepEqual(plain.at(-1), {op: 'c', ns: 'forms.$cmd', o: {drop: 'd'}});
  // A retryable write says whose it was.
  assert.equal(seen[1].lsid.id.sub_type, 4);
  assert.ok(Number(seen[1].txnNumber) >= 0);
  assert.equal(seen[1].stmtId, 0);
});

test('backward is the reverse of forward; batches, limits, projections, filters; the same on a replica', async () => {
  const c = client.db('order').collection('c');
  for (let i = 0; i < 20; i++) await c.insertOne({_id: i, pad: 'x'.repeat(1000)}, all);
  await c.insertMany(Array.from({length: 2500}, (_, i) => ({_id: 100 + i})), all);
  const last = (await oplog.find().sort({$natural: -1}).limit(1).toArray())[0];
  const upto = {ts: {$lte: last.ts}};
  const key = (e) => JSON.stringify([e.ts.toString(), e.op, e.o]);
  const forward = (await oplog.find(upto).batchSize(7).toArray()).map(key);
  const backward = (await oplog.find(upto).sort({$natural: -1}).batchSize(7).toArray()).map(key);
  assert.deepEqual(backward.reverse(), forward);
  assert.ok(forward.length > 20);
  const inserted = (await entries('order')).flatMap((e) => (e.op === 'c' && e.o.applyOps ? e.o.applyOps : e.op === 'i' ? [e] : [])).map((e) => e.o._id);
  assert.deepEqual(inserted, [...Array(20).keys(), ...Array.from({length: 2500}, (_, i) => 100 + i)]);
  assert.deepEqual(await oplog.find({ns: 'order.c', op: 'i', 'o._id': 3}, {projection: {_id: 0, o: 1}}).toArray(), [{o: {_id: 3, pad: 'x'.repeat(1000)}}]);
  assert.deepEqual(await oplog.aggregate([{$match: {ns: 'order.c', op: 'i'}}, {$count: 'n'}]).toArray(), [{n: 20}]);
  assert.equal(await oplog.countDocuments({ns: 'order.c', op: 'i'}), 20);
  assert.deepEqual(await oplog.distinct('op', {ns: 'order.c', op: 'i'}), ['i']);
  const replica = (await set.secondaries())[0], one = await set.client({node: replica});
  const there = one.db('local').collection('oplog.rs');
  await until('it has them', async () => (await there.find({ts: last.ts}).toArray()).length > 0);
  const copy = (await there.find(upto).toArray()).map(key); // since it was copied itself
  assert.ok(copy.length > 20);
  assert.deepEqual(copy, forward.slice(-copy.length));
  await one.close();
});

test('local.system.replset is the configuration; both are listed; nobody writes', async () => {
  const local = client.db('local');
  const {config} = await client.db('admin').command({replSetGetConfig: 1});
  assert.deepEqual(await local.collection('system.replset').find().toArray(), [config]);
  assert.deepEqual(await local.collection('system.replset').findOne({_id: config._id}), config);
  assert.equal(await local.collection('system.replset').countDocuments({}), 1);
  assert.equal(await local.collection('system.replset').estimatedDocumentCount(), 1);
  assert.deepEqual((await local.listCollections().toArray()).map((c) => [c.name, c.options.capped ?? false]).sort(), [['oplog.rs', true], ['system.replset', false]]);
  for (const name of ['oplog.rs', 'system.replset']) {
    await assert.rejects(local.collection(name).insertOne({_id: 1}), (e) => [13, 73].includes(e.code), name);
    await assert.rejects(local.collection(name).deleteMany({}), (e) => [13, 73].includes(e.code), name);
    await assert.rejects(local.collection(name).drop(), (e) => [13, 73, 20].includes(e.code), name);
  }
  const stats = await local.command({collStats: 'oplog.rs'});
  assert.equal(stats.capped, true);
  assert.ok(stats.maxSize > 0 && stats.size > 0);
});

test('who may read it, and what nobody may see in it', async () => {
  const admin = client.db('admin');
  await admin.command({createUser: 'any', pwd: 'a-long-password', roles: ['readAnyDatabase'], writeConcern: {w: 2, wtimeout: 30000}});
  await admin.command({createUser: 'monitor', pwd: 'a-long-password', roles: ['clusterMonitor'], writeConcern: {w: 2, wtimeout: 30000}});
  await admin.command({createUser: 'reader', pwd: 'a-long-password', roles: [{role: 'read', db: 'local'}], writeConcern: {w: 2, wtimeout: 30000}});
  const as = async (user) => {
    const one = await set.client({driver: {auth: {username: user, password: 'a-long-password'}}});
    try {
      return await one.db('local').collection('oplog.rs').find().sort({$natural: -1}).limit(1).toArray().then((found) => found.length, (e) => e.code);
    } finally {
      await one.close();
    }
  };
  assert.equal(await as('any'), 13, 'readAnyDatabase does not go for local');
  assert.equal(await as('monitor'), 1);
  assert.equal(await as('reader'), 1);
  const secret = (await entries('admin')).filter((e) => e.ns.startsWith('admin.system.'));
  assert.ok(secret.length >= 3);
  for (const e of secret) assert.deepEqual(Object.keys(e.o), ['_id'], JSON.stringify(e.o));
});

test('mongosh: rs.printReplicationInfo(), rs.printSecondaryReplicationInfo(), db.getReplicationInfo(), show collections', {timeout: 120000}, async () => {
  const mongosh = path.resolve(import.meta.dirname, '../node_modules/@mongosh/cli-repl/bin/mongosh.js');
  const script = 'print(EJSON.stringify({info: rs.printReplicationInfo(), second: rs.printSecondaryReplicationInfo(), raw: db.getReplicationInfo(), list: db.getSiblingDB("local").getCollectionNames()}))';
  const primary = set.node(await set.primary());
  const out = await new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [mongosh, primary.uri, '--quiet', '--norc', '--eval', script], {env: {PATH: process.env.PATH, HOME: set.dir}});
    let text = '';
    child.stdout.on('data', (d) => (text += d));
    child.stderr.on('data', (d) => (text += d));
    child.on('error', reject);
    child.on('close', (code) => (code === 0 ? resolve(text) : reject(new Error(text))));
  });
  const said = JSON.parse(out.trim().split('\n').find((l) => l.startsWith('{"info"')));
  assert.match(JSON.stringify(said.info), /configured oplog size.*MB/);
  assert.match(JSON.stringify(said.second), /source: 127\.0\.0\.\d:\d+.*behind the primary/);
  assert.ok(said.raw.logSizeMB > 0 && said.raw.timeDiff >= 0);
  assert.deepEqual(said.list.sort(), ['oplog.rs', 'system.replset']);
});
