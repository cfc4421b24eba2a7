/* veddb-storaged/catalog/indexes.c — see indexes.h. A change of the set makes a new object of the
 * collection, which takes the place of the old one behind the fence. Changes of another node:
 * indexes_applied.c; what a start finds: indexes_open.c. */
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "veddb-storaged/catalog/indexes_private.h"
#include "veddb-storaged/catalog/own.h"
#include "veddb-storaged/catalog/rows.h"
#include "veddb-storaged/index/build.h"

#include <time.h>

#define CONFLICTS_MAX 1000

stor_collection_t *stor_indexes_collection(stor_catalog_t *catalog, uint64_t id)
{
    pthread_rwlock_rdlock(&catalog->lock);
    stor_collection_t *collection = vd_map_get(catalog->by_id, vd_key_u64(&id));
    pthread_rwlock_unlock(&catalog->lock);
    return collection;
}

int stor_indexes_not_there(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND, "the collection was dropped meanwhile");
}

int stor_indexes_with_set(stor_collection_t *from, stor_index_set_t *set, stor_collection_t **ret,
                          vd_error_t *err)
{
    stor_collection_t *to;
    int rc =
        stor_collection_make(from->id, from->db, from->name, from->uuid, from->options, &to, err);
    if (rc != VD_OK) {
        stor_index_set_unreference(&set);
        return rc;
    }
    to->indexes = set;
    *ret = to;
    return VD_OK;
}

void stor_indexes_take_place(stor_catalog_t *catalog, stor_collection_t *from,
                             stor_collection_t *to)
{
    stor_collection_traffic_move(to, from);
    stor_catalog_replace(catalog, from, to, NULL);
}

/* ---- journal and rows ---- */

/* {db, name, uuid, indexes: [{id, spec, before}], building} */
static int body_make(stor_request_t *request, const stor_collection_t *collection,
                     stor_index_t *const *indexes, uint32_t count, const stor_index_t *before,
                     vd_bson_t building, vd_bson_t *ret_body, vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    char buf[12];
    vd_bb_init_arena(bb, request->arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_string(bb, "db", collection->db);
    vd_bb_string(bb, "name", collection->name);
    vd_bb_binary(bb, "uuid", 4, vd_slice(collection->uuid, 16));
    vd_bb_begin_array(bb, "indexes");
    for (uint32_t i = 0; i < count; i++) {
        vd_bb_open_document(bb, vd_array_name(i, buf));
        vd_bb_int64(bb, "id", (int64_t)indexes[i]->id);
        vd_bb_document(bb, "spec", indexes[i]->def->spec);
        if (before != NULL)
            vd_bb_document(bb, "before", before->def->spec);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    if (building.len > 0)
        vd_bb_document(bb, "building", building);
    return vd_bb_finish(bb, ret_body, err);
}

static int create_rows(stor_session_t *session, void *context, vd_error_t *err)
{
    const stor_index_rows_t *rows = context;
    uint8_t payload[8];
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < rows->count; i++) {
        stor_index_t *index = rows->indexes[i];
        rc = stor_rows_index_put(session, rows->collection_id, index->id, index->table_number,
                                 index->def->spec, rows->building, err);
        if (rc == VD_OK && rows->building.len == 0)
            rc = stor_rows_index_state_put(session, index->id,
                                           (uint32_t)atomic_load(&index->multikey),
                                           atomic_load(&index->entries), err);
    }
    vd_put_u64(payload, rows->catalog->next_id);
    if (rc == VD_OK)
        rc = stor_catalog_meta_put(session, "next_id",
                                   (vd_value_t){payload, sizeof payload, VD_BSON_INT64}, err);
    return rc;
}

static int drop_rows(stor_session_t *session, void *context, vd_error_t *err)
{
    const stor_index_rows_t *rows = context;
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < rows->count; i++)
        rc = stor_rows_index_remove(session, rows->collection_id, rows->indexes[i]->id, err);
    return rc;
}

static int modify_rows(stor_session_t *session, void *context, vd_error_t *err)
{
    const stor_index_rows_t *rows = context;
    const stor_index_t *index = rows->indexes[0];
    uint8_t payload[8];
    int rc = stor_rows_index_put(session, rows->collection_id, index->id, index->table_number,
                                 index->def->spec, VD_BSON_NONE, err);
    if (rc != VD_OK || index->table_number == index->id)
        return rc;
    vd_put_u64(payload, rows->catalog->next_id); /* its table took a number */
    return stor_catalog_meta_put(session, "next_id",
                                 (vd_value_t){payload, sizeof payload, VD_BSON_INT64}, err);
}

/* ---- begin ---- */

void stor_indexes_tables_drop(stor_catalog_t *catalog, stor_index_t *const *indexes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        stor_catalog_table_dropped(catalog, indexes[i]->table);
        if (indexes[i]->log != NULL)
            stor_catalog_table_dropped(catalog, indexes[i]->log->table);
    }
}

void stor_indexes_let_go(stor_index_t **indexes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        stor_index_unreference(&indexes[i]);
}

void stor_indexes_give_up(stor_catalog_t *catalog, stor_collection_t *from,
                          stor_collection_t **to_p, bool fenced, stor_index_t *const *indexes,
                          uint32_t count)
{
    if (fenced)
        stor_catalog_unfence(catalog, from, false);
    stor_catalog_unreference(to_p);
    stor_indexes_tables_drop(catalog, indexes, count);
}

int stor_indexes_make(stor_catalog_t *catalog, const vd_bson_t *specs, const uint64_t *ids,
                      uint32_t count, vd_bson_t building, stor_index_t **ret_indexes,
                      vd_error_t *err)
{
    uint32_t made = 0;
    int rc = VD_OK;
    for (; rc == VD_OK && made < count; made++) {
        stor_index_t *index = NULL;
        rc = building.len == 0 ? stor_index_make(ids[made], ids[made], specs[made],
                                                 STOR_INDEX_BUILDING, &index, err)
                               : stor_index_make_building(ids[made], ids[made], specs[made],
                                                          building, &index, err);
        if (rc != VD_OK)
            break;
        ret_indexes[made] = index;
        rc = stor_catalog_table_make(catalog, index->table, err);
        if (rc == VD_OK)
            rc = stor_catalog_table_make(catalog, index->log->table, err);
    }
    if (rc == VD_OK)
        return VD_OK;
    stor_indexes_tables_drop(catalog, ret_indexes, made);
    while (made > 0)
        stor_index_unreference(&ret_indexes[--made]);
    return rc;
}

int stor_indexes_begin_check(const stor_collection_t *collection, const vd_bson_t *specs,
                             uint32_t count, vd_error_t *err)
{
    uint32_t has = collection->indexes == NULL ? 0 : collection->indexes->count;
    for (uint32_t i = 0; i < count; i++)
        if (stor_index_set_named(collection->indexes,
                                 vd_value_string(vd_bson_get(specs[i], "name"))) != NULL)
            return vd_error_set(err, VD_ERR_AGAIN, "an index of that name came meanwhile");
    return has + count + 1 > STOR_INDEXES_MAX
               ? vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                              "add index fails, too many indexes for %s", collection->ns)
               : VD_OK;
}

/* Behind the fence: nothing is in it, and nothing can come. */
static bool is_empty(stor_session_t *session, const stor_collection_t *collection)
{
    stor_cursor_t *cursor;
    vd_error_t err = VD_ERROR_INIT;
    int rc = stor_txn_begin(session, &err);
    if (rc != VD_OK)
        return false;
    rc = stor_cursor_open(session, collection->table, &cursor, &err);
    if (rc == VD_OK)
        rc = stor_cursor_next(cursor, true, NULL, NULL, &err);
    stor_txn_rollback(session);
    return rc == VD_ERR_NOT_FOUND;
}

int stor_indexes_rows_commit(stor_session_t *session, stor_index_rows_t *rows, vd_error_t *err)
{
    for (int tries = 0;; tries++) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = stor_txn_begin(session, &step);
        if (rc == VD_OK) {
            rc = create_rows(session, rows, &step);
            if (rc == VD_OK)
                rc = stor_txn_commit(session, &step);
            else
                stor_txn_rollback(session);
        }
        if (rc == VD_ERR_WRITE_CONFLICT && tries < CONFLICTS_MAX) {
            struct timespec pause = {.tv_nsec = 1000000};
            (void)nanosleep(&pause, NULL); /* waking early is fine */
            continue;
        }
        return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "%s", step.message);
    }
}

int stor_indexes_ready_commit(stor_request_t *request, stor_collection_t *collection,
                              stor_index_t *const *indexes, uint32_t count, bool journaled,
                              const stor_given_t *given, vd_error_t *err)
{
    stor_index_rows_t rows = {request->storage->catalog, collection->id, indexes, count,
                              VD_BSON_NONE};
    stor_schema_change_t change = {.kind = STOR_CHANGE_CREATE_INDEXES,
                                   .collection_id = collection->id,
                                   .given = given,
                                   .rows = create_rows,
                                   .context = &rows};
    int rc = body_make(request, collection, indexes, count, NULL, VD_BSON_NONE, &change.body, err);
    if (rc == VD_OK)
        rc = VD_FAULT("index.before_commit", err);
    if (rc == VD_OK)
        rc = journaled ? stor_catalog_change_commit(request, &change, err)
                       : stor_indexes_rows_commit(request->session, &rows, err);
    if (rc != VD_OK)
        return rc;
    for (uint32_t i = 0; i < count; i++)
        atomic_store(&indexes[i]->state, STOR_INDEX_READY);
    return VD_FAULT("index.after_commit", err);
}

void stor_indexes_logs_drop(stor_catalog_t *catalog, stor_index_t *const *indexes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        stor_catalog_table_dropped(catalog, indexes[i]->log->table);
}

/* {build, quorum, user} */
static int building_make(stor_request_t *request, uint64_t build, vd_value_t quorum, vd_bson_t *ret,
                         vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bb_init_arena(bb, request->arena, 4096);
    vd_bb_int64(bb, "build", (int64_t)build);
    if (!vd_value_is_nullish(quorum))
        vd_bb_value(bb, VD_SLICE_LIT("quorum"), quorum);
    if (request->command.user.len > 0)
        vd_bb_string(bb, "user", request->command.user);
    return vd_bb_finish(bb, ret, err);
}

int stor_indexes_start_commit(stor_request_t *request, stor_collection_t *collection,
                              stor_index_t *const *indexes, uint32_t count, vd_bson_t building,
                              const stor_given_t *given, vd_error_t *err)
{
    stor_index_rows_t rows = {request->storage->catalog, collection->id, indexes, count, building};
    stor_schema_change_t change = {.kind = STOR_CHANGE_START_INDEXES,
                                   .collection_id = collection->id,
                                   .given = given,
                                   .rows = create_rows,
                                   .context = &rows};
    int rc = given != NULL ? VD_OK
                           : body_make(request, collection, indexes, count, NULL, building,
                                       &change.body, err);
    if (rc == VD_OK)
        rc = VD_FAULT("index.starting", err);
    if (rc == VD_OK)
        rc = stor_catalog_change_commit(request, &change, err);
    return rc == VD_OK ? VD_FAULT("index.started", err) : rc;
}

/* A set that has them, in place of `from`'s; ready ones when nothing is in the collection. */
static int begin_fenced(stor_request_t *request, stor_collection_t *from, stor_collection_t *to,
                        stor_index_t *const *indexes, uint32_t count, vd_bson_t building,
                        bool *ret_ready, vd_error_t *err)
{
    *ret_ready = is_empty(request->session, from);
    int rc = *ret_ready
                 ? stor_indexes_ready_commit(request, from, indexes, count, true, NULL, err)
                 : stor_indexes_start_commit(request, from, indexes, count, building, NULL, err);
    if (rc != VD_OK)
        return rc;
    stor_indexes_take_place(request->storage->catalog, from, to);
    if (*ret_ready)
        stor_indexes_logs_drop(request->storage->catalog, indexes, count);
    return VD_OK;
}

void stor_indexes_build_begin(stor_request_t *request, uint64_t collection_id,
                              stor_index_t *const *indexes, uint32_t count,
                              stor_build_t **ret_build)
{
    vd_error_t err = VD_ERROR_INIT;
    if (stor_builds_begin(request->storage->builds, collection_id, indexes, count, ret_build,
                          &err) == VD_OK)
        return;
    stor_builds_unattended(request->storage->builds);
    vd_log(VD_LOG_WARN, "a build of indexes begins later", "collection=%llu code=%d",
           (unsigned long long)collection_id, -err.code);
}

static int begin_locked(stor_request_t *request, uint64_t collection_id, const vd_bson_t *specs,
                        uint32_t count, vd_value_t quorum, stor_build_t **ret_build,
                        vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_collection_t *from = stor_indexes_collection(catalog, collection_id), *to = NULL;
    stor_index_t *indexes[STOR_INDEXES_MAX];
    uint64_t ids[STOR_INDEXES_MAX];
    vd_bson_t building;
    if (from == NULL)
        return stor_indexes_not_there(err);
    int rc = stor_indexes_begin_check(from, specs, count, err);
    if (rc == VD_OK && stor_builds_count(request->storage->builds) >= VDP_BUILDS_MAX)
        rc = vd_error_set(err, VD_ERR_AGAIN, "too many indexes are being built");
    if (rc != VD_OK)
        return rc;
    for (uint32_t i = 0; i < count; i++)
        ids[i] = catalog->next_id++;
    rc = building_make(request, ids[0], quorum, &building, err);
    if (rc == VD_OK)
        rc = stor_indexes_make(catalog, specs, ids, count, building, indexes, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_indexes_with_set(from, stor_index_set_with(from->indexes, indexes, count), &to, err);
    if (rc == VD_OK)
        rc = stor_catalog_fence(request, from, err);
    bool fenced = rc == VD_OK, ready = false;
    if (rc == VD_OK)
        rc = begin_fenced(request, from, to, indexes, count, building, &ready, err);
    if (rc != VD_OK) {
        stor_indexes_give_up(catalog, from, &to, fenced, indexes, count);
    } else if (!ready) {
        stor_indexes_build_begin(request, collection_id, indexes, count, ret_build);
    }
    stor_indexes_let_go(indexes, count);
    return rc;
}

int stor_catalog_indexes_begin(stor_request_t *request, uint64_t collection_id,
                               const vd_bson_t *specs, uint32_t count, vd_value_t quorum,
                               stor_build_t **ret_build, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    VD_ASSERT(count > 0 && count < STOR_INDEXES_MAX);
    *ret_build = NULL;
    pthread_mutex_lock(&catalog->change_lock);
    int rc = begin_locked(request, collection_id, specs, count, quorum, ret_build, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

/* ---- of a collection that only its transaction knows ---- */

int stor_indexes_own_add(stor_request_t *request, stor_collection_t *collection,
                         const vd_bson_t *specs, const uint64_t *ids, uint32_t count,
                         vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_index_t *indexes[STOR_INDEXES_MAX];
    int rc = stor_indexes_make(catalog, specs, ids, count, VD_BSON_NONE, indexes, err);
    if (rc != VD_OK)
        return rc;
    stor_index_set_t *before = collection->indexes;
    collection->indexes = stor_index_set_with(before, indexes, count);
    stor_index_set_unreference(&before);
    for (uint32_t i = 0; i < count; i++)
        atomic_store(&indexes[i]->state, STOR_INDEX_READY);
    stor_indexes_logs_drop(catalog, indexes, count);
    stor_indexes_let_go(indexes, count);
    return VD_OK;
}

int stor_catalog_own_index(stor_request_t *request, stor_collection_t *collection,
                           const vd_bson_t *specs, uint32_t count, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    uint64_t ids[STOR_INDEXES_MAX];
    VD_ASSERT(count > 0 && count < STOR_INDEXES_MAX);
    int rc = stor_indexes_begin_check(collection, specs, count, err);
    if (rc != VD_OK)
        return rc;
    pthread_mutex_lock(&catalog->change_lock);
    for (uint32_t i = 0; i < count; i++)
        ids[i] = catalog->next_id++;
    rc = stor_indexes_own_add(request, collection, specs, ids, count, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

/* How many of the set stand in the collection's own entry. */
static uint32_t own_skip(const stor_collection_t *collection)
{
    return stor_catalog_made_with(collection) != NULL;
}

int stor_catalog_own_indexes_body(stor_request_t *request, const stor_collection_t *collection,
                                  vd_bson_t *ret_body, vd_error_t *err)
{
    const stor_index_set_t *set = collection->indexes;
    uint32_t skip = own_skip(collection);
    *ret_body = VD_BSON_NONE;
    return set == NULL || set->count == skip
               ? VD_OK
               : body_make(request, collection, set->items + skip, set->count - skip, NULL,
                           VD_BSON_NONE, ret_body, err);
}

/* What is kept beside an index has rows when there is something to keep: the number of entries when
 * the keeper notes it, multikey since it was met, in a transaction of its own. */
int stor_catalog_own_indexes_put(stor_session_t *session, const stor_collection_t *collection,
                                 vd_error_t *err)
{
    const stor_index_set_t *set = collection->indexes;
    int rc = VD_OK;
    for (uint32_t i = own_skip(collection); rc == VD_OK && set != NULL && i < set->count; i++)
        rc = stor_rows_index_put(session, collection->id, set->items[i]->id,
                                 set->items[i]->table_number, set->items[i]->def->spec,
                                 VD_BSON_NONE, err);
    return rc;
}

/* ---- commit, abort ---- */

static bool has_all(const stor_collection_t *collection, stor_index_t *const *indexes,
                    uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (stor_index_set_find(collection->indexes, indexes[i]->id) != indexes[i])
            return false;
    return true;
}

int stor_indexes_commit_locked(stor_request_t *request, stor_collection_t *from,
                               stor_index_t *const *indexes, uint32_t count,
                               int (*last)(void *context, vd_error_t *err), void *context,
                               const stor_given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_collection_t *to = NULL;
    int rc = stor_indexes_with_set(from, stor_index_set_reference(from->indexes), &to, err);
    if (rc == VD_OK)
        rc = stor_catalog_fence(request, from, err);
    if (rc != VD_OK) {
        stor_catalog_unreference(&to);
        return rc;
    }
    rc = last(context, err);
    if (rc == VD_OK)
        rc = stor_indexes_ready_commit(request, from, indexes, count, true, given, err);
    if (rc != VD_OK) {
        stor_catalog_unfence(catalog, from, false);
        stor_catalog_unreference(&to);
        return rc;
    }
    stor_indexes_take_place(catalog, from, to);
    stor_indexes_logs_drop(catalog, indexes, count);
    return VD_OK;
}

int stor_catalog_indexes_commit(stor_request_t *request, uint64_t collection_id,
                                stor_index_t *const *indexes, uint32_t count,
                                int (*last)(void *context, vd_error_t *err), void *context,
                                vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    stor_collection_t *from = stor_indexes_collection(catalog, collection_id);
    int rc =
        from == NULL || !has_all(from, indexes, count)
            ? stor_indexes_not_there(err)
            : stor_indexes_commit_locked(request, from, indexes, count, last, context, NULL, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

/* Who builds them finds that they are gone. */
int stor_indexes_abort_locked(stor_request_t *request, stor_collection_t *from,
                              stor_index_t *const *indexes, uint32_t count,
                              const stor_given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_collection_t *to = NULL;
    stor_index_rows_t rows = {catalog, from->id, indexes, count, VD_BSON_NONE};
    stor_schema_change_t change = {.kind = STOR_CHANGE_ABORT_INDEXES,
                                   .collection_id = from->id,
                                   .given = given,
                                   .rows = drop_rows,
                                   .context = &rows};
    int rc = body_make(request, from, indexes, count, NULL, VD_BSON_NONE, &change.body, err);
    if (rc == VD_OK)
        rc = stor_indexes_with_set(from, stor_index_set_without(from->indexes, indexes, count), &to,
                                   err);
    if (rc == VD_OK)
        rc = stor_catalog_fence(request, from, err);
    if (rc != VD_OK) {
        stor_catalog_unreference(&to);
        return rc;
    }
    rc = stor_catalog_change_commit(request, &change, err);
    if (rc != VD_OK) {
        stor_catalog_unfence(catalog, from, false);
        stor_catalog_unreference(&to);
        return rc;
    }
    for (uint32_t i = 0; i < count; i++) {
        int none = 0;
        (void)atomic_compare_exchange_strong(&indexes[i]->log->cancelled, &none,
                                             VD_ERR_INDEX_BUILD_ABORTED);
        (void)stor_index_reference(indexes[i]); /* the set of `from` goes */
    }
    stor_indexes_take_place(catalog, from, to);
    stor_indexes_tables_drop(catalog, indexes, count);
    for (uint32_t i = 0; i < count; i++) {
        stor_index_t *index = indexes[i];
        stor_index_unreference(&index);
    }
    return VD_OK;
}

int stor_catalog_indexes_abort(stor_request_t *request, uint64_t collection_id,
                               stor_index_t *const *indexes, uint32_t count, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    stor_collection_t *from = stor_indexes_collection(catalog, collection_id);
    int rc = from == NULL || !has_all(from, indexes, count)
                 ? VD_OK
                 : stor_indexes_abort_locked(request, from, indexes, count, NULL, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

/* ---- drop ---- */

static int drop_fenced(stor_request_t *request, stor_collection_t *from, stor_collection_t *to,
                       stor_index_t *const *indexes, uint32_t count, const stor_given_t *given,
                       vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_index_rows_t rows = {catalog, from->id, indexes, count, VD_BSON_NONE};
    stor_schema_change_t change = {.kind = STOR_CHANGE_DROP_INDEXES,
                                   .collection_id = from->id,
                                   .given = given,
                                   .rows = drop_rows,
                                   .context = &rows};
    int rc = body_make(request, from, indexes, count, NULL, VD_BSON_NONE, &change.body, err);
    if (rc == VD_OK)
        rc = stor_catalog_change_commit(request, &change, err);
    if (rc != VD_OK) {
        stor_catalog_unfence(catalog, from, false);
        return rc;
    }
    /* Cursors that read one of them find that it is gone (exec/index_scan.h). */
    for (uint32_t i = 0; i < count; i++)
        (void)stor_index_reference(indexes[i]); /* the set of `from` goes */
    stor_indexes_take_place(catalog, from, to);
    for (uint32_t i = 0; i < count; i++) {
        stor_index_t *index = indexes[i];
        stor_catalog_table_dropped(catalog, index->table);
        stor_index_unreference(&index);
    }
    return VD_OK;
}

int stor_indexes_drop_locked(stor_request_t *request, stor_collection_t *from,
                             stor_index_t *const *indexes, uint32_t count,
                             const stor_given_t *given, vd_error_t *err)
{
    stor_collection_t *to = NULL;
    int rc = stor_indexes_with_set(from, stor_index_set_without(from->indexes, indexes, count), &to,
                                   err);
    if (rc == VD_OK)
        rc = stor_catalog_fence(request, from, err);
    if (rc == VD_OK)
        rc = drop_fenced(request, from, to, indexes, count, given, err);
    if (rc != VD_OK)
        stor_catalog_unreference(&to);
    return rc;
}

int stor_catalog_indexes_drop(stor_request_t *request, uint64_t collection_id, const uint64_t *ids,
                              uint32_t count, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_index_t *indexes[STOR_INDEXES_MAX];
    uint32_t found = 0;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    stor_collection_t *from = stor_indexes_collection(catalog, collection_id);
    for (uint32_t i = 0; from != NULL && i < count && found < STOR_INDEXES_MAX; i++) {
        stor_index_t *index = stor_index_set_find(from->indexes, ids[i]);
        if (index != NULL && atomic_load(&index->state) == STOR_INDEX_READY)
            indexes[found++] = index;
    }
    int rc = from == NULL ? stor_indexes_not_there(err)
             : found == 0 ? VD_OK
                          : stor_indexes_drop_locked(request, from, indexes, found, NULL, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

/* ---- modify ---- */

static int modify_fenced(stor_request_t *request, stor_collection_t *from, stor_collection_t *to,
                         stor_index_t *old, stor_index_t *index, const stor_given_t *given,
                         vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_index_rows_t rows = {catalog, from->id, &index, 1, VD_BSON_NONE};
    stor_schema_change_t change = {.kind = STOR_CHANGE_MODIFY_INDEX,
                                   .collection_id = from->id,
                                   .given = given,
                                   .rows = modify_rows,
                                   .context = &rows};
    int rc = body_make(request, from, &index, 1, old, VD_BSON_NONE, &change.body, err);
    if (rc == VD_OK)
        rc = stor_catalog_change_commit(request, &change, err);
    if (rc != VD_OK) {
        stor_catalog_unfence(catalog, from, false);
        return rc;
    }
    atomic_store(&index->multikey, atomic_load(&old->multikey));
    atomic_store(&index->entries, atomic_load(&old->entries));
    stor_indexes_take_place(catalog, from, to);
    return VD_OK;
}

/* Entries of a unique index have another form. */
static int modify_filled(stor_request_t *request, stor_collection_t *from, stor_collection_t *to,
                         stor_index_t *old, stor_index_t *index, const stor_given_t *given,
                         vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    int rc = stor_index_fill_alone(request, from, &index, 1, err);
    if (rc != VD_OK) {
        stor_catalog_unfence(catalog, from, false);
        return rc;
    }
    (void)stor_index_reference(old); /* the set of `from` goes */
    rc = modify_fenced(request, from, to, old, index, given, err);
    if (rc == VD_OK)
        stor_catalog_table_dropped(catalog, old->table);
    stor_index_unreference(&old);
    return rc;
}

int stor_indexes_modify_locked(stor_request_t *request, stor_collection_t *from, stor_index_t *old,
                               vd_bson_t spec, const stor_given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_collection_t *to = NULL;
    stor_index_t *index = NULL;
    bool other_form = vd_value_as_flag(vd_bson_get(spec, "unique")) != old->def->unique;
    if (atomic_load(&old->state) != STOR_INDEX_READY)
        return vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "the index is being built");
    int rc = stor_index_make(old->id, other_form ? catalog->next_id++ : old->table_number, spec,
                             STOR_INDEX_READY, &index, err);
    if (rc != VD_OK)
        return rc;
    if (other_form)
        rc = stor_catalog_table_make(catalog, index->table, err);
    if (rc == VD_OK)
        rc = stor_indexes_with_set(from, stor_index_set_replaced(from->indexes, index), &to, err);
    if (rc == VD_OK)
        rc = stor_catalog_fence(request, from, err);
    if (rc == VD_OK)
        rc = other_form ? modify_filled(request, from, to, old, index, given, err)
                        : modify_fenced(request, from, to, old, index, given, err);
    if (rc != VD_OK) {
        stor_catalog_unreference(&to);
        if (other_form)
            stor_catalog_table_dropped(catalog, index->table);
    }
    stor_index_unreference(&index);
    return rc;
}

int stor_catalog_index_modify(stor_request_t *request, uint64_t collection_id, uint64_t id,
                              vd_bson_t spec, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    stor_collection_t *from = stor_indexes_collection(catalog, collection_id);
    stor_index_t *old = from == NULL ? NULL : stor_index_set_find(from->indexes, id);
    int rc = from == NULL  ? stor_indexes_not_there(err)
             : old == NULL ? vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "the index is gone")
                           : stor_indexes_modify_locked(request, from, old, spec, NULL, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

/* ---- repair ---- */

/* Another table is filled, and takes the old one's place in the row: a crash in between leaves one
 * of both. Other nodes and the journal are not told: it is the same index. The fence stays closed
 * all the time. */
static int refill_fenced(stor_request_t *request, stor_collection_t *from, stor_collection_t *to,
                         stor_index_t *old, stor_index_t *index, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_index_rows_t rows = {catalog, from->id, &index, 1, VD_BSON_NONE};
    int rc = stor_index_fill_alone(request, from, &index, 1, err);
    if (rc == VD_OK)
        rc = stor_indexes_rows_commit(request->session, &rows, err);
    if (rc != VD_OK) {
        stor_catalog_unfence(catalog, from, false);
        return rc;
    }
    (void)stor_index_reference(old); /* the set of `from` goes */
    stor_indexes_take_place(catalog, from, to);
    stor_catalog_table_dropped(catalog, old->table);
    stor_index_unreference(&old);
    return VD_OK;
}

static int refill_locked(stor_request_t *request, stor_collection_t *from, stor_index_t *old,
                         vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_collection_t *to = NULL;
    stor_index_t *index = NULL;
    int rc =
        stor_index_make(old->id, catalog->next_id++, old->def->spec, STOR_INDEX_READY, &index, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_catalog_table_make(catalog, index->table, err);
    if (rc == VD_OK)
        rc = stor_indexes_with_set(from, stor_index_set_replaced(from->indexes, index), &to, err);
    if (rc == VD_OK)
        rc = stor_catalog_fence(request, from, err);
    if (rc == VD_OK)
        rc = refill_fenced(request, from, to, old, index, err);
    if (rc != VD_OK) {
        stor_catalog_unreference(&to);
        stor_catalog_table_dropped(catalog, index->table);
    }
    stor_index_unreference(&index);
    return rc;
}

int stor_catalog_index_refill(stor_request_t *request, uint64_t collection_id, uint64_t id,
                              vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    stor_collection_t *from = stor_indexes_collection(catalog, collection_id);
    stor_index_t *old = from == NULL ? NULL : stor_index_set_find(from->indexes, id);
    int rc = from == NULL  ? stor_indexes_not_there(err)
             : old == NULL ? VD_OK
                           : refill_locked(request, from, old, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}
