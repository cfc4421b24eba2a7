/* veddb-storaged/engine/flusher.h — group commit: one thread that makes the log durable and
 * releases who waits for it.
 *
 * Duty:    in a loop while there is something to do: sample `visible`, take the parked waiters,
 *          write a marker and (when due) a higher ceiling, sync the log, publish `durable`,
 *          release the waiters. Whoever was parked before a flush began is released by it: all
 *          that he may have seen had its log record written before. Sleeps without a timer when
 *          nothing is parked or unflushed. Markers: a log message {start id, number}. Number 2n is
 *          written before the sync of flush n, and number 2n+1 after it, when nobody hurries on to
 *          the next (unsynced: so that a kill leaves it). So 2n+1 in the log proves that
 *          everything before marker 2n is on disk, and 2n the same of marker 2n-2 (log_scan.c).
 * Owner:   the engine.
 * Threads: start/stop by the opener; the rest any. */
#pragma once
#include "veddb-storaged/engine/engine.h"
#include "veddb-storaged/engine/guard.h"
#include "veddb-storaged/engine/sequencer.h"

typedef struct stor_flusher stor_flusher_t;
struct __wt_connection;

/* Then 12 hexadecimal digits of start id, a blank, 16 of number: fits into the smallest log record
 * (128 B with all heads). */
#define STOR_MARKER_PREFIX "flush "

typedef struct {
    struct __wt_connection *conn;
    stor_sequencer_t *sequencer;
    stor_guard_t *guard;
    void (*released)(stor_flush_waiter_t *list, void *context);
    void *released_context;
    void (*failed)(const vd_error_t *err, void *context);
} stor_flusher_options_t;

/* Writes and flushes the first marker and ceiling before it returns. */
VD_MUST_CHECK int stor_flusher_start(const stor_flusher_options_t *options,
                                     stor_flusher_t **ret_flusher, vd_error_t *err);
/* Flushes what is left, writes the exact ceiling, releases all waiters, ends the thread. */
void stor_flusher_stop(stor_flusher_t **flusher_p);
/* Around each commit that has written. */
void stor_flusher_commit_begin(stor_flusher_t *flusher);
void stor_flusher_commit_end(stor_flusher_t *flusher);
bool stor_flusher_wait(stor_flusher_t *flusher, uint64_t timestamp, stor_flush_waiter_t *waiter);
uint64_t stor_flusher_durable(const stor_flusher_t *flusher);
/* A flush begins at once, or as soon as the present one has ended, whether anybody is parked or
 * not. */
void stor_flusher_hurry(stor_flusher_t *flusher);
/* Called after each flush, on the flusher's thread, with the durable point; NULL: no more, and none
 * is under way when this returns. Any thread but the flusher's. */
void stor_flusher_hook(stor_flusher_t *flusher, void (*flushed)(uint64_t durable, void *context),
                       void *context);
/* The next flush writes the ceiling anew, as it is: nobody else may touch its row. */
void stor_flusher_ceiling_renew(stor_flusher_t *flusher);
/* The sequencer's position was set: the durable point follows it, down too. Waits for a flush. */
void stor_flusher_position_set(stor_flusher_t *flusher, uint64_t position);
/* A draw waits for a higher ceiling (stor_sequencer_t.want). */
void stor_flusher_wake(void *flusher);
uint64_t stor_flusher_flushes(const stor_flusher_t *flusher);
void stor_flusher_stats(const stor_flusher_t *flusher, stor_engine_stats_t *stats);
/* The ceiling that an earlier start left; 0 in a new database. */
VD_MUST_CHECK int stor_flusher_ceiling_read(struct __wt_connection *conn, uint64_t *ret_ceiling,
                                            vd_error_t *err);
