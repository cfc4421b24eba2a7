/* veddb-storaged/engine/keycode_decode.c — BSON values as sorting byte keys: reading, which trusts
 * no byte. The form stands in keycode_private.h, the contract in keycode.h. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/engine/keycode_private.h"

#include <math.h>

typedef struct {
    const uint8_t *pos, *end; /* end: at most KEY_PREFIX_BYTES behind the key's start */
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

/* Up to the NUL; out (KEY_PREFIX_BYTES) may be NULL. Returns the length. */
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
static stor_key_number_t get_number(reader_t *r, uint8_t type)
{
    stor_key_number_t n = {.nan = type == KEY_NAN, .negative = type < KEY_ZERO && type != KEY_NAN};
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
            parts.exponent = (raw[0] << 8 | raw[1]) - KEY_WEIGHT_BIAS - 34;
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

static bool int64_of_number(const stor_key_number_t *n, int64_t *ret)
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

static bool double_of_number(const stor_key_number_t *n, bool negative_zero, double *ret)
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

static bool decimal_of_number(const stor_key_number_t *n, bool negative_zero, int exponent,
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
static bool value_of_number(const stor_key_number_t *n, vd_slice_t *bits, uint8_t *out,
                            vd_value_t *ret)
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
    uint8_t scratch[8 + KEY_PREFIX_BYTES + 1];
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
    stor_key_number_t n = get_number(&d->in, type);
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
    if (depth > KEY_DEPTH_MAX)
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
    size_t len = key.len < KEY_EXACT_MAX ? key.len : KEY_EXACT_MAX;
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
