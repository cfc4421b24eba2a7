/* veddb-storaged/commands/table.h — every command that storage runs: name, handler, what it does to
 * data.
 *
 * Duty:    the one table (table.c); a command without a row can't be reached. One file per
 *          command or family; each file declares nothing but its handlers, which stand below in
 *          one list. */
#pragma once
#include "veddb-storaged/request.h"

enum {
    STOR_COMMAND_READS = 1u << 0,
    STOR_COMMAND_WRITES = 1u << 1, /* refused below the free-space reserve; writeConcern allowed */
    STOR_COMMAND_RETRYABLE = 1u << 2,    /* txnNumber allowed */
    STOR_COMMAND_READ_CONCERN = 1u << 3, /* readConcern allowed beyond local */
    STOR_COMMAND_SNAPSHOT = 1u << 4,     /* readConcern snapshot allowed */
    STOR_COMMAND_ADMIN_ONLY =
        1u << 5,                 /* only against the admin database: 13 Unauthorized otherwise */
    STOR_COMMAND_LONG = 1u << 6, /* second lane unless `point` says otherwise */
    STOR_COMMAND_DIAGNOSTIC = 1u << 7,   /* runs also while storage is full or draining; not counted
                                            as an operation of users */
    STOR_COMMAND_FREES = 1u << 8,        /* with WRITES: gives space back, may use the reserve */
    STOR_COMMAND_ANY_MEMBER = 1u << 9,   /* with READS: a secondary runs it unasked */
    STOR_COMMAND_MAY_WRITE = 1u << 10,   /* with READS: its pipeline may write: request->writes */
    STOR_COMMAND_TRANSACTION = 1u << 11, /* allowed in a transaction */
    STOR_COMMAND_ENDS_TRANSACTION = 1u << 12, /* commit and abort */
    STOR_COMMAND_NOT_FIRST = 1u << 13,        /* with TRANSACTION: does not begin one */
};

struct stor_command {
    const char *name;
    uint32_t flags;
    int (*run)(stor_request_t *request, vd_error_t *err);
    /* Cheap look at the body on the I/O thread: true = answers from a few documents, may go to the
     * fast lane. NULL: by flags. */
    bool (*point)(const stor_request_t *request);
};

/* NULL when there is none. */
const stor_command_t *stor_command_find(vd_slice_t name);
extern const stor_command_t stor_commands[];
extern const size_t stor_command_count;

#define STOR_HANDLER(name) int stor_command_##name(stor_request_t *request, vd_error_t *err)

/* writes */
STOR_HANDLER(insert);          /* insert.c */
STOR_HANDLER(update);          /* update.c */
STOR_HANDLER(delete);          /* delete.c */
STOR_HANDLER(find_and_modify); /* find_and_modify.c */
STOR_HANDLER(create);          /* create.c */
STOR_HANDLER(drop);            /* drop.c */
STOR_HANDLER(drop_database);
STOR_HANDLER(rename_collection); /* rename.c */
STOR_HANDLER(coll_mod);          /* coll_mod.c */
STOR_HANDLER(convert_to_capped); /* capped.c */
STOR_HANDLER(clone_as_capped);
STOR_HANDLER(set_commit_quorum); /* indexes.c */
STOR_HANDLER(create_indexes);    /* indexes.c */
STOR_HANDLER(drop_indexes);
STOR_HANDLER(list_indexes);
STOR_HANDLER(start_session); /* sessions.c */
STOR_HANDLER(refresh_sessions);
STOR_HANDLER(end_sessions);
STOR_HANDLER(kill_sessions);
STOR_HANDLER(kill_all_sessions);
STOR_HANDLER(kill_all_sessions_by_pattern);
STOR_HANDLER(commit_transaction); /* transactions.c */
STOR_HANDLER(abort_transaction);
STOR_HANDLER(repl_set_get_status); /* replication.c */
STOR_HANDLER(repl_set_get_config);
STOR_HANDLER(repl_set_step_down);
STOR_HANDLER(repl_set_freeze);
STOR_HANDLER(repl_set_reconfig);
STOR_HANDLER(repl_set_initiate);
STOR_HANDLER(repl_set_refused);
STOR_HANDLER(append_oplog_note);
STOR_HANDLER(set_default_rw_concern); /* defaults.c */
STOR_HANDLER(get_default_rw_concern);
STOR_HANDLER(audit_events);         /* audit.c */
STOR_HANDLER(configure_fail_point); /* operations.c */
STOR_HANDLER(rotate_key);           /* rotation.c */
STOR_HANDLER(rotation_status);
STOR_HANDLER(pause_rotation);
STOR_HANDLER(resume_rotation);
STOR_HANDLER(cancel_rotation);
STOR_HANDLER(throttle_rotation);
STOR_HANDLER(rotation_history);
STOR_HANDLER(verify_keys);
STOR_HANDLER(rewrap_keys);
/* reads (their rows stand in reads.def, one line per command: STOR_READ_ROW(name, flags, handler,
 * point)) */
#define STOR_READ_ROW(name, flags, handler, point)                                                 \
    int handler(stor_request_t *request, vd_error_t *err);
#include "veddb-storaged/commands/reads.def"
#undef STOR_READ_ROW

/* ---- point.c: for the fast lane ---- */
/* The statement's `field` (q, filter, query) pins _id to one value. */
bool stor_point_filter(vd_bson_t statement, const char *field);
/* The same of the command's body. */
bool stor_point_by_filter(const stor_request_t *request, const char *field);
bool stor_point_insert(const stor_request_t *request); /* by its size */
bool stor_point_find(const stor_request_t *request); /* find.filter; no sort on other things matters
                                                        with one document */
bool stor_point_count(const stor_request_t *request); /* count without query: from the kept count */
bool stor_point_aggregate(const stor_request_t *request);
bool stor_point_commit(const stor_request_t *request); /* by what the transaction has changed */
/* Every statement (deletes and updates) or the query pins _id to one value. */
bool stor_point_update(const stor_request_t *request);          /* update.c */
bool stor_point_delete(const stor_request_t *request);          /* delete.c */
bool stor_point_find_and_modify(const stor_request_t *request); /* find_and_modify.c */
