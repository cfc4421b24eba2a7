/* veddb-storaged/scrub_indexes.c — see scrub_indexes.h. */
#include "veddb-storaged/scrub_indexes.h"

#include "veddb-storaged/envelope.h"
#include "veddb-storaged/index/index_private.h"

#include <time.h>

#define STEP_DOCUMENTS 200
#define STEP_ENTRIES   500
#define KEY_MAX_BYTES  (16u << 20)

typedef struct {
    stor_storage_t *storage;
    stor_session_t *session;
    uint64_t collection_id;
    uint32_t pause_us;
    const atomic_bool *stop;
    stor_collection_t *collection; /* of the step, referenced: taken before its snapshot, so an
                                      index that is ready in it is whole in the snapshot */
    vd_buf_t last;
    bool more;
    vd_arena_t *arena;
    stor_scrub_indexes_t result;
} scrub_t;

static void pause(uint32_t us)
{
    struct timespec rest = {us / 1000000, (long)(us % 1000000) * 1000};
    (void)nanosleep(&rest, NULL); /* waking early is fine */
}

/* Whether it is still this index: what is found in one that went meanwhile says nothing. */
static bool is_current(const scrub_t *scrub, const stor_index_t *index)
{
    stor_collection_t *collection =
        stor_catalog_reference(scrub->storage->catalog, scrub->collection_id);
    bool current =
        collection != NULL && stor_index_set_find(collection->indexes, index->id) == index;
    stor_catalog_unreference(&collection);
    return current;
}

static void damage(scrub_t *scrub, const stor_index_t *index, int64_t *count)
{
    if (!is_current(scrub, index))
        return;
    ++*count;
    if (scrub->result.index_id == 0)
        scrub->result.index_id = index->id;
}

static bool is_ready(const stor_index_t *index)
{
    return atomic_load(&index->state) == STOR_INDEX_READY;
}

/* ---- documents ---- */

static int key_look(scrub_t *scrub, const stor_index_t *index, const stor_index_key_t *key,
                    vd_slice_t id_key, vd_error_t *err)
{
    stor_cursor_t *cursor;
    vd_slice_t value;
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_cursor_open(scrub->session, index->table, &cursor, err);
    if (rc != VD_OK)
        return rc;
    scrub->result.keys++;
    rc = stor_cursor_search(
        cursor, stor_index_entry_key(scrub->arena, index->def, key->key, id_key), &value, &step);
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND)
        return vd_error_set(err, rc, "%s", step.message);
    vd_slice_t want = stor_index_entry_value(scrub->arena, index->def, key, id_key);
    if (rc != VD_OK || value.len != want.len ||
        memcmp(value.data + 1, want.data + 1, want.len - 1) != 0) /* all but the epoch */
        damage(scrub, index, &scrub->result.missing);
    return VD_OK;
}

static int document_look(scrub_t *scrub, vd_slice_t id_key, vd_slice_t value, vd_error_t *err)
{
    const stor_index_set_t *set = scrub->collection->indexes;
    vd_bson_t document;
    uint64_t version;
    int rc = stor_envelope_read(value, &document, &version, err);
    for (uint32_t i = 0; rc == VD_OK && i < set->count; i++) {
        const stor_index_t *index = set->items[i];
        stor_index_keys_t keys;
        if (!is_ready(index))
            continue;
        vd_arena_reset(scrub->arena);
        if (stor_index_keys_make(index->def, scrub->arena, document, &keys, NULL) != VD_OK) {
            damage(scrub, index, &scrub->result.malformed);
            continue;
        }
        for (uint32_t k = 0; rc == VD_OK && k < keys.count; k++)
            rc = key_look(scrub, index, &keys.keys[k], id_key, err);
    }
    return rc;
}

/* ---- entries ---- */

static int entry_look(scrub_t *scrub, const stor_index_t *index, vd_slice_t key, vd_slice_t value,
                      vd_error_t *err)
{
    stor_cursor_t *documents;
    stor_index_entry_t entry;
    stor_index_keys_t keys = {.count = 0};
    vd_slice_t document_value;
    vd_bson_t document;
    uint64_t version;
    vd_error_t step = VD_ERROR_INIT;
    bool found = false;
    scrub->result.entries++;
    vd_arena_reset(scrub->arena);
    if (stor_index_entry_read(index->def, key, value, &entry, NULL) != VD_OK) {
        damage(scrub, index, &scrub->result.malformed);
        return VD_OK;
    }
    int rc = stor_cursor_open(scrub->session, scrub->collection->table, &documents, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_search(documents, entry.id_key, &document_value, &step);
    if (rc == VD_OK)
        rc = stor_envelope_read(document_value, &document, &version, &step);
    if (rc == VD_OK)
        rc = stor_index_keys_make(index->def, scrub->arena, document, &keys, &step);
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND)
        return vd_error_set(err, rc, "%s", step.message);
    for (uint32_t i = 0; !found && i < keys.count; i++)
        found = vd_slice_equal(keys.keys[i].key, entry.fields);
    if (!found)
        damage(scrub, index, &scrub->result.extra);
    return VD_OK;
}

/* ---- steps ---- */

/* index NULL: over the documents. */
static int walk(scrub_t *scrub, const stor_index_t *index, vd_error_t *err)
{
    stor_cursor_t *cursor;
    vd_slice_t key, value, last = vd_buf_slice(&scrub->last);
    const char *table = index == NULL ? scrub->collection->table : index->table;
    uint32_t most = index == NULL ? STEP_DOCUMENTS : STEP_ENTRIES;
    int rc = stor_cursor_open(scrub->session, table, &cursor, err);
    if (rc == VD_OK)
        rc = last.len == 0 ? stor_cursor_next(cursor, true, &key, &value, err)
                           : stor_cursor_seek(cursor, last, true, &key, &value, err);
    if (rc == VD_OK && last.len > 0 && vd_slice_equal(key, last))
        rc = stor_cursor_next(cursor, true, &key, &value, err);
    for (uint32_t n = 1; rc == VD_OK; n++) {
        rc = index == NULL ? document_look(scrub, key, value, err)
                           : entry_look(scrub, index, key, value, err);
        if (rc == VD_OK && n == most) {
            scrub->more = true;
            vd_buf_clear(&scrub->last);
            return vd_buf_append_slice(&scrub->last, key) == VD_OK
                       ? VD_OK
                       : vd_error_set(err, VD_ERR_CORRUPT, "a key is too long");
        }
        if (rc == VD_OK)
            rc = stor_cursor_next(cursor, true, &key, &value, err);
    }
    return rc;
}

/* VD_ERR_NOT_FOUND: what was looked at is not there any more. */
static int step(scrub_t *scrub, uint64_t index_id, vd_error_t *err)
{
    const stor_index_t *index = NULL;
    vd_error_t failure = VD_ERROR_INIT;
    scrub->more = false;
    scrub->collection = stor_catalog_reference(scrub->storage->catalog, scrub->collection_id);
    const stor_index_set_t *set = scrub->collection == NULL ? NULL : scrub->collection->indexes;
    if (set != NULL && index_id != 0)
        index = stor_index_set_find(set, index_id);
    if (set == NULL || (index_id != 0 && (index == NULL || !is_ready(index)))) {
        stor_catalog_unreference(&scrub->collection);
        return VD_ERR_NOT_FOUND;
    }
    int rc = stor_txn_begin(scrub->session, &failure);
    if (rc == VD_OK) {
        rc = walk(scrub, index, &failure);
        stor_txn_rollback(scrub->session); /* it only read */
    }
    bool gone = false; /* under our hands: no failure */
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND) {
        stor_collection_t *now =
            stor_catalog_reference(scrub->storage->catalog, scrub->collection_id);
        gone = now != scrub->collection;
        stor_catalog_unreference(&now);
    }
    stor_catalog_unreference(&scrub->collection);
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND || gone)
        return gone ? VD_ERR_NOT_FOUND : VD_OK;
    return vd_error_set(err, rc, "%s", failure.message);
}

static int steps(scrub_t *scrub, uint64_t index_id, vd_error_t *err)
{
    vd_buf_clear(&scrub->last);
    scrub->more = true;
    while (scrub->more) {
        if (scrub->stop != NULL && atomic_load_explicit(scrub->stop, memory_order_relaxed))
            return vd_error_set(err, VD_ERR_INTERRUPTED, "the check was stopped");
        int rc = step(scrub, index_id, err);
        if (rc != VD_OK)
            return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
        if (scrub->more && scrub->pause_us > 0)
            pause(scrub->pause_us);
    }
    return VD_OK;
}

int stor_scrub_indexes(stor_storage_t *storage, stor_session_t *session, uint64_t collection_id,
                       uint32_t pause_us, const atomic_bool *stop, stor_scrub_indexes_t *ret_result,
                       vd_error_t *err)
{
    scrub_t scrub = {.storage = storage,
                     .session = session,
                     .collection_id = collection_id,
                     .pause_us = pause_us,
                     .stop = stop};
    uint64_t after = 0;
    VD_ASSERT(!stor_txn_active(session));
    vd_buf_init(&scrub.last, KEY_MAX_BYTES);
    scrub.arena = vd_arena_create();
    int rc = steps(&scrub, 0, err);
    for (bool some = true; rc == VD_OK && some;) { /* each index that is there now, by id */
        uint64_t next = UINT64_MAX;
        stor_collection_t *c = stor_catalog_reference(storage->catalog, collection_id);
        const stor_index_set_t *set = c == NULL ? NULL : c->indexes;
        for (uint32_t i = 0; set != NULL && i < set->count; i++)
            if (set->items[i]->id > after && set->items[i]->id < next && is_ready(set->items[i]))
                next = set->items[i]->id;
        stor_catalog_unreference(&c);
        some = next != UINT64_MAX;
        after = next;
        if (some)
            rc = steps(&scrub, next, err);
    }
    vd_arena_destroy(&scrub.arena);
    vd_buf_done(&scrub.last);
    if (rc == VD_OK)
        *ret_result = scrub.result;
    return rc;
}
