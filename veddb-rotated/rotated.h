/* veddb-rotated/rotated.h — wiring of the key holder: key-encryption key, keyring, and the local
 * socket that storage asks.
 *
 * Owner:   the daemon.
 * Threads: the main loop's. */
#pragma once
#include "libcommon/runtime/daemon.h"

extern const vd_program_t rot_program;
