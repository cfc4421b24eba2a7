/* veddb-gatewayd/commands/login.c — who is logged in on a connection. See login.h. */
#include "veddb-gatewayd/commands/login.h"

#include "libcommon/base/log.h"
#include "veddb-gatewayd/certificates.h"
#include "veddb-gatewayd/commands/handlers.h"

void gate_login_take(gate_conn_t *conn, gate_user_t *user)
{
    char name[256];
    gate_user_drop(&conn->user);
    conn->user = user;
    atomic_fetch_add_explicit(&conn->thread->gate->stats.logins, 1, memory_order_relaxed);
    VD_DEBUG("logged in", "conn=%llu client=%s user=%s", (unsigned long long)conn->id, conn->client,
             vd_log_quote(vd_slice_str(user->name_at_db), name, sizeof name));
}

int gate_login_refuse(gate_conn_t *conn, vd_slice_t name, const char *db, vd_error_t *err)
{
    char user[256] = "-";
    if (name.len != 0)
        (void)vd_log_quote(name, user, sizeof user);
    atomic_fetch_add_explicit(&conn->thread->gate->stats.logins_failed, 1, memory_order_relaxed);
    gate_limits_login_failed(conn->thread->gate->limits, &conn->address);
    vd_log(VD_LOG_WARN, "login refused", "conn=%llu client=%s user=%s db=%s",
           (unsigned long long)conn->id, conn->client, user, db);
    vd_error_clear(err);
    return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "Authentication failed.");
}

int gate_command_connection_status(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)err; /* can't fail */
    const gate_user_t *user = request->conn->user;
    vd_bb_begin_document(reply, "authInfo");
    vd_bb_begin_array(reply, "authenticatedUsers");
    if (user != NULL) {
        vd_bb_begin_document(reply, "0");
        vd_bb_string(reply, "user", user->name);
        vd_bb_string(reply, "db", user->db);
        vd_bb_close(reply);
    }
    vd_bb_close(reply);
    gate_role_refs_print(user == NULL ? NULL : user->principal.roles,
                         user == NULL ? 0 : user->principal.role_count, "authenticatedUserRoles",
                         reply);
    if (vd_value_as_flag(vd_bson_get(gate_request_body(request), "showPrivileges"))) {
        static const gate_privileges_t none = {0};
        gate_privileges_print(user == NULL ? &none : &user->privileges,
                              "authenticatedUserPrivileges", reply);
    }
    vd_bb_close(reply);
    return VD_OK;
}

int gate_command_rotate_certificates(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    return gate_certificates_reload(request->thread->gate, err);
}

int gate_command_logout(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply, (void)err; /* ok says it all */
    gate_conn_logout(request->conn);
    return VD_OK;
}

int gate_command_invalidate_user_cache(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply, (void)err; /* ok says it all */
    gate_users_forget_all(request->thread->gate);
    return VD_OK;
}
