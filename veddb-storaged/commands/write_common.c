/* veddb-storaged/commands/write_common.c — see write_common.h. */
#include "veddb-storaged/commands/write_common.h"

#include "libcommon/base/clock.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/commands/metrics.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/transactions.h"

#define MESSAGES_MAX_BYTES (1024 * 1024) /* of errmsg; later errors have an empty one */
#define MESSAGES_MIN       2             /* that many are told in any case */
#define POINT_LOOK_MAX     100           /* statements that the I/O thread looks at */
#define YIELD_EVERY        64            /* statements */
#define OWN_CODES_FIRST    90001         /* error_codes.def */
#define OWN_CODES_LAST     90099

/* ---- arguments ---- */

void stor_writes_init(stor_writes_t *writes, stor_request_t *request,
                      const stor_writes_class_t *class)
{
    memset(writes, 0, sizeof *writes);
    writes->request = request;
    writes->class = class;
    writes->args.ordered = true;
    stor_write_init(&writes->write, request, NULL);
}

void stor_writes_done(stor_writes_t *writes)
{
    stor_collection_t *collection = writes->collection;
    if (collection != NULL) {
        uint64_t us = vd_monotonic_us() - writes->request->started_us;
        stor_metrics_traffic(writes->request->entry, collection, us);
    }
    stor_write_done(&writes->write);
    vd_bb_done(&writes->errors);
    vd_bb_done(&writes->upserted);
    vd_bb_done(&writes->retried);
}

static int statement_size(vd_arena_t *arena, vd_bson_t document, vd_error_t *err)
{
    vd_slice_t name = VD_SLICE_NULL;
    vd_value_t first = VD_VALUE_MISSING;
    if (VD_LIKELY(document.len <= VD_BSON_INTERNAL_MAX_BYTES))
        return VD_OK;
    (void)vd_bson_first(document, &name, &first); /* it is too long to be empty */
    return vd_error_set(err, VD_ERR_BSON_OBJECT_TOO_LARGE,
                        "BSONObj size: %u (0x%X) is invalid. Size must be between 0 and "
                        "%d(16MB) First element: %.*s: %s",
                        document.len, document.len, VD_BSON_INTERNAL_MAX_BYTES, VD_SLICE_FMT(name),
                        vd_value_to_json(arena, first, 100));
}

static int statements_of_sequence(stor_writes_t *writes, const vdp_sequence_t *sequence,
                                  vd_bson_t *statements, vd_error_t *err)
{
    size_t position = 0;
    for (uint32_t i = 0; i < writes->count; i++) {
        bool more = vdp_sequence_next(sequence, &position, &statements[i]);
        VD_ASSERT(more); /* counted when the message was parsed */
        int rc = statement_size(writes->request->arena, statements[i], err);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

static int statements_of_array(stor_writes_t *writes, vd_bson_t *statements, vd_error_t *err)
{
    const stor_writes_class_t *class = writes->class;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, writes->args.list);
    for (uint32_t i = 0; vd_bson_iter_next(&iter); i++) {
        if (iter.value.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "BSON field '%s.%s.%u' is the wrong type '%s', expected type "
                                "'object'",
                                class->name, class->field, i, vd_bson_type_name(iter.value.type));
        statements[i] = vd_value_document(iter.value);
    }
    return VD_OK;
}

static int sequence_find(const stor_writes_t *writes, const vdp_sequence_t **ret_sequence,
                         vd_error_t *err)
{
    const vdp_sections_t *sections = &writes->request->sections;
    const stor_writes_class_t *class = writes->class;
    *ret_sequence = NULL;
    for (uint32_t i = 0; i < sections->sequence_count; i++) {
        const vdp_sequence_t *sequence = &sections->sequences[i];
        if (class->field == NULL || !vd_slice_is(sequence->name, class->field))
            return vd_error_set(err, VD_ERR_LOCATION(40415),
                                "BSON field '%s.%.*s' is an unknown field.", class->name,
                                VD_SLICE_FMT(sequence->name));
        *ret_sequence = sequence;
    }
    return VD_OK;
}

static int statements_read(stor_writes_t *writes, vd_error_t *err)
{
    const stor_writes_class_t *class = writes->class;
    const vdp_sequence_t *sequence;
    int rc = sequence_find(writes, &sequence, err);
    if (rc != VD_OK)
        return rc;
    if (sequence == NULL && writes->args.list.data == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40414),
                            "BSON field '%s.%s' is missing but a required field", class->name,
                            class->field);
    uint32_t count = sequence != NULL ? sequence->count : vd_bson_count(writes->args.list);
    if (count == 0 || count > VD_WRITE_BATCH_MAX)
        return vd_error_set(err, VD_ERR_INVALID_LENGTH,
                            "Write batch sizes must be between 1 and %d. Got %u operations.",
                            VD_WRITE_BATCH_MAX, count);
    vd_bson_t *statements = VD_ARENA_ARRAY(writes->request->arena, vd_bson_t, count);
    writes->count = count;
    writes->statements = statements;
    return sequence != NULL ? statements_of_sequence(writes, sequence, statements, err)
                            : statements_of_array(writes, statements, err);
}

static int statement_id_read(const stor_writes_t *writes, const char *field, vd_value_t v,
                             int32_t *ret, vd_error_t *err)
{
    if (v.type != VD_BSON_INT32)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.%s' is the wrong type '%s', expected type 'int'",
                            writes->class->name, field, vd_bson_type_name(v.type));
    *ret = vd_value_int32(v);
    if (*ret < 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "BSON field '%s' value must be >= 0, actual "
                            "value '%d'",
                            field, *ret);
    return VD_OK;
}

static int statement_ids_read(stor_writes_t *writes, vd_error_t *err)
{
    const stor_write_args_t *args = &writes->args;
    if (args->stmt_ids.data == NULL) {
        int32_t first;
        return vd_value_is_nullish(args->stmt_id)
                   ? VD_OK
                   : statement_id_read(writes, "stmtId", args->stmt_id, &first, err);
    }
    if (vd_bson_count(args->stmt_ids) != writes->count)
        return vd_error_set(
            err, VD_ERR_INVALID_LENGTH,
            "Number of statement ids must match the number of batch entries. Got %u "
            "statement ids but %u operations.",
            vd_bson_count(args->stmt_ids), writes->count);
    if (!vd_value_is_nullish(args->stmt_id))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "May not specify both stmtId and stmtIds in write command");
    int32_t *ids = VD_ARENA_ARRAY(writes->request->arena, int32_t, writes->count);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, args->stmt_ids);
    for (uint32_t i = 0; vd_bson_iter_next(&iter); i++) {
        int rc = statement_id_read(writes, "stmtIds", iter.value, &ids[i], err);
        if (rc != VD_OK)
            return rc;
    }
    writes->statement_ids = ids;
    return VD_OK;
}

int stor_writes_parse(stor_writes_t *writes, vd_error_t *err)
{
    const stor_writes_class_t *class = writes->class;
    int rc = stor_args_parse(writes->request->body, class->name, true, class->table,
                             class->table_count, &writes->args, err);
    if (rc == VD_OK)
        rc = statements_read(writes, err);
    return rc == VD_OK ? statement_ids_read(writes, err) : rc;
}

int stor_writes_single(stor_writes_t *writes, const stor_write_args_t *args, vd_error_t *err)
{
    const vdp_sequence_t *sequence;
    writes->args = *args;
    writes->count = 1;
    int rc = sequence_find(writes, &sequence, err);
    return rc == VD_OK ? statement_ids_read(writes, err) : rc;
}

int stor_writes_hint_form(vd_value_t hint, vd_error_t *err)
{
    if (vd_value_is_nullish(hint) || hint.type == VD_BSON_STRING || hint.type == VD_BSON_OBJECT)
        return VD_OK;
    return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "Hint must be a string or an object");
}

int stor_writes_start(stor_writes_t *writes, vd_error_t *err)
{
    stor_request_t *request = writes->request;
    int rc = stor_request_collection_name(request, &writes->name, err);
    if (rc == VD_OK)
        rc = stor_name_check_writable(request->db, writes->name, stor_request_internal(request),
                                      err);
    if (rc == VD_OK)
        rc = stor_sessions_write_begin(request, &writes->replay, err);
    if (rc == VD_OK && !writes->replay) /* else each transaction asks */
        rc = stor_request_space(request, err);
    /* The first error ends the whole. */
    writes->args.ordered |= request->transaction != NULL;
    return rc == VD_OK ? stor_writes_collection(writes, false, err) : rc;
}

int stor_writes_collection(stor_writes_t *writes, bool create, vd_error_t *err)
{
    stor_request_t *request = writes->request;
    stor_collection_t *collection = NULL;
    vd_error_t step = VD_ERROR_INIT;
    if (writes->collection != NULL)
        return VD_OK;
    int rc = create ? stor_catalog_acquire_or_create(request, request->db, writes->name,
                                                     &collection, &step)
                    : stor_catalog_acquire(request, request->db, writes->name, &collection, &step);
    if (rc == VD_OK)
        writes->collection = writes->write.collection = collection;
    else if (rc == VD_ERR_NAMESPACE_NOT_FOUND && !create)
        rc = VD_OK;
    else if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

void stor_writes_yield(stor_writes_t *writes)
{
    stor_collection_t *collection = writes->collection;
    if (collection == NULL || writes->request->transaction != NULL)
        return; /* a transaction keeps what it has */
    writes->collection = writes->write.collection = NULL;
    writes->request->yields++;
    stor_catalog_release(writes->request, collection);
}

/* On a copy first: a list that is half read must not stay. */
int stor_writes_let(stor_writes_t *writes, vd_error_t *err)
{
    stor_request_t *request = writes->request;
    if (writes->let_read || vd_bson_is_empty(writes->args.let))
        return VD_OK;
    stor_variables_t *copy =
        vd_arena_copy(request->arena, &request->variables, sizeof request->variables);
    int rc = stor_variables_parse_let(request->arena, writes->args.let, copy, err);
    if (rc == VD_OK) {
        request->variables = *copy;
        writes->let_read = true;
    }
    return rc;
}

/* ---- statements ---- */

/* Runs each statement in turn, which notes its results in *writes itself. */
static int statements_run(stor_writes_t *writes, const uint8_t *args, vd_error_t *err)
{
    stor_request_t *request = writes->request;
    for (uint32_t i = 0; i < writes->count; i++) {
        vd_error_t step = VD_ERROR_INIT;
        vd_arena_mark_t mark = vd_arena_mark(request->arena);
        int rc = stor_request_check(request, &step);
        if (rc == VD_OK)
            rc = stor_writes_let(writes, &step);
        if (rc == VD_OK) {
            mark = vd_arena_mark(request->arena); /* `let` stays */
            writes->write.attempts = 0;
            stor_collation_end(); /* each statement has its own */
            rc = writes->class->run(writes, i, args + i * writes->class->args_bytes, &step);
        }
        if (stor_writes_is_fatal(rc) ||
            (request->transaction != NULL && stor_transaction_is_transient(rc))) {
            if (err != NULL)
                vd_error_copy(&step, err); /* its details stay in the arena */
            return rc;
        }
        if (rc != VD_OK)
            stor_writes_note_error(writes, i, rc, step.message, step.details);
        vd_arena_rewind(request->arena, mark);
        if (rc != VD_OK && writes->args.ordered)
            break;
        if (i % YIELD_EVERY == YIELD_EVERY - 1)
            stor_writes_yield(writes);
    }
    return VD_OK;
}

static int statements_parse(stor_writes_t *writes, uint8_t **ret_args, vd_error_t *err)
{
    int rc = stor_writes_parse(writes, err);
    if (rc != VD_OK)
        return rc;
    size_t each = writes->class->args_bytes;
    uint8_t *args = vd_arena_zalloc(writes->request->arena, writes->count * each);
    for (uint32_t i = 0; rc == VD_OK && i < writes->count; i++)
        rc = writes->class->parse(writes->statements[i], args + i * each, err);
    *ret_args = args;
    return rc;
}

int stor_writes_command(stor_request_t *request, const stor_writes_class_t *class, vd_error_t *err)
{
    stor_writes_t writes;
    uint8_t *args = NULL;
    stor_writes_init(&writes, request, class);
    int rc = statements_parse(&writes, &args, err);
    if (rc == VD_OK)
        rc = stor_writes_start(&writes, err);
    if (rc == VD_OK)
        rc = statements_run(&writes, args, err);
    if (rc == VD_OK)
        rc = stor_writes_reply(&writes, err);
    stor_writes_done(&writes);
    return rc;
}

int32_t stor_writes_statement_id(const stor_writes_t *writes, uint32_t index)
{
    if (writes->request->txn_number < 0)
        return -1;
    if (writes->statement_ids != NULL)
        return writes->statement_ids[index];
    int32_t first =
        writes->args.stmt_id.type == VD_BSON_INT32 ? vd_value_int32(writes->args.stmt_id) : 0;
    return (int32_t)((uint32_t)first + index);
}

static void note(vd_bb_t *bb, uint32_t *count, vd_slice_t *ret_name, char buf[12])
{
    if (*count == 0)
        vd_bb_init(bb, VD_BSON_INTERNAL_MAX_BYTES);
    *ret_name = vd_array_name((*count)++, buf);
}

int stor_writes_replayed(stor_writes_t *writes, uint32_t index, stor_statement_result_t *ret_result,
                         vd_error_t *err)
{
    stor_request_t *request = writes->request;
    if (VD_LIKELY(!writes->replay))
        return VD_ERR_NOT_FOUND;
    int32_t id = stor_writes_statement_id(writes, index);
    int rc = stor_sessions_lookup(request, id, ret_result, err);
    if (rc != VD_OK)
        return rc;
    if (ret_result->kind != writes->class->kind)
        return vd_error_set(err, VD_ERR_LOCATION(40638),
                            "%s retry request is not compatible with the previous write of "
                            "statement %d",
                            writes->class->name, id);
    char buf[12];
    vd_slice_t name;
    note(&writes->retried, &writes->retried_count, &name, buf);
    vd_bb_value(&writes->retried, name, vd_value_from_int32(request->arena, id));
    atomic_fetch_add_explicit(&request->storage->counters.retried_statements, 1,
                              memory_order_relaxed);
    return VD_OK;
}

static bool is_recorded(const stor_writes_t *writes, uint32_t index, bool changed)
{
    return writes->request->txn_number >= 0 &&
           (changed || (writes->args.ordered && index + 1 < writes->count));
}

int stor_writes_record(stor_writes_t *writes, uint32_t index, bool changed,
                       const stor_statement_result_t *result, vd_error_t *err)
{
    if (!is_recorded(writes, index, changed))
        return VD_OK;
    stor_request_t *request = writes->request;
    stor_statement_result_t row = *result;
    row.statement = stor_writes_statement_id(writes, index);
    row.count = 1;
    row.kind = writes->class->kind;
    row.timestamp = changed ? writes->write.timestamp : stor_txn_snapshot_newest(request->session);
    return stor_write_result(&writes->write, &row, err);
}

/* Where others replicate from here it is a write like any other: it needs an entry. */
static int nothing_begin(stor_writes_t *writes, vd_error_t *err)
{
    return writes->request->storage->settings.replicated
               ? stor_write_begin(&writes->write, err)
               : stor_txn_begin(writes->request->session, err);
}

static int nothing_commit(stor_writes_t *writes, vd_error_t *err)
{
    return writes->request->storage->settings.replicated
               ? stor_write_commit(&writes->write, err)
               : stor_txn_commit(writes->request->session, err);
}

int stor_writes_record_nothing(stor_writes_t *writes, uint32_t index, vd_error_t *err)
{
    static const stor_statement_result_t nothing = {0};
    int rc = VD_OK;
    if (!is_recorded(writes, index, false))
        return VD_OK;
    do {
        rc = nothing_begin(writes, err);
        if (rc == VD_OK)
            rc = stor_writes_record(writes, index, false, &nothing, err);
        if (rc == VD_OK)
            rc = nothing_commit(writes, err);
        if (rc == VD_OK)
            break;
        stor_writes_undo(writes);
        rc = stor_writes_again(writes, rc, err);
    } while (rc == VD_OK);
    stor_replication_request_leave(writes->request);
    return rc;
}

bool stor_writes_is_fatal(int code)
{
    switch (code) {
    case VD_OK:
    case VD_ERR_STALE_VERSION: /* own codes that are a client's matter */
    case VD_ERR_VERSION_REQUIRED:
        return false;
    case VD_ERR_INTERRUPTED:
    case VD_ERR_MAX_TIME_MS_EXPIRED:
    case VD_ERR_EXCEEDED_TIME_LIMIT:
    case VD_ERR_CLIENT_DISCONNECT:
    case VD_ERR_INTERRUPTED_AT_SHUTDOWN:
    case VD_ERR_SHUTDOWN_IN_PROGRESS:
    case VD_ERR_NOT_WRITABLE_PRIMARY:
    case VD_ERR_PRIMARY_STEPPED_DOWN:
    case VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE:
    case VD_ERR_INTERNAL:
        return true;
    default:
        return -code >= OWN_CODES_FIRST && -code <= OWN_CODES_LAST;
    }
}

void stor_writes_note_error(stor_writes_t *writes, uint32_t index, int code, const char *message,
                            vd_slice_t details)
{
    vd_bb_t *bb = &writes->errors;
    char buf[12];
    vd_slice_t name;
    stor_transaction_fail(writes->request);
    bool cut = writes->message_bytes >= MESSAGES_MAX_BYTES && writes->error_count >= MESSAGES_MIN;
    note(bb, &writes->error_count, &name, buf);
    vd_bb_open_document(bb, name);
    vd_bb_int32(bb, "index", (int32_t)index);
    vd_bb_int32(bb, "code", -code);
    vd_bb_cstr(bb, "errmsg", cut ? "" : message);
    if (details.len >= 5 && vd_bb_len(bb) + details.len <= STOR_WRITE_ERRORS_MAX_BYTES)
        vd_bb_concat(bb, (vd_bson_t){details.data, (uint32_t)details.len});
    vd_bb_close(bb);
    writes->message_bytes += cut ? 0 : strlen(message);
}

void stor_writes_note_upserted(stor_writes_t *writes, uint32_t index, vd_value_t id)
{
    vd_bb_t *bb = &writes->upserted;
    char buf[12];
    vd_slice_t name;
    note(bb, &writes->upserted_count, &name, buf);
    vd_bb_open_document(bb, name);
    vd_bb_int32(bb, "index", (int32_t)index);
    vd_bb_value(bb, VD_SLICE_LIT("_id"), id);
    vd_bb_close(bb);
}

/* ---- the reply ---- */

static void append_number(vd_bb_t *bb, const char *name, int64_t n)
{
    if (n <= INT32_MAX)
        vd_bb_int32(bb, name, (int32_t)n);
    else
        vd_bb_int64(bb, name, n);
}

static int append_list(vd_bb_t *reply, const char *name, vd_bb_t *list, uint32_t count,
                       vd_error_t *err)
{
    vd_bson_t array;
    if (count == 0)
        return VD_OK;
    int rc = vd_bb_finish(list, &array, err);
    if (rc == VD_OK)
        vd_bb_array(reply, name, array);
    return rc;
}

/* w: 0 without j: whoever asks nevertheless is told nothing, as by MongoDB. */
static bool is_unacknowledged(const stor_write_concern_t *concern)
{
    return concern->has_w && !concern->majority && concern->mode.len == 0 && concern->w == 0 &&
           !concern->journal;
}

int stor_writes_reply(stor_writes_t *writes, vd_error_t *err)
{
    vd_bb_t *reply = &writes->request->reply;
    if (is_unacknowledged(&writes->request->write_concern)) {
        append_number(reply, "n", 0);
        return VD_OK;
    }
    append_number(reply, "n", writes->n);
    int rc = append_list(reply, "writeErrors", &writes->errors, writes->error_count, err);
    if (rc == VD_OK)
        rc = append_list(reply, "retriedStmtIds", &writes->retried, writes->retried_count, err);
    if (rc == VD_OK)
        rc = append_list(reply, "upserted", &writes->upserted, writes->upserted_count, err);
    if (writes->class->kind == STOR_WRITES_UPDATE)
        append_number(reply, "nModified", writes->n_modified);
    return rc;
}

/* ---- transactions ---- */

static void counter_add(atomic_uint_fast64_t *counter, uint64_t n)
{
    if (n > 0)
        atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

int stor_writes_commit(stor_writes_t *writes, vd_error_t *err)
{
    const stor_write_t *write = &writes->write;
    stor_op_counters_t *counters = &writes->request->storage->counters;
    int rc = stor_write_commit(&writes->write, err);
    if (rc != VD_OK)
        return rc;
    int64_t delta = write->documents_delta;
    uint64_t moved = (uint64_t)(delta < 0 ? -delta : delta);
    counter_add(delta < 0 ? &counters->documents_deleted : &counters->documents_inserted, moved);
    counter_add(&counters->documents_updated, write->changes - moved);
    return VD_OK;
}

void stor_writes_undo(stor_writes_t *writes)
{
    stor_session_t *session = writes->request->session;
    if (!stor_txn_active(session))
        return;
    stor_request_depends(writes->request, stor_txn_snapshot_newest(session));
    stor_write_rollback(&writes->write);
}

int stor_writes_again(stor_writes_t *writes, int rc, vd_error_t *err)
{
    if (rc != VD_ERR_WRITE_CONFLICT)
        return rc;
    if (writes->request->transaction != NULL) { /* its snapshot would show the same again */
        writes->request->conflicts++;
        return rc;
    }
    vd_error_clear(err);
    return stor_write_backoff(&writes->write, err);
}

/* ---- for explain and the fast lane ---- */

int stor_writes_only_statement(vd_bson_t list, vd_bson_t *ret_statement, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t statement;
    if (vd_bson_count(list) != 1 || !vd_bson_first(list, &name, &statement) ||
        statement.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_INVALID_LENGTH,
                            "explained write batches must be of size 1");
    *ret_statement = vd_value_document(statement);
    return VD_OK;
}

bool stor_writes_point(const stor_request_t *request, const char *field)
{
    const vdp_sequence_t *sequence = vdp_sections_sequence(&request->sections, field);
    vd_bson_t statement;
    size_t position = 0;
    if (sequence != NULL) {
        if (sequence->count > POINT_LOOK_MAX)
            return false;
        while (vdp_sequence_next(sequence, &position, &statement))
            if (!stor_point_filter(statement, "q"))
                return false;
        return true;
    }
    vd_value_t list = vd_bson_get(request->sections.body, field);
    if (list.type != VD_BSON_ARRAY)
        return true; /* refused soon */
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(list));
    for (int i = 0; vd_bson_iter_next(&iter); i++)
        if (i == POINT_LOOK_MAX || iter.value.type != VD_BSON_OBJECT ||
            !stor_point_filter(vd_value_document(iter.value), "q"))
            return false;
    return true;
}
