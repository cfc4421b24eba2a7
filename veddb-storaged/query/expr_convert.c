/* veddb-storaged/query/expr_convert.c — $convert and its short forms $toInt ... $toString. What
 * fails is ConversionFailure (241), which onError catches. */
#include "veddb-storaged/query/date.h"
#include "veddb-storaged/query/expr_private.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define NO_ON_ERROR "in $convert with no onError value"

static int overflow(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CONVERSION_FAILURE,
                        "Conversion would overflow target type " NO_ON_ERROR);
}

static int unsupported(vd_value_t v, uint8_t to, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CONVERSION_FAILURE, "Unsupported conversion from %s to %s %s",
                        stor_expr_type(v), vd_bson_type_name(to), NO_ON_ERROR);
}

/* ---- to numbers ---- */

static int bad_number(vd_slice_t text, const char *why, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CONVERSION_FAILURE, "Failed to parse number '%.*s' %s: %s",
                        (int)(text.len > 100 ? 100 : text.len), (const char *)text.data,
                        NO_ON_ERROR, why);
}

static bool is_hex(vd_slice_t text)
{
    size_t i = text.len > 0 && (text.data[0] == '-' || text.data[0] == '+');
    return text.len >= i + 2 && text.data[i] == '0' && (text.data[i + 1] | 32) == 'x';
}

static int text_to_long(vd_slice_t text, int64_t *ret, vd_error_t *err)
{
    if (is_hex(text))
        return vd_error_set(err, VD_ERR_CONVERSION_FAILURE, "Illegal hexadecimal input %s: %.*s",
                            NO_ON_ERROR, (int)(text.len > 100 ? 100 : text.len),
                            (const char *)text.data);
    bool negative = text.len > 0 && text.data[0] == '-';
    size_t i = text.len > 0 && (text.data[0] == '-' || text.data[0] == '+');
    if (i == text.len)
        return bad_number(text, "No digits", err);
    int64_t n = 0;
    for (; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return bad_number(text, "Did not consume whole string.", err);
        int digit = text.data[i] - '0';
        if (__builtin_mul_overflow(n, (int64_t)10, &n) ||
            __builtin_add_overflow(n, (int64_t)(negative ? -digit : digit), &n))
            return bad_number(text, "Out of range", err);
    }
    *ret = n;
    return VD_OK;
}

static int text_to_double(vd_arena_t *arena, vd_slice_t text, double *ret, vd_error_t *err)
{
    if (is_hex(text))
        return vd_error_set(err, VD_ERR_CONVERSION_FAILURE, "Illegal hexadecimal input %s: %.*s",
                            NO_ON_ERROR, (int)(text.len > 100 ? 100 : text.len),
                            (const char *)text.data);
    if (text.len == 0)
        return bad_number(text, "Empty string", err);
    if (isspace(text.data[0]))
        return bad_number(text, "Leading whitespace", err);
    char *copy = vd_arena_strndup(arena, text.data, text.len), *end;
    errno = 0;
    double d = strtod(copy, &end);
    if (end != copy + text.len || end == copy)
        return bad_number(text, "Did not consume whole string.", err);
    if (errno == ERANGE && isinf(d))
        return bad_number(text, "Out of range", err);
    *ret = d;
    return VD_OK;
}

/* A double or decimal cut to a whole number between min and max. */
static int cut_to_whole(vd_value_t v, int64_t min, int64_t max, int64_t *ret, vd_error_t *err)
{
    bool nan, infinite;
    if (v.type == VD_BSON_DOUBLE) {
        double d = vd_value_double(v);
        nan = isnan(d), infinite = isinf(d);
        if (!nan && !infinite && (d < (double)min || d >= 0x1p63 || d > (double)max))
            return overflow(err);
        *ret = nan || infinite ? 0 : (int64_t)d;
    } else {
        vd_decimal_t d = vd_value_decimal(v);
        nan = vd_decimal_is_nan(d), infinite = vd_decimal_is_infinite(d);
        if (!nan && !infinite &&
            (!vd_decimal_to_int64(vd_decimal_round(d, 0, VD_DECIMAL_TRUNCATE), ret) || *ret < min ||
             *ret > max))
            return overflow(err);
    }
    if (nan || infinite)
        return vd_error_set(err, VD_ERR_CONVERSION_FAILURE,
                            "Attempt to convert %s value to integer type %s",
                            nan ? "NaN" : "infinity", NO_ON_ERROR);
    return VD_OK;
}

static int to_whole(vd_value_t v, uint8_t to, int64_t *ret, vd_error_t *err)
{
    int64_t min = to == VD_BSON_INT32 ? INT32_MIN : INT64_MIN;
    int64_t max = to == VD_BSON_INT32 ? INT32_MAX : INT64_MAX;
    int rc = VD_OK;
    switch (v.type) {
    case VD_BSON_BOOL:
        *ret = vd_value_bool(v);
        return VD_OK;
    case VD_BSON_INT32:
        *ret = vd_value_int32(v);
        return VD_OK;
    case VD_BSON_DATE:
        if (to == VD_BSON_INT32)
            return unsupported(v, to, err);
        *ret = vd_value_int64(v);
        return VD_OK;
    case VD_BSON_INT64:
        *ret = vd_value_int64(v);
        break;
    case VD_BSON_DOUBLE:
    case VD_BSON_DECIMAL128:
        return cut_to_whole(v, min, max, ret, err);
    case VD_BSON_STRING:
        rc = text_to_long(vd_value_string(v), ret, err);
        if (rc == VD_OK && (*ret < min || *ret > max))
            rc = bad_number(vd_value_string(v), "Out of range", err);
        return rc;
    default:
        return unsupported(v, to, err);
    }
    return *ret < min || *ret > max ? overflow(err) : VD_OK;
}

static int to_double(vd_arena_t *arena, vd_value_t v, double *ret, vd_error_t *err)
{
    switch (v.type) {
    case VD_BSON_BOOL:
        *ret = vd_value_bool(v);
        return VD_OK;
    case VD_BSON_DATE:
        *ret = (double)vd_value_int64(v);
        return VD_OK;
    case VD_BSON_STRING:
        return text_to_double(arena, vd_value_string(v), ret, err);
    case VD_BSON_DECIMAL128:
        *ret = vd_value_as_double(v);
        return isinf(*ret) && !vd_decimal_is_infinite(vd_value_decimal(v)) ? overflow(err) : VD_OK;
    default:
        if (!vd_value_is_number(v))
            return unsupported(v, VD_BSON_DOUBLE, err);
        *ret = vd_value_as_double(v);
        return VD_OK;
    }
}

static int to_decimal(vd_value_t v, vd_decimal_t *ret, vd_error_t *err)
{
    switch (v.type) {
    case VD_BSON_BOOL:
        *ret = vd_decimal_from_int64(vd_value_bool(v));
        return VD_OK;
    case VD_BSON_DATE:
        *ret = vd_decimal_from_int64(vd_value_int64(v));
        return VD_OK;
    case VD_BSON_STRING:
        if (is_hex(vd_value_string(v)) || !vd_decimal_from_string(vd_value_string(v), ret))
            return bad_number(vd_value_string(v), "Failed to parse string to decimal", err);
        return VD_OK;
    default:
        if (!vd_value_is_number(v))
            return unsupported(v, VD_BSON_DECIMAL128, err);
        *ret = vd_value_as_decimal(v);
        return VD_OK;
    }
}

/* ---- to the other types ---- */

static int to_text(stor_expr_env_t *env, vd_value_t v, vd_value_t *ret, vd_error_t *err)
{
    vd_slice_t text;
    int rc = VD_OK;
    switch (v.type) {
    case VD_BSON_BOOL:
        text = vd_value_bool(v) ? VD_SLICE_LIT("true") : VD_SLICE_LIT("false");
        break;
    case VD_BSON_OBJECTID: {
        char *hex = vd_arena_alloc(env->arena, 25);
        for (int i = 0; i < 12; i++) {
            hex[2 * i] = "0123456789abcdef"[vd_value_objectid(v)[i] >> 4];
            hex[2 * i + 1] = "0123456789abcdef"[vd_value_objectid(v)[i] & 15];
        }
        text = vd_slice(hex, 24);
        break;
    }
    case VD_BSON_STRING:
        *ret = v;
        return VD_OK;
    default:
        if (!vd_value_is_number(v) && v.type != VD_BSON_DATE)
            return unsupported(v, VD_BSON_STRING, err);
        rc = stor_expr_to_text(env->arena, v, &text, err);
        break;
    }
    if (rc == VD_OK)
        *ret = vd_value_from_string(env->arena, text);
    return rc;
}

static int hex_digit(uint8_t c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

static int to_objectid(stor_expr_env_t *env, vd_value_t v, vd_value_t *ret, vd_error_t *err)
{
    if (v.type == VD_BSON_OBJECTID) {
        *ret = v;
        return VD_OK;
    }
    if (v.type != VD_BSON_STRING)
        return unsupported(v, VD_BSON_OBJECTID, err);
    vd_slice_t text = vd_value_string(v);
    uint8_t *id = vd_arena_alloc(env->arena, 12);
    bool good = text.len == 24;
    for (size_t i = 0; good && i < 12; i++) {
        int high = hex_digit(text.data[2 * i]), low = hex_digit(text.data[2 * i + 1]);
        good = high >= 0 && low >= 0;
        id[i] = (uint8_t)(high << 4 | low);
    }
    if (!good)
        return vd_error_set(err, VD_ERR_CONVERSION_FAILURE,
                            "Failed to parse objectId '%.*s' %s: Invalid string length or "
                            "character for parsing to OID, expected 24 hexadecimal digits",
                            (int)(text.len > 100 ? 100 : text.len), (const char *)text.data,
                            NO_ON_ERROR);
    *ret = (vd_value_t){id, 12, VD_BSON_OBJECTID};
    return VD_OK;
}

static int to_date(stor_expr_env_t *env, vd_value_t v, vd_value_t *ret, vd_error_t *err)
{
    int64_t ms;
    int rc;
    if (v.type == VD_BSON_DATE) {
        *ret = v;
        return VD_OK;
    }
    if (stor_expr_is_datelike(v))
        rc = stor_expr_to_date(v, &ms, err);
    else if (v.type == VD_BSON_STRING)
        rc = stor_expr_parse_date(vd_value_string(v), &ms, err);
    else if (v.type == VD_BSON_INT64 || v.type == VD_BSON_DOUBLE || v.type == VD_BSON_DECIMAL128)
        rc = to_whole(v, VD_BSON_INT64, &ms, err);
    else
        return unsupported(v, VD_BSON_DATE, err);
    if (rc == VD_OK)
        *ret = vd_value_from_date(env->arena, ms);
    return rc;
}

static int convert(stor_expr_env_t *env, vd_value_t v, uint8_t to, vd_value_t *ret, vd_error_t *err)
{
    int64_t whole;
    double d = 0;
    vd_decimal_t decimal;
    int rc;
    switch (to) {
    case VD_BSON_BOOL:
        *ret = vd_value_from_bool(vd_value_truthy(v));
        return VD_OK;
    case VD_BSON_INT32:
        rc = to_whole(v, to, &whole, err);
        if (rc == VD_OK)
            *ret = vd_value_from_int32(env->arena, (int32_t)whole);
        return rc;
    case VD_BSON_INT64:
        rc = to_whole(v, to, &whole, err);
        if (rc == VD_OK)
            *ret = vd_value_from_int64(env->arena, whole);
        return rc;
    case VD_BSON_DOUBLE:
        rc = to_double(env->arena, v, &d, err);
        if (rc == VD_OK)
            *ret = vd_value_from_double(env->arena, d);
        return rc;
    case VD_BSON_DECIMAL128:
        rc = to_decimal(v, &decimal, err);
        if (rc == VD_OK)
            *ret = vd_value_from_decimal(env->arena, decimal);
        return rc;
    case VD_BSON_STRING:
        return to_text(env, v, ret, err);
    case VD_BSON_OBJECTID:
        return to_objectid(env, v, ret, err);
    case VD_BSON_DATE:
        return to_date(env, v, ret, err);
    default:
        return unsupported(v, to, err);
    }
}

/* ---- $convert: args input, to, onError, onNull ---- */

static int read_target(vd_value_t to, uint8_t *ret_type, vd_error_t *err)
{
    int32_t code;
    if (to.type == VD_BSON_STRING) {
        vd_slice_t name = vd_value_string(to);
        int type = vd_slice_is(name, "missing") ? 0 : vd_bson_type_by_name(name);
        if (type < 0 || (type == 0 && !vd_slice_is(name, "missing")))
            return vd_error_set(err, VD_ERR_BAD_VALUE, "Unknown type name: %.*s",
                                VD_SLICE_FMT(name));
        *ret_type = (uint8_t)type;
        return VD_OK;
    }
    if (!vd_value_is_number(to))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$convert's 'to' argument must be a string or number, but is %s",
                            stor_expr_type(to));
    if (!stor_expr_as_int32(to, &code))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "In $convert, numeric 'to' argument is not an integer");
    if (code != -1 && code != 127 && (code < 0 || code > VD_BSON_DECIMAL128))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "In $convert, numeric value for 'to' does not correspond to a BSON "
                            "type: %d",
                            code);
    *ret_type = (uint8_t)code;
    return VD_OK;
}

static int eval_convert(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                        vd_error_t *err)
{
    vd_value_t to, input;
    uint8_t type = 0;
    int rc = stor_expr_arg(expr, 1, env, &to, err);
    if (rc == VD_OK)
        rc = stor_expr_arg(expr, 0, env, &input, err);
    if (rc == VD_OK && !vd_value_is_nullish(to))
        rc = read_target(to, &type, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_set_null(ret);
    if (vd_value_is_nullish(input))
        return expr->args[3] == NULL ? VD_OK : stor_expr_arg(expr, 3, env, ret, err);
    if (vd_value_is_nullish(to))
        return VD_OK;
    if (expr->args[2] == NULL)
        return convert(env, input, type, ret, err);
    vd_error_t inner = VD_ERROR_INIT;
    rc = convert(env, input, type, ret, &inner);
    if (rc == VD_ERR_CONVERSION_FAILURE)
        return stor_expr_arg(expr, 2, env, ret, err);
    if (rc != VD_OK && err != NULL)
        vd_error_copy(&inner, err);
    return rc;
}

static int parse_convert(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                         stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {
        {"input", 9}, {"to", 9}, {"onError", 0}, {"onNull", 0}};
    static const stor_expr_named_t named = {9, 9, fields, VD_COUNT_OF(fields)};
    return stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
}

/* ---- $toInt ...: variant is the type ---- */

static int eval_to(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_value_is_nullish(v))
        return convert(env, v, (uint8_t)expr->op->variant, ret, err);
    stor_expr_set_null(ret);
    return VD_OK;
}

static int parse_to(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                    stor_expr_t **ret_expr, vd_error_t *err)
{
    int rc = stor_expr_parse_positional(parser, op, spec, ret_expr, err);
    if (rc == VD_OK && (*ret_expr)->count != 1)
        return vd_error_set(err, VD_ERR_LOCATION(50723), "%s requires a single argument, got %u",
                            op->name, (*ret_expr)->count);
    return rc;
}

static const stor_expr_op_t convert_ops[] = {
    STOR_EXPR_OP_PARSED("$convert", 0, 0, eval_convert, parse_convert),
    STOR_EXPR_OP_PARSED("$toBool", 0, VD_BSON_BOOL, eval_to, parse_to),
    STOR_EXPR_OP_PARSED("$toInt", 0, VD_BSON_INT32, eval_to, parse_to),
    STOR_EXPR_OP_PARSED("$toLong", 0, VD_BSON_INT64, eval_to, parse_to),
    STOR_EXPR_OP_PARSED("$toDouble", 0, VD_BSON_DOUBLE, eval_to, parse_to),
    STOR_EXPR_OP_PARSED("$toDecimal", 0, VD_BSON_DECIMAL128, eval_to, parse_to),
    STOR_EXPR_OP_PARSED("$toString", 0, VD_BSON_STRING, eval_to, parse_to),
    STOR_EXPR_OP_PARSED("$toObjectId", 0, VD_BSON_OBJECTID, eval_to, parse_to),
    STOR_EXPR_OP_PARSED("$toDate", 0, VD_BSON_DATE, eval_to, parse_to),
};
const stor_expr_family_t stor_expr_family_convert = {convert_ops, VD_COUNT_OF(convert_ops)};
