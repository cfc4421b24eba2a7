/* libcommon/base/buf.c — byte buffer with a hard limit; see buf.h. */
#include "libcommon/base/buf.h"

#include "libcommon/base/mem.h"

#include <stdio.h>
#include <stdlib.h>

void vd_buf_init(vd_buf_t *buf, size_t max_bytes)
{
    VD_ASSERT(buf != NULL);
    *buf = (vd_buf_t){.max = max_bytes};
}

void vd_buf_done(vd_buf_t *buf)
{
    if (buf == NULL)
        return;
    vd_free(buf->data);
    *buf = (vd_buf_t){.max = buf->max};
}

void vd_buf_clear(vd_buf_t *buf)
{
    buf->start = buf->end = 0;
}

void vd_buf_shrink(vd_buf_t *buf, size_t keep_bytes)
{
    if (vd_buf_len(buf) != 0 || buf->cap <= keep_bytes)
        return;
    vd_free(buf->data);
    buf->data = NULL;
    buf->start = buf->end = buf->cap = 0;
}

int vd_buf_reserve(vd_buf_t *buf, size_t len, uint8_t **ret_space)
{
    size_t live = vd_buf_len(buf);
    if (len > buf->max || live > buf->max - len)
        return VD_ERR_FULL;
    if (buf->data == NULL || buf->cap - buf->end < len) {
        /* First move the live bytes to the front, when that alone frees half of the memory or more.
         */
        if (buf->start != 0 && buf->cap - live >= len && buf->start >= buf->cap / 2) {
            memmove(buf->data, buf->data + buf->start, live);
        } else {
            size_t cap = buf->cap < 128 ? 256 : buf->cap * 2;
            if (cap < live + len)
                cap = live + len;
            if (cap > buf->max && buf->max >= live + len && buf->max >= 64)
                cap = buf->max;
            uint8_t *data = malloc(cap);
            if (data == NULL)
                return VD_ERR_NO_MEMORY;
            if (live != 0)
                memcpy(data, buf->data + buf->start, live);
            vd_free(buf->data);
            buf->data = data;
            buf->cap = cap;
        }
        buf->start = 0;
        buf->end = live;
    }
    *ret_space = buf->data + buf->end;
    return VD_OK;
}

void vd_buf_commit(vd_buf_t *buf, size_t len)
{
    VD_ASSERT(len <= buf->cap - buf->end);
    buf->end += len;
}

int vd_buf_append(vd_buf_t *buf, const void *data, size_t len)
{
    if (len == 0)
        return VD_OK;
    uint8_t *space;
    int rc = vd_buf_reserve(buf, len, &space);
    if (rc != VD_OK)
        return rc;
    memcpy(space, data, len);
    buf->end += len;
    return VD_OK;
}

int vd_buf_append_slice(vd_buf_t *buf, vd_slice_t s)
{
    return vd_buf_append(buf, s.data, s.len);
}

int vd_buf_append_u8(vd_buf_t *buf, uint8_t v)
{
    return vd_buf_append(buf, &v, 1);
}

int vd_buf_append_u32(vd_buf_t *buf, uint32_t v)
{
    uint8_t bytes[4];
    vd_put_u32(bytes, v);
    return vd_buf_append(buf, bytes, sizeof bytes);
}

int vd_buf_append_u64(vd_buf_t *buf, uint64_t v)
{
    uint8_t bytes[8];
    vd_put_u64(bytes, v);
    return vd_buf_append(buf, bytes, sizeof bytes);
}

int vd_buf_printf(vd_buf_t *buf, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        return VD_ERR_INVALID;
    /* vsnprintf writes a final NUL: it must fit in the memory, but is no part of the content. */
    size_t max = buf->max;
    if ((size_t)n > max || vd_buf_len(buf) > max - (size_t)n)
        return VD_ERR_FULL;
    buf->max = max + 1;
    uint8_t *space;
    int rc = vd_buf_reserve(buf, (size_t)n + 1, &space);
    buf->max = max;
    if (rc != VD_OK)
        return rc;
    va_start(args, format);
    (void)vsnprintf((char *)space, (size_t)n + 1, format, args);
    va_end(args);
    buf->end += (size_t)n;
    return VD_OK;
}

void vd_buf_consume(vd_buf_t *buf, size_t len)
{
    VD_ASSERT(len <= vd_buf_len(buf));
    buf->start += len;
    if (buf->start == buf->end)
        buf->start = buf->end = 0;
}

void vd_buf_truncate(vd_buf_t *buf, size_t len)
{
    VD_ASSERT(len <= vd_buf_len(buf));
    buf->end = buf->start + len;
}
