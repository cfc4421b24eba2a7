/* veddb-storaged/engine/keycode.c — BSON values as sorting byte keys; form below, contract in
 * keycode.h.
 *
 * A key is one type byte, then the payload:
 *   string, symbol, code  bytes, 00 written as 00 FF, end 00 00; under a collation, of strings and
 *                         symbols: the sort key, end 00 00
 *   object                per element: the rank of its type, name 00, its key; end 00
 *   array                 per element its key; end 00
 *   binary                length (one byte, or FF and four), subtype, bytes
 *   date, timestamp       8 bytes, big-endian, the sign bit of a date turned
 *   regex                 pattern 00 options 00
 *   DBPointer             length of its payload (4 bytes), the payload
 *   code with scope       code as a string, scope as an object's elements
 *   number                the type byte says the sign and how many bytes the whole part has. The
 *                         whole part is shifted left by one; the low bit says that a fraction
 *                         follows. For a fraction, and for what is below 1 or from 2^63 up, the
 *                         magnitude follows as a double cut toward zero (8 bytes), then 00 when
 *                         that is exact, else 01 and the decimal's exact value: weight of its first
 *                         digit (2 bytes), 34 digits (15 bytes). Only decimals can need the latter.
 *                         Payloads of negative numbers are complemented.
 *
 * Full keys over EXACT_MAX bytes are cut to PREFIX_BYTES and the SHA-256 of the whole: exactly
 * VD_KEYCODE_MAX_BYTES. A reader that comes to byte PREFIX_BYTES without an end therefore knows
 * that the key was cut.
 *
 * Type bits, in the same order: a number has one byte (type, sign of zero) and a decimal its
 * exponent in two more; a string has one byte (0, symbol: 1); an array has one byte, 1 when its
 * names are not 0, 1, 2 ...: then each name stands, with a NUL, before its element's bits. */
#include "veddb-storaged/engine/keycode.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "libcommon/bson/decimal.h"

#include <float.h>
#include <math.h>
#include <openssl/evp.h>

#define HASH_BYTES     32
#define PREFIX_BYTES   (VD_KEYCODE_MAX_BYTES - HASH_BYTES)
#define EXACT_MAX      (PREFIX_BYTES - 1)
#define DEPTH_MAX      512
#define SHORT_TEXT_MAX 61 /* strings up to it take a short way */
#define WEIGHT_BIAS    0x4000

/* Type bytes: their order is the order of types. 00 ends objects and arrays. */
enum {
    KEY_END = 0x00,
    KEY_MINKEY = 0x0A,
    KEY_MISSING = 0x10,
    KEY_UNDEFINED = 0x12,
    KEY_NULL = 0x14,
    KEY_NAN = 0x20,
    KEY_NEGATIVE_LARGE = 0x21, /* then 0x22 .. 0x29: 8 .. 1 bytes of whole part */
    KEY_NEGATIVE_SMALL = 0x2A,
    KEY_ZERO = 0x2B,
    KEY_POSITIVE_SMALL = 0x2C, /* then 0x2D .. 0x34: 1 .. 8 bytes */
    KEY_POSITIVE_LARGE = 0x35,
    KEY_STRING = 0x3C,
    KEY_OBJECT = 0x46,
    KEY_ARRAY = 0x50,
    KEY_BINARY = 0x5A,
    KEY_OBJECTID = 0x64,
    KEY_FALSE = 0x6E,
    KEY_TRUE = 0x6F,
    KEY_DATE = 0x78,
    KEY_TIMESTAMP = 0x7D,
    KEY_REGEX = 0x82,
    KEY_DBPOINTER = 0x8C,
    KEY_CODE = 0x96,
    KEY_CODE_WITH_SCOPE = 0xA0,
    KEY_MAXKEY = 0xF0,
};

/* The number's byte of type bits. */
enum {
    BITS_INT32 = 0,
    BITS_INT64 = 1,
    BITS_DOUBLE = 2,
    BITS_DECIMAL = 3,
    BITS_TYPE = 3,
    BITS_NEGATIVE_ZERO = 4,
};

/* ---- writing ---- */

typedef struct {
    size_t len; /* of the whole key; only the first PREFIX_BYTES are kept */
    EVP_MD_CTX *digest;
    const vd_collation_t *collation; /* NULL: strings as bytes */
    int rc;
    uint8_t bytes[PREFIX_BYTES];
} writer_t;

static void digest_bytes(writer_t *w, const void *data, size_t len)
{
    if (w->digest == NULL) {
        /* the first byte that is too much: what is kept so far goes in before it */
        w->digest = EVP_MD_CTX_new();
        if (w->digest == NULL || EVP_DigestInit_ex(w->digest, EVP_sha256(), NULL) != 1 ||
            EVP_DigestUpdate(w->digest, w->bytes, PREFIX_BYTES) != 1)
            w->rc = VD_ERR_NO_MEMORY;
    }
    if (w->rc == VD_OK && EVP_DigestUpdate(w->digest, data, len) != 1)
        w->rc = VD_ERR_NO_MEMORY;
}

static void put(writer_t *w, const void *data, size_t len)
{
    if (len == 0)
        return;
    const uint8_t *p = data;
    if (w->len < PREFIX_BYTES) {
        size_t room = PREFIX_BYTES - w->len, n = len < room ? len : room;
        memcpy(w->bytes + w->len, p, n);
        w->len += n;
        p += n;
        len -= n;
    }
    if (len != 0) {
        digest_bytes(w, p, len);
        w->len += len;
    }
}

static void put_u8(writer_t *w, uint8_t v)
{
    if (VD_LIKELY(w->len < PREFIX_BYTES))
        w->bytes[w->len++] = v;
    else
        put(w, &v, 1);
}

static void put_u64(writer_t *w, uint64_t v)
{
    uint8_t bytes[8];
    vd_put_u64_be(bytes, v);
    put(w, bytes, sizeof bytes);
}

static void put_text(writer_t *w, vd_slice_t s)
{
    while (s.len != 0) {
        const uint8_t *nul = memchr(s.data, 0, s.len);
        if (nul == NULL)
            break;
        size_t n = (size_t)(nul - s.data) + 1;
        put(w, s.data, n);
        put_u8(w, 0xFF);
        s = vd_slice(s.data + n, s.len - n);
    }
    put(w, s.data, s.len);
    put(w, "\0", 2);
}

static void put_sort_key(void *context, const void *data, size_t len)
{
    put(context, data, len);
}

static void put_string(writer_t *w, vd_slice_t s)
{
    if (w->collation == NULL) {
        put_text(w, s);
        return;
    }
    int rc = w->collation->sort_key(w->collation, s, put_sort_key, w);
    if (w->rc == VD_OK)
        w->rc = rc;
    put(w, "\0", 2);
}

/* A number, taken apart as the key has it. */
typedef struct {
    bool nan, negative;
    bool fraction;        /* magnitude and (unless exact) decimal are written */
    bool exact;           /* magnitude is the value */
    uint64_t whole;       /* whole part when it is below 2^63; 0 for small and large */
    bool large;           /* 2^63 and more */
    double magnitude;     /* cut toward zero */
    vd_decimal_t decimal; /* when not exact: positive */
} number_t;

static void number_of_int64(int64_t v, number_t *n)
{
    n->negative = v < 0;
    n->whole = v < 0 ? -(uint64_t)v : (uint64_t)v;
    if (n->whole >> 63 != 0) {
        n->whole = 0;
        n->large = n->fraction = n->exact = true;
        n->magnitude = 0x1p63;
    }
}

static void number_of_double(double v, number_t *n)
{
    if (isnan(v)) {
        n->nan = true;
        return;
    }
    n->negative = v < 0;
    n->magnitude = fabs(v);
    n->exact = true;
    if (n->magnitude >= 0x1p63) {
        n->large = n->fraction = true;
        return;
    }
    n->whole = (uint64_t)n->magnitude;
    n->fraction = (double)n->whole != n->magnitude;
}

static void number_of_decimal(vd_decimal_t d, number_t *n)
{
    if (vd_decimal_is_nan(d)) {
        n->nan = true;
        return;
    }
    if (vd_decimal_is_zero(d))
        return;
    n->negative = vd_decimal_is_negative(d);
    d.hi &= ~(1ULL << 63);
    if (vd_decimal_is_infinite(d)) {
        n->large = n->fraction = n->exact = true;
        n->magnitude = (double)INFINITY;
        return;
    }
    vd_decimal_t cut = vd_decimal_round(d, 0, VD_DECIMAL_TRUNCATE);
    int64_t whole;
    if (vd_decimal_to_int64(cut, &whole)) {
        n->whole = (uint64_t)whole;
        n->fraction = vd_decimal_compare(cut, d) != 0;
    } else {
        n->large = n->fraction = true;
    }
    if (!n->fraction)
        return;
    double near = vd_decimal_to_double(d);
    if (isinf(near))
        near = DBL_MAX;
    int order = vd_decimal_compare_double(d, near);
    n->exact = order == 0;
    n->magnitude = order < 0 ? nextafter(near, 0) : near;
    n->decimal = d;
}

static number_t number_of(vd_value_t v)
{
    number_t n = {0};
    switch (v.type) {
    case VD_BSON_INT32:
        number_of_int64(vd_value_int32(v), &n);
        break;
    case VD_BSON_INT64:
        number_of_int64(vd_value_int64(v), &n);
        break;
    case VD_BSON_DOUBLE:
        number_of_double(vd_value_double(v), &n);
        break;
    default:
        number_of_decimal(vd_value_decimal(v), &n);
        break;
    }
    return n;
}

static size_t bytes_of(uint64_t v)
{
    return v == 0 ? 0 : (71 - (size_t)__builtin_clzll(v)) / 8;
}

#define NUMBER_KEY_MAX (1 + 8 + 8 + 1 + 17)

/* The whole key of a number; returns its length. */
static size_t number_key(const number_t *n, uint8_t out[NUMBER_KEY_MAX])
{
    if (n->nan || (n->whole == 0 && !n->fraction)) {
        out[0] = n->nan ? KEY_NAN : KEY_ZERO;
        return 1;
    }
    size_t len = 1;
    if (n->large) {
        out[0] = n->negative ? KEY_NEGATIVE_LARGE : KEY_POSITIVE_LARGE;
    } else {
        uint64_t whole = n->whole == 0 ? 0 : n->whole << 1 | n->fraction;
        size_t bytes = bytes_of(whole);
        out[0] = (uint8_t)(n->negative ? KEY_NEGATIVE_SMALL - bytes : KEY_POSITIVE_SMALL + bytes);
        for (size_t i = 0; i < bytes; i++)
            out[len++] = (uint8_t)(whole >> 8 * (bytes - 1 - i));
    }
    if (n->fraction) {
        uint64_t bits;
        memcpy(&bits, &n->magnitude, sizeof bits);
        vd_put_u64_be(out + len, bits);
        len += 8;
        out[len++] = !n->exact;
    }
    vd_decimal_parts_t parts;
    if (n->fraction && !n->exact && vd_decimal_unpack(n->decimal, &parts)) {
        unsigned weight = (unsigned)(parts.exponent + parts.digits + WEIGHT_BIAS);
        out[len++] = (uint8_t)(weight >> 8);
        out[len++] = (uint8_t)weight;
        for (int i = parts.digits; i < 34; i++)
            parts.coefficient *= 10;
        for (int i = 14; i >= 0; i--)
            out[len++] = (uint8_t)(parts.coefficient >> 8 * i);
    }
    if (n->negative)
        for (size_t i = 1; i < len; i++)
            out[i] = (uint8_t)~out[i];
    return len;
}

/* One byte for each canonical type, so that an object's elements sort by type before name. */
static uint8_t rank_byte(uint8_t type)
{
    int rank = vd_bson_canonical_type(type);
    return (uint8_t)(rank + 2); /* MinKey: 1, above KEY_END */
}

static void put_value(writer_t *w, vd_value_t v, unsigned depth);

static void put_elements(writer_t *w, vd_bson_t doc, bool names, unsigned depth)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, doc);
    while (vd_bson_iter_next(&iter)) {
        if (names) {
            put_u8(w, rank_byte(iter.value.type));
            put(w, iter.name.data, iter.name.len + 1); /* its NUL follows it */
        }
        put_value(w, iter.value, depth + 1);
    }
    put_u8(w, KEY_END);
}

static void put_number(writer_t *w, vd_value_t v)
{
    uint8_t key[NUMBER_KEY_MAX];
    number_t n = number_of(v);
    put(w, key, number_key(&n, key));
}

static void put_binary(writer_t *w, vd_value_t v)
{
    uint8_t subtype;
    vd_slice_t bytes = vd_value_binary(v, &subtype);
    put_u8(w, KEY_BINARY);
    if (bytes.len < 0xFF) {
        put_u8(w, (uint8_t)bytes.len);
    } else {
        put_u8(w, 0xFF);
        for (int shift = 24; shift >= 0; shift -= 8)
            put_u8(w, (uint8_t)(bytes.len >> shift));
    }
    put_u8(w, subtype);
    put(w, bytes.data, bytes.len);
}

static void put_code_with_scope(writer_t *w, vd_value_t v, unsigned depth)
{
    uint32_t code = vd_get_u32(v.data + 4);
    put_u8(w, KEY_CODE_WITH_SCOPE);
    put_text(w, vd_slice(v.data + 8, code - 1));
    put_elements(w, (vd_bson_t){v.data + 8 + code, v.len - 8 - code}, true, depth);
}

static void put_value(writer_t *w, vd_value_t v, unsigned depth)
{
    if (depth > DEPTH_MAX)
        w->rc = VD_ERR_OVERFLOW;
    if (w->rc != VD_OK)
        return;
    switch (v.type) {
    case VD_BSON_MISSING:
        put_u8(w, KEY_MISSING);
        break;
    case VD_BSON_UNDEFINED:
        put_u8(w, KEY_UNDEFINED);
        break;
    case VD_BSON_NULL:
        put_u8(w, KEY_NULL);
        break;
    case VD_BSON_MINKEY:
        put_u8(w, KEY_MINKEY);
        break;
    case VD_BSON_INT32:
    case VD_BSON_INT64:
    case VD_BSON_DOUBLE:
    case VD_BSON_DECIMAL128:
        put_number(w, v);
        break;
    case VD_BSON_STRING:
    case VD_BSON_SYMBOL:
        put_u8(w, KEY_STRING);
        put_string(w, vd_value_string(v));
        break;
    case VD_BSON_CODE:
        put_u8(w, KEY_CODE);
        put_text(w, vd_value_string(v));
        break;
    case VD_BSON_OBJECT:
    case VD_BSON_ARRAY:
        put_u8(w, v.type == VD_BSON_OBJECT ? KEY_OBJECT : KEY_ARRAY);
        put_elements(w, vd_value_document(v), v.type == VD_BSON_OBJECT, depth);
        break;
    case VD_BSON_BINARY:
        put_binary(w, v);
        break;
    case VD_BSON_OBJECTID:
        put_u8(w, KEY_OBJECTID);
        put(w, v.data, 12);
        break;
    case VD_BSON_BOOL:
        put_u8(w, vd_value_bool(v) ? KEY_TRUE : KEY_FALSE);
        break;
    case VD_BSON_DATE:
        put_u8(w, KEY_DATE);
        put_u64(w, (uint64_t)vd_value_int64(v) ^ 1ULL << 63);
        break;
    case VD_BSON_TIMESTAMP:
        put_u8(w, KEY_TIMESTAMP);
        put_u64(w, vd_value_timestamp(v));
        break;
    case VD_BSON_REGEX: /* two strings that end in NUL, as BSON has them */
        put_u8(w, KEY_REGEX);
        put(w, v.data, v.len);
        break;
    case VD_BSON_DBPOINTER:
        put_u8(w, KEY_DBPOINTER);
        for (int shift = 24; shift >= 0; shift -= 8)
            put_u8(w, (uint8_t)(v.len >> shift));
        put(w, v.data, v.len);
        break;
    case VD_BSON_CODE_WITH_SCOPE:
        put_code_with_scope(w, v, depth);
        break;
    default:
        put_u8(w, KEY_MAXKEY);
        break;
    }
}

static int append(vd_buf_t *buf, const uint8_t *key, size_t len, bool descending, vd_error_t *err)
{
    uint8_t *space;
    int rc = vd_buf_reserve(buf, len, &space);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "no room for a key of %zu bytes", len);
    if (descending)
        for (size_t i = 0; i < len; i++)
            space[i] = (uint8_t)~key[i];
    else
        memcpy(space, key, len);
    vd_buf_commit(buf, len);
    return VD_OK;
}

int stor_keycode_append(vd_buf_t *buf, vd_value_t value, bool descending, bool *ret_exact,
                        vd_error_t *err)
{
    return stor_keycode_append_collated(buf, value, descending, NULL, ret_exact, err);
}

int stor_keycode_append_collated(vd_buf_t *buf, vd_value_t value, bool descending,
                                 const vd_collation_t *collation, bool *ret_exact, vd_error_t *err)
{
    VD_ASSERT(buf != NULL);
    VD_ASSERT(ret_exact != NULL);
    if (value.type == VD_BSON_OBJECTID) { /* the usual _id */
        uint8_t key[13] = {KEY_OBJECTID};
        memcpy(key + 1, vd_value_objectid(value), 12);
        *ret_exact = true;
        return append(buf, key, sizeof key, descending, err);
    }
    if (vd_value_is_number(value)) {
        uint8_t key[NUMBER_KEY_MAX];
        number_t n = number_of(value);
        *ret_exact = true;
        return append(buf, key, number_key(&n, key), descending, err);
    }
    if (value.type == VD_BSON_STRING && collation == NULL) {
        vd_slice_t text = vd_value_string(value);
        uint8_t key[1 + SHORT_TEXT_MAX + 2] = {KEY_STRING};
        if (text.len <= SHORT_TEXT_MAX && memchr(text.data, 0, text.len) == NULL) {
            memcpy(key + 1, text.data, text.len);
            key[1 + text.len] = key[2 + text.len] = 0;
            *ret_exact = true;
            return append(buf, key, text.len + 3, descending, err);
        }
    }

    writer_t w;
    w.len = 0;
    w.digest = NULL;
    w.collation = collation;
    w.rc = VD_OK;
    put_value(&w, value, 0);
    uint8_t hash[HASH_BYTES];
    bool exact = w.len <= EXACT_MAX;
    size_t start = vd_buf_len(buf);
    int rc = w.rc;
    if (rc == VD_OK && w.len == PREFIX_BYTES) /* full, but nothing was digested yet */
        digest_bytes(&w, NULL, 0), rc = w.rc;
    if (rc == VD_OK && !exact && EVP_DigestFinal_ex(w.digest, hash, NULL) != 1)
        rc = VD_ERR_NO_MEMORY;
    EVP_MD_CTX_free(w.digest);
    if (rc == VD_ERR_OVERFLOW)
        return vd_error_set(err, rc, "a key can't be nested deeper than %d levels", DEPTH_MAX);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "making a key failed");
    rc = append(buf, w.bytes, exact ? w.len : PREFIX_BYTES, descending, err);
    if (rc == VD_OK && !exact)
        rc = append(buf, hash, sizeof hash, descending, err);
    if (rc != VD_OK) {
        vd_buf_truncate(buf, start);
        return rc;
    }
    *ret_exact = exact;
    return VD_OK;
}

/* ---- type bits ---- */

static int bits_value(vd_buf_t *buf, vd_value_t v, unsigned depth);

static int bits_document(vd_buf_t *buf, vd_bson_t doc, bool array, unsigned depth)
{
    vd_bson_iter_t iter;
    bool names = false;
    if (array) {
        uint32_t position = 0;
        char text[12];
        for (vd_bson_iter_init(&iter, doc); !names && vd_bson_iter_next(&iter);)
            names = !vd_slice_equal(iter.name, vd_array_name(position++, text));
        int rc = vd_buf_append_u8(buf, names);
        if (rc != VD_OK)
            return rc;
    }
    vd_bson_iter_init(&iter, doc);
    while (vd_bson_iter_next(&iter)) {
        int rc = names ? vd_buf_append(buf, iter.name.data, iter.name.len + 1) : VD_OK;
        if (rc == VD_OK)
            rc = bits_value(buf, iter.value, depth + 1);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

static int bits_decimal(vd_buf_t *buf, vd_decimal_t d)
{
    vd_decimal_parts_t parts = {0};
    bool finite = vd_decimal_unpack(d, &parts);
    bool negative_zero = finite && parts.coefficient == 0 && parts.negative;
    unsigned exponent = finite ? (unsigned)(parts.exponent + 6176) : 0;
    uint8_t bytes[3] = {(uint8_t)(BITS_DECIMAL | (negative_zero ? BITS_NEGATIVE_ZERO : 0)),
                        (uint8_t)(exponent >> 8), (uint8_t)exponent};
    return vd_buf_append(buf, bytes, sizeof bytes);
}

static int bits_value(vd_buf_t *buf, vd_value_t v, unsigned depth)
{
    if (depth > DEPTH_MAX)
        return VD_ERR_OVERFLOW;
    switch (v.type) {
    case VD_BSON_INT32:
        return vd_buf_append_u8(buf, BITS_INT32);
    case VD_BSON_INT64:
        return vd_buf_append_u8(buf, BITS_INT64);
    case VD_BSON_DOUBLE: {
        double d = vd_value_double(v);
        bool negative_zero = d == 0 && signbit(d) != 0;
        return vd_buf_append_u8(buf,
                                (uint8_t)(BITS_DOUBLE | (negative_zero ? BITS_NEGATIVE_ZERO : 0)));
    }
    case VD_BSON_DECIMAL128:
        return bits_decimal(buf, vd_value_decimal(v));
    case VD_BSON_STRING:
    case VD_BSON_SYMBOL:
        return vd_buf_append_u8(buf, v.type == VD_BSON_SYMBOL);
    case VD_BSON_OBJECT:
    case VD_BSON_ARRAY:
        return bits_document(buf, vd_value_document(v), v.type == VD_BSON_ARRAY, depth);
    case VD_BSON_CODE_WITH_SCOPE: {
        uint32_t code = vd_get_u32(v.data + 4);
        return bits_document(buf, (vd_bson_t){v.data + 8 + code, v.len - 8 - code}, false, depth);
    }
    default:
        return VD_OK;
    }
}

int stor_keycode_append_type_bits(vd_buf_t *buf, vd_value_t value, vd_error_t *err)
{
    size_t start = vd_buf_len(buf);
    int rc = bits_value(buf, value, 0);
    if (rc != VD_OK) {
        vd_buf_truncate(buf, start);
        return vd_error_set(err, rc, "no room for the type bits of a key");
    }
    return VD_OK;
}

/* ---- reading ---- */

typedef struct {
    const uint8_t *pos, *end; /* end: at most PREFIX_BYTES behind the key's start */
    uint8_t mask;             /* FF for descending */
    bool failed;              /* over the end, or no key */
    bool over;                /* over the end */
} reader_t;

static void fail(reader_t *r)
{
    r->failed = true;
    r->pos = r->end;
}

static bool has(reader_t *r, size_t len)
{
    if (!r->failed && (size_t)(r->end - r->pos) < len) {
        r->over = true;
        fail(r);
    }
    return !r->failed;
}

static uint8_t get_u8(reader_t *r)
{
    return has(r, 1) ? *r->pos++ ^ r->mask : 0;
}

static void get(reader_t *r, uint8_t *out, size_t len)
{
    if (!has(r, len)) {
        memset(out, 0, len);
        return;
    }
    for (size_t i = 0; i < len; i++)
        out[i] = r->pos[i] ^ r->mask;
    r->pos += len;
}

static uint32_t get_u32(reader_t *r)
{
    uint32_t v = 0;
    for (int i = 0; i < 4; i++)
        v = v << 8 | get_u8(r);
    return v;
}

/* Up to the NUL; out (PREFIX_BYTES) may be NULL. Returns the length. */
static size_t get_cstring(reader_t *r, uint8_t *out)
{
    for (size_t len = 0;; len++) {
        uint8_t c = get_u8(r);
        if (c == 0 || r->failed)
            return len;
        if (out != NULL)
            out[len] = c;
    }
}

static size_t get_text(reader_t *r, uint8_t *out)
{
    for (size_t len = 0;; len++) {
        uint8_t c = get_u8(r);
        if (c == 0) {
            uint8_t mark = get_u8(r);
            if (mark != 0 && mark != 0xFF)
                fail(r);
            if (mark != 0xFF || r->failed)
                return len;
        }
        if (out != NULL)
            out[len] = c;
    }
}

static size_t get_binary_length(reader_t *r)
{
    size_t len = get_u8(r);
    if (len == 0xFF) {
        len = get_u32(r);
        if (!r->failed && len < 0xFF)
            fail(r);
    }
    return len;
}

/* The rest of a number behind its type byte. */
static number_t get_number(reader_t *r, uint8_t type)
{
    number_t n = {.nan = type == KEY_NAN, .negative = type < KEY_ZERO && type != KEY_NAN};
    if (type == KEY_NAN || type == KEY_ZERO)
        return n;
    uint8_t mask = r->mask;
    if (n.negative)
        r->mask ^= 0xFF;
    n.large = type == KEY_NEGATIVE_LARGE || type == KEY_POSITIVE_LARGE;
    n.fraction = true;
    int bytes = n.large ? 0 : n.negative ? KEY_NEGATIVE_SMALL - type : type - KEY_POSITIVE_SMALL;
    if (bytes != 0) {
        uint64_t whole = 0;
        for (int i = 0; i < bytes; i++)
            whole = whole << 8 | get_u8(r);
        n.whole = whole >> 1;
        n.fraction = whole & 1;
    }
    if (n.fraction) {
        uint8_t raw[17];
        get(r, raw, 8);
        uint64_t bits = vd_get_u64_be(raw);
        memcpy(&n.magnitude, &bits, sizeof bits);
        uint8_t inexact = get_u8(r);
        n.exact = inexact == 0;
        if (inexact > 1 || isnan(n.magnitude) || signbit(n.magnitude))
            fail(r);
        if (inexact == 1) {
            get(r, raw, sizeof raw);
            vd_decimal_parts_t parts = {0};
            parts.exponent = (raw[0] << 8 | raw[1]) - WEIGHT_BIAS - 34;
            for (int i = 2; i < 17; i++)
                parts.coefficient = parts.coefficient << 8 | raw[i];
            while (parts.coefficient != 0 && parts.coefficient % 10 == 0) {
                parts.coefficient /= 10;
                parts.exponent++;
            }
            /* near both ends of the range the exponent has to be one that exists */
            for (; parts.exponent > 6111 && parts.exponent < 6146; parts.exponent--)
                parts.coefficient *= 10;
            if (!r->failed && !vd_decimal_pack(&parts, &n.decimal))
                fail(r);
        }
    }
    r->mask = mask;
    return n;
}

static uint8_t get_bits(vd_slice_t *bits)
{
    if (bits->len == 0)
        return 0;
    uint8_t v = bits->data[0];
    *bits = vd_slice(bits->data + 1, bits->len - 1);
    return v;
}

static bool int64_of_number(const number_t *n, int64_t *ret)
{
    if (n->large && n->exact && n->negative && n->magnitude == 0x1p63) {
        *ret = INT64_MIN;
        return true;
    }
    if (n->nan || n->fraction || n->whole > INT64_MAX)
        return false;
    *ret = n->negative ? -(int64_t)n->whole : (int64_t)n->whole;
    return true;
}

static bool double_of_number(const number_t *n, bool negative_zero, double *ret)
{
    if (n->nan) {
        *ret = (double)NAN;
        return true;
    }
    if (n->fraction && !n->exact)
        return false;
    double d = n->fraction ? n->magnitude : (double)n->whole;
    if (!n->fraction && (d >= 0x1p63 || (uint64_t)d != n->whole))
        return false;
    *ret = n->negative || (d == 0 && negative_zero) ? -d : d;
    return true;
}

static bool decimal_of_number(const number_t *n, bool negative_zero, int exponent,
                              vd_decimal_t *ret)
{
    vd_decimal_t d;
    bool infinite = n->fraction && n->exact && isinf(n->magnitude);
    if (n->nan || infinite) {
        *ret = infinite ? vd_decimal_infinity(n->negative) : vd_decimal_nan();
        return true;
    }
    if (!n->fraction)
        d = vd_decimal_from_int64((int64_t)n->whole);
    else if (n->exact)
        d = vd_decimal_from_double_exact(n->magnitude);
    else
        d = n->decimal;
    if (!vd_decimal_with_exponent(d, exponent, &d))
        return false;
    if (n->negative || (negative_zero && vd_decimal_is_zero(d)))
        d.hi |= 1ULL << 63;
    *ret = d;
    return true;
}

/* Payload into out (16 bytes); false when the type bits do not fit the number. */
static bool value_of_number(const number_t *n, vd_slice_t *bits, uint8_t *out, vd_value_t *ret)
{
    uint8_t kind = get_bits(bits);
    bool negative_zero = (kind & BITS_NEGATIVE_ZERO) != 0;
    int64_t whole;
    double d;
    vd_decimal_t decimal;
    switch (kind & BITS_TYPE) {
    case BITS_INT32:
        if (!int64_of_number(n, &whole) || whole != (int32_t)whole)
            return false;
        vd_put_u32(out, (uint32_t)whole);
        *ret = (vd_value_t){out, 4, VD_BSON_INT32};
        return true;
    case BITS_INT64:
        if (!int64_of_number(n, &whole))
            return false;
        vd_put_u64(out, (uint64_t)whole);
        *ret = (vd_value_t){out, 8, VD_BSON_INT64};
        return true;
    case BITS_DOUBLE: {
        if (!double_of_number(n, negative_zero, &d))
            return false;
        uint64_t raw;
        memcpy(&raw, &d, sizeof raw);
        vd_put_u64(out, raw);
        *ret = (vd_value_t){out, 8, VD_BSON_DOUBLE};
        return true;
    }
    default: {
        int exponent = get_bits(bits) << 8;
        exponent |= get_bits(bits);
        if (!decimal_of_number(n, negative_zero, exponent - 6176, &decimal))
            return false;
        vd_put_u64(out, decimal.lo);
        vd_put_u64(out + 8, decimal.hi);
        *ret = (vd_value_t){out, 16, VD_BSON_DECIMAL128};
        return true;
    }
    }
}

/* What decoding needs beside the bytes. bb NULL: only pass over. */
typedef struct {
    reader_t in;
    vd_slice_t bits;
    vd_bb_t *bb;
    uint8_t scratch[8 + PREFIX_BYTES + 1];
} decoder_t;

static void decode_value(decoder_t *d, uint8_t type, vd_slice_t name, unsigned depth);

static void emit(decoder_t *d, uint8_t type, vd_slice_t name, const uint8_t *data, size_t len)
{
    if (d->bb != NULL && !d->in.failed)
        vd_bb_value(d->bb, name, (vd_value_t){data, (uint32_t)len, type});
}

static void decode_text(decoder_t *d, uint8_t type, vd_slice_t name)
{
    size_t len = get_text(&d->in, d->scratch + 4);
    vd_put_u32(d->scratch, (uint32_t)len + 1);
    d->scratch[4 + len] = 0;
    emit(d, type, name, d->scratch, len + 5);
}

/* Elements up to the end mark, into the document that is open. */
static void decode_elements(decoder_t *d, bool array, unsigned depth)
{
    bool names = array && get_bits(&d->bits) == 1;
    for (uint32_t position = 0;; position++) {
        uint8_t rank = get_u8(&d->in);
        if (rank == KEY_END || d->in.failed)
            return;
        char text[12];
        vd_slice_t name = vd_array_name(position, text);
        uint8_t type = rank;
        if (!array) {
            name = vd_slice(d->scratch, get_cstring(&d->in, d->scratch));
            if (d->bb != NULL) /* the value needs the scratch room */
                name = vd_arena_copy_slice(d->bb->arena, name);
            type = get_u8(&d->in);
        } else if (names) {
            /* Without a NUL the rest is the last name: zeroes at the end aren't stored. */
            const uint8_t *nul = d->bits.len == 0 ? NULL : memchr(d->bits.data, 0, d->bits.len);
            if (nul == NULL) {
                name = d->bits.len == 0 ? VD_SLICE_LIT("") : d->bits;
                d->bits = VD_SLICE_NULL;
            } else {
                size_t len = (size_t)(nul - d->bits.data);
                name = vd_slice(d->bits.data, len);
                d->bits = vd_slice(nul + 1, d->bits.len - len - 1);
            }
        }
        decode_value(d, type, name, depth + 1);
    }
}

static void decode_container(decoder_t *d, bool array, vd_slice_t name, unsigned depth)
{
    if (d->bb != NULL) {
        if (array)
            vd_bb_open_array(d->bb, name);
        else
            vd_bb_open_document(d->bb, name);
        if (d->bb->rc != VD_OK)
            fail(&d->in);
    }
    decode_elements(d, array, depth);
    if (d->bb != NULL && !d->in.failed)
        vd_bb_close(d->bb);
}

static void decode_code_with_scope(decoder_t *d, vd_slice_t name, unsigned depth)
{
    uint8_t *p = d->scratch;
    size_t len = get_text(&d->in, p + 8);
    p[8 + len] = 0;
    if (d->bb == NULL) {
        decode_elements(d, false, depth);
        return;
    }
    /* The scope is built beside and joined behind the code. */
    vd_bb_t *outer = d->bb;
    vd_slice_t code = vd_arena_copy_slice(outer->arena, vd_slice(p, 8 + len + 1));
    vd_bb_t scope;
    vd_bb_init_arena(&scope, outer->arena, VD_BSON_INTERNAL_MAX_BYTES);
    d->bb = &scope;
    decode_elements(d, false, depth);
    d->bb = outer;
    vd_bson_t doc;
    if (d->in.failed || vd_bb_finish(&scope, &doc, NULL) != VD_OK) {
        fail(&d->in);
        return;
    }
    uint8_t *payload = vd_arena_alloc(outer->arena, code.len + doc.len);
    memcpy(payload, code.data, code.len);
    memcpy(payload + code.len, doc.data, doc.len);
    vd_put_u32(payload, (uint32_t)(code.len + doc.len));
    vd_put_u32(payload + 4, (uint32_t)len + 1);
    emit(d, VD_BSON_CODE_WITH_SCOPE, name, payload, code.len + doc.len);
}

static void decode_number(decoder_t *d, uint8_t type, vd_slice_t name)
{
    number_t n = get_number(&d->in, type);
    if (d->bb == NULL || d->in.failed)
        return;
    vd_value_t v;
    if (value_of_number(&n, &d->bits, d->scratch, &v))
        vd_bb_value(d->bb, name, v);
    else
        fail(&d->in);
}

static void decode_binary(decoder_t *d, vd_slice_t name)
{
    size_t len = get_binary_length(&d->in);
    uint8_t subtype = get_u8(&d->in);
    if (!has(&d->in, len))
        return;
    vd_put_u32(d->scratch, (uint32_t)len);
    d->scratch[4] = subtype;
    get(&d->in, d->scratch + 5, len);
    emit(d, VD_BSON_BINARY, name, d->scratch, len + 5);
}

static void decode_dbpointer(decoder_t *d, vd_slice_t name)
{
    size_t len = get_u32(&d->in);
    if (!has(&d->in, len))
        return;
    if (len < 17) {
        fail(&d->in);
        return;
    }
    get(&d->in, d->scratch, len);
    if (vd_get_u32(d->scratch) != len - 16 || d->scratch[len - 13] != 0) {
        fail(&d->in);
        return;
    }
    emit(d, VD_BSON_DBPOINTER, name, d->scratch, len);
}

static void decode_regex(decoder_t *d, vd_slice_t name)
{
    size_t len = get_cstring(&d->in, d->scratch);
    d->scratch[len++] = 0;
    len += get_cstring(&d->in, d->scratch + len);
    d->scratch[len++] = 0;
    emit(d, VD_BSON_REGEX, name, d->scratch, len);
}

static void decode_u64(decoder_t *d, uint8_t type, vd_slice_t name, uint64_t turn)
{
    uint8_t raw[8];
    get(&d->in, raw, sizeof raw);
    vd_put_u64(d->scratch, vd_get_u64_be(raw) ^ turn);
    emit(d, type, name, d->scratch, 8);
}

static void decode_value(decoder_t *d, uint8_t type, vd_slice_t name, unsigned depth)
{
    static const uint8_t flags[2] = {0, 1};
    if (depth > DEPTH_MAX)
        fail(&d->in);
    if (d->in.failed)
        return;
    if (type >= KEY_NAN && type <= KEY_POSITIVE_LARGE) {
        decode_number(d, type, name);
        return;
    }
    switch (type) {
    case KEY_MISSING:
        break;
    case KEY_MINKEY:
        emit(d, VD_BSON_MINKEY, name, NULL, 0);
        break;
    case KEY_UNDEFINED:
        emit(d, VD_BSON_UNDEFINED, name, NULL, 0);
        break;
    case KEY_NULL:
        emit(d, VD_BSON_NULL, name, NULL, 0);
        break;
    case KEY_STRING:
        decode_text(d, get_bits(&d->bits) == 1 ? VD_BSON_SYMBOL : VD_BSON_STRING, name);
        break;
    case KEY_OBJECT:
    case KEY_ARRAY:
        decode_container(d, type == KEY_ARRAY, name, depth);
        break;
    case KEY_BINARY:
        decode_binary(d, name);
        break;
    case KEY_OBJECTID:
        get(&d->in, d->scratch, 12);
        emit(d, VD_BSON_OBJECTID, name, d->scratch, 12);
        break;
    case KEY_FALSE:
    case KEY_TRUE:
        emit(d, VD_BSON_BOOL, name, &flags[type == KEY_TRUE], 1);
        break;
    case KEY_DATE:
        decode_u64(d, VD_BSON_DATE, name, 1ULL << 63);
        break;
    case KEY_TIMESTAMP:
        decode_u64(d, VD_BSON_TIMESTAMP, name, 0);
        break;
    case KEY_REGEX:
        decode_regex(d, name);
        break;
    case KEY_DBPOINTER:
        decode_dbpointer(d, name);
        break;
    case KEY_CODE:
        decode_text(d, VD_BSON_CODE, name);
        break;
    case KEY_CODE_WITH_SCOPE:
        decode_code_with_scope(d, name, depth);
        break;
    case KEY_MAXKEY:
        emit(d, VD_BSON_MAXKEY, name, NULL, 0);
        break;
    default:
        fail(&d->in);
        break;
    }
}

static void reader_init(reader_t *r, vd_slice_t key, bool descending)
{
    size_t len = key.len < EXACT_MAX ? key.len : EXACT_MAX;
    *r = (reader_t){.pos = key.data, .end = key.data, .mask = descending ? 0xFF : 0};
    if (len != 0)
        r->end += len;
}

/* What a failed reader means: a cut key (it is passed over), or corruption. */
static int read_failed(const reader_t *r, vd_slice_t *key, vd_error_t *err)
{
    if (!r->over || key->len < VD_KEYCODE_MAX_BYTES)
        return vd_error_set(err, VD_ERR_CORRUPT, "bytes are not a key");
    *key = vd_slice(key->data + VD_KEYCODE_MAX_BYTES, key->len - VD_KEYCODE_MAX_BYTES);
    return VD_ERR_INVALID;
}

int stor_keycode_decode(vd_arena_t *arena, vd_slice_t *key, vd_slice_t *type_bits, bool descending,
                        vd_value_t *ret_value, vd_error_t *err)
{
    VD_ASSERT(arena != NULL && key != NULL && type_bits != NULL && ret_value != NULL);
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    decoder_t d;
    reader_init(&d.in, *key, descending);
    d.bits = *type_bits;
    d.bb = &bb;
    const uint8_t *start = d.in.pos;
    decode_value(&d, get_u8(&d.in), VD_SLICE_NULL, 0);
    if (d.in.failed) {
        int rc = read_failed(&d.in, key, err);
        if (rc == VD_ERR_INVALID)
            (void)vd_error_set(err, rc, "the key was cut and can't be decoded");
        return rc;
    }
    vd_bson_t doc;
    if (vd_bb_finish(&bb, &doc, NULL) != VD_OK)
        return vd_error_set(err, VD_ERR_CORRUPT, "bytes are not a key");
    size_t used = (size_t)(d.in.pos - start);
    *key = vd_slice(key->data + used, key->len - used);
    *type_bits = d.bits;
    if (!vd_bson_first(doc, NULL, ret_value))
        *ret_value = VD_VALUE_MISSING;
    return VD_OK;
}

int stor_keycode_skip(vd_slice_t *key, bool descending, bool *ret_exact, vd_error_t *err)
{
    VD_ASSERT(key != NULL);
    decoder_t d;
    reader_init(&d.in, *key, descending);
    d.bits = VD_SLICE_NULL;
    d.bb = NULL;
    const uint8_t *start = d.in.pos;
    decode_value(&d, get_u8(&d.in), VD_SLICE_NULL, 0);
    bool exact = !d.in.failed;
    if (exact) {
        size_t used = (size_t)(d.in.pos - start);
        *key = vd_slice(key->data + used, key->len - used);
    } else {
        int rc = read_failed(&d.in, key, err);
        if (rc != VD_ERR_INVALID)
            return rc;
    }
    if (ret_exact != NULL)
        *ret_exact = exact;
    return VD_OK;
}

bool stor_keycode_successor(vd_buf_t *key)
{
    VD_ASSERT(key != NULL);
    size_t len = vd_buf_len(key);
    while (len != 0 && *vd_buf_at(key, len - 1) == 0xFF)
        len--;
    if (len == 0)
        return false;
    (*vd_buf_at(key, len - 1))++;
    vd_buf_truncate(key, len);
    return true;
}
