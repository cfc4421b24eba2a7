/* veddb-storaged/exec/sampling.c — see sampling.h.
 *
 * A row: key = id of the collection (u64 BE), value = BSON {set, documents, taken, sample:
 * documents one behind the other, indexes: [{id, entries, duplicates, keys: u16 length and bytes
 * each}]}. */
#include "veddb-storaged/exec/sampling.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/engine/keycode.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/index/index.h"

#define TABLE      "statistics"
#define EVENLY_MAX 20000 /* records that are walked to take a sample of them */
#define SWEEP_MAX  1000  /* rows removed in one transaction */

void stor_statistics_unreference(stor_statistics_t **statistics_p)
{
    stor_statistics_t *statistics = *statistics_p;
    *statistics_p = NULL;
    if (statistics == NULL || atomic_fetch_sub(&statistics->references, 1) > 1)
        return;
    vd_arena_destroy(&statistics->arena);
    vd_free(statistics);
}

uint64_t stor_statistics_set(const stor_index_set_t *set)
{
    uint64_t hash = 0xcbf29ce484222325ull;
    for (uint32_t i = 0; set != NULL && i < set->count; i++)
        hash =
            (hash ^ set->items[i]->table_number << 32 ^
             (set->items[i]->id << 2 | (uint64_t)(set->items[i]->state == STOR_INDEX_READY) << 1 |
              set->items[i]->def->hidden)) *
            0x100000001b3ull;
    return hash;
}

/* ---- samples ---- */

typedef struct {
    vd_arena_t *arena;
    const stor_index_def_t *def;
    vd_slice_t *keys;
    vd_bson_t *documents;
    uint32_t count, most;
    size_t bytes;
} taker_t;

static int take_key(vd_slice_t key, vd_slice_t value, void *context)
{
    taker_t *taker = context;
    stor_index_entry_t entry;
    int rc = stor_index_entry_read(taker->def, key, value, &entry, NULL);
    if (rc == VD_OK && taker->count < taker->most)
        taker->keys[taker->count++] = vd_arena_copy_slice(taker->arena, entry.fields);
    return rc;
}

static int take_document(vd_slice_t key, vd_slice_t value, void *context)
{
    taker_t *taker = context;
    vd_bson_t document;
    uint64_t version;
    (void)key;
    int rc = stor_envelope_read(value, &document, &version, NULL);
    if (rc != VD_OK || taker->count == taker->most ||
        taker->bytes + document.len > STOR_SAMPLE_DOCUMENTS_BYTES)
        return rc;
    taker->bytes += document.len;
    taker->documents[taker->count++] =
        (vd_bson_t){vd_arena_copy(taker->arena, document.data, document.len), document.len};
    return VD_OK;
}

/* Each so many-th record when they are few: the engine's random places favour records on pages that
 * hold few, which evens out only where there are many pages. */
static int take_evenly(stor_request_t *request, const char *table, int64_t total, taker_t *taker,
                       int (*visit)(vd_slice_t key, vd_slice_t value, void *context))
{
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    vd_error_t err = VD_ERROR_INIT;
    int64_t stride = total / taker->most + 1, at = 0;
    int rc = stor_cursor_acquire(request->session, table, &cursor, &err);
    if (rc != VD_OK)
        return rc;
    while (rc == VD_OK && (rc = stor_cursor_next(cursor, true, &key, &value, &err)) == VD_OK) {
        if (at++ % stride == 0)
            rc = visit(key, value, taker);
        if (rc == VD_OK)
            rc = stor_request_check(request, &err);
    }
    stor_cursor_release(&cursor);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int take(stor_request_t *request, const char *table, int64_t total, taker_t *taker,
                int (*visit)(vd_slice_t key, vd_slice_t value, void *context))
{
    return total <= EVENLY_MAX
               ? take_evenly(request, table, total, taker, visit)
               : stor_cursor_random(request->session, table, visit, taker, taker->most, NULL);
}

static int sample_index(stor_statistics_t *statistics, stor_request_t *request, stor_index_t *index)
{
    vd_arena_t *arena = statistics->arena;
    int64_t entries = atomic_load(&index->entries);
    taker_t taker = {.arena = arena,
                     .def = index->def,
                     .keys = VD_ARENA_ARRAY(arena, vd_slice_t, STOR_SAMPLE_KEYS_MAX),
                     .most = STOR_SAMPLE_KEYS_MAX};
    int rc = take(request, index->table, entries, &taker, take_key);
    if (rc != VD_OK)
        return rc;
    stor_key_sample_t *sample = &statistics->indexes[statistics->index_count];
    stor_key_sample_init(sample, index->def, taker.keys, taker.count, entries);
    if (statistics->documents > 0 && entries > statistics->documents)
        sample->duplicates = (double)entries / (double)statistics->documents;
    statistics->index_ids[statistics->index_count++] = index->id;
    return VD_OK;
}

stor_statistics_t *stor_statistics_take(stor_request_t *request,
                                        const stor_collection_t *collection)
{
    stor_statistics_t *statistics = vd_xalloc(sizeof *statistics);
    vd_arena_t *arena = statistics->arena = vd_arena_create();
    bool own = !stor_txn_active(request->session);
    atomic_init(&statistics->references, 1);
    statistics->documents = atomic_load(&collection->documents);
    statistics->taken_wall_ms = vd_wall_ms();
    statistics->set = stor_statistics_set(collection->indexes);
    taker_t taker = {.arena = arena,
                     .documents = VD_ARENA_ARRAY(arena, vd_bson_t, STOR_SAMPLE_DOCUMENTS_MAX),
                     .most = STOR_SAMPLE_DOCUMENTS_MAX};
    int rc = own ? stor_txn_begin(request->session, NULL) : VD_OK;
    if (rc == VD_OK)
        rc = take(request, collection->table, statistics->documents, &taker, take_document);
    const stor_index_set_t *set = collection->indexes;
    for (uint32_t i = 0; rc == VD_OK && set != NULL && i < set->count; i++)
        if (set->items[i]->state == STOR_INDEX_READY &&
            statistics->index_count < VD_COUNT_OF(statistics->indexes))
            rc = sample_index(statistics, request, set->items[i]);
    if (own && stor_txn_active(request->session))
        stor_txn_rollback(request->session); /* it only read */
    statistics->sample =
        (stor_document_sample_t){taker.count, taker.documents, statistics->documents};
    if (rc != VD_OK)
        stor_statistics_unreference(&statistics);
    return statistics;
}

/* ---- the table ---- */

static int find_table(const char *name, void *context)
{
    *(bool *)context |= strcmp(name, TABLE) == 0;
    return VD_OK;
}

int stor_statistics_open(stor_engine_t *engine, vd_error_t *err)
{
    bool found = false;
    int rc = stor_engine_tables(engine, find_table, &found, err);
    return rc == VD_OK && !found ? stor_engine_table_create(engine, TABLE, false, err) : rc;
}

static int append_index(vd_bb_t *bb, uint64_t id, const stor_key_sample_t *sample, vd_slice_t name,
                        vd_error_t *err)
{
    vd_buf_t keys;
    int rc = VD_OK;
    vd_buf_init(&keys, STOR_STATISTICS_ROW_MAX);
    for (uint32_t i = 0; rc == VD_OK && i < sample->count; i++) {
        uint8_t head[2] = {(uint8_t)(sample->keys[i].len >> 8), (uint8_t)sample->keys[i].len};
        rc = sample->keys[i].len > UINT16_MAX ? VD_ERR_FULL : vd_buf_append(&keys, head, 2);
        if (rc == VD_OK)
            rc = vd_buf_append_slice(&keys, sample->keys[i]);
    }
    if (rc == VD_OK) {
        vd_bb_open_document(bb, name);
        vd_bb_int64(bb, "id", (int64_t)id);
        vd_bb_int64(bb, "entries", sample->entries);
        vd_bb_double(bb, "duplicates", sample->duplicates);
        vd_bb_binary(bb, "keys", 0, vd_buf_slice(&keys));
        vd_bb_close(bb);
    }
    vd_buf_done(&keys);
    return rc == VD_OK ? rc : vd_error_set(err, VD_ERR_FULL, "a sample is too large to be kept");
}

static int row_make(vd_bb_t *bb, const stor_statistics_t *statistics, vd_bson_t *ret_row,
                    vd_error_t *err)
{
    vd_buf_t documents;
    char buf[12];
    int rc = VD_OK;
    vd_bb_int64(bb, "set", (int64_t)statistics->set);
    vd_bb_int64(bb, "documents", statistics->documents);
    vd_bb_date(bb, "taken", statistics->taken_wall_ms);
    vd_buf_init(&documents, STOR_SAMPLE_DOCUMENTS_BYTES + 1);
    for (uint32_t i = 0; rc == VD_OK && i < statistics->sample.count; i++)
        rc = vd_buf_append(&documents, statistics->sample.documents[i].data,
                           statistics->sample.documents[i].len);
    vd_bb_binary(bb, "sample", 0, vd_buf_slice(&documents));
    vd_buf_done(&documents);
    vd_bb_begin_array(bb, "indexes");
    for (uint32_t i = 0; rc == VD_OK && i < statistics->index_count; i++)
        rc = append_index(bb, statistics->index_ids[i], &statistics->indexes[i],
                          vd_array_name(i, buf), err);
    vd_bb_close(bb);
    return rc == VD_OK ? vd_bb_finish(bb, ret_row, err) : rc;
}

int stor_statistics_store(stor_session_t *session, uint64_t collection_id,
                          stor_statistics_t *statistics, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t row;
    uint8_t key[8];
    stor_cursor_t *cursor;
    vd_put_u64_be(key, collection_id);
    vd_bb_init(&bb, STOR_STATISTICS_ROW_MAX);
    atomic_store(&statistics->stored, true); /* what is too large is not tried again, either */
    int rc = row_make(&bb, statistics, &row, err);
    if (rc != VD_OK) {
        vd_bb_done(&bb);
        return VD_OK;
    }
    rc = stor_txn_begin(session, err);
    if (rc == VD_OK) {
        rc = stor_cursor_open(session, TABLE, &cursor, err);
        if (rc == VD_OK)
            rc = stor_cursor_put(cursor, vd_slice(key, sizeof key), vd_slice(row.data, row.len),
                                 err);
        if (rc == VD_OK)
            rc = stor_txn_commit(session, err);
        else
            stor_txn_rollback(session);
    }
    if (rc != VD_OK)
        atomic_store(&statistics->stored, false);
    vd_bb_done(&bb);
    return rc;
}

static bool documents_read(stor_statistics_t *statistics, vd_slice_t bytes)
{
    stor_document_sample_t *sample = &statistics->sample;
    sample->documents = VD_ARENA_ARRAY(statistics->arena, vd_bson_t, STOR_SAMPLE_DOCUMENTS_MAX);
    sample->total = statistics->documents;
    while (bytes.len >= 5) {
        uint32_t len = vd_get_u32(bytes.data);
        if (len < 5 || len > bytes.len || sample->count == STOR_SAMPLE_DOCUMENTS_MAX ||
            vd_bson_validate(vd_slice(bytes.data, len), 0, VD_BSON_BUILD_DEPTH_MAX, NULL) != VD_OK)
            return false;
        sample->documents[sample->count++] =
            (vd_bson_t){vd_arena_copy(statistics->arena, bytes.data, len), len};
        bytes = vd_slice(bytes.data + len, bytes.len - len);
    }
    return bytes.len == 0;
}

/* It is a key of the index: as many codes as it has, and nothing behind them. */
static bool is_key(const stor_index_def_t *def, vd_slice_t key)
{
    for (uint32_t i = 0; i < def->field_count; i++) {
        bool twice = def->fields[i].order == STOR_INDEX_WILDCARD;
        bool descending = def->fields[i].order == STOR_INDEX_DESCENDING;
        if (stor_keycode_skip(&key, descending, NULL, NULL) != VD_OK ||
            (twice && stor_keycode_skip(&key, descending, NULL, NULL) != VD_OK))
            return false;
    }
    return key.len == 0;
}

static bool index_read(stor_statistics_t *statistics, const stor_index_t *index, vd_bson_t item)
{
    int64_t entries = 0;
    uint32_t count = 0;
    vd_value_t keys = vd_bson_get(item, "keys"), duplicates = vd_bson_get(item, "duplicates");
    if (keys.type != VD_BSON_BINARY || duplicates.type != VD_BSON_DOUBLE ||
        !vd_value_as_int64(vd_bson_get(item, "entries"), &entries))
        return false;
    vd_slice_t bytes = vd_value_binary(keys, NULL);
    vd_slice_t *list = VD_ARENA_ARRAY(statistics->arena, vd_slice_t, STOR_SAMPLE_KEYS_MAX);
    while (bytes.len >= 2) {
        size_t len = (size_t)bytes.data[0] << 8 | bytes.data[1];
        vd_slice_t key = vd_slice(bytes.data + 2, len);
        if (len > bytes.len - 2 || count == STOR_SAMPLE_KEYS_MAX || !is_key(index->def, key))
            return false;
        list[count++] = vd_arena_copy_slice(statistics->arena, key);
        bytes = vd_slice(key.data + len, bytes.len - 2 - len);
    }
    stor_key_sample_t *sample = &statistics->indexes[statistics->index_count];
    stor_key_sample_init(sample, index->def, list, count, entries);
    sample->duplicates = vd_value_double(duplicates);
    statistics->index_ids[statistics->index_count++] = index->id;
    return bytes.len == 0;
}

static const stor_index_t *index_of(const stor_collection_t *collection, int64_t id)
{
    const stor_index_set_t *set = collection->indexes;
    for (uint32_t i = 0; set != NULL && i < set->count; i++)
        if (set->items[i]->id == (uint64_t)id)
            return set->items[i];
    return NULL;
}

/* Of what is damaged, or of another set of indexes, nothing is taken. */
static bool row_read(stor_statistics_t *statistics, const stor_collection_t *collection,
                     vd_bson_t row)
{
    int64_t set = 0, id = 0;
    vd_value_t taken = vd_bson_get(row, "taken"), sample = vd_bson_get(row, "sample"),
               indexes = vd_bson_get(row, "indexes");
    vd_bson_iter_t iter;
    if (!vd_value_as_int64(vd_bson_get(row, "set"), &set) ||
        (uint64_t)set != stor_statistics_set(collection->indexes) || taken.type != VD_BSON_DATE ||
        sample.type != VD_BSON_BINARY || indexes.type != VD_BSON_ARRAY ||
        !vd_value_as_int64(vd_bson_get(row, "documents"), &statistics->documents))
        return false;
    statistics->set = (uint64_t)set;
    statistics->taken_wall_ms = vd_value_int64(taken);
    if (!documents_read(statistics, vd_value_binary(sample, NULL)))
        return false;
    vd_bson_iter_init(&iter, vd_value_document(indexes));
    while (vd_bson_iter_next(&iter)) {
        const stor_index_t *index = NULL;
        if (iter.value.type == VD_BSON_OBJECT &&
            vd_value_as_int64(vd_bson_get(vd_value_document(iter.value), "id"), &id))
            index = index_of(collection, id);
        if (index == NULL || statistics->index_count == STOR_STATISTICS_INDEXES ||
            !index_read(statistics, index, vd_value_document(iter.value)))
            return false;
    }
    return true;
}

stor_statistics_t *stor_statistics_load(stor_session_t *session,
                                        const stor_collection_t *collection)
{
    stor_cursor_t *cursor;
    vd_slice_t value;
    uint8_t key[8];
    vd_error_t err = VD_ERROR_INIT;
    bool own = !stor_txn_active(session);
    stor_statistics_t *statistics = NULL;
    vd_put_u64_be(key, collection->id);
    int rc = own ? stor_txn_begin(session, &err) : VD_OK;
    if (rc != VD_OK)
        return NULL;
    rc = stor_cursor_open(session, TABLE, &cursor, &err);
    if (rc == VD_OK)
        rc = stor_cursor_search(cursor, vd_slice(key, sizeof key), &value, &err);
    vd_bson_t row;
    if (rc == VD_OK && vd_bson_peek(value, &row, NULL) == VD_OK &&
        vd_bson_validate(vd_slice(row.data, row.len), 0, VD_BSON_BUILD_DEPTH_MAX, NULL) == VD_OK) {
        statistics = vd_xalloc(sizeof *statistics);
        statistics->arena = vd_arena_create();
        atomic_init(&statistics->references, 1);
        atomic_init(&statistics->stored, true);
        if (!row_read(statistics, collection, row))
            stor_statistics_unreference(&statistics);
    }
    if (rc == VD_OK)
        stor_cursor_reset(cursor);
    if (own)
        stor_txn_rollback(session); /* it only read */
    return statistics;
}

int stor_statistics_sweep(stor_catalog_t *catalog, stor_session_t *session, vd_error_t *err)
{
    stor_cursor_t *cursor;
    vd_slice_t key;
    uint8_t(*gone)[8] = vd_xalloc(SWEEP_MAX * sizeof *gone);
    uint32_t count = 0;
    int rc = stor_txn_begin(session, err);
    if (rc == VD_OK)
        rc = stor_cursor_open(session, TABLE, &cursor, err);
    while (rc == VD_OK && count < SWEEP_MAX &&
           (rc = stor_cursor_next(cursor, true, &key, NULL, err)) == VD_OK) {
        stor_collection_t *collection =
            key.len == 8 ? stor_catalog_reference(catalog, vd_get_u64_be(key.data)) : NULL;
        if (collection == NULL && key.len == 8)
            memcpy(gone[count++], key.data, 8);
        stor_catalog_unreference(&collection);
    }
    if (rc == VD_ERR_NOT_FOUND)
        rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < count; i++)
        rc = stor_cursor_remove(cursor, vd_slice(gone[i], 8), err);
    if (rc == VD_OK && count > 0)
        rc = stor_txn_commit(session, err);
    else if (stor_txn_active(session))
        stor_txn_rollback(session);
    vd_free(gone);
    return rc;
}
