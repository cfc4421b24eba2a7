/* veddb-storaged/commands/view.c — see view.h. */
#include "veddb-storaged/commands/view.h"

#include "libcommon/base/limits.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/query/collation.h"

bool stor_view_is(stor_request_t *request, vd_slice_t name)
{
    vd_slice_t on;
    vd_bson_t stages;
    vd_arena_mark_t mark = vd_arena_mark(request->arena);
    bool view = stor_catalog_view(request->storage->catalog, request->arena, request->db, name, &on,
                                  &stages, NULL);
    vd_arena_rewind(request->arena, mark);
    return view;
}

/* ---- definitions ---- */

typedef struct {
    stor_request_t *request;
    vd_slice_t name; /* of the view that is made */
    vd_bson_t collation;
    uint32_t depth;
} walk_t;

/* Everything that a collection or view leads to must not lead to the view that is made. */
static int walk(void *context, vd_slice_t name, uint32_t depth, vd_error_t *err)
{
    (void)depth; /* of pipelines; the walk counts views */
    walk_t *w = context;
    vd_slice_t on;
    vd_bson_t stages, collation = VD_BSON_NONE;
    if (vd_slice_equal(name, w->name))
        return vd_error_set(err, VD_ERR_GRAPH_CONTAINS_CYCLE, "View cycle detected: %.*s.%.*s",
                            VD_SLICE_FMT(w->request->db), VD_SLICE_FMT(name));
    if (!stor_catalog_view(w->request->storage->catalog, w->request->arena, w->request->db, name,
                           &on, &stages, &collation))
        return VD_OK;
    if (collation.len != w->collation.len ||
        (collation.len > 0 && memcmp(collation.data, w->collation.data, collation.len) != 0))
        return vd_error_set(err, VD_ERR_LOCATION(167),
                            "View %.*s.%.*s has a collation that does not match the collation of "
                            "view %.*s.%.*s.",
                            VD_SLICE_FMT(w->request->db), VD_SLICE_FMT(w->name),
                            VD_SLICE_FMT(w->request->db), VD_SLICE_FMT(name));
    if (++w->depth >= STOR_SUB_DEPTH_MAX)
        return vd_error_set(err, VD_ERR_VIEW_DEPTH_LIMIT_EXCEEDED,
                            "View depth limit exceeded; maximum depth: %d", STOR_SUB_DEPTH_MAX);
    int rc = walk(w, on, 0, err);
    if (rc == VD_OK)
        rc = stor_pipeline_foreign(stages, 0, walk, w, err);
    w->depth--;
    return rc;
}

static int stages_check(vd_bson_t pipeline, vd_error_t *err)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, pipeline);
    for (int i = 0; vd_bson_iter_next(&iter); i++) {
        vd_slice_t name;
        vd_value_t spec;
        if (iter.value.type == VD_BSON_OBJECT &&
            vd_bson_first(vd_value_document(iter.value), &name, &spec) &&
            (vd_slice_is(name, "$out") || vd_slice_is(name, "$merge") ||
             vd_slice_is(name, "$changeStream")))
            return vd_error_set(err, VD_ERR_LOCATION(167),
                                "The aggregation stage %.*s in location %d of the pipeline cannot "
                                "be used in a view definition",
                                VD_SLICE_FMT(name), i);
    }
    return VD_OK;
}

static int definition_check(stor_request_t *request, vd_slice_t on, vd_bson_t pipeline,
                            vd_error_t *err)
{
    stor_pipeline_t *parsed = NULL;
    stor_pipeline_context_t context = {.arena = request->arena,
                                       .request = request,
                                       .variables = &request->variables,
                                       .db = request->db,
                                       .collection = on};
    int rc = stor_pipeline_parse(&context, pipeline, &parsed, err);
    stor_pipeline_close(&parsed);
    return rc;
}

int stor_view_options(stor_request_t *request, vd_slice_t name, vd_slice_t on, vd_bson_t pipeline,
                      vd_bson_t collation, vd_bson_t *ret_options, vd_error_t *err)
{
    static const uint8_t none[5] = {5, 0, 0, 0, 0};
    walk_t w = {.request = request, .name = name, .collation = collation};
    vd_bb_t bb;
    if (pipeline.data == NULL)
        pipeline = (vd_bson_t){none, sizeof none};
    if (on.len == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "'viewOn' cannot be empty");
    int rc = stor_name_check_collection(request->db, on, err);
    if (rc == VD_OK)
        rc = stages_check(pipeline, err);
    if (rc == VD_OK)
        rc = walk(&w, on, 0, err);
    if (rc == VD_OK)
        rc = stor_pipeline_foreign(pipeline, 0, walk, &w, err);
    if (rc == VD_OK)
        rc = definition_check(request, on, pipeline, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_init_arena(&bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_string(&bb, "viewOn", on);
    vd_bb_array(&bb, "pipeline", pipeline);
    if (collation.len > 0)
        vd_bb_document(&bb, "collation", collation);
    return vd_bb_finish(&bb, ret_options, err);
}

bool stor_view_same(stor_request_t *request, vd_slice_t name, vd_bson_t options)
{
    vd_slice_t on;
    vd_bson_t stages, own = VD_BSON_NONE;
    vd_value_t wanted_on = vd_bson_get(options, "viewOn"),
               wanted = vd_bson_get(options, "pipeline"),
               collation = vd_bson_get(options, "collation");
    return wanted_on.type == VD_BSON_STRING && wanted.type == VD_BSON_ARRAY &&
           stor_catalog_view(request->storage->catalog, request->arena, request->db, name, &on,
                             &stages, &own) &&
           own.len == collation.len &&
           (own.len == 0 || memcmp(own.data, collation.data, own.len) == 0) &&
           vd_slice_equal(on, vd_value_string(wanted_on)) && stages.len == wanted.len &&
           memcmp(stages.data, wanted.data, stages.len) == 0;
}

/* ---- reads ---- */

static void append_stage(vd_bb_t *bb, uint32_t *position, const char *name, vd_value_t value)
{
    char buf[12];
    vd_bb_open_document(bb, vd_array_name((*position)++, buf));
    vd_bb_value(bb, vd_slice_str(name), value);
    vd_bb_close(bb);
}

static void append_stages(vd_bb_t *bb, vd_arena_t *arena, const stor_query_parts_t *parts)
{
    uint32_t position = 0;
    if (!vd_bson_is_empty(parts->filter))
        append_stage(bb, &position, "$match", vd_value_from_document(parts->filter));
    if (!vd_bson_is_empty(parts->sort))
        append_stage(bb, &position, "$sort", vd_value_from_document(parts->sort));
    if (parts->skip > 0)
        append_stage(bb, &position, "$skip", vd_value_from_int64(arena, parts->skip));
    if (parts->limit > 0)
        append_stage(bb, &position, "$limit", vd_value_from_int64(arena, parts->limit));
    if (!vd_bson_is_empty(parts->projection))
        append_stage(bb, &position, "$project", vd_value_from_document(parts->projection));
}

int stor_view_command(stor_request_t *request, vd_slice_t name, const stor_query_parts_t *parts,
                      int64_t batch_size, vd_bson_t *ret_command, vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bb_init_arena(bb, request->arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_string(bb, "aggregate", name);
    vd_bb_begin_array(bb, "pipeline");
    append_stages(bb, request->arena, parts);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "cursor");
    if (batch_size >= 0)
        vd_bb_int64(bb, "batchSize", batch_size);
    vd_bb_close(bb);
    if (!vd_value_is_nullish(parts->hint))
        vd_bb_value(bb, VD_SLICE_LIT("hint"), parts->hint);
    if (!vd_bson_is_empty(parts->let))
        vd_bb_document(bb, "let", parts->let);
    if (stor_collation_spec().len > 0) /* the view's */
        vd_bb_document(bb, "collation", stor_collation_spec());
    return vd_bb_finish(bb, ret_command, err);
}

int stor_view_open(stor_request_t *request, vd_slice_t name, const stor_query_parts_t *parts,
                   stor_pipeline_t **ret_pipeline, vd_error_t *err)
{
    stor_sources_t *sources;
    stor_aggregate_args_t args = {.let = parts->let, .hint = parts->hint, .collection = name};
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bb_init_arena(bb, request->arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    append_stages(bb, request->arena, parts);
    int rc = vd_bb_finish(bb, &args.pipeline, err);
    (void)stor_request_namespace(request, name);
    return rc == VD_OK ? stor_aggregate_open(request, request->arena, &args, &request->variables,
                                             &sources, ret_pipeline, err)
                       : rc;
}

int stor_view_find(stor_request_t *request, vd_slice_t name, const stor_query_parts_t *parts,
                   int64_t batch_size, bool single_batch, vd_error_t *err)
{
    vd_bson_t outer = request->body;
    if (single_batch && parts->limit != 1)
        return vd_error_set(err, VD_ERR_LOCATION(168),
                            "Option singleBatch not supported in aggregation.");
    int rc = stor_view_command(request, name, parts, batch_size, &request->body, err);
    if (rc == VD_OK)
        rc = stor_run_aggregate(request, err);
    request->body = outer;
    if (rc == VD_OK)
        request->storage->counters.query++;
    return rc;
}

int stor_view_count(stor_request_t *request, vd_slice_t name, const stor_query_parts_t *parts,
                    vd_error_t *err)
{
    stor_pipeline_t *pipeline = NULL;
    vd_bson_t document;
    int64_t n = 0;
    int rc = stor_view_open(request, name, parts, &pipeline, err);
    while (rc == VD_OK && (rc = stor_pipeline_next(pipeline, request, &document, err)) == VD_OK)
        n++;
    if (pipeline != NULL)
        stor_pipeline_release(pipeline);
    stor_pipeline_close(&pipeline);
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    if (n <= INT32_MAX)
        vd_bb_int32(&request->reply, "n", (int32_t)n);
    else
        vd_bb_int64(&request->reply, "n", n);
    return VD_OK;
}
