/* veddb-storaged/pipeline/window_parse.c — window functions and their windows, read and checked as
 * MongoDB 7.0 does. */
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "libcommon/bson/decimal.h"
#include "veddb-storaged/pipeline/window.h"
#include "veddb-storaged/query/date.h"

#include <math.h>

/* ---- arithmetic ---- */

int stor_calc_init(stor_calc_t *calc, vd_arena_t *arena, vd_error_t *err)
{
    static const char *const names[] = {"$add", "$subtract", "$multiply", "$divide", "$mod"};
    memset(calc, 0, sizeof *calc);
    calc->variables.count = 2;
    calc->variables.let[0].name = VD_SLICE_LIT("a");
    calc->variables.let[1].name = VD_SLICE_LIT("b");
    for (size_t i = 0; i < VD_COUNT_OF(names); i++) {
        vd_bb_t bb;
        vd_bson_t spec;
        vd_bb_init_arena(&bb, arena, 256);
        vd_bb_begin_array(&bb, names[i]);
        vd_bb_cstr(&bb, "0", "$$a");
        vd_bb_cstr(&bb, "1", "$$b");
        vd_bb_close(&bb);
        int rc = vd_bb_finish(&bb, &spec, err);
        if (rc == VD_OK)
            rc = stor_expr_parse(arena, vd_value_from_document(spec), &calc->variables,
                                 &calc->ops[i], err);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

int stor_calc_run(stor_calc_t *calc, vd_arena_t *arena, stor_op_t op, vd_value_t a, vd_value_t b,
                  vd_value_t *ret, vd_error_t *err)
{
    stor_expr_env_t env;
    calc->variables.let[0].value = a;
    calc->variables.let[1].value = b;
    stor_expr_env_init(&env, arena, &calc->variables);
    return stor_expr_eval(calc->ops[op], &env, ret, err);
}

/* ---- constants ---- */

static int constant(vd_arena_t *arena, vd_value_t spec, const stor_variables_t *variables,
                    const char *message, vd_value_t *ret, vd_error_t *err)
{
    stor_expr_t *expr;
    stor_expr_env_t env;
    int rc = stor_expr_parse(arena, spec, variables, &expr, err);
    if (rc == VD_OK && stor_expr_reads_document(expr))
        rc = vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "%s", message);
    if (rc != VD_OK)
        return rc;
    stor_expr_env_init(&env, arena, variables);
    return stor_expr_eval(expr, &env, ret, err);
}

/* ---- bounds ---- */

static int parse_bound(vd_arena_t *arena, vd_value_t spec, const stor_variables_t *variables,
                       const stor_window_t *window, stor_bound_t *bound, vd_error_t *err)
{
    if (spec.type == VD_BSON_STRING) {
        vd_slice_t text = vd_value_string(spec);
        if (vd_slice_is(text, "unbounded"))
            bound->kind = STOR_BOUND_UNBOUNDED;
        else if (vd_slice_is(text, "current"))
            bound->kind = STOR_BOUND_CURRENT;
        else
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "Window bounds must be 'unbounded', 'current', or a number.");
        return VD_OK;
    }
    int rc = constant(arena, spec, variables, "Window bounds expression must be a constant.",
                      &bound->value, err);
    if (rc != VD_OK)
        return rc;
    bound->kind = STOR_BOUND_VALUE;
    if (window->range && window->unit < 0)
        return vd_value_is_number(bound->value)
                   ? VD_OK
                   : vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                  "Range-based bounds expression must be a number");
    if (!vd_value_is_number(bound->value) || !vd_value_as_int64(bound->value, &bound->offset) ||
        bound->offset > INT32_MAX || bound->offset < INT32_MIN)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            window->range ? "With 'unit', range-based bounds must be an integer"
                                          : "Numeric document-based bounds must be an integer");
    return VD_OK;
}

static int check_forward(vd_arena_t *arena, const stor_window_t *window, vd_error_t *err)
{
    const stor_bound_t *bounds[2] = {&window->lower, &window->upper};
    vd_value_t values[2];
    for (int i = 0; i < 2; i++) {
        if (bounds[i]->kind == STOR_BOUND_UNBOUNDED)
            return VD_OK;
        values[i] = bounds[i]->kind == STOR_BOUND_CURRENT ? vd_value_from_int32(arena, 0)
                                                          : bounds[i]->value;
    }
    if (vd_value_compare(values[0], values[1]) <= 0)
        return VD_OK;
    return vd_error_set(
        err, VD_ERR_LOCATION(5339900), "Lower bound must not exceed upper bound: [%s, %s]",
        vd_value_to_json(arena, values[0], 50), vd_value_to_json(arena, values[1], 50));
}

static int parse_pair(vd_arena_t *arena, vd_value_t pair, const stor_variables_t *variables,
                      stor_window_t *window, vd_error_t *err)
{
    if (pair.type != VD_BSON_ARRAY || vd_bson_count(vd_value_document(pair)) != 2)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Window bounds must be a 2-element array: %s",
                            vd_value_to_json(arena, pair, 200));
    vd_bson_t both = vd_value_document(pair);
    int rc = parse_bound(arena, vd_bson_get(both, "0"), variables, window, &window->lower, err);
    if (rc == VD_OK)
        rc = parse_bound(arena, vd_bson_get(both, "1"), variables, window, &window->upper, err);
    return rc == VD_OK ? check_forward(arena, window, err) : rc;
}

static int parse_window(vd_arena_t *arena, vd_value_t spec, const stor_sort_t *sort_by,
                        const stor_variables_t *variables, stor_window_t *window, vd_error_t *err)
{
    *window = (stor_window_t){.unit = -1};
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "'window' field must be an object");
    vd_bson_t doc = vd_value_document(spec);
    vd_value_t documents = vd_bson_get(doc, "documents"), range = vd_bson_get(doc, "range"),
               unit = vd_bson_get(doc, "unit");
    bool has_documents = !vd_value_is_missing(documents), has_range = !vd_value_is_missing(range),
         has_unit = !vd_value_is_missing(unit);
    uint32_t count = vd_bson_count(doc);
    if (has_documents && has_range)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Window bounds can specify either 'documents' or 'unit', not both.");
    if (has_unit && !has_range)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Window bounds can only specify 'unit' with range-based bounds.");
    if (!has_range && !has_documents)
        return count == 0 ? VD_OK
                          : vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                         "'window' field can only contain 'documents' as the only "
                                         "argument or 'range' with an optional 'unit' field");
    if (has_documents) {
        if (count != 1)
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "'window' field that specifies documents cannot have other fields");
        int rc = parse_pair(arena, documents, variables, window, err);
        if (rc == VD_OK && sort_by == NULL &&
            (window->lower.kind != STOR_BOUND_UNBOUNDED ||
             window->upper.kind != STOR_BOUND_UNBOUNDED))
            rc = vd_error_set(err, VD_ERR_LOCATION(5339901),
                              "Document-based bounds require a sortBy");
        return rc;
    }
    window->range = true;
    if (count != 1 + (uint32_t)has_unit)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            has_unit ? "'window' field that specifies unit cannot have other "
                                       "fields besides 'range'"
                                     : "'window' field that specifies range cannot have other "
                                       "fields besides 'unit'");
    if (has_unit && unit.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "'unit' must be a string");
    if (has_unit && !stor_date_unit_find(vd_value_string(unit), &window->unit))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "unknown time unit value: %.*s",
                            VD_SLICE_FMT(vd_value_string(unit)));
    int rc = parse_pair(arena, range, variables, window, err);
    if (rc == VD_OK && (sort_by == NULL || sort_by->count != 1 || sort_by->directions[0] != 1))
        rc = vd_error_set(err, VD_ERR_LOCATION(5339902),
                          "Range-based bounds require sortBy a single ascending field");
    return rc;
}

/* ---- functions ---- */

typedef struct {
    vd_arena_t *arena;
    const stor_variables_t *variables;
    const stor_sort_t *sort_by;
    vd_value_t argument, window; /* window MISSING: not given */
    uint32_t fields;
    vd_error_t *err;
} parse_t;

#define failed(parse, ...) vd_error_set((parse)->err, VD_ERR_FAILED_TO_PARSE, __VA_ARGS__)

static int parse_plain(parse_t *parse, stor_function_t *f)
{
    return stor_expr_parse(parse->arena, parse->argument, parse->variables, &f->input, parse->err);
}

/* $group's own: the accumulator reads its arguments. */
static int parse_accumulator(parse_t *parse, stor_function_t *f)
{
    vd_bb_t bb;
    vd_bson_t spec;
    vd_bb_init_arena(&bb, parse->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_value(&bb, vd_slice_str(f->name), parse->argument);
    int rc = vd_bb_finish(&bb, &spec, parse->err);
    if (rc == VD_OK)
        rc = stor_accumulator_parse(parse->arena, VD_SLICE_LIT("output"),
                                    vd_value_from_document(spec), parse->variables, &f->accumulator,
                                    parse->err);
    return rc;
}

static int parse_count(parse_t *parse, stor_function_t *f)
{
    (void)f;
    if (parse->argument.type != VD_BSON_OBJECT ||
        !vd_bson_is_empty(vd_value_document(parse->argument)))
        return failed(parse, "$count only accepts an empty object as input");
    return VD_OK;
}

static int parse_rank(parse_t *parse, stor_function_t *f)
{
    if (parse->fields != 1)
        return vd_error_set(parse->err, VD_ERR_LOCATION(5371601),
                            "Rank style window functions take no other arguments");
    if (parse->argument.type != VD_BSON_OBJECT ||
        !vd_bson_is_empty(vd_value_document(parse->argument)))
        return vd_error_set(parse->err, VD_ERR_LOCATION(5371603),
                            "%s must be specified with '{}' as the value", f->name);
    if (parse->sort_by == NULL || parse->sort_by->count != 1)
        return vd_error_set(parse->err, VD_ERR_LOCATION(5371602),
                            "%s must be specified with a top level sortBy expression with exactly "
                            "one element",
                            f->name);
    return VD_OK;
}

static int parse_fill(parse_t *parse, stor_function_t *f)
{
    if (!vd_value_is_missing(parse->window))
        return failed(parse, "'window' field is not allowed in %s", f->name);
    if (f->kind == STOR_FUNCTION_LINEAR_FILL &&
        (parse->sort_by == NULL || parse->sort_by->count != 1))
        return vd_error_set(parse->err, VD_ERR_LOCATION(605001),
                            "%s must be specified with a top level sortBy expression with exactly "
                            "one element",
                            f->name);
    return parse_plain(parse, f);
}

static int parse_shift(parse_t *parse, stor_function_t *f)
{
    bool by = false;
    vd_bson_iter_t iter;
    if (!vd_value_is_missing(parse->window))
        return failed(parse, "%s does not accept a 'window' field", f->name);
    if (parse->argument.type != VD_BSON_OBJECT)
        return failed(parse, "Argument to %s must be an object", f->name);
    f->fallback = vd_value_from_null();
    vd_bson_iter_init(&iter, vd_value_document(parse->argument));
    while (vd_bson_iter_next(&iter)) {
        int rc = VD_OK;
        if (vd_slice_is(iter.name, "output")) {
            rc = stor_expr_parse(parse->arena, iter.value, parse->variables, &f->input, parse->err);
        } else if (vd_slice_is(iter.name, "default")) {
            rc = constant(parse->arena, iter.value, parse->variables,
                          "'$shift:default' expression must yield a constant value.", &f->fallback,
                          parse->err);
        } else if (vd_slice_is(iter.name, "by")) {
            by = true;
            if (!vd_value_is_number(iter.value) || !vd_value_as_int64(iter.value, &f->by) ||
                f->by > INT32_MAX || f->by < INT32_MIN)
                rc = vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                                  "'$shift:by' field must be an integer, but found  %s",
                                  vd_value_to_json(parse->arena, iter.value, 100));
        } else {
            rc = failed(parse, "Unknown argument in %s", f->name);
        }
        if (rc != VD_OK)
            return rc;
    }
    if (f->input == NULL)
        return failed(parse, "%s requires an 'output' expression.", f->name);
    if (!by)
        return failed(parse, "%s requires 'by' as an integer value.", f->name);
    if (parse->sort_by == NULL)
        return failed(parse, "'%s' requires a sortBy", f->name);
    return VD_OK;
}

static int parse_exp(parse_t *parse, stor_function_t *f)
{
    vd_bson_t doc =
        parse->argument.type == VD_BSON_OBJECT ? vd_value_document(parse->argument) : VD_BSON_NONE;
    if (parse->fields != 1 || parse->argument.type != VD_BSON_OBJECT)
        return failed(parse, "%s must have exactly one argument that is an object", f->name);
    vd_value_t input = vd_bson_get(doc, "input"), n = vd_bson_get(doc, "N"),
               alpha = vd_bson_get(doc, "alpha");
    if (vd_bson_count(doc) != 2 || vd_value_is_missing(input) ||
        (vd_value_is_missing(n) && vd_value_is_missing(alpha)))
        return failed(parse,
                      "%s sub object must have exactly two fields: An 'input' field, and either an "
                      "'N' field or an 'alpha' field",
                      f->name);
    if (parse->sort_by == NULL)
        return failed(parse, "%s requires an explicit 'sortBy'", f->name);
    if (!vd_value_is_missing(n)) {
        int64_t whole;
        if (!vd_value_is_number(n))
            return failed(parse, "'N' field must be an integer, but found type %s",
                          vd_bson_type_name(n.type));
        if (!vd_value_as_int64(n, &whole))
            return failed(parse,
                          "'N' field must be an integer, but found  %s. To use a non-integer, use "
                          "the 'alpha' argument instead",
                          vd_value_to_json(parse->arena, n, 100));
        if (whole <= 0)
            return failed(parse, "'N' must be greater than zero. Got %s",
                          vd_value_to_json(parse->arena, n, 100));
        f->alpha =
            vd_decimal_div(vd_decimal_from_int64(2),
                           vd_decimal_add(vd_decimal_from_int64(whole), vd_decimal_from_int64(1)));
    } else {
        if (!vd_value_is_number(alpha))
            return failed(parse, "'alpha' must be a number");
        f->alpha = vd_value_as_decimal(alpha);
        if (vd_decimal_compare(f->alpha, vd_decimal_from_int64(0)) <= 0 ||
            vd_decimal_compare(f->alpha, vd_decimal_from_int64(1)) >= 0)
            return failed(parse, "'alpha' must be between 0 and 1 (exclusive), found %s",
                          vd_value_to_json(parse->arena, alpha, 100));
    }
    parse->argument = input;
    return parse_plain(parse, f);
}

/* $derivative, $integral */
static int parse_with_unit(parse_t *parse, stor_function_t *f)
{
    vd_bson_iter_t iter;
    if (parse->sort_by == NULL)
        return failed(parse, "%s requires a sortBy", f->name);
    if (parse->sort_by->count != 1)
        return failed(parse, "%s requires a non-compound sortBy", f->name);
    if (parse->argument.type != VD_BSON_OBJECT)
        return vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                            "%s expects an object, but got a %s: %s", f->name,
                            vd_bson_type_name(parse->argument.type),
                            vd_value_to_json(parse->arena, parse->argument, 100));
    vd_bson_iter_init(&iter, vd_value_document(parse->argument));
    while (vd_bson_iter_next(&iter)) {
        int rc = VD_OK, unit;
        if (vd_slice_is(iter.name, "input"))
            rc = stor_expr_parse(parse->arena, iter.value, parse->variables, &f->input, parse->err);
        else if (!vd_slice_is(iter.name, "unit"))
            rc = vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                              "%s got unexpected argument: %.*s", f->name, VD_SLICE_FMT(iter.name));
        else if (iter.value.type != VD_BSON_STRING)
            rc = failed(parse, "'unit' must be a string, but got %s",
                        vd_bson_type_name(iter.value.type));
        else if (!stor_date_unit_find(vd_value_string(iter.value), &unit))
            rc = vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE, "unknown time unit value: %.*s",
                              VD_SLICE_FMT(vd_value_string(iter.value)));
        else if ((f->unit_ms = stor_date_unit_ms(unit)) == 0)
            rc = vd_error_set(parse->err, VD_ERR_LOCATION(5490710),
                              "unit must be 'week' or smaller");
        if (rc != VD_OK)
            return rc;
    }
    if (f->input == NULL)
        return failed(parse, "%s requires an 'input' expression", f->name);
    if (f->kind == STOR_FUNCTION_DERIVATIVE && vd_value_is_missing(parse->window))
        return failed(parse, "%s requires explicit window bounds", f->name);
    return VD_OK;
}

static const struct {
    const char *name;
    stor_function_kind_t kind;
    int (*parse)(parse_t *parse, stor_function_t *f);
} functions[] = {
    {"$sum", STOR_FUNCTION_SUM, parse_plain},
    {"$avg", STOR_FUNCTION_AVG, parse_plain},
    {"$count", STOR_FUNCTION_COUNT, parse_count},
    {"$min", STOR_FUNCTION_MIN, parse_plain},
    {"$max", STOR_FUNCTION_MAX, parse_plain},
    {"$stdDevPop", STOR_FUNCTION_STD_POP, parse_plain},
    {"$stdDevSamp", STOR_FUNCTION_STD_SAMP, parse_plain},
    {"$covariancePop", STOR_FUNCTION_COVARIANCE_POP, parse_plain},
    {"$covarianceSamp", STOR_FUNCTION_COVARIANCE_SAMP, parse_plain},
    {"$integral", STOR_FUNCTION_INTEGRAL, parse_with_unit},
    {"$derivative", STOR_FUNCTION_DERIVATIVE, parse_with_unit},
    {"$first", STOR_FUNCTION_FIRST, parse_plain},
    {"$last", STOR_FUNCTION_LAST, parse_plain},
    {"$shift", STOR_FUNCTION_SHIFT, parse_shift},
    {"$expMovingAvg", STOR_FUNCTION_EXP_MOVING_AVG, parse_exp},
    {"$linearFill", STOR_FUNCTION_LINEAR_FILL, parse_fill},
    {"$locf", STOR_FUNCTION_LOCF, parse_fill},
    {"$rank", STOR_FUNCTION_RANK, parse_rank},
    {"$denseRank", STOR_FUNCTION_DENSE_RANK, parse_rank},
    {"$documentNumber", STOR_FUNCTION_DOCUMENT_NUMBER, parse_rank},
    {"$push", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$addToSet", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$top", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$topN", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$bottom", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$bottomN", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$firstN", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$lastN", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$minN", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$maxN", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$median", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
    {"$percentile", STOR_FUNCTION_ACCUMULATOR, parse_accumulator},
};

static size_t find(vd_slice_t name)
{
    size_t i = 0;
    while (i < VD_COUNT_OF(functions) && !vd_slice_is(name, functions[i].name))
        i++;
    return i;
}

/* Which function it is; nothing else may stand beside it and its window. */
static int take_apart(parse_t *parse, vd_bson_t spec, size_t *ret_which)
{
    vd_bson_iter_t iter;
    size_t which = VD_COUNT_OF(functions);
    vd_slice_t first = VD_SLICE_NULL;
    vd_bson_iter_init(&iter, spec);
    while (which == VD_COUNT_OF(functions) && vd_bson_iter_next(&iter)) {
        if (parse->fields++ == 0)
            first = iter.name;
        if (iter.name.len == 0 || iter.name.data[0] != '$')
            continue;
        if ((which = find(iter.name)) == VD_COUNT_OF(functions))
            return vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                                "Unrecognized window function, %.*s", VD_SLICE_FMT(iter.name));
        parse->argument = iter.value;
    }
    if (which == VD_COUNT_OF(functions))
        return vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                            "Expected a $-prefixed window function%s%.*s",
                            first.len > 0 ? ", " : "", VD_SLICE_FMT(first));
    parse->fields = vd_bson_count(spec);
    vd_bson_iter_init(&iter, spec);
    for (bool seen = false; vd_bson_iter_next(&iter);) {
        if (vd_slice_is(iter.name, "window")) {
            parse->window = iter.value;
        } else if (find(iter.name) == VD_COUNT_OF(functions)) {
            if (iter.name.len > 0)
                return vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                                    "Window function found an unknown argument: %.*s",
                                    VD_SLICE_FMT(iter.name));
        } else if (seen) {
            return failed(parse, "Cannot specify two functions in window function spec");
        } else {
            seen = true;
        }
    }
    *ret_which = which;
    return VD_OK;
}

int stor_function_parse(vd_arena_t *arena, vd_slice_t path, vd_value_t spec,
                        const stor_sort_t *sort_by, const stor_variables_t *variables,
                        stor_function_t *ret_function, vd_error_t *err)
{
    parse_t parse = {.arena = arena,
                     .variables = variables,
                     .sort_by = sort_by,
                     .window = VD_VALUE_MISSING,
                     .argument = VD_VALUE_MISSING,
                     .err = err};
    size_t which = 0;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "The field '%.*s' must be a window function object",
                            VD_SLICE_FMT(path));
    int rc = take_apart(&parse, vd_value_document(spec), &which);
    if (rc != VD_OK)
        return rc;
    *ret_function = (stor_function_t){.kind = functions[which].kind,
                                      .name = functions[which].name,
                                      .path = path,
                                      .window = {.unit = -1}};
    rc = functions[which].parse(&parse, ret_function);
    if (rc == VD_OK && !vd_value_is_missing(parse.window))
        rc = parse_window(arena, parse.window, sort_by, variables, &ret_function->window, err);
    /* The accumulator of a window that only grows does what $group does. */
    if (rc == VD_OK && ret_function->kind >= STOR_FUNCTION_MIN &&
        ret_function->kind <= STOR_FUNCTION_MAX &&
        ret_function->window.lower.kind == STOR_BOUND_UNBOUNDED) {
        ret_function->kind = STOR_FUNCTION_ACCUMULATOR;
        rc = parse_accumulator(&parse, ret_function);
    }
    return rc;
}
