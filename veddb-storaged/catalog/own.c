/* veddb-storaged/catalog/own.c — see own.h. */
#include "veddb-storaged/catalog/own.h"

#include "libcommon/base/fault.h"
#include "veddb-storaged/catalog/catalog_private.h"
#include "veddb-storaged/catalog/names.h"

#include <strings.h>

int stor_catalog_own_make(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                          const stor_create_options_t *options, stor_collection_t **ret_collection,
                          vd_error_t *err)
{
    int rc = stor_name_check_writable(db, name, stor_request_internal(request), err);
    if (rc == VD_OK)
        rc = stor_catalog_change_lock(request, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_catalog_object_make(request, db, name, options, ret_collection, err);
    pthread_mutex_unlock(&request->storage->catalog->change_lock);
    return rc;
}

/* ---- commit ---- */

static bool same_but_case(vd_slice_t a, vd_slice_t b)
{
    return a.len == b.len && !vd_slice_equal(a, b) &&
           strncasecmp((const char *)a.data, (const char *)b.data, a.len) == 0;
}

static int name_check(stor_catalog_t *catalog, stor_collection_t *const *own, uint32_t at,
                      vd_error_t *err)
{
    const stor_collection_t *collection = own[at];
    if (stor_catalog_find(catalog, collection->db, collection->name) != NULL)
        return vd_error_set(err, VD_ERR_WRITE_CONFLICT,
                            "a collection of the name that the transaction has made came "
                            "meanwhile");
    for (uint32_t i = 0; i < at; i++)
        if (same_but_case(own[i]->db, collection->db))
            return vd_error_set(err, VD_ERR_LOCATION(13297),
                                "db already exists with different case already have: [%.*s] trying "
                                "to create [%.*s]",
                                VD_SLICE_FMT(own[i]->db), VD_SLICE_FMT(collection->db));
    return stor_catalog_case_check(catalog, collection->db, err);
}

/* The number of the next id has a row that other changes write, too: so it is not put in the
 * transaction, whose snapshot may be older. That it is ahead does no harm. */
int stor_catalog_own_begin(stor_request_t *request, stor_session_t *plain,
                           stor_collection_t *const *own, uint32_t count, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(!stor_txn_active(plain) && request->held_count == 0);
    int rc = stor_catalog_change_lock(request, err);
    if (rc != VD_OK)
        return rc;
    if (vd_map_count(catalog->by_id) + count >= STOR_COLLECTIONS_MAX)
        rc = vd_error_set(err, VD_ERR_FULL, "the limit of %d collections is reached",
                          STOR_COLLECTIONS_MAX);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++)
        rc = name_check(catalog, own, i, err);
    if (rc == VD_OK)
        rc = stor_catalog_next_id_put(catalog, plain, err);
    if (rc == VD_OK)
        rc = VD_FAULT("own.begun", err);
    if (rc != VD_OK)
        stor_catalog_own_end(catalog);
    return rc;
}

int stor_catalog_own_changes(stor_request_t *request, stor_collection_t *const *own, uint32_t count,
                             stor_change_t **ret_changes, uint32_t *ret_count, vd_error_t *err)
{
    stor_change_t *changes = VD_ARENA_ARRAY(request->arena, stor_change_t, 2 * (size_t)count);
    uint32_t n = 0;
    size_t bytes = 0;
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < count; i++) {
        stor_change_t create = {STOR_CHANGE_CREATE, -1, .collection_id = own[i]->id};
        stor_change_t indexes = {STOR_CHANGE_CREATE_INDEXES, -1, .collection_id = own[i]->id};
        bool database_made = false;
        for (uint32_t k = 0; k < i; k++)
            database_made |= vd_slice_equal(own[k]->db, own[i]->db);
        rc = stor_catalog_create_body(request, own[i], database_made, &create.body, err);
        if (rc == VD_OK)
            rc = stor_catalog_own_indexes_body(request, own[i], &indexes.body, err);
        if (rc != VD_OK)
            return rc;
        changes[n++] = create;
        if (indexes.body.len > 0)
            changes[n++] = indexes;
        bytes += (size_t)create.body.len + indexes.body.len;
        if (bytes > STOR_OWN_BYTES_MAX)
            rc = vd_error_set(err, VD_ERR_TRANSACTION_TOO_LARGE,
                              "the options of the collections that a transaction makes take more "
                              "than %d bytes",
                              STOR_OWN_BYTES_MAX);
    }
    *ret_changes = changes;
    *ret_count = n;
    return rc;
}

int stor_catalog_own_put(stor_session_t *session, stor_collection_t *const *own, uint32_t count,
                         vd_error_t *err)
{
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < count; i++) {
        rc = stor_catalog_created_put(session, own[i], err);
        if (rc == VD_OK)
            rc = stor_catalog_own_indexes_put(session, own[i], err);
        if (rc == VD_OK)
            rc = VD_FAULT("own.put", err);
    }
    return rc;
}

int stor_catalog_own_commit(stor_catalog_t *catalog, stor_session_t *session,
                            stor_collection_t *const *own, uint32_t count, vd_error_t *err)
{
    pthread_rwlock_wrlock(&catalog->lock);
    int rc = stor_txn_commit(session, err);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++) {
        atomic_fetch_add(&own[i]->references, 1);
        stor_catalog_enter_locked(catalog, own[i]);
    }
    pthread_rwlock_unlock(&catalog->lock);
    return rc;
}

void stor_catalog_own_end(stor_catalog_t *catalog)
{
    pthread_mutex_unlock(&catalog->change_lock);
}

void stor_catalog_own_done(stor_catalog_t *catalog, stor_collection_t **collection_p, bool entered)
{
    if (!entered)
        stor_catalog_tables_gone(catalog, *collection_p);
    stor_catalog_unreference(collection_p);
}

/* ---- another node's ---- */

void stor_catalog_own_begin_applied(stor_catalog_t *catalog)
{
    pthread_mutex_lock(&catalog->change_lock);
}

int stor_catalog_own_applied(stor_request_t *request, const stor_change_t *change,
                             stor_collection_t **own, uint32_t *count, vd_error_t *err)
{
    uint64_t id = change->collection_id;
    stor_collection_t *collection = NULL;
    for (uint32_t i = 0; i < *count; i++)
        if (own[i]->id == id)
            collection = own[i];
    if (change->kind == STOR_CHANGE_CREATE_INDEXES && collection != NULL)
        return stor_catalog_own_indexes_applied(request, collection, change->body, err);
    if (change->kind != STOR_CHANGE_CREATE || collection != NULL || *count == STOR_OWN_MAX)
        return vd_error_set(err, VD_ERR_CORRUPT, "a transaction in the journal is malformed");
    int rc = stor_catalog_object_applied(request, id, change->body, &collection, err);
    for (uint32_t i = 0; rc == VD_OK && i < *count; i++)
        if (strcmp(own[i]->ns, collection->ns) == 0) {
            rc = vd_error_set(err, VD_ERR_CORRUPT, "a transaction in the journal makes %s twice",
                              collection->ns);
            stor_catalog_own_done(request->storage->catalog, &collection, false);
        }
    if (rc == VD_OK)
        own[(*count)++] = collection;
    return rc;
}

int stor_catalog_own_put_applied(stor_catalog_t *catalog, stor_session_t *session,
                                 stor_collection_t *const *own, uint32_t count, vd_error_t *err)
{
    int rc = stor_catalog_own_put(session, own, count, err);
    return rc == VD_OK ? stor_catalog_next_id_put(catalog, session, err) : rc;
}
