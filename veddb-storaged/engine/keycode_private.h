/* veddb-storaged/engine/keycode_private.h — the form of a key: what writing (keycode.c) and reading
 * (keycode_decode.c) share.
 *
 * Threads: any; pure.
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
 * Full keys over KEY_EXACT_MAX bytes are cut to KEY_PREFIX_BYTES and the SHA-256 of the whole:
 * exactly VD_KEYCODE_MAX_BYTES. A reader that comes to byte KEY_PREFIX_BYTES without an end
 * therefore knows that the key was cut.
 *
 * Type bits, in the same order: a number has one byte (type, sign of zero) and a decimal its
 * exponent in two more; a string has one byte (0, symbol: 1); an array has one byte, 1 when its
 * names are not 0, 1, 2 ...: then each name stands, with a NUL, before its element's bits. */
#pragma once
#include "libcommon/bson/decimal.h"
#include "veddb-storaged/engine/keycode.h"

#define KEY_HASH_BYTES   32
#define KEY_PREFIX_BYTES (VD_KEYCODE_MAX_BYTES - KEY_HASH_BYTES)
#define KEY_EXACT_MAX    (KEY_PREFIX_BYTES - 1)
#define KEY_DEPTH_MAX    512
#define KEY_WEIGHT_BIAS  0x4000

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

/* A number, taken apart as the key has it. */
typedef struct {
    bool nan, negative;
    bool fraction;        /* magnitude and (unless exact) decimal are written */
    bool exact;           /* magnitude is the value */
    uint64_t whole;       /* whole part when it is below 2^63; 0 for small and large */
    bool large;           /* 2^63 and more */
    double magnitude;     /* cut toward zero */
    vd_decimal_t decimal; /* when not exact: positive */
} stor_key_number_t;
