/* veddb-storaged/replication/snapshot.h — a consistent copy of everything, read out in chunks.
 *
 * Duty:    OPEN: takes a named checkpoint while writers go on and makes of it, with an overlay of
 *          what it lacks (overlay.h has the proof), the state as of exactly one journal position:
 *          every entry at or below is in the copy, none above. So the receiver goes on with the
 *          entries above the position, and their previous versions fit; there is no catch-up
 *          mode. READ: the next 1 MB of sorted records of one collection, behind a key or behind
 *          the chunk before; CLOSE: the copy is done with. The manifest (manifest.h) says what
 *          must come out, from the counters kept with the writes. Costs: no transaction is held,
 *          and no cache pinned. While a copy stands, files grow by what is changed, dropped files
 *          stay, and the journal is kept above its position. So one that nobody reads for 5
 *          minutes (so long may a receiver be away and go on with it) ends, and all end when the
 *          disk is nearly full.
 * Limits:  STOR_SNAPSHOTS_MAX at once. Copies do not outlive the process: checkpoints of an
 *          earlier start are dropped by create.
 * Errors:  VD_ERR_SNAPSHOT_UNAVAILABLE: there is no such copy (any more).
 * Threads: any; open and read block (the link's worker). */
#pragma once
#include "veddb-storaged/replication/replication.h"

#define STOR_SNAPSHOTS_MAX        4
#define STOR_SNAPSHOT_CHUNK_BYTES (1024 * 1024)
#define STOR_SNAPSHOT_IDLE_MAX_MS (5 * 60 * 1000)

typedef struct stor_snapshots stor_snapshots_t;

stor_snapshots_t *stor_snapshots_create(stor_storage_t *storage);
/* Before the engine is closed. */
void stor_snapshots_destroy(stor_snapshots_t **snapshots_p);
/* ret_manifest must take STOR_MANIFEST_MAX. ret_opened->snapshot is valid until the copy ends. */
VD_MUST_CHECK int stor_snapshot_open(stor_snapshots_t *snapshots, stor_session_t *session,
                                     vdp_snapshot_opened_t *ret_opened, vd_buf_t *ret_manifest,
                                     vd_error_t *err);
/* One that is open already, for a receiver that has started again: the same manifest. */
VD_MUST_CHECK int stor_snapshot_reopen(stor_snapshots_t *snapshots, vd_slice_t snapshot,
                                       vdp_snapshot_opened_t *ret_opened, vd_buf_t *ret_manifest,
                                       vd_error_t *err);
/* Appends to `out`, which must take VDP_CHUNK_MAX. ret_chunk's slices are valid until the next call
 * for this copy. The session is not used: a copy has its own. */
VD_MUST_CHECK int stor_snapshot_read(stor_snapshots_t *snapshots, stor_session_t *session,
                                     const vdp_snapshot_read_t *read, vd_slice_t after,
                                     vd_buf_t *out, vdp_snapshot_chunk_t *ret_chunk,
                                     vd_error_t *err);
/* Not found: nothing. Its checkpoint is dropped by the next expire or open. */
void stor_snapshot_close(stor_snapshots_t *snapshots, vd_slice_t snapshot);
/* From the keeper: ends those that were forgotten, drops checkpoints of those that have ended. */
void stor_snapshots_expire(stor_snapshots_t *snapshots);
/* Lowest position of a copy that is being read: the journal above is needed; UINT64_MAX = none. */
uint64_t stor_snapshots_keep_above(stor_snapshots_t *snapshots);
/* Ends all (this node is about to drop its data). */
void stor_snapshots_close_all(stor_snapshots_t *snapshots);
