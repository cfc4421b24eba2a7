/* veddb-storaged/pipeline/pipeline.c — see pipeline.h. */
#include "veddb-storaged/pipeline/pipeline.h"

#include "libcommon/base/mem.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/plan/needs.h"

/* The stage that reads the collection. */
typedef struct {
    stor_stage_t stage;
    stor_query_t *query;
} head_t;

struct stor_pipeline {
    head_t head;
    stor_stage_t *last;
    uint32_t stage_count;
    stor_stage_t **stages; /* in order, without the head */
    bool has_head;
    bool pushed_back;
    vd_bson_t document;
    uint8_t *kept;    /* copy of a document that waits for the next batch */
    stor_work_t work; /* when the context brings none */
    vd_bson_t head_sort;
};

static int head_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                     vd_error_t *err)
{
    head_t *head = (head_t *)stage;
    int rc = stor_query_next(head->query, request, ret_document, err);
    stage->version = stor_query_version(head->query);
    stage->index_key = stor_query_index_key(head->query);
    return rc;
}

static void head_release(stor_stage_t *stage)
{
    stor_query_release(((head_t *)stage)->query);
}

static void head_close(stor_stage_t *stage)
{
    stor_query_close(&((head_t *)stage)->query);
}

static const stor_stage_class_t head_class = {
    .name = "$cursor", .next = head_next, .release = head_release, .close = head_close};

static const stor_stage_class_t *const classes[] = {
    &stor_stage_match,
    &stor_stage_sort,
    &stor_stage_limit,
    &stor_stage_skip,
    &stor_stage_project,
    &stor_stage_add_fields,
    &stor_stage_set,
    &stor_stage_unset,
    &stor_stage_replace_root,
    &stor_stage_replace_with,
    &stor_stage_group,
    &stor_stage_count,
    &stor_stage_sort_by_count,
    &stor_stage_unwind,
    &stor_stage_documents,
    &stor_stage_coll_stats,
    &stor_stage_current_op,
    &stor_stage_index_stats,
    &stor_stage_change_stream,
    &stor_stage_split_event,
    &stor_stage_lookup,
    &stor_stage_graph_lookup,
    &stor_stage_union_with,
    &stor_stage_facet,
    &stor_stage_bucket,
    &stor_stage_sample,
    &stor_stage_redact,
    &stor_stage_out,
    &stor_stage_merge,
    &stor_stage_list_sessions,
    &stor_stage_list_local_sessions,
    &stor_stage_fill,
    &stor_stage_densify,
    &stor_stage_set_window_fields,
    &stor_stage_bucket_auto,
    &stor_stage_plan_cache_stats,
};

/* Stages that MongoDB knows and this version does not build: refused by name, so that nobody looks
 * for a typing error. */
static const char *const not_built[] = {
    "$geoNear",
    "$shardedDataDistribution",
    "$listSampledQueries",
    "$queryStats",
};

const stor_stage_class_t *stor_stage_find(vd_slice_t name)
{
    for (size_t i = 0; i < VD_COUNT_OF(classes); i++)
        if (vd_slice_is(name, classes[i]->name))
            return classes[i];
    return NULL;
}

static int unknown_stage(vd_slice_t name, vd_error_t *err)
{
    for (size_t i = 0; i < VD_COUNT_OF(not_built); i++)
        if (vd_slice_is(name, not_built[i]))
            return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                                "the aggregation stage %s is not built", not_built[i]);
    if (vd_slice_is(name, "$search") || vd_slice_is(name, "$vectorSearch") ||
        vd_slice_is(name, "$searchMeta") || vd_slice_is(name, "$listSearchIndexes"))
        return vd_error_set(err, VD_ERR_LOCATION(31082),
                            "%.*s stage is only allowed on MongoDB Atlas", VD_SLICE_FMT(name));
    return vd_error_set(err, VD_ERR_LOCATION(40324), "Unrecognized pipeline stage name: '%.*s'",
                        VD_SLICE_FMT(name));
}

static int check_inside(const stor_pipeline_context_t *context, const stor_stage_class_t *class,
                        vd_error_t *err)
{
    if ((class->not_inside & context->inside) == 0)
        return VD_OK;
    if (context->inside == STOR_INSIDE_FACET)
        return vd_error_set(err, VD_ERR_LOCATION(40600),
                            "%s is not allowed to be used within a $facet stage", class->name);
    return context->inside == STOR_INSIDE_LOOKUP
               ? vd_error_set(err, VD_ERR_LOCATION(51047),
                              "%s is not allowed within a $lookup's sub-pipeline", class->name)
               : vd_error_set(err, VD_ERR_LOCATION(31441),
                              "%s is not allowed within a $unionWith's sub-pipeline", class->name);
}

static bool in_transaction_ok(const stor_stage_class_t *class)
{
    static const stor_stage_class_t *const refused[] = {
        &stor_stage_change_stream,   &stor_stage_split_event,   &stor_stage_coll_stats,
        &stor_stage_index_stats,     &stor_stage_current_op,    &stor_stage_out,
        &stor_stage_merge,           &stor_stage_list_sessions, &stor_stage_list_local_sessions,
        &stor_stage_plan_cache_stats};
    for (size_t i = 0; i < VD_COUNT_OF(refused); i++)
        if (class == refused[i])
            return false;
    return true;
}

/* What a client that asked for API version 1 alone (apiStrict) may not use. */
static int check_strict(const stor_request_t *request, const stor_stage_class_t *class,
                        vd_value_t spec, vd_error_t *err)
{
    static const stor_stage_class_t *const refused[] = {
        &stor_stage_index_stats, &stor_stage_current_op, &stor_stage_list_sessions,
        &stor_stage_list_local_sessions, &stor_stage_plan_cache_stats};
    vd_value_t strict = vd_bson_get(request->body, "apiStrict");
    if (strict.type != VD_BSON_BOOL || !vd_value_bool(strict))
        return VD_OK;
    vd_slice_t option;
    vd_value_t value;
    if (class == &stor_stage_coll_stats && spec.type == VD_BSON_OBJECT) {
        vd_bson_t options = vd_value_document(spec);
        if (vd_bson_count(options) != 1 || !vd_bson_first(options, &option, &value) ||
            !vd_slice_is(option, "count"))
            return vd_error_set(err, VD_ERR_API_STRICT_ERROR,
                                "only the 'count' option to $collStats is supported in API "
                                "Version 1");
    }
    for (size_t i = 0; i < VD_COUNT_OF(refused); i++)
        if (class == refused[i])
            return vd_error_set(err, VD_ERR_API_STRICT_ERROR,
                                "stage %s is not allowed with 'apiStrict: true' in API Version 1",
                                class->name);
    return VD_OK;
}

static int check_request(const stor_request_t *request, const stor_stage_class_t *class,
                         vd_value_t spec, vd_error_t *err)
{
    if (request->transaction != NULL && !in_transaction_ok(class))
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Stage not supported inside of a multi-document transaction: %s",
                            class->name);
    if (class->last_only && request->read_level == STOR_READ_LINEARIZABLE)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "%s cannot be used with a 'linearizable' read concern level",
                            class->name);
    return check_strict(request, class, spec, err);
}

static int parse_stage(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t value;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "Each element of the 'pipeline' array must be an object");
    vd_bson_t doc = vd_value_document(spec);
    if (vd_bson_count(doc) != 1 || !vd_bson_first(doc, &name, &value))
        return vd_error_set(
            err, VD_ERR_LOCATION(40323),
            "A pipeline stage specification object must contain exactly one field.");
    const stor_stage_class_t *class = stor_stage_find(name);
    if (class == NULL)
        return unknown_stage(name, err);
    int rc = context->request == NULL ? VD_OK : check_request(context->request, class, value, err);
    if (rc == VD_OK)
        rc = check_inside(context, class, err);
    if (rc == VD_OK)
        rc = class->parse(context, value, ret_stage, err);
    if (rc == VD_OK) {
        (*ret_stage)->class = class;
        (*ret_stage)->spec = doc;
    }
    return rc;
}

bool stor_pipeline_is_stream(const stor_pipeline_t *pipeline)
{
    return pipeline->stage_count > 0 && pipeline->stages[0]->class == &stor_stage_change_stream;
}

int stor_pipeline_stream_open(stor_pipeline_t *pipeline, stor_request_t *request,
                              struct stor_stream **ret_stream, vd_error_t *err)
{
    *ret_stream = NULL;
    if (!stor_pipeline_is_stream(pipeline))
        return VD_OK;
    const stor_filter_t **filters =
        VD_ARENA_ARRAY(request->arena, const stor_filter_t *, pipeline->stage_count);
    uint32_t count = 0;
    while (count + 1 < pipeline->stage_count &&
           pipeline->stages[count + 1]->class == &stor_stage_match) {
        filters[count] = stor_stage_match_filter(pipeline->stages[count + 1]);
        count++;
    }
    return stor_stage_change_stream_open(pipeline->stages[0], request, filters, count, ret_stream,
                                         err);
}

/* Only stages that choose events or shape each by itself. */
static int check_behind_stream(const stor_pipeline_t *pipeline, vd_error_t *err)
{
    static const stor_stage_class_t *const allowed[] = {
        &stor_stage_match,        &stor_stage_project, &stor_stage_add_fields,
        &stor_stage_set,          &stor_stage_unset,   &stor_stage_replace_root,
        &stor_stage_replace_with, &stor_stage_redact,  &stor_stage_split_event};
    for (uint32_t i = 1; i < pipeline->stage_count; i++) {
        bool ok = false;
        for (size_t k = 0; k < VD_COUNT_OF(allowed); k++)
            ok |= pipeline->stages[i]->class == allowed[k];
        if (!ok)
            return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION,
                                "%s is not permitted in a $changeStream pipeline",
                                pipeline->stages[i]->class->name);
    }
    if (stor_stage_change_stream_in_fragments(pipeline->stages[0]) &&
        pipeline->stages[pipeline->stage_count - 1]->class != &stor_stage_split_event)
        return vd_error_set(err, VD_ERR_CHANGE_STREAM_FATAL_ERROR,
                            "To resume from a split event, the $changeStream pipeline must include "
                            "a $changeStreamSplitLargeEvent stage");
    return VD_OK;
}

static int check_split(const stor_pipeline_t *pipeline, uint32_t at, vd_error_t *err)
{
    if (!stor_pipeline_is_stream(pipeline))
        return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION,
                            "%s can only be used in a $changeStream pipeline",
                            stor_stage_split_event.name);
    if (at + 1 < pipeline->stage_count)
        return vd_error_set(err, VD_ERR_LOCATION(7182802),
                            "%s must be the last stage in the pipeline",
                            stor_stage_split_event.name);
    return VD_OK;
}

static int check_places(const stor_pipeline_context_t *context, const stor_pipeline_t *pipeline,
                        vd_error_t *err)
{
    for (uint32_t i = 0; i < pipeline->stage_count; i++) {
        const stor_stage_class_t *class = pipeline->stages[i]->class;
        int rc = class == &stor_stage_split_event ? check_split(pipeline, i, err) : VD_OK;
        if (rc != VD_OK)
            return rc;
        if (class->first_only && i > 0)
            return vd_error_set(err, VD_ERR_LOCATION(40602),
                                "%s is only valid as the first stage in a pipeline", class->name);
        if (class->last_only && i + 1 < pipeline->stage_count)
            return vd_error_set(err, VD_ERR_LOCATION(40601),
                                "%s can only be the final stage in the pipeline", class->name);
        if (class->no_collection && context->collection.len > 0)
            return vd_error_set(
                err, VD_ERR_INVALID_NAMESPACE,
                "%s must be run against the database with {aggregate: 1}, not a collection",
                class->name);
    }
    bool own = pipeline->stage_count > 0 && pipeline->stages[0]->class->first_only;
    if (stor_pipeline_is_stream(pipeline))
        return check_behind_stream(pipeline, err);
    if (context->feed == NULL && context->collection.len == 0 &&
        !(own && pipeline->stages[0]->class->no_collection))
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                            "{aggregate: 1} is not valid for '%s'; a collection is required.",
                            pipeline->stage_count == 0 ? "an empty pipeline"
                                                       : pipeline->stages[0]->class->name);
    return VD_OK;
}

/* $match ... $match, $sort, $skip, $limit at the head become the query's. Returns how many stages
 * that were. */
static uint32_t fold_head(const stor_pipeline_context_t *context, const stor_pipeline_t *pipeline,
                          stor_query_spec_t *spec)
{
    uint32_t at = 0, matches = 0;
    stor_stage_t *const *stages = pipeline->stages;
    while (at + matches < pipeline->stage_count && stages[at + matches]->class == &stor_stage_match)
        matches++;
    stor_filter_t *filter = VD_ARENA_NEW(context->arena, stor_filter_t);
    filter->kind = matches == 0 ? STOR_FILTER_TRUE : STOR_FILTER_AND;
    filter->children = VD_ARENA_ARRAY(context->arena, stor_filter_t *, matches + 1);
    filter->child_count = matches;
    for (uint32_t i = 0; i < matches; i++)
        filter->children[i] = (stor_filter_t *)stor_stage_match_filter(stages[i]);
    spec->filter = matches == 1 ? filter->children[0] : filter;
    at = matches;
    if (at < pipeline->stage_count && stages[at]->class == &stor_stage_sort)
        spec->sort = stor_stage_sort_pattern(stages[at++]);
    if (at < pipeline->stage_count && stages[at]->class == &stor_stage_skip)
        spec->skip = stor_stage_cut_count(stages[at++]);
    if (at < pipeline->stage_count && stages[at]->class == &stor_stage_limit &&
        stor_stage_cut_count(stages[at]) < INT64_MAX - spec->skip)
        spec->limit = stor_stage_cut_count(stages[at++]);
    return at;
}

/* A $sort with $skip and $limit behind it keeps only what they let through. */
static void bound_sorts(const stor_pipeline_t *pipeline)
{
    stor_stage_t *const *stages = pipeline->stages;
    for (uint32_t i = 0; i + 1 < pipeline->stage_count; i++) {
        uint32_t at = i + 1;
        int64_t k = 0;
        if (stages[i]->class != &stor_stage_sort)
            continue;
        if (stages[at]->class == &stor_stage_skip)
            k = stor_stage_cut_count(stages[at++]);
        if (at < pipeline->stage_count && stages[at]->class == &stor_stage_limit &&
            !__builtin_add_overflow(k, stor_stage_cut_count(stages[at]), &k))
            stor_stage_sort_bound(stages[i], (uint64_t)k);
    }
}

static int parse_all(const stor_pipeline_context_t *context, vd_bson_t stages,
                     stor_pipeline_t *pipeline, vd_error_t *err)
{
    uint32_t count = vd_bson_count(stages);
    vd_bson_iter_t iter;
    if (count > STOR_PIPELINE_STAGES_MAX)
        return vd_error_set(err, VD_ERR_LOCATION(7749501),
                            "Pipeline length must be no longer than %d stages",
                            STOR_PIPELINE_STAGES_MAX);
    pipeline->stages = VD_ARENA_ARRAY(context->arena, stor_stage_t *, count + 1);
    stor_pipeline_context_t at = *context;
    at.stages = stages;
    vd_bson_iter_init(&iter, stages);
    while (vd_bson_iter_next(&iter)) {
        at.position = pipeline->stage_count;
        int rc = parse_stage(&at, iter.value, &pipeline->stages[pipeline->stage_count], err);
        if (rc != VD_OK)
            return rc;
        pipeline->stage_count++;
    }
    return check_places(context, pipeline, err);
}

static void stages_close(stor_stage_t **stages, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (stages[i]->class->close != NULL)
            stages[i]->class->close(stages[i]);
}

static bool matches_version(stor_stage_t *stage)
{
    return stage->class == &stor_stage_match &&
           stor_filter_version(stor_stage_match_filter(stage)) != 0;
}

/* What the stages behind the head read of its documents. */
static void head_needs(const stor_pipeline_context_t *context, stor_stage_t *const *behind,
                       uint32_t count, stor_query_spec_t *spec)
{
    vd_bb_t bb;
    vd_bson_t stages;
    char name[12];
    stor_needs_t *needs = VD_ARENA_NEW(context->arena, stor_needs_t);
    vd_bb_init_arena(&bb, context->arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        if (matches_version(behind[i])) /* an index does not have it */
            return;
        vd_bb_value(&bb, vd_array_name(i, name), vd_value_from_document(behind[i]->spec));
    }
    if (vd_bb_finish(&bb, &stages, NULL) != VD_OK)
        return; /* all of them */
    stor_needs_of_stages(context->arena, stages, 0, needs);
    if (!needs->all) {
        spec->needs = needs;
        spec->count_only = needs->count == 0;
    }
}

static void release_stages(void *context)
{
    stor_pipeline_t *pipeline = context;
    for (uint32_t i = 0; i < pipeline->stage_count; i++)
        if (pipeline->stages[i]->class->release != NULL)
            pipeline->stages[i]->class->release(pipeline->stages[i]);
    if (pipeline->has_head)
        head_class.release(&pipeline->head.stage);
}

int stor_pipeline_parse(const stor_pipeline_context_t *given, vd_bson_t stages,
                        stor_pipeline_t **ret_pipeline, vd_error_t *err)
{
    stor_pipeline_t *pipeline = VD_ARENA_NEW(given->arena, stor_pipeline_t);
    stor_pipeline_context_t own = *given;
    const stor_pipeline_context_t *context = &own;
    if (own.work == NULL) {
        own.work = &pipeline->work;
        stor_work_init(own.work, given->request == NULL ? NULL : given->request->storage->spill,
                       given->no_disk_use);
        own.work->before_disk = release_stages;
        own.work->before_disk_context = pipeline;
    }
    int rc = parse_all(context, stages, pipeline, err);
    if (rc == VD_OK)
        rc = stor_pipeline_optimize(context, &pipeline->stages, &pipeline->stage_count, err);
    if (rc != VD_OK) {
        stages_close(pipeline->stages, pipeline->stage_count);
        return rc;
    }
    if (context->feed != NULL) {
        pipeline->last = context->feed;
    } else if (pipeline->stage_count == 0 || !pipeline->stages[0]->class->first_only) {
        stor_query_spec_t spec = {
            .collection_id = context->collection_id,
            .variables = context->variables,
            .natural = context->natural,
            .hint = context->hint,
            .index_key = stor_expr_asks_meta(vd_value_from_document(stages), "indexKey"),
            .explain = context->explain,
            .work = context->work};
        stor_stage_t **all = pipeline->stages;
        uint32_t count = pipeline->stage_count;
        uint32_t folded = fold_head(context, pipeline, &spec);
        if (count > 0 && all[0]->class == &stor_stage_sample)
            stor_stage_sample_from(all[0], context->collection_id);
        for (uint32_t i = 0; i < folded; i++)
            if (all[i]->class == &stor_stage_sort)
                pipeline->head_sort =
                    vd_value_document(vd_bson_get(all[i]->spec, stor_stage_sort.name));
        head_needs(context, all + folded, count - folded, &spec);
        pipeline->stages += folded;
        pipeline->stage_count -= folded;
        rc = stor_pipeline_narrow(context, &spec.filter, err);
        if (rc == VD_OK)
            rc = stor_query_open(context->arena, context->request, &spec, &pipeline->head.query,
                                 err);
        if (rc != VD_OK) {
            stages_close(all, count);
            return rc;
        }
        pipeline->has_head = true;
        pipeline->head.stage.class = &head_class;
        pipeline->last = &pipeline->head.stage;
    }
    bound_sorts(pipeline);
    bool versioned = pipeline->has_head;
    for (uint32_t i = 0; i < pipeline->stage_count; i++) {
        const stor_stage_class_t *class = pipeline->stages[i]->class;
        if (!versioned && matches_version(pipeline->stages[i])) {
            stor_pipeline_close(&pipeline);
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "$version is only allowed in a $match behind stages that keep "
                                "documents apart");
        }
        versioned = versioned && (class->keeps_version || class == &stor_stage_sort);
        pipeline->stages[i]->source = pipeline->last;
        pipeline->last = pipeline->stages[i];
    }
    *ret_pipeline = pipeline;
    return VD_OK;
}

int stor_pipeline_next(stor_pipeline_t *pipeline, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    if (pipeline->pushed_back) {
        pipeline->pushed_back = false;
        *ret_document = pipeline->document;
        return VD_OK;
    }
    int rc = pipeline->last->class->next(pipeline->last, request, &pipeline->document, err);
    if (rc == VD_OK) {
        pipeline->last->returned++;
        *ret_document = pipeline->document;
    }
    return rc;
}

void stor_pipeline_push_back(stor_pipeline_t *pipeline)
{
    pipeline->pushed_back = true;
}

/* A document that waits for the next batch may stand in memory that is given back now: it is
 * copied. */
void stor_pipeline_release(stor_pipeline_t *pipeline)
{
    if (pipeline->pushed_back) {
        uint8_t *copy = vd_xalloc(pipeline->document.len);
        memcpy(copy, pipeline->document.data, pipeline->document.len);
        vd_free(pipeline->kept);
        pipeline->kept = copy;
        pipeline->document.data = copy;
    }
    release_stages(pipeline);
}

void stor_pipeline_close(stor_pipeline_t **pipeline_p)
{
    stor_pipeline_t *pipeline = *pipeline_p;
    if (pipeline == NULL)
        return;
    stages_close(pipeline->stages, pipeline->stage_count);
    if (pipeline->has_head)
        head_class.close(&pipeline->head.stage);
    vd_free(pipeline->kept);
    *pipeline_p = NULL;
}

const stor_query_t *stor_pipeline_query(const stor_pipeline_t *pipeline)
{
    return pipeline->has_head ? pipeline->head.query : NULL;
}

stor_output_t *stor_pipeline_output(const stor_pipeline_t *pipeline)
{
    return pipeline->stage_count == 0
               ? NULL
               : stor_stage_output(pipeline->stages[pipeline->stage_count - 1]);
}

vd_bson_t stor_pipeline_head_sort(const stor_pipeline_t *pipeline)
{
    return pipeline->head_sort;
}

vd_bson_t stor_pipeline_stage_spec(const stor_pipeline_t *pipeline, uint32_t position)
{
    return pipeline->stages[position]->spec;
}

uint32_t stor_pipeline_stage_count(const stor_pipeline_t *pipeline)
{
    return pipeline->stage_count;
}

const char *stor_pipeline_stage_name(const stor_pipeline_t *pipeline, uint32_t position)
{
    return pipeline->stages[position]->class->name;
}

uint64_t stor_pipeline_stage_returned(const stor_pipeline_t *pipeline, uint32_t position)
{
    return pipeline->stages[position]->returned;
}

bool stor_pipeline_stage_spills(const stor_pipeline_t *pipeline, uint32_t position,
                                stor_spilled_t *ret_spills)
{
    *ret_spills = pipeline->stages[position]->spills;
    return pipeline->stages[position]->may_spill;
}
