/* veddb-storaged/streams/token.h — resume tokens: a place in the journal as a string.
 *
 * Duty:    {_data: 64 hexadecimal digits} to and from a position. The digits sort as the events
 *          do: version, timestamp, kind (a mark sorts before the events of its timestamp), part
 *          and number of the change, whether it is the invalidation that follows an event, and
 *          which fragment of a split event. Behind that stand a digest of what the event is about
 *          (so that another stream's token is noticed) and a checksum. Nothing of one node is in
 *          it: every member of a set makes the same one.
 * Threads: any; pure. */
#pragma once
#include "libcommon/bson/build.h"

#define STOR_TOKEN_BYTES  32
#define STOR_TOKEN_DIGITS (2 * STOR_TOKEN_BYTES)

typedef struct {
    uint64_t timestamp;
    bool event;       /* false: a mark, "everything below this timestamp" */
    bool invalidate;  /* the invalidation behind that event */
    uint8_t fragment; /* of a split event, from 1; 0: the whole */
    uint32_t part, number;
    uint64_t about; /* stor_token_about */
} stor_token_t;

static inline stor_token_t stor_token_mark(uint64_t timestamp)
{
    return (stor_token_t){.timestamp = timestamp};
}
uint64_t stor_token_about(vd_slice_t uuid, vd_slice_t key);
/* Digits, and a NUL. */
void stor_token_write(const stor_token_t *token, char digits[STOR_TOKEN_DIGITS + 1]);
/* 40647 or FailedToParse where it has not the form of one; InvalidResumeToken where it is none of
 * ours. */
VD_MUST_CHECK int stor_token_read(vd_bson_t document, stor_token_t *ret_token, vd_error_t *err);
/* By place: < 0, 0, > 0. What it is about does not count. */
int stor_token_compare(const stor_token_t *a, const stor_token_t *b);
