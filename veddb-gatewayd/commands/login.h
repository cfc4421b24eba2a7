/* veddb-gatewayd/commands/login.h — how every kind of login ends.
 *
 * Threads: the loop's of the connection. */
#pragma once
#include "veddb-gatewayd/request.h"

/* The connection is the user's from now on; takes the reference. */
void gate_login_take(gate_conn_t *conn, gate_user_t *user);
/* One refusal for every reason: nothing is told apart by it. Counted, throttled, logged; name may
 * be empty. Returns the error. */
int gate_login_refuse(gate_conn_t *conn, vd_slice_t name, const char *db, vd_error_t *err);
