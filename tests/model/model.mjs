// tests/model/model.mjs — collections as plain arrays of documents: filters, sorts, updates, obviously right and slow. Knows numbers,
// strings, null, missing, arrays of these and one level of {x, y}, which is what tests/model/world.mjs makes; nothing of this server.

export class Refused extends Error {
  constructor(code) {
    super(`refused: ${code}`);
    this.code = code;
  }
}
const isObject = (v) => v !== null && typeof v === 'object' && !Array.isArray(v);
export const copy = (v) => structuredClone(v);

// ---- order of values: undefined (of an empty array) < null and missing < numbers < strings < objects < arrays ----

const rank = (v) => (v === undefined ? 0 : v === null ? 1 : typeof v === 'number' ? 2 : typeof v === 'string' ? 3 : isObject(v) ? 4 : 5);
export function compare(a, b) {
  if (rank(a) !== rank(b)) return rank(a) - rank(b);
  if (typeof a === 'number') return a - b;
  if (typeof a === 'string') return a < b ? -1 : a > b ? 1 : 0;
  if (Array.isArray(a) || isObject(a)) {
    const x = Object.entries(a), y = Object.entries(b);
    for (let i = 0; i < Math.min(x.length, y.length); i++) {
      const c = rank(x[i][1]) - rank(y[i][1]) || (isObject(a) && x[i][0] !== y[i][0] ? (x[i][0] < y[i][0] ? -1 : 1) : 0) || compare(x[i][1], y[i][1]);
      if (c) return c;
    }
    return x.length - y.length;
  }
  return 0;
}
export const equal = (a, b) => compare(a, b) === 0;

// ---- what stands at a path: with the elements of an array beside the array itself ----

function at(value, parts, last) {
  if (!parts.length) return last(value);
  if (Array.isArray(value)) return value.filter(isObject).flatMap((v) => at(v, parts, last));
  return isObject(value) ? at(value[parts[0]], parts.slice(1), last) : last(undefined);
}
const here = (doc, path) => at(doc, path.split('.'), (v) => (Array.isArray(v) ? [...v, v] : [v]));
const whole = (doc, path) => at(doc, path.split('.'), (v) => [v]);

const OPERATORS = {
  $eq: (vs, x) => vs.some((v) => (x === null ? v === null || v === undefined : equal(v, x) && v !== undefined)),
  $ne: (vs, x) => !OPERATORS.$eq(vs, x),
  $in: (vs, xs) => xs.some((x) => OPERATORS.$eq(vs, x)),
  $nin: (vs, xs) => !OPERATORS.$in(vs, xs),
  $gt: (vs, x) => vs.some((v) => rank(v) === rank(x) && compare(v, x) > 0),
  $lt: (vs, x) => vs.some((v) => rank(v) === rank(x) && compare(v, x) < 0),
  $gte: (vs, x) => (x === null ? OPERATORS.$eq(vs, x) : vs.some((v) => rank(v) === rank(x) && compare(v, x) >= 0)),
  $lte: (vs, x) => (x === null ? OPERATORS.$eq(vs, x) : vs.some((v) => rank(v) === rank(x) && compare(v, x) <= 0)),
};
export function matches(doc, filter) {
  return Object.entries(filter).every(([name, x]) => {
    if (name === '$and') return x.every((f) => matches(doc, f));
    if (name === '$or') return x.some((f) => matches(doc, f));
    if (name === '$nor') return !x.some((f) => matches(doc, f));
    if (!isObject(x)) return OPERATORS.$eq(here(doc, name), x);
    return Object.entries(x).every(([op, y]) => {
      if (op === '$exists') return whole(doc, name).some((v) => v !== undefined) === y;
      if (op === '$size') return whole(doc, name).some((v) => Array.isArray(v) && v.length === y);
      if (op === '$not') return !matches(doc, {[name]: y});
      if (op === '$elemMatch') return whole(doc, name).some((v) => Array.isArray(v) && v.some((e) => Object.entries(y).every(([o, z]) => OPERATORS[o]([e], z))));
      return OPERATORS[op](here(doc, name), y);
    });
  });
}

function sortValue(doc, path, direction) {
  const found = at(doc, path.split('.'), (v) => (Array.isArray(v) ? (v.length ? v : [undefined]) : [v ?? null]));
  const values = (found.length ? found : [null]).map((v) => v);
  return values.reduce((best, v) => (compare(v, best) * direction < 0 ? v : best));
}
export function sorted(docs, sort) {
  return [...docs].sort((a, b) => {
    for (const [path, direction] of Object.entries(sort)) {
      const c = compare(sortValue(a, path, direction), sortValue(b, path, direction)) * direction;
      if (c) return c;
    }
    return 0;
  });
}

// ---- updates ----

/** The object that holds the last part of the path; made where missing. [null]: nothing there, and not to be made (28 where it could
 * not be made; $unset alone doesn't mind). */
function holder(doc, path, make, strict) {
  const parts = path.split('.');
  let place = doc;
  for (const part of parts.slice(0, -1)) {
    if (place[part] === undefined) {
      if (!make) return [null];
      place[part] = {};
    }
    if (!isObject(place[part])) {
      if (strict) throw new Refused(28);
      return [null];
    }
    place = place[part];
  }
  return [place, parts.at(-1)];
}
const UPDATES = {
  $set: (o, k, x) => (o[k] = copy(x)),
  $inc: (o, k, x) => {
    if (o[k] !== undefined && typeof o[k] !== 'number') throw new Refused(14);
    o[k] = (o[k] ?? 0) + x;
  },
  $mul: (o, k, x) => {
    if (o[k] !== undefined && typeof o[k] !== 'number') throw new Refused(14);
    o[k] = (o[k] ?? 0) * x;
  },
  $min: (o, k, x) => (o[k] === undefined || compare(x, o[k]) < 0) && (o[k] = copy(x)),
  $max: (o, k, x) => (o[k] === undefined || compare(x, o[k]) > 0) && (o[k] = copy(x)),
  $push: (o, k, x) => {
    if (o[k] !== undefined && !Array.isArray(o[k])) throw new Refused(2);
    o[k] = [...(o[k] ?? []), ...(isObject(x) && x.$each ? x.$each : [copy(x)])];
    if (isObject(x) && x.$slice !== undefined) o[k] = x.$slice < 0 ? o[k].slice(x.$slice) : o[k].slice(0, x.$slice);
  },
  $addToSet: (o, k, x) => {
    if (o[k] !== undefined && !Array.isArray(o[k])) throw new Refused(2);
    if (!(o[k] ?? []).some((v) => equal(v, x))) o[k] = [...(o[k] ?? []), copy(x)];
  },
};
const WHERE_THERE = {
  $unset: (o, k) => delete o[k],
  $pull: (o, k, x) => {
    if (o[k] === undefined) return;
    if (!Array.isArray(o[k])) throw new Refused(2);
    o[k] = o[k].filter((v) => !(isObject(x) ? Object.entries(x).every(([op, y]) => OPERATORS[op]([v], y)) : equal(v, x)));
  },
  $pop: (o, k, x) => {
    if (o[k] === undefined) return;
    if (!Array.isArray(o[k])) throw new Refused(14);
    o[k] = x < 0 ? o[k].slice(1) : o[k].slice(0, -1);
  },
};
export function updated(doc, update, inserting = false) {
  const to = copy(doc);
  for (const [op, fields] of Object.entries(update)) {
    if (op === '$setOnInsert' && !inserting) continue;
    for (const [path, x] of Object.entries(fields)) {
      const there = WHERE_THERE[op];
      const [place, key] = holder(to, path, !there, op !== '$unset');
      if (there && place) there(place, key, x);
      if (!there) UPDATES[op === '$setOnInsert' ? '$set' : op](place, key, x);
    }
  }
  return to;
}

// ---- a collection ----

export class Model {
  docs = [];
  unique = null; // a field, or null; missing counts as null

  check(doc, old) {
    const clash = (d) => d !== old && (equal(d._id, doc._id) || (this.unique && equal(d[this.unique] ?? null, doc[this.unique] ?? null)));
    if (this.docs.some(clash)) throw new Refused(11000);
  }
  insert(doc) {
    this.check(doc);
    this.docs.push(copy(doc));
  }
  put(old, doc) {
    this.check(doc, old);
    this.docs[this.docs.indexOf(old)] = doc;
    return JSON.stringify(old) !== JSON.stringify(doc);
  }
  find(filter, {sort, skip = 0, limit = 0} = {}) {
    const found = this.docs.filter((d) => matches(d, filter));
    return (sort ? sorted(found, sort) : found).slice(skip, limit ? skip + limit : undefined);
  }
  update(filter, change, {many = false, upsert = false, sort} = {}) {
    const found = this.find(filter, {sort}).slice(0, many ? undefined : 1);
    if (!found.length && upsert) {
      const doc = change({...filter}, true); // filters of upserts are {_id: n}
      this.insert(doc);
      return {matched: 0, modified: 0, upserted: 1};
    }
    let modified = 0;
    for (const d of found) modified += this.put(d, change(d, false)) ? 1 : 0;
    return {matched: found.length, modified, upserted: 0};
  }
  remove(filter, many) {
    const gone = this.find(filter).slice(0, many ? undefined : 1);
    this.docs = this.docs.filter((d) => !gone.includes(d));
    return gone.length;
  }
  distinct(path) {
    const out = [];
    for (const d of this.docs) for (const v of at(d, path.split('.'), (x) => (Array.isArray(x) ? x : [x]))) if (v !== undefined && !out.some((o) => equal(o, v))) out.push(v);
    return out.sort(compare);
  }
}
