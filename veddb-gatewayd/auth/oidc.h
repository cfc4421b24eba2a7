/* veddb-gatewayd/auth/oidc.h — the outside issuer whose tokens are logins: its keys, and what a
 * token of it stands for.
 *
 * Duty:    the principal `p` of a good token is the user `<oidc.name_prefix>/p` of $external, as
 *          MongoDB's oidcIdentityProviders with useAuthorizationClaim false.
 * Owner:   the gateway.
 * Threads: any; reload reads a file and is for the worker. */
#pragma once
#include "veddb-gatewayd/auth/jwt.h"

#define GATE_OIDC_NAME_MAX (GATE_JWT_PRINCIPAL_MAX + 72)

typedef struct {
    char issuer[512], audience[256], jwks_file[4096], principal_claim[64], name_prefix[64],
        client_id[256];
} gate_oidc_settings_t;

typedef struct gate_oidc gate_oidc_t;

typedef struct {
    char user[GATE_OIDC_NAME_MAX]; /* in $external */
    char id[GATE_JWT_ID_MAX + 1];
    int64_t left_s; /* until it expires; more than 0 */
} gate_oidc_login_t;

/* NULL and VD_OK when no issuer is configured. */
VD_MUST_CHECK int gate_oidc_create(const gate_oidc_settings_t *settings, gate_oidc_t **ret_oidc,
                                   vd_error_t *err);
void gate_oidc_destroy(gate_oidc_t **oidc_p);
/* Reads the keys again; on failure the old stay in force. */
VD_MUST_CHECK int gate_oidc_reload(gate_oidc_t *oidc, vd_error_t *err);
const gate_oidc_settings_t *gate_oidc_settings(const gate_oidc_t *oidc);
VD_MUST_CHECK int gate_oidc_verify(gate_oidc_t *oidc, vd_slice_t token,
                                   gate_oidc_login_t *ret_login, vd_error_t *err);
