/* tests/sim/node.c — one member: replicad around role.c (heartbeats, pulling entries), and storage
 * (what is durable, what is not yet).
 *
 * replicad's part keeps the rules that docs/replication-protocol.md asks of the process: an
 * acknowledgement carries the term, and counts only in that term and for a position that the
 * upstream has found in its own history. */
#include "libcommon/base/assert.h"
#include "proto/replication.h"
#include "tests/sim/sim.h"

#define PULL_US 40000

static const sim_entry_t *last_entry(const sim_storage_t *storage)
{
    static const sim_entry_t none;
    return storage->count == 0 ? &none : &storage->log[storage->count - 1];
}

uint64_t sim_durable_position(const sim_storage_t *storage)
{
    return storage->flushed == 0 ? 0 : storage->log[storage->flushed - 1].timestamp;
}

/* ---- storage ---- */

static uint64_t disk_us(sim_t *sim, int node)
{
    bool slow = sim->nodes[node].slow_disk && !sim->healed;
    return 300 + sim_below(sim, slow ? 1500000 : 4000);
}

void sim_flush(sim_t *sim, int node)
{
    sim_storage_t *storage = &sim->nodes[node].storage;
    if (storage->flushing || storage->flushed == storage->count)
        return;
    storage->flushing = true;
    sim_event_t *event = sim_schedule(sim, SIM_FLUSHED, node, disk_us(sim, node));
    event->boot = sim->nodes[node].storage_boot;
    event->common = storage->count;
}

void sim_append(sim_t *sim, int node, const sim_entry_t *entry)
{
    sim_storage_t *storage = &sim->nodes[node].storage;
    VD_ASSERT(storage->count < SIM_LOG_MAX);
    VD_ASSERT(entry->timestamp > last_entry(storage)->timestamp);
    storage->log[storage->count++] = *entry;
    sim_check_append(sim, node, entry);
}

/* As sequencer.h: {seconds, term, counter}; another term begins a later second. */
static uint64_t draw(sim_t *sim, int node)
{
    sim_node_t *n = &sim->nodes[node];
    uint64_t last = last_entry(&n->storage)->timestamp, term = n->storage.term & 0xff;
    int64_t now = 1000000 + (int64_t)(sim->now_us / 1000000) + n->wall_s;
    uint64_t seconds = now > 0 ? (uint64_t)now : 0;
    if (seconds > last >> 32)
        return seconds << 32 | term << 24 | 1;
    if ((last >> 24 & 0xff) == term)
        return last + 1;
    return ((last >> 32) + 1) << 32 | term << 24 | 1;
}

void sim_node_append(sim_t *sim, int node, uint32_t config)
{
    const sim_storage_t *storage = &sim->nodes[node].storage;
    uint64_t chain = (last_entry(storage)->chain ^ vd_rand_u64(&sim->rand)) * 0x9e3779b97f4a7c15ULL;
    sim_append(sim, node, &(sim_entry_t){draw(sim, node), chain, config});
    sim_flush(sim, node);
}

void sim_node_write(sim_t *sim, int node)
{
    sim_storage_t *storage = &sim->nodes[node].storage;
    if (storage->up && storage->role == VDP_ROLE_PRIMARY && storage->count < SIM_LOG_MAX - 64) {
        sim->writes++;
        sim_node_append(sim, node, sim_config_stored(sim, node));
    }
}

/* A primary's own is told when it is on its disk. */
static uint32_t config_told(const sim_t *sim, int node)
{
    const sim_storage_t *storage = &sim->nodes[node].storage;
    if (storage->role != VDP_ROLE_PRIMARY)
        return sim_config_stored(sim, node);
    uint32_t last = storage->flushed == 0 ? 0 : storage->log[storage->flushed - 1].config;
    return last != 0 ? last : storage->first;
}

void sim_storage_tell(sim_t *sim, int node)
{
    sim_storage_t *storage = &sim->nodes[node].storage;
    if (!storage->up || !sim->nodes[node].up)
        return;
    sim_config_adopt(sim, node, config_told(sim, node));
    bool known = sim_config_has(sim, sim->nodes[node].config, sim_index(storage->owner));
    sim_node_role(sim, node,
                  (repl_event_t){.kind = REPL_EVENT_STORAGE,
                                 .term = storage->term,
                                 .role = storage->role,
                                 .position = storage->loading ? 0 : sim_durable_position(storage),
                                 .floor = storage->loading ? storage->floor : 0,
                                 .leader = known ? storage->owner : 0});
}

static void storage_start(sim_storage_t *storage)
{
    storage->up = true;
    storage->count = storage->flushed;
    storage->role = storage->loading ? VDP_ROLE_RECOVERING : VDP_ROLE_STARTING;
    storage->flushing = storage->asked = false;
    storage->oldest = storage->oldest < storage->count ? storage->oldest : storage->count;
}

/* Dies; what was asked of it may have become durable all the same. */
static void storage_stop(sim_t *sim, int node)
{
    sim_storage_t *storage = &sim->nodes[node].storage;
    if (storage->up && storage->asked && storage->asked_term >= storage->term &&
        sim_chance(sim, 0.5)) {
        if (storage->asked_owner != 0 || storage->asked_term != storage->term)
            storage->owner = storage->asked_owner;
        storage->term = storage->asked_term;
    }
    if (storage->up && storage->flushed < storage->count)
        storage->flushed += (uint32_t)sim_below(sim, storage->count - storage->flushed + 1);
    storage->up = false;
    sim->nodes[node].storage_boot++;
    sim->nodes[node].starts++;
}

static void role_done(sim_t *sim, int node)
{
    sim_storage_t *storage = &sim->nodes[node].storage;
    storage->asked = false;
    if (storage->asked_term < storage->term) {
        sim_node_role(sim, node,
                      (repl_event_t){.kind = REPL_EVENT_ROLE_REFUSED, .term = storage->term});
        return;
    }
    bool begins = storage->asked_role == VDP_ROLE_PRIMARY;
    if (storage->asked_owner != 0 || storage->asked_term != storage->term)
        storage->owner = storage->asked_owner; /* else the one it has stays */
    storage->term = storage->asked_term;
    storage->role = storage->loading && storage->asked_role == VDP_ROLE_SECONDARY
                        ? VDP_ROLE_RECOVERING
                        : storage->asked_role;
    if (begins) {
        sim->nodes[node].first_of_term = storage->count;
        memset(sim->nodes[node].acknowledged, 0, sizeof sim->nodes[node].acknowledged);
        sim_node_append(sim, node, sim_config_stored(sim, node));
    }
    storage->flushed = storage->count;
    sim_node_role(sim, node,
                  (repl_event_t){.kind = REPL_EVENT_ROLE_SET,
                                 .term = storage->term,
                                 .role = storage->role,
                                 .position = storage->loading ? 0 : sim_durable_position(storage)});
}

static void ask_role(sim_t *sim, int node, const repl_action_t *action)
{
    sim_storage_t *storage = &sim->nodes[node].storage;
    VD_ASSERT(storage->up && !storage->asked);
    storage->asked = true;
    storage->asked_term = action->term;
    storage->asked_role = action->role;
    /* Its first entry may be on the disk, whether it comes to lead or not. */
    if (action->role == VDP_ROLE_PRIMARY && sim->nodes[node].role.forced)
        sim->forced = true;
    storage->asked_owner = action->leader;
    if (action->role != VDP_ROLE_PRIMARY && action->term >= storage->term &&
        storage->role == VDP_ROLE_PRIMARY)
        storage->role = VDP_ROLE_SECONDARY; /* new writes are refused at once */
    sim_event_t *event = sim_schedule(sim, SIM_ROLE_DONE, node, disk_us(sim, node));
    event->boot = sim->nodes[node].storage_boot;
}

/* ---- replicad: acknowledgements ---- */

uint32_t sim_majority_count(const sim_t *sim, int node)
{
    const sim_node_t *n = &sim->nodes[node];
    uint32_t counts[SIM_NODES_MAX], votes = 0;
    for (uint32_t m = 0; m < n->role.options.member_count; m++) {
        if (!n->role.options.members[m].votes)
            continue;
        int i = sim_index(n->role.options.members[m].id);
        uint32_t count = i == node ? n->storage.flushed : n->acknowledged[i], at = votes++;
        for (; at > 0 && counts[at - 1] < count; at--)
            counts[at] = counts[at - 1];
        counts[at] = count;
    }
    return votes == 0 ? 0 : counts[votes / 2];
}

static void acknowledge(sim_t *sim, int node)
{
    sim_node_t *n = &sim->nodes[node];
    if (!n->up || !n->storage.up || !repl_role_leads(&n->role, sim_clock_ms(sim, node)))
        return;
    uint32_t count = sim_majority_count(sim, node);
    /* Entries of older terms count only when one of our own above them does. */
    if (count > n->first_of_term)
        sim_check_ack(sim, node, count);
}

/* ---- replicad: pulling ---- */

static void end_load(sim_t *sim, int node);

static void pull(sim_t *sim, int node)
{
    sim_node_t *n = &sim->nodes[node];
    if (n->storage.up)
        end_load(sim, node); /* (storage was busy when it could) */
    if (n->upstream == 0 || !n->storage.up || n->storage.asked ||
        (n->storage.role != VDP_ROLE_SECONDARY && n->storage.role != VDP_ROLE_RECOVERING))
        return;
    if (sim_drop_tick(sim, node))
        return;
    if (n->storage.count == 0 && !n->storage.loading && n->storage.first == 0) {
        if (!n->catch_up && n->role.owner == n->upstream && sim_config_of_term(sim, node))
            sim_load_begin(sim, node, "it has no data yet");
        return; /* it goes on with the next tick */
    }
    if (n->storage.loading && sim->profile.copies) {
        sim_flush(sim, node);
        sim_copy_ask(sim, node);
        return;
    }
    n->pulled_us = sim->now_us;
    sim_event_t message;
    memset(&message, 0, sizeof message);
    message.kind = SIM_PULL;
    message.term = n->role.term;
    message.after = last_entry(&n->storage)->timestamp;
    message.flushed = sim_durable_position(&n->storage);
    message.state = n->storage.loading;
    sim_send(sim, node, sim_index(n->upstream), &message);
}

/* Entries up to this timestamp; 0 when it is not in the log (or is 0). */
static uint32_t find(const sim_storage_t *storage, uint64_t timestamp)
{
    uint32_t low = 0, high = storage->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (storage->log[middle].timestamp < timestamp)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < storage->count && storage->log[low].timestamp == timestamp;
    return found ? low + 1 : 0;
}

static uint32_t common_count(const sim_storage_t *a, const sim_storage_t *b)
{
    uint32_t low = 0, high = a->count < b->count ? a->count : b->count;
    while (low < high) { /* below an equal entry all is equal: sim_check_append */
        uint32_t middle = (low + high + 1) / 2;
        if (a->log[middle - 1].chain == b->log[middle - 1].chain)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static void on_pull(sim_t *sim, int node, const sim_event_t *event)
{
    sim_node_t *n = &sim->nodes[node];
    if (!n->storage.up || n->storage.loading || event->term != n->role.term)
        return;
    uint32_t at = find(&n->storage, event->after);
    sim_event_t message;
    memset(&message, 0, sizeof message);
    message.term = n->role.term;
    message.after = event->after;
    message.kind = at == 0 && event->after != 0 ? SIM_DIVERGED : SIM_ENTRIES;
    /* (One that loads entries from the first is given them: a snapshot, made simple.) */
    if (message.kind == SIM_ENTRIES && at < n->storage.oldest && event->state == 0)
        message.kind = SIM_TOO_OLD;
    bool leads = n->role.state == REPL_LEADER || n->role.state == REPL_HANDING_OVER;
    /* One that does not lead may just lack the entry: a primary that restarted has lost what its
     * disk did not have, while others have it and it is acknowledged. */
    if (message.kind != SIM_ENTRIES && !leads)
        return;
    if (message.kind == SIM_DIVERGED)
        message.common = common_count(&n->storage, &sim->nodes[event->from].storage);
    else if (leads) {
        uint32_t flushed = find(&n->storage, event->flushed);
        if (flushed > n->acknowledged[event->from])
            n->acknowledged[event->from] = flushed;
        acknowledge(sim, node);
    }
    for (uint32_t i = at;
         message.kind != SIM_TOO_OLD && i < n->storage.count && message.count < SIM_BATCH_MAX; i++)
        message.entries[message.count++] = n->storage.log[i];
    message.position = last_entry(&n->storage)->timestamp;
    sim_send(sim, node, event->from, &message);
}

static bool is_from_upstream(const sim_node_t *n, const sim_event_t *event)
{
    return n->upstream != 0 && sim_index(n->upstream) == event->from && n->storage.up &&
           event->term == n->role.term && event->term == n->storage.term &&
           event->after == last_entry(&n->storage)->timestamp &&
           (n->storage.role == VDP_ROLE_SECONDARY || n->storage.role == VDP_ROLE_RECOVERING);
}

static void end_load(sim_t *sim, int node)
{
    sim_storage_t *storage = &sim->nodes[node].storage;
    bool whole = sim->profile.copies ? sim_copy_whole(storage)
                                     : storage->load_until != 0 &&
                                           sim_durable_position(storage) >= storage->load_until;
    if (storage->loading && !storage->asked && whole) {
        storage->loading = false;
        storage->floor = 0;
        storage->copy_from = 0;
        storage->role = VDP_ROLE_SECONDARY;
        sim->copied++;
        sim_trace(sim, "node %d has loaded", node + 1);
        sim_storage_tell(sim, node);
    }
}

static void on_entries(sim_t *sim, int node, const sim_event_t *event)
{
    sim_node_t *n = &sim->nodes[node];
    if (!is_from_upstream(n, event) || (n->storage.loading && sim->profile.copies))
        return;
    if (n->storage.loading && n->storage.load_until == 0)
        n->storage.load_until = event->position;
    for (uint32_t i = 0; i < event->count; i++)
        sim_append(sim, node, &event->entries[i]);
    sim_config_adopt(sim, node, sim_config_stored(sim, node));
    sim_flush(sim, node);
    if (event->count > 0)
        pull(sim, node);
}

/* Our tail is not in the upstream's history. */
static void on_diverged(sim_t *sim, int node, const sim_event_t *event)
{
    sim_node_t *n = &sim->nodes[node];
    if (!is_from_upstream(n, event) || n->catch_up || n->storage.asked || n->storage.flushing ||
        n->role.owner != n->upstream || !sim_config_of_term(sim, node) ||
        (n->storage.loading && sim->profile.copies))
        return;
    if (event->kind == SIM_TOO_OLD) {
        sim_load_begin(sim, node, "the journal does not reach back");
        pull(sim, node);
        return;
    }
    uint32_t left = event->common < n->storage.count ? event->common : n->storage.count;
    sim_trace(sim, "node %d rolls back %u of %u entries", node + 1, n->storage.count - left,
              n->storage.count);
    sim_check_cut(sim, node, left);
    if (sim->profile.truncates && !n->storage.loading) {
        n->storage.count = n->storage.flushed = left;
        n->storage.oldest = n->storage.oldest < left ? n->storage.oldest : left;
        sim_storage_tell(sim, node);
    } else
        sim_load_begin(sim, node, "it was rolled back");
    pull(sim, node);
}

static void on_flushed(sim_t *sim, int node, const sim_event_t *event)
{
    sim_storage_t *storage = &sim->nodes[node].storage;
    storage->flushing = false;
    if (event->common > storage->flushed)
        storage->flushed = event->common;
    sim_flush(sim, node);
    if (!sim->nodes[node].up)
        return;
    sim_config_adopt(sim, node, config_told(sim, node));
    end_load(sim, node);
    acknowledge(sim, node);
    pull(sim, node);
}

/* ---- replicad: messages of role.c ---- */

static void fill_status(const sim_t *sim, int node, sim_event_t *message)
{
    const sim_node_t *n = &sim->nodes[node];
    memset(message, 0, sizeof *message);
    message->term = n->role.term;
    message->state = (int)n->role.state;
    message->leader = n->role.leader;
    message->position =
        n->storage.up && !n->storage.loading ? sim_durable_position(&n->storage) : 0;
    message->config = n->config;
}

static void heartbeats(sim_t *sim, int node)
{
    const sim_node_t *n = &sim->nodes[node];
    sim_event_t message;
    fill_status(sim, node, &message);
    message.kind = SIM_HEARTBEAT;
    message.sent_ms = sim_clock_ms(sim, node);
    for (int i = 0; i < sim->profile.count; i++)
        if (i != node && sim_config_has(sim, n->config, i))
            sim_send(sim, node, i, &message);
}

static void act(sim_t *sim, int node, const repl_action_t *action)
{
    sim_node_t *n = &sim->nodes[node];
    sim_event_t message;
    memset(&message, 0, sizeof message);
    message.term = action->term;
    message.position = action->position;
    switch (action->kind) {
    case REPL_ACTION_SET_ROLE:
        ask_role(sim, node, action);
        break;
    case REPL_ACTION_FOLLOW:
        n->upstream = action->member;
        n->catch_up = action->catch_up;
        pull(sim, node);
        break;
    case REPL_ACTION_FENCE:
        message.kind = SIM_FENCE;
        sim_send(sim, node, sim_index(action->member), &message);
        break;
    case REPL_ACTION_FENCED:
        message.kind = SIM_FENCED;
        message.granted = action->granted;
        message.heard_ms = action->heard_ms;
        sim_send(sim, node, sim_index(action->member), &message);
        break;
    case REPL_ACTION_HANDOVER:
        message.kind = SIM_HANDOVER;
        sim_send(sim, node, sim_index(action->member), &message);
        break;
    case REPL_ACTION_CLAIM:
        sim_etcd_ask(sim, node, SIM_CLAIM, action->term);
        break;
    case REPL_ACTION_RENEW:
        sim_etcd_ask(sim, node, SIM_RENEW, action->term);
        break;
    case REPL_ACTION_RELEASE:
        sim_etcd_ask(sim, node, SIM_RELEASE, action->term);
        break;
    case REPL_ACTION_ANNOUNCE:
        heartbeats(sim, node);
        break;
    case REPL_ACTION_ANSWER:
        sim_trace(sim, "node %d answers its operator: %d %s", node + 1, action->code, action->text);
        break;
    case REPL_ACTION_LOG:
        sim_trace(sim, "node %d %s", node + 1, action->text);
        break;
    }
}

void sim_node_act(sim_t *sim, int node, const repl_actions_t *actions)
{
    for (size_t i = 0; i < actions->count; i++)
        act(sim, node, &actions->list[i]);
}

void sim_node_role(sim_t *sim, int node, repl_event_t event)
{
    static repl_actions_t lists[8]; /* an action may lead to the next event at once */
    static int depth;
    sim_node_t *n = &sim->nodes[node];
    bool led = n->role.state == REPL_LEADER, forced = n->role.forced;
    bool sought = n->role.state == REPL_CANDIDATE;
    VD_ASSERT(depth < 8);
    repl_actions_t *actions = &lists[depth++];
    actions->count = 0;
    event.now_ms = sim_clock_ms(sim, node);
    repl_role_step(&n->role, &event, actions);
    if (n->role.state == REPL_LEADER && !led)
        sim_check_leader(sim, node, forced);
    if (n->role.state == REPL_CANDIDATE && !sought && !sim->healed &&
        sim_chance(sim, n->role.by_operator ? 0.6 : 0.1))
        sim_schedule(sim, SIM_DISTURB, -1, sim_below(sim, 2) * sim_below(sim, 300000))->from = node;
    sim_node_act(sim, node, actions);
    depth--;
}

static void tick(sim_t *sim, int node)
{
    sim_node_t *n = &sim->nodes[node];
    sim_schedule(sim, SIM_TICK, node, 90000 + sim_below(sim, 20000));
    uint64_t now = sim_clock_ms(sim, node);
    sim_storage_tell(sim, node);
    sim_node_role(sim, node, (repl_event_t){.kind = REPL_EVENT_TICK});
    sim_config_tick(sim, node);
    heartbeats(sim, node);
    if (sim->now_us - n->pulled_us >= PULL_US)
        pull(sim, node);
    acknowledge(sim, node);
    if (sim->profile.failover == REPL_FAILOVER_ETCD && n->role.options.self != 0) {
        sim_etcd_ask(sim, node, SIM_GET, 0);
        if (now - n->etcd_heard_ms > 800)
            sim_node_role(sim, node, (repl_event_t){.kind = REPL_EVENT_ETCD_AWAY});
    }
}

static void on_heartbeat(sim_t *sim, int node, const sim_event_t *event)
{
    repl_event_t peer = {.kind = REPL_EVENT_PEER,
                         .from = (uint32_t)event->from + 1,
                         .term = event->term,
                         .state = event->state,
                         .leader = event->leader,
                         .position = event->position};
    sim_node_t *n = &sim->nodes[node];
    if (event->kind == SIM_ANSWER)
        peer.sent_ms = event->sent_ms;
    sim_config_adopt(sim, node, event->config);
    if (sim_config_has(sim, n->config, event->from)) { /* else a stranger */
        n->said_term[event->from] = event->term;
        n->said_position[event->from] = event->position;
        sim_node_role(sim, node, peer);
    }
    if (event->kind == SIM_ANSWER)
        return;
    sim_event_t message;
    fill_status(sim, node, &message);
    message.kind = SIM_ANSWER;
    message.sent_ms = event->sent_ms;
    sim_send(sim, node, event->from, &message);
}

static void on_etcd_reply(sim_t *sim, int node, const sim_event_t *event)
{
    sim_node_t *n = &sim->nodes[node];
    n->etcd_heard_ms = sim_clock_ms(sim, node);
    if (n->lease == 0 && event->leader == (uint32_t)node + 1)
        n->lease = event->lease; /* of the process before us */
    repl_event_t reply = {.kind = REPL_EVENT_LEASE,
                          .term = event->term,
                          .leader = event->leader,
                          .sent_ms = event->sent_ms};
    if (event->state == SIM_CLAIM) {
        reply.kind = event->granted ? REPL_EVENT_CLAIMED : REPL_EVENT_CLAIM_LOST;
        if (event->granted)
            n->lease = event->lease;
    } else if (event->state == SIM_RENEW && event->granted)
        reply.kind = REPL_EVENT_RENEWED;
    sim_node_role(sim, node, reply);
}

/* ---- life of a node ---- */

static void replicad_start(sim_t *sim, int node)
{
    sim_node_t *n = &sim->nodes[node];
    repl_role_options_t options = n->role.options;
    n->up = true;
    n->boot++;
    n->upstream = 0;
    n->catch_up = false;
    n->lease = 0;
    n->config = 0;
    n->drop_term = 0;
    memset(n->said_term, 0, sizeof n->said_term);
    n->storage.asked = false;
    n->etcd_heard_ms = sim_clock_ms(sim, node);
    memset(n->acknowledged, 0, sizeof n->acknowledged);
    options.self = options.member_count = 0; /* until storage or the others say who they are */
    repl_role_init(&n->role, &options, sim_clock_ms(sim, node));
    sim_schedule(sim, SIM_TICK, node, sim_below(sim, 100000));
}

void sim_node_start(sim_t *sim, int node)
{
    sim_trace(sim, "node %d starts", node + 1);
    storage_start(&sim->nodes[node].storage);
    replicad_start(sim, node);
}

void sim_node_crash(sim_t *sim, int node)
{
    sim_trace(sim, "node %d crashes", node + 1);
    storage_stop(sim, node);
    sim->nodes[node].up = false;
    sim->nodes[node].boot++;
}

/* Storage goes on in its role. */
void sim_replicad_restart(sim_t *sim, int node)
{
    sim_trace(sim, "node %d: replicad restarts", node + 1);
    sim->nodes[node].storage_boot++; /* what was asked over the old link is not answered */
    sim->nodes[node].storage.flushing = false;
    replicad_start(sim, node);
}

void sim_storage_restart(sim_t *sim, int node, uint64_t within_us)
{
    sim_trace(sim, "node %d: storage crashes", node + 1);
    storage_stop(sim, node);
    sim_node_role(sim, node, (repl_event_t){.kind = REPL_EVENT_STORAGE_LOST});
    sim_schedule(sim, SIM_STORAGE_UP, node, 20000 + sim_below(sim, within_us));
}

void sim_node_event(sim_t *sim, const sim_event_t *event)
{
    int node = event->node;
    sim_node_t *n = &sim->nodes[node];
    repl_event_t told = {.from = (uint32_t)event->from + 1,
                         .term = event->term,
                         .position = event->position,
                         .granted = event->granted,
                         .heard_ms = event->heard_ms};
    if (event->kind == SIM_ROLE_DONE || event->kind == SIM_FLUSHED) {
        if (event->boot != n->storage_boot || !n->storage.up)
            return;
    } else if (!n->up || (event->boot != 0 && event->boot != n->boot))
        return;
    bool members_only = event->kind == SIM_FENCE || event->kind == SIM_FENCED ||
                        event->kind == SIM_HANDOVER || event->kind == SIM_PULL ||
                        event->kind == SIM_COPY_ASK;
    if (members_only && !sim_config_has(sim, n->config, event->from))
        return;
    switch (event->kind) {
    case SIM_TICK:
        tick(sim, node);
        break;
    case SIM_HEARTBEAT:
    case SIM_ANSWER:
        on_heartbeat(sim, node, event);
        break;
    case SIM_FENCE:
        told.kind = REPL_EVENT_FENCE;
        sim_node_role(sim, node, told);
        break;
    case SIM_FENCED:
        told.kind = REPL_EVENT_FENCED;
        sim_node_role(sim, node, told);
        break;
    case SIM_HANDOVER:
        told.kind = REPL_EVENT_HANDOVER;
        sim_node_role(sim, node, told);
        break;
    case SIM_PULL:
        on_pull(sim, node, event);
        break;
    case SIM_ENTRIES:
        on_entries(sim, node, event);
        break;
    case SIM_DIVERGED:
    case SIM_TOO_OLD:
        on_diverged(sim, node, event);
        break;
    case SIM_COPY_ASK:
        sim_on_copy_ask(sim, node, event);
        break;
    case SIM_COPY:
        sim_on_copy(sim, node, event);
        break;
    case SIM_ROLE_DONE:
        role_done(sim, node);
        break;
    case SIM_FLUSHED:
        on_flushed(sim, node, event);
        break;
    case SIM_ETCD_REPLY:
        on_etcd_reply(sim, node, event);
        break;
    case SIM_STORAGE_UP:
        storage_start(&n->storage);
        break;
    default:
        VD_UNREACHABLE();
    }
}
