/* veddb-gatewayd/commands/x509.h — logins by client certificate (MONGODB-X509): `authenticate`, and
 * its speculative form inside hello.
 *
 * The user is the certificate's subject as RFC 2253 writes it, in the database $external. The
 * certificate was checked by the handshake; nothing is asked that the client could answer.
 * Threads: the loop's. */
#pragma once
#include "veddb-gatewayd/request.h"

/* The subject of the certificate that the other end showed, if it was accepted, as RFC 2253 writes
 * it. Any thread. */
bool gate_x509_subject(SSL *ssl, char ret_subject[GATE_SCRAM_NAME_MAX + 1]);
int gate_x509_authenticate(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
/* False: `document` is no login of this kind, or none that can succeed. Else done() is called
 * exactly once, at once or later; failures are silent, as MongoDB's. */
bool gate_x509_speculate(gate_request_t *request, vd_bson_t document,
                         void (*done)(gate_request_t *request));
