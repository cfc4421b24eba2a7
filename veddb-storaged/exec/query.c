/* veddb-storaged/exec/query.c — see query.h. */
#include "veddb-storaged/exec/query.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/exec/planner.h"
#include "veddb-storaged/exec/topk.h"
#include "veddb-storaged/query/match.h"

#define REPLANS_MAX 8

struct stor_query {
    stor_query_spec_t spec;
    vd_arena_t *arena;
    vd_arena_t *scratch; /* rewound at every document */
    vd_arena_mark_t fresh;
    const stor_plan_t *plan;
    uint64_t budget; /* of a cached plan */
    stor_plans_t rejected;
    stor_source_t *source; /* NULL: nothing to find */
    bool gone_on;          /* the plan's assumptions no longer hold */
    bool sorting; /* the sort under way or done: a blocking one, or of keys that were cut */
    stor_topk_t *sorted;
    bool sort_done;
    stor_work_t *work, own_work;
    bool pushed_back, have_last; /* of the output */
    vd_bson_t last;
    uint64_t last_version;
    vd_bson_t last_key; /* spec.index_key */
    int64_t skip_left, returned;
    stor_query_facts_t facts;
    stor_expr_env_t env;
};

/* ---- open ---- */

static const stor_plan_node_t nothing = {.kind = STOR_PLAN_EOF, .exact = true};
static const stor_plan_t nothing_plan = {.access = &nothing};

static int plan(stor_query_t *query, stor_request_t *request, stor_planner_mode_t mode,
                vd_error_t *err)
{
    const stor_query_spec_t *spec = &query->spec;
    int rc = VD_OK;
    query->plan = &nothing_plan;
    query->rejected.count = 0;
    if (spec->trial != NULL)
        query->plan = spec->trial;
    else if (spec->collection_id != 0)
        rc = stor_planner_plan(
            query->arena, request, spec,
            spec->explain && mode == STOR_PLANNER_CACHED ? STOR_PLANNER_FRESH : mode, &query->plan,
            &query->budget, spec->explain ? &query->rejected : NULL, err);
    if (rc != VD_OK)
        return rc;
    query->sorting = query->plan->blocking_sort;
    query->gone_on = false;
    stor_source_options_t options = {.collection_id = spec->collection_id,
                                     .plan = query->plan,
                                     .sort = spec->sort,
                                     .variables = spec->variables,
                                     .writes = spec->writes,
                                     .keys_max = spec->works_max};
    return stor_source_open(query->arena, &options, &query->source, err);
}

static void release_source(void *context)
{
    stor_query_t *query = context;
    if (query->source != NULL)
        stor_source_release(query->source);
}

int stor_query_open(vd_arena_t *arena, stor_request_t *request, const stor_query_spec_t *spec,
                    stor_query_t **ret_query, vd_error_t *err)
{
    VD_ASSERT(spec->filter != NULL && spec->variables != NULL);

    stor_query_t *query = VD_ARENA_NEW(arena, stor_query_t);
    query->arena = arena;
    query->spec = *spec;
    query->skip_left = spec->skip;
    if (spec->sort != NULL && spec->sort->natural != 0)
        query->spec.natural = spec->sort->natural;
    query->work = spec->work != NULL ? spec->work : &query->own_work;
    if (spec->work == NULL) {
        stor_work_init(&query->own_work, request->storage->spill, spec->no_disk_use);
        query->own_work.before_disk = release_source;
        query->own_work.before_disk_context = query;
    }
    int rc = plan(query, request, STOR_PLANNER_CACHED, err);
    if (rc != VD_OK)
        return rc;
    query->scratch = vd_arena_create();
    query->fresh = vd_arena_mark(query->scratch);
    stor_expr_env_init(&query->env, query->scratch, spec->variables);
    *ret_query = query;
    return VD_OK;
}

static uint64_t works_of(const stor_query_t *query)
{
    const stor_source_counts_t *counts;
    uint64_t works = 0;
    for (uint32_t i = 0; (counts = stor_source_counts(query->source, i)) != NULL; i++)
        works += counts->keys + counts->documents;
    return works;
}

/* ---- the next record that matches ---- */

/* Nothing was given out yet: as if it had not begun. */
static int plan_again(stor_query_t *query, stor_request_t *request, stor_planner_mode_t mode,
                      vd_error_t *err)
{
    if (query->facts.replans >= REPLANS_MAX)
        return vd_error_set(err, VD_ERR_QUERY_PLAN_KILLED,
                            "query plan killed :: the indexes change all the time");
    uint32_t replans = query->facts.replans + 1;
    stor_source_close(&query->source);
    stor_topk_destroy(&query->sorted);
    query->facts = (stor_query_facts_t){.replans = replans};
    query->skip_left = query->spec.skip;
    return plan(query, request, mode, err);
}

static bool may_plan_again(const stor_query_t *query)
{
    return query->facts.returned == 0 && !query->have_last;
}

/* An index is gone, or has met an array. */
static int plan_killed(stor_query_t *query, stor_request_t *request, vd_error_t *step,
                       vd_error_t *err)
{
    if (may_plan_again(query) && query->spec.trial == NULL)
        return plan_again(query, request, STOR_PLANNER_FRESH, err);
    if (query->gone_on || strstr(step->message, "became multikey") == NULL) {
        vd_error_copy(step, err);
        return VD_ERR_QUERY_PLAN_KILLED;
    }
    query->gone_on = true;
    stor_source_go_on(query->source);
    return VD_OK;
}

static bool must_match(const stor_query_t *query, const stor_found_t *found)
{
    return !query->plan->access->exact || query->gone_on ||
           (query->spec.project != NULL && !found->covered && found->document.data != NULL);
}

static int next_match(stor_query_t *query, stor_request_t *request, stor_found_t *found,
                      int64_t *ret_array_position, vd_error_t *err)
{
    stor_match_t match = {
        .arena = query->scratch, .variables = query->spec.variables, .array_position = -1};
    for (;;) {
        bool matches = true;
        vd_error_t step = VD_ERROR_INIT;
        vd_arena_rewind(query->scratch, query->fresh);
        int rc = stor_source_next(query->source, request, query->scratch, found, &step);
        if (rc == VD_ERR_QUERY_PLAN_KILLED) {
            rc = plan_killed(query, request, &step, err);
            if (rc != VD_OK)
                return rc;
            continue;
        }
        match.version = found->version;
        if (rc == VD_OK && must_match(query, found))
            rc = stor_match_document(query->spec.filter, found->document, &match, &matches, &step);
        if (rc != VD_OK) {
            if (rc != VD_ERR_NOT_FOUND && err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
        if (matches) {
            query->facts.matched++;
            stor_source_taken(query->source);
            *ret_array_position = match.array_position;
            return VD_OK;
        }
        if (query->spec.works_max > 0 && works_of(query) >= query->spec.works_max)
            return vd_error_set(err, VD_ERR_FULL, "the works of a trial are over");
        if (query->budget > 0 && may_plan_again(query) && works_of(query) > query->budget) {
            rc = plan_again(query, request, STOR_PLANNER_WARY, err);
            if (rc != VD_OK)
                return rc;
        }
    }
}

/* ---- what a result looks like ---- */

/* {a: 5, "b.c": null}: the fields of the index with the entry's values; {_id: 5} where the
 * collection was walked by it. */
static int key_document(stor_query_t *query, const stor_found_t *found, vd_bson_t *ret_document,
                        vd_error_t *err)
{
    const stor_plan_node_t *access = query->plan->access;
    const stor_plan_index_t *index = access->index;
    vd_slice_t fields = found->fields, bits = found->type_bits;
    bool descending[STOR_INDEX_FIELDS_MAX + 1];
    vd_bb_t bb;
    vd_bb_init_arena(&bb, query->scratch, VD_BSON_INTERNAL_MAX_BYTES);
    if (index != NULL && !index->def->has_wildcard && found->exact) {
        stor_index_descending(index->def, descending);
        for (uint32_t i = 0; i < index->def->field_count; i++) {
            vd_value_t value;
            int rc =
                stor_keycode_decode(query->scratch, &fields, &bits, descending[i], &value, err);
            if (rc != VD_OK)
                return rc;
            if (index->def->collation_spec.len > 0)
                rc = stor_index_sort_key_shown(query->scratch, value, &value, err);
            if (rc != VD_OK)
                return rc;
            vd_bb_value(&bb, index->def->fields[i].path, value);
        }
    }
    if (access->id_bounds != NULL && !query->plan->places && found->document.data != NULL)
        vd_bb_value(&bb, VD_SLICE_LIT("_id"), vd_bson_get(found->document, "_id"));
    return vd_bb_finish(&bb, ret_document, err);
}

/* Of the document that is given next. */
static int note_key(stor_query_t *query, const stor_found_t *found, vd_error_t *err)
{
    query->last_key = VD_BSON_NONE;
    if (!query->spec.index_key)
        return VD_OK;
    int rc = key_document(query, found, &query->last_key, err);
    if (rc == VD_OK && vd_bson_is_empty(query->last_key))
        query->last_key = VD_BSON_NONE;
    return rc;
}

/* Collections are kept in the order of _id: so its key is what a record is known by. */
static int record_id_add(stor_query_t *query, vd_slice_t key, vd_bson_t *document, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, query->scratch, VD_BSON_INTERNAL_MAX_BYTES + VD_KEYCODE_MAX_BYTES + 64);
    vd_bb_concat(&bb, *document);
    vd_bb_binary(&bb, "$recordId", 0, key);
    return vd_bb_finish(&bb, document, err);
}

static int project_only(stor_query_t *query, vd_bson_t document, uint64_t version,
                        int64_t array_position, vd_bson_t *ret_document, vd_error_t *err)
{
    query->last_version = version;
    if (query->spec.project == NULL || document.data == NULL) {
        *ret_document = document;
        return VD_OK;
    }
    stor_expr_env_document(&query->env, document);
    query->env.version = version;
    query->env.index_key = query->last_key;
    return stor_project_apply(query->spec.project, &query->env, document, array_position,
                              ret_document, err);
}

static int project(stor_query_t *query, vd_bson_t document, uint64_t version,
                   int64_t array_position, vd_bson_t *ret_document, vd_error_t *err)
{
    vd_slice_t key;
    int rc = project_only(query, document, version, array_position, ret_document, err);
    if (rc != VD_OK || !query->spec.record_id || document.data == NULL)
        return rc;
    rc = stor_id_key(query->scratch, vd_bson_get(document, "_id"), &key, err);
    return rc == VD_OK ? record_id_add(query, key, ret_document, err) : rc;
}

/* ---- sorted, or as it comes ---- */

/* {d: the document, k: its key}, so that the key comes out of the sort with it. */
static int sort_add_with_key(stor_query_t *query, stor_request_t *request,
                             const stor_found_t *found, vd_error_t *err)
{
    vd_value_t *keys = VD_ARENA_ARRAY(query->scratch, vd_value_t, query->spec.sort->count + 1);
    vd_bson_t both;
    vd_bb_t bb;
    int rc = note_key(query, found, err);
    if (rc == VD_OK)
        rc = stor_sort_key(query->spec.sort, query->scratch, found->document, keys, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_init_arena(&bb, query->scratch, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_document(&bb, "d", found->document);
    if (query->last_key.len > 0)
        vd_bb_document(&bb, "k", query->last_key);
    rc = vd_bb_finish(&bb, &both, err);
    return rc == VD_OK ? stor_topk_put(query->sorted, request, keys, both, found->version, err)
                       : rc;
}

static int sort_add(stor_query_t *query, stor_request_t *request, const stor_found_t *found,
                    vd_error_t *err)
{
    query->facts.before_sort++;
    if (query->spec.index_key)
        return sort_add_with_key(query, request, found, err);
    return stor_topk_add(query->sorted, request, query->scratch, found->document, found->version,
                         err);
}

static void sort_begin(stor_query_t *query)
{
    int64_t k = 0, limit = query->spec.limit - query->returned; /* 0: all */
    if (query->spec.limit > 0 && __builtin_add_overflow(limit, query->skip_left, &k))
        k = 0;
    stor_topk_destroy(&query->sorted);
    query->sorted = stor_topk_create(query->spec.sort, (uint64_t)k, "Sort", query->work);
    query->sort_done = false;
    query->sorting = true;
}

/* Reads everything into the sort. Where a projection needs the matched array position (`a.$`) it is
 * found again at output. */
static int fill_sort(stor_query_t *query, stor_request_t *request, vd_error_t *err)
{
    stor_found_t found;
    int64_t array_position;
    int rc;
    if (query->sorted == NULL)
        sort_begin(query);
    for (;;) {
        uint32_t replans = query->facts.replans;
        rc = next_match(query, request, &found, &array_position, err);
        if (query->facts.replans != replans && rc == VD_OK && query->sorted == NULL)
            sort_begin(query);
        if (rc == VD_OK)
            rc = sort_add(query, request, &found, err);
        if (rc != VD_OK)
            break;
    }
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    if (query->sorted == NULL) /* planned anew, and nothing was found */
        sort_begin(query);
    if (query->source != NULL)
        stor_source_release(query->source);
    rc = stor_topk_finish(query->sorted, request, err);
    if (rc != VD_OK)
        return rc;
    query->facts.sorted_bytes = stor_topk_bytes(query->sorted);
    query->facts.spills = stor_topk_spilled(query->sorted).spills;
    query->facts.spilled_bytes = stor_topk_spilled(query->sorted).bytes;
    query->sort_done = true;
    request->storage->counters.scan_and_order++;
    return VD_OK;
}

static int next_sorted(stor_query_t *query, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    uint64_t version;
    bool matches;
    int rc = query->sort_done ? VD_OK : fill_sort(query, request, err);
    if (rc != VD_OK)
        return rc;
    vd_bson_t document;
    rc = stor_topk_next(query->sorted, request, &document, &version, NULL, err);
    if (rc != VD_OK)
        return rc;
    vd_arena_rewind(query->scratch, query->fresh);
    if (query->spec.index_key) {
        vd_value_t key = vd_bson_get(document, "k");
        query->last_key = key.type == VD_BSON_OBJECT ? vd_value_document(key) : VD_BSON_NONE;
        document = vd_value_document(vd_bson_get(document, "d"));
    }
    stor_match_t match = {.arena = query->scratch,
                          .variables = query->spec.variables,
                          .version = version,
                          .array_position = -1};
    if (query->spec.project != NULL && query->plan->cover == NULL)
        rc = stor_match_document(query->spec.filter, document, &match, &matches, err);
    return rc == VD_OK ? project(query, document, version, match.array_position, ret_document, err)
                       : rc;
}

static int next_streamed(stor_query_t *query, stor_request_t *request, vd_bson_t *ret_document,
                         vd_error_t *err)
{
    stor_found_t found;
    int64_t array_position = -1;
    int rc = next_match(query, request, &found, &array_position, err);
    if (rc != VD_OK)
        return rc;
    static const uint8_t empty[] = {5, 0, 0, 0, 0};
    bool ordered = query->spec.sort != NULL && query->spec.sort->count > 0;
    if (found.document.data == NULL) /* nobody looks */
        found.document = (vd_bson_t){empty, sizeof empty};
    else if (query->sorting || (ordered && found.unordered)) {
        /* Planned anew with a sort, or keys that were cut: from here on by a sort. */
        query->facts.late_sort = !query->plan->blocking_sort;
        sort_begin(query);
        rc = sort_add(query, request, &found, err);
        return rc == VD_OK ? next_sorted(query, request, ret_document, err) : rc;
    }
    if (query->spec.return_key) {
        rc = key_document(query, &found, ret_document, err);
        return rc == VD_OK && query->spec.record_id
                   ? record_id_add(query, found.key, ret_document, err)
                   : rc;
    }
    rc = note_key(query, &found, err);
    if (rc != VD_OK)
        return rc;
    return project(query, found.document, found.version, array_position, ret_document, err);
}

bool stor_query_exhausted(const stor_query_t *query)
{
    return !query->pushed_back && query->spec.limit > 0 && query->returned >= query->spec.limit;
}

int stor_query_next(stor_query_t *query, stor_request_t *request, vd_bson_t *ret_document,
                    vd_error_t *err)
{
    if (query->pushed_back) {
        query->pushed_back = false;
        query->returned++;
        *ret_document = query->last;
        return VD_OK;
    }
    if (stor_query_exhausted(query))
        return VD_ERR_NOT_FOUND;
    for (;;) {
        int rc = query->sorting ? next_sorted(query, request, &query->last, err)
                                : next_streamed(query, request, &query->last, err);
        if (rc == VD_ERR_NOT_FOUND && query->spec.collection_id != 0 && !query->spec.explain)
            stor_planner_ran(request, &query->spec, query->plan, works_of(query));
        if (rc != VD_OK)
            return rc;
        if (query->skip_left == 0)
            break;
        query->skip_left--;
        query->facts.skipped++;
    }
    query->have_last = true;
    query->returned++;
    query->facts.returned++;
    if (stor_query_exhausted(query) && query->spec.collection_id != 0 && !query->spec.explain)
        stor_planner_ran(request, &query->spec, query->plan, works_of(query));
    *ret_document = query->last;
    return VD_OK;
}

uint64_t stor_query_version(const stor_query_t *query)
{
    return query->last_version;
}

vd_bson_t stor_query_index_key(const stor_query_t *query)
{
    return query->last_key;
}

void stor_query_push_back(stor_query_t *query)
{
    VD_ASSERT(query->have_last && !query->pushed_back);
    query->pushed_back = true;
    query->returned--;
}

/* A document that waits for the next batch may stand in memory of the engine: it is kept as our
 * own. */
void stor_query_release(stor_query_t *query)
{
    if (query->pushed_back && !query->sorting && query->last.data != NULL)
        query->last.data = vd_arena_copy(query->scratch, query->last.data, query->last.len);
    stor_source_release(query->source);
}

void stor_query_close(stor_query_t **query_p)
{
    stor_query_t *query = *query_p;
    if (query == NULL)
        return;
    stor_topk_destroy(&query->sorted);
    stor_source_close(&query->source);
    vd_arena_destroy(&query->scratch);
    *query_p = NULL;
}

void stor_query_facts(const stor_query_t *query, stor_query_facts_t *ret_facts)
{
    const stor_source_counts_t *counts;
    *ret_facts = query->facts;
    ret_facts->plan = query->plan;
    ret_facts->rejected = &query->rejected;
    ret_facts->blocking_sort = query->plan->blocking_sort;
    for (uint32_t i = 0; (counts = stor_source_counts(query->source, i)) != NULL; i++) {
        ret_facts->keys_examined += counts->keys;
        ret_facts->documents_examined += counts->documents;
    }
}

const stor_source_counts_t *stor_query_counts(const stor_query_t *query, uint32_t position)
{
    return stor_source_counts(query->source, position);
}

const stor_query_spec_t *stor_query_spec(const stor_query_t *query)
{
    return &query->spec;
}

const char *stor_query_summary(const stor_query_t *query, vd_arena_t *arena)
{
    return stor_plan_summary(arena, query->plan);
}
