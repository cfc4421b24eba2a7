/* veddb-storaged/pipeline/window_sums.h — sums that things can be taken out of again, for windows
 * that move.
 *
 * Owner:   embedded; zero is empty. Pure.
 * Threads: one. */
#pragma once
#include "veddb-storaged/query/total.h"

/* $sum, $avg: kinds of numbers are counted, so that the result has the type that those inside ask
 * for, and what is not finite does not stay behind. */
typedef struct {
    stor_total_t total; /* of the finite ones */
    uint64_t longs, doubles, decimals, numbers, nan, plus, minus;
} stor_moving_sum_t;
void stor_moving_sum_add(stor_moving_sum_t *sum, vd_value_t v);
void stor_moving_sum_take(stor_moving_sum_t *sum, vd_value_t v);
vd_value_t stor_moving_sum_value(const stor_moving_sum_t *sum, vd_arena_t *arena);
vd_value_t stor_moving_sum_average(const stor_moving_sum_t *sum, vd_arena_t *arena);

/* $stdDevPop, $stdDevSamp. */
typedef struct {
    stor_spread_t spread;
    uint64_t wild; /* not finite */
} stor_moving_spread_t;
void stor_moving_spread_add(stor_moving_spread_t *spread, vd_value_t v, bool take);
vd_value_t stor_moving_spread_value(const stor_moving_spread_t *spread, bool sample,
                                    vd_arena_t *arena);

/* $covariancePop, $covarianceSamp: of arrays of two numbers; others are ignored. */
typedef struct {
    uint64_t count, nan, plus, minus, decimals;
    double mean_x, mean_y, sum;
} stor_moving_covariance_t;
void stor_moving_covariance_add(stor_moving_covariance_t *covariance, vd_value_t pair, bool take);
vd_value_t stor_moving_covariance_value(const stor_moving_covariance_t *covariance, bool sample,
                                        vd_arena_t *arena);
