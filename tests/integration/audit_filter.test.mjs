// audit_filter.test.mjs — audit.filter as MongoDB's auditLog has it, reads where it asks for them, retention behind signed tombstones.
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {Node, codeOf, until} from '../support/node.mjs';

const verifier = path.resolve(import.meta.dirname, '../audit/verify.py');
// From MongoDB's manual: kinds, logins of one database, roles; reads and writes of one collection.
const filter = {
  $or: [
    {atype: {$in: ['createCollection', 'dropCollection']}},
    {atype: 'authenticate', 'param.db': 'shop'},
    {atype: 'createUser', roles: {role: 'root', db: 'admin'}},
    {atype: 'authCheck', 'param.ns': 'shop.seen', 'param.command': {$in: ['find', 'aggregate']}},
    {atype: 'authCheck', result: {$ne: 0}},
    {atype: 'insert', 'param.ns': {$regex: '^shop[.]se'}},
  ],
};
let node, client;

before(async () => {
  node = await Node.start({set: [`audit.filter=${JSON.stringify(filter)}`, 'audit.reads=true', 'audit.segment_size=65536', 'audit.retention_size=150000']});
  client = await node.client();
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const search = async (...conditions) =>
  await until(`an answer to ${conditions}`, async () => node.vedctl('--json', 'audit', 'search', ...conditions, 'limit=1000').then((r) => JSON.parse(r.stdout).records.map((one) => one.event), () => false));

test('explain names what is kept', async () => {
  const {reads, kinds} = JSON.parse((await node.vedctl('--json', 'audit', 'explain')).stdout);
  assert.equal(reads, true);
  const kept = kinds.filter((k) => k.kept).map((k) => k.atype);
  for (const atype of ['createCollection', 'dropCollection', 'auditGap', 'workerEnded', 'rollback']) assert.ok(kept.includes(atype), atype);
  for (const atype of ['update', 'delete', 'logout', 'startup', 'setParameter']) assert.ok(!kept.includes(atype), atype);
  await assert.rejects(Node.start({set: ['audit.filter={atype:']}), /audit.filter is no JSON document/);
});

test('what it takes is in the log, and nothing else', async () => {
  const db = client.db('shop');
  await db.createCollection('seen');
  await db.collection('seen').insertOne({_id: 1});
  await db.collection('other').insertOne({_id: 1});
  await db.collection('seen').updateOne({_id: 1}, {$set: {a: 1}});
  await db.collection('seen').findOne({_id: 1});
  await db.collection('seen').aggregate([{$match: {}}]).toArray();
  await db.collection('other').findOne({_id: 1});
  await db.command({createUser: 'reader', pwd: 'reader-password', roles: ['read']});
  const url = new URL(node.uri.replace('mongodb:', 'http:'));
  Object.assign(url, {username: 'reader', password: 'reader-password'});
  const reader = await node.client({uri: url.href.replace('http:', 'mongodb:') + '&authSource=shop'});
  assert.equal(await codeOf(() => reader.db('shop').collection('other').insertOne({})), 13);
  await reader.close();
  await db.dropCollection('other');
  await until('the last one is sealed', async () => (await search('atype=dropCollection', 'ns=shop.other')).length === 1);
  const events = (await search('since=0')).filter((e) => !['operator', 'workerStarted', 'workerEnded', 'configuration', 'keyCreate', 'keysHandedOut'].includes(e.atype));
  const seen = events.map((e) => [e.atype, e.param.command, e.param.ns ?? e.param.db].filter(Boolean).join(' '));
  const once = (text) => assert.equal(seen.filter((s) => s === text).length, 1, `${text} in ${seen.join(', ')}`);
  for (const text of ['createCollection shop.seen', 'createCollection shop.other', 'insert shop.seen', 'authCheck find shop.seen', 'authCheck aggregate shop.seen', 'authCheck insert shop.other', 'dropCollection shop.other']) once(text);
  assert.ok(seen.some((s) => /^authenticate sasl\w+ shop$/.test(s)), seen.join(', '));
  assert.ok(seen.some((s) => s.startsWith('createUser ')), seen.join(', '));
  assert.ok(!seen.some((s) => /^(update|logout|startup)|authCheck find shop.other|insert shop.other$/.test(s.replace('authCheck insert shop.other', ''))), seen.join(', '));
  assert.deepEqual(events.find((e) => e.param.command === 'find').users, [{user: node.info.username, db: 'admin'}]);
});

test('what is past retention goes behind a signed tombstone', async () => {
  const c = client.db('shop').collection('second');
  const folder = path.join(node.dir, 'data/audit');
  for (let i = 0; fs.existsSync(path.join(folder, '00000001.seg')); i++) {
    assert.ok(i < 500, 'the first segment goes');
    await c.insertMany(Array.from({length: 400}, (_, n) => ({_id: `${'x'.repeat(60)}${i}-${n}`})));
  }
  const [dropped] = await until('it is said', async () => {
    const events = await search('atype=auditRetention');
    return events.length > 0 && events;
  });
  assert.ok(dropped.param.lastSegment >= 1);
  const verdict = await until('an answer', () => node.vedctl('--json', 'audit', 'verify').then((r) => JSON.parse(r.stdout), () => false));
  assert.equal(verdict.good, true);
  assert.ok(verdict.firstSegment > 1);
  await client.close();
  client = null;
  await node.down();
  execFileSync('python3', [verifier, folder, '--kek', path.join(node.dir, 'kek')]);
  // Without its tombstone the loss would be found.
  const segments = fs.readdirSync(folder).filter((f) => f.endsWith('.seg')).sort();
  fs.renameSync(path.join(folder, segments[0]), path.join(node.dir, 'gone'));
  assert.throws(() => execFileSync('python3', [verifier, folder], {stdio: 'pipe'}), (e) => /WRONG/.test(e.stdout));
  fs.renameSync(path.join(node.dir, 'gone'), path.join(folder, segments[0]));
  await node.up();
});
