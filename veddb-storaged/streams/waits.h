/* veddb-storaged/streams/waits.h — getMores that wait for something to come (awaitData), and
 * commands that wait for something else (stor_request_wait: a build of an index, fsyncUnlock).
 *
 * Duty:    holds requests that have nothing to tell, without a worker, until there may be
 *          something for their stream above what it has seen and below the majority point (for a
 *          tailable cursor: something visible here above what it has seen; for a command: what it
 *          asks for is true), their time is over, they were killed, or storage drains; then gives
 *          them back to the workers, all of a pass together. What has come is looked at once for
 *          all of them (watch.h): a stream of another collection, or whose filter drops what
 *          came, goes on waiting and costs nothing. Between passes it rests a little, the longer
 *          the more it woke, so that many streams under a heavy load share one look at the
 *          journal instead of having one for each flush.
 * Owner:   the inbox starts and stops it.
 * Limits:  the inbox's requests in flight. Killed ones are noticed within STOR_WAITS_LOOK_MS, the
 *          end of a wait within STOR_WAITS_DUE_MS.
 * Threads: park and moved: any; one thread of its own, with an engine session. */
#pragma once
#include "veddb-storaged/request.h"

#define STOR_WAITS_LOOK_MS 100
#define STOR_WAITS_DUE_MS  10

typedef struct stor_waits stor_waits_t;

/* ready: a chain (request->next) to run again; called on the thread of waits. */
VD_MUST_CHECK int stor_waits_start(stor_storage_t *storage,
                                   void (*ready)(stor_request_t *first, void *context),
                                   void *context, stor_waits_t **ret_waits, vd_error_t *err);
/* Those that still wait are given to ready; nobody parks any more. moved is fine until destroy.
 * NULL is fine. */
void stor_waits_stop(stor_waits_t *waits);
void stor_waits_destroy(stor_waits_t **waits_p);
/* Takes a request whose handler has set `awaiting`. */
void stor_waits_park(stor_waits_t *waits, stor_request_t *request);
/* The majority point may have moved: to be called by whoever moves it. Cheap when nobody waits;
 * NULL is fine. */
void stor_waits_moved(stor_waits_t *waits);
