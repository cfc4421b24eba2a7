/* libcommon/base/buf.h — a byte buffer with a hard limit; where raw bytes are cut and joined.
 *
 * Duty:    grows on append up to `max`; consumed from the front. Integers are little-endian unless
 *          named _be.
 * Owner:   embedded: vd_buf_init / vd_buf_done.
 * Limits:  append returns VD_ERR_FULL at max bytes and leaves the buffer as it was.
 * Threads: one. */
#pragma once
#include "libcommon/base/error.h"
#include "libcommon/base/slice.h"

typedef struct {
    uint8_t *data; /* data + start is the first live byte */
    size_t start;  /* bytes consumed */
    size_t end;    /* end of live bytes */
    size_t cap;    /* bytes allocated */
    size_t max;    /* most live bytes */
} vd_buf_t;

void vd_buf_init(vd_buf_t *buf, size_t max_bytes);
void vd_buf_done(vd_buf_t *buf);
void vd_buf_clear(vd_buf_t *buf);
/* Gives memory above keep_bytes back when the buffer is empty. */
void vd_buf_shrink(vd_buf_t *buf, size_t keep_bytes);

static inline size_t vd_buf_len(const vd_buf_t *buf)
{
    return buf->end - buf->start;
}
static inline vd_slice_t vd_buf_slice(const vd_buf_t *buf)
{
    return buf->data == NULL ? VD_SLICE_NULL
                             : (vd_slice_t){buf->data + buf->start, buf->end - buf->start};
}
static inline uint8_t *vd_buf_at(vd_buf_t *buf, size_t offset)
{
    return buf->data + buf->start + offset;
}

/* Room for len more bytes at *ret (written by the caller, then vd_buf_commit). */
VD_MUST_CHECK int vd_buf_reserve(vd_buf_t *buf, size_t len, uint8_t **ret_space);
void vd_buf_commit(vd_buf_t *buf, size_t len);
VD_MUST_CHECK int vd_buf_append(vd_buf_t *buf, const void *data, size_t len);
VD_MUST_CHECK int vd_buf_append_slice(vd_buf_t *buf, vd_slice_t s);
VD_MUST_CHECK int vd_buf_append_u8(vd_buf_t *buf, uint8_t v);
VD_MUST_CHECK int vd_buf_append_u32(vd_buf_t *buf, uint32_t v);
VD_MUST_CHECK int vd_buf_append_u64(vd_buf_t *buf, uint64_t v);
VD_MUST_CHECK int vd_buf_printf(vd_buf_t *buf, const char *format, ...) VD_PRINTF(2, 3);
/* Drops len bytes at the front (len <= vd_buf_len). */
void vd_buf_consume(vd_buf_t *buf, size_t len);
/* Cuts the buffer back to len live bytes. */
void vd_buf_truncate(vd_buf_t *buf, size_t len);

static inline uint32_t vd_get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t vd_get_u64(const uint8_t *p)
{
    return (uint64_t)vd_get_u32(p) | (uint64_t)vd_get_u32(p + 4) << 32;
}
static inline void vd_put_u32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8), p[2] = (uint8_t)(v >> 16),
    p[3] = (uint8_t)(v >> 24);
}
static inline void vd_put_u64(uint8_t *p, uint64_t v)
{
    vd_put_u32(p, (uint32_t)v), vd_put_u32(p + 4, (uint32_t)(v >> 32));
}
static inline void vd_put_u64_be(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (56 - 8 * i));
}
static inline uint64_t vd_get_u64_be(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return v;
}
