/* veddb-replicad/certificate.h — is the other end a node of this cluster?
 *
 * Duty:    after TLS has checked chain and purpose: the organisational unit must be "veddb-node",
 *          the names must hold the address. Each refusal is told by a log message of its own.
 * Threads: any. */
#pragma once
#include "libcommon/runtime/tls.h"

#define REPL_NODE_UNIT "veddb-node"

/* Before the handshake, of one whom we dial: chain and host (name or address) must be right. */
VD_MUST_CHECK int repl_certificate_expect(SSL *ssl, const char *host, vd_error_t *err);
/* After it: VD_ERR_AUTHENTICATION_FAILED unless the certificate is a node's. */
VD_MUST_CHECK int repl_certificate_check_node(SSL *ssl, vd_error_t *err);
/* The certificate of one who called us names the host of the address that it says is its own. */
VD_MUST_CHECK int repl_certificate_names(SSL *ssl, const char *host, vd_error_t *err);
/* After a handshake that failed: logs why; returns a short reason. */
const char *repl_certificate_log_refusal(SSL *ssl, const char *address);
/* After a read that failed: if the other end has refused our certificate, says so. */
void repl_certificate_log_alert(const char *address);
