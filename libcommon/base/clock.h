/* libcommon/base/clock.h — time, behind one replaceable table (the simulator replaces it).
 *
 * Units are in the names.
 * Threads: any. */
#pragma once
#include <stdint.h>

typedef struct {
    uint64_t (*monotonic_us)(void);
    int64_t (*wall_ms)(void); /* since 1970-01-01 UTC */
} vd_clock_t;

extern const vd_clock_t vd_clock_system;
/* The table in force; NULL puts the system's back. For tests. */
void vd_clock_replace(const vd_clock_t *clock);

uint64_t vd_monotonic_us(void);
uint64_t vd_monotonic_ms(void);
int64_t vd_wall_ms(void);

/* From `since` to `now`, in their unit. 0 when `since` is the later one: another thread may have
 * noted it after this one read its clock, and a difference below nothing would be an age without
 * end. For whatever may have been noted by another thread. */
static inline uint64_t vd_elapsed(uint64_t since, uint64_t now)
{
    return now > since ? now - since : 0;
}
