/* veddb-storaged/inbox.h — from the gateways' links to the workers and back.
 *
 * Duty:    one I/O thread with a ROUTER: decodes, checks, admits or refuses, hands to the workers
 * through two lanes (quick operations; long ones, on at most all workers but one). A finished
 *          request is parked until what it depends on is durable (the flusher releases whole
 * lists); the I/O thread sends all replies of a turn in one batch. Announces STATE on every change
 *          and every second.
 * Owner:   storaged.c. Threads: start/stop by main. Limits: STOR_INFLIGHT_MAX requests,
 * VD_LINK_QUEUE_MAX_BYTES held: beyond, requests are refused with TemporarilyUnavailable and the
 * retry flag. */
#pragma once
#include "veddb-storaged/registry.h"

#define STOR_INFLIGHT_MAX 20000

struct vd_daemon;

VD_MUST_CHECK int stor_inbox_start(stor_storage_t *storage, struct vd_daemon *daemon,
                                   const char *socket_path, vd_error_t *err);
/* Refuses new work; *idle() once nothing is in flight. */
void stor_inbox_drain(stor_inbox_t *inbox, void (*idle)(void *context), void *context);
void stor_inbox_stop(stor_inbox_t **inbox_p);
/* The engine's `released` callback (flusher thread). */
void stor_inbox_released(stor_flush_waiter_t *list, void *context);
/* STATE must go out now (any thread). */
void stor_inbox_announce(stor_inbox_t *inbox);

typedef struct {
    uint64_t inflight, queued_quick, queued_long, running, parked, refused, received, workers;
} stor_inbox_stats_t;
void stor_inbox_stats(const stor_storage_t *storage, stor_inbox_stats_t *ret_stats);
