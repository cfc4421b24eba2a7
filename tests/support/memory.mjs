// memory.mjs — the memory of a running process, searched for bytes; what a node's secrets are as bytes. Needs root: workers are not dumpable.
import crypto from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';

const STEP = 8 << 20;

/** What is mapped and has pages: {from, to, name, flags}. */
export function mappings(pid) {
  return fs.readFileSync(`/proc/${pid}/smaps`, 'utf8').split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/).map((text) => {
    const [, from, to, name] = text.match(/^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)/);
    return {from: Number(`0x${from}`), to: Number(`0x${to}`), name, rss: Number(text.match(/^Rss: +(\d+)/m)?.[1] ?? 0),
      swap: Number(text.match(/^Swap: +(\d+)/m)?.[1] ?? 0), flags: (text.match(/^VmFlags: (.*)/m)?.[1] ?? '').trim().split(' ')};
  }).filter((m) => m.rss + m.swap !== 0);
}

/** Where each of {name: bytes} stands: [{name, at, mapping}]. */
export function search(pid, needles) {
  const found = [], wanted = Object.entries(needles), longest = Math.max(...wanted.map(([, bytes]) => bytes.length));
  const fd = fs.openSync(`/proc/${pid}/mem`, 'r');
  try {
    for (const mapping of mappings(pid)) {
      if (mapping.name.startsWith('[v')) continue; // the kernel's own
      for (let at = mapping.from; at < mapping.to; at += STEP) {
        const bytes = Buffer.alloc(Math.min(STEP + longest, mapping.to - at));
        let n = 0;
        try {
          n = fs.readSync(fd, bytes, 0, bytes.length, at);
        } catch (e) {
          if (e.code !== 'EIO' && e.code !== 'EFAULT') throw e; // it has gone meanwhile
        }
        for (const [name, needle] of wanted)
          for (let i = bytes.indexOf(needle); i >= 0 && i + needle.length <= n; i = bytes.indexOf(needle, i + 1))
            if (i < STEP) found.push({name, at: (at + i).toString(16), mapping});
      }
    }
  } finally {
    fs.closeSync(fd);
  }
  return found;
}

const hkdf = (key, salt, info) => Buffer.from(crypto.hkdfSync('sha256', key, salt, info, 32));

/** The key-encryption key, and what the keyring has under it: {kek, wrapping, keys: {id in hex: key}}. */
export function keysOf(folder, kekFile) {
  const text = fs.readFileSync(kekFile), ring = fs.readFileSync(path.join(folder, 'keys/keyring'));
  const kek = text.toString().trim().length === 64 ? Buffer.from(text.toString().trim(), 'hex') : text;
  const wrapping = hkdf(kek, ring.subarray(20, 52), 'veddb keyring'), n = ring.readUInt32LE(68);
  const open = crypto.createDecipheriv('aes-256-gcm', wrapping, Buffer.alloc(12)).setAAD(ring.subarray(0, 96)).setAuthTag(ring.subarray(96 + n, 112 + n));
  const plain = Buffer.concat([open.update(ring.subarray(96, 96 + n)), open.final()]);
  const keys = {};
  for (let i = 0; i < ring.readUInt32LE(72); i++)
    keys[plain.subarray(i * 72, i * 72 + 16).toString('hex')] = plain.subarray(i * 72 + 40, i * 72 + 72);
  return {kek, wrapping, keys};
}

/** The keys that blocks in files of this folder are encrypted with. */
export function blockKeys(folder, keys) {
  const derived = {};
  for (const entry of fs.readdirSync(folder, {recursive: true, withFileTypes: true})) {
    if (!entry.isFile()) continue;
    const bytes = fs.readFileSync(path.join(entry.parentPath ?? entry.path, entry.name));
    for (let i = bytes.indexOf('VDB1'); i >= 0 && i + 40 <= bytes.length; i = bytes.indexOf('VDB1', i + 4)) {
      const id = bytes.subarray(i + 8, i + 24).toString('hex'), boot = bytes.subarray(i + 24, i + 40);
      if (keys[id] !== undefined) derived[`block key of boot ${boot.toString('hex').slice(0, 8)}`] ??= hkdf(keys[id], boot, 'veddb block');
    }
  }
  return derived;
}

/** The secret number of a key of an elliptic curve: as files have it, and as OpenSSL has it in memory. */
export function scalar(pem) {
  const d = Buffer.from(crypto.createPrivateKey(pem).export({format: 'jwk'}).d, 'base64url');
  return {'private key, as in a file': d, 'private key, as a number': Buffer.from(d).reverse()};
}
