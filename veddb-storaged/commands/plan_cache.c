/* veddb-storaged/commands/plan_cache.c — planCacheClear; planCacheSetFilter, planCacheListFilters,
 * planCacheClearFilters.
 *
 * Plans are remembered, and index filters kept, in memory by the shape of the query
 * (exec/planner.h, exec/plan_filters.h). */
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/exec/planner.h"
#include "veddb-storaged/query/collation.h"

typedef struct {
    stor_query_parts_t parts;
    vd_bson_t collation, indexes;
} shape_args_t;

#define SHAPE_ARGS                                                                                 \
    STOR_ARG("query", STOR_ARG_DOCUMENT, shape_args_t, parts.filter, 0),                           \
        STOR_ARG("sort", STOR_ARG_DOCUMENT, shape_args_t, parts.sort, 0),                          \
        STOR_ARG("projection", STOR_ARG_DOCUMENT, shape_args_t, parts.projection, 0),              \
        STOR_ARG("collation", STOR_ARG_DOCUMENT, shape_args_t, collation, 0)

static const stor_arg_t clear_table[] = {SHAPE_ARGS};
static const stor_arg_t set_table[] = {
    SHAPE_ARGS,
    STOR_ARG("indexes", STOR_ARG_ARRAY, shape_args_t, indexes, STOR_ARG_REQUIRED),
};

/* The collection's id (0: there is none), and the spec when there is a query; *ret_spec then has a
 * filter. */
static int shape_read(stor_request_t *request, const char *command, const stor_arg_t *table,
                      size_t count, shape_args_t *args, uint64_t *ret_id,
                      stor_query_spec_t *ret_spec, vd_error_t *err)
{
    vd_slice_t name;
    *ret_spec = (stor_query_spec_t){0};
    int rc = stor_args_parse(request->body, command, true, table, count, args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_read_collation(request, request->body, args->collation, err);
    if (rc == VD_OK && args->parts.filter.data == NULL &&
        (args->parts.sort.data != NULL || args->parts.projection.data != NULL ||
         args->collation.data != NULL))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "sort, projection or collation provided without query");
    if (rc == VD_OK)
        rc = stor_read_collection(request, name, ret_id, NULL, err);
    if (rc == VD_OK && args->parts.filter.data != NULL)
        rc = stor_read_parse(request->arena, &args->parts, &request->variables, ret_spec, err);
    return rc;
}

int stor_run_plan_cache_clear(stor_request_t *request, vd_error_t *err)
{
    shape_args_t args = {0};
    stor_query_spec_t spec;
    uint64_t id = 0;
    int rc = shape_read(request, "planCacheClear", clear_table, VD_COUNT_OF(clear_table), &args,
                        &id, &spec, err);
    if (rc == VD_OK && id != 0)
        stor_planner_clear(request->storage->planner, id,
                           spec.filter == NULL ? 0 : stor_planner_shape(&spec));
    return rc;
}

/* ---- index filters ---- */

static int indexes_check(vd_bson_t indexes, vd_error_t *err)
{
    vd_bson_iter_t iter;
    if (vd_bson_is_empty(indexes))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "required field indexes must contain at least one index");
    vd_bson_iter_init(&iter, indexes);
    while (vd_bson_iter_next(&iter)) {
        bool pattern = iter.value.type == VD_BSON_OBJECT;
        if (!pattern && iter.value.type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "each item in indexes must be an object or string");
        if (pattern && vd_bson_is_empty(vd_value_document(iter.value)))
            return vd_error_set(err, VD_ERR_BAD_VALUE, "index specification cannot be empty");
    }
    return VD_OK;
}

static int filter_make(stor_request_t *request, const shape_args_t *args, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    static const uint8_t none[5] = {5, 0, 0, 0, 0};
    const vd_bson_t empty = {none, sizeof none};
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bb_init_arena(bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_document(bb, "query", args->parts.filter);
    vd_bb_document(bb, "sort", args->parts.sort.data == NULL ? empty : args->parts.sort);
    vd_bb_document(bb, "projection",
                   args->parts.projection.data == NULL ? empty : args->parts.projection);
    if (stor_collation_spec().len > 0)
        vd_bb_document(bb, "collation", stor_collation_spec());
    vd_bb_array(bb, "indexes", args->indexes);
    return vd_bb_finish(bb, ret_document, err);
}

int stor_run_plan_cache_set_filter(stor_request_t *request, vd_error_t *err)
{
    shape_args_t args = {0};
    stor_query_spec_t spec;
    stor_planner_t *planner = request->storage->planner;
    uint64_t id = 0;
    vd_bson_t document;
    int rc = shape_read(request, "planCacheSetFilter", set_table, VD_COUNT_OF(set_table), &args,
                        &id, &spec, err);
    if (rc == VD_OK && spec.filter == NULL)
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "required field query missing");
    if (rc == VD_OK)
        rc = indexes_check(args.indexes, err);
    if (rc == VD_OK && id == 0)
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "no such collection");
    if (rc == VD_OK)
        rc = filter_make(request, &args, &document, err);
    if (rc == VD_OK)
        rc = stor_plan_filters_set(stor_planner_filters(planner), id,
                                   stor_planner_filter_shape(&spec), document, err);
    if (rc == VD_OK)
        stor_planner_clear(planner, id, 0); /* what was chosen among all */
    return rc;
}

int stor_run_plan_cache_list_filters(stor_request_t *request, vd_error_t *err)
{
    stor_planner_t *planner = request->storage->planner;
    vd_bson_t *documents = NULL;
    uint32_t count = 0;
    uint64_t id = 0;
    vd_slice_t name;
    char buf[12];
    int rc = stor_args_parse(request->body, "planCacheListFilters", true, NULL, 0, NULL, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_read_collection(request, name, &id, NULL, err);
    if (rc != VD_OK)
        return rc;
    if (id != 0)
        stor_plan_filters_list(stor_planner_filters(planner), request->arena, id, &documents,
                               &count);
    vd_bb_begin_array(&request->reply, "filters");
    for (uint32_t i = 0; i < count; i++)
        vd_bb_value(&request->reply, vd_array_name(i, buf), vd_value_from_document(documents[i]));
    vd_bb_close(&request->reply);
    return VD_OK;
}

int stor_run_plan_cache_clear_filters(stor_request_t *request, vd_error_t *err)
{
    shape_args_t args = {0};
    stor_query_spec_t spec;
    stor_planner_t *planner = request->storage->planner;
    uint64_t id = 0;
    int rc = shape_read(request, "planCacheClearFilters", clear_table, VD_COUNT_OF(clear_table),
                        &args, &id, &spec, err);
    if (rc != VD_OK || id == 0)
        return rc;
    stor_plan_filters_clear(stor_planner_filters(planner), id,
                            spec.filter == NULL ? 0 : stor_planner_filter_shape(&spec));
    stor_planner_clear(planner, id, 0);
    return VD_OK;
}
