/* veddb-rotated/audit/ask.h — what operators ask of the audit log: verify, tail, search, prove.
 *
 * Duty:    one question -> one JSON object. Reads the files alone, up to a given head, so that
 *          the log goes on being written.
 * Owner:   nothing is kept.
 * Threads: one at a time, not the loop's: it may read for long.
 * Limits:  ROT_ASK_RECORDS_MAX records in an answer, ROT_ASK_BYTES_MAX bytes.
 * Errors:  VD_ERR_BAD_VALUE (the question), VD_ERR_NOT_FOUND (no such record), VD_ERR_CORRUPT. */
#pragma once
#include "veddb-rotated/audit/held.h"

#define ROT_ASK_RECORDS_MAX 1000
#define ROT_ASK_BYTES_MAX   (150 * 1024)

typedef struct {
    char verb[16];       /* verify, tail, search, prove */
    char argument[4096]; /* tail: count; prove: number; search: "name=value" lines */
    const char *folder, *second_place;
    rot_data_keys_t keys;
    uint64_t limit_segment, limit_offset; /* where the last head ends */
    uint64_t limit_copy;                  /* bytes in the second place then */
    rot_held_head_t held[ROT_HELD_MAX];   /* of other nodes, verify looks at them */
    uint32_t held_count;
} rot_ask_t;

VD_MUST_CHECK int rot_ask_run(const rot_ask_t *ask, vd_buf_t *out, vd_error_t *err);
