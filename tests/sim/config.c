/* tests/sim/config.c — configurations: who is a member, adopted as replicad does it, changed as an
 * operator does it.
 *
 * As in the process: journaled at the primary, acted by once it is on its disk; told with every
 * heartbeat, and the newer (term, version) is adopted at once, whether it is in the log or not. */
#include "libcommon/base/assert.h"
#include "proto/replication.h"
#include "tests/sim/sim.h"

uint32_t sim_config_stored(const sim_t *sim, int node)
{
    const sim_storage_t *storage = &sim->nodes[node].storage;
    uint32_t last = storage->count == 0 ? 0 : storage->log[storage->count - 1].config;
    return last != 0 ? last : storage->first;
}

bool sim_config_newer(const sim_t *sim, uint32_t a, uint32_t than)
{
    const sim_config_t *x = &sim->configs[a], *y = &sim->configs[than];
    if (a == 0 || than == 0)
        return a != 0 && than == 0;
    return x->term != y->term ? x->term > y->term : x->version > y->version;
}

static int place_of(const sim_config_t *config, int node)
{
    for (uint32_t i = 0; i < config->count; i++)
        if (sim_index(config->members[i].id) == node)
            return (int)i;
    return -1;
}

bool sim_config_has(const sim_t *sim, uint32_t config, int node)
{
    return place_of(&sim->configs[config], node) >= 0;
}

bool sim_config_of_term(const sim_t *sim, int node)
{
    const sim_node_t *n = &sim->nodes[node];
    return sim->configs[n->config].term == n->role.term;
}

void sim_config_adopt(sim_t *sim, int node, uint32_t config)
{
    static repl_actions_t actions;
    sim_node_t *n = &sim->nodes[node];
    if (!sim_config_newer(sim, config, n->config) ||
        (n->config == 0 && !sim_config_has(sim, config, node)))
        return; /* a stranger waits until it is let in */
    /* Who leads goes by its own, until it has made that one of its term. */
    if (n->role.state == REPL_LEADER && sim->configs[config].term < n->role.term &&
        config != sim_config_stored(sim, node))
        return;
    const sim_config_t *next = &sim->configs[config];
    repl_role_options_t options = n->role.options;
    n->config = config;
    options.self = sim_config_has(sim, config, node) ? (uint32_t)node + 1 : 0;
    options.member_count = next->count;
    memcpy(options.members, next->members, sizeof next->members);
    actions.count = 0;
    if (sim_clock_ms(sim, node) > n->role.now_ms)
        n->role.now_ms = sim_clock_ms(sim, node);
    repl_role_configure(&n->role, &options, &actions);
    sim_node_act(sim, node, &actions);
}

static uint32_t votes_of(const sim_config_t *config, bool may_lead)
{
    uint32_t votes = 0;
    for (uint32_t i = 0; i < config->count; i++)
        votes += config->members[i].votes && (!may_lead || config->members[i].priority > 0);
    return votes;
}

/* One vote at a time; never ourselves. */
static bool vary(sim_t *sim, int self, sim_config_t *next)
{
    int who = (int)sim_below(sim, (uint64_t)sim->profile.count), at = place_of(next, who);
    if (who == self)
        return false;
    if (at < 0) {
        bool votes = sim_chance(sim, 0.8);
        next->members[next->count++] =
            (repl_role_member_t){.id = (uint32_t)who + 1, .votes = votes, .priority = votes};
    } else if (sim_chance(sim, 0.5)) {
        memmove(&next->members[at], &next->members[at + 1],
                (next->count - (uint32_t)at - 1) * sizeof next->members[0]);
        next->count--;
    } else if (sim_chance(sim, 0.5)) {
        next->members[at].votes = !next->members[at].votes;
        next->members[at].priority = next->members[at].votes;
    } else
        next->members[at].priority = next->members[at].votes ? sim_below(sim, 3) : 0;
    return votes_of(next, true) > 0 && votes_of(next, false) > 0;
}

/* Those who would count from now on answer. */
static bool is_answering(const sim_t *sim, int node, const sim_config_t *next)
{
    const sim_node_t *n = &sim->nodes[node];
    uint32_t votes = 0, heard = 0;
    for (uint32_t i = 0; i < next->count; i++) {
        int who = sim_index(next->members[i].id);
        const repl_role_peer_t *peer = repl_role_peer(&n->role, next->members[i].id);
        bool added =
            peer == NULL && sim->nodes[who].up && !sim->cut[node][who] && !sim->cut[who][node];
        bool up = peer != NULL && peer->up && peer->term == n->role.term &&
                  n->role.now_ms - peer->heard_ms <= 2000;
        votes += next->members[i].votes;
        heard += next->members[i].votes && (who == node || added || up);
    }
    return 2 * heard > votes;
}

static void hand_over(sim_t *sim, int node, uint32_t config)
{
    sim_trace(sim, "node %d journals configuration %llu of term %llu: %u members, %u votes",
              node + 1, (unsigned long long)sim->configs[config].version,
              (unsigned long long)sim->configs[config].term, sim->configs[config].count,
              votes_of(&sim->configs[config], false));
    sim->nodes[node].config_at = sim->nodes[node].storage.count;
    sim_node_append(sim, node, config); /* adopted when it is on the disk */
}

static uint32_t config_new(sim_t *sim, const sim_config_t *config)
{
    VD_ASSERT(sim->config_count < SIM_CONFIGS_MAX);
    sim->configs[sim->config_count] = *config;
    return sim->config_count++;
}

void sim_config_change(sim_t *sim, int node)
{
    sim_node_t *n = &sim->nodes[node];
    sim_config_t next = sim->configs[n->config];
    if (!n->up || !n->storage.up || n->role.state != REPL_LEADER || n->storage.asked ||
        n->storage.role != VDP_ROLE_PRIMARY || n->config != sim_config_stored(sim, node))
        return;
    /* The last is of this term, and on a majority. */
    uint32_t count = sim_majority_count(sim, node);
    if (!sim_config_of_term(sim, node) || count <= n->first_of_term || count <= n->config_at)
        return;
    next.version++;
    if (!vary(sim, node, &next) || !is_answering(sim, node, &next))
        return;
    sim->changed++;
    hand_over(sim, node, config_new(sim, &next));
}

void sim_config_tick(sim_t *sim, int node)
{
    sim_node_t *n = &sim->nodes[node];
    uint32_t stored = sim_config_stored(sim, node);
    if (n->role.state != REPL_LEADER || !n->storage.up || n->storage.asked ||
        n->storage.role != VDP_ROLE_PRIMARY || sim->configs[stored].term == n->role.term)
        return; /* or it is on its way to the disk */
    sim_config_t next = sim->configs[n->config];
    if (sim->configs[stored].version > next.version)
        next.version = sim->configs[stored].version;
    next.term = n->role.term;
    hand_over(sim, node, config_new(sim, &next));
}
