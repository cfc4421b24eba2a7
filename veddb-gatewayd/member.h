/* veddb-gatewayd/member.h — what this node is in its replica set, as clients are told.
 *
 * Duty:    keeps role, term and topology as storage said them last (gate_topology_t, one for all
 *          threads) and the counter that grows with each change of them, so that hellos that wait
 *          are answered; says what a member in this role may answer by itself. While storage is
 *          away requests wait for it; where another member leads by itself, those that a driver
 *          sends again are refused at once, and hello says that this one takes no writes.
 * Owner:   the gateway.
 * Threads: any (one lock); only thread 0 tells it what storage said, so that links that are read
 *          one after the other can't bring an older role back.
 * Limits:  a topology has at most VDP_TOPOLOGY_MAX bytes; one that is no BSON is not taken. */
#pragma once
#include "libcommon/bson/build.h"
#include "proto/replication.h"
#include "veddb-gatewayd/commands/table.h"
#include "veddb-gatewayd/upstream.h"

#include <pthread.h>

typedef struct gate gate_t;

/* Numbers of MongoDB's member states. */
enum {
    GATE_MEMBER_STARTUP = 0,
    GATE_MEMBER_PRIMARY = 1,
    GATE_MEMBER_SECONDARY = 2,
    GATE_MEMBER_RECOVERING = 3,
    GATE_MEMBER_REMOVED = 10,
};

typedef struct {
    pthread_mutex_t lock;
    uint8_t process_id[12];
    _Atomic int64_t counter;
    bool known, ready; /* known: storage was seen at least once; ready: it is there */
    uint32_t role;     /* VDP_ROLE_* */
    uint64_t term;
    uint8_t set_id[12];
    bool in_set;  /* it was seen in another role than primary, or with a topology: not alone */
    uint8_t *set; /* the last topology (BSON), own copy; NULL: none told yet */
    uint32_t set_len;
    uint64_t lost_ms;       /* storage away since; 0 = is there */
    _Atomic bool automatic; /* another member leads by itself when this one goes */
    _Atomic bool delayed;   /* by its configuration: secondaryDelaySecs */
    bool draining;
} gate_topology_t;

/* A copy of it. */
typedef struct {
    bool ready, primary, secondary;
    bool in_set;    /* of a set that replicad tells of: not of this node alone */
    bool automatic; /* others lead by themselves: nobody needs to wait for this one */
    uint32_t role;  /* VDP_ROLE_* */
    uint64_t term;
    int64_t counter;
    uint8_t set_id[12];
    vd_bson_t set; /* in the arena; empty while none was told */
} gate_member_t;

/* The role that a state of storage says. */
uint32_t gate_state_role(const gate_storage_state_t *state);
/* Storage's state; usable: clients may be served. True: something that clients are told changed. */
bool gate_member_note(gate_t *gate, const gate_storage_state_t *state, bool usable);
/* What was asked of storage when it went may be asked of another member. */
bool gate_member_others_lead(const gate_t *gate);
/* Users and roles are known as of users.lease ago, or this member need not know: a secondary must,
 * unless it is delayed by its configuration. What a primary has is what there is. */
bool gate_member_knows_users(const gate_t *gate, const gate_storage_state_t *state,
                             uint64_t now_ms);
/* The command names no other read preference than the primary. */
bool gate_member_prefers_primary(vd_bson_t body);
/* Nobody new is served. */
void gate_member_drain(gate_t *gate);
void gate_member_done(gate_t *gate);
/* arena may be NULL: then without `set`. */
void gate_member_read(gate_t *gate, vd_arena_t *arena, gate_member_t *ret_member);
int gate_member_state(const gate_member_t *member);
const char *gate_member_state_name(int state);
/* May a command that the gateway answers itself run on this member: NotWritablePrimary,
 * NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary as MongoDB. What travels on is decided by storage.
 */
VD_MUST_CHECK int gate_member_admit(const gate_member_t *member, const gate_command_t *command,
                                    vd_bson_t body, vd_error_t *err);
/* topologyVersion: {processId, counter}. */
void gate_topology_version(gate_t *gate, vd_bb_t *bb);
