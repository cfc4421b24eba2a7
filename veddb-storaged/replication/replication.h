/* veddb-storaged/replication/replication.h — what this node is in its replica set, as storage must
 * know it, and the conversation with replicad.
 *
 * Duty:    keeps role and term (durable), the set's configuration, and the last topology and status
 *          that replicad told; runs the link to replicad on a thread of its own and hands its
 *          messages to the modules of this room: tail, apply, positions, snapshot, load, rollback.
 *          A node without `replication.port` is primary from the start, alone, and has no link.
 * Rows:    meta "term" (int64), "leader" (string), "set_config" (BSON), "position" (int64: where a
 *          loaded snapshot's journal begins), "load" (BSON, while a snapshot is half loaded).
 * Owner:   storaged.c opens and closes it; main.c starts and stops the link.
 * Threads: role, term, majority: atomic, any. The link: its own thread, with an engine session.
 * Rules:   what a client is told never comes from a role older than the one in force: a write
 *          checks the role after its transaction began (stor_replication_write_enter). */
#pragma once
#include "libcommon/bson/view.h"
#include "proto/replication.h"
#include "veddb-storaged/storaged.h"

struct vd_daemon;

struct stor_replication {
    stor_storage_t *storage;
    bool alone;      /* no replicad: always primary */
    atomic_int role; /* VDP_ROLE_* */
    atomic_uint_fast64_t term;
    atomic_uint_fast64_t majority; /* stor_replication_majority reads it; positions.c writes it */
    atomic_uint config_generation; /* grows with each change: the link announces it */
    atomic_int writers;            /* write transactions that passed the role's check */
    atomic_uint_fast64_t heard_ms; /* monotonic: when replicad last said something; role.c */
    atomic_uint_fast64_t lease_until_ms; /* monotonic: as primary; role.c */
    atomic_uint_fast64_t fresh_ms;       /* as OPERATION_STATE tells it; role.c */
    pthread_mutex_t role_lock;           /* one change of role at a time */
    struct stor_positions *positions;    /* positions.h */
    struct stor_apply *apply;            /* apply.h */
    struct stor_tail *tail;              /* tail.h */
    struct stor_snapshots *snapshots;    /* snapshot.h: those that are being read */
    struct stor_load *load;              /* load.h: the one that is being loaded, or NULL */
    struct stor_replication_link *link;  /* link.h; NULL without */

    pthread_mutex_t lock; /* for what follows */
    char leader[VDP_NODE_NAME_MAX + 1];
    vd_bson_t config;   /* own copy; empty = none */
    vd_bson_t topology; /* as hello shows it */
    int64_t topology_version;
    vd_bson_t status; /* for replSetGetStatus */
};
typedef struct stor_replication stor_replication_t;

/* Reads the rows. alone: settings say that there is no replicad. */
VD_MUST_CHECK int stor_replication_open(stor_storage_t *storage, bool alone,
                                        stor_replication_t **ret_replication, vd_error_t *err);
void stor_replication_close(stor_replication_t **replication_p);
/* The link's thread (link.c). Not for a node alone. */
VD_MUST_CHECK int stor_replication_start(stor_storage_t *storage, struct vd_daemon *daemon,
                                         const char *socket_path, vd_error_t *err);
void stor_replication_stop(stor_storage_t *storage);

/* Something that STATE tells has changed (any thread). */
void stor_replication_announce(stor_storage_t *storage);
/* What every member had acknowledged at that time of the host's monotonic clock is in force here;
 * UINT64_MAX: a node alone. */
uint64_t stor_replication_fresh_ms(const stor_storage_t *storage);
/* Replicad has confirmed it; gateways are told at once. */
void stor_replication_fresh(stor_storage_t *storage, uint64_t term, uint64_t fresh_ms);
/* No replicad says what we are: always primary, and what is durable is on a majority. */
static inline bool stor_replication_alone(const stor_storage_t *storage)
{
    return storage->replication == NULL || storage->replication->alone;
}
static inline uint64_t stor_replication_term(const stor_storage_t *storage)
{
    return storage->replication == NULL
               ? storage->term
               : atomic_load_explicit(&storage->replication->term, memory_order_acquire);
}
static inline int stor_replication_role(const stor_storage_t *storage)
{
    if (storage->replication == NULL)
        return VDP_ROLE_PRIMARY; /* unit tests without it */
    return atomic_load_explicit(&storage->replication->role, memory_order_acquire);
}

/* ---- role ---- */
/* Makes term and role durable, then in force. Towards primary: timestamps are drawn under the new
 * term from now on, and a no-op entry begins it. Away from primary: waits until no write is under
 * way. VD_ERR_STALE_TERM: we have agreed to a newer one. Link's thread. */
VD_MUST_CHECK int stor_replication_role_set(stor_storage_t *storage, stor_session_t *session,
                                            uint64_t term, int role, vd_slice_t leader,
                                            uint64_t *ret_newest, vd_error_t *err);
/* Around each write transaction of a client: VD_ERR_NOT_WRITABLE_PRIMARY when this node isn't (any
 * more). leave in every case after VD_OK. */
VD_MUST_CHECK int stor_replication_write_enter(stor_storage_t *storage, vd_error_t *err);
void stor_replication_write_leave(stor_storage_t *storage);
/* The same for a request's transaction, once however often it is called; left by the frame at the
 * latest. */
VD_MUST_CHECK int stor_replication_request_enter(stor_request_t *request, vd_error_t *err);
void stor_replication_request_leave(stor_request_t *request);
/* Just before its commit: VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE when the role has gone, or
 * the lease is over: from then on another may lead, whether replicad is there to say so or not. */
VD_MUST_CHECK int stor_replication_request_commit(const stor_request_t *request, vd_error_t *err);
/* As primary of that term we lead until then, unless replicad says a later time. UINT64_MAX:
 * without an end; 0: nothing is said, what was said before stays. */
void stor_replication_lease(stor_storage_t *storage, uint64_t term, uint64_t until_ms);
/* Replicad said something (the link's thread, for every message): it is there to renew. */
void stor_replication_heard(stor_storage_t *storage);
/* A primary whose replicad has been silent for settings.lease_ms becomes secondary. True: it did.
 * Every now and then, any thread. */
bool stor_replication_lease_check(stor_storage_t *storage);
/* An entry that changes nothing, {msg: ...}: as a writer of its own, on a primary. */
VD_MUST_CHECK int stor_replication_noop(stor_storage_t *storage, stor_session_t *session,
                                        vd_value_t message, uint64_t *ret_timestamp,
                                        vd_error_t *err);
/* "PRIMARY", as MongoDB names the state; and its number. */
const char *stor_replication_state_name(int role);
int32_t stor_replication_state(int role);
/* May this command run here now: NotWritablePrimary (10107), NotPrimaryNoSecondaryOk (13435),
 * NotPrimaryOrSecondary (13436). request.c asks before the handler. */
VD_MUST_CHECK int stor_replication_admit(stor_request_t *request, vd_error_t *err);

/* ---- points ---- */
/* Newest timestamp that is on a majority's disks and so can't be rolled back. Alone: the durable
 * point. Never falls. */
uint64_t stor_replication_majority(const stor_storage_t *storage);

/* ---- configuration ---- */
/* In the session's open transaction: the meta row (apply, and the primary's own change). */
VD_MUST_CHECK int stor_replication_config_put(stor_session_t *session, vd_bson_t config,
                                              vd_error_t *err);
/* After its commit: our copy, and STATE to both sides. */
void stor_replication_config_changed(stor_storage_t *storage, vd_bson_t config);
/* Into the arena; empty when there is none. */
vd_bson_t stor_replication_config(stor_storage_t *storage, vd_arena_t *arena);
vd_bson_t stor_replication_topology(stor_storage_t *storage, vd_arena_t *arena);
vd_bson_t stor_replication_status(stor_storage_t *storage, vd_arena_t *arena);
/* What replicad told (link.c). */
void stor_replication_topology_set(stor_storage_t *storage, int64_t version, vd_bson_t topology);
void stor_replication_status_set(stor_storage_t *storage, vd_bson_t status);
/* Asks replicad (any thread; called back on the link's thread). VD_ERR_NO_REPLICATION_ENABLED for a
 * node alone. */
VD_MUST_CHECK int
stor_replication_ask(stor_storage_t *storage, const vdp_replication_ask_t *ask, vd_slice_t body,
                     void (*answered)(void *context, int code, vd_slice_t message, vd_slice_t body),
                     void *context, vd_error_t *err);
