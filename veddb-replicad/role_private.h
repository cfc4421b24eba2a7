/* veddb-replicad/role_private.h — what the files of role.h share: role.c, role_state.c, fence.c,
 * handover.c. Pure, as role.h says; not for others. */
#pragma once
#include "libcommon/base/error.h"
#include "proto/replication.h"
#include "veddb-replicad/votes.h"

/* ---- small questions ---- */

static inline bool repl_role_is_etcd(const repl_role_t *role)
{
    return role->options.failover == REPL_FAILOVER_ETCD && !repl_votes_alone(role);
}

static inline bool repl_role_is_leading(const repl_role_t *role)
{
    return role->state == REPL_LEADER || role->state == REPL_HANDING_OVER;
}

static inline bool repl_role_is_seeking(const repl_role_t *role)
{
    return role->state == REPL_CANDIDATE || role->state == REPL_CLAIMING;
}

static inline repl_role_peer_t *repl_role_peer_of(repl_role_t *role, uint32_t id)
{
    int i = id == role->options.self ? -1 : repl_votes_index(role, id);
    return i < 0 ? NULL : &role->peers[i];
}

/* Who has none can't lead: its own promises would not be among those that are counted. */
static inline bool repl_role_has_vote(const repl_role_t *role, uint32_t id)
{
    int i = repl_votes_index(role, id);
    return i >= 0 && role->options.members[i].votes;
}

static inline uint64_t repl_role_later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* A primary that was not heard for so long is looked for elsewhere. What others wait for before
 * they lead is its whole lease: that is used to be ready when it ends. */
static inline uint64_t repl_role_silence_ms(const repl_role_t *role)
{
    return role->options.lease_ms / 2;
}

static inline bool repl_role_is_due(repl_role_t *role)
{
    if (role->sent_ms != 0 && role->now_ms - role->sent_ms < role->options.heartbeat_ms)
        return false;
    role->sent_ms = role->now_ms;
    return true;
}

/* ---- role_state.c: actions, and the ways into a state ---- */
repl_action_t *repl_role_act(repl_actions_t *actions, repl_action_kind_t kind);
VD_PRINTF(2, 3) void repl_role_note(repl_actions_t *actions, const char *format, ...);
void repl_role_answer_ticket(uint64_t ticket, int code, const char *text, repl_actions_t *actions);
void repl_role_answer(repl_role_t *role, int code, const char *text, repl_actions_t *actions);
void repl_role_follow(repl_role_t *role, uint32_t member, bool catch_up, repl_actions_t *actions);
void repl_role_ask_storage(repl_role_t *role, uint64_t term, int wanted, uint32_t leader,
                           repl_actions_t *actions);
void repl_role_release(const repl_role_t *role, repl_actions_t *actions);
void repl_role_become_follower(repl_role_t *role, repl_actions_t *actions);
void repl_role_step_down(repl_role_t *role, const char *why, repl_actions_t *actions);
void repl_role_abandon(repl_role_t *role, const char *why, repl_actions_t *actions);
void repl_role_agree(repl_role_t *role, uint64_t term, uint32_t owner, uint32_t fence_from,
                     uint64_t fence_position, repl_actions_t *actions);
void repl_role_seek(repl_role_t *role, uint64_t term, bool no_wait, repl_actions_t *actions);
void repl_role_lead(repl_role_t *role, repl_actions_t *actions);

/* ---- fence.c ---- */
void repl_role_answer_fence(const repl_role_t *role, uint32_t member, bool granted,
                            repl_actions_t *actions);
bool repl_role_may_grant(const repl_role_t *role, uint32_t to, uint64_t position, uint64_t term);
void repl_role_own_fence(repl_role_t *role);
void repl_role_on_fence(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions);
void repl_role_on_fenced(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions);
void repl_role_advance_candidate(repl_role_t *role, repl_actions_t *actions);
void repl_role_advance_claiming(repl_role_t *role, repl_actions_t *actions);
void repl_role_on_lease(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions);
void repl_role_on_claimed(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions);
void repl_role_on_claim_lost(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions);
void repl_role_on_renewed(repl_role_t *role, const repl_event_t *event);

/* ---- handover.c ---- */
void repl_role_on_handover(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions);
void repl_role_advance_handover(repl_role_t *role, repl_actions_t *actions);
void repl_role_advance_promote(repl_role_t *role, repl_actions_t *actions);
void repl_role_on_promote(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions);
void repl_role_on_step_down(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions);
void repl_role_on_freeze(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions);
