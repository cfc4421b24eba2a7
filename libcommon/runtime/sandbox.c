/* libcommon/runtime/sandbox.c — see sandbox.h. */
#include "libcommon/runtime/sandbox.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

int vd_sandbox_basic(int64_t expected_parent, vd_error_t *err)
{
    struct rlimit none = {0, 0};
    if (setrlimit(RLIMIT_CORE, &none) != 0)
        return vd_error_set_errno(err, "no core dumps");
    /* The sanitizers' leak checker attaches to its own process. */
    if (!VD_SANITIZED && prctl(PR_SET_DUMPABLE, 0) != 0)
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
