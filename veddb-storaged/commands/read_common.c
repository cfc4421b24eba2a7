/* veddb-storaged/commands/read_common.c — see read_common.h. */
#include "veddb-storaged/commands/read_common.h"

#include "veddb-storaged/args.h"
#include "veddb-storaged/local/local.h"
#include "veddb-storaged/plan/needs.h"

int stor_read_collection(stor_request_t *request, vd_slice_t name, uint64_t *ret_id,
                         stor_collection_t **ret_collection, vd_error_t *err)
{
    stor_collection_t *collection = NULL;
    (void)stor_request_namespace(request, name);
    int rc = stor_catalog_acquire(request, request->db, name, &collection, err);
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND) {
        vd_error_clear(err);
        stor_request_depends_newest(request);
        *ret_id = 0;
    } else if (rc == VD_OK) {
        *ret_id = collection->id;
    } else {
        return rc;
    }
    if (ret_collection != NULL)
        *ret_collection = collection;
    return VD_OK;
}

int stor_read_source(stor_request_t *request, vd_slice_t name, uint64_t *ret_id,
                     stor_collection_t **ret_collection, vd_error_t *err)
{
    uint64_t id = stor_local_find(request->storage, request->db, name);
    if (VD_LIKELY(id == 0))
        return stor_read_collection(request, name, ret_id, ret_collection, err);
    (void)stor_request_namespace(request, name);
    *ret_id = id;
    if (ret_collection != NULL)
        *ret_collection = NULL;
    return VD_OK;
}

int stor_read_again(stor_request_t *request, uint64_t id, vd_error_t *err)
{
    stor_collection_t *collection;
    if (stor_local_is(id))
        return VD_OK;
    for (uint32_t i = 0; i < request->held_count; i++)
        if (request->held[i]->id == id)
            return VD_OK;
    int rc = stor_catalog_acquire_id(request, id, &collection, err);
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND) {
        vd_error_clear(err);
        rc = vd_error_set(err, VD_ERR_LOCATION(175),
                          "collection dropped. UUID lookup failed"); /* QueryPlanKilled */
    }
    return rc;
}

int stor_read_hint(vd_value_t hint, int8_t *ret_natural, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t value;
    int64_t direction = 0;
    *ret_natural = 0;
    if (vd_value_is_nullish(hint) || hint.type == VD_BSON_STRING)
        return VD_OK;
    if (hint.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "Hint must be a string or an object");
    if (!vd_bson_first(vd_value_document(hint), &name, &value) || !vd_slice_is(name, "$natural"))
        return VD_OK;
    if (vd_bson_count(vd_value_document(hint)) != 1 || !vd_value_as_int64(value, &direction) ||
        (direction != 1 && direction != -1))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "$natural hint must be 1 or -1, and alone");
    *ret_natural = (int8_t)direction;
    return VD_OK;
}

int stor_read_collation(stor_request_t *request, vd_bson_t command, vd_bson_t given,
                        vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t value;
    bool named = vd_bson_first(command, &name, &value) && value.type == VD_BSON_STRING;
    return stor_catalog_collation_use(request, request->db,
                                      named ? vd_value_string(value) : VD_SLICE_NULL, given, err);
}

bool stor_read_hints_index(vd_value_t hint)
{
    vd_slice_t name;
    vd_value_t value;
    if (hint.type == VD_BSON_STRING)
        return !vd_slice_is(vd_value_string(hint), "_id_");
    if (hint.type != VD_BSON_OBJECT || !vd_bson_first(vd_value_document(hint), &name, &value))
        return false;
    int64_t one = 0;
    return !vd_slice_is(name, "$natural") &&
           (vd_bson_count(vd_value_document(hint)) != 1 || !vd_slice_is(name, "_id") ||
            !vd_value_as_int64(value, &one) || one != 1);
}

int stor_read_parse(vd_arena_t *arena, const stor_query_parts_t *parts, stor_variables_t *variables,
                    stor_query_spec_t *ret_spec, vd_error_t *err)
{
    stor_query_spec_t spec = {
        .variables = variables,
        .asked_filter = parts->filter,
        .asked_sort = parts->sort,
        .asked_projection = parts->projection,
        .skip = parts->skip,
        .limit = parts->limit,
        .hint = parts->hint,
        .min = parts->min,
        .max = parts->max,
        .return_key = parts->return_key,
        .index_key = stor_expr_asks_meta(vd_value_from_document(parts->projection), "indexKey"),
        .no_disk_use = parts->no_disk_use};
    stor_filter_t *filter = NULL;
    stor_sort_t *sort = NULL;
    stor_project_t *project = NULL;
    int rc = stor_read_hint(parts->hint, &spec.natural, err);
    if (rc == VD_OK && !vd_bson_is_empty(parts->let))
        rc = stor_variables_parse_let(arena, parts->let, variables, err);
    if (rc == VD_OK)
        rc = stor_filter_parse(arena, parts->filter, variables, &filter, err);
    if (rc == VD_OK && !vd_bson_is_empty(parts->sort))
        rc = stor_sort_parse(arena, parts->sort, &sort, err);
    if (rc == VD_OK && !vd_bson_is_empty(parts->projection))
        rc = stor_project_parse(arena, STOR_PROJECT_FIND, vd_value_from_document(parts->projection),
                                filter, variables, &project, err);
    if (rc != VD_OK)
        return rc;
    if (project != NULL && stor_project_is_identity(project))
        project = NULL;
    if (project != NULL) {
        stor_needs_t *needs = VD_ARENA_NEW(arena, stor_needs_t);
        stor_needs_of_projection(arena, parts->projection, needs);
        spec.needs = needs;
    }
    spec.filter = filter;
    spec.sort = sort;
    spec.project = project;
    *ret_spec = spec;
    return VD_OK;
}

int stor_read_cursor(stor_request_t *request, const stor_client_cursor_options_t *options,
                     vd_arena_t **arena_p, void *state, int64_t batch_size, uint32_t default_size,
                     bool single_batch, vd_error_t *err)
{
    stor_client_cursor_options_t copy = *options;
    copy.max_time_ms = request->command.max_time_ms; /* holds for all batches together */
    uint32_t size = batch_size < 0            ? default_size
                    : batch_size > UINT32_MAX ? UINT32_MAX
                                              : (uint32_t)batch_size;
    return stor_cursors_first(request, &copy, arena_p, state, size, single_batch, err);
}

typedef struct {
    const vd_bson_t *documents;
    uint32_t count, position;
} documents_t;

static int documents_fill(void *state, stor_request_t *request, stor_batch_t *batch, bool *ret_done,
                          vd_error_t *err)
{
    documents_t *list = state;
    int rc = stor_request_check(request, err);
    while (rc == VD_OK && list->position < list->count && !stor_batch_full(batch) &&
           stor_batch_add(batch, list->documents[list->position]))
        list->position++;
    *ret_done = list->position == list->count;
    return rc;
}

static const stor_cursor_class_t documents_class = {.fill = documents_fill};

int stor_read_documents(stor_request_t *request, vd_arena_t **arena_p, const vd_bson_t *documents,
                        uint32_t count, vd_slice_t ns, int64_t batch_size, vd_error_t *err)
{
    documents_t *list = VD_ARENA_NEW(*arena_p, documents_t);
    list->documents = documents;
    list->count = count;
    stor_client_cursor_options_t options = {
        .class = &documents_class, .ns = ns, .originating = request->body};
    return stor_read_cursor(request, &options, arena_p, list, batch_size, UINT32_MAX, false, err);
}

typedef struct {
    int64_t batch_size;
} cursor_option_t;

int stor_read_cursor_option(vd_bson_t cursor, int64_t *ret_batch_size, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("batchSize", STOR_ARG_COUNT, cursor_option_t, batch_size, 0)};
    cursor_option_t option = {.batch_size = -1};
    int rc = stor_args_parse(cursor, "cursor", false, table, VD_COUNT_OF(table), &option, err);
    if (rc == VD_OK)
        *ret_batch_size = option.batch_size;
    return rc;
}
