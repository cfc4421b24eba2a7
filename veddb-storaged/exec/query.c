/* veddb-storaged/exec/query.c — see query.h. */
#include "veddb-storaged/exec/query.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/exec/topk.h"
#include "veddb-storaged/query/match.h"

struct stor_query {
    stor_query_spec_t spec;
    vd_arena_t *scratch; /* rewound at every document */
    vd_arena_mark_t fresh;
    stor_bounds_t *bounds;
    stor_scan_t *scan;   /* NULL: nothing to find */
    stor_topk_t *sorted; /* blocking sort under way or done */
    bool sort_done;
    uint64_t sort_position;
    bool pushed_back, have_last; /* of the output */
    vd_bson_t last;
    int64_t skip_left, returned;
    stor_query_facts_t facts;
    stor_expr_env_t env;
};

static bool sort_served_by_id(const stor_sort_t *sort, bool *ret_backward)
{
    int direction = 1;
    if (sort == NULL || (sort->count == 0 && sort->natural == 0))
        return true;
    if (sort->natural != 0)
        direction = sort->natural;
    else if (!stor_sort_is_id(sort, &direction) || vd_collation_get() != NULL)
        return false;
    *ret_backward = direction < 0;
    return true;
}

static stor_access_t access_of(const stor_query_t *query)
{
    if (query->scan == NULL)
        return STOR_ACCESS_EOF;
    if (query->bounds == NULL)
        return STOR_ACCESS_COLLSCAN;
    return query->bounds->all_points && query->bounds->count == 1 ? STOR_ACCESS_IDHACK
                                                                  : STOR_ACCESS_ID_RANGE;
}

int stor_query_open(vd_arena_t *arena, stor_request_t *request, const stor_query_spec_t *spec,
                    stor_query_t **ret_query, vd_error_t *err)
{
    (void)request;
    VD_ASSERT(spec->filter != NULL && spec->variables != NULL);

    stor_query_t *query = VD_ARENA_NEW(arena, stor_query_t);
    bool backward = spec->natural < 0;
    query->spec = *spec;
    query->skip_left = spec->skip;
    query->facts.blocking_sort = !sort_served_by_id(spec->sort, &backward);
    query->facts.backward = backward;
    int rc = stor_bounds_of_filter(arena, spec->filter, &query->bounds, err);
    if (rc != VD_OK)
        return rc;
    if (spec->collection_id != 0) {
        stor_scan_options_t options = {
            .collection_id = spec->collection_id, .bounds = query->bounds, .backward = backward};
        rc = stor_scan_open(arena, &options, &query->scan, err);
        if (rc != VD_OK)
            return rc;
    }
    query->scratch = vd_arena_create();
    query->fresh = vd_arena_mark(query->scratch);
    stor_expr_env_init(&query->env, query->scratch, spec->variables);
    query->facts.access = access_of(query);
    query->facts.bounds = query->bounds;
    *ret_query = query;
    return VD_OK;
}

/* The next record that matches, in scan order. */
static int next_match(stor_query_t *query, stor_request_t *request, stor_record_t *ret_record,
                      int64_t *ret_array_position, vd_error_t *err)
{
    stor_match_t match = {.arena = query->scratch, .variables = query->spec.variables};
    if (query->scan == NULL)
        return VD_ERR_NOT_FOUND;
    for (;;) {
        bool matches = false;
        vd_arena_rewind(query->scratch, query->fresh);
        int rc = stor_scan_next(query->scan, request, ret_record, err);
        if (rc == VD_OK) {
            query->facts.documents_examined++;
            query->facts.keys_examined += query->bounds != NULL;
            match.version = ret_record->version;
            rc = stor_match_document(query->spec.filter, ret_record->document, &match, &matches,
                                     err);
        }
        if (rc != VD_OK)
            return rc;
        if (matches) {
            *ret_array_position = match.array_position;
            return VD_OK;
        }
    }
}

static int project(stor_query_t *query, vd_bson_t document, uint64_t version,
                   int64_t array_position, vd_bson_t *ret_document, vd_error_t *err)
{
    if (query->spec.project == NULL) {
        *ret_document = document;
        return VD_OK;
    }
    stor_expr_env_document(&query->env, document);
    query->env.version = version;
    return stor_project_apply(query->spec.project, &query->env, document, array_position,
                              ret_document, err);
}

/* Reads everything into the sort. Where a projection needs the matched array position (`a.$`) it is
 * found again at output. */
static int fill_sort(stor_query_t *query, stor_request_t *request, vd_error_t *err)
{
    if (query->sorted == NULL) {
        int64_t k = 0; /* all */
        if (query->spec.limit > 0 &&
            __builtin_add_overflow(query->spec.limit, query->spec.skip, &k))
            k = 0;
        query->sorted = stor_topk_create(query->spec.sort, (uint64_t)k, VD_QUERY_MEMORY_MAX_BYTES);
    }
    stor_record_t record;
    int64_t array_position;
    int rc;
    while ((rc = next_match(query, request, &record, &array_position, err)) == VD_OK) {
        query->facts.before_sort++;
        rc = stor_topk_add(query->sorted, query->scratch, record.document, record.version, err);
        if (rc != VD_OK)
            return rc;
    }
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    stor_topk_finish(query->sorted);
    query->facts.sorted_bytes = stor_topk_bytes(query->sorted);
    query->sort_done = true;
    stor_scan_release(query->scan);
    request->storage->counters.scan_and_order++;
    return VD_OK;
}

static int next_sorted(stor_query_t *query, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    uint64_t version;
    bool matches;
    int rc = query->sort_done || query->scan == NULL ? VD_OK : fill_sort(query, request, err);
    if (rc != VD_OK)
        return rc;
    vd_bson_t document;
    if (query->sorted == NULL ||
        !stor_topk_at(query->sorted, query->sort_position, &document, &version))
        return VD_ERR_NOT_FOUND;
    query->sort_position++;
    vd_arena_rewind(query->scratch, query->fresh);
    stor_match_t match = {.arena = query->scratch,
                          .variables = query->spec.variables,
                          .version = version,
                          .array_position = -1};
    if (query->spec.project != NULL)
        rc = stor_match_document(query->spec.filter, document, &match, &matches, err);
    return rc == VD_OK ? project(query, document, version, match.array_position, ret_document, err)
                       : rc;
}

static int next_streamed(stor_query_t *query, stor_request_t *request, vd_bson_t *ret_document,
                         vd_error_t *err)
{
    stor_record_t record;
    int64_t array_position = -1;
    int rc = next_match(query, request, &record, &array_position, err);
    return rc == VD_OK
               ? project(query, record.document, record.version, array_position, ret_document, err)
               : rc;
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
        int rc = query->facts.blocking_sort ? next_sorted(query, request, &query->last, err)
                                            : next_streamed(query, request, &query->last, err);
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
    *ret_document = query->last;
    return VD_OK;
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
    if (query->pushed_back && !query->facts.blocking_sort)
        query->last.data = vd_arena_copy(query->scratch, query->last.data, query->last.len);
    if (query->scan != NULL)
        stor_scan_release(query->scan);
}

void stor_query_close(stor_query_t **query_p)
{
    stor_query_t *query = *query_p;
    if (query == NULL)
        return;
    stor_topk_destroy(&query->sorted);
    if (query->scan != NULL)
        stor_scan_close(&query->scan);
    vd_arena_destroy(&query->scratch);
    *query_p = NULL;
}

void stor_query_facts(const stor_query_t *query, stor_query_facts_t *ret_facts)
{
    *ret_facts = query->facts;
}

const stor_query_spec_t *stor_query_spec(const stor_query_t *query)
{
    return &query->spec;
}

const char *stor_access_name(stor_access_t access)
{
    static const char *const names[] = {"EOF", "IDHACK", "CLUSTERED_IXSCAN", "COLLSCAN"};
    return names[access];
}
