/* veddb-rotated/audit/walk.h — reads the audit log from its oldest byte on and believes nothing.
 *
 * Duty:    `keys`, segments, the second place: every check of docs/audit-format.md. Used to
 *          verify, to search, to prove, and by the writer when it starts again. Names the place
 *          of what is wrong: file, byte, head or record.
 * Owner:   create/destroy.
 * Threads: one; a log that is being written is read up to a head.
 * Errors:  VD_ERR_CORRUPT with the place, VD_ERR_KEY_MISSING, VD_ERR_IO, or what the callback
 *          gave. */
#pragma once
#include "veddb-rotated/audit/format.h"

/* The keyring's keys, borrowed. */
typedef struct {
    const rot_data_key_t *keys;
    uint32_t count;
} rot_data_keys_t;
const rot_data_key_t *rot_data_keys_find(const rot_data_keys_t *keys, const uint8_t id[16]);

typedef struct {
    uint64_t number, position, segment;
    uint32_t part;
    uint8_t source;
    vd_slice_t bytes;    /* the whole record */
    vd_slice_t document; /* BSON, framed; its inside was not looked at */
    rot_hash_t hash;
} rot_record_t;

/* How far the log has been read, or sealed. */
typedef struct {
    uint64_t segment, offset, records;
    rot_hash_t chain, last_record, head_hash;
    rot_head_t head; /* number 0: none yet */
    rot_tree_t tree; /* of the segment */
    bool closed;
} rot_point_t;

typedef struct {
    rot_public_t *entries;
    uint32_t count;
    rot_hash_t last, root; /* hashes of the last entry and of the first */
    uint64_t good_bytes;
} rot_publics_t;
/* strict: a torn last entry is an error, else good_bytes tells where it begins. every: each
 * signature is checked, else those of the last ROT_PUBLICS_QUICK entries (hashes always). */
#define ROT_PUBLICS_QUICK 16
VD_MUST_CHECK int rot_publics_load(const char *folder, bool strict, bool every,
                                   rot_publics_t *ret_publics, vd_error_t *err);
void rot_publics_done(rot_publics_t *publics);
/* The epoch's key, if it may sign that head. */
const uint8_t *rot_publics_key(const rot_publics_t *publics, uint32_t epoch, uint64_t head);

typedef struct {
    const rot_publics_t *publics;
    rot_data_keys_t keys;
    const char *folder; /* NULL: frames are given */
    int (*record)(void *context, const rot_record_t *record, vd_error_t *err); /* or NULL */
    void (*head)(void *context, const rot_head_t *head, const rot_hash_t *hash,
                 const uint8_t bytes[ROT_HEAD_BYTES]); /* or NULL */
    void *context;
    rot_point_t now, sealed;   /* sealed: behind the last head */
    rot_tombstone_t tombstone; /* the newest, sealed; segment 0: none */
    rot_tombstone_t unsealed_tombstone;
    bool began;
    uint64_t first_segment, head_count;
    rot_start_t first_start;
    rot_data_key_t *data_key; /* of the segment, locked */
} rot_walk_t;

VD_MUST_CHECK int rot_walk_init(rot_walk_t *walk, const char *folder, const rot_publics_t *publics,
                                rot_data_keys_t keys, vd_error_t *err);
void rot_walk_done(rot_walk_t *walk);
/* Reads one segment, the next one. limit: of the file, in bytes; UINT64_MAX: all. torn: what comes
 * behind the last head may be anything: the walk ends at the last head (walk->sealed) and *ret_torn
 * tells why it ended. */
VD_MUST_CHECK int rot_walk_segment(rot_walk_t *walk, uint64_t number, uint64_t limit, bool torn,
                                   vd_error_t *ret_torn, vd_error_t *err);

/* The same by parts: the next segment begins; one whole frame of it. A walk without a folder reads
 * no files: *data_key is the caller's. */
void rot_walk_begin(rot_walk_t *walk, uint64_t number);
VD_MUST_CHECK int rot_walk_frame(rot_walk_t *walk, vd_slice_t frame, vd_error_t *err);

/* Numbers of the segments that are there, ascending; free with vd_free. */
VD_MUST_CHECK int rot_segments_list(const char *folder, uint64_t **ret_numbers, uint32_t *ret_count,
                                    vd_error_t *err);
VD_MUST_CHECK int rot_segment_key_read(const char *folder, uint64_t number, rot_data_keys_t keys,
                                       rot_data_key_t *ret_key, vd_error_t *err);
void rot_segment_path(const char *folder, uint64_t number, const char *ending, char *path,
                      size_t size);

/* ---- all of it ---- */
#define ROT_HELD_NAME_MAX 63
/* A head of this log that another node holds. */
typedef struct {
    char node[ROT_HELD_NAME_MAX + 1];
    uint64_t number;
    bool frozen;
    uint8_t head[ROT_HEAD_BYTES];
} rot_held_head_t;

typedef struct {
    const char *folder;
    const char *second_place; /* folder, or NULL */
    const rot_held_head_t *held;
    uint32_t held_count;
    rot_data_keys_t keys;
    /* Of a log that is being written: where its last head ends; 0: it was stopped. */
    uint64_t limit_segment, limit_offset;
    uint64_t limit_copy; /* of such a log: bytes in the second place then */
    int (*record)(void *context, const rot_record_t *record, vd_error_t *err);
    void (*head)(void *context, const rot_head_t *head, const rot_hash_t *hash,
                 const uint8_t bytes[ROT_HEAD_BYTES]);
    void *context;
} rot_verify_options_t;

typedef struct {
    uint64_t segments, first_segment, records, heads, copies, held;
    rot_head_t last;
    rot_hash_t root; /* of `keys` */
} rot_verdict_t;
VD_MUST_CHECK int rot_verify(const rot_verify_options_t *options, rot_verdict_t *ret_verdict,
                             vd_error_t *err);
