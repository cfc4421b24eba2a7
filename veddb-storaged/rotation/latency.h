/* veddb-storaged/rotation/latency.h — how long quick requests took, for the pace of a rotation.
 *
 * Duty:    a histogram of 16 buckets per doubling (steps of about 4 %); what came since the last
 *          look; a memory of such looks, in which older ones fade, and its 99th percentile.
 * Threads: note: one (the I/O thread); take: one; a memory: the caller's. */
#pragma once
#include <stdatomic.h>
#include <stdint.h>

#define STOR_LATENCY_BUCKETS 480 /* 16 for each of 30 doublings of a microsecond */

typedef struct stor_latency {
    atomic_uint_fast64_t counts[STOR_LATENCY_BUCKETS];
    uint64_t taken[STOR_LATENCY_BUCKETS]; /* who takes */
} stor_latency_t;

typedef struct {
    uint64_t counts[STOR_LATENCY_BUCKETS], requests;
} stor_latency_look_t;

typedef struct {
    double counts[STOR_LATENCY_BUCKETS], requests;
} stor_latency_memory_t;

void stor_latency_note(stor_latency_t *latency, uint64_t took_us);
/* What came since the last call. */
void stor_latency_take(stor_latency_t *latency, stor_latency_look_t *ret_look);
/* keep: how much of what it holds stays, 0 to 1. Each request weighs the same, so that a look at
 * few says little. */
void stor_latency_remember(stor_latency_memory_t *memory, const stor_latency_look_t *look,
                           double keep);
/* In microseconds, between the ends of its bucket; 0: nothing is remembered. */
uint64_t stor_latency_p99(const stor_latency_memory_t *memory);
/* How many of a look took longer. */
double stor_latency_above(const stor_latency_look_t *look, uint64_t us);
