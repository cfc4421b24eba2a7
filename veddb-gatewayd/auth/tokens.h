/* veddb-gatewayd/auth/tokens.h — our own tokens: whose they are, which are revoked.
 *
 * Duty:    keeps in memory what admin.system.tokens says, as of an auth epoch: the signing key,
 *          and what was revoked (a token by its jti, a login by its session, a user by an epoch).
 *          Checks tokens against it; knows until when it may be trusted (tokens.lease). Reading
 *          and writing the collection is token_store.c's.
 * Form:    {_id: "key", key: <private key>, made: date}, {_id: "jti:..", expiresAt}, {_id:
 *          "session:..", expiresAt}, {_id: "user:db.name", epoch: int64, expiresAt}.
 * Owner:   the gateway.
 * Threads: any (one lock).
 * Limits:  GATE_REVOKED_MAX revocations that have not expired; no more are taken then.
 * Errors:  VD_ERR_AUTHENTICATION_FAILED with the reason (for the log). */
#pragma once
#include "veddb-gatewayd/auth/jwt.h"
#include "veddb-gatewayd/auth/signer.h"
#include "veddb-gatewayd/auth/users.h"

#include <stdatomic.h>

#define GATE_REVOKED_MAX       100000
#define GATE_TOKEN_SESSION_MAX 32 /* 16 bytes in hex */
#define GATE_TOKEN_CREDENTIAL  22 /* 16 bytes in base64url */
#define GATE_TOKEN_PRINCIPAL   GATE_JWT_PRINCIPAL_MAX

typedef struct gate gate_t;

typedef struct {
    char issuer[256], audience[256];
    uint64_t access_ms, refresh_ms, key_ms; /* key_ms 0: replaced by command alone */
    uint64_t lease_ms;                      /* 0: not looked at */
    bool with_data_keys; /* the key goes with a rotation of this node's data keys, while primary */
} gate_token_settings_t;

/* What a connection keeps of the token that it was opened with. */
typedef struct {
    char id[GATE_JWT_ID_MAX + 1];
    char session[GATE_TOKEN_SESSION_MAX + 1];
    char key_id[GATE_SIGNER_ID_MAX + 1];
    char credential[GATE_TOKEN_CREDENTIAL + 1]; /* that of the user when it was given out */
    char principal[GATE_TOKEN_PRINCIPAL + 1];   /* "db.name" */
    int64_t user_epoch;
    int64_t expires_s, left_s; /* since 1970; from when it was verified */
} gate_token_t;

typedef struct gate_tokens gate_tokens_t;

gate_tokens_t *gate_tokens_create(const gate_token_settings_t *settings);
void gate_tokens_destroy(gate_tokens_t **tokens_p);
const gate_token_settings_t *gate_tokens_settings(const gate_tokens_t *tokens);
/* The collection as it stood at `epoch` or later takes the place of what was known. What has
 * expired, or is of another form, is stepped over. VD_ERR_FULL, VD_ERR_CORRUPT: nothing changes. */
VD_MUST_CHECK int gate_tokens_set(gate_tokens_t *tokens, uint64_t epoch, const vd_bson_t *documents,
                                  uint32_t count, int64_t now_ms, vd_error_t *err);
/* As of when it is; 0: never loaded. */
uint64_t gate_tokens_epoch(const gate_tokens_t *tokens);
/* Grows with each gate_tokens_set. */
uint64_t gate_tokens_generation(const gate_tokens_t *tokens);
/* False while there is no key, which is made with the first token. */
bool gate_tokens_have_key(gate_tokens_t *tokens);
/* When the key was made; 0: there is none. */
int64_t gate_tokens_key_made_ms(gate_tokens_t *tokens);
uint32_t gate_tokens_revoked(gate_tokens_t *tokens);
/* A login, or a command of one, was refused since its token was revoked. */
void gate_tokens_count_refused(gate_tokens_t *tokens);
uint64_t gate_tokens_refused(const gate_tokens_t *tokens);
/* Appends the public keys. */
VD_MUST_CHECK int gate_tokens_jwks(gate_tokens_t *tokens, vd_buf_t *out);

/* It says that it is one of ours. */
bool gate_tokens_claimed(const gate_tokens_t *tokens, vd_slice_t token);
/* Good and not revoked; whether its user is still who they were is gate_tokens_holds' to say. */
VD_MUST_CHECK int gate_tokens_verify(gate_tokens_t *tokens, vd_slice_t token, int64_t now_s,
                                     gate_token_t *ret_token, vd_error_t *err);
/* Nothing of it was revoked. user NULL: whose user is not looked at. */
bool gate_tokens_holds(gate_tokens_t *tokens, const gate_token_t *token, const gate_user_t *user);
/* It was heard of everything at fresh_ms (STATE), which is no longer ago than the lease (0: ever).
 */
bool gate_lease_holds(uint64_t lease_ms, uint64_t fresh_ms, uint64_t now_ms);
/* Who the user is, password and all, in a form that tells nobody anything. False: no key. */
bool gate_tokens_credential(gate_tokens_t *tokens, const gate_user_t *user,
                            char ret_credential[GATE_TOKEN_CREDENTIAL + 1]);
/* A member that heard of everything at fresh_ms may take tokens now. */
bool gate_tokens_fresh(const gate_tokens_t *tokens, uint64_t fresh_ms, uint64_t now_ms);

typedef struct {
    vd_slice_t user, db, method; /* method: "pwd", "x509" */
    const char *session;
    int64_t user_epoch, now_s;
} gate_token_claims_t;
/* Appends a new access token; its jti is random. VD_ERR_NOT_FOUND: there is no key. */
VD_MUST_CHECK int gate_tokens_make(gate_tokens_t *tokens, const gate_token_claims_t *claims,
                                   const gate_user_t *user, vd_buf_t *out, vd_error_t *err);
/* MAC under the signing key: false when there is none. */
bool gate_tokens_mac(gate_tokens_t *tokens, const char *purpose, vd_slice_t bytes,
                     uint8_t ret_mac[GATE_SIGNER_MAC_BYTES]);
