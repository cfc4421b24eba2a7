/* veddb-storaged/backup/make.h — the files of one backup.
 *
 * Threads: the backups' own. */
#pragma once
#include "libcommon/runtime/backup.h"
#include "veddb-storaged/storaged.h"

typedef struct {
    const char *folder, *name, *data_folder, *node;
    uint32_t proven;    /* no block needs a key up to here that is not active */
    vd_slice_t keyring; /* empty: none */
    /* Told once, then after each piece; anything but VD_OK ends it. */
    void (*total)(uint64_t bytes, void *context);
    vd_backup_paced_t paced;
    void *context;
} stor_make_t;

/* Leaves <folder>/<name> with its manifest, which the caller ends; or, failed, nothing. */
VD_MUST_CHECK int stor_make_backup(stor_storage_t *storage, const stor_make_t *what,
                                   vd_backup_manifest_t *ret_manifest, vd_error_t *err);
/* A folder of backups' folder with all that is in it; absent: VD_OK. */
VD_MUST_CHECK int stor_make_remove(const char *folder, const char *name, vd_error_t *err);
