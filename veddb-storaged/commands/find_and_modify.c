/* veddb-storaged/commands/find_and_modify.c — findAndModify.
 *
 * The document that is returned is made inside the transaction, projection and all: it is what a
 * retried command gets again, and a projection that fails leaves nothing changed. */
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/write_common.h"
#include "veddb-storaged/query/collation.h"

typedef struct {
    stor_write_args_t command;
    stor_update_args_t update;
    vd_bson_t sort, fields;
    bool remove, return_new;
} modify_args_t;

static const stor_arg_t modify_table[] = {
    STOR_ARG("query", STOR_ARG_DOCUMENT, modify_args_t, update.query, 0),
    STOR_ARG("sort", STOR_ARG_DOCUMENT, modify_args_t, sort, 0),
    STOR_ARG("remove", STOR_ARG_BOOL, modify_args_t, remove, 0),
    STOR_ARG("update", STOR_ARG_VALUE, modify_args_t, update.update, 0),
    STOR_ARG("new", STOR_ARG_BOOL, modify_args_t, return_new, 0),
    STOR_ARG("fields", STOR_ARG_DOCUMENT, modify_args_t, fields, 0),
    STOR_ARG("upsert", STOR_ARG_BOOL, modify_args_t, update.upsert, 0),
    STOR_ARG("arrayFilters", STOR_ARG_ARRAY, modify_args_t, update.array_filters, 0),
    STOR_ARG("hint", STOR_ARG_VALUE, modify_args_t, update.hint, 0),
    STOR_ARG("collation", STOR_ARG_DOCUMENT, modify_args_t, update.collation, 0),
    STOR_ARG("let", STOR_ARG_DOCUMENT, modify_args_t, command.let, 0),
    STOR_ARG("bypassDocumentValidation", STOR_ARG_BOOL, modify_args_t, command.bypass, 0),
    STOR_ARG("stmtId", STOR_ARG_VALUE, modify_args_t, command.stmt_id, 0),
    {"encryptionInformation", STOR_ARG_REFUSED, 0, 0},
    {"collectionUUID", STOR_ARG_REFUSED, 0, 0},
    {"sampleId", STOR_ARG_IGNORED, 0, 0}, /* of routers that sample queries */
};

static const stor_writes_class_t modify_class = {.kind = STOR_WRITES_FIND_AND_MODIFY,
                                                 .name = "findAndModify"};

static int remove_check(const modify_args_t *args, bool updates, vd_error_t *err)
{
    if (updates)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Cannot specify both an update and remove=true");
    if (args->update.upsert)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Cannot specify both upsert=true and remove=true ");
    if (args->return_new)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Cannot specify both new=true and remove=true; 'remove' always returns "
                            "the deleted document");
    if (args->update.array_filters.data != NULL)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Cannot specify arrayFilters and remove=true");
    return VD_OK;
}

static int args_check(const modify_args_t *args, vd_error_t *err)
{
    uint8_t type = args->update.update.type;
    bool updates = !vd_value_is_nullish(args->update.update);
    int rc = stor_writes_hint_form(args->update.hint, err);
    if (rc != VD_OK)
        return rc;
    if (updates && type != VD_BSON_OBJECT && type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Update argument must be either an object or an array");
    if (args->remove)
        return remove_check(args, updates, err);
    if (!updates)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Either an update or remove=true must be specified");
    if (type == VD_BSON_ARRAY && args->update.array_filters.data != NULL)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Cannot specify arrayFilters and a pipeline update");
    return VD_OK;
}

static int modify_args(vd_bson_t body, modify_args_t *ret_args, vd_error_t *err)
{
    *ret_args = (modify_args_t){.command = {.ordered = true}};
    int rc = stor_args_parse(body, "findAndModify", true, modify_table, VD_COUNT_OF(modify_table),
                             ret_args, err);
    return rc == VD_OK ? args_check(ret_args, err) : rc;
}

int stor_find_and_modify_parts(stor_request_t *request, vd_bson_t body,
                               stor_query_parts_t *ret_parts, bool *ret_remove, vd_error_t *err)
{
    modify_args_t args;
    int rc = modify_args(body, &args, err);
    if (rc == VD_OK)
        rc = stor_read_collation(request, body, args.update.collation, err);
    if (rc != VD_OK)
        return rc;
    *ret_parts = (stor_query_parts_t){.filter = args.update.query,
                                      .sort = args.sort,
                                      .let = args.command.let,
                                      .hint = args.update.hint,
                                      .limit = 1};
    *ret_remove = args.remove;
    return VD_OK;
}

/* ---- one document ---- */

typedef struct {
    stor_writes_t *writes;
    const modify_args_t *args;
    stor_update_plan_t plan;
    stor_update_run_t run;
    stor_sort_t *sort;       /* NULL: none, or the order of the scan serves it */
    stor_project_t *project; /* NULL: all */
    vd_bson_t expected;      /* the document that the sort chose; NONE: any that matches */
    stor_statement_result_t result;
} modify_t;

/* Chooses, projects and keeps the document that is returned. */
static int modify_image(void *context, stor_image_t before, stor_image_t after,
                        int64_t array_position, stor_statement_result_t *result, vd_error_t *err)
{
    modify_t *modify = context;
    stor_request_t *request = modify->writes->request;
    const stor_image_t *image = modify->args->return_new ? &after : &before;
    vd_bson_t document = image->document;
    int rc = VD_OK;
    if (document.data != NULL && modify->project != NULL) {
        stor_expr_env_t env;
        stor_expr_env_init(&env, request->arena, &request->variables);
        stor_expr_env_document(&env, document);
        env.version = image->version;
        rc = stor_project_apply(modify->project, &env, document, array_position, &document, err);
    }
    if (rc != VD_OK)
        return rc;
    if (document.data != NULL) {
        result->value =
            (vd_bson_t){vd_arena_copy(request->arena, document.data, document.len), document.len};
        result->has_value = true;
    }
    modify->result = *result;
    return VD_OK;
}

static int remove_record(modify_t *modify, const stor_record_t *record, const stor_match_t *match,
                         stor_tally_t *tally, vd_error_t *err)
{
    stor_writes_t *writes = modify->writes;
    stor_statement_result_t result = {.n = 1};
    int rc = modify_image(modify, (stor_image_t){record->document, record->version},
                          (stor_image_t){0}, match->array_position, &result, err);
    if (rc == VD_OK)
        rc = stor_write_remove(&writes->write, record, stor_writes_statement_id(writes, 0), err);
    if (rc == VD_OK)
        rc = stor_writes_record(writes, 0, true, &result, err);
    tally->n += rc == VD_OK;
    return rc;
}

static int modify_record(void *context, const stor_record_t *record, const stor_match_t *match,
                         stor_tally_t *tally, vd_error_t *err)
{
    modify_t *modify = context;
    vd_bson_t is = record->document, expected = modify->expected;
    if (expected.data != NULL &&
        (is.len != expected.len || memcmp(is.data, expected.data, is.len) != 0))
        return VD_OK; /* changed since it was chosen: the sort chooses again */
    return modify->args->remove ? remove_record(modify, record, match, tally, err)
                                : stor_update_record(&modify->run, record, match, tally, err);
}

/* ---- which document ---- */

/* The first by the sort; VD_ERR_NOT_FOUND. */
static int sorted_choose(modify_t *modify, vd_bson_t *ret_document, vd_error_t *err)
{
    stor_request_t *request = modify->writes->request;
    stor_query_spec_t spec = {.collection_id = modify->writes->collection->id,
                              .filter = modify->plan.filter,
                              .sort = modify->sort,
                              .variables = &request->variables,
                              .natural = modify->plan.targets.natural,
                              .hint = modify->plan.targets.hint,
                              .limit = 1};
    stor_query_t *query = NULL;
    vd_bson_t document;
    int rc = stor_query_open(request->arena, request, &spec, &query, err);
    if (rc == VD_OK)
        rc = stor_query_next(query, request, &document, err);
    if (query != NULL) {
        stor_query_facts_t facts;
        stor_query_facts(query, &facts);
        stor_read_plan_summary(request, stor_plan_kind_name(facts.plan->access->kind));
    }
    if (rc == VD_OK)
        *ret_document =
            (vd_bson_t){vd_arena_copy(request->arena, document.data, document.len), document.len};
    if (query != NULL)
        stor_query_release(query);
    stor_query_close(&query);
    return rc;
}

static int sorted_run(modify_t *modify, stor_tally_t *tally, vd_error_t *err)
{
    vd_arena_t *arena = modify->writes->request->arena;
    int allowed = stor_writes_cas(modify->writes, &modify->plan.targets, err);
    if (allowed != VD_OK)
        return allowed;
    for (;;) {
        vd_arena_mark_t mark = vd_arena_mark(arena);
        vd_slice_t key;
        int rc = sorted_choose(modify, &modify->expected, err);
        if (rc == VD_ERR_NOT_FOUND)
            return stor_writes_stale(modify->writes, &modify->plan.targets, err);
        if (rc == VD_OK)
            rc = stor_id_key(arena, vd_bson_get(modify->expected, "_id"), &key, err);
        if (rc == VD_OK)
            rc = stor_writes_key(modify->writes, &modify->plan.targets, key, modify_record, modify,
                                 tally, err);
        if (rc != VD_OK || tally->n > 0)
            return rc;
        vd_arena_rewind(arena, mark);
        rc = stor_request_check(modify->writes->request, err);
        if (rc != VD_OK)
            return rc;
    }
}

static int modify_run(modify_t *modify, vd_error_t *err)
{
    stor_writes_t *writes = modify->writes;
    const stor_update_plan_t *plan = &modify->plan;
    for (uint32_t tries = 0;; tries++) {
        stor_tally_t tally = {0, 0};
        int rc = VD_OK;
        if (writes->collection != NULL)
            rc = modify->sort != NULL
                     ? sorted_run(modify, &tally, err)
                     : stor_writes_each(writes, &plan->targets, modify_record, modify, &tally, err);
        if (rc != VD_OK || tally.n > 0)
            return rc;
        modify->result = (stor_statement_result_t){0}; /* of a try that was undone */
        if (!plan->upsert)
            return VD_OK;
        rc = stor_update_insert(&modify->run, err);
        if (rc == VD_OK || writes->request->transaction != NULL ||
            !stor_update_search_again(plan, rc, tries, err))
            return rc;
        vd_error_clear(err);
    }
}

/* ---- the plan ---- */

static int remove_plan(modify_t *modify, vd_error_t *err)
{
    stor_request_t *request = modify->writes->request;
    const stor_update_args_t *args = &modify->args->update;
    stor_update_plan_t *plan = &modify->plan;
    stor_filter_t *filter;
    int rc = stor_read_collation(request, request->body, args->collation, err);
    if (rc == VD_OK)
        rc = stor_filter_parse(request->arena, args->query, &request->variables, &filter, err);
    if (rc == VD_OK)
        rc = stor_read_hint(args->hint, &plan->targets.natural, err);
    if (rc == VD_OK) {
        plan->filter = filter;
        stor_targets_filter(&plan->targets, request->arena, filter);
        plan->targets.variables = &request->variables;
        plan->targets.hint = args->hint;
    }
    return rc;
}

/* With _id pinned there is nothing to sort. */
static int sort_plan(modify_t *modify, vd_error_t *err)
{
    vd_arena_t *arena = modify->writes->request->arena;
    stor_sort_t *sort;
    vd_slice_t key;
    if (vd_bson_is_empty(modify->args->sort))
        return VD_OK;
    int rc = stor_sort_parse(arena, modify->args->sort, &sort, err);
    if (rc == VD_OK)
        rc = stor_writes_point_key(arena, modify->plan.filter, &key, err);
    if (rc != VD_OK || key.len > 0)
        return rc;
    if (sort->count == 0)
        modify->plan.targets.natural = sort->natural;
    else
        modify->sort = sort;
    return VD_OK;
}

static int modify_plan(modify_t *modify, vd_error_t *err)
{
    stor_writes_t *writes = modify->writes;
    stor_request_t *request = writes->request;
    const modify_args_t *args = modify->args;
    int rc = stor_writes_let(writes, err);
    if (rc == VD_OK)
        rc = args->remove ? remove_plan(modify, err)
                          : stor_update_prepare(writes, &args->update, &modify->plan, err);
    if (rc == VD_OK)
        rc = sort_plan(modify, err);
    if (rc == VD_OK && !vd_bson_is_empty(args->fields))
        rc = stor_project_parse(request->arena, STOR_PROJECT_FIND,
                                vd_value_from_document(args->fields), modify->plan.filter,
                                &request->variables, &modify->project, err);
    if (modify->project != NULL && stor_project_is_identity(modify->project))
        modify->project = NULL;
    modify->run = (stor_update_run_t){
        .writes = writes, .plan = &modify->plan, .image = modify_image, .image_context = modify};
    return rc;
}

/* ---- the command ---- */

static void modify_reply(const modify_t *modify)
{
    stor_writes_t *writes = modify->writes;
    const stor_statement_result_t *result = &modify->result;
    vd_bb_t *reply = &writes->request->reply;
    vd_bb_begin_document(reply, "lastErrorObject");
    vd_bb_int32(reply, "n", result->n);
    if (!modify->args->remove)
        vd_bb_bool(reply, "updatedExisting", result->updated_existing);
    vd_bb_value(reply, VD_SLICE_LIT("upserted"), result->upserted);
    vd_bb_close(reply);
    if (result->has_value)
        vd_bb_document(reply, "value", result->value);
    else
        vd_bb_null(reply, "value");
    if (writes->retried_count > 0)
        vd_bb_int32(reply, "retriedStmtId", stor_writes_statement_id(writes, 0));
    writes->request->documents_returned += result->has_value;
}

static int modify_command(modify_t *modify, vd_error_t *err)
{
    stor_writes_t *writes = modify->writes;
    int rc = stor_writes_single(writes, &modify->args->command, err);
    if (rc == VD_OK)
        rc = stor_writes_start(writes, err);
    if (rc == VD_OK)
        rc = stor_writes_replayed(writes, 0, &modify->result, err);
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    if (writes->collection != NULL && writes->collection->timeseries.is)
        return vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW,
                            "findAndModify not supported for time-series collections: %s",
                            writes->collection->ns);
    rc = modify_plan(modify, err);
    return rc == VD_OK ? modify_run(modify, err) : rc;
}

int stor_command_find_and_modify(stor_request_t *request, vd_error_t *err)
{
    modify_args_t args;
    stor_writes_t writes;
    modify_t modify = {.writes = &writes, .args = &args};
    stor_writes_init(&writes, request, &modify_class);
    int rc = modify_args(request->body, &args, err);
    if (rc == VD_OK)
        rc = modify_command(&modify, err);
    if (rc == VD_OK)
        modify_reply(&modify);
    stor_writes_done(&writes);
    return rc;
}

bool stor_point_find_and_modify(const stor_request_t *request)
{
    return stor_point_by_filter(request, "query");
}
