/* libcommon/runtime/sandbox.c — see sandbox.h. */
#include "libcommon/runtime/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

int vd_sandbox_basic(int64_t expected_parent, vd_error_t *err)
{
    struct rlimit none = {0, 0};
    if (setrlimit(RLIMIT_CORE, &none) != 0)
        return vd_error_set_errno(err, "no core dumps");
    /* The sanitizers' leak checker attaches to its own process. */
    if (!SANITIZED && prctl(PR_SET_DUMPABLE, 0) != 0)
        return vd_error_set_errno(err, "not dumpable");
    if (expected_parent != 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
            return vd_error_set_errno(err, "parent death signal");
        /* It may have died before the line above. */
        if (getppid() != (pid_t)expected_parent)
            return vd_error_set(err, VD_ERR_CLOSED, "the supervisor has gone");
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return vd_error_set_errno(err, "no new privileges");
    return VD_OK;
}

int vd_sandbox_user(const char *name, vd_error_t *err)
{
    VD_ASSERT(name != NULL);

    if (name[0] == '\0')
        return VD_OK;
    errno = 0;
    const struct passwd *user = getpwnam(name);
    if (user == NULL)
        return vd_error_set(err, VD_ERR_CONFIG, "no user %s", name);
    uid_t uid = user->pw_uid;
    gid_t gid = user->pw_gid;
    if (setgroups(0, NULL) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0)
        return vd_error_set_errno(err, "change to user %s", name);
    if (uid != 0 && setresuid(0, 0, 0) == 0)
        return vd_error_set(err, VD_ERR_INTERNAL, "the change to user %s can be undone", name);
    return VD_OK;
}

typedef struct {
    scmp_filter_ctx filter;
    int rc;
} rules_t;

static void deny(rules_t *rules, uint32_t action, const char *call)
{
    int number = seccomp_syscall_resolve_name(call);
    if (number == __NR_SCMP_ERROR || rules->rc != 0)
        return; /* not on this machine */
    rules->rc = seccomp_rule_add(rules->filter, action, number, 0);
}

/* What no program of ours ever does: the process ends. */
static const char *const never[] = {
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
    "nfsservctl",
    "lookup_dcookie",
    "sethostname",
    "setdomainname",
    "personality",
    "vhangup",
    "pidfd_getfd",
    "kcmp",
};

/* What a library may probe for: it is told no. */
static const char *const refused[] = {"io_uring_setup", "io_uring_enter", "io_uring_register",
                                      "name_to_handle_at", "fanotify_init"};

static void deny_sockets(rules_t *rules, bool network)
{
    /* Each comparison is a rule of its own: a call is refused when its domain is none of the
     * allowed. */
    int call = SCMP_SYS(socket);
    struct scmp_arg_cmp above = SCMP_A0(SCMP_CMP_GT, AF_INET6);
    if (rules->rc == 0)
        rules->rc =
            seccomp_rule_add_array(rules->filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), call, 1, &above);
    for (int domain = 0; domain <= AF_INET6 && rules->rc == 0; domain++) {
        bool inet = domain == AF_INET || domain == AF_INET6;
        if (domain == AF_UNIX || (inet && network))
            continue;
        struct scmp_arg_cmp equal = SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)domain);
        rules->rc =
            seccomp_rule_add_array(rules->filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), call, 1, &equal);
    }
}

int vd_sandbox_seccomp(bool network, bool exec, vd_error_t *err)
{
    if (SANITIZED)
        return VD_OK; /* the sanitizers need calls that are forbidden here */
    rules_t rules = {.filter = seccomp_init(SCMP_ACT_ALLOW)};
    if (rules.filter == NULL)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "seccomp");
    rules.rc = seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rules.rc == 0)
        rules.rc = seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_LOG, 1);
    for (size_t i = 0; i < VD_COUNT_OF(never); i++)
        deny(&rules, SCMP_ACT_KILL_PROCESS, never[i]);
    for (size_t i = 0; i < VD_COUNT_OF(refused); i++)
        deny(&rules, SCMP_ACT_ERRNO(ENOSYS), refused[i]);
    if (!exec) {
        deny(&rules, SCMP_ACT_KILL_PROCESS, "execve");
        deny(&rules, SCMP_ACT_KILL_PROCESS, "execveat");
    }
    deny_sockets(&rules, network);
    if (rules.rc == 0)
        rules.rc = seccomp_load(rules.filter);
    seccomp_release(rules.filter);
    if (rules.rc != 0)
        return vd_error_set(err, VD_ERR_INTERNAL, "seccomp: %s", strerror(-rules.rc));
    return VD_OK;
}

static size_t whole_pages(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size + page - 1) / page * page;
}

int vd_secret_alloc(size_t size, void **ret_secret, vd_error_t *err)
{
    VD_ASSERT(size > 0 && ret_secret != NULL);

    size_t len = whole_pages(size);
    void *secret = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (secret == MAP_FAILED)
        return vd_error_set_errno(err, "memory for a secret");
    if (mlock(secret, len) != 0 || madvise(secret, len, MADV_DONTDUMP) != 0 ||
        madvise(secret, len, MADV_WIPEONFORK) != 0) {
        (void)vd_error_set_errno(err, "locking memory for a secret");
        (void)munmap(secret, len);
        return VD_ERR_NO_MEMORY;
    }
    *ret_secret = secret;
    return VD_OK;
}

void vd_secret_free(void *secret, size_t size)
{
    if (secret == NULL)
        return;
    explicit_bzero(secret, size);
    (void)munmap(secret, whole_pages(size));
}
