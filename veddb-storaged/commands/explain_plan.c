/* veddb-storaged/commands/explain_plan.c — see explain_plan.h.
 *
 * A plan is a short chain, outermost first: what the command makes of the documents, LIMIT,
 * projection, SKIP, SORT, FETCH; below it the tree of scans. Beside MongoDB's fields the root of
 * each plan has `estimates`, by which it was chosen. */
#include "veddb-storaged/commands/explain_plan.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "veddb-storaged/exec/planner.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/query/collation.h"

typedef enum {
    NODE_TOP,
    NODE_LIMIT,
    NODE_PROJECTION,
    NODE_SKIP,
    NODE_SORT,
    NODE_FETCH,
    NODE_COUNT,
} node_t;

/* One plan as it is written; stats only of the one that ran. */
typedef struct {
    const stor_explain_t *explain;
    const stor_plan_t *plan;
    bool stats;
    node_t nodes[NODE_COUNT];
    uint32_t node_count;
    uint32_t position; /* of the next node of the tree */
} writer_t;

/* ---- the chain ---- */

static bool has_entries(const stor_plan_node_t *node)
{
    return node->kind == STOR_PLAN_IXSCAN || node->child_count > 0;
}

static void plan_nodes(writer_t *w)
{
    const stor_explain_t *explain = w->explain;
    const stor_query_spec_t *spec = explain->spec;
    const stor_plan_node_t *access = w->plan->access;
    uint32_t n = 0;
    if (explain->top != NULL && !explain->fast_count)
        w->nodes[n++] = NODE_TOP;
    if (access->kind != STOR_PLAN_EOF && !explain->fast_count) {
        bool writes = explain->top != NULL && !spec->count_only;
        if (spec->limit > 0 && !writes && !w->plan->blocking_sort) /* a sort keeps to it itself */
            w->nodes[n++] = NODE_LIMIT;
        if (spec->project != NULL || (spec->distinct != NULL && w->plan->cover != NULL))
            w->nodes[n++] = NODE_PROJECTION;
        if (spec->skip > 0)
            w->nodes[n++] = NODE_SKIP;
        if (w->plan->blocking_sort)
            w->nodes[n++] = NODE_SORT;
        if (has_entries(access) && w->plan->cover == NULL && !w->plan->keys_only &&
            !w->plan->return_key)
            w->nodes[n++] = NODE_FETCH;
    }
    w->node_count = n;
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

static const char *node_name(const writer_t *w, node_t node)
{
    static const char *const names[] = {
        [NODE_LIMIT] = "LIMIT", [NODE_SKIP] = "SKIP", [NODE_SORT] = "SORT", [NODE_FETCH] = "FETCH"};
    switch (node) {
    case NODE_TOP:
        return w->explain->top;
    case NODE_PROJECTION:
        return w->plan->cover != NULL                         ? "PROJECTION_COVERED"
               : projection_is_simple(w->explain->projection) ? "PROJECTION_SIMPLE"
                                                              : "PROJECTION_DEFAULT";
    default:
        return names[node];
    }
}

/* What the bounds of a single scan don't say; of a tree, the whole filter. NULL: nothing. */
static const stor_filter_t *residual(const writer_t *w)
{
    vd_arena_t *arena = w->explain->request->arena;
    const stor_plan_node_t *access = w->plan->access;
    const stor_filter_t *filter = w->explain->spec->filter;
    stor_predicates_t all;
    if (access->exact || filter->kind == STOR_FILTER_TRUE)
        return NULL;
    if (access->kind != STOR_PLAN_IXSCAN || access->bounds->consumed == NULL)
        return filter;
    stor_predicates_of(arena, filter, &all);
    stor_filter_t *rest = VD_ARENA_NEW(arena, stor_filter_t);
    rest->kind = STOR_FILTER_AND;
    rest->children = VD_ARENA_ARRAY(arena, stor_filter_t *, all.conjunct_count + 1);
    for (uint32_t i = 0; i < all.conjunct_count; i++)
        if (!access->bounds->consumed[i])
            rest->children[rest->child_count++] = (stor_filter_t *)all.conjuncts[i];
    return rest->child_count == 1 ? rest->children[0] : rest;
}

static int64_t added(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static void append_node_spec(vd_bb_t *bb, const writer_t *w, node_t node)
{
    const stor_explain_t *explain = w->explain;
    const stor_query_spec_t *spec = explain->spec;
    switch (node) {
    case NODE_TOP:
    case NODE_COUNT:
        break;
    case NODE_LIMIT:
        stor_facts_number(bb, "limitAmount", spec->limit);
        break;
    case NODE_PROJECTION:
        if (spec->project != NULL)
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
    case NODE_FETCH:
        if (residual(w) != NULL)
            vd_bb_document(bb, "filter", stor_filter_to_bson(explain->request->arena, residual(w)));
        break;
    }
}

/* Documents that a node gave to the one before it. */
static uint64_t node_returned(const stor_explain_t *explain, node_t node)
{
    const stor_query_facts_t *facts = &explain->facts;
    uint64_t ordered = facts->returned + facts->skipped;
    switch (node) {
    case NODE_TOP:
        return 0; /* COUNT gives a number */
    case NODE_SORT:
        return ordered;
    case NODE_FETCH:
    case NODE_COUNT:
        return facts->matched;
    default:
        return facts->returned;
    }
}

static void append_works(vd_bb_t *bb, uint64_t works, uint64_t advanced)
{
    stor_facts_number(bb, "executionTimeMillisEstimate", 0);
    stor_facts_number(bb, "works", (int64_t)works);
    stor_facts_number(bb, "advanced", (int64_t)advanced);
    stor_facts_number(bb, "needTime", (int64_t)(works > advanced ? works - advanced : 0));
    vd_bb_int32(bb, "needYield", 0);
    vd_bb_int32(bb, "saveState", 0);
    vd_bb_int32(bb, "restoreState", 0);
    vd_bb_int32(bb, "isEOF", 1);
}

static void append_node_stats(vd_bb_t *bb, const writer_t *w, node_t node)
{
    const stor_explain_t *explain = w->explain;
    const stor_query_facts_t *facts = &explain->facts;
    uint64_t returned = node_returned(explain, node);
    stor_facts_number(bb, "nReturned", (int64_t)returned);
    if (node == NODE_TOP) {
        const char *name = strcmp(explain->top, "COUNT") == 0    ? "nCounted"
                           : strcmp(explain->top, "DELETE") == 0 ? "nWouldDelete"
                                                                 : "nMatched";
        stor_facts_number(bb, name, (int64_t)explain->delivered);
    }
    if (node == NODE_SORT) {
        stor_facts_number(bb, "totalDataSizeSorted", (int64_t)facts->sorted_bytes);
        vd_bb_bool(bb, "usedDisk", facts->spills > 0);
        stor_facts_number(bb, "spills", (int64_t)facts->spills);
        stor_facts_number(bb, "spilledDataStorageSize", (int64_t)facts->spilled_bytes);
    }
    if (node == NODE_FETCH) {
        append_works(bb, facts->documents_examined, returned);
        stor_facts_number(bb, "docsExamined", (int64_t)facts->documents_examined);
        vd_bb_int32(bb, "alreadyHasObj", 0);
    }
}

/* ---- the tree of scans ---- */

static void append_bounds(vd_bb_t *bb, vd_arena_t *arena, const stor_plan_node_t *node)
{
    const stor_index_def_t *def = node->index->def;
    const stor_index_bounds_t *bounds = node->bounds;
    char buf[12];
    vd_bb_begin_document(bb, "indexBounds");
    for (uint32_t i = 0; i < bounds->code_count; i++) {
        const stor_intervals_t *list = &bounds->fields[i];
        bool turned = node->backward;
        vd_slice_t name = VD_SLICE_LIT("$_path");
        if (!def->has_wildcard || i > 0) {
            const stor_index_field_t *field = &def->fields[def->has_wildcard ? 0 : i];
            turned ^= field->order == STOR_INDEX_DESCENDING;
            name = def->has_wildcard ? VD_SLICE_LIT("$**") : field->path;
        }
        if (def->has_wildcard && i == 1 && bounds->fields[0].count > 0 &&
            bounds->fields[0].items[0].low.type == VD_BSON_STRING)
            name = vd_value_string(bounds->fields[0].items[0].low);
        vd_bb_open_array(bb, name);
        bool collated = def->collation_spec.len > 0 && !(def->has_wildcard && i == 0);
        for (uint32_t k = 0; k < list->count && k < 1000; k++) {
            const stor_interval_t *item = &list->items[turned ? list->count - 1 - k : k];
            const char *text = stor_interval_text(arena, item, collated, turned);
            vd_bb_value(bb, vd_array_name(k, buf), vd_value_from_string(arena, vd_slice_str(text)));
        }
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

static void append_scan_spec(vd_bb_t *bb, const writer_t *w, const stor_plan_node_t *node)
{
    vd_arena_t *arena = w->explain->request->arena;
    const stor_index_def_t *def = node->index->def;
    const stor_filter_t *filter = node->key_filter;
    if (w->plan->cover != NULL)
        filter = residual(w);
    if (filter != NULL)
        vd_bb_document(bb, "filter", stor_filter_to_bson(arena, filter));
    vd_bb_document(bb, "keyPattern", def->key);
    vd_bb_string(bb, "indexName", def->name);
    if (def->collation_spec.len > 0)
        vd_bb_document(bb, "collation", def->collation_spec);
    vd_bb_bool(bb, "isMultiKey", node->index->multikey != 0);
    vd_bb_begin_document(bb, "multiKeyPaths");
    for (uint32_t i = 0; i < def->field_count && !def->has_wildcard; i++) {
        vd_bb_open_array(bb, def->fields[i].path);
        if (node->index->multikey >> i & 1)
            vd_bb_string(bb, "0", def->fields[i].path);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    vd_bb_bool(bb, "isUnique", def->unique);
    vd_bb_bool(bb, "isSparse", def->sparse);
    vd_bb_bool(bb, "isPartial", def->partial != NULL);
    vd_bb_int32(bb, "indexVersion", 2);
    vd_bb_cstr(bb, "direction", node->backward ? "backward" : "forward");
    append_bounds(bb, arena, node);
}

static void append_record_spec(vd_bb_t *bb, const writer_t *w, const stor_plan_node_t *node)
{
    const stor_filter_t *filter = w->explain->spec->filter;
    if (w->plan->access == node && filter->kind != STOR_FILTER_TRUE &&
        !(node->kind == STOR_PLAN_IDHACK && filter->kind == STOR_FILTER_EQ))
        vd_bb_document(bb, "filter", stor_filter_to_bson(w->explain->request->arena, filter));
    if (node->kind != STOR_PLAN_IDHACK)
        vd_bb_cstr(bb, "direction", node->backward ? "backward" : "forward");
}

static void append_tree_stats(vd_bb_t *bb, const writer_t *w, const stor_plan_node_t *node,
                              uint32_t position)
{
    const stor_source_counts_t *counts = stor_query_counts(w->explain->query, position);
    if (counts == NULL)
        return;
    bool entries = has_entries(node);
    uint64_t works = node->kind == STOR_PLAN_IXSCAN ? counts->keys
                     : entries                      ? counts->out + counts->duplicates
                                                    : counts->documents;
    /* A filter on the collection itself is the scan's own; entries are matched when fetched. */
    uint64_t returned =
        !entries && w->plan->access == node ? node_returned(w->explain, NODE_FETCH) : counts->out;
    stor_facts_number(bb, "nReturned", (int64_t)returned);
    if (node->kind == STOR_PLAN_EOF)
        return;
    append_works(bb, works, returned);
    if (node->kind == STOR_PLAN_IXSCAN || node->id_bounds != NULL)
        stor_facts_number(bb, "keysExamined", (int64_t)counts->keys);
    if (!entries)
        stor_facts_number(bb, "docsExamined", (int64_t)counts->documents);
    if (node->kind == STOR_PLAN_IXSCAN)
        stor_facts_number(bb, "seeks", (int64_t)(counts->seeks + 1));
    if (entries) {
        stor_facts_number(bb, "dupsTested", (int64_t)(counts->out + counts->duplicates));
        stor_facts_number(bb, "dupsDropped", (int64_t)counts->duplicates);
    }
}

static void append_estimates(vd_bb_t *bb, const stor_plan_t *plan)
{
    vd_bb_begin_document(bb, "estimates");
    vd_bb_double(bb, "cost", plan->cost);
    vd_bb_double(bb, "keysExamined", plan->access->keys);
    vd_bb_double(bb, "docsExamined", plan->access->documents);
    vd_bb_double(bb, "nReturned", plan->returned);
    vd_bb_close(bb);
}

static void append_tree(vd_bb_t *bb, writer_t *w, const stor_plan_node_t *node)
{
    uint32_t position = w->position++;
    char buf[12];
    const char *name = stor_plan_kind_name(node->kind);
    if (node->kind == STOR_PLAN_IXSCAN && w->plan->keys_only && w->explain->top != NULL)
        name = "COUNT_SCAN";
    if (node->kind == STOR_PLAN_IXSCAN && w->plan->distinct_codes > 0)
        name = "DISTINCT_SCAN";
    vd_bb_cstr(bb, "stage", name);
    if (node->kind == STOR_PLAN_IXSCAN)
        append_scan_spec(bb, w, node);
    else if (node->kind == STOR_PLAN_SORT_MERGE)
        vd_bb_document(bb, "sortPattern", w->explain->sort);
    else if (node->kind != STOR_PLAN_EOF && node->child_count == 0)
        append_record_spec(bb, w, node);
    if (w->stats)
        append_tree_stats(bb, w, node, position);
    if (node->child_count == 0)
        return;
    vd_bb_begin_array(bb, "inputStages");
    for (uint32_t i = 0; i < node->child_count; i++) {
        vd_bb_open_document(bb, vd_array_name(i, buf));
        append_tree(bb, w, node->children[i]);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

static void append_plan(vd_bb_t *bb, const stor_explain_t *explain, const stor_plan_t *plan,
                        vd_slice_t name, bool stats)
{
    writer_t w = {.explain = explain, .plan = plan, .stats = stats};
    plan_nodes(&w);
    vd_bb_open_document(bb, name);
    if (plan != explain->facts.plan)
        append_estimates(bb, plan);
    for (uint32_t i = 0; i < w.node_count; i++) {
        if (i > 0)
            vd_bb_begin_document(bb, "inputStage");
        vd_bb_cstr(bb, "stage", node_name(&w, w.nodes[i]));
        append_node_spec(bb, &w, w.nodes[i]);
        if (stats)
            append_node_stats(bb, &w, w.nodes[i]);
    }
    if (w.node_count > 0)
        vd_bb_begin_document(bb, "inputStage");
    if (explain->fast_count)
        vd_bb_cstr(bb, "stage", "RECORD_STORE_FAST_COUNT");
    else
        append_tree(bb, &w, plan->access);
    for (uint32_t i = 0; i < w.node_count + (w.node_count == 0); i++)
        vd_bb_close(bb);
    if (w.node_count > 0)
        vd_bb_close(bb);
}

/* ---- sections ---- */

static void append_hashes(vd_bb_t *bb, const stor_explain_t *explain)
{
    stor_plan_hashes_t hashes;
    stor_planner_hashes(stor_planner_shape(explain->spec), explain->facts.plan->signature, &hashes);
    vd_bb_cstr(bb, "queryHash", hashes.query);
    vd_bb_cstr(bb, "planCacheKey", hashes.key);
}

void stor_explain_planner(vd_bb_t *bb, const stor_explain_t *explain)
{
    const stor_plans_t *rejected = explain->facts.rejected;
    char buf[12];
    vd_bb_begin_document(bb, "queryPlanner");
    vd_bb_string(bb, "namespace", explain->request->ns);
    stor_planner_t *planner = explain->request->storage->planner;
    vd_bb_bool(bb, "indexFilterSet",
               planner != NULL && stor_plan_filters_has(stor_planner_filters(planner),
                                                        explain->spec->collection_id,
                                                        stor_planner_filter_shape(explain->spec)));
    vd_bb_document(bb, "parsedQuery",
                   stor_filter_to_bson(explain->request->arena, explain->spec->filter));
    if (stor_collation_spec().len > 0)
        vd_bb_document(bb, "collation", stor_collation_spec());
    append_hashes(bb, explain);
    vd_bb_bool(bb, "maxIndexedOrSolutionsReached", false);
    vd_bb_bool(bb, "maxIndexedAndSolutionsReached", false);
    vd_bb_bool(bb, "maxScansToExplodeReached", false);
    append_plan(bb, explain, explain->facts.plan, VD_SLICE_LIT("winningPlan"), false);
    if (!explain->fast_count)
        append_estimates(bb, explain->facts.plan);
    vd_bb_begin_array(bb, "rejectedPlans");
    for (uint32_t i = 0; i < rejected->count && !explain->fast_count; i++)
        append_plan(bb, explain, rejected->items[i], vd_array_name(i, buf), false);
    vd_bb_close(bb);
    vd_bb_close(bb);
}

/* ---- trials ---- */

struct stor_trial {
    stor_query_t *query;
    uint64_t results, us;
    bool ended; /* it gave all that it has */
};

static int trial_run(const stor_explain_t *explain, const stor_plan_t *plan,
                     struct stor_trial *trial, vd_error_t *err)
{
    stor_request_t *request = explain->request;
    stor_query_spec_t spec = *explain->spec;
    uint64_t started = vd_monotonic_us();
    vd_error_t step = VD_ERROR_INIT;
    vd_bson_t document;
    spec.trial = plan;
    spec.works_max = STOR_TRIAL_WORKS_MAX;
    spec.work = NULL;
    int rc = stor_query_open(request->arena, request, &spec, &trial->query, err);
    if (rc != VD_OK)
        return rc;
    while (trial->results < STOR_TRIAL_RESULTS_MAX &&
           (rc = stor_query_next(trial->query, request, &document, &step)) == VD_OK)
        trial->results++;
    stor_query_release(trial->query);
    trial->us = vd_monotonic_us() - started;
    trial->ended = rc == VD_ERR_NOT_FOUND;
    /* An index that went meanwhile, or a sort that needs the disk, ends the trial, too. */
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND || rc == VD_ERR_FULL ||
        rc == VD_ERR_QUERY_PLAN_KILLED || rc == VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE)
        return VD_OK;
    vd_error_copy(&step, err);
    return rc;
}

int stor_explain_trials(stor_explain_t *explain, vd_error_t *err)
{
    const stor_plans_t *rejected = explain->facts.rejected;
    if (explain->verbosity != STOR_EXPLAIN_ALL_PLANS || rejected->count == 0 ||
        explain->fast_count || explain->spec->collection_id == 0)
        return VD_OK;
    struct stor_trial *trials =
        VD_ARENA_ARRAY(explain->request->arena, struct stor_trial, rejected->count + 1);
    memset(trials, 0, (rejected->count + 1) * sizeof *trials);
    explain->trials = trials;
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < rejected->count + 1; i++) {
        explain->trial_count = i + 1;
        rc = trial_run(explain, i == 0 ? explain->facts.plan : rejected->items[i - 1], &trials[i],
                       err);
    }
    return rc;
}

void stor_explain_trials_end(stor_explain_t *explain)
{
    for (uint32_t i = 0; i < explain->trial_count; i++) {
        stor_query_t *query = explain->trials[i].query;
        stor_query_close(&query);
    }
    explain->trial_count = 0;
}

static void append_all_plans(vd_bb_t *bb, const stor_explain_t *explain)
{
    char buf[12];
    vd_bb_begin_array(bb, "allPlansExecution");
    for (uint32_t i = 0; i < explain->trial_count; i++) {
        const struct stor_trial *trial = &explain->trials[i];
        stor_explain_t as = *explain; /* the trial as if it had been the query */
        as.query = trial->query;
        stor_query_facts(trial->query, &as.facts);
        as.delivered = trial->results;
        vd_bb_open_document(bb, vd_array_name(i, buf));
        stor_facts_number(bb, "nReturned", explain->top != NULL ? 0 : (int64_t)trial->results);
        stor_facts_number(bb, "executionTimeMillisEstimate", (int64_t)(trial->us / 1000));
        stor_facts_number(bb, "totalKeysExamined", (int64_t)as.facts.keys_examined);
        stor_facts_number(bb, "totalDocsExamined", (int64_t)as.facts.documents_examined);
        vd_bb_bool(bb, "isEOF", trial->ended);
        append_estimates(bb, as.facts.plan);
        append_plan(bb, &as, as.facts.plan, VD_SLICE_LIT("executionStages"), true);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

void stor_explain_execution(vd_bb_t *bb, const stor_explain_t *explain)
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
    if (!explain->fast_count)
        append_estimates(bb, explain->facts.plan);
    append_plan(bb, explain, explain->facts.plan, VD_SLICE_LIT("executionStages"), true);
    if (explain->verbosity == STOR_EXPLAIN_ALL_PLANS)
        append_all_plans(bb, explain);
    vd_bb_close(bb);
}
