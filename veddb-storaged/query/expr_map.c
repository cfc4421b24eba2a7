/* veddb-storaged/query/expr_map.c — $map, $filter, $reduce: expressions that run once for each
 * element, with the element in a slot. */
#include "veddb-storaged/query/expr_private.h"

/* Parses `body` with the names bound to slots from expr->slot on. */
static int parse_body(stor_expr_parser_t *parser, const vd_slice_t *names, uint32_t count,
                      stor_expr_t *expr, vd_value_t body, stor_expr_t **ret_body, vd_error_t *err)
{
    const stor_expr_scope_t *outer = parser->scope;
    uint32_t slots = parser->slots;
    int rc = stor_expr_take_slots(parser, count, &expr->slot, err);
    if (rc != VD_OK)
        return rc;
    for (uint32_t i = 0; i < count; i++) {
        stor_expr_scope_t *scope = VD_ARENA_NEW(parser->arena, stor_expr_scope_t);
        *scope = (stor_expr_scope_t){parser->scope, names[i], expr->slot + i};
        parser->scope = scope;
    }
    rc = stor_expr_parse_operand(parser, body, ret_body, err);
    parser->scope = outer;
    parser->slots = slots;
    return rc;
}

/* ---- $map (variant 0) and $filter (variant 1): args input, in or cond, limit ---- */

typedef struct {
    const char *body; /* "in", "cond" */
    int not_object, unknown, no_input, no_body, not_array;
} each_codes_t;
static const each_codes_t each_codes[] = {
    {"in", 16878, 16879, 16880, 16882, 16883},
    {"cond", 28646, 28647, 28648, 28650, 28651},
};

static int parse_each(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                      stor_expr_t **ret_expr, vd_error_t *err)
{
    const each_codes_t *codes = &each_codes[op->variant];
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(codes->not_object),
                            "%s only supports an object as its argument", op->name);
    vd_value_t input = VD_VALUE_MISSING, as = VD_VALUE_MISSING, body = VD_VALUE_MISSING,
               limit = VD_VALUE_MISSING;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "input"))
            input = iter.value;
        else if (vd_slice_is(iter.name, "as"))
            as = iter.value;
        else if (vd_slice_is(iter.name, codes->body))
            body = iter.value;
        else if (op->variant == 1 && vd_slice_is(iter.name, "limit"))
            limit = iter.value;
        else
            return vd_error_set(err, VD_ERR_LOCATION(codes->unknown),
                                "Unrecognized parameter to %s: %.*s", op->name,
                                VD_SLICE_FMT(iter.name));
    }
    if (vd_value_is_missing(input))
        return vd_error_set(err, VD_ERR_LOCATION(codes->no_input),
                            "Missing 'input' parameter to %s", op->name);
    if (vd_value_is_missing(body))
        return vd_error_set(err, VD_ERR_LOCATION(codes->no_body), "Missing '%s' parameter to %s",
                            codes->body, op->name);
    vd_slice_t name = VD_SLICE_LIT("this");
    if (!vd_value_is_missing(as))
        name = as.type == VD_BSON_STRING ? vd_value_string(as) : VD_SLICE_LIT("");
    int rc = stor_expr_check_variable(name, err);
    stor_expr_t *expr = stor_expr_new(parser, op, 3);
    if (rc == VD_OK)
        rc = stor_expr_parse_operand(parser, input, &expr->args[0], err);
    if (rc == VD_OK)
        rc = parse_body(parser, &name, 1, expr, body, &expr->args[1], err);
    if (rc == VD_OK && !vd_value_is_missing(limit))
        rc = stor_expr_parse_operand(parser, limit, &expr->args[2], err);
    *ret_expr = expr;
    return rc;
}

/* The input array; *ret_null when it is nullish. */
static int each_input(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                      bool *ret_null, vd_error_t *err)
{
    int rc = stor_expr_arg(expr, 0, env, ret, err);
    if (rc != VD_OK)
        return rc;
    *ret_null = vd_value_is_nullish(*ret);
    if (*ret_null)
        stor_expr_set_null(ret);
    else if (ret->type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(each_codes[expr->op->variant].not_array),
                            "input to %s must be an array not %s", expr->op->name,
                            stor_expr_type(*ret));
    return VD_OK;
}

static int eval_map(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t input;
    bool null;
    int rc = each_input(expr, env, &input, &null, err);
    if (rc != VD_OK || null) {
        *ret = input;
        return rc;
    }
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(input));
    while (vd_bson_iter_next(&iter)) {
        env->slots[expr->slot] = iter.value;
        vd_value_t v;
        rc = stor_expr_arg(expr, 1, env, &v, err);
        if (rc == VD_OK)
            rc = stor_expr_check_memory(env, err);
        if (rc != VD_OK)
            return rc;
        stor_expr_array_push(&out, v);
    }
    return stor_expr_array_end(&out, ret, err);
}

static int read_limit(const stor_expr_t *expr, stor_expr_env_t *env, uint32_t *ret_limit,
                      vd_error_t *err)
{
    *ret_limit = UINT32_MAX;
    if (expr->args[2] == NULL)
        return VD_OK;
    vd_value_t v;
    int32_t n;
    int rc = stor_expr_arg(expr, 2, env, &v, err);
    if (rc != VD_OK || vd_value_is_nullish(v))
        return rc;
    if (!stor_expr_as_int32(v, &n))
        return vd_error_set(err, VD_ERR_LOCATION(327391),
                            "$filter: limit must be represented as a 32-bit integral value");
    if (n <= 0)
        return vd_error_set(err, VD_ERR_LOCATION(327392),
                            "$filter: limit must be greater than 0: %d", n);
    *ret_limit = (uint32_t)n;
    return VD_OK;
}

static int eval_filter(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                       vd_error_t *err)
{
    vd_value_t input;
    bool null;
    uint32_t limit;
    int rc = each_input(expr, env, &input, &null, err);
    if (rc == VD_OK && null) {
        *ret = input;
        return VD_OK;
    }
    if (rc == VD_OK)
        rc = read_limit(expr, env, &limit, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(input));
    while (out.count < limit && vd_bson_iter_next(&iter)) {
        env->slots[expr->slot] = iter.value;
        vd_value_t v;
        rc = stor_expr_arg(expr, 1, env, &v, err);
        if (rc == VD_OK)
            rc = stor_expr_check_memory(env, err);
        if (rc != VD_OK)
            return rc;
        if (vd_value_truthy(v))
            stor_expr_array_push(&out, iter.value);
    }
    return stor_expr_array_end(&out, ret, err);
}

/* ---- $reduce: args input, initialValue, in; slots this, value ---- */

static int eval_reduce(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                       vd_error_t *err)
{
    vd_value_t input, value;
    int rc = stor_expr_arg(expr, 0, env, &input, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(input)) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (input.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(40080),
                            "$reduce requires that 'input' be an array, found: %s",
                            stor_expr_type(input));
    rc = stor_expr_arg(expr, 1, env, &value, err);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(input));
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        env->slots[expr->slot] = iter.value;
        env->slots[expr->slot + 1] = value;
        rc = stor_expr_arg(expr, 2, env, &value, err);
        if (rc == VD_OK)
            rc = stor_expr_check_memory(env, err);
    }
    if (rc == VD_OK)
        *ret = value;
    return rc;
}

static int parse_reduce(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                        stor_expr_t **ret_expr, vd_error_t *err)
{
    static const char *const fields[] = {"input", "initialValue", "in"};
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40075),
                            "$reduce requires an object as an argument, found: %s",
                            stor_expr_type(spec));
    vd_value_t v[3] = {VD_VALUE_MISSING, VD_VALUE_MISSING, VD_VALUE_MISSING};
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        int i = 0;
        while (i < 3 && !vd_slice_is(iter.name, fields[i]))
            i++;
        if (i == 3)
            return vd_error_set(err, VD_ERR_LOCATION(40076),
                                "$reduce found an unknown argument: %.*s", VD_SLICE_FMT(iter.name));
        v[i] = iter.value;
    }
    for (int i = 0; i < 3; i++)
        if (vd_value_is_missing(v[i]))
            return vd_error_set(err, VD_ERR_LOCATION(40077 + i),
                                "$reduce requires '%s' to be specified", fields[i]);
    static const vd_slice_t names[] = {{(const uint8_t *)"this", 4}, {(const uint8_t *)"value", 5}};
    stor_expr_t *expr = stor_expr_new(parser, op, 3);
    int rc = stor_expr_parse_operand(parser, v[0], &expr->args[0], err);
    if (rc == VD_OK)
        rc = stor_expr_parse_operand(parser, v[1], &expr->args[1], err);
    if (rc == VD_OK)
        rc = parse_body(parser, names, 2, expr, v[2], &expr->args[2], err);
    *ret_expr = expr;
    return rc;
}

static const stor_expr_op_t map_ops[] = {
    STOR_EXPR_OP_PARSED("$map", 0, 0, eval_map, parse_each),
    STOR_EXPR_OP_PARSED("$filter", 0, 1, eval_filter, parse_each),
    STOR_EXPR_OP_PARSED("$reduce", 0, 0, eval_reduce, parse_reduce),
};
const stor_expr_family_t stor_expr_family_map = {map_ops, VD_COUNT_OF(map_ops)};
