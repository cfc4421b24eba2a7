/* libcommon/runtime/files.c — see files.h. A question is 'o' (open), 'a' (adopt) or 'k' (run) and a
 * path, an answer an errno and, when that is 0 and a file was asked for, a descriptor (SCM_RIGHTS).
 */
#include "libcommon/runtime/files.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static pthread_mutex_t asking = PTHREAD_MUTEX_INITIALIZER;
static int door = -1;

void vd_files_setup(int fd)
{
    door = fd;
}

/* The descriptor that came with an answer, or -1 with errno (0: done, and no descriptor). */
static int answer_take(int fd)
{
    int why = EIO, file = -1;
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {&why, sizeof why};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.room,
                             .msg_controllen = sizeof control.room};
    ssize_t len;
    do
        len = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    while (len < 0 && errno == EINTR);
    struct cmsghdr *header = len == sizeof why ? CMSG_FIRSTHDR(&message) : NULL;
    if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof file))
        memcpy(&file, CMSG_DATA(header), sizeof file);
    if (file < 0)
        errno = len == sizeof why ? why : EIO;
    return file;
}

static int ask(char kind, const char *path)
{
    size_t len = strlen(path);
    if (len >= VD_FILES_PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    struct iovec parts[] = {{&kind, 1}, {(void *)(uintptr_t)path, len}}; /* only read */
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = VD_COUNT_OF(parts)};
    (void)pthread_mutex_lock(&asking);
    ssize_t sent;
    do
        sent = sendmsg(door, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    int file = sent == (ssize_t)len + 1 ? answer_take(door) : -1;
    int why = errno;
    (void)pthread_mutex_unlock(&asking);
    errno = why;
    return file;
}

int vd_files_open(const char *path)
{
    VD_ASSERT(path != NULL);

    if (door < 0)
        return open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    int file = ask('o', path);
    if (file < 0 && errno == 0)
        errno = EIO; /* done, but where is it? */
    return file;
}

bool vd_files_can_run(void)
{
    return door >= 0;
}

int vd_files_run(bool next)
{
    if (door < 0) {
        errno = ENOSYS;
        return -1;
    }
    int file = ask('k', next ? "next" : "present");
    if (file < 0 && errno == 0)
        errno = EIO; /* done, but where is it? */
    return file;
}

int vd_files_adopt(const char *path)
{
    VD_ASSERT(path != NULL);

    if (door < 0)
        return vd_files_replace(path);
    int file = ask('a', path);
    if (file >= 0)
        (void)close(file); /* nobody asked for one */
    return file < 0 && errno == 0 ? 0 : -1;
}

int vd_files_replace(const char *path)
{
    char next[VD_FILES_PATH_MAX + sizeof VD_FILES_NEXT], folder[VD_FILES_PATH_MAX];
    VD_ASSERT(path != NULL && strlen(path) < VD_FILES_PATH_MAX);

    (void)snprintf(next, sizeof next, "%s%s", path, VD_FILES_NEXT);
    (void)snprintf(folder, sizeof folder, "%s", path);
    if (rename(next, path) != 0)
        return -1;
    int fd = open(dirname(folder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd), why = errno;
    if (fd >= 0)
        (void)close(fd); /* synced, or not */
    errno = why;
    return rc;
}

int vd_files_read(const char *path, vd_buf_t *out, vd_error_t *err)
{
    VD_ASSERT(path != NULL && out != NULL);

    int fd = vd_files_open(path), rc = VD_OK;
    if (fd < 0)
        return vd_error_set_errno(err, "%s", path);
    for (;;) {
        uint8_t *space;
        rc = vd_buf_reserve(out, 4096, &space);
        if (rc != VD_OK) {
            rc = vd_error_set(err, VD_ERR_CONFIG, "%s is too large", path);
            break;
        }
        ssize_t n = read(fd, space, 4096);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = vd_error_set_errno(err, "%s", path);
        if (n <= 0)
            break;
        vd_buf_commit(out, (size_t)n);
    }
    (void)close(fd); /* only read from */
    return rc;
}

bool vd_files_take(int fd, char *ret_path, vd_files_kind_t *ret_kind, bool *ret_gone)
{
    VD_ASSERT(ret_path != NULL && ret_kind != NULL && ret_gone != NULL);

    char kind = 0;
    struct iovec parts[] = {{&kind, 1}, {ret_path, VD_FILES_PATH_MAX - 1}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = VD_COUNT_OF(parts)};
    ssize_t len = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    *ret_gone = len == 0 || (len < 0 && errno != EAGAIN && errno != EINTR);
    if (len <= 0)
        return false;
    ret_path[len - 1] = '\0';
    *ret_kind = kind == 'o'   ? VD_FILES_OPEN
                : kind == 'a' ? VD_FILES_ADOPT
                : kind == 'k' ? VD_FILES_RUN
                              : VD_FILES_NONE;
    return true;
}

void vd_files_answer(int fd, int file, int why)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    struct iovec part = {&why, sizeof why};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (file >= 0) {
        why = 0;
        message.msg_control = control.room;
        message.msg_controllen = sizeof control.room;
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof file);
        memcpy(CMSG_DATA(&control.header), &file, sizeof file);
    }
    (void)sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL); /* it has gone: nobody waits */
}
