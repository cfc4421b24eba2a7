/* veddb-gatewayd/auth/token_store.h — tokens in storage: the signing key, revocations, refresh
 * tokens.
 *
 * Duty:    reads admin.system.tokens into tokens.h; makes and replaces the key; gives out and
 *          renews pairs of tokens; revokes. Revocations are on a majority's disks, and in force
 *          here, when the call returns. Decides nothing about who may.
 * Form:    of a session: {_id, user, db, method, n, hash, epoch, credential (that of the user
 *          when it began), begun, used, address, expiresAt}; the key's document also has
 *          dataKeys: [{member, version}], the data key that each member's last completed rotation
 *          had led to when the key was made; admin.system.refresh_tokens: {_id: session, user,
 *          db, method, n: int32, hash: SHA-256 of the one that is good, epoch: int64, begun:
 *          date, expiresAt: date}.
 * Threads: blocks: on a worker. Those that write need this member to be primary. want: any.
 * Errors:  VD_ERR_AUTHENTICATION_FAILED, VD_ERR_FULL (too many revocations), storage's own. */
#pragma once
#include "veddb-gatewayd/auth/tokens.h"

#define GATE_REFRESH_BYTES 68 /* session 16, n 4, random 16, MAC 32 */
#define GATE_REFRESH_TEXT  91 /* in base64url */

typedef struct {
    vd_buf_t access;
    char refresh[GATE_REFRESH_TEXT + 2];
    int64_t expires_in_s;
    char session[GATE_TOKEN_SESSION_MAX + 1];
} gate_token_pair_t;
void gate_token_pair_done(gate_token_pair_t *pair);

/* What was known is read again when storage has moved on. */
VD_MUST_CHECK int gate_token_store_current(gate_t *gate, vd_error_t *err);
/* The same, later, on the worker of tokens. */
void gate_token_store_want(gate_t *gate);
/* Every few seconds, on the worker of tokens: a key that is due is replaced, by its age or because
 * this node's data keys have rotated; what has expired goes. */
void gate_token_store_maintain(void *gate);

/* A new session of this user; makes the key when there is none. */
VD_MUST_CHECK int gate_token_issue(gate_t *gate, const gate_user_t *user, const char *method,
                                   const char *client, gate_token_pair_t *ret_pair,
                                   vd_error_t *err);

typedef struct {
    char session[GATE_TOKEN_SESSION_MAX + 1];
    vd_slice_t user, db, method; /* in the arena */
    uint32_t n;
    uint8_t hash[32];
    int64_t user_epoch;
    char credential[GATE_TOKEN_CREDENTIAL + 1];
    bool reused; /* it was used before: the session is revoked now */
} gate_refresh_t;
/* Whose it is, if it is good. VD_ERR_AUTHENTICATION_FAILED: it is not; ret_refresh says whose it
 * was when it is one that was used (user may be empty: the session is gone). */
VD_MUST_CHECK int gate_refresh_find(gate_t *gate, vd_slice_t text, vd_arena_t *arena,
                                    gate_refresh_t *ret_refresh, vd_error_t *err);
/* Uses it up for the next pair. VD_ERR_AUTHENTICATION_FAILED: the user has another password, or is
 * another; the session is over. */
VD_MUST_CHECK int gate_refresh_use(gate_t *gate, gate_refresh_t *refresh, const gate_user_t *user,
                                   const char *client, gate_token_pair_t *ret_pair,
                                   vd_error_t *err);

/* By its jti; until then it could have lived (0: as long as any). */
VD_MUST_CHECK int gate_token_revoke_id(gate_t *gate, vd_slice_t id, int64_t expires_s,
                                       vd_error_t *err);
/* All access tokens and the refresh token of a login. */
VD_MUST_CHECK int gate_token_revoke_session(gate_t *gate, const char *session, vd_error_t *err);
VD_MUST_CHECK int gate_token_revoke_user(gate_t *gate, vd_slice_t name, vd_slice_t db,
                                         vd_error_t *err);
/* All tokens: the signing key is replaced. */
VD_MUST_CHECK int gate_token_rotate(gate_t *gate, vd_error_t *err);
