// oidc.test.mjs — tokens of an outside issuer, and of our own beside it (tokens.test.mjs has the rest): logins of stock drivers (MONGODB-OIDC), HTTP bearer, and what ends with a token.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import fs from 'node:fs';
import https from 'node:https';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {Binary, serialize} from 'bson';
import {MongoClient} from 'mongodb';
import {Node, sleep, until} from '../support/node.mjs';
import {Raw} from '../support/wire.mjs';

const ISSUER = 'https://issuer.example', AUDIENCE = 'veddb';
let node, client, keys, file;

const makeKey = (kid) => ({kid, ...crypto.generateKeyPairSync('ec', {namedCurve: 'P-256'})});
const writeKeys = (...list) => fs.writeFileSync(file, JSON.stringify({keys: list.map(({kid, publicKey}) => ({...publicKey.export({format: 'jwk'}), kid, use: 'sig', alg: 'ES256'}))}));
const b64 = (text) => Buffer.from(text).toString('base64url');
/** A token about `sub` that lives for so many seconds. */
function token(sub, {life = 3600, key = keys[0], ...claims} = {}) {
  const now = Math.floor(Date.now() / 1000);
  const body = `${b64(JSON.stringify({alg: 'ES256', kid: key.kid}))}.${b64(JSON.stringify({iss: ISSUER, aud: AUDIENCE, sub, iat: now, exp: now + life, ...claims}))}`;
  return `${body}.${crypto.sign('sha256', Buffer.from(body), {key: key.privateKey, dsaEncoding: 'ieee-p1363'}).toString('base64url')}`;
}
const asMachine = async (give, options = {}) => await new MongoClient(`mongodb://127.0.0.1:${node.port}/?tls=true&tlsCAFile=${node.info.caFile}&directConnection=true&authMechanism=MONGODB-OIDC`,
  {authMechanismProperties: {OIDC_CALLBACK: async () => ({accessToken: await give()})}, serverSelectionTimeoutMS: 4000, maxPoolSize: 2, ...options}).connect();
const get = (page, authorization) => new Promise((resolve, reject) => {
  https.get(`${node.info.httpAddress}${page}`, {ca: fs.readFileSync(node.info.caFile), headers: authorization ? {authorization} : {}}, (r) => {
    r.resume();
    r.on('end', () => resolve(r.statusCode));
  }).on('error', reject);
});

before(async () => {
  node = new Node();
  node.dir = fs.mkdtempSync('/tmp/vd-oidc-');
  file = path.join(node.dir, 'jwks.json');
  keys = [makeKey('one'), makeKey('two')];
  writeKeys(keys[0]);
  node.set = [`oidc.issuer=${ISSUER}`, `oidc.audience=${AUDIENCE}`, `oidc.jwks_file=${file}`, 'oidc.name_prefix=idp', 'oidc.client_id=console', 'tokens.access_lifetime=2s', 'gateway.login_rate=100000'];
  await node.up();
  client = await node.client();
  await client.db('$external').command({createUser: 'idp/alice', roles: [{role: 'readWrite', db: 'shop'}]});
  await client.db('$external').command({createUser: 'idp/monitor', roles: [{role: 'clusterMonitor', db: 'admin'}]});
});
after(async () => {
  await client?.close();
  await node?.stop();
});

test('a token of the issuer is a login of the user that stands for its principal', async () => {
  const alice = await asMachine(() => token('alice'));
  assert.deepEqual((await alice.db('admin').command({connectionStatus: 1})).authInfo.authenticatedUsers, [{user: 'idp/alice', db: '$external'}]);
  await alice.db('shop').collection('c').insertOne({_id: 1});
  await assert.rejects(alice.db('other').collection('c').insertOne({_id: 1}), {code: 13});
  await alice.close();
});

test('what is no good token is refused like a wrong password; the reason is in the log', async () => {
  const stranger = makeKey('one');
  for (const [bad, reason] of [
    [token('alice', {key: stranger}), /signature/], [token('alice', {life: -1}), /has expired/], [token('alice', {aud: 'other'}), /audience/],
    [token('alice', {iss: 'https://other.example'}), /issuer/], [token('alice', {key: keys[1]}), /no key/], ['x', /header/], [token('nobody'), /login refused.*idp\/nobody/],
  ]) {
    await assert.rejects(asMachine(() => bad), (e) => e.code === 18 && /Authentication failed/.test(e.message), String(reason));
    assert.match(node.log(), reason);
  }
  assert.ok(!node.log().includes(token('alice').split('.')[0]), 'no token in the log');
});

test('the two-step form names the issuer', async () => {
  const raw = await Raw.connect(node);
  const first = await raw.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(serialize({})), $db: '$external'});
  assert.equal(first.done, false);
  assert.match(first.payload.toString('latin1'), /https:\/\/issuer.example/);
  assert.equal((await raw.run({saslContinue: 1, conversationId: 1, payload: new Binary(serialize({jwt: token('alice')})), $db: '$external'})).done, true);
  assert.equal((await raw.run({find: 'c', $db: 'shop'})).ok, 1);
  raw.close();
  const other = await Raw.connect(node);
  for (const payload of [Buffer.alloc(0), Buffer.from('x'), serialize({jwt: 1}), serialize({jwt: ''})])
    assert.ok((await other.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(payload), $db: '$external'})).ok === 0 || payload.length > 5);
  assert.equal((await other.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(serialize({jwt: token('alice')})), $db: 'admin'})).code, 334);
  other.close();
});

test('a token that expires ends the login: 391, and a driver logs in again by itself', async () => {
  const raw = await Raw.connect(node);
  assert.equal((await raw.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(serialize({jwt: token('alice', {life: 2})})), $db: '$external'})).done, true);
  assert.equal((await raw.run({insert: 'many', documents: Array.from({length: 10}, (_, i) => ({_id: i})), $db: 'shop'})).ok, 1);
  const {cursor} = await raw.run({find: 'many', batchSize: 2, $db: 'shop'});
  await until('the login ends', async () => (await raw.run({find: 'c', $db: 'shop'})).code === 391);
  assert.equal((await raw.run({getMore: cursor.id, collection: 'many', $db: 'shop'})).code, 391, 'cursors end with it');
  assert.equal((await raw.run({ping: 1, $db: 'admin'})).ok, 1);
  // The same user may log in again on the connection, nobody else.
  await client.db('$external').command({createUser: 'idp/other', roles: []});
  assert.equal((await raw.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(serialize({jwt: token('other')})), $db: '$external'})).ok, 0);
  assert.equal((await raw.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(serialize({jwt: token('alice')})), $db: '$external'})).done, true);
  assert.equal((await raw.run({getMore: cursor.id, collection: 'many', $db: 'shop'})).ok, 1);
  raw.close();

  let given = 0;
  const alice = await asMachine(() => token('alice', {life: ++given === 1 ? 2 : 3600}), {maxPoolSize: 1});
  await alice.db('shop').collection('c').findOne();
  await sleep(2500);
  assert.notEqual(await alice.db('shop').collection('c').findOne(), null);
  assert.ok(given >= 2, 'a new token was asked for');
  await alice.close();
});

test('an operation under way ends with the token', async () => {
  const raw = await Raw.connect(node);
  await raw.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(serialize({jwt: token('alice', {life: 2})})), $db: '$external'});
  const open = await raw.run({aggregate: 'c', pipeline: [{$changeStream: {}}], cursor: {}, $db: 'shop'});
  assert.equal(open.ok, 1);
  const begun = Date.now();
  const reply = await raw.run({getMore: open.cursor.id, collection: 'c', maxTimeMS: 60000, $db: 'shop'});
  assert.equal(reply.ok, 0, JSON.stringify(reply));
  assert.ok(Date.now() - begun < 30000);
  raw.close();
});

/** A token of our own, which lives for two seconds here. */
const own = () => new Promise((resolve, reject) => {
  const body = JSON.stringify({username: 'admin', password: node.info.password});
  https.request(`${node.info.httpAddress}/v1/token`, {method: 'POST', ca: fs.readFileSync(node.info.caFile), headers: {'content-type': 'application/json'}}, (r) => {
    let text = '';
    r.on('data', (d) => (text += d));
    r.on('end', () => resolve(JSON.parse(text).access_token));
  }).on('error', reject).end(body);
});

test('a token of our own ends like one of the issuer: cursors, streams, and a driver asks for the next', async () => {
  const login = (raw, jwt) => raw.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(serialize({jwt})), $db: '$external'});
  const raw = await Raw.connect(node), stream = await Raw.connect(node);
  const jwt = await own();
  assert.equal((await login(raw, jwt)).done, true);
  assert.equal((await login(stream, jwt)).done, true);
  const {cursor} = await raw.run({find: 'many', batchSize: 2, $db: 'shop'});
  const open = await stream.run({aggregate: 'many', pipeline: [{$changeStream: {}}], cursor: {}, $db: 'shop'});
  assert.equal((await stream.run({getMore: open.cursor.id, collection: 'many', maxTimeMS: 60000, $db: 'shop'})).ok, 0, 'what is under way ends');
  await until('the login ends', async () => (await raw.run({getMore: cursor.id, collection: 'many', batchSize: 1, $db: 'shop'})).code === 391);
  assert.equal((await login(raw, jwt)).code, 18);
  raw.close();
  stream.close();
  let given = 0;
  const driver = await asMachine(() => (given++, own()), {maxPoolSize: 1});
  await until('the driver asks for a new token by itself', async () => (await driver.db('shop').collection('many').findOne()) !== null && given >= 2);
  await driver.close();
});

test('HTTP bearer: the same tokens, the same privileges', async () => {
  assert.equal(await get('/metrics'), 401);
  assert.equal(await get('/metrics', `Bearer ${token('monitor')}`), 200);
  assert.equal(await get('/status', `Bearer ${token('monitor')}`), 200);
  assert.equal(await get('/metrics', `Bearer ${token('alice')}`), 403);
  assert.equal(await get('/metrics', `Bearer ${token('nobody')}`), 401);
  assert.equal(await get('/metrics', `Bearer ${token('monitor', {life: -1})}`), 401);
  assert.equal(await get('/metrics', 'Bearer x'), 401);
});

test('keys of the issuer are read again', async () => {
  writeKeys(keys[1]);
  await node.vedctl('reload', 'certs');
  await assert.rejects(asMachine(() => token('alice')), {code: 18});
  const alice = await asMachine(() => token('alice', {key: keys[1]}));
  await alice.db('shop').collection('c').findOne();
  await alice.close();
  fs.writeFileSync(file, '{"keys": []}');
  await assert.rejects(node.vedctl('reload', 'certs'), (e) => e.code === 1 && e.stderr.includes(file));
  const still = await asMachine(() => token('alice', {key: keys[1]}));
  await still.close();
  writeKeys(...keys);
  await node.vedctl('reload', 'certs');
});
