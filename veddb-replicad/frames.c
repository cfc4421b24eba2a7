/* veddb-replicad/frames.c — see frames.h. */
#include "veddb-replicad/frames.h"

#include <pthread.h>

#define POLYNOMIAL 0x82f63b78u /* CRC-32C, bits reversed */

/* ---- checksum: the processor's where it has one, else eight tables ---- */

static uint32_t tables[8][256];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (POLYNOMIAL & (0u - (crc & 1)));
        tables[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            tables[t][i] = (tables[t - 1][i] >> 8) ^ tables[0][tables[t - 1][i] & 0xff];
}

static uint32_t crc_tables(uint32_t crc, const uint8_t *p, size_t len)
{
    (void)pthread_once(&tables_once, make_tables);
    for (; len >= 8; p += 8, len -= 8) {
        uint32_t low = crc ^ vd_get_u32(p), high = vd_get_u32(p + 4);
        crc = tables[7][low & 0xff] ^ tables[6][(low >> 8) & 0xff] ^ tables[5][(low >> 16) & 0xff] ^
              tables[4][low >> 24] ^ tables[3][high & 0xff] ^ tables[2][(high >> 8) & 0xff] ^
              tables[1][(high >> 16) & 0xff] ^ tables[0][high >> 24];
    }
    for (; len > 0; p++, len--)
        crc = (crc >> 8) ^ tables[0][(crc ^ *p) & 0xff];
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_processor(uint32_t crc, const uint8_t *p,
                                                                size_t len)
{
    uint64_t wide = crc;
    for (; len >= 8; p += 8, len -= 8)
        wide = __builtin_ia32_crc32di(wide, vd_get_u64(p));
    crc = (uint32_t)wide;
    for (; len > 0; p++, len--)
        crc = __builtin_ia32_crc32qi(crc, *p);
    return crc;
}
#endif

uint32_t repl_crc32c(vd_slice_t bytes)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return ~crc_processor(~0u, bytes.data, bytes.len);
#endif
    return ~crc_tables(~0u, bytes.data, bytes.len);
}

/* ---- frames ---- */

int repl_frame_put(vd_buf_t *out, const vdp_envelope_t *envelope, const vdp_message_t *message,
                   const void *fields, vd_slice_t body, vd_error_t *err)
{
    static const uint8_t head[REPL_FRAME_HEAD_BYTES] = {0};
    size_t before = vd_buf_len(out);
    int rc = vd_buf_append(out, head, sizeof head);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s: no room for a frame", message->name);
    rc = vdp_encode(out, envelope, message, fields, body, err);
    if (rc != VD_OK) {
        vd_buf_truncate(out, before);
        return rc;
    }
    vd_slice_t item =
        vd_slice(vd_buf_at(out, before + sizeof head), vd_buf_len(out) - before - sizeof head);
    VD_ASSERT(item.len <= REPL_FRAME_MAX_BYTES);
    vd_put_u32(vd_buf_at(out, before), (uint32_t)item.len + 4);
    vd_put_u32(vd_buf_at(out, before + 4), repl_crc32c(item));
    return VD_OK;
}

int repl_frame_take(vd_slice_t bytes, size_t item_max, vd_slice_t *ret_item, size_t *ret_used,
                    vd_error_t *err)
{
    *ret_used = REPL_FRAME_HEAD_BYTES;
    if (bytes.len < 4)
        return VD_ERR_AGAIN;
    uint32_t length = vd_get_u32(bytes.data);
    if (length < 5 || length - 4 > item_max)
        return vd_error_set(err, VD_ERR_PROTOCOL, "a frame of %u bytes, at most %zu", length,
                            item_max);
    *ret_used = (size_t)length + 4;
    if (bytes.len < *ret_used)
        return VD_ERR_AGAIN;
    vd_slice_t item = vd_slice(bytes.data + REPL_FRAME_HEAD_BYTES, length - 4);
    if (repl_crc32c(item) != vd_get_u32(bytes.data + 4))
        return vd_error_set(err, VD_ERR_CORRUPT, "the checksum of a frame of %u bytes is wrong",
                            length);
    *ret_item = item;
    return VD_OK;
}
