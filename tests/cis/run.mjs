// tests/cis/run.mjs — `./dev cis`: the CIS benchmark against a default node, one line each.
import {Node} from '../support/node.mjs';
import {Subject, checks} from './checks.mjs';

const node = await Node.start();
let passed = 0, failed = 0, people = 0;
try {
  const subject = await Subject.make(node);
  for (const check of checks) {
    if (!check.run) {
      people++;
      console.log(`${check.number.padEnd(4)} by hand  ${check.title}\n              ${check.why}`);
      continue;
    }
    try {
      const what = await check.run(subject);
      passed++;
      console.log(`${check.number.padEnd(4)} pass     ${check.title}\n              ${what}`);
    } catch (e) {
      failed++;
      console.log(`${check.number.padEnd(4)} FAIL     ${check.title}\n              ${e.message}`);
    }
  }
  await subject.close();
} finally {
  await node.stop();
}
console.log(`\n${passed} passed, ${failed} failed, ${people} for a person to decide`);
process.exit(failed === 0 ? 0 : 1);
