/* veddb-gatewayd/compress.h — the compressors of OP_COMPRESSED. Pure.
 *
 * Limits:  unpacking writes exactly the announced size, which the caller has bounded, or fails with
 *          VD_ERR_PROTOCOL. */
#pragma once
#include "libcommon/base/buf.h"

enum {
    GATE_COMPRESSOR_NOOP = 0,
    GATE_COMPRESSOR_SNAPPY = 1,
    GATE_COMPRESSOR_ZLIB = 2,
    GATE_COMPRESSOR_ZSTD = 3,
    GATE_COMPRESSOR_COUNT
};

VD_MUST_CHECK int gate_compress(uint8_t compressor, vd_slice_t plain, vd_buf_t *out,
                                vd_error_t *err);
/* out has exactly size bytes. */
VD_MUST_CHECK int gate_decompress(uint8_t compressor, vd_slice_t packed, uint8_t *out, size_t size,
                                  vd_error_t *err);
/* False when the name is not known. */
bool gate_compressor_by_name(vd_slice_t name, uint8_t *ret_compressor);
