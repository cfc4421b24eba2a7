/* veddb-storaged/catalog/counters.h — documents, bytes and hash of each collection: exact, also
 * after a crash, and without a hot row.
 *
 * Duty:    every journal entry carries its changes' deltas. In memory each collection has the
 *          running sums, added to after the commit. On disk stands a row per collection, folded up
 *          to one journal position P; both are written in one transaction. At open: rows + the
 *          deltas of all entries above P. So a write pays nothing but a few bytes in the entry it
 *          writes anyway.
 * Keeps:   journal segments above P are not dropped (stor_counters_position).
 * Threads: fold: keeper; load: at open. */
#pragma once
#include "veddb-storaged/catalog/rows.h"

/* At open, when the catalog's collections are known. */
VD_MUST_CHECK int stor_counters_load(stor_storage_t *storage, stor_session_t *session,
                                     vd_error_t *err);
/* Folds what is visible since the last fold (at most entries_max), in one transaction. *ret_more:
 * there is more. */
VD_MUST_CHECK int stor_counters_fold(stor_storage_t *storage, stor_session_t *session,
                                     uint32_t entries_max, bool *ret_more, vd_error_t *err);
/* The kept values of a collection as of the journal position `upto` (visible), in the session's
 * open
 * transaction. VD_ERR_CHANGE_STREAM_HISTORY_LOST when the journal was cut in between. */
VD_MUST_CHECK int stor_counters_kept(stor_storage_t *storage, stor_session_t *session,
                                     uint64_t collection_id, uint64_t upto,
                                     stor_counters_row_t *ret_row, vd_error_t *err);
/* What the entries in (from, upto] add to each collection, in the session's open transaction. */
VD_MUST_CHECK int stor_counters_deltas(stor_storage_t *storage, stor_session_t *session,
                                       uint64_t from, uint64_t upto,
                                       void (*visit)(void *context, uint64_t collection_id,
                                                     const stor_counters_row_t *delta),
                                       void *context, vd_error_t *err);
/* Position of the rows that the session sees (which may be on a checkpoint). */
uint64_t stor_counters_position_read(stor_session_t *session);
/* A load: the rows are as of this position; in the session's open transaction, and after its commit
 * in memory. */
VD_MUST_CHECK int stor_counters_position_put(stor_session_t *session, uint64_t position,
                                             vd_error_t *err);
void stor_counters_position_set(stor_storage_t *storage, uint64_t position);
/* Journal position up to which the rows are folded. */
uint64_t stor_counters_position(const stor_storage_t *storage);
