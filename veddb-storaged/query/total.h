/* veddb-storaged/query/total.h — running totals as $sum, $avg and $stdDev take them: whole numbers
 * exactly, doubles with a second word for what rounding loses, decimals as decimals.
 *
 * Owner:   embedded, zero is empty.
 * Threads: one. */
#pragma once
#include "libcommon/bson/decimal.h"

typedef struct {
    __int128 whole;   /* ints and longs */
    double high, low; /* doubles */
    double special;   /* infinities and NaN */
    vd_decimal_t decimal;
    bool has_decimal, has_double, has_long;
    uint64_t count; /* of numbers */
} stor_total_t;

/* Numbers only; others are ignored. */
void stor_total_add(stor_total_t *total, vd_value_t v);
/* Takes a finite number out again that was added; what kinds of numbers there are is the caller's
 * to know. */
void stor_total_take(stor_total_t *total, vd_value_t v);
/* Adds what another has gathered. */
void stor_total_merge(stor_total_t *total, const stor_total_t *other);
vd_value_t stor_total_sum(const stor_total_t *total, vd_arena_t *arena);
/* null when nothing was added */
vd_value_t stor_total_average(const stor_total_t *total, vd_arena_t *arena);

/* Welford's running variance. */
typedef struct {
    uint64_t count;
    double mean, squares;
} stor_spread_t;
void stor_spread_add(stor_spread_t *spread, vd_value_t v);
/* Takes a number out again. */
void stor_spread_take(stor_spread_t *spread, vd_value_t v);
void stor_spread_merge(stor_spread_t *spread, const stor_spread_t *other);
/* null with fewer than one (population) or two (sample) numbers */
vd_value_t stor_spread_deviation(const stor_spread_t *spread, bool sample, vd_arena_t *arena);
