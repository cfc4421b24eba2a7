/* veddb-storaged/transactions.c — see transactions.h.
 *
 * Who ends a transaction is settled under its session's shard lock: it is taken out of the session
 * there (session_t.transaction) by the statement that executes, or by anybody while none does. */
#include "veddb-storaged/transactions.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/own.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/pending.h"
#include "veddb-storaged/pins.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/sessions_private.h"

#define CACHE_DIRTY_MAX    28 /* percent of the cache: above, the oldest ends */
#define CACHE_USED_MAX     97
#define ASIDE_MAX          5000 /* old versions between two looks; a checkpoint alone writes few */
#define ASIDE_LOOK_MS      5000
#define CACHE_AGE_MIN_MS   1000 /* a younger one does not hold much back */
#define COLLECTIONS_MAX    1000 /* in which one may have shares */
#define TOTAL_BYTES_FACTOR 3    /* all open ones together, against the most of one */

struct stor_transaction {
    vd_node_t node; /* among the open ones */
    stor_session_key_t key;
    int64_t number;
    stor_session_t *session;
    char *user, *client, *app;
    uint64_t opened_us, statement_us, active_us;
    int64_t started_wall_ms;
    uint64_t snapshot, lifetime_ms, bytes_max;
    stor_catalog_mark_t catalog;
    stor_read_level_t read_level;
    bool active; /* list's lock: a statement runs; so are held, changes and bytes */
    uint64_t changes, bytes;
    stor_collection_t **held;
    uint32_t held_count, held_cap;
    stor_collection_t *own[STOR_OWN_MAX]; /* that it has made */
    uint32_t own_count;
    bool failed;
    uint32_t cursors;
    stor_pending_t *pending; /* NULL until the first change */
};

static transactions_t *transactions_of(const stor_storage_t *storage)
{
    return &storage->sessions->transactions;
}

static void lock(transactions_t *all)
{
    (void)pthread_mutex_lock(&all->lock);
}

static void unlock(transactions_t *all)
{
    (void)pthread_mutex_unlock(&all->lock);
}

static bool is_commit(const stor_request_t *request)
{
    return request->entry->run == stor_command_commit_transaction;
}

/* ---- engine sessions ---- */

int stor_transactions_session_take(stor_sessions_t *sessions, stor_session_t **ret_session,
                                   vd_error_t *err)
{
    transactions_t *all = &sessions->transactions;
    stor_session_t *session = NULL;
    lock(all);
    if (all->idle_count > 0)
        session = all->idle[--all->idle_count];
    unlock(all);
    if (session != NULL) {
        *ret_session = session;
        return VD_OK;
    }
    return stor_session_open(sessions->storage->engine, ret_session, err);
}

void stor_transactions_session_give(stor_sessions_t *sessions, stor_session_t **session_p)
{
    transactions_t *all = &sessions->transactions;
    if (*session_p == NULL)
        return;
    VD_ASSERT(!stor_txn_active(*session_p));
    lock(all);
    if (all->idle_count < STOR_TRANSACTIONS_IDLE) {
        all->idle[all->idle_count++] = *session_p;
        *session_p = NULL;
    }
    unlock(all);
    stor_session_close(session_p);
}

/* ---- life ---- */

static uint64_t bytes_max(stor_storage_t *storage)
{
    stor_engine_stats_t stats;
    stor_engine_stats(storage->engine, &stats);
    /* Changes stand in the cache three times when they are committed: as they were made, stamped,
     * and in the journal. */
    uint64_t share = stats.cache_bytes_max / 12;
    return share < STOR_TRANSACTION_BYTES_MIN   ? STOR_TRANSACTION_BYTES_MIN
           : share > STOR_TRANSACTION_BYTES_MAX ? STOR_TRANSACTION_BYTES_MAX
                                                : share;
}

void stor_transactions_init(stor_sessions_t *sessions)
{
    transactions_t *all = &sessions->transactions;
    (void)pthread_mutex_init(&all->lock, NULL);
    vd_list_init(&all->open);
    sessions->pins = stor_pins_create(sessions->storage);
    all->bytes_max = bytes_max(sessions->storage);
}

void stor_transactions_done(stor_sessions_t *sessions)
{
    transactions_t *all = &sessions->transactions;
    (void)stor_transactions_kill(sessions->storage, VD_ERR_INTERRUPTED_AT_SHUTDOWN, NULL, NULL);
    VD_ASSERT(atomic_load(&all->open_count) == 0);
    stor_pins_destroy(&sessions->pins);
    while (all->idle_count > 0)
        stor_session_close(&all->idle[--all->idle_count]);
    (void)pthread_mutex_destroy(&all->lock);
}

static char *text_of(vd_slice_t s)
{
    return vd_xstrndup(s.data == NULL ? (const uint8_t *)"" : s.data, s.len);
}

static void transaction_free(stor_transaction_t *t)
{
    stor_pending_destroy(&t->pending);
    vd_free(t->held);
    vd_free(t->user);
    vd_free(t->client);
    vd_free(t->app);
    vd_free(t);
}

void stor_transaction_end(stor_storage_t *storage, stor_transaction_t **transaction_p,
                          bool committed)
{
    stor_transaction_t *t = *transaction_p;
    transactions_t *all = transactions_of(storage);
    *transaction_p = NULL;
    if (t == NULL)
        return;
    if (stor_txn_active(t->session))
        stor_txn_rollback(t->session);
    if (t->cursors > 0 && storage->cursors != NULL)
        (void)stor_cursors_kill_transaction(storage->cursors, &t->key, t->number);
    lock(all);
    vd_list_remove(&t->node);
    unlock(all);
    for (uint32_t i = 0; i < t->held_count; i++)
        stor_catalog_share_end(storage->catalog, t->held[i]);
    for (uint32_t i = 0; i < t->own_count; i++)
        stor_catalog_own_done(storage->catalog, &t->own[i], committed);
    atomic_fetch_sub(&all->bytes, t->bytes);
    stor_transactions_session_give(storage->sessions, &t->session);
    transaction_free(t);
    atomic_fetch_add(committed ? &all->committed : &all->aborted, 1);
    atomic_fetch_sub(&all->open_count, 1); /* last: who waits for this may go on */
}

/* Takes it out of its session, which nobody else executes in. */
static stor_transaction_t *detach(stor_storage_t *storage, session_t *session,
                                  stor_number_use_t use)
{
    shard_t *shard = stor_sessions_shard(storage->sessions, &session->key);
    (void)pthread_mutex_lock(&shard->lock);
    stor_transaction_t *t = session->transaction;
    session->transaction = NULL;
    session->use = use;
    session->doom = 0;
    (void)pthread_mutex_unlock(&shard->lock);
    return t;
}

void stor_transaction_replace(stor_storage_t *storage, session_t *session, int64_t number,
                              stor_number_use_t use)
{
    stor_transaction_t *t = detach(storage, session, use);
    session->txn_number = number;
    session->committed = 0;
    stor_transaction_end(storage, &t, false);
}

/* The code has no label of its own; but the whole may be tried again. */
static int no_room(stor_request_t *request, const char *message, vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bson_t labels;
    vd_error_set(err, VD_ERR_TEMPORARILY_UNAVAILABLE, "%s", message);
    vd_bb_init_arena(bb, request->arena, 256);
    vd_bb_begin_array(bb, "errorLabels");
    vd_bb_cstr(bb, "0", "TransientTransactionError");
    vd_bb_close(bb);
    if (vd_bb_finish(bb, &labels, NULL) == VD_OK && err != NULL)
        err->details = vd_slice(labels.data, labels.len);
    return VD_ERR_TEMPORARILY_UNAVAILABLE;
}

uint64_t stor_transaction_lifetime_ms(const stor_storage_t *storage)
{
    uint64_t ms = storage->settings.transaction_lifetime_ms;
    return ms != 0 ? ms : STOR_TRANSACTION_LIFETIME_MS;
}

static stor_transaction_t *transaction_make(stor_request_t *request, const session_t *session)
{
    stor_transaction_t *t = vd_xalloc(sizeof *t);
    t->key = session->key;
    t->number = request->transaction_number;
    t->user = text_of(request->command.user);
    t->client = text_of(request->command.client);
    t->app = text_of(request->command.app);
    t->opened_us = vd_monotonic_us();
    t->started_wall_ms = vd_wall_ms();
    t->read_level = request->read_level;
    t->lifetime_ms = stor_transaction_lifetime_ms(request->storage);
    t->catalog = stor_catalog_mark(request->storage->catalog);
    t->bytes_max = transactions_of(request->storage)->bytes_max;
    return t;
}

/* A snapshot is of the moment in which it is taken: so an earlier time is served as long as nothing
 * has been committed since. visible: before the snapshot was taken. */
static int time_check(const stor_transaction_t *t, uint64_t at, uint64_t visible, vd_error_t *err)
{
    if (at == 0 || (t->snapshot == at && visible >= at))
        return VD_OK;
    return vd_error_set(err, VD_ERR_SNAPSHOT_UNAVAILABLE,
                        "Read timestamp Timestamp(%u, %u) is older than what a transaction can "
                        "begin with: something has been committed since",
                        (unsigned)(at >> 32), (unsigned)at);
}

/* Counted before the role is looked at: a change of role that does not see it is seen here. */
static int transaction_begin(stor_request_t *request, session_t *session, vd_error_t *err)
{
    stor_storage_t *storage = request->storage;
    transactions_t *all = transactions_of(storage);
    if (atomic_fetch_add(&all->open_count, 1) >= STOR_TRANSACTIONS_MAX) {
        atomic_fetch_sub(&all->open_count, 1);
        return no_room(request, "too many transactions are open", err);
    }
    stor_transaction_t *t = transaction_make(request, session);
    uint64_t visible = stor_engine_visible(storage->engine);
    int rc = stor_transactions_session_take(storage->sessions, &t->session, err);
    if (rc == VD_OK)
        rc = stor_txn_begin(t->session, err);
    if (rc == VD_OK) {
        t->snapshot = stor_txn_snapshot_newest(t->session);
        rc = time_check(t, request->at_cluster_time, visible, err);
        if (rc != VD_OK)
            stor_txn_rollback(t->session);
    }
    if (rc != VD_OK) {
        stor_transactions_session_give(storage->sessions, &t->session);
        transaction_free(t);
        atomic_fetch_sub(&all->open_count, 1);
        return rc;
    }
    lock(all);
    vd_list_push_back(&all->open, &t->node);
    unlock(all);
    atomic_fetch_add(&all->started, 1);
    shard_t *shard = stor_sessions_shard(storage->sessions, &session->key);
    (void)pthread_mutex_lock(&shard->lock);
    session->transaction = t;
    session->use = STOR_NUMBER_OPEN;
    (void)pthread_mutex_unlock(&shard->lock);
    rc = stor_replication_request_commit(request, err);
    if (rc != VD_OK)
        stor_transaction_replace(storage, session, session->txn_number, STOR_NUMBER_ABORTED);
    return rc;
}

/* ---- what may run in one ---- */

static int field_check(const stor_request_t *request, vd_error_t *err)
{
    if (request->start_given && !request->autocommit_given)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "'startTransaction' field requires 'autocommit' field to also be "
                            "specified");
    return VD_OK;
}

static int place_check(const stor_request_t *request, vd_error_t *err)
{
    const char *name = request->entry->name;
    uint32_t flags = request->entry->flags;
    bool ends = (flags & STOR_COMMAND_ENDS_TRANSACTION) != 0;
    if (vd_slice_is(request->command.name, "count"))
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot run 'count' in a multi-document transaction. Please see "
                            "http://dochub.mongodb.org/core/transaction-count for a recommended "
                            "alternative.");
    if ((flags & STOR_COMMAND_TRANSACTION) == 0)
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot run '%s' in a multi-document transaction.", name);
    if (!ends && (vd_slice_is(request->db, "admin") || vd_slice_is(request->db, "config") ||
                  vd_slice_is(request->db, "local")))
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot run command against the '%.*s' database in a transaction.",
                            VD_SLICE_FMT(request->db));
    if (request->start_given && ends)
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot start a transaction with %s",
                            is_commit(request) ? "a commit" : "an abort");
    if (request->start_given && (flags & STOR_COMMAND_NOT_FIRST) != 0)
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot run %s as the first operation in a multi-document transaction.",
                            name);
    vd_slice_t field;
    vd_value_t first;
    if (!ends && vd_bson_first(request->body, &field, &first) && first.type == VD_BSON_STRING &&
        vd_slice_starts_with(vd_value_string(first), VD_SLICE_LIT("system.")))
        return vd_error_set(
            err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
            "Cannot run command against the '%.*s.%.*s' namespace in a transaction.",
            VD_SLICE_FMT(request->db), VD_SLICE_FMT(vd_value_string(first)));
    return VD_OK;
}

static int concern_check(const stor_request_t *request, vd_error_t *err)
{
    bool ends = (request->entry->flags & STOR_COMMAND_ENDS_TRANSACTION) != 0;
    if (request->write_concern.present && !ends)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "writeConcern is not allowed within a multi-statement transaction");
    if (request->read_concern_given && !request->start_given)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Only the first command in a transaction may specify a readConcern");
    if (request->read_level == STOR_READ_LINEARIZABLE || request->read_available)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "The readConcern level must be either 'local' (default), 'majority' or "
                            "'snapshot' in order to run in a transaction");
    return request->at_cluster_time > stor_engine_newest(request->storage->engine)
               ? vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                              "readConcern atClusterTime value must not be greater than the "
                              "current clusterTime.")
               : VD_OK;
}

int stor_transaction_check(stor_request_t *request, vd_error_t *err)
{
    int rc = field_check(request, err);
    if (rc != VD_OK)
        return rc;
    if (request->transaction_number < 0) {
        if ((request->entry->flags & STOR_COMMAND_ENDS_TRANSACTION) == 0)
            return VD_OK;
        return request->txn_number >= 0
                   ? vd_error_set(err, VD_ERR_LOCATION(50768),
                                  "txnNumber may only be provided for multi-document transactions "
                                  "and retryable write commands. autocommit:false was not "
                                  "provided, and %s is not a retryable write command.",
                                  request->entry->name)
                   : vd_error_set(err, VD_ERR_LOCATION(125), /* CommandFailed */
                                  "%s must be run within a transaction", request->entry->name);
    }
    if (request->command.lsid.len == 0)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Transaction number requires a session ID to also be specified");
    rc = place_check(request, err);
    return rc == VD_OK ? concern_check(request, err) : rc;
}

/* ---- statements ---- */

static int number_check(const stor_request_t *request, const session_t *session, vd_error_t *err)
{
    long long number = request->transaction_number, newest = session->txn_number;
    if (number < newest)
        return vd_error_set(
            err, VD_ERR_TRANSACTION_TOO_OLD,
            "Cannot start transaction with txnNumber %lld on this session because "
            "a newer %s with txnNumber %lld has already started on this session.",
            number, session->use == STOR_NUMBER_WRITES ? "retryable write" : "transaction", newest);
    if (request->start_given && number == newest)
        return vd_error_set(
            err, VD_ERR_LOCATION(50911),
            "Cannot start a transaction at given transaction number %lld a transaction with the "
            "same number is in state %s",
            number,
            session->use == STOR_NUMBER_OPEN        ? "TxnState::InProgress"
            : session->use == STOR_NUMBER_COMMITTED ? "TxnState::Committed"
            : session->use == STOR_NUMBER_ABORTED   ? "TxnState::AbortedWithoutPrepare"
                                                    : "TxnState::ExecutedRetryableWrite");
    if (request->start_given)
        return VD_OK;
    if (number > newest || session->use == STOR_NUMBER_WRITES)
        return vd_error_set(err, VD_ERR_NO_SUCH_TRANSACTION,
                            "Given transaction number %lld does not match any in-progress "
                            "transactions. The active transaction number is %lld",
                            number, newest);
    if (session->use == STOR_NUMBER_ABORTED)
        return vd_error_set(err, VD_ERR_NO_SUCH_TRANSACTION, "Transaction %lld has been aborted.",
                            number);
    if (session->use == STOR_NUMBER_COMMITTED && !is_commit(request))
        return vd_error_set(err, VD_ERR_TRANSACTION_COMMITTED,
                            "Transaction %lld has been committed.", number);
    return VD_OK;
}

static void statement_begins(stor_request_t *request, session_t *session)
{
    stor_transaction_t *t = session->transaction;
    transactions_t *all = transactions_of(request->storage);
    lock(all);
    t->active = true;
    t->statement_us = vd_monotonic_us();
    unlock(all);
    atomic_fetch_add(&all->active_count, 1);
    request->transaction = t;
    request->worker_session = request->session;
    request->session = t->session;
    request->catalog_mark = t->catalog;
    /* Whatever it finds, or finds missing, its snapshot decides. */
    stor_request_depends(request, t->snapshot);
}

/* A commit that is not known here may be known to those who could still undo what we say: so the
 * answer waits until an entry of ours is on a majority. */
static int unknown_commit(stor_request_t *request, int code, vd_error_t *err)
{
    static const uint8_t text[] = "\x1c\0\0\0unknown transaction, commit";
    vd_error_t step = VD_ERROR_INIT;
    uint64_t timestamp = 0;
    if (!is_commit(request) || stor_replication_alone(request->storage))
        return code;
    int rc =
        stor_replication_noop(request->storage, request->session,
                              (vd_value_t){text, sizeof text, VD_BSON_STRING}, &timestamp, &step);
    if (rc != VD_OK) { /* whether it was committed is not for us to say */
        vd_error_copy(&step, err);
        return rc;
    }
    stor_request_depends(request, timestamp);
    request->operation_time = timestamp;
    return code;
}

int stor_transaction_enter(stor_request_t *request, vd_error_t *err)
{
    session_t *session;
    if (request->transaction_number < 0)
        return VD_OK;
    int rc = stor_sessions_enter(request, &session, err);
    if (rc == VD_OK)
        rc = number_check(request, session, err);
    if (rc == VD_ERR_NO_SUCH_TRANSACTION)
        rc = unknown_commit(request, rc, err);
    if (rc == VD_OK && request->start_given) {
        stor_transaction_replace(request->storage, session, request->transaction_number,
                                 STOR_NUMBER_ABORTED);
        rc = transaction_begin(request, session, err);
    }
    if (rc == VD_OK && session->use == STOR_NUMBER_OPEN)
        statement_begins(request, session);
    return rc;
}

bool stor_transaction_holds(const stor_request_t *request, const stor_collection_t *collection)
{
    const stor_transaction_t *t = request->transaction;
    for (uint32_t i = 0; t != NULL && i < t->held_count; i++)
        if (t->held[i] == collection)
            return true;
    for (uint32_t i = 0; t != NULL && i < t->own_count; i++)
        if (t->own[i] == collection)
            return true; /* by its reference */
    return false;
}

/* A share that was taken becomes the transaction's. */
static void share_add(stor_transaction_t *t, transactions_t *all, stor_collection_t *collection)
{
    lock(all);
    if (t->held_count == t->held_cap) {
        t->held_cap = t->held_cap == 0 ? 8 : 2 * t->held_cap;
        t->held = vd_xrealloc(t->held, t->held_cap * sizeof(stor_collection_t *));
    }
    t->held[t->held_count++] = collection;
    unlock(all);
}

/* The request's shares become the transaction's; what it has already is given back. False: there
 * are too many. Under the list's lock, since others look for who holds what. */
static bool shares_keep(stor_request_t *request)
{
    stor_transaction_t *t = request->transaction;
    transactions_t *all = transactions_of(request->storage);
    while (request->held_count > 0) {
        stor_collection_t *collection = request->held[request->held_count - 1];
        if (stor_transaction_holds(request, collection)) {
            stor_catalog_release(request, collection);
            continue;
        }
        if (t->held_count >= COLLECTIONS_MAX)
            return false;
        share_add(t, all, collection);
        request->held_count--;
    }
    return true;
}

/* Those in collections that go with the transaction. */
static void own_shares_give(stor_request_t *request)
{
    for (uint32_t i = request->held_count; i-- > 0;)
        if (stor_transaction_own(request, VD_SLICE_NULL, request->held[i]->id) != NULL)
            stor_catalog_release(request, request->held[i]);
}

static void worker_session_back(stor_request_t *request)
{
    request->session = request->worker_session;
    request->worker_session = NULL;
    request->catalog_mark = (stor_catalog_mark_t){0};
}

void stor_transaction_leave(stor_request_t *request, int rc)
{
    session_t *session = request->executing;
    stor_transaction_t *t = request->transaction;
    stor_storage_t *storage = request->storage;
    if (t == NULL)
        return;
    transactions_t *all = transactions_of(storage);
    stor_txn_rest(t->session);
    worker_session_back(request);
    atomic_fetch_sub(&all->active_count, 1);
    bool over = rc != VD_OK || t->failed || !shares_keep(request);
    if (over)
        own_shares_give(request);
    lock(all);
    t->active = false;
    t->active_us += vd_monotonic_us() - t->statement_us;
    unlock(all);
    request->transaction = NULL;
    if (over) {
        shard_t *shard = stor_sessions_shard(storage->sessions, &session->key);
        (void)pthread_mutex_lock(&shard->lock);
        session->doom = rc != VD_OK ? rc : VD_ERR_INTERRUPTED;
        (void)pthread_mutex_unlock(&shard->lock);
    }
    stor_sessions_write_end(request);
}

void stor_transaction_fail(stor_request_t *request)
{
    if (request->transaction != NULL)
        request->transaction->failed = true;
}

bool stor_transaction_is_transient(int code)
{
    switch (code) {
    case VD_ERR_WRITE_CONFLICT:
    case VD_ERR_LOCK_TIMEOUT:
    case VD_ERR_SNAPSHOT_UNAVAILABLE:
    case VD_ERR_NO_SUCH_TRANSACTION:
    case VD_ERR_TEMPORARILY_UNAVAILABLE:
        return true;
    default:
        return false;
    }
}

stor_collection_t *stor_transaction_own(const stor_request_t *request, vd_slice_t ns, uint64_t id)
{
    const stor_transaction_t *t = request->transaction;
    for (uint32_t i = 0; t != NULL && i < t->own_count; i++)
        if (ns.len > 0 ? vd_slice_is(ns, t->own[i]->ns) : t->own[i]->id == id)
            return t->own[i];
    return NULL;
}

int stor_transaction_create(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                            const stor_create_options_t *options, vd_error_t *err)
{
    stor_transaction_t *t = request->transaction;
    for (uint32_t i = 0; i < t->own_count; i++)
        if (vd_slice_equal(t->own[i]->db, db) && vd_slice_equal(t->own[i]->name, name))
            return vd_error_set(err, VD_ERR_NAMESPACE_EXISTS, "Collection %s already exists.",
                                t->own[i]->ns);
    if (t->own_count == STOR_OWN_MAX)
        return vd_error_set(err, VD_ERR_TRANSACTION_TOO_LARGE,
                            "a transaction makes %d collections at most", STOR_OWN_MAX);
    int rc = stor_request_space(request, err);
    if (rc == VD_OK)
        rc = stor_catalog_own_make(request, db, name, options, &t->own[t->own_count], err);
    t->own_count += rc == VD_OK;
    return rc;
}

int stor_transaction_index(stor_request_t *request, stor_collection_t *collection,
                           const vd_bson_t *specs, uint32_t count, vd_error_t *err)
{
    const stor_transaction_t *t = request->transaction;
    if (stor_transaction_own(request, VD_SLICE_NULL, collection->id) == NULL ||
        stor_pending_touches(t->pending, collection))
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot create new indexes on existing collection %s in a "
                            "multi-document transaction.",
                            collection->ns);
    return stor_catalog_own_index(request, collection, specs, count, err);
}

int stor_transaction_change(stor_request_t *request, stor_collection_t *collection, vd_slice_t key,
                            const stor_change_t *change, vd_slice_t old_document,
                            uint64_t old_version, vd_error_t *err)
{
    stor_transaction_t *t = request->transaction;
    transactions_t *all = transactions_of(request->storage);
    if (t->pending == NULL)
        t->pending = stor_pending_create(t->bytes_max);
    if (atomic_load_explicit(&all->bytes, memory_order_relaxed) > TOTAL_BYTES_FACTOR * t->bytes_max)
        return no_room(request, "the changes of all open transactions take too much memory", err);
    uint64_t before = stor_pending_bytes(t->pending);
    int rc = stor_pending_add(t->pending, collection, key, change, old_document, old_version, err);
    uint64_t more = stor_pending_bytes(t->pending) - before;
    lock(all);
    t->changes = stor_pending_count(t->pending);
    t->bytes += more;
    unlock(all);
    atomic_fetch_add_explicit(&all->bytes, more, memory_order_relaxed);
    return rc;
}

void stor_transaction_cursor_opened(stor_request_t *request)
{
    if (request->transaction != NULL)
        request->transaction->cursors++;
}

/* ---- commit and abort ---- */

/* {key, value}: what STOR_CHANGE_RESULT holds. */
static int result_make(stor_request_t *request, vd_slice_t key, vd_slice_t value,
                       stor_change_t *ret_change, vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    *ret_change = (stor_change_t){.kind = STOR_CHANGE_RESULT, .statement = -1};
    vd_bb_init_arena(bb, request->arena, 4096);
    vd_bb_binary(bb, "key", 0, key);
    vd_bb_binary(bb, "value", 0, value);
    return vd_bb_finish(bb, &ret_change->body, err);
}

/* Everything of the commit but the commit. */
static int stamp(stor_request_t *request, stor_transaction_t *t, uint64_t timestamp,
                 vd_error_t *err)
{
    bool replicated = request->storage->settings.replicated;
    stor_change_t result, *made = NULL;
    uint32_t made_count = 0;
    vd_slice_t key, value;
    request->txn_number = request->transaction_number; /* the entry and the row name it */
    stor_sessions_transaction_row(request, timestamp, &key, &value);
    int rc = stor_sessions_row_put(t->session, key, value, err);
    if (rc == VD_OK && replicated)
        rc = result_make(request, key, value, &result, err);
    if (rc == VD_OK)
        rc = stor_catalog_own_changes(request, t->own, t->own_count, &made, &made_count, err);
    if (rc == VD_OK)
        rc = stor_catalog_own_put(t->session, t->own, t->own_count, err);
    if (rc == VD_OK)
        rc = stor_pending_stamp(t->pending, request, timestamp, made, made_count,
                                replicated ? &result : NULL, err);
    request->txn_number = -1;
    return rc;
}

static int commit_try(stor_request_t *request, stor_transaction_t *t, uint64_t *ret_timestamp,
                      vd_error_t *err)
{
    int rc = stor_request_space(request, err);
    if (rc == VD_OK)
        rc = stor_replication_request_enter(request, err);
    if (rc == VD_OK)
        rc = VD_FAULT("transaction.before_stamp", err);
    if (rc != VD_OK)
        return rc;
    uint64_t timestamp = stor_txn_timestamp(t->session);
    rc = stamp(request, t, timestamp, err);
    if (rc == VD_OK)
        rc = VD_FAULT("transaction.before_commit", err);
    if (rc == VD_OK)
        rc = stor_replication_request_commit(request, err);
    if (rc == VD_OK)
        rc = t->own_count == 0 ? stor_txn_commit(t->session, err)
                               : stor_catalog_own_commit(request->storage->catalog, t->session,
                                                         t->own, t->own_count, err);
    if (rc == VD_OK)
        *ret_timestamp = timestamp;
    return rc;
}

/* An earlier commit of the same number is told again. */
static void committed_told(stor_request_t *request, uint64_t timestamp)
{
    if (timestamp == 0)
        return;
    stor_request_depends(request, timestamp);
    request->operation_time = timestamp;
}

static int changes_commit(stor_request_t *request, stor_transaction_t *t, uint64_t *ret_timestamp,
                          vd_error_t *err)
{
    bool makes = t->own_count > 0;
    if (stor_pending_count(t->pending) == 0 && !makes)
        return VD_OK;
    int rc =
        makes ? stor_catalog_own_begin(request, request->worker_session, t->own, t->own_count, err)
              : VD_OK;
    if (rc != VD_OK)
        return rc; /* the frame aborts it */
    rc = commit_try(request, t, ret_timestamp, err);
    stor_replication_request_leave(request);
    if (rc == VD_OK)
        stor_pending_committed(t->pending);
    if (makes)
        stor_catalog_own_end(request->storage->catalog); /* with the counters in place */
    if (rc != VD_OK)
        return rc;
    atomic_store_explicit(&request->storage->last_write_ms, request->variables.now_ms,
                          memory_order_relaxed);
    atomic_fetch_add(&transactions_of(request->storage)->rows, 1);
    return VD_OK;
}

int stor_transaction_commit(stor_request_t *request, vd_error_t *err)
{
    stor_storage_t *storage = request->storage;
    session_t *session = request->executing;
    stor_transaction_t *t = request->transaction;
    uint64_t timestamp = 0;
    if (t == NULL) {
        committed_told(request, session->committed);
        return VD_OK;
    }
    int rc = changes_commit(request, t, &timestamp, err);
    if (rc != VD_OK)
        return rc;
    committed_told(request, timestamp);
    /* One that only read waits for what it saw, each time that it is asked. */
    session->committed = timestamp != 0 ? timestamp : t->snapshot;
    request->transaction = NULL;
    worker_session_back(request);
    atomic_fetch_sub(&transactions_of(storage)->active_count, 1);
    t = detach(storage, session, STOR_NUMBER_COMMITTED);
    stor_transaction_end(storage, &t, true);
    return VD_FAULT("transaction.after_commit", err);
}

int stor_transaction_abort(stor_request_t *request, vd_error_t *err)
{
    (void)err; /* handlers have one form */
    stor_transaction_fail(request);
    return VD_OK;
}

bool stor_transaction_is_small(const stor_request_t *request)
{
    stor_session_key_t key = stor_session_key_of(&request->command);
    shard_t *shard = stor_sessions_shard(request->storage->sessions, &key);
    (void)pthread_mutex_lock(&shard->lock);
    session_t *session = vd_map_get(shard->by_key, vd_slice(key.bytes, sizeof key.bytes));
    stor_transaction_t *t = session == NULL ? NULL : session->transaction;
    transactions_t *all = transactions_of(request->storage);
    lock(all);
    bool small = t == NULL || (t->bytes < 1024 * 1024 && t->changes < 1000);
    unlock(all);
    (void)pthread_mutex_unlock(&shard->lock);
    return small;
}

/* ---- ends that others want ---- */

/* True when it was open under that number. */
static bool end_one(stor_storage_t *storage, const stor_session_key_t *key, int64_t number,
                    int code)
{
    shard_t *shard = stor_sessions_shard(storage->sessions, key);
    stor_transaction_t *t = NULL;
    (void)pthread_mutex_lock(&shard->lock);
    session_t *session = vd_map_get(shard->by_key, vd_slice(key->bytes, sizeof key->bytes));
    bool found = session != NULL && session->transaction != NULL && session->txn_number == number;
    if (found && session->executing) {
        int none = 0;
        session->doom = code;
        if (session->executor != NULL)
            (void)atomic_compare_exchange_strong(&session->executor->killed, &none, code);
    } else if (found) {
        t = session->transaction;
        session->transaction = NULL;
        session->use = STOR_NUMBER_ABORTED;
    }
    (void)pthread_mutex_unlock(&shard->lock);
    stor_transaction_end(storage, &t, false);
    return found;
}

typedef struct {
    stor_session_key_t key;
    int64_t number;
} chosen_t;

typedef bool (*choose_fn)(const stor_transaction_t *t, const void *context);

static uint32_t end_chosen(stor_storage_t *storage, int code, choose_fn choose, const void *context)
{
    transactions_t *all = transactions_of(storage);
    chosen_t chosen[STOR_TRANSACTIONS_MAX];
    uint32_t ended = 0, count = 0;
    lock(all);
    VD_LIST_EACH(&all->open, node)
    {
        const stor_transaction_t *t = VD_CONTAINER_OF(node, stor_transaction_t, node);
        if (count < STOR_TRANSACTIONS_MAX && choose(t, context))
            chosen[count++] = (chosen_t){t->key, t->number};
    }
    unlock(all);
    for (uint32_t i = 0; i < count; i++)
        ended += end_one(storage, &chosen[i].key, chosen[i].number, code);
    return ended;
}

typedef struct {
    bool (*matches)(const stor_session_key_t *key, const void *context);
    const void *context;
} matching_t;

static bool is_matching(const stor_transaction_t *t, const void *context)
{
    const matching_t *matching = context;
    return matching->matches == NULL || matching->matches(&t->key, matching->context);
}

uint32_t stor_transactions_kill(stor_storage_t *storage, int code,
                                bool (*matches)(const stor_session_key_t *key, const void *context),
                                const void *context)
{
    if (storage->sessions == NULL || stor_transactions_open(storage) == 0)
        return 0;
    return end_chosen(storage, code, is_matching, &(matching_t){matches, context});
}

static bool is_user(const stor_transaction_t *t, const void *context)
{
    for (uint32_t i = 0; i < t->held_count; i++)
        if (t->held[i] == context)
            return true;
    return false;
}

void stor_transactions_kill_users(stor_storage_t *storage, const stor_collection_t *collection)
{
    if (stor_transactions_open(storage) > 0)
        (void)end_chosen(storage, VD_ERR_LOCK_TIMEOUT, is_user, collection);
}

static bool is_old(const stor_transaction_t *t, const void *context)
{
    return vd_elapsed(t->opened_us, *(const uint64_t *)context) > t->lifetime_ms * 1000;
}

static bool is_same(const stor_transaction_t *t, const void *context)
{
    return t == context;
}

/* One snapshot that stays open keeps all that was written since in the cache; what has no place
 * there is written aside, which must not go on. */
static bool cache_is_short(stor_storage_t *storage)
{
    transactions_t *all = transactions_of(storage);
    stor_engine_stats_t stats;
    uint64_t now_ms = vd_monotonic_ms();
    stor_engine_stats(storage->engine, &stats);
    bool looked = all->aside_ms != 0 && now_ms - all->aside_ms < ASIDE_LOOK_MS;
    uint64_t aside = looked ? stats.old_versions_evicted - all->aside : 0;
    all->aside = stats.old_versions_evicted;
    all->aside_ms = now_ms;
    if (aside > ASIDE_MAX)
        return true;
    return stats.cache_bytes_max > 0 &&
           (stats.cache_bytes_dirty * 100 > stats.cache_bytes_max * CACHE_DIRTY_MAX ||
            stats.cache_bytes_used * 100 > stats.cache_bytes_max * CACHE_USED_MAX);
}

void stor_transactions_expire(stor_storage_t *storage)
{
    transactions_t *all = transactions_of(storage);
    uint64_t now_us = vd_monotonic_us();
    if (stor_transactions_open(storage) == 0 && stor_pins_count(storage) == 0)
        return;
    bool is_short = cache_is_short(storage);
    stor_pins_expire(storage, is_short);
    uint32_t expired = end_chosen(storage, VD_ERR_TRANSACTION_EXCEEDED_LIFETIME, is_old, &now_us);
    if (expired > 0)
        vd_log(VD_LOG_INFO, "transactions were open for too long", "transactions=%u", expired);
    if (!is_short)
        return;
    lock(all);
    vd_node_t *node = vd_list_first(&all->open);
    const stor_transaction_t *oldest =
        node == NULL ? NULL : VD_CONTAINER_OF(node, stor_transaction_t, node);
    if (oldest != NULL && vd_elapsed(oldest->opened_us, now_us) < CACHE_AGE_MIN_MS * 1000)
        oldest = NULL;
    unlock(all);
    if (oldest != NULL && end_chosen(storage, VD_ERR_WRITE_CONFLICT, is_same, oldest) > 0)
        vd_log(VD_LOG_WARN, "the oldest transaction was ended: the cache is short", "open=%u",
               stor_transactions_open(storage));
}

uint32_t stor_transactions_open(const stor_storage_t *storage)
{
    return storage->sessions == NULL ? 0 : atomic_load(&transactions_of(storage)->open_count);
}

/* ---- figures ---- */

void stor_transactions_stats(const stor_storage_t *storage, stor_transactions_stats_t *ret_stats)
{
    transactions_t *all = transactions_of(storage);
    *ret_stats = (stor_transactions_stats_t){
        .open = atomic_load(&all->open_count),
        .active = atomic_load(&all->active_count),
        .started = atomic_load(&all->started),
        .committed = atomic_load(&all->committed),
        .aborted = atomic_load(&all->aborted),
        .rows = atomic_load(&all->rows),
        .bytes = atomic_load(&all->bytes),
    };
}

void stor_transactions_visit(stor_storage_t *storage,
                             void (*visit)(const stor_transaction_info_t *info, void *context),
                             void *context)
{
    transactions_t *all = transactions_of(storage);
    uint64_t now_us = vd_monotonic_us();
    lock(all);
    VD_LIST_EACH(&all->open, node)
    {
        const stor_transaction_t *t = VD_CONTAINER_OF(node, stor_transaction_t, node);
        stor_transaction_info_t info = {
            .session = t->key,
            .number = t->number,
            .user = vd_slice_str(t->user),
            .client = vd_slice_str(t->client),
            .app = vd_slice_str(t->app),
            .opened_us = vd_elapsed(t->opened_us, now_us),
            .active_us = t->active_us + (t->active ? vd_elapsed(t->statement_us, now_us) : 0),
            .started_wall_ms = t->started_wall_ms,
            .expires_wall_ms = t->started_wall_ms + (int64_t)t->lifetime_ms,
            .snapshot = t->snapshot,
            .changes = t->changes,
            .bytes = t->bytes,
            .active = t->active,
            .read_level = (uint8_t)t->read_level,
        };
        visit(&info, context);
    }
    unlock(all);
}
