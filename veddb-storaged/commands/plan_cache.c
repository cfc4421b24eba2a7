/* veddb-storaged/commands/plan_cache.c — planCacheClear.
 *
 * Plans are remembered in memory by the shape of the query (exec/planner.h). Index filters are not
 * built: the gateway refuses their commands by name. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/exec/planner.h"
#include "veddb-storaged/query/collation.h"

typedef struct {
    stor_query_parts_t parts;
    vd_bson_t collation;
} clear_args_t;

static const stor_arg_t clear_table[] = {
    STOR_ARG("query", STOR_ARG_DOCUMENT, clear_args_t, parts.filter, 0),
    STOR_ARG("sort", STOR_ARG_DOCUMENT, clear_args_t, parts.sort, 0),
    STOR_ARG("projection", STOR_ARG_DOCUMENT, clear_args_t, parts.projection, 0),
    STOR_ARG("collation", STOR_ARG_DOCUMENT, clear_args_t, collation, 0),
};

int stor_run_plan_cache_clear(stor_request_t *request, vd_error_t *err)
{
    clear_args_t args = {0};
    stor_query_spec_t spec;
    uint64_t id = 0, shape = 0;
    vd_slice_t name;
    int rc = stor_args_parse(request->body, "planCacheClear", true, clear_table,
                             VD_COUNT_OF(clear_table), &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_read_collation(request, request->body, args.collation, err);
    if (rc == VD_OK && args.parts.filter.data == NULL &&
        (args.parts.sort.data != NULL || args.parts.projection.data != NULL))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "sort or projection provided without query");
    if (rc == VD_OK)
        rc = stor_read_collection(request, name, &id, NULL, err);
    if (rc == VD_OK && args.parts.filter.data != NULL) {
        rc = stor_read_parse(request->arena, &args.parts, &request->variables, &spec, err);
        if (rc == VD_OK)
            shape = stor_planner_shape(&spec);
    }
    if (rc == VD_OK && id != 0)
        stor_planner_clear(request->storage->planner, id, shape);
    return rc;
}
