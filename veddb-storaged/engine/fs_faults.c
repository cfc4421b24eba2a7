/* veddb-storaged/engine/fs_faults.c — see the header.
 *
 * The disk holds what is synced; a file's present content is in memory, with the list of operations
 * since its last sync. Changes of the folder are done at once, but what they overwrite or remove is
 * kept aside ("<folder>.undo") until they are durable, so that a power loss can take a tail of them
 * back. Seeds that are odd know POSIX alone: syncing a file makes its name durable only when the
 * folder is synced too. Even ones behave like a journaling file system: any sync makes all earlier
 * changes of the folder durable. */
#include "veddb-storaged/engine/fs_faults.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wiredtiger.h>
#include <wiredtiger_ext.h>

#define SECTOR_BYTES 512

int stor_fs_faults_entry(WT_CONNECTION *conn, WT_CONFIG_ARG *config);

typedef struct file_op {
    struct file_op *next;
    bool truncate; /* to offset; else a write of data */
    uint64_t offset, len;
    uint8_t data[];
} file_op_t;

typedef struct file {
    struct file *next;
    char *path; /* NULL once removed or overwritten by a rename */
    int fd;
    int refs;
    uint8_t *data;
    uint64_t size, cap;
    file_op_t *ops, **ops_end;
} file_t;

typedef struct dir_op {
    struct dir_op *next; /* newest first */
    enum { DIR_CREATE, DIR_RENAME, DIR_REMOVE } kind;
    char *from, *to, *aside; /* aside: where the old content of `to` (or `from`, removed) is kept;
                                NULL = nothing */
} dir_op_t;

typedef struct {
    WT_FILE_HANDLE iface; /* first */
    file_t *file;         /* NULL for the folder */
} handle_t;

static struct {
    pthread_mutex_t lock;
    char *aside_folder;
    vd_rand_t rand;
    bool strict; /* POSIX alone */
    uint64_t writes, syncs, after_writes, after_syncs, aside_count;
    file_t *files;
    dir_op_t *dir_ops;
} fs = {.lock = PTHREAD_MUTEX_INITIALIZER};

static char *joined(const char *folder, const char *name)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return vd_xstrdup(path);
}

/* ---- files ---- */

static void ops_drop(file_t *file)
{
    while (file->ops != NULL) {
        file_op_t *next = file->ops->next;
        vd_free(file->ops);
        file->ops = next;
    }
    file->ops_end = &file->ops;
}

static void file_free(file_t *file)
{
    for (file_t **p = &fs.files; *p != NULL; p = &(*p)->next)
        if (*p == file) {
            *p = file->next;
            break;
        }
    ops_drop(file);
    (void)close(file->fd); /* what was synced was written before */
    free(file->data);
    vd_free(file->path);
    vd_free(file);
}

static file_t *file_find(const char *path)
{
    for (file_t *file = fs.files; file != NULL; file = file->next)
        if (file->path != NULL && strcmp(file->path, path) == 0)
            return file;
    return NULL;
}

static int file_resize(file_t *file, uint64_t size)
{
    if (size > file->cap) {
        uint64_t cap = size + size / 2 + 4096;
        uint8_t *data = realloc(file->data, cap);
        if (data == NULL)
            return ENOMEM;
        file->data = data;
        file->cap = cap;
    }
    if (size > file->size)
        memset(file->data + file->size, 0, size - file->size);
    file->size = size;
    return 0;
}

static file_t *file_load(const char *path, int fd)
{
    struct stat st;
    file_t *file = vd_xalloc(sizeof *file);
    file->fd = fd;
    file->path = vd_xstrdup(path);
    file->ops_end = &file->ops;
    VD_ASSERT(fstat(fd, &st) == 0);
    VD_ASSERT(file_resize(file, (uint64_t)st.st_size) == 0);
    for (uint64_t at = 0; at < file->size;) {
        ssize_t n = pread(fd, file->data + at, file->size - at, (off_t)at);
        VD_ASSERT(n > 0);
        at += (uint64_t)n;
    }
    file->next = fs.files;
    fs.files = file;
    return file;
}

/* The path is no longer this file's. */
static void file_detach(file_t *file)
{
    vd_free(file->path);
    file->path = NULL;
    ops_drop(file);
    if (file->refs == 0)
        file_free(file);
}

static void op_add(file_t *file, bool truncate, uint64_t offset, const void *data, uint64_t len)
{
    file_op_t *op = vd_xalloc(sizeof *op + len);
    op->truncate = truncate;
    op->offset = offset;
    op->len = len;
    if (len > 0)
        memcpy(op->data, data, len);
    *file->ops_end = op;
    file->ops_end = &op->next;
}

static void bytes_put(int fd, const uint8_t *data, uint64_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);
        VD_ASSERT(n > 0);
        data += n, len -= (uint64_t)n, offset += (uint64_t)n;
    }
}

static void op_apply(const file_t *file, const file_op_t *op)
{
    if (op->truncate)
        VD_ASSERT(ftruncate(file->fd, (off_t)op->offset) == 0);
    else
        bytes_put(file->fd, op->data, op->len, op->offset);
}

/* Each sector of the write by itself. */
static void op_apply_torn(const file_t *file, const file_op_t *op)
{
    for (uint64_t at = 0; at < op->len;) {
        uint64_t end = (op->offset + at) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES - op->offset;
        if (end > op->len)
            end = op->len;
        if (vd_rand_below(&fs.rand, 2) == 0)
            bytes_put(file->fd, op->data + at, end - at, op->offset + at);
        at = end;
    }
}

/* ---- the folder ---- */

static void dir_op_free(dir_op_t *op)
{
    vd_free(op->from);
    vd_free(op->to);
    vd_free(op->aside);
    vd_free(op);
}

static void dir_op_add(int kind, const char *from, const char *to, char *aside)
{
    dir_op_t *op = vd_xalloc(sizeof *op);
    op->kind = kind;
    op->from = vd_xstrdup(from);
    op->to = to == NULL ? NULL : vd_xstrdup(to);
    op->aside = aside;
    op->next = fs.dir_ops;
    fs.dir_ops = op;
}

static void dir_ops_commit(void)
{
    while (fs.dir_ops != NULL) {
        dir_op_t *op = fs.dir_ops;
        fs.dir_ops = op->next;
        if (op->aside != NULL)
            (void)unlink(op->aside); /* only room on the disk is at stake */
        dir_op_free(op);
    }
}

static void dir_op_undo(const dir_op_t *op)
{
    switch (op->kind) {
    case DIR_CREATE:
        VD_ASSERT(unlink(op->from) == 0);
        break;
    case DIR_RENAME:
        VD_ASSERT(rename(op->to, op->from) == 0);
        if (op->aside != NULL)
            VD_ASSERT(rename(op->aside, op->to) == 0);
        break;
    case DIR_REMOVE:
        VD_ASSERT(rename(op->aside, op->from) == 0);
        break;
    }
}

/* Moves what stands at path out of the way; NULL when nothing does. */
static char *put_aside(const char *path)
{
    char name[32];
    (void)snprintf(name, sizeof name, "%" PRIu64, fs.aside_count++);
    char *aside = joined(fs.aside_folder, name);
    if (rename(path, aside) == 0)
        return aside;
    VD_ASSERT(errno == ENOENT);
    vd_free(aside);
    return NULL;
}

/* ---- power loss ---- */

static void file_lose(const file_t *file)
{
    /* How much of this file's unsynced operations arrived: none, all, or each by chance, some torn.
     */
    uint64_t mode = vd_rand_below(&fs.rand, 4);
    for (const file_op_t *op = file->ops; op != NULL && mode != 0; op = op->next) {
        uint64_t chance = mode == 1 ? 0 : vd_rand_below(&fs.rand, 3);
        if (chance == 0)
            op_apply(file, op);
        else if (chance == 1 && !op->truncate)
            op_apply_torn(file, op);
    }
}

static _Noreturn void power_loss_locked(void)
{
    for (file_t *file = fs.files; file != NULL; file = file->next)
        if (file->path != NULL)
            file_lose(file);
    uint64_t count = 0;
    for (dir_op_t *op = fs.dir_ops; op != NULL; op = op->next)
        count++;
    uint64_t undone = count == 0 ? 0 : vd_rand_below(&fs.rand, count + 1);
    for (dir_op_t *op = fs.dir_ops; undone > 0; op = op->next, undone--)
        dir_op_undo(op);
    _exit(STOR_EXIT_POWER_LOSS);
}

_Noreturn void stor_fs_faults_power_loss(void)
{
    pthread_mutex_lock(&fs.lock);
    power_loss_locked();
}

/* ---- WT_FILE_HANDLE ---- */

static handle_t *handle_of(WT_FILE_HANDLE *iface)
{
    return (handle_t *)(void *)iface; /* the first member */
}

static int handle_close(WT_FILE_HANDLE *iface, WT_SESSION *session)
{
    (void)session;
    handle_t *handle = handle_of(iface);
    pthread_mutex_lock(&fs.lock);
    file_t *file = handle->file;
    if (file != NULL && --file->refs == 0 && (file->path == NULL || file->ops == NULL))
        file_free(file);
    pthread_mutex_unlock(&fs.lock);
    free(iface->name);
    free(handle);
    return 0;
}

static int handle_lock(WT_FILE_HANDLE *iface, WT_SESSION *session, bool lock)
{
    (void)iface;
    (void)session;
    (void)lock; /* the engine's guard has locked the folder */
    return 0;
}

static int handle_read(WT_FILE_HANDLE *iface, WT_SESSION *session, wt_off_t offset, size_t len,
                       void *buf)
{
    (void)session;
    file_t *file = handle_of(iface)->file;
    pthread_mutex_lock(&fs.lock);
    int ret = (uint64_t)offset + len > file->size ? EIO : 0;
    if (ret == 0)
        memcpy(buf, file->data + offset, len);
    pthread_mutex_unlock(&fs.lock);
    return ret;
}

static int handle_size(WT_FILE_HANDLE *iface, WT_SESSION *session, wt_off_t *sizep)
{
    (void)session;
    pthread_mutex_lock(&fs.lock);
    *sizep = (wt_off_t)handle_of(iface)->file->size;
    pthread_mutex_unlock(&fs.lock);
    return 0;
}

static int handle_sync(WT_FILE_HANDLE *iface, WT_SESSION *session)
{
    (void)session;
    file_t *file = handle_of(iface)->file;
    pthread_mutex_lock(&fs.lock);
    if (++fs.syncs == fs.after_syncs)
        power_loss_locked();
    if (file == NULL || !fs.strict)
        dir_ops_commit();
    if (file != NULL) {
        for (const file_op_t *op = file->ops; op != NULL; op = op->next)
            op_apply(file, op);
        ops_drop(file);
    }
    pthread_mutex_unlock(&fs.lock);
    return 0;
}

static int handle_truncate(WT_FILE_HANDLE *iface, WT_SESSION *session, wt_off_t offset)
{
    (void)session;
    file_t *file = handle_of(iface)->file;
    pthread_mutex_lock(&fs.lock);
    int ret = file_resize(file, (uint64_t)offset);
    if (ret == 0)
        op_add(file, true, (uint64_t)offset, NULL, 0);
    pthread_mutex_unlock(&fs.lock);
    return ret;
}

static int handle_write(WT_FILE_HANDLE *iface, WT_SESSION *session, wt_off_t offset, size_t len,
                        const void *buf)
{
    (void)session;
    file_t *file = handle_of(iface)->file;
    pthread_mutex_lock(&fs.lock);
    if (++fs.writes == fs.after_writes)
        power_loss_locked();
    uint64_t end = (uint64_t)offset + len;
    int ret = end > file->size ? file_resize(file, end) : 0;
    if (ret == 0) {
        memcpy(file->data + offset, buf, len);
        op_add(file, false, (uint64_t)offset, buf, len);
    }
    pthread_mutex_unlock(&fs.lock);
    return ret;
}

/* ---- WT_FILE_SYSTEM ---- */

static int file_open(const char *name, uint32_t flags, file_t **ret_file)
{
    file_t *file = file_find(name);
    if (file == NULL) {
        bool there = access(name, F_OK) == 0;
        if (there && (flags & WT_FS_OPEN_CREATE) && (flags & WT_FS_OPEN_EXCLUSIVE))
            return EEXIST;
        int fd = open(name, O_RDWR | O_CLOEXEC | (flags & WT_FS_OPEN_CREATE ? O_CREAT : 0), 0600);
        if (fd < 0)
            return errno;
        if (!there)
            dir_op_add(DIR_CREATE, name, NULL, NULL);
        file = file_load(name, fd);
    } else if ((flags & WT_FS_OPEN_CREATE) && (flags & WT_FS_OPEN_EXCLUSIVE)) {
        return EEXIST;
    }
    if (flags & WT_FS_OPEN_DURABLE)
        dir_ops_commit();
    file->refs++;
    *ret_file = file;
    return 0;
}

static int fs_open_file(WT_FILE_SYSTEM *file_system, WT_SESSION *session, const char *name,
                        WT_FS_OPEN_FILE_TYPE file_type, uint32_t flags,
                        WT_FILE_HANDLE **file_handlep)
{
    (void)session;
    file_t *file = NULL;
    int ret = 0;
    if (file_type != WT_FS_OPEN_FILE_TYPE_DIRECTORY) {
        pthread_mutex_lock(&fs.lock);
        ret = file_open(name, flags, &file);
        pthread_mutex_unlock(&fs.lock);
    }
    if (ret != 0)
        return ret;
    handle_t *handle = calloc(1, sizeof *handle);
    VD_ASSERT(handle != NULL);
    handle->file = file;
    handle->iface.file_system = file_system;
    handle->iface.name = strdup(name);
    handle->iface.close = handle_close;
    handle->iface.fh_lock = handle_lock;
    handle->iface.fh_sync = handle_sync;
    /* WiredTiger wants all of them for the folder's handle too, but only syncs it. */
    handle->iface.fh_read = handle_read;
    handle->iface.fh_size = handle_size;
    handle->iface.fh_truncate = handle_truncate;
    handle->iface.fh_write = handle_write;
    *file_handlep = &handle->iface;
    return 0;
}

static int list(const char *directory, const char *prefix, uint32_t max, char ***dirlist,
                uint32_t *countp)
{
    DIR *dir = opendir(directory);
    if (dir == NULL)
        return errno;
    char **names = NULL;
    uint32_t count = 0;
    size_t prefix_len = prefix == NULL ? 0 : strlen(prefix);
    for (struct dirent *entry; count < max && (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.' ||
            (prefix_len > 0 && strncmp(entry->d_name, prefix, prefix_len) != 0))
            continue;
        names = realloc(names, (count + 1) * sizeof *names);
        VD_ASSERT(names != NULL);
        names[count++] = strdup(entry->d_name);
    }
    (void)closedir(dir); /* was only read */
    *dirlist = names;
    *countp = count;
    return 0;
}

static int fs_directory_list(WT_FILE_SYSTEM *file_system, WT_SESSION *session,
                             const char *directory, const char *prefix, char ***dirlist,
                             uint32_t *countp)
{
    (void)file_system;
    (void)session;
    return list(directory, prefix, UINT32_MAX, dirlist, countp);
}

static int fs_directory_list_single(WT_FILE_SYSTEM *file_system, WT_SESSION *session,
                                    const char *directory, const char *prefix, char ***dirlist,
                                    uint32_t *countp)
{
    (void)file_system;
    (void)session;
    return list(directory, prefix, 1, dirlist, countp);
}

static int fs_directory_list_free(WT_FILE_SYSTEM *file_system, WT_SESSION *session, char **dirlist,
                                  uint32_t count)
{
    (void)file_system;
    (void)session;
    for (uint32_t i = 0; i < count; i++)
        free(dirlist[i]);
    free(dirlist);
    return 0;
}

static int fs_exist(WT_FILE_SYSTEM *file_system, WT_SESSION *session, const char *name,
                    bool *existp)
{
    (void)file_system;
    (void)session;
    *existp = access(name, F_OK) == 0;
    return 0;
}

static int fs_remove(WT_FILE_SYSTEM *file_system, WT_SESSION *session, const char *name,
                     uint32_t flags)
{
    (void)file_system;
    (void)session;
    pthread_mutex_lock(&fs.lock);
    char *aside = put_aside(name);
    int ret = aside == NULL ? ENOENT : 0;
    if (ret == 0) {
        file_t *file = file_find(name);
        if (file != NULL)
            file_detach(file);
        dir_op_add(DIR_REMOVE, name, NULL, aside);
        if (flags & WT_FS_DURABLE)
            dir_ops_commit();
    }
    pthread_mutex_unlock(&fs.lock);
    return ret;
}

static int fs_rename(WT_FILE_SYSTEM *file_system, WT_SESSION *session, const char *from,
                     const char *to, uint32_t flags)
{
    (void)file_system;
    (void)session;
    pthread_mutex_lock(&fs.lock);
    char *aside = put_aside(to);
    int ret = rename(from, to) == 0 ? 0 : errno;
    if (ret == 0) {
        file_t *old = file_find(to);
        if (old != NULL)
            file_detach(old);
        file_t *file = file_find(from);
        if (file != NULL) {
            vd_free(file->path);
            file->path = vd_xstrdup(to);
        }
        dir_op_add(DIR_RENAME, from, to, aside);
        if (flags & WT_FS_DURABLE)
            dir_ops_commit();
    } else if (aside != NULL) {
        VD_ASSERT(rename(aside, to) == 0);
        vd_free(aside);
    }
    pthread_mutex_unlock(&fs.lock);
    return ret;
}

static int fs_size(WT_FILE_SYSTEM *file_system, WT_SESSION *session, const char *name,
                   wt_off_t *sizep)
{
    (void)file_system;
    (void)session;
    struct stat st;
    int ret = 0;
    pthread_mutex_lock(&fs.lock);
    const file_t *file = file_find(name);
    if (file != NULL)
        *sizep = (wt_off_t)file->size;
    else if (stat(name, &st) == 0)
        *sizep = st.st_size;
    else
        ret = errno;
    pthread_mutex_unlock(&fs.lock);
    return ret;
}

/* The environment is closed in order: everything that was written counts. */
static int fs_terminate(WT_FILE_SYSTEM *file_system, WT_SESSION *session)
{
    (void)file_system;
    (void)session;
    pthread_mutex_lock(&fs.lock);
    while (fs.files != NULL) {
        for (const file_op_t *op = fs.files->ops; op != NULL && fs.files->path; op = op->next)
            op_apply(fs.files, op);
        file_free(fs.files);
    }
    dir_ops_commit();
    if (fs.aside_folder != NULL)
        (void)rmdir(fs.aside_folder); /* empty now */
    vd_free(fs.aside_folder);
    fs.aside_folder = NULL;
    pthread_mutex_unlock(&fs.lock);
    return 0;
}

static WT_FILE_SYSTEM losing_file_system = {
    .fs_directory_list = fs_directory_list,
    .fs_directory_list_single = fs_directory_list_single,
    .fs_directory_list_free = fs_directory_list_free,
    .fs_exist = fs_exist,
    .fs_open_file = fs_open_file,
    .fs_remove = fs_remove,
    .fs_rename = fs_rename,
    .fs_size = fs_size,
    .terminate = fs_terminate,
};

int stor_fs_faults_entry(WT_CONNECTION *conn, WT_CONFIG_ARG *config)
{
    (void)config;
    return conn->set_file_system(conn, &losing_file_system, NULL);
}

static int spec_parse(const char *spec, uint64_t *ret_seed, vd_error_t *err)
{
    char name[32];
    uint64_t value = 0;
    int used = 0;
    for (const char *p = spec; *p != '\0'; p += used, p += *p == ',') {
        if (sscanf(p, "%31[a-z_]=%" SCNu64 "%n", name, &value, &used) != 2)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "file-system faults: %s", p);
        if (strcmp(name, "seed") == 0)
            *ret_seed = value;
        else if (strcmp(name, "after_writes") == 0)
            fs.after_writes = value;
        else if (strcmp(name, "after_syncs") == 0)
            fs.after_syncs = value;
        else
            return vd_error_set(err, VD_ERR_BAD_VALUE, "file-system faults: no %s", name);
    }
    return VD_OK;
}

int stor_fs_faults_configure(const char *folder, const char *spec, vd_error_t *err)
{
    uint64_t seed = 0;
    char path[4096];
    fs.writes = fs.syncs = fs.after_writes = fs.after_syncs = fs.aside_count = 0;
    int rc = spec_parse(spec, &seed, err);
    if (rc != VD_OK)
        return rc;
    vd_rand_seed(&fs.rand, seed);
    fs.strict = seed % 2 == 1;
    (void)snprintf(path, sizeof path, "%s.undo", folder);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return vd_error_set_errno(err, "making %s", path);
    vd_free(fs.aside_folder);
    fs.aside_folder = vd_xstrdup(path);
    return VD_OK;
}
