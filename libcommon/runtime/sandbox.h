/* libcommon/runtime/sandbox.h — user change, no-new-privs, the system calls and the folders that a
 * program may use, core dumps off, locked memory for secrets. Why so: docs/decisions/0012.
 *
 * Threads: vd_sandbox_view before the first thread is made (a thread made later inherits it);
 *          vd_sandbox_calls takes hold of all threads. */
#pragma once
#include "libcommon/base/error.h"

/* Built with a sanitizer, which needs calls, files and memory of its own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define VD_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define VD_SANITIZED 1
#endif
#endif
#ifndef VD_SANITIZED
#define VD_SANITIZED 0
#endif

/* RLIMIT_CORE 0, PR_SET_DUMPABLE 0, PDEATHSIG = SIGKILL with the getppid check (expected_parent
 * 0 = none), NO_NEW_PRIVS. Call again after setresuid (which clears PDEATHSIG). */
VD_MUST_CHECK int vd_sandbox_basic(int64_t expected_parent, vd_error_t *err);
/* setgroups, setresgid, setresuid to a named user; nothing when name is empty. */
VD_MUST_CHECK int vd_sandbox_user(const char *name, vd_error_t *err);

typedef enum {
    VD_CALLS_ENFORCE,
    VD_CALLS_NOTE,    /* for tests: what is not on the list is logged and done */
    VD_CALLS_NOTE_ALL /* for tests: everything is */
} vd_calls_mode_t;

typedef struct {
    const char *program;
    char letter;  /* in syscalls.def */
    bool network; /* may make inet sockets */
    bool alone;   /* nobody opens files for it (files.h) */
    vd_calls_mode_t mode;
    int64_t *last_word; /* see below; may be NULL */
} vd_calls_t;

/* Only what syscalls.def names for the program, for all threads, for ever: no exec, no fork, no
 * socket of another domain. What is never done kills at once (SECCOMP_RET_KILL_PROCESS); another
 * call that is not on the list is not done either, is named in the log and in the last word, and
 * ends the process the same way. In a build with sanitizers: nothing, and a warning says so. */
VD_MUST_CHECK int vd_sandbox_calls(const vd_calls_t *calls, vd_error_t *err);

typedef struct {
    const char *path; /* one that is not there is passed over */
    bool write;
} vd_view_t;

/* Landlock: from now on this process sees only these folders and files, with what is below. Where
 * the kernel has none: *ret_in_force false. */
VD_MUST_CHECK int vd_sandbox_view(const vd_view_t *view, size_t count, bool *ret_in_force,
                                  vd_error_t *err);

/* Which system call a worker died of, for its supervisor: a descriptor of shared memory, what the
 * worker maps of it, and the text ("system call 41 socket"; false: none). */
VD_MUST_CHECK int vd_last_word_make(int *ret_fd, vd_error_t *err);
int64_t *vd_last_word_map(int fd);
bool vd_last_word_take(int fd, char *text, size_t size);

/* Pages that are locked, not dumped, not inherited by fork; zeroed; free with vd_secret_free. */
VD_MUST_CHECK int vd_secret_alloc(size_t size, void **ret_secret, vd_error_t *err);
void vd_secret_free(void *secret, size_t size);
