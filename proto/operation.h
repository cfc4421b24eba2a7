/* proto/operation.h — gateway <-> storage. See operation.md. */
#pragma once
#include "libcommon/base/limits.h"
#include "proto/codec.h"

/* Gateway -> storage, first on a link; storage answers ATTACHED and then STATE whenever it
 * changes. */
typedef struct {
    vd_slice_t instance; /* 16 random bytes per gateway start */
    uint64_t thread;     /* loop thread: each has its own link */
} vdp_operation_attach_t;

/* What the gateway must know to answer hello and to trust its caches. */
typedef struct {
    vd_slice_t boot_id;  /* 16 bytes, new at each start of storage */
    bool ready;          /* takes commands */
    bool writable;       /* primary */
    uint64_t auth_epoch; /* grows with every change of users or roles */
    uint64_t term;
    uint64_t newest; /* operationTime to announce (visible timestamp) */
    uint64_t durable;
    int64_t last_write_ms; /* wall clock of the newest write */
    /* false: only the one-time bootstrap may create the first administrator */
    bool has_users;
    /* 12 bytes: the replica set's and election's ObjectId, made at bootstrap */
    vd_slice_t set_id;
    uint32_t role;     /* VDP_ROLE_* of replication.h */
    uint64_t majority; /* on a majority of the members' disks */
    /* BSON, what hello tells of the set (replication.md); empty: a set of this node alone */
    vd_slice_t topology;
    /* The host's monotonic clock: what any member had acknowledged by then is in force here;
     * UINT64_MAX: always (a node alone); 0: not known. */
    uint64_t fresh_ms;
} vdp_operation_state_t;

enum {
    /* from the gateway itself (users, roles): may touch admin.system.* */
    VDP_COMMAND_INTERNAL = 1u << 0,
    VDP_COMMAND_NO_REPLY = 1u << 1, /* moreToCome: w:0 */
    VDP_COMMAND_RESENT = 1u << 2,   /* sent again after a restart of storage */
    /* may see and kill other users' cursors and operations (killAnyCursor, inprog) */
    VDP_COMMAND_ALL_USERS = 1u << 3,
    VDP_COMMAND_VERSIONED = 1u << 4, /* the reply may be kept: say what it depends on */
    /* getMore: what opened the cursor is allowed to its user, as of auth_epoch */
    VDP_COMMAND_AUTHORIZED = 1u << 5,
};

typedef struct {
    vd_slice_t name; /* the command's name as in the table: "find" */
    vd_slice_t db;
    uint32_t flags;
    vd_slice_t user;   /* "name@db", empty when nobody is logged in */
    vd_slice_t client; /* "127.0.0.1:50000" */
    vd_slice_t app;    /* application name from client metadata */
    uint64_t connection_id;
    /* the gateway's; an older one than storage knows is refused with VDP_REPLY_RETRY */
    uint64_t auth_epoch;
    vd_slice_t lsid; /* 16 bytes, or empty */
    /* 32 bytes: SHA-256 of user@db, part of the session's identity; empty when lsid is */
    vd_slice_t lsid_user;
    int64_t txn_number;   /* -1 = none */
    uint32_t max_time_ms; /* 0 = none */
    /* listDatabases, listCollections: BSON {all: bool, databases: [..], collections: ["db.c", ..]};
     * empty = all */
    vd_slice_t visible;
    /* $clusterTime of the client, which the gateway has verified: storage's clock moves to it; 0 =
     * none. What the body says of it is not looked at. */
    uint64_t cluster_time;
    /* Limits of the user, as they are in force; 0 = none beyond storage's own. */
    uint32_t cursors_max, sessions_max;
    uint32_t batch_max;     /* bytes of one batch */
    uint64_t result_max;    /* bytes of all batches of a cursor that this command opens */
    uint32_t queue_wait_ms; /* it is refused at once when it would wait for longer */
    /* $$USER_ROLES: BSON array of {_id, role, db}, all that the user has; empty = none */
    vd_slice_t roles;
} vdp_operation_command_t;
/* Body: the OP_MSG sections as on the wire (kind 0 document and kind 1 sequences), checked by the
 * gateway for structure (sections.h). */

enum {
    /* nothing was done: the gateway may send it again (auth epoch, starting) */
    VDP_REPLY_RETRY = 1u << 0,
    /* getMore: nothing was done; users have changed since the cursor was opened or last looked at.
     * If what opened it ({originating} is the body) is still allowed: again, with AUTHORIZED. */
    VDP_REPLY_AUTHORIZE = 1u << 1,
    /* test.faults: instead of an answer the client's connection is closed */
    VDP_REPLY_CLOSE = 1u << 2,
};
typedef struct {
    int64_t status; /* VD_OK, or the top-level error's negative code */
    uint32_t flags;
    uint64_t operation_time;
    int64_t cursor_id; /* cursor open after this reply; 0 = none */
    vd_slice_t cursor_ns;
    /* opaque key: reopen the cursor after a crash from here; empty = can't (always, today) */
    vd_slice_t resume;
    /* What a reply to VDP_COMMAND_VERSIONED depends on (versions.md); slot 0: not to be kept. */
    uint32_t version_slot; /* its number, and one */
    uint64_t version_epoch, version;
    uint64_t examined; /* what it cost: documents and index keys looked at */
} vdp_operation_reply_t;
/* Body: the BSON reply ready for the client, including ok, operationTime and $clusterTime. */

typedef struct {
    uint64_t target_request_id;
} vdp_operation_cancel_t;
typedef struct {
    uint64_t connection_id;
} vdp_operation_connection_closed_t;
typedef struct {
    uint64_t unused;
} vdp_operation_ping_t;

extern const vdp_message_t vdp_operation_attach, vdp_operation_attached /* state_t */,
    vdp_operation_state, vdp_operation_command, vdp_operation_reply, vdp_operation_cancel,
    vdp_operation_connection_closed, vdp_operation_ping, vdp_operation_pong;
