/* veddb-storaged/query/total.c — sums that do not depend on order more than they must. */
#include "veddb-storaged/query/total.h"

#include "veddb-storaged/query/expr_private.h"

#include <math.h>

/* high + low stays the exact sum as far as two doubles can hold it (Knuth's two-sum). */
static void add_double(stor_total_t *total, double d)
{
    if (!isfinite(d)) {
        total->special += d;
        return;
    }
    double sum = total->high + d;
    double part = sum - total->high;
    total->low += (total->high - (sum - part)) + (d - part);
    total->high = sum;
}

void stor_total_add(stor_total_t *total, vd_value_t v)
{
    switch (v.type) {
    case VD_BSON_INT32:
        total->whole += vd_value_int32(v);
        break;
    case VD_BSON_INT64:
        total->whole += vd_value_int64(v);
        total->has_long = true;
        break;
    case VD_BSON_DOUBLE:
        add_double(total, vd_value_double(v));
        total->has_double = true;
        break;
    case VD_BSON_DECIMAL128:
        total->decimal = total->has_decimal ? vd_decimal_add(total->decimal, vd_value_decimal(v))
                                            : vd_value_decimal(v);
        total->has_decimal = true;
        break;
    default:
        return;
    }
    total->count++;
}

void stor_total_take(stor_total_t *total, vd_value_t v)
{
    if (v.type == VD_BSON_INT32)
        total->whole -= vd_value_int32(v);
    else if (v.type == VD_BSON_INT64)
        total->whole -= vd_value_int64(v);
    else if (v.type == VD_BSON_DOUBLE)
        add_double(total, -vd_value_double(v));
    else if (v.type == VD_BSON_DECIMAL128)
        total->decimal = vd_decimal_sub(total->decimal, vd_value_decimal(v));
    else
        return;
    total->count--;
}

void stor_total_merge(stor_total_t *total, const stor_total_t *other)
{
    total->whole += other->whole;
    add_double(total, other->high);
    add_double(total, other->low);
    total->special += other->special;
    if (other->has_decimal)
        total->decimal =
            total->has_decimal ? vd_decimal_add(total->decimal, other->decimal) : other->decimal;
    total->has_decimal |= other->has_decimal;
    total->has_double |= other->has_double;
    total->has_long |= other->has_long;
    total->count += other->count;
}

static double as_double(const stor_total_t *total)
{
    if (total->special != 0 || isnan(total->special))
        return total->special;
    stor_total_t all = *total;
    double high = (double)all.whole;
    double low = fabs(high) < 0x1p120 ? (double)(all.whole - (__int128)high) : 0;
    add_double(&all, high);
    add_double(&all, low);
    double sum = all.high + all.low;
    return isfinite(sum) ? sum : all.high;
}

static vd_decimal_t whole_as_decimal(__int128 n)
{
    int64_t top = (int64_t)(n / 1000000000000000000), rest = (int64_t)(n % 1000000000000000000);
    vd_decimal_t d = vd_decimal_mul(vd_decimal_from_int64(top),
                                    vd_decimal_from_int64(INT64_C(1000000000000000000)));
    return top == 0 ? vd_decimal_from_int64(rest) : vd_decimal_add(d, vd_decimal_from_int64(rest));
}

static vd_decimal_t as_decimal(const stor_total_t *total)
{
    vd_decimal_t sum = total->decimal;
    if (total->whole != 0)
        sum = vd_decimal_add(sum, whole_as_decimal(total->whole));
    if (total->has_double) {
        if (total->special != 0 || isnan(total->special))
            return vd_decimal_add(sum, vd_decimal_from_double(total->special));
        sum = vd_decimal_add(sum, stor_expr_decimal(total->high));
        sum = vd_decimal_add(sum, stor_expr_decimal(total->low));
    }
    return sum;
}

vd_value_t stor_total_sum(const stor_total_t *total, vd_arena_t *arena)
{
    if (total->has_decimal)
        return vd_value_from_decimal(arena, as_decimal(total));
    if (total->has_double || total->whole > INT64_MAX || total->whole < INT64_MIN)
        return vd_value_from_double(arena, as_double(total));
    if (total->has_long || total->whole > INT32_MAX || total->whole < INT32_MIN)
        return vd_value_from_int64(arena, (int64_t)total->whole);
    return vd_value_from_int32(arena, (int32_t)total->whole);
}

vd_value_t stor_total_average(const stor_total_t *total, vd_arena_t *arena)
{
    if (total->count == 0)
        return vd_value_from_null();
    if (total->has_decimal)
        return vd_value_from_decimal(
            arena, vd_decimal_div(as_decimal(total), vd_decimal_from_int64((int64_t)total->count)));
    return vd_value_from_double(arena, as_double(total) / (double)total->count);
}

void stor_spread_add(stor_spread_t *spread, vd_value_t v)
{
    if (!vd_value_is_number(v))
        return;
    double d = vd_value_as_double(v), delta = d - spread->mean;
    spread->count++;
    spread->mean += delta / (double)spread->count;
    spread->squares += delta * (d - spread->mean);
}

void stor_spread_take(stor_spread_t *spread, vd_value_t v)
{
    if (!vd_value_is_number(v) || spread->count == 0)
        return;
    if (--spread->count == 0) {
        *spread = (stor_spread_t){0};
        return;
    }
    double d = vd_value_as_double(v), old = spread->mean;
    spread->mean = old - (d - old) / (double)spread->count;
    spread->squares -= (d - old) * (d - spread->mean);
    if (spread->squares < 0 || spread->count == 1) /* only rounding can have done that */
        spread->squares = 0;
}

void stor_spread_merge(stor_spread_t *spread, const stor_spread_t *other)
{
    if (other->count == 0)
        return;
    uint64_t count = spread->count + other->count;
    double delta = other->mean - spread->mean, share = (double)other->count / (double)count;
    spread->squares += other->squares + delta * delta * (double)spread->count * share;
    spread->mean += delta * share;
    spread->count = count;
}

vd_value_t stor_spread_deviation(const stor_spread_t *spread, bool sample, vd_arena_t *arena)
{
    uint64_t divisor = spread->count - (sample && spread->count > 0);
    if (divisor == 0)
        return vd_value_from_null();
    return vd_value_from_double(arena, sqrt(spread->squares / (double)divisor));
}
