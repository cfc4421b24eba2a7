/* libcommon/bson/view.h — read-only view of BSON bytes, the only room that knows their layout.
 *
 * Duty:    vd_bson_validate checks untrusted bytes once; the iterator then walks without copying.
 *          The iterator is itself bounded: on unchecked bytes it stops with `bad` set, it never
 *          reads outside.
 *          A vd_value_t is one value: type + its payload bytes as in BSON. Type 0
 *          (VD_BSON_MISSING) is "no such field".
 * Owner:   borrows the bytes.
 * Threads: any, bytes are never changed. */
#pragma once
#include "libcommon/base/arena.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/error.h"

typedef enum {
    VD_BSON_MISSING = 0x00,
    VD_BSON_DOUBLE = 0x01,
    VD_BSON_STRING = 0x02,
    VD_BSON_OBJECT = 0x03,
    VD_BSON_ARRAY = 0x04,
    VD_BSON_BINARY = 0x05,
    VD_BSON_UNDEFINED = 0x06,
    VD_BSON_OBJECTID = 0x07,
    VD_BSON_BOOL = 0x08,
    VD_BSON_DATE = 0x09,
    VD_BSON_NULL = 0x0A,
    VD_BSON_REGEX = 0x0B,
    VD_BSON_DBPOINTER = 0x0C,
    VD_BSON_CODE = 0x0D,
    VD_BSON_SYMBOL = 0x0E,
    VD_BSON_CODE_WITH_SCOPE = 0x0F,
    VD_BSON_INT32 = 0x10,
    VD_BSON_TIMESTAMP = 0x11,
    VD_BSON_INT64 = 0x12,
    VD_BSON_DECIMAL128 = 0x13,
    VD_BSON_MAXKEY = 0x7F,
    VD_BSON_MINKEY = 0xFF,
} vd_bson_type_t;

typedef struct {
    const uint8_t *data; /* payload: for a string the int32 length, the bytes and the NUL; for an
                            object the whole document */
    uint32_t len;        /* payload bytes */
    uint8_t type;        /* vd_bson_type_t */
} vd_value_t;

#define VD_VALUE_MISSING ((vd_value_t){NULL, 0, VD_BSON_MISSING})

/* A document: data points at its int32 length. An empty vd_bson_t {NULL,0} is treated as an empty
 * document. */
typedef struct {
    const uint8_t *data;
    uint32_t len;
} vd_bson_t;

#define VD_BSON_NONE ((vd_bson_t){NULL, 0})

typedef struct {
    const uint8_t *pos, *end; /* end: the document's final NUL */
    vd_slice_t name;          /* of the current element, without NUL */
    vd_value_t value;
    bool bad; /* bytes are not BSON; iteration has ended */
} vd_bson_iter_t;

enum {
    VD_BSON_CHECK_UTF8 = 1u << 0, /* names and strings are valid UTF-8 */
};

/* Checks one whole document that must fill `bytes` exactly: lengths, terminators, types, depth <=
 * depth_max, booleans 0/1, array/code-with-scope nesting. VD_ERR_INVALID_BSON with the offset, or
 * VD_ERR_OVERFLOW (too deep). Recursion is bounded. */
VD_MUST_CHECK int vd_bson_validate(vd_slice_t bytes, unsigned flags, uint32_t depth_max,
                                   vd_error_t *err);
/* Reads the length of the document at the head of bytes; VD_ERR_INVALID_BSON unless it fits, ends
 * in NUL and is >= 5. Not deep. */
VD_MUST_CHECK int vd_bson_peek(vd_slice_t bytes, vd_bson_t *ret_doc, vd_error_t *err);

void vd_bson_iter_init(vd_bson_iter_t *iter, vd_bson_t doc);
bool vd_bson_iter_next(vd_bson_iter_t *iter);

/* First field of that name, or MISSING. No dots. */
vd_value_t vd_bson_get(vd_bson_t doc, const char *name);
vd_value_t vd_bson_get_slice(vd_bson_t doc, vd_slice_t name);
/* Plain walk along a.b.c through objects and numeric array positions; no fan-out over arrays. */
vd_value_t vd_bson_get_path(vd_bson_t doc, vd_slice_t path);
bool vd_bson_is_empty(vd_bson_t doc);
uint32_t vd_bson_count(vd_bson_t doc);
/* First element's name and value; false when empty. */
bool vd_bson_first(vd_bson_t doc, vd_slice_t *ret_name, vd_value_t *ret_value);

/* ---- values: the type is asserted (check it first) ---- */
static inline int32_t vd_value_int32(vd_value_t v)
{
    VD_ASSERT(v.type == VD_BSON_INT32);
    return (int32_t)vd_get_u32(v.data);
}
/* INT64, DATE and (as bits) TIMESTAMP */
static inline int64_t vd_value_int64(vd_value_t v)
{
    VD_ASSERT(v.type == VD_BSON_INT64 || v.type == VD_BSON_DATE || v.type == VD_BSON_TIMESTAMP);
    return (int64_t)vd_get_u64(v.data);
}
static inline double vd_value_double(vd_value_t v)
{
    VD_ASSERT(v.type == VD_BSON_DOUBLE);
    uint64_t bits = vd_get_u64(v.data);
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}
/* BOOL only */
static inline bool vd_value_bool(vd_value_t v)
{
    VD_ASSERT(v.type == VD_BSON_BOOL);
    return v.data[0] != 0;
}
/* STRING, SYMBOL, CODE: without length and NUL */
static inline vd_slice_t vd_value_string(vd_value_t v)
{
    VD_ASSERT((v.type == VD_BSON_STRING || v.type == VD_BSON_SYMBOL || v.type == VD_BSON_CODE) &&
              v.len >= 5);
    return vd_slice(v.data + 4, v.len - 5);
}
/* OBJECT, ARRAY */
static inline vd_bson_t vd_value_document(vd_value_t v)
{
    VD_ASSERT(v.type == VD_BSON_OBJECT || v.type == VD_BSON_ARRAY);
    return (vd_bson_t){v.data, v.len};
}
/* ret_subtype may be NULL */
static inline vd_slice_t vd_value_binary(vd_value_t v, uint8_t *ret_subtype)
{
    VD_ASSERT(v.type == VD_BSON_BINARY && v.len >= 5);
    if (ret_subtype != NULL)
        *ret_subtype = v.data[4];
    return vd_slice(v.data + 5, v.len - 5);
}
/* 12 bytes */
static inline const uint8_t *vd_value_objectid(vd_value_t v)
{
    VD_ASSERT(v.type == VD_BSON_OBJECTID);
    return v.data;
}
/* seconds << 32 | increment */
static inline uint64_t vd_value_timestamp(vd_value_t v)
{
    VD_ASSERT(v.type == VD_BSON_TIMESTAMP);
    return vd_get_u64(v.data);
}
void vd_value_regex(vd_value_t v, vd_slice_t *ret_pattern, vd_slice_t *ret_options);

/* ---- values: what they mean ---- */
static inline bool vd_value_is_number(vd_value_t v)
{
    return v.type == VD_BSON_INT32 || v.type == VD_BSON_INT64 || v.type == VD_BSON_DOUBLE ||
           v.type == VD_BSON_DECIMAL128;
}
static inline bool vd_value_is_missing(vd_value_t v)
{
    return v.type == VD_BSON_MISSING;
}
/* missing, null or undefined */
static inline bool vd_value_is_nullish(vd_value_t v)
{
    return v.type == VD_BSON_MISSING || v.type == VD_BSON_NULL || v.type == VD_BSON_UNDEFINED;
}
/* MongoDB's coercion to bool: false, 0, null, undefined, missing are false. */
bool vd_value_truthy(vd_value_t v);
/* Number (any of the four types) as int64 if it is whole and in range. */
bool vd_value_as_int64(vd_value_t v, int64_t *ret);
/* Number as double (decimal is rounded); 0 for others. */
double vd_value_as_double(vd_value_t v);
/* Numeric or bool field as a flag, as MongoDB's commands read options. */
bool vd_value_as_flag(vd_value_t v);
/* "string", "int", "objectId" ... as $type names them; "missing" for MISSING. */
const char *vd_bson_type_name(uint8_t type);
/* Type by alias; "number" is not one type: returns 0 and the caller handles it. Returns -1 when
 * unknown. */
int vd_bson_type_by_name(vd_slice_t name);

/* ---- values made on the spot: payload lives in the arena ---- */
vd_value_t vd_value_from_int32(vd_arena_t *arena, int32_t v);
vd_value_t vd_value_from_int64(vd_arena_t *arena, int64_t v);
vd_value_t vd_value_from_double(vd_arena_t *arena, double v);
vd_value_t vd_value_from_bool(bool v); /* static payload */
vd_value_t vd_value_from_null(void);   /* static payload */
vd_value_t vd_value_from_date(vd_arena_t *arena, int64_t ms);
vd_value_t vd_value_from_timestamp(vd_arena_t *arena, uint64_t ts);
vd_value_t vd_value_from_string(vd_arena_t *arena, vd_slice_t s);
vd_value_t vd_value_from_document(vd_bson_t doc); /* borrows */
vd_value_t vd_value_from_array(vd_bson_t doc);    /* borrows */
vd_value_t vd_value_copy(vd_arena_t *arena, vd_value_t v);

/* Relaxed extended JSON of a value or document into an arena string, cut at max_bytes: for messages
 * and logs of *names and specs*. */
const char *vd_value_to_json(vd_arena_t *arena, vd_value_t v, size_t max_bytes);
const char *vd_bson_to_json(vd_arena_t *arena, vd_bson_t doc, size_t max_bytes);
bool vd_utf8_valid(vd_slice_t s);
