/* veddb-storaged/commands/explain.c — explain: how a command would run, and with executionStats how
 * it did.
 *
 * A plan is a short chain, outermost first: what the command makes of the documents, LIMIT,
 * projection, SKIP, SORT, access. There is one plan for every query, so none is rejected. */
#include "libcommon/base/clock.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/write_common.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/pipeline/pipeline.h"

#include <stdio.h>
#include <stdlib.h>

typedef enum { NODE_TOP, NODE_LIMIT, NODE_PROJECTION, NODE_SKIP, NODE_SORT, NODE_ACCESS } node_t;

typedef struct {
    stor_request_t *request;
    stor_verbosity_t verbosity;
    vd_bson_t command;
    vd_slice_t collection;
    const stor_query_spec_t *spec;
    stor_query_facts_t facts;
    vd_bson_t sort, projection; /* as given */
    const char *top;            /* "COUNT", "UPDATE", "DELETE", or NULL */
    bool fast_count;
    bool executed;
    uint64_t ms, delivered;
    node_t nodes[NODE_ACCESS + 1];
    uint32_t node_count;
} explain_t;

/* ---- the chain ---- */

static void plan_nodes(explain_t *explain)
{
    const stor_query_spec_t *spec = explain->spec;
    uint32_t n = 0;
    if (explain->top != NULL)
        explain->nodes[n++] = NODE_TOP;
    if (explain->facts.access != STOR_ACCESS_EOF && !explain->fast_count) {
        if (spec->limit > 0 && !explain->facts.blocking_sort) /* a sort keeps to the limit itself */
            explain->nodes[n++] = NODE_LIMIT;
        if (spec->project != NULL)
            explain->nodes[n++] = NODE_PROJECTION;
        if (spec->skip > 0)
            explain->nodes[n++] = NODE_SKIP;
        if (explain->facts.blocking_sort)
            explain->nodes[n++] = NODE_SORT;
    }
    if (!explain->fast_count)
        explain->nodes[n++] = NODE_ACCESS;
    explain->node_count = n;
}

static bool projection_is_simple(vd_bson_t projection)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, projection);
    while (vd_bson_iter_next(&iter))
        if ((iter.value.type != VD_BSON_BOOL && !vd_value_is_number(iter.value)) ||
            memchr(iter.name.data, '.', iter.name.len) != NULL)
            return false;
    return true;
}

static const char *node_name(const explain_t *explain, node_t node)
{
    static const char *const names[] = {
        [NODE_LIMIT] = "LIMIT", [NODE_SKIP] = "SKIP", [NODE_SORT] = "SORT"};
    switch (node) {
    case NODE_TOP:
        return explain->top;
    case NODE_PROJECTION:
        return projection_is_simple(explain->projection) ? "PROJECTION_SIMPLE"
                                                         : "PROJECTION_DEFAULT";
    case NODE_ACCESS:
        return stor_access_name(explain->facts.access);
    default:
        return names[node];
    }
}

/* Documents that a node gave to the one before it. */
static uint64_t node_returned(const explain_t *explain, node_t node)
{
    const stor_query_facts_t *facts = &explain->facts;
    uint64_t ordered = facts->returned + facts->skipped;
    switch (node) {
    case NODE_TOP:
        return 0; /* COUNT gives a number */
    case NODE_SORT:
        return ordered;
    case NODE_ACCESS:
        return facts->blocking_sort ? facts->before_sort : ordered;
    default:
        return facts->returned;
    }
}

static int64_t added(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static void append_node_spec(vd_bb_t *bb, const explain_t *explain, node_t node)
{
    const stor_query_spec_t *spec = explain->spec;
    stor_access_t access = explain->facts.access;
    switch (node) {
    case NODE_TOP:
        break;
    case NODE_LIMIT:
        stor_facts_number(bb, "limitAmount", spec->limit);
        break;
    case NODE_PROJECTION:
        vd_bb_document(bb, "transformBy", explain->projection);
        break;
    case NODE_SKIP:
        stor_facts_number(bb, "skipAmount", spec->skip);
        break;
    case NODE_SORT:
        vd_bb_document(bb, "sortPattern", explain->sort);
        vd_bb_int32(bb, "memLimit", VD_QUERY_MEMORY_MAX_BYTES);
        if (spec->limit > 0)
            stor_facts_number(bb, "limitAmount", added(spec->limit, spec->skip));
        vd_bb_cstr(bb, "type", "simple");
        break;
    case NODE_ACCESS:
        if (access != STOR_ACCESS_EOF && spec->filter->kind != STOR_FILTER_TRUE &&
            !(access == STOR_ACCESS_IDHACK && spec->filter->kind == STOR_FILTER_EQ))
            vd_bb_document(bb, "filter",
                           stor_filter_to_bson(explain->request->arena, spec->filter));
        if (access == STOR_ACCESS_COLLSCAN || access == STOR_ACCESS_ID_RANGE)
            vd_bb_cstr(bb, "direction", explain->facts.backward ? "backward" : "forward");
        break;
    }
}

static void append_node_stats(vd_bb_t *bb, const explain_t *explain, node_t node)
{
    const stor_query_facts_t *facts = &explain->facts;
    uint64_t returned = node_returned(explain, node);
    stor_facts_number(bb, "nReturned", (int64_t)returned);
    if (node == NODE_TOP)
        stor_facts_number(bb, "nCounted", (int64_t)explain->delivered);
    if (node == NODE_SORT) {
        stor_facts_number(bb, "totalDataSizeSorted", (int64_t)facts->sorted_bytes);
        vd_bb_bool(bb, "usedDisk", facts->spills > 0);
        stor_facts_number(bb, "spills", (int64_t)facts->spills);
        stor_facts_number(bb, "spilledDataStorageSize", (int64_t)facts->spilled_bytes);
    }
    if (node == NODE_ACCESS && facts->access != STOR_ACCESS_EOF) {
        stor_facts_number(bb, "works", (int64_t)facts->documents_examined);
        stor_facts_number(bb, "advanced", (int64_t)returned);
        stor_facts_number(bb, "needTime", (int64_t)(facts->documents_examined - returned));
        if (facts->access != STOR_ACCESS_COLLSCAN)
            stor_facts_number(bb, "keysExamined", (int64_t)facts->keys_examined);
        stor_facts_number(bb, "docsExamined", (int64_t)facts->documents_examined);
    }
}

static void append_chain(vd_bb_t *bb, const explain_t *explain, const char *name, bool stats)
{
    if (explain->fast_count) {
        vd_bb_begin_document(bb, name);
        vd_bb_cstr(bb, "stage", "RECORD_STORE_FAST_COUNT");
        vd_bb_close(bb);
        return;
    }
    for (uint32_t i = 0; i < explain->node_count; i++) {
        node_t node = explain->nodes[i];
        vd_bb_begin_document(bb, i == 0 ? name : "inputStage");
        vd_bb_cstr(bb, "stage", node_name(explain, node));
        append_node_spec(bb, explain, node);
        if (stats)
            append_node_stats(bb, explain, node);
    }
    for (uint32_t i = 0; i < explain->node_count; i++)
        vd_bb_close(bb);
}

/* ---- the shape of a query: what stays when its values change ---- */

static uint64_t mix(uint64_t hash, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3ull;
    return hash;
}

static uint64_t filter_shape(const stor_filter_t *filter, uint64_t hash)
{
    uint8_t kind = (uint8_t)filter->kind;
    hash = mix(hash, &kind, 1);
    hash = mix(hash, filter->path.text.data, filter->path.text.len);
    for (uint32_t i = 0; i < filter->child_count; i++)
        hash = filter_shape(filter->children[i], hash);
    kind = 0xFF; /* end of children */
    return mix(hash, &kind, 1);
}

static void append_hashes(vd_bb_t *bb, const explain_t *explain)
{
    char text[24];
    uint64_t hash = filter_shape(explain->spec->filter, 0xcbf29ce484222325ull);
    hash = mix(hash, explain->sort.data, explain->sort.len);
    hash = mix(hash, explain->projection.data, explain->projection.len);
    snprintf(text, sizeof text, "%08X", (unsigned)(hash ^ hash >> 32));
    vd_bb_cstr(bb, "queryHash", text);
    uint8_t access = (uint8_t)explain->facts.access;
    hash = mix(hash, &access, 1);
    snprintf(text, sizeof text, "%08X", (unsigned)(hash ^ hash >> 32));
    vd_bb_cstr(bb, "planCacheKey", text);
}

/* ---- sections of the reply ---- */

static void append_planner(vd_bb_t *bb, const explain_t *explain)
{
    vd_bb_begin_document(bb, "queryPlanner");
    vd_bb_string(bb, "namespace", explain->request->ns);
    vd_bb_bool(bb, "indexFilterSet", false);
    vd_bb_document(bb, "parsedQuery",
                   stor_filter_to_bson(explain->request->arena, explain->spec->filter));
    append_hashes(bb, explain);
    vd_bb_bool(bb, "maxIndexedOrSolutionsReached", false);
    vd_bb_bool(bb, "maxIndexedAndSolutionsReached", false);
    vd_bb_bool(bb, "maxScansToExplodeReached", false);
    append_chain(bb, explain, "winningPlan", false);
    vd_bb_begin_array(bb, "rejectedPlans");
    vd_bb_close(bb);
    vd_bb_close(bb);
}

static void append_execution(vd_bb_t *bb, const explain_t *explain)
{
    if (!explain->executed)
        return;
    bool counts = explain->top != NULL;
    vd_bb_begin_document(bb, "executionStats");
    vd_bb_bool(bb, "executionSuccess", true);
    stor_facts_number(bb, "nReturned", counts ? 0 : (int64_t)explain->delivered);
    stor_facts_number(bb, "executionTimeMillis", (int64_t)explain->ms);
    stor_facts_number(bb, "totalKeysExamined", (int64_t)explain->facts.keys_examined);
    stor_facts_number(bb, "totalDocsExamined", (int64_t)explain->facts.documents_examined);
    append_chain(bb, explain, "executionStages", true);
    if (explain->verbosity == STOR_EXPLAIN_ALL_PLANS) {
        vd_bb_begin_array(bb, "allPlansExecution"); /* plans are never tried against each other */
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

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
    append_planner(bb, explain);
    append_execution(bb, explain);
    append_server(bb, explain);
}

/* ---- find, count, distinct, and the filters of writes ---- */

static int explain_query(explain_t *explain, const stor_query_parts_t *parts, vd_error_t *err)
{
    stor_request_t *request = explain->request;
    stor_query_spec_t spec;
    stor_query_t *query = NULL;
    vd_bson_t document;
    uint64_t id = 0, started = vd_monotonic_us();
    int rc = stor_read_collection(request, explain->collection, &id, NULL, err);
    if (rc == VD_OK)
        rc = stor_read_parse(request->arena, parts, &request->variables, &spec, err);
    if (rc != VD_OK)
        return rc;
    spec.collection_id = id;
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
        stor_query_facts(query, &explain->facts);
        explain->ms = (vd_monotonic_us() - started) / 1000;
        explain->fast_count = explain->top != NULL && strcmp(explain->top, "COUNT") == 0 &&
                              id != 0 && spec.filter->kind == STOR_FILTER_TRUE;
        if (explain->fast_count) /* what count would do: it reads no document */
            explain->facts.documents_examined = explain->facts.keys_examined = 0;
        plan_nodes(explain);
        append_all(explain);
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
    return rc == VD_OK ? explain_query(explain, &parts, err) : rc;
}

static int explain_count(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    int rc = stor_count_parts(explain->command, &parts, err);
    explain->top = "COUNT";
    return rc == VD_OK ? explain_query(explain, &parts, err) : rc;
}

static int explain_distinct(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    int rc = stor_distinct_parts(explain->command, &parts, err);
    return rc == VD_OK ? explain_query(explain, &parts, err) : rc;
}

/* A write is planned by its filter; it is never run for an explain. */
static int explain_write(explain_t *explain, const char *top, const stor_query_parts_t *parts,
                         vd_error_t *err)
{
    explain->top = top;
    if (explain->verbosity != STOR_EXPLAIN_PLANNER)
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                            "explain of a write is built with the verbosity queryPlanner only");
    return explain_query(explain, parts, err);
}

static int explain_update(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    int rc = stor_update_parts(explain->command, &parts, err);
    return rc == VD_OK ? explain_write(explain, "UPDATE", &parts, err) : rc;
}

static int explain_delete(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    int rc = stor_delete_parts(explain->command, &parts, err);
    return rc == VD_OK ? explain_write(explain, "DELETE", &parts, err) : rc;
}

static int explain_find_and_modify(explain_t *explain, vd_error_t *err)
{
    stor_query_parts_t parts = {0};
    bool removes = false;
    int rc = stor_find_and_modify_parts(explain->command, &parts, &removes, err);
    return rc == VD_OK ? explain_write(explain, removes ? "DELETE" : "UPDATE", &parts, err) : rc;
}

/* ---- aggregate ---- */

static vd_value_t stage_spec(vd_bson_t pipeline, uint32_t position)
{
    char buf[12];
    return vd_bson_get_slice(pipeline, vd_array_name(position, buf));
}

/* The sort that the head took over: the first $sort of the pipeline. */
static vd_bson_t head_sort(vd_bson_t pipeline, uint32_t folded)
{
    for (uint32_t i = 0; i < folded; i++) {
        vd_value_t sort = vd_bson_get(vd_value_document(stage_spec(pipeline, i)), "$sort");
        if (sort.type == VD_BSON_OBJECT)
            return vd_value_document(sort);
    }
    return VD_BSON_NONE;
}

static void append_stages(explain_t *explain, const stor_pipeline_t *pipeline, vd_bson_t given)
{
    vd_bb_t *bb = &explain->request->reply;
    uint32_t count = stor_pipeline_stage_count(pipeline), folded = vd_bson_count(given) - count;
    uint32_t position = 0;
    char buf[12];
    vd_bb_cstr(bb, "explainVersion", "1");
    vd_bb_begin_array(bb, "stages");
    if (explain->spec != NULL) {
        vd_bb_open_document(bb, vd_array_name(position++, buf));
        vd_bb_begin_document(bb, "$cursor");
        append_planner(bb, explain);
        append_execution(bb, explain);
        vd_bb_close(bb);
        if (explain->executed)
            vd_bb_int64(bb, "nReturned", (int64_t)explain->facts.returned);
        vd_bb_close(bb);
    }
    for (uint32_t i = 0; i < count; i++) {
        vd_bb_open_document(bb, vd_array_name(position++, buf));
        vd_bb_concat(bb, vd_value_document(stage_spec(given, folded + i)));
        stor_spilled_t spills;
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
    stor_pipeline_context_t context = {.arena = request->arena,
                                       .request = request,
                                       .variables = &request->variables,
                                       .db = request->db};
    int rc = stor_aggregate_args(request, explain->command, true, &args, err);
    context.no_disk_use = args.no_disk_use;
    if (rc == VD_OK)
        rc = stor_read_hint(args.hint, &context.natural, err);
    if (rc == VD_OK && !vd_bson_is_empty(args.let))
        rc = stor_variables_parse_let(request->arena, args.let, &request->variables, err);
    if (rc == VD_OK && args.collection.len > 0)
        rc = stor_read_collection(request, args.collection, &context.collection_id, NULL, err);
    else
        (void)stor_request_namespace(request, VD_SLICE_LIT("$cmd.aggregate"));
    context.collection = args.collection;
    if (rc == VD_OK)
        rc = stor_pipeline_parse(&context, args.pipeline, &pipeline, err);
    if (rc == VD_OK && stor_pipeline_is_stream(pipeline))
        rc = vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "explain of $changeStream is not built");
    if (rc == VD_OK)
        rc = explain_run_pipeline(explain, pipeline, err);
    if (rc == VD_OK) {
        const stor_query_t *query = stor_pipeline_query(pipeline);
        uint32_t behind = stor_pipeline_stage_count(pipeline);
        if (query != NULL) {
            explain->spec = stor_query_spec(query);
            stor_query_facts(query, &explain->facts);
            explain->sort = head_sort(args.pipeline, vd_bson_count(args.pipeline) - behind);
            plan_nodes(explain);
            if (behind > 0) /* what the head itself gave */
                explain->delivered = explain->facts.returned;
        }
        if (query != NULL && behind == 0)
            append_all(explain);
        else
            append_stages(explain, pipeline, args.pipeline);
    }
    if (pipeline != NULL)
        stor_pipeline_release(pipeline);
    stor_pipeline_close(&pipeline);
    return rc;
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
    if (rc == VD_OK)
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
