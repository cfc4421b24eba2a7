/* veddb-storaged/commands/index_unique.h — may an index become unique?
 *
 * Duty:    one pass over its entries, in stretches of a snapshot: documents that have the same
 *          key. It is prepareUnique: nobody gains such a key meanwhile, so what is not found is
 *          not there.
 * Limits:  STOR_VIOLATIONS_BYTES of _ids in the error.
 * Threads: the worker's. */
#pragma once
#include "veddb-storaged/request.h"

#define STOR_VIOLATIONS_BYTES (8u << 20)

/* VD_ERR_CANNOT_CONVERT_INDEX_TO_UNIQUE with {violations: [{ids: [..]}]}. No share is held. */
VD_MUST_CHECK int stor_index_unique_check(stor_request_t *request, uint64_t collection_id,
                                          uint64_t index_id, vd_error_t *err);
