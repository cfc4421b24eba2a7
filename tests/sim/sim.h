/* tests/sim/sim.h — a whole replica set in one thread with virtual time; see README.md.
 *
 * Threads: one. Units: true time in microseconds; what a node sees is its own clock, milliseconds.
 */
#pragma once
#include "libcommon/base/rand.h"
#include "veddb-replicad/role.h"

#define SIM_NODES_MAX   5
#define SIM_LOG_MAX     8192
#define SIM_BATCH_MAX   16
#define SIM_EVENTS_MAX  8192
#define SIM_TERMS_MAX   4096
#define SIM_CONFIGS_MAX 1024
#define SIM_ENTRIES_MAX 65536 /* of the table of histories; a power of two */

typedef struct {
    uint64_t timestamp, chain; /* chain: hash of everything up to here */
    uint32_t config;           /* the newest in the log up to here; 0 = the one it began with */
} sim_entry_t;

/* A configuration; its number is its place in sim_t.configs. 0: none. */
typedef struct {
    uint64_t version, term;
    uint32_t count;
    repl_role_member_t members[SIM_NODES_MAX];
} sim_config_t;

typedef enum {
    SIM_TICK,       /* node */
    SIM_HEARTBEAT,  /* message; answered */
    SIM_ANSWER,     /* message: of a heartbeat */
    SIM_FENCE,      /* message */
    SIM_FENCED,     /* message */
    SIM_HANDOVER,   /* message */
    SIM_PULL,       /* message: a follower asks, and says what it has flushed */
    SIM_ENTRIES,    /* message */
    SIM_DIVERGED,   /* message: `after` is not in the upstream's history */
    SIM_TOO_OLD,    /* message: the journal does not reach back to `after` any more */
    SIM_COPY_ASK,   /* message: of a snapshot: open one (lease 0), or what comes behind `common` */
    SIM_COPY,       /* message: entries of it; none: it is not known (any more) */
    SIM_ROLE_DONE,  /* node: storage has made term and role durable */
    SIM_FLUSHED,    /* node: the disk has what was there when the flush began */
    SIM_ETCD_ASK,   /* to etcd: claim, renew, release, get */
    SIM_ETCD_REPLY, /* from etcd */
    SIM_CLIENT,     /* a write at every storage that takes one */
    SIM_FAULT,      /* the next fault */
    SIM_DISTURB,    /* replicad or storage of those that vote, just when another seeks */
    SIM_RESTART,    /* node */
    SIM_STORAGE_UP, /* node: storage alone restarted, or replicad alone */
    SIM_OPERATOR,
    SIM_MAINTAIN, /* an operator: configurations, force-sync */
    SIM_HEAL,     /* faults end */
} sim_kind_t;

typedef enum { SIM_CLAIM, SIM_RENEW, SIM_RELEASE, SIM_GET } sim_ask_t;

typedef struct {
    uint64_t at_us, order;
    sim_kind_t kind;
    int node, from; /* indexes; -1 = nobody */
    uint32_t boot;  /* of the node whose event it is: older ones are dropped */
    int state;      /* also sim_ask_t */
    uint64_t term, position, sent_ms, heard_ms, after, flushed, lease, left_ms;
    uint32_t leader, count, common, config;
    bool granted;
    sim_entry_t entries[SIM_BATCH_MAX];
} sim_event_t;

typedef struct {
    /* durable */
    uint64_t term;
    uint32_t owner;
    bool loading;
    uint64_t load_until; /* the load ends with this entry */
    uint64_t floor;      /* loading: the newest that it had, and may have acknowledged */
    uint32_t first;      /* the configuration it began with */
    uint32_t flushed;    /* entries [0, flushed) are on the disk */
    uint32_t oldest;     /* the journal begins here */
    /* The snapshot that is being taken: whose (index + 1), which, how many entries. */
    int copy_from;
    uint64_t copy;
    uint32_t copy_count;
    /* lost in a crash */
    uint32_t count;
    int role;
    sim_entry_t log[SIM_LOG_MAX];
    bool flushing, asked, up;
    uint64_t asked_term;
    int asked_role;
    uint32_t asked_owner;
} sim_storage_t;

typedef struct {
    bool up;       /* replicad */
    uint32_t boot; /* grows with each start of replicad */
    uint32_t storage_boot;
    int64_t rate_ppm; /* of its clock */
    uint64_t base_ms; /* its clock at true time 0 */
    int64_t wall_s;   /* its calendar against the true one */
    uint64_t paused_until_us;
    bool slow_disk;
    repl_role_t role;
    sim_storage_t storage;
    uint32_t config;       /* in force */
    uint64_t snapshots[4]; /* as source: opened, newest first: storage_boot << 32 | entries */
    uint64_t snapshot_chains[4];
    uint64_t drop_term; /* an operator wants all loaded anew, in this term */
    uint32_t upstream;  /* FOLLOW */
    bool catch_up;
    uint64_t said_position[SIM_NODES_MAX], said_term[SIM_NODES_MAX]; /* in heartbeats */
    uint32_t first_of_term;               /* as leader: index of the term's first entry */
    uint32_t config_at;                   /* the same of the last configuration */
    uint32_t acknowledged[SIM_NODES_MAX]; /* as leader: entries on the disks of the others */
    uint64_t pulled_us, copied_us;        /* asked; answered by the source of a snapshot */
    uint32_t starts;                      /* of storage */
    uint64_t lease, etcd_heard_ms;        /* elect's part: our lease's identity; last answer */
    bool etcd_cut, gone;                  /* gone: for good */
} sim_node_t;

typedef struct {
    int count;
    bool truncates; /* a diverged tail is cut; else everything is loaded anew */
    bool copies;    /* loads are snapshots, in pieces, of one source; else entries from the first */
    bool changes, drops, forces; /* configurations; operators' force-sync, and forced promotes */
    bool loses;  /* one member is gone for good in the end, where the others can go on */
    int members; /* at the beginning; the others may be added */
    repl_failover_t failover;
    double loss, duplicates, spikes;
    uint64_t delay_us;
} sim_profile_t;

typedef struct {
    uint64_t seed, now_us, orders;
    vd_rand_t rand;
    bool trace, healed, failed;
    char failure[256];
    sim_profile_t profile;
    sim_node_t nodes[SIM_NODES_MAX];
    bool cut[SIM_NODES_MAX][SIM_NODES_MAX]; /* from, to */
    struct {
        bool away;
        int64_t rate_ppm;
        uint64_t term, lease, leases, until_us;
        uint32_t leader, term_owner;
    } etcd;
    /* events */
    sim_event_t events[SIM_EVENTS_MAX];
    uint32_t heap[SIM_EVENTS_MAX], heap_count;
    uint32_t free_list[SIM_EVENTS_MAX], free_count;
    /* what is known of the true history */
    sim_entry_t histories[SIM_ENTRIES_MAX];
    uint32_t histories_count;
    uint32_t acked_count; /* entries [0, acked_count) of the one history are acknowledged */
    uint64_t acked_chain;
    uint8_t term_leader[SIM_TERMS_MAX]; /* index + 1 */
    sim_config_t configs[SIM_CONFIGS_MAX];
    uint32_t config_count;
    bool forced; /* somebody was forced to lead: until all follow one, entries may be lost */
    uint64_t changed, dropped, forced_times, copied, lost, vouched;
    uint64_t writes, majority_acks, leaders, promotes_at_end, steps;
} sim_t;

/* ---- world.c: events, network, etcd ---- */
sim_event_t *sim_schedule(sim_t *sim, sim_kind_t kind, int node, uint64_t after_us);
bool sim_next(sim_t *sim, sim_event_t *ret_event);
/* The same event again, at that time. */
void sim_put_off(sim_t *sim, const sim_event_t *event, uint64_t at_us);
/* Through the network: lost, late, twice, or cut. Takes a copy. */
void sim_send(sim_t *sim, int from, int to, const sim_event_t *message);
void sim_etcd_ask(sim_t *sim, int node, sim_ask_t ask, uint64_t term);
void sim_etcd_step(sim_t *sim, const sim_event_t *event);
uint64_t sim_below(sim_t *sim, uint64_t bound);
bool sim_chance(sim_t *sim, double probability);
uint64_t sim_clock_ms(const sim_t *sim, int node);
__attribute__((format(printf, 2, 3))) void sim_trace(sim_t *sim, const char *format, ...);
__attribute__((format(printf, 2, 3))) void sim_fail(sim_t *sim, const char *format, ...);

/* ---- node.c: replicad and storage ---- */
void sim_node_start(sim_t *sim, int node);
void sim_node_crash(sim_t *sim, int node);
void sim_replicad_restart(sim_t *sim, int node);
/* It is back within that. */
void sim_storage_restart(sim_t *sim, int node, uint64_t within_us);
void sim_node_event(sim_t *sim, const sim_event_t *event);
void sim_node_role(sim_t *sim, int node, repl_event_t event);
void sim_node_act(sim_t *sim, int node, const repl_actions_t *actions);
/* One entry more at a primary's storage, with that configuration. */
void sim_node_append(sim_t *sim, int node, uint32_t config);
/* A client's write, if this storage takes one. */
void sim_node_write(sim_t *sim, int node);
/* The operator's: all is thrown away and loaded anew, at a follower. */
void sim_node_drop(sim_t *sim, int node);
/* The journal forgets what is on the disk and older than its last entries. */
void sim_node_trim(sim_t *sim, int node);
void sim_append(sim_t *sim, int node, const sim_entry_t *entry);
void sim_flush(sim_t *sim, int node);
uint64_t sim_durable_position(const sim_storage_t *storage);
/* Role and position, as storage tells them to replicad. */
void sim_storage_tell(sim_t *sim, int node);

/* ---- copy.c: all anew ---- */
void sim_load_begin(sim_t *sim, int node, const char *why);
/* True: a force-sync waits, nothing is pulled meanwhile. */
bool sim_drop_tick(sim_t *sim, int node);
void sim_copy_ask(sim_t *sim, int node);
void sim_on_copy_ask(sim_t *sim, int node, const sim_event_t *event);
void sim_on_copy(sim_t *sim, int node, const sim_event_t *event);
bool sim_copy_whole(const sim_storage_t *storage);
/* How many of our first entries are on the disks of a majority of the votes. */
uint32_t sim_majority_count(const sim_t *sim, int node);

/* ---- config.c: who is a member ---- */
/* The configuration that storage has. */
uint32_t sim_config_stored(const sim_t *sim, int node);
bool sim_config_newer(const sim_t *sim, uint32_t a, uint32_t than);
bool sim_config_has(const sim_t *sim, uint32_t config, int node);
/* In force at the node from now on, if it is newer. */
void sim_config_adopt(sim_t *sim, int node, uint32_t config);
/* An operator's change at a node that leads; nothing, where the process refuses it. */
void sim_config_change(sim_t *sim, int node);
/* The one in force is of our term: its leader has it on its disk. */
bool sim_config_of_term(const sim_t *sim, int node);
/* A new primary journals what it acts by, as of its own term. */
void sim_config_tick(sim_t *sim, int node);
static inline int sim_index(uint32_t id)
{
    return (int)id - 1;
}

/* ---- check.c: what must hold ---- */
void sim_check_append(sim_t *sim, int node, const sim_entry_t *entry);
void sim_check_cut(sim_t *sim, int node, uint32_t left);
void sim_check_leader(sim_t *sim, int node, bool forced);
void sim_check_ack(sim_t *sim, int node, uint32_t count);
void sim_check_step(sim_t *sim);
/* Somebody leads and all are equal. */
bool sim_check_settled(const sim_t *sim);
