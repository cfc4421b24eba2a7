/* libcommon/runtime/misbehave.c — see misbehave.h. */
#include "libcommon/runtime/misbehave.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/runtime/files.h"
#include "libcommon/runtime/link.h"
#include "proto/failure.h"
#include "proto/keys.h"
#include "proto/operation.h"

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

#define LINK_WAIT_MS 3000

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

/* ---- a message that the link doesn't carry ---- */

typedef struct {
    int code; /* VD_OK: no answer yet */
    bool answered;
} answer_t;

static void answer_item(void *context, uint64_t peer, vd_slice_t item)
{
    answer_t *answer = context;
    vdp_envelope_t envelope;
    vdp_failure_t failure = {0};
    vd_slice_t rest;
    vd_error_t why = VD_ERROR_INIT;
    (void)peer; /* there is one */
    if (vdp_decode_envelope(item, &envelope, &rest, NULL) != VD_OK || envelope.request_id != 77)
        return; /* what storage tells by itself */
    answer->answered = true;
    if (envelope.id == VDP_FAILURE && vdp_decode(&vdp_failure, rest, &failure, NULL, NULL) == VD_OK)
        answer->code = vdp_failure_to(&failure, &why);
}

/* Refused: -1 and EPERM. */
static long send_on(const char *path, const vdp_message_t *message, const void *fields)
{
    answer_t answer = {0};
    vd_loop_t *loop = NULL;
    vd_link_t *link = NULL;
    vd_buf_t item;
    vd_link_options_t options = {.path = path, .item = answer_item, .context = &answer};
    vdp_envelope_t envelope = {.id = message->id, .request_id = 77};
    uint64_t until = vd_monotonic_ms() + LINK_WAIT_MS;
    vd_buf_init(&item, 64 * 1024);
    int rc = vd_loop_create(&loop, NULL);
    if (rc == VD_OK)
        rc = vd_link_open(loop, &options, &link, NULL);
    while (rc == VD_OK && !vd_link_peer_up(link, 0) && vd_monotonic_ms() < until)
        rc = vd_loop_turn(loop, 10, NULL);
    if (rc == VD_OK)
        rc = vdp_encode(&item, &envelope, message, fields, VD_SLICE_NULL, NULL);
    if (rc == VD_OK)
        rc = vd_link_send(link, 0, vd_buf_slice(&item), VD_SLICE_NULL, NULL);
    while (rc == VD_OK && !answer.answered && vd_monotonic_ms() < until)
        rc = vd_loop_turn(loop, 10, NULL);
    vd_link_close(&link);
    vd_loop_destroy(&loop);
    vd_buf_done(&item);
    errno = answer.code == VD_ERR_PROTOCOL ? EPERM : EIO;
    return rc == VD_OK && answer.answered && answer.code == VD_OK ? 0 : -1;
}

static long try_principal(const char *path)
{
    static const vdp_operation_command_t command = {
        .name = {(const uint8_t *)"ping", 4},
        .db = {(const uint8_t *)"admin", 5},
        .user = {(const uint8_t *)"admin@admin", 11},
        .txn_number = -1,
    };
    return send_on(path, &vdp_operation_command, &command);
}

static long try_key(const char *path)
{
    static const vdp_keys_open_t open_keys = {0};
    return send_on(path, &vdp_keys_open, &open_keys);
}

/* No misbehaviour by itself: a fault point is armed while the program runs. */
static long try_fault(const char *path)
{
    errno = EINVAL;
    return path != NULL && vd_fault_arm(path, NULL) == VD_OK ? 0 : -1;
}

static const struct {
    const char *name;
    long (*attempt)(const char *path);
} attempts[] = {
    {"exec", try_exec},   {"fork", try_fork},           {"ptrace", try_ptrace},
    {"tcp", try_tcp},     {"handler", try_handler},     {"unlisted", try_unlisted},
    {"open", try_open},   {"write", try_write},         {"connect", try_connect},
    {"file", try_file},   {"principal", try_principal}, {"key", try_key},
    {"fault", try_fault},
};

int vd_misbehave(vd_slice_t what, const char *path, char *message, size_t size)
{
    for (size_t i = 0; i < VD_COUNT_OF(attempts); i++) {
        if (!vd_slice_is(what, attempts[i].name))
            continue;
        bool done = attempts[i].attempt(path) >= 0;
        (void)snprintf(message, size, "%s: %s", attempts[i].name, done ? "done" : strerror(errno));
        return done ? VD_OK : VD_ERR_UNAUTHORIZED;
    }
    (void)snprintf(message, size, "no such misbehaviour");
    return VD_ERR_BAD_VALUE;
}
