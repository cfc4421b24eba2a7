// tests/surface/expressions.mjs — every expression, over one small document.
import assert from 'node:assert/strict';
import {Binary, ObjectId, Timestamp} from 'mongodb';
import {D, F, L, all, code, day, expressions, exact, fresh, go, near} from './kit.mjs';

const at = day('2024-02-29T13:04:05.678Z');
const E = expressions({
  i: 7, l: L(7), f: F(2.5), d: D('1.50'), neg: -7, z: 0, n: null, s: 'Grüße, Welt', e: '', t: true, arr: [3, 1, 2], nested: [[1, 2], [3]], at, ts: new Timestamp({t: 100, i: 5}), o: {a: 1, b: {c: 2}}, bin: new Binary(Buffer.from([1, 2, 3])),
});
const bad = (...pairs) => E(...pairs.map(([e, ...codes]) => [e, code(...codes)]));

const arithmetic = {
  $add: all(E([{$add: ['$i', 1]}, 8], [{$add: ['$i', '$l']}, L(14)], [{$add: ['$at', 1000]}, day('2024-02-29T13:04:06.678Z')], [{$add: ['$i', null]}, null], [{$add: []}, 0], [{$add: [2147483647, 1]}, L('2147483648')]), bad([{$add: ['$s', 1]}, 14, 16554])),
  $subtract: all(E([{$subtract: ['$i', '$f']}, F(4.5)], [{$subtract: ['$at', day('2024-02-29T13:04:05.000Z')]}, L(678)]), bad([{$subtract: ['$s', 1]}, 14, 16556], [{$subtract: [1]}, 16020])),
  $multiply: all(E([{$multiply: ['$i', '$d']}, D('10.50')], [{$multiply: ['$i', '$none']}, null]), bad([{$multiply: ['$s']}, 14, 16555])),
  $divide: all(E([{$divide: ['$i', 2]}, F(3.5)], [{$divide: [8, 2]}, F(4)]), bad([{$divide: [1, 0]}, 2, 16608], [{$divide: ['x', 1]}, 14, 16609])),
  $mod: all(E([{$mod: ['$neg', 4]}, -3], [{$mod: ['$i', 2.5]}, F(2)]), bad([{$mod: [1, 0]}, 2, 16610], [{$mod: ['x', 1]}, 14, 16611])),
  $round: all(E([{$round: [2.5]}, F(2)], [{$round: [1234.567, 1]}, F(1234.6)], [{$round: [1234, -2]}, 1200], [{$round: ['$d', 0]}, D('2')]), bad([{$round: ['x']}, 51081])),
  $abs: all(E([{$abs: '$neg'}, 7], [{$abs: L('-2147483648')}, L('2147483648')], [{$abs: '$n'}, null]), bad([{$abs: 'x'}, 28765])),
  $ceil: E([{$ceil: '$f'}, F(3)], [{$ceil: '$i'}, 7]),
  $floor: E([{$floor: -2.5}, F(-3)], [{$floor: '$d'}, D('1')]),
  $trunc: E([{$trunc: -2.5}, F(-2)], [{$trunc: [1234.567, 2]}, F(1234.56)]),
  $pow: all(E([{$pow: [2, 10]}, 1024], [{$pow: [2, 40]}, L('1099511627776')], [{$pow: [2, -1]}, F(0.5)]), bad([{$pow: [0, -1]}, 28764])),
  $sqrt: all(E([{$sqrt: 25}, F(5)]), bad([{$sqrt: -1}, 28714])),
  $exp: E([{$exp: 0}, F(1)]),
  $ln: all(E([{$ln: 1}, F(0)]), bad([{$ln: 0}, 28766])),
  $log: all(E([{$log: [100, 10]}, F(2)]), bad([{$log: [1, 1]}, 28759])),
  $log10: all(E([{$log10: 1000}, F(3)]), bad([{$log10: -1}, 28761])),
  $bitAnd: all(E([{$bitAnd: [13, 10]}, 8], [{$bitAnd: [13, L(10)]}, L(8)]), bad([{$bitAnd: [1.5, 1]}, 14])),
  $bitOr: E([{$bitOr: [5, 2]}, 7], [{$bitOr: []}, 0]),
  $bitXor: E([{$bitXor: [5, 1]}, 4], [{$bitXor: [5, null]}, null]),
  $bitNot: E([{$bitNot: 5}, -6], [{$bitNot: '$l'}, L(-8)]),
};

const comparison = {
  $eq: E([{$eq: ['$i', '$l']}, true], [{$eq: ['$none', null]}, false]),
  $ne: E([{$ne: ['$i', 8]}, true]),
  $gt: E([{$gt: ['$s', '$i']}, true], [{$gt: ['$none', null]}, false]),
  $gte: E([{$gte: ['$d', 1.5]}, true]),
  $lt: E([{$lt: ['$n', 0]}, true], [{$lt: [[1, 2], [1, 3]]}, true]),
  $lte: E([{$lte: ['$i', 6]}, false]),
  $and: E([{$and: ['$i', '$t']}, true], [{$and: ['$z', {$divide: [1, '$z']}]}, false], [{$and: []}, true]),
  $or: E([{$or: ['$z', '$n']}, false], [{$or: ['$e']}, true], [{$or: []}, false]),
  $not: E([{$not: ['$z']}, true], [{$not: '$s'}, false]),
  $cond: all(E([{$cond: ['$t', 'yes', 'no']}, 'yes'], [{$cond: {if: '$none', then: 1, else: 2}}, 2]), bad([{$cond: {if: 1, then: 1}}, 17082])),
  $ifNull: all(E([{$ifNull: ['$n', '$none', 'x']}, 'x'], [{$ifNull: ['$i', 0]}, 7]), bad([{$ifNull: ['$i']}, 1257300])),
  $cmp: E([{$cmp: ['$i', '$f']}, 1], [{$cmp: ['$none', null]}, -1]),
  $switch: all(E([{$switch: {branches: [{case: '$z', then: 1}, {case: '$t', then: 2}], default: 3}}, 2]), bad([{$switch: {branches: [{case: '$z', then: 1}]}}, 40066])),
};

const arrays = {
  $size: all(E([{$size: '$arr'}, 3]), bad([{$size: '$n'}, 17124])),
  $filter: all(E([{$filter: {input: '$arr', cond: {$gt: ['$$this', 1]}}}, [3, 2]], [{$filter: {input: '$arr', as: 'x', cond: {$gt: ['$$x', 0]}, limit: 2}}, [3, 1]], [{$filter: {input: '$n', cond: 1}}, null]), bad([{$filter: {input: 1, cond: 1}}, 28651])),
  $map: all(E([{$map: {input: '$arr', as: 'x', in: {$multiply: ['$$x', 2]}}}, [6, 2, 4]]), bad([{$map: {input: 1, in: 1}}, 16883])),
  $arrayElemAt: all(E([{$arrayElemAt: ['$arr', -1]}, 2], [{$arrayElemAt: ['$arr', 9]}], [{$arrayElemAt: ['$n', 0]}, null]), bad([{$arrayElemAt: [1, 0]}, 28689])),
  $in: all(E([{$in: [2, '$arr']}, true]), bad([{$in: [1, '$n']}, 40081])),
  $concatArrays: all(E([{$concatArrays: ['$arr', [9]]}, [3, 1, 2, 9]], [{$concatArrays: ['$arr', '$none']}, null]), bad([{$concatArrays: [1]}, 28664])),
  $slice: all(E([{$slice: ['$arr', 2]}, [3, 1]], [{$slice: ['$arr', -1]}, [2]], [{$slice: ['$arr', 1, 5]}, [1, 2]]), bad([{$slice: ['$arr', 1, -1]}, 28729])),
  $reduce: E([{$reduce: {input: '$arr', initialValue: 0, in: {$add: ['$$value', '$$this']}}}, 6], [{$reduce: {input: '$n', initialValue: 0, in: 1}}, null]),
  $first: E([{$first: '$arr'}, 3], [{$first: [[]]}]),
  $last: E([{$last: '$arr'}, 2]),
  $isArray: E([{$isArray: '$arr'}, true], [{$isArray: ['$i']}, false]),
  $reverseArray: E([{$reverseArray: '$arr'}, [2, 1, 3]], [{$reverseArray: '$n'}, null]),
  $sortArray: E([{$sortArray: {input: '$arr', sortBy: 1}}, [1, 2, 3]], [{$sortArray: {input: [{a: 1, b: 1}, {a: 2}], sortBy: {a: -1}}}, [{a: 2}, {a: 1, b: 1}]]),
  $range: all(E([{$range: [0, 10, 3]}, [0, 3, 6, 9]], [{$range: [3, 0, -1]}, [3, 2, 1]]), bad([{$range: [0, 1, 0]}, 34449])),
  $indexOfArray: E([{$indexOfArray: ['$arr', 2]}, 2], [{$indexOfArray: ['$arr', 2, 0, 1]}, -1], [{$indexOfArray: ['$n', 1]}, null]),
  $zip: E([{$zip: {inputs: ['$arr', ['a']]}}, [[3, 'a']]], [{$zip: {inputs: ['$arr', ['a']], useLongestLength: true, defaults: [0, 'z']}}, [[3, 'a'], [1, 'z'], [2, 'z']]]),
  $arrayToObject: all(E([{$arrayToObject: [[['a', 1], ['b', 2]]]}, {a: 1, b: 2}], [{$arrayToObject: [[{k: 'x', v: 1}]]}, {x: 1}]), bad([{$arrayToObject: '$arr'}, 40398])),
  $objectToArray: E([{$objectToArray: '$o'}, [{k: 'a', v: 1}, {k: 'b', v: {c: 2}}]]),
  $firstN: E([{$firstN: {input: '$arr', n: 2}}, [3, 1]]),
  $lastN: E([{$lastN: {input: '$arr', n: 2}}, [1, 2]]),
  $minN: E([{$minN: {input: '$arr', n: 2}}, [1, 2]]),
  $maxN: E([{$maxN: {input: '$arr', n: 2}}, [3, 2]]),
};

const members = (want) => (got) => assert.deepEqual([...got].map(Number).sort(), want);
const sets = {
  $setUnion: E([{$setUnion: ['$arr', [2, 9]]}, members([1, 2, 3, 9])], [{$setUnion: ['$arr', '$n']}, null]),
  $setIntersection: E([{$setIntersection: ['$arr', [2, 3, 9]]}, members([2, 3])]),
  $setDifference: E([{$setDifference: ['$arr', [2]]}, [3, 1]]),
  $setIsSubset: all(E([{$setIsSubset: [[1, 2], '$arr']}, true]), bad([{$setIsSubset: ['$n', '$arr']}, 17046])),
  $setEquals: E([{$setEquals: ['$arr', [1, 2, 3, 3]]}, true]),
  $allElementsTrue: E([{$allElementsTrue: ['$arr']}, true], [{$allElementsTrue: [[1, 0]]}, false]),
  $anyElementTrue: E([{$anyElementTrue: [[0, null]]}, false]),
};

const strings = {
  $concat: all(E([{$concat: ['a', '$s']}, 'aGrüße, Welt'], [{$concat: ['a', null]}, null]), bad([{$concat: ['$i']}, 16702])),
  $toUpper: E([{$toUpper: 'abc'}, 'ABC'], [{$toUpper: '$n'}, '']),
  $toLower: E([{$toLower: 'ABC'}, 'abc']),
  $substrCP: all(E([{$substrCP: ['$s', 2, 3]}, 'üße']), bad([{$substrCP: ['$s', -1, 2]}, 34455])),
  $split: all(E([{$split: ['$s', ', ']}, ['Grüße', 'Welt']]), bad([{$split: ['$s', '']}, 40087])),
  $regexMatch: all(E([{$regexMatch: {input: '$s', regex: /welt/i}}, true], [{$regexMatch: {input: '$n', regex: 'x'}}, false]), bad([{$regexMatch: {input: '$i', regex: 'x'}}, 51104])),
  $substr: E([{$substr: ['$s', 0, 2]}, 'Gr']),
  $substrBytes: all(E([{$substrBytes: ['$s', 0, 4]}, 'Grü']), bad([{$substrBytes: ['$s', 0, 3]}, 28657])),
  $strLenCP: all(E([{$strLenCP: '$s'}, 11]), bad([{$strLenCP: '$n'}, 34471])),
  $indexOfCP: E([{$indexOfCP: ['$s', 'Welt']}, 7], [{$indexOfCP: ['$s', 'x']}, -1]),
  $trim: E([{$trim: {input: '  a b '}}, 'a b'], [{$trim: {input: 'xxaxx', chars: 'x'}}, 'a']),
  $ltrim: E([{$ltrim: {input: '  a '}}, 'a ']),
  $rtrim: E([{$rtrim: {input: '  a '}}, '  a']),
  $regexFind: E([{$regexFind: {input: '$s', regex: '(W)(e)'}}, {match: 'We', idx: 7, captures: ['W', 'e']}], [{$regexFind: {input: '$s', regex: 'x'}}, null]),
  $regexFindAll: E([{$regexFindAll: {input: 'aXbX', regex: 'X'}}, [{match: 'X', idx: 1, captures: []}, {match: 'X', idx: 3, captures: []}]]),
  $replaceOne: E([{$replaceOne: {input: 'aXbX', find: 'X', replacement: '-'}}, 'a-bX']),
  $replaceAll: E([{$replaceAll: {input: 'aXbX', find: 'X', replacement: '-'}}, 'a-b-']),
  $strcasecmp: E([{$strcasecmp: ['ABC', 'abd']}, -1]),
  $strLenBytes: E([{$strLenBytes: '$s'}, 13]),
  $indexOfBytes: E([{$indexOfBytes: ['$s', 'Welt']}, 9]),
};

const dates = {
  $dateToString: E([{$dateToString: {date: '$at', format: '%Y-%m-%d %H:%M:%S.%L %j %u %U %G-%V %z'}}, '2024-02-29 13:04:05.678 060 4 08 2024-09 +0000'], [{$dateToString: {date: '$at', timezone: 'America/New_York'}}, '2024-02-29T08:04:05.678'], [{$dateToString: {date: '$n', onNull: 'none'}}, 'none']),
  $year: E([{$year: '$at'}, 2024], [{$year: {date: '$at', timezone: '+09:00'}}, 2024]),
  $month: E([{$month: '$at'}, 2]),
  $dayOfMonth: all(E([{$dayOfMonth: '$at'}, 29], [{$dayOfMonth: {date: '$at', timezone: 'Asia/Tokyo'}}, 29], [{$dayOfMonth: '$n'}, null]), bad([{$dayOfMonth: 'x'}, 16006])),
  $hour: E([{$hour: {date: '$at', timezone: 'Europe/Berlin'}}, 14]),
  $minute: E([{$minute: '$at'}, 4]),
  $second: E([{$second: '$at'}, 5]),
  $dayOfWeek: E([{$dayOfWeek: '$at'}, 5]),
  $dayOfYear: E([{$dayOfYear: '$at'}, 60]),
  $dateFromString: all(E([{$dateFromString: {dateString: '2024-02-29T13:04:05.678Z'}}, at], [{$dateFromString: {dateString: '29/02/2024', format: '%d/%m/%Y', timezone: 'Europe/Berlin'}}, day('2024-02-28T23:00:00Z')], [{$dateFromString: {dateString: 'x', onError: 'bad'}}, 'bad']), bad([{$dateFromString: {dateString: 'x'}}, 241])),
  $dateFromParts: E([{$dateFromParts: {year: 2024, month: 14, day: 0, hour: 1}}, day('2025-01-31T01:00:00Z')], [{$dateFromParts: {isoWeekYear: 2024, isoWeek: 9, isoDayOfWeek: 4}}, day('2024-02-29')]),
  $dateToParts: E([{$dateToParts: {date: '$at'}}, {year: 2024, month: 2, day: 29, hour: 13, minute: 4, second: 5, millisecond: 678}]),
  $dateAdd: E([{$dateAdd: {startDate: '$at', unit: 'year', amount: 1}}, day('2025-02-28T13:04:05.678Z')]),
  $dateSubtract: E([{$dateSubtract: {startDate: '$at', unit: 'month', amount: 1}}, day('2024-01-29T13:04:05.678Z')]),
  $dateDiff: E([{$dateDiff: {startDate: day('2023-12-31T23:59:59Z'), endDate: '$at', unit: 'year'}}, L(1)]),
  $dateTrunc: E([{$dateTrunc: {date: '$at', unit: 'week', startOfWeek: 'monday'}}, day('2024-02-26')]),
  $week: E([{$week: '$at'}, 8]),
  $isoWeek: E([{$isoWeek: '$at'}, 9]),
  $isoWeekYear: E([{$isoWeekYear: '$at'}, L(2024)]),
  $isoDayOfWeek: E([{$isoDayOfWeek: '$at'}, 4]),
  $millisecond: E([{$millisecond: '$at'}, 678]),
  $tsSecond: E([{$tsSecond: '$ts'}, L(100)]),
  $tsIncrement: E([{$tsIncrement: '$ts'}, L(5)]),
};

const types = {
  $type: E([{$type: '$d'}, 'decimal'], [{$type: '$none'}, 'missing'], [{$type: '$arr'}, 'array']),
  $toString: all(E([{$toString: '$i'}, '7'], [{$toString: '$f'}, '2.5'], [{$toString: '$at'}, '2024-02-29T13:04:05.678Z'], [{$toString: '$n'}, null]), bad([{$toString: '$arr'}, 241])),
  $toInt: all(E([{$toInt: '12'}, 12], [{$toInt: 2.9}, 2]), bad([{$toInt: 'x'}, 241], [{$toInt: 3e9}, 241])),
  $toDouble: E([{$toDouble: '1.5'}, F(1.5)], [{$toDouble: true}, F(1)]),
  $convert: E([{$convert: {input: 'x', to: 'int', onError: 'bad', onNull: 'null'}}, 'bad'], [{$convert: {input: '$n', to: 'int', onNull: 'null'}}, 'null'], [{$convert: {input: '$i', to: 'bool'}}, true]),
  $toDate: E([{$toDate: L(1000)}, new Date(1000)], [{$toDate: '2024-01-01'}, day('2024-01-01')]),
  $toObjectId: all(E([{$toObjectId: '0123456789abcdef01234567'}, new ObjectId('0123456789abcdef01234567')]), bad([{$toObjectId: 'x'}, 241])),
  $toLong: E([{$toLong: '$at'}, L(at.getTime())]),
  $toDecimal: E([{$toDecimal: '1.50'}, D('1.50')], [{$toDecimal: 0.1}, D('0.100000000000000')]),
  $toBool: E([{$toBool: ''}, true], [{$toBool: '$z'}, false]),
  $isNumber: E([{$isNumber: '$d'}, true], [{$isNumber: '$s'}, false]),
};

const other = {
  $literal: E([{$literal: '$i'}, '$i']),
  $mergeObjects: all(E([{$mergeObjects: ['$o', {a: 5}, null]}, {a: 5, b: {c: 2}}]), bad([{$mergeObjects: [1]}, 40400])),
  $let: all(E([{$let: {vars: {x: '$i', y: 2}, in: {$multiply: ['$$x', '$$y']}}}, 14]), bad([{$let: {vars: {X: 1}, in: 1}}, 9, 16867])),
  $getField: E([{$getField: 'i'}, 7], [{$getField: {field: {$literal: '$x'}, input: {$literal: {$x: 1}}}}, 1]),
  $setField: E([{$setField: {field: 'a', input: '$o', value: 9}}, {a: 9, b: {c: 2}}]),
  $unsetField: E([{$unsetField: {field: 'a', input: '$o'}}, {b: {c: 2}}]),
  $rand: E([{$rand: {}}, (got) => assert.ok(Number(got) >= 0 && Number(got) < 1)]),
  $meta: go('{$meta: "indexKey"}', async (ctx) => {
    const c = await fresh(ctx, [{_id: 1, a: 5}]);
    await c.createIndex({a: 1});
    return c.aggregate([{$match: {a: 5}}, {$project: {_id: 0, k: {$meta: 'indexKey'}}}], {hint: 'a_1'}).toArray();
  }, [{k: {a: 5}}]),
  $sampleRate: go('{$match: {$sampleRate: 1}}', async (ctx) => (await fresh(ctx, [{_id: 1}, {_id: 2}])).aggregate([{$match: {$sampleRate: 1}}, {$count: 'n'}]).toArray(), [{n: 2}]),
  $binarySize: E([{$binarySize: '$bin'}, 3], [{$binarySize: '$s'}, 13]),
  $bsonSize: E([{$bsonSize: '$o'}, 27], [{$bsonSize: '$n'}, null]),
  $function: E([{$function: {body: 'function(a) { return a + 1; }', args: ['$i'], lang: 'js'}}, F(8)]),
  $toHashedIndexKey: E([{$toHashedIndexKey: 'abc'}, (got) => assert.equal(got._bsontype, 'Long')], [{$toHashedIndexKey: '$n'}, (got) => assert.equal(got._bsontype, 'Long')]),
};

const overArrays = {
  $sum: E([{$sum: '$arr'}, 6], [{$sum: ['$i', '$f', 'x']}, F(9.5)]),
  $avg: E([{$avg: '$arr'}, F(2)], [{$avg: []}, null]),
  $min: E([{$min: ['$i', '$f']}, F(2.5)], [{$min: '$arr'}, 1]),
  $max: E([{$max: '$arr'}, 3]),
  $stdDevPop: E([{$stdDevPop: '$arr'}, near(0.816496580927726)]),
  $stdDevSamp: E([{$stdDevSamp: '$arr'}, near(1)]),
  $median: E([{$median: {input: '$arr', method: 'approximate'}}, F(2)]),
  $percentile: E([{$percentile: {input: '$arr', p: [0.5, 1], method: 'approximate'}}, [F(2), F(3)]]),
};

const trigonometry = {
  $sin: E([{$sin: 1}, near(0.8414709848078965)]),
  $cos: E([{$cos: 0}, F(1)]),
  $tan: E([{$tan: 1}, near(1.5574077246549023)]),
  $asin: all(E([{$asin: 1}, near(1.5707963267948966)]), bad([{$asin: 2}, 50989])),
  $acos: all(E([{$acos: 1}, F(0)]), bad([{$acos: 2}, 50989])),
  $atan: E([{$atan: 1}, near(0.7853981633974483)]),
  $atan2: E([{$atan2: [1, -1]}, near(2.356194490192345)]),
  $sinh: E([{$sinh: 1}, near(1.1752011936438014)]),
  $cosh: E([{$cosh: 0}, F(1)]),
  $tanh: E([{$tanh: 1}, near(0.7615941559557649)]),
  $asinh: E([{$asinh: 1}, near(0.881373587019543)]),
  $acosh: all(E([{$acosh: 1}, F(0)]), bad([{$acosh: 0}, 50989])),
  $atanh: all(E([{$atanh: 0.5}, near(0.5493061443340548)]), bad([{$atanh: 2}, 50989])),
  $degreesToRadians: E([{$degreesToRadians: 180}, near(Math.PI)]),
  $radiansToDegrees: E([{$radiansToDegrees: Math.PI}, near(180)]),
};

export default {
  'Expressions: arithmetic': arithmetic,
  'Expressions: comparison, boolean, conditional': comparison,
  'Expressions: array': arrays,
  'Expressions: set': sets,
  'Expressions: string': strings,
  'Expressions: date and timestamp': dates,
  'Expressions: types and conversion': types,
  'Expressions: object, variables, other': other,
  'Expressions: accumulators used as expressions': overArrays,
  'Expressions: trigonometry': trigonometry,
};
