// audit_full.test.mjs — where the audit log can't be written: what is audited is refused, or, if so configured, goes on and is counted.
// Its folder is a small file system of its own, full to the last byte (for root only).
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {describe, test} from 'node:test';
import {Node, until} from '../support/node.mjs';
import {metrics} from '../support/metrics.mjs';

const verifier = path.resolve(import.meta.dirname, '../audit/verify.py');
const mounted = [];
process.on('exit', () => {
  for (const folder of mounted) execFileSync('umount', ['-l', folder]);
});

/** A node whose audit folder is a disk of 4 MB; or why there is none. */
function disk() {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'vd-full-')), audit = path.join(dir, 'data/audit');
  fs.mkdirSync(audit, {recursive: true, mode: 0o700});
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=0700', 'veddb-test', audit], {stdio: 'pipe'});
  } catch (e) {
    fs.rmSync(dir, {recursive: true});
    return {refusal: `no tmpfs can be mounted here: ${String(e.stderr ?? e.message).trim()}`};
  }
  mounted.push(audit);
  return {dir, audit, ballast: path.join(audit, 'ballast')};
}

function fill(ballast) {
  const fd = fs.openSync(ballast, 'w');
  try {
    for (;;) fs.writeSync(fd, Buffer.alloc(4096));
  } catch (e) {
    assert.equal(e.code, 'ENOSPC');
  }
  fs.closeSync(fd);
}

const place = disk();
const set = ['audit.backlog_max=8MB', 'storage.journal_max=1MB', 'audit.segment_size=65536'];
const pad = 'x'.repeat(200000);
const status = async (node) => JSON.parse((await node.vedctl('--json', 'audit', 'status')).stdout);
const search = async (node, ...conditions) =>
  await until(`an answer to ${conditions}`, async () => node.vedctl('--json', 'audit', 'search', ...conditions, 'limit=1000').then((r) => JSON.parse(r.stdout).records, () => false));

describe('a full disk under the audit log', {skip: place.refusal}, () => {
  test('refuse: audited writes are refused by name, reads go on, nothing is missing afterwards', async () => {
    const node = await Node.start({dir: place.dir, set});
    const client = await node.client();
    const c = client.db('full').collection('c');
    const acknowledged = [];
    await c.insertOne({_id: 'before'});
    await until('it is sealed', async () => (await search(node, 'ns=full.c', 'text=before')).length === 1);
    fill(place.ballast);
    const refusal = await until('a refusal', async () => {
      const _id = `n${acknowledged.length}`;
      try {
        await c.insertOne({_id, pad});
        acknowledged.push(_id);
        return false;
      } catch (e) {
        return e;
      }
    });
    assert.equal(refusal.code, 90050, refusal.message);
    assert.equal(refusal.codeName, 'AuditUnavailable');
    assert.ok(acknowledged.length > 20, 'up to the bound they are taken');
    assert.equal((await c.findOne({_id: 'n0'}))._id, 'n0');
    assert.match((await status(node)).problem, /[Nn]o space/);
    assert.ok((await metrics(node.info)).veddb_audit_refused_total > 0);
    fs.rmSync(place.ballast);
    await until('writes are taken again', () => c.insertOne({_id: 'after'}).then(() => true, (e) => e.code === 11000));
    await until('all is sealed', async () => (await search(node, 'ns=full.c', 'text=after')).length === 1);
    const ids = (await search(node, 'atype=insert', 'ns=full.c')).flatMap((r) => r.event.param.ids);
    assert.deepEqual(ids.sort(), ['before', 'after', ...acknowledged].sort());
    assert.equal((await search(node, 'atype=auditGap')).length, 0);
    await client.close();
    await node.down();
    execFileSync('python3', [verifier, place.audit, '--kek', path.join(node.dir, 'kek')]);
  });

  test('shed: writes go on beyond the bound, said and counted; what the journal still has is sealed later', async () => {
    const node = await Node.start({dir: place.dir, set: [...set, 'audit.on_full=shed']});
    const client = await node.client();
    const c = client.db('shed').collection('c');
    fill(place.ballast);
    await until('the bound is passed', async () => {
      for (let i = 0; i < 10; i++) await c.insertOne({pad});
      return (await metrics(node.info)).veddb_audit_backlog_bytes > 10 << 20;
    });
    await until('it is said', () => node.log().includes('the audit log is too far behind: what is not sealed may be lost'));
    await c.insertOne({_id: 'beyond'});
    assert.equal((await metrics(node.info)).veddb_audit_refusing, 0);
    fs.rmSync(place.ballast);
    await until('it has caught up', async () => (await search(node, 'ns=shed.c', 'text=beyond')).length === 1);
    await client.close();
    await node.down();
    execFileSync('python3', [verifier, place.audit, '--kek', path.join(node.dir, 'kek')]);
    execFileSync('umount', ['-l', mounted.pop()]);
    node.remove();
  });
});
