/* veddb-gatewayd/commands/login.c — who is logged in on a connection. See login.h. */
#include "veddb-gatewayd/commands/login.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/certificates.h"
#include "veddb-gatewayd/commands/handlers.h"

#define EXTERNAL "$external"

static gate_lockout_who_t who_of(const gate_conn_t *conn, vd_slice_t name, vd_slice_t db)
{
    return (gate_lockout_who_t){name, db, conn->address};
}

int64_t gate_login_turn_ms(const gate_conn_t *conn, vd_slice_t name, vd_slice_t db)
{
    gate_lockout_who_t who = who_of(conn, name, db);
    int64_t address = gate_limits_login_wait_ms(conn->thread->gate->limits, &conn->address),
            user = gate_lockout_wait_ms(conn->thread->gate->lockout, &who, vd_monotonic_ms());
    if (user < 0)
        return GATE_LOGIN_LOCKED;
    return address < 0 ? -1 : address > user ? address : user;
}

void gate_login_take(gate_conn_t *conn, gate_user_t *user, uint64_t left_s,
                     const gate_token_t *token)
{
    gate_lockout_who_t who = who_of(conn, user->name, user->db);
    char name[256];
    gate_user_drop(&conn->user);
    conn->user = user;
    gate_conn_set_token(conn, token);
    gate_lockout_good(conn->thread->gate->lockout, &who, vd_monotonic_ms());
    conn->login_until_ms = left_s == 0 ? 0 : vd_loop_now_ms(conn->thread->loop) + left_s * 1000;
    conn->login_ended = conn->oidc_begun = false;
    atomic_fetch_add_explicit(&conn->thread->gate->stats.logins, 1, memory_order_relaxed);
    if (conn->request != NULL)
        gate_audit_login(conn->request, user->name, user->db, VD_OK);
    VD_DEBUG("logged in", "conn=%llu client=%s user=%s", (unsigned long long)conn->id, conn->client,
             vd_log_quote(vd_slice_str(user->name_at_db), name, sizeof name));
}

static void count_failure(gate_conn_t *conn, vd_slice_t name, const char *db)
{
    gate_t *gate = conn->thread->gate;
    gate_lockout_who_t who = who_of(conn, name, vd_slice_str(db));
    char user[256];
    gate_limits_login_failed(gate->limits, &conn->address);
    if (name.len != 0 && gate_lockout_failed(gate->lockout, &who, vd_monotonic_ms()))
        vd_log(VD_LOG_WARN, "a user is locked out from an address", "client=%s user=%s db=%s",
               conn->client, vd_log_quote(name, user, sizeof user), db);
}

int gate_login_refuse(gate_conn_t *conn, vd_slice_t name, const char *db, vd_error_t *err)
{
    count_failure(conn, name, db);
    return gate_login_refuse_locked(conn, name, db, err);
}

int gate_login_refuse_locked(gate_conn_t *conn, vd_slice_t name, const char *db, vd_error_t *err)
{
    char user[256] = "-";
    if (name.len != 0)
        (void)vd_log_quote(name, user, sizeof user);
    atomic_fetch_add_explicit(&conn->thread->gate->stats.logins_failed, 1, memory_order_relaxed);
    if (conn->request != NULL)
        gate_audit_login(conn->request, name, vd_slice_str(db), VD_ERR_AUTHENTICATION_FAILED);
    vd_log(VD_LOG_WARN, "login refused", "conn=%llu client=%s user=%s db=%s",
           (unsigned long long)conn->id, conn->client, user, db);
    vd_error_clear(err);
    return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "Authentication failed.");
}

/* ---- users of $external ---- */

/* The user is known, or is not. */
static int take(gate_request_t *request, gate_user_t *user, vd_error_t *err)
{
    gate_conn_t *conn = request->conn;
    gate_external_t *login = request->state;
    int rc = VD_OK;
    if (!user->known || !gate_user_may_come(user, conn->client, conn->server) ||
        (login->token != NULL &&
         !gate_tokens_holds(conn->thread->gate->tokens, login->token, user)))
        rc = gate_login_refuse(
            conn, user->name,
            login->db.len == 0 ? EXTERNAL
                               : vd_arena_printf(request->arena, "%.*s", VD_SLICE_FMT(login->db)),
            err);
    else if (conn->user != NULL && strcmp(conn->user->name_at_db, user->name_at_db) != 0)
        rc = vd_error_set(err, VD_ERR_PROTOCOL,
                          "Each client connection may only be authenticated once. Previously "
                          "authenticated as: %s",
                          conn->user->name_at_db);
    if (rc != VD_OK) {
        gate_user_drop(&user);
        return rc;
    }
    gate_login_take(conn, user, login->left_s, login->token);
    login->logged_in = true;
    return VD_OK;
}

static void end(gate_request_t *request, int rc, const vd_error_t *err)
{
    const gate_external_t *login = request->state;
    request->waiting_user = false;
    if (login->speculated != NULL) {
        login->speculated(request);
        return;
    }
    if (rc == VD_OK)
        login->put(request, &request->reply);
    gate_request_finish(request, rc, err);
}

static void user_loaded(void *context, gate_user_t *user, const vd_error_t *failure)
{
    gate_request_t *request = context;
    vd_error_t err = VD_ERROR_INIT;
    if (user == NULL) {
        end(request, failure->code, failure);
        return;
    }
    int rc = take(request, user, &err);
    end(request, rc, &err);
}

static void load(gate_request_t *request)
{
    const gate_external_t *login = request->state;
    vd_error_t err = VD_ERROR_INIT;
    gate_user_t *user = NULL;
    request->waiting_user = true;
    int rc = gate_users_get(request->thread->users, login->name,
                            login->db.len == 0 ? VD_SLICE_LIT(EXTERNAL) : login->db, user_loaded,
                            request, &user, &err);
    if (rc == GATE_LATER)
        return;
    if (rc == VD_OK)
        rc = take(request, user, &err);
    end(request, rc, &err);
}

int gate_login_external(gate_request_t *request, const gate_external_t *login, vd_error_t *err)
{
    gate_external_t *own = VD_ARENA_NEW(request->arena, gate_external_t);
    *own = *login;
    request->state = own;
    int64_t wait =
        gate_limits_login_wait_ms(request->thread->gate->limits, &request->conn->address);
    /* A speculation does not wait: the driver will come back with a plain login, which does. */
    if (login->speculated != NULL && wait != 0)
        end(request, VD_OK, NULL);
    else if (wait < 0)
        return gate_login_refuse(request->conn, login->name, EXTERNAL, err);
    else if (wait > 0)
        return gate_request_park(request, (uint64_t)wait, load, err);
    else
        load(request);
    return VD_OK;
}

void gate_login_put_speculated(gate_request_t *request, vd_bb_t *reply)
{
    const gate_external_t *login = request->state;
    if (login == NULL || !login->logged_in)
        return;
    vd_bb_begin_document(reply, "speculativeAuthenticate");
    login->put(request, reply);
    vd_bb_close(reply);
}

/* ---- who is it ---- */

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
