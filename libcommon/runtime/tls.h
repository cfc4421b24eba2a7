/* libcommon/runtime/tls.h — one TLS policy for every listener and every client: versions, suites,
 * chains, names, revocation, reload.
 *
 * Policy:  TLS 1.2 and 1.3; 1.2 with ECDHE + AEAD only; TLS 1.3 suites explicit; no renegotiation,
 *          no compression, session tickets on (fewer full handshakes);
 *          SSL_MODE_ENABLE_PARTIAL_WRITE | ACCEPT_MOVING_WRITE_BUFFER | RELEASE_BUFFERS; security
 *          level 2 (no RSA below 2048 bits, no SHA-1); private key files must not be readable by
 *          group or others. Our own certificate must be valid now and made for what it is used
 *          for: else create and reload refuse it, by name. Of peers' chains OpenSSL checks
 *          signatures, dates, purpose, names and, with crl_file, that the certificate is not on
 *          its issuer's list; a list that is missing or out of date refuses (RFC 5280, 6.3).
 * Owner:   contexts are reference counted by OpenSSL: a reload swaps the pointer, live connections
 *          keep theirs.
 * Threads: reload by one; ssl_new by any. */
#pragma once
#include "libcommon/base/error.h"

#include <openssl/ssl.h>

typedef struct vd_tls vd_tls_t;

typedef struct {
    /* PEM; ca_file may be empty when no peer is verified */
    const char *certificate_file, *key_file, *ca_file;
    const char *crl_file; /* PEM, of the authorities in ca_file; empty: nothing is revoked */
    /* DER, what its authority says of our certificate, for clients that ask (tls_staple.h); empty
     * or NULL: nothing */
    const char *ocsp_file;
    const char *suites; /* with commas: fewer than the policy's; empty: all of them */
    bool server;
    int verify; /* 0 none, 1 if shown, 2 required */
    bool tls13_only;
    const char *expected_name; /* clients: the server's name, checked */
} vd_tls_options_t;

/* The policy's suites as OpenSSL takes them, for who speaks TLS through another library: of
 * TLS 1.2, with the security level, and of 1.3. */
#define VD_TLS_SUITES_MAX 512
void vd_tls_suites(char ret_12[VD_TLS_SUITES_MAX], char ret_13[VD_TLS_SUITES_MAX]);

VD_MUST_CHECK int vd_tls_create(const vd_tls_options_t *options, vd_tls_t **ret_tls,
                                vd_error_t *err);
void vd_tls_destroy(vd_tls_t **tls_p);
/* Reads the files again; on failure the old stays in force. An OCSP response that is out of date is
 * such a failure here, not at create. */
VD_MUST_CHECK int vd_tls_reload(vd_tls_t *tls, vd_error_t *err);
/* A connection's SSL on a non-blocking descriptor, in accept or connect state; the caller frees it.
 * fd -1: the caller sets its own BIOs. */
VD_MUST_CHECK int vd_tls_ssl_new(vd_tls_t *tls, int fd, SSL **ret_ssl, vd_error_t *err);
/* Borrowed context (for evhttp); valid until the next reload. */
SSL_CTX *vd_tls_context(vd_tls_t *tls);
/* Seconds until our certificate expires. */
int64_t vd_tls_expires_in_s(vd_tls_t *tls);
/* The same until clients get no OCSP response any more (negative: since when); INT64_MAX: there is
 * none. *ret_soon: a new one should have come. */
int64_t vd_tls_staple_expires_in_s(vd_tls_t *tls, bool *ret_soon);
/* Seconds until the certificate that the peer has shown expires; INT64_MAX: it has shown none. */
int64_t vd_tls_peer_expires_in_s(SSL *ssl);
/* Whether the peer's certificate would be accepted anew by what is in force now; true: also when it
 * has shown none. For open connections after a reload. */
bool vd_tls_still_trusts(vd_tls_t *tls, SSL *ssl);
/* Why a handshake failed, for a log line: the certificate's fault by name, else OpenSSL's reason.
 * Right after the failure, on the same thread. */
const char *vd_tls_failure(const SSL *ssl, char *buf, size_t size);
