// tokens_cluster.test.mjs — tokens on three nodes: taken by all, revoked on all within a second, also by one that is cut off: that one
// takes none. Passwords and roles, changed, on every node; what a name that nobody has is told by each.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import https from 'node:https';
import {after, before, test} from 'node:test';
import {Binary, serialize} from 'bson';
import {Cluster} from '../support/cluster.mjs';
import {askPage} from '../support/https.mjs';
import {metrics} from '../support/metrics.mjs';
import {sleep, until} from '../support/node.mjs';
import {Raw} from '../support/wire.mjs';

const LEASE_MS = 1000, CANT_SAY = 13436, REVOKED = 391;
let set, client, leader;
before(async () => {
  set = await Cluster.start({network: true});
  client = await set.client({driver: {retryWrites: true}});
  await client.db('shop').collection('c').insertOne({_id: 1}, {writeConcern: {w: 3}});
  for (const user of ['alice', 'bob', 'carol'])
    await client.db('admin').command({createUser: user, pwd: 'pw', roles: [{role: 'readWrite', db: 'shop'}], writeConcern: {w: 3}});
  leader = await set.primary();
}, {timeout: 120000});
after(async () => await set?.stop(), {timeout: 60000});

const claims = (token) => JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
function post(name, page, body) {
  const text = JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const request = https.request(`${set.node(name).httpAddress}${page}`, {method: 'POST', ca: fs.readFileSync(set.info.caFile), agent: false,
      headers: {'content-type': 'application/json', 'content-length': Buffer.byteLength(text)}}, (r) => {
      let answer = '';
      r.on('data', (d) => (answer += d));
      r.on('end', () => resolve({status: r.statusCode, body: JSON.parse(answer)}));
    });
    request.on('error', reject);
    request.end(text);
  });
}
const pair = async (username, name = leader) => (await post(name, '/v1/token', {username, password: 'pw'})).body;
async function connect(name) {
  const [host, port] = set.node(name).host.split(':');
  return await Raw.connect({port: Number(port), info: set.info}, {host});
}
const login = (raw, token) => raw.run({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: new Binary(serialize({jwt: token})), $db: '$external'});
const find = async (raw) => {
  const reply = await raw.run({find: 'c', limit: 1, singleBatch: true, $db: 'shop', $readPreference: {mode: 'nearest'}});
  return reply.ok === 1 ? 0 : reply.code;
};
/** A connection to each node, logged in with this token. */
async function everywhere(token) {
  const conns = {};
  for (const name of set.names) {
    conns[name] = await connect(name);
    // A member that lags on a loaded machine says that it can't tell; it can soon.
    await until(`${name} takes the token`, async () => (await login(conns[name], token)).done === true);
    await until(`${name} serves`, async () => (await find(conns[name])) === 0);
  }
  return conns;
}
const closeAll = (conns) => Object.values(conns).forEach((conn) => conn.close());

test('a name that nobody has gets one salt from all, as a user does', async () => {
  // A member reads the keys of the set soon after it has them.
  for (const name of set.names) await until(`${name} signs`, async () => {
    const raw = await connect(name);
    const signature = (await raw.run({ping: 1, $db: 'admin'})).$clusterTime?.signature;
    raw.close();
    return signature !== undefined && signature.keyId.toString() !== '0';
  });
  for (const user of ['nobody', 'alice']) {
    const salts = new Set();
    for (const name of set.names) {
      const raw = await connect(name);
      assert.equal((await raw.login(user, 'wrong')).code, 18);
      salts.add(raw.scram.salt);
      raw.close();
    }
    assert.equal(salts.size, 1, `${user}: ${[...salts]}`);
  }
});

/** What is asked a second after the revocation returned is never served; soon it is refused for what it is. */
async function neverServed(conns) {
  await sleep(LEASE_MS); // the promise itself: nothing is waited for
  await Promise.all(Object.entries(conns).map(async ([name, conn]) => {
    const first = await find(conn);
    assert.ok(first === REVOKED || first === CANT_SAY, `${name}: ${first}`);
    await until(`${name} says why`, async () => {
      const code = await find(conn);
      assert.notEqual(code, 0, name);
      return code === REVOKED;
    });
  }));
}

test('a token of the primary is taken by every node; only the primary gives one out', async () => {
  const {access_token: token} = await pair('alice');
  closeAll(await everywhere(token));
  const other = set.names.find((name) => name !== leader);
  assert.equal((await post(other, '/v1/token', {username: 'alice', password: 'pw'})).status, 503);
});

test('one token, those of a user, all: void on every node a second later', async () => {
  const one = (await pair('alice')).access_token;
  let conns = await everywhere(one);
  await client.db('admin').command({revokeToken: 1, jti: claims(one).jti});
  await neverServed(conns);
  closeAll(conns);
  const rest = await pair('alice'), bob = await pair('bob');
  conns = await everywhere(rest.access_token);
  await client.db('admin').command({revokeUserTokens: 'alice'});
  await neverServed(conns);
  closeAll(conns);
  assert.equal((await post(leader, '/v1/token', {refresh_token: rest.refresh_token})).status, 400);
  conns = await everywhere(bob.access_token);
  await client.db('admin').command({rotateTokenKeys: 1});
  await neverServed(conns);
  closeAll(conns);
});

test('another password or other roles take hold on every node', async () => {
  const {access_token: token} = await pair('carol');
  let conns = await everywhere(token);
  await client.db('admin').command({updateUser: 'carol', roles: []});
  await Promise.all(Object.values(conns).map((conn) => until('the role is gone', async () => (await find(conn)) === 13)));
  await client.db('admin').command({updateUser: 'carol', roles: [{role: 'readWrite', db: 'shop'}]});
  await Promise.all(Object.values(conns).map((conn) => until('the role is back', async () => (await find(conn)) === 0)));
  await client.db('admin').command({updateUser: 'carol', pwd: 'other'});
  await neverServed(conns);
  closeAll(conns);
});

test('a node that is cut off takes no token; when it is back it knows what was revoked', async () => {
  const {access_token: token} = await pair('bob');
  const {access_token: good} = await pair('alice');
  const conns = await everywhere(token);
  const cut = set.names.find((name) => name !== leader);
  const fine = await connect(cut);
  await until('it takes the good one', async () => (await login(fine, good)).done === true);
  set.partition(cut, set.names.filter((name) => name !== cut));
  await client.db('admin').command({revokeToken: 1, jti: claims(token).jti});
  await sleep(LEASE_MS);
  const [bad, unknown] = await Promise.all([find(conns[cut]), find(fine)]);
  assert.deepEqual([bad, unknown], [CANT_SAY, CANT_SAY]);
  set.heal();
  await until('it takes tokens again', async () => (await find(fine)) === 0);
  assert.equal(await find(conns[cut]), REVOKED);
  closeAll(conns);
  fine.close();
});

// Users and roles: the same lease, whatever the login was made with. A secondary that is cut off serves nobody whom it can't be sure of.
const byPassword = (name, username) => set.client({node: name, driver: {directConnection: true, auth: {username, password: 'pw'}, readPreference: 'nearest', retryReads: false}});
const read = async (c) => {
  try {
    await c.db('shop').collection('c').findOne({});
    return 0;
  } catch (e) {
    return e.code ?? String(e);
  }
};

test('users who are dropped, or have lost their roles, read nowhere a second later, cut off or not', {timeout: 120000}, async (t) => {
  t.after(() => set.heal());
  for (const user of ['dora', 'emil', 'fred'])
    await client.db('admin').command({createUser: user, pwd: 'pw', roles: [{role: 'readWrite', db: 'shop'}], writeConcern: {w: 3}});
  const cut = set.names.find((name) => name !== leader), joined = set.names.find((name) => name !== leader && name !== cut);
  const [there, known] = await Promise.all([byPassword(cut, 'dora'), byPassword(joined, 'emil')]);
  for (const c of [there, known]) await until('a secondary serves', async () => (await read(c)) === 0);
  set.partition(cut, set.names.filter((name) => name !== cut));
  await client.db('admin').command({dropUser: 'dora'});
  await client.db('admin').command({updateUser: 'emil', roles: []});
  await sleep(LEASE_MS); // the promise itself
  // On one that is connected: it takes hold, and is soon refused for what it is.
  const first = await read(known);
  assert.ok([13, CANT_SAY].includes(first), String(first));
  await until('it says why', async () => {
    const code = await read(known);
    assert.notEqual(code, 0);
    return code === 13;
  });
  // On the one that is cut off: neither who was dropped, nor who was not, nor a new login; but an operator can look and act.
  assert.equal(await read(there), CANT_SAY);
  const late = await byPassword(cut, 'dora');
  assert.equal(await read(late), CANT_SAY);
  const operator = await set.client({node: cut, driver: {directConnection: true, readPreference: 'nearest'}});
  assert.equal((await operator.db('admin').command({replSetGetStatus: 1})).ok, 1);
  assert.ok((await metrics({...set.node(cut), caFile: set.info.caFile, username: set.info.username, password: set.info.password}))['veddb_gateway_users_refused_total{reason="unsure"}'] >= 2);
  // Over HTTPS as on the wire: what reaches storage is not ordered by somebody who may have been dropped.
  const page = (name, method, authorization) => askPage({...set.node(cut), caFile: set.info.caFile}, name, {method, authorization});
  const basic = `Basic ${Buffer.from(`${set.info.username}:${set.info.password}`).toString('base64')}`;
  for (const [name, method] of [['/v1/keys', 'GET'], ['/v1/keys/verify', 'POST']]) assert.equal((await page(name, method, basic)).status, 503, name);
  set.heal();
  await until('it knows again', async () => (await read(operator)) === 0);
  await until('over HTTPS, too', async () => (await page('/v1/keys', 'GET', basic)).status === 200);
  assert.ok([13, 391, 18].includes(await read(there)) || /auth/i.test(String(await read(there))), 'who was dropped is nobody any more');
  // Another password: the old one opens nothing.
  await client.db('admin').command({updateUser: 'fred', pwd: 'other'});
  await Promise.all(set.names.map((name) => until(`${name} refuses the old one`, async () => {
    try {
      await byPassword(name, 'fred');
      return false;
    } catch (e) {
      return e.code === 18;
    }
  })));
});

test('what is under way on a secondary ends with its user', {timeout: 60000}, async () => {
  const [there, operator] = await Promise.all(['x', 'y'].map(() => connect(set.names.find((name) => name !== leader))));
  await client.db('admin').command({createUser: 'gina', pwd: 'pw', roles: [{role: 'read', db: 'shop'}], writeConcern: {w: 3}});
  await until('it lets her in', async () => (await there.login('gina', 'pw')).done === true);
  await until('it lets the operator in', async () => (await operator.login()).done === true);
  let opened;
  await until('it serves', async () => (opened = await there.run({aggregate: 'c', pipeline: [{$changeStream: {}}], cursor: {}, $db: 'shop', $readPreference: {mode: 'nearest'}})).ok === 1);
  const more = there.run({getMore: opened.cursor.id, collection: 'c', maxTimeMS: 50000, $db: 'shop'});
  await until('it waits', async () => (await operator.run({aggregate: 1, pipeline: [{$currentOp: {allUsers: true}}, {$match: {'command.getMore': opened.cursor.id}}], cursor: {}, $db: 'admin', $readPreference: {mode: 'nearest'}})).cursor?.firstBatch.length === 1);
  await client.db('admin').command({dropUser: 'gina'});
  assert.equal((await more).code, 279);
  there.close();
  operator.close();
});

test('what is revoked stays so when another one leads, which gives out and renews', async () => {
  const bad = await pair('bob'), good = await pair('bob');
  await client.db('admin').command({revokeToken: 1, jti: claims(bad.access_token).jti});
  const admin = await set.client({node: leader, driver: {directConnection: true}});
  await until('it hands over', async () => {
    try {
      await admin.db('admin').command({replSetStepDown: 60, secondaryCatchUpPeriodSecs: 10});
      return true;
    } catch (e) {
      return e.code === undefined || [11602, 10107, 189].includes(e.code); // the connection may be closed instead
    }
  });
  const before = leader;
  await until('another one leads', async () => (leader = await set.primary()) !== before);
  await set.whole();
  const conns = await everywhere(good.access_token);
  closeAll(conns);
  for (const name of set.names) {
    const conn = await connect(name);
    await until(`${name} refuses`, async () => (await login(conn, bad.access_token)).code === 18);
    conn.close();
  }
  await until('it renews', async () => (await post(leader, '/v1/token', {refresh_token: good.refresh_token})).status === 200);
});
