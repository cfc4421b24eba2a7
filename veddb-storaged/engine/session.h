/* veddb-storaged/engine/session.h — one worker's access to the engine: a transaction at a time, and
 * cursors on tables.
 *
 * Duty:    WT_SESSION with cached cursors; every call maps WiredTiger's results: WT_ROLLBACK ->
 *          VD_ERR_WRITE_CONFLICT (the transaction must then be rolled back: commit refuses),
 *          WT_NOTFOUND -> VD_ERR_NOT_FOUND, WT_DUPLICATE_KEY -> VD_ERR_DUPLICATE_KEY, WT_CACHE_FULL
 *          and ENOSPC named.
 * Owner:   open/close; a session belongs to one thread at a time (it may move between threads
 *          between calls).
 * Rules:   cursors are reset at commit and rollback (a positioned cursor in an idle session stalls
 *          all writers). Slices returned by a cursor are valid until its next call or the end of
 *          the transaction. */
#pragma once
#include "libcommon/base/arena.h"
#include "veddb-storaged/engine/engine.h"

typedef struct stor_session stor_session_t;
typedef struct stor_cursor stor_cursor_t;

VD_MUST_CHECK int stor_session_open(stor_engine_t *engine, stor_session_t **ret_session,
                                    vd_error_t *err);
/* A session whose cursors all read a named checkpoint (checkpoint.h): whatever is written or
 * dropped since, it reads what was there. It can't write, and lets go of nothing: the files that it
 * may read must be kept (stor_catalog_files_hold), and it is closed before its checkpoint is
 * dropped. */
VD_MUST_CHECK int stor_session_open_checkpoint(stor_engine_t *engine, const char *checkpoint,
                                               stor_session_t **ret_session, vd_error_t *err);
void stor_session_close(stor_session_t **session_p);
stor_engine_t *stor_session_engine(stor_session_t *session);

/* Snapshot isolation. The snapshot is taken at begin. */
VD_MUST_CHECK int stor_txn_begin(stor_session_t *session, vd_error_t *err);
/* Draws the transaction's timestamp (unique, larger than any seen at begin). Only after begin; once
 * per transaction; anew on each retry. The sequencer counts it as in flight until commit or
 * rollback. */
uint64_t stor_txn_timestamp(stor_session_t *session);
/* Instead of a draw: the transaction will commit under a timestamp of another node, which is
 * greater than any seen here. It becomes visible with the commit. One such transaction at a time,
 * and nobody draws. */
void stor_txn_timestamp_given(stor_session_t *session, uint64_t timestamp);
/* Commits unsynced (the flusher makes it durable). VD_ERR_WRITE_CONFLICT when the transaction has
 * failed before. Ends the transaction in every case. */
VD_MUST_CHECK int stor_txn_commit(stor_session_t *session, vd_error_t *err);
void stor_txn_rollback(stor_session_t *session);
/* ended(committed, context) is called once, when the open transaction has ended: what it did can be
 * seen by then, or never will be. Nothing of the session may be used in it. */
void stor_txn_on_end(stor_session_t *session, void (*ended)(bool committed, void *context),
                     void *context);
bool stor_txn_active(const stor_session_t *session);
/* Its timestamp is another node's (stor_txn_timestamp_given). */
bool stor_txn_is_given(const stor_session_t *session);
/* A transaction that stays open is left alone for a while: no cursor keeps a position. */
void stor_txn_rest(stor_session_t *session);
/* The dependency of a read that found nothing: newest commit that this transaction's snapshot may
 * have seen. */
uint64_t stor_txn_snapshot_newest(const stor_session_t *session);

/* All cursor operations, reads too, are inside a transaction. After an error other than
 * VD_ERR_NOT_FOUND and VD_ERR_DUPLICATE_KEY the transaction has failed: every later operation and
 * the commit return VD_ERR_WRITE_CONFLICT. An insert leaves the cursor without a position.
 *
 * A cursor on a table, from the session's cache; valid until the session closes or the table is
 * retired. VD_ERR_NOT_FOUND: no such table. */
VD_MUST_CHECK int stor_cursor_open(stor_session_t *session, const char *table,
                                   stor_cursor_t **ret_cursor, vd_error_t *err);
/* A second, private cursor (two positions on one table at once): put back with stor_cursor_release.
 */
VD_MUST_CHECK int stor_cursor_acquire(stor_session_t *session, const char *table,
                                      stor_cursor_t **ret_cursor, vd_error_t *err);
void stor_cursor_release(stor_cursor_t **cursor_p);
void stor_cursor_reset(stor_cursor_t *cursor);

VD_MUST_CHECK int stor_cursor_search(stor_cursor_t *cursor, vd_slice_t key, vd_slice_t *ret_value,
                                     vd_error_t *err);
/* First record with key >= (forward) or <= (backward) the given one; VD_ERR_NOT_FOUND when none. */
VD_MUST_CHECK int stor_cursor_seek(stor_cursor_t *cursor, vd_slice_t key, bool forward,
                                   vd_slice_t *ret_key, vd_slice_t *ret_value, vd_error_t *err);
/* The record after (before) the present one, or the first (last) when not positioned;
 * VD_ERR_NOT_FOUND at the end. */
VD_MUST_CHECK int stor_cursor_next(stor_cursor_t *cursor, bool forward, vd_slice_t *ret_key,
                                   vd_slice_t *ret_value, vd_error_t *err);
/* A few records from random places (for $sample and statistics). */
VD_MUST_CHECK int stor_cursor_random(stor_session_t *session, const char *table,
                                     int (*visit)(vd_slice_t key, vd_slice_t value, void *context),
                                     void *context, uint32_t count, vd_error_t *err);
/* Writes need an active transaction. The key must be absent: VD_ERR_DUPLICATE_KEY. */
VD_MUST_CHECK int stor_cursor_insert(stor_cursor_t *cursor, vd_slice_t key, vd_slice_t value,
                                     vd_error_t *err);
/* Present or not. */
VD_MUST_CHECK int stor_cursor_put(stor_cursor_t *cursor, vd_slice_t key, vd_slice_t value,
                                  vd_error_t *err);
/* The key must be there: VD_ERR_NOT_FOUND. */
VD_MUST_CHECK int stor_cursor_update(stor_cursor_t *cursor, vd_slice_t key, vd_slice_t value,
                                     vd_error_t *err);
VD_MUST_CHECK int stor_cursor_remove(stor_cursor_t *cursor, vd_slice_t key, vd_error_t *err);

/* ---- bulk: fills an empty table, which nobody else has open, with ascending keys ---- */
/* Outside of transactions and of the log: what is in it can be seen when it is closed, and is on
 * disk behind the next checkpoint. One thread. */
typedef struct stor_bulk stor_bulk_t;
VD_MUST_CHECK int stor_bulk_open(stor_engine_t *engine, const char *table, stor_bulk_t **ret_bulk,
                                 vd_error_t *err);
/* VD_ERR_INVALID: the key does not ascend. */
VD_MUST_CHECK int stor_bulk_add(stor_bulk_t *bulk, vd_slice_t key, vd_slice_t value,
                                vd_error_t *err);
/* Ends it in every case. */
VD_MUST_CHECK int stor_bulk_close(stor_bulk_t **bulk_p, vd_error_t *err);
