/* veddb-storaged/local/names.c — see names.h. */
#include "veddb-storaged/local/names.h"

#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/catalog.h"

#define NAMES_MAX 100000

struct stor_local_names {
    vd_map_t *dropped;
    stor_local_name_t *present; /* of the collection last asked for */
    uint64_t present_id;
    bool searched;
};

stor_local_names_t *stor_local_names_create(void)
{
    stor_local_names_t *names = vd_xalloc(sizeof *names);
    names->dropped = vd_map_create(NAMES_MAX);
    return names;
}

void stor_local_names_destroy(stor_local_names_t **names_p)
{
    stor_local_names_t *names = *names_p;
    size_t position = 0;
    vd_slice_t key;
    void *value;
    if (names == NULL)
        return;
    while (vd_map_next(names->dropped, &position, &key, &value))
        vd_free(value);
    vd_map_destroy(&names->dropped);
    vd_free(names->present);
    vd_free(names);
    *names_p = NULL;
}

static stor_local_name_t *name_new(vd_slice_t db, vd_slice_t collection, const uint8_t *uuid)
{
    stor_local_name_t *name = vd_xalloc(sizeof *name + db.len + 1 + collection.len);
    uint8_t *text = (uint8_t *)(name + 1);
    if (db.len > 0)
        memcpy(text, db.data, db.len);
    text[db.len] = '.';
    if (collection.len > 0)
        memcpy(text + db.len + 1, collection.data, collection.len);
    name->ns = vd_slice(text, db.len + 1 + collection.len);
    name->secret =
        vd_slice_is(db, "admin") && vd_slice_starts_with(collection, VD_SLICE_LIT("system."));
    name->has_uuid = uuid != NULL;
    if (uuid != NULL)
        memcpy(name->uuid, uuid, sizeof name->uuid);
    return name;
}

static void dropped_put(stor_local_names_t *names, uint64_t id, vd_value_t db, vd_value_t name,
                        vd_value_t uuid)
{
    void *old = NULL;
    if (db.type != VD_BSON_STRING || name.type != VD_BSON_STRING)
        return;
    bool has_uuid = uuid.type == VD_BSON_BINARY && vd_value_binary(uuid, NULL).len == 16;
    stor_local_name_t *entry = name_new(vd_value_string(db), vd_value_string(name),
                                        has_uuid ? vd_value_binary(uuid, NULL).data : NULL);
    if (vd_map_put(names->dropped, vd_key_u64(&id), entry, &old) != VD_OK)
        old = entry; /* too many: it stays without a name */
    vd_free(old);
}

void stor_local_names_note(stor_local_names_t *names, const stor_change_t *change)
{
    vd_bson_t body = change->body;
    if (change->kind == STOR_CHANGE_DROP) {
        dropped_put(names, change->collection_id, vd_bson_get(body, "db"),
                    vd_bson_get(body, "name"), vd_bson_get(body, "uuid"));
    } else if (change->kind == STOR_CHANGE_RENAME) {
        vd_value_t gone = vd_bson_get(body, "dropped");
        if (gone.type == VD_BSON_INT64)
            dropped_put(names, (uint64_t)vd_value_int64(gone), vd_bson_get(body, "toDb"),
                        vd_bson_get(body, "toName"), vd_bson_get(body, "droppedUuid"));
    }
}

static int search(stor_local_names_t *names, stor_request_t *request, uint64_t after,
                  vd_error_t *err)
{
    stor_journal_reader_t *reader =
        stor_journal_reader_open(request->storage->journal, request->session, after);
    stor_journal_entry_t entry;
    vd_error_t step = VD_ERROR_INIT;
    int rc;
    stor_journal_reader_begin(reader);
    while ((rc = stor_journal_reader_next(reader, UINT64_MAX, &entry, &step)) == VD_OK) {
        stor_change_t change;
        rc = stor_request_check(request, &step);
        while (rc == VD_OK &&
               (rc = stor_journal_change_next(&entry.changes, &change, &step)) == VD_OK)
            stor_local_names_note(names, &change);
        if (rc != VD_ERR_NOT_FOUND)
            break;
    }
    stor_journal_reader_close(&reader);
    names->searched = true;
    if (rc == VD_ERR_NOT_FOUND || rc == VD_ERR_CHANGE_STREAM_HISTORY_LOST)
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

int stor_local_name_of(stor_local_names_t *names, stor_request_t *request, uint64_t collection_id,
                       uint64_t after, bool *ret_searched, const stor_local_name_t **ret_name,
                       vd_error_t *err)
{
    static const stor_local_name_t unknown = {.secret = true};
    int rc = VD_OK;
    if (names->present != NULL && names->present_id == collection_id) {
        *ret_name = names->present;
        return VD_OK;
    }
    stor_collection_t *collection =
        stor_catalog_reference(request->storage->catalog, collection_id);
    if (collection != NULL) {
        vd_free(names->present);
        names->present = name_new(collection->db, collection->name, collection->uuid);
        names->present_id = collection_id;
        stor_catalog_unreference(&collection);
        *ret_name = names->present;
        return VD_OK;
    }
    const stor_local_name_t *found = vd_map_get(names->dropped, vd_key_u64(&collection_id));
    if (found == NULL && !names->searched) {
        rc = search(names, request, after, err);
        *ret_searched = true;
        found = vd_map_get(names->dropped, vd_key_u64(&collection_id));
    }
    if (rc == VD_OK)
        *ret_name = found == NULL ? &unknown : found;
    return rc;
}
