/* veddb-storaged/replication/positions.h — how far each member is, and who waits for them.
 *
 * Duty:    takes the positions that replicad passes on (primary) or the majority point that it
 *          was told (secondary); computes the points (points.h) from the configuration and our
 *          own durable point; parks requests, without a worker, for a write concern (w: N,
 *          "majority", the name of a mode), for the majority point (read concern majority), for
 *          an entry of our own on a majority (linearizable: one for all that wait), for
 *          afterClusterTime and for an answer of replicad; gives them back when that is reached,
 *          or at their deadline, when they are killed, or when the role changes.
 * Rules:   a write concern is only ever reached under the term in which the write was admitted.
 *          The majority point never falls, and is never ahead of what is known to be of our
 *          history (points.h: the present term's entries).
 * Cost:    a parked request is two places in heaps; all that a point releases goes back in one
 *          pass. A node alone parks nothing.
 * Threads: any. One of its own (start/stop, by the inbox) for deadlines, no-op entries and the
 *          lease of the link to replicad. Released requests go back on the thread that found out.
 * Units:   timestamps; microseconds (monotonic) for deadlines. */
#pragma once
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/request.h"

typedef struct stor_positions stor_positions_t;

stor_positions_t *stor_positions_create(stor_storage_t *storage);
void stor_positions_destroy(stor_positions_t **positions_p);
/* Its thread; not for a node alone (then nothing happens). */
VD_MUST_CHECK int stor_positions_start(stor_positions_t *positions, vd_error_t *err);
/* Everybody who waits is released with InterruptedAtShutdown, and nobody is parked any more. */
void stor_positions_stop(stor_positions_t *positions);

/* POSITIONS came. One of another term than ours is stepped over. */
void stor_positions_note(stor_positions_t *positions, uint64_t term, uint64_t majority,
                         const vdp_position_t *members, uint32_t count);
/* Our own durable point moved (flusher's thread, after each flush). */
void stor_positions_flushed(stor_positions_t *positions, uint64_t durable);
/* A batch was applied: what waits for a time may go on at once (else at the next flush). */
void stor_positions_applied(stor_positions_t *positions);
/* The configuration or the role changed: count anew. A primary that stepped down: those who wait
 * for a write concern are released with PrimarySteppedDown (189), readers with
 * InterruptedDueToReplStateChange (11602). */
void stor_positions_changed(stor_positions_t *positions);
/* A primary's term begins with this entry (role.c). */
void stor_positions_term(stor_positions_t *positions, uint64_t term, uint64_t first);
uint64_t stor_positions_first(stor_positions_t *positions);

/* The request's answer is there and durable (or, for afterClusterTime and replicad's answer, its
 * handler did what it could); what remains is request->wait. True: go on now: to the client, or,
 * when wait.run_again is set, to a worker; the reply may have got a writeConcernError or have
 * become an error. False: parked; it comes back by stor_inbox_concern_met. */
bool stor_positions_wait(stor_positions_t *positions, stor_request_t *request);
/* The request was killed, or its client left: let go of it if it is parked here. */
void stor_positions_forget(stor_positions_t *positions, stor_request_t *request);

/* Asks replicad for a command that the handler runs: sets STOR_WAIT_ANSWER. The answer's body is
 * joined to the reply, its code becomes the reply's. */
VD_MUST_CHECK int stor_positions_ask(stor_request_t *request, const vdp_replication_ask_t *ask,
                                     vd_slice_t body, vd_error_t *err);

/* ---- index builds ---- */
/* What POSITIONS says of them (proto/replication.h): replaces what was known. */
void stor_positions_builds_note(stor_positions_t *positions, uint64_t term, vd_slice_t builds);
typedef struct {
    bool met;                  /* the quorum */
    bool all_voters, majority; /* have the build ready; we do */
} stor_positions_built_t;
/* quorum: "votingMembers", "majority", a number, a mode's name. We have it ready. */
void stor_positions_built(stor_positions_t *positions, uint64_t build, vd_value_t quorum,
                          stor_positions_built_t *ret);
/* VD_ERR_UNKNOWN_REPL_WRITE_CONCERN, VD_ERR_UNSATISFIABLE_COMMIT_QUORUM. */
VD_MUST_CHECK int stor_positions_quorum_check(stor_positions_t *positions, vd_value_t quorum,
                                              vd_error_t *err);

typedef struct {
    uint64_t majority, own, first;
    uint64_t waiting[STOR_WAIT_ANSWER + 1]; /* by kind */
    uint64_t write_timeouts, noops, interrupted;
    uint32_t members, voters, majority_count;
} stor_positions_stats_t;
void stor_positions_stats(stor_positions_t *positions, stor_positions_stats_t *ret_stats);

/* For tests: released requests (linked by next) go here instead of the inbox; and who is asked. */
void stor_positions_divert(stor_positions_t *positions,
                           void (*released)(stor_request_t *list, void *context), void *context);
typedef int (*stor_positions_ask_t)(stor_storage_t *storage, const vdp_replication_ask_t *ask,
                                    vd_slice_t body,
                                    void (*answered)(void *context, int code, vd_slice_t message,
                                                     vd_slice_t body),
                                    void *context, vd_error_t *err);
/* As stor_positions_ask, of somebody else: asker takes the question and calls back once. */
VD_MUST_CHECK int stor_positions_ask_by(stor_request_t *request, stor_positions_ask_t asker,
                                        const vdp_replication_ask_t *ask, vd_slice_t body,
                                        vd_error_t *err);
void stor_positions_divert_ask(stor_positions_t *positions, stor_positions_ask_t ask);
