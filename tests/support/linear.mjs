// tests/support/linear.mjs — is a recorded history of one register (one document's field) linearizable?
//
// A history is a list of {type: 'write' | 'read', value, start, end}: times of one clock in any unit; every write has a value of its own. end = Infinity: nobody
// knows whether it happened (an error, no answer): it may take effect at any time after its start, or never. A read without an answer is left out.
// A write with `expected` is a compare-and-swap: it takes effect only on that value. One that was refused did nothing, and is left out.
// The search is Wing and Gong's: an order that respects real time and in which every read gives the last written value, with the visited states remembered
// (Lowe). Exponential only in how many operations overlap.

/** The longest prefix of an order that was found, or null when the whole history is linearizable. */
export function notLinearizable(history, initial = undefined) {
  const read = new Set(history.filter((o) => o.type === 'read' && o.end !== Infinity).map((o) => o.value));
  // A write that nobody knows of and whose value nobody read: an order with it gives one without it.
  const operations = history.filter((o) => o.end !== Infinity || (o.type === 'write' && read.has(o.value))).sort((a, b) => a.start - b.start);
  const certain = operations.filter((o) => o.end !== Infinity).length;
  const done = new Array(operations.length).fill(false);
  const seen = new Set();
  let best = [], order = [];

  function key(value, from) {
    let text = `${from}|${value}|`;
    for (let i = from; i < operations.length; i++) if (done[i]) text += `${i},`;
    return text;
  }

  // Explicit stack: histories may be long. Each frame: candidates at this state, and which is next.
  const candidates = (from) => {
    let earliestEnd = Infinity;
    for (let i = from; i < operations.length && operations[i].start <= earliestEnd; i++) if (!done[i]) earliestEnd = Math.min(earliestEnd, operations[i].end);
    const list = [];
    for (let i = from; i < operations.length && operations[i].start <= earliestEnd; i++) if (!done[i]) list.push(i);
    return list;
  };
  const first = () => {
    let i = 0;
    while (i < operations.length && done[i]) i++;
    return i;
  };
  const stack = [{list: candidates(0), next: 0, value: initial, taken: -1, count: 0}];
  while (stack.length > 0) {
    const frame = stack[stack.length - 1];
    if (frame.count === certain) return null;
    if (frame.next >= frame.list.length) {
      stack.pop();
      if (frame.taken >= 0) {
        done[frame.taken] = false;
        order.pop();
      }
      continue;
    }
    const i = frame.list[frame.next++], o = operations[i];
    if (o.type === 'read' && o.value !== frame.value) continue;
    if ('expected' in o && o.expected !== frame.value) continue;
    const value = o.type === 'write' ? o.value : frame.value;
    done[i] = true;
    const from = first(), state = key(value, from);
    if (seen.has(state)) {
      done[i] = false;
      continue;
    }
    seen.add(state);
    order.push(o);
    if (order.length > best.length) best = [...order];
    stack.push({list: candidates(from), next: 0, value, taken: i, count: frame.count + (o.end === Infinity ? 0 : 1)});
  }
  return best;
}

/** Records what clients do to documents {_id: key, v: value}. Values are unique; times come from one monotonic clock. */
export class Recorder {
  constructor() {
    this.histories = new Map();
    this.counts = {writes: 0, reads: 0, unknown: 0, failedReads: 0};
    this.nextValue = 1;
  }
  history(key) {
    if (!this.histories.has(key)) this.histories.set(key, []);
    return this.histories.get(key);
  }
  /** given.expected: a compare-and-swap. refused(error): it is certain that nothing was written. */
  async write(key, run, given = {}, refused = () => false) {
    const o = {type: 'write', value: this.nextValue++, start: performance.now(), end: Infinity, ...given};
    this.history(key).push(o);
    try {
      await run(o.value);
      o.end = performance.now();
      this.counts.writes++;
    } catch (e) {
      if (refused(e)) this.history(key).splice(this.history(key).indexOf(o), 1);
      else this.counts.unknown++;
      throw e;
    }
  }
  async read(key, run) {
    const start = performance.now();
    try {
      const value = await run();
      this.history(key).push({type: 'read', value, start, end: performance.now()});
      this.counts.reads++;
    } catch (e) {
      this.counts.failedReads++;
      throw e;
    }
  }
  /** Keys whose history is not linearizable, with the longest order that was found. */
  violations(initial = undefined) {
    const out = [];
    for (const [key, history] of this.histories) {
      const best = notLinearizable(history, initial);
      if (best) out.push({key, operations: history.length, best});
    }
    return out;
  }
}
