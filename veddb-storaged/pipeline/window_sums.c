/* veddb-storaged/pipeline/window_sums.c — see window_sums.h. */
#include "veddb-storaged/pipeline/window_sums.h"

#include <math.h>

/* ---- sums ---- */

static void count_kind(stor_moving_sum_t *sum, vd_value_t v, uint64_t one)
{
    sum->numbers += one;
    if (v.type == VD_BSON_INT64)
        sum->longs += one;
    else if (v.type == VD_BSON_DOUBLE)
        sum->doubles += one;
    else if (v.type == VD_BSON_DECIMAL128)
        sum->decimals += one;
}

/* Counts what has no finite value. */
static bool count_wild(stor_moving_sum_t *sum, vd_value_t v, uint64_t one)
{
    if (v.type != VD_BSON_DOUBLE && v.type != VD_BSON_DECIMAL128)
        return false;
    double d = vd_value_as_double(v);
    bool decimal = v.type == VD_BSON_DECIMAL128;
    if (isnan(d))
        sum->nan += one;
    else if (decimal ? !vd_decimal_is_infinite(vd_value_decimal(v)) : isfinite(d))
        return false;
    else if (d > 0)
        sum->plus += one;
    else
        sum->minus += one;
    return true;
}

void stor_moving_sum_add(stor_moving_sum_t *sum, vd_value_t v)
{
    if (!vd_value_is_number(v))
        return;
    count_kind(sum, v, 1);
    if (!count_wild(sum, v, 1))
        stor_total_add(&sum->total, v);
}

void stor_moving_sum_take(stor_moving_sum_t *sum, vd_value_t v)
{
    if (!vd_value_is_number(v))
        return;
    count_kind(sum, v, UINT64_MAX);
    if (!count_wild(sum, v, UINT64_MAX))
        stor_total_take(&sum->total, v);
    if (sum->doubles == 0) /* what rounding has left goes with the last one */
        sum->total.high = sum->total.low = 0;
    sum->total.has_decimal = sum->decimals > 0;
}

static bool wild_value(const stor_moving_sum_t *sum, vd_arena_t *arena, vd_value_t *ret)
{
    if (sum->nan == 0 && sum->plus == 0 && sum->minus == 0)
        return false;
    bool nan = sum->nan > 0 || (sum->plus > 0 && sum->minus > 0);
    if (sum->decimals > 0)
        *ret = vd_value_from_decimal(arena,
                                     nan ? vd_decimal_nan() : vd_decimal_infinity(sum->minus > 0));
    else
        *ret = vd_value_from_double(arena, nan              ? (double)NAN
                                           : sum->minus > 0 ? -(double)INFINITY
                                                            : (double)INFINITY);
    return true;
}

static stor_total_t total_of(const stor_moving_sum_t *sum)
{
    stor_total_t total = sum->total;
    total.has_long = sum->longs > 0;
    total.has_double = sum->doubles > 0;
    total.has_decimal = sum->decimals > 0;
    total.count = sum->numbers;
    return total;
}

vd_value_t stor_moving_sum_value(const stor_moving_sum_t *sum, vd_arena_t *arena)
{
    vd_value_t wild;
    stor_total_t total = total_of(sum);
    return wild_value(sum, arena, &wild) ? wild : stor_total_sum(&total, arena);
}

vd_value_t stor_moving_sum_average(const stor_moving_sum_t *sum, vd_arena_t *arena)
{
    vd_value_t wild;
    stor_total_t total = total_of(sum);
    return wild_value(sum, arena, &wild) ? wild : stor_total_average(&total, arena);
}

/* ---- deviations ---- */

void stor_moving_spread_add(stor_moving_spread_t *spread, vd_value_t v, bool take)
{
    if (!vd_value_is_number(v))
        return;
    if (!isfinite(vd_value_as_double(v)))
        spread->wild += take ? UINT64_MAX : 1;
    else if (take)
        stor_spread_take(&spread->spread, v);
    else
        stor_spread_add(&spread->spread, v);
}

vd_value_t stor_moving_spread_value(const stor_moving_spread_t *spread, bool sample,
                                    vd_arena_t *arena)
{
    return spread->wild > 0 ? vd_value_from_null()
                            : stor_spread_deviation(&spread->spread, sample, arena);
}

/* ---- covariance ---- */

static bool read_pair(vd_value_t pair, double ret[2], bool *ret_decimal)
{
    vd_bson_iter_t iter;
    uint32_t n = 0;
    *ret_decimal = false;
    if (pair.type != VD_BSON_ARRAY)
        return false;
    vd_bson_iter_init(&iter, vd_value_document(pair));
    for (; vd_bson_iter_next(&iter); n++) {
        if (n == 2 || !vd_value_is_number(iter.value))
            return false;
        ret[n] = vd_value_as_double(iter.value);
        *ret_decimal |= iter.value.type == VD_BSON_DECIMAL128;
    }
    return n == 2;
}

static void count_pair(stor_moving_covariance_t *c, const double xy[2], uint64_t one)
{
    bool plus = false, minus = false;
    for (int i = 0; i < 2; i++) {
        plus |= isinf(xy[i]) && xy[i] > 0;
        minus |= isinf(xy[i]) && xy[i] < 0;
    }
    if (isnan(xy[0]) || isnan(xy[1]) || (plus && minus))
        c->nan += one;
    else if (plus)
        c->plus += one;
    else
        c->minus += one;
}

static void covariance_take(stor_moving_covariance_t *c, const double xy[2])
{
    if (c->count <= 1) {
        c->count = 0;
        c->mean_x = c->mean_y = c->sum = 0;
        return;
    }
    double count = (double)c->count;
    c->mean_x = (c->mean_x * count - xy[0]) / (count - 1);
    c->sum -= (xy[0] - c->mean_x) * (xy[1] - c->mean_y);
    c->mean_y = (c->mean_y * count - xy[1]) / (count - 1);
    c->count--;
}

void stor_moving_covariance_add(stor_moving_covariance_t *covariance, vd_value_t pair, bool take)
{
    double xy[2];
    bool decimal;
    if (!read_pair(pair, xy, &decimal))
        return;
    uint64_t one = take ? UINT64_MAX : 1;
    if (decimal)
        covariance->decimals += one;
    if (!isfinite(xy[0]) || !isfinite(xy[1])) {
        count_pair(covariance, xy, one);
        return;
    }
    if (take) {
        covariance_take(covariance, xy);
        return;
    }
    double count = (double)++covariance->count, dx = xy[0] - covariance->mean_x;
    covariance->mean_x += dx / count;
    covariance->mean_y += (xy[1] - covariance->mean_y) / count;
    covariance->sum += dx * (xy[1] - covariance->mean_y);
}

vd_value_t stor_moving_covariance_value(const stor_moving_covariance_t *covariance, bool sample,
                                        vd_arena_t *arena)
{
    const stor_moving_covariance_t *c = covariance;
    if (c->count == 1 && !sample)
        return vd_value_from_double(arena, 0);
    if (c->count < (sample ? 2 : 1))
        return vd_value_from_null();
    double d = c->sum / (double)(c->count - sample);
    if (c->nan > 0 || (c->plus > 0 && c->minus > 0))
        d = (double)NAN;
    else if (c->plus > 0 || c->minus > 0)
        d = c->plus > 0 ? (double)INFINITY : -(double)INFINITY;
    return c->decimals > 0 ? vd_value_from_decimal(arena, vd_decimal_from_double(d))
                           : vd_value_from_double(arena, d);
}
