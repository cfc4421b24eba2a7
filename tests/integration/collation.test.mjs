// collation.test.mjs — the collation of an operation, through the Node driver: every command that takes one, over batches, never by keys that are bytes.
import assert from 'node:assert/strict';
import {after, before, beforeEach, test} from 'node:test';
import {codeOf, Node} from '../support/node.mjs';

const insensitive = {collation: {locale: 'en', strength: 2}};
const words = ['banana', 'Apple', 'cherry', 'apple', 'Banana', 'APPLE', 'Äpfel', 'zebra', 'item10', 'item9'];
let node, client, c;

before(async () => {
  node = await Node.start();
  client = await node.client();
}, {timeout: 120000});
after(async () => {
  await client?.close();
  await node?.stop();
});
beforeEach(async () => {
  c = client.db('collation').collection('words');
  await c.drop();
  await c.insertMany(words.map((w, i) => ({_id: w, i, w, tags: [w, 'x'], sub: {w}})));
});

const names = (documents) => documents.map((d) => d.w);

test('filters: equality, ranges, $in, arrays, subdocuments; by _id too', async () => {
  for (const filter of [{w: 'apple'}, {_id: 'apple'}, {tags: 'apple'}, {sub: {w: 'apple'}}, {w: {$in: ['APPLE', 'no']}}, {_id: {$in: ['aPPle', 'no']}}, {$expr: {$eq: ['$w', 'apple']}}]) {
    assert.deepEqual(names(await c.find(filter, insensitive).toArray()).sort(), ['APPLE', 'Apple', 'apple'], JSON.stringify(filter));
    assert.equal(await c.countDocuments(filter, insensitive), 3, JSON.stringify(filter));
  }
  assert.deepEqual(names(await c.find({w: 'apple'}).toArray()), ['apple'], 'bytes without one');
  assert.deepEqual(names(await c.find({_id: {$gt: 'BANANA', $lt: 'ITEM'}}, insensitive).toArray()), ['cherry']);
  assert.equal(await c.countDocuments({w: {$ne: 'apple'}}, insensitive), words.length - 3);
  assert.equal((await c.findOne({_id: 'ZEBRA'}, insensitive))._id, 'zebra');
  assert.equal(await c.findOne({_id: 'ZEBRA'}), null);
  assert.equal(await c.countDocuments({i: 3}, insensitive), 1, 'what is no string is as ever');
});

test('sorts: by letters, by numbers in them, by _id; the order holds over batches', async () => {
  const de = (await c.find().collation({locale: 'de'}).sort({w: 1}).toArray()).map((d) => d.w);
  assert.deepEqual(de, ['Äpfel', 'apple', 'Apple', 'APPLE', 'banana', 'Banana', 'cherry', 'item10', 'item9', 'zebra']);
  assert.deepEqual(names(await c.find().collation({locale: 'de'}).sort({_id: 1}).batchSize(2).toArray()), de);
  assert.deepEqual(names(await c.find().collation({locale: 'de'}).sort({_id: -1}).limit(2).toArray()), ['zebra', 'item9']);
  const numeric = {locale: 'en', numericOrdering: true};
  assert.deepEqual(names(await c.find({w: /^item/}).collation(numeric).sort({w: 1}).toArray()), ['item9', 'item10']);
  assert.deepEqual(names(await c.find({w: 'apple'}, {...insensitive, batchSize: 1}).toArray()).length, 3, 'getMore keeps the collation');
});

test('distinct and aggregation', async () => {
  assert.equal((await c.distinct('w', {}, insensitive)).length, words.length - 3);
  const groups = await c.aggregate([{$group: {_id: '$w', n: {$sum: 1}, all: {$addToSet: '$w'}}}, {$sort: {n: -1, _id: 1}}], {...insensitive, cursor: {batchSize: 1}}).toArray();
  assert.deepEqual(groups.slice(0, 2).map((g) => [g._id.toLowerCase(), g.n, g.all.length]), [['apple', 3, 1], ['banana', 2, 1]]);
  const computed = await c.aggregate([{$match: {w: 'BANANA'}}, {$project: {same: {$eq: ['$w', 'bAnAnA']}, cmp: {$cmp: ['$w', 'BANANA']}, at: {$indexOfArray: [['x', 'BANANA'], '$w']}}}], insensitive).toArray();
  assert.deepEqual(computed.map((d) => [d.same, d.cmp, d.at]), [[true, 0, 1], [true, 0, 1]]);
});

test('updates, deletes, findAndModify: each statement has its own', async () => {
  assert.equal((await c.updateMany({w: 'apple'}, {$set: {seen: 1}}, insensitive)).modifiedCount, 3);
  assert.equal((await c.updateOne({_id: 'BANANA'}, {$set: {seen: 2}}, insensitive)).matchedCount, 1);
  assert.equal((await c.updateOne({_id: 'BANANA'}, {$set: {seen: 2}})).matchedCount, 0);
  const bulk = await c.bulkWrite([{updateOne: {filter: {w: 'ZEBRA'}, update: {$set: {b: 1}}, ...insensitive}}, {updateOne: {filter: {w: 'ZEBRA'}, update: {$set: {b: 2}}}}, {deleteMany: {filter: {w: 'CHERRY'}, ...insensitive}}]);
  assert.deepEqual([bulk.matchedCount, bulk.deletedCount], [1, 1]);
  assert.equal((await c.findOneAndUpdate({w: 'APPLE'}, {$set: {f: 1}}, {...insensitive, sort: {i: 1}})).w, 'Apple');
  assert.equal((await c.findOneAndDelete({w: 'ITEM9'}, insensitive)).w, 'item9');
  assert.equal((await c.updateOne({w: 'NEW'}, {$set: {i: 1}}, {...insensitive, upsert: true})).upsertedCount, 1);
  assert.equal((await c.updateOne({w: 'new'}, {$set: {i: 2}}, {...insensitive, upsert: true})).upsertedCount, 0);
  await c.updateOne({i: 2}, {$pull: {tags: 'CHERRY'}}, insensitive);
  assert.equal((await c.updateOne({_id: 'apple'}, {$addToSet: {tags: 'X'}}, insensitive)).modifiedCount, 0, 'X is there, as x');
  assert.equal(await codeOf(() => c.updateOne({_id: 'apple'}, {$set: {_id: 'aPPle'}}, insensitive)), 66, 'an _id is its bytes');
});

test('what is not built or wrong is refused; a validator has no collation', async () => {
  const db = client.db('collation');
  assert.equal(await codeOf(() => c.find({}, {collation: {locale: 'nowhere'}}).toArray()), 2);
  assert.equal(await codeOf(() => c.find({}, {collation: {strength: 2}}).toArray()), 40414);
  assert.equal((await c.find({}, {collation: {locale: 'simple'}}).toArray()).length, words.length);
  await db.collection('strict').drop();
  await db.createCollection('strict', {validator: {w: {$in: ['yes']}}});
  await db.collection('strict').insertOne({_id: 1, w: 'yes'});
  assert.equal(await codeOf(() => db.collection('strict').updateOne({w: 'YES'}, {$set: {w: 'YES'}}, insensitive)), 121);
});
