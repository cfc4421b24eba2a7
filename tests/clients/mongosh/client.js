// tests/clients: the list (../README.md) by mongosh, at its prompt's own helpers; what its driver does is in ../javascript.
const d = db.getSiblingDB('clients_mongosh');
const c = d.things;
const same = (got, want) => {
  if (EJSON.stringify(got) !== EJSON.stringify(want)) throw new Error(`${EJSON.stringify(got)} instead of ${EJSON.stringify(want)}`);
};
const fails = (code, body) => {
  try {
    body();
  } catch (e) {
    if (code) same(e.code, code);
    return;
  }
  throw new Error('an error was expected');
};
const filled = (n = 10) => {
  c.drop();
  c.insertMany([...Array(n).keys()].map((i) => ({_id: i, x: i % 3, s: 'aBc'[i % 3].repeat(2)})));
};
const list = {
  connect: () => (d.dropDatabase(), same(db.version().split('.')[0], '7'), same(rs.status().set, 'veddb')),
  insert: () => (c.drop(), same(c.insertOne({_id: 1}).insertedId, 1)),
  find: () => (filled(), same(c.find({x: 1}, {_id: 1}).sort({_id: -1}).skip(1).limit(1).toArray(), [{_id: 4}]), same(c.find().min({_id: 8}).max({_id: 9}).hint({_id: 1}).itcount(), 1),
    same(c.find({s: 'bb'}).collation({locale: 'en', strength: 2}).itcount(), 3)),
  update: () => (filled(), same(c.updateMany({x: 1}, {$set: {y: 1}}).modifiedCount, 3), same(c.updateOne({_id: 1}, [{$set: {z: {$add: ['$x', 1]}}}]).modifiedCount, 1), fails(66, () => c.updateOne({_id: 1}, {$set: {_id: 2}}))),
  replace: () => (filled(), same(c.replaceOne({_id: 1}, {a: 1}).modifiedCount, 1)),
  delete: () => (filled(), same(c.deleteMany({x: 1}).deletedCount, 3)),
  find_and_modify: () => (filled(), same(c.findOneAndUpdate({_id: 1}, {$inc: {x: 1}}, {returnNewDocument: true}).x, 2), same(c.findAndModify({query: {_id: 1}, remove: true})._id, 1)),
  bulk: () => {
    filled();
    const bulk = c.initializeUnorderedBulkOp();
    bulk.insert({_id: 20});
    bulk.find({x: 0}).update({$set: {b: 1}});
    bulk.find({x: 2}).delete();
    const r = bulk.execute();
    same([r.insertedCount, r.modifiedCount, r.deletedCount], [1, 4, 3]);
  },
  bulk_errors: () => (filled(2), fails(11000, () => c.insertMany([{_id: 5}, {_id: 1}], {ordered: false})), same(c.countDocuments({}), 3)),
  cursors: () => (filled(250), same(c.find().batchSize(7).itcount(), 250)),
  indexes: () => (filled(), same(c.createIndex({x: 1, s: -1}, {name: 'both'}), 'both'), same(c.getIndexKeys().length, 2), c.dropIndex('both'), fails(27, () => c.dropIndex('both'))),
  aggregation: () => (filled(), same(c.aggregate([{$sortByCount: '$x'}]).itcount(), 3), same(c.aggregate([{$facet: {a: [{$count: 'n'}]}}]).toArray(), [{a: [{n: 10}]}]), fails(40324, () => c.aggregate([{$nothing: {}}]).toArray())),
  out: () => (filled(), c.aggregate([{$match: {x: 1}}, {$out: 'copied'}]), same(d.copied.countDocuments(), 3)),
  distinct_count: () => (filled(), same(c.distinct('x').length, 3), same([c.countDocuments({x: 1}), c.estimatedDocumentCount()], [3, 10])),
  explain: () => (filled(), same(c.explain('executionStats').find({_id: 3}).finish().executionStats.nReturned, 1), c.find().explain(), c.explain().aggregate([{$match: {x: 1}}])),
  transactions: () => {
    filled();
    const s = db.getMongo().startSession();
    s.startTransaction();
    s.getDatabase('clients_mongosh').things.insertOne({_id: 50});
    same(c.countDocuments({_id: 50}), 0);
    s.commitTransaction();
    same(c.countDocuments({_id: 50}), 1);
    s.endSession();
  },
  change_streams: () => {
    filled();
    const w = c.watch();
    w.tryNext();
    c.insertOne({_id: 40});
    let e;
    for (let i = 0; i < 100 && !e; i++) e = w.tryNext();
    same(e.operationType, 'insert');
    w.close();
  },
  types: () => {
    const values = {_id: 1, d: 1.5, i: NumberInt(7), l: NumberLong('4611686018427387904'), dec: NumberDecimal('-1.50E+6000'), old: ISODate('1901-02-03T04:05:06.789Z'), ts: Timestamp({t: 5, i: 7}), min: MinKey(), max: MaxKey(), re: /a.*b/im, bin: BinData(5, 'MTIzNA=='), uuid: UUID()};
    d.types.drop();
    d.types.insertOne(values);
    same(d.types.findOne(), values);
  },
  duplicate_key: () => (filled(), fails(11000, () => c.insertOne({_id: 1}))),
  lists: () => (filled(), same(d.getCollectionInfos({name: 'things'})[0].type, 'collection'), same(db.adminCommand({listDatabases: 1, nameOnly: true, filter: {name: 'clients_mongosh'}}).databases.length, 1), c.stats().count, d.stats()),
  retry: () => (filled(), require('child_process').execSync(process.env.VD_KILL), [...Array(20).keys()].forEach((i) => c.insertOne({_id: 100 + i})), same(c.countDocuments({_id: {$gte: 100}}), 20)),
  max_time: () => (filled(), fails(50, () => c.aggregate([{$project: {a: {$range: [0, 1000000]}}}, {$unwind: '$a'}, {$group: {_id: null, n: {$sum: '$a'}}}], {maxTimeMS: 1}).toArray())),
};
let failed = 0;
print(`1..${Object.keys(list).length}`);
Object.entries(list).forEach(([name, body], i) => {
  try {
    body();
    print(`ok ${i + 1} - ${name}`);
  } catch (e) {
    failed++;
    print(`not ok ${i + 1} - ${name}\n# ${String(e.stack).replaceAll('\n', '\n# ')}`);
  }
});
quit(failed ? 1 : 0);
