/* veddb-rotated/audit/format.h — the bytes of the audit log (docs/audit-format.md), pure.
 *
 * Duty:    hashes, the Merkle tree as it grows, heads, entries of `keys`, tombstones and starts
 *          between struct and bytes, Ed25519, and the project's encrypted blocks under one data
 *          key.
 * Owner:   values; nothing is kept.
 * Threads: any.
 * Limits:  a frame has at most ROT_FRAME_MAX_BYTES, a record ROT_RECORD_MAX_BYTES.
 * Errors:  VD_ERR_CORRUPT (fails its check), VD_ERR_KEY_MISSING, VD_ERR_ENCRYPTION. */
#pragma once
#include "libcommon/base/buf.h"

#define ROT_HASH_BYTES        32
#define ROT_LOG_ID_BYTES      16
#define ROT_SIGNATURE_BYTES   64
#define ROT_HEAD_BYTES        304
#define ROT_PUBLIC_BYTES      176 /* an entry of `keys` */
#define ROT_TOMBSTONE_BYTES   160
#define ROT_START_BYTES       168
#define ROT_FRAME_HEAD_BYTES  8
#define ROT_FRAME_EXTRA_BYTES (ROT_FRAME_HEAD_BYTES + ROT_HASH_BYTES)
#define ROT_RECORD_HEAD_BYTES 60
#define ROT_RECORD_MAX_BYTES  (1024 * 1024)
#define ROT_FRAME_MAX_BYTES   (ROT_RECORD_MAX_BYTES + 64 * 1024 + 256)
#define ROT_BLOCK_EXTRA_BYTES 68

enum { ROT_FRAME_START = 1, ROT_FRAME_RECORDS, ROT_FRAME_HEAD, ROT_FRAME_TOMBSTONE };
enum { ROT_SOURCE_JOURNAL = 1, ROT_SOURCE_EVENTS, ROT_SOURCE_LOG };
enum { ROT_HEAD_CLOSES = 1 };

typedef struct {
    uint8_t bytes[ROT_HASH_BYTES];
} rot_hash_t;

void rot_hash(rot_hash_t *ret_hash, vd_slice_t a, vd_slice_t b);
static inline bool rot_hash_equal(const rot_hash_t *a, const rot_hash_t *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* ---- the Merkle tree of what was added so far ---- */
typedef struct {
    uint64_t count;
    rot_hash_t peaks[64]; /* of full subtrees, largest first, by the bits of count */
} rot_tree_t;
void rot_tree_leaf(vd_slice_t record, rot_hash_t *ret_hash);
void rot_tree_node(const rot_hash_t *left, const rot_hash_t *right, rot_hash_t *ret_hash);
void rot_tree_add(rot_tree_t *tree, const rot_hash_t *leaf);
void rot_tree_root(const rot_tree_t *tree, rot_hash_t *ret_root);

/* ---- signed things ---- */
typedef struct {
    uint8_t log_id[ROT_LOG_ID_BYTES];
    uint64_t number, segment, offset, records, segment_records;
    rot_hash_t chain, last_record, root, before;
    int64_t time_ms;
    uint32_t epoch, flags;
    uint64_t journal; /* sealed up to here, of the two sources */
    uint32_t journal_part;
    uint64_t events;
} rot_head_t;

typedef struct {
    uint8_t log_id[ROT_LOG_ID_BYTES];
    uint32_t epoch;
    int64_t time_ms;
    uint64_t first_head;
    uint8_t key[32];
    rot_hash_t before;
} rot_public_t;

typedef struct {
    uint8_t log_id[ROT_LOG_ID_BYTES];
    uint64_t segment, record, head;
    rot_hash_t chain;
    int64_t time_ms;
    uint32_t epoch;
} rot_tombstone_t;

typedef struct {
    uint8_t log_id[ROT_LOG_ID_BYTES];
    uint64_t segment, records, head;
    rot_hash_t chain, last_record, head_hash;
    int64_t time_ms;
    uint8_t key_id[16];
} rot_start_t;

/* private_key: 32 bytes. */
VD_MUST_CHECK int rot_head_pack(const rot_head_t *head, const uint8_t *private_key, uint8_t *out,
                                vd_error_t *err);
/* The form alone; the signature by rot_signed(). False: not a head. */
bool rot_head_unpack(const uint8_t *in, rot_head_t *ret_head);
VD_MUST_CHECK int rot_public_pack(const rot_public_t *entry, const uint8_t *private_key,
                                  uint8_t *out, vd_error_t *err);
bool rot_public_unpack(const uint8_t *in, rot_public_t *ret_entry);
VD_MUST_CHECK int rot_tombstone_pack(const rot_tombstone_t *tombstone, const uint8_t *private_key,
                                     uint8_t *out, vd_error_t *err);
bool rot_tombstone_unpack(const uint8_t *in, rot_tombstone_t *ret_tombstone);
void rot_start_pack(const rot_start_t *start, uint8_t *out);
bool rot_start_unpack(const uint8_t *in, rot_start_t *ret_start);
/* Whether the last 64 of len bytes sign those before. */
bool rot_signed(const uint8_t *bytes, size_t len, const uint8_t public_key[32]);
VD_MUST_CHECK int rot_keypair(uint8_t ret_private[32], uint8_t ret_public[32], vd_error_t *err);

/* ---- blocks ---- */
typedef struct {
    uint8_t id[16];
    uint8_t key[32];
} rot_data_key_t;
/* Seals many blocks under one data key; never two with one nonce: a boot id of its own, drawn at
 * init. Must stand in locked memory. */
typedef struct {
    uint8_t key_id[16], boot_id[16], derived[32];
    uint64_t counter;
} rot_sealer_t;
VD_MUST_CHECK int rot_sealer_init(rot_sealer_t *sealer, const rot_data_key_t *key, vd_error_t *err);
/* out: plain.len + ROT_BLOCK_EXTRA_BYTES. */
VD_MUST_CHECK int rot_seal(rot_sealer_t *sealer, vd_slice_t plain, uint8_t *out, vd_error_t *err);
/* The key id in a block's head, or NULL when it is none. */
const uint8_t *rot_block_key_id(vd_slice_t block);
/* out: block.len - ROT_BLOCK_EXTRA_BYTES. */
VD_MUST_CHECK int rot_unseal(const rot_data_key_t *key, vd_slice_t block, uint8_t *out,
                             vd_error_t *err);
