/* veddb-rotated/kek.h — where the key-encryption key comes from: a private file, a command, or a
 * credential of the service manager.
 *
 * Duty:    reads 32 bytes, written as 64 hex digits or as base64 (44 characters). A file must be
 *          regular, owned by us or root, and closed to group and others. A command is run without a
 *          shell (words split at blanks); it prints the key on its standard output. A credential is
 *          a file in $CREDENTIALS_DIRECTORY. Each source may have a next key, which `keys rewrap`
 *          goes over to: the file or credential with ROT_KEK_NEXT behind its name; the command run
 *          with VEDDB_KEK=next (else it is "present"). Under a supervisor that one runs the command
 *          (files.h): we may execute nothing, and it is run anew at each rewrap.
 *          A key service would be one more rot_kek_source_t: its `open` gives a descriptor on which
 *          the text comes, in its own time.
 * Owner:   the caller's 32 bytes should stand in memory of vd_secret_alloc.
 * Threads: one.
 * Errors:  VD_ERR_CONFIG (no source, wrong mode), VD_ERR_KEY_MISSING (it gives nothing),
 *          VD_ERR_BAD_VALUE (not a key). Never the key itself. */
#pragma once
#include "libcommon/base/error.h"

#define ROT_KEY_BYTES          32
#define ROT_KEK_NEXT           ".new"
#define ROT_KEK_TEXT_MAX_BYTES 256

typedef struct rot_kek_source rot_kek_source_t;
struct rot_kek_source {
    const char *what;   /* the option that names it */
    const char *where;  /* borrowed: file, command, name */
    const char *folder; /* of credentials, or NULL */
    bool at_run_time;   /* can be read when the sandbox is closed */
    /* A descriptor from which the text can be read until its end, and then how it went
     * (VD_FILES_TRAILER); the caller closes it. NULL: `text` gives it at once. */
    int (*open)(const rot_kek_source_t *source, bool next, int *ret_fd, vd_error_t *err);
    int (*text)(const rot_kek_source_t *source, bool next, uint8_t *text, size_t *ret_len,
                vd_error_t *err);
    /* The next one becomes the present one; NULL: others do that. */
    int (*adopt)(const rot_kek_source_t *source, vd_error_t *err);
};

/* Exactly one may be set: neither NULL nor empty. */
VD_MUST_CHECK int rot_kek_source_choose(const char *file, const char *command,
                                        const char *credential, rot_kek_source_t *ret_source,
                                        vd_error_t *err);
VD_MUST_CHECK int rot_kek_read(const rot_kek_source_t *source, bool next,
                               uint8_t ret_kek[ROT_KEY_BYTES], vd_error_t *err);
/* All that came from `open`'s descriptor: the text is in front, *len is cut to it. */
VD_MUST_CHECK int rot_kek_opened(const rot_kek_source_t *source, const uint8_t *text, size_t *len,
                                 vd_error_t *err);
/* Pure: text as it stands in the file -> key. */
VD_MUST_CHECK int rot_kek_parse(vd_slice_t text, uint8_t ret_kek[ROT_KEY_BYTES], vd_error_t *err);
