/* veddb-gatewayd/quota/bucket.h — one token bucket: arithmetic alone, the clock is an argument.
 *
 * Duty:    fills at a rate up to what may be saved up; who takes more than there is waits so long
 *          until it would be there, one behind the other. One who asks for much waits until
 *          the bucket is half full, no longer (others would always be before him), and the next
 *          pays.
 * Limits:  the debt is bounded by GATE_BUCKET_DEBT_S of the rate: nobody is shut out for longer.
 * Threads: one (lock outside). Units: tokens, tokens per second, microseconds. Pure. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define GATE_BUCKET_DEBT_S 60

typedef struct {
    double level; /* below zero: debt */
    uint64_t at_us;
} gate_bucket_t;

typedef struct {
    double per_second; /* > 0 */
    double full;       /* what it holds at most, >= 1 */
} gate_bucket_rate_t;

gate_bucket_rate_t gate_bucket_rate(uint64_t per_second, uint64_t burst_ms);
void gate_bucket_init(gate_bucket_t *bucket, const gate_bucket_rate_t *rate, uint64_t now_us);
void gate_bucket_fill(gate_bucket_t *bucket, const gate_bucket_rate_t *rate, uint64_t now_us);
/* Takes `least`, and when there is enough up to `more` besides, for later. Returns what was taken:
 * at least `least`, or 0 when it would have to wait for longer than wait_max_us. *ret_wait_us: how
 * long to wait first. */
double gate_bucket_take(gate_bucket_t *bucket, const gate_bucket_rate_t *rate, uint64_t now_us,
                        double least, double more, uint64_t wait_max_us, uint64_t *ret_wait_us);
/* What was used already (negative: what was not used). */
void gate_bucket_charge(gate_bucket_t *bucket, const gate_bucket_rate_t *rate, uint64_t now_us,
                        double amount);
