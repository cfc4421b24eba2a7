/* veddb-storaged/replication/load.h — a snapshot of another node becomes our data.
 *
 * Duty:    BEGIN: role must be recovering; everything that stands here is dropped (durable mark
 *          "load" first: after a crash we know that we are half loaded, and serve nothing);
 *          CHUNK: checksum, that it follows on what is here, then records in order into the new
 *          tables, encrypted under our own keys, in one transaction with the place to go on from
 *          and the sums so far; END: documents, bytes and hash of each collection must be those
 *          of the manifest, then a checkpoint, the tables become logged, and set id, term,
 *          configuration and position are taken over and the mark goes, in one logged
 *          transaction.
 * Cut:     a load of the same snapshot goes on behind its last chunk; after a crash of this
 *          process behind the last chunk that a checkpoint has (every STOR_LOAD_CHECKPOINT_BYTES,
 *          and the engine's own every 30 s): tables and place are of one checkpoint.
 * Exact:   the copy is the state as of the snapshot's position (snapshot.h): apply goes on with
 *          the entries above it as ever, checking previous versions. There is no catch-up mode
 *          and no row "load_upper". Caller: after stor_load_end the link sets
 *          stor_engine_position_set(engine, *ret_position) and stor_apply_position_set(apply,
 *          *ret_position); the journal and the counters' rows begin at the position already.
 * Rows:    meta "load" {snapshot, position, term, setId, ready, source, floor}; "position". Table
 *          "load" (not logged; it stays, empty of meaning, when the mark has gone): 'p'
 *          {snapshot, collection (-1: all), key}, 's' + id: documents, bytes, hash.
 * Errors:  VD_ERR_CORRUPT a chunk's checksum or order, or sums at the end (the load then begins
 *          anew); VD_ERR_BAD_VALUE a chunk that is not the next, or a role that is not
 *          recovering.
 * Threads: the link's worker; one of its own for checkpoints while chunks come. */
#pragma once
#include "veddb-storaged/replication/replication.h"

/* So often while chunks come; a crash costs at most what came since the last one. */
#define STOR_LOAD_CHECKPOINT_BYTES (128 * 1024 * 1024)

typedef struct stor_load stor_load_t;

typedef struct {
    uint8_t snapshot[16];
    uint64_t position;
    char source[VDP_NODE_NAME_MAX + 1];
} stor_load_known_t;

/* While a load is there: the newest entry that this node had before the first one dropped it. No
 * acknowledgement that it ever gave is of anything above. 0: not known, or it had none. */
uint64_t stor_load_floor(stor_session_t *session);

/* ret_state->snapshot borrows from `begin`. ret_last_key: appended to. */
VD_MUST_CHECK int stor_load_begin(stor_storage_t *storage, stor_session_t *session,
                                  const vdp_load_begin_t *begin, vd_bson_t manifest,
                                  vdp_load_state_t *ret_state, vd_buf_t *ret_last_key,
                                  vd_error_t *err);
/* *ret_documents: of this collection, so far. */
VD_MUST_CHECK int stor_load_chunk(stor_storage_t *storage, stor_session_t *session,
                                  const vdp_snapshot_chunk_t *chunk, vd_slice_t records,
                                  uint64_t *ret_documents, vd_error_t *err);
VD_MUST_CHECK int stor_load_end(stor_storage_t *storage, stor_session_t *session,
                                const vdp_load_end_t *end, uint64_t *ret_position, vd_error_t *err);
/* The copy that a load can go on with, if its tables are made. */
bool stor_load_known(stor_session_t *session, stor_load_known_t *ret_known);
/* At open: a half-made load is there. */
bool stor_load_pending(stor_storage_t *storage, stor_session_t *session);
/* Frees what a load has in memory (at close); what is on disk stays, to go on with. */
void stor_load_forget(stor_load_t **load_p);

/* What was journaled here above `to` and is not on the new primary: one BSON file a collection in
 * <data>/recovery/<UTC time>-term<T>/, with the present state of each document that was touched, a
 * file removed.bson of _ids that were deleted, and journal.bson with the entries' metadata;
 * fsynced.
 *
 * THESE FILES ARE PLAINTEXT. Everything else at rest is encrypted; they are not, on purpose: they
 * are the operator's data, to be looked at with bsondump and put back or thrown away by hand.
 * Folder 0700, files 0600. Remove them when they have been dealt with. */
VD_MUST_CHECK int stor_rollback_save(stor_storage_t *storage, stor_session_t *session, uint64_t to,
                                     uint64_t *ret_documents, vd_buf_t *ret_folder,
                                     vd_error_t *err);
