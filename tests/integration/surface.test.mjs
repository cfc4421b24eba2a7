// Everything that a client can name: tests/surface walks it, and docs/features.md tells what it found.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import {after, before, test} from 'node:test';
import {Node} from '../support/node.mjs';
import {file, gaps, page, walk} from '../surface/walk.mjs';

let node, client, found;
before(async () => {
  node = await Node.start();
  client = await node.client();
  found = await walk(node, client);
});
after(async () => {
  await client?.close();
  await node?.stop();
});

test('every row has an example, every example a row', () => assert.deepEqual(gaps(), []));
test("no answer is another than MongoDB's", () => assert.deepEqual(found.flatMap((r) => r.wrong.map((w) => `${r.name}: ${w}`)), []));
test('docs/features.md tells what was found; ./dev features writes it anew', () => assert.equal(fs.readFileSync(file, 'utf8'), page(found)));
