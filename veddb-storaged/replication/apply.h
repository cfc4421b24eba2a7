/* veddb-storaged/replication/apply.h — entries of the primary's journal become ours.
 *
 * Duty:    one transaction for up to STOR_APPLY_ENTRIES_MAX entries: documents with the versions
 *          they have there, results of retryable writes, configuration, and the entries themselves
 *          into our journal under the same timestamps; so a reader sees only consistent points, and
 *          the position is the journal's end. Schema changes stand between transactions: file
 *          first, then row and entry. Counters of collections, auth epoch and the sequencer's
 *          points follow the commit. Idempotent: entries at or below the applied position are
 *          stepped over, if our journal has them. The parts of one timestamp are applied together,
 *          also when they come with several batches.
 * Errors:  VD_ERR_DIVERGED: an entry's previous version, size or hash is not ours, or one that we
 *          should have is not here: nothing of its transaction is kept; what came before it is.
 *          VD_ERR_BAD_VALUE: entries are missing before the batch, or we are primary.
 *          VD_ERR_STALE_TERM. VD_ERR_CORRUPT. May be asked again: VD_ERR_OUT_OF_DISK_SPACE;
 *          VD_ERR_LOCK_TIMEOUT (a reader kept a collection that is to be changed).
 * Limits:  parts that wait for more of their timestamp: STOR_APPLY_PENDING_MAX bytes.
 * Threads: batch: one (the link's worker). The rest: any. */
#pragma once
#include "veddb-storaged/replication/replication.h"

#define STOR_APPLY_ENTRIES_MAX 1000
#define STOR_APPLY_BYTES_MAX   (4 * 1024 * 1024)
#define STOR_APPLY_PENDING_MAX (256u * 1024 * 1024)

typedef struct stor_apply stor_apply_t;
struct vd_daemon_slot;

VD_MUST_CHECK int stor_apply_create(stor_storage_t *storage, stor_apply_t **ret_apply,
                                    vd_error_t *err);
void stor_apply_destroy(stor_apply_t **apply_p);
/* The worker's sign of life: stamped between transactions, and while a reader is waited for. */
void stor_apply_slot_set(stor_apply_t *apply, struct vd_daemon_slot *slot);
struct vd_daemon_slot *stor_apply_slot(const stor_apply_t *apply);
/* *ret_applied: the position after it. VD_OK with less than batch->last: what follows is younger
 * than batch->delay_ms, the same batch is to be given again later (stor_apply_due_ms). */
VD_MUST_CHECK int stor_apply_batch(stor_apply_t *apply, stor_session_t *session,
                                   const vdp_replication_apply_t *batch, vd_slice_t entries,
                                   uint64_t *ret_applied, vd_error_t *err);
/* Wall clock at which the entry that stopped the last batch is old enough, or is to be tried again.
 */
int64_t stor_apply_due_ms(const stor_apply_t *apply);
/* The last batch was stopped by the end of an index build that is not ready here: the same batch is
 * to be given again, also when it is partial. Other jobs may come between. */
bool stor_apply_waits(const stor_apply_t *apply);
/* Position; after a load it is set by the load. */
uint64_t stor_apply_position(const stor_apply_t *apply);
void stor_apply_position_set(stor_apply_t *apply, uint64_t position);
