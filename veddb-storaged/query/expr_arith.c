/* veddb-storaged/query/expr_arith.c — numbers: $add ... $pow, rounding, roots, bits. Results have
 * the widest type of the operands; int becomes long and long becomes double where they overflow. */
#include "veddb-storaged/query/expr_private.h"

#include <math.h>
#include <stdio.h>

vd_decimal_t stor_expr_decimal(double d)
{
    char text[64], *exponent;
    if (!isfinite(d) || d == 0)
        return vd_decimal_from_double(d);
    snprintf(text, sizeof text, "%.33e", d);
    exponent = strchr(text, 'e');
    VD_ASSERT(exponent != NULL);
    char *last = exponent;
    while (last[-1] == '0' && last[-2] != '.')
        last--;
    memmove(last, exponent, strlen(exponent) + 1);
    vd_decimal_t decimal;
    bool good = vd_decimal_from_string(vd_slice_str(text), &decimal);
    VD_ASSERT(good);
    return decimal;
}

static uint8_t wider(uint8_t a, uint8_t b)
{
    if (a == VD_BSON_DECIMAL128 || b == VD_BSON_DECIMAL128)
        return VD_BSON_DECIMAL128;
    if (a == VD_BSON_DOUBLE || b == VD_BSON_DOUBLE)
        return VD_BSON_DOUBLE;
    return a == VD_BSON_INT64 || b == VD_BSON_INT64 ? VD_BSON_INT64 : VD_BSON_INT32;
}

static int64_t as_long(vd_value_t v)
{
    return v.type == VD_BSON_INT32 ? vd_value_int32(v) : vd_value_int64(v);
}

static vd_value_t int_result(vd_arena_t *arena, uint8_t type, int64_t v)
{
    return type == VD_BSON_INT64 ? vd_value_from_int64(arena, v) : stor_expr_int_or_long(arena, v);
}

/* Truncates a double towards zero into a long, cut at the ends; NaN is 0. */
static int64_t double_to_long(double d)
{
    if (isnan(d))
        return 0;
    if (d >= 0x1p63)
        return INT64_MAX;
    return d < -0x1p63 ? INT64_MIN : (int64_t)d;
}

static int64_t decimal_to_long(vd_decimal_t d)
{
    int64_t v;
    if (vd_decimal_to_int64(vd_decimal_round(d, 0, VD_DECIMAL_HALF_EVEN), &v))
        return v;
    return vd_decimal_is_nan(d) ? 0 : vd_decimal_is_negative(d) ? INT64_MIN : INT64_MAX;
}

/* Evaluates two operands; *ret_null when either is nullish. */
static int two(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t v[2], bool *ret_null,
               vd_error_t *err)
{
    int rc = stor_expr_arg(expr, 0, env, &v[0], err);
    if (rc == VD_OK)
        rc = stor_expr_arg(expr, 1, env, &v[1], err);
    if (rc == VD_OK)
        *ret_null = vd_value_is_nullish(v[0]) || vd_value_is_nullish(v[1]);
    return rc;
}

/* ---- $add ---- */

typedef struct {
    int64_t sum_long;
    double sum_double;
    vd_decimal_t sum_decimal;
    uint8_t type;
    bool date;
} sum_t;

static void sum_widen(sum_t *sum, uint8_t type)
{
    uint8_t old = sum->type;
    sum->type = wider(old, type);
    if (sum->type == old)
        return;
    if (sum->type == VD_BSON_DOUBLE)
        sum->sum_double = (double)sum->sum_long;
    else if (sum->type == VD_BSON_DECIMAL128)
        sum->sum_decimal = old == VD_BSON_DOUBLE ? stor_expr_decimal(sum->sum_double)
                                                 : vd_decimal_from_int64(sum->sum_long);
}

static int sum_add(sum_t *sum, vd_value_t v, vd_error_t *err)
{
    bool date = v.type == VD_BSON_DATE;
    if (!date && !vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "$add only supports numeric or date types, not %s", stor_expr_type(v));
    if (date && sum->date)
        return vd_error_set(err, VD_ERR_LOCATION(16612),
                            "only one date allowed in an $add expression");
    sum->date |= date;
    if (!date)
        sum_widen(sum, v.type);
    if (sum->type == VD_BSON_DECIMAL128) {
        sum->sum_decimal =
            vd_decimal_add(sum->sum_decimal, date ? vd_decimal_from_int64(vd_value_int64(v))
                                                  : vd_value_as_decimal(v));
    } else if (sum->type == VD_BSON_DOUBLE) {
        sum->sum_double += date ? (double)vd_value_int64(v) : vd_value_as_double(v);
    } else {
        int64_t n = as_long(v), total;
        if (!__builtin_add_overflow(sum->sum_long, n, &total)) {
            sum->sum_long = total;
        } else {
            sum->type = VD_BSON_DOUBLE;
            sum->sum_double = (double)sum->sum_long + (double)n;
        }
    }
    return VD_OK;
}

static int sum_result(const sum_t *sum, vd_arena_t *arena, vd_value_t *ret, vd_error_t *err)
{
    if (sum->date) {
        int64_t ms = sum->sum_long;
        if (sum->type == VD_BSON_DOUBLE) {
            if (!(sum->sum_double >= -0x1p63 && sum->sum_double < 0x1p63))
                return vd_error_set(err, VD_ERR_OVERFLOW, "date overflow in $add");
            ms = llround(sum->sum_double);
        } else if (sum->type == VD_BSON_DECIMAL128) {
            ms = decimal_to_long(sum->sum_decimal);
        }
        *ret = vd_value_from_date(arena, ms);
    } else if (sum->type == VD_BSON_DECIMAL128) {
        *ret = vd_value_from_decimal(arena, sum->sum_decimal);
    } else if (sum->type == VD_BSON_DOUBLE) {
        *ret = vd_value_from_double(arena, sum->sum_double);
    } else {
        *ret = int_result(arena, sum->type, sum->sum_long);
    }
    return VD_OK;
}

static int eval_add(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    sum_t sum = {.type = VD_BSON_INT32};
    for (uint32_t i = 0; i < expr->count; i++) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc == VD_OK && vd_value_is_nullish(v)) {
            stor_expr_set_null(ret);
            return VD_OK;
        }
        if (rc == VD_OK)
            rc = sum_add(&sum, v, err);
        if (rc != VD_OK)
            return rc;
    }
    return sum_result(&sum, env->arena, ret, err);
}

/* ---- $subtract, $multiply ---- */

static int subtract_dates(stor_expr_env_t *env, vd_value_t a, vd_value_t b, vd_value_t *ret,
                          vd_error_t *err)
{
    int64_t ms = vd_value_int64(a), n, result;
    if (b.type == VD_BSON_DATE) {
        if (__builtin_sub_overflow(ms, vd_value_int64(b), &result))
            return vd_error_set(err, VD_ERR_OVERFLOW, "date overflow in $subtract");
        *ret = vd_value_from_int64(env->arena, result);
        return VD_OK;
    }
    if (!vd_value_is_number(b))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "can't $subtract %s from Date",
                            stor_expr_type(b));
    if (b.type == VD_BSON_DOUBLE)
        n = double_to_long(vd_value_double(b));
    else
        n = b.type == VD_BSON_DECIMAL128 ? decimal_to_long(vd_value_decimal(b)) : as_long(b);
    if (__builtin_sub_overflow(ms, n, &result))
        return vd_error_set(err, VD_ERR_OVERFLOW, "date overflow in $subtract");
    *ret = vd_value_from_date(env->arena, result);
    return VD_OK;
}

static int eval_subtract(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                         vd_error_t *err)
{
    vd_value_t v[2];
    bool null;
    int rc = two(expr, env, v, &null, err);
    if (rc != VD_OK)
        return rc;
    if (null) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (v[0].type == VD_BSON_DATE)
        return subtract_dates(env, v[0], v[1], ret, err);
    if (!vd_value_is_number(v[0]) || !vd_value_is_number(v[1]))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "can't $subtract %s from %s",
                            stor_expr_type(v[1]), stor_expr_type(v[0]));
    uint8_t type = wider(v[0].type, v[1].type);
    if (type == VD_BSON_DECIMAL128) {
        *ret = vd_value_from_decimal(
            env->arena, vd_decimal_sub(vd_value_as_decimal(v[0]), vd_value_as_decimal(v[1])));
    } else if (type == VD_BSON_DOUBLE) {
        *ret =
            vd_value_from_double(env->arena, vd_value_as_double(v[0]) - vd_value_as_double(v[1]));
    } else {
        int64_t result;
        if (__builtin_sub_overflow(as_long(v[0]), as_long(v[1]), &result))
            *ret = vd_value_from_double(env->arena, (double)as_long(v[0]) - (double)as_long(v[1]));
        else
            *ret = int_result(env->arena, type, result);
    }
    return VD_OK;
}

static int eval_multiply(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                         vd_error_t *err)
{
    uint8_t type = VD_BSON_INT32;
    int64_t product_long = 1;
    double product_double = 1;
    vd_decimal_t product_decimal = vd_decimal_from_int64(1);
    for (uint32_t i = 0; i < expr->count; i++) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc != VD_OK)
            return rc;
        if (vd_value_is_nullish(v)) {
            stor_expr_set_null(ret);
            return VD_OK;
        }
        if (!vd_value_is_number(v))
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "$multiply only supports numeric types, not %s", stor_expr_type(v));
        uint8_t old = type;
        type = wider(type, v.type);
        if (type == VD_BSON_DECIMAL128) {
            if (old == VD_BSON_DOUBLE)
                product_decimal = vd_decimal_from_double(product_double);
            else if (old != VD_BSON_DECIMAL128)
                product_decimal = vd_decimal_from_int64(product_long);
            product_decimal = vd_decimal_mul(product_decimal, vd_value_as_decimal(v));
            continue;
        }
        product_double *= vd_value_as_double(v);
        if (type != VD_BSON_DOUBLE &&
            __builtin_mul_overflow(product_long, as_long(v), &product_long))
            type = VD_BSON_DOUBLE;
    }
    if (type == VD_BSON_DECIMAL128)
        *ret = vd_value_from_decimal(env->arena, product_decimal);
    else if (type == VD_BSON_DOUBLE)
        *ret = vd_value_from_double(env->arena, product_double);
    else
        *ret = int_result(env->arena, type, product_long);
    return VD_OK;
}

/* ---- $divide, $mod ---- */

static int eval_divide(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                       vd_error_t *err)
{
    vd_value_t v[2];
    bool null;
    int rc = two(expr, env, v, &null, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_number(v[0]) && vd_value_is_number(v[1])) {
        if (wider(v[0].type, v[1].type) == VD_BSON_DECIMAL128) {
            vd_decimal_t divisor = vd_value_as_decimal(v[1]);
            if (vd_decimal_is_zero(divisor))
                return vd_error_set(err, VD_ERR_BAD_VALUE, "can't $divide by zero");
            *ret = vd_value_from_decimal(env->arena,
                                         vd_decimal_div(vd_value_as_decimal(v[0]), divisor));
            return VD_OK;
        }
        double divisor = vd_value_as_double(v[1]);
        if (divisor == 0)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "can't $divide by zero");
        *ret = vd_value_from_double(env->arena, vd_value_as_double(v[0]) / divisor);
        return VD_OK;
    }
    if (!null)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "$divide only supports numeric types, not %s and %s",
                            stor_expr_type(v[0]), stor_expr_type(v[1]));
    stor_expr_set_null(ret);
    return VD_OK;
}

static int mod_numbers(vd_arena_t *arena, vd_value_t a, vd_value_t b, vd_value_t *ret,
                       vd_error_t *err)
{
    uint8_t type = wider(a.type, b.type);
    bool zero = b.type == VD_BSON_DECIMAL128 ? vd_decimal_is_zero(vd_value_decimal(b))
                                             : vd_value_as_double(b) == 0;
    if (zero)
        return vd_error_set(err, VD_ERR_LOCATION(type == VD_BSON_DECIMAL128 ? 5733415 : 16610),
                            "can't $mod by zero");
    int32_t whole; /* a whole number after an int or long counts as an int, even a double */
    if (type == VD_BSON_DOUBLE && a.type != VD_BSON_DOUBLE && stor_expr_as_int32(b, &whole)) {
        b = vd_value_from_int32(arena, whole);
        type = a.type;
    }
    if (type == VD_BSON_DECIMAL128) {
        *ret = vd_value_from_decimal(
            arena, vd_decimal_mod(vd_value_as_decimal(a), vd_value_as_decimal(b)));
    } else if (type == VD_BSON_DOUBLE) {
        *ret = vd_value_from_double(arena, fmod(vd_value_as_double(a), vd_value_as_double(b)));
    } else {
        int64_t divisor = as_long(b); /* -1 is apart: INT64_MIN % -1 traps */
        *ret = int_result(arena, type, divisor == -1 ? 0 : as_long(a) % divisor);
    }
    return VD_OK;
}

static int eval_mod(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t v[2];
    bool null;
    int rc = two(expr, env, v, &null, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_number(v[0]) && vd_value_is_number(v[1]))
        return mod_numbers(env->arena, v[0], v[1], ret, err);
    if (!null)
        return vd_error_set(err, VD_ERR_LOCATION(16611),
                            "$mod only supports numeric types, not %s and %s", stor_expr_type(v[0]),
                            stor_expr_type(v[1]));
    stor_expr_set_null(ret);
    return VD_OK;
}

/* ---- one number ---- */

/* The operand as a number; *ret_done when it was nullish (the result is null). */
static int one(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, bool *ret_done,
               vd_error_t *err)
{
    int rc = stor_expr_arg(expr, 0, env, ret, err);
    if (rc != VD_OK)
        return rc;
    *ret_done = vd_value_is_nullish(*ret);
    if (*ret_done)
        stor_expr_set_null(ret);
    else if (!vd_value_is_number(*ret))
        return vd_error_set(err, VD_ERR_LOCATION(28765), "%s only supports numeric types, not %s",
                            expr->op->name, stor_expr_type(*ret));
    return VD_OK;
}

static int eval_abs(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    bool done;
    int rc = one(expr, env, ret, &done, err);
    if (rc != VD_OK || done)
        return rc;
    if (ret->type == VD_BSON_DOUBLE) {
        *ret = vd_value_from_double(env->arena, fabs(vd_value_double(*ret)));
    } else if (ret->type == VD_BSON_DECIMAL128) {
        vd_decimal_t d = vd_value_decimal(*ret);
        d.hi &= ~(UINT64_C(1) << 63);
        *ret = vd_value_from_decimal(env->arena, d);
    } else {
        int64_t v = as_long(*ret);
        if (v == INT64_MIN)
            return vd_error_set(err, VD_ERR_LOCATION(28680), "can't take $abs of long long min");
        *ret = int_result(env->arena, ret->type, v < 0 ? -v : v);
    }
    return VD_OK;
}

/* variant: vd_decimal_rounding_t (floor or ceiling). */
static int eval_floor_ceil(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                           vd_error_t *err)
{
    bool done;
    int rc = one(expr, env, ret, &done, err);
    if (rc != VD_OK || done)
        return rc;
    bool up = expr->op->variant == VD_DECIMAL_CEILING;
    if (ret->type == VD_BSON_DOUBLE) {
        double d = vd_value_double(*ret);
        *ret = vd_value_from_double(env->arena, up ? ceil(d) : floor(d));
    } else if (ret->type == VD_BSON_DECIMAL128) {
        *ret = vd_value_from_decimal(env->arena,
                                     vd_decimal_round(vd_value_decimal(*ret), 0,
                                                      up ? VD_DECIMAL_CEILING : VD_DECIMAL_FLOOR));
    }
    return VD_OK;
}

/* ---- $round, $trunc: to a decimal place, half to even ---- */

static int64_t power_of_ten(int n)
{
    int64_t p = 1;
    while (n-- > 0)
        p *= 10;
    return p;
}

/* Places before the point of a whole number: exact. */
static int round_whole(const stor_expr_t *expr, vd_arena_t *arena, vd_value_t v, int places,
                       vd_value_t *ret, vd_error_t *err)
{
    int64_t n = as_long(v), result = 0;
    if (places < -18) { /* 10^19 is over the range; half of it is not */
        bool up = places == -19 && expr->op->variant == VD_DECIMAL_HALF_EVEN &&
                  (n > INT64_C(5000000000000000000) || n < INT64_C(-5000000000000000000));
        if (up)
            return vd_error_set(err, VD_ERR_LOCATION(51080),
                                "invalid conversion from Decimal128 result in %s resulting from "
                                "arguments: [the number, %d]",
                                expr->op->name, places);
    } else {
        int64_t unit = power_of_ten(-places), rest = n % unit;
        result = n - rest;
        uint64_t size = rest < 0 ? 0 - (uint64_t)rest : (uint64_t)rest, half = (uint64_t)unit / 2;
        bool odd = (n / unit) % 2 != 0;
        if (expr->op->variant == VD_DECIMAL_HALF_EVEN && (size > half || (size == half && odd)) &&
            __builtin_add_overflow(result, n < 0 ? -unit : unit, &result))
            return vd_error_set(err, VD_ERR_LOCATION(51080),
                                "invalid conversion from Decimal128 result in %s resulting from "
                                "arguments: [the number, %d]",
                                expr->op->name, places);
    }
    *ret = int_result(arena, v.type, result);
    return VD_OK;
}

static int eval_round(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                      vd_error_t *err)
{
    vd_value_t v, place = VD_VALUE_MISSING;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc == VD_OK && expr->count > 1)
        rc = stor_expr_arg(expr, 1, env, &place, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(v) || (expr->count > 1 && vd_value_is_nullish(place))) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_LOCATION(51081), "%s only supports numeric types, not %s",
                            expr->op->name, stor_expr_type(v));
    int32_t places = 0;
    if (expr->count > 1) {
        int64_t n;
        if (!vd_value_is_number(place) || !vd_value_as_int64(place, &n))
            return vd_error_set(err, VD_ERR_LOCATION(51082),
                                "precision argument to  %s must be a integral value",
                                expr->op->name);
        if (n < -20 || n > 100)
            return vd_error_set(err, VD_ERR_LOCATION(51083),
                                "cannot apply %s with precision value %lld value must be in [-20, "
                                "100]",
                                expr->op->name, (long long)n);
        places = (int32_t)n;
    }
    vd_decimal_rounding_t how = (vd_decimal_rounding_t)expr->op->variant;
    if (v.type == VD_BSON_DECIMAL128) {
        *ret =
            vd_value_from_decimal(env->arena, vd_decimal_round(vd_value_decimal(v), places, how));
    } else if (v.type == VD_BSON_DOUBLE) {
        double d = vd_value_double(v);
        if (places == 0 || isnan(d) || isinf(d))
            d = how == VD_DECIMAL_HALF_EVEN ? rint(d) : trunc(d);
        else
            d = vd_decimal_to_double(vd_decimal_round(stor_expr_decimal(d), places, how));
        *ret = vd_value_from_double(env->arena, d);
    } else if (places >= 0) {
        *ret = v;
    } else {
        return round_whole(expr, env->arena, v, places, ret, err);
    }
    return VD_OK;
}

/* ---- $pow, roots and logarithms ---- */

static bool pow_long(int64_t base, int64_t exponent, int64_t *ret)
{
    int64_t result = 1;
    if (base == 1 || base == -1 || base == 0) {
        *ret = base == 0 ? exponent == 0 : base == 1 || exponent % 2 == 0 ? 1 : -1;
        return true;
    }
    if (exponent > 63)
        return false;
    while (exponent > 0) {
        if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result))
            return false;
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
            return false;
    }
    *ret = result;
    return true;
}

/* Whole powers by multiplication (exact as far as decimals are); others through doubles. */
static vd_decimal_t pow_decimal(vd_decimal_t base, vd_decimal_t exponent)
{
    int64_t n;
    if (!vd_decimal_to_int64(exponent, &n) || n > 20000 || n < -20000)
        return stor_expr_decimal(pow(vd_decimal_to_double(base), vd_decimal_to_double(exponent)));
    bool negative = n < 0;
    uint64_t left = (uint64_t)(negative ? -n : n);
    vd_decimal_t result = vd_decimal_from_int64(1);
    for (; left > 0; left >>= 1) {
        if ((left & 1) != 0)
            result = vd_decimal_mul(result, base);
        if (left > 1)
            base = vd_decimal_mul(base, base);
    }
    return negative ? vd_decimal_div(vd_decimal_from_int64(1), result) : result;
}

static int eval_pow(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t v[2];
    bool null;
    int rc = two(expr, env, v, &null, err);
    if (rc != VD_OK)
        return rc;
    if (null) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (!vd_value_is_number(v[0]))
        return vd_error_set(err, VD_ERR_LOCATION(28762), "$pow's base must be numeric, not %s",
                            stor_expr_type(v[0]));
    if (!vd_value_is_number(v[1]))
        return vd_error_set(err, VD_ERR_LOCATION(28763), "$pow's exponent must be numeric, not %s",
                            stor_expr_type(v[1]));
    bool zero_base = vd_value_truthy(v[0]) == false;
    if (zero_base && vd_value_as_double(v[1]) < 0)
        return vd_error_set(err, VD_ERR_LOCATION(28764),
                            "$pow cannot take a base of 0 and a negative exponent");
    uint8_t type = wider(v[0].type, v[1].type);
    if (type == VD_BSON_DECIMAL128) {
        *ret = vd_value_from_decimal(
            env->arena, pow_decimal(vd_value_as_decimal(v[0]), vd_value_as_decimal(v[1])));
        return VD_OK;
    }
    int64_t result, exponent = type == VD_BSON_DOUBLE ? -1 : as_long(v[1]);
    if (type != VD_BSON_DOUBLE && exponent < 0) {
        int64_t base = as_long(v[0]);
        if (base == 1 || base == -1) {
            *ret = int_result(env->arena, type, base == 1 || exponent % 2 == 0 ? 1 : -1);
            return VD_OK;
        }
    }
    if (type != VD_BSON_DOUBLE && exponent >= 0 && pow_long(as_long(v[0]), exponent, &result))
        *ret = int_result(env->arena, type, result);
    else
        *ret = vd_value_from_double(env->arena,
                                    pow(vd_value_as_double(v[0]), vd_value_as_double(v[1])));
    return VD_OK;
}

/* Newton's step on the double's root brings a decimal root to its 34 digits. */
static vd_decimal_t sqrt_decimal(vd_decimal_t d)
{
    double estimate = sqrt(vd_decimal_to_double(d));
    if (vd_decimal_is_zero(d) || vd_decimal_is_nan(d) || vd_decimal_is_infinite(d) ||
        !(estimate > 0) || isinf(estimate))
        return vd_decimal_is_zero(d) ? d : stor_expr_decimal(estimate);
    vd_decimal_t x = stor_expr_decimal(estimate), half;
    (void)vd_decimal_from_string(VD_SLICE_LIT("0.5"), &half);
    if (vd_decimal_compare(vd_decimal_mul(x, x), d) == 0)
        return x;
    for (int i = 0; i < 2; i++)
        x = vd_decimal_mul(half, vd_decimal_add(x, vd_decimal_div(d, x)));
    return x;
}

static int eval_sqrt(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    bool done;
    int rc = one(expr, env, ret, &done, err);
    if (rc != VD_OK || done)
        return rc;
    if (vd_value_as_double(*ret) < 0)
        return vd_error_set(err, VD_ERR_LOCATION(28714),
                            "$sqrt's argument must be greater than or equal to 0");
    if (ret->type == VD_BSON_DECIMAL128)
        *ret = vd_value_from_decimal(env->arena, sqrt_decimal(vd_value_decimal(*ret)));
    else
        *ret = vd_value_from_double(env->arena, sqrt(vd_value_as_double(*ret)));
    return VD_OK;
}

/* A function of doubles applied to any number; decimals go through the double. */
static vd_value_t apply_double(vd_arena_t *arena, vd_value_t v, double (*f)(double))
{
    double d = f(vd_value_as_double(v));
    return v.type == VD_BSON_DECIMAL128 ? vd_value_from_decimal(arena, stor_expr_decimal(d))
                                        : vd_value_from_double(arena, d);
}

static int eval_exp(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    bool done;
    int rc = one(expr, env, ret, &done, err);
    if (rc == VD_OK && !done)
        *ret = apply_double(env->arena, *ret, exp);
    return rc;
}

/* variant 0: $ln, 1: $log10. */
static int eval_ln(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    bool done, tens = expr->op->variant == 1;
    int rc = one(expr, env, ret, &done, err);
    if (rc != VD_OK || done)
        return rc;
    double d = vd_value_as_double(*ret);
    if (!(d > 0) && !isnan(d))
        return vd_error_set(err, VD_ERR_LOCATION(tens ? 28761 : 28766),
                            "%s's argument must be a positive number, but is %g", expr->op->name,
                            d);
    *ret = apply_double(env->arena, *ret, tens ? log10 : log);
    return VD_OK;
}

static int eval_log(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t v[2];
    bool null;
    int rc = two(expr, env, v, &null, err);
    if (rc != VD_OK)
        return rc;
    if (null) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (!vd_value_is_number(v[0]))
        return vd_error_set(err, VD_ERR_LOCATION(28756), "$log's argument must be numeric, not %s",
                            stor_expr_type(v[0]));
    if (!vd_value_is_number(v[1]))
        return vd_error_set(err, VD_ERR_LOCATION(28757), "$log's base must be numeric, not %s",
                            stor_expr_type(v[1]));
    double d = vd_value_as_double(v[0]), base = vd_value_as_double(v[1]);
    if (!(d > 0) && !isnan(d))
        return vd_error_set(err, VD_ERR_LOCATION(28758),
                            "$log's argument must be a positive number, but is %g", d);
    if ((!(base > 0) && !isnan(base)) || base == 1)
        return vd_error_set(err, VD_ERR_LOCATION(28759),
                            "$log's base must be a positive number not equal to 1, but is %g",
                            base);
    double result = log(d) / log(base);
    *ret = wider(v[0].type, v[1].type) == VD_BSON_DECIMAL128
               ? vd_value_from_decimal(env->arena, stor_expr_decimal(result))
               : vd_value_from_double(env->arena, result);
    return VD_OK;
}

/* ---- bits ---- */

enum { BIT_AND, BIT_OR, BIT_XOR };

static int eval_bits(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    uint8_t type = VD_BSON_INT32;
    int64_t bits = expr->op->variant == BIT_AND ? -1 : 0;
    for (uint32_t i = 0; i < expr->count; i++) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc != VD_OK)
            return rc;
        if (vd_value_is_nullish(v)) {
            stor_expr_set_null(ret);
            return VD_OK;
        }
        if (v.type != VD_BSON_INT32 && v.type != VD_BSON_INT64)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "%s only supports int and long operands.", expr->op->name);
        type = wider(type, v.type);
        int64_t n = as_long(v);
        bits = expr->op->variant == BIT_AND  ? bits & n
               : expr->op->variant == BIT_OR ? bits | n
                                             : bits ^ n;
    }
    *ret = int_result(env->arena, type, bits);
    return VD_OK;
}

static int eval_bit_not(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                        vd_error_t *err)
{
    bool done;
    int rc = one(expr, env, ret, &done, err);
    if (rc != VD_OK || done)
        return rc;
    if (ret->type != VD_BSON_INT32 && ret->type != VD_BSON_INT64)
        return vd_error_set(err, VD_ERR_LOCATION(28765),
                            "$bitNot only supports int and long, not: %s", stor_expr_type(*ret));
    *ret = int_result(env->arena, ret->type, ~as_long(*ret));
    return VD_OK;
}

static const stor_expr_op_t arith_ops[] = {
    STOR_EXPR_OP("$add", 0, STOR_EXPR_ARGS_ANY, 0, eval_add),
    STOR_EXPR_OP("$subtract", 2, 2, 0, eval_subtract),
    STOR_EXPR_OP("$multiply", 0, STOR_EXPR_ARGS_ANY, 0, eval_multiply),
    STOR_EXPR_OP("$divide", 2, 2, 0, eval_divide),
    STOR_EXPR_OP("$mod", 2, 2, 0, eval_mod),
    STOR_EXPR_OP("$abs", 1, 1, 0, eval_abs),
    STOR_EXPR_OP("$ceil", 1, 1, VD_DECIMAL_CEILING, eval_floor_ceil),
    STOR_EXPR_OP("$floor", 1, 1, VD_DECIMAL_FLOOR, eval_floor_ceil),
    STOR_EXPR_OP("$round", 1, 2, VD_DECIMAL_HALF_EVEN, eval_round),
    STOR_EXPR_OP("$trunc", 1, 2, VD_DECIMAL_TRUNCATE, eval_round),
    STOR_EXPR_OP("$pow", 2, 2, 0, eval_pow),
    STOR_EXPR_OP("$sqrt", 1, 1, 0, eval_sqrt),
    STOR_EXPR_OP("$exp", 1, 1, 0, eval_exp),
    STOR_EXPR_OP("$ln", 1, 1, 0, eval_ln),
    STOR_EXPR_OP("$log10", 1, 1, 1, eval_ln),
    STOR_EXPR_OP("$log", 2, 2, 0, eval_log),
    STOR_EXPR_OP("$bitAnd", 0, STOR_EXPR_ARGS_ANY, BIT_AND, eval_bits),
    STOR_EXPR_OP("$bitOr", 0, STOR_EXPR_ARGS_ANY, BIT_OR, eval_bits),
    STOR_EXPR_OP("$bitXor", 0, STOR_EXPR_ARGS_ANY, BIT_XOR, eval_bits),
    STOR_EXPR_OP("$bitNot", 1, 1, 0, eval_bit_not),
};
const stor_expr_family_t stor_expr_family_arith = {arith_ops, VD_COUNT_OF(arith_ops)};
