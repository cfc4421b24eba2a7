/* veddb-storaged/plan/bounds.h — key ranges of _id that a filter allows (bounds.c stands with it).
 *
 * Duty:    from equalities, $in, $gt/$gte/$lt/$lte on _id at top level or under $and
 *          (type-bracketed as MongoDB compares): sorted, disjoint ranges of table keys. The ranges
 *          may be wider than the filter, never narrower: the filter is always run on what comes.
 *          Pure.
 * Owner:   arena. */
#pragma once
#include "veddb-storaged/query/filter.h"

#define STOR_BOUNDS_RANGES_MAX 100000

typedef struct {
    vd_slice_t low, high; /* table keys; high is empty for "to the end" */
    bool low_exclusive, high_exclusive;
    bool point; /* low == high, inclusive: at most one record */
} stor_range_t;

typedef struct {
    uint32_t count;
    stor_range_t *ranges;
    bool all_points; /* only single keys (count 0: nothing can match) */
} stor_bounds_t;

/* The same for a time-series collection (timeseries.h), whose records stand in the order of the
 * date at this top-level path: ranges of their places. */
VD_MUST_CHECK int stor_bounds_of_times(vd_arena_t *arena, const stor_filter_t *filter,
                                       vd_slice_t path, stor_bounds_t **ret_bounds,
                                       vd_error_t *err);
/* *ret_bounds NULL when the filter says nothing about _id. */
VD_MUST_CHECK int stor_bounds_of_filter(vd_arena_t *arena, const stor_filter_t *filter,
                                        stor_bounds_t **ret_bounds, vd_error_t *err);
