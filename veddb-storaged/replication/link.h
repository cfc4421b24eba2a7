/* veddb-storaged/replication/link.h — the socket to replicad, and who does what it asks.
 *
 * Duty:    a ROUTER with one attached replicad (the newest). One table of messages: where each
 *          runs, and in which states it is permitted. Every question gets an answer or a FAILURE.
 *          STATE goes out every 250 ms, and at once when role, term, configuration or loading
 *          change.
 * Threads: "replication" (loop, link: TAIL, FIND, notices, ASK), "applier" (whatever changes data
 *          or role, one after the other: ROLE, APPLY, CONFIG, ROLLBACK, LOAD_*; so none of them
 *          meets another), "copier" (SNAPSHOT_*). Each has its engine session. Waiting: TAIL
 *          without entries, and APPLIED until it is durable, wait on the loop's thread for the
 *          flusher's hook, without a timer in the way. An APPLY of a delayed member waits at the
 *          head of its queue; others than APPLY pass it.
 * Limits:  STOR_LINK_JOBS_MAX questions queued for a worker, STOR_LINK_TAILS_MAX parked; asks.h. */
#pragma once
#include "veddb-storaged/replication/asks.h"

#define STOR_LINK_JOBS_MAX  64
#define STOR_LINK_TAILS_MAX 64

typedef struct stor_replication_link stor_replication_link_t;

VD_MUST_CHECK int stor_replication_link_start(stor_storage_t *storage, struct vd_daemon *daemon,
                                              const char *socket_path,
                                              stor_replication_link_t **ret_link, vd_error_t *err);
/* Ends the threads; our questions are answered with InterruptedAtShutdown; asking is refused. */
void stor_replication_link_stop(stor_replication_link_t *link);
void stor_replication_link_destroy(stor_replication_link_t **link_p);
/* Flusher's thread. */
void stor_replication_link_flushed(stor_replication_link_t *link);
/* Any thread: look at what has changed. */
void stor_replication_link_wake(stor_replication_link_t *link);
VD_MUST_CHECK int stor_replication_link_ask(stor_replication_link_t *link,
                                            const vdp_replication_ask_t *ask, vd_slice_t body,
                                            stor_ask_answered_t answered, void *context,
                                            vd_error_t *err);
