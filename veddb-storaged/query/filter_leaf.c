/* veddb-storaged/query/filter_leaf.c — the operators of one field: {a: {$gt: 1, $in: [...],
 * $elemMatch: {...}}}. */
#include "libcommon/bson/compare.h"
#include "libcommon/bson/decimal.h"
#include "veddb-storaged/query/filter_private.h"
#include "veddb-storaged/query/regex.h"
#include "veddb-storaged/query/update_private.h"

#include <math.h>
#include <stdlib.h>

#define ELEMENT_IN_MESSAGE_SIZE 200
#define TYPE_BIT_MINKEY         30
#define TYPE_BIT_MAXKEY         31
#define INT64_LIMIT             9223372036854775808.0 /* 2^63 */

/* ---- numbers and types in arguments ---- */

static int bad_number(vd_slice_t name, vd_value_t v, const char *what, vd_error_t *err)
{
    char element[ELEMENT_IN_MESSAGE_SIZE];
    return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "%s: %s", what,
                        stor_print_element(name, v, element, sizeof element));
}

int filter_parse_whole(vd_slice_t name, vd_value_t v, int64_t *ret, vd_error_t *err)
{
    if (!vd_value_is_number(v))
        return bad_number(name, v, "Expected a number in", err);
    if (vd_value_as_int64(v, ret))
        return VD_OK;
    if (v.type == VD_BSON_DOUBLE) {
        double d = vd_value_double(v);
        if (isnan(d))
            return bad_number(name, v, "Expected an integer, but found NaN in", err);
        if (d < INT64_LIMIT && d >= -INT64_LIMIT)
            return bad_number(name, v, "Expected an integer", err);
    }
    return bad_number(name, v, "Cannot represent as a 64-bit integer", err);
}

int filter_parse_not_negative(vd_slice_t name, vd_value_t v, int64_t *ret, vd_error_t *err)
{
    int64_t number = 0;
    int rc = filter_parse_whole(name, v, &number, err);
    if (rc != VD_OK)
        return rc;
    if (number < 0)
        return bad_number(name, v, "Expected a non-negative number in", err);
    *ret = number;
    return VD_OK;
}

/* As above and not above INT32_MAX, with the operator's own code and prefix. */
static int parse_small(filter_parse_t *parse, vd_slice_t name, vd_value_t v, const char *prefix,
                       int64_t *ret)
{
    vd_error_t inner = VD_ERROR_INIT;
    int rc = filter_parse_not_negative(name, v, ret, &inner);
    if (rc == VD_OK && *ret > INT32_MAX)
        rc = bad_number(name, v, "Cannot represent in a 32-bit integer", &inner);
    if (rc != VD_OK)
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE, "%s%s", prefix, inner.message);
    return VD_OK;
}

uint32_t stor_type_bit(uint8_t type)
{
    if (type == VD_BSON_MINKEY)
        return 1u << TYPE_BIT_MINKEY;
    if (type == VD_BSON_MAXKEY)
        return 1u << TYPE_BIT_MAXKEY;
    return type >= VD_BSON_DOUBLE && type <= VD_BSON_DECIMAL128 ? 1u << type : 0;
}

int filter_parse_type(vd_value_t v, uint32_t *ret_mask, vd_error_t *err)
{
    if (v.type == VD_BSON_STRING) {
        vd_slice_t name = vd_value_string(v);
        if (vd_slice_is(name, "number")) {
            *ret_mask = STOR_TYPE_BITS_NUMBER;
            return VD_OK;
        }
        int type = vd_slice_is(name, "missing") ? -1 : vd_bson_type_by_name(name);
        if (type <= 0)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "Unknown type name alias: %.*s",
                                VD_SLICE_FMT(name));
        *ret_mask = stor_type_bit((uint8_t)type);
        return VD_OK;
    }
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "type must be represented as a number or a string");
    int64_t code = 0;
    bool whole = vd_value_as_int64(v, &code);
    if (whole && code == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Invalid numerical type code: 0. Instead use {$exists:false}.");
    uint32_t mask = 0;
    if (whole && code == -1)
        mask = stor_type_bit(VD_BSON_MINKEY);
    else if (whole && code > 0 && code <= VD_BSON_MAXKEY)
        mask = stor_type_bit((uint8_t)code);
    if (mask == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "Invalid numerical type code: %g",
                            vd_value_as_double(v));
    *ret_mask = mask;
    return VD_OK;
}

/* ---- one function per operator ---- */

typedef struct {
    filter_parse_t *parse;
    const stor_path_t *path;
    vd_slice_t name;   /* "$gt" */
    vd_value_t v;      /* its argument */
    vd_bson_t context; /* the document that it stands in: $regex looks for $options there */
    filter_level_t level;
} operator_t;

typedef int (*operator_fn)(const operator_t *op, stor_filter_t **ret_filter);

static int bad_value(const operator_t *op, const char *message)
{
    return vd_error_set(op->parse->err, VD_ERR_BAD_VALUE, "%s", message);
}

static int make_comparison(const operator_t *op, stor_filter_kind_t kind,
                           stor_filter_t **ret_filter)
{
    if (op->v.type == VD_BSON_UNDEFINED)
        return bad_value(op, "cannot compare to undefined");
    if (kind != STOR_FILTER_EQ && op->v.type == VD_BSON_REGEX)
        return vd_error_set(op->parse->err, VD_ERR_BAD_VALUE,
                            "Can't have RegEx as arg to predicate over field '%.*s'.",
                            VD_SLICE_FMT(op->path->text));
    *ret_filter = filter_leaf(op->parse, kind, op->path);
    (*ret_filter)->value = op->v;
    return VD_OK;
}

static int parse_comparison(const operator_t *op, stor_filter_t **ret_filter)
{
    stor_filter_kind_t kind = vd_slice_is(op->name, "$eq")    ? STOR_FILTER_EQ
                              : vd_slice_is(op->name, "$lt")  ? STOR_FILTER_LT
                              : vd_slice_is(op->name, "$lte") ? STOR_FILTER_LTE
                              : vd_slice_is(op->name, "$gt")  ? STOR_FILTER_GT
                                                              : STOR_FILTER_GTE;
    return make_comparison(op, kind, ret_filter);
}

static int parse_ne(const operator_t *op, stor_filter_t **ret_filter)
{
    if (op->v.type == VD_BSON_REGEX)
        return bad_value(op, "Can't have regex as arg to $ne.");
    stor_filter_t *child = NULL;
    int rc = make_comparison(op, STOR_FILTER_EQ, &child);
    if (rc == VD_OK)
        *ret_filter = filter_not(op->parse, child);
    return rc;
}

static int make_regex(filter_parse_t *parse, const stor_path_t *path, vd_slice_t pattern,
                      vd_slice_t options, stor_filter_t **ret_filter)
{
    stor_filter_t *node = filter_leaf(parse, STOR_FILTER_REGEX, path);
    node->regexes = VD_ARENA_NEW(parse->arena, stor_regex_t *);
    node->regex_count = 1;
    int rc = stor_regex_compile(parse->arena, pattern, options, &node->regexes[0], parse->err);
    if (rc == VD_OK)
        *ret_filter = node;
    return rc;
}

int filter_parse_literal(filter_parse_t *parse, const stor_path_t *path, vd_value_t v,
                         stor_filter_t **ret_filter)
{
    if (v.type == VD_BSON_REGEX) {
        vd_slice_t pattern, options;
        vd_value_regex(v, &pattern, &options);
        return make_regex(parse, path, pattern, options, ret_filter);
    }
    operator_t op = {.parse = parse, .path = path, .v = v};
    return make_comparison(&op, STOR_FILTER_EQ, ret_filter);
}

static int parse_regex(const operator_t *op, stor_filter_t **ret_filter)
{
    if (vd_bson_get(op->context, "$regex").data != op->v.data) {
        *ret_filter = NULL; /* a second $regex: the first call has read it */
        return VD_OK;
    }
    vd_slice_t pattern = VD_SLICE_NULL, options = VD_SLICE_NULL;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, op->context);
    while (vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "$regex") && iter.value.type == VD_BSON_STRING) {
            pattern = vd_value_string(iter.value);
        } else if (vd_slice_is(iter.name, "$regex") && iter.value.type == VD_BSON_REGEX) {
            vd_slice_t own;
            vd_value_regex(iter.value, &pattern, &own);
            if (own.len > 0 && options.len > 0)
                return vd_error_set(op->parse->err, VD_ERR_LOCATION(51074),
                                    "options set in both $regex and $options");
            if (own.len > 0)
                options = own;
        } else if (vd_slice_is(iter.name, "$regex")) {
            return bad_value(op, "$regex has to be a string");
        } else if (vd_slice_is(iter.name, "$options")) {
            if (iter.value.type != VD_BSON_STRING)
                return bad_value(op, "$options has to be a string");
            if (options.len > 0)
                return vd_error_set(op->parse->err, VD_ERR_LOCATION(51075),
                                    "options set in both $regex and $options");
            options = vd_value_string(iter.value);
        }
    }
    return make_regex(op->parse, op->path, pattern, options, ret_filter);
}

static int parse_options(const operator_t *op, stor_filter_t **ret_filter)
{
    if (vd_value_is_missing(vd_bson_get(op->context, "$regex")))
        return bad_value(op, "$options needs a $regex");
    *ret_filter = NULL; /* read by $regex */
    return VD_OK;
}

static int compare_values(const void *a, const void *b)
{
    return vd_value_compare(*(const vd_value_t *)a, *(const vd_value_t *)b);
}

/* Sorts the values and drops doubles. */
static void in_settle(stor_filter_t *node)
{
    if (node->value_count > 1)
        qsort(node->values, node->value_count, sizeof *node->values, compare_values);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < node->value_count; i++)
        if (kept == 0 || !vd_value_equal(node->values[kept - 1], node->values[i]))
            node->values[kept++] = node->values[i];
    node->value_count = kept;
}

static int in_collect(const operator_t *op, stor_filter_t *node)
{
    uint32_t count = vd_bson_count(vd_value_document(op->v));
    node->values = VD_ARENA_ARRAY(op->parse->arena, vd_value_t, count);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(op->v));
    uint32_t regex_room = 0;
    while (vd_bson_iter_next(&iter)) {
        if (filter_is_operators(iter.value, false))
            return bad_value(op, "cannot nest $ under $in");
        if (iter.value.type == VD_BSON_UNDEFINED)
            return bad_value(op, "InMatchExpression equality cannot be undefined");
        if (iter.value.type != VD_BSON_REGEX) {
            node->has_null |= iter.value.type == VD_BSON_NULL;
            node->values[node->value_count++] = iter.value;
            continue;
        }
        if (node->regex_count == regex_room) {
            regex_room = regex_room == 0 ? 4 : regex_room * 2;
            stor_regex_t **room = VD_ARENA_ARRAY(op->parse->arena, stor_regex_t *, regex_room);
            if (node->regex_count > 0)
                memcpy(room, node->regexes, sizeof(*room) * (size_t)node->regex_count);
            node->regexes = room;
        }
        vd_slice_t pattern, options;
        vd_value_regex(iter.value, &pattern, &options);
        int rc = stor_regex_compile(op->parse->arena, pattern, options,
                                    &node->regexes[node->regex_count], op->parse->err);
        if (rc != VD_OK)
            return rc;
        node->regex_count++;
    }
    return VD_OK;
}

static int make_in(const operator_t *op, stor_filter_t **ret_filter)
{
    if (op->v.type != VD_BSON_ARRAY)
        return vd_error_set(op->parse->err, VD_ERR_BAD_VALUE, "%.*s needs an array",
                            VD_SLICE_FMT(op->name));
    stor_filter_t *node = filter_leaf(op->parse, STOR_FILTER_IN, op->path);
    int rc = in_collect(op, node);
    if (rc != VD_OK)
        return rc;
    in_settle(node);
    if (node->value_count == 1 && node->regex_count == 0) {
        node->kind = STOR_FILTER_EQ;
        node->value = node->values[0];
    } else if (node->value_count == 0 && node->regex_count == 0 && op->path->count > 0) {
        node = filter_node(op->parse, STOR_FILTER_FALSE);
    } else if (node->value_count == 0 && node->regex_count == 1) {
        node->kind = STOR_FILTER_REGEX;
    }
    *ret_filter = node;
    return VD_OK;
}

static int parse_in(const operator_t *op, stor_filter_t **ret_filter)
{
    return make_in(op, ret_filter);
}

static int parse_nin(const operator_t *op, stor_filter_t **ret_filter)
{
    stor_filter_t *child = NULL;
    int rc = make_in(op, &child);
    if (rc == VD_OK)
        *ret_filter = filter_not(op->parse, child);
    return rc;
}

static int parse_not(const operator_t *op, stor_filter_t **ret_filter)
{
    stor_filter_t *child = NULL;
    if (op->v.type == VD_BSON_REGEX) {
        int rc = filter_parse_literal(op->parse, op->path, op->v, &child);
        if (rc == VD_OK)
            *ret_filter = filter_not(op->parse, child);
        return rc;
    }
    if (op->v.type != VD_BSON_OBJECT)
        return bad_value(op, "$not needs a regex or a document");
    if (vd_bson_is_empty(vd_value_document(op->v)))
        return bad_value(op, "$not cannot be empty");
    filter_level_t level = op->level;
    level.depth++;
    filter_list_t list = {0};
    int rc = filter_parse_operators(op->parse, op->path, vd_value_document(op->v), level, &list);
    if (rc == VD_OK)
        *ret_filter = filter_not(op->parse, filter_join(op->parse, STOR_FILTER_AND, &list));
    return rc;
}

static int parse_exists(const operator_t *op, stor_filter_t **ret_filter)
{
    stor_filter_t *node = filter_leaf(op->parse, STOR_FILTER_EXISTS, op->path);
    *ret_filter = vd_value_truthy(op->v) ? node : filter_not(op->parse, node);
    return VD_OK;
}

static int parse_type(const operator_t *op, stor_filter_t **ret_filter)
{
    uint32_t mask = 0;
    if (op->v.type == VD_BSON_ARRAY) {
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(op->v));
        while (vd_bson_iter_next(&iter)) {
            uint32_t one = 0;
            int rc = filter_parse_type(iter.value, &one, op->parse->err);
            if (rc != VD_OK)
                return rc;
            mask |= one;
        }
        if (mask == 0)
            return vd_error_set(op->parse->err, VD_ERR_FAILED_TO_PARSE,
                                "%.*s must match at least one type", VD_SLICE_FMT(op->path->text));
    } else {
        int rc = filter_parse_type(op->v, &mask, op->parse->err);
        if (rc != VD_OK)
            return rc;
    }
    *ret_filter = filter_leaf(op->parse, STOR_FILTER_TYPE, op->path);
    (*ret_filter)->type_mask = mask;
    return VD_OK;
}

static int parse_size(const operator_t *op, stor_filter_t **ret_filter)
{
    int64_t size = 0;
    int rc = parse_small(op->parse, op->name, op->v, "Failed to parse $size. ", &size);
    if (rc != VD_OK)
        return rc;
    *ret_filter = filter_leaf(op->parse, STOR_FILTER_SIZE, op->path);
    (*ret_filter)->number = size;
    return VD_OK;
}

/* Doubles and decimals lose what stands behind the point. */
static int coerce_mod(const operator_t *op, vd_value_t v, const char *what, int64_t *ret)
{
    if (v.type == VD_BSON_DOUBLE || v.type == VD_BSON_DECIMAL128) {
        double d = vd_value_as_double(v);
        if (isnan(d) || isinf(d))
            return vd_error_set(op->parse->err, VD_ERR_BAD_VALUE,
                                "malformed mod, %s value is invalid :: caused by :: Unable to "
                                "coerce NaN/Inf to integral type",
                                what);
    }
    bool fits;
    if (v.type == VD_BSON_DECIMAL128) {
        vd_decimal_t whole = vd_decimal_round(vd_value_decimal(v), 0, VD_DECIMAL_TRUNCATE);
        fits = vd_decimal_to_int64(whole, ret);
    } else if (v.type == VD_BSON_DOUBLE) {
        double whole = trunc(vd_value_double(v));
        fits = whole < INT64_LIMIT && whole >= -INT64_LIMIT;
        if (fits)
            *ret = (int64_t)whole;
    } else {
        fits = vd_value_as_int64(v, ret);
    }
    if (!fits)
        return vd_error_set(op->parse->err, VD_ERR_BAD_VALUE,
                            "malformed mod, %s value is invalid :: caused by :: Out of bounds "
                            "coercing to integral value",
                            what);
    return VD_OK;
}

static int parse_mod(const operator_t *op, stor_filter_t **ret_filter)
{
    if (op->v.type != VD_BSON_ARRAY)
        return bad_value(op, "malformed mod, needs to be an array");
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(op->v));
    if (!vd_bson_iter_next(&iter))
        return bad_value(op, "malformed mod, not enough elements");
    vd_value_t divisor = iter.value;
    if (!vd_value_is_number(divisor))
        return bad_value(op, "malformed mod, divisor not a number");
    if (!vd_bson_iter_next(&iter))
        return bad_value(op, "malformed mod, not enough elements");
    vd_value_t remainder = iter.value;
    if (!vd_value_is_number(remainder))
        return bad_value(op, "malformed mod, remainder not a number");
    if (vd_bson_iter_next(&iter))
        return bad_value(op, "malformed mod, too many elements");

    stor_filter_t *node = filter_leaf(op->parse, STOR_FILTER_MOD, op->path);
    int rc = coerce_mod(op, divisor, "divisor", &node->divisor);
    if (rc == VD_OK)
        rc = coerce_mod(op, remainder, "remainder", &node->remainder);
    if (rc != VD_OK)
        return rc;
    if (node->divisor == 0)
        return bad_value(op, "divisor cannot be 0");
    *ret_filter = node;
    return VD_OK;
}

static int parse_bit_positions(const operator_t *op, stor_filter_t *node)
{
    node->bit_positions =
        VD_ARENA_ARRAY(op->parse->arena, uint32_t, vd_bson_count(vd_value_document(op->v)));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(op->v));
    while (vd_bson_iter_next(&iter)) {
        int64_t position = 0;
        int rc = parse_small(op->parse, iter.name, iter.value, "Failed to parse bit position. ",
                             &position);
        if (rc != VD_OK)
            return rc;
        node->bit_positions[node->bit_count++] = (uint32_t)position;
    }
    return VD_OK;
}

static int parse_bits(const operator_t *op, stor_filter_t **ret_filter)
{
    stor_filter_t *node = filter_leaf(op->parse, STOR_FILTER_BITS, op->path);
    node->bits_kind = vd_slice_is(op->name, "$bitsAllSet")     ? STOR_BITS_ALL_SET
                      : vd_slice_is(op->name, "$bitsAllClear") ? STOR_BITS_ALL_CLEAR
                      : vd_slice_is(op->name, "$bitsAnySet")   ? STOR_BITS_ANY_SET
                                                               : STOR_BITS_ANY_CLEAR;
    if (op->v.type == VD_BSON_ARRAY) {
        int rc = parse_bit_positions(op, node);
        if (rc != VD_OK)
            return rc;
    } else if (op->v.type == VD_BSON_BINARY) {
        uint8_t subtype;
        node->bits_mask = vd_value_binary(op->v, &subtype);
    } else if (vd_value_is_number(op->v)) {
        int64_t mask = 0;
        int rc = filter_parse_not_negative(op->name, op->v, &mask, op->parse->err);
        if (rc != VD_OK)
            return rc;
        uint8_t bytes[8];
        vd_put_u64(bytes, (uint64_t)mask);
        node->bits_mask = vd_arena_copy_slice(op->parse->arena, vd_slice(bytes, sizeof bytes));
    } else {
        char element[ELEMENT_IN_MESSAGE_SIZE];
        return vd_error_set(op->parse->err, VD_ERR_BAD_VALUE,
                            "%.*s takes an Array, a number, or a BinData but received: %s",
                            VD_SLICE_FMT(op->path->text),
                            stor_print_element(op->name, op->v, element, sizeof element));
    }
    *ret_filter = node;
    return VD_OK;
}

static int parse_elem_match(const operator_t *op, stor_filter_t **ret_filter)
{
    if (op->v.type != VD_BSON_OBJECT)
        return bad_value(op, "$elemMatch needs an Object");
    vd_bson_t inner = vd_value_document(op->v);
    filter_level_t level = {.depth = op->level.depth + 1, .in_element = true};
    vd_slice_t name;
    vd_value_t first;
    bool on_values = filter_is_operators(op->v, true) && vd_bson_first(inner, &name, &first) &&
                     !filter_is_pathless(name);
    filter_list_t list = {0};
    stor_filter_t *child = NULL;
    int rc;
    if (on_values) {
        stor_path_t path = {0};
        rc = filter_parse_operators(op->parse, &path, inner, level, &list);
        if (rc == VD_OK)
            child = filter_join(op->parse, STOR_FILTER_AND, &list);
    } else {
        rc = filter_parse_document(op->parse, inner, level, &child);
    }
    if (rc != VD_OK)
        return rc;
    stor_filter_t *node = filter_leaf(
        op->parse, on_values ? STOR_FILTER_ELEM_MATCH_VALUE : STOR_FILTER_ELEM_MATCH_OBJECT,
        op->path);
    if (on_values && child->kind == STOR_FILTER_AND) {
        node->children = child->children;
        node->child_count = child->child_count;
    } else {
        node->children = VD_ARENA_NEW(op->parse->arena, stor_filter_t *);
        node->children[0] = child;
        node->child_count = 1;
    }
    *ret_filter = node;
    return VD_OK;
}

static bool is_elem_match(vd_value_t v, vd_value_t *ret_argument)
{
    vd_slice_t name;
    return v.type == VD_BSON_OBJECT && vd_bson_first(vd_value_document(v), &name, ret_argument) &&
           vd_slice_is(name, "$elemMatch");
}

static int parse_all(const operator_t *op, stor_filter_t **ret_filter)
{
    if (op->v.type != VD_BSON_ARRAY)
        return bad_value(op, "$all needs an array");
    vd_slice_t name;
    vd_value_t first, argument;
    bool of_elem_match =
        vd_bson_first(vd_value_document(op->v), &name, &first) && is_elem_match(first, &argument);
    filter_list_t list = {0};
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(op->v));
    while (vd_bson_iter_next(&iter)) {
        stor_filter_t *child = NULL;
        int rc;
        if (of_elem_match) {
            if (!is_elem_match(iter.value, &argument))
                return bad_value(op, "$all/$elemMatch has to be consistent");
            operator_t inner = *op;
            inner.v = argument;
            rc = parse_elem_match(&inner, &child);
        } else {
            if (filter_is_operators(iter.value, false))
                return bad_value(op, "no $ expressions in $all");
            rc = filter_parse_literal(op->parse, op->path, iter.value, &child);
        }
        if (rc != VD_OK)
            return rc;
        filter_list_add(op->parse, &list, child);
    }
    if (list.count > 0)
        *ret_filter = filter_join(op->parse, STOR_FILTER_AND, &list);
    else if (op->path->count > 0)
        *ret_filter = filter_node(op->parse, STOR_FILTER_FALSE);
    else
        *ret_filter = filter_leaf(op->parse, STOR_FILTER_IN, op->path); /* {$in: []} */
    return VD_OK;
}

static int refuse_geo(const operator_t *op, stor_filter_t **ret_filter)
{
    (void)ret_filter;
    return vd_error_set(op->parse->err, VD_ERR_NOT_IMPLEMENTED,
                        "the geospatial operator %.*s is not supported", VD_SLICE_FMT(op->name));
}

static int refuse_where_on_field(const operator_t *op, stor_filter_t **ret_filter)
{
    (void)ret_filter;
    return bad_value(op, "$where cannot be applied to a field");
}

static const struct {
    const char *name;
    operator_fn parse;
} operators_table[] = {
    {"$eq", parse_comparison},
    {"$in", parse_in},
    {"$gt", parse_comparison},
    {"$gte", parse_comparison},
    {"$lt", parse_comparison},
    {"$lte", parse_comparison},
    {"$ne", parse_ne},
    {"$nin", parse_nin},
    {"$not", parse_not},
    {"$exists", parse_exists},
    {"$regex", parse_regex},
    {"$options", parse_options},
    {"$elemMatch", parse_elem_match},
    {"$all", parse_all},
    {"$size", parse_size},
    {"$type", parse_type},
    {"$mod", parse_mod},
    {"$bitsAllSet", parse_bits},
    {"$bitsAllClear", parse_bits},
    {"$bitsAnySet", parse_bits},
    {"$bitsAnyClear", parse_bits},
    {"$geoWithin", refuse_geo},
    {"$within", refuse_geo},
    {"$geoIntersects", refuse_geo},
    {"$near", refuse_geo},
    {"$nearSphere", refuse_geo},
    {"$geoNear", refuse_geo},
    {"$where", refuse_where_on_field},
};

int filter_parse_operators(filter_parse_t *parse, const stor_path_t *path, vd_bson_t operators,
                           filter_level_t level, filter_list_t *list)
{
    int rc = filter_check_depth(parse, level);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, operators);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        operator_fn function = NULL;
        for (size_t i = 0; function == NULL && i < VD_COUNT_OF(operators_table); i++)
            if (vd_slice_is(iter.name, operators_table[i].name))
                function = operators_table[i].parse;
        if (function == NULL)
            return vd_error_set(parse->err, VD_ERR_BAD_VALUE, "unknown operator: %.*s",
                                VD_SLICE_FMT(iter.name));
        operator_t op = {parse, path, iter.name, iter.value, operators, level};
        stor_filter_t *child = NULL;
        rc = function(&op, &child);
        if (rc == VD_OK && child != NULL)
            filter_list_add(parse, list, child);
    }
    if (rc == VD_OK && iter.bad)
        rc = vd_error_set(parse->err, VD_ERR_INVALID_BSON, "the filter is not valid BSON");
    return rc;
}
