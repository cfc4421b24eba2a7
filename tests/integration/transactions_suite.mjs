// transactions_suite.mjs — no test: what the files of transactions do to a node or a set, and what they keep of it.
import assert from 'node:assert/strict';
import {anomalies} from '../support/elle.mjs';
import {sleep} from '../support/node.mjs';

/** Lists to which transactions append, on which they read: recorded for the checker. */
export class Lists {
  constructor(collection, {clients = 8, keys = 6} = {}) {
    Object.assign(this, {collection, clients, keys, history: [], running: true, errors: []});
    this.value = 0;
  }

  async run(client) {
    this.done = Promise.all(Array.from({length: this.clients}, () => this.loop(client)));
  }

  async stop() {
    this.running = false;
    await this.done;
  }

  async loop(client) {
    const session = client.startSession({defaultTransactionOptions: {writeConcern: {w: 'majority'}, readConcern: {level: 'snapshot'}}});
    while (this.running) await this.one(session);
    await session.endSession();
  }

  /** One transaction, not tried again: what happened to each is known, or unknown. */
  async one(session) {
    const t = {id: this.history.length, status: 'fail', ops: [], start: Date.now(), end: 0};
    this.history.push(t);
    let committing = false;
    try {
      session.startTransaction();
      for (let n = 1 + Math.floor(Math.random() * 4); n > 0; n--) await this.step(session, t);
      committing = true;
      for (;;) {
        try {
          await session.commitTransaction();
          break;
        } catch (e) {
          if (!e.hasErrorLabel?.('UnknownTransactionCommitResult') || !this.running) throw e;
          t.status = 'unknown';
          await sleep(20);
        }
      }
      t.status = 'ok';
    } catch (e) {
      // only what says that the whole may be tried again has surely changed nothing
      if (committing && !e.hasErrorLabel?.('TransientTransactionError')) t.status = 'unknown';
      else t.status = 'fail';
      if (!e.hasErrorLabel?.('TransientTransactionError') && !e.hasErrorLabel?.('UnknownTransactionCommitResult')) this.errors.push(e);
      await session.abortTransaction().catch(() => {});
      await sleep(10);
    }
    t.end = Date.now();
  }

  async step(session, t) {
    const k = Math.floor(Math.random() * this.keys);
    if (Math.random() < 0.5) {
      const found = await this.collection.findOne({_id: k}, {session});
      t.ops.push({f: 'r', k, v: found?.list ?? []});
    } else {
      const v = ++this.value;
      t.ops.push({f: 'append', k, v});
      await this.collection.updateOne({_id: k}, {$push: {list: v}}, {session, upsert: true});
    }
  }

  async finish() {
    const start = Date.now() + 1;
    const found = await this.collection.find({}, {readConcern: {level: 'majority'}}).toArray();
    const ops = Array.from({length: this.keys}, (_, k) => ({f: 'r', k, v: found.find((d) => d._id === k)?.list ?? []}));
    this.history.push({id: 'final', status: 'ok', ops, start, end: start + 1, final: true});
    return anomalies(this.history, {strong: true});
  }
}

/** Moves money until told to stop; every error that withTransaction lets through is kept. */
export async function mover(client, collection, accounts, state) {
  while (state.running) {
    try {
      await client.withSession(async (session) => session.withTransaction(async () => {
        const from = Math.floor(Math.random() * accounts), to = (from + 1 + Math.floor(Math.random() * (accounts - 1))) % accounts;
        const left = await collection.findOne({_id: from}, {session});
        if (left.n < 5) return;
        await collection.updateOne({_id: from}, {$inc: {n: -5}}, {session});
        await collection.updateOne({_id: to}, {$inc: {n: 5}}, {session});
        const all = await collection.find({}, {session}).toArray();
        assert.equal(all.reduce((sum, d) => sum + d.n, 0), accounts * 100, 'the sum in a snapshot');
      }, {readConcern: {level: 'snapshot'}, writeConcern: {w: 'majority'}}));
      state.moved++;
    } catch (e) {
      state.errors.push(e);
    }
  }
}

/** Transactions that make two collections, an index and documents, until told to stop: `state.made` has the names of those that said so. */
export async function maker(client, db, state) {
  for (let n = 0; state.running; n++) {
    const name = `made${n}`;
    state.begun = n + 1;
    try {
      await client.withSession(async (session) => session.withTransaction(async () => {
        await db.collection(name).createIndex({a: 1}, {session, unique: true});
        await db.collection(name).insertMany([{_id: 1, a: 1}, {_id: 2, a: 2}], {session});
        await db.createCollection(`${name}_empty`, {session});
      }, {writeConcern: {w: 'majority'}}));
      state.made.push(name);
    } catch (e) {
      if (!e.hasErrorLabel?.('UnknownTransactionCommitResult')) state.errors.push(e);
    }
    await sleep(50);
  }
}

/** Each of them is there as a whole, or not at all; those that said so are. */
export async function madeWhole(db, state) {
  const names = new Set((await db.listCollections({}, {nameOnly: true}).toArray()).map((c) => c.name));
  for (const name of state.made) assert.ok(names.has(name), `${name} was acknowledged`);
  for (let n = 0; n < state.begun; n++) {
    const name = `made${n}`;
    assert.equal(names.has(`${name}_empty`), names.has(name), `${name}: half of it`);
    if (names.has(name)) assert.deepEqual(await db.collection(name).find({a: {$gt: 0}}).hint('a_1').sort({a: 1}).toArray(), [{_id: 1, a: 1}, {_id: 2, a: 2}], name);
  }
}
