// tests/clients/unified.mjs FOLDER...: runs drivers' specification tests (JSON; the unified test format, and the older one of transactions,
// retryable reads and writes, change streams, sessions, CRUD) by the Node driver against the node of VD_URI, which runs with
// test.faults=true. Prints TAP. What it compares is what a server decides: results, errors, documents, labels, and the commands' order.
import fs from 'node:fs';
import path from 'node:path';
import {BSON, GridFSBucket, MongoClient, ReadPreference} from 'mongodb';

const {EJSON} = BSON;
const uri = process.env.VD_URI;
const admin = new MongoClient(uri);
const only = process.env.VD_ONLY && new RegExp(process.env.VD_ONLY);
const version = '7.0.0';
let count = 0;
let failed = 0;
let skipped = 0;

class Skip extends Error {}
const skip = (why) => {
  throw new Skip(why);
};
const show = (v) => {
  try {
    return EJSON.stringify(v);
  } catch {
    return String(v);
  }
};
const isObject = (v) => v !== null && typeof v === 'object' && !Array.isArray(v) && !v._bsontype && !(v instanceof Date) && !Buffer.isBuffer(v);
const isNumber = (v) => typeof v === 'number' || ['Long', 'Int32', 'Double'].includes(v?._bsontype);
const older = (a, b) => {
  const [x, y] = [a, b].map((v) => v.split('.').map(Number));
  for (let i = 0; i < 3; i++) if ((x[i] ?? 0) !== (y[i] ?? 0)) return (x[i] ?? 0) < (y[i] ?? 0);
  return false;
};

/** Does this deployment fit one of the requirements? (replica set, 7.0, TLS with logins) */
function fits(list) {
  if (!list) return true;
  return list.some(
    (r) =>
      (!r.minServerVersion || !older(version, r.minServerVersion)) &&
      (!r.maxServerVersion || !older(r.maxServerVersion, version)) &&
      (!(r.topologies ?? r.topology) || (r.topologies ?? r.topology).includes('replicaset')) &&
      r.auth !== false &&
      r.serverless !== 'require' &&
      !r.csfle,
  );
}

// ---- comparing ----

const types = {
  double: (v) => typeof v === 'number' || v?._bsontype === 'Double', string: (v) => typeof v === 'string', object: isObject, array: Array.isArray,
  binData: (v) => v?._bsontype === 'Binary' || Buffer.isBuffer(v), objectId: (v) => v?._bsontype === 'ObjectId', bool: (v) => typeof v === 'boolean',
  date: (v) => v instanceof Date, null: (v) => v === null, int: isNumber, long: isNumber, number: isNumber, timestamp: (v) => v?._bsontype === 'Timestamp',
  decimal: (v) => v?._bsontype === 'Decimal128',
};

function same(want, got, world, at, root) {
  const bad = (why) => {
    throw new Error(`${at}: ${why}: ${show(got)} instead of ${show(want)}`);
  };
  if (isObject(want)) {
    const [operator] = Object.keys(want);
    if (Object.keys(want).length === 1 && operator.startsWith('$$')) {
      const value = want[operator];
      switch (operator) {
        case '$$exists': return (got !== undefined) === value || bad('exists');
        case '$$type': return [].concat(value).some((t) => (types[t] ?? skip(`type ${t}`))(got)) || bad('type');
        case '$$unsetOrMatches': return got === undefined || got === null || same(value, got, world, at, root);
        case '$$sessionLsid': return same(world.entities[value].id, got, world, at);
        case '$$matchesEntity': return same(world.entities[value], got, world, at);
        case '$$matchesHexBytes': return got.toString('hex') === value || bad('bytes');
        case '$$lte': return Number(got) <= value || bad('lte');
        default: skip(operator);
      }
    }
    if (!isObject(got)) bad('not a document');
    for (const [k, v] of Object.entries(want)) same(v, got[k], world, `${at}.${k}`, root === 'deep' && 'deep');
    if (!root) for (const k of Object.keys(got)) if (!(k in want)) bad(`has ${k}`);
  } else if (Array.isArray(want)) {
    if (!Array.isArray(got) || got.length !== want.length) bad('array');
    want.forEach((v, i) => same(v, got[i], world, `${at}.${i}`, root === 'each' || (root === 'deep' && 'deep')));
  } else if (isNumber(want)) {
    if (!isNumber(got) || Number(want) !== Number(got)) bad('number');
  } else if (want === null || want === undefined) {
    if (got !== null && got !== undefined) bad('null');
  } else if (show({v: want}) !== show({v: Buffer.isBuffer(got) ? new BSON.Binary(got) : got})) bad('value');
  return true;
}

const labelsOf = (e) => [...(e.errorLabels ?? []), ...(e.result?.getWriteConcernError?.()?.errorLabels ?? [])];

function checkError(want, e, world) {
  const client = !e.code && !/^Mongo(Network|Server|Bulk)/.test(e.name);
  const say = (what) => {
    throw new Error(`${what}: got ${e.name} ${e.code} ${e.codeName ?? ''} ${e.message} [${labelsOf(e)}] instead of ${show(want)}`);
  };
  if (want.isClientError === false && client) say('an error of the client');
  const contains = want.errorContains ?? want.errorContainsForTest;
  if (contains && !e.message.toLowerCase().includes(contains.toLowerCase())) say('message');
  if (want.errorCode !== undefined && e.code !== want.errorCode && e.writeErrors?.[0]?.code !== want.errorCode) say('code');
  if (want.errorCodeName && (e.codeName ?? e.errorResponse?.codeName) !== want.errorCodeName) say('codeName');
  for (const l of want.errorLabelsContain ?? []) if (!e.hasErrorLabel?.(l)) say(`label ${l}`);
  for (const l of want.errorLabelsOmit ?? []) if (e.hasErrorLabel?.(l)) say(`label ${l}`);
  if (want.expectResult ?? want.result) {
    const r = e.result ?? e;
    same(want.expectResult ?? want.result, shape(r), world, 'error.result', true);
  }
}

/** Results of the driver in the form that the tests name. */
function shape(r) {
  if (r?.constructor?.name === 'BulkWriteResult' || r?.insertedIds) {
    const {insertedCount, matchedCount, modifiedCount, deletedCount, upsertedCount, insertedIds, upsertedIds} = r;
    return {insertedCount, matchedCount, modifiedCount, deletedCount, upsertedCount, insertedIds, upsertedIds: upsertedIds ?? {}};
  }
  return r;
}

// ---- operations ----

const camel = {
  runCommand: 'command', listCollectionNames: 'listCollections', listDatabaseObjects: 'listDatabases', listDatabaseNames: 'listDatabases',
};

function optionsOf(args, world) {
  const o = {...args};
  if (typeof o.session === 'string') o.session = world.entities[o.session] ?? skip('a session');
  if (o.readPreference) o.readPreference = preference(o.readPreference);
  if (o.returnDocument) o.returnDocument = o.returnDocument.toLowerCase();
  for (const k of ['batchSize', 'limit', 'skip', 'maxTimeMS', 'maxAwaitTimeMS', 'expireAfterSeconds']) if (o[k] !== undefined) o[k] = Number(o[k]);
  return o;
}

const preference = (p) => ReadPreference.fromOptions({readPreference: {...p, mode: p.mode[0].toLowerCase() + p.mode.slice(1), tags: p.tagSets}});

function bulkModels(requests) {
  return requests.map((r) => {
    if (r.name) return {[r.name]: r.arguments}; // the older form
    return r;
  });
}

const take = (o, ...names) => {
  const out = names.map((n) => o[n]);
  for (const n of names) delete o[n];
  return out;
};

async function onCollection(c, name, o, world) {
  switch (name) {
    case 'aggregate': {
      const [pipeline] = take(o, 'pipeline');
      return await c.aggregate(pipeline, o).toArray();
    }
    case 'find': {
      const [filter] = take(o, 'filter');
      return await c.find(filter ?? {}, o).toArray();
    }
    case 'createFindCursor': {
      const [filter] = take(o, 'filter');
      return c.find(filter ?? {}, o);
    }
    case 'findOne': { const [filter] = take(o, 'filter'); return await c.findOne(filter ?? {}, o); }
    case 'insertOne': { const [d] = take(o, 'document'); return await c.insertOne(d, o); }
    case 'insertMany': {
      const [d] = take(o, 'documents');
      Object.assign(o, o.options); delete o.options;
      return await c.insertMany(d, o);
    }
    case 'updateOne': case 'updateMany': { const [f, u] = take(o, 'filter', 'update'); return await c[name](f, u, o); }
    case 'replaceOne': { const [f, r] = take(o, 'filter', 'replacement'); return await c.replaceOne(f, r, o); }
    case 'deleteOne': case 'deleteMany': { const [f] = take(o, 'filter'); return await c[name](f, o); }
    case 'findOneAndUpdate': { const [f, u] = take(o, 'filter', 'update'); return await c.findOneAndUpdate(f, u, o); }
    case 'findOneAndReplace': { const [f, r] = take(o, 'filter', 'replacement'); return await c.findOneAndReplace(f, r, o); }
    case 'findOneAndDelete': { const [f] = take(o, 'filter'); return await c.findOneAndDelete(f, o); }
    case 'bulkWrite': {
      const [requests, options] = take(o, 'requests', 'options');
      return await c.bulkWrite(bulkModels(requests), {...o, ...options});
    }
    case 'distinct': { const [key, f] = take(o, 'fieldName', 'filter'); return await c.distinct(key, f ?? {}, o); }
    case 'countDocuments': case 'count': {
      const [f] = take(o, 'filter');
      if (name === 'count') return await c.count(f ?? {}, o);
      return await c.countDocuments(f ?? {}, o);
    }
    case 'estimatedDocumentCount': return await c.estimatedDocumentCount(o);
    case 'createIndex': { const [keys] = take(o, 'keys'); return await c.createIndex(keys, o); }
    case 'dropIndex': { const [n] = take(o, 'name'); return await c.dropIndex(n, o); }
    case 'dropIndexes': return await c.dropIndexes(o);
    case 'listIndexes': case 'listIndexNames': return await c.listIndexes(o).toArray();
    case 'createChangeStream': case 'watch': return await openStream(c, o);
    case 'rename': { const [to] = take(o, 'to'); return await c.rename(to, o); }
    case 'drop': return await c.drop(o);
    default: skip(`collection.${name}`);
  }
}

async function onDatabase(db, name, o) {
  switch (name) {
    case 'runCommand': { const [command] = take(o, 'command', 'commandName'); return await db.command(command, o); }
    case 'runCursorCommand': { const [command] = take(o, 'command', 'commandName'); return await db.runCursorCommand(command, o).toArray(); }
    case 'aggregate': { const [pipeline] = take(o, 'pipeline'); return await db.aggregate(pipeline, o).toArray(); }
    case 'createCollection': {
      const [c] = take(o, 'collection');
      return await db.createCollection(c, o);
    }
    case 'modifyCollection': { const [c] = take(o, 'collection'); return await db.command({collMod: c, ...o}); }
    case 'dropCollection': { const [c] = take(o, 'collection'); return await db.dropCollection(c, o); }
    case 'listCollections': case 'listCollectionObjects': { const [f] = take(o, 'filter'); return await db.listCollections(f ?? {}, o).toArray(); }
    case 'listCollectionNames': { const [f] = take(o, 'filter'); return await db.listCollections(f ?? {}, {...o, nameOnly: true}).toArray(); }
    case 'createChangeStream': case 'watch': return await openStream(db, o);
    default: skip(`database.${name}`);
  }
}

async function openStream(on, o) {
  const [pipeline] = take(o, 'pipeline');
  const stream = on.watch(pipeline ?? [], o);
  // The driver opens it when it is first asked.
  await stream.cursor.firstBatchSent?.();
  stream.tryNextFirst = await stream.tryNext();
  return stream;
}

async function onBucket(bucket, name, o) {
  switch (name) {
    case 'upload': {
      const [source, filename] = take(o, 'source', 'filename');
      const stream = bucket.openUploadStream(filename, o);
      await new Promise((done, fail) => stream.on('finish', done).on('error', fail).end(Buffer.from(source.$$hexBytes, 'hex')));
      return stream.id;
    }
    case 'download': case 'downloadByName': {
      const parts = [];
      const stream = name === 'download' ? bucket.openDownloadStream(o.id) : bucket.openDownloadStreamByName(o.filename, o);
      for await (const part of stream) parts.push(part);
      return new BSON.Binary(Buffer.concat(parts));
    }
    case 'delete': return await bucket.delete(o.id);
    default: skip(`bucket.${name}`);
  }
}

async function onSession(session, name, o, world) {
  switch (name) {
    case 'startTransaction': return session.startTransaction(transactionOptions(o));
    case 'commitTransaction': return await session.commitTransaction();
    case 'abortTransaction': return await session.abortTransaction();
    case 'endSession': return await session.endSession();
    case 'withTransaction': {
      const {callback, ...options} = o;
      const operations = Array.isArray(callback) ? callback : callback.operations;
      return await session.withTransaction(async () => {
        for (const op of operations) await run(op, world, true);
      }, transactionOptions(options));
    }
    default: skip(`session.${name}`);
  }
}

function transactionOptions(o) {
  const {options, session, ...rest} = o;
  const all = {...rest, ...options};
  if (all.readPreference) all.readPreference = preference(all.readPreference);
  return all;
}

const exists = async (args, what) => {
  const db = admin.db(args.databaseName ?? args.database);
  const name = args.collectionName ?? args.collection;
  if (what === 'collection') return (await db.listCollections({name}).toArray()).length === 1;
  try {
    return (await db.collection(name).indexes()).some((i) => i.name === (args.indexName ?? args.index));
  } catch (e) {
    if (e.code === 26) return false;
    throw e;
  }
};

async function failPoint(failPoint) {
  await admin.db('admin').command(failPoint);
  failPoints.add(failPoint.configureFailPoint);
}
const failPoints = new Set();

async function onRunner(name, o, world) {
  const must = (yes, what) => {
    if (!yes) throw new Error(what);
  };
  switch (name) {
    case 'failPoint': return await failPoint(o.failPoint);
    case 'targetedFailPoint': return await failPoint(o.failPoint);
    case 'assertSessionTransactionState': {
      const state = {none: 'NO_TRANSACTION', starting: 'STARTING_TRANSACTION', in_progress: 'TRANSACTION_IN_PROGRESS', committed: 'TRANSACTION_COMMITTED', aborted: 'TRANSACTION_ABORTED'};
      const now = world.entities[o.session].transaction.state;
      return must(now === state[o.state] || (o.state === 'committed' && now === 'TRANSACTION_COMMITTED_EMPTY'), `state ${now}, not ${o.state}`);
    }
    case 'assertCollectionExists': return must(await exists(o, 'collection'), `no ${o.collectionName ?? o.collection}`);
    case 'assertCollectionNotExists': return must(!(await exists(o, 'collection')), `there is ${o.collectionName ?? o.collection}`);
    case 'assertIndexExists': return must(await exists(o, 'index'), 'no index');
    case 'assertIndexNotExists': return must(!(await exists(o, 'index')), 'an index');
    case 'assertSessionDirty': case 'assertSessionNotDirty': return;
    case 'assertSameLsidOnLastTwoCommands': case 'assertDifferentLsidOnLastTwoCommands': {
      const [a, b] = (world.events[o.client] ?? world.events.client0).filter((e) => e.kind === 'started').slice(-2).map((e) => show(e.command.lsid));
      return must((a === b) === (name === 'assertSameLsidOnLastTwoCommands'), `${name}: ${a} ${b}`);
    }
    case 'assertNumberConnectionsCheckedOut': return;
    case 'assertSessionPinned': case 'assertSessionUnpinned': return;
    default: skip(`runner.${name}`);
  }
}

/** The older form names few objects: session0, collection, database, client, gridfsbucket. */
function objectOf(op, world) {
  if (op.object === 'testRunner') return null;
  const o = world.entities[op.object];
  if (!o) skip(`object ${op.object}`);
  if (world.legacy && op.collectionOptions) return o.db.collection(o.collectionName, settings(op.collectionOptions));
  if (world.legacy && op.databaseOptions) return o.client.db(o.databaseName, settings(op.databaseOptions));
  return o;
}

function settings(o) {
  const s = {...o};
  if (s.readPreference) s.readPreference = preference(s.readPreference);
  if (s.writeConcern?.journal !== undefined) s.writeConcern = {...s.writeConcern, j: s.writeConcern.journal};
  return s;
}

async function call(op, world) {
  const args = op.arguments ?? {};
  let object = op.object ?? 'collection';
  if (world.legacy && !op.object && args.session === undefined && world.entities[object] === undefined) skip('object');
  const target = objectOf({...op, object}, world);
  const name = camel[op.name] && object === 'client' ? op.name : op.name;
  if (target === null) return await onRunner(name, world.legacy ? args : args, world);
  const o = optionsOf(args, world);
  if (world.legacy && op.command_name) o.commandName = op.command_name;
  switch (target.constructor.name) {
    case 'Collection': return await onCollection(target, name, o, world);
    case 'Db': return await onDatabase(target, name, o);
    case 'GridFSBucket': return await onBucket(target, name === 'download_by_name' ? 'downloadByName' : name, o);
    case 'ClientSession': return await onSession(target, name, o, world);
    case 'MongoClient':
      if (name === 'listDatabases' || name === 'listDatabaseObjects') return (await target.db('admin').admin().listDatabases(o)).databases;
      if (name === 'listDatabaseNames') return (await target.db('admin').admin().listDatabases({...o, nameOnly: true})).databases;
      if (name === 'createChangeStream' || name === 'watch') return await openStream(target, o);
      if (name === 'clientBulkWrite') skip('bulkWrite of the client');
      if (name === 'close') return await target.close();
      return skip(`client.${name}`);
    case 'ChangeStream':
      if (name === 'iterateUntilDocumentOrError') {
        if (target.tryNextFirst) {
          const first = target.tryNextFirst;
          target.tryNextFirst = null;
          return first;
        }
        return await target.next();
      }
      return await target.close();
    case 'FindCursor':
      if (name === 'iterateUntilDocumentOrError' || name === 'iterateOnce') return await target.next();
      return await target.close();
    default: skip(`${target.constructor.name}.${name}`);
  }
}

async function run(op, world, inside = false) {
  const want = op.expectError ?? (world.legacy && (op.error || isErrorResult(op.result)) ? legacyError(op) : undefined);
  let result;
  try {
    result = await call(op, world);
  } catch (e) {
    if (e instanceof Skip || !(want || op.ignoreResultAndError)) throw e instanceof Skip || inside ? e : new Error(`${op.name}: ${e.name} ${e.code ?? ''} ${e.message}`, {cause: e});
    if (want) checkError(want, e, world);
    // Inside of withTransaction the callback throws what it met.
    if (inside) throw e;
    return;
  }
  if (want) throw new Error(`${op.name}: no error, but ${show(shape(result))} instead of ${show(want)}`);
  if (op.saveResultAsEntity) world.entities[op.saveResultAsEntity] = result;
  const expected = op.expectResult ?? (world.legacy ? op.result : undefined);
  if (expected === undefined) return;
  let got = shape(result);
  if (world.legacy) return legacyResult(op, expected, got, world);
  same(expected, got, world, op.name, Array.isArray(expected) && op.name !== 'distinct' ? 'each' : true);
}

const isErrorResult = (r) => isObject(r) && ['errorContains', 'errorCodeName', 'errorLabelsContain', 'errorLabelsOmit'].some((k) => k in r);
const legacyError = (op) => (isErrorResult(op.result) ? op.result : {result: undefined});

function legacyResult(op, want, got, world) {
  if (want === null && (got === undefined || got === null || op.name === 'findOneAndUpdate')) return;
  if (isObject(want) && (want.upsertedCount !== undefined || want.insertedIds || want.insertedId !== undefined || want.matchedCount !== undefined || want.deletedCount !== undefined)) {
    const clean = {...want};
    if (op.name !== 'bulkWrite' && op.name !== 'insertMany') delete clean.insertedIds;
    for (const k of Object.keys(clean)) if (got?.[k] === undefined) delete clean[k];
    return same(clean, got, world, op.name, true);
  }
  if (op.object === 'database' || op.object === 'client' || op.name === 'listIndexes' || op.name.startsWith('list')) return;
  same(want, got, world, op.name, op.name === 'runCommand');
}

// ---- events ----

function observe(client, id, wanted, ignore, world) {
  world.events[id] = [];
  const hidden = new Set(['hello', 'ismaster', 'isMaster', 'saslStart', 'saslContinue', 'configureFailPoint', 'endSessions', ...(ignore ?? [])]);
  for (const kind of ['started', 'succeeded', 'failed'])
    if (wanted(kind)) client.on(`command${kind[0].toUpperCase()}${kind.slice(1)}`, (e) => hidden.has(e.commandName) || world.events[id].push({kind, ...plain(e)}));
}

const plain = (e) => ({command: e.command && BSON.deserialize(BSON.serialize(e.command)), commandName: e.commandName, databaseName: e.databaseName ?? e.address, reply: e.reply});

function checkEvents(want, got, world, ignoreExtra) {
  const names = (l) => l.map((e) => `${e.kind} ${e.commandName}`).join(', ');
  const wantNames = want.map((w) => `${Object.keys(w)[0].replace(/command(\w+)Event/, (_, k) => k.toLowerCase())} ${Object.values(w)[0].commandName ?? ''}`);
  if (want.length > got.length || (!ignoreExtra && want.length !== got.length)) throw new Error(`events: ${names(got)} instead of ${wantNames.join(', ')}`);
  want.forEach((w, i) => {
    const [[kind, event]] = Object.entries(w);
    if (!kind.startsWith('command')) return;
    if (got[i].kind !== kind.replace(/command(\w+)Event/, (_, k) => k.toLowerCase())) throw new Error(`events: ${names(got)} instead of ${wantNames.join(', ')}`);
    for (const k of ['command', 'commandName', 'databaseName', 'reply']) if (event[k] !== undefined) same(event[k], got[i][k], world, `event ${i} ${k}`, true);
  });
}

// ---- the unified form ----

async function makeEntities(list, world) {
  for (const item of list ?? []) {
    const [[kind, e]] = Object.entries(item);
    switch (kind) {
      case 'client': {
        const o = {...e.uriOptions};
        if (o.appname) { o.appName = o.appname; delete o.appname; }
        const known = ['retryReads', 'retryWrites', 'w', 'journal', 'wTimeoutMS', 'readConcernLevel', 'readPreference', 'appName', 'heartbeatFrequencyMS', 'maxPoolSize', 'minPoolSize', 'timeoutMS', 'socketTimeoutMS', 'waitQueueTimeoutMS', 'serverSelectionTimeoutMS', 'connectTimeoutMS', 'compressors', 'serverMonitoringMode', 'maxConnecting', 'waitQueueSize', 'directConnection'];
        for (const k of Object.keys(o)) if (!known.includes(k)) skip(`option ${k}`);
        const client = new MongoClient(uri, {...o, ...(e.serverApi ? {serverApi: e.serverApi} : {}), monitorCommands: true, heartbeatFrequencyMS: 500, minHeartbeatFrequencyMS: 50});
        world.closers.push(() => client.close());
        const events = e.observeEvents ?? [];
        observe(client, e.id, (k) => events.includes(`command${k[0].toUpperCase()}${k.slice(1)}Event`), e.ignoreCommandMonitoringEvents, world);
        world.entities[e.id] = await client.connect();
        world.events[e.id].length = 0;
        break;
      }
      case 'database': world.entities[e.id] = world.entities[e.client].db(e.databaseName, settings(e.databaseOptions ?? {})); break;
      case 'collection': world.entities[e.id] = world.entities[e.database].collection(e.collectionName, settings(e.collectionOptions ?? {})); break;
      case 'session': {
        const o = {...e.sessionOptions};
        if (o.defaultTransactionOptions) o.defaultTransactionOptions = settings(o.defaultTransactionOptions);
        const s = (world.entities[e.id] = world.entities[e.client].startSession(o));
        world.closers.unshift(() => s.endSession());
        break;
      }
      case 'bucket': world.entities[e.id] = new GridFSBucket(world.entities[e.database], e.bucketOptions); break;
      default: skip(`entity ${kind}`);
    }
  }
}

async function unified(file, spec) {
  for (const test of spec.tests)
    await one(file, test.description, async (world) => {
      if (!fits(spec.runOnRequirements) || !fits(test.runOnRequirements)) skip('not for this deployment');
      if (test.skipReason) skip(test.skipReason);
      for (const d of spec.initialData ?? []) await reset(d.databaseName, d.collectionName, d.documents, d.createOptions);
      await makeEntities(spec.createEntities, world);
      for (const op of test.operations) await run(op, world);
      for (const e of test.expectEvents ?? []) if (!e.eventType || e.eventType === 'command') checkEvents(e.events, world.events[e.client], world, e.ignoreExtraEvents);
      for (const d of test.outcome ?? []) await outcome(d.databaseName, d.collectionName, d.documents, world);
    });
}

async function reset(database, collection, documents, options) {
  const db = admin.db(database, {writeConcern: {w: 'majority'}});
  await db.collection(collection).drop();
  await db.createCollection(collection, options);
  if (documents?.length) await db.collection(collection).insertMany(documents);
}

async function outcome(database, collection, documents, world) {
  const got = await admin.db(database).collection(collection, {readConcern: {level: 'local'}}).find({}, {sort: {_id: 1}, promoteValues: true}).toArray();
  same(documents, got, world, 'outcome', false);
}

// ---- the older form ----

async function legacy(file, spec) {
  for (const test of spec.tests)
    await one(file, test.description, async (world) => {
      world.legacy = true;
      if (!fits(spec.runOn) || !fits([test]) || (spec.minServerVersion && older(version, spec.minServerVersion)) || (spec.maxServerVersion && older(spec.maxServerVersion, version))) skip('not for this deployment');
      if (test.skipReason) skip(test.skipReason);
      if (test.useMultipleMongoses && spec.runOn?.every((r) => !r.topology?.includes('replicaset'))) skip('mongos');
      const database = spec.database_name ?? 'spec-tests';
      const collection = spec.collection_name ?? test.outcome?.collection?.name ?? 'coll';
      const bucket = spec.bucket_name;
      if (bucket) for (const part of ['files', 'chunks']) await reset(database, `${bucket}.${part}`, spec.data[`${bucket}.${part}`]);
      else await reset(database, collection, Array.isArray(spec.data) ? spec.data : []);
      const client = new MongoClient(uri, {...test.clientOptions, ...(test.clientOptions?.readPreference ? {} : {}), monitorCommands: true, heartbeatFrequencyMS: 500, minHeartbeatFrequencyMS: 50});
      world.closers.push(() => client.close());
      observe(client, 'client0', (k) => k === 'started', [], world);
      world.entities.client = await client.connect();
      for (const s of ['session0', 'session1']) {
        const o = {...test.sessionOptions?.[s]};
        if (o.defaultTransactionOptions) o.defaultTransactionOptions = settings(o.defaultTransactionOptions);
        const session = (world.entities[s] = client.startSession(o));
        world.closers.unshift(() => session.endSession());
      }
      const db = (world.entities.database = client.db(database, settings(test.databaseOptions ?? {})));
      db.client = client;
      const c = (world.entities.collection = db.collection(collection, settings(test.collectionOptions ?? {})));
      c.db = db;
      world.entities.gridfsbucket = new GridFSBucket(db, bucket ? {bucketName: bucket} : {});
      if (test.failPoint) await failPoint(test.failPoint);
      world.events.client0.length = 0;
      if (test.target) return await streamTest(test, spec, client, world);
      const operations = test.operations ?? [test.operation];
      for (const op of operations) await run({...op, result: op.result ?? (test.operation && test.outcome?.result), error: op.error ?? test.outcome?.error}, world);
      await Promise.all(['session0', 'session1'].map((s) => world.entities[s].endSession()));
      if (test.expectations) legacyEvents(test.expectations, world.events.client0, world);
      if (test.outcome?.collection) await outcome(database, test.outcome.collection.name ?? collection, test.outcome.collection.data, world);
    });
}

/** Change streams: one is opened, operations run elsewhere, and its events (or its error) are compared. */
async function streamTest(test, spec, client, world) {
  await admin.db(spec.database_name).collection(`new-${spec.collection_name}`).drop();
  await admin.db(spec.database_name).collection('new-name').drop();
  if (spec.collection2_name) await admin.db(spec.database_name).collection(spec.collection2_name).drop();
  if (spec.database2_name) await reset(spec.database2_name, spec.collection2_name, []);
  const on = {collection: world.entities.collection, database: world.entities.database, client}[test.target];
  const stream = on.watch(test.changeStreamPipeline, test.changeStreamOptions);
  world.closers.unshift(() => stream.close());
  try {
    await stream.tryNext();
    for (const op of test.operations) {
      const c = admin.db(op.database).collection(op.collection);
      await onCollection(c, op.name, {...op.arguments}, world);
    }
    const wanted = test.result.success ?? [];
    for (const want of wanted) same(JSON.parse(JSON.stringify(want), (k, v) => (v === 42 || v === '42' ? {$$exists: true} : v)), await stream.next(), world, 'event', 'deep');
    if (test.result.error) {
      await stream.next();
      throw new Error('no error');
    }
  } catch (e) {
    if (!test.result.error || e.message === 'no error') throw e;
    const {code, errorLabels} = test.result.error;
    checkError({errorCode: code, errorLabelsContain: errorLabels}, e, world);
  }
  const wanted = (test.expectations ?? []).map((w) => w.command_started_event.command_name);
  const got = world.events.client0.map((e) => e.commandName).filter((n) => n !== 'killCursors');
  if (test.expectations && wanted.some((n, i) => n !== got[i])) throw new Error(`commands: ${got} instead of ${wanted}`);
}

function legacyEvents(want, got, world) {
  const wanted = want.map((w) => w.command_started_event).filter(Boolean);
  const names = (l) => l.map((e) => e.command_name ?? e.commandName ?? Object.keys(e.command)[0]).join(', ');
  const clean = got.filter((e) => e.kind === 'started');
  if (names(wanted) !== names(clean)) throw new Error(`commands: ${names(clean)} instead of ${names(wanted)}`);
}

// ---- one test ----

async function one(file, description, body) {
  const name = `${file}: ${description}`.replaceAll('#', '');
  if (only && !only.test(name)) return;
  const world = {entities: {}, events: {}, closers: []};
  count++;
  let timer;
  try {
    await Promise.race([body(world), new Promise((_, fail) => (timer = setTimeout(() => fail(new Error('no end after 30 s')), 30000)))]);
    console.log(`ok ${count} - ${name}`);
  } catch (e) {
    if (e instanceof Skip) {
      skipped++;
      console.log(`ok ${count} - ${name} # SKIP ${e.message}`);
    } else {
      failed++;
      console.log(`not ok ${count} - ${name}\n# ${String(process.env.VD_TRACE ? e.stack : e.message).replaceAll('\n', '\n# ')}`);
    }
  } finally {
    clearTimeout(timer);
    for (const point of failPoints) await admin.db('admin').command({configureFailPoint: point, mode: 'off'}).catch(() => {});
    failPoints.clear();
    for (const close of world.closers) await close().catch(() => {});
  }
}

await admin.connect();
for (const folder of process.argv.slice(2)) {
  const files = fs.statSync(folder).isDirectory() ? fs.readdirSync(folder, {recursive: true}).filter((f) => f.endsWith('.json')).sort().map((f) => path.join(folder, f)) : [folder];
  for (const file of files) {
    const spec = EJSON.parse(fs.readFileSync(file, 'utf8'), {relaxed: true});
    // Not ours: connection strings, documents without a server.
    if (!spec.tests || spec.tests.some((t) => !t.operations && !t.operation)) continue;
    await (spec.schemaVersion ? unified : legacy)(path.relative(path.join(folder, '..'), file), spec);
  }
}
await admin.close();
console.log(`1..${count}\n# ${count - failed - skipped} passed, ${failed} failed, ${skipped} skipped`);
process.exit(failed ? 1 : 0);
