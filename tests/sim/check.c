/* tests/sim/check.c — the invariants; each failure names the run's seed and the time. */
#include "libcommon/base/assert.h"
#include "tests/sim/sim.h"

static uint64_t hash(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33;
    return x;
}

/* The same timestamp has the same history below it, on whatever node and whenever. */
void sim_check_append(sim_t *sim, int node, const sim_entry_t *entry)
{
    uint32_t i = (uint32_t)hash(entry->timestamp) & (SIM_ENTRIES_MAX - 1);
    while (sim->histories[i].timestamp != 0 && sim->histories[i].timestamp != entry->timestamp)
        i = (i + 1) & (SIM_ENTRIES_MAX - 1);
    if (sim->histories[i].timestamp == 0) {
        VD_ASSERT(++sim->histories_count < SIM_ENTRIES_MAX / 2);
        sim->histories[i] = *entry;
    } else if (sim->histories[i].chain != entry->chain)
        sim_fail(sim, "node %d has another history below %llx", node + 1,
                 (unsigned long long)entry->timestamp);
}

static bool has_acked(const sim_t *sim, int node)
{
    const sim_storage_t *storage = &sim->nodes[node].storage;
    return sim->acked_count == 0 || (storage->count >= sim->acked_count &&
                                     storage->log[sim->acked_count - 1].chain == sim->acked_chain);
}

void sim_check_cut(sim_t *sim, int node, uint32_t left)
{
    if (!sim->forced && left < sim->acked_count && has_acked(sim, node))
        sim_fail(sim, "node %d rolls back what is acknowledged", node + 1);
}

void sim_check_leader(sim_t *sim, int node, bool forced)
{
    uint64_t term = sim->nodes[node].role.term;
    VD_ASSERT(term < SIM_TERMS_MAX);
    sim->leaders++;
    if (sim->term_leader[term] != 0 && sim->term_leader[term] != node + 1)
        sim_fail(sim, "nodes %d and %d lead term %llu", sim->term_leader[term], node + 1,
                 (unsigned long long)term);
    sim->term_leader[term] = (uint8_t)(node + 1);
    if (forced) {
        sim_trace(sim, "node %d is forced to lead term %llu", node + 1, (unsigned long long)term);
        sim->forced = true;
        sim->forced_times++;
    }
    if (!sim->forced && !has_acked(sim, node))
        sim_fail(sim, "node %d leads term %llu without what is acknowledged", node + 1,
                 (unsigned long long)term);
}

/* Node acknowledges its first `count` entries as being on a majority. */
void sim_check_ack(sim_t *sim, int node, uint32_t count)
{
    const sim_storage_t *storage = &sim->nodes[node].storage;
    if (sim->forced)
        return;
    if (!has_acked(sim, node)) {
        sim_fail(sim, "node %d acknowledges, but lost what was acknowledged before", node + 1);
        return;
    }
    if (count <= sim->acked_count)
        return;
    sim->majority_acks += count - sim->acked_count;
    sim->acked_count = count;
    sim->acked_chain = storage->log[count - 1].chain;
}

/* A forced promote may lose what is acknowledged, and give two leaders, until all members are in
 * the term of one that is not (or no longer) forced: what is on a majority then is acknowledged,
 * and nothing is lost from then on. */
static void forced_over(sim_t *sim)
{
    int leads = -1;
    for (int i = 0; i < sim->profile.count; i++)
        if (sim->nodes[i].up && !sim->nodes[i].role.forced &&
            repl_role_leads(&sim->nodes[i].role, sim_clock_ms(sim, i)))
            leads = i;
    if (leads < 0)
        return;
    for (int i = 0; i < sim->profile.count; i++) {
        const sim_node_t *n = &sim->nodes[i];
        /* Also one that this configuration does not name any more. */
        if ((n->up && n->role.forced) || n->storage.term > sim->nodes[leads].role.term)
            return;
        if (!sim_config_has(sim, sim->nodes[leads].config, i))
            continue;
        if (!n->up || !n->storage.up || n->storage.term != sim->nodes[leads].role.term ||
            n->storage.asked || n->config != sim->nodes[leads].config ||
            (i != leads && n->role.leader != (uint32_t)leads + 1))
            return;
    }
    const sim_node_t *n = &sim->nodes[leads];
    uint32_t count = sim_majority_count(sim, leads);
    if (count <= n->first_of_term)
        return;
    sim_trace(sim, "the forced promote is over: node %d leads", leads + 1);
    sim->forced = false;
    sim->acked_count = count;
    sim->acked_chain = n->storage.log[count - 1].chain;
}

void sim_check_step(sim_t *sim)
{
    int leads = -1;
    if (sim->forced) {
        forced_over(sim);
        return;
    }
    for (int i = 0; i < sim->profile.count; i++) {
        if (!sim->nodes[i].up || !repl_role_leads(&sim->nodes[i].role, sim_clock_ms(sim, i)))
            continue;
        if (leads >= 0)
            sim_fail(sim, "nodes %d (term %llu) and %d (term %llu) may acknowledge", leads + 1,
                     (unsigned long long)sim->nodes[leads].role.term, i + 1,
                     (unsigned long long)sim->nodes[i].role.term);
        leads = i;
    }
}

bool sim_check_settled(const sim_t *sim)
{
    int leads = -1;
    for (int i = 0; i < sim->profile.count; i++)
        if (sim->nodes[i].up && repl_role_leads(&sim->nodes[i].role, sim_clock_ms(sim, i)))
            leads = i;
    if (leads < 0)
        return false;
    const sim_storage_t *first = &sim->nodes[leads].storage;
    for (int i = 0; i < sim->profile.count; i++) {
        const sim_storage_t *storage = &sim->nodes[i].storage;
        if (!sim_config_has(sim, sim->nodes[leads].config, i) || sim->nodes[i].gone)
            continue;
        if (sim->nodes[i].config != sim->nodes[leads].config || storage->loading ||
            storage->flushed != first->count || storage->count != first->count ||
            (i != leads && sim->nodes[i].role.leader != sim->nodes[leads].role.options.self))
            return false;
        if (first->count > 0 &&
            storage->log[first->count - 1].chain != first->log[first->count - 1].chain)
            return false;
    }
    return sim->acked_count == first->count;
}
