/* veddb-storaged/load.h — whether a command that has just come would wait for too long.
 *
 * Duty:    a lane is first come, first served, so who comes now will wait about as long as the one
 *          who is next has waited already. That is a fact, no forecast: nobody is refused because
 *          one operation before him was slow. When the queue is short again, so is that time.
 * Threads: any. Units: microseconds, monotonic. Pure. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* next_since_us: since when the next one waits, 0 = nobody does. bound_us: how long one may wait;
 * left_us: and how long its client will (UINT64_MAX: for ever). */
static inline bool stor_load_refuses(uint64_t next_since_us, uint64_t now_us, uint64_t bound_us,
                                     uint64_t left_us)
{
    if (next_since_us == 0 || now_us <= next_since_us)
        return false;
    uint64_t waited_us = now_us - next_since_us;
    return waited_us > bound_us || waited_us > left_us;
}
