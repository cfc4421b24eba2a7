/* veddb-storaged/exec/scan.h — records of a collection in _id order, or in its own: the only user
 * of engine cursors for reading (scan.c stands with it).
 *
 * Duty:    pull iterator over key ranges, forward or backward. When the engine session has no
 *          transaction, the scan begins its own for each stretch and ends it every
 *          STOR_SCAN_STRETCH_MS (or at stor_scan_release), going on behind the last key: so no
 *          snapshot is held for long or between batches. Inside a caller's transaction (write path)
 *          it stays in that snapshot. Counts documents_examined, calls stor_request_check, and
 *          notes what the reply depends on: the newest commit of each stretch's snapshot.
 * Capped:  a natural scan of a capped collection (capped.h) goes in the order of insertion, behind
 *          the last place. When the document that stood there was removed between two stretches it
 *          ends with VD_ERR_CAPPED_POSITION_LOST: who reads must not get holes unknowingly.
 * Owner:   open/close. State that outlives a request (ranges, last key) lives in the arena given at
 *          open: a client cursor gives its own.
 * Threads: the worker that runs the request; between batches any. */
#pragma once
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/plan/bounds.h"
#include "veddb-storaged/request.h"

#define STOR_SCAN_STRETCH_MS 20

typedef struct stor_scan stor_scan_t;

typedef struct {
    uint64_t collection_id;
    const stor_bounds_t *bounds; /* NULL = everything; must live in the same arena */
    bool backward;
    bool natural;        /* bounds NULL: in the collection's own order */
    bool tolerant;       /* the last place may be gone: it is the caller who removes documents */
    uint64_t places_end; /* a natural scan of a capped collection: up to this place; 0 = all */
    vd_slice_t resume_after; /* key of the last record that was consumed; empty = from the start */
} stor_scan_options_t;

VD_MUST_CHECK int stor_scan_open(vd_arena_t *arena, const stor_scan_options_t *options,
                                 stor_scan_t **ret_scan, vd_error_t *err);
/* VD_ERR_NOT_FOUND at the end. The record is valid until the next call on the scan or the end of
 * the transaction. The collection must be held by the request. A collection that is gone:
 * VD_ERR_NOT_FOUND from stor_catalog_acquire_id, before. */
VD_MUST_CHECK int stor_scan_next(stor_scan_t *scan, stor_request_t *request,
                                 stor_record_t *ret_record, vd_error_t *err);
/* End of a batch: gives the engine cursor and the scan's own transaction back. Needs to be called
 * before the handler returns. */
void stor_scan_release(stor_scan_t *scan);
/* Key of the last record consumed, or its place: opaque resume point. Valid until the next call.
 * Empty before the first. */
vd_slice_t stor_scan_position(const stor_scan_t *scan);
/* Release; the memory goes with the arena. */
void stor_scan_close(stor_scan_t **scan_p);

/* One record by key, without a transaction of its own (in the caller's when there is one).
 * VD_ERR_NOT_FOUND: and the reply depends on the newest commit; found: on its version. The record
 * is copied into the request's arena. */
VD_MUST_CHECK int stor_fetch(stor_request_t *request, const stor_collection_t *collection,
                             vd_slice_t key, stor_record_t *ret_record, vd_error_t *err);
