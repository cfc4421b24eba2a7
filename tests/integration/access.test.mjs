// access.test.mjs — every command in every state of a login, against the matrix that is checked in; and each collection that a
// pipeline touches, through the stock driver.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {Binary, Long, UUID, serialize} from 'bson';
import {MongoClient} from 'mongodb';
import {Node, until} from '../support/node.mjs';
import {Raw} from '../support/wire.mjs';

const ISSUER = 'https://issuer.example';
const matrix = new Map(fs.readFileSync(path.join(import.meta.dirname, '../unit/gatewayd/access_states.txt'), 'utf8').trim().split('\n').map((line) => {
  const [name, rest] = line.split(':');
  return [name, Object.fromEntries(rest.trim().split(' ').map((pair) => pair.split('=')))];
}));
let node, client, key;

function token(sub, seconds) {
  const b64 = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const body = `${b64({alg: 'ES256', kid: 'one'})}.${b64({iss: ISSUER, aud: 'veddb', sub, iat: now, exp: now + seconds})}`;
  return `${body}.${crypto.sign('sha256', Buffer.from(body), {key: key.privateKey, dsaEncoding: 'ieee-p1363'}).toString('base64url')}`;
}

before(async () => {
  key = crypto.generateKeyPairSync('ec', {namedCurve: 'P-256'});
  node = new Node();
  node.dir = fs.mkdtempSync('/tmp/vd-access-');
  const file = path.join(node.dir, 'jwks.json');
  fs.writeFileSync(file, JSON.stringify({keys: [{...key.publicKey.export({format: 'jwk'}), kid: 'one', use: 'sig', alg: 'ES256'}]}));
  node.set = [`oidc.issuer=${ISSUER}`, 'oidc.audience=veddb', `oidc.jwks_file=${file}`, 'gateway.login_rate=100000'];
  await node.up();
  client = await node.client();
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const LOGIN = ['saslStart', 'saslContinue', 'authenticate', 'logout', 'getnonce'];
/** What is refused as not allowed when its first field does not say of what. */
const NAMED = {dataSize: 'test.c', explain: {find: 'c'}, aggregate: 'c', find: 'c'};
/** Sends each command of the table in that state, bare; compares with the matrix. */
async function walk(state, raw, extra = () => ({})) {
  const {commands} = await client.db('admin').command({listCommands: 1});
  let count = 0;
  for (const [name, {adminOnly}] of Object.entries(commands)) {
    const expected = matrix.get(name)?.[state];
    if (expected === undefined || LOGIN.includes(name)) continue;
    const reply = await raw.run({[name]: NAMED[name] ?? 1, $db: adminOnly ? 'admin' : 'test', ...extra()});
    const code = reply.ok === 1 ? 0 : reply.code;
    if (expected !== '0' && expected !== 'roles') assert.equal(code, Number(expected), `${name}, ${state}: ${JSON.stringify(reply)}`);
    else assert.ok(![13, 391].includes(code), `${name}, ${state}: ${JSON.stringify(reply)}`);
    count++;
  }
  assert.ok(count > 80, `${count} commands`);
}

test('not logged in', async () => {
  const raw = await Raw.connect(node);
  await walk('nobody', raw);
  raw.close();
});

test('a user who was dropped', async () => {
  await client.db('admin').command({createUser: 'gone', pwd: 'pw', roles: ['root']});
  const raw = await Raw.connect(node);
  assert.equal((await raw.login('gone', 'pw')).ok, 1);
  assert.equal((await raw.run({find: 'c', $db: 'test'})).ok, 1);
  await client.db('admin').command({dropUser: 'gone'});
  await walk('dropped', raw);
  raw.close();
});

test('a token that has expired', async () => {
  await client.db('$external').command({createUser: 'oidc/short', roles: [{role: 'root', db: 'admin'}]});
  const raw = await Raw.connect(node);
  assert.equal((await raw.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(serialize({jwt: token('short', 2)})), $db: '$external'})).done, true);
  await until('it expires', async () => (await raw.run({find: 'c', $db: 'test'})).code === 391);
  await walk('expired', raw);
  raw.close();
});

test('inside a transaction', async () => {
  await client.db('test').collection('c').insertOne({_id: 1});
  const raw = await Raw.connect(node);
  assert.equal((await raw.login()).ok, 1);
  let number = 0;
  const lsid = {id: new UUID()};
  await walk('transaction', raw, () => ({lsid, txnNumber: Long.fromNumber(++number), autocommit: false, startTransaction: true}));
  raw.close();
  assert.equal(await client.db('test').collection('c').countDocuments(), 1);
});

test('each collection that a pipeline touches', async () => {
  const admin = client.db('admin');
  await client.db('shop').collection('c').insertOne({_id: 1});
  await client.db('shop').collection('secret').insertOne({_id: 1, canary: 1});
  await client.db('shop').createCollection('shown', {viewOn: 'secret', pipeline: [{$project: {_id: 1}}]});
  await admin.command({createRole: 'only', roles: [], privileges: [{resource: {db: 'shop', collection: 'c'}, actions: ['find', 'insert', 'update', 'remove', 'createCollection', 'collMod', 'changeStream']},
    {resource: {db: 'shop', collection: 'shown'}, actions: ['find']}]});
  await admin.command({createUser: 'only', pwd: 'pw', roles: ['only']});
  const url = new URL(node.uri.replace('mongodb:', 'http:'));
  [url.username, url.password] = ['only', 'pw'];
  const user = await new MongoClient(url.href.replace('http:', 'mongodb:') + '&authSource=admin').connect();
  const shop = user.db('shop');
  const pipelines = (name) => [
    [{$lookup: {from: name, localField: 'a', foreignField: 'b', as: 'r'}}],
    [{$lookup: {from: 'c', pipeline: [{$unionWith: name}], as: 'r'}}],
    [{$graphLookup: {from: name, startWith: '$a', connectFromField: 'a', connectToField: 'b', as: 'r'}}],
    [{$unionWith: name}],
    [{$unionWith: {coll: 'c', pipeline: [{$lookup: {from: name, pipeline: [], as: 'r'}}]}}],
    [{$facet: {a: [{$unionWith: {coll: 'c', pipeline: [{$graphLookup: {from: name, startWith: '$a', connectFromField: 'a', connectToField: 'b', as: 'r'}}]}}]}}],
  ];
  for (const pipeline of pipelines('secret')) {
    await assert.rejects(shop.collection('c').aggregate(pipeline).toArray(), {code: 13}, JSON.stringify(pipeline));
    await assert.rejects(shop.collection('c').aggregate(pipeline).explain(), {code: 13}, JSON.stringify(pipeline));
    await assert.rejects(shop.command({collMod: 'c', viewOn: 'c', pipeline}), {code: 13}, JSON.stringify(pipeline));
  }
  for (const pipeline of pipelines('c')) await shop.collection('c').aggregate(pipeline).toArray();
  for (const stage of [{$out: 'secret'}, {$merge: 'secret'}, {$merge: {into: {db: 'other', coll: 'c'}}}, {$merge: {into: 'secret', whenMatched: 'fail'}}, {$out: {db: 'shop', coll: 'secret'}}])
    await assert.rejects(shop.collection('c').aggregate([stage]).toArray(), {code: 13}, JSON.stringify(stage));
  await shop.collection('c').aggregate([{$merge: 'c'}]).toArray();
  // What a stage says twice (`x` stands for its last letter): one of the two is checked, the other must not be done.
  const raw = await Raw.connect(node);
  assert.equal((await raw.login('only', 'pw')).ok, 1);
  for (const stage of [{$merge: {into: 'c', intx: 'secret'}}, {$merge: {into: {db: 'shop', coll: 'c', colx: 'secret'}}}, {$unionWith: {coll: 'c', colx: 'secret'}},
    {$lookup: {from: 'c', frox: 'secret', localField: '_id', foreignField: '_id', as: 'r'}}, {$unionWith: {coll: 'c', pipeline: [], pipelinx: [{$unionWith: 'secret'}]}},
    {$graphLookup: {from: 'c', frox: 'secret', startWith: '$_id', connectFromField: 'x', connectToField: '_id', as: 'r'}}]) {
    // The view reads it too: so it is among the collections that the aggregation has open.
    const bytes = Buffer.from(serialize({aggregate: 'c', pipeline: stage.$merge ? [stage] : [{$unionWith: 'shown'}, stage], cursor: {}, $db: 'shop'}));
    for (const [x, name] of [['intx', 'into'], ['colx', 'coll'], ['frox', 'from'], ['pipelinx', 'pipeline']]) {
      const at = bytes.indexOf(`${x}\0`);
      if (at >= 0) bytes.write(name, at, 'latin1');
    }
    const reply = await raw.run(bytes);
    assert.equal(reply.code, 13, JSON.stringify([stage, reply]));
  }
  raw.close();
  assert.equal(await client.db('shop').collection('secret').countDocuments(), 1);
  // A view shows what who made it has decided; what it stands on stays closed.
  assert.deepEqual(await shop.collection('shown').find().toArray(), [{_id: 1}]);
  assert.equal((await shop.collection('c').aggregate([{$unionWith: 'shown'}]).toArray()).length, 2);
  await assert.rejects(shop.collection('secret').findOne(), {code: 13});
  await assert.rejects(shop.createCollection('mine', {viewOn: 'secret', pipeline: []}), {code: 13});
  await user.close();
});
