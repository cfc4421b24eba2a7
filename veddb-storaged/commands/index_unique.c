/* veddb-storaged/commands/index_unique.c — see index_unique.h. */
#include "veddb-storaged/commands/index_unique.h"

#include "libcommon/base/clock.h"
#include "veddb-storaged/engine/keycode.h"
#include "veddb-storaged/exec/scan.h"
#include "veddb-storaged/index/index_private.h"

#define CLOCK_EVERY   64
#define KEY_MAX_BYTES (16u << 20)

typedef struct {
    stor_request_t *request;
    uint64_t collection_id, index_id;
    vd_buf_t last, fields, id; /* the entry before: its key, and its parts */
    vd_bb_t bb;                /* violations */
    uint32_t groups, ids;      /* ids of the group that is open; 0: none is */
    bool more, full;
    vd_arena_t *scratch;
} look_t;

static int keep(vd_buf_t *buf, vd_slice_t bytes, vd_error_t *err)
{
    vd_buf_clear(buf);
    return vd_buf_append_slice(buf, bytes) == VD_OK
               ? VD_OK
               : vd_error_set(err, VD_ERR_CORRUPT, "a key of an index is too long");
}

static void id_add(look_t *look, vd_slice_t id_key)
{
    char buf[12];
    vd_value_t id;
    vd_slice_t none = VD_SLICE_NULL;
    if (stor_keycode_decode(look->scratch, &id_key, &none, false, &id, NULL) == VD_OK)
        vd_bb_value(&look->bb, vd_array_name(look->ids, buf), id);
    look->ids++;
}

static void group_end(look_t *look)
{
    if (look->ids == 0)
        return;
    vd_bb_close(&look->bb);
    vd_bb_close(&look->bb);
    look->ids = 0;
    look->full = vd_bb_len(&look->bb) > STOR_VIOLATIONS_BYTES;
}

static int entry_look(look_t *look, const stor_index_def_t *def, vd_slice_t key, vd_slice_t value,
                      vd_error_t *err)
{
    char buf[12];
    stor_index_entry_t entry;
    int rc = stor_index_entry_read(def, key, value, &entry, err);
    if (rc != VD_OK)
        return rc;
    if (vd_slice_equal(entry.fields, vd_buf_slice(&look->fields))) {
        vd_arena_reset(look->scratch);
        if (look->ids == 0) {
            vd_bb_open_document(&look->bb, vd_array_name(look->groups++, buf));
            vd_bb_begin_array(&look->bb, "ids");
            id_add(look, vd_buf_slice(&look->id));
        }
        if (vd_bb_len(&look->bb) < STOR_VIOLATIONS_BYTES)
            id_add(look, entry.id_key);
        return VD_OK;
    }
    group_end(look);
    rc = keep(&look->fields, entry.fields, err);
    return rc == VD_OK ? keep(&look->id, entry.id_key, err) : rc;
}

/* Entries of one snapshot. VD_ERR_NOT_FOUND behind the last one. */
static int stretch_walk(look_t *look, const stor_index_t *index, vd_error_t *err)
{
    stor_cursor_t *cursor;
    vd_slice_t key, value, last = vd_buf_slice(&look->last);
    uint64_t ends_us = vd_monotonic_us() + STOR_SCAN_STRETCH_MS * 1000;
    int rc = stor_cursor_open(look->request->session, index->table, &cursor, err);
    if (rc == VD_OK)
        rc = last.len == 0 ? stor_cursor_next(cursor, true, &key, &value, err)
                           : stor_cursor_seek(cursor, last, true, &key, &value, err);
    if (rc == VD_OK && last.len > 0 && vd_slice_equal(key, last))
        rc = stor_cursor_next(cursor, true, &key, &value, err);
    for (uint32_t n = 1; rc == VD_OK; n++) {
        rc = entry_look(look, index->def, key, value, err);
        if (rc == VD_OK && (look->full || (n % CLOCK_EVERY == 0 && vd_monotonic_us() > ends_us))) {
            look->more = !look->full;
            return keep(&look->last, key, err);
        }
        if (rc == VD_OK)
            rc = stor_cursor_next(cursor, true, &key, &value, err);
    }
    return rc;
}

static int stretch(look_t *look, vd_error_t *err)
{
    stor_request_t *request = look->request;
    stor_collection_t *collection;
    int rc = stor_catalog_acquire_id(request, look->collection_id, &collection, err);
    if (rc != VD_OK)
        return rc;
    const stor_index_t *index = stor_index_set_find(collection->indexes, look->index_id);
    if (index == NULL)
        rc = vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "the index is gone");
    if (rc == VD_OK)
        rc = stor_txn_begin(request->session, err);
    if (rc == VD_OK) {
        vd_error_t step = VD_ERROR_INIT;
        rc = stretch_walk(look, index, &step);
        stor_txn_rollback(request->session); /* it only read */
        if (rc == VD_ERR_NOT_FOUND)
            rc = VD_OK;
        else if (rc != VD_OK)
            rc = vd_error_set(err, rc, "%s", step.message);
    }
    stor_catalog_release(request, collection);
    return rc;
}

static int violations_tell(look_t *look, vd_error_t *err)
{
    vd_bson_t details;
    group_end(look);
    vd_bb_close(&look->bb);
    if (look->groups == 0)
        return VD_OK;
    int rc = vd_bb_finish(&look->bb, &details, err);
    if (rc != VD_OK)
        return rc;
    rc = vd_error_set(err, VD_ERR_CANNOT_CONVERT_INDEX_TO_UNIQUE,
                      "Cannot convert the index to unique. Please resolve conflicting documents "
                      "before running collMod again.");
    if (err != NULL)
        err->details = vd_slice(details.data, details.len);
    return rc;
}

int stor_index_unique_check(stor_request_t *request, uint64_t collection_id, uint64_t index_id,
                            vd_error_t *err)
{
    look_t look = {.request = request,
                   .collection_id = collection_id,
                   .index_id = index_id,
                   .more = true,
                   .scratch = vd_arena_create()};
    int rc = VD_OK;
    vd_buf_init(&look.last, KEY_MAX_BYTES);
    vd_buf_init(&look.fields, KEY_MAX_BYTES);
    vd_buf_init(&look.id, KEY_MAX_BYTES);
    vd_bb_init_arena(&look.bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_begin_array(&look.bb, "violations");
    while (rc == VD_OK && look.more) {
        look.more = false;
        rc = stor_request_check(request, err);
        if (rc == VD_OK)
            rc = stretch(&look, err);
    }
    if (rc == VD_OK)
        rc = violations_tell(&look, err);
    vd_buf_done(&look.last);
    vd_buf_done(&look.fields);
    vd_buf_done(&look.id);
    vd_arena_destroy(&look.scratch);
    return rc;
}
