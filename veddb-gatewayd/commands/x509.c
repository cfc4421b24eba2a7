/* veddb-gatewayd/commands/x509.c — see x509.h. */
#include "veddb-gatewayd/commands/x509.h"

#include "veddb-gatewayd/commands/login.h"

#include <openssl/x509.h>

#define EXTERNAL "$external"

/* The request's state. */
typedef struct {
    void (*done)(gate_request_t *request); /* of hello's speculation; NULL: authenticate itself */
    bool logged_in;
} attempt_t;

static void attempt(gate_request_t *request, void (*done)(gate_request_t *request))
{
    attempt_t *made = VD_ARENA_NEW(request->arena, attempt_t);
    made->done = done;
    request->state = made;
}

/* The subject into the request's arena; empty: no certificate that was accepted. */
static vd_slice_t subject_of(gate_request_t *request)
{
    static const unsigned long form =
        (XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) | ASN1_STRFLGS_UTF8_CONVERT;
    SSL *ssl = request->conn->io.ssl;
    X509 *certificate = ssl == NULL ? NULL : SSL_get0_peer_certificate(ssl);
    if (certificate == NULL || SSL_get_verify_result(ssl) != X509_V_OK)
        return VD_SLICE_NULL;
    BIO *text = BIO_new(BIO_s_mem());
    vd_slice_t subject = VD_SLICE_NULL;
    char *bytes = NULL;
    if (text != NULL &&
        X509_NAME_print_ex(text, X509_get_subject_name(certificate), 0, form) >= 0) {
        long len = BIO_get_mem_data(text, &bytes);
        if (len > 0 && len <= GATE_SCRAM_NAME_MAX && memchr(bytes, 0, (size_t)len) == NULL)
            subject = vd_arena_copy_slice(request->arena, vd_slice(bytes, (size_t)len));
    }
    BIO_free(text);
    return subject;
}

static int refuse(gate_request_t *request, vd_slice_t name, vd_error_t *err)
{
    return gate_login_refuse(request->conn, name, EXTERNAL, err);
}

/* The user is known, or is not. */
static int take(gate_request_t *request, gate_user_t *user, vd_error_t *err)
{
    gate_conn_t *conn = request->conn;
    if (!user->known) {
        int rc = refuse(request, user->name, err);
        gate_user_drop(&user);
        return rc;
    }
    if (conn->user != NULL && strcmp(conn->user->name_at_db, user->name_at_db) != 0) {
        gate_user_drop(&user);
        return vd_error_set(err, VD_ERR_PROTOCOL,
                            "Each client connection may only be authenticated once. Previously "
                            "authenticated as: %s",
                            conn->user->name_at_db);
    }
    gate_login_take(conn, user);
    ((attempt_t *)request->state)->logged_in = true;
    return VD_OK;
}

static void put_login(gate_request_t *request, vd_bb_t *reply)
{
    vd_bb_cstr(reply, "dbname", EXTERNAL);
    vd_bb_string(reply, "user", request->conn->user->name);
}

static void end(gate_request_t *request, int rc, const vd_error_t *err)
{
    const attempt_t *made = request->state;
    request->waiting_user = false;
    if (made->done != NULL) {
        made->done(request);
        return;
    }
    if (rc == VD_OK)
        put_login(request, &request->reply);
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
    vd_error_t err = VD_ERROR_INIT;
    gate_user_t *user = NULL;
    request->waiting_user = true;
    int rc = gate_users_get(request->thread->users, subject_of(request), VD_SLICE_LIT(EXTERNAL),
                            user_loaded, request, &user, &err);
    if (rc == GATE_LATER)
        return;
    if (rc == VD_OK)
        rc = take(request, user, &err);
    end(request, rc, &err);
}

static int check(gate_request_t *request, vd_bson_t document, vd_slice_t db, vd_error_t *err)
{
    vd_value_t mechanism = vd_bson_get(document, "mechanism"), user = vd_bson_get(document, "user");
    if (mechanism.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "Auth mechanism not specified");
    vd_slice_t name = vd_value_string(mechanism);
    if (!vd_slice_is(name, "MONGODB-X509"))
        return vd_error_set(err, VD_ERR_MECHANISM_UNAVAILABLE,
                            "Received authentication for mechanism %.*s which is not enabled",
                            (int)(name.len < 64 ? name.len : 64), name.data);
    if (!vd_slice_is(db, EXTERNAL))
        return vd_error_set(err, VD_ERR_PROTOCOL,
                            "X.509 authentication must always use the $external database.");
    vd_slice_t subject = subject_of(request);
    bool other = user.type == VD_BSON_STRING && vd_value_string(user).len != 0 &&
                 !vd_slice_equal(vd_value_string(user), subject);
    return subject.len == 0 || other ? refuse(request, subject, err) : VD_OK;
}

int gate_x509_authenticate(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* written when the user is known */
    attempt(request, NULL);
    int rc = check(request, gate_request_body(request), request->db, err);
    int64_t wait =
        gate_limits_login_wait_ms(request->thread->gate->limits, &request->conn->address);
    if (rc == VD_OK && wait < 0)
        rc = refuse(request, VD_SLICE_NULL, err);
    if (rc == VD_OK && wait > 0)
        rc = gate_request_park(request, (uint64_t)wait, load, err);
    else if (rc == VD_OK)
        load(request);
    return rc == VD_OK ? GATE_LATER : rc;
}

bool gate_x509_speculate(gate_request_t *request, vd_bson_t document,
                         void (*done)(gate_request_t *request))
{
    vd_value_t db = vd_bson_get(document, "db"), first;
    vd_slice_t name;
    vd_error_t ignored = VD_ERROR_INIT;
    if (!vd_bson_first(document, &name, &first) || !vd_slice_is(name, "authenticate"))
        return false;
    bool goes =
        db.type == VD_BSON_STRING && request->thread->state.attached &&
        gate_limits_login_wait_ms(request->thread->gate->limits, &request->conn->address) == 0 &&
        subject_of(request).len != 0 &&
        check(request, document, vd_value_string(db), &ignored) == VD_OK;
    attempt(request, done);
    if (goes)
        load(request);
    else
        done(request);
    return true;
}

void gate_x509_speculated(gate_request_t *request, vd_bb_t *reply)
{
    const attempt_t *made = request->state;
    if (made == NULL || !made->logged_in)
        return;
    vd_bb_begin_document(reply, "speculativeAuthenticate");
    put_login(request, reply);
    vd_bb_close(reply);
}
