/* veddb-gatewayd/reply.h — replies and errors in the form that MongoDB's clients expect. Pure. */
#pragma once
#include "libcommon/bson/build.h"

typedef struct {
    uint64_t operation_time; /* 0: not known yet, left out */
    uint64_t cluster_time;   /* at least that */
} gate_reply_times_t;

enum {                                      /* what is known about the request that failed */
       GATE_REPLY_TXN_NUMBER = 1u << 0,     /* carries a txnNumber and is a write */
       GATE_REPLY_IN_TRANSACTION = 1u << 1, /* autocommit: false */
       GATE_REPLY_COMMIT = 1u << 2,         /* commitTransaction */
       GATE_REPLY_ABORT = 1u << 3,          /* abortTransaction */
       GATE_REPLY_CONCERN_FAILED = 1u << 4, /* and its write concern was not reached either */
};

/* Labels (VD_LABEL_*) that are true for this code. */
unsigned gate_reply_labels(int code, unsigned facts);
/* Of a getMore that never came to storage, was refused there, or whose answer is lost: a change
 * stream may go on where it was. Whether the cursor is one is not known here; drivers look at the
 * label for those alone.
 */
unsigned gate_reply_cursor_labels(int code);
/* The member has changed its role, or is going away: such errors carry topologyVersion. Of a member
 * that goes away only once that has changed it, which is when it drains: a driver takes what names
 * a version that it knows for old news. */
bool gate_reply_is_state_change(int code, bool draining);
/* The cluster time of a reply that is complete, and where its signature goes: 20 bytes of hash, and
 * the key's id (int64 LE). False when it has none in our form. */
bool gate_reply_signature(uint8_t *document, size_t len, uint64_t *ret_time, uint8_t **ret_hash,
                          uint8_t **ret_key_id);
/* Puts newer times into a complete reply whose times stand at its end in our form; what is older
 * than its own is left. False, and nothing done, when they don't. */
bool gate_reply_renew(uint8_t *document, size_t len, const gate_reply_times_t *times);
/* {ok:0, errmsg, code, codeName, <details>, errorLabels} + times; appends to an empty document. */
void gate_reply_error(vd_bb_t *bb, const vd_error_t *err, unsigned labels,
                      const gate_reply_times_t *times);
void gate_reply_label_array(vd_bb_t *bb, unsigned labels);
/* ok: 1 and the times, behind what the handler wrote. */
void gate_reply_ok(vd_bb_t *bb, const gate_reply_times_t *times);
/* operationTime and $clusterTime, not yet signed. */
void gate_reply_times(vd_bb_t *bb, const gate_reply_times_t *times);
