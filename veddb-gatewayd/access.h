/* veddb-gatewayd/access.h — the one place that says yes or no to a command.
 *
 * Pure: a row of the command table, what the client sent, who the client is.
 * Threads: any. */
#pragma once
#include "proto/sections.h"
#include "veddb-gatewayd/commands/table.h"
#include "veddb-gatewayd/roles.h"

typedef struct {
    vd_slice_t user, db; /* empty: nobody is logged in */
    const gate_privileges_t *privileges;
    const gate_role_ref_t *roles; /* all that were reached, for rolesInfo on one's own */
    uint32_t role_count;
} gate_principal_t;

typedef struct {
    bool all_users;   /* may see and end what other users run: goes to storage with the command */
    bool all_visible; /* listDatabases, listCollections: no filtering */
    bool writes;      /* an aggregate with $out or $merge: never sent again */
} gate_access_grant_t;

typedef enum {
    GATE_LOGIN_HOLDS,   /* or nobody is logged in */
    GATE_LOGIN_EXPIRED, /* the token that it was made with has */
    GATE_LOGIN_REVOKED,
} gate_login_state_t;

/* A secondary does it only while it knows that its users and roles are the newest (users.lease).
 * What the gateway answers itself, and what ends something, is done all the same: it tells of no
 * document, and an operator needs it to make the set whole. What writes is refused there anyhow,
 * and at once. */
bool gate_access_is_leased(const gate_command_t *command);
/* What the state of the login and of the session forbids, whoever it is. A login that does not hold
 * any more: VD_ERR_REAUTHENTICATION_REQUIRED for all that needs one. in_transaction: autocommit is
 * false (the gateway's own commands can't be part of one; of the others storage knows). Comes
 * before gate_access_check. */
VD_MUST_CHECK int gate_access_state(const gate_command_t *command, gate_login_state_t login,
                                    bool in_transaction, vd_error_t *err);
/* VD_OK, or VD_ERR_UNAUTHORIZED with MongoDB's message. principal NULL: nobody is logged in. */
VD_MUST_CHECK int gate_access_check(const gate_command_t *command, vd_slice_t db,
                                    const vdp_sections_t *sections,
                                    const gate_principal_t *principal,
                                    gate_access_grant_t *ret_grant, vd_error_t *err);
