/* veddb-gatewayd/commands/oidc.h — logins by token (MONGODB-OIDC): of the outside issuer,
 * or of our own.
 *
 * saslStart with {jwt} is a whole login. Without a token it is answered with the issuer; the token
 * follows in saslContinue. Threads: the loop's. */
#pragma once
#include "veddb-gatewayd/request.h"

/* saslStart and saslContinue; payload is the client's BSON. VD_OK (the reply is written),
 * GATE_LATER, or an error. */
int gate_oidc_start(gate_request_t *request, vd_slice_t payload, vd_error_t *err);
int gate_oidc_continue(gate_request_t *request, vd_slice_t payload, vd_error_t *err);
/* The saslStart inside hello. False: nothing that can succeed. Else done() is called exactly once.
 */
bool gate_oidc_speculate(gate_request_t *request, vd_slice_t payload,
                         void (*done)(gate_request_t *request));
