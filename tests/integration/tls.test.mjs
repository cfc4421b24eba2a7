// tls.test.mjs — the transport seen from outside: which certificates, versions and suites get in, X.509 logins, certificates read
// again under open connections, and the one switch that lets clients in without TLS.
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import fs from 'node:fs';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import {after, before, describe, test} from 'node:test';
import tls from 'node:tls';
import {MongoClient} from 'mongodb';
import {Node, bin, until} from '../support/node.mjs';

const openssl = (...args) => execFileSync('openssl', args, {stdio: ['ignore', 'pipe', 'pipe']});

/** A small authority in a folder: certificates and lists of revoked ones. */
class Authority {
  constructor(folder, name) {
    this.folder = folder;
    fs.mkdirSync(folder, {recursive: true, mode: 0o700});
    this.file = (f) => path.join(folder, f);
    openssl('ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', this.file('ca.key'));
    openssl('req', '-x509', '-new', '-key', this.file('ca.key'), '-sha256', '-days', '30', '-subj', `/O=Test/CN=${name}`,
      '-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign,cRLSign', '-out', this.file('ca.pem'));
    fs.writeFileSync(this.file('index'), '');
    fs.writeFileSync(this.file('serial'), '1000\n');
    fs.writeFileSync(this.file('crlnumber'), '01\n');
    fs.writeFileSync(this.file('conf'), `[ca]\ndefault_ca=d\n[d]\ndatabase=${this.file('index')}\nserial=${this.file('serial')}\ncrlnumber=${this.file('crlnumber')}
new_certs_dir=${folder}\ncertificate=${this.file('ca.pem')}\nprivate_key=${this.file('ca.key')}\ndefault_md=sha256\ndefault_days=10\ndefault_crl_days=5\npolicy=p\nunique_subject=no\nx509_extensions=x
[p]\norganizationName=optional\norganizationalUnitName=optional\ncommonName=supplied\n[x]\nbasicConstraints=CA:FALSE\n`);
  }

  /** Returns {cert, key}: files. */
  issue(name, {subject = `/O=Test/OU=people/CN=${name}`, usage = 'clientAuth', names = 'IP:127.0.0.1,DNS:localhost', dates = [], rsa = 0, digest = 'sha256', itself = false} = {}) {
    const [key, csr, cert, ext] = ['key', 'csr', 'pem', 'ext'].map((e) => this.file(`${name}.${e}`));
    fs.rmSync(cert, {force: true});
    if (rsa) openssl('genrsa', '-out', key, String(rsa));
    else openssl('ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', key);
    fs.chmodSync(key, 0o600);
    if (itself) {
      openssl('req', '-x509', '-new', '-key', key, '-days', '5', '-subj', subject, '-addext', `extendedKeyUsage=${usage}`, '-out', cert);
      return {cert, key};
    }
    openssl('req', '-new', '-key', key, '-subj', subject, '-out', csr);
    fs.writeFileSync(ext, `basicConstraints=CA:FALSE\nextendedKeyUsage=${usage}\nsubjectAltName=${names}\n`);
    openssl('ca', '-batch', '-notext', '-config', this.file('conf'), '-in', csr, '-out', cert, '-extfile', ext, '-md', digest, ...dates);
    return {cert, key};
  }

  /** What the authority says now of a certificate that it has issued, for so many minutes. */
  ocsp(file, minutes = 60) {
    openssl('ocsp', '-index', this.file('index'), '-CA', this.file('ca.pem'), '-rsigner', this.file('ca.pem'), '-rkey', this.file('ca.key'), '-issuer', this.file('ca.pem'),
      '-cert', file, '-no_nonce', '-nmin', String(minutes), '-respout', this.file('ocsp.der'));
    return this.file('ocsp.der');
  }

  revoke(name) {
    openssl('ca', '-config', this.file('conf'), '-revoke', this.file(`${name}.pem`));
    this.list();
  }

  list() {
    openssl('ca', '-config', this.file('conf'), '-gencrl', '-out', this.file('crl.pem'));
  }
}

let dir, ca, other, server, node, client;

before(async () => {
  node = new Node();
  dir = node.dir = fs.mkdtempSync('/tmp/vd-tls-');
  ca = new Authority(path.join(dir, 'authority'), 'authority');
  other = new Authority(path.join(dir, 'other'), 'other');
  ca.list();
  server = ca.issue('server', {usage: 'serverAuth'});
  node.set = [`tls.ocsp_file=${ca.ocsp(server.cert)}`, `tls.certificate_file=${server.cert}`, `tls.key_file=${server.key}`, `tls.ca_file=${ca.file('ca.pem')}`, `tls.crl_file=${ca.file('crl.pem')}`,
    'tls.client_certificates=optional', 'gateway.login_rate=100000'];
  await node.up();
  client = await connect();
});
after(async () => {
  await client?.close();
  await node?.stop();
});

const caFile = () => ca.file('ca.pem');
const uriOf = (user, {cert, key} = {}, extra = '') => `mongodb://${user}127.0.0.1:${node.port}/?tls=true&tlsCAFile=${caFile()}&directConnection=true&serverSelectionTimeoutMS=4000${extra}`;
const pemOf = ({cert, key}) => {
  const file = `${cert}.both`;
  fs.writeFileSync(file, fs.readFileSync(cert, 'utf8') + fs.readFileSync(key, 'utf8'), {mode: 0o600});
  return file;
};
const connect = async (shown) => await new MongoClient(uriOf(`admin:${node.info.password}@`), shown ? {tlsCertificateKeyFile: pemOf(shown)} : {}).connect();
const x509 = async (shown, options = {}) => await new MongoClient(uriOf('', {}, '&authMechanism=MONGODB-X509'), {...(shown ? {tlsCertificateKeyFile: pemOf(shown)} : {}), ...options}).connect();

/** A bare TLS connection; resolves to '' when the server keeps it, else to what the client was told. */
const shake = (options = {}) => new Promise((resolve) => {
  const socket = tls.connect({host: '127.0.0.1', port: node.port, ca: fs.readFileSync(caFile()), servername: 'localhost', ...options});
  let timer;
  const end = (told) => {
    clearTimeout(timer);
    socket.destroy();
    resolve(told);
  };
  socket.on('secureConnect', () => timer = setTimeout(() => end(''), 300)); // TLS 1.3 refuses a client after its side is through
  socket.on('error', (e) => end(e.reason ?? e.code ?? e.message));
  socket.on('close', () => end('closed'));
});
/** A client hello of TLS 1.2 with these suites, and the alert that answers it. */
const bareHello = (suites) => new Promise((resolve, reject) => {
  const u16 = (n) => Buffer.from([n >> 8, n & 255]);
  const list = Buffer.concat(suites.map(u16));
  const extension = (id, body) => Buffer.concat([u16(id), u16(body.length), body]);
  const extensions = Buffer.concat([extension(10, Buffer.from([0, 4, 0, 0x1d, 0, 0x17])), extension(11, Buffer.from([1, 0])), extension(13, Buffer.from([0, 4, 4, 3, 4, 1]))]);
  const hello = Buffer.concat([u16(0x0303), Buffer.alloc(32, 7), Buffer.from([0]), u16(list.length), list, Buffer.from([1, 0]), u16(extensions.length), extensions]);
  const message = Buffer.concat([Buffer.from([1, 0]), u16(hello.length), hello]);
  const socket = net.connect(node.port, '127.0.0.1', () => socket.write(Buffer.concat([Buffer.from([22, 3, 1]), u16(message.length), message])));
  socket.once('data', (d) => {
    socket.destroy();
    resolve(d[0] === 21 ? {level: d[5], alert: d[6]} : {record: d[0]});
  });
  socket.on('error', reject);
});
const shown = ({cert, key}) => ({cert: fs.readFileSync(cert), key: fs.readFileSync(key)});
/** Lines of the log that are new since the last call. */
let seen = 0;
const newLines = () => {
  const all = node.log(), added = all.slice(seen);
  seen = all.length;
  return added;
};

describe('certificates of clients', () => {
  test('each fault is refused with its own message, on both sides', async () => {
    const date = (days) => new Date(Date.now() + days * 86400000).toISOString().replace(/[-:T]/g, '').slice(2, 14) + 'Z';
    assert.equal(await shake(), '');
    assert.equal(await shake(shown(ca.issue('good'))), '');
    const revoked = ca.issue('gone');
    ca.revoke('gone');
    await node.vedctl('reload', 'certs');
    const cases = [
      [ca.issue('expired', {dates: ['-startdate', date(-9), '-enddate', date(-1)]}), /certificate has expired/, /expired/i],
      [ca.issue('early', {dates: ['-startdate', date(2), '-enddate', date(9)]}), /certificate is not yet valid/, /bad certificate|alert/i],
      [other.issue('foreign'), /unable to get local issuer certificate|unable to verify the first certificate/, /unknown ca/i],
      [revoked, /certificate revoked/, /revoked/i],
      [ca.issue('usage', {usage: 'serverAuth'}), /unsuitable certificate purpose/, /unsupported certificate/i],
      [ca.issue('itself', {itself: true}), /self-signed certificate/, /unknown ca/i],
      [ca.issue('weak', {rsa: 1024}), /EE certificate key too weak/, /bad certificate|unsupported certificate|alert/i],
      [ca.issue('sha1', {digest: 'sha1'}), /CA signature digest algorithm too weak/, /bad certificate|unsupported certificate|alert/i],
    ];
    for (const [faulty, logged, told] of cases) {
      newLines();
      const said = await shake({...shown(faulty), ciphers: 'DEFAULT:@SECLEVEL=0'}); // a client that minds nothing
      assert.match(said, told, faulty.cert);
      await until(`a line for ${faulty.cert}: ${logged}`, () => logged.test(node.log().slice(seen)));
    }
  });

  test('old versions, weak suites and renegotiation are not offered', async () => {
    const low = {minVersion: 'TLSv1', ciphers: 'ALL:@SECLEVEL=0'};
    for (const maxVersion of ['TLSv1', 'TLSv1.1']) assert.match(await shake({...low, maxVersion}), /version|alert/i, maxVersion);
    for (const ciphers of ['ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0', 'AES128-GCM-SHA256:@SECLEVEL=0', 'DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0'])
      assert.match(await shake({maxVersion: 'TLSv1.2', ciphers}), /handshake failure/i, ciphers);
    assert.match(newLines(), /TLS handshake refused.*unsupported protocol/);
    // What no library offers any more, by hand: RC4, export, NULL, 3DES, CBC.
    newLines();
    for (const suites of [[0x0005], [0x0003, 0x0008], [0x0001, 0x003b], [0x000a, 0xc012], [0x002f, 0x0035, 0xc009, 0xc00a, 0xc013, 0xc023]])
      assert.deepEqual(await bareHello(suites), {level: 2, alert: 40}, suites.join());
    assert.match(newLines(), /TLS handshake refused.*no shared cipher/);
    // One who was made to come back with less than both sides can do.
    const fallback = (flag) => spawnSync('openssl', ['s_client', '-connect', `127.0.0.1:${node.port}`, '-CAfile', caFile(), '-no_tls1_3', ...flag], {input: '', encoding: 'utf8'});
    assert.match(fallback(['-fallback_scsv']).stderr, /inappropriate fallback/i);
    await until('it is in the log', () => /TLS handshake refused.*inappropriate fallback/.test(node.log().slice(seen)));
    assert.match(fallback([]).stdout, /Protocol *: TLSv1.2/);
    assert.equal(await shake({maxVersion: 'TLSv1.2'}), '');
    const told = await new Promise((resolve) => {
      const socket = tls.connect({host: '127.0.0.1', port: node.port, ca: fs.readFileSync(caFile()), servername: 'localhost', maxVersion: 'TLSv1.2'}, () => {
        if (!socket.renegotiate({}, (e) => e && resolve(e.reason ?? e.code ?? e.message))) resolve('not begun');
      });
      socket.on('error', (e) => resolve(e.reason ?? e.code ?? e.message));
    });
    assert.match(told, /renegotiation/i);
  });

  test('what speaks no TLS is refused, in the log by name', async () => {
    newLines();
    await assert.rejects(new MongoClient(uriOf('').replace('tls=true', 'tls=false').replace(/&tlsCAFile=[^&]*/, ''), {serverSelectionTimeoutMS: 1000}).connect());
    assert.match(newLines(), /TLS handshake refused.*(wrong version number|http request|packet length)/);
  });
});

describe('MONGODB-X509', () => {
  const ALICE = 'CN=alice,OU=people,O=Test';

  test('a user of $external is the subject of a certificate', async () => {
    const external = client.db('$external');
    await assert.rejects(external.command({createUser: ALICE, pwd: 'secret', roles: []}), {code: 2});
    await external.command({createUser: ALICE, roles: [{role: 'readWrite', db: 'shop'}]});
    const {users} = await external.command({usersInfo: ALICE});
    assert.deepEqual([users[0].user, users[0].db, users[0].mechanisms], [ALICE, '$external', ['external']]);
    await assert.rejects(external.command({updateUser: ALICE, pwd: 'secret'}), {code: 2});

    const alice = await x509(ca.issue('alice'));
    assert.deepEqual((await alice.db('admin').command({connectionStatus: 1})).authInfo.authenticatedUsers, [{user: ALICE, db: '$external'}]);
    await alice.db('shop').collection('c').insertOne({_id: 1});
    await assert.rejects(alice.db('other').collection('c').insertOne({_id: 1}), {code: 13});
    await alice.close();
    // The name that a client claims must be that of its certificate.
    const claims = await new MongoClient(uriOf(`${encodeURIComponent(ALICE)}@`, {}, '&authMechanism=MONGODB-X509'), {tlsCertificateKeyFile: pemOf(ca.issue('alice'))}).connect();
    await claims.close();
  });

  test('nobody else gets in', async () => {
    const bob = ca.issue('bob');
    await assert.rejects(x509(bob), {code: 18, codeName: 'AuthenticationFailed'});
    await assert.rejects(x509(undefined), {code: 18});
    await assert.rejects(new MongoClient(uriOf(`${encodeURIComponent(ALICE)}@`, {}, '&authMechanism=MONGODB-X509'), {tlsCertificateKeyFile: pemOf(bob)}).connect(), {code: 18});
    // Not with a password either: there is none.
    await assert.rejects(new MongoClient(uriOf(`${encodeURIComponent(ALICE)}:x@`, {}, '&authMechanism=SCRAM-SHA-256&authSource=$external')).connect());
    const raw = await x509(ca.issue('alice'));
    await assert.rejects(raw.db('admin').command({authenticate: 1, mechanism: 'MONGODB-X509'}), {code: 17});
    await assert.rejects(raw.db('$external').command({authenticate: 1, mechanism: 'MONGODB-CR'}), {code: 334});
    await raw.close();
  });

  test('a certificate gives a token over HTTPS, for the user that it stands for', async () => {
    const ask = (options = {}) => new Promise((resolve, reject) => {
      https.request(`${node.info.httpAddress}/v1/token`, {method: 'POST', ca: fs.readFileSync(caFile()), agent: false, headers: {'content-type': 'application/json'}, ...options}, (r) => {
        let text = '';
        r.on('data', (d) => (text += d));
        r.on('end', () => resolve({status: r.statusCode, body: JSON.parse(text)}));
      }).on('error', reject).end('{"grant_type": "certificate"}');
    });
    const {status, body} = await ask(shown(ca.issue('alice')));
    assert.equal(status, 200, JSON.stringify(body));
    const alice = await new MongoClient(uriOf('', {}, '&authMechanism=MONGODB-OIDC'), {authMechanismProperties: {OIDC_CALLBACK: async () => ({accessToken: body.access_token})}}).connect();
    assert.deepEqual((await alice.db('admin').command({connectionStatus: 1})).authInfo.authenticatedUsers, [{user: ALICE, db: '$external'}]);
    await alice.close();
    assert.deepEqual([(await ask(shown(ca.issue('bob')))).body.error, (await ask()).body.error], ['invalid_grant', 'invalid_request']);
  });

  test('a certificate that is revoked ends what it opened', async () => {
    const cert = ca.issue('carol');
    await client.db('$external').command({createUser: 'CN=carol,OU=people,O=Test', roles: [{role: 'read', db: 'shop'}]});
    const carol = await x509(cert, {maxPoolSize: 1});
    await carol.db('shop').collection('c').findOne();
    ca.revoke('carol');
    await node.vedctl('reload', 'certs');
    await assert.rejects(carol.db('shop').collection('c').findOne());
    await carol.close();
    assert.match(newLines(), /the client's certificate is not accepted any more/);
    await client.db('admin').command({ping: 1}); // others stay
  });

  test('a certificate that expires ends what it opened', async () => {
    const soon = new Date(Date.now() + 4000).toISOString().replace(/[-:T]/g, '').slice(2, 14) + 'Z';
    const cert = ca.issue('alice', {dates: ['-enddate', soon]});
    const alice = await x509(cert, {maxPoolSize: 1, retryReads: false});
    await alice.db('shop').collection('c').findOne();
    await until('the connection ends', async () => {
      try {
        await alice.db('shop').collection('c').findOne();
        return false;
      } catch {
        return true;
      }
    });
    await alice.close();
    assert.match(node.log(), /certificate has expired/);
  });
});

describe('reload', () => {
  const serial = () => new Promise((resolve, reject) => {
    const socket = tls.connect({host: '127.0.0.1', port: node.port, ca: fs.readFileSync(caFile()), servername: 'localhost'}, () => {
      resolve(socket.getPeerCertificate().serialNumber);
      socket.destroy();
    });
    socket.on('error', reject);
  });

  test('new connections get the new certificate, open ones stay; what can\'t be used is refused and named', async () => {
    const closed = [];
    const watched = await new MongoClient(uriOf(`admin:${node.info.password}@`), {maxPoolSize: 1}).connect();
    await watched.db('admin').command({ping: 1});
    watched.on('connectionClosed', (e) => closed.push(e));
    const before = await serial();
    server = ca.issue('server', {usage: 'serverAuth'});
    assert.equal(await serial(), before, 'files alone change nothing');
    await assert.rejects(node.vedctl('reload', 'certs'), (e) => e.code === 1 && /ocsp.der is not about our certificate/.test(e.stderr));
    ca.ocsp(server.cert);
    const {stdout} = await node.vedctl('reload', 'certs');
    assert.match(stdout, /read again/);
    assert.notEqual(await serial(), before);
    const now = await serial();
    await watched.db('admin').command({ping: 1});
    assert.equal(closed.length, 0);
    await watched.close();

    fs.writeFileSync(server.cert, 'no certificate');
    await assert.rejects(node.vedctl('reload', 'certs'), (e) => e.code === 1 && e.stderr.includes(server.cert));
    server = ca.issue('server', {usage: 'clientAuth'});
    await assert.rejects(node.vedctl('reload', 'certs'), (e) => e.code === 1 && /not made for a TLS server/.test(e.stderr));
    assert.equal(await serial(), now, 'what was in force stays');
    server = ca.issue('server', {usage: 'serverAuth', dates: ['-enddate', new Date(Date.now() + 86400000).toISOString().replace(/[-:T]/g, '').slice(2, 14) + 'Z']});
    ca.ocsp(server.cert);
    // The same on the wire; one that ends soon is announced.
    assert.equal((await client.db('admin').command({rotateCertificates: 1})).ok, 1);
    assert.notEqual(await serial(), now);
    await until('the warning', () => /the server certificate expires soon.*expires_in_hours=2[34]/.test(node.log()));
    await until('in the audit log, too', async () => {
      const {records} = JSON.parse((await node.vedctl('--json', 'audit', 'search', 'atype=certificateExpires').catch(() => ({stdout: '{"records":[]}'}))).stdout);
      return records.some((r) => /^the server certificate ends in 2[34] hours$/.test(r.event.param.detail));
    });
    await client.db('admin').command({createUser: 'plain', pwd: 'plain-secret', roles: ['readWriteAnyDatabase']});
    const plain = await new MongoClient(uriOf('plain:plain-secret@')).connect();
    await assert.rejects(plain.db('admin').command({rotateCertificates: 1}), {code: 13});
    await plain.close();
  });
});

describe('OCSP', () => {
  const status = () => execFileSync('openssl', ['s_client', '-connect', `127.0.0.1:${node.port}`, '-CAfile', caFile(), '-status'], {input: '', encoding: 'utf8', stdio: ['pipe', 'pipe', 'ignore']});

  test('what the authority says of our certificate is stapled; a new answer comes with a reload, a bad one is refused', async () => {
    const {metrics} = await import('../support/metrics.mjs');
    assert.match(status(), /OCSP Response Status: successful[^]*Cert Status: good/);
    assert.match(spawnSync('openssl', ['ocsp', '-respin', ca.file('ocsp.der'), '-issuer', caFile(), '-cert', server.cert, '-CAfile', caFile()], {encoding: 'utf8'}).stdout, /: good/);
    const next = () => /Next Update: (.*)/.exec(status())[1];
    const before = next();
    ca.ocsp(server.cert, 600);
    assert.equal(next(), before);
    await node.vedctl('reload', 'certs');
    assert.notEqual(next(), before);
    const left = (await metrics({...node.info, caFile: caFile()}))['veddb_gateway_ocsp_expires_seconds'];
    assert.ok(left > 590 * 60 && left <= 600 * 60, String(left));
    const now = next();
    other.issue('server', {usage: 'serverAuth'});
    fs.copyFileSync(other.ocsp(other.file('server.pem')), ca.file('ocsp.der'));
    await assert.rejects(node.vedctl('reload', 'certs'), (e) => /is not about our certificate/.test(e.stderr));
    fs.writeFileSync(ca.file('ocsp.der'), 'no answer');
    await assert.rejects(node.vedctl('reload', 'certs'), (e) => /is no OCSP response/.test(e.stderr));
    assert.equal(next(), now, 'what was in force stays');
    // The authority takes our certificate back: nobody is told that all is well.
    ca.revoke('server');
    ca.ocsp(server.cert);
    await assert.rejects(node.vedctl('reload', 'certs'), (e) => /says that our certificate is revoked/.test(e.stderr));
    server = ca.issue('server', {usage: 'serverAuth'});
    ca.ocsp(server.cert);
    await node.vedctl('reload', 'certs');
    assert.match(status(), /Cert Status: good/);
  });
});

describe('a node that must not start', () => {
  const check = (...sets) => {
    try {
      execFileSync(path.join(bin, 'vedctl'), ['--config', node.info.configFile, 'config', 'check', ...sets.map((s) => `--${s}`)], {stdio: 'pipe'});
      return '';
    } catch (e) {
      return e.stderr.toString();
    }
  };

  test('tls.insecure_dev is for loopback only', () => {
    assert.equal(check('tls.insecure_dev=true'), '');
    assert.match(check('tls.insecure_dev=true', 'gateway.listen=0.0.0.0'), /tls.insecure_dev is refused unless gateway.listen is on loopback/);
  });

  test('with tls.insecure_dev clients come with TLS and without, and the log is loud', async () => {
    const dev = await Node.start({set: ['tls.insecure_dev=true']});
    try {
      const plain = await new MongoClient(`mongodb://admin:${dev.info.password}@127.0.0.1:${dev.port}/?directConnection=true`).connect();
      await plain.db('d').collection('c').insertMany(Array.from({length: 100}, (_, i) => ({_id: i, text: 'x'.repeat(100000)})));
      assert.equal((await plain.db('d').collection('c').find().toArray()).length, 100);
      await plain.close();
      const secure = await dev.client();
      assert.equal(await secure.db('d').collection('c').countDocuments(), 100);
      await secure.close();
      assert.match(dev.log(), /level=warn.*CLIENTS MAY CONNECT WITHOUT TLS/);
    } finally {
      await dev.stop();
    }
  });
});
