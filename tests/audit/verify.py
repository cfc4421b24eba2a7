#!/usr/bin/env python3
"""Verifies a VedDB audit log. Written from docs/audit-format.md alone; shares nothing with the programs.

usage: verify.py AUDIT_FOLDER [--second FOLDER] [--root HEX] [--keyring FILE --kek HEXFILE] [--print]

Without --kek every byte is still checked by its chain and its signed heads; with it records are decrypted and checked
too (needs python3-cryptography). Ed25519: python3-cryptography where there is one, else the openssl command."""
import argparse, hashlib, hmac, json, os, re, struct, subprocess, sys, tempfile

try:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    Ed25519PublicKey = AESGCM = None

ZERO = bytes(32)


class Wrong(Exception):
    pass


def H(data):
    return hashlib.sha256(data).digest()


def u32(b, at):
    return struct.unpack_from('<I', b, at)[0]


def u64(b, at):
    return struct.unpack_from('<Q', b, at)[0]


def hkdf(key, salt, info):
    prk = hmac.new(salt, key, hashlib.sha256).digest()
    return hmac.new(prk, info + b'\x01', hashlib.sha256).digest()


def signed(public, data):
    """The last 64 bytes sign those before."""
    message, signature = data[:-64], data[-64:]
    if Ed25519PublicKey is not None:
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
            return True
        except Exception:
            return False
    with tempfile.TemporaryDirectory() as d:
        names = [os.path.join(d, n) for n in ('key', 'message', 'signature')]
        der = bytes.fromhex('302a300506032b6570032100') + public
        for name, content in zip(names, (der, message, signature)):
            with open(name, 'wb') as f:
                f.write(content)
        return subprocess.run(['openssl', 'pkeyutl', '-verify', '-pubin', '-keyform', 'DER', '-inkey', names[0], '-rawin',
                               '-in', names[1], '-sigfile', names[2]], capture_output=True).returncode == 0


def unseal(keys, block, what):
    if len(block) < 68 or block[:8] != b'VDB1\x01\0\0\0':
        raise Wrong(what + ': it is no encrypted block')
    key = keys.get(block[8:24])
    if key is None:
        raise Wrong(what + ': there is no key of its id')
    try:
        return AESGCM(hkdf(key, block[24:40], b'veddb block')).decrypt(block[40:52], block[68:] + block[52:68], block[:52])
    except Exception:
        raise Wrong(what + ': the block fails its tag')


def keyring(path, kek_path):
    text = open(kek_path, 'rb').read().strip()
    kek = bytes.fromhex(text.decode()) if len(text) == 64 else text
    data = open(path, 'rb').read()
    if data[:8] != b'VDBKRING' or u32(data, 8) not in (1, 2):
        raise Wrong('the keyring is none')
    n = u32(data, 68)
    plain = AESGCM(hkdf(kek, data[20:52], b'veddb keyring')).decrypt(bytes(12), data[96:96 + n + 16], data[:96])
    return {plain[i:i + 16]: plain[i + 40:i + 72] for i in range(0, n if u32(data, 8) == 1 else u32(data, 72) * 72, 72)}


def leaf(record):
    return H(b'\0' + record)


def root(leaves):
    if not leaves:
        return H(b'')
    level = []  # of full subtrees: (size, hash)
    for hash_ in leaves:
        size = 1
        while level and level[-1][0] == size:
            hash_ = H(b'\1' + level.pop()[1] + hash_)
            size *= 2
        level.append((size, hash_))
    hash_ = level.pop()[1]
    while level:
        hash_ = H(b'\1' + level.pop()[1] + hash_)
    return hash_


def load_keys(folder):
    try:
        data = open(os.path.join(folder, 'keys'), 'rb').read()
    except OSError:
        raise Wrong('keys: it is not there')
    entries, before = [], ZERO
    if not data:
        raise Wrong('keys, byte 0: it is empty')
    for at in range(0, len(data), 176):
        e, what = data[at:at + 176], f'keys, byte {at}, entry {len(entries)}'
        if len(e) != 176 or e[:4] != b'VDAK' or u32(e, 4) != 1 or u32(e, 28) != 0:
            raise Wrong(what + ': it is cut or malformed')
        entry = {'log': e[8:24], 'first': u64(e, 40), 'key': e[48:80], 'hash': H(e)}
        if u32(e, 24) != len(entries) or e[80:112] != before:
            raise Wrong(what + ': it does not follow from the one before')
        if entries and (entry['log'] != entries[0]['log'] or entry['first'] <= entries[-1]['first']):
            raise Wrong(what + ': another log, or its first head is out of order')
        if not entries and entry['first'] != 1:
            raise Wrong(what + ': its first head is not 1')
        if not signed(entries[-1]['key'] if entries else entry['key'], e):
            raise Wrong(what + ': its signature is wrong')
        entries.append(entry)
        before = entry['hash']
    return entries


def signer(entries, epoch, head):
    if epoch >= len(entries) or head < entries[epoch]['first']:
        return None
    if epoch + 1 < len(entries) and head >= entries[epoch + 1]['first']:
        return None
    return entries[epoch]['key']


class Walk:
    def __init__(self, folder, entries, keys, show):
        self.folder, self.entries, self.keys, self.show = folder, entries, keys, show
        self.log = entries[0]['log']
        self.began = False
        self.chain = self.last = self.head_hash = ZERO
        self.records = self.head = self.first_record = 0
        self.heads = {}
        self.tombstone = self.waiting = None
        self.closed = True

    def wrong(self, what):
        raise Wrong(f'segment {self.segment}, byte {self.at}, behind record {self.records} and head {self.head}: {what}')

    def read(self, number):
        if self.began and not self.closed:
            self.wrong('the segment has no end, but another one follows')
        self.segment, self.at, self.closed, self.leaves, self.sealed = number, 0, False, [], 0
        self.in_segment = 0
        data = open(os.path.join(self.folder, f'{number:08d}.seg'), 'rb').read()
        while self.at < len(data):
            left = len(data) - self.at
            n = u32(data, self.at) if left >= 40 else 0
            if n <= 40 or n > left:
                self.wrong('a frame is cut, or its length is wrong')
            self.frame(data[self.at:self.at + n])
            self.at += n
            if data[self.at - n + 4] == 3:
                self.sealed = self.at
        if not data or self.sealed != self.at:
            self.wrong('the segment ends without a head')

    def frame(self, f):
        kind, payload = f[4], f[8:-32]
        if not self.began and kind == 1 and len(payload) == 168:
            self.chain = payload[40:72]
        chain = H(self.chain + f[:-32])
        if chain != f[-32:]:
            self.wrong('a frame does not follow from the one before, or was changed')
        if f[5:8] != b'\0\0\0' or (kind == 1) != (self.at == 0):
            self.wrong('a frame is out of place')
        if self.closed:
            self.wrong('something stands behind the end')
        if kind not in (1, 2, 3, 4):
            self.wrong('a frame of no known type')
        (self.start, self.block, self.head_frame, self.stone)[kind - 1](payload)
        self.chain = chain

    def start(self, p):
        if len(p) != 168 or p[:4] != b'VDAS' or u32(p, 4) != 1 or p[8:24] != self.log or u64(p, 24) != self.segment:
            self.wrong('the start is malformed, or of another segment or log')
        if not self.began:
            self.began, self.first = True, (self.segment, u64(p, 32), p[40:72], u64(p, 112))
            self.records, self.last, self.head, self.head_hash = u64(p, 32), p[72:104], u64(p, 112), p[120:152]
            self.first_record = self.records
            if self.segment == 1 and (self.records or self.head or p[40:104] != ZERO * 2 or self.head_hash != ZERO):
                self.wrong('the first segment does not begin with nothing')
        if (u64(p, 32), p[40:72], p[72:104], u64(p, 112), p[120:152]) != (self.records, self.chain, self.last, self.head,
                                                                        self.head_hash):
            self.wrong('the segment does not follow from the one before')
        name = f'{self.segment:08d}.key'
        try:
            block = open(os.path.join(self.folder, name), 'rb').read()
        except OSError:
            self.wrong(name + ' is not there')
        if self.keys is not None:
            plain = unseal(self.keys, block, name)
            if len(plain) != 64 or plain[:8] != b'VDAG\x01\0\0\0' or u64(plain, 8) != self.segment or plain[16:32] != p[152:]:
                self.wrong(name + ' is of another segment')
            self.data_key = {plain[16:32]: plain[32:]}

    def block(self, p):
        if self.keys is None:
            return
        place = f'segment {self.segment}, byte {self.at}, behind record {self.records} and head {self.head}'
        plain, at = unseal(self.data_key, p, place), 0
        while at < len(plain):
            n = u32(plain, at) if len(plain) - at >= 4 else 0
            if n < 65 or n > len(plain) - at:
                self.wrong('a record is cut')
            r = plain[at:at + n]
            if r[4:36] != self.last or u64(r, 36) != self.records + 1:
                self.wrong('a record does not follow from the one before')
            if r[44] not in (1, 2, 3) or r[45:48] != b'\0\0\0' or u32(r, 60) != n - 60:
                self.wrong('a record is malformed')
            self.last = leaf(r)
            self.leaves.append(self.last)
            self.records += 1
            if self.show:
                print(json.dumps({'record': self.records, 'source': r[44], 'position': u64(r, 52), 'bson': r[60:].hex()}))
            at += n

    def head_frame(self, p):
        if len(p) != 304 or p[:4] != b'VDAH' or u32(p, 4) != 1 or p[8:24] != self.log or u32(p, 220) or u64(p, 232):
            self.wrong('a head is malformed')
        number, records, in_segment, flags = u64(p, 24), u64(p, 48), u64(p, 56), u32(p, 204)
        if u64(p, 32) != self.segment or u64(p, 40) != self.at or p[64:96] != self.chain or flags > 1:
            self.wrong('a head is not of what stands before it')
        if number != self.head + 1 or p[160:192] != self.head_hash:
            self.wrong('a head does not follow from the one before')
        if self.keys is not None and (records != self.records or in_segment != len(self.leaves) or p[96:128] != self.last or
                                      p[128:160] != root(self.leaves)):
            self.wrong('a head is not of the records before it')
        if self.keys is None:
            if records - self.records != in_segment - self.in_segment or records < self.records:
                self.wrong('a head counts records wrongly')
            self.records, self.last, self.in_segment = records, p[96:128], in_segment
        key = signer(self.entries, u32(p, 200), number)
        if key is None or not signed(key, p):
            self.wrong('the signature of a head is wrong, or of a key that may not sign it')
        if self.waiting is not None:
            if self.waiting['epoch'] != u32(p, 200):
                self.wrong('a tombstone is of another key than the head behind it')
            self.tombstone, self.waiting = self.waiting, None
        self.epoch = u32(p, 200)
        self.head, self.head_hash, self.closed = number, H(p), flags == 1
        self.heads[number] = self.head_hash

    def stone(self, p):
        if len(p) != 160 or p[:4] != b'VDAT' or u32(p, 4) != 1 or p[8:24] != self.log or u32(p, 92):
            self.wrong('a tombstone is malformed')
        t = {'segment': u64(p, 24), 'record': u64(p, 32), 'chain': p[40:72], 'head': u64(p, 72), 'epoch': u32(p, 88)}
        key = signer(self.entries, t['epoch'], self.head + 1)
        if t['segment'] >= self.segment or (self.tombstone and t['segment'] <= self.tombstone['segment']) or key is None or \
                not signed(key, p):
            self.wrong('a tombstone is wrong, or its signature is')
        self.waiting = t


def verify(folder, second=None, keys=None, pinned=None, show=False):
    entries = load_keys(folder)
    if pinned is not None and entries[0]['hash'].hex() != pinned.lower():
        raise Wrong('keys, byte 0: the first entry is not the noted root')
    numbers = sorted(int(m.group(1)) for m in (re.fullmatch(r'(\d+)\.seg', n) for n in os.listdir(folder)) if m)
    if not numbers:
        raise Wrong('there is no segment')
    walk = Walk(folder, entries, keys, show)
    for before, number in zip([numbers[0] - 1] + numbers, numbers):
        if number != before + 1:
            raise Wrong(f'segment {before + 1} is not there')
        walk.read(number)
    first, records, chain, head = walk.first
    stone = walk.tombstone
    if first != 1 and not (stone and first <= stone['segment']):
        if not stone or (stone['segment'], stone['record'], stone['chain'], stone['head']) != (first - 1, records, chain, head):
            raise Wrong(f'segment {first}, byte 0: what came before is gone, and no tombstone says so')
    if walk.epoch + 1 != len(entries):
        raise Wrong(f'keys, entry {len(entries) - 1}: it has signed nothing')
    copies = newest = 0
    if second:
        name = os.path.join(second, entries[0]['log'].hex() + '.heads')
        try:
            data = open(name, 'rb').read()
        except OSError:
            raise Wrong('second place: its file is not there')
        for at in range(0, len(data), 304):
            p, what = data[at:at + 304], f'second place, byte {at}'
            if len(p) != 304 or p[:4] != b'VDAH':
                raise Wrong(what + ': a head is cut or malformed')
            number = u64(p, 24)
            key = signer(entries, u32(p, 200), number)
            if key is None or not signed(key, p):
                raise Wrong(f'{what}, head {number}: its signature is wrong, or its key is not in keys')
            if number > walk.head:
                raise Wrong(f'{what}, head {number}: the log ends before it: it was cut or put back')
            if number in walk.heads and walk.heads[number] != H(p):
                raise Wrong(f'{what}, head {number}: the log has another head of that number')
            if number not in walk.heads and not (stone and number <= stone['head']):
                raise Wrong(f'{what}, head {number}: the log begins behind it, and no tombstone says so')
            copies += 1
            newest = max(newest, number)
        if newest < walk.head:
            raise Wrong(f'second place, byte {len(data)}: it ends at head {newest}, the log at {walk.head}')
    return {'segments': f'{numbers[0]}-{numbers[-1]}', 'records': walk.records - walk.first_record, 'heads': len(walk.heads),
            'lastHead': walk.head, 'copies': copies, 'root': entries[0]['hash'].hex(), 'decrypted': keys is not None}


def main():
    p = argparse.ArgumentParser()
    p.add_argument('folder')
    p.add_argument('--second')
    p.add_argument('--root')
    p.add_argument('--keyring')
    p.add_argument('--kek')
    p.add_argument('--print', action='store_true')
    a = p.parse_args()
    try:
        keys = keyring(a.keyring or os.path.join(a.folder, '..', 'keys', 'keyring'), a.kek) if a.kek else None
        print(json.dumps(verify(a.folder, a.second, keys, a.root, a.print)))
    except Wrong as e:
        print('WRONG: ' + str(e))
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
