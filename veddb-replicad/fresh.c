/* veddb-replicad/fresh.c — until when this node knows of all that the set has acknowledged.
 * Contract in node.h.
 *
 * A leader knows of everything as of the oldest of the newest answers of a majority: who answered
 * in its term had not agreed to another. A follower asks the leader by heartbeats: what the answer
 * says was newest when storage there looked, and once that is applied here, this node knows of all
 * that was acknowledged until then. Nothing is assumed about how fast anybody is: ages travel.
 *
 * All that matters is who may do what: once this node has caught up in a term, so that what it has
 * is what the leader has, it need not have applied more than the newest change of users, roles or
 * tokens. Then a node that lags with data is not held up by it. */
#include "veddb-replicad/node.h"

#define FREE_STEP_MS 100 /* where no lease binds it is told so often */

static void note(repl_node_t *node, uint64_t fresh_ms)
{
    if (fresh_ms > node->fresh.fresh_ms)
        node->fresh.fresh_ms = fresh_ms;
}

void repl_fresh_hear(repl_node_t *node, const vdp_peer_status_t *said)
{
    repl_fresh_t *fresh = &node->fresh;
    if (said->newest_age_ms == 0 || said->term != node->role.term || repl_leads(node) ||
        node->resync.state != REPL_RESYNC_NONE || said->sent_ms < said->newest_age_ms)
        return;
    if (fresh->term != said->term)
        *fresh = (repl_fresh_t){
            .term = said->term, .fresh_ms = fresh->fresh_ms, .joined_term = fresh->joined_term};
    bool joined = fresh->joined_term == said->term && said->auth_position != 0;
    uint64_t position =
        joined && said->auth_position - 1 < said->applied ? said->auth_position - 1 : said->applied;
    if (fresh->count == REPL_FRESH_MAX)
        return; /* what came earlier is met earlier */
    fresh->list[fresh->count++] =
        (repl_fresh_point_t){position, said->sent_ms - said->newest_age_ms};
    repl_fresh_look(node);
}

static void look_leader(repl_node_t *node)
{
    const repl_role_t *role = &node->role;
    uint64_t kept_ms = node->lease_ms - node->lease_ms / REPL_MARGIN_PART;
    node->fresh.count = 0;
    if (role->forced || role->lease_until_ms == UINT64_MAX)
        note(node, repl_now(node) / FREE_STEP_MS *
                       FREE_STEP_MS); /* nobody else can lead, or an operator said so */
    else if (role->lease_until_ms > kept_ms)
        note(node, role->lease_until_ms - kept_ms);
}

void repl_fresh_look(repl_node_t *node)
{
    repl_fresh_t *fresh = &node->fresh;
    uint64_t applied = node->pull.applied == 0 ? repl_state(node)->newest : node->pull.applied;
    uint32_t met = 0;
    if (repl_leads(node)) {
        look_leader(node);
        return;
    }
    if (fresh->term != node->role.term || node->resync.state != REPL_RESYNC_NONE)
        fresh->count = 0;
    if (node->resync.state != REPL_RESYNC_NONE)
        fresh->joined_term = 0;
    while (met < fresh->count && fresh->list[met].position <= applied)
        note(node, fresh->list[met++].at_ms);
    if (met > 0)
        fresh->joined_term = fresh->term;
    fresh->count -= met;
    memmove(fresh->list, fresh->list + met, fresh->count * sizeof fresh->list[0]);
}
