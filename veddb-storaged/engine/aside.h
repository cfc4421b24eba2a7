/* veddb-storaged/engine/aside.h — old versions that stand aside on disk (WiredTiger's lookaside
 * table), and how their place becomes free.
 *
 * Duty:    tells which old versions were there at a moment, whether they are gone, and makes
 *          WiredTiger 3.2.1 remove them. By itself it does so only for tables that were closed
 *          since, and of the others, once one was, where a record's newest version is a value:
 *          what stands aside of a record that was removed stays as long as its table is open. So
 *          a table is closed for a moment: transactions wait with their begin until those under
 *          way have ended or a short limit is reached, the table's cursors are closed, then the
 *          table; until the sweep has taken note, who wants to open it waits. Nobody gets an
 *          error. One that has been opened again before that would never be swept: so it is held
 *          until a removed record's versions are seen to be gone.
 * Marks:   places in the lookaside table ascend: what stands there up to a mark was there when
 *          the mark was taken; what came since is above it.
 * Limits:  transactions are held up for 800 ms at most, and not while one stays open from one
 *          call to the next (then only at each 30th call); one table for 5 s at most, 20 s where
 *          millions of versions stand aside; mostly both for less than 100 ms. Call it about once
 *          a second.
 * Stuck:   a table that somebody else closed and opened again (validate, WiredTiger's sweep of
 *          idle files) has lost its note: what stands aside of its removed records stays until a
 *          restart.
 * Owner:   open/close.
 * Threads: one; the engine's users wait by stor_hold_*. */
#pragma once
#include "veddb-storaged/engine/session.h"

typedef struct stor_aside stor_aside_t;

VD_MUST_CHECK int stor_aside_open(stor_engine_t *engine, stor_aside_t **ret_aside, vd_error_t *err);
void stor_aside_close(stor_aside_t **aside_p);
/* Old versions that stand aside; 1 when it can't be known. */
uint64_t stor_aside_count(stor_aside_t *aside);
/* The mark of now: 0 = none stands aside; UINT64_MAX when it can't be known. */
uint64_t stor_aside_mark(stor_aside_t *aside);
/* Something up to the mark stands aside, or it can't be known. */
bool stor_aside_has(stor_aside_t *aside, uint64_t mark);
/* One try to have what stands up to the mark removed; stopped() (may be NULL) ends it early.
 * *ret_stuck: what is left needs a restart. */
VD_MUST_CHECK int stor_aside_free(stor_aside_t *aside, uint64_t mark,
                                  bool (*stopped)(const void *context), const void *context,
                                  bool *ret_stuck, vd_error_t *err);
