// Every expression and accumulator that mingo has too, with random arguments, against mingo 7: an implementation of MongoDB's
// language that shares nothing with this one. VD_TEST_ROUNDS (60) arguments per operator, from VD_TEST_SEED (1).
//
// Where the two differ MongoDB's own semantics decide; so far they were always on this server's side. Mingo's known differences,
// which the arguments below stay away from:
// - it has one type of numbers: they are compared as numbers, without int, long and decimal; the last digits of doubles may differ;
// - it does not check the types of many arguments: where this server refuses one (never with codes 1 or 8) its answer is not looked at;
// - it rounds by the next digit alone in $round and $trunc; an array is unequal to no element of it in $eq and $ne; $dateFromParts adds
//   a day for an hour below 0; $dateDiff of seconds, quarters into the year before; $week from 1 always; $isoWeekYear (%G) of the first days; $toString has 17 digits, MongoDB 16;
// - $top and $bottom give lists; $median and $percentile of $group don't sort;
// - it throws for null or missing in $mod, $slice, $setUnion, $strcasecmp, the parts of dates, $sum $avg $min $max over an array, or takes
//   them for something ($toLower, $toUpper: null, $dateToParts, $dateAdd, $dateSubtract, $dateDiff: 1970), and for NaN in $multiply and $divide;
// - null equals missing in $eq and $ne; $gt and its like are false between types; an empty string is false in $not;
// - $toUpper and $toLower change all letters, MongoDB's those of ASCII; $last of [] throws; $substrBytes behind the end throws;
// - idx of later results of $regexFindAll; $replaceAll of an empty string; in $dateToString %w from 0, %U, %%; $dateTrunc with a binSize
//   before 2000; $convert of "" to double is 0; $stdDevPop and $stdDevSamp of too few numbers are NaN or 0;
// - $indexOfCP, $bsonSize, $firstN and its like as expressions of no array are not there.
import assert from 'node:assert/strict';
import {after, before, test} from 'node:test';
import {Aggregator} from 'mingo';
import {Node} from '../support/node.mjs';

const rounds = Number(process.env.VD_TEST_ROUNDS ?? 60);
let seed = Number(process.env.VD_TEST_SEED ?? 1) >>> 0;
const first = seed;
let node, client, db;
before(async () => {
  node = await Node.start();
  client = await node.client();
  db = client.db('mingo');
});
after(async () => {
  await client?.close();
  await node?.stop();
});

/** mulberry32: small, seeded. */
const random = () => {
  seed = (seed + 0x6d2b79f5) >>> 0;
  let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
const below = (n) => Math.floor(random() * n);
const pick = (list) => list[below(list.length)];
const times = (n, f) => [...Array(n).keys()].map(f);

const MISSING = Symbol('missing');
const words = ['', 'a', 'b', 'ab', 'Abc', 'abcabc', 'a b  c', ' x ', 'Grüße', '日本', '12', '-3.5', 'a.b', 'zz'];
const kinds = {
  int: () => below(21) - 10,
  small: () => below(6),
  third: () => (1 + below(3000)) / 3,
  unit: () => random() * 2 - 1,
  positive: () => pick([1, 2, 10, 0.5, 100, 7.25]),
  number: () => pick([below(41) - 20, below(41) - 20, random() * 20 - 10, Math.round(random() * 100) / 4, 0, 1e6 + below(1000)]),
  strange: () => pick([NaN, Infinity, -Infinity, 1e15, -1e15, 0]),
  string: () => pick(words),
  date: () => new Date(Date.UTC(1980 + below(60), below(12), 1 + below(28), below(24), below(60), below(60), below(1000))),
  bool: () => random() < 0.5,
  none: () => pick([null, MISSING]),
  numbers: () => times(below(6), () => kinds.number()),
  ints: () => times(below(6), () => below(8)),
  strings: () => times(below(5), () => kinds.string()),
  some: () => times(1 + below(5), () => below(8)),
  two: () => times(2 + below(5), () => kinds.number()),
  word: () => pick(words.filter((w) => w !== '')),
  ascii: () => pick(words.filter((w) => /^[ -~]*$/.test(w))),
  late: () => new Date(Date.UTC(2041 + below(60), below(12), 1 + below(28), below(24))),
  mixed: () => times(below(5), () => value('number string bool')),
  object: () => Object.fromEntries(times(below(4), (i) => [pick(['a', 'b', 'c', 'd']), kinds.number()])),
  pairs: () => times(below(4), () => ({k: pick(['a', 'b', 'c']), v: kinds.number()})),
  most_units: () => pick(['year', 'month', 'week', 'day', 'hour', 'minute']),
  unit_of_time: () => pick(['year', 'quarter', 'month', 'week', 'day', 'hour', 'minute', 'second', 'millisecond']),
};
const value = (of) => kinds[pick(of.split(' '))]();

const N = 'number number number strange none', S = 'string string string none', D = 'date', A = 'ints numbers mixed none';
const ANY = 'number string bool date object', MAYBE = `${ANY} none`;
/** {args: kinds of each argument as a list, or name: kinds for named ones; more: list may be longer} */
const list = (...of) => ({of});
const named = (of, more = {}) => ({named: of, ...more});
const one = (of) => ({one: of});
const E = {
  $add: list(N, 'number date none', 'number'), $subtract: list('number date none', 'number none'), $multiply: list('number none', 'number'), $divide: list('number none', 'positive none'), $mod: list('number', 'positive'),
  $abs: one(N), $ceil: one(N), $floor: one(N), $exp: one('unit none'), $ln: one('positive none'), $log10: one('positive none'), $log: list('positive', 'positive none'), $pow: list('positive', 'small none'), $sqrt: one('positive none'),
  $round: list('third none', 'small'), $trunc: list('third none', 'small'),
  $bitAnd: list('int', 'int none'), $bitOr: list('int', 'int none'), $bitXor: list('int', 'int none'), $bitNot: one('int none'),
  $eq: list(ANY, ANY), $ne: list(ANY, ANY), $gt: list('number', 'number'), $gte: list('number', 'number'), $lt: list('string', 'string'), $lte: list('date', 'date'), $cmp: list('number string', 'number string'),
  $and: list(MAYBE, MAYBE), $or: list(MAYBE, MAYBE), $not: list('number bool date none'), $cond: list(MAYBE, 'number', 'string'), $ifNull: list(MAYBE, 'number'),
  $switch: {make: (v) => ({branches: [{case: v('bool none number'), then: 1}, {case: v('bool none'), then: 2}], default: 3})},
  $size: one('ints numbers mixed'), $arrayElemAt: list('ints mixed none', 'int'), $in: list('small', 'ints'), $concatArrays: list(A, A), $slice: list('ints', 'int'), $first: one('ints none'), $last: one('some none'),
  $isArray: one(ANY), $reverseArray: one(A), $range: list('small', 'small', 'small'), $indexOfArray: list('ints none', 'small'), $arrayToObject: one('pairs none'), $objectToArray: one('object none'),
  $filter: {make: (v) => ({input: v('ints numbers none'), as: 'x', cond: {$gt: ['$$x', v('small')]}})}, $map: {make: (v) => ({input: v('ints numbers none'), as: 'x', in: {$multiply: ['$$x', 2]}})},
  $reduce: {make: (v) => ({input: v('ints numbers'), initialValue: 1, in: {$add: ['$$value', '$$this']}})}, $zip: {make: (v) => ({inputs: [v('ints none'), v('strings')], useLongestLength: true})},
  $sortArray: {make: (v) => ({input: v('ints numbers none'), sortBy: pick([1, -1])})}, $firstN: named({input: 'ints', n: 'small'}), $lastN: named({input: 'ints', n: 'small'}), $minN: named({input: 'ints', n: 'small'}), $maxN: named({input: 'ints', n: 'small'}),
  $setUnion: list('ints', 'ints'), $setIntersection: list('ints', 'ints none'), $setDifference: list('ints none', 'ints'), $setIsSubset: list('ints', 'ints'), $setEquals: list('ints', 'ints'), $allElementsTrue: list('mixed'), $anyElementTrue: list('mixed'),
  $concat: list(S, S), $toUpper: one('ascii'), $toLower: one('ascii'), $substrCP: list('string none', 'small', 'small'), $split: list('string none', 'string'), $strLenCP: one('string'), $strLenBytes: one('string'),
  $indexOfBytes: list(S, 'string'), $trim: named({input: S}), $ltrim: named({input: S}), $rtrim: named({input: S}), $strcasecmp: list('ascii', 'ascii'),
  $regexMatch: {make: (v) => ({input: v(S), regex: pick(['a', '^a', 'b$', '[a-c]+', '\\d']), options: pick(['', 'i'])})}, $regexFind: {make: (v) => ({input: v(S), regex: pick(['a', '(b)', '[a-c]+'])})}, $regexFindAll: {make: (v) => ({input: v(S), regex: pick(['a', '(b)', '[a-c]+'])}), look: (v) => v.map(({idx, ...r}) => r)},
  $replaceOne: named({input: S, find: 'string', replacement: 'string'}), $replaceAll: named({input: S, find: 'word', replacement: 'string'}),
  $year: one(D), $month: one(D), $dayOfMonth: one(D), $hour: one(D), $minute: one(D), $second: one(D), $millisecond: one(D), $dayOfWeek: one(D), $dayOfYear: one(D), $isoWeek: one(D), $isoDayOfWeek: one(D),
  $dateToString: {make: (v) => ({date: v(D), format: pick(['%Y-%m-%d', '%H:%M:%S.%L', '%j', '%V-%u'])})}, $dateToParts: named({date: D}), $dateFromParts: {make: (v) => ({year: 1990 + below(40), month: v('small'), day: v('small'), hour: v('small')})},
  $dateAdd: {make: (v) => ({startDate: v(D), unit: v('most_units'), amount: v('int')})}, $dateSubtract: {make: (v) => ({startDate: v(D), unit: v('most_units'), amount: v('int')})}, $dateDiff: {make: (v) => ({startDate: v(D), endDate: v('late'), unit: v('most_units')})},
  $dateTrunc: {make: (v) => ({date: v('late'), unit: v('unit_of_time'), binSize: 1 + below(3)})},
  $type: one(ANY), $isNumber: one(ANY), $toString: one('int bool string date none'), $toInt: one('number bool none'), $toLong: one('number bool date none'), $toDouble: one('number bool date none'), $toBool: one('number string bool date none'), $toDate: one('date none'),
  $convert: {make: (v) => ({input: v('int bool none'), to: pick(['string', 'bool', 'double']), onError: 'bad', onNull: 'null'})},
  $mergeObjects: list('object none', 'object none'), $getField: {make: (v) => ({field: pick(['a', 'b']), input: v('object')})}, $setField: {make: (v) => ({field: pick(['a', 'b']), input: v('object none'), value: v('number')})}, $unsetField: {make: (v) => ({field: pick(['a', 'b']), input: v('object none')})},
  $let: {make: (v) => ({vars: {x: v('number'), y: v('number none')}, in: {$add: ['$$x', '$$y']}})},
  $sum: one('numbers mixed'), $avg: one('numbers'), $min: one('numbers'), $max: one('numbers'), $stdDevPop: one('two'), $stdDevSamp: one('two'), $median: {make: (v) => ({input: v('ints'), method: 'approximate'})}, $percentile: {make: (v) => ({input: v('ints'), p: [0.25, 0.5, 0.9], method: 'approximate'})},
  $sin: one(N.replace('strange', 'unit')), $cos: one('number none'), $tan: one('unit none'), $asin: one('unit none'), $acos: one('unit none'), $atan: one('number none'), $atan2: list('number', 'number none'), $sinh: one('unit none'), $cosh: one('unit none'), $tanh: one('number none'), $asinh: one('number none'), $acosh: one('positive none'), $atanh: one('unit none'),
  $degreesToRadians: one('number none'), $radiansToDegrees: one('number none'), $literal: one('number string'),
};

const plain = (v) => {
  if (v === undefined || v === null) return null;
  if (typeof v === 'bigint') return Number(v);
  if (v instanceof Date) return {date: v.getTime()};
  if (Array.isArray(v)) return v.map(plain);
  if (v?._bsontype === 'Long') return Number(v);
  if (typeof v === 'object') return Object.fromEntries(Object.keys(v).sort().map((k) => [k, plain(v[k])]));
  return v;
};
const same = (a, b) => {
  if (typeof a === 'number' && typeof b === 'number') return Object.is(a, b) || a === b || Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(a), Math.abs(b));
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((x, i) => same(x, b[i]));
  if (a && b && typeof a === 'object' && typeof b === 'object' && !Array.isArray(a) && !Array.isArray(b)) return JSON.stringify(Object.keys(a)) === JSON.stringify(Object.keys(b)) && Object.keys(a).every((k) => same(a[k], b[k]));
  return a === b;
};
const SETS = new Set(['$setUnion', '$setIntersection', '$setDifference', '$addToSet']);
const looked = (op, how, v) => (how.look && v !== null ? how.look(v) : SETS.has(op) && Array.isArray(v) ? [...v].sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)) : v);

/** A document and an expression over its fields. */
function one_case(op, {of, one: single, named: names, make}) {
  const doc = {_id: 1};
  let n = 0;
  const field = (kind) => {
    const v = value(kind), name = `f${n++}`;
    if (v !== MISSING) doc[name] = v;
    return `$${name}`;
  };
  const args = make ? make(field) : names ? Object.fromEntries(Object.entries(names).map(([k, kind]) => [k, field(kind)])) : of ? of.map(field) : field(single);
  return {doc, expression: {[op]: args}};
}

async function ours(cases) {
  const branch = (c, i) => ({$project: {_id: {$literal: i}, r: c.expression}});
  const run = async (some, at) => {
    try {
      return await db.aggregate([{$documents: [{}]}, {$unionWith: {pipeline: [{$documents: [some[0].doc]}, branch(some[0], at)]}}, ...some.slice(1).map((c, i) => ({$unionWith: {pipeline: [{$documents: [c.doc]}, branch(c, at + 1 + i)]}})), {$match: {_id: {$exists: true}}}]).toArray();
    } catch (e) {
      if (some.length === 1) return [{_id: at, error: e}];
      const half = some.length >> 1;
      return [...(await run(some.slice(0, half), at)), ...(await run(some.slice(half), at + half))];
    }
  };
  return run(cases, 0);
}

for (const [op, how] of Object.entries(E)) {
  test(op, async () => {
    const cases = times(rounds, () => one_case(op, how));
    const results = await ours(cases);
    assert.equal(results.length, cases.length);
    const wrong = [];
    for (const {_id: i, r, error} of results) {
      const {doc, expression} = cases[i];
      const told = () => `${JSON.stringify(expression)} over ${JSON.stringify(doc, (k, v) => (typeof v === 'number' && !Number.isFinite(v) ? String(v) : v))}`;
      let theirs, thrown;
      try {
        theirs = plain(new Aggregator([{$project: {_id: 0, r: expression}}]).run([structuredClone(doc)])[0].r);
      } catch (e) {
        thrown = e;
      }
      if (error) {
        if (!Number.isInteger(error.code) || [1, 8].includes(error.code)) wrong.push(`${told()}: ${error.message} (${error.code})`);
      } else if (thrown) wrong.push(`${told()}: ${JSON.stringify(plain(r))}, mingo throws: ${thrown.message}`);
      else if (!same(looked(op, how, plain(r)), looked(op, how, theirs))) wrong.push(`${told()}: ${JSON.stringify(plain(r))}, mingo: ${JSON.stringify(theirs)}`);
    }
    assert.deepEqual(wrong.slice(0, 8), [], `${wrong.length} of ${rounds} differ; VD_TEST_SEED=${first}`);
    assert.ok(results.some((r) => !r.error), 'every argument was refused');
  });
}

// ---- accumulators: the same random documents in groups ----

const ACCUMULATORS = {
  $sum: {$sum: '$v'}, $avg: {$avg: '$n'}, $min: {$min: '$n'}, $max: {$max: '$n'}, $first: {$first: '$v'}, $last: {$last: '$v'}, $push: {$push: '$n'}, $addToSet: {$addToSet: '$k'}, $count: {$count: {}}, $mergeObjects: {$mergeObjects: '$o'},
  $stdDevPop: {$stdDevPop: '$n'}, $stdDevSamp: {$stdDevSamp: '$n'}, $topN: {$topN: {n: 3, output: '$_id', sortBy: {n: 1, _id: 1}}}, 
  $bottomN: {$bottomN: {n: 3, output: '$_id', sortBy: {n: 1, _id: 1}}}, $firstN: {$firstN: {input: '$n', n: 2}}, $lastN: {$lastN: {input: '$n', n: 2}}, $minN: {$minN: {input: '$n', n: 2}}, $maxN: {$maxN: {input: '$n', n: 2}},
};
for (const [op, accumulator] of Object.entries(ACCUMULATORS))
  test(`${op} of $group`, async () => {
    for (let round = 0; round < Math.ceil(rounds / 10); round++) {
      const docs = times(40, (i) => {
        const doc = {_id: i, g: below(4), k: below(5), n: kinds.number(), i: below(50), o: kinds.object()};
        const v = value('number string date none');
        if (v !== MISSING) doc.v = v;
        return doc;
      });
      const pipeline = [{$sort: {_id: 1}}, {$group: {_id: '$g', r: accumulator}}, {$sort: {_id: 1}}];
      const theirs = new Aggregator(pipeline).run(structuredClone(docs));
      const got = await db.aggregate([{$documents: docs}, ...pipeline]).toArray();
      assert.equal(got.length, theirs.length);
      for (const [i, d] of got.entries()) assert.ok(same(looked(op, {}, plain(d.r)), looked(op, {}, plain(theirs[i].r))), `${JSON.stringify(plain(d.r))}, mingo: ${JSON.stringify(plain(theirs[i].r))} over ${JSON.stringify(docs.filter((x) => x.g === d._id))}; VD_TEST_SEED=${first}`);
    }
  });
