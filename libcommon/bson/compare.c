/* libcommon/bson/compare.c — MongoDB's order of values; see compare.h.
 *
 * Nested values are compared by recursion, bounded by COMPARE_DEPTH_MAX: below it (no checked
 * document is that deep) payloads are compared as bytes. */
#include "libcommon/bson/compare.h"

#include "libcommon/bson/decimal.h"

#include <math.h>

#define COMPARE_DEPTH_MAX 512

static __thread const vd_collation_t *thread_collation;

const vd_collation_t *vd_collation_set(const vd_collation_t *collation)
{
    const vd_collation_t *before = thread_collation;
    thread_collation = collation;
    return before;
}

const vd_collation_t *vd_collation_get(void)
{
    return thread_collation;
}

bool vd_collation_matters(vd_value_t value)
{
    return thread_collation != NULL && vd_value_is_collatable(value);
}

bool vd_value_is_collatable(vd_value_t value)
{
    return value.type == VD_BSON_STRING || value.type == VD_BSON_SYMBOL ||
           value.type == VD_BSON_OBJECT || value.type == VD_BSON_ARRAY;
}

enum { RANK_NUMBER = 10, RANK_STRING = 15, RANK_OBJECT = 20, RANK_ARRAY = 25 };

int vd_bson_canonical_type(uint8_t type)
{
    switch (type) {
    case VD_BSON_MINKEY:
        return -1;
    case VD_BSON_MISSING:
        return 0;
    case VD_BSON_UNDEFINED:
        return 1;
    case VD_BSON_NULL:
        return 5;
    case VD_BSON_DOUBLE:
    case VD_BSON_INT32:
    case VD_BSON_INT64:
    case VD_BSON_DECIMAL128:
        return RANK_NUMBER;
    case VD_BSON_STRING:
    case VD_BSON_SYMBOL:
        return RANK_STRING;
    case VD_BSON_OBJECT:
        return RANK_OBJECT;
    case VD_BSON_ARRAY:
        return RANK_ARRAY;
    case VD_BSON_BINARY:
        return 30;
    case VD_BSON_OBJECTID:
        return 35;
    case VD_BSON_BOOL:
        return 40;
    case VD_BSON_DATE:
        return 45;
    case VD_BSON_TIMESTAMP:
        return 47;
    case VD_BSON_REGEX:
        return 50;
    case VD_BSON_DBPOINTER:
        return 55;
    case VD_BSON_CODE:
        return 60;
    case VD_BSON_CODE_WITH_SCOPE:
        return 65;
    default:
        return 127; /* MaxKey; no other type passes the check of incoming bytes */
    }
}

#define ORDER(a, b) (((a) > (b)) - ((a) < (b)))

static int compare_doubles(double a, double b)
{
    if (isnan(a) || isnan(b))
        return isnan(b) - isnan(a);
    return ORDER(a, b);
}

/* Exact, also where an int64 has no double of its own. */
static int compare_int64_double(int64_t a, double b)
{
    if (isnan(b))
        return 1;
    if (b >= 0x1p63)
        return -1;
    if (b < -0x1p63)
        return 1;
    int64_t whole = (int64_t)b; /* cut toward zero */
    if (a != whole)
        return ORDER(a, whole);
    return ORDER(0.0, b - (double)whole);
}

static int64_t int_of(vd_value_t v)
{
    return v.type == VD_BSON_INT32 ? vd_value_int32(v) : vd_value_int64(v);
}

static int compare_numbers(vd_value_t a, vd_value_t b)
{
    if (a.type == VD_BSON_DECIMAL128) {
        vd_decimal_t d = vd_value_decimal(a);
        if (b.type == VD_BSON_DOUBLE)
            return vd_decimal_compare_double(d, vd_value_double(b));
        return vd_decimal_compare(d, b.type == VD_BSON_DECIMAL128
                                         ? vd_value_decimal(b)
                                         : vd_decimal_from_int64(int_of(b)));
    }
    if (b.type == VD_BSON_DECIMAL128)
        return -compare_numbers(b, a);
    if (a.type == VD_BSON_DOUBLE) {
        if (b.type == VD_BSON_DOUBLE)
            return compare_doubles(vd_value_double(a), vd_value_double(b));
        return -compare_int64_double(int_of(b), vd_value_double(a));
    }
    if (b.type == VD_BSON_DOUBLE)
        return compare_int64_double(int_of(a), vd_value_double(b));
    int64_t x = int_of(a), y = int_of(b);
    return ORDER(x, y);
}

static int compare_values(vd_value_t a, vd_value_t b, unsigned depth);

/* names: false for the positions of an array. */
static int compare_documents(vd_bson_t a, vd_bson_t b, bool names, unsigned depth)
{
    if (depth >= COMPARE_DEPTH_MAX)
        return vd_slice_compare(vd_slice(a.data, a.len), vd_slice(b.data, b.len));
    vd_bson_iter_t x, y;
    vd_bson_iter_init(&x, a);
    vd_bson_iter_init(&y, b);
    for (;;) {
        bool more_x = vd_bson_iter_next(&x), more_y = vd_bson_iter_next(&y);
        if (!more_x || !more_y)
            return (int)more_x - (int)more_y;
        int c = ORDER(vd_bson_canonical_type(x.value.type), vd_bson_canonical_type(y.value.type));
        if (c == 0 && names)
            c = vd_slice_compare(x.name, y.name);
        if (c == 0)
            c = compare_values(x.value, y.value, depth + 1);
        if (c != 0)
            return c;
    }
}

static int compare_binaries(vd_value_t a, vd_value_t b)
{
    uint8_t subtype_a, subtype_b;
    vd_slice_t x = vd_value_binary(a, &subtype_a), y = vd_value_binary(b, &subtype_b);
    if (x.len != y.len)
        return ORDER(x.len, y.len);
    if (subtype_a != subtype_b)
        return ORDER(subtype_a, subtype_b);
    return vd_slice_compare(x, y);
}

static int compare_regexes(vd_value_t a, vd_value_t b)
{
    vd_slice_t pattern_a, options_a, pattern_b, options_b;
    vd_value_regex(a, &pattern_a, &options_a);
    vd_value_regex(b, &pattern_b, &options_b);
    int c = vd_slice_compare(pattern_a, pattern_b);
    return c != 0 ? c : vd_slice_compare(options_a, options_b);
}

static void code_with_scope(vd_value_t v, vd_slice_t *ret_code, vd_bson_t *ret_scope)
{
    uint32_t code = vd_get_u32(v.data + 4); /* checked by the iterator */
    *ret_code = vd_slice(v.data + 8, code - 1);
    *ret_scope = (vd_bson_t){v.data + 8 + code, v.len - 8 - code};
}

static int compare_codes_with_scope(vd_value_t a, vd_value_t b, unsigned depth)
{
    vd_slice_t code_a, code_b;
    vd_bson_t scope_a, scope_b;
    code_with_scope(a, &code_a, &scope_a);
    code_with_scope(b, &code_b, &scope_b);
    int c = vd_slice_compare(code_a, code_b);
    return c != 0 ? c : compare_documents(scope_a, scope_b, true, depth);
}

static int compare_values(vd_value_t a, vd_value_t b, unsigned depth)
{
    if (a.type != b.type) {
        int c = ORDER(vd_bson_canonical_type(a.type), vd_bson_canonical_type(b.type));
        if (c != 0)
            return c;
    }
    switch (a.type) {
    case VD_BSON_DOUBLE:
    case VD_BSON_INT32:
    case VD_BSON_INT64:
    case VD_BSON_DECIMAL128:
        return compare_numbers(a, b);
    case VD_BSON_STRING:
    case VD_BSON_SYMBOL:
        if (thread_collation != NULL)
            return thread_collation->compare(thread_collation, vd_value_string(a),
                                             vd_value_string(b));
        return vd_slice_compare(vd_value_string(a), vd_value_string(b));
    case VD_BSON_CODE:
        return vd_slice_compare(vd_value_string(a), vd_value_string(b));
    case VD_BSON_OBJECT:
        return compare_documents(vd_value_document(a), vd_value_document(b), true, depth);
    case VD_BSON_ARRAY:
        return compare_documents(vd_value_document(a), vd_value_document(b), false, depth);
    case VD_BSON_BINARY:
        return compare_binaries(a, b);
    case VD_BSON_OBJECTID:
        return memcmp(a.data, b.data, 12);
    case VD_BSON_BOOL:
        return ORDER(a.data[0], b.data[0]);
    case VD_BSON_DATE:
        return ORDER(vd_value_int64(a), vd_value_int64(b));
    case VD_BSON_TIMESTAMP:
        return ORDER(vd_value_timestamp(a), vd_value_timestamp(b));
    case VD_BSON_REGEX:
        return compare_regexes(a, b);
    case VD_BSON_DBPOINTER:
        if (a.len != b.len)
            return ORDER(a.len, b.len);
        return memcmp(a.data, b.data, a.len);
    case VD_BSON_CODE_WITH_SCOPE:
        return compare_codes_with_scope(a, b, depth);
    default: /* missing, null, undefined, MinKey, MaxKey: one value each */
        return 0;
    }
}

int vd_value_compare(vd_value_t a, vd_value_t b)
{
    return compare_values(a, b, 0);
}

int vd_bson_compare(vd_bson_t a, vd_bson_t b)
{
    return compare_documents(a, b, true, 0);
}

bool vd_value_identical(vd_value_t a, vd_value_t b)
{
    return a.type == b.type && vd_slice_equal(vd_slice(a.data, a.len), vd_slice(b.data, b.len));
}

/* ---- hash: one multiply and fold per word, fixed seed (it may be stored) ---- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    unsigned __int128 product =
        (unsigned __int128)(h ^ v ^ 0x9e3779b97f4a7c15ULL) * 0xd6e8feb86659fd93ULL;
    return (uint64_t)product ^ (uint64_t)(product >> 64) ^ (h << 23 | h >> 41);
}

static uint64_t mix_bytes(uint64_t h, vd_slice_t s)
{
    h = mix(h, s.len);
    size_t i = 0;
    for (; s.len - i >= 8; i += 8)
        h = mix(h, vd_get_u64(s.data + i));
    uint64_t last = 0;
    for (unsigned shift = 0; i < s.len; i++, shift += 8)
        last |= (uint64_t)s.data[i] << shift;
    return mix(h, last);
}

static uint64_t mix_double(uint64_t h, double d)
{
    uint64_t bits;
    if (isnan(d))
        return mix(h, 3);
    memcpy(&bits, &d, sizeof bits);
    return mix(mix(h, 2), bits);
}

/* The value's simplest exact form is hashed: whole number, else double, else decimal without
 * trailing zeros. */
static uint64_t mix_number(uint64_t h, vd_value_t v)
{
    int64_t whole;
    if (vd_value_as_int64(v, &whole))
        return mix(mix(h, 1), (uint64_t)whole);
    if (v.type == VD_BSON_DOUBLE)
        return mix_double(h, vd_value_double(v));
    vd_decimal_t d = vd_value_decimal(v);
    double near = vd_decimal_to_double(d);
    if (vd_decimal_compare_double(d, near) == 0)
        return mix_double(h, near);
    d = vd_decimal_normalize(d);
    return mix(mix(mix(h, 4), d.lo), d.hi);
}

static uint64_t mix_value(uint64_t h, vd_value_t v, unsigned depth);

static uint64_t mix_document(uint64_t h, vd_bson_t doc, bool names, unsigned depth)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, doc);
    if (depth >= COMPARE_DEPTH_MAX)
        return h;
    while (vd_bson_iter_next(&iter)) {
        if (names)
            h = mix_bytes(h, iter.name);
        h = mix_value(h, iter.value, depth + 1);
    }
    return mix(h, 0);
}

static uint64_t mix_value(uint64_t h, vd_value_t v, unsigned depth)
{
    h = mix(h, (uint64_t)vd_bson_canonical_type(v.type));
    vd_slice_t code;
    vd_bson_t scope;
    switch (v.type) {
    case VD_BSON_DOUBLE:
    case VD_BSON_INT32:
    case VD_BSON_INT64:
    case VD_BSON_DECIMAL128:
        return mix_number(h, v);
    case VD_BSON_STRING:
    case VD_BSON_SYMBOL:
        if (thread_collation != NULL)
            return thread_collation->hash(thread_collation, h, vd_value_string(v));
        return mix_bytes(h, vd_value_string(v));
    case VD_BSON_CODE:
        return mix_bytes(h, vd_value_string(v));
    case VD_BSON_OBJECT:
    case VD_BSON_ARRAY:
        return mix_document(h, vd_value_document(v), v.type == VD_BSON_OBJECT, depth);
    case VD_BSON_CODE_WITH_SCOPE:
        code_with_scope(v, &code, &scope);
        return mix_document(mix_bytes(h, code), scope, true, depth);
    default:
        return mix_bytes(h, vd_slice(v.data, v.len));
    }
}

uint64_t vd_value_hash(vd_value_t v)
{
    return mix_value(0x5bd1e995c3a5c85cULL, v, 0);
}
