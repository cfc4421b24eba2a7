// Who gets in, and what they may do: logins, users, roles, privileges, TLS.
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import {after, before, describe, test} from 'node:test';
import tls from 'node:tls';
import {Binary} from 'bson';
import {MongoClient} from 'mongodb';
import {Node, codeOf, sleep, until} from '../support/node.mjs';
import {Raw, msg} from '../support/wire.mjs';

let node, client, admin;
before(async () => {
  node = await Node.start({set: ['gateway.login_rate=100000']});
  client = await node.client();
  admin = client.db('admin');
  await client.db('shop').collection('goods').insertMany([{_id: 1}, {_id: 2}]);
  await client.db('other').collection('things').insertOne({_id: 1});
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const uriOf = (user, password, db) => `mongodb://${encodeURIComponent(user)}:${encodeURIComponent(password)}@127.0.0.1:${node.port}/?tls=true&tlsCAFile=${node.info.caFile}&replicaSet=veddb&authSource=${db}`;
const as = async (user, password = `${user}-secret`, db = 'admin') => await node.client({uri: uriOf(user, password, db), driver: {serverSelectionTimeoutMS: 5000, maxPoolSize: 2}});
const make = async (user, roles, db = 'admin') => await client.db(db).command({createUser: user, pwd: `${user}-secret`, roles});
const failed = async (promise) => await promise.then(() => assert.fail('no error'), (e) => e);

describe('login', () => {
  test('wrong password and unknown user: one error, one log line each, no secret in the log', async () => {
    const errors = [];
    for (const [user, password] of [['admin', 'wrong'], ['nobody', 'wrong'], ['admin', ''.padEnd(400, 'x')], ["a'}", '=,=,']])
      errors.push(await failed(as(user, password)));
    for (const e of errors) {
      assert.equal(e.code, 18);
      assert.equal(e.message, errors[0].message);
    }
    assert.match(errors[0].message, /Authentication failed/);
    assert.match(node.log(), /login refused.*user=nobody/);
    assert.ok(!node.log().includes(node.info.password));
  });

  test('an unknown user gets a challenge too, always with the same salt', async () => {
    const salts = [];
    for (const user of ['ghost', 'ghost', 'spook', 'admin']) {
      const raw = await Raw.connect(node);
      const r = await raw.login(user, 'guess');
      assert.equal(r.code, 18);
      assert.equal(r.errmsg, 'Authentication failed.');
      salts.push(raw.scram.salt);
      assert.equal(Buffer.from(raw.scram.salt, 'base64').length, 28);
      assert.ok(raw.scram.iterations >= 10000);
      raw.close();
    }
    assert.equal(salts[0], salts[1]);
    assert.notEqual(salts[0], salts[2]);
  });

  test('not logged in: 13 for everything but the handshake', async () => {
    const raw = await Raw.connect(node);
    for (const command of ['hello', 'isMaster', 'ping', 'buildInfo', 'connectionStatus']) assert.equal((await raw.run({[command]: 1, $db: 'admin'})).ok, 1, command);
    const {commands} = await admin.command({listCommands: 1});
    const open = ['hello', 'isMaster', 'ping', 'buildInfo', 'connectionStatus', 'saslStart', 'saslContinue', 'authenticate', 'logout', 'listCommands', 'whatsmyuri', 'features', 'getLastError'];
    const wrong = [];
    for (const name of Object.keys(commands)) {
      if (open.includes(name)) continue;
      const r = await raw.run({[name]: 1, $db: 'admin'});
      if (!r || r.ok !== 0 || ![13, 59, 115, 334].includes(r.code)) wrong.push(`${name}: ${JSON.stringify(r)}`);
    }
    assert.deepEqual(wrong, []);
    assert.ok(Object.keys(commands).length > 60);
    raw.close();
  });

  test('connections from this machine have no exception', async () => {
    const open = new MongoClient(`mongodb://127.0.0.1:${node.port}/?tls=true&tlsCAFile=${node.info.caFile}&directConnection=true`, {serverSelectionTimeoutMS: 5000});
    await open.connect();
    assert.equal(await codeOf(() => open.db('shop').collection('goods').findOne()), 13);
    assert.equal(await codeOf(() => open.db('admin').command({createUser: 'x', pwd: 'x', roles: ['root']})), 13);
    await open.close();
  });

  test('mechanisms that are not offered', async () => {
    const raw = await Raw.connect(node);
    for (const mechanism of ['SCRAM-SHA-1', 'PLAIN', 'MONGODB-X509', 'GSSAPI', 'MONGODB-OIDC', 'x'.repeat(1000)]) {
      const r = await raw.run({saslStart: 1, mechanism, payload: new Binary(Buffer.from('n,,n=admin,r=abc')), $db: mechanism === 'PLAIN' ? '$external' : 'admin'});
      assert.equal(r.ok, 0);
      assert.equal(r.code, 334, mechanism.slice(0, 20));
    }
    raw.close();
  });

  test('broken conversations', async () => {
    const raw = await Raw.connect(node);
    const start = (payload) => raw.run({saslStart: 1, mechanism: 'SCRAM-SHA-256', payload: new Binary(Buffer.from(payload, 'latin1')), $db: 'admin'});
    for (const payload of ['', 'n', 'n,,', 'n,,n=', 'n,,n=admin', 'n,,r=x', 'p=tls-unique,,n=admin,r=abc', 'y,,n=admin,r=', 'n,a=admin,n=admin,r=abc', 'n,,n==,r=abcdefgh', `n,,n=${'x'.repeat(20000)},r=abc`, 'n,,m=ext,n=admin,r=abcdefgh'])
      assert.equal((await start(payload)).ok, 0, payload.slice(0, 30));
    assert.equal((await raw.run({saslContinue: 1, conversationId: 1, payload: new Binary(Buffer.from('c=biws,r=x,p=eA==')), $db: 'admin'})).ok, 0);
    const a = await start('n,,n=admin,r=abcdefghijklmnop');
    assert.equal(a.ok, 1);
    assert.equal((await raw.run({saslContinue: 1, conversationId: 99, payload: new Binary(Buffer.from('x')), $db: 'admin'})).ok, 0);
    const server = a.payload.toString('utf8');
    const r = await raw.run({saslContinue: 1, conversationId: 1, payload: new Binary(Buffer.from(`c=biws,${server.split(',')[0]},p=${Buffer.alloc(32).toString('base64')}`)), $db: 'admin'});
    assert.equal(r.code, 18);
    assert.equal((await raw.run({listDatabases: 1, $db: 'admin'})).code, 13);
    assert.equal((await raw.login()).done, true, 'and then the right one');
    assert.equal((await raw.run({listDatabases: 1, $db: 'admin'})).ok, 1);
    raw.close();
  });

  test('logout ends what the connection may do', async () => {
    const raw = await Raw.connect(node);
    await raw.login();
    assert.equal((await raw.run({find: 'goods', $db: 'shop'})).ok, 1);
    const s = await raw.run({connectionStatus: 1, showPrivileges: true, $db: 'admin'});
    assert.deepEqual(s.authInfo.authenticatedUsers, [{user: 'admin', db: 'admin'}]);
    assert.deepEqual(s.authInfo.authenticatedUserRoles, [{role: 'root', db: 'admin'}]);
    assert.ok(s.authInfo.authenticatedUserPrivileges.length > 3);
    assert.equal((await raw.run({logout: 1, $db: 'admin'})).ok, 1);
    assert.equal((await raw.run({find: 'goods', $db: 'shop'})).code, 13);
    assert.deepEqual((await raw.run({connectionStatus: 1, $db: 'admin'})).authInfo.authenticatedUsers, []);
    raw.close();
  });

  test('names and passwords of many kinds', async () => {
    for (const [user, password] of [['with space', 'a b'], ['comma,equals=', 'p,=p'], ['grüße', 'größe€'], ['日本', '語彙'], ['x'.repeat(120), 'y'.repeat(900)]]) {
      await client.db('admin').command({createUser: user, pwd: password, roles: []});
      const c = await as(user, password);
      assert.equal((await c.db('admin').command({connectionStatus: 1})).authInfo.authenticatedUsers[0].user, user);
      await c.close();
      await client.db('admin').command({dropUser: user});
    }
  });
});

describe('users', () => {
  test('create, show, change, drop', async () => {
    const shop = client.db('shop');
    await shop.command({createUser: 'ann', pwd: 'one', roles: ['read', {role: 'readWrite', db: 'other'}], customData: {shift: 1}});
    const {users: [u]} = await shop.command({usersInfo: 'ann'});
    assert.equal(u._id, 'shop.ann');
    assert.equal(u.user, 'ann');
    assert.equal(u.db, 'shop');
    assert.deepEqual(u.customData, {shift: 1});
    assert.deepEqual(u.roles.map((r) => `${r.role}@${r.db}`).sort(), ['read@shop', 'readWrite@other']);
    assert.deepEqual(u.mechanisms, ['SCRAM-SHA-256']);
    assert.equal(u.credentials, undefined);
    assert.equal(u.userId.sub_type, 4);
    assert.equal(await codeOf(() => shop.command({createUser: 'ann', pwd: 'x', roles: []})), 51003);
    await shop.command({updateUser: 'ann', customData: {shift: 2}, roles: ['read']});
    const {users: [v]} = await shop.command({usersInfo: {user: 'ann', db: 'shop'}, showPrivileges: true});
    assert.deepEqual(v.customData, {shift: 2});
    assert.deepEqual(v.roles, [{role: 'read', db: 'shop'}]);
    assert.ok(v.inheritedPrivileges.some((p) => p.actions.includes('find') && p.resource.db === 'shop'));
    await shop.command({grantRolesToUser: 'ann', roles: ['dbAdmin']});
    assert.equal((await shop.command({usersInfo: 'ann'})).users[0].roles.length, 2);
    await shop.command({revokeRolesFromUser: 'ann', roles: ['dbAdmin']});
    assert.equal((await shop.command({usersInfo: 'ann'})).users[0].roles.length, 1);
    assert.deepEqual((await client.db('other').command({usersInfo: 'ann'})).users, []);
    assert.ok((await admin.command({usersInfo: {forAllDBs: true}})).users.length >= 2);
    const shown = await shop.command({usersInfo: 'ann', showCredentials: true});
    assert.ok(!JSON.stringify(shown).includes('"one"'));
    await shop.command({dropUser: 'ann'});
    assert.equal(await codeOf(() => shop.command({dropUser: 'ann'})), 11);
    assert.equal(await codeOf(() => shop.command({updateUser: 'ann', pwd: 'x'})), 11);
  });

  test('what is wrong is refused', async () => {
    for (const [command, codes] of [
      [{createUser: '', pwd: 'x', roles: []}, null], [{createUser: 'b', roles: []}, null], [{createUser: 'b', pwd: '', roles: []}, null], [{createUser: 'b', pwd: 5, roles: []}, null], [{createUser: 'b', pwd: 'x'}, null],
      [{createUser: 'b', pwd: 'x', roles: ['noSuchRole']}, [31]], [{createUser: 'b', pwd: 'x', roles: [7]}, null], [{createUser: 'b', pwd: 'x', roles: [{role: 'read', db: ''}]}, null], [{createUser: 'b', pwd: 'x', roles: [], wrong: 1}, null],
      [{createUser: 'b', pwd: 'x', roles: [], mechanisms: ['SCRAM-SHA-1']}, null], [{createUser: 'b', pwd: 'x', roles: [{role: 'clusterAdmin', db: 'shop'}]}, [31]], [{grantRolesToUser: 'nobody', roles: ['read']}, [11]],
    ]) {
      const code = await client.db('shop').command(command).then(() => 0, (e) => e.code);
      assert.ok(code > 0 && (!codes || codes.includes(code)), `${JSON.stringify(command)}: ${code}`);
    }
    assert.deepEqual((await client.db('shop').command({usersInfo: 1})).users, []);
  });

  test('a changed password takes hold for new logins; open connections go on only as MongoDB has it', async () => {
    await make('pat', [{role: 'read', db: 'shop'}]);
    const c = await as('pat');
    assert.equal(await c.db('shop').collection('goods').countDocuments(), 2);
    await admin.command({updateUser: 'pat', pwd: 'another'});
    assert.equal((await failed(as('pat'))).code, 18);
    const d = await as('pat', 'another');
    assert.equal(await d.db('shop').collection('goods').countDocuments(), 2);
    await c.close();
    await d.close();
  });

  test('grants and revokes take hold on open connections', async () => {
    await make('gus', []);
    const c = await as('gus');
    const read = () => c.db('shop').collection('goods').find().toArray();
    assert.equal(await codeOf(read), 13);
    await admin.command({grantRolesToUser: 'gus', roles: [{role: 'read', db: 'shop'}]});
    assert.equal((await read()).length, 2);
    await admin.command({revokeRolesFromUser: 'gus', roles: [{role: 'read', db: 'shop'}]});
    assert.equal(await codeOf(read), 13);
    await c.close();
  });

  test('dropUser ends access on open connections, also for a new user of that name', async () => {
    await make('dan', [{role: 'read', db: 'shop'}]);
    const raw = await Raw.connect(node);
    await raw.login('dan', 'dan-secret');
    assert.equal((await raw.run({find: 'goods', $db: 'shop'})).ok, 1);
    await admin.command({dropUser: 'dan'});
    const r = await raw.run({find: 'goods', $db: 'shop'});
    assert.ok(r === null || (r.ok === 0 && [13, 18, 11].includes(r.code)), JSON.stringify(r));
    await make('dan', [{role: 'read', db: 'shop'}]);
    const again = raw.closed ? null : await raw.run({find: 'goods', $db: 'shop'});
    assert.ok(again === null || again.ok === 0, 'the new user is another');
    raw.close();
  });

  test('what is under way ends with the right to it: a change stream that waits', {timeout: 60000}, async () => {
    await admin.command({createRole: 'watcher', privileges: [{resource: {db: 'shop', collection: 'watched'}, actions: ['find', 'changeStream']}], roles: []});
    const stream = async (user) => {
      await make(user, ['watcher']);
      const raw = await Raw.connect(node);
      await raw.login(user, `${user}-secret`);
      const {cursor} = await raw.run({aggregate: 'watched', pipeline: [{$changeStream: {}}], cursor: {}, $db: 'shop'});
      const more = raw.run({getMore: cursor.id, collection: 'watched', maxTimeMS: 50000, $db: 'shop'});
      await until('it waits', async () => (await admin.aggregate([{$currentOp: {allUsers: true}}, {$match: {'command.getMore': cursor.id}}]).toArray()).length === 1);
      return {raw, more};
    };
    const kept = await stream('w_kept');
    for (const [user, change] of [
      ['w_dropped', {dropUser: 'w_dropped'}],
      ['w_password', {updateUser: 'w_password', pwd: 'other'}],
      ['w_roles', {revokeRolesFromUser: 'w_roles', roles: ['watcher']}],
    ]) {
      const {raw, more} = await stream(user);
      await admin.command(change);
      assert.equal((await more).code, 279, user);
      raw.close();
    }
    await client.db('shop').collection('watched').insertOne({_id: 1});
    assert.equal((await kept.more).cursor.nextBatch.length, 1, 'whose rights have not changed is not disturbed');
    kept.raw.close();
  });

  test('a cursor that rests goes on only with the right to all that it reads', async () => {
    const reads = (collection) => ({resource: {db: 'shop', collection}, actions: ['find']});
    await client.db('shop').collection('wares').insertMany([...Array(10).keys()].map((i) => ({_id: i})));
    await client.db('shop').collection('costs').insertMany([...Array(10).keys()].map((i) => ({_id: i, cost: i})));
    await admin.command({createRole: 'looker', privileges: [reads('wares'), reads('costs')], roles: []});
    await make('lou', ['looker']);
    const open = async (user) => {
      const raw = await Raw.connect(node);
      await raw.login(user, `${user}-secret`);
      const {cursor} = await raw.run({aggregate: 'wares', pipeline: [{$lookup: {from: 'costs', localField: '_id', foreignField: '_id', as: 'c'}}], cursor: {batchSize: 2}, $db: 'shop'});
      const more = async () => await raw.run({getMore: cursor.id, collection: 'wares', batchSize: 2, $db: 'shop'});
      return {raw, more};
    };
    const lou = await open('lou');
    const two = async () => (await lou.more()).cursor.nextBatch.map((d) => d.c[0].cost);
    assert.deepEqual(await two(), [2, 3]);
    await make('somebody', []); // users are others, lou's rights are not
    assert.deepEqual(await two(), [4, 5]);
    await admin.command({updateRole: 'looker', privileges: [reads('wares')]});
    assert.deepEqual([(await lou.more()).code, (await lou.more()).code], [13, 13]);
    assert.equal((await lou.raw.run({find: 'wares', $db: 'shop'})).ok, 1, 'its own collection it may read');
    await admin.command({updateRole: 'looker', privileges: [reads('wares'), reads('costs')]});
    assert.deepEqual(await two(), [6, 7]);
    assert.deepEqual(await two(), [8, 9]);
    lou.raw.close();
  });

  test('one may change one’s own password only with the privilege for it', async () => {
    await make('own', [{role: 'readWrite', db: 'shop'}]);
    const c = await as('own');
    assert.equal(await codeOf(() => c.db('admin').command({updateUser: 'own', pwd: 'mine'})), 13);
    assert.equal(await codeOf(() => c.db('admin').command({updateUser: 'admin', pwd: 'mine'})), 13);
    await admin.command({createRole: 'selfService', privileges: [{resource: {db: 'admin', collection: ''}, actions: ['changeOwnPassword', 'changeOwnCustomData']}], roles: []});
    await admin.command({grantRolesToUser: 'own', roles: ['selfService']});
    await c.db('admin').command({updateUser: 'own', pwd: 'mine'});
    assert.equal(await codeOf(() => c.db('admin').command({updateUser: 'own', roles: ['root']})), 13);
    await (await as('own', 'mine')).close();
    await c.close();
  });

  test('dropAllUsersFromDatabase', async () => {
    const d = client.db('temp');
    for (const u of ['a', 'b', 'c']) await d.command({createUser: u, pwd: 'x', roles: ['read']});
    assert.equal((await d.command({dropAllUsersFromDatabase: 1})).n, 3);
    assert.deepEqual((await d.command({usersInfo: 1})).users, []);
  });

  test('users survive a restart; the bootstrap happens once', async () => {
    await make('stay', [{role: 'read', db: 'shop'}]);
    await admin.command({createUser: 'boss', pwd: 'boss-secret', roles: ['root']});
    await node.vedctl('restart', 'gatewayd');
    await node.whole();
    const c = await as('stay');
    assert.equal(await c.db('shop').collection('goods').countDocuments(), 2);
    await c.close();
    const boss = await as('boss');
    await boss.db('admin').command({updateUser: 'admin', pwd: 'another-secret'});
    await node.vedctl('restart', 'gatewayd');
    await node.whole();
    assert.equal((await failed(as('admin', node.info.password))).code, 18, 'the bootstrap file does not bring the old password back');
    await until('the node takes logins', async () => {
      try {
        await boss.db('admin').command({updateUser: 'admin', pwd: node.info.password});
        return true;
      } catch {
        return false;
      }
    }, 10000);
    await boss.close();
    await client.close();
    client = await node.client();
    admin = client.db('admin');
  });
});

// Every row: a command, and who may run it.
const ROLES = ['read', 'readWrite', 'dbAdmin', 'userAdmin', 'dbOwner', 'clusterMonitor', 'clusterAdmin', 'readAnyDatabase', 'readWriteAnyDatabase', 'dbAdminAnyDatabase', 'userAdminAnyDatabase', 'backup', 'restore', 'root'];
const CLUSTER = ROLES.slice(5);
const TABLE = [
  ['shop', {find: 'goods'}, ['read', 'readWrite', 'dbOwner', 'readAnyDatabase', 'readWriteAnyDatabase', 'backup', 'root']],
  ['shop', {aggregate: 'goods', pipeline: [], cursor: {}}, ['read', 'readWrite', 'dbOwner', 'readAnyDatabase', 'readWriteAnyDatabase', 'backup', 'root']],
  ['shop', {count: 'goods'}, ['read', 'readWrite', 'dbOwner', 'readAnyDatabase', 'readWriteAnyDatabase', 'backup', 'root']],
  ['shop', {distinct: 'goods', key: 'a'}, ['read', 'readWrite', 'dbOwner', 'readAnyDatabase', 'readWriteAnyDatabase', 'backup', 'root']],
  ['shop', {insert: 'goods', documents: [{t: 1}]}, ['readWrite', 'dbOwner', 'readWriteAnyDatabase', 'restore', 'root']],
  ['shop', {update: 'goods', updates: [{q: {_id: 0}, u: {$set: {a: 1}}}]}, ['readWrite', 'dbOwner', 'readWriteAnyDatabase', 'root']],
  ['shop', {delete: 'goods', deletes: [{q: {_id: 0}, limit: 1}]}, ['readWrite', 'dbOwner', 'readWriteAnyDatabase', 'root']],
  ['shop', {findAndModify: 'goods', query: {_id: 0}, update: {$set: {a: 1}}}, ['readWrite', 'dbOwner', 'readWriteAnyDatabase', 'root']],
  ['other', {find: 'things'}, ['readAnyDatabase', 'readWriteAnyDatabase', 'backup', 'root']],
  ['other', {insert: 'things', documents: [{t: 1}]}, ['readWriteAnyDatabase', 'restore', 'root']],
  ['shop', {collStats: 'goods'}, ['read', 'readWrite', 'dbAdmin', 'dbOwner', 'clusterMonitor', 'clusterAdmin', 'readAnyDatabase', 'readWriteAnyDatabase', 'dbAdminAnyDatabase', 'backup', 'root']],
  ['shop', {dbStats: 1}, ['read', 'readWrite', 'dbAdmin', 'dbOwner', 'clusterMonitor', 'clusterAdmin', 'readAnyDatabase', 'readWriteAnyDatabase', 'dbAdminAnyDatabase', 'root']],
  ['shop', {validate: 'goods'}, ['dbAdmin', 'dbOwner', 'dbAdminAnyDatabase', 'root']],
  ['shop', {collMod: 'goods'}, ['dbAdmin', 'dbOwner', 'dbAdminAnyDatabase', 'restore', 'root']],
  ['shop', {listIndexes: 'goods'}, ['read', 'readWrite', 'dbAdmin', 'dbOwner', 'readAnyDatabase', 'readWriteAnyDatabase', 'dbAdminAnyDatabase', 'backup', 'root']],
  ['shop', {create: 'made'}, ['readWrite', 'dbAdmin', 'dbOwner', 'readWriteAnyDatabase', 'dbAdminAnyDatabase', 'restore', 'root']],
  ['shop', {drop: 'made'}, ['readWrite', 'dbAdmin', 'dbOwner', 'readWriteAnyDatabase', 'dbAdminAnyDatabase', 'restore', 'root']],
  ['shop', {createUser: 'bySomeone', pwd: 'x', roles: []}, ['userAdmin', 'dbOwner', 'userAdminAnyDatabase', 'restore', 'root']],
  ['shop', {dropUser: 'bySomeone'}, ['userAdmin', 'dbOwner', 'userAdminAnyDatabase', 'restore', 'root']],
  ['shop', {usersInfo: 1}, ['userAdmin', 'dbOwner', 'userAdminAnyDatabase', 'restore', 'root']],
  ['shop', {createRole: 'bySomeone', privileges: [], roles: []}, ['userAdmin', 'dbOwner', 'userAdminAnyDatabase', 'restore', 'root']],
  ['shop', {dropRole: 'bySomeone'}, ['userAdmin', 'dbOwner', 'userAdminAnyDatabase', 'restore', 'root']],
  ['admin', {createUser: 'higher', pwd: 'x', roles: ['root']}, ['userAdminAnyDatabase', 'restore', 'root']],
  ['admin', {dropUser: 'higher'}, ['userAdminAnyDatabase', 'restore', 'root']],
  ['admin', {serverStatus: 1}, ['clusterMonitor', 'clusterAdmin', 'backup', 'root']],
  ['admin', {replSetGetStatus: 1}, ['clusterMonitor', 'clusterAdmin', 'root']],
  ['admin', {hostInfo: 1}, ['clusterMonitor', 'clusterAdmin', 'root']],
  ['admin', {getLog: 'global'}, ['clusterMonitor', 'clusterAdmin', 'root']],
  ['admin', {getParameter: 1, featureCompatibilityVersion: 1}, ['clusterMonitor', 'clusterAdmin', 'backup', 'root']],
  ['admin', {getCmdLineOpts: 1}, ['clusterMonitor', 'clusterAdmin', 'root']],
  ['admin', {currentOp: 1}, ['clusterMonitor', 'clusterAdmin', 'root']],
  ['admin', {aggregate: 1, pipeline: [{$currentOp: {allUsers: true}}], cursor: {}}, ['clusterMonitor', 'clusterAdmin', 'root']],
  ['admin', {aggregate: 1, pipeline: [{$currentOp: {allUsers: false}}], cursor: {}}, ROLES],
  ['admin', {killOp: 1, op: 999999999}, ['clusterAdmin', 'root']],
  ['admin', {killAllSessions: []}, ['clusterAdmin', 'root']],
  ['admin', {fsync: 1}, ['clusterAdmin', 'root']],
  ['admin', {startSession: 1}, ROLES],
  ['admin', {listDatabases: 1}, ROLES],
  ['shop', {listCollections: 1}, ['read', 'readWrite', 'dbAdmin', 'dbOwner', 'readAnyDatabase', 'readWriteAnyDatabase', 'dbAdminAnyDatabase', 'backup', 'restore', 'root']],
  ['shop', {listCollections: 1, nameOnly: true, authorizedCollections: true}, ['read', 'readWrite', 'dbAdmin', 'dbOwner', 'readAnyDatabase', 'readWriteAnyDatabase', 'dbAdminAnyDatabase', 'backup', 'restore', 'clusterMonitor', 'clusterAdmin', 'userAdmin', 'userAdminAnyDatabase', 'root'], true],
  ['admin', {find: 'system.users'}, ['backup', 'restore', 'userAdminAnyDatabase', 'root']],
  ['admin', {insert: 'system.users', documents: [{_id: 'x'}]}, null],
  ['admin', {configureFailPoint: 'failCommand', mode: 'off'}, []],
];

test('the table of roles and commands', {timeout: 120000}, async () => {
  const people = {};
  for (const role of ROLES) {
    await make(`r_${role}`, [{role, db: CLUSTER.includes(role) ? 'admin' : 'shop'}]);
    people[role] = await as(`r_${role}`);
  }
  const wrong = [];
  for (const [db, command, allowed, lax] of TABLE) {
    if (allowed === null || lax) continue;
    for (const role of ROLES) {
      const d = people[role].db(db);
      if (command.drop) await client.db(db).createCollection('made').catch(() => {});
      if (command.create) await client.db(db).dropCollection('made').catch(() => {});
      if (command.dropUser) await client.db(db).command({createUser: command.dropUser, pwd: 'x', roles: []}).catch(() => {});
      if (command.createUser) await client.db(db).command({dropUser: command.createUser}).catch(() => {});
      if (command.dropRole) await client.db(db).command({createRole: command.dropRole, privileges: [], roles: []}).catch(() => {});
      if (command.createRole) await client.db(db).command({dropRole: command.createRole}).catch(() => {});
      const code = await d.command(structuredClone(command)).then((r) => r.writeErrors?.[0]?.code ?? 0, (e) => e.code ?? e.message);
      const may = allowed.includes(role);
      if ((code !== 13) !== may && !(code === 59 && !may)) wrong.push(`${role}: ${db} ${JSON.stringify(command)}: ${code}, ${may ? 'should be allowed' : 'should be refused'}`);
      else if (may && code !== 0) wrong.push(`${role}: ${db} ${JSON.stringify(command)}: fails with ${code}`);
    }
  }
  for (const c of Object.values(people)) await c.close();
  assert.deepEqual(wrong, []);
});

test('listDatabases shows only what one may see', async () => {
  await make('viewer', [{role: 'read', db: 'shop'}]);
  const c = await as('viewer');
  assert.deepEqual((await c.db('admin').command({listDatabases: 1, nameOnly: true})).databases, [{name: 'shop'}]);
  assert.equal(await codeOf(() => c.db('admin').command({listDatabases: 1, authorizedDatabases: false})), 13);
  assert.equal((await client.db('admin').command({listDatabases: 1, nameOnly: true})).databases.length >= 3, true);
  await c.close();
});

test('credentials are never readable, and system collections can’t be written by hand', async () => {
  assert.equal(typeof (await codeOf(() => admin.collection('system.users').insertOne({_id: 'admin.fake'}))), 'number');
  assert.equal(typeof (await codeOf(() => admin.collection('system.users').updateOne({}, {$set: {roles: []}}))), 'number');
  assert.equal(typeof (await codeOf(() => admin.collection('system.users').drop())), 'number');
  assert.equal(typeof (await codeOf(() => admin.command({renameCollection: 'shop.goods', to: 'admin.system.users', dropTarget: true}))), 'number');
  await make('curious', [{role: 'readWrite', db: 'admin'}]);
  const c = await as('curious');
  assert.equal(await codeOf(() => c.db('admin').collection('system.users').findOne()), 13);
  assert.equal(await codeOf(() => c.db('admin').collection('system.roles').findOne()), 13);
  await c.close();
});

describe('custom roles', () => {
  test('privileges on one collection', async () => {
    await client.db('shop').command({createRole: 'clerk', privileges: [{resource: {db: 'shop', collection: 'goods'}, actions: ['find', 'insert']}], roles: []});
    await make('clem', [{role: 'clerk', db: 'shop'}]);
    const c = await as('clem');
    const goods = c.db('shop').collection('goods');
    assert.ok(await goods.findOne());
    await goods.insertOne({_id: 'by clem'});
    assert.equal(await codeOf(() => goods.deleteOne({_id: 'by clem'})), 13);
    assert.equal(await codeOf(() => c.db('shop').collection('bills').findOne()), 13);
    assert.equal(await codeOf(() => goods.updateOne({_id: 1}, {$set: {a: 1}})), 13);
    await client.db('shop').command({grantPrivilegesToRole: 'clerk', privileges: [{resource: {db: 'shop', collection: 'goods'}, actions: ['remove']}]});
    assert.equal((await goods.deleteOne({_id: 'by clem'})).deletedCount, 1);
    await client.db('shop').command({revokePrivilegesFromRole: 'clerk', privileges: [{resource: {db: 'shop', collection: 'goods'}, actions: ['remove']}]});
    assert.equal(await codeOf(() => goods.deleteOne({_id: 1})), 13);
    await client.db('shop').command({updateRole: 'clerk', privileges: []});
    assert.equal(await codeOf(() => goods.findOne()), 13);
    await client.db('shop').command({dropRole: 'clerk'});
    assert.deepEqual((await admin.command({usersInfo: 'clem'})).users[0].roles, []);
    await c.close();
  });

  test('inheritance, also across admin; cycles are refused', async () => {
    await admin.command({createRole: 'base', privileges: [], roles: [{role: 'read', db: 'shop'}]});
    await admin.command({createRole: 'middle', privileges: [], roles: ['base']});
    await admin.command({createRole: 'top', privileges: [], roles: ['middle']});
    await make('ina', ['top']);
    const c = await as('ina');
    assert.ok(await c.db('shop').collection('goods').findOne());
    const {roles: [top]} = await admin.command({rolesInfo: 'top', showPrivileges: true});
    assert.deepEqual(top.roles, [{role: 'middle', db: 'admin'}]);
    assert.deepEqual(top.inheritedRoles.map((r) => r.role).sort(), ['base', 'middle', 'read']);
    assert.ok(top.inheritedPrivileges.some((p) => p.actions.includes('find')));
    assert.equal(top.isBuiltin, false);
    assert.equal(await codeOf(() => admin.command({grantRolesToRole: 'base', roles: ['top']})), 39);
    assert.equal(await codeOf(() => admin.command({grantRolesToRole: 'base', roles: ['base']})), 39);
    await admin.command({revokeRolesFromRole: 'middle', roles: ['base']});
    assert.equal(await codeOf(() => c.db('shop').collection('goods').findOne()), 13);
    await admin.command({grantRolesToRole: 'middle', roles: ['base']});
    await admin.command({dropRole: 'base'});
    assert.equal(await codeOf(() => c.db('shop').collection('goods').findOne()), 13);
    await c.close();
  });

  test('what is wrong is refused', async () => {
    const shop = client.db('shop');
    for (const [db, command, code] of [
      [shop, {createRole: 'read', privileges: [], roles: []}, null], [shop, {createRole: 'x', privileges: [{resource: {cluster: true}, actions: ['serverStatus']}], roles: []}, null],
      [shop, {createRole: 'x', privileges: [{resource: {db: 'other', collection: ''}, actions: ['find']}], roles: []}, null], [shop, {createRole: 'x', privileges: [{resource: {db: 'shop', collection: ''}, actions: ['fly']}], roles: []}, null],
      [shop, {createRole: 'x', privileges: [], roles: ['nothing']}, 31], [shop, {createRole: 'x', roles: []}, null], [shop, {dropRole: 'nothing'}, 31], [shop, {dropRole: 'read'}, null], [shop, {updateRole: 'readWrite', roles: []}, null],
      [shop, {createRole: 'x', privileges: [{resource: {db: 'shop'}, actions: ['find']}], roles: []}, null],
    ]) {
      const got = await db.command(command).then(() => 0, (e) => e.code);
      assert.ok(got > 0 && (code === null || got === code), `${JSON.stringify(command)}: ${got}`);
    }
    assert.ok((await shop.command({rolesInfo: 1, showBuiltinRoles: true})).roles.some((r) => r.role === 'readWrite' && r.isBuiltin));
  });

  test('nobody grants what they may not grant', async () => {
    await make('una', [{role: 'userAdmin', db: 'shop'}]);
    const c = await as('una');
    await c.db('shop').command({createUser: 'low', pwd: 'x', roles: ['readWrite']});
    assert.equal(await codeOf(() => c.db('shop').command({createUser: 'high', pwd: 'x', roles: [{role: 'root', db: 'admin'}]})), 13);
    assert.equal(await codeOf(() => c.db('shop').command({grantRolesToUser: 'low', roles: [{role: 'read', db: 'other'}]})), 13);
    assert.equal(await codeOf(() => c.db('other').command({createUser: 'low', pwd: 'x', roles: []})), 13);
    await c.close();
  });
});

test('who fails again and again is locked out, not for good', {timeout: 60000}, async () => {
  const other = await Node.start({set: ['gateway.login_rate=20', 'gateway.lockout=2s']});
  try {
    for (let i = 0; i < 26; i++) {
      const raw = await Raw.connect(other);
      assert.equal((await raw.login('admin', 'wrong')).code, 18);
      raw.close();
    }
    await until('the right password works again', async () => {
      const raw = await Raw.connect(other);
      const r = await raw.login();
      raw.close();
      return r.done === true;
    }, 40000);
    assert.match(other.log(), /a user is locked out from an address/);
  } finally {
    await other.stop();
  }
});

describe('authenticationRestrictions', () => {
  const here = [{clientSource: ['127.0.0.0/8'], serverAddress: '127.0.0.1'}], away = [{clientSource: ['10.0.0.0/8', '192.168.1.7', '2001:db8::/32']}];

  test('what is no address is refused', async () => {
    const db = client.db('admin');
    for (const [restrictions, code] of [[{}, 14], [[1], 14], [[{clientSource: 1}], 14], [[{source: '127.0.0.1'}], 2], [[{clientSource: 'x'}], 12], [[{clientSource: ['127.0.0.1/33']}], 12],
      [[{clientSource: '127.0.0.1/'}], 12], [[{serverAddress: ['::1/129']}], 12], [[{clientSource: '127.0.0.1/8x'}], 12]])
      await assert.rejects(db.command({createUser: 'r', pwd: 'x', roles: [], authenticationRestrictions: restrictions}), {code}, JSON.stringify(restrictions));
  });

  test('who comes from elsewhere is not let in; shown by usersInfo', async () => {
    const db = client.db('admin');
    const make = async (name, authenticationRestrictions, roles = ['readAnyDatabase']) => await db.command({createUser: name, pwd: `${name}-secret`, roles, authenticationRestrictions});
    await make('near', here);
    await make('far', away);
    await make('either', [...away, ...here]);
    await make('wrong server', [{clientSource: '127.0.0.1', serverAddress: '127.0.0.2'}]);
    await make('anywhere', []);
    for (const name of ['near', 'either', 'anywhere']) await (await as(name)).close();
    for (const name of ['far', 'wrong server']) await assert.rejects(as(name), {code: 18}, name);
    assert.deepEqual((await db.command({usersInfo: 'far', showAuthenticationRestrictions: true})).users[0].authenticationRestrictions, away);
    assert.equal((await db.command({usersInfo: 'far'})).users[0].authenticationRestrictions, undefined);
  });

  test('those of roles count, inherited ones too; a change takes hold at once', async () => {
    const db = client.db('admin');
    await db.command({createRole: 'outer', privileges: [], roles: [], authenticationRestrictions: away});
    await db.command({createRole: 'inner', privileges: [], roles: ['outer']});
    await db.command({createUser: 'guest', pwd: 'guest-secret', roles: ['inner', 'readAnyDatabase']});
    await assert.rejects(as('guest'), {code: 18});
    assert.deepEqual((await db.command({usersInfo: 'guest', showPrivileges: true})).users[0].inheritedAuthenticationRestrictions, [away]);
    assert.deepEqual((await db.command({rolesInfo: 'outer', showAuthenticationRestrictions: true})).roles[0].authenticationRestrictions, away);
    await db.command({updateRole: 'outer', authenticationRestrictions: here});
    const guest = await as('guest');
    await guest.db('shop').collection('goods').findOne();
    await db.command({updateUser: 'guest', authenticationRestrictions: away});
    await assert.rejects(guest.db('shop').collection('goods').findOne(), {code: 13});
    await guest.close();
    await assert.rejects(as('guest'), {code: 18});
  });
});

// ---- TLS ----

const tryTls = (options) => new Promise((resolve) => {
  const s = tls.connect({host: '127.0.0.1', ca: fs.readFileSync(node.info.caFile), port: node.port, ...options}, () => {
    resolve({protocol: s.getProtocol(), cipher: s.getCipher().name});
    s.destroy();
  });
  s.on('error', (e) => resolve({error: e.code ?? e.message}));
});

describe('TLS', () => {
  test('1.2 and 1.3 are spoken with modern suites; older versions and weak suites are refused', async () => {
    assert.equal((await tryTls({})).protocol, 'TLSv1.3');
    assert.equal((await tryTls({maxVersion: 'TLSv1.2'})).protocol, 'TLSv1.2');
    assert.ok((await tryTls({minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0'})).error);
    assert.ok((await tryTls({minVersion: 'TLSv1', maxVersion: 'TLSv1', ciphers: 'DEFAULT@SECLEVEL=0'})).error);
    for (const ciphers of ['AES128-SHA', 'AES256-GCM-SHA384', 'ECDHE-ECDSA-AES128-SHA', 'ECDHE-ECDSA-AES128-SHA256', 'NULL@SECLEVEL=0'])
      assert.ok((await tryTls({maxVersion: 'TLSv1.2', ciphers})).error, ciphers);
  });

  test('a client that does not know the authority refuses the server', async () => {
    assert.match((await tryTls({ca: undefined})).error, /CERT|SELF_SIGNED|ISSUER/i);
    const other = new MongoClient(`mongodb://127.0.0.1:${node.port}/?tls=true`, {serverSelectionTimeoutMS: 1500});
    await assert.rejects(other.connect());
    await other.close();
  });

  test('plaintext gets nothing', async () => {
    const got = await new Promise((resolve) => {
      const s = net.connect(node.port, '127.0.0.1', () => s.write(msg({hello: 1, $db: 'admin'})));
      let bytes = Buffer.alloc(0);
      s.on('data', (d) => (bytes = Buffer.concat([bytes, d])));
      s.on('close', () => resolve(bytes));
      s.on('error', () => resolve(bytes));
    });
    assert.ok(!got.includes(Buffer.from('maxWireVersion')) && got.length < 100, 'at most an alert');
  });

  const authority = (dir, name) => {
    const run = (...a) => execFileSync('openssl', a, {cwd: dir, stdio: 'pipe'});
    run('ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', `${name}.key`);
    run('req', '-x509', '-new', '-key', `${name}.key`, '-days', '2', '-subj', `/CN=${name}`, '-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign', '-out', `${name}.pem`);
  };
  const certificate = (dir, ca, name, days = '2') => {
    const run = (...a) => execFileSync('openssl', a, {cwd: dir, stdio: 'pipe'});
    run('ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', `${name}.key`);
    run('req', '-new', '-key', `${name}.key`, '-subj', `/CN=${name}`, '-out', `${name}.csr`);
    fs.writeFileSync(path.join(dir, `${name}.ext`), 'basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n');
    run('x509', '-req', '-in', `${name}.csr`, '-CA', `${ca}.pem`, '-CAkey', `${ca}.key`, '-CAcreateserial', '-days', days, '-extfile', `${name}.ext`, '-out', `${name}.pem`);
    fs.writeFileSync(path.join(dir, `${name}-both.pem`), Buffer.concat([fs.readFileSync(path.join(dir, `${name}.pem`)), fs.readFileSync(path.join(dir, `${name}.key`))]));
    return path.join(dir, `${name}-both.pem`);
  };
  for (const mode of ['required', 'optional']) {
    test(`client certificates: ${mode}`, {timeout: 60000}, async () => {
      const other = await Node.start({set: [`tls.client_certificates=${mode}`]});
      const work = fs.mkdtempSync(path.join(other.dir, 'certs-'));
      try {
        const certs = path.join(other.dir, 'certs');
        for (const f of ['ca.pem', 'ca.key']) fs.copyFileSync(path.join(certs, f), path.join(work, f));
        const good = certificate(work, 'ca', 'good');
        authority(work, 'stranger');
        const bad = certificate(work, 'stranger', 'bad');
        const tryWith = async (file) => {
          const c = new MongoClient(other.uri + (file ? `&tlsCertificateKeyFile=${file}` : ''), {serverSelectionTimeoutMS: 1500});
          try {
            await c.connect();
            await c.db('x').collection('y').insertOne({});
            return true;
          } catch {
            return false;
          } finally {
            await c.close();
          }
        };
        assert.equal(await tryWith(good), true, 'a certificate of the authority');
        assert.equal(await tryWith(bad), false, 'a stranger’s');
        assert.equal(await tryWith(null), mode === 'optional', 'none');
      } finally {
        await other.stop();
      }
    });
  }

  test('a private key that others can read, or that fits no certificate: the node does not start', async () => {
    const other = await Node.start();
    try {
      await other.down();
      const key = path.join(other.dir, 'certs/server.key');
      fs.chmodSync(key, 0o644);
      await assert.rejects(other.up());
      assert.match(other.log(), /server\.key/);
      fs.writeFileSync(key, execFileSync('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout'], {stdio: ['ignore', 'pipe', 'ignore']}));
      fs.chmodSync(key, 0o600);
      await assert.rejects(other.up());
      assert.match(other.log(), /server\.key|certificate/);
    } finally {
      await other.stop();
    }
  });
});
