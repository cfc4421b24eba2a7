/* veddb-gatewayd/commands/oidc.c — see oidc.h. */
#include "veddb-gatewayd/commands/oidc.h"

#include "libcommon/base/log.h"
#include "veddb-gatewayd/commands/login.h"

#define EXTERNAL "$external"

static void put_done(gate_request_t *request, vd_bb_t *reply)
{
    (void)request; /* nothing of it is told */
    vd_bb_int32(reply, "conversationId", 1);
    vd_bb_bool(reply, "done", true);
    vd_bb_binary(reply, "payload", 0, VD_SLICE_NULL);
}

static int check_offered(const gate_request_t *request, vd_error_t *err)
{
    return request->thread->gate->oidc != NULL
               ? VD_OK
               : vd_error_set(err, VD_ERR_MECHANISM_UNAVAILABLE,
                              "Received authentication for mechanism MONGODB-OIDC which is not "
                              "enabled");
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

/* Why a token is refused is for the log: a client is told no more than by a wrong password. */
static int verify(gate_request_t *request, vd_slice_t token, gate_external_t *ret, vd_error_t *err)
{
    gate_oidc_login_t login;
    vd_error_t why = VD_ERROR_INIT;
    char quoted[256];
    if (gate_oidc_verify(request->thread->gate->oidc, token, &login, &why) != VD_OK) {
        vd_log(VD_LOG_WARN, "token refused", "conn=%llu client=%s reason=%s",
               (unsigned long long)request->conn->id, request->conn->client,
               vd_log_quote(vd_slice_str(why.message), quoted, sizeof quoted));
        return gate_login_refuse(request->conn, VD_SLICE_NULL, EXTERNAL, err);
    }
    *ret = (gate_external_t){.name = vd_arena_copy_slice(request->arena, vd_slice_str(login.user)),
                             .left_s = (uint64_t)login.left_s,
                             .put = put_done};
    return VD_OK;
}

static int log_in(gate_request_t *request, vd_slice_t token, vd_error_t *err)
{
    gate_external_t login;
    int rc = verify(request, token, &login, err);
    if (rc == VD_OK)
        rc = gate_login_external(request, &login, err);
    return rc == VD_OK ? GATE_LATER : rc;
}

/* Where a client gets its token. */
static int tell_issuer(gate_request_t *request, vd_error_t *err)
{
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
    int rc = check_offered(request, err);
    if (rc == VD_OK)
        rc = read_token(payload, &token, err);
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
    if (check_offered(request, &ignored) != VD_OK ||
        read_token(payload, &token, &ignored) != VD_OK || token.len == 0 ||
        !request->thread->state.attached || verify(request, token, &login, &ignored) != VD_OK)
        return false;
    login.speculated = done;
    return gate_login_external(request, &login, &ignored) == VD_OK;
}
