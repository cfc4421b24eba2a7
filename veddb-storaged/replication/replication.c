/* veddb-storaged/replication/replication.c — see the header: rows, role at open, the copies that
 * others read. */
#include "veddb-storaged/replication/replication.h"

#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/replication/load.h"

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

int stor_replication_open(stor_storage_t *storage, bool alone, stor_replication_t **ret_replication,
                          vd_error_t *err)
{
    stor_replication_t *replication = vd_xalloc(sizeof *replication);
    stor_session_t *session = NULL;
    replication->storage = storage;
    replication->alone = alone;
    (void)pthread_mutex_init(&replication->lock, NULL);
    atomic_init(&replication->term, storage->term);
    atomic_init(&replication->keep_above, UINT64_MAX);
    atomic_init(&replication->role, alone ? VDP_ROLE_PRIMARY : VDP_ROLE_STARTING);
    int rc = stor_session_open(storage->engine, &session, err);
    if (rc == VD_OK)
        rc = rows_read(replication, session, err);
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
    stor_load_forget(&replication->load);
    vd_free((void *)(uintptr_t)replication->config.data);
    vd_free((void *)(uintptr_t)replication->topology.data);
    vd_free((void *)(uintptr_t)replication->status.data);
    (void)pthread_mutex_destroy(&replication->lock);
    vd_free(replication);
    *replication_p = NULL;
}

uint64_t stor_replication_majority(const stor_storage_t *storage)
{
    if (storage->replication->alone)
        return stor_engine_durable(storage->engine);
    return atomic_load_explicit(&storage->replication->majority, memory_order_acquire);
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
    atomic_store(&storage->state_changed, true);
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
