// cas.test.mjs — versions of documents and compare-and-swap: what is refused, and that no update is lost among many clients, also while
// storage is killed in between.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Long} from 'mongodb';
import {Recorder} from '../support/linear.mjs';
import {codeOf, Node, sleep, until} from '../support/node.mjs';

const STALE = 90001, REQUIRED = 90019, CLIENTS = 64, DOCUMENTS = 4;
const withVersion = {projection: {n: 1, v: 1, version: {$meta: 'version'}}};
let node, client, db;

before(async () => {
  node = await Node.start();
  client = await node.client();
  db = client.db('cas');
}, {timeout: 120000});
after(async () => {
  await client?.close();
  await node?.stop();
});

const version = async (collection, _id) => (await collection.findOne({_id}, withVersion)).version;

test('a version is checked by every kind of write, and a stale one names the present one', async () => {
  const c = db.collection('kinds');
  await c.insertMany([{_id: 1, n: 0}, {_id: 2, n: 0}]);
  const old = await version(c, 1);
  assert.ok(Long.isLong(old));
  assert.equal(await c.countDocuments({_id: 1, $version: old}), 1);
  assert.equal((await c.updateOne({_id: 1, $version: old}, {$inc: {n: 1}})).modifiedCount, 1);
  const now = await version(c, 1);
  assert.ok(now.greaterThan(old), 'versions grow');
  assert.equal(await c.findOne({_id: 1, $version: old}), null);

  const stale = {
    updateOne: (f) => c.updateOne(f, {$inc: {n: 1}}),
    updateMany: (f) => c.updateMany(f, {$inc: {n: 1}}),
    pipeline: (f) => c.updateOne(f, [{$set: {n: 9}}]),
    upsert: (f) => c.updateOne(f, {$inc: {n: 1}}, {upsert: true}),
    replaceOne: (f) => c.replaceOne(f, {n: 9}),
    deleteOne: (f) => c.deleteOne(f),
    deleteMany: (f) => c.deleteMany(f),
    findOneAndUpdate: (f) => c.findOneAndUpdate(f, {$inc: {n: 1}}),
    findOneAndReplace: (f) => c.findOneAndReplace(f, {n: 9}),
    findOneAndDelete: (f) => c.findOneAndDelete(f),
    sorted: (f) => c.findOneAndUpdate(f, {$inc: {n: 1}}, {sort: {n: -1}}),
    bulkWrite: (f) => c.bulkWrite([{updateOne: {filter: f, update: {$inc: {n: 1}}}}]),
  };
  for (const [kind, run] of Object.entries(stale))
    for (const filter of [{_id: 1, $version: old}, {n: 1, $version: old}, {$and: [{_id: 1}, {$version: old}]}]) {
      const error = await run(filter).then(() => null, (e) => e);
      assert.equal(error?.code, STALE, `${kind}: ${error?.message}`);
      const info = error.errInfo ?? error.writeErrors?.[0]?.errInfo ?? error.writeErrors?.[0]?.err?.errInfo ?? error.errorResponse?.errInfo;
      assert.ok(info.version.equals(now) && info.expected.equals(old), `${kind}: ${JSON.stringify(info)}`);
    }
  assert.deepEqual(await c.findOne({_id: 1}), {_id: 1, n: 1}, 'nothing was written');

  assert.equal((await c.updateOne({_id: 3, $version: old}, {$inc: {n: 1}})).matchedCount, 0, 'no such document: nothing is found');
  const bulk = await c.bulkWrite([{updateOne: {filter: {_id: 1, $version: old}, update: {$inc: {n: 1}}}}, {updateOne: {filter: {_id: 2}, update: {$inc: {n: 1}}}}], {ordered: false}).catch((e) => e);
  assert.equal(bulk.writeErrors.length, 1);
  assert.equal(bulk.result.modifiedCount ?? bulk.modifiedCount, 1, 'the other statement was done');

  const after = await c.findOneAndUpdate({_id: 1, $version: now}, {$inc: {n: 1}}, {returnDocument: 'after', ...withVersion});
  assert.ok(after.version.equals(await version(c, 1)), 'findAndModify tells the version that it made');
  const before = await c.findOneAndUpdate({_id: 1}, {$inc: {n: 1}}, withVersion);
  assert.ok(before.version.equals(after.version), 'and the one that it found');
  const same = await c.findOneAndUpdate({_id: 1}, {$set: {n: 3}}, {returnDocument: 'after', ...withVersion});
  assert.ok(same.version.equals(await version(c, 1)), 'and the one that stays when nothing changes');
});

test('what can not be asked is refused', async () => {
  const c = db.collection('refused');
  await c.insertOne({_id: 1});
  const v = await version(c, 1);
  assert.equal(await codeOf(() => c.findOne({$or: [{$version: v}]})), 2);
  assert.equal(await codeOf(() => c.findOne({$nor: [{$version: v}]})), 2);
  assert.equal(await codeOf(() => c.findOne({a: {$elemMatch: {$version: v}}})), 2);
  assert.equal(await codeOf(() => c.findOne({$version: 1.5})), 14);
  assert.equal(await codeOf(() => c.findOne({$version: 'x'})), 14);
  assert.equal(await codeOf(() => c.findOne({$version: 0})), 2);
  assert.equal(await codeOf(() => c.findOne({$version: Long.fromNumber(-1)})), 2);
  assert.equal(await codeOf(() => c.updateOne({_id: 1}, {$pull: {a: {$version: v}}})), 224);
  assert.equal(await codeOf(() => c.aggregate([{$group: {_id: 1}}, {$match: {$version: v}}]).toArray()), 2);
  assert.equal((await c.aggregate([{$match: {$version: v}}]).toArray()).length, 1);
  assert.equal(await codeOf(() => db.command({create: 'v', validator: {$version: v}})), 224);
  assert.equal(await codeOf(() => db.command({create: 'v', cas: 'maybe'})), 2);
});

test('policies: required, off, optional; kept over a restart of storage', async () => {
  await db.command({create: 'policy', cas: 'required'});
  const c = db.collection('policy');
  await c.insertOne({_id: 1, n: 0});
  for (const run of [
    () => c.updateOne({_id: 1}, {$inc: {n: 1}}),
    () => c.updateMany({}, {$inc: {n: 1}}),
    () => c.replaceOne({_id: 1}, {n: 1}),
    () => c.updateOne({_id: 1}, {$inc: {n: 1}}, {upsert: true}),
    () => c.findOneAndUpdate({_id: 1}, {$inc: {n: 1}}),
    () => c.findOneAndReplace({n: 0}, {n: 1}, {sort: {n: 1}}),
    () => c.bulkWrite([{replaceOne: {filter: {_id: 1}, replacement: {n: 1}}}]),
  ])
    assert.equal(await codeOf(run), REQUIRED, String(run));
  assert.deepEqual(await c.findOne({_id: 1}), {_id: 1, n: 0});
  assert.equal((await c.updateOne({_id: 2}, {$inc: {n: 1}}, {upsert: true})).upsertedCount, 1, 'an upsert that inserts');
  assert.equal((await c.updateOne({_id: 1, $version: await version(c, 1)}, {$inc: {n: 1}})).modifiedCount, 1);
  assert.equal((await c.deleteOne({_id: 2})).deletedCount, 1, 'a delete may be blind');

  const old = await node.kill('storaged');
  await until('storaged is back', async () => {
    const w = await node.worker('storaged');
    return w.pid !== old.pid && w.state === 'running';
  });
  assert.equal(await codeOf(() => c.updateOne({_id: 1}, {$inc: {n: 1}})), REQUIRED);
  assert.equal((await db.listCollections({name: 'policy'}).toArray())[0].options.cas, 'required');
  await db.command({collMod: 'policy', cas: 'off'});
  const v = await version(c, 1);
  assert.equal(await codeOf(() => c.updateOne({_id: 1, $version: v}, {$inc: {n: 1}})), 2);
  assert.equal((await c.updateOne({_id: 1}, {$inc: {n: 1}})).modifiedCount, 1);
  await db.command({collMod: 'policy', cas: 'optional'});
  assert.equal(await codeOf(() => c.updateOne({_id: 1, $version: v}, {$inc: {n: 1}})), STALE);
});

/** One client's compare-and-swaps on few documents, until `more` says no. */
async function swaps(collection, recorder, i, done, more) {
  for (let step = i; more(); step++) {
    const _id = step % DOCUMENTS;
    try {
      let d;
      await recorder.read(_id, async () => (d = await collection.findOne({_id}, withVersion)).v);
      await recorder.write(_id, async (value) => {
        const r = await collection.updateOne({_id, $version: d.version}, {$inc: {n: 1}, $set: {v: value}});
        assert.equal(r.matchedCount, 1, 'found under its version');
      }, {expected: d.v}, (e) => e.code === STALE);
      done.count[_id]++;
    } catch (e) {
      if (e.code === STALE) done.stale++;
      else done.errors.push(`${e.code} ${e.message}`);
    }
  }
}

for (const cas of ['optional', 'required'])
  test(`${CLIENTS} clients on ${DOCUMENTS} documents lose no update while storage is killed (${cas})`, {timeout: 240000}, async () => {
    await db.command({create: `race_${cas}`, cas});
    const collection = db.collection(`race_${cas}`);
    await collection.insertMany(Array.from({length: DOCUMENTS}, (_, _id) => ({_id, n: 0, v: 0})));
    const recorder = new Recorder();
    const done = {count: Array(DOCUMENTS).fill(0), stale: 0, errors: []};
    let running = true;
    const tasks = Array.from({length: CLIENTS}, (_, i) => swaps(collection, recorder, i, done, () => running));
    const sum = () => done.count.reduce((a, b) => a + b, 0);
    for (let kill = 0; kill < 3; kill++) {
      const from = sum();
      await until('some more swaps', () => sum() >= from + 40 || done.errors.length > 0, 60000);
      const old = await node.kill('storaged');
      await until('storaged is back', async () => {
        const w = await node.worker('storaged');
        return w.pid !== old.pid && w.state === 'running';
      });
      await sleep(100);
    }
    const from = sum();
    await until('some more swaps', () => sum() >= from + 40 || done.errors.length > 0, 60000);
    running = false;
    await Promise.all(tasks);
    assert.deepEqual(done.errors, [], 'nobody saw an error but StaleVersion');
    assert.ok(done.stale > 0, 'they did race');
    for (let _id = 0; _id < DOCUMENTS; _id++) assert.equal((await collection.findOne({_id})).n, done.count[_id], 'each acknowledged swap, once');
    assert.deepEqual(recorder.violations(0), []);
  });
