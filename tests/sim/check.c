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
    if (left < sim->acked_count && has_acked(sim, node))
        sim_fail(sim, "node %d rolls back what is acknowledged", node + 1);
}

void sim_check_leader(sim_t *sim, int node)
{
    uint64_t term = sim->nodes[node].role.term;
    VD_ASSERT(term < SIM_TERMS_MAX);
    sim->leaders++;
    if (sim->term_leader[term] != 0 && sim->term_leader[term] != node + 1)
        sim_fail(sim, "nodes %d and %d lead term %llu", sim->term_leader[term], node + 1,
                 (unsigned long long)term);
    sim->term_leader[term] = (uint8_t)(node + 1);
    if (!has_acked(sim, node))
        sim_fail(sim, "node %d leads term %llu without what is acknowledged", node + 1,
                 (unsigned long long)term);
}

/* Node acknowledges its first `count` entries as being on a majority. */
void sim_check_ack(sim_t *sim, int node, uint32_t count)
{
    const sim_storage_t *storage = &sim->nodes[node].storage;
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

void sim_check_step(sim_t *sim)
{
    int leads = -1;
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

bool sim_check_settled(sim_t *sim)
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
        if (storage->loading || storage->flushed != first->count ||
            storage->count != first->count ||
            (i != leads && sim->nodes[i].role.leader != sim->nodes[leads].role.options.self))
            return false;
        if (first->count > 0 &&
            storage->log[first->count - 1].chain != first->log[first->count - 1].chain)
            return false;
    }
    return sim->acked_count == first->count;
}
