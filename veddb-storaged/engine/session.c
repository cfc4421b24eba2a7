/* veddb-storaged/engine/session.c — sessions and their transactions.
 *
 * `busy` is held by the session's user from begin to end of a transaction and inside each call
 * outside of one. Between transactions another thread may take it for a moment to close cursors on
 * a table that is to be dropped: WiredTiger lets a session move between threads, not be shared. */
#include "libcommon/base/mem.h"
#include "veddb-storaged/engine/checkpoint.h"
#include "veddb-storaged/engine/engine_private.h"

#include <sched.h>
#include <stdio.h>

#define TABLES_MAX 1000000

void stor_session_hold(stor_session_t *session)
{
    int expected = 0;
    while (!atomic_compare_exchange_weak(&session->busy, &expected, 1)) {
        expected = 0;
        (void)sched_yield(); /* held for microseconds by a drop */
    }
}

/* Caller holds the session busy. */
static void notices_act(stor_session_t *session)
{
    pthread_mutex_lock(&session->engine->sessions_lock);
    stor_notice_t *notice = session->notices;
    session->notices = NULL;
    atomic_store(&session->noticed, false);
    pthread_mutex_unlock(&session->engine->sessions_lock);
    while (notice != NULL) {
        stor_notice_t *next = notice->next;
        if (notice->how == STOR_LET_GO_FORGET)
            stor_session_table_forget(session, notice->name);
        else if (notice->how == STOR_LET_GO_RETIRE)
            stor_session_table_retire(session, notice->name);
        else
            stor_session_table_close(session, notice->name);
        vd_free(notice);
        notice = next;
    }
}

/* The notice is stored before the other side tries `busy`, and `busy` is cleared before the notice
 * is looked for: one of both acts. */
void stor_session_let_go(stor_session_t *session)
{
    for (;;) {
        atomic_store(&session->busy, 0);
        int expected = 0;
        if (VD_LIKELY(!atomic_load(&session->noticed)) ||
            !atomic_compare_exchange_strong(&session->busy, &expected, 1))
            return;
        notices_act(session);
    }
}

static void notice_add(stor_session_t *session, const char *name, stor_let_go_t how)
{
    stor_notice_t *notice = vd_xalloc(sizeof *notice);
    notice->how = how;
    (void)snprintf(notice->name, sizeof notice->name, "%s", name);
    stor_notice_t **last = &session->notices;
    while (*last != NULL)
        last = &(*last)->next;
    *last = notice;
    atomic_store(&session->noticed, true);
}

void stor_sessions_notify(stor_engine_t *engine, const char *name, stor_let_go_t how)
{
    pthread_mutex_lock(&engine->sessions_lock);
    for (uint32_t slot = 0; slot < engine->options.sessions_max; slot++)
        if (engine->slots[slot] != NULL && engine->slots[slot]->checkpoint[0] == '\0')
            notice_add(engine->slots[slot], name, how);
    for (uint32_t slot = 0; slot < engine->options.sessions_max; slot++) {
        stor_session_t *session = engine->slots[slot];
        int expected = 0;
        if (session == NULL || !atomic_compare_exchange_strong(&session->busy, &expected, 1))
            continue;
        /* Held: it can be neither used nor closed while the lock is free for a moment. */
        pthread_mutex_unlock(&engine->sessions_lock);
        stor_session_let_go(session);
        pthread_mutex_lock(&engine->sessions_lock);
    }
    pthread_mutex_unlock(&engine->sessions_lock);
}

static uint32_t free_slot(const stor_engine_t *engine)
{
    uint32_t slot = 0;
    while (slot < engine->options.sessions_max && engine->slots[slot] != NULL)
        slot++;
    return slot;
}

static int session_open(stor_engine_t *engine, const char *checkpoint, stor_session_t **ret_session,
                        vd_error_t *err)
{
    VD_ASSERT(engine != NULL);
    stor_session_t *session = vd_xalloc(sizeof *session);
    (void)snprintf(session->checkpoint, sizeof session->checkpoint, "%s", checkpoint);
    session->engine = engine;
    session->by_table = vd_map_create(TABLES_MAX);
    vd_list_init(&session->cursors);
    int rc = VD_OK;
    int ret = engine->conn->open_session(engine->conn, NULL,
                                         "isolation=snapshot,cache_cursors=false", &session->wt);
    if (ret != 0) {
        rc = stor_wt_error(ret, err, "opening a session");
        goto cleanup;
    }
    pthread_mutex_lock(&engine->sessions_lock);
    session->slot = free_slot(engine);
    if (session->slot < engine->options.sessions_max) {
        engine->slots[session->slot] = session;
        stor_sequencer_slot_use(&engine->sequencer, session->slot);
    } else {
        rc = vd_error_set(err, VD_ERR_FULL, "all %u engine sessions are in use",
                          engine->options.sessions_max);
    }
    pthread_mutex_unlock(&engine->sessions_lock);
    if (rc != VD_OK)
        goto cleanup;
    *ret_session = session;
    return VD_OK;
cleanup:
    if (session->wt != NULL)
        (void)session->wt->close(session->wt, NULL); /* nothing was done in it */
    vd_map_destroy(&session->by_table);
    vd_free(session);
    return rc;
}

int stor_session_open(stor_engine_t *engine, stor_session_t **ret_session, vd_error_t *err)
{
    return session_open(engine, "", ret_session, err);
}

int stor_session_open_checkpoint(stor_engine_t *engine, const char *checkpoint,
                                 stor_session_t **ret_session, vd_error_t *err)
{
    VD_ASSERT(stor_checkpoint_name_ok(checkpoint));
    return session_open(engine, checkpoint, ret_session, err);
}

static void counts_add(stor_txn_counts_t *to, const stor_txn_counts_t *from)
{
    atomic_fetch_add(&to->begins, atomic_load(&from->begins));
    atomic_fetch_add(&to->commits, atomic_load(&from->commits));
    atomic_fetch_add(&to->rollbacks, atomic_load(&from->rollbacks));
    atomic_fetch_add(&to->conflicts, atomic_load(&from->conflicts));
}

void stor_session_close(stor_session_t **session_p)
{
    stor_session_t *session = *session_p;
    if (session == NULL)
        return;
    if (session->active)
        stor_txn_rollback(session);
    stor_engine_t *engine = session->engine;
    stor_session_hold(session); /* a notice may be at work in it */
    pthread_mutex_lock(&engine->sessions_lock);
    engine->slots[session->slot] = NULL;
    counts_add(&engine->closed_counts, &session->counts);
    pthread_mutex_unlock(&engine->sessions_lock);
    notices_act(session);
    VD_LIST_EACH(&session->cursors, node)
    stor_cursor_free(stor_cursor_of(node));
    (void)session->wt->close(session->wt, NULL); /* no transaction is open: nothing can be lost */
    vd_map_destroy(&session->by_table);
    vd_free(session->marks);
    vd_free(session);
    *session_p = NULL;
}

stor_engine_t *stor_session_engine(stor_session_t *session)
{
    return session->engine;
}

/* Counters have one writer; a plain load and store is enough and costs no locked instruction. */
static void count(atomic_uint_fast64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

int stor_txn_begin(stor_session_t *session, vd_error_t *err)
{
    VD_ASSERT(!session->active);
    if (VD_UNLIKELY(atomic_load_explicit(&session->engine->hold.begins, memory_order_relaxed)))
        stor_hold_begin_wait(session->engine);
    stor_session_hold(session);
    int ret = session->wt->begin_transaction(session->wt, NULL);
    if (ret != 0) {
        stor_session_let_go(session);
        return stor_wt_error(ret, err, "beginning a transaction");
    }
    session->active = true;
    session->failed = session->wrote = session->drawn = session->given = false;
    session->timestamp = session->bytes_written = 0;
    session->transactions++;
    /* After begin: whatever the snapshot sees was about to commit before this is read. */
    session->snapshot_newest = stor_sequencer_newest(&session->engine->sequencer);
    count(&session->counts.begins);
    return VD_OK;
}

uint64_t stor_txn_timestamp(stor_session_t *session)
{
    VD_ASSERT(session->active);
    VD_ASSERT(!session->drawn);
    session->drawn = true;
    session->timestamp = stor_sequencer_draw(&session->engine->sequencer, session->slot);
    VD_ASSERT(session->timestamp > session->snapshot_newest);
    return session->timestamp;
}

void stor_txn_timestamp_given(stor_session_t *session, uint64_t timestamp)
{
    VD_ASSERT(session->active);
    VD_ASSERT(!session->drawn && !session->given);
    VD_ASSERT(timestamp > session->snapshot_newest);
    session->given = true;
    session->timestamp = timestamp;
}

void stor_session_mark(stor_session_t *session, const stor_cursor_t *cursor, vd_slice_t key)
{
    stor_versions_t *versions = session->engine->options.versions;
    if (session->marked_all)
        return;
    uint32_t slot = stor_versions_slot(cursor->name, key), count = session->mark_count;
    if (count > 0 && session->marks[count - 1] == slot)
        return; /* removed and put again, or changed twice */
    if (count == STOR_VERSIONS_MARKS_MAX) {
        stor_versions_all_begin(versions);
        session->marked_all = true;
        return;
    }
    if (count == session->mark_space) {
        session->mark_space = count == 0 ? 16 : 2 * count;
        session->marks = vd_xrealloc(session->marks, session->mark_space * sizeof *session->marks);
    }
    stor_versions_begin(versions, slot);
    session->marks[session->mark_count++] = slot;
}

/* What was changed can be seen, or never will be. */
static void unmark(stor_session_t *session)
{
    stor_versions_t *versions = session->engine->options.versions;
    for (uint32_t i = 0; i < session->mark_count; i++)
        stor_versions_end(versions, session->marks[i]);
    if (session->marked_all)
        stor_versions_all_end(versions);
    session->mark_count = 0;
    session->marked_all = false;
}

static void end(stor_session_t *session, bool committed)
{
    if (session->mark_count > 0)
        unmark(session);
    stor_ending_t *ending = session->endings;
    session->endings = NULL;
    if (session->drawn)
        stor_sequencer_end(&session->engine->sequencer, session->slot);
    session->active = false;
    stor_session_let_go(session);
    while (ending != NULL) {
        stor_ending_t *next = ending->next;
        ending->ended(committed, ending->context);
        vd_free(ending);
        ending = next;
    }
}

void stor_txn_on_end(stor_session_t *session, void (*ended)(bool committed, void *context),
                     void *context)
{
    VD_ASSERT(session->active);
    stor_ending_t *ending = vd_xalloc(sizeof *ending);
    *ending = (stor_ending_t){session->endings, ended, context};
    session->endings = ending;
}

int stor_txn_commit(stor_session_t *session, vd_error_t *err)
{
    VD_ASSERT(session->active);
    stor_engine_t *engine = session->engine;
    if (session->failed) {
        /* WiredTiger would return 0 here and keep nothing. */
        stor_txn_rollback(session);
        return vd_error_set(err, VD_ERR_WRITE_CONFLICT,
                            "the transaction has failed and can't be committed");
    }
    stor_session_cursors_reset(session);
    bool wrote = session->wrote;
    if (wrote) {
        if (session->drawn || session->given)
            stor_sequencer_committing(&engine->sequencer, session->timestamp);
        stor_flusher_commit_begin(engine->flusher);
    }
    int ret = session->wt->commit_transaction(session->wt, NULL);
    /* Before the flusher counts it as ended: a flush that finds nothing under way has sampled a
     * visible point that covers it. */
    if (ret == 0 && session->given)
        stor_sequencer_observe(&engine->sequencer, session->timestamp);
    if (wrote)
        stor_flusher_commit_end(engine->flusher);
    end(session, ret == 0);
    if (ret != 0) {
        count(&session->counts.rollbacks);
        return stor_wt_error(ret, err, "committing");
    }
    if (wrote)
        stor_reserve_written(&engine->reserve, session->bytes_written);
    count(&session->counts.commits);
    return VD_OK;
}

void stor_txn_rollback(stor_session_t *session)
{
    VD_ASSERT(session->active);
    stor_session_cursors_reset(session);
    (void)session->wt->rollback_transaction(session->wt,
                                            NULL); /* fails only by panic, which ends the process */
    if (session->failed)
        count(&session->counts.conflicts);
    count(&session->counts.rollbacks);
    end(session, false);
}

bool stor_txn_active(const stor_session_t *session)
{
    return session->active;
}

bool stor_txn_is_given(const stor_session_t *session)
{
    return session->active && session->given;
}

void stor_txn_rest(stor_session_t *session)
{
    VD_ASSERT(session->active);
    stor_session_cursors_reset(session);
}

uint64_t stor_txn_snapshot_newest(const stor_session_t *session)
{
    VD_ASSERT(session->active);
    return session->snapshot_newest;
}
