/* veddb-storaged/replication/overlay.c — see overlay.h. */
#include "veddb-storaged/replication/overlay.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/map.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/delta.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/sessions.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define VISIBLE_WAIT_MS 30000
#define RECORDS_MAX     1000000

typedef struct {
    stor_storage_t *storage;
    stor_session_t *copy, *live;
    vd_arena_t *arena;
    vd_map_t *by_key; /* u64 collection, key -> record */
    vd_map_t *sessions;
    uint64_t position;
    uint32_t lacking;
    uint64_t last; /* timestamp counted last */
} work_t;

static int again(vd_error_t *err, const char *why)
{
    return vd_error_set(err, VD_ERR_CONFLICTING_OPERATION_IN_PROGRESS,
                        "the copy has to be taken again: %s", why);
}

static vd_slice_t map_key(vd_arena_t *arena, uint64_t collection, vd_slice_t key)
{
    uint8_t *bytes = vd_arena_alloc(arena, 8 + key.len);
    vd_put_u64_be(bytes, collection);
    memcpy(bytes + 8, key.data, key.len);
    return vd_slice(bytes, 8 + key.len);
}

static int record_add(work_t *work, uint64_t collection, vd_slice_t key,
                      stor_overlay_record_t **ret, vd_error_t *err)
{
    vd_slice_t name = map_key(work->arena, collection, key);
    stor_overlay_record_t *record = vd_map_get(work->by_key, name);
    *ret = record;
    if (record != NULL)
        return VD_OK;
    record = VD_ARENA_NEW(work->arena, stor_overlay_record_t);
    record->collection = collection;
    record->key = vd_slice(name.data + 8, name.len - 8);
    if (vd_map_put(work->by_key, name, record, NULL) != VD_OK ||
        vd_arena_used(work->arena) > STOR_OVERLAY_MAX)
        return again(err, "too much was in flight");
    *ret = record;
    return VD_OK;
}

/* As it is in the checkpoint. */
static int record_fetch(work_t *work, stor_overlay_record_t *record, vd_error_t *err)
{
    char table[32];
    stor_cursor_t *cursor;
    vd_slice_t value;
    vd_error_t step = VD_ERROR_INIT;
    (void)snprintf(table, sizeof table, "c-%llu", (unsigned long long)record->collection);
    int rc = stor_cursor_open(work->copy, table, &cursor, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_search(cursor, record->key, &value, &step);
    if (rc == VD_OK) {
        record->present = true;
        record->value = vd_arena_copy_slice(work->arena, value);
        stor_cursor_reset(cursor);
    }
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

/* One that was there keeps its place where its collection is capped. */
static int document_set(work_t *work, stor_overlay_record_t *record, uint64_t timestamp,
                        vd_bson_t document, vd_error_t *err)
{
    stor_collection_t *collection =
        stor_catalog_reference(work->storage->catalog, record->collection);
    uint64_t place = record->present && collection != NULL && collection->capped.is
                         ? stor_envelope_place(record->value)
                         : 0;
    uint8_t *value = vd_arena_alloc(work->arena, STOR_ENVELOPE_BYTES_MAX + (size_t)document.len);
    stor_catalog_unreference(&collection);
    record->value = vd_slice(value, stor_envelope_write_placed(value, timestamp, place, document));
    record->present = true;
    return vd_arena_used(work->arena) > STOR_OVERLAY_MAX ? again(err, "too much was in flight")
                                                         : VD_OK;
}

static int change_put(work_t *work, uint64_t timestamp, const stor_change_t *change,
                      vd_error_t *err)
{
    vd_slice_t key;
    stor_overlay_record_t *record;
    int rc = stor_id_key(work->arena, change->id, &key, err);
    uint32_t before = (uint32_t)vd_map_count(work->by_key);
    if (rc == VD_OK)
        rc = record_add(work, change->collection_id, key, &record, err);
    if (rc == VD_OK && vd_map_count(work->by_key) > before)
        rc = record_fetch(work, record, err);
    vd_bson_t document = VD_BSON_NONE;
    uint64_t version = 0;
    if (rc == VD_OK && record->present)
        rc = stor_envelope_read(record->value, &document, &version, err);
    if (rc != VD_OK)
        return rc;
    if (version != change->previous_version)
        return vd_error_set(err, VD_ERR_CORRUPT,
                            "the journal and the copy do not fit: version %llu instead of %llu",
                            (unsigned long long)version,
                            (unsigned long long)change->previous_version);
    switch (change->kind) {
    case STOR_CHANGE_DELETE:
        record->present = false;
        record->value = VD_SLICE_NULL;
        return VD_OK;
    case STOR_CHANGE_DELTA:
        rc = stor_delta_apply(work->arena, document, change->body, &document, err);
        return rc == VD_OK ? document_set(work, record, timestamp, document, err) : rc;
    default:
        return document_set(work, record, timestamp, change->body, err);
    }
}

static int session_note(work_t *work, const stor_journal_entry_t *entry, vd_error_t *err)
{
    if (entry->lsid.len != 16 || entry->lsid_user.len != 32)
        return VD_OK;
    stor_session_key_t *key = VD_ARENA_NEW(work->arena, stor_session_key_t);
    memcpy(key->bytes, entry->lsid.data, 16);
    memcpy(key->bytes + 16, entry->lsid_user.data, 32);
    return vd_map_put(work->sessions, vd_slice(key->bytes, sizeof key->bytes), key, NULL) == VD_OK
               ? VD_OK
               : again(err, "too much was in flight");
}

/* An entry of the live journal that the checkpoint may have or lack. */
static int entry_look(work_t *work, const stor_journal_entry_t *entry, vd_error_t *err)
{
    vd_slice_t changes = entry->changes;
    stor_change_t change;
    bool holds;
    int rc = stor_journal_holds(work->copy, entry->timestamp, &holds, err);
    if (rc != VD_OK || holds)
        return rc;
    work->lacking += entry->timestamp != work->last;
    work->last = entry->timestamp;
    rc = session_note(work, entry, err);
    if (rc != VD_OK)
        return rc;
    while ((rc = stor_journal_change_next(&changes, &change, err)) == VD_OK) {
        /* The rest from 20 on: of the set, not of the schema or a document. */
        if (stor_change_is_schema(change.kind))
            return again(err, "the schema was being changed");
        if (change.kind < STOR_CHANGE_CREATE)
            rc = change_put(work, entry->timestamp, &change, err);
        if (rc != VD_OK)
            return rc;
    }
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int journal_walk(work_t *work, uint64_t visible, vd_error_t *err)
{
    stor_journal_entry_t entry;
    vd_error_t step = VD_ERROR_INIT;
    stor_journal_reader_t *reader =
        stor_journal_reader_open(work->storage->journal, work->live, visible);
    stor_journal_reader_begin(reader);
    int rc;
    while ((rc = stor_journal_reader_next(reader, work->position, &entry, &step)) == VD_OK)
        if ((rc = entry_look(work, &entry, &step)) != VD_OK)
            break;
    stor_journal_reader_close(&reader);
    if (rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (rc == VD_ERR_CHANGE_STREAM_HISTORY_LOST)
        return again(err, "the journal was cut");
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

static int row_put(vd_slice_t key, vd_slice_t value, void *context)
{
    work_t *work = context;
    stor_overlay_record_t *record;
    int rc = record_add(work, 0, key, &record, NULL);
    if (rc == VD_OK) {
        record->present = true;
        record->value = vd_arena_copy_slice(work->arena, value);
    }
    return rc;
}

/* Results of the writes that are lacking: from the live table. A row that a later write has
 * replaced comes with that one's entry; its client has gone on, so nobody asks for the older one.
 */
static int results_put(work_t *work, vd_error_t *err)
{
    size_t at = 0;
    vd_slice_t key;
    void *value;
    int rc = VD_OK;
    while (rc == VD_OK && vd_map_next(work->sessions, &at, &key, &value))
        rc = stor_sessions_rows(work->live, value, work->position, row_put, work, err);
    return rc;
}

static int visible_wait(stor_storage_t *storage, uint64_t position, vd_error_t *err)
{
    uint64_t give_up = vd_monotonic_ms() + VISIBLE_WAIT_MS;
    while (stor_engine_visible(storage->engine) < position) {
        struct timespec pause = {0, 200000};
        if (vd_monotonic_ms() > give_up)
            return again(err, "a transaction takes too long");
        (void)nanosleep(&pause, NULL); /* waking early is fine */
    }
    return VD_OK;
}

static int compare(uint64_t collection, vd_slice_t key, const stor_overlay_record_t *record)
{
    if (collection != record->collection)
        return collection < record->collection ? -1 : 1;
    return vd_slice_compare(key, record->key);
}

static int by_place(const void *a, const void *b)
{
    const stor_overlay_record_t *record = a;
    return compare(record->collection, record->key, b);
}

static void records_sort(work_t *work, stor_overlay_t *ret)
{
    size_t at = 0;
    vd_slice_t key;
    void *value;
    stor_overlay_t overlay = {.lacking = work->lacking};
    overlay.records =
        VD_ARENA_ARRAY(work->arena, stor_overlay_record_t, vd_map_count(work->by_key) + 1);
    while (vd_map_next(work->by_key, &at, &key, &value))
        overlay.records[overlay.count++] = *(stor_overlay_record_t *)value;
    qsort(overlay.records, overlay.count, sizeof *overlay.records, by_place);
    *ret = overlay;
}

int stor_overlay_make(stor_storage_t *storage, stor_session_t *copy, stor_session_t *live,
                      uint64_t visible, uint64_t position, vd_arena_t *arena, stor_overlay_t *ret,
                      vd_error_t *err)
{
    *ret = (stor_overlay_t){0};
    if (position <= visible)
        return VD_OK;
    int rc = visible_wait(storage, position, err);
    if (rc != VD_OK)
        return rc;
    work_t work = {.storage = storage,
                   .copy = copy,
                   .live = live,
                   .arena = arena,
                   .by_key = vd_map_create(RECORDS_MAX),
                   .sessions = vd_map_create(RECORDS_MAX),
                   .position = position};
    rc = stor_txn_begin(copy, err);
    if (rc == VD_OK) {
        rc = stor_txn_begin(live, err);
        if (rc == VD_OK) {
            rc = journal_walk(&work, visible, err);
            if (rc == VD_OK)
                rc = results_put(&work, err);
            stor_txn_rollback(live);
        }
        stor_txn_rollback(copy);
    }
    if (rc == VD_OK)
        records_sort(&work, ret);
    vd_map_destroy(&work.by_key);
    vd_map_destroy(&work.sessions);
    return rc;
}

uint32_t stor_overlay_find(const stor_overlay_t *overlay, uint64_t collection, vd_slice_t after)
{
    uint32_t low = 0, high = overlay->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int c = compare(collection, after, &overlay->records[middle]);
        if (c > 0 || (c == 0 && after.len > 0))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
