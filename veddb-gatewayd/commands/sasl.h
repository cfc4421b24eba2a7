/* veddb-gatewayd/commands/sasl.h — saslStart, saslContinue, and the speculative form inside hello.
 *
 * States:  START (waits for its turn, or for the user to be loaded) -> CHALLENGED -> PROVEN (one
 *          empty exchange is left) -> gone.
 * Owner:   the connection; destroyed when the conversation ends either way.
 * Threads: the loop's. */
#pragma once
#include "veddb-gatewayd/request.h"

int gate_sasl_start(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
int gate_sasl_continue(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
/* Runs the saslStart in `document` (which names its db). done() is called exactly once, at once or
 * later; failures are silent, as MongoDB's. */
void gate_sasl_speculate(gate_request_t *request, vd_bson_t document,
                         void (*done)(gate_request_t *request));
/* Writes {conversationId, done, payload} when the speculation gave a challenge. */
void gate_sasl_speculated(gate_request_t *request, vd_bb_t *reply);
void gate_sasl_destroy(gate_sasl_t **sasl_p);
uint64_t gate_sasl_age_ms(const gate_sasl_t *sasl, uint64_t now_ms);
