/* libcommon/runtime/view.c — vd_sandbox_view of sandbox.h, by Landlock. The kernel's interface is
 * spelled out here: the system's header may be older than the kernel. */
#include "libcommon/runtime/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CREATE_RULESET 444
#define ADD_RULE       445
#define RESTRICT_SELF  446
#define PATH_BENEATH   1

#define EXECUTE    (1ull << 0)
#define WRITE_FILE (1ull << 1)
#define READ_FILE  (1ull << 2)
#define READ_DIR   (1ull << 3)
#define REFER      (1ull << 13) /* ABI 2 */
#define TRUNCATE   (1ull << 14) /* ABI 3 */
#define IOCTL_DEV  (1ull << 15) /* ABI 5 */
#define OF_FILES   (EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV)
/* Devices, block devices and symbolic links are made nowhere. */
#define NEVER (1ull << 6 | 1ull << 11 | 1ull << 12)

struct ruleset {
    uint64_t fs, net, scoped;
};

struct beneath {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

static int add(int ruleset, uint64_t handled, const vd_view_t *view, vd_error_t *err)
{
    struct stat st;
    int fd = open(view->path, O_PATH | O_CLOEXEC), rc = VD_OK;
    if (fd < 0)
        return VD_OK; /* not there, or not for us: then it is not seen */
    uint64_t allowed =
        view->write ? handled & ~(EXECUTE | NEVER) : handled & (EXECUTE | READ_FILE | READ_DIR);
    if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode))
        allowed &= OF_FILES;
    struct beneath rule = {.allowed = allowed, .parent = fd};
    if (syscall(ADD_RULE, ruleset, PATH_BENEATH, &rule, 0) != 0)
        rc = vd_error_set_errno(err, "view of %s", view->path);
    (void)close(fd); /* the rule holds the folder */
    return rc;
}

int vd_sandbox_view(const vd_view_t *view, size_t count, bool *ret_in_force, vd_error_t *err)
{
    VD_ASSERT(view != NULL && ret_in_force != NULL);

    *ret_in_force = false;
    long abi = syscall(CREATE_RULESET, NULL, 0, 1);
    if (abi < 1)
        return VD_OK; /* the kernel has none, or it is off */
    uint64_t handled = (REFER - 1) | (abi >= 2 ? REFER : 0) | (abi >= 3 ? TRUNCATE : 0) |
                       (abi >= 5 ? IOCTL_DEV : 0);
    struct ruleset attributes = {.fs = handled, .scoped = abi >= 6 ? 3 : 0}; /* signals, abstract
                                                                               sockets */
    size_t size = abi >= 6 ? sizeof attributes : sizeof attributes.fs;
    int ruleset = (int)syscall(CREATE_RULESET, &attributes, size, 0), rc = VD_OK;
    if (ruleset < 0)
        return vd_error_set_errno(err, "view of the file system");
    for (size_t i = 0; i < count && rc == VD_OK; i++)
        rc = add(ruleset, handled, &view[i], err);
    if (rc == VD_OK && syscall(RESTRICT_SELF, ruleset, 0) != 0)
        rc = vd_error_set_errno(err, "view of the file system");
    (void)close(ruleset); /* in force, or of no use */
    *ret_in_force = rc == VD_OK;
    return rc;
}
