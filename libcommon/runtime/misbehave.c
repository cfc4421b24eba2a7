/* libcommon/runtime/misbehave.c — see misbehave.h. */
#include "libcommon/runtime/misbehave.h"

#include "libcommon/runtime/files.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static long try_exec(const char *path)
{
    static char *const argv[] = {(char *)(uintptr_t) "true", NULL};
    (void)path; /* none is needed */
    return execve("/bin/true", argv, argv + 1);
}

static long try_fork(const char *path)
{
    (void)path; /* none is needed */
    long pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
    if (pid == 0)
        _exit(0);
    return pid;
}

static long try_ptrace(const char *path)
{
    (void)path; /* none is needed */
    return syscall(SYS_ptrace, 16, getppid(), 0, 0);
}

static long try_tcp(const char *path)
{
    (void)path; /* none is needed */
    return socket(AF_INET, SOCK_STREAM, 0);
}

static long try_handler(const char *path)
{
    (void)path; /* none is needed */
    return signal(SIGSYS, SIG_IGN) == SIG_ERR ? -1 : 0;
}

static long try_unlisted(const char *path)
{
    (void)path; /* none is needed */
    return syscall(SYS_getpgid, 0);
}

static long try_open(const char *path)
{
    return open(path, O_RDONLY | O_CLOEXEC);
}

static long try_write(const char *path)
{
    return open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
}

static long try_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    return fd < 0 ? -1 : connect(fd, (struct sockaddr *)&address, sizeof address);
}

static long try_file(const char *path)
{
    return vd_files_open(path);
}

static const struct {
    const char *name;
    long (*attempt)(const char *path);
} attempts[] = {
    {"exec", try_exec},       {"fork", try_fork},         {"ptrace", try_ptrace},
    {"tcp", try_tcp},         {"handler", try_handler},   {"unlisted", try_unlisted},
    {"open", try_open},       {"write", try_write},       {"connect", try_connect},
    {"file", try_file},
};

int vd_misbehave(vd_slice_t what, vd_slice_t path, char *message, size_t size)
{
    char text[512];
    (void)snprintf(text, sizeof text, "%.*s", VD_SLICE_FMT(path));
    for (size_t i = 0; i < VD_COUNT_OF(attempts); i++) {
        if (!vd_slice_is(what, attempts[i].name))
            continue;
        bool done = attempts[i].attempt(text) >= 0;
        (void)snprintf(message, size, "%s: %s", attempts[i].name, done ? "done" : strerror(errno));
        return done ? VD_OK : VD_ERR_UNAUTHORIZED;
    }
    (void)snprintf(message, size, "no such misbehaviour");
    return VD_ERR_BAD_VALUE;
}
