/* veddb-storaged/index/builds.c — see builds.h. */
#include "veddb-storaged/index/builds.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/index/build.h"
#include "veddb-storaged/index/index_private.h"
#include "veddb-storaged/registry.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/streams/waits.h"

#include <inttypes.h>
#include <time.h>

#define QUORUM_BYTES     512
#define REST_PRIMARY_MS  20  /* between looks at the quorum */
#define REST_REPLICA_MS  200 /* between passes over the log */
#define REST_WANTED_MS   50  /* in which it is claimed */
#define AGAIN_MS         500 /* before another try, and longer each time */
#define AGAIN_MAX_MS     30000
#define WAIT_MS          10
#define COMMIT_TRIES_MAX 20 /* each waits for the fence */

typedef enum { WORKING, RESTING, CLAIMED, COMMITTED } phase_t;

struct stor_build {
    stor_build_t *next;
    stor_builds_t *builds;
    uint64_t id, collection_id;
    stor_index_t *indexes[STOR_INDEXES_MAX]; /* referenced */
    uint32_t count;
    vd_bson_t building; /* of the first index's log */
    pthread_t thread;
    int references; /* the thread's, and of those who wait; under the lock, as what follows */
    phase_t phase;
    bool ready, wanted, joinable;
    atomic_bool ended; /* changed under the lock */
    int rc;            /* when it has ended */
    vd_error_t err;
    vd_arena_t *arena; /* the request's, and details of the error */
    stor_request_t *request;
    stor_index_build_t *work;
    uint8_t
        quorum[QUORUM_BYTES]; /* setIndexCommitQuorum: {quorum}, under the lock; empty: as begun */
};

struct stor_builds {
    stor_storage_t *storage;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    stor_build_t *first;
    atomic_bool stop;
    atomic_bool unattended; /* there may be some that nobody works on */
};

/* ---- life ---- */

stor_builds_t *stor_builds_create(stor_storage_t *storage)
{
    stor_builds_t *builds = vd_xalloc(sizeof *builds);
    pthread_condattr_t attr;
    builds->storage = storage;
    atomic_init(&builds->unattended, true);
    (void)pthread_mutex_init(&builds->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&builds->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    return builds;
}

static void lock(stor_builds_t *builds)
{
    (void)pthread_mutex_lock(&builds->lock);
}

static void unlock(stor_builds_t *builds)
{
    (void)pthread_mutex_unlock(&builds->lock);
}

static void wake(stor_builds_t *builds)
{
    (void)pthread_cond_broadcast(&builds->changed);
}

/* Under the lock; it is out of the list. */
static void unreference(stor_build_t *build)
{
    if (--build->references > 0)
        return;
    for (uint32_t i = 0; i < build->count; i++)
        stor_index_unreference(&build->indexes[i]);
    vd_arena_destroy(&build->arena);
    vd_free(build);
}

/* Threads that have ended are joined by whoever comes by. */
static void ended_join(stor_builds_t *builds)
{
    for (;;) {
        lock(builds);
        stor_build_t **at = &builds->first;
        while (*at != NULL && !((*at)->ended && (*at)->joinable))
            at = &(*at)->next;
        stor_build_t *build = *at;
        if (build != NULL)
            *at = build->next;
        unlock(builds);
        if (build == NULL)
            return;
        (void)pthread_join(build->thread, NULL);
        lock(builds);
        unreference(build);
        unlock(builds);
    }
}

void stor_builds_stop(stor_builds_t *builds)
{
    if (builds == NULL)
        return;
    lock(builds);
    atomic_store(&builds->stop, true);
    for (stor_build_t *b = builds->first; b != NULL; b = b->next)
        for (uint32_t i = 0; i < b->count; i++) { /* looked at in every loop */
            int none = 0;
            (void)atomic_compare_exchange_strong(&b->indexes[i]->log->cancelled, &none,
                                                 VD_ERR_INTERRUPTED_AT_SHUTDOWN);
        }
    wake(builds);
    while (builds->first != NULL) { /* others may take them out, too */
        if (!builds->first->ended) {
            (void)pthread_cond_wait(&builds->changed, &builds->lock);
            continue;
        }
        unlock(builds);
        ended_join(builds);
        lock(builds);
    }
    unlock(builds);
}

void stor_builds_destroy(stor_builds_t **builds_p)
{
    stor_builds_t *builds = *builds_p;
    if (builds == NULL)
        return;
    stor_builds_stop(builds);
    (void)pthread_mutex_destroy(&builds->lock);
    (void)pthread_cond_destroy(&builds->changed);
    vd_free(builds);
    *builds_p = NULL;
}

/* ---- resting ---- */

static void until_ms(uint64_t ms, struct timespec *ret)
{
    (void)clock_gettime(CLOCK_MONOTONIC, ret); /* can't fail for this clock */
    ret->tv_sec += (time_t)(ms / 1000);
    ret->tv_nsec += (long)(ms % 1000) * 1000000;
    ret->tv_sec += ret->tv_nsec / 1000000000;
    ret->tv_nsec %= 1000000000;
}

/* Between passes, without anything of the engine: may be claimed meanwhile. One that is wanted
 * makes a pass first, and rests then. False: it was committed. */
static bool rest(stor_build_t *build, uint64_t ms)
{
    stor_builds_t *builds = build->builds;
    struct timespec until;
    lock(builds);
    bool was_wanted = build->wanted;
    until_ms(was_wanted ? REST_WANTED_MS : ms, &until);
    build->phase = RESTING;
    while (build->phase == CLAIMED || (build->phase == RESTING && !atomic_load(&builds->stop) &&
                                       build->wanted == was_wanted)) {
        if (build->phase == CLAIMED)
            (void)pthread_cond_wait(&builds->changed, &builds->lock);
        else if (pthread_cond_timedwait(&builds->changed, &builds->lock, &until) != 0)
            break;
    }
    while (build->phase == CLAIMED)
        (void)pthread_cond_wait(&builds->changed, &builds->lock);
    bool committed = build->phase == COMMITTED;
    build->phase = WORKING;
    unlock(builds);
    return !committed;
}

static void pause_ms(stor_builds_t *builds, uint64_t ms)
{
    struct timespec until;
    until_ms(ms, &until);
    lock(builds);
    while (!atomic_load(&builds->stop) &&
           pthread_cond_timedwait(&builds->changed, &builds->lock, &until) == 0)
        continue;
    unlock(builds);
}

/* ---- what it is part of ---- */

static bool leads(const stor_builds_t *builds)
{
    return stor_replication_role(builds->storage) == VDP_ROLE_PRIMARY;
}

static bool is_gone(stor_build_t *build)
{
    stor_collection_t *collection =
        stor_catalog_reference(build->builds->storage->catalog, build->collection_id);
    bool gone = collection == NULL ||
                stor_index_set_find(collection->indexes, build->id) != build->indexes[0];
    stor_catalog_unreference(&collection);
    return gone;
}

static void ready_set(stor_build_t *build, bool ready)
{
    lock(build->builds);
    bool other = build->ready != ready;
    build->ready = ready;
    unlock(build->builds);
    if (other && !stor_replication_alone(build->builds->storage))
        stor_replication_announce(build->builds->storage);
}

bool stor_builds_enough(bool asked, bool met, bool majority, uint64_t took_ms, uint64_t waited_ms,
                        bool *ret_alone)
{
    *ret_alone = false;
    if (met || asked)
        return met;
    if (waited_ms < took_ms + STOR_BUILDS_ALL_MS)
        return false;
    if (majority)
        return true;
    *ret_alone = waited_ms >= 10 * took_ms + STOR_BUILDS_MAJORITY_MS;
    return *ret_alone;
}

/* What is asked for now. */
static vd_value_t quorum_of(stor_build_t *build, uint8_t buf[QUORUM_BYTES])
{
    lock(build->builds);
    memcpy(buf, build->quorum, QUORUM_BYTES);
    unlock(build->builds);
    vd_bson_t set = {buf, vd_get_u32(buf)};
    return vd_bson_get(set.len > 0 ? set : build->building, "quorum");
}

static bool has_names(const stor_build_t *build, const vd_slice_t *names, uint32_t count)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < build->count; i++)
        for (uint32_t n = 0; n < count; n++)
            found += vd_slice_equal(
                names[n], vd_value_string(vd_bson_get(build->indexes[i]->def->spec, "name")));
    return found == count && count == build->count;
}

int stor_builds_quorum_set(stor_builds_t *builds, uint64_t collection_id, const vd_slice_t *names,
                           uint32_t count, vd_value_t quorum, vd_error_t *err)
{
    uint8_t buf[QUORUM_BYTES];
    vd_bb_t bb;
    vd_bson_t document;
    vd_arena_t *arena = vd_arena_create();
    vd_bb_init_arena(&bb, arena, sizeof buf);
    vd_bb_value(&bb, VD_SLICE_LIT("quorum"), quorum);
    int rc = vd_bb_finish(&bb, &document, err);
    if (rc == VD_OK)
        memcpy(buf, document.data, document.len);
    bool found = false;
    lock(builds);
    for (stor_build_t *build = builds->first; rc == VD_OK && build != NULL; build = build->next)
        if (build->collection_id == collection_id && !build->ended &&
            has_names(build, names, count)) {
            memcpy(build->quorum, buf, document.len);
            found = true;
        }
    unlock(builds);
    vd_arena_destroy(&arena);
    return rc != VD_OK || found ? rc : VD_ERR_NOT_FOUND;
}

/* Whether it may be committed now: we lead, and have had it ready since `ready_ms`. */
static bool is_enough(stor_build_t *build, uint64_t took_ms, uint64_t ready_ms)
{
    stor_storage_t *storage = build->builds->storage;
    if (stor_replication_alone(storage) || storage->replication->positions == NULL)
        return true;
    stor_positions_built_t built;
    uint8_t buf[QUORUM_BYTES];
    vd_value_t quorum = quorum_of(build, buf);
    uint64_t waited_ms = vd_monotonic_ms() - ready_ms;
    stor_positions_built(storage->replication->positions, build->id, quorum, &built);
    bool alone = false;
    if (!stor_builds_enough(quorum.type != VD_BSON_MISSING, built.met, built.majority, took_ms,
                            waited_ms, &alone))
        return false;
    if (alone)
        vd_log(VD_LOG_WARN, "an index is committed that no majority has ready",
               "collection=%" PRIu64 " build=%" PRIu64 " waited_ms=%" PRIu64, build->collection_id,
               build->id, waited_ms);
    return true;
}

/* ---- the work ---- */

/* What a change of role does to a commit, and who holds on to the collection for long, is no reason
 * to throw the work away. */
static bool is_passing(int rc)
{
    return rc == VD_ERR_NOT_WRITABLE_PRIMARY || rc == VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE;
}

static int commit(stor_build_t *build, stor_request_t *request, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_catalog_indexes_commit(request, build->collection_id, build->indexes,
                                         build->count, stor_index_build_last, build->work, &step);
    if (rc != VD_OK && err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

/* From ready to committed; VD_OK: it is. */
static int end(stor_build_t *build, stor_request_t *request, uint64_t took_ms, vd_error_t *err)
{
    uint64_t ready_ms = 0;
    bool led = false;
    for (int busy = 0;;) {
        vd_error_t step = VD_ERROR_INIT;
        bool leading = leads(build->builds);
        int rc = is_gone(build)
                     ? vd_error_set(&step, VD_ERR_INDEX_BUILD_ABORTED,
                                    "the index, or its collection, was dropped")
                     : stor_index_build_catch_up(build->work, leading && !build->ready, &step);
        if (leading != led)
            ready_ms = vd_monotonic_ms(); /* a new primary waits anew */
        led = leading;
        if (rc == VD_OK && !build->ready) {
            ready_ms = vd_monotonic_ms();
            ready_set(build, true);
            rc = VD_FAULT("index.ready", &step);
        }
        if (rc == VD_OK && leading && is_enough(build, took_ms, ready_ms) &&
            stor_freeze_enter(build->builds->storage)) {
            rc = commit(build, request, &step);
            stor_freeze_leave(build->builds->storage);
            if (rc == VD_OK)
                return VD_OK;
            if (is_passing(rc) || (rc == VD_ERR_LOCK_TIMEOUT && ++busy < COMMIT_TRIES_MAX))
                rc = VD_OK;
        }
        if (rc != VD_OK) {
            if (err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
        stor_index_build_let_go(build->work);
        if (!rest(build, leads(build->builds) ? REST_PRIMARY_MS : REST_REPLICA_MS))
            return VD_OK; /* the journal's entry was */
    }
}

static int attempt(stor_build_t *build, stor_request_t *request, bool again, vd_error_t *err)
{
    uint64_t started = vd_monotonic_ms();
    stor_index_build_t *work =
        stor_index_build_create(request, build->collection_id, build->indexes, build->count, again);
    build->work = work;
    int rc = stor_index_build_run(work, err);
    if (rc == VD_OK)
        rc = end(build, request, vd_monotonic_ms() - started, err);
    rc = stor_index_build_explain(work, rc, err);
    vd_log(VD_LOG_INFO,
           rc == VD_OK ? "indexes built" : "a build of indexes did not come to its end",
           "collection=%" PRIu64 " indexes=%u documents=%" PRIu64 " ms=%" PRIu64 " code=%d",
           build->collection_id, build->count, stor_index_build_scanned(work),
           vd_monotonic_ms() - started, -rc);
    stor_index_build_destroy(&work);
    build->work = NULL;
    if (rc != VD_OK)
        ready_set(build, false);
    return rc;
}

/* After an attempt that failed: true when there is to be another one. */
static bool another(stor_build_t *build, stor_request_t *request, int rc, uint32_t tries)
{
    stor_builds_t *builds = build->builds;
    uint64_t ms = (uint64_t)AGAIN_MS * tries;
    vd_error_t err = VD_ERROR_INIT;
    atomic_store(&request->killed, 0);
    if (atomic_load(&builds->stop) || is_gone(build))
        return false;
    if (leads(builds) && stor_catalog_indexes_abort(request, build->collection_id, build->indexes,
                                                    build->count, &err) == VD_OK)
        return false;
    char text[VD_ERROR_MESSAGE_SIZE + 64];
    vd_log(VD_LOG_WARN, "a build of indexes begins anew",
           "collection=%" PRIu64 " build=%" PRIu64 " code=%d error=%s", build->collection_id,
           build->id, -rc, vd_log_quote(vd_slice_str(err.message), text, sizeof text));
    pause_ms(builds, ms < AGAIN_MAX_MS ? ms : AGAIN_MAX_MS);
    /* What was told to stop here, and could not be given up any more, is the next primary's. */
    for (uint32_t i = 0; i < build->count && !atomic_load(&builds->stop); i++)
        atomic_store(&build->indexes[i]->log->cancelled, 0);
    return !atomic_load(&builds->stop) && !is_gone(build);
}

/* What currentOp shows. */
static void request_make(stor_build_t *build, stor_request_t *request)
{
    stor_collection_t *collection =
        stor_catalog_reference(build->builds->storage->catalog, build->collection_id);
    char buf[12];
    vd_bb_t *bb = vd_arena_alloc(build->arena, sizeof *bb);
    stor_request_init(request, build->builds->storage, build->arena);
    vd_value_t user = vd_bson_get(build->building, "user");
    request->command.name = VD_SLICE_LIT("createIndexes");
    if (user.type == VD_BSON_STRING)
        request->command.user = vd_value_string(user);
    if (collection == NULL)
        return;
    request->command.db = request->db = vd_arena_copy_slice(build->arena, collection->db);
    vd_bb_init_arena(bb, build->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_string(bb, "createIndexes", collection->name);
    vd_bb_begin_array(bb, "indexes");
    for (uint32_t i = 0; i < build->count; i++)
        vd_bb_value(bb, vd_array_name(i, buf),
                    vd_value_from_document(build->indexes[i]->def->spec));
    vd_bb_close(bb);
    if (vd_bb_finish(bb, &request->body, NULL) == VD_OK)
        request->sections.body = request->body;
    request->ns = stor_request_namespace(request, collection->name);
    stor_catalog_unreference(&collection);
}

static void *build_run(void *context)
{
    stor_build_t *build = context;
    stor_builds_t *builds = build->builds;
    stor_request_t *request = vd_xalloc(sizeof *request);
    stor_session_t *session = NULL;
    vd_error_t err = VD_ERROR_INIT;
    request_make(build, request);
    int rc = stor_session_open(builds->storage->engine, &session, &err);
    request->session = session;
    stor_registry_add(request);
    for (uint32_t tries = 1; session != NULL; tries++) {
        vd_error_clear(&err);
        rc = attempt(build, request, tries > 1, &err);
        if (rc == VD_OK || !another(build, request, rc, tries))
            break;
    }
    stor_registry_remove(request);
    stor_session_close(&session);
    vd_free(request);
    if (rc != VD_OK && !atomic_load(&builds->stop) && !is_gone(build))
        atomic_store(&builds->unattended, true); /* no session: the keeper tries again */
    lock(builds);
    build->rc = rc;
    if (rc != VD_OK)
        vd_error_copy(&err, &build->err);
    build->ended = true;
    build->ready = false;
    wake(builds);
    unlock(builds);
    stor_waits_moved(builds->storage->waits);
    return NULL;
}

/* ---- begin ---- */

int stor_builds_begin(stor_builds_t *builds, uint64_t collection_id, stor_index_t *const *indexes,
                      uint32_t count, stor_build_t **ret_build, vd_error_t *err)
{
    VD_ASSERT(count > 0 && count <= STOR_INDEXES_MAX);
    ended_join(builds);
    stor_build_t *build = vd_xalloc(sizeof *build);
    build->builds = builds;
    build->id = indexes[0]->log->build;
    build->collection_id = collection_id;
    build->building = indexes[0]->log->building;
    build->arena = vd_arena_create();
    for (uint32_t i = 0; i < count; i++)
        build->indexes[build->count++] = stor_index_reference(indexes[i]);
    build->references = ret_build == NULL ? 1 : 2;
    lock(builds);
    bool other = false; /* an earlier one of that id may still be on its way out */
    for (const stor_build_t *b = builds->first; b != NULL; b = b->next)
        other |= b->id == build->id;
    int rc = atomic_load(&builds->stop) ? VD_ERR_INTERRUPTED_AT_SHUTDOWN
             : other                    ? VD_ERR_AGAIN
             : vd_thread_start(&build->thread, build_run, build) == 0 ? VD_OK
                                                                      : VD_ERR_INTERNAL;
    if (rc == VD_OK) {
        (void)pthread_setname_np(build->thread, "index-build");
        build->joinable = true;
        build->next = builds->first;
        builds->first = build;
        if (ret_build != NULL)
            *ret_build = build;
    } else {
        build->references = 1;
        unreference(build);
    }
    unlock(builds);
    return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "a build of indexes can't begin now");
}

/* Those of one build, from item `at` of the set on. */
static uint32_t group(const stor_index_set_t *set, uint32_t at, stor_index_t **ret)
{
    uint32_t count = 0;
    for (uint32_t i = at; i < set->count; i++)
        if (atomic_load(&set->items[i]->state) == STOR_INDEX_BUILDING &&
            set->items[i]->log->build == set->items[at]->log->build)
            ret[count++] = set->items[i];
    return count;
}

static bool is_known(stor_builds_t *builds, uint64_t id)
{
    bool known = false;
    lock(builds);
    for (const stor_build_t *b = builds->first; b != NULL; b = b->next)
        known |= b->id == id;
    unlock(builds);
    return known;
}

void stor_builds_unattended(stor_builds_t *builds)
{
    atomic_store(&builds->unattended, true);
}

void stor_builds_resume(stor_builds_t *builds)
{
    uint64_t id = 0;
    ended_join(builds);
    if (!atomic_exchange(&builds->unattended, false))
        return;
    for (stor_collection_t *c; (c = stor_catalog_next(builds->storage->catalog, id)) != NULL;
         stor_catalog_unreference(&c)) {
        const stor_index_set_t *set = c->indexes;
        id = c->id;
        for (uint32_t i = 0; set != NULL && i < set->count; i++) {
            stor_index_t *indexes[STOR_INDEXES_MAX];
            const stor_index_t *index = set->items[i];
            vd_error_t err = VD_ERROR_INIT;
            if (atomic_load(&index->state) != STOR_INDEX_BUILDING ||
                is_known(builds, index->log->build))
                continue;
            uint32_t count = group(set, i, indexes);
            int rc = stor_builds_begin(builds, c->id, indexes, count, NULL, &err);
            if (rc != VD_OK)
                atomic_store(&builds->unattended, true);
            else
                vd_log(VD_LOG_INFO, "a build of indexes is begun anew",
                       "collection=%" PRIu64 " build=%" PRIu64 " indexes=%u", c->id,
                       index->log->build, count);
        }
    }
}

uint32_t stor_builds_count(stor_builds_t *builds)
{
    uint32_t count = 0;
    lock(builds);
    for (const stor_build_t *b = builds->first; b != NULL; b = b->next)
        count += !b->ended;
    unlock(builds);
    return count;
}

uint32_t stor_builds_ready(stor_builds_t *builds, uint64_t *ret_ids, uint32_t max)
{
    uint32_t count = 0;
    lock(builds);
    for (const stor_build_t *b = builds->first; b != NULL && count < max; b = b->next)
        if (b->ready)
            ret_ids[count++] = b->id;
    unlock(builds);
    return count;
}

/* ---- who waits ---- */

static void cancel(stor_build_t *build, int code)
{
    for (uint32_t i = 0; i < build->count; i++) {
        int none = 0;
        (void)atomic_compare_exchange_strong(&build->indexes[i]->log->cancelled, &none, code);
    }
}

/* Codes at which who waits goes, and the build does not. */
static bool goes_on(int rc)
{
    return rc == VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE || rc == VD_ERR_CLIENT_DISCONNECT ||
           rc == VD_ERR_INTERRUPTED_AT_SHUTDOWN || rc == VD_ERR_SHUTDOWN_IN_PROGRESS ||
           rc == VD_ERR_EXCEEDED_TIME_LIMIT;
}

static void error_copy(stor_request_t *request, const vd_error_t *from, vd_error_t *err)
{
    if (err == NULL)
        return;
    vd_error_copy(from, err);
    if (err->details.len > 0)
        err->details = vd_arena_copy_slice(request->arena, err->details);
}

bool stor_build_has_ended(const stor_build_t *build)
{
    return atomic_load(&build->ended);
}

/* On this thread: until it has ended, for a while. */
static void wait_here(stor_build_t *build)
{
    stor_builds_t *builds = build->builds;
    struct timespec until;
    until_ms(WAIT_MS, &until);
    lock(builds);
    if (!build->ended)
        (void)pthread_cond_timedwait(&builds->changed, &builds->lock, &until); /* it is looked at */
    unlock(builds);
}

/* Its end as `request` sees it, who was stopped for the reason `why`. */
static int outcome(stor_request_t *request, const stor_build_t *build, int why,
                   const vd_error_t *reason, vd_error_t *err)
{
    const vd_error_t *from = reason;
    int rc = why;
    if (build->ended && (build->rc == VD_OK || why == VD_OK)) {
        from = &build->err;
        rc = build->rc;
    }
    if (rc != VD_OK)
        error_copy(request, from, err);
    return rc;
}

int stor_builds_wait(stor_request_t *request, stor_build_t **build_p,
                     bool (*ready)(const stor_request_t *request), bool *ret_parked,
                     vd_error_t *err)
{
    stor_build_t *build = *build_p;
    stor_builds_t *builds = build->builds;
    vd_error_t reason = VD_ERROR_INIT;
    int why = VD_OK;
    *ret_parked = false;
    while (!build->ended) {
        if (why == VD_OK && ready != NULL)
            why = stor_request_wait(request, ready, ret_parked, &reason);
        if (*ret_parked)
            return VD_OK;
        request->checks = 0; /* each check looks at the clock */
        if (why == VD_OK)
            why = stor_request_check(request, &reason);
        if (goes_on(why) || (why != VD_OK && !leads(builds)))
            break; /* it is not ours to give up, or not any more */
        if (why != VD_OK)
            cancel(build, why);
        wait_here(build);
    }
    lock(builds);
    int rc = outcome(request, build, why, &reason, err);
    *build_p = NULL;
    unreference(build);
    unlock(builds);
    ended_join(builds);
    return rc;
}

void stor_build_leave(stor_build_t **build_p)
{
    stor_build_t *build = *build_p;
    if (build == NULL)
        return;
    stor_builds_t *builds = build->builds;
    *build_p = NULL;
    lock(builds);
    unreference(build);
    unlock(builds);
}

/* ---- a replica commits ---- */

int stor_builds_claim(stor_builds_t *builds, uint64_t id, stor_build_t **ret_build, vd_error_t *err)
{
    int rc = VD_ERR_NOT_FOUND;
    lock(builds);
    stor_build_t *build = builds->first;
    while (build != NULL && (build->id != id || build->ended))
        build = build->next;
    if (build != NULL && build->ready && build->phase == RESTING && build->wanted) {
        build->phase = CLAIMED;
        *ret_build = build;
        rc = VD_OK;
    } else if (build != NULL) {
        build->wanted = true;
        rc = VD_ERR_AGAIN;
    }
    wake(builds);
    unlock(builds);
    return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "the index is not built yet here");
}

int stor_builds_last(stor_build_t *build, stor_request_t *request, vd_error_t *err)
{
    stor_request_t *own = stor_index_build_lend(build->work, request);
    int rc = stor_index_build_last(build->work, err);
    (void)stor_index_build_lend(build->work, own);
    return rc;
}

void stor_builds_release(stor_build_t *build, bool committed)
{
    stor_builds_t *builds = build->builds;
    lock(builds);
    build->phase = committed ? COMMITTED : WORKING;
    wake(builds);
    unlock(builds);
}
