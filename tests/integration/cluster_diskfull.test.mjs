// cluster_diskfull.test.mjs — a disk of one node of a replica set runs full: a replica's slows nobody and is told of, a primary's refuses
// writes by name; both go on by themselves when there is space again, and all nodes hold the same.
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {randomBytes} from 'node:crypto';
import {after, before, describe, test} from 'node:test';
import {Cluster, Workload} from '../support/cluster.mjs';
import {until} from '../support/node.mjs';

const DISK = 1500, RESERVE = 300;

const refusal = (() => {
  const at = fs.mkdtempSync(path.join(os.tmpdir(), 'vd-disk-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'veddb-test', at], {stdio: 'pipe'});
    execFileSync('umount', [at]);
    return false;
  } catch (e) {
    return `no tmpfs can be mounted here: ${String(e.stderr ?? e.message).trim()}`;
  } finally {
    fs.rmSync(at, {recursive: true, force: true});
  }
})();

describe('a disk that runs full', {skip: refusal}, () => {
  let set, client;
  const settings = [`storage.reserve=${RESERVE}MB`, 'storage.cache=32MB', 'storage.checkpoint=1s'];

  before(async () => {
    set = await Cluster.start({disks: {n1: DISK, n3: DISK}, set: ['n1', 'n3'].flatMap((name) => settings.map((s) => `${name}:${s}`))});
    client = await set.client({driver: {retryWrites: true}});
  }, {timeout: 120000});
  after(async () => await set?.stop(), {timeout: 60000});

  const pad = (n) => randomBytes(n / 2).toString('hex');
  const member = async (name) => (await set.status('n1'))?.members.find((m) => m.name === name);

  test('of a replica: nobody waits for it, it says so, and it catches up by itself', {timeout: 180000}, async () => {
    assert.equal(await set.primary(), 'n1');
    const c = client.db('replica').collection('w');
    await c.insertOne({_id: 'first'}, {writeConcern: {w: 3, wtimeoutMS: 30000}});
    const pids = (await set.workers('n3')).map((w) => w.pid);
    set.leave('n3', RESERVE - 20);
    const load = new Workload(c);
    try {
      const filler = client.db('replica').collection('filler');
      await until('it says that its disk is full', async () => {
        await filler.insertOne({pad: pad(100000)}, {writeConcern: {w: 'majority', wtimeoutMS: 10000}});
        return /disk/.test((await member('n3'))?.problem ?? '');
      }, 60000);
      for (let i = 0; i < 200; i++) await filler.insertOne({pad: pad(100000)}, {writeConcern: {w: 'majority', wtimeoutMS: 10000}});
      await load.more(200);
      assert.match((await set.vedctl('n1', 'replication', 'status')).stdout, /\n +the disk is nearly full/);
      assert.ok(set.free('n3') > RESERVE / 2, `${set.free('n3')} MB are free: the reserve is not for entries`);
      assert.deepEqual((await set.workers('n3')).map((w) => w.pid), pids, 'no process of it died');
      await assert.rejects(c.insertOne({_id: 'all'}, {writeConcern: {w: 3, wtimeoutMS: 1000}}), {code: 64});
      set.relieve('n3');
      await until('it has caught up', () => c.updateOne({_id: 'first'}, {$inc: {n: 1}}, {writeConcern: {w: 3, wtimeoutMS: 1000}}).then(() => true, () => false), 60000);
    } finally {
      await load.stop();
    }
    assert.deepEqual(load.failed, [], 'writers saw nothing of it');
    assert.deepEqual(await load.lost(), []);
    assert.equal((await member('n3')).problem ?? '', '');
    assert.deepEqual((await set.workers('n3')).map((w) => w.pid), pids);
    await set.equal('replica');
  });

  test('of the primary: writes are refused by name, and go on afterwards', {timeout: 180000}, async () => {
    assert.equal(await set.primary(), 'n1');
    const c = client.db('primary').collection('w');
    await c.insertOne({_id: 'first'}, {writeConcern: {w: 3, wtimeoutMS: 30000}});
    const pids = (await set.workers('n1')).map((w) => w.pid);
    const acknowledged = ['first'];
    const taken = async () => {
      const _id = `w${acknowledged.length}`;
      try {
        await c.insertOne({_id, pad: pad(100000)}, {writeConcern: {w: 'majority', wtimeoutMS: 10000}});
        acknowledged.push(_id);
        return true;
      } catch (e) {
        assert.equal(e.code, 14031, e.message);
        assert.match(e.message, /the disk is nearly full/);
        return false;
      }
    };
    set.leave('n1', RESERVE - 20);
    await until('writes are refused', async () => !(await taken()), 60000);
    assert.equal(await set.primary(), 'n1', 'it leads on: reads are served');
    assert.equal((await c.findOne({_id: 'first'}))._id, 'first');
    for (let i = 0; i < 20; i++) assert.equal(await taken(), false);
    set.relieve('n1');
    await until('writes are taken again', taken, 60000);
    for (let i = 0; i < 20; i++) assert.equal(await taken(), true);
    assert.deepEqual((await c.find({}, {projection: {_id: 1}}).toArray()).map((d) => d._id).sort(), [...acknowledged].sort());
    assert.deepEqual((await set.workers('n1')).map((w) => w.pid), pids, 'no process died');
    await set.whole();
    await set.equal('primary');
  });
});
