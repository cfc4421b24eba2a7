/* veddb-storaged/commands/delete.c — delete. */
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/write_common.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/timeseries.h"

typedef struct {
    vd_bson_t query, collation;
    vd_value_t limit, hint;
} delete_args_t;

static const stor_arg_t delete_table[] = {
    STOR_WRITE_ARGS("deletes"),
    STOR_ARG("let", STOR_ARG_DOCUMENT, stor_write_args_t, let, 0),
};

static const stor_arg_t statement_table[] = {
    STOR_ARG("q", STOR_ARG_DOCUMENT, delete_args_t, query, STOR_ARG_REQUIRED),
    STOR_ARG("limit", STOR_ARG_VALUE, delete_args_t, limit, STOR_ARG_REQUIRED),
    STOR_ARG("hint", STOR_ARG_VALUE, delete_args_t, hint, 0),
    STOR_ARG("collation", STOR_ARG_DOCUMENT, delete_args_t, collation, 0),
    {"sampleId", STOR_ARG_IGNORED, 0, 0}, /* of routers that sample queries */
};

static int statement_parse(vd_bson_t statement, delete_args_t *ret_args, vd_error_t *err)
{
    delete_args_t args = {0};
    int rc = stor_args_parse(statement, "delete.deletes", false, statement_table,
                             VD_COUNT_OF(statement_table), &args, err);
    if (rc == VD_OK && !vd_value_is_number(args.limit))
        rc = vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                          "BSON field 'delete.deletes.limit' is the wrong type '%s', expected "
                          "types '[int, decimal, double, long]'",
                          vd_bson_type_name(args.limit.type));
    if (rc != VD_OK)
        return rc;
    double limit = vd_value_as_double(args.limit);
    if (limit != 0 && limit != 1)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "The limit field in delete objects must be 0 or 1. Got %g", limit);
    *ret_args = args;
    return stor_writes_hint_form(args.hint, err);
}

int stor_delete_parts(stor_request_t *request, vd_bson_t body, stor_query_parts_t *ret_parts,
                      vd_error_t *err)
{
    stor_write_args_t command = {.ordered = true};
    vd_bson_t statement;
    delete_args_t args;
    int rc = stor_args_parse(body, "delete", true, delete_table, VD_COUNT_OF(delete_table),
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
                                          .limit = vd_value_as_double(args.limit) == 0 ? 0 : 1};
    return rc;
}

/* ---- one statement ---- */

typedef struct {
    stor_writes_t *writes;
    uint32_t index;
} delete_run_t;

static int delete_record(void *context, const stor_record_t *record, const stor_match_t *match,
                         stor_tally_t *tally, vd_error_t *err)
{
    (void)match; /* nothing is positional in a delete */
    const delete_run_t *run = context;
    stor_writes_t *writes = run->writes;
    stor_statement_result_t result = {.n = 1};
    int rc = stor_write_remove(&writes->write, record, stor_writes_statement_id(writes, run->index),
                               err);
    if (rc == VD_OK)
        rc = stor_writes_record(writes, run->index, true, &result, err);
    tally->n += rc == VD_OK;
    return rc;
}

static int delete_plan(stor_writes_t *writes, const delete_args_t *args,
                       stor_targets_spec_t *ret_spec, vd_error_t *err)
{
    stor_request_t *request = writes->request;
    stor_targets_spec_t spec = {.variables = &request->variables,
                                .hint = args->hint,
                                .multi = vd_value_as_double(args->limit) == 0};
    stor_filter_t *filter;
    if (spec.multi && request->txn_number >= 0)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Cannot use (or request) retryable writes with limit=0");
    int rc = stor_read_collation(request, request->body, args->collation, err);
    if (rc == VD_OK)
        rc = stor_filter_parse(request->arena, args->query, spec.variables, &filter, err);
    if (rc == VD_OK)
        rc = stor_read_hint(args->hint, &spec.natural, err);
    if (rc == VD_OK) {
        stor_targets_filter(&spec, request->arena, filter);
        *ret_spec = spec;
    }
    return rc;
}

static int delete_statement(stor_writes_t *writes, uint32_t index, const void *given,
                            vd_error_t *err)
{
    const delete_args_t *args = given;
    delete_run_t run = {writes, index};
    stor_statement_result_t result;
    stor_targets_spec_t spec;
    stor_tally_t tally = {0, 0};
    int rc = stor_writes_replayed(writes, index, &result, err);
    if (rc == VD_OK)
        writes->n += result.n;
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    atomic_fetch_add_explicit(&writes->request->storage->counters.remove, 1, memory_order_relaxed);
    rc = delete_plan(writes, args, &spec, err);
    if (rc == VD_OK)
        rc = stor_writes_collection(writes, false, err);
    if (rc == VD_OK && writes->collection != NULL && writes->collection->timeseries.is)
        rc = stor_timeseries_delete_check(writes->request, spec.multi, err);
    if (rc == VD_OK && writes->collection != NULL)
        rc = stor_writes_each(writes, &spec, delete_record, &run, &tally, err);
    if (rc == VD_OK && tally.n == 0)
        rc = stor_writes_record_nothing(writes, index, err);
    if (rc == VD_OK)
        writes->n += tally.n;
    return rc;
}

/* ---- the command ---- */

static int statement_parse_any(vd_bson_t statement, void *ret_args, vd_error_t *err)
{
    return statement_parse(statement, ret_args, err);
}

static const stor_writes_class_t delete_class = {.kind = STOR_WRITES_DELETE,
                                                 .name = "delete",
                                                 .field = "deletes",
                                                 .table = delete_table,
                                                 .table_count = VD_COUNT_OF(delete_table),
                                                 .args_bytes = sizeof(delete_args_t),
                                                 .parse = statement_parse_any,
                                                 .run = delete_statement};

int stor_command_delete(stor_request_t *request, vd_error_t *err)
{
    return stor_writes_command(request, &delete_class, err);
}

bool stor_point_delete(const stor_request_t *request)
{
    return stor_writes_point(request, "deletes");
}
