/* veddb-storaged/query/expr_trig.c — trigonometry. Results are doubles, or decimals (through the
 * double) for decimal operands. */
#include "veddb-storaged/query/expr_private.h"

#include <math.h>

static double to_radians(double d)
{
    return d * (M_PI / 180);
}

static double to_degrees(double d)
{
    return d * (180 / M_PI);
}

/* The function and where it is defined; code when outside. */
static const struct {
    double (*function)(double);
    double min, max;
    bool finite; /* infinity is outside too */
} functions[] = {
    {sin, -INFINITY, INFINITY, true},
    {cos, -INFINITY, INFINITY, true},
    {tan, -INFINITY, INFINITY, true},
    {asin, -1, 1, false},
    {acos, -1, 1, false},
    {atan, -INFINITY, INFINITY, false},
    {sinh, -INFINITY, INFINITY, false},
    {cosh, -INFINITY, INFINITY, false},
    {tanh, -INFINITY, INFINITY, false},
    {asinh, -INFINITY, INFINITY, false},
    {acosh, 1, INFINITY, false},
    {atanh, -1, 1, false},
    {to_radians, -INFINITY, INFINITY, false},
    {to_degrees, -INFINITY, INFINITY, false},
};
enum {
    F_SIN,
    F_COS,
    F_TAN,
    F_ASIN,
    F_ACOS,
    F_ATAN,
    F_SINH,
    F_COSH,
    F_TANH,
    F_ASINH,
    F_ACOSH,
    F_ATANH,
    F_RADIANS,
    F_DEGREES
};

static vd_value_t result(vd_arena_t *arena, bool decimal, double d)
{
    return decimal ? vd_value_from_decimal(arena, stor_expr_decimal(d))
                   : vd_value_from_double(arena, d);
}

static int eval_trig(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    int f = expr->op->variant;
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(v)) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_LOCATION(28765), "%s only supports numeric types, not %s",
                            expr->op->name, stor_expr_type(v));
    double d = vd_value_as_double(v);
    if (d < functions[f].min || d > functions[f].max || (functions[f].finite && isinf(d)))
        return vd_error_set(err, VD_ERR_LOCATION(50989),
                            "cannot apply %s to %g, value must be in [%g,%g]", expr->op->name, d,
                            functions[f].min, functions[f].max);
    *ret = result(env->arena, v.type == VD_BSON_DECIMAL128, functions[f].function(d));
    return VD_OK;
}

static int eval_atan2(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                      vd_error_t *err)
{
    vd_value_t v[2];
    for (uint32_t i = 0; i < 2; i++) {
        int rc = stor_expr_arg(expr, i, env, &v[i], err);
        if (rc != VD_OK)
            return rc;
        if (vd_value_is_nullish(v[i])) {
            stor_expr_set_null(ret);
            return VD_OK;
        }
        if (!vd_value_is_number(v[i]))
            return vd_error_set(err, VD_ERR_LOCATION(51044 + (int)i),
                                "$atan2 only supports numeric types, not %s", stor_expr_type(v[i]));
    }
    bool decimal = v[0].type == VD_BSON_DECIMAL128 || v[1].type == VD_BSON_DECIMAL128;
    *ret = result(env->arena, decimal, atan2(vd_value_as_double(v[0]), vd_value_as_double(v[1])));
    return VD_OK;
}

static const stor_expr_op_t trig_ops[] = {
    STOR_EXPR_OP("$sin", 1, 1, F_SIN, eval_trig),
    STOR_EXPR_OP("$cos", 1, 1, F_COS, eval_trig),
    STOR_EXPR_OP("$tan", 1, 1, F_TAN, eval_trig),
    STOR_EXPR_OP("$asin", 1, 1, F_ASIN, eval_trig),
    STOR_EXPR_OP("$acos", 1, 1, F_ACOS, eval_trig),
    STOR_EXPR_OP("$atan", 1, 1, F_ATAN, eval_trig),
    STOR_EXPR_OP("$atan2", 2, 2, 0, eval_atan2),
    STOR_EXPR_OP("$sinh", 1, 1, F_SINH, eval_trig),
    STOR_EXPR_OP("$cosh", 1, 1, F_COSH, eval_trig),
    STOR_EXPR_OP("$tanh", 1, 1, F_TANH, eval_trig),
    STOR_EXPR_OP("$asinh", 1, 1, F_ASINH, eval_trig),
    STOR_EXPR_OP("$acosh", 1, 1, F_ACOSH, eval_trig),
    STOR_EXPR_OP("$atanh", 1, 1, F_ATANH, eval_trig),
    STOR_EXPR_OP("$degreesToRadians", 1, 1, F_RADIANS, eval_trig),
    STOR_EXPR_OP("$radiansToDegrees", 1, 1, F_DEGREES, eval_trig),
};
const stor_expr_family_t stor_expr_family_trig = {trig_ops, VD_COUNT_OF(trig_ops)};
