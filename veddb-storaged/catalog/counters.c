/* veddb-storaged/catalog/counters.c — counters folded up to a journal position, and the deltas
 * since. */
#include "veddb-storaged/catalog/counters.h"

#include "libcommon/base/log.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/catalog_private.h"
#include "veddb-storaged/catalog/rows.h"
#include "veddb-storaged/journal.h"

#define POSITION_META "counters_at"

/* Deltas of some journal entries, by collection. */
typedef struct {
    vd_map_t *by_id;
    vd_arena_t *arena;
} deltas_t;

static void deltas_init(deltas_t *deltas)
{
    deltas->by_id = vd_map_create(STOR_COLLECTIONS_MAX);
    deltas->arena = vd_arena_create();
}

static void deltas_done(deltas_t *deltas)
{
    vd_map_destroy(&deltas->by_id);
    vd_arena_destroy(&deltas->arena);
}

static int deltas_add(deltas_t *deltas, const stor_change_t *change, vd_error_t *err)
{
    if (change->kind >= STOR_CHANGE_CREATE)
        return VD_OK;
    stor_counters_row_t *row = vd_map_get(deltas->by_id, vd_key_u64(&change->collection_id));
    if (row == NULL) {
        row = VD_ARENA_NEW(deltas->arena, stor_counters_row_t);
        int rc = vd_map_put(deltas->by_id, vd_key_u64(&change->collection_id), row, NULL);
        if (rc != VD_OK)
            return vd_error_set(err, rc, "too many collections changed at once");
    }
    row->documents += change->documents_delta;
    row->bytes += change->bytes_delta;
    row->hash += change->hash_delta;
    return VD_OK;
}

static int entry_add(deltas_t *deltas, const stor_journal_entry_t *entry, vd_error_t *err)
{
    vd_slice_t changes = entry->changes;
    stor_change_t change;
    int rc;
    while ((rc = stor_journal_change_next(&changes, &change, err)) == VD_OK)
        if ((rc = deltas_add(deltas, &change, err)) != VD_OK)
            return rc;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

/* Reads entries in (position, upto], at most max; *position moves. */
static int entries_read(stor_storage_t *storage, stor_session_t *session, deltas_t *deltas,
                        uint64_t *position, uint64_t upto, uint32_t max, uint32_t *ret_count,
                        vd_error_t *err)
{
    stor_journal_reader_t *reader = stor_journal_reader_open(storage->journal, session, *position);
    stor_journal_entry_t entry;
    uint64_t last = 0;
    uint32_t count = 0;
    vd_error_t step = VD_ERROR_INIT;
    int rc = VD_OK;
    stor_journal_reader_begin(reader);
    /* Parts of one transaction are never torn apart: the count is only looked at between
     * timestamps. */
    for (;;) {
        rc = stor_journal_reader_next(reader, upto, &entry, &step);
        if (rc == VD_OK && count >= max && entry.timestamp != last)
            break;
        if (rc == VD_OK)
            rc = entry_add(deltas, &entry, &step);
        if (rc != VD_OK)
            break;
        last = entry.timestamp;
        count++;
    }
    stor_journal_reader_close(&reader);
    if (last != 0)
        *position = last;
    *ret_count = count;
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

uint64_t stor_counters_position_read(stor_session_t *session)
{
    vd_arena_t *arena = vd_arena_create();
    vd_value_t v;
    int64_t position = 0;
    if (stor_catalog_meta_get(session, POSITION_META, arena, &v, NULL) == VD_OK)
        (void)vd_value_as_int64(v, &position); /* written by us alone; 0 reads from the start */
    vd_arena_destroy(&arena);
    return (uint64_t)position;
}

int stor_counters_position_put(stor_session_t *session, uint64_t position, vd_error_t *err)
{
    uint8_t payload[8];
    vd_put_u64(payload, position);
    return stor_catalog_meta_put(session, POSITION_META,
                                 (vd_value_t){payload, sizeof payload, VD_BSON_INT64}, err);
}

/* ---- at open ---- */

static int rows_load(stor_storage_t *storage, stor_session_t *session, vd_error_t *err)
{
    uint64_t id = 0;
    for (stor_collection_t *c; (c = stor_catalog_next(storage->catalog, id)) != NULL;) {
        stor_counters_row_t row = {0};
        vd_error_t step = VD_ERROR_INIT;
        int rc = stor_rows_counters_get(session, c->id, &row, &step);
        id = c->id;
        atomic_store(&c->documents, row.documents);
        atomic_store(&c->bytes, row.bytes);
        atomic_store(&c->hash, row.hash);
        stor_catalog_unreference(&c);
        if (rc != VD_OK && rc != VD_ERR_NOT_FOUND) {
            if (err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
    }
    return VD_OK;
}

static void deltas_apply(stor_storage_t *storage, deltas_t *deltas)
{
    size_t at = 0;
    vd_slice_t key;
    void *value;
    while (vd_map_next(deltas->by_id, &at, &key, &value)) {
        const stor_counters_row_t *row = value;
        uint64_t id;
        memcpy(&id, key.data, sizeof id);
        stor_collection_t *c = stor_catalog_reference(storage->catalog, id);
        if (c == NULL)
            continue; /* dropped later */
        atomic_fetch_add(&c->documents, row->documents);
        atomic_fetch_add(&c->bytes, row->bytes);
        atomic_fetch_add(&c->hash, row->hash);
        stor_catalog_unreference(&c);
    }
}

int stor_counters_load(stor_storage_t *storage, stor_session_t *session, vd_error_t *err)
{
    deltas_t deltas;
    deltas_init(&deltas);
    int rc = stor_txn_begin(session, err);
    if (rc == VD_OK) {
        uint64_t position = stor_counters_position_read(session);
        uint32_t count = 0;
        rc = rows_load(storage, session, err);
        if (rc == VD_OK)
            rc = entries_read(storage, session, &deltas, &position, UINT64_MAX, UINT32_MAX, &count,
                              err);
        if (rc == VD_OK)
            deltas_apply(storage, &deltas);
        atomic_store(&storage->catalog->counters_at, stor_counters_position_read(session));
        stor_txn_rollback(session);
    }
    deltas_done(&deltas);
    return rc;
}

/* ---- fold ---- */

static int deltas_fold(stor_session_t *session, deltas_t *deltas, vd_error_t *err)
{
    size_t at = 0;
    vd_slice_t key;
    void *value;
    while (vd_map_next(deltas->by_id, &at, &key, &value)) {
        const stor_counters_row_t *delta = value;
        stor_counters_row_t row = {0};
        uint64_t id;
        memcpy(&id, key.data, sizeof id);
        vd_error_t step = VD_ERROR_INIT;
        bool exists = false;
        int rc = stor_rows_collection_exists(session, id, &exists, &step);
        if (rc == VD_OK && !exists)
            continue; /* dropped later */
        if (rc == VD_OK)
            rc = stor_rows_counters_get(session, id, &row, &step);
        if (rc == VD_ERR_NOT_FOUND)
            vd_error_clear(&step), rc = VD_OK;
        row.documents += delta->documents;
        row.bytes += delta->bytes;
        row.hash += delta->hash;
        if (rc == VD_OK)
            rc = stor_rows_counters_put(session, id, &row, &step);
        if (rc != VD_OK) {
            if (err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
    }
    return VD_OK;
}

int stor_counters_fold(stor_storage_t *storage, stor_session_t *session, uint32_t entries_max,
                       bool *ret_more, vd_error_t *err)
{
    deltas_t deltas;
    uint64_t upto =
        stor_engine_visible(storage->engine); /* before begin: all of it is in the snapshot */
    *ret_more = false;
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    deltas_init(&deltas);
    uint64_t position = stor_counters_position_read(session);
    uint32_t count = 0;
    rc = entries_read(storage, session, &deltas, &position, upto, entries_max, &count, err);
    if (rc == VD_OK && count > 0)
        rc = deltas_fold(session, &deltas, err);
    if (rc == VD_OK && count > 0)
        rc = stor_counters_position_put(session, position, err);
    if (rc == VD_OK && count > 0)
        rc = stor_txn_commit(session, err);
    else
        stor_txn_rollback(session);
    if (rc == VD_OK && count > 0)
        atomic_store(&storage->catalog->counters_at, position);
    *ret_more = count >= entries_max;
    deltas_done(&deltas);
    return rc;
}

int stor_counters_kept(stor_storage_t *storage, stor_session_t *session, uint64_t collection_id,
                       uint64_t upto, stor_counters_row_t *ret_row, vd_error_t *err)
{
    VD_ASSERT(stor_txn_active(session));
    stor_counters_row_t row = {0};
    vd_error_t step = VD_ERROR_INIT;
    uint64_t folded = stor_counters_position_read(session);
    uint64_t from = folded < upto ? folded : upto, to = folded < upto ? upto : folded;
    uint32_t count;
    deltas_t deltas;
    deltas_init(&deltas);
    int rc = stor_rows_counters_get(session, collection_id, &row, &step);
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND) {
        vd_error_clear(&step);
        rc = entries_read(storage, session, &deltas, &from, to, UINT32_MAX, &count, &step);
    }
    const stor_counters_row_t *delta = vd_map_get(deltas.by_id, vd_key_u64(&collection_id));
    if (delta != NULL) {
        int64_t sign = folded < upto ? 1 : -1;
        row.documents += sign * delta->documents;
        row.bytes += sign * delta->bytes;
        row.hash += (uint64_t)sign * delta->hash;
    }
    deltas_done(&deltas);
    if (rc == VD_OK)
        *ret_row = row;
    else if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

uint64_t stor_counters_position(const stor_storage_t *storage)
{
    return atomic_load(&storage->catalog->counters_at);
}

void stor_counters_position_set(stor_storage_t *storage, uint64_t position)
{
    atomic_store(&storage->catalog->counters_at, position);
}

int stor_counters_deltas(stor_storage_t *storage, stor_session_t *session, uint64_t from,
                         uint64_t upto,
                         void (*visit)(void *context, uint64_t collection_id,
                                       const stor_counters_row_t *delta),
                         void *context, vd_error_t *err)
{
    deltas_t deltas;
    uint32_t count;
    VD_ASSERT(stor_txn_active(session));
    deltas_init(&deltas);
    int rc = entries_read(storage, session, &deltas, &from, upto, UINT32_MAX, &count, err);
    size_t at = 0;
    vd_slice_t key;
    void *value;
    while (rc == VD_OK && vd_map_next(deltas.by_id, &at, &key, &value)) {
        uint64_t id;
        memcpy(&id, key.data, sizeof id);
        visit(context, id, value);
    }
    deltas_done(&deltas);
    return rc;
}
