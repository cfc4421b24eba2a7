// audit_cluster.test.mjs — the audit log in a replica set: each write stands in the log of each node once, heads reach the others, a log
// that is put back is found by them, a copy of the data is told.
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {Cluster} from '../support/cluster.mjs';
import {until} from '../support/node.mjs';
import {metrics} from '../support/metrics.mjs';

let set, client, primary, put_back, copied;

before(async () => {
  set = await Cluster.start({nodes: 3});
  client = await set.client();
  primary = await set.primary();
  [put_back, copied] = await until('two follow', async () => ((await set.secondaries()).length === 2 ? await set.secondaries() : false));
}, {timeout: 120000});
after(async () => await set?.stop(), {timeout: 60000});

/** The answer to a question, as soon as there is one: rotated may have just started, or answer another. */
const ask = async (name, ...args) =>
  await until(`an answer of ${name}`, async () => {
    try {
      return JSON.parse((await set.vedctl(name, '--json', 'audit', ...args)).stdout);
    } catch (e) {
      if (/holds head/.test(e.stderr)) throw e;
      return false;
    }
  });
const status = async (name) => await until(`the audit log of ${name} is open`, async () => {
  const s = await ask(name, 'status');
  return s.open && s.attached && s;
});
const held = async (name) => (await status(name)).peer_heads;
const found = async (name, atype) => (await ask(name, 'search', `atype=${atype}`)).records.map((r) => r.event);

/** With its owners: it belongs to rotated's user. */
const keep = (from, to) => execFileSync('cp', ['-a', from, to]);

/** The node goes on, but for rotated, whose folder is the caller's meanwhile. */
async function withoutRotated(name, act) {
  const supervisor = set.pid(name);
  const {pid, starts} = (await set.workers(name)).find((w) => w.name === 'rotated');
  process.kill(supervisor, 'SIGSTOP');
  process.kill(pid, 'SIGKILL');
  await until('rotated is dead', () => /^State:\s+Z/m.test(fs.readFileSync(`/proc/${pid}/status`, 'utf8')));
  act(path.join(set.folder(name), 'data/audit'), path.join(set.dir, `${name}-audit`));
  process.kill(supervisor, 'SIGCONT');
  await set.workerBack(name, 'rotated', starts);
}

test('each write stands in the log of each node once; heads are held by the others', async () => {
  const c = client.db('ledger').collection('lines');
  for (let i = 0; i < 5; i++) await c.insertOne({_id: `line${i}`}, {writeConcern: {w: 3, wtimeoutMS: 20000}});
  for (const name of set.names) {
    const records = await until(`the lines in the log of ${name}`, async () => {
      const {records} = await ask(name, 'search', 'atype=insert', 'ns=ledger.lines');
      return records.flatMap((r) => r.event.param.ids).length >= 5 && records;
    });
    assert.deepEqual(records.flatMap((r) => r.event.param.ids).sort(), ['line0', 'line1', 'line2', 'line3', 'line4']);
    for (const r of records) {
      assert.equal(r.source, 'journal');
      assert.equal(r.event.users.length, 1, 'who wrote is known on a secondary, too');
    }
  }
  for (const name of set.names) await until(`${name} knows what the others hold`, async () => (await held(name)).length === 2);
  assert.equal((await ask(primary, 'verify')).peerHeads, 2);
});

test('a log that is put back is found by what the others hold, and stays so', async () => {
  await withoutRotated(put_back, (folder, copy) => keep(folder, copy));
  const before = (await status(put_back)).head;
  await client.db('ledger').collection('lines').insertOne({_id: 'hidden'}, {writeConcern: {w: 3, wtimeoutMS: 20000}});
  await until('later heads are held', async () => {
    const heads = await held(put_back);
    return heads.length === 2 && heads.every((h) => h.head > before);
  });
  await withoutRotated(put_back, (folder, copy) => {
    fs.rmSync(folder, {recursive: true});
    keep(copy, folder);
  });
  const {alarm} = await until('the alarm', async () => {
    const s = await status(put_back);
    return s.alarm !== '' && s;
  });
  assert.match(alarm, /holds head \d+, this log (ends at head|has another one of that number)/); // whichever of the two is seen first
  await assert.rejects(ask(put_back, 'verify'), /holds head/);
  assert.match(set.log(put_back), /THE AUDIT LOG WAS PUT BACK OR CHANGED/);
  await until('it is in the log itself', async () => (await found(put_back, 'auditRollback')).some((e) => /holds head/.test(e.param.detail)));
  await until('the others freeze what they hold', async () => (await found(primary, 'auditRollback')).some((e) => e.param.node === put_back));
  const {caFile, username, password} = set.info;
  const {httpAddress} = set.node(put_back);
  await until('the metric', async () => (await metrics({httpAddress, caFile, username, password})).veddb_audit_rolled_back === 1);
  // The log goes on; what is held does not, so that a restart of rotated does not make it forget.
  await withoutRotated(put_back, () => {});
  await until('the alarm is back', async () => (await status(put_back)).alarm !== '');
  assert.ok((await held(put_back)).some((h) => h.frozen));
});

test('a copy of the data is told by the log that goes on', async () => {
  await set.vedctl(primary, 'replication', 'force-sync').then(() => assert.fail('of a primary'), () => {});
  const before = (await found(copied, 'journalRestart')).length; // it was loaded when it joined, too
  await set.vedctl(copied, 'replication', 'force-sync');
  await until('it is in the log', async () => (await found(copied, 'journalRestart')).length > before, 60000);
  await set.whole();
  await client.db('ledger').collection('lines').insertOne({_id: 'behind'}, {writeConcern: {w: 3, wtimeoutMS: 20000}});
  await until('writes go on in it', async () => (await ask(copied, 'search', 'ns=ledger.lines', 'text=behind')).found === 1);
  assert.equal((await ask(copied, 'verify')).good, true);
});
