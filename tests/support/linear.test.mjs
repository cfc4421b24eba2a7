// tests/support/linear.test.mjs — the checker itself: what it must accept, and what it must find.
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {notLinearizable} from './linear.mjs';

const w = (value, start, end) => ({type: 'write', value, start, end});
const r = (value, start, end) => ({type: 'read', value, start, end});

test('accepts what one register could have done', () => {
  assert.equal(notLinearizable([]), null);
  assert.equal(notLinearizable([w(1, 0, 1), r(1, 2, 3)]), null);
  assert.equal(notLinearizable([w(1, 0, 10), r(undefined, 1, 2), r(1, 3, 4)]), null, 'a write takes effect somewhere inside');
  assert.equal(notLinearizable([w(1, 0, 10), w(2, 0, 10), r(2, 11, 12), r(2, 13, 14)]), null);
  assert.equal(notLinearizable([w(1, 0, 1), w(2, 2, Infinity), r(1, 3, 4), r(2, 5, 6)]), null, 'an unknown write may come late');
  assert.equal(notLinearizable([w(1, 0, 1), w(2, 2, Infinity), r(1, 3, 4)]), null, 'or never');
});

test('finds a lost write, a stale read, a value that comes back', () => {
  assert.notEqual(notLinearizable([w(1, 0, 1), r(undefined, 2, 3)]), null);
  assert.notEqual(notLinearizable([w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)]), null);
  assert.notEqual(notLinearizable([w(1, 0, 10), r(1, 1, 2), r(undefined, 3, 4)]), null);
  assert.notEqual(notLinearizable([w(1, 0, 1), w(2, 2, Infinity), r(2, 3, 4), r(1, 5, 6)]), null);
  assert.notEqual(notLinearizable([r(7, 0, 1)]), null, 'a value that nobody wrote');
});

test('a compare-and-swap takes effect only on the value that it expects', () => {
  const cas = (expected, value, start, end) => ({type: 'write', expected, value, start, end});
  assert.equal(notLinearizable([w(1, 0, 1), cas(1, 2, 2, 3), r(2, 4, 5)]), null);
  assert.equal(notLinearizable([w(1, 0, 1), cas(1, 2, 2, 9), cas(2, 3, 2, 9), r(3, 10, 11)]), null, 'in either order of call');
  assert.notEqual(notLinearizable([w(1, 0, 1), cas(1, 2, 2, 9), cas(1, 3, 2, 9)]), null, 'a lost update');
  assert.notEqual(notLinearizable([w(1, 0, 1), w(2, 2, 3), cas(1, 3, 4, 5)]), null, 'of a stale value');
  assert.equal(notLinearizable([w(1, 0, 1), cas(1, 2, 2, Infinity), cas(1, 3, 4, 5), r(3, 6, 7)]), null, 'unknown: it never happened');
});

test('random histories of a real register pass, one wrong read in each is found; in bounded time', () => {
  let seed = 12345;
  const random = (n) => ((seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) >>> 8) % n;
  for (let round = 0; round < 60; round++) {
    const history = [];
    let value, clock = 0;
    const clients = Array.from({length: 6}, () => 0);
    for (let i = 0; i < 300; i++) {
      const c = random(6), start = Math.max(clients[c], clock - random(20)), at = (clock = Math.max(clock, start) + 1), end = at + random(20);
      clients[c] = end;
      if (random(2) === 0) history.push(w((value = i + 1), start, random(20) === 0 ? Infinity : end));
      else history.push(r(value, start, end));
    }
    assert.equal(notLinearizable(history), null, `round ${round}`);
    const reads = history.filter((o) => o.type === 'read' && o.value !== undefined);
    const wrong = reads[reads.length - 1];
    const last = history.filter((o) => o.type === 'write' && o.end < wrong.start).map((o) => o.value);
    if (last.length > 20) assert.notEqual(notLinearizable(history.map((o) => (o === wrong ? {...o, value: last[2]} : o))), null, `round ${round}: stale read`);
  }
});
