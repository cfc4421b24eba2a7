/* libcommon/runtime/tls_staple.h — what the authority says of our certificate (an OCSP response),
 * given to clients that ask for it in the handshake.
 *
 * Duty:    reads the file (DER, as a responder answers; somebody else fetches it), and takes it
 *          only if it is for our certificate, signed by the certificate's issuer or by a
 *          responder whom that issuer has appointed, and says "good". It is stapled until its
 *          nextUpdate, and never after: then clients get none.
 * Owner:   the SSL_CTX.
 * Threads: any, once it is set.
 * Limits:  VD_TLS_STAPLE_MAX_BYTES. A response without nextUpdate is refused: it would never
 *          end. */
#pragma once
#include "libcommon/base/error.h"

#include <openssl/ssl.h>

#define VD_TLS_STAPLE_MAX_BYTES (64 * 1024)

/* For the certificate and chain that the context has; the issuer is looked for in the chain, then
 * among the authorities. VD_ERR_CONFIG: not to be had, or not for us. One that is out of date is
 * taken, and not given out: a node must be able to start before a new one has been fetched. */
VD_MUST_CHECK int vd_tls_staple_load(SSL_CTX *context, const char *file, vd_error_t *err);
/* Seconds until it is not given out any more, negative when that is so; INT64_MAX: there is none.
 * *ret_soon: less than a quarter of its time is left. */
int64_t vd_tls_staple_left_s(const SSL_CTX *context, bool *ret_soon);
