/* veddb-storaged/pipeline/stage_graph.c — $graphLookup: follows connections through a collection,
 * breadth first, one query for each depth.
 *
 * What was found is kept by _id until the document is given out, and the values to look for next:
 * both count against the query's memory. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/pipeline/sources.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/query/expr.h"

/* A set of values; found documents stand under their _id. */
typedef struct entry {
    struct entry *in_bucket, *next; /* next: order of arrival */
    uint64_t hash;
    vd_value_t key;
    vd_bson_t document;
} entry_t;

typedef struct {
    vd_arena_t *arena;
    entry_t **buckets, *first, **tail;
    size_t bucket_count, count;
} set_t;

typedef struct {
    stor_stage_t stage;
    stor_pipeline_context_t context;
    stor_sub_t sub;
    vd_slice_t from;
    stor_path_t as, connect_from, connect_to, depth_field;
    bool has_depth_field;
    int64_t depth_max; /* -1: none */
    stor_expr_t *start;
    vd_bson_t restriction; /* NONE = none */
    /* $unwind done here */
    bool unwinds, keep_empty;
    vd_slice_t index_field;
    /* of one document */
    vd_arena_t *search, *step, *out;
    stor_pipeline_t *pipeline;
    set_t visited, frontier;
    size_t taken;
    vd_bson_t document;
    bool inside;
    entry_t *next;
    int64_t index;
} graph_t;

/* ---- sets ---- */

static void set_init(set_t *set, vd_arena_t *arena)
{
    *set = (set_t){.arena = arena, .bucket_count = 64};
    set->buckets = VD_ARENA_ARRAY(arena, entry_t *, set->bucket_count);
    set->tail = &set->first;
}

static entry_t *set_find(const set_t *set, vd_value_t key, uint64_t hash)
{
    entry_t *entry = set->buckets[hash % set->bucket_count];
    while (entry != NULL && (entry->hash != hash || !vd_value_equal(entry->key, key)))
        entry = entry->in_bucket;
    return entry;
}

static void set_grow(set_t *set)
{
    size_t count = set->bucket_count * 4;
    entry_t **buckets = VD_ARENA_ARRAY(set->arena, entry_t *, count);
    for (entry_t *entry = set->first; entry != NULL; entry = entry->next) {
        entry->in_bucket = buckets[entry->hash % count];
        buckets[entry->hash % count] = entry;
    }
    set->buckets = buckets;
    set->bucket_count = count;
}

/* NULL: it is there already. The key is copied. */
static entry_t *set_add(set_t *set, vd_value_t key)
{
    uint64_t hash = vd_value_hash(key);
    if (set_find(set, key, hash) != NULL)
        return NULL;
    if (set->count++ >= set->bucket_count)
        set_grow(set);
    entry_t *entry = VD_ARENA_NEW(set->arena, entry_t);
    entry->hash = hash;
    entry->key = vd_value_copy(set->arena, key);
    entry->in_bucket = set->buckets[hash % set->bucket_count];
    set->buckets[hash % set->bucket_count] = entry;
    *set->tail = entry;
    set->tail = &entry->next;
    return entry;
}

/* ---- parse ---- */

static int depth_parse(graph_t *graph, vd_value_t value, vd_error_t *err)
{
    if (!vd_value_is_number(value))
        return vd_error_set(err, VD_ERR_LOCATION(40100), "maxDepth must be numeric, found type: %s",
                            vd_bson_type_name(value.type));
    if (vd_value_as_double(value) < 0)
        return vd_error_set(err, VD_ERR_LOCATION(40101),
                            "maxDepth requires a nonnegative argument, found: %s",
                            vd_value_to_json(graph->context.arena, value, 40));
    if (!vd_value_as_int64(value, &graph->depth_max))
        return vd_error_set(err, VD_ERR_LOCATION(40102),
                            "maxDepth could not be represented as a long long: %s",
                            vd_value_to_json(graph->context.arena, value, 40));
    return VD_OK;
}

static int restriction_parse(graph_t *graph, vd_value_t value, vd_error_t *err)
{
    stor_filter_t *filter;
    if (value.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40185),
                            "restrictSearchWithMatch must be an object, found %s",
                            vd_bson_type_name(value.type));
    graph->restriction = vd_value_document(value);
    return stor_filter_parse(graph->context.arena, graph->restriction, graph->context.variables,
                             &filter, err);
}

static int graph_option(graph_t *graph, vd_slice_t name, vd_value_t value, vd_error_t *err)
{
    vd_arena_t *arena = graph->context.arena;
    if (vd_slice_is(name, "startWith"))
        return stor_expr_parse(arena, value, graph->context.variables, &graph->start, err);
    if (vd_slice_is(name, "maxDepth"))
        return depth_parse(graph, value, err);
    if (vd_slice_is(name, "restrictSearchWithMatch"))
        return restriction_parse(graph, value, err);
    const struct {
        const char *name;
        stor_path_t *path;
    } paths[] = {{"as", &graph->as},
                 {"connectFromField", &graph->connect_from},
                 {"connectToField", &graph->connect_to},
                 {"depthField", &graph->depth_field}};
    size_t i = 0;
    while (i < VD_COUNT_OF(paths) && !vd_slice_is(name, paths[i].name))
        i++;
    if (i == VD_COUNT_OF(paths) && !vd_slice_is(name, "from"))
        return vd_error_set(err, VD_ERR_LOCATION(40104), "Unknown argument to $graphLookup: %.*s",
                            VD_SLICE_FMT(name));
    if (value.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(40103),
                            "expected string as argument for %.*s, found: %s", VD_SLICE_FMT(name),
                            vd_bson_type_name(value.type));
    if (i == VD_COUNT_OF(paths)) {
        int rc = stor_stage_once(graph->from.data != NULL, "$graphLookup", name, err);
        graph->from = vd_value_string(value);
        return rc;
    }
    graph->has_depth_field |= paths[i].path == &graph->depth_field;
    return vd_value_string(value).len == 0 && paths[i].path != &graph->depth_field
               ? VD_OK /* as if it were missing */
               : stor_stage_field_path(arena, vd_value_string(value), paths[i].path, err);
}

static int graph_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    graph_t *graph = VD_ARENA_NEW(context->arena, graph_t);
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "the $graphLookup stage specification must be an object, but found %s",
                            vd_bson_type_name(spec.type));
    graph->context = *context;
    graph->depth_max = -1;
    vd_value_t from = vd_bson_get(vd_value_document(spec), "from");
    if (vd_value_is_missing(from))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "missing 'from' option to $graphLookup stage specification: %s",
                            vd_value_to_json(context->arena, spec, 200));
    if (from.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$graphLookup 'from' field must be a string, but found %s",
                            vd_bson_type_name(from.type));
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = graph_option(graph, iter.name, iter.value, err);
    if (rc != VD_OK)
        return rc;
    if (graph->from.len == 0 || graph->as.count == 0 || graph->start == NULL ||
        graph->connect_from.count == 0 || graph->connect_to.count == 0)
        return vd_error_set(err, VD_ERR_LOCATION(40105),
                            "$graphLookup requires 'from', 'as', 'startWith', 'connectFromField', "
                            "and 'connectToField' to be specified.");
    graph->sub = stor_sub(context, STOR_INSIDE_LOOKUP, graph->from);
    *ret_stage = &graph->stage;
    return VD_OK;
}

bool stor_stage_graph_fold(stor_stage_t *stage, const stor_unwind_facts_t *unwind)
{
    graph_t *graph = (graph_t *)stage;
    if (graph->unwinds || !vd_slice_equal(unwind->path, graph->as.text))
        return false;
    graph->unwinds = true;
    graph->keep_empty = unwind->keep_empty;
    graph->index_field = unwind->index_field;
    return true;
}

vd_slice_t stor_stage_graph_as(const stor_stage_t *stage)
{
    return ((const graph_t *)stage)->as.text;
}

/* ---- the search ---- */

static int too_much(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_LOCATION(40099),
                        "$graphLookup reached maximum memory consumption");
}

static int take(graph_t *graph, size_t bytes, vd_error_t *err)
{
    if (stor_memory_take(graph->context.sources, bytes, "$graphLookup", NULL) != VD_OK)
        return too_much(err);
    graph->taken += bytes;
    return VD_OK;
}

static void give_back(graph_t *graph)
{
    stor_memory_give(graph->context.sources, graph->taken);
    graph->taken = 0;
}

static bool frontier_add(vd_value_t value, void *context)
{
    graph_t *graph = context;
    if (!vd_value_is_missing(value))
        (void)set_add(&graph->frontier, value);
    return false;
}

/* {$and: [restriction, {to: {$in: frontier}}, ...]}: null is not to find what has no such field. */
static int step_filter(graph_t *graph, vd_bson_t *ret_stages, vd_error_t *err)
{
    vd_arena_t *arena = graph->step;
    vd_value_t *values = VD_ARENA_ARRAY(arena, vd_value_t, graph->frontier.count);
    uint32_t count = 0;
    bool null = false;
    vd_bson_t equality;
    vd_bb_t bb;
    for (entry_t *entry = graph->frontier.first; entry != NULL; entry = entry->next) {
        null |= vd_value_is_nullish(entry->key);
        values[count++] = entry->key.type == VD_BSON_UNDEFINED ? vd_value_from_null() : entry->key;
    }
    int rc = stor_stage_equality(arena, graph->connect_to.text, values, count, &equality, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_init_arena(&bb, arena, 3 * VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_begin_document(&bb, "0");
    vd_bb_begin_document(&bb, "$match");
    vd_bb_begin_array(&bb, "$and");
    vd_bb_document(&bb, "0", equality);
    if (graph->restriction.data != NULL)
        vd_bb_document(&bb, "1", graph->restriction);
    if (null) {
        vd_bb_begin_document(&bb, graph->restriction.data != NULL ? "2" : "1");
        vd_bb_open_document(&bb, graph->connect_to.text);
        vd_bb_bool(&bb, "$exists", true);
        vd_bb_close(&bb);
        vd_bb_close(&bb);
    }
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    return vd_bb_finish(&bb, ret_stages, err);
}

/* *ret_new: it was not there before. */
static int visit(graph_t *graph, vd_bson_t document, int64_t depth, bool *ret_new, vd_error_t *err)
{
    vd_value_t id = vd_bson_get(document, "_id");
    if (vd_value_is_missing(id))
        return vd_error_set(err, VD_ERR_LOCATION(40271),
                            "Documents in the '%.*s.%.*s' namespace must contain an _id for "
                            "de-duplication in $graphLookup",
                            VD_SLICE_FMT(graph->context.db), VD_SLICE_FMT(graph->from));
    entry_t *entry = set_add(&graph->visited, id);
    *ret_new = entry != NULL;
    if (entry == NULL)
        return VD_OK;
    if (graph->has_depth_field) {
        vd_bb_t bb;
        vd_bb_init_arena(&bb, graph->search, VD_BSON_INTERNAL_MAX_BYTES);
        stor_stage_put(&bb, &graph->depth_field, 0, document,
                       vd_value_from_int64(graph->search, depth));
        int rc = vd_bb_finish(&bb, &entry->document, err);
        if (rc != VD_OK)
            return rc;
    } else {
        entry->document =
            (vd_bson_t){vd_arena_copy(graph->search, document.data, document.len), document.len};
    }
    size_t before = vd_arena_used(graph->frontier.arena);
    (void)stor_stage_values(&graph->connect_from, entry->document, frontier_add, graph);
    return take(
        graph,
        entry->document.len + sizeof *entry + (vd_arena_used(graph->frontier.arena) - before), err);
}

/* One depth: everything that the frontier leads to, and the next frontier. */
static int search_step(graph_t *graph, stor_request_t *request, int64_t depth, bool *ret_more,
                       vd_error_t *err)
{
    vd_bson_t stages, document;
    *ret_more = false;
    stor_stage_rest(&graph->stage);
    vd_arena_reset(graph->step);
    int rc = step_filter(graph, &stages, err);
    if (rc == VD_OK)
        rc = stor_sub_open(&graph->sub, graph->step, request, graph->context.variables, stages,
                           &graph->pipeline, err);
    set_init(&graph->frontier, graph->search);
    while (rc == VD_OK &&
           (rc = stor_pipeline_next(graph->pipeline, request, &document, err)) == VD_OK) {
        bool is_new;
        rc = visit(graph, document, depth, &is_new, err);
        *ret_more |= rc == VD_OK && is_new;
    }
    if (graph->pipeline != NULL)
        stor_pipeline_release(graph->pipeline);
    stor_pipeline_close(&graph->pipeline);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int search(graph_t *graph, stor_request_t *request, vd_error_t *err)
{
    stor_expr_env_t env;
    vd_value_t start;
    bool more = true;
    set_init(&graph->visited, graph->search);
    set_init(&graph->frontier, graph->search);
    stor_expr_env_init(&env, graph->search, graph->context.variables);
    stor_expr_env_document(&env, graph->document);
    int rc = stor_expr_eval(graph->start, &env, &start, err);
    if (rc != VD_OK)
        return rc;
    if (start.type == VD_BSON_ARRAY) {
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(start));
        while (vd_bson_iter_next(&iter))
            (void)frontier_add(iter.value, graph);
    } else {
        (void)frontier_add(start, graph);
    }
    for (int64_t depth = 0; rc == VD_OK && more && graph->frontier.count > 0 &&
                            (graph->depth_max < 0 || depth <= graph->depth_max);
         depth++) {
        rc = stor_request_check(request, err);
        if (rc == VD_OK)
            rc = search_step(graph, request, depth, &more, err);
    }
    return rc;
}

/* ---- output ---- */

static int take_document(graph_t *graph, stor_request_t *request, vd_error_t *err)
{
    vd_bson_t document;
    int rc = stor_stage_pull(&graph->stage, request, &document, err);
    if (rc != VD_OK)
        return rc;
    give_back(graph);
    vd_arena_reset(graph->search);
    graph->document =
        (vd_bson_t){vd_arena_copy(graph->search, document.data, document.len), document.len};
    rc = search(graph, request, err);
    graph->next = graph->visited.first;
    graph->index = 0;
    return rc;
}

static int give_array(graph_t *graph, vd_bson_t *ret_document, vd_error_t *err)
{
    vd_bb_t array, bb;
    vd_bson_t all;
    char buf[12];
    uint32_t position = 0;
    vd_bb_init_arena(&array, graph->out, (size_t)VD_QUERY_MEMORY_MAX_BYTES * 2);
    for (entry_t *entry = graph->next; entry != NULL; entry = entry->next)
        vd_bb_value(&array, vd_array_name(position++, buf),
                    vd_value_from_document(entry->document));
    int rc = vd_bb_finish(&array, &all, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_init_arena(&bb, graph->out, VD_BSON_INTERNAL_MAX_BYTES);
    stor_stage_put(&bb, &graph->as, 0, graph->document, vd_value_from_array(all));
    return vd_bb_finish(&bb, ret_document, err);
}

static int give_one(graph_t *graph, vd_bson_t *ret_document, vd_error_t *err)
{
    vd_bb_t bb;
    entry_t *entry = graph->next;
    vd_bb_init_arena(&bb, graph->out, VD_BSON_INTERNAL_MAX_BYTES);
    if (entry == NULL)
        stor_stage_remove(&bb, &graph->as, 0, graph->document);
    else
        stor_stage_put(&bb, &graph->as, 0, graph->document,
                       vd_value_from_document(entry->document));
    int rc = vd_bb_finish(&bb, ret_document, err);
    if (rc == VD_OK && graph->index_field.len > 0) {
        stor_path_t path;
        stor_path_split(graph->out, graph->index_field, &path);
        vd_bb_init_arena(&bb, graph->out, VD_BSON_INTERNAL_MAX_BYTES);
        stor_stage_put(&bb, &path, 0, *ret_document,
                       entry == NULL ? vd_value_from_null()
                                     : vd_value_from_int64(graph->out, graph->index));
        rc = vd_bb_finish(&bb, ret_document, err);
    }
    graph->index++;
    if (entry != NULL)
        graph->next = entry->next;
    return rc;
}

static int graph_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    graph_t *graph = (graph_t *)stage;
    int rc = VD_OK;
    if (graph->search == NULL) {
        graph->search = vd_arena_create();
        graph->step = vd_arena_create();
        graph->out = vd_arena_create();
    }
    vd_arena_reset(graph->out);
    if (!graph->unwinds) {
        rc = take_document(graph, request, err);
        return rc == VD_OK ? give_array(graph, ret_document, err) : rc;
    }
    for (;;) {
        if (!graph->inside) {
            rc = take_document(graph, request, err);
            if (rc != VD_OK)
                return rc;
            graph->inside = true;
            if (graph->next == NULL && graph->keep_empty) {
                graph->inside = false;
                return give_one(graph, ret_document, err);
            }
        }
        if (graph->next != NULL)
            return give_one(graph, ret_document, err);
        graph->inside = false;
    }
}

static void graph_close(stor_stage_t *stage)
{
    graph_t *graph = (graph_t *)stage;
    stor_pipeline_close(&graph->pipeline);
    give_back(graph);
    vd_arena_destroy(&graph->search);
    vd_arena_destroy(&graph->step);
    vd_arena_destroy(&graph->out);
}

const stor_stage_class_t stor_stage_graph_lookup = {
    .name = "$graphLookup", .parse = graph_parse, .next = graph_next, .close = graph_close};
