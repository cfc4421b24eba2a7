/* libcommon/runtime/calls.c — vd_sandbox_calls of sandbox.h, by seccomp.
 *
 * Three answers: what is on the program's list is done; what no program of ours ever does kills at
 * once; the rest raises SIGSYS, whose handler says which call it was and then makes one of the
 * second kind. Nobody can put another handler in its place: that kills, too. */
#include "libcommon/base/log.h"
#include "libcommon/base/machine.h"
#include "libcommon/runtime/sandbox.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define NUMBERS_MAX 512
#define VMA_NAME    0x53564d41 /* PR_SET_VMA: malloc of later C libraries names its memory */

static const struct {
    const char *name, *letters;
} listed[] = {
#define VD_SYSCALL(name, letters) {name, letters},
#include "libcommon/runtime/syscalls.def"
#undef VD_SYSCALL
};

/* What no program of ours ever does. */
static const char *const never[] = {
    "execve",
    "execveat",
    "fork",
    "vfork",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "mount_setattr",
    "kexec_load",
    "kexec_file_load",
    "bpf",
    "perf_event_open",
    "init_module",
    "finit_module",
    "delete_module",
    "keyctl",
    "add_key",
    "request_key",
    "setns",
    "unshare",
    "open_by_handle_at",
    "swapon",
    "swapoff",
    "reboot",
    "userfaultfd",
    "acct",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "iopl",
    "ioperm",
    "quotactl",
    "sethostname",
    "setdomainname",
    "personality",
    "vhangup",
    "pidfd_getfd",
    "kcmp",
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setgroups",
    "setfsuid",
    "setfsgid",
    "capset",
    "seccomp",
    "modify_ldt",
    "memfd_secret",
    "mknod",
    "mknodat",
    "symlink",
    "symlinkat",
};

/* Programs that write no file: they may open for reading alone. */
static const char readers[] = "pg";

/* What a library may probe for: it is told that there is no such thing. */
static const char *const refused[] = {
    "io_uring_setup",    "io_uring_enter", "io_uring_register",
    "name_to_handle_at", "fanotify_init",  "clone3",
};

static char names[NUMBERS_MAX][24]; /* for the handler, which may not ask the library */
static int64_t *last_word;
static const char *who = "";

static void names_fill(void)
{
    for (int i = 0; i < NUMBERS_MAX; i++) {
        char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, i);
        (void)snprintf(names[i], sizeof names[i], "%s", name == NULL ? "?" : name);
        free(name); /* the library's, by malloc */
    }
}

/* One line, made of what is safe in a handler. path: of an open, NULL of another call. */
static void say(const char *level, const char *what, int number, const char *path)
{
    char line[512], digits[12], shown[128];
    size_t shown_len = 0;
    for (; path != NULL && path[shown_len] != '\0' && shown_len < sizeof shown - 1; shown_len++) {
        char c = path[shown_len];
        shown[shown_len] = c > ' ' && c <= '~' && c != '"' ? c : '?';
    }
    shown[shown_len] = '\0';
    const char *name = number >= 0 && number < NUMBERS_MAX ? names[number] : "?";
    size_t at = sizeof digits, len = 0;
    digits[--at] = '\0';
    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) > 0 && at > 0);
    const char *const parts[] = {"level=",
                                 level,
                                 " prog=",
                                 who,
                                 " msg=\"",
                                 what,
                                 "\" syscall=",
                                 digits + at,
                                 " name=",
                                 name,
                                 shown_len > 0 ? " path=" : "",
                                 shown,
                                 "\n"};
    for (size_t i = 0; i < VD_COUNT_OF(parts); i++)
        for (const char *c = parts[i]; *c != '\0' && len < sizeof line; c++)
            line[len++] = *c;
    (void)!write(STDERR_FILENO, line, len); /* the process ends anyway */
}

/* What was to be opened: whoever looks for a late open of a library wants to know. */
static const char *path_of(int number, const void *context)
{
    const ucontext_t *at = context;
#if defined(__x86_64__)
    return number == SYS_openat ? (const char *)at->uc_mcontext.gregs[REG_RSI] : NULL;
#elif defined(__aarch64__)
    return number == SYS_openat ? (const char *)at->uc_mcontext.regs[1] : NULL;
#else
    return (void)at, (void)number, NULL;
#endif
}

static void forbidden(int signal_number, siginfo_t *info, void *context)
{
    (void)signal_number;
    if (last_word != NULL)
        __atomic_store_n(last_word, (int64_t)info->si_syscall + 1, __ATOMIC_SEQ_CST);
    say("fatal", "a system call that is not on the list: the process ends", info->si_syscall,
        path_of(info->si_syscall, context));
    (void)syscall(SYS_ptrace, 0, 0, 0, 0); /* kills */
    _exit(159);
}

/* ---- the filter ---- */

typedef struct {
    scmp_filter_ctx filter;
    int rc;
} rules_t;

static void rule(rules_t *rules, uint32_t action, const char *call)
{
    int number = seccomp_syscall_resolve_name(call);
    if (number < 0 || rules->rc != 0)
        return; /* not on this machine */
    rules->rc = seccomp_rule_add(rules->filter, action, number, 0);
}

static void rule_if(rules_t *rules, uint32_t action, const char *call, struct scmp_arg_cmp when)
{
    int number = seccomp_syscall_resolve_name(call);
    if (number < 0 || rules->rc != 0)
        return;
    rules->rc = seccomp_rule_add_array(rules->filter, action, number, 1, &when);
}

/* Calls of which not every kind is allowed to those that have them on their list. */
static bool add_checked(rules_t *rules, const char *call, const vd_calls_t *calls)
{
    const uint32_t allow = SCMP_ACT_ALLOW, kill = SCMP_ACT_KILL_PROCESS;
    if (strcmp(call, "socket") == 0) {
        for (int domain = 0; domain <= AF_INET6; domain++) {
            bool inet = domain == AF_INET || domain == AF_INET6;
            bool good = domain == AF_UNIX || (inet && calls->network);
            rule_if(rules,
                    good   ? allow
                    : inet ? kill
                           : SCMP_ACT_ERRNO(EAFNOSUPPORT),
                    call, SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)domain, 0));
        }
        rule_if(rules, SCMP_ACT_ERRNO(EAFNOSUPPORT), call, SCMP_A0_32(SCMP_CMP_GT, AF_INET6, 0));
    } else if (strcmp(call, "clone") == 0) {
        rule_if(rules, allow, call, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
        rule_if(rules, kill, call, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0)); /* a process */
    } else if (strcmp(call, "rt_sigaction") == 0) {
        rule_if(rules, allow, call, SCMP_A0_32(SCMP_CMP_NE, SIGSYS, 0));
        rule_if(rules, kill, call, SCMP_A0_32(SCMP_CMP_EQ, SIGSYS, 0));
    } else if (strcmp(call, "kill") == 0 || strcmp(call, "tgkill") == 0) {
        rule_if(rules, allow, call, SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)getpid(), 0));
    } else if (strcmp(call, "prctl") == 0) {
        static const uint32_t good[] = {PR_SET_NAME, PR_GET_NAME, VMA_NAME};
        for (size_t i = 0; i < VD_COUNT_OF(good); i++)
            rule_if(rules, allow, call, SCMP_A0_32(SCMP_CMP_EQ, good[i], 0));
    } else if (strcmp(call, "openat") == 0 && strchr(readers, calls->letter) != NULL) {
        const uint32_t writes = O_ACCMODE | O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY);
        rule_if(rules, allow, call, SCMP_A2_32(SCMP_CMP_MASKED_EQ, writes, 0));
    } else if (strcmp(call, "ioctl") == 0) {
        static const uint32_t good[] = {FIONBIO, FIONREAD, 0x5401 /* is it a terminal? */};
        for (size_t i = 0; i < VD_COUNT_OF(good); i++)
            rule_if(rules, allow, call, SCMP_A1_32(SCMP_CMP_EQ, good[i], 0));
    } else {
        return false;
    }
    return true;
}

static bool has(const char *letters, const vd_calls_t *calls)
{
    return strchr(letters, calls->letter) != NULL ||
           (calls->alone && strchr(letters, toupper((unsigned char)calls->letter)) != NULL);
}

static bool is_listed(const char *call, const vd_calls_t *calls)
{
    for (size_t i = 0; i < VD_COUNT_OF(listed); i++)
        if (strcmp(listed[i].name, call) == 0)
            return has(listed[i].letters, calls);
    return false;
}

static bool is_in(const char *call, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i], call) == 0)
            return true;
    return false;
}

static void fill(rules_t *rules, const vd_calls_t *calls)
{
    for (size_t i = 0; i < VD_COUNT_OF(never); i++)
        rule(rules, SCMP_ACT_KILL_PROCESS, never[i]);
    for (size_t i = 0; i < VD_COUNT_OF(refused); i++)
        rule(rules, SCMP_ACT_ERRNO(ENOSYS), refused[i]);
    if (!is_listed("socket", calls)) {
        rule_if(rules, SCMP_ACT_KILL_PROCESS, "socket", SCMP_A0_32(SCMP_CMP_EQ, AF_INET, 0));
        rule_if(rules, SCMP_ACT_KILL_PROCESS, "socket", SCMP_A0_32(SCMP_CMP_EQ, AF_INET6, 0));
    }
    for (size_t i = 0; i < VD_COUNT_OF(listed); i++)
        if (has(listed[i].letters, calls) && !add_checked(rules, listed[i].name, calls))
            rule(rules, SCMP_ACT_ALLOW, listed[i].name);
}

/* ---- noting, for tests ---- */

/* A process of its own that shares our descriptors, not the filter: it is told of each call, notes
 * the name once, and lets it go on. Raw calls only: it has a copy of our memory, locks and all. */
static _Noreturn void note_run(const volatile int *listener)
{
    static bool noted[NUMBERS_MAX];
    static union {
        struct seccomp_notif head;
        char room[1024]; /* the kernel's may be larger */
    } call;
    const struct timespec pause = {.tv_nsec = 1000000};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (*listener < 0)
        (void)nanosleep(&pause, NULL);
    struct pollfd ready = {.fd = *listener, .events = POLLIN};
    for (;;) {
        if (poll(&ready, 1, -1) < 0 && errno == EINTR)
            continue;
        if ((ready.revents & POLLIN) == 0)
            _exit(0); /* nobody has the filter any more */
        memset(&call, 0, sizeof call);
        if (ioctl(ready.fd, SECCOMP_IOCTL_NOTIF_RECV, &call.head) != 0)
            continue;
        int number = call.head.data.nr;
        if (number >= 0 && number < NUMBERS_MAX && !noted[number]) {
            noted[number] = true;
            say("warn", "system call noted", number, NULL);
        }
        struct seccomp_notif_resp answer = {.id = call.head.id,
                                            .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        (void)ioctl(ready.fd, SECCOMP_IOCTL_NOTIF_SEND, &answer); /* it may have died */
    }
}

static int note(const vd_calls_t *calls, vd_error_t *err)
{
    rules_t rules = {.filter = seccomp_init(SCMP_ACT_ALLOW)};
    volatile int *listener =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (rules.filter == NULL || listener == MAP_FAILED)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "seccomp");
    vd_log(VD_LOG_WARN,
           "test.syscalls: NO SYSTEM CALL IS REFUSED; those that are not on the list are noted",
           "program=%s", calls->program);
    rules.rc = seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_TSYNC, 1);
    for (int i = 0; i < NUMBERS_MAX; i++) {
        bool good = calls->mode == VD_CALLS_NOTE && is_listed(names[i], calls);
        if (strcmp(names[i], "clone3") == 0)
            rule(&rules, SCMP_ACT_ERRNO(ENOSYS), names[i]);
        else if (!good && names[i][0] != '?' && !is_in(names[i], refused, VD_COUNT_OF(refused)))
            rule(&rules, SCMP_ACT_NOTIFY, names[i]);
    }
    *listener = -1;
    long helper = rules.rc != 0 ? 0 : syscall(SYS_clone, CLONE_FILES, NULL, NULL, NULL, 0);
    if (helper == 0 && rules.rc == 0)
        note_run(listener);
    if (rules.rc == 0)
        rules.rc = helper < 0 ? -errno : seccomp_load(rules.filter);
    if (rules.rc == 0)
        *listener = seccomp_notify_fd(rules.filter);
    if (rules.rc != 0)
        return vd_error_set(err, VD_ERR_INTERNAL, "seccomp: %s", strerror(-rules.rc));
    return VD_OK; /* the filter is not released: that would close the listener */
}

/* ---- the C library's own files ---- */

#define ARENAS_PER_CORE 8           /* as the C library has it */
#define SETTLED_BYTES   (48 << 20)  /* beyond any trim threshold that a heap of malloc can reach */
#define SETTLED_CHUNK   (100 << 10) /* below what malloc gives a mapping of its own */

/* The memory of a thread grows and shrinks again, untouched. */
static void *grow_and_shrink(void *unused)
{
    static void *chunks[SETTLED_BYTES / SETTLED_CHUNK];
    (void)unused;
    for (size_t i = 0; i < VD_COUNT_OF(chunks); i++)
        chunks[i] = malloc(SETTLED_CHUNK);
    for (size_t i = VD_COUNT_OF(chunks); i-- > 0;)
        free(chunks[i]);
    return NULL;
}

/* glibc reads files late, each once: now, while opening one is no crime yet. The time zone's for
 * the first conversion of a time; the number of cores for the ninth arena of malloc, which gets its
 * own bound instead; and /proc/sys/vm/overcommit_memory when malloc first shrinks a heap of a
 * thread, which may be hours after the start. */
static int settle_library(vd_error_t *err)
{
    pthread_t thread;
    tzset();
    (void)mallopt(M_ARENA_MAX, (int)(ARENAS_PER_CORE * vd_machine_cores()));
    int rc = pthread_create(&thread, NULL, grow_and_shrink, NULL);
    if (rc == 0)
        rc = pthread_join(thread, NULL);
    return rc == 0 ? VD_OK
                   : vd_error_set(err, VD_ERR_INTERNAL, "thread of malloc: %s", strerror(rc));
}

int vd_sandbox_calls(const vd_calls_t *calls, vd_error_t *err)
{
    VD_ASSERT(calls != NULL && calls->program != NULL);

    if (VD_SANITIZED) {
        vd_log(VD_LOG_WARN, "A BUILD WITH SANITIZERS: system calls are not limited", "program=%s",
               calls->program);
        return VD_OK; /* they need calls that are forbidden here */
    }
    who = calls->program;
    last_word = calls->last_word;
    names_fill();
    int rc = settle_library(err);
    if (rc != VD_OK)
        return rc;
    if (calls->mode != VD_CALLS_ENFORCE)
        return note(calls, err);
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = forbidden;
    (void)sigfillset(&action.sa_mask);
    if (sigaction(SIGSYS, &action, NULL) != 0)
        return vd_error_set_errno(err, "handler of SIGSYS");
    rules_t rules = {.filter = seccomp_init(SCMP_ACT_TRAP)};
    if (rules.filter == NULL)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "seccomp");
    rules.rc = seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rules.rc == 0)
        rules.rc = seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_LOG, 1);
    if (rules.rc == 0)
        rules.rc = seccomp_attr_set(rules.filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (rules.rc == 0)
        rules.rc = seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a search tree */
    fill(&rules, calls);
    if (rules.rc == 0)
        rules.rc = seccomp_load(rules.filter);
    seccomp_release(rules.filter);
    if (rules.rc != 0)
        return vd_error_set(err, VD_ERR_INTERNAL, "seccomp: %s", strerror(-rules.rc));
    return VD_OK;
}
