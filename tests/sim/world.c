/* tests/sim/world.c — virtual time, the network between nodes, and etcd. */
#include "libcommon/base/assert.h"
#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdio.h>

uint64_t sim_below(sim_t *sim, uint64_t bound)
{
    return vd_rand_below(&sim->rand, bound);
}

bool sim_chance(sim_t *sim, double probability)
{
    return probability > 0 && vd_rand_double(&sim->rand) < probability;
}

uint64_t sim_clock_ms(const sim_t *sim, int node)
{
    const sim_node_t *n = &sim->nodes[node];
    int64_t us = (int64_t)sim->now_us;
    return n->base_ms + (uint64_t)((us + us * n->rate_ppm / 1000000) / 1000);
}

void sim_trace(sim_t *sim, const char *format, ...)
{
    va_list args;
    if (!sim->trace)
        return;
    va_start(args, format);
    (void)printf("%10.3f  ", (double)sim->now_us / 1e6);
    (void)vprintf(format, args);
    (void)putchar('\n');
    va_end(args);
}

void sim_fail(sim_t *sim, const char *format, ...)
{
    va_list args;
    if (sim->failed)
        return;
    sim->failed = true;
    int used =
        snprintf(sim->failure, sizeof sim->failure, "at %.3f s: ", (double)sim->now_us / 1e6);
    va_start(args, format);
    (void)vsnprintf(sim->failure + used, sizeof sim->failure - (size_t)used, format, args);
    va_end(args);
    sim_trace(sim, "FAILED %s", sim->failure);
}

/* ---- events: a heap by time, then by order of scheduling ---- */

static bool is_before(const sim_t *sim, uint32_t a, uint32_t b)
{
    const sim_event_t *x = &sim->events[a], *y = &sim->events[b];
    return x->at_us != y->at_us ? x->at_us < y->at_us : x->order < y->order;
}

static void swap(sim_t *sim, uint32_t i, uint32_t j)
{
    uint32_t kept = sim->heap[i];
    sim->heap[i] = sim->heap[j];
    sim->heap[j] = kept;
}

static void push(sim_t *sim, uint32_t event)
{
    uint32_t i = sim->heap_count++;
    sim->heap[i] = event;
    for (; i > 0 && is_before(sim, sim->heap[i], sim->heap[(i - 1) / 2]); i = (i - 1) / 2)
        swap(sim, i, (i - 1) / 2);
}

static uint32_t pop(sim_t *sim)
{
    uint32_t first = sim->heap[0];
    sim->heap[0] = sim->heap[--sim->heap_count];
    for (uint32_t i = 0;;) {
        uint32_t least = i;
        for (uint32_t child = 2 * i + 1; child <= 2 * i + 2; child++)
            if (child < sim->heap_count && is_before(sim, sim->heap[child], sim->heap[least]))
                least = child;
        if (least == i)
            return first;
        swap(sim, i, least);
        i = least;
    }
}

static sim_event_t *place(sim_t *sim, const sim_event_t *event, uint64_t at_us)
{
    VD_ASSERT(sim->free_count > 0);
    uint32_t slot = sim->free_list[--sim->free_count];
    sim_event_t *placed = &sim->events[slot];
    if (event->count == 0) /* most carry no entries: these bytes are not copied */
        memcpy(placed, event, offsetof(sim_event_t, entries));
    else
        *placed = *event;
    placed->at_us = at_us;
    placed->order = ++sim->orders;
    push(sim, slot);
    return placed;
}

sim_event_t *sim_schedule(sim_t *sim, sim_kind_t kind, int node, uint64_t after_us)
{
    sim_event_t event;
    memset(&event, 0, offsetof(sim_event_t, entries));
    event.kind = kind;
    event.node = node;
    event.from = -1;
    if (node >= 0)
        event.boot = sim->nodes[node].boot;
    return place(sim, &event, sim->now_us + after_us);
}

void sim_put_off(sim_t *sim, const sim_event_t *event, uint64_t at_us)
{
    (void)place(sim, event, at_us);
}

bool sim_next(sim_t *sim, sim_event_t *ret_event)
{
    if (sim->heap_count == 0)
        return false;
    uint32_t slot = pop(sim);
    sim_event_t *event = &sim->events[slot];
    if (event->count == 0)
        memcpy(ret_event, event, offsetof(sim_event_t, entries));
    else
        *ret_event = *event;
    sim->free_list[sim->free_count++] = slot;
    sim->now_us = ret_event->at_us;
    return true;
}

/* ---- network ---- */

static uint64_t delay(sim_t *sim)
{
    uint64_t us = 200 + sim_below(sim, sim->profile.delay_us);
    if (!sim->healed && sim_chance(sim, sim->profile.spikes))
        us += sim_below(sim, 4000000);
    return us;
}

void sim_send(sim_t *sim, int from, int to, const sim_event_t *message)
{
    bool faults = !sim->healed;
    if (faults && (sim->cut[from][to] || sim_chance(sim, sim->profile.loss)))
        return;
    int copies = faults && sim_chance(sim, sim->profile.duplicates) ? 2 : 1;
    for (int i = 0; i < copies; i++) {
        sim_event_t *sent = place(sim, message, sim->now_us + delay(sim));
        sent->node = to;
        sent->from = from;
        sent->boot = 0; /* whoever runs there when it comes */
    }
}

/* ---- etcd ---- */

static void expire(sim_t *sim)
{
    if (sim->etcd.leader != 0 && sim->now_us >= sim->etcd.until_us) {
        sim_trace(sim, "etcd: the lease of node %u ends", sim->etcd.leader);
        sim->etcd.leader = 0;
        sim->etcd.lease = 0;
    }
}

static void extend(sim_t *sim, uint64_t lease_ms)
{
    int64_t us = (int64_t)lease_ms * 1000;
    sim->etcd.until_us = sim->now_us + (uint64_t)(us - us / 1000 * sim->etcd.rate_ppm / 1000);
}

void sim_etcd_ask(sim_t *sim, int node, sim_ask_t ask, uint64_t term)
{
    sim_node_t *n = &sim->nodes[node];
    if (!sim->healed && (sim->etcd.away || n->etcd_cut || sim_chance(sim, sim->profile.loss)))
        return;
    sim_event_t *event = sim_schedule(sim, SIM_ETCD_ASK, node, delay(sim));
    event->state = (int)ask;
    event->term = term;
    event->lease = n->lease;
    event->sent_ms = sim_clock_ms(sim, node);
}

static void claim(sim_t *sim, const sim_event_t *event, uint32_t who)
{
    bool newer = event->term > sim->etcd.term ||
                 (event->term == sim->etcd.term && sim->etcd.term_owner == who);
    if (!newer)
        return;
    sim->etcd.leader = sim->etcd.term_owner = who;
    sim->etcd.term = event->term;
    sim->etcd.lease = ++sim->etcd.leases;
    extend(sim, sim->nodes[event->node].role.options.lease_ms);
}

/* A request arrives at etcd; its reply goes back with what stands there then. */
void sim_etcd_step(sim_t *sim, const sim_event_t *event)
{
    sim_node_t *n = &sim->nodes[event->node];
    uint32_t who = (uint32_t)event->node + 1;
    if (sim->etcd.away)
        return;
    expire(sim);
    bool granted = false;
    if (event->state == SIM_CLAIM) {
        uint64_t before = sim->etcd.leases;
        claim(sim, event, who);
        granted = sim->etcd.leases != before;
    } else if (event->state == SIM_RENEW) {
        granted = sim->etcd.leader == who && sim->etcd.lease == event->lease;
        if (granted)
            extend(sim, n->role.options.lease_ms);
    } else if (event->state == SIM_RELEASE && event->lease != 0 &&
               sim->etcd.lease == event->lease) {
        sim->etcd.leader = 0;
        sim->etcd.lease = 0;
    }
    if (!sim->healed && (n->etcd_cut || sim_chance(sim, sim->profile.loss)))
        return;
    sim_event_t *reply = sim_schedule(sim, SIM_ETCD_REPLY, event->node, delay(sim));
    reply->boot = event->boot;
    reply->state = event->state;
    reply->granted = granted;
    reply->term = event->state == SIM_CLAIM && granted ? event->term : sim->etcd.term;
    reply->leader = sim->etcd.leader;
    reply->lease = sim->etcd.lease;
    reply->sent_ms = event->sent_ms;
}
