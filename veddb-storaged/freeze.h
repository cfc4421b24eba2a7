/* veddb-storaged/freeze.h — fsync {lock: true}: nothing is written until fsyncUnlock, so that the
 * files can be copied.
 *
 * Duty:    counts who writes (requests, the applier, the keeper's work), lets nobody new in once
 *          somebody wants the lock, and says when all are out; then a checkpoint is made and no
 *          other one until the end. A request that may not in is parked without a worker
 *          (streams/waits.h) and goes on after the last fsyncUnlock. As in MongoDB a lock is
 *          counted, belongs to nobody, waits for open transactions that have changed something,
 *          and is gone with the process. What is not data still goes into the log: events of the
 *          audit, roles and terms, no-op entries.
 * Life:    open -> wanted (statements of open transactions still go in) -> taking (checkpoint) ->
 *          held -> open.
 * Owner:   storage, by value.
 * Threads: any. */
#pragma once
#include "libcommon/base/error.h"

#include <pthread.h>
#include <stdatomic.h>

#define STOR_FREEZE_WAIT_MS 90000 /* for the lock, unless the command says otherwise */

struct stor_storage;
struct stor_request;

typedef enum {
    STOR_FREEZE_OPEN,
    STOR_FREEZE_WANTED,
    STOR_FREEZE_TAKING,
    STOR_FREEZE_HELD,
} stor_freeze_state_t;

typedef struct {
    pthread_mutex_t lock;
    int64_t count;      /* of locks, and of commands that want one; under lock */
    atomic_int state;   /* stor_freeze_state_t; changed under lock */
    atomic_int writers; /* inside */
} stor_freeze_t;

void stor_freeze_init(stor_freeze_t *freeze);
void stor_freeze_done(stor_freeze_t *freeze);

/* False: not now. Else stor_freeze_leave ends it. */
VD_MUST_CHECK bool stor_freeze_enter(struct stor_storage *storage);
void stor_freeze_leave(struct stor_storage *storage);
static inline bool stor_freeze_is_open(const stor_freeze_t *freeze)
{
    return atomic_load(&freeze->state) == STOR_FREEZE_OPEN;
}

/* The same for a request, if it writes at all: false = park it. */
VD_MUST_CHECK bool stor_freeze_request_enter(struct stor_request *request);
void stor_freeze_request_leave(struct stor_request *request);
/* What a parked one waits for. */
bool stor_freeze_request_ready(const struct stor_request *request);

/* One more lock is wanted: stor_freeze_take until it is there, or stor_freeze_give_up. */
void stor_freeze_want(struct stor_storage *storage);
/* *ret_count: how many there are now; 0 = not yet. On an error the wish stays. */
VD_MUST_CHECK int stor_freeze_take(struct stor_storage *storage, int64_t *ret_count,
                                   vd_error_t *err);
/* It may be there at the next try. */
bool stor_freeze_may_take(struct stor_storage *storage);
void stor_freeze_give_up(struct stor_storage *storage);
/* False: nobody holds one. *ret_count: how many are left. */
VD_MUST_CHECK bool stor_freeze_unlock(struct stor_storage *storage, int64_t *ret_count);
/* For currentOp. */
static inline bool stor_freeze_is_held(const stor_freeze_t *freeze)
{
    return atomic_load(&freeze->state) == STOR_FREEZE_HELD;
}
