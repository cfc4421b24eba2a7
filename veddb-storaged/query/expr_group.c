/* veddb-storaged/query/expr_group.c — $sum, $avg, $min, $max, $stdDevPop, $stdDevSamp, $median,
 * $percentile as expressions: over the operands, or over the elements of a single array. */
#include "veddb-storaged/query/expr_private.h"
#include "veddb-storaged/query/percentile.h"
#include "veddb-storaged/query/total.h"

enum { GROUP_SUM, GROUP_AVG, GROUP_MIN, GROUP_MAX, GROUP_STD_POP, GROUP_STD_SAMP };

typedef struct {
    stor_total_t total;
    stor_spread_t spread;
    vd_value_t best;
} gather_t;

static void gather_add(gather_t *gather, int what, vd_value_t v)
{
    switch (what) {
    case GROUP_SUM:
    case GROUP_AVG:
        stor_total_add(&gather->total, v);
        break;
    case GROUP_MIN:
    case GROUP_MAX: {
        if (vd_value_is_nullish(v))
            break;
        int c = vd_value_is_missing(gather->best) ? 0 : vd_value_compare(v, gather->best);
        if (vd_value_is_missing(gather->best) || (what == GROUP_MIN ? c < 0 : c > 0))
            gather->best = v;
        break;
    }
    default:
        stor_spread_add(&gather->spread, v);
        break;
    }
}

static vd_value_t gather_result(const gather_t *gather, int what, vd_arena_t *arena)
{
    switch (what) {
    case GROUP_SUM:
        return stor_total_sum(&gather->total, arena);
    case GROUP_AVG:
        return stor_total_average(&gather->total, arena);
    case GROUP_MIN:
    case GROUP_MAX:
        return vd_value_is_missing(gather->best) ? vd_value_from_null() : gather->best;
    default:
        return stor_spread_deviation(&gather->spread, what == GROUP_STD_SAMP, arena);
    }
}

static int eval_gather(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                       vd_error_t *err)
{
    int what = expr->op->variant;
    gather_t gather = {.best = VD_VALUE_MISSING};
    for (uint32_t i = 0; i < expr->count; i++) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc != VD_OK)
            return rc;
        if (expr->count > 1 || v.type != VD_BSON_ARRAY) {
            gather_add(&gather, what, v);
            continue;
        }
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(v));
        while (vd_bson_iter_next(&iter))
            gather_add(&gather, what, iter.value);
    }
    *ret = gather_result(&gather, what, env->arena);
    return VD_OK;
}

/* ---- $median, $percentile: of the operand, or of the numbers of the array that it is ---- */

static int parse_percentile(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                            stor_expr_t **ret_expr, vd_error_t *err)
{
    stor_expr_t *expr = stor_expr_new(parser, op, 1);
    stor_percentile_t *percentile = VD_ARENA_NEW(parser->arena, stor_percentile_t);
    vd_value_t input;
    int rc = stor_percentile_arguments(parser->arena, op->variant == 1, true, spec,
                                       parser->variables, percentile, &input, err);
    expr->extra = percentile;
    *ret_expr = expr;
    return rc == VD_OK ? stor_expr_parse_operand(parser, input, &expr->args[0], err) : rc;
}

static int eval_percentile(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                           vd_error_t *err)
{
    vd_value_t v, single[1], *values = single;
    uint32_t count = 1, numbers = 0;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    single[0] = v;
    if (v.type == VD_BSON_ARRAY)
        values = stor_expr_elements(env->arena, v, &count);
    double *sorted = VD_ARENA_ARRAY(env->arena, double, count + 1);
    for (uint32_t i = 0; i < count; i++) {
        double d = vd_value_as_double(values[i]);
        if (vd_value_is_number(values[i]) && d == d)
            sorted[numbers++] = d;
    }
    return stor_percentile_of(expr->extra, sorted, numbers, env->arena, ret, err);
}

static const stor_expr_op_t group_ops[] = {
    STOR_EXPR_OP("$sum", 0, STOR_EXPR_ARGS_ANY, GROUP_SUM, eval_gather),
    STOR_EXPR_OP("$avg", 0, STOR_EXPR_ARGS_ANY, GROUP_AVG, eval_gather),
    STOR_EXPR_OP("$min", 0, STOR_EXPR_ARGS_ANY, GROUP_MIN, eval_gather),
    STOR_EXPR_OP("$max", 0, STOR_EXPR_ARGS_ANY, GROUP_MAX, eval_gather),
    STOR_EXPR_OP("$stdDevPop", 0, STOR_EXPR_ARGS_ANY, GROUP_STD_POP, eval_gather),
    STOR_EXPR_OP("$stdDevSamp", 0, STOR_EXPR_ARGS_ANY, GROUP_STD_SAMP, eval_gather),
    STOR_EXPR_OP_PARSED("$percentile", 0, 0, eval_percentile, parse_percentile),
    STOR_EXPR_OP_PARSED("$median", 0, 1, eval_percentile, parse_percentile),
};
const stor_expr_family_t stor_expr_family_group = {group_ops, VD_COUNT_OF(group_ops)};
