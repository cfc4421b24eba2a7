// tests/support/proxy.mjs — the network between nodes, as a test wants it: one Network for a cluster, one TCP proxy before each
// node. A fault belongs to a direction, from one node to another, whoever opened the connection.
import fs from 'node:fs';
import net from 'node:net';

const clean = () => ({
  hold: false, // nothing arrives, nothing is closed: what a broken cable does; goes on where it stopped when it ends
  refuse: false, // connections are reset, and new ones too
  delayMs: 0,
  bytesPerSecond: 0, // 0 = no limit
  corrupt: 0, // so many of the next pieces have one byte changed
  drop: 0, // so many of the next bytes are left out, which no TCP would do
});

/** One direction of one connection: pieces in order, each not before its time. */
class Pipe {
  constructor(network, from, to, source, sink) {
    Object.assign(this, {network, from, to, source, sink, queue: [], bytes: 0, ended: false, timer: null, freeAt: 0});
    source.on('data', (data) => this.arrive(data));
    source.on('end', () => {
      this.ended = true;
      this.pump();
    });
  }

  arrive(data) {
    this.queue.push({data, at: Date.now() + this.network.fault(this.from, this.to).delayMs});
    this.bytes += data.length;
    // A held link must not eat the test's memory: the sender feels it as it would on a real network.
    if (this.bytes > 4 << 20) this.source.pause();
    this.pump();
  }

  wait(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.pump(), ms);
  }

  pump() {
    if (this.sink.destroyed) return;
    const fault = this.network.fault(this.from, this.to);
    while (this.queue.length > 0) {
      const {data, at} = this.queue[0];
      const now = Date.now();
      if (fault.hold) return; // set() pumps again
      const due = Math.max(at, fault.bytesPerSecond > 0 ? this.freeAt : 0);
      if (due > now) return this.wait(due - now);
      this.queue.shift();
      this.bytes -= data.length;
      if (fault.bytesPerSecond > 0) this.freeAt = now + (data.length * 1000) / fault.bytesPerSecond;
      this.write(data, fault);
    }
    if (this.source.isPaused()) this.source.resume();
    if (this.ended) this.sink.end();
  }

  write(data, fault) {
    if (fault.drop > 0) {
      const n = Math.min(fault.drop, data.length);
      fault.drop -= n;
      this.network.count(this.from, this.to).dropped += n;
      data = data.subarray(n);
    }
    if (fault.corrupt > 0 && data.length > 0) {
      fault.corrupt--;
      data = Buffer.from(data);
      data[data.length >> 1] ^= 0x20;
      this.network.count(this.from, this.to).corrupted++;
    }
    this.network.count(this.from, this.to).bytes += data.length;
    if (data.length > 0) this.sink.write(data);
  }

  close() {
    clearTimeout(this.timer);
  }
}

export class Network {
  /** identify(address, port): name of the node whose process owns that end of a connection, or null. */
  constructor(identify) {
    this.identify = identify;
    this.faults = new Map();
    this.counts = new Map();
    this.links = new Set();
    this.servers = [];
  }

  key(from, to) {
    return `${from}>${to}`;
  }

  fault(from, to) {
    const key = this.key(from, to);
    if (!this.faults.has(key)) this.faults.set(key, clean());
    return this.faults.get(key);
  }

  /** {bytes, corrupted, dropped} that went from one to another so far. */
  count(from, to) {
    const key = this.key(from, to);
    if (!this.counts.has(key)) this.counts.set(key, {bytes: 0, corrupted: 0, dropped: 0});
    return this.counts.get(key);
  }

  /** Changes what happens to bytes from one node to another. */
  set(from, to, change) {
    const fault = this.fault(from, to);
    for (const name of Object.keys(change)) if (!(name in fault)) throw new Error(`no such fault: ${name}`);
    Object.assign(fault, change);
    for (const link of [...this.links]) {
      if (fault.refuse && ((link.from === from && link.to === to) || (link.from === to && link.to === from))) link.destroy();
      for (const pipe of link.pipes) if (pipe.from === from && pipe.to === to) pipe.pump();
    }
  }

  both(a, b, change) {
    this.set(a, b, change);
    this.set(b, a, change);
  }

  heal() {
    for (const key of [...this.faults.keys()]) this.set(...key.split('>'), clean());
  }

  /** Closes all connections of a pair, once. */
  cut(a, b) {
    for (const link of [...this.links])
      if ((link.from === a && link.to === b) || (link.from === b && link.to === a)) link.destroy();
  }

  /** A proxy before the node `to`; target: {host, port}. Returns its address, "host:port". */
  async listen(to, target, address = '127.0.0.1') {
    const server = net.createServer({allowHalfOpen: true, pauseOnConnect: true}, (socket) => this.accept(socket, to, target));
    this.servers.push(server);
    await new Promise((resolve, reject) => server.once('error', reject).listen(0, address, resolve));
    return `${address}:${server.address().port}`;
  }

  accept(socket, to, target) {
    socket.on('error', () => {}); // its close follows
    // The kernel's table of connections, read while others come and go, may leave one out: a link that nobody owns would have no
    // faults. It is reset, and its node comes again.
    const from = this.identify(socket.remoteAddress, socket.remotePort) ?? this.identify(socket.remoteAddress, socket.remotePort);
    if (from === null) return socket.resetAndDestroy();
    if (this.fault(from, to).refuse || this.fault(to, from).refuse) return socket.resetAndDestroy();
    const out = net.connect({...target, allowHalfOpen: true});
    const link = {from, to, pipes: [new Pipe(this, from, to, socket, out), new Pipe(this, to, from, out, socket)]};
    link.destroy = () => {
      if (!this.links.delete(link)) return;
      for (const pipe of link.pipes) pipe.close();
      socket.resetAndDestroy();
      out.destroy();
    };
    this.links.add(link);
    out.on('error', link.destroy);
    out.on('close', link.destroy);
    socket.on('close', link.destroy);
    socket.resume();
  }

  async close() {
    for (const link of [...this.links]) link.destroy();
    await Promise.all(this.servers.map((s) => new Promise((r) => s.close(r))));
  }
}

/** The pids of a process and all that descend from it. */
export function family(pid) {
  const found = [pid];
  for (const at of found) {
    try {
      const text = fs.readFileSync(`/proc/${at}/task/${at}/children`, 'utf8');
      found.push(...text.split(' ').filter(Boolean).map(Number));
    } catch {
      // it has just ended
    }
  }
  return found;
}

/** Which of the families {name: supervisor's pid} holds the TCP socket bound to that address and port. */
export function ownerOf(address, port, families) {
  const bytes = address.replace('::ffff:', '').split('.').map(Number).reverse();
  const local = `${bytes.map((b) => b.toString(16).padStart(2, '0')).join('').toUpperCase()}:${port.toString(16).padStart(4, '0').toUpperCase()}`;
  const lines = fs.readFileSync('/proc/net/tcp', 'utf8').split('\n');
  const line = lines.find((l) => l.trim().split(/\s+/)[1] === local);
  if (!line) return null;
  const wanted = `socket:[${line.trim().split(/\s+/)[9]}]`;
  for (const [name, pid] of Object.entries(families)) {
    for (const member of family(pid)) {
      let fds = [];
      try {
        fds = fs.readdirSync(`/proc/${member}/fd`);
      } catch {
        continue;
      }
      for (const fd of fds) {
        try {
          if (fs.readlinkSync(`/proc/${member}/fd/${fd}`) === wanted) return name;
        } catch {
          // closed meanwhile
        }
      }
    }
  }
  return null;
}
