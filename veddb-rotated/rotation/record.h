/* veddb-rotated/rotation/record.h — what the machine keeps, as bytes: the keyring's note.
 *
 * Format:  "VDROT", u8 3, u8 count of past ones, 0, then little-endian fields in the order of
 *          rot_kept_t. It stands inside the keyring, which authenticates it.
 * Owner:   nothing is kept. Threads: any.
 * Errors:  VD_ERR_CORRUPT, VD_ERR_UNSUPPORTED_FORMAT. */
#pragma once
#include "libcommon/base/buf.h"
#include "veddb-rotated/rotation/machine.h"

/* Clears out first. */
VD_MUST_CHECK int rot_record_pack(const rot_kept_t *kept, vd_buf_t *out, vd_error_t *err);
/* An empty note is a keyring that has seen no rotation. */
VD_MUST_CHECK int rot_record_unpack(vd_slice_t note, rot_kept_t *ret_kept, vd_error_t *err);
