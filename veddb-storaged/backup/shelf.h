/* veddb-storaged/backup/shelf.h — which backups are kept, and which keys each needs.
 *
 * Duty:    a row per backup in VedDB.backups in the data folder, written when one is made or
 *          removed: a disk of backups that is away must not let a key be destroyed that they
 *          need. A folder with a manifest that has no row is taken up; a row without its folder
 *          stays, as missing, until it is removed.
 * Format:  a line per row: name, oldest key version, made (ms), bytes, keyring (0, 1); then
 *          "end", SHA-256.
 * Owner:   plain data, the caller's lock.
 * Limits:  STOR_BACKUPS_MAX.
 * Errors:  VD_ERR_CORRUPT: the file is not what was written; VD_ERR_FULL. */
#pragma once
#include "libcommon/runtime/backup.h"
#include "proto/rotation.h"

#define STOR_BACKUPS_MAX  VDP_ROTATION_BACKUPS_MAX
#define STOR_BACKUPS_FILE "VedDB.backups"

typedef struct {
    char name[VD_BACKUP_NAME_MAX + 1];
    uint32_t oldest_version;
    int64_t made_ms;
    uint64_t bytes;
    bool keyring;
    /* not kept */
    int64_t checked_ms; /* when it was last verified; 0: not since the start */
    bool good;          /* as it was found then */
} stor_backup_row_t;

typedef struct {
    uint32_t count;
    stor_backup_row_t rows[STOR_BACKUPS_MAX]; /* oldest first */
} stor_shelf_t;

/* NULL: none of that name. */
stor_backup_row_t *stor_shelf_find(stor_shelf_t *shelf, const char *name);
VD_MUST_CHECK int stor_shelf_add(stor_shelf_t *shelf, const stor_backup_row_t *row,
                                 vd_error_t *err);
void stor_shelf_remove(stor_shelf_t *shelf, const char *name);
/* Pure. */
VD_MUST_CHECK int stor_shelf_print(const stor_shelf_t *shelf, vd_buf_t *out);
VD_MUST_CHECK int stor_shelf_parse(vd_slice_t text, stor_shelf_t *ret_shelf, vd_error_t *err);
/* Of a data folder; an absent file is an empty one. */
VD_MUST_CHECK int stor_shelf_load(const char *folder, stor_shelf_t *ret_shelf, vd_error_t *err);
VD_MUST_CHECK int stor_shelf_save(const char *folder, const stor_shelf_t *shelf, vd_error_t *err);
