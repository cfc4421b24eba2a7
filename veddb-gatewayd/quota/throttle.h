/* veddb-gatewayd/quota/throttle.h — the limits on the way of a request.
 *
 * Duty:    before a request runs: who is over a rate waits up to limits.wait_max, and is refused
 *          beyond (462, labels with which drivers back off: docs/decisions/0011). What ends or
 *          frees something, and what the gateway answers itself, only waits. Afterwards what it
 *          turned out to cost is charged, and the next one waits for it.
 * Threads: the loop's of the request. */
#pragma once
#include "veddb-gatewayd/request.h"

/* True: it may run. False: it waits, and go() comes later; or it was refused, and has ended. Once
 * per request. */
VD_MUST_CHECK bool gate_throttle_admit(gate_request_t *request, void (*go)(gate_request_t *));
/* Its reply has so many bytes. */
void gate_throttle_sent(gate_request_t *request, size_t bytes);
/* Storage has answered: what it cost, and whether it refused by a limit. */
void gate_throttle_answered(gate_request_t *request, const gate_answer_t *answer);
/* Limits of the user that storage keeps to. */
void gate_throttle_bounds(gate_request_t *request, vdp_operation_command_t *command);
/* The connection is another user's, or nobody's, from now on. */
void gate_throttle_logout(gate_conn_t *conn);
/* The connection goes. */
void gate_throttle_closed(gate_conn_t *conn);
/* Thread 0, once a second, and after a change: tells the audit log. */
void gate_throttle_tell(gate_thread_t *thread, bool all);
