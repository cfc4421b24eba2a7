// tokens.test.mjs — tokens of our own: given out over HTTPS, used by stock drivers and as HTTP bearer, renewed, revoked; what becomes of a
// refresh token that is used twice; over deaths of the gateway and of storage.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import fs from 'node:fs';
import {after, before, test} from 'node:test';
import {Binary, serialize} from 'bson';
import {MongoClient} from 'mongodb';
import {askPage} from '../support/https.mjs';
import {Node, until} from '../support/node.mjs';
import {metrics} from '../support/metrics.mjs';
import {Raw} from '../support/wire.mjs';

let node, client;
const sessions = async (query, authorization) => (await ask(`/v1/sessions${query}`, {method: 'GET', authorization}));
const b64 = (text) => Buffer.from(text).toString('base64url');
const basic = (user, password) => `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
const claims = (token) => JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));

const ask = (page, options) => askPage(node.info, page, options);
const byPassword = async (username, password = 'pw', more = {}) => (await ask('/v1/token', {body: {username, password, ...more}})).body;
const refresh = (refresh_token) => ask('/v1/token', {body: {grant_type: 'refresh_token', refresh_token}});
const get = async (page, token) => (await ask(page, {method: 'GET', authorization: token && `Bearer ${token}`})).status;
const asMachine = (give, options = {}) => new MongoClient(`mongodb://127.0.0.1:${node.port}/?tls=true&tlsCAFile=${node.info.caFile}&directConnection=true&authMechanism=MONGODB-OIDC`,
  {authMechanismProperties: {OIDC_CALLBACK: async () => ({accessToken: await give()})}, serverSelectionTimeoutMS: 15000, maxPoolSize: 2, ...options}).connect();
const login = (raw, token) => raw.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(serialize({jwt: token})), $db: '$external'});

before(async () => {
  node = await Node.start({set: ['gateway.login_rate=100000', 'gateway.lockout_failures=4', 'tokens.audience=shopset']});
  client = await node.client();
  await client.db('admin').command({createUser: 'alice', pwd: 'pw', roles: [{role: 'readWrite', db: 'shop'}, 'clusterMonitor']});
  for (const user of ['bob', 'carol', 'dave', 'erin', 'frank'])
    await client.db('admin').command({createUser: user, pwd: 'pw', roles: [{role: 'readWrite', db: 'shop'}]});
  await client.db('shop').collection('many').insertMany(Array.from({length: 10}, (_, i) => ({_id: i})));
}, {timeout: 60000});
after(async () => {
  await client?.close();
  await node?.stop();
});

test('a password gives a pair of tokens; the access token is a login of a stock driver and HTTP bearer', async () => {
  const {status, headers, body} = await ask('/v1/token', {body: {username: 'alice', password: 'pw'}});
  assert.equal(status, 200, JSON.stringify(body));
  assert.equal(headers['cache-control'], 'no-store');
  assert.equal(body.token_type, 'Bearer');
  assert.equal(body.expires_in, 900);
  const said = claims(body.access_token);
  assert.deepEqual([said.iss, said.aud, said.sub, said.exp - said.iat], ['veddb', 'shopset', 'admin.alice', 900]);
  assert.deepEqual(JSON.parse(Buffer.from(body.access_token.split('.')[0], 'base64url')).typ, 'at+jwt');
  const alice = await asMachine(() => body.access_token);
  assert.deepEqual((await alice.db('admin').command({connectionStatus: 1})).authInfo.authenticatedUsers, [{user: 'alice', db: 'admin'}]);
  assert.equal(await alice.db('shop').collection('many').countDocuments(), 10);
  await assert.rejects(alice.db('other').collection('c').insertOne({}), {code: 13});
  await alice.close();
  assert.equal(await get('/metrics', body.access_token), 200);
  assert.equal(await get('/metrics', (await byPassword('bob')).access_token), 403);
});

test('HTTP Basic and forms are logins, too; what is refused says no more than needed', async () => {
  assert.equal((await ask('/v1/token', {authorization: basic('bob', 'pw')})).status, 200);
  assert.equal((await ask('/v1/token', {body: 'grant_type=password&username=bob&password=p%77', type: 'application/x-www-form-urlencoded'})).status, 200);
  for (const [options, status, error] of [
    [{authorization: basic('bob', 'wrong')}, 401, 'invalid_client'],
    [{authorization: basic('nobody', 'pw')}, 401, 'invalid_client'],
    [{body: {username: 'nobody', password: 'pw'}}, 400, 'invalid_grant'],
    [{body: {username: 'bob', password: 'pw', db: 'test'}}, 400, 'invalid_grant'],
    [{body: {username: 'bob'}}, 400, 'invalid_request'],
    [{body: '{'}, 400, 'invalid_request'],
    [{body: {grant_type: 'password', username: 5, password: 'pw'}}, 400, 'invalid_request'],
    [{body: {grant_type: 'implicit'}}, 400, 'unsupported_grant_type'],
    [{body: {grant_type: 'certificate'}}, 400, 'invalid_request'],
    [{body: {refresh_token: 'x'}}, 400, 'invalid_grant'],
    [{body: {refresh_token: 'A'.repeat(91)}}, 400, 'invalid_grant'],
  ]) {
    const answer = await ask('/v1/token', options);
    assert.deepEqual([answer.status, answer.body.error], [status, error], JSON.stringify(options));
  }
  assert.equal((await ask('/v1/token', {method: 'GET'})).status, 405);
  const large = await ask('/v1/token', {body: {username: 'x'.repeat(8000), password: 'pw'}}).catch(() => ({status: 413})); // it may be cut off in the middle
  assert.equal(large.status, 413);
  assert.ok(!/pw"|:pw|"wrong"/.test(node.log()), 'no password in the log');
});

test('the public keys check a token; a token that another key signed is none', async () => {
  const {access_token: token} = await byPassword('bob');
  const {body} = await ask('/v1/jwks', {method: 'GET'});
  assert.equal(body.keys.length, 1);
  assert.equal(body.keys[0].d, undefined);
  const [head, payload, signature] = token.split('.');
  const key = crypto.createPublicKey({key: body.keys[0], format: 'jwk'});
  assert.ok(crypto.verify('sha256', Buffer.from(`${head}.${payload}`), {key, dsaEncoding: 'ieee-p1363'}, Buffer.from(signature, 'base64url')));
  const {privateKey} = crypto.generateKeyPairSync('ec', {namedCurve: 'P-256'});
  const forge = (header, body) => {
    const text = `${b64(JSON.stringify(header))}.${b64(JSON.stringify(body))}`;
    return `${text}.${crypto.sign('sha256', Buffer.from(text), {key: privateKey, dsaEncoding: 'ieee-p1363'}).toString('base64url')}`;
  };
  const kid = body.keys[0].kid;
  for (const bad of [
    forge({alg: 'ES256', typ: 'at+jwt', kid}, claims(token)), `${b64('{"alg":"none","typ":"at+jwt"}')}.${payload}.`,
    `${b64(JSON.stringify({alg: 'HS256', typ: 'at+jwt', kid}))}.${payload}.${signature}`, `${head}.${b64(JSON.stringify({...claims(token), sub: 'admin.alice'}))}.${signature}`,
  ]) {
    await assert.rejects(asMachine(() => bad, {serverSelectionTimeoutMS: 3000}), {code: 18});
    assert.equal(await get('/metrics', bad), 401);
  }
});

test('a refresh token is good once; used twice it revokes its whole session, and that is in the audit log', async () => {
  const first = await byPassword('carol');
  const second = (await refresh(first.refresh_token)).body;
  assert.notEqual(second.refresh_token, first.refresh_token);
  assert.equal(claims(second.access_token).sid, claims(first.access_token).sid);
  const raw = await Raw.connect(node);
  assert.equal((await login(raw, second.access_token)).done, true);
  assert.equal((await raw.run({find: 'many', $db: 'shop'})).ok, 1);
  assert.deepEqual((await refresh(first.refresh_token)).body.error, 'invalid_grant');
  assert.equal((await raw.run({find: 'many', $db: 'shop'})).code, 391, 'on open connections, too');
  assert.equal((await refresh(second.refresh_token)).status, 400, 'the newest one is void, too');
  assert.equal((await login(raw, second.access_token)).code, 18);
  raw.close();
  await until('the audit log has it', async () => {
    const {stdout} = await node.vedctl('audit', 'search', 'atype=refreshTokenReuse');
    return stdout.includes('refreshTokenReuse') && stdout.includes('carol');
  });
});

test('revocation: one token, one session, those of a user, all; open streams end', async () => {
  const one = await byPassword('dave'), two = await byPassword('dave'), other = await byPassword('bob');
  const raw = await Raw.connect(node), rest = await Raw.connect(node), bob = await Raw.connect(node);
  assert.equal((await login(raw, one.access_token)).done, true);
  assert.equal((await login(rest, two.access_token)).done, true);
  assert.equal((await login(bob, other.access_token)).done, true);
  const ok = async (conn) => (await conn.run({find: 'many', limit: 1, singleBatch: true, $db: 'shop'})).code ?? 0;
  // By its holder (RFC 7009); what is no token is as good as revoked.
  assert.equal((await ask('/v1/token/revoke', {body: {token: one.access_token}})).status, 200);
  assert.equal((await ask('/v1/token/revoke', {body: {token: 'nonsense'}})).status, 200);
  assert.deepEqual([await ok(raw), await ok(rest), await ok(bob)], [391, 0, 0]);
  assert.equal((await refresh(one.refresh_token)).status, 200, 'its session lives');
  // By an administrator, on the wire and by vedctl.
  const three = await byPassword('dave'), four = await byPassword('dave');
  await client.db('admin').command({revokeToken: 1, jti: claims(three.access_token).jti});
  assert.equal((await login(raw, three.access_token)).code, 18);
  await node.vedctl('tokens', 'revoke', claims(four.access_token).sid);
  assert.equal((await login(raw, four.access_token)).code, 18);
  assert.equal((await refresh(four.refresh_token)).status, 400);
  await assert.rejects(node.vedctl('tokens', 'revoke', two.access_token), (e) => e.code === 1 && /secret/.test(e.stderr));
  // Of a user: a stream that waits ends; what comes later is good.
  const open = await rest.run({aggregate: 'many', pipeline: [{$changeStream: {}}], cursor: {}, $db: 'shop'});
  const awaited = rest.run({getMore: open.cursor.id, collection: 'many', maxTimeMS: 60000, $db: 'shop'});
  await client.db('admin').command({revokeUserTokens: 'dave'});
  assert.equal((await awaited).ok, 0);
  assert.deepEqual([await ok(rest), await ok(bob)], [391, 0]);
  assert.equal((await refresh(two.refresh_token)).status, 400);
  assert.equal((await login(rest, (await byPassword('dave')).access_token)).done, true, 'a new one is good');
  assert.equal(await ok(rest), 0);
  await node.vedctl('tokens', 'revoke-user', 'dave@admin');
  assert.equal(await ok(rest), 391);
  // Over HTTPS, by who may.
  assert.equal((await ask('/v1/tokens/revoke-user', {body: {user: 'bob'}})).status, 401);
  assert.equal((await ask('/v1/tokens/revoke-user', {body: {user: 'bob'}, authorization: `Bearer ${other.access_token}`})).status, 403);
  assert.equal((await ask('/v1/tokens/revoke-all', {authorization: `Bearer ${other.access_token}`})).status, 403);
  assert.equal(await ok(bob), 0);
  assert.equal((await ask('/v1/tokens/revoke-user', {body: {user: 'bob'}, authorization: basic('admin', node.info.password)})).status, 200);
  assert.equal(await ok(bob), 391);
  // All.
  const {access_token: token, refresh_token} = await byPassword('bob');
  assert.equal((await login(bob, token)).done, true);
  await client.db('admin').command({rotateTokenKeys: 1});
  assert.equal(await ok(bob), 391);
  assert.equal((await login(bob, token)).code, 18);
  assert.equal((await refresh(refresh_token)).status, 400);
  assert.equal((await login(bob, (await byPassword('bob')).access_token)).done, true);
  assert.equal((await ask('/v1/tokens/revoke-all', {authorization: basic('admin', node.info.password)})).status, 200);
  assert.equal(await ok(bob), 391);
  for (const [command, db, code] of [[{revokeToken: 1}, 'admin', 2], [{revokeToken: 1, session: 'x'}, 'admin', 2], [{revokeToken: 1, jti: 'x'}, 'test', 13], [{revokeUserTokens: 5}, 'admin', 14]])
    await assert.rejects(client.db(db).command(command), {code}, JSON.stringify(command));
  for (const conn of [raw, rest, bob]) conn.close();
  // Each of them is in the audit log, by whichever way it came; no token is.
  const events = async (atype) => JSON.parse((await node.vedctl('--json', 'audit', 'search', `atype=${atype}`, 'result=0').catch(() => ({stdout: '{"records":[]}'}))).stdout).records.map((r) => r.event);
  for (const [atype, ways] of [['revokeToken', ['revokeToken', 'POST /v1/token/revoke', 'vedctl tokens']], ['revokeUserTokens', ['revokeUserTokens', 'vedctl tokens', 'POST /v1/tokens/revoke-user']], ['rotateTokenKeys', ['rotateTokenKeys', 'POST /v1/tokens/revoke-all']]])
    await until(`${atype} by ${ways}`, async () => {
      const seen = (await events(atype)).map((e) => e.param.command);
      return ways.every((way) => seen.includes(way));
    });
  const all = JSON.stringify(await events('revokeToken')) + JSON.stringify(await events('authenticate'));
  assert.ok(all.includes(claims(three.access_token).jti) && !all.includes(three.access_token) && !all.includes(one.refresh_token));
});

test('another password, or a user made anew, ends the tokens of before', async () => {
  const pair = await byPassword('erin');
  const raw = await Raw.connect(node);
  assert.equal((await login(raw, pair.access_token)).done, true);
  await client.db('admin').command({updateUser: 'erin', roles: [{role: 'read', db: 'shop'}]});
  assert.equal((await raw.run({insert: 'c', documents: [{}], $db: 'shop'})).code, 13, 'roles take hold at once');
  assert.equal((await raw.run({find: 'c', $db: 'shop'})).ok, 1);
  await client.db('admin').command({updateUser: 'erin', pwd: 'other'});
  assert.equal((await raw.run({find: 'c', $db: 'shop'})).code, 391);
  raw.close();
  assert.equal((await refresh(pair.refresh_token)).status, 400, 'nor is it renewed');
  const second = await byPassword('erin', 'other');
  await client.db('admin').command({dropUser: 'erin'});
  await client.db('admin').command({createUser: 'erin', pwd: 'other', roles: []});
  assert.equal((await refresh(second.refresh_token)).status, 400, 'nor that of one who was there before, with the same password');
});

test('logins are listed: whose, since when, from where; one\'s own, or those of others for who may end them', async () => {
  const first = await byPassword('erin', 'other'), second = await byPassword('erin', 'other'), sid = claims(first.access_token).sid;
  await refresh(second.refresh_token);
  await byPassword('bob');
  const own = await sessions('', `Bearer ${first.access_token}`);
  assert.equal(own.status, 200, JSON.stringify(own.body));
  assert.deepEqual(own.body.sessions.map((s) => s.sid).sort(), [sid, claims(second.access_token).sid].sort());
  const listed = own.body.sessions.find((s) => s.sid === sid);
  assert.deepEqual([listed.user, listed.db, listed.method, listed.address.replace(/:\d+$/, '')], ['erin', 'admin', 'pwd', '127.0.0.1']);
  for (const at of ['created', 'lastUsed', 'expires']) assert.match(listed[at], /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  assert.equal(own.body.more, false);
  const all = await sessions('?all=1', basic('admin', node.info.password));
  assert.ok(all.body.sessions.some((s) => s.user === 'bob') && all.body.sessions.some((s) => s.sid === sid));
  assert.deepEqual((await sessions('?user=erin&db=admin', basic('admin', node.info.password))).body, own.body);
  for (const query of ['?all=1', '?user=bob']) assert.equal((await sessions(query, `Bearer ${first.access_token}`)).status, 403, query);
  assert.equal((await sessions('', basic('erin', 'wrong'))).status, 401);
  assert.equal((await sessions('')).status, 401);
  assert.match((await node.vedctl('tokens', 'list', 'erin@admin')).stdout, new RegExp(`^SID .*\\n(.*\\n)*${sid} +erin@admin .*127\\.0\\.0\\.1`));
  const shown = JSON.stringify([own.body, all.body]) + (await node.vedctl('--json', 'tokens', 'list')).stdout;
  for (const {access_token, refresh_token} of [first, second]) for (const part of [...access_token.split('.'), refresh_token]) assert.ok(!shown.includes(part), 'no byte of a token');
  await client.db('admin').command({revokeToken: 1, session: sid});
  assert.equal((await sessions('?user=erin', basic('admin', node.info.password))).body.sessions.length, 1, 'one that is over is not there');
});

test('a rotation of the data keys ends all tokens, once', {timeout: 120000}, async () => {
  const key = async () => (await ask('/v1/jwks', {method: 'GET'})).body.keys[0].kid;
  const followed = () => until('the key of tokens follows', async () => (await metrics(node.info))['veddb_gateway_tokens_data_key'] === 2);
  const before = await key(), {access_token: old} = await byPassword('bob'), raw = await Raw.connect(node);
  assert.equal((await login(raw, old)).done, true);
  const revoked = (await metrics(node.info))['veddb_gateway_tokens_refused_total{reason="revoked"}'];
  assert.equal((await client.db('admin').command({rotateKey: 1, maxLatencyRise: 0})).ok, 1);
  await followed();
  assert.equal((await client.db('admin').command({rotationStatus: 1})).state, 'completed');
  assert.notEqual(await key(), before);
  assert.equal((await raw.run({find: 'many', $db: 'shop'})).code, 391);
  assert.ok((await metrics(node.info))['veddb_gateway_tokens_refused_total{reason="revoked"}'] > revoked, 'refusals are counted');
  raw.close();
  // It does not happen again: not when the gateway begins anew and looks, nor when the rotation's state comes back from a verify.
  const after = await key(), {access_token: fresh} = await byPassword('bob');
  const {starts} = await node.kill('gatewayd');
  await until('gatewayd is back', async () => (await node.worker('gatewayd').catch(() => null))?.starts > starts);
  await node.whole();
  await followed();
  assert.equal(await key(), after);
  const machine = await asMachine(() => fresh);
  assert.equal(await machine.db('shop').collection('many').countDocuments(), 10);
  await machine.close();
  const found = async () => (await node.vedctl('audit', 'search', 'atype=rotateTokenKeys').catch(() => ({stdout: ''}))).stdout.match(/rotation of data keys/g)?.length ?? 0;
  await until('it is in the audit log', async () => (await found()) > 0);
  assert.equal(await found(), 1);
});

test('what signs, and what is revoked, can be read by nobody', async () => {
  await client.db('admin').command({createRole: 'curious', roles: [], privileges: [{resource: {db: 'admin', collection: 'system.tokens'}, actions: ['find', 'update', 'remove']},
    {resource: {db: 'admin', collection: 'system.refresh_tokens'}, actions: ['find']}, {resource: {db: 'admin', collection: 'system.keys'}, actions: ['find']}]});
  await client.db('admin').command({createUser: 'curious', pwd: 'pw', roles: ['root', 'curious']});
  const curious = await node.client({driver: {auth: {username: 'curious', password: 'pw'}}});
  for (const name of ['system.tokens', 'system.refresh_tokens', 'system.keys']) {
    await assert.rejects(curious.db('admin').collection(name).findOne(), {code: 13}, name);
    await assert.rejects(curious.db('admin').collection(name).deleteMany({}), {code: 13}, name);
    await assert.rejects(curious.db('shop').collection('many').aggregate([{$unionWith: name}]).toArray().then(() => curious.db('admin').aggregate([{$documents: [{}]}, {$unionWith: name}]).toArray()), {code: 13}, name);
  }
  await curious.close();
});

test('who guesses is locked out there, by name; the right password does not help then', async () => {
  for (let i = 0; i < 4; i++) assert.equal((await ask('/v1/token', {authorization: basic('frank', 'wrong')})).status, 401);
  assert.equal((await ask('/v1/token', {authorization: basic('frank', 'pw')})).status, 429);
  await assert.rejects(node.client({driver: {auth: {username: 'frank', password: 'pw'}, serverSelectionTimeoutMS: 3000}}), {code: 18}, 'on the wire, too');
  assert.equal((await ask('/v1/token', {authorization: basic('bob', 'pw')})).status, 200, 'nobody else is');
  assert.match(node.log(), /a user is locked out from an address/);
});

test('what is revoked stays so, and what is good too, over deaths of the gateway and of storage', async () => {
  const good = await byPassword('bob'), bad = await byPassword('carol');
  await client.db('admin').command({revokeToken: 1, jti: claims(bad.access_token).jti});
  for (const worker of ['gatewayd', 'storaged']) {
    const {starts} = await node.kill(worker);
    await until(`${worker} is back`, async () => {
      const found = await node.worker(worker).catch(() => null);
      return found?.state === 'running' && found.starts > starts;
    });
    await node.whole();
    const machine = await asMachine(() => good.access_token);
    assert.equal(await machine.db('shop').collection('many').countDocuments(), 10);
    await machine.close();
    await assert.rejects(asMachine(() => bad.access_token), {code: 18});
  }
  assert.equal((await refresh(good.refresh_token)).status, 200);
  for (const secret of [good.access_token, good.refresh_token, bad.access_token]) assert.ok(!node.log().includes(secret), 'no token in the log');
});
