/* veddb-replicad/role.c — see role.h; the argument stands in docs/replication-protocol.md.
 *
 * Rules that everything else leans on:
 * - A term is agreed to by storage (SET_ROLE, ROLE_SET) before anybody hears that we agreed, and
 *   for one candidate only. FOLLOW(0) goes out before storage is asked: no acknowledgement of an
 *   older primary's entries can follow the agreement.
 * - One SET_ROLE is under way at a time; who asks meanwhile asks again (FENCE is repeated).
 * - We lead from ROLE_SET(primary) on, never because storage says that it is primary. */
#include "veddb-replicad/role.h"

#include "libcommon/base/error.h"
#include "proto/replication.h"
#include "veddb-replicad/votes.h"

#include <stdarg.h>
#include <stdio.h>

#define FORCED_STEP 16u /* terms that a forced promote leaves out */
#define TRIES_MAX   4u

/* ---- actions ---- */

static repl_action_t *act(repl_actions_t *actions, repl_action_kind_t kind)
{
    VD_ASSERT(actions->count < REPL_ACTIONS_MAX);
    repl_action_t *action = &actions->list[actions->count++];
    *action = (repl_action_t){.kind = kind};
    return action;
}

VD_PRINTF(2, 3) static void note(repl_actions_t *actions, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    repl_action_t *action = act(actions, REPL_ACTION_LOG);
    (void)vsnprintf(action->text, sizeof action->text, format, args);
    va_end(args);
}

static void answer_ticket(uint64_t ticket, int code, const char *text, repl_actions_t *actions)
{
    repl_action_t *action = act(actions, REPL_ACTION_ANSWER);
    action->ticket = ticket;
    action->code = code;
    (void)snprintf(action->text, sizeof action->text, "%s", text);
}

/* The operator who waits, if there is one. */
static void answer(repl_role_t *role, int code, const char *text, repl_actions_t *actions)
{
    if (role->ticket != 0)
        answer_ticket(role->ticket, code, text, actions);
    role->ticket = 0;
    role->promoting = false;
}

static void follow(repl_role_t *role, uint32_t member, bool catch_up, repl_actions_t *actions)
{
    if (role->following == member)
        return;
    role->following = member;
    repl_action_t *action = act(actions, REPL_ACTION_FOLLOW);
    action->member = member;
    action->term = role->term;
    action->catch_up = catch_up;
}

static void ask_storage(repl_role_t *role, uint64_t term, int wanted, uint32_t leader,
                        repl_actions_t *actions)
{
    VD_ASSERT(!role->role_asked);
    role->role_asked = true;
    role->asked_term = term;
    role->asked_role = wanted;
    role->asked_leader = leader;
    repl_action_t *action = act(actions, REPL_ACTION_SET_ROLE);
    action->term = term;
    action->role = wanted;
    action->leader = leader;
}

static void release(const repl_role_t *role, repl_actions_t *actions)
{
    if (role->options.failover == REPL_FAILOVER_ETCD)
        (void)act(actions, REPL_ACTION_RELEASE);
}

/* ---- small questions ---- */

static bool is_etcd(const repl_role_t *role)
{
    return role->options.failover == REPL_FAILOVER_ETCD && !repl_votes_alone(role);
}

static bool is_leading(const repl_role_t *role)
{
    return role->state == REPL_LEADER || role->state == REPL_HANDING_OVER;
}

static bool is_seeking(const repl_role_t *role)
{
    return role->state == REPL_CANDIDATE || role->state == REPL_CLAIMING;
}

static repl_role_peer_t *peer_of(repl_role_t *role, uint32_t id)
{
    int i = id == role->options.self ? -1 : repl_votes_index(role, id);
    return i < 0 ? NULL : &role->peers[i];
}

/* Who has none can't lead: its own promises would not be among those that are counted. */
static bool has_vote(const repl_role_t *role, uint32_t id)
{
    int i = repl_votes_index(role, id);
    return i >= 0 && role->options.members[i].votes;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Two who failed together shall not try together: differs by member and term, without chance. */
static uint64_t jitter(const repl_role_t *role)
{
    return (role->options.self * 2654435761u + role->term * 40503u) %
           (role->options.lease_ms / 2 + 1);
}

/* A primary that was not heard for so long is looked for elsewhere. What others wait for before
 * they lead is its whole lease: that is used to be ready when it ends. */
static uint64_t silence_ms(const repl_role_t *role)
{
    return role->options.lease_ms / 2;
}

static bool is_due(repl_role_t *role)
{
    if (role->sent_ms != 0 && role->now_ms - role->sent_ms < role->options.heartbeat_ms)
        return false;
    role->sent_ms = role->now_ms;
    return true;
}

/* ---- the ways into a state ---- */

static void become_follower(repl_role_t *role, repl_actions_t *actions)
{
    role->state = REPL_FOLLOWER;
    role->leader = 0;
    role->alone_since_ms = 0;
    role->lease_until_ms = role->etcd_until_ms = 0;
    role->no_wait = role->by_operator = role->forced = role->claimed = role->stopped = false;
    role->handover_to = 0;
    follow(role, 0, false, actions);
}

static void step_down(repl_role_t *role, const char *why, repl_actions_t *actions)
{
    note(actions, "steps down in term %llu: %s", (unsigned long long)role->term, why);
    become_follower(role, actions);
    release(role, actions);
    answer(role, VD_ERR_PRIMARY_STEPPED_DOWN, why, actions);
    role->retry_at_ms = role->now_ms + 2 * role->options.heartbeat_ms;
}

/* A candidate gives up. What storage was asked meanwhile is put right by settle(). */
static void abandon(repl_role_t *role, const char *why, repl_actions_t *actions)
{
    note(actions, "gives up term %llu: %s", (unsigned long long)role->fence_term, why);
    become_follower(role, actions);
    release(role, actions);
    answer(role, VD_ERR_OPERATION_FAILED, why, actions);
    /* Wider each time: where disks are slow two get in each other's way for longer. */
    role->tries += role->tries < TRIES_MAX;
    role->retry_at_ms = role->now_ms + 2 * role->options.heartbeat_ms + role->tries * jitter(role);
}

/* Whatever we are, we agree to a newer term that belongs to `owner`. */
static void agree(repl_role_t *role, uint64_t term, uint32_t owner, uint32_t fence_from,
                  uint64_t fence_position, repl_actions_t *actions)
{
    if (is_leading(role))
        step_down(role, "a newer term", actions);
    else if (is_seeking(role))
        abandon(role, "a newer term", actions);
    else
        become_follower(role, actions);
    role->fence_from = fence_from;
    role->fence_position = fence_position;
    int wanted =
        role->storage_role == VDP_ROLE_RECOVERING ? VDP_ROLE_RECOVERING : VDP_ROLE_SECONDARY;
    ask_storage(role, term, wanted, owner, actions);
}

static void seek(repl_role_t *role, uint64_t term, bool no_wait, repl_actions_t *actions)
{
    VD_ASSERT(term > role->term && !role->role_asked);
    become_follower(role, actions);
    role->state = REPL_CANDIDATE;
    role->fence_term = term;
    role->known_term = later(role->known_term, term);
    role->no_wait = no_wait;
    role->by_operator = role->promoting || no_wait;
    role->force = role->force && role->promoting;
    role->promoting = false;
    role->sent_ms = 0;
    role->deadline_ms = role->now_ms + 2 * role->options.lease_ms;
    for (uint32_t i = 0; i < role->options.member_count; i++)
        role->peers[i].fenced = role->peers[i].refused = false;
    note(actions, "seeks term %llu", (unsigned long long)term);
    ask_storage(role, term, VDP_ROLE_SECONDARY, role->options.self, actions);
}

static void lead(repl_role_t *role, repl_actions_t *actions)
{
    role->state = REPL_LEADER;
    role->tries = 0;
    role->leader = role->options.self;
    role->handover_to = 0;
    role->stopped = false;
    role->sent_ms = 0;
    follow(role, 0, false, actions);
    note(actions, "leads term %llu%s", (unsigned long long)role->term,
         role->forced ? ", forced: a majority may have newer entries" : "");
    answer(role, VD_OK, role->forced ? "leads, without a majority: entries may be lost" : "leads",
           actions);
}

/* ---- storage ---- */

static void storage_found(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (is_leading(role))
        step_down(role, "storage began anew", actions);
    else if (is_seeking(role))
        abandon(role, "storage began anew", actions);
    role->storage_up = true;
    role->role_asked = role->owner_resigned = false;
    role->fence_from = 0;
    role->storage_role = event->role;
    role->term = event->term;
    role->position = event->position;
    role->owner = event->leader;
    role->known_term = later(role->known_term, event->term);
    /* It leads by the word of the process before us, which had waited for all older leases first:
     * since then we answered nobody else. */
    if (event->role == VDP_ROLE_PRIMARY && event->leader == role->options.self)
        role->answered_primary_ms = 0;
    role->term_heard_ms = role->answered_primary_ms;
    for (uint32_t i = 0; i < REPL_MEMBERS_MAX; i++)
        role->peers[i].answered_ms = 0;
    become_follower(role, actions);
    if (repl_votes_self(role) == NULL)
        role->state = role->options.member_count == 0 ? REPL_STARTING : REPL_REMOVED;
}

static void on_storage(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    role->floor = event->floor;
    if (!role->storage_up || (event->term != role->term && !role->role_asked)) {
        storage_found(role, event, actions);
        return;
    }
    role->position = event->position;
    if (role->role_asked)
        return;           /* role and term come with ROLE_SET */
    if (role->owner == 0) /* named by a configuration that we did not have yet */
        role->owner = event->leader;
    role->storage_role = event->role;
    if (role->state == REPL_LEADER && event->role != VDP_ROLE_PRIMARY)
        step_down(role, "storage is no longer primary", actions);
    if (is_seeking(role) && event->role == VDP_ROLE_RECOVERING)
        abandon(role, "the data is being loaded", actions);
}

static void on_storage_lost(repl_role_t *role, repl_actions_t *actions)
{
    if (is_leading(role))
        step_down(role, "storage is gone", actions);
    else if (is_seeking(role))
        abandon(role, "storage is gone", actions);
    answer(role, VD_ERR_HOST_UNREACHABLE, "storage is gone", actions);
    become_follower(role, actions);
    role->state = REPL_STARTING;
    role->storage_up = role->role_asked = false;
    role->fence_from = 0;
}

static void answer_fence(const repl_role_t *role, uint32_t member, bool granted,
                         repl_actions_t *actions)
{
    repl_action_t *action = act(actions, REPL_ACTION_FENCED);
    action->member = member;
    action->term = role->term;
    action->granted = granted;
    action->position = role->position;
    action->heard_ms = role->now_ms - role->term_heard_ms;
}

/* Half loaded: we don't have what we once acknowledged. Our vote counts for one who has: who led
 * the term in which it was dropped, or the next whom we heard leading; or whose log is not older
 * than ours was. */
static bool may_grant(const repl_role_t *role, uint32_t to, uint64_t position, uint64_t term)
{
    return role->storage_role != VDP_ROLE_RECOVERING || to == role->owner ||
           (role->floor != 0 && !repl_role_newer(role->floor, position, term));
}

static void term_agreed(repl_role_t *role)
{
    role->owner_resigned = false;
    role->term = role->asked_term;
    role->known_term = later(role->known_term, role->term);
    role->term_heard_ms = role->answered_primary_ms;
    for (uint32_t i = 0; i < role->options.member_count; i++)
        role->peers[i].answered_ms = 0;
}

static void own_fence(repl_role_t *role)
{
    int i = repl_votes_index(role, role->options.self);
    role->peers[i].fenced = true;
    role->peers[i].fence_position = role->position;
    role->peers[i].fence_until_ms = role->term_heard_ms + role->options.lease_ms;
}

static void on_role_set(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    /* A load that began meanwhile: storage has made the term durable, and is RECOVERING. */
    bool load = event->role == VDP_ROLE_RECOVERING && role->asked_role == VDP_ROLE_SECONDARY;
    if (!role->role_asked || event->term != role->asked_term ||
        (event->role != role->asked_role && !load))
        return;
    role->role_asked = false;
    role->storage_role = event->role;
    bool granted = may_grant(role, role->asked_leader, role->fence_position, role->asked_term);
    role->position = event->position;
    role->owner = role->asked_leader;
    if (role->asked_term != role->term)
        term_agreed(role);
    if (role->fence_from != 0)
        answer_fence(role, role->fence_from, granted, actions);
    role->fence_from = 0;

    bool primary = role->asked_role == VDP_ROLE_PRIMARY;
    if (is_seeking(role) && load)
        abandon(role, "the data is being loaded", actions);
    else if (role->state == REPL_CANDIDATE && role->term == role->fence_term)
        own_fence(role);
    else if (role->state == REPL_CLAIMING && primary && role->term == role->fence_term)
        lead(role, actions);
    else if (role->state == REPL_HANDING_OVER && primary && role->handover_to == 0)
        lead(role, actions);
    else if (role->state == REPL_HANDING_OVER && !primary && !role->stopped) {
        role->stopped = true;
        role->final_position = event->position;
    } else if (role->state == REPL_FOLLOWER && role->asked_leader != role->options.self &&
               repl_role_peer(role, role->asked_leader) != NULL &&
               repl_role_peer(role, role->asked_leader)->state == REPL_LEADER &&
               repl_role_peer(role, role->asked_leader)->term == role->term) {
        role->leader = role->asked_leader;
        follow(role, role->leader, false, actions);
    }
}

static void on_role_refused(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (!role->role_asked)
        return;
    role->role_asked = false;
    role->fence_from = 0;
    if (is_leading(role))
        step_down(role, "storage has agreed to a newer term", actions);
    else if (is_seeking(role))
        abandon(role, "storage has agreed to a newer term", actions);
    role->term = later(role->term, event->term);
    role->known_term = later(role->known_term, role->term);
    role->owner = 0;
}

/* Storage's role follows our state; called at the end of each step. */
static void settle(repl_role_t *role, repl_actions_t *actions)
{
    if (!role->storage_up || role->role_asked || role->state == REPL_STARTING)
        return;
    if (role->state == REPL_REMOVED) {
        if (role->storage_role != VDP_ROLE_REMOVED)
            ask_storage(role, role->term, VDP_ROLE_REMOVED, role->owner, actions);
    } else if (role->state == REPL_FOLLOWER) {
        uint32_t owner = role->leader != 0 ? role->leader : role->owner;
        bool loading = role->storage_role == VDP_ROLE_RECOVERING;
        if ((role->storage_role != VDP_ROLE_SECONDARY && !loading) || owner != role->owner)
            ask_storage(role, role->term, loading ? VDP_ROLE_RECOVERING : VDP_ROLE_SECONDARY, owner,
                        actions);
    }
}

/* ---- the others ---- */

static void leader_heard(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (event->term > role->term) {
        /* An agreement under way is ended first; the next heartbeat comes soon. */
        if (!role->role_asked)
            agree(role, event->term, event->from, 0, 0, actions);
        return;
    }
    if (event->term < role->term || (role->role_asked && role->asked_term > event->term))
        return;
    if (is_leading(role)) { /* only one that was forced can meet another of its term */
        note(actions, "member %u leads term %llu, too", event->from,
             (unsigned long long)event->term);
        if (role->forced)
            step_down(role, "another leads this term", actions);
        return;
    }
    if (is_seeking(role))
        abandon(role, "another leads this term", actions);
    role->leader = event->from;
    role->alone_since_ms = role->tries = 0;
    follow(role, event->from, false, actions);
}

static void on_peer(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    repl_role_peer_t *peer = peer_of(role, event->from);
    if (peer == NULL)
        return;
    peer->up = true;
    peer->heard_ms = role->now_ms;
    peer->state = event->state;
    peer->term = event->term;
    peer->position = event->position;
    peer->leader = event->leader;
    role->known_term = later(role->known_term, event->term);
    /* Our answer to it, of the same term, counts there, also while our storage is away: remembered
     * for those who fence us later. A candidate counts answers in a term of its own alone; one
     * whose storage has not agreed yet still speaks in the term of the primary that is gone. */
    bool seeks = event->state == REPL_CANDIDATE || event->state == REPL_CLAIMING;
    bool leads = event->state == REPL_LEADER || event->state == REPL_HANDING_OVER;
    bool is_owner = role->owner == event->from;
    if (event->term == role->term &&
        (leads || (seeks && (role->owner == 0 || (is_owner && !role->owner_resigned)))))
        role->answered_primary_ms = role->now_ms;
    if (!role->storage_up || role->state == REPL_REMOVED || role->state == REPL_STARTING)
        return;
    if (event->sent_ms != 0 && event->term == role->term)
        peer->answered_ms = later(peer->answered_ms, event->sent_ms);
    /* The term is its own, and it does not lead it: it never will again (or never has). What we
     * answered it in this term binds nobody any more; what we had answered before still does. */
    if (event->term == role->term && is_owner && !leads && !seeks) {
        role->answered_primary_ms = role->term_heard_ms;
        role->owner_resigned = true;
    }
    if (leads)
        leader_heard(role, event, actions);
    else if (is_leading(role) && event->term > role->term)
        step_down(role, "a member has agreed to a newer term", actions); /* it can't follow us */
    else if (role->leader == event->from) {
        role->leader = 0;
        follow(role, 0, false, actions);
    }
}

static void on_fence(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (peer_of(role, event->from) == NULL || !role->storage_up || role->state == REPL_STARTING ||
        role->state == REPL_REMOVED)
        return;
    role->known_term = later(role->known_term, event->term);
    bool granted = may_grant(role, event->from, event->position, event->term);
    if (role->role_asked) {
        if (event->term <= role->asked_term && role->fence_from != event->from)
            answer_fence(role, event->from, false, actions);
    } else if (event->term > role->term && granted)
        agree(role, event->term, event->from, event->from, event->position, actions);
    else
        answer_fence(role, event->from,
                     granted && event->term == role->term && event->from == role->owner, actions);
}

static void on_fenced(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    repl_role_peer_t *peer = peer_of(role, event->from);
    if (peer == NULL)
        return;
    role->known_term = later(role->known_term, event->term);
    if (!is_seeking(role))
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
        abandon(role, "a member has agreed to a newer term", actions);
    else if (!event->granted && event->term == role->fence_term && !role->force) {
        peer->refused = true;
        if (role->state == REPL_CANDIDATE && repl_votes_split(role))
            abandon(role, "the votes are split", actions);
    }
}

/* ---- handing over ---- */

static void begin_handover(repl_role_t *role, uint32_t to, repl_actions_t *actions)
{
    note(actions, "hands over to member %u", to);
    role->state = REPL_HANDING_OVER;
    role->handover_to = to;
    role->stopped = false;
    role->deadline_ms = role->now_ms + role->options.handover_ms;
    ask_storage(role, role->term, VDP_ROLE_SECONDARY, role->options.self, actions);
}

static void on_handover(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (peer_of(role, event->from) == NULL || role->role_asked)
        return;
    if (role->state == REPL_LEADER && event->term == role->term && has_vote(role, event->from)) {
        role->force = false;
        role->step_down_wait_ms = 0;
        begin_handover(role, event->from, actions);
    } else if (role->state == REPL_FOLLOWER && event->term > role->term && role->storage_up &&
               role->storage_role == VDP_ROLE_SECONDARY && has_vote(role, role->options.self))
        seek(role, event->term, true, actions);
}

static void advance_handover(repl_role_t *role, repl_actions_t *actions)
{
    const repl_role_peer_t *peer = repl_role_peer(role, role->handover_to);
    if (role->handover_to == 0) { /* it failed: we take the role back */
        if (!role->role_asked && role->storage_role != VDP_ROLE_PRIMARY)
            ask_storage(role, role->term, VDP_ROLE_PRIMARY, role->options.self, actions);
    } else if (role->stopped && peer != NULL && peer->term == role->term &&
               !repl_role_newer(role->final_position, peer->position, role->term)) {
        repl_action_t *action = act(actions, REPL_ACTION_HANDOVER);
        action->member = role->handover_to;
        action->term = role->term + 1;
        action->position = role->final_position;
        role->frozen_until_ms =
            later(role->frozen_until_ms, role->now_ms + role->step_down_wait_ms);
        answer(role, VD_OK, "handed over", actions);
        step_down(role, "handed over", actions);
        /* Should the gift be lost, we come back later than its receiver needs. */
        role->retry_at_ms = role->now_ms + 2 * role->options.lease_ms;
    } else if (role->now_ms >= role->deadline_ms && role->force) {
        role->frozen_until_ms = role->now_ms + role->step_down_wait_ms;
        answer(role, VD_OK, "stepped down; the successor has not everything", actions);
        step_down(role, "forced by an operator", actions);
    } else if (role->now_ms >= role->deadline_ms && !role->role_asked) {
        answer(role, VD_ERR_EXCEEDED_TIME_LIMIT, "the successor did not catch up in time", actions);
        role->handover_to = 0;
    }
}

/* ---- seeking ---- */

static void send_fences(repl_role_t *role, repl_actions_t *actions)
{
    for (uint32_t i = 0; i < role->options.member_count; i++) {
        const repl_role_member_t *member = &role->options.members[i];
        if (member->id == role->options.self || !member->votes || role->peers[i].fenced)
            continue;
        repl_action_t *action = act(actions, REPL_ACTION_FENCE);
        action->member = member->id;
        action->term = role->fence_term;
        action->position = role->position;
    }
}

static void advance_candidate(repl_role_t *role, repl_actions_t *actions)
{
    bool over = role->now_ms >= role->deadline_ms;
    if (role->term == role->fence_term && (repl_votes_fenced(role) || (over && role->force))) {
        role->forced = !repl_votes_fenced(role);
        role->state = REPL_CLAIMING;
        role->sent_ms = 0;
        /* For the lease, one more where etcd can't be asked, and for entries to come. */
        role->deadline_ms = role->now_ms + 3 * role->options.lease_ms + role->options.handover_ms;
    } else if (over)
        abandon(role, "no majority of the votes agreed in time", actions);
    else if (role->term == role->fence_term && is_due(role))
        send_fences(role, actions);
}

/* etcd allows it; or an operator wants it and etcd can't be asked: the wait that is over is enough.
 */
static bool is_claimed(repl_role_t *role, repl_actions_t *actions)
{
    if (!is_etcd(role) || role->claimed || (role->by_operator && role->etcd_away))
        return true;
    if (is_due(role))
        act(actions, REPL_ACTION_CLAIM)->term = role->fence_term;
    return false;
}

static void advance_claiming(repl_role_t *role, repl_actions_t *actions)
{
    if (role->forced && !role->role_asked && repl_votes_fenced(role))
        role->forced = false; /* a majority after all: nothing needs to be lost */
    if (role->forced && is_due(role))
        send_fences(role, actions);
    uint32_t ahead = repl_votes_ahead(role);
    if (role->now_ms >= role->deadline_ms) {
        char why[100] = "it was not reached in time: lease or etcd";
        if (ahead != 0)
            (void)snprintf(why, sizeof why,
                           "entries of member %u could not be had in time; promote that one",
                           ahead);
        abandon(role, why, actions);
        return;
    }
    if (role->role_asked || role->now_ms < repl_votes_fence_until(role))
        return;
    if (ahead != 0 && !role->forced) {
        follow(role, ahead, true, actions);
        return;
    }
    follow(role, 0, false, actions);
    if (!is_claimed(role, actions))
        return;
    if (role->forced || repl_votes_heard_until(role) > role->now_ms)
        ask_storage(role, role->fence_term, VDP_ROLE_PRIMARY, role->options.self, actions);
}

/* ---- leading ---- */

static void advance_leader(repl_role_t *role, repl_actions_t *actions)
{
    role->lease_until_ms = repl_votes_heard_until(role);
    if (role->forced && role->lease_until_ms > role->now_ms)
        role->forced = false; /* a majority answers: from now on as any other */
    if (role->now_ms >= role->lease_until_ms && !role->forced) {
        step_down(role, "a majority of the votes does not answer", actions);
        return;
    }
    if (is_etcd(role) && is_due(role)) {
        if (role->etcd_until_ms > role->now_ms)
            (void)act(actions, REPL_ACTION_RENEW);
        else
            act(actions, REPL_ACTION_CLAIM)->term = role->term;
    }
}

/* ---- following ---- */

static void refuse_promote(repl_role_t *role, repl_actions_t *actions)
{
    answer(role, VD_ERR_HOST_UNREACHABLE,
           "a majority of the votes can't be reached; force would lead without it: what others "
           "have acknowledged since they were last heard would be lost",
           actions);
}

/* Others whom we can't hear may agree to the next terms among themselves, or be forced, too: some
 * terms are left out, and which one is taken goes by who takes it. The same position must never
 * name two entries. */
static uint64_t forced_term(const repl_role_t *role)
{
    uint64_t term = role->known_term + FORCED_STEP;
    return term + (role->options.self - term) % FORCED_STEP;
}

static void advance_promote(repl_role_t *role, repl_actions_t *actions)
{
    if (role->leader != 0 && role->now_ms < role->deadline_ms) {
        if (is_due(role)) {
            repl_action_t *action = act(actions, REPL_ACTION_HANDOVER);
            action->member = role->leader;
            action->term = role->term;
            action->position = role->position;
        }
        return;
    }
    if (role->role_asked)
        return;
    if (role->storage_role == VDP_ROLE_RECOVERING) {
        answer(role, VD_ERR_NOT_PRIMARY_OR_SECONDARY, "this member is loading its data", actions);
        return;
    }
    if (repl_votes_reachable(role) || role->force)
        seek(role, role->force ? forced_term(role) : role->known_term + 1, false, actions);
    else
        refuse_promote(role, actions);
}

static bool may_seek(const repl_role_t *role)
{
    const repl_role_member_t *self = repl_votes_self(role);
    if (!self->votes || self->priority == 0 || role->role_asked || role->leader != 0)
        return false;
    if (role->storage_role != VDP_ROLE_SECONDARY || role->now_ms < role->frozen_until_ms)
        return false;
    if (repl_votes_alone(role))
        return true;
    if (role->now_ms < role->retry_at_ms || !repl_votes_reachable(role) || repl_votes_led(role))
        return false;
    if (role->options.failover == REPL_FAILOVER_MANUAL)
        return role->owner == role->options.self;
    return role->etcd_seen_ms != 0 && !role->etcd_away;
}

/* etcd names somebody of whom we have not heard that it does not lead: it may just be slow. */
static bool may_be_led(const repl_role_t *role)
{
    if (!is_etcd(role) || role->etcd_leader == 0 || role->etcd_leader == role->options.self ||
        role->etcd_term < role->term)
        return false;
    const repl_role_peer_t *peer = repl_role_peer(role, role->etcd_leader);
    return peer != NULL &&
           (role->now_ms - peer->heard_ms > silence_ms(role) || peer->term < role->etcd_term);
}

static void advance_follower(repl_role_t *role, repl_actions_t *actions)
{
    const repl_role_peer_t *leader = repl_role_peer(role, role->leader);
    if (role->leader != 0 &&
        (leader == NULL || role->now_ms - leader->heard_ms > silence_ms(role))) {
        role->leader = 0;
        follow(role, 0, false, actions);
    }
    if (role->promoting) {
        advance_promote(role, actions);
        return;
    }
    if (!may_seek(role)) {
        role->alone_since_ms = 0;
        return;
    }
    if (role->alone_since_ms == 0)
        role->alone_since_ms = role->now_ms;
    uint64_t wait_ms = role->options.heartbeat_ms * (1 + 3 * repl_votes_rank(role));
    if (may_be_led(role))
        wait_ms += role->options.lease_ms / 4;
    if (repl_votes_alone(role) || role->now_ms - role->alone_since_ms >= wait_ms)
        seek(role, role->known_term + 1, false, actions);
}

/* ---- operators ---- */

static void on_promote(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    int code = VD_OK;
    const char *text = NULL;
    if (role->state == REPL_STARTING || role->state == REPL_REMOVED)
        code = VD_ERR_NOT_YET_INITIALIZED, text = "storage or the configuration is not there";
    else if (role->state == REPL_LEADER)
        text = "leads already";
    else if (!has_vote(role, role->options.self))
        code = VD_ERR_ILLEGAL_OPERATION, text = "a member without a vote can't lead";
    else if (role->ticket != 0 || role->state == REPL_HANDING_OVER)
        code = VD_ERR_CONFLICTING_OPERATION_IN_PROGRESS, text = "another is under way";
    else if (role->now_ms < role->frozen_until_ms)
        code = VD_ERR_ILLEGAL_OPERATION, text = "this member is frozen; freeze 0 ends it";
    else if (role->storage_role == VDP_ROLE_RECOVERING)
        code = VD_ERR_NOT_PRIMARY_OR_SECONDARY, text = "this member is loading its data";
    else if (event->force && role->position == 0)
        code = VD_ERR_ILLEGAL_OPERATION, text = "this member has no data: all would be lost";
    if (text != NULL) {
        answer_ticket(event->ticket, code, text, actions);
        return;
    }
    if (is_seeking(role) && event->force) /* the term that it seeks could be another's, too */
        abandon(role, "it is to be forced", actions);
    role->ticket = event->ticket;
    role->force = event->force;
    if (is_seeking(role)) {
        role->by_operator = true;
        return;
    }
    role->promoting = true;
    role->sent_ms = 0;
    role->deadline_ms = role->now_ms + role->options.handover_ms + 2 * role->options.heartbeat_ms;
}

static void on_step_down(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    const repl_role_peer_t *to = peer_of(role, event->to);
    uint32_t successor = event->to != 0 ? event->to : repl_votes_successor(role);
    int code = VD_OK;
    const char *text = NULL;
    if (role->state != REPL_LEADER || role->role_asked)
        code = VD_ERR_NOT_WRITABLE_PRIMARY, text = "this member does not lead";
    else if (event->to != 0 && to == NULL)
        code = VD_ERR_NODE_NOT_FOUND, text = "no such other member";
    else if (event->to != 0 && !has_vote(role, event->to))
        code = VD_ERR_ILLEGAL_OPERATION, text = "a member without a vote can't lead";
    else if (event->to != 0 && !to->up)
        code = VD_ERR_HOST_UNREACHABLE, text = "that member can't be reached";
    else if (successor == 0 && !event->force)
        code = VD_ERR_EXCEEDED_TIME_LIMIT, text = "no member that could follow can be reached";
    if (text != NULL) {
        answer_ticket(event->ticket, code, text, actions);
        return;
    }
    role->ticket = event->ticket;
    role->force = event->force;
    role->step_down_wait_ms = event->wait_ms;
    if (successor != 0) {
        begin_handover(role, successor, actions);
        return;
    }
    role->frozen_until_ms = role->now_ms + event->wait_ms;
    answer(role, VD_OK, "stepped down; nobody follows", actions);
    step_down(role, "forced by an operator", actions);
}

static void on_freeze(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (is_leading(role) || is_seeking(role)) {
        answer_ticket(event->ticket, VD_ERR_ILLEGAL_OPERATION, "leads, or is about to", actions);
        return;
    }
    role->frozen_until_ms = event->wait_ms == 0 ? 0 : role->now_ms + event->wait_ms;
    answer_ticket(event->ticket, VD_OK, event->wait_ms == 0 ? "no longer frozen" : "frozen",
                  actions);
}

/* ---- etcd ---- */

static void on_lease(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    role->etcd_away = false;
    role->etcd_seen_ms = later(event->sent_ms, 1);
    role->etcd_term = event->term;
    if (event->leader != role->etcd_leader)
        role->alone_since_ms = 0; /* all hear it at once: they go by their ranks from here */
    role->etcd_leader = event->leader;
    role->known_term = later(role->known_term, event->term);
    if (role->state == REPL_FOLLOWER && event->leader == role->options.self)
        release(role, actions); /* of the process before us, or of a claim whose answer was lost */
    if (!is_leading(role) || event->leader == role->options.self)
        return;
    if (event->leader != 0 && event->term > role->term)
        step_down(role, "etcd has another leader", actions);
    else if (event->term >= role->term)
        role->etcd_until_ms = 0; /* lost there; goes on while a majority answers, and claims anew */
}

static void lease_granted(repl_role_t *role, uint64_t sent_ms)
{
    uint64_t until = sent_ms + role->options.lease_ms - role->options.margin_ms;
    role->etcd_away = false;
    role->etcd_until_ms = later(role->etcd_until_ms, until);
}

static void on_claimed(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    bool ours = (role->state == REPL_CLAIMING && event->term == role->fence_term) ||
                (is_leading(role) && event->term == role->term);
    if (!ours) { /* too late: nobody wants it any more */
        release(role, actions);
        return;
    }
    role->claimed = true;
    role->claimed_ms = event->sent_ms;
    lease_granted(role, event->sent_ms);
}

static void on_claim_lost(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    role->etcd_away = false;
    role->known_term = later(role->known_term, event->term);
    if (role->state == REPL_CLAIMING && event->term >= role->fence_term &&
        event->leader != role->options.self)
        abandon(role, "etcd has another leader, or a newer term", actions);
    else if (is_leading(role) && event->leader != 0 && event->term > role->term)
        step_down(role, "etcd has another leader", actions);
}

/* ---- the step ---- */

static void dispatch(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    switch (event->kind) {
    case REPL_EVENT_TICK:
        break;
    case REPL_EVENT_STORAGE:
        on_storage(role, event, actions);
        break;
    case REPL_EVENT_STORAGE_LOST:
        on_storage_lost(role, actions);
        break;
    case REPL_EVENT_ROLE_SET:
        on_role_set(role, event, actions);
        break;
    case REPL_EVENT_ROLE_REFUSED:
        on_role_refused(role, event, actions);
        break;
    case REPL_EVENT_PEER:
        on_peer(role, event, actions);
        break;
    case REPL_EVENT_PEER_LOST:
        if (peer_of(role, event->from) != NULL)
            peer_of(role, event->from)->up = false;
        break;
    case REPL_EVENT_FENCE:
        on_fence(role, event, actions);
        break;
    case REPL_EVENT_FENCED:
        on_fenced(role, event, actions);
        break;
    case REPL_EVENT_HANDOVER:
        on_handover(role, event, actions);
        break;
    case REPL_EVENT_LEASE:
        on_lease(role, event, actions);
        break;
    case REPL_EVENT_CLAIMED:
        on_claimed(role, event, actions);
        break;
    case REPL_EVENT_CLAIM_LOST:
        on_claim_lost(role, event, actions);
        break;
    case REPL_EVENT_RENEWED:
        if (is_leading(role) && event->sent_ms >= role->claimed_ms)
            lease_granted(role, event->sent_ms);
        break;
    case REPL_EVENT_ETCD_AWAY:
        role->etcd_away = true;
        break;
    case REPL_EVENT_PROMOTE:
        on_promote(role, event, actions);
        break;
    case REPL_EVENT_STEP_DOWN:
        on_step_down(role, event, actions);
        break;
    case REPL_EVENT_FREEZE:
        on_freeze(role, event, actions);
        break;
    }
}

static void advance(repl_role_t *role, repl_actions_t *actions)
{
    if (is_leading(role))
        advance_leader(role, actions);
    if (role->state == REPL_HANDING_OVER)
        advance_handover(role, actions);
    if (role->state == REPL_FOLLOWER)
        advance_follower(role, actions);
    if (role->state == REPL_CANDIDATE)
        advance_candidate(role, actions);
    if (role->state == REPL_CLAIMING)
        advance_claiming(role, actions);
    settle(role, actions);
}

void repl_role_init(repl_role_t *role, const repl_role_options_t *options, uint64_t now_ms)
{
    VD_ASSERT(options->member_count == 0);
    VD_ASSERT(options->margin_ms < options->lease_ms && options->heartbeat_ms > 0);
    memset(role, 0, sizeof *role);
    role->options = *options;
    role->now_ms = now_ms;
}

void repl_role_configure(repl_role_t *role, const repl_role_options_t *options,
                         repl_actions_t *actions)
{
    VD_ASSERT(options->member_count <= REPL_MEMBERS_MAX);
    repl_role_t old = *role;
    role->options = *options;
    memset(role->peers, 0, sizeof role->peers);
    for (uint32_t i = 0; i < options->member_count; i++) {
        const repl_role_peer_t *known = repl_role_peer(&old, options->members[i].id);
        if (known != NULL)
            role->peers[i] = *known;
        else if (old.state == REPL_LEADER)
            /* It counts as heard for one lease: see the promise below. */
            role->peers[i].answered_ms = role->now_ms;
        role->peers[i].id = options->members[i].id;
    }
    /* Whoever comes in promises the primary that let it in one lease, as if it had answered it. It
     * hears of the configuration after the primary made it. So does whoever has restarted: what it
     * answered before is forgotten, and may have been just now. */
    if (repl_votes_self(&old) == NULL && repl_votes_self(role) != NULL)
        role->answered_primary_ms = role->term_heard_ms = role->now_ms;
    if (repl_votes_self(role) == NULL) {
        if (is_leading(role))
            step_down(role, "no longer a member", actions);
        else if (is_seeking(role))
            abandon(role, "no longer a member", actions);
        answer(role, VD_ERR_NODE_NOT_FOUND, "no longer a member", actions);
        become_follower(role, actions);
        bool none = options->member_count == 0 || !role->storage_up;
        role->state = none ? REPL_STARTING : REPL_REMOVED;
    } else if (role->storage_up && (role->state == REPL_STARTING || role->state == REPL_REMOVED))
        become_follower(role, actions);
    else if (is_leading(role) && !has_vote(role, options->self))
        step_down(role, "it has no vote any more", actions);
    else if (is_seeking(role)) /* the votes were counted by the old one */
        abandon(role, "the configuration changed", actions);
    advance(role, actions);
    if (role->state != old.state)
        (void)act(actions, REPL_ACTION_ANNOUNCE);
}

void repl_role_step(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    repl_role_state_t state = role->state;
    uint64_t term = role->term;
    uint32_t leader = role->leader;
    VD_ASSERT(event->now_ms >= role->now_ms);
    role->now_ms = event->now_ms;
    dispatch(role, event, actions);
    advance(role, actions);
    if (role->state != state || role->term != term || role->leader != leader)
        (void)act(actions, REPL_ACTION_ANNOUNCE);
}

bool repl_role_leads(const repl_role_t *role, uint64_t now_ms)
{
    return role->state == REPL_LEADER && (role->forced || now_ms < role->lease_until_ms);
}

const char *repl_role_name(repl_role_state_t state)
{
    static const char *const names[] = {"starting", "follower",     "candidate", "claiming",
                                        "leader",   "handing over", "removed"};
    return (size_t)state < VD_COUNT_OF(names) ? names[state] : "unknown";
}
