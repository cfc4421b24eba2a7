/* veddb-storaged/query/expr_string.c — strings: joining, cutting, searching, trimming, replacing.
 * Lengths and positions are in bytes or in code points as the operator's name says; upper and lower
 * case are ASCII's. */
#include "veddb-storaged/query/date.h"
#include "veddb-storaged/query/expr_private.h"

#include <math.h>
#include <stdio.h>

/* ---- text of a value ---- */

void stor_expr_print_double(double d, char buf[32])
{
    if (isnan(d))
        memcpy(buf, "NaN", 4);
    else if (isinf(d))
        snprintf(buf, 32, "%s", d < 0 ? "-Infinity" : "Infinity");
    else
        snprintf(buf, 32, "%.16g", d);
}

int stor_expr_to_text(vd_arena_t *arena, vd_value_t v, vd_slice_t *ret, vd_error_t *err)
{
    char *buf;
    switch (v.type) {
    case VD_BSON_STRING:
    case VD_BSON_CODE:
    case VD_BSON_SYMBOL:
        *ret = vd_value_string(v);
        return VD_OK;
    case VD_BSON_MISSING:
    case VD_BSON_NULL:
    case VD_BSON_UNDEFINED:
        *ret = VD_SLICE_LIT("");
        return VD_OK;
    case VD_BSON_DOUBLE:
        buf = vd_arena_alloc(arena, 32);
        stor_expr_print_double(vd_value_double(v), buf);
        break;
    case VD_BSON_INT32:
        buf = vd_arena_printf(arena, "%d", vd_value_int32(v));
        break;
    case VD_BSON_INT64:
        buf = vd_arena_printf(arena, "%lld", (long long)vd_value_int64(v));
        break;
    case VD_BSON_DECIMAL128:
        buf = vd_arena_alloc(arena, 64);
        vd_decimal_to_string(vd_value_decimal(v), buf);
        break;
    case VD_BSON_DATE:
        buf = vd_arena_alloc(arena, STOR_DATE_ISO_SIZE);
        if (stor_date_iso(vd_value_int64(v), buf, err) != VD_OK)
            return VD_ERR_LOCATION(18537);
        break;
    default:
        return vd_error_set(err, VD_ERR_LOCATION(16007),
                            "can't convert from BSON type %s to String", stor_expr_type(v));
    }
    *ret = vd_slice_str(buf);
    return VD_OK;
}

int stor_expr_new_string(stor_expr_env_t *env, size_t len, vd_value_t *ret, char **ret_bytes,
                         vd_error_t *err)
{
    if (len > STOR_EXPR_VALUE_MAX_BYTES)
        return vd_error_set(err, VD_ERR_BSON_OBJECT_TOO_LARGE, "a string of %zu bytes is too large",
                            len);
    int rc = stor_expr_check_memory(env, err);
    if (rc != VD_OK)
        return rc;
    uint8_t *data = vd_arena_alloc(env->arena, len + 5);
    vd_put_u32(data, (uint32_t)len + 1);
    data[len + 4] = 0;
    *ret = (vd_value_t){data, (uint32_t)len + 5, VD_BSON_STRING};
    *ret_bytes = (char *)data + 4;
    return VD_OK;
}

static int set_string(stor_expr_env_t *env, vd_slice_t text, vd_value_t *ret, vd_error_t *err)
{
    char *bytes = NULL;
    int rc = stor_expr_new_string(env, text.len, ret, &bytes, err);
    if (rc == VD_OK && text.len > 0)
        memcpy(bytes, text.data, text.len);
    return rc;
}

static bool is_continuation(uint8_t byte)
{
    return (byte & 0xC0) == 0x80;
}

/* Bytes of the code point that starts with `lead`, at most what is left. */
static size_t code_point_len(uint8_t lead, size_t left)
{
    size_t n = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    return n < left ? n : left;
}

static const uint8_t *find_bytes(vd_slice_t haystack, size_t from, vd_slice_t needle)
{
    if (from > haystack.len)
        return NULL;
    if (needle.len == 0)
        return haystack.data + from;
    return memmem(haystack.data + from, haystack.len - from, needle.data, needle.len);
}

/* ---- $concat, case ---- */

static int eval_concat(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                       vd_error_t *err)
{
    vd_value_t *parts = vd_arena_alloc(env->arena, sizeof *parts * ((size_t)expr->count + 1));
    size_t len = 0;
    for (uint32_t i = 0; i < expr->count; i++) {
        int rc = stor_expr_arg(expr, i, env, &parts[i], err);
        if (rc != VD_OK)
            return rc;
        if (vd_value_is_nullish(parts[i])) {
            stor_expr_set_null(ret);
            return VD_OK;
        }
        if (parts[i].type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_LOCATION(16702),
                                "$concat only supports strings, not %s", stor_expr_type(parts[i]));
        len += vd_value_string(parts[i]).len;
    }
    char *bytes = NULL;
    int rc = stor_expr_new_string(env, len, ret, &bytes, err);
    for (uint32_t i = 0; i < expr->count && rc == VD_OK; i++) {
        vd_slice_t s = vd_value_string(parts[i]);
        memcpy(bytes, s.data, s.len);
        bytes += s.len;
    }
    return rc;
}

static uint8_t upper(uint8_t c)
{
    return c >= 'a' && c <= 'z' ? (uint8_t)(c - 32) : c;
}

static uint8_t lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c;
}

/* variant 1: upper. */
static int eval_case(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    vd_value_t v;
    vd_slice_t text;
    char *bytes = NULL;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc == VD_OK)
        rc = stor_expr_to_text(env->arena, v, &text, err);
    if (rc == VD_OK)
        rc = stor_expr_new_string(env, text.len, ret, &bytes, err);
    for (size_t i = 0; rc == VD_OK && i < text.len; i++)
        bytes[i] = (char)(expr->op->variant ? upper(text.data[i]) : lower(text.data[i]));
    return rc;
}

static int eval_strcasecmp(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                           vd_error_t *err)
{
    vd_slice_t s[2];
    for (uint32_t i = 0; i < 2; i++) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc == VD_OK)
            rc = stor_expr_to_text(env->arena, v, &s[i], err);
        if (rc != VD_OK)
            return rc;
    }
    int c = 0;
    for (size_t i = 0; i < s[0].len && i < s[1].len && c == 0; i++)
        c = (int)upper(s[0].data[i]) - (int)upper(s[1].data[i]);
    if (c == 0)
        c = (s[0].len > s[1].len) - (s[0].len < s[1].len);
    *ret = vd_value_from_int32(env->arena, (c > 0) - (c < 0));
    return VD_OK;
}

/* ---- $substr ---- */

static int64_t cut_to_long(vd_value_t v)
{
    double d = vd_value_as_double(v);
    int64_t n;
    if (vd_value_as_int64(v, &n))
        return n;
    if (d != d)
        return 0;
    return d >= 0x1p62 ? INT64_C(1) << 62 : d <= -0x1p62 ? -(INT64_C(1) << 62) : (int64_t)d;
}

/* The text and two numbers; codes for a start or a length that is no number. */
static int substr_args(const stor_expr_t *expr, stor_expr_env_t *env, vd_slice_t *text,
                       vd_value_t numbers[2], const int codes[2], vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    for (uint32_t i = 0; i < 2 && rc == VD_OK; i++)
        rc = stor_expr_arg(expr, i + 1, env, &numbers[i], err);
    if (rc == VD_OK)
        rc = stor_expr_to_text(env->arena, v, text, err);
    for (int i = 0; i < 2 && rc == VD_OK; i++)
        if (!vd_value_is_number(numbers[i]))
            rc = vd_error_set(err, VD_ERR_LOCATION(codes[i]),
                              "%s:  %s must be a numeric type (is BSON type %s)", expr->op->name,
                              i == 0 ? "starting index" : "length", stor_expr_type(numbers[i]));
    return rc;
}

static int eval_substr_bytes(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                             vd_error_t *err)
{
    static const int codes[2] = {16034, 16035};
    vd_slice_t text;
    vd_value_t numbers[2];
    int rc = substr_args(expr, env, &text, numbers, codes, err);
    if (rc != VD_OK)
        return rc;
    int64_t start = cut_to_long(numbers[0]), len = cut_to_long(numbers[1]);
    if (start < 0)
        return vd_error_set(err, VD_ERR_LOCATION(50752),
                            "$substrBytes:  starting index must be non-negative (got: %lld)",
                            (long long)start);
    int64_t size = (int64_t)text.len;
    if (len < 0 || len > size)
        len = size;
    if (start < size && is_continuation(text.data[start]))
        return vd_error_set(err, VD_ERR_LOCATION(28656),
                            "$substrBytes:  Invalid range, starting index is a UTF-8 continuation "
                            "byte.");
    if (start < size && start + len < size && is_continuation(text.data[start + len]))
        return vd_error_set(err, VD_ERR_LOCATION(28657),
                            "$substrBytes:  Invalid range, ending index is in the middle of a "
                            "UTF-8 character.");
    if (start >= size)
        start = size, len = 0;
    if (len > size - start)
        len = size - start;
    return set_string(env, vd_slice(text.data + start, (size_t)len), ret, err);
}

static int eval_substr_cp(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                          vd_error_t *err)
{
    static const int codes[2] = {34450, 34452};
    vd_slice_t text;
    vd_value_t numbers[2];
    int rc = substr_args(expr, env, &text, numbers, codes, err);
    if (rc != VD_OK)
        return rc;
    int32_t start, len;
    if (!stor_expr_as_int32(numbers[0], &start))
        return vd_error_set(err, VD_ERR_LOCATION(34451),
                            "$substrCP: starting index cannot be represented as a 32-bit integral "
                            "value");
    if (!stor_expr_as_int32(numbers[1], &len))
        return vd_error_set(err, VD_ERR_LOCATION(34453),
                            "$substrCP: length cannot be represented as a 32-bit integral value");
    if (len < 0)
        return vd_error_set(err, VD_ERR_LOCATION(34454),
                            "$substrCP: length must be a nonnegative integer.");
    if (start < 0)
        return vd_error_set(err, VD_ERR_LOCATION(34455),
                            "$substrCP: the starting index must be nonnegative integer.");
    size_t from = 0, to;
    for (int32_t i = 0; i < start && from < text.len; i++)
        from += code_point_len(text.data[from], text.len - from);
    to = from;
    for (int32_t i = 0; i < len && to < text.len; i++)
        to += code_point_len(text.data[to], text.len - to);
    return set_string(env, vd_slice(text.data + from, to - from), ret, err);
}

/* ---- lengths ---- */

static int eval_str_len_bytes(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                              vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(34473),
                            "$strLenBytes requires a string argument, found: %s",
                            stor_expr_type(v));
    *ret = vd_value_from_int32(env->arena, (int32_t)vd_value_string(v).len);
    return VD_OK;
}

static int eval_str_len_cp(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                           vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(34471),
                            "$strLenCP requires a string argument, found: %s", stor_expr_type(v));
    vd_slice_t s = vd_value_string(v);
    int32_t count = 0;
    for (size_t i = 0; i < s.len; i++)
        count += !is_continuation(s.data[i]);
    *ret = vd_value_from_int32(env->arena, count);
    return VD_OK;
}

static int eval_binary_size(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                            vd_error_t *err)
{
    vd_value_t v;
    uint8_t subtype;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(v))
        stor_expr_set_null(ret);
    else if (v.type == VD_BSON_STRING)
        *ret = vd_value_from_int32(env->arena, (int32_t)vd_value_string(v).len);
    else if (v.type == VD_BSON_BINARY)
        *ret = vd_value_from_int32(env->arena, (int32_t)vd_value_binary(v, &subtype).len);
    else
        return vd_error_set(err, VD_ERR_LOCATION(51276),
                            "$binarySize requires a string or BinData argument, found: %s",
                            stor_expr_type(v));
    return VD_OK;
}

/* ---- $split ---- */

static int eval_split(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
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
        if (v[i].type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_LOCATION(40085 + i),
                                "$split requires an expression that evaluates to a string as a %s "
                                "argument, found: %s",
                                i == 0 ? "first" : "second", stor_expr_type(v[i]));
    vd_slice_t text = vd_value_string(v[0]), separator = vd_value_string(v[1]);
    if (separator.len == 0)
        return vd_error_set(err, VD_ERR_LOCATION(40087), "$split requires a non-empty separator");
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    for (size_t at = 0;;) {
        const uint8_t *hit = find_bytes(text, at, separator);
        size_t end = hit == NULL ? text.len : (size_t)(hit - text.data);
        vd_value_t part;
        rc = set_string(env, vd_slice(text.data + at, end - at), &part, err);
        if (rc != VD_OK)
            return rc;
        stor_expr_array_push(&out, part);
        if (hit == NULL)
            return stor_expr_array_end(&out, ret, err);
        at = end + separator.len;
    }
}

/* ---- $indexOfBytes, $indexOfCP ---- */

static int read_index(const stor_expr_t *expr, uint32_t i, stor_expr_env_t *env, size_t *ret,
                      vd_error_t *err)
{
    const char *what = i == 2 ? "starting index" : "ending index";
    vd_value_t v;
    int32_t n;
    int rc = stor_expr_arg(expr, i, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (!stor_expr_as_int32(v, &n))
        return vd_error_set(err, VD_ERR_LOCATION(40096),
                            "%s requires an integral %s, found a value of type: %s", expr->op->name,
                            what, stor_expr_type(v));
    if (n < 0)
        return vd_error_set(err, VD_ERR_LOCATION(40097), "%s requires a nonnegative %s, found: %d",
                            expr->op->name, what, n);
    *ret = (size_t)n;
    return VD_OK;
}

/* variant 0: bytes, 1: code points. */
static int eval_index_of(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                         vd_error_t *err)
{
    bool points = expr->op->variant == 1;
    vd_value_t v, token_value;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(v)) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(points ? 40093 : 40091),
                            "%s requires a string as the first argument, found: %s", expr->op->name,
                            stor_expr_type(v));
    rc = stor_expr_arg(expr, 1, env, &token_value, err);
    if (rc != VD_OK)
        return rc;
    if (token_value.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(points ? 40094 : 40092),
                            "%s requires a string as the second argument, found: %s",
                            expr->op->name, stor_expr_type(token_value));
    vd_slice_t text = vd_value_string(v), token = vd_value_string(token_value);
    size_t start = 0, end = SIZE_MAX;
    if (expr->count > 2)
        rc = read_index(expr, 2, env, &start, err);
    if (rc == VD_OK && expr->count > 3)
        rc = read_index(expr, 3, env, &end, err);
    if (rc != VD_OK)
        return rc;

    *ret = vd_value_from_int32(env->arena, -1);
    if (!points) {
        if (end > text.len)
            end = text.len;
        if (start > text.len || end < start)
            return VD_OK;
        const uint8_t *hit = find_bytes(vd_slice(text.data, end), start, token);
        if (hit != NULL)
            *ret = vd_value_from_int32(env->arena, (int32_t)(hit - text.data));
        return VD_OK;
    }
    size_t at = 0,
           point = 0; /* as MongoDB: a match may run over the end, but must start before it */
    if (text.len == 0 && token.len == 0 && start == 0)
        *ret = vd_value_from_int32(env->arena, 0);
    for (; at < text.len && point < end; point++) {
        if (point >= start && token.len <= text.len - at &&
            memcmp(text.data + at, token.data, token.len) == 0) {
            *ret = vd_value_from_int32(env->arena, (int32_t)point);
            return VD_OK;
        }
        at += code_point_len(text.data[at], text.len - at);
    }
    return VD_OK;
}

/* ---- $trim, $ltrim, $rtrim ---- */

enum { TRIM_LEFT = 1, TRIM_RIGHT = 2 };

static const char *const white_space[] = {
    "",
    "\x20",
    "\x09",
    "\x0A",
    "\x0B",
    "\x0C",
    "\x0D",
    "\xC2\xA0",
    "\xE1\x9A\x80",
    "\xE2\x80\x80",
    "\xE2\x80\x81",
    "\xE2\x80\x82",
    "\xE2\x80\x83",
    "\xE2\x80\x84",
    "\xE2\x80\x85",
    "\xE2\x80\x86",
    "\xE2\x80\x87",
    "\xE2\x80\x88",
    "\xE2\x80\x89",
    "\xE2\x80\x8A",
};

/* The i-th character that is trimmed; false at the end. chars NULL: white space (the first is NUL
 * itself). */
static bool trim_char(const vd_slice_t *chars, size_t *position, vd_slice_t *ret)
{
    if (chars == NULL) {
        if (*position == VD_COUNT_OF(white_space))
            return false;
        *ret =
            vd_slice(white_space[*position], *position == 0 ? 1 : strlen(white_space[*position]));
        (*position)++;
        return true;
    }
    if (*position >= chars->len)
        return false;
    size_t len = code_point_len(chars->data[*position], chars->len - *position);
    *ret = vd_slice(chars->data + *position, len);
    *position += len;
    return true;
}

static vd_slice_t trim(vd_slice_t text, const vd_slice_t *chars, int sides)
{
    for (bool again = true; again;) {
        vd_slice_t c;
        again = false;
        for (size_t i = 0; trim_char(chars, &i, &c);) {
            if (c.len > text.len)
                continue;
            if ((sides & TRIM_LEFT) != 0 && memcmp(text.data, c.data, c.len) == 0) {
                text = vd_slice(text.data + c.len, text.len - c.len);
                again = true;
            } else if ((sides & TRIM_RIGHT) != 0 &&
                       memcmp(text.data + text.len - c.len, c.data, c.len) == 0) {
                text.len -= c.len;
                again = true;
            }
        }
    }
    return text;
}

static int eval_trim(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    vd_value_t v, chars_value;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(v)) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(50699),
                            "%s requires its input to be a string, got a value of type %s instead.",
                            expr->op->name, stor_expr_type(v));
    if (expr->args[1] == NULL)
        return set_string(env, trim(vd_value_string(v), NULL, expr->op->variant), ret, err);
    rc = stor_expr_arg(expr, 1, env, &chars_value, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(chars_value)) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (chars_value.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(50700),
                            "%s requires 'chars' to be a string, got a value of type %s instead.",
                            expr->op->name, stor_expr_type(chars_value));
    vd_slice_t chars = vd_value_string(chars_value);
    return set_string(env, trim(vd_value_string(v), &chars, expr->op->variant), ret, err);
}

static int parse_trim(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                      stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {{"input", 50695}, {"chars", 0}};
    static const stor_expr_named_t named = {50696, 50694, fields, VD_COUNT_OF(fields)};
    return stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
}

/* ---- $replaceOne, $replaceAll ---- */

static int replace(const stor_expr_t *expr, stor_expr_env_t *env, vd_slice_t text, vd_slice_t find,
                   vd_slice_t with, vd_value_t *ret, vd_error_t *err)
{
    size_t limit = expr->op->variant == 1 ? SIZE_MAX : 1, count = 0, at = 0;
    const uint8_t *hit;
    size_t step =
        find.len > 0 ? find.len : 1; /* nothing is found before each byte and at the end */
    while (count < limit && (hit = find_bytes(text, at, find)) != NULL) {
        count++;
        at = (size_t)(hit - text.data) + step;
    }
    if (count > 0 && with.len > STOR_EXPR_VALUE_MAX_BYTES / count)
        return vd_error_set(err, VD_ERR_BSON_OBJECT_TOO_LARGE, "%s would make too large a string",
                            expr->op->name);
    char *bytes = NULL;
    int rc =
        stor_expr_new_string(env, text.len - count * find.len + count * with.len, ret, &bytes, err);
    if (rc != VD_OK)
        return rc;
    for (at = 0; count > 0; count--) {
        size_t start = find.len > 0 ? (size_t)(find_bytes(text, at, find) - text.data) : at;
        if (start > at)
            memcpy(bytes, text.data + at, start - at);
        bytes += start - at;
        memcpy(bytes, with.data, with.len);
        bytes += with.len;
        at = start + find.len;
        if (find.len == 0 && at < text.len && count > 1)
            *bytes++ = (char)text.data[at++];
    }
    if (at < text.len)
        memcpy(bytes, text.data + at, text.len - at);
    return VD_OK;
}

static int eval_replace(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                        vd_error_t *err)
{
    static const char *const names[] = {"input", "find", "replacement"};
    vd_value_t v[3];
    bool null = false;
    for (uint32_t i = 0; i < 3; i++) {
        int rc = stor_expr_arg(expr, i, env, &v[i], err);
        if (rc != VD_OK)
            return rc;
    }
    for (int i = 0; i < 3; i++) {
        null |= vd_value_is_nullish(v[i]);
        if (!vd_value_is_nullish(v[i]) && v[i].type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_LOCATION(51746 - i),
                                "%s requires that '%s' be a string, found: %s", expr->op->name,
                                names[i], stor_expr_type(v[i]));
    }
    if (null) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    return replace(expr, env, vd_value_string(v[0]), vd_value_string(v[1]), vd_value_string(v[2]),
                   ret, err);
}

static int parse_replace(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                         stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {
        {"input", 51749}, {"find", 51748}, {"replacement", 51747}};
    static const stor_expr_named_t named = {51751, 51750, fields, VD_COUNT_OF(fields)};
    return stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
}

static const stor_expr_op_t string_ops[] = {
    STOR_EXPR_OP("$concat", 0, STOR_EXPR_ARGS_ANY, 0, eval_concat),
    STOR_EXPR_OP("$toUpper", 1, 1, 1, eval_case),
    STOR_EXPR_OP("$toLower", 1, 1, 0, eval_case),
    STOR_EXPR_OP("$strcasecmp", 2, 2, 0, eval_strcasecmp),
    STOR_EXPR_OP("$substr", 3, 3, 0, eval_substr_bytes),
    STOR_EXPR_OP("$substrBytes", 3, 3, 0, eval_substr_bytes),
    STOR_EXPR_OP("$substrCP", 3, 3, 0, eval_substr_cp),
    STOR_EXPR_OP("$strLenBytes", 1, 1, 0, eval_str_len_bytes),
    STOR_EXPR_OP("$strLenCP", 1, 1, 0, eval_str_len_cp),
    STOR_EXPR_OP("$binarySize", 1, 1, 0, eval_binary_size),
    STOR_EXPR_OP("$split", 2, 2, 0, eval_split),
    STOR_EXPR_OP("$indexOfBytes", 2, 4, 0, eval_index_of),
    STOR_EXPR_OP("$indexOfCP", 2, 4, 1, eval_index_of),
    STOR_EXPR_OP_PARSED("$trim", 0, TRIM_LEFT | TRIM_RIGHT, eval_trim, parse_trim),
    STOR_EXPR_OP_PARSED("$ltrim", 0, TRIM_LEFT, eval_trim, parse_trim),
    STOR_EXPR_OP_PARSED("$rtrim", 0, TRIM_RIGHT, eval_trim, parse_trim),
    STOR_EXPR_OP_PARSED("$replaceOne", 0, 0, eval_replace, parse_replace),
    STOR_EXPR_OP_PARSED("$replaceAll", 0, 1, eval_replace, parse_replace),
};
const stor_expr_family_t stor_expr_family_string = {string_ops, VD_COUNT_OF(string_ops)};
