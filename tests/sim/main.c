/* tests/sim/main.c — runs seeds: sim [--seed N [--trace]] [--seeds A..B].
 *
 * One seed is one run: members, failover mode, faults and their times all come from it. Exit 0 when
 * every invariant held in every run; else 1, with the seed of each failure. */
#include "libcommon/base/assert.h"
#include "libcommon/base/mem.h"
#include "proto/replication.h"
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

#ifdef __SANITIZE_ADDRESS__
#define SEEDS_DEFAULT 1000 /* each takes six times as long, and finds other things */
#else
#define SEEDS_DEFAULT 10000
#endif
#define FAULTS_US    20000000u /* how long faults go on */
#define SETTLE_US    40000000u /* until then all must be well again */
#define OPERATOR_US  12000000u /* manual: after so long without a leader an operator promotes */
#define FAILURES_MAX 20

/* ---- a run from its seed ---- */

static void choose_profile(sim_t *sim)
{
    sim_profile_t *profile = &sim->profile;
    profile->count = sim_chance(sim, 0.6) ? 3 : 5;
    profile->members = profile->count;
    profile->changes = sim_chance(sim, 0.3);
    if (profile->changes && sim_chance(sim, 0.7)) { /* some are to be added */
        profile->count = 5;
        profile->members = 1 + (int)sim_below(sim, 4);
    }
    profile->copies = sim_chance(sim, 0.6);
    profile->drops = sim_chance(sim, 0.4);
    profile->forces = sim_chance(sim, 0.15);
    profile->loses = !profile->changes && !profile->forces && sim_chance(sim, 0.4);
    profile->failover = sim_chance(sim, 0.5) ? REPL_FAILOVER_ETCD : REPL_FAILOVER_MANUAL;
    profile->truncates = sim_chance(sim, 0.5);
    profile->loss = sim_chance(sim, 0.5) ? 0 : (double)sim_below(sim, 20) / 100;
    profile->duplicates = sim_chance(sim, 0.5) ? 0 : (double)sim_below(sim, 20) / 100;
    profile->spikes = sim_chance(sim, 0.5) ? 0 : (double)sim_below(sim, 10) / 100;
    profile->delay_us = sim_chance(sim, 0.5) ? 1000 : 20000;
}

static void choose_node(sim_t *sim, int node, const repl_role_options_t *options)
{
    sim_node_t *n = &sim->nodes[node];
    n->rate_ppm = (int64_t)sim_below(sim, 80001) - 40000;
    if (sim_chance(sim, 0.4)) /* the edges are where the margin matters */
        n->rate_ppm = sim_chance(sim, 0.5) ? 40000 : -40000;
    n->base_ms = 1000 + sim_below(sim, 100000);
    n->wall_s = (int64_t)sim_below(sim, 10) - 5;
    n->boot = n->storage_boot = 1;
    n->role.options = *options;
}

static void choose_nodes(sim_t *sim)
{
    int count = sim->profile.count;
    repl_role_options_t options = {.failover = sim->profile.failover,
                                   .lease_ms = 2000,
                                   .margin_ms = 400,
                                   .heartbeat_ms = 200,
                                   .handover_ms = 1000};
    sim_config_t *config = &sim->configs[1];
    *config = (sim_config_t){.version = 1, .term = 1, .count = (uint32_t)sim->profile.members};
    sim->config_count = 2;
    for (uint32_t i = 0; i < config->count; i++)
        config->members[i] = (repl_role_member_t){.id = i + 1, .votes = true, .priority = 1};
    if (config->count > 1 && sim_chance(sim, 0.2))
        config->members[sim_below(sim, config->count)].priority = 0;
    if (config->count == 5 && sim_chance(sim, 0.2))
        config->members[4] = (repl_role_member_t){.id = 5, .votes = false, .priority = 0};
    for (int i = 0; i < count; i++)
        choose_node(sim, i, &options);
    /* As after the set was made: one of those that may lead was given term 1. */
    uint32_t first = config->members[0].priority > 0 ? 1 : 2;
    for (int i = 0; i < sim->profile.members; i++) {
        sim->nodes[i].storage.term = sim->nodes[i].storage.first = 1;
        sim->nodes[i].storage.owner = first;
    }
}

static void begin(sim_t *sim, uint64_t seed, bool trace)
{
    memset(sim, 0, sizeof *sim);
    sim->seed = seed;
    sim->trace = trace;
    vd_rand_seed(&sim->rand, seed);
    for (uint32_t i = 0; i < SIM_EVENTS_MAX; i++)
        sim->free_list[sim->free_count++] = SIM_EVENTS_MAX - 1 - i;
    choose_profile(sim);
    choose_nodes(sim);
    sim->etcd.rate_ppm = (int64_t)sim_below(sim, 80001) - 40000;
    for (int i = 0; i < sim->profile.count; i++)
        sim_node_start(sim, i);
    (void)sim_schedule(sim, SIM_CLIENT, -1, 0);
    (void)sim_schedule(sim, SIM_FAULT, -1, 3000000);
    (void)sim_schedule(sim, SIM_OPERATOR, -1, 4000000);
    (void)sim_schedule(sim, SIM_MAINTAIN, -1, 3000000);
    (void)sim_schedule(sim, SIM_HEAL, -1, FAULTS_US);
}

/* ---- faults ---- */

static void cut_off_leader(sim_t *sim)
{
    for (int i = 0; i < sim->profile.count; i++)
        for (int j = 0; j < sim->profile.count; j++)
            if (sim->nodes[i].role.state == REPL_LEADER)
                sim->cut[i][j] = sim->cut[j][i] = true;
}

static void fault_network(sim_t *sim)
{
    int count = sim->profile.count;
    uint64_t shape = sim_below(sim, 6);
    if (shape == 0) { /* whole again */
        memset(sim->cut, 0, sizeof sim->cut);
    } else if (shape == 1) { /* one way */
        sim->cut[sim_below(sim, (uint64_t)count)][sim_below(sim, (uint64_t)count)] = true;
    } else if (shape == 4) { /* who leads is cut off, and an operator comes at once */
        cut_off_leader(sim);
        sim_schedule(sim, SIM_OPERATOR, -1, sim_below(sim, 1000000))->state = 1;
    } else if (shape == 5) { /* one that follows does not reach who leads; all others do */
        int follower = (int)sim_below(sim, (uint64_t)count);
        for (int i = 0; i < count; i++)
            if (sim->nodes[i].role.state == REPL_LEADER)
                sim->cut[i][follower] = sim->cut[follower][i] = true;
        sim_event_t *event = sim_schedule(sim, SIM_OPERATOR, -1, sim_below(sim, 2000000));
        event->state = 2;
        event->from = follower;
    } else { /* two sides; 3: only one way */
        uint64_t sides = sim_below(sim, 1u << count);
        for (int i = 0; i < count; i++)
            for (int j = 0; j < count; j++)
                if ((sides >> i & 1) != (sides >> j & 1) && (shape == 2 || (sides >> i & 1)))
                    sim->cut[i][j] = true;
    }
    sim_trace(sim, "network: %s",
              shape == 0   ? "whole"
              : shape == 1 ? "one link is cut one way"
              : shape == 2 ? "two sides"
              : shape == 4 ? "who leads is cut off"
              : shape == 5 ? "one does not reach who leads"
                           : "two sides, one way");
}

static void fault_etcd(sim_t *sim)
{
    if (sim_chance(sim, 0.3))
        sim->etcd.away = !sim->etcd.away;
    int node = (int)sim_below(sim, (uint64_t)sim->profile.count);
    sim->nodes[node].etcd_cut = !sim->nodes[node].etcd_cut;
    sim_trace(sim, "etcd: %s; node %d %s", sim->etcd.away ? "away" : "there", node + 1,
              sim->nodes[node].etcd_cut ? "is cut off" : "reaches it");
}

static void fault_node(sim_t *sim)
{
    int node = (int)sim_below(sim, (uint64_t)sim->profile.count);
    sim_node_t *n = &sim->nodes[node];
    /* Half of them hit who leads. */
    for (int i = 0; i < sim->profile.count && sim_chance(sim, 0.7); i++)
        if (sim->nodes[i].up && sim->nodes[i].role.state == REPL_LEADER)
            node = i, n = &sim->nodes[i];
    switch (sim_below(sim, 8)) {
    case 0:
    case 1:
        if (n->up) {
            sim_node_crash(sim, node);
            (void)sim_schedule(sim, SIM_RESTART, node, sim_below(sim, 5000000));
        }
        break;
    case 2:
        if (n->up && n->storage.up)
            sim_replicad_restart(sim, node);
        break;
    case 3:
        if (n->up && n->storage.up)
            sim_storage_restart(sim, node, 2000000);
        break;
    case 6: /* one that follows, while who leads goes on */
        node = (int)sim_below(sim, (uint64_t)sim->profile.count);
        if (sim->nodes[node].up && sim->nodes[node].storage.up)
            sim_replicad_restart(sim, node);
        break;
    case 7:
        for (int i = 0; i < sim->profile.count; i++)
            sim_node_trim(sim, i);
        break;
    case 4:
        n->paused_until_us = sim->now_us + sim_below(sim, 5000000);
        sim_trace(sim, "node %d is paused", node + 1);
        break;
    default:
        n->slow_disk = !n->slow_disk;
        n->wall_s += (int64_t)sim_below(sim, 40) - 20;
        sim_trace(sim, "node %d: %s disk, calendar jumps", node + 1,
                  n->slow_disk ? "slow" : "fast");
    }
}

/* What they have promised must outlive this; also where they hear no more of who leads, whose lease
 * rests on it. */
static void disturb(sim_t *sim, int seeks)
{
    if (sim->healed)
        return;
    if (sim_chance(sim, 0.5))
        cut_off_leader(sim);
    for (int i = 0; i < sim->profile.count; i++) {
        const sim_node_t *n = &sim->nodes[i];
        if (i == seeks || !n->up || !n->storage.up || n->role.state != REPL_FOLLOWER ||
            sim_chance(sim, 0.3))
            continue;
        if (sim_chance(sim, 0.5))
            sim_replicad_restart(sim, i);
        else
            sim_storage_restart(sim, i, 200000);
    }
}

static void fault(sim_t *sim)
{
    if (sim->healed)
        return;
    (void)sim_schedule(sim, SIM_FAULT, -1, sim_below(sim, 2500000));
    uint64_t which = sim_below(sim, 10);
    if (which < 4)
        fault_network(sim);
    else if (which < 5 && sim->profile.failover == REPL_FAILOVER_ETCD)
        fault_etcd(sim);
    else if (which < 6 && sim_chance(sim, 0.3)) /* all at once */
        for (int i = 0; i < sim->profile.count; i++) {
            if (sim->nodes[i].up) {
                sim_node_crash(sim, i);
                (void)sim_schedule(sim, SIM_RESTART, i, sim_below(sim, 3000000));
            }
        }
    else
        fault_node(sim);
}

/* Whether the others can go on without this one for good: one of them has all that those had whose
 * votes make a majority, whether they still have it or are loading all anew. */
static bool can_do_without(const sim_t *sim, int gone, bool *ret_vouched)
{
    const sim_config_t *config = &sim->configs[1]; /* members don't change where one is lost */
    uint64_t best = 0, positions[SIM_NODES_MAX] = {0};
    uint32_t votes = 0, granted = 0, floors = 0;
    for (uint32_t i = 0; i < config->count; i++) {
        const sim_storage_t *storage = &sim->nodes[sim_index(config->members[i].id)].storage;
        uint32_t count = storage->up ? storage->count : storage->flushed;
        if (!storage->loading && count > 0)
            positions[i] = storage->log[count - 1].timestamp;
        if (sim_index(config->members[i].id) != gone && config->members[i].votes &&
            repl_role_newer(positions[i], best, SIM_TERMS_MAX))
            best = positions[i];
        if (config->members[i].votes && config->members[i].priority == 0)
            return false; /* it could be the one */
    }
    for (uint32_t i = 0; i < config->count; i++) {
        int node = sim_index(config->members[i].id);
        const sim_storage_t *storage = &sim->nodes[node].storage;
        bool vouches = storage->loading && storage->floor != 0 &&
                       !repl_role_newer(storage->floor, best, SIM_TERMS_MAX);
        votes += config->members[i].votes;
        if (node == gone || !config->members[i].votes)
            continue;
        granted += !storage->loading || vouches;
        floors += vouches;
    }
    *ret_vouched = 2 * (granted - floors) <= votes;
    return best != 0 && 2 * granted > votes;
}

/* Most of all the one from whom another takes its copy. */
static void lose(sim_t *sim)
{
    int node = (int)sim_below(sim, (uint64_t)sim->profile.count);
    for (int i = 0; i < sim->profile.count; i++)
        if (sim->nodes[i].storage.loading)
            node = sim_index(sim->nodes[i].storage.owner);
    bool vouched;
    if (!sim->profile.loses || node < 0 || !can_do_without(sim, node, &vouched))
        return;
    if (sim->nodes[node].up)
        sim_node_crash(sim, node);
    sim->nodes[node].gone = true;
    sim->lost++;
    sim->vouched += vouched;
    sim_trace(sim, "node %d is gone for good%s", node + 1,
              vouched ? "; one that loads must vote" : "");
}

static void heal(sim_t *sim)
{
    sim_trace(sim, "faults end");
    sim->healed = true;
    sim->etcd.away = false;
    memset(sim->cut, 0, sizeof sim->cut);
    for (int i = 0; i < sim->profile.count; i++)
        sim->nodes[i].etcd_cut = sim->nodes[i].slow_disk = false;
    lose(sim);
}

/* ---- operators and clients ---- */

static bool anybody_leads(const sim_t *sim)
{
    for (int i = 0; i < sim->profile.count; i++)
        if (sim->nodes[i].up && repl_role_leads(&sim->nodes[i].role, sim_clock_ms(sim, i)))
            return true;
    return false;
}

static bool may_vote(const sim_t *sim, int node)
{
    const repl_role_options_t *options = &sim->nodes[node].role.options;
    for (uint32_t i = 0; i < options->member_count; i++)
        if (sim_index(options->members[i].id) == node)
            return options->members[i].votes;
    return false;
}

static void promote(sim_t *sim, int node)
{
    const sim_node_t *n = &sim->nodes[node];
    if (!n->up || n->paused_until_us > sim->now_us)
        return;
    sim_trace(sim, "operator: promote at node %d", node + 1);
    sim_node_role(sim, node, (repl_event_t){.kind = REPL_EVENT_PROMOTE, .ticket = sim->orders});
}

static void operate(sim_t *sim, bool once)
{
    int node = (int)sim_below(sim, (uint64_t)sim->profile.count);
    sim_node_t *n = &sim->nodes[node];
    repl_event_t event = {.kind = REPL_EVENT_PROMOTE, .ticket = sim->orders};
    bool forces = !sim->healed && sim->profile.forces && sim_chance(sim, 0.3);
    if (!once)
        (void)sim_schedule(sim, SIM_OPERATOR, -1, 500000 + sim_below(sim, 6000000));
    if (sim->healed) { /* only where nobody comes by itself */
        if (sim->now_us < FAULTS_US + OPERATOR_US || anybody_leads(sim))
            return;
        sim->promotes_at_end++;
        for (int i = 0; i < sim->profile.count && sim_chance(sim, 0.9); i++)
            if (may_vote(sim, i) && !sim->nodes[i].gone &&
                (!may_vote(sim, node) || repl_role_newer(sim->nodes[i].role.position,
                                                         n->role.position, n->role.known_term)))
                node = i, n = &sim->nodes[i]; /* who has the newest, as the answers advise */
    } else if (sim_chance(sim, 0.3)) {
        event.kind = REPL_EVENT_STEP_DOWN;
        event.wait_ms = sim_below(sim, 3000);
        event.force = sim_chance(sim, 0.3);
        for (int i = 0; i < sim->profile.count; i++)
            if (sim->nodes[i].role.state == REPL_LEADER)
                node = i, n = &sim->nodes[i];
    } else if (sim_chance(sim, 0.1)) {
        event.kind = REPL_EVENT_FREEZE;
        event.wait_ms = sim_below(sim, 3000);
    }
    if (!n->up || n->paused_until_us > sim->now_us)
        return;
    if (event.kind == REPL_EVENT_PROMOTE && forces)
        event.force = true;
    sim_trace(sim, "operator: %s%s at node %d", event.force ? "forced " : "",
              event.kind == REPL_EVENT_PROMOTE     ? "promote"
              : event.kind == REPL_EVENT_STEP_DOWN ? "step down"
                                                   : "freeze",
              node + 1);
    sim_node_role(sim, node, event);
}

/* What an operator does beside roles. */
static void maintain(sim_t *sim)
{
    if (sim->healed)
        return;
    (void)sim_schedule(sim, SIM_MAINTAIN, -1, sim_below(sim, 1500000));
    for (int i = 0; sim->profile.changes && i < sim->profile.count; i++)
        if (sim->nodes[i].up && sim->nodes[i].paused_until_us <= sim->now_us)
            sim_config_change(sim, i);
    if (sim->profile.drops && sim_chance(sim, 0.4))
        sim_node_drop(sim, (int)sim_below(sim, (uint64_t)sim->profile.count));
}

static void write_some(sim_t *sim)
{
    for (int i = 0; i < sim->profile.count; i++)
        if (sim->nodes[i].paused_until_us <= sim->now_us)
            sim_node_write(sim, i);
    /* Clients stop before the end, so that all can be equal. */
    if (sim->now_us < FAULTS_US + SETTLE_US / 2)
        (void)sim_schedule(sim, SIM_CLIENT, -1, sim_below(sim, 120000));
}

/* ---- the loop ---- */

/* A paused node does later what came meanwhile; its disk and the network go on. */
static bool put_off(sim_t *sim, const sim_event_t *event)
{
    if (event->node < 0 || sim->nodes[event->node].paused_until_us <= sim->now_us ||
        event->kind == SIM_ETCD_ASK || event->kind == SIM_RESTART)
        return false;
    sim_put_off(sim, event, sim->nodes[event->node].paused_until_us);
    return true;
}

static void handle(sim_t *sim, const sim_event_t *event)
{
    switch (event->kind) {
    case SIM_CLIENT:
        write_some(sim);
        break;
    case SIM_FAULT:
        fault(sim);
        break;
    case SIM_HEAL:
        heal(sim);
        break;
    case SIM_MAINTAIN:
        maintain(sim);
        break;
    case SIM_OPERATOR:
        if (event->state == 2)
            promote(sim, event->from);
        else
            operate(sim, event->state == 1);
        break;
    case SIM_DISTURB:
        disturb(sim, event->from);
        break;
    case SIM_RESTART:
        if (!sim->nodes[event->node].up && !sim->nodes[event->node].gone)
            sim_node_start(sim, event->node);
        break;
    case SIM_ETCD_ASK:
        sim_etcd_step(sim, event);
        break;
    default:
        sim_node_event(sim, event);
    }
}

/* What was under way when one was lost has left nobody who has what a majority acknowledged. */
static bool is_excused(const sim_t *sim)
{
    bool vouched;
    for (int i = 0; i < sim->profile.count; i++)
        if (sim->nodes[i].gone)
            return !can_do_without(sim, i, &vouched);
    return false;
}

static bool run_seed(sim_t *sim, uint64_t seed, bool trace)
{
    begin(sim, seed, trace);
    sim_event_t event;
    while (!sim->failed && sim_next(sim, &event)) {
        if (put_off(sim, &event))
            continue;
        sim->steps++;
        handle(sim, &event);
        sim_check_step(sim);
        if (sim->now_us >= FAULTS_US + SETTLE_US)
            break;
        if (sim->now_us > FAULTS_US + SETTLE_US / 2 + 500000 && event.kind == SIM_TICK &&
            sim_check_settled(sim))
            break;
    }
    for (int i = 0; i < sim->profile.count; i++)
        sim_trace(sim,
                  "node %d: %s%s, term %llu, owner %u, leader %u, configuration %u, %u entries%s",
                  i + 1, sim->nodes[i].up ? "" : "down, ", repl_role_name(sim->nodes[i].role.state),
                  (unsigned long long)sim->nodes[i].role.term, sim->nodes[i].role.owner,
                  sim->nodes[i].role.leader, sim->nodes[i].config, sim->nodes[i].storage.count,
                  sim->nodes[i].storage.loading ? ", loading" : "");
    if (!sim->failed && !sim_check_settled(sim) && !is_excused(sim))
        sim_fail(sim, "no leader, or members differ, %u s after the faults ended",
                 SETTLE_US / 1000000);
    return !sim->failed;
}

typedef struct {
    uint64_t runs, failures, steps, writes, acks, leaders, promoted, lost, vouched, excused;
} totals_t;

static void count_run(totals_t *totals, const sim_t *sim)
{
    totals->runs++;
    totals->failures += sim->failed;
    totals->steps += sim->steps;
    totals->writes += sim->writes;
    totals->acks += sim->majority_acks;
    totals->leaders += sim->leaders;
    totals->promoted += sim->promotes_at_end > 0;
    totals->lost += sim->lost;
    totals->vouched += sim->vouched;
    totals->excused += sim->lost > 0 && !sim_check_settled(sim);
}

static void usage(void)
{
    (void)fprintf(stderr, "usage: sim [--seed N [--trace]] [--seeds A..B]\n");
    exit(2);
}

int main(int argc, char **argv)
{
    uint64_t from = 1, to = SEEDS_DEFAULT;
    bool trace = false;
    for (int i = 1; i < argc; i++) {
        char *end = NULL;
        if (strcmp(argv[i], "--trace") == 0)
            trace = true;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            from = to = strtoull(argv[++i], &end, 10);
            if (*end != '\0')
                usage();
        } else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc) {
            from = strtoull(argv[++i], &end, 10);
            if (strncmp(end, "..", 2) != 0)
                usage();
            to = strtoull(end + 2, &end, 10);
            if (*end != '\0' || to < from)
                usage();
        } else
            usage();
    }
    sim_t *sim = vd_xalloc(sizeof *sim);
    totals_t totals = {0};
    for (uint64_t seed = from; seed <= to && totals.failures < FAILURES_MAX; seed++) {
        if (!run_seed(sim, seed, trace))
            (void)printf("FAILED --seed %llu (%d nodes, %s) %s\n", (unsigned long long)seed,
                         sim->profile.count,
                         sim->profile.failover == REPL_FAILOVER_ETCD ? "etcd" : "manual",
                         sim->failure);
        count_run(&totals, sim);
    }
    static const uint64_t once[] = {16470, 35677}; /* beyond the default ones, failed once */
    for (size_t i = 0; to == SEEDS_DEFAULT && from == 1 && i < VD_COUNT_OF(once); i++) {
        if (!run_seed(sim, once[i], trace))
            (void)printf("FAILED --seed %llu %s\n", (unsigned long long)once[i], sim->failure);
        count_run(&totals, sim);
    }
    (void)printf("seeds %llu..%llu: %llu runs, %llu failed; %llu steps, %llu writes, %llu "
                 "acknowledged by a majority, %llu times somebody led; in %llu runs an operator "
                 "was needed at the end; in %llu one member was lost for good, in %llu of those "
                 "the vote of one that loads was needed, %llu could not go on\n",
                 (unsigned long long)from, (unsigned long long)to, (unsigned long long)totals.runs,
                 (unsigned long long)totals.failures, (unsigned long long)totals.steps,
                 (unsigned long long)totals.writes, (unsigned long long)totals.acks,
                 (unsigned long long)totals.leaders, (unsigned long long)totals.promoted,
                 (unsigned long long)totals.lost, (unsigned long long)totals.vouched,
                 (unsigned long long)totals.excused);
    vd_free(sim);
    return totals.failures == 0 ? 0 : 1;
}
