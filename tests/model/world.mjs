// tests/model/world.mjs — one collection, its model, and random operations that both must answer alike: writes of all kinds, queries
// by every index there is, indexes that come and go, transactions that commit or abort.
import assert from 'node:assert/strict';
import {Model, Refused, compare, copy, matches, sorted, updated} from './model.mjs';

/** mulberry32: small, seeded. */
export function chance(seed) {
  let s = seed >>> 0;
  const random = () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = Math.imul(s ^ (s >>> 15), s | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const below = (n) => Math.floor(random() * n);
  return {below, pick: (list) => list[below(list.length)], times: (n, f) => [...Array(n).keys()].map(f)};
}

const INDEXES = [
  [{a: 1}], [{a: -1, b: 1}], [{b: 1, a: 1}], [{l: 1}], [{l: 1, a: -1}], [{'o.x': 1}], [{'o.x': -1, b: 1}], [{a: 'hashed'}], [{'$**': 1}], [{b: 1}, {sparse: true}], [{a: 1, c: 1}, {partialFilterExpression: {c: {$gt: 2}}}],
  [{c: 1}, {hidden: true}], [{a: 1, b: 1, c: -1}], [{c: -1}],
];
const PATHS = ['a', 'b', 'c', 'l', 'o.x', 'o.y', 'o'];

export class World {
  constructor(client, db, name, seed) {
    Object.assign(this, chance(seed), {client, db, seed, name, c: db.collection(name), model: new Model(), counts: {}, ops: 0});
  }

  scalar() {
    return this.pick([this.below(6), this.below(6), this.below(6), null, 'a', 'b', 'ab', 2.5, -1]);
  }
  value() {
    return this.below(5) === 0 ? this.times(this.below(4), () => this.scalar()) : this.scalar();
  }
  id() {
    return this.below(60);
  }
  document(_id = this.id()) {
    const d = {_id};
    for (const f of ['a', 'b', 'c']) if (this.below(6)) d[f] = this.value();
    if (this.below(2)) d.l = this.times(this.below(4), () => this.scalar());
    const o = this.below(4);
    if (o === 1) d.o = {x: this.value()};
    if (o === 2) d.o = {x: this.scalar(), y: this.value()};
    if (o === 3) d.o = this.times(this.below(3), () => ({x: this.scalar()}));
    if (this.below(3)) d.u = this.below(4) ? 1000 + this.below(10000) : this.below(5);
    return d;
  }
  predicate(depth = 0) {
    const path = this.pick(PATHS.slice(0, 6));
    switch (this.below(depth > 1 ? 8 : 11)) {
      case 0: return {[path]: this.scalar()};
      case 1: return {[path]: {[this.pick(['$gt', '$gte', '$lt', '$lte'])]: this.pick([this.below(6), 'a', 2.5, null])}};
      case 2: return {[path]: {$gte: this.below(4), $lt: 2 + this.below(5)}};
      case 3: return {[path]: {[this.pick(['$in', '$nin'])]: this.times(this.below(4), () => this.scalar())}};
      case 4: return {[path]: {$exists: this.below(2) === 0}};
      case 5: return {[path]: {[this.pick(['$ne', '$eq'])]: this.scalar()}};
      case 6: return {_id: this.pick([this.id(), {$gt: this.id()}, {$in: [this.id(), this.id()]}])};
      case 7: return this.pick([{l: {$size: this.below(4)}}, {l: {$elemMatch: {$gte: this.below(5), $lt: this.below(7)}}}, {[path]: {$not: {$gt: this.below(6)}}}]);
      case 8: return {$or: this.times(2, () => this.predicate(depth + 1))};
      case 9: return {$and: this.times(2, () => this.predicate(depth + 1))};
      default: return {$nor: [this.predicate(depth + 1)]};
    }
  }
  filter() {
    return this.below(8) === 0 ? {} : this.below(2) ? this.predicate() : {...this.predicate(), ...this.predicate()};
  }
  sort() {
    const s = {};
    for (const p of this.times(1 + this.below(2), () => this.pick(PATHS.slice(0, 6)))) s[p] = this.pick([1, -1]);
    if (Object.keys(s).filter((p) => ['a', 'b', 'c', 'l', 'o.x', 'o.y'].includes(p)).length > 1) return {[Object.keys(s)[0]]: 1, _id: 1}; // two arrays in one sort are refused
    s._id = this.pick([1, -1]);
    return s;
  }
  change(safe) {
    const path = this.pick(['a', 'b', 'c', 'o.x', 'l']);
    const choices = [
      () => ({$set: {[this.pick(['a', 'b', 'c'])]: this.value()}}), () => ({$unset: {[path]: ''}}), () => ({$min: {[this.pick(['a', 'b'])]: this.scalar()}}), () => ({$max: {[this.pick(['a', 'b'])]: this.scalar()}}),
      () => ({$set: {a: this.scalar()}, $unset: {b: ''}, $setOnInsert: {c: 9}}),
      () => ({$set: {[path]: this.scalar()}}), () => ({$inc: {[path]: this.below(5) - 2}}), () => ({$push: {[path]: this.scalar()}}), () => ({$push: {l: {$each: this.times(this.below(3), () => this.scalar()), $slice: -3}}}), () => ({$pull: {[path]: this.scalar()}}),
      () => ({$pull: {l: {$gte: this.below(5)}}}), () => ({$addToSet: {[path]: this.scalar()}}), () => ({$pop: {[path]: this.pick([1, -1])}}), () => ({$mul: {[path]: 2}}), () => ({$set: {u: this.below(40)}}),
    ];
    return this.pick(safe ? choices.slice(0, 5) : choices)();
  }

  /** The same on both: their results, or the code that both refuse with. */
  async both(what, ours, theirs) {
    const run = async (f) => {
      try {
        return {value: await f()};
      } catch (e) {
        if (typeof e.code !== 'number') throw e;
        if (e.hasErrorLabel?.('TransientTransactionError')) return {transient: true, code: e.code};
        this.said = e.message;
        return {code: e.code};
      }
    };
    const before = copy(this.model.docs);
    const got = await run(ours), expected = await run(theirs);
    if (expected.code) this.model.docs = before;
    if (got.transient) { // a server may end any transaction so; who runs it puts the model back
      this.transient = (this.transient ?? 0) + 1;
      return got;
    }
    assert.deepEqual(got, expected, `${what}; seed ${this.seed}, operation ${this.ops}, indexes ${JSON.stringify(this.indexes)}${got.code ? `, ${this.said}` : ''}`);
    return got;
  }

  async write(options = {}) {
    const m = this.model, filter = this.filter();
    const sort = {_id: 1};
    switch (this.pick(['insert', 'insert', 'update', 'update', 'update', 'many', 'upsert', 'replace', 'delete', 'deleteMany', 'modify', 'bulk'])) {
      case 'insert': {
        const d = this.document();
        return this.both(`insert ${JSON.stringify(d)}`, async () => (await this.c.insertOne(copy(d), options)).insertedId, () => (m.insert(d), d._id));
      }
      case 'bulk': {
        const docs = this.times(5, () => this.document());
        return this.both(`insertMany ${JSON.stringify(docs)}`, async () => (await this.c.insertMany(docs.map(copy), {ordered: false, ...options}).catch((e) => (options.session ? Promise.reject(e) : e.result)))?.insertedCount, () => {
          let n = 0;
          for (const d of docs)
            try {
              m.insert(d);
              n++;
            } catch (e) {
              if (options.session) throw e;
            }
          return n;
        });
      }
      case 'update': { // of one document that both know: by its _id beside the filter
        const q = {...filter, _id: this.id()}, u = this.change();
        return this.both(`updateOne ${JSON.stringify([q, u])}`, async () => (({matchedCount, modifiedCount}) => [matchedCount, modifiedCount])(await this.c.updateOne(q, u, options)), () => (({matched, modified}) => [matched, modified])(m.update(q, (d) => updated(d, u))));
      }
      case 'many': {
        const u = this.change(true);
        return this.both(`updateMany ${JSON.stringify([filter, u])}`, async () => (({matchedCount, modifiedCount}) => [matchedCount, modifiedCount])(await this.c.updateMany(filter, u, options)), () => (({matched, modified}) => [matched, modified])(m.update(filter, (d) => updated(d, u), {many: true})));
      }
      case 'upsert': {
        const q = {_id: this.id()}, u = this.change();
        return this.both(`upsert ${JSON.stringify([q, u])}`, async () => (await this.c.updateOne(q, u, {upsert: true, ...options})).upsertedCount, () => m.update(q, (d, inserting) => updated(d, u, inserting), {upsert: true}).upserted);
      }
      case 'replace': {
        const {_id, ...d} = this.document();
        return this.both(`replace ${JSON.stringify([_id, d])}`, async () => (await this.c.replaceOne({_id}, d, options)).matchedCount, () => m.update({_id}, () => ({_id, ...copy(d)})).matched);
      }
      case 'delete': {
        const q = {...filter, _id: this.id()};
        return this.both(`deleteOne ${JSON.stringify(q)}`, async () => (await this.c.deleteOne(q, options)).deletedCount, () => m.remove(q, false));
      }
      case 'deleteMany': {
        const q = {$and: [filter, {_id: {$lt: this.below(12)}}]};
        return this.both(`deleteMany ${JSON.stringify(q)}`, async () => (await this.c.deleteMany(q, options)).deletedCount, () => m.remove(q, true));
      }
      default: {
        const u = this.change();
        return this.both(`findOneAndUpdate ${JSON.stringify([filter, u])}`, () => this.c.findOneAndUpdate(filter, u, {sort, returnDocument: 'after', ...options}), () => {
          const [d] = m.find(filter, {sort});
          if (!d) return null;
          m.update({_id: d._id}, (x) => updated(x, u));
          return copy(m.find({_id: d._id})[0]);
        });
      }
    }
  }

  hints() {
    return ['none', 'none', {$natural: 1}, ...this.indexes.filter(([key, o = {}]) => !o.sparse && !o.partialFilterExpression && !o.hidden && !o.unique && !('$**' in key)).map(([key]) => key)];
  }
  async read(options = {}) {
    const m = this.model, filter = this.filter();
    switch (this.pick(['find', 'find', 'find', 'find', 'count', 'distinct', 'group', 'covered'])) {
      case 'find': {
        const sort = this.sort(), limit = this.pick([0, 0, 1 + this.below(10)]), skip = this.pick([0, this.below(5)]), hint = this.pick(this.hints());
        const how = {sort, limit, skip, batchSize: this.pick([2, 5, 100]), ...(hint === 'none' ? {} : {hint}), ...options};
        return this.both(`find ${JSON.stringify([filter, {sort, limit, skip, hint}])}`, () => this.c.find(filter, how).toArray(), () => m.find(filter, {sort, limit, skip}));
      }
      case 'count':
        return this.both(`count ${JSON.stringify(filter)}`, () => this.c.countDocuments(filter, options), () => m.find(filter).length);
      case 'distinct': {
        const path = this.pick(['a', 'b', 'l', 'o.x']);
        return this.both(`distinct ${path}`, async () => (await this.c.distinct(path, {}, options)).sort(compare), () => m.distinct(path));
      }
      case 'group':
        return this.both(`group ${JSON.stringify(filter)}`, async () => (await this.c.aggregate([{$match: filter}, {$group: {_id: {$ifNull: ['$b', 'none']}, n: {$sum: 1}, first: {$min: '$_id'}}}], options).toArray()).sort((x, y) => x.first - y.first), () => {
          const groups = [];
          for (const d of sorted(m.find(filter), {_id: 1})) {
            const key = d.b ?? 'none';
            let g = groups.find((x) => compare(x._id, key) === 0);
            if (!g) groups.push((g = {_id: copy(key), n: 0, first: d._id}));
            g.n++;
          }
          return groups;
        });
      default: {
        const q = {a: {$gte: this.below(4)}};
        return this.both('covered', async () => (await this.c.find(q, {projection: {_id: 0, a: 1}, ...options}).toArray()).map((d) => d.a).sort(compare), () => m.find(q).map((d) => d.a).sort(compare));
      }
    }
  }

  async indexStep() {
    if (this.below(3) && this.indexes.length < 6) {
      const [key, more = {}] = this.pick(INDEXES);
      if (this.indexes.some(([k]) => JSON.stringify(k) === JSON.stringify(key))) return;
      const parallel = this.model.docs.some((d) => Object.keys(key).filter((p) => this.passesArray(d, p)).length > 1), hashed = Object.values(key).includes('hashed') && this.model.docs.some((d) => Array.isArray(d.a));
      // An index that the documents at hand refuse, or that later ones would, is not what is tested here.
      if (parallel || hashed || Object.keys(key).length > 1 || 'hashed' === Object.values(key)[0]) if (!this.calm) return;
      await this.c.createIndex(key, more);
      this.indexes.push([key, more]);
    } else if (this.indexes.length) {
      const [[key]] = this.indexes.splice(this.below(this.indexes.length), 1);
      await this.c.dropIndex(key);
    }
  }
  passesArray(d, path) {
    const [first] = path.split('.');
    return Array.isArray(d[first]) || (path.includes('.') && Array.isArray(d[first]?.[path.split('.')[1]]));
  }

  async transaction() {
    const session = this.client.startSession(), before = copy(this.model.docs), keep = this.below(2) === 0;
    try {
      session.startTransaction();
      for (let i = 1 + this.below(5); i > 0; i--) {
        const {code} = this.below(3) ? await this.write({session}) : await this.read({session});
        if (code) { // it has ended
          this.model.docs = before;
          await session.abortTransaction();
          return;
        }
      }
      if (keep) await session.commitTransaction();
      else {
        await session.abortTransaction();
        this.model.docs = before;
      }
    } finally {
      await session.endSession();
    }
  }

  /** calm: `a`, `b` and `c` never are arrays, so that compound and hashed indexes can be had. */
  async begin() {
    this.calm = this.below(2) === 0;
    if (this.calm) {
      const scalar = this.scalar.bind(this);
      this.value = scalar;
      this.change = ((change) => (safe) => {
        for (;;) {
          const u = change.call(this, safe), text = JSON.stringify(u);
          if (!/"\$(push|addToSet)":\{"[abc]"/.test(text)) return u;
        }
      })(this.change);
    }
    this.indexes = [];
    await this.db.createCollection(this.name);
    if (this.below(2)) {
      await this.c.createIndex({u: 1}, {unique: true});
      this.model.unique = 'u';
    }
  }
  async run(operations) {
    for (const end = this.ops + operations; this.ops < end; this.ops++) {
      const n = this.below(100);
      if (n < 50) await this.write();
      else if (n < 85) await this.read();
      else if (n < 93) await this.indexStep();
      else await this.transaction();
    }
  }
  /** Everything, by _id; and every index against the documents. */
  async check() {
    assert.deepEqual(await this.c.find().sort({_id: 1}).toArray(), sorted(this.model.docs, {_id: 1}), `seed ${this.seed}, operation ${this.ops}`);
    const v = await this.db.command({validate: this.name, full: true});
    assert.equal(v.valid, true, `${JSON.stringify(v.errors)}; seed ${this.seed}, operation ${this.ops}`);
  }
}
