/* veddb-gatewayd/commands/x509.c — see x509.h. */
#include "veddb-gatewayd/commands/x509.h"

#include "veddb-gatewayd/auth/subject.h"
#include "veddb-gatewayd/commands/login.h"

#include <openssl/x509.h>

#define EXTERNAL "$external"

bool gate_x509_subject(SSL *ssl, char ret_subject[GATE_SCRAM_NAME_MAX + 1])
{
    X509 *certificate = ssl == NULL ? NULL : SSL_get0_peer_certificate(ssl);
    vd_slice_t subject;
    if (certificate == NULL || SSL_get_verify_result(ssl) != X509_V_OK ||
        !gate_subject_print(X509_get_subject_name(certificate), ret_subject, GATE_SCRAM_NAME_MAX,
                            &subject))
        return false;
    ret_subject[subject.len] = 0;
    return true;
}

/* The subject into the request's arena; empty: no certificate that was accepted. */
static vd_slice_t subject_of(gate_request_t *request)
{
    char subject[GATE_SCRAM_NAME_MAX + 1];
    return gate_x509_subject(request->conn->io.ssl, subject)
               ? vd_arena_copy_slice(request->arena, vd_slice_str(subject))
               : VD_SLICE_NULL;
}

static void put_login(gate_request_t *request, vd_bb_t *reply)
{
    vd_bb_cstr(reply, "dbname", EXTERNAL);
    vd_bb_string(reply, "user", request->conn->user->name);
}

static int check(gate_request_t *request, vd_bson_t document, vd_slice_t db,
                 vd_slice_t *ret_subject, vd_error_t *err)
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
    *ret_subject = subject;
    return subject.len == 0 || other ? gate_login_refuse(request->conn, subject, EXTERNAL, err)
                                     : VD_OK;
}

int gate_x509_authenticate(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* written when the user is known */
    vd_slice_t subject;
    int rc = check(request, gate_request_body(request), request->db, &subject, err);
    if (rc == VD_OK)
        rc = gate_login_external(request, &(gate_external_t){.name = subject, .put = put_login},
                                 err);
    return rc == VD_OK ? GATE_LATER : rc;
}

bool gate_x509_speculate(gate_request_t *request, vd_bson_t document,
                         void (*done)(gate_request_t *request))
{
    vd_value_t db = vd_bson_get(document, "db"), first;
    vd_slice_t name, subject;
    vd_error_t ignored = VD_ERROR_INIT;
    if (!vd_bson_first(document, &name, &first) || !vd_slice_is(name, "authenticate") ||
        db.type != VD_BSON_STRING || !request->thread->state.attached ||
        subject_of(request).len == 0 ||
        check(request, document, vd_value_string(db), &subject, &ignored) != VD_OK)
        return false;
    gate_external_t login = {.name = subject, .put = put_login, .speculated = done};
    return gate_login_external(request, &login, &ignored) == VD_OK;
}
