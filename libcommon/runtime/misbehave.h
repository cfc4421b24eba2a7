/* libcommon/runtime/misbehave.h — what a program that somebody has taken over would try, for tests
 * (test.faults): most of it ends the process. */
#pragma once
#include "libcommon/base/error.h"

/* what: exec, fork, ptrace, tcp, handler, unlisted; open PATH, write PATH, connect PATH (a socket),
 * file PATH (asked of the supervisor); principal PATH, key PATH: a message that names a user, or
 * asks for keys, over the link there; fault SPEC: arms a fault point (fault.h). Returns what came
 * of it, with a message, when it lives. */
int vd_misbehave(vd_slice_t what, const char *path, char *message, size_t size);
