/* veddb-storaged/replication/tail.h — serves the journal to replicad: batches of whole entries
 * above a position, up to what is visible and on our disk (so that nobody has what we may lose),
 * and the search for a common point.
 *
 * Duty:    TAIL -> BATCH; one that finds nothing is parked by the link until the durable point
 *          moves or its time is over. A batch ends at a whole timestamp if that is possible.
 * Readers: the journal is dropped only above storage.journal_max, for whoever reads it: a reader
 *          that is further behind gets ChangeStreamHistoryLost, and copies anew.
 * Threads: the link's. */
#pragma once
#include "veddb-storaged/replication/replication.h"

typedef struct stor_tail stor_tail_t;

stor_tail_t *stor_tail_create(stor_storage_t *storage);
void stor_tail_destroy(stor_tail_t **tail_p);
/* Fills `out` with entries as vdp_replication_batch_t says. VD_ERR_NOT_FOUND: nothing yet (park).
 * VD_ERR_CHANGE_STREAM_HISTORY_LOST. */
VD_MUST_CHECK int stor_tail_read(stor_tail_t *tail, stor_session_t *session,
                                 const vdp_replication_tail_t *ask, vd_buf_t *out,
                                 vdp_replication_batch_t *ret_batch, vd_error_t *err);
/* Greatest of `timestamps` (newest first) that the journal holds, or where a loaded snapshot's
 * journal begins, or 0. */
VD_MUST_CHECK int stor_tail_find(stor_tail_t *tail, stor_session_t *session,
                                 const uint64_t *timestamps, uint32_t count, uint64_t *ret_found,
                                 vd_error_t *err);
/* Our own newest timestamps at growing distances, newest first. */
VD_MUST_CHECK int stor_tail_sample(stor_tail_t *tail, stor_session_t *session, uint64_t *ret,
                                   uint32_t max, uint32_t *ret_count, vd_error_t *err);
