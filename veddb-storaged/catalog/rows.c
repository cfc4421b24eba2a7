/* veddb-storaged/catalog/rows.c — see rows.h. */
#include "veddb-storaged/catalog/rows.h"

#include "libcommon/base/clock.h"
#include "veddb-storaged/query/collation.h"

#include <stdio.h>
#include <stdlib.h>

#define ROW_MAX_BYTES (VD_BSON_DOCUMENT_MAX_BYTES + 64 * 1024)

static void id_key(char kind, uint64_t id, uint8_t key[9])
{
    key[0] = (uint8_t)kind;
    vd_put_u64_be(key + 1, id);
}

/* A transaction around one step, unless the session has one. */
static int begin_own(stor_session_t *session, bool *ret_own, vd_error_t *err)
{
    *ret_own = !stor_txn_active(session);
    return *ret_own ? stor_txn_begin(session, err) : VD_OK;
}

static int end_own(stor_session_t *session, bool own, int rc, vd_error_t *err)
{
    if (!own)
        return rc;
    if (rc != VD_OK) {
        stor_txn_rollback(session);
        return rc;
    }
    return stor_txn_commit(session, err);
}

static int row_put(stor_session_t *session, vd_slice_t key, vd_slice_t value, vd_error_t *err)
{
    bool own;
    stor_cursor_t *cursor;
    int rc = begin_own(session, &own, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_open(session, STOR_CATALOG_TABLE, &cursor, err);
    if (rc == VD_OK)
        rc = stor_cursor_put(cursor, key, value, err);
    return end_own(session, own, rc, err);
}

static int row_remove(stor_session_t *session, vd_slice_t key, vd_error_t *err)
{
    bool own;
    stor_cursor_t *cursor;
    int rc = begin_own(session, &own, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_open(session, STOR_CATALOG_TABLE, &cursor, err);
    if (rc == VD_OK) {
        vd_error_t miss = VD_ERROR_INIT;
        rc = stor_cursor_remove(cursor, key, &miss);
        if (rc == VD_ERR_NOT_FOUND)
            rc = VD_OK;
        else if (rc != VD_OK && err != NULL)
            vd_error_copy(&miss, err);
    }
    return end_own(session, own, rc, err);
}

int stor_rows_collection_put(stor_session_t *session, const stor_collection_t *collection,
                             vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t row;
    uint8_t key[9];
    vd_bb_init(&bb, ROW_MAX_BYTES);
    vd_bb_int64(&bb, "id", (int64_t)collection->id);
    vd_bb_string(&bb, "db", collection->db);
    vd_bb_string(&bb, "name", collection->name);
    vd_bb_binary(&bb, "uuid", 4, vd_slice(collection->uuid, 16));
    vd_bb_document(&bb, "options", collection->options);
    vd_bb_date(&bb, "created", vd_wall_ms());
    int rc = vd_bb_finish(&bb, &row, err);
    id_key('c', collection->id, key);
    if (rc == VD_OK)
        rc = row_put(session, vd_slice(key, sizeof key), vd_slice(row.data, row.len), err);
    vd_bb_done(&bb);
    return rc;
}

int stor_rows_collection_exists(stor_session_t *session, uint64_t id, bool *ret_exists,
                                vd_error_t *err)
{
    bool own;
    stor_cursor_t *cursor;
    uint8_t key[9];
    id_key('c', id, key);
    int rc = begin_own(session, &own, err);
    if (rc != VD_OK)
        return rc;
    vd_error_t step = VD_ERROR_INIT;
    rc = stor_cursor_open(session, STOR_CATALOG_TABLE, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_search(cursor, vd_slice(key, sizeof key), NULL, &step);
    *ret_exists = rc == VD_OK;
    if (rc == VD_ERR_NOT_FOUND)
        rc = VD_OK;
    else if (rc != VD_OK && err != NULL)
        vd_error_copy(&step, err);
    if (own)
        stor_txn_rollback(session);
    return rc;
}

typedef int (*visit_fn)(vd_slice_t key, vd_slice_t value, void *context, vd_error_t *err);

static int rows_visit(stor_session_t *session, vd_slice_t prefix, visit_fn visit, void *context,
                      vd_error_t *err)
{
    bool own;
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    int rc = begin_own(session, &own, err);
    if (rc != VD_OK)
        return rc;
    vd_error_t step = VD_ERROR_INIT;
    rc = stor_cursor_open(session, STOR_CATALOG_TABLE, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_seek(cursor, prefix, true, &key, &value, &step);
    while (rc == VD_OK && vd_slice_starts_with(key, prefix)) {
        rc = visit(key, value, context, &step);
        if (rc == VD_OK)
            rc = stor_cursor_next(cursor, true, &key, &value, &step);
    }
    if (rc == VD_ERR_NOT_FOUND)
        rc = VD_OK;
    else if (rc != VD_OK && err != NULL)
        vd_error_copy(&step, err);
    if (own)
        stor_txn_rollback(session);
    return rc;
}

typedef struct {
    int (*visit)(vd_bson_t row, void *context, vd_error_t *err);
    void *context;
} collections_t;

static int collection_visit(vd_slice_t key, vd_slice_t value, void *context, vd_error_t *err)
{
    (void)key;
    const collections_t *collections = context;
    vd_bson_t row;
    int rc = vd_bson_peek(value, &row, err);
    return rc != VD_OK ? rc : collections->visit(row, collections->context, err);
}

int stor_rows_collections(stor_session_t *session,
                          int (*visit)(vd_bson_t row, void *context, vd_error_t *err),
                          void *context, vd_error_t *err)
{
    collections_t collections = {visit, context};
    return rows_visit(session, VD_SLICE_LIT("c"), collection_visit, &collections, err);
}

int stor_rows_counters_get(stor_session_t *session, uint64_t id, stor_counters_row_t *ret_row,
                           vd_error_t *err)
{
    bool own;
    stor_cursor_t *cursor;
    uint8_t key[9];
    id_key('n', id, key);
    int rc = begin_own(session, &own, err);
    if (rc != VD_OK)
        return rc;
    vd_slice_t value;
    rc = stor_cursor_open(session, STOR_CATALOG_TABLE, &cursor, err);
    if (rc == VD_OK)
        rc = stor_cursor_search(cursor, vd_slice(key, sizeof key), &value, err);
    if (rc == VD_OK && value.len != 24 && value.len != 25) /* rotation/flip.h */
        rc = vd_error_set(err, VD_ERR_CORRUPT, "a counters row is malformed");
    if (rc == VD_OK)
        *ret_row =
            (stor_counters_row_t){(int64_t)vd_get_u64(value.data),
                                  (int64_t)vd_get_u64(value.data + 8), vd_get_u64(value.data + 16)};
    if (own)
        stor_txn_rollback(session);
    return rc;
}

int stor_rows_counters_put(stor_session_t *session, uint64_t id, const stor_counters_row_t *row,
                           vd_error_t *err)
{
    uint8_t key[9], value[24];
    id_key('n', id, key);
    vd_put_u64(value, (uint64_t)row->documents);
    vd_put_u64(value + 8, (uint64_t)row->bytes);
    vd_put_u64(value + 16, row->hash);
    return row_put(session, vd_slice(key, sizeof key), vd_slice(value, sizeof value), err);
}

static vd_slice_t meta_key(const char *name, char buf[64])
{
    int len = snprintf(buf, 64, "m%s", name);
    VD_ASSERT(len > 1 && len < 64);
    return vd_slice(buf, (size_t)len);
}

int stor_catalog_meta_get(stor_session_t *session, const char *name, vd_arena_t *arena,
                          vd_value_t *ret_value, vd_error_t *err)
{
    bool own;
    char buf[64];
    stor_cursor_t *cursor;
    vd_slice_t value;
    vd_bson_t row;
    int rc = begin_own(session, &own, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_open(session, STOR_CATALOG_TABLE, &cursor, err);
    if (rc == VD_OK)
        rc = stor_cursor_search(cursor, meta_key(name, buf), &value, err);
    if (rc == VD_OK)
        rc = vd_bson_peek(value, &row, err);
    if (rc == VD_OK)
        *ret_value = vd_value_copy(arena, vd_bson_get(row, "v"));
    if (own)
        stor_txn_rollback(session);
    return rc;
}

int stor_catalog_meta_put(stor_session_t *session, const char *name, vd_value_t value,
                          vd_error_t *err)
{
    char buf[64];
    if (value.type == VD_BSON_MISSING)
        return row_remove(session, meta_key(name, buf), err);
    vd_bb_t bb;
    vd_bson_t row;
    vd_bb_init(&bb, 64 * 1024);
    vd_bb_value(&bb, VD_SLICE_LIT("v"), value);
    int rc = vd_bb_finish(&bb, &row, err);
    if (rc == VD_OK)
        rc = row_put(session, meta_key(name, buf), vd_slice(row.data, row.len), err);
    vd_bb_done(&bb);
    return rc;
}

typedef struct {
    int (*visit)(void *context, uint64_t number, uint64_t first);
    void *context;
} segments_t;

static int segment_visit(vd_slice_t key, vd_slice_t value, void *context, vd_error_t *err)
{
    const segments_t *segments = context;
    char digits[32];
    vd_slice_t number = vd_slice(key.data + 9, key.len - 9); /* behind "msegment-" */
    vd_bson_t row;
    int rc = vd_bson_peek(value, &row, err);
    if (rc != VD_OK)
        return rc;
    int64_t first = 0;
    if (number.len == 0 || number.len >= sizeof digits ||
        !vd_value_as_int64(vd_bson_get(row, "v"), &first))
        return vd_error_set(err, VD_ERR_CORRUPT, "a row of a journal segment is malformed");
    memcpy(digits, number.data, number.len);
    digits[number.len] = 0;
    rc = segments->visit(segments->context, strtoull(digits, NULL, 10), (uint64_t)first);
    return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "too many journal segments");
}

int stor_catalog_segments(stor_session_t *session,
                          int (*visit)(void *context, uint64_t number, uint64_t first),
                          void *context, vd_error_t *err)
{
    segments_t segments = {visit, context};
    return rows_visit(session, VD_SLICE_LIT("msegment-"), segment_visit, &segments, err);
}

/* ---- indexes ---- */

static void index_key(uint64_t collection_id, uint64_t id, uint8_t key[17])
{
    id_key('x', collection_id, key);
    vd_put_u64_be(key + 9, id);
}

int stor_rows_index_put(stor_session_t *session, uint64_t collection_id, uint64_t id,
                        uint64_t table, vd_bson_t spec, vd_bson_t building, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t row;
    uint8_t key[17];
    char icu[STOR_COLLATION_VERSION_SIZE];
    vd_bb_init(&bb, ROW_MAX_BYTES);
    vd_bb_int64(&bb, "id", (int64_t)id);
    vd_bb_int64(&bb, "collection", (int64_t)collection_id);
    vd_bb_int64(&bb, "table", (int64_t)table);
    vd_bb_document(&bb, "spec", spec);
    vd_value_t collation = vd_bson_get(spec, "collation");
    if (collation.type == VD_BSON_OBJECT &&
        stor_collation_version(vd_value_document(collation), icu))
        vd_bb_cstr(&bb, "icu", icu);
    if (building.len > 0)
        vd_bb_document(&bb, "building", building);
    int rc = vd_bb_finish(&bb, &row, err);
    index_key(collection_id, id, key);
    if (rc == VD_OK)
        rc = row_put(session, vd_slice(key, sizeof key), vd_slice(row.data, row.len), err);
    vd_bb_done(&bb);
    return rc;
}

int stor_rows_index_remove(stor_session_t *session, uint64_t collection_id, uint64_t id,
                           vd_error_t *err)
{
    uint8_t key[17], state[9];
    index_key(collection_id, id, key);
    id_key('k', id, state);
    int rc = row_remove(session, vd_slice(key, sizeof key), err);
    return rc == VD_OK ? row_remove(session, vd_slice(state, sizeof state), err) : rc;
}

int stor_rows_indexes(stor_session_t *session, uint64_t collection_id,
                      int (*visit)(vd_bson_t row, void *context, vd_error_t *err), void *context,
                      vd_error_t *err)
{
    collections_t visitor = {visit, context};
    uint8_t prefix[9];
    id_key('x', collection_id, prefix);
    return rows_visit(session, vd_slice(prefix, collection_id == 0 ? 1 : sizeof prefix),
                      collection_visit, &visitor, err);
}

int stor_rows_index_state_get(stor_session_t *session, uint64_t id, uint32_t *ret_multikey,
                              int64_t *ret_entries, vd_error_t *err)
{
    bool own;
    stor_cursor_t *cursor;
    uint8_t key[9];
    vd_slice_t value;
    vd_error_t step = VD_ERROR_INIT;
    id_key('k', id, key);
    *ret_multikey = 0;
    *ret_entries = 0;
    int rc = begin_own(session, &own, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_open(session, STOR_CATALOG_TABLE, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_search(cursor, vd_slice(key, sizeof key), &value, &step);
    if (rc == VD_OK && value.len != 12 && value.len != 13) /* rotation/flip.h */
        rc = vd_error_set(&step, VD_ERR_CORRUPT, "a row of an index's state is malformed");
    if (rc == VD_OK) {
        *ret_multikey = vd_get_u32(value.data);
        *ret_entries = (int64_t)vd_get_u64(value.data + 4);
    }
    if (rc == VD_ERR_NOT_FOUND)
        rc = VD_OK;
    else if (rc != VD_OK && err != NULL)
        vd_error_copy(&step, err);
    if (own)
        stor_txn_rollback(session);
    return rc;
}

int stor_rows_index_state_put(stor_session_t *session, uint64_t id, uint32_t multikey,
                              int64_t entries, vd_error_t *err)
{
    uint8_t key[9], value[12];
    id_key('k', id, key);
    vd_put_u32(value, multikey);
    vd_put_u64(value + 4, (uint64_t)entries);
    return row_put(session, vd_slice(key, sizeof key), vd_slice(value, sizeof value), err);
}

/* ---- a collection goes ---- */

#define INDEXES_MAX 64 /* of a collection; more come in another round */

typedef struct {
    uint64_t ids[INDEXES_MAX];
    uint32_t count;
} index_ids_t;

static int index_id_note(vd_bson_t row, void *context, vd_error_t *err)
{
    index_ids_t *ids = context;
    int64_t id;
    if (!vd_value_as_int64(vd_bson_get(row, "id"), &id))
        return vd_error_set(err, VD_ERR_CORRUPT, "a row of an index is malformed");
    if (ids->count < INDEXES_MAX)
        ids->ids[ids->count++] = (uint64_t)id;
    return VD_OK;
}

static int indexes_remove(stor_session_t *session, uint64_t collection_id, vd_error_t *err)
{
    for (;;) {
        index_ids_t ids = {.count = 0};
        int rc = stor_rows_indexes(session, collection_id, index_id_note, &ids, err);
        for (uint32_t i = 0; rc == VD_OK && i < ids.count; i++)
            rc = stor_rows_index_remove(session, collection_id, ids.ids[i], err);
        if (rc != VD_OK || ids.count < INDEXES_MAX)
            return rc;
    }
}

int stor_rows_collection_remove(stor_session_t *session, uint64_t id, vd_error_t *err)
{
    uint8_t key[9];
    int rc = indexes_remove(session, id, err);
    id_key('c', id, key);
    if (rc == VD_OK)
        rc = row_remove(session, vd_slice(key, sizeof key), err);
    id_key('n', id, key);
    return rc == VD_OK ? row_remove(session, vd_slice(key, sizeof key), err) : rc;
}
