/* veddb-storaged/commands/update.c — update; and what findAndModify shares with it: one document
 * changed or inserted. */
#include "libcommon/bson/compare.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/write_common.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/timeseries.h"

#define SEARCHES_MAX 1000 /* an _id that comes and goes each time: somebody else's fault */

static const stor_arg_t update_table[] = {
    STOR_WRITE_ARGS("updates"),
    STOR_ARG("let", STOR_ARG_DOCUMENT, stor_write_args_t, let, 0),
};

static const stor_arg_t statement_table[] = {
    STOR_ARG("q", STOR_ARG_DOCUMENT, stor_update_args_t, query, STOR_ARG_REQUIRED),
    STOR_ARG("u", STOR_ARG_VALUE, stor_update_args_t, update, STOR_ARG_REQUIRED),
    STOR_ARG("c", STOR_ARG_DOCUMENT, stor_update_args_t, constants, 0),
    STOR_ARG("multi", STOR_ARG_BOOL, stor_update_args_t, multi, 0),
    STOR_ARG("upsert", STOR_ARG_BOOL, stor_update_args_t, upsert, 0),
    STOR_ARG("arrayFilters", STOR_ARG_ARRAY, stor_update_args_t, array_filters, 0),
    STOR_ARG("hint", STOR_ARG_VALUE, stor_update_args_t, hint, 0),
    STOR_ARG("collation", STOR_ARG_DOCUMENT, stor_update_args_t, collation, 0),
    {"upsertSupplied", STOR_ARG_REFUSED, 0, 0},
    {"sampleId", STOR_ARG_IGNORED, 0, 0}, /* of routers that sample queries */
};

static int statement_parse(vd_bson_t statement, stor_update_args_t *ret_args, vd_error_t *err)
{
    stor_update_args_t args = {0};
    int rc = stor_args_parse(statement, "update.updates", false, statement_table,
                             VD_COUNT_OF(statement_table), &args, err);
    if (rc == VD_OK && args.update.type != VD_BSON_OBJECT && args.update.type != VD_BSON_ARRAY)
        rc = vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                          "Update argument must be either an object or an array");
    if (rc == VD_OK)
        rc = stor_writes_hint_form(args.hint, err);
    if (rc == VD_OK)
        *ret_args = args;
    return rc;
}

int stor_update_parts(stor_request_t *request, vd_bson_t body, stor_query_parts_t *ret_parts,
                      vd_error_t *err)
{
    stor_write_args_t command = {.ordered = true};
    vd_bson_t statement;
    stor_update_args_t args;
    int rc = stor_args_parse(body, "update", true, update_table, VD_COUNT_OF(update_table),
                             &command, err);
    if (rc == VD_OK)
        rc = stor_writes_only_statement(command.list, &statement, err);
    if (rc == VD_OK)
        rc = statement_parse(statement, &args, err);
    if (rc == VD_OK)
        rc = stor_read_collation(request, body, args.collation, err);
    if (rc == VD_OK)
        *ret_parts = (stor_query_parts_t){.filter = args.query,
                                          .let = command.let,
                                          .hint = args.hint,
                                          .limit = args.multi ? 0 : 1};
    return rc;
}

/* ---- one statement, parsed ---- */

/* `c` are plain values that a pipeline names like variables of `let`. */
static int constants_read(stor_request_t *request, const stor_update_args_t *args,
                          const stor_variables_t **ret_variables, vd_error_t *err)
{
    vd_arena_t *arena = request->arena;
    if (args->constants.data == NULL)
        return VD_OK;
    if (args->update.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(51198),
                            "Constant values may only be specified for pipeline updates");
    vd_bb_t bb;
    vd_bson_t let;
    vd_bson_iter_t iter;
    vd_bb_init_arena(&bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bson_iter_init(&iter, args->constants);
    while (vd_bson_iter_next(&iter)) {
        vd_bb_open_document(&bb, iter.name);
        vd_bb_value(&bb, VD_SLICE_LIT("$literal"), iter.value);
        vd_bb_close(&bb);
    }
    stor_variables_t *variables = stor_variables_copy(arena, &request->variables);
    int rc = vd_bb_finish(&bb, &let, err);
    if (rc == VD_OK)
        rc = stor_variables_parse_let(arena, let, variables, err);
    if (rc == VD_OK)
        *ret_variables = variables;
    return rc;
}

int stor_update_prepare(stor_writes_t *writes, const stor_update_args_t *args,
                        stor_update_plan_t *ret_plan, vd_error_t *err)
{
    stor_request_t *request = writes->request;
    const stor_variables_t *variables = &request->variables;
    stor_update_plan_t plan = {.upsert = args->upsert, .bypass = writes->args.bypass};
    stor_update_t *update;
    stor_filter_t *filter;
    if (args->multi && request->txn_number >= 0)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Cannot use (or request) retryable writes with multi=true");
    int rc = stor_read_collation(request, request->body, args->collation, err);
    if (rc == VD_OK)
        rc = constants_read(request, args, &variables, err);
    if (rc != VD_OK)
        return rc;
    stor_update_options_t options = {.update = args->update,
                                     .array_filters = args->array_filters,
                                     .multi = args->multi,
                                     .upsert = args->upsert,
                                     .variables = variables};
    rc = stor_update_parse(request->arena, &options, &update, err);
    if (rc == VD_OK)
        rc = stor_filter_parse(request->arena, args->query, &request->variables, &filter, err);
    if (rc == VD_OK)
        rc = stor_read_hint(args->hint, &plan.targets.natural, err);
    if (rc != VD_OK)
        return rc;
    plan.update = update;
    plan.filter = filter;
    stor_targets_filter(&plan.targets, request->arena, filter);
    plan.targets.updates = true;
    plan.targets.upsert = args->upsert;
    plan.targets.variables = &request->variables;
    plan.targets.multi = args->multi;
    plan.targets.hint = args->hint;
    *ret_plan = plan;
    return VD_OK;
}

/* ---- one document ---- */

static int write_changed(stor_update_run_t *run, const stor_record_t *record, vd_bson_t after,
                         vd_error_t *err)
{
    stor_writes_t *writes = run->writes;
    const stor_update_t *update = run->plan->update;
    int32_t statement = stor_writes_statement_id(writes, run->index);
    /* A delta goes by names of fields, and a stored measurement has two _id. */
    if (stor_update_kind(update) == STOR_UPDATE_REPLACE || writes->collection->timeseries.is)
        return stor_write_replace(&writes->write, record, after, statement, err);
    return stor_write_update(&writes->write, record, after, stor_update_scope(update), statement,
                             err);
}

static int image_update(stor_update_run_t *run, const stor_record_t *record, vd_bson_t after,
                        bool changed, int64_t array_position, stor_statement_result_t *result,
                        vd_error_t *err)
{
    stor_image_t old = {record->document, record->version};
    stor_image_t new = {after, changed ? stor_write_version(&run->writes->write) : record->version};
    return run->image(run->image_context, old, new, array_position, result, err);
}

int stor_update_record(void *context, const stor_record_t *record, const stor_match_t *match,
                       stor_tally_t *tally, vd_error_t *err)
{
    stor_update_run_t *run = context;
    stor_writes_t *writes = run->writes;
    stor_statement_result_t result = {.n = 1, .updated_existing = true};
    vd_bson_t after;
    bool changed = false;
    int rc = stor_update_apply(run->plan->update, writes->request->arena, record->document, match,
                               &after, &changed, err);
    if (rc == VD_OK && changed)
        rc = stor_write_validate(&writes->write, after, &record->document, run->plan->bypass, err);
    if (rc == VD_OK && run->image != NULL) /* first: record is gone after the change */
        rc = image_update(run, record, after, changed, match->array_position, &result, err);
    if (rc == VD_OK && changed)
        rc = write_changed(run, record, after, err);
    result.n_modified = changed;
    if (rc == VD_OK)
        rc = stor_writes_record(writes, run->index, changed, &result, err);
    if (rc == VD_OK) {
        tally->n++;
        tally->n_modified += changed;
    }
    return rc;
}

static int insert_try(stor_update_run_t *run, vd_error_t *err)
{
    stor_writes_t *writes = run->writes;
    vd_arena_t *arena = writes->request->arena;
    stor_statement_result_t result = {.n = 1};
    vd_bson_t document;
    vd_slice_t key;
    int rc = stor_write_begin(&writes->write, err);
    if (rc == VD_OK)
        rc = stor_update_upsert(run->plan->update, arena, run->plan->filter, &document, err);
    if (rc == VD_OK)
        rc = stor_write_validate(&writes->write, document, NULL, run->plan->bypass, err);
    if (rc != VD_OK)
        return rc;
    result.upserted = vd_bson_get(document, "_id");
    rc = stor_id_key(arena, result.upserted, &key, err);
    if (rc == VD_OK && run->image != NULL)
        rc = run->image(run->image_context, (stor_image_t){0},
                        (stor_image_t){document, stor_write_version(&writes->write)}, -1, &result,
                        err);
    if (rc == VD_OK)
        rc = stor_write_insert(&writes->write, key, document,
                               stor_writes_statement_id(writes, run->index), err);
    if (rc == VD_OK)
        rc = stor_writes_record(writes, run->index, true, &result, err);
    if (rc == VD_OK)
        rc = stor_writes_commit(writes, err);
    if (rc == VD_OK)
        run->upserted = result.upserted;
    return rc;
}

int stor_update_insert(stor_update_run_t *run, vd_error_t *err)
{
    stor_writes_t *writes = run->writes;
    vd_arena_t *arena = writes->request->arena;
    int rc = stor_writes_collection(writes, true, err);
    if (rc == VD_OK && writes->collection->timeseries.is)
        rc = vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                          "Cannot perform an upsert on a time-series collection");
    while (rc == VD_OK) {
        vd_arena_mark_t mark = vd_arena_mark(arena);
        vd_error_t step = VD_ERROR_INIT;
        rc = insert_try(run, &step);
        if (rc == VD_OK)
            return rc;
        stor_writes_undo(writes);
        if (rc == VD_ERR_WRITE_CONFLICT)
            vd_arena_rewind(arena, mark);
        rc = stor_writes_again(writes, rc, &step);
        if (rc != VD_OK)
            vd_error_copy(&step, err);
    }
    return rc;
}

/* The key that is there twice, and how many of its fields the filter pins to just these values. */
typedef struct {
    vd_bson_t key;
    uint32_t pinned;
} pinned_t;

static int pinned_visit(const stor_path_t *path, vd_value_t value, void *context)
{
    pinned_t *pinned = context;
    vd_value_t is = vd_bson_get_slice(pinned->key, path->text);
    pinned->pinned += is.type != VD_BSON_MISSING && vd_value_equal(is, value);
    return VD_OK;
}

/* Somebody else has inserted, just now, what the filter asks for by _id or by another unique key.
 */
static bool asks_for_it(const stor_update_plan_t *plan, const vd_error_t *err)
{
    vd_bson_t details;
    bool by_id = !vd_value_is_missing(stor_filter_id_equality(plan->filter));
    if (err == NULL || err->details.len == 0 || vd_bson_peek(err->details, &details, NULL) != VD_OK)
        return by_id;
    vd_value_t key = vd_bson_get(details, "keyValue");
    if (key.type != VD_BSON_OBJECT)
        return by_id;
    if (by_id && vd_bson_get(vd_value_document(key), "_id").type != VD_BSON_MISSING)
        return true; /* not of another unique key that its new document has */
    pinned_t pinned = {.key = vd_value_document(key)};
    return stor_filter_equalities(plan->filter, pinned_visit, &pinned) == VD_OK &&
           pinned.pinned > 0 && pinned.pinned == vd_bson_count(pinned.key);
}

bool stor_update_search_again(const stor_update_plan_t *plan, int rc, uint32_t tries,
                              const vd_error_t *err)
{
    if (rc != VD_ERR_DUPLICATE_KEY || !asks_for_it(plan, err))
        return false;
    /* With other conditions the document may be there and not match: then it is a true duplicate.
     */
    return tries < (plan->filter->kind == STOR_FILTER_EQ ? SEARCHES_MAX : 1);
}

/* ---- one statement ---- */

static int update_run(stor_update_run_t *run, const stor_update_args_t *args, stor_tally_t *tally,
                      vd_error_t *err)
{
    stor_writes_t *writes = run->writes;
    const stor_update_plan_t *plan = run->plan;
    for (uint32_t tries = 0;; tries++) {
        int rc = stor_writes_collection(writes, false, err);
        if (rc == VD_OK && writes->collection != NULL && writes->collection->timeseries.is)
            rc = stor_timeseries_update_check(writes->request, &writes->collection->timeseries,
                                              args->query, args->update, args->multi, args->upsert,
                                              err);
        if (rc == VD_OK && writes->collection != NULL)
            rc = stor_writes_each(writes, &plan->targets, stor_update_record, run, tally, err);
        if (rc != VD_OK || tally->n > 0 || !plan->upsert)
            return rc;
        rc = stor_update_insert(run, err);
        if (rc == VD_OK || writes->request->transaction != NULL ||
            !stor_update_search_again(plan, rc, tries, err))
            return rc;
        vd_error_clear(err);
    }
}

static void update_replay(stor_writes_t *writes, uint32_t index,
                          const stor_statement_result_t *result)
{
    writes->n += result->n;
    writes->n_modified += result->n_modified;
    if (!vd_value_is_missing(result->upserted))
        stor_writes_note_upserted(writes, index, result->upserted);
}

static int update_statement(stor_writes_t *writes, uint32_t index, const void *given,
                            vd_error_t *err)
{
    const stor_update_args_t *args = given;
    stor_statement_result_t result;
    stor_update_plan_t plan;
    stor_tally_t tally = {0, 0};
    stor_update_run_t run = {.writes = writes, .plan = &plan, .index = index};
    int rc = stor_writes_replayed(writes, index, &result, err);
    if (rc == VD_OK)
        update_replay(writes, index, &result);
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    atomic_fetch_add_explicit(&writes->request->storage->counters.update, 1, memory_order_relaxed);
    rc = stor_update_prepare(writes, args, &plan, err);
    if (rc == VD_OK)
        rc = update_run(&run, args, &tally, err);
    bool inserted = !vd_value_is_missing(run.upserted);
    if (rc == VD_OK && tally.n == 0 && !inserted)
        rc = stor_writes_record_nothing(writes, index, err);
    if (rc != VD_OK)
        return rc;
    writes->n += tally.n + inserted;
    writes->n_modified += tally.n_modified;
    if (inserted)
        stor_writes_note_upserted(writes, index, run.upserted);
    return VD_OK;
}

/* ---- the command ---- */

static int statement_parse_any(vd_bson_t statement, void *ret_args, vd_error_t *err)
{
    return statement_parse(statement, ret_args, err);
}

static const stor_writes_class_t update_class = {.kind = STOR_WRITES_UPDATE,
                                                 .name = "update",
                                                 .field = "updates",
                                                 .table = update_table,
                                                 .table_count = VD_COUNT_OF(update_table),
                                                 .args_bytes = sizeof(stor_update_args_t),
                                                 .parse = statement_parse_any,
                                                 .run = update_statement};

int stor_command_update(stor_request_t *request, vd_error_t *err)
{
    return stor_writes_command(request, &update_class, err);
}

bool stor_point_update(const stor_request_t *request)
{
    return stor_writes_point(request, "updates");
}
