/* veddb-storaged/commands/indexes.c — createIndexes, dropIndexes, listIndexes,
 * setIndexCommitQuorum. */
#include "veddb-storaged/catalog/indexes.h"
#include "libcommon/base/clock.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/commands/index_spec.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/index/builds.h"
#include "veddb-storaged/index/index_private.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/timeseries.h"
#include "veddb-storaged/transactions.h"

/* ---- createIndexes ---- */

typedef struct {
    vd_bson_t indexes;
    vd_value_t commit_quorum;
    bool ignore_unknown;
} create_args_t;

static const stor_arg_t create_table[] = {
    STOR_ARG("indexes", STOR_ARG_ARRAY, create_args_t, indexes, STOR_ARG_REQUIRED),
    STOR_ARG("commitQuorum", STOR_ARG_VALUE, create_args_t, commit_quorum, 0),
    STOR_ARG("ignoreUnknownIndexOptions", STOR_ARG_BOOL, create_args_t, ignore_unknown, 0),
    {"collectionUUID", STOR_ARG_REFUSED, 0, 0},
};

/* A node alone is a set of one. */
static int quorum_alone(vd_value_t v, vd_error_t *err)
{
    if (v.type == VD_BSON_STRING) {
        vd_slice_t mode = vd_value_string(v);
        return vd_slice_is(mode, "votingMembers") || vd_slice_is(mode, "majority")
                   ? VD_OK
                   : vd_error_set(err, VD_ERR_UNKNOWN_REPL_WRITE_CONCERN,
                                  "No write concern mode named '%.*s' found in replica set "
                                  "configuration",
                                  VD_SLICE_FMT(mode));
    }
    return vd_value_as_double(v) <= 1
               ? VD_OK
               : vd_error_set(err, VD_ERR_UNSATISFIABLE_COMMIT_QUORUM,
                              "Commit quorum cannot be satisfied with the current replica set "
                              "configuration");
}

static int quorum_check(const stor_request_t *request, vd_value_t v, vd_error_t *err)
{
    const stor_storage_t *storage = request->storage;
    if (v.type == VD_BSON_MISSING || v.type == VD_BSON_NULL)
        return VD_OK;
    if (v.type != VD_BSON_STRING && !vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "commitQuorum has to be a number or a string");
    double members = v.type == VD_BSON_STRING ? 0 : vd_value_as_double(v);
    if (!(members >= 0 && members <= 50))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "commitQuorum has to be a non-negative number and not greater than 50");
    return stor_replication_alone(storage) || storage->replication->positions == NULL
               ? quorum_alone(v, err)
               : stor_positions_quorum_check(storage->replication->positions, v, err);
}

/* What the command asks for, as it is kept. */
typedef struct {
    vd_bson_t specs[STOR_INDEXES_MAX];
    uint32_t count;
} wanted_t;

static int specs_check(stor_request_t *request, const create_args_t *args, vd_bson_t collation,
                       wanted_t *wanted, vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (vd_bson_is_empty(args->indexes))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "Must specify at least one index to create");
    vd_bson_iter_init(&iter, args->indexes);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "BSON field 'createIndexes.indexes.%.*s' is the wrong type '%s', "
                                "expected type 'object'",
                                VD_SLICE_FMT(iter.name), vd_bson_type_name(iter.value.type));
        bool is_id;
        vd_bson_t spec = vd_value_document(iter.value);
        rc = stor_index_spec_check(request, spec, args->ignore_unknown, collation, &is_id, err);
        if (rc != VD_OK || is_id)
            continue;
        if (wanted->count == STOR_INDEXES_MAX - 1)
            return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                                "add index fails, too many indexes for %.*s",
                                VD_SLICE_FMT(request->ns));
        rc = stor_index_spec_normalise(request, spec, collation, &wanted->specs[wanted->count++],
                                       err);
    }
    return rc;
}

/* What of `wanted` is not there yet. *ret_wait: one of them is being built by somebody else. */
static int missing_find(stor_request_t *request, const stor_collection_t *collection,
                        const wanted_t *wanted, wanted_t *ret_missing, bool *ret_wait,
                        vd_error_t *err)
{
    const stor_index_set_t *set = collection->indexes;
    *ret_wait = false;
    ret_missing->count = 0;
    for (uint32_t i = 0; i < wanted->count; i++) {
        bool there = false;
        if (collection->capped.is &&
            !vd_value_is_missing(vd_bson_get(wanted->specs[i], "expireAfterSeconds")))
            return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                                "Cannot create TTL index on a capped collection");
        if (collection->timeseries.is) {
            int rc = stor_timeseries_index_check(request->arena, &collection->timeseries,
                                                 wanted->specs[i], err);
            if (rc != VD_OK)
                return rc;
        }
        for (uint32_t j = 0; set != NULL && !there && j < set->count; j++) {
            int rc = stor_index_spec_conflict(request, wanted->specs[i], set->items[j]->def->spec,
                                              &there, err);
            if (rc != VD_OK)
                return rc;
            *ret_wait |= there && atomic_load(&set->items[j]->state) == STOR_INDEX_BUILDING;
        }
        for (uint32_t j = 0; !there && j < ret_missing->count; j++) {
            int rc = stor_index_spec_conflict(request, wanted->specs[i], ret_missing->specs[j],
                                              &there, err);
            if (rc != VD_OK)
                return rc;
        }
        if (!there)
            ret_missing->specs[ret_missing->count++] = wanted->specs[i];
    }
    return VD_OK;
}

static uint32_t ready_count(const stor_collection_t *collection)
{
    uint32_t count = stor_index_plain_id(collection) ? 1 : 0;
    for (uint32_t i = 0; collection->indexes != NULL && i < collection->indexes->count; i++)
        count += atomic_load(&collection->indexes->items[i]->state) == STOR_INDEX_READY;
    return count;
}

typedef struct {
    uint32_t before, after;
    bool created;
} created_t;

static void reply_created(stor_request_t *request, const create_args_t *args, const created_t *what)
{
    vd_bb_t *bb = &request->reply;
    vd_bb_int32(bb, "numIndexesBefore", (int32_t)what->before);
    vd_bb_int32(bb, "numIndexesAfter", (int32_t)what->after);
    if (what->created || what->before != what->after)
        vd_bb_bool(bb, "createdCollectionAutomatically", what->created);
    if (vd_value_is_nullish(args->commit_quorum))
        vd_bb_cstr(bb, "commitQuorum", "votingMembers");
    else
        vd_bb_value(bb, VD_SLICE_LIT("commitQuorum"), args->commit_quorum);
    if (what->before == what->after)
        vd_bb_cstr(bb, "note", "all indexes already exist");
}

#define LOOK_US 10000 /* at what others build */

/* A command on its way, which may be parked and run again. */
typedef struct {
    create_args_t args;
    vd_slice_t name;
    uint64_t checked_id; /* the collection whose default collation `wanted` has; 0: none's */
    bool checked, tried;
    wanted_t wanted;
    created_t what;
    stor_build_t *build; /* that it waits for; NULL: for others', until look_us */
    uint64_t look_us;
} creating_t;

static bool creating_ready(const stor_request_t *request)
{
    const creating_t *creating = request->unfinished;
    return creating->build != NULL ? stor_build_has_ended(creating->build)
                                   : vd_monotonic_us() >= creating->look_us;
}

static void creating_leave(void *arg)
{
    creating_t *creating = arg;
    stor_build_leave(&creating->build); /* it was not run again: storage stops */
}

static int missing_build(stor_request_t *request, creating_t *creating, uint64_t collection_id,
                         const wanted_t *missing, bool *ret_parked, vd_error_t *err)
{
    int rc = VD_OK;
    if (creating->build == NULL)
        rc = stor_catalog_indexes_begin(request, collection_id, missing->specs, missing->count,
                                        creating->args.commit_quorum, &creating->build, err);
    return rc == VD_OK && creating->build != NULL
               ? stor_builds_wait(request, &creating->build, creating_ready, ret_parked, err)
               : rc;
}

/* What is asked for, for this collection, which is held: its default collation is theirs. */
static int wanted_check(stor_request_t *request, creating_t *creating,
                        const stor_collection_t *collection, vd_error_t *err)
{
    vd_bson_t collation = VD_BSON_NONE;
    uint64_t id = collection == NULL ? 0 : collection->id;
    if (creating->checked && creating->checked_id == id)
        return VD_OK;
    if (collection != NULL && collection->collation != NULL) {
        vd_bson_t whole = stor_collation_of(collection->collation);
        collation = (vd_bson_t){vd_arena_copy(request->arena, whole.data, whole.len), whole.len};
    }
    creating->wanted.count = 0;
    int rc = specs_check(request, &creating->args, collation, &creating->wanted, err);
    creating->checked = rc == VD_OK;
    creating->checked_id = id;
    return rc;
}

static int collection_get(stor_request_t *request, creating_t *creating,
                          stor_collection_t **ret_collection, vd_error_t *err)
{
    int rc = stor_catalog_acquire(request, request->db, creating->name, ret_collection, NULL);
    if (rc == VD_OK)
        return VD_OK;
    rc = wanted_check(request, creating, NULL, err); /* nothing is made for what is refused */
    if (rc == VD_OK)
        rc = stor_catalog_acquire_or_create(request, request->db, creating->name, ret_collection,
                                            err);
    creating->what.created |= rc == VD_OK;
    return rc;
}

/* One look, and what follows from it. VD_ERR_AGAIN: look anew. */
static int create_step(stor_request_t *request, creating_t *creating, bool *ret_parked,
                       vd_error_t *err)
{
    stor_collection_t *collection;
    wanted_t missing;
    bool wait = false;
    created_t *what = &creating->what;
    int rc = collection_get(request, creating, &collection, err);
    if (rc != VD_OK)
        return rc;
    uint64_t id = collection->id;
    rc = wanted_check(request, creating, collection, err);
    if (rc == VD_OK)
        rc = missing_find(request, collection, &creating->wanted, &missing, &wait, err);
    if (what->before == 0)
        what->before = ready_count(collection);
    if (rc == VD_OK && missing.count > 0 && request->transaction != NULL) {
        rc = stor_transaction_index(request, collection, missing.specs, missing.count, err);
        missing.count = 0;
    }
    what->after = ready_count(collection);
    stor_catalog_release(request, collection);
    if (rc != VD_OK || (missing.count == 0 && !wait))
        return rc;
    /* What is built by another command, or waits for its turn, is looked at again and again. */
    bool others = creating->tried || missing.count == 0;
    if (others && vd_monotonic_us() < creating->look_us)
        rc = stor_request_wait(request, creating_ready, ret_parked, err);
    else if (missing.count > 0)
        rc = missing_build(request, creating, id, &missing, ret_parked, err);
    if (vd_monotonic_us() >= creating->look_us)
        creating->look_us = vd_monotonic_us() + LOOK_US;
    creating->tried = true;
    return rc == VD_OK ? VD_ERR_AGAIN : rc;
}

static int create_all(stor_request_t *request, creating_t *creating, bool *ret_parked,
                      vd_error_t *err)
{
    int rc = VD_ERR_AGAIN;
    vd_error_t step = VD_ERROR_INIT;
    if (creating->build != NULL) { /* it runs again */
        rc = stor_builds_wait(request, &creating->build, creating_ready, ret_parked, &step);
        rc = rc == VD_OK ? VD_ERR_AGAIN : rc;
    }
    while (rc == VD_ERR_AGAIN && !*ret_parked) {
        vd_error_clear(&step);
        request->checks = 0;
        rc = stor_request_check(request, &step);
        if (rc == VD_OK)
            rc = create_step(request, creating, ret_parked, &step);
    }
    if (rc != VD_OK && !*ret_parked && err != NULL)
        vd_error_copy(&step, err);
    return *ret_parked ? VD_OK : rc;
}

int stor_command_create_indexes(stor_request_t *request, vd_error_t *err)
{
    creating_t *creating = request->unfinished;
    bool parked = false;
    int rc = VD_OK;
    if (creating == NULL) {
        creating = VD_ARENA_NEW(request->arena, creating_t);
        rc = stor_args_parse(request->body, "createIndexes", true, create_table,
                             VD_COUNT_OF(create_table), &creating->args, err);
        if (rc == VD_OK)
            rc = stor_request_collection_name(request, &creating->name, err);
        if (rc == VD_OK)
            rc = stor_name_check_writable(request->db, creating->name,
                                          stor_request_internal(request), err);
        if (rc == VD_OK)
            rc = quorum_check(request, creating->args.commit_quorum, err);
        if (rc != VD_OK)
            return rc;
        vd_arena_on_reset(request->arena, creating_leave, creating);
        request->unfinished = creating;
    }
    rc = create_all(request, creating, &parked, err);
    if (rc != VD_OK || parked)
        return rc;
    stor_request_depends_newest(request);
    reply_created(request, &creating->args, &creating->what);
    return VD_OK;
}

/* ---- dropIndexes ---- */

typedef struct {
    vd_value_t index;
} drop_args_t;

/* What goes: ids of those that are ready, and those that are built are told to stop. */
typedef struct {
    uint64_t ids[STOR_INDEXES_MAX];
    uint32_t count;
    bool building;
} going_t;

static void going_add(going_t *going, stor_index_t *index)
{
    for (uint32_t i = 0; i < going->count; i++)
        if (going->ids[i] == index->id)
            return;
    going->ids[going->count++] = index->id;
    if (atomic_load(&index->state) != STOR_INDEX_BUILDING)
        return;
    atomic_store(&index->log->cancelled, VD_ERR_INDEX_BUILD_ABORTED);
    going->building = true;
}

static int drop_name(const stor_collection_t *collection, vd_slice_t name, going_t *going,
                     vd_error_t *err)
{
    if (vd_slice_is(name, "_id_"))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "cannot drop _id index");
    stor_index_t *index = stor_index_set_named(collection->indexes, name);
    if (index == NULL)
        return vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "index not found with name [%.*s]",
                            VD_SLICE_FMT(name));
    going_add(going, index);
    return VD_OK;
}

static int drop_names(const stor_collection_t *collection, vd_bson_t names, going_t *going,
                      vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    vd_bson_iter_init(&iter, names);
    while (vd_bson_iter_next(&iter))
        if (iter.value.type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "BSON field 'dropIndexes.index.%.*s' is the wrong type '%s', "
                                "expected type 'string'",
                                VD_SLICE_FMT(iter.name), vd_bson_type_name(iter.value.type));
    /* All are looked for before any is told to stop. */
    for (int round = 0; rc == VD_OK && round < 2; round++) {
        going_t looked = {.count = 0};
        vd_bson_iter_init(&iter, names);
        while (rc == VD_OK && vd_bson_iter_next(&iter)) {
            vd_slice_t name = vd_value_string(iter.value);
            if (round == 1)
                rc = drop_name(collection, name, going, err);
            else if (vd_slice_is(name, "_id_") ||
                     stor_index_set_named(collection->indexes, name) == NULL)
                rc = drop_name(collection, name, &looked, err);
        }
    }
    return rc;
}

static int drop_key(stor_request_t *request, const stor_collection_t *collection, vd_bson_t key,
                    going_t *going, vd_error_t *err)
{
    stor_index_t *found = NULL;
    uint32_t count = 0;
    if (stor_index_is_id_key(key))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "cannot drop _id index");
    for (uint32_t i = 0; collection->indexes != NULL && i < collection->indexes->count; i++) {
        stor_index_t *index = collection->indexes->items[i];
        if (!stor_index_same_key(index->def->key, key))
            continue;
        found = index;
        count++;
    }
    if (count == 0)
        return vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "can't find index with key: %s",
                            vd_bson_to_json(request->arena, key, 300));
    if (count > 1)
        return vd_error_set(err, VD_ERR_AMBIGUOUS_INDEX_KEY_PATTERN,
                            "%u indexes found for key: %s, identify by name instead.", count,
                            vd_bson_to_json(request->arena, key, 300));
    going_add(going, found);
    return VD_OK;
}

static int drop_choose(stor_request_t *request, const stor_collection_t *collection,
                       vd_value_t which, going_t *going, vd_error_t *err)
{
    if (which.type == VD_BSON_ARRAY)
        return drop_names(collection, vd_value_document(which), going, err);
    if (which.type == VD_BSON_OBJECT)
        return drop_key(request, collection, vd_value_document(which), going, err);
    vd_slice_t name = vd_value_string(which);
    if (!vd_slice_is(name, "*"))
        return drop_name(collection, name, going, err);
    for (uint32_t i = 0; collection->indexes != NULL && i < collection->indexes->count; i++)
        if (!stor_index_is_of_id(collection->indexes->items[i]->def))
            going_add(going, collection->indexes->items[i]);
    return VD_OK;
}

/* A command on its way, which may be parked and run again. */
typedef struct {
    vd_value_t which;
    uint64_t collection_id, look_us;
    uint32_t before;
    going_t going;
} dropping_t;

static bool dropping_ready(const stor_request_t *request)
{
    const dropping_t *dropping = request->unfinished;
    return vd_monotonic_us() >= dropping->look_us;
}

/* Until those that were built are gone: their builders give up at their next look. */
static int building_wait(stor_request_t *request, dropping_t *dropping, bool *ret_parked,
                         vd_error_t *err)
{
    const going_t *going = &dropping->going;
    for (bool some = going->building; some;) {
        stor_collection_t *collection = NULL;
        int rc = stor_catalog_acquire_id(request, dropping->collection_id, &collection, err);
        if (rc != VD_OK)
            return rc;
        some = false;
        for (uint32_t i = 0; i < going->count; i++) {
            const stor_index_t *index = stor_index_set_find(collection->indexes, going->ids[i]);
            some |= index != NULL && atomic_load(&index->state) == STOR_INDEX_BUILDING;
        }
        stor_catalog_release(request, collection);
        dropping->look_us = vd_monotonic_us() + LOOK_US;
        if (some)
            rc = stor_request_wait(request, dropping_ready, ret_parked, err);
        if (rc != VD_OK || *ret_parked)
            return rc;
    }
    return VD_OK;
}

/* What goes is chosen, and builds are told to stop. */
static int drop_begin(stor_request_t *request, dropping_t **ret_dropping, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("index", STOR_ARG_VALUE, drop_args_t, index, STOR_ARG_REQUIRED),
        {"collectionUUID", STOR_ARG_REFUSED, 0, 0},
    };
    drop_args_t args = {.index = VD_VALUE_MISSING};
    vd_slice_t name;
    stor_collection_t *collection;
    vd_error_t step = VD_ERROR_INIT;
    int rc =
        stor_args_parse(request->body, "dropIndexes", true, table, VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc != VD_OK)
        return rc;
    if (args.index.type != VD_BSON_STRING && args.index.type != VD_BSON_ARRAY &&
        args.index.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'dropIndexes.index' is the wrong type '%s', expected types "
                            "'[string, array, object]'",
                            vd_bson_type_name(args.index.type));
    rc = stor_catalog_acquire(request, request->db, name, &collection, &step);
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND) {
        stor_request_depends_newest(request);
        return vd_error_set(err, rc, "ns not found %.*s", VD_SLICE_FMT(request->ns));
    }
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s", step.message);
    dropping_t *dropping = VD_ARENA_NEW(request->arena, dropping_t);
    dropping->which = args.index;
    dropping->collection_id = collection->id;
    dropping->before = ready_count(collection);
    rc = drop_choose(request, collection, args.index, &dropping->going, err);
    stor_catalog_release(request, collection);
    *ret_dropping = dropping;
    return rc;
}

int stor_command_drop_indexes(stor_request_t *request, vd_error_t *err)
{
    dropping_t *dropping = request->unfinished;
    bool parked = false;
    int rc = dropping == NULL ? drop_begin(request, &dropping, err) : VD_OK;
    if (rc != VD_OK)
        return rc;
    request->unfinished = dropping;
    rc = building_wait(request, dropping, &parked, err);
    if (rc != VD_OK || parked)
        return rc;
    if (dropping->going.count > 0)
        rc = stor_catalog_indexes_drop(request, dropping->collection_id, dropping->going.ids,
                                       dropping->going.count, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    vd_bb_int32(&request->reply, "nIndexesWas", (int32_t)dropping->before);
    if (dropping->which.type == VD_BSON_STRING &&
        vd_slice_is(vd_value_string(dropping->which), "*"))
        vd_bb_cstr(&request->reply, "msg", "non-_id indexes dropped for collection");
    return VD_OK;
}

/* ---- listIndexes ---- */

typedef struct {
    vd_bson_t cursor;
} list_args_t;

int stor_command_list_indexes(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("cursor", STOR_ARG_DOCUMENT, list_args_t, cursor, 0),
        {"includeBuildUUIDs", STOR_ARG_IGNORED, 0, 0}, /* those that are built are not listed */
        {"includeIndexBuildInfo", STOR_ARG_REFUSED, 0, 0},
    };
    list_args_t args = {0};
    vd_slice_t name;
    uint64_t id;
    int64_t batch_size;
    stor_collection_t *collection = NULL;
    int rc =
        stor_args_parse(request->body, "listIndexes", true, table, VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = stor_read_cursor_option(args.cursor, &batch_size, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_read_collection(request, name, &id, &collection, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    if (id == 0)
        return vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND, "ns does not exist: %.*s",
                            VD_SLICE_FMT(request->ns));
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t *documents = VD_ARENA_ARRAY(arena, vd_bson_t, STOR_INDEXES_MAX + 1);
    uint32_t count = stor_index_plain_id(collection) ? 1 : 0;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 1024);
    stor_facts_id_index(&bb, VD_BSON_NONE);
    rc = vd_bb_finish(&bb, &documents[0], err);
    for (uint32_t i = 0; collection->indexes != NULL && i < collection->indexes->count; i++) {
        const stor_index_t *index = collection->indexes->items[i];
        if (atomic_load(&index->state) != STOR_INDEX_READY)
            continue;
        vd_bson_t spec = index->def->spec;
        documents[count++] = (vd_bson_t){vd_arena_copy(arena, spec.data, spec.len), spec.len};
    }
    if (rc == VD_OK)
        return stor_read_documents(request, &arena, documents, count, request->ns, batch_size, err);
    vd_arena_destroy(&arena);
    return rc;
}

/* ---- setIndexCommitQuorum ---- */

typedef struct {
    vd_bson_t names;
    vd_value_t quorum;
} quorum_args_t;

static const stor_arg_t quorum_table[] = {
    STOR_ARG("indexNames", STOR_ARG_ARRAY, quorum_args_t, names, STOR_ARG_REQUIRED),
    STOR_ARG("commitQuorum", STOR_ARG_VALUE, quorum_args_t, quorum, STOR_ARG_REQUIRED),
};

static int quorum_names(vd_bson_t list, vd_slice_t names[STOR_INDEXES_MAX], uint32_t *ret_count,
                        vd_error_t *err)
{
    vd_bson_iter_t iter;
    *ret_count = 0;
    vd_bson_iter_init(&iter, list);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "BSON field 'setIndexCommitQuorum.indexNames' has to be an array "
                                "of strings");
        if (*ret_count == STOR_INDEXES_MAX)
            break; /* no build has so many */
        names[(*ret_count)++] = vd_value_string(iter.value);
    }
    return VD_OK;
}

int stor_command_set_commit_quorum(stor_request_t *request, vd_error_t *err)
{
    quorum_args_t args = {.quorum = VD_VALUE_MISSING};
    vd_slice_t names[STOR_INDEXES_MAX], name;
    stor_collection_t *collection = NULL;
    uint32_t count = 0;
    uint64_t id = 0;
    int rc = stor_args_parse(request->body, "setIndexCommitQuorum", true, quorum_table,
                             VD_COUNT_OF(quorum_table), &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = quorum_check(request, args.quorum, err);
    if (rc == VD_OK)
        rc = quorum_names(args.names, names, &count, err);
    if (rc != VD_OK)
        return rc;
    if (count == 0)
        return vd_error_set(err, VD_ERR_INDEX_NOT_FOUND,
                            "Cannot set a new commit quorum on an index build in collection '%.*s' "
                            "without providing any indexes.",
                            VD_SLICE_FMT(request->ns));
    rc = stor_read_collection(request, name, &id, &collection, err);
    if (rc == VD_OK && collection == NULL)
        return vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND, "Collection '%.*s' was not found.",
                            VD_SLICE_FMT(request->ns));
    if (rc == VD_OK) {
        stor_catalog_release(request, collection);
        rc = stor_builds_quorum_set(request->storage->builds, id, names, count, args.quorum, err);
    }
    return rc == VD_ERR_NOT_FOUND
               ? vd_error_set(err, VD_ERR_INDEX_NOT_FOUND,
                              "Cannot find an index build on collection '%.*s' with the provided "
                              "index names",
                              VD_SLICE_FMT(request->ns))
               : rc;
}
