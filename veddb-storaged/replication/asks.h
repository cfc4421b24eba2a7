/* veddb-storaged/replication/asks.h — questions of ours that replicad answers.
 *
 * Duty:    keeps what was asked until its answer is there, its time is over or replicad is gone;
 *          calls back exactly once.
 * Limits:  STOR_ASKS_MAX at once, STOR_ASK_MS each; a question's parts VDP_SET_STATUS_MAX bytes.
 * Threads: add, stop: any. look, answer, fail, and the call back: the link's. */
#pragma once
#include "veddb-storaged/replication/replication.h"

#define STOR_ASKS_MAX 64
#define STOR_ASK_MS   60000

struct stor_ask;
typedef struct {
    pthread_mutex_t lock;
    struct stor_ask *first;
    uint32_t count;
    uint64_t number; /* of the newest: request_id */
    bool stopped;
} stor_asks_t;

typedef void (*stor_ask_answered_t)(void *context, int code, vd_slice_t message, vd_slice_t body);

void stor_asks_init(stor_asks_t *asks);
void stor_asks_done(stor_asks_t *asks);
/* VD_ERR_TEMPORARILY_UNAVAILABLE: too many, or stopped. */
VD_MUST_CHECK int stor_asks_add(stor_asks_t *asks, const vdp_replication_ask_t *question,
                                vd_slice_t body, stor_ask_answered_t answered, void *context,
                                vd_error_t *err);
/* Nothing is taken any more. */
void stor_asks_stop(stor_asks_t *asks);
/* up: sends what is new, and gives up what is too old; else gives up everything. */
void stor_asks_look(stor_asks_t *asks, bool up,
                    void (*send)(void *context, uint64_t request_id,
                                 const vdp_replication_ask_t *question, vd_slice_t body),
                    void *context);
/* False: nobody waits for it. */
bool stor_asks_answer(stor_asks_t *asks, uint64_t request_id, int code, vd_slice_t message,
                      vd_slice_t body);
/* All of them. */
void stor_asks_fail(stor_asks_t *asks, int code, const char *message);
