// Change streams through the official driver: scopes, events in full, resuming, images, waiting without a worker, a killed storage.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {readFileSync} from 'node:fs';
import {Node, sleep, until} from '../support/node.mjs';

let node, client, db;
before(async () => {
  node = await Node.start();
  client = await node.client({driver: {maxPoolSize: 700}});
  db = client.db('streams');
});
after(async () => {
  await client?.close();
  await node?.stop();
});

/** Opens the cursor on the server, so that what follows is seen. */
async function open(stream) {
  await stream.tryNext();
  return stream;
}
async function take(stream, n) {
  const events = [];
  for (let i = 0; i < n; i++) events.push(await stream.next());
  return events;
}
const types = (events) => events.map((e) => e.operationType);

test('every kind of event of a document, its fields in MongoDB\'s order', async () => {
  const c = db.collection('kinds');
  const s = await open(c.watch());
  await c.insertOne({_id: 1, a: 1, o: {x: 1, y: 2}, l: [1, 2, 3]});
  await c.updateOne({_id: 1}, {$set: {'o.x': 5, b: 'new'}, $unset: {a: ''}, $push: {l: 4}});
  await c.updateOne({_id: 1}, {$set: {o: {x: 5, y: 3}}});
  await c.updateOne({_id: 1}, [{$set: {l: {$slice: ['$l', 2]}, 'o.y': 9}}]);
  await c.replaceOne({_id: 1}, {r: true});
  await c.deleteOne({_id: 1});
  const e = await take(s, 6);
  await s.close();
  assert.deepEqual(types(e), ['insert', 'update', 'update', 'update', 'replace', 'delete']);
  assert.deepEqual(Object.keys(e[0]), ['_id', 'operationType', 'clusterTime', 'wallTime', 'fullDocument', 'ns', 'documentKey']);
  assert.deepEqual(Object.keys(e[1]), ['_id', 'operationType', 'clusterTime', 'wallTime', 'ns', 'documentKey', 'updateDescription']);
  assert.deepEqual(e[0].fullDocument, {_id: 1, a: 1, o: {x: 1, y: 2}, l: [1, 2, 3]});
  assert.deepEqual(e[0].ns, {db: 'streams', coll: 'kinds'});
  assert.deepEqual(e[0].documentKey, {_id: 1});
  assert.ok(e[0].wallTime instanceof Date);
  assert.deepEqual(e[1].updateDescription, {updatedFields: {'o.x': 5, 'l.3': 4, b: 'new'}, removedFields: ['a'], truncatedArrays: []});
  assert.deepEqual(e[2].updateDescription.updatedFields, {o: {x: 5, y: 3}});
  assert.deepEqual(e[3].updateDescription, {updatedFields: {'o.y': 9}, removedFields: [], truncatedArrays: [{field: 'l', newSize: 2}]});
  assert.deepEqual(e[4].fullDocument, {_id: 1, r: true});
  assert.equal(e[5].fullDocument, undefined);
  const tokens = e.map((x) => x._id._data);
  assert.deepEqual(tokens, [...tokens].sort());
});

test('collection, database and cluster see what is theirs; $match and $project', async () => {
  const other = client.db('streams_other');
  const streams = {
    collection: await open(db.collection('scope').watch()),
    database: await open(db.watch()),
    cluster: await open(client.watch()),
    filtered: await open(db.watch([{$match: {operationType: 'insert', 'fullDocument.n': {$gte: 2}}}, {$project: {'fullDocument.n': 1}}])),
  };
  await db.collection('scope').insertOne({_id: 1, n: 1});
  await db.collection('scope2').insertOne({_id: 2, n: 2});
  await other.collection('x').insertOne({_id: 3, n: 3});
  await db.collection('scope').insertOne({_id: 4, n: 4});
  const ids = async (name, n) => (await take(streams[name], n)).map((e) => e.documentKey?._id ?? e.fullDocument.n);
  assert.deepEqual(await ids('collection', 2), [1, 4]);
  assert.deepEqual(await ids('database', 3), [1, 2, 4]);
  assert.deepEqual(await ids('cluster', 4), [1, 2, 3, 4]);
  assert.deepEqual(await ids('filtered', 2), [2, 4]);
  for (const s of Object.values(streams)) await s.close();
  await other.dropDatabase();
});

test('resuming after each event gives exactly the rest; startAtOperationTime; wrong tokens', async () => {
  const c = db.collection('resume');
  const s = await open(c.watch());
  await c.insertMany(Array.from({length: 7}, (_, i) => ({_id: i})));
  for (let i = 0; i < 5; i++) await c.updateOne({_id: i}, {$inc: {n: 1}});
  await c.deleteMany({_id: {$lt: 3}});
  const all = await take(s, 15);
  await s.close();
  for (let i = 0; i < all.length - 1; i++) {
    const r = c.watch([], i % 2 ? {resumeAfter: all[i]._id} : {startAfter: all[i]._id});
    assert.deepEqual(await take(r, all.length - 1 - i), all.slice(i + 1), `after event ${i}`);
    await r.close();
  }
  const timed = c.watch([], {startAtOperationTime: all[7].clusterTime});
  assert.deepEqual(await take(timed, 8), all.slice(7));
  await timed.close();
  const failed = async (options, pipeline = []) => {
    const r = c.watch(pipeline, options);
    try {
      await r.next();
    } catch (e) {
      return e;
    } finally {
      await r.close();
    }
  };
  const bad = all[3]._id._data.slice(0, -1) + (all[3]._id._data.endsWith('0') ? '1' : '0');
  assert.equal((await failed({resumeAfter: {_data: bad}})).code, 260);
  assert.equal((await failed({resumeAfter: {_data: 'zz'}})).code, 9);
  const elsewhere = db.collection('resume_other').watch([], {resumeAfter: all[3]._id});
  const lost = await elsewhere.next().catch((e) => e);
  assert.equal(lost.code, 280);
  assert.ok(lost.hasErrorLabel('NonResumableChangeStreamError'));
  await elsewhere.close();
  assert.equal((await failed({resumeAfter: all[3]._id, startAtOperationTime: all[0].clusterTime})).code, 40674);
  assert.equal((await failed({}, [{$limit: 3}])).code, 20);
  assert.equal((await failed({fullDocument: 'nonsense'})).code, 2);
});

test('drop, rename and dropDatabase end streams with an invalidation; startAfter goes on behind it', async () => {
  const d = client.db('streams_gone');
  await d.collection('a').insertOne({_id: 1});
  await d.collection('b').insertOne({_id: 1});
  const a = await open(d.collection('a').watch()), b = await open(d.collection('b').watch()), whole = await open(d.watch());
  await d.collection('a').drop();
  await d.collection('b').rename('c');
  await d.collection('a').insertOne({_id: 2});
  const ea = await take(a, 2), eb = await take(b, 2);
  assert.deepEqual(types(ea), ['drop', 'invalidate']);
  assert.deepEqual(types(eb), ['rename', 'invalidate']);
  assert.deepEqual(eb[0].to, {db: 'streams_gone', coll: 'c'});
  const again = d.collection('a').watch([], {startAfter: ea[1]._id});
  assert.deepEqual((await again.next()).documentKey, {_id: 2});
  await again.close();
  const refused = d.collection('a').watch([], {resumeAfter: ea[1]._id});
  assert.equal((await refused.next().catch((e) => e)).code, 260);
  await refused.close();
  await d.dropDatabase();
  const ew = await take(whole, 7);
  assert.deepEqual(types(ew).slice(0, 3), ['drop', 'rename', 'insert']);
  assert.deepEqual(types(ew).slice(-2), ['dropDatabase', 'invalidate']);
  for (const s of [a, b, whole]) await s.close();
});

test('images: before and after, as they were; required and missing is an error', async () => {
  const c = await db.createCollection('images', {changeStreamPreAndPostImages: {enabled: true}});
  const [info] = await db.listCollections({name: 'images'}).toArray();
  assert.deepEqual(info.options.changeStreamPreAndPostImages, {enabled: true});
  const s = await open(c.watch([], {fullDocument: 'required', fullDocumentBeforeChange: 'required'}));
  await c.insertOne({_id: 1, n: 0});
  await c.updateOne({_id: 1}, {$inc: {n: 1}});
  await c.updateOne({_id: 1}, {$inc: {n: 1}});
  await c.replaceOne({_id: 1}, {r: 1});
  await c.deleteOne({_id: 1});
  const e = await take(s, 5);
  assert.deepEqual(e.map((x) => x.fullDocumentBeforeChange), [undefined, {_id: 1, n: 0}, {_id: 1, n: 1}, {_id: 1, n: 2}, {_id: 1, r: 1}]);
  assert.deepEqual(e.map((x) => x.fullDocument), [{_id: 1, n: 0}, {_id: 1, n: 1}, {_id: 1, n: 2}, {_id: 1, r: 1}, undefined]);
  await db.command({collMod: 'images', changeStreamPreAndPostImages: {enabled: false}});
  await c.insertOne({_id: 2});
  await c.deleteOne({_id: 2});
  const required = await s.next().then(() => s.next()).catch((x) => x); // alone, or both in one batch
  assert.equal(required.code, 47);
  await s.close();
  const look = await open(c.watch([], {fullDocument: 'updateLookup', fullDocumentBeforeChange: 'whenAvailable'}));
  await c.insertOne({_id: 3, n: 0});
  await c.updateOne({_id: 3}, {$set: {n: 1}});
  await c.updateOne({_id: 3}, {$set: {n: 2}});
  const [, first] = await take(look, 2);
  assert.deepEqual(first.fullDocument, {_id: 3, n: 2});
  assert.equal(first.fullDocumentBeforeChange, null);
  await look.close();
});

test('expanded events: create, modify, collectionUUID, disambiguatedPaths', async () => {
  const s = await open(db.watch([{$match: {'ns.coll': 'expanded'}}], {showExpandedEvents: true}));
  const c = await db.createCollection('expanded');
  await c.insertOne({_id: 1, a: {0: 'x'}});
  await c.updateOne({_id: 1}, {$set: {'a.0': 'y'}});
  await db.command({collMod: 'expanded', validator: {a: {$exists: true}}});
  await c.createIndex({a: 1}, {name: 'x'});
  await db.command({collMod: 'expanded', index: {name: 'x', hidden: true}});
  await c.dropIndex('x');
  const e = await take(s, 7);
  await s.close();
  assert.deepEqual(types(e), ['create', 'insert', 'update', 'modify', 'createIndexes', 'modify', 'dropIndexes']);
  assert.deepEqual(e[4].operationDescription, {indexes: [{v: 2, key: {a: 1}, name: 'x'}]});
  assert.deepEqual(e[5].operationDescription, {index: {name: 'x', hidden: true}});
  assert.deepEqual(e[6].operationDescription.indexes.map((x) => x.name), ['x']);
  assert.ok(e.every((x) => x.collectionUUID));
  assert.deepEqual(e[2].updateDescription.disambiguatedPaths, {'a.0': ['a', '0']});
  assert.deepEqual(e[3].operationDescription.validator, {a: {$exists: true}});
});

/** Processor time of storage, in clock ticks. */
async function ticks() {
  const pid = (await node.worker('storaged')).pid;
  const f = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return Number(f[11]) + Number(f[12]);
}

test('500 streams wait without a worker, cost next to nothing, and one write wakes them all', async () => {
  const c = db.collection('many');
  await c.insertOne({_id: 0});
  const streams = await Promise.all(Array.from({length: 500}, () => open(c.watch([], {maxAwaitTimeMS: 5000}))));
  const waiting = streams.map((s) => s.next());
  await sleep(1500);
  const before = await ticks();
  await sleep(2000);
  const used = (await ticks()) - before;
  assert.ok(used <= 20, `${used} ticks in 2 s with all idle`);
  await c.findOne({_id: 0});
  const began = Date.now();
  await c.insertOne({_id: 1});
  const events = await Promise.all(waiting);
  assert.ok(Date.now() - began < 5000, `${Date.now() - began} ms`);
  assert.ok(events.every((e) => e.documentKey._id === 1));
  await Promise.all(streams.map((s) => s.close()));
});

test('awaitData: answers empty after its time, at once when killed; the token moves on', async () => {
  const c = db.collection('await');
  await c.insertOne({_id: 0});
  const opened = await db.command({aggregate: 'await', pipeline: [{$changeStream: {}}], cursor: {}});
  assert.deepEqual(opened.cursor.firstBatch, []);
  const more = (ms) => db.command({getMore: opened.cursor.id, collection: 'await', maxTimeMS: ms});
  let began = Date.now();
  await db.collection('unrelated').insertOne({});
  const empty = await more(300);
  assert.deepEqual(empty.cursor.nextBatch, []);
  assert.ok(Date.now() - began >= 250 && Date.now() - began < 2000);
  assert.ok(empty.cursor.postBatchResumeToken._data > opened.cursor.postBatchResumeToken._data);
  const long = more(60000).catch((e) => e);
  await sleep(200);
  began = Date.now();
  await db.command({killCursors: 'await', cursors: [opened.cursor.id]});
  const killed = await long;
  assert.ok([237, 11601].includes(killed.code), String(killed));
  assert.ok(Date.now() - began < 2000);
});

test('storage is killed in the middle of a load: no event missing, none twice, in order', async () => {
  const c = db.collection('crash');
  await c.insertOne({_id: 'first'});
  const s = await open(c.watch([{$match: {operationType: 'insert'}}], {maxAwaitTimeMS: 200}));
  const written = [], seen = [];
  let stop = false;
  const reading = (async () => {
    for (;;) {
      const e = await s.next();
      if (e.documentKey._id === 'last') return;
      seen.push(e.documentKey._id);
    }
  })();
  const writing = (async () => {
    for (let i = 0; !stop; i++) {
      try {
        await c.insertOne({_id: i});
        written.push(i);
      } catch (e) {
        if (await c.findOne({_id: i})) written.push(i);
      }
    }
  })();
  for (let k = 0; k < 3; k++) {
    await sleep(700);
    await node.kill('storaged');
    await node.whole();
  }
  await sleep(500);
  stop = true;
  await writing;
  await c.insertOne({_id: 'last'});
  await Promise.race([reading, sleep(30000).then(() => assert.fail(`the stream did not come to the end: ${seen.length} of ${written.length}`))]);
  await s.close();
  assert.ok(written.length > 100);
  assert.deepEqual(seen, written);
});
