/* veddb-storaged/sessions.h — logical sessions: who is active, and the results of retryable
 * writes.
 *
 * Duty:    a session is lsid + digest of its user. In memory: last use, newest txnNumber, whether
 *          a write runs. In the table "sessions": per session and first statement id {txnNumber,
 *          timestamp, count, result}, put in the same transaction as the write: after a crash the
 *          same answer is given again. Idle for session_timeout: forgotten, rows removed (keeper).
 * Threads: any; sharded locks.
 * Limits:  VD_SESSIONS_MAX, and of a user what the command says (261). */
#pragma once
#include "veddb-storaged/request.h"

#define STOR_SESSIONS_TABLE    "sessions"
#define STOR_SESSIONS_SPARE_AT 3 /* a byte of a row that means nothing: rotation/flip.h */

/* The key of a session of "name@db" ("" = nobody). id empty: only the user's part is set. */
stor_session_key_t stor_session_key(vd_slice_t id, vd_slice_t user);
/* That of a command; zeros without a session. */
stor_session_key_t stor_session_key_of(const vdp_operation_command_t *command);

VD_MUST_CHECK int stor_sessions_open(stor_storage_t *storage, stor_sessions_t **ret_sessions,
                                     vd_error_t *err);
void stor_sessions_close(stor_sessions_t **sessions_p);
/* The request's session is in use (made when new). Requests without lsid: VD_OK. */
VD_MUST_CHECK int stor_sessions_touch(stor_request_t *request, vd_error_t *err);
/* The same by key (startSession, refreshSessions). */
VD_MUST_CHECK int stor_sessions_use(stor_request_t *request, const stor_session_key_t *key,
                                    vd_error_t *err);
/* Forgets (endSessions): also the rows of retryable writes, and the session's cursors. */
void stor_sessions_end(stor_storage_t *storage, const stor_session_key_t *key,
                       stor_session_t *session);
/* Ends sessions idle for too long; removes rows of sessions that are gone. A bounded piece of work
 * per call. */
void stor_sessions_expire(stor_storage_t *storage, stor_session_t *session);
/* Rows of a session that were written at or below `upto`, in the engine session's open
 * transaction. */
VD_MUST_CHECK int stor_sessions_rows(stor_session_t *engine, const stor_session_key_t *session,
                                     uint64_t upto,
                                     int (*visit)(vd_slice_t key, vd_slice_t value, void *context),
                                     void *context, vd_error_t *err);
/* A row as it may stand in the table: for those that come from another node. */
bool stor_sessions_row_ok(vd_slice_t key, vd_slice_t value);
/* Forgets what is known in memory, but not sessions in which a write runs (a load: the rows are
 * others now). */
void stor_sessions_forget(stor_sessions_t *sessions);
/* Visits what is in memory, a shard's at a time under its lock: must be quick. last_used_ms:
 * monotonic. */
void stor_sessions_visit(stor_sessions_t *sessions,
                         void (*visit)(const stor_session_key_t *key, uint64_t last_used_ms,
                                       void *context),
                         void *context);
uint64_t stor_sessions_count(stor_sessions_t *sessions);

/* ---- retryable writes ---- */
typedef struct {
    int32_t statement; /* first statement id */
    uint32_t count;    /* statements that this row stands for (grouped inserts: > 1, each n = 1) */
    uint64_t timestamp;
    int32_t n, n_modified;
    vd_value_t upserted;              /* _id, or MISSING */
    vd_bson_t value;                  /* findAndModify: the reply's value (image), or NONE */
    bool updated_existing, has_value; /* findAndModify's lastErrorObject */
    uint8_t kind;                     /* 1 insert, 2 update, 3 delete, 4 findAndModify */
} stor_statement_result_t;

/* Before the first statement of a command with a txnNumber (does nothing without). Waits while
 * another request of the same session executes. VD_ERR_TRANSACTION_TOO_OLD; VD_OK. *ret_replay:
 * this txnNumber was seen before, so statements must be looked up. Ends by stor_sessions_write_end
 * (the frame calls it too). */
VD_MUST_CHECK int stor_sessions_write_begin(stor_request_t *request, bool *ret_replay,
                                            vd_error_t *err);
void stor_sessions_write_end(stor_request_t *request);
/* The result of a statement that was executed before; VD_ERR_NOT_FOUND when it was not. Copies into
 * the request's arena. Notes the dependency. */
VD_MUST_CHECK int stor_sessions_lookup(stor_request_t *request, int32_t statement,
                                       stor_statement_result_t *ret_result, vd_error_t *err);
/* In the write's open transaction, before its commit. */
VD_MUST_CHECK int stor_sessions_record(stor_request_t *request,
                                       const stor_statement_result_t *result, vd_error_t *err);

/* ---- for replication: the same rows on every member ---- */
/* The row that stor_sessions_record puts, in the request's arena: for the journal entry. */
void stor_sessions_row(stor_request_t *request, const stor_statement_result_t *result,
                       vd_slice_t *ret_key, vd_slice_t *ret_value);
/* Puts a row of another node, in the session's open transaction. VD_ERR_CORRUPT: not a row. */
VD_MUST_CHECK int stor_sessions_row_put(stor_session_t *session, vd_slice_t key, vd_slice_t value,
                                        vd_error_t *err);
/* After the commit: the session's newest txnNumber follows, if it is in memory. */
void stor_sessions_row_applied(stor_sessions_t *sessions, vd_slice_t key, vd_slice_t value);
