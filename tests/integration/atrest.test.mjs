// Nothing of a document is found in any file; damage is refused by name, never silent.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {Node, foundInFiles} from '../support/node.mjs';

const MARK = 'Zwölftausend-Nachtigallen-0815';
let node, saved;

/** Every test works on a copy of one stopped node's folder. */
before(async () => {
  node = await Node.start();
  const client = await node.client();
  const c = client.db('geheim').collection('vogelhaus');
  for (let i = 0; i < 300; i++) await c.insertOne({_id: `${MARK}-${i}`, feldname_lang: MARK, pad: MARK.repeat(30)});
  await c.updateMany({}, {$set: {noch: `${MARK}-neu`}});
  await client.close();
});
after(async () => {
  if (saved) fs.rmSync(saved, {recursive: true, force: true});
  await node?.stop();
});

const nothingFound = () => {
  for (const needle of [MARK, 'feldname_lang', 'vogelhaus', 'geheim', node.info.password]) {
    const hits = foundInFiles(path.join(node.dir, 'data'), needle);
    assert.deepEqual(hits, [], `${needle} stands in a file`);
  }
};

test('no document, field or collection name is found in any file while it runs', nothingFound);

test('nor after a kill and a clean stop', async () => {
  node.killSupervisor();
  nothingFound();
  await node.up();
  nothingFound();
  await node.down();
  nothingFound();
  saved = `${node.dir}-saved`;
  fs.cpSync(path.join(node.dir, 'data'), saved, {recursive: true});
});

const restore = () => {
  fs.rmSync(path.join(node.dir, 'data'), {recursive: true, force: true});
  fs.cpSync(saved, path.join(node.dir, 'data'), {recursive: true});
};
const files = () =>
  fs
    .readdirSync(path.join(node.dir, 'data'), {recursive: true, withFileTypes: true})
    .filter((e) => e.isFile())
    .map((e) => path.join(e.parentPath ?? e.path, e.name));
const flip = (file, at) => {
  const fd = fs.openSync(file, 'r+');
  const b = Buffer.alloc(1);
  fs.readSync(fd, b, 0, 1, at);
  b[0] ^= 0x20;
  fs.writeSync(fd, b, 0, 1, at);
  fs.closeSync(fd);
};
const refused = async (pattern) => {
  fs.rmSync(path.join(node.dir, 'log'), {force: true});
  await assert.rejects(node.up(), 'it started');
  assert.match(node.log(), pattern);
};

for (const [what, match, pattern] of [
  ['the turtle file', /WiredTiger\.turtle$/, /turtle/],
  ['the metadata', /WiredTiger\.wt$/, /WiredTiger\.wt/],
  ['the keyring', /keys\/keyring$/, /keyring/],
]) {
  test(`missing ${what}: refusal to start that names it`, async () => {
    restore();
    const file = files().find((f) => match.test(f));
    assert.ok(file, `no file ${match}`);
    fs.rmSync(file);
    await refused(pattern);
  });
  test(`a flipped bit in ${what}: refusal to start that names it`, async () => {
    restore();
    const file = files().find((f) => match.test(f));
    flip(file, Math.floor(fs.statSync(file).size / 2));
    await refused(pattern);
  });
}

test('a missing log file: refusal that names it', async () => {
  restore();
  const logs = files().filter((f) => /WiredTigerLog\.\d+$/.test(f)).sort();
  assert.ok(logs.length > 0);
  fs.rmSync(logs[0]);
  await refused(/WiredTigerLog/);
});

test('a missing key file: refusal that names it', async () => {
  restore();
  const kek = path.join(node.dir, 'kek');
  fs.renameSync(kek, `${kek}.away`);
  await refused(/kek/);
  fs.renameSync(`${kek}.away`, kek);
});

test('the data as it was starts again, and everything is there', async () => {
  restore();
  await node.up();
  const client = await node.client();
  assert.equal(await client.db('geheim').collection('vogelhaus').countDocuments({noch: `${MARK}-neu`}), 300);
  await client.close();
});

test('a flipped bit in the middle of the log: refusal with file and offset', async () => {
  const client = await node.client();
  await client.db('geheim').collection('mehr').insertMany([...Array(500).keys()].map((i) => ({_id: i, pad: MARK.repeat(10)})));
  // The next flush says of the one before that it had ended: without it this might be a torn end.
  await client.db('geheim').collection('mehr').insertOne({_id: 'after'});
  await client.close();
  node.killSupervisor();
  const logs = files().filter((f) => /WiredTigerLog\.\d+$/.test(f)).sort();
  const log = logs[logs.length - 1];
  const bytes = fs.readFileSync(log);
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end--;
  flip(log, Math.floor(end / 2));
  await refused(/WiredTigerLog\.\d+.*offset|offset.*WiredTigerLog/s);
});
