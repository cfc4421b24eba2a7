/* libcommon/runtime/backup.h — a backup of a node: its manifest, the check of its files, and
 * putting it in place. What storaged makes, and what vedctl does without a node.
 *
 * Duty:    <folder>/manifest says what a backup is: written last, so a folder without one is
 *          none. It is text: a line per fact, then a line per file, then the SHA-256 of all that
 *          stands before. manifest.seal is that sum, sealed with a data key: storage refuses a
 *          restored copy whose manifest is not its own. keyring, where there is one, is the
 *          node's keyring, wrapped under the key-encryption key; it is renewed when the node's
 *          changes, and so not among the files.
 * Restore: files are copied as they are; the copy's manifest (VedDB.restored) comes last, and
 *          stands until storage's first start there has ended.
 * Owner:   vd_backup_manifest_done.
 * Threads: any.
 * Limits:  VD_BACKUP_FILES_MAX files, VD_BACKUP_VERSIONS_MAX key versions.
 * Errors:  VD_ERR_BACKUP_DAMAGED names the file; VD_ERR_UNSUPPORTED_FORMAT, VD_ERR_NOT_FOUND,
 *          VD_ERR_EXISTS, VD_ERR_IO. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/base/error.h"

#define VD_BACKUP_FORMAT         1
#define VD_BACKUP_MANIFEST       "manifest"
#define VD_BACKUP_SEAL           "manifest.seal"
#define VD_BACKUP_KEYRING        "keyring"
#define VD_BACKUP_PARTIAL        ".partial" /* the end of the name of a folder that is being made */
#define VD_BACKUP_RESTORED       "VedDB.restored"
#define VD_BACKUP_RESTORED_SEAL  "VedDB.restored.seal"
#define VD_BACKUP_RESTORING      "VedDB.restoring" /* stands while a copy is put in place */
#define VD_BACKUP_FILES_MAX      1000000
#define VD_BACKUP_VERSIONS_MAX   256
#define VD_BACKUP_NAME_MAX       64
#define VD_BACKUP_FILE_NAME_MAX  127
#define VD_BACKUP_MANIFEST_BYTES (256u << 20)
#define VD_BACKUP_SUM_BYTES      32

typedef struct {
    char name[VD_BACKUP_FILE_NAME_MAX + 1];
    uint64_t bytes;
    uint8_t sum[VD_BACKUP_SUM_BYTES]; /* SHA-256 */
} vd_backup_file_t;

typedef struct {
    char node[64];
    int64_t made_ms;
    uint64_t position; /* of the journal: all up to here is in it */
    bool keyring;      /* a copy of the node's was put beside it */
    uint32_t version_count, versions[VD_BACKUP_VERSIONS_MAX]; /* of keys that its blocks may need */
    uint32_t file_count, file_room;
    vd_backup_file_t *files;
} vd_backup_manifest_t;

void vd_backup_manifest_done(vd_backup_manifest_t *manifest);
/* Pure. VD_ERR_FULL; VD_ERR_INVALID: a name that can't be. */
VD_MUST_CHECK int vd_backup_file_add(vd_backup_manifest_t *manifest, const vd_backup_file_t *file,
                                     vd_error_t *err);
uint64_t vd_backup_bytes(const vd_backup_manifest_t *manifest);
/* The oldest key version that it needs; 0: none. */
uint32_t vd_backup_oldest(const vd_backup_manifest_t *manifest);
/* Appends the manifest's text. */
VD_MUST_CHECK int vd_backup_manifest_print(const vd_backup_manifest_t *manifest, vd_buf_t *out);
VD_MUST_CHECK int vd_backup_manifest_parse(vd_slice_t text, vd_backup_manifest_t *ret_manifest,
                                           vd_error_t *err);
/* What a backup may be called: letters, digits, "-", "_", ".", no dot in front. */
bool vd_backup_name_ok(const char *name);

/* ---- files ---- */
/* Of <folder>/<name>; VD_ERR_NOT_FOUND: it has none. text, where not NULL, gets its bytes. */
VD_MUST_CHECK int vd_backup_read(const char *folder, const char *name,
                                 vd_backup_manifest_t *ret_manifest, vd_buf_t *text,
                                 vd_error_t *err);
/* Called after each piece; anything but VD_OK ends the work with that code. */
typedef int (*vd_backup_paced_t)(uint64_t bytes, void *context, vd_error_t *err);
/* Every file is there, with its size and sum; the others have the heads of what they should be. */
VD_MUST_CHECK int vd_backup_check(const char *folder, const vd_backup_manifest_t *manifest,
                                  vd_backup_paced_t paced, void *context, vd_error_t *err);
/* The files of the manifest alone. */
VD_MUST_CHECK int vd_backup_check_files(const char *folder, const vd_backup_manifest_t *manifest,
                                        vd_backup_paced_t paced, void *context, vd_error_t *err);
/* Copies fd's first `bytes` bytes (fewer, when it ends) to a new file, 0600, synced; ret_file gets
 * size and sum. Pieces of zeros become holes. */
VD_MUST_CHECK int vd_backup_copy(int from, uint64_t bytes, const char *to,
                                 vd_backup_file_t *ret_file, vd_backup_paced_t paced, void *context,
                                 vd_error_t *err);
/* Puts a checked backup into a data folder without a database; keys: a folder without a keyring
 * that gets the copy beside the backup, or NULL. */
VD_MUST_CHECK int vd_backup_restore(const char *folder, const char *into, const char *keys,
                                    vd_backup_paced_t paced, void *context, vd_error_t *err);
/* Whole or not at all, 0600. shred: what stood there is overwritten first. */
VD_MUST_CHECK int vd_backup_replace(const char *folder, const char *name, vd_slice_t bytes,
                                    bool shred, vd_error_t *err);
VD_MUST_CHECK int vd_backup_sync_folder(const char *folder, vd_error_t *err);
