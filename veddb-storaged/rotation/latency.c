/* veddb-storaged/rotation/latency.c — see latency.h. */
#include "veddb-storaged/rotation/latency.h"

#include <string.h>

#define PER_DOUBLING 16

static uint32_t bucket_of(uint64_t us)
{
    if (us < PER_DOUBLING)
        return (uint32_t)us;
    uint32_t log = 63 - (uint32_t)__builtin_clzll(us);
    uint32_t bucket = (log - 3) * PER_DOUBLING + (uint32_t)(us >> (log - 4)) - PER_DOUBLING;
    return bucket < STOR_LATENCY_BUCKETS ? bucket : STOR_LATENCY_BUCKETS - 1;
}

/* The least that is above the bucket. */
static uint64_t bucket_end(uint32_t bucket)
{
    if (bucket < PER_DOUBLING)
        return bucket + 1;
    uint32_t log = bucket / PER_DOUBLING + 3;
    return ((uint64_t)(bucket % PER_DOUBLING) + PER_DOUBLING + 1) << (log - 4);
}

void stor_latency_note(stor_latency_t *latency, uint64_t took_us)
{
    atomic_uint_fast64_t *count = &latency->counts[bucket_of(took_us)];
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

uint64_t stor_latency_take(stor_latency_t *latency, uint64_t *ret_p99_us)
{
    uint64_t since[STOR_LATENCY_BUCKETS], all = 0, above = 0;
    for (uint32_t i = 0; i < STOR_LATENCY_BUCKETS; i++) {
        uint64_t now = atomic_load_explicit(&latency->counts[i], memory_order_relaxed);
        since[i] = now - latency->taken[i];
        latency->taken[i] = now;
        all += since[i];
    }
    *ret_p99_us = 0;
    for (uint32_t i = STOR_LATENCY_BUCKETS; i-- > 0 && all > 0;) {
        above += since[i];
        if (above > all / 100) {
            *ret_p99_us = bucket_end(i);
            break;
        }
    }
    return all;
}
