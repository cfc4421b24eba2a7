// copies.test.mjs — a copy between members that is cut again and again: connections, storaged of the receiver, its replicad. It is one
// copy, that goes on where it was, and it comes out equal.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import {after, before, describe, test} from 'node:test';
import {Cluster} from '../support/cluster.mjs';
import {until} from '../support/node.mjs';

const MB = Number(process.env.VD_TEST_COPY_MB ?? 200);
const seed = process.env.VD_TEST_SEED ?? crypto.randomBytes(4).toString('hex');
let set, client, primary, receiver, written;

/** Documents of about 2 KB that don't compress to nothing, the same for the same seed. */
function* documents(count) {
  for (let i = 0; i < count; i++) {
    const key = crypto.createHash('sha256').update(`${seed} ${i >> 6}`).digest();
    yield {_id: i, n: i, s: crypto.createHash('sha512').update(key).digest('hex').repeat(14), tags: [i % 7, `${i}`]};
  }
}

async function fill(collection, count) {
  let batch = [];
  for (const d of documents(count)) {
    batch.push(d);
    if (batch.length < 1000) continue;
    await collection.insertMany(batch, {writeConcern: {w: 1}});
    batch = [];
  }
  if (batch.length > 0) await collection.insertMany(batch, {writeConcern: {w: 1}});
}

const said = (name, text) => set.log(name).split('\n').filter((line) => line.includes(text));
const positions = (lines) => [...new Set(lines.map((line) => /position=(\w+)/.exec(line)[1]))];
const came = () => set.network.count(primary, receiver).bytes;

/** Since the last call: what the receiver's log says. */
function logMark() {
  const from = {};
  for (const text of ['a snapshot is open', 'a load begins', 'a load goes on', 'it goes on', 'has its copy and follows']) from[text] = said(receiver, text).length;
  return (text) => said(receiver, text).slice(from[text]);
}

describe('copies', () => {
  before(async () => {
    console.error(`seed ${seed}`);
    // Slow enough to be cut where the test wants it.
    set = await Cluster.start({network: true, set: ['replication.snapshot_rate=24MB']});
    client = await set.client({driver: {retryWrites: true}});
    primary = await set.primary();
    receiver = set.names.find((name) => name !== primary);
    written = (MB * 1000) / 2;
    await fill(client.db('big').collection('c'), written);
    await client.db('big').collection('small').insertMany(Array.from({length: 300}, (_, i) => ({_id: `k${i}`})));
    await client.db('big').createCollection('empty');
    await set.whole();
  }, {timeout: 300000});
  after(async () => await set?.stop(), {timeout: 60000});

  test('one that is cut ten times, and its receiver\'s storaged and replicad are killed', {timeout: 400000}, async () => {
    const since = logMark();
    const start = came();
    const step = (MB * 1e6) / 14;
    const passed = async (n) => await until(`${n} of 14 parts came`, () => came() - start > n * step, 120000);
    await set.vedctl(primary, 'replication', 'force-sync', receiver);
    for (let n = 1; n <= 12; n++) {
      await passed(n);
      assert.equal(since('has its copy and follows').length, 0, `cut ${n} comes too late`);
      if (n === 11) {
        const before = await set.killWorker(receiver, 'storaged');
        await set.workerBack(receiver, 'storaged', before.starts);
      } else if (n === 6) {
        const before = await set.killWorker(receiver, 'replicad');
        await set.workerBack(receiver, 'replicad', before.starts);
      } else {
        set.network.cut(primary, receiver);
      }
    }
    await client.db('big').collection('c').insertOne({_id: 'meanwhile'}); // above the copy's position
    await until('the copy is whole', () => since('has its copy and follows').length > 0, 240000);
    await set.whole();
    await set.equal('big');
    assert.ok(since('it goes on').length >= 8, 'it was cut');
    // One copy all along: opened once, found again by a replicad that had started anew.
    assert.ok(since('a snapshot is open').length >= 2);
    assert.equal(positions(since('a snapshot is open')).length, 1, 'another copy was begun');
    assert.equal(since('a load begins').length, 1, 'the load began anew');
    assert.ok(since('a load goes on').length >= 1);
    assert.equal(await client.db('big').collection('c').countDocuments(), written + 1);
  });

  test('one whose source has forgotten it begins anew', {timeout: 300000}, async () => {
    const since = logMark();
    const start = came();
    await set.vedctl(primary, 'replication', 'force-sync', receiver);
    await until('a part of it came', () => came() - start > 20e6, 60000);
    const before = await set.killWorker(primary, 'storaged');
    await set.workerBack(primary, 'storaged', before.starts);
    await until('the copy is whole', () => since('has its copy and follows').length > 0, 240000);
    await set.whole();
    await set.equal('big');
    assert.ok(positions(since('a snapshot is open')).length >= 2, 'another copy');
    assert.ok(since('a load begins').length >= 2, 'from its beginning');
  });
});
