// tests/surface/walk.mjs — walks every row of surface.json with its examples, against a running node, and writes the table of
// docs/features.md. By itself: node surface/walk.mjs [group or row ...] prints what it finds, --write rewrites the table.
import fs from 'node:fs';
import path from 'node:path';
import {Node} from '../support/node.mjs';
import {isCode, judge} from './kit.mjs';
import administration from './administration.mjs';
import collections from './collections.mjs';
import commands from './commands.mjs';
import expressions from './expressions.mjs';
import language from './language.mjs';
import stages from './stages.mjs';

const here = import.meta.dirname;
export const file = path.join(here, '../../docs/features.md');
export const surface = JSON.parse(fs.readFileSync(path.join(here, 'surface.json')));
export const tables = {...language, ...stages, ...expressions, ...collections, ...commands, ...administration};

/** Rows without an example, and examples without a row: there may be none. */
export function gaps() {
  const out = [];
  for (const {group, rows} of surface) {
    for (const name of Object.keys(rows)) if (!tables[group]?.[name]?.length) out.push(`${group}: ${name} has no example`);
    for (const name of Object.keys(tables[group] ?? {})) if (!(name in rows)) out.push(`${group}: ${name} is no row`);
  }
  return out;
}

/** [{group, name, grade, mark, note, wrong: [what is not as MongoDB says]}] */
export async function walk(node, client, only = []) {
  const ctx = {node, client, db: client.db('surface'), admin: client.db('admin')};
  const found = [];
  for (const {group, rows} of surface) {
    for (const [name, grade] of Object.entries(rows)) {
      if (only.length && !only.includes(name) && !only.includes(group)) continue;
      const results = [];
      for (const example of tables[group][name]) results.push({label: example.label, want: example.want, ...(await judge(example, ctx))});
      found.push({group, name, grade, ...mark(results)});
    }
  }
  return found;
}

function mark(results) {
  const good = results.filter((r) => r.state === 'yes'), refused = results.filter((r) => r.state === 'refused'), wrong = results.filter((r) => r.state === 'wrong');
  const notes = refused.map((r) => `${r.label}: ${r.why}`);
  const lists = {wrong: wrong.map((r) => `${r.label}: ${r.why}`), notes};
  const codes = [...new Set(refused.map((r) => r.code))].join(', ');
  // What MongoDB takes and gives: an example that it refuses says little about whether something works.
  const works = good.filter((r) => !isCode(r.want));
  if (wrong.length) return {mark: 'wrong', note: '', ...lists};
  if (!refused.length) return {mark: 'yes', note: works.length ? '' : `refused as MongoDB does: ${[...new Set(good.map((r) => r.code))].join(', ')}`, ...lists};
  if (works.length) return {mark: 'partly', note: `${refused.length} of ${results.length} examples refused: error ${codes}`, ...lists};
  return {mark: 'no', note: `error ${codes}`, ...lists};
}

const GRADES = ['core', 'common', 'rare'];
const cell = (s) => s.replaceAll('|', '\\|');
export function page(found) {
  const out = [
    '# What of MongoDB 7.0 works', '',
    'Written by `./dev features` from what a running node answered; `./dev test` walks it again and fails where it differs. Each row is one thing that a',
    'client can name, with at least one example in [tests/surface](../tests/surface/README.md) whose result, or error code, is MongoDB\'s. **yes**: all its examples',
    'are as MongoDB 7.0 has them; **partly**: some are refused; **no**: refused by name, with this code. core: nearly every application uses it; common: many',
    'applications or tools; rare: the rest.', '',
    '| | rows | yes | partly | no |', '|---|---|---|---|---|',
  ];
  for (const grade of [...GRADES, 'together']) {
    const rows = found.filter((r) => grade === 'together' || r.grade === grade);
    out.push(`| ${grade} | ${[rows.length, ...['yes', 'partly', 'no'].map((m) => rows.filter((r) => r.mark === m).length)].join(' | ')} |`);
  }
  for (const {group} of surface) {
    out.push('', `## ${group}`, '', '| name | how common | works | |', '|---|---|---|---|');
    for (const r of found.filter((f) => f.group === group)) out.push(`| \`${cell(r.name)}\` | ${r.grade} | ${r.mark} | ${r.note} |`);
  }
  return `${out.join('\n')}\n`;
}

if (process.argv[1] === import.meta.filename) {
  const args = process.argv.slice(2), write = args.includes('--write');
  const node = await Node.start();
  const client = await node.client();
  try {
    const missing = gaps();
    if (missing.length) throw new Error(missing.join('\n'));
    const found = await walk(node, client, args.filter((a) => !a.startsWith('--')));
    for (const r of found) for (const line of [...r.wrong.map((w) => `WRONG   ${r.name} (${r.grade}): ${w}`), ...r.notes.map((n) => `${r.mark.padEnd(7)} ${r.name} (${r.grade}): ${n}`)]) console.log(line.slice(0, 600));
    if (write) fs.writeFileSync(file, page(found));
    for (const grade of GRADES) console.log(grade, ['yes', 'partly', 'no', 'wrong'].map((m) => `${m} ${found.filter((r) => r.grade === grade && r.mark === m).length}`).join(', '));
  } finally {
    await client.close();
    await node.stop();
  }
}
