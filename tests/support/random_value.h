/* tests/support/random_value.h — random BSON values of every type, small enough to collide often.
 *
 * Owner:   values live in the arena.
 * Threads: one. */
#pragma once
#include "libcommon/base/arena.h"
#include "libcommon/base/rand.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/decimal.h"

#include <math.h>
#include <stdio.h>

static inline double random_double(vd_rand_t *rand)
{
    static const double special[] = {0.0,
                                     -0.0,
                                     0.1,
                                     0.5,
                                     -0.1,
                                     1,
                                     -1,
                                     2.5,
                                     0x1p53,
                                     0x1p53 + 2,
                                     0x1p63,
                                     -0x1p63,
                                     0x1p64,
                                     1e300,
                                     -1e300,
                                     5e-324,
                                     1e-310,
                                     -5e-324,
                                     1e22,
                                     1e23,
                                     255,
                                     256,
                                     1.7976931348623157e308,
                                     1e-7,
                                     3.14159,
                                     0.3,
                                     (double)NAN,
                                     (double)INFINITY,
                                     -(double)INFINITY};
    switch (vd_rand_below(rand, 4)) {
    case 0:
        return special[vd_rand_below(rand, VD_COUNT_OF(special))];
    case 1:
        return (double)(int64_t)vd_rand_below(rand, 2000) / 8 - 100;
    case 2:
        return (double)(int64_t)vd_rand_u64(rand);
    default: {
        uint64_t bits = vd_rand_u64(rand);
        double d;
        memcpy(&d, &bits, sizeof d);
        return isnan(d) ? (double)NAN : d;
    }
    }
}

static inline vd_decimal_t random_decimal(vd_rand_t *rand)
{
    static const char *const special[] = {"0",
                                          "-0",
                                          "0E+10",
                                          "0E-6176",
                                          "0E+6111",
                                          "0.1",
                                          "0.10",
                                          "0.5",
                                          "1",
                                          "1.0",
                                          "1.00",
                                          "-1",
                                          "2.5",
                                          "2.50",
                                          "9007199254740993",
                                          "9223372036854775807",
                                          "9223372036854775808",
                                          "-9223372036854775808",
                                          "-9223372036854775809",
                                          "9223372036854775807.5",
                                          "1E+6144",
                                          "9.999999999999999999999999999999999E+6144",
                                          "1E-6176",
                                          "-1E-6176",
                                          "1E+400",
                                          "1E-400",
                                          "NaN",
                                          "Infinity",
                                          "-Infinity",
                                          "0.1000000000000000055511151231257827",
                                          "1E+22",
                                          "1E+23",
                                          "99999999999999999999999",
                                          "1.797693134862315708145274237317044E+308",
                                          "1.8E+308",
                                          "4.940656458412465441765687928682214E-324",
                                          "2E-324",
                                          "255",
                                          "256.0",
                                          "255.999"};
    vd_decimal_t d;
    char text[96];
    switch (vd_rand_below(rand, 4)) {
    case 0:
        (void)snprintf(text, sizeof text, "%s", special[vd_rand_below(rand, VD_COUNT_OF(special))]);
        break;
    case 1:
        (void)snprintf(text, sizeof text, "%d.%03d", (int)vd_rand_below(rand, 400) - 200,
                       (int)vd_rand_below(rand, 8) * 125);
        break;
    case 2:
        return vd_decimal_from_double_exact(random_double(rand));
    default:
        (void)snprintf(text, sizeof text, "%s%llu%llu.%lluE%d", vd_rand_below(rand, 2) ? "-" : "",
                       (unsigned long long)vd_rand_below(rand, 100000),
                       (unsigned long long)vd_rand_u64(rand) >> vd_rand_below(rand, 60),
                       (unsigned long long)vd_rand_below(rand, 1000),
                       (int)vd_rand_below(rand, vd_rand_below(rand, 2) ? 12000 : 60) -
                           (vd_rand_below(rand, 2) ? 6000 : 30));
    }
    bool ok = vd_decimal_from_string(vd_slice_str(text), &d);
    VD_ASSERT(ok);
    return d;
}

static inline vd_slice_t random_text(vd_rand_t *rand, char buf[16], bool nul)
{
    size_t len = vd_rand_below(rand, 5);
    for (size_t i = 0; i < len; i++)
        buf[i] = "ab\x01\x7f"
                 "c\x00"[vd_rand_below(rand, nul ? 6 : 5)];
    return vd_slice(buf, len);
}

static inline void random_append(vd_rand_t *rand, vd_bb_t *bb, vd_arena_t *arena, vd_slice_t name,
                                 int depth);

static inline void random_elements(vd_rand_t *rand, vd_bb_t *bb, vd_arena_t *arena, bool array,
                                   int depth)
{
    uint32_t count = (uint32_t)vd_rand_below(rand, 4);
    bool odd = vd_rand_below(rand, 8) == 0; /* arrays whose names are not their positions */
    for (uint32_t i = 0; i < count; i++) {
        char name[16];
        vd_slice_t s = array && !odd ? vd_array_name(i, name) : random_text(rand, name, false);
        random_append(rand, bb, arena, s, depth + 1);
    }
}

/* A value of raw payload: length-prefixed parts joined. */
static inline void random_raw(vd_rand_t *rand, vd_bb_t *bb, vd_arena_t *arena, vd_slice_t name,
                              uint8_t type)
{
    char text[16], other[16];
    uint8_t payload[256];
    vd_slice_t s = random_text(rand, text, type != VD_BSON_REGEX);
    uint32_t len = 0;
    if (type == VD_BSON_REGEX) {
        memcpy(payload, s.data, s.len);
        payload[s.len] = 0;
        vd_slice_t t = random_text(rand, other, false);
        memcpy(payload + s.len + 1, t.data, t.len);
        payload[s.len + 1 + t.len] = 0;
        len = (uint32_t)(s.len + t.len + 2);
    } else {
        uint32_t at = type == VD_BSON_CODE_WITH_SCOPE ? 4 : 0;
        vd_put_u32(payload + at, (uint32_t)s.len + 1);
        memcpy(payload + at + 4, s.data, s.len);
        payload[at + 4 + s.len] = 0;
        len = (uint32_t)(at + s.len + 5);
        if (type == VD_BSON_DBPOINTER) {
            memset(payload + len, (int)vd_rand_below(rand, 3), 12);
            len += 12;
        }
        if (type == VD_BSON_CODE_WITH_SCOPE) {
            vd_bb_t scope;
            vd_bson_t doc;
            vd_bb_init_arena(&scope, arena, 4096);
            vd_bb_int32(&scope, "x", (int32_t)vd_rand_below(rand, 3));
            int rc = vd_bb_finish(&scope, &doc, NULL);
            VD_ASSERT(rc == VD_OK);
            memcpy(payload + len, doc.data, doc.len);
            len += doc.len;
            vd_put_u32(payload, len);
        }
    }
    vd_bb_value(bb, name, (vd_value_t){payload, len, type});
}

static inline void random_append(vd_rand_t *rand, vd_bb_t *bb, vd_arena_t *arena, vd_slice_t name,
                                 int depth)
{
    static const uint8_t types[] = {
        VD_BSON_DOUBLE,   VD_BSON_DOUBLE,         VD_BSON_STRING,     VD_BSON_STRING,
        VD_BSON_OBJECT,   VD_BSON_ARRAY,          VD_BSON_BINARY,     VD_BSON_UNDEFINED,
        VD_BSON_OBJECTID, VD_BSON_BOOL,           VD_BSON_DATE,       VD_BSON_NULL,
        VD_BSON_REGEX,    VD_BSON_DBPOINTER,      VD_BSON_CODE,       VD_BSON_SYMBOL,
        VD_BSON_INT32,    VD_BSON_INT32,          VD_BSON_TIMESTAMP,  VD_BSON_INT64,
        VD_BSON_INT64,    VD_BSON_DECIMAL128,     VD_BSON_DECIMAL128, VD_BSON_MAXKEY,
        VD_BSON_MINKEY,   VD_BSON_CODE_WITH_SCOPE};
    static const int64_t longs[] = {0,
                                    1,
                                    -1,
                                    127,
                                    128,
                                    255,
                                    256,
                                    INT64_MAX,
                                    INT64_MIN,
                                    INT64_MIN + 1,
                                    1LL << 53,
                                    (1LL << 53) + 1,
                                    -(1LL << 53) - 1,
                                    INT32_MAX,
                                    INT32_MIN};
    uint8_t type = types[vd_rand_below(rand, VD_COUNT_OF(types))];
    if (depth > 3 && (type == VD_BSON_OBJECT || type == VD_BSON_ARRAY))
        type = VD_BSON_NULL;
    int64_t number = vd_rand_below(rand, 2) ? longs[vd_rand_below(rand, VD_COUNT_OF(longs))]
                     : vd_rand_below(rand, 2)
                         ? (int64_t)vd_rand_below(rand, 400) - 200
                         : (int64_t)(vd_rand_u64(rand) >> vd_rand_below(rand, 64));
    char text[16];
    uint8_t bytes[16] = {(uint8_t)vd_rand_below(rand, 3), 0, (uint8_t)vd_rand_below(rand, 256)};
    vd_value_t v;
    switch (type) {
    case VD_BSON_DOUBLE:
        v = vd_value_from_double(arena, random_double(rand));
        break;
    case VD_BSON_STRING:
    case VD_BSON_SYMBOL:
    case VD_BSON_CODE:
        v = vd_value_from_string(arena, random_text(rand, text, true));
        v.type = type;
        break;
    case VD_BSON_OBJECT:
        vd_bb_open_document(bb, name);
        random_elements(rand, bb, arena, false, depth);
        vd_bb_close(bb);
        return;
    case VD_BSON_ARRAY:
        vd_bb_open_array(bb, name);
        random_elements(rand, bb, arena, true, depth);
        vd_bb_close(bb);
        return;
    case VD_BSON_BINARY: {
        char c_name[16];
        (void)snprintf(c_name, sizeof c_name, "%.*s", VD_SLICE_FMT(name));
        vd_bb_binary(bb, c_name, (uint8_t)vd_rand_below(rand, 3),
                     vd_slice(bytes, vd_rand_below(rand, 5)));
        return;
    }
    case VD_BSON_OBJECTID:
        v = (vd_value_t){bytes, 12, type};
        break;
    case VD_BSON_BOOL:
        v = vd_value_from_bool(vd_rand_below(rand, 2) != 0);
        break;
    case VD_BSON_INT32:
        v = vd_value_from_int32(arena, (int32_t)number);
        break;
    case VD_BSON_INT64:
    case VD_BSON_DATE:
    case VD_BSON_TIMESTAMP:
        v = vd_value_from_int64(arena, number);
        v.type = type;
        break;
    case VD_BSON_DECIMAL128:
        v = vd_value_from_decimal(arena, random_decimal(rand));
        break;
    case VD_BSON_REGEX:
    case VD_BSON_DBPOINTER:
    case VD_BSON_CODE_WITH_SCOPE:
        random_raw(rand, bb, arena, name, type);
        return;
    default:
        v = (vd_value_t){NULL, 0, type};
        break;
    }
    vd_bb_value(bb, name, v);
}

static inline vd_value_t random_value(vd_rand_t *rand, vd_arena_t *arena)
{
    vd_bb_t bb;
    vd_bson_t doc;
    vd_value_t v;
    vd_bb_init_arena(&bb, arena, 65536);
    random_append(rand, &bb, arena, VD_SLICE_LIT("v"), 0);
    int rc = vd_bb_finish(&bb, &doc, NULL);
    VD_ASSERT(rc == VD_OK);
    bool found = vd_bson_first(doc, NULL, &v);
    VD_ASSERT(found);
    return v;
}
