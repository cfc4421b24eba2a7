// The sealed audit log: what users do is in it, also over kills of those who keep it; nothing twice, nothing missing; both verifiers
// agree; what was changed on the disk is found.
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {serialize} from 'bson';
import {Node, codeOf, until} from '../support/node.mjs';
import {Raw, msg} from '../support/wire.mjs';

const verifier = path.resolve(import.meta.dirname, '../audit/verify.py');
let node, client, second;

before(async () => {
  second = fs.mkdtempSync(path.join(os.tmpdir(), 'vd-second-'));
  node = await Node.start({set: ['audit.segment_size=65536', 'audit.key_age=1s', `audit.second_place=${second}`]});
  client = await node.client();
});

after(async () => {
  await client?.close();
  await node?.stop();
  fs.rmSync(second, {recursive: true, force: true});
});

const ask = async (...args) => JSON.parse((await node.vedctl('--json', 'audit', ...args)).stdout);
/** The sealed records of these conditions, once there are at least `count`. */
async function records(count, ...conditions) {
  return await until(`${count} records of ${conditions}`, async () => {
    try {
      const found = (await ask('search', ...conditions, 'limit=1000')).records;
      return found.length >= count && found;
    } catch {
      return false; // rotated starts, or another question is being answered
    }
  });
}

test('writes and deletes: who, from where, what, but not content', async () => {
  const c = client.db('shop').collection('orders');
  await c.insertOne({_id: 'o1', card: 'canary-4929'});
  await c.updateOne({_id: 'o1'}, {$set: {card: 'canary-5500'}});
  await c.replaceOne({_id: 'o1'}, {card: 'canary-6011'});
  await c.deleteOne({_id: 'o1'});
  await c.insertMany(Array.from({length: 300}, (_, i) => ({_id: i})));
  for (const atype of ['insert', 'update', 'replace', 'delete']) {
    const [r] = await records(1, `atype=${atype}`, 'ns=shop.orders', 'text=o1');
    assert.deepEqual(r.event.param.ids, ['o1']);
    assert.deepEqual(r.event.users, [{user: node.info.username, db: 'admin'}]);
    assert.equal(r.event.remote.ip, '127.0.0.1');
    assert.ok(r.event.param.version.$timestamp.t > 0);
    assert.ok(!JSON.stringify(r).includes('canary'));
  }
  const many = await records(1, 'atype=insert', 'ns=shop.orders', 'text=299'); // a time or a port may have these digits, too
  assert.equal(many.flatMap((r) => r.event.param.ids).filter((id) => id !== 'o1').length, 300);
});

test('logins, good and bad, refusals, users', async () => {
  await client.db('shop').command({createUser: 'reader', pwd: 'canary-password', roles: ['read']});
  const url = new URL(node.uri.replace('mongodb:', 'http:'));
  url.username = 'reader';
  url.password = 'canary-password';
  const uri = url.href.replace('http:', 'mongodb:') + '&authSource=shop';
  const reader = await node.client({uri});
  assert.equal(await codeOf(() => reader.db('shop').collection('orders').insertOne({})), 13);
  await reader.close();
  assert.equal(await codeOf(() => node.client({uri: uri.replace('canary-password', 'canary-wrong')})), 18);
  const [made] = await records(1, 'atype=createUser');
  assert.equal(made.event.param.name, 'reader');
  assert.deepEqual(made.event.users, [{user: node.info.username, db: 'admin'}]);
  await records(1, 'atype=authenticate', 'user=reader@shop', 'result=0');
  const [bad] = await records(1, 'atype=authenticate', 'result=18');
  assert.equal(bad.event.param.user, 'reader');
  const [refused] = await records(1, 'atype=authCheck', 'user=reader@shop', 'result=13');
  assert.equal(refused.event.param.command, 'insert');
  assert.deepEqual((await ask('search', 'text=canary')).records, []);
});

test('what clients say of themselves, of every connection that somebody logs in on; databases and collections', async () => {
  const {port} = new URL(node.uri.replace('mongodb:', 'http:'));
  const named = await node.client({driver: {appName: 'auditor'}});
  await named.db('fresh').collection('one').insertOne({_id: 1});
  await named.db('fresh').createCollection('two');
  await named.close();
  const said = await records(1, 'atype=clientMetadata', 'text=auditor');
  for (const {event} of said) {
    assert.equal(event.param.clientMetadata.application.name, 'auditor');
    assert.equal(event.param.clientMetadata.driver.name, 'nodejs');
    assert.deepEqual([event.param.localEndpoint.ip, Number(event.param.localEndpoint.port)], ['127.0.0.1', Number(port)]);
    assert.equal(event.remote.ip, '127.0.0.1');
  }
  const made = await records(2, 'atype=createCollection', 'text=fresh.');
  assert.deepEqual(made.map((r) => r.event.param.ns), ['fresh.one', 'fresh.two']);
  const [database, more] = await records(1, 'atype=createDatabase', 'ns=fresh');
  assert.equal(more, undefined, 'once');
  assert.deepEqual(database.event.users, [{user: node.info.username, db: 'admin'}]);
  assert.ok(database.record < made[0].record);
  // More hellos at once than have an event of their own: it comes with the login.
  const raws = await Promise.all(Array.from({length: 90}, () => Raw.connect(node)));
  for (const raw of raws) raw.send(msg({hello: 1, $db: 'admin', client: {driver: {name: 'by hand', version: '1'}, os: {type: 'any'}}}));
  for (const raw of raws) assert.equal((await raw.reply()).doc.ok, 1);
  const loggedIn = [];
  for (const raw of raws.slice(-8)) {
    assert.equal((await raw.login()).ok, 1);
    loggedIn.push(raw.socket.localPort);
  }
  await until('those who logged in have one', async () => {
    const ports = (await records(1, 'atype=clientMetadata', 'text=by hand')).map((r) => Number(r.event.remote.port));
    return loggedIn.every((p) => ports.includes(p));
  });
  for (const raw of raws) raw.close();
  // Users and roles are written by their commands alone.
  for (const name of ['system.users', 'system.roles']) await assert.rejects(client.db('admin').collection(name).insertOne({_id: 'x'}), (e) => e.code > 0, name);
});

test('certificates, refused handshakes, keys, configuration; roles of who did it; names of any bytes', async () => {
  await node.vedctl('reload', 'certs');
  const [reload] = await records(1, 'atype=certificateReload');
  assert.equal(reload.event.result, 0);
  await new Promise((resolve) => {
    const socket = net.connect(node.port, '127.0.0.1', () => socket.write('GET / HTTP/1.0\r\n\r\n'));
    socket.on('error', () => {}).on('close', resolve);
  });
  const [refused] = await records(1, 'atype=tlsHandshakeRefused');
  assert.match(refused.event.param.detail, /^1 refused; the last was 127\.0\.0\.1:\d+: ./);
  await records(1, 'atype=keyCreate');
  await records(1, 'atype=keysHandedOut');
  const configuration = (await records(1, 'atype=configuration')).map((r) => r.event.param.detail).join('');
  assert.match(configuration, /audit\.segment_size=65536; /);
  const [made] = await records(1, 'atype=createUser');
  assert.deepEqual(made.event.roles, [{role: 'root', db: 'admin'}]);
  // What is no UTF-8 costs neither the event nor its place in the log.
  const raw = await Raw.connect(node);
  assert.equal((await raw.login()).ok, 1);
  const bytes = Buffer.from(serialize({dropUser: 'name-of-three-\u00e9', $db: 'shop'}));
  bytes[bytes.indexOf(0xc3)] = 0xff;
  raw.send(msg(null, {first: [Buffer.concat([Buffer.from([0]), bytes])]}));
  assert.equal((await raw.reply()).doc.ok, 0);
  raw.close();
  const dropped = await records(1, 'atype=dropUser');
  assert.equal(dropped.at(-1).event.param.name, undefined);
  assert.notEqual(dropped.at(-1).event.result, 0);
});

test('rotated and storage die in the middle: no write is missing, none is there twice', async () => {
  const c = client.db('shop').collection('kept');
  let stop = false;
  let n = 0;
  const acknowledged = new Set();
  const writer = (async () => {
    while (!stop) {
      const id = n++;
      try {
        await c.insertOne({_id: id});
        acknowledged.add(id);
      } catch (e) {
        if (e.code === 11000) acknowledged.add(id);
      }
    }
  })();
  // An answer to a login means that its record is on the disk: who is killed right behind it has kept it.
  const refused = [];
  for (const worker of ['rotated', 'storaged', 'rotated', 'gatewayd']) {
    const enough = acknowledged.size + 50;
    await until('writes go on', () => acknowledged.size >= enough);
    const raw = await Raw.connect(node), pid = (await node.worker(worker)).pid, name = `nobody-${refused.length}`;
    const {doc} = await raw.run({saslStart: 1, mechanism: 'SCRAM-SHA-256', payload: Buffer.from(`n,,n=${name},r=abc`), $db: 'admin'}).then((doc) => ({doc}));
    const answer = await raw.run({saslContinue: 1, conversationId: doc.conversationId, payload: Buffer.from('c=biws,r=wrong,p=AAAA'), $db: 'admin'});
    process.kill(pid, 'SIGKILL');
    assert.equal(answer.code, 18);
    refused.push(name);
    raw.close();
    await node.whole();
  }
  stop = true;
  await writer;
  const last = Math.max(...acknowledged);
  await records(1, 'ns=shop.kept', `text=[ ${last} ]`);
  await records(4, 'atype=workerEnded');
  for (const name of refused) await records(1, 'atype=authenticate', 'result=18', `text=${name}`);
  // Started and ended, by itself and by a signal.
  await records(2, 'atype=startup');
  const {stdout: tail} = await node.vedctl('--json', 'audit', 'tail', '5');
  const newest = JSON.parse(tail).records;
  assert.equal(newest.length, 5);
  assert.ok(newest.every((r, i) => i === 0 || r.record === newest[i - 1].record + 1));
  await client.close();
  await node.down();
  const printed = execFileSync('python3', [verifier, path.join(node.dir, 'data/audit'), '--kek', path.join(node.dir, 'kek'), '--second', second, '--print'], {
    maxBuffer: 1 << 28,
  });
  const lines = printed.toString().trim().split('\n').map((l) => JSON.parse(l));
  const verdict = lines.pop();
  assert.equal(verdict.records, lines.length);
  const {BSON} = await import('mongodb');
  const seen = new Map();
  for (const line of lines) {
    const event = BSON.deserialize(Buffer.from(line.bson, 'hex'));
    assert.notEqual(event.atype, 'auditGap');
    if (event.param?.ns === 'shop.kept' && event.atype === 'insert')
      for (const id of event.param.ids) seen.set(id, (seen.get(id) ?? 0) + 1);
  }
  for (const id of acknowledged) assert.equal(seen.get(id), 1, `the insert of ${id} is there ${seen.get(id)} times`);
  await node.up();
  client = await node.client();
  await records(1, 'atype=shutdown');
  assert.equal(await client.db('shop').collection('kept').countDocuments(), seen.size);
});

test('verify, prove, explain; segments and sealing keys have changed', async () => {
  const verdict = await until('an answer', async () => {
    try {
      return await ask('verify');
    } catch {
      return false;
    }
  });
  assert.equal(verdict.good, true);
  assert.ok(verdict.lastSegment > 1, 'segments were cut');
  assert.ok(verdict.copies > 0);
  assert.ok(fs.statSync(path.join(node.dir, 'data/audit/keys')).size >= 2 * 176);
  const proof = await ask('prove', '5');
  assert.equal(proof.number, 5);
  assert.ok(proof.siblings.length > 0);
  const {kinds} = await ask('explain');
  assert.ok(kinds.every((k) => k.kept));
  const described = fs.readFileSync(path.resolve(import.meta.dirname, '../../docs/audit-format.md'), 'utf8');
  for (const {atype} of kinds) assert.ok(described.includes(`\`${atype}\``), `docs/audit-format.md says what ${atype} is`);
});

test('a log that was changed is found, and one that was cut is refused', async () => {
  await client.close();
  client = null;
  await node.down();
  const folder = path.join(node.dir, 'data/audit');
  const file = path.join(folder, '00000001.seg');
  const good = fs.readFileSync(file);
  const bad = Buffer.from(good);
  bad[3000] ^= 4;
  fs.writeFileSync(file, bad);
  const run = spawnSync('python3', [verifier, folder, '--second', second]);
  assert.equal(run.status, 1);
  assert.match(run.stdout.toString(), /WRONG: segment 1, byte/);
  await node.up();
  await assert.rejects(ask('verify'), /segment 1, byte/);
  await node.down();
  fs.writeFileSync(file, good);
  const segments = fs.readdirSync(folder).filter((f) => f.endsWith('.seg')).sort();
  const newest = path.join(folder, segments.at(-1));
  const whole = fs.readFileSync(newest);
  fs.writeFileSync(newest, whole.subarray(0, whole.length - 500));
  await assert.rejects(node.up());
  assert.match(fs.readFileSync(path.join(node.dir, 'log'), 'utf8'), /it was cut or changed/);
  fs.writeFileSync(newest, whole);
  await node.up();
  assert.equal((await ask('verify')).good, true);
});
