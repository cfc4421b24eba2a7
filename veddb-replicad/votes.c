/* veddb-replicad/votes.c — see votes.h. */
#include "veddb-replicad/votes.h"

#define TERM_MASK  0xffu
#define TERM_SHIFT 24

static uint64_t term_distance(uint64_t position, uint64_t term)
{
    return (term - (position >> TERM_SHIFT)) & TERM_MASK;
}

bool repl_role_newer(uint64_t a, uint64_t b, uint64_t term)
{
    if (a == 0 || b == 0)
        return a > b;
    uint64_t a_distance = term_distance(a, term), b_distance = term_distance(b, term);
    return a_distance != b_distance ? a_distance < b_distance : a > b;
}

int repl_votes_index(const repl_role_t *role, uint32_t id)
{
    for (uint32_t i = 0; i < role->options.member_count; i++)
        if (id != 0 && role->options.members[i].id == id)
            return (int)i;
    return -1;
}

const repl_role_peer_t *repl_role_peer(const repl_role_t *role, uint32_t id)
{
    int i = repl_votes_index(role, id);
    return i < 0 ? NULL : &role->peers[i];
}

const repl_role_member_t *repl_votes_self(const repl_role_t *role)
{
    int i = repl_votes_index(role, role->options.self);
    return i < 0 ? NULL : &role->options.members[i];
}

static bool is_self(const repl_role_t *role, uint32_t i)
{
    return role->options.members[i].id == role->options.self;
}

static bool is_heard(const repl_role_t *role, uint32_t i)
{
    const repl_role_peer_t *peer = &role->peers[i];
    return !is_self(role, i) && peer->up && role->now_ms - peer->heard_ms <= role->options.lease_ms;
}

/* One that is silent for half a lease is not waited for. */
static bool is_lively(const repl_role_t *role, uint32_t i)
{
    return is_heard(role, i) &&
           role->now_ms - role->peers[i].heard_ms <= role->options.lease_ms / 2;
}

static uint32_t votes_all(const repl_role_t *role)
{
    uint32_t votes = 0;
    for (uint32_t i = 0; i < role->options.member_count; i++)
        votes += role->options.members[i].votes;
    return votes;
}

static bool is_majority(const repl_role_t *role, uint32_t votes)
{
    return votes > 0 && 2 * votes > votes_all(role);
}

bool repl_votes_alone(const repl_role_t *role)
{
    const repl_role_member_t *self = repl_votes_self(role);
    return self != NULL && self->votes && votes_all(role) == 1;
}

bool repl_votes_reachable(const repl_role_t *role)
{
    uint32_t votes = 0;
    for (uint32_t i = 0; i < role->options.member_count; i++)
        if (role->options.members[i].votes && (is_self(role, i) || is_heard(role, i)))
            votes++;
    return is_majority(role, votes);
}

bool repl_votes_fenced(const repl_role_t *role)
{
    uint32_t votes = 0;
    for (uint32_t i = 0; i < role->options.member_count; i++)
        if (role->options.members[i].votes && role->peers[i].fenced)
            votes++;
    return is_majority(role, votes);
}

bool repl_votes_split(const repl_role_t *role)
{
    uint32_t votes = 0;
    for (uint32_t i = 0; i < role->options.member_count; i++)
        if (role->options.members[i].votes && (is_self(role, i) || role->peers[i].fenced ||
                                               (is_lively(role, i) && !role->peers[i].refused)))
            votes++;
    return !is_majority(role, votes);
}

uint64_t repl_votes_heard_until(const repl_role_t *role)
{
    uint64_t times[REPL_MEMBERS_MAX], oldest = UINT64_MAX;
    uint32_t count = 0, votes = 0;
    for (uint32_t i = 0; i < role->options.member_count; i++) {
        if (!role->options.members[i].votes)
            continue;
        if (is_self(role, i))
            votes++;
        else
            times[count++] = role->peers[i].answered_ms;
    }
    while (!is_majority(role, votes)) { /* the newest that is left joins */
        uint32_t newest = 0;
        if (count == 0)
            return 0;
        for (uint32_t i = 1; i < count; i++)
            if (times[i] > times[newest])
                newest = i;
        oldest = times[newest];
        times[newest] = times[--count];
        votes++;
    }
    if (oldest == UINT64_MAX)
        return UINT64_MAX;
    return oldest == 0 ? 0 : oldest + role->options.lease_ms - role->options.margin_ms;
}

uint64_t repl_votes_fence_until(const repl_role_t *role)
{
    uint64_t until = 0;
    if (role->no_wait || repl_votes_alone(role))
        return 0;
    for (uint32_t i = 0; i < role->options.member_count; i++)
        if (role->peers[i].fenced && role->peers[i].fence_until_ms > until)
            until = role->peers[i].fence_until_ms;
    return until;
}

uint32_t repl_votes_ahead(const repl_role_t *role)
{
    uint64_t best = role->position;
    uint32_t ahead = 0;
    for (uint32_t i = 0; i < role->options.member_count; i++) {
        const repl_role_peer_t *peer = &role->peers[i];
        if (!is_self(role, i) && peer->fenced &&
            repl_role_newer(peer->fence_position, best, role->fence_term)) {
            best = peer->fence_position;
            ahead = role->options.members[i].id;
        }
    }
    return ahead;
}

bool repl_votes_led(const repl_role_t *role)
{
    for (uint32_t i = 0; i < role->options.member_count; i++) {
        const repl_role_peer_t *peer = &role->peers[i];
        if (!is_lively(role, i) || peer->term < role->term)
            continue;
        if (peer->leader != 0 && peer->leader != role->options.self)
            return true;
        if (peer->state >= REPL_CANDIDATE && peer->state <= REPL_HANDING_OVER)
            return true;
    }
    return false;
}

/* Member i (not self, heard, may lead) goes before one with this position, priority and id. */
static bool goes_before(const repl_role_t *role, uint32_t i, uint64_t position, uint32_t priority,
                        uint32_t id)
{
    const repl_role_member_t *member = &role->options.members[i];
    uint64_t there = role->peers[i].position;
    if (there != position)
        return repl_role_newer(there, position, role->known_term);
    return member->priority != priority ? member->priority > priority : member->id < id;
}

static bool may_lead(const repl_role_t *role, uint32_t i)
{
    const repl_role_member_t *member = &role->options.members[i];
    return member->votes && member->priority > 0 && is_lively(role, i) &&
           role->peers[i].state != REPL_STARTING && role->peers[i].state != REPL_REMOVED;
}

uint32_t repl_votes_rank(const repl_role_t *role)
{
    const repl_role_member_t *self = repl_votes_self(role);
    uint32_t rank = 0;
    for (uint32_t i = 0; self != NULL && i < role->options.member_count; i++)
        if (may_lead(role, i) && goes_before(role, i, role->position, self->priority, self->id))
            rank++;
    return rank;
}

uint32_t repl_votes_successor(const repl_role_t *role)
{
    int best = -1;
    for (uint32_t i = 0; i < role->options.member_count; i++) {
        if (!may_lead(role, i))
            continue;
        const repl_role_member_t *other = best < 0 ? NULL : &role->options.members[best];
        if (other == NULL ||
            goes_before(role, i, role->peers[best].position, other->priority, other->id))
            best = (int)i;
    }
    return best < 0 ? 0 : role->options.members[best].id;
}
