/* veddb-gatewayd/token_ask.h — an operator of this node lists logins and revokes tokens (vedctl
 * tokens).
 *
 * Threads: asked on the loop, done on the worker, answered on the loop. Whoever reaches the control
 * socket may; each verb is in the audit log. */
#pragma once
#include "veddb-gatewayd/gatewayd.h"

/* verb: revoke (argument: a jti, or a session), revoke-user (name@db; the admin database when there
 * is no @), revoke-all, list (name@db, or empty: all). done: code 0, or why not; json: of list. */
void gate_token_ask(gate_t *gate, vd_loop_t *loop, vd_slice_t verb, vd_slice_t argument,
                    void (*done)(void *context, int code, const char *message, vd_slice_t json),
                    void *context);
