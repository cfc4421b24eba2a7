/* tests/simrot/main.c — runs seeds: simrot [--seed N [--trace]] [--seeds A..B].
 *
 * One seed is one run. Exit 0 when every invariant held in every run; else 1, with the seed of each
 * failure. */
#include "libcommon/base/assert.h"
#include "libcommon/base/mem.h"
#include "tests/simrot/sim.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define SEEDS_DEFAULT 20000
#define FAULT_TICKS   120 /* seconds of faults */
#define SETTLE_TICKS  120 /* until then all must be well */
#define FAILURES_MAX  10

uint64_t sim_below(sim_t *sim, uint64_t bound)
{
    return vd_rand_below(&sim->rand, bound);
}

bool sim_chance(sim_t *sim, double probability)
{
    return vd_rand_double(&sim->rand) < probability;
}

void sim_trace(sim_t *sim, const char *format, ...)
{
    if (!sim->trace)
        return;
    va_list args;
    printf("%8.3f  ", (double)sim->now_ms / 1000);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    puts("");
}

void sim_fail(sim_t *sim, const char *format, ...)
{
    if (sim->failed)
        return; /* the first one counts */
    va_list args;
    sim->failed = true;
    va_start(args, format);
    (void)vsnprintf(sim->failure, sizeof sim->failure, format, args);
    va_end(args);
    sim_trace(sim, "FAILED: %s", sim->failure);
}

static void begin(sim_t *sim, uint64_t seed, bool trace)
{
    memset(sim, 0, sizeof *sim);
    sim->seed = seed;
    sim->trace = trace;
    sim->now_ms = 1000000;
    vd_rand_seed(&sim->rand, seed);
    sim->loss = sim_chance(sim, 0.4) ? 0 : (double)sim_below(sim, 30) / 100;
    sim->save_fails = sim_chance(sim, 0.5) ? 0 : (double)sim_below(sim, 30) / 100;
    sim->storage_fails = sim_chance(sim, 0.5) ? 0 : (double)sim_below(sim, 20) / 100;
    sim->early_done = sim_chance(sim, 0.5) ? 0 : 0.1;
    sim->crash = sim_chance(sim, 0.3) ? 0 : (double)sim_below(sim, 20) / 100;
    sim->schedule = sim_chance(sim, 0.2);
    sim->keys[1] = SIM_ACTIVE;
    sim->key_count = 1;
    sim->made_ms = (int64_t)sim->now_ms;
    sim->disk[1] = 20 + sim_below(sim, 300);
    sim->audit_needs[1] = sim_below(sim, 20);
    sim_holder_start(sim);
    sim->storage_restart_ms = sim->now_ms;
}

static void operator_acts(sim_t *sim)
{
    static const rot_event_kind_t kinds[] = {ROT_EVENT_ROTATE, ROT_EVENT_ROTATE,  ROT_EVENT_PAUSE,
                                             ROT_EVENT_RESUME, ROT_EVENT_RESUME,  ROT_EVENT_CANCEL,
                                             ROT_EVENT_CHECK,  ROT_EVENT_THROTTLE};
    rot_event_t event = {.kind = kinds[sim_below(sim, VD_COUNT_OF(kinds))],
                         .ticket = 1,
                         .has_rate = true,
                         .rate = sim_below(sim, 3),
                         .force = sim_chance(sim, 0.1)};
    uint64_t copy = sim_below(sim, 4 * SIM_COPIES_MAX);
    if (copy < SIM_COPIES_MAX)
        sim->copies[copy] = 0; /* removed */
    sim->force_said = event.force;
    sim_trace(sim, "operator: event %d", (int)event.kind);
    (void)sim_event(sim, &event);
    sim->force_said = false;
}

static void fault(sim_t *sim)
{
    uint64_t which = sim_below(sim, 10);
    if (which == 0 && sim->up)
        sim_holder_crash(sim);
    else if (which == 1 && sim->storage_up)
        sim_storage_crash(sim);
    else if (which == 2)
        sim_link_break(sim);
    if (which == 3 && sim->up && sim->storage_up) { /* all at once */
        sim_holder_crash(sim);
        sim_storage_crash(sim);
    }
}

/* After the faults an operator wants a rotation to complete. */
static void operator_helps(sim_t *sim, bool *asked)
{
    rot_event_t event = {.ticket = 1};
    rot_state_t state = sim->kept.state;
    if (sim->machine.waits_for_copies && sim_chance(sim, 0.5)) {
        memset(sim->copies, 0, sizeof sim->copies);
        return;
    }
    event.force = sim->force_said =
        sim->machine.waits_for_copies && sim_copies_count(sim, sim->kept.old_version) > 0;
    sim->forced += event.force;
    if (state == ROT_PAUSED || state == ROT_FAILED || event.force)
        event.kind = ROT_EVENT_RESUME;
    else if (!*asked && !rot_state_is_busy(state) && state != ROT_CHECKING)
        event.kind = ROT_EVENT_ROTATE;
    else
        return;
    bool done = sim_event(sim, &event);
    sim->force_said = false;
    *asked = *asked || (done && event.kind == ROT_EVENT_ROTATE);
}

static void run(sim_t *sim, uint64_t seed, bool trace)
{
    bool asked = false;
    begin(sim, seed, trace);
    for (int i = 0; i < FAULT_TICKS && !sim->failed; i++) {
        sim->now_ms += SIM_STEP_MS;
        sim_deliver(sim);
        sim_tick(sim);
        if (sim_chance(sim, 0.15))
            operator_acts(sim);
        if (sim_chance(sim, 0.03))
            sim_copy_make(sim);
        if (sim_chance(sim, sim->crash))
            fault(sim);
        sim_check_step(sim);
    }
    sim->healed = true;
    sim_link_break(sim); /* so that storage attaches: links that work lose nothing */
    sim_trace(sim, "the faults end: %s", rot_state_name(sim->kept.state));
    for (int i = 0; i < SETTLE_TICKS && !sim->failed; i++) {
        sim->now_ms += SIM_STEP_MS;
        sim_deliver(sim);
        sim_tick(sim);
        operator_helps(sim, &asked);
        sim_check_step(sim);
        if (asked && sim->kept.state == ROT_COMPLETED)
            break;
    }
    if (!sim->failed)
        sim_check_settled(sim);
}

int main(int argc, char **argv)
{
    static sim_t sim;
    unsigned long long first = 1, last = SEEDS_DEFAULT;
    uint64_t failures = 0, completed = 0, cancelled = 0, checks = 0, crashes = 0, destroyed = 0,
             steps = 0, copies = 0, waits = 0, forced = 0;
    bool trace = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--trace") == 0) {
            trace = true;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            first = last = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc &&
                   sscanf(argv[i + 1], "%llu..%llu", &first, &last) == 2) {
            i++;
        } else {
            fprintf(stderr, "usage: simrot [--seed N [--trace]] [--seeds A..B]\n");
            return 64;
        }
    }
    for (uint64_t seed = first; seed <= last && failures < FAILURES_MAX; seed++) {
        run(&sim, seed, trace);
        completed += sim.completed, cancelled += sim.cancelled, checks += sim.checks;
        copies += sim.copies_made, waits += sim.waits, forced += sim.forced;
        crashes += sim.crashes, destroyed += sim.destroyed, steps += sim.steps;
        if (sim.failed) {
            failures++;
            printf("seed %" PRIu64 " at %.3f s: %s\n", seed, (double)sim.now_ms / 1000,
                   sim.failure);
        }
    }
    printf("%llu seeds, %" PRIu64 " steps: %" PRIu64 " rotations completed, %" PRIu64
           " cancelled, %" PRIu64 " verifies, %" PRIu64 " keys destroyed, %" PRIu64
           " crashes, %" PRIu64 " backups, %" PRIu64 " waits for them, %" PRIu64 " forced, %" PRIu64
           " failures\n",
           last - first + 1, steps, completed, cancelled, checks, destroyed, crashes, copies, waits,
           forced, failures);
    if (failures == 0 && last - first >= 1000 &&
        (cancelled == 0 || checks == 0 || crashes == 0 || waits == 0 || forced == 0)) {
        puts("nothing happened: the simulator is broken");
        return 1;
    }
    return failures == 0 ? 0 : 1;
}
