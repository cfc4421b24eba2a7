/* proto/replication.h — storage <-> replicad of one node. See replication.md. */
#pragma once
#include "libcommon/base/limits.h"
#include "proto/codec.h"

/* What storage does at present. Also OPERATION_STATE.role. */
enum {
    VDP_ROLE_STARTING = 0,   /* nobody has said yet: no reads, no writes */
    VDP_ROLE_PRIMARY = 1,    /* takes writes */
    VDP_ROLE_SECONDARY = 2,  /* applies, serves reads */
    VDP_ROLE_RECOVERING = 3, /* loads a snapshot or rolls back: no reads */
    VDP_ROLE_REMOVED = 4,    /* not a member: no reads */
};

#define VDP_NODE_NAME_MAX  63
#define VDP_SET_CONFIG_MAX (64 * 1024)
#define VDP_TOPOLOGY_MAX   (32 * 1024)
#define VDP_SET_STATUS_MAX (128 * 1024)
#define VDP_ENTRIES_MAX    (34 * 1024 * 1024) /* body of BATCH and APPLY: at least one entry fits */
#define VDP_SIGNATURE_MAX  1024               /* RSA of 8192 bits */
#define VDP_BUILDS_MAX     16                 /* index builds under way in a set */
#define VDP_CHUNK_MAX      (34 * 1024 * 1024) /* of SNAPSHOT_CHUNK: 1 MB, or one larger record */

typedef struct {
    vd_slice_t instance; /* 16 random bytes per start of replicad */
    vd_slice_t node;
} vdp_replication_attach_t;

/* ATTACHED, STATE (at once on a change of role, term or config; else every 250 ms). Body: the set's
 * configuration (BSON), empty when there is none yet. */
typedef struct {
    vd_slice_t boot_id; /* 16 */
    bool ready;         /* the engine is open */
    uint32_t role;
    uint64_t term;   /* durable: the newest that storage has agreed to */
    uint64_t newest; /* visible point: on a secondary what is applied */
    uint64_t durable;
    uint64_t oldest;   /* entries above are all in the journal */
    uint64_t majority; /* as storage knows it */
    vd_slice_t set_id; /* 12 */
    bool empty;        /* no data of users yet: may be loaded over without asking */
    bool loading;      /* a snapshot is half loaded */
    vd_slice_t leader; /* whom ROLE named last (the row "leader"); empty: not known */
    /* While loading: the copy that LOAD_BEGIN can go on with, and the node that gives it. */
    vd_slice_t load_snapshot, load_source;
    uint64_t floor; /* while loading: the newest that was here before, so no acknowledgement was of
                       anything above; 0: not known, or there was nothing */
    vd_slice_t builds;      /* index builds that are ready to be committed here: ids, u64 LE each */
    uint64_t made_ms;       /* the host's monotonic clock when `newest` was looked at */
    uint64_t auth_position; /* of the newest change of users, roles, tokens, and one; 0: not said */
} vdp_replication_state_t;

/* Answered when it is durable and, for less than primary, when no write is under way any more.
 * FAILURE StaleTerm: storage has agreed to a newer term. */
typedef struct {
    uint64_t term;
    uint32_t role;
    vd_slice_t leader; /* name of the primary's node; empty: of the same term as before, it stays */
} vdp_replication_role_t;
typedef struct {
    uint64_t term;
    uint32_t role;
    uint64_t newest; /* after the last write; of a new primary: its first entry of the term */
} vdp_replication_role_set_t;

/* Notice: what gateways need for hello. Body: BSON (replication.md), passed on in OPERATION_STATE.
 */
typedef struct {
    int64_t version; /* grows with each change */
} vdp_replication_topology_t;

/* Entries above `after`, in order, without a hole. Waits up to wait_ms while there is none. */
typedef struct {
    uint64_t after;
    uint32_t bytes_max; /* at least one entry comes, however large */
    uint32_t wait_ms;
    uint32_t reader;     /* member's id, storage does not look at it */
    uint32_t after_part; /* go on above this part of `after`, which was partial; else UINT32_MAX */
} vdp_replication_tail_t;
/* Body: entries, each {key 12 B, u32 length, value} as in the journal (journal.h). FAILURE
 * ChangeStreamHistoryLost: cut away. */
typedef struct {
    uint64_t after, last; /* last = after when there was none */
    uint32_t count;
    uint64_t newest; /* visible point: how far behind this is */
    bool partial;    /* the last entry's timestamp has more parts, for which there was no room */
    uint32_t last_part;
} vdp_replication_batch_t;

/* Body as BATCH. `after` must be what is applied; several may be under way, done in order. */
typedef struct {
    uint64_t term, after, last;
    uint32_t count;
    bool partial;     /* more parts of `last` follow in the next APPLY: same transaction */
    int64_t delay_ms; /* a delayed member applies no entry that is younger */
} vdp_replication_apply_t;
/* When durable. FAILURE: BadValue = `after` is not the applied position; Diverged = an entry's
 * previous version is not ours: resync. */
typedef struct {
    uint64_t applied, durable;
} vdp_replication_applied_t;

/* Notice, to the primary's storage. Body: records of VDP_POSITION_BYTES (vdp_position_t).
 * `majority` is looked at by secondaries only: a primary counts by itself. */
typedef struct {
    uint64_t term, majority;
    uint64_t lease_until_ms; /* of the host's monotonic clock: storage commits no write later, but
                                for a newer one of these; UINT64_MAX: no end; 0: of a follower */
    /* Which index builds the members have ready: {u32 LE member, u32 LE count, ids u64 LE}. */
    vd_slice_t builds;
    uint64_t fresh_ms; /* as in OPERATION_STATE; 0: nothing new of it */
} vdp_replication_positions_t;
#define VDP_MEMBER_BUILDS_MAX (8 + 8 * VDP_BUILDS_MAX) /* bytes of one member's */
#define VDP_POSITION_BYTES    32
typedef struct {
    uint32_t member;
    bool up;
    uint64_t received, flushed, applied;
} vdp_position_t;
void vdp_position_write(uint8_t out[VDP_POSITION_BYTES], const vdp_position_t *position);
void vdp_position_read(const uint8_t in[VDP_POSITION_BYTES], vdp_position_t *ret_position);

/* To a primary: journals the new configuration (body) if its version is the present one + 1, or its
 * term is newer and its version not older. */
typedef struct {
    int64_t version;
} vdp_replication_config_t;
typedef struct {
    uint64_t timestamp;
} vdp_replication_config_set_t;

/* Notice. Body: what replSetGetStatus shows (BSON), kept by storage until the next. */
typedef struct {
    uint64_t unused;
} vdp_replication_status_t;

/* Storage -> replicad: an administrator's command from the wire; same verbs as vedctl's. Body: the
 * command (BSON). */
typedef struct {
    vd_slice_t verb, argument, argument2;
} vdp_replication_ask_t;
/* Body: BSON for the reply, or empty. */
typedef struct {
    int64_t code;
    vd_slice_t message;
} vdp_replication_answer_t;

/* Body: u64 LE timestamps, newest first. FOUND: the first that our journal holds; 0 = none. With an
 * empty body in `sample`: our own newest ones, at growing distances (body of FOUND). */
typedef struct {
    bool sample;
} vdp_replication_find_t;
typedef struct {
    uint64_t timestamp;
} vdp_replication_found_t;

/* Body: u64 LE timestamps. COUNTED: how many entries our journal has above each (body: u64 LE each,
 * with VDP_COUNT_AT_LEAST when there may be more). */
#define VDP_COUNT_AT_LEAST (UINT64_C(1) << 63)
#define VDP_COUNTS_MAX     192
typedef struct {
    uint64_t unused;
} vdp_replication_count_t;
typedef struct {
    uint64_t newest; /* visible point when they were counted */
} vdp_replication_counted_t;

/* To a recovering node: what was journaled above `to` is saved in the recovery folder, one BSON
 * file a collection; then the node counts as empty. */
typedef struct {
    uint64_t to;
} vdp_replication_rollback_t;
typedef struct {
    uint64_t documents;
    vd_slice_t folder;
} vdp_replication_rolled_back_t;

/* ---- snapshots ---- */
typedef struct {
    uint64_t unused;
    vd_slice_t
        snapshot; /* this one again, as it was opened (SnapshotUnavailable); empty: a new one */
} vdp_snapshot_open_t;
/* Body: manifest (BSON): {config, collections: [{id, ns, uuid, options, documents, bytes, hash}]}.
 */
typedef struct {
    vd_slice_t snapshot; /* 16 bytes: its identity */
    uint64_t position;   /* the journal goes on above */
    uint64_t term, bytes, documents;
    vd_slice_t signature; /* between nodes: of the source's certificate's key (replicad's seal.h) */
} vdp_snapshot_opened_t;
/* Body: the last key that is already there; empty = from the start. With `next` behind the chunk
 * that was read last, so that several may be asked for at once; the body is empty then. */
typedef struct {
    vd_slice_t snapshot;
    uint64_t collection; /* of the manifest; 0 = results of retryable writes */
    bool next;
} vdp_snapshot_read_t;
/* Body: records {u32 length, key, u32 length, value}, sorted. CHUNK and LOAD_CHUNK. */
typedef struct {
    vd_slice_t snapshot;
    uint64_t collection;
    uint32_t count;
    bool last;         /* nothing more in this collection */
    vd_slice_t sha256; /* 32, of the body */
    vd_slice_t after;  /* the key before its first: nothing may be missing in between */
} vdp_snapshot_chunk_t;
typedef struct {
    vd_slice_t snapshot;
} vdp_snapshot_close_t;
/* Body: the manifest. Drops what the node has, or goes on with a load of the same snapshot. */
typedef struct {
    vd_slice_t snapshot;
    uint64_t position, term;
    vd_slice_t set_id;
    vd_slice_t source; /* node's name: whom to ask when the copy goes on after a restart */
} vdp_load_begin_t;
/* Where to go on. Body: last key that is there. */
typedef struct {
    vd_slice_t snapshot;
    uint64_t collection;
    bool all; /* nothing is missing any more: LOAD_END */
} vdp_load_state_t;
typedef struct {
    uint64_t collection, documents;
} vdp_load_chunk_done_t;
typedef struct {
    vd_slice_t snapshot;
} vdp_load_end_t;
typedef struct {
    uint64_t position;
} vdp_load_ended_t;

extern const vdp_message_t vdp_replication_attach, vdp_replication_attached, vdp_replication_state,
    vdp_replication_role, vdp_replication_role_set, vdp_replication_topology, vdp_replication_tail,
    vdp_replication_batch, vdp_replication_apply, vdp_replication_applied,
    vdp_replication_positions, vdp_replication_config, vdp_replication_config_set,
    vdp_replication_status, vdp_replication_ask, vdp_replication_answer, vdp_replication_find,
    vdp_replication_found, vdp_replication_rollback, vdp_replication_rolled_back,
    vdp_replication_count, vdp_replication_counted, vdp_snapshot_open, vdp_snapshot_opened,
    vdp_snapshot_read, vdp_snapshot_chunk, vdp_snapshot_close, vdp_load_begin, vdp_load_state,
    vdp_load_chunk, vdp_load_chunk_done, vdp_load_end, vdp_load_ended;
