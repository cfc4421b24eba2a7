/* veddb-replicad/frames.h — one item of the peer protocol on a byte stream.
 *
 * Duty:    u32 LE length of what follows, u32 LE CRC-32C of the item, item (proto/codec.h). Pure:
 *          bytes in, an item or an error out.
 * Limits:  an item <= the limit that the caller gives; nothing is believed before it is compared
 *          with it. */
#pragma once
#include "proto/codec.h"

#define REPL_FRAME_HEAD_BYTES 8
#define REPL_FRAME_MAX_BYTES  (34 * 1024 * 1024 + 64 * 1024)
#define REPL_FRAME_HELLO_MAX  4096 /* before both have said who they are */

uint32_t repl_crc32c(vd_slice_t bytes);
/* Appends one frame; on failure `out` is as it was. */
VD_MUST_CHECK int repl_frame_put(vd_buf_t *out, const vdp_envelope_t *envelope,
                                 const vdp_message_t *message, const void *fields, vd_slice_t body,
                                 vd_error_t *err);
/* The frame at the head of `bytes`. VD_ERR_AGAIN: not whole yet (*ret_used: bytes that the whole
 * needs, as far as it is known). VD_ERR_PROTOCOL: the length can't be. VD_ERR_CORRUPT: the
 * checksum. The item is borrowed. */
VD_MUST_CHECK int repl_frame_take(vd_slice_t bytes, size_t item_max, vd_slice_t *ret_item,
                                  size_t *ret_used, vd_error_t *err);
