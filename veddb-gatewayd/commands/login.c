/* veddb-gatewayd/commands/login.c — who is logged in on a connection. */
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/commands/handlers.h"

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

int gate_command_logout(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply, (void)err; /* ok says it all */
    gate_audit_logout(request);
    gate_conn_logout(request->conn);
    return VD_OK;
}

int gate_command_invalidate_user_cache(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply, (void)err; /* ok says it all */
    gate_users_forget_all(request->thread->gate);
    return VD_OK;
}
