/* veddb-storaged/scrub.c — see scrub.h.
 *
 * Why it is exact though it holds no snapshot: after step i, the sums are those of the keys up to
 * the step's last key, as of one journal position P(i). Step i+1 takes a snapshot that has at least
 * everything up to P(i) (it was waited for) and at most everything up to N, the newest commit at
 * its begin; it adds what stands in its own stretch of keys, and then reads the journal from P(i)
 * to N:
 *
 * - a change of a key behind (of an earlier stretch) is added as it is: P(i) did not have it;
 * - a change of a key ahead comes with a later snapshot;
 * - a change of a key of the stretch itself up to V, what was visible before the begin, is in the
 *   snapshot. Above V (a few, in flight at that moment) it may be or not: the snapshot is asked for
 *   the key. A record of version v has all its changes up to v; later ones are added. No record:
 * the changes between two absences add up to nothing, so those behind the first absence are added.
 *
 * Then P(i+1) = N. At the end the sums are compared with the kept ones as of P. */
#include "veddb-storaged/scrub.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/counters.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/journal.h"

#include <stdio.h>
#include <time.h>

#define STEP_RECORDS_MAX 1000
#define STEP_BYTES_MAX   (2 * 1024 * 1024)

/* A change that the step's snapshot may have or not. */
typedef struct flight {
    struct flight *next;
    vd_slice_t key;
    uint64_t timestamp;
    int64_t documents, bytes;
    uint64_t hash;
    bool insert, remove, counted;
} flight_t;

typedef struct {
    stor_storage_t *storage;
    stor_session_t *session, *reading; /* reading: of the journal, beside the snapshot */
    stor_cursor_t *table_cursor;
    uint64_t collection_id;
    const atomic_bool *stop;
    char table[32];
    vd_buf_t lower, upper; /* last keys: of the step before, of this one */
    bool started, ended;
    uint64_t position; /* P */
    stor_counters_row_t sums;
    vd_arena_t *arena; /* of a step */
    flight_t *first, **last;
} scrub_t;

static bool is_stopped(const scrub_t *scrub)
{
    return scrub->stop != NULL && atomic_load_explicit(scrub->stop, memory_order_relaxed);
}

static void pause_us(uint32_t us)
{
    struct timespec pause = {us / 1000000, (long)(us % 1000000) * 1000};
    (void)nanosleep(&pause, NULL); /* waking early is fine */
}

static int key_keep(vd_buf_t *buf, vd_slice_t key, vd_error_t *err)
{
    vd_buf_clear(buf);
    return vd_buf_append_slice(buf, key) == VD_OK
               ? VD_OK
               : vd_error_set(err, VD_ERR_CORRUPT, "a key of %zu bytes", key.len);
}

/* ---- the stretch of a step ---- */

static int record_count(scrub_t *scrub, vd_slice_t value, size_t *bytes, vd_error_t *err)
{
    vd_bson_t document;
    uint64_t version;
    int rc = stor_envelope_read(value, &document, &version, err);
    if (rc != VD_OK)
        return rc;
    scrub->sums.documents++;
    scrub->sums.bytes += document.len;
    scrub->sums.hash += stor_record_hash(version, document);
    *bytes += document.len;
    return VD_OK;
}

static int stretch_first(scrub_t *scrub, vd_slice_t *ret_key, vd_slice_t *ret_value,
                         vd_error_t *err)
{
    if (!scrub->started)
        return stor_cursor_next(scrub->table_cursor, true, ret_key, ret_value, err);
    vd_slice_t after = vd_buf_slice(&scrub->lower);
    int rc = stor_cursor_seek(scrub->table_cursor, after, true, ret_key, ret_value, err);
    if (rc == VD_OK && vd_slice_equal(*ret_key, after))
        rc = stor_cursor_next(scrub->table_cursor, true, ret_key, ret_value, err);
    return rc;
}

static int stretch_scan(scrub_t *scrub, vd_error_t *err)
{
    vd_slice_t key, value;
    size_t bytes = 0;
    int rc = stretch_first(scrub, &key, &value, err);
    for (uint32_t n = 1; rc == VD_OK; n++) {
        rc = record_count(scrub, value, &bytes, err);
        if (rc != VD_OK)
            return rc;
        if (n >= STEP_RECORDS_MAX || bytes >= STEP_BYTES_MAX)
            return key_keep(&scrub->upper, key, err);
        rc = stor_cursor_next(scrub->table_cursor, true, &key, &value, err);
    }
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    vd_error_clear(err);
    scrub->ended = true;
    return VD_OK;
}

/* ---- what the journal says ---- */

static void sums_add(scrub_t *scrub, int64_t documents, int64_t bytes, uint64_t hash)
{
    scrub->sums.documents += documents;
    scrub->sums.bytes += bytes;
    scrub->sums.hash += hash;
}

static int change_place(scrub_t *scrub, const stor_change_t *change, uint64_t timestamp,
                        uint64_t visible, vd_error_t *err)
{
    vd_slice_t key;
    int rc = stor_id_key(scrub->arena, change->id, &key, err);
    if (rc != VD_OK)
        return rc;
    if (scrub->started && vd_slice_compare(key, vd_buf_slice(&scrub->lower)) <= 0) {
        sums_add(scrub, change->documents_delta, change->bytes_delta, change->hash_delta);
        return VD_OK;
    }
    if (timestamp <= visible ||
        (!scrub->ended && vd_slice_compare(key, vd_buf_slice(&scrub->upper)) > 0))
        return VD_OK;
    flight_t *flight = VD_ARENA_NEW(scrub->arena, flight_t);
    *flight = (flight_t){.key = key,
                         .timestamp = timestamp,
                         .documents = change->documents_delta,
                         .bytes = change->bytes_delta,
                         .hash = change->hash_delta,
                         .insert = change->kind == STOR_CHANGE_INSERT,
                         .remove = change->kind == STOR_CHANGE_DELETE};
    *scrub->last = flight;
    scrub->last = &flight->next;
    return VD_OK;
}

static int entry_place(scrub_t *scrub, const stor_journal_entry_t *entry, uint64_t visible,
                       vd_error_t *err)
{
    vd_slice_t changes = entry->changes;
    stor_change_t change;
    int rc;
    while ((rc = stor_journal_change_next(&changes, &change, err)) == VD_OK) {
        if (change.collection_id != scrub->collection_id || change.kind >= STOR_CHANGE_CREATE ||
            change.kind == STOR_CHANGE_IMAGE)
            continue;
        rc = change_place(scrub, &change, entry->timestamp, visible, err);
        if (rc != VD_OK)
            return rc;
    }
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int journal_place(scrub_t *scrub, uint64_t upto, uint64_t visible, vd_error_t *err)
{
    stor_journal_entry_t entry;
    int rc = stor_txn_begin(scrub->reading, err);
    if (rc != VD_OK)
        return rc;
    stor_journal_reader_t *reader =
        stor_journal_reader_open(scrub->storage->journal, scrub->reading, scrub->position);
    stor_journal_reader_begin(reader);
    while ((rc = stor_journal_reader_next(reader, upto, &entry, err)) == VD_OK)
        if ((rc = entry_place(scrub, &entry, visible, err)) != VD_OK)
            break;
    stor_journal_reader_close(&reader);
    stor_txn_rollback(scrub->reading);
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    vd_error_clear(err);
    return VD_OK;
}

/* The changes of one key that are in flight, in order: those that the snapshot lacks are added. */
static int flight_settle(scrub_t *scrub, flight_t *head, vd_error_t *err)
{
    vd_slice_t value;
    vd_bson_t document;
    uint64_t version = 0;
    int rc = stor_cursor_search(scrub->table_cursor, head->key, &value, err);
    bool present = rc == VD_OK;
    if (present)
        rc = stor_envelope_read(value, &document, &version, err);
    else if (rc == VD_ERR_NOT_FOUND)
        vd_error_clear(err), rc = VD_OK;
    if (rc != VD_OK)
        return rc;
    bool add = !present && head->insert; /* absent from before */
    for (flight_t *flight = head; flight != NULL; flight = flight->next) {
        if (flight->counted || !vd_slice_equal(flight->key, head->key))
            continue;
        flight->counted = true;
        if (present ? flight->timestamp > version : add)
            sums_add(scrub, flight->documents, flight->bytes, flight->hash);
        add |= flight->remove;
    }
    return VD_OK;
}

static int flights_settle(scrub_t *scrub, vd_error_t *err)
{
    int rc = VD_OK;
    for (flight_t *flight = scrub->first; rc == VD_OK && flight != NULL; flight = flight->next)
        if (!flight->counted)
            rc = flight_settle(scrub, flight, err);
    return rc;
}

/* ---- steps ---- */

static int visible_wait(const scrub_t *scrub, uint64_t upto, vd_error_t *err)
{
    while (stor_engine_visible(scrub->storage->engine) < upto) {
        if (is_stopped(scrub))
            return vd_error_set(err, VD_ERR_INTERRUPTED, "the check was stopped");
        pause_us(50);
    }
    return VD_OK;
}

static int step(scrub_t *scrub, vd_error_t *err)
{
    vd_arena_reset(scrub->arena);
    scrub->first = NULL;
    scrub->last = &scrub->first;
    uint64_t visible = stor_engine_visible(scrub->storage->engine);
    int rc = stor_txn_begin(scrub->session, err);
    if (rc != VD_OK)
        return rc;
    uint64_t newest = stor_txn_snapshot_newest(scrub->session);
    if (!scrub->started)
        scrub->position = visible;
    rc = stor_cursor_open(scrub->session, scrub->table, &scrub->table_cursor, err);
    if (rc == VD_OK)
        rc = stretch_scan(scrub, err);
    if (rc == VD_OK)
        rc = visible_wait(scrub, newest, err);
    if (rc == VD_OK && newest > scrub->position)
        rc = journal_place(scrub, newest, visible, err);
    if (rc == VD_OK)
        rc = flights_settle(scrub, err);
    stor_txn_rollback(scrub->session);
    if (newest > scrub->position)
        scrub->position = newest;
    if (rc == VD_OK && !scrub->ended)
        rc = key_keep(&scrub->lower, vd_buf_slice(&scrub->upper), err);
    scrub->started = true;
    return rc;
}

static int compare(scrub_t *scrub, stor_scrub_result_t *result, vd_error_t *err)
{
    stor_counters_row_t kept;
    bool exists = false;
    int rc = stor_txn_begin(scrub->session, err);
    if (rc != VD_OK)
        return rc;
    /* A drop takes the kept row with it: asked in the same snapshot, there is no moment at which
     * only one of both is gone. */
    rc = stor_rows_collection_exists(scrub->session, scrub->collection_id, &exists, err);
    if (rc == VD_OK && exists)
        rc = stor_counters_kept(scrub->storage, scrub->session, scrub->collection_id,
                                scrub->position, &kept, err);
    stor_txn_rollback(scrub->session);
    if (rc != VD_OK)
        return rc;
    if (!exists) {
        *result = (stor_scrub_result_t){.inconclusive = true};
        return VD_OK;
    }
    *result = (stor_scrub_result_t){
        .documents = scrub->sums.documents,
        .bytes = scrub->sums.bytes,
        .hash = scrub->sums.hash,
        .documents_kept = kept.documents,
        .bytes_kept = kept.bytes,
        .hash_kept = kept.hash,
        .equal = kept.documents == scrub->sums.documents && kept.bytes == scrub->sums.bytes &&
                 kept.hash == scrub->sums.hash,
    };
    return VD_OK;
}

static bool is_there(const scrub_t *scrub)
{
    stor_collection_t *collection =
        stor_catalog_reference(scrub->storage->catalog, scrub->collection_id);
    bool there = collection != NULL;
    stor_catalog_unreference(&collection);
    return there;
}

static int run(scrub_t *scrub, uint32_t between_us, stor_scrub_result_t *result, vd_error_t *err)
{
    int rc = VD_OK;
    while (rc == VD_OK && !scrub->ended) {
        rc = is_stopped(scrub) ? vd_error_set(err, VD_ERR_INTERRUPTED, "the check was stopped")
                               : step(scrub, err);
        if (rc == VD_OK && !scrub->ended && between_us > 0)
            pause_us(between_us);
    }
    return rc == VD_OK ? compare(scrub, result, err) : rc;
}

int stor_scrub_collection(stor_storage_t *storage, stor_session_t *session, uint64_t collection_id,
                          uint32_t between_us, const atomic_bool *stop,
                          stor_scrub_result_t *ret_result, vd_error_t *err)
{
    scrub_t scrub = {
        .storage = storage, .session = session, .collection_id = collection_id, .stop = stop};
    stor_scrub_result_t result = {0};
    vd_error_t failure = VD_ERROR_INIT;
    VD_ASSERT(!stor_txn_active(session));
    (void)snprintf(scrub.table, sizeof scrub.table, "c-%llu", (unsigned long long)collection_id);
    vd_buf_init(&scrub.lower, VD_BSON_INTERNAL_MAX_BYTES);
    vd_buf_init(&scrub.upper, VD_BSON_INTERNAL_MAX_BYTES);
    scrub.arena = vd_arena_create();
    int rc = stor_session_open(storage->engine, &scrub.reading, &failure);
    if (rc == VD_OK)
        rc = run(&scrub, between_us, &result, &failure);
    stor_session_close(&scrub.reading);
    vd_arena_destroy(&scrub.arena);
    vd_buf_done(&scrub.lower);
    vd_buf_done(&scrub.upper);
    if (rc != VD_OK && rc != VD_ERR_INTERRUPTED &&
        (rc == VD_ERR_CHANGE_STREAM_HISTORY_LOST || !is_there(&scrub))) {
        result = (stor_scrub_result_t){.inconclusive = true};
        rc = VD_OK;
    }
    if (rc == VD_OK)
        *ret_result = result;
    else if (err != NULL)
        vd_error_copy(&failure, err);
    return rc;
}
