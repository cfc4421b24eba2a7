// A disk that runs full: writes are refused by name, reads go on, nothing acknowledged is lost, and space that comes back is used.
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {after, before, describe, test} from 'node:test';
import {Long} from 'mongodb';
import {Node, until} from '../support/node.mjs';

const MB = 1 << 20;
const DISK = 1500;
// Above what the engine may take in one go: a log file of 100 MB and the one that it makes in advance.
const RESERVE = 300;
const mount = fs.mkdtempSync(path.join(os.tmpdir(), 'vd-disk-'));
let mounted = false;

/** A node that a killed test left there: workers end with their supervisor. */
function endNode() {
  try {
    const pid = Number(fs.readFileSync(path.join(mount, 'n/supervisor.pid'), 'utf8'));
    if (fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(mount)) process.kill(pid, 'SIGKILL');
  } catch {
    // none runs
  }
}

function unmount() {
  if (mounted) execFileSync('umount', ['-l', mount]);
  mounted = false;
  fs.rmSync(mount, {recursive: true, force: true});
}

const refusal = (() => {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK}m,mode=0700`, 'veddb-test', mount], {stdio: 'pipe'});
    mounted = true;
    process.on('exit', () => (endNode(), unmount()));
    for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));
    return false;
  } catch (e) {
    unmount();
    return `no tmpfs can be mounted here: ${String(e.stderr ?? e.message).trim()}`;
  }
})();

const free = () => {
  const s = fs.statfsSync(mount);
  return (s.bavail * s.bsize) / MB;
};

describe('a disk that runs full', {skip: refusal}, () => {
  const ballast = path.join(mount, 'ballast');
  const acknowledged = new Set();
  let node, client, t, next = 0;

  /** Somebody else's file takes what is free, but for so many MB. */
  const leave = (mb) => {
    const fd = fs.openSync(ballast, 'a');
    for (let more = free() - mb; more > 0; more = free() - mb) fs.writeSync(fd, Buffer.alloc(Math.ceil(Math.min(more, 16) * MB), 0x55));
    fs.closeSync(fd);
  };
  const relieve = () => fs.rmSync(ballast, {force: true});

  /** Text that does not compress. */
  const noise = (n) => randomBytes(Math.ceil((n * 3) / 4)).toString('base64').slice(0, n);
  const insert = async () => {
    const _id = next++;
    await t.insertOne({_id, pad: 'x'.repeat(100000)});
    acknowledged.add(_id);
  };
  const refused = async (promise, what) => {
    const e = await promise.then((r) => assert.fail(`${what} was taken: ${JSON.stringify(r)}`), (x) => x);
    assert.equal(e.code, 14031, `${what}: ${e.message}`);
    assert.equal(e.codeName, 'OutOfDiskSpace', what);
    assert.match(e.message, /the disk is nearly full \(\d+ MB free, 300 MB kept in reserve\): writes are refused until space is freed; reads go on/, what);
  };
  const readable = async () => {
    const ids = (await t.find({}, {projection: {_id: 1}}).toArray()).map((d) => d._id);
    assert.deepEqual(ids, [...acknowledged].sort((a, b) => a - b), 'just what was acknowledged is there');
    assert.equal(await t.countDocuments({_id: {$gte: 0}}), acknowledged.size);
    assert.equal((await t.findOne({_id: ids[0]})).pad.length, 100000);
    assert.deepEqual(await t.aggregate([{$group: {_id: null, n: {$sum: 1}}}]).toArray(), [{_id: null, n: acknowledged.size}]);
    assert.deepEqual((await t.find({}, {projection: {_id: 1}}).sort({_id: -1}).limit(1).toArray()).map((d) => d._id), [ids.at(-1)]);
  };
  /** Whether a write is taken; any other refusal than that of the full disk is an error. */
  const taken = async () => {
    try {
      await insert();
      return true;
    } catch (e) {
      if (e.code !== 14031) throw e;
      return false;
    }
  };
  const writable = async () => await until('writes are taken again', taken);
  const full = async () => await until('writes are refused', async () => !(await taken()));
  const disk = async () => (await client.db('admin').command({serverStatus: 1})).veddb.disk;

  before(async () => {
    node = await Node.start({dir: path.join(mount, 'n'), set: [`storage.reserve=${RESERVE}MB`, 'storage.cache=32MB', 'storage.checkpoint=1s', 'storage.journal_max=1MB']});
    client = await node.client();
    t = client.db('full').collection('t');
    for (let i = 0; i < 20; i++) await insert();
    // To be given back later: more than the tenth of the reserve that must be free before writes are taken again.
    for (const [db, name] of [['spare', 'dropped'], ['spare', 'emptied'], ['gone', 'a'], ['gone', 'b']]) {
      await client.db(db).collection(name).insertMany([...Array(20).keys()].map((_id) => ({_id, pad: noise(1500000)})));
    }
    await client.db('long').collection('grown').insertMany([...Array(3000).keys()].map((_id) => ({_id})));
  });
  after(async () => {
    try {
      await client?.close();
      await node?.stop();
    } finally {
      unmount();
    }
  });

  test('writers fill it until they are refused, each by the same clear error; no process dies', {timeout: 120000}, async () => {
    assert.equal((await disk()).reserveReached, false);
    const pids = (await node.status()).workers.map((w) => w.pid);
    leave(RESERVE + 130); // a log file of 100 MB may be made just then
    const last = [];
    const writers = [...Array(4)].map(async () => {
      for (;;) {
        const e = await insert().then(() => undefined, (x) => x);
        if (e !== undefined) return last.push(e);
      }
    });
    await Promise.all(writers);
    for (const e of last) await refused(Promise.reject(e), 'an insert');
    assert.ok(acknowledged.size > 30, `${acknowledged.size} writes before`);
    assert.ok(free() > RESERVE / 2, `${free()} MB are free: the reserve is not for documents`);
    assert.equal((await disk()).reserveReached, true);
    assert.deepEqual((await node.status()).workers.map((w) => w.pid), pids);
  });

  test('whatever writes is refused, and nothing of it is done; reads go on', async () => {
    leave(RESERVE - 120); // also when a log file of 100 MB goes just then
    await full();
    await refused(t.insertOne({_id: 'no'}), 'insert');
    await refused(t.insertMany([{_id: 'no1'}, {_id: 'no2'}]), 'insert of many');
    await refused(t.updateOne({_id: 0}, {$set: {no: 1}}), 'update');
    await refused(t.findOneAndUpdate({_id: 0}, {$set: {no: 1}}), 'findAndModify');
    await refused(client.db('full').createCollection('another'), 'create');
    await refused(client.db('full').command({createUser: 'no', pwd: 'no', roles: []}), 'createUser');
    await readable();
    assert.equal((await t.findOne({_id: 0})).no, undefined);
    assert.deepEqual((await client.db('full').listCollections().toArray()).map((c) => c.name), ['t']);
    const other = await node.client(); // logins need no write
    assert.equal(await other.db('full').collection('t').estimatedDocumentCount(), acknowledged.size);
    await other.close();
  });

  test('a write that was done is told again to who asks again, full or not', async () => {
    relieve();
    await writable();
    const own = await node.client(); // whose sessions no other write numbers
    const session = own.startSession();
    const again = (number, _id) =>
      own.db('spare').command({insert: 'told', documents: [{_id}], txnNumber: Long.fromNumber(number)}, {session});
    assert.equal((await again(7, 1)).n, 1);
    leave(RESERVE - 20);
    await full();
    assert.deepEqual((({n, retriedStmtIds}) => ({n, retriedStmtIds}))(await again(7, 1)), {n: 1, retriedStmtIds: [0]});
    await refused(again(8, 2), 'a new one');
    assert.equal(await client.db('spare').collection('told').countDocuments(), 1);
    await session.endSession();
    await own.close();
  });

  test('deletes and drops are taken while the disk is full, and by them alone writes are possible again', {timeout: 60000}, async () => {
    const pids = (await node.status()).workers.map((w) => w.pid);
    const spare = client.db('spare');
    await refused(spare.collection('emptied').insertOne({_id: 'no'}), 'insert');
    // A log file made in advance may take more than deletions are allowed to; the next checkpoint gives an old one back.
    await until('a delete is taken', () => spare.collection('emptied').deleteOne({_id: 0}).then((r) => r.deletedCount === 1, (e) => assert.equal(e.code, 14031)));
    assert.equal((await spare.collection('emptied').deleteMany({_id: {$gte: 1}})).deletedCount, 19);
    assert.equal(await spare.collection('emptied').countDocuments(), 0);
    assert.equal(await spare.collection('dropped').drop(), true);
    assert.equal(await client.db('gone').dropDatabase(), true);
    await writable();
    assert.deepEqual((await client.db().admin().listDatabases({nameOnly: true})).databases.map((d) => d.name).filter((n) => n === 'gone'), []);
    assert.deepEqual((await node.status()).workers.map((w) => w.pid), pids);
    await readable();
  });

  test('one long command is stopped as well, before the reserve is used up', {timeout: 60000}, async () => {
    const pids = (await node.status()).workers.map((w) => w.pid);
    const grown = client.db('long').collection('grown');
    // The error, or null when the command came through: what the engine gives back meanwhile is not ours to say.
    const stopped = async (what, mb, run) => {
      relieve();
      await writable();
      leave(RESERVE + mb);
      const e = await run().then(() => null, (x) => x);
      if (e === null) return null;
      assert.equal(e.code, 14031, `${what}: ${e.message}`);
      assert.match(e.message, /the disk is nearly full/, what);
      assert.ok(free() > RESERVE / 2, `${what}: ${free()} MB are free`);
      return e;
    };
    assert.ok(await stopped('update', 40, () => grown.updateMany({}, {$set: {pad: noise(200000)}})), 'the update came through');
    const updated = await grown.countDocuments({pad: {$exists: true}});
    assert.ok(updated > 0 && updated < 3000, `${updated} were updated before`);
    await until('all of it is deleted', () => grown.deleteMany({}).then(() => true, (e) => assert.equal(e.code, 14031)));
    const docs = [...Array(150).keys()].map((_id) => ({_id, pad: noise(100000)})); // the driver sends 16 MB at once
    for (const ordered of [true, false]) {
      const many = client.db('long').collection(`ordered_${ordered}`);
      // Where a log file is made just then, the disk may be full before the first document; where one is given back, not at all.
      await until('some are inserted', async () => {
        const e = await stopped(many.collectionName, 10, () => many.insertMany(docs, {ordered}));
        const n = await many.countDocuments();
        await until('it is dropped', () => many.drop().then(() => true, (x) => assert.equal(x.code, 14031)));
        if (e === null) return assert.equal(n, docs.length) ?? false;
        assert.equal(e.result.insertedCount, n, 'what was inserted is told of');
        if (n === 0) return false;
        assert.equal(e.writeErrors[0].index, n);
        assert.equal(e.writeErrors.length, ordered ? 1 : docs.length - n);
        return true;
      });
    }
    assert.deepEqual((await node.status()).workers.map((w) => w.pid), pids);
  });

  test('storage is killed while the disk is full: reads are back, writes still refused', {timeout: 60000}, async () => {
    leave(RESERVE - 120);
    await full();
    await node.kill('storaged');
    await readable();
    await refused(t.insertOne({_id: 'no'}), 'insert');
  });

  test('the whole node is stopped and started while the disk is full', {timeout: 60000}, async () => {
    await client.close();
    await node.down();
    await node.up();
    client = await node.client();
    t = client.db('full').collection('t');
    await readable();
    leave(RESERVE - 20); // a clean stop gave the log back
    await full();
    await refused(t.insertOne({_id: 'no'}), 'insert');
    await readable();
  });

  test('below half of the reserve storage does not even open, says why, and comes back by itself', {timeout: 60000}, async () => {
    leave(RESERVE / 2 - 20);
    await readable(); // what runs goes on
    const from = node.log().length;
    await node.kill('storaged');
    await until('the refusal to open', () => /storaged.*\d+ MB free; opening the database needs 151 MB/.test(node.log().slice(from)));
    const reading = readable();
    relieve();
    await reading;
    await node.whole();
  });

  test('space that comes back is used without a restart', {timeout: 60000}, async () => {
    await writable();
    leave(RESERVE - 20);
    await full();
    const pids = (await node.status()).workers.map((w) => w.pid);
    relieve();
    await writable();
    assert.equal((await disk()).reserveReached, false);
    assert.deepEqual((await node.status()).workers.map((w) => w.pid), pids);
    await t.deleteOne({_id: 0});
    acknowledged.delete(0);
    await readable();
  });

  test('a rotation of keys waits for space, says so, and goes on when it comes', {timeout: 120000}, async () => {
    const rotation = async () => JSON.parse((await node.vedctl('keys', 'status', '--json')).stdout).rotation;
    leave(RESERVE + 20);
    await node.vedctl('keys', 'rotate', '--max-latency-rise', '0');
    await until('it waits', async () => {
      leave(RESERVE + 20); // a checkpoint may give a log file back
      return (await rotation()).note.includes('free space');
    });
    assert.equal((await rotation()).state, 'reencrypting');
    relieve();
    await until('it has ended', async () => (await rotation()).state === 'completed', 60000);
    await readable();
  });

  test('after all of that a crash loses nothing', {timeout: 60000}, async () => {
    await client.close();
    node.killSupervisor();
    await node.up();
    client = await node.client();
    t = client.db('full').collection('t');
    await readable();
    assert.equal((await client.db('full').command({validate: 't', full: true})).valid, true);
  });
});
