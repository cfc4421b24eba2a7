/* veddb-storaged/inbox.h — from the gateways' links to the workers and back.
 *
 * Duty:    one I/O thread with a ROUTER: decodes, checks, admits or refuses, hands to the workers
 *          of two lanes: quick operations (as many workers as settings.threads) and long ones
 *          (STOR_LONG_WORKERS, at a lower priority), so that neither long operations hold up quick
 *          ones, nor each other (docs/decisions/0004). A finished request is parked until what it
 *          depends on is durable (the flusher releases whole lists); the I/O thread sends all
 *          replies of a turn in one batch. What waits for a worker and is late, was killed, or has
 *          nobody left who asks, is answered without one and leaves its queue, unless a worker has
 *          begun it before. Announces STATE on every change and every second.
 * Owner:   main.c.
 * Threads: start/stop by main.
 * Limits:  STOR_INFLIGHT_MAX requests, VD_LINK_QUEUE_MAX_BYTES held, and the wait that a command
 *          allows (load.h): beyond, clients' commands are refused with 462; those that must not be
 *          (queue_wait_ms 0) are asked again: TemporarilyUnavailable and the retry flag. */
#pragma once
#include "veddb-storaged/registry.h"

#define STOR_INFLIGHT_MAX 20000
#define STOR_LONG_WORKERS 8

struct vd_daemon;

VD_MUST_CHECK int stor_inbox_start(stor_storage_t *storage, struct vd_daemon *daemon,
                                   const char *socket_path, vd_error_t *err);
/* Sends new work back, to be asked again later; idle() once nothing is in flight (I/O thread). */
void stor_inbox_drain(stor_inbox_t *inbox, void (*idle)(void *context), void *context);
/* Interrupts what runs, waits for what is parked, sends its replies, ends the threads. */
void stor_inbox_stop(stor_inbox_t **inbox_p);
/* The engine's callbacks, on the flusher's thread; context is the storage. released: what these
 * replies depend on is on disk. failed: nothing more can be made durable; the process ends. */
void stor_inbox_released(stor_flush_waiter_t *list, void *context);
void stor_inbox_failed(const vd_error_t *err, void *context);
/* Requests that were parked by positions.c (linked by next): answered, or run again (any thread).
 */
void stor_inbox_concern_met(stor_inbox_t *inbox, stor_request_t *list);
/* Something that was killed may be waiting for a worker (any thread). */
void stor_inbox_killed(stor_inbox_t *inbox);
/* STATE must go out now (any thread). */
void stor_inbox_announce(stor_inbox_t *inbox);

typedef struct {
    uint64_t inflight, queued_quick, queued_long, running, parked, refused, received, workers;
    uint64_t given_up; /* answered without a worker: late or killed in a queue */
} stor_inbox_stats_t;
void stor_inbox_stats(const stor_storage_t *storage, stor_inbox_stats_t *ret_stats);
