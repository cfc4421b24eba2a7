/* veddb-storaged/query/expr_core.c — $literal, comparison, boolean and conditional operators, $let,
 * $meta, $rand; and the operators that are refused by name. */
#include "libcommon/base/rand.h"
#include "veddb-storaged/query/expr_private.h"

/* ---- comparison ---- */

enum { CMP_EQ, CMP_NE, CMP_GT, CMP_GTE, CMP_LT, CMP_LTE, CMP_CMP };

static int eval_compare(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                        vd_error_t *err)
{
    vd_value_t a, b;
    int rc = stor_expr_arg(expr, 0, env, &a, err);
    if (rc == VD_OK)
        rc = stor_expr_arg(expr, 1, env, &b, err);
    if (rc != VD_OK)
        return rc;
    int c = vd_value_compare(a, b);
    switch (expr->op->variant) {
    case CMP_EQ:
        *ret = vd_value_from_bool(c == 0);
        break;
    case CMP_NE:
        *ret = vd_value_from_bool(c != 0);
        break;
    case CMP_GT:
        *ret = vd_value_from_bool(c > 0);
        break;
    case CMP_GTE:
        *ret = vd_value_from_bool(c >= 0);
        break;
    case CMP_LT:
        *ret = vd_value_from_bool(c < 0);
        break;
    case CMP_LTE:
        *ret = vd_value_from_bool(c <= 0);
        break;
    default:
        *ret = vd_value_from_int32(env->arena, (c > 0) - (c < 0));
        break;
    }
    return VD_OK;
}

/* ---- boolean ---- */

/* variant: the value that ends the search. */
static int eval_and_or(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                       vd_error_t *err)
{
    bool stop = expr->op->variant != 0;
    for (uint32_t i = 0; i < expr->count; i++) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc != VD_OK)
            return rc;
        if (vd_value_truthy(v) == stop) {
            *ret = vd_value_from_bool(stop);
            return VD_OK;
        }
    }
    *ret = vd_value_from_bool(!stop);
    return VD_OK;
}

static int eval_not(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc == VD_OK)
        *ret = vd_value_from_bool(!vd_value_truthy(v));
    return rc;
}

/* ---- conditional ---- */

static int eval_cond(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    return rc != VD_OK ? rc : stor_expr_arg(expr, vd_value_truthy(v) ? 1 : 2, env, ret, err);
}

static int parse_cond(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                      stor_expr_t **ret_expr, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT) {
        static const stor_expr_op_t three = STOR_EXPR_OP("$cond", 3, 3, 0, eval_cond);
        return stor_expr_parse_positional(parser, &three, spec, ret_expr, err);
    }
    static const char *const names[] = {"if", "then", "else"};
    stor_expr_t *expr = stor_expr_new(parser, op, 3);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        uint32_t i = 0;
        while (i < 3 && !vd_slice_is(iter.name, names[i]))
            i++;
        if (i == 3)
            return vd_error_set(err, VD_ERR_LOCATION(17083),
                                "Unrecognized parameter to $cond: %.*s", VD_SLICE_FMT(iter.name));
        int rc = stor_expr_parse_operand(parser, iter.value, &expr->args[i], err);
        if (rc != VD_OK)
            return rc;
    }
    for (int i = 0; i < 3; i++)
        if (expr->args[i] == NULL)
            return vd_error_set(err, VD_ERR_LOCATION(17080 + i), "Missing '%s' parameter to $cond",
                                names[i]);
    *ret_expr = expr;
    return VD_OK;
}

static int eval_if_null(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                        vd_error_t *err)
{
    for (uint32_t i = 0;; i++) {
        int rc = stor_expr_arg(expr, i, env, ret, err);
        if (rc != VD_OK || i + 1 == expr->count || !vd_value_is_nullish(*ret))
            return rc;
    }
}

static int parse_if_null(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                         stor_expr_t **ret_expr, vd_error_t *err)
{
    int rc = stor_expr_parse_positional(parser, op, spec, ret_expr, err);
    if (rc == VD_OK && (*ret_expr)->count < 2)
        return vd_error_set(err, VD_ERR_LOCATION(1257300),
                            "$ifNull needs at least two arguments, had: %u", (*ret_expr)->count);
    return rc;
}

/* args: case, then, case, then, ..., default (or NULL). */
static int eval_switch(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                       vd_error_t *err)
{
    for (uint32_t i = 0; i + 1 < expr->count; i += 2) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc != VD_OK)
            return rc;
        if (vd_value_truthy(v))
            return stor_expr_arg(expr, i + 1, env, ret, err);
    }
    if (expr->args[expr->count - 1] == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40066),
                            "$switch could not find a matching branch for an input, and no default "
                            "was specified.");
    return stor_expr_arg(expr, expr->count - 1, env, ret, err);
}

static int parse_branch(stor_expr_parser_t *parser, vd_value_t branch, stor_expr_t **pair,
                        vd_error_t *err)
{
    if (branch.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40062),
                            "$switch expected each branch to be an object, found: %s",
                            stor_expr_type(branch));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(branch));
    while (vd_bson_iter_next(&iter)) {
        int which = vd_slice_is(iter.name, "case") ? 0 : vd_slice_is(iter.name, "then") ? 1 : -1;
        if (which < 0)
            return vd_error_set(err, VD_ERR_LOCATION(40063),
                                "$switch found an unknown argument to a branch: %.*s",
                                VD_SLICE_FMT(iter.name));
        int rc = stor_expr_parse_operand(parser, iter.value, &pair[which], err);
        if (rc != VD_OK)
            return rc;
    }
    if (pair[0] == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40064),
                            "$switch requires each branch have a 'case' expression");
    if (pair[1] == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40065),
                            "$switch requires each branch have a 'then' expression.");
    return VD_OK;
}

static int parse_switch(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                        stor_expr_t **ret_expr, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40060),
                            "$switch requires an object as an argument, found: %s",
                            stor_expr_type(spec));
    vd_bson_t branches = VD_BSON_NONE;
    vd_value_t fallback = VD_VALUE_MISSING;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "default")) {
            fallback = iter.value;
        } else if (!vd_slice_is(iter.name, "branches")) {
            return vd_error_set(err, VD_ERR_LOCATION(40067),
                                "$switch found an unknown argument: %.*s", VD_SLICE_FMT(iter.name));
        } else if (iter.value.type != VD_BSON_ARRAY) {
            return vd_error_set(err, VD_ERR_LOCATION(40061),
                                "$switch expected an array for 'branches', found: %s",
                                stor_expr_type(iter.value));
        } else {
            branches = vd_value_document(iter.value);
        }
    }
    uint32_t count = branches.data == NULL ? 0 : vd_bson_count(branches);
    if (count == 0)
        return vd_error_set(err, VD_ERR_LOCATION(40068), "$switch requires at least one branch.");
    stor_expr_t *expr = stor_expr_new(parser, op, 2 * count + 1);
    vd_bson_iter_init(&iter, branches);
    for (uint32_t i = 0; i < count && vd_bson_iter_next(&iter); i++) {
        int rc = parse_branch(parser, iter.value, &expr->args[2 * i], err);
        if (rc != VD_OK)
            return rc;
    }
    *ret_expr = expr;
    return vd_value_is_missing(fallback)
               ? VD_OK
               : stor_expr_parse_operand(parser, fallback, &expr->args[2 * count], err);
}

/* ---- $let: args are the variables' expressions, then `in` ---- */

static int eval_let(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    uint32_t vars = expr->count - 1;
    for (uint32_t i = 0; i < vars; i++) {
        int rc = stor_expr_arg(expr, i, env, &env->slots[expr->slot + i], err);
        if (rc != VD_OK)
            return rc;
    }
    return stor_expr_arg(expr, vars, env, ret, err);
}

static int read_let(vd_bson_t spec, vd_value_t *ret_vars, vd_value_t *ret_in, vd_error_t *err)
{
    *ret_vars = *ret_in = VD_VALUE_MISSING;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "vars"))
            *ret_vars = iter.value;
        else if (vd_slice_is(iter.name, "in"))
            *ret_in = iter.value;
        else
            return vd_error_set(err, VD_ERR_LOCATION(16875), "Unrecognized parameter to $let: %.*s",
                                VD_SLICE_FMT(iter.name));
    }
    if (vd_value_is_missing(*ret_vars))
        return vd_error_set(err, VD_ERR_LOCATION(16876), "Missing 'vars' parameter to $let");
    if (vd_value_is_missing(*ret_in))
        return vd_error_set(err, VD_ERR_LOCATION(16877), "Missing 'in' parameter to $let");
    if (ret_vars->type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(10065),
                            "invalid parameter: expected an object (vars)");
    return VD_OK;
}

static int parse_let(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                     stor_expr_t **ret_expr, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(16874),
                            "$let only supports an object as its argument");
    vd_value_t vars, in;
    int rc = read_let(vd_value_document(spec), &vars, &in, err);
    if (rc != VD_OK)
        return rc;

    uint32_t count = vd_bson_count(vd_value_document(vars)), slots = parser->slots;
    stor_expr_t *expr = stor_expr_new(parser, op, count + 1);
    rc = stor_expr_take_slots(parser, count, &expr->slot, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_scope_t *scopes = VD_ARENA_ARRAY(parser->arena, stor_expr_scope_t, count + 1);
    const stor_expr_scope_t *outer = parser->scope, *inner = outer;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(vars));
    for (uint32_t i = 0; i < count && vd_bson_iter_next(&iter); i++) {
        rc = stor_expr_check_variable(iter.name, err);
        if (rc == VD_OK)
            rc = stor_expr_parse_operand(parser, iter.value, &expr->args[i], err);
        if (rc != VD_OK)
            return rc;
        scopes[i] = (stor_expr_scope_t){.outer = inner, .name = iter.name, .slot = expr->slot + i};
        inner = &scopes[i];
    }
    parser->scope = inner;
    rc = stor_expr_parse_operand(parser, in, &expr->args[count], err);
    parser->scope = outer;
    parser->slots = slots;
    *ret_expr = expr;
    return rc;
}

/* ---- $meta, $rand, $sampleRate ---- */

static int eval_version(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                        vd_error_t *err)
{
    (void)expr, (void)err;
    *ret = env->version == 0 ? VD_VALUE_MISSING
                             : vd_value_from_int64(env->arena, (int64_t)env->version);
    return VD_OK;
}

static int eval_index_key(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                          vd_error_t *err)
{
    (void)expr, (void)err;
    *ret = env->index_key.len == 0 ? VD_VALUE_MISSING : vd_value_from_document(env->index_key);
    return VD_OK;
}

bool stor_expr_asks_meta(vd_value_t spec, const char *word)
{
    vd_bson_iter_t iter;
    bool found = false;
    if ((spec.type != VD_BSON_OBJECT && spec.type != VD_BSON_ARRAY) || spec.len == 0)
        return false;
    vd_bson_iter_init(&iter, vd_value_document(spec)); /* as deep as a request may be */
    while (!found && vd_bson_iter_next(&iter))
        found = vd_slice_is(iter.name, "$meta") && iter.value.type == VD_BSON_STRING
                    ? vd_slice_is(vd_value_string(iter.value), word)
                    : stor_expr_asks_meta(iter.value, word);
    return found;
}

static int parse_meta(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                      stor_expr_t **ret_expr, vd_error_t *err)
{
    static const char *const known[] = {"textScore",
                                        "randVal",
                                        "searchScore",
                                        "searchHighlights",
                                        "geoNearDistance",
                                        "geoNearPoint",
                                        "recordId",
                                        "sortKey",
                                        "searchScoreDetails",
                                        "vectorSearchScore",
                                        "timeseriesBucketMinTime",
                                        "timeseriesBucketMaxTime"};
    if (spec.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(17307), "$meta only supports string arguments");
    vd_slice_t name = vd_value_string(spec);
    if (vd_slice_is(name, "version")) {
        *ret_expr = stor_expr_new(parser, op, 0);
        return VD_OK;
    }
    if (vd_slice_is(name, "indexKey")) {
        *ret_expr = stor_expr_new(parser, op, 0);
        (*ret_expr)->eval = eval_index_key;
        return VD_OK;
    }
    for (size_t i = 0; i < VD_COUNT_OF(known); i++)
        if (vd_slice_is(name, known[i]))
            return vd_error_set(err, VD_ERR_LOCATION(40218),
                                "query requires %s metadata, but it is not available", known[i]);
    return vd_error_set(err, VD_ERR_LOCATION(17308), "Unsupported argument to $meta: %.*s",
                        VD_SLICE_FMT(name));
}

static double random_double(void)
{
    uint64_t bits;
    vd_rand_secret(&bits, sizeof bits);
    return (double)(bits >> 11) * 0x1p-53;
}

static int eval_rand(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    (void)expr, (void)err;
    *ret = vd_value_from_double(env->arena, random_double());
    return VD_OK;
}

static int parse_rand(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                      stor_expr_t **ret_expr, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT && spec.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(10065),
                            "invalid parameter: expected an object ($rand)");
    if (!vd_bson_is_empty(vd_value_document(spec)))
        return vd_error_set(err, VD_ERR_LOCATION(3040501),
                            "$rand does not currently accept arguments");
    *ret_expr = stor_expr_new(parser, op, 0);
    return VD_OK;
}

static int parse_javascript(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                            stor_expr_t **ret_expr, vd_error_t *err)
{
    (void)parser, (void)spec, (void)ret_expr;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                        "%s is not supported: VedDB does not run JavaScript", op->name);
}

static int parse_not_built(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                           stor_expr_t **ret_expr, vd_error_t *err)
{
    (void)parser, (void)spec, (void)ret_expr;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "the expression %s is not built", op->name);
}

static const stor_expr_op_t core_ops[] = {
    STOR_EXPR_OP("$eq", 2, 2, CMP_EQ, eval_compare),
    STOR_EXPR_OP("$ne", 2, 2, CMP_NE, eval_compare),
    STOR_EXPR_OP("$gt", 2, 2, CMP_GT, eval_compare),
    STOR_EXPR_OP("$gte", 2, 2, CMP_GTE, eval_compare),
    STOR_EXPR_OP("$lt", 2, 2, CMP_LT, eval_compare),
    STOR_EXPR_OP("$lte", 2, 2, CMP_LTE, eval_compare),
    STOR_EXPR_OP("$cmp", 2, 2, CMP_CMP, eval_compare),
    STOR_EXPR_OP("$and", 0, STOR_EXPR_ARGS_ANY, 0, eval_and_or),
    STOR_EXPR_OP("$or", 0, STOR_EXPR_ARGS_ANY, 1, eval_and_or),
    STOR_EXPR_OP("$not", 1, 1, 0, eval_not),
    STOR_EXPR_OP_PARSED("$cond", 0, 0, eval_cond, parse_cond),
    STOR_EXPR_OP_PARSED("$ifNull", 0, 0, eval_if_null, parse_if_null),
    STOR_EXPR_OP_PARSED("$switch", 0, 0, eval_switch, parse_switch),
    STOR_EXPR_OP_PARSED("$let", 0, 0, eval_let, parse_let),
    STOR_EXPR_OP_PARSED("$literal", 0, 0, NULL, stor_expr_parse_literal),
    STOR_EXPR_OP_PARSED("$const", 0, 0, NULL, stor_expr_parse_literal),
    STOR_EXPR_OP_PARSED("$meta", STOR_EXPR_VOLATILE, 0, eval_version, parse_meta),
    STOR_EXPR_OP_PARSED("$rand", STOR_EXPR_VOLATILE, 0, eval_rand, parse_rand),
    STOR_EXPR_OP_PARSED("$function", 0, 0, NULL, parse_javascript),
    STOR_EXPR_OP_PARSED("$toHashedIndexKey", 0, 0, NULL, parse_not_built),
    STOR_EXPR_OP_PARSED("$_internalJsEmit", 0, 0, NULL, parse_javascript),
};
const stor_expr_family_t stor_expr_family_core = {core_ops, VD_COUNT_OF(core_ops)};
