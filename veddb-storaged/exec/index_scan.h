/* veddb-storaged/exec/index_scan.h — entries of an index in key order: scan.h's twin for indexes.
 *
 * Duty:    pull iterator over ranges of entry keys (plan/bounds.h's stor_bounds_t: ranges are of
 *          the fields' keycodes; the _id behind them is inside the range when its fields are),
 *          forward or backward. Stretches, snapshots, push back, release, dependencies: as
 *          scan.h. In one stretch the entries and the documents fetched by stor_index_scan_fetch
 *          come from one snapshot. Goes on behind the last entry key after a release. Gone:
 *          VD_ERR_QUERY_PLAN_KILLED when the index was dropped or the collection's set of indexes
 *          no longer has it: the caller plans again or fails as MongoDB does (175). Owner,
 *          threads: as scan.h. */
#pragma once
#include "veddb-storaged/exec/scan.h"
#include "veddb-storaged/index/index.h"

typedef struct stor_index_scan stor_index_scan_t;

typedef struct {
    uint64_t collection_id, index_id;
    const stor_bounds_t *bounds; /* NULL = everything */
    bool backward;
    vd_slice_t resume_after; /* key of the last entry consumed; empty = from the start */
} stor_index_scan_options_t;

VD_MUST_CHECK int stor_index_scan_open(vd_arena_t *arena, const stor_index_scan_options_t *options,
                                       stor_index_scan_t **ret_scan, vd_error_t *err);
/* VD_ERR_NOT_FOUND at the end. Counts keys_examined. The entry is valid until the next call. */
VD_MUST_CHECK int stor_index_scan_next(stor_index_scan_t *scan, stor_request_t *request,
                                       stor_index_entry_t *ret_entry, vd_error_t *err);
/* The document of the entry last given, in the same snapshot. VD_ERR_NOT_FOUND never happens on a
 * sound index: VD_ERR_CORRUPT then. Valid until the next call on the scan. */
VD_MUST_CHECK int stor_index_scan_fetch(stor_index_scan_t *scan, stor_request_t *request,
                                        stor_record_t *ret_record, vd_error_t *err);
/* On to the first entry whose key is at or behind `fields` in scan order (skips over a gap in a
 * compound bound). */
VD_MUST_CHECK int stor_index_scan_seek(stor_index_scan_t *scan, vd_slice_t fields, vd_error_t *err);
void stor_index_scan_push_back(stor_index_scan_t *scan);
void stor_index_scan_release(stor_index_scan_t *scan);
vd_slice_t stor_index_scan_position(const stor_index_scan_t *scan);
void stor_index_scan_close(stor_index_scan_t **scan_p);
