/* veddb-gatewayd/http/tokens.c — our own tokens over HTTPS: given out, renewed (RFC 6749, with RFC
 * 9068's form), revoked (RFC 7009), and their public keys (RFC 7517). On the worker.
 *
 * Whoever is refused learns no more than by a wrong password. What is given out, and what is
 * refused, is in the audit log before the answer leaves; if it can't be, nothing is given out. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/auth/authorization.h"
#include "veddb-gatewayd/auth/token_sessions.h"
#include "veddb-gatewayd/auth/token_store.h"
#include "veddb-gatewayd/http/private.h"

#include <bson/bson.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define EXTERNAL  "$external"
#define FIELD_MAX 4096

/* What a body says; NULL: nothing. All of it is wiped. */
typedef struct {
    char *grant_type, *username, *password, *db, *refresh_token, *token, *user;
} fields_t;

static const struct {
    const char *name;
    size_t at;
} names[] = {
    {"grant_type", offsetof(fields_t, grant_type)},
    {"username", offsetof(fields_t, username)},
    {"password", offsetof(fields_t, password)},
    {"db", offsetof(fields_t, db)},
    {"refresh_token", offsetof(fields_t, refresh_token)},
    {"token", offsetof(fields_t, token)},
    {"user", offsetof(fields_t, user)},
};

static char **field_of(fields_t *fields, size_t i)
{
    return (char **)(void *)((uint8_t *)fields + names[i].at);
}

static void fields_done(fields_t *fields)
{
    for (size_t i = 0; i < VD_COUNT_OF(names); i++) {
        char *text = *field_of(fields, i);
        if (text != NULL)
            vd_wipe(text, strlen(text));
        vd_free(text);
    }
}

static bool read_json(vd_slice_t body, fields_t *fields)
{
    bson_iter_t at;
    bson_t *doc = gate_http_json(body);
    bool good = doc != NULL;
    for (size_t i = 0; good && i < VD_COUNT_OF(names); i++) {
        uint32_t len = 0;
        if (!bson_iter_init_find(&at, doc, names[i].name))
            continue;
        const char *text = BSON_ITER_HOLDS_UTF8(&at) ? bson_iter_utf8(&at, &len) : NULL;
        good = text != NULL && strlen(text) == len && len < FIELD_MAX;
        if (good)
            *field_of(fields, i) = vd_xstrdup(text);
    }
    if (doc != NULL) {
        vd_wipe((void *)(uintptr_t)bson_get_data(doc), doc->len);
        bson_destroy(doc);
    }
    return good;
}

static bool read_form(vd_slice_t body, fields_t *fields)
{
    struct evkeyvalq pairs;
    char *text = vd_xstrndup(body.data, body.len);
    bool good = strlen(text) == body.len && evhttp_parse_query_str(text, &pairs) == 0;
    for (size_t i = 0; good && i < VD_COUNT_OF(names); i++) {
        const char *value = evhttp_find_header(&pairs, names[i].name);
        if (value != NULL)
            *field_of(fields, i) = vd_xstrdup(value);
    }
    if (good) {
        for (struct evkeyval *pair = pairs.tqh_first; pair != NULL; pair = pair->next.tqe_next)
            vd_wipe(pair->value, strlen(pair->value));
        evhttp_clear_headers(&pairs);
    }
    vd_wipe(text, body.len);
    vd_free(text);
    return good;
}

/* An empty body says nothing. */
static bool read_fields(const gate_http_job_t *job, fields_t *fields)
{
    vd_slice_t body = vd_buf_slice(&job->body);
    if (body.len == 0)
        return true;
    bool json = job->type != NULL && strncasecmp(job->type, "application/json", 16) == 0;
    return json ? read_json(body, fields) : read_form(body, fields);
}

/* ---- answers ---- */

/* Of what can't be done: why is for the log. */
static void fail_error(gate_http_job_t *job, const char *what, const vd_error_t *err)
{
    char text[600], quoted[700];
    vd_log(
        VD_LOG_WARN, what, "client=%s error=%s", job->origin.client,
        vd_log_quote(vd_slice_str(vd_error_print(err, text, sizeof text)), quoted, sizeof quoted));
    if (err->code == VD_ERR_BAD_VALUE)
        gate_http_fail(job, 400, "invalid_request", "a name is missing or too long");
    else
        gate_http_fail(job, 503, "temporarily_unavailable", "it could not be done: see the log");
}

/* Tokens are documents: given out and revoked where writes are taken. */
static bool writable(gate_http_job_t *job)
{
    gate_member_t member;
    gate_member_read(job->http->gate, NULL, &member);
    if (member.ready && member.primary)
        return true;
    gate_http_fail(job, 503, "temporarily_unavailable",
                   "this member takes no writes: ask the primary");
    return false;
}

/* ---- POST /v1/token ---- */

static void give(gate_http_job_t *job, const gate_user_t *user, const char *what,
                 const gate_token_pair_t *pair)
{
    vd_error_t err = VD_ERROR_INIT;
    char session[16 + GATE_TOKEN_SESSION_MAX];
    (void)snprintf(session, sizeof session, "session %s", pair->session);
    if (gate_http_note(job, "authenticate", user, what, session, VD_OK, &err) != VD_OK) {
        fail_error(job, "a token was not given out: the audit log does not take it", &err);
        return;
    }
    atomic_fetch_add_explicit(&job->http->gate->stats.logins, 1, memory_order_relaxed);
    job->status = 200, job->reason = "OK";
    job->rc = vd_buf_printf(&job->out,
                            "{\"access_token\":\"%.*s\",\"token_type\":\"Bearer\",\"expires_in\":"
                            "%lld,\"refresh_token\":\"%s\"}\n",
                            (int)vd_buf_len(&pair->access),
                            (const char *)vd_buf_slice(&pair->access).data,
                            (long long)pair->expires_in_s, pair->refresh);
}

static void issue(gate_http_job_t *job, gate_http_login_t login, const gate_user_t *user,
                  const char *method, const char *what)
{
    gate_token_pair_t pair;
    vd_error_t err = VD_ERROR_INIT;
    if (login != GATE_HTTP_LOGIN_GOOD) {
        gate_http_refused(job, user, what, login);
        return;
    }
    if (gate_token_issue(job->http->gate, user, method, job->origin.client, &pair, &err) == VD_OK)
        give(job, user, what, &pair);
    else
        fail_error(job, "a token was not given out", &err);
    gate_token_pair_done(&pair);
}

static void by_password(gate_http_job_t *job, const fields_t *fields, vd_arena_t *arena)
{
    gate_authorization_t said = {.kind = GATE_AUTHORIZATION_NONE};
    vd_slice_t name = VD_SLICE_NULL, password = VD_SLICE_NULL,
               db = fields->db == NULL ? VD_SLICE_LIT("admin") : vd_slice_str(fields->db);
    gate_user_t *user = NULL;
    gate_http_login_t login = GATE_HTTP_LOGIN_BAD;
    if (job->header != NULL)
        gate_authorization_parse(job->header, &said);
    bool given = said.kind == GATE_AUTHORIZATION_BASIC;
    if (given)
        name = said.name, password = said.password;
    else if (fields->username != NULL && fields->password != NULL) {
        name = vd_slice_str(fields->username), password = vd_slice_str(fields->password);
        given = true;
    }
    if (!given) {
        gate_http_fail(job, 400, "invalid_request",
                       "username and password, or HTTP Basic, are needed");
        return;
    }
    login = gate_http_password(job, arena, name, db, password, &user);
    vd_wipe(&said, sizeof said);
    issue(job, login, user, "pwd", "POST /v1/token password");
    gate_user_drop(&user);
}

static void by_certificate(gate_http_job_t *job, vd_arena_t *arena)
{
    gate_user_t *user = NULL;
    vd_error_t err = VD_ERROR_INIT;
    gate_http_login_t login = GATE_HTTP_LOGIN_BAD;
    if (job->certificate == NULL) {
        gate_http_fail(job, 400, "invalid_request", "no client certificate was shown");
        return;
    }
    if (gate_http_load_user(job->http->gate, arena, vd_slice_str(job->certificate),
                            VD_SLICE_LIT(EXTERNAL), &user, &err) != VD_OK)
        login = GATE_HTTP_LOGIN_LATER;
    else if (user->known && gate_http_comes_from(user, &job->origin))
        login = GATE_HTTP_LOGIN_GOOD;
    issue(job, login, user, "x509", "POST /v1/token certificate");
    gate_user_drop(&user);
}

/* Somebody has a token that was used: who, from where, is worth an event of its own. */
static void reused(gate_http_job_t *job, const gate_refresh_t *refresh)
{
    vd_error_t err = VD_ERROR_INIT;
    char session[16 + GATE_TOKEN_SESSION_MAX];
    (void)snprintf(session, sizeof session, "session %s", refresh->session);
    gate_audit_note_t event = {.atype = "refreshTokenReuse",
                               .subject = refresh->user,
                               .subject_db = refresh->db,
                               .client = job->origin.client,
                               .param = "POST /v1/token refresh_token",
                               .detail = session,
                               .result = VD_ERR_AUTHENTICATION_FAILED};
    vd_log(VD_LOG_WARN, "a refresh token was used twice: its session is revoked",
           "client=%s session=%s", job->origin.client, refresh->session);
    (void)gate_audit_outside(job->http->gate, &event, &err); /* it is refused anyway; logged */
}

static void by_refresh(gate_http_job_t *job, const fields_t *fields, vd_arena_t *arena)
{
    static const char what[] = "POST /v1/token refresh_token";
    gate_t *gate = job->http->gate;
    gate_refresh_t refresh;
    gate_token_pair_t pair = {0};
    gate_user_t *user = NULL;
    vd_error_t err = VD_ERROR_INIT;
    if (fields->refresh_token == NULL) {
        gate_http_fail(job, 400, "invalid_request", "refresh_token is needed");
        return;
    }
    int rc = gate_refresh_find(gate, vd_slice_str(fields->refresh_token), arena, &refresh, &err);
    if (rc == VD_OK)
        rc = gate_http_load_user(gate, arena, refresh.user, refresh.db, &user, &err);
    if (rc == VD_OK && (!user->known || !gate_http_comes_from(user, &job->origin)))
        rc = vd_error_set(&err, VD_ERR_AUTHENTICATION_FAILED, "refresh token: its user may not");
    if (rc == VD_OK)
        rc = gate_refresh_use(gate, &refresh, user, job->origin.client, &pair, &err);
    if (refresh.reused)
        reused(job, &refresh);
    if (rc == VD_OK)
        give(job, user, what, &pair);
    else if (rc == VD_ERR_AUTHENTICATION_FAILED)
        gate_http_refused(job, user, what, GATE_HTTP_LOGIN_BAD);
    else
        fail_error(job, "a token was not renewed", &err);
    gate_token_pair_done(&pair);
    gate_user_drop(&user);
}

static void token_act(gate_http_job_t *job)
{
    fields_t fields = {0};
    vd_arena_t *arena = vd_arena_create();
    const char *grant;
    if (!writable(job))
        goto cleanup;
    if (gate_limits_login_wait_ms(job->http->gate->limits, &job->address) != 0) {
        gate_http_fail_login(job, GATE_HTTP_LOGIN_THROTTLED);
        goto cleanup;
    }
    if (!read_fields(job, &fields)) {
        gate_http_fail(job, 400, "invalid_request", "the body can't be read");
        goto cleanup;
    }
    grant = fields.grant_type != NULL      ? fields.grant_type
            : fields.refresh_token != NULL ? "refresh_token"
            : job->header != NULL          ? "password"
            : fields.username != NULL      ? "password"
                                           : "certificate";
    if (strcmp(grant, "password") == 0)
        by_password(job, &fields, arena);
    else if (strcmp(grant, "refresh_token") == 0)
        by_refresh(job, &fields, arena);
    else if (strcmp(grant, "certificate") == 0)
        by_certificate(job, arena);
    else
        gate_http_fail(job, 400, "unsupported_grant_type",
                       "password, certificate or refresh_token");
cleanup:
    fields_done(&fields);
    vd_arena_destroy(&arena);
}

/* ---- revocation ---- */

static void done(gate_http_job_t *job)
{
    job->status = 200, job->reason = "OK";
    job->rc = vd_buf_append(&job->out, "{}\n", 3);
}

/* Who has a token may end it, and what came of the same login: RFC 7009. What is none is as good as
 * revoked. */
static int revoke_token(gate_http_job_t *job, const char *text, vd_arena_t *arena, bool *ret_found,
                        vd_error_t *err)
{
    gate_t *gate = job->http->gate;
    gate_token_t token;
    gate_refresh_t refresh;
    vd_slice_t slice = vd_slice_str(text);
    *ret_found = false;
    int rc = gate_token_store_current(gate, err);
    if (rc != VD_OK)
        return rc;
    if (gate_tokens_claimed(gate->tokens, slice)) {
        if (gate_tokens_verify(gate->tokens, slice, vd_wall_ms() / 1000, &token, NULL) != VD_OK)
            return VD_OK;
        *ret_found = true;
        return gate_token_revoke_id(gate, vd_slice_str(token.id), token.expires_s, err);
    }
    rc = gate_refresh_find(gate, slice, arena, &refresh, err);
    if (refresh.reused)
        reused(job, &refresh);
    if (rc == VD_ERR_AUTHENTICATION_FAILED) {
        vd_error_clear(err);
        return VD_OK;
    }
    *ret_found = rc == VD_OK;
    return rc == VD_OK ? gate_token_revoke_session(gate, refresh.session, err) : rc;
}

static void revoke_act(gate_http_job_t *job)
{
    fields_t fields = {0};
    vd_error_t err = VD_ERROR_INIT;
    vd_arena_t *arena = vd_arena_create();
    bool found = false;
    if (!writable(job))
        goto cleanup;
    if (!read_fields(job, &fields) || fields.token == NULL) {
        gate_http_fail(job, 400, "invalid_request", "token is needed");
        goto cleanup;
    }
    int rc = revoke_token(job, fields.token, arena, &found, &err);
    if (rc == VD_OK && found)
        rc = gate_http_note(job, "revokeToken", NULL, "POST /v1/token/revoke", NULL, VD_OK, &err);
    if (rc == VD_OK)
        done(job);
    else
        fail_error(job, "a token was not revoked", &err);
cleanup:
    fields_done(&fields);
    vd_arena_destroy(&arena);
}

static void revoke_user_act(gate_http_job_t *job)
{
    static const char what[] = "POST /v1/tokens/revoke-user";
    fields_t fields = {0};
    vd_error_t err = VD_ERROR_INIT;
    vd_arena_t *arena = vd_arena_create();
    gate_user_t *user = NULL;
    const char *db;
    if (!writable(job))
        goto cleanup;
    if (!read_fields(job, &fields) || fields.user == NULL || fields.user[0] == 0) {
        gate_http_fail(job, 400, "invalid_request", "user is needed");
        goto cleanup;
    }
    db = fields.db == NULL ? "admin" : fields.db;
    if (!gate_http_allowed(job, "revokeUserTokens", db, arena, &user, what))
        goto cleanup;
    int rc =
        gate_token_revoke_user(job->http->gate, vd_slice_str(fields.user), vd_slice_str(db), &err);
    gate_audit_note_t event = {.atype = "revokeUserTokens",
                               .user = user,
                               .subject = vd_slice_str(fields.user),
                               .subject_db = vd_slice_str(db),
                               .client = job->origin.client,
                               .param = what,
                               .result = rc};
    int noted = gate_audit_outside(job->http->gate, &event, rc == VD_OK ? &err : NULL);
    if (rc == VD_OK && noted == VD_OK)
        done(job);
    else
        fail_error(job, "the tokens of a user were not revoked", &err);
cleanup:
    gate_user_drop(&user);
    fields_done(&fields);
    vd_arena_destroy(&arena);
}

static void revoke_all_act(gate_http_job_t *job)
{
    static const char what[] = "POST /v1/tokens/revoke-all";
    vd_error_t err = VD_ERROR_INIT;
    vd_arena_t *arena = vd_arena_create();
    gate_user_t *user = NULL;
    if (writable(job) && gate_http_allowed(job, "rotateTokenKeys", "admin", arena, &user, what)) {
        int rc = gate_token_rotate(job->http->gate, &err);
        int noted =
            gate_http_note(job, "rotateTokenKeys", user, what, NULL, rc, rc == VD_OK ? &err : NULL);
        if (rc == VD_OK && noted == VD_OK)
            done(job);
        else
            fail_error(job, "the key of tokens was not replaced", &err);
    }
    gate_user_drop(&user);
    vd_arena_destroy(&arena);
}

static void jwks_act(gate_http_job_t *job)
{
    vd_error_t err = VD_ERROR_INIT;
    int rc = gate_token_store_current(job->http->gate, &err);
    if (rc != VD_OK) {
        fail_error(job, "the public keys of tokens can't be read", &err);
        return;
    }
    job->status = 200, job->reason = "OK";
    job->rc = gate_tokens_jwks(job->http->gate->tokens, &job->out);
}

/* ---- GET /v1/sessions ---- */

/* Whose: by ?user=NAME[&db=DATABASE], ?all=1, or else one's own. */
static void sessions_query(const gate_http_job_t *job, fields_t *fields, bool *ret_all)
{
    struct evkeyvalq pairs;
    struct evkeyval *pair;
    if (job->query == NULL || evhttp_parse_query_str(job->query, &pairs) != 0)
        return;
    for (pair = pairs.tqh_first; pair != NULL; pair = pair->next.tqe_next) {
        if (strcmp(pair->key, "all") == 0)
            *ret_all = strcmp(pair->value, "1") == 0;
        else if (strcmp(pair->key, "user") == 0 && fields->user == NULL)
            fields->user = vd_xstrdup(pair->value);
        else if (strcmp(pair->key, "db") == 0 && fields->db == NULL)
            fields->db = vd_xstrdup(pair->value);
    }
    evhttp_clear_headers(&pairs);
}

/* One's own, for whoever is logged in; those of others for who may end them. */
static bool sessions_allowed(gate_http_job_t *job, const fields_t *fields, bool all,
                             vd_arena_t *arena, gate_user_t **ret_user)
{
    static const char what[] = "GET /v1/sessions";
    if (all)
        return gate_http_allowed(job, "revokeToken", "admin", arena, ret_user, what);
    if (fields->user != NULL)
        return gate_http_allowed(job, "revokeUserTokens", fields->db == NULL ? "admin" : fields->db,
                                 arena, ret_user, what);
    return gate_http_allowed(job, "connectionStatus", "admin", arena, ret_user, what);
}

static void sessions_act(gate_http_job_t *job)
{
    fields_t fields = {0};
    vd_error_t err = VD_ERROR_INIT;
    vd_arena_t *arena = vd_arena_create();
    gate_user_t *user = NULL;
    bool all = false;
    vd_slice_t name = VD_SLICE_NULL, db = VD_SLICE_NULL;
    sessions_query(job, &fields, &all);
    if (!writable(job) || !sessions_allowed(job, &fields, all, arena, &user))
        goto cleanup;
    if (!all && fields.user == NULL)
        name = user->name, db = user->db;
    else if (!all)
        name = vd_slice_str(fields.user),
        db = fields.db == NULL ? VD_SLICE_LIT("admin") : vd_slice_str(fields.db);
    if (!all && db.len == 0)
        gate_http_fail(job, 400, "invalid_request", "db is empty");
    else if (gate_token_sessions(job->http->gate, name, db, &job->out, &err) != VD_OK)
        fail_error(job, "sessions were not listed", &err);
    else
        job->status = 200, job->reason = "OK";
cleanup:
    gate_user_drop(&user);
    fields_done(&fields);
    vd_arena_destroy(&arena);
}

#define JSON "application/json"
const gate_http_page_t gate_http_token_page = {JSON, NULL, token_act, EVHTTP_REQ_POST, NULL},
                       gate_http_token_revoke_page = {JSON, NULL, revoke_act, EVHTTP_REQ_POST,
                                                      NULL},
                       gate_http_user_revoke_page = {JSON, NULL, revoke_user_act, EVHTTP_REQ_POST,
                                                     NULL},
                       gate_http_all_revoke_page = {JSON, NULL, revoke_all_act, EVHTTP_REQ_POST,
                                                    NULL},
                       gate_http_jwks_page = {JSON, NULL, jwks_act, EVHTTP_REQ_GET, NULL},
                       gate_http_sessions_page = {JSON, NULL, sessions_act, EVHTTP_REQ_GET, NULL};
