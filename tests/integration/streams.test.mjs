// Change streams through the official driver: scopes, events in full, resuming, images, waiting without a worker, a killed storage.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {readFileSync} from 'node:fs';
import {Timestamp} from 'mongodb';
import {metrics} from '../support/metrics.mjs';
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

test('a stream from a time that is still to come tells what is then, also of collections that are made before', async () => {
  const second = () => Math.floor(Date.now() / 1000);
  // Where this machine comes too late to the insertion that is before: again.
  for (let ahead = 3, late = true; late; ahead *= 2) {
    const c = db.collection(`later_${ahead}`), other = db.collection(`later_too_${ahead}`);
    const from = Timestamp.fromBits(1, second() + ahead), options = {startAtOperationTime: from, maxAwaitTimeMS: 1};
    const streams = [await open(c.watch([], options)), await open(db.watch([{$match: {'ns.coll': c.collectionName}}], options))];
    await c.insertOne({_id: 1});
    await other.insertOne({_id: 1});
    await other.rename(`gone_${ahead}`);
    late = second() >= from.getHighBits();
    await until('it is time', () => second() > from.getHighBits());
    await c.insertOne({_id: 2});
    for (const s of streams) {
      const event = await s.next();
      assert.ok(event.clusterTime.greaterThanOrEqual(from));
      if (!late) assert.deepEqual([event.operationType, event.documentKey], ['insert', {_id: 2}]);
      await s.close();
    }
  }
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

/** What opening or reading a stream fails with. */
async function failing(collection, pipeline, options) {
  const s = collection.watch(pipeline, options);
  try {
    await s.next();
  } catch (e) {
    return e;
  } finally {
    await s.close();
  }
}

test('the stages that may follow $changeStream', async () => {
  const c = db.collection('stages');
  const allowed = [
    [{$match: {}}], [{$addFields: {x: 1}}], [{$set: {x: 1}}], [{$unset: 'wallTime'}], [{$project: {operationType: 1}}],
    [{$replaceRoot: {newRoot: '$$ROOT'}}], [{$replaceWith: '$$ROOT'}], [{$redact: '$$KEEP'}], [{$changeStreamSplitLargeEvent: {}}],
  ];
  for (const pipeline of allowed) await (await open(c.watch(pipeline))).close();
  const refused = [{$limit: 1}, {$skip: 1}, {$sort: {a: 1}}, {$group: {_id: 1}}, {$count: 'n'}, {$unwind: '$a'}, {$sample: {size: 1}}, {$sortByCount: '$a'},
    {$facet: {a: []}}, {$lookup: {from: 'x', localField: 'a', foreignField: 'b', as: 'c'}}, {$unionWith: 'x'}, {$out: 'x'}, {$merge: 'x'}, {$bucketAuto: {groupBy: '$a', buckets: 2}}];
  for (const stage of refused) {
    const e = await failing(c, [stage]);
    assert.equal(e.code, 20, JSON.stringify(stage));
    assert.match(e.message, new RegExp(`\\${Object.keys(stage)[0]} is not permitted in a \\$changeStream pipeline`));
  }
  const s = await open(c.watch([{$redact: {$cond: [{$eq: ['$secret', true]}, '$$PRUNE', '$$DESCEND']}}]));
  await c.insertOne({_id: 1, open: {a: 1}, hidden: {secret: true, b: 2}});
  assert.deepEqual((await s.next()).fullDocument, {_id: 1, open: {a: 1}});
  await s.close();
});

test('$changeStreamSplitLargeEvent: fragments, each with a token that goes on behind it', async () => {
  const c = await db.createCollection('split', {changeStreamPreAndPostImages: {enabled: true}});
  const big = (x) => x.repeat(9 * 1024 * 1024);
  const options = {fullDocument: 'required', fullDocumentBeforeChange: 'required'};
  const split = [{$changeStreamSplitLargeEvent: {}}];
  const whole = await open(c.watch([], options)), s = await open(c.watch(split, options));
  await c.insertOne({_id: 1, a: big('a')});
  await c.updateOne({_id: 1}, {$set: {b: 1, a: big('b')}});
  await c.insertOne({_id: 2});
  const [insert, ...rest] = await take(s, 2);
  assert.equal(insert.splitEvent, undefined);
  const {of} = rest[0].splitEvent;
  assert.equal(of, 3); // the document before, the one after, and the field that was set: each more than half of what fits
  const fragments = [...rest, ...(await take(s, of - 1))];
  assert.deepEqual(fragments.map((e) => e.splitEvent), [1, 2, 3].map((fragment) => ({fragment, of})));
  const next = await s.next();
  assert.deepEqual(next.documentKey, {_id: 2});
  await s.close();
  const {splitEvent, ...joined} = Object.assign({}, ...fragments);
  assert.deepEqual(Object.keys(fragments[0]).slice(0, 2), ['_id', 'splitEvent']);
  assert.deepEqual({...joined, _id: 0, clusterTime: 0, wallTime: 0}, {
    _id: 0, clusterTime: 0, wallTime: 0, operationType: 'update', ns: {db: 'streams', coll: 'split'}, documentKey: {_id: 1},
    updateDescription: {updatedFields: {b: 1, a: big('b')}, removedFields: [], truncatedArrays: []},
    fullDocument: {_id: 1, a: big('b'), b: 1}, fullDocumentBeforeChange: {_id: 1, a: big('a')},
  });
  assert.equal(fragments[0].splitEvent.of, splitEvent.of);
  const tokens = [insert, ...fragments, next].map((e) => e._id._data);
  assert.deepEqual(tokens, [...tokens].sort());
  for (let i = 0; i < fragments.length; i++) {
    for (const how of ['resumeAfter', 'startAfter']) {
      const again = c.watch(split, {...options, [how]: fragments[i]._id});
      const got = await take(again, fragments.length - i);
      assert.deepEqual(got.map((e) => e._id), [...fragments.slice(i + 1), next].map((e) => e._id), `${how} ${i}`);
      assert.deepEqual(got.map((e) => e.splitEvent), [...fragments.slice(i + 1), next].map((e) => e.splitEvent));
      await again.close();
    }
  }
  // Whoever does not split gets an error that no driver tries again.
  const large = await whole.next().then(() => whole.next()).catch((e) => e); // behind the insert, or in one batch with it
  assert.equal(large.code, 10334);
  assert.ok(large.hasErrorLabel('NonResumableChangeStreamError'));
  await whole.close();
  const token = fragments[0]._id;
  assert.equal((await failing(c, [], {resumeAfter: token})).code, 280); // must split again
  assert.equal((await failing(c, split, {resumeAfter: token})).code, 280); // not so large without the images
  assert.equal((await failing(c, [{$match: {operationType: 'insert'}}, ...split], {...options, resumeAfter: token})).code, 280); // is not seen any more
  const last = fragments[of - 1]._id;
  assert.equal((await failing(c, [{$unset: ['fullDocumentBeforeChange']}, ...split], {...options, resumeAfter: last})).code, 280); // fewer fragments
  assert.equal((await failing(c, [{$changeStreamSplitLargeEvent: {a: 1}}])).code, 7182800);
  assert.equal((await failing(c, [...split, {$match: {}}])).code, 7182802);
  assert.equal((await failing(c, [...split, ...split])).code, 7182802);
  await assert.rejects(c.aggregate([{$changeStreamSplitLargeEvent: {}}]).toArray(), {code: 20});
  assert.equal((await failing(c, [{$replaceWith: {_id: '$_id', x: {$concat: ['$fullDocument.a', '$fullDocumentBeforeChange.a']}}}, ...split], {...options, startAfter: insert._id})).code, 7182500);
  await c.drop();
});

test('what comes is looked at once: streams of other collections and filtered ones sleep on', async () => {
  const streams = [], c = db.collection('awake');
  const figures = async () => (await db.admin().command({serverStatus: 1})).metrics.changeStreams;
  await c.insertOne({_id: 'first'});
  const waits = {maxAwaitTimeMS: 600000};
  for (let i = 0; i < 100; i++) {
    streams.push(db.collection(`asleep${i % 10}`).watch([], waits));
    streams.push(c.watch([{$match: {'documentKey._id': `none${i}`}}], waits));
    streams.push(client.db(`asleep${i % 10}`).watch([], waits));
  }
  const waiting = streams.map((s) => s.next());
  await until('all wait', async () => (await figures()).parked === 300, 60000);
  // Whoever was parked before the watch began looks once.
  await until('nobody is woken any more', async () => {
    const {wakes} = await figures();
    await c.insertOne({});
    await sleep(300);
    const now = await figures();
    return now.wakes === wakes && now.parked === 300;
  });
  const before = await figures();
  for (let i = 0; i < 200; i++) await c.insertOne({_id: i});
  await until('they were looked at', async () => (await figures()).entriesWatched >= before.entriesWatched + 200);
  const now = await figures();
  assert.equal(now.wakes, before.wakes);
  assert.equal(now.entriesRead, before.entriesRead);
  assert.equal(now.parked, 300);
  // One of each is woken, and reads on from here, not through what was looked at for it.
  await db.collection('asleep3').insertOne({_id: 'now'});
  await c.insertOne({_id: 'none7'});
  await client.db('asleep5').collection('x').insertOne({_id: 'now'});
  const woken = await Promise.all(waiting.filter((_, i) => i === 7 * 3 + 1 || (i % 3 === 0 && (i / 3) % 10 === 3) || (i % 3 === 2 && ((i - 2) / 3) % 10 === 5)));
  assert.equal(woken.length, 21);
  assert.ok(woken.every((e) => ['now', 'none7'].includes(e.documentKey._id)));
  const after = await figures();
  assert.ok(after.entriesRead - before.entriesRead < 400, `${after.entriesRead - before.entriesRead} entries were read`);
  const page = await metrics(node.info);
  assert.equal(page.veddb_streams_open, after.open);
  assert.ok(page.veddb_streams_events_delivered_total >= 21 && page.veddb_streams_wakes_total >= 21 && page.veddb_streams_entries_watched_total > 200);
  for (const name of ['parked', 'events_filtered_total', 'events_split_total', 'entries_read_total', 'expired_total']) assert.ok(`veddb_streams_${name}` in page, name);
  for (const w of waiting) w.catch(() => {}); // those that still wait
  await Promise.all(streams.map((s) => s.close()));
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
  const parked = async () => (await db.admin().command({serverStatus: 1})).metrics.changeStreams.parked;
  // Longer than the test: only a wake brings the event.
  const streams = Array.from({length: 500}, () => c.watch([], {maxAwaitTimeMS: 600000}));
  const waiting = streams.map((s) => s.next());
  await until('all wait', async () => (await parked()) >= 500, 120000);
  await sleep(1500);
  const before = await ticks();
  await sleep(2000);
  const used = (await ticks()) - before;
  assert.ok(used <= 20, `${used} ticks in 2 s with all idle`);
  await c.findOne({_id: 0});
  await c.insertOne({_id: 1});
  const events = await Promise.all(waiting);
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
  assert.ok(Date.now() - began >= 250);
  assert.ok(empty.cursor.postBatchResumeToken._data > opened.cursor.postBatchResumeToken._data);
  const long = more(60000).catch((e) => e);
  await sleep(200);
  began = Date.now();
  await db.command({killCursors: 'await', cursors: [opened.cursor.id]});
  const killed = await long;
  assert.ok([237, 11601].includes(killed.code), String(killed));
  assert.ok(Date.now() - began < 30000);
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
    const from = written.length;
    await until('writes go on', () => written.length >= from + 40, 60000);
    await node.kill('storaged');
    await node.whole();
  }
  await until('writes go on', () => written.length >= 150, 60000);
  stop = true;
  await writing;
  await c.insertOne({_id: 'last'});
  await Promise.race([reading, sleep(30000).then(() => assert.fail(`the stream did not come to the end: ${seen.length} of ${written.length}`))]);
  await s.close();
  assert.ok(written.length > 100);
  assert.deepEqual(seen, written);
});
