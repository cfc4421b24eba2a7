/* veddb-storaged/query/expr_array.c — arrays: elements, parts, joining, searching, sorting, the N
 * smallest and largest; arrays <-> objects. */
#include "veddb-storaged/query/expr_private.h"
#include "veddb-storaged/query/sort.h"

/* ---- sorting: merge sort from the bottom, stable ---- */

void stor_expr_sort(vd_arena_t *arena, vd_value_t *values, uint32_t count,
                    stor_expr_compare_t compare, void *context)
{
    vd_value_t *from = values, *to = vd_arena_alloc(arena, sizeof *to * ((size_t)count + 1));
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t start = 0; start < count; start += 2 * width) {
            size_t middle = start + width < count ? start + width : count;
            size_t end = start + 2 * width < count ? start + 2 * width : count;
            size_t left = start, right = middle;
            for (size_t i = start; i < end; i++) {
                bool take_left = left < middle &&
                                 (right == end || compare(from[left], from[right], context) <= 0);
                to[i] = take_left ? from[left++] : from[right++];
            }
        }
        vd_value_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != values)
        memcpy(values, from, sizeof *values * count);
}

static int compare_plain(vd_value_t a, vd_value_t b, void *context)
{
    int direction = *(const int *)context, c = vd_value_compare(a, b);
    return direction > 0 ? c : -c;
}

/* Evaluates operand i; *ret_null when it is nullish. */
static int arg_nullish(const stor_expr_t *expr, uint32_t i, stor_expr_env_t *env, vd_value_t *ret,
                       bool *ret_null, vd_error_t *err)
{
    int rc = stor_expr_arg(expr, i, env, ret, err);
    if (rc == VD_OK)
        *ret_null = vd_value_is_nullish(*ret);
    return rc;
}

/* The one operand of an operator that makes null of what is nullish. *ret_null: it is, and so is
 * *ret. */
static int only_arg(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret_arg,
                    bool *ret_null, vd_value_t *ret, vd_error_t *err)
{
    *ret_null = false;
    int rc = arg_nullish(expr, 0, env, ret_arg, ret_null, err);
    if (rc == VD_OK && *ret_null)
        stor_expr_set_null(ret);
    return rc;
}

static int array_of(stor_expr_env_t *env, const vd_value_t *values, uint32_t count, vd_value_t *ret,
                    vd_error_t *err)
{
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    for (uint32_t i = 0; i < count; i++)
        stor_expr_array_push(&out, values[i]);
    return stor_expr_array_end(&out, ret, err);
}

/* ---- $size, $isArray, $in ---- */

static int eval_size(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (v.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(17124),
                            "The argument to $size must be an array, but was of type: %s",
                            stor_expr_type(v));
    *ret = vd_value_from_int32(env->arena, (int32_t)vd_bson_count(vd_value_document(v)));
    return VD_OK;
}

static int eval_is_array(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                         vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc == VD_OK)
        *ret = vd_value_from_bool(v.type == VD_BSON_ARRAY);
    return rc;
}

static int eval_in(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t v, array;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc == VD_OK)
        rc = stor_expr_arg(expr, 1, env, &array, err);
    if (rc != VD_OK)
        return rc;
    if (array.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(40081),
                            "$in requires an array as a second argument, found: %s",
                            stor_expr_type(array));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(array));
    bool found = false;
    while (!found && vd_bson_iter_next(&iter))
        found = vd_value_equal(v, iter.value);
    *ret = vd_value_from_bool(found);
    return VD_OK;
}

/* ---- $arrayElemAt, $first, $last ---- */

static vd_value_t element_at(vd_value_t array, int64_t position)
{
    vd_bson_t doc = vd_value_document(array);
    if (position < 0)
        position += vd_bson_count(doc);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, doc);
    for (int64_t i = 0; position >= 0 && vd_bson_iter_next(&iter); i++)
        if (i == position)
            return iter.value;
    return VD_VALUE_MISSING;
}

static int check_array(const stor_expr_t *expr, vd_value_t v, vd_error_t *err)
{
    if (v.type == VD_BSON_ARRAY)
        return VD_OK;
    return vd_error_set(err, VD_ERR_LOCATION(28689), "%s's %s must be an array, but is %s",
                        expr->op->name, expr->count == 1 ? "argument" : "first argument",
                        stor_expr_type(v));
}

static int eval_array_elem_at(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                              vd_error_t *err)
{
    vd_value_t array, position;
    bool null_array, null_position;
    int rc = arg_nullish(expr, 0, env, &array, &null_array, err);
    if (rc == VD_OK)
        rc = arg_nullish(expr, 1, env, &position, &null_position, err);
    if (rc != VD_OK)
        return rc;
    if (null_array || null_position) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    rc = check_array(expr, array, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_value_is_number(position))
        return vd_error_set(err, VD_ERR_LOCATION(28690),
                            "$arrayElemAt's second argument must be a numeric value, but is %s",
                            stor_expr_type(position));
    int32_t n;
    if (!stor_expr_as_int32(position, &n))
        return vd_error_set(err, VD_ERR_LOCATION(28691),
                            "$arrayElemAt's second argument must be representable as a 32-bit "
                            "integer: %g",
                            vd_value_as_double(position));
    *ret = element_at(array, n);
    return VD_OK;
}

/* variant: the position, 0 or -1. */
static int eval_first_last(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                           vd_error_t *err)
{
    vd_value_t array;
    bool null;
    int rc = only_arg(expr, env, &array, &null, ret, err);
    if (rc != VD_OK || null)
        return rc;
    rc = check_array(expr, array, err);
    if (rc == VD_OK)
        *ret = element_at(array, expr->op->variant);
    return rc;
}

/* ---- $slice ---- */

static int slice_number(const stor_expr_t *expr, uint32_t i, vd_value_t v, int32_t *ret,
                        vd_error_t *err)
{
    (void)expr;
    const char *which = i == 1 ? "Second" : "Third";
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_LOCATION(i == 1 ? 28725 : 28727),
                            "%s argument to $slice must be a numeric value, but is of type: %s",
                            which, stor_expr_type(v));
    if (!stor_expr_as_int32(v, ret))
        return vd_error_set(err, VD_ERR_LOCATION(i == 1 ? 28726 : 28728),
                            "%s argument to $slice can't be represented as a 32-bit integer: %g",
                            which, vd_value_as_double(v));
    return VD_OK;
}

static int eval_slice(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                      vd_error_t *err)
{
    vd_value_t array, v;
    bool null, null_second;
    int32_t second, third;
    int rc = arg_nullish(expr, 0, env, &array, &null, err);
    if (rc == VD_OK)
        rc = arg_nullish(expr, 1, env, &v, &null_second, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_set_null(ret);
    if (null || null_second)
        return VD_OK;
    if (array.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(28724),
                            "First argument to $slice must be an array, but is of type: %s",
                            stor_expr_type(array));
    rc = slice_number(expr, 1, v, &second, err);
    if (rc != VD_OK)
        return rc;
    uint32_t count;
    vd_value_t *values = stor_expr_elements(env->arena, array, &count);
    int64_t start = 0, take = second;
    if (expr->count == 2) {
        if (second < 0) {
            start = (int64_t)count + second;
            take = count;
        }
    } else {
        rc = arg_nullish(expr, 2, env, &v, &null, err);
        if (rc != VD_OK || null)
            return rc;
        rc = slice_number(expr, 2, v, &third, err);
        if (rc != VD_OK)
            return rc;
        if (third <= 0)
            return vd_error_set(err, VD_ERR_LOCATION(28729),
                                "Third argument to $slice must be positive: %d", third);
        start = second < 0 ? (int64_t)count + second : second;
        take = third;
    }
    start = start < 0 ? 0 : start > count ? count : start;
    if (take > count - start)
        take = count - start;
    return array_of(env, values + start, (uint32_t)take, ret, err);
}

/* ---- $concatArrays, $reverseArray ---- */

static int eval_concat_arrays(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                              vd_error_t *err)
{
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    for (uint32_t i = 0; i < expr->count; i++) {
        vd_value_t v;
        bool null;
        int rc = arg_nullish(expr, i, env, &v, &null, err);
        if (rc == VD_OK)
            rc = stor_expr_check_memory(env, err);
        if (rc != VD_OK)
            return rc;
        if (null) {
            stor_expr_set_null(ret);
            return VD_OK;
        }
        if (v.type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_LOCATION(28664),
                                "$concatArrays only supports arrays, not %s", stor_expr_type(v));
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(v));
        while (vd_bson_iter_next(&iter))
            stor_expr_array_push(&out, iter.value);
    }
    return stor_expr_array_end(&out, ret, err);
}

static int eval_reverse_array(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                              vd_error_t *err)
{
    vd_value_t v;
    bool null;
    int rc = only_arg(expr, env, &v, &null, ret, err);
    if (rc != VD_OK || null)
        return rc;
    if (v.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(34435),
                            "The argument to $reverseArray must be an array, but was of type: %s",
                            stor_expr_type(v));
    uint32_t count;
    vd_value_t *values = stor_expr_elements(env->arena, v, &count);
    for (uint32_t i = 0; i < count / 2; i++) {
        vd_value_t swap = values[i];
        values[i] = values[count - 1 - i];
        values[count - 1 - i] = swap;
    }
    return array_of(env, values, count, ret, err);
}

/* ---- $range ---- */

static int eval_range(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                      vd_error_t *err)
{
    static const char *const names[] = {"starting", "ending", "step"};
    int32_t n[3] = {0, 0, 1};
    for (uint32_t i = 0; i < expr->count; i++) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc != VD_OK)
            return rc;
        if (!vd_value_is_number(v))
            return vd_error_set(err, VD_ERR_LOCATION(34443 + 2 * (int)i),
                                "$range requires a numeric %s value, found value of type: %s",
                                names[i], stor_expr_type(v));
        if (!stor_expr_as_int32(v, &n[i]))
            return vd_error_set(err, VD_ERR_LOCATION(34444 + 2 * (int)i),
                                "$range requires a %s value that can be represented as a 32-bit "
                                "integer",
                                names[i]);
    }
    if (n[2] == 0)
        return vd_error_set(err, VD_ERR_LOCATION(34449), "$range requires a non-zero step value");
    int64_t steps = ((int64_t)n[1] - n[0]) / n[2];
    if (steps > VD_QUERY_MEMORY_MAX_BYTES / 16)
        return vd_error_set(err, VD_ERR_EXCEEDED_MEMORY_LIMIT,
                            "$range would use too much memory (%lld bytes) and cannot spill to "
                            "disk. Memory limit: %d bytes",
                            (long long)steps * 16, VD_QUERY_MEMORY_MAX_BYTES);
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    for (int64_t i = n[0]; n[2] > 0 ? i < n[1] : i > n[1]; i += n[2]) {
        uint8_t bytes[4];
        vd_put_u32(bytes, (uint32_t)(int32_t)i);
        stor_expr_array_push(&out, (vd_value_t){bytes, 4, VD_BSON_INT32});
    }
    return stor_expr_array_end(&out, ret, err);
}

/* ---- $indexOfArray ---- */

static int read_position(const stor_expr_t *expr, uint32_t i, stor_expr_env_t *env, int32_t *ret,
                         vd_error_t *err)
{
    const char *what = i == 2 ? "starting index" : "ending index";
    vd_value_t v;
    int rc = stor_expr_arg(expr, i, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (!stor_expr_as_int32(v, ret))
        return vd_error_set(err, VD_ERR_LOCATION(40096),
                            "$indexOfArray requires an integral %s, found a value of type: %s",
                            what, stor_expr_type(v));
    if (*ret < 0)
        return vd_error_set(err, VD_ERR_LOCATION(40097),
                            "$indexOfArray requires a nonnegative %s, found: %d", what, *ret);
    return VD_OK;
}

static int eval_index_of_array(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                               vd_error_t *err)
{
    vd_value_t array, target;
    bool null;
    int32_t start = 0, end = INT32_MAX;
    int rc = only_arg(expr, env, &array, &null, ret, err);
    if (rc != VD_OK || null)
        return rc;
    if (array.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(40090),
                            "$indexOfArray requires an array as a first argument, found: %s",
                            stor_expr_type(array));
    if (expr->count > 2)
        rc = read_position(expr, 2, env, &start, err);
    if (rc == VD_OK && expr->count > 3)
        rc = read_position(expr, 3, env, &end, err);
    if (rc == VD_OK)
        rc = stor_expr_arg(expr, 1, env, &target, err);
    if (rc != VD_OK)
        return rc;
    int32_t found = -1, i = 0;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(array));
    for (; found < 0 && i < end && vd_bson_iter_next(&iter); i++)
        if (i >= start && vd_value_equal(iter.value, target))
            found = i;
    *ret = vd_value_from_int32(env->arena, found);
    return VD_OK;
}

/* ---- $zip: args inputs then defaults; slot: number of inputs; extra: useLongestLength ---- */

static int parse_zip_list(stor_expr_parser_t *parser, const char *what, int code, vd_value_t spec,
                          stor_expr_t ***ret_list, uint32_t *ret_count, vd_error_t *err)
{
    if (spec.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(code),
                            "%s must be an array of expressions, found %s", what,
                            stor_expr_type(spec));
    uint32_t count = vd_bson_count(vd_value_document(spec));
    *ret_list = VD_ARENA_ARRAY(parser->arena, stor_expr_t *, count + 1);
    *ret_count = count;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    for (uint32_t i = 0; i < count && vd_bson_iter_next(&iter); i++) {
        int rc = stor_expr_parse_operand(parser, iter.value, &(*ret_list)[i], err);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

static int parse_zip(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                     stor_expr_t **ret_expr, vd_error_t *err)
{
    static const uint8_t longest_flag = 1;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(34460),
                            "$zip only supports an object as an argument, found %s",
                            stor_expr_type(spec));
    stor_expr_t **inputs = NULL, **defaults = NULL;
    uint32_t input_count = 0, default_count = 0;
    bool longest = false;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        int rc = VD_OK;
        if (vd_slice_is(iter.name, "inputs"))
            rc = parse_zip_list(parser, "inputs", 34461, iter.value, &inputs, &input_count, err);
        else if (vd_slice_is(iter.name, "defaults"))
            rc = parse_zip_list(parser, "defaults", 34462, iter.value, &defaults, &default_count,
                                err);
        else if (!vd_slice_is(iter.name, "useLongestLength"))
            rc = vd_error_set(err, VD_ERR_LOCATION(34464), "$zip found an unknown argument: %.*s",
                              VD_SLICE_FMT(iter.name));
        else if (iter.value.type != VD_BSON_BOOL)
            rc = vd_error_set(err, VD_ERR_LOCATION(34463),
                              "useLongestLength must be a bool, found %s",
                              stor_expr_type(iter.value));
        else
            longest = vd_value_bool(iter.value);
        if (rc != VD_OK)
            return rc;
    }
    if (input_count == 0)
        return vd_error_set(err, VD_ERR_LOCATION(34465), "$zip requires at least one input array");
    if (!longest && default_count > 0)
        return vd_error_set(err, VD_ERR_LOCATION(34466),
                            "cannot specify defaults unless useLongestLength is true");
    if (default_count > 0 && default_count != input_count)
        return vd_error_set(err, VD_ERR_LOCATION(34467),
                            "defaults and inputs must have the same length");
    stor_expr_t *expr = stor_expr_new(parser, op, input_count + default_count);
    memcpy(expr->args, inputs, input_count * sizeof *inputs);
    if (default_count > 0)
        memcpy(expr->args + input_count, defaults, default_count * sizeof *defaults);
    expr->slot = input_count;
    expr->extra = longest ? (void *)(uintptr_t)&longest_flag : NULL;
    *ret_expr = expr;
    return VD_OK;
}

static int eval_zip(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    uint32_t inputs = expr->slot, rows = expr->extra != NULL ? 0 : UINT32_MAX;
    vd_bson_iter_t *iters = vd_arena_alloc(env->arena, sizeof *iters * inputs);
    vd_value_t *defaults = vd_arena_alloc(env->arena, sizeof *defaults * inputs);
    for (uint32_t i = 0; i < inputs; i++) {
        vd_value_t v;
        bool null;
        int rc = arg_nullish(expr, i, env, &v, &null, err);
        if (rc != VD_OK)
            return rc;
        if (null) {
            stor_expr_set_null(ret);
            return VD_OK;
        }
        if (v.type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_LOCATION(34468),
                                "$zip found a non-array expression in input: %s",
                                stor_expr_type(v));
        uint32_t count = vd_bson_count(vd_value_document(v));
        if (expr->extra != NULL ? count > rows : count < rows)
            rows = count;
        vd_bson_iter_init(&iters[i], vd_value_document(v));
        defaults[i] = vd_value_from_null();
    }
    for (uint32_t i = inputs; i < expr->count; i++) {
        int rc = stor_expr_arg(expr, i, env, &defaults[i - inputs], err);
        if (rc != VD_OK)
            return rc;
    }
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    char name[12];
    for (uint32_t row = 0; row < rows; row++) {
        vd_bb_open_array(&out.bb, vd_array_name(out.count++, name));
        for (uint32_t i = 0; i < inputs; i++) {
            vd_value_t v = vd_bson_iter_next(&iters[i]) ? iters[i].value : defaults[i];
            vd_bb_value(&out.bb, vd_array_name(i, name),
                        vd_value_is_missing(v) ? vd_value_from_null() : v);
        }
        vd_bb_close(&out.bb);
    }
    return stor_expr_array_end(&out, ret, err);
}

/* ---- $arrayToObject, $objectToArray ---- */

/* One [k, v] or {k:, v:}; codes as MongoDB tells the two forms apart. */
static int read_pair(vd_value_t element, bool pairs, vd_slice_t *ret_key, vd_value_t *ret_value,
                     vd_error_t *err)
{
    vd_value_t key = VD_VALUE_MISSING;
    *ret_value = VD_VALUE_MISSING;
    if (element.type != (pairs ? VD_BSON_ARRAY : VD_BSON_OBJECT))
        return vd_error_set(err, VD_ERR_LOCATION(pairs ? 40396 : 40391),
                            "$arrayToObject requires a consistent input format. Elements must all "
                            "be arrays or all be objects. %s was detected, now found: %s",
                            pairs ? "Array" : "Object", stor_expr_type(element));
    uint32_t count = vd_bson_count(vd_value_document(element));
    if (count != 2)
        return vd_error_set(err, VD_ERR_LOCATION(pairs ? 40397 : 40392),
                            "$arrayToObject requires %s, found a size of: %u",
                            pairs ? "an array of size 2 arrays" : "an object keys of 'k' and 'v'",
                            count);
    if (pairs) {
        key = element_at(element, 0);
        *ret_value = element_at(element, 1);
    } else {
        key = vd_bson_get(vd_value_document(element), "k");
        *ret_value = vd_bson_get(vd_value_document(element), "v");
        if (vd_value_is_missing(key) || vd_value_is_missing(*ret_value))
            return vd_error_set(err, VD_ERR_LOCATION(40393),
                                "$arrayToObject requires an object with keys 'k' and 'v'. Missing "
                                "either or both keys");
    }
    if (key.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(pairs ? 40395 : 40394),
                            "$arrayToObject requires the key to be of type string. Found key type: "
                            "%s",
                            stor_expr_type(key));
    *ret_key = vd_value_string(key);
    if (memchr(ret_key->data, 0, ret_key->len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(pairs ? 4940400 : 4940401),
                            "Key field cannot contain an embedded null byte");
    return VD_OK;
}

static int eval_array_to_object(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                                vd_error_t *err)
{
    vd_value_t v;
    bool null;
    int rc = only_arg(expr, env, &v, &null, ret, err);
    if (rc != VD_OK || null)
        return rc;
    if (v.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(40386),
                            "$arrayToObject requires an array input, found: %s", stor_expr_type(v));
    uint32_t count;
    vd_value_t *elements = stor_expr_elements(env->arena, v, &count);
    if (count > 0 && elements[0].type != VD_BSON_ARRAY && elements[0].type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40398),
                            "Unrecognised input type format for $arrayToObject: %s",
                            stor_expr_type(elements[0]));
    bool pairs = count > 0 && elements[0].type == VD_BSON_ARRAY;
    stor_expr_fields_t fields;
    stor_expr_fields_init(&fields, env->arena, count);
    for (uint32_t i = 0; i < count; i++) {
        vd_slice_t key;
        vd_value_t value;
        rc = read_pair(elements[i], pairs, &key, &value, err);
        if (rc != VD_OK)
            return rc;
        stor_expr_fields_set(&fields, key, value);
    }
    return stor_expr_fields_end(&fields, ret, err);
}

static int eval_object_to_array(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                                vd_error_t *err)
{
    vd_value_t v;
    bool null;
    int rc = only_arg(expr, env, &v, &null, ret, err);
    if (rc != VD_OK || null)
        return rc;
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40390),
                            "$objectToArray requires a document input, found: %s",
                            stor_expr_type(v));
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    char name[12];
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    while (vd_bson_iter_next(&iter)) {
        vd_bb_open_document(&out.bb, vd_array_name(out.count++, name));
        vd_bb_string(&out.bb, "k", iter.name);
        vd_bb_value(&out.bb, VD_SLICE_LIT("v"), iter.value);
        vd_bb_close(&out.bb);
    }
    return stor_expr_array_end(&out, ret, err);
}

/* ---- $sortArray: extra is the pattern, or NULL with slot 0 (down) or 1 (up) for whole elements
 * ---- */

static int parse_sort_by(stor_expr_parser_t *parser, vd_value_t by, stor_expr_t *expr,
                         vd_error_t *err)
{
    if (by.type == VD_BSON_OBJECT) {
        stor_sort_t *sort;
        vd_error_t inner = VD_ERROR_INIT;
        if (vd_bson_is_empty(vd_value_document(by)))
            return vd_error_set(err, VD_ERR_LOCATION(2942505),
                                "The sort pattern is empty when it should be a set of fields.");
        if (stor_sort_parse(parser->arena, vd_value_document(by), &sort, &inner) != VD_OK ||
            sort->natural != 0)
            return vd_error_set(err, VD_ERR_LOCATION(2942505), "BadValue: %s", inner.message);
        expr->extra = sort;
        return VD_OK;
    }
    if (!vd_value_is_number(by))
        return vd_error_set(err, VD_ERR_LOCATION(2942507),
                            "The $sort is invalid: use 1/-1 to sort the whole element, or "
                            "{field:1/-1} to sort embedded fields");
    double d = vd_value_as_double(by);
    if (d != 1 && d != -1)
        return vd_error_set(err, VD_ERR_LOCATION(2942506),
                            "The $sort element value must be either 1 or -1");
    expr->slot = d > 0;
    return VD_OK;
}

static int parse_sort_array(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                            stor_expr_t **ret_expr, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(2942500),
                            "$sortArray requires an object as an argument, found: %s",
                            stor_expr_type(spec));
    stor_expr_t *expr = stor_expr_new(parser, op, 1);
    bool has_by = false;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        int rc;
        if (vd_slice_is(iter.name, "input")) {
            rc = stor_expr_parse_operand(parser, iter.value, &expr->args[0], err);
        } else if (vd_slice_is(iter.name, "sortBy")) {
            has_by = true;
            rc = parse_sort_by(parser, iter.value, expr, err);
        } else {
            rc =
                vd_error_set(err, VD_ERR_LOCATION(2942501),
                             "$sortArray found an unknown argument: %.*s", VD_SLICE_FMT(iter.name));
        }
        if (rc != VD_OK)
            return rc;
    }
    if (expr->args[0] == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(2942502),
                            "$sortArray requires 'input' to be specified");
    if (!has_by)
        return vd_error_set(err, VD_ERR_LOCATION(2942503),
                            "$sortArray requires 'sortBy' to be specified");
    *ret_expr = expr;
    return VD_OK;
}

/* The sort's value of an element is a fake "value" whose payload is {key values, element}. */
typedef struct {
    vd_value_t element;
    vd_value_t keys[]; /* sort->count */
} keyed_t;

static int compare_keyed(vd_value_t a, vd_value_t b, void *context)
{
    const keyed_t *left = (const keyed_t *)(const void *)a.data;
    const keyed_t *right = (const keyed_t *)(const void *)b.data;
    return stor_sort_compare(context, left->keys, right->keys);
}

static int sort_by_pattern(const stor_sort_t *sort, stor_expr_env_t *env, vd_value_t *values,
                           uint32_t count, vd_error_t *err)
{
    size_t size = sizeof(keyed_t) + sort->count * sizeof(vd_value_t);
    for (uint32_t i = 0; i < count; i++) {
        keyed_t *keyed = vd_arena_alloc(env->arena, size);
        keyed->element = values[i];
        vd_bson_t doc =
            values[i].type == VD_BSON_OBJECT ? vd_value_document(values[i]) : VD_BSON_NONE;
        int rc = stor_sort_key(sort, env->arena, doc, keyed->keys, err);
        if (rc == VD_OK)
            rc = stor_expr_check_memory(env, err);
        if (rc != VD_OK)
            return rc;
        values[i].data = (const uint8_t *)keyed;
    }
    stor_expr_sort(env->arena, values, count, compare_keyed, (void *)(uintptr_t)sort);
    for (uint32_t i = 0; i < count; i++)
        values[i] = ((const keyed_t *)(const void *)values[i].data)->element;
    return VD_OK;
}

static int eval_sort_array(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                           vd_error_t *err)
{
    vd_value_t v;
    bool null;
    int rc = only_arg(expr, env, &v, &null, ret, err);
    if (rc != VD_OK || null)
        return rc;
    if (v.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(2942504),
                            "The input argument to $sortArray must be an array, but was of type: "
                            "%s",
                            stor_expr_type(v));
    uint32_t count;
    vd_value_t *values = stor_expr_elements(env->arena, v, &count);
    int direction = expr->slot == 1 ? 1 : -1;
    if (expr->extra != NULL)
        rc = sort_by_pattern(expr->extra, env, values, count, err);
    else
        stor_expr_sort(env->arena, values, count, compare_plain, &direction);
    return rc == VD_OK ? array_of(env, values, count, ret, err) : rc;
}

/* ---- $firstN, $lastN, $minN, $maxN: args n, input ---- */

enum { N_FIRST, N_LAST, N_MIN, N_MAX };

static int parse_n(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                   stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {{"n", 5787906}, {"input", 5787907}};
    static const stor_expr_named_t named = {5787900, 5787901, fields, VD_COUNT_OF(fields)};
    return stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
}

int stor_expr_read_n(vd_value_t v, const char *op, int64_t *ret_n, vd_error_t *err)
{
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_LOCATION(5787902),
                            "Value for 'n' must be of integral type, but found %s (%s)",
                            stor_expr_type(v), op);
    if (!vd_value_as_int64(v, ret_n))
        return vd_error_set(err, VD_ERR_LOCATION(5787903),
                            "Value for 'n' must be of integral type, but found a value of type %s "
                            "(%s)",
                            stor_expr_type(v), op);
    if (*ret_n <= 0)
        return vd_error_set(err, VD_ERR_LOCATION(5787908), "'n' must be greater than 0, found %lld",
                            (long long)*ret_n);
    return VD_OK;
}

static int eval_n(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t n_value, input;
    int64_t n;
    int rc = stor_expr_arg(expr, 0, env, &n_value, err);
    if (rc == VD_OK)
        rc = stor_expr_read_n(n_value, expr->op->name, &n, err);
    if (rc == VD_OK)
        rc = stor_expr_arg(expr, 1, env, &input, err);
    if (rc != VD_OK)
        return rc;
    if (input.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(5788200), "Input must be an array, found %s (%s)",
                            stor_expr_type(input), expr->op->name);
    uint32_t count, kept = 0;
    vd_value_t *values = stor_expr_elements(env->arena, input, &count);
    int kind = expr->op->variant, direction = kind == N_MIN ? 1 : -1;
    if (kind == N_MIN || kind == N_MAX) {
        for (uint32_t i = 0; i < count; i++)
            if (!vd_value_is_nullish(values[i]))
                values[kept++] = values[i];
        count = kept;
        stor_expr_sort(env->arena, values, count, compare_plain, &direction);
    }
    uint32_t take = n < count ? (uint32_t)n : count;
    return array_of(env, kind == N_LAST ? values + (count - take) : values, take, ret, err);
}

static const stor_expr_op_t array_ops[] = {
    STOR_EXPR_OP("$size", 1, 1, 0, eval_size),
    STOR_EXPR_OP("$isArray", 1, 1, 0, eval_is_array),
    STOR_EXPR_OP("$in", 2, 2, 0, eval_in),
    STOR_EXPR_OP("$arrayElemAt", 2, 2, 0, eval_array_elem_at),
    STOR_EXPR_OP("$first", 1, 1, 0, eval_first_last),
    STOR_EXPR_OP("$last", 1, 1, -1, eval_first_last),
    STOR_EXPR_OP("$slice", 2, 3, 0, eval_slice),
    STOR_EXPR_OP("$concatArrays", 0, STOR_EXPR_ARGS_ANY, 0, eval_concat_arrays),
    STOR_EXPR_OP("$reverseArray", 1, 1, 0, eval_reverse_array),
    STOR_EXPR_OP("$range", 2, 3, 0, eval_range),
    STOR_EXPR_OP("$indexOfArray", 2, 4, 0, eval_index_of_array),
    STOR_EXPR_OP_PARSED("$zip", 0, 0, eval_zip, parse_zip),
    STOR_EXPR_OP("$arrayToObject", 1, 1, 0, eval_array_to_object),
    STOR_EXPR_OP("$objectToArray", 1, 1, 0, eval_object_to_array),
    STOR_EXPR_OP_PARSED("$sortArray", 0, 0, eval_sort_array, parse_sort_array),
    STOR_EXPR_OP_PARSED("$firstN", 0, N_FIRST, eval_n, parse_n),
    STOR_EXPR_OP_PARSED("$lastN", 0, N_LAST, eval_n, parse_n),
    STOR_EXPR_OP_PARSED("$minN", 0, N_MIN, eval_n, parse_n),
    STOR_EXPR_OP_PARSED("$maxN", 0, N_MAX, eval_n, parse_n),
};
const stor_expr_family_t stor_expr_family_array = {array_ops, VD_COUNT_OF(array_ops)};
