// A rotation of keys under a load of writers and readers: storage, the key holder and the whole node are killed in the middle; it goes
// on by itself and ends Completed, nothing acknowledged is lost, and the old key is of no use to what is there now, nor today's
// keyring to what was there before. The long form: `./dev chaos --rotation`.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {eraseBlocks, searchOld} from '../support/blocks.mjs';
import {Node, codeOf, foundInFiles, sleep, until} from '../support/node.mjs';

const FIRST = 4000;
const MARK = 'Siebzehn-Eisvögel-4711';
let node, client;
before(async () => {
  node = await Node.start();
  client = await node.client();
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const status = async () => JSON.parse((await node.vedctl('--json', 'keys', 'status')).stdout);
/** The state of the rotation; undefined while nobody answers. */
async function rotation() {
  try {
    return (await status()).rotation;
  } catch {
    return undefined; // it starts
  }
}
const reached = (states, ms = 60000) =>
  until(`the rotation is ${states}`, async () => {
    const now = await rotation();
    assert.notEqual(now?.state, 'failed', now?.note);
    return states.includes(now?.state) && now;
  }, ms);

/** Writers that count what was acknowledged; a reader that wants to see no value go back. */
class Load {
  stopped = false;
  acknowledged = new Set();
  counts = [0, 0];
  errors = [];
  run() {
    this.tasks = [this.writer(0), this.writer(1), this.reader()];
  }
  async writer(w) {
    const c = client.db('rotate').collection('load');
    await c.insertOne({_id: `n${w}`, n: 0});
    for (let i = 0; !this.stopped; i++) {
      try {
        await c.insertOne({_id: `${w}-${i}`, a: i, pad: 'y'.repeat(300)});
        this.acknowledged.add(`${w}-${i}`);
        await c.updateOne({_id: `n${w}`}, {$inc: {n: 1}});
        this.counts[w]++;
        await client.db('rotate').collection('first').updateOne({_id: (i * 7 + w) % FIRST}, {$set: {seen: i}});
      } catch (e) {
        if (!this.stopped) this.errors.push(`${e.name} ${e.code} ${e.message}`);
        await sleep(5); // a driver may refuse at once, without a turn of the loop
      }
    }
  }
  async reader() {
    let last = 0;
    while (!this.stopped) {
      try {
        const d = await client.db('rotate').collection('load').findOne({_id: 'n0'});
        if (d && d.n < last) this.errors.push(`went back from ${last} to ${d.n}`);
        last = d?.n ?? last;
      } catch (e) {
        if (!this.tolerant && !this.stopped) this.errors.push(`read: ${e.name} ${e.code} ${e.message}`);
      }
      await sleep(1);
    }
  }
  async stop() {
    this.stopped = true;
    await Promise.all(this.tasks);
  }
}

test('under load and through kills: nothing is lost, and it ends', async () => {
  const first = client.db('rotate').collection('first');
  await first.createIndex({a: 1});
  await client.db('rotate').collection('load').createIndex({a: 1});
  for (let k = 0; k < FIRST; k += 1000)
    await first.insertMany(Array.from({length: 1000}, (_, i) => ({_id: k + i, a: i, mark: MARK, pad: 'x'.repeat(900)})));
  await client.db('rotate').createCollection('capped', {capped: true, size: 100000});
  await client.db('rotate').collection('capped').insertMany([{_id: 1}, {_id: 2}]);
  await client.db('rotate').createCollection('empty');
  await node.down(); // an old copy: what a backup of the folder would have
  const old = path.join(node.dir, 'old');
  const root = path.join(node.dir, 'data');
  fs.cpSync(root, old, {recursive: true});
  await node.up();
  const load = new Load();
  load.run();
  await until('the load runs', () => load.counts.every((n) => n > 20));
  const admin = client.db('admin');
  assert.equal(await codeOf(() => client.db('rotate').command({rotateKey: 1})), 13); // of the admin database alone
  const begun = await admin.command({rotateKey: 1, rate: 1024 * 1024}); // so that it lasts
  await until('what is left is estimated, and told so', async () => (await admin.command({rotationStatus: 1})).blocksLeftEstimated);
  assert.equal(begun.ok, 1);
  assert.equal(await codeOf(() => admin.command({rotateKey: 1})), 90090); // one at a time
  assert.equal((await admin.command({rotationStatus: 1})).ok, 1);
  await until('blocks were moved', async () => ((await rotation())?.blocks ?? 0) > 5);
  await node.kill('storaged');
  await until('it goes on', async () => (await rotation())?.attached);
  await node.kill('rotated');
  await until('it goes on', async () => (await rotation())?.attached);
  load.tolerant = true;
  node.killSupervisor(); // and all with it
  await node.up();
  await until('it goes on', async () => (await rotation())?.attached);
  await node.vedctl('keys', 'throttle', '--rate', '0', '--max-latency-rise', '0').catch(() => {}); // it may have ended
  await reached(['completed'], 60000);
  await load.stop();
  assert.deepEqual(load.errors.filter((e) => e.startsWith('went back')), []);
  const {keys} = await status();
  assert.deepEqual(keys.map((k) => k.state), ['destroyed', 'active']);
  await node.vedctl('keys', 'verify'); // exits with 0 only when old keys have no block
  const c = client.db('rotate').collection('load');
  const there = new Set((await c.find({}, {projection: {_id: 1}}).toArray()).map((d) => d._id));
  for (const id of load.acknowledged) assert.ok(there.has(id), `${id} is lost`);
  for (const w of [0, 1]) assert.ok((await c.findOne({_id: `n${w}`})).n >= load.counts[w], 'an increment is lost');
  assert.equal(await first.countDocuments({}), FIRST);
  for (const name of ['first', 'load', 'capped', 'empty'])
    assert.equal((await client.db('rotate').command({validate: name, full: true})).valid, true, name);
  // In the raw bytes the old key stands at blocks of tables alone, and those nobody needs: without them all is as before.
  await node.down();
  const before = searchOld(old, [keys[0].id]), now = searchOld(root, [keys[0].id]);
  for (const kind of ['table', 'log', 'file']) assert.ok(before.blocks.some((b) => b.kind === kind), `the search finds it in a ${kind} of before`);
  assert.deepEqual(now.elsewhere, []);
  assert.deepEqual(now.blocks.filter((b) => b.kind !== 'table'), []);
  for (const folder of [old, root]) assert.deepEqual(foundInFiles(folder, MARK), []);
  eraseBlocks(now.blocks);
  await node.up();
  assert.equal(await first.countDocuments({mark: MARK}), FIRST);
  for (const name of ['first', 'load', 'capped', 'empty'])
    assert.equal((await client.db('rotate').command({validate: name, full: true})).valid, true, name);
  await node.vedctl('keys', 'verify');
  // Today's keyring does not open what was copied before.
  await node.down();
  const data = path.join(root, 'data'), today = path.join(node.dir, 'today');
  fs.renameSync(data, today);
  fs.cpSync(path.join(old, 'data'), data, {recursive: true});
  await assert.rejects(node.up());
  assert.match(node.log(), /needs data key version 1/);
  fs.rmSync(data, {recursive: true});
  fs.renameSync(today, data);
  await node.up();
  assert.equal(await first.countDocuments({}), FIRST);
});
