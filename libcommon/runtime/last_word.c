/* libcommon/runtime/last_word.c — see sandbox.h: one number in memory that the supervisor shares
 * with a worker, written by the worker's handler of SIGSYS. */
#include "libcommon/runtime/sandbox.h"

#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE 4096

int vd_last_word_make(int *ret_fd, vd_error_t *err)
{
    int fd = memfd_create("veddb-last-word", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, SIZE) != 0) {
        (void)vd_error_set_errno(err, "memory for a last word");
        if (fd >= 0)
            (void)close(fd); /* useless */
        return VD_ERR_IO;
    }
    *ret_fd = fd;
    return VD_OK;
}

bool vd_last_word_take(int fd, char *text, size_t size)
{
    int64_t number = 0, none = 0;
    if (pread(fd, &number, sizeof number, 0) != sizeof number || number == 0)
        return false;
    (void)!pwrite(fd, &none, sizeof none, 0); /* the next start's */
    number--;
    char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, (int)number);
    (void)snprintf(text, size, "system call %lld %s", (long long)number, name == NULL ? "?" : name);
    free(name); /* the library's, by malloc */
    return true;
}

int64_t *vd_last_word_map(int fd)
{
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return page == MAP_FAILED ? NULL : page;
}
