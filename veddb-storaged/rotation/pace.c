/* veddb-storaged/rotation/pace.c — see pace.h. */
#include "veddb-storaged/rotation/pace.h"

#define SHARE_START   STOR_PACE_SHARE_MAX /* as slow as it gets: full speed is half a minute away */
#define SHARE_FIRST   0.5
#define SHARE_LEAST   0.05
#define SHARE_ALONE   0.5
#define MAY_BE_SLOW   0.01 /* of the requests: what a 99th percentile says */
#define AIM           0.67 /* of the rise: what is held swings around what is aimed at */
#define GAIN          0.1
#define TOO_MANY_MAX  4.0 /* times what may be, for one look */
#define KEEP          0.95
#define WORKED_MAX_US 1000000 /* of one step: a checkpoint in it is not slept for tenfold */
#define SLEEP_MAX_US  5000000

void stor_pace_limits(stor_pace_t *pace, uint64_t rate_max, uint32_t rise_max)
{
    if (rise_max != pace->rise_max)
        pace->share = rise_max == 0 || !pace->busy ? 0 : SHARE_START;
    pace->rate_max = rate_max;
    pace->rise_max = rise_max;
    pace->next_us = 0;
    pace->worked = (stor_latency_memory_t){0};
    pace->window_us = 0;
}

uint64_t stor_pace_step(stor_pace_t *pace, uint64_t now_us, uint64_t bytes)
{
    uint64_t until = now_us;
    if (pace->rate_max > 0) {
        if (pace->next_us < now_us)
            pace->next_us = now_us;
        pace->next_us += (uint64_t)((double)bytes * 1e6 / (double)pace->rate_max);
        until = pace->next_us;
    }
    if (pace->share > 0 && pace->stepped_us != 0 && pace->stepped_us < now_us) {
        uint64_t worked = now_us - pace->stepped_us;
        worked = worked > WORKED_MAX_US ? WORKED_MAX_US : worked;
        uint64_t rest = now_us + (uint64_t)((double)worked * pace->share);
        until = rest > until ? rest : until;
    }
    uint64_t sleep = until - now_us;
    return pace->share > 0 && pace->rate_max == 0 && sleep > SLEEP_MAX_US ? SLEEP_MAX_US : sleep;
}

void stor_pace_slept(stor_pace_t *pace, uint64_t now_us)
{
    pace->stepped_us = now_us;
}

void stor_pace_window(stor_pace_t *pace, const stor_latency_look_t *look, bool rested)
{
    pace->busy = look->requests > 0;
    if (!rested && !pace->busy)
        pace->share *= SHARE_ALONE;
    if (pace->share < SHARE_LEAST)
        pace->share = 0;
    if (!pace->busy)
        return;
    if (rested) {
        stor_latency_remember(&pace->rested, look, KEEP);
        pace->baseline_us = stor_latency_p99(&pace->rested);
        return;
    }
    stor_latency_remember(&pace->worked, look, KEEP);
    pace->window_us = stor_latency_p99(&pace->worked);
    if (pace->rise_max == 0)
        return;
    if (pace->baseline_us == 0) { /* until it has rested */
        pace->share = SHARE_START;
        return;
    }
    uint64_t allowed =
        pace->baseline_us + (uint64_t)((double)pace->baseline_us * pace->rise_max * AIM / 100);
    double may_be = (double)look->requests * MAY_BE_SLOW;
    double too_many = stor_latency_above(look, allowed) / may_be - 1; /* -1: none */
    if (too_many > TOO_MANY_MAX)
        too_many = TOO_MANY_MAX;
    if (too_many > 0 && pace->share < SHARE_FIRST)
        pace->share = SHARE_FIRST;
    pace->share *= 1 + GAIN * too_many;
    if (pace->share > STOR_PACE_SHARE_MAX)
        pace->share = STOR_PACE_SHARE_MAX;
}
