// The filter, update, projection and sort languages through a real node: tables of cases, and real nested data counted a second time in JavaScript.
import assert from 'node:assert/strict';
import {after, before, describe, test} from 'node:test';
import {BSON, Binary, Decimal128, Double, Long, MaxKey, MinKey, ObjectId, Timestamp} from 'mongodb';
import {Node, countries} from '../support/node.mjs';

const {EJSON} = BSON;
let node, client, db;
before(async () => {
  node = await Node.start();
  client = await node.client();
  db = client.db('language');
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const D = (s) => Decimal128.fromString(s);
const L = (n) => Long.fromValue(n);
const show = (x) => EJSON.stringify(x).slice(0, 300);

// ---- filters: one set of documents for each group, every case names the _ids that match ----

const FILTERS = {
  comparison: {
    docs: [
      {_id: 1, v: 1}, {_id: 2, v: new Double(2.5)}, {_id: 3, v: L(3)}, {_id: 4, v: D('4')}, {_id: 5, v: 'text'}, {_id: 6, v: null}, {_id: 7}, {_id: 8, v: true}, {_id: 9, v: false},
      {_id: 10, v: new Date(1000)}, {_id: 11, v: {a: 1}}, {_id: 12, v: [1, 5]}, {_id: 13, v: new Double(NaN)}, {_id: 14, v: []}, {_id: 15, v: new ObjectId('0'.repeat(24))}, {_id: 16, v: new MinKey()},
      {_id: 17, v: new MaxKey()}, {_id: 18, v: /abc/}, {_id: 19, v: new Binary(Buffer.from('ab'))}, {_id: 20, v: new Timestamp({t: 1, i: 1})},
    ],
    cases: [
      [{v: 1}, [1, 12]],
      [{v: L(1)}, [1, 12]],
      [{v: D('1.00')}, [1, 12]],
      [{v: new Double(3)}, [3]],
      [{v: 4}, [4]],
      [{v: {$eq: 2.5}}, [2]],
      [{v: {$gt: 2}}, [2, 3, 4, 12]],
      [{v: {$gte: 1}}, [1, 2, 3, 4, 12]],
      [{v: {$lt: 3}}, [1, 2, 12]],
      [{v: {$lte: 3}}, [1, 2, 3, 12]],
      [{v: {$ne: 1}}, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20]],
      [{v: null}, [6, 7]],
      [{v: {$ne: null}}, [1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]],
      [{v: {$gte: null}}, [6, 7]],
      [{v: {$gt: null}}, []],
      [{v: true}, [8]],
      [{v: {$lt: true}}, [9]],
      [{v: {$gte: false}}, [8, 9]],
      [{v: 'text'}, [5]],
      [{v: {$gt: ''}}, [5]],
      [{v: {$lt: 'u'}}, [5]],
      [{v: new Date(1000)}, [10]],
      [{v: {$lte: new Date()}}, [10]],
      [{v: {a: 1}}, [11]],
      [{v: {a: D('1')}}, [11]],
      [{v: {a: 1, b: 1}}, []],
      [{v: {$gt: {}}}, [11]],
      [{v: [1, 5]}, [12]],
      [{v: [5, 1]}, []],
      [{v: []}, [14]],
      [{v: {$gt: [1]}}, [12]],
      [{v: {$lt: [1]}}, [14]],
      [{v: NaN}, [13]],
      [{v: {$gte: NaN}}, [13]],
      [{v: {$in: [1, 'text', null]}}, [1, 5, 6, 7, 12]],
      [{v: {$in: []}}, []],
      [{v: {$nin: [1, 'text', null]}}, [2, 3, 4, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20]],
      [{v: {$in: [/^te/]}}, [5]],
      [{v: {$in: [[1, 5]]}}, [12]],
      [{v: {$exists: true}}, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]],
      [{v: {$exists: false}}, [7]],
      [{v: {$type: 'number'}}, [1, 2, 3, 4, 12, 13]],
      [{v: {$type: 'int'}}, [1, 12]],
      [{v: {$type: 'long'}}, [3]],
      [{v: {$type: 'double'}}, [2, 13]],
      [{v: {$type: 'decimal'}}, [4]],
      [{v: {$type: 2}}, [5]],
      [{v: {$type: ['string', 'null']}}, [5, 6]],
      [{v: {$type: 'array'}}, [12, 14]],
      [{v: {$type: 'object'}}, [11]],
      [{v: {$type: 'bool'}}, [8, 9]],
      [{v: {$type: 'date'}}, [10]],
      [{v: {$type: -1}}, [16]],
      [{v: {$type: 'maxKey'}}, [17]],
      [{v: {$type: 'regex'}}, [18]],
      [{v: {$type: 'binData'}}, [19]],
      [{v: {$type: 'timestamp'}}, [20]],
      [{v: {$type: 'objectId'}}, [15]],
      [{v: new MinKey()}, [16]],
      [{v: new MaxKey()}, [17]],
      [{v: {$not: {$gt: 2}}}, [1, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20]],
      [{v: {$not: {$exists: true}}}, [7]],
      [{v: {$gt: 1, $lt: 4}}, [2, 3, 12]],
      [{v: /^te/}, [5]],
      [{v: /abc/}, [18]],
      [{v: {$not: /^te/}}, [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]],
      [{v: {$mod: [2, 1]}}, [1, 3, 12]],
      [{v: {$size: 2}}, [12]],
      [{v: {$size: 0}}, [14]],
      [{$or: [{v: 1}, {v: 'text'}]}, [1, 5, 12]],
      [{$and: [{v: {$gt: 1}}, {v: {$lt: 3}}]}, [2, 12]],
      [{$nor: [{v: {$exists: true}}, {_id: 3}]}, [7]],
      [{_id: {$gt: 18}}, [19, 20]],
      [{_id: {$in: [3, 99, 1]}}, [1, 3]],
      [{_id: 5, v: 'text'}, [5]],
      [{_id: 5, v: 'other'}, []],
      [{$comment: 'all', _id: {$lt: 2}}, [1]],
      [{$expr: {$eq: ['$_id', '$v']}}, [1, 3, 4]],
      [{$alwaysTrue: 1, _id: 1}, [1]],
      [{$alwaysFalse: 1}, []],
      [{}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]],
    ],
  },
  paths: {
    docs: [
      {_id: 1, a: {b: 1}}, {_id: 2, a: [{b: 1}, {b: 2}]}, {_id: 3, a: {b: [1, 2, 3]}}, {_id: 4, a: [[{b: 1}]]}, {_id: 5, a: []}, {_id: 6, a: null}, {_id: 7, a: [{c: 1}, 5]}, {_id: 8}, {_id: 9, a: {b: null}},
      {_id: 10, a: [{b: []}, {b: {c: 7}}]}, {_id: 11, a: {0: 'zero', b: 4}}, {_id: 12, a: ['x', 'y']},
    ],
    cases: [
      [{'a.b': 1}, [1, 2, 3]],
      [{'a.b': 2}, [2, 3]],
      [{'a.b': [1, 2, 3]}, [3]],
      [{'a.0.b': 1}, [2, 4]],
      [{'a.1.b': 2}, [2]],
      [{'a.0': 'x'}, [12]],
      [{'a.0': 'zero'}, [11]],
      [{'a.b.0': 1}, [3]],
      [{'a.b.2': {$gt: 2}}, [3]],
      [{'a.b': null}, [6, 7, 8, 9]],
      [{'a.b': {$exists: true}}, [1, 2, 3, 9, 10, 11]],
      [{'a.b': {$exists: false}}, [4, 5, 6, 7, 8, 12]],
      [{'a.b.c': 7}, [10]],
      [{'a.b': {c: 7}}, [10]],
      [{a: {b: 1}}, [1, 2]],
      [{a: {$elemMatch: {b: 1}}}, [2]],
      [{a: {$elemMatch: {b: {$gte: 2}}}}, [2]],
      [{a: {$elemMatch: {$eq: 'x'}}}, [12]],
      [{a: {$elemMatch: {$in: ['y', 5]}}}, [7, 12]],
      [{'a.b': {$elemMatch: {$gt: 2}}}, [3]],
      [{'a.b': {$all: [1, 2]}}, [2, 3]],
      [{'a.b': {$all: [1, 2, 3]}}, [3]],
      [{a: {$all: ['x']}}, [12]],
      [{a: {$all: [{$elemMatch: {b: 1}}, {$elemMatch: {b: 2}}]}}, [2]],
      [{a: {$all: []}}, []],
      [{a: {$size: 2}}, [2, 7, 10, 12]],
      [{'a.b': {$size: 3}}, [3]],
      [{'a.b': {$size: 0}}, [10]],
      [{a: 5}, [7]],
      [{a: {$type: 'array'}}, [2, 4, 5, 7, 10, 12]],
      [{'a.b': {$gt: 1, $lt: 2}}, [2, 3]], // one element satisfies each half
      [{'a.b': {$ne: 1}}, [4, 5, 6, 7, 8, 9, 10, 11, 12]],
      [{'a.b': {$nin: [1, null]}}, [4, 5, 10, 11, 12]],
      [{'a.b': {$not: {$gte: 2}}}, [1, 4, 5, 6, 7, 8, 9, 10, 12]],
      [{a: null}, [6, 8]],
    ],
  },
  arrays: {
    docs: [
      {_id: 1, n: [1, 2, 3]}, {_id: 2, n: [10, 20]}, {_id: 3, n: 15}, {_id: 4, n: [[1, 2], 3]}, {_id: 5, r: [{q: 5, p: 1}, {q: 15, p: 9}]}, {_id: 6, r: [{q: 5, p: 9}]}, {_id: 7, n: [null]}, {_id: 8, n: ['1']},
    ],
    cases: [
      [{n: {$gt: 5, $lt: 8}}, []],
      [{n: {$gt: 15, $lt: 15}}, [2]],
      [{n: {$elemMatch: {$gt: 5, $lt: 15}}}, [2]],
      [{n: [1, 2]}, [4]],
      [{n: {$in: [[1, 2]]}}, [4]],
      [{n: 3}, [1, 4]],
      [{'n.0': 1}, [1]],
      [{'n.0.1': 2}, [4]],
      [{'r.q': 5, 'r.p': 9}, [5, 6]],
      [{r: {$elemMatch: {q: 5, p: 9}}}, [6]],
      [{r: {$elemMatch: {q: {$gt: 10}, p: {$gt: 5}}}}, [5]],
      [{r: {$not: {$elemMatch: {q: 5, p: 9}}}}, [1, 2, 3, 4, 5, 7, 8]],
      [{r: {$elemMatch: {$or: [{q: 15}, {p: 1}]}}}, [5]],
      [{n: null}, [5, 6, 7]],
      [{n: {$elemMatch: {$elemMatch: {$eq: 1}}}}, [4]],
      [{n: {$all: [[1, 2], 3]}}, [4]],
      [{n: {$gte: [10]}}, [2, 4, 8]],
    ],
  },
  text: {
    docs: [{_id: 1, s: 'Hello World'}, {_id: 2, s: 'hello\nworld'}, {_id: 3, s: 'Grüße aus Köln'}, {_id: 4, s: ['one', 'Two']}, {_id: 5, s: 'a.b'}, {_id: 6, s: ''}, {_id: 7, s: 7}, {_id: 8, s: '日本語 🦉'}],
    cases: [
      [{s: /hello/}, [2]],
      [{s: /hello/i}, [1, 2]],
      [{s: {$regex: '^world', $options: 'm'}}, [2]],
      [{s: {$regex: 'hello.world', $options: 's'}}, [2]],
      [{s: {$regex: 'h e l l o  # comment', $options: 'ix'}}, [1, 2]],
      [{s: /^t/i}, [4]],
      [{s: /ü/}, [3]],
      [{s: /GRÜSSE|KÖLN/i}, [3]],
      [{s: {$regex: '^.{5}$'}}, [8]],
      [{s: /a\.b/}, [5]],
      [{s: /^$/}, [6]],
      [{s: {$regex: ''}}, [1, 2, 3, 4, 5, 6, 8]],
      [{s: {$regex: /WORLD/, $options: 'i'}}, [1, 2]],
      [{s: {$in: [/^one$/, /^a/]}}, [4, 5]],
      [{s: {$regex: '(?<=Hello )World'}}, [1]],
      [{s: {$not: {$regex: 'o'}}}, [3, 5, 6, 7, 8]],
      [{s: {$gt: 'H', $lt: 'I'}}, [1]],
    ],
  },
  bits: {
    docs: [{_id: 1, b: 0b1011}, {_id: 2, b: L(0b0100)}, {_id: 3, b: new Double(20)}, {_id: 4, b: new Binary(Buffer.from([0x14]))}, {_id: 5, b: -1}, {_id: 6, b: 'x'}, {_id: 7, b: 2.5}],
    cases: [
      [{b: {$bitsAllSet: 3}}, [1, 5]],
      [{b: {$bitsAllSet: [2]}}, [2, 3, 4, 5]],
      [{b: {$bitsAnySet: [0, 4]}}, [1, 3, 4, 5]],
      [{b: {$bitsAllClear: [0, 1]}}, [2, 3, 4]],
      [{b: {$bitsAnyClear: 3}}, [2, 3, 4]],
      [{b: {$bitsAllSet: new Binary(Buffer.from([0x14]))}}, [3, 4, 5]],
      [{b: {$mod: [4, 0]}}, [2, 3]],
      [{b: {$mod: [5, -1]}}, [5]],
      [{b: {$mod: [4, 3]}}, [1]],
    ],
  },
  expressions: {
    docs: [{_id: 1, a: 5, b: 3, t: ['x', 'y']}, {_id: 2, a: 1, b: 3, t: []}, {_id: 3, a: 2, s: 'Abc'}, {_id: 4, a: [1, 2], b: 2}, {_id: 5, d: new Date('2024-02-29T12:00:00Z')}],
    cases: [
      [{$expr: {$gt: ['$a', '$b']}}, [1, 3, 4]],
      [{$expr: {$lt: ['$a', '$b']}}, [2]],
      [{$expr: {$eq: [{$toLower: '$s'}, 'abc']}}, [3]],
      [{$expr: {$in: ['x', {$ifNull: ['$t', []]}]}}, [1]],
      [{$expr: {$eq: [{$year: '$d'}, 2024]}, d: {$exists: true}}, [5]],
      [{$expr: {$eq: [{$size: {$ifNull: ['$t', []]}}, 2]}}, [1]],
      [{$expr: {$and: [{$gte: ['$a', 1]}, {$eq: ['$b', 3]}]}}, [1, 2]],
      [{$expr: {$cond: [{$isArray: '$a'}, true, false]}}, [4]],
      [{$expr: {$eq: [{$type: '$b'}, 'missing']}}, [3, 5]],
      [{$expr: {$regexMatch: {input: {$ifNull: ['$s', '']}, regex: '^a', options: 'i'}}}, [3]],
      [{$expr: '$b'}, [1, 2, 4]],
      [{$expr: {$anyElementTrue: [{$map: {input: {$ifNull: ['$t', []]}, in: {$eq: ['$$this', 'y']}}}]}}, [1]],
    ],
  },
  schema: {
    docs: [{_id: 1, n: 'x', a: 5}, {_id: 2, n: 7}, {_id: 3, a: [1, 'z']}, {_id: 4, n: 'long name', o: {p: 1}}],
    cases: [
      [{$jsonSchema: {required: ['n']}}, [1, 2, 4]],
      [{$jsonSchema: {properties: {n: {bsonType: 'string'}}}}, [1, 3, 4]],
      [{$jsonSchema: {required: ['n'], properties: {n: {type: 'string', maxLength: 3}}}}, [1]],
      [{$jsonSchema: {properties: {a: {type: 'number', minimum: 6}}, required: ['a']}}, []],
      [{$jsonSchema: {required: ['a'], properties: {a: {type: 'array', items: {type: 'number'}}}}}, []],
      [{$jsonSchema: {required: ['o'], properties: {o: {type: 'object', required: ['p'], additionalProperties: false, properties: {p: {}}}}}}, [4]],
      [{$jsonSchema: {additionalProperties: false, properties: {_id: {}, n: {}}}}, [2]],
      [{$jsonSchema: {properties: {n: {enum: ['x', 7]}}, required: ['n']}}, [1, 2]],
      [{$jsonSchema: {not: {required: ['a']}}}, [2, 4]],
      [{$jsonSchema: {anyOf: [{required: ['o']}, {properties: {n: {pattern: '^x'}}, required: ['n']}]}}, [1, 2, 4]],
    ],
  },
  order: {
    docs: [{_id: 1, d: D('0.1')}, {_id: 2, d: 0.1}, {_id: 3, d: L('9007199254740993')}, {_id: 4, d: 9007199254740992}, {_id: 5, d: D('9007199254740993')}, {_id: 6, d: D('NaN')}, {_id: 7, d: Infinity}, {_id: 8, d: D('1E+400')}, {_id: 9, d: new Double(-0)}],
    cases: [
      [{d: D('0.1')}, [1]],
      [{d: 0.1}, [2]],
      [{d: L('9007199254740993')}, [3, 5]],
      [{d: new Double(9007199254740992)}, [4]],
      [{d: {$gt: new Double(9007199254740992)}}, [3, 5, 7, 8]],
      [{d: {$gt: D('1E+399')}}, [7, 8]],
      [{d: {$lt: Infinity, $gt: 1e308}}, [8]],
      [{d: NaN}, [6]],
      [{d: 0}, [9]],
      [{d: {$gt: 0.1, $lt: 1}}, []],
      [{d: {$gte: 0.1, $lt: 1}}, [2]],
      [{d: {$gte: D('0.1'), $lt: 1}}, [1, 2]],
    ],
  },
};

for (const [group, {docs, cases}] of Object.entries(FILTERS)) {
  test(`filters: ${group} (${cases.length})`, async () => {
    const c = db.collection(`f_${group}`);
    await c.insertMany(docs);
    const wrong = [];
    for (const [filter, want] of cases) {
      try {
        const got = (await c.find(filter, {sort: {_id: 1}}).toArray()).map((d) => d._id);
        assert.deepEqual(got, [...want].sort((a, b) => a - b));
        assert.equal(await c.countDocuments(filter), want.length, 'count');
      } catch (e) {
        wrong.push(`${show(filter)}: ${e.message.slice(0, 400)}`);
      }
    }
    assert.deepEqual(wrong, []);
  });
}

test('filters that are refused, with their codes', async () => {
  const c = db.collection('refused');
  const wrong = [];
  for (const [filter, codes] of [
    [{$wrong: 1}, [2]], [{a: {$wrong: 1}}, [2]], [{a: {$in: 1}}, [2]], [{a: {$nin: {}}}, [2]], [{$and: []}, [2]], [{$or: 1}, [2]], [{$nor: [1]}, [2, 14]], [{a: {$size: 'x'}}, [2, 9]], [{a: {$size: -1}}, [2]],
    [{a: {$mod: [0, 1]}}, [2]], [{a: {$mod: [1]}}, [2]], [{a: {$type: 'nothing'}}, [2]], [{a: {$type: 77}}, [2]], [{a: {$regex: '('}}, [51091, 2]], [{a: {$options: 'i'}}, [2]], [{a: {$regex: 'a', $options: 'q'}}, [51108, 2]],
    [{a: {$elemMatch: 1}}, [2]], [{a: {$all: 1}}, [2]], [{a: {$not: 1}}, [2]], [{a: {$not: {}}}, [2]], [{$where: 'true'}, null], [{$text: {$search: 'x'}}, null], [{a: {$near: [0, 0]}}, null], [{a: {$bitsAllSet: -1}}, [2, 9]],
    [{$expr: {$nothing: 1}}, [168, 31325, 2]], [{$jsonSchema: {type: 'x'}}, [2, 9]], [{$jsonSchema: {wrong: 1}}, [9]], [{a: {$in: [{$gt: 1}]}}, [2]], [{a: {$geoWithin: {}}}, null],
  ]) {
    const code = await c.find(filter).toArray().then(() => 0, (e) => e.code ?? e.message);
    if (code === 0 || (codes && !codes.includes(code))) wrong.push(`${show(filter)}: ${code}`);
  }
  assert.deepEqual(wrong, []);
});

// ---- updates: document, update, what comes out (or the code), and options ----

const UPDATES = [
  [{a: 1}, {$set: {a: 2}}, {a: 2}],
  [{a: 1}, {$set: {'b.c.d': 2}}, {a: 1, b: {c: {d: 2}}}],
  [{a: [1, 2]}, {$set: {'a.4': 5}}, {a: [1, 2, null, null, 5]}],
  [{a: 1}, {$set: {'a.b': 5}}, 28],
  [{a: null}, {$set: {'a.b': 5}}, 28],
  [{a: 1}, {$set: {c: 1, b: 2}}, {a: 1, b: 2, c: 1}],
  [{a: 1}, {$set: {}}, {a: 1}],
  [{a: 1, b: 2}, {$unset: {a: ''}}, {b: 2}],
  [{a: [1, 2, 3]}, {$unset: {'a.1': 1}}, {a: [1, null, 3]}],
  [{a: {b: 1, c: 2}}, {$unset: {'a.b': 1, 'x.y': 1}}, {a: {c: 2}}],
  [{a: 1}, {$inc: {a: 5, b: 2}}, {a: 6, b: 2}],
  [{a: 2147483647}, {$inc: {a: 1}}, {a: L('2147483648')}, {exact: true}],
  [{a: L('9223372036854775807')}, {$inc: {a: 1}}, 2],
  [{a: 1}, {$inc: {a: 0.5}}, {a: 1.5}],
  [{a: 1}, {$inc: {a: D('0.10')}}, {a: D('1.10')}, {exact: true}],
  [{a: 'x'}, {$inc: {a: 1}}, 14],
  [{a: 1}, {$inc: {a: 'x'}}, 14],
  [{a: null}, {$inc: {a: 1}}, 14],
  [{a: 3}, {$mul: {a: 4, b: 7}}, {a: 12, b: 0}],
  [{a: 2.5}, {$mul: {a: 2}}, {a: 5}],
  [{a: 1073741824}, {$mul: {a: 4}}, {a: L('4294967296')}, {exact: true}],
  [{a: 5}, {$min: {a: 3, b: 1}}, {a: 3, b: 1}],
  [{a: 5}, {$min: {a: 7}}, {a: 5}],
  [{a: 5}, {$max: {a: 7}}, {a: 7}],
  [{a: 5}, {$max: {a: 'text'}}, {a: 'text'}],
  [{a: 1, b: 2}, {$rename: {a: 'c'}}, {b: 2, c: 1}],
  [{a: 1, b: 2}, {$rename: {a: 'b'}}, {b: 1}],
  [{a: {x: 1}}, {$rename: {'a.x': 'b.y'}}, {a: {}, b: {y: 1}}],
  [{a: 1}, {$rename: {none: 'b'}}, {a: 1}],
  [{a: [1]}, {$rename: {'a.0': 'b'}}, 2],
  [{a: 1}, {$rename: {a: 'a'}}, 2],
  [{a: [1]}, {$push: {a: 2}}, {a: [1, 2]}],
  [{}, {$push: {a: 2}}, {a: [2]}],
  [{a: 1}, {$push: {a: 2}}, 2],
  [{a: [1]}, {$push: {a: [2, 3]}}, {a: [1, [2, 3]]}],
  [{a: [1]}, {$push: {a: {$each: [2, 3]}}}, {a: [1, 2, 3]}],
  [{a: [1, 2]}, {$push: {a: {$each: [9, 8], $position: 1}}}, {a: [1, 9, 8, 2]}],
  [{a: [1, 2]}, {$push: {a: {$each: [9], $position: -1}}}, {a: [1, 9, 2]}],
  [{a: [1, 2, 3]}, {$push: {a: {$each: [4], $slice: -2}}}, {a: [3, 4]}],
  [{a: [1, 2, 3]}, {$push: {a: {$each: [4], $slice: 2}}}, {a: [1, 2]}],
  [{a: [1, 2, 3]}, {$push: {a: {$each: [], $slice: 0}}}, {a: []}],
  [{a: [3, 1]}, {$push: {a: {$each: [2], $sort: 1}}}, {a: [1, 2, 3]}],
  [{a: [{x: 1, y: 2}, {x: 3, y: 1}]}, {$push: {a: {$each: [{x: 2, y: 1}], $sort: {y: 1, x: -1}, $slice: 2}}}, {a: [{x: 3, y: 1}, {x: 2, y: 1}]}],
  [{a: [1]}, {$push: {a: {$each: 5}}}, 2],
  [{a: [1]}, {$push: {a: {$each: [1], $wrong: 1}}}, 2],
  [{a: [1, 2]}, {$addToSet: {a: 2}}, {a: [1, 2]}],
  [{a: [1, 2]}, {$addToSet: {a: D('2.0')}}, {a: [1, 2]}],
  [{a: [1, 2]}, {$addToSet: {a: {$each: [2, 3, 3]}}}, {a: [1, 2, 3]}],
  [{a: [{x: 1, y: 2}]}, {$addToSet: {a: {y: 2, x: 1}}}, {a: [{x: 1, y: 2}, {y: 2, x: 1}]}],
  [{}, {$addToSet: {a: 1}}, {a: [1]}],
  [{a: 5}, {$addToSet: {a: 1}}, 2],
  [{a: [1, 2, 3]}, {$pop: {a: 1}}, {a: [1, 2]}],
  [{a: [1, 2, 3]}, {$pop: {a: -1}}, {a: [2, 3]}],
  [{a: []}, {$pop: {a: 1}}, {a: []}],
  [{a: 5}, {$pop: {a: 1}}, 14],
  [{a: [1]}, {$pop: {a: 2}}, 9],
  [{a: [1, 2, 1, 3]}, {$pull: {a: 1}}, {a: [2, 3]}],
  [{a: [1, 5, 9]}, {$pull: {a: {$gte: 5}}}, {a: [1]}],
  [{a: [{x: 1, y: 1}, {x: 2}]}, {$pull: {a: {x: 1}}}, {a: [{x: 2}]}],
  [{a: [{x: [1, 2]}, {x: [3]}]}, {$pull: {a: {x: {$in: [3]}}}}, {a: [{x: [1, 2]}]}],
  [{a: ['ab', 'cd']}, {$pull: {a: /^a/}}, {a: ['cd']}],
  [{a: [[1, 2], [3]]}, {$pull: {a: [3]}}, {a: [[1, 2]]}],
  [{a: 5}, {$pull: {a: 1}}, 2],
  [{}, {$pull: {a: 1}}, {}],
  [{a: [1, 2, 1, 3]}, {$pullAll: {a: [1, 3]}}, {a: [2]}],
  [{a: 13}, {$bit: {a: {and: 10}}}, {a: 8}],
  [{a: 5}, {$bit: {a: {or: 2}}}, {a: 7}],
  [{a: 5}, {$bit: {a: {xor: 1}}}, {a: 4}],
  [{a: 1.5}, {$bit: {a: {xor: 1}}}, 2],
  [{}, {$bit: {a: {or: 4}}}, {a: 4}],
  [{a: [1, 2, 3]}, {$set: {'a.$[]': 0}}, {a: [0, 0, 0]}],
  [{a: [1, 5, 9]}, {$set: {'a.$[x]': 0}}, {a: [1, 0, 0]}, {arrayFilters: [{x: {$gt: 3}}]}],
  [{a: [{k: 1, t: [1, 2]}, {k: 2, t: [3]}]}, {$inc: {'a.$[o].t.$[i]': 10}}, {a: [{k: 1, t: [1, 12]}, {k: 2, t: [3]}]}, {arrayFilters: [{'o.k': 1}, {i: 2}]}],
  [{a: [1]}, {$set: {'a.$[x]': 0}}, 2],
  [{a: [1]}, {$set: {b: 1}}, 9, {arrayFilters: [{x: 1}]}],
  [{a: [5, 8, 5]}, {$set: {'a.$': 0}}, {a: [0, 8, 5]}, {filter: {a: 5}}],
  [{a: [{b: 1}, {b: 2}]}, {$set: {'a.$.c': 9}}, {a: [{b: 1}, {b: 2, c: 9}]}, {filter: {'a.b': 2}}],
  [{a: [{b: 1}, {b: 2}]}, {$unset: {'a.$': 1}}, {a: [{b: 1}, null]}, {filter: {a: {$elemMatch: {b: 2}}}}],
  [{a: [1]}, {$set: {'a.$': 1}}, 2],
  [{a: 1}, {$set: {a: 1}, $inc: {a: 1}}, 40],
  [{a: 1}, {$set: {'b.c': 1, b: 2}}, 40],
  [{a: 1}, {$set: {'': 1}}, 56],
  [{a: 1}, {$set: {'a..b': 1}}, 56],
  [{a: 1}, {$set: 5}, 9],
  [{a: 1}, {$nothing: {a: 1}}, 9],
  [{a: 1}, {$set: {_id: 'other'}}, 66],
  [{a: 1}, {$setOnInsert: {b: 1}}, {a: 1}],
  [{a: 1}, {$set: {$x: 1}}, {a: 1, $x: 1}, {either: [52]}],
  [{a: 3, b: 4}, [{$set: {c: {$sqrt: {$add: [{$pow: ['$a', 2]}, {$pow: ['$b', 2]}]}}}}], {a: 3, b: 4, c: 5}],
  [{a: 3}, [{$unset: 'a'}], {}],
  [{a: {b: 1}}, [{$replaceWith: {$mergeObjects: ['$$ROOT', '$a']}}], {a: {b: 1}, b: 1}],
  [{a: [3, 1, 2]}, [{$set: {a: {$sortArray: {input: '$a', sortBy: 1}}}}], {a: [1, 2, 3]}],
  [{s: 'abc'}, [{$set: {s: {$toUpper: '$s'}, n: {$strLenCP: '$s'}}}], {s: 'ABC', n: 3}],
  [{a: 1}, [{$set: {a: '$$NOW'}}, {$set: {a: {$type: '$a'}}}], {a: 'date'}],
  [{a: 1}, [{$match: {a: 1}}], 9, {either: [40324, 72, 9, 51]}],
  [{a: 1}, [{$set: {b: {$nothing: 1}}}], 168, {either: [31325]}],
  [{a: 1, b: 1}, [{$project: {a: 1}}], {a: 1}],
];

test(`updates (${UPDATES.length})`, async () => {
  const c = db.collection('updates');
  const wrong = [];
  for (const [i, [doc, update, want, options = {}]] of UPDATES.entries()) {
    const {filter = {}, arrayFilters, exact, either} = options;
    await c.insertOne({_id: i, ...doc});
    try {
      const r = await db.command({update: 'updates', updates: [{q: {_id: i, ...filter}, u: update, ...(arrayFilters ? {arrayFilters} : {})}]}, {promoteValues: !exact}).catch((e) => ({writeErrors: [e]}));
      const code = r.writeErrors?.[0]?.code ?? 0;
      if (typeof want === 'number') {
        assert.ok(code === want || either?.includes(code), `code ${code}, not ${want}`);
        assert.deepEqual(await c.findOne({_id: i}), {_id: i, ...doc}, 'a refused update changes nothing');
      } else if (code !== 0) {
        assert.ok(either?.includes(code), `code ${code}: ${r.writeErrors[0].errmsg ?? r.writeErrors[0].message}`);
      } else if (exact) {
        const back = await c.findOne({_id: i}, {promoteValues: false});
        for (const [k, v] of Object.entries(want)) {
          assert.equal(back[k]._bsontype, v._bsontype, 'type');
          assert.equal(back[k].toString(), v.toString());
        }
      } else {
        assert.deepEqual(await c.findOne({_id: i}), {_id: i, ...want});
      }
    } catch (e) {
      wrong.push(`${show(doc)} ${show(update)}: ${e.message.slice(0, 500)}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('field order: new fields of $set go to the end, sorted by name; existing ones keep their place', async () => {
  const c = db.collection('order_of_fields');
  await c.insertOne({_id: 1, z: 1});
  await c.updateOne({}, {$set: {b: 1, a: 1}});
  await c.updateOne({}, {$set: {z: 2}});
  assert.deepEqual(Object.entries(await c.findOne()), [['_id', 1], ['z', 2], ['a', 1], ['b', 1]]);
});

test('$currentDate sets dates and timestamps of now', async () => {
  const c = db.collection('now');
  await c.insertOne({_id: 1});
  await c.updateOne({}, {$currentDate: {d: true, e: {$type: 'date'}, t: {$type: 'timestamp'}}});
  const d = await c.findOne();
  assert.ok(Math.abs(d.d - Date.now()) < 10000 && d.e instanceof Date);
  assert.equal(d.t._bsontype, 'Timestamp');
  assert.ok(Math.abs(d.t.getHighBits() - Date.now() / 1000) < 10);
});

test('upserts: what the new document is made of', async () => {
  const c = db.collection('upserts');
  const wrong = [];
  for (const [filter, update, want] of [
    [{_id: 1, a: 5}, {$set: {b: 1}}, {_id: 1, a: 5, b: 1}],
    [{_id: 2, a: {$gt: 5}}, {$set: {b: 1}}, {_id: 2, b: 1}],
    [{_id: 3, a: {$eq: 5}}, {$inc: {a: 1}}, {_id: 3, a: 6}],
    [{_id: 4, 'a.b': 5, 'a.c': 6}, {$set: {'a.d': 7}}, {_id: 4, a: {b: 5, c: 6, d: 7}}],
    [{$and: [{_id: 5}, {x: 1}]}, {$set: {y: 2}}, {_id: 5, x: 1, y: 2}],
    [{_id: 6, $or: [{x: 1}]}, {$set: {y: 2}}, {_id: 6, x: 1, y: 2}],
    [{_id: 7, $or: [{x: 1}, {x: 2}]}, {$set: {y: 2}}, {_id: 7, y: 2}],
    [{_id: 9, a: {$all: [3]}}, {$push: {y: 2}}, {_id: 9, a: 3, y: [2]}],
    [{_id: 10, t: 5}, {r: 1}, {_id: 10, r: 1}],
    [{a: 55}, {_id: 11, r: 1}, {_id: 11, r: 1}],
    [{_id: 12, a: 5}, [{$set: {b: {$add: ['$a', 1]}}}], {_id: 12, a: 5, b: 6}],
    [{_id: 13}, {$setOnInsert: {s: 1}, $set: {t: 1}}, {_id: 13, s: 1, t: 1}],
    [{_id: 14, a: 1, 'a.b': 2}, {$set: {c: 1}}, null],
    [{_id: 15}, {$unset: {x: 1}}, {_id: 15}],
    [{_id: {$gt: 100}, k: 'free'}, {$set: {_id: 16}}, {_id: 16, k: 'free'}],
  ]) {
    const r = await db.command({update: 'upserts', updates: [{q: filter, u: update, upsert: true}]}).catch((e) => ({writeErrors: [e]}));
    try {
      if (want === null) assert.ok(r.writeErrors?.length > 0, 'taken');
      else {
        assert.equal(r.writeErrors, undefined, JSON.stringify(r.writeErrors));
        assert.equal(r.upserted?.length, 1);
        assert.deepEqual(await c.findOne({_id: want._id}), want);
      }
    } catch (e) {
      wrong.push(`${show(filter)} ${show(update)}: ${e.message.slice(0, 400)}`);
    }
  }
  assert.deepEqual(wrong, []);
});

// ---- projections ----

const DOC = {_id: 1, a: 1, b: {c: 2, d: {e: 3, f: 4}}, l: [1, 2, 3, 4, 5], o: [{x: 1, y: 1}, {x: 2, y: 2}, {x: 3}, 7], s: 'text'};
const PROJECTIONS = [
  [{}, DOC],
  [{a: 1}, {_id: 1, a: 1}],
  [{a: true, _id: false}, {a: 1}],
  [{_id: 0}, (({_id, ...d}) => d)(DOC)],
  [{_id: 1}, {_id: 1}],
  [{'b.d.e': 1}, {_id: 1, b: {d: {e: 3}}}],
  [{b: {d: {f: 1}}}, {_id: 1, b: {d: {f: 4}}}],
  [{'b.d': 0, l: 0, o: 0, s: 0}, {_id: 1, a: 1, b: {c: 2}}],
  [{'o.x': 1}, {_id: 1, o: [{x: 1}, {x: 2}, {x: 3}]}],
  [{'o.x': 0, b: 0, l: 0, a: 0, s: 0}, {_id: 1, o: [{y: 1}, {y: 2}, {}, 7]}],
  [{l: {$slice: 2}, o: 0, b: 0}, {_id: 1, a: 1, l: [1, 2], s: 'text'}],
  [{l: {$slice: -2}, a: 1}, {_id: 1, a: 1, l: [4, 5]}],
  [{l: {$slice: [1, 2]}, a: 1}, {_id: 1, a: 1, l: [2, 3]}],
  [{l: {$slice: [-3, 2]}, a: 1}, {_id: 1, a: 1, l: [3, 4]}],
  [{l: {$slice: [10, 2]}, a: 1}, {_id: 1, a: 1, l: []}],
  [{o: {$elemMatch: {x: {$gt: 1}}}}, {_id: 1, o: [{x: 2, y: 2}]}],
  [{o: {$elemMatch: {x: 99}}}, {_id: 1}],
  [{'o.$': 1}, {_id: 1, o: [{x: 2, y: 2}]}, {'o.x': 2}],
  [{'l.$': 1}, {_id: 1, l: [4]}, {l: {$gt: 3}}],
  [{sum: {$add: ['$a', '$b.c']}}, {_id: 1, sum: 3}],
  [{a: 1, first: {$first: '$l'}, lit: {$literal: 1}}, {_id: 1, a: 1, first: 1, lit: 1}],
  [{t: '$s', _id: 0}, {t: 'text'}],
  [{a: {$multiply: ['$a', 10]}}, {_id: 1, a: 10}],
  [{none: 1}, {_id: 1}],
  [{'b.c': 1, a: 1, _id: 0}, {a: 1, b: {c: 2}}],
  [{big: {$filter: {input: '$l', cond: {$gt: ['$$this', 3]}}}, _id: 0}, {big: [4, 5]}],
  [{a: 1, b: 0}, 31254],
  [{b: 0, a: 1}, 31253],
  [{a: 1, 'a.b': 1}, 31249],
  [{'o.$': 1}, 31277, {}],
  [{'o.$': 1, 'l.$': 1}, 31276, {'o.x': 2}],
  [{a: {$nothing: 1}}, 168],
  [{'': 1}, 40352],
  [{'a.': 1}, 40353],
  [{$a: 1}, 16410],
  [{l: {$slice: 'x'}}, 28667],
];

test(`projections (${PROJECTIONS.length})`, async () => {
  const c = db.collection('projections');
  await c.insertOne(DOC);
  const wrong = [];
  for (const [projection, want, filter = {}] of PROJECTIONS) {
    const got = await c.findOne(filter, {projection}).catch((e) => e);
    try {
      if (typeof want === 'number') {
        assert.ok(got instanceof Error, `taken: ${show(got)}`);
        if (got.code !== want && !['$slice', '$a'].some((x) => JSON.stringify(projection).includes(x)) && got.code !== 31325) assert.equal(got.code, want, got.message);
      } else {
        if (got instanceof Error) throw got;
        assert.deepEqual(got, want);
      }
    } catch (e) {
      wrong.push(`${show(projection)}: ${e.message.slice(0, 400)}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('inclusion keeps the order of the document, computed fields come after', async () => {
  const c = db.collection('projection_order');
  await c.insertOne({z: 1, _id: 1, m: 2, a: 3});
  assert.deepEqual(Object.keys(await c.findOne({}, {projection: {a: 1, z: 1, k: {$literal: 1}}})), ['_id', 'z', 'a', 'k']);
});

// ---- sorts ----

test('sort: types in BSON order, arrays by their least or greatest element, missing as null', async () => {
  const c = db.collection('sorts');
  const values = [
    new MinKey(), undefined, null, new Double(NaN), D('-5'), 1, L(2), 2.5, 'A', 'a', {a: 1}, {a: 2}, {b: 0}, new Binary(Buffer.from('z')), new Binary(Buffer.from('aa')), new ObjectId('0'.repeat(24)), false, true, new Date(5), new Timestamp({t: 1, i: 0}), /x/,
    new MaxKey(),
  ];
  const docs = values.map((v, i) => (v === undefined ? {_id: i} : {_id: i, v}));
  await c.insertMany([...docs].reverse());
  const up = (await c.find().sort({v: 1, _id: 1}).toArray()).map((d) => d._id);
  assert.deepEqual(up, docs.map((d) => d._id));
  const down = (await c.find().sort({v: -1, _id: -1}).toArray()).map((d) => d._id);
  assert.deepEqual(down, docs.map((d) => d._id).reverse());

  const a = db.collection('sort_arrays');
  await a.insertMany([{_id: 1, v: [5, 1]}, {_id: 2, v: 3}, {_id: 3, v: []}, {_id: 4, v: [9]}, {_id: 5}, {_id: 6, v: {x: [4, 2]}}, {_id: 7, v: [{x: 3}, {x: 8}]}]);
  assert.deepEqual((await a.find({_id: {$lte: 5}}).sort({v: 1, _id: 1}).toArray()).map((d) => d._id), [3, 5, 1, 2, 4]);
  assert.deepEqual((await a.find({_id: {$lte: 5}}).sort({v: -1, _id: 1}).toArray()).map((d) => d._id), [4, 1, 2, 5, 3]);
  assert.deepEqual((await a.find({_id: {$gte: 6}}).sort({'v.x': 1}).toArray()).map((d) => d._id), [6, 7]);
  assert.deepEqual((await a.find({_id: {$gte: 6}}).sort({'v.x': -1}).toArray()).map((d) => d._id), [7, 6]);
  for (const [sort, codes] of [[{v: 2}, [15975]], [{v: 'x'}, [15974]], [{'': 1}, [2, 40352]], [{v: {$meta: 'textScore'}}, null], [{$a: 1}, null]]) {
    const code = await db.command({find: 'sorts', sort}).then(() => 0, (e) => e.code);
    assert.ok(code !== 0 && (!codes || codes.includes(code)), `${show(sort)}: ${code}`);
  }
});

test('a sort of 44,000 with a limit, and one over 100 MB, which needs the disk', {timeout: 120000}, async () => {
  const c = db.collection('sort_large');
  const pad = 'x'.repeat(2500);
  const values = [...Array(44000).keys()].map((k) => (k * 7919) % 49999);
  for (let i = 0; i < 44000; i += 4000) await c.insertMany(values.slice(i, i + 4000).map((v, k) => ({_id: i + k, v, pad})));
  assert.deepEqual((await c.find({}, {projection: {_id: 0, v: 1}}).sort({v: -1}).limit(3).toArray()).map((d) => d.v), values.sort((a, b) => b - a).slice(0, 3));
  const e = await c.find().sort({v: 1}).allowDiskUse(false).toArray().catch((x) => x);
  assert.equal(e.code, 292);
  let last = -1, count = 0;
  for await (const d of c.find().sort({v: 1})) {
    assert.ok(d.v >= last);
    last = d.v;
    count++;
  }
  assert.equal(count, 44000);
  await c.drop();
});

// ---- real nested data: every count also in JavaScript ----

describe('countries of the world', () => {
  const all = countries().map((d, i) => ({_id: d.cca3 ?? i, ...d}));
  let c;
  before(async () => {
    c = db.collection('countries');
    await c.insertMany(all);
  });
  const Q = [
    [{region: 'Europe'}, (d) => d.region === 'Europe'],
    [{landlocked: true, region: {$ne: 'Africa'}}, (d) => d.landlocked && d.region !== 'Africa'],
    [{area: {$gt: 1e6}}, (d) => d.area > 1e6],
    [{area: {$gte: 100, $lt: 1000}}, (d) => d.area >= 100 && d.area < 1000],
    [{'name.common': /^S/}, (d) => /^S/.test(d.name.common)],
    [{'name.common': /land$/i}, (d) => /land$/i.test(d.name.common)],
    [{'languages.eng': 'English'}, (d) => d.languages?.eng === 'English'],
    [{'languages.deu': {$exists: true}}, (d) => d.languages?.deu !== undefined],
    [{'currencies.EUR': {$exists: true}}, (d) => d.currencies?.EUR !== undefined],
    [{'currencies.EUR.symbol': '€'}, (d) => d.currencies?.EUR?.symbol === '€'],
    [{borders: 'DEU'}, (d) => d.borders.includes('DEU')],
    [{borders: {$all: ['DEU', 'FRA']}}, (d) => ['DEU', 'FRA'].every((x) => d.borders.includes(x))],
    [{borders: {$size: 0}}, (d) => d.borders.length === 0],
    [{borders: []}, (d) => d.borders.length === 0],
    [{'borders.7': {$exists: true}}, (d) => d.borders.length > 7],
    [{borders: {$in: ['CHN', 'RUS']}, landlocked: true}, (d) => d.landlocked && d.borders.some((b) => ['CHN', 'RUS'].includes(b))],
    [{borders: {$nin: ['CHN', 'RUS']}}, (d) => !d.borders.some((b) => ['CHN', 'RUS'].includes(b))],
    [{capital: {$size: 2}}, (d) => d.capital?.length === 2],
    [{tld: /^\.a/}, (d) => d.tld?.some((t) => /^\.a/.test(t))],
    [{'latlng.0': {$gt: 60}}, (d) => d.latlng[0] > 60],
    [{latlng: {$elemMatch: {$gt: 100, $lt: 120}}}, (d) => d.latlng.some((x) => x > 100 && x < 120)],
    [{'translations.deu.common': {$gt: 'V'}}, (d) => Buffer.compare(Buffer.from(d.translations?.deu?.common ?? ''), Buffer.from('V')) > 0],
    [{independent: {$ne: true}}, (d) => d.independent !== true],
    [{unMember: false, region: 'Americas'}, (d) => d.unMember === false && d.region === 'Americas'],
    [{$or: [{region: 'Oceania'}, {subregion: /Europe$/}]}, (d) => d.region === 'Oceania' || /Europe$/.test(d.subregion)],
    [{$nor: [{region: 'Europe'}, {region: 'Asia'}, {area: {$lt: 1000}}]}, (d) => d.region !== 'Europe' && d.region !== 'Asia' && !(d.area < 1000)],
    [{$expr: {$eq: ['$cca2', {$substrCP: ['$cca3', 0, 2]}]}}, (d) => d.cca2 === d.cca3.slice(0, 2)],
    [{$expr: {$gt: [{$size: '$borders'}, 5]}}, (d) => d.borders.length > 5],
    [{$expr: {$gt: [{$size: {$objectToArray: '$languages'}}, 3]}}, (d) => Object.keys(d.languages ?? {}).length > 3],
    [{$expr: {$eq: ['$name.common', '$name.official']}}, (d) => d.name.common === d.name.official],
    [{$jsonSchema: {required: ['capital'], properties: {capital: {bsonType: 'array', maxItems: 0}}}}, (d) => Array.isArray(d.capital) && d.capital.length === 0],
    [{area: {$not: {$gt: 500}}}, (d) => !(d.area > 500)],
    [{ccn3: ''}, (d) => d.ccn3 === ''],
    [{ccn3: {$type: 'string'}, area: {$mod: [10, 0]}}, (d) => typeof d.ccn3 === 'string' && Math.trunc(d.area) % 10 === 0],
    [{_id: {$gte: 'D', $lt: 'G'}}, (d) => d._id >= 'D' && d._id < 'G'],
    [{'callingCodes': '+1'}, (d) => d.callingCodes?.includes('+1')],
    [{'idd.suffixes': {$size: 1}}, (d) => d.idd?.suffixes?.length === 1],
    [{'demonyms.eng.m': /ese$/}, (d) => /ese$/.test(d.demonyms?.eng?.m)],
    [{status: {$nin: ['officially-assigned']}}, (d) => d.status !== 'officially-assigned'],
  ];
  test(`filters (${Q.length}) agree with JavaScript`, async () => {
    const wrong = [];
    for (const [filter, keep] of Q) {
      const want = all.filter(keep).map((d) => d._id).sort();
      const got = await c.find(filter, {projection: {_id: 1}}).toArray().then((r) => r.map((d) => d._id).sort(), (e) => e.message);
      if (JSON.stringify(got) !== JSON.stringify(want)) wrong.push(`${show(filter)}: got ${got.length} (${String(got).slice(0, 60)}), want ${want.length}`);
    }
    assert.deepEqual(wrong, []);
    assert.ok(Q.filter(([, keep]) => all.some(keep)).length > Q.length - 3, 'the cases say something');
  });
  test('documents come back equal, in order of _id', async () => {
    const got = await c.find().toArray();
    const sorted = [...all].sort((a, b) => (a._id < b._id ? -1 : 1));
    assert.deepEqual(got, sorted);
  });
  test('sorts agree with JavaScript', async () => {
    const bytes = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b));
    assert.deepEqual((await c.find().sort({area: -1, _id: 1}).limit(20).toArray()).map((d) => d._id), [...all].sort((a, b) => b.area - a.area || bytes(a._id, b._id)).slice(0, 20).map((d) => d._id));
    assert.deepEqual((await c.find().sort({region: 1, 'name.common': -1}).toArray()).map((d) => d._id), [...all].sort((a, b) => bytes(a.region, b.region) || bytes(b.name.common, a.name.common)).map((d) => d._id));
    const least = (d) => (d.borders.length === 0 ? '' : [...d.borders].sort()[0]);
    assert.deepEqual((await c.find({'borders.0': {$exists: true}}).sort({borders: 1, _id: 1}).toArray()).map((d) => d._id), all.filter((d) => d.borders.length).sort((a, b) => bytes(least(a), least(b)) || bytes(a._id, b._id)).map((d) => d._id));
  });
  test('groups agree with JavaScript', async () => {
    const want = {};
    for (const d of all) {
      want[d.region] ??= {n: 0, area: 0};
      want[d.region].n++;
      want[d.region].area += d.area;
    }
    const got = await c.aggregate([{$group: {_id: '$region', n: {$sum: 1}, area: {$sum: '$area'}}}, {$sort: {_id: 1}}]).toArray();
    assert.deepEqual(got.map((g) => g._id), Object.keys(want).sort());
    for (const g of got) {
      assert.equal(g.n, want[g._id].n);
      assert.ok(Math.abs(g.area - want[g._id].area) < 1e-3);
    }
    assert.deepEqual((await c.distinct('subregion')).length, new Set(all.map((d) => d.subregion)).size);
    assert.deepEqual((await c.distinct('borders')).sort(), [...new Set(all.flatMap((d) => d.borders))].sort());
  });
  test('updates over all of them agree with JavaScript', async () => {
    const r = await c.updateMany({borders: 'DEU'}, {$push: {notes: {$each: [{about: 'neighbour'}], $position: 0}}, $inc: {seen: 1}});
    assert.equal(r.modifiedCount, all.filter((d) => d.borders.includes('DEU')).length);
    assert.equal(await c.countDocuments({notes: {$elemMatch: {about: 'neighbour'}}, seen: 1}), r.modifiedCount);
    await c.updateMany({}, [{$set: {density: {$cond: [{$gt: ['$area', 0]}, {$divide: [{$size: '$borders'}, '$area']}, null]}}}]);
    const d = await c.findOne({_id: 'AUT'});
    const js = all.find((x) => x._id === 'AUT');
    assert.ok(Math.abs(d.density - js.borders.length / js.area) < 1e-12);
    const p = await c.updateMany({}, {$pull: {borders: {$in: ['DEU', 'FRA']}}});
    assert.equal(p.modifiedCount, all.filter((x) => x.borders.some((b) => ['DEU', 'FRA'].includes(b))).length);
    assert.equal(await c.countDocuments({borders: {$in: ['DEU', 'FRA']}}), 0);
    const u = await c.updateMany({'translations.deu': {$exists: true}}, {$rename: {'translations.deu': 'german'}, $unset: {'name.native': ''}});
    assert.equal(u.matchedCount, all.filter((x) => x.translations?.deu).length);
    assert.equal(await c.countDocuments({'name.native': {$exists: true}}), all.filter((x) => x.name.native !== undefined && !x.translations?.deu).length);
  });
});
