// tests/support/elle.test.mjs — the checker itself: what it must accept, and each anomaly, planted.
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {anomalies} from './elle.mjs';

const a = (k, v) => ({f: 'append', k, v});
const r = (k, ...v) => ({f: 'r', k, v});
let clock = 0;
const txn = (id, status, ...ops) => ({id, status, ops, start: ++clock, end: ++clock});
const types = (history, options) => [...new Set(anomalies(history, options).map((x) => x.type))].sort();

test('accepts what snapshot isolation allows', () => {
  assert.deepEqual(types([]), []);
  assert.deepEqual(types([txn(1, 'ok', a('x', 1), r('x', 1)), txn(2, 'ok', r('x', 1), a('x', 2), r('x', 1, 2)), txn(3, 'ok', r('x', 1, 2))]), []);
  assert.deepEqual(types([txn(1, 'fail', a('x', 1)), txn(2, 'ok', r('x'))]), []);
  assert.deepEqual(types([txn(1, 'unknown', a('x', 1)), txn(2, 'ok', r('x', 1))]), [], 'it may have been committed');
  assert.deepEqual(types([txn(1, 'ok', r('x'), a('y', 1)), txn(2, 'ok', r('y'), a('x', 2)), txn(3, 'ok', r('x', 2), r('y', 1))]), [], 'write skew');
});

test('finds each anomaly', () => {
  const cases = {
    'G1a': [txn(1, 'fail', a('x', 1)), txn(2, 'ok', r('x', 1))],
    'G1b': [txn(1, 'ok', a('x', 1), a('x', 2)), txn(2, 'ok', r('x', 1)), txn(3, 'ok', r('x', 1, 2))],
    'internal': [txn(1, 'ok', a('x', 1), r('x'))],
    'nobody-wrote': [txn(1, 'ok', r('x', 9))],
    'incompatible-order': [txn(1, 'ok', a('x', 1)), txn(2, 'ok', a('x', 2)), txn(3, 'ok', r('x', 1, 2)), txn(4, 'ok', r('x', 2))],
    'appended-twice': [txn(1, 'ok', a('x', 1)), txn(2, 'ok', a('x', 1))],
    'twice-in-a-list': [txn(1, 'ok', a('x', 1)), txn(3, 'ok', r('x', 1, 1))],
    'G0': [txn(1, 'ok', a('x', 1), a('y', 2)), txn(2, 'ok', a('x', 3), a('y', 4)), txn(3, 'ok', r('x', 1, 3)), txn(4, 'ok', r('y', 4, 2))],
    'G1c': [txn(1, 'ok', a('x', 1), r('y', 2)), txn(2, 'ok', a('y', 2), r('x', 1))],
    // the lost update: both saw nothing, and both appended
    'G-single': [txn(1, 'ok', r('x'), a('x', 1)), txn(2, 'ok', r('x'), a('x', 2)), txn(3, 'ok', r('x', 1, 2))],
    // 1 -rw-> 2 -wr-> 3 -rw-> 4 -wr-> 1
    'G-nonadjacent': [
      txn(1, 'ok', r('x'), r('w', 8)),
      txn(2, 'ok', a('x', 1), a('y', 2)),
      txn(3, 'ok', r('y', 2), r('z')),
      txn(4, 'ok', a('z', 4), a('w', 8)),
      txn(5, 'ok', r('x', 1)),
      txn(6, 'ok', r('z', 4)),
    ],
  };
  for (const [type, history] of Object.entries(cases)) assert.ok(types(history).includes(type), `${type}: found ${JSON.stringify(anomalies(history))}`);
});

test('lost, and too late, with time', () => {
  const lost = [txn(1, 'ok', a('x', 1)), {...txn(2, 'ok', r('x')), final: true}];
  assert.deepEqual(types(lost), ['lost']);
  const stale = [txn(1, 'ok', a('x', 1)), txn(2, 'ok', r('x')), txn(3, 'ok', r('x', 1))];
  assert.deepEqual(types(stale), [], 'one snapshot may be older than another');
  assert.deepEqual(types(stale, {strong: true}), ['G-single']);
});

test('random serial histories pass, each with one wrong read does not; quickly', () => {
  let seed = 4711;
  const random = (n) => ((seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) >>> 8) % n;
  for (let round = 0; round < 20; round++) {
    const lists = {}, history = [];
    let value = 0;
    for (let i = 0; i < 400; i++) {
      const ops = [], undo = JSON.stringify(lists), fails = random(10) === 0;
      for (let n = 1 + random(4); n > 0; n--) {
        const k = `k${random(5)}`;
        lists[k] ??= [];
        if (random(2) === 0) ops.push(r(k, ...lists[k]));
        else lists[k].push(++value), ops.push(a(k, value));
      }
      if (fails) for (const k of Object.keys(lists)) lists[k] = JSON.parse(undo)[k] ?? [];
      history.push(txn(i, fails ? 'fail' : 'ok', ...ops));
    }
    assert.deepEqual(anomalies(history, {strong: true}), [], `round ${round}`);
    const reads = history.filter((t) => t.status === 'ok' && t.ops[0].f === 'r' && t.ops[0].v.length > 1);
    const wrong = reads[random(reads.length)];
    wrong.ops[0].v = wrong.ops[0].v.slice(0, -1);
    assert.notDeepEqual(anomalies(history, {strong: true}), [], `round ${round}: an element is missing in ${wrong.id}`);
  }
});
