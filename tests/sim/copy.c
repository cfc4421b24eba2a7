/* tests/sim/copy.c — how a member gets all anew: why it begins, and a snapshot in pieces of one
 * source.
 *
 * As in the process: begun only while the leader of our term is known and agreed to; what stands
 * there is dropped with the first piece; the load is durable, and goes on after a crash behind what
 * was durable, from the same source as long as that still knows the snapshot. */
#include "libcommon/base/assert.h"
#include "proto/replication.h"
#include "tests/sim/sim.h"

#define SOURCE_GONE_US 4000000

void sim_load_begin(sim_t *sim, int node, const char *why)
{
    sim_node_t *n = &sim->nodes[node];
    sim_storage_t *storage = &n->storage;
    VD_ASSERT(!storage->asked && n->role.owner == n->upstream);
    sim_trace(sim, "node %d loads all anew: %s", node + 1, why);
    if (!storage->loading && storage->count > 0)
        storage->floor = storage->log[storage->count - 1].timestamp;
    storage->loading = true;
    storage->load_until = 0;
    storage->role = VDP_ROLE_RECOVERING;
    storage->count = storage->flushed = storage->oldest = 0;
    storage->first = 0;
    storage->copy_from = 0;
    storage->flushing = false;
    n->storage_boot += 1; /* what was on its way to the disk is of no use */
    n->drop_term = 0;
    sim_storage_tell(sim, node);
}

static bool may_drop(const sim_node_t *n)
{
    return n->up && n->storage.up && !n->storage.asked && !n->storage.loading && !n->catch_up &&
           n->storage.role == VDP_ROLE_SECONDARY && n->role.state == REPL_FOLLOWER &&
           n->upstream != 0 && n->role.owner == n->upstream;
}

void sim_node_drop(sim_t *sim, int node)
{
    if (may_drop(&sim->nodes[node]))
        sim->nodes[node].drop_term = sim->nodes[node].role.term;
}

/* The leader says that its disk has what ours has. */
bool sim_drop_tick(sim_t *sim, int node)
{
    sim_node_t *n = &sim->nodes[node];
    int leader = sim_index(n->upstream);
    if (n->drop_term != n->role.term)
        n->drop_term = 0; /* of another primary */
    if (n->drop_term == 0)
        return false;
    uint64_t last = n->storage.count == 0 ? 0 : n->storage.log[n->storage.count - 1].timestamp;
    if (may_drop(n) && sim_config_of_term(sim, node) && n->said_term[leader] == n->role.term &&
        n->said_position[leader] >= last) {
        sim->dropped++;
        sim_load_begin(sim, node, "an operator wants it");
    }
    return true;
}

void sim_node_trim(sim_t *sim, int node)
{
    sim_storage_t *storage = &sim->nodes[node].storage;
    if (storage->up && !storage->loading && storage->flushed > storage->oldest + 4) {
        storage->oldest = storage->flushed - 4;
        sim_trace(sim, "node %d: the journal begins with entry %u", node + 1, storage->oldest);
    }
}

/* ---- the receiver ---- */

static void forget_source(sim_storage_t *storage)
{
    storage->copy_from = 0;
    storage->count = storage->flushed = 0;
}

void sim_copy_ask(sim_t *sim, int node)
{
    sim_node_t *n = &sim->nodes[node];
    sim_storage_t *storage = &n->storage;
    sim_event_t message;
    memset(&message, 0, sizeof message);
    message.kind = SIM_COPY_ASK;
    if (storage->copy_from != 0 && sim->now_us - n->copied_us > SOURCE_GONE_US &&
        n->role.leader != 0 && sim_index(n->role.leader) != storage->copy_from - 1) {
        sim_trace(sim, "node %d: the source of its copy is gone", node + 1);
        forget_source(storage);
    }
    if (storage->copy_from == 0 && n->role.leader == 0)
        return;
    if (storage->copy_from == 0)
        n->copied_us = sim->now_us;
    int source = storage->copy_from != 0 ? storage->copy_from - 1 : sim_index(n->role.leader);
    message.lease = storage->copy_from != 0 ? storage->copy : 0;
    message.common = storage->count;
    n->pulled_us = sim->now_us;
    sim_send(sim, node, source, &message);
}

void sim_on_copy(sim_t *sim, int node, const sim_event_t *event)
{
    sim_node_t *n = &sim->nodes[node];
    sim_storage_t *storage = &n->storage;
    if (!storage->up || !storage->loading || !sim->profile.copies)
        return;
    if (storage->copy_from == 0 && event->count > 0 && event->common == 0 &&
        (uint32_t)event->from + 1 == n->role.leader) {
        storage->count = storage->flushed = 0;
        storage->copy_from = event->from + 1;
        storage->copy = event->lease;
        storage->copy_count = (uint32_t)event->lease;
    }
    if (storage->copy_from != event->from + 1)
        return;
    n->copied_us = sim->now_us;
    if (event->count == 0 && event->after == storage->copy) { /* it does not know it any more */
        forget_source(storage);
        return;
    }
    if (event->lease != storage->copy || event->common != storage->count || event->count == 0)
        return;
    for (uint32_t i = 0; i < event->count; i++)
        sim_append(sim, node, &event->entries[i]);
    sim_flush(sim, node);
    sim_copy_ask(sim, node);
}

/* ---- the source ---- */

static uint64_t snapshot_open(sim_node_t *n)
{
    const sim_storage_t *storage = &n->storage;
    memmove(&n->snapshots[1], &n->snapshots[0], 3 * sizeof n->snapshots[0]);
    memmove(&n->snapshot_chains[1], &n->snapshot_chains[0], 3 * sizeof n->snapshot_chains[0]);
    n->snapshot_chains[0] = storage->log[storage->count - 1].chain;
    return n->snapshots[0] = (uint64_t)n->starts << 32 | storage->count;
}

/* It sees what was there when it was opened; after a roll-back or another start it is closed. */
static bool snapshot_known(const sim_node_t *n, uint64_t snapshot)
{
    uint32_t count = (uint32_t)snapshot;
    for (int i = 0; i < 4; i++)
        if (snapshot != 0 && n->snapshots[i] == snapshot && snapshot >> 32 == n->starts)
            return count <= n->storage.count &&
                   n->storage.log[count - 1].chain == n->snapshot_chains[i];
    return false;
}

void sim_on_copy_ask(sim_t *sim, int node, const sim_event_t *event)
{
    sim_node_t *n = &sim->nodes[node];
    sim_event_t message;
    if (!n->storage.up || n->storage.loading || n->storage.count == 0)
        return;
    memset(&message, 0, sizeof message);
    message.kind = SIM_COPY;
    message.after = event->lease; /* which was asked for */
    uint64_t snapshot = event->lease;
    bool opens = snapshot == 0;
    if (opens && n->role.state != REPL_LEADER)
        return;
    if (opens)
        snapshot = snapshot_open(n);
    if (snapshot_known(n, snapshot)) {
        message.lease = snapshot;
        message.common = opens ? 0 : event->common;
        for (uint32_t i = message.common; i < (uint32_t)snapshot && message.count < SIM_BATCH_MAX;
             i++)
            message.entries[message.count++] = n->storage.log[i];
        if (message.count == 0)
            return; /* it has all */
    }
    sim_send(sim, node, event->from, &message);
}

bool sim_copy_whole(const sim_storage_t *storage)
{
    return storage->copy_from != 0 && storage->flushed >= storage->copy_count;
}
