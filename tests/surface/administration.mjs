// tests/surface/administration.mjs — commands of operators: parameters, plan cache, replica sets, sharding, Atlas, tests.
import assert from 'node:assert/strict';
import {admin, all, code, command, fresh, go, has, shaped} from './kit.mjs';

const ok = has({ok: 1});
const on = (label, make, want) => go(label, async (ctx) => {
  const c = await fresh(ctx, [{_id: 1, a: 1}]);
  await c.createIndex({a: 1});
  return ctx.db.command(make(c.collectionName));
}, want);

const administration = {
  setParameter: all(admin({setParameter: 1, logLevel: 0}, shaped({was: 'number'})), admin({setParameter: 1, none: 1}, code(72))),
  killOp: all(admin({killOp: 1, op: 99999999}, has({info: 'attempting to kill op'})), admin({killOp: 1}, code(4, 9, 40414))),
  fsync: all(admin({fsync: 1}, ok), go('lock and unlock', async (ctx) => {
    const a = await ctx.admin.command({fsync: 1, lock: true});
    const b = await ctx.admin.command({fsyncUnlock: 1});
    return [Number(a.lockCount), Number(b.lockCount)];
  }, [1, 0])),
  fsyncUnlock: admin({fsyncUnlock: 1}, code(20)),
  shutdown: command({shutdown: 1}, code(13)), // on admin it would end the server
  logRotate: admin({logRotate: 1}, ok),
  setFeatureCompatibilityVersion: all(admin({setFeatureCompatibilityVersion: '7.0', confirm: true}, ok), admin({setFeatureCompatibilityVersion: '7.0'}, code(7369100)), admin({setFeatureCompatibilityVersion: '1.0', confirm: true}, code(2, 4926900))),
  rotateCertificates: admin({rotateCertificates: 1}, ok),
  getDefaultRWConcern: admin({getDefaultRWConcern: 1}, shaped({defaultReadConcern: 'object', defaultWriteConcern: 'object'})),
  setDefaultRWConcern: all(admin({setDefaultRWConcern: 1, defaultReadConcern: {level: 'local'}}, shaped({defaultReadConcern: 'object', updateOpTime: 'Timestamp'})), admin({setDefaultRWConcern: 1}, code(2))),
  setClusterParameter: all(admin({setClusterParameter: {changeStreamOptions: {preAndPostImages: {expireAfterSeconds: 100}}}}, ok), admin({setClusterParameter: {none: {}}}, code(2, 72))),
  getClusterParameter: admin({getClusterParameter: '*'}, shaped({clusterParameters: 'array'})),
  setUserWriteBlockMode: all(admin({setUserWriteBlockMode: 1, global: false}, ok), go('global: true', async (ctx) => {
    await ctx.admin.command({setUserWriteBlockMode: 1, global: true});
    await ctx.admin.command({setUserWriteBlockMode: 1, global: false});
    return 'done';
  }, 'done')),
  setIndexCommitQuorum: on('no build runs', (c) => ({setIndexCommitQuorum: c, indexNames: ['a_1'], commitQuorum: 'majority'}), code(27)),
  getAuditConfig: admin({getAuditConfig: 1}, code(59, 20)), // of MongoDB's Enterprise edition; the Community edition doesn't know it
  setAuditConfig: admin({setAuditConfig: 1, filter: {}, auditAuthorizationSuccess: false}, code(59, 20)),
};

const plans = {
  planCacheClear: all(on('planCacheClear', (c) => ({planCacheClear: c}), ok), on('of one shape', (c) => ({planCacheClear: c, query: {a: 1}}), ok)),
  planCacheClearFilters: on('planCacheClearFilters', (c) => ({planCacheClearFilters: c}), ok),
  planCacheListFilters: on('planCacheListFilters', (c) => ({planCacheListFilters: c}), has({filters: []})),
  planCacheSetFilter: on('planCacheSetFilter', (c) => ({planCacheSetFilter: c, query: {a: 1}, indexes: ['a_1']}), ok),
};

const replication = {
  replSetGetStatus: admin({replSetGetStatus: 1}, (r) => (shaped({set: 'string', myState: 'number', term: 'number', members: 'array', date: 'date', optimes: 'object'})(r), has({stateStr: 'PRIMARY', health: 1, self: true})(r.members[0]))),
  replSetGetConfig: admin({replSetGetConfig: 1}, (r) => shaped({'config._id': 'string', 'config.version': 'number', 'config.members': 'array', 'config.settings': 'object', 'config.protocolVersion': 'number'})(r)),
  replSetInitiate: admin({replSetInitiate: {}}, code(23)),
  replSetReconfig: go('the same again', async (ctx) => {
    const {config} = await ctx.admin.command({replSetGetConfig: 1});
    return ctx.admin.command({replSetReconfig: {...config, version: config.version + 1}});
  }, ok),
  replSetStepDown: admin({replSetStepDown: 1, secondaryCatchUpPeriodSecs: 0}, code(262)), // nobody could take over
  replSetFreeze: admin({replSetFreeze: 0}, code(95, 10107)), // a primary can't be frozen
  replSetMaintenance: admin({replSetMaintenance: true}, code(95, 10107)),
  replSetSyncFrom: admin({replSetSyncFrom: 'x:1'}, code(95, 10107)),
  replSetAbortPrimaryCatchUp: admin({replSetAbortPrimaryCatchUp: 1}, code(125)),
  replSetResizeOplog: admin({replSetResizeOplog: 1, size: 990}, ok),
  applyOps: go('an insert', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1}]);
    await ctx.admin.command({applyOps: [{op: 'i', ns: c.namespace, o: {_id: 2}}]});
    return c.countDocuments();
  }, 2),
  appendOplogNote: admin({appendOplogNote: 1, data: {note: 'x'}}, ok),
};

// A member of a replica set that is no shard doesn't know the commands of mongos.
const unknown = (name, more = {}) => admin({[name]: 1, ...more}, code(59));
const sharding = {
  enableSharding: unknown('enableSharding'), shardCollection: unknown('shardCollection'), addShard: unknown('addShard'), removeShard: unknown('removeShard'), listShards: unknown('listShards'),
  moveChunk: unknown('moveChunk'), split: unknown('split'), moveRange: unknown('moveRange'), movePrimary: unknown('movePrimary'), balancerStart: unknown('balancerStart'),
  balancerStop: unknown('balancerStop'), balancerStatus: unknown('balancerStatus'), balancerCollectionStatus: unknown('balancerCollectionStatus'), reshardCollection: unknown('reshardCollection'),
  refineCollectionShardKey: unknown('refineCollectionShardKey'), flushRouterConfig: unknown('flushRouterConfig'), addShardToZone: unknown('addShardToZone'),
  removeShardFromZone: unknown('removeShardFromZone'), updateZoneKeyRange: unknown('updateZoneKeyRange'), isdbgrid: unknown('isdbgrid'),
  getShardMap: admin({getShardMap: 1}, code(203)),
  getShardVersion: admin({getShardVersion: 'surface.x'}, code(203)),
  clearJumboFlag: unknown('clearJumboFlag'),
  cleanupOrphaned: admin({cleanupOrphaned: 'surface.x'}, code(203)),
  mergeChunks: unknown('mergeChunks'), mergeAllChunksOnShard: unknown('mergeAllChunksOnShard'), configureCollectionBalancing: unknown('configureCollectionBalancing'),
  checkMetadataConsistency: unknown('checkMetadataConsistency'),
  configureQueryAnalyzer: go('mode off', async (ctx) => ctx.admin.command({configureQueryAnalyzer: (await fresh(ctx, [{}])).namespace, mode: 'off'}), ok),
  abortReshardCollection: unknown('abortReshardCollection'), commitReshardCollection: unknown('commitReshardCollection'),
  analyzeShardKey: go('a key', async (ctx) => {
    const c = await fresh(ctx, [...Array(10).keys()].map((i) => ({_id: i, a: i})));
    await c.createIndex({a: 1});
    return ctx.admin.command({analyzeShardKey: c.namespace, key: {a: 1}});
  }, shaped({keyCharacteristics: 'object'})),
};

const named = /Atlas/;
const atlas = (cmd) => go(JSON.stringify(cmd), async (ctx) => {
  const e = await ctx.db.command(cmd).then((r) => assert.fail(JSON.stringify(r)), (x) => x);
  assert.match(e.message, named);
  throw e;
}, code(31082, 115));
const searchIndexes = {
  createSearchIndexes: atlas({createSearchIndexes: 'x', indexes: [{definition: {mappings: {dynamic: true}}}]}),
  dropSearchIndex: atlas({dropSearchIndex: 'x', name: 'i'}),
  updateSearchIndex: atlas({updateSearchIndex: 'x', name: 'i', definition: {}}),
};

const testing = {
  configureFailPoint: all(admin({configureFailPoint: 'failCommand', mode: 'off'}, code(59)), go('under the test flag: tests/integration/wire.test.mjs', async (ctx) => Object.keys((await ctx.admin.command({listCommands: 1})).commands).includes('configureFailPoint'), false)),
};

export default {
  'Commands: Administration': administration,
  'Commands: Plan cache and query settings': plans,
  'Commands: Replication': replication,
  'Commands: Sharding': sharding,
  'Commands: Search indexes': searchIndexes,
  'Commands: Test commands': testing,
};
