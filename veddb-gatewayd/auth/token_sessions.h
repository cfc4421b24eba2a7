/* veddb-gatewayd/auth/token_sessions.h — which logins may be renewed by a refresh token: who, since
 * when, from where. No byte of a token.
 *
 * Threads: blocks: on a worker.
 * Limits:  the GATE_SESSIONS_SHOWN that were used last, in at most GATE_SESSIONS_BYTES. */
#pragma once
#include "veddb-gatewayd/auth/tokens.h"

#define GATE_SESSIONS_SHOWN 500
#define GATE_SESSIONS_BYTES (160 * 1024)

/* Appends {"sessions": [{sid, user, db, method, created, lastUsed, expires, address}], "more":
 * bool} as JSON, the one used last first. db empty: of all users; else of this one. */
VD_MUST_CHECK int gate_token_sessions(gate_t *gate, vd_slice_t user, vd_slice_t db, vd_buf_t *out,
                                      vd_error_t *err);
