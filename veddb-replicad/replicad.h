/* veddb-replicad/replicad.h — wiring: storage, peers, role, election, operators' questions.
 *
 * Owner: the daemon. Threads: the main loop's. */
#pragma once
#include "libcommon/runtime/daemon.h"

extern const vd_program_t repl_program;
