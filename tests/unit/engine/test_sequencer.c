/* tests/unit/engine/test_sequencer.c — timestamps: unique, growing, never above the ceiling; the
 * visible watermark has no hole below. */
#include "libcommon/base/clock.h"
#include "veddb-storaged/engine/sequencer.h"

#include <criterion/criterion.h>
#include <sched.h>

#define COUNTER_TOP ((1u << STOR_COUNTER_BITS) - 1)

static int64_t fake_ms;

static uint64_t fake_monotonic(void)
{
    return 0;
}

static int64_t fake_wall(void)
{
    return fake_ms;
}

static const vd_clock_t fake_clock = {.monotonic_us = fake_monotonic, .wall_ms = fake_wall};

/* Raises the ceiling at once, as a flusher would from its thread. */
static void want(void *context)
{
    stor_sequencer_t *sequencer = context;
    uint64_t ceiling = stor_sequencer_ceiling_due(sequencer);
    if (ceiling > atomic_load(&sequencer->ceiling))
        atomic_store(&sequencer->ceiling, ceiling);
}

static void set_up(stor_sequencer_t *sequencer, uint8_t term, uint64_t above)
{
    stor_sequencer_init(sequencer, term, 8, above);
    sequencer->want = want;
    sequencer->want_context = sequencer;
    for (uint32_t i = 0; i < 8; i++)
        stor_sequencer_slot_use(sequencer, i);
}

static uint64_t draw(stor_sequencer_t *sequencer)
{
    uint64_t timestamp = stor_sequencer_draw(sequencer, 0);
    stor_sequencer_end(sequencer, 0);
    return timestamp;
}

Test(sequencer, follows_the_clock_and_never_falls)
{
    stor_sequencer_t sequencer;
    vd_clock_replace(&fake_clock);
    fake_ms = 1000 * 1000;
    set_up(&sequencer, 3, 0);
    cr_assert_eq(draw(&sequencer), stor_timestamp(1000, 3, 1));
    cr_assert_eq(draw(&sequencer), stor_timestamp(1000, 3, 2));
    fake_ms += 2500;
    cr_assert_eq(draw(&sequencer), stor_timestamp(1002, 3, 1));
    fake_ms -= 60 * 1000; /* the clock goes back */
    cr_assert_eq(draw(&sequencer), stor_timestamp(1002, 3, 2));
    fake_ms = -5;
    cr_assert_eq(draw(&sequencer), stor_timestamp(1002, 3, 3));
    stor_sequencer_done(&sequencer);
    vd_clock_replace(NULL);
}

Test(sequencer, counter_overflow_and_start)
{
    static const struct {
        uint64_t above;
        uint8_t term;
        uint64_t expected;
    } cases[] = {
        {0, 0, (1000ULL << 32) | 1},
        {(1000ULL << 32) | 5, 0, (1000ULL << 32) | 6},
        {(1000ULL << 32) | 0xffffff, 0, (1001ULL << 32) | 1},       /* a full counter */
        {(1000ULL << 32) | 7, 2, (1001ULL << 32) | (2u << 24) | 1}, /* a new term: a later second */
        {(1000ULL << 32) | (9u << 24) | 7, 2, (1001ULL << 32) | (2u << 24) | 1},
        {(1002ULL << 32) | 0xffffffff, 0, (1003ULL << 32) | 1}, /* the ceiling of a crash */
    };
    vd_clock_replace(&fake_clock);
    fake_ms = 1000 * 1000;
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_sequencer_t sequencer;
        set_up(&sequencer, cases[i].term, cases[i].above);
        uint64_t drawn = draw(&sequencer);
        cr_assert_eq(drawn, cases[i].expected, "case %zu: %llx", i, (unsigned long long)drawn);
        cr_assert_eq(stor_timestamp_counter(drawn) <= COUNTER_TOP, true);
        stor_sequencer_done(&sequencer);
    }
    vd_clock_replace(NULL);
}

Test(sequencer, ceiling_is_kept_ahead)
{
    stor_sequencer_t sequencer;
    vd_clock_replace(&fake_clock);
    fake_ms = 1000 * 1000;
    set_up(&sequencer, 0, 0);
    uint64_t ceiling = stor_sequencer_ceiling_due(&sequencer);
    cr_assert_eq(stor_timestamp_seconds(ceiling), 1002);
    stor_sequencer_raise(&sequencer, ceiling);
    cr_assert_eq(stor_sequencer_ceiling_due(&sequencer), 0);
    fake_ms += 1000;
    cr_assert_eq(stor_sequencer_ceiling_due(&sequencer), 0);
    fake_ms += 1000; /* its last second has begun */
    cr_assert_eq(stor_timestamp_seconds(stor_sequencer_ceiling_due(&sequencer)), 1004);
    fake_ms += 100000;
    cr_assert_leq(draw(&sequencer), atomic_load(&sequencer.ceiling));
    stor_sequencer_done(&sequencer);
    vd_clock_replace(NULL);
}

Test(sequencer, visible_stays_below_what_is_in_flight)
{
    stor_sequencer_t sequencer;
    set_up(&sequencer, 0, 0);
    uint64_t a = stor_sequencer_draw(&sequencer, 1);
    uint64_t b = stor_sequencer_draw(&sequencer, 2);
    stor_sequencer_committing(&sequencer, b);
    cr_assert_eq(stor_sequencer_newest(&sequencer), b);
    stor_sequencer_end(&sequencer, 2);
    cr_assert_lt(stor_sequencer_visible(&sequencer), a);
    stor_sequencer_end(&sequencer, 1);
    cr_assert_eq(stor_sequencer_visible(&sequencer), b);
    stor_sequencer_done(&sequencer);
}

/* Threads draw, note their timestamp as "done" and end; a watcher checks that nothing at or below
 * `visible` comes later. */
enum { THREADS = 4, DRAWS = 60000 };
static stor_sequencer_t shared;
static atomic_bool stop;
static atomic_uint_fast64_t watched; /* greatest watermark seen */
static atomic_uint_fast64_t holes;

static void *drawer_run(void *arg)
{
    uint32_t slot = *(uint32_t *)arg;
    uint64_t before = 0;
    for (int i = 0; i < DRAWS; i++) {
        uint64_t mine = stor_sequencer_draw(&shared, slot);
        if (mine <= before || mine <= atomic_load(&watched))
            atomic_fetch_add(&holes, 1);
        before = mine;
        if (i % 64 == 0)
            (void)sched_yield();
        if (mine <= atomic_load(&watched)) /* still in flight: may not be visible */
            atomic_fetch_add(&holes, 1);
        stor_sequencer_committing(&shared, mine);
        stor_sequencer_end(&shared, slot);
    }
    return NULL;
}

static void *watcher_run(void *arg)
{
    (void)arg;
    uint64_t last = 0;
    while (!atomic_load(&stop)) {
        uint64_t visible = stor_sequencer_visible(&shared);
        if (visible < last)
            atomic_fetch_add(&holes, 1);
        last = visible;
        atomic_store(&watched, visible);
    }
    return NULL;
}

Test(sequencer, no_hole_under_concurrency, .timeout = 300)
{
    set_up(&shared, 0, 0);
    pthread_t threads[THREADS], watcher;
    uint32_t slots[THREADS];
    cr_assert_eq(pthread_create(&watcher, NULL, watcher_run, NULL), 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        slots[i] = i;
        cr_assert_eq(pthread_create(&threads[i], NULL, drawer_run, &slots[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    atomic_store(&stop, true);
    cr_assert_eq(pthread_join(watcher, NULL), 0);
    cr_assert_eq(atomic_load(&holes), 0);
    cr_assert_eq(stor_sequencer_visible(&shared), stor_sequencer_last(&shared));
    stor_sequencer_done(&shared);
}
