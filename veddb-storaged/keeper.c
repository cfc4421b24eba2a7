/* veddb-storaged/keeper.c — see keeper.h.
 *
 * Four threads: the keeper makes its pass twice a second; the scrub goes round the collections in
 * its own time, so that a large one holds up nothing, and so do the one that deletes what has
 * expired and the one that refreshes the planner's statistics. */
#include "veddb-storaged/keeper.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/thread.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/catalog/counters.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/defaults.h"
#include "veddb-storaged/exec/planner.h"
#include "veddb-storaged/index/builds.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/replication/snapshot.h"
#include "veddb-storaged/scrub.h"
#include "veddb-storaged/scrub_indexes.h"
#include "veddb-storaged/sessions.h"
#include "veddb-storaged/transactions.h"
#include "veddb-storaged/ttl.h"

#include <time.h>

#define PASS_MS              500
#define FOLD_ENTRIES_MAX     20000
#define FOLD_BATCHES_MAX     20    /* in a pass */
#define SCRUB_PAUSE_US       10000 /* behind each step of about a millisecond */
#define SCRUB_LOOK_MS        1000
#define STATISTICS_PERIOD_MS 5000
#define INDEX_NOTE_PASSES    40
#define SILENCE_S            10 /* of a primary's journal: then an entry says what time it is */

/* Kinds of work that may fail: told once, and again when they have gone well in between. */
typedef enum {
    WORK_COUNTERS,
    WORK_JOURNAL,
    WORK_SCRUB,
    WORK_TIME,
    WORK_DEFAULTS,
    WORK_TTL,
    WORK_STATISTICS,
    WORK_COUNT
} work_t;

struct stor_keeper {
    stor_storage_t *storage;
    vd_daemon_slot_t *slot; /* NULL without a daemon */
    stor_session_t *session, *scrub_session, *ttl_session, *statistics_session;
    pthread_t thread, scrub_thread, ttl_thread, statistics_thread;
    bool started, scrub_started, ttl_started, statistics_started;
    uint64_t passes;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_bool stop;
    atomic_bool failed[WORK_COUNT];
};

static const char *const work_names[WORK_COUNT] = {"counters", "journal", "scrub",     "time",
                                                   "defaults", "ttl",     "statistics"};

static void note(stor_keeper_t *keeper, work_t work, int rc, const vd_error_t *err)
{
    if (rc == VD_ERR_WRITE_CONFLICT)
        return; /* tried again at the next pass; it must not hide a failure that comes then */
    bool before = keeper != NULL && atomic_exchange(&keeper->failed[work], rc != VD_OK);
    if (rc == VD_OK || before)
        return;
    char text[VD_ERROR_MESSAGE_SIZE + 64];
    vd_log(VD_LOG_ERROR, "work in the background failed", "work=%s error=%s", work_names[work],
           vd_log_quote(vd_slice_str(err->message), text, sizeof text));
}

/* ---- one pass ---- */

/* A load fills collections beside the journal: what is kept is not what is there until it ends. */
static bool is_loading(const stor_storage_t *storage)
{
    return storage->replication != NULL && stor_replication_role(storage) == VDP_ROLE_RECOVERING;
}

static void counters_fold(stor_keeper_t *keeper, stor_storage_t *storage, stor_session_t *session)
{
    bool more = true;
    for (int i = 0; more && i < FOLD_BATCHES_MAX; i++) {
        vd_error_t err = VD_ERROR_INIT;
        more = false;
        if (keeper != NULL && keeper->slot != NULL)
            vd_daemon_beat(keeper->slot, true); /* many batches are not a hang */
        int rc = stor_counters_fold(storage, session, FOLD_ENTRIES_MAX, &more, &err);
        note(keeper, WORK_COUNTERS, rc, &err);
        if (rc != VD_OK)
            return;
    }
}

/* So that the others know how far behind they are, and reads after a time go on. */
static void time_note(stor_keeper_t *keeper, stor_storage_t *storage, stor_session_t *session)
{
    /* {msg: "periodic noop"} */
    static const uint8_t body[] = "\x1c\0\0\0\x02msg\0\x0e\0\0\0periodic noop\0";
    vd_error_t err = VD_ERROR_INIT;
    uint64_t timestamp;
    int64_t newest_s = (int64_t)(stor_engine_newest(storage->engine) >> 32);
    if (!storage->settings.replicated || storage->replication == NULL ||
        stor_replication_role(storage) != VDP_ROLE_PRIMARY ||
        vd_wall_ms() / 1000 - newest_s < SILENCE_S ||
        stor_replication_write_enter(storage, &err) != VD_OK)
        return;
    int rc = stor_journal_note(storage, session, STOR_CHANGE_NOOP, (vd_bson_t){body, sizeof body},
                               NULL, NULL, &timestamp, &err);
    stor_replication_write_leave(storage);
    note(keeper, WORK_TIME, rc, &err);
}

static void pass(stor_keeper_t *keeper, stor_storage_t *storage, stor_session_t *session)
{
    vd_error_t err = VD_ERROR_INIT;
    uint32_t expired = stor_cursors_expire(storage->cursors);
    if (expired > 0)
        vd_log(VD_LOG_INFO, "idle cursors closed", "cursors=%u", (unsigned)expired);
    stor_transactions_expire(storage);
    if (storage->builds != NULL && !is_loading(storage))
        stor_builds_resume(storage->builds);
    /* These write a little: not into the last of the disk, but as long as deletions may go on,
     * whose entries the journal keeps until they are folded. */
    if (!stor_freeze_enter(storage))
        return;
    if (stor_engine_free_allowed(storage->engine, NULL) == VD_OK) {
        stor_sessions_expire(storage, session);
        counters_fold(keeper, storage, session);
        if (keeper == NULL || keeper->passes++ % INDEX_NOTE_PASSES == 0)
            stor_catalog_indexes_note(storage->catalog, session);
        time_note(keeper, storage, session);
    }
    /* These give space back, so a full disk needs them most. What they write of their own is a row,
     * and at most one cut: a journal that nobody may write to does not grow. */
    uint64_t keep_above = stor_counters_position(storage);
    if (storage->replication != NULL && storage->replication->snapshots != NULL) {
        stor_snapshots_expire(storage->replication->snapshots);
        uint64_t copied = stor_snapshots_keep_above(storage->replication->snapshots);
        keep_above = copied < keep_above ? copied : keep_above;
    }
    if (storage->audit != NULL) {
        stor_audit_look(storage->audit);
        uint64_t sealed = stor_audit_keep_above(storage->audit);
        keep_above = sealed < keep_above ? sealed : keep_above;
    }
    int rc = stor_journal_maintain(storage->journal, session, keep_above, &err);
    note(keeper, WORK_JOURNAL, rc, &err);
    stor_catalog_remove_dropped(storage->catalog, session);
    if (storage->defaults != NULL) {
        rc = stor_defaults_load(storage, session, &err);
        note(keeper, WORK_DEFAULTS, rc, &err);
    }
    stor_freeze_leave(storage);
}

void stor_keeper_pass(stor_storage_t *storage, stor_session_t *session)
{
    pass(storage->keeper, storage, session);
}

/* ---- scrub ---- */

static void scrub_told(stor_storage_t *storage, stor_collection_t *collection,
                       const stor_scrub_result_t *result)
{
    char ns[VD_NAMESPACE_MAX_BYTES * 2 + 16];
    atomic_store(&collection->scrubbed_wall_ms, vd_wall_ms());
    if (result->inconclusive)
        return;
    atomic_fetch_add(&collection->scrubs, 1);
    atomic_fetch_add(&storage->scrub.collections, 1);
    if (result->equal)
        return;
    atomic_fetch_add(&storage->scrub.collection_failures, 1);
    atomic_fetch_add(&collection->scrub_failures, 1);
    vd_log(VD_LOG_ERROR, "a collection is not what it was kept to be",
           "ns=%s collection=%llu documents=%lld documents_kept=%lld bytes=%lld bytes_kept=%lld "
           "hash=%016llx hash_kept=%016llx",
           vd_log_quote(vd_slice_str(collection->ns), ns, sizeof ns),
           (unsigned long long)collection->id, (long long)result->documents,
           (long long)result->documents_kept, (long long)result->bytes,
           (long long)result->bytes_kept, (unsigned long long)result->hash,
           (unsigned long long)result->hash_kept);
}

static void scrub_indexes_told(stor_storage_t *storage, stor_collection_t *collection,
                               const stor_scrub_indexes_t *result)
{
    char ns[VD_NAMESPACE_MAX_BYTES * 2 + 16];
    if (result->keys > 0 || result->entries > 0)
        atomic_fetch_add(&storage->scrub.indexes, 1);
    if (result->index_id == 0)
        return;
    atomic_fetch_add(&collection->scrub_failures, 1);
    atomic_fetch_add(&storage->scrub.index_failures, 1);
    vd_log(VD_LOG_ERROR, "an index is not what its documents say: validate with repair mends it",
           "ns=%s collection=%llu index=%llu missing=%lld extra=%lld malformed=%lld",
           vd_log_quote(vd_slice_str(collection->ns), ns, sizeof ns),
           (unsigned long long)collection->id, (unsigned long long)result->index_id,
           (long long)result->missing, (long long)result->extra, (long long)result->malformed);
}

static int scrub_indexes(stor_keeper_t *keeper, stor_collection_t *collection, vd_error_t *err)
{
    stor_scrub_indexes_t result;
    int rc = stor_scrub_indexes(keeper->storage, keeper->scrub_session, collection->id,
                                SCRUB_PAUSE_US, &keeper->stop, &result, err);
    if (rc == VD_OK && !is_loading(keeper->storage))
        scrub_indexes_told(keeper->storage, collection, &result);
    return rc;
}

static bool is_due(const stor_collection_t *collection, const stor_storage_t *storage)
{
    int64_t last = atomic_load(&collection->scrubbed_wall_ms);
    if (last < storage->started_wall_ms)
        last = storage->started_wall_ms;
    return vd_wall_ms() - last >= (int64_t)storage->settings.scrub_period_ms;
}

/* One round over all collections. */
static void scrub_round(stor_keeper_t *keeper)
{
    stor_storage_t *storage = keeper->storage;
    uint64_t id = 0;
    for (stor_collection_t *c;
         !atomic_load(&keeper->stop) && (c = stor_catalog_next(storage->catalog, id)) != NULL;
         stor_catalog_unreference(&c)) {
        vd_error_t err = VD_ERROR_INIT;
        stor_scrub_result_t result;
        id = c->id;
        if (is_loading(storage) || !is_due(c, storage))
            continue;
        int rc = stor_scrub_collection(storage, keeper->scrub_session, id, SCRUB_PAUSE_US,
                                       &keeper->stop, &result, &err);
        if (is_loading(storage))
            continue; /* begun before the load: says nothing */
        if (rc == VD_OK) {
            scrub_told(storage, c, &result);
            rc = scrub_indexes(keeper, c, &err);
        }
        if (rc != VD_OK && rc != VD_ERR_INTERRUPTED)
            atomic_fetch_add(&c->scrub_failures, 1);
        if (rc != VD_ERR_INTERRUPTED)
            note(keeper, WORK_SCRUB, rc, &err);
        if (rc != VD_OK) /* not again at once */
            atomic_store(&c->scrubbed_wall_ms, vd_wall_ms());
    }
}

/* ---- threads ---- */

/* False when it is time to stop. */
static bool rest(stor_keeper_t *keeper, uint64_t ms)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until); /* can't fail for this clock */
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_mutex_lock(&keeper->lock);
    while (!atomic_load(&keeper->stop) &&
           pthread_cond_timedwait(&keeper->wake, &keeper->lock, &until) == 0)
        continue;
    (void)pthread_mutex_unlock(&keeper->lock);
    return !atomic_load(&keeper->stop);
}

static void *keeper_run(void *context)
{
    stor_keeper_t *keeper = context;
    while (rest(keeper, PASS_MS)) {
        if (keeper->slot != NULL)
            vd_daemon_beat(keeper->slot, true);
        pass(keeper, keeper->storage, keeper->session);
        if (keeper->slot != NULL)
            vd_daemon_beat(keeper->slot, false);
    }
    return NULL;
}

static void *scrub_run(void *context)
{
    stor_keeper_t *keeper = context;
    while (rest(keeper, SCRUB_LOOK_MS))
        scrub_round(keeper);
    return NULL;
}

static void *ttl_run(void *context)
{
    stor_keeper_t *keeper = context;
    stor_storage_t *storage = keeper->storage;
    uint64_t period =
        storage->settings.ttl_period_ms == 0 ? STOR_TTL_PERIOD_MS : storage->settings.ttl_period_ms;
    for (bool more = false; rest(keeper, more ? 1 : period);) {
        vd_error_t err = VD_ERROR_INIT;
        if (!stor_freeze_enter(storage))
            continue;
        int rc = stor_ttl_pass(storage, keeper->ttl_session, &keeper->stop, &more, &err);
        stor_freeze_leave(storage);
        note(keeper, WORK_TTL, rc, &err);
        more = more && rc == VD_OK;
    }
    return NULL;
}

static void *statistics_run(void *context)
{
    stor_keeper_t *keeper = context;
    stor_storage_t *storage = keeper->storage;
    while (rest(keeper, STATISTICS_PERIOD_MS)) {
        vd_error_t err = VD_ERROR_INIT;
        if (is_loading(storage) || !stor_freeze_enter(storage))
            continue;
        int rc = stor_planner_refresh(storage, keeper->statistics_session, &keeper->stop, &err);
        stor_freeze_leave(storage);
        note(keeper, WORK_STATISTICS, rc, &err);
    }
    return NULL;
}

int stor_keeper_start(stor_storage_t *storage, vd_daemon_t *daemon, vd_error_t *err)
{
    stor_keeper_t *keeper = vd_xalloc(sizeof *keeper);
    pthread_condattr_t attr;
    keeper->storage = storage;
    keeper->slot = daemon == NULL ? NULL : vd_daemon_slot(daemon, "keeper");
    (void)pthread_mutex_init(&keeper->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&keeper->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    storage->keeper = keeper;
    int rc = stor_session_open(storage->engine, &keeper->session, err);
    if (rc == VD_OK)
        rc = stor_session_open(storage->engine, &keeper->scrub_session, err);
    if (rc == VD_OK)
        rc = stor_session_open(storage->engine, &keeper->ttl_session, err);
    if (rc == VD_OK)
        rc = stor_session_open(storage->engine, &keeper->statistics_session, err);
    if (rc == VD_OK) {
        keeper->started = vd_thread_start(&keeper->thread, keeper_run, keeper) == 0;
        keeper->scrub_started = vd_thread_start(&keeper->scrub_thread, scrub_run, keeper) == 0;
        keeper->ttl_started = vd_thread_start(&keeper->ttl_thread, ttl_run, keeper) == 0;
        keeper->statistics_started =
            vd_thread_start(&keeper->statistics_thread, statistics_run, keeper) == 0;
        if (!keeper->started || !keeper->scrub_started || !keeper->ttl_started ||
            !keeper->statistics_started)
            rc = vd_error_set(err, VD_ERR_INTERNAL, "the keeper's threads could not be started");
    }
    if (rc != VD_OK) {
        stor_keeper_stop(&storage->keeper);
        return rc;
    }
    (void)pthread_setname_np(keeper->thread, "keeper");
    (void)pthread_setname_np(keeper->scrub_thread, "scrub");
    (void)pthread_setname_np(keeper->ttl_thread, "ttl");
    (void)pthread_setname_np(keeper->statistics_thread, "statistics");
    return VD_OK;
}

void stor_keeper_stop(stor_keeper_t **keeper_p)
{
    stor_keeper_t *keeper = *keeper_p;
    if (keeper == NULL)
        return;
    (void)pthread_mutex_lock(&keeper->lock);
    atomic_store(&keeper->stop, true);
    (void)pthread_cond_broadcast(&keeper->wake);
    (void)pthread_mutex_unlock(&keeper->lock);
    if (keeper->started)
        (void)pthread_join(keeper->thread, NULL);
    if (keeper->scrub_started)
        (void)pthread_join(keeper->scrub_thread, NULL);
    if (keeper->ttl_started)
        (void)pthread_join(keeper->ttl_thread, NULL);
    if (keeper->statistics_started)
        (void)pthread_join(keeper->statistics_thread, NULL);
    stor_session_close(&keeper->session);
    stor_session_close(&keeper->scrub_session);
    stor_session_close(&keeper->ttl_session);
    stor_session_close(&keeper->statistics_session);
    (void)pthread_mutex_destroy(&keeper->lock);
    (void)pthread_cond_destroy(&keeper->wake);
    vd_free(keeper);
    *keeper_p = NULL;
}
