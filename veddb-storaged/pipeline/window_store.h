/* veddb-storaged/pipeline/window_store.h — documents by position: appended at the end, dropped at
 * the front, read anywhere between; in memory as long as they fit, then on disk.
 *
 * Owner:   create/destroy. work outlives it.
 * Threads: one. */
#pragma once
#include "veddb-storaged/exec/spill.h"
#include "veddb-storaged/pipeline/pipeline.h"

typedef struct stor_store stor_store_t;

stor_store_t *stor_store_create(stor_work_t *work);
void stor_store_destroy(stor_store_t **store_p);
/* Empty again; positions start at 0. */
void stor_store_reset(stor_store_t *store);
VD_MUST_CHECK int stor_store_append(stor_store_t *store, stor_request_t *request,
                                    vd_bson_t document, vd_error_t *err);
/* The document at a position that was appended and not dropped. Valid until the next call. */
VD_MUST_CHECK int stor_store_get(stor_store_t *store, uint64_t position, vd_bson_t *ret_document,
                                 vd_error_t *err);
/* Documents before the position are not asked for any more. */
void stor_store_drop_before(stor_store_t *store, uint64_t position);
uint64_t stor_store_count(const stor_store_t *store);         /* appended */
stor_spilled_t stor_store_spilled(const stor_store_t *store); /* to disk, since create */
