/* veddb-storaged/commands/validate_indexes.c — see validate_indexes.h. */
#include "veddb-storaged/commands/validate_indexes.h"

#include "libcommon/base/clock.h"
#include "veddb-storaged/exec/scan.h"
#include "veddb-storaged/index/index_private.h"

#define CLOCK_EVERY 64

typedef struct {
    stor_request_t *request;
    const stor_collection_t *collection;
    stor_validate_indexes_t *result;
    vd_arena_t *scratch;
} look_t;

/* {indexName, idKey, indexKey}: as MongoDB shows it, without the number of the record. */
static void show(look_t *look, const stor_validate_index_t *item, vd_slice_t id_key,
                 vd_slice_t fields, vd_slice_t type_bits, vd_bson_t *list, uint32_t *count)
{
    vd_arena_t *arena = look->request->arena;
    if (*count == STOR_VALIDATE_SHOWN_MAX)
        return;
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_value_t id;
    vd_slice_t none = VD_SLICE_NULL;
    vd_bb_init_arena(bb, arena, 64 * 1024); /* one that is larger is counted, and not shown */
    vd_bb_string(bb, "indexName", item->name);
    vd_bb_begin_document(bb, "idKey");
    if (stor_keycode_decode(look->scratch, &id_key, &none, false, &id, NULL) == VD_OK)
        vd_bb_value(bb, VD_SLICE_LIT("_id"), id);
    vd_bb_close(bb);
    vd_bb_document(bb, "indexKey",
                   stor_index_entry_values(look->scratch, item->index->def, fields, type_bits));
    if (vd_bb_finish(bb, &list[*count], NULL) == VD_OK)
        ++*count;
}

/* ---- every document's keys ---- */

static int key_look(look_t *look, stor_validate_index_t *item, const stor_index_key_t *key,
                    vd_slice_t id_key, vd_error_t *err)
{
    const stor_index_def_t *def = item->index->def;
    stor_cursor_t *cursor;
    vd_slice_t value;
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_cursor_open(look->request->session, item->index->table, &cursor, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_search(cursor, stor_index_entry_key(look->scratch, def, key->key, id_key),
                            &value, &step);
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND)
        return vd_error_set(err, rc, "%s", step.message);
    vd_slice_t want = stor_index_entry_value(look->scratch, def, key, id_key);
    /* All but the epoch. */
    bool same = rc == VD_OK && value.len == want.len &&
                memcmp(value.data + 1, want.data + 1, want.len - 1) == 0;
    if (same)
        return VD_OK;
    item->valid = false;
    item->missing++;
    show(look, item, id_key, key->key, key->type_bits, look->result->missing,
         &look->result->missing_count);
    return VD_OK;
}

static int document_look(look_t *look, const stor_record_t *record, vd_error_t *err)
{
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < look->result->count; i++) {
        stor_validate_index_t *item = &look->result->items[i];
        stor_index_keys_t keys;
        vd_error_t step = VD_ERROR_INIT;
        if (item->error != NULL)
            continue;
        rc = stor_index_keys_make(item->index->def, look->scratch, record->document, &keys, &step);
        if (rc != VD_OK) {
            item->valid = false;
            item->error = vd_arena_strdup(look->request->arena, step.message);
            rc = VD_OK;
            continue;
        }
        if ((keys.multikey & ~(uint32_t)atomic_load(&item->index->multikey)) != 0) {
            item->valid = false;
            item->error = "a document has an array where the index is not known to have one";
        }
        for (uint32_t k = 0; rc == VD_OK && k < keys.count; k++)
            rc = key_look(look, item, &keys.keys[k], record->key, err);
    }
    return rc;
}

static int documents_look(look_t *look, vd_error_t *err)
{
    stor_request_t *request = look->request;
    stor_scan_options_t options = {.collection_id = look->collection->id};
    stor_scan_t *scan = NULL;
    stor_record_t record;
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_scan_open(request->arena, &options, &scan, err);
    if (rc != VD_OK)
        return rc;
    /* The scan's transaction stays open until its next call: the entries are of its snapshot. */
    while (rc == VD_OK && (rc = stor_scan_next(scan, request, &record, &step)) == VD_OK) {
        vd_arena_reset(look->scratch);
        rc = document_look(look, &record, &step);
    }
    stor_scan_close(&scan);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : vd_error_set(err, rc, "%s", step.message);
}

/* ---- every entry's document ---- */

static int entry_look(look_t *look, stor_validate_index_t *item, vd_slice_t key, vd_slice_t value,
                      vd_error_t *err)
{
    const stor_index_def_t *def = item->index->def;
    stor_cursor_t *documents;
    stor_index_entry_t entry;
    stor_index_keys_t keys = {.count = 0};
    vd_slice_t document_value;
    vd_bson_t document;
    uint64_t version;
    vd_error_t step = VD_ERROR_INIT;
    item->entries++;
    bool good = stor_index_entry_read(def, key, value, &entry, NULL) == VD_OK, found = false;
    if (!good)
        entry = (stor_index_entry_t){.fields = key};
    int rc = stor_cursor_open(look->request->session, look->collection->table, &documents, err);
    if (rc != VD_OK)
        return rc;
    if (good) {
        rc = stor_cursor_search(documents, entry.id_key, &document_value, &step);
        if (rc == VD_OK)
            rc = stor_envelope_read(document_value, &document, &version, &step);
        if (rc == VD_OK)
            rc = stor_index_keys_make(def, look->scratch, document, &keys, &step);
        if (rc == VD_ERR_NOT_FOUND)
            rc = VD_OK;
        if (rc != VD_OK)
            return vd_error_set(err, rc, "%s", step.message);
    }
    for (uint32_t i = 0; !found && i < keys.count; i++)
        found = vd_slice_equal(keys.keys[i].key, entry.fields);
    if (found)
        return VD_OK;
    item->valid = false;
    item->extra++;
    show(look, item, entry.id_key, entry.fields, entry.type_bits, look->result->extra,
         &look->result->extra_count);
    return VD_OK;
}

typedef struct {
    vd_buf_t last;
    bool more;
} walk_t;

static int stretch_walk(look_t *look, stor_validate_index_t *item, walk_t *walk, vd_error_t *err)
{
    stor_cursor_t *cursor;
    vd_slice_t key, value, last = vd_buf_slice(&walk->last);
    uint64_t ends_us = vd_monotonic_us() + STOR_SCAN_STRETCH_MS * 1000;
    int rc = stor_cursor_open(look->request->session, item->index->table, &cursor, err);
    if (rc == VD_OK)
        rc = last.len == 0 ? stor_cursor_next(cursor, true, &key, &value, err)
                           : stor_cursor_seek(cursor, last, true, &key, &value, err);
    if (rc == VD_OK && last.len > 0 && vd_slice_equal(key, last))
        rc = stor_cursor_next(cursor, true, &key, &value, err);
    for (uint32_t n = 1; rc == VD_OK; n++) {
        vd_arena_reset(look->scratch);
        rc = entry_look(look, item, key, value, err);
        if (rc == VD_OK && n % CLOCK_EVERY == 0 && vd_monotonic_us() > ends_us) {
            vd_buf_clear(&walk->last);
            walk->more = true;
            return vd_buf_append_slice(&walk->last, key) == VD_OK
                       ? VD_OK
                       : vd_error_set(err, VD_ERR_CORRUPT, "a key of an index is too long");
        }
        if (rc == VD_OK)
            rc = stor_cursor_next(cursor, true, &key, &value, err);
    }
    return rc;
}

static int entries_look(look_t *look, stor_validate_index_t *item, vd_error_t *err)
{
    stor_request_t *request = look->request;
    walk_t walk = {.more = true};
    int rc = VD_OK;
    vd_buf_init(&walk.last, 16 << 20);
    while (rc == VD_OK && walk.more) {
        vd_error_t step = VD_ERROR_INIT;
        walk.more = false;
        rc = stor_request_check(request, err);
        if (rc == VD_OK)
            rc = stor_txn_begin(request->session, err);
        if (rc != VD_OK)
            break;
        rc = stretch_walk(look, item, &walk, &step);
        stor_txn_rollback(request->session); /* it only read */
        if (rc == VD_ERR_NOT_FOUND)
            rc = VD_OK;
        else if (rc != VD_OK)
            rc = vd_error_set(err, rc, "%s", step.message);
    }
    vd_buf_done(&walk.last);
    return rc;
}

int stor_validate_indexes(stor_request_t *request, const stor_collection_t *collection,
                          stor_validate_indexes_t *ret, vd_error_t *err)
{
    const stor_index_set_t *set = collection->indexes;
    *ret = (stor_validate_indexes_t){.count = 0};
    ret->items =
        VD_ARENA_ARRAY(request->arena, stor_validate_index_t, set == NULL ? 1 : set->count);
    for (uint32_t i = 0; set != NULL && i < set->count; i++)
        if (atomic_load(&set->items[i]->state) == STOR_INDEX_READY)
            ret->items[ret->count++] = (stor_validate_index_t){
                .index = set->items[i],
                .id = set->items[i]->id,
                .name = vd_arena_copy_slice(request->arena, set->items[i]->def->name),
                .valid = true};
    if (ret->count == 0)
        return VD_OK;
    look_t look = {request, collection, ret, vd_arena_create()};
    int rc = documents_look(&look, err);
    for (uint32_t i = 0; rc == VD_OK && i < ret->count; i++)
        rc = entries_look(&look, &ret->items[i], err);
    vd_arena_destroy(&look.scratch);
    return rc;
}
