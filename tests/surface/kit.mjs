// tests/surface/kit.mjs — what the tables are written with. A row of a table is a list of examples; an example is
// {label, run, want}: run(ctx) gives a value or throws what the server answered; want is the value that MongoDB 7.0 gives,
// a function that throws when the value isn't MongoDB's, or code(N): MongoDB refuses it with that code.
import assert from 'node:assert/strict';
import {BSON, Decimal128, Double, Int32, Long} from 'mongodb';

const {EJSON} = BSON;
export const D = (s) => Decimal128.fromString(String(s));
export const L = (n) => Long.fromValue(n);
export const F = (n) => new Double(n);
export const I = (n) => new Int32(n);
export const day = (s) => new Date(s);
/** Values with their exact types, and numbers that are int, long, double or decimal as the server sent them. */
export const exact = {promoteValues: false};

class Code {
  constructor(codes) {
    this.codes = codes;
  }
}
export const code = (...codes) => new Code(codes);
export const isCode = (want) => want instanceof Code;

export const text = (v) => EJSON.stringify({v}, {relaxed: false}).slice(5, -1);
export const show = (v) => EJSON.stringify({v}).slice(5, -1);
/** Runs one example: {state: 'yes' | 'refused' | 'wrong', code, why}. */
export async function judge({run, want}, ctx) {
  let got;
  try {
    got = await run(ctx);
  } catch (e) {
    const got = Number(e.code); // where values aren't promoted it is an Int32
    if (!Number.isInteger(got)) return {state: 'wrong', why: String(e.stack ?? e)};
    if (isCode(want) && want.codes.includes(got)) return {state: 'yes', code: got};
    return {state: 'refused', code: got, why: `error ${got} (${e.message})${isCode(want) ? `, not ${want.codes}` : ''}`};
  }
  if (isCode(want)) return {state: 'wrong', why: `${show(got)}, not error ${want.codes}`};
  try {
    if (typeof want === 'function') want(got);
    else assert.equal(text(got), text(want));
    return {state: 'yes'};
  } catch (e) {
    return {state: 'wrong', why: typeof want === 'function' ? `${show(got)}: ${e.message}` : `${text(got)}, not ${text(want)}`};
  }
}

/** An example of any other kind. */
export const go = (label, run, want = () => {}) => [{label, run, want}];
export const all = (...lists) => lists.flat();

/** Documents in a collection of their own, made once per walk and never changed. */
export async function kept(ctx, name, docs, options) {
  const c = ctx.db.collection(name);
  ctx.made ??= new Set();
  if (!ctx.made.has(name)) {
    ctx.made.add(name);
    if (options) await ctx.db.createCollection(name, options);
    await c.insertMany(docs);
  }
  return c;
}
/** A new collection with these documents. */
export async function fresh(ctx, docs = []) {
  const c = ctx.db.collection(`fresh${(ctx.turn = (ctx.turn ?? 0) + 1)}`);
  if (docs.length) await c.insertMany(docs);
  return c;
}

/** filters(name, docs)([filter, ids], ...): the _ids that find gives. */
export const filters = (name, docs) => (...cases) =>
  cases.map(([filter, want]) => ({
    label: show(filter),
    want,
    run: async (ctx) => (await (await kept(ctx, name, docs)).find(filter).sort({_id: 1}).toArray()).map((d) => d._id),
  }));

/** expressions(doc)([expression, value], ...): what $project makes of it. No value: the field is missing. */
export const expressions = (doc = {}) => (...cases) =>
  cases.map(([expression, want = '(missing)']) => ({
    label: show(expression),
    want,
    run: async (ctx) => {
      const [d] = await ctx.db.aggregate([{$documents: [doc]}, {$project: {_id: 0, r: expression}}], exact).toArray();
      return 'r' in d ? d.r : '(missing)';
    },
  }));

/** stages(name, docs)([stage or pipeline, documents], ...). */
export const stages = (name, docs) => (...cases) =>
  cases.map(([pipeline, want, more = {}]) => ({
    label: show(pipeline),
    want,
    run: async (ctx) => (await kept(ctx, name, docs)).aggregate([pipeline].flat(), {...exact, ...more}).toArray(),
  }));

/** updates([document, update, document after, {filter, ...}], ...). */
export const updates = (...cases) =>
  cases.map(([doc, update, want, {filter = {}, upsert = false, ...options} = {}]) => ({
    label: `${show(doc)} ${show(update)}`,
    want,
    run: async (ctx) => {
      const c = await fresh(ctx, doc ? [{_id: 0, ...doc}] : []);
      await c.updateOne(filter, update, {upsert, ...options});
      return c.findOne({}, {projection: {_id: 0}, ...exact});
    },
  }));

/** A command, on the walk's database or on admin. */
export const command = (cmd, want, options) => [{label: show(cmd), want, run: (ctx) => ctx.db.command(cmd, options)}];
export const admin = (cmd, want, options) => [{label: show(cmd), want, run: (ctx) => ctx.admin.command(cmd, options)}];
/** want: the answer has these fields. */
export const has = (fields) => (got) => {
  for (const [k, v] of Object.entries(fields)) assert.equal(show(got?.[k]), show(v), k);
};
/** want: the answer has a field of each name with a value of that type. */
export const shaped = (types) => (got) => {
  for (const [k, type] of Object.entries(types)) {
    const value = k.split('.').reduce((v, part) => v?.[part], got);
    assert.equal(value === null ? 'null' : Array.isArray(value) ? 'array' : value instanceof Date ? 'date' : value?._bsontype ?? typeof value, type, k);
  }
};
export const near = (x) => (got) => assert.ok(Math.abs(Number(got) - x) < 1e-9, `${got} is not near ${x}`);
