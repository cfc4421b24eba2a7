/* veddb-storaged/pipeline/stage_branch.c — $unionWith: another pipeline's documents behind those
 * that come; $facet: several pipelines over the same documents. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/pipeline/sources.h"
#include "veddb-storaged/pipeline/stages.h"

/* ---- $unionWith ---- */

typedef struct {
    stor_stage_t stage;
    stor_sub_t sub;
    const stor_variables_t *variables;
    vd_bson_t stages; /* NONE: all documents of the collection */
    vd_arena_t *arena;
    stor_pipeline_t *pipeline; /* once the source is at its end */
    bool source_done, done;
} union_t;

static int union_options(vd_bson_t spec, vd_value_t *coll, vd_value_t *pipeline, vd_error_t *err)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        bool is_coll = vd_slice_is(iter.name, "coll");
        if (!is_coll && !vd_slice_is(iter.name, "pipeline"))
            return vd_error_set(err, VD_ERR_LOCATION(40415),
                                "BSON field '$unionWith.%.*s' is an unknown field.",
                                VD_SLICE_FMT(iter.name));
        if (iter.value.type != (is_coll ? VD_BSON_STRING : VD_BSON_ARRAY))
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "BSON field '$unionWith.%.*s' is the wrong type '%s', expected "
                                "type '%s'",
                                VD_SLICE_FMT(iter.name), vd_bson_type_name(iter.value.type),
                                is_coll ? "string" : "array");
        vd_value_t *value = is_coll ? coll : pipeline;
        int rc = stor_stage_once(!vd_value_is_missing(*value), "$unionWith", iter.name, err);
        if (rc != VD_OK)
            return rc;
        *value = iter.value;
    }
    return VD_OK;
}

static int union_no_collection(vd_value_t pipeline, vd_error_t *err)
{
    vd_slice_t name = VD_SLICE_NULL;
    vd_value_t first, spec;
    if (pipeline.type == VD_BSON_ARRAY &&
        vd_bson_first(vd_value_document(pipeline), &name, &first) && first.type == VD_BSON_OBJECT &&
        vd_bson_first(vd_value_document(first), &name, &spec) && vd_slice_is(name, "$documents"))
        return VD_OK;
    return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                        "$unionWith stage without explicit collection must have a pipeline with "
                        "$documents as first stage");
}

static int union_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    static const uint8_t none[5] = {5, 0, 0, 0, 0};
    union_t *self = VD_ARENA_NEW(context->arena, union_t);
    vd_value_t coll = VD_VALUE_MISSING, pipeline = VD_VALUE_MISSING;
    int rc = VD_OK;
    if (spec.type == VD_BSON_STRING)
        coll = spec;
    else if (spec.type == VD_BSON_OBJECT)
        rc = union_options(vd_value_document(spec), &coll, &pipeline, err);
    else
        rc = vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                          "the $unionWith stage specification must be an object or string, but "
                          "found %s",
                          vd_bson_type_name(spec.type));
    vd_slice_t name = coll.type == VD_BSON_STRING ? vd_value_string(coll) : VD_SLICE_NULL;
    if (rc == VD_OK && coll.type == VD_BSON_STRING &&
        (name.len == 0 || name.data[0] == '.' || name.data[0] == '$' ||
         memchr(name.data, '\0', name.len) != NULL))
        rc = vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Invalid $unionWith namespace: %.*s.%.*s",
                          VD_SLICE_FMT(context->db), VD_SLICE_FMT(name));
    if (rc == VD_OK && name.len == 0)
        rc = union_no_collection(pipeline, err);
    if (rc != VD_OK)
        return rc;
    self->stages = pipeline.type == VD_BSON_ARRAY ? vd_value_document(pipeline)
                                                  : (vd_bson_t){none, sizeof none};
    self->variables = context->variables;
    self->sub = stor_sub(context, STOR_INSIDE_UNION, name);
    *ret_stage = &self->stage;
    return stor_sub_check(&self->sub, self->variables, self->stages, err);
}

static int union_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    union_t *self = (union_t *)stage;
    int rc = VD_OK;
    if (!self->source_done) {
        rc = stor_stage_pull(stage, request, ret_document, err);
        if (rc != VD_ERR_NOT_FOUND)
            return rc;
        self->source_done = true;
        stor_stage_rest(stage);
        rc = VD_OK;
    }
    if (self->done)
        return VD_ERR_NOT_FOUND;
    if (self->pipeline == NULL) {
        if (self->arena == NULL)
            self->arena = vd_arena_create();
        rc = stor_sub_open(&self->sub, self->arena, request, self->variables, self->stages,
                           &self->pipeline, err);
    }
    if (rc == VD_OK)
        rc = stor_pipeline_next(self->pipeline, request, ret_document, err);
    self->done = rc == VD_ERR_NOT_FOUND;
    return rc;
}

static void union_release(stor_stage_t *stage)
{
    if (((union_t *)stage)->pipeline != NULL)
        stor_pipeline_release(((union_t *)stage)->pipeline);
}

static void union_close(stor_stage_t *stage)
{
    union_t *self = (union_t *)stage;
    stor_pipeline_close(&self->pipeline);
    vd_arena_destroy(&self->arena);
}

const stor_stage_class_t stor_stage_union_with = {.name = "$unionWith",
                                                  .parse = union_parse,
                                                  .next = union_next,
                                                  .release = union_release,
                                                  .close = union_close};

/* ---- $facet: the documents that come are kept, and each pipeline reads them from the start. One
 * pipeline alone reads them as they come. When they are more than a query may keep, the stages
 * before the $facet are run once for each pipeline, unless they would give others each time ---- */

typedef struct kept {
    struct kept *next;
    vd_bson_t document;
} kept_t;

/* What a facet's pipeline pulls from: what was kept, or a run of the stages before. */
typedef struct {
    stor_stage_t stage;
    const kept_t *next;
    stor_stage_t *through; /* the $facet itself: its source */
    stor_pipeline_t *again;
} feed_t;

typedef struct {
    stor_stage_t stage;
    stor_sources_t *sources;
    stor_pipeline_context_t context;
    uint32_t count;
    vd_slice_t *names;
    feed_t *feeds;
    stor_pipeline_t **pipelines;
    vd_arena_t *kept, *out;
    size_t taken;
    bool done;
} facet_t;

static int feed_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                     vd_error_t *err)
{
    feed_t *feed = (feed_t *)stage;
    int rc = stor_request_check(request, err);
    if (rc != VD_OK)
        return rc;
    if (feed->through != NULL)
        return stor_stage_pull(feed->through, request, ret_document, err);
    if (feed->again != NULL)
        return stor_pipeline_next(feed->again, request, ret_document, err);
    if (feed->next == NULL)
        return VD_ERR_NOT_FOUND;
    *ret_document = feed->next->document;
    feed->next = feed->next->next;
    return VD_OK;
}

static void feed_release(stor_stage_t *stage)
{
    feed_t *feed = (feed_t *)stage;
    if (feed->through != NULL)
        stor_stage_rest(feed->through);
    if (feed->again != NULL)
        stor_pipeline_release(feed->again);
}

static const stor_stage_class_t feed_class = {
    .name = "$internalFacetFeed", .next = feed_next, .release = feed_release};

static int facet_name_check(vd_slice_t name, vd_error_t *err)
{
    if (name.len == 0)
        return vd_error_set(err, VD_ERR_LOCATION(15998),
                            "$facet pipeline names must follow the naming rules of field path "
                            "expressions. :: caused by :: FieldPath field names may not be empty "
                            "strings.");
    if (name.data[0] == '$')
        return vd_error_set(err, VD_ERR_LOCATION(16410),
                            "$facet pipeline names must follow the naming rules of field path "
                            "expressions. :: caused by :: FieldPath field names may not start "
                            "with '$'.");
    if (memchr(name.data, '.', name.len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(16412),
                            "$facet pipeline names must follow the naming rules of field path "
                            "expressions. :: caused by :: FieldPath field names may not contain "
                            "'.'.");
    return VD_OK;
}

static int facet_one(const stor_pipeline_context_t *context, facet_t *facet, vd_slice_t name,
                     vd_value_t value, vd_error_t *err)
{
    stor_pipeline_context_t inner = *context;
    vd_bson_iter_t iter;
    int rc = facet_name_check(name, err);
    if (rc != VD_OK)
        return rc;
    if (value.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(40170),
                            "arguments to $facet must be arrays, %.*s is type %s",
                            VD_SLICE_FMT(name), vd_bson_type_name(value.type));
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (vd_bson_iter_next(&iter))
        if (iter.value.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_LOCATION(40171),
                                "elements of arrays in $facet spec must be non-empty objects, "
                                "%.*s argument contained an element of type %s",
                                VD_SLICE_FMT(name), vd_bson_type_name(iter.value.type));
    feed_t *feed = &facet->feeds[facet->count];
    feed->stage.class = &feed_class;
    inner.inside = STOR_INSIDE_FACET;
    inner.depth++;
    inner.feed = &feed->stage;
    if (inner.depth > STOR_SUB_DEPTH_MAX)
        return vd_error_set(err, VD_ERR_MAX_SUB_PIPELINE_DEPTH_EXCEEDED,
                            "Maximum number of nested sub-pipelines exceeded. Limit is %d",
                            STOR_SUB_DEPTH_MAX);
    rc =
        stor_pipeline_parse(&inner, vd_value_document(value), &facet->pipelines[facet->count], err);
    if (rc == VD_OK)
        facet->names[facet->count++] = name;
    return rc;
}

static void kept_drop(facet_t *facet)
{
    stor_memory_give(facet->sources, facet->taken);
    facet->taken = 0;
    vd_arena_destroy(&facet->kept);
}

static void facet_close(stor_stage_t *stage)
{
    facet_t *facet = (facet_t *)stage;
    for (uint32_t i = 0; i < facet->count; i++) {
        stor_pipeline_close(&facet->pipelines[i]);
        stor_pipeline_close(&facet->feeds[i].again);
    }
    kept_drop(facet);
    vd_arena_destroy(&facet->out);
}

static int facet_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    facet_t *facet = VD_ARENA_NEW(context->arena, facet_t);
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (spec.type != VD_BSON_OBJECT || vd_bson_is_empty(vd_value_document(spec)))
        return vd_error_set(err, VD_ERR_LOCATION(40169),
                            "the $facet specification must be a non-empty object, but found: %s",
                            vd_value_to_json(context->arena, spec, 100));
    uint32_t most = vd_bson_count(vd_value_document(spec));
    facet->sources = context->sources;
    facet->context = *context;
    facet->names = VD_ARENA_ARRAY(context->arena, vd_slice_t, most);
    facet->feeds = VD_ARENA_ARRAY(context->arena, feed_t, most);
    facet->pipelines = VD_ARENA_ARRAY(context->arena, stor_pipeline_t *, most);
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = facet_one(context, facet, iter.name, iter.value, err);
    if (rc != VD_OK)
        facet_close(&facet->stage);
    *ret_stage = &facet->stage;
    return rc;
}

/* The stages before the $facet, to be run anew. VD_ERR_NOT_FOUND: they can't be. */
static int stages_before(facet_t *facet, vd_bson_t *ret_stages, vd_error_t *err)
{
    const stor_pipeline_context_t *context = &facet->context;
    vd_bson_iter_t iter;
    vd_bb_t bb;
    char buf[12];
    vd_bb_init_arena(&bb, facet->out, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    vd_bson_iter_init(&iter, context->stages);
    for (uint32_t i = 0; i < context->position && vd_bson_iter_next(&iter); i++) {
        if (stor_stage_is_random(iter.value))
            return VD_ERR_NOT_FOUND;
        vd_bb_value(&bb, vd_array_name(i, buf), iter.value);
    }
    return vd_bb_finish(&bb, ret_stages, err);
}

/* Too much to keep: each pipeline gets a run of its own. */
static int facet_again(facet_t *facet, stor_request_t *request, vd_error_t *err)
{
    stor_pipeline_context_t context = facet->context;
    vd_bson_t stages;
    int rc = stages_before(facet, &stages, err);
    if (rc == VD_ERR_NOT_FOUND)
        return vd_error_set(err, VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE,
                            "$facet: the documents that come are more than %d bytes",
                            VD_QUERY_MEMORY_MAX_BYTES);
    kept_drop(facet);
    stor_stage_rest(&facet->stage);
    context.arena = facet->out;
    context.request = request;
    context.checked = true;
    for (uint32_t i = 0; rc == VD_OK && i < facet->count; i++)
        rc = stor_pipeline_parse(&context, stages, &facet->feeds[i].again, err);
    return rc;
}

static int facet_collect(facet_t *facet, stor_request_t *request, vd_error_t *err)
{
    if (facet->count == 1) {
        facet->feeds[0].through = &facet->stage;
        return VD_OK;
    }
    kept_t *first = NULL, **tail = &first;
    vd_bson_t document;
    int rc;
    while ((rc = stor_stage_pull(&facet->stage, request, &document, err)) == VD_OK) {
        size_t bytes = document.len + sizeof(kept_t);
        if (stor_memory_take(facet->sources, bytes, "$facet", NULL) != VD_OK)
            return facet_again(facet, request, err);
        facet->taken += bytes;
        kept_t *kept = VD_ARENA_NEW(facet->kept, kept_t);
        kept->document =
            (vd_bson_t){vd_arena_copy(facet->kept, document.data, document.len), document.len};
        *tail = kept;
        tail = &kept->next;
    }
    stor_stage_rest(&facet->stage);
    for (uint32_t i = 0; i < facet->count; i++)
        facet->feeds[i].next = first;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int facet_output(facet_t *facet, stor_request_t *request, vd_bson_t *ret_document,
                        vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t document;
    int rc = VD_OK;
    vd_bb_init_arena(&bb, facet->out, (size_t)VD_QUERY_MEMORY_MAX_BYTES);
    for (uint32_t i = 0; rc == VD_OK && i < facet->count; i++) {
        char buf[12];
        uint32_t position = 0;
        vd_bb_open_array(&bb, facet->names[i]);
        while ((rc = stor_pipeline_next(facet->pipelines[i], request, &document, err)) == VD_OK) {
            vd_bb_value(&bb, vd_array_name(position++, buf), vd_value_from_document(document));
            if (vd_bb_len(&bb) > VD_QUERY_MEMORY_MAX_BYTES - VD_BSON_INTERNAL_MAX_BYTES)
                return vd_error_set(err, VD_ERR_LOCATION(4031700),
                                    "document constructed by $facet is %zu bytes, which exceeds "
                                    "the limit of %d bytes",
                                    vd_bb_len(&bb), VD_QUERY_MEMORY_MAX_BYTES);
        }
        vd_bb_close(&bb);
        stor_pipeline_close(&facet->pipelines[i]); /* what it kept goes */
        if (facet->feeds[i].again != NULL)
            stor_pipeline_release(facet->feeds[i].again);
        stor_pipeline_close(&facet->feeds[i].again);
        rc = rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
    }
    return rc == VD_OK ? vd_bb_finish(&bb, ret_document, err) : rc;
}

static int facet_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    facet_t *facet = (facet_t *)stage;
    if (facet->done)
        return VD_ERR_NOT_FOUND;
    if (facet->kept == NULL) {
        facet->kept = vd_arena_create();
        facet->out = vd_arena_create();
    }
    int rc = facet_collect(facet, request, err);
    if (rc == VD_OK)
        rc = facet_output(facet, request, ret_document, err);
    facet->done = true;
    return rc;
}

const stor_stage_class_t stor_stage_facet = {.name = "$facet",
                                             .parse = facet_parse,
                                             .next = facet_next,
                                             .close = facet_close,
                                             .not_inside = STOR_INSIDE_FACET};
