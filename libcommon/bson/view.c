/* libcommon/bson/view.c — checking and walking BSON bytes; see view.h. */
#include "libcommon/bson/view.h"

#include "libcommon/bson/decimal.h"

#include <math.h>
#include <stdio.h>

/* How long a payload is: >= 0 fixed, else found in the bytes. */
enum {
    SIZE_INVALID = -1,
    SIZE_STRING = -2,
    SIZE_DOCUMENT = -3,
    SIZE_BINARY = -4,
    SIZE_REGEX = -5,
    SIZE_DBPOINTER = -6,
    SIZE_CODE_WITH_SCOPE = -7,
};

#define X SIZE_INVALID
static const int8_t payload_size[256] = {
    /* 00 */ X,
    8,
    SIZE_STRING,
    SIZE_DOCUMENT,
    SIZE_DOCUMENT,
    SIZE_BINARY,
    /* 06 */ 0,
    12,
    1,
    8,
    0,
    SIZE_REGEX,
    /* 0C */ SIZE_DBPOINTER,
    SIZE_STRING,
    SIZE_STRING,
    SIZE_CODE_WITH_SCOPE,
    /* 10 */ 4,
    8,
    8,
    16,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* 20 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* 30 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* 40 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* 50 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* 60 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* 70 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    0,
    /* 80 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* 90 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* A0 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* B0 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* C0 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* D0 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* E0 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    /* F0 */ X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    X,
    0,
};
#undef X

#define HIGH_BITS 0x8080808080808080ULL
#define LOW_BITS  0x0101010101010101ULL

static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The first NUL in [p, end), or NULL. *ret_high collects bits of the bytes before it: >= 0x80 means
 * not ASCII. */
static inline const uint8_t *find_nul(const uint8_t *p, const uint8_t *end, uint64_t *ret_high)
{
    uint64_t high = 0;
    for (; end - p >= 8; p += 8) {
        uint64_t v = load64(p);
        uint64_t zero = (v - LOW_BITS) & ~v & HIGH_BITS;
        if (zero != 0) {
            unsigned bits =
                (unsigned)__builtin_ctzll(zero) - 7; /* before the NUL: a multiple of 8 */
            *ret_high = high | (bits == 0 ? 0 : v & (~0ULL >> (64 - bits)) & HIGH_BITS);
            return p + bits / 8;
        }
        high |= v & HIGH_BITS;
    }
    for (; p < end; p++) {
        if (*p == 0) {
            *ret_high = high;
            return p;
        }
        high |= *p & 0x80u;
    }
    return NULL;
}

bool vd_utf8_valid(vd_slice_t s)
{
    if (s.len == 0)
        return true;
    const uint8_t *p = s.data, *end = s.data + s.len;
    while (p < end) {
        while (end - p >= 8 && (load64(p) & HIGH_BITS) == 0)
            p += 8;
        while (p < end && *p < 0x80)
            p++;
        if (p == end)
            break;
        uint8_t c = *p;
        ptrdiff_t n = c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
        if (n == 0 || end - p < n)
            return false;
        /* The second byte excludes overlong forms, surrogates and what lies above U+10FFFF. */
        uint8_t low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
        uint8_t high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
        if (p[1] < low || p[1] > high)
            return false;
        for (ptrdiff_t i = 2; i < n; i++)
            if ((p[i] & 0xC0) != 0x80)
                return false;
        p += n;
    }
    return true;
}

/* Bytes of the payload at p, of that type, when it fits before `end`; negative when it does not.
 * Looks at lengths and at strings' terminators, not inside of documents. */
static inline int64_t payload_length(uint8_t type, const uint8_t *p, const uint8_t *end)
{
    int64_t left = end - p;
    int size = payload_size[type];
    if (VD_LIKELY(size >= 0))
        return size <= left ? size : -1;
    if (size == SIZE_INVALID)
        return -1;
    uint64_t high;
    if (size == SIZE_REGEX) {
        const uint8_t *nul = find_nul(p, end, &high);
        nul = nul == NULL ? NULL : find_nul(nul + 1, end, &high);
        return nul == NULL ? -1 : nul + 1 - p;
    }
    if (left < 5)
        return -1;
    int64_t n = (int32_t)vd_get_u32(p);
    switch (size) {
    case SIZE_STRING:
        return n >= 1 && n + 4 <= left && p[4 + n - 1] == 0 ? n + 4 : -1;
    case SIZE_DOCUMENT:
        return n >= 5 && n <= left && p[n - 1] == 0 ? n : -1;
    case SIZE_BINARY:
        return n >= 0 && n + 5 <= left ? n + 5 : -1;
    case SIZE_DBPOINTER:
        return n >= 1 && n + 16 <= left && p[4 + n - 1] == 0 ? n + 16 : -1;
    default: { /* code with scope: its length, a string, a document that fills the rest */
        if (n < 14 || n > left)
            return -1;
        int64_t code = (int32_t)vd_get_u32(p + 4);
        if (code < 1 || code > n - 8 - 5 || p[8 + code - 1] != 0)
            return -1;
        int64_t scope = (int32_t)vd_get_u32(p + 8 + code);
        return scope == n - 8 - code && p[n - 1] == 0 ? n : -1;
    }
    }
}

#define VALIDATE_DEPTH_MAX 512

static int invalid_at(vd_slice_t bytes, const uint8_t *at, const char *what, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_INVALID_BSON, "Invalid BSON: %s at offset %zu", what,
                        (size_t)(at - bytes.data));
}

/* UTF-8 of what the payload holds as text. The payload's own form has been checked. */
static bool text_valid(uint8_t type, const uint8_t *p, int64_t len)
{
    switch (type) {
    case VD_BSON_STRING:
    case VD_BSON_CODE:
    case VD_BSON_SYMBOL:
        return vd_utf8_valid(vd_slice(p + 4, (size_t)len - 5));
    case VD_BSON_REGEX:
        return vd_utf8_valid(vd_slice(p, (size_t)len));
    case VD_BSON_DBPOINTER:
        return vd_utf8_valid(vd_slice(p + 4, (size_t)len - 17));
    case VD_BSON_CODE_WITH_SCOPE:
        return vd_utf8_valid(vd_slice(p + 8, vd_get_u32(p + 4) - 1));
    default:
        return true;
    }
}

int vd_bson_validate(vd_slice_t bytes, unsigned flags, uint32_t depth_max, vd_error_t *err)
{
    const uint8_t *ends[VALIDATE_DEPTH_MAX]; /* the final NUL of each open document */
    if (depth_max > VALIDATE_DEPTH_MAX)
        depth_max = VALIDATE_DEPTH_MAX;
    vd_bson_t doc;
    int rc = vd_bson_peek(bytes, &doc, err);
    if (rc != VD_OK)
        return rc;
    if (doc.len != bytes.len)
        return invalid_at(bytes, bytes.data, "length does not match the bytes", err);
    if (depth_max == 0)
        return vd_error_set(err, VD_ERR_OVERFLOW, "BSON nesting is deeper than 0 levels");

    bool utf8 = (flags & VD_BSON_CHECK_UTF8) != 0;
    uint32_t depth = 1;
    const uint8_t *p = bytes.data + 4, *end = bytes.data + bytes.len - 1;
    ends[0] = end;
    for (;;) {
        uint8_t type = *p; /* p <= end, and *end is 0 */
        if (type == 0) {
            if (p != end)
                return invalid_at(bytes, p, "document ends before its length", err);
            p++;
            if (--depth == 0)
                return VD_OK;
            end = ends[depth - 1];
            continue;
        }
        const uint8_t *name = p + 1;
        uint64_t high = 0;
        const uint8_t *nul = find_nul(name, end, &high);
        if (nul == NULL)
            return invalid_at(bytes, p, "field name without end", err);
        if (utf8 && high != 0 && !vd_utf8_valid(vd_slice(name, (size_t)(nul - name))))
            return invalid_at(bytes, p, "field name is not valid UTF-8", err);
        p = nul + 1;
        int64_t len = payload_length(type, p, end);
        if (VD_UNLIKELY(len < 0))
            return invalid_at(bytes, nul, "unknown type or value that does not fit", err);
        if (type == VD_BSON_BOOL && *p > 1)
            return invalid_at(bytes, p, "boolean is neither 0 nor 1", err);
        if (utf8 && !text_valid(type, p, len))
            return invalid_at(bytes, p, "string is not valid UTF-8", err);
        if (type == VD_BSON_OBJECT || type == VD_BSON_ARRAY || type == VD_BSON_CODE_WITH_SCOPE) {
            if (depth == depth_max)
                return vd_error_set(err, VD_ERR_OVERFLOW, "BSON nesting is deeper than %u levels",
                                    depth_max);
            end = p + len - 1;
            ends[depth++] = end;
            p += type == VD_BSON_CODE_WITH_SCOPE ? 8 + vd_get_u32(p + 4) + 4 : 4;
        } else {
            p += len;
        }
    }
}

int vd_bson_peek(vd_slice_t bytes, vd_bson_t *ret_doc, vd_error_t *err)
{
    VD_ASSERT(ret_doc != NULL);
    if (bytes.len < 5)
        return vd_error_set(err, VD_ERR_INVALID_BSON, "Invalid BSON: only %zu bytes", bytes.len);
    uint32_t len = vd_get_u32(bytes.data);
    if (len < 5 || len > INT32_MAX || len > bytes.len)
        return vd_error_set(err, VD_ERR_INVALID_BSON,
                            "Invalid BSON: length %u does not fit in %zu bytes", len, bytes.len);
    if (bytes.data[len - 1] != 0)
        return vd_error_set(err, VD_ERR_INVALID_BSON, "Invalid BSON: no final NUL");
    *ret_doc = (vd_bson_t){bytes.data, len};
    return VD_OK;
}

void vd_bson_iter_init(vd_bson_iter_t *iter, vd_bson_t doc)
{
    *iter = (vd_bson_iter_t){0};
    if (doc.data == NULL)
        return; /* pos == end: no elements */
    if (doc.len < 5) {
        iter->bad = true;
        return;
    }
    iter->pos = doc.data + 4;
    iter->end = doc.data + doc.len - 1;
}

static bool iter_bad(vd_bson_iter_t *iter)
{
    iter->bad = true;
    iter->pos = iter->end;
    iter->value = VD_VALUE_MISSING;
    return false;
}

bool vd_bson_iter_next(vd_bson_iter_t *iter)
{
    const uint8_t *p = iter->pos, *end = iter->end;
    if (p == end)
        return false;
    uint8_t type = *p;
    uint64_t high;
    const uint8_t *nul = find_nul(p + 1, end, &high);
    if (VD_UNLIKELY(nul == NULL))
        return iter_bad(iter);
    int64_t len = payload_length(type, nul + 1, end);
    if (VD_UNLIKELY(len < 0))
        return iter_bad(iter);
    iter->name = vd_slice(p + 1, (size_t)(nul - p - 1));
    iter->value = (vd_value_t){nul + 1, (uint32_t)len, type};
    iter->pos = nul + 1 + len;
    return true;
}

vd_value_t vd_bson_get(vd_bson_t doc, const char *name)
{
    return vd_bson_get_slice(doc, vd_slice_str(name));
}

vd_value_t vd_bson_get_slice(vd_bson_t doc, vd_slice_t name)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, doc);
    while (vd_bson_iter_next(&iter))
        if (vd_slice_equal(iter.name, name))
            return iter.value;
    return VD_VALUE_MISSING;
}

vd_value_t vd_bson_get_path(vd_bson_t doc, vd_slice_t path)
{
    for (;;) {
        const uint8_t *dot = path.len == 0 ? NULL : memchr(path.data, '.', path.len);
        vd_slice_t part = path;
        if (dot != NULL)
            part.len = (size_t)(dot - path.data);
        vd_value_t value = vd_bson_get_slice(doc, part); /* array positions are names, too */
        if (dot == NULL || (value.type != VD_BSON_OBJECT && value.type != VD_BSON_ARRAY))
            return dot == NULL ? value : VD_VALUE_MISSING;
        doc = vd_value_document(value);
        path = vd_slice(dot + 1, path.len - part.len - 1);
    }
}

bool vd_bson_is_empty(vd_bson_t doc)
{
    return doc.data == NULL || doc.len <= 5;
}

uint32_t vd_bson_count(vd_bson_t doc)
{
    uint32_t count = 0;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, doc);
    while (vd_bson_iter_next(&iter))
        count++;
    return count;
}

bool vd_bson_first(vd_bson_t doc, vd_slice_t *ret_name, vd_value_t *ret_value)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, doc);
    if (!vd_bson_iter_next(&iter))
        return false;
    if (ret_name != NULL)
        *ret_name = iter.name;
    if (ret_value != NULL)
        *ret_value = iter.value;
    return true;
}

void vd_value_regex(vd_value_t v, vd_slice_t *ret_pattern, vd_slice_t *ret_options)
{
    VD_ASSERT(v.type == VD_BSON_REGEX && v.len >= 2);
    size_t pattern = strnlen((const char *)v.data, v.len - 1);
    *ret_pattern = vd_slice(v.data, pattern);
    *ret_options = vd_slice(v.data + pattern + 1, v.len - pattern - 2);
}

bool vd_value_truthy(vd_value_t v)
{
    switch (v.type) {
    case VD_BSON_MISSING:
    case VD_BSON_NULL:
    case VD_BSON_UNDEFINED:
        return false;
    case VD_BSON_BOOL:
        return vd_value_bool(v);
    case VD_BSON_INT32:
        return vd_value_int32(v) != 0;
    case VD_BSON_INT64:
        return vd_value_int64(v) != 0;
    case VD_BSON_DOUBLE:
        return vd_value_double(v) != 0; /* NaN is true */
    case VD_BSON_DECIMAL128:
        return !vd_decimal_is_zero(vd_value_decimal(v));
    default:
        return true;
    }
}

bool vd_value_as_int64(vd_value_t v, int64_t *ret)
{
    switch (v.type) {
    case VD_BSON_INT32:
        *ret = vd_value_int32(v);
        return true;
    case VD_BSON_INT64:
        *ret = vd_value_int64(v);
        return true;
    case VD_BSON_DOUBLE: {
        double d = vd_value_double(v);
        if (!(d >= -0x1p63 && d < 0x1p63) || d != trunc(d))
            return false;
        *ret = (int64_t)d;
        return true;
    }
    case VD_BSON_DECIMAL128:
        return vd_decimal_to_int64(vd_value_decimal(v), ret);
    default:
        return false;
    }
}

double vd_value_as_double(vd_value_t v)
{
    switch (v.type) {
    case VD_BSON_INT32:
        return vd_value_int32(v);
    case VD_BSON_INT64:
        return (double)vd_value_int64(v);
    case VD_BSON_DOUBLE:
        return vd_value_double(v);
    case VD_BSON_DECIMAL128:
        return vd_decimal_to_double(vd_value_decimal(v));
    default:
        return 0;
    }
}

bool vd_value_as_flag(vd_value_t v)
{
    return vd_value_truthy(v);
}

static const struct {
    uint8_t type;
    const char *name;
} type_names[] = {
    {VD_BSON_DOUBLE, "double"},
    {VD_BSON_STRING, "string"},
    {VD_BSON_OBJECT, "object"},
    {VD_BSON_ARRAY, "array"},
    {VD_BSON_BINARY, "binData"},
    {VD_BSON_UNDEFINED, "undefined"},
    {VD_BSON_OBJECTID, "objectId"},
    {VD_BSON_BOOL, "bool"},
    {VD_BSON_DATE, "date"},
    {VD_BSON_NULL, "null"},
    {VD_BSON_REGEX, "regex"},
    {VD_BSON_DBPOINTER, "dbPointer"},
    {VD_BSON_CODE, "javascript"},
    {VD_BSON_SYMBOL, "symbol"},
    {VD_BSON_CODE_WITH_SCOPE, "javascriptWithScope"},
    {VD_BSON_INT32, "int"},
    {VD_BSON_TIMESTAMP, "timestamp"},
    {VD_BSON_INT64, "long"},
    {VD_BSON_DECIMAL128, "decimal"},
    {VD_BSON_MINKEY, "minKey"},
    {VD_BSON_MAXKEY, "maxKey"},
};

const char *vd_bson_type_name(uint8_t type)
{
    for (size_t i = 0; i < VD_COUNT_OF(type_names); i++)
        if (type_names[i].type == type)
            return type_names[i].name;
    return type == VD_BSON_MISSING ? "missing" : "unknown";
}

int vd_bson_type_by_name(vd_slice_t name)
{
    if (vd_slice_is(name, "number"))
        return 0;
    for (size_t i = 0; i < VD_COUNT_OF(type_names); i++)
        if (vd_slice_is(name, type_names[i].name))
            return type_names[i].type;
    return -1;
}

vd_value_t vd_value_from_int32(vd_arena_t *arena, int32_t v)
{
    uint8_t *p = vd_arena_alloc(arena, 4);
    vd_put_u32(p, (uint32_t)v);
    return (vd_value_t){p, 4, VD_BSON_INT32};
}

static vd_value_t from_u64(vd_arena_t *arena, uint64_t v, uint8_t type)
{
    uint8_t *p = vd_arena_alloc(arena, 8);
    vd_put_u64(p, v);
    return (vd_value_t){p, 8, type};
}

vd_value_t vd_value_from_int64(vd_arena_t *arena, int64_t v)
{
    return from_u64(arena, (uint64_t)v, VD_BSON_INT64);
}

vd_value_t vd_value_from_double(vd_arena_t *arena, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return from_u64(arena, bits, VD_BSON_DOUBLE);
}

vd_value_t vd_value_from_bool(bool v)
{
    static const uint8_t payload[2] = {0, 1};
    return (vd_value_t){&payload[v], 1, VD_BSON_BOOL};
}

vd_value_t vd_value_from_null(void)
{
    static const uint8_t payload[1];
    return (vd_value_t){payload, 0, VD_BSON_NULL};
}

vd_value_t vd_value_from_date(vd_arena_t *arena, int64_t ms)
{
    return from_u64(arena, (uint64_t)ms, VD_BSON_DATE);
}

vd_value_t vd_value_from_timestamp(vd_arena_t *arena, uint64_t ts)
{
    return from_u64(arena, ts, VD_BSON_TIMESTAMP);
}

vd_value_t vd_value_from_string(vd_arena_t *arena, vd_slice_t s)
{
    VD_ASSERT(s.len < INT32_MAX - 5);
    uint8_t *p = vd_arena_alloc(arena, s.len + 5);
    vd_put_u32(p, (uint32_t)s.len + 1);
    if (s.len != 0)
        memcpy(p + 4, s.data, s.len);
    p[4 + s.len] = 0;
    return (vd_value_t){p, (uint32_t)s.len + 5, VD_BSON_STRING};
}

static const uint8_t empty_document[5] = {5};

vd_value_t vd_value_from_document(vd_bson_t doc)
{
    if (doc.data == NULL)
        doc = (vd_bson_t){empty_document, 5};
    return (vd_value_t){doc.data, doc.len, VD_BSON_OBJECT};
}

vd_value_t vd_value_from_array(vd_bson_t doc)
{
    vd_value_t v = vd_value_from_document(doc);
    v.type = VD_BSON_ARRAY;
    return v;
}

vd_value_t vd_value_copy(vd_arena_t *arena, vd_value_t v)
{
    if (v.type != VD_BSON_MISSING)
        v.data = vd_arena_copy(arena, v.data, v.len);
    return v;
}
