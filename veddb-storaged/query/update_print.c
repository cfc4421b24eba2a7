/* veddb-storaged/query/update_print.c — values in error messages, as MongoDB prints them; always
 * cut to a small buffer. */
#include "libcommon/bson/decimal.h"
#include "veddb-storaged/query/update_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define PRINT_DEPTH_MAX 5

typedef struct {
    char *buf;
    size_t len, size;
} print_t;

static void put(print_t *out, const char *format, ...) VD_PRINTF(2, 3);
static void put(print_t *out, const char *format, ...)
{
    if (out->len + 1 >= out->size)
        return;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out->buf + out->len, out->size - out->len, format, args);
    va_end(args);
    if (n > 0)
        out->len += (size_t)n < out->size - out->len ? (size_t)n : out->size - out->len - 1;
}

static void put_slice(print_t *out, vd_slice_t s)
{
    put(out, "%.*s", (int)(s.len < out->size ? s.len : out->size), (const char *)s.data);
}

static void put_hex(print_t *out, const uint8_t *bytes, size_t len, const char *format)
{
    for (size_t i = 0; i < len && out->len + 1 < out->size; i++) {
        char hex[3];
        (void)snprintf(hex, sizeof hex, format[0] == 'X' ? "%02X" : "%02x", bytes[i]);
        put(out, "%s", hex);
    }
}

static void put_double(print_t *out, double d)
{
    if (isnan(d))
        put(out, "nan.0");
    else if (isinf(d))
        put(out, d > 0 ? "inf.0" : "-inf.0");
    else if (d == floor(d) && fabs(d) < 1e15)
        put(out, "%.1f", d);
    else
        put(out, "%.16g", d);
}

static void put_value(print_t *out, vd_value_t v, int depth);

static void put_container(print_t *out, vd_value_t v, int depth)
{
    bool array = v.type == VD_BSON_ARRAY, first = true;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    put(out, array ? "[" : "{");
    while (depth < PRINT_DEPTH_MAX && out->len + 1 < out->size && vd_bson_iter_next(&iter)) {
        put(out, first ? " " : ", ");
        first = false;
        if (!array) {
            put_slice(out, iter.name);
            put(out, ": ");
        }
        put_value(out, iter.value, depth + 1);
    }
    put(out, depth >= PRINT_DEPTH_MAX ? "...%s" : "%s",
        array ? (first ? "]" : " ]") : (first ? "}" : " }"));
}

static void put_binary(print_t *out, vd_value_t v)
{
    uint8_t subtype = 0;
    vd_slice_t bytes = vd_value_binary(v, &subtype);
    put(out, "BinData(%u, ", subtype);
    put_hex(out, bytes.data, bytes.len, "X");
    put(out, ")");
}

static void put_regex(print_t *out, vd_value_t v)
{
    vd_slice_t pattern, options;
    vd_value_regex(v, &pattern, &options);
    put(out, "/");
    put_slice(out, pattern);
    put(out, "/");
    put_slice(out, options);
}

static void put_value(print_t *out, vd_value_t v, int depth)
{
    switch (v.type) {
    case VD_BSON_DOUBLE:
        put_double(out, vd_value_double(v));
        break;
    case VD_BSON_STRING:
    case VD_BSON_SYMBOL:
        put(out, "\"");
        put_slice(out, vd_value_string(v));
        put(out, "\"");
        break;
    case VD_BSON_CODE:
        put_slice(out, vd_value_string(v));
        break;
    case VD_BSON_OBJECT:
    case VD_BSON_ARRAY:
        put_container(out, v, depth);
        break;
    case VD_BSON_BINARY:
        put_binary(out, v);
        break;
    case VD_BSON_UNDEFINED:
        put(out, "undefined");
        break;
    case VD_BSON_OBJECTID:
        put(out, "ObjectId('");
        put_hex(out, vd_value_objectid(v), 12, "x");
        put(out, "')");
        break;
    case VD_BSON_BOOL:
        put(out, vd_value_bool(v) ? "true" : "false");
        break;
    case VD_BSON_DATE:
        put(out, "new Date(%" PRId64 ")", vd_value_int64(v));
        break;
    case VD_BSON_NULL:
        put(out, "null");
        break;
    case VD_BSON_REGEX:
        put_regex(out, v);
        break;
    case VD_BSON_INT32:
        put(out, "%" PRId32, vd_value_int32(v));
        break;
    case VD_BSON_INT64:
        put(out, "%" PRId64, vd_value_int64(v));
        break;
    case VD_BSON_TIMESTAMP: {
        uint64_t ts = vd_value_timestamp(v);
        put(out, "Timestamp(%" PRIu64 ", %" PRIu64 ")", ts >> 32, ts & UINT32_MAX);
        break;
    }
    case VD_BSON_DECIMAL128: {
        char text[64];
        vd_decimal_to_string(vd_value_decimal(v), text);
        put(out, "%s", text);
        break;
    }
    case VD_BSON_MINKEY:
        put(out, "MinKey");
        break;
    case VD_BSON_MAXKEY:
        put(out, "MaxKey");
        break;
    default:
        put(out, "%s", vd_bson_type_name(v.type));
        break;
    }
}

const char *stor_print_element(vd_slice_t name, vd_value_t value, char *buf, size_t size)
{
    VD_ASSERT(size > 0);
    print_t out = {.buf = buf, .size = size};
    buf[0] = '\0';
    put_slice(&out, name);
    put(&out, ": ");
    put_value(&out, value, 0);
    return buf;
}

const char *stor_print_value(vd_value_t value, char *buf, size_t size)
{
    VD_ASSERT(size > 0);
    print_t out = {.buf = buf, .size = size};
    buf[0] = '\0';
    put_value(&out, value, 0);
    return buf;
}

const char *stor_print_id(vd_bson_t document, char *buf, size_t size)
{
    vd_value_t id = vd_bson_get(document, "_id");
    if (vd_value_is_missing(id)) {
        (void)snprintf(buf, size, "no id");
        return buf;
    }
    return stor_print_element(VD_SLICE_LIT("_id"), id, buf, size);
}

vd_slice_t stor_path_text(vd_arena_t *arena, const stor_update_path_t *path)
{
    size_t len = 0;
    for (const stor_update_path_t *at = path; at != NULL; at = at->parent)
        len += at->part.len + (at->parent != NULL);
    char *text = vd_arena_alloc(arena, len + 1);
    text[len] = '\0';
    size_t end = len;
    for (const stor_update_path_t *at = path; at != NULL; at = at->parent) {
        end -= at->part.len;
        if (at->part.len > 0)
            memcpy(text + end, at->part.data, at->part.len);
        if (at->parent != NULL)
            text[--end] = '.';
    }
    return vd_slice(text, len);
}
