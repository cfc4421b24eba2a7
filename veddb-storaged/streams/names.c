/* veddb-storaged/streams/names.c — see names.h. */
#include "veddb-storaged/streams/names.h"

#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/rows.h"

#define NAMES_MAX 1000000

bool stor_stream_covers(const stor_stream_spec_t *spec, vd_slice_t db, vd_slice_t name)
{
    if (spec->kind == STOR_STREAM_COLLECTION)
        return vd_slice_equal(db, spec->db) && vd_slice_equal(name, spec->collection);
    if (vd_slice_starts_with(name, VD_SLICE_LIT("system.")))
        return false;
    if (spec->kind == STOR_STREAM_DATABASE)
        return vd_slice_equal(db, spec->db);
    return !vd_slice_is(db, "admin") && !vd_slice_is(db, "local") && !vd_slice_is(db, "config");
}

static void names_remove(vd_map_t *names, uint64_t id)
{
    vd_free(vd_map_remove(names, vd_key_u64(&id)));
}

static vd_slice_t text_of(vd_bson_t body, const char *field)
{
    vd_value_t v = vd_bson_get(body, field);
    return v.type == VD_BSON_STRING ? vd_value_string(v) : VD_SLICE_NULL;
}

static int names_put(const stor_stream_spec_t *spec, vd_map_t *names, uint64_t id, vd_slice_t db,
                     vd_slice_t name, vd_value_t uuid, vd_error_t *err)
{
    names_remove(names, id);
    if (!stor_stream_covers(spec, db, name))
        return VD_OK;
    stor_stream_name_t *entry = vd_xalloc(sizeof *entry + db.len + name.len);
    uint8_t *text = (uint8_t *)(entry + 1);
    entry->id = id;
    if (db.len > 0)
        memcpy(text, db.data, db.len);
    if (name.len > 0)
        memcpy(text + db.len, name.data, name.len);
    entry->db = vd_slice(text, db.len);
    entry->name = vd_slice(text + db.len, name.len);
    if (uuid.type == VD_BSON_BINARY && vd_value_binary(uuid, NULL).len == 16)
        memcpy(entry->uuid, vd_value_binary(uuid, NULL).data, 16);
    int rc = vd_map_put(names, vd_key_u64(&id), entry, NULL);
    if (rc == VD_OK)
        return VD_OK;
    vd_free(entry);
    return vd_error_set(err, rc, "a change stream covers too many collections");
}

int stor_names_change(const stor_stream_spec_t *spec, vd_map_t *names, const stor_change_t *change,
                      bool undo, vd_error_t *err)
{
    vd_bson_t body = change->body;
    uint64_t id = change->collection_id;
    vd_slice_t db = text_of(body, "db"), name = text_of(body, "name");
    vd_slice_t to_db = text_of(body, "toDb"), to_name = text_of(body, "toName");
    vd_value_t uuid = vd_bson_get(body, "uuid"), dropped = vd_bson_get(body, "dropped");
    vd_value_t options = vd_bson_get(body, "options");
    if (options.type == VD_BSON_OBJECT &&
        vd_bson_get(vd_value_document(options), "timeseries").type == VD_BSON_OBJECT)
        return VD_OK; /* nobody streams measurements */
    if (change->kind == STOR_CHANGE_CREATE || change->kind == STOR_CHANGE_DROP) {
        if ((change->kind == STOR_CHANGE_CREATE) != undo)
            return names_put(spec, names, id, db, name, uuid, err);
        names_remove(names, id);
        return VD_OK;
    }
    if (change->kind != STOR_CHANGE_RENAME)
        return VD_OK;
    int rc = undo ? names_put(spec, names, id, db, name, uuid, err)
                  : names_put(spec, names, id, to_db, to_name, uuid, err);
    if (rc != VD_OK || dropped.type != VD_BSON_INT64)
        return rc;
    uint64_t gone = (uint64_t)vd_value_int64(dropped);
    if (undo)
        return names_put(spec, names, gone, to_db, to_name, vd_bson_get(body, "droppedUuid"), err);
    names_remove(names, gone);
    return VD_OK;
}

typedef struct {
    const stor_stream_spec_t *spec;
    vd_map_t *names;
} rows_t;

static int row_take(vd_bson_t row, void *context, vd_error_t *err)
{
    const rows_t *rows = context;
    int64_t id = 0;
    vd_value_t options = vd_bson_get(row, "options");
    if (!vd_value_as_int64(vd_bson_get(row, "id"), &id) ||
        (options.type == VD_BSON_OBJECT &&
         vd_bson_get(vd_value_document(options), "timeseries").type == VD_BSON_OBJECT))
        return VD_OK;
    return names_put(rows->spec, rows->names, (uint64_t)id, text_of(row, "db"),
                     text_of(row, "name"), vd_bson_get(row, "uuid"), err);
}

typedef struct undo {
    struct undo *earlier;
    stor_change_t change;
} undo_t;

/* Schema changes above `after`, the newest first. */
static int changes_collect(stor_request_t *request, uint64_t after, vd_arena_t *arena,
                           undo_t **ret_newest, vd_error_t *err)
{
    stor_journal_reader_t *reader =
        stor_journal_reader_open(request->storage->journal, request->session, after);
    stor_journal_entry_t entry;
    undo_t *newest = NULL;
    int rc;
    stor_journal_reader_begin(reader);
    while ((rc = stor_journal_reader_next(reader, UINT64_MAX, &entry, err)) == VD_OK) {
        stor_change_t change;
        rc = stor_request_check(request, err);
        while (rc == VD_OK &&
               (rc = stor_journal_change_next(&entry.changes, &change, err)) == VD_OK) {
            if (change.kind < STOR_CHANGE_CREATE || change.kind > STOR_CHANGE_RENAME)
                continue;
            undo_t *undo = VD_ARENA_NEW(arena, undo_t);
            undo->earlier = newest;
            undo->change = change;
            undo->change.body.data = vd_arena_copy(arena, change.body.data, change.body.len);
            newest = undo;
        }
        if (rc != VD_ERR_NOT_FOUND)
            break;
    }
    stor_journal_reader_close(&reader);
    *ret_newest = newest;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

int stor_names_load(const stor_stream_spec_t *spec, stor_request_t *request, uint64_t after,
                    vd_map_t **ret_names, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    rows_t rows = {spec, vd_map_create(NAMES_MAX)};
    undo_t *undo = NULL;
    int rc = stor_rows_collections(request->session, row_take, &rows, err);
    if (rc == VD_OK)
        rc = changes_collect(request, after, arena, &undo, err);
    for (; rc == VD_OK && undo != NULL; undo = undo->earlier)
        rc = stor_names_change(spec, rows.names, &undo->change, true, err);
    vd_arena_destroy(&arena);
    if (rc == VD_OK)
        *ret_names = rows.names;
    else
        stor_names_free(&rows.names);
    return rc;
}

void stor_names_free(vd_map_t **names_p)
{
    size_t position = 0;
    vd_slice_t key;
    void *value;
    if (*names_p == NULL)
        return;
    while (vd_map_next(*names_p, &position, &key, &value))
        vd_free(value);
    vd_map_destroy(names_p);
}
