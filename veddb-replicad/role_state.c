/* veddb-replicad/role_state.c — actions, and the ways into a state. See role_private.h. */
#include "veddb-replicad/role_private.h"

#include <stdarg.h>
#include <stdio.h>

#define TRIES_MAX 4u

/* ---- actions ---- */

repl_action_t *repl_role_act(repl_actions_t *actions, repl_action_kind_t kind)
{
    VD_ASSERT(actions->count < REPL_ACTIONS_MAX);
    repl_action_t *action = &actions->list[actions->count++];
    *action = (repl_action_t){.kind = kind};
    return action;
}

void repl_role_note(repl_actions_t *actions, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    repl_action_t *action = repl_role_act(actions, REPL_ACTION_LOG);
    (void)vsnprintf(action->text, sizeof action->text, format, args);
    va_end(args);
}

void repl_role_answer_ticket(uint64_t ticket, int code, const char *text, repl_actions_t *actions)
{
    repl_action_t *action = repl_role_act(actions, REPL_ACTION_ANSWER);
    action->ticket = ticket;
    action->code = code;
    (void)snprintf(action->text, sizeof action->text, "%s", text);
}

/* The operator who waits, if there is one. */
void repl_role_answer(repl_role_t *role, int code, const char *text, repl_actions_t *actions)
{
    if (role->ticket != 0)
        repl_role_answer_ticket(role->ticket, code, text, actions);
    role->ticket = 0;
    role->promoting = false;
}

void repl_role_follow(repl_role_t *role, uint32_t member, bool catch_up, repl_actions_t *actions)
{
    if (role->following == member)
        return;
    role->following = member;
    repl_action_t *action = repl_role_act(actions, REPL_ACTION_FOLLOW);
    action->member = member;
    action->term = role->term;
    action->catch_up = catch_up;
}

void repl_role_ask_storage(repl_role_t *role, uint64_t term, int wanted, uint32_t leader,
                           repl_actions_t *actions)
{
    VD_ASSERT(!role->role_asked);
    role->role_asked = true;
    role->asked_term = term;
    role->asked_role = wanted;
    role->asked_leader = leader;
    repl_action_t *action = repl_role_act(actions, REPL_ACTION_SET_ROLE);
    action->term = term;
    action->role = wanted;
    action->leader = leader;
}

void repl_role_release(const repl_role_t *role, repl_actions_t *actions)
{
    if (role->options.failover == REPL_FAILOVER_ETCD)
        (void)repl_role_act(actions, REPL_ACTION_RELEASE);
}

/* ---- the ways into a state ---- */

/* Two who failed together shall not try together: differs by member and term, without chance. */
static uint64_t jitter(const repl_role_t *role)
{
    return (role->options.self * 2654435761u + role->term * 40503u) %
           (role->options.lease_ms / 2 + 1);
}

void repl_role_become_follower(repl_role_t *role, repl_actions_t *actions)
{
    role->state = REPL_FOLLOWER;
    role->leader = 0;
    role->alone_since_ms = 0;
    role->lease_until_ms = role->etcd_until_ms = 0;
    role->no_wait = role->by_operator = role->forced = role->claimed = role->stopped = false;
    role->handover_to = 0;
    repl_role_follow(role, 0, false, actions);
}

void repl_role_step_down(repl_role_t *role, const char *why, repl_actions_t *actions)
{
    repl_role_note(actions, "steps down in term %llu: %s", (unsigned long long)role->term, why);
    repl_role_become_follower(role, actions);
    repl_role_release(role, actions);
    repl_role_answer(role, VD_ERR_PRIMARY_STEPPED_DOWN, why, actions);
    role->retry_at_ms = role->now_ms + 2 * role->options.heartbeat_ms;
}

/* A candidate gives up. What storage was asked meanwhile is put right by settle(). */
void repl_role_abandon(repl_role_t *role, const char *why, repl_actions_t *actions)
{
    repl_role_note(actions, "gives up term %llu: %s", (unsigned long long)role->fence_term, why);
    repl_role_become_follower(role, actions);
    repl_role_release(role, actions);
    repl_role_answer(role, VD_ERR_OPERATION_FAILED, why, actions);
    /* Wider each time: where disks are slow two get in each other's way for longer. */
    role->tries += role->tries < TRIES_MAX;
    role->retry_at_ms = role->now_ms + 2 * role->options.heartbeat_ms + role->tries * jitter(role);
}

/* Whatever we are, we agree to a newer term that belongs to `owner`. */
void repl_role_agree(repl_role_t *role, uint64_t term, uint32_t owner, uint32_t fence_from,
                     uint64_t fence_position, repl_actions_t *actions)
{
    if (repl_role_is_leading(role))
        repl_role_step_down(role, "a newer term", actions);
    else if (repl_role_is_seeking(role))
        repl_role_abandon(role, "a newer term", actions);
    else
        repl_role_become_follower(role, actions);
    role->fence_from = fence_from;
    role->fence_position = fence_position;
    int wanted =
        role->storage_role == VDP_ROLE_RECOVERING ? VDP_ROLE_RECOVERING : VDP_ROLE_SECONDARY;
    repl_role_ask_storage(role, term, wanted, owner, actions);
}

void repl_role_seek(repl_role_t *role, uint64_t term, bool no_wait, repl_actions_t *actions)
{
    VD_ASSERT(term > role->term && !role->role_asked);
    repl_role_become_follower(role, actions);
    role->state = REPL_CANDIDATE;
    role->fence_term = term;
    role->known_term = repl_role_later(role->known_term, term);
    role->no_wait = no_wait;
    role->by_operator = role->promoting || no_wait;
    role->force = role->force && role->promoting;
    role->promoting = false;
    role->sent_ms = 0;
    role->deadline_ms = role->now_ms + 2 * role->options.lease_ms;
    for (uint32_t i = 0; i < role->options.member_count; i++)
        role->peers[i].fenced = role->peers[i].refused = false;
    repl_role_note(actions, "seeks term %llu", (unsigned long long)term);
    repl_role_ask_storage(role, term, VDP_ROLE_SECONDARY, role->options.self, actions);
}

void repl_role_lead(repl_role_t *role, repl_actions_t *actions)
{
    role->state = REPL_LEADER;
    role->tries = 0;
    role->leader = role->options.self;
    role->handover_to = 0;
    role->stopped = false;
    role->sent_ms = 0;
    repl_role_follow(role, 0, false, actions);
    repl_role_note(actions, "leads term %llu%s", (unsigned long long)role->term,
                   role->forced ? ", forced: a majority may have newer entries" : "");
    repl_role_answer(role, VD_OK,
                     role->forced ? "leads, without a majority: entries may be lost" : "leads",
                     actions);
}
