// The C driver of Debian (libmongoc) against a node: driver_c.c does the calls and checks them, one line per check.
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {Node, build} from '../support/node.mjs';

const program = path.join(process.env.VD_TEST_BUILD ?? build, 'tests/driver_c');

let node;
before(async () => (node = await Node.start()));
after(async () => node?.stop());

test('ordinary calls, errors, sessions, every BSON type, zlib, snappy, zstd', () => {
  assert.ok(fs.existsSync(program), `${program} is built by: cmake --build --preset release`);
  const {status, signal, stdout, stderr} = spawnSync(program, {
    encoding: 'utf8',
    timeout: 50000,
    maxBuffer: 1 << 24,
    env: {...process.env, VD_TEST_URI: `${node.uri}&serverSelectionTimeoutMS=20000`},
  });
  assert.equal(status, 0, `${signal ?? ''} ${stdout.split('\n').slice(-12).join('\n')}\n${stderr}`);
  const lines = stdout.trim().split('\n');
  assert.match(lines.at(-1), /^\d+ checks passed$/);
  for (const part of ['insert', 'update', 'bulk', 'find', 'count', 'aggregate', 'find_and_modify', 'session', 'types', 'command', 'zlib', 'snappy', 'zstd'])
    assert.ok(lines.some((l) => l.startsWith(`ok  ${part}: `)), part);
});

test('the password stands in no log and no argument', () => {
  assert.ok(!node.log().includes(node.info.password));
});
