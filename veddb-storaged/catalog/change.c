/* veddb-storaged/catalog/change.c — changes of what exists. Each is one transaction of catalog rows
 * and a journal entry, under change_lock; files are made before it and removed after it. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/rand.h"
#include "veddb-storaged/catalog/catalog_private.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/catalog/own.h"
#include "veddb-storaged/catalog/rows.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/index/index_private.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/replication/replication.h"

#include <stdio.h>
#include <strings.h>
#include <time.h>

#define CONFLICT_WAIT_MAX_US 10000
#define TRANSACTION_WAIT_MS  100 /* another collection may be being made */

typedef stor_given_t given_t;
typedef stor_schema_change_t change_t;

static int entry_make(stor_request_t *request, const change_t *change, vd_buf_t *entry,
                      vd_error_t *err)
{
    stor_change_t c = {
        .kind = change->kind,
        .statement = -1,
        .collection_id = change->collection_id,
        .body = change->body,
    };
    vd_buf_clear(entry);
    int rc = stor_journal_begin(entry, request, vd_wall_ms(), err);
    return rc == VD_OK ? stor_journal_add(entry, &c, err) : rc;
}

static int change_try(stor_request_t *request, const change_t *change, vd_buf_t *entry,
                      vd_error_t *err)
{
    stor_session_t *session = request->session;
    stor_journal_t *journal = request->storage->journal;
    const given_t *given = change->given;
    uint64_t timestamp;
    int rc = given != NULL ? VD_OK : stor_replication_request_enter(request, err);
    if (rc == VD_OK)
        rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc; /* change_commit leaves */
    if (given != NULL) {
        timestamp = given->timestamp;
        stor_txn_timestamp_given(session, timestamp);
    } else {
        timestamp = stor_txn_timestamp(session);
        rc = entry_make(request, change, entry, err);
    }
    if (rc == VD_OK)
        rc = change->rows(session, change->context, err);
    if (rc == VD_OK)
        rc = given != NULL
                 ? stor_journal_append_raw(journal, session, given->key, given->value, err)
                 : stor_journal_append(journal, session, timestamp, 0, vd_buf_slice(entry), err);
    if (rc == VD_OK && given == NULL)
        rc = stor_replication_request_commit(request, err);
    if (rc != VD_OK) {
        stor_txn_rollback(session);
        return rc;
    }
    rc = stor_txn_commit(session, err);
    if (rc == VD_OK) {
        stor_request_depends(request, timestamp);
        request->operation_time = timestamp;
    }
    return rc;
}

static void pause_us(uint64_t us)
{
    struct timespec pause = {0, (long)(us * 1000)};
    (void)nanosleep(&pause, NULL); /* waking early is fine */
}

/* The keeper folds counters in transactions of some milliseconds and may hold the collection's row:
 * so a conflict is waited for, as long as for the fence. */
int stor_catalog_change_commit(stor_request_t *request, const stor_schema_change_t *change,
                               vd_error_t *err)
{
    uint64_t give_up = vd_monotonic_ms() + STOR_FENCE_WAIT_MS, wait_us = 100;
    vd_buf_t entry;
    vd_buf_init(&entry, 2 * VD_BSON_INTERNAL_MAX_BYTES + 4096);
    int rc;
    for (;;) {
        vd_error_t step = VD_ERROR_INIT;
        rc = change_try(request, change, &entry, &step);
        stor_replication_request_leave(request);
        if (rc == VD_ERR_WRITE_CONFLICT && vd_monotonic_ms() < give_up) {
            request->conflicts++;
            pause_us(wait_us);
            wait_us = wait_us < CONFLICT_WAIT_MAX_US ? 2 * wait_us : wait_us;
            vd_error_clear(&step);
            request->checks = 0; /* each check looks at the clock */
            rc = stor_request_check(request, &step);
            if (rc == VD_OK)
                continue;
        }
        if (rc != VD_OK && err != NULL)
            vd_error_copy(&step, err);
        break;
    }
    vd_buf_done(&entry);
    return rc;
}

static int change_body(stor_request_t *request, const stor_collection_t *collection,
                       const stor_collection_t *to, bool options, vd_bson_t *ret_body,
                       vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bb_init_arena(bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_string(bb, "db", collection->db);
    vd_bb_string(bb, "name", collection->name);
    vd_bb_binary(bb, "uuid", 4, vd_slice(collection->uuid, 16));
    if (to != NULL) {
        vd_bb_string(bb, "toDb", to->db);
        vd_bb_string(bb, "toName", to->name);
    }
    if (options)
        vd_bb_document(bb, "options", collection->options);
    return vd_bb_finish(bb, ret_body, err);
}

/* The body with one more field. */
static int body_extend(stor_request_t *request, vd_bson_t *body, const char *name, vd_value_t value,
                       vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bb_init_arena(bb, request->arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_concat(bb, *body);
    vd_bb_value(bb, vd_slice_str(name), value);
    return vd_bb_finish(bb, body, err);
}

/* What a rename drops. */
static int body_dropped(stor_request_t *request, vd_bson_t *body, const stor_collection_t *target,
                        vd_error_t *err)
{
    uint8_t uuid[21] = {16, 0, 0, 0, 4};
    if (target == NULL)
        return VD_OK;
    memcpy(uuid + 5, target->uuid, 16);
    int rc = body_extend(request, body, "dropped",
                         vd_value_from_int64(request->arena, (int64_t)target->id), err);
    return rc != VD_OK ? rc
                       : body_extend(request, body, "droppedUuid",
                                     (vd_value_t){uuid, sizeof uuid, VD_BSON_BINARY}, err);
}

stor_collection_t *stor_catalog_find(stor_catalog_t *catalog, vd_slice_t db, vd_slice_t name)
{
    char ns[VD_NAMESPACE_MAX_BYTES + 2];
    int len = snprintf(ns, sizeof ns, "%.*s.%.*s", VD_SLICE_FMT(db), VD_SLICE_FMT(name));
    if (len < 0 || (size_t)len >= sizeof ns)
        return NULL;
    pthread_rwlock_rdlock(&catalog->lock);
    stor_collection_t *collection = vd_map_get(catalog->by_ns, vd_slice(ns, (size_t)len));
    pthread_rwlock_unlock(&catalog->lock);
    return collection;
}

static int database_case_check(stor_catalog_t *catalog, vd_slice_t db, vd_error_t *err)
{
    size_t position = 0;
    vd_slice_t key;
    void *value;
    int rc = VD_OK;
    pthread_rwlock_rdlock(&catalog->lock);
    while (rc == VD_OK && vd_map_next(catalog->by_ns, &position, &key, &value)) {
        vd_slice_t other = ((stor_collection_t *)value)->db;
        if (other.len == db.len && !vd_slice_equal(other, db) &&
            strncasecmp((const char *)other.data, (const char *)db.data, db.len) == 0)
            rc = vd_error_set(err, VD_ERR_LOCATION(13297),
                              "db already exists with different case already have: [%.*s] trying "
                              "to create [%.*s]",
                              VD_SLICE_FMT(other), VD_SLICE_FMT(db));
    }
    pthread_rwlock_unlock(&catalog->lock);
    return rc;
}

/* ---- create ---- */

typedef struct {
    const stor_catalog_t *catalog;
    const stor_collection_t *collection;
} create_t;

/* The index that comes with the collection, in its entry; NULL: none. */
static const stor_index_t *made_with(const stor_collection_t *collection)
{
    const stor_index_set_t *set = collection->indexes;
    bool with =
        stor_index_set_has_id(set) || (collection->timeseries.is && set != NULL && set->count > 0);
    return with ? set->items[0] : NULL;
}

static int create_rows(stor_session_t *session, void *context, vd_error_t *err)
{
    const create_t *create = context;
    const stor_collection_t *collection = create->collection;
    const stor_index_t *with = made_with(collection);
    uint64_t next = create->catalog->next_id;
    uint8_t payload[8];
    int rc = stor_rows_collection_put(session, collection, err);
    if (rc == VD_OK && with != NULL)
        rc = stor_rows_index_put(session, collection->id, with->id, with->table_number,
                                 with->def->spec, VD_BSON_NONE, err);
    next = collection->id >= next ? collection->id + 1 : next;
    if (with != NULL && with->id >= next)
        next = with->id + 1;
    vd_put_u64(payload, next);
    if (rc == VD_OK)
        rc = stor_catalog_meta_put(session, "next_id",
                                   (vd_value_t){payload, sizeof payload, VD_BSON_INT64}, err);
    return rc;
}

/* Its file is there. Takes the collection. */
static int create_commit(stor_request_t *request, stor_collection_t *collection, vd_bson_t body,
                         const given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    create_t create = {catalog, collection};
    change_t change = {STOR_CHANGE_CREATE, collection->id, body, given, create_rows, &create};
    int rc = stor_catalog_change_commit(request, &change, err);
    if (rc != VD_OK) {
        stor_catalog_tables_gone(catalog, collection);
        stor_catalog_unreference(&collection);
        return rc;
    }
    stor_catalog_enter(catalog, collection);
    return VD_OK;
}

/* A collection with a collation has an index on _id that knows it, a time-series collection one on
 * metadata and time: made with it, in the same entry. */
static int with_index_add(stor_request_t *request, stor_collection_t *collection, uint64_t id,
                          vd_bson_t spec, vd_error_t *err)
{
    stor_index_t *index = NULL;
    int rc = stor_index_make(id, id, spec, STOR_INDEX_READY, &index, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_catalog_table_make(request->storage->catalog, index->table, err);
    if (rc == VD_OK)
        collection->indexes = stor_index_set_with(NULL, &index, 1);
    stor_index_unreference(&index);
    return rc;
}

static int id_index_make(stor_request_t *request, stor_collection_t *collection, vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bson_t spec;
    vd_bb_init_arena(bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    stor_facts_id_index(bb, stor_collation_of(collection->collation));
    int rc = vd_bb_finish(bb, &spec, err);
    return rc == VD_OK ? with_index_add(request, collection, request->storage->catalog->next_id++,
                                        spec, err)
                       : rc;
}

static int series_index_make(stor_request_t *request, stor_collection_t *collection,
                             vd_error_t *err)
{
    const stor_collection_timeseries_t *series = &collection->timeseries;
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bson_t spec, collation = stor_collation_of(collection->collation);
    if (series->meta.data == NULL)
        return VD_OK;
    vd_bb_init_arena(bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_int32(bb, "v", 2);
    vd_bb_begin_document(bb, "key");
    vd_bb_value(bb, series->meta, vd_value_from_int32(request->arena, 1));
    vd_bb_value(bb, series->time, vd_value_from_int32(request->arena, 1));
    vd_bb_close(bb);
    vd_bb_cstr(bb, "name",
               vd_arena_printf(request->arena, "%.*s_1_%.*s_1", VD_SLICE_FMT(series->meta),
                               VD_SLICE_FMT(series->time)));
    if (collation.len > 0)
        vd_bb_document(bb, "collation", collation);
    int rc = vd_bb_finish(bb, &spec, err);
    return rc == VD_OK ? with_index_add(request, collection, request->storage->catalog->next_id++,
                                        spec, err)
                       : rc;
}

/* Its database has no collection yet. */
static bool is_first(stor_catalog_t *catalog, vd_slice_t db)
{
    size_t position = 0;
    vd_slice_t key;
    void *value;
    bool found = false;
    pthread_rwlock_rdlock(&catalog->lock);
    while (!found && vd_map_next(catalog->by_ns, &position, &key, &value))
        found = vd_slice_equal(((stor_collection_t *)value)->db, db);
    pthread_rwlock_unlock(&catalog->lock);
    return !found;
}

static int create_body(stor_request_t *request, const stor_collection_t *collection,
                       vd_bson_t *ret_body, vd_error_t *err)
{
    static uint8_t yes[] = {1};
    int rc = change_body(request, collection, NULL, true, ret_body, err);
    const stor_index_t *index = made_with(collection);
    if (rc == VD_OK && is_first(request->storage->catalog, collection->db)) /* for the audit log */
        rc = body_extend(request, ret_body, "newDatabase", (vd_value_t){yes, 1, VD_BSON_BOOL}, err);
    if (rc != VD_OK || index == NULL)
        return rc;
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bson_t about;
    vd_bb_init_arena(bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_int64(bb, "id", (int64_t)index->id);
    vd_bb_document(bb, "spec", index->def->spec);
    rc = vd_bb_finish(bb, &about, err);
    return rc == VD_OK
               ? body_extend(request, ret_body, "idIndex", vd_value_from_document(about), err)
               : rc;
}

/* An object and its tables, which nobody knows yet. */
static int object_make(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                       const stor_create_options_t *options, stor_collection_t **ret_collection,
                       vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    if (stor_catalog_find(catalog, db, name) != NULL)
        return vd_error_set(err, VD_ERR_NAMESPACE_EXISTS, "Collection %.*s.%.*s already exists.",
                            VD_SLICE_FMT(db), VD_SLICE_FMT(name));
    int rc = database_case_check(catalog, db, err);
    if (rc != VD_OK)
        return rc;
    if (vd_map_count(catalog->by_id) + 1 >= STOR_COLLECTIONS_MAX)
        return vd_error_set(err, VD_ERR_FULL, "the limit of %d collections is reached",
                            STOR_COLLECTIONS_MAX);
    uint8_t uuid[16];
    if (options->uuid != NULL) {
        memcpy(uuid, options->uuid, 16);
    } else {
        vd_rand_secret(uuid, sizeof uuid);
        uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40), uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
    }
    stor_collection_t *collection = NULL;
    rc = stor_collection_make(catalog->next_id, db, name, uuid, options->options, &collection, err);
    if (rc == VD_OK)
        rc = stor_engine_table_create(catalog->storage->engine, collection->table, false, err);
    if (rc == VD_OK && collection->capped.is) {
        rc = stor_engine_table_create(catalog->storage->engine, collection->capped.table, false,
                                      err);
        if (rc != VD_OK)
            stor_catalog_table_dropped(catalog, collection->table);
    }
    if (rc != VD_OK) {
        stor_catalog_unreference(&collection);
        return rc;
    }
    catalog->next_id++;
    if (collection->timeseries.is)
        rc = series_index_make(request, collection, err);
    else if (collection->collation != NULL && !collection->view)
        rc = id_index_make(request, collection, err);
    if (rc != VD_OK) {
        stor_catalog_tables_gone(catalog, collection);
        stor_catalog_unreference(&collection);
        return rc;
    }
    *ret_collection = collection;
    return VD_OK;
}

static int create_locked(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                         const stor_create_options_t *options, vd_error_t *err)
{
    stor_collection_t *collection = NULL;
    vd_bson_t body;
    int rc = object_make(request, db, name, options, &collection, err);
    if (rc == VD_OK)
        rc = create_body(request, collection, &body, err);
    if (rc == VD_OK)
        return create_commit(request, collection, body, NULL, err);
    if (collection != NULL)
        stor_catalog_tables_gone(request->storage->catalog, collection);
    stor_catalog_unreference(&collection);
    return rc;
}

/* A change that holds it may wait for a collection that this transaction has a share in: so a
 * transaction gives up soon. */
static int change_lock(stor_request_t *request, vd_error_t *err)
{
    pthread_mutex_t *lock = &request->storage->catalog->change_lock;
    if (request->transaction == NULL) {
        pthread_mutex_lock(lock);
        return VD_OK;
    }
    uint64_t give_up = vd_monotonic_ms() + TRANSACTION_WAIT_MS;
    while (pthread_mutex_trylock(lock) != 0) {
        if (vd_monotonic_ms() > give_up)
            return vd_error_set(err, VD_ERR_LOCK_TIMEOUT,
                                "Unable to acquire the catalog's lock within '%dms' milliseconds.",
                                TRANSACTION_WAIT_MS);
        pause_us(1000);
    }
    return VD_OK;
}

int stor_catalog_create(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                        const stor_create_options_t *options, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    int rc = stor_name_check_writable(db, name, stor_request_internal(request), err);
    if (rc != VD_OK)
        return rc;
    rc = change_lock(request, err);
    if (rc != VD_OK)
        return rc;
    rc = create_locked(request, db, name, options, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

/* ---- drop ---- */

static int drop_rows(stor_session_t *session, void *context, vd_error_t *err)
{
    return stor_rows_collection_remove(session, ((stor_collection_t *)context)->id, err);
}

/* Its row is gone, and it stands in no map. */
static void gone(stor_catalog_t *catalog, stor_collection_t *collection)
{
    stor_catalog_unfence(catalog, collection, true);
    (void)stor_cursors_kill_collection(catalog->storage->cursors, collection->id);
    stor_catalog_tables_gone(catalog, collection);
    stor_catalog_unreference(&collection);
}

/* unused: only while nobody has put a document into it. */
static int drop_locked(stor_request_t *request, stor_collection_t *collection, bool unused,
                       const given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    vd_bson_t body;
    int rc = change_body(request, collection, NULL, collection->timeseries.is, &body, err);
    if (rc == VD_OK)
        rc = stor_catalog_fence(request, collection, err);
    if (rc != VD_OK)
        return rc;
    if (unused && atomic_load(&collection->documents) != 0) {
        stor_catalog_unfence(catalog, collection, false);
        return VD_OK;
    }
    change_t change = {STOR_CHANGE_DROP, collection->id, body, given, drop_rows, collection};
    rc = stor_catalog_change_commit(request, &change, err);
    if (rc != VD_OK) {
        stor_catalog_unfence(catalog, collection, false);
        return rc;
    }
    stor_catalog_leave(catalog, collection);
    gone(catalog, collection);
    return VD_OK;
}

int stor_catalog_drop(stor_request_t *request, vd_slice_t db, vd_slice_t name, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    stor_collection_t *collection = stor_catalog_find(catalog, db, name);
    int rc;
    if (collection == NULL) {
        stor_request_depends_newest(request);
        rc = vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND, "ns not found");
    } else {
        rc = drop_locked(request, collection, false, NULL, err);
    }
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

static int no_rows(stor_session_t *session, void *context, vd_error_t *err)
{
    (void)session, (void)context, (void)err; /* its collections' rows are gone already */
    return VD_OK;
}

/* For those who read the journal: the database is gone as a whole. */
static int database_dropped(stor_request_t *request, vd_slice_t db, vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bson_t body;
    vd_bb_init_arena(bb, request->arena, 4096);
    vd_bb_string(bb, "db", db);
    int rc = vd_bb_finish(bb, &body, err);
    change_t change = {.kind = STOR_CHANGE_DROP_DATABASE, .body = body, .rows = no_rows};
    return rc == VD_OK ? stor_catalog_change_commit(request, &change, err) : rc;
}

int stor_catalog_drop_database(stor_request_t *request, vd_slice_t db, uint32_t *ret_dropped,
                               vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_collection_info_t *infos;
    uint32_t count;
    *ret_dropped = 0;
    pthread_mutex_lock(&catalog->change_lock);
    int rc = stor_catalog_list(catalog, request->arena, db, false, &infos, &count, err);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++) {
        rc = drop_locked(request, stor_catalog_find(catalog, infos[i].db, infos[i].name), false,
                         NULL, err);
        *ret_dropped += rc == VD_OK;
    }
    if (rc == VD_OK && *ret_dropped > 0)
        rc = database_dropped(request, db, err);
    pthread_mutex_unlock(&catalog->change_lock);
    if (*ret_dropped == 0)
        stor_request_depends_newest(request);
    return rc;
}

/* ---- what a transaction has made ---- */

int stor_catalog_own_make(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                          const stor_create_options_t *options, stor_collection_t **ret_collection,
                          vd_error_t *err)
{
    int rc = stor_name_check_writable(db, name, stor_request_internal(request), err);
    if (rc == VD_OK)
        rc = change_lock(request, err);
    if (rc != VD_OK)
        return rc;
    rc = object_make(request, db, name, options, ret_collection, err);
    pthread_mutex_unlock(&request->storage->catalog->change_lock);
    return rc;
}

static int enter_locked(stor_request_t *request, stor_collection_t *collection, bool *ret_entered,
                        vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    create_t create = {catalog, collection};
    change_t change = {.kind = STOR_CHANGE_CREATE,
                       .collection_id = collection->id,
                       .rows = create_rows,
                       .context = &create};
    if (stor_catalog_find(catalog, collection->db, collection->name) != NULL)
        return vd_error_set(err, VD_ERR_WRITE_CONFLICT,
                            "a collection of the name that the transaction has made came "
                            "meanwhile");
    int rc = database_case_check(catalog, collection->db, err);
    if (rc == VD_OK)
        rc = create_body(request, collection, &change.body, err);
    if (rc == VD_OK)
        rc = stor_catalog_change_commit(request, &change, err);
    if (rc != VD_OK)
        return rc;
    /* The transaction's own, so that a change of the schema waits for its end. */
    atomic_fetch_add(&collection->users, 1);
    atomic_fetch_add(&collection->references, 1);
    rc = stor_catalog_own_indexes_commit(request, collection, err);
    stor_catalog_enter(catalog, collection);
    *ret_entered = true;
    return rc;
}

int stor_catalog_own_enter(stor_request_t *request, stor_collection_t *collection,
                           bool *ret_entered, vd_error_t *err)
{
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    int rc = change_lock(request, err);
    if (rc != VD_OK)
        return rc;
    rc = enter_locked(request, collection, ret_entered, err);
    pthread_mutex_unlock(&request->storage->catalog->change_lock);
    return rc;
}

void stor_catalog_own_leave(stor_request_t *request, stor_collection_t *collection)
{
    stor_catalog_t *catalog = request->storage->catalog;
    vd_error_t err = VD_ERROR_INIT;
    int rc = change_lock(request, &err);
    if (rc == VD_OK) {
        stor_collection_t *found = stor_catalog_find(catalog, collection->db, collection->name);
        if (found != NULL && found->id == collection->id)
            rc = drop_locked(request, found, true, NULL, &err);
        pthread_mutex_unlock(&catalog->change_lock);
    }
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "a collection of a transaction that failed stays, empty",
               "id=%llu code=%d", (unsigned long long)collection->id, -rc);
}

void stor_catalog_own_done(stor_catalog_t *catalog, stor_collection_t **collection_p, bool entered)
{
    if (!entered)
        stor_catalog_tables_gone(catalog, *collection_p);
    stor_catalog_unreference(collection_p);
}

/* ---- rename ---- */

typedef struct {
    stor_collection_t *to, *dropped;
} rename_t;

static int rename_rows(stor_session_t *session, void *context, vd_error_t *err)
{
    const rename_t *rename = context;
    int rc = stor_rows_collection_put(session, rename->to, err);
    if (rc == VD_OK && rename->dropped != NULL)
        rc = stor_rows_collection_remove(session, rename->dropped->id, err);
    return rc;
}

static void counters_move(stor_collection_t *to, stor_collection_t *from)
{
    atomic_store(&to->documents, atomic_load(&from->documents));
    atomic_store(&to->bytes, atomic_load(&from->bytes));
    atomic_store(&to->hash, atomic_load(&from->hash));
    atomic_store(&to->scrubs, atomic_load(&from->scrubs));
    atomic_store(&to->scrub_failures, atomic_load(&from->scrub_failures));
    atomic_store(&to->scrubbed_wall_ms, atomic_load(&from->scrubbed_wall_ms));
}

void stor_catalog_replace(stor_catalog_t *catalog, stor_collection_t *from, stor_collection_t *to,
                          stor_collection_t *dropped)
{
    counters_move(to, from);
    stor_catalog_swap(catalog, from, to, dropped);
    stor_catalog_unfence(catalog, from, true);
    stor_catalog_unreference(&from);
}

static int rename_fenced(stor_request_t *request, stor_collection_t *from, stor_collection_t *to,
                         stor_collection_t *target, const given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    vd_bson_t body;
    int rc = change_body(request, from, to, from->timeseries.is, &body, err);
    if (rc == VD_OK)
        rc = body_dropped(request, &body, target, err);
    rename_t rename = {to, target};
    change_t change = {STOR_CHANGE_RENAME, from->id, body, given, rename_rows, &rename};
    if (rc == VD_OK)
        rc = stor_catalog_change_commit(request, &change, err);
    if (rc != VD_OK) {
        stor_catalog_unfence(catalog, from, false);
        if (target != NULL)
            stor_catalog_unfence(catalog, target, false);
        return rc;
    }
    /* Cursors end as at a drop: who may read the old name need not be allowed to read the new one.
     * None can be made meanwhile: that takes a share. */
    (void)stor_cursors_kill_collection(catalog->storage->cursors, from->id);
    stor_catalog_replace(catalog, from, to, target);
    if (target != NULL)
        gone(catalog, target);
    return VD_OK;
}

stor_catalog_state_t stor_catalog_state(const stor_collection_t *collection)
{
    uint64_t writes = 0;
    for (int kind = STOR_TRAFFIC_INSERT; kind < STOR_TRAFFIC_COUNT; kind++)
        writes += atomic_load(&collection->traffic[kind].operations);
    return (stor_catalog_state_t){atomic_load(&collection->documents),
                                  atomic_load(&collection->hash), writes};
}

/* Behind the fence: a command that wrote was counted before it let go. */
static int state_check(const stor_collection_t *target, const stor_catalog_state_t *state,
                       vd_error_t *err)
{
    if (state == NULL)
        return VD_OK;
    stor_catalog_state_t now = stor_catalog_state(target);
    return now.documents == state->documents && now.hash == state->hash &&
                   now.writes == state->writes
               ? VD_OK
               : vd_error_set(err, VD_ERR_AGAIN, "the target was written meanwhile");
}

/* state: of the target, or NULL = it may be as it likes. */
static int rename_checked(stor_request_t *request, stor_collection_t *from, vd_slice_t to_db,
                          vd_slice_t to_name, stor_collection_t *target,
                          const stor_catalog_state_t *state, const given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_collection_t *to = NULL;
    int rc = stor_collection_make(from->id, to_db, to_name, from->uuid, from->options, &to, err);
    if (rc == VD_OK) {
        to->indexes = stor_index_set_reference(from->indexes);
        rc = stor_catalog_fence(request, from, err);
    }
    if (rc == VD_OK && target != NULL) {
        rc = stor_catalog_fence(request, target, err);
        bool fenced = rc == VD_OK;
        if (rc == VD_OK)
            rc = state_check(target, state, err);
        if (rc != VD_OK)
            stor_catalog_unfence(catalog, from, false);
        if (rc != VD_OK && fenced)
            stor_catalog_unfence(catalog, target, false);
    }
    if (rc == VD_OK)
        rc = rename_fenced(request, from, to, target, given, err);
    if (rc != VD_OK)
        stor_catalog_unreference(&to);
    return rc;
}

static int rename_locked(stor_request_t *request, vd_slice_t from_db, vd_slice_t from_name,
                         vd_slice_t to_db, vd_slice_t to_name, bool drop_target, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_collection_t *from = stor_catalog_find(catalog, from_db, from_name);
    stor_collection_t *target = stor_catalog_find(catalog, to_db, to_name);
    if (from == NULL) {
        stor_request_depends_newest(request);
        return vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND,
                            "Source collection %.*s.%.*s does not exist", VD_SLICE_FMT(from_db),
                            VD_SLICE_FMT(from_name));
    }
    if (from == target)
        return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION, "Can't rename a collection to itself");
    if (from->view)
        return vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW, "cannot rename view: %s",
                            from->ns);
    if (target != NULL && target->view)
        return vd_error_set(err, VD_ERR_NAMESPACE_EXISTS,
                            "a view already exists with that name: %s", target->ns);
    if (target != NULL && !drop_target) {
        stor_request_depends_newest(request);
        return vd_error_set(err, VD_ERR_NAMESPACE_EXISTS, "target namespace exists");
    }
    int rc = database_case_check(catalog, to_db, err);
    return rc == VD_OK ? rename_checked(request, from, to_db, to_name, target, NULL, NULL, err)
                       : rc;
}

int stor_catalog_rename(stor_request_t *request, vd_slice_t from_db, vd_slice_t from_name,
                        vd_slice_t to_db, vd_slice_t to_name, bool drop_target, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    int rc = rename_locked(request, from_db, from_name, to_db, to_name, drop_target, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

int stor_catalog_rename_over(stor_request_t *request, vd_slice_t db, vd_slice_t from,
                             vd_slice_t target, uint64_t target_id,
                             const stor_catalog_state_t *state, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    stor_collection_t *source = stor_catalog_find(catalog, db, from);
    stor_collection_t *over = stor_catalog_find(catalog, db, target);
    int rc = source == NULL || over == NULL || over->id != target_id
                 ? vd_error_set(err, VD_ERR_AGAIN, "one of the collections has gone")
                 : rename_checked(request, source, db, target, over, state, NULL, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

/* ---- modify ---- */

static int modify_rows(stor_session_t *session, void *context, vd_error_t *err)
{
    return stor_rows_collection_put(session, context, err);
}

static int modify_fenced(stor_request_t *request, stor_collection_t *from, stor_collection_t *to,
                         const given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    vd_bson_t body;
    int rc = change_body(request, to, NULL, true, &body, err);
    if (rc == VD_OK)
        rc = body_extend(request, &body, "before", vd_value_from_document(from->options), err);
    change_t modify = {STOR_CHANGE_MODIFY, to->id, body, given, modify_rows, to};
    if (rc == VD_OK)
        rc = stor_catalog_change_commit(request, &modify, err);
    if (rc != VD_OK) {
        stor_catalog_unfence(catalog, from, false);
        return rc;
    }
    stor_collection_traffic_move(to, from);
    stor_catalog_replace(catalog, from, to, NULL);
    return VD_OK;
}

/* Lists look at options without a share: so these never change in place, and are seen when they are
 * committed, not before. */
static int modify_to(stor_request_t *request, stor_collection_t *from, vd_bson_t options,
                     const given_t *given, vd_error_t *err)
{
    stor_collection_t *to = NULL;
    int rc = stor_collection_make(from->id, from->db, from->name, from->uuid, options, &to, err);
    if (rc == VD_OK) {
        to->indexes = stor_index_set_reference(from->indexes);
        rc = stor_catalog_fence(request, from, err);
    }
    if (rc == VD_OK)
        rc = modify_fenced(request, from, to, given, err);
    if (rc != VD_OK)
        stor_catalog_unreference(&to);
    return rc;
}

static int modify_locked(stor_request_t *request, stor_collection_t *from,
                         int (*change)(void *context, vd_bson_t old, vd_bson_t *ret_options,
                                       vd_error_t *err),
                         void *context, vd_error_t *err)
{
    vd_bson_t options;
    int rc = change(context, from->options, &options, err);
    return rc == VD_OK ? modify_to(request, from, options, NULL, err) : rc;
}

int stor_catalog_modify(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                        int (*change)(void *context, vd_bson_t old, vd_bson_t *ret_options,
                                      vd_error_t *err),
                        void *context, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    stor_collection_t *collection = stor_catalog_find(catalog, db, name);
    int rc = collection == NULL ? vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND, "ns does not exist")
                                : modify_locked(request, collection, change, context, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

/* ---- changes of another node ---- */

typedef struct {
    vd_slice_t db, name, to_db, to_name, uuid;
    vd_bson_t options;
} body_t;

static int diverged(vd_error_t *err, const body_t *body, const char *what)
{
    return vd_error_set(err, VD_ERR_DIVERGED, "collection %.*s.%.*s %s", VD_SLICE_FMT(body->db),
                        VD_SLICE_FMT(body->name), what);
}

static bool take_name(vd_bson_t from, const char *db_field, const char *name_field,
                      vd_slice_t *ret_db, vd_slice_t *ret_name)
{
    vd_value_t db = vd_bson_get(from, db_field), name = vd_bson_get(from, name_field);
    if (db.type != VD_BSON_STRING || name.type != VD_BSON_STRING)
        return false;
    *ret_db = vd_value_string(db);
    *ret_name = vd_value_string(name);
    return stor_name_check_writable(*ret_db, *ret_name, true, NULL) == VD_OK;
}

static int body_read(stor_change_kind_t kind, vd_bson_t from, body_t *ret, vd_error_t *err)
{
    body_t body = {0};
    vd_value_t uuid = vd_bson_get(from, "uuid"), options = vd_bson_get(from, "options");
    bool ok = vd_bson_validate(vd_slice(from.data, from.len), 0, VD_BSON_BUILD_DEPTH_MAX, NULL) ==
                  VD_OK &&
              take_name(from, "db", "name", &body.db, &body.name) && uuid.type == VD_BSON_BINARY;
    if (ok && kind == STOR_CHANGE_RENAME)
        ok = take_name(from, "toDb", "toName", &body.to_db, &body.to_name);
    if (ok && (kind == STOR_CHANGE_CREATE || kind == STOR_CHANGE_MODIFY)) {
        ok = options.type == VD_BSON_OBJECT;
        body.options = ok ? vd_value_document(options) : VD_BSON_NONE;
    }
    if (ok)
        body.uuid = vd_value_binary(uuid, NULL);
    if (!ok || body.uuid.len != 16)
        return vd_error_set(err, VD_ERR_CORRUPT, "a schema change in the journal is malformed");
    *ret = body;
    return VD_OK;
}

static int applied_create(stor_request_t *request, uint64_t id, const body_t *body, vd_bson_t from,
                          const given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_collection_t *collection = stor_catalog_reference(catalog, id);
    bool exists = collection != NULL || stor_catalog_find(catalog, body->db, body->name) != NULL;
    stor_catalog_unreference(&collection);
    if (exists)
        return diverged(err, body, "exists already");
    if (id == 0 || vd_map_count(catalog->by_id) + 1 >= STOR_COLLECTIONS_MAX)
        return vd_error_set(err, VD_ERR_FULL, "the limit of %d collections is reached",
                            STOR_COLLECTIONS_MAX);
    int rc = stor_collection_make(id, body->db, body->name, body->uuid.data, body->options,
                                  &collection, err);
    if (rc == VD_OK)
        rc = stor_catalog_table_make(catalog, collection->table, err);
    if (rc == VD_OK && collection->capped.is)
        rc = stor_catalog_table_make(catalog, collection->capped.table, err);
    vd_value_t of_id = vd_bson_get(from, "idIndex");
    int64_t index_id = 0;
    if (rc == VD_OK && of_id.type == VD_BSON_OBJECT) {
        vd_value_t spec = vd_bson_get(vd_value_document(of_id), "spec");
        if (!vd_value_as_int64(vd_bson_get(vd_value_document(of_id), "id"), &index_id) ||
            index_id <= 0 || spec.type != VD_BSON_OBJECT)
            rc = vd_error_set(err, VD_ERR_CORRUPT, "a schema change in the journal is malformed");
        else
            rc = with_index_add(request, collection, (uint64_t)index_id, vd_value_document(spec),
                                err);
    }
    if (rc != VD_OK) {
        stor_catalog_unreference(&collection);
        return rc;
    }
    if (id >= catalog->next_id)
        catalog->next_id = id + 1;
    if ((uint64_t)index_id >= catalog->next_id)
        catalog->next_id = (uint64_t)index_id + 1;
    return create_commit(request, collection, from, given, err);
}

/* The collection that the change means, by id and uuid, under the name that it says. */
static int applied_find(stor_request_t *request, uint64_t id, const body_t *body,
                        stor_collection_t **ret, vd_error_t *err)
{
    stor_collection_t *collection =
        stor_catalog_find(request->storage->catalog, body->db, body->name);
    if (collection == NULL || collection->id != id)
        return diverged(err, body, "is not here");
    if (memcmp(collection->uuid, body->uuid.data, 16) != 0)
        return diverged(err, body, "is another one");
    *ret = collection;
    return VD_OK;
}

static int applied_rename(stor_request_t *request, stor_collection_t *from, const body_t *body,
                          const given_t *given, vd_error_t *err)
{
    stor_collection_t *target =
        stor_catalog_find(request->storage->catalog, body->to_db, body->to_name);
    if (target == from)
        return diverged(err, body, "has that name already");
    return rename_checked(request, from, body->to_db, body->to_name, target, NULL, given, err);
}

static int applied_locked(stor_request_t *request, stor_change_kind_t kind, uint64_t id,
                          vd_bson_t from, const given_t *given, vd_error_t *err)
{
    body_t body = {0};
    stor_collection_t *collection = NULL;
    int rc = body_read(kind, from, &body, err);
    if (rc == VD_OK && kind == STOR_CHANGE_CREATE)
        return applied_create(request, id, &body, from, given, err);
    if (rc == VD_OK)
        rc = applied_find(request, id, &body, &collection, err);
    if (rc != VD_OK)
        return rc;
    if (kind == STOR_CHANGE_DROP)
        return drop_locked(request, collection, false, given, err);
    if (kind == STOR_CHANGE_RENAME)
        return applied_rename(request, collection, &body, given, err);
    if (kind != STOR_CHANGE_MODIFY)
        return stor_catalog_indexes_applied(request, kind, collection, from, given, err);
    return modify_to(request, collection, body.options, given, err);
}

int stor_catalog_apply(stor_request_t *request, stor_change_kind_t kind, uint64_t id,
                       vd_bson_t body, uint64_t timestamp, vd_slice_t entry_key,
                       vd_slice_t entry_value, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    const given_t given = {timestamp, entry_key, entry_value};
    VD_ASSERT(stor_change_is_schema(kind) && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    int rc = applied_locked(request, kind, id, body, &given, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}
