/* veddb-gatewayd/auth/jwt.h — JSON Web Tokens (RFC 7519), checked against a set of keys (RFC 7517).
 *
 * Duty:    the whole of a token is checked here, the signature by OpenSSL: the algorithm is one of
 *          two (ES256, RS256) and that of the key, the key is the one that `kid` names, issuer,
 *          audience, type, times and principal are what the policy wants.
 * Owner:   keys are made and destroyed by who loads them, and never change. Pure: no clock, no
 *          file.
 * Limits:  GATE_JWT_MAX bytes a token, GATE_JWKS_MAX keys.
 * Errors:  VD_ERR_AUTHENTICATION_FAILED with the reason (for the log, not for the client);
 *          VD_ERR_CONFIG for a set of keys that is none. */
#pragma once
#include "libcommon/base/error.h"
#include "libcommon/base/slice.h"

#define GATE_JWT_MAX            (16 * 1024)
#define GATE_JWT_PRINCIPAL_MAX  400
#define GATE_JWT_ID_MAX         256
#define GATE_JWT_KEY_ID_MAX     256
#define GATE_JWT_SESSION_MAX    64
#define GATE_JWT_CREDENTIAL_MAX 64
#define GATE_JWKS_MAX           64
#define GATE_JWT_SKEW_S         60 /* for nbf and iat: clocks of issuers; never for exp */

typedef struct gate_jwks gate_jwks_t;

typedef struct {
    const char *issuer, *audience;
    const char *principal_claim; /* who the token is about: "sub" */
    const char *type;            /* what `typ` of the header must be; NULL: is not looked at */
} gate_jwt_policy_t;

typedef struct {
    char principal[GATE_JWT_PRINCIPAL_MAX + 1];
    char id[GATE_JWT_ID_MAX + 1]; /* jti; may be empty */
    int64_t expires_s;            /* since 1970 */
    /* Of our own tokens (tokens.h); empty and 0 where the claims are not there. */
    char session[GATE_JWT_SESSION_MAX + 1], credential[GATE_JWT_CREDENTIAL_MAX + 1];
    char key_id[GATE_JWT_KEY_ID_MAX + 1]; /* that of the key which signed it */
    int64_t user_epoch;
} gate_jwt_t;

/* A JSON document {"keys": [...]}: public keys of RSA (2,048 bits or more) and of P-256. Those for
 * other uses or of other kinds are stepped over; none that can be used is an error. */
VD_MUST_CHECK int gate_jwks_parse(vd_slice_t json, gate_jwks_t **ret_keys, vd_error_t *err);
void gate_jwks_destroy(gate_jwks_t **keys_p);
/* RFC 4648, 5, without padding, in its one form. */
bool gate_base64url_decode(vd_slice_t text, uint8_t *out, size_t max, size_t *ret_len);
/* What it says of itself, unchecked: whose rules it is to be checked by. */
bool gate_jwt_claims_issuer(vd_slice_t token, const char *issuer);
VD_MUST_CHECK int gate_jwt_verify(const gate_jwks_t *keys, const gate_jwt_policy_t *policy,
                                  vd_slice_t token, int64_t now_s, gate_jwt_t *ret_token,
                                  vd_error_t *err);
