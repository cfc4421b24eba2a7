/* veddb-gatewayd/quota/bucket.c — see bucket.h. */
#include "veddb-gatewayd/quota/bucket.h"

#define US_PER_S 1e6

gate_bucket_rate_t gate_bucket_rate(uint64_t per_second, uint64_t burst_ms)
{
    double full = (double)per_second * (double)burst_ms / 1000.0;
    return (gate_bucket_rate_t){(double)per_second, full < 1 ? 1 : full};
}

void gate_bucket_init(gate_bucket_t *bucket, const gate_bucket_rate_t *rate, uint64_t now_us)
{
    *bucket = (gate_bucket_t){rate->full, now_us};
}

void gate_bucket_fill(gate_bucket_t *bucket, const gate_bucket_rate_t *rate, uint64_t now_us)
{
    if (now_us > bucket->at_us) {
        bucket->level += (double)(now_us - bucket->at_us) * rate->per_second / US_PER_S;
        bucket->at_us = now_us;
    }
    if (bucket->level > rate->full)
        bucket->level = rate->full;
}

static void bound(gate_bucket_t *bucket, const gate_bucket_rate_t *rate)
{
    double least = -GATE_BUCKET_DEBT_S * rate->per_second;
    if (bucket->level < least)
        bucket->level = least;
}

double gate_bucket_take(gate_bucket_t *bucket, const gate_bucket_rate_t *rate, uint64_t now_us,
                        double least, double more, uint64_t wait_max_us, uint64_t *ret_wait_us)
{
    gate_bucket_fill(bucket, rate, now_us);
    double half = rate->full > 2 ? rate->full / 2 : 1;
    double needed = least < half ? least : half;
    *ret_wait_us = 0;
    if (bucket->level < needed) {
        double wait = (needed - bucket->level) / rate->per_second * US_PER_S;
        *ret_wait_us = (uint64_t)wait + 1;
        if (*ret_wait_us > wait_max_us)
            return 0;
        more = 0;
    }
    double left = (bucket->level - least) / 2; /* others want some, too */
    if (more > left)
        more = left > 0 ? left : 0;
    bucket->level -= least + more;
    bound(bucket, rate);
    return least + more;
}

void gate_bucket_charge(gate_bucket_t *bucket, const gate_bucket_rate_t *rate, uint64_t now_us,
                        double amount)
{
    gate_bucket_fill(bucket, rate, now_us);
    bucket->level -= amount;
    bound(bucket, rate);
    if (bucket->level > rate->full)
        bucket->level = rate->full;
}
