/* veddb-gatewayd/commands/roles.c — createRole, updateRole, dropRole, grants, rolesInfo. On the
 * worker: reads and writes admin.system.roles by internal commands. */
#include "veddb-gatewayd/auth/restrictions.h"
#include "veddb-gatewayd/commands/admin.h"

#define ROLES "system.roles"

static gate_role_ref_t named(gate_request_t *request, vd_slice_t name)
{
    return (gate_role_ref_t){name, request->db};
}

static int not_found(gate_request_t *request, vd_slice_t name, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_ROLE_NOT_FOUND, "Role '%.*s@%.*s' not found",
                        VD_SLICE_FMT(name), VD_SLICE_FMT(request->db));
}

/* Reads the name and the set; the role must be a custom one that exists, when `exists`. */
static int begin(gate_request_t *request, const char *const *fields, bool exists,
                 vd_slice_t *ret_name, gate_role_set_t *ret_set, gate_role_t **ret_role,
                 vd_error_t *err)
{
    int rc = gate_admin_fields(request, fields, err);
    if (rc == VD_OK)
        rc = gate_admin_name(request, "Role", ret_name, err);
    if (rc == VD_OK)
        rc = gate_admin_roles(request, ret_set, err);
    if (rc != VD_OK)
        return rc;
    if (gate_role_is_builtin(named(request, *ret_name)))
        return vd_error_set(err, exists ? VD_ERR_LOCATION(24017) : VD_ERR_BAD_VALUE,
                            "%.*s@%.*s is a built-in role and cannot be modified",
                            VD_SLICE_FMT(*ret_name), VD_SLICE_FMT(request->db));
    gate_role_t *role = gate_role_find(ret_set, named(request, *ret_name));
    if (exists && role == NULL)
        return not_found(request, *ret_name, err);
    if (ret_role != NULL)
        *ret_role = role;
    return VD_OK;
}

/* Roles of a database may only reach what is in it, except those of admin; and privileges likewise.
 */
static int check_reach(gate_request_t *request, const gate_role_ref_t *roles, uint32_t count,
                       const gate_privileges_t *privileges, vd_error_t *err)
{
    if (vd_slice_is(request->db, "admin"))
        return VD_OK;
    for (uint32_t i = 0; i < count; i++) {
        if (!vd_slice_equal(roles[i].db, request->db))
            return vd_error_set(
                err, VD_ERR_INVALID_ROLE_MODIFICATION,
                "Roles on the '%.*s' database cannot be granted roles from other databases",
                VD_SLICE_FMT(request->db));
    }
    for (uint32_t i = 0; privileges != NULL && i < privileges->count; i++) {
        const gate_resource_t *resource = &privileges->items[i].resource;
        bool here =
            (resource->kind == GATE_RESOURCE_DB || resource->kind == GATE_RESOURCE_COLLECTION) &&
            vd_slice_equal(resource->db, request->db);
        if (!here)
            return vd_error_set(err, VD_ERR_INVALID_ROLE_MODIFICATION,
                                "Roles on the '%.*s' database cannot be granted privileges that "
                                "target other databases or the cluster",
                                VD_SLICE_FMT(request->db));
    }
    return VD_OK;
}

static int check_cycles(gate_request_t *request, const gate_role_set_t *set, vd_slice_t name,
                        const gate_role_ref_t *roles, uint32_t count, vd_error_t *err)
{
    for (uint32_t i = 0; i < count; i++) {
        if (gate_roles_reach(set, roles[i], named(request, name)))
            return vd_error_set(
                err, VD_ERR_INVALID_ROLE_MODIFICATION,
                "Granting %.*s@%.*s to %.*s@%.*s would introduce a cycle in the role graph.",
                VD_SLICE_FMT(roles[i].role), VD_SLICE_FMT(roles[i].db), VD_SLICE_FMT(name),
                VD_SLICE_FMT(request->db));
    }
    return VD_OK;
}

static int check_restrictions(gate_request_t *request, vd_error_t *err)
{
    vd_value_t restrictions = vd_bson_get(gate_request_body(request), "authenticationRestrictions");
    return vd_value_is_missing(restrictions) ? VD_OK : gate_restrictions_check(restrictions, err);
}

/* Those that the command gives, if it does. */
static void store_restrictions(gate_request_t *request, vd_bb_t *bb)
{
    vd_value_t restrictions = vd_bson_get(gate_request_body(request), "authenticationRestrictions");
    if (!vd_value_is_missing(restrictions))
        vd_bb_value(bb, VD_SLICE_LIT("authenticationRestrictions"), restrictions);
}

int gate_command_create_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    static const char *const fields[] = {"privileges", "roles", "authenticationRestrictions", NULL};
    vd_bson_t body = gate_request_body(request), document;
    vd_slice_t name;
    gate_role_set_t set;
    gate_role_ref_t *roles;
    uint32_t count;
    gate_privileges_t privileges;
    int rc = begin(request, fields, false, &name, &set, NULL, err);
    if (rc == VD_OK && vd_slice_is(request->db, "local"))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "Cannot create roles in the local database");
    if (rc == VD_OK && vd_slice_is(request->db, "$external"))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "Cannot create roles in the $external database");
    if (rc == VD_OK)
        rc = check_restrictions(request, err);
    if (rc == VD_OK && vd_value_is_missing(vd_bson_get(body, "privileges")))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "\"createRole\" command requires a \"privileges\" array");
    if (rc == VD_OK)
        rc = gate_privileges_parse(request->arena, vd_bson_get(body, "privileges"), &privileges,
                                   err);
    if (rc == VD_OK)
        rc = gate_admin_role_list(request, true, &set, &roles, &count, err);
    if (rc == VD_OK)
        rc = check_reach(request, roles, count, &privileges, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, request->arena, VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_cstr(&bb, "_id", gate_admin_id(request, request->db, name));
    vd_bb_string(&bb, "role", name);
    vd_bb_string(&bb, "db", request->db);
    gate_privileges_print(&privileges, "privileges", &bb);
    gate_role_refs_print(roles, count, "roles", &bb);
    store_restrictions(request, &bb);
    rc = vd_bb_finish(&bb, &document, err);
    if (rc == VD_OK)
        rc = gate_admin_insert(request, ROLES, document, err);
    if (rc == VD_ERR_DUPLICATE_KEY) {
        vd_error_clear(err);
        return vd_error_set(err, VD_ERR_LOCATION(51002), "Role \"%.*s@%.*s\" already exists",
                            VD_SLICE_FMT(name), VD_SLICE_FMT(request->db));
    }
    return rc;
}

/* Stores what is given of privileges and roles. */
static int store(gate_request_t *request, vd_slice_t name, const gate_privileges_t *privileges,
                 const gate_role_ref_t *roles, uint32_t count, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t document;
    int64_t matched = 0;
    vd_bb_init_arena(&bb, request->arena, VD_BSON_DOCUMENT_MAX_BYTES);
    if (privileges != NULL)
        gate_privileges_print(privileges, "privileges", &bb);
    if (roles != NULL)
        gate_role_refs_print(roles, count, "roles", &bb);
    store_restrictions(request, &bb);
    int rc = vd_bb_finish(&bb, &document, err);
    if (rc == VD_OK)
        rc = gate_admin_set(request, ROLES, gate_admin_id(request, request->db, name), document,
                            VD_BSON_NONE, &matched, err);
    if (rc == VD_OK && matched == 0)
        rc = not_found(request, name, err);
    return rc;
}

int gate_command_update_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    static const char *const fields[] = {"privileges", "roles", "authenticationRestrictions", NULL};
    vd_bson_t body = gate_request_body(request);
    bool has_privileges = !vd_value_is_missing(vd_bson_get(body, "privileges")),
         has_roles = !vd_value_is_missing(vd_bson_get(body, "roles"));
    vd_slice_t name;
    gate_role_set_t set;
    gate_role_ref_t *roles = NULL;
    uint32_t count = 0;
    gate_privileges_t privileges = {0};
    int rc = begin(request, fields, true, &name, &set, NULL, err);
    if (rc == VD_OK)
        rc = check_restrictions(request, err);
    if (rc == VD_OK && !has_privileges && !has_roles &&
        vd_value_is_missing(vd_bson_get(body, "authenticationRestrictions")))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "Must specify at least one field to update in updateRole");
    if (rc == VD_OK)
        rc = gate_privileges_parse(request->arena, vd_bson_get(body, "privileges"), &privileges,
                                   err);
    if (rc == VD_OK)
        rc = gate_admin_role_list(request, false, &set, &roles, &count, err);
    if (rc == VD_OK)
        rc = check_reach(request, roles, count, &privileges, err);
    if (rc == VD_OK)
        rc = check_cycles(request, &set, name, roles, count, err);
    return rc != VD_OK ? rc
                       : store(request, name, has_privileges ? &privileges : NULL,
                               has_roles ? roles : NULL, count, err);
}

/* The role goes from everybody who has it first, then by itself. */
int gate_command_drop_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    static const char *const fields[] = {NULL};
    vd_slice_t name;
    gate_role_set_t set;
    int64_t count = 0;
    int rc = begin(request, fields, true, &name, &set, NULL, err);
    if (rc == VD_OK)
        rc = gate_admin_pull_role(request, "system.users", name, request->db, err);
    if (rc == VD_OK)
        rc = gate_admin_pull_role(request, ROLES, name, request->db, err);
    if (rc == VD_OK)
        rc = gate_admin_delete(request, ROLES, gate_admin_id(request, request->db, name), &count,
                               err);
    if (rc == VD_OK && count == 0)
        rc = not_found(request, name, err);
    return rc;
}

int gate_command_drop_all_roles(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    static const char *const fields[] = {NULL};
    gate_role_set_t set;
    int64_t count = 0;
    int rc = gate_admin_fields(request, fields, err);
    if (rc == VD_OK)
        rc = gate_admin_roles(request, &set, err);
    for (uint32_t i = 0; rc == VD_OK && i < set.count; i++) {
        if (!vd_slice_equal(set.items[i].name.db, request->db))
            continue;
        rc =
            gate_admin_pull_role(request, "system.users", set.items[i].name.role, request->db, err);
        if (rc == VD_OK)
            rc = gate_admin_pull_role(request, ROLES, set.items[i].name.role, request->db, err);
    }
    if (rc == VD_OK)
        rc = gate_admin_delete_all(request, ROLES, request->db, &count, err);
    vd_bb_int32(reply, "n", (int32_t)count);
    return rc;
}

static int change_privileges(gate_request_t *request, bool grant, vd_error_t *err)
{
    static const char *const fields[] = {"privileges", NULL};
    vd_slice_t name;
    gate_role_set_t set;
    gate_role_t *role;
    gate_privileges_t changed;
    int rc = begin(request, fields, true, &name, &set, &role, err);
    if (rc == VD_OK)
        rc = gate_privileges_parse(
            request->arena, vd_bson_get(gate_request_body(request), "privileges"), &changed, err);
    if (rc == VD_OK && changed.count == 0)
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "%s command requires a non-empty \"privileges\" array",
                          request->command->name);
    if (rc == VD_OK && grant)
        rc = check_reach(request, NULL, 0, &changed, err);
    if (rc != VD_OK)
        return rc;
    gate_privileges_t *held = &role->privileges, kept = {.arena = request->arena};
    held->arena = request->arena;
    for (uint32_t i = 0; i < changed.count && grant; i++)
        gate_privileges_add(held, &changed.items[i].resource, &changed.items[i].actions);
    for (uint32_t i = 0; i < held->count; i++) {
        gate_privilege_t left = held->items[i];
        for (uint32_t k = 0; k < changed.count && !grant; k++) {
            const gate_privilege_t *take = &changed.items[k];
            if (take->resource.kind != left.resource.kind ||
                !vd_slice_equal(take->resource.db, left.resource.db) ||
                !vd_slice_equal(take->resource.collection, left.resource.collection))
                continue;
            left.actions.bits[0] &= ~take->actions.bits[0],
                left.actions.bits[1] &= ~take->actions.bits[1];
        }
        if ((left.actions.bits[0] | left.actions.bits[1]) != 0)
            gate_privileges_add(&kept, &left.resource, &left.actions);
    }
    return store(request, name, &kept, NULL, 0, err);
}

int gate_command_grant_privileges_to_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    return change_privileges(request, true, err);
}

int gate_command_revoke_privileges_from_role(gate_request_t *request, vd_bb_t *reply,
                                             vd_error_t *err)
{
    (void)reply; /* ok says it all */
    return change_privileges(request, false, err);
}

static int change_roles(gate_request_t *request, bool grant, vd_error_t *err)
{
    static const char *const fields[] = {"roles", NULL};
    vd_slice_t name;
    gate_role_set_t set;
    gate_role_t *role;
    gate_role_ref_t *changed;
    uint32_t count;
    int rc = begin(request, fields, true, &name, &set, &role, err);
    if (rc == VD_OK)
        rc = gate_admin_role_list(request, true, &set, &changed, &count, err);
    if (rc == VD_OK && grant)
        rc = check_reach(request, changed, count, NULL, err);
    if (rc == VD_OK && grant)
        rc = check_cycles(request, &set, name, changed, count, err);
    if (rc != VD_OK)
        return rc;
    gate_role_ref_t *held = role->roles;
    uint32_t held_count = role->role_count;
    gate_refs_add(request->arena, &held, &held_count, grant ? changed : NULL, grant ? count : 0);
    if (!grant)
        gate_refs_take(held, &held_count, changed, count);
    return store(request, name, NULL, held, held_count, err);
}

int gate_command_grant_roles_to_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    return change_roles(request, true, err);
}

int gate_command_revoke_roles_from_role(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    return change_roles(request, false, err);
}

/* ---- rolesInfo ---- */

static void put_role(gate_request_t *request, const gate_role_set_t *set, gate_role_ref_t ref,
                     vd_slice_t key, vd_bb_t *reply)
{
    bool builtin = gate_role_is_builtin(ref);
    const gate_role_t *role = builtin ? NULL : gate_role_find(set, ref);
    vd_value_t show = vd_bson_get(gate_request_body(request), "showPrivileges");
    gate_privileges_t own = {.arena = request->arena}, all = {.arena = request->arena};
    gate_role_ref_t *reached;
    uint32_t reached_count;
    const gate_role_ref_t *roles = role == NULL ? NULL : role->roles;
    uint32_t role_count = role == NULL ? 0 : role->role_count;
    vd_bb_open_document(reply, key);
    vd_bb_cstr(reply, "_id", gate_admin_id(request, ref.db, ref.role));
    vd_bb_string(reply, "role", ref.role);
    vd_bb_string(reply, "db", ref.db);
    gate_role_refs_print(roles, role_count, "roles", reply);
    vd_bb_bool(reply, "isBuiltin", builtin);
    gate_roles_resolve(set, roles, role_count, &all, &reached, &reached_count);
    gate_role_refs_print(reached, reached_count, "inheritedRoles", reply);
    if (vd_value_as_flag(
            vd_bson_get(gate_request_body(request), "showAuthenticationRestrictions"))) {
        vd_bb_begin_array(reply, "authenticationRestrictions");
        if (role != NULL && role->restrictions.data != NULL) {
            vd_bson_iter_t each;
            vd_bson_iter_init(&each, role->restrictions);
            while (vd_bson_iter_next(&each))
                vd_bb_value(reply, each.name, each.value);
        }
        vd_bb_close(reply);
    }
    if (vd_value_truthy(show)) {
        if (builtin)
            gate_role_builtin_privileges(ref, &own);
        else
            own = role->privileges;
        for (uint32_t i = 0; i < own.count; i++)
            gate_privileges_add(&all, &own.items[i].resource, &own.items[i].actions);
        gate_privileges_print(&own, "privileges", reply);
        gate_privileges_print(&all, "inheritedPrivileges", reply);
    }
    vd_bb_close(reply);
}

static int put_named(gate_request_t *request, const gate_role_set_t *set, vd_value_t v, uint32_t *n,
                     vd_bb_t *reply, vd_error_t *err)
{
    gate_role_ref_t ref = {VD_SLICE_NULL, request->db};
    char key[12];
    if (v.type == VD_BSON_STRING) {
        ref.role = vd_value_string(v);
    } else if (v.type == VD_BSON_OBJECT) {
        vd_value_t role = vd_bson_get(vd_value_document(v), "role"),
                   db = vd_bson_get(vd_value_document(v), "db");
        if (role.type != VD_BSON_STRING || db.type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "Role names must be either strings or objects with role and db");
        ref = (gate_role_ref_t){vd_value_string(role), vd_value_string(db)};
    } else {
        return vd_error_set(err, VD_ERR_BAD_VALUE, "Role names must be either strings or objects");
    }
    if (gate_role_is_builtin(ref) || gate_role_find(set, ref) != NULL)
        put_role(request, set, ref, vd_array_name((*n)++, key), reply);
    return VD_OK;
}

static void put_all(gate_request_t *request, const gate_role_set_t *set, uint32_t *n,
                    vd_bb_t *reply)
{
    char key[12];
    for (uint32_t i = 0; i < set->count; i++) {
        if (vd_slice_equal(set->items[i].name.db, request->db))
            put_role(request, set, set->items[i].name, vd_array_name((*n)++, key), reply);
    }
    if (!vd_value_as_flag(vd_bson_get(gate_request_body(request), "showBuiltinRoles")))
        return;
    const char *name;
    for (uint32_t i = 0; (name = gate_role_builtin_name(request->db, i)) != NULL; i++)
        put_role(request, set, (gate_role_ref_t){vd_slice_str(name), request->db},
                 vd_array_name((*n)++, key), reply);
}

int gate_command_roles_info(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    static const char *const fields[] = {"showPrivileges", "showBuiltinRoles",
                                         "showAuthenticationRestrictions", NULL};
    gate_role_set_t set;
    uint32_t n = 0;
    int rc = gate_admin_fields(request, fields, err);
    if (rc == VD_OK)
        rc = gate_admin_roles(request, &set, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_begin_array(reply, "roles");
    if (vd_value_is_number(request->first)) {
        put_all(request, &set, &n, reply);
    } else if (request->first.type == VD_BSON_ARRAY) {
        vd_bson_iter_t each;
        vd_bson_iter_init(&each, vd_value_document(request->first));
        while (rc == VD_OK && vd_bson_iter_next(&each))
            rc = put_named(request, &set, each.value, &n, reply, err);
    } else {
        rc = put_named(request, &set, request->first, &n, reply, err);
    }
    vd_bb_close(reply);
    return rc;
}
