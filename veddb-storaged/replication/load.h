/* veddb-storaged/replication/load.h — a snapshot of another node becomes our data.
 *
 * Duty:    BEGIN: role must be recovering; everything that stands here is dropped (durable mark
 *          "load" first: after a crash we know that we are half loaded, and serve nothing); CHUNK:
 *          checksum, then records in order into the new tables, encrypted under our own keys; END:
 *          counters and hashes must be those of the manifest, then the journal begins at the
 *          snapshot's position, set id, term and configuration are taken over and the mark goes.
 *          A cut load of the same snapshot goes on behind the last durable chunk.
 * Errors:  VD_ERR_CORRUPT a chunk's checksum, or sums at the end.
 * Threads: the link's worker. */
#pragma once
#include "veddb-storaged/replication/replication.h"

typedef struct stor_load stor_load_t;

VD_MUST_CHECK int stor_load_begin(stor_storage_t *storage, stor_session_t *session,
                                  const vdp_load_begin_t *begin, vd_bson_t manifest,
                                  vdp_load_state_t *ret_state, vd_buf_t *ret_last_key,
                                  vd_error_t *err);
VD_MUST_CHECK int stor_load_chunk(stor_storage_t *storage, stor_session_t *session,
                                  const vdp_snapshot_chunk_t *chunk, vd_slice_t records,
                                  uint64_t *ret_documents, vd_error_t *err);
VD_MUST_CHECK int stor_load_end(stor_storage_t *storage, stor_session_t *session,
                                const vdp_load_end_t *end, uint64_t *ret_position, vd_error_t *err);
/* At open: a half-made load is there. */
bool stor_load_pending(stor_storage_t *storage, stor_session_t *session);

/* What was journaled here above `to` and is not on the new primary: one BSON file a collection in
 * <data>/recovery/<wall clock>-<term>/, with the entries' last state of each document and a file
 * removed.bson of _ids that were deleted; fsynced. */
VD_MUST_CHECK int stor_rollback_save(stor_storage_t *storage, stor_session_t *session, uint64_t to,
                                     uint64_t *ret_documents, vd_buf_t *ret_folder,
                                     vd_error_t *err);
