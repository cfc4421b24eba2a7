/* veddb-gatewayd/faults.h — fail points, as driver test suites use them: failCommand and
 * failGetMoreAfterCursorCheckout, one of them armed at a time; others are passed on to storage
 * (veddb-storaged/fail_points.h). Exist only under test.faults.
 *
 * Owner:   the gateway.
 * Threads: any (one lock). */
#pragma once
#include "veddb-gatewayd/request.h"

gate_faults_t *gate_faults_create(void);
void gate_faults_destroy(gate_faults_t **faults_p);
/* The command configureFailPoint. */
int gate_faults_configure(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
/* Fills request->fault when the fail point is set for this request. */
void gate_faults_match(gate_faults_t *faults, gate_request_t *request);
