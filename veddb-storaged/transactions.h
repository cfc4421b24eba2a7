/* veddb-storaged/transactions.h — multi-document transactions: one per logical session, over many
 * requests.
 *
 * Duty:    a transaction has an engine session of its own with one snapshot, begun by the statement
 *          that carries startTransaction; each later statement runs on any worker with that engine
 *          session (request->session), never two at once. What it changes stands under a
 *          placeholder version (pending.h) and gets its timestamp, hash and journal entry at
 *          commit; that it was committed stands in the table "sessions", in the same engine
 *          transaction, on every member. Every error of a statement ends the transaction. It holds
 *          shares in the collections that it used until it ends.
 * States:  open -> committed or aborted, as the session's newest txnNumber says
 *          (sessions_private.h). Whoever else wants an end (age, change of role, killSessions, a
 *          schema change, a small cache) ends it at once when no statement runs in it; else the
 *          statement is interrupted and ends it.
 * Schema:  collections that a transaction makes, and their indexes, are its own until it commits
 *          (catalog/own.h).
 * Owner:   the session.
 * Threads: any; the statement that executes owns the transaction meanwhile.
 * Limits:  STOR_TRANSACTIONS_MAX open; settings.transaction_lifetime_ms (60 s); changes: a share of
 *          the cache, at most STOR_TRANSACTION_BYTES_MAX. */
#pragma once
#include "veddb-storaged/journal.h"
#include "veddb-storaged/request.h"

#define STOR_TRANSACTIONS_MAX           256
#define STOR_TRANSACTIONS_IDLE          16 /* engine sessions that are kept, with their cursors */
#define STOR_TRANSACTION_BYTES_MAX      (128u * 1024 * 1024)
#define STOR_TRANSACTION_BYTES_MIN      (20u * 1024 * 1024)
#define STOR_TRANSACTION_LIFETIME_MS    60000
#define STOR_TRANSACTION_LOCK_WAIT_MS   5    /* for a collection that is being changed */
#define STOR_TRANSACTION_SCHEMA_WAIT_MS 1000 /* so long a schema change waits for transactions */

struct stor_pending;
struct stor_create_options; /* catalog.h */

/* ---- for the frame (request.c) ---- */
/* Whether the command may run in a transaction, as far as that can be told without looking at it:
 * autocommit, startTransaction, concerns, names. Requests outside of one: VD_OK. */
VD_MUST_CHECK int stor_transaction_check(stor_request_t *request, vd_error_t *err);
/* Begins or goes on: request->transaction and request->session are set. Waits while another
 * statement of the session executes. */
VD_MUST_CHECK int stor_transaction_enter(stor_request_t *request, vd_error_t *err);
/* The statement is over, with this result: an error ends the transaction. Sets the request's
 * session back to the worker's. */
void stor_transaction_leave(stor_request_t *request, int rc);

/* ---- for handlers ---- */
/* The reply will tell of an error (writeErrors): so the transaction ends when the statement does.
 */
void stor_transaction_fail(stor_request_t *request);
/* Errors after which the whole transaction may be tried again: they end a command at its top. */
bool stor_transaction_is_transient(int code);
/* It has a share in the collection already. */
bool stor_transaction_holds(const stor_request_t *request, const stor_collection_t *collection);
/* Makes a collection that is its own until it commits (catalog/own.h). VD_ERR_NAMESPACE_EXISTS. */
VD_MUST_CHECK int stor_transaction_create(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                                          const struct stor_create_options *options,
                                          vd_error_t *err);
/* One that it has made, by "db.name", or by id when that is empty; NULL. */
stor_collection_t *stor_transaction_own(const stor_request_t *request, vd_slice_t ns, uint64_t id);
/* Indexes that are missing in the collection, which is held: 263 unless the transaction has made it
 * and it is empty. */
VD_MUST_CHECK int stor_transaction_index(stor_request_t *request, stor_collection_t *collection,
                                         const vd_bson_t *specs, uint32_t count, vd_error_t *err);
/* write.c: a change that was or will be made in the table. */
VD_MUST_CHECK int stor_transaction_change(stor_request_t *request, stor_collection_t *collection,
                                          vd_slice_t key, const stor_change_t *change,
                                          vd_slice_t old_document, uint64_t old_version,
                                          vd_error_t *err);
/* A client cursor was opened in it. */
void stor_transaction_cursor_opened(stor_request_t *request);
/* commitTransaction, abortTransaction. */
VD_MUST_CHECK int stor_transaction_commit(stor_request_t *request, vd_error_t *err);
VD_MUST_CHECK int stor_transaction_abort(stor_request_t *request, vd_error_t *err);
/* It has changed little: the commit is quick. Any thread. */
bool stor_transaction_is_small(const stor_request_t *request);

/* ---- for others who want an end ---- */
/* Those of the sessions that match (NULL: all) end with that code. Returns how many were open. */
uint32_t stor_transactions_kill(stor_storage_t *storage, int code,
                                bool (*matches)(const stor_session_key_t *key, const void *context),
                                const void *context);
/* Those with a share in the collection. */
void stor_transactions_kill_users(stor_storage_t *storage, const stor_collection_t *collection);
/* Those that are too old; the oldest when the cache is short (keeper). */
void stor_transactions_expire(stor_storage_t *storage);
/* settings, or what is usual. */
uint64_t stor_transaction_lifetime_ms(const stor_storage_t *storage);
uint32_t stor_transactions_open(const stor_storage_t *storage);

/* ---- figures ---- */
typedef struct {
    uint64_t open, active, started, committed, aborted, rows, bytes;
} stor_transactions_stats_t;
void stor_transactions_stats(const stor_storage_t *storage, stor_transactions_stats_t *ret_stats);
typedef struct {
    stor_session_key_t session;
    int64_t number;
    vd_slice_t user, client, app;
    uint64_t opened_us, active_us; /* ago; in statements */
    int64_t started_wall_ms, expires_wall_ms;
    uint64_t snapshot; /* newest commit that it may see */
    uint64_t changes, bytes;
    bool active;
    uint8_t read_level;
} stor_transaction_info_t;
/* Visits under the list's lock: quick. */
void stor_transactions_visit(stor_storage_t *storage,
                             void (*visit)(const stor_transaction_info_t *info, void *context),
                             void *context);
