// tests/cis/checks.mjs — the CIS benchmark for MongoDB 7 as assertions against a default node. Each returns what it looked at, or throws.
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import fs from 'node:fs';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import tls from 'node:tls';
import {MongoClient} from 'mongodb';
import {bin, foundInFiles} from '../support/node.mjs';

const WORKERS = ['rotated', 'storaged', 'gatewayd'];
const KEEPERS = {data: 'veddb-storaged', keys: 'veddb-rotated', audit: 'veddb-rotated'};
const root = process.getuid() === 0;

/** The node with a client that is root there, one that has not logged in, and one with few rights. */
export class Subject {
  static async make(node) {
    const s = new Subject();
    s.node = node;
    s.admin = await node.client();
    s.stranger = new MongoClient(node.uri.replace(/\/\/[^@]*@/, '//'), {serverSelectionTimeoutMS: 10000});
    await s.stranger.connect();
    await s.admin.db('cis').command({createUser: 'reader', pwd: 'cis-reader-password', roles: [{role: 'read', db: 'cis'}]});
    s.reader = new MongoClient(node.uri.replace(/\/\/[^@]*@/, '//reader:cis-reader-password@').replace('/?', '/cis?'), {serverSelectionTimeoutMS: 10000});
    await s.reader.connect();
    s.files = Object.fromEntries(Object.keys(KEEPERS).map((name) => [name, path.join(node.dir, 'data', name)]));
    return s;
  }

  async close() {
    for (const c of [this.admin, this.stranger, this.reader]) await c?.close();
  }

  async pids() {
    return new Map(await Promise.all(WORKERS.map(async (name) => [name, (await this.node.worker(name)).pid])));
  }

  /** What a TLS client offers, and what comes of it: the version and suite agreed on, or the error. */
  async handshake(options) {
    return await new Promise((resolve) => {
      const socket = tls.connect({host: '127.0.0.1', port: this.node.port, ca: fs.readFileSync(this.node.info.caFile), servername: 'localhost', ...options}, () => {
        resolve({version: socket.getProtocol(), suite: socket.getCipher().name});
        socket.destroy();
      });
      socket.on('error', (e) => resolve({error: e.code ?? e.message}));
    });
  }

  config() {
    return fs.readFileSync(this.node.info.configFile, 'utf8');
  }
}

const codeOf = async (fn) => await fn().then(() => 0, (e) => e.code ?? -1);
const listeners = (pid) => {
  const inodes = new Set(fs.readdirSync(`/proc/${pid}/fd`).map((fd) => /socket:\[(\d+)\]/.exec(readlink(`/proc/${pid}/fd/${fd}`))?.[1]));
  const at = [];
  for (const file of ['tcp', 'tcp6'])
    for (const line of fs.readFileSync(`/proc/${pid}/net/${file}`, 'utf8').split('\n').slice(1)) {
      const f = line.trim().split(/\s+/);
      if (f[3] === '0A' && inodes.has(f[9])) at.push(f[1]);
    }
  return at;
};
const readlink = (file) => {
  try {
    return fs.readlinkSync(file);
  } catch {
    return '';
  }
};
const walk = (folder) =>
  fs.readdirSync(folder, {recursive: true, withFileTypes: true}).map((e) => path.join(e.parentPath ?? e.path, e.name));
const LEGACY = ['TLSv1', 'TLSv1.1'];

export const checks = [
  {
    number: '1.1',
    title: 'Ensure the appropriate MongoDB software version/patches are installed',
    why: 'which release is the right one is not written on the machine; the version is printed by every program (--version)',
  },
  {
    number: '2.1',
    title: 'Ensure Authentication is configured',
    async run(s) {
      for (const command of [{listDatabases: 1}, {find: 'x'}, {insert: 'x', documents: [{a: 1}]}, {serverStatus: 1}, {createUser: 'x', pwd: 'x', roles: []}])
        assert.equal(await codeOf(() => s.stranger.db('admin').command(command)), 13, JSON.stringify(command));
      const wrong = new MongoClient(s.node.uri.replace(/\/\/[^@]*@/, '//admin:wrong@'), {serverSelectionTimeoutMS: 10000});
      assert.equal(await codeOf(() => wrong.connect()), 18);
      await wrong.close();
      for (const option of ['auth', 'authorization', 'noauth']) assert.doesNotMatch(s.config(), new RegExp(`^ *${option}:`, 'm'));
      return 'without a login 5 commands are refused (13), a wrong password is (18); there is no option that switches logins off';
    },
  },
  {
    number: '2.2',
    title: 'Ensure that MongoDB does not bypass authentication via the localhost exception',
    async run(s) {
      assert.equal(await codeOf(() => s.stranger.db('admin').command({createUser: 'intruder', pwd: 'x', roles: ['root']})), 13);
      const {users} = await s.admin.db('admin').command({usersInfo: 1});
      assert.ok(!users.some((u) => u.user === 'intruder'));
      assert.equal(await codeOf(() => s.admin.db('admin').command({setParameter: 1, enableLocalhostAuthBypass: true})) !== 0, true);
      return 'from 127.0.0.1 no user can be made without a login; the parameter enableLocalhostAuthBypass is refused';
    },
  },
  {
    number: '2.3',
    title: 'Ensure authentication is enabled in the sharded cluster',
    async run(s) {
      // A listener for other nodes can't exist without certificates on both sides.
      const r = spawnSync(path.join(bin, 'veddb-supervisor'), ['--config', s.node.info.configFile, '--replication.port=1'], {encoding: 'utf8'});
      assert.equal(r.status, 125);
      assert.match(r.stderr, /replication.port needs replication.certificate_file/);
      assert.equal((await s.node.worker('replicad')) ?? undefined, undefined);
      return 'nodes speak mutual TLS or not at all: replication.port without certificates is refused; this node has no such listener';
    },
  },
  {
    number: '3.1',
    title: 'Ensure least privilege for database accounts',
    async run(s) {
      for (const [db, command] of [['cis', {insert: 'x', documents: [{a: 1}]}], ['cis', {dropDatabase: 1}], ['other', {find: 'x'}], ['admin', {usersInfo: 1}],
        ['admin', {getCmdLineOpts: 1}], ['admin', {getLog: 'global'}], ['cis', {createUser: 'y', pwd: 'y', roles: []}], ['cis', {grantRolesToUser: 'reader', roles: ['dbOwner']}]])
        assert.equal(await codeOf(() => s.reader.db(db).command(command)), 13, `${db} ${JSON.stringify(command)}`);
      await s.reader.db('cis').collection('x').findOne();
      return 'a user with read on one database reads there; 8 other things are refused (13)';
    },
  },
  {
    number: '3.2',
    title: 'Ensure that role-based access control is enabled and configured appropriately',
    async run(s) {
      const {roles} = await s.admin.db('admin').command({rolesInfo: 1, showBuiltinRoles: true});
      for (const name of ['read', 'readWrite', 'dbAdmin', 'userAdmin', 'root']) assert.ok(roles.some((r) => r.role === name), name);
      const {authInfo} = await s.reader.db('admin').command({connectionStatus: 1});
      assert.deepEqual(authInfo.authenticatedUserRoles.map((r) => `${r.role}@${r.db}`), ['read@cis']);
      return `${roles.length} built-in roles; the roles of a connection are those of its user`;
    },
  },
  {
    number: '3.3',
    title: 'Ensure that MongoDB is run using a non-privileged, dedicated service account',
    async run(s) {
      const users = [];
      for (const [name, pid] of await s.pids()) {
        const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8');
        const uid = Number(/^Uid:\t(\d+)/m.exec(status)[1]);
        assert.notEqual(uid, 0, `${name} runs as root`);
        assert.match(status, /^CapEff:\t0+$/m);
        users.push(root ? execFileSync('id', ['-un', String(uid)], {encoding: 'utf8'}).trim() : `uid ${uid}`);
      }
      if (root) assert.deepEqual(users, WORKERS.map((name) => `veddb-${name}`));
      return `the workers run as ${users.join(', ')} without capabilities`;
    },
  },
  {
    number: '3.4',
    title: 'Ensure that each role for each MongoDB database is needed and grants only the necessary privileges',
    why: 'needed by whom is for the operator to say; that a default node has no custom role is checked with 3.5',
  },
  {
    number: '3.5',
    title: 'Review Superuser/Admin Roles',
    async run(s) {
      const {users} = await s.admin.db('admin').command({usersInfo: {forAllDBs: true}});
      const strong = users.filter((u) => u.roles.some((r) => ['root', '__system', 'userAdminAnyDatabase', 'dbOwner', 'restore'].includes(r.role)));
      assert.deepEqual(strong.map((u) => u.user), ['admin']);
      const {roles} = await s.admin.db('admin').command({rolesInfo: 1});
      assert.deepEqual(roles, []);
      return 'the only user with administrative roles is the first administrator; there is no custom role';
    },
  },
  {
    number: '4.1',
    title: 'Ensure legacy TLS protocols are disabled',
    async run(s) {
      for (const version of LEGACY) {
        const r = await s.handshake({minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0'});
        assert.match(r.error ?? 'it is spoken', /ALERT|ECONNRESET/, `${version}: refused by the server`);
      }
      for (const version of ['TLSv1.2', 'TLSv1.3']) assert.equal((await s.handshake({minVersion: version, maxVersion: version})).version, version);
      return 'TLS 1.0 and 1.1 are refused, 1.2 and 1.3 spoken';
    },
  },
  {
    number: '4.2',
    title: 'Ensure Weak Protocols are Disabled',
    async run(s) {
      for (const suite of ['AES128-SHA', 'AES128-GCM-SHA256', 'ECDHE-ECDSA-AES128-SHA', 'ECDHE-ECDSA-AES256-SHA384', 'ECDHE-ECDSA-NULL-SHA'])
        assert.match((await s.handshake({maxVersion: 'TLSv1.2', ciphers: `${suite}@SECLEVEL=0`})).error ?? 'it is spoken', /ALERT|ECONNRESET/, suite);
      const plain = await new Promise((resolve) => {
        const socket = net.connect(s.node.port, '127.0.0.1', () => socket.write(Buffer.from('3a0000000100000000000000d40700000000000061646d696e2e24636d640000000000ffffffff130000001069736d6173746572000100000000', 'hex')));
        socket.on('data', (d) => resolve(d.toString('latin1')));
        socket.on('close', () => resolve(''));
        socket.on('error', () => resolve(''));
      });
      assert.ok(!plain.includes('ismaster'), 'an answer without TLS');
      return 'suites without forward secrecy, with CBC or without encryption are refused; without TLS nothing is answered';
    },
  },
  {
    number: '4.3',
    title: 'Ensure Encryption of Data in Transit TLS or SSL (Transport Encryption)',
    async run(s) {
      const plain = new MongoClient(s.node.uri.replace('tls=true&', '').replace(/tlsCAFile=[^&]*&?/, ''), {serverSelectionTimeoutMS: 1500});
      assert.notEqual(await codeOf(() => plain.connect()), 0);
      await plain.close();
      const r = spawnSync(path.join(bin, 'veddb-supervisor'), ['--config', s.node.info.configFile, '--tls.insecure_dev=true', '--gateway.listen=0.0.0.0'], {encoding: 'utf8'});
      assert.equal(r.status, 125);
      const http = await new Promise((resolve) => {
        const request = https.get(`${s.node.info.httpAddress}/metrics`, {ca: fs.readFileSync(s.node.info.caFile)}, (r) => resolve(r.statusCode));
        request.on('error', (e) => resolve(e.code));
      });
      assert.equal(http, 401, 'the administrative surface: TLS, and a login');
      return 'a driver without TLS gets nowhere; plain text is refused by configuration outside of loopback; HTTPS asks for a login';
    },
  },
  {
    number: '4.4',
    title: 'Ensure Federal Information Processing Standard (FIPS) is enabled',
    why: 'a matter of the machine: OpenSSL 3 takes a FIPS provider from its own configuration; Debian 12 ships none',
  },
  {
    number: '4.5',
    title: 'Ensure Encryption of Data at Rest',
    async run(s) {
      const needle = 'cis-needle-that-must-not-lie-in-the-clear';
      await s.admin.db('cis').collection('secret').insertOne({needle, filler: needle.repeat(10)}, {writeConcern: {w: 1, j: true}});
      await s.admin.db('admin').command({fsync: 1}).catch(() => {}); // where there is none, the journal is enough
      assert.deepEqual(foundInFiles(path.join(s.node.dir, 'data'), needle), []);
      assert.deepEqual(foundInFiles(path.join(s.node.dir, 'data'), 'cis-reader-password'), []);
      return 'a document just written, and a password, are found in no file of the node';
    },
  },
  {
    number: '5.1',
    title: 'Ensure that system activity is audited',
    async run(s) {
      const out = (await s.node.vedctl('audit', 'search', 'atype=createUser')).stdout;
      assert.match(out, /reader/);
      const failed = (await s.node.vedctl('audit', 'search', 'atype=authenticate')).stdout;
      assert.match(failed, /"result":18|result":\{"\$numberInt":"18"|: ?18/);
      const verdict = await s.node.vedctl('audit', 'verify');
      assert.ok(verdict.stdout.length > 0);
      return 'the sealed audit log has the user made here and the login refused here, and verifies';
    },
  },
  {
    number: '5.2',
    title: 'Ensure that audit filters are configured properly',
    async run(s) {
      const {stdout} = spawnSync(path.join(bin, 'vedctl'), ['--config', s.node.info.configFile, 'config', 'show'], {encoding: 'utf8'});
      const audit = /^audit:\n((?: .*\n)+)/m.exec(stdout)[1];
      assert.match(audit, /^  enabled: true$/m);
      assert.match(audit, /^  filter: ""$/m);
      return 'nothing is filtered out by default: audit.filter is empty';
    },
  },
  {
    number: '5.3',
    title: 'Ensure that logging captures as much information as possible',
    async run(s) {
      const log = s.node.log();
      for (const what of [/msg="worker ready"/, /msg="node ready"/]) assert.match(log, what);
      assert.match(log, /^ts=\S+ level=info prog=\S+ pid=\d+/m, 'level info, with time, program and process');
      assert.doesNotMatch(s.config(), /quiet|level: (warn|error|fatal)/);
      return 'log.level is info, there is no quiet mode; each line has time, level, program, process';
    },
  },
  {
    number: '5.4',
    title: 'Ensure that new entries are appended to the end of the log file',
    async run(s) {
      for (const pid of [s.node.pid, ...(await s.pids()).values()]) {
        const flags = parseInt(/^flags:\t(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/fdinfo/2`, 'utf8'))[1], 8);
        assert.ok(flags & 0o2000, `${pid}: standard error is opened to append`);
      }
      return 'every process writes to a log that is open for appending';
    },
  },
  {
    number: '6.1',
    title: 'Ensure that MongoDB uses a non-default port',
    async run(s) {
      assert.notEqual(s.node.port, 27017);
      return `this node listens on ${s.node.port}; gateway.port sets it, and where nothing is said the default is on loopback, behind TLS and a login`;
    },
  },
  {
    number: '6.2',
    title: 'Ensure that operating system resource limits are set for MongoDB',
    async run(s) {
      for (const [name, pid] of await s.pids()) {
        const limits = fs.readFileSync(`/proc/${pid}/limits`, 'utf8');
        const [, soft, hard] = /^Max open files +(\S+) +(\S+)/m.exec(limits);
        assert.equal(soft, hard, `${name} takes all descriptors that it may have`);
        assert.ok(Number(soft) >= 1024);
        assert.match(limits, /^Max core file size +0 +0 /m);
      }
      return 'each worker raises its limit of descriptors to what the system allows, and lowers that of core dumps to 0';
    },
  },
  {
    number: '6.3',
    title: 'Ensure that server-side scripting is disabled if not needed',
    async run(s) {
      const c = s.admin.db('cis').collection('secret');
      for (const fn of [
        () => c.findOne({$where: 'true'}),
        () => c.findOne({$expr: {$function: {body: 'function() { return true; }', args: [], lang: 'js'}}}),
        () => c.aggregate([{$group: {_id: 1, n: {$accumulator: {init: 'function() {}', accumulate: 'function() {}', accumulateArgs: [], merge: 'function() {}', lang: 'js'}}}}]).toArray(),
        () => s.admin.db('cis').command({mapReduce: 'secret', map: 'function() {}', reduce: 'function() {}', out: {inline: 1}}),
        () => s.admin.db('cis').command({eval: '1'}),
      ])
        assert.notEqual(await codeOf(fn), 0, String(fn));
      return '$where, $function, $accumulator, mapReduce and eval are refused: there is no script engine';
    },
  },
  {
    number: '7.1',
    title: 'Ensure appropriate key file permissions are set',
    async run(s) {
      const looked = [];
      for (const file of [path.join(s.node.dir, 'kek'), path.join(s.node.dir, 'certs/server.key'), path.join(s.node.dir, 'bootstrap.json'), ...walk(s.files.keys)]) {
        assert.equal(fs.lstatSync(file).mode & 0o777 & ~0o700, 0, file);
        looked.push(file);
      }
      assert.ok(looked.length >= 4);
      return `${looked.length} files with keys are for their owner alone`;
    },
  },
  {
    number: '7.2',
    title: 'Ensure appropriate database file permissions are set',
    async run(s) {
      let count = 0;
      for (const [name, user] of Object.entries(KEEPERS)) {
        const uid = root ? Number(execFileSync('id', ['-u', user], {encoding: 'utf8'})) : process.getuid();
        for (const file of [s.files[name], ...walk(s.files[name])]) {
          const st = fs.lstatSync(file, {throwIfNoEntry: false});
          if (!st) continue; // gone meanwhile
          assert.equal(st.mode & 0o077, 0, file);
          assert.equal(st.uid, uid, `${file} is ${user}'s`);
          count++;
        }
      }
      assert.ok(count > 10);
      return `${count} files and folders of data, keys and audit log: 0600 and 0700, each of the process that keeps them`;
    },
  },
  {
    number: 'own',
    title: 'Ensure the server listens on loopback only, and only where clients come in',
    async run(s) {
      const tcp = [];
      for (const [name, pid] of await s.pids()) tcp.push(...listeners(pid).map((at) => [name, at]));
      tcp.push(...listeners(s.node.pid).map((at) => ['supervisor', at]));
      assert.ok(tcp.length >= 2);
      for (const [name, at] of tcp) assert.match(at, /^0100007F:|^00000000000000000000000001000000:/, `${name} listens on ${at}`);
      assert.ok(tcp.every(([name]) => name === 'gatewayd' || name === 'supervisor'), 'storaged and rotated have no network');
      return `all ${tcp.length} TCP listeners are on loopback, and the gateway's; the sockets between processes are unix sockets in closed folders`;
    },
  },
];
