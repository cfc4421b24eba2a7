/* veddb-replicad/role.c — see role.h; the argument stands in docs/replication-protocol.md.
 *
 * Rules that everything else leans on:
 * - A term is agreed to by storage (SET_ROLE, ROLE_SET) before anybody hears that we agreed, and
 *   for one candidate only. FOLLOW(0) goes out before storage is asked: no acknowledgement of an
 *   older primary's entries can follow the agreement.
 * - One SET_ROLE is under way at a time; who asks meanwhile asks again (FENCE is repeated).
 * - We lead from ROLE_SET(primary) on, never because storage says that it is primary. */
#include "veddb-replicad/role_private.h"

/* ---- storage ---- */

static void storage_found(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (repl_role_is_leading(role))
        repl_role_step_down(role, "storage began anew", actions);
    else if (repl_role_is_seeking(role))
        repl_role_abandon(role, "storage began anew", actions);
    role->storage_up = true;
    role->role_asked = role->owner_resigned = false;
    role->fence_from = 0;
    role->storage_role = event->role;
    role->term = event->term;
    role->position = event->position;
    role->owner = event->leader;
    role->known_term = repl_role_later(role->known_term, event->term);
    /* It leads by the word of the process before us, which had waited for all older leases first:
     * since then we answered nobody else. */
    if (event->role == VDP_ROLE_PRIMARY && event->leader == role->options.self)
        role->answered_primary_ms = 0;
    role->term_heard_ms = role->answered_primary_ms;
    for (uint32_t i = 0; i < REPL_MEMBERS_MAX; i++)
        role->peers[i].answered_ms = 0;
    repl_role_become_follower(role, actions);
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
        repl_role_step_down(role, "storage is no longer primary", actions);
    if (repl_role_is_seeking(role) && event->role == VDP_ROLE_RECOVERING)
        repl_role_abandon(role, "the data is being loaded", actions);
}

static void on_storage_lost(repl_role_t *role, repl_actions_t *actions)
{
    if (repl_role_is_leading(role))
        repl_role_step_down(role, "storage is gone", actions);
    else if (repl_role_is_seeking(role))
        repl_role_abandon(role, "storage is gone", actions);
    repl_role_answer(role, VD_ERR_HOST_UNREACHABLE, "storage is gone", actions);
    repl_role_become_follower(role, actions);
    role->state = REPL_STARTING;
    role->storage_up = role->role_asked = false;
    role->fence_from = 0;
}

static void term_agreed(repl_role_t *role)
{
    role->owner_resigned = false;
    role->term = role->asked_term;
    role->known_term = repl_role_later(role->known_term, role->term);
    role->term_heard_ms = role->answered_primary_ms;
    for (uint32_t i = 0; i < role->options.member_count; i++)
        role->peers[i].answered_ms = 0;
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
    bool granted =
        repl_role_may_grant(role, role->asked_leader, role->fence_position, role->asked_term);
    role->position = event->position;
    role->owner = role->asked_leader;
    if (role->asked_term != role->term)
        term_agreed(role);
    if (role->fence_from != 0)
        repl_role_answer_fence(role, role->fence_from, granted, actions);
    role->fence_from = 0;

    bool primary = role->asked_role == VDP_ROLE_PRIMARY;
    if (repl_role_is_seeking(role) && load)
        repl_role_abandon(role, "the data is being loaded", actions);
    else if (role->state == REPL_CANDIDATE && role->term == role->fence_term)
        repl_role_own_fence(role);
    else if (role->state == REPL_CLAIMING && primary && role->term == role->fence_term)
        repl_role_lead(role, actions);
    else if (role->state == REPL_HANDING_OVER && primary && role->handover_to == 0)
        repl_role_lead(role, actions);
    else if (role->state == REPL_HANDING_OVER && !primary && !role->stopped) {
        role->stopped = true;
        role->final_position = event->position;
    } else if (role->state == REPL_FOLLOWER && role->asked_leader != role->options.self &&
               repl_role_peer(role, role->asked_leader) != NULL &&
               repl_role_peer(role, role->asked_leader)->state == REPL_LEADER &&
               repl_role_peer(role, role->asked_leader)->term == role->term) {
        role->leader = role->asked_leader;
        repl_role_follow(role, role->leader, false, actions);
    }
}

static void on_role_refused(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (!role->role_asked)
        return;
    role->role_asked = false;
    role->fence_from = 0;
    if (repl_role_is_leading(role))
        repl_role_step_down(role, "storage has agreed to a newer term", actions);
    else if (repl_role_is_seeking(role))
        repl_role_abandon(role, "storage has agreed to a newer term", actions);
    role->term = repl_role_later(role->term, event->term);
    role->known_term = repl_role_later(role->known_term, role->term);
    role->owner = 0;
}

/* Storage's role follows our state; called at the end of each step. */
static void settle(repl_role_t *role, repl_actions_t *actions)
{
    if (!role->storage_up || role->role_asked || role->state == REPL_STARTING)
        return;
    if (role->state == REPL_REMOVED) {
        if (role->storage_role != VDP_ROLE_REMOVED)
            repl_role_ask_storage(role, role->term, VDP_ROLE_REMOVED, role->owner, actions);
    } else if (role->state == REPL_FOLLOWER) {
        uint32_t owner = role->leader != 0 ? role->leader : role->owner;
        bool loading = role->storage_role == VDP_ROLE_RECOVERING;
        if ((role->storage_role != VDP_ROLE_SECONDARY && !loading) || owner != role->owner)
            repl_role_ask_storage(role, role->term,
                                  loading ? VDP_ROLE_RECOVERING : VDP_ROLE_SECONDARY, owner,
                                  actions);
    }
}

/* ---- the others ---- */

static void leader_heard(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (event->term > role->term) {
        /* An agreement under way is ended first; the next heartbeat comes soon. */
        if (!role->role_asked)
            repl_role_agree(role, event->term, event->from, 0, 0, actions);
        return;
    }
    if (event->term < role->term || (role->role_asked && role->asked_term > event->term))
        return;
    if (repl_role_is_leading(role)) { /* only one that was forced can meet another of its term */
        repl_role_note(actions, "member %u leads term %llu, too", event->from,
                       (unsigned long long)event->term);
        if (role->forced)
            repl_role_step_down(role, "another leads this term", actions);
        return;
    }
    if (repl_role_is_seeking(role))
        repl_role_abandon(role, "another leads this term", actions);
    role->leader = event->from;
    role->alone_since_ms = role->tries = 0;
    repl_role_follow(role, event->from, false, actions);
}

static void on_peer(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    repl_role_peer_t *peer = repl_role_peer_of(role, event->from);
    if (peer == NULL)
        return;
    peer->up = true;
    peer->heard_ms = role->now_ms;
    peer->state = event->state;
    peer->term = event->term;
    peer->position = event->position;
    peer->leader = event->leader;
    role->known_term = repl_role_later(role->known_term, event->term);
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
        peer->answered_ms = repl_role_later(peer->answered_ms, event->sent_ms);
    /* The term is its own, and it does not lead it: it never will again (or never has). What we
     * answered it in this term binds nobody any more; what we had answered before still does. */
    if (event->term == role->term && is_owner && !leads && !seeks) {
        role->answered_primary_ms = role->term_heard_ms;
        role->owner_resigned = true;
    }
    if (leads)
        leader_heard(role, event, actions);
    else if (repl_role_is_leading(role) && event->term > role->term)
        repl_role_step_down(role, "a member has agreed to a newer term",
                            actions); /* it can't follow us */
    else if (role->leader == event->from) {
        role->leader = 0;
        repl_role_follow(role, 0, false, actions);
    }
}

/* ---- leading ---- */

static void advance_leader(repl_role_t *role, repl_actions_t *actions)
{
    role->lease_until_ms = repl_votes_heard_until(role);
    if (role->forced && role->lease_until_ms > role->now_ms)
        role->forced = false; /* a majority answers: from now on as any other */
    if (role->now_ms >= role->lease_until_ms && !role->forced) {
        repl_role_step_down(role, "a majority of the votes does not answer", actions);
        return;
    }
    if (repl_role_is_etcd(role) && repl_role_is_due(role)) {
        if (role->etcd_until_ms > role->now_ms)
            (void)repl_role_act(actions, REPL_ACTION_RENEW);
        else
            repl_role_act(actions, REPL_ACTION_CLAIM)->term = role->term;
    }
}

/* ---- following ---- */

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
    if (!repl_role_is_etcd(role) || role->etcd_leader == 0 ||
        role->etcd_leader == role->options.self || role->etcd_term < role->term)
        return false;
    const repl_role_peer_t *peer = repl_role_peer(role, role->etcd_leader);
    return peer != NULL && (role->now_ms - peer->heard_ms > repl_role_silence_ms(role) ||
                            peer->term < role->etcd_term);
}

static void advance_follower(repl_role_t *role, repl_actions_t *actions)
{
    const repl_role_peer_t *leader = repl_role_peer(role, role->leader);
    if (role->leader != 0 &&
        (leader == NULL || role->now_ms - leader->heard_ms > repl_role_silence_ms(role))) {
        role->leader = 0;
        repl_role_follow(role, 0, false, actions);
    }
    if (role->promoting) {
        repl_role_advance_promote(role, actions);
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
        repl_role_seek(role, role->known_term + 1, false, actions);
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
        if (repl_role_peer_of(role, event->from) != NULL)
            repl_role_peer_of(role, event->from)->up = false;
        break;
    case REPL_EVENT_FENCE:
        repl_role_on_fence(role, event, actions);
        break;
    case REPL_EVENT_FENCED:
        repl_role_on_fenced(role, event, actions);
        break;
    case REPL_EVENT_HANDOVER:
        repl_role_on_handover(role, event, actions);
        break;
    case REPL_EVENT_LEASE:
        repl_role_on_lease(role, event, actions);
        break;
    case REPL_EVENT_CLAIMED:
        repl_role_on_claimed(role, event, actions);
        break;
    case REPL_EVENT_CLAIM_LOST:
        repl_role_on_claim_lost(role, event, actions);
        break;
    case REPL_EVENT_RENEWED:
        repl_role_on_renewed(role, event);
        break;
    case REPL_EVENT_ETCD_AWAY:
        role->etcd_away = true;
        break;
    case REPL_EVENT_PROMOTE:
        repl_role_on_promote(role, event, actions);
        break;
    case REPL_EVENT_STEP_DOWN:
        repl_role_on_step_down(role, event, actions);
        break;
    case REPL_EVENT_FREEZE:
        repl_role_on_freeze(role, event, actions);
        break;
    }
}

static void advance(repl_role_t *role, repl_actions_t *actions)
{
    if (repl_role_is_leading(role))
        advance_leader(role, actions);
    if (role->state == REPL_HANDING_OVER)
        repl_role_advance_handover(role, actions);
    if (role->state == REPL_FOLLOWER)
        advance_follower(role, actions);
    if (role->state == REPL_CANDIDATE)
        repl_role_advance_candidate(role, actions);
    if (role->state == REPL_CLAIMING)
        repl_role_advance_claiming(role, actions);
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
        if (repl_role_is_leading(role))
            repl_role_step_down(role, "no longer a member", actions);
        else if (repl_role_is_seeking(role))
            repl_role_abandon(role, "no longer a member", actions);
        repl_role_answer(role, VD_ERR_NODE_NOT_FOUND, "no longer a member", actions);
        repl_role_become_follower(role, actions);
        bool none = options->member_count == 0 || !role->storage_up;
        role->state = none ? REPL_STARTING : REPL_REMOVED;
    } else if (role->storage_up && (role->state == REPL_STARTING || role->state == REPL_REMOVED))
        repl_role_become_follower(role, actions);
    else if (repl_role_is_leading(role) && !repl_role_has_vote(role, options->self))
        repl_role_step_down(role, "it has no vote any more", actions);
    else if (repl_role_is_seeking(role)) /* the votes were counted by the old one */
        repl_role_abandon(role, "the configuration changed", actions);
    advance(role, actions);
    if (role->state != old.state)
        (void)repl_role_act(actions, REPL_ACTION_ANNOUNCE);
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
        (void)repl_role_act(actions, REPL_ACTION_ANNOUNCE);
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
