/* veddb-storaged/replication/apply.h — entries of the primary's journal become ours.
 *
 * Duty:    one transaction a batch: documents with the versions they have there, results of
 *          retryable writes, configuration, and the entries themselves into our journal under the
 *          same timestamps; so a reader sees only whole batches, and the position is the journal's
 *          end. Schema changes stand between transactions: file first, then row and entry. Counters
 *          of collections, auth epoch and the sequencer's points follow the commit.
 *          Idempotent: entries at or below the applied position are stepped over. An entry whose
 *          previous version is not ours is VD_ERR_DIVERGED and nothing of the batch is kept.
 * Threads: the link's. */
#pragma once
#include "veddb-storaged/replication/replication.h"

typedef struct stor_apply stor_apply_t;

VD_MUST_CHECK int stor_apply_create(stor_storage_t *storage, stor_apply_t **ret_apply,
                                    vd_error_t *err);
void stor_apply_destroy(stor_apply_t **apply_p);
VD_MUST_CHECK int stor_apply_batch(stor_apply_t *apply, stor_session_t *session,
                                   const vdp_replication_apply_t *batch, vd_slice_t entries,
                                   uint64_t *ret_applied, vd_error_t *err);
/* Position; after a load it is set by the load. */
uint64_t stor_apply_position(const stor_apply_t *apply);
void stor_apply_position_set(stor_apply_t *apply, uint64_t position);
