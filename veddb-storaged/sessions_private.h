/* veddb-storaged/sessions_private.h — logical sessions in memory, as sessions.c (who is there, what
 * retryable writes have done) and transactions.c (what is open in them) see them.
 *
 * Rules:   a shard's lock guards its map and the fields marked so; the rest belongs to whoever has
 *          the session executing. Nobody calls out while he holds a shard's lock, but for the list
 *          of open transactions (shard, then list). */
#pragma once
#include "libcommon/base/list.h"
#include "libcommon/base/map.h"
#include "veddb-storaged/counts.h"
#include "veddb-storaged/sessions.h"
#include "veddb-storaged/transactions.h"

#define STOR_SESSION_SHARDS 16
#define STOR_TRANSACTION_STMT                                                                      \
    (UINT32_MAX - 1)            /* first statement of a row that tells of a commit                 \
                                 */
#define STOR_KIND_TRANSACTION 5 /* kind of such a row */
#define STOR_SESSION_WAIT_NS  20000000

/* What the newest txnNumber was used for. */
typedef enum {
    STOR_NUMBER_WRITES, /* retryable writes, or nothing yet */
    STOR_NUMBER_OPEN,   /* a transaction that goes on */
    STOR_NUMBER_COMMITTED,
    STOR_NUMBER_ABORTED,
} stor_number_use_t;

typedef struct {
    stor_session_key_t key;
    uint64_t last_used_ms;
    int64_t txn_number;       /* newest seen; -1 */
    bool loaded;              /* txn_number is true (rows of an earlier start were looked at) */
    bool executing;           /* lock; a retryable write or a statement of a transaction runs */
    stor_request_t *executor; /* lock; whose, while executing */
    int doom;                 /* lock; code by which the open transaction must end; 0 */
    stor_number_use_t use;    /* lock, for changes */
    uint64_t committed;       /* of STOR_NUMBER_COMMITTED: its timestamp, or what it saw */
    stor_transaction_t *transaction; /* lock; of STOR_NUMBER_OPEN */
} session_t;

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t ended; /* something of the shard has ended */
    vd_map_t *by_key;
} shard_t;

typedef struct {
    pthread_mutex_t lock;
    vd_list_t open; /* stor_transaction_t, oldest first */
    atomic_uint open_count, active_count;
    atomic_uint_fast64_t bytes; /* of changes, in all of them */
    uint64_t bytes_max;         /* of one */
    uint64_t aside, aside_ms;   /* keeper only: old versions evicted, and when that was looked at */
    stor_session_t *idle[STOR_TRANSACTIONS_IDLE];
    uint32_t idle_count;
    atomic_uint_fast64_t started, committed, aborted, rows;
} transactions_t;

struct stor_sessions {
    stor_storage_t *storage;
    shard_t shards[STOR_SESSION_SHARDS];
    atomic_uint_fast64_t count;
    stor_counts_t *counts;       /* by user */
    stor_session_key_t sweep_at; /* keeper only */
    transactions_t transactions;
    struct stor_pins *pins; /* pins.h */
};

static inline shard_t *stor_sessions_shard(stor_sessions_t *sessions, const stor_session_key_t *key)
{
    return &sessions->shards[key->bytes[15] % STOR_SESSION_SHARDS];
}

/* ---- sessions.c ---- */
/* Waits until nothing executes in the request's session, and takes it; its newest number and what
 * that was used for are known then. Ends by stor_sessions_write_end. */
VD_MUST_CHECK int stor_sessions_enter(stor_request_t *request, session_t **ret_session,
                                      vd_error_t *err);
/* The row that tells of the commit of the request's transaction, in the request's arena. */
void stor_sessions_transaction_row(stor_request_t *request, uint64_t timestamp, vd_slice_t *ret_key,
                                   vd_slice_t *ret_value);

/* ---- transactions.c ---- */
void stor_transactions_init(stor_sessions_t *sessions);
/* Aborts what is open and closes the engine sessions. */
void stor_transactions_done(stor_sessions_t *sessions);
/* Whoever has the session executing, or holds its shard's lock for the last time: aborts its
 * transaction. Not under the lock. */
void stor_transaction_end(stor_storage_t *storage, stor_transaction_t **transaction_p,
                          bool committed);
/* Whoever has the session executing: a new number is in use, so an older transaction ends. */
void stor_transaction_replace(stor_storage_t *storage, session_t *session, int64_t number,
                              stor_number_use_t use);
/* An engine session for longer than a request; given back, with no transaction in it. */
VD_MUST_CHECK int stor_transactions_session_take(stor_sessions_t *sessions,
                                                 stor_session_t **ret_session, vd_error_t *err);
void stor_transactions_session_give(stor_sessions_t *sessions, stor_session_t **session_p);
