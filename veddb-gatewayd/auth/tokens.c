/* veddb-gatewayd/auth/tokens.c — see tokens.h. */
#include "veddb-gatewayd/auth/tokens.h"

#include "libcommon/base/log.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define TYPE           "at+jwt"
#define CREDENTIAL_LEN 16
#define CLAIMS_MAX     8192

/* What is in force together. */
typedef struct {
    gate_signer_t *signer; /* NULL: none yet */
    gate_jwks_t *keys;
    int64_t made_ms;
    vd_map_t *revoked; /* by _id; of a user the epoch, else 1 */
} view_t;

struct gate_tokens {
    gate_token_settings_t settings;
    pthread_mutex_t lock; /* over view */
    view_t view;
    _Atomic uint64_t epoch, generation, refused;
};

static void view_done(view_t *view)
{
    gate_signer_destroy(&view->signer);
    gate_jwks_destroy(&view->keys);
    if (view->revoked != NULL)
        vd_map_destroy(&view->revoked);
}

gate_tokens_t *gate_tokens_create(const gate_token_settings_t *settings)
{
    gate_tokens_t *tokens = vd_xalloc(sizeof *tokens);
    tokens->settings = *settings;
    (void)pthread_mutex_init(&tokens->lock, NULL); /* can't fail with default attributes */
    tokens->view.revoked = vd_map_create(GATE_REVOKED_MAX);
    return tokens;
}

void gate_tokens_destroy(gate_tokens_t **tokens_p)
{
    gate_tokens_t *tokens = *tokens_p;
    *tokens_p = NULL;
    if (tokens == NULL)
        return;
    view_done(&tokens->view);
    (void)pthread_mutex_destroy(&tokens->lock);
    vd_free(tokens);
}

const gate_token_settings_t *gate_tokens_settings(const gate_tokens_t *tokens)
{
    return &tokens->settings;
}

/* ---- what the collection says ---- */

static int read_key(view_t *view, vd_bson_t document, vd_error_t *err)
{
    vd_value_t key = vd_bson_get(document, "key"), made = vd_bson_get(document, "made");
    if (key.type != VD_BSON_BINARY || made.type != VD_BSON_DATE)
        return vd_error_set(err, VD_ERR_CORRUPT, "the stored signing key has another form");
    int rc = gate_signer_create(vd_value_binary(key, NULL), &view->signer, err);
    if (rc == VD_OK)
        rc = gate_jwks_parse(vd_slice_str(gate_signer_jwks(view->signer)), &view->keys, err);
    view->made_ms = vd_value_int64(made);
    return rc;
}

static int read_document(view_t *view, vd_bson_t document, int64_t now_ms, vd_error_t *err)
{
    vd_value_t id = vd_bson_get(document, "_id"), until = vd_bson_get(document, "expiresAt");
    if (id.type != VD_BSON_STRING)
        return VD_OK;
    vd_slice_t name = vd_value_string(id);
    if (vd_slice_is(name, "key"))
        return read_key(view, document, err);
    if (until.type != VD_BSON_DATE || vd_value_int64(until) <= now_ms)
        return VD_OK;
    int64_t epoch = 1;
    if (vd_slice_starts_with(name, VD_SLICE_LIT("user:")) &&
        (!vd_value_as_int64(vd_bson_get(document, "epoch"), &epoch) || epoch <= 0))
        return VD_OK;
    if (vd_map_put(view->revoked, name, (void *)(uintptr_t)epoch, NULL) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "more than %u revoked tokens", GATE_REVOKED_MAX);
    return VD_OK;
}

int gate_tokens_set(gate_tokens_t *tokens, uint64_t epoch, const vd_bson_t *documents,
                    uint32_t count, int64_t now_ms, vd_error_t *err)
{
    view_t view = {.revoked = vd_map_create(GATE_REVOKED_MAX)};
    int rc = VD_OK;
    for (uint32_t i = 0; i < count && rc == VD_OK; i++)
        rc = read_document(&view, documents[i], now_ms, err);
    if (rc == VD_OK) {
        (void)pthread_mutex_lock(&tokens->lock);
        /* Two that load at once: what is older does not come back. */
        if (epoch >= atomic_load(&tokens->epoch)) {
            view_t before = tokens->view;
            tokens->view = view;
            view = before;
            atomic_store(&tokens->epoch, epoch);
            atomic_fetch_add(&tokens->generation, 1);
        }
        (void)pthread_mutex_unlock(&tokens->lock);
    }
    view_done(&view);
    return rc;
}

uint64_t gate_tokens_epoch(const gate_tokens_t *tokens)
{
    return atomic_load(&tokens->epoch);
}

uint64_t gate_tokens_generation(const gate_tokens_t *tokens)
{
    return atomic_load(&tokens->generation);
}

bool gate_tokens_have_key(gate_tokens_t *tokens)
{
    return gate_tokens_key_made_ms(tokens) != 0;
}

int64_t gate_tokens_key_made_ms(gate_tokens_t *tokens)
{
    (void)pthread_mutex_lock(&tokens->lock);
    int64_t made_ms = tokens->view.signer == NULL ? 0 : tokens->view.made_ms;
    (void)pthread_mutex_unlock(&tokens->lock);
    return made_ms;
}

uint32_t gate_tokens_revoked(gate_tokens_t *tokens)
{
    (void)pthread_mutex_lock(&tokens->lock);
    uint32_t count = (uint32_t)vd_map_count(tokens->view.revoked);
    (void)pthread_mutex_unlock(&tokens->lock);
    return count;
}

void gate_tokens_count_refused(gate_tokens_t *tokens)
{
    atomic_fetch_add_explicit(&tokens->refused, 1, memory_order_relaxed);
}

uint64_t gate_tokens_refused(const gate_tokens_t *tokens)
{
    return atomic_load_explicit(&tokens->refused, memory_order_relaxed);
}

int gate_tokens_jwks(gate_tokens_t *tokens, vd_buf_t *out)
{
    (void)pthread_mutex_lock(&tokens->lock);
    const char *text =
        tokens->view.signer == NULL ? "{\"keys\":[]}" : gate_signer_jwks(tokens->view.signer);
    int rc = vd_buf_append(out, text, strlen(text));
    (void)pthread_mutex_unlock(&tokens->lock);
    return rc;
}

/* ---- checks ---- */

bool gate_tokens_claimed(const gate_tokens_t *tokens, vd_slice_t token)
{
    return gate_jwt_claims_issuer(token, tokens->settings.issuer);
}

static bool named(const view_t *view, const char *kind, const char *name, uint64_t *ret_value)
{
    char id[16 + GATE_JWT_PRINCIPAL_MAX];
    int len = snprintf(id, sizeof id, "%s:%s", kind, name);
    void *value = len <= 0 || (size_t)len >= sizeof id
                      ? NULL
                      : vd_map_get(view->revoked, vd_slice(id, (size_t)len));
    *ret_value = (uint64_t)(uintptr_t)value;
    return value != NULL;
}

/* NULL: nothing was revoked. */
static const char *revoked_by(const view_t *view, const gate_token_t *token)
{
    uint64_t value;
    if (view->signer == NULL || strcmp(gate_signer_id(view->signer), token->key_id) != 0)
        return "its key was replaced";
    if (named(view, "jti", token->id, &value))
        return "it was revoked";
    if (named(view, "session", token->session, &value))
        return "its session was revoked";
    if (named(view, "user", token->principal, &value) && value > (uint64_t)token->user_epoch)
        return "the tokens of its user were revoked";
    return NULL;
}

int gate_tokens_verify(gate_tokens_t *tokens, vd_slice_t token, int64_t now_s,
                       gate_token_t *ret_token, vd_error_t *err)
{
    const gate_token_settings_t *settings = &tokens->settings;
    gate_jwt_policy_t policy = {settings->issuer, settings->audience, "sub", TYPE};
    gate_jwt_t read;
    int rc;
    (void)pthread_mutex_lock(&tokens->lock);
    if (tokens->view.keys == NULL)
        rc = vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "token: there is no key");
    else
        rc = gate_jwt_verify(tokens->view.keys, &policy, token, now_s, &read, err);
    if (rc == VD_OK &&
        (read.id[0] == 0 || strlen(read.session) != GATE_TOKEN_SESSION_MAX ||
         strlen(read.credential) != GATE_TOKEN_CREDENTIAL || strchr(read.principal, '.') == NULL))
        rc = vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "token: a claim is missing");
    if (rc == VD_OK) {
        gate_token_t good = {.user_epoch = read.user_epoch,
                             .expires_s = read.expires_s,
                             .left_s = read.expires_s - now_s};
        memcpy(good.id, read.id, sizeof good.id);
        memcpy(good.session, read.session, sizeof good.session);
        memcpy(good.credential, read.credential, sizeof good.credential);
        memcpy(good.principal, read.principal, sizeof good.principal);
        memcpy(good.key_id, read.key_id, sizeof good.key_id - 1); /* verified: it is ours */
        const char *why = revoked_by(&tokens->view, &good);
        if (why != NULL) {
            gate_tokens_count_refused(tokens);
            rc = vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "token: %s", why);
        }
        if (rc == VD_OK)
            *ret_token = good;
    }
    (void)pthread_mutex_unlock(&tokens->lock);
    return rc;
}

/* Who the user is, password and all, in a form that tells nobody anything. */
static void credential_of(const gate_signer_t *signer, const gate_user_t *user,
                          char out[GATE_TOKEN_CREDENTIAL + 3])
{
    uint8_t mac[GATE_SIGNER_MAC_BYTES];
    gate_signer_mac(signer, "credential", vd_slice(user->identity, sizeof user->identity), mac);
    (void)gate_base64url_encode(vd_slice(mac, CREDENTIAL_LEN), out);
}

bool gate_tokens_holds(gate_tokens_t *tokens, const gate_token_t *token, const gate_user_t *user)
{
    char credential[GATE_TOKEN_CREDENTIAL + 3];
    (void)pthread_mutex_lock(&tokens->lock);
    bool holds = revoked_by(&tokens->view, token) == NULL;
    if (holds && user != NULL) {
        credential_of(tokens->view.signer, user, credential);
        holds = user->known &&
                vd_equal_constant_time(credential, token->credential, GATE_TOKEN_CREDENTIAL);
    }
    (void)pthread_mutex_unlock(&tokens->lock);
    return holds;
}

bool gate_tokens_credential(gate_tokens_t *tokens, const gate_user_t *user,
                            char ret_credential[GATE_TOKEN_CREDENTIAL + 1])
{
    char credential[GATE_TOKEN_CREDENTIAL + 3];
    (void)pthread_mutex_lock(&tokens->lock);
    bool there = tokens->view.signer != NULL;
    if (there) {
        credential_of(tokens->view.signer, user, credential);
        memcpy(ret_credential, credential, GATE_TOKEN_CREDENTIAL);
        ret_credential[GATE_TOKEN_CREDENTIAL] = 0;
    }
    (void)pthread_mutex_unlock(&tokens->lock);
    return there;
}

bool gate_lease_holds(uint64_t lease_ms, uint64_t fresh_ms, uint64_t now_ms)
{
    return lease_ms == 0 || fresh_ms == UINT64_MAX ||
           (fresh_ms != 0 && now_ms <= fresh_ms + lease_ms);
}

bool gate_tokens_fresh(const gate_tokens_t *tokens, uint64_t fresh_ms, uint64_t now_ms)
{
    return gate_lease_holds(tokens->settings.lease_ms, fresh_ms, now_ms);
}

/* ---- new ones ---- */

static const char *quoted(vd_arena_t *arena, vd_slice_t text)
{
    return vd_value_to_json(arena, vd_value_from_string(arena, text), 4096);
}

static int print_claims(const gate_tokens_t *tokens, const gate_token_claims_t *claims,
                        const char *credential, vd_arena_t *arena, vd_buf_t *out)
{
    const gate_token_settings_t *settings = &tokens->settings;
    uint8_t random[16];
    char id[32];
    int64_t life_s = (int64_t)((settings->access_ms + 999) / 1000);
    vd_rand_secret(random, sizeof random);
    (void)gate_base64url_encode(vd_slice(random, sizeof random), id);
    char *principal =
        vd_arena_printf(arena, "%.*s.%.*s", VD_SLICE_FMT(claims->db), VD_SLICE_FMT(claims->user));
    return vd_buf_printf(
        out,
        "{\"iss\":%s,\"aud\":%s,\"sub\":%s,\"client_id\":\"veddb\",\"iat\":%lld,\"nbf\":%lld,"
        "\"exp\":%lld,\"jti\":\"%s\",\"sid\":\"%s\",\"amr\":[%s],\"vd_cred\":\"%s\","
        "\"vd_epoch\":%lld}",
        quoted(arena, vd_slice_str(settings->issuer)),
        quoted(arena, vd_slice_str(settings->audience)), quoted(arena, vd_slice_str(principal)),
        (long long)claims->now_s, (long long)claims->now_s, (long long)(claims->now_s + life_s), id,
        claims->session, quoted(arena, claims->method), credential, (long long)claims->user_epoch);
}

int gate_tokens_make(gate_tokens_t *tokens, const gate_token_claims_t *claims,
                     const gate_user_t *user, vd_buf_t *out, vd_error_t *err)
{
    char credential[GATE_TOKEN_CREDENTIAL + 3];
    vd_buf_t text;
    vd_arena_t *arena = vd_arena_create();
    int rc;
    vd_buf_init(&text, CLAIMS_MAX);
    if (claims->db.len + 1 + claims->user.len > GATE_TOKEN_PRINCIPAL)
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "the user's name is too long for a token");
    else
        rc = VD_OK;
    (void)pthread_mutex_lock(&tokens->lock);
    if (rc == VD_OK && tokens->view.signer == NULL)
        rc = vd_error_set(err, VD_ERR_NOT_FOUND, "there is no signing key yet");
    if (rc == VD_OK) {
        credential_of(tokens->view.signer, user, credential);
        rc = print_claims(tokens, claims, credential, arena, &text);
        if (rc == VD_OK)
            rc = gate_signer_sign(tokens->view.signer, vd_buf_slice(&text), out, err);
    }
    (void)pthread_mutex_unlock(&tokens->lock);
    vd_buf_done(&text);
    vd_arena_destroy(&arena);
    return rc;
}

bool gate_tokens_mac(gate_tokens_t *tokens, const char *purpose, vd_slice_t bytes,
                     uint8_t ret_mac[GATE_SIGNER_MAC_BYTES])
{
    (void)pthread_mutex_lock(&tokens->lock);
    bool there = tokens->view.signer != NULL;
    if (there)
        gate_signer_mac(tokens->view.signer, purpose, bytes, ret_mac);
    (void)pthread_mutex_unlock(&tokens->lock);
    return there;
}
