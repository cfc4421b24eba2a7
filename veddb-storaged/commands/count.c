/* veddb-storaged/commands/count.c — count, distinct. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/view.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/query/match.h"

typedef struct {
    stor_query_parts_t parts;
    vd_slice_t key;
    vd_bson_t collation;
} count_args_t;

static const stor_arg_t count_table[] = {
    STOR_ARG("query", STOR_ARG_DOCUMENT, count_args_t, parts.filter, 0),
    STOR_ARG("limit", STOR_ARG_INT, count_args_t, parts.limit, 0),
    STOR_ARG("skip", STOR_ARG_COUNT, count_args_t, parts.skip, 0),
    STOR_ARG("hint", STOR_ARG_VALUE, count_args_t, parts.hint, 0),
    STOR_ARG("collation", STOR_ARG_DOCUMENT, count_args_t, collation, 0),
    {"fields", STOR_ARG_IGNORED, 0, 0}, /* old drivers send it; a count returns none */
};

int stor_count_parts(stor_request_t *request, vd_bson_t body, stor_query_parts_t *ret_parts,
                     vd_error_t *err)
{
    count_args_t args = {0};
    int rc =
        stor_args_parse(body, "count", true, count_table, VD_COUNT_OF(count_table), &args, err);
    if (rc == VD_OK)
        rc = stor_read_collation(request, body, args.collation, err);
    if (rc == VD_OK && args.parts.limit == INT64_MIN)
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "Limit value for count cannot be min long");
    if (rc != VD_OK)
        return rc;
    if (args.parts.limit < 0) /* the old way to say "and no cursor" */
        args.parts.limit = -args.parts.limit;
    *ret_parts = args.parts;
    return VD_OK;
}

/* Counts matching documents with one query in the request's arena. */
static int count_matching(stor_request_t *request, const stor_query_spec_t *spec,
                          int64_t *ret_count, vd_error_t *err)
{
    stor_query_t *query = NULL;
    vd_bson_t document;
    int64_t count = 0;
    int rc = stor_query_open(request->arena, request, spec, &query, err);
    while (rc == VD_OK && (rc = stor_query_next(query, request, &document, err)) == VD_OK)
        count++;
    if (query != NULL) {
        stor_query_release(query);
        stor_read_plan_summary(request, stor_query_summary(query, request->arena));
    }
    stor_query_close(&query);
    *ret_count = count;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

int stor_run_count(stor_request_t *request, vd_error_t *err)
{
    count_args_t args = {0};
    stor_query_spec_t spec;
    stor_collection_t *collection = NULL;
    uint64_t id = 0;
    vd_slice_t name;
    int64_t n = 0;
    int rc = stor_count_parts(request, request->body, &args.parts, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_read_source(request, name, &id, &collection, err);
    if (rc == VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW) {
        vd_error_clear(err);
        return stor_view_count(request, name, &args.parts, err);
    }
    if (rc == VD_OK)
        rc = stor_read_parse(request->arena, &args.parts, &request->variables, &spec, err);
    if (rc != VD_OK)
        return rc;
    spec.collection_id = id;
    spec.count_only = true;
    if (collection != NULL && spec.filter->kind == STOR_FILTER_TRUE &&
        !stor_read_hints_index(spec.hint)) {
        stor_request_depends_newest(request);
        n = collection->documents - spec.skip;
        n = n < 0 ? 0 : n;
        if (spec.limit > 0 && n > spec.limit)
            n = spec.limit;
        stor_read_plan_summary(request, "RECORD_STORE_FAST_COUNT");
    } else if (id != 0) {
        rc = count_matching(request, &spec, &n, err);
    }
    if (rc != VD_OK)
        return rc;
    if (n <= INT32_MAX)
        vd_bb_int32(&request->reply, "n", (int32_t)n);
    else
        vd_bb_int64(&request->reply, "n", n);
    return VD_OK;
}

/* ---- distinct ---- */

static const stor_arg_t distinct_table[] = {
    STOR_ARG("key", STOR_ARG_STRING, count_args_t, key, STOR_ARG_REQUIRED),
    STOR_ARG("query", STOR_ARG_DOCUMENT, count_args_t, parts.filter, 0),
    STOR_ARG("hint", STOR_ARG_VALUE, count_args_t, parts.hint, 0),
    STOR_ARG("collation", STOR_ARG_DOCUMENT, count_args_t, collation, 0),
};

/* Values seen so far: buckets by a hash that agrees with equality across number types. */
typedef struct seen {
    struct seen *next;
    uint64_t hash;
    vd_value_t value;
} seen_t;

typedef struct {
    stor_request_t *request;
    vd_arena_t *arena;
    seen_t **buckets;
    size_t bucket_count, count, bytes;
} distinct_t;

static void distinct_grow(distinct_t *distinct)
{
    size_t count = distinct->bucket_count * 4;
    seen_t **buckets = VD_ARENA_ARRAY(distinct->arena, seen_t *, count);
    for (size_t i = 0; i < distinct->bucket_count; i++) {
        for (seen_t *seen = distinct->buckets[i], *next; seen != NULL; seen = next) {
            next = seen->next;
            seen->next = buckets[seen->hash % count];
            buckets[seen->hash % count] = seen;
        }
    }
    distinct->buckets = buckets;
    distinct->bucket_count = count;
}

static bool distinct_visit(vd_value_t value, int64_t array_position, void *context)
{
    (void)array_position; /* only the values matter */
    distinct_t *distinct = context;
    if (vd_value_is_missing(value))
        return false;
    uint64_t hash = vd_value_hash(value);
    for (const seen_t *seen = distinct->buckets[hash % distinct->bucket_count]; seen != NULL;
         seen = seen->next)
        if (seen->hash == hash && vd_value_equal(seen->value, value))
            return false;
    if (distinct->count >= distinct->bucket_count)
        distinct_grow(distinct);
    seen_t *seen = VD_ARENA_NEW(distinct->arena, seen_t);
    seen->hash = hash;
    seen->value = vd_value_copy(distinct->arena, value);
    seen->next = distinct->buckets[hash % distinct->bucket_count];
    distinct->buckets[hash % distinct->bucket_count] = seen;
    char buf[12];
    vd_slice_t name = vd_array_name((uint32_t)distinct->count++, buf);
    distinct->bytes += value.len + name.len + 2;
    vd_bb_value(&distinct->request->reply, name, value);
    return distinct->bytes > VD_BSON_DOCUMENT_MAX_BYTES;
}

/* An array at the end of the path gives its elements, not itself. */
static bool distinct_leaf(vd_value_t value, int64_t array_position, void *context)
{
    if (value.type != VD_BSON_ARRAY)
        return distinct_visit(value, array_position, context);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (vd_bson_iter_next(&iter))
        if (distinct_visit(iter.value, array_position, context))
            return true;
    return false;
}

static int distinct_args(stor_request_t *request, vd_bson_t body, count_args_t *args,
                         vd_error_t *err)
{
    int rc = stor_args_parse(body, "distinct", true, distinct_table, VD_COUNT_OF(distinct_table),
                             args, err);
    if (rc == VD_OK && memchr(args->key.data, '\0', args->key.len) != NULL)
        rc = vd_error_set(err, VD_ERR_LOCATION(31032),
                          "Key field cannot contain an embedded null byte");
    return rc == VD_OK ? stor_read_collation(request, body, args->collation, err) : rc;
}

void stor_distinct_spec(vd_arena_t *arena, const stor_path_t *path, stor_query_spec_t *spec)
{
    stor_needs_t *needs = VD_ARENA_NEW(arena, stor_needs_t);
    stor_needs_add(arena, needs, path->text);
    spec->distinct = path;
    spec->needs = needs;
}

int stor_distinct_parts(stor_request_t *request, vd_bson_t body, stor_query_parts_t *ret_parts,
                        vd_slice_t *ret_key, vd_error_t *err)
{
    count_args_t args = {0};
    int rc = distinct_args(request, body, &args, err);
    if (rc != VD_OK)
        return rc;
    *ret_parts = args.parts;
    *ret_key = args.key;
    return VD_OK;
}

static void distinct_begin(distinct_t *distinct, stor_request_t *request)
{
    *distinct = (distinct_t){.request = request, .arena = vd_arena_create(), .bucket_count = 256};
    distinct->buckets = VD_ARENA_ARRAY(distinct->arena, seen_t *, distinct->bucket_count);
    vd_bb_begin_array(&request->reply, "values");
}

static int distinct_end(distinct_t *distinct, int rc)
{
    vd_arena_destroy(&distinct->arena);
    vd_bb_close(&distinct->request->reply);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int distinct_add(distinct_t *distinct, const stor_path_t *path, vd_bson_t document,
                        vd_error_t *err)
{
    return stor_path_walk(path, document, false, distinct_leaf, distinct)
               ? vd_error_set(err, VD_ERR_LOCATION(17217), "distinct too big, 16mb cap")
               : VD_OK;
}

static int distinct_view(stor_request_t *request, vd_slice_t name, const count_args_t *args,
                         vd_error_t *err)
{
    stor_pipeline_t *pipeline = NULL;
    stor_path_t path;
    distinct_t distinct;
    vd_bson_t document;
    stor_path_split(request->arena, args->key, &path);
    int rc = stor_view_open(request, name, &args->parts, &pipeline, err);
    distinct_begin(&distinct, request);
    while (rc == VD_OK && (rc = stor_pipeline_next(pipeline, request, &document, err)) == VD_OK)
        rc = distinct_add(&distinct, &path, document, err);
    if (pipeline != NULL)
        stor_pipeline_release(pipeline);
    stor_pipeline_close(&pipeline);
    return distinct_end(&distinct, rc);
}

int stor_run_distinct(stor_request_t *request, vd_error_t *err)
{
    count_args_t args = {0};
    stor_query_spec_t spec;
    stor_query_t *query = NULL;
    stor_path_t path;
    uint64_t id = 0;
    vd_slice_t name;
    vd_bson_t document;
    int rc = distinct_args(request, request->body, &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_read_source(request, name, &id, NULL, err);
    if (rc == VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW) {
        vd_error_clear(err);
        return distinct_view(request, name, &args, err);
    }
    if (rc == VD_OK)
        rc = stor_read_parse(request->arena, &args.parts, &request->variables, &spec, err);
    if (rc != VD_OK)
        return rc;
    spec.collection_id = id;
    stor_path_split(request->arena, args.key, &path);
    stor_distinct_spec(request->arena, &path, &spec);
    distinct_t distinct;
    distinct_begin(&distinct, request);
    rc = stor_query_open(request->arena, request, &spec, &query, err);
    while (rc == VD_OK && (rc = stor_query_next(query, request, &document, err)) == VD_OK)
        rc = distinct_add(&distinct, &path, document, err);
    if (query != NULL) {
        stor_query_release(query);
        stor_read_plan_summary(request, stor_query_summary(query, request->arena));
    }
    stor_query_close(&query);
    rc = distinct_end(&distinct, rc);
    if (request->pinned_at != 0)
        vd_bb_timestamp(&request->reply, "atClusterTime", request->pinned_at);
    return rc;
}
