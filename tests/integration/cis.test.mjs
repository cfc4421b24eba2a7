// The CIS benchmark against a default node (tests/cis): everything that a program can decide holds with no configuration.
import {after, before, test} from 'node:test';
import {Node} from '../support/node.mjs';
import {Subject, checks} from '../cis/checks.mjs';

let node, subject;
before(async () => {
  node = await Node.start();
  subject = await Subject.make(node);
});
after(async () => {
  await subject?.close();
  await node?.stop();
});

for (const {number, title, run, why} of checks)
  test(`${number} ${title}`, {skip: run ? false : why}, async (t) => t.diagnostic(await run(subject)));
