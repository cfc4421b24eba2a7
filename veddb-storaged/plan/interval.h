/* veddb-storaged/plan/interval.h — which values of one path a predicate allows: sorted, disjoint
 * intervals of values and of their keys.
 *
 * Duty:    turns a leaf of a filter into intervals that hold the key of some value on the path of
 *          every document that matches, as an index sees documents (missing as null, one key for
 *          each element, undefined for an empty array). Intervals may be wider than the predicate,
 *          never narrower; `exact` tells that a key inside is enough. Also: and, or, not, and the
 *          text of an interval as explain shows it. Pure.
 * Owner:   arena; borrows the filter's values.
 * Threads: any.
 * Limits:  STOR_BOUNDS_RANGES_MAX intervals. */
#pragma once
#include "libcommon/bson/compare.h"
#include "veddb-storaged/plan/bounds.h"

typedef struct {
    vd_value_t low, high;         /* as explain shows them */
    vd_slice_t low_key, high_key; /* keycodes, ascending; empty: from the start, to the end */
    bool low_exclusive, high_exclusive;
} stor_interval_t;

typedef struct {
    uint32_t count;
    stor_interval_t *items;
    bool exact;   /* a key inside means that the predicate holds */
    bool missing; /* documents without the field may match: they are not in a sparse index */
} stor_intervals_t;

/* Everything; exact. */
void stor_intervals_all(vd_arena_t *arena, stor_intervals_t *ret);
/* *ret_found false: the leaf says nothing about keys. A leaf is what has a path, or NOT of one.
 * collation: the one of the keys; where the operation's is another, strings are not found.
 * multikey: the path may lead through arrays in some document. */
VD_MUST_CHECK int stor_intervals_of_leaf(vd_arena_t *arena, const vd_collation_t *collation,
                                         const stor_filter_t *leaf, bool multikey,
                                         stor_intervals_t *ret, bool *ret_found, vd_error_t *err);
/* The point of one value, as it stands; not exact when its key was cut. */
VD_MUST_CHECK int stor_intervals_point(vd_arena_t *arena, vd_value_t value, stor_intervals_t *ret,
                                       vd_error_t *err);
void stor_intervals_and(vd_arena_t *arena, const stor_intervals_t *a, const stor_intervals_t *b,
                        stor_intervals_t *ret);
void stor_intervals_or(vd_arena_t *arena, const stor_intervals_t *a, const stor_intervals_t *b,
                       stor_intervals_t *ret);
void stor_intervals_not(vd_arena_t *arena, const stor_intervals_t *a, stor_intervals_t *ret);
bool stor_interval_is_point(const stor_interval_t *interval);
bool stor_intervals_are_points(const stor_intervals_t *intervals);
bool stor_intervals_are_all(const stor_intervals_t *intervals);
/* Every interval of a lies in one of b. */
bool stor_intervals_within(const stor_intervals_t *a, const stor_intervals_t *b);
/* "[5, inf.0]"; collated: strings show as their sort keys; turned: as a scan meets it from its far
 * end. */
const char *stor_interval_text(vd_arena_t *arena, const stor_interval_t *interval, bool collated,
                               bool turned);
