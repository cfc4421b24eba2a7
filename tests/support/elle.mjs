// tests/support/elle.mjs — does a recorded history of transactions over lists obey snapshot isolation? After Kingsbury and Alvaro,
// "Elle: Inferring Isolation Anomalies from Experimental Observations": values are only ever appended, each once, so that what a read
// shows tells the order of all versions before it.
//
// A transaction: {id, status: 'ok' | 'fail' | 'unknown', ops: [{f: 'append', k, v} | {f: 'r', k, v: [...]}], start, end}.
// 'fail' was surely aborted; 'unknown' may have been committed.
// Anomalies (Adya): dirty and intermediate reads (G1a, G1b), versions that don't follow one another, appends that are lost, reads that
// miss the transaction's own appends; and cycles of write (ww), read (wr) and anti-dependencies (rw): G0 (ww alone), G1c (ww, wr),
// G-single (one rw), G-nonadjacent (several rw, no two in a row). Those with two rw in a row are write skew, which snapshot isolation
// allows. strong: what ended before another began counts as a dependency too (rt).

/** [] or what is wrong: {type, ...}. */
export function anomalies(history, {strong = false} = {}) {
  const found = [];
  const writers = new Map(); // "k:v" -> transaction
  for (const t of history)
    for (const op of t.ops)
      if (op.f === 'append') {
        if (writers.has(key(op))) found.push({type: 'appended-twice', k: op.k, v: op.v});
        writers.set(key(op), t);
      }
  const alive = history.filter((t) => t.status !== 'fail');
  for (const t of alive) checkReads(t, writers, found);
  const orders = versionOrders(alive, found);
  checkLost(alive, orders, found);
  const graph = dependencies(alive, orders, writers);
  if (strong) realTime(alive, graph);
  const cycle = forbiddenCycle(alive, graph);
  if (cycle) found.push(cycle);
  return found;
}

const key = ({k, v}) => `${k}:${v}`;
const last = (list) => list[list.length - 1];

function checkReads(t, writers, found) {
  const own = new Map(); // key -> values appended so far
  const seen = new Map(); // key -> what a read showed, with the own appends since
  for (const op of t.ops) {
    if (op.f === 'append') {
      own.set(op.k, [...(own.get(op.k) ?? []), op.v]);
      if (seen.has(op.k)) seen.set(op.k, [...seen.get(op.k), op.v]);
      continue;
    }
    const mine = own.get(op.k) ?? [];
    if (mine.some((v, i) => op.v[op.v.length - mine.length + i] !== v) || (seen.has(op.k) && !same(seen.get(op.k), op.v)))
      found.push({type: 'internal', id: t.id, k: op.k, read: op.v, expected: seen.get(op.k) ?? mine});
    seen.set(op.k, op.v);
    for (const v of op.v) {
      const writer = writers.get(key({k: op.k, v}));
      if (!writer) found.push({type: 'nobody-wrote', id: t.id, k: op.k, v});
      else if (writer.status === 'fail') found.push({type: 'G1a', id: t.id, k: op.k, v, writer: writer.id});
    }
    const newest = last(op.v), writer = newest === undefined ? undefined : writers.get(key({k: op.k, v: newest}));
    if (writer && writer !== t && last(writer.ops.filter((o) => o.f === 'append' && o.k === op.k)).v !== newest)
      found.push({type: 'G1b', id: t.id, k: op.k, v: newest, writer: writer.id});
  }
}

const same = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);

/** key -> the longest list read; every other one must be its beginning (own appends at the end of a read are versions of their own). */
function versionOrders(alive, found) {
  const orders = new Map();
  const reads = [];
  for (const t of alive) {
    if (t.status !== 'ok') continue; // what it read may have been rolled back with it
    for (const op of t.ops) if (op.f === 'r') reads.push({t, op});
  }
  for (const {op} of reads) if (op.v.length > (orders.get(op.k)?.length ?? -1)) orders.set(op.k, op.v);
  for (const {t, op} of reads) {
    const order = orders.get(op.k);
    if (op.v.some((v, i) => order[i] !== v)) found.push({type: 'incompatible-order', id: t.id, k: op.k, read: op.v, order});
    if (new Set(op.v).size !== op.v.length) found.push({type: 'twice-in-a-list', id: t.id, k: op.k, read: op.v});
  }
  return orders;
}

/** What was acknowledged must be in a list that was read after it: the longest, where that was read last of all. */
function checkLost(alive, orders, found) {
  const newest = Math.max(...alive.map((t) => t.start ?? 0));
  const finals = new Set(alive.filter((t) => t.final && t.start === newest).flatMap((t) => t.ops.map((o) => o.k)));
  for (const t of alive)
    if (t.status === 'ok')
      for (const op of t.ops)
        if (op.f === 'append' && finals.has(op.k) && !orders.get(op.k).includes(op.v)) found.push({type: 'lost', id: t.id, k: op.k, v: op.v});
}

/** edges[i]: Map of j -> Set of kinds. */
function dependencies(alive, orders, writers) {
  const index = new Map(alive.map((t, i) => [t, i]));
  const edges = alive.map(() => new Map());
  const link = (a, b, kind) => {
    const i = index.get(a), j = index.get(b);
    if (i === undefined || j === undefined || i === j) return;
    if (!edges[i].has(j)) edges[i].set(j, new Set());
    edges[i].get(j).add(kind);
  };
  for (const [k, order] of orders)
    for (let i = 1; i < order.length; i++) link(writers.get(key({k, v: order[i - 1]})), writers.get(key({k, v: order[i]})), 'ww');
  for (const t of alive) {
    if (t.status !== 'ok') continue;
    for (const op of t.ops) {
      if (op.f !== 'r') continue;
      if (op.v.length > 0) link(writers.get(key({k: op.k, v: last(op.v)})), t, 'wr');
      const next = orders.get(op.k)[op.v.length]; // the first version that it did not see
      if (next !== undefined) link(t, writers.get(key({k: op.k, v: next})), 'rw');
    }
  }
  return edges;
}

/** To those that began after it had ended, but not after another of them had ended. */
function realTime(alive, edges) {
  const order = alive.map((t, i) => [t.start, i]).sort((a, b) => a[0] - b[0]);
  for (const [i, t] of alive.entries()) {
    if (t.status !== 'ok') continue;
    let until = Infinity;
    for (const [start, j] of order) {
      if (start <= t.end) continue;
      if (start > until) break;
      if (!edges[i].has(j)) edges[i].set(j, new Set());
      edges[i].get(j).add('rt');
      if (alive[j].status === 'ok') until = Math.min(until, alive[j].end);
    }
  }
}

/** A cycle without two rw in a row is one in the graph of states (transaction, came by rw), where only state 0 goes on by rw. */
function forbiddenCycle(alive, edges) {
  const plain = edges.map((to) => [...to].filter(([, kinds]) => [...kinds].some((k) => k !== 'rw')).map(([j]) => j));
  const anti = edges.map((to) => [...to].filter(([, kinds]) => kinds.has('rw')).map(([j]) => j));
  const next = (s) => {
    const i = s >> 1;
    return [...plain[i].map((j) => j << 1), ...((s & 1) === 0 ? anti[i].map((j) => (j << 1) | 1) : [])];
  };
  const path = findCycle(alive.length * 2, next);
  if (!path) return null;
  const steps = path.map((s, n) => {
    const from = s >> 1, to = path[(n + 1) % path.length];
    const kinds = [...edges[from].get(to >> 1)];
    return {id: alive[from].id, by: (to & 1) === 1 ? 'rw' : ['ww', 'wr', 'rt'].find((k) => kinds.includes(k))};
  });
  const rw = steps.filter((s) => s.by === 'rw').length;
  const type = rw > 1 ? 'G-nonadjacent' : rw === 1 ? 'G-single' : steps.every((s) => s.by === 'ww') ? 'G0' : 'G1c';
  return {type, steps};
}

/** A shortest cycle through some state of a strongly connected part; null. Tarjan, without recursion. */
function findCycle(count, next) {
  const number = new Int32Array(count).fill(-1), low = new Int32Array(count), part = new Int32Array(count).fill(-1);
  const stack = [];
  let counter = 0, parts = 0;
  for (let root = 0; root < count; root++) {
    if (number[root] >= 0) continue;
    const work = [[root, null]];
    while (work.length > 0) {
      const frame = last(work), s = frame[0];
      if (frame[1] === null) {
        number[s] = low[s] = counter++;
        stack.push(s);
        frame[1] = next(s);
      }
      const to = frame[1].pop();
      if (to !== undefined) {
        if (number[to] < 0) work.push([to, null]);
        else if (part[to] < 0) low[s] = Math.min(low[s], number[to]);
        continue;
      }
      work.pop();
      if (work.length > 0) low[last(work)[0]] = Math.min(low[last(work)[0]], low[s]);
      if (low[s] !== number[s]) continue;
      const members = [];
      let m;
      do members.push((m = stack.pop())), (part[m] = parts);
      while (m !== s);
      parts++;
      if (members.length > 1) return shortest(members, next, part);
    }
  }
  return null;
}

function shortest(members, next, part) {
  let best = null;
  for (const from of members.slice(0, 50)) {
    const before = new Map([[from, null]]);
    const queue = [from];
    for (let at = 0; at < queue.length; at++) {
      const s = queue[at];
      for (const to of next(s)) {
        if (part[to] !== part[from]) continue;
        if (to === from) {
          const path = [];
          for (let p = s; p !== null; p = before.get(p)) path.unshift(p);
          if (!best || path.length < best.length) best = path;
          at = queue.length;
          break;
        }
        if (!before.has(to)) before.set(to, s), queue.push(to);
      }
    }
  }
  return best;
}
