// Secrets are planted everywhere; none may be found where it does not belong: logs at every level, the node's files, arguments and
// environments of all processes, errors, metrics, the audit log.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import fs from 'node:fs';
import https from 'node:https';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import {after, before, test} from 'node:test';
import {MongoClient} from 'mongodb';
import {Node, until} from '../support/node.mjs';

const word = (what) => `canary-${what}-${crypto.randomBytes(9).toString('hex')}`;
const planted = {
  password: word('password'), changed: word('changed'), wrong: word('wrong'), document: word('document'), needle: word('needle'), unset: word('unset'),
  credential: word('credential'), subject: word('subject'), path: word('path'), batch: word('batch'),
};
const errors = [], answers = [];
const attempt = async (fn) => {
  try {
    answers.push(JSON.stringify(await fn()));
  } catch (e) {
    errors.push(`${e.message} ${JSON.stringify(e)} ${JSON.stringify(e.errorResponse ?? {})} ${e.stderr ?? ''}`);
  }
};
let node, dir, token;

before(async () => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'vd-'));
  const pair = crypto.generateKeyPairSync('ec', {namedCurve: 'P-256'});
  fs.writeFileSync(path.join(dir, 'jwks'), JSON.stringify({keys: [{...pair.publicKey.export({format: 'jwk'}), kid: 'k', use: 'sig', alg: 'ES256'}]}));
  const part = (o) => Buffer.from(JSON.stringify(o)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const head = `${part({alg: 'ES256', kid: 'k', typ: 'JWT'})}.${part({iss: 'https://issuer.example', aud: 'veddb', sub: 'nobody', exp: now + 600, private: planted.credential})}`;
  token = `${head}.${crypto.sign('sha256', head, {key: pair.privateKey, dsaEncoding: 'ieee-p1363'}).toString('base64url')}`;
  planted.token = token.split('.')[2]; // the part that nobody can know without it
  node = await Node.start({set: ['oidc.issuer=https://issuer.example', 'oidc.audience=veddb', `oidc.jwks_file=${path.join(dir, 'jwks')}`]});
  planted.admin = node.info.password;
  planted.kek = fs.readFileSync(path.join(node.dir, 'kek'), 'utf8').trim();
  planted.key = fs.readFileSync(path.join(node.dir, 'certs/server.key'), 'utf8').split('\n')[1];
  planted.uri = node.uri.replace(/&.*/, '');
});
after(async () => {
  await node?.stop();
  fs.rmSync(dir, {recursive: true, force: true});
});

const http = (where, headers = {}) =>
  new Promise((resolve, reject) => {
    const request = https.get(node.info.httpAddress + where, {ca: fs.readFileSync(node.info.caFile), headers}, (r) => {
      let text = '';
      r.on('data', (d) => (text += d));
      r.on('end', () => resolve(`${r.statusCode} ${text}`));
    });
    request.on('error', reject);
  });

const login = async (userinfo, options = '') => {
  const client = new MongoClient(node.uri.replace(/\/\/[^@]*@/, `//${userinfo}`) + options, {serverSelectionTimeoutMS: 10000});
  try {
    await client.connect();
    return await client.db('admin').command({connectionStatus: 1});
  } finally {
    await client.close();
  }
};

const raw = (connect) =>
  new Promise((resolve) => {
    const socket = connect(() => socket.write(`GET /${planted.path} HTTP/1.1\r\nAuthorization: Bearer ${token}\r\n\r\n`));
    socket.on('error', () => resolve());
    socket.on('close', () => resolve());
    socket.setTimeout(1000, () => socket.destroy());
  });

test('secrets are planted', async () => {
  for (const level of ['info', 'debug']) {
    await node.vedctl('log-level', level);
    const client = await node.client();
    const admin = client.db('admin'), t = client.db('canary').collection('t');
    const user = `u${level}`;
    await admin.command({createUser: user, pwd: planted.password, roles: ['readWriteAnyDatabase']});
    await attempt(() => admin.command({createUser: user, pwd: planted.password, roles: []}));
    await attempt(() => admin.command({createUser: 'x', pwd: planted.password, roles: [{role: 'none', db: 'none'}]}));
    await attempt(() => admin.command({createUser: 'y', pwd: planted.password, roles: [], unknown: planted.unset}));
    await attempt(() => login(`${user}:${planted.password}@`));
    await attempt(() => login(`${user}:${planted.wrong}@`));
    await attempt(() => login(`nobody:${planted.wrong}@`));
    await admin.command({updateUser: user, pwd: planted.changed});
    await attempt(() => login(`${user}:${planted.changed}@`));
    await attempt(() => admin.command({saslStart: 1, mechanism: 'SCRAM-SHA-256', payload: Buffer.from(`n,,n=${planted.subject},r=${planted.credential}`)}));
    await attempt(() => admin.command({saslStart: 1, mechanism: 'PLAIN', payload: Buffer.from(`\0u\0${planted.wrong}`)}));
    for (const jwt of [token, `${token}x`, token.replace(/\.[^.]*$/, '.AAAA')]) {
      await attempt(() => admin.command({saslStart: 1, mechanism: 'MONGODB-OIDC', payload: Buffer.concat([Buffer.from([jwt.length + 14, jwt.length + 14 >> 8, 0, 0, 2]), Buffer.from('jwt\0'), Buffer.from(jwt)])}));
      await attempt(() => http('/status', {Authorization: `Bearer ${jwt}`}));
    }
    await attempt(() => http(`/status?token=${planted.path}`, {Authorization: `Basic ${Buffer.from(`admin:${planted.wrong}`).toString('base64')}`}));
    await attempt(() => http('/metrics', {Authorization: `Basic ${Buffer.from(`${user}:${planted.changed}`).toString('base64')}`}));
    await raw((go) => tls.connect({port: node.port, host: '127.0.0.1', rejectUnauthorized: false}, go));
    await raw((go) => net.connect(node.port, '127.0.0.1', go));
    await t.insertMany([...Array(200).keys()].map((i) => ({_id: `${level}${i}`, secret: planted.document, list: [planted.batch], filler: planted.document.repeat(20)})));
    await t.createIndex({secret: 1});
    await t.find({secret: planted.needle}).toArray();
    await t.find({secret: planted.document}).batchSize(10).toArray();
    await attempt(() => t.updateMany({secret: planted.document}, {$set: {more: planted.unset}}));
    await attempt(() => t.updateMany({secret: planted.document}, {$inc: {secret: 1}}));
    await attempt(() => t.aggregate([{$match: {secret: planted.document}}, {$group: {_id: '$secret', n: {$sum: 1}}}, {$sort: {n: 1}}]).toArray());
    await attempt(() => t.find({secret: {$regex: `^${planted.needle}(`}}).toArray());
    await t.deleteMany({_id: /^info1/});
    await client.close();
  }
  // Through a crash and a restart: what recovery says and writes, too.
  await node.kill('storaged');
  await node.whole();
  await node.vedctl('audit', 'verify');
  answers.push((await node.vedctl('status', '--json')).stdout);
  assert.ok(errors.length >= 10, `errors were made: ${errors.length}`);
});

/** The forms in which a secret could turn up. */
const forms = (secret) => [secret, Buffer.from(secret).toString('base64').replace(/=+$/, ''), Buffer.from(secret).toString('hex'),
  ...(/^[0-9a-f]{64}$/.test(secret) ? [Buffer.from(secret, 'hex')] : [])].map((f) => Buffer.from(f));
const found = (bytes, names = Object.keys(planted)) => names.filter((name) => forms(planted[name]).some((f) => bytes.includes(f)));

test('no log line has them, at any level', () => {
  const log = fs.readFileSync(node.info.logFile);
  assert.match(log.toString(), /level=debug/, 'it was that loud');
  assert.deepEqual(found(log), []);
});

test('no argument and no environment has them', async () => {
  const hits = [];
  let looked = 0;
  for (const pid of fs.readdirSync('/proc').filter((p) => /^\d+$/.test(p)))
    for (const file of ['cmdline', 'environ']) {
      try {
        for (const name of found(fs.readFileSync(`/proc/${pid}/${file}`))) hits.push([pid, file, name]);
        looked++;
      } catch {
        // ended meanwhile, or not ours to read
      }
    }
  assert.deepEqual(hits, []);
  assert.ok(looked > 8);
});

test('no error says a password, a token or a key', () => {
  const secret = Object.keys(planted).filter((n) => !['document', 'needle', 'unset', 'batch', 'subject', 'path'].includes(n));
  for (const e of errors) assert.deepEqual(found(Buffer.from(e), secret), [], e);
  for (const a of answers) assert.deepEqual(found(Buffer.from(a), secret), [], a.slice(0, 300));
});

test('the audit log shows who did what, not the content', async () => {
  const text = (await node.vedctl('audit', 'search', '--limit', '100000').catch(async () => await node.vedctl('audit', 'tail', '1000'))).stdout;
  assert.match(text, /createUser/);
  assert.deepEqual(found(Buffer.from(text), Object.keys(planted).filter((n) => n !== 'subject')), []);
});

test('no file of the node has them, but those in which they were given', async () => {
  await node.down(); // everything is written
  const given = new Set(['kek', 'bootstrap.json', 'connection.json', 'certs/server.key', 'certs/ca.key']);
  assert.deepEqual(found(fs.readFileSync(path.join(node.dir, 'kek'))), ['kek'], 'what is there is found');
  assert.deepEqual(found(fs.readFileSync(path.join(node.dir, 'bootstrap.json'))), ['admin']);
  assert.deepEqual(found(Buffer.from(Buffer.from(planted.needle).toString('base64'))), ['needle']);
  const hits = [];
  let looked = 0;
  for (const entry of fs.readdirSync(node.dir, {recursive: true, withFileTypes: true})) {
    const file = path.join(entry.parentPath ?? entry.path, entry.name), name = path.relative(node.dir, file);
    if (!entry.isFile() || given.has(name)) continue;
    for (const secret of found(fs.readFileSync(file))) hits.push([name, secret]);
    looked++;
  }
  assert.deepEqual(hits, []);
  assert.ok(looked > 20, `${looked} files`);
  await node.up(); // so that stop() finds it
  await until('all are back', () => node.whole());
});
