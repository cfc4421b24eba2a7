/* libcommon/runtime/sandbox.h — user change, no-new-privs, seccomp per program, core dumps off,
 * locked memory for secrets. */
#pragma once
#include "libcommon/base/error.h"

/* RLIMIT_CORE 0, PR_SET_DUMPABLE 0, PDEATHSIG = SIGKILL with the getppid check (expected_parent
 * 0 = none), NO_NEW_PRIVS. Call again after setresuid (which clears PDEATHSIG). */
VD_MUST_CHECK int vd_sandbox_basic(int64_t expected_parent, vd_error_t *err);
/* setgroups, setresgid, setresuid to a named user; nothing when name is empty. */
VD_MUST_CHECK int vd_sandbox_user(const char *name, vd_error_t *err);
/* seccomp with TSYNC: no exec, ptrace, mount, module, bpf, keyctl ...; socket() by domain: unix
 * always, inet only with network. Violations kill the process (log), or EPERM for probes libc
 * makes. */
VD_MUST_CHECK int vd_sandbox_seccomp(bool network, bool exec, vd_error_t *err);
/* Pages that are locked, not dumped, not inherited by fork; zeroed; free with vd_secret_free. */
VD_MUST_CHECK int vd_secret_alloc(size_t size, void **ret_secret, vd_error_t *err);
void vd_secret_free(void *secret, size_t size);
