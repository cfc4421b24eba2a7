/* veddb-storaged/write.c — see write.h. */
#include "veddb-storaged/write.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/rand.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/capped.h"
#include "veddb-storaged/delta.h"
#include "veddb-storaged/fail_points.h"
#include "veddb-storaged/index/index.h"
#include "veddb-storaged/query/json_schema.h"
#include "veddb-storaged/query/match.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/transactions.h"

#include <time.h>

/* A part is closed when it passes its limit: by a change, and the image before it. */
#define ENTRY_MAX_BYTES (STOR_JOURNAL_PART_MAX + 2 * VD_BSON_INTERNAL_MAX_BYTES + 64 * 1024)
#define VALUE_MAX_BYTES (VD_BSON_INTERNAL_MAX_BYTES + STOR_ENVELOPE_BYTES_MAX)

void stor_write_init(stor_write_t *write, stor_request_t *request, stor_collection_t *collection)
{
    memset(write, 0, sizeof *write);
    write->request = request;
    write->collection = collection;
    vd_buf_init(&write->entry, ENTRY_MAX_BYTES);
    vd_buf_init(&write->value, VALUE_MAX_BYTES);
}

void stor_write_done(stor_write_t *write)
{
    vd_buf_done(&write->entry);
    vd_buf_done(&write->value);
}

static bool is_capped(const stor_write_t *write)
{
    return write->collection != NULL && write->collection->capped.is;
}

/* Before the transaction begins: its snapshot has what the writer before it did. */
static void capped_lock(stor_write_t *write)
{
    if (!is_capped(write))
        return;
    VD_ASSERT(!write->locked);
    (void)pthread_mutex_lock(&write->collection->capped.lock);
    write->locked = true;
    write->capped_first = 0;
}

static void capped_unlock(stor_write_t *write)
{
    if (!write->locked)
        return;
    write->locked = false;
    (void)pthread_mutex_unlock(&write->collection->capped.lock);
}

/* A statement of a transaction: that has begun long ago. */
static int statement_begin(stor_write_t *write, vd_error_t *err)
{
    stor_request_t *request = write->request;
    if (is_capped(write))
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Collection '%s' is a capped collection. Writes in transactions are "
                            "not allowed on capped collections.",
                            write->collection->ns);
    if (write->collection->timeseries.is)
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot insert into a time-series collection in a multi-document "
                            "transaction: %s",
                            write->collection->ns);
    int rc = stor_request_space(request, err);
    if (rc == VD_OK)
        rc = stor_cursor_open(request->session, write->collection->table, &write->table, err);
    return rc;
}

int stor_write_begin(stor_write_t *write, vd_error_t *err)
{
    stor_session_t *session = write->request->session;
    vd_buf_clear(&write->entry);
    write->part = 0;
    write->timestamp = 0;
    write->changes = 0;
    write->result = false;
    write->documents_delta = write->bytes_delta = 0;
    write->hash_delta = 0;
    if (write->request->transaction != NULL)
        return statement_begin(write, err);
    if (write->collection != NULL)
        stor_index_writer_pause(write->collection);
    int rc = stor_request_space(write->request, err); /* a long command would fill the disk */
    if (rc == VD_OK)
        rc = stor_replication_request_enter(write->request, err);
    if (rc == VD_OK) {
        capped_lock(write);
        rc = stor_txn_begin(session, err);
    }
    if (rc != VD_OK) {
        capped_unlock(write);
        stor_replication_request_leave(write->request);
        return rc;
    }
    if (write->collection == NULL)
        return VD_OK; /* only the journal */
    rc = stor_cursor_open(session, write->collection->table, &write->table, err);
    if (rc != VD_OK)
        stor_write_rollback(write);
    return rc;
}

uint64_t stor_write_version(stor_write_t *write)
{
    if (write->request->transaction != NULL)
        return STOR_VERSION_PENDING; /* known at commit */
    if (write->timestamp == 0)
        write->timestamp = stor_txn_timestamp(write->request->session);
    return write->timestamp;
}

/* First change: draw the timestamp, begin the entry. */
static int change_begin(stor_write_t *write, vd_error_t *err)
{
    stor_request_t *request = write->request;
    if (request->transaction != NULL)
        return VD_OK;                /* at commit */
    (void)stor_write_version(write); /* draws it */
    if (vd_buf_len(&write->entry) >= STOR_JOURNAL_PART_MAX) {
        int rc = stor_journal_append(request->storage->journal, request->session, write->timestamp,
                                     write->part++, vd_buf_slice(&write->entry), err);
        if (rc != VD_OK)
            return rc;
        vd_buf_clear(&write->entry);
    }
    if (vd_buf_len(&write->entry) > 0)
        return VD_OK;
    return stor_journal_begin(&write->entry, request, request->variables.now_ms, err);
}

/* place: 0, or where the document stands in its capped collection. */
static int value_make(stor_write_t *write, vd_bson_t document, uint64_t place, vd_error_t *err)
{
    uint8_t *at;
    size_t len = STOR_ENVELOPE_BYTES + (size_t)document.len;
    vd_buf_clear(&write->value);
    if (vd_buf_reserve(&write->value, STOR_ENVELOPE_BYTES_MAX + (size_t)document.len, &at) != VD_OK)
        return vd_error_set(err, VD_ERR_BSON_OBJECT_TOO_LARGE, "the document is too large");
    if (write->request->transaction != NULL)
        stor_envelope_write_pending(at, document);
    else
        len = stor_envelope_write_placed(at, write->timestamp, place, document);
    vd_buf_commit(&write->value, len);
    return VD_OK;
}

static void change_count(stor_write_t *write, const stor_change_t *change, int64_t documents)
{
    write->changes++;
    write->documents_delta += documents;
    write->bytes_delta += change->bytes_delta;
    write->hash_delta += change->hash_delta;
}

/* The hash of what the write leaves; of a transaction's it is made at commit. */
static uint64_t hash_of(const stor_write_t *write, uint64_t version, vd_bson_t document)
{
    return write->request->transaction != NULL ? 0 : stor_record_hash(version, document);
}

/* Into the journal's entry, or to the transaction's changes. old NULL: nothing was there. */
static int change_add(stor_write_t *write, vd_slice_t key, const stor_change_t *change,
                      const stor_record_t *old, vd_error_t *err)
{
    if (write->request->transaction == NULL)
        return stor_journal_add(&write->entry, change, err);
    vd_slice_t before =
        old == NULL ? VD_SLICE_NULL : vd_slice(old->document.data, old->document.len);
    return stor_transaction_change(write->request, write->collection, key, change, before,
                                   old == NULL ? 0 : old->version, err);
}

static const char *id_text(vd_arena_t *arena, vd_value_t id)
{
    if (id.type != VD_BSON_OBJECTID)
        return vd_value_to_json(arena, id, 200);
    const uint8_t *o = vd_value_objectid(id);
    return vd_arena_printf(arena, "ObjectId('%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x')",
                           o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7], o[8], o[9], o[10],
                           o[11]);
}

static int duplicate(stor_write_t *write, vd_value_t id, vd_error_t *err)
{
    vd_arena_t *arena = write->request->arena;
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t details;
    stor_request_depends(write->request, stor_txn_snapshot_newest(write->request->session));
    vd_error_clear(err);
    vd_error_set(err, VD_ERR_DUPLICATE_KEY,
                 "E11000 duplicate key error collection: %s index: _id_ dup key: { _id: %s }",
                 write->collection->ns, id_text(arena, id));
    vd_bb_init_arena(bb, arena, 64 * 1024);
    vd_bb_begin_document(bb, "keyPattern");
    vd_bb_int32(bb, "_id", 1);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "keyValue");
    vd_bb_value(bb, VD_SLICE_LIT("_id"), id);
    vd_bb_close(bb);
    if (vd_bb_finish(bb, &details, NULL) == VD_OK && err != NULL)
        err->details = vd_slice(details.data, details.len);
    return VD_ERR_DUPLICATE_KEY;
}

static int index_change(stor_write_t *write, vd_slice_t key, vd_bson_t before, vd_bson_t after,
                        vd_error_t *err)
{
    stor_request_t *request = write->request;
    int rc = stor_index_change(request->session, write->collection, request->arena, key, before,
                               after, err);
    if (rc == VD_ERR_DUPLICATE_KEY)
        stor_request_depends(request, stor_txn_snapshot_newest(request->session));
    return rc;
}

/* An index refuses the document: the transaction may go on without it. */
static int inserted_undo(stor_write_t *write, vd_slice_t key, int rc)
{
    return stor_cursor_remove(write->table, key, NULL) == VD_OK ? rc : VD_ERR_WRITE_CONFLICT;
}

/* The oldest documents that are too many, or too large together, go. The newest stays: it is not
 * larger than all may be. */
static int capped_evict(stor_write_t *write, vd_error_t *err)
{
    stor_request_t *request = write->request;
    stor_collection_t *collection = write->collection;
    const stor_collection_capped_t *capped = &collection->capped;
    int64_t documents = atomic_load(&collection->documents),
            bytes = atomic_load(&collection->bytes);
    uint64_t from = capped->first;
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < STOR_CAPPED_EVICTED_MAX &&
                         (bytes + write->bytes_delta > capped->size ||
                          (capped->max > 0 && documents + write->documents_delta > capped->max));
         i++) {
        vd_arena_mark_t mark = vd_arena_mark(request->arena);
        stor_record_t old;
        vd_slice_t key;
        uint64_t place;
        rc = stor_request_check(request, err);
        if (rc == VD_OK)
            rc = stor_capped_first(request->session, collection, from, request->arena, &place, &key,
                                   err);
        if (rc == VD_ERR_NOT_FOUND || (rc == VD_OK && place == write->timestamp)) {
            vd_error_clear(err);
            return VD_OK;
        }
        if (rc == VD_OK)
            rc = stor_write_read(write, key, &old, err);
        if (rc == VD_ERR_NOT_FOUND) {
            vd_error_clear(err);
            return vd_error_set(err, VD_ERR_CORRUPT, "a place of a capped collection is empty");
        }
        if (rc == VD_OK)
            rc = stor_write_remove(write, &old, -1, err);
        if (rc != VD_OK)
            return rc; /* details of the error may stand in the arena */
        from = write->capped_first = place + 1;
        vd_arena_rewind(request->arena, mark);
    }
    return rc;
}

static int capped_inserted(stor_write_t *write, vd_slice_t key, vd_error_t *err)
{
    int rc =
        stor_capped_put(write->request->session, write->collection, write->timestamp, key, err);
    return rc == VD_OK ? capped_evict(write, err) : rc;
}

int stor_write_insert(stor_write_t *write, vd_slice_t key, vd_bson_t document, int32_t statement,
                      vd_error_t *err)
{
    if (is_capped(write) && document.len > write->collection->capped.size)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "object to insert exceeds cappedMaxSize");
    int rc = change_begin(write, err);
    if (rc == VD_OK)
        rc = value_make(write, document, 0, err);
    if (rc != VD_OK)
        return rc;
    vd_error_t step = VD_ERROR_INIT;
    rc = stor_cursor_insert(write->table, key, vd_buf_slice(&write->value), &step);
    if (rc == VD_ERR_DUPLICATE_KEY)
        return duplicate(write, vd_bson_get(document, "_id"), err);
    if (rc != VD_OK) {
        if (err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
    rc = index_change(write, key, VD_BSON_NONE, document, err);
    if (rc != VD_OK)
        return rc == VD_ERR_WRITE_CONFLICT ? rc : inserted_undo(write, key, rc);
    stor_change_t change = {
        .kind = STOR_CHANGE_INSERT,
        .statement = statement,
        .collection_id = write->collection->id,
        .bytes_delta = document.len,
        .hash_delta = hash_of(write, write->timestamp, document),
        .body = document,
    };
    change_count(write, &change, 1);
    rc = change_add(write, key, &change, NULL, err);
    return rc == VD_OK && is_capped(write) ? capped_inserted(write, key, err) : rc;
}

/* Where change streams want it: the document as it was, in front of its change. */
static int image_add(stor_write_t *write, const stor_record_t *old, vd_error_t *err)
{
    if (!write->collection->images)
        return VD_OK;
    stor_change_t image = {.kind = STOR_CHANGE_IMAGE,
                           .statement = -1,
                           .collection_id = write->collection->id,
                           .previous_version = old->version,
                           .body = old->document};
    return change_add(write, old->key, &image, old, err);
}

/* scope NULL: a replacement. */
static int put(stor_write_t *write, const stor_record_t *old, vd_bson_t document,
               const stor_update_scope_t *scope, int32_t statement, vd_error_t *err)
{
    int rc = change_begin(write, err);
    if (rc == VD_OK)
        rc = value_make(write, document, is_capped(write) ? old->place : 0, err);
    if (rc != VD_OK)
        return rc;
    VD_ASSERT(!is_capped(write) || old->place != 0);
    VD_ASSERT(write->timestamp > old->version || write->request->transaction != NULL);
    stor_change_t change = {
        .kind = scope == NULL ? STOR_CHANGE_REPLACE : STOR_CHANGE_UPDATE_WHOLE,
        .statement = statement,
        .collection_id = write->collection->id,
        .previous_version = old->version,
        .bytes_delta = (int64_t)document.len - (int64_t)old->document.len,
        .hash_delta = hash_of(write, write->timestamp, document) -
                      hash_of(write, old->version, old->document),
        .body = document,
    };
    /* Before the table changes: old may point into the engine's memory. */
    if (scope != NULL && stor_delta_make_update(write->request->arena, old->document, document,
                                                *scope, &change.body)) {
        change.kind = STOR_CHANGE_DELTA;
        change.id = vd_bson_get(document, "_id");
    }
    rc = index_change(write, old->key, old->document, document, err);
    if (rc == VD_OK)
        rc = image_add(write, old, err);
    if (rc == VD_OK)
        rc = change_add(write, old->key, &change, old, err);
    if (rc == VD_OK)
        rc = stor_cursor_update(write->table, old->key, vd_buf_slice(&write->value), err);
    if (rc == VD_OK)
        change_count(write, &change, 0);
    return rc;
}

int stor_write_replace(stor_write_t *write, const stor_record_t *old, vd_bson_t document,
                       int32_t statement, vd_error_t *err)
{
    return put(write, old, document, NULL, statement, err);
}

int stor_write_update(stor_write_t *write, const stor_record_t *old, vd_bson_t document,
                      stor_update_scope_t scope, int32_t statement, vd_error_t *err)
{
    return put(write, old, document, &scope, statement, err);
}

int stor_write_remove(stor_write_t *write, const stor_record_t *old, int32_t statement,
                      vd_error_t *err)
{
    int rc = change_begin(write, err);
    if (rc != VD_OK)
        return rc;
    VD_ASSERT(write->timestamp > old->version || write->request->transaction != NULL);
    stor_change_t change = {
        .kind = STOR_CHANGE_DELETE,
        .statement = statement,
        .collection_id = write->collection->id,
        .previous_version = old->version,
        .bytes_delta = -(int64_t)old->document.len,
        .hash_delta = 0 - hash_of(write, old->version, old->document),
        .id = vd_bson_get(old->document, "_id"),
    };
    rc = index_change(write, old->key, old->document, VD_BSON_NONE, err);
    if (rc == VD_OK)
        rc = image_add(write, old, err);
    if (rc == VD_OK)
        rc = change_add(write, old->key, &change, old, err);
    if (rc == VD_OK && is_capped(write))
        rc = stor_capped_remove(write->request->session, write->collection, old->place, err);
    if (rc == VD_OK)
        rc = stor_cursor_remove(write->table, old->key, err);
    if (rc == VD_OK)
        change_count(write, &change, -1);
    return rc;
}

/* {key, value}: what STOR_CHANGE_RESULT holds. */
static int result_body(vd_arena_t *arena, vd_slice_t key, vd_slice_t value, vd_bson_t *ret_body,
                       vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bb_init_arena(bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_binary(bb, "key", 0, key);
    vd_bb_binary(bb, "value", 0, value);
    return vd_bb_finish(bb, ret_body, err);
}

int stor_write_result(stor_write_t *write, const stor_statement_result_t *result, vd_error_t *err)
{
    stor_request_t *request = write->request;
    vd_slice_t key, value;
    stor_change_t change = {.kind = STOR_CHANGE_RESULT, .statement = result->statement};
    int rc = stor_fail_write(request, err);
    if (rc != VD_OK || !request->storage->settings.replicated)
        return rc == VD_OK ? stor_sessions_record(request, result, err) : rc;
    stor_sessions_row(request, result, &key, &value);
    rc = stor_sessions_row_put(request->session, key, value, err);
    if (rc == VD_OK)
        rc = result_body(request->arena, key, value, &change.body, err);
    if (rc == VD_OK)
        rc = change_begin(write, err); /* also for a no-op, which would be journaled by nothing */
    if (rc == VD_OK)
        rc = stor_journal_add(&write->entry, &change, err);
    write->result |= rc == VD_OK;
    return rc;
}

int stor_write_read(stor_write_t *write, vd_slice_t key, stor_record_t *ret_record, vd_error_t *err)
{
    vd_slice_t value;
    int rc = stor_cursor_search(write->table, key, &value, err);
    if (rc == VD_OK)
        rc = stor_envelope_read(value, &ret_record->document, &ret_record->version, err);
    if (rc == VD_OK) {
        ret_record->key = key;
        ret_record->place = stor_envelope_place(value);
    }
    return rc;
}

/* Users or roles changed: the epoch is the timestamp of the newest such commit. */
static int epoch_put(stor_write_t *write, vd_error_t *err)
{
    uint8_t payload[8];
    vd_put_u64(payload, write->timestamp);
    return stor_catalog_meta_put(write->request->session, "auth_epoch",
                                 (vd_value_t){payload, sizeof payload, VD_BSON_INT64}, err);
}

static void epoch_raise(stor_write_t *write)
{
    stor_storage_auth_epoch_raise(write->request->storage, write->timestamp);
    write->request->announce = true;
}

static bool is_auth(const stor_write_t *write)
{
    return write->changes > 0 && write->collection->is_auth;
}

static void committed(stor_write_t *write)
{
    stor_request_t *request = write->request;
    stor_collection_t *collection = write->collection;
    if (write->capped_first != 0)
        collection->capped.first = write->capped_first;
    if (write->changes > 0) {
        atomic_fetch_add_explicit(&collection->documents, write->documents_delta,
                                  memory_order_relaxed);
        atomic_fetch_add_explicit(&collection->bytes, write->bytes_delta, memory_order_relaxed);
        atomic_fetch_add_explicit(&collection->hash, write->hash_delta, memory_order_relaxed);
    }
    atomic_store_explicit(&request->storage->last_write_ms, request->variables.now_ms,
                          memory_order_relaxed);
    stor_request_depends(request, write->timestamp);
    request->operation_time = write->timestamp;
    if (is_auth(write))
        epoch_raise(write);
}

static int commit(stor_write_t *write, vd_error_t *err)
{
    stor_request_t *request = write->request;
    stor_session_t *session = request->session;
    if (write->changes == 0 && !write->result) {
        /* A no-op was decided by what this snapshot saw. */
        stor_request_depends(request, stor_txn_snapshot_newest(session));
        return stor_txn_commit(session, err);
    }
    int rc = stor_journal_append(request->storage->journal, session, write->timestamp, write->part,
                                 vd_buf_slice(&write->entry), err);
    if (rc == VD_OK && is_auth(write))
        rc = epoch_put(write, err);
    if (rc == VD_OK)
        rc = VD_FAULT("write.before_commit", err);
    if (rc == VD_OK)
        rc = stor_replication_request_commit(request, err);
    if (rc != VD_OK) {
        stor_txn_rollback(session);
        return rc;
    }
    rc = stor_txn_commit(session, err);
    if (rc == VD_OK) {
        committed(write);
        rc = VD_FAULT("write.after_commit", err);
    }
    return rc;
}

int stor_write_commit(stor_write_t *write, vd_error_t *err)
{
    if (write->request->transaction != NULL)
        return VD_OK; /* with the transaction */
    int rc = commit(write, err);
    capped_unlock(write);
    stor_replication_request_leave(write->request);
    return rc;
}

void stor_write_rollback(stor_write_t *write)
{
    if (write->request->transaction != NULL) {
        stor_transaction_fail(write->request); /* as a whole, when its statement ends */
        return;
    }
    if (stor_txn_active(write->request->session))
        stor_txn_rollback(write->request->session);
    capped_unlock(write);
    stor_replication_request_leave(write->request);
}

int stor_write_backoff(stor_write_t *write, vd_error_t *err)
{
    VD_ASSERT(!stor_txn_active(write->request->session));
    write->request->conflicts++;
    int rc = stor_request_check(write->request, err);
    if (rc != VD_OK)
        return rc;
    uint32_t n = write->attempts++ < 6 ? write->attempts : 6;
    /* Up to 20 us at first, 640 us at most; chance from the clock and the request is good enough
     * for jitter. */
    uint64_t chance = (vd_monotonic_us() ^ write->request->number * 0x9e3779b97f4a7c15u) >> 3;
    struct timespec pause = {0, (long)(1000 * (1 + chance % (10ull << n)))};
    (void)nanosleep(&pause, NULL); /* waking early is fine */
    return VD_OK;
}

/* ---- validators ---- */

static const stor_filter_t *schema_of(const stor_filter_t *filter)
{
    if (filter->kind == STOR_FILTER_JSON_SCHEMA)
        return filter;
    for (uint32_t i = 0; filter->kind == STOR_FILTER_AND && i < filter->child_count; i++)
        if (filter->children[i]->kind == STOR_FILTER_JSON_SCHEMA)
            return filter->children[i];
    return NULL;
}

static int validation_error(stor_write_t *write, vd_bson_t document, vd_error_t *err)
{
    vd_arena_t *arena = write->request->arena;
    const stor_filter_t *schema = schema_of(write->collection->validator);
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t details;
    vd_bb_init_arena(bb, arena, 1024 * 1024);
    vd_bb_begin_document(bb, "errInfo");
    vd_bb_value(bb, VD_SLICE_LIT("failingDocumentId"), vd_bson_get(document, "_id"));
    vd_bb_begin_document(bb, "details");
    bool schema_failed = schema != NULL && !stor_json_schema_matches(
                                               schema->schema, vd_value_from_document(document));
    if (schema_failed) {
        vd_bb_cstr(bb, "operatorName", "$jsonSchema");
        vd_bb_array(bb, "schemaRulesNotSatisfied",
                    stor_json_schema_explain_failure(schema->schema, arena,
                                                     vd_value_from_document(document)));
    } else {
        vd_bb_value(bb, VD_SLICE_LIT("specifiedAs"),
                    vd_bson_get(write->collection->options, "validator"));
        vd_bb_cstr(bb, "reason", "expression did not match");
    }
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_error_set(err, VD_ERR_DOCUMENT_VALIDATION_FAILURE, "Document failed validation");
    if (vd_bb_finish(bb, &details, NULL) == VD_OK && err != NULL)
        err->details = vd_slice(details.data, details.len);
    return VD_ERR_DOCUMENT_VALIDATION_FAILURE;
}

static int validate(stor_write_t *write, vd_bson_t document, const vd_bson_t *old, vd_error_t *err)
{
    const stor_collection_t *collection = write->collection;
    stor_match_t match = {.arena = write->request->arena, .variables = &write->request->variables};
    bool matches = false;
    int rc = stor_match_document(collection->validator, document, &match, &matches, err);
    if (rc != VD_OK || matches)
        return rc;
    if (collection->validation_level == STOR_VALIDATION_MODERATE && old != NULL) {
        rc = stor_match_document(collection->validator, *old, &match, &matches, err);
        if (rc != VD_OK || !matches)
            return rc; /* it was invalid before: may stay so */
    }
    if (collection->validation_action == STOR_VALIDATION_WARN) {
        char ns[300];
        vd_log(VD_LOG_WARN, "document would fail validation", "ns=%s",
               vd_log_quote(vd_slice_str(collection->ns), ns, sizeof ns));
        return VD_OK;
    }
    return validation_error(write, document, err);
}

int stor_write_validate(stor_write_t *write, vd_bson_t document, const vd_bson_t *old, bool bypass,
                        vd_error_t *err)
{
    const stor_collection_t *collection = write->collection;
    if (VD_LIKELY(collection->validator == NULL) || bypass ||
        collection->validation_level == STOR_VALIDATION_OFF)
        return VD_OK;
    /* A validator is the collection's, whatever collation the writer has. */
    const vd_collation_t *collation = vd_collation_set(collection->collation);
    int rc = validate(write, document, old, err);
    (void)vd_collation_set(collation);
    return rc;
}
