/* veddb-gatewayd/commands/sasl.c — see sasl.h. */
#include "veddb-gatewayd/commands/sasl.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/commands/login.h"
#include "veddb-gatewayd/commands/oidc.h"

typedef enum { SASL_START, SASL_CHALLENGED, SASL_PROVEN } sasl_state_t;

struct gate_sasl {
    sasl_state_t state;
    gate_scram_t scram;
    gate_user_t *user;
    bool skip_empty, speculative;
    char db[VD_DATABASE_NAME_MAX_BYTES + 1];
    uint64_t started_ms;
    char out[GATE_SCRAM_MESSAGE_MAX];
    uint32_t out_len;
    void (*speculated)(gate_request_t *request);
};

void gate_sasl_destroy(gate_sasl_t **sasl_p)
{
    gate_sasl_t *sasl = *sasl_p;
    *sasl_p = NULL;
    if (sasl == NULL)
        return;
    gate_user_drop(&sasl->user);
    gate_scram_wipe(&sasl->scram);
    vd_free(sasl);
}

uint64_t gate_sasl_age_ms(const gate_sasl_t *sasl, uint64_t now_ms)
{
    return vd_elapsed(sasl->started_ms, now_ms);
}

static void write_step(const gate_sasl_t *sasl, bool done, vd_bb_t *reply)
{
    vd_bb_int32(reply, "conversationId", 1);
    vd_bb_bool(reply, "done", done);
    vd_bb_binary(reply, "payload", 0, vd_slice(sasl->out, sasl->out_len));
}

static int refuse_as(gate_conn_t *conn,
                     int (*how)(gate_conn_t *conn, vd_slice_t name, const char *db,
                                vd_error_t *err),
                     vd_error_t *err)
{
    const gate_sasl_t *sasl = conn->sasl;
    vd_slice_t name =
        sasl == NULL ? VD_SLICE_NULL : vd_slice(sasl->scram.user, sasl->scram.user_len);
    int rc = how(conn, name, sasl == NULL ? "-" : sasl->db, err);
    gate_sasl_destroy(&conn->sasl);
    return rc;
}

static int refuse(gate_conn_t *conn, vd_error_t *err)
{
    return refuse_as(conn, gate_login_refuse, err);
}

static int refuse_locked(gate_conn_t *conn, vd_error_t *err)
{
    return refuse_as(conn, gate_login_refuse_locked, err);
}

static int payload_read(vd_value_t v, vd_slice_t *ret, uint8_t *space, uint32_t max,
                        vd_error_t *err)
{
    if (v.type == VD_BSON_BINARY) {
        *ret = vd_value_binary(v, NULL);
        return VD_OK;
    }
    uint32_t len;
    if (v.type == VD_BSON_STRING && gate_base64_decode(vd_value_string(v), space, max, &len)) {
        *ret = vd_slice(space, len);
        return VD_OK;
    }
    return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "\"payload\" must be binary");
}

/* The user is known: give the challenge. */
static int challenge(gate_request_t *request, gate_user_t *user, vd_error_t *err)
{
    gate_sasl_t *sasl = request->conn->sasl;
    sasl->user = user;
    if (gate_scram_challenge(&sasl->scram, &user->credentials, NULL, sasl->out, &sasl->out_len,
                             err) != VD_OK)
        return refuse(request->conn, err);
    sasl->state = SASL_CHALLENGED;
    return VD_OK;
}

static void started(gate_request_t *request, int rc, const vd_error_t *err)
{
    gate_conn_t *conn = request->conn;
    gate_sasl_t *sasl = conn->sasl;
    if (sasl != NULL && sasl->speculative) {
        void (*done)(gate_request_t *) = sasl->speculated;
        if (rc != VD_OK)
            gate_sasl_destroy(&conn->sasl);
        done(request);
        return;
    }
    if (rc == VD_OK)
        write_step(sasl, false, &request->reply);
    gate_request_finish(request, rc, err);
}

static void user_loaded(void *context, gate_user_t *user, const vd_error_t *failure)
{
    gate_request_t *request = context;
    vd_error_t err = VD_ERROR_INIT;
    request->waiting_user = false;
    if (user == NULL) {
        if (!request->conn->sasl->speculative)
            gate_sasl_destroy(&request->conn->sasl);
        started(request, failure->code, failure);
        return;
    }
    int rc = challenge(request, user, &err);
    started(request, rc, &err);
}

static void load(gate_request_t *request)
{
    gate_sasl_t *sasl = request->conn->sasl;
    vd_error_t err = VD_ERROR_INIT;
    gate_user_t *user = NULL;
    request->waiting_user = true;
    int rc =
        gate_users_get(request->thread->users, vd_slice(sasl->scram.user, sasl->scram.user_len),
                       vd_slice_str(sasl->db), user_loaded, request, &user, &err);
    if (rc == GATE_LATER)
        return;
    request->waiting_user = false;
    if (rc == VD_OK)
        rc = challenge(request, user, &err);
    else if (!sasl->speculative)
        gate_sasl_destroy(&request->conn->sasl);
    started(request, rc, &err);
}

/* Reads saslStart's fields and makes the conversation. */
static int begin(gate_request_t *request, vd_bson_t document, vd_slice_t db, vd_error_t *err)
{
    gate_conn_t *conn = request->conn;
    vd_value_t mechanism = vd_bson_get(document, "mechanism"),
               options = vd_bson_get(document, "options");
    uint8_t space[GATE_SCRAM_MESSAGE_MAX];
    vd_slice_t payload;
    if (mechanism.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_NO_SUCH_KEY, "Missing expected field \"mechanism\"");
    vd_slice_t name = vd_value_string(mechanism);
    if (!vd_slice_is(name, "SCRAM-SHA-256"))
        return vd_error_set(err, VD_ERR_MECHANISM_UNAVAILABLE,
                            "Received authentication for mechanism %.*s which is not enabled",
                            (int)(name.len < 64 ? name.len : 64), name.data);
    int rc = payload_read(vd_bson_get(document, "payload"), &payload, space, sizeof space, err);
    if (rc != VD_OK)
        return rc;
    if (db.len == 0 || db.len > VD_DATABASE_NAME_MAX_BYTES)
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Invalid database name");
    gate_sasl_destroy(&conn->sasl);
    gate_sasl_t *sasl = conn->sasl = vd_xalloc(sizeof *sasl);
    memcpy(sasl->db, db.data, db.len);
    sasl->started_ms = vd_loop_now_ms(request->thread->loop);
    if (options.type == VD_BSON_OBJECT)
        sasl->skip_empty =
            vd_value_as_flag(vd_bson_get(vd_value_document(options), "skipEmptyExchange"));
    if (gate_scram_first(&sasl->scram, payload, err) != VD_OK)
        return refuse(conn, err);
    return VD_OK;
}

static int64_t turn_ms(const gate_conn_t *conn)
{
    const gate_sasl_t *sasl = conn->sasl;
    return gate_login_turn_ms(conn, vd_slice(sasl->scram.user, sasl->scram.user_len),
                              vd_slice_str(sasl->db));
}

/* Too many failures from this address, or of this user from here: the login waits its turn, or is
 * refused. */
static int take_turn(gate_request_t *request, vd_error_t *err)
{
    int64_t wait = turn_ms(request->conn);
    if (wait == GATE_LOGIN_LOCKED)
        return refuse_locked(request->conn, err);
    if (wait < 0)
        return refuse(request->conn, err);
    if (wait > 0)
        return gate_request_park(request, (uint64_t)wait, load, err);
    load(request);
    return VD_OK;
}

/* Its payload when `document` begins a login by token, in the database $external. */
static bool is_oidc(vd_bson_t document, vd_slice_t db, vd_slice_t *ret_payload)
{
    vd_value_t mechanism = vd_bson_get(document, "mechanism"),
               payload = vd_bson_get(document, "payload");
    if (mechanism.type != VD_BSON_STRING ||
        !vd_slice_is(vd_value_string(mechanism), "MONGODB-OIDC") ||
        payload.type != VD_BSON_BINARY || !vd_slice_is(db, "$external"))
        return false;
    *ret_payload = vd_value_binary(payload, NULL);
    return true;
}

int gate_sasl_start(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* written when the user is known */
    vd_slice_t payload;
    if (is_oidc(gate_request_body(request), request->db, &payload)) {
        gate_sasl_destroy(&request->conn->sasl);
        return gate_oidc_start(request, payload, err);
    }
    int rc = begin(request, gate_request_body(request), request->db, err);
    if (rc == VD_OK)
        rc = take_turn(request, err);
    return rc == VD_OK ? GATE_LATER : rc;
}

void gate_sasl_speculate(gate_request_t *request, vd_bson_t document,
                         void (*done)(gate_request_t *request))
{
    vd_error_t ignored = VD_ERROR_INIT;
    vd_value_t db = vd_bson_get(document, "db");
    vd_slice_t name;
    vd_value_t first;
    vd_slice_t payload;
    if (db.type == VD_BSON_STRING && is_oidc(document, vd_value_string(db), &payload)) {
        if (!gate_oidc_speculate(request, payload, done))
            done(request);
        return;
    }
    bool fits = vd_bson_first(document, &name, &first) && vd_slice_is(name, "saslStart") &&
                db.type == VD_BSON_STRING && request->thread->state.attached;
    if (!fits || begin(request, document, vd_value_string(db), &ignored) != VD_OK) {
        done(request);
        return;
    }
    request->conn->sasl->speculative = true;
    request->conn->sasl->speculated = done;
    int64_t wait = turn_ms(request->conn);
    if (wait != 0) { /* the driver will come back with a plain saslStart, which waits its turn */
        gate_sasl_destroy(&request->conn->sasl);
        done(request);
        return;
    }
    load(request);
}

void gate_sasl_speculated(gate_request_t *request, vd_bb_t *reply)
{
    const gate_sasl_t *sasl = request->conn->sasl;
    if (sasl == NULL || !sasl->speculative || sasl->state != SASL_CHALLENGED)
        return;
    vd_bb_begin_document(reply, "speculativeAuthenticate");
    write_step(sasl, false, reply);
    vd_bb_close(reply);
}

static void log_in(gate_conn_t *conn)
{
    gate_login_take(conn, conn->sasl->user, 0, NULL);
    conn->sasl->user = NULL;
}

int gate_sasl_continue(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    gate_conn_t *conn = request->conn;
    gate_sasl_t *sasl = conn->sasl;
    vd_bson_t body = gate_request_body(request);
    uint8_t space[GATE_SCRAM_MESSAGE_MAX];
    vd_slice_t payload;
    int64_t id = 0;
    if (conn->oidc_begun && sasl == NULL && vd_bson_get(body, "payload").type == VD_BSON_BINARY)
        return gate_oidc_continue(request, vd_value_binary(vd_bson_get(body, "payload"), NULL),
                                  err);
    if (sasl == NULL || sasl->state == SASL_START)
        return vd_error_set(err, VD_ERR_PROTOCOL, "No SASL session state found");
    if (!vd_value_as_int64(vd_bson_get(body, "conversationId"), &id) || id != 1)
        return vd_error_set(err, VD_ERR_PROTOCOL, "sasl: Mismatched conversation id");
    int rc = payload_read(vd_bson_get(body, "payload"), &payload, space, sizeof space, err);
    if (rc != VD_OK)
        return rc;
    if (sasl->state == SASL_PROVEN) {
        if (payload.len != 0)
            return refuse(conn, err);
        sasl->out_len = 0;
        log_in(conn);
        write_step(sasl, true, reply);
        gate_sasl_destroy(&conn->sasl);
        return VD_OK;
    }
    if (gate_scram_final(&sasl->scram, payload, sasl->out, &sasl->out_len, err) != VD_OK ||
        !gate_user_may_come(sasl->user, conn->client, conn->server))
        return refuse(conn, err);
    if (conn->user != NULL && strcmp(conn->user->name_at_db, sasl->user->name_at_db) != 0) {
        gate_sasl_destroy(&conn->sasl);
        return vd_error_set(err, VD_ERR_PROTOCOL,
                            "Each client connection may only be authenticated once. Previously "
                            "authenticated as: %s",
                            conn->user->name_at_db);
    }
    write_step(sasl, sasl->skip_empty, reply);
    sasl->state = SASL_PROVEN;
    if (sasl->skip_empty) {
        log_in(conn);
        gate_sasl_destroy(&conn->sasl);
    }
    return VD_OK;
}
