/* veddb-storaged/counts.h — how many of something each user has.
 *
 * Owner:   create/destroy. Threads: any (one lock).
 * Limits:  as many users as have at least one. */
#pragma once
#include "libcommon/base/slice.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct stor_counts stor_counts_t;

stor_counts_t *stor_counts_create(void);
void stor_counts_destroy(stor_counts_t **counts_p);
/* One more; false: there are max already (0: no limit). Each true needs a remove. */
bool stor_counts_add(stor_counts_t *counts, vd_slice_t user, uint64_t max);
void stor_counts_remove(stor_counts_t *counts, vd_slice_t user);
uint64_t stor_counts_get(stor_counts_t *counts, vd_slice_t user);
