/* veddb-storaged/commands/find.c — find, getMore, killCursors.
 *
 * A find that _id answers with one document runs in the request's arena and opens no cursor; every
 * other gets an arena of its own, which its cursor keeps when the first batch is not all. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/find_tail.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/view.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/local/local.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/query/match.h"

typedef struct {
    stor_query_parts_t parts;
    vd_slice_t collection;
    int64_t batch_size;
    bool single_batch, tailable, await_data, no_timeout, show_record_id, disk_use;
    vd_bson_t collation;
} find_args_t;

static const stor_arg_t find_table[] = {
    STOR_ARG("filter", STOR_ARG_DOCUMENT, find_args_t, parts.filter, 0),
    STOR_ARG("sort", STOR_ARG_DOCUMENT, find_args_t, parts.sort, 0),
    STOR_ARG("projection", STOR_ARG_DOCUMENT, find_args_t, parts.projection, 0),
    STOR_ARG("hint", STOR_ARG_VALUE, find_args_t, parts.hint, 0),
    STOR_ARG("skip", STOR_ARG_COUNT, find_args_t, parts.skip, 0),
    STOR_ARG("limit", STOR_ARG_COUNT, find_args_t, parts.limit, 0),
    STOR_ARG("let", STOR_ARG_DOCUMENT, find_args_t, parts.let, 0),
    STOR_ARG("batchSize", STOR_ARG_COUNT, find_args_t, batch_size, 0),
    STOR_ARG("singleBatch", STOR_ARG_BOOL, find_args_t, single_batch, 0),
    STOR_ARG("collation", STOR_ARG_DOCUMENT, find_args_t, collation, 0),
    STOR_ARG("tailable", STOR_ARG_BOOL, find_args_t, tailable, 0),
    STOR_ARG("awaitData", STOR_ARG_BOOL, find_args_t, await_data, 0),
    STOR_ARG("noCursorTimeout", STOR_ARG_BOOL, find_args_t, no_timeout, 0),
    STOR_ARG("returnKey", STOR_ARG_BOOL, find_args_t, parts.return_key, 0),
    STOR_ARG("showRecordId", STOR_ARG_BOOL, find_args_t, show_record_id, 0),
    STOR_ARG("min", STOR_ARG_DOCUMENT, find_args_t, parts.min, 0),
    STOR_ARG("max", STOR_ARG_DOCUMENT, find_args_t, parts.max, 0),
    STOR_ARG("allowDiskUse", STOR_ARG_BOOL, find_args_t, disk_use, 0),
    {"allowPartialResults", STOR_ARG_IGNORED, 0, 0}, /* speaks of shards */
    {"oplogReplay", STOR_ARG_IGNORED, 0, 0},         /* a hint since 4.4 */
};

static int find_args(stor_request_t *request, vd_bson_t body, find_args_t *args, vd_error_t *err)
{
    *args = (find_args_t){.batch_size = -1, .disk_use = true};
    int rc = stor_args_parse(body, "find", true, find_table, VD_COUNT_OF(find_table), args, err);
    args->parts.no_disk_use = !args->disk_use;
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &args->collection, err);
    if (rc == VD_OK)
        rc = stor_read_collation(request, body, args->collation, err);
    if (rc == VD_OK && args->await_data && !args->tailable)
        rc = vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                          "Cannot set 'awaitData' without also setting 'tailable'");
    return rc;
}

int stor_find_parts(stor_request_t *request, vd_bson_t body, stor_query_parts_t *ret_parts,
                    vd_error_t *err)
{
    find_args_t args;
    int rc = find_args(request, body, &args, err);
    if (rc == VD_OK)
        *ret_parts = args.parts;
    return rc;
}

/* ---- the state behind a cursor ---- */

typedef struct {
    stor_query_t *query;
    uint64_t collection_id;
} find_state_t;

static int find_fill(void *state, stor_request_t *request, stor_batch_t *batch, bool *ret_done,
                     vd_error_t *err)
{
    find_state_t *find = state;
    int rc = find->collection_id == 0 ? VD_OK : stor_read_again(request, find->collection_id, err);
    while (rc == VD_OK && !stor_batch_full(batch)) {
        vd_bson_t document;
        rc = stor_query_next(find->query, request, &document, err);
        if (rc == VD_OK && !stor_batch_add(batch, document)) {
            stor_query_push_back(find->query);
            break;
        }
    }
    *ret_done = rc == VD_ERR_NOT_FOUND || (rc == VD_OK && stor_query_exhausted(find->query));
    stor_query_release(find->query);
    stor_read_plan_summary(request, stor_query_summary(find->query, request->arena));
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static void find_close(void *state)
{
    find_state_t *find = state;
    stor_query_close(&find->query);
}

static const stor_cursor_class_t find_class = {.fill = find_fill, .close = find_close};

/* Before the snapshot: what the reply will depend on, if it may be kept. A snapshot that is older
 * sees no version that is now. */
static void version_see(stor_request_t *request, const stor_collection_t *collection,
                        vd_slice_t key)
{
    bool plain =
        request->transaction == NULL && request->pin == NULL &&
        !stor_txn_active(request->session) && !collection->is_auth &&
        (request->read_level == STOR_READ_LOCAL || request->read_level == STOR_READ_MAJORITY);
    if (plain)
        stor_versions_see(request->storage->versions, collection->table, key, &request->seen);
}

static int id_key_document(vd_arena_t *arena, vd_bson_t document, vd_bson_t *ret_key,
                           vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bb_init_arena(bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_value(bb, VD_SLICE_LIT("_id"), vd_bson_get(document, "_id"));
    return vd_bb_finish(bb, ret_key, err);
}

/* One record by its _id: no cursor, no arena of its own. *ret_done false: not of that kind. */
static int find_point(stor_request_t *request, const find_args_t *args,
                      const stor_query_spec_t *spec, stor_collection_t *collection, bool *ret_done,
                      vd_error_t *err)
{
    vd_value_t id = stor_filter_id_equality(spec->filter);
    if (collection != NULL && collection->timeseries.is)
        return VD_OK; /* many may have it */
    if (vd_value_is_missing(id) || id.type == VD_BSON_OBJECT || spec->skip > 0 ||
        args->batch_size == 0 || spec->natural != 0 || spec->return_key || spec->record_id ||
        !vd_bson_is_empty(spec->min) || !vd_bson_is_empty(spec->max) ||
        stor_read_hints_index(spec->hint))
        return VD_OK;
    stor_record_t record;
    stor_batch_t batch;
    vd_slice_t key, ns = request->ns;
    bool matches = false;
    vd_bson_t document = VD_BSON_NONE;
    stor_match_t match = {.arena = request->arena, .variables = spec->variables};
    int rc = collection == NULL ? VD_ERR_NOT_FOUND : stor_id_key(request->arena, id, &key, err);
    if (rc == VD_ERR_INVALID_ID_FIELD) { /* an array or regex: not a single key */
        vd_error_clear(err);
        return VD_OK;
    }
    if (rc == VD_OK && request->seen.epoch != 0)
        version_see(request, collection, key);
    if (rc == VD_OK)
        rc = stor_fetch(request, collection, key, &record, err);
    if (rc == VD_OK) {
        match.version = record.version;
        rc = stor_match_document(spec->filter, record.document, &match, &matches, err);
    }
    if (rc == VD_OK && matches) {
        document = record.document;
        if (spec->project != NULL) {
            stor_expr_env_t env;
            stor_expr_env_init(&env, request->arena, spec->variables);
            stor_expr_env_document(&env, record.document);
            env.version = record.version;
            if (spec->index_key)
                rc = id_key_document(request->arena, record.document, &env.index_key, err);
            if (rc == VD_OK)
                rc = stor_project_apply(spec->project, &env, record.document, match.array_position,
                                        &document, err);
        }
    }
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND)
        return rc;
    stor_read_plan_summary(request, "IDHACK");
    if (collection != NULL)
        atomic_fetch_add_explicit(&collection->id_accesses, 1, memory_order_relaxed);
    *ret_done = true;
    stor_batch_begin(&batch, request, true, 0);
    if (document.data != NULL)
        (void)stor_batch_add(&batch, document); /* the first always fits */
    else
        request->seen.slot = 0; /* only what is there is kept */
    stor_batch_end(&batch, 0, ns);
    return VD_OK;
}

static int spec_make(vd_arena_t *arena, const find_args_t *args, stor_variables_t *variables,
                     stor_query_spec_t *ret_spec, vd_error_t *err)
{
    int rc = stor_read_parse(arena, &args->parts, variables, ret_spec, err);
    if (rc == VD_OK && args->show_record_id) {
        ret_spec->record_id = true;
        ret_spec->needs = NULL;
    }
    return rc;
}

/* The same command again, in an arena that may outlive the request. Takes the arena. */
static int find_cursor(stor_request_t *request, uint64_t collection_id, vd_arena_t *arena,
                       vd_error_t *err)
{
    find_args_t args;
    stor_query_spec_t spec;
    vd_bson_t body = {vd_arena_copy(arena, request->body.data, request->body.len),
                      request->body.len};
    stor_variables_t *variables = stor_variables_copy(arena, &request->variables);
    find_state_t *find = VD_ARENA_NEW(arena, find_state_t);
    int rc = find_args(request, body, &args, err);
    if (rc == VD_OK)
        rc = spec_make(arena, &args, variables, &spec, err);
    if (rc == VD_OK) {
        spec.collection_id = find->collection_id = collection_id;
        stor_tail_options_t tail = {collection_id, args.batch_size, args.await_data,
                                    args.no_timeout};
        if (args.tailable && collection_id != 0)
            return stor_tail_open(request, &tail, &spec, body, &arena, err);
        rc = stor_query_open(arena, request, &spec, &find->query, err);
    }
    if (rc != VD_OK) {
        vd_arena_destroy(&arena);
        return rc;
    }
    stor_client_cursor_options_t options = {
        .class = &find_class,
        .ns = request->ns,
        .collection_id = collection_id,
        .no_timeout = args.no_timeout,
        .originating = body,
    };
    return stor_read_cursor(request, &options, &arena, find, args.batch_size,
                            VD_FIRST_BATCH_DOCUMENTS, args.single_batch, err);
}

int stor_run_find(stor_request_t *request, vd_error_t *err)
{
    find_args_t args;
    stor_query_spec_t spec;
    stor_collection_t *collection = NULL;
    uint64_t collection_id = 0;
    bool done = false;
    int rc = find_args(request, request->body, &args, err);
    if (rc == VD_OK)
        rc = stor_read_source(request, args.collection, &collection_id, &collection, err);
    if (rc == VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW) {
        vd_error_clear(err);
        if (args.tailable)
            return vd_error_set(err, VD_ERR_LOCATION(168),
                                "Option tailable not supported in aggregation.");
        if (args.show_record_id)
            return vd_error_set(err, VD_ERR_LOCATION(168),
                                "Option showRecordId not supported in aggregation.");
        return stor_view_find(request, args.collection, &args.parts, args.batch_size,
                              args.single_batch, err);
    }
    if (rc == VD_OK)
        rc = spec_make(request->arena, &args, &request->variables, &spec, err);
    if (rc == VD_OK && args.tailable)
        rc = stor_local_is(collection_id)
                 ? vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                                "find: tailable cursors on the database 'local' are not built; use "
                                "a change stream")
                 : stor_tail_check(request, &args.parts, args.single_batch, collection, err);
    if (rc == VD_OK && !stor_local_is(collection_id) && !args.tailable)
        rc = find_point(request, &args, &spec, collection, &done, err);
    if (rc == VD_OK && !done)
        rc = find_cursor(request, collection_id, vd_arena_create(), err);
    if (rc == VD_OK)
        request->storage->counters.query++;
    return rc;
}

/* ---- getMore ---- */

typedef struct {
    vd_value_t id;
    vd_slice_t collection;
    int64_t batch_size, max_time_ms;
} get_more_args_t;

static const stor_arg_t get_more_table[] = {
    STOR_ARG("collection", STOR_ARG_STRING, get_more_args_t, collection, STOR_ARG_REQUIRED),
    STOR_ARG("batchSize", STOR_ARG_COUNT, get_more_args_t, batch_size, 0),
    {"term", STOR_ARG_IGNORED, 0, 0},                     /* between members of a set only */
    {"lastKnownCommittedOpTime", STOR_ARG_IGNORED, 0, 0}, /* as well */
};

int stor_run_get_more(stor_request_t *request, vd_error_t *err)
{
    get_more_args_t args = {.batch_size = 0};
    vd_slice_t name;
    vd_value_t id;
    if (!vd_bson_first(request->body, &name, &id) || id.type != VD_BSON_INT64)
        return vd_error_set(
            err, VD_ERR_TYPE_MISMATCH,
            "BSON field 'getMore.getMore' is the wrong type '%s', expected type 'long'",
            vd_bson_type_name(id.type));
    int rc = stor_args_parse(request->body, "getMore", true, get_more_table,
                             VD_COUNT_OF(get_more_table), &args, err);
    if (rc == VD_OK && args.collection.len == 0)
        rc = vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Collection names cannot be empty");
    if (rc != VD_OK)
        return rc;
    request->storage->counters.getmore++;
    uint32_t size = args.batch_size > UINT32_MAX ? UINT32_MAX : (uint32_t)args.batch_size;
    return stor_cursors_more(request, vd_value_int64(id),
                             stor_request_namespace(request, args.collection), size, err);
}

/* ---- killCursors ---- */

typedef struct {
    vd_bson_t cursors;
} kill_args_t;

static const stor_arg_t kill_table[] = {
    STOR_ARG("cursors", STOR_ARG_ARRAY, kill_args_t, cursors, STOR_ARG_REQUIRED)};

int stor_run_kill_cursors(stor_request_t *request, vd_error_t *err)
{
    static const char *const names[] = {[STOR_KILL_KILLED] = "cursorsKilled",
                                        [STOR_KILL_NOT_FOUND] = "cursorsNotFound",
                                        [STOR_KILL_ALIVE] = "cursorsAlive"};
    kill_args_t args = {0};
    vd_slice_t collection, field;
    vd_value_t first;
    vd_bson_iter_t iter;
    int rc = stor_args_parse(request->body, "killCursors", true, kill_table,
                             VD_COUNT_OF(kill_table), &args, err);
    /* Cursors of no collection have names that no collection may have. */
    if (rc == VD_OK && vd_bson_first(request->body, &field, &first) &&
        first.type == VD_BSON_STRING &&
        vd_slice_starts_with(vd_value_string(first), VD_SLICE_LIT("$cmd.")))
        collection = vd_value_string(first);
    else if (rc == VD_OK)
        rc = stor_request_collection_name(request, &collection, err);
    if (rc != VD_OK)
        return rc;
    uint32_t count = vd_bson_count(args.cursors), at = 0;
    int64_t *ids = VD_ARENA_ARRAY(request->arena, int64_t, count + 1);
    stor_kill_t *results = VD_ARENA_ARRAY(request->arena, stor_kill_t, count + 1);
    vd_slice_t ns = stor_request_namespace(request, collection);
    vd_bson_iter_init(&iter, args.cursors);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_INT64)
            return vd_error_set(
                err, VD_ERR_TYPE_MISMATCH,
                "BSON field 'killCursors.cursors.%u' is the wrong type '%s', expected type 'long'",
                at, vd_bson_type_name(iter.value.type));
        ids[at++] = vd_value_int64(iter.value);
    }
    for (uint32_t i = 0; i < count; i++)
        results[i] = stor_cursors_kill(request, ids[i], ns);
    for (int kind = STOR_KILL_KILLED; kind <= STOR_KILL_ALIVE; kind++) {
        char buf[12];
        uint32_t position = 0;
        vd_bb_begin_array(&request->reply, names[kind]);
        for (uint32_t i = 0; i < count; i++)
            if (results[i] == (stor_kill_t)kind)
                vd_bb_value(&request->reply, vd_array_name(position++, buf),
                            vd_value_from_int64(request->arena, ids[i]));
        vd_bb_close(&request->reply);
    }
    vd_bb_begin_array(&request->reply, "cursorsUnknown");
    vd_bb_close(&request->reply);
    return VD_OK;
}
