/* veddb-storaged/engine/keycode.c — BSON values as sorting byte keys: writing. The form stands in
 * keycode_private.h, the contract in keycode.h. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/engine/keycode_private.h"

#include <float.h>
#include <math.h>
#include <openssl/evp.h>

#define SHORT_TEXT_MAX 61 /* strings up to it take a short way */

/* ---- writing ---- */

typedef struct {
    size_t len; /* of the whole key; only the first KEY_PREFIX_BYTES are kept */
    EVP_MD_CTX *digest;
    const vd_collation_t *collation; /* NULL: strings as bytes */
    int rc;
    uint8_t bytes[KEY_PREFIX_BYTES];
} writer_t;

static void digest_bytes(writer_t *w, const void *data, size_t len)
{
    if (w->digest == NULL) {
        /* the first byte that is too much: what is kept so far goes in before it */
        w->digest = EVP_MD_CTX_new();
        if (w->digest == NULL || EVP_DigestInit_ex(w->digest, EVP_sha256(), NULL) != 1 ||
            EVP_DigestUpdate(w->digest, w->bytes, KEY_PREFIX_BYTES) != 1)
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
    if (w->len < KEY_PREFIX_BYTES) {
        size_t room = KEY_PREFIX_BYTES - w->len, n = len < room ? len : room;
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
    if (VD_LIKELY(w->len < KEY_PREFIX_BYTES))
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

static void number_of_int64(int64_t v, stor_key_number_t *n)
{
    n->negative = v < 0;
    n->whole = v < 0 ? -(uint64_t)v : (uint64_t)v;
    if (n->whole >> 63 != 0) {
        n->whole = 0;
        n->large = n->fraction = n->exact = true;
        n->magnitude = 0x1p63;
    }
}

static void number_of_double(double v, stor_key_number_t *n)
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

static void number_of_decimal(vd_decimal_t d, stor_key_number_t *n)
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

static stor_key_number_t number_of(vd_value_t v)
{
    stor_key_number_t n = {0};
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
static size_t number_key(const stor_key_number_t *n, uint8_t out[NUMBER_KEY_MAX])
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
        unsigned weight = (unsigned)(parts.exponent + parts.digits + KEY_WEIGHT_BIAS);
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
    stor_key_number_t n = number_of(v);
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
    if (depth > KEY_DEPTH_MAX)
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
        stor_key_number_t n = number_of(value);
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
    uint8_t hash[KEY_HASH_BYTES];
    bool exact = w.len <= KEY_EXACT_MAX;
    size_t start = vd_buf_len(buf);
    int rc = w.rc;
    if (rc == VD_OK && w.len == KEY_PREFIX_BYTES) /* full, but nothing was digested yet */
        digest_bytes(&w, NULL, 0), rc = w.rc;
    if (rc == VD_OK && !exact && EVP_DigestFinal_ex(w.digest, hash, NULL) != 1)
        rc = VD_ERR_NO_MEMORY;
    EVP_MD_CTX_free(w.digest);
    if (rc == VD_ERR_OVERFLOW)
        return vd_error_set(err, rc, "a key can't be nested deeper than %d levels", KEY_DEPTH_MAX);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "making a key failed");
    rc = append(buf, w.bytes, exact ? w.len : KEY_PREFIX_BYTES, descending, err);
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
    if (depth > KEY_DEPTH_MAX)
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
