/* veddb-storaged/replication/positions.h — how far each member is, and who waits for them.
 *
 * Duty:    takes the positions that replicad passes on (primary) or the majority point that it was
 *          told (secondary); computes the majority point from the configuration's votes and our own
 *          durable point; releases requests parked for a write concern (w: N, "majority", tag
 * names) or for the majority point (read concern majority, linearizable, change streams). Threads:
 * any; released requests go back through `released` on the thread that found out. Units:
 * timestamps. */
#pragma once
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/request.h"

typedef struct stor_positions stor_positions_t;

stor_positions_t *stor_positions_create(stor_storage_t *storage);
void stor_positions_destroy(stor_positions_t **positions_p);
/* POSITIONS came. */
void stor_positions_note(stor_positions_t *positions, uint64_t term, uint64_t majority,
                         const vdp_position_t *members, uint32_t count);
/* Our own durable point moved (flusher's thread, after each flush). */
void stor_positions_flushed(stor_positions_t *positions, uint64_t durable);
/* The configuration or the role changed: count anew. A primary that stepped down: those who wait
 * for a write concern are released with PrimarySteppedDown (189). */
void stor_positions_changed(stor_positions_t *positions);

/* The request's answer is there and durable; what remains is its write concern or read concern.
 * True: answer now (the reply may have got a writeConcernError). False: parked; it comes back by
 * stor_inbox_concern_met. */
bool stor_positions_wait(stor_positions_t *positions, stor_request_t *request);
/* The request was killed, or its client left: let go of it if it is parked here. */
void stor_positions_forget(stor_positions_t *positions, stor_request_t *request);
