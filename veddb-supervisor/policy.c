/* veddb-supervisor/policy.c — see policy.h.
 *
 * A worker that was serving comes back at once the first time: clients are waiting, and one kill is
 * not a pattern. Only deaths in quick succession make the pause grow. A worker that dies before it
 * is ready will most likely do so again: it waits from the first time. */
#include "veddb-supervisor/policy.h"

static uint64_t growing(uint64_t first_ms, uint32_t times)
{
    uint64_t wait = first_ms;
    for (uint32_t i = 1; i < times && wait < SUP_WAIT_MAX_MS; i++)
        wait *= 2;
    return wait < SUP_WAIT_MAX_MS ? wait : SUP_WAIT_MAX_MS;
}

sup_verdict_t sup_policy_judge(sup_history_t *history, const sup_death_t *death,
                               uint64_t *ret_wait_ms)
{
    *ret_wait_ms = 0;
    if (death->wanted) {
        *history = (sup_history_t){0};
        return SUP_VERDICT_RESTART;
    }
    if (death->structural)
        return SUP_VERDICT_GIVE_UP;
    if (!death->was_ready) {
        if (++history->deaths_before_ready >= SUP_STARTS_FAILED_MAX)
            return SUP_VERDICT_GIVE_UP;
        *ret_wait_ms = growing(100, history->deaths_before_ready);
        return SUP_VERDICT_RESTART;
    }
    history->deaths_before_ready = 0;
    if (death->ready_ms >= SUP_LIVED_LONG_MS) {
        history->short_lives = 0;
        return SUP_VERDICT_RESTART;
    }
    /* 0, 0, 25, 50, 100 ... capped low: it does serve, if not for long. */
    if (++history->short_lives > 2)
        *ret_wait_ms = growing(25, history->short_lives - 2);
    if (*ret_wait_ms > 2000)
        *ret_wait_ms = 2000;
    return SUP_VERDICT_RESTART;
}
