// tests/chaos/rotation.mjs [KILLS] — rotations of the data keys, one after another, under a load of clients, while processes are killed: at each named fault
// point of a rotation (the one that reached it; the other one of storage and key holder; the supervisor; all), then at KILLS random moments (200).
//   --seed N   what is chosen (printed)     --points-only, --random-only     --only TEXT   fault points with that in their name
//   --dir D    where the node's folder is made; it stays when something fails
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {randomBytes} from 'node:crypto';
import {Node, sleep, until} from '../support/node.mjs';
import {searchOld} from '../support/blocks.mjs';
import {Load, seeded} from './load.mjs';

const argument = (name) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : undefined);
const KILLS = /^\d+$/.test(process.argv[2] ?? '') ? Number(process.argv[2]) : 200;
const seed = Number(argument('--seed') ?? Math.floor(Math.random() * 2 ** 31));
const random = seeded(seed);
const CLIENTS = 6;
const DEEP_EACH = 5; // rotations between two looks at everything

// What a rotation comes by: [point, how many visits are let pass first].
const POINTS = {
  storaged: [
    ['rotation.before_keys', 0], ['rotation.after_keys', 0],
    ['rewrite.before_checkpoint', 0], ['rewrite.before_checkpoint', 2], ['rewrite.after_checkpoint', 0], ['rewrite.after_checkpoint', 2],
    ['rewrite.before_commit', 0], ['rewrite.before_commit', 60], ['rewrite.after_commit', 0], ['rewrite.after_commit', 60],
    ['rewrite.before_log', 0], ['rotation.pass_ended', 0], ['rotation.pass_ended', 1],
    ['rotation.before_verify', 0], ['rotation.after_verify', 0], ['rotation.before_forget', 0], ['rotation.before_wipe', 0],
    ['write.before_commit', 50], ['write.after_commit', 50], ['flusher.before_sync', 50], ['flusher.after_sync', 50],
  ],
  // Its saves: the new key, verifying, retiring, completed.
  rotated: [
    ...[0, 1, 2, 3].map((n) => ['rotation.before_save', n]), ...[0, 1, 2, 3].map((n) => ['rotation.saved', n]),
    ...[0, 1, 2, 3].map((n) => ['keyring.new_synced', n]), ...[0, 3].map((n) => ['keyring.previous_shredded', n]),
    ...[0, 1, 2, 3].map((n) => ['keyring.previous_kept', n]), ['keyring.half_shredded', 0],
    ['audit.segment_rewrapped', 0], ['audit.segment_rewrapped', 1], ['audit.seal_half_wrapped', 0],
  ],
};
const VICTIMS = ['itself', 'the other', 'supervisor', 'all'];

const story = []; // what was done, for whoever looks at a failure
let kills = 0, rotations = 0, logs = 0, node, load;

function tell(line) {
  story.push(`${new Date().toISOString()} ${line}`);
  if (process.env.VD_CHAOS_VERBOSE) console.error(story.at(-1));
}

// ---- the node ----
async function ask(...args) {
  return JSON.parse((await node.vedctl('--json', 'keys', ...args)).stdout);
}
/** undefined while nobody answers. */
const rotation = async () => (await ask('status').catch(() => undefined))?.rotation;

async function reached(states, ms = 180000) {
  return await until(`the rotation is ${states}`, async () => {
    load.check();
    const now = await rotation();
    if (now?.state === 'failed') throw new Error(`the rotation has failed: ${now.note}`);
    return states.includes(now?.state) && now;
  }, ms).catch(async (e) => {
    throw new Error(`${e.message}; it is ${JSON.stringify(await rotation())}`);
  });
}

const pids = async () => Object.fromEntries((await node.status()).workers.map((w) => [w.name, w.pid]));

/** A new start writes a new log: the one before is kept. */
async function up() {
  fs.copyFileSync(node.info.logFile, `${node.info.logFile}.${++logs}`);
  for (let tries = 1; ; tries++) {
    try {
      return await node.up();
    } catch (e) {
      // The address may still be taken, or a worker that was killed with it not be gone yet: not a second time.
      if (tries === 3) throw e;
      tell(`the node did not start: ${e.message}`);
      await sleep(1000);
    }
  }
}

function strike(pid) {
  if (!(pid > 1)) return; // it does not run at present; 0 would be all of us
  try {
    process.kill(pid, 'SIGKILL');
  } catch (e) {
    if (e.code !== 'ESRCH') throw e;
  }
}

/** A second one, while what was killed may be starting again. */
async function strikeAgain() {
  await sleep(random() * 1200);
  const victim = random.of(['storaged', 'rotated']);
  const pid = (await pids().catch(() => ({})))[victim];
  if (!(pid > 1)) return {};
  strike(pid);
  kills++;
  tell(`kill ${kills}: ${victim}, while it starts again`);
  return {[victim]: pid};
}

/** Kills, sometimes twice, and waits until everything runs again. known: pids from before, where storage or the key holder may not answer now. */
async function kill(victims, why, known) {
  const now = known ?? (await pids());
  kills++;
  tell(`kill ${kills}: ${victims} (${why})`);
  const at = Date.now(), twice = !known && random() < 0.2;
  if (victims.includes('supervisor')) {
    await load.outage(async () => {
      for (const v of victims) strike(v === 'supervisor' ? node.pid : now[v]);
      const [again] = await Promise.all([twice ? strikeAgain() : {}, up()]);
      await back(again);
    });
  } else {
    for (const v of victims) strike(now[v]);
    const again = twice ? await strikeAgain() : {};
    await back({...Object.fromEntries(victims.map((v) => [v, now[v]])), ...again});
    if (victims.includes('gatewayd')) await load.goesOn();
  }
  load.check();
  tell(`all run again after ${Date.now() - at} ms`);
}

async function back(old) {
  await until(`${Object.keys(old)} are back`, async () => {
    const workers = await node.status().then((s) => s.workers, () => []);
    return workers.length > 0 && workers.every((w) => w.state === 'running' && w.pid !== old[w.name]);
  }, 60000);
}

/** Resumes by itself: storage is attached again. */
const resumes = async () => await until('the rotation goes on', async () => {
  load.check();
  const now = await rotation();
  return now && (now.attached || !now.busy);
}, 60000);

// ---- one rotation ----
async function start(...options) {
  await node.vedctl('keys', 'rotate', ...options);
  rotations++;
  tell(`rotation ${rotations} ${options.join(' ')}`);
}

async function isOver() {
  const now = await reached(['completed', 'cancelled']);
  if (now.state === 'cancelled') return tell('cancelled');
  const {keys} = await ask('status');
  const states = keys.map((k) => k.state);
  if (states.at(-1) !== 'active' || states.slice(0, -1).some((s) => s !== 'destroyed')) throw new Error(`completed, and the keys are ${states}`);
  await node.vedctl('keys', 'verify'); // exits with 0 only when old keys have no block
  tell(`completed: ${now.blocks} blocks`);
  if (rotations % DEEP_EACH === 0) await deep();
}

async function deep() {
  await load.validate();
  await node.vedctl('audit', 'verify');
  load.check();
  tell('all is valid');
}

// ---- at each fault point ----
function logFollower() {
  let at = fs.statSync(node.info.logFile).size, rest = '';
  return (text) => {
    const size = fs.statSync(node.info.logFile).size;
    if (size > at) {
      const fd = fs.openSync(node.info.logFile), bytes = Buffer.alloc(size - at);
      at += fs.readSync(fd, bytes, 0, bytes.length, at);
      fs.closeSync(fd);
      rest += bytes.toString('latin1');
    }
    return rest.includes(text);
  };
}

async function atPoint(program, point, skip, victim) {
  const now = await pids(), hit = logFollower();
  const other = program === 'storaged' ? 'rotated' : 'storaged';
  tell(`${program} ${point} after ${skip}: ${victim}`);
  // Whoever is to outlive the point stands at it while the others are killed.
  const action = victim === 'itself' ? 'kill' : 'sleep_ms=1500';
  await node.vedctl('misbehave', program, 'fault', `${point}=${action}:times=1:skip=${skip}`);
  await start('--rate', '0', '--max-latency-rise', '0').catch((e) => {
    if (!hit('fault point reached')) throw e; // it was killed before it could answer
    rotations++;
  });
  let none = false;
  await until(`${program} reaches ${point}`, async () => {
    load.check();
    if (hit(`msg="fault point reached" name=${point}`)) return true;
    none = ['completed', 'failed'].includes((await rotation())?.state) && !hit(`msg="fault point reached" name=${point}`);
    return none;
  }, 60000);
  if (none) throw new Error(`the rotation was over before ${program} came to ${point} once more than ${skip} times`);
  if (victim === 'itself') {
    kills++;
    tell(`kill ${kills}: itself`);
    await back({[program]: now[program]});
  } else {
    await kill(victim === 'the other' ? [other] : victim === 'supervisor' ? ['supervisor'] : ['supervisor', 'storaged', 'rotated', 'gatewayd'], point, now);
  }
  await resumes();
  await isOver();
}

async function points() {
  for (const [program, list] of Object.entries(POINTS))
    for (const [point, skip] of list)
      if (point.includes(argument('--only') ?? '')) for (const victim of VICTIMS) await atPoint(program, point, skip, victim);
}

// ---- at random ----
const SETS = [
  ...Array(5).fill(['storaged']), ...Array(4).fill(['rotated']), ...Array(2).fill(['storaged', 'rotated']), ['gatewayd'], ['storaged', 'gatewayd'],
  ['supervisor'], ['supervisor', 'storaged', 'rotated', 'gatewayd'],
];

/** What an operator may do meanwhile; he is refused where it means nothing in this state. */
async function meddle() {
  const say = async (...args) => {
    const done = await node.vedctl('keys', ...args).then(() => true, (e) => (/no rotation|not paused|already|can't/.test(e.stderr ?? '') ? false : Promise.reject(e)));
    tell(`keys ${args.join(' ')}${done ? '' : ': refused'}`);
    return done;
  };
  const what = random();
  if (what < 0.12 && (await say('pause'))) return async () => await say('resume');
  if (what < 0.24) await say('throttle', '--rate', random.of(['0', '4MB/s', '20MB/s']));
  else if (what < 0.34) await say('cancel');
  return async () => {};
}

async function atRandom() {
  for (let until_ = kills + KILLS; kills < until_; ) {
    const most = 1 + random.below(8);
    await start('--rate', random.of(['0', '3MB/s', '8MB/s', '20MB/s']), '--max-latency-rise', random.of(['0', '15']));
    for (let i = 0; i < most && kills < until_; i++) {
      if (random() < 0.3) await nearEnd(random.of(['verifying', 'retiring']));
      else await sleep(random() ** 2 * 2500);
      const now = await rotation();
      if (!now?.busy) break;
      const undo = random() < 0.3 ? await meddle() : async () => {};
      await kill(random.of(SETS), `${now.state} ${now.current ?? ''} pass ${now.pass}`);
      await resumes();
      await undo();
    }
    if ((await rotation()).state === 'paused') await node.vedctl('keys', 'resume');
    await node.vedctl('keys', 'throttle', '--rate', '0', '--max-latency-rise', '0').catch(() => {}); // it may be over
    await isOver();
    const more = random();
    if (more < 0.2) await whileChecking();
    else if (more < 0.4) await rewrap();
  }
}

/** Most of a rotation's time is no verifying or retiring: a kill there is waited for. */
async function nearEnd(state) {
  await node.vedctl('keys', 'throttle', '--rate', '0', '--max-latency-rise', '0').catch(() => {}); // it may be over
  if ((await rotation())?.state === 'paused') await node.vedctl('keys', 'resume');
  await reached([state, 'completed', 'cancelled']);
  await sleep(random() * 60);
}

/** `keys verify` by itself, too, goes on or ends where it began. */
async function whileChecking() {
  const before = (await rotation()).state;
  const asked = node.vedctl('keys', 'verify').catch(() => {}); // who asked may hear nothing
  await sleep(random() * 400);
  await kill(random.of(SETS), 'a check');
  await asked;
  const now = await reached([before], 60000);
  if (now.busy) throw new Error(`it is ${JSON.stringify(now)} behind a check`);
  await node.vedctl('keys', 'verify').catch((e) => {
    if (before === 'completed') throw e;
  });
}

/** Another key-encryption key, and rotated or all killed around it. */
async function rewrap() {
  fs.writeFileSync(path.join(node.dir, 'kek.new'), randomBytes(32).toString('hex'), {mode: 0o600});
  const asked = node.vedctl('keys', 'rewrap').catch(() => {}); // it may be killed before it answers
  await sleep(random() * 60);
  await kill(random.of([['rotated'], ['supervisor', 'rotated', 'storaged', 'gatewayd']]), 'a rewrap');
  await asked;
  fs.rmSync(path.join(node.dir, 'kek.new'), {force: true});
  tell('rewrapped, or not');
}

// ---- the run ----
console.error(`seed ${seed}`);
const base = fs.mkdtempSync(path.join(argument('--dir') ?? os.tmpdir(), 'vd-chaos-'));
let failure;
try {
  node = await Node.start({dir: path.join(base, 'd'), set: ['test.faults=true', 'audit.segment_age=5s', 'audit.key_age=20s']});
  load = new Load(seeded(seed + 1));
  await load.prepare(node.uri);
  load.run(CLIENTS);
  await load.goesOn();
  if (!process.argv.includes('--random-only')) await points();
  if (!process.argv.includes('--points-only')) await atRandom();
  await start('--rate', '0', '--max-latency-rise', '0'); // whatever was cancelled: in the end no old key has a block
  await isOver();
  await load.stop();
  load.check();
  const stored = await load.verify();
  await deep();
  const destroyed = (await ask('status')).keys.filter((k) => k.state === 'destroyed');
  await load.close();
  const last = Number(destroyed.at(-1).version);
  await node.down();
  const found = searchOld(path.join(node.dir, 'data'), destroyed.map((k) => k.id));
  const wrong = [...found.elsewhere, ...found.blocks.filter((b) => b.kind !== 'table')]; // in tables' files there is free space
  if (wrong.length > 0) throw new Error(`destroyed keys stand in files: ${JSON.stringify(wrong.slice(0, 5))}`);
  console.error(`${kills} kills in ${rotations} rotations (key ${last + 1}): ${stored.updates} updates and ${stored.inserts} inserts are there, ${stored.unknown} left open by outages`);
} catch (e) {
  failure = e;
}
if (failure) {
  console.error(`FAILED with --seed ${seed}: ${failure.stack}\n  the last of ${kills} kills in ${rotations} rotations:\n    ${story.slice(-30).join('\n    ')}`);
  fs.writeFileSync(path.join(base, 'story'), story.join('\n'));
  console.error(`all of it, the logs and the data: ${base}`);
}
await load?.stop().catch(() => {});
await load?.close().catch(() => {});
await node?.down().catch(() => {});
if (!failure) fs.rmSync(base, {recursive: true, force: true});
process.exit(failure ? 1 : 0);
