// Plain arrays and a real node do the same random operations (tests/model). VD_MODEL_SECONDS: as long as that, and storaged is killed
// after each round; otherwise a few seeds, the same ones each time.
import {after, before, test} from 'node:test';
import {Node} from '../support/node.mjs';
import {World} from '../model/world.mjs';

const seconds = Number(process.env.VD_MODEL_SECONDS ?? 0);
const WORLDS = 4, ROUNDS = 2, OPERATIONS = seconds ? 200 : 60; // of each world in each round
let node, client, transient = 0;
before(async () => {
  node = await Node.start();
  client = await node.client();
});
after(async () => {
  await client?.close();
  await node?.stop();
});

async function play(seed, kill) {
  const db = client.db(`model${seed}`);
  const worlds = [...Array(WORLDS).keys()].map((i) => new World(client, db, `c${i}`, seed * WORLDS + i));
  await Promise.all(worlds.map((w) => w.begin()));
  for (let round = 0; round < ROUNDS; round++) {
    await Promise.all(worlds.map((w) => w.run(OPERATIONS)));
    if (kill) {
      await node.kill('storaged');
      await node.whole();
    }
    await Promise.all(worlds.map((w) => w.check()));
  }
  await db.dropDatabase();
  transient += worlds.reduce((n, w) => n + (w.transient ?? 0), 0);
  return WORLDS * ROUNDS * OPERATIONS;
}

test('arrays and the server do the same', {timeout: (seconds + 600) * 1000}, async () => {
  const first = Number(process.env.VD_TEST_SEED ?? 1), end = Date.now() + seconds * 1000;
  let operations = 0, seed = first;
  do operations += await play(seed++, seconds > 0);
  while (Date.now() < end);
  console.log(`# ${operations} operations, seeds ${first} to ${seed - 1}; ${transient} transactions ended by the server`);
});
