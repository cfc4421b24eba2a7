/* veddb-storaged/commands/explain.c — explain: how a command would run, and with executionStats how
 * it did. The plan itself is written by explain_plan.c. */
#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/explain_plan.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/view.h"
#include "veddb-storaged/commands/write_common.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/pipeline/pipeline.h"

#include <stdlib.h>

typedef stor_explain_t explain_t;

static void append_server(vd_bb_t *bb, const explain_t *explain)
{
    char host[STOR_FACTS_HOST_SIZE];
    vd_slice_t name = stor_facts_host(explain->request->storage, host);
    char *colon = strrchr(host, ':');
    vd_bb_begin_document(bb, "command");
    vd_bb_concat(bb, explain->command);
    if (vd_value_is_missing(vd_bson_get(explain->command, "$db")))
        vd_bb_string(bb, "$db", explain->request->db);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "serverInfo");
    vd_bb_string(bb, "host", colon == NULL ? name : vd_slice(host, (size_t)(colon - host)));
    vd_bb_int32(bb, "port", colon == NULL ? 27017 : atoi(colon + 1));
    vd_bb_cstr(bb, "version", STOR_FACTS_VERSION);
    vd_bb_cstr(bb, "gitVersion", "veddb-" VEDDB_VERSION);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "serverParameters");
    vd_bb_int32(bb, "internalDocumentSourceGroupMaxMemoryBytes", VD_QUERY_MEMORY_MAX_BYTES);
    vd_bb_int32(bb, "internalQueryMaxBlockingSortMemoryUsageBytes", VD_QUERY_MEMORY_MAX_BYTES);
    vd_bb_cstr(bb, "internalQueryFrameworkControl", "forceClassicEngine");
    vd_bb_close(bb);
}

static void append_all(explain_t *explain)
{
    vd_bb_t *bb = &explain->request->reply;
    vd_bb_cstr(bb, "explainVersion", "1");
    stor_explain_planner(bb, explain);
    stor_explain_execution(bb, explain);
    append_server(bb, explain);
}

/* ---- find, count, distinct, and the filters of writes ---- */

static int explain_query(explain_t *explain, const stor_query_parts_t *parts,
                         const stor_path_t *distinct, vd_error_t *err)
{
    stor_request_t *request = explain->request;
    stor_query_spec_t spec;
    stor_query_t *query = NULL;
    vd_bson_t document;
    uint64_t id = 0, started = vd_monotonic_us();
    int rc = stor_read_source(request, explain->collection, &id, NULL, err);
    if (rc == VD_OK)
        rc = stor_read_parse(request->arena, parts, &request->variables, &spec, err);
    if (rc != VD_OK)
        return rc;
    spec.collection_id = id;
    spec.explain = true;
    spec.count_only = explain->top != NULL && strcmp(explain->top, "COUNT") == 0;
    if (distinct != NULL)
        stor_distinct_spec(request->arena, distinct, &spec);
    explain->sort = parts->sort;
    explain->projection = parts->projection;
    rc = stor_query_open(request->arena, request, &spec, &query, err);
    if (rc == VD_OK && explain->verbosity != STOR_EXPLAIN_PLANNER) {
        while ((rc = stor_query_next(query, request, &document, err)) == VD_OK)
            explain->delivered++;
        rc = rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
        explain->executed = true;
    }
    if (rc == VD_OK) {
        explain->spec = &spec;
        explain->query = query;
        stor_query_facts(query, &explain->facts);
        explain->ms = (vd_monotonic_us() - started) / 1000;
        explain->fast_count = spec.count_only && id != 0 && spec.filter->kind == STOR_FILTER_TRUE &&
                              !stor_read_hints_index(spec.hint);
        if (explain->fast_count) /* what count would do: it reads no document */
            explain->facts.documents_examined = explain->facts.keys_examined = 0;
        rc = stor_explain_trials(explain, err);
        if (rc == VD_OK)
            append_all(explain);
        stor_explain_trials_end(explain);
    }
    if (query != NULL)
        stor_query_release(query);
    stor_query_close(&query);
    return rc;
}

static int explain_find(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    int rc = stor_find_parts(explain->request, explain->command, &parts, err);
    return rc == VD_OK ? explain_query(explain, &parts, NULL, err) : rc;
}

static int explain_count(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    int rc = stor_count_parts(explain->request, explain->command, &parts, err);
    explain->top = "COUNT";
    return rc == VD_OK ? explain_query(explain, &parts, NULL, err) : rc;
}

static int explain_distinct(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    vd_slice_t key = VD_SLICE_NULL;
    stor_path_t path;
    int rc = stor_distinct_parts(explain->request, explain->command, &parts, &key, err);
    if (rc != VD_OK)
        return rc;
    stor_path_split(explain->request->arena, key, &path);
    return explain_query(explain, &parts, &path, err);
}

/* A write is planned by its filter, and only that is run for an explain: it changes nothing. */
static int explain_write(explain_t *explain, const char *top, const stor_query_parts_t *parts,
                         vd_error_t *err)
{
    explain->top = top;
    return explain_query(explain, parts, NULL, err);
}

static int explain_update(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    int rc = stor_update_parts(explain->request, explain->command, &parts, err);
    return rc == VD_OK ? explain_write(explain, "UPDATE", &parts, err) : rc;
}

static int explain_delete(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    int rc = stor_delete_parts(explain->request, explain->command, &parts, err);
    return rc == VD_OK ? explain_write(explain, "DELETE", &parts, err) : rc;
}

static int explain_find_and_modify(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    bool removes = false;
    int rc = stor_find_and_modify_parts(explain->request, explain->command, &parts, &removes, err);
    return rc == VD_OK ? explain_write(explain, removes ? "DELETE" : "UPDATE", &parts, err) : rc;
}

/* ---- aggregate ---- */

static void append_stages(explain_t *explain, const stor_pipeline_t *pipeline)
{
    vd_bb_t *bb = &explain->request->reply;
    uint32_t count = stor_pipeline_stage_count(pipeline), position = 0;
    char buf[12];
    vd_bb_cstr(bb, "explainVersion", "1");
    vd_bb_begin_array(bb, "stages");
    if (explain->spec != NULL) {
        vd_bb_open_document(bb, vd_array_name(position++, buf));
        vd_bb_begin_document(bb, "$cursor");
        stor_explain_planner(bb, explain);
        stor_explain_execution(bb, explain);
        vd_bb_close(bb);
        if (explain->executed)
            vd_bb_int64(bb, "nReturned", (int64_t)explain->facts.returned);
        vd_bb_close(bb);
    }
    for (uint32_t i = 0; i < count; i++) {
        vd_bb_open_document(bb, vd_array_name(position++, buf));
        stor_spilled_t spills;
        vd_bb_concat(bb, stor_pipeline_stage_spec(pipeline, i));
        if (explain->executed)
            vd_bb_int64(bb, "nReturned", (int64_t)stor_pipeline_stage_returned(pipeline, i));
        if (explain->executed && stor_pipeline_stage_spills(pipeline, i, &spills)) {
            vd_bb_bool(bb, "usedDisk", spills.spills > 0);
            vd_bb_int64(bb, "spills", (int64_t)spills.spills);
            vd_bb_int64(bb, "spilledDataStorageSize", (int64_t)spills.bytes);
            vd_bb_int64(bb, "spilledRecords", (int64_t)spills.records);
        }
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    append_server(bb, explain);
}

static int explain_run_pipeline(explain_t *explain, stor_pipeline_t *pipeline, vd_error_t *err)
{
    vd_bson_t document;
    int rc;
    uint64_t started = vd_monotonic_us();
    if (explain->verbosity == STOR_EXPLAIN_PLANNER)
        return VD_OK;
    while ((rc = stor_pipeline_next(pipeline, explain->request, &document, err)) == VD_OK)
        explain->delivered++;
    explain->ms = (vd_monotonic_us() - started) / 1000;
    explain->executed = true;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int explain_aggregate(explain_t *explain, vd_error_t *err)
{
    stor_request_t *request = explain->request;
    stor_aggregate_args_t args = {0};
    stor_pipeline_t *pipeline = NULL;
    stor_sources_t *sources;
    int rc = stor_aggregate_args(request, explain->command, true, &args, err);
    args.in_explain = true;
    if (rc == VD_OK)
        rc = stor_aggregate_open(request, request->arena, &args, &request->variables, &sources,
                                 &pipeline, err);
    if (rc == VD_OK) /* of a view: what it stands on */
        (void)stor_request_namespace(request, sources->own ? sources->items[0].base
                                                           : VD_SLICE_LIT("$cmd.aggregate"));
    if (rc == VD_OK && stor_pipeline_output(pipeline) != NULL &&
        explain->verbosity != STOR_EXPLAIN_PLANNER)
        rc = vd_error_set(err, VD_ERR_LOCATION(51029),
                          "explain of an aggregation that writes is possible with the verbosity "
                          "queryPlanner only");
    if (rc == VD_OK && stor_pipeline_is_stream(pipeline))
        rc = vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "explain of $changeStream is not built");
    if (rc == VD_OK)
        rc = explain_run_pipeline(explain, pipeline, err);
    if (rc == VD_OK) {
        const stor_query_t *query = stor_pipeline_query(pipeline);
        uint32_t behind = stor_pipeline_stage_count(pipeline);
        if (query != NULL) {
            explain->spec = stor_query_spec(query);
            explain->query = query;
            stor_query_facts(query, &explain->facts);
            explain->sort = stor_pipeline_head_sort(pipeline);
            if (behind > 0) /* what the head itself gave */
                explain->delivered = explain->facts.returned;
        }
        if (query != NULL)
            rc = stor_explain_trials(explain, err);
        if (rc == VD_OK && query != NULL && behind == 0)
            append_all(explain);
        else if (rc == VD_OK)
            append_stages(explain, pipeline);
        stor_explain_trials_end(explain);
    }
    if (pipeline != NULL)
        stor_pipeline_release(pipeline);
    stor_pipeline_close(&pipeline);
    return rc;
}

/* ---- reads of a view: as the aggregation that they are ---- */

static int explain_view(explain_t *explain, bool *ret_is, vd_error_t *err)
{
    stor_request_t *request = explain->request;
    stor_query_parts_t parts = {0};
    vd_slice_t name, key;
    vd_value_t value;
    (void)vd_bson_first(explain->command, &name, &value); /* it was looked up by it */
    *ret_is = false;
    if (explain->collection.len == 0 || !stor_view_is(request, explain->collection))
        return VD_OK;
    int rc = VD_OK;
    *ret_is = true;
    if (vd_slice_is(name, "find"))
        rc = stor_find_parts(request, explain->command, &parts, err);
    else if (vd_slice_is(name, "count"))
        rc = stor_count_parts(explain->request, explain->command, &parts, err);
    else if (vd_slice_is(name, "distinct"))
        rc = stor_distinct_parts(explain->request, explain->command, &parts, &key, err);
    else
        *ret_is = false;
    if (rc != VD_OK || !*ret_is)
        return rc;
    rc = stor_view_command(request, explain->collection, &parts, -1, &explain->command, err);
    request->body = explain->command;
    return rc == VD_OK ? explain_aggregate(explain, err) : rc;
}

/* ---- the command ---- */

static const struct {
    const char *name;
    int (*run)(explain_t *explain, vd_error_t *err);
} explainers[] = {
    {"find", explain_find},
    {"count", explain_count},
    {"distinct", explain_distinct},
    {"aggregate", explain_aggregate},
    {"update", explain_update},
    {"delete", explain_delete},
    {"findAndModify", explain_find_and_modify},
    {"findandmodify", explain_find_and_modify},
};

int stor_explain(stor_request_t *request, vd_bson_t command, stor_verbosity_t verbosity,
                 vd_error_t *err)
{
    explain_t explain = {.request = request, .verbosity = verbosity, .command = command};
    vd_slice_t name;
    vd_value_t first;
    size_t i = 0;
    if (!vd_bson_first(command, &name, &first))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "explain command requires a nested object");
    while (i < VD_COUNT_OF(explainers) && !vd_slice_is(name, explainers[i].name))
        i++;
    if (i == VD_COUNT_OF(explainers))
        return vd_error_set(err, VD_ERR_COMMAND_NOT_FOUND,
                            stor_command_find(name) == NULL
                                ? "Explain failed due to unknown command: %.*s"
                                : "explain is not built for the command: %.*s",
                            VD_SLICE_FMT(name));
    vd_bson_t outer = request->body;
    request->body = command; /* names of collections are read from it */
    int rc = VD_OK;
    if (first.type == VD_BSON_STRING || i != 3)
        rc = stor_request_collection_name(request, &explain.collection, err);
    bool view = false;
    if (rc == VD_OK)
        rc = explain_view(&explain, &view, err);
    if (rc == VD_OK && !view)
        rc = explainers[i].run(&explain, err);
    request->body = outer;
    return rc;
}

typedef struct {
    vd_slice_t verbosity;
} explain_args_t;

static const stor_arg_t explain_table[] = {
    STOR_ARG("verbosity", STOR_ARG_STRING, explain_args_t, verbosity, 0)};

int stor_run_explain(stor_request_t *request, vd_error_t *err)
{
    static const char *const names[] = {[STOR_EXPLAIN_PLANNER] = "queryPlanner",
                                        [STOR_EXPLAIN_STATS] = "executionStats",
                                        [STOR_EXPLAIN_ALL_PLANS] = "allPlansExecution"};
    explain_args_t args = {.verbosity = VD_SLICE_LIT("allPlansExecution")};
    vd_slice_t name;
    vd_value_t command;
    int rc = stor_args_parse(request->body, "explain", true, explain_table,
                             VD_COUNT_OF(explain_table), &args, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_bson_first(request->body, &name, &command) || command.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "explain command requires a nested object");
    size_t verbosity = 0;
    while (verbosity < VD_COUNT_OF(names) && !vd_slice_is(args.verbosity, names[verbosity]))
        verbosity++;
    if (verbosity == VD_COUNT_OF(names))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Enumeration value '%.*s' for field 'explain.verbosity' is not a valid "
                            "value.",
                            VD_SLICE_FMT(args.verbosity));
    vd_value_t db = vd_bson_get(vd_value_document(command), "$db");
    if (db.type == VD_BSON_STRING && !vd_slice_equal(vd_value_string(db), request->db))
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Mismatched $db in explain command.");
    return stor_explain(request, vd_value_document(command), (stor_verbosity_t)verbosity, err);
}
