/* tests/unit/runtime/test_sandbox.c — each in a child of its own: what is given up never comes
 * back. */
#include "libcommon/runtime/sandbox.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

TestSuite(sandbox, .timeout = 300);

/* Exit code, or 1000 + signal. */
static int in_child(int (*body)(void))
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(body());
    int status = 0;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int basic(void)
{
    struct rlimit core;
    if (vd_sandbox_basic(getppid(), NULL) != VD_OK)
        return 1;
    int signal_number = 0;
    if (prctl(PR_GET_PDEATHSIG, &signal_number) != 0 || signal_number != SIGKILL)
        return 2;
    if (getrlimit(RLIMIT_CORE, &core) != 0 || core.rlim_max != 0)
        return 3;
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
        return 4;
    if (!SANITIZED && prctl(PR_GET_DUMPABLE) != 0)
        return 5;
    return vd_sandbox_basic(1234567, NULL) == VD_ERR_CLOSED ? 0 : 6; /* not our parent */
}

Test(sandbox, basic)
{
    cr_assert_eq(in_child(basic), 0);
}

static int to_nobody(void)
{
    if (vd_sandbox_user("", NULL) != VD_OK || getuid() != 0)
        return 1;
    if (vd_sandbox_user("no-such-user-here", NULL) != VD_ERR_CONFIG)
        return 2;
    if (vd_sandbox_user("nobody", NULL) != VD_OK)
        return 3;
    uid_t real, effective, saved;
    if (getresuid(&real, &effective, &saved) != 0 || real == 0 || effective == 0 || saved == 0)
        return 4;
    return getgroups(0, NULL) == 0 ? 0 : 5;
}

Test(sandbox, user)
{
    if (geteuid() == 0)
        cr_assert_eq(in_child(to_nobody), 0);
}

static int load(bool network)
{
    const vd_calls_t calls = {
        .program = "unit_runtime", .letter = network ? 'g' : 'r', .network = network};
    return vd_sandbox_basic(0, NULL) == VD_OK && vd_sandbox_calls(&calls, NULL) == VD_OK ? 0 : 1;
}

static int sockets(bool network)
{
    if (load(network) != 0)
        return 1;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return 2;
    (void)close(fd);
    static const int inet[] = {AF_INET, AF_INET6};
    for (size_t i = 0; i < 2 && network; i++) {
        fd = socket(inet[i], SOCK_STREAM, 0);
        if (fd < 0 && errno != EAFNOSUPPORT)
            return 3;
        if (inet[i] == AF_INET && (fd >= 0) != network)
            return 4;
    }
    static const int never[] = {AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK, AF_IPX};
    for (size_t i = 0; i < VD_COUNT_OF(never); i++)
        if (socket(never[i], SOCK_RAW, 0) >= 0 || errno != EAFNOSUPPORT)
            return 5;
    return 0;
}

static int with_network(void)
{
    return sockets(true);
}
static int without_network(void)
{
    return sockets(false);
}

Test(sandbox, sockets_by_domain)
{
    if (SANITIZED)
        return; /* no filter is loaded then */
    cr_assert_eq(in_child(with_network), 0);
    cr_assert_eq(in_child(without_network), 0);
}

static int try_exec(void)
{
    static char *const argv[] = {(char *)(uintptr_t) "true", NULL};
    if (load(false) != 0)
        return 1;
    (void)execv("/bin/true", argv);
    return 2;
}
static int try_inet(void)
{
    return load(false) != 0 ? 1 : socket(AF_INET, SOCK_STREAM, 0) & 0;
}
static int try_inet6(void)
{
    return load(false) != 0 ? 1 : socket(AF_INET6, SOCK_DGRAM, 0) & 0;
}
static int try_fork(void)
{
    return load(true) != 0 ? 1 : (int)fork() & 0;
}
static int try_other_handler(void)
{
    return load(true) != 0 ? 1 : signal(SIGSYS, SIG_IGN) == SIG_ERR;
}
static int try_second_filter(void)
{
    return load(true) != 0 ? 1 : (int)prctl(PR_SET_SECCOMP, 2, NULL) & 0;
}
static int try_kill_another(void)
{
    pid_t parent = getppid();
    return load(true) != 0 ? 1 : kill(parent, 0) & 0;
}
static int try_unlisted(void)
{
    return load(true) != 0 ? 1 : (int)syscall(SYS_getpgid, 0) & 0;
}
static int try_ptrace(void)
{
    return load(false) != 0 ? 1 : (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL) & 0;
}
static int try_keyctl(void)
{
    return load(false) != 0 ? 1 : (int)syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, 0, 0) & 0;
}
static int try_unshare(void)
{
    return load(false) != 0 ? 1 : (int)syscall(SYS_unshare, 0) & 0;
}
static int try_io_uring(void)
{
    if (load(false) != 0)
        return 1;
    return syscall(SYS_io_uring_setup, 1, NULL) == -1 && errno == ENOSYS ? 0 : 2;
}

static void *ptrace_in_thread(void *context)
{
    (void)pause();
    return context;
}

static void in_signal(int signal_number)
{
    (void)signal_number;
    (void)syscall(SYS_unshare, 0);
}

/* The filter holds for threads that were there before it. */
static int thread_before(void)
{
    pthread_t thread;
    (void)signal(SIGUSR1, in_signal);
    if (pthread_create(&thread, NULL, ptrace_in_thread, NULL) != 0 || load(false) != 0)
        return 1;
    (void)pthread_kill(thread, SIGUSR1);
    (void)pthread_join(thread, NULL);
    return 2;
}

static int last_word_fd;

static int die_with_a_word(void)
{
    const vd_calls_t calls = {
        .program = "unit_runtime", .letter = 'g', .last_word = vd_last_word_map(last_word_fd)};
    return vd_sandbox_calls(&calls, NULL) != VD_OK ? 1 : (int)syscall(SYS_getpgid, 0) & 0;
}

Test(sandbox, the_last_word_names_the_call)
{
    char text[64];
    if (SANITIZED)
        return;
    cr_assert_eq(vd_last_word_make(&last_word_fd, NULL), VD_OK);
    cr_assert_not(vd_last_word_take(last_word_fd, text, sizeof text));
    cr_assert_eq(in_child(die_with_a_word), 1000 + SIGSYS);
    cr_assert(vd_last_word_take(last_word_fd, text, sizeof text));
    cr_assert(strstr(text, "getpgid") != NULL, "%s", text);
    cr_assert_not(vd_last_word_take(last_word_fd, text, sizeof text), "taken once");
    (void)close(last_word_fd);
}

/* ---- opening files ---- */

static int open_as(char letter, bool alone, int flags)
{
    const vd_calls_t calls = {.program = "unit_runtime", .letter = letter, .alone = alone};
    if (vd_sandbox_basic(0, NULL) != VD_OK || vd_sandbox_calls(&calls, NULL) != VD_OK)
        return 1;
    return open("/dev/null", flags, 0600) < 0 ? 2 : 0;
}
static int gateway_reads(void)
{
    return open_as('g', false, O_RDONLY | O_CLOEXEC);
}
static int gateway_alone_reads(void)
{
    return open_as('g', true, O_RDONLY | O_CLOEXEC);
}
static int gateway_alone_writes(void)
{
    return open_as('g', true, O_WRONLY);
}
/* A thread's memory grows and shrinks: malloc reads a file of the kernel when it first does so. */
static void *use_memory(void *unused)
{
    static void *chunks[200];
    (void)unused;
    for (size_t i = 0; i < VD_COUNT_OF(chunks); i++)
        chunks[i] = malloc(64 << 10);
    for (size_t i = VD_COUNT_OF(chunks); i-- > 0;)
        free(chunks[i]);
    return NULL;
}
static int gateway_thread_shrinks(void)
{
    const vd_calls_t calls = {.program = "unit_runtime", .letter = 'g'};
    pthread_t thread;
    if (vd_sandbox_basic(0, NULL) != VD_OK || vd_sandbox_calls(&calls, NULL) != VD_OK)
        return 1;
    if (pthread_create(&thread, NULL, use_memory, NULL) != 0)
        return 2;
    return pthread_join(thread, NULL) == 0 ? 0 : 3;
}
static int replicad_reads(void)
{
    return open_as('p', false, O_RDONLY | O_CLOEXEC | O_DIRECTORY) == 2 && errno == ENOTDIR ? 0 : 3;
}
static int replicad_writes(void)
{
    return open_as('p', false, O_RDWR);
}
static int replicad_makes(void)
{
    return open_as('p', false, O_RDONLY | O_CREAT);
}
static int storaged_writes(void)
{
    return open_as('t', false, O_RDWR | O_CREAT);
}

Test(sandbox, who_opens_files_and_how)
{
    if (SANITIZED)
        return;
    cr_expect_eq(in_child(gateway_reads), 1000 + SIGSYS, "the supervisor opens files for it");
    cr_expect_eq(in_child(gateway_thread_shrinks), 0);
    cr_expect_eq(in_child(gateway_alone_reads), 0);
    cr_expect_eq(in_child(gateway_alone_writes), 1000 + SIGSYS);
    cr_expect_eq(in_child(replicad_reads), 0);
    cr_expect_eq(in_child(replicad_writes), 1000 + SIGSYS);
    cr_expect_eq(in_child(replicad_makes), 1000 + SIGSYS);
    cr_expect_eq(in_child(storaged_writes), 0);
}

static char view_in[] = "/tmp/vd-view-XXXXXX", view_out[] = "/tmp/vd-unseen-XXXXXX";

static int seen(void)
{
    char path[64];
    const vd_view_t view[] = {{view_in, true}, {"/etc/passwd", false}, {"/not/there", false}};
    bool in_force = false;
    if (vd_sandbox_basic(0, NULL) != VD_OK || vd_sandbox_view(view, 3, &in_force, NULL) != VD_OK)
        return 1;
    if (!in_force)
        return 0; /* a kernel without */
    (void)snprintf(path, sizeof path, "%s/f", view_in);
    if (open(path, O_WRONLY | O_CREAT, 0600) < 0 || open("/etc/passwd", O_RDONLY) < 0)
        return 2;
    if (open("/etc/passwd", O_WRONLY) >= 0 || errno != EACCES)
        return 3;
    if (open("/etc/hostname", O_RDONLY) >= 0 || errno != EACCES)
        return 4;
    (void)snprintf(path, sizeof path, "%s/f", view_out);
    if (open(path, O_WRONLY | O_CREAT, 0600) >= 0 || errno != EACCES)
        return 5;
    return unlink(path) == 0 ? 6 : 0;
}

Test(sandbox, only_what_is_in_view)
{
    char path[64];
    cr_assert(mkdtemp(view_in) != NULL && mkdtemp(view_out) != NULL);
    int rc = in_child(seen);
    (void)snprintf(path, sizeof path, "%s/f", view_in);
    (void)unlink(path);
    (void)rmdir(view_in);
    (void)rmdir(view_out);
    cr_assert_eq(rc, 0, "%d", rc);
}

Test(sandbox, what_is_forbidden)
{
    if (SANITIZED)
        return;
    cr_assert_eq(in_child(try_exec), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_inet), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_inet6), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_fork), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_other_handler), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_second_filter), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_kill_another), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_unlisted), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_ptrace), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_keyctl), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_unshare), 1000 + SIGSYS);
    cr_assert_eq(in_child(try_io_uring), 0);
    cr_assert_eq(in_child(thread_before), 1000 + SIGSYS);
}

Test(sandbox, secrets)
{
    void *secret = NULL;
    cr_assert_eq(vd_secret_alloc(32, &secret, NULL), VD_OK);
    memset(secret, 7, 32);
    pid_t pid = fork();
    if (pid == 0)
        _exit(((uint8_t *)secret)[0]); /* wiped in the child */
    int status = 0;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(WEXITSTATUS(status), 0);
    cr_assert_eq(((uint8_t *)secret)[31], 7);
    vd_secret_free(secret, 32);
    vd_secret_free(NULL, 32);
}
