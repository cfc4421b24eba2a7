/* veddb-storaged/commands/write_common.h — what insert, update, delete and findAndModify share: the
 * list of statements, results of retryable writes, write errors and the reply; and the walk over
 * the records that a statement is about.
 *
 * Duty:    stor_writes_t is one command under way. A statement that fails is noted in writeErrors;
 *          what ends a whole command (killed, no time left, a fault of ours) is returned up.
 * Owner:   begin/done, on the handler's stack; trees of a statement live in the request's arena,
 *          which is rewound behind each statement: so nothing of the reply is built before the end.
 * Threads: the worker's.
 * Limits:  VD_WRITE_BATCH_MAX statements; STOR_TARGETS_MAX records changed per transaction. */
#pragma once
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/plan/bounds.h"
#include "veddb-storaged/query/match.h"
#include "veddb-storaged/query/update.h"
#include "veddb-storaged/sessions.h"
#include "veddb-storaged/write.h"

#define STOR_TARGETS_MAX            128
#define STOR_WRITE_GROUP_MAX_BYTES  (2 * 1024 * 1024)
#define STOR_WRITE_ERRORS_MAX_BYTES (8 * 1024 * 1024)

enum {
    STOR_WRITES_INSERT = 1,
    STOR_WRITES_UPDATE,
    STOR_WRITES_DELETE,
    STOR_WRITES_FIND_AND_MODIFY
};

/* Arguments of the command itself; `list` is the body's documents, updates or deletes. */
typedef struct {
    vd_bson_t list, let, stmt_ids;
    vd_value_t stmt_id;
    bool ordered, bypass;
} stor_write_args_t;

#define STOR_WRITE_ARGS(field)                                                                     \
    STOR_ARG(field, STOR_ARG_ARRAY, stor_write_args_t, list, STOR_ARG_NULL_IS_ERROR),              \
        STOR_ARG("ordered", STOR_ARG_BOOL, stor_write_args_t, ordered, 0),                         \
        STOR_ARG("bypassDocumentValidation", STOR_ARG_BOOL, stor_write_args_t, bypass, 0),         \
        STOR_ARG("stmtId", STOR_ARG_VALUE, stor_write_args_t, stmt_id, 0),                         \
        STOR_ARG("stmtIds", STOR_ARG_ARRAY, stor_write_args_t, stmt_ids, 0),                       \
        {"collectionUUID", STOR_ARG_REFUSED, 0, 0},                                                \
    {                                                                                              \
        "encryptionInformation", STOR_ARG_REFUSED, 0, 0                                            \
    }

typedef struct stor_writes stor_writes_t;

typedef struct {
    uint8_t kind;      /* STOR_WRITES_... */
    const char *name;  /* "insert": prefix of messages */
    const char *field; /* "documents" */
    const stor_arg_t *table;
    size_t table_count;
    /* Of stor_writes_command alone: each statement's own arguments, read before the first runs. */
    size_t args_bytes;
    int (*parse)(vd_bson_t statement, void *ret_args, vd_error_t *err);
    int (*run)(stor_writes_t *writes, uint32_t index, const void *args, vd_error_t *err);
} stor_writes_class_t;

struct stor_writes {
    stor_request_t *request;
    const stor_writes_class_t *class;
    stor_write_args_t args;
    vd_slice_t name;
    stor_collection_t *collection; /* held; NULL while it does not exist */
    const vd_bson_t *statements;
    const int32_t *statement_ids; /* NULL: stmtId + position */
    uint32_t count;
    bool replay;   /* this txnNumber was seen before */
    bool let_read; /* `let` stands in the request's variables */
    stor_write_t write;
    /* results */
    int64_t n, n_modified;
    uint32_t error_count, upserted_count, retried_count;
    size_t message_bytes;
    uint64_t stale_version; /* of a document that the statement means under another one; 0 = none */
    vd_bb_t errors, upserted, retried; /* arrays, made with their first element */
};

/* ---- the command ---- */
/* An empty command; ends by stor_writes_done() in every case. */
void stor_writes_init(stor_writes_t *writes, stor_request_t *request,
                      const stor_writes_class_t *class);
void stor_writes_done(stor_writes_t *writes);
/* Reads the arguments and the list of statements. */
VD_MUST_CHECK int stor_writes_parse(stor_writes_t *writes, vd_error_t *err);
/* The same for a command that is one statement: the arguments are read already. */
VD_MUST_CHECK int stor_writes_single(stor_writes_t *writes, const stor_write_args_t *args,
                                     vd_error_t *err);
/* A hint is a name or a pattern; whether there is such an index is asked when the statement runs.
 */
VD_MUST_CHECK int stor_writes_hint_form(vd_value_t hint, vd_error_t *err);
/* When everything is parsed: checks the name, enters the session of a retryable write, takes hold
 * of the collection if there is one. */
VD_MUST_CHECK int stor_writes_start(stor_writes_t *writes, vd_error_t *err);
/* Looks for the collection again, and makes it when `create`; writes->collection stays NULL when
 * there is none. */
VD_MUST_CHECK int stor_writes_collection(stor_writes_t *writes, bool create, vd_error_t *err);
/* Lets go of the collection, so that a drop or collMod that waits goes first; it is looked for
 * again by stor_writes_collection. */
void stor_writes_yield(stor_writes_t *writes);
/* Reads `let` into the request's variables, once. */
VD_MUST_CHECK int stor_writes_let(stor_writes_t *writes, vd_error_t *err);
/* The whole command, from its arguments to its reply, by its class. */
VD_MUST_CHECK int stor_writes_command(stor_request_t *request, const stor_writes_class_t *class,
                                      vd_error_t *err);
/* n, writeErrors, retriedStmtIds, upserted, nModified. VD_ERR_BSON_OBJECT_TOO_LARGE: what was
 * written stays written. */
VD_MUST_CHECK int stor_writes_reply(stor_writes_t *writes, vd_error_t *err);

/* ---- statements ---- */
/* -1 when the write is not retryable. */
int32_t stor_writes_statement_id(const stor_writes_t *writes, uint32_t index);
/* The result of an earlier try of the statement, noted as retried; VD_ERR_NOT_FOUND (quiet): there
 * is none. */
VD_MUST_CHECK int stor_writes_replayed(stor_writes_t *writes, uint32_t index,
                                       stor_statement_result_t *ret_result, vd_error_t *err);
/* Records a result in the open transaction; does nothing when the write is not retryable. changed
 * false: recorded only if a later statement of the command could be done before this one is tried
 * again. */
VD_MUST_CHECK int stor_writes_record(stor_writes_t *writes, uint32_t index, bool changed,
                                     const stor_statement_result_t *result, vd_error_t *err);
/* The same for a statement that found nothing, in a transaction of its own. */
VD_MUST_CHECK int stor_writes_record_nothing(stor_writes_t *writes, uint32_t index,
                                             vd_error_t *err);
/* Commits the write's transaction and counts what it did. */
VD_MUST_CHECK int stor_writes_commit(stor_writes_t *writes, vd_error_t *err);
/* True when the error ends the command and not just one statement. */
bool stor_writes_is_fatal(int code);
void stor_writes_note_error(stor_writes_t *writes, uint32_t index, int code, const char *message,
                            vd_slice_t details);
void stor_writes_note_upserted(stor_writes_t *writes, uint32_t index, vd_value_t id);

/* ---- the records that a statement is about ---- */
typedef struct {
    const stor_filter_t *filter;
    const stor_variables_t *variables;
    int8_t natural;  /* -1: backward */
    vd_value_t hint; /* MISSING = none */
    bool multi;      /* false: only the first that matches */
    bool updates;    /* changes what it finds; false: removes it */
    bool upsert;     /* inserts when it finds nothing */
    /* Set by stor_targets_filter: */
    uint64_t version;          /* $version of the filter, 0 = none */
    const stor_filter_t *rest; /* the filter without it */
} stor_targets_spec_t;

/* Puts the filter in, and what of it is about the version. */
void stor_targets_filter(stor_targets_spec_t *spec, vd_arena_t *arena, const stor_filter_t *filter);

typedef struct {
    int64_t n, n_modified;
} stor_tally_t;

/* Changes one record in the open transaction and counts it in *tally. May be called again for the
 * same record when the transaction is tried again. */
typedef int stor_target_change_t(void *context, const stor_record_t *record,
                                 const stor_match_t *match, stor_tally_t *tally, vd_error_t *err);

/* Finds keys as the planner says, in short reading stretches, then reads, matches and changes each
 * record in a write transaction: so no snapshot is held for long, and a record is changed only as
 * it matches there. A record that a change moves ahead in the index that is read is not changed
 * again. A record that fails ends the walk; those before it stay changed. */
VD_MUST_CHECK int stor_writes_each(stor_writes_t *writes, const stor_targets_spec_t *spec,
                                   stor_target_change_t *change, void *context,
                                   stor_tally_t *ret_tally, vd_error_t *err);
/* The policy of the collection: VD_ERR_BAD_VALUE where versions are off, VD_ERR_VERSION_REQUIRED.
 */
VD_MUST_CHECK int stor_writes_cas(const stor_writes_t *writes, const stor_targets_spec_t *spec,
                                  vd_error_t *err);
/* For a search that found nothing by itself: VD_ERR_STALE_VERSION when the document is there under
 * another version (errInfo: {version, expected}). stor_writes_each tells it already. */
VD_MUST_CHECK int stor_writes_stale(stor_writes_t *writes, const stor_targets_spec_t *spec,
                                    vd_error_t *err);
/* The record of one key, if it still matches. */
VD_MUST_CHECK int stor_writes_key(stor_writes_t *writes, const stor_targets_spec_t *spec,
                                  vd_slice_t key, stor_target_change_t *change, void *context,
                                  stor_tally_t *ret_tally, vd_error_t *err);
/* Ends an attempt that failed: what it was decided by is noted, the transaction rolled back. */
void stor_writes_undo(stor_writes_t *writes);
/* After an error of a transaction that was undone. VD_OK: it was a conflict, and it can be tried
 * again now; else the error. */
VD_MUST_CHECK int stor_writes_again(stor_writes_t *writes, int rc, vd_error_t *err);
/* *ret_key: the one table key that the filter allows; empty when it does not pin _id to a plain
 * value. */
VD_MUST_CHECK int stor_writes_point_key(vd_arena_t *arena, const stor_filter_t *filter,
                                        vd_slice_t *ret_key, vd_error_t *err);

/* ---- update.c, shared with findAndModify ---- */
typedef struct {
    vd_bson_t query, constants, array_filters; /* array_filters.data NULL = not given */
    vd_value_t update, hint;
    bool multi, upsert;
    vd_bson_t collation;
} stor_update_args_t;

typedef struct {
    const stor_update_t *update;
    const stor_filter_t *filter;
    stor_targets_spec_t targets;
    bool upsert, bypass;
} stor_update_plan_t;

/* Called inside the transaction, before a change is recorded. */
typedef struct {
    vd_bson_t document; /* NONE: there is none */
    uint64_t version;   /* 0: not known */
} stor_image_t;
typedef int stor_update_image_t(void *context, stor_image_t before, stor_image_t after,
                                int64_t array_position, stor_statement_result_t *result,
                                vd_error_t *err);

typedef struct {
    stor_writes_t *writes;
    const stor_update_plan_t *plan;
    uint32_t index;
    stor_update_image_t *image; /* NULL = none wanted */
    void *image_context;
    vd_value_t upserted; /* _id when a document was inserted; in the request's arena */
} stor_update_run_t;

VD_MUST_CHECK int stor_update_prepare(stor_writes_t *writes, const stor_update_args_t *args,
                                      stor_update_plan_t *ret_plan, vd_error_t *err);
/* A stor_target_change_t over a stor_update_run_t. */
int stor_update_record(void *context, const stor_record_t *record, const stor_match_t *match,
                       stor_tally_t *tally, vd_error_t *err);
/* Inserts the document of an upsert; conflicts are tried again. */
VD_MUST_CHECK int stor_update_insert(stor_update_run_t *run, vd_error_t *err);
/* A duplicate key may be a race with another upsert of the same _id, or of the same unique key that
 * the filter asks for: search again? err: the duplicate. */
bool stor_update_search_again(const stor_update_plan_t *plan, int rc, uint32_t tries,
                              const vd_error_t *err);

/* ---- for explain ---- */
VD_MUST_CHECK int stor_update_parts(stor_request_t *request, vd_bson_t body,
                                    stor_query_parts_t *ret_parts, vd_error_t *err);
VD_MUST_CHECK int stor_delete_parts(stor_request_t *request, vd_bson_t body,
                                    stor_query_parts_t *ret_parts, vd_error_t *err);
VD_MUST_CHECK int stor_find_and_modify_parts(stor_request_t *request, vd_bson_t body,
                                             stor_query_parts_t *ret_parts, bool *ret_remove,
                                             vd_error_t *err);
/* The first statement of a command that is explained: there must be just one. */
VD_MUST_CHECK int stor_writes_only_statement(vd_bson_t list, vd_bson_t *ret_statement,
                                             vd_error_t *err);
/* Every statement of the list pins _id, and there are few. */
bool stor_writes_point(const stor_request_t *request, const char *field);
