// tests/tsan/workload.mjs FOLDER SECONDS — what a cluster that `./dev up --dir FOLDER --nodes N` started does while ThreadSanitizer looks: writers, readers,
// change streams, the oplog, schema changes, hand-overs. Fails when an operation fails otherwise than by a change of the primary.
import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {MongoClient} from 'mongodb';

const [folder, seconds] = [process.argv[2], Number(process.argv[3])];
const {uri, nodes} = JSON.parse(fs.readFileSync(path.join(folder, 'connection.json')));
const client = await new MongoClient(uri, {retryWrites: true, maxPoolSize: 20, serverSelectionTimeoutMS: 60000}).connect();
const db = client.db('tsan'), until = Date.now() + seconds * 1000, counts = {};
const majority = {writeConcern: {w: 'majority', wtimeoutMS: 60000}};

async function repeat(name, work) {
  for (let i = 0; Date.now() < until; i++) {
    try {
      await work(i);
      counts[name] = (counts[name] ?? 0) + 1;
    } catch (e) {
      const label = e.hasErrorLabel?.('RetryableWriteError') || e.hasErrorLabel?.('ResumableChangeStreamError') || [64, 189, 10107, 11600, 11602, 13435, 13436, 26, 48, 136, 175].includes(e.code) || /^Mongo(Network|Server|Pool)/.test(e.name);
      if (!label) throw e;
      counts.interrupted = (counts.interrupted ?? 0) + 1;
    }
  }
}

await Promise.all([
  ...[0, 1, 2, 3].map((w) => repeat('insert', (i) => db.collection('c').insertOne({w, i, pad: 'x'.repeat(500)}, majority))),
  repeat('update', (i) => db.collection('c').updateMany({i: i % 100}, {$inc: {n: 1}}, majority)),
  repeat('delete', (i) => db.collection('c').deleteMany({i: i % 50}, majority)),
  repeat('find', () => db.collection('c').find({}, {readPreference: 'secondaryPreferred'}).limit(500).toArray()),
  repeat('linearizable', () => db.collection('c').findOne({}, {readConcern: {level: 'linearizable'}, maxTimeMS: 10000})),
  repeat('oplog', () => client.db('local').collection('oplog.rs').find().sort({$natural: -1}).limit(50).toArray()),
  repeat('schema', async (i) => {
    await db.createCollection(`s${i}`, majority);
    await db.collection(`s${i}`).rename(`t${i}`);
    await db.collection(`t${i}`).drop(majority);
  }),
  repeat('status', () => client.db('admin').command({serverStatus: 1})),
  repeat('stream', async () => {
    const stream = db.collection('c').watch([], {maxAwaitTimeMS: 200});
    for (let i = 0; i < 20; i++) await stream.tryNext();
    await stream.close();
  }),
  repeat('hand-over', async (i) => {
    await new Promise((r) => setTimeout(r, 5000));
    const node = nodes[i % nodes.length], bin = process.env.VD_TEST_BIN;
    try {
      execFileSync(path.join(bin, 'vedctl'), ['--socket', node.controlSocket, 'replication', 'promote', node.name], {stdio: 'pipe'});
    } catch {
      // it leads already, or somebody is just elected
    }
  }),
]);
console.log(JSON.stringify(counts));
await client.close();
