/* veddb-gatewayd/commands/tokens.c — revokeToken, revokeUserTokens, rotateTokenKeys. On the worker.
 *
 * A token itself is never a field of a command: commands stand in logs. */
#include "veddb-gatewayd/auth/token_store.h"
#include "veddb-gatewayd/commands/admin.h"

static bool is_session(vd_slice_t text)
{
    bool good = text.len == GATE_TOKEN_SESSION_MAX;
    for (size_t i = 0; good && i < text.len; i++)
        good = (text.data[i] >= '0' && text.data[i] <= '9') ||
               (text.data[i] >= 'a' && text.data[i] <= 'f');
    return good;
}

int gate_command_revoke_token(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    static const char *const fields[] = {"jti", "session", NULL};
    (void)reply; /* ok says it all */
    vd_bson_t body = gate_request_body(request);
    vd_value_t id = vd_bson_get(body, "jti"), session = vd_bson_get(body, "session");
    int rc = gate_admin_fields(request, fields, err);
    if (rc != VD_OK)
        return rc;
    if ((id.type == VD_BSON_STRING) == (session.type == VD_BSON_STRING))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "revokeToken needs either \"jti\" or \"session\" as a string");
    if (id.type == VD_BSON_STRING)
        return gate_token_revoke_id(request->thread->gate, vd_value_string(id), 0, err);
    if (!is_session(vd_value_string(session)))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "\"session\" must be the sid of a token");
    char name[GATE_TOKEN_SESSION_MAX + 1] = {0};
    memcpy(name, vd_value_string(session).data, GATE_TOKEN_SESSION_MAX);
    return gate_token_revoke_session(request->thread->gate, name, err);
}

int gate_command_revoke_user_tokens(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    static const char *const fields[] = {NULL};
    (void)reply; /* ok says it all */
    vd_slice_t name;
    int rc = gate_admin_name(request, "User", &name, err);
    if (rc == VD_OK)
        rc = gate_admin_fields(request, fields, err);
    return rc == VD_OK ? gate_token_revoke_user(request->thread->gate, name, request->db, err) : rc;
}

int gate_command_rotate_token_keys(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    static const char *const fields[] = {NULL};
    (void)reply; /* ok says it all */
    int rc = gate_admin_fields(request, fields, err);
    return rc == VD_OK ? gate_token_rotate(request->thread->gate, err) : rc;
}
