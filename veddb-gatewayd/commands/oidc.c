/* veddb-gatewayd/commands/oidc.c — see oidc.h. */
#include "veddb-gatewayd/commands/oidc.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "veddb-gatewayd/auth/token_store.h"
#include "veddb-gatewayd/commands/login.h"

#define EXTERNAL    "$external"
#define OWN_WAIT_MS 5000 /* for what was revoked to be known */
#define OWN_LOOK_MS 10

/* A login that waits for it. */
typedef struct {
    vd_slice_t token; /* in the request's message */
    uint64_t until_ms;
} waiting_t;

static void put_done(gate_request_t *request, vd_bb_t *reply)
{
    (void)request; /* nothing of it is told */
    vd_bb_int32(reply, "conversationId", 1);
    vd_bb_bool(reply, "done", true);
    vd_bb_binary(reply, "payload", 0, VD_SLICE_NULL);
}

/* The token of the payload; empty: there is none. */
static int read_token(vd_slice_t payload, vd_slice_t *ret_token, vd_error_t *err)
{
    int rc = vd_bson_validate(payload, VD_BSON_CHECK_UTF8, 4, err);
    if (rc != VD_OK)
        return rc;
    vd_value_t jwt = vd_bson_get((vd_bson_t){payload.data, (uint32_t)payload.len}, "jwt");
    if (!vd_value_is_missing(jwt) && jwt.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "\"jwt\" must be a string");
    *ret_token = vd_value_is_missing(jwt) ? VD_SLICE_NULL : vd_value_string(jwt);
    return VD_OK;
}

/* All that was revoked is known, as far as a member of the set can. */
static bool is_current(const gate_request_t *request)
{
    const gate_thread_t *thread = request->thread;
    const gate_tokens_t *tokens = thread->gate->tokens;
    if (gate_tokens_generation(tokens) == 0 ||
        gate_tokens_epoch(tokens) < thread->state.auth_epoch) {
        gate_token_store_want(thread->gate);
        return false;
    }
    return gate_tokens_fresh(tokens, thread->state.fresh_ms, vd_monotonic_ms());
}

static int verify_outside(gate_request_t *request, vd_slice_t token, gate_external_t *ret,
                          vd_error_t *why)
{
    gate_oidc_login_t login;
    if (request->thread->gate->oidc == NULL)
        return vd_error_set(why, VD_ERR_AUTHENTICATION_FAILED, "it is none of ours");
    int rc = gate_oidc_verify(request->thread->gate->oidc, token, &login, why);
    if (rc == VD_OK)
        *ret =
            (gate_external_t){.name = vd_arena_copy_slice(request->arena, vd_slice_str(login.user)),
                              .left_s = (uint64_t)login.left_s,
                              .put = put_done};
    return rc;
}

static int verify_own(gate_request_t *request, vd_slice_t token, gate_external_t *ret,
                      vd_error_t *why)
{
    gate_token_t *own = VD_ARENA_NEW(request->arena, gate_token_t);
    int rc =
        gate_tokens_verify(request->thread->gate->tokens, token, vd_wall_ms() / 1000, own, why);
    if (rc != VD_OK)
        return rc;
    const char *dot = strchr(own->principal, '.');
    *ret = (gate_external_t){.name = vd_slice_str(dot + 1),
                             .db = vd_slice(own->principal, (size_t)(dot - own->principal)),
                             .left_s = (uint64_t)own->left_s,
                             .token = own,
                             .put = put_done};
    return VD_OK;
}

/* Why a token is refused is for the log: a client is told no more than by a wrong password. */
static int verify(gate_request_t *request, vd_slice_t token, gate_external_t *ret, vd_error_t *err)
{
    vd_error_t why = VD_ERROR_INIT;
    char quoted[256];
    bool own = gate_tokens_claimed(request->thread->gate->tokens, token);
    if (own && !is_current(request))
        return GATE_LATER;
    int rc =
        own ? verify_own(request, token, ret, &why) : verify_outside(request, token, ret, &why);
    if (rc != VD_OK) {
        vd_log(VD_LOG_WARN, "token refused", "conn=%llu client=%s reason=%s",
               (unsigned long long)request->conn->id, request->conn->client,
               vd_log_quote(vd_slice_str(why.message), quoted, sizeof quoted));
        return gate_login_refuse(request->conn, VD_SLICE_NULL, EXTERNAL, err);
    }
    return VD_OK;
}

static int log_in(gate_request_t *request, vd_slice_t token, vd_error_t *err);

static void look_again(gate_request_t *request)
{
    const waiting_t *waiting = request->state;
    vd_error_t err = VD_ERROR_INIT;
    int rc = log_in(request, waiting->token, &err);
    if (rc != GATE_LATER)
        gate_request_finish(request, rc, &err);
}

static int wait(gate_request_t *request, vd_slice_t token, vd_error_t *err)
{
    waiting_t *waiting = request->state;
    uint64_t now = vd_monotonic_ms();
    if (waiting == NULL) {
        waiting = request->state = VD_ARENA_NEW(request->arena, waiting_t);
        *waiting = (waiting_t){token, now + OWN_WAIT_MS};
    }
    if (now >= waiting->until_ms)
        return vd_error_set(err, VD_ERR_NOT_PRIMARY_OR_SECONDARY,
                            "this member can't confirm at present which tokens were revoked");
    int rc = gate_request_park(request, OWN_LOOK_MS, look_again, err);
    return rc == VD_OK ? GATE_LATER : rc;
}

static int log_in(gate_request_t *request, vd_slice_t token, vd_error_t *err)
{
    gate_external_t login;
    int rc = verify(request, token, &login, err);
    if (rc == GATE_LATER)
        return wait(request, token, err);
    if (rc == VD_OK)
        rc = gate_login_external(request, &login, err);
    return rc == VD_OK ? GATE_LATER : rc;
}

/* Where a client gets its token. */
static int tell_issuer(gate_request_t *request, vd_error_t *err)
{
    if (request->thread->gate->oidc == NULL)
        return vd_error_set(err, VD_ERR_MECHANISM_UNAVAILABLE,
                            "Received authentication for mechanism MONGODB-OIDC without a token, "
                            "and no issuer is configured");
    const gate_oidc_settings_t *settings = gate_oidc_settings(request->thread->gate->oidc);
    vd_bb_t bb;
    vd_bson_t about;
    if (settings->client_id[0] == 0)
        return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED,
                            "No client id is configured: a token is expected in saslStart");
    vd_bb_init_arena(&bb, request->arena, 4096);
    vd_bb_cstr(&bb, "issuer", settings->issuer);
    vd_bb_cstr(&bb, "clientId", settings->client_id);
    int rc = vd_bb_finish(&bb, &about, err);
    if (rc != VD_OK)
        return rc;
    request->conn->oidc_begun = true;
    vd_bb_int32(&request->reply, "conversationId", 1);
    vd_bb_bool(&request->reply, "done", false);
    vd_bb_binary(&request->reply, "payload", 0, vd_slice(about.data, about.len));
    return VD_OK;
}

int gate_oidc_start(gate_request_t *request, vd_slice_t payload, vd_error_t *err)
{
    vd_slice_t token;
    request->conn->oidc_begun = false;
    int rc = read_token(payload, &token, err);
    if (rc != VD_OK)
        return rc;
    return token.len == 0 ? tell_issuer(request, err) : log_in(request, token, err);
}

int gate_oidc_continue(gate_request_t *request, vd_slice_t payload, vd_error_t *err)
{
    vd_slice_t token;
    request->conn->oidc_begun = false;
    int rc = read_token(payload, &token, err);
    return rc == VD_OK ? log_in(request, token, err) : rc;
}

bool gate_oidc_speculate(gate_request_t *request, vd_slice_t payload,
                         void (*done)(gate_request_t *request))
{
    vd_error_t ignored = VD_ERROR_INIT;
    vd_slice_t token;
    gate_external_t login;
    if (read_token(payload, &token, &ignored) != VD_OK || token.len == 0 ||
        !request->thread->state.attached || verify(request, token, &login, &ignored) != VD_OK)
        return false;
    login.speculated = done;
    return gate_login_external(request, &login, &ignored) == VD_OK;
}
