/* veddb-storaged/rotation/pace.c — see pace.h. */
#include "veddb-storaged/rotation/pace.h"

#define SHARE_FIRST   0.5
#define SHARE_LEAST   0.05
#define SHARE_LOWER   0.8
#define WORKED_MAX_US 1000000 /* of one step: a checkpoint in it is not slept for tenfold */
#define SLEEP_MAX_US  2000000

void stor_pace_limits(stor_pace_t *pace, uint64_t rate_max, uint32_t rise_max)
{
    pace->rate_max = rate_max;
    pace->rise_max = rise_max;
    pace->next_us = 0;
    if (rise_max == 0)
        pace->share = 0;
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

void stor_pace_window(stor_pace_t *pace, uint64_t p99_us, uint64_t requests, bool rested)
{
    if (requests < STOR_PACE_WINDOW_REQUESTS) {
        if (requests == 0 && !rested)
            pace->share *= SHARE_LOWER; /* nobody is there to be disturbed */
        return;
    }
    pace->window_us = p99_us;
    if (rested) {
        pace->baseline_us = pace->baseline_us == 0 ? p99_us : (3 * pace->baseline_us + p99_us) / 4;
        return;
    }
    if (pace->rise_max == 0 || pace->baseline_us == 0)
        return;
    uint64_t allowed = pace->baseline_us + pace->baseline_us * pace->rise_max / 100;
    if (p99_us > allowed)
        pace->share = pace->share < SHARE_FIRST ? SHARE_FIRST : pace->share * 2;
    else
        pace->share = pace->share < SHARE_LEAST ? 0 : pace->share * SHARE_LOWER;
    if (pace->share > STOR_PACE_SHARE_MAX)
        pace->share = STOR_PACE_SHARE_MAX;
}
