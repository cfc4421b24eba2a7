/* veddb-supervisor/policy.h — pure: when to restart, how long to wait, when to give up. No clock,
 * no processes. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define SUP_STARTS_FAILED_MAX 8 /* deaths in a row before ready: then an operator must act */
#define SUP_WAIT_MAX_MS       10000
#define SUP_LIVED_LONG_MS     10000 /* a worker ready for so long has forgiven its past */

typedef enum { SUP_VERDICT_RESTART, SUP_VERDICT_GIVE_UP } sup_verdict_t;

/* What is remembered of one worker's past deaths. */
typedef struct {
    uint32_t deaths_before_ready; /* in a row */
    uint32_t short_lives;         /* in a row: was ready, but not for long */
} sup_history_t;

typedef struct {
    bool structural; /* it said itself that an operator must act (exit code 125) */
    bool was_ready;
    uint64_t ready_ms; /* how long it was ready */
    bool wanted;       /* we stopped it */
} sup_death_t;

/* Judges one death; changes history. *ret_wait_ms: pause before the restart. */
sup_verdict_t sup_policy_judge(sup_history_t *history, const sup_death_t *death,
                               uint64_t *ret_wait_ms);
