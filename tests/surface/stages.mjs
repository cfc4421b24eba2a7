// tests/surface/stages.mjs — stages, accumulators, window functions, system variables.
import assert from 'node:assert/strict';
import {D, F, I, L, all, code, day, exact, fresh, go, has, kept, near, shaped, stages} from './kit.mjs';

const DOCS = [
  {_id: 1, k: 'a', n: 3, l: [1, 2], at: day('2024-01-01')}, {_id: 2, k: 'b', n: 1, l: [], at: day('2024-01-02')}, {_id: 3, k: 'a', n: 5, at: day('2024-01-03')}, {_id: 4, k: 'b', n: null, l: 7, at: day('2024-01-05')},
];
const S = stages('stages', DOCS);
const ids = (pipeline, want, more) => S([[pipeline, {$project: {_id: 1}}].flat(), want.map((_id) => ({_id})), more]);
const joined = (stage, want) => go(JSON.stringify(stage), async (ctx) => {
  await kept(ctx, 'other', [{_id: 1, k: 'a', q: 1}, {_id: 2, k: 'c', q: 2}, {_id: 3, k: 'a', q: 3}]);
  return (await kept(ctx, 'stages', DOCS)).aggregate([stage].flat(), exact).toArray();
}, want);
const written = (stage, want) => go(JSON.stringify(stage), async (ctx) => {
  const c = await kept(ctx, 'stages', DOCS);
  await ctx.db.collection('target').drop();
  await ctx.db.collection('target').insertOne({_id: 1, old: true});
  await c.aggregate([{$project: {n: 1}}, stage]).toArray();
  return ctx.db.collection('target').find({}, exact).sort({_id: 1}).toArray();
}, want);
const onDb = (where, pipeline, want, options) => go(JSON.stringify(pipeline), async (ctx) => (where === 'admin' ? ctx.admin : ctx.db).aggregate(pipeline, options).toArray(), want);
const some = (shape) => (got) => (assert.ok(got.length > 0, 'nothing'), shaped(shape)(got[0]));
const watched = (pipeline, change, want, options) => go(JSON.stringify(pipeline), async (ctx) => {
  const c = await fresh(ctx, [{_id: 0}]);
  const stream = c.watch(pipeline, options);
  try {
    await stream.tryNext();
    await change(c);
    return await stream.next();
  } finally {
    await stream.close();
  }
}, want);

const stage = {
  $match: all(ids({$match: {n: {$gte: 3}}}, [1, 3]), S([{$match: 1}, code(15959)])),
  $group: all(
    S([[{$group: {_id: '$k', n: {$sum: '$n'}, c: {$count: {}}}}, {$sort: {_id: 1}}], [{_id: 'a', n: 8, c: 2}, {_id: 'b', n: 1, c: 2}]]),
    S([{$group: {n: {$sum: 1}}}, code(15955)], [{$group: {_id: null, n: {$wrong: 1}}}, code(15952)]),
  ),
  $project: all(S([[{$match: {_id: 1}}, {$project: {n: 1, m: {$add: ['$n', 1]}, _id: 0}}], [{n: 3, m: 4}]]), S([{$project: {}}, code(51272)], [{$project: {a: 1, b: 0}}, code(31254)])),
  $sort: all(ids({$sort: {k: -1, n: 1}}, [4, 2, 1, 3]), S([{$sort: {}}, code(15976)])),
  $limit: all(ids([{$sort: {_id: 1}}, {$limit: 2}], [1, 2]), S([{$limit: 0}, code(15958)], [{$limit: -1}, code(5107201)])),
  $skip: all(ids([{$sort: {_id: 1}}, {$skip: 3}], [4]), S([{$skip: -1}, code(5107200)])),
  $unwind: S(
    [[{$unwind: '$l'}, {$project: {l: 1}}], [{_id: 1, l: 1}, {_id: 1, l: 2}, {_id: 4, l: 7}]],
    [[{$match: {_id: {$in: [1, 2]}}}, {$unwind: {path: '$l', includeArrayIndex: 'i', preserveNullAndEmptyArrays: true}}, {$project: {l: 1, i: 1}}], [{_id: 1, l: 1, i: L(0)}, {_id: 1, l: 2, i: L(1)}, {_id: 2, i: null}]],
    [{$unwind: 'l'}, code(28818)],
  ),
  $lookup: all(
    joined([{$match: {_id: {$lt: 3}}}, {$lookup: {from: 'other', localField: 'k', foreignField: 'k', as: 'r'}}, {$project: {r: '$r._id'}}], [{_id: 1, r: [1, 3]}, {_id: 2, r: []}]),
    joined([{$match: {_id: 1}}, {$lookup: {from: 'other', let: {n: '$n'}, pipeline: [{$match: {$expr: {$lt: ['$q', '$$n']}}}, {$project: {_id: 1}}], as: 'r'}}, {$project: {r: 1}}], [{_id: 1, r: [{_id: 1}, {_id: 2}]}]),
    S([{$lookup: {from: 'x'}}, code(9)]),
  ),
  $addFields: all(S([[{$match: {_id: 2}}, {$addFields: {'o.p': {$add: ['$n', 1]}}}, {$project: {n: 1, o: 1}}], [{_id: 2, n: 1, o: {p: 2}}]]), S([{$addFields: 1}, code(40272)])),
  $set: S([[{$match: {_id: 2}}, {$set: {n: 'x'}}, {$project: {n: 1}}], [{_id: 2, n: 'x'}]]),
  $count: S([{$count: 'all'}, [{all: 4}]], [{$count: ''}, code(40157)]),
  $unset: S([[{$match: {_id: 2}}, {$unset: ['k', 'l', 'at']}], [{_id: 2, n: 1}]], [{$unset: []}, code(31119)]),
  $replaceRoot: S([[{$match: {_id: 1}}, {$replaceRoot: {newRoot: {x: '$n'}}}], [{x: 3}]], [{$replaceRoot: {newRoot: '$k'}}, code(40228)]),
  $replaceWith: S([[{$match: {_id: 1}}, {$replaceWith: {$mergeObjects: [{y: 1}, {x: '$n'}]}}], [{y: 1, x: 3}]]),
  $facet: S([{$facet: {n: [{$count: 'c'}], none: [{$match: {_id: 9}}]}}, [{n: [{c: 4}], none: []}]], [{$facet: {a: [{$out: 'x'}]}}, code(40600)]),
  $bucket: S(
    [{$bucket: {groupBy: '$n', boundaries: [0, 3, 6], default: 'other', output: {c: {$sum: 1}}}}, [{_id: 0, c: 1}, {_id: 3, c: 2}, {_id: 'other', c: 1}]],
    [{$bucket: {groupBy: '$n', boundaries: [0, 3]}}, code(40066)],
    [{$bucket: {groupBy: '$n', boundaries: [3, 0], default: 9}}, code(40194)],
  ),
  $sortByCount: S([[{$match: {_id: {$lt: 4}}}, {$sortByCount: '$k'}], [{_id: 'a', count: 2}, {_id: 'b', count: 1}]]),
  $out: all(written({$out: 'target'}, [{_id: 1, n: 3}, {_id: 2, n: 1}, {_id: 3, n: 5}, {_id: 4, n: null}]), S([[{$out: 'x'}, {$match: {}}], code(40601)])),
  $merge: all(
    written({$merge: {into: 'target', whenNotMatched: 'discard'}}, [{_id: 1, old: true, n: 3}]),
    written({$merge: {into: 'target', whenMatched: [{$set: {sum: {$add: ['$$new.n', 1]}}}], whenNotMatched: 'discard'}}, [{_id: 1, old: true, sum: 4}]),
    S([{$merge: {into: 'target', on: 'n'}}, code(51183)]),
  ),
  $sample: S([[{$sample: {size: 3}}, {$count: 'n'}], [{n: 3}]], [{$sample: {size: -1}}, code(28747)]),
  $unionWith: joined([{$match: {_id: 1}}, {$unionWith: {coll: 'other', pipeline: [{$match: {q: 3}}]}}, {$project: {_id: 1}}], [{_id: 1}, {_id: 3}]),
  $graphLookup: go('who reports to whom', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1, n: 'A'}, {_id: 2, n: 'B', boss: 'A'}, {_id: 3, n: 'C', boss: 'B'}]);
    return (await c.aggregate([{$match: {_id: 3}}, {$graphLookup: {from: c.collectionName, startWith: '$boss', connectFromField: 'boss', connectToField: 'n', as: 'r', depthField: 'd'}}], exact).next()).r.sort((x, y) => x._id - y._id);
  }, [{_id: 1, n: 'A', d: L(1)}, {_id: 2, n: 'B', boss: 'A', d: L(0)}]),
  $geoNear: go('nearest first', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1, at: {type: 'Point', coordinates: [0, 0]}}, {_id: 2, at: {type: 'Point', coordinates: [1, 1]}}]);
    await c.createIndex({at: '2dsphere'});
    return c.aggregate([{$geoNear: {near: {type: 'Point', coordinates: [1, 1]}, distanceField: 'd'}}, {$project: {_id: 1}}]).toArray();
  }, [{_id: 2}, {_id: 1}]),
  $changeStream: all(
    watched([], (c) => c.insertOne({_id: 1}), has({operationType: 'insert', fullDocument: {_id: 1}, documentKey: {_id: 1}})),
    watched([{$match: {operationType: 'update'}}], (c) => c.updateOne({}, {$set: {a: 1}}), has({updateDescription: {updatedFields: {a: 1}, removedFields: [], truncatedArrays: []}, fullDocument: {_id: 0, a: 1}}), {fullDocument: 'updateLookup'}),
  ),
  $setWindowFields: S([
    [{$setWindowFields: {partitionBy: '$k', sortBy: {_id: 1}, output: {s: {$sum: '$n', window: {documents: ['unbounded', 'current']}}}}}, {$project: {s: 1}}, {$sort: {_id: 1}}],
    [{_id: 1, s: 3}, {_id: 2, s: 1}, {_id: 3, s: 8}, {_id: 4, s: 1}],
  ]),
  $bucketAuto: S([[{$match: {n: {$ne: null}}}, {$bucketAuto: {groupBy: '$n', buckets: 2}}], [{_id: {min: 1, max: 5}, count: 2}, {_id: {min: 5, max: 5}, count: 1}]], [{$bucketAuto: {groupBy: '$n', buckets: 0}}, code(40243)]),
  $collStats: S([{$collStats: {count: {}}}, some({ns: 'string', count: 'Int32', localTime: 'date'})], [{$collStats: {storageStats: {}}}, some({'storageStats.size': 'Int32', 'storageStats.nindexes': 'Int32'})]),
  $indexStats: S([{$indexStats: {}}, some({name: 'string', key: 'object', 'accesses.ops': 'Long', 'accesses.since': 'date', spec: 'object'})]),
  $documents: all(onDb('db', [{$documents: [{a: 1}, {a: 2}]}, {$match: {a: 2}}], [{a: 2}]), onDb('db', [{$documents: [1]}], code(40228))),
  $redact: S([[{$match: {_id: {$lt: 3}}}, {$redact: {$cond: [{$eq: ['$k', 'a']}, '$$KEEP', '$$PRUNE']}}, {$project: {_id: 1}}], [{_id: 1}]]),
  $densify: S(
    [[{$project: {at: 1}}, {$densify: {field: 'at', range: {step: 1, unit: 'day', bounds: 'full'}}}, {$count: 'n'}], [{n: 5}]],
    [[{$match: {n: {$ne: null}}}, {$project: {_id: 0, n: 1}}, {$densify: {field: 'n', range: {step: 2, bounds: [1, 6]}}}], [{n: 1}, {n: 3}, {n: 5}]],
  ),
  $fill: S([[{$project: {n: 1}}, {$fill: {sortBy: {_id: 1}, output: {n: {method: 'locf'}}}}], [{_id: 1, n: 3}, {_id: 2, n: 1}, {_id: 3, n: 5}, {_id: 4, n: 5}]], [[{$project: {n: 1}}, {$match: {n: null}}, {$fill: {output: {n: {value: 0}}}}], [{_id: 4, n: 0}]]),
  $currentOp: onDb('admin', [{$currentOp: {allUsers: true}}, {$match: {'command.aggregate': 1}}], some({opid: 'number', op: 'string', ns: 'string', command: 'object'})),
  $listSessions: go('config.system.sessions', async (ctx) => ctx.client.db('config').collection('system.sessions').aggregate([{$listSessions: {}}]).toArray(), (got) => assert.ok(Array.isArray(got))),
  $listLocalSessions: onDb('admin', [{$listLocalSessions: {}}], some({_id: 'object', lastUse: 'date'})),
  $planCacheStats: go('a plan that is kept', async (ctx) => {
    const c = await fresh(ctx, [...Array(50).keys()].map((i) => ({_id: i, a: i % 5, b: i % 7})));
    await c.createIndexes([{key: {a: 1}}, {key: {b: 1}}]);
    for (let i = 0; i < 3; i++) await c.find({a: 1, b: i}).toArray();
    return c.aggregate([{$planCacheStats: {}}]).toArray();
  }, some({planCacheKey: 'string', isActive: 'boolean', works: 'number', timeOfCreation: 'date', cachedPlan: 'object'})),
  $changeStreamSplitLargeEvent: watched([{$changeStreamSplitLargeEvent: {}}], (c) => c.insertOne({_id: 1}), has({operationType: 'insert'})),
  $shardedDataDistribution: onDb('admin', [{$shardedDataDistribution: {}}], code(6789101, 6789102, 20)),
  $listSampledQueries: onDb('admin', [{$listSampledQueries: {}}], []),
  $queryStats: onDb('admin', [{$queryStats: {}}], code(40324, 6579000)),
};
const atlas = (name, spec) => go(name, async (ctx) => (await kept(ctx, 'stages', DOCS)).aggregate([{[name]: spec}]).toArray(), code(31082, 40324, 6047401, 7501001));
const search = {
  $search: atlas('$search', {text: {query: 'x', path: 'k'}}),
  $vectorSearch: atlas('$vectorSearch', {}),
  $searchMeta: atlas('$searchMeta', {}),
  $listSearchIndexes: atlas('$listSearchIndexes', {}),
};

const G = (...cases) => cases.map(([accumulator, want, where = {}]) => ({
  label: JSON.stringify(accumulator),
  want,
  run: async (ctx) => {
    const c = await kept(ctx, 'groups', [{_id: 1, n: 3, d: D('1.5'), o: {x: 1}, s: 'b'}, {_id: 2, n: 1, o: {y: 2}, s: 'a'}, {_id: 3, n: 5, d: D('2.5'), o: null, s: 'c'}, {_id: 4, n: null}, {_id: 5, n: 'text'}, {_id: 6}]);
    return (await c.aggregate([{$match: where}, {$sort: {_id: 1}}, {$group: {_id: null, r: accumulator}}], exact).next()).r;
  },
}));
const three = {_id: {$lt: 4}};
const accumulators = {
  $sum: G([{$sum: '$n'}, 9], [{$sum: '$d'}, D('4.0')], [{$sum: 1}, 6], [{$sum: {$divide: ['$n', 2]}}, F(4.5), three]),
  $avg: G([{$avg: '$n'}, F(3)], [{$avg: '$d'}, D('2.0')], [{$avg: '$none'}, null]),
  $min: G([{$min: '$n'}, 1], [{$min: '$s'}, 'a'], [{$min: '$none'}, null]),
  $max: G([{$max: '$n'}, 'text'], [{$max: '$n'}, 5, three]),
  $first: G([{$first: '$n'}, 3], [{$first: '$none'}, null]),
  $last: G([{$last: '$n'}, null], [{$last: '$n'}, 5, three]),
  $push: G([{$push: '$n'}, [3, 1, 5, null, 'text']], [{$push: {i: '$_id'}}, [{i: 1}, {i: 2}, {i: 3}], three]),
  $addToSet: G([{$addToSet: {$gt: ['$n', 2]}}, (got) => assert.deepEqual([...got].sort(), [false, true])]),
  $count: G([{$count: {}}, 6], [{$count: {a: 1}}, code(14)]),
  $mergeObjects: G([{$mergeObjects: '$o'}, {x: 1, y: 2}], [{$mergeObjects: '$n'}, code(40400)]),
  $stdDevPop: G([{$stdDevPop: '$n'}, near(1.632993161855452)]),
  $stdDevSamp: G([{$stdDevSamp: '$n'}, near(2)], [{$stdDevSamp: '$n'}, null, {_id: 1}]),
  $top: G([{$top: {output: '$_id', sortBy: {n: -1}}}, 3, three]),
  $topN: G([{$topN: {n: 2, output: ['$_id', '$s'], sortBy: {n: 1}}}, [[2, 'a'], [1, 'b']], three]),
  $bottom: G([{$bottom: {output: '$_id', sortBy: {n: -1}}}, 2, three]),
  $bottomN: G([{$bottomN: {n: 2, output: '$_id', sortBy: {n: 1}}}, [1, 3], three]),
  $firstN: G([{$firstN: {input: '$_id', n: 2}}, [1, 2]], [{$firstN: {input: '$_id', n: 0}}, code(5787908)]),
  $lastN: G([{$lastN: {input: '$_id', n: 2}}, [5, 6]]),
  $minN: G([{$minN: {input: '$n', n: 2}}, [1, 3]]),
  $maxN: G([{$maxN: {input: '$n', n: 2}}, ['text', 5]]),
  $median: G([{$median: {input: '$n', method: 'approximate'}}, F(3)]),
  $percentile: G([{$percentile: {input: '$n', p: [0.1, 0.9], method: 'approximate'}}, [F(1), F(5)]], [{$percentile: {input: '$n', p: [2], method: 'approximate'}}, code(7750303)]),
  $accumulator: G([{$accumulator: {init: 'function() { return 0; }', accumulate: 'function(s, n) { return s + n; }', accumulateArgs: ['$n'], merge: 'function(a, b) { return a + b; }', lang: 'js'}}, F(9), three]),
};

const W = (...cases) => cases.map(([fn, want, sortBy = {_id: 1}]) => ({
  label: JSON.stringify(fn),
  want,
  run: async (ctx) => {
    const c = await kept(ctx, 'windows', [{_id: 1, n: 10, m: 1}, {_id: 2, n: 20, m: 5}, {_id: 3, n: null, m: 9}, {_id: 4, n: 40, m: 13}, {_id: 5, n: 20, m: 17}]);
    return (await c.aggregate([{$setWindowFields: {sortBy, output: {r: fn}}}, {$sort: {_id: 1}}], exact).toArray()).map((d) => d.r);
  },
}));
const two = {documents: [-1, 'current']};
const windows = {
  $rank: W([{$rank: {}}, [2, 3, 1, 5, 3], {n: 1}]),
  $denseRank: W([{$denseRank: {}}, [2, 3, 1, 4, 3], {n: 1}]),
  $documentNumber: W([{$documentNumber: {}}, [5, 4, 3, 2, 1], {_id: -1}]),
  $shift: W([{$shift: {output: '$n', by: 1, default: 'end'}}, [20, null, 40, 20, 'end']]),
  $derivative: W([{$derivative: {input: '$m'}, window: two}, [null, F(4), F(4), F(4), F(4)]]),
  $integral: W([{$integral: {input: '$m'}, window: {documents: ['unbounded', 'current']}}, [I(0), ...[3, 10, 21, 36].map(F)]]),
  $expMovingAvg: W([{$expMovingAvg: {input: '$m', alpha: 0.5}}, [1, 3, 6, 9.5, 13.25].map(F)]),
  $covariancePop: W([{$covariancePop: ['$_id', '$m'], window: {documents: ['unbounded', 'unbounded']}}, [8, 8, 8, 8, 8].map(F)]),
  $covarianceSamp: W([{$covarianceSamp: ['$_id', '$m'], window: {documents: ['unbounded', 'unbounded']}}, [10, 10, 10, 10, 10].map(F)]),
  $linearFill: W([{$linearFill: '$n'}, [10, 20, F(30), 40, 20]]),
  $locf: W([{$locf: '$n'}, [10, 20, 20, 40, 20]]),
};

const V = stages('variables', [{_id: 1, n: 2, o: {p: {keep: true}, q: {keep: false}}}]);
const variables = {
  $$ROOT: V([{$project: {r: '$$ROOT.n'}}, [{_id: 1, r: 2}]]),
  $$NOW: V([{$project: {r: {$and: [{$eq: [{$type: '$$NOW'}, 'date']}, {$eq: ['$$NOW', '$$NOW']}]}}}, [{_id: 1, r: true}]]),
  $$CURRENT: V([{$project: {r: '$$CURRENT.n', s: {$let: {vars: {CURRENT: '$o.p'}, in: '$keep'}}}}, [{_id: 1, r: 2, s: true}]]),
  $$REMOVE: V([{$project: {n: {$cond: [true, '$$REMOVE', '$n']}}}, [{_id: 1}]]),
  $$KEEP: V([[{$redact: '$$KEEP'}, {$project: {n: 1}}], [{_id: 1, n: 2}]]),
  $$PRUNE: V([{$redact: '$$PRUNE'}, []]),
  $$DESCEND: V([{$redact: {$cond: [{$eq: ['$keep', false]}, '$$PRUNE', '$$DESCEND']}}, [{_id: 1, n: 2, o: {p: {keep: true}}}]]),
  $$CLUSTER_TIME: V([{$project: {r: {$type: '$$CLUSTER_TIME'}}}, [{_id: 1, r: 'timestamp'}]]),
  $$USER_ROLES: V([{$project: {r: {$in: ['root', '$$USER_ROLES.role']}}}, [{_id: 1, r: true}]]),
  $$SEARCH_META: V([{$project: {r: {$type: '$$SEARCH_META'}}}, [{_id: 1, r: 'missing'}]]),
};

export default {
  'Aggregation stages': stage,
  'Stages only with Atlas Search': search,
  'Accumulators of $group': accumulators,
  'Window functions of $setWindowFields only': windows,
  'System variables': variables,
};
