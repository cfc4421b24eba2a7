/* veddb-storaged/replication/pending.c — stands in for what other branches bring (role.c,
 * positions.c, snapshot.c, load.c, rollback.c): to be deleted when they are merged. */
#include "veddb-storaged/replication/load.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/replication/snapshot.h"

static int missing(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "not built in this program");
}

int stor_snapshot_open(stor_snapshots_t *snapshots, stor_session_t *session,
                       vdp_snapshot_opened_t *ret_opened, vd_buf_t *ret_manifest, vd_error_t *err)
{
    (void)snapshots, (void)session, (void)ret_opened, (void)ret_manifest;
    return missing(err);
}

int stor_snapshot_read(stor_snapshots_t *snapshots, stor_session_t *session,
                       const vdp_snapshot_read_t *read, vd_slice_t after, vd_buf_t *out,
                       vdp_snapshot_chunk_t *ret_chunk, vd_error_t *err)
{
    (void)snapshots, (void)session, (void)read, (void)after, (void)out, (void)ret_chunk;
    return missing(err);
}

void stor_snapshot_close(stor_snapshots_t *snapshots, vd_slice_t snapshot)
{
    (void)snapshots, (void)snapshot;
}

stor_snapshots_t *stor_snapshots_create(stor_storage_t *storage)
{
    (void)storage;
    return NULL;
}

void stor_snapshots_destroy(stor_snapshots_t **snapshots_p)
{
    *snapshots_p = NULL;
}

void stor_snapshots_expire(stor_snapshots_t *snapshots)
{
    (void)snapshots;
}

int stor_load_begin(stor_storage_t *storage, stor_session_t *session, const vdp_load_begin_t *begin,
                    vd_bson_t manifest, vdp_load_state_t *ret_state, vd_buf_t *ret_last_key,
                    vd_error_t *err)
{
    (void)storage, (void)session, (void)begin, (void)manifest, (void)ret_state, (void)ret_last_key;
    return missing(err);
}

int stor_load_chunk(stor_storage_t *storage, stor_session_t *session,
                    const vdp_snapshot_chunk_t *chunk, vd_slice_t records, uint64_t *ret_documents,
                    vd_error_t *err)
{
    (void)storage, (void)session, (void)chunk, (void)records, (void)ret_documents;
    return missing(err);
}

int stor_load_end(stor_storage_t *storage, stor_session_t *session, const vdp_load_end_t *end,
                  uint64_t *ret_position, vd_error_t *err)
{
    (void)storage, (void)session, (void)end, (void)ret_position;
    return missing(err);
}

bool stor_load_pending(stor_storage_t *storage, stor_session_t *session)
{
    (void)storage, (void)session;
    return false;
}

int stor_rollback_save(stor_storage_t *storage, stor_session_t *session, uint64_t to,
                       uint64_t *ret_documents, vd_buf_t *ret_folder, vd_error_t *err)
{
    (void)storage, (void)session, (void)to, (void)ret_documents, (void)ret_folder;
    return missing(err);
}
