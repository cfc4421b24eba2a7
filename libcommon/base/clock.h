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
