/* veddb-storaged/local/local.h — the collections of the database `local`: made of what the node has
 * anyway, for reading alone.
 *
 * Duty:    says which there are, and reads them: oplog.rs from the journal, system.replset from the
 *          configuration.
 * Owner:   a scan: open/close; between batches it holds no transaction (stor_local_scan_release).
 * Limits:  memory of a scan: one entry of the journal and one document.
 * Threads: any; a scan by one at a time. */
#pragma once
#include "veddb-storaged/request.h"

/* Ids that the catalog never gives. */
#define STOR_LOCAL_OPLOG   UINT64_MAX
#define STOR_LOCAL_REPLSET (UINT64_MAX - 1)

static inline bool stor_local_is(uint64_t collection_id)
{
    return collection_id >= STOR_LOCAL_REPLSET;
}
/* 0: there is none of that name. */
uint64_t stor_local_find(stor_storage_t *storage, vd_slice_t db, vd_slice_t name);

/* Walk: *position = 0 first; false at the end. */
typedef struct {
    uint64_t id;
    const char *name;
    bool capped;
} stor_local_info_t;
bool stor_local_next(stor_storage_t *storage, uint32_t *position, stor_local_info_t *ret_info);
/* size ... of collStats into the open document. */
void stor_local_stats(vd_bb_t *bb, stor_storage_t *storage, uint64_t id, int64_t scale);

/* The set's configuration in MongoDB's form, into the open document; config as storage keeps it. */
void stor_local_config(vd_bb_t *bb, stor_storage_t *storage, vd_bson_t config);

/* ---- reading ---- */
typedef struct stor_local_scan stor_local_scan_t;

stor_local_scan_t *stor_local_scan_open(uint64_t id, bool backward);
/* VD_ERR_NOT_FOUND at the end; VD_ERR_CAPPED_POSITION_LOST: what comes next was dropped meanwhile.
 * The document is valid until the next call. */
VD_MUST_CHECK int stor_local_scan_next(stor_local_scan_t *scan, stor_request_t *request,
                                       vd_bson_t *ret_document, vd_error_t *err);
/* End of a batch. The document last returned stays valid. */
void stor_local_scan_release(stor_local_scan_t *scan);
void stor_local_scan_close(stor_local_scan_t **scan_p);
