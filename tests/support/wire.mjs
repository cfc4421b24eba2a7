// tests/support/wire.mjs — MongoDB's wire protocol by hand: raw TLS sockets, messages built byte by byte, SCRAM-SHA-256.
import crypto from 'node:crypto';
import fs from 'node:fs';
import tls from 'node:tls';
import {Binary, deserialize, serialize} from 'bson';

export const OP = {REPLY: 1, QUERY: 2004, COMPRESSED: 2012, MSG: 2013};
export const FLAG = {CHECKSUM: 1, MORE: 2, EXHAUST: 1 << 16};
let nextId = 1;

const TABLE = [...Array(256).keys()].map((n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0x82f63b78 : n >>> 1;
  return n >>> 0;
});
export function crc32c(bytes) {
  let c = 0xffffffff;
  for (const b of bytes) c = TABLE[(c ^ b) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

export function header(length, op, id = nextId++) {
  const h = Buffer.alloc(16);
  h.writeInt32LE(length | 0, 0);
  h.writeInt32LE(id, 4);
  h.writeInt32LE(op, 12);
  return h;
}

export const packet = (op, payload, id) => Buffer.concat([header(16 + payload.length, op, id), payload]);

/** sections: [{kind: 0, doc} | {kind: 1, name, docs}] or bytes */
export function sectionBytes(s) {
  if (Buffer.isBuffer(s)) return s;
  if (s.kind === 1) {
    const body = Buffer.concat([Buffer.from(`${s.name}\0`), ...s.docs.map((d) => (Buffer.isBuffer(d) ? d : Buffer.from(serialize(d))))]);
    const head = Buffer.alloc(5);
    head[0] = 1;
    head.writeInt32LE(body.length + 4, 1);
    return Buffer.concat([head, body]);
  }
  return Buffer.concat([Buffer.from([0]), Buffer.isBuffer(s.doc) ? s.doc : Buffer.from(serialize(s.doc))]);
}

export function msg(doc, {flags = 0, sections = [], first, badChecksum = false} = {}) {
  const head = Buffer.alloc(4);
  head.writeUInt32LE(flags);
  const payload = Buffer.concat([head, ...(first ?? [{kind: 0, doc}]).map(sectionBytes), ...sections.map(sectionBytes)]);
  if (!(flags & FLAG.CHECKSUM)) return packet(OP.MSG, payload);
  const whole = Buffer.concat([header(16 + payload.length + 4, OP.MSG), payload]);
  const crc = Buffer.alloc(4);
  crc.writeUInt32LE((crc32c(whole) ^ (badChecksum ? 1 : 0)) >>> 0);
  return Buffer.concat([whole, crc]);
}

export function query(ns, doc, flags = 0) {
  const head = Buffer.alloc(4);
  head.writeUInt32LE(flags);
  const counts = Buffer.alloc(8);
  counts.writeInt32LE(-1, 4);
  return packet(OP.QUERY, Buffer.concat([head, Buffer.from(`${ns}\0`), counts, Buffer.from(serialize(doc))]));
}

export function compressed(message, compressor, compress, claim) {
  const body = message.subarray(16);
  const head = Buffer.alloc(9);
  head.writeInt32LE(message.readInt32LE(12), 0);
  head.writeInt32LE(claim ?? body.length, 4);
  head[8] = compressor;
  return packet(OP.COMPRESSED, Buffer.concat([head, compress(body)]), message.readInt32LE(4));
}

export class Raw {
  static async connect(node, options = {}) {
    const raw = new Raw();
    raw.node = node;
    raw.bytes = Buffer.alloc(0);
    raw.waiting = [];
    raw.closed = false;
    await new Promise((resolve, reject) => {
      raw.socket = tls.connect({host: '127.0.0.1', port: node.port, ca: fs.readFileSync(node.info.caFile), ...options}, resolve);
      raw.socket.on('error', (e) => {
        raw.error = e;
        raw.end();
        reject(e);
      });
      raw.socket.on('close', () => raw.end());
    });
    raw.socket.on('data', (d) => {
      raw.bytes = raw.bytes.length ? Buffer.concat([raw.bytes, d]) : d;
      raw.step();
    });
    return raw;
  }
  end() {
    this.closed = true;
    for (const w of this.waiting.splice(0)) w.resolve(null);
  }
  step() {
    while (this.waiting.length && this.bytes.length >= 16) {
      const n = this.bytes.readInt32LE(0);
      if (this.bytes.length < n) return;
      const m = this.bytes.subarray(0, n);
      this.bytes = this.bytes.subarray(n);
      this.waiting.shift().resolve(m);
    }
  }
  send(bytes) {
    if (!this.closed) this.socket.write(bytes);
  }
  /** The next whole message, or null when the other end closed. */
  async message(ms = 20000) {
    if (this.closed && this.bytes.length < 16) return null;
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting = this.waiting.filter((w) => w !== one);
        reject(new Error(`no message within ${ms} ms`));
      }, ms);
      const one = {
        resolve: (m) => {
          clearTimeout(timer);
          resolve(m);
        },
      };
      this.waiting.push(one);
      this.step();
    });
  }
  /** The next reply as a document with its head: {doc, op, flags, responseTo}; null when closed. */
  async reply(ms) {
    const m = await this.message(ms);
    if (!m) return null;
    const op = m.readInt32LE(12);
    const out = {op, responseTo: m.readInt32LE(8), raw: m};
    if (op === OP.MSG) {
      out.flags = m.readUInt32LE(16);
      out.doc = deserialize(m.subarray(21, 21 + m.readInt32LE(21)));
    } else if (op === OP.REPLY) {
      out.flags = m.readInt32LE(16);
      out.doc = deserialize(m.subarray(36));
    }
    return out;
  }
  async run(doc, options) {
    this.send(msg(doc, options));
    return (await this.reply())?.doc ?? null;
  }
  async whenClosed(ms = 20000) {
    if (this.closed) return true;
    return await new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), ms);
      this.socket.once('close', () => {
        clearTimeout(timer);
        resolve(true);
      });
    });
  }
  close() {
    this.socket.destroy();
  }
  /** SCRAM-SHA-256; returns the last reply. */
  async login(user = 'admin', password = this.node.info.password, db = 'admin') {
    const nonce = crypto.randomBytes(18).toString('base64');
    const first = `n=${user.replace(/=/g, '=3D').replace(/,/g, '=2C')},r=${nonce}`;
    const a = await this.run({saslStart: 1, mechanism: 'SCRAM-SHA-256', payload: new Binary(Buffer.from(`n,,${first}`)), options: {skipEmptyExchange: true}, $db: db});
    if (!a || a.ok !== 1) return a;
    const server = a.payload.toString('utf8');
    const part = Object.fromEntries(server.split(',').map((p) => [p[0], p.slice(2)]));
    const salted = crypto.pbkdf2Sync(password, Buffer.from(part.s, 'base64'), Number(part.i), 32, 'sha256');
    const hmac = (k, t) => crypto.createHmac('sha256', k).update(t).digest();
    const clientKey = hmac(salted, 'Client Key');
    const without = `c=biws,r=${part.r}`;
    const signature = hmac(crypto.createHash('sha256').update(clientKey).digest(), `${first},${server},${without}`);
    const proof = Buffer.from(clientKey.map((b, i) => b ^ signature[i])).toString('base64');
    const z = await this.run({saslContinue: 1, conversationId: a.conversationId, payload: new Binary(Buffer.from(`${without},p=${proof}`)), $db: db});
    this.scram = {salt: part.s, iterations: Number(part.i), nonce: part.r};
    return z;
  }
}
