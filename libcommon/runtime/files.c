/* libcommon/runtime/files.c — see files.h. A question is a path, an answer an errno and, when that
 * is 0, a descriptor (SCM_RIGHTS). */
#include "libcommon/runtime/files.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static pthread_mutex_t asking = PTHREAD_MUTEX_INITIALIZER;
static int door = -1;

void vd_files_setup(int fd)
{
    door = fd;
}

/* The descriptor that came with an answer, or -1 with errno. */
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
        errno = len == sizeof why && why != 0 ? why : EIO;
    return file;
}

int vd_files_open(const char *path)
{
    VD_ASSERT(path != NULL);

    if (door < 0)
        return open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    size_t len = strlen(path);
    if (len >= VD_FILES_PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    (void)pthread_mutex_lock(&asking);
    ssize_t sent;
    do
        sent = send(door, path, len, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    int file = sent == (ssize_t)len ? answer_take(door) : -1;
    int why = errno;
    (void)pthread_mutex_unlock(&asking);
    errno = why;
    return file;
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

bool vd_files_take(int fd, char *ret_path, bool *ret_gone)
{
    VD_ASSERT(ret_path != NULL && ret_gone != NULL);

    ssize_t len = recv(fd, ret_path, VD_FILES_PATH_MAX - 1, MSG_DONTWAIT);
    *ret_gone = len == 0 || (len < 0 && errno != EAGAIN && errno != EINTR);
    if (len <= 0)
        return false;
    ret_path[len] = '\0';
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
