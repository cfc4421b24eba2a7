/* veddb-replicad/node.h — this node of the replica set: what its modules share.
 *
 * Owner:   replicad.c. Threads: the main loop's alone. Each part belongs to the module named. */
#pragma once
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/link.h"
#include "veddb-replicad/elect.h"
#include "veddb-replicad/marks.h"
#include "veddb-replicad/members.h"
#include "veddb-replicad/peers.h"
#include "veddb-replicad/readers.h"
#include "veddb-replicad/storage.h"

/* A fifth of the lease is kept back for clocks that run at different rates
 * (docs/replication-protocol.md; the simulator runs with the same). */
#define REPL_MARGIN_PART 5
#define REPL_JOINS_MAX   16
#define REPL_EVENTS_MAX  64
#define REPL_APPLIES_MAX 4 /* APPLY under way */
#define REPL_FRESH_MAX   16
#define REPL_CHUNKS_MAX  6 /* chunks asked for, or at storage */

/* How many entries of our journal it has yet to receive, flush, apply; as storage counted last. */
typedef enum { REPL_RECEIVED, REPL_FLUSHED, REPL_APPLIED, REPL_STAGES } repl_stage_t;
typedef struct {
    bool known, at_least; /* at_least: there are more, which are being counted */
    uint64_t behind[REPL_STAGES];
} repl_entries_t;

/* Beside the configuration's member of the same index. */
typedef struct {
    uint32_t id;
    repl_link_t *link;      /* NULL: ourselves */
    bool heard, up;         /* up: heard within the lease */
    vdp_peer_status_t said; /* its `problem` and `builds` are the copies below */
    char problem[VDP_PEER_PROBLEM_MAX + 1];
    uint8_t builds[8 * VDP_BUILDS_MAX]; /* of `said`, too */
    uint64_t heard_ms, up_since_ms, ping_ms;
    bool streams;                         /* on a stream of ours: may be counted */
    uint64_t received, flushed, applied;  /* acknowledged there */
    uint64_t bytes_behind, fence_request; /* of FENCE that waits for its FENCED */
    repl_entries_t entries;               /* status.c */
    repl_conn_t *fence_conn;
    struct {
        uint64_t tag, serial, at_ms; /* of the connection and the head that was shown last */
        uint32_t behind;             /* answers in a row that told of another one */
        bool asking;
    } heads;
} repl_member_t;

/* heads.c: the newest of our audit log */
typedef struct {
    uint8_t head[VDP_AUDIT_HEAD_BYTES];
    uint8_t checked[VDP_AUDIT_CHECKED_MAX * VDP_AUDIT_CHECKED_BYTES];
    uint32_t checked_len;
    bool alarm;
    uint64_t serial; /* 0: none yet */
} repl_heads_t;

/* pull.c */
typedef struct {
    uint32_t member; /* whom we follow, 0 = nobody */
    bool catch_up, streaming, asking;
    repl_conn_t *conn;
    uint64_t request, received, applied, flushed, newest, majority, told_majority;
    vd_list_t queue;
    uint64_t queue_bytes, credit_back;
    uint32_t applying;
    bool ack_due, reset;
    uint64_t drop_term; /* not 0: all is to be loaded anew in this term, once the primary's disk
                           has what ours has */
    uint64_t retry_at_ms, loaded_at, loaded_term, epoch;
    char problem[VDP_PEER_PROBLEM_MAX + 1]; /* why storage does not apply; empty: it does */
} repl_pull_t;

typedef enum {
    REPL_RESYNC_NONE,
    REPL_RESYNC_ROLE,     /* storage becomes recovering */
    REPL_RESYNC_ROLLBACK, /* diverged entries are saved */
    REPL_RESYNC_OPEN,     /* a source is asked for a snapshot */
    REPL_RESYNC_BEGIN,    /* LOAD_BEGIN */
    REPL_RESYNC_COPY,
    REPL_RESYNC_END,
    REPL_RESYNC_BACK, /* storage becomes secondary */
} repl_resync_state_t;

/* snapshot.c */
typedef struct {
    repl_resync_state_t state;
    bool waiting, rollback, cut;
    uint64_t rollback_to, retry_at_ms, epoch;
    uint32_t source;
    uint8_t snapshot[16];
    bool opened, wanted; /* wanted: `snapshot` again, of `from`; storage has begun to load it */
    char from[VDP_NODE_NAME_MAX + 1];
    vdp_snapshot_opened_t fields;
    vd_buf_t manifest, last_key;
    uint64_t collection;
    bool all, flows, behind;   /* flows: more than one read may be under way; behind: the next one
                                  follows on the last */
    uint32_t reading, loading; /* SNAPSHOT_READ, LOAD_CHUNK under way */
    uint64_t started_ms, done_bytes, done_documents;
    char why[160];
} repl_resync_t;

/* fresh.c: times are of the host's monotonic clock. */
typedef struct {
    uint64_t position, at_ms; /* who has applied it knows of all that was acknowledged then */
} repl_fresh_point_t;
typedef struct {
    uint64_t term, fresh_ms, told_ms;
    uint64_t joined_term; /* in it, this node has once had all that its leader had */
    repl_fresh_point_t list[REPL_FRESH_MAX]; /* not applied yet */
    uint32_t count;
} repl_fresh_t;

typedef struct repl_node {
    vd_daemon_t *daemon;
    vd_loop_t *loop;
    char name[VDP_NODE_NAME_MAX + 1], set[VDP_NODE_NAME_MAX + 1];
    char host[VDP_PEER_ADDRESS_MAX + 1], peer[VDP_PEER_ADDRESS_MAX + 1];
    uint8_t instance[16];
    bool etcd, found_set; /* found_set: begins a set of its own */
    uint64_t lease_ms, heartbeat_ms, buffer_bytes, snapshot_rate;
    uint64_t started_ms;

    repl_storage_t *storage;
    repl_peers_t *peers;
    repl_elect_t *elect;
    vd_source_t *tick_source, *rate_source, *early_source, *late_source;

    repl_config_t *config;               /* in force; version 0 = none */
    vd_buf_t config_doc;                 /* the same as BSON */
    int64_t stored_version, stored_term; /* what storage has */
    bool config_under_way;
    uint32_t self; /* our member's id, 0 = none */
    repl_member_t members[REPL_MEMBERS_MAX];
    repl_link_t *joins[REPL_JOINS_MAX];
    uint32_t join_count;

    /* lead.c */
    repl_role_t role;
    repl_event_t events[REPL_EVENTS_MAX];
    uint32_t event_count;
    bool stepping;
    uint64_t leader_first; /* our first entry of the term that we lead */
    uint64_t config_at; /* the last configuration that we journaled in it; UINT64_MAX: none yet */
    uint64_t majority;  /* as leader: newest that is on a majority's disks */

    repl_marks_t marks; /* of the newest position: lag in time */
    repl_pull_t pull;
    repl_fresh_t fresh;
    repl_resync_t resync;
    repl_heads_t heads;
    vd_list_t ships;   /* ship.c */
    vd_list_t sending; /* snapshot.c: chunks that wait for their rate */
    repl_readers_t readers;
    uint64_t send_at_us;
    vd_list_t tickets; /* ask.c */
    uint64_t ticket_last;

    uint64_t told_lease_ms; /* the lease's end, as storage was told */
    bool positions_due, majority_due, announce_due, topology_due, again;
    int64_t topology_version;
    uint64_t status_at_ms, rollbacks;
    bool counting; /* status.c: storage is asked for entries */
    char rollback_folder[512];
    uint64_t rolled_back_documents;
} repl_node_t;

static inline uint64_t repl_now(const repl_node_t *node)
{
    return vd_loop_now_ms(node->loop);
}
static inline const repl_storage_state_t *repl_state(const repl_node_t *node)
{
    return repl_storage_state(node->storage);
}
/* The configuration in force is of our term: its leader has it on its disk. */
static inline bool repl_config_of_term(const repl_node_t *node)
{
    return node->config->term == (int64_t)node->role.term;
}
static inline bool repl_leads(const repl_node_t *node)
{
    return node->role.state == REPL_LEADER;
}

/* ---- replicad.c ---- */
/* What storage says of role, term and position, to the role. */
void repl_tell_role(repl_node_t *node);
/* While it loads, or is about to: whoever has this has all that this node ever acknowledged. */
uint64_t repl_floor(const repl_node_t *node);

/* ---- config.c ---- */
repl_member_t *repl_member_by_id(repl_node_t *node, uint32_t id); /* NULL: not there */
repl_member_t *repl_member_of(repl_node_t *node, repl_conn_t *conn);
const char *repl_member_name(const repl_node_t *node, uint32_t id); /* "" if not there */
/* A newer configuration: members, role and links follow. */
VD_MUST_CHECK int repl_adopt(repl_node_t *node, vd_bson_t doc, vd_error_t *err);
/* The same; a failure is logged. */
void repl_adopt_logged(repl_node_t *node, vd_bson_t doc, const char *from);
/* A set of our own, of one. */
void repl_config_begin(repl_node_t *node);
/* A primary journals its configuration as of its own term. */
void repl_config_tick(repl_node_t *node);

/* ---- messages.c ---- */
/* For peers.h: context is the node. */
void repl_peer_greet(void *context, vdp_peer_hello_t *hello);
int repl_peer_check(void *context, const repl_greeting_t *greeting, vd_error_t *err);
void repl_peer_item(void *context, repl_conn_t *conn, const vdp_envelope_t *envelope,
                    vd_slice_t rest);
void repl_beat_send(void *context, repl_conn_t *conn);
/* Our state as HEARTBEAT and STATUS tell it. */
vdp_peer_status_t repl_own_status(repl_node_t *node);
void repl_heartbeat(repl_node_t *node); /* to all, now */

/* ---- lead.c: the role is stepped, its actions are done ---- */
void repl_lead_configure(repl_node_t *node);
void repl_lead_event(repl_node_t *node, repl_event_t event);
void repl_lead_count(repl_node_t *node); /* the majority point, from what is acknowledged */
/* Asks storage for a role beside the state machine's: recovering and back. */
void repl_lead_role(repl_node_t *node, uint32_t role, repl_done_t done, void *context);

/* ---- ship.c ---- */
void repl_ship_pull(repl_node_t *node, repl_conn_t *conn, uint64_t request,
                    const vdp_peer_pull_t *pull);
void repl_ship_ack(repl_node_t *node, repl_conn_t *conn, const vdp_peer_ack_t *ack);
void repl_ship_lost(repl_node_t *node, repl_conn_t *conn);
void repl_ship_stop_all(repl_node_t *node, int code, const char *why);
void repl_ship_majority(repl_node_t *node);

/* ---- pull.c ---- */
void repl_pull_init(repl_node_t *node);
void repl_pull_done(repl_node_t *node);
void repl_pull_follow(repl_node_t *node, uint32_t member, bool catch_up);
void repl_pull_tick(repl_node_t *node); /* begins the stream when it can */
void repl_pull_lost(repl_node_t *node, repl_conn_t *conn);
void repl_pull_position(repl_node_t *node, uint64_t applied, uint64_t durable);
void repl_pull_reset(repl_node_t *node); /* storage is another start: nothing is under way there */
void repl_pull_ack(repl_node_t *node);   /* end of turn */
void repl_pull_majority(repl_node_t *node, uint64_t term, uint64_t majority);

/* ---- fresh.c ---- */
/* The answer to a heartbeat of ours. */
void repl_fresh_hear(repl_node_t *node, const vdp_peer_status_t *said);
/* Something was applied, or a majority answered. */
void repl_fresh_look(repl_node_t *node);

/* ---- snapshot.c ---- */
void repl_resync_start(repl_node_t *node, bool rollback, uint64_t to, const char *why);
void repl_resync_tick(repl_node_t *node);
void repl_resync_reset(repl_node_t *node); /* storage is another start */
void repl_resync_done(repl_node_t *node);
void repl_send_snapshot(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                        vd_slice_t rest);
/* A heartbeat of a member that asks on the same connection: copies that it reads no more go. */
void repl_send_heard(repl_node_t *node, const repl_member_t *member);
void repl_send_lost(repl_node_t *node, repl_conn_t *conn);
void repl_send_tick(repl_node_t *node);

/* ---- heads.c: heads of audit logs (proto/heads.md) ---- */
void repl_heads_own(void *context, const vdp_audit_head_t *head);
void repl_heads_tick(repl_node_t *node);
/* A member shows its own. */
void repl_heads_shown(repl_node_t *node, repl_conn_t *conn, uint64_t request,
                      const vdp_audit_head_t *head);

/* ---- status.c ---- */
VD_MUST_CHECK int repl_status_json(repl_node_t *node, vd_buf_t *out);
VD_MUST_CHECK int repl_list_json(repl_node_t *node, vd_buf_t *out);
void repl_status_tell(repl_node_t *node);   /* STATUS to storage */
void repl_topology_tell(repl_node_t *node); /* TOPOLOGY to storage */

/* ---- ask.c ---- */
typedef struct {
    void (*done)(void *context, int code, const char *message, vd_slice_t body);
    void *context;
    bool wire; /* body: BSON, else JSON */
    uint32_t hops;
} repl_asker_t;
/* One verb; `done` is called once, now or later. */
void repl_ask(repl_node_t *node, const repl_asker_t *asker, vd_slice_t verb, vd_slice_t argument,
              vd_slice_t argument2, vd_slice_t body);
void repl_ask_answered(repl_node_t *node, uint64_t ticket, int code, const char *text);
void repl_ask_done(repl_node_t *node);
