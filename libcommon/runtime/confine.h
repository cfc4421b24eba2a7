/* libcommon/runtime/confine.h — what a program is left with once it runs (sandbox.h), from its
 * configuration: the folders that it works in, the system calls on its list.
 *
 * Threads: vd_confine_view before the first one is made; vd_confine_calls when all are there. */
#pragma once
#include "libcommon/runtime/daemon.h"

/* Warns where the kernel has no Landlock. */
VD_MUST_CHECK int vd_confine_view(const vd_daemon_t *daemon, const vd_program_t *program,
                                  vd_error_t *err);
VD_MUST_CHECK int vd_confine_calls(const vd_daemon_t *daemon, const vd_program_t *program,
                                   vd_error_t *err);
