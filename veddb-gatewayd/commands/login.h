/* veddb-gatewayd/commands/login.h — how every kind of login ends, and logins of users whose
 * identity others vouch for (a certificate, a token).
 *
 * Threads: the loop's of the connection. */
#pragma once
#include "veddb-gatewayd/request.h"

/* The connection is the user's from now on, until so many seconds have gone (0: for good); takes
 * the reference. token: of ours, else NULL. */
void gate_login_take(gate_conn_t *conn, gate_user_t *user, uint64_t left_s,
                     const gate_token_t *token);
/* One refusal for every reason: nothing is told apart by it. Counted, throttled, logged; name may
 * be empty. Returns the error. */
int gate_login_refuse(gate_conn_t *conn, vd_slice_t name, const char *db, vd_error_t *err);

/* The same for one that is locked out (lockout.h): it was not looked at, so it is no failure that
 * the address has to pay for. */
int gate_login_refuse_locked(gate_conn_t *conn, vd_slice_t name, const char *db, vd_error_t *err);
#define GATE_LOGIN_LOCKED (-2)
/* How long a login by password must wait first; -1, or GATE_LOGIN_LOCKED: refuse it. */
int64_t gate_login_turn_ms(const gate_conn_t *conn, vd_slice_t name, vd_slice_t db);

/* The state of a request that is such a login. */
typedef struct {
    vd_slice_t name, db; /* in the request's arena; db empty: $external */
    uint64_t left_s;
    const gate_token_t *token; /* of ours, in the arena; NULL: somebody else vouches */
    void (*put)(gate_request_t *request, vd_bb_t *reply); /* the fields of the reply */
    void (*speculated)(gate_request_t *request); /* of hello: called once; NULL: no speculation */
    bool logged_in;
} gate_external_t;

/* Waits its turn, loads the user and logs it in, then answers. VD_OK: that has begun. Never an
 * error when it is a speculation. */
VD_MUST_CHECK int gate_login_external(gate_request_t *request, const gate_external_t *login,
                                      vd_error_t *err);
/* Writes the speculation's part of hello's reply, when it was a login. */
void gate_login_put_speculated(gate_request_t *request, vd_bb_t *reply);
