/* libcommon/bson/json.c — relaxed extended JSON of values, for messages; contract in view.h.
 *
 * Output goes into a fixed room; what does not fit is cut and marked with "...". */
#include "libcommon/bson/decimal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define JSON_DEPTH_MAX 256

typedef struct {
    char *text;
    size_t len, max; /* room for max bytes and a NUL */
    bool cut;
} out_t;

static void put(out_t *out, const char *data, size_t len)
{
    size_t room = out->max - out->len;
    if (len > room) {
        out->cut = true;
        len = room;
    }
    memcpy(out->text + out->len, data, len);
    out->len += len;
}

static void VD_PRINTF(2, 3) putf(out_t *out, const char *format, ...)
{
    char piece[160];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    if (n > 0)
        put(out, piece, (size_t)n < sizeof piece ? (size_t)n : sizeof piece - 1);
}

static void put_text(out_t *out, vd_slice_t s)
{
    put(out, "\"", 1);
    for (size_t i = 0; i < s.len && !out->cut; i++) {
        uint8_t c = s.data[i];
        if (c == '"' || c == '\\')
            putf(out, "\\%c", c);
        else if (c == '\n')
            put(out, "\\n", 2);
        else if (c == '\r')
            put(out, "\\r", 2);
        else if (c == '\t')
            put(out, "\\t", 2);
        else if (c < 0x20 || c == 0x7F)
            putf(out, "\\u%04x", c);
        else
            put(out, (const char *)&s.data[i], 1);
    }
    put(out, "\"", 1);
}

static void put_double(out_t *out, double d)
{
    if (isnan(d) || isinf(d)) {
        putf(out, "{\"$numberDouble\":\"%s\"}",
             isnan(d) ? "NaN"
             : d > 0  ? "Infinity"
                      : "-Infinity");
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) { /* the shortest that reads back the same */
        (void)snprintf(text, sizeof text, "%.*g", digits, d);
        if (strtod(text, NULL) == d)
            break;
    }
    put(out, text, strlen(text));
    if (strpbrk(text, ".e") == NULL)
        put(out, ".0", 2);
}

static void put_base64(out_t *out, vd_slice_t s)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < s.len && !out->cut; i += 3) {
        size_t n = s.len - i < 3 ? s.len - i : 3;
        uint32_t v = (uint32_t)s.data[i] << 16;
        v |= n > 1 ? (uint32_t)s.data[i + 1] << 8 : 0;
        v |= n > 2 ? s.data[i + 2] : 0;
        char four[4] = {alphabet[v >> 18], alphabet[v >> 12 & 63],
                        n > 1 ? alphabet[v >> 6 & 63] : '=', n > 2 ? alphabet[v & 63] : '='};
        put(out, four, 4);
    }
}

static void put_hex(out_t *out, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        putf(out, "%02x", data[i]);
}

static void put_date(out_t *out, int64_t ms)
{
    if (ms < 0 || ms > 253402300799999) { /* outside of 1970 .. 9999 */
        putf(out, "{\"$date\":{\"$numberLong\":\"%lld\"}}", (long long)ms);
        return;
    }
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    (void)gmtime_r(&seconds, &tm);
    putf(out, "{\"$date\":\"%04d-%02d-%02dT%02d:%02d:%02d", tm.tm_year + 1900, tm.tm_mon + 1,
         tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
    if (ms % 1000 != 0)
        putf(out, ".%03d", (int)(ms % 1000));
    put(out, "Z\"}", 3);
}

static void put_value(out_t *out, vd_value_t v, unsigned depth);

static void put_document(out_t *out, vd_bson_t doc, bool array, unsigned depth)
{
    if (depth >= JSON_DEPTH_MAX) {
        out->cut = true;
        return;
    }
    put(out, array ? "[" : "{", 1);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, doc);
    for (bool first = true; !out->cut && vd_bson_iter_next(&iter); first = false) {
        put(out, first ? " " : ", ", first ? 1 : 2);
        if (!array) {
            put_text(out, iter.name);
            put(out, ": ", 2);
        }
        put_value(out, iter.value, depth + 1);
    }
    put(out, array ? " ]" : " }", 2);
}

static void put_special(out_t *out, vd_value_t v, unsigned depth)
{
    vd_slice_t pattern, options;
    uint8_t subtype;
    char number[64];
    switch (v.type) {
    case VD_BSON_BINARY:
        put(out, "{\"$binary\":{\"base64\":\"", 22);
        put_base64(out, vd_value_binary(v, &subtype));
        putf(out, "\",\"subType\":\"%02x\"}}", subtype);
        break;
    case VD_BSON_OBJECTID:
        put(out, "{\"$oid\":\"", 9);
        put_hex(out, v.data, 12);
        put(out, "\"}", 2);
        break;
    case VD_BSON_REGEX:
        vd_value_regex(v, &pattern, &options);
        put(out, "{\"$regularExpression\":{\"pattern\":", 33);
        put_text(out, pattern);
        put(out, ",\"options\":", 11);
        put_text(out, options);
        put(out, "}}", 2);
        break;
    case VD_BSON_DBPOINTER:
        put(out, "{\"$dbPointer\":{\"$ref\":", 22);
        put_text(out, vd_slice(v.data + 4, v.len - 17));
        put(out, ",\"$id\":{\"$oid\":\"", 16);
        put_hex(out, v.data + v.len - 12, 12);
        put(out, "\"}}}", 4);
        break;
    case VD_BSON_CODE:
        put(out, "{\"$code\":", 9);
        put_text(out, vd_value_string(v));
        put(out, "}", 1);
        break;
    case VD_BSON_CODE_WITH_SCOPE: {
        uint32_t code = vd_get_u32(v.data + 4);
        put(out, "{\"$code\":", 9);
        put_text(out, vd_slice(v.data + 8, code - 1));
        put(out, ",\"$scope\":", 10);
        put_document(out, (vd_bson_t){v.data + 8 + code, v.len - 8 - code}, false, depth + 1);
        put(out, "}", 1);
        break;
    }
    case VD_BSON_SYMBOL:
        put(out, "{\"$symbol\":", 11);
        put_text(out, vd_value_string(v));
        put(out, "}", 1);
        break;
    case VD_BSON_DECIMAL128:
        vd_decimal_to_string(vd_value_decimal(v), number);
        putf(out, "{\"$numberDecimal\":\"%s\"}", number);
        break;
    default:
        VD_ASSERT(v.type == VD_BSON_TIMESTAMP);
        putf(out, "{\"$timestamp\":{\"t\":%u,\"i\":%u}}", vd_get_u32(v.data + 4),
             vd_get_u32(v.data));
        break;
    }
}

static void put_value(out_t *out, vd_value_t v, unsigned depth)
{
    switch (v.type) {
    case VD_BSON_MISSING:
        put(out, "missing", 7);
        break;
    case VD_BSON_DOUBLE:
        put_double(out, vd_value_double(v));
        break;
    case VD_BSON_STRING:
        put_text(out, vd_value_string(v));
        break;
    case VD_BSON_OBJECT:
    case VD_BSON_ARRAY:
        put_document(out, vd_value_document(v), v.type == VD_BSON_ARRAY, depth);
        break;
    case VD_BSON_UNDEFINED:
        put(out, "{\"$undefined\":true}", 19);
        break;
    case VD_BSON_BOOL:
        putf(out, "%s", vd_value_bool(v) ? "true" : "false");
        break;
    case VD_BSON_DATE:
        put_date(out, vd_value_int64(v));
        break;
    case VD_BSON_NULL:
        put(out, "null", 4);
        break;
    case VD_BSON_INT32:
        putf(out, "%d", vd_value_int32(v));
        break;
    case VD_BSON_INT64:
        putf(out, "%lld", (long long)vd_value_int64(v));
        break;
    case VD_BSON_MAXKEY:
        put(out, "{\"$maxKey\":1}", 13);
        break;
    case VD_BSON_MINKEY:
        put(out, "{\"$minKey\":1}", 13);
        break;
    default:
        put_special(out, v, depth);
        break;
    }
}

const char *vd_value_to_json(vd_arena_t *arena, vd_value_t v, size_t max_bytes)
{
    /* Written to the heap first: the arena gets only what was needed. */
    size_t guess = (size_t)v.len * 16 + 256;
    out_t out = {.max = max_bytes < guess ? max_bytes : guess};
    out.text = malloc(out.max + 1);
    if (out.text == NULL)
        return "...";
    put_value(&out, v, 0);
    if (out.cut) {
        /* not in the middle of a UTF-8 sequence */
        size_t len = out.max < 3 ? 0 : out.max - 3;
        if (len < out.len)
            while (len > 0 && ((uint8_t)out.text[len] & 0xC0) == 0x80)
                len--;
        out.len = len < out.len ? len : out.len;
        size_t dots = out.max - out.len < 3 ? out.max - out.len : 3;
        memcpy(out.text + out.len, "...", dots);
        out.len += dots;
    }
    const char *text = vd_arena_strndup(arena, out.text, out.len);
    free(out.text);
    return text;
}

const char *vd_bson_to_json(vd_arena_t *arena, vd_bson_t doc, size_t max_bytes)
{
    return vd_value_to_json(arena, vd_value_from_document(doc), max_bytes);
}
