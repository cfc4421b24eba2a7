// tests/support/blocks.mjs — sealed blocks in the files of a data folder, found in the raw bytes: by which key, and where.
import fs from 'node:fs';
import path from 'node:path';

// A sealed block (veddb-storaged/engine/keys.h): "VDB1", version, three zeros, the key's id. In a table's file it stands behind the engine's head of a page
// (which says the page's size) at a multiple of the allocation unit; in the log behind the head of a record; elsewhere from the start.
const MAGIC = Buffer.from('VDB1'), ID_AT = 8;
const TABLE_UNIT = 4096, TABLE_HEAD = 44, TABLE_SIZE_AT = 28;
const LOG_UNIT = 128, LOG_HEAD = 20;

const isLog = (name) => /^WiredTiger(Log|Preplog|Tmplog)\./.test(name);

/** Every place of the bytes. */
function* places(bytes, needle) {
  for (let at = bytes.indexOf(needle); at >= 0; at = bytes.indexOf(needle, at + 1)) yield at;
}

function filesOf(folder) {
  return fs
    .readdirSync(folder, {recursive: true, withFileTypes: true})
    .filter((e) => e.isFile())
    .map((e) => path.join(e.parentPath ?? e.path, e.name));
}

/** Where a block's head can stand, counted back from the place of a key's id: {at, len} of all that is the block's, or undefined. */
function blockAt(file, bytes, idAt) {
  const head = idAt - ID_AT, name = path.basename(file);
  if (head < 0 || !bytes.subarray(head, head + 4).equals(MAGIC)) return undefined;
  if (name.endsWith('.wt')) {
    const at = head - TABLE_HEAD;
    const len = at < 0 || at % TABLE_UNIT !== 0 ? 0 : bytes.readUInt32LE(at + TABLE_SIZE_AT);
    return len >= TABLE_UNIT && len % TABLE_UNIT === 0 && at + len <= bytes.length ? {at, len, kind: 'table'} : undefined;
  }
  if (isLog(name)) return head >= LOG_HEAD && (head - LOG_HEAD) % LOG_UNIT === 0 ? {at: head - LOG_HEAD, len: 0, kind: 'log'} : undefined;
  return {at: head, len: 0, kind: 'file'};
}

/** All that carries one of the keys' ids (hex) in any file below the folder. blocks: {file, at, len, kind, id}; elsewhere: ids where no block begins. */
export function searchOld(folder, ids) {
  const found = {files: 0, bytes: 0, blocks: [], elsewhere: []};
  for (const file of filesOf(folder)) {
    const bytes = fs.readFileSync(file);
    found.files++;
    found.bytes += bytes.length;
    for (const id of ids)
      for (const at of places(bytes, Buffer.from(id, 'hex'))) {
        const block = blockAt(file, bytes, at);
        if (block) found.blocks.push({file, id, ...block});
        else found.elsewhere.push({file, id, at});
      }
  }
  return found;
}

/** Fills the blocks (of tables) with zeros: what is missed afterwards was in use. */
export function eraseBlocks(blocks) {
  for (const {file, at, len} of blocks) {
    const fd = fs.openSync(file, 'r+');
    fs.writeSync(fd, Buffer.alloc(len), 0, len, at);
    fs.closeSync(fd);
  }
}

/** Flips a bit in every leaf page of a table's file, which is closed. Returns how many. */
export function damageLeaves(file) {
  const LEAF = 7, TYPE_AT = 24, bytes = fs.readFileSync(file);
  let count = 0;
  for (let at = TABLE_UNIT; at + TABLE_UNIT <= bytes.length; at += TABLE_UNIT) {
    if (!bytes.subarray(at + TABLE_HEAD, at + TABLE_HEAD + MAGIC.length).equals(MAGIC) || bytes[at + TYPE_AT] !== LEAF) continue;
    bytes[at + TABLE_HEAD + 200] ^= 1;
    count++;
  }
  fs.writeFileSync(file, bytes);
  return count;
}
