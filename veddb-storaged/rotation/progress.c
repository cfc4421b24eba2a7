/* veddb-storaged/rotation/progress.c — how the worker waits and what it tells (rotation_private.h).
 */
#include "libcommon/base/clock.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/rotation/rotation_private.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define REST_EACH_US   10000000
#define REST_US        (3 * STOR_ROTATION_WINDOW_MS * 1000) /* holds a whole window */
#define SPACE_LOOK_US  1000000
#define RATE_WINDOW_US 1000000

/* ---- what is told ---- */

void stor_rotation_note(stor_rotation_t *rotation, const char *format, ...)
{
    va_list list;
    char note[sizeof rotation->text.note];
    va_start(list, format);
    (void)vsnprintf(note, sizeof note, format, list);
    va_end(list);
    pthread_mutex_lock(&rotation->lock);
    bool changed = strcmp(note, rotation->text.note) != 0;
    if (changed)
        memcpy(rotation->text.note, note, sizeof note);
    pthread_mutex_unlock(&rotation->lock);
    if (changed)
        atomic_fetch_add(&rotation->changes, 1);
}

bool stor_rotation_is_interrupted(const stor_rotation_t *rotation)
{
    return atomic_load(&rotation->stop) ||
           atomic_load(&rotation->serial) != rotation->working_serial;
}

int stor_rotation_interrupted(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_INTERRUPTED, "another order came");
}

/* False: interrupted. */
static bool sleep_us(stor_rotation_t *rotation, uint64_t us, bool yielding)
{
    uint64_t until = vd_monotonic_us() + us, limits = atomic_load(&rotation->limits);
    for (uint64_t now = vd_monotonic_us(); now < until; now = vd_monotonic_us()) {
        if (stor_rotation_is_interrupted(rotation))
            return false;
        if (yielding && (stor_rewrite_is_wanted(rotation->storage->engine) ||
                         !stor_freeze_is_open(&rotation->storage->freeze) ||
                         atomic_load(&rotation->limits) != limits))
            return true;
        uint64_t nap = until - now < STOR_ROTATION_NAP_US ? until - now : STOR_ROTATION_NAP_US;
        struct timespec pause = {.tv_nsec = (long)nap * 1000};
        (void)nanosleep(&pause, NULL); /* waking early is fine */
    }
    return !stor_rotation_is_interrupted(rotation);
}

/* ---- a freeze of the files ---- */

void stor_rotation_writing_end(stor_rotation_t *rotation)
{
    if (rotation->writes)
        stor_freeze_leave(rotation->storage);
    rotation->writes = false;
}

/* Nothing moves. */
static void rate_stop(stor_rotation_t *rotation)
{
    pthread_mutex_lock(&rotation->lock);
    rotation->report.rate = 0;
    pthread_mutex_unlock(&rotation->lock);
}

int stor_rotation_writing_begin(stor_rotation_t *rotation, vd_error_t *err)
{
    bool waited = false;
    while (!rotation->writes) {
        rotation->writes = stor_freeze_enter(rotation->storage);
        if (rotation->writes)
            break;
        waited = true;
        rate_stop(rotation);
        stor_rotation_note(rotation, "%s", "waits for fsyncUnlock: the files are frozen");
        if (!sleep_us(rotation, STOR_ROTATION_NAP_US, false))
            return stor_rotation_interrupted(err);
    }
    if (waited)
        stor_rotation_note(rotation, "%s", "");
    return VD_OK;
}

int stor_rotation_wait(stor_rotation_t *rotation, uint64_t ms, vd_error_t *err)
{
    stor_rotation_writing_end(rotation);
    rate_stop(rotation);
    return sleep_us(rotation, ms * 1000, false) ? stor_rotation_writing_begin(rotation, err)
                                                : stor_rotation_interrupted(err);
}

/* ---- the pace: called by the walk ---- */

bool stor_rotation_space_is_short(stor_rotation_t *rotation)
{
    stor_engine_stats_t stats;
    stor_engine_stats(rotation->storage->engine, &stats);
    return stats.reserve_reached ||
           stats.free_bytes < stats.reserve_bytes + stats.reserve_bytes / 4;
}

void stor_rotation_progress(stor_rotation_t *rotation, uint64_t walked, uint64_t old,
                            uint64_t now_us)
{
    vdp_rotation_report_t *report = &rotation->report;
    const stor_rewrite_counts_t *counts = rotation->counts;
    report->blocks_rewritten += counts->rewritten - rotation->rewritten_told;
    rotation->rewritten_told = counts->rewritten;
    if (!rotation->walked_all && rotation->of_documents)
        rotation->walked_documents += counts->records - rotation->records_told;
    rotation->records_told = counts->records;
    if (!rotation->walked_all && report->step == VDP_ROTATION_REENCRYPT)
        rotation->walked_bytes += walked;
    /* A pass that was broken off begins anew, and comes by what is done. */
    if (rotation->walked_documents > report->documents_done)
        report->documents_done = rotation->walked_documents;
    if (rotation->walked_bytes > report->bytes_done)
        report->bytes_done = rotation->walked_bytes;
    if (report->bytes_done > report->bytes_total)
        report->bytes_done = report->bytes_total;
    rotation->rate_bytes += report->step == VDP_ROTATION_REENCRYPT ? old : walked;
    if (rotation->rate_us == 0)
        rotation->rate_us = now_us;
    if (now_us - rotation->rate_us >= RATE_WINDOW_US) {
        report->rate = rotation->rate_bytes * 1000000 / (now_us - rotation->rate_us);
        rotation->rate_bytes = 0;
        rotation->rate_us = now_us;
    }
}

static void gives_way_note(stor_rotation_t *rotation, bool gives_way, uint64_t p99_us,
                           uint64_t baseline_us)
{
    if (gives_way)
        stor_rotation_note(rotation,
                           "gives way to requests: their 99th percentile is %" PRIu64
                           " us, without it %" PRIu64 " us",
                           p99_us, baseline_us);
    else if (rotation->gives_way)
        stor_rotation_note(rotation, "%s", "");
    rotation->gives_way = gives_way;
}

int stor_rotation_pace(uint64_t walked, uint64_t old, void *context, vd_error_t *err)
{
    stor_rotation_t *rotation = context;
    uint64_t now_us = vd_monotonic_us();
    if (stor_rotation_is_interrupted(rotation))
        return stor_rotation_interrupted(err);
    pthread_mutex_lock(&rotation->lock);
    stor_rotation_progress(rotation, walked, old, now_us);
    const bool gives_way = rotation->pace.share > 0 && rotation->pace.window_us > 0;
    const uint64_t p99_us = rotation->pace.window_us, baseline_us = rotation->pace.baseline_us;
    bool rests = rotation->pace.rise_max > 0 && now_us - rotation->rested_us > REST_EACH_US;
    uint64_t sleep = stor_pace_step(&rotation->pace, now_us, old);
    pthread_mutex_unlock(&rotation->lock);
    gives_way_note(rotation, gives_way, p99_us, baseline_us);
    if (rests) { /* to see what the foreground is like without us */
        rotation->rested_us = now_us;
        atomic_store(&rotation->resting, true);
        sleep = sleep < REST_US ? REST_US : sleep;
    }
    bool go_on = sleep == 0 || sleep_us(rotation, sleep, true);
    atomic_store(&rotation->resting, false);
    pthread_mutex_lock(&rotation->lock);
    stor_pace_slept(&rotation->pace, vd_monotonic_us());
    pthread_mutex_unlock(&rotation->lock);
    if (!go_on)
        return stor_rotation_interrupted(err);
    if (!stor_freeze_is_open(&rotation->storage->freeze))
        return vd_error_set(err, VD_ERR_LOCK_TIMEOUT, "the files are frozen");
    if (now_us - rotation->space_us > SPACE_LOOK_US) {
        rotation->space_us = now_us;
        if (stor_rotation_space_is_short(rotation))
            return vd_error_set(err, VD_ERR_OUT_OF_DISK_SPACE, "free space is short");
    }
    return VD_OK;
}

void stor_rotation_current(stor_rotation_t *rotation, const char *table)
{
    char current[sizeof rotation->text.current];
    (void)snprintf(current, sizeof current, "%s", table);
    if (table[0] == 'c' && table[1] == '-' && rotation->storage->catalog != NULL) {
        stor_collection_t *collection =
            stor_catalog_reference(rotation->storage->catalog, strtoull(table + 2, NULL, 10));
        if (collection != NULL) {
            (void)snprintf(current, sizeof current, "%s", collection->ns);
            stor_catalog_unreference(&collection);
        }
    }
    pthread_mutex_lock(&rotation->lock);
    memcpy(rotation->text.current, current, sizeof current);
    pthread_mutex_unlock(&rotation->lock);
}

void stor_rotation_left(stor_rotation_t *rotation)
{
    pthread_mutex_lock(&rotation->lock);
    memcpy(rotation->left, rotation->counts->by_key, sizeof rotation->left);
    rotation->left_known = true;
    pthread_mutex_unlock(&rotation->lock);
    atomic_fetch_add(&rotation->changes, 1);
}
