/* veddb-storaged/backup/make.c — see make.h. */
#include "veddb-storaged/backup/make.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/engine/backup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOTE_MAX_BYTES (64 * 1024)

int stor_make_remove(const char *folder, const char *name, vd_error_t *err)
{
    char path[PATH_MAX];
    int rc = VD_OK;
    (void)snprintf(path, sizeof path, "%.3900s/%s", folder, name);
    DIR *dir = opendir(path);
    if (dir == NULL)
        return errno == ENOENT ? VD_OK : vd_error_set_errno(err, "%s", path);
    /* The manifest first: what is left of a crash in here is no backup. */
    if (unlinkat(dirfd(dir), VD_BACKUP_MANIFEST, 0) != 0 && errno != ENOENT)
        rc = vd_error_set_errno(err, "removing %s/" VD_BACKUP_MANIFEST, path);
    for (struct dirent *entry; rc == VD_OK && (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            unlinkat(dirfd(dir), entry->d_name, 0) != 0 && errno != ENOENT)
            rc = vd_error_set_errno(err, "removing %s/%s", path, entry->d_name);
    (void)closedir(dir); /* was only read */
    if (rc == VD_OK && rmdir(path) != 0)
        rc = vd_error_set_errno(err, "removing %s", path);
    return rc == VD_OK ? vd_backup_sync_folder(folder, err) : rc;
}

typedef struct {
    stor_storage_t *storage;
    const stor_make_t *what;
    stor_engine_backup_t *engine;
    vd_backup_manifest_t manifest;
    char folder[PATH_MAX - 300]; /* the partial one */
} work_t;

static int source_open(const work_t *work, const char *name, uint64_t *ret_bytes, vd_error_t *err)
{
    char path[PATH_MAX];
    struct stat st;
    (void)snprintf(path, sizeof path, "%.3800s/%.200s", work->what->data_folder, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) != 0) {
        (void)vd_error_set_errno(err, "%s", path);
        if (fd >= 0)
            (void)close(fd); /* useless */
        return -1;
    }
    *ret_bytes = (uint64_t)st.st_size;
    return fd;
}

static int file_add(work_t *work, const char *name, vd_error_t *err)
{
    char to[PATH_MAX];
    vd_backup_file_t file = {0};
    uint64_t bytes = 0;
    int fd = source_open(work, name, &bytes, err);
    if (fd < 0)
        return VD_ERR_IO;
    (void)snprintf(to, sizeof to, "%s/%.200s", work->folder, name);
    (void)snprintf(file.name, sizeof file.name, "%.*s", VD_BACKUP_FILE_NAME_MAX, name);
    int rc = vd_backup_copy(fd, bytes, to, &file, work->what->paced, work->what->context, err);
    (void)close(fd); /* was only read */
    return rc == VD_OK ? vd_backup_file_add(&work->manifest, &file, err) : rc;
}

/* A file of a few bytes. */
static int note_add(work_t *work, const char *name, vd_slice_t bytes, vd_error_t *err)
{
    vd_backup_file_t file = {.bytes = bytes.len};
    (void)snprintf(file.name, sizeof file.name, "%s", name);
    (void)SHA256(bytes.data, bytes.len, file.sum);
    int rc = vd_backup_replace(work->folder, name, bytes, false, err);
    return rc == VD_OK ? vd_backup_file_add(&work->manifest, &file, err) : rc;
}

static void total_tell(const work_t *work)
{
    uint64_t sum = 0, bytes = 0;
    for (size_t i = 0; i < stor_engine_backup_count(work->engine); i++) {
        int fd = source_open(work, stor_engine_backup_name(work->engine, i), &bytes, NULL);
        if (fd < 0)
            continue; /* found out when it is copied */
        sum += bytes;
        (void)close(fd); /* was only looked at */
    }
    work->what->total(sum, work->what->context);
}

/* The log last, when the tables have given it the time to be whole. */
static int engine_copy(work_t *work, vd_error_t *err)
{
    bool synced = false;
    int rc = VD_FAULT("backup.copying", err);
    for (size_t i = 0; rc == VD_OK && i < stor_engine_backup_count(work->engine); i++) {
        const char *name = stor_engine_backup_name(work->engine, i);
        if (stor_engine_backup_is_log(name) && !synced) {
            synced = true;
            rc = stor_engine_backup_log(work->engine, err);
        }
        if (rc == VD_OK)
            rc = file_add(work, name, err);
    }
    return rc;
}

static int notes_copy(work_t *work, vd_error_t *err)
{
    vd_backup_manifest_t *manifest = &work->manifest;
    vd_buf_t note;
    vd_buf_init(&note, NOTE_MAX_BYTES);
    int rc = stor_engine_backup_keys(work->engine, work->what->proven, &note, manifest->versions,
                                     &manifest->version_count, err);
    if (rc == VD_OK)
        rc = note_add(work, "VedDB.keys", vd_buf_slice(&note), err);
    vd_buf_clear(&note);
    if (rc == VD_OK)
        rc = stor_engine_backup_log_note(work->engine, &note);
    if (rc == VD_OK)
        rc = note_add(work, "VedDB.log", vd_buf_slice(&note), err);
    if (rc == VD_OK)
        rc = file_add(work, "VedDB.format", err);
    vd_buf_done(&note);
    manifest->keyring = work->what->keyring.len > 0;
    if (rc == VD_OK && manifest->keyring)
        rc = vd_backup_replace(work->folder, VD_BACKUP_KEYRING, work->what->keyring, false, err);
    return rc;
}

static int manifest_write(work_t *work, vd_error_t *err)
{
    uint8_t sum[SHA256_DIGEST_LENGTH], sealed[SHA256_DIGEST_LENGTH + STOR_BLOCK_OVERHEAD_BYTES];
    size_t len = 0;
    vd_buf_t text;
    vd_buf_init(&text, VD_BACKUP_MANIFEST_BYTES);
    int rc = VD_FAULT("backup.before_manifest", err);
    if (rc == VD_OK)
        rc = vd_backup_manifest_print(&work->manifest, &text);
    vd_slice_t all = vd_buf_slice(&text);
    if (rc == VD_OK) {
        (void)SHA256(all.data, all.len, sum);
        rc = stor_keys_seal(work->storage->keys, vd_slice(sum, sizeof sum), sealed, &len, err);
    }
    if (rc == VD_OK)
        rc = vd_backup_replace(work->folder, VD_BACKUP_SEAL, vd_slice(sealed, len), false, err);
    if (rc == VD_OK)
        rc = vd_backup_replace(work->folder, VD_BACKUP_MANIFEST, all, false, err);
    vd_buf_done(&text);
    return rc;
}

static int name_give(const work_t *work, vd_error_t *err)
{
    char path[PATH_MAX];
    int rc = VD_FAULT("backup.before_name", err);
    (void)snprintf(path, sizeof path, "%.3900s/%s", work->what->folder, work->what->name);
    if (rc == VD_OK && rename(work->folder, path) != 0)
        rc = vd_error_set_errno(err, "naming %s", path);
    return rc == VD_OK ? vd_backup_sync_folder(work->what->folder, err) : rc;
}

int stor_make_backup(stor_storage_t *storage, const stor_make_t *what,
                     vd_backup_manifest_t *ret_manifest, vd_error_t *err)
{
    char partial[VD_BACKUP_NAME_MAX + sizeof VD_BACKUP_PARTIAL];
    work_t work = {.storage = storage, .what = what};
    (void)snprintf(partial, sizeof partial, "%s" VD_BACKUP_PARTIAL, what->name);
    if (snprintf(work.folder, sizeof work.folder, "%s/%s", what->folder, partial) >=
        (int)sizeof work.folder)
        return vd_error_set(err, VD_ERR_CONFIG, "%s is too long", what->folder);
    (void)snprintf(work.manifest.node, sizeof work.manifest.node, "%.63s", what->node);
    if (mkdir(work.folder, 0700) != 0)
        return vd_error_set_errno(err, "can't make %s", work.folder);
    work.manifest.made_ms = vd_wall_ms();
    work.manifest.position = stor_engine_durable(storage->engine);
    int rc = stor_engine_backup_open(storage->engine, &work.engine, err);
    if (rc == VD_OK) {
        total_tell(&work);
        rc = engine_copy(&work, err);
    }
    if (rc == VD_OK)
        rc = notes_copy(&work, err);
    stor_engine_backup_close(&work.engine);
    if (rc == VD_OK)
        rc = manifest_write(&work, err);
    if (rc == VD_OK)
        rc = name_give(&work, err);
    if (rc == VD_OK) {
        *ret_manifest = work.manifest;
        return VD_OK;
    }
    vd_backup_manifest_done(&work.manifest);
    if (stor_make_remove(what->folder, partial, NULL) != VD_OK)
        vd_log(VD_LOG_WARN, "what is left of a backup is removed at the next start", "name=%s",
               partial);
    return rc;
}
