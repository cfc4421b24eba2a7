/* veddb-storaged/query/percentile.c — see percentile.h. */
#include "veddb-storaged/query/percentile.h"

#include "veddb-storaged/query/expr_private.h"

#include <math.h>
#include <stdlib.h>

static int parse_p(vd_arena_t *arena, vd_value_t spec, const stor_variables_t *variables,
                   stor_percentile_t *percentile, vd_error_t *err)
{
    stor_expr_t *expr;
    vd_value_t list;
    stor_expr_env_t env;
    int rc = stor_expr_parse(arena, spec, variables, &expr, err);
    if (rc != VD_OK)
        return rc;
    if (stor_expr_reads_document(expr))
        return vd_error_set(err, VD_ERR_LOCATION(7750300),
                            "The $percentile 'p' field must be an array of constant values, but "
                            "found value: %s.",
                            vd_value_to_json(arena, spec, 200));
    stor_expr_env_init(&env, arena, variables);
    rc = stor_expr_run(expr, &env, &list, err);
    if (rc != VD_OK)
        return rc;
    static const char text[] = "The $percentile 'p' field must be an array of numbers from "
                               "[0.0, 1.0], but found: ";
    if (list.type != VD_BSON_ARRAY || vd_bson_is_empty(vd_value_document(list)))
        return vd_error_set(err, VD_ERR_LOCATION(7750301), "%s%s", text,
                            vd_value_to_json(arena, list, 200));
    uint32_t count;
    vd_value_t *values = stor_expr_elements(arena, list, &count);
    double *p = VD_ARENA_ARRAY(arena, double, count);
    for (uint32_t i = 0; i < count; i++) {
        if (!vd_value_is_number(values[i]))
            return vd_error_set(err, VD_ERR_LOCATION(7750302), "%s%s", text,
                                vd_value_to_json(arena, values[i], 200));
        p[i] = vd_value_as_double(values[i]);
        if (!(p[i] >= 0 && p[i] <= 1))
            return vd_error_set(err, VD_ERR_LOCATION(7750303), "%s%g", text, p[i]);
    }
    percentile->p = p;
    percentile->count = count;
    return VD_OK;
}

int stor_percentile_arguments(vd_arena_t *arena, bool median, bool expression, vd_value_t spec,
                              const stor_variables_t *variables, stor_percentile_t *ret_percentile,
                              vd_value_t *ret_input, vd_error_t *err)
{
    static const double half[1] = {0.5};
    const char *name = median ? "$median" : "$percentile";
    vd_value_t method = VD_VALUE_MISSING, p = VD_VALUE_MISSING;
    vd_bson_iter_t iter;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err,
                            VD_ERR_LOCATION(expression ? (median ? 7436201 : 7436200)
                                                       : (median ? 7436100 : 7429703)),
                            "specification must be an object; found %s: %s", name,
                            vd_value_to_json(arena, spec, 200));
    *ret_input = VD_VALUE_MISSING;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "input"))
            *ret_input = iter.value;
        else if (vd_slice_is(iter.name, "method"))
            method = iter.value;
        else if (!median && vd_slice_is(iter.name, "p"))
            p = iter.value;
        else
            return vd_error_set(err, VD_ERR_LOCATION(40415),
                                "BSON field '%s.%.*s' is an unknown field.", name,
                                VD_SLICE_FMT(iter.name));
    }
    const char *missing = vd_value_is_missing(*ret_input)     ? "input"
                          : vd_value_is_missing(method)       ? "method"
                          : !median && vd_value_is_missing(p) ? "p"
                                                              : NULL;
    if (missing != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40414),
                            "BSON field '%s.%s' is missing but a required field", name, missing);
    if (method.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.method' is the wrong type '%s', expected type 'string'",
                            name, stor_expr_type(method));
    if (!vd_slice_is(vd_value_string(method), "approximate"))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Currently only 'approximate' can be used as percentile 'method'.");
    *ret_percentile = (stor_percentile_t){.median = median, .count = 1, .p = half};
    return median ? VD_OK : parse_p(arena, p, variables, ret_percentile, err);
}

int stor_percentile_parse(vd_arena_t *arena, bool median, bool expression, vd_value_t spec,
                          const stor_variables_t *variables, stor_percentile_t *ret_percentile,
                          stor_expr_t **ret_input, vd_error_t *err)
{
    vd_value_t input;
    int rc = stor_percentile_arguments(arena, median, expression, spec, variables, ret_percentile,
                                       &input, err);
    return rc == VD_OK ? stor_expr_parse(arena, input, variables, ret_input, err) : rc;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Mostly one number came to others that are in order already: a window that grows. */
static void order(double *numbers, uint32_t count)
{
    uint32_t sorted = count > 0;
    while (sorted < count && numbers[sorted - 1] <= numbers[sorted])
        sorted++;
    if (count - sorted > 8) {
        qsort(numbers, count, sizeof *numbers, compare_doubles);
        return;
    }
    for (; sorted < count; sorted++) {
        double d = numbers[sorted];
        uint32_t low = 0, high = sorted;
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (numbers[middle] <= d)
                low = middle + 1;
            else
                high = middle;
        }
        memmove(numbers + low + 1, numbers + low, (sorted - low) * sizeof *numbers);
        numbers[low] = d;
    }
}

int stor_percentile_of(const stor_percentile_t *percentile, double *numbers, uint32_t count,
                       vd_arena_t *arena, vd_value_t *ret_value, vd_error_t *err)
{
    stor_expr_array_t array;
    order(numbers, count);
    if (!percentile->median)
        stor_expr_array_begin(&array, arena);
    for (uint32_t i = 0; i < percentile->count; i++) {
        vd_value_t value = vd_value_from_null();
        if (count > 0) {
            double rank = ceil(percentile->p[i] * (double)count) - 1;
            uint32_t at = rank < 0 ? 0 : rank >= count ? count - 1 : (uint32_t)rank;
            value = vd_value_from_double(arena, numbers[at]);
        }
        if (percentile->median) {
            *ret_value = value;
            return VD_OK;
        }
        stor_expr_array_push(&array, value);
    }
    return stor_expr_array_end(&array, ret_value, err);
}
