/* veddb-storaged/catalog/takeover.c — see takeover.h. */
#include "veddb-storaged/catalog/takeover.h"

#include "libcommon/base/clock.h"
#include "veddb-storaged/catalog/catalog_private.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/cursors.h"

#include <time.h>

#define FILES_WAIT_MS    60000
#define CONFLICTS_MAX    1000
#define CONFLICT_WAIT_MS 2

void stor_catalog_files_hold(stor_catalog_t *catalog)
{
    atomic_fetch_add(&catalog->files_held, 1);
}

void stor_catalog_files_release(stor_catalog_t *catalog)
{
    VD_ASSERT(atomic_fetch_sub(&catalog->files_held, 1) > 0);
}

static void pause_ms(long ms)
{
    struct timespec pause = {0, ms * 1000000};
    (void)nanosleep(&pause, NULL); /* waking early is fine */
}

/* ---- clear ---- */

/* As stor_catalog_fence, but nobody asks for it who could be killed. */
bool stor_catalog_fence_plain(stor_catalog_t *catalog, stor_collection_t *collection)
{
    uint64_t give_up = vd_monotonic_ms() + STOR_FENCE_WAIT_MS;
    atomic_store(&collection->state, STOR_FENCE_CLOSED);
    while (atomic_load(&collection->users) != 0) {
        if (vd_monotonic_ms() > give_up) {
            stor_catalog_unfence(catalog, collection, false);
            return false;
        }
        pause_ms(2);
    }
    return true;
}

/* The keeper may fold the same row at this moment. */
static int row_remove(stor_session_t *session, uint64_t id, vd_error_t *err)
{
    for (int tries = 0;; tries++) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = stor_txn_begin(session, &step);
        if (rc == VD_OK) {
            rc = stor_rows_collection_remove(session, id, &step);
            if (rc == VD_OK)
                rc = stor_txn_commit(session, &step);
            else
                stor_txn_rollback(session);
        }
        if (rc == VD_ERR_WRITE_CONFLICT && tries < CONFLICTS_MAX) {
            pause_ms(CONFLICT_WAIT_MS);
            continue;
        }
        if (rc != VD_OK && err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
}

static int drop_one(stor_catalog_t *catalog, stor_session_t *session, stor_collection_t *collection,
                    vd_error_t *err)
{
    if (!stor_catalog_fence_plain(catalog, collection))
        return vd_error_set(err, VD_ERR_LOCK_TIMEOUT, "a collection stayed in use for too long");
    int rc = row_remove(session, collection->id, err);
    if (rc != VD_OK) {
        stor_catalog_unfence(catalog, collection, false);
        return rc;
    }
    stor_catalog_leave(catalog, collection);
    stor_catalog_unfence(catalog, collection, true);
    (void)stor_cursors_kill_collection(catalog->storage->cursors, collection->id);
    stor_catalog_tables_gone(catalog, collection);
    stor_catalog_unreference(&collection); /* the map's */
    return VD_OK;
}

static bool has_dropped(stor_catalog_t *catalog)
{
    pthread_mutex_lock(&catalog->dropped_lock);
    bool some = catalog->dropped != NULL;
    pthread_mutex_unlock(&catalog->dropped_lock);
    return some;
}

/* Until the files are gone: tables of the same names may come. (The keeper may be at it, too: what
 * it has in hand is put back or gone before long, but not in the list. So two empty looks, apart.)
 */
static int files_remove(stor_catalog_t *catalog, stor_session_t *session, vd_error_t *err)
{
    uint64_t give_up = vd_monotonic_ms() + FILES_WAIT_MS;
    for (;;) {
        stor_catalog_remove_dropped(catalog, session);
        if (!has_dropped(catalog))
            return VD_OK;
        if (vd_monotonic_ms() > give_up)
            return vd_error_set(err, VD_ERR_OBJECT_IS_BUSY,
                                "files of dropped collections stayed in use for too long");
        pause_ms(5);
    }
}

int stor_catalog_clear(stor_catalog_t *catalog, stor_session_t *session, vd_error_t *err)
{
    int rc = VD_OK;
    VD_ASSERT(!stor_txn_active(session));
    pthread_mutex_lock(&catalog->change_lock);
    for (stor_collection_t *c; rc == VD_OK && (c = stor_catalog_next(catalog, 0)) != NULL;) {
        rc = drop_one(catalog, session, c, err);
        stor_catalog_unreference(&c);
    }
    pthread_mutex_unlock(&catalog->change_lock);
    return rc == VD_OK ? files_remove(catalog, session, err) : rc;
}

/* Makes the table; one of that name that is on its way out is waited for. */
static int table_make(stor_catalog_t *catalog, stor_session_t *session, const char *table,
                      vd_error_t *err)
{
    uint64_t give_up = vd_monotonic_ms() + FILES_WAIT_MS;
    for (;;) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = stor_engine_table_create(catalog->storage->engine, table, false, &step);
        if (rc == VD_OK || (rc != VD_ERR_EXISTS && rc != VD_ERR_OBJECT_IS_BUSY) ||
            vd_monotonic_ms() > give_up) {
            if (rc != VD_OK && err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
        stor_catalog_remove_dropped(catalog, session);
        pause_ms(5);
    }
}

int stor_catalog_table_renew(stor_catalog_t *catalog, stor_session_t *session, const char *table,
                             vd_error_t *err)
{
    VD_ASSERT(!stor_txn_active(session));
    stor_catalog_table_dropped(catalog, table);
    int rc = files_remove(catalog, session, err);
    return rc == VD_OK ? table_make(catalog, session, table, err) : rc;
}

/* ---- adopt ---- */

int stor_catalog_next_id_raise(stor_catalog_t *catalog, stor_session_t *session, uint64_t next_id,
                               vd_error_t *err)
{
    uint8_t payload[8];
    int rc = VD_OK;
    pthread_mutex_lock(&catalog->change_lock);
    vd_put_u64(payload, next_id);
    if (next_id > catalog->next_id) {
        rc = stor_catalog_meta_put(session, "next_id",
                                   (vd_value_t){payload, sizeof payload, VD_BSON_INT64}, err);
        if (rc == VD_OK)
            catalog->next_id = next_id;
    }
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

static bool is_free(stor_catalog_t *catalog, const stor_collection_t *collection)
{
    pthread_rwlock_rdlock(&catalog->lock);
    bool taken = vd_map_get(catalog->by_ns, vd_slice_str(collection->ns)) != NULL ||
                 vd_map_get(catalog->by_id, vd_key_u64(&collection->id)) != NULL;
    bool full = vd_map_count(catalog->by_id) + 1 >= STOR_COLLECTIONS_MAX;
    pthread_rwlock_unlock(&catalog->lock);
    return !taken && !full;
}

int stor_catalog_adopt(stor_catalog_t *catalog, stor_session_t *session, const stor_adopt_t *adopt,
                       vd_error_t *err)
{
    stor_collection_t *collection = NULL;
    VD_ASSERT(!stor_txn_active(session));
    if (adopt->id == 0 || adopt->id > INT64_MAX)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "a collection's id is out of range");
    int rc = stor_name_check_writable(adopt->db, adopt->name, true, err);
    if (rc == VD_OK)
        rc = stor_collection_make(adopt->id, adopt->db, adopt->name, adopt->uuid, adopt->options,
                                  &collection, err);
    if (rc != VD_OK)
        return rc;
    if (!is_free(catalog, collection))
        rc = vd_error_set(err, VD_ERR_NAMESPACE_EXISTS,
                          "a collection with the id or name of %s is there", collection->ns);
    /* Not under change_lock: who takes old files away may need it. Nobody else makes collections.
     */
    if (rc == VD_OK)
        rc = table_make(catalog, session, collection->table, err);
    if (rc == VD_OK && collection->capped.is)
        rc = table_make(catalog, session, collection->capped.table, err);
    pthread_mutex_lock(&catalog->change_lock);
    if (rc == VD_OK) {
        rc = stor_rows_collection_put(session, collection, err);
        if (rc != VD_OK)
            stor_catalog_tables_gone(catalog, collection);
    }
    if (rc == VD_OK) {
        stor_catalog_enter(catalog, collection);
        if (adopt->id >= catalog->next_id)
            catalog->next_id = adopt->id + 1;
    }
    pthread_mutex_unlock(&catalog->change_lock);
    if (rc != VD_OK)
        stor_catalog_unreference(&collection);
    return rc;
}
