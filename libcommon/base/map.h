/* libcommon/base/map.h — hash map from bytes to a pointer, with a bounded number of entries.
 *
 * Owner:   create/destroy; keys are copied in, values are the caller's.
 * Limits:  put returns VD_ERR_FULL at entries_max. The hash is seeded per process (SipHash-1-3)
 *          against crafted keys.
 * Threads: one (lock outside). */
#pragma once
#include "libcommon/base/error.h"
#include "libcommon/base/slice.h"

typedef struct vd_map vd_map_t;

vd_map_t *vd_map_create(size_t entries_max);
void vd_map_destroy(vd_map_t **map_p);
size_t vd_map_count(const vd_map_t *map);
/* NULL when absent. */
void *vd_map_get(const vd_map_t *map, vd_slice_t key);
/* Sets or replaces; *ret_old (may be NULL) gets the value before, or NULL. */
VD_MUST_CHECK int vd_map_put(vd_map_t *map, vd_slice_t key, void *value, void **ret_old);
/* The value that was there, or NULL. */
void *vd_map_remove(vd_map_t *map, vd_slice_t key);
/* Walk: set *position = 0 first; false at the end. Removing the entry just returned is allowed;
 * putting is not. */
bool vd_map_next(const vd_map_t *map, size_t *position, vd_slice_t *ret_key, void **ret_value);

static inline vd_slice_t vd_key_u64(const uint64_t *v)
{
    return vd_slice(v, sizeof *v);
}
/* The seeded hash itself, for sharding. */
uint64_t vd_hash(vd_slice_t key);
