/* veddb-rotated/audit/held.h — what the other nodes hold of this log's heads, and the alarm when
 * the log does not have them.
 *
 * Duty:    keeps the head that each node holds (proto/heads.md) and says what it means: the log was
 *          put back or changed, or all is well. The alarm says whether a key of the log has signed
 *          what is held: a node that lies can raise it, and shows itself by that.
 * Owner:   a value.
 * Threads: one.
 * Limits:  ROT_HELD_MAX nodes; of more the last ones are checked, but not kept. */
#pragma once
#include "proto/heads.h"
#include "veddb-rotated/audit/log.h"

#define ROT_HELD_MAX     VDP_AUDIT_CHECKED_MAX
#define ROT_HELD_WHY_MAX 256

typedef struct {
    rot_held_head_t heads[ROT_HELD_MAX];
    uint32_t count;
    uint64_t serial; /* changes with what rot_held_checked says */
    bool alarm;
    char why[ROT_HELD_WHY_MAX]; /* of the first alarm */
} rot_held_t;

typedef enum {
    ROT_HELD_GOOD,
    ROT_HELD_IGNORED, /* not a head of this log; why is set */
    ROT_HELD_KNOWN,   /* an alarm, raised before by the same node */
    ROT_HELD_ALARM,   /* new; why is set */
} rot_held_verdict_t;

/* A node has answered. folder: of the log, `keys` is read when there is a doubt. A head that is so
 * old that the log does not remember it is left to rot_verify. */
rot_held_verdict_t rot_held_take(rot_held_t *held, const char *folder, const rot_log_t *log,
                                 vd_slice_t node, vd_slice_t head, bool frozen,
                                 char why[ROT_HELD_WHY_MAX]);

/* Of what the nodes hold, the digests of those that are good, joined: they may replace these. */
vd_slice_t rot_held_checked(const rot_held_t *held,
                            uint8_t room[ROT_HELD_MAX * VDP_AUDIT_CHECKED_BYTES]);
