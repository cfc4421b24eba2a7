// rotation_cluster.test.mjs — rotations of keys while members copy: one that loads its first copy, and one whose copy is made anew, while
// their source rotates, and they themselves are told to; storaged is killed in the middle. Each node has keys of its own: a copy that is read
// holds its source's old key, and what a load writes is under the receiver's.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import {after, afterEach, before, beforeEach, test} from 'node:test';
import {Cluster, Workload} from '../support/cluster.mjs';
import {until} from '../support/node.mjs';

const COUNT = 8000; // of 1 KB: at the rates of below a rotation, and a copy, last as long as a test wants it
const SLOW = '100KB', slow = (bytesPerSecond) => ({hold: false, bytesPerSecond});
let set, client, primary, members, load, loads = 0;

// A copy that nobody reads any more holds up no rotation: left to its own time it would, for 5 minutes.
const WAIT_MS = 200000;

const status = async (name) => JSON.parse((await set.vedctl(name, 'keys', 'status', '--json')).stdout);
const rotation = async (name) => (await status(name).catch(() => ({rotation: {}}))).rotation; // a node that starts answers nothing
const rotate = async (name, rate = SLOW) => await set.vedctl(name, 'keys', 'rotate', '--rate', rate, '--max-latency-rise', '0');
const unthrottled = async (name) => await set.vedctl(name, 'keys', 'throttle', '--rate', '0').catch(() => {}); // it may have ended
const reached = async (name, what, check) => {
  let now;
  try {
    return await until(`${name}: ${what}`, async () => {
      now = await rotation(name);
      assert.notEqual(now.state, 'failed', now.note);
      return check(now) && now;
    }, WAIT_MS);
  } catch (e) {
    throw new Error(`${e.message}: ${JSON.stringify(now)}`);
  }
};
const moves = async (name) => await reached(name, 'blocks are moved', (now) => now.state === 'reencrypting' && now.blocks > 3);
const completed = async (name) => await reached(name, 'completed', (now) => now.state === 'completed');
const said = (name, text) => set.log(name).split(text).length - 1;
/** Waits until the log says it once more than at the call of this. */
const next = (name, text) => {
  const before = said(name, text);
  return async () => await until(`${name}: ${text}`, () => said(name, text) > before, 120000);
};

/** The keys of before are of no use any more. */
async function rotated(name) {
  const {keys} = await status(name);
  assert.deepEqual([...new Set(keys.slice(0, -1).map((k) => k.state)), keys.at(-1).state], ['destroyed', 'active'], name);
  await set.vedctl(name, 'keys', 'verify'); // exits with 0 only when old keys have no block
}

/** What must hold behind each of the two. */
async function well() {
  await set.whole();
  await load.more(20);
  await load.stop();
  for (const db of ['big', 'load']) await set.equal(db);
  assert.deepEqual(await load.lost(), []);
  for (const name of set.names) {
    assert.doesNotMatch(set.log(name), /level=fatal|a step of a rotation of keys failed|scrub|is not what it must be/, name);
    const one = await set.client({node: name, driver: {readPreference: 'secondaryPreferred'}});
    assert.equal(await one.db('big').collection('c').countDocuments(), COUNT, name);
    assert.equal((await one.db('big').command({validate: 'c'})).valid, true, name);
    await one.close();
  }
}

before(async () => {
  set = await Cluster.start({network: true});
  client = await set.client();
  primary = await set.primary();
  members = set.names.filter((name) => name !== primary);
  const c = client.db('big').collection('c');
  await c.createIndex({a: 1});
  for (let k = 0; k < COUNT; k += 1000)
    await c.insertMany(Array.from({length: 1000}, (_, i) => ({_id: k + i, a: (k + i) % 97, pad: 'x'.repeat(900)})), {writeConcern: {w: 1}});
  await set.whole();
}, {timeout: 120000});
beforeEach(() => {
  load = new Workload(client.db('load').collection(`c${++loads}`), {writers: 2});
});
afterEach(async () => await load.stop());
after(async () => {
  await set?.stop();
}, {timeout: 60000});

test('a member that is empty loads its first copy: from a source that rotates, and rotates itself', {timeout: 900000}, async () => {
  const [name] = members;
  const emptied = () => {
    fs.rmSync(path.join(set.folder(name), 'data'), {recursive: true});
    fs.rmSync(path.join(set.folder(name), 'log'));
  };
  await set.stopNode(name);
  emptied();
  await rotate(primary);
  await moves(primary);
  const dropped = next(primary, 'msg="a copy that its reader has given up is dropped"');
  set.network.set(primary, name, slow(1e6));
  await set.startNode(name);
  await until('it loads', () => said(name, 'msg="a load begins"') > 0);
  // It dies, and loses what it had: it asks for another copy, and the first is of no use.
  await set.killNode(name);
  emptied();
  const came = () => set.network.count(primary, name).bytes, start = came();
  const part = async (bytes) => await until('a part of it came', () => came() - start > bytes);
  await set.startNode(name);
  await until('it loads another one', () => said(name, 'msg="a load begins"') > 0);
  await dropped();
  await part(2.2e6);
  // Cut off, its copy stands half loaded, for as long as it takes; so does the checkpoint that it is read from.
  set.partition(primary, name);
  await unthrottled(primary);
  await reached(primary, 'waits for the copy', (now) => now.state === 'reencrypting' && now.note.startsWith('waits for the end of a copy'));
  await rotate(name, '0');
  await completed(name);
  assert.equal((await rotation(primary)).state, 'reencrypting');
  await rotated(name);
  await rotate(name); // once more, while it goes on
  await moves(name);
  set.network.set(name, primary, {hold: false});
  set.network.set(primary, name, slow(3e5));
  await part(2.5e6);
  assert.equal((await rotation(name)).state, 'reencrypting');
  const {starts} = await set.killWorker(name, 'storaged');
  await set.workerBack(name, 'storaged', starts);
  assert.equal(said(name, 'msg="a load has ended"'), 0);
  await unthrottled(name);
  set.heal();
  await until('it has loaded all', () => said(name, 'msg="a load has ended"') > 0, 120000);
  assert.equal(said(name, 'msg="a load begins"'), 1, 'it went on');
  for (const each of [primary, name]) await completed(each);
  for (const each of [primary, name]) await rotated(each);
  await well();
});

test('one is told to load everything anew while it rotates, and so does its source', {timeout: 900000}, async () => {
  const [, name] = members;
  for (const each of [primary, name]) await rotate(each);
  for (const each of [primary, name]) await moves(each);
  const begins = next(name, 'msg="a load begins"'), ends = next(name, 'msg="a load has ended"');
  set.network.set(primary, name, slow(3e5));
  await set.vedctl(primary, 'replication', 'force-sync', name);
  await begins();
  for (const each of [primary, name]) {
    assert.equal((await rotation(each)).state, 'reencrypting', each);
    await unthrottled(each);
  }
  set.heal();
  await ends();
  for (const each of [primary, name]) await completed(each);
  for (const each of [primary, name]) await rotated(each);
  await well();
});
