/* veddb-storaged/rotation/pace.h — how fast a rotation goes: a rate, and what it costs the others.
 *
 * Duty:    after each step says how long to sleep: so that the bytes stay under the rate, and so
 *          that the foreground's 99th percentile stays within its allowed rise above the
 *          baseline. The baseline is what it is while the rotation does nothing: before it, and
 *          in its rests. Beside the rotation one request of a hundred may take longer than
 *          baseline and two thirds of the rise: each look counts those that did, and makes the
 *          rotation slower or faster by how many there were. (Percentiles of half a second each
 *          differ by more than the rise without any cause; counts add up.) It begins gently;
 *          where nobody is there to be disturbed it is soon at full speed. Pure: times are given.
 * Threads: the caller's lock. */
#pragma once
#include "veddb-storaged/rotation/latency.h"

#include <stdbool.h>
#include <stdint.h>

#define STOR_PACE_SHARE_MAX 64.0

typedef struct {
    uint64_t rate_max;   /* bytes per second; 0 = without limit */
    uint32_t rise_max;   /* percent; 0 = off */
    uint64_t next_us;    /* the rate allows the next step then */
    uint64_t stepped_us; /* when the last step's sleep ended */
    double share;        /* slept per worked */
    bool busy;           /* requests came, of late */
    stor_latency_memory_t rested, worked;
    uint64_t baseline_us, window_us; /* of these two */
} stor_pace_t;

void stor_pace_limits(stor_pace_t *pace, uint64_t rate_max, uint32_t rise_max);
/* A step has moved so many bytes; returns microseconds to sleep. */
uint64_t stor_pace_step(stor_pace_t *pace, uint64_t now_us, uint64_t bytes);
/* The sleep has ended, whatever its length was. */
void stor_pace_slept(stor_pace_t *pace, uint64_t now_us);
/* What the requests of a while took. rested: the rotation did nothing in it. */
void stor_pace_window(stor_pace_t *pace, const stor_latency_look_t *look, bool rested);
