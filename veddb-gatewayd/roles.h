/* veddb-gatewayd/roles.h — actions, resources, privileges and roles as data.
 *
 * Duty:    the built-in roles; reading custom roles from their documents; what a list of roles adds
 *          up to. It never decides about a request: access.c does.
 * Owner:   everything lives in the caller's arena.
 * Threads: pure.
 * Limits:  GATE_ROLES_MAX custom roles; inheritance is walked with a mark per role, so cycles end.
 */
#pragma once
#include "libcommon/bson/build.h"

#define GATE_ROLES_MAX 20000

typedef enum {
#define GATE_ACTION(name) GATE_ACTION_##name,
#include "veddb-gatewayd/actions.def"
#undef GATE_ACTION
    GATE_ACTION_COUNT,
} gate_action_t;

typedef struct {
    uint64_t bits[2];
} gate_actions_t;

static inline void gate_actions_add(gate_actions_t *actions, gate_action_t action)
{
    actions->bits[action / 64] |= 1ull << (action % 64);
}
static inline bool gate_actions_has(const gate_actions_t *actions, gate_action_t action)
{
    return (actions->bits[action / 64] >> (action % 64) & 1) != 0;
}
const char *gate_action_name(gate_action_t action);
bool gate_action_by_name(vd_slice_t name, gate_action_t *ret_action);

typedef enum {
    GATE_RESOURCE_CLUSTER,
    GATE_RESOURCE_ANY,    /* anyResource */
    GATE_RESOURCE_NORMAL, /* {db:"", collection:""}: all but system collections,
                             and but for the databases local and config */
    GATE_RESOURCE_DB, /* {db:"x", collection:""}: its normal collections and the database itself */
    GATE_RESOURCE_COLLECTION_ANY_DB, /* {db:"", collection:"c"} */
    GATE_RESOURCE_COLLECTION,        /* {db:"x", collection:"c"} */
} gate_resource_kind_t;

typedef struct {
    gate_resource_kind_t kind;
    vd_slice_t db, collection;
} gate_resource_t;

typedef struct {
    gate_resource_t resource;
    gate_actions_t actions;
} gate_privilege_t;

typedef struct {
    vd_arena_t *arena;
    gate_privilege_t *items;
    uint32_t count, cap;
} gate_privileges_t;

/* Joins with an equal resource that is there. */
void gate_privileges_add(gate_privileges_t *privileges, const gate_resource_t *resource,
                         const gate_actions_t *actions);
/* Target: a collection (db and name), a database (empty collection) or the cluster. */
bool gate_privileges_allow(const gate_privileges_t *privileges, gate_action_t action,
                           gate_resource_kind_t kind, vd_slice_t db, vd_slice_t collection);

typedef struct {
    vd_slice_t role, db;
} gate_role_ref_t;

typedef struct {
    gate_role_ref_t name;
    gate_privileges_t privileges;
    gate_role_ref_t *roles;
    uint32_t role_count;
    vd_bson_t restrictions; /* array: auth/restrictions.h; may be empty */
    bool mark;
} gate_role_t;

typedef struct {
    gate_role_t *items;
    uint32_t count;
} gate_role_set_t;

/* A built-in role exists on that database. */
bool gate_role_is_builtin(gate_role_ref_t ref);
/* Its privileges, with the database put in. */
void gate_role_builtin_privileges(gate_role_ref_t ref, gate_privileges_t *privileges);
/* Names of the built-in roles of a database, in order; NULL at the end. */
const char *gate_role_builtin_name(vd_slice_t db, uint32_t position);

/* One document of admin.system.roles; copies nothing. */
VD_MUST_CHECK int gate_role_parse(vd_arena_t *arena, vd_bson_t document, gate_role_t *ret_role,
                                  vd_error_t *err);
/* An array of {resource, actions} as commands and documents have it. */
VD_MUST_CHECK int gate_privileges_parse(vd_arena_t *arena, vd_value_t array,
                                        gate_privileges_t *ret_privileges, vd_error_t *err);
/* An array of "name" or {role, db}. */
VD_MUST_CHECK int gate_role_refs_parse(vd_arena_t *arena, vd_value_t array, vd_slice_t default_db,
                                       gate_role_ref_t **ret_refs, uint32_t *ret_count,
                                       vd_error_t *err);

gate_role_t *gate_role_find(const gate_role_set_t *set, gate_role_ref_t ref);
static inline bool gate_role_ref_equal(gate_role_ref_t a, gate_role_ref_t b)
{
    return vd_slice_equal(a.role, b.role) && vd_slice_equal(a.db, b.db);
}
/* Adds up what refs give, through inheritance. *ret_all (may be NULL) gets every role reached, refs
 * included. Unknown roles give nothing. */
void gate_roles_resolve(const gate_role_set_t *set, const gate_role_ref_t *refs, uint32_t count,
                        gate_privileges_t *privileges, gate_role_ref_t **ret_all,
                        uint32_t *ret_all_count);
/* Would `to` reach `from` (so that granting `to` to `from` makes a cycle)? */
bool gate_roles_reach(const gate_role_set_t *set, gate_role_ref_t to, gate_role_ref_t from);

void gate_privileges_print(const gate_privileges_t *privileges, const char *name, vd_bb_t *bb);
void gate_role_refs_print(const gate_role_ref_t *refs, uint32_t count, const char *name,
                          vd_bb_t *bb);
