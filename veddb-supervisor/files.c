/* veddb-supervisor/files.c — see files.h. */
#include "veddb-supervisor/files.h"

#include "libcommon/base/log.h"
#include "libcommon/runtime/files.h"
#include "proto/versions.h"
#include "veddb-supervisor/kek.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_or_is_next(const char *path, const char *name)
{
    size_t len = strlen(name);
    return len > 0 && strncmp(path, name, len) == 0 &&
           (path[len] == '\0' || strcmp(path + len, VD_FILES_NEXT) == 0);
}

/* The key-encryption key that follows the present one, and the credentials of the service manager,
 * which no option names by path. */
static bool names_kek(const vd_config_t *config, const char *path)
{
    char credential[VD_FILES_PATH_MAX];
    const char *folder = getenv("CREDENTIALS_DIRECTORY"),
               *name = vd_config_string(config, "keys.kek_credential");
    if (is_or_is_next(path, vd_config_string(config, "keys.kek_file")))
        return true;
    if (folder == NULL || *name == '\0' || strchr(name, '/') != NULL ||
        snprintf(credential, sizeof credential, "%s/%s", folder, name) >= (int)sizeof credential)
        return false;
    return is_or_is_next(path, credential);
}

static bool may_adopt(const vd_config_t *config, char letter, const char *path)
{
    return letter == 'r' && strcmp(vd_config_string(config, "keys.kek_file"), path) == 0;
}

/* Storage's table of versions (proto/versions.md), which the gateway maps. */
static bool is_versions(const vd_config_t *config, const char *path)
{
    char versions[VD_FILES_PATH_MAX];
    (void)snprintf(versions, sizeof versions, "%s/storage-gateway/" VDP_VERSIONS_FILE,
                   vd_config_string(config, "node.run_folder"));
    return strcmp(versions, path) == 0;
}

bool sup_files_may(const vd_config_t *config, char letter, const char *path)
{
    static const char ending[] = "_file";
    for (size_t i = 0; i < vd_option_count; i++) {
        const vd_option_t *option = &vd_options[i];
        size_t len = strlen(option->name);
        if (option->type == VD_OPTION_PATH && strchr(option->programs, letter) != NULL &&
            len > sizeof ending && strcmp(option->name + len - (sizeof ending - 1), ending) == 0 &&
            strcmp(vd_config_string(config, option->name), path) == 0)
            return true;
    }
    return (letter == 'r' && names_kek(config, path)) ||
           (letter == 'g' && is_versions(config, path));
}

/* Regular files only: nothing else is worth waiting for. In a folder that a worker writes to, no
 * link is followed, and the file must be that worker's. */
static int file_open(const char *path, bool worker_owned)
{
    struct stat st, folder;
    char above[VD_FILES_PATH_MAX];
    int fd =
        open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (worker_owned ? O_NOFOLLOW : 0));
    (void)snprintf(above, sizeof above, "%s", path);
    if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
                    (worker_owned && (stat(dirname(above), &folder) != 0 ||
                                      folder.st_uid != st.st_uid || st.st_nlink != 1)))) {
        (void)close(fd); /* not wanted */
        errno = EINVAL;
        return -1;
    }
    return fd;
}

static void asked(void *context, int fd, unsigned events)
{
    sup_worker_t *worker = context;
    char path[VD_FILES_PATH_MAX];
    const vd_config_t *config = worker->system->config;
    char letter = worker->kind->letter;
    bool gone = false;
    vd_files_kind_t kind = VD_FILES_NONE;
    (void)events; /* reading tells */
    if (!vd_files_take(fd, path, &kind, &gone)) {
        if (gone)
            sup_files_close(worker);
        return;
    }
    bool may = kind == VD_FILES_OPEN    ? sup_files_may(config, letter, path)
               : kind == VD_FILES_ADOPT ? may_adopt(config, letter, path)
                                        : kind == VD_FILES_RUN && sup_kek_may(config, letter, path);
    if (!may) {
        char quoted[300];
        vd_log(VD_LOG_ERROR, "a worker asked for a file that is not its own: it is killed",
               "worker=%s file=%s", worker->kind->name,
               vd_log_quote(vd_slice_str(path), quoted, sizeof quoted));
        vd_files_answer(fd, -1, EACCES);
        if (worker->child != NULL)
            (void)!vd_loop_child_signal(worker->child, SIGKILL, NULL); /* gone: as well */
        return;
    }
    if (kind == VD_FILES_RUN) {
        int read_end = sup_kek_run(worker, strcmp(path, "next") == 0);
        vd_files_answer(fd, read_end, errno);
        if (read_end >= 0)
            (void)close(read_end); /* the worker has its own */
        return;
    }
    if (kind == VD_FILES_ADOPT) {
        vd_files_answer(fd, -1, vd_files_replace(path) == 0 ? 0 : errno);
        return;
    }
    int file = file_open(path, is_versions(config, path));
    vd_files_answer(fd, file, errno);
    if (file >= 0)
        (void)close(file); /* the worker has its own */
}

int sup_files_open(sup_worker_t *worker, int *ret_theirs, vd_error_t *err)
{
    int pair[2];
    sup_files_close(worker);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return vd_error_set_errno(err, "can't make a pair of sockets");
    int rc = vd_loop_add_fd(worker->system->loop, pair[0], VD_LOOP_READ, asked, worker,
                            &worker->files_source, err);
    if (rc != VD_OK) {
        (void)close(pair[0]); /* nobody will ask */
        (void)close(pair[1]);
        return rc;
    }
    worker->files_fd = pair[0];
    *ret_theirs = pair[1];
    return VD_OK;
}

void sup_files_close(sup_worker_t *worker)
{
    if (worker->files_source == NULL)
        return;
    vd_loop_remove(&worker->files_source);
    (void)close(worker->files_fd);
    worker->files_fd = -1;
}
