/* veddb-storaged/engine/flusher.c — see the header.
 *
 * Three ways to sleep: DEEP (nothing to do; a commit or a waiter wakes it), LINGER (something was
 * done lately: a timer looks for unflushed commits, so that commits under load need not wake
 * anybody; a waiter does), and not at all.
 *
 * "Clean" is exact: commits are counted before and after their commit call. When the two counts
 * agree at the start of a flush, and the first has not moved since, then everything that anybody
 * can have seen is on disk. */
#include "veddb-storaged/engine/flusher.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "veddb-storaged/engine/wt.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define LINGER_TICK_US 5000
#define LINGER_TICKS   40
#define CEILING_KEY    "ceiling"

enum { AWAKE, LINGER, DEEP };

struct stor_flusher {
    _Alignas(64) atomic_uint_fast64_t commits_begun;
    _Alignas(64) atomic_uint_fast64_t commits_ended;
    _Alignas(64) _Atomic(stor_flush_waiter_t *) parked; /* a stack: last parked first */
    _Alignas(64) atomic_uint_fast64_t durable;
    atomic_uint_fast64_t
        clean_at; /* everything is on disk while commits_begun is still this; UINT64_MAX = never */
    atomic_int sleep;
    atomic_bool stopping, hurry, renew;
    atomic_bool hooked;        /* flushed is set: looked at before hook_lock is taken */
    pthread_mutex_t hook_lock; /* for the two below */
    void (*flushed)(uint64_t durable, void *context);
    void *flushed_context;
    stor_flusher_options_t options;
    pthread_t thread;
    pthread_mutex_t lock; /* with wake */
    pthread_cond_t wake;
    WT_SESSION *session;
    WT_CURSOR *ceiling_cursor;
    uint64_t start_id, begun; /* flushes begun */
    bool proven;  /* the last flush found nothing new: its marker vouches for all before */
    bool vouched; /* a marker behind the last flush was handed to the kernel: the same against kills
                   */
    uint64_t flushed_ended; /* commits_ended when the last flush began */
    atomic_uint_fast64_t flushes, flushed_commits, flush_us_sum, flush_us_max;
};

void stor_flusher_commit_begin(stor_flusher_t *flusher)
{
    atomic_fetch_add(&flusher->commits_begun, 1);
}

void stor_flusher_commit_end(stor_flusher_t *flusher)
{
    atomic_fetch_add(&flusher->commits_ended, 1);
    if (VD_UNLIKELY(atomic_load(&flusher->sleep) == DEEP))
        stor_flusher_wake(flusher);
}

void stor_flusher_wake(void *context)
{
    stor_flusher_t *flusher = context;
    pthread_mutex_lock(&flusher->lock);
    pthread_cond_signal(&flusher->wake);
    pthread_mutex_unlock(&flusher->lock);
}

void stor_flusher_hurry(stor_flusher_t *flusher)
{
    atomic_store(&flusher->hurry, true);
    if (atomic_load(&flusher->sleep) != AWAKE)
        stor_flusher_wake(flusher);
}

void stor_flusher_ceiling_renew(stor_flusher_t *flusher)
{
    atomic_store(&flusher->renew, true);
    stor_flusher_hurry(flusher);
}

void stor_flusher_hook(stor_flusher_t *flusher, void (*flushed)(uint64_t durable, void *context),
                       void *context)
{
    pthread_mutex_lock(&flusher->hook_lock);
    flusher->flushed = flushed;
    flusher->flushed_context = context;
    atomic_store(&flusher->hooked, flushed != NULL);
    pthread_mutex_unlock(&flusher->hook_lock);
}

void stor_flusher_position_set(stor_flusher_t *flusher, uint64_t position)
{
    /* A flush that is under way may have sampled the old point: the one after it has not. */
    uint64_t enough = atomic_load(&flusher->flushes) + 2;
    while (atomic_load(&flusher->flushes) < enough) {
        struct timespec pause = {.tv_nsec = 100000};
        stor_flusher_hurry(flusher);
        (void)nanosleep(&pause, NULL); /* waking early is fine */
    }
    VD_ASSERT(atomic_load(&flusher->durable) <= position);
}

bool stor_flusher_wait(stor_flusher_t *flusher, uint64_t timestamp, stor_flush_waiter_t *waiter)
{
    if (timestamp <= atomic_load(&flusher->durable))
        return true;
    if (atomic_load(&flusher->commits_begun) == atomic_load(&flusher->clean_at))
        return true;
    stor_flush_waiter_t *head = atomic_load(&flusher->parked);
    do
        waiter->next = head;
    while (!atomic_compare_exchange_weak(&flusher->parked, &head, waiter));
    if (atomic_load(&flusher->sleep) != AWAKE)
        stor_flusher_wake(flusher);
    return false;
}

uint64_t stor_flusher_durable(const stor_flusher_t *flusher)
{
    return atomic_load(&flusher->durable);
}

int stor_flusher_ceiling_read(WT_CONNECTION *conn, uint64_t *ret_ceiling, vd_error_t *err)
{
    WT_SESSION *session = NULL;
    WT_CURSOR *cursor = NULL;
    WT_ITEM key = {.data = CEILING_KEY, .size = sizeof CEILING_KEY - 1}, value = {0};
    int ret = conn->open_session(conn, NULL, NULL, &session);
    if (ret == 0)
        ret = session->open_cursor(session, STOR_OWN_TABLE_URI, NULL, NULL, &cursor);
    if (ret == 0) {
        cursor->set_key(cursor, &key);
        ret = cursor->search(cursor);
    }
    if (ret == 0)
        ret = cursor->get_value(cursor, &value);
    uint64_t ceiling = ret == 0 && value.size == 8 ? vd_get_u64(value.data) : 0;
    if (session != NULL)
        (void)session->close(session, NULL); /* a reader's session has nothing to lose */
    if (ret == 0 && ceiling == 0)
        return vd_error_set(err, VD_ERR_CORRUPT, "the stored timestamp ceiling is malformed");
    if (ret != 0)
        return stor_wt_error(ret, err, "reading the timestamp ceiling");
    *ret_ceiling = ceiling;
    return VD_OK;
}

static int ceiling_write(stor_flusher_t *flusher, uint64_t ceiling, vd_error_t *err)
{
    uint8_t bytes[8];
    vd_put_u64(bytes, ceiling);
    WT_ITEM key = {.data = CEILING_KEY, .size = sizeof CEILING_KEY - 1};
    WT_ITEM value = {.data = bytes, .size = sizeof bytes};
    WT_CURSOR *cursor = flusher->ceiling_cursor;
    cursor->set_key(cursor, &key);
    cursor->set_value(cursor, &value);
    int ret = cursor->insert(cursor);
    if (ret == 0)
        ret = cursor->reset(cursor);
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, "writing the timestamp ceiling");
}

static int marker_write(stor_flusher_t *flusher, uint64_t number, vd_error_t *err)
{
    int ret = flusher->session->log_printf(flusher->session,
                                           STOR_MARKER_PREFIX "%012" PRIx64 " %016" PRIx64,
                                           flusher->start_id, number);
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, "writing a flush marker");
}

/* The next flush's marker, already behind the last one: written to the kernel, not to the disk. So
 * a killed process leaves the proof that the last flush had ended. The number comes again with the
 * next flush; both say no more than is true. */
static int vouch(stor_flusher_t *flusher, vd_error_t *err)
{
    int rc = marker_write(flusher, 2 * flusher->begun - 1, err);
    if (rc != VD_OK)
        return rc;
    int ret = flusher->session->log_flush(flusher->session, "sync=off");
    flusher->vouched = true;
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, "writing the log");
}

static stor_flush_waiter_t *reversed(stor_flush_waiter_t *list)
{
    stor_flush_waiter_t *out = NULL;
    while (list != NULL) {
        stor_flush_waiter_t *next = list->next;
        list->next = out;
        out = list;
        list = next;
    }
    return out;
}

/* Marker, ceiling when due (or the one given), sync; then the watermarks. Nothing is published when
 * it fails. */
static int flush(stor_flusher_t *flusher, uint64_t ceiling, vd_error_t *err)
{
    uint64_t start_us = vd_monotonic_us();
    /* ended is read first: equal counts then mean that no commit was under way when begun was read.
     */
    uint64_t ended = atomic_load(&flusher->commits_ended);
    uint64_t begun = atomic_load(&flusher->commits_begun);
    uint64_t visible = stor_sequencer_visible(flusher->options.sequencer);
    bool renew = atomic_exchange(&flusher->renew, false);
    if (ceiling == 0)
        ceiling = stor_sequencer_ceiling_due(flusher->options.sequencer);
    if (ceiling == 0 && renew)
        ceiling = atomic_load(&flusher->options.sequencer->ceiling);
    int rc = marker_write(flusher, 2 * flusher->begun++, err);
    if (rc == VD_OK && ceiling != 0)
        rc = ceiling_write(flusher, ceiling, err);
    if (rc == VD_OK)
        rc = VD_FAULT("flusher.before_sync", err);
    if (rc != VD_OK)
        return rc;
    int ret = flusher->session->log_flush(flusher->session, "sync=on");
    if (ret != 0)
        return stor_wt_error(ret, err, "flushing the log");
    rc = stor_guard_log_flushed(flusher->options.guard, err);
    if (rc == VD_OK)
        rc = VD_FAULT("flusher.after_sync", err);
    if (rc != VD_OK)
        return rc;
    atomic_store(&flusher->durable, visible);
    atomic_store(&flusher->clean_at, ended == begun ? begun : UINT64_MAX);
    if (ceiling != 0)
        stor_sequencer_raise(flusher->options.sequencer, ceiling);
    uint64_t took_us = vd_monotonic_us() - start_us;
    atomic_fetch_add(&flusher->flushes, 1);
    atomic_fetch_add(&flusher->flushed_commits, ended - flusher->flushed_ended);
    atomic_fetch_add(&flusher->flush_us_sum, took_us);
    if (took_us > atomic_load(&flusher->flush_us_max))
        atomic_store(&flusher->flush_us_max, took_us);
    flusher->flushed_ended = ended;
    return VD_OK;
}

static bool dirty(const stor_flusher_t *flusher)
{
    return atomic_load(&flusher->commits_begun) != atomic_load(&flusher->clean_at);
}

static bool urgent(const stor_flusher_t *flusher)
{
    return atomic_load(&flusher->parked) != NULL || atomic_load(&flusher->stopping) ||
           atomic_load(&flusher->hurry) || atomic_load(&flusher->options.sequencer->wanted);
}

static void wait_tick(stor_flusher_t *flusher)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until); /* can't fail for this clock */
    until.tv_nsec += LINGER_TICK_US * 1000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    (void)pthread_cond_timedwait(&flusher->wake, &flusher->lock,
                                 &until); /* both results mean: look */
}

/* Returns when a flush is due: somebody waits for it, or commits have been unflushed for a tick.
 * Before the deep sleep comes one more flush: its marker is the proof that the one before had
 * ended, without which damage to the last records would pass for a torn tail. */
static void sleep_until_due(stor_flusher_t *flusher)
{
    if (urgent(flusher))
        return;
    pthread_mutex_lock(&flusher->lock);
    for (int tick = 0; !urgent(flusher);) {
        if (dirty(flusher) || tick < LINGER_TICKS) {
            atomic_store(&flusher->sleep, LINGER);
            if (urgent(flusher))
                break;
            bool was_dirty = dirty(flusher);
            wait_tick(flusher);
            if (was_dirty)
                break;
            tick++;
            continue;
        }
        if (!flusher->proven)
            break;
        atomic_store(&flusher->sleep, DEEP);
        if (!urgent(flusher) && !dirty(flusher))
            (void)pthread_cond_wait(&flusher->wake, &flusher->lock); /* the loop looks again */
    }
    atomic_store(&flusher->sleep, AWAKE);
    pthread_mutex_unlock(&flusher->lock);
}

static void release(stor_flusher_t *flusher, stor_flush_waiter_t *list)
{
    if (list != NULL && flusher->options.released != NULL)
        flusher->options.released(list, flusher->options.released_context);
}

static void hook_call(stor_flusher_t *flusher)
{
    if (VD_LIKELY(!atomic_load_explicit(&flusher->hooked, memory_order_relaxed)))
        return;
    pthread_mutex_lock(&flusher->hook_lock);
    if (flusher->flushed != NULL)
        flusher->flushed(atomic_load(&flusher->durable), flusher->flushed_context);
    pthread_mutex_unlock(&flusher->hook_lock);
}

static _Noreturn void give_up(stor_flusher_t *flusher, const vd_error_t *err)
{
    char quoted[VD_ERROR_MESSAGE_SIZE + 64];
    vd_log(VD_LOG_FATAL, "the log can't be made durable", "reason=%s",
           vd_log_quote(vd_slice_str(err->message), quoted, sizeof quoted));
    if (flusher->options.failed != NULL)
        flusher->options.failed(err, flusher->options.released_context);
    /* Nothing more may be acknowledged, and what is in memory may not become visible to anybody as
     * durable. */
    _exit(STOR_EXIT_PANIC);
}

static void *flusher_run(void *arg)
{
    stor_flusher_t *flusher = arg;
    vd_error_t err = VD_ERROR_INIT;
    for (;;) {
        if (!flusher->vouched && !urgent(flusher) && vouch(flusher, &err) != VD_OK)
            give_up(flusher, &err);
        sleep_until_due(flusher);
        bool stopping = atomic_load(&flusher->stopping);
        bool hurry = atomic_exchange(&flusher->hurry, false);
        stor_flush_waiter_t *list = reversed(atomic_exchange(&flusher->parked, NULL));
        bool wanted = atomic_load(&flusher->options.sequencer->wanted);
        bool clean = !dirty(flusher);
        if (clean && list != NULL && !wanted && !stopping && !hurry) {
            release(flusher, list); /* parked in the instant before the last flush was published */
            continue;
        }
        uint64_t ceiling = stopping ? stor_sequencer_last(flusher->options.sequencer) : 0;
        if (flush(flusher, ceiling, &err) != VD_OK)
            give_up(flusher, &err);
        flusher->proven = clean;
        flusher->vouched = clean;
        release(flusher, list);
        hook_call(flusher);
        if (stopping && atomic_load(&flusher->parked) == NULL)
            return NULL;
    }
}

static int flusher_prepare(stor_flusher_t *flusher, vd_error_t *err)
{
    WT_CONNECTION *conn = flusher->options.conn;
    int ret = conn->open_session(conn, NULL, "isolation=snapshot", &flusher->session);
    if (ret == 0)
        ret = flusher->session->open_cursor(flusher->session, STOR_OWN_TABLE_URI, NULL, NULL,
                                            &flusher->ceiling_cursor);
    if (ret != 0)
        return stor_wt_error(ret, err, "opening the flusher's session");
    return flush(flusher, 0, err);
}

static void flusher_free(stor_flusher_t *flusher)
{
    if (flusher->session != NULL)
        (void)flusher->session->close(flusher->session, NULL); /* nothing unwritten in it */
    (void)pthread_mutex_destroy(&flusher->lock);
    (void)pthread_mutex_destroy(&flusher->hook_lock);
    (void)pthread_cond_destroy(&flusher->wake);
    free(flusher);
}

int stor_flusher_start(const stor_flusher_options_t *options, stor_flusher_t **ret_flusher,
                       vd_error_t *err)
{
    void *memory = NULL;
    VD_ASSERT(posix_memalign(&memory, 64, sizeof(stor_flusher_t)) == 0);
    memset(memory, 0, sizeof(stor_flusher_t));
    stor_flusher_t *flusher = memory;
    flusher->options = *options;
    atomic_init(&flusher->clean_at, UINT64_MAX);
    vd_rand_secret(&flusher->start_id, 6);
    VD_ASSERT(pthread_mutex_init(&flusher->lock, NULL) == 0);
    VD_ASSERT(pthread_mutex_init(&flusher->hook_lock, NULL) == 0);
    pthread_condattr_t attr;
    VD_ASSERT(pthread_condattr_init(&attr) == 0);
    VD_ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    VD_ASSERT(pthread_cond_init(&flusher->wake, &attr) == 0);
    (void)pthread_condattr_destroy(&attr);
    options->sequencer->want = stor_flusher_wake;
    options->sequencer->want_context = flusher;
    int rc = flusher_prepare(flusher, err);
    if (rc == VD_OK && pthread_create(&flusher->thread, NULL, flusher_run, flusher) != 0)
        rc = vd_error_set(err, VD_ERR_NO_MEMORY, "the flusher thread can't be started");
    if (rc != VD_OK) {
        flusher_free(flusher);
        return rc;
    }
    *ret_flusher = flusher;
    return VD_OK;
}

void stor_flusher_stop(stor_flusher_t **flusher_p)
{
    stor_flusher_t *flusher = *flusher_p;
    if (flusher == NULL)
        return;
    atomic_store(&flusher->stopping, true);
    stor_flusher_wake(flusher);
    VD_ASSERT(pthread_join(flusher->thread, NULL) == 0);
    flusher_free(flusher);
    *flusher_p = NULL;
}

uint64_t stor_flusher_flushes(const stor_flusher_t *flusher)
{
    return atomic_load(&flusher->flushes);
}

void stor_flusher_stats(const stor_flusher_t *flusher, stor_engine_stats_t *stats)
{
    stats->flushes = atomic_load(&flusher->flushes);
    stats->flushed_commits = atomic_load(&flusher->flushed_commits);
    stats->flush_us_sum = atomic_load(&flusher->flush_us_sum);
    stats->flush_us_max = atomic_load(&flusher->flush_us_max);
}
