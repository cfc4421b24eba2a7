/* libcommon/runtime/restore.c — vd_backup_restore of backup.h: a backup becomes a data folder. The
 * mark of a folder in the making comes first, the manifest last: a crash between leaves what the
 * next restore clears and no start takes for a database. */
#include "libcommon/runtime/backup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_engine_file(const char *name)
{
    size_t len = strlen(name);
    return strncmp(name, "WiredTiger", 10) == 0 || strncmp(name, "VedDB.", 6) == 0 ||
           (len > 3 && strcmp(name + len - 3, ".wt") == 0);
}

static bool stands(int dir, const char *name)
{
    return faccessat(dir, name, F_OK, 0) == 0;
}

/* Marks last, so that a crash in here leaves one. */
static int clear(int dir, const char *into, vd_error_t *err)
{
    static const char *const marks[] = {VD_BACKUP_RESTORED, VD_BACKUP_RESTORED_SEAL};
    int inner = dup(dir);
    DIR *list = inner < 0 ? NULL : fdopendir(inner);
    if (list == NULL)
        return vd_error_set_errno(err, "%s", into);
    int rc = VD_OK;
    for (struct dirent *entry; rc == VD_OK && (entry = readdir(list)) != NULL;) {
        bool mark = strncmp(entry->d_name, VD_BACKUP_RESTORED, strlen(VD_BACKUP_RESTORED)) == 0 ||
                    strcmp(entry->d_name, VD_BACKUP_RESTORING) == 0 ||
                    strcmp(entry->d_name, "VedDB.lock") == 0;
        if (is_engine_file(entry->d_name) && !mark && unlinkat(dir, entry->d_name, 0) != 0)
            rc = vd_error_set_errno(err, "clearing %s/%s", into, entry->d_name);
    }
    (void)closedir(list); /* was only read */
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(marks); i++)
        if (unlinkat(dir, marks[i], 0) != 0 && errno != ENOENT)
            rc = vd_error_set_errno(err, "clearing %s/%s", into, marks[i]);
    return rc;
}

/* Nothing of a database may be there, but for a copy that never came to its first start. */
static int target_check(int dir, const char *into, vd_error_t *err)
{
    if (stands(dir, VD_BACKUP_RESTORING) || stands(dir, VD_BACKUP_RESTORED))
        return VD_OK;
    int inner = dup(dir);
    DIR *list = inner < 0 ? NULL : fdopendir(inner);
    if (list == NULL)
        return vd_error_set_errno(err, "%s", into);
    int rc = VD_OK;
    for (struct dirent *entry; rc == VD_OK && (entry = readdir(list)) != NULL;)
        if (is_engine_file(entry->d_name) && strcmp(entry->d_name, "VedDB.lock") != 0)
            rc = vd_error_set(err, VD_ERR_EXISTS,
                              "%s holds a database, or remains of one (%s): move it away first",
                              into, entry->d_name);
    (void)closedir(list); /* was only read */
    return rc;
}

static int one_copy(const char *folder, const char *name, const char *into, const char *to,
                    const vd_backup_file_t *wanted, vd_backup_paced_t paced, void *context,
                    vd_error_t *err)
{
    char from[PATH_MAX], target[PATH_MAX];
    vd_backup_file_t got = {0};
    struct stat st;
    if (snprintf(from, sizeof from, "%s/%s", folder, name) >= (int)sizeof from ||
        snprintf(target, sizeof target, "%s/%s", into, to) >= (int)sizeof target)
        return vd_error_set(err, VD_ERR_INVALID, "%s is too long", folder);
    int fd = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int rc = vd_error_set_errno(err, "%s", from);
        if (fd >= 0)
            (void)close(fd); /* useless */
        return rc;
    }
    int rc = vd_backup_copy(fd, (uint64_t)st.st_size, target, &got, paced, context, err);
    if (rc == VD_OK && wanted != NULL &&
        (got.bytes != wanted->bytes || memcmp(got.sum, wanted->sum, sizeof got.sum) != 0))
        rc = vd_error_set(err, VD_ERR_BACKUP_DAMAGED, "%s has changed while it was copied", from);
    (void)close(fd); /* was only read */
    return rc;
}

static int keyring_put(const char *folder, const vd_backup_manifest_t *manifest, const char *keys,
                       vd_error_t *err)
{
    char path[PATH_MAX];
    if (!manifest->keyring)
        return vd_error_set(err, VD_ERR_NOT_FOUND, "the backup has no keyring");
    if (snprintf(path, sizeof path, "%s/keyring", keys) >= (int)sizeof path)
        return vd_error_set(err, VD_ERR_INVALID, "%s is too long", keys);
    if (access(path, F_OK) == 0)
        return vd_error_set(err, VD_ERR_EXISTS, "%s is there: a keyring is never replaced", path);
    if (mkdir(keys, 0700) != 0 && errno != EEXIST)
        return vd_error_set_errno(err, "can't make %s", keys);
    int rc = one_copy(folder, VD_BACKUP_KEYRING, keys, "keyring", NULL, NULL, NULL, err);
    return rc == VD_OK ? vd_backup_sync_folder(keys, err) : rc;
}

static int all_copy(const char *folder, const vd_backup_manifest_t *manifest, const char *into,
                    vd_backup_paced_t paced, void *context, vd_error_t *err)
{
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < manifest->file_count; i++) {
        const vd_backup_file_t *file = &manifest->files[i];
        rc = one_copy(folder, file->name, into, file->name, file, paced, context, err);
    }
    if (rc == VD_OK)
        rc = one_copy(folder, VD_BACKUP_SEAL, into, VD_BACKUP_RESTORED_SEAL, NULL, NULL, NULL, err);
    return rc == VD_OK ? vd_backup_sync_folder(into, err) : rc;
}

int vd_backup_restore(const char *folder, const char *into, const char *keys,
                      vd_backup_paced_t paced, void *context, vd_error_t *err)
{
    vd_backup_manifest_t manifest = {0};
    vd_buf_t text;
    int dir = -1;
    vd_buf_init(&text, VD_BACKUP_MANIFEST_BYTES);
    int rc = vd_backup_read(folder, VD_BACKUP_MANIFEST, &manifest, &text, err);
    if (rc == VD_OK)
        rc = vd_backup_check(folder, &manifest, paced, context, err);
    if (rc == VD_OK && mkdir(into, 0700) != 0 && errno != EEXIST)
        rc = vd_error_set_errno(err, "can't make %s", into);
    if (rc == VD_OK && (dir = open(into, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        rc = vd_error_set_errno(err, "%s", into);
    if (rc == VD_OK)
        rc = target_check(dir, into, err);
    if (rc == VD_OK && keys != NULL)
        rc = keyring_put(folder, &manifest, keys, err);
    if (rc == VD_OK)
        rc = vd_backup_replace(into, VD_BACKUP_RESTORING, VD_SLICE_LIT("a backup is put here\n"),
                               false, err);
    if (rc == VD_OK)
        rc = clear(dir, into, err);
    if (rc == VD_OK)
        rc = all_copy(folder, &manifest, into, paced, context, err);
    if (rc == VD_OK)
        rc = vd_backup_replace(into, VD_BACKUP_RESTORED, vd_buf_slice(&text), false, err);
    if (rc == VD_OK && unlinkat(dir, VD_BACKUP_RESTORING, 0) != 0)
        rc = vd_error_set_errno(err, "ending the restore in %s", into);
    if (rc == VD_OK)
        rc = vd_backup_sync_folder(into, err);
    if (dir >= 0)
        (void)close(dir);
    vd_backup_manifest_done(&manifest);
    vd_buf_done(&text);
    return rc;
}
