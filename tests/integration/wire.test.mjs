// The wire protocol by hand: what drivers send, every form of it, and what no driver would ever send. A normal client works all the while.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import net from 'node:net';
import {after, before, beforeEach, describe, test} from 'node:test';
import zlib from 'node:zlib';
import {Binary, Long, ObjectId, serialize} from 'bson';
import {Node, sleep, until} from '../support/node.mjs';
import {FLAG, OP, Raw, compressed, msg, packet, query} from '../support/wire.mjs';

let node, client, pids;
before(async () => {
  node = await Node.start({set: ['gateway.handshake_timeout=2s', 'gateway.login_rate=1000000']});
  client = await node.client({driver: {maxPoolSize: 3}});
  await client.db('wire').collection('t').insertMany([...Array(300).keys()].map((i) => ({_id: i})));
  pids = (await node.status()).workers.map((w) => w.pid);
});
after(async () => {
  await client?.close();
  await node?.stop();
});

/** The same processes still run, and serve. */
const unharmed = async () => {
  assert.equal(await client.db('wire').collection('t').countDocuments({_id: {$lt: 300}}), 300);
  assert.deepEqual((await node.status()).workers.map((w) => w.pid), pids, 'a worker was restarted');
};
const logged = async () => {
  const raw = await Raw.connect(node);
  assert.equal((await raw.login()).done, true);
  return raw;
};

describe('forms', () => {
  let raw;
  before(async () => (raw = await logged()));
  after(() => raw.close());

  test('OP_MSG: the reply names the request and has no checksum unless asked', async () => {
    const m = msg({ping: 1, $db: 'admin'});
    raw.send(m);
    const r = await raw.reply();
    assert.equal(r.op, OP.MSG);
    assert.equal(r.responseTo, m.readInt32LE(4));
    assert.equal(r.doc.ok, 1);
  });

  test('a checksum is checked', async () => {
    assert.equal((await raw.run({ping: 1, $db: 'admin'}, {flags: FLAG.CHECKSUM})).ok, 1);
    const other = await logged();
    other.send(msg({ping: 1, $db: 'admin'}, {flags: FLAG.CHECKSUM, badChecksum: true}));
    const r = await other.reply();
    assert.ok(r === null || r.doc.ok === 0);
    other.close();
  });

  test('document sequences, also before the body', async () => {
    const docs = [{_id: 'a'}, {_id: 'b'}, {_id: 'c'}];
    assert.equal((await raw.run({insert: 'seq', $db: 'wire'}, {sections: [{kind: 1, name: 'documents', docs}]})).n, 3);
    raw.send(msg(null, {first: [{kind: 1, name: 'documents', docs: [{_id: 'd'}]}, {kind: 0, doc: {insert: 'seq', $db: 'wire'}}]}));
    assert.equal((await raw.reply()).doc.n, 1);
    assert.equal((await raw.run({update: 'seq', $db: 'wire'}, {sections: [{kind: 1, name: 'updates', docs: [{q: {_id: 'a'}, u: {$set: {x: 1}}}, {q: {_id: 'b'}, u: {$set: {x: 1}}}]}]})).nModified, 2);
    assert.equal((await raw.run({delete: 'seq', $db: 'wire'}, {sections: [{kind: 1, name: 'deletes', docs: [{q: {}, limit: 0}]}]})).n, 4);
  });

  test('moreToCome: no reply, the next command is answered', async () => {
    raw.send(msg({insert: 'w0', documents: [{_id: 1}], writeConcern: {w: 0}, $db: 'wire'}, {flags: FLAG.MORE}));
    raw.send(msg({insert: 'w0', documents: [{_id: 1}], writeConcern: {w: 0}, $db: 'wire'}, {flags: FLAG.MORE}));
    const r = await raw.run({count: 'w0', $db: 'wire'});
    assert.equal(r.n, 1);
  });

  test('several requests sent at once are answered in order', async () => {
    const many = [...Array(50).keys()].map((i) => msg({find: 't', filter: {_id: i}, $db: 'wire'}));
    raw.send(Buffer.concat(many));
    for (let i = 0; i < 50; i++) {
      const r = await raw.reply();
      assert.equal(r.responseTo, many[i].readInt32LE(4));
      assert.equal(r.doc.cursor.firstBatch[0]._id, i);
    }
  });

  test('byte by byte', async () => {
    for (const b of msg({ping: 1, $db: 'admin'})) {
      raw.send(Buffer.from([b]));
      await sleep(1);
    }
    assert.equal((await raw.reply()).doc.ok, 1);
  });

  test('OP_QUERY: hello in all spellings, other commands are refused with 352', async () => {
    for (const name of ['ismaster', 'isMaster', 'IsMaster', 'hello']) {
      raw.send(query('admin.$cmd', {[name]: 1, helloOk: true}));
      const r = await raw.reply();
      assert.equal(r.op, OP.REPLY);
      assert.equal(r.doc.ok, 1, name);
      assert.equal(r.doc.helloOk, true);
      assert.equal(r.doc.maxWireVersion, 21);
      assert.equal(r.doc.minWireVersion, 0);
      assert.equal(r.doc.setName, 'veddb');
      assert.equal(r.doc[name === 'hello' ? 'isWritablePrimary' : 'ismaster'], true);
    }
    raw.send(query('admin.$cmd', {buildinfo: 1}));
    assert.equal((await raw.reply()).doc.ok, 1);
    for (const doc of [{ping: 1}, {find: 't'}, {insert: 't', documents: [{}]}]) {
      raw.send(query('wire.$cmd', doc));
      const r = await raw.reply();
      assert.equal(r.doc.ok, 0);
      assert.equal(r.doc.code, 352, JSON.stringify(r.doc));
    }
  });

  test('hello: what drivers read', async () => {
    const h = await raw.run({hello: 1, $db: 'admin'});
    for (const [key, value] of Object.entries({isWritablePrimary: true, secondary: false, maxBsonObjectSize: 16777216, maxMessageSizeBytes: 48000000, maxWriteBatchSize: 100000, logicalSessionTimeoutMinutes: 30, setName: 'veddb', readOnly: false}))
      assert.equal(h[key], value, key);
    assert.equal(h.hosts.length, 1);
    assert.equal(h.me, h.hosts[0]);
    assert.equal(h.primary, h.me);
    assert.ok(h.electionId && h.lastWrite?.opTime?.ts && h.topologyVersion?.processId && h.localTime instanceof Date && h.connectionId);
  });

  test('w: 0 without moreToCome: an answer that tells nothing of what came of it', async () => {
    const run = async (command) => {
      const {n, nModified, writeErrors, ok} = await raw.run({...command, $db: 'w0'});
      return [n, nModified, writeErrors?.length, ok];
    };
    const insert = {insert: 'c', documents: [{_id: 1}, {_id: 1}, {_id: 2}], ordered: false};
    assert.deepEqual(await run({...insert, writeConcern: {w: 0}}), [0, undefined, undefined, 1]);
    assert.deepEqual(await run({update: 'c', updates: [{q: {}, u: {$set: {a: 1}}, multi: true}], writeConcern: {w: 0}}), [0, undefined, undefined, 1]);
    assert.deepEqual(await run({...insert, writeConcern: {w: 0, j: true}}), [0, undefined, 3, 1]);
    assert.deepEqual((await raw.run({find: 'c', sort: {_id: 1}, $db: 'w0'})).cursor.firstBatch, [{_id: 1, a: 1}, {_id: 2, a: 1}]);
  });

  test('awaitable hello: answers at the time limit, at once when the topology is another; errors', async () => {
    const {topologyVersion} = await raw.run({hello: 1, $db: 'admin'});
    let start = Date.now();
    assert.equal((await raw.run({hello: 1, topologyVersion, maxAwaitTimeMS: 400, $db: 'admin'})).ok, 1);
    assert.ok(Date.now() - start >= 390, `${Date.now() - start} ms`);
    start = Date.now();
    await raw.run({hello: 1, topologyVersion: {processId: new ObjectId(), counter: Long.fromNumber(0)}, maxAwaitTimeMS: 5000, $db: 'admin'});
    assert.ok(Date.now() - start < 4500);
    for (const bad of [{maxAwaitTimeMS: 5}, {topologyVersion}, {topologyVersion: 5, maxAwaitTimeMS: 5}, {topologyVersion, maxAwaitTimeMS: -1}, {topologyVersion: {processId: 5, counter: 1}, maxAwaitTimeMS: 1}])
      assert.equal((await raw.run({hello: 1, ...bad, $db: 'admin'})).ok, 0, JSON.stringify(bad));
  });

  test('exhaust hello: a stream of replies with moreToCome', async () => {
    const other = await Raw.connect(node);
    const {topologyVersion} = await other.run({hello: 1, $db: 'admin'});
    other.send(msg({hello: 1, topologyVersion, maxAwaitTimeMS: 150, $db: 'admin'}, {flags: FLAG.EXHAUST}));
    let last;
    for (let i = 0; i < 4; i++) {
      const r = await other.reply();
      assert.equal(r.doc.ok, 1);
      assert.equal(r.flags & FLAG.MORE, FLAG.MORE);
      if (last !== undefined) assert.equal(r.responseTo, last);
      last = r.raw.readInt32LE(4);
    }
    other.close();
  });

  test('compression: zlib both ways, also over a megabyte', async () => {
    const other = await Raw.connect(node);
    other.send(query('admin.$cmd', {ismaster: 1, compression: ['zlib', 'snappy', 'unknown']}));
    assert.deepEqual((await other.reply()).doc.compression, ['zlib', 'snappy']);
    await other.login();
    const run = async (doc) => {
      other.send(compressed(msg(doc), 2, zlib.deflateSync));
      const m = await other.message();
      assert.equal(m.readInt32LE(12), OP.COMPRESSED, 'a compressed request has a compressed reply');
      assert.equal(m.readInt32LE(16), OP.MSG);
      assert.equal(m[24], 2);
      const body = zlib.inflateSync(m.subarray(25));
      assert.equal(body.length, m.readInt32LE(20));
      const {deserialize} = await import('bson');
      return deserialize(body.subarray(5));
    };
    assert.equal((await run({ping: 1, $db: 'admin'})).ok, 1);
    assert.equal((await run({insert: 'big', documents: [{_id: 1, s: 'ab'.repeat(700000)}], $db: 'wire'})).n, 1);
    assert.equal((await run({find: 'big', $db: 'wire'})).cursor.firstBatch[0].s.length, 1400000);
    const plain = compressed(msg({ping: 1, $db: 'admin'}), 0, (b) => b);
    other.send(plain);
    const r = await other.message();
    assert.ok(r === null || r.length > 16, 'no compression is a compressor too, or closes');
    other.close();
  });
});

describe('hostile', () => {
  beforeEach(unharmed);
  after(unharmed);

  /** Sends bytes; the server must close, refuse, or answer an error; then everything else goes on. */
  const refuse = async (bytes, how = {}) => {
    const raw = how.login === false ? await Raw.connect(node) : await logged();
    raw.socket.on('error', () => {});
    raw.send(bytes);
    const r = await raw.reply(how.ms ?? 6000).catch((e) => e);
    if (r instanceof Error && how.wait) {
      raw.socket.end();
      await raw.whenClosed();
    } else if (r instanceof Error) {
      raw.close();
      throw new Error(`neither an answer nor an end: ${r.message}`);
    } else if (r !== null) {
      assert.equal(r.doc?.ok, 0, JSON.stringify(r.doc).slice(0, 200));
    }
    raw.close();
    return r;
  };
  const good = msg({ping: 1, $db: 'admin'});
  const withLength = (n) => {
    const b = Buffer.from(good);
    b.writeInt32LE(n | 0, 0);
    return b;
  };
  const bson = (...parts) => {
    const body = Buffer.concat(parts.map((p) => (Buffer.isBuffer(p) ? p : Buffer.from(p, 'latin1'))));
    const b = Buffer.concat([Buffer.alloc(4), body, Buffer.from([0])]);
    b.writeInt32LE(b.length);
    return b;
  };
  const i32 = (n) => {
    const b = Buffer.alloc(4);
    b.writeInt32LE(n | 0);
    return b;
  };

  test('lengths: zero, small, negative, huge', async () => {
    for (const n of [0, 1, 15, -1, -2147483648, 2147483647, 48000001, 500000000]) assert.equal(await refuse(withLength(n)), null, String(n));
    for (const n of [65537, 1 << 20, 48000000]) assert.equal(await refuse(withLength(n), {login: false}), null, `${n} before login`);
  });

  test('operation codes that nobody serves', async () => {
    for (const op of [0, 1, 2001, 2002, 2005, 2006, 2007, 2010, 2011, 2014, -1, 999999]) await refuse(packet(op, Buffer.alloc(40)));
  });

  test('flags and sections that do not fit', async () => {
    const cases = [
      packet(OP.MSG, Buffer.alloc(0)), packet(OP.MSG, Buffer.alloc(3)), packet(OP.MSG, Buffer.alloc(4)), packet(OP.MSG, Buffer.concat([Buffer.from([4, 0, 0, 0]), good.subarray(20)])),
      packet(OP.MSG, Buffer.concat([Buffer.alloc(4), Buffer.from([9]), serialize({ping: 1, $db: 'admin'})])),
      msg(null, {first: []}),
      msg(null, {first: [{kind: 0, doc: {ping: 1, $db: 'admin'}}, {kind: 0, doc: {ping: 1, $db: 'admin'}}]}),
      msg(null, {first: [{kind: 1, name: 'documents', docs: [{}]}]}),
      msg({insert: 'x', $db: 'wire'}, {sections: [{kind: 1, name: 'documents', docs: [{}]}, {kind: 1, name: 'documents', docs: [{}]}]}),
      msg({insert: 'x', documents: [{_id: 1}], $db: 'wire'}, {sections: [{kind: 1, name: 'documents', docs: [{}]}]}),
      msg({insert: 'x', $db: 'wire'}, {sections: [Buffer.concat([Buffer.from([1]), i32(1000000), Buffer.from('documents\0')])]}),
      msg({insert: 'x', $db: 'wire'}, {sections: [Buffer.concat([Buffer.from([1]), i32(-5), Buffer.from('documents\0')])]}),
      msg({insert: 'x', $db: 'wire'}, {sections: [Buffer.concat([Buffer.from([1]), i32(3)])]}),
      msg({insert: 'x', $db: 'wire'}, {sections: [Buffer.concat([Buffer.from([1]), i32(13), Buffer.from('documents')])]}),
      msg({insert: 'x', $db: 'wire'}, {sections: [Buffer.concat([Buffer.from([1]), i32(19), Buffer.from('documents\0'), i32(900)])]}),
      msg({insert: 'x', $db: 'wire'}, {sections: [Buffer.concat([Buffer.from([1]), i32(15), Buffer.from('documents\0'), Buffer.from([5])])]}),
      packet(OP.QUERY, Buffer.alloc(3)), packet(OP.QUERY, Buffer.concat([Buffer.alloc(4), Buffer.from('admin.$cmd')])), query('admin', {ismaster: 1}), query('', {ismaster: 1}), query('x'.repeat(5000), {ismaster: 1}),
      packet(OP.QUERY, Buffer.concat([Buffer.alloc(4), Buffer.from('admin.$cmd\0'), Buffer.alloc(8), i32(1000)])),
    ];
    for (const [i, bytes] of cases.entries()) await refuse(bytes).catch((e) => assert.fail(`case ${i}: ${e.message}`));
  });

  test('documents that are no documents', async () => {
    const cases = [
      Buffer.from([0, 0, 0, 0, 0]), Buffer.from([5, 0, 0, 0, 1]), i32(4), Buffer.concat([i32(100), Buffer.from([0])]), Buffer.concat([i32(-1), Buffer.from([0])]),
      bson('\x02ping\0', i32(1000), 'x\0'), bson('\x02ping\0', i32(-1), 'x\0'), bson('\x02ping\0', i32(0)), bson('\x02ping\0', i32(2), 'xx'), bson('\x10ping'), bson('\x10ping\0', 'ab'),
      bson('\x99ping\0', i32(1)), bson('\x05ping\0', i32(0x7fffffff), '\0'), bson('\x05ping\0', i32(-9), '\0'), bson('\x0bping\0', 'abc'), bson('\x08ping\0', '\x02'), bson('\x03ping\0', i32(0x10000000)), bson('\x03ping\0', i32(4)), bson('\x07ping\0', 'short'),
    ];
    for (const [i, doc] of cases.entries()) await refuse(msg(null, {first: [{kind: 0, doc}]})).catch((e) => assert.fail(`case ${i}: ${e.message}`));
    const bad = [
      bson('\x10_id\0', i32(1), '\x02s\0', i32(100), 'x\0'), bson('\x10_id\0', i32(1), '\x04a\0', i32(77), '\0'), bson('\x10_id\0', i32(1), '\x02s\0', i32(3), '\xff\xfe\0'), bson('\x10_id\0', i32(1), '\x02\xc0\x80\0', i32(2), 'x\0'),
      bson('\x10_id\0', i32(1), '\x02s\0', i32(4), '\xed\xa0\x80\0'), bson('\x10_id\0', i32(1), '\x13d\0', 'short'), bson('\x10_id\0', i32(1), '\x0fc\0', i32(5), 'x'), bson('\x10_id\0', i32(1), '\x77x\0'),
    ];
    for (const [i, doc] of bad.entries()) {
      const raw = await logged();
      const r = await raw.run({insert: 'hostile', $db: 'wire'}, {sections: [{kind: 1, name: 'documents', docs: [doc]}]});
      assert.ok(r === null || r.ok === 0 || r.writeErrors || i === 2 || i === 3 || i === 4, `document ${i}: ${JSON.stringify(r)}`);
      raw.close();
    }
    const docs = await client.db('wire').collection('hostile').find().toArray().catch((e) => e);
    assert.ok(Array.isArray(docs) || docs instanceof Error);
  });

  test('deep nesting', async () => {
    for (const depth of [200, 1000, 20000]) {
      let doc = Buffer.from(serialize({a: 1}));
      const parts = [];
      // Built from the inside: {a: {a: {...}}} with right lengths.
      let size = doc.length;
      for (let i = 0; i < depth; i++) {
        size += 4 + 3 + 1;
        parts.push(size);
      }
      const head = Buffer.concat(parts.reverse().map((n) => Buffer.concat([i32(n), Buffer.from('\x03a\0', 'latin1')])));
      doc = Buffer.concat([head, doc, Buffer.alloc(depth)]);
      const raw = await logged();
      const r = await raw.run({insert: 'deep', $db: 'wire'}, {sections: [{kind: 1, name: 'documents', docs: [doc]}]});
      assert.ok(r === null || r.ok === 0 || r.writeErrors, `${depth} deep was taken`);
      raw.close();
      const f = await logged();
      const command = Buffer.concat([Buffer.from('\x02find\0\x05\0\0\0deep\0\x03filter\0', 'latin1'), doc, Buffer.from('\x02$db\0\x05\0\0\0wire\0', 'latin1')]);
      const q = await (f.send(msg(null, {first: [{kind: 0, doc: bson(command)}]})), f.reply());
      assert.ok(q === null || q.doc.ok === 0);
      f.close();
    }
  });

  test('databases and commands with wild names', async () => {
    const raw = await logged();
    for (const doc of [
      {ping: 1}, {ping: 1, $db: 5}, {ping: 1, $db: ''}, {find: 't', $db: 'a b/c'}, {find: 't', $db: 'x'.repeat(100)}, {find: 't', $db: 'a\0b'}, {find: 5, $db: 'wire'}, {find: '', $db: 'wire'}, {find: 'a\0b', $db: 'wire'}, {['n'.repeat(60000)]: 1, $db: 'wire'},
      {'': 1, $db: 'wire'}, {$db: 'wire'}, {find: 't', lsid: 5, $db: 'wire'}, {find: 't', lsid: {id: 'x'}, $db: 'wire'}, {find: 't', maxTimeMS: 'x', $db: 'wire'}, {insert: 't', documents: [{}], txnNumber: 5, $db: 'wire'}, {getMore: 5, collection: 't', $db: 'wire'},
      {getMore: Long.MAX_VALUE, collection: 't', $db: 'wire'}, {find: 't', $readPreference: 7, $db: 'wire'}, {find: 't', readConcern: 7, $db: 'wire'}, {find: 't', $clusterTime: 7, $db: 'wire'},
    ]) {
      const r = await raw.run(doc);
      if (r === null) assert.fail(`closed on ${JSON.stringify(doc).slice(0, 80)}`);
      assert.equal(r.ok, 0, JSON.stringify(doc).slice(0, 80));
      assert.equal(typeof r.code, 'number');
      assert.equal(typeof r.codeName, 'string');
    }
    raw.close();
  });

  test('compression: bombs, lies, unknown compressors, compressed in compressed', async () => {
    const big = zlib.deflateSync(Buffer.alloc(47000000));
    await refuse(packet(OP.COMPRESSED, Buffer.concat([i32(OP.MSG), i32(100), Buffer.from([2]), big])));
    await refuse(packet(OP.COMPRESSED, Buffer.concat([i32(OP.MSG), i32(2147483647), Buffer.from([2]), big])));
    await refuse(packet(OP.COMPRESSED, Buffer.concat([i32(OP.MSG), i32(-1), Buffer.from([2]), zlib.deflateSync(Buffer.alloc(10))])));
    await refuse(packet(OP.COMPRESSED, Buffer.concat([i32(OP.MSG), i32(47000000), Buffer.from([2]), big])));
    await refuse(compressed(good, 2, zlib.deflateSync, 10));
    await refuse(compressed(good, 2, zlib.deflateSync, 100000));
    await refuse(compressed(good, 9, (b) => b));
    for (const id of [1, 2, 3]) await refuse(compressed(good, id, () => crypto.randomBytes(500)));
    await refuse(compressed(compressed(good, 2, zlib.deflateSync), 2, zlib.deflateSync));
    await refuse(packet(OP.COMPRESSED, Buffer.alloc(5)));
    await refuse(packet(OP.COMPRESSED, Buffer.concat([i32(OP.COMPRESSED), i32(20), Buffer.from([2]), zlib.deflateSync(Buffer.alloc(20))])));
    // Before login a bomb must not make the gateway hold megabytes.
    await refuse(packet(OP.COMPRESSED, Buffer.concat([i32(OP.MSG), i32(40000000), Buffer.from([2]), zlib.deflateSync(Buffer.alloc(40000000)).subarray(0, 60000)])), {login: false});
  });

  test('the reply to a login is never compressed, also when the request was', async () => {
    const raw = await Raw.connect(node);
    raw.send(query('admin.$cmd', {ismaster: 1, compression: ['zlib']}));
    await raw.reply();
    raw.send(compressed(msg({saslStart: 1, mechanism: 'SCRAM-SHA-256', payload: new Binary(Buffer.from('n,,n=admin,r=abcdefgh')), $db: 'admin'}), 2, zlib.deflateSync));
    assert.equal((await raw.message(5000)).readInt32LE(12), OP.MSG);
    raw.close();
  });

  test('random bytes and mutated messages, 400 of them', {timeout: 120000}, async () => {
    let seed = 12345;
    const random = (n) => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) % n;
    const models = [
      msg({find: 't', filter: {_id: {$gt: 5}}, limit: 3, $db: 'wire'}), msg({insert: 'mut', $db: 'wire'}, {sections: [{kind: 1, name: 'documents', docs: [{a: 1, b: 'x', c: [1, {d: 1}]}]}]}),
      msg({update: 'mut', updates: [{q: {a: 1}, u: {$set: {b: 2}, $push: {c: {$each: [1], $slice: 5}}}}], $db: 'wire'}), msg({aggregate: 't', pipeline: [{$match: {}}, {$group: {_id: null, n: {$sum: 1}}}], cursor: {}, $db: 'wire'}), query('admin.$cmd', {ismaster: 1, client: {driver: {name: 'x', version: 'y'}}}),
    ];
    let raw = null;
    for (let i = 0; i < 400; i++) {
      if (raw === null || raw.closed) raw = await logged();
      raw.socket.on('error', () => {});
      let bytes;
      if (i % 8 === 7) {
        bytes = packet(OP.MSG, crypto.randomBytes(random(300)));
      } else {
        bytes = Buffer.from(models[random(models.length)]);
        for (let k = 0; k <= random(4); k++) bytes[16 + random(bytes.length - 16)] = random(256);
      }
      raw.send(bytes);
      // A ping behind it: when it comes back the connection is whole; else it is closed.
      const ping = msg({ping: 1, $db: 'admin'});
      raw.send(ping);
      for (;;) {
        const r = await raw.reply(3000).catch(() => undefined);
        if (r === undefined) {
          raw.close(); // the mutation asked for no reply or for a longer message
          raw = null;
          break;
        }
        if (r === null || r.responseTo === ping.readInt32LE(4)) break;
      }
    }
    raw?.close();
    const garbage = [...Array(20).keys()].map(() => new Promise((resolve) => {
      const s = net.connect(node.port, '127.0.0.1', () => s.write(crypto.randomBytes(2000)));
      s.on('close', resolve);
      s.on('error', () => {});
      s.resume();
      setTimeout(() => s.destroy(), 3000);
    }));
    await Promise.all(garbage);
  });

  test('a slow handshake, a slow message and a silent client are ended', {timeout: 60000}, async () => {
    const start = Date.now();
    const ended = (socket) => new Promise((resolve) => {
      socket.on('close', () => resolve(Date.now() - start));
      socket.on('error', () => {});
      socket.resume();
    });
    const silent = net.connect(node.port, '127.0.0.1');
    const slow = net.connect(node.port, '127.0.0.1');
    const drip = setInterval(() => slow.write(Buffer.from([0x16]), () => {}), 200);
    slow.on('error', () => clearInterval(drip));
    const nobody = await Raw.connect(node);
    nobody.send(good.subarray(0, 10));
    const times = await Promise.all([ended(silent), ended(slow)]);
    clearInterval(drip);
    for (const t of times) assert.ok(t > 500, `${t} ms`);
    nobody.close();
  });

  test('a client that never reads holds up nobody', {timeout: 60000}, async () => {
    const raw = await logged();
    await client.db('wire').collection('fat').insertMany([...Array(12).keys()].map((i) => ({_id: i, s: 'f'.repeat(1 << 20)})), {ordered: false}).catch(() => {});
    raw.socket.pause();
    for (let i = 0; i < 30; i++) raw.send(msg({find: 'fat', $db: 'wire'}));
    for (let i = 0; i < 20; i++) await client.db('wire').collection('t').findOne({_id: i});
    raw.close();
  });

  test('2,000 half-open handshakes while a client works; afterwards all are gone', {timeout: 120000}, async () => {
    const sockets = [];
    let opened = 0;
    for (let i = 0; i < 2000; i += 100) {
      await Promise.all([...Array(100).keys()].map(() => new Promise((resolve) => {
        const s = net.connect(node.port, '127.0.0.1', () => {
          opened++;
          s.write(Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00]));
          resolve();
        });
        s.on('error', resolve);
        s.on('close', () => (s.gone = true));
        s.resume();
        sockets.push(s);
      })));
      assert.ok(await client.db('wire').collection('t').findOne({_id: i % 300}));
    }
    assert.ok(opened >= 1500, `${opened} opened`);
    const another = await node.client();
    assert.equal(await another.db('wire').collection('t').countDocuments({_id: 5}), 1);
    await another.close();
    await until('the half-open ones are closed', () => sockets.every((s) => s.gone || s.destroyed), 20000);
    for (const s of sockets) s.destroy();
    const {connections} = await client.db('admin').command({serverStatus: 1});
    assert.ok(Number(connections.current) < 100, `${connections.current} connections`);
  });

  test('the limit of connections from one address: the next is refused, then there is room again', {timeout: 60000}, async () => {
    const other = await Node.start({set: ['gateway.connections_per_address_max=20']});
    try {
      const raws = [];
      let refused = 0;
      for (let i = 0; i < 30; i++) {
        try {
          const r = await Raw.connect(other);
          r.socket.on('error', () => {});
          if ((await r.run({ping: 1, $db: 'admin'})) === null) refused++;
          else raws.push(r);
        } catch {
          refused++;
        }
      }
      assert.ok(raws.length <= 20 && raws.length >= 15, `${raws.length} open`);
      assert.ok(refused >= 10);
      for (const r of raws) r.close();
      await until('there is room again', async () => {
        try {
          const r = await Raw.connect(other);
          const fine = (await r.run({ping: 1, $db: 'admin'}))?.ok === 1;
          r.close();
          return fine;
        } catch {
          return false;
        }
      }, 5000);
    } finally {
      await other.stop();
    }
  });

  test('a 48 MB message of inserts is taken, a larger one is not', {timeout: 60000}, async () => {
    const raw = await logged();
    const docs = [...Array(44).keys()].map((i) => ({_id: `l${i}`, s: 'm'.repeat(1 << 20)}));
    assert.equal((await raw.run({insert: 'large', $db: 'wire'}, {sections: [{kind: 1, name: 'documents', docs}]})).n, 44);
    raw.socket.on('error', () => {});
    raw.send(msg({insert: 'large', $db: 'wire'}, {sections: [{kind: 1, name: 'documents', docs: [...docs, {s: 'm'.repeat(4 << 20)}]}]}));
    assert.equal(await raw.reply(20000), null);
    raw.close();
    await client.db('wire').collection('large').drop();
  });
});

test('the log has no content of messages', () => {
  assert.ok(!node.log().includes('fffffffff') && !node.log().includes('mmmmmmmm'));
});
