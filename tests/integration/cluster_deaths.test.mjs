// cluster_deaths.test.mjs — three real nodes under load: every process of every role is killed; a replica that was away.
import {describe, test} from 'node:test';
import {others, set, under, useCluster} from './cluster_suite.mjs';
import {until} from '../support/node.mjs';

useCluster();

describe('deaths', () => {
  for (const role of ['primary', 'secondary'])
    for (const workers of [['replicad', 'gatewayd', 'rotated'], ['storaged']])
      test(`${workers.join(', then ')} of a ${role} is killed under load`, {timeout: 180000}, async () => {
        await under(async (load) => {
          for (const worker of workers) {
            const primary = await set.primary();
            const name = role === 'primary' ? primary : others(primary)[0];
            const before = await set.killWorker(name, worker);
            await set.workerBack(name, worker, before.starts);
            await set.primary();
            await load.more(20);
          }
        });
      });

  test('a replica that was away for long catches up', {timeout: 180000}, async () => {
    const away = others(await set.primary())[0];
    await under(async (load) => {
      await set.killNode(away);
      await load.more(700, 120000); // the other two are a majority
      await set.startNode(away);
      await until(`${away} has caught up`, async () => (await set.state(away)) === 'SECONDARY');
    });
  });
});
