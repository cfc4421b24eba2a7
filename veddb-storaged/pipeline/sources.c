/* veddb-storaged/pipeline/sources.c — see sources.h. */
#include "veddb-storaged/pipeline/sources.h"
#include "veddb-storaged/query/collation.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/local/local.h"
#include "veddb-storaged/pipeline/stages.h"

/* ---- which collections ---- */

typedef struct {
    stor_request_t *request;
    stor_sources_t *sources;
    vd_slice_t db;
} gather_t;

static int gather_visit(void *context, vd_slice_t name, uint32_t depth, vd_error_t *err);

static int too_deep(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_MAX_SUB_PIPELINE_DEPTH_EXCEEDED,
                        "Maximum number of nested sub-pipelines exceeded. Limit is %d",
                        STOR_SUB_DEPTH_MAX);
}

int stor_pipeline_join(vd_arena_t *arena, vd_bson_t first, vd_bson_t second, vd_bson_t *ret_stages,
                       vd_error_t *err)
{
    const vd_bson_t parts[] = {first, second};
    vd_bb_t bb;
    char buf[12];
    uint32_t position = 0;
    vd_bb_init_arena(&bb, arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    for (size_t i = 0; i < VD_COUNT_OF(parts); i++) {
        vd_bson_iter_t iter;
        if (parts[i].data == NULL)
            continue;
        vd_bson_iter_init(&iter, parts[i]);
        while (vd_bson_iter_next(&iter))
            vd_bb_value(&bb, vd_array_name(position++, buf), iter.value);
    }
    return vd_bb_finish(&bb, ret_stages, err);
}

/* Follows views down to a collection; *source's view holds their stages, the lowest first. */
static int resolve(stor_request_t *request, stor_sources_t *sources, stor_origin_t *source,
                   vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    vd_slice_t on;
    vd_bson_t stages, collation = VD_BSON_NONE;
    source->base = source->name;
    for (uint32_t depth = 0;
         catalog != NULL && stor_catalog_view(catalog, sources->arena, source->db, source->base,
                                              &on, &stages, &collation);
         depth++) {
        if (depth == STOR_SUB_DEPTH_MAX)
            return vd_error_set(err, VD_ERR_VIEW_DEPTH_LIMIT_EXCEEDED,
                                "View depth too deep; maximum depth: %d", STOR_SUB_DEPTH_MAX);
        if (!stor_collation_is(collation))
            return vd_error_set(
                err, VD_ERR_LOCATION(167),
                "the view '%.*s' has another default collation than the aggregation "
                "that reads it",
                VD_SLICE_FMT(source->base));
        int rc = stor_pipeline_join(sources->arena, stages, source->view, &source->view, err);
        if (rc != VD_OK)
            return rc;
        source->base = on;
    }
    return VD_OK;
}

static int gather_one(stor_request_t *request, stor_sources_t *sources, vd_slice_t db,
                      vd_slice_t name, uint32_t depth, vd_error_t *err)
{
    if (name.len == 0 || stor_sources_find(sources, db, name) != NULL)
        return VD_OK;
    if (sources->count == STOR_SOURCES_MAX)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "an aggregation may read at most %d collections",
                            STOR_SOURCES_MAX);
    stor_origin_t *source = &sources->items[sources->count];
    *source = (stor_origin_t){.db = vd_arena_copy_slice(sources->arena, db),
                              .name = vd_arena_copy_slice(sources->arena, name)};
    int rc = resolve(request, sources, source, err);
    if (rc != VD_OK)
        return rc;
    source->ns = vd_slice_str(vd_arena_printf(sources->arena, "%.*s.%.*s", VD_SLICE_FMT(source->db),
                                              VD_SLICE_FMT(source->base)));
    sources->count++;
    return source->view.data == NULL
               ? VD_OK
               : stor_pipeline_foreign(source->view, depth + 1, gather_visit,
                                       &(gather_t){request, sources, source->db}, err);
}

static int gather_visit(void *context, vd_slice_t name, uint32_t depth, vd_error_t *err)
{
    const gather_t *gather = context;
    return gather_one(gather->request, gather->sources, gather->db, name, depth, err);
}

/* ---- names of other collections in a pipeline ---- */

static int foreign_join(vd_value_t spec, const char *field, uint32_t depth,
                        stor_foreign_visit_t *visit, void *context, vd_error_t *err)
{
    int rc = VD_OK;
    if (spec.type == VD_BSON_STRING)
        return visit(context, vd_value_string(spec), depth, err);
    if (spec.type != VD_BSON_OBJECT)
        return VD_OK; /* its stage refuses the form */
    vd_value_t from = vd_bson_get(vd_value_document(spec), field);
    vd_value_t pipeline = vd_bson_get(vd_value_document(spec), "pipeline");
    if (from.type == VD_BSON_STRING)
        rc = visit(context, vd_value_string(from), depth, err);
    if (rc == VD_OK && pipeline.type == VD_BSON_ARRAY)
        rc = stor_pipeline_foreign(vd_value_document(pipeline), depth + 1, visit, context, err);
    return rc;
}

static int foreign_facet(vd_value_t spec, uint32_t depth, stor_foreign_visit_t *visit,
                         void *context, vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (spec.type != VD_BSON_OBJECT)
        return VD_OK;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        if (iter.value.type == VD_BSON_ARRAY)
            rc = stor_pipeline_foreign(vd_value_document(iter.value), depth + 1, visit, context,
                                       err);
    return rc;
}

int stor_pipeline_foreign(vd_bson_t pipeline, uint32_t depth, stor_foreign_visit_t *visit,
                          void *context, vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (depth > STOR_SUB_DEPTH_MAX)
        return too_deep(err);
    vd_bson_iter_init(&iter, pipeline);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        vd_slice_t stage;
        vd_value_t spec;
        if (iter.value.type != VD_BSON_OBJECT ||
            !vd_bson_first(vd_value_document(iter.value), &stage, &spec))
            continue;
        if (vd_slice_is(stage, "$lookup") || vd_slice_is(stage, "$graphLookup"))
            rc = foreign_join(spec, "from", depth, visit, context, err);
        else if (vd_slice_is(stage, "$unionWith"))
            rc = foreign_join(spec, "coll", depth, visit, context, err);
        else if (vd_slice_is(stage, "$facet"))
            rc = foreign_facet(spec, depth, visit, context, err);
    }
    return rc;
}

int stor_sources_gather(stor_request_t *request, vd_arena_t *arena, vd_slice_t db,
                        vd_slice_t collection, vd_bson_t pipeline, stor_sources_t **ret_sources,
                        vd_error_t *err)
{
    stor_sources_t *sources = VD_ARENA_NEW(arena, stor_sources_t);
    sources->arena = arena;
    sources->own = collection.len > 0;
    int rc = gather_one(request, sources, db, collection, 0, err);
    if (rc == VD_OK && pipeline.data != NULL)
        rc = stor_pipeline_foreign(pipeline, 0, gather_visit, &(gather_t){request, sources, db},
                                   err);
    if (rc == VD_OK)
        *ret_sources = sources;
    return rc;
}

const stor_origin_t *stor_sources_find(const stor_sources_t *sources, vd_slice_t db,
                                       vd_slice_t name)
{
    for (uint32_t i = 0; sources != NULL && i < sources->count; i++)
        if (vd_slice_equal(sources->items[i].name, name) &&
            vd_slice_equal(sources->items[i].db, db))
            return &sources->items[i];
    return NULL;
}

int stor_sources_acquire(stor_sources_t *sources, stor_request_t *request, vd_error_t *err)
{
    vd_slice_t names[STOR_SOURCES_MAX];
    stor_collection_t *collections[STOR_SOURCES_MAX];
    uint32_t places[STOR_SOURCES_MAX], count = 0;
    VD_ASSERT(request->held_count == 0);
    for (uint32_t i = 0; i < sources->count; i++) {
        places[i] = 0; /* a share is taken once, however often a collection is named */
        while (places[i] < count && !vd_slice_equal(names[places[i]], sources->items[i].ns))
            places[i]++;
        if (places[i] == count &&
            stor_local_find(request->storage, sources->items[i].db, sources->items[i].base) == 0)
            names[count++] = sources->items[i].ns;
    }
    int rc = stor_catalog_acquire_many(request, names, count, collections, err);
    for (uint32_t i = 0; rc == VD_OK && i < sources->count; i++) {
        uint64_t id =
            stor_local_find(request->storage, sources->items[i].db, sources->items[i].base);
        const stor_collection_t *collection = id == 0 ? collections[places[i]] : NULL;
        if (collection != NULL)
            id = collection->id;
        if (id == 0)
            stor_request_depends_newest(request);
        if (sources->acquired && id != sources->items[i].id)
            rc = vd_error_set(err, VD_ERR_QUERY_PLAN_KILLED,
                              "collection dropped. UUID lookup failed");
        sources->items[i].id = id;
    }
    sources->acquired = true;
    return rc;
}

/* ---- memory ---- */

int stor_memory_take(stor_sources_t *sources, size_t bytes, const char *stage, vd_error_t *err)
{
    if (sources == NULL)
        return VD_OK;
    if (bytes > VD_QUERY_MEMORY_MAX_BYTES - sources->memory)
        return vd_error_set(err, VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE,
                            "%s: the stages of the query would keep more than %d bytes", stage,
                            VD_QUERY_MEMORY_MAX_BYTES);
    sources->memory += bytes;
    return VD_OK;
}

void stor_memory_give(stor_sources_t *sources, size_t bytes)
{
    if (sources == NULL)
        return;
    VD_ASSERT(sources->memory >= bytes);
    sources->memory -= bytes;
}

/* ---- sub-pipelines ---- */

stor_sub_t stor_sub(const stor_pipeline_context_t *context, stor_inside_t inside, vd_slice_t name)
{
    stor_sub_t sub = {.around = *context, .inside = inside, .name = name};
    if (name.len > 0)
        sub.source = stor_sources_find(context->sources, context->db, name);
    return sub;
}

static int sub_parse(const stor_sub_t *sub, vd_arena_t *arena, stor_request_t *request,
                     const stor_variables_t *variables, vd_bson_t stages, bool checked,
                     stor_pipeline_t **ret_pipeline, vd_error_t *err)
{
    stor_pipeline_context_t context = {
        .arena = arena,
        .request = request,
        .variables = variables,
        .db = sub->around.db,
        .collection = sub->source != NULL ? sub->source->base : sub->name,
        .collection_id = sub->source != NULL ? sub->source->id : 0,
        .sources = sub->around.sources,
        .inside = sub->inside,
        .depth = sub->around.depth + 1,
        .checked = checked,
    };
    if (context.depth > STOR_SUB_DEPTH_MAX)
        return too_deep(err);
    return stor_pipeline_parse(&context, stages, ret_pipeline, err);
}

int stor_sub_check(const stor_sub_t *sub, const stor_variables_t *variables, vd_bson_t stages,
                   vd_error_t *err)
{
    stor_pipeline_t *pipeline = NULL;
    if (sub->around.checked)
        return VD_OK;
    int rc = sub_parse(sub, sub->around.arena, sub->around.request, variables, stages, false,
                       &pipeline, err);
    stor_pipeline_close(&pipeline);
    return rc;
}

int stor_sub_open(const stor_sub_t *sub, vd_arena_t *arena, stor_request_t *request,
                  const stor_variables_t *variables, vd_bson_t stages,
                  stor_pipeline_t **ret_pipeline, vd_error_t *err)
{
    int rc = VD_OK;
    if (sub->source != NULL && sub->source->view.data != NULL)
        rc = stor_pipeline_join(arena, sub->source->view, stages, &stages, err);
    return rc == VD_OK ? sub_parse(sub, arena, request, variables, stages, true, ret_pipeline, err)
                       : rc;
}

/* ---- small things ---- */

void stor_stage_put(vd_bb_t *bb, const stor_path_t *path, uint32_t depth, vd_bson_t document,
                    vd_value_t value)
{
    vd_bson_iter_t iter;
    bool found = false, leaf = depth + 1 == path->count;
    if (document.data != NULL) {
        vd_bson_iter_init(&iter, document);
        while (vd_bson_iter_next(&iter)) {
            if (found || !vd_slice_equal(iter.name, path->parts[depth])) {
                vd_bb_value(bb, iter.name, iter.value);
                continue;
            }
            found = true;
            if (leaf) {
                vd_bb_value(bb, iter.name, vd_value_is_missing(value) ? iter.value : value);
                continue;
            }
            vd_bb_open_document(bb, iter.name);
            stor_stage_put(bb, path, depth + 1,
                           iter.value.type == VD_BSON_OBJECT ? vd_value_document(iter.value)
                                                             : VD_BSON_NONE,
                           value);
            vd_bb_close(bb);
        }
    }
    if (found || vd_value_is_missing(value))
        return;
    if (leaf) {
        vd_bb_value(bb, path->parts[depth], value);
        return;
    }
    vd_bb_open_document(bb, path->parts[depth]);
    stor_stage_put(bb, path, depth + 1, VD_BSON_NONE, value);
    vd_bb_close(bb);
}

void stor_stage_remove(vd_bb_t *bb, const stor_path_t *path, uint32_t depth, vd_bson_t document)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter)) {
        if (!vd_slice_equal(iter.name, path->parts[depth])) {
            vd_bb_value(bb, iter.name, iter.value);
        } else if (depth + 1 < path->count && iter.value.type == VD_BSON_OBJECT) {
            vd_bb_open_document(bb, iter.name);
            stor_stage_remove(bb, path, depth + 1, vd_value_document(iter.value));
            vd_bb_close(bb);
        } else if (depth + 1 < path->count) {
            vd_bb_value(bb, iter.name, iter.value);
        }
    }
}

typedef struct {
    bool (*visit)(vd_value_t value, void *context);
    void *context;
} values_t;

static bool values_at(const stor_path_t *path, uint32_t depth, vd_value_t value, values_t *values)
{
    vd_bson_iter_t iter;
    if (depth == path->count) {
        if (value.type != VD_BSON_ARRAY)
            return !vd_value_is_missing(value) && values->visit(value, values->context);
        vd_bson_iter_init(&iter, vd_value_document(value));
        while (vd_bson_iter_next(&iter))
            if (values->visit(iter.value, values->context))
                return true;
        return false;
    }
    if (value.type == VD_BSON_OBJECT)
        return values_at(path, depth + 1,
                         vd_bson_get_slice(vd_value_document(value), path->parts[depth]), values);
    if (value.type != VD_BSON_ARRAY)
        return false;
    if (path->positions[depth] >= 0) { /* a number is a position, in an array */
        char buf[12];
        if (path->positions[depth] > UINT32_MAX)
            return false;
        return values_at(path, depth + 1,
                         vd_bson_get_slice(vd_value_document(value),
                                           vd_array_name((uint32_t)path->positions[depth], buf)),
                         values);
    }
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (vd_bson_iter_next(&iter)) /* an array right in an array is not opened */
        if (iter.value.type == VD_BSON_OBJECT && values_at(path, depth, iter.value, values))
            return true;
    return false;
}

bool stor_stage_values(const stor_path_t *path, vd_bson_t document,
                       bool (*visit)(vd_value_t value, void *context), void *context)
{
    values_t values = {visit, context};
    return values_at(path, 0, vd_value_from_document(document), &values);
}

int stor_stage_once(bool before, const char *stage, vd_slice_t name, vd_error_t *err)
{
    return !before ? VD_OK
                   : vd_error_set(err, VD_ERR_LOCATION(40413),
                                  "BSON field '%s.%.*s' is a duplicate field", stage,
                                  VD_SLICE_FMT(name));
}

int stor_stage_field_path(vd_arena_t *arena, vd_slice_t text, stor_path_t *ret_path,
                          vd_error_t *err)
{
    if (text.len == 0)
        return vd_error_set(err, VD_ERR_LOCATION(40352),
                            "FieldPath cannot be constructed with empty string");
    if (memchr(text.data, '\0', text.len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(16411),
                            "FieldPath field names may not contain '\\0'.");
    stor_path_split(arena, text, ret_path);
    for (uint32_t i = 0; i < ret_path->count; i++) {
        vd_slice_t part = ret_path->parts[i];
        if (part.len == 0)
            return i + 1 == ret_path->count
                       ? vd_error_set(err, VD_ERR_LOCATION(40353),
                                      "FieldPath must not end with a '.'.")
                       : vd_error_set(err, VD_ERR_LOCATION(15998),
                                      "FieldPath field names may not be empty strings.");
        if (part.data[0] == '$')
            return vd_error_set(err, VD_ERR_LOCATION(16410),
                                "FieldPath field names may not start with '$'. Consider using "
                                "$getField or $setField.");
    }
    return VD_OK;
}

/* Values are compared, a regex among them too: inside of $in it would be a pattern. */
int stor_stage_equality(vd_arena_t *arena, vd_slice_t field, const vd_value_t *values,
                        uint32_t count, vd_bson_t *ret_filter, vd_error_t *err)
{
    vd_bb_t bb;
    char buf[12];
    bool regex = false;
    for (uint32_t i = 0; i < count; i++)
        regex |= values[i].type == VD_BSON_REGEX;
    vd_bb_init_arena(&bb, arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    if (regex) {
        vd_bb_begin_array(&bb, "$or");
        for (uint32_t i = 0; i < count; i++) {
            vd_bb_open_document(&bb, vd_array_name(i, buf));
            vd_bb_open_document(&bb, field);
            vd_bb_value(&bb, VD_SLICE_LIT("$eq"), values[i]);
            vd_bb_close(&bb);
            vd_bb_close(&bb);
        }
        vd_bb_close(&bb);
    } else {
        vd_bb_open_document(&bb, field);
        vd_bb_begin_array(&bb, "$in");
        for (uint32_t i = 0; i < count; i++)
            vd_bb_value(&bb, vd_array_name(i, buf), values[i]);
        vd_bb_close(&bb);
        vd_bb_close(&bb);
    }
    return vd_bb_finish(&bb, ret_filter, err);
}
