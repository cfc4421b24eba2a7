/* veddb-storaged/rotation/rotation.c — see rotation.h. */
#include "veddb-storaged/rotation/rotation.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/catalog/rows.h"
#include "veddb-storaged/engine/checkpoint.h"
#include "veddb-storaged/engine/rewrite.h"
#include "veddb-storaged/exec/spill.h"
#include "veddb-storaged/rotation/flip.h"
#include "veddb-storaged/rotation/latency.h"
#include "veddb-storaged/rotation/pace.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define RETRY_MS        500   /* for what passes by itself */
#define NAP_US          10000 /* sleeps are cut so short, so that an order is heard */
#define LOG_TRIES       50    /* of LOG_WAIT_MS, then the log is filled up again */
#define LOG_WAIT_MS     100
#define VERIFY_TRIES    60 /* of RETRY_MS, for tables that somebody has alone */
#define REST_EACH_US    10000000
#define REST_US         (3 * STOR_ROTATION_WINDOW_MS * 1000) /* holds a whole window */
#define SPACE_LOOK_US   1000000
#define RATE_WINDOW_US  1000000
#define BLOCK_BYTES     (24 * 1024) /* of an estimate before the first pass has counted */
#define CHECKPOINTS_MAX 64
#define TABLES_FIRST    256

/* Of named checkpoints. */
typedef struct {
    char names[CHECKPOINTS_MAX][64];
    uint32_t count;
    bool more; /* than have room: not all are known */
} names_t;

struct stor_rotation {
    stor_storage_t *storage;
    stor_rotation_options_t options;
    pthread_t thread;
    bool started;
    stor_rewrite_t *rewrite;       /* the worker's */
    stor_rewrite_counts_t *counts; /* of the pass under way: the worker's */
    char **tables;
    size_t table_count, table_room;
    uint64_t rewritten_told, records_told;             /* of counts: the worker's */
    bool of_documents;                                 /* the table that is walked: the worker's */
    uint64_t rested_us, space_us, rate_us, rate_bytes; /* the worker's */
    bool gives_way;                                    /* told: the worker's */
    bool walked_all; /* a pass came to its end: progress is whole; the worker's */
    uint64_t walked_bytes, walked_documents; /* by the pass under way: the worker's */
    bool writes;                             /* counted as a writer (freeze.h): the worker's */
    names_t named;                           /* checkpoints that may need old keys: the worker's */
    uint64_t named_generation;               /* of keys, of which `named` speaks; 0: of none */
    uint64_t aside_generation;               /* of keys, of which `aside` speaks */
    bool aside;                           /* old versions stood aside when the key became active */
    atomic_uint_fast64_t serial;          /* of the order: grows when what is done must end */
    atomic_uint_fast64_t changes, limits; /* limits: grows when other ones are told */
    atomic_bool resting, working, stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under the lock */
    vdp_rotation_order_t order;
    stor_pace_t pace;
    vdp_rotation_report_t report;
    stor_rotation_text_t text;
    uint64_t left[STOR_KEYS_MAX]; /* by place in stor_keys_list */
    bool left_known, finished;    /* finished: the order is done, or has failed */
    uint64_t working_serial;
    bool window_rested;
    bool ordered; /* since the start */
    bool backing_up;
    uint32_t backup_proven; /* of the backup: what was proven when it began */
    /* No block needs a key up to that version that is not active: so a proof of this start, or
     * rotated, has found, and it stays so. */
    uint32_t proven;
};

/* ---- what is told ---- */

static void note_put(stor_rotation_t *rotation, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void note_put(stor_rotation_t *rotation, const char *format, ...)
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

static bool is_interrupted(const stor_rotation_t *rotation)
{
    return atomic_load(&rotation->stop) ||
           atomic_load(&rotation->serial) != rotation->working_serial;
}

static int interrupted(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_INTERRUPTED, "another order came");
}

/* False: interrupted. */
static bool sleep_us(stor_rotation_t *rotation, uint64_t us, bool yielding)
{
    uint64_t until = vd_monotonic_us() + us, limits = atomic_load(&rotation->limits);
    for (uint64_t now = vd_monotonic_us(); now < until; now = vd_monotonic_us()) {
        if (is_interrupted(rotation))
            return false;
        if (yielding && (stor_rewrite_is_wanted(rotation->storage->engine) ||
                         !stor_freeze_is_open(&rotation->storage->freeze) ||
                         atomic_load(&rotation->limits) != limits))
            return true;
        uint64_t nap = until - now < NAP_US ? until - now : NAP_US;
        struct timespec pause = {.tv_nsec = (long)nap * 1000};
        (void)nanosleep(&pause, NULL); /* waking early is fine */
    }
    return !is_interrupted(rotation);
}

/* ---- a freeze of the files (freeze.h): the worker is a writer, but while it sleeps ---- */

static void writing_end(stor_rotation_t *rotation)
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

/* Waits for the end of a freeze. */
static int writing_begin(stor_rotation_t *rotation, vd_error_t *err)
{
    bool waited = false;
    while (!rotation->writes) {
        rotation->writes = stor_freeze_enter(rotation->storage);
        if (rotation->writes)
            break;
        waited = true;
        rate_stop(rotation);
        note_put(rotation, "%s", "waits for fsyncUnlock: the files are frozen");
        if (!sleep_us(rotation, NAP_US, false))
            return interrupted(err);
    }
    if (waited)
        note_put(rotation, "%s", "");
    return VD_OK;
}

static int wait_a_little(stor_rotation_t *rotation, uint64_t ms, vd_error_t *err)
{
    writing_end(rotation);
    rate_stop(rotation);
    return sleep_us(rotation, ms * 1000, false) ? writing_begin(rotation, err) : interrupted(err);
}

/* ---- the pace: called by the walk ---- */

static bool space_is_short(stor_rotation_t *rotation)
{
    stor_engine_stats_t stats;
    stor_engine_stats(rotation->storage->engine, &stats);
    return stats.reserve_reached ||
           stats.free_bytes < stats.reserve_bytes + stats.reserve_bytes / 4;
}

static void progress_add(stor_rotation_t *rotation, uint64_t walked, uint64_t old, uint64_t now_us)
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
        note_put(rotation,
                 "gives way to requests: their 99th percentile is %" PRIu64
                 " us, without it %" PRIu64 " us",
                 p99_us, baseline_us);
    else if (rotation->gives_way)
        note_put(rotation, "%s", "");
    rotation->gives_way = gives_way;
}

static int walk_pace(uint64_t walked, uint64_t old, void *context, vd_error_t *err)
{
    stor_rotation_t *rotation = context;
    uint64_t now_us = vd_monotonic_us();
    if (is_interrupted(rotation))
        return interrupted(err);
    pthread_mutex_lock(&rotation->lock);
    progress_add(rotation, walked, old, now_us);
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
        return interrupted(err);
    if (!stor_freeze_is_open(&rotation->storage->freeze))
        return vd_error_set(err, VD_ERR_LOCK_TIMEOUT, "the files are frozen");
    if (now_us - rotation->space_us > SPACE_LOOK_US) {
        rotation->space_us = now_us;
        if (space_is_short(rotation))
            return vd_error_set(err, VD_ERR_OUT_OF_DISK_SPACE, "free space is short");
    }
    return VD_OK;
}

/* ---- passes ---- */

static int table_add(const char *table, void *context)
{
    stor_rotation_t *rotation = context;
    if (rotation->table_count == rotation->table_room) {
        rotation->table_room = rotation->table_room == 0 ? TABLES_FIRST : 2 * rotation->table_room;
        rotation->tables =
            vd_xrealloc(rotation->tables, rotation->table_room * sizeof *rotation->tables);
    }
    rotation->tables[rotation->table_count++] = vd_xstrdup(table);
    return VD_OK;
}

static void tables_free(stor_rotation_t *rotation)
{
    for (size_t i = 0; i < rotation->table_count; i++)
        vd_free(rotation->tables[i]);
    rotation->table_count = 0;
}

static int tables_list(stor_rotation_t *rotation, vd_error_t *err)
{
    tables_free(rotation);
    return stor_engine_tables(rotation->storage->engine, table_add, rotation, err);
}

static void current_put(stor_rotation_t *rotation, const char *table)
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

static uint64_t bytes_sum(stor_rotation_t *rotation)
{
    uint64_t sum = 0, file_bytes, free_bytes;
    for (size_t i = 0; i < rotation->table_count; i++)
        if (stor_engine_table_size(rotation->storage->engine, rotation->tables[i], &file_bytes,
                                   &free_bytes, NULL) == VD_OK)
            sum += file_bytes > free_bytes ? file_bytes - free_bytes : 0;
    return sum;
}

static int table_pass(stor_rotation_t *rotation, const char *table, bool write, vd_error_t *err)
{
    rotation->records_told = rotation->counts->records;
    rotation->rewritten_told = rotation->counts->rewritten;
    rotation->of_documents = table[0] == 'c' && table[1] == '-';
    current_put(rotation, table);
    int rc = stor_rewrite_table(rotation->rewrite, table, write, rotation->counts, err);
    pthread_mutex_lock(&rotation->lock);
    progress_add(rotation, 0, 0, vd_monotonic_us());
    pthread_mutex_unlock(&rotation->lock);
    return rc;
}

static void counts_clear(stor_rotation_t *rotation)
{
    memset(rotation->counts, 0, sizeof *rotation->counts);
    rotation->records_told = rotation->rewritten_told = 0;
    rotation->of_documents = false;
}

/* One over all tables and the engine's own. */
static int pass(stor_rotation_t *rotation, bool write, vd_error_t *err)
{
    counts_clear(rotation);
    int rc = stor_rewrite_checkpoint(rotation->rewrite, err);
    if (rc == VD_OK)
        rc = tables_list(rotation, err);
    for (size_t i = 0; rc == VD_OK && i < rotation->table_count; i++)
        rc = table_pass(rotation, rotation->tables[i], write, err);
    current_put(rotation, "");
    if (rc == VD_OK)
        rc = stor_rewrite_own(rotation->rewrite, rotation->counts, err);
    return rc == VD_OK ? VD_FAULT("rotation.pass_ended", err) : rc;
}

static void left_put(stor_rotation_t *rotation)
{
    pthread_mutex_lock(&rotation->lock);
    memcpy(rotation->left, rotation->counts->by_key, sizeof rotation->left);
    rotation->left_known = true;
    pthread_mutex_unlock(&rotation->lock);
    atomic_fetch_add(&rotation->changes, 1);
}

/* ---- named checkpoints: of copies that other members read ---- */

static int name_note(const char *name, void *context)
{
    names_t *names = context;
    if (names->count < CHECKPOINTS_MAX)
        (void)snprintf(names->names[names->count++], sizeof names->names[0], "%s", name);
    else
        names->more = true;
    return VD_OK;
}

static bool names_have(const names_t *names, const char *name)
{
    for (uint32_t i = 0; i < names->count; i++)
        if (strcmp(names->names[i], name) == 0)
            return true;
    return names->more;
}

/* Those that stand and may need an old key. Their blocks can't be counted: who reads a copy has its
 * pages in memory. So it is known by when they were made: one that came behind a pass over all that
 * found nothing has nothing, either. */
static int named_left(stor_rotation_t *rotation, names_t *ret_names, vd_error_t *err)
{
    names_t now = {.count = 0};
    bool known = rotation->named_generation == stor_keys_generation(rotation->storage->keys);
    int rc =
        stor_checkpoint_names(rotation->storage->engine, STOR_CATALOG_TABLE, name_note, &now, err);
    *ret_names = (names_t){.more = now.more};
    for (uint32_t i = 0; rc == VD_OK && i < now.count; i++)
        if (!known || names_have(&rotation->named, now.names[i]))
            (void)name_note(now.names[i], ret_names);
    return rc;
}

/* Behind a pass over all tables that has found no block of an old key. */
static int named_settle(stor_rotation_t *rotation, vd_error_t *err)
{
    names_t left;
    uint64_t generation = stor_keys_generation(rotation->storage->keys);
    int rc = named_left(rotation, &left, err);
    if (rc != VD_OK)
        return rc;
    rotation->named = left;
    rotation->named_generation = generation;
    return VD_OK;
}

/* ---- reencrypt ---- */

uint32_t stor_rotation_highest_key(const stor_storage_t *storage)
{
    stor_key_info_t *infos = vd_xalloc(STOR_KEYS_MAX * sizeof *infos);
    uint32_t highest = 0, count = stor_keys_list(storage->keys, infos);
    for (uint32_t i = 0; i < count; i++)
        highest = infos[i].version > highest ? infos[i].version : highest;
    vd_free(infos);
    return highest;
}

static bool key_is_active(stor_rotation_t *rotation, uint32_t version)
{
    stor_key_info_t *infos = vd_xalloc(STOR_KEYS_MAX * sizeof *infos);
    uint32_t count = stor_keys_list(rotation->storage->keys, infos);
    bool active = false;
    for (uint32_t i = 0; i < count; i++)
        active |= infos[i].version == version && infos[i].state == STOR_KEY_ACTIVE;
    vd_free(infos);
    return active;
}

/* Old versions that stand aside are in blocks of their time. When none did as the key became
 * active, those of today need no other. */
static void aside_look(stor_rotation_t *rotation)
{
    uint64_t generation = stor_keys_generation(rotation->storage->keys);
    if (rotation->aside_generation == generation)
        return;
    rotation->aside = stor_rewrite_aside(rotation->rewrite) > 0;
    rotation->aside_generation = generation;
}

static int key_have(stor_rotation_t *rotation, uint32_t version, vd_error_t *err)
{
    while (!key_is_active(rotation, version)) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = VD_FAULT("rotation.before_keys", err);
        if (rc != VD_OK)
            return rc;
        rc = rotation->options.keys_fetch(rotation->options.context, &step);
        if (rc == VD_OK && key_is_active(rotation, version))
            break;
        note_put(rotation, "the key holder has not handed out data key version %u: %s", version,
                 rc == VD_OK ? "another one is active" : step.message);
        rc = wait_a_little(rotation, RETRY_MS, err);
        if (rc != VD_OK)
            return rc;
    }
    note_put(rotation, "%s", "");
    aside_look(rotation);
    return VD_FAULT("rotation.after_keys", err);
}

/* Free space is short: what a checkpoint frees may be used again behind the next one. */
static int space_wait(stor_rotation_t *rotation, vd_error_t *err)
{
    note_put(rotation, "%s", "waits for free space on the disk");
    for (int rc = VD_OK; space_is_short(rotation);) {
        rc = stor_engine_checkpoint(rotation->storage->engine, err);
        if (rc == VD_OK)
            rc = wait_a_little(rotation, 2 * RETRY_MS, err);
        if (rc != VD_OK)
            return rc;
    }
    note_put(rotation, "%s", "");
    return VD_OK;
}

/* What ended a walk that begins anew when it is over. */
static bool passes_by(int rc)
{
    return rc == VD_ERR_OUT_OF_DISK_SPACE || rc == VD_ERR_LOCK_TIMEOUT;
}

static int passing_wait(stor_rotation_t *rotation, int rc, vd_error_t *err)
{
    if (rc == VD_ERR_OUT_OF_DISK_SPACE)
        return space_wait(rotation, err);
    writing_end(rotation);
    return writing_begin(rotation, err);
}

static int passes(stor_rotation_t *rotation, vd_error_t *err)
{
    for (;;) {
        vd_error_t step = VD_ERROR_INIT;
        pthread_mutex_lock(&rotation->lock);
        rotation->report.pass++;
        pthread_mutex_unlock(&rotation->lock);
        rotation->walked_bytes = rotation->walked_documents = 0;
        int rc = stor_rewrite_small(rotation->rewrite, &step);
        if (rc == VD_OK)
            rc = pass(rotation, true, &step);
        if (passes_by(rc)) {
            rc = passing_wait(rotation, rc, err);
            if (rc != VD_OK)
                return rc;
            continue;
        }
        if (rc != VD_OK) {
            if (err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
        rotation->walked_all = true;
        stor_rewrite_small_count(rotation->rewrite, rotation->counts);
        left_put(rotation);
        if (rotation->counts->old_blocks == 0 && !rotation->counts->busy)
            return named_settle(rotation, err);
        if (rotation->counts->busy) {
            note_put(rotation, "%s", "waits for tables that are being loaded, dropped or checked");
            rc = wait_a_little(rotation, RETRY_MS, err);
            if (rc != VD_OK)
                return rc;
        }
    }
}

/* ---- backups: files of one moment, which may have blocks of old keys ---- */

bool stor_rotation_backup_begin(stor_rotation_t *rotation, uint32_t *ret_proven)
{
    if (rotation == NULL)
        return true;
    pthread_mutex_lock(&rotation->lock);
    const vdp_rotation_order_t *order = &rotation->order;
    bool counts = order->step == VDP_ROTATION_VERIFY && !rotation->finished &&
                  rotation->proven < order->old_version;
    bool begins = rotation->ordered && !counts;
    if (begins) {
        rotation->backing_up = true;
        *ret_proven = rotation->backup_proven = rotation->proven;
    }
    pthread_mutex_unlock(&rotation->lock);
    return begins;
}

void stor_rotation_backup_end(stor_rotation_t *rotation)
{
    if (rotation == NULL)
        return;
    pthread_mutex_lock(&rotation->lock);
    rotation->backing_up = false;
    pthread_mutex_unlock(&rotation->lock);
}

/* One is being made that may have blocks of the keys that the order is about. */
static bool backup_holds(stor_rotation_t *rotation)
{
    pthread_mutex_lock(&rotation->lock);
    bool holds = rotation->backing_up && rotation->backup_proven < rotation->order.old_version;
    pthread_mutex_unlock(&rotation->lock);
    if (holds)
        note_put(rotation, "%s", "waits for the backup that is being made");
    return holds;
}

static void proven_put(stor_rotation_t *rotation, uint32_t old_version)
{
    pthread_mutex_lock(&rotation->lock);
    if (rotation->proven < old_version)
        rotation->proven = old_version;
    pthread_mutex_unlock(&rotation->lock);
}

/* ---- the log, and what else may be left ---- */

/* The log's files of before are removed by WiredTiger behind a checkpoint, in its own time. */
static int log_move(stor_rotation_t *rotation, vd_error_t *err)
{
    for (int tries = 0;; tries++) {
        counts_clear(rotation);
        int rc = stor_rewrite_log_count(rotation->rewrite, rotation->counts, err);
        if (rc != VD_OK)
            return rc;
        left_put(rotation);
        if (rotation->counts->old_blocks == 0)
            return VD_OK;
        vd_error_t step = VD_ERROR_INIT;
        if (backup_holds(rotation)) /* it holds the log's files, too */
            tries = -1;
        else if (tries % LOG_TRIES == 0)
            rc = stor_rewrite_log_renew(rotation->rewrite, &step);
        if (passes_by(rc)) {
            tries = -1; /* it is filled up again */
            rc = passing_wait(rotation, rc, err);
        } else if (rc != VD_OK && err != NULL) {
            vd_error_copy(&step, err);
        }
        if (rc == VD_OK)
            rc = wait_a_little(rotation, LOG_WAIT_MS, err);
        if (rc != VD_OK)
            return rc;
    }
}

/* True: something of before the key's change is there that may need the old one; note says what. */
static bool leftovers(stor_rotation_t *rotation)
{
    uint32_t bulks = stor_rewrite_old_bulks(rotation->rewrite);
    uint64_t runs = stor_spill_old_runs(rotation->storage->spill);
    uint64_t aside = 0;
    if (rotation->aside ||
        rotation->aside_generation != stor_keys_generation(rotation->storage->keys))
        aside = stor_rewrite_aside(rotation->rewrite);
    if (bulks > 0)
        note_put(rotation, "waits for %u loads (of an index, or of a copy) of before", bulks);
    else if (runs > 0)
        note_put(rotation, "waits for %" PRIu64 " spill files of queries of before", runs);
    else if (aside > 0)
        note_put(rotation,
                 "waits for %" PRIu64 " old versions that were moved to disk for old snapshots; "
                 "when those have ended: vedctl restart storaged",
                 aside);
    return bulks > 0 || runs > 0 || aside > 0 || backup_holds(rotation);
}

static int leftovers_wait(stor_rotation_t *rotation, vd_error_t *err)
{
    for (;;) {
        names_t names;
        bool any = leftovers(rotation);
        int rc = named_left(rotation, &names, err);
        if (rc != VD_OK)
            return rc;
        if (!any && names.count == 0 && !names.more)
            return VD_OK;
        if (names.count > 0)
            note_put(rotation, "waits for the end of a copy that is read (checkpoint %s)",
                     names.names[0]);
        rc = wait_a_little(rotation, 2 * RETRY_MS, err);
        if (rc == VD_OK)
            rc = stor_engine_checkpoint(rotation->storage->engine, err);
        if (rc != VD_OK)
            return rc;
    }
}

static int reencrypt(stor_rotation_t *rotation, const vdp_rotation_order_t *order, vd_error_t *err)
{
    int rc = key_have(rotation, order->active_version, err);
    rotation->walked_all = false;
    if (rc == VD_OK)
        rc = tables_list(rotation, err);
    if (rc != VD_OK)
        return rc;
    uint64_t total = bytes_sum(rotation);
    pthread_mutex_lock(&rotation->lock);
    rotation->report.bytes_total = total;
    pthread_mutex_unlock(&rotation->lock);
    for (;;) {
        rc = passes(rotation, err);
        if (rc == VD_OK)
            rc = log_move(rotation, err);
        if (rc == VD_OK)
            rc = leftovers_wait(rotation, err);
        if (rc != VD_OK)
            return rc;
        /* What a load of before has left is in the tables now: one more look. */
        pthread_mutex_lock(&rotation->lock);
        rotation->report.pass++;
        pthread_mutex_unlock(&rotation->lock);
        rc = pass(rotation, true, err);
        if (rc != VD_OK && !passes_by(rc))
            return rc;
        if (passes_by(rc))
            rc = passing_wait(rotation, rc, NULL) == VD_OK ? rc : VD_ERR_INTERRUPTED;
        if (rc == VD_ERR_INTERRUPTED)
            return interrupted(err);
        if (rc == VD_OK && rotation->counts->old_blocks == 0 && !rotation->counts->busy)
            break;
        vd_error_clear(err);
    }
    left_put(rotation);
    pthread_mutex_lock(&rotation->lock);
    rotation->report.bytes_done = rotation->report.bytes_total;
    pthread_mutex_unlock(&rotation->lock);
    return VD_OK;
}

/* ---- verify ---- */

/* The place of the newest key that has to go: what can't be counted is counted to it. */
static uint32_t old_place(stor_rotation_t *rotation, uint32_t old_version)
{
    stor_key_info_t *infos = vd_xalloc(STOR_KEYS_MAX * sizeof *infos);
    uint32_t count = stor_keys_list(rotation->storage->keys, infos), place = STOR_KEYS_MAX;
    for (uint32_t i = 0; i < count; i++)
        if (infos[i].state != STOR_KEY_ACTIVE && infos[i].state != STOR_KEY_DESTROYED &&
            infos[i].version <= old_version &&
            (place == STOR_KEYS_MAX || infos[i].version > infos[place].version))
            place = i;
    vd_free(infos);
    return place;
}

/* The checkpoint is made behind the look for loads: what they have written is in it. */
static int count_all(stor_rotation_t *rotation, bool *ret_unproven, uint32_t *ret_named,
                     vd_error_t *err)
{
    names_t names;
    *ret_unproven = leftovers(rotation);
    int rc = pass(rotation, false, err);
    if (rc == VD_OK && rotation->counts->old_blocks == 0 && !rotation->counts->busy)
        rc = named_settle(rotation, err);
    if (rc == VD_OK)
        rc = named_left(rotation, &names, err);
    if (rc == VD_OK)
        *ret_named = names.count + names.more;
    if (rc == VD_OK)
        rc = stor_rewrite_log_count(rotation->rewrite, rotation->counts, err);
    stor_rewrite_small_count(rotation->rewrite, rotation->counts);
    *ret_unproven = *ret_unproven || rotation->counts->busy;
    return rc;
}

static int verify(stor_rotation_t *rotation, const vdp_rotation_order_t *order, vd_error_t *err)
{
    bool unproven = true;
    uint32_t named = 0;
    int rc = VD_FAULT("rotation.before_verify", err);
    for (int tries = 0; rc == VD_OK; tries++) {
        vd_error_t step = VD_ERROR_INIT;
        rc = count_all(rotation, &unproven, &named, &step);
        if (passes_by(rc)) { /* it reads, but for the checkpoint */
            rc = passing_wait(rotation, rc, err);
            continue;
        }
        if (rc != VD_OK && err != NULL)
            vd_error_copy(&step, err);
        if (rc != VD_OK || !unproven || rotation->counts->old_blocks > 0 || tries == VERIFY_TRIES)
            break;
        rc = wait_a_little(rotation, RETRY_MS, err);
    }
    if (rc != VD_OK)
        return rc;
    uint32_t place = old_place(rotation, order->old_version);
    if (place < STOR_KEYS_MAX)
        rotation->counts->by_key[place] += named + unproven;
    if (!unproven && named == 0 && rotation->counts->old_blocks == 0)
        proven_put(rotation, order->old_version);
    left_put(rotation);
    return VD_FAULT("rotation.after_verify", err);
}

/* ---- retire ---- */

static int retire(stor_rotation_t *rotation, const vdp_rotation_order_t *order, vd_error_t *err)
{
    stor_storage_t *storage = rotation->storage;
    stor_key_info_t *infos = vd_xalloc(STOR_KEYS_MAX * sizeof *infos);
    int rc = key_have(rotation, order->active_version, err);
    while (rc == VD_OK && leftovers(rotation))
        rc = wait_a_little(rotation, RETRY_MS, err);
    uint32_t count = stor_keys_list(storage->keys, infos);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++) {
        if (infos[i].state == STOR_KEY_ACTIVE || infos[i].state == STOR_KEY_DESTROYED ||
            infos[i].version > order->old_version)
            continue;
        rc = VD_FAULT("rotation.before_forget", err);
        if (rc == VD_OK) /* it may be missing from now on */
            rc = stor_engine_key_forget(storage->engine, infos[i].id, err);
        if (rc == VD_OK)
            rc = VD_FAULT("rotation.before_wipe", err);
        if (rc == VD_OK)
            rc = stor_keys_retire(storage->keys, infos[i].id, err);
        if (rc == VD_OK)
            vd_log(VD_LOG_INFO, "a data key is forgotten", "version=%u", infos[i].version);
    }
    vd_free(infos);
    return rc;
}

/* ---- the thread ---- */

static int step_run(stor_rotation_t *rotation, const vdp_rotation_order_t *order, vd_error_t *err)
{
    switch (order->step) {
    case VDP_ROTATION_REENCRYPT:
        return reencrypt(rotation, order, err);
    case VDP_ROTATION_VERIFY:
        return verify(rotation, order, err);
    case VDP_ROTATION_RETIRE:
        return retire(rotation, order, err);
    case VDP_ROTATION_PAUSED: /* what is written from now on is written under the new key */
        return order->active_version == 0 ? VD_OK : key_have(rotation, order->active_version, err);
    default:
        return VD_OK;
    }
}

static void step_ended(stor_rotation_t *rotation, const vdp_rotation_order_t *order, int rc,
                       const vd_error_t *err)
{
    char text[VD_ERROR_MESSAGE_SIZE + 64];
    if (rc == VD_ERR_INTERRUPTED)
        return;
    pthread_mutex_lock(&rotation->lock);
    if (atomic_load(&rotation->serial) == rotation->working_serial) {
        rotation->finished = true;
        rotation->report.done =
            rc == VD_OK && order->step != VDP_ROTATION_NONE && order->step != VDP_ROTATION_PAUSED;
        rotation->report.failed = rc != VD_OK;
        rotation->report.rate = 0;
        (void)snprintf(rotation->text.note, sizeof rotation->text.note, "%.500s",
                       rc == VD_OK ? "" : err->message);
        rotation->text.current[0] = '\0';
    }
    pthread_mutex_unlock(&rotation->lock);
    atomic_fetch_add(&rotation->changes, 1);
    if (rc != VD_OK)
        vd_log(VD_LOG_ERROR, "a step of a rotation of keys failed", "step=%u error=%s", order->step,
               vd_log_quote(vd_slice_str(err->message), text, sizeof text));
    else if (order->step != VDP_ROTATION_NONE && order->step != VDP_ROTATION_PAUSED)
        vd_log(VD_LOG_INFO, "a step of a rotation of keys is done", "rotation=%llu step=%u",
               (unsigned long long)order->rotation, order->step);
}

static void *run(void *context)
{
    stor_rotation_t *rotation = context;
    sigset_t all;
    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGSYS);                  /* says which call it was (calls.c) */
    (void)pthread_sigmask(SIG_SETMASK, &all, NULL); /* the main loop takes them */
    (void)pthread_setname_np(pthread_self(),
                             "rotation"); /* another's name can't be set in the jail */
    pthread_mutex_lock(&rotation->lock);
    while (!atomic_load(&rotation->stop)) {
        if (rotation->finished) {
            (void)pthread_cond_wait(&rotation->wake, &rotation->lock); /* the loop looks again */
            continue;
        }
        vdp_rotation_order_t order = rotation->order;
        rotation->working_serial = atomic_load(&rotation->serial);
        pthread_mutex_unlock(&rotation->lock);
        vd_error_t err = VD_ERROR_INIT;
        rotation->rested_us = vd_monotonic_us();
        rotation->rate_us = 0;
        atomic_store(&rotation->working,
                     order.step == VDP_ROTATION_REENCRYPT || order.step == VDP_ROTATION_VERIFY);
        int rc = writing_begin(rotation, &err);
        if (rc == VD_OK)
            rc = step_run(rotation, &order, &err);
        writing_end(rotation);
        atomic_store(&rotation->working, false);
        step_ended(rotation, &order, rc, &err);
        pthread_mutex_lock(&rotation->lock);
    }
    pthread_mutex_unlock(&rotation->lock);
    return NULL;
}

int stor_rotation_start(stor_storage_t *storage, const stor_rotation_options_t *options,
                        stor_rotation_t **ret_rotation, vd_error_t *err)
{
    stor_rotation_t *rotation = vd_xalloc(sizeof *rotation);
    rotation->storage = storage;
    rotation->options = *options;
    rotation->finished = true;                                        /* nothing is asked yet */
    rotation->aside_generation = stor_keys_generation(storage->keys); /* the engine begins anew */
    rotation->counts = vd_xalloc(sizeof *rotation->counts);
    (void)pthread_mutex_init(&rotation->lock, NULL);
    (void)pthread_cond_init(&rotation->wake, NULL);
    stor_rewrite_options_t rewrite = {
        .flip = stor_rotation_flip, .pace = walk_pace, .context = rotation};
    int rc = stor_rewrite_open(storage->engine, &rewrite, &rotation->rewrite, err);
    if (rc == VD_OK && pthread_create(&rotation->thread, NULL, run, rotation) != 0)
        rc = vd_error_set(err, VD_ERR_INTERNAL, "the thread of rotations can't be started");
    rotation->started = rc == VD_OK;
    if (rc != VD_OK) {
        stor_rotation_stop(&rotation);
        return rc;
    }
    *ret_rotation = rotation;
    return VD_OK;
}

void stor_rotation_stop(stor_rotation_t **rotation_p)
{
    stor_rotation_t *rotation = *rotation_p;
    if (rotation == NULL)
        return;
    if (rotation->started) {
        pthread_mutex_lock(&rotation->lock);
        atomic_store(&rotation->stop, true);
        pthread_cond_signal(&rotation->wake);
        pthread_mutex_unlock(&rotation->lock);
        (void)pthread_join(rotation->thread, NULL);
    }
    stor_rewrite_close(&rotation->rewrite);
    tables_free(rotation);
    vd_free(rotation->tables);
    vd_free(rotation->counts);
    (void)pthread_mutex_destroy(&rotation->lock);
    (void)pthread_cond_destroy(&rotation->wake);
    vd_free(rotation);
    *rotation_p = NULL;
}

/* ---- orders and reports ---- */

void stor_rotation_order(stor_rotation_t *rotation, const vdp_rotation_order_t *order, bool anew)
{
    pthread_mutex_lock(&rotation->lock);
    const vdp_rotation_order_t *now = &rotation->order;
    bool same = now->rotation == order->rotation && now->step == order->step &&
                now->active_version == order->active_version &&
                now->old_version == order->old_version;
    bool other = now->rotation != order->rotation;
    if (now->rate_max_bytes != order->rate_max_bytes ||
        now->latency_rise_max != order->latency_rise_max || !same) {
        stor_pace_limits(&rotation->pace, order->rate_max_bytes, order->latency_rise_max);
        atomic_fetch_add(&rotation->limits, 1);
    }
    rotation->order = *order;
    rotation->ordered = true;
    if (order->step == VDP_ROTATION_RETIRE && rotation->proven < order->old_version)
        rotation->proven = order->old_version; /* rotated has it proven */
    if (!same || anew) {
        vdp_rotation_report_t *report = &rotation->report;
        atomic_fetch_add(&rotation->serial, 1);
        if (other || order->step == VDP_ROTATION_REENCRYPT) {
            *report = (vdp_rotation_report_t){0};
            rotation->left_known = false;
        }
        report->rotation = order->rotation;
        report->step = order->step;
        report->done = report->failed = false;
        rotation->text.note[0] = '\0';
        rotation->finished = false;
        pthread_cond_signal(&rotation->wake);
        atomic_fetch_add(&rotation->changes, 1);
    }
    pthread_mutex_unlock(&rotation->lock);
}

static void left_report(stor_rotation_t *rotation, vd_buf_t *body)
{
    stor_key_info_t *infos = vd_xalloc(STOR_KEYS_MAX * sizeof *infos);
    uint32_t count = stor_keys_list(rotation->storage->keys, infos);
    const vdp_rotation_report_t *report = &rotation->report;
    uint32_t newest = STOR_KEYS_MAX;
    for (uint32_t i = 0; i < count; i++)
        if (infos[i].state != STOR_KEY_ACTIVE && infos[i].state != STOR_KEY_DESTROYED &&
            (newest == STOR_KEYS_MAX || infos[i].version > infos[newest].version))
            newest = i;
    for (uint32_t told = 0;;) { /* in the order of versions */
        uint32_t i = count;
        for (uint32_t k = 0; k < count; k++)
            if (infos[k].state != STOR_KEY_DESTROYED && infos[k].version >= told &&
                (i == count || infos[k].version < infos[i].version))
                i = k;
        if (i == count)
            break;
        told = infos[i].version + 1;
        uint64_t left = rotation->left[i];
        if (infos[i].state == STOR_KEY_ACTIVE) /* told too, so that a report always has one */
            left = 0;
        else if (!rotation->left_known && i == newest && report->step == VDP_ROTATION_REENCRYPT)
            left = (report->bytes_total - report->bytes_done) / BLOCK_BYTES + 1; /* a guess */
        else if (!rotation->left_known)
            continue; /* nobody has counted */
        if (vd_buf_append_u32(body, infos[i].version) != VD_OK ||
            vd_buf_append_u64(body, left) != VD_OK)
            break;
    }
    vd_free(infos);
}

void stor_rotation_report(stor_rotation_t *rotation, vdp_rotation_report_t *ret_report,
                          stor_rotation_text_t *text, vd_buf_t *body)
{
    stor_keys_counts_t counts;
    stor_keys_counts(rotation->storage->keys, &counts);
    pthread_mutex_lock(&rotation->lock);
    *ret_report = rotation->report;
    *text = rotation->text;
    left_report(rotation, body);
    pthread_mutex_unlock(&rotation->lock);
    ret_report->current = vd_slice_str(text->current);
    ret_report->note = vd_slice_str(text->note);
    ret_report->blocks_encrypted = counts.sealed_active;
}

uint64_t stor_rotation_changes(const stor_rotation_t *rotation)
{
    return atomic_load(&rotation->changes);
}

void stor_rotation_window(stor_rotation_t *rotation)
{
    stor_latency_look_t look;
    if (rotation->storage->latency == NULL)
        return;
    stor_latency_take(rotation->storage->latency, &look);
    bool rests = !atomic_load(&rotation->working) || atomic_load(&rotation->resting);
    pthread_mutex_lock(&rotation->lock);
    /* Only a window in which it was at rest from end to end, or at work. */
    if (rests == rotation->window_rested)
        stor_pace_window(&rotation->pace, &look, rests);
    rotation->window_rested = rests;
    pthread_mutex_unlock(&rotation->lock);
}
