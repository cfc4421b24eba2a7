/* veddb-gatewayd/http/login.c — who asks over HTTPS: by name and password (Basic), or by a token
 * (RFC 6750), of the outside issuer or of our own. On the worker. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/auth/authorization.h"
#include "veddb-gatewayd/auth/token_store.h"
#include "veddb-gatewayd/commands/user_document.h"
#include "veddb-gatewayd/http/private.h"

#include <openssl/sha.h>
#include <stdio.h>
#include <strings.h>

#define LOGIN_KEEP_MS 60000

int gate_http_load_user(gate_t *gate, vd_arena_t *arena, vd_slice_t name, vd_slice_t db,
                        gate_user_t **ret_user, vd_error_t *err)
{
    vd_bson_t filter, *documents, *roles;
    uint32_t count, role_count;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_cstr(&bb, "_id",
               vd_arena_printf(arena, "%.*s.%.*s", VD_SLICE_FMT(db), VD_SLICE_FMT(name)));
    int rc = vd_bb_finish(&bb, &filter, err);
    if (rc == VD_OK)
        rc = gate_internal_find_within(gate, "system.users", filter, GATE_HTTP_LOGIN_WAIT_MS, arena,
                                       &documents, &count, err);
    if (rc == VD_OK)
        rc = gate_internal_find_within(gate, "system.roles", VD_BSON_NONE, GATE_HTTP_LOGIN_WAIT_MS,
                                       arena, &roles, &role_count, err);
    if (rc != VD_OK)
        return rc;
    gate_role_set_t set = {VD_ARENA_ARRAY(arena, gate_role_t, role_count + 1), role_count};
    for (uint32_t i = 0; i < role_count && rc == VD_OK; i++)
        rc = gate_role_parse(arena, roles[i], &set.items[i], err);
    uint8_t salts[32];
    gate_keys_salts(gate->keys, gate->fake_secret, salts);
    if (rc == VD_OK)
        rc = gate_user_make(name, db, count == 0 ? VD_BSON_NONE : documents[0], &set, salts,
                            ret_user, err);
    vd_wipe(salts, sizeof salts);
    return rc;
}

static bool password_matches(gate_user_t *user, vd_slice_t password)
{
    gate_scram_credentials_t derived;
    const gate_scram_credentials_t *stored = &user->credentials;
    bool good =
        gate_scram_derive(password, stored->salt, stored->salt_len, stored->iterations, &derived,
                          NULL) == VD_OK &&
        vd_equal_constant_time(derived.stored_key, stored->stored_key, sizeof derived.stored_key) &&
        stored->real;
    vd_wipe(&derived, sizeof derived);
    return good;
}

static bool may_monitor(const gate_user_t *user)
{
    return user->known &&
           gate_privileges_allow(&user->privileges, GATE_ACTION_serverStatus, GATE_RESOURCE_CLUSTER,
                                 VD_SLICE_NULL, VD_SLICE_NULL);
}

bool gate_http_comes_from(const gate_user_t *user, const gate_http_origin_t *origin)
{
    return gate_user_may_come(user, origin->client, origin->server);
}

/* ---- tokens ---- */

/* Nothing of it is kept. */
static gate_http_login_t outside(gate_http_job_t *job, vd_arena_t *arena, vd_slice_t token,
                                 gate_user_t **ret_user)
{
    gate_t *gate = job->http->gate;
    gate_oidc_login_t login;
    vd_error_t err = VD_ERROR_INIT;
    if (gate->oidc == NULL || gate_oidc_verify(gate->oidc, token, &login, &err) != VD_OK)
        return GATE_HTTP_LOGIN_BAD;
    if (gate_http_load_user(gate, arena, vd_slice_str(login.user), VD_SLICE_LIT("$external"),
                            ret_user, &err) != VD_OK)
        return GATE_HTTP_LOGIN_LATER;
    return (*ret_user)->known && gate_http_comes_from(*ret_user, &job->origin)
               ? GATE_HTTP_LOGIN_GOOD
               : GATE_HTTP_LOGIN_BAD;
}

static gate_http_login_t own(gate_http_job_t *job, vd_arena_t *arena, vd_slice_t token,
                             gate_user_t **ret_user)
{
    gate_t *gate = job->http->gate;
    gate_token_t checked;
    vd_error_t err = VD_ERROR_INIT;
    if (gate_token_store_current(gate, &err) != VD_OK ||
        !gate_tokens_fresh(gate->tokens, atomic_load(&gate->fresh_ms), vd_monotonic_ms()))
        return GATE_HTTP_LOGIN_LATER;
    if (gate_tokens_verify(gate->tokens, token, vd_wall_ms() / 1000, &checked, &err) != VD_OK)
        return GATE_HTTP_LOGIN_BAD;
    const char *dot = strchr(checked.principal, '.');
    if (gate_http_load_user(gate, arena, vd_slice_str(dot + 1),
                            vd_slice(checked.principal, (size_t)(dot - checked.principal)),
                            ret_user, &err) != VD_OK)
        return GATE_HTTP_LOGIN_LATER;
    return gate_tokens_holds(gate->tokens, &checked, *ret_user) &&
                   gate_http_comes_from(*ret_user, &job->origin)
               ? GATE_HTTP_LOGIN_GOOD
               : GATE_HTTP_LOGIN_BAD;
}

/* ---- passwords ---- */

gate_http_login_t gate_http_password(gate_http_job_t *job, vd_arena_t *arena, vd_slice_t name,
                                     vd_slice_t db, vd_slice_t password, gate_user_t **ret_user)
{
    gate_t *gate = job->http->gate;
    gate_lockout_who_t who = {name, db, job->address};
    vd_error_t err = VD_ERROR_INIT;
    char quoted[256];
    if (name.len == 0 || name.len > GATE_SCRAM_NAME_MAX || db.len == 0 ||
        db.len > VD_DATABASE_NAME_MAX_BYTES)
        return GATE_HTTP_LOGIN_BAD;
    if (gate_lockout_wait_ms(gate->lockout, &who, vd_monotonic_ms()) != 0)
        return GATE_HTTP_LOGIN_THROTTLED;
    if (gate_http_load_user(gate, arena, name, db, ret_user, &err) != VD_OK)
        return GATE_HTTP_LOGIN_LATER;
    if (password_matches(*ret_user, password) && gate_http_comes_from(*ret_user, &job->origin)) {
        gate_lockout_good(gate->lockout, &who, vd_monotonic_ms());
        return GATE_HTTP_LOGIN_GOOD;
    }
    if (gate_lockout_failed(gate->lockout, &who, vd_monotonic_ms()))
        vd_log(VD_LOG_WARN, "a user is locked out from an address", "client=%s user=%s",
               job->origin.client, vd_log_quote(name, quoted, sizeof quoted));
    return GATE_HTTP_LOGIN_BAD;
}

/* ---- headers ---- */

gate_http_login_t gate_http_identify(gate_http_job_t *job, vd_arena_t *arena,
                                     gate_user_t **ret_user)
{
    gate_authorization_t said;
    gate_http_login_t login = GATE_HTTP_LOGIN_BAD;
    if (job->header == NULL)
        return GATE_HTTP_LOGIN_BAD;
    gate_authorization_parse(job->header, &said);
    if (said.kind == GATE_AUTHORIZATION_BEARER)
        login = gate_tokens_claimed(job->http->gate->tokens, said.token)
                    ? own(job, arena, said.token, ret_user)
                    : outside(job, arena, said.token, ret_user);
    else if (said.kind == GATE_AUTHORIZATION_BASIC)
        login = gate_http_password(job, arena, said.name, VD_SLICE_LIT("admin"), said.password,
                                   ret_user);
    vd_wipe(&said, sizeof said);
    return login;
}

/* Tokens have no digest: each is looked at anew. */
static bool digest_of(const gate_http_job_t *job, uint8_t digest[32])
{
    uint8_t salted[16 + 2 * GATE_AUTHORIZATION_TEXT_MAX + sizeof job->origin];
    size_t len = strlen(job->header);
    if (strncasecmp(job->header, "Basic ", 6) != 0 || len > 2 * GATE_AUTHORIZATION_TEXT_MAX)
        return false;
    memcpy(salted, job->http->gate->instance, 16);
    memcpy(salted + 16, job->header, len);
    memcpy(salted + 16 + len, &job->origin, sizeof job->origin);
    (void)SHA256(salted, 16 + len + sizeof job->origin, digest);
    vd_wipe(salted, sizeof salted);
    return true;
}

static bool is_current(const gate_http_t *http, const uint8_t digest[32])
{
    return http->last_known && http->last_epoch == atomic_load(&http->gate->auth_epoch) &&
           vd_monotonic_ms() - http->last_ms < LOGIN_KEEP_MS &&
           vd_equal_constant_time(http->last_login, digest, 32);
}

gate_http_login_t gate_http_check_monitor(gate_http_job_t *job)
{
    gate_http_t *http = job->http;
    uint8_t digest[32];
    gate_user_t *user = NULL;
    bool keeps = digest_of(job, digest);
    if (keeps && is_current(http, digest))
        return GATE_HTTP_LOGIN_GOOD;
    uint64_t epoch = atomic_load(&http->gate->auth_epoch);
    vd_arena_t *arena = vd_arena_create();
    gate_http_login_t login = gate_http_identify(job, arena, &user);
    if (login == GATE_HTTP_LOGIN_GOOD && !may_monitor(user))
        login = GATE_HTTP_LOGIN_FORBIDDEN;
    if (login == GATE_HTTP_LOGIN_GOOD && keeps) {
        memcpy(http->last_login, digest, sizeof digest);
        http->last_epoch = epoch, http->last_ms = vd_monotonic_ms(), http->last_known = true;
    }
    gate_user_drop(&user);
    vd_arena_destroy(&arena);
    return login;
}
