// cluster_suite.mjs — what the files of cluster tests have in common: one set of three real nodes behind a network
// with faults, a new database per test; after each test the set is whole and all nodes hold the same.
import assert from 'node:assert/strict';
import {after, afterEach, before} from 'node:test';
import {Cluster, Workload} from '../support/cluster.mjs';

export let set, client;
let databases = 0;
export let db; // of the test

/** To be called once, at the top of a file. */
export function useCluster() {
  before(async () => {
    set = await Cluster.start({network: true});
    client = await set.client({driver: {retryWrites: true}});
  }, {timeout: 120000});
  after(async () => await set?.stop(), {timeout: 60000});
  afterEach(async () => {
    if (!set || !db) return;
    set.heal();
    await set.whole();
    await set.equal(db);
  });
}

export function database() {
  db = `d${++databases}`;
  return client.db(db);
}

export const others = (name) => set.names.filter((n) => n !== name);

/** A workload runs while disturb does its work; nothing acknowledged is lost, and it goes on afterwards. */
export async function under(disturb, options) {
  const collection = database().collection('w');
  const load = new Workload(collection, options);
  try {
    await load.more(50);
    await disturb(load);
    set.heal();
    await load.more(50);
  } finally {
    await load.stop();
  }
  await set.whole();
  assert.deepEqual(await load.lost(), []);
  return load;
}
