// tests/surface/commands.mjs — commands: data, sessions, logins, users, collections, diagnostics.
import assert from 'node:assert/strict';
import {L, admin, all, code, command, fresh, go, has, kept, shaped} from './kit.mjs';
import {Raw} from '../support/wire.mjs';

const ok = has({ok: 1});
/** on({name: c => command}): a command about a new collection with two documents. */
const on = (label, make, want, docs = [{_id: 1, a: 1}, {_id: 2, a: 2}]) => go(label, async (ctx) => {
  const c = await fresh(ctx, docs);
  return ctx.db.command(make(c.collectionName, c));
}, want);

const data = {
  find: on('find', (c) => ({find: c, filter: {a: 2}}), (r) => assert.deepEqual(r.cursor.firstBatch, [{_id: 2, a: 2}])),
  getMore: all(
    go('after a first batch', async (ctx) => {
      const c = await fresh(ctx, [{_id: 1}, {_id: 2}]);
      const r = await ctx.db.command({find: c.collectionName, batchSize: 1});
      return (await ctx.db.command({getMore: r.cursor.id, collection: c.collectionName})).cursor.nextBatch;
    }, [{_id: 2}]),
    command({getMore: L(12345), collection: 'x'}, code(43)),
  ),
  killCursors: all(
    go('an open cursor', async (ctx) => {
      const c = await fresh(ctx, [{_id: 1}, {_id: 2}]);
      const r = await ctx.db.command({find: c.collectionName, batchSize: 1});
      return (await ctx.db.command({killCursors: c.collectionName, cursors: [r.cursor.id]})).cursorsKilled.length;
    }, 1),
    command({killCursors: 'x', cursors: [L(77)]}, (r) => assert.equal(r.cursorsNotFound.length, 1)),
  ),
  insert: all(on('insert', (c) => ({insert: c, documents: [{_id: 3}]}), has({n: 1})), on('twice', (c) => ({insert: c, documents: [{_id: 1}, {_id: 3}], ordered: false}), (r) => (assert.equal(r.n, 1), assert.equal(r.writeErrors[0].code, 11000)))),
  update: all(command({update: 'nothing', updates: [{q: {_id: 1}, u: {$set: {a: 1}}}]}, has({n: 0, nModified: 0})), on('many', (c) => ({update: c, updates: [{q: {}, u: {$inc: {a: 1}}, multi: true}]}), has({n: 2, nModified: 2})), on('upsert', (c) => ({update: c, updates: [{q: {_id: 9}, u: {$set: {a: 1}}, upsert: true}]}), has({n: 1, nModified: 0, upserted: [{index: 0, _id: 9}]}))),
  delete: all(command({delete: 'nothing', deletes: [{q: {_id: 1}, limit: 1}]}, has({n: 0})), on('delete', (c) => ({delete: c, deletes: [{q: {a: {$gt: 0}}, limit: 1}]}), has({n: 1}))),
  findAndModify: all(on('new', (c) => ({findAndModify: c, query: {_id: 1}, update: {$inc: {a: 1}}, new: true}), has({value: {_id: 1, a: 2}, lastErrorObject: {n: 1, updatedExisting: true}})), on('remove', (c) => ({findAndModify: c, query: {}, sort: {a: -1}, remove: true}), has({value: {_id: 2, a: 2}}))),
  aggregate: all(on('aggregate', (c) => ({aggregate: c, pipeline: [{$count: 'n'}], cursor: {}}), (r) => assert.deepEqual(r.cursor.firstBatch, [{n: 2}])), on('without cursor', (c) => ({aggregate: c, pipeline: []}), code(9))),
  count: all(on('with a query', (c) => ({count: c, query: {a: {$gt: 1}}}), has({n: 1})), on('limit and skip', (c) => ({count: c, skip: 1, limit: 5}), has({n: 1}))),
  distinct: on('distinct', (c) => ({distinct: c, key: 'a'}), has({values: [1, 2]})),
  explain: all(
    on('find', (c) => ({explain: {find: c, filter: {a: 1}}, verbosity: 'queryPlanner'}), shaped({'queryPlanner.winningPlan': 'object', 'queryPlanner.parsedQuery': 'object', serverInfo: 'object'})),
    on('executionStats', (c) => ({explain: {find: c, filter: {a: 1}}, verbosity: 'executionStats'}), (r) => assert.deepEqual([r.executionStats.nReturned, r.executionStats.totalDocsExamined], [1, 2])),
    on('update', (c) => ({explain: {update: c, updates: [{q: {a: 1}, u: {$set: {a: 5}}}]}}), shaped({'queryPlanner.winningPlan': 'object'})),
  ),
  mapReduce: on('mapReduce', (c) => ({mapReduce: c, map: 'function() { emit(1, this.a); }', reduce: 'function(k, v) { return Array.sum(v); }', out: {inline: 1}}), (r) => assert.deepEqual(r.results, [{_id: 1, value: 3}])),
};

const byHand = async (ctx, talk) => {
  const wire = await Raw.connect(ctx.node);
  try {
    return await talk(wire);
  } finally {
    wire.close();
  }
};
const said = (r) => (r.ok === 1 ? r : Promise.reject(Object.assign(new Error(r.errmsg), {code: r.code})));
const inTransaction = async (ctx, end) => {
  const c = await fresh(ctx, [{_id: 1}]);
  const session = ctx.client.startSession();
  try {
    session.startTransaction();
    await c.insertOne({_id: 2}, {session});
    const outside = await c.countDocuments();
    await end(session);
    return [outside, await c.countDocuments()];
  } finally {
    await session.endSession();
  }
};
const lsid = async (ctx) => (await ctx.admin.command({startSession: 1})).id;
const sessions = {
  endSessions: go('endSessions', async (ctx) => ctx.admin.command({endSessions: [await lsid(ctx)]}), ok),
  commitTransaction: all(go('commit', (ctx) => inTransaction(ctx, (s) => s.commitTransaction()), [1, 2]), go('outside of a transaction', (ctx) => byHand(ctx, async (w) => (await w.login(), said(await w.run({commitTransaction: 1, $db: 'admin'})))), code(125))),
  abortTransaction: go('abort', (ctx) => inTransaction(ctx, (s) => s.abortTransaction()), [1, 1]),
  startSession: admin({startSession: 1}, (r) => (shaped({'id.id': 'Binary', timeoutMinutes: 'number'})(r), assert.equal(r.timeoutMinutes, 30))),
  refreshSessions: go('refreshSessions', async (ctx) => ctx.admin.command({refreshSessions: [await lsid(ctx)]}), ok),
  killSessions: go('killSessions', async (ctx) => ctx.admin.command({killSessions: [await lsid(ctx)]}), ok),
  killAllSessions: all(admin({killAllSessions: [{user: 'nobody', db: 'admin'}]}, ok), admin({killAllSessions: 1}, code(14))),
  killAllSessionsByPattern: admin({killAllSessionsByPattern: [{users: [{user: 'nobody', db: 'admin'}]}]}, ok),
};

const logins = {
  saslStart: all(
    go('SCRAM-SHA-256', (ctx) => byHand(ctx, async (w) => (await w.login()).ok), 1),
    go('a wrong password', (ctx) => byHand(ctx, async (w) => said(await w.login('admin', 'wrong'))), code(18)),
    go('an unknown mechanism', (ctx) => byHand(ctx, async (w) => said(await w.run({saslStart: 1, mechanism: 'NONE', payload: '', $db: 'admin'}))), code(334, 2)),
  ),
  saslContinue: all(go('SCRAM-SHA-256', (ctx) => byHand(ctx, async (w) => (await w.login()).done), true), go('without saslStart', (ctx) => byHand(ctx, async (w) => said(await w.run({saslContinue: 1, conversationId: 1, payload: '', $db: 'admin'}))), code(17))),
  'hello(speculativeAuthenticate)': go('speculativeAuthenticate', (ctx) => byHand(ctx, (w) => w.run({hello: 1, saslSupportedMechs: 'admin.admin', speculativeAuthenticate: {saslStart: 1, mechanism: 'SCRAM-SHA-256', payload: Buffer.from('n,,n=admin,r=abcdefgh'), db: 'admin'}, $db: 'admin'})), (r) => (shaped({'speculativeAuthenticate.payload': 'Binary', 'speculativeAuthenticate.conversationId': 'number'})(r), assert.ok(r.saslSupportedMechs.includes('SCRAM-SHA-256')))),
  logout: go('logout', (ctx) => byHand(ctx, async (w) => {
    await w.login();
    await w.run({logout: 1, $db: 'admin'});
    return said(await w.run({find: 'x', $db: 'surface'}));
  }), code(13)),
  authenticate: go('MONGODB-X509', (ctx) => byHand(ctx, async (w) => said(await w.run({authenticate: 1, mechanism: 'MONGODB-X509', $db: '$external'}))), code(18, 334, 2)),
};

let people = 0;
/** A new user (or role) and what talk makes of it. */
const user = (label, talk, want) => go(label, async (ctx) => {
  const name = `user${++people}`;
  await ctx.db.command({createUser: name, pwd: 'long-password-1', roles: ['read']});
  try {
    await talk(ctx.db, name);
    return ((await ctx.db.command({usersInfo: name})).users[0]?.roles ?? []).map((r) => r.role).sort();
  } finally {
    await ctx.db.command({dropUser: name}).catch(() => 0);
  }
}, want);
const role = (label, talk, want) => go(label, async (ctx) => {
  const name = `role${++people}`, db = ctx.db.databaseName;
  await ctx.db.command({createRole: name, privileges: [{resource: {db, collection: 'x'}, actions: ['find']}], roles: []});
  try {
    await talk(ctx.db, name);
    const [r] = (await ctx.db.command({rolesInfo: name, showPrivileges: true})).roles;
    return r ? [r.privileges.map((p) => [p.resource.collection, [...p.actions].sort()]), r.roles.map((x) => x.role)] : 'gone';
  } finally {
    await ctx.db.command({dropRole: name}).catch(() => 0);
  }
}, want);
const y = (ctx) => ({resource: {db: ctx.databaseName, collection: 'y'}, actions: ['insert']});
const users = {
  createUser: all(user('createUser', () => 0, ['read']), user('twice', (db, name) => db.command({createUser: name, pwd: 'long-password-1', roles: []}), code(51003)), command({createUser: 'z', pwd: 'long-password-1', roles: ['none']}, code(31))),
  dropUser: all(user('dropUser', (db, name) => db.command({dropUser: name}), []), command({dropUser: 'nobody'}, code(11))),
  usersInfo: all(user('usersInfo', async (db, name) => has({_id: `${db.databaseName}.${name}`, db: db.databaseName, mechanisms: ['SCRAM-SHA-256']})((await db.command({usersInfo: name})).users[0]), ['read']), command({usersInfo: 'nobody'}, has({users: []}))),
  updateUser: user('updateUser', (db, name) => db.command({updateUser: name, roles: ['readWrite', 'dbAdmin']}), ['dbAdmin', 'readWrite']),
  grantRolesToUser: user('grantRolesToUser', (db, name) => db.command({grantRolesToUser: name, roles: ['dbAdmin']}), ['dbAdmin', 'read']),
  revokeRolesFromUser: user('revokeRolesFromUser', (db, name) => db.command({revokeRolesFromUser: name, roles: ['read']}), []),
  dropAllUsersFromDatabase: go('dropAllUsersFromDatabase', async (ctx) => {
    const db = ctx.client.db('surface_users');
    for (const name of ['a', 'b']) await db.command({createUser: name, pwd: 'long-password-1', roles: []});
    return db.command({dropAllUsersFromDatabase: 1});
  }, has({n: 2})),
  createRole: all(role('createRole', () => 0, [[['x', ['find']]], []]), command({createRole: 'read', privileges: [], roles: []}, code(2, 51002))),
  dropRole: all(role('dropRole', (db, name) => db.command({dropRole: name}), 'gone'), command({dropRole: 'nothing'}, code(31))),
  rolesInfo: all(command({rolesInfo: 'read'}, (r) => has({role: 'read', isBuiltin: true, inheritedRoles: []})(r.roles[0])), command({rolesInfo: 1, showBuiltinRoles: true}, (r) => assert.ok(r.roles.some((x) => x.role === 'dbOwner')))),
  updateRole: role('updateRole', (db, name) => db.command({updateRole: name, privileges: [y(db)]}), [[['y', ['insert']]], []]),
  grantPrivilegesToRole: role('grantPrivilegesToRole', (db, name) => db.command({grantPrivilegesToRole: name, privileges: [y(db)]}), [[['x', ['find']], ['y', ['insert']]], []]),
  revokePrivilegesFromRole: role('revokePrivilegesFromRole', (db, name) => db.command({revokePrivilegesFromRole: name, privileges: [{resource: {db: db.databaseName, collection: 'x'}, actions: ['find']}]}), [[], []]),
  grantRolesToRole: role('grantRolesToRole', (db, name) => db.command({grantRolesToRole: name, roles: ['read']}), [[['x', ['find']]], ['read']]),
  revokeRolesFromRole: role('revokeRolesFromRole', async (db, name) => (await db.command({grantRolesToRole: name, roles: ['read', 'dbAdmin']}), db.command({revokeRolesFromRole: name, roles: ['read']})), [[['x', ['find']]], ['dbAdmin']]),
  dropAllRolesFromDatabase: go('dropAllRolesFromDatabase', async (ctx) => {
    const db = ctx.client.db('surface_users');
    await db.command({createRole: 'r', privileges: [], roles: []});
    return db.command({dropAllRolesFromDatabase: 1});
  }, has({n: 1})),
  invalidateUserCache: admin({invalidateUserCache: 1}, ok),
};

const collections = {
  create: all(go('create', async (ctx) => ctx.db.command({create: 'created'}), ok), command({create: ''}, code(73))),
  drop: all(on('drop', (c) => ({drop: c}), has({nIndexesWas: 1})), command({drop: 'nothing'}, ok)),
  dropDatabase: go('dropDatabase', async (ctx) => {
    const db = ctx.client.db('surface_drop');
    await db.collection('x').insertOne({});
    const r = await db.command({dropDatabase: 1});
    return [r.dropped, (await ctx.admin.admin().listDatabases({nameOnly: true})).databases.some((d) => d.name === 'surface_drop')];
  }, ['surface_drop', false]),
  listCollections: all(go('by filter', async (ctx) => {
    const c = await fresh(ctx, [{}]);
    return (await ctx.db.command({listCollections: 1, filter: {name: c.collectionName}})).cursor.firstBatch.map((r) => [r.name === c.collectionName, r.type, Object.keys(r).sort()]);
  }, [[true, 'collection', ['idIndex', 'info', 'name', 'options', 'type']]]), command({listCollections: 1, nameOnly: true}, (r) => assert.deepEqual(Object.keys(r.cursor.firstBatch[0]).sort(), ['name', 'type']))),
  listDatabases: all(admin({listDatabases: 1}, shaped({databases: 'array', totalSize: 'number', totalSizeMb: 'number'})), admin({listDatabases: 1, nameOnly: true, filter: {name: 'admin'}}, has({databases: [{name: 'admin'}]}))),
  createIndexes: all(on('createIndexes', (c) => ({createIndexes: c, indexes: [{key: {a: 1}, name: 'a_1'}], commitQuorum: 'majority'}), has({numIndexesBefore: 1, numIndexesAfter: 2, createdCollectionAutomatically: false})), on('without indexes', (c) => ({createIndexes: c, indexes: []}), code(2))),
  dropIndexes: all(on('all', (c) => ({dropIndexes: c, index: '*'}), has({nIndexesWas: 1})), on('none such', (c) => ({dropIndexes: c, index: 'none'}), code(27))),
  listIndexes: all(on('listIndexes', (c) => ({listIndexes: c}), (r) => assert.deepEqual(r.cursor.firstBatch, [{v: 2, key: {_id: 1}, name: '_id_'}])), command({listIndexes: 'nothing'}, code(26))),
  renameCollection: all(go('to another name', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1}]);
    await ctx.admin.command({renameCollection: c.namespace, to: `${ctx.db.databaseName}.renamed`, dropTarget: true});
    return ctx.db.collection('renamed').findOne();
  }, {_id: 1}), admin({renameCollection: 'surface.nothing', to: 'surface.x'}, code(26))),
  collMod: all(
    on('validator', (c) => ({collMod: c, validator: {a: {$exists: true}}, validationLevel: 'moderate'}), ok),
    go('TTL of an index', async (ctx) => {
      const c = await fresh(ctx, [{}]);
      await c.createIndex({at: 1}, {expireAfterSeconds: 100});
      return ctx.db.command({collMod: c.collectionName, index: {keyPattern: {at: 1}, expireAfterSeconds: 200}});
    }, has({expireAfterSeconds_old: 100, expireAfterSeconds_new: 200})),
    go('hidden', async (ctx) => {
      const c = await fresh(ctx, [{}]);
      await c.createIndex({a: 1});
      return ctx.db.command({collMod: c.collectionName, index: {name: 'a_1', hidden: true}});
    }, has({hidden_old: false, hidden_new: true})),
    go('prepareUnique, then unique', async (ctx) => {
      const c = await fresh(ctx, [{a: 1}]);
      await c.createIndex({a: 1});
      await ctx.db.command({collMod: c.collectionName, index: {name: 'a_1', prepareUnique: true}});
      return ctx.db.command({collMod: c.collectionName, index: {name: 'a_1', unique: true}});
    }, has({unique_new: true})),
    command({collMod: 'nothing'}, code(26)),
  ),
  validate: on('validate', (c) => ({validate: c, full: true}), has({valid: true, nrecords: 2, nIndexes: 1, errors: []})),
  convertToCapped: go('convertToCapped', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1}]);
    await ctx.db.command({convertToCapped: c.collectionName, size: 65536});
    return [(await c.options()).capped, await c.countDocuments()];
  }, [true, 1]),
  cloneCollectionAsCapped: go('cloneCollectionAsCapped', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1}]);
    await ctx.db.command({cloneCollectionAsCapped: c.collectionName, toCollection: 'cloned', size: 65536});
    return [(await ctx.db.collection('cloned').options()).capped, await ctx.db.collection('cloned').countDocuments()];
  }, [true, 1]),
  compact: on('compact', (c) => ({compact: c, force: true}), shaped({bytesFreed: 'number'})),
  reIndex: on('reIndex', (c) => ({reIndex: c}), code(20, 59)), // of standalones only; a member of a replica set refuses it
  dataSize: go('dataSize', async (ctx) => ctx.db.command({dataSize: (await fresh(ctx, [{_id: 1}])).namespace}), has({size: 14, numObjects: 1})),
  filemd5: go('filemd5', async (ctx) => {
    await ctx.db.collection('fs.chunks').insertOne({files_id: 1, n: 0, data: Buffer.from('abc')});
    await ctx.db.collection('fs.chunks').createIndex({files_id: 1, n: 1});
    return ctx.db.command({filemd5: 1, root: 'fs'});
  }, has({md5: '900150983cd24fb0d6963f7d28e17f72'})),
};

const diagnostics = {
  hello: all(admin({hello: 1}, (r) => (has({isWritablePrimary: true, minWireVersion: 0, maxWireVersion: 21, maxBsonObjectSize: 16777216, maxMessageSizeBytes: 48000000, maxWriteBatchSize: 100000, logicalSessionTimeoutMinutes: 30, readOnly: false})(r), shaped({localTime: 'date', setName: 'string', hosts: 'array', topologyVersion: 'object'})(r)))),
  isMaster: admin({isMaster: 1}, has({ismaster: true, maxWireVersion: 21})),
  ping: admin({ping: 1}, ok),
  buildInfo: admin({buildInfo: 1}, (r) => (assert.match(r.version, /^7\.0\./), shaped({versionArray: 'array', gitVersion: 'string', bits: 'number', maxBsonObjectSize: 'number', modules: 'array', openssl: 'object'})(r))),
  serverStatus: all(admin({serverStatus: 1}, shaped({host: 'string', version: 'string', process: 'string', pid: 'number', uptime: 'number', localTime: 'date', connections: 'object', 'opcounters.insert': 'number', network: 'object', repl: 'object', 'asserts.user': 'number', mem: 'object', metrics: 'object', wiredTiger: 'object', transactions: 'object', logicalSessionRecordCache: 'object', globalLock: 'object', opLatencies: 'object'}), {promoteLongs: true}), admin({serverStatus: 1, metrics: 0}, (r) => assert.equal(r.metrics, undefined))),
  dbStats: command({dbStats: 1}, shaped({db: 'string', collections: 'number', views: 'number', objects: 'number', avgObjSize: 'number', dataSize: 'number', storageSize: 'number', indexes: 'number', indexSize: 'number', totalSize: 'number', fsUsedSize: 'number', fsTotalSize: 'number', scaleFactor: 'number'})),
  collStats: on('collStats', (c) => ({collStats: c}), (r) => (has({count: 2, nindexes: 1, scaleFactor: 1})(r), shaped({ns: 'string', size: 'number', avgObjSize: 'number', storageSize: 'number', totalIndexSize: 'number', indexSizes: 'object', capped: 'boolean'})(r))),
  connectionStatus: admin({connectionStatus: 1, showPrivileges: true}, (r) => (has({authenticatedUsers: [{user: 'admin', db: 'admin'}]})(r.authInfo), assert.ok(r.authInfo.authenticatedUserPrivileges.length > 0))),
  hostInfo: admin({hostInfo: 1}, shaped({'system.hostname': 'string', 'system.numCores': 'number', 'system.memSizeMB': 'number', os: 'object', extra: 'object'})),
  getCmdLineOpts: admin({getCmdLineOpts: 1}, shaped({argv: 'array', parsed: 'object'})),
  getLog: all(admin({getLog: '*'}, (r) => assert.deepEqual([...r.names].sort(), ['global', 'startupWarnings'])), admin({getLog: 'global'}, shaped({totalLinesWritten: 'number', log: 'array'})), admin({getLog: 'none'}, code(96))),
  top: go('top', async (ctx) => {
    const c = await kept(ctx, 'topped', [{_id: 1}]);
    return (await ctx.admin.command({top: 1})).totals[c.namespace];
  }, shaped({total: 'object', insert: 'object', queries: 'object', 'total.time': 'number', 'total.count': 'number'})),
  whatsmyuri: admin({whatsmyuri: 1}, (r) => assert.match(r.you, /^127\.0\.0\.1:\d+$/)),
  currentOp: admin({currentOp: 1}, shaped({inprog: 'array'})),
  getParameter: all(admin({getParameter: 1, featureCompatibilityVersion: 1}, has({featureCompatibilityVersion: {version: '7.0'}})), admin({getParameter: '*'}, shaped({logLevel: 'number', quiet: 'boolean'})), admin({getParameter: 1, none: 1}, code(72))),
  profile: all(command({profile: -1}, has({was: 0})), command({profile: 0, slowms: 100}, shaped({was: 'number', slowms: 'number', sampleRate: 'number'})), command({profile: 1}, has({was: 0}))),
  listCommands: admin({listCommands: 1}, (r) => (shaped({'commands.find.help': 'string', 'commands.find.adminOnly': 'boolean', 'commands.find.requiresAuth': 'boolean'})(r), assert.ok(r.commands.find.apiVersions.includes('1')))),
  connPoolStats: admin({connPoolStats: 1}, shaped({numClientConnections: 'number', totalInUse: 'number', hosts: 'object', pools: 'object'})),
  dbHash: command({dbHash: 1}, shaped({collections: 'object', md5: 'string', timeMillis: 'number'})),
  lockInfo: admin({lockInfo: 1}, shaped({lockInfo: 'array'})),
  features: admin({features: 1}, ok),
  validateDBMetadata: admin({validateDBMetadata: 1, apiParameters: {version: '1', strict: true, deprecationErrors: true}}, shaped({apiVersionErrors: 'array'})),
  getDiagnosticData: admin({getDiagnosticData: 1}, shaped({data: 'object'})),
};

export default {
  'Commands: Query and write': data,
  'Commands: Session and transaction': sessions,
  'Commands: Authentication': logins,
  'Commands: Users and roles': users,
  'Commands: Collections, indexes, databases': collections,
  'Commands: Diagnostics': diagnostics,
};
