/* veddb-gatewayd/commands/limits.h — limits shown and changed while the node runs.
 *
 * Duty:    one language for both ways in: the command {limits: 1, set: {name: value, ...} or
 *          reset: true, user: "name@db"}, and the operators' words "show", "set NAME=VALUE ...",
 *          "reset", with user=NAME@DB. All of a change is checked before any of it is done.
 *          A change holds until it is reset, also over a restart of the gateway: the supervisor
 *          keeps it; it ends with the node.
 * Threads: any loop thread; the operator's question comes on thread 0. */
#pragma once
#include "veddb-gatewayd/gatewayd.h"

/* As an earlier start has given them to events.keep (thread 0). What can't be read or is not
 * allowed any more is left out, and logged. */
void gate_limits_kept(gate_t *gate, vd_slice_t bytes);
/* Appends one JSON object: the limits as they are now. */
VD_MUST_CHECK int gate_limits_ask(gate_t *gate, vd_slice_t words, vd_buf_t *out, vd_error_t *err);
