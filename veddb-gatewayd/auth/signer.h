/* veddb-gatewayd/auth/signer.h — the key that signs our own tokens (ES256).
 *
 * Duty:    makes one, reads one as it is stored, signs claims, tells its public part; a MAC of
 *          the same secret for what must be known again as ours. Never changes once it is read.
 * Owner:   create/destroy by who loads it.
 * Threads: any; it is read only.
 * Errors:  VD_ERR_CORRUPT for bytes that are no private key of P-256. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/base/error.h"

#define GATE_SIGNER_DER_MAX   256
#define GATE_SIGNER_ID_MAX    22 /* characters: 128 bits of the digest of the public key */
#define GATE_SIGNER_MAC_BYTES 32

typedef struct gate_signer gate_signer_t;

/* A new private key as it is stored. */
VD_MUST_CHECK int gate_signer_make(uint8_t ret_der[GATE_SIGNER_DER_MAX], uint32_t *ret_len,
                                   vd_error_t *err);
VD_MUST_CHECK int gate_signer_create(vd_slice_t der, gate_signer_t **ret_signer, vd_error_t *err);
void gate_signer_destroy(gate_signer_t **signer_p);
const char *gate_signer_id(const gate_signer_t *signer);
/* {"keys": [...]}, RFC 7517: the public part. */
const char *gate_signer_jwks(const gate_signer_t *signer);
/* Appends the token of these claims (JSON); its type is that of access tokens (RFC 9068). */
VD_MUST_CHECK int gate_signer_sign(const gate_signer_t *signer, vd_slice_t claims, vd_buf_t *out,
                                   vd_error_t *err);
void gate_signer_mac(const gate_signer_t *signer, const char *purpose, vd_slice_t bytes,
                     uint8_t ret_mac[GATE_SIGNER_MAC_BYTES]);
/* RFC 4648, 5, without padding; out has room for 4 * ((len + 2) / 3) + 1 bytes. Returns the length.
 */
size_t gate_base64url_encode(vd_slice_t bytes, char *out);
