// collation_index.test.mjs — default collations of collections and views, and indexes with a collation, by the stock
// driver: the same answers with and without an index, unique keys, plans, restarts, and a set whose members agree.
import assert from 'node:assert/strict';
import {after, before, describe, test} from 'node:test';
import {Cluster} from '../support/cluster.mjs';
import {codeOf, Node, until} from '../support/node.mjs';

const ci = {locale: 'en', strength: 2};
const of = (db, name) => Object.assign(db.collection(name), {db, name});
const stages = (plan) => (plan == null ? [] : [plan.stage, ...stages(plan.inputStage), ...(plan.inputStages ?? []).flatMap(stages)]);
const scanOf = (plan) => (plan == null ? undefined : plan.stage === 'IXSCAN' || plan.stage === 'COUNT_SCAN' || plan.stage === 'DISTINCT_SCAN' ? plan : scanOf(plan.inputStage));
const planOf = async (cursor) => (await cursor.explain('queryPlanner')).queryPlanner;

async function sound(c, indexes) {
  const r = await c.db.command({validate: c.name});
  assert.equal(r.valid, true, JSON.stringify(r));
  assert.equal(r.nIndexes, indexes, JSON.stringify(r));
  return r;
}

/** A generator of numbers that a seed decides. */
function random(seed) {
  let x = seed >>> 0;
  return (n) => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return Math.floor((x / 4294967296) * n);
  };
}

describe('one node', () => {
  let node, client, db;
  before(async () => {
    node = await Node.start();
    client = await node.client();
    db = client.db('coll');
  }, {timeout: 120000});
  after(async () => {
    await client?.close();
    await node?.stop();
  });

  test('made and listed: of a collection, of its indexes, of a view', async () => {
    await db.createCollection('listed', {collation: ci});
    const c = of(db, 'listed');
    await c.createIndex({a: 1});
    await c.createIndex({a: 1}, {name: 'plain', collation: {locale: 'simple'}});
    await c.createIndex({a: 1}, {name: 'german', collation: {locale: 'de'}});
    await db.createCollection('seen', {viewOn: 'listed', pipeline: [], collation: ci});
    const [info] = await db.listCollections({name: 'listed'}).toArray();
    assert.equal(info.options.collation.locale, 'en');
    assert.equal(info.options.collation.strength, 2);
    assert.match(info.options.collation.version, /^[0-9.]+$/);
    assert.deepEqual(info.idIndex, {v: 2, key: {_id: 1}, name: '_id_', collation: info.options.collation});
    assert.equal((await db.listCollections({name: 'seen'}).toArray())[0].options.collation.strength, 2);
    const indexes = await c.indexes();
    assert.deepEqual(indexes.map((i) => [i.name, i.collation?.locale]), [['_id_', 'en'], ['a_1', 'en'], ['plain', undefined], ['german', 'de']]);
    assert.equal((await db.command({createIndexes: 'listed', indexes: [{key: {_id: 1}, name: '_id_'}]})).note, 'all indexes already exist');
    assert.equal(await codeOf(() => c.createIndex({_id: 1}, {collation: {locale: 'de'}})), 2);
    assert.equal(await codeOf(() => c.createIndex({a: 1}, {name: 'again', collation: {locale: 'de'}})), 85);
    assert.equal(await codeOf(() => c.createIndex({a: 1}, {name: 'german', collation: {locale: 'fr'}})), 86);
    assert.equal(await codeOf(() => c.dropIndex({a: 1})), 181, 'three have that key');
    assert.equal(await codeOf(() => c.dropIndex('_id_')), 72);
    await db.createCollection('listed', {collation: ci}); // the same
    assert.equal(await codeOf(() => db.createCollection('listed')), 48);
    assert.equal(await codeOf(() => db.createCollection('listed', {collation: {locale: 'de'}})), 48);
    assert.equal(await codeOf(() => db.createCollection('x', {collation: {locale: 'en', version: '1.2'}})), 161);
    assert.equal(await codeOf(() => db.createCollection('x', {collation: ci, idIndex: {key: {_id: 1}, name: '_id_', collation: {locale: 'de'}}})), 2);
    await sound(c, 4);
    await c.dropIndexes();
    assert.deepEqual((await c.indexes()).map((i) => i.name), ['_id_']);
    const stats = (await c.aggregate([{$collStats: {storageStats: {}}}]).next()).storageStats;
    assert.equal(stats.nindexes, 1);
    assert.equal((await c.aggregate([{$indexStats: {}}]).toArray()).length, 1);
    assert.equal((await db.command({drop: 'listed'})).nIndexesWas, 1);
  });

  test('operations inherit the default, and name another', async () => {
    const c = of(db, 'inherit');
    await db.createCollection('inherit', {collation: ci});
    await c.insertMany(['a', 'B', 'b', 'A', 'c'].map((w, i) => ({_id: i, w})));
    assert.equal(await c.countDocuments({w: 'A'}), 2);
    assert.equal(await c.countDocuments({w: 'A'}, {collation: {locale: 'simple'}}), 1);
    assert.equal((await c.find({w: 'b'}).toArray()).length, 2);
    assert.deepEqual((await c.find().sort({w: 1, _id: 1}).toArray()).map((d) => d.w), ['a', 'A', 'B', 'b', 'c']);
    assert.deepEqual((await c.find().collation({locale: 'simple'}).sort({w: 1}).toArray()).map((d) => d.w), ['A', 'B', 'a', 'b', 'c']);
    assert.equal((await c.find({w: {$in: ['A', 'B']}}).batchSize(1).toArray()).length, 4, 'getMore keeps it');
    assert.equal((await c.distinct('w')).length, 3);
    assert.deepEqual(await c.aggregate([{$group: {_id: '$w', n: {$sum: 1}}}, {$sort: {_id: 1}}]).map((g) => g.n).toArray(), [2, 2, 1]);
    assert.equal((await c.updateMany({w: 'B'}, {$set: {seen: 1}})).matchedCount, 2);
    assert.equal((await c.updateMany({w: 'B'}, {$set: {seen: 1}}, {collation: {locale: 'simple'}})).matchedCount, 1);
    assert.equal((await c.updateOne({w: 'C'}, {$set: {n: 1}}, {upsert: true})).upsertedCount, 0);
    assert.equal((await c.findOneAndUpdate({w: 'C'}, {$set: {n: 2}})).w, 'c');
    assert.equal((await c.deleteMany({w: 'A'})).deletedCount, 2);
    const other = of(db, 'foreign');
    await other.drop();
    await other.insertMany([{k: 'B'}, {k: 'b'}, {k: 'c'}]);
    const joined = await c.aggregate([{$match: {w: 'c'}}, {$lookup: {from: 'foreign', localField: 'w', foreignField: 'k', as: 'f'}}, {$unionWith: {coll: 'foreign', pipeline: [{$match: {k: 'B'}}]}}]).toArray();
    assert.equal(joined[0].f.length, 1);
    assert.equal(joined.length, 3, '$unionWith compares as the aggregation does');
    const plain = await other.aggregate([{$match: {k: 'B'}}, {$lookup: {from: 'inherit', localField: 'k', foreignField: 'w', as: 'f'}}]).toArray();
    assert.deepEqual(plain.map((d) => d.f.length), [1], 'the collation is that of what is aggregated');
    await db.createCollection('strictly', {collation: ci, validator: {w: {$in: ['yes']}}});
    await db.collection('strictly').insertOne({w: 'YES'});
    assert.equal(await codeOf(() => db.collection('strictly').insertOne({w: 'no'})), 121);
    await db.command({collMod: 'strictly', validationLevel: 'moderate'});
    assert.equal((await db.listCollections({name: 'strictly'}).toArray())[0].options.collation.strength, 2, 'collMod leaves it');
    await c.aggregate([{$match: {}}, {$out: 'strictly2'}]).toArray();
    await c.rename('renamed', {dropTarget: true});
    assert.equal(await db.collection('renamed').countDocuments({w: 'B'}), 2);
  });

  test('_id: unique by the collation', async () => {
    const c = of(db, 'ids');
    await db.createCollection('ids', {collation: ci});
    await c.insertMany([{_id: 'one'}, {_id: {a: 'Deep'}}, {_id: 5}, {_id: 'Two'}]);
    await c.insertMany(Array.from({length: 300}, (_, i) => ({_id: `k${i}`})));
    await assert.rejects(c.insertOne({_id: 'ONE'}), (e) => e.code === 11000 && /index: _id_ collation: /.test(e.message) && e.keyPattern._id === 1 && /^0x[0-9a-f]+$/.test(e.keyValue._id));
    await assert.rejects(c.insertOne({_id: {a: 'dEEP'}}), {code: 11000});
    await assert.rejects(c.insertOne({_id: 5.0}), {code: 11000});
    assert.equal((await c.findOne({_id: 'ONE'}))._id, 'one');
    assert.equal((await c.findOne({_id: {a: 'deep'}}))._id.a, 'Deep');
    const plan = await planOf(c.find({_id: 'ONE'}));
    assert.deepEqual([scanOf(plan.winningPlan)?.indexName, plan.collation.strength], ['_id_', 2]);
    assert.equal((await planOf(c.find({_id: 5}))).winningPlan.stage, 'IDHACK');
    assert.equal((await c.updateOne({_id: 'TWO'}, {$set: {x: 1}}, {upsert: true})).matchedCount, 1);
    assert.equal((await c.replaceOne({_id: 'two'}, {x: 2})).modifiedCount, 1);
    assert.deepEqual((await c.find({x: 2}).toArray()).map((d) => d._id), ['Two']);
    assert.equal((await c.deleteOne({_id: 'ONE'})).deletedCount, 1);
    await c.insertOne({_id: 'ONE'});
    assert.equal((await c.find({_id: 'one'}).hint('_id_').toArray()).length, 1);
    assert.equal((await c.find({_id: 'one'}).hint({_id: 1}).toArray()).length, 1);
    assert.equal((await c.find({_id: 'one'}, {collation: {locale: 'simple'}}).toArray()).length, 0);
    const order = await c.find({_id: {$not: /^k/}}).sort({_id: 1}).toArray();
    assert.deepEqual(order.map((d) => d._id), [5, 'ONE', 'Two', {a: 'Deep'}]);
    await sound(c, 1);
    const wins = await Promise.allSettled(Array.from({length: 16}, (_, i) => c.insertOne({_id: i % 2 ? 'RACE' : 'race', i})));
    assert.equal(wins.filter((w) => w.status === 'fulfilled').length, 1);
    await sound(c, 1);
  });

  test('unique indexes, upserts, TTL and sparse ones with a collation', async () => {
    const c = of(db, 'unique');
    await c.drop();
    await c.createIndex({mail: 1}, {unique: true, collation: ci});
    await c.insertOne({mail: 'Ann@x'});
    await assert.rejects(c.insertOne({mail: 'ANN@X'}), (e) => e.code === 11000 && /collation/.test(e.message));
    await c.insertOne({mail: 'Änn@x'});
    assert.equal((await c.updateOne({mail: 'ann@x'}, {$set: {n: 1}}, {upsert: true, collation: ci})).matchedCount, 1);
    assert.equal(await codeOf(() => c.updateOne({mail: 'ann@x'}, {$set: {n: 1}}, {upsert: true})), 11000);
    assert.equal((await c.findOneAndUpdate({mail: 'NEW'}, {$inc: {n: 1}}, {upsert: true, collation: ci, returnDocument: 'after'})).n, 1);
    assert.equal((await c.findOneAndUpdate({mail: 'new'}, {$inc: {n: 1}}, {upsert: true, collation: ci, returnDocument: 'after'})).n, 2);
    await c.insertMany([{mail: 'dup'}, {mail: 'x'}]);
    assert.equal(await codeOf(() => c.updateOne({mail: 'x'}, {$set: {mail: 'DUP'}})), 11000);
    await sound(c, 2);
    await db.collection('dups').drop();
    await db.collection('dups').insertMany([{a: 'q'}, {a: 'Q'}]);
    assert.equal(await codeOf(() => db.collection('dups').createIndex({a: 1}, {unique: true, collation: ci})), 11000);
    assert.equal(await db.collection('dups').createIndex({a: 1}, {unique: true}), 'a_1');
  });

  test('plans: only an index of the same collation serves strings and their order', async () => {
    const c = of(db, 'plans');
    await c.drop();
    await c.insertMany(Array.from({length: 500}, (_, i) => ({_id: i, a: i % 2 ? `w${i}` : i, b: `B${i % 9}`})));
    await c.createIndex({a: 1, b: 1}, {name: 'ci', collation: ci});
    const used = async (filter, options = {}) => scanOf((await planOf(c.find(filter, options))).winningPlan)?.indexName;
    assert.equal(await used({a: 'W7'}, {collation: ci}), 'ci');
    assert.equal(await used({a: 'w7'}), undefined);
    assert.equal(await used({a: 'w7'}, {collation: {locale: 'en', strength: 1}}), undefined);
    assert.equal(await used({a: 6}), 'ci', 'numbers have no collation');
    assert.equal(await used({a: {$gt: 490}}, {collation: {locale: 'fr'}}), 'ci');
    assert.equal(await used({a: null}), 'ci');
    const numbers = await planOf(c.find({a: 6, b: 'b6'}));
    assert.deepEqual(scanOf(numbers.winningPlan).indexBounds.b, ['[MinKey, MaxKey]']);
    const strings = scanOf((await planOf(c.find({a: 'W7', b: {$gte: 'b'}}, {collation: ci}))).winningPlan);
    assert.match(strings.indexBounds.a[0], /^\[CollationKey\(0x[0-9a-f]+\), CollationKey\(0x[0-9a-f]+\)\]$/);
    assert.equal(strings.collation.locale, 'en');
    const sorted = async (options) => stages((await planOf(c.find({}, options).sort({a: 1, b: 1}).limit(3))).winningPlan);
    assert.ok(!(await sorted({collation: ci})).includes('SORT'));
    assert.ok((await sorted({})).includes('SORT'));
    const covered = await c.find({a: {$gte: 'W490'}}, {collation: ci, projection: {_id: 0, a: 1}}).explain('executionStats');
    assert.ok(covered.executionStats.totalDocsExamined > 0, 'strings can not be had back from keys');
    assert.deepEqual((await c.find({a: {$gte: 'W497'}}, {collation: ci, projection: {_id: 0, a: 1}}).toArray()).map((d) => d.a).sort(), ['w497', 'w499', 'w5', 'w51', 'w53', 'w55', 'w57', 'w59', 'w61', 'w63', 'w65', 'w67', 'w69', 'w7', 'w71', 'w73', 'w75', 'w77', 'w79', 'w81', 'w83', 'w85', 'w87', 'w89', 'w9', 'w91', 'w93', 'w95', 'w97', 'w99'].sort());
    assert.equal(await c.countDocuments({a: /^w4/}, {collation: ci}), 55);
    assert.equal(await codeOf(() => c.find({a: 'w7'}).hint('ci').min({a: 'w', b: 'b'}).toArray()), 51174);
    assert.equal((await c.find({}, {collation: ci}).hint('ci').min({a: 'W7', b: ''}).max({a: 'W7', b: 'C'}).toArray()).length, 1);
    await c.createIndex({a: 1}, {name: 'one', collation: ci});
    await c.createIndex({a: 1}, {name: 'two'});
    assert.equal(await codeOf(() => c.find({a: 5}).hint({a: 1}).toArray()), 27);
    assert.equal((await c.find({a: 6}).hint('one').returnKey(true).toArray())[0].a, 6);
    await c.createIndex({b: 1}, {name: 'part', collation: ci, partialFilterExpression: {b: {$gte: 'b3'}}});
    assert.equal(await used({b: 'B5'}, {collation: ci}), 'part');
    assert.equal(await used({b: 'B2'}, {collation: ci}), undefined, 'not in it');
    assert.equal(await used({b: 'B5'}), undefined);
    assert.equal((await c.find({b: 'b5'}, {collation: ci}).hint('part').toArray()).length, await c.countDocuments({b: 'B5'}));
    await sound(c, 5);
  });

  test('the same answers with and without an index: strings by chance, locales, strengths', async () => {
    const next = random(20260114);
    const letters = ['a', 'A', 'b', 'B', 'ä', 'Ä', 'á', 'e', 'é', 'E', 'ß', 'ss', 'z', 'Z', 'ö', 'å', ' ', '-', '1', '2', '10', 'ñ', 'n', 'ch', 'ï', '\u0301', '\u0000', '日'];
    const word = () => Array.from({length: next(5)}, () => letters[next(letters.length)]).join('');
    const value = () => [word, word, word, () => next(20), () => null, () => [word(), word()], () => ({x: word()}), () => true][next(8)]();
    const collations = [{locale: 'en', strength: 1}, {locale: 'en', strength: 2}, {locale: 'de', strength: 3}, {locale: 'de@collation=phonebook', strength: 1}, {locale: 'sv', strength: 2}, {locale: 'es', strength: 4, alternate: 'shifted'}, {locale: 'en', numericOrdering: true}, {locale: 'fr_CA', strength: 2, backwards: true}, {locale: 'en', strength: 1, caseLevel: true}, {locale: 'en', strength: 5}, {locale: 'da', caseFirst: 'upper'}];
    const plain = of(db, 'prop_plain');
    await plain.drop();
    const documents = Array.from({length: 250}, (_, i) => ({_id: i, a: value(), b: word(), c: {d: value()}}));
    await plain.insertMany(documents);
    for (const collation of collations) {
      const c = of(db, 'prop_indexed');
      await c.drop();
      await c.insertMany(documents);
      await c.createIndexes([{key: {a: 1}}, {key: {b: -1, a: 1}}, {key: {b: 'hashed'}}, {key: {'c.$**': 1}}].map((s, i) => ({...s, name: `i${i}`, collation})));
      for (let round = 0; round < 12; round++) {
        const v = value(), w = word(), x = value();
        const filters = [{a: v}, {a: {$gt: w}}, {a: {$lte: w}}, {b: {$gte: w, $lt: `${w}z`}}, {a: {$in: [v, x, w]}}, {b: w, a: {$ne: v}}, {b: {$in: [w, word()]}, a: {$gte: w}}, {$or: [{a: v}, {b: w}]}, {'c.d': v}, {'c.d': {$gte: w}}, {b: {$regex: '^a'}}, {a: {$type: 'string'}, b: {$lt: w}}, {a: {$elemMatch: {$gte: w, $lt: 'z'}}}, {b: {$not: {$gt: w}}}];
        const filter = filters[next(filters.length)];
        const asked = next(4) === 0 ? undefined : collation;
        const options = asked === undefined ? {} : {collation: asked};
        const ids = async (k) => (await k.find(filter, options).sort({_id: 1}).toArray()).map((d) => d._id);
        const label = JSON.stringify([collation, asked === undefined ? 'simple' : 'same', filter]);
        assert.deepEqual(await ids(c), await ids(plain), label);
        assert.equal(await c.countDocuments(filter, options), await plain.countDocuments(filter, options), label);
        if (round % 5 === 0) {
          const order = async (k, sort) => (await k.find({}, options).sort(sort).toArray()).map((d) => d._id);
          assert.deepEqual(await order(c, {b: 1, a: -1, _id: 1}), await order(plain, {b: 1, a: -1, _id: 1}), label);
          const keys = async (k) => (await k.find({b: {$gte: w}}, options).sort({b: -1}).toArray()).map((d) => d.b);
          assert.equal((await keys(c)).length, (await keys(plain)).length, label);
          assert.equal((await c.distinct('b', {}, options)).length, (await plain.distinct('b', {}, options)).length, label);
        }
      }
      await sound(c, 5);
    }
  });

  test('views: their own collation, and no other', async () => {
    await db.createCollection('base', {collation: ci});
    await db.collection('base').insertMany([{w: 'a'}, {w: 'A'}, {w: 'b'}]);
    await db.createCollection('vsame', {viewOn: 'base', pipeline: [{$match: {w: 'A'}}], collation: ci});
    await db.createCollection('vsimple', {viewOn: 'base', pipeline: [{$match: {w: 'A'}}]});
    assert.equal(await db.collection('vsame').countDocuments({}), 2);
    assert.equal(await db.collection('vsimple').countDocuments({}), 1, 'a view does not inherit');
    assert.equal((await db.collection('vsame').find({w: 'a'}).toArray()).length, 2);
    assert.equal((await db.collection('vsame').find({w: 'a'}, {collation: ci}).toArray()).length, 2);
    assert.equal(await codeOf(() => db.collection('vsame').find({}, {collation: {locale: 'de'}}).toArray()), 167);
    assert.equal(await codeOf(() => db.collection('vsame').find({}, {collation: {locale: 'simple'}}).toArray()), 167);
    assert.equal(await codeOf(() => db.collection('vsimple').aggregate([], {collation: ci}).toArray()), 167);
    assert.deepEqual(await db.collection('vsame').distinct('w'), ['a']);
    assert.equal(await codeOf(() => db.createCollection('vv', {viewOn: 'vsame', pipeline: [], collation: {locale: 'de'}})), 167);
    await db.createCollection('vv', {viewOn: 'vsame', pipeline: [], collation: ci});
    assert.equal(await codeOf(() => db.collection('base').aggregate([{$lookup: {from: 'vsimple', pipeline: [], as: 'f'}}]).toArray()), 167);
    assert.equal((await db.collection('base').aggregate([{$lookup: {from: 'vsame', pipeline: [], as: 'f'}}]).toArray())[0].f.length, 2);
  });

  test('a restart keeps them', async () => {
    const c = of(db, 'kept');
    await db.createCollection('kept', {collation: ci});
    await c.createIndex({w: 1});
    await c.insertMany([{_id: 'x', w: 'one'}, {_id: 'y', w: 'Two'}]);
    await client.close();
    await node.down();
    await node.up();
    client = await node.client();
    db = client.db('coll');
    const again = of(db, 'kept');
    assert.equal((await again.findOne({w: 'TWO'}))._id, 'y');
    await assert.rejects(again.insertOne({_id: 'X'}), {code: 11000});
    await sound(again, 2);
    await again.insertOne({_id: 'z', w: 'three'});
    await sound(again, 2);
  });
});

describe('a set of three', () => {
  let cluster, client, db;
  before(async () => {
    cluster = await Cluster.start();
    client = await cluster.client();
    db = client.db('coll');
  }, {timeout: 240000});
  after(async () => {
    await client?.close();
    await cluster?.stop();
  });

  test('every member has them', {timeout: 240000}, async () => {
    const c = db.collection('c');
    await db.createCollection('c', {collation: ci});
    await c.createIndexes([{key: {w: 1}, name: 'w', unique: true}, {key: {w: 1}, name: 'de', collation: {locale: 'de'}}]);
    await c.insertMany(Array.from({length: 200}, (_, i) => ({_id: `Id${i}`, w: `W${i}`})), {writeConcern: {w: 3}});
    const members = async () => {
      const primary = await cluster.primary();
      for (const name of cluster.names) {
        const member = await cluster.client({node: name, driver: {readPreference: 'secondaryPreferred'}});
        try {
          const mine = member.db('coll').collection('c');
          await until(`${name} finds by the collation`, async () => (await mine.findOne({_id: 'ID7'}))?.w === 'W7' && (await mine.countDocuments({w: 'w150'})) === 1);
          assert.deepEqual((await mine.listIndexes().toArray()).map((i) => i.name), ['_id_', 'w', 'de']);
          const plan = (await mine.find({w: 'w7'}).explain()).queryPlanner;
          assert.equal(scanOf(plan.winningPlan)?.indexName, 'w');
          assert.equal((await member.db('coll').command({validate: 'c'})).valid, true, `${name}, primary ${primary}`);
        } finally {
          await member.close();
        }
      }
    };
    await members();
    assert.equal(await codeOf(() => c.insertOne({_id: 'id7', w: 'x'})), 11000);
  });
});
