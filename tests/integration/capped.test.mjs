// Capped collections through the official driver: order of insertion, bounds, what may be changed, tailable cursors that wait; the same
// order on every member, also on one that was copied.
import assert from 'node:assert/strict';
import {after, before, describe, test} from 'node:test';
import {Cluster} from '../support/cluster.mjs';
import {Node, codeOf, until} from '../support/node.mjs';

const ids = (documents) => documents.map((d) => d._id);
const shuffled = (n) => Array.from({length: n}, (_, i) => (i * 7919) % n);
async function valid(db, name) {
  const result = await db.command({validate: name, full: true});
  assert.deepEqual([result.valid, result.errors], [true, []]);
  return result;
}

describe('one node', () => {
  let node, client, db;
  before(async () => {
    node = await Node.start();
    client = await node.client();
    db = client.db('capped');
  });
  after(async () => {
    await client?.close();
    await node?.stop();
  });

  test('options: what is asked for, what is shown, what is refused', async () => {
    const c = await db.createCollection('options', {capped: true, size: 1000, max: 5});
    await db.createCollection('options', {capped: true, size: 1000, max: 5}); // the same again
    assert.equal(await codeOf(() => db.createCollection('options', {capped: true, size: 2000})), 48);
    assert.equal(await c.isCapped(), true);
    assert.deepEqual(await c.options(), {capped: true, size: 1024, max: 5});
    const stats = await db.command({collStats: 'options'});
    assert.deepEqual([stats.capped, stats.max, stats.maxSize], [true, 5, 1024]);
    assert.equal((await db.command({collStats: 'none'})).capped ?? false, false);
    for (const [options, code] of [
      [{capped: true}, 72],
      [{size: 1000}, 72],
      [{max: 1}, 72],
      [{capped: true, size: 0}, 51024],
      [{capped: true, size: -1}, 51024],
      [{capped: true, size: 2 ** 51}, 51024],
      [{capped: true, size: 1000, max: 2 ** 31}, 51024],
      [{capped: true, size: 'large'}, 14],
    ]) assert.equal(await codeOf(() => db.command({create: 'refused', ...options})), code, JSON.stringify(options));
    assert.equal(await codeOf(() => c.createIndex({at: 1}, {expireAfterSeconds: 5})), 67);
    await c.createIndex({at: 1});
    assert.equal(await codeOf(() => db.command({collMod: 'options', index: {name: 'at_1', expireAfterSeconds: 5}})), 72);
    await db.collection('plain').insertOne({_id: 1});
    assert.equal(await codeOf(() => db.collection('plain').aggregate([{$out: 'options'}]).toArray()), 17152);
  });

  test('documents come in the order of insertion, also after updates, both ways, with filters and limits', async () => {
    const c = await db.createCollection('order', {capped: true, size: 1 << 20});
    const order = shuffled(500);
    await c.insertMany(order.slice(0, 250).map((_id) => ({_id, a: _id % 3})));
    for (const _id of order.slice(250)) await c.insertOne({_id, a: _id % 3});
    assert.deepEqual(ids(await c.find().toArray()), order);
    assert.deepEqual(ids(await c.find().batchSize(7).toArray()), order);
    assert.deepEqual(ids(await c.find().sort({$natural: -1}).batchSize(13).toArray()), [...order].reverse());
    assert.deepEqual(ids(await c.find().hint({$natural: -1}).limit(3).toArray()), [...order].reverse().slice(0, 3));
    assert.deepEqual(ids(await c.find({a: 1}).limit(20).toArray()), order.filter((i) => i % 3 === 1).slice(0, 20));
    assert.deepEqual(ids(await c.find({_id: {$lt: 50}}).sort({$natural: 1}).toArray()), order.filter((i) => i < 50));
    assert.deepEqual(ids(await c.find().sort({_id: 1}).toArray()), [...order].sort((a, b) => a - b));
    assert.deepEqual(ids(await c.find({_id: {$gt: 480}}).sort({_id: -1}).toArray()), order.filter((i) => i > 480).sort((a, b) => b - a));
    assert.deepEqual(ids(await c.aggregate([{$match: {a: 2}}, {$project: {a: 1}}]).toArray()), order.filter((i) => i % 3 === 2));
    assert.equal((await c.find({_id: 77}).toArray()).length, 1);
    await c.updateMany({a: 1}, {$set: {grown: 'x'.repeat(100)}});
    await c.replaceOne({_id: order[0]}, {replaced: true});
    await c.findOneAndUpdate({_id: order[3]}, {$inc: {a: 10}});
    assert.deepEqual(ids(await c.find().toArray()), order);
    await c.deleteOne({_id: order[1]});
    await c.deleteMany({a: 2});
    const left = order.filter((_id, i) => i !== 1 && (_id % 3 !== 2 || i === 0 || i === 3));
    assert.deepEqual(ids(await c.find().toArray()), left);
    await c.insertOne({_id: order[1]}); // at the end now
    assert.deepEqual(ids(await c.find().toArray()), [...left, order[1]]);
    await valid(db, 'order');
    const plan = await c.find().explain();
    assert.equal(plan.queryPlanner.winningPlan.stage, 'COLLSCAN');
    await c.deleteMany({});
    assert.equal(await c.countDocuments(), 0);
    await valid(db, 'order');
  });

  test('the oldest go when there are too many, or they are too large together', async () => {
    const many = await db.createCollection('many', {capped: true, size: 1 << 20, max: 3});
    await many.createIndex({a: 1}, {unique: true});
    await many.insertMany([1, 2, 3, 4, 5, 6, 7].map((_id) => ({_id, a: _id})));
    assert.deepEqual(ids(await many.find().toArray()), [5, 6, 7]);
    assert.deepEqual(ids(await many.find({a: {$gt: 0}}).sort({a: 1}).toArray()), [5, 6, 7]);
    await many.insertOne({_id: 1, a: 1}); // its key is free again
    await many.updateOne({_id: 100}, {$set: {a: 100}}, {upsert: true});
    assert.deepEqual(ids(await many.find().toArray()), [7, 1, 100]);
    assert.equal(await codeOf(() => many.insertOne({_id: 8, a: 7})), 11000);
    assert.deepEqual(ids(await many.find().toArray()), [7, 1, 100]);
    assert.equal(await many.countDocuments(), 3);
    assert.equal(await many.estimatedDocumentCount(), 3);
    await valid(db, 'many');

    const large = await db.createCollection('large', {capped: true, size: 10000});
    for (let i = 0; i < 50; i++) await large.insertOne({_id: i, s: 'x'.repeat(100 + 37 * i)});
    const found = await large.find().toArray();
    const {size} = await db.command({collStats: 'large'});
    assert.ok(size <= 10240 && size > 10240 - 2000, `${size}`);
    assert.deepEqual(ids(found), Array.from({length: found.length}, (_, i) => 50 - found.length + i));
    assert.equal(await codeOf(() => large.insertOne({s: 'x'.repeat(20000)})), 2);
    assert.equal((await large.find().toArray()).length, found.length);
    await large.insertOne({_id: 'all', s: 'x'.repeat(10000)}); // all others go
    assert.deepEqual(ids(await large.find().toArray()), ['all']);
    await valid(db, 'large');
  });

  test('many writers at once: never more than its bounds', async () => {
    const c = await db.createCollection('racing', {capped: true, size: 1 << 20, max: 10});
    let most = 0, done = false;
    const counting = (async () => {
      while (!done) most = Math.max(most, (await c.find().toArray()).length);
    })().catch((e) => assert.equal(e.code, 136)); // overtaken in the middle
    await Promise.all(Array.from({length: 16}, async (_, w) => {
      for (let i = 0; i < 40; i++) await c.insertOne({_id: `${w}-${i}`, w, i});
    }));
    done = true;
    await counting;
    assert.ok(most <= 10, `${most}`);
    const last = await c.find().toArray();
    assert.equal(last.length, 10);
    for (let w = 0; w < 16; w++) {
      const of = last.filter((d) => d.w === w).map((d) => d.i);
      assert.deepEqual(of, [...of].sort((a, b) => a - b));
    }
    await valid(db, 'racing');
  });

  test('collMod makes it smaller and larger; what is too much goes with the next insert', async () => {
    const c = await db.createCollection('resized', {capped: true, size: 1 << 20, max: 100});
    await c.insertMany(Array.from({length: 100}, (_, _id) => ({_id})));
    await db.command({collMod: 'resized', cappedMax: 10});
    assert.deepEqual(await c.options(), {capped: true, size: 1 << 20, max: 10});
    await c.insertOne({_id: 'new'});
    assert.deepEqual(ids(await c.find().toArray()), [91, 92, 93, 94, 95, 96, 97, 98, 99, 'new']);
    await db.command({collMod: 'resized', cappedMax: 0, cappedSize: 4096});
    assert.deepEqual(await c.options(), {capped: true, size: 4096, max: 2147483647});
    await c.insertMany(Array.from({length: 1000}, (_, i) => ({_id: 1000 + i})));
    assert.ok((await db.command({collStats: 'resized'})).size <= 4096);
    await db.collection('plain2').insertOne({});
    assert.equal(await codeOf(() => db.command({collMod: 'plain2', cappedSize: 4096})), 72);
    await valid(db, 'resized');
  });

  test('cloneCollectionAsCapped copies the newest; the source stays as it is', async () => {
    const c = db.collection('cloned');
    await c.insertMany(Array.from({length: 100}, (_, _id) => ({_id, s: 'x'.repeat(80)})));
    await db.command({cloneCollectionAsCapped: 'cloned', toCollection: 'clone', size: 5000});
    const found = ids(await db.collection('clone').find().toArray());
    assert.ok(found.length > 20 && found.length < 60, `${found.length}`);
    assert.deepEqual(found, Array.from({length: found.length}, (_, i) => 100 - found.length + i));
    assert.equal(await db.collection('clone').isCapped(), true);
    assert.equal(await c.isCapped(), false);
    assert.equal(await c.countDocuments(), 100);
    await valid(db, 'clone');
    for (const [command, code] of [
      [{cloneCollectionAsCapped: 'cloned', toCollection: 'clone', size: 5000}, 48],
      [{cloneCollectionAsCapped: 'nowhere', toCollection: 'clone2', size: 5000}, 26],
      [{cloneCollectionAsCapped: 'cloned', toCollection: 'clone2'}, 40414],
      [{cloneCollectionAsCapped: 'cloned', size: 5000}, 40414],
    ]) assert.equal(await codeOf(() => db.command(command)), code, JSON.stringify(command));
  });

  test('convertToCapped keeps the newest, in their order', async () => {
    const c = db.collection('converted');
    await c.insertMany(Array.from({length: 200}, (_, _id) => ({_id, s: 'x'.repeat(80)})));
    await c.createIndex({s: 1});
    await db.command({convertToCapped: 'converted', size: 5000});
    assert.equal(await c.isCapped(), true);
    const found = ids(await c.find().toArray());
    assert.ok(found.length > 20 && found.length < 60, `${found.length}`);
    assert.deepEqual(found, Array.from({length: found.length}, (_, i) => 200 - found.length + i));
    assert.deepEqual((await c.indexes()).map((i) => i.name), ['_id_']);
    await valid(db, 'converted');
    assert.equal(await codeOf(() => db.command({convertToCapped: 'nowhere', size: 2000})), 26);
    assert.deepEqual((await db.listCollections({name: /^tmp/}).toArray()), []);
  });

  test('a rename, a drop and a transaction', async () => {
    const c = await db.createCollection('first', {capped: true, size: 4096, max: 2});
    await c.insertMany([{_id: 2}, {_id: 1}]);
    await c.rename('second');
    const second = db.collection('second');
    await second.insertOne({_id: 0});
    assert.deepEqual(ids(await second.find().toArray()), [1, 0]);
    const session = client.startSession();
    session.startTransaction();
    assert.equal(await codeOf(() => second.insertOne({_id: 9}, {session})), 263);
    await session.abortTransaction();
    session.startTransaction();
    assert.deepEqual(ids(await second.find({}, {session}).toArray()), [1, 0]);
    await session.commitTransaction();
    await session.endSession();
    await second.drop();
    await db.createCollection('second');
    assert.equal(await second.isCapped(), false);
  });

  test('change streams tell what goes', async () => {
    const c = await db.createCollection('watched', {capped: true, size: 4096, max: 1});
    const stream = c.watch();
    await stream.tryNext();
    await c.insertOne({_id: 1});
    await c.insertOne({_id: 2});
    const events = [await stream.next(), await stream.next(), await stream.next()];
    assert.deepEqual(events.map((e) => [e.operationType, e.documentKey._id]), [['insert', 1], ['insert', 2], ['delete', 1]]);
    await stream.close();
  });

  test('tailable cursors: what is refused', async () => {
    const plain = db.collection('plain');
    await plain.insertOne({_id: 'there'});
    const find = (command) => codeOf(() => db.command({find: 'tailed', filter: {}, tailable: true, ...command}));
    await (await db.createCollection('tailed', {capped: true, size: 1 << 20})).insertOne({_id: 0});
    assert.equal(await find({find: 'plain'}), 2);
    assert.equal(await find({sort: {_id: 1}}), 2);
    assert.equal(await find({sort: {$natural: -1}}), 2);
    assert.equal(await find({singleBatch: true}), 2);
    assert.equal(await codeOf(() => db.command({find: 'tailed', awaitData: true})), 9);
    // An empty collection: the cursor is over at once.
    await db.createCollection('hollow', {capped: true, size: 4096});
    assert.equal(Number((await db.command({find: 'hollow', tailable: true})).cursor.id), 0);
  });

  test('a tailable cursor goes on with what comes, filtered and projected, and ends at its limit', async () => {
    const c = await db.createCollection('tail', {capped: true, size: 1 << 20});
    await c.insertMany([{_id: 1, a: 1}, {_id: 2, a: 0}]);
    const first = await db.command({find: 'tail', tailable: true, filter: {a: 1}, projection: {a: 0}, sort: {$natural: 1}});
    assert.deepEqual(first.cursor.firstBatch, [{_id: 1}]);
    const more = async () => (await db.command({getMore: first.cursor.id, collection: 'tail'})).cursor;
    assert.deepEqual((await more()).nextBatch, []);
    await c.insertMany([{_id: 3, a: 0}, {_id: 4, a: 1}, {_id: 5, a: 1}]);
    const next = await until('two more', async () => {
      const {nextBatch} = await more();
      return nextBatch.length > 0 && nextBatch;
    });
    assert.deepEqual(next, [{_id: 4}, {_id: 5}]);
    const limited = await db.command({find: 'tail', tailable: true, skip: 1, limit: 2});
    assert.deepEqual(ids(limited.cursor.firstBatch), [2, 3]);
    assert.equal(Number(limited.cursor.id), 0);
    assert.equal(await codeOf(() => db.command({getMore: first.cursor.id, collection: 'tail', maxTimeMS: 10})), 2);
  });

  test('awaitData: a hundred cursors wait at once and all see every insert in order', async () => {
    const c = await db.createCollection('awaited', {capped: true, size: 1 << 20});
    await c.insertOne({_id: -1});
    const wide = await node.client({driver: {maxPoolSize: 150}});
    try {
      const readers = Array.from({length: 100}, async () => {
        const cursor = wide.db('capped').collection('awaited').find({}, {tailable: true, awaitData: true, maxAwaitTimeMS: 20000});
        const seen = [];
        for await (const d of cursor) {
          seen.push(d._id);
          if (d._id === 59) break;
        }
        await cursor.close();
        return seen;
      });
      await until('they wait', async () => (await db.admin().command({serverStatus: 1})).metrics.cursor.open.total >= 100);
      await Promise.all(Array.from({length: 4}, async (_, w) => {
        for (let i = 0; i < 14; i++) await c.insertOne({_id: 100 + w * 14 + i});
      }));
      await c.insertOne({_id: 59});
      const order = ids(await c.find().toArray());
      assert.equal(order.length, 58);
      for (const seen of await Promise.all(readers)) assert.deepEqual(seen, order);
    } finally {
      await wide.close();
    }
  });

  test('a cursor whose document has gone dies', async () => {
    const c = await db.createCollection('overtaken', {capped: true, size: 1 << 20, max: 3});
    await c.insertMany([{_id: 1}, {_id: 2}]);
    const tail = await db.command({find: 'overtaken', tailable: true, awaitData: true});
    const plain = await db.command({find: 'overtaken', batchSize: 1});
    await c.insertMany([3, 4, 5, 6].map((_id) => ({_id})));
    assert.equal(await codeOf(() => db.command({getMore: tail.cursor.id, collection: 'overtaken'})), 136);
    assert.equal(await codeOf(() => db.command({getMore: plain.cursor.id, collection: 'overtaken'})), 136);
    assert.equal(await codeOf(() => db.command({getMore: tail.cursor.id, collection: 'overtaken'})), 43);
    const dropped = await db.command({find: 'overtaken', tailable: true, awaitData: true});
    const waiting = codeOf(() => db.command({getMore: dropped.cursor.id, collection: 'overtaken', maxTimeMS: 30000}));
    await c.drop();
    assert.ok([43, 175, 237, 11601].includes(await waiting));
  });

  test('a killed storage: order and bounds are as they were', async () => {
    const c = await db.createCollection('crashed', {capped: true, size: 1 << 20, max: 50});
    for (const _id of shuffled(100)) await c.insertOne({_id});
    await c.updateMany({}, {$set: {a: 1}});
    const order = ids(await c.find().toArray());
    const before = await node.kill('storaged');
    await until('storage is back', async () => {
      const now = await node.worker('storaged');
      return now.state === 'running' && now.starts > before.starts;
    });
    assert.deepEqual(ids(await c.find().toArray()), order);
    await c.insertOne({_id: 'later'});
    assert.deepEqual(ids(await c.find().toArray()), [...order.slice(1), 'later']);
    await valid(db, 'crashed');
  });
});

describe('three nodes', () => {
  let set, client;
  before(async () => {
    set = await Cluster.start();
    client = await set.client();
  }, {timeout: 300000});
  after(async () => await set?.stop(), {timeout: 60000});

  async function everywhere(name, expected) {
    for (const node of set.names) {
      const own = await set.client({node, driver: {readPreference: 'secondaryPreferred'}});
      const of = own.db('capped');
      assert.deepEqual(ids(await of.collection(name).find().toArray()), expected, node);
      assert.equal((await of.collection(name).options()).capped, true);
      await valid(of, name);
      await own.close();
    }
  }

  test('the same order everywhere, applied and copied; a tailable cursor on a secondary', {timeout: 300000}, async () => {
    const db = client.db('capped');
    const c = await db.createCollection('log', {capped: true, size: 1 << 20, max: 60});
    await c.createIndex({a: 1});
    await Promise.all(Array.from({length: 4}, async (_, w) => {
      for (let i = 0; i < 40; i++) await c.insertOne({_id: `${(i * 31) % 40}-${w}`, a: i});
    }));
    await c.updateMany({a: {$gt: 30}}, {$set: {b: 'x'.repeat(50)}});
    await c.deleteMany({a: 39});
    // Beside it a time-series collection, whose order is by time.
    const series = await db.createCollection('series', {timeseries: {timeField: 't', metaField: 'm'}});
    await series.insertMany(shuffled(300).map((v) => ({t: new Date(v * 1000), m: v % 3, v, _id: v % 10})));
    await series.updateMany({m: 1}, {$set: {m: 'one'}});
    await series.deleteMany({v: {$lt: 5}});
    const measured = await series.find().toArray();
    assert.deepEqual(measured.map((d) => d.v), Array.from({length: 295}, (_, i) => i + 5));
    const seriesEverywhere = async () => {
      for (const node of set.names) {
        const own = await set.client({node, driver: {readPreference: 'secondaryPreferred'}});
        const of = own.db('capped').collection('series');
        assert.deepEqual(await of.find().toArray(), measured, node);
        assert.deepEqual(await of.find({m: 'one', t: {$lt: new Date(8000)}}).hint('m_1_t_1').map((d) => d.v).toArray(), [7]);
        await valid(own.db('capped'), 'series');
        await own.close();
      }
    };
    let order = ids(await c.find().toArray());
    await set.equal('capped');
    await everywhere('log', order);
    await seriesEverywhere();

    const primary = await set.primary();
    const other = set.names.find((name) => name !== primary);
    const since = set.log(other).split('has its copy and follows').length;
    const tail = (await set.client({node: other, driver: {readPreference: 'secondaryPreferred'}})).db('capped')
      .collection('log').find({}, {tailable: true, awaitData: true, maxAwaitTimeMS: 5000});
    for (let i = 0; i < order.length; i++) assert.equal((await tail.next())._id, order[i]);
    const next = tail.next(); // on a secondary, and it waits
    await c.insertOne({_id: 'seen by the tail', a: 0}, {writeConcern: {w: 'majority'}});
    assert.equal((await next)._id, 'seen by the tail');
    await tail.close();
    order = ids(await c.find().toArray());

    await set.vedctl(primary, 'replication', 'force-sync', other);
    await until('it has its copy', () => set.log(other).split('has its copy and follows').length > since, 120000);
    await set.whole();
    await set.equal('capped');
    await everywhere('log', order);
    await seriesEverywhere();
    for (let i = 0; i < 70; i++) await c.insertOne({_id: `after ${(i * 17) % 70}`, a: i});
    order = ids(await c.find().toArray());
    assert.equal(order.length, 60);
    await set.equal('capped');
    await everywhere('log', order);
  });
});
