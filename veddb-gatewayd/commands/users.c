/* veddb-gatewayd/commands/users.c — createUser, updateUser, dropUser, grants, usersInfo. On the
 * worker: reads and writes admin.system.users by internal commands. */
#include "veddb-gatewayd/auth/restrictions.h"
#include "veddb-gatewayd/commands/admin.h"

#define USERS "system.users"

static int not_found(gate_request_t *request, vd_slice_t name, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_USER_NOT_FOUND, "User '%.*s@%.*s' not found",
                        VD_SLICE_FMT(name), VD_SLICE_FMT(request->db));
}

static int check_database(gate_request_t *request, vd_error_t *err)
{
    if (vd_slice_is(request->db, "local"))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "Cannot create users in the local database");
    return VD_OK;
}

/* Fields that createUser and updateUser share: what is asked for and isn't offered is refused. */
static int check_options(gate_request_t *request, vd_error_t *err)
{
    vd_bson_t body = gate_request_body(request);
    vd_value_t mechanisms = vd_bson_get(body, "mechanisms"),
               restrictions = vd_bson_get(body, "authenticationRestrictions"),
               custom = vd_bson_get(body, "customData");
    vd_value_t digest = vd_bson_get(body, "digestPassword");
    if (!vd_value_is_missing(mechanisms)) {
        if (mechanisms.type != VD_BSON_ARRAY || vd_bson_is_empty(vd_value_document(mechanisms)))
            return vd_error_set(err, VD_ERR_BAD_VALUE, "mechanisms field must not be empty");
        vd_bson_iter_t each;
        vd_bson_iter_init(&each, vd_value_document(mechanisms));
        while (vd_bson_iter_next(&each)) {
            if (each.value.type != VD_BSON_STRING ||
                !vd_slice_is(vd_value_string(each.value), "SCRAM-SHA-256"))
                return vd_error_set(err, VD_ERR_BAD_VALUE,
                                    "mechanisms may only name SCRAM-SHA-256");
        }
    }
    int rc = vd_value_is_missing(restrictions) ? VD_OK : gate_restrictions_check(restrictions, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_value_is_missing(custom) && custom.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "customData must be an object");
    if (!vd_value_is_missing(digest) && !vd_value_truthy(digest))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Use of SCRAM-SHA-256 requires undigested passwords");
    return VD_OK;
}

static int read_password(gate_request_t *request, vd_slice_t *ret_password, vd_error_t *err)
{
    vd_value_t pwd = vd_bson_get(gate_request_body(request), "pwd");
    if (pwd.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "'pwd' must be a string");
    *ret_password = vd_value_string(pwd);
    if (ret_password->len == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "Password cannot be empty");
    if (ret_password->len > 1024)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "Password cannot be longer than 1024 bytes");
    return VD_OK;
}

int gate_command_create_user(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    static const char *const fields[] = {
        "pwd", "customData", "roles", "digestPassword", "mechanisms", "authenticationRestrictions",
        NULL};
    vd_bson_t body = gate_request_body(request), document;
    vd_slice_t name, password = VD_SLICE_NULL;
    gate_role_ref_t *roles;
    uint32_t role_count;
    gate_role_set_t set;
    int rc = gate_admin_fields(request, fields, err);
    if (rc == VD_OK)
        rc = gate_admin_name(request, "User", &name, err);
    if (rc == VD_OK)
        rc = check_database(request, err);
    if (rc == VD_OK)
        rc = check_options(request, err);
    bool external = vd_slice_is(request->db, "$external"); /* by certificate, not by password */
    if (rc == VD_OK && external && !vd_value_is_missing(vd_bson_get(body, "pwd")))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "Cannot set the password for users defined on the '$external' database");
    if (rc == VD_OK && !external && vd_value_is_missing(vd_bson_get(body, "pwd")))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "Must provide a 'pwd' field for all user documents, except those with "
                          "'$external' as the user's source db");
    if (rc == VD_OK && !external)
        rc = read_password(request, &password, err);
    if (rc == VD_OK)
        rc = gate_admin_roles(request, &set, err);
    if (rc == VD_OK)
        rc = gate_admin_role_list(request, true, &set, &roles, &role_count, err);
    if (rc != VD_OK)
        return rc;
    vd_value_t custom = vd_bson_get(body, "customData");
    gate_refs_add(request->arena, &roles, &role_count, NULL, 0); /* drops doubles */
    rc = gate_user_document(request->arena, name, request->db, password,
                            vd_value_is_missing(custom) ? VD_BSON_NONE : vd_value_document(custom),
                            vd_bson_get(body, "authenticationRestrictions"), roles, role_count,
                            &document, err);
    if (rc != VD_OK)
        return rc;
    rc = gate_admin_insert(request, USERS, document, err);
    if (rc == VD_ERR_DUPLICATE_KEY) {
        vd_error_clear(err);
        return vd_error_set(err, VD_ERR_USER_EXISTS, "User \"%.*s@%.*s\" already exists",
                            VD_SLICE_FMT(name), VD_SLICE_FMT(request->db));
    }
    return rc;
}

int gate_command_update_user(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    static const char *const fields[] = {
        "pwd", "customData", "roles", "digestPassword", "mechanisms", "authenticationRestrictions",
        NULL};
    vd_bson_t body = gate_request_body(request), set_document;
    vd_slice_t name, password;
    gate_role_ref_t *roles = NULL;
    uint32_t role_count = 0;
    gate_role_set_t set;
    vd_value_t custom = vd_bson_get(body, "customData"), list = vd_bson_get(body, "roles"),
               pwd = vd_bson_get(body, "pwd"),
               restrictions = vd_bson_get(body, "authenticationRestrictions");
    int rc = gate_admin_fields(request, fields, err);
    if (rc == VD_OK)
        rc = gate_admin_name(request, "User", &name, err);
    if (rc == VD_OK)
        rc = check_options(request, err);
    if (rc == VD_OK && vd_slice_is(request->db, "$external") && !vd_value_is_missing(pwd))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "Cannot set the password for users defined on the '$external' database");
    if (rc == VD_OK && vd_value_is_missing(custom) && vd_value_is_missing(list) &&
        vd_value_is_missing(pwd) && vd_value_is_missing(restrictions))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "Must specify at least one field to update in updateUser");
    if (rc == VD_OK)
        rc = gate_admin_roles(request, &set, err);
    if (rc == VD_OK)
        rc = gate_admin_role_list(request, false, &set, &roles, &role_count, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, request->arena, VD_BSON_DOCUMENT_MAX_BYTES);
    if (!vd_value_is_missing(pwd)) {
        vd_bson_t credentials;
        rc = read_password(request, &password, err);
        if (rc == VD_OK)
            rc = gate_credentials_document(request->arena, password, &credentials, err);
        if (rc != VD_OK)
            return rc;
        vd_bb_document(&bb, "credentials", credentials);
    }
    if (!vd_value_is_missing(custom))
        vd_bb_document(&bb, "customData", vd_value_document(custom));
    if (!vd_value_is_missing(restrictions))
        vd_bb_value(&bb, VD_SLICE_LIT("authenticationRestrictions"), restrictions);
    if (!vd_value_is_missing(list)) {
        gate_refs_add(request->arena, &roles, &role_count, NULL, 0); /* drops doubles */
        gate_role_refs_print(roles, role_count, "roles", &bb);
    }
    int64_t matched = 0;
    rc = vd_bb_finish(&bb, &set_document, err);
    if (rc == VD_OK)
        rc = gate_admin_set(request, USERS, gate_admin_id(request, request->db, name), set_document,
                            VD_BSON_NONE, &matched, err);
    if (rc == VD_OK && matched == 0)
        rc = not_found(request, name, err);
    return rc;
}

int gate_command_drop_user(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    static const char *const fields[] = {NULL};
    vd_slice_t name;
    int64_t count = 0;
    int rc = gate_admin_fields(request, fields, err);
    if (rc == VD_OK)
        rc = gate_admin_name(request, "User", &name, err);
    if (rc == VD_OK)
        rc = gate_admin_delete(request, USERS, gate_admin_id(request, request->db, name), &count,
                               err);
    if (rc == VD_OK && count == 0)
        rc = not_found(request, name, err);
    return rc;
}

int gate_command_drop_all_users(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    static const char *const fields[] = {NULL};
    int64_t count = 0;
    int rc = gate_admin_fields(request, fields, err);
    if (rc == VD_OK)
        rc = gate_admin_delete_all(request, USERS, request->db, &count, err);
    vd_bb_int32(reply, "n", (int32_t)count);
    return rc;
}

static int change_roles(gate_request_t *request, bool grant, vd_error_t *err)
{
    static const char *const fields[] = {"roles", NULL};
    vd_slice_t name;
    gate_role_ref_t *changed, *held = NULL;
    uint32_t changed_count, held_count = 0, count;
    gate_role_set_t set;
    vd_bson_t *documents, set_document;
    int rc = gate_admin_fields(request, fields, err);
    if (rc == VD_OK)
        rc = gate_admin_name(request, "User", &name, err);
    if (rc == VD_OK)
        rc = gate_admin_roles(request, &set, err);
    if (rc == VD_OK)
        rc = gate_admin_role_list(request, true, &set, &changed, &changed_count, err);
    if (rc != VD_OK)
        return rc;
    char *id = gate_admin_id(request, request->db, name);
    rc = gate_internal_find(request->thread->gate, USERS,
                            gate_admin_filter(request, "_id", vd_slice_str(id)), request->arena,
                            &documents, &count, err);
    if (rc == VD_OK && count == 0)
        rc =
            vd_error_set(err, VD_ERR_USER_NOT_FOUND, "Could not find user \"%.*s\" for db \"%.*s\"",
                         VD_SLICE_FMT(name), VD_SLICE_FMT(request->db));
    if (rc == VD_OK && !vd_value_is_missing(vd_bson_get(documents[0], "roles")))
        rc = gate_role_refs_parse(request->arena, vd_bson_get(documents[0], "roles"), request->db,
                                  &held, &held_count, err);
    if (rc != VD_OK)
        return rc;
    if (grant)
        gate_refs_add(request->arena, &held, &held_count, changed, changed_count);
    else
        gate_refs_take(held, &held_count, changed, changed_count);
    vd_bb_t bb;
    int64_t matched = 0;
    vd_bb_init_arena(&bb, request->arena, VD_BSON_DOCUMENT_MAX_BYTES);
    gate_role_refs_print(held, held_count, "roles", &bb);
    rc = vd_bb_finish(&bb, &set_document, err);
    if (rc == VD_OK)
        rc = gate_admin_set(request, USERS, id, set_document, VD_BSON_NONE, &matched, err);
    if (rc == VD_OK && matched == 0)
        rc = not_found(request, name, err);
    return rc;
}

int gate_command_grant_roles_to_user(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    return change_roles(request, true, err);
}

int gate_command_revoke_roles_from_user(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* ok says it all */
    return change_roles(request, false, err);
}

/* ---- usersInfo ---- */

static int add_name(gate_request_t *request, vd_value_t v, vd_bb_t *ids, uint32_t *n,
                    vd_error_t *err)
{
    char key[12];
    vd_slice_t name, db = request->db;
    if (v.type == VD_BSON_STRING) {
        name = vd_value_string(v);
    } else if (v.type == VD_BSON_OBJECT) {
        vd_value_t user = vd_bson_get(vd_value_document(v), "user"),
                   user_db = vd_bson_get(vd_value_document(v), "db");
        if (user.type != VD_BSON_STRING || user_db.type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "User names must be either strings or objects with user and db");
        name = vd_value_string(user), db = vd_value_string(user_db);
    } else {
        return vd_error_set(err, VD_ERR_BAD_VALUE, "User names must be either strings or objects");
    }
    vd_bb_value(
        ids, vd_array_name((*n)++, key),
        vd_value_from_string(request->arena, vd_slice_str(gate_admin_id(request, db, name))));
    return VD_OK;
}

/* The filter on stored users that the argument means, with the client's own behind it. */
static int info_filter(gate_request_t *request, vd_bson_t *ret_filter, vd_error_t *err)
{
    vd_value_t what = request->first, own = vd_bson_get(gate_request_body(request), "filter");
    vd_bb_t bb;
    uint32_t n = 0;
    int rc = VD_OK;
    bool all_databases = what.type == VD_BSON_OBJECT &&
                         !vd_value_is_missing(vd_bson_get(vd_value_document(what), "forAllDBs"));
    vd_bb_init_arena(&bb, request->arena, VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_begin_array(&bb, "$and");
    vd_bb_begin_document(&bb, "0");
    if (vd_value_is_number(what)) {
        vd_bb_string(&bb, "db", request->db);
    } else if (!all_databases) {
        vd_bb_begin_document(&bb, "_id");
        vd_bb_begin_array(&bb, "$in");
        if (what.type == VD_BSON_ARRAY) {
            vd_bson_iter_t each;
            vd_bson_iter_init(&each, vd_value_document(what));
            while (rc == VD_OK && vd_bson_iter_next(&each))
                rc = add_name(request, each.value, &bb, &n, err);
        } else {
            rc = add_name(request, what, &bb, &n, err);
        }
        vd_bb_close(&bb);
        vd_bb_close(&bb);
    }
    vd_bb_close(&bb);
    if (rc == VD_OK && own.type == VD_BSON_OBJECT)
        vd_bb_document(&bb, "1", vd_value_document(own));
    else if (rc == VD_OK && !vd_value_is_missing(own))
        rc = vd_error_set(err, VD_ERR_TYPE_MISMATCH, "filter must be an object");
    vd_bb_close(&bb);
    return rc != VD_OK ? rc : vd_bb_finish(&bb, ret_filter, err);
}

/* The user's own, and with those of all roles an array of arrays. */
static void put_restrictions(gate_request_t *request, const gate_role_set_t *set,
                             const gate_role_ref_t *roles, uint32_t count, vd_bson_t document,
                             vd_bb_t *reply)
{
    vd_value_t own = vd_bson_get(document, "authenticationRestrictions");
    bool has_own = own.type == VD_BSON_ARRAY;
    char key[12];
    uint32_t n = 0;
    if (vd_value_as_flag(
            vd_bson_get(gate_request_body(request), "showAuthenticationRestrictions")) ||
        has_own) {
        if (has_own)
            vd_bb_value(reply, VD_SLICE_LIT("authenticationRestrictions"), own);
        else {
            vd_bb_begin_array(reply, "authenticationRestrictions");
            vd_bb_close(reply);
        }
    }
    if (roles == NULL)
        return;
    vd_bb_begin_array(reply, "inheritedAuthenticationRestrictions");
    if (has_own && !vd_bson_is_empty(vd_value_document(own)))
        vd_bb_value(reply, vd_array_name(n++, key), own);
    for (uint32_t i = 0; i < count; i++) {
        const gate_role_t *role = gate_role_find(set, roles[i]);
        if (role == NULL || role->restrictions.data == NULL || vd_bson_is_empty(role->restrictions))
            continue;
        vd_bb_open_array(reply, vd_array_name(n++, key));
        vd_bson_iter_t each;
        vd_bson_iter_init(&each, role->restrictions);
        while (vd_bson_iter_next(&each))
            vd_bb_value(reply, each.name, each.value);
        vd_bb_close(reply);
    }
    vd_bb_close(reply);
}

static int put_user(gate_request_t *request, vd_bson_t document, const gate_role_set_t *set,
                    vd_slice_t key, vd_bb_t *reply, vd_error_t *err)
{
    vd_bson_t body = gate_request_body(request);
    vd_value_t custom = vd_bson_get(body, "showCustomData"), roles = vd_bson_get(document, "roles"),
               credentials = vd_bson_get(document, "credentials");
    bool show_custom = vd_value_is_missing(custom) || vd_value_truthy(custom);
    char position[12];
    uint32_t n = 0;
    vd_bb_open_document(reply, key);
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, document);
    while (vd_bson_iter_next(&each)) {
        if (vd_slice_is(each.name, "credentials") &&
            !vd_value_as_flag(vd_bson_get(body, "showCredentials")))
            continue;
        if (vd_slice_is(each.name, "customData") && !show_custom)
            continue;
        if (vd_slice_is(each.name, "authenticationRestrictions"))
            continue;
        vd_bb_value(reply, each.name, each.value);
    }
    vd_bb_begin_array(reply, "mechanisms");
    if (credentials.type == VD_BSON_OBJECT) {
        vd_bson_iter_init(&each, vd_value_document(credentials));
        while (vd_bson_iter_next(&each))
            vd_bb_value(reply, vd_array_name(n++, position),
                        vd_value_from_string(request->arena, each.name));
    }
    vd_bb_close(reply);
    int rc = VD_OK;
    if (vd_value_as_flag(vd_bson_get(body, "showPrivileges")) && roles.type == VD_BSON_ARRAY) {
        gate_role_ref_t *refs, *all;
        uint32_t count, all_count;
        gate_privileges_t privileges = {.arena = request->arena};
        rc = gate_role_refs_parse(request->arena, roles, request->db, &refs, &count, err);
        if (rc == VD_OK) {
            gate_roles_resolve(set, refs, count, &privileges, &all, &all_count);
            gate_role_refs_print(all, all_count, "inheritedRoles", reply);
            gate_privileges_print(&privileges, "inheritedPrivileges", reply);
            put_restrictions(request, set, all, all_count, document, reply);
        }
    } else if (vd_value_as_flag(vd_bson_get(body, "showAuthenticationRestrictions"))) {
        put_restrictions(request, set, NULL, 0, document, reply);
    }
    vd_bb_close(reply);
    return rc;
}

int gate_command_users_info(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    static const char *const fields[] = {"showCredentials", "showCustomData",
                                         "showPrivileges",  "showAuthenticationRestrictions",
                                         "filter",          NULL};
    vd_bson_t filter, *documents;
    uint32_t count;
    gate_role_set_t set = {0};
    char key[12];
    int rc = gate_admin_fields(request, fields, err);
    if (rc == VD_OK)
        rc = info_filter(request, &filter, err);
    if (rc == VD_OK)
        rc = gate_internal_find(request->thread->gate, USERS, filter, request->arena, &documents,
                                &count, err);
    if (rc == VD_OK && vd_value_as_flag(vd_bson_get(gate_request_body(request), "showPrivileges")))
        rc = gate_admin_roles(request, &set, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_begin_array(reply, "users");
    for (uint32_t i = 0; i < count && rc == VD_OK; i++)
        rc = put_user(request, documents[i], &set, vd_array_name(i, key), reply, err);
    vd_bb_close(reply);
    return rc;
}
