/* veddb-storaged/rotation/latency.h — how long quick requests took, for the pace of a rotation.
 *
 * Duty:    a histogram of 16 buckets per doubling (steps of about 4 %); the 99th percentile of what
 *          came since the last look.
 * Threads: note: one (the I/O thread); take: one. */
#pragma once
#include <stdatomic.h>
#include <stdint.h>

#define STOR_LATENCY_BUCKETS 480 /* 16 for each of 30 doublings of a microsecond */

typedef struct stor_latency {
    atomic_uint_fast64_t counts[STOR_LATENCY_BUCKETS];
    uint64_t taken[STOR_LATENCY_BUCKETS]; /* who takes */
} stor_latency_t;

void stor_latency_note(stor_latency_t *latency, uint64_t took_us);
/* Returns the requests since the last call; *ret_p99_us: the upper end of their percentile's
 * bucket, 0 without any. */
uint64_t stor_latency_take(stor_latency_t *latency, uint64_t *ret_p99_us);
