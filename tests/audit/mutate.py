#!/usr/bin/env python3
"""Changes an audit log in every way there is and asks both verifiers: each change must be found, and its place named.

usage: mutate.py AUDIT_TOOL [--all]   (without --all: every change of frames and files, and 1 in 12 of those of bytes)"""
import os, random, shutil, struct, subprocess, sys, tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import verify

KEK = b'0123456789abcdef0123456789abcde\0'


def frames(data):
    at, out = 0, []
    while at < len(data):
        n = struct.unpack_from('<I', data, at)[0]
        out.append((at, n, data[at + 4]))
        at += n
    return out


def mutations(log, rng):
    """Yields (name, {path: bytes or None})."""
    files = {}
    for folder in ('audit', 'second'):
        for name in sorted(os.listdir(os.path.join(log, folder))):
            if name != 'seal':  # state, not evidence
                files[folder + '/' + name] = open(os.path.join(log, folder, name), 'rb').read()
    segments = [n for n in files if n.endswith('.seg')]
    for name, data in files.items():
        places = set(range(0, len(data), 37)) | {len(data) - 1}
        if name.endswith('.seg'):
            seen = set()
            for at, n, kind in frames(data):
                places |= {at + i for i in range(8)}  # each length and type
                if kind not in seen or rng.random() < 0.05:  # each byte of one of each kind
                    seen.add(kind)
                    places |= set(range(at, at + n, 1 if n < 500 else 7))
        else:
            places |= set(range(0, min(len(data), 352)))
        for at in sorted(places):
            bit = 1 << rng.randrange(8)
            yield f'flip {name} {at}', {name: data[:at] + bytes([data[at] ^ bit]) + data[at + 1:]}
        for _ in range(8):
            at, n = rng.randrange(len(data)), rng.randrange(1, 40)
            yield f'delete {name} {at}+{n}', {name: data[:at] + data[at + n:]}
            yield f'insert {name} {at}+{n}', {name: data[:at] + rng.randbytes(n) + data[at:]}
            if at:
                yield f'truncate {name} {at}', {name: data[:at]}
            at2 = rng.randrange(len(data))
            a, b = min(at, at2), max(at, at2)
            if b + n <= len(data) and a + n <= b and data[a:a + n] != data[b:b + n]:
                yield f'swap {name} {a} {b}', {name: data[:a] + data[b:b + n] + data[a + n:b] + data[a:a + n] + data[b + n:]}
        yield f'remove {name}', {name: None}
        yield f'append {name}', {name: data + rng.randbytes(50)}
        yield f'empty {name}', {name: b''}
    for name in segments:  # whole frames
        data = files[name]
        cut = frames(data)
        for i, (at, n, kind) in enumerate(cut):
            yield f'delete frame {name} {i} type {kind}', {name: data[:at] + data[at + n:]}
            yield f'double frame {name} {i} type {kind}', {name: data[:at + n] + data[at:]}
            if at:
                yield f'truncate at frame {name} {i} type {kind}', {name: data[:at]}
            if i + 1 < len(cut):
                m = cut[i + 1][1]
                yield f'swap frames {name} {i}', {name: data[:at] + data[at + n:at + n + m] + data[at:at + n] + data[at + n + m:]}
    for a, b in zip(segments, segments[1:]):
        yield f'swap files {a} {b}', {a: files[b], b: files[a]}
        ka, kb = a.replace('seg', 'key'), b.replace('seg', 'key')
        yield f'swap files {ka} {kb}', {ka: files[kb], kb: files[ka]}
    for i in range(1, len(segments)):  # the oldest go, without a tombstone
        yield f'drop the first {i}', {n: None for s in segments[:i] for n in (s, s.replace('seg', 'key'))}
    last = segments[-1]  # the whole log as it was: only the second place knows
    for at, n, kind in frames(files[last]):
        if kind == 3 and at + n < len(files[last]):
            yield f'roll back {last} to {at + n}', {last: files[last][:at + n]}
    for i in range(len(segments) - 1, 0, -1):
        yield f'roll back behind {segments[i - 1]}', {n: None for s in segments[i:] for n in (s, s.replace('seg', 'key'))}
    keys = files['audit/keys']
    for at in range(176, len(keys), 176):
        yield f'roll back keys to {at}', {'audit/keys': keys[:at]}


def main():
    tool = sys.argv[1]
    top = tempfile.mkdtemp(prefix='vd-audit-')
    rng = random.Random(17)
    try:
        log = os.path.join(top, 'log')
        subprocess.run([tool, 'make', log], check=True)
        kek_file = os.path.join(top, 'kek')
        open(kek_file, 'w').write(KEK.hex())
        keys = verify.keyring(os.path.join(log, 'keys', 'keyring'), kek_file) if verify.AESGCM else None
        other = subprocess.Popen([tool, 'verify', log], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def ask(folder):
            other.stdin.write(folder + '\n')
            other.stdin.flush()  # it works while we do
            theirs = []
            for k in (keys, None):
                try:
                    theirs.append('good: ' + str(verify.verify(folder + '/audit', folder + '/second', k)))
                except verify.Wrong as e:
                    theirs.append(str(e))
            ours = other.stdout.readline().strip()
            return ours, theirs[0], theirs[1]

        work = os.path.join(top, 'work')
        shutil.copytree(log, work)
        good = ask(work)
        print('unchanged:', *good, sep='\n  ')
        assert all(g.startswith('good') for g in good)
        missed = count = 0
        for name, change in mutations(log, rng):
            of_bytes = name.split()[0] in ('flip', 'delete', 'insert', 'swap', 'truncate') and 'frame' not in name and \
                'files' not in name
            if of_bytes and '--all' not in sys.argv and rng.random() > 1 / 12:
                continue
            for path, data in change.items():
                full = os.path.join(work, path)
                if data is None:
                    os.unlink(full)
                else:
                    open(full, 'wb').write(data)
            said = ask(work)
            for path in change:
                shutil.copyfile(os.path.join(log, path), os.path.join(work, path))
            count += 1
            # Without the key a wrapped key is opaque: its file is the one thing that can't be checked then.
            without = 2 if '.key' in name else 3
            named = all(any(w in s for w in ('segment', 'keys', 'second place', '.key', 'there')) for s in said[:without])
            if any(s.startswith('good') for s in said[:without]) or not named:
                missed += 1
                print('MISSED', name, *said, sep='\n  ')
        print(f'{count} changes, {missed} missed')
        other.stdin.close()
        other.wait()
        return 1 if missed or count < 1000 else 0
    finally:
        shutil.rmtree(top)


if __name__ == '__main__':
    sys.exit(main())
