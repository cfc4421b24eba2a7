/* veddb-rotated/kek.h — where the key-encryption key comes from: a private file or a command.
 *
 * Duty:    reads 32 bytes, written as 64 hex digits or as base64 (44 characters). A file must be
 *          regular, owned by us or root, and closed to group and others. A command is run without a
 *          shell (words split at blanks); it prints the key on its standard output.
 * Owner:   the caller's 32 bytes should stand in memory of vd_secret_alloc.
 * Threads: one, at start only.
 * Errors:  VD_ERR_CONFIG (no source, wrong mode), VD_ERR_KEY_MISSING (file or command gives
 *          nothing), VD_ERR_BAD_VALUE (not a key). Never the key itself. */
#pragma once
#include "libcommon/base/error.h"

#define ROT_KEY_BYTES 32

VD_MUST_CHECK int rot_kek_read(const char *file, const char *command,
                               uint8_t ret_kek[ROT_KEY_BYTES], vd_error_t *err);
/* Pure: text as it stands in the file -> key. */
VD_MUST_CHECK int rot_kek_parse(vd_slice_t text, uint8_t ret_kek[ROT_KEY_BYTES], vd_error_t *err);
