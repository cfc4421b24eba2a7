/* tests/support/ahead_clock.h — a clock that a test puts forward instead of waiting.
 *
 * Owner:   the test's process: ahead_clock_use before anything reads the time.
 * Threads: any. */
#pragma once
#include "libcommon/base/clock.h"

#include <stdatomic.h>
#include <stddef.h>

static atomic_int_fast64_t ahead_ms;

static uint64_t ahead_monotonic_us(void)
{
    return vd_clock_system.monotonic_us() + (uint64_t)atomic_load(&ahead_ms) * 1000;
}

static int64_t ahead_wall_ms(void)
{
    return vd_clock_system.wall_ms() + atomic_load(&ahead_ms);
}

static inline void ahead_clock_use(void)
{
    static const vd_clock_t clock = {ahead_monotonic_us, ahead_wall_ms};
    vd_clock_replace(&clock);
}

static inline void ahead_clock_back(void)
{
    vd_clock_replace(NULL);
}
