/* veddb-storaged/request.h — one command on its way through storage: what came, what it may use,
 * and the reply that grows.
 *
 * Duty:    decoded message, parsed generic arguments (concerns, maxTimeMS, session), the arena in
 *          which everything of the request lives, the worker's engine session, the reply's
 *          builder, what the answer depends on, and whether it must stop.
 * Life:    inbox receives and prepares -> a worker runs stor_request_run (checks, handler of
 *          commands/table.h, finish) -> the reply waits for durability of depends_on -> the I/O
 *          thread sends it and resets the arena.
 * Threads: one at a time (I/O thread, then a worker, then the I/O thread); `killed` is set by any.
 * Rules:   a handler appends its fields to request->reply and returns VD_OK; "ok", operationTime
 *          and $clusterTime are added by the frame. On an error it just returns it: what stands in
 *          the reply is dropped and the error reply is made (err->details' fields join it).
 *          Collections acquired through the request are released by the frame when the handler
 *          returns, an open transaction is rolled back. Nothing in the request may be kept after
 *          the reply: a client cursor copies what it needs into its own arena. */
#pragma once
#include "libcommon/bson/build.h"
#include "proto/operation.h"
#include "proto/sections.h"
#include "veddb-storaged/query/variables.h"
#include "veddb-storaged/storaged.h"

#define STOR_REQUEST_HELD_MAX  64
#define STOR_SESSION_KEY_BYTES 48

/* What a logical session is known by (sessions.h): lsid + digest of its user. */
typedef struct {
    uint8_t bytes[STOR_SESSION_KEY_BYTES];
} stor_session_key_t;

struct vd_daemon_slot;                              /* libcommon/runtime/daemon.h */
typedef struct stor_command stor_command_t;         /* commands/table.h */
typedef struct stor_collection stor_collection_t;   /* catalog/catalog.h */
typedef struct stor_transaction stor_transaction_t; /* transactions.h */

/* What existed when a snapshot was taken (catalog.h); zeros: there is none. */
typedef struct {
    uint64_t destroyed, next_id;
} stor_catalog_mark_t;

typedef enum {
    STOR_READ_LOCAL, /* also available */
    STOR_READ_MAJORITY,
    STOR_READ_LINEARIZABLE,
    STOR_READ_SNAPSHOT,
} stor_read_level_t;

typedef struct {
    bool present;
    bool has_w;      /* without it, w is the default: majority */
    bool majority;   /* w: "majority" */
    vd_slice_t mode; /* w: a name of settings.getLastErrorModes, or empty */
    int64_t w;       /* when neither */
    bool journal;
    uint64_t timeout_ms;
    bool custom_default; /* not the client's: set by setDefaultRWConcern */
} stor_write_concern_t;

/* What a request waits for besides the disk, without a worker (replication/positions.h). */
typedef enum {
    STOR_WAIT_NOTHING,
    STOR_WAIT_WRITE,        /* its write concern */
    STOR_WAIT_MAJORITY,     /* what it read must be on a majority */
    STOR_WAIT_LINEARIZABLE, /* and no other primary may have gone on meanwhile */
    STOR_WAIT_TIME,         /* afterClusterTime: before the handler */
    STOR_WAIT_ANSWER,       /* of replicad; the handler has asked */
} stor_wait_kind_t;

typedef struct {
    uint8_t kind;  /* stor_wait_kind_t */
    uint8_t queue; /* positions.c */
    bool parked;
    int code;        /* why it failed at a change of role or configuration */
    bool run_again;  /* released: to the workers, not to the client */
    uint64_t key[2]; /* timestamp, deadline (monotonic us) */
    uint32_t at[2];  /* places in the heaps */
    void *answer;    /* of STOR_WAIT_ANSWER */
} stor_wait_t;

struct stor_request {
    stor_flush_waiter_t flush; /* parked for durability */
    struct stor_request *next; /* in a queue */
    stor_storage_t *storage;
    stor_session_t *session; /* the worker's or the transaction's; set while a handler runs */
    vd_arena_t *arena;
    uint64_t peer;   /* gateway link that asked */
    uint64_t number; /* opid */

    /* what came */
    vd_slice_t item; /* the whole message, in the arena; all below borrow it */
    vdp_envelope_t envelope;
    vdp_operation_command_t command;
    vdp_sections_t sections;
    vd_bson_t body; /* = sections.body: the command document */
    const stor_command_t *entry;
    vd_slice_t db; /* = command.db */
    bool writes;   /* by its entry, or because its pipeline ends in $out or $merge */

    /* generic arguments */
    stor_read_level_t read_level;
    uint64_t after_cluster_time, cluster_time; /* the latter: what the client has seen */
    bool names_level;                          /* of its read concern */
    bool read_elsewhere;                       /* $readPreference other than primary */
    stor_write_concern_t write_concern;
    vd_value_t comment;
    int64_t txn_number; /* -1 = none: not a retryable write */
    /* The same of a statement in a transaction (autocommit: false), which is no retryable write.
     * Others look at it while it is read. */
    int64_t transaction_number;
    bool autocommit_given, start_given; /* start_given: startTransaction */
    /* Whose default collation is in force, because the command named none; db and name NULL:
     * none's. Looked at again when the collection is held (catalog.c). */
    vd_slice_t default_db, default_name;
    vd_bson_t default_collation;
    bool read_concern_given, read_available;
    uint64_t at_cluster_time; /* of readConcern; 0 = none */
    stor_variables_t
        variables; /* NOW is set; a command with `let` adds to it by stor_variables_parse_let */

    /* time */
    uint64_t arrived_us, started_us; /* monotonic */
    uint64_t queued_us;              /* since when it stands in its lane's queue */
    uint64_t deadline_us;            /* monotonic; 0 = none: from maxTimeMS and the envelope */
    bool deadline_is_max_time;       /* error 50 instead of 262 */
    atomic_int killed;               /* 0, or the negative code to end with (VD_ERR_INTERRUPTED,
                                        VD_ERR_CLIENT_DISCONNECT ...) */
    uint32_t checks;                 /* stor_request_check reads the clock only now and then */

    /* what goes back */
    vd_bb_t reply;
    int status; /* VD_OK or the top-level error's code */
    uint32_t reply_flags;
    uint64_t depends_on;     /* the reply waits until this is durable */
    bool flush_all;          /* and until all that was committed before is (events of the audit) */
    uint64_t operation_time; /* of a write; 0: depends_on or the visible point */
    int64_t cursor_id;       /* open after this reply */
    vd_slice_t cursor_ns, resume;
    vd_bson_t reply_document; /* finished */
    vd_slice_t reply_head;    /* encoded message head */
    bool announce;            /* users or roles changed: STATE goes out before the reply */
    stor_version_seen_t seen; /* of VDP_COMMAND_VERSIONED: what the reply depends on */

    /* for currentOp, the slow log and profiling */
    vd_slice_t ns; /* "db.c" once known */
    const char *plan_summary;
    bool used_disk; /* wrote what did not fit into memory to disk */
    uint64_t documents_examined, keys_examined, documents_returned, conflicts, yields;
    const char *progress_message; /* of long work; NULL = none */
    uint64_t progress_done, progress_total;

    /* replication */
    stor_wait_t wait;
    uint64_t term; /* in which it was admitted */
    bool prepared; /* has been on a worker before */
    bool entered;  /* counts as a writer */
    bool freezes;  /* counts as a writer for freeze.h */
    /* Parked without a worker (streams/waits.h): a getMore that waits for data, whose cursor stays
     * pinned; or what await_ready says. */
    bool awaiting;       /* the handler has nothing to tell: park it */
    bool may_await;      /* there is somebody who parks: the inbox */
    bool change_stream;  /* for the labels of errors */
    void *await_cursor;  /* cursors.c */
    uint32_t await_size; /* batchSize */
    uint64_t await_until_us, await_seen;
    bool (*await_ready)(const struct stor_request *request); /* stor_request_wait */
    void *unfinished; /* of a handler that runs again: what it has done; in the arena */
    struct stor_stream *await_stream; /* what it waits for; NULL: what becomes visible here */

    uint32_t held_count;
    stor_collection_t *held[STOR_REQUEST_HELD_MAX];
    void *executing; /* sessions.c: the session whose retryable write or transaction this is */
    stor_transaction_t *transaction; /* open, while one of its statements runs */
    struct stor_pin *pin;            /* the snapshot that is read outside of one (pins.h) */
    uint64_t pinned_at;              /* its time */
    stor_session_t *worker_session;  /* with either: the worker's own; else NULL */
    stor_catalog_mark_t catalog_mark;
    struct vd_daemon_slot
        *slot; /* the worker's sign of life, stamped by stor_request_check; or NULL */
    bool slow_lane;
    bool registered;
    struct stor_request *registry_next,
        *registry_prev; /* in flight: for currentOp and killOp (inbox.c) */
};

/* ---- life (inbox.c and tests) ---- */
/* A request over an arena that it doesn't own. Cheap: fields that are set later are not cleared. */
void stor_request_init(stor_request_t *request, stor_storage_t *storage, vd_arena_t *arena);
/* When its time ends, from what came; a getMore's maxTimeMS says how long it may wait for
 * documents, and no deadline comes with it. */
void stor_request_set_deadline(stor_request_t *request);
/* Whether it may be answered, though it waits for a worker: nothing was begun for it that one would
 * have to end; and why it should: as stor_request_check. */
bool stor_request_is_over(const stor_request_t *request, uint64_t now_us);
/* The answer to such a one. */
void stor_request_give_up(stor_request_t *request);
/* Looks up the command, parses the generic arguments, sets the deadline. The error is what the
 * client gets. */
VD_MUST_CHECK int stor_request_prepare(stor_request_t *request, vd_error_t *err);
/* prepare + handler + finish on this thread with this engine session: afterwards reply_document,
 * status, depends_on are set. Never fails: errors become replies. */
void stor_request_run(stor_request_t *request, stor_session_t *session);
/* An error reply without running (admission). */
void stor_request_refuse(stor_request_t *request, const vd_error_t *err);

/* Its write concern was not reached: the reply gets a writeConcernError, the write stands. timed
 * out: code 64 with errInfo. */
void stor_request_concern_failed(stor_request_t *request, int code, const char *message);
/* After a handler that has left the rest to somebody else (STOR_WAIT_ANSWER): its reply is whole.
 */
void stor_request_finish(stor_request_t *request, int rc, const vd_error_t *err);

/* ---- for handlers ---- */
/* To be called in every loop: VD_OK, or VD_ERR_INTERRUPTED, VD_ERR_MAX_TIME_MS_EXPIRED,
 * VD_ERR_CLIENT_DISCONNECT ... Cheap. */
VD_MUST_CHECK int stor_request_check(stor_request_t *request, vd_error_t *err);
/* Whether the disk has room for a transaction of this command (VD_ERR_OUT_OF_DISK_SPACE). Cheap. */
VD_MUST_CHECK int stor_request_space(const stor_request_t *request, vd_error_t *err);
/* The reply shows, or was decided by, what was committed at `timestamp`. */
static inline void stor_request_depends(stor_request_t *request, uint64_t timestamp)
{
    if (timestamp > request->depends_on)
        request->depends_on = timestamp;
}
/* The reply shows that something is not there (or is the result of a range): it depends on the
 * newest commit. Call after reading. */
void stor_request_depends_newest(stor_request_t *request);
/* Waits for ready() (any thread; cheap) without a worker: *ret_parked, and the handler returns
 * VD_OK with request->unfinished (in the arena) saying where it was; it runs again, with that, once
 * ready() is true, or the request is killed or late. ready() is looked at whenever stor_waits_moved
 * was called, and every STOR_WAITS_LOOK_MS. Where nobody parks (in a transaction, while storage
 * drains, in tests) it is a short rest on this thread and a look at what stops the request. */
VD_MUST_CHECK int stor_request_wait(stor_request_t *request,
                                    bool (*ready)(const stor_request_t *request), bool *ret_parked,
                                    vd_error_t *err);
/* The command's first value as a collection name, checked (73 InvalidNamespace). */
VD_MUST_CHECK int stor_request_collection_name(stor_request_t *request, vd_slice_t *ret_name,
                                               vd_error_t *err);
/* "db.collection" in the arena; also sets request->ns. */
vd_slice_t stor_request_namespace(stor_request_t *request, vd_slice_t collection);
/* The user may see what belongs to other users. */
static inline bool stor_request_all_users(const stor_request_t *request)
{
    return (request->command.flags & VDP_COMMAND_ALL_USERS) != 0;
}
static inline bool stor_request_internal(const stor_request_t *request)
{
    return (request->command.flags & VDP_COMMAND_INTERNAL) != 0;
}
