/* libcommon/base/clock.c — time; see clock.h. */
#include "libcommon/base/clock.h"

#include <stddef.h>
#include <time.h>

static uint64_t system_monotonic_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* can't fail with these arguments */
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static int64_t system_wall_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

const vd_clock_t vd_clock_system = {system_monotonic_us, system_wall_ms};

static const vd_clock_t *clock_now = &vd_clock_system;

void vd_clock_replace(const vd_clock_t *clock)
{
    __atomic_store_n(&clock_now, clock == NULL ? &vd_clock_system : clock, __ATOMIC_RELEASE);
}

uint64_t vd_monotonic_us(void)
{
    return __atomic_load_n(&clock_now, __ATOMIC_ACQUIRE)->monotonic_us();
}

uint64_t vd_monotonic_ms(void)
{
    return vd_monotonic_us() / 1000u;
}

int64_t vd_wall_ms(void)
{
    return __atomic_load_n(&clock_now, __ATOMIC_ACQUIRE)->wall_ms();
}
