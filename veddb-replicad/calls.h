/* veddb-replicad/calls.h — questions under way on one link: who waits for which answer.
 *
 * Duty:    gives request numbers, finds who asked when the answer comes, ends all when the link
 *          is lost, and each whose time is over. A call that is `many` stays until a failure.
 * Owner:   embedded: init/done.
 * Threads: the loop's. A `done` may ask anew, also on the same link. */
#pragma once
#include "libcommon/base/list.h"
#include "proto/codec.h"

typedef struct {
    int rc;                /* VD_OK, or of the FAILURE, or VD_ERR_CLOSED, VD_ERR_NETWORK_TIMEOUT */
    const vd_error_t *err; /* set when rc is not VD_OK */
    uint32_t id;
    vd_slice_t rest;
} repl_answer_t;

typedef void (*repl_done_t)(void *context, const repl_answer_t *answer);

typedef struct {
    vd_list_t list;
    uint64_t last_id;
    const char *other; /* whom we ask, for messages */
} repl_calls_t;

void repl_calls_init(repl_calls_t *calls, const char *other);
/* deadline_ms: monotonic, 0 = none. Returns the request's number, never 0. */
uint64_t repl_calls_add(repl_calls_t *calls, bool many, uint64_t deadline_ms, repl_done_t done,
                        void *context);
/* An item that is an answer: true if somebody waited for it. */
bool repl_calls_answer(repl_calls_t *calls, const vdp_envelope_t *envelope, vd_slice_t rest);
/* Nobody waits for it any more; done is not called. */
void repl_calls_forget(repl_calls_t *calls, uint64_t id);
void repl_calls_fail_all(repl_calls_t *calls, int code, const char *why);
/* Without a word to those who asked: the owner is going away. */
void repl_calls_drop_all(repl_calls_t *calls);
void repl_calls_expire(repl_calls_t *calls, uint64_t now_ms);

/* The answer's fields if it is the message that is expected; else the failure as err. */
VD_MUST_CHECK int repl_answer_take(const repl_answer_t *answer, const vdp_message_t *message,
                                   void *ret_fields, vd_slice_t *ret_body, vd_error_t *err);
