// Stock mongosh: what an operator and a developer type. Each script prints one line of EJSON; what it says is asserted here.
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, describe, test} from 'node:test';
import {BSON} from 'mongodb';
import {Node} from '../support/node.mjs';

const {EJSON} = BSON;
const mongosh = path.resolve(import.meta.dirname, '../node_modules/@mongosh/cli-repl/bin/mongosh.js');

let node;
before(async () => (node = await Node.start()));
after(async () => node?.stop());

/** Types lines at the prompt of an interactive mongosh; returns all that it printed. */
async function type(lines, {uri = node.uri, args = []} = {}) {
  const child = spawn(process.execPath, [mongosh, uri, '--norc', ...args], {env: {PATH: process.env.PATH, HOME: node.dir, TERM: 'dumb'}});
  let out = '';
  child.stdout.on('data', (d) => (out += d));
  child.stderr.on('data', (d) => (out += d));
  child.stdin.end([...lines, 'exit', ''].join('\n'));
  const code = await new Promise((resolve, reject) => child.on('error', reject).on('close', resolve));
  return {code, out};
}

/**
 * Runs a script whose statements are step('name', () => value); returns {name: value}, where an error
 * is {code, codeName, message}. A cursor becomes its array.
 */
async function walk(db, script) {
  const out = await node.mongosh(`
    const seen = {};
    function step(name, fn) {
      try {
        let v = fn();
        if (v && typeof v.toArray === 'function' && !Array.isArray(v)) v = v.toArray();
        seen[name] = v === undefined ? null : v;
      } catch (e) {
        seen[name] = {failed: true, code: e.code, codeName: e.codeName ?? null, message: e.message, errInfo: e.errInfo ?? null, writeErrors: e.writeErrors?.length ?? null};
      }
    }
    db = db.getSiblingDB('${db}');
    ${script}
    print('RESULT ' + EJSON.stringify(seen));
  `);
  const line = out.split('\n').find((l) => l.startsWith('RESULT '));
  assert.ok(line, out);
  const seen = EJSON.parse(line.slice(7));
  Object.defineProperty(seen, 'printed', {value: out.replace(line, ''), enumerable: false});
  return seen;
}

const good = (seen, ...names) => {
  for (const name of names.length ? names : Object.keys(seen)) assert.ok(!seen[name]?.failed, `${name}: ${JSON.stringify(seen[name])}`);
};
const refused = (seen, name, words, code) => {
  assert.ok(seen[name]?.failed, `${name} was accepted: ${JSON.stringify(seen[name])}`);
  assert.match(seen[name].message, words, name);
  if (code !== undefined) assert.equal(seen[name].code, code, `${name}: ${seen[name].message}`);
};

describe('at the prompt', () => {
  test('startup: connects, says the version, warns of nothing', async () => {
    const {code, out} = await type(['db.version()', 'show dbs', 'use other', 'db.x.insertOne({_id: 1, a: 1})', 'show collections', 'db.x.find()', 'show users', 'show roles', 'show log global', 'show logs', 'show profile', 'db.dropDatabase()']);
    assert.equal(code, 0, out);
    assert.match(out, /Using MongoDB:\s+7\.0\.\d+/);
    assert.match(out, /veddb \[(direct: )?primary\] test>/);
    assert.match(out, /switched to db other/);
    assert.match(out, /\{ _id: 1, a: 1 \}/);
    // mongosh's opinion of this machine's Node.js is no word about the server.
    const ofServer = out.replace(/Deprecation warnings:\n +- Using mongosh with Node\.js versions[^\n]*\n[^\n]*\n/, '');
    assert.doesNotMatch(ofServer, /warning(?!s'| \])|deprecat|MongoServerError|MongoshInternalError|Error:/i);
  });

  test("what it found out about the server at its start stands in its own log, and no error; the gateway's has no warning", async () => {
    const log = node.log().length;
    const {out} = await type(['db.hello().ok']);
    const id = /Current Mongosh Log ID:\s+(\w+)/.exec(out)[1];
    const entries = fs.readFileSync(path.join(node.dir, '.mongodb/mongosh', `${id}_log`), 'utf8').trim().split('\n').map((l) => JSON.parse(l));
    const {attr} = entries.find((e) => e.msg === 'Connecting to server');
    assert.deepEqual([attr.server_version, attr.is_genuine, attr.is_atlas, attr.is_local_atlas], ['7.0.14', true, false, false]);
    // Optional parts of the shell are not installed here.
    const wrong = entries.filter((e) => ['W', 'E', 'F'].includes(e.s) && e.msg !== 'Missing optional dependency');
    assert.deepEqual(wrong.map((e) => e.msg), []);
    assert.deepEqual(node.log().slice(log).split('\n').filter((l) => /level=(warn|error|fatal)/.test(l)), []);
  });

  test('--eval and --json', async () => {
    const {code, out} = await type([], {args: ['--quiet', '--json=canonical', '--eval', 'db.runCommand({ping: 1}).ok']});
    assert.equal(code, 0, out);
    assert.match(out, /^\{\s*"\$number(Int|Double)": "1(\.0)?"\s*\}\s*$/);
  });

  test('a wrong password: a clear error, no prompt', async () => {
    const {code, out} = await type([], {uri: node.uri.replace(node.info.password, 'f'.repeat(32)), args: ['--quiet']});
    assert.notEqual(code, 0);
    assert.match(out, /Authentication failed/);
  });
});

test('documents: helpers of CRUD, bulk, cursors', async () => {
  const s = await walk('crud', `
    step('insertOne', () => db.x.insertOne({a: 1}));
    step('insertMany', () => db.x.insertMany([...Array(30).keys()].map((i) => ({_id: i, g: i % 3}))));
    step('duplicate', () => db.x.insertOne({_id: 1}));
    step('bulkDuplicate', () => db.x.insertMany([{_id: 1}, {_id: 2}, {_id: 'new'}], {ordered: false}));
    step('find', () => db.x.find({g: 1}, {_id: 1}).sort({_id: -1}).skip(1).limit(3));
    step('findOne', () => db.x.findOne({_id: 4}));
    step('findNone', () => db.x.findOne({_id: 'none'}));
    step('batches', () => db.x.find().batchSize(4).toArray().length);
    step('cursor', () => { const c = db.x.find().sort({_id: 1}).batchSize(2); const first = [c.hasNext(), c.next()._id, c.next()._id, c.objsLeftInBatch() >= 0, c.tryNext()._id]; c.close(); return first; });
    step('map', () => db.x.find({_id: {$lt: 3}}).map((d) => d._id * 10).toArray());
    step('forEach', () => { let n = 0; db.x.find().forEach(() => { n++; }); return n; });
    step('count', () => [db.x.countDocuments({g: 0}), db.x.estimatedDocumentCount(), db.x.find({g: 2}).count(), db.x.find().size()]);
    step('distinct', () => db.x.distinct('g', {_id: {$type: 'int'}}));
    step('updateOne', () => db.x.updateOne({_id: 1}, {$set: {b: 1}, $currentDate: {when: true}}));
    step('updateMany', () => db.x.updateMany({g: 1}, {$inc: {n: 5}}));
    step('upsert', () => db.x.updateOne({_id: 'up'}, {$set: {u: 1}}, {upsert: true}));
    step('pipeline', () => db.x.updateOne({_id: 5}, [{$set: {double: {$multiply: ['$_id', 2]}}}]));
    step('replaceOne', () => db.x.replaceOne({_id: 2}, {c: 1}));
    step('deleteOne', () => db.x.deleteOne({_id: 0}));
    step('deleteMany', () => db.x.deleteMany({g: 2}));
    step('findOneAndUpdate', () => db.x.findOneAndUpdate({_id: 1}, {$set: {z: 1}}, {returnDocument: 'after', projection: {z: 1}}));
    step('findOneAndReplace', () => db.x.findOneAndReplace({_id: 2}, {d: 1}));
    step('findOneAndDelete', () => db.x.findOneAndDelete({_id: 'up'}));
    step('findAndModify', () => db.x.findAndModify({query: {_id: 3}, update: {$set: {q: 1}}, new: true}));
    step('bulkWrite', () => db.b.bulkWrite([{insertOne: {document: {_id: 100}}}, {insertOne: {document: {_id: 101}}}, {updateOne: {filter: {_id: 100}, update: {$set: {a: 1}}}},
      {updateMany: {filter: {}, update: {$set: {b: 1}}}}, {replaceOne: {filter: {_id: 102}, replacement: {r: 1}, upsert: true}}, {deleteOne: {filter: {_id: 101}}}, {deleteMany: {filter: {none: 1}}}]));
    step('bulkOp', () => { const b = db.b.initializeUnorderedBulkOp(); b.insert({_id: 1}); b.find({_id: 1}).updateOne({$set: {x: 1}}); b.find({_id: 100}).delete(); return b.execute(); });
    step('badOperator', () => db.x.updateOne({_id: 1}, {$nope: {a: 1}}));
    step('badFilter', () => db.x.find({a: {$nope: 1}}).toArray());
    step('aggregate', () => db.x.aggregate([{$match: {g: {$exists: true}}}, {$group: {_id: '$g', n: {$sum: 1}}}, {$sort: {_id: 1}}]));
    step('documents', () => db.aggregate([{$documents: [{a: 1}, {a: 2}]}, {$match: {a: 2}}]));
    step('types', () => { const d = {_id: 't', l: Long('9223372036854775807'), i: Int32(5), d: Double(5.5), n: Decimal128('1.10'), u: UUID('0123456789abcdef0123456789abcdef'), b: BinData(0, 'AAEC'), t: Timestamp(1, 2), r: /a/i, when: ISODate('2024-02-29'), min: MinKey(), max: MaxKey(), c: Code('f'), nul: null};
      db.t.insertOne(d); return [EJSON.stringify(db.t.findOne({_id: 't'}), {relaxed: false}), EJSON.stringify(d, {relaxed: false}), db.t.countDocuments({l: {$type: 'long'}, i: {$type: 'int'}, d: {$type: 'double'}, n: {$type: 'decimal'}, u: {$type: 'binData'}, t: {$type: 'timestamp'}, when: {$type: 'date'}, c: {$type: 'javascript'}, min: {$type: 'minKey'}, max: {$type: 'maxKey'}})]; });
  `);
  good({...s, duplicate: 0, bulkDuplicate: 0, badOperator: 0, badFilter: 0});
  assert.equal(s.insertOne.acknowledged, true);
  assert.equal(Object.keys(s.insertMany.insertedIds).length, 30);
  refused(s, 'duplicate', /E11000 duplicate key error collection: crud\.x index: _id_ dup key: \{ _id: 1 \}/, 11000);
  refused(s, 'bulkDuplicate', /E11000/, 11000);
  assert.equal(s.bulkDuplicate.writeErrors, 2);
  assert.deepEqual(s.find, [{_id: 25}, {_id: 22}, {_id: 19}]);
  assert.deepEqual(s.findOne, {_id: 4, g: 1});
  assert.equal(s.findNone, null);
  assert.equal(s.batches, 32);
  assert.deepEqual(s.cursor, [true, 0, 1, true, 2]);
  assert.deepEqual(s.map, [0, 10, 20]);
  assert.equal(s.forEach, 32);
  assert.deepEqual(s.count, [10, 32, 10, 32]);
  assert.deepEqual(s.distinct, [0, 1, 2]);
  assert.deepEqual(s.updateOne, {acknowledged: true, insertedId: null, matchedCount: 1, modifiedCount: 1, upsertedCount: 0});
  assert.deepEqual([s.updateMany.matchedCount, s.updateMany.modifiedCount], [10, 10]);
  assert.deepEqual([s.upsert.insertedId, s.upsert.upsertedCount], ['up', 1]);
  assert.equal(s.pipeline.modifiedCount, 1);
  assert.equal(s.replaceOne.modifiedCount, 1);
  assert.equal(s.deleteOne.deletedCount, 1);
  assert.equal(s.deleteMany.deletedCount, 9);
  assert.deepEqual(s.findOneAndUpdate, {_id: 1, z: 1});
  assert.deepEqual(s.findOneAndReplace, {_id: 2, c: 1});
  assert.deepEqual(s.findOneAndDelete, {_id: 'up', u: 1});
  assert.deepEqual(s.findAndModify, {_id: 3, g: 0, q: 1});
  assert.deepEqual([s.bulkWrite.insertedCount, s.bulkWrite.matchedCount, s.bulkWrite.modifiedCount, s.bulkWrite.deletedCount, s.bulkWrite.upsertedCount], [2, 3, 3, 1, 1]);
  assert.deepEqual([s.bulkOp.insertedCount, s.bulkOp.matchedCount, s.bulkOp.deletedCount], [1, 1, 1]);
  refused(s, 'badOperator', /Unknown modifier: \$nope/, 9);
  refused(s, 'badFilter', /unknown operator: \$nope/, 2);
  assert.deepEqual(s.aggregate, [{_id: 0, n: 9}, {_id: 1, n: 10}]);
  assert.deepEqual(s.documents, [{a: 2}]);
  assert.equal(s.types[0], s.types[1]);
  assert.equal(s.types[2], 1);
});

test('collections: create, validators, infos, indexes, stats, rename, drop', async () => {
  const s = await walk('colls', `
    step('create', () => db.createCollection('v', {validator: {$jsonSchema: {bsonType: 'object', required: ['n'], properties: {n: {bsonType: 'int', minimum: 0}}}}}));
    step('again', () => db.createCollection('v'));
    step('valid', () => db.v.insertOne({_id: 1, n: 1}));
    step('invalid', () => db.v.insertOne({_id: 2, n: -1}));
    step('bypass', () => db.v.insertOne({_id: 3, n: -1}, {bypassDocumentValidation: true}));
    step('collMod', () => db.runCommand({collMod: 'v', validationAction: 'warn'}));
    step('warned', () => db.v.insertOne({_id: 4}));
    step('infos', () => db.getCollectionInfos({name: 'v'}));
    step('names', () => { db.x.insertMany([...Array(100).keys()].map((i) => ({_id: i, pad: 'x'.repeat(100)}))); return db.getCollectionNames().sort(); });
    step('indexes', () => [db.x.getIndexes(), db.x.getIndexKeys(), db.x.createIndex({_id: 1})]);
    step('dropIndexes', () => db.x.dropIndexes());
    step('dropIndex', () => db.x.dropIndex('a_1'));
    step('dropIdIndex', () => db.x.dropIndex('_id_'));
    step('stats', () => db.x.stats());
    step('scaled', () => db.x.stats(1024).scaleFactor);
    step('sizes', () => [db.x.dataSize(), db.x.storageSize(), db.x.totalIndexSize(), db.x.totalSize()]);
    step('dbStats', () => db.stats());
    step('isCapped', () => db.x.isCapped());
    step('latency', () => db.x.latencyStats());
    step('validate', () => db.x.validate({full: true}));
    step('collStats', () => db.x.runCommand('collStats'));
    step('explainFind', () => db.x.find({pad: 'y'}).explain('executionStats'));
    step('explainId', () => db.x.find({_id: 5}).explain('executionStats'));
    step('explainRange', () => db.x.explain('executionStats').find({_id: {$gte: 90}}).finish());
    step('explainAggregate', () => db.x.explain().aggregate([{$match: {_id: 1}}, {$group: {_id: '$pad'}}]));
    step('explainCount', () => db.x.explain().count({_id: 1}));
    step('explainRemove', () => db.x.explain().remove({_id: 1}));
    step('explainRun', () => db.x.explain('executionStats').remove({_id: 1}));
    step('explainFam', () => db.x.explain().findAndModify({query: {_id: 1}, update: {$set: {a: 1}}}));
    step('stillThere', () => db.x.countDocuments({}));
    step('dbHash', () => db.runCommand({dbHash: 1}).collections);
    step('rename', () => db.x.renameCollection('y'));
    step('renameTaken', () => db.y.renameCollection('v'));
    step('renamed', () => db.getCollectionNames().sort());
    step('drop', () => db.y.drop());
    step('dropNothing', () => db.nothing.drop());
    step('exists', () => [db.v.exists()?.name, db.y.exists()]);
    step('dropDatabase', () => db.dropDatabase());
    step('gone', () => db.getMongo().getDBNames().includes('colls'));
  `);
  good({...s, again: 0, invalid: 0, dropIndex: 0, dropIdIndex: 0, renameTaken: 0});
  assert.equal(s.create.ok, 1);
  refused(s, 'again', /already exists/, 48);
  refused(s, 'invalid', /Document failed validation/, 121);
  assert.equal(s.invalid.errInfo.failingDocumentId, 2);
  assert.equal(s.invalid.errInfo.details.operatorName, '$jsonSchema');
  assert.equal(s.infos.length, 1);
  assert.equal(s.infos[0].type, 'collection');
  assert.equal(s.infos[0].options.validationAction, 'warn');
  assert.deepEqual(s.infos[0].options.validator.$jsonSchema.required, ['n']);
  assert.deepEqual(s.infos[0].idIndex, {v: 2, key: {_id: 1}, name: '_id_'});
  assert.deepEqual(s.names, ['v', 'x']);
  assert.deepEqual(s.indexes, [[{v: 2, key: {_id: 1}, name: '_id_'}], [{_id: 1}], '_id_1']);
  refused(s, 'dropIndex', /index not found with name \[a_1\]/, 27);
  refused(s, 'dropIdIndex', /cannot drop _id index/, 72);
  assert.deepEqual([s.stats.ns, s.stats.count, s.stats.nindexes, s.stats.capped, s.stats.sharded, s.stats.ok], ['colls.x', 100, 1, false, false, 1]);
  assert.ok(s.stats.size > 10000 && s.stats.avgObjSize > 100);
  assert.equal(s.scaled, 1024);
  assert.equal(s.sizes[0], s.stats.size);
  assert.ok(s.sizes[3] >= s.sizes[1]);
  assert.deepEqual([s.dbStats.db, s.dbStats.collections, s.dbStats.objects, s.dbStats.indexes], ['colls', 2, 103, 2]);
  assert.equal(s.isCapped, false);
  assert.ok(s.latency[0].latencyStats.writes.ops >= 1);
  assert.deepEqual([s.validate.valid, s.validate.nrecords, s.validate.errors], [true, 100, []]);
  assert.equal(s.collStats.count, 100);
  const run = (e) => [e.executionStats.executionSuccess, e.executionStats.nReturned, e.executionStats.totalDocsExamined];
  assert.equal(s.explainFind.queryPlanner.winningPlan.stage, 'COLLSCAN');
  assert.deepEqual(run(s.explainFind), [true, 0, 100]);
  assert.equal(s.explainId.queryPlanner.winningPlan.stage, 'IDHACK');
  assert.deepEqual(run(s.explainId), [true, 1, 1]);
  assert.deepEqual(run(s.explainRange), [true, 10, 10]);
  assert.ok(s.explainAggregate.stages[0].$cursor.queryPlanner, 'aggregate');
  assert.match(JSON.stringify(s.explainCount), /"COUNT"/);
  assert.match(JSON.stringify(s.explainRemove), /"DELETE"/);
  assert.match(JSON.stringify(s.explainFam), /"UPDATE"/);
  assert.equal(s.explainRun.executionStats.executionStages.nWouldDelete, 1);
  assert.equal(s.stillThere, 100);
  assert.deepEqual(Object.keys(s.dbHash).sort(), ['v', 'x']);
  refused(s, 'renameTaken', /target namespace exists/, 48);
  assert.deepEqual(s.renamed, ['v', 'y']);
  assert.deepEqual([s.drop, s.dropNothing], [true, true]);
  assert.deepEqual(s.exists, ['v', null]);
  assert.deepEqual([s.dropDatabase.ok, s.dropDatabase.dropped, s.gone], [1, 'colls', false]);
});

test('users and roles', async () => {
  const s = await walk('users', `
    step('createUser', () => db.createUser({user: 'u', pwd: 'p', roles: ['readWrite'], customData: {a: 1}}));
    step('again', () => db.createUser({user: 'u', pwd: 'p', roles: []}));
    step('badRole', () => db.createUser({user: 'w', pwd: 'p', roles: ['nothing']}));
    step('getUser', () => db.getUser('u'));
    step('getUsers', () => db.getUsers().users.map((u) => u._id));
    step('nobody', () => db.getUser('nobody'));
    step('updateUser', () => { db.updateUser('u', {customData: {a: 2}, roles: ['read']}); return db.getUser('u', {showPrivileges: true}); });
    step('password', () => db.changeUserPassword('u', 'q'));
    step('oldPassword', () => new Mongo(db.getMongo()._uri.replace(/\\/\\/[^@]*@/, '//u:p@').replace('/?', '/users?')).getDB('users').x.findOne());
    step('newPassword', () => { const m = new Mongo(db.getMongo()._uri.replace(/\\/\\/[^@]*@/, '//u:q@').replace('/?', '/users?')); const d = m.getDB('users');
      let error; try { d.x.insertOne({}); } catch (e) { error = [e.code, e.message]; }
      return [d.x.findOne(), error, d.runCommand({connectionStatus: 1}).authInfo.authenticatedUsers]; });
    step('grant', () => { db.grantRolesToUser('u', [{role: 'dbAdmin', db: 'users'}]); return db.getUser('u').roles.map((r) => r.role).sort(); });
    step('revoke', () => { db.revokeRolesFromUser('u', ['dbAdmin']); return db.getUser('u').roles.map((r) => r.role); });
    step('createRole', () => db.createRole({role: 'r', privileges: [{resource: {db: 'users', collection: 'x'}, actions: ['find']}], roles: []}));
    step('getRole', () => db.getRole('r', {showPrivileges: true}));
    step('getRoles', () => db.getRoles().roles.map((r) => r.role));
    step('builtin', () => db.getRole('readWrite').isBuiltin);
    step('updateRole', () => { db.updateRole('r', {roles: ['read']}); return db.getRole('r').roles; });
    step('grantPrivilege', () => { db.grantPrivilegesToRole('r', [{resource: {db: 'users', collection: 'y'}, actions: ['insert', 'remove']}]); return db.getRole('r', {showPrivileges: true}).privileges.length; });
    step('revokePrivilege', () => { db.revokePrivilegesFromRole('r', [{resource: {db: 'users', collection: 'y'}, actions: ['insert', 'remove']}]); return db.getRole('r', {showPrivileges: true}).privileges.length; });
    step('grantRole', () => { db.grantRolesToRole('r', ['dbAdmin']); db.revokeRolesFromRole('r', ['read']); return db.getRole('r').roles.map((r) => r.role); });
    step('userOfRole', () => { db.grantRolesToUser('u', ['r']); return db.getUser('u').roles.map((r) => r.role).sort(); });
    step('dropRole', () => { db.dropRole('r'); return [db.getRole('r'), db.getUser('u').roles.map((r) => r.role)]; });
    step('dropUser', () => [db.dropUser('u').ok, db.getUser('u')]);
    step('dropNobody', () => db.dropUser('u'));
    step('dropAll', () => { db.createUser({user: 'a', pwd: 'p', roles: []}); db.createRole({role: 'b', privileges: [], roles: []}); return [db.dropAllUsers().n, db.dropAllRoles().n]; });
    step('whoami', () => db.runCommand({connectionStatus: 1}).authInfo);
    step('badAuth', () => db.auth('nobody', 'p'));
  `);
  good({...s, again: 0, badRole: 0, oldPassword: 0, dropNobody: 0, badAuth: 0});
  refused(s, 'again', /User "u@users" already exists/, 51003);
  refused(s, 'badRole', /nothing@users/, 31);
  assert.deepEqual([s.getUser._id, s.getUser.user, s.getUser.db, s.getUser.roles, s.getUser.customData, s.getUser.mechanisms], ['users.u', 'u', 'users', [{role: 'readWrite', db: 'users'}], {a: 1}, ['SCRAM-SHA-256']]);
  assert.deepEqual(s.getUsers, ['users.u']);
  assert.equal(s.nobody, null);
  assert.deepEqual(s.updateUser.customData, {a: 2});
  assert.ok(s.updateUser.inheritedPrivileges.length > 0);
  refused(s, 'oldPassword', /Authentication failed/, 18);
  assert.equal(s.newPassword[0], null);
  assert.equal(s.newPassword[1][0], 13);
  assert.match(s.newPassword[1][1], /not authorized on users to execute command/);
  assert.deepEqual(s.newPassword[2], [{user: 'u', db: 'users'}]);
  assert.deepEqual(s.grant, ['dbAdmin', 'read']);
  assert.deepEqual(s.revoke, ['read']);
  assert.deepEqual(s.getRole.privileges, [{resource: {db: 'users', collection: 'x'}, actions: ['find']}]);
  assert.equal(s.getRole.isBuiltin, false);
  assert.deepEqual(s.getRoles, ['r']);
  assert.equal(s.builtin, true);
  assert.deepEqual(s.updateRole, [{role: 'read', db: 'users'}]);
  assert.deepEqual([s.grantPrivilege, s.revokePrivilege], [2, 1]);
  assert.deepEqual(s.grantRole, ['dbAdmin']);
  assert.deepEqual(s.userOfRole, ['r', 'read']);
  assert.deepEqual(s.dropRole, [null, ['read']]);
  assert.deepEqual(s.dropUser, [1, null]);
  refused(s, 'dropNobody', /User 'u@users' not found/, 11);
  assert.deepEqual(s.dropAll, [1, 1]);
  assert.deepEqual(s.whoami.authenticatedUsers, [{user: 'admin', db: 'admin'}]);
  refused(s, 'badAuth', /Authentication failed/, 18);
});

test('the server: status, replica set, operations, host, log, parameters', async () => {
  const s = await walk('ops', `
    step('status', () => db.serverStatus());
    step('build', () => db.serverBuildInfo());
    step('version', () => db.version());
    step('cmdLine', () => db.serverCmdLineOpts());
    step('host', () => db.hostInfo());
    step('hello', () => [db.hello(), db.isMaster(), rs.hello(), rs.isMaster()]);
    step('rsStatus', () => rs.status());
    step('rsConf', () => rs.conf());
    step('currentOp', () => db.currentOp());
    step('currentOpAll', () => db.currentOp({$all: true}).inprog.length);
    step('killOp', () => db.killOp(1));
    step('commands', () => Object.keys(db.runCommand({listCommands: 1}).commands).length);
    step('logComponents', () => db.getLogComponents());
    step('log', () => db.adminCommand({getLog: 'global'}));
    step('warnings', () => db.adminCommand({getLog: 'startupWarnings'}));
    step('profiling', () => [db.getProfilingStatus().was, db.setProfilingLevel(0).was]);
    step('databases', () => db.adminCommand({listDatabases: 1, nameOnly: true}));
    step('parameters', () => db.adminCommand({getParameter: '*'}));
    step('top', () => Object.keys(db.adminCommand({top: 1}).totals).length >= 0);
    step('connections', () => db.runCommand({connPoolStats: 1}).ok);
    step('defaults', () => db.adminCommand({getDefaultRWConcern: 1}).defaultWriteConcern);
    step('uri', () => db.runCommand({whatsmyuri: 1}).you);
    step('sharding', () => { db.x.insertOne({}); return db.x.getShardDistribution(); });
    step('shStatus', () => sh.status());
    step('ping', () => db.runCommand('ping').ok);
    step('print', () => rs.printReplicationInfo());
    step('printSecondary', () => rs.printSecondaryReplicationInfo());
    step('unknown', () => db.runCommand({nonsense: 1}));
    step('noParameter', () => db.adminCommand({getParameter: 'foo'}));
    step('initiate', () => rs.initiate());
    step('add', () => rs.add('other:27017'));
    step('reconfig', () => rs.reconfig(rs.conf()));
    step('stepDown', () => rs.stepDown());
    step('fsyncLock', () => [db.fsyncLock(), db.adminCommand({currentOp: 1}).fsyncLock, db.fsyncUnlock()]);
    step('profile2', () => db.setProfilingLevel(2));
    step('logLevel', () => db.setLogLevel(1));
    step('setParameter', () => db.adminCommand({setParameter: 1, foo: 1}));
    step('logRotate', () => db.adminCommand({logRotate: 1}));
    step('reIndex', () => db.x.reIndex());
  `);
  good(s, 'status', 'build', 'version', 'cmdLine', 'host', 'hello', 'rsStatus', 'rsConf', 'currentOp', 'currentOpAll', 'killOp', 'commands', 'logComponents', 'log', 'warnings', 'profiling', 'databases', 'parameters', 'top', 'defaults', 'uri', 'ping');
  const address = `127.0.0.1:${node.port}`;
  assert.deepEqual([s.status.ok, s.status.process, s.status.repl.setName, s.status.repl.isWritablePrimary], [1, 'mongod', 'veddb', true]);
  assert.equal(s.status.host, address);
  for (const part of ['uptime', 'localTime', 'connections', 'network', 'opcounters', 'mem', 'metrics', 'storageEngine', 'globalLock', 'asserts']) assert.ok(s.status[part] !== undefined, part);
  assert.match(s.build.version, /^7\.0\.\d+$/);
  assert.equal(s.version, s.build.version);
  assert.equal(s.cmdLine.parsed.net.port, node.port);
  assert.ok(!EJSON.stringify(s.cmdLine).includes(node.info.password));
  assert.equal(s.host.os.type, 'Linux');
  assert.ok(s.host.system.numCores >= 1);
  for (const [i, hello] of s.hello.entries()) {
    assert.equal(i % 2 === 0 ? hello.isWritablePrimary : hello.ismaster, true);
    assert.deepEqual([hello.setName, hello.hosts, hello.me, hello.primary], ['veddb', [address], address, address]);
  }
  assert.deepEqual([s.rsStatus.set, s.rsStatus.myState, s.rsStatus.members.length], ['veddb', 1, 1]);
  assert.deepEqual([s.rsStatus.members[0].name, s.rsStatus.members[0].stateStr, s.rsStatus.members[0].self, s.rsStatus.members[0].health], [address, 'PRIMARY', true, 1]);
  assert.deepEqual([s.rsConf._id, s.rsConf.members.length, s.rsConf.members[0].host, s.rsConf.members[0].votes], ['veddb', 1, address, 1]);
  const own = s.currentOp.inprog.find((o) => o.command?.aggregate === 1);
  assert.ok(own, 'the operation that asks is seen');
  assert.deepEqual([own.active, own.effectiveUsers, own.appName.split(' ')[0]], [true, [{user: 'admin', db: 'admin'}], 'mongosh']);
  assert.ok(own.opid > 0);
  assert.ok(s.currentOpAll >= s.currentOp.inprog.length);
  assert.equal(s.killOp.ok, 1);
  assert.ok(s.commands > 60, String(s.commands));
  assert.equal(s.logComponents.verbosity, 0);
  assert.ok(s.log.totalLinesWritten > 0 && s.log.log.length > 0);
  assert.ok(!EJSON.stringify(s.log).includes(node.info.password));
  assert.deepEqual([s.warnings.totalLinesWritten, s.warnings.log], [0, []]);
  assert.deepEqual(s.profiling, [0, 0]);
  assert.ok(s.databases.databases.some((d) => d.name === 'admin'));
  assert.equal(s.parameters.featureCompatibilityVersion.version, '7.0');
  assert.equal(s.defaults.w, 'majority');
  assert.match(s.uri, /^127\.0\.0\.1:\d+$/);
  // There is no sharded cluster, and a node alone has no configuration of a set; mongosh itself says so.
  refused(s, 'sharding', /is not sharded/);
  refused(s, 'shStatus', /mongos/);
  for (const name of ['print', 'printSecondary']) if (s[name]?.failed) assert.match(s[name].message, /Are you connected to a repl/, name);
  refused(s, 'unknown', /no such command: 'nonsense'/, 59);
  refused(s, 'noParameter', /no option found to get/, 72);
  for (const name of ['initiate', 'add', 'reconfig', 'stepDown', 'logRotate']) refused(s, name, /./, 115);
  refused(s, 'profile2', /not built/, 238);
  good(s, 'fsyncLock');
  assert.deepEqual([Number(s.fsyncLock[0].lockCount), s.fsyncLock[1], Number(s.fsyncLock[2].lockCount)], [1, true, 0]);
  refused(s, 'logLevel', /logComponentVerbosity/);
  refused(s, 'setParameter', /unrecognized parameter \[foo\]/, 72);
  refused(s, 'reIndex', /standalone/, 20);
});

test('sessions, concerns, retryable writes', async () => {
  const s = await walk('sess', `
    const session = db.getMongo().startSession({causalConsistency: true, retryWrites: true});
    const own = session.getDatabase('sess');
    step('write', () => own.x.insertOne({_id: 1}));
    step('read', () => own.x.findOne());
    step('times', () => [session.getOperationTime(), session.getClusterTime().clusterTime]);
    step('many', () => { own.x.insertMany([...Array(50).keys()].map((i) => ({_id: i + 10}))); return own.x.find().batchSize(7).toArray().length; });
    step('end', () => { session.endSession(); return session.hasEnded(); });
    step('concerns', () => [1, 'majority'].map((w) => db.x.insertOne({w}, {writeConcern: {w, j: true, wtimeout: 1000}}).acknowledged));
    step('levels', () => ['local', 'available', 'majority', 'linearizable'].map((l) => db.x.find().readConcern(l).toArray().length));
    step('prefs', () => ['primary', 'primaryPreferred', 'secondaryPreferred', 'nearest'].map((p) => db.x.find().readPref(p).toArray().length));
    step('tooMany', () => db.x.insertOne({}, {writeConcern: {w: 3, wtimeout: 100}}));
    step('start', () => db.runCommand({startSession: 1}).timeoutMinutes);
    step('refresh', () => db.runCommand({refreshSessions: []}).ok);
    step('maxTime', () => db.x.find().maxTimeMS(5000).comment('why').hint({_id: 1}).toArray().length);
  `);
  good({...s, tooMany: 0});
  assert.deepEqual(s.read, {_id: 1});
  assert.ok(s.times.every((t) => t._bsontype === 'Timestamp'));
  assert.equal(s.many, 51);
  assert.equal(s.end, true);
  assert.deepEqual(s.concerns, [true, true]);
  assert.deepEqual(s.levels, [53, 53, 53, 53]);
  assert.deepEqual(s.prefs, [53, 53, 53, 53]);
  refused(s, 'tooMany', /Not enough data-bearing nodes/, 100);
  assert.equal(s.start, 30);
});

test('what is not built yet is refused with a clear error, and leaves nothing behind', async () => {
  const stages = ['$geoNear'];
  const s = await walk('notyet', `
    db.x.insertMany([{_id: 1, a: [1, 2]}, {_id: 2}]);
    step('textIndex', () => db.x.createIndex({a: 'text'}));
    step('geoIndex', () => db.x.createIndex({a: '2dsphere'}));
    step('hint', () => db.x.find().hint({a: 1}).toArray());
    step('hintName', () => db.x.find().hint('a_1').toArray());
    step('hintUpdate', () => db.x.updateOne({_id: 1}, {$set: {q: 1}}, {hint: {a: 1}}));
    step('hintDelete', () => db.x.deleteOne({_id: 1}, {hint: 'a_1'}));
    step('hintAggregate', () => db.x.aggregate([{$match: {}}], {hint: {a: 1}}).toArray());
    step('capped', () => db.createCollection('capped', {capped: true, size: 4096}));
    step('timeseries', () => db.createCollection('ts', {timeseries: {timeField: 't'}}));
    step('tailable', () => db.x.find().tailable().toArray());
    step('collationCollection', () => [db.createCollection('coll', {collation: {locale: 'fr'}}), db.coll.drop()]);
    step('where', () => db.x.find({$where: 'true'}).toArray());
    step('function', () => db.x.find({$expr: {$function: {body: 'function() {}', args: [], lang: 'js'}}}).toArray());
    step('accumulator', () => db.x.aggregate([{$group: {_id: null, a: {$accumulator: {}}}}]).toArray());
    step('mapReduce', () => db.runCommand({mapReduce: 'x', map: 'function() {}', reduce: 'function() {}', out: {inline: 1}}));
    step('eval', () => db.runCommand({eval: '1'}));
    step('text', () => db.x.find({$text: {$search: 'a'}}).toArray());
    step('near', () => db.x.find({a: {$near: [0, 0]}}).toArray());
    step('within', () => db.x.find({a: {$geoWithin: {$center: [[0, 0], 1]}}}).toArray());
    step('watch', () => db.x.watch());
    step('watchDb', () => db.watch());
    step('watchAll', () => db.getMongo().watch());
    step('atClusterTime', () => db.runCommand({find: 'x', readConcern: {level: 'snapshot', atClusterTime: Timestamp(1, 1)}}));
    step('shard', () => sh.shardCollection('notyet.x', {_id: 1}));
    step('toCapped', () => [db.capped.insertOne({_id: 1}).insertedId, db.capped.convertToCapped(8192).ok, db.capped.isCapped(), db.capped.find().tailable().limit(1).toArray(), db.capped.drop()]);
    step('clone', () => db.adminCommand({cloneCollectionAsCapped: 'x', toCollection: 'y', size: 100}));
    for (const stage of ${JSON.stringify(stages)}) step(stage, () => db.x.aggregate([{[stage]: {}}]).toArray());
    step('unknownStage', () => db.x.aggregate([{$nope: 1}]).toArray());
    step('left', () => [db.x.find().toArray(), db.x.getIndexes().length, db.getCollectionNames()]);
  `);
  for (const name of ['textIndex', 'geoIndex']) refused(s, name, /indexes are not built yet/, 238);
  for (const name of ['hint', 'hintName', 'hintUpdate', 'hintDelete', 'hintAggregate']) refused(s, name, /hint provided does not correspond to an existing index/, 2);
  assert.deepEqual(s.capped, {ok: 1});
  assert.deepEqual(s.toCapped, [1, 1, true, [{_id: 1}], true]);
  assert.deepEqual(s.timeseries, {ok: 1});
  refused(s, 'clone', /source collection admin\.x does not exist/, 26);
  refused(s, 'tailable', /tailable cursor requested on non capped collection/, 2);
  assert.deepEqual(s.collationCollection, [{ok: 1}, true]);
  for (const name of ['where', 'function', 'mapReduce']) refused(s, name, /JavaScript/);
  refused(s, 'accumulator', /\$accumulator/);
  refused(s, 'eval', /no such command/, 59);
  refused(s, 'text', /text index required/, 27);
  for (const name of ['near', 'within']) refused(s, name, /geospatial operator \$\w+ is not supported/, 238);
  refused(s, 'atClusterTime', /snapshots belong to the session/, 246);
  refused(s, 'shard', /./);
  for (const stage of stages) refused(s, stage, new RegExp(`\\${stage} is not built`), 238);
  refused(s, 'unknownStage', /Unrecognized pipeline stage name: '\$nope'/, 40324);
  assert.deepEqual(s.left, [[{_id: 1, a: [1, 2]}, {_id: 2}], 1, ['ts', 'x']]);
  for (const [name, v] of Object.entries(s)) if (v?.failed) assert.doesNotMatch(v.message, /internal error|assert|invariant/i, name);
});
