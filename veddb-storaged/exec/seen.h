/* veddb-storaged/exec/seen.h — keys of records that were given out already.
 *
 * Owner:   create/destroy; keys are copied.
 * Threads: one.
 * Limits:  VD_QUERY_MEMORY_MAX_BYTES (292 when over). */
#pragma once
#include "libcommon/base/error.h"
#include "libcommon/base/slice.h"

typedef struct stor_seen stor_seen_t;

stor_seen_t *stor_seen_create(void);
void stor_seen_destroy(stor_seen_t **seen_p);
/* *ret_new false: it was there. */
VD_MUST_CHECK int stor_seen_add(stor_seen_t *seen, vd_slice_t key, bool *ret_new, vd_error_t *err);
