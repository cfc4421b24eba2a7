/* veddb-storaged/catalog/indexes_applied.c — indexes as another node's journal, or a copy of its
 * data, has them: the same ids, the same steps (indexes.c). */
#include "veddb-storaged/catalog/indexes_private.h"
#include "veddb-storaged/index/build.h"

typedef struct {
    uint64_t ids[STOR_INDEXES_MAX];
    vd_bson_t specs[STOR_INDEXES_MAX];
    uint32_t count;
    vd_bson_t building; /* of START_INDEXES */
} listed_t;

static int listed_read(vd_bson_t body, listed_t *ret, vd_error_t *err)
{
    vd_value_t list = vd_bson_get(body, "indexes");
    vd_value_t building = vd_bson_get(body, "building");
    vd_bson_iter_t iter;
    ret->count = 0;
    ret->building = building.type == VD_BSON_OBJECT ? vd_value_document(building) : VD_BSON_NONE;
    bool ok = list.type == VD_BSON_ARRAY;
    if (ok)
        vd_bson_iter_init(&iter, vd_value_document(list));
    while (ok && vd_bson_iter_next(&iter)) {
        int64_t id = 0;
        ok = iter.value.type == VD_BSON_OBJECT && ret->count < STOR_INDEXES_MAX - 1;
        vd_bson_t item = ok ? vd_value_document(iter.value) : VD_BSON_NONE;
        vd_value_t spec = vd_bson_get(item, "spec");
        ok = ok && vd_value_as_int64(vd_bson_get(item, "id"), &id) && id > 0 &&
             spec.type == VD_BSON_OBJECT;
        if (!ok)
            break;
        ret->ids[ret->count] = (uint64_t)id;
        ret->specs[ret->count++] = vd_value_document(spec);
    }
    return ok && ret->count > 0 ? VD_OK
                                : vd_error_set(err, VD_ERR_CORRUPT,
                                               "a change of indexes in the journal is malformed");
}

static int diverged(const stor_collection_t *collection, uint64_t id, const char *what,
                    vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_DIVERGED, "index %llu of collection %s %s",
                        (unsigned long long)id, collection->ns, what);
}

/* Nobody but the applier writes here, so the build needs no log: documents are as of the entry. */
static int filled_alone(stor_request_t *request, stor_collection_t *from, const listed_t *listed,
                        bool journaled, const stor_given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_index_t *indexes[STOR_INDEXES_MAX];
    stor_collection_t *to = NULL;
    int rc = stor_indexes_make(catalog, listed->specs, listed->ids, listed->count, VD_BSON_NONE,
                               indexes, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_index_fill_alone(request, from, indexes, listed->count, err);
    if (rc == VD_OK)
        rc = stor_indexes_with_set(from, stor_index_set_with(from->indexes, indexes, listed->count),
                                   &to, err);
    bool fenced = false;
    if (rc == VD_OK) {
        rc = stor_catalog_fence(request, from, err);
        fenced = rc == VD_OK;
    }
    if (rc == VD_OK)
        rc =
            stor_indexes_ready_commit(request, from, indexes, listed->count, journaled, given, err);
    if (rc == VD_OK) {
        stor_indexes_take_place(catalog, from, to);
        stor_indexes_logs_drop(catalog, indexes, listed->count);
    } else {
        stor_indexes_give_up(catalog, from, &to, fenced, indexes, listed->count);
    }
    stor_indexes_let_go(indexes, listed->count);
    return rc;
}

static void ids_raise(stor_catalog_t *catalog, const listed_t *listed)
{
    for (uint32_t i = 0; i < listed->count; i++)
        if (listed->ids[i] >= catalog->next_id)
            catalog->next_id = listed->ids[i] + 1;
}

int stor_catalog_own_indexes_applied(stor_request_t *request, stor_collection_t *collection,
                                     vd_bson_t body, vd_error_t *err)
{
    listed_t listed;
    int rc = listed_read(body, &listed, err);
    if (rc == VD_OK)
        rc = stor_indexes_begin_check(collection, listed.specs, listed.count, err);
    if (rc != VD_OK)
        return rc;
    ids_raise(request->storage->catalog, &listed);
    return stor_indexes_own_add(request, collection, listed.specs, listed.ids, listed.count, err);
}

/* What START_INDEXES or a copy begins. given NULL: no entry, and the keeper has it worked on. */
static int started(stor_request_t *request, stor_collection_t *from, const listed_t *listed,
                   const stor_given_t *given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    stor_index_t *indexes[STOR_INDEXES_MAX];
    stor_collection_t *to = NULL;
    int rc = stor_indexes_make(catalog, listed->specs, listed->ids, listed->count, listed->building,
                               indexes, err);
    if (rc != VD_OK)
        return rc;
    stor_index_rows_t rows = {catalog, from->id, indexes, listed->count, listed->building};
    rc = stor_indexes_with_set(from, stor_index_set_with(from->indexes, indexes, listed->count),
                               &to, err);
    bool fenced = false;
    if (rc == VD_OK) {
        rc = stor_catalog_fence(request, from, err);
        fenced = rc == VD_OK;
    }
    if (rc == VD_OK)
        rc = given != NULL ? stor_indexes_start_commit(request, from, indexes, listed->count,
                                                       listed->building, given, err)
                           : stor_indexes_rows_commit(request->session, &rows, err);
    if (rc == VD_OK) {
        stor_indexes_take_place(catalog, from, to);
        if (given != NULL)
            stor_indexes_build_begin(request, to->id, indexes, listed->count, NULL);
        else
            stor_builds_unattended(request->storage->builds);
    } else {
        stor_indexes_give_up(catalog, from, &to, fenced, indexes, listed->count);
    }
    stor_indexes_let_go(indexes, listed->count);
    return rc;
}

static int started_applied(stor_request_t *request, stor_collection_t *from, const listed_t *listed,
                           const stor_given_t *given, vd_error_t *err)
{
    for (uint32_t i = 0; i < listed->count; i++)
        if (stor_index_set_find(from->indexes, listed->ids[i]) != NULL)
            return diverged(from, listed->ids[i], "exists already", err);
    ids_raise(request->storage->catalog, listed);
    return started(request, from, listed, given, err);
}

/* All of them are built here, or VD_ERR_DIVERGED. */
static int built_find(stor_collection_t *from, const listed_t *listed, stor_index_t **ret,
                      vd_error_t *err)
{
    for (uint32_t i = 0; i < listed->count; i++) {
        ret[i] = stor_index_set_find(from->indexes, listed->ids[i]);
        if (ret[i] == NULL || atomic_load(&ret[i]->state) != STOR_INDEX_BUILDING)
            return diverged(from, listed->ids[i], "is not being built", err);
    }
    return VD_OK;
}

typedef struct {
    stor_build_t *build;
    stor_request_t *request;
} last_t;

static int last_of_build(void *context, vd_error_t *err)
{
    const last_t *last = context;
    return stor_builds_last(last->build, last->request, err);
}

/* VD_ERR_AGAIN: the build here is not ready yet. */
static int built_commit(stor_request_t *request, stor_collection_t *from, const listed_t *listed,
                        const stor_given_t *given, vd_error_t *err)
{
    stor_index_t *indexes[STOR_INDEXES_MAX];
    last_t last = {NULL, request};
    stor_builds_t *builds = request->storage->builds;
    int rc = built_find(from, listed, indexes, err);
    if (rc != VD_OK)
        return rc;
    vd_error_t step = VD_ERROR_INIT;
    rc = stor_builds_claim(builds, indexes[0]->log->build, &last.build, &step);
    if (rc == VD_ERR_NOT_FOUND) { /* the keeper would, a little later */
        stor_builds_unattended(builds);
        stor_builds_resume(builds);
        rc = VD_ERR_AGAIN;
    }
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s", step.message);
    rc = stor_indexes_commit_locked(request, from, indexes, listed->count, last_of_build, &last,
                                    given, err);
    stor_builds_release(last.build, rc == VD_OK);
    return rc;
}

static int created_applied(stor_request_t *request, stor_collection_t *from, const listed_t *listed,
                           const stor_given_t *given, vd_error_t *err)
{
    if (stor_index_set_find(from->indexes, listed->ids[0]) != NULL)
        return built_commit(request, from, listed, given, err);
    for (uint32_t i = 1; i < listed->count; i++)
        if (stor_index_set_find(from->indexes, listed->ids[i]) != NULL)
            return diverged(from, listed->ids[i], "exists already", err);
    ids_raise(request->storage->catalog, listed);
    return filled_alone(request, from, listed, true, given, err);
}

static int aborted_applied(stor_request_t *request, stor_collection_t *from, const listed_t *listed,
                           const stor_given_t *given, vd_error_t *err)
{
    stor_index_t *indexes[STOR_INDEXES_MAX];
    int rc = built_find(from, listed, indexes, err);
    return rc == VD_OK
               ? stor_indexes_abort_locked(request, from, indexes, listed->count, given, err)
               : rc;
}

/* Those of one build, of the ones that are not here. */
static int adopt_building(stor_request_t *request, uint64_t collection_id, const uint64_t *ids,
                          const vd_bson_t *specs, const vd_bson_t *building, uint32_t count,
                          vd_error_t *err)
{
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && building != NULL && i < count; i++) {
        /* Each round has another set: look anew. */
        stor_collection_t *from = stor_indexes_collection(request->storage->catalog, collection_id);
        listed_t listed = {.building = building[i]};
        if (building[i].len == 0 || stor_index_set_find(from->indexes, ids[i]) != NULL)
            continue;
        for (uint32_t k = i; k < count; k++)
            if (building[k].len == building[i].len &&
                memcmp(building[k].data, building[i].data, building[i].len) == 0) {
                listed.ids[listed.count] = ids[k];
                listed.specs[listed.count++] = specs[k];
            }
        ids_raise(request->storage->catalog, &listed);
        rc = started(request, from, &listed, NULL, err);
    }
    return rc;
}

int stor_catalog_indexes_adopt(stor_request_t *request, uint64_t collection_id, const uint64_t *ids,
                               const vd_bson_t *specs, const vd_bson_t *building, uint32_t count,
                               vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    listed_t listed = {.count = 0};
    VD_ASSERT(request->held_count == 0 && !stor_txn_active(request->session));
    pthread_mutex_lock(&catalog->change_lock);
    stor_collection_t *from = stor_indexes_collection(catalog, collection_id);
    for (uint32_t i = 0; from != NULL && i < count && i < STOR_INDEXES_MAX; i++) {
        if (stor_index_set_find(from->indexes, ids[i]) != NULL ||
            (building != NULL && building[i].len > 0))
            continue; /* of an earlier try, or below */
        listed.ids[listed.count] = ids[i];
        listed.specs[listed.count++] = specs[i];
    }
    ids_raise(catalog, &listed);
    int rc = from == NULL        ? stor_indexes_not_there(err)
             : listed.count == 0 ? VD_OK
                                 : filled_alone(request, from, &listed, false, NULL, err);
    if (rc == VD_OK)
        rc = adopt_building(request, collection_id, ids, specs, building, count, err);
    pthread_mutex_unlock(&catalog->change_lock);
    return rc;
}

static int dropped_applied(stor_request_t *request, stor_collection_t *from, const listed_t *listed,
                           const stor_given_t *given, vd_error_t *err)
{
    stor_index_t *indexes[STOR_INDEXES_MAX];
    for (uint32_t i = 0; i < listed->count; i++) {
        indexes[i] = stor_index_set_find(from->indexes, listed->ids[i]);
        if (indexes[i] == NULL)
            return diverged(from, listed->ids[i], "is not here", err);
    }
    return stor_indexes_drop_locked(request, from, indexes, listed->count, given, err);
}

int stor_catalog_indexes_applied(stor_request_t *request, stor_change_kind_t kind,
                                 stor_collection_t *collection, vd_bson_t body,
                                 const stor_given_t *given, vd_error_t *err)
{
    listed_t listed;
    int rc = listed_read(body, &listed, err);
    if (rc != VD_OK)
        return rc;
    if (kind == STOR_CHANGE_CREATE_INDEXES)
        return created_applied(request, collection, &listed, given, err);
    if (kind == STOR_CHANGE_START_INDEXES)
        return started_applied(request, collection, &listed, given, err);
    if (kind == STOR_CHANGE_ABORT_INDEXES)
        return aborted_applied(request, collection, &listed, given, err);
    if (kind == STOR_CHANGE_DROP_INDEXES)
        return dropped_applied(request, collection, &listed, given, err);
    stor_index_t *old = stor_index_set_find(collection->indexes, listed.ids[0]);
    return old == NULL
               ? diverged(collection, listed.ids[0], "is not here", err)
               : stor_indexes_modify_locked(request, collection, old, listed.specs[0], given, err);
}
