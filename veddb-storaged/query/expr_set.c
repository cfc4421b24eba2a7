/* veddb-storaged/query/expr_set.c — arrays as sets. Results of $setUnion and $setIntersection are
 * in the order of values, as MongoDB's. */
#include "veddb-storaged/query/expr_private.h"

static int compare_values(vd_value_t a, vd_value_t b, void *context)
{
    (void)context;
    return vd_value_compare(a, b);
}

/* Sorted, without doubles. */
typedef struct {
    vd_value_t *values;
    uint32_t count;
} set_t;

static void set_settle(vd_arena_t *arena, set_t *set)
{
    stor_expr_sort(arena, set->values, set->count, compare_values, NULL);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < set->count; i++)
        if (kept == 0 || !vd_value_equal(set->values[kept - 1], set->values[i]))
            set->values[kept++] = set->values[i];
    set->count = kept;
}

static bool set_has(const set_t *set, vd_value_t v)
{
    uint32_t low = 0, high = set->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int c = vd_value_compare(set->values[middle], v);
        if (c == 0)
            return true;
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

static set_t set_of(vd_arena_t *arena, vd_value_t array)
{
    set_t set;
    set.values = stor_expr_elements(arena, array, &set.count);
    set_settle(arena, &set);
    return set;
}

static int set_result(const set_t *set, vd_arena_t *arena, vd_value_t *ret, vd_error_t *err)
{
    stor_expr_array_t out;
    stor_expr_array_begin(&out, arena);
    for (uint32_t i = 0; i < set->count; i++)
        stor_expr_array_push(&out, set->values[i]);
    return stor_expr_array_end(&out, ret, err);
}

/* ---- $setUnion, $setIntersection ---- */

static int eval_union(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                      vd_error_t *err)
{
    vd_value_t *arrays = vd_arena_alloc(env->arena, sizeof *arrays * ((size_t)expr->count + 1));
    uint64_t total = 0;
    for (uint32_t i = 0; i < expr->count; i++) {
        int rc = stor_expr_arg(expr, i, env, &arrays[i], err);
        if (rc != VD_OK)
            return rc;
        if (vd_value_is_nullish(arrays[i])) {
            stor_expr_set_null(ret);
            return VD_OK;
        }
        if (arrays[i].type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_LOCATION(17043),
                                "All operands of $setUnion must be arrays. One argument is of "
                                "type: %s",
                                stor_expr_type(arrays[i]));
        total += vd_bson_count(vd_value_document(arrays[i]));
    }
    if (total > VD_QUERY_MEMORY_MAX_BYTES / sizeof(vd_value_t))
        return vd_error_set(err, VD_ERR_EXCEEDED_MEMORY_LIMIT, "$setUnion has too many elements");
    set_t set = {vd_arena_alloc(env->arena, sizeof(vd_value_t) * (total + 1)), 0};
    for (uint32_t i = 0; i < expr->count; i++) {
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(arrays[i]));
        while (set.count < total && vd_bson_iter_next(&iter))
            set.values[set.count++] = iter.value;
    }
    set_settle(env->arena, &set);
    return set_result(&set, env->arena, ret, err);
}

static int eval_intersection(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                             vd_error_t *err)
{
    set_t common = {NULL, 0};
    for (uint32_t i = 0; i < expr->count; i++) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc != VD_OK)
            return rc;
        if (vd_value_is_nullish(v)) {
            stor_expr_set_null(ret);
            return VD_OK;
        }
        if (v.type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_LOCATION(17047),
                                "All operands of $setIntersection must be arrays. One argument is "
                                "of type: %s",
                                stor_expr_type(v));
        set_t next = set_of(env->arena, v);
        uint32_t kept = 0;
        if (i == 0) {
            common = next;
            continue;
        }
        for (uint32_t j = 0; j < common.count; j++)
            if (set_has(&next, common.values[j]))
                common.values[kept++] = common.values[j];
        common.count = kept;
    }
    return set_result(&common, env->arena, ret, err);
}

/* ---- two arrays ---- */

static int eval_difference(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                           vd_error_t *err)
{
    vd_value_t v[2];
    int rc = stor_expr_arg(expr, 0, env, &v[0], err);
    if (rc == VD_OK)
        rc = stor_expr_arg(expr, 1, env, &v[1], err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(v[0]) || vd_value_is_nullish(v[1])) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    for (int i = 0; i < 2; i++)
        if (v[i].type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_LOCATION(17048 + i),
                                "both operands of $setDifference must be arrays. %s argument is of "
                                "type: %s",
                                i == 0 ? "First" : "Second", stor_expr_type(v[i]));
    /* The order of the left array stays; a double is dropped by looking at what the sorted left
     * side holds. */
    set_t left = set_of(env->arena, v[0]), right = set_of(env->arena, v[1]);
    bool *taken = vd_arena_zalloc(env->arena, (size_t)left.count + 1);
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v[0]));
    while (vd_bson_iter_next(&iter)) {
        uint32_t low = 0, high = left.count;
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (vd_value_compare(left.values[middle], iter.value) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        if (taken[low] || set_has(&right, iter.value))
            continue;
        taken[low] = true;
        stor_expr_array_push(&out, iter.value);
    }
    return stor_expr_array_end(&out, ret, err);
}

static int eval_is_subset(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                          vd_error_t *err)
{
    static const int codes[2] = {17046, 17042};
    vd_value_t v[2];
    for (uint32_t i = 0; i < 2; i++) {
        int rc = stor_expr_arg(expr, i, env, &v[i], err);
        if (rc != VD_OK)
            return rc;
    }
    for (int i = 0; i < 2; i++)
        if (v[i].type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_LOCATION(codes[i]),
                                "both operands of $setIsSubset must be arrays. %s argument is of "
                                "type: %s",
                                i == 0 ? "First" : "Second", stor_expr_type(v[i]));
    set_t right = set_of(env->arena, v[1]);
    bool subset = true;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v[0]));
    while (subset && vd_bson_iter_next(&iter))
        subset = set_has(&right, iter.value);
    *ret = vd_value_from_bool(subset);
    return VD_OK;
}

static int eval_equals(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                       vd_error_t *err)
{
    set_t first = {NULL, 0};
    bool equal = true;
    for (uint32_t i = 0; i < expr->count && equal; i++) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc != VD_OK)
            return rc;
        if (v.type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_LOCATION(17044),
                                "All operands of $setEquals must be arrays. %u-th argument is of "
                                "type: %s",
                                i + 1, stor_expr_type(v));
        set_t set = set_of(env->arena, v);
        if (i == 0)
            first = set;
        equal = set.count == first.count;
        for (uint32_t j = 0; j < set.count && equal; j++)
            equal = vd_value_equal(set.values[j], first.values[j]);
    }
    *ret = vd_value_from_bool(equal);
    return VD_OK;
}

static int parse_equals(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                        stor_expr_t **ret_expr, vd_error_t *err)
{
    int rc = stor_expr_parse_positional(parser, op, spec, ret_expr, err);
    if (rc == VD_OK && (*ret_expr)->count < 2)
        return vd_error_set(err, VD_ERR_LOCATION(17045),
                            "$setEquals needs at least two arguments had: %u", (*ret_expr)->count);
    return rc;
}

/* variant 0: all, 1: any. */
static int eval_elements_true(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                              vd_error_t *err)
{
    bool any = expr->op->variant == 1;
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (v.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(any ? 17041 : 17040),
                            "%s's argument must be an array, but is %s", expr->op->name,
                            stor_expr_type(v));
    bool result = !any;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    while (result == !any && vd_bson_iter_next(&iter))
        result = vd_value_truthy(iter.value);
    *ret = vd_value_from_bool(result);
    return VD_OK;
}

static const stor_expr_op_t set_ops[] = {
    STOR_EXPR_OP("$setUnion", 0, STOR_EXPR_ARGS_ANY, 0, eval_union),
    STOR_EXPR_OP("$setIntersection", 0, STOR_EXPR_ARGS_ANY, 0, eval_intersection),
    STOR_EXPR_OP("$setDifference", 2, 2, 0, eval_difference),
    STOR_EXPR_OP("$setIsSubset", 2, 2, 0, eval_is_subset),
    STOR_EXPR_OP_PARSED("$setEquals", 0, 0, eval_equals, parse_equals),
    STOR_EXPR_OP("$allElementsTrue", 1, 1, 0, eval_elements_true),
    STOR_EXPR_OP("$anyElementTrue", 1, 1, 1, eval_elements_true),
};
const stor_expr_family_t stor_expr_family_set = {set_ops, VD_COUNT_OF(set_ops)};
