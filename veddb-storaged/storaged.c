/* veddb-storaged/storaged.c — see storaged.h: everything that storage holds, opened in order and
 * closed in the opposite one. */
#include "veddb-storaged/storaged.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/catalog/counters.h"
#include "veddb-storaged/catalog/renew.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/defaults.h"
#include "veddb-storaged/exec/planner.h"
#include "veddb-storaged/exec/sampling.h"
#include "veddb-storaged/exec/spill.h"
#include "veddb-storaged/fail_points.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/index/builds.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/pins.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/rotation/latency.h"
#include "veddb-storaged/sessions.h"
#include "veddb-storaged/streams/waits.h"
#include "veddb-storaged/transactions.h"

#define FIRST_TERM     1
#define OTHER_SESSIONS 36 /* audit, keeper, scrub, opening, catalog changes, validate, streams */

void stor_storage_set_id(stor_storage_t *storage, uint8_t ret_id[12])
{
    (void)pthread_mutex_lock(&storage->registry_lock);
    memcpy(ret_id, storage->set_id, sizeof storage->set_id);
    (void)pthread_mutex_unlock(&storage->registry_lock);
}

void stor_storage_set_id_put(stor_storage_t *storage, const uint8_t id[12])
{
    (void)pthread_mutex_lock(&storage->registry_lock);
    memcpy(storage->set_id, id, sizeof storage->set_id);
    (void)pthread_mutex_unlock(&storage->registry_lock);
}

void stor_storage_auth_epoch_raise(stor_storage_t *storage, uint64_t epoch)
{
    uint_fast64_t seen = atomic_load(&storage->auth_epoch);
    while (seen < epoch && !atomic_compare_exchange_weak(&storage->auth_epoch, &seen, epoch))
        continue;
    stor_versions_auth_epoch(storage->versions, epoch);
}

/* The set's id is made once; the epoch of users and roles is what their newest change left. */
static int identity_load(stor_storage_t *storage, stor_session_t *session, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_value_t value;
    int rc = stor_catalog_meta_get(session, "set_id", arena, &value, err);
    if (rc == VD_OK && value.type == VD_BSON_OBJECTID) {
        memcpy(storage->set_id, vd_value_objectid(value), sizeof storage->set_id);
    } else if (rc == VD_ERR_NOT_FOUND) {
        vd_error_clear(err);
        vd_rand_secret(storage->set_id, sizeof storage->set_id);
        value = (vd_value_t){storage->set_id, sizeof storage->set_id, VD_BSON_OBJECTID};
        rc = stor_catalog_meta_put(session, "set_id", value, err);
    }
    if (rc == VD_OK) {
        rc = stor_catalog_meta_get(session, "auth_epoch", arena, &value, err);
        if (rc == VD_OK && value.type == VD_BSON_INT64)
            atomic_store(&storage->auth_epoch, (uint64_t)vd_value_int64(value));
        if (rc == VD_ERR_NOT_FOUND) {
            vd_error_clear(err);
            rc = VD_OK;
        }
    }
    vd_arena_destroy(&arena);
    return rc;
}

static int parts_open(stor_storage_t *storage, vd_error_t *err)
{
    stor_session_t *session = NULL;
    int rc = stor_catalog_open(storage, &storage->catalog, err);
    if (rc == VD_OK)
        rc = stor_journal_open(storage, &storage->journal, err);
    if (rc == VD_OK)
        rc = stor_sessions_open(storage, &storage->sessions, err);
    if (rc == VD_OK)
        rc = stor_cursors_open(storage, &storage->cursors, err);
    if (rc == VD_OK)
        rc = stor_session_open(storage->engine, &session, err);
    if (rc == VD_OK)
        rc = stor_counters_load(storage, session, err);
    if (rc == VD_OK)
        rc = identity_load(storage, session, err);
    if (rc == VD_OK)
        rc = stor_replication_open(storage, !storage->settings.replicated, &storage->replication,
                                   err);
    if (rc == VD_OK && storage->settings.audit) {
        const stor_settings_t *settings = &storage->settings;
        stor_audit_options_t options = {.filter = settings->audit_filter,
                                        .reads = settings->audit_reads,
                                        .shed = settings->audit_shed,
                                        .backlog_max_bytes = settings->audit_backlog_max_bytes};
        rc = stor_audit_open(storage, &options, &storage->audit, err);
    }
    if (rc == VD_OK) {
        storage->defaults = stor_defaults_create();
        rc = stor_defaults_load(storage, session, err);
    }
    if (rc == VD_OK)
        rc = stor_statistics_open(storage->engine, err);
    if (rc == VD_OK)
        rc = stor_catalog_renew(storage, session, err);
    stor_session_close(&session);
    return rc;
}

int stor_storage_open(const stor_storage_options_t *options, const stor_settings_t *settings,
                      stor_keys_t *keys, stor_storage_t **ret_storage, vd_error_t *err)
{
    VD_ASSERT(options != NULL && settings != NULL && settings->threads > 0 && keys != NULL);

    stor_storage_t *storage = vd_xalloc(sizeof *storage);
    storage->settings = *settings;
    storage->planner = stor_planner_create();
    storage->latency = vd_xalloc(sizeof *storage->latency);
    storage->keys = keys;
    storage->term = FIRST_TERM;
    storage->started_wall_ms = vd_wall_ms();
    storage->started_monotonic_ms = vd_monotonic_ms();
    vd_rand_secret(storage->boot_id, sizeof storage->boot_id);
    (void)pthread_mutex_init(&storage->registry_lock, NULL);
    stor_freeze_init(&storage->freeze);
    storage->fail_points = stor_fail_points_create(settings);
    int rc = VD_OK;
    if (options->versions != NULL &&
        stor_versions_open(options->versions, storage->boot_id, &storage->versions, err) != VD_OK) {
        char text[VD_ERROR_MESSAGE_SIZE + 64];
        vd_log(VD_LOG_WARN, "gateways can keep no results", "error=%s",
               vd_log_quote(vd_slice_str(err == NULL ? "" : err->message), text, sizeof text));
        vd_error_clear(err);
    }
    stor_engine_options_t engine = {
        .folder = options->folder,
        .cache_bytes = options->cache_bytes,
        .eviction_threads_max = settings->threads > 4 ? 4 : (uint32_t)settings->threads,
        /* a worker may need a second one for a moment (index/change.c, index/entry_sort.c) */
        .sessions_max = 2 * ((uint32_t)settings->threads + STOR_LONG_WORKERS) + OTHER_SESSIONS +
                        STOR_TRANSACTIONS_MAX + STOR_TRANSACTIONS_IDLE + STOR_PINS_MAX,
        .bootstrap = options->bootstrap,
        .keys = keys,
        .reserve_min_bytes = options->reserve_min_bytes,
        .log_file_max_bytes = options->log_file_max_bytes,
        .checkpoint_wait_s = (uint32_t)(options->checkpoint_ms / 1000),
        .fs_faults = options->fs_faults,
        .term = FIRST_TERM,
        .versions = storage->versions,
        .released = stor_inbox_released,
        .released_context = storage,
        .failed = stor_inbox_failed,
    };
    rc = stor_engine_open(&engine, &storage->engine, err);
    if (rc == VD_OK) {
        uint64_t memory = options->cache_bytes / 2; /* of a node's memory: a quarter */
        stor_spill_options_t spill = {.folder = options->folder,
                                      .keys = keys,
                                      .engine = storage->engine,
                                      .memory_max_bytes = memory > VD_QUERIES_MEMORY_MIN_BYTES
                                                              ? memory
                                                              : VD_QUERIES_MEMORY_MIN_BYTES};
        rc = stor_spill_open(&spill, &storage->spill, err);
    }
    if (rc == VD_OK)
        rc = parts_open(storage, err);
    if (rc == VD_OK) {
        stor_versions_auth_epoch(storage->versions, atomic_load(&storage->auth_epoch));
        stor_versions_serve(storage->versions, stor_replication_role(storage) == VDP_ROLE_PRIMARY);
        *ret_storage = storage;
        return VD_OK;
    }
    int closed = stor_storage_close(&storage, NULL);
    (void)closed; /* the first error is the one to tell */
    return rc;
}

int stor_storage_close(stor_storage_t **storage_p, vd_error_t *err)
{
    stor_storage_t *storage = *storage_p;
    int rc = VD_OK;
    if (storage == NULL)
        return rc;
    VD_ASSERT(storage->rotation == NULL && storage->inbox == NULL && storage->keeper == NULL &&
              storage->registry_first == NULL);
    stor_versions_serve(storage->versions, false);
    /* While what they need is there. */
    (void)stor_transactions_kill(storage, VD_ERR_INTERRUPTED_AT_SHUTDOWN, NULL, NULL);
    stor_defaults_destroy(&storage->defaults);
    stor_builds_stop(storage->builds);
    stor_audit_close(&storage->audit);
    stor_replication_close(&storage->replication);
    stor_waits_destroy(&storage->waits);
    stor_cursors_close(&storage->cursors);
    stor_planner_destroy(&storage->planner);
    stor_sessions_close(&storage->sessions);
    stor_journal_close(&storage->journal);
    stor_catalog_close(&storage->catalog);
    stor_spill_close(&storage->spill);
    if (storage->engine != NULL)
        rc = stor_engine_close(&storage->engine, err);
    stor_versions_close(&storage->versions);
    vd_free(storage->latency);
    (void)pthread_mutex_destroy(&storage->registry_lock);
    stor_freeze_done(&storage->freeze);
    stor_fail_points_destroy(&storage->fail_points);
    vd_free(storage);
    *storage_p = NULL;
    return rc;
}
