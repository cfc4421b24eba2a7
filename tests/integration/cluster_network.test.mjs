// cluster_network.test.mjs — three real nodes and a network that fails: bytes changed or missing, cuts, partitions, slowness.
import assert from 'node:assert/strict';
import {describe, test} from 'node:test';
import {database, db, others, set, under, useCluster} from './cluster_suite.mjs';
import {sleep, until} from '../support/node.mjs';

useCluster();

describe('network', () => {
  test('changed bytes are noticed, and nothing changed is applied', {timeout: 180000}, async () => {
    await under(async (load) => {
      const primary = await set.primary();
      for (let i = 0; i < 5; i++) {
        for (const name of others(primary)) set.network.both(primary, name, {corrupt: 1});
        await load.more(20);
      }
      const changed = others(primary).map((n) => set.network.count(primary, n).corrupted + set.network.count(n, primary).corrupted);
      assert.ok(changed.every((n) => n > 0), `changed ${changed}`);
    });
  });

  test('bytes that are missing are noticed', {timeout: 180000}, async () => {
    await under(async (load) => {
      const primary = await set.primary();
      for (const name of others(primary)) set.network.both(primary, name, {drop: 7});
      await load.more(50);
    });
  });

  test('connections that are cut again and again', {timeout: 180000}, async () => {
    await under(async (load) => {
      for (let i = 0; i < 20; i++) {
        for (const a of set.names) for (const b of set.names) if (a < b) set.network.cut(a, b);
        await sleep(50);
      }
      await load.more(20);
    });
  });

  test('one replica is cut off: the others go on', {timeout: 180000}, async () => {
    await under(async (load) => {
      const primary = await set.primary();
      set.partition(others(primary)[0], others(others(primary)[0]));
      await load.more(200);
      assert.equal(await set.primary(), primary);
    });
  });

  test('one replica hears, but is not heard', {timeout: 180000}, async () => {
    await under(async (load) => {
      const primary = await set.primary();
      set.partition(others(primary)[0], others(others(primary)[0]), {oneWay: true});
      await load.more(200);
    });
  });

  test('a slow replica slows nobody', {timeout: 180000}, async () => {
    await under(async (load) => {
      const primary = await set.primary();
      const [slow, fast] = others(primary);
      const came = (name) => set.network.count(primary, name).bytes;
      const before = [came(slow), came(fast)];
      set.network.set(primary, slow, {bytesPerSecond: 2000, delayMs: 200});
      await load.more(1500, 120000);
      const bytes = [came(slow) - before[0], came(fast) - before[1]];
      assert.ok(bytes[0] < bytes[1] / 2, `writers did not wait for the slow one: it had ${bytes[0]} bytes, the other ${bytes[1]}`);
    });
  });

  test('a primary that is cut off acknowledges nothing, and steps down', {timeout: 180000}, async () => {
    const c = database().collection('c');
    const old = await set.primary();
    const alone = await set.client({node: old, driver: {retryWrites: false}});
    await c.insertOne({_id: 'before'}, {writeConcern: {w: 'majority', wtimeoutMS: 10000}});
    set.partition(old, others(old));
    await until('it is primary no more', async () => (await set.state(old)) !== 'PRIMARY', 60000);
    await assert.rejects(alone.db(db).collection('c').insertOne({_id: 'lost'}, {writeConcern: {w: 'majority', wtimeoutMS: 1000}}));
    const next = others(old)[0];
    await set.vedctl(next, 'replication', 'promote', next);
    assert.equal(await set.primary(60000, others(old)), next);
    const there = await set.client({node: next});
    await there.db(db).collection('c').insertOne({_id: 'after'}, {writeConcern: {w: 'majority', wtimeoutMS: 10000}});
    set.heal();
    await set.whole();
    assert.deepEqual((await c.find().sort({_id: 1}).toArray()).map((d) => d._id), ['after', 'before']);
    await alone.close();
    await there.close();
  });
});
