/* veddb-replicad/fence.c — who agrees to a term, and what a candidate does with it: fences, the
 * wait, catching up, etcd's lease. See role_private.h. */
#include "veddb-replicad/role_private.h"

#include <stdio.h>

/* ---- agreeing ---- */

void repl_role_answer_fence(const repl_role_t *role, uint32_t member, bool granted,
                            repl_actions_t *actions)
{
    repl_action_t *action = repl_role_act(actions, REPL_ACTION_FENCED);
    action->member = member;
    action->term = role->term;
    action->granted = granted;
    action->position = role->position;
    action->heard_ms = role->now_ms - role->term_heard_ms;
}

/* Half loaded: we don't have what we once acknowledged. Our vote counts for one who has: who led
 * the term in which it was dropped, or the next whom we heard leading; or whose log is not older
 * than ours was. */
bool repl_role_may_grant(const repl_role_t *role, uint32_t to, uint64_t position, uint64_t term)
{
    return role->storage_role != VDP_ROLE_RECOVERING || to == role->owner ||
           (role->floor != 0 && !repl_role_newer(role->floor, position, term));
}

void repl_role_own_fence(repl_role_t *role)
{
    int i = repl_votes_index(role, role->options.self);
    role->peers[i].fenced = true;
    role->peers[i].fence_position = role->position;
    role->peers[i].fence_until_ms = role->term_heard_ms + role->options.lease_ms;
}

void repl_role_on_fence(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (repl_role_peer_of(role, event->from) == NULL || !role->storage_up ||
        role->state == REPL_STARTING || role->state == REPL_REMOVED)
        return;
    role->known_term = repl_role_later(role->known_term, event->term);
    bool granted = repl_role_may_grant(role, event->from, event->position, event->term);
    if (role->role_asked) {
        if (event->term <= role->asked_term && role->fence_from != event->from)
            repl_role_answer_fence(role, event->from, false, actions);
    } else if (event->term > role->term && granted)
        repl_role_agree(role, event->term, event->from, event->from, event->position, actions);
    else
        repl_role_answer_fence(role, event->from,
                               granted && event->term == role->term && event->from == role->owner,
                               actions);
}

void repl_role_on_fenced(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    repl_role_peer_t *peer = repl_role_peer_of(role, event->from);
    if (peer == NULL)
        return;
    role->known_term = repl_role_later(role->known_term, event->term);
    if (!repl_role_is_seeking(role))
        return;
    if (event->granted && event->term == role->fence_term && role->term == role->fence_term) {
        if (peer->fenced)
            return;
        peer->fenced = true;
        peer->fence_position = event->position;
        peer->fence_until_ms = role->now_ms + role->options.lease_ms;
        peer->fence_until_ms -=
            event->heard_ms < peer->fence_until_ms ? event->heard_ms : peer->fence_until_ms;
    } else if (!event->granted && event->term > role->fence_term)
        repl_role_abandon(role, "a member has agreed to a newer term", actions);
    else if (!event->granted && event->term == role->fence_term && !role->force) {
        peer->refused = true;
        if (role->state == REPL_CANDIDATE && repl_votes_split(role))
            repl_role_abandon(role, "the votes are split", actions);
    }
}

/* ---- seeking ---- */

static void send_fences(repl_role_t *role, repl_actions_t *actions)
{
    for (uint32_t i = 0; i < role->options.member_count; i++) {
        const repl_role_member_t *member = &role->options.members[i];
        if (member->id == role->options.self || !member->votes || role->peers[i].fenced)
            continue;
        repl_action_t *action = repl_role_act(actions, REPL_ACTION_FENCE);
        action->member = member->id;
        action->term = role->fence_term;
        action->position = role->position;
    }
}

void repl_role_advance_candidate(repl_role_t *role, repl_actions_t *actions)
{
    bool over = role->now_ms >= role->deadline_ms;
    if (role->term == role->fence_term && (repl_votes_fenced(role) || (over && role->force))) {
        role->forced = !repl_votes_fenced(role);
        role->state = REPL_CLAIMING;
        role->sent_ms = 0;
        /* For the lease, one more where etcd can't be asked, and for entries to come. */
        role->deadline_ms = role->now_ms + 3 * role->options.lease_ms + role->options.handover_ms;
    } else if (over)
        repl_role_abandon(role, "no majority of the votes agreed in time", actions);
    else if (role->term == role->fence_term && repl_role_is_due(role))
        send_fences(role, actions);
}

/* etcd allows it; or an operator wants it and etcd can't be asked: the wait that is over is enough.
 */
static bool is_claimed(repl_role_t *role, repl_actions_t *actions)
{
    if (!repl_role_is_etcd(role) || role->claimed || (role->by_operator && role->etcd_away))
        return true;
    if (repl_role_is_due(role))
        repl_role_act(actions, REPL_ACTION_CLAIM)->term = role->fence_term;
    return false;
}

void repl_role_advance_claiming(repl_role_t *role, repl_actions_t *actions)
{
    if (role->forced && !role->role_asked && repl_votes_fenced(role))
        role->forced = false; /* a majority after all: nothing needs to be lost */
    if (role->forced && repl_role_is_due(role))
        send_fences(role, actions);
    uint32_t ahead = repl_votes_ahead(role);
    if (role->now_ms >= role->deadline_ms) {
        char why[100] = "it was not reached in time: lease or etcd";
        if (ahead != 0)
            (void)snprintf(why, sizeof why,
                           "entries of member %u could not be had in time; promote that one",
                           ahead);
        repl_role_abandon(role, why, actions);
        return;
    }
    if (role->role_asked || role->now_ms < repl_votes_fence_until(role))
        return;
    if (ahead != 0 && !role->forced) {
        repl_role_follow(role, ahead, true, actions);
        return;
    }
    repl_role_follow(role, 0, false, actions);
    if (!is_claimed(role, actions))
        return;
    if (role->forced || repl_votes_heard_until(role) > role->now_ms)
        repl_role_ask_storage(role, role->fence_term, VDP_ROLE_PRIMARY, role->options.self,
                              actions);
}

/* ---- etcd ---- */

void repl_role_on_lease(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    role->etcd_away = false;
    role->etcd_seen_ms = repl_role_later(event->sent_ms, 1);
    role->etcd_term = event->term;
    if (event->leader != role->etcd_leader)
        role->alone_since_ms = 0; /* all hear it at once: they go by their ranks from here */
    role->etcd_leader = event->leader;
    role->known_term = repl_role_later(role->known_term, event->term);
    if (role->state == REPL_FOLLOWER && event->leader == role->options.self)
        repl_role_release(
            role, actions); /* of the process before us, or of a claim whose answer was lost */
    if (!repl_role_is_leading(role) || event->leader == role->options.self)
        return;
    if (event->leader != 0 && event->term > role->term)
        repl_role_step_down(role, "etcd has another leader", actions);
    else if (event->term >= role->term)
        role->etcd_until_ms = 0; /* lost there; goes on while a majority answers, and claims anew */
}

static void lease_granted(repl_role_t *role, uint64_t sent_ms)
{
    uint64_t until = sent_ms + role->options.lease_ms - role->options.margin_ms;
    role->etcd_away = false;
    role->etcd_until_ms = repl_role_later(role->etcd_until_ms, until);
}

void repl_role_on_claimed(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    bool ours = (role->state == REPL_CLAIMING && event->term == role->fence_term) ||
                (repl_role_is_leading(role) && event->term == role->term);
    if (!ours) { /* too late: nobody wants it any more */
        repl_role_release(role, actions);
        return;
    }
    role->claimed = true;
    role->claimed_ms = event->sent_ms;
    lease_granted(role, event->sent_ms);
}

void repl_role_on_claim_lost(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    role->etcd_away = false;
    role->known_term = repl_role_later(role->known_term, event->term);
    if (role->state == REPL_CLAIMING && event->term >= role->fence_term &&
        event->leader != role->options.self)
        repl_role_abandon(role, "etcd has another leader, or a newer term", actions);
    else if (repl_role_is_leading(role) && event->leader != 0 && event->term > role->term)
        repl_role_step_down(role, "etcd has another leader", actions);
}

void repl_role_on_renewed(repl_role_t *role, const repl_event_t *event)
{
    if (repl_role_is_leading(role) && event->sent_ms >= role->claimed_ms)
        lease_granted(role, event->sent_ms);
}
