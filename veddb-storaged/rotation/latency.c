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

void stor_latency_take(stor_latency_t *latency, stor_latency_look_t *ret_look)
{
    ret_look->requests = 0;
    for (uint32_t i = 0; i < STOR_LATENCY_BUCKETS; i++) {
        uint64_t now = atomic_load_explicit(&latency->counts[i], memory_order_relaxed);
        ret_look->counts[i] = now - latency->taken[i];
        ret_look->requests += ret_look->counts[i];
        latency->taken[i] = now;
    }
}

void stor_latency_remember(stor_latency_memory_t *memory, const stor_latency_look_t *look,
                           double keep)
{
    for (uint32_t i = 0; i < STOR_LATENCY_BUCKETS; i++)
        memory->counts[i] = memory->counts[i] * keep + (double)look->counts[i];
    memory->requests = memory->requests * keep + (double)look->requests;
}

uint64_t stor_latency_p99(const stor_latency_memory_t *memory)
{
    double wanted = memory->requests / 100, above = 0;
    for (uint32_t i = STOR_LATENCY_BUCKETS; i-- > 0 && memory->requests > 0;) {
        double here = memory->counts[i];
        if (here > 0 && above + here >= wanted) {
            double begin = i == 0 ? 0 : (double)bucket_end(i - 1), end = (double)bucket_end(i);
            return (uint64_t)(end - (end - begin) * (wanted - above) / here);
        }
        above += here;
    }
    return 0;
}

double stor_latency_above(const stor_latency_look_t *look, uint64_t us)
{
    uint32_t bucket = bucket_of(us);
    double begin = bucket == 0 ? 0 : (double)bucket_end(bucket - 1);
    double end = (double)bucket_end(bucket), above = 0;
    for (uint32_t i = bucket + 1; i < STOR_LATENCY_BUCKETS; i++)
        above += (double)look->counts[i];
    if ((double)us < end)
        above += (double)look->counts[bucket] * (end - (double)us) / (end - begin);
    return above;
}
