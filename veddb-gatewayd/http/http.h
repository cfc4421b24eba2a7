/* veddb-gatewayd/http/http.h — administration over HTTPS: /healthz, /readyz, /metrics, /status.
 *
 * Duty:    its own thread with libevent's evhttp over the same TLS policy. Health and readiness are
 *          open; /metrics and /status need HTTP basic login of a user of the admin database with
 *          the privilege serverStatus on the cluster (clusterMonitor has it), checked against the
 *          SCRAM credentials and throttled like any login.
 * Owner:   open/close by the gateway.
 * Threads: one that accepts and answers and never waits; one worker that may, for a login or for
 *          storage. The request path meets neither. */
#pragma once
#include "veddb-gatewayd/gatewayd.h"

VD_MUST_CHECK int gate_http_open(gate_t *gate, gate_http_t **ret_http, vd_error_t *err);
void gate_http_close(gate_http_t **http_p);
