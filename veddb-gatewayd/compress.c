/* veddb-gatewayd/compress.c — see compress.h. */
#include "veddb-gatewayd/compress.h"

#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

static const char *const names[GATE_COMPRESSOR_COUNT] = {"noop", "snappy", "zlib", "zstd"};

bool gate_compressor_by_name(vd_slice_t name, uint8_t *ret_compressor)
{
    for (uint8_t i = 0; i < GATE_COMPRESSOR_COUNT; i++) {
        if (vd_slice_is(name, names[i])) {
            *ret_compressor = i;
            return true;
        }
    }
    return false;
}

static size_t packed_max(uint8_t compressor, size_t len)
{
    switch (compressor) {
    case GATE_COMPRESSOR_SNAPPY:
        return snappy_max_compressed_length(len);
    case GATE_COMPRESSOR_ZLIB:
        return compressBound(len);
    case GATE_COMPRESSOR_ZSTD:
        return ZSTD_compressBound(len);
    default:
        return len;
    }
}

int gate_compress(uint8_t compressor, vd_slice_t plain, vd_buf_t *out, vd_error_t *err)
{
    size_t room = packed_max(compressor, plain.len);
    uint8_t *space;
    if (vd_buf_reserve(out, room, &space) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "no room to compress %zu bytes", plain.len);
    bool good = false;
    switch (compressor) {
    case GATE_COMPRESSOR_NOOP:
        memcpy(space, plain.data, plain.len);
        good = true;
        break;
    case GATE_COMPRESSOR_SNAPPY:
        good =
            snappy_compress((const char *)plain.data, plain.len, (char *)space, &room) == SNAPPY_OK;
        break;
    case GATE_COMPRESSOR_ZLIB: {
        uLongf len = room;
        good = compress2(space, &len, plain.data, plain.len, 6) == Z_OK;
        room = len;
        break;
    }
    case GATE_COMPRESSOR_ZSTD: {
        size_t len = ZSTD_compress(space, room, plain.data, plain.len, 3);
        good = ZSTD_isError(len) == 0;
        room = len;
        break;
    }
    default:
        break;
    }
    if (!good)
        return vd_error_set(err, VD_ERR_INTERNAL, "compression failed");
    vd_buf_commit(out, room);
    return VD_OK;
}

static bool unzlib(vd_slice_t packed, uint8_t *out, size_t size)
{
    uint8_t one;
    uLongf len = size == 0 ? 1 : size; /* zlib takes no room for "any size" */
    uLong used = packed.len;
    if (size == 0)
        out = &one;
    return uncompress2(out, &len, packed.data, &used) == Z_OK && len == size && used == packed.len;
}

int gate_decompress(uint8_t compressor, vd_slice_t packed, uint8_t *out, size_t size,
                    vd_error_t *err)
{
    bool good = false;
    size_t len = size;
    switch (compressor) {
    case GATE_COMPRESSOR_NOOP:
        good = packed.len == size;
        if (good && size != 0)
            memcpy(out, packed.data, size);
        break;
    case GATE_COMPRESSOR_SNAPPY:
        /* The stream's own length is compared first: it, not ours, is what snappy writes. */
        good =
            snappy_uncompressed_length((const char *)packed.data, packed.len, &len) == SNAPPY_OK &&
            len == size &&
            snappy_uncompress((const char *)packed.data, packed.len, (char *)out, &len) ==
                SNAPPY_OK &&
            len == size;
        break;
    case GATE_COMPRESSOR_ZLIB:
        good = unzlib(packed, out, size);
        break;
    case GATE_COMPRESSOR_ZSTD:
        len = ZSTD_decompress(out, size, packed.data, packed.len);
        good = ZSTD_isError(len) == 0 && len == size;
        break;
    default:
        return vd_error_set(err, VD_ERR_PROTOCOL, "compressor %u is not known", compressor);
    }
    if (!good)
        return vd_error_set(err, VD_ERR_PROTOCOL,
                            "compressed bytes do not unpack to the announced size");
    return VD_OK;
}
