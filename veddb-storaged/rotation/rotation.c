/* veddb-storaged/rotation/rotation.c — the worker's thread; see rotation.h. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "veddb-storaged/rotation/flip.h"
#include "veddb-storaged/rotation/latency.h"
#include "veddb-storaged/rotation/rotation_private.h"

#include <stdio.h>
#include <time.h>

#define BLOCK_BYTES   (24 * 1024) /* of an estimate before the first pass has counted */
#define LAST_WORDS_MS 3000

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
    pthread_mutex_lock(&rotation->lock);
    *ret_report = rotation->report;
    ret_report->left_estimated =
        !rotation->left_known && ret_report->step == VDP_ROTATION_REENCRYPT;
    *text = rotation->text;
    left_report(rotation, body);
    pthread_mutex_unlock(&rotation->lock);
    stor_keys_counts(rotation->storage->keys, &counts); /* behind: of a key that body names */
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

uint32_t stor_rotation_highest_key(const stor_storage_t *storage)
{
    stor_key_info_t *infos = vd_xalloc(STOR_KEYS_MAX * sizeof *infos);
    uint32_t highest = 0, count = stor_keys_list(storage->keys, infos);
    for (uint32_t i = 0; i < count; i++)
        highest = infos[i].version > highest ? infos[i].version : highest;
    vd_free(infos);
    return highest;
}

/* ---- the thread ---- */

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

/* A block can't be read, and WiredTiger ends the process over it. Begun anew, the order would meet
 * it again: so rotated is told that it has failed, and once another order says that this is on
 * disk, the next start serves. Unheard, the next start tries again. */
static void last_words(const vd_error_t *why, void *context)
{
    stor_rotation_t *rotation = context;
    stor_rotation_text_t *text = &rotation->text;
    uint64_t until = vd_monotonic_ms() + LAST_WORDS_MS;
    pthread_mutex_lock(&rotation->lock);
    if (!stor_rotation_is_interrupted(rotation)) { /* else the report is of another order */
        rotation->report.failed = true;
        rotation->report.rate = 0;
        (void)snprintf(text->note, sizeof text->note,
                       "%.40s: %.102s: drop, restore or force-sync it; then resume or cancel",
                       text->current[0] == '\0' ? "metadata" : text->current, why->message);
    }
    pthread_mutex_unlock(&rotation->lock);
    atomic_fetch_add(&rotation->changes, 1);
    while (!stor_rotation_is_interrupted(rotation) && vd_monotonic_ms() < until) {
        struct timespec pause = {.tv_nsec = STOR_ROTATION_NAP_US * 1000};
        (void)nanosleep(&pause, NULL); /* waking early is fine */
    }
}

static void *run(void *context)
{
    stor_rotation_t *rotation = context;
    (void)pthread_setname_np(pthread_self(),
                             "rotation"); /* another's name can't be set in the jail */
    stor_engine_last_words(last_words, rotation);
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
        int rc = stor_rotation_writing_begin(rotation, &err);
        if (rc == VD_OK)
            rc = stor_rotation_step(rotation, &order, &err);
        stor_rotation_writing_end(rotation);
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
        .flip = stor_rotation_flip, .pace = stor_rotation_pace, .context = rotation};
    int rc = stor_rewrite_open(storage->engine, &rewrite, &rotation->rewrite, err);
    if (rc == VD_OK)
        rc = stor_aside_open(storage->engine, &rotation->aside, err);
    if (rc == VD_OK && vd_thread_start(&rotation->thread, run, rotation) != 0)
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
    stor_aside_close(&rotation->aside);
    stor_rotation_tables_free(rotation);
    vd_free(rotation->tables);
    vd_free(rotation->counts);
    (void)pthread_mutex_destroy(&rotation->lock);
    (void)pthread_cond_destroy(&rotation->wake);
    vd_free(rotation);
    *rotation_p = NULL;
}
