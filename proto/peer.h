/* proto/peer.h — replicad of one node <-> replicad of another. See peer.md. */
#pragma once
#include "proto/replication.h"

#define VDP_PEER_PROTOCOL    1
#define VDP_PEER_ADDRESS_MAX 255
#define VDP_PEER_ASK_MAX     4096
#define VDP_PEER_PROBLEM_MAX 200

/* Who asks and who answers: the first item of each direction. */
typedef struct {
    uint32_t protocol; /* VDP_PEER_PROTOCOL */
    vd_slice_t set;    /* name of the replica set */
    vd_slice_t set_id; /* 12; empty as long as there is no configuration */
    vd_slice_t node, peer, host;
    int64_t config_version, config_term; /* 0: none */
    vd_slice_t instance;                 /* 16 random bytes per start */
} vdp_peer_hello_t;

/* HEARTBEAT and STATUS. Body of both: the sender's configuration if the other's is older. */
typedef struct {
    uint64_t sent_ms; /* of the heartbeat; the answer repeats it */
    uint32_t state;   /* repl_role_state_t */
    uint64_t term;
    uint32_t leader; /* member's id, 0 = not known */
    uint64_t received, flushed, applied, majority;
    int64_t config_version, config_term;
    uint32_t sync_source; /* member's id, 0 = nobody */
    uint32_t role;        /* VDP_ROLE_* of its storage */
    bool empty;
    vd_slice_t problem;     /* why it does not get on, for people; empty: it does */
    vd_slice_t builds;      /* as in STATE: index builds that are ready there */
    uint64_t newest_age_ms; /* of a leader: `applied` is all that it had acknowledged so long ago,
                               and one; 0: not said */
    uint64_t auth_position; /* of a leader: of the newest change of users, roles, tokens then, and
                               one; 0: not said */
} vdp_peer_status_t;

/* Begins a stream: ENTRIES with this request_id until a FAILURE or the end of the connection. */
typedef struct {
    uint64_t term, after, credit; /* bytes */
    bool loaded; /* `after` is where a snapshot ended that was taken in `loaded_term` */
    uint64_t loaded_term;
} vdp_peer_pull_t;
typedef struct {
    uint64_t term, after, last;
    uint32_t count;
    uint64_t newest; /* visible point there: how far behind this is */
    bool partial;
    uint32_t last_part;
    uint64_t majority;
} vdp_peer_entries_t;
/* Notice. stream: request_id of PULL. */
typedef struct {
    uint64_t stream, term, received, flushed, applied, credit; /* bytes given back */
} vdp_peer_ack_t;
/* Notice, to those who pull. */
typedef struct {
    uint64_t term, majority;
} vdp_peer_majority_t;

/* Asks the other to agree to a term. */
typedef struct {
    uint64_t term, position;
} vdp_peer_fence_t;
typedef struct {
    uint64_t term; /* as it is agreed to there */
    bool granted;
    uint64_t position; /* flushed */
    uint64_t heard_ms; /* since it last answered a primary's heartbeat */
} vdp_peer_fenced_t;
/* Notice: the primary gives this term away; position: its newest entry. */
typedef struct {
    uint64_t term, position;
} vdp_peer_handover_t;

/* An administrator's verb for the node that can do it. */
typedef struct {
    vd_slice_t verb, argument, argument2;
    uint32_t hops; /* how often it was passed on */
} vdp_peer_ask_t;
typedef struct {
    int64_t code;
    vd_slice_t message;
} vdp_peer_answer_t;

/* FIND: body = u64 LE timestamps, newest first. */
typedef struct {
    uint64_t unused;
} vdp_peer_find_t;
typedef struct {
    uint64_t timestamp; /* first of them that the journal there holds; 0 = none */
    uint64_t oldest;    /* entries above are all there */
} vdp_peer_found_t;

extern const vdp_message_t vdp_peer_hello, vdp_peer_welcome, vdp_peer_heartbeat, vdp_peer_status,
    vdp_peer_pull, vdp_peer_entries, vdp_peer_ack, vdp_peer_majority, vdp_peer_fence,
    vdp_peer_fenced, vdp_peer_handover, vdp_peer_ask, vdp_peer_answer, vdp_peer_find,
    vdp_peer_found;
/* Structs and bodies of the same names in replication.h. */
extern const vdp_message_t vdp_peer_snapshot_open, vdp_peer_snapshot_opened, vdp_peer_snapshot_read,
    vdp_peer_snapshot_chunk, vdp_peer_snapshot_close;
