/* veddb-gatewayd/auth/oidc.c — see oidc.h. */
#include "veddb-gatewayd/auth/oidc.h"

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/files.h"

#include <pthread.h>
#include <stdio.h>

#define FILE_MAX_BYTES (1u << 20)

struct gate_oidc {
    gate_oidc_settings_t settings;
    pthread_mutex_t lock; /* over keys */
    gate_jwks_t *keys;
};

static int load(const gate_oidc_settings_t *settings, gate_jwks_t **ret_keys, vd_error_t *err)
{
    vd_buf_t text;
    vd_buf_init(&text, FILE_MAX_BYTES);
    int rc = vd_files_read(settings->jwks_file, &text, err);
    if (rc != VD_OK)
        (void)vd_error_prefix(err, "oidc.jwks_file");
    if (rc == VD_OK) {
        rc = gate_jwks_parse(vd_buf_slice(&text), ret_keys, err);
        if (rc != VD_OK)
            (void)vd_error_prefix(err, "oidc.jwks_file %s", settings->jwks_file);
    }
    vd_buf_done(&text);
    return rc;
}

int gate_oidc_create(const gate_oidc_settings_t *settings, gate_oidc_t **ret_oidc, vd_error_t *err)
{
    *ret_oidc = NULL;
    if (settings->issuer[0] == 0)
        return settings->jwks_file[0] == 0 && settings->audience[0] == 0
                   ? VD_OK
                   : vd_error_set(err, VD_ERR_CONFIG, "oidc.* needs oidc.issuer");
    if (settings->audience[0] == 0 || settings->jwks_file[0] == 0 ||
        settings->principal_claim[0] == 0 || settings->name_prefix[0] == 0)
        return vd_error_set(err, VD_ERR_CONFIG,
                            "oidc.issuer needs oidc.audience, oidc.jwks_file, "
                            "oidc.principal_claim and oidc.name_prefix");
    gate_jwks_t *keys;
    int rc = load(settings, &keys, err);
    if (rc != VD_OK)
        return rc;
    gate_oidc_t *oidc = vd_xalloc(sizeof *oidc);
    oidc->settings = *settings;
    oidc->keys = keys;
    (void)pthread_mutex_init(&oidc->lock, NULL); /* can't fail with default attributes */
    *ret_oidc = oidc;
    return VD_OK;
}

void gate_oidc_destroy(gate_oidc_t **oidc_p)
{
    gate_oidc_t *oidc = *oidc_p;
    *oidc_p = NULL;
    if (oidc == NULL)
        return;
    gate_jwks_destroy(&oidc->keys);
    (void)pthread_mutex_destroy(&oidc->lock);
    vd_free(oidc);
}

int gate_oidc_reload(gate_oidc_t *oidc, vd_error_t *err)
{
    gate_jwks_t *keys;
    int rc = load(&oidc->settings, &keys, err);
    if (rc != VD_OK)
        return rc;
    (void)pthread_mutex_lock(&oidc->lock);
    gate_jwks_t *before = oidc->keys;
    oidc->keys = keys;
    (void)pthread_mutex_unlock(&oidc->lock);
    gate_jwks_destroy(&before);
    vd_log(VD_LOG_INFO, "keys of the token issuer were read again", "issuer=%s",
           oidc->settings.issuer);
    return VD_OK;
}

const gate_oidc_settings_t *gate_oidc_settings(const gate_oidc_t *oidc)
{
    return &oidc->settings;
}

int gate_oidc_verify(gate_oidc_t *oidc, vd_slice_t token, gate_oidc_login_t *ret_login,
                     vd_error_t *err)
{
    gate_jwt_t checked;
    gate_jwt_policy_t policy = {oidc->settings.issuer, oidc->settings.audience,
                                oidc->settings.principal_claim, NULL};
    int64_t now_s = vd_wall_ms() / 1000;
    (void)pthread_mutex_lock(&oidc->lock);
    int rc = gate_jwt_verify(oidc->keys, &policy, token, now_s, &checked, err);
    (void)pthread_mutex_unlock(&oidc->lock);
    if (rc != VD_OK)
        return rc;
    (void)snprintf(ret_login->user, sizeof ret_login->user, "%s/%s", oidc->settings.name_prefix,
                   checked.principal);
    (void)snprintf(ret_login->id, sizeof ret_login->id, "%s", checked.id);
    ret_login->left_s = checked.expires_s - now_s;
    return VD_OK;
}
