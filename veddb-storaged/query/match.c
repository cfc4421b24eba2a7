/* veddb-storaged/query/match.c — runs a filter's tree over one document.
 *
 * A predicate with a path looks at every value that the path leads to and is true when it holds for
 * one of them (path.c tells which those are). Inside $elemMatch on values the path is empty and the
 * value alone is looked at. */
#include "veddb-storaged/query/match.h"

#include "libcommon/bson/compare.h"
#include "libcommon/bson/decimal.h"
#include "veddb-storaged/query/expr.h"
#include "veddb-storaged/query/json_schema.h"
#include "veddb-storaged/query/path_private.h"
#include "veddb-storaged/query/regex.h"

#include <math.h>

#define INT64_LIMIT 9223372036854775808.0 /* 2^63 */

typedef struct {
    stor_match_t *match;
    int64_t position;  /* of the last array element that made a predicate true */
    bool expand_value; /* a value that is an array is tested by its elements too */
    int rc;            /* first failure of an expression; then nothing matches */
    vd_error_t *err;
} run_t;

static bool run_document(const stor_filter_t *filter, vd_bson_t document, run_t *run);
static bool run_element(const stor_filter_t *filter, vd_value_t value, run_t *run);

/* ---- one predicate, one value ---- */

static bool is_nan(vd_value_t v)
{
    return (v.type == VD_BSON_DOUBLE && isnan(vd_value_double(v))) ||
           (v.type == VD_BSON_DECIMAL128 && vd_decimal_is_nan(vd_value_decimal(v)));
}

static bool holds(stor_filter_kind_t kind, int order)
{
    switch (kind) {
    case STOR_FILTER_LT:
        return order < 0;
    case STOR_FILTER_LTE:
        return order <= 0;
    case STOR_FILTER_GT:
        return order > 0;
    case STOR_FILTER_GTE:
        return order >= 0;
    default:
        return order == 0;
    }
}

/* Values of different kinds do not compare, but for null with what is not there and for the two
 * keys at the ends. */
static bool compare_across(stor_filter_kind_t kind, vd_value_t v, vd_value_t with)
{
    bool or_equal = kind == STOR_FILTER_EQ || kind == STOR_FILTER_LTE || kind == STOR_FILTER_GTE;
    if (with.type == VD_BSON_NULL && (v.type == VD_BSON_MISSING || v.type == VD_BSON_UNDEFINED))
        return or_equal;
    if (with.type == VD_BSON_MAXKEY)
        return kind == STOR_FILTER_LT || kind == STOR_FILTER_LTE;
    if (with.type == VD_BSON_MINKEY)
        return kind == STOR_FILTER_GT || kind == STOR_FILTER_GTE;
    return false;
}

static bool match_comparison(const stor_filter_t *filter, vd_value_t v)
{
    vd_value_t with = filter->value;
    if (v.type != with.type) {
        if (v.type == VD_BSON_MISSING ||
            vd_bson_canonical_type(v.type) != vd_bson_canonical_type(with.type))
            return compare_across(filter->kind, v, with);
    } else if (filter->kind == STOR_FILTER_EQ) {
        /* The common cases, without the general comparison. */
        if ((v.type == VD_BSON_STRING && vd_collation_get() == NULL) ||
            v.type == VD_BSON_OBJECTID || v.type == VD_BSON_INT32 || v.type == VD_BSON_BOOL ||
            v.type == VD_BSON_DATE || v.type == VD_BSON_INT64)
            return v.len == with.len && memcmp(v.data, with.data, v.len) == 0;
    }
    /* NaN equals NaN and is in no order with anything. */
    if (filter->kind != STOR_FILTER_EQ && vd_value_is_number(v) && (is_nan(v) || is_nan(with)))
        return (filter->kind == STOR_FILTER_LTE || filter->kind == STOR_FILTER_GTE) && is_nan(v) &&
               is_nan(with);
    return holds(filter->kind, vd_value_compare(v, with));
}

static bool match_regex(const stor_regex_t *regex, vd_value_t v)
{
    if (v.type == VD_BSON_STRING || v.type == VD_BSON_SYMBOL)
        return stor_regex_matches(regex, vd_value_string(v));
    if (v.type != VD_BSON_REGEX)
        return false;
    vd_slice_t pattern, options;
    vd_value_regex(v, &pattern, &options);
    return vd_slice_equal(pattern, stor_regex_pattern(regex)) &&
           vd_slice_equal(options, stor_regex_options(regex));
}

static bool match_in(const stor_filter_t *filter, vd_value_t v)
{
    if (v.type == VD_BSON_MISSING || v.type == VD_BSON_UNDEFINED)
        return filter->has_null;
    uint32_t low = 0, high = filter->value_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = vd_value_compare(v, filter->values[middle]);
        if (order == 0)
            return true;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    for (uint32_t i = 0; i < filter->regex_count; i++)
        if (match_regex(filter->regexes[i], v))
            return true;
    return false;
}

/* A number without its fraction; false when there is none in range. */
static bool truncated(vd_value_t v, int64_t *ret)
{
    if (v.type == VD_BSON_DOUBLE) {
        double whole = trunc(vd_value_double(v));
        if (!(whole < INT64_LIMIT && whole >= -INT64_LIMIT))
            return false;
        *ret = (int64_t)whole;
        return true;
    }
    if (v.type == VD_BSON_DECIMAL128) {
        vd_decimal_t d = vd_value_decimal(v);
        return !vd_decimal_is_nan(d) && !vd_decimal_is_infinite(d) &&
               vd_decimal_to_int64(vd_decimal_round(d, 0, VD_DECIMAL_TRUNCATE), ret);
    }
    return vd_value_is_number(v) && vd_value_as_int64(v, ret);
}

static bool match_mod(const stor_filter_t *filter, vd_value_t v)
{
    int64_t number;
    if (!truncated(v, &number))
        return false;
    /* INT64_MIN % -1 traps. */
    int64_t remainder = filter->divisor == -1 ? 0 : number % filter->divisor;
    return remainder == filter->remainder;
}

/* Byte i of a value's bits, least significant first. Numbers go on for ever with their sign,
 * binaries with zeros. */
static uint8_t bits_byte(vd_slice_t bytes, uint8_t beyond, size_t i)
{
    return i < bytes.len ? bytes.data[i] : beyond;
}

static bool match_bits(const stor_filter_t *filter, vd_value_t v)
{
    uint8_t number_bytes[8];
    vd_slice_t bytes;
    uint8_t beyond = 0;
    if (v.type == VD_BSON_BINARY) {
        uint8_t subtype;
        bytes = vd_value_binary(v, &subtype);
    } else {
        int64_t number;
        if (!vd_value_is_number(v) || !vd_value_as_int64(v, &number))
            return false;
        vd_put_u64(number_bytes, (uint64_t)number);
        bytes = vd_slice(number_bytes, sizeof number_bytes);
        beyond = number < 0 ? 0xff : 0;
    }
    bool want_set =
        filter->bits_kind == STOR_BITS_ALL_SET || filter->bits_kind == STOR_BITS_ANY_SET;
    bool want_all =
        filter->bits_kind == STOR_BITS_ALL_SET || filter->bits_kind == STOR_BITS_ALL_CLEAR;
    size_t steps = filter->bit_positions != NULL ? filter->bit_count : filter->bits_mask.len;
    for (size_t i = 0; i < steps; i++) {
        size_t at = i;
        uint8_t mask;
        if (filter->bit_positions != NULL) {
            at = filter->bit_positions[i] / 8;
            mask = (uint8_t)(1u << (filter->bit_positions[i] % 8));
        } else {
            mask = filter->bits_mask.data[i];
        }
        uint8_t byte = bits_byte(bytes, beyond, at);
        uint8_t good = (uint8_t)((want_set ? byte : ~byte) & mask);
        if (want_all && good != mask)
            return false;
        if (!want_all && good != 0)
            return true;
    }
    return want_all;
}

static bool match_elem(const stor_filter_t *filter, vd_value_t v, run_t *run)
{
    if (v.type != VD_BSON_ARRAY)
        return false;
    bool expand = run->expand_value;
    run->expand_value = false;
    int64_t found = -1;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    for (int64_t i = 0; found < 0 && vd_bson_iter_next(&iter); i++) {
        bool matches = true;
        if (filter->kind == STOR_FILTER_ELEM_MATCH_OBJECT) {
            matches = (iter.value.type == VD_BSON_OBJECT || iter.value.type == VD_BSON_ARRAY) &&
                      run_document(filter->children[0], vd_value_document(iter.value), run);
        } else {
            for (uint32_t k = 0; matches && k < filter->child_count; k++)
                matches = run_element(filter->children[k], iter.value, run);
        }
        if (matches)
            found = i;
    }
    run->expand_value = expand;
    if (found >= 0)
        run->position = found;
    return found >= 0;
}

static bool match_one(const stor_filter_t *filter, vd_value_t v, run_t *run)
{
    switch (filter->kind) {
    case STOR_FILTER_EQ:
    case STOR_FILTER_LT:
    case STOR_FILTER_LTE:
    case STOR_FILTER_GT:
    case STOR_FILTER_GTE:
        return match_comparison(filter, v);
    case STOR_FILTER_IN:
        return match_in(filter, v);
    case STOR_FILTER_REGEX:
        return match_regex(filter->regexes[0], v);
    case STOR_FILTER_EXISTS:
        return v.type != VD_BSON_MISSING;
    case STOR_FILTER_TYPE:
        return (stor_type_bit(v.type) & filter->type_mask) != 0;
    case STOR_FILTER_SIZE:
        return v.type == VD_BSON_ARRAY &&
               (int64_t)vd_bson_count(vd_value_document(v)) == filter->number;
    case STOR_FILTER_MOD:
        return match_mod(filter, v);
    case STOR_FILTER_BITS:
        return match_bits(filter, v);
    case STOR_FILTER_ELEM_MATCH_OBJECT:
    case STOR_FILTER_ELEM_MATCH_VALUE:
        return match_elem(filter, v, run);
    default:
        VD_UNREACHABLE();
    }
}

/* ---- predicates with a path ---- */

typedef struct {
    const stor_filter_t *filter;
    run_t *run;
    bool found;
} visit_t;

static bool match_visit(vd_value_t value, int64_t array_position, void *context)
{
    visit_t *visit = context;
    if (!match_one(visit->filter, value, visit->run))
        return false;
    if (array_position >= 0)
        visit->run->position = array_position;
    visit->found = true;
    return true;
}

static bool expands_leaf(const stor_filter_t *filter)
{
    return filter->kind != STOR_FILTER_SIZE && filter->kind != STOR_FILTER_ELEM_MATCH_OBJECT &&
           filter->kind != STOR_FILTER_ELEM_MATCH_VALUE;
}

static bool run_path(const stor_filter_t *filter, vd_bson_t document, run_t *run)
{
    const stor_path_t *path = &filter->path;
    visit_t visit = {filter, run, false};
    path_walk_t walk = {path, expands_leaf(filter), false, 0, match_visit, &visit};
    if (VD_LIKELY(path->count == 1)) {
        vd_value_t value = vd_bson_get_slice(document, path->parts[0]);
        if (value.type != VD_BSON_ARRAY)
            return match_one(filter, value, run);
        (void)path_walk_value(&walk, 1, value, -1); /* visit.found tells */
    } else {
        (void)path_walk_document(&walk, 0, document, -1);
    }
    return visit.found;
}

/* ---- the tree ---- */

static bool run_expr(const stor_filter_t *filter, vd_bson_t document, run_t *run)
{
    stor_expr_env_t env;
    stor_expr_env_init(&env, run->match->arena, run->match->variables);
    stor_expr_env_document(&env, document);
    env.version = run->match->version;
    vd_value_t result;
    run->rc = stor_expr_eval(filter->expr, &env, &result, run->err);
    return run->rc == VD_OK && vd_value_truthy(result);
}

/* Logic over children, whatever they are applied to: a document's fields, or one value when
 * on_value is set. */
static bool run_child(const stor_filter_t *child, vd_bson_t document, const vd_value_t *on_value,
                      run_t *run)
{
    return on_value != NULL ? run_element(child, *on_value, run)
                            : run_document(child, document, run);
}

static bool run_logic(const stor_filter_t *filter, vd_bson_t document, const vd_value_t *on_value,
                      run_t *run)
{
    /* What fails or is negated leaves no position behind. */
    int64_t position = run->position;
    bool result = false;
    switch (filter->kind) {
    case STOR_FILTER_AND:
        result = true;
        for (uint32_t i = 0; result && i < filter->child_count; i++)
            result = run_child(filter->children[i], document, on_value, run);
        if (!result)
            run->position = position;
        break;
    case STOR_FILTER_OR:
        for (uint32_t i = 0; !result && run->rc == VD_OK && i < filter->child_count; i++)
            result = run_child(filter->children[i], document, on_value, run);
        break;
    default: /* NOR, NOT */
        result = true;
        for (uint32_t i = 0; result && run->rc == VD_OK && i < filter->child_count; i++)
            result = !run_child(filter->children[i], document, on_value, run);
        run->position = position;
        break;
    }
    return result && run->rc == VD_OK;
}

static bool run_version(const stor_filter_t *filter, run_t *run)
{
    if (run->match->version == 0)
        run->rc =
            vd_error_set(run->err, VD_ERR_BAD_VALUE,
                         "$version can only be asked of documents as they are stored, outside "
                         "of the transaction that writes them");
    return run->match->version == (uint64_t)filter->number;
}

static bool run_document(const stor_filter_t *filter, vd_bson_t document, run_t *run)
{
    switch (filter->kind) {
    case STOR_FILTER_AND:
    case STOR_FILTER_OR:
    case STOR_FILTER_NOR:
    case STOR_FILTER_NOT:
        return run_logic(filter, document, NULL, run);
    case STOR_FILTER_EXPR:
        return run_expr(filter, document, run);
    case STOR_FILTER_JSON_SCHEMA:
        return stor_json_schema_matches(filter->schema, vd_value_from_document(document));
    case STOR_FILTER_VERSION:
        return run_version(filter, run);
    case STOR_FILTER_TRUE:
        return true;
    case STOR_FILTER_FALSE:
        return false;
    default:
        return run_path(filter, document, run);
    }
}

static bool run_value_leaf(const stor_filter_t *filter, vd_value_t value, run_t *run)
{
    visit_t visit = {filter, run, false};
    path_walk_t walk = {&filter->path, expands_leaf(filter), false, 0, match_visit, &visit};
    (void)path_walk_value(&walk, 0, value, -1); /* visit.found tells */
    return visit.found;
}

/* Filters without a path, on the value itself: children of $elemMatch, and what $pull takes. */
static bool run_element(const stor_filter_t *filter, vd_value_t value, run_t *run)
{
    switch (filter->kind) {
    case STOR_FILTER_AND:
    case STOR_FILTER_OR:
    case STOR_FILTER_NOR:
    case STOR_FILTER_NOT:
        return run_logic(filter, VD_BSON_NONE, &value, run);
    case STOR_FILTER_TRUE:
        return true;
    case STOR_FILTER_FALSE:
        return false;
    default:
        return run->expand_value ? run_value_leaf(filter, value, run)
                                 : match_one(filter, value, run);
    }
}

int stor_match_document(const stor_filter_t *filter, vd_bson_t document, stor_match_t *match,
                        bool *ret_matches, vd_error_t *err)
{
    VD_ASSERT(filter != NULL && match != NULL && ret_matches != NULL);
    run_t run = {match, -1, false, VD_OK, err};
    bool matches = run_document(filter, document, &run);
    if (run.rc != VD_OK)
        return run.rc;
    match->array_position = matches ? run.position : -1;
    *ret_matches = matches;
    return VD_OK;
}

int stor_match_value(const stor_filter_t *filter, vd_value_t value, stor_match_t *match,
                     bool *ret_matches, vd_error_t *err)
{
    VD_ASSERT(filter != NULL && match != NULL && ret_matches != NULL);
    run_t run = {match, -1, false, VD_OK, err};
    bool matches;
    if (filter->whole_value) {
        run.expand_value = true;
        matches = run_element(filter, value, &run);
    } else {
        matches =
            value.type == VD_BSON_OBJECT && run_document(filter, vd_value_document(value), &run);
    }
    if (run.rc != VD_OK)
        return run.rc;
    match->array_position = matches ? run.position : -1;
    *ret_matches = matches;
    return VD_OK;
}
