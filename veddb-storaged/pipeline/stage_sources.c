/* veddb-storaged/pipeline/stage_sources.c — stages that stand first and make their own documents:
 * $documents, $collStats, $currentOp, $indexStats.
 *
 * Each makes all of them at the first pull, in an arena of its own: there are few. */
#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/index/index.h"
#include "veddb-storaged/local/local.h"
#include "veddb-storaged/pipeline/stages.h"

typedef struct source {
    stor_stage_t stage;
    int (*make)(struct source *source, stor_request_t *request, vd_error_t *err);
    const stor_pipeline_context_t *context; /* a copy in the arena of parse */
    vd_arena_t *arena;
    bool made;
    vd_bson_t *documents;
    uint32_t count, position;
    /* $documents */
    stor_expr_t *expression;
    /* $collStats */
    bool storage, count_wanted, latency;
    int64_t scale;
    /* $currentOp */
    stor_operations_options_t operations;
} source_t;

static source_t *source_new(const stor_pipeline_context_t *context,
                            int (*make)(source_t *, stor_request_t *, vd_error_t *))
{
    source_t *source = VD_ARENA_NEW(context->arena, source_t);
    source->make = make;
    source->context = vd_arena_copy(context->arena, context, sizeof *context);
    return source;
}

static int source_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    source_t *source = (source_t *)stage;
    if (!source->made) {
        if (source->arena == NULL)
            source->arena = vd_arena_create();
        int rc = source->make(source, request, err);
        if (rc != VD_OK)
            return rc;
        source->made = true;
    }
    if (source->position == source->count)
        return VD_ERR_NOT_FOUND;
    *ret_document = source->documents[source->position++];
    return VD_OK;
}

static void source_close(stor_stage_t *stage)
{
    vd_arena_destroy(&((source_t *)stage)->arena);
}

/* ---- $documents ---- */

static int documents_make(source_t *source, stor_request_t *request, vd_error_t *err)
{
    stor_expr_env_t env;
    vd_value_t value;
    vd_bson_iter_t iter;
    stor_expr_env_init(&env, source->arena, source->context->variables);
    stor_expr_env_document(&env, VD_BSON_NONE);
    int rc = stor_request_check(request, err);
    if (rc == VD_OK)
        rc = stor_expr_eval(source->expression, &env, &value, err);
    if (rc != VD_OK)
        return rc;
    if (value.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(5858203), "an array is expected");
    vd_bson_t array = vd_value_document(value);
    source->documents = VD_ARENA_ARRAY(source->arena, vd_bson_t, vd_bson_count(array) + 1);
    vd_bson_iter_init(&iter, array);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_LOCATION(40228),
                                "'newRoot' expression must evaluate to an object, but resulting "
                                "value was of type: %s",
                                vd_bson_type_name(iter.value.type));
        source->documents[source->count++] = vd_value_document(iter.value);
    }
    return VD_OK;
}

static int documents_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                           stor_stage_t **ret_stage, vd_error_t *err)
{
    source_t *source = source_new(context, documents_make);
    *ret_stage = &source->stage;
    return stor_expr_parse(context->arena, spec, context->variables, &source->expression, err);
}

const stor_stage_class_t stor_stage_documents = {.name = "$documents",
                                                 .parse = documents_parse,
                                                 .next = source_next,
                                                 .close = source_close,
                                                 .first_only = true,
                                                 .no_collection = true,
                                                 .not_inside = STOR_INSIDE_FACET};

/* ---- $collStats ---- */

/* The collection, held by the request; NULL when it does not exist. A second share is not taken:
 * it could wait behind a schema change that waits for the first. */
static int hold(const source_t *source, stor_request_t *request, stor_collection_t **ret_collection,
                vd_error_t *err)
{
    uint64_t id = source->context->collection_id;
    *ret_collection = NULL;
    for (uint32_t i = 0; i < request->held_count; i++)
        if (request->held[i]->id == id)
            *ret_collection = request->held[i];
    if (id == 0 || stor_local_is(id) || *ret_collection != NULL)
        return VD_OK;
    int rc = stor_catalog_acquire_id(request, id, ret_collection, err);
    if (rc != VD_ERR_NAMESPACE_NOT_FOUND)
        return rc;
    vd_error_clear(err);
    *ret_collection = NULL;
    return VD_OK;
}

static int not_there(const source_t *source, const char *what, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND,
                        "Unable to retrieve %s in $collStats stage :: caused by :: Collection "
                        "[%.*s.%.*s] not found.",
                        what, VD_SLICE_FMT(source->context->db),
                        VD_SLICE_FMT(source->context->collection));
}

static void append_ns(vd_bb_t *bb, const source_t *source)
{
    vd_slice_t db = source->context->db, collection = source->context->collection;
    vd_bb_cstr(
        bb, "ns",
        vd_arena_printf(source->arena, "%.*s.%.*s", VD_SLICE_FMT(db), VD_SLICE_FMT(collection)));
}

static int source_one(source_t *source, vd_bb_t *bb, vd_error_t *err)
{
    source->documents = VD_ARENA_NEW(source->arena, vd_bson_t);
    source->count = 1;
    return vd_bb_finish(bb, &source->documents[0], err);
}

static int coll_stats_make(source_t *source, stor_request_t *request, vd_error_t *err)
{
    stor_collection_t *collection;
    char host[STOR_FACTS_HOST_SIZE];
    vd_bb_t bb;
    int rc = hold(source, request, &collection, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    uint64_t id = source->context->collection_id;
    bool local = stor_local_is(id);
    if (collection == NULL && !local && source->storage)
        return not_there(source, "storageStats", err);
    if (collection == NULL && !(local && id != STOR_LOCAL_OPLOG) && source->count_wanted)
        return not_there(source, "count", err);
    vd_bb_init_arena(&bb, source->arena, VD_BSON_INTERNAL_MAX_BYTES);
    append_ns(&bb, source);
    vd_bb_string(&bb, "host", stor_facts_host(request->storage, host));
    vd_bb_date(&bb, "localTime", vd_wall_ms());
    if (source->latency) {
        vd_bb_begin_document(&bb, "latencyStats");
        stor_facts_latency(&bb, collection);
        vd_bb_close(&bb);
    }
    if (source->storage) {
        vd_bb_begin_document(&bb, "storageStats");
        if (local)
            stor_local_stats(&bb, request->storage, id, source->scale);
        else
            stor_facts_storage(&bb, request->storage, collection, source->scale);
        vd_bb_close(&bb);
    }
    if (source->count_wanted)
        stor_facts_number(&bb, "count", local ? 1 : atomic_load(&collection->documents));
    return source_one(source, &bb, err);
}

static int coll_stats_option(source_t *source, vd_slice_t name, vd_value_t value, vd_error_t *err)
{
    bool latency = vd_slice_is(name, "latencyStats"), storage = vd_slice_is(name, "storageStats");
    if (!latency && !storage && !vd_slice_is(name, "count") && !vd_slice_is(name, "queryExecStats"))
        return vd_error_set(err, VD_ERR_LOCATION(40415),
                            "BSON field '$collStats.%.*s' is an unknown field.",
                            VD_SLICE_FMT(name));
    if (value.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '$collStats.%.*s' is the wrong type '%s', expected type "
                            "'object'",
                            VD_SLICE_FMT(name), vd_bson_type_name(value.type));
    vd_bson_t options = vd_value_document(value);
    if (latency) {
        if (vd_value_as_flag(vd_bson_get(options, "histograms")))
            return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                                "$collStats: histograms of latencies are not built");
        source->latency = true;
    } else if (storage) {
        vd_value_t scale = vd_bson_get(options, "scale");
        source->storage = true;
        if (!vd_value_is_missing(scale) &&
            (!vd_value_as_int64(scale, &source->scale) || source->scale < 1))
            return vd_error_set(err, VD_ERR_LOCATION(51024),
                                "BSON field 'scale' value must be >= 1, actual value '%s'",
                                vd_value_to_json(source->context->arena, scale, 40));
    } else if (vd_slice_is(name, "count")) {
        source->count_wanted = true;
    } else {
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "$collStats: queryExecStats is not built");
    }
    return VD_OK;
}

static int coll_stats_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                            stor_stage_t **ret_stage, vd_error_t *err)
{
    source_t *source = source_new(context, coll_stats_make);
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(5447000),
                            "$collStats must take a nested object but found: %s",
                            vd_value_to_json(context->arena, spec, 100));
    source->scale = 1;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = coll_stats_option(source, iter.name, iter.value, err);
    *ret_stage = &source->stage;
    return rc;
}

const stor_stage_class_t stor_stage_coll_stats = {.name = "$collStats",
                                                  .parse = coll_stats_parse,
                                                  .next = source_next,
                                                  .close = source_close,
                                                  .first_only = true,
                                                  .not_inside = STOR_INSIDE_FACET};

/* ---- $indexStats ---- */

static int index_stats_one(source_t *source, const stor_request_t *request,
                           const stor_collection_t *collection, const stor_index_t *index,
                           vd_bson_t *ret_document, vd_error_t *err)
{
    char host[STOR_FACTS_HOST_SIZE];
    vd_bb_t bb;
    vd_bb_init_arena(&bb, source->arena, VD_BSON_INTERNAL_MAX_BYTES);
    if (index == NULL) {
        vd_bb_cstr(&bb, "name", "_id_");
        vd_bb_begin_document(&bb, "key");
        vd_bb_int32(&bb, "_id", 1);
        vd_bb_close(&bb);
    } else {
        vd_bb_string(&bb, "name", index->def->name);
        vd_bb_document(&bb, "key", index->def->key);
    }
    vd_bb_string(&bb, "host", stor_facts_host(request->storage, host));
    vd_bb_begin_document(&bb, "accesses");
    vd_bb_int64(&bb, "ops",
                (int64_t)atomic_load(index == NULL ? &collection->id_accesses : &index->accesses));
    vd_bb_date(&bb, "since", index == NULL ? collection->since_wall_ms : index->since_wall_ms);
    vd_bb_close(&bb);
    vd_bb_begin_document(&bb, "spec");
    if (index == NULL)
        stor_facts_id_index(&bb, VD_BSON_NONE);
    else
        vd_bb_concat(&bb, index->def->spec);
    vd_bb_close(&bb);
    if (index != NULL && atomic_load(&index->state) == STOR_INDEX_BUILDING)
        vd_bb_bool(&bb, "building", true);
    return vd_bb_finish(&bb, ret_document, err);
}

static int index_stats_make(source_t *source, stor_request_t *request, vd_error_t *err)
{
    stor_collection_t *collection;
    int rc = hold(source, request, &collection, err);
    if (rc != VD_OK || collection == NULL)
        return rc;
    const stor_index_set_t *set = collection->indexes;
    uint32_t plain = stor_index_plain_id(collection) ? 1 : 0; /* the table itself */
    uint32_t count = plain + (set == NULL ? 0 : set->count);
    source->documents = VD_ARENA_ARRAY(source->arena, vd_bson_t, count);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++)
        rc = index_stats_one(source, request, collection, i < plain ? NULL : set->items[i - plain],
                             &source->documents[i], err);
    source->count = count;
    return rc;
}

static int index_stats_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                             stor_stage_t **ret_stage, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT || !vd_bson_is_empty(vd_value_document(spec)))
        return vd_error_set(err, VD_ERR_LOCATION(28803),
                            "The $indexStats stage specification must be an empty object");
    *ret_stage = &source_new(context, index_stats_make)->stage;
    return VD_OK;
}

const stor_stage_class_t stor_stage_index_stats = {.name = "$indexStats",
                                                   .parse = index_stats_parse,
                                                   .next = source_next,
                                                   .close = source_close,
                                                   .first_only = true,
                                                   .not_inside = STOR_INSIDE_FACET};

/* ---- $currentOp ---- */

static int current_op_make(source_t *source, stor_request_t *request, vd_error_t *err)
{
    if (source->operations.all_users && !stor_request_all_users(request))
        return vd_error_set(err, VD_ERR_UNAUTHORIZED,
                            "not authorized on admin to see the operations of all users");
    return stor_facts_operations(request, &source->operations, source->arena, &source->documents,
                                 &source->count, err);
}

/* idleConnections: connections belong to the gateway. localOps speaks of routers. */
static int current_op_option(source_t *source, vd_slice_t name, vd_value_t value, vd_error_t *err)
{
    static const char *const known[] = {"allUsers",    "idleConnections", "idleSessions",
                                        "idleCursors", "localOps",        "truncateOps",
                                        "backtrace",   "latches"};
    size_t i = 0;
    while (i < VD_COUNT_OF(known) && !vd_slice_is(name, known[i]))
        i++;
    if (i == VD_COUNT_OF(known))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Unrecognized option '%.*s' in $currentOp stage.", VD_SLICE_FMT(name));
    if (value.type != VD_BSON_BOOL)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "The '%s' parameter of the $currentOp stage must be a boolean value, "
                            "but found: %s",
                            known[i], vd_bson_type_name(value.type));
    bool flag = vd_value_bool(value);
    if (i == 0)
        source->operations.all_users = flag;
    else if (i == 2)
        source->operations.idle_sessions = flag;
    else if (i == 3)
        source->operations.idle_cursors = flag;
    else if (i == 5)
        source->operations.truncate = flag;
    else if (i >= 6 && flag)
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "$currentOp: %s is not built", known[i]);
    return VD_OK;
}

static int current_op_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                            stor_stage_t **ret_stage, vd_error_t *err)
{
    source_t *source = source_new(context, current_op_make);
    vd_bson_iter_t iter;
    int rc = VD_OK;
    source->operations.idle_sessions = true;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$currentOp options must be specified in an object, but found: %s",
                            vd_bson_type_name(spec.type));
    if (!vd_slice_is(context->db, "admin") || context->collection.len > 0)
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                            "$currentOp must be run against the 'admin' database with {aggregate: "
                            "1}");
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = current_op_option(source, iter.name, iter.value, err);
    *ret_stage = &source->stage;
    return rc;
}

const stor_stage_class_t stor_stage_current_op = {
    .name = "$currentOp",
    .parse = current_op_parse,
    .next = source_next,
    .close = source_close,
    .first_only = true,
    .no_collection = true,
    .not_inside = STOR_INSIDE_LOOKUP | STOR_INSIDE_UNION | STOR_INSIDE_FACET};
