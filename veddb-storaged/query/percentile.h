/* veddb-storaged/query/percentile.h — $median and $percentile: their arguments, and the result over
 * the numbers that were gathered.
 *
 * Duty:    method 'approximate' only, as MongoDB 7.0 has it; the answer is the exact discrete
 *          percentile, which is within what the approximation promises.
 * Owner:   the parse arena. Pure.
 * Threads: immutable after parse. */
#pragma once
#include "veddb-storaged/query/expr.h"

typedef struct {
    bool median; /* one value, no array */
    uint32_t count;
    const double *p; /* each 0..1 */
} stor_percentile_t;

/* spec: {input, method, p (not of $median)}. expression: the codes of the form without a group. */
VD_MUST_CHECK int stor_percentile_parse(vd_arena_t *arena, bool median, bool expression,
                                        vd_value_t spec, const stor_variables_t *variables,
                                        stor_percentile_t *ret_percentile, stor_expr_t **ret_input,
                                        vd_error_t *err);
/* Arguments besides the input, from an object that was taken apart by the caller. */
VD_MUST_CHECK int stor_percentile_arguments(vd_arena_t *arena, bool median, bool expression,
                                            vd_value_t spec, const stor_variables_t *variables,
                                            stor_percentile_t *ret_percentile,
                                            vd_value_t *ret_input, vd_error_t *err);
/* Orders the numbers in place; none is NaN. null, or an array of nulls, when there are none. */
VD_MUST_CHECK int stor_percentile_of(const stor_percentile_t *percentile, double *numbers,
                                     uint32_t count, vd_arena_t *arena, vd_value_t *ret_value,
                                     vd_error_t *err);
