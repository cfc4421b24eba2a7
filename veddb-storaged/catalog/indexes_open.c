/* veddb-storaged/catalog/indexes_open.c — indexes as rows: read at a start, and their numbers of
 * entries written down for the next one. */
#include "veddb-storaged/catalog/indexes_private.h"
#include "veddb-storaged/catalog/rows.h"

/* ---- open ---- */

/* A build begins anew: with empty tables. */
static int building_renew(stor_catalog_t *catalog, stor_index_t *index, vd_error_t *err)
{
    int rc = stor_catalog_table_make(catalog, index->table, err);
    return rc == VD_OK ? stor_catalog_table_make(catalog, index->log->table, err) : rc;
}

static int row_load(vd_bson_t row, void *context, vd_error_t *err)
{
    stor_catalog_t *catalog = context;
    int64_t id = 0, collection_id = 0, table = 0;
    vd_value_t spec = vd_bson_get(row, "spec");
    stor_index_t *index = NULL;
    if (!vd_value_as_int64(vd_bson_get(row, "id"), &id) || id <= 0 ||
        !vd_value_as_int64(vd_bson_get(row, "collection"), &collection_id) ||
        !vd_value_as_int64(vd_bson_get(row, "table"), &table) || table <= 0 ||
        spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_CORRUPT, "a row of an index is malformed");
    stor_collection_t *collection = stor_indexes_collection(catalog, (uint64_t)collection_id);
    if (collection == NULL)
        return vd_error_set(err, VD_ERR_CORRUPT, "an index is of a collection that is not there");
    vd_value_t building = vd_bson_get(row, "building");
    int rc = building.type == VD_BSON_OBJECT
                 ? stor_index_make_building((uint64_t)id, (uint64_t)table, vd_value_document(spec),
                                            vd_value_document(building), &index, err)
                 : stor_index_make((uint64_t)id, (uint64_t)table, vd_value_document(spec),
                                   STOR_INDEX_READY, &index, err);
    if (rc != VD_OK)
        return vd_error_prefix(err, "loading an index from the catalog");
    vd_value_t icu = vd_bson_get(row, "icu");
    index->old_keys = index->def->collation != NULL &&
                      !vd_value_identical(icu, vd_bson_get(index->def->collation_spec, "version"));
    stor_index_set_t *old = collection->indexes; /* nobody else is here yet */
    collection->indexes = stor_index_set_with(old, &index, 1);
    stor_index_set_unreference(&old);
    stor_index_unreference(&index);
    uint64_t highest = (uint64_t)(id > table ? id : table);
    if (highest >= catalog->next_id)
        catalog->next_id = highest + 1;
    return VD_OK;
}

int stor_catalog_indexes_load(stor_catalog_t *catalog, stor_session_t *session, vd_error_t *err)
{
    uint64_t id = 0;
    int rc = stor_rows_indexes(session, 0, row_load, catalog, err);
    for (stor_collection_t *c; rc == VD_OK && (c = stor_catalog_next(catalog, id)) != NULL;
         stor_catalog_unreference(&c)) {
        id = c->id;
        for (uint32_t i = 0; rc == VD_OK && c->indexes != NULL && i < c->indexes->count; i++) {
            stor_index_t *index = c->indexes->items[i];
            uint32_t multikey = 0;
            int64_t entries = 0;
            rc = stor_rows_index_state_get(session, index->id, &multikey, &entries, err);
            if (rc == VD_OK && atomic_load(&index->state) == STOR_INDEX_BUILDING)
                rc = building_renew(catalog, index, err);
            atomic_store(&index->multikey, multikey);
            atomic_store(&index->entries, entries);
        }
    }
    return rc;
}

/* ---- numbers of entries ---- */

static int entries_put(stor_session_t *session, const stor_index_t *index, vd_error_t *err)
{
    uint32_t multikey;
    int64_t kept, is = atomic_load(&index->entries);
    int rc = stor_rows_index_state_get(session, index->id, &multikey, &kept, err);
    int64_t moved = is > kept ? is - kept : kept - is;
    if (rc != VD_OK || moved <= kept / 10 + 100)
        return rc;
    return stor_rows_index_state_put(session, index->id, multikey, is, err);
}

void stor_catalog_indexes_note(stor_catalog_t *catalog, stor_session_t *session)
{
    uint64_t id = 0;
    for (stor_collection_t *c; (c = stor_catalog_next(catalog, id)) != NULL;
         stor_catalog_unreference(&c)) {
        id = c->id;
        for (uint32_t i = 0; c->indexes != NULL && i < c->indexes->count; i++) {
            vd_error_t err = VD_ERROR_INIT;
            const stor_index_t *index = c->indexes->items[i];
            if (atomic_load(&index->state) != STOR_INDEX_READY ||
                stor_txn_begin(session, &err) != VD_OK)
                continue;
            int rc = entries_put(session, index, &err);
            if (rc == VD_OK)
                rc = stor_txn_commit(session, &err); /* a conflict: another time */
            else
                stor_txn_rollback(session);
            (void)rc;
        }
    }
}
