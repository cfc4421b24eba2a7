/* veddb-storaged/replication/replication.c — see the header: rows, role at open, the copies that
 * others read. */
#include "veddb-storaged/replication/replication.h"

#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/replication/apply.h"
#include "veddb-storaged/replication/link.h"
#include "veddb-storaged/replication/load.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/replication/snapshot.h"
#include "veddb-storaged/replication/tail.h"

static void bson_own(vd_bson_t *own, vd_bson_t from)
{
    uint8_t *copy = NULL;
    if (from.len > 0) {
        copy = vd_xalloc(from.len);
        memcpy(copy, from.data, from.len);
    }
    vd_free((void *)(uintptr_t)own->data);
    *own = (vd_bson_t){copy, from.len};
}

static vd_bson_t bson_copy(stor_replication_t *replication, const vd_bson_t *own, vd_arena_t *arena)
{
    (void)pthread_mutex_lock(&replication->lock);
    vd_slice_t copy = vd_arena_copy_slice(arena, vd_slice(own->data, own->len));
    (void)pthread_mutex_unlock(&replication->lock);
    return (vd_bson_t){copy.data, (uint32_t)copy.len};
}

static int row_get(stor_session_t *session, const char *name, vd_arena_t *arena,
                   vd_value_t *ret_value, vd_error_t *err)
{
    int rc = stor_catalog_meta_get(session, name, arena, ret_value, err);
    if (rc == VD_ERR_NOT_FOUND) {
        vd_error_clear(err);
        *ret_value = (vd_value_t){.type = VD_BSON_MISSING};
        rc = VD_OK;
    }
    return rc;
}

static int rows_read(stor_replication_t *replication, stor_session_t *session, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_value_t value;
    int rc = row_get(session, "term", arena, &value, err);
    if (rc == VD_OK && value.type == VD_BSON_INT64)
        atomic_store(&replication->term, (uint64_t)vd_value_int64(value));
    if (rc == VD_OK)
        rc = row_get(session, "leader", arena, &value, err);
    if (rc == VD_OK && value.type == VD_BSON_STRING) {
        vd_slice_t name = vd_value_string(value);
        size_t len = name.len < VDP_NODE_NAME_MAX ? name.len : VDP_NODE_NAME_MAX;
        memcpy(replication->leader, name.data, len);
    }
    if (rc == VD_OK)
        rc = row_get(session, "set_config", arena, &value, err);
    if (rc == VD_OK && value.type == VD_BSON_OBJECT)
        bson_own(&replication->config, vd_value_document(value));
    vd_arena_destroy(&arena);
    return rc;
}

/* Where we are: the journal's end, or where the journal of a loaded snapshot begins. The engine
 * starts at its ceiling, which is above; a replica's points must be exact, since what it applies is
 * below that. */
static int position_restore(stor_storage_t *storage, stor_session_t *session, bool alone,
                            vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_value_t value;
    uint64_t position = 0;
    int rc = stor_journal_before(storage->journal, session, UINT64_MAX, &position, err);
    if (rc == VD_OK)
        rc = row_get(session, "position", arena, &value, err);
    if (rc == VD_OK && value.type == VD_BSON_INT64 && (uint64_t)vd_value_int64(value) > position)
        position = (uint64_t)vd_value_int64(value);
    vd_arena_destroy(&arena);
    if (rc != VD_OK)
        return rc;
    if (alone)
        stor_engine_observe(storage->engine, position);
    else
        stor_engine_position_set(storage->engine, position);
    return VD_OK;
}

static int parts_open(stor_replication_t *replication, vd_error_t *err)
{
    stor_storage_t *storage = replication->storage;
    replication->tail = stor_tail_create(storage);
    replication->snapshots = stor_snapshots_create(storage);
    return stor_apply_create(storage, &replication->apply, err);
}

int stor_replication_open(stor_storage_t *storage, bool alone, stor_replication_t **ret_replication,
                          vd_error_t *err)
{
    stor_replication_t *replication = vd_xalloc(sizeof *replication);
    stor_session_t *session = NULL;
    replication->storage = storage;
    replication->alone = alone;
    (void)pthread_mutex_init(&replication->lock, NULL);
    (void)pthread_mutex_init(&replication->role_lock, NULL);
    replication->positions = stor_positions_create(storage);
    atomic_init(&replication->term, storage->term);
    atomic_init(&replication->role, alone ? VDP_ROLE_PRIMARY : VDP_ROLE_STARTING);
    int rc = stor_session_open(storage->engine, &session, err);
    if (rc == VD_OK)
        rc = rows_read(replication, session, err);
    if (rc == VD_OK)
        rc = position_restore(storage, session, alone, err);
    if (rc == VD_OK && !alone)
        rc = parts_open(replication, err);
    if (rc == VD_OK && !alone)
        stor_engine_term_set(storage->engine, atomic_load(&replication->term));
    stor_session_close(&session);
    if (rc != VD_OK) {
        stor_replication_close(&replication);
        return rc;
    }
    *ret_replication = replication;
    return VD_OK;
}

void stor_replication_close(stor_replication_t **replication_p)
{
    stor_replication_t *replication = *replication_p;
    if (replication == NULL)
        return;
    stor_replication_link_destroy(&replication->link);
    stor_snapshots_destroy(&replication->snapshots);
    stor_apply_destroy(&replication->apply);
    stor_tail_destroy(&replication->tail);
    stor_load_forget(&replication->load);
    vd_free((void *)(uintptr_t)replication->config.data);
    vd_free((void *)(uintptr_t)replication->topology.data);
    vd_free((void *)(uintptr_t)replication->status.data);
    stor_positions_destroy(&replication->positions);
    (void)pthread_mutex_destroy(&replication->lock);
    (void)pthread_mutex_destroy(&replication->role_lock);
    vd_free(replication);
    *replication_p = NULL;
}

uint64_t stor_replication_majority(const stor_storage_t *storage)
{
    if (stor_replication_alone(storage))
        return stor_engine_durable(storage->engine);
    return atomic_load_explicit(&storage->replication->majority, memory_order_acquire);
}

/* ---- the link ---- */

/* On the flusher's thread, after each flush. */
static void flushed(uint64_t durable, void *context)
{
    stor_storage_t *storage = context;
    stor_positions_flushed(storage->replication->positions, durable);
    stor_replication_link_flushed(storage->replication->link);
}

int stor_replication_start(stor_storage_t *storage, struct vd_daemon *daemon,
                           const char *socket_path, vd_error_t *err)
{
    stor_replication_t *replication = storage->replication;
    VD_ASSERT(!replication->alone && replication->link == NULL);
    int rc = stor_replication_link_start(storage, daemon, socket_path, &replication->link, err);
    if (rc == VD_OK)
        stor_engine_flush_hook(storage->engine, flushed, storage);
    return rc;
}

/* What the link holds goes with the replication: others may still ask. */
void stor_replication_stop(stor_storage_t *storage)
{
    if (storage->replication == NULL || storage->replication->link == NULL)
        return;
    stor_engine_flush_hook(storage->engine, NULL, NULL);
    stor_replication_link_stop(storage->replication->link);
}

void stor_replication_announce(stor_storage_t *storage)
{
    if (storage->replication->link != NULL)
        stor_replication_link_wake(storage->replication->link);
}

int stor_replication_ask(stor_storage_t *storage, const vdp_replication_ask_t *ask, vd_slice_t body,
                         void (*answered)(void *context, int code, vd_slice_t message,
                                          vd_slice_t body),
                         void *context, vd_error_t *err)
{
    if (storage->replication->link == NULL)
        return vd_error_set(err, VD_ERR_NO_REPLICATION_ENABLED,
                            "This node was not started with replication enabled.");
    return stor_replication_link_ask(storage->replication->link, ask, body, answered, context, err);
}

void stor_replication_topology_set(stor_storage_t *storage, int64_t version, vd_bson_t topology)
{
    stor_replication_t *replication = storage->replication;
    (void)pthread_mutex_lock(&replication->lock);
    bson_own(&replication->topology, topology);
    replication->topology_version = version;
    (void)pthread_mutex_unlock(&replication->lock);
    atomic_store(&storage->state_changed, true);
}

void stor_replication_status_set(stor_storage_t *storage, vd_bson_t status)
{
    stor_replication_t *replication = storage->replication;
    (void)pthread_mutex_lock(&replication->lock);
    bson_own(&replication->status, status);
    (void)pthread_mutex_unlock(&replication->lock);
}

/* ---- configuration ---- */

int stor_replication_config_put(stor_session_t *session, vd_bson_t config, vd_error_t *err)
{
    return stor_catalog_meta_put(session, "set_config", vd_value_from_document(config), err);
}

void stor_replication_config_changed(stor_storage_t *storage, vd_bson_t config)
{
    stor_replication_t *replication = storage->replication;
    (void)pthread_mutex_lock(&replication->lock);
    bson_own(&replication->config, config);
    (void)pthread_mutex_unlock(&replication->lock);
    stor_positions_changed(replication->positions);
    atomic_fetch_add(&replication->config_generation, 1);
    atomic_store(&storage->state_changed, true);
    stor_replication_announce(storage);
}

vd_bson_t stor_replication_config(stor_storage_t *storage, vd_arena_t *arena)
{
    return bson_copy(storage->replication, &storage->replication->config, arena);
}

vd_bson_t stor_replication_topology(stor_storage_t *storage, vd_arena_t *arena)
{
    return bson_copy(storage->replication, &storage->replication->topology, arena);
}

vd_bson_t stor_replication_status(stor_storage_t *storage, vd_arena_t *arena)
{
    return bson_copy(storage->replication, &storage->replication->status, arena);
}
