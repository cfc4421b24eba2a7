/* veddb-replicad/role.h — pure: who leads, who is fenced, whom we follow. Events in, actions out;
 * no clock, no sockets, no memory of its own: the simulator runs many of them in one thread.
 *
 * Terms:   a node agrees to a term durably (storage) before it answers for it. A node that agreed
 * to term T neither acknowledges entries of a primary of an older term, nor lets one renew. Lease:
 * a primary leads only while it hears a majority of the votes (their last answers are younger than
 * lease_ms - margin_ms). It steps down before. Manual:  PROMOTE first asks the
 * primary to hand over (it stops writes, waits until the follower has everything, at most
 * handover_ms, then gives the term away). One that can't be reached is fenced: a majority of the
 * votes agrees to term + 1, then lease_ms pass since the last of them had answered the old primary,
 * then the candidate leads if none of the majority has a newer position (else it catches up from
 * that one first). Without a majority: refused, unless forced; the answer says what that may lose.
 * etcd:    whoever sees the lease gone, or the primary silent, fences a majority in the same way
 * (term + 1), compares flushed positions, the best (ties: priority, then id) claims {term, leader}
 * by compare-and-swap; who lost follows. etcd away: the present primary goes on while a majority of
 * the votes still answers it and nobody can have claimed (see role.c), and says so; else it steps
 * down. Owner:   of a term: the member to whom storage has agreed to give it, the leader or a
 * candidate. In manual mode only the owner of the newest term that it knows seeks to lead by
 * itself, so that a primary that restarts needs no operator. The whole protocol, and why it is
 * safe: docs/replication-protocol.md. Threads: one. Deterministic: same events, same actions. Times
 * in milliseconds, monotonic. */
#pragma once
#include "libcommon/base/slice.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REPL_MEMBERS_MAX 50
#define REPL_ACTIONS_MAX 128

typedef enum {
    REPL_STARTING,     /* storage not heard yet, or no configuration */
    REPL_FOLLOWER,     /* SECONDARY; follows whom it knows as leader, or nobody */
    REPL_CANDIDATE,    /* collects fences */
    REPL_CLAIMING,     /* has a majority's fences; waits for lease, catch-up or etcd */
    REPL_LEADER,       /* PRIMARY */
    REPL_HANDING_OVER, /* writes stopped; waits for the follower */
    REPL_REMOVED,      /* not in the configuration */
} repl_role_state_t;

typedef enum { REPL_FAILOVER_MANUAL, REPL_FAILOVER_ETCD } repl_failover_t;

typedef struct {
    uint32_t id; /* of the configuration; never 0 */
    bool votes;
    uint32_t priority; /* 0: never leads by itself */
} repl_role_member_t;

typedef struct {
    repl_failover_t failover;
    uint64_t lease_ms, margin_ms, heartbeat_ms, handover_ms;
    uint32_t self;
    uint32_t member_count;
    repl_role_member_t members[REPL_MEMBERS_MAX]; /* self is one of them, unless removed */
} repl_role_options_t;

typedef enum {
    REPL_EVENT_TICK,    /* at least every heartbeat_ms */
    REPL_EVENT_STORAGE, /* term, role (VDP_ROLE_*), position = durable; leader = the last that
                           SET_ROLE named, 0 = not told. RECOVERING is entered and left by the
                           process alone; floor then: no acknowledgement that it ever gave is above,
                           0 = not known */
    REPL_EVENT_STORAGE_LOST,
    REPL_EVENT_ROLE_SET,     /* storage has made term and role durable; position = newest */
    REPL_EVENT_ROLE_REFUSED, /* term = the newer one that storage has agreed to */
    REPL_EVENT_PEER,         /* from: term, state, leader, position (flushed); answers our heartbeat
                                sent at sent_ms (0 = not an answer) */
    REPL_EVENT_PEER_LOST,    /* from */
    REPL_EVENT_FENCE,        /* from asks us to agree to term; position = its own */
    REPL_EVENT_FENCED,       /* from agreed (granted) or not; term, position = its flushed one,
                                heard_ms ago it last answered the old primary */
    REPL_EVENT_HANDOVER, /* from, the primary, gives us term (newer than ours); or, when we are the
                            primary and term is ours: from asks to be given the next */
    REPL_EVENT_LEASE,    /* etcd says: term, leader (0 = nobody), left_ms; known since sent_ms */
    REPL_EVENT_CLAIMED,  /* our claim of term was granted; the request was sent at sent_ms */
    REPL_EVENT_CLAIM_LOST, /* it was not: term, leader as etcd has them */
    REPL_EVENT_RENEWED,    /* our lease was renewed by a request sent at sent_ms */
    REPL_EVENT_ETCD_AWAY,  /* no answer */
    REPL_EVENT_PROMOTE,    /* operator; force; ticket */
    /* operator; wait_ms: not again for so long; to: member or 0; ticket; catch_up_ms: of
     * handover_ms at most, 0: all of it */
    REPL_EVENT_STEP_DOWN,
    REPL_EVENT_FREEZE, /* operator; wait_ms; ticket */
} repl_event_kind_t;

typedef struct {
    repl_event_kind_t kind;
    uint64_t now_ms;
    uint32_t from, leader, to;
    uint64_t term, position, floor, sent_ms, heard_ms, left_ms, wait_ms, ticket;
    uint64_t catch_up_ms;
    int role;  /* VDP_ROLE_* (STORAGE) */
    int state; /* repl_role_state_t (PEER) */
    bool granted, force;
} repl_event_t;

typedef enum {
    REPL_ACTION_SET_ROLE, /* ask storage: term, role (VDP_ROLE_*), leader; answered by ROLE_SET */
    REPL_ACTION_FOLLOW,   /* pull from member; 0 = from nobody, and nothing more is acknowledged.
                             catch_up: as candidate, forwards only: one that diverged rolls nothing
                             back, it waits for the next FOLLOW */
    REPL_ACTION_FENCE,    /* send FENCE(term) to member */
    REPL_ACTION_FENCED,   /* answer member: term, granted, position, heard_ms */
    REPL_ACTION_HANDOVER, /* send HANDOVER(term) to member */
    REPL_ACTION_CLAIM,    /* etcd: compare-and-swap to {term, self}: granted if the term there is
                             older, or is the same and was ours */
    REPL_ACTION_RENEW,    /* etcd: keep the lease alive */
    REPL_ACTION_RELEASE,  /* etcd: give it up */
    REPL_ACTION_ANNOUNCE, /* our state changed: tell all peers now, and storage the topology */
    REPL_ACTION_ANSWER,   /* the operator: ticket, code (VD_OK or negative), text */
    REPL_ACTION_LOG,      /* text */
} repl_action_kind_t;

typedef struct {
    repl_action_kind_t kind;
    uint32_t member, leader;
    uint64_t term, ticket, position, heard_ms;
    int role, code;
    bool granted, catch_up;
    char text[200];
} repl_action_t;

typedef struct {
    repl_action_t list[REPL_ACTIONS_MAX];
    size_t count;
} repl_actions_t;

typedef struct {
    uint32_t id;
    bool up;
    int state;
    uint64_t term, position, answered_ms; /* when the heartbeat it last answered was sent */
    uint64_t heard_ms;
    uint32_t leader;
    bool fenced;  /* in fence_term, for us */
    bool refused; /* the same, for another */
    uint64_t fence_position, fence_until_ms;
} repl_role_peer_t;

/* Plain data: may be copied, compared, printed. role.c alone changes it. */
typedef struct {
    repl_role_options_t options;
    repl_role_state_t state;
    uint64_t now_ms, term, position; /* as storage has them durable */
    uint32_t leader;                 /* of `term`, 0 = not known */
    bool storage_up;
    uint64_t fence_term;     /* as candidate: what is asked for */
    uint64_t deadline_ms;    /* of the present state */
    uint64_t lease_until_ms; /* leader: leads until then */
    bool etcd_away;
    uint64_t etcd_term, etcd_seen_ms, etcd_until_ms;
    uint32_t etcd_leader;
    uint64_t frozen_until_ms, ticket;
    uint32_t handover_to;
    bool role_asked; /* SET_ROLE under way */
    uint64_t asked_term;
    int asked_role;
    uint32_t asked_leader;
    uint32_t fence_from;     /* FENCED goes there when it is done; 0 = nobody */
    uint64_t fence_position; /* which that one said that it has */
    uint64_t floor;          /* RECOVERING: whoever has this has all that we acknowledged */
    uint32_t following;
    uint32_t owner;               /* of `term` */
    bool owner_resigned;          /* it said in `term` that it does not lead it */
    int storage_role;             /* VDP_ROLE_* */
    uint64_t known_term;          /* newest that anybody spoke of */
    uint64_t answered_primary_ms; /* last answer to one that leads, or wants to, in our term */
    uint64_t term_heard_ms;       /* the same, when we agreed to `term`: of older ones */
    uint64_t alone_since_ms;      /* nobody leads and we may seek; 0 = not so */
    uint64_t retry_at_ms;
    uint64_t tries;          /* given up since anybody led; counted up to a few */
    uint64_t sent_ms;        /* of the last FENCE, CLAIM, RENEW or request to hand over */
    uint64_t final_position; /* handing over: nothing is written above */
    uint64_t step_down_wait_ms;
    uint64_t claimed_ms; /* when the claim that was granted was sent */
    bool no_wait;        /* candidate: the primary gave the term: its lease is not waited for */
    bool by_operator, force, forced, claimed, promoting, stopped;
    repl_role_peer_t peers[REPL_MEMBERS_MAX];
} repl_role_t;

/* A member of nothing yet: repl_role_configure makes it one. */
void repl_role_init(repl_role_t *role, const repl_role_options_t *options, uint64_t now_ms);
/* A new configuration: members come and go; the state stays as far as it still makes sense. */
void repl_role_configure(repl_role_t *role, const repl_role_options_t *options,
                         repl_actions_t *actions);
/* Appends to actions (cleared by the caller). */
void repl_role_step(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions);
/* May acknowledge what it writes: leads, and its lease is not over at now_ms. */
bool repl_role_leads(const repl_role_t *role, uint64_t now_ms);
const char *repl_role_name(repl_role_state_t state);
/* What is known of a member, or NULL; our own entry has only id and fence. */
const repl_role_peer_t *repl_role_peer(const repl_role_t *role, uint32_t id);
/* Entry a is newer than b: of a newer term, or of the same and later. Terms are the 8 bits in the
 * timestamps, taken as not above `term` and less than 256 below it. 0 is older than all. */
bool repl_role_newer(uint64_t a, uint64_t b, uint64_t term);
