/* veddb-gatewayd/auth/users.h — users and what they may do, cached per loop thread.
 *
 * Duty:    loads a user's document and all custom roles from storage by internal commands, resolves
 *          privileges, and keeps the result until storage's auth_epoch changes. A connection holds
 *          a reference and compares epochs before each command.
 * Owner:   the loop thread. Users are reference counted, not across threads.
 * Limits:  GATE_USERS_CACHED_MAX entries, those of nobody (unknown names) included; when full, all
 *          unused ones are dropped. */
#pragma once
#include "veddb-gatewayd/access.h"
#include "veddb-gatewayd/auth/scram.h"

#define GATE_USERS_CACHED_MAX 10000

typedef struct gate_thread gate_thread_t;
typedef struct gate_users gate_users_t;

typedef struct {
    uint32_t references;
    uint64_t epoch;
    bool known;       /* false: there is no such user */
    char *name_at_db; /* "name@db", as storage is told */
    vd_slice_t name, db;
    uint8_t lsid_user[32]; /* SHA-256 of name_at_db */
    uint8_t unique[16];    /* userId; another when it is made anew, zeros: it has none */
    uint8_t identity[32];  /* another when it is made anew, or has another password */
    gate_scram_credentials_t credentials;
    gate_principal_t principal;
    vd_bson_t role_list; /* $$USER_ROLES, as storage is told; made when first needed */
    gate_privileges_t privileges;
    vd_bson_t *restrictions; /* arrays: the user's own and those of the roles */
    uint32_t restriction_count;
    gate_role_ref_t *direct; /* granted roles */
    uint32_t direct_count;
    vd_arena_t *arena;
} gate_user_t;

gate_users_t *gate_users_create(gate_thread_t *thread);
void gate_users_destroy(gate_users_t **users_p);
/* With a reference for the caller, as of the epoch that the thread knows now; also for unknown
 * names (known is false). VD_OK: *ret_user is set. GATE_LATER: done() comes later, once (user NULL:
 * err says why). Else an error. */
int gate_users_get(gate_users_t *users, vd_slice_t name, vd_slice_t db,
                   void (*done)(void *context, gate_user_t *user, const vd_error_t *err),
                   void *context, gate_user_t **ret_user, vd_error_t *err);
/* Calls back nobody with that context any more. */
void gate_users_forget(gate_users_t *users, void *context);
/* From there to here; for somebody unknown true. */
bool gate_user_may_come(const gate_user_t *user, const char *client, const char *server);
void gate_user_hold(gate_user_t *user);
void gate_user_drop(gate_user_t **user_p);
/* Everything that is cached is out of date: of this thread. */
void gate_users_invalidate(gate_users_t *users);
/* Makes a user from documents as storage keeps them (for the cache and tests); document may be
 * empty: unknown. */
VD_MUST_CHECK int gate_user_make(vd_slice_t name, vd_slice_t db, vd_bson_t document,
                                 const gate_role_set_t *roles, const uint8_t fake_secret[32],
                                 gate_user_t **ret_user, vd_error_t *err);
