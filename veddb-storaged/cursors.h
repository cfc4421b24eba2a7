/* veddb-storaged/cursors.h — open client cursors: limits, owners, idle time, kill; and the form of
 * cursor replies.
 *
 * Duty:    a client cursor is an arena with a state and a function that fills the next batch. It
 *          holds no snapshot, no engine cursor and no worker between batches. A batch in work pins
 *          it: a second getMore meanwhile gets CursorInUse (12051). Ids are random 63 bits, never
 *          0.
 * Owner:   cursors.c; a handler holds one only between take and put.
 * Threads: any.
 * Limits:  VD_CURSORS_OPEN_MAX; of a user, and bytes of a batch and of a whole result, what the
 *          command says (operation.h): errors 90071 and 90070. Idle time storage.cursor_timeout
 *          (noCursorTimeout cursors end with their session), VD_QUERY_MEMORY_MAX_BYTES in each. */
#pragma once
#include "veddb-storaged/request.h"

typedef struct stor_client_cursor stor_client_cursor_t;

/* ---- a batch under way in request->reply: cursor: {firstBatch|nextBatch: [...], id, ns} ---- */
typedef struct {
    stor_request_t *request;
    uint32_t count, documents_max; /* documents_max 0: only bytes count */
    size_t bytes, bytes_max;
    bool closed; /* stor_batch_close was called */
} stor_batch_t;
void stor_batch_begin(stor_batch_t *batch, stor_request_t *request, bool first,
                      uint32_t documents_max);
/* False: it does not fit (the batch is full); the source must give it again in the next batch. The
 * first document always fits. */
bool stor_batch_add(stor_batch_t *batch, vd_bson_t document);
/* No more than documents_max were asked for, and they are there. */
bool stor_batch_full(const stor_batch_t *batch);
/* Closes the array; fields of the cursor document may follow. */
void stor_batch_close(stor_batch_t *batch);
/* Closes the array (unless it is) and the cursor document. cursor_id 0: exhausted. Sets
 * request->cursor_id and cursor_ns. */
void stor_batch_end(stor_batch_t *batch, int64_t cursor_id, vd_slice_t ns);

/* ---- cursors ---- */
typedef struct {
    /* Fills the batch until it is full or there is no more (*ret_done). Acquires what it needs
     * through the request; gives engine resources back before it returns. */
    int (*fill)(void *state, stor_request_t *request, stor_batch_t *batch, bool *ret_done,
                vd_error_t *err);
    void (*close)(void *state); /* may be NULL; the arena goes afterwards */
    /* Fields that stand behind the batch; may be NULL. */
    void (*tail)(void *state, vd_bb_t *bb);
    /* awaitData: a getMore that finds nothing waits, without a worker, until there may be something
     * for this stream or its time (maxTimeMS, else a second) is over. NULL: it does not wait. */
    struct stor_stream *(*awaits)(void *state);
    /* The same of a tailable cursor: until what is visible here has passed this place. */
    uint64_t (*awaits_visible)(void *state);
    bool tailable; /* for those who ask what is open */
    bool change_stream;
} stor_cursor_class_t;

typedef struct {
    const stor_cursor_class_t *class;
    vd_slice_t ns;          /* copied */
    uint64_t collection_id; /* 0 = none: cursors of a dropped collection end */
    bool no_timeout;
    uint64_t max_time_ms;     /* left of find's maxTimeMS for all batches; 0 = none */
    vd_bson_t originating;    /* the command, for currentOp; copied */
    vd_slice_t authorization; /* reserved: empty */
    uint64_t bytes;           /* returned already */
} stor_client_cursor_options_t;

VD_MUST_CHECK int stor_cursors_open(stor_storage_t *storage, stor_cursors_t **ret_cursors,
                                    vd_error_t *err);
void stor_cursors_close(stor_cursors_t **cursors_p);
/* Registers a cursor; takes the arena with everything in it (also on failure). The owner is the
 * request's user and session. */
VD_MUST_CHECK int stor_cursors_create(stor_request_t *request,
                                      const stor_client_cursor_options_t *options,
                                      vd_arena_t **arena_p, void *state, int64_t *ret_id,
                                      vd_error_t *err);
/* batch_size 0 for the first batch: an empty one, the cursor is made; for more: only bytes count.
 * Convenience for the first batch and for getMore: begins the batch, runs fill, ends it; keeps or
 * closes the cursor. */
/* first: fill runs before the cursor exists; if it is not done (and not single_batch), the cursor
 * is made. Takes the arena in every case. */
VD_MUST_CHECK int stor_cursors_first(stor_request_t *request,
                                     const stor_client_cursor_options_t *options,
                                     vd_arena_t **arena_p, void *state, uint32_t batch_size,
                                     bool single_batch, vd_error_t *err);
/* Goes on with a getMore that waited: its cursor is still pinned. */
VD_MUST_CHECK int stor_cursors_again(stor_request_t *request, vd_error_t *err);
/* CursorNotFound 43 "cursor id 5 not found", Unauthorized 13 (other user or session, other
 * namespace). */
VD_MUST_CHECK int stor_cursors_more(stor_request_t *request, int64_t id, vd_slice_t ns,
                                    uint32_t batch_size, vd_error_t *err);

typedef enum { STOR_KILL_KILLED, STOR_KILL_NOT_FOUND, STOR_KILL_ALIVE } stor_kill_t;
/* A cursor in use is killed when its batch ends; its request is told to stop. ALIVE: may not be
 * killed by this user. */
stor_kill_t stor_cursors_kill(stor_request_t *request, int64_t id, vd_slice_t ns);
/* All of the sessions that match (endSessions, killSessions), of a collection (drop), or idle ones.
 * Return how
 * many. */
uint32_t stor_cursors_kill_sessions(stor_cursors_t *cursors,
                                    bool (*matches)(const stor_session_key_t *key,
                                                    const void *context),
                                    const void *context);
/* Those that were opened in a transaction of that session. */
uint32_t stor_cursors_kill_transaction(stor_cursors_t *cursors, const stor_session_key_t *session,
                                       int64_t number);
/* Whose collection is dropped or renamed: the next getMore fails by QueryPlanKilled. */
uint32_t stor_cursors_kill_collection(stor_cursors_t *cursors, uint64_t collection_id);
uint32_t stor_cursors_expire(stor_cursors_t *cursors);

typedef struct {
    uint64_t open, open_no_timeout, pinned, total_opened, timed_out, killed;
} stor_cursors_stats_t;
void stor_cursors_stats(stor_cursors_t *cursors, stor_cursors_stats_t *ret_stats);
/* For $currentOp {idleCursors: true}: visit under the lock; must be quick. */
typedef struct {
    int64_t id;
    vd_slice_t ns, user, lsid;
    vd_bson_t originating;
    uint64_t opened_ms, last_used_ms, batches, documents;
    bool no_timeout, tailable, awaits;
} stor_client_cursor_info_t;
void stor_cursors_visit(stor_cursors_t *cursors,
                        void (*visit)(const stor_client_cursor_info_t *info, void *context),
                        void *context);
