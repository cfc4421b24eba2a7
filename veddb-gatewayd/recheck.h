/* veddb-gatewayd/recheck.h — what is under way when users or roles change.
 *
 * Duty:    when auth_epoch moves, looks who of those with an operation in storage may still have
 *          it: the user is there, has the same password and may come from where it does, the
 *          command is allowed, and of a getMore no privilege is gone that its cursor may have been
 *          opened by. Else it is interrupted. What storage answers meanwhile waits for that look,
 *          so that nothing is told to somebody who may not see it any more. Who keeps his rights is
 *          not disturbed. A write that was done is told as such.
 * Owner:   the loop thread.
 * Limits:  GATE_RECHECKS_A_TURN connections in one turn of the loop. */
#pragma once
#include "veddb-gatewayd/request.h"

#define GATE_RECHECKS_A_TURN 256

/* At the end of a turn; true: there is more to do. */
VD_MUST_CHECK bool gate_recheck_turn(gate_thread_t *thread);
/* From time to time: looks again where a user could not be loaded. */
void gate_recheck_tick(gate_thread_t *thread);
/* True: the answer is kept, deliver() comes later, or the request fails. */
VD_MUST_CHECK bool gate_recheck_hold(gate_request_t *request, const gate_answer_t *answer,
                                     void (*deliver)(gate_request_t *request,
                                                     const gate_answer_t *answer));
/* Nobody waits for the look any more. */
void gate_recheck_forget(gate_request_t *request);
/* Nothing that `before` allows is missing. */
bool gate_recheck_keeps(const gate_privileges_t *before, const gate_privileges_t *now);
