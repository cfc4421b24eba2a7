/* veddb-storaged/rotation/steps.c — the steps of a rotation, as rotated orders them
 * (rotation_private.h). */
#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/rows.h"
#include "veddb-storaged/engine/checkpoint.h"
#include "veddb-storaged/exec/spill.h"
#include "veddb-storaged/rotation/rotation_private.h"

#include <inttypes.h>
#include <stdio.h>

#define RETRY_MS     500 /* for what passes by itself */
#define LOG_TRIES    50  /* of LOG_WAIT_MS, then the log is filled up again */
#define LOG_WAIT_MS  100
#define VERIFY_TRIES 60 /* of RETRY_MS, for tables that somebody has alone */
#define TABLES_FIRST 256

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

void stor_rotation_tables_free(stor_rotation_t *rotation)
{
    for (size_t i = 0; i < rotation->table_count; i++)
        vd_free(rotation->tables[i]);
    rotation->table_count = 0;
}

static int tables_list(stor_rotation_t *rotation, vd_error_t *err)
{
    stor_rotation_tables_free(rotation);
    return stor_engine_tables(rotation->storage->engine, table_add, rotation, err);
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
    stor_rotation_current(rotation, table);
    int rc = stor_rewrite_table(rotation->rewrite, table, write, rotation->counts, err);
    pthread_mutex_lock(&rotation->lock);
    stor_rotation_progress(rotation, 0, 0, vd_monotonic_us());
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
    stor_rotation_current(rotation, "");
    if (rc == VD_OK)
        rc = stor_rewrite_own(rotation->rewrite, rotation->counts, err);
    return rc == VD_OK ? VD_FAULT("rotation.pass_ended", err) : rc;
}

/* ---- named checkpoints: of copies that other members read ---- */

static int name_note(const char *name, void *context)
{
    stor_rotation_names_t *names = context;
    if (names->count < STOR_ROTATION_CHECKPOINTS_MAX)
        (void)snprintf(names->names[names->count++], sizeof names->names[0], "%s", name);
    else
        names->more = true;
    return VD_OK;
}

static bool names_have(const stor_rotation_names_t *names, const char *name)
{
    for (uint32_t i = 0; i < names->count; i++)
        if (strcmp(names->names[i], name) == 0)
            return true;
    return names->more;
}

/* Those that stand and may need an old key. Their blocks can't be counted: who reads a copy has its
 * pages in memory. So it is known by when they were made: one that came behind a pass over all that
 * found nothing has nothing, either. */
static int named_left(stor_rotation_t *rotation, stor_rotation_names_t *ret_names, vd_error_t *err)
{
    stor_rotation_names_t now = {.count = 0};
    bool known = rotation->named_generation == stor_keys_generation(rotation->storage->keys);
    int rc =
        stor_checkpoint_names(rotation->storage->engine, STOR_CATALOG_TABLE, name_note, &now, err);
    *ret_names = (stor_rotation_names_t){.more = now.more};
    for (uint32_t i = 0; rc == VD_OK && i < now.count; i++)
        if (!known || names_have(&rotation->named, now.names[i]))
            (void)name_note(now.names[i], ret_names);
    return rc;
}

/* Behind a pass over all tables that has found no block of an old key. */
static int named_settle(stor_rotation_t *rotation, vd_error_t *err)
{
    stor_rotation_names_t left;
    uint64_t generation = stor_keys_generation(rotation->storage->keys);
    int rc = named_left(rotation, &left, err);
    if (rc != VD_OK)
        return rc;
    rotation->named = left;
    rotation->named_generation = generation;
    return VD_OK;
}

/* ---- reencrypt ---- */

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
    rotation->aside_mark = stor_aside_mark(rotation->aside);
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
        stor_rotation_note(rotation, "the key holder has not handed out data key version %u: %s",
                           version, rc == VD_OK ? "another one is active" : step.message);
        rc = stor_rotation_wait(rotation, RETRY_MS, err);
        if (rc != VD_OK)
            return rc;
    }
    stor_rotation_note(rotation, "%s", "");
    aside_look(rotation);
    return VD_FAULT("rotation.after_keys", err);
}

/* Free space is short: what a checkpoint frees may be used again behind the next one. */
static int space_wait(stor_rotation_t *rotation, vd_error_t *err)
{
    stor_rotation_note(rotation, "%s", "waits for free space on the disk");
    for (int rc = VD_OK; stor_rotation_space_is_short(rotation);) {
        rc = stor_engine_checkpoint(rotation->storage->engine, err);
        if (rc == VD_OK)
            rc = stor_rotation_wait(rotation, 2 * RETRY_MS, err);
        if (rc != VD_OK)
            return rc;
    }
    stor_rotation_note(rotation, "%s", "");
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
    stor_rotation_writing_end(rotation);
    return stor_rotation_writing_begin(rotation, err);
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
        stor_rotation_left(rotation);
        if (rotation->counts->old_blocks == 0 && !rotation->counts->busy)
            return named_settle(rotation, err);
        if (rotation->counts->busy) {
            stor_rotation_note(rotation, "%s",
                               "waits for tables that are being loaded, dropped or checked");
            rc = stor_rotation_wait(rotation, RETRY_MS, err);
            if (rc != VD_OK)
                return rc;
        }
    }
}

/* One is being made that may have blocks of the keys that the order is about. */
static bool backup_holds(stor_rotation_t *rotation)
{
    pthread_mutex_lock(&rotation->lock);
    bool holds = rotation->backing_up && rotation->backup_proven < rotation->order.old_version;
    pthread_mutex_unlock(&rotation->lock);
    if (holds)
        stor_rotation_note(rotation, "%s", "waits for the backup that is being made");
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
        stor_rotation_left(rotation);
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
            rc = stor_rotation_wait(rotation, LOG_WAIT_MS, err);
        if (rc != VD_OK)
            return rc;
    }
}

/* True: old versions of before the key's change stand aside, or it can't be known. */
static bool aside_left(stor_rotation_t *rotation)
{
    if (rotation->aside_generation != stor_keys_generation(rotation->storage->keys))
        return stor_aside_count(rotation->aside) > 0;
    if (rotation->aside_mark > 0 && !stor_aside_has(rotation->aside, rotation->aside_mark))
        rotation->aside_mark = 0;
    return rotation->aside_mark > 0;
}

static bool aside_stopped(const void *context)
{
    const stor_rotation_t *rotation = context;
    return stor_rotation_is_interrupted(rotation) ||
           !stor_freeze_is_open(&rotation->storage->freeze);
}

/* One try to have them removed. */
static int aside_free(stor_rotation_t *rotation, vd_error_t *err)
{
    uint64_t mark = rotation->aside_generation == stor_keys_generation(rotation->storage->keys)
                        ? rotation->aside_mark
                        : UINT64_MAX;
    return stor_aside_free(rotation->aside, mark, aside_stopped, rotation, &rotation->aside_stuck,
                           err);
}

/* True: something of before the key's change is there that may need the old one; note says what. */
static bool leftovers(stor_rotation_t *rotation)
{
    uint32_t bulks = stor_rewrite_old_bulks(rotation->rewrite);
    uint64_t runs = stor_spill_old_runs(rotation->storage->spill);
    bool aside = aside_left(rotation);
    if (bulks > 0)
        stor_rotation_note(rotation, "waits for %u loads (of an index, or of a copy) of before",
                           bulks);
    else if (runs > 0)
        stor_rotation_note(rotation, "waits for %" PRIu64 " spill files of queries of before",
                           runs);
    else if (aside)
        stor_rotation_note(
            rotation,
            "waits for old versions that were moved to disk for old snapshots (%" PRIu64
            " stand there)%s",
            stor_aside_count(rotation->aside),
            rotation->aside_stuck ? "; vedctl restart storaged ends it" : "");
    return bulks > 0 || runs > 0 || aside || backup_holds(rotation);
}

static int leftovers_wait(stor_rotation_t *rotation, vd_error_t *err)
{
    for (;;) {
        stor_rotation_names_t names;
        bool any = leftovers(rotation);
        int rc = named_left(rotation, &names, err);
        if (rc != VD_OK)
            return rc;
        if (!any && names.count == 0 && !names.more)
            return VD_OK;
        if (names.count > 0)
            stor_rotation_note(rotation, "waits for the end of a copy that is read (checkpoint %s)",
                               names.names[0]);
        rc = stor_rotation_wait(rotation, 2 * RETRY_MS, err);
        if (rc == VD_OK)
            rc = stor_engine_checkpoint(rotation->storage->engine, err);
        if (rc == VD_OK && aside_left(rotation) && !backup_holds(rotation))
            rc = aside_free(rotation, err);
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
            return stor_rotation_interrupted(err);
        if (rc == VD_OK && rotation->counts->old_blocks == 0 && !rotation->counts->busy)
            break;
        vd_error_clear(err);
    }
    stor_rotation_left(rotation);
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
    stor_rotation_names_t names;
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
        rc = stor_rotation_wait(rotation, RETRY_MS, err);
    }
    if (rc != VD_OK)
        return rc;
    uint32_t place = old_place(rotation, order->old_version);
    if (place < STOR_KEYS_MAX)
        rotation->counts->by_key[place] += named + unproven;
    if (!unproven && named == 0 && rotation->counts->old_blocks == 0)
        proven_put(rotation, order->old_version);
    stor_rotation_left(rotation);
    return VD_FAULT("rotation.after_verify", err);
}

/* ---- retire ---- */

static int retire(stor_rotation_t *rotation, const vdp_rotation_order_t *order, vd_error_t *err)
{
    stor_storage_t *storage = rotation->storage;
    stor_key_info_t *infos = vd_xalloc(STOR_KEYS_MAX * sizeof *infos);
    int rc = key_have(rotation, order->active_version, err);
    while (rc == VD_OK && leftovers(rotation))
        rc = stor_rotation_wait(rotation, RETRY_MS, err);
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

/* ---- the step of an order ---- */

int stor_rotation_step(stor_rotation_t *rotation, const vdp_rotation_order_t *order,
                       vd_error_t *err)
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
