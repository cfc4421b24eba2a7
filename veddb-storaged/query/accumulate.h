/* veddb-storaged/query/accumulate.h — accumulators of $group: $sum $avg $min $max $first $last
 * $push $addToSet $count $mergeObjects $stdDevPop $stdDevSamp $top(N) $bottom(N) $firstN $lastN
 * $minN $maxN $median $percentile.
 *
 * Owner:   specs in the parse arena; states in an arena of the group's lifetime.
 * Threads: one at a time.
 * Errors:  others are refused by name ("unknown group operator '$x'", Location15952). */
#pragma once
#include "libcommon/base/buf.h"
#include "veddb-storaged/query/expr.h"

typedef struct stor_accumulator stor_accumulator_t;             /* immutable spec */
typedef struct stor_accumulator_state stor_accumulator_state_t; /* one per group */

/* spec: {$sum: expr}. */
VD_MUST_CHECK int stor_accumulator_parse(vd_arena_t *arena, vd_slice_t field, vd_value_t spec,
                                         const stor_variables_t *variables,
                                         stor_accumulator_t **ret_accumulator, vd_error_t *err);
stor_accumulator_state_t *stor_accumulator_begin(const stor_accumulator_t *accumulator,
                                                 vd_arena_t *arena);
/* Evaluates the argument for env's document and adds it; the state copies what it keeps into its
 * own arena. */
VD_MUST_CHECK int stor_accumulator_add(stor_accumulator_state_t *state, stor_expr_env_t *env,
                                       vd_error_t *err);
/* True for an accumulator whose argument is a plain "$a.b": *ret_path gets "a.b". The caller may
 * then look the value up himself and add it. */
bool stor_accumulator_field_path(const stor_accumulator_t *accumulator, vd_slice_t *ret_path);
/* One value more, as if the argument had been evaluated to it. Not for those of {n} and {sortBy}.
 */
VD_MUST_CHECK int stor_accumulator_add_value(stor_accumulator_state_t *state, vd_arena_t *scratch,
                                             vd_value_t v, vd_error_t *err);
VD_MUST_CHECK int stor_accumulator_finish(stor_accumulator_state_t *state, vd_arena_t *arena,
                                          vd_value_t *ret_value, vd_error_t *err);
/* The state as bytes, appended to buf (VD_ERR_FULL when it does not fit). */
VD_MUST_CHECK int stor_accumulator_save(const stor_accumulator_state_t *state, vd_buf_t *buf);
/* Adds a saved state, whose documents came after the state's own; cuts it off the front of *saved.
 */
VD_MUST_CHECK int stor_accumulator_merge(stor_accumulator_state_t *state, vd_slice_t *saved,
                                         vd_arena_t *scratch, vd_error_t *err);
/* Bytes held by the state beyond its arena's fixed part, for the memory budget. */
size_t stor_accumulator_bytes(const stor_accumulator_state_t *state);
