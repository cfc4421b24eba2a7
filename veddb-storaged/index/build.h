/* veddb-storaged/index/build.h — an index is built while writers go on.
 *
 * Duty:    one scan for all indexes of a command, in stretches of a snapshot each; entries sorted
 *          (sort.h) and written in one go; then what writers logged meanwhile (index_private.h has
 *          the proof), in passes until little is left; the rest behind the fence, where they become
 *          ready.
 * Unique:  while it is built a key may be two documents' for a time. Keys that were ever claimed
 *          twice are remembered, and behind the fence their documents are looked at.
 * Owner:   the command that asks (slow lane, its session); ends with it: an error, a kill or a gone
 *          client gives the build up. Limits: STOR_INDEX_SORT_BYTES in memory for each index,
 *          STOR_INDEX_CONTESTED_MAX keys claimed twice. Threads: one. */
#pragma once
#include "veddb-storaged/index/index.h"

#define STOR_INDEX_SORT_BYTES    (64u << 20)
#define STOR_INDEX_CONTESTED_MAX 100000

/* They are in the set, BUILDING (catalog/indexes.h). On an error they were given up and taken out:
 * VD_ERR_DUPLICATE_KEY with MongoDB's message, VD_ERR_INTERRUPTED, 276 ... */
VD_MUST_CHECK int stor_index_build(stor_request_t *request, uint64_t collection_id,
                                   stor_index_t *const *indexes, uint32_t count, vd_error_t *err);
/* Fills empty tables where nobody writes (a replica that applies, a load, a repair): no log, no
 * fence. */
VD_MUST_CHECK int stor_index_fill_alone(stor_request_t *request,
                                        const stor_collection_t *collection,
                                        stor_index_t *const *indexes, uint32_t count,
                                        vd_error_t *err);
