/* veddb-storaged/commands/aggregate.c — aggregate.
 *
 * The pipeline is parsed in the arena of the cursor that may come of it. Counting everything, as
 * drivers' countDocuments({}) asks, is answered from the kept count. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/aggregate_out.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/local/local.h"
#include "veddb-storaged/pipeline/sources.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/streams/stream.h"

typedef struct {
    stor_aggregate_args_t args;
    vd_bson_t cursor, collation;
    bool has_cursor;
    vd_value_t cursor_value;
    bool disk_use;
} raw_args_t;

static const stor_arg_t aggregate_table[] = {
    STOR_ARG("pipeline", STOR_ARG_ARRAY, raw_args_t, args.pipeline, STOR_ARG_REQUIRED),
    STOR_ARG("cursor", STOR_ARG_VALUE, raw_args_t, cursor_value, 0),
    STOR_ARG("explain", STOR_ARG_BOOL, raw_args_t, args.explain, 0),
    STOR_ARG("hint", STOR_ARG_VALUE, raw_args_t, args.hint, 0),
    STOR_ARG("let", STOR_ARG_DOCUMENT, raw_args_t, args.let, 0),
    STOR_ARG("collation", STOR_ARG_DOCUMENT, raw_args_t, collation, 0),
    STOR_ARG("allowDiskUse", STOR_ARG_BOOL, raw_args_t, disk_use, 0),
    STOR_ARG("bypassDocumentValidation", STOR_ARG_BOOL, raw_args_t, args.bypass, 0),
};

static bool starts_stream(vd_bson_t pipeline)
{
    vd_slice_t name;
    vd_value_t stage, spec;
    return vd_bson_first(pipeline, &name, &stage) && stage.type == VD_BSON_OBJECT &&
           vd_bson_first(vd_value_document(stage), &name, &spec) &&
           vd_slice_is(name, "$changeStream");
}

static bool is_series(const stor_request_t *request, uint64_t id)
{
    for (uint32_t i = 0; i < request->held_count; i++)
        if (request->held[i]->id == id)
            return request->held[i]->timeseries.is;
    return false;
}

int stor_aggregate_args(stor_request_t *request, vd_bson_t body, bool in_explain,
                        stor_aggregate_args_t *ret_args, vd_error_t *err)
{
    raw_args_t raw = {.args.batch_size = -1, .disk_use = true};
    vd_slice_t name;
    vd_value_t first;
    int64_t one = 0;
    int8_t natural;
    int rc = stor_args_parse(body, "aggregate", true, aggregate_table, VD_COUNT_OF(aggregate_table),
                             &raw, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_bson_first(body, &name, &first) ||
        (first.type != VD_BSON_STRING && !(vd_value_as_int64(first, &one) && one == 1)))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Invalid command format: the 'aggregate' field must specify a "
                            "collection name or 1");
    if (first.type == VD_BSON_STRING)
        rc = stor_request_collection_name(request, &raw.args.collection, err);
    if (rc == VD_OK && vd_value_is_nullish(raw.cursor_value) && !raw.args.explain && !in_explain)
        rc = vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                          "The 'cursor' option is required, except for aggregate with the explain "
                          "argument");
    if (rc == VD_OK && !vd_value_is_nullish(raw.cursor_value)) {
        if (raw.cursor_value.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "cursor field must be missing or an object");
        rc =
            stor_read_cursor_option(vd_value_document(raw.cursor_value), &raw.args.batch_size, err);
    }
    if (rc == VD_OK)
        rc = starts_stream(raw.args.pipeline) /* takes no default */
                 ? stor_collation_use(raw.collation, err)
                 : stor_read_collation(request, body, raw.collation, err);
    if (rc == VD_OK)
        rc = stor_read_hint(raw.args.hint, &natural, err);
    raw.args.no_disk_use = !raw.disk_use;
    if (rc == VD_OK)
        *ret_args = raw.args;
    return rc;
}

/* ---- [{$match: {}}, {$group: {_id: <constant>, n: {$sum: 1}}}] ---- */

static bool is_constant(vd_value_t v)
{
    if (v.type == VD_BSON_STRING)
        return vd_value_string(v).len == 0 || vd_value_string(v).data[0] != '$';
    return vd_value_is_number(v) || v.type == VD_BSON_NULL || v.type == VD_BSON_BOOL;
}

/* The constant and the field's name, when the pipeline counts everything and nothing else. */
static bool counts_all(vd_bson_t pipeline, vd_value_t *ret_id, vd_slice_t *ret_field)
{
    vd_slice_t name;
    vd_value_t stage, value;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, pipeline);
    if (!vd_bson_iter_next(&iter) || iter.value.type != VD_BSON_OBJECT ||
        vd_bson_count(vd_value_document(iter.value)) != 1)
        return false;
    (void)vd_bson_first(vd_value_document(iter.value), &name, &stage);
    if (!vd_slice_is(name, "$match") || stage.type != VD_BSON_OBJECT ||
        !vd_bson_is_empty(vd_value_document(stage)))
        return false;
    if (!vd_bson_iter_next(&iter) || iter.value.type != VD_BSON_OBJECT ||
        vd_bson_count(vd_value_document(iter.value)) != 1)
        return false;
    (void)vd_bson_first(vd_value_document(iter.value), &name, &stage);
    if (!vd_slice_is(name, "$group") || stage.type != VD_BSON_OBJECT || vd_bson_iter_next(&iter))
        return false;
    vd_bson_iter_init(&iter, vd_value_document(stage));
    if (!vd_bson_iter_next(&iter) || !vd_slice_is(iter.name, "_id") || !is_constant(iter.value))
        return false;
    *ret_id = iter.value;
    if (!vd_bson_iter_next(&iter) || iter.value.type != VD_BSON_OBJECT || iter.name.len == 0 ||
        iter.name.data[0] == '$' || memchr(iter.name.data, '.', iter.name.len) != NULL ||
        vd_slice_is(iter.name, "_id"))
        return false;
    *ret_field = iter.name;
    vd_bson_t sum = vd_value_document(iter.value);
    return !vd_bson_iter_next(&iter) && vd_bson_count(sum) == 1 &&
           vd_bson_first(sum, &name, &value) && vd_slice_is(name, "$sum") &&
           value.type == VD_BSON_INT32 && vd_value_int32(value) == 1;
}

static int answer_count(stor_request_t *request, const stor_collection_t *collection, vd_value_t id,
                        vd_slice_t field, vd_error_t *err)
{
    stor_batch_t batch;
    vd_bb_t bb;
    vd_bson_t document;
    vd_slice_t ns = request->ns;
    stor_request_depends_newest(request);
    int64_t n = atomic_load(&collection->documents);
    vd_bb_init_arena(&bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_value(&bb, VD_SLICE_LIT("_id"), id);
    vd_bb_value(&bb, field,
                n <= INT32_MAX ? vd_value_from_int32(request->arena, (int32_t)n)
                               : vd_value_from_int64(request->arena, n));
    int rc = vd_bb_finish(&bb, &document, err);
    if (rc != VD_OK)
        return rc;
    stor_read_plan_summary(request, "RECORD_STORE_FAST_COUNT");
    stor_batch_begin(&batch, request, true, 0);
    if (n > 0)
        (void)stor_batch_add(&batch, document); /* the first always fits */
    stor_batch_end(&batch, 0, ns);
    return VD_OK;
}

/* ---- the state behind a cursor ---- */

typedef struct {
    stor_pipeline_t *pipeline;
    stor_sources_t *sources;
    /* a change stream */
    stor_stream_t *stream;
    stor_token_t token; /* of the last event that was returned, or a mark behind it */
    bool held_back;     /* an event waits for the next batch */
} aggregate_t;

static int aggregate_fill(void *state, stor_request_t *request, stor_batch_t *batch, bool *ret_done,
                          vd_error_t *err)
{
    aggregate_t *aggregate = state;
    const stor_query_t *query = stor_pipeline_query(aggregate->pipeline);
    /* The first batch finds them held: the pipeline was parsed over them. */
    int rc =
        request->held_count > 0 ? VD_OK : stor_sources_acquire(aggregate->sources, request, err);
    if (query != NULL)
        stor_read_plan_summary(request, stor_query_summary(query, request->arena));
    while (rc == VD_OK && !stor_batch_full(batch)) {
        vd_bson_t document;
        rc = stor_pipeline_next(aggregate->pipeline, request, &document, err);
        if (rc == VD_OK && document.len > VD_BSON_INTERNAL_MAX_BYTES)
            rc = vd_error_set(err, VD_ERR_BSON_OBJECT_TOO_LARGE,
                              "BSONObj size: %u (0x%X) is invalid. Size must be between 0 and %d",
                              document.len, document.len, VD_BSON_INTERNAL_MAX_BYTES);
        if (rc == VD_OK && !stor_batch_add(batch, document)) {
            stor_pipeline_push_back(aggregate->pipeline);
            break;
        }
    }
    *ret_done = rc == VD_ERR_NOT_FOUND;
    stor_pipeline_release(aggregate->pipeline);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static void aggregate_close(void *state)
{
    stor_pipeline_close(&((aggregate_t *)state)->pipeline);
}

static const stor_cursor_class_t aggregate_class = {.fill = aggregate_fill,
                                                    .close = aggregate_close};

/* ---- a change stream ---- */

/* Whoever resumes gives back what stands in _id. */
static int token_check(const aggregate_t *aggregate, vd_bson_t document, vd_error_t *err)
{
    char digits[STOR_TOKEN_DIGITS + 1];
    stor_token_write(stor_stream_at(aggregate->stream), digits);
    vd_value_t id = vd_bson_get(document, "_id");
    vd_value_t data = id.type == VD_BSON_OBJECT && vd_bson_count(vd_value_document(id)) == 1
                          ? vd_bson_get(vd_value_document(id), "_data")
                          : VD_VALUE_MISSING;
    if (data.type == VD_BSON_STRING && vd_slice_is(vd_value_string(data), digits))
        return VD_OK;
    return vd_error_set(err, VD_ERR_CHANGE_STREAM_FATAL_ERROR,
                        "Encountered an event whose _id field, which contains the resume token, "
                        "was modified by the pipeline. Modifying the _id field of an event makes "
                        "it impossible to resume the stream from that point. Only "
                        "transformations that retain the unmodified _id field are allowed. "
                        "Expected: { _id: { _data: \"%s\" } }",
                        digits);
}

static int stream_fill(void *state, stor_request_t *request, stor_batch_t *batch, bool *ret_done,
                       vd_error_t *err)
{
    aggregate_t *aggregate = state;
    int rc = VD_OK;
    request->read_level = STOR_READ_MAJORITY; /* what fullDocument shows must stay */
    stor_read_plan_summary(request, "COLLSCAN");
    while (rc == VD_OK && !stor_batch_full(batch)) {
        vd_bson_t document;
        rc = stor_pipeline_next(aggregate->pipeline, request, &document, err);
        aggregate->held_back = false;
        if (rc == VD_OK && document.len > VD_BSON_INTERNAL_MAX_BYTES)
            rc = vd_error_set(err, VD_ERR_BSON_OBJECT_TOO_LARGE,
                              "BSONObj size: %u (0x%X) is invalid. Size must be between 0 and %d",
                              document.len, document.len, VD_BSON_INTERNAL_MAX_BYTES);
        if (rc == VD_OK)
            rc = token_check(aggregate, document, err);
        if (rc == VD_OK && !stor_batch_add(batch, document)) {
            stor_pipeline_push_back(aggregate->pipeline);
            aggregate->held_back = true;
            break;
        }
        if (rc == VD_OK || rc == VD_ERR_NOT_FOUND)
            aggregate->token = *stor_stream_at(aggregate->stream);
    }
    atomic_fetch_add_explicit(&request->storage->streams.delivered, batch->count,
                              memory_order_relaxed);
    *ret_done =
        !aggregate->held_back && stor_stream_ended(aggregate->stream) && rc == VD_ERR_NOT_FOUND;
    stor_pipeline_release(aggregate->pipeline);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static void stream_tail(void *state, vd_bb_t *bb)
{
    char digits[STOR_TOKEN_DIGITS + 1];
    stor_token_write(&((aggregate_t *)state)->token, digits);
    vd_bb_begin_document(bb, "postBatchResumeToken");
    vd_bb_cstr(bb, "_data", digits);
    vd_bb_close(bb);
}

static stor_stream_t *stream_awaits(void *state)
{
    return ((aggregate_t *)state)->stream;
}

static const stor_cursor_class_t stream_class = {.fill = stream_fill,
                                                 .close = aggregate_close,
                                                 .tail = stream_tail,
                                                 .awaits = stream_awaits,
                                                 .change_stream = true};

static int stream_begin(stor_request_t *request, aggregate_t *aggregate, vd_error_t *err)
{
    vd_value_t concern = vd_bson_get(request->body, "readConcern");
    vd_value_t level = concern.type == VD_BSON_OBJECT
                           ? vd_bson_get(vd_value_document(concern), "level")
                           : VD_VALUE_MISSING;
    request->change_stream = true;
    if (level.type == VD_BSON_STRING && !vd_slice_is(vd_value_string(level), "majority"))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Aggregation stage $changeStream cannot run with a readConcern other "
                            "than 'majority'. Current readConcern: { level: \"%.*s\" }",
                            VD_SLICE_FMT(vd_value_string(level)));
    int rc = stor_pipeline_stream_open(aggregate->pipeline, request, &aggregate->stream, err);
    if (rc == VD_OK)
        aggregate->token = *stor_stream_at(aggregate->stream);
    return rc;
}

/* ---- opening ---- */

int stor_aggregate_open(stor_request_t *request, vd_arena_t *arena,
                        const stor_aggregate_args_t *args, stor_variables_t *variables,
                        stor_sources_t **ret_sources, stor_pipeline_t **ret_pipeline,
                        vd_error_t *err)
{
    stor_pipeline_context_t context = {.arena = arena,
                                       .request = request,
                                       .variables = variables,
                                       .db = vd_arena_copy_slice(arena, request->db),
                                       .hint = args->hint,
                                       .explain = args->in_explain,
                                       .no_disk_use = args->no_disk_use};
    vd_bson_t stages = args->pipeline;
    stor_sources_t *sources = NULL;
    int rc = stor_read_hint(args->hint, &context.natural, err);
    if (rc == VD_OK && !vd_bson_is_empty(args->let))
        rc = stor_variables_parse_let(arena, args->let, variables, err);
    if (rc == VD_OK)
        rc = stor_sources_gather(request, arena, request->db, args->collection, stages, &sources,
                                 err);
    if (rc == VD_OK)
        rc = stor_sources_acquire(sources, request, err);
    if (rc == VD_OK && sources->own) {
        const stor_origin_t *source = &sources->items[0];
        context.collection = source->base;
        context.collection_id = source->id;
        if (source->view.data != NULL && starts_stream(stages))
            rc = vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW,
                              "Namespace %.*s.%.*s is a view, not a collection",
                              VD_SLICE_FMT(source->db), VD_SLICE_FMT(source->name));
        else if (starts_stream(stages) && is_series(request, source->id))
            rc = vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW,
                              "Namespace %.*s.%.*s is a timeseries collection",
                              VD_SLICE_FMT(source->db), VD_SLICE_FMT(source->name));
        else if (source->view.data != NULL)
            rc = stor_pipeline_join(arena, source->view, stages, &stages, err);
    }
    context.sources = sources;
    if (rc == VD_OK)
        rc = stor_pipeline_parse(&context, stages, ret_pipeline, err);
    *ret_sources = sources;
    return rc;
}

static int write_concern_check(const stor_request_t *request, vd_error_t *err)
{
    const stor_write_concern_t *concern = &request->write_concern;
    if (!concern->present || !(concern->majority || concern->mode.len > 0 || concern->w > 1))
        return VD_OK;
    return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                        "Command does not support writeConcern: aggregate");
}

static int aggregate_write(stor_request_t *request, aggregate_t *aggregate, bool bypass,
                           vd_error_t *err)
{
    stor_batch_t batch;
    vd_slice_t ns = request->ns;
    int rc = stor_aggregate_output(request, aggregate->sources, aggregate->pipeline, bypass, err);
    if (rc != VD_OK)
        return rc;
    stor_batch_begin(&batch, request, true, 0);
    stor_batch_end(&batch, 0, ns);
    return VD_OK;
}

/* Takes the arena. */
static int aggregate_cursor(stor_request_t *request, vd_arena_t *arena, vd_error_t *err)
{
    stor_aggregate_args_t args = {0};
    vd_bson_t body = {vd_arena_copy(arena, request->body.data, request->body.len),
                      request->body.len};
    stor_variables_t *variables = stor_variables_copy(arena, &request->variables);
    aggregate_t *aggregate = VD_ARENA_NEW(arena, aggregate_t);
    int rc = stor_aggregate_args(request, body, false, &args, err);
    if (rc == VD_OK)
        rc = stor_aggregate_open(request, arena, &args, variables, &aggregate->sources,
                                 &aggregate->pipeline, err);
    bool writes = rc == VD_OK && stor_pipeline_output(aggregate->pipeline) != NULL;
    bool stream = rc == VD_OK && stor_pipeline_is_stream(aggregate->pipeline);
    if (rc == VD_OK && !writes)
        rc = write_concern_check(request, err);
    if (rc == VD_OK && stream)
        rc = stream_begin(request, aggregate, err);
    if (rc == VD_OK && writes)
        rc = aggregate_write(request, aggregate, args.bypass, err);
    if (rc != VD_OK || writes) {
        stor_pipeline_close(&aggregate->pipeline);
        vd_arena_destroy(&arena);
        return rc;
    }
    uint64_t id = aggregate->sources->own ? aggregate->sources->items[0].id : 0;
    stor_client_cursor_options_t options = {.class = stream ? &stream_class : &aggregate_class,
                                            .ns = request->ns,
                                            /* a stream outlives its collection: it tells the end */
                                            .collection_id = stream ? 0 : id,
                                            .originating = body};
    return stor_read_cursor(request, &options, &arena, aggregate, args.batch_size,
                            VD_FIRST_BATCH_DOCUMENTS, false, err);
}

/* Counting everything of a collection that is there. *ret_done: answered. */
static int count_fast(stor_request_t *request, const stor_aggregate_args_t *args, bool *ret_done,
                      vd_error_t *err)
{
    stor_collection_t *collection = NULL;
    vd_value_t id;
    vd_slice_t field, on;
    vd_bson_t stages;
    *ret_done = false;
    if (args->collection.len == 0 || args->batch_size == 0 || !vd_bson_is_empty(args->let) ||
        request->worker_session != NULL || !counts_all(args->pipeline, &id, &field) ||
        stor_read_hints_index(args->hint) ||
        stor_local_find(request->storage, request->db, args->collection) != 0 ||
        stor_catalog_view(request->storage->catalog, request->arena, request->db, args->collection,
                          &on, &stages, NULL))
        return VD_OK;
    uint64_t collection_id;
    int rc = stor_read_collection(request, args->collection, &collection_id, &collection, err);
    if (rc != VD_OK || collection == NULL)
        return rc;
    *ret_done = true;
    return answer_count(request, collection, id, field, err);
}

int stor_run_aggregate(stor_request_t *request, vd_error_t *err)
{
    stor_aggregate_args_t args = {0};
    bool done = false;
    int rc = stor_aggregate_args(request, request->body, false, &args, err);
    if (rc != VD_OK)
        return rc;
    if (args.explain)
        return stor_explain(request, request->body, STOR_EXPLAIN_PLANNER, err);
    (void)stor_request_namespace(request, args.collection.len > 0 ? args.collection
                                                                  : VD_SLICE_LIT("$cmd.aggregate"));
    rc = count_fast(request, &args, &done, err);
    return rc != VD_OK || done ? rc : aggregate_cursor(request, vd_arena_create(), err);
}
