/* veddb-storaged/replication/snapshot.h — a consistent copy of everything, read out in chunks.
 *
 * Duty:    OPEN: takes a named checkpoint between two transactions of the catalog and notes the
 *          visible point before it (entries at or below are in it; those above may be, too: apply
 *          is idempotent by version for these, see load.h) and lists the collections; READ: the
 * next 1 MB of sorted records of one; CLOSE: drops the checkpoint. One that nobody reads for 5
 * minutes is closed. Limits:  STOR_SNAPSHOTS_MAX at once. Threads: open, read, close: the link's
 * worker. */
#pragma once
#include "veddb-storaged/replication/replication.h"

#define STOR_SNAPSHOTS_MAX        4
#define STOR_SNAPSHOT_CHUNK_BYTES (1024 * 1024)

typedef struct stor_snapshots stor_snapshots_t;

stor_snapshots_t *stor_snapshots_create(stor_storage_t *storage);
void stor_snapshots_destroy(stor_snapshots_t **snapshots_p);
VD_MUST_CHECK int stor_snapshot_open(stor_snapshots_t *snapshots, stor_session_t *session,
                                     vdp_snapshot_opened_t *ret_opened, vd_buf_t *ret_manifest,
                                     vd_error_t *err);
VD_MUST_CHECK int stor_snapshot_read(stor_snapshots_t *snapshots, stor_session_t *session,
                                     const vdp_snapshot_read_t *read, vd_slice_t after,
                                     vd_buf_t *out, vdp_snapshot_chunk_t *ret_chunk,
                                     vd_error_t *err);
void stor_snapshot_close(stor_snapshots_t *snapshots, vd_slice_t snapshot);
/* From the keeper: closes those that were forgotten. */
void stor_snapshots_expire(stor_snapshots_t *snapshots);
