/* veddb-storaged/replication/waiters.h — parked requests, ordered by what they wait for.
 *
 * Duty:    a binary heap of requests by one of the two keys that stand in each (stor_wait_t): the
 *          timestamp to be reached, or the deadline. A request knows its place, so that it can be
 *          taken out from the middle. Put, take and the least: O(log n) or better.
 * Limits:  STOR_INFLIGHT_MAX requests, which the inbox bounds.
 * Threads: one at a time (positions.c: under its lock). */
#pragma once
#include "veddb-storaged/request.h"

typedef enum { STOR_WAIT_BY_POINT = 0, STOR_WAIT_BY_DEADLINE = 1 } stor_wait_order_t;

typedef struct {
    stor_request_t **items;
    uint32_t count, capacity;
    stor_wait_order_t order;
} stor_waiters_t;

void stor_waiters_done(stor_waiters_t *waiters);
void stor_waiters_put(stor_waiters_t *waiters, stor_request_t *request);
void stor_waiters_remove(stor_waiters_t *waiters, stor_request_t *request);
/* Its key has become smaller. */
void stor_waiters_hurry(stor_waiters_t *waiters, stor_request_t *request);
/* The one with the least key, or NULL; it stays. */
static inline stor_request_t *stor_waiters_first(const stor_waiters_t *waiters)
{
    return waiters->count == 0 ? NULL : waiters->items[0];
}
