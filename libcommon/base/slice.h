/* libcommon/base/slice.h — a borrowed run of bytes.
 *
 * Owner: never the slice. A slice is valid as long as what it points into; the giver says how long.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    const uint8_t *data;
    size_t len;
} vd_slice_t;

#define VD_SLICE_NULL ((vd_slice_t){NULL, 0})
/* A slice of a string literal. */
#define VD_SLICE_LIT(s) ((vd_slice_t){(const uint8_t *)(s), sizeof(s) - 1})
/* For printf("%.*s"). */
#define VD_SLICE_FMT(s) (int)(s).len, (const char *)(s).data

static inline vd_slice_t vd_slice(const void *data, size_t len)
{
    return (vd_slice_t){(const uint8_t *)data, len};
}

static inline vd_slice_t vd_slice_str(const char *s)
{
    return (vd_slice_t){(const uint8_t *)s, s == NULL ? 0 : strlen(s)};
}

static inline bool vd_slice_equal(vd_slice_t a, vd_slice_t b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static inline bool vd_slice_is(vd_slice_t a, const char *s)
{
    return vd_slice_equal(a, vd_slice_str(s));
}

static inline bool vd_slice_starts_with(vd_slice_t a, vd_slice_t prefix)
{
    return a.len >= prefix.len && (prefix.len == 0 || memcmp(a.data, prefix.data, prefix.len) == 0);
}

/* Bytewise order; a prefix sorts before what it starts. */
static inline int vd_slice_compare(vd_slice_t a, vd_slice_t b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n == 0 ? 0 : memcmp(a.data, b.data, n);
    return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}
