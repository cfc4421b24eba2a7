/* veddb-gatewayd/certificates.h — the certificates of the client side, read again while clients
 * stay connected, and watched for their end.
 *
 * Threads: reload reads files: the administration worker; tick: loop thread 0.
 * Errors:  VD_ERR_CONFIG, naming the file; what was in force stays. */
#pragma once
#include "veddb-gatewayd/gatewayd.h"

/* Also the keys of the issuer of tokens. New connections, of drivers and of HTTPS, get the new
 * certificate. Open ones stay, but for clients whose own certificate would be refused now. */
VD_MUST_CHECK int gate_certificates_reload(gate_t *gate, vd_error_t *err);
/* The operator's question: done() on the loop that asked, once. */
void gate_certificates_ask(gate_t *gate, vd_loop_t *loop,
                           void (*done)(void *context, int code, const char *message),
                           void *context);
/* Once a second: warns, once a day, when the certificate ends within 30 days. */
void gate_certificates_tick(gate_t *gate);
