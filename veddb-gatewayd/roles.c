/* veddb-gatewayd/roles.c — see roles.h. The built-in roles are rows: role, resource, actions. */
#include "veddb-gatewayd/roles.h"

static const char *const action_names[GATE_ACTION_COUNT] = {
#define GATE_ACTION(name) #name,
#include "veddb-gatewayd/actions.def"
#undef GATE_ACTION
};

_Static_assert(GATE_ACTION_COUNT <= 128, "gate_actions_t has 128 bits");

const char *gate_action_name(gate_action_t action)
{
    VD_ASSERT(action < GATE_ACTION_COUNT);
    return action_names[action];
}

bool gate_action_by_name(vd_slice_t name, gate_action_t *ret_action)
{
    for (unsigned i = 0; i < GATE_ACTION_COUNT; i++) {
        if (vd_slice_is(name, action_names[i])) {
            *ret_action = (gate_action_t)i;
            return true;
        }
    }
    return false;
}

/* ---- privileges ---- */

void gate_privileges_add(gate_privileges_t *privileges, const gate_resource_t *resource,
                         const gate_actions_t *actions)
{
    for (uint32_t i = 0; i < privileges->count; i++) {
        gate_privilege_t *p = &privileges->items[i];
        if (p->resource.kind == resource->kind && vd_slice_equal(p->resource.db, resource->db) &&
            vd_slice_equal(p->resource.collection, resource->collection)) {
            p->actions.bits[0] |= actions->bits[0], p->actions.bits[1] |= actions->bits[1];
            return;
        }
    }
    if (privileges->count == privileges->cap) {
        uint32_t cap = privileges->cap == 0 ? 8 : privileges->cap * 2;
        gate_privilege_t *items = VD_ARENA_ARRAY(privileges->arena, gate_privilege_t, cap);
        if (privileges->count != 0)
            memcpy(items, privileges->items, privileges->count * sizeof *items);
        privileges->items = items, privileges->cap = cap;
    }
    privileges->items[privileges->count++] = (gate_privilege_t){*resource, *actions};
}

static bool resource_covers(const gate_resource_t *resource, gate_resource_kind_t kind,
                            vd_slice_t db, vd_slice_t collection)
{
    if (resource->kind == GATE_RESOURCE_ANY)
        return true;
    if (kind == GATE_RESOURCE_CLUSTER)
        return resource->kind == GATE_RESOURCE_CLUSTER;
    bool system = vd_slice_starts_with(collection, VD_SLICE_LIT("system."));
    switch (resource->kind) {
    case GATE_RESOURCE_NORMAL: /* of these two databases only who is given them by name */
        return !system && !vd_slice_is(db, "local") && !vd_slice_is(db, "config");
    case GATE_RESOURCE_DB:
        return !system && vd_slice_equal(resource->db, db);
    case GATE_RESOURCE_COLLECTION_ANY_DB:
        return vd_slice_equal(resource->collection, collection);
    case GATE_RESOURCE_COLLECTION:
        return vd_slice_equal(resource->db, db) && vd_slice_equal(resource->collection, collection);
    default:
        return false;
    }
}

/* Keys that sign: no role gives them out, not even one that names them. */
static bool is_secret(vd_slice_t db, vd_slice_t collection)
{
    return vd_slice_is(db, "admin") &&
           (vd_slice_is(collection, "system.keys") || vd_slice_is(collection, "system.tokens") ||
            vd_slice_is(collection, "system.refresh_tokens"));
}

bool gate_privileges_allow(const gate_privileges_t *privileges, gate_action_t action,
                           gate_resource_kind_t kind, vd_slice_t db, vd_slice_t collection)
{
    if (kind == GATE_RESOURCE_COLLECTION && is_secret(db, collection))
        return false;
    for (uint32_t i = 0; i < privileges->count; i++) {
        const gate_privilege_t *p = &privileges->items[i];
        if (gate_actions_has(&p->actions, action) &&
            resource_covers(&p->resource, kind, db, collection))
            return true;
    }
    return false;
}

/* ---- built-in roles ---- */

#define A(name)       GATE_ACTION_##name
#define LIST(id, ...) static const uint8_t id[] = {__VA_ARGS__, GATE_ACTION_COUNT}

#define READ_ACTIONS                                                                               \
    A(changeStream), A(collStats), A(dbHash), A(dbStats), A(find), A(killCursors),                 \
        A(listCollections), A(listIndexes), A(planCacheRead)
#define WRITE_ACTIONS                                                                              \
    A(convertToCapped), A(createCollection), A(createIndex), A(dropCollection), A(dropIndex),      \
        A(emptycapped), A(insert), A(remove), A(renameCollectionSameDB), A(update)
#define USER_ADMIN_ACTIONS                                                                         \
    A(changeCustomData), A(changePassword), A(createRole), A(createUser), A(dropRole),             \
        A(dropUser), A(grantRole), A(revokeRole), A(setAuthenticationRestriction), A(viewRole),    \
        A(viewUser), A(revokeTokens)
#define DB_ADMIN_ACTIONS                                                                           \
    A(bypassDocumentValidation), A(collMod), A(collStats), A(compact), A(convertToCapped),         \
        A(createCollection), A(createIndex), A(dbStats), A(dropCollection), A(dropDatabase),       \
        A(dropIndex), A(enableProfiler), A(listCollections), A(listIndexes),                       \
        A(planCacheIndexFilter), A(planCacheRead), A(planCacheWrite), A(reIndex),                  \
        A(renameCollectionSameDB), A(storageDetails), A(validate), A(analyzeShardKey)
#define CLUSTER_MONITOR_ACTIONS                                                                    \
    A(checkFreeMonitoringStatus), A(connPoolStats), A(getCmdLineOpts), A(getDefaultRWConcern),     \
        A(getLog), A(getParameter), A(getShardMap), A(hostInfo), A(inprog), A(listDatabases),      \
        A(listSessions), A(listShards), A(netstat), A(operationMetrics), A(queryStatsRead),        \
        A(replSetGetConfig), A(replSetGetStatus), A(rotationStatus), A(serverStatus),              \
        A(setFreeMonitoring), A(top), A(useUUID)
#define CLUSTER_MANAGER_ACTIONS                                                                    \
    A(appendOplogNote), A(applicationMessage), A(cleanupOrphaned), A(flushRouterConfig),           \
        A(getDefaultRWConcern), A(listSessions), A(listShards), A(replSetConfigure),               \
        A(replSetGetConfig), A(replSetGetStatus), A(replSetStateChange), A(resync),                \
        A(setDefaultRWConcern), A(setFeatureCompatibilityVersion), A(setFreeMonitoring),           \
        A(setUserWriteBlockMode)
#define HOST_MANAGER_ACTIONS                                                                       \
    A(applicationMessage), A(closeAllDatabases), A(connPoolSync), A(dropConnections),              \
        A(flushRouterConfig), A(fsync), A(invalidateUserCache), A(killAnyCursor),                  \
        A(killAnySession), A(killop), A(logRotate), A(resync), A(rotateCertificates),              \
        A(rotateKeys), A(rotateTokenKeys), A(setParameter), A(shutdown), A(touch), A(unlock),      \
        A(getParameter)

LIST(read_list, READ_ACTIONS);
LIST(read_write_list, READ_ACTIONS, WRITE_ACTIONS);
LIST(user_admin_list, USER_ADMIN_ACTIONS);
LIST(db_admin_list, DB_ADMIN_ACTIONS);
LIST(db_owner_list, READ_ACTIONS, WRITE_ACTIONS, USER_ADMIN_ACTIONS, DB_ADMIN_ACTIONS);
LIST(profile_list, READ_ACTIONS, A(convertToCapped), A(createCollection), A(dropCollection));
LIST(list_databases_list, A(listDatabases));
LIST(any_users_list, A(authSchemaUpgrade), A(invalidateUserCache), A(listDatabases),
     A(revokeTokens), A(rotateTokenKeys));
LIST(system_users_list, A(collStats), A(dbHash), A(dbStats), A(find), A(killCursors),
     A(listCollections), A(listIndexes), A(planCacheRead), A(changeStream));
LIST(system_users_index_list, A(collStats), A(createIndex), A(dbHash), A(dbStats), A(dropIndex),
     A(find), A(killCursors), A(listCollections), A(listIndexes), A(planCacheRead),
     A(changeStream));
LIST(monitor_list, CLUSTER_MONITOR_ACTIONS);
LIST(monitor_db_list, A(collStats), A(dbStats), A(indexStats));
LIST(monitor_local_list, A(collStats), A(dbHash), A(dbStats), A(find), A(indexStats),
     A(killCursors), A(listCollections), A(listIndexes), A(planCacheRead));
LIST(find_list, A(find));
LIST(manager_list, CLUSTER_MANAGER_ACTIONS);
LIST(manager_local_list, A(collStats), A(dbHash), A(dbStats), A(find), A(insert), A(killCursors),
     A(listCollections), A(listIndexes), A(planCacheRead), A(remove), A(update));
LIST(host_list, HOST_MANAGER_ACTIONS);
LIST(host_db_list, A(killCursors));
LIST(cluster_admin_list, CLUSTER_MONITOR_ACTIONS, CLUSTER_MANAGER_ACTIONS, HOST_MANAGER_ACTIONS);
LIST(cluster_admin_db_list, A(collStats), A(dbStats), A(dropDatabase), A(indexStats),
     A(killCursors));
LIST(backup_list, A(appendOplogNote), A(getParameter), A(listDatabases), A(serverStatus),
     A(setUserWriteBlockMode));
LIST(backup_any_list, A(collStats), A(listCollections), A(listIndexes));
LIST(restore_list, A(bypassDocumentValidation), A(changeCustomData), A(changePassword), A(collMod),
     A(convertToCapped), A(createCollection), A(createIndex), A(createRole), A(createUser),
     A(dropCollection), A(dropRole), A(dropUser), A(grantRole), A(insert), A(revokeRole),
     A(viewRole), A(viewUser));
LIST(restore_any_list, A(listCollections));
LIST(restore_system_list, A(find), A(insert), A(remove), A(update), A(createIndex),
     A(createCollection), A(dropCollection));
LIST(root_any_list, A(validate), A(collStats), A(listCollections), A(listIndexes));
LIST(root_cluster_list, CLUSTER_MONITOR_ACTIONS, CLUSTER_MANAGER_ACTIONS, HOST_MANAGER_ACTIONS,
     A(authSchemaUpgrade), A(applyOps), A(revokeTokens));
LIST(root_normal_list, READ_ACTIONS, WRITE_ACTIONS, USER_ADMIN_ACTIONS, DB_ADMIN_ACTIONS,
     A(indexStats));
#undef LIST

typedef struct {
    const char *role;
    bool any_db; /* false: only on admin */
    gate_resource_kind_t kind;
    const char *db, *collection; /* db "": the role's own */
    const uint8_t *actions;
} builtin_t;

#define NORMAL            GATE_RESOURCE_NORMAL, "", ""
#define OWN               GATE_RESOURCE_DB, "", ""
#define CLUSTER           GATE_RESOURCE_CLUSTER, "", ""
#define ANY               GATE_RESOURCE_ANY, "", ""
#define EVERYWHERE(c)     GATE_RESOURCE_COLLECTION_ANY_DB, "", c
#define OWN_COLLECTION(c) GATE_RESOURCE_COLLECTION, "", c
#define ADMIN(c)          GATE_RESOURCE_COLLECTION, "admin", c

static const builtin_t builtins[] = {
    {"read", true, OWN, read_list},
    {"read", true, OWN_COLLECTION("system.js"), read_list},
    {"readWrite", true, OWN, read_write_list},
    {"readWrite", true, OWN_COLLECTION("system.js"), read_write_list},
    {"userAdmin", true, OWN, user_admin_list},
    {"dbAdmin", true, OWN, db_admin_list},
    {"dbAdmin", true, OWN_COLLECTION("system.profile"), profile_list},
    {"dbOwner", true, OWN, db_owner_list},
    {"dbOwner", true, OWN_COLLECTION("system.profile"), profile_list},
    {"dbOwner", true, OWN_COLLECTION("system.js"), read_write_list},
    {"clusterMonitor", false, CLUSTER, monitor_list},
    {"clusterMonitor", false, NORMAL, monitor_db_list},
    {"clusterMonitor", false, GATE_RESOURCE_DB, "config", "", monitor_local_list},
    {"clusterMonitor", false, GATE_RESOURCE_DB, "local", "", monitor_local_list},
    {"clusterMonitor", false, GATE_RESOURCE_COLLECTION, "local", "system.replset", find_list},
    {"clusterMonitor", false, EVERYWHERE("system.profile"), find_list},
    {"clusterManager", false, CLUSTER, manager_list},
    {"clusterManager", false, GATE_RESOURCE_DB, "config", "", manager_local_list},
    {"clusterManager", false, GATE_RESOURCE_DB, "local", "", manager_local_list},
    {"hostManager", false, CLUSTER, host_list},
    {"hostManager", false, NORMAL, host_db_list},
    {"clusterAdmin", false, CLUSTER, cluster_admin_list},
    {"clusterAdmin", false, NORMAL, cluster_admin_db_list},
    {"clusterAdmin", false, GATE_RESOURCE_DB, "config", "", manager_local_list},
    {"clusterAdmin", false, GATE_RESOURCE_DB, "local", "", manager_local_list},
    {"clusterAdmin", false, GATE_RESOURCE_DB, "config", "", monitor_local_list},
    {"clusterAdmin", false, GATE_RESOURCE_DB, "local", "", monitor_local_list},
    {"clusterAdmin", false, GATE_RESOURCE_COLLECTION, "local", "system.replset", find_list},
    {"clusterAdmin", false, EVERYWHERE("system.profile"), find_list},
    {"backup", false, CLUSTER, backup_list},
    {"backup", false, ANY, backup_any_list},
    {"backup", false, NORMAL, find_list},
    {"backup", false, GATE_RESOURCE_DB, "config", "", find_list},
    {"backup", false, GATE_RESOURCE_DB, "local", "", find_list},
    {"backup", false, EVERYWHERE("system.js"), find_list},
    {"backup", false, EVERYWHERE("system.profile"), find_list},
    {"backup", false, ADMIN("system.users"), find_list},
    {"backup", false, ADMIN("system.roles"), find_list},
    {"backup", false, ADMIN("system.version"), find_list},
    {"restore", false, NORMAL, restore_list},
    {"restore", false, ANY, restore_any_list},
    {"restore", false, EVERYWHERE("system.js"), restore_system_list},
    {"restore", false, ADMIN("system.roles"), restore_system_list},
    {"restore", false, ADMIN("system.users"), restore_system_list},
    {"restore", false, ADMIN("system.version"), restore_system_list},
    {"readAnyDatabase", false, NORMAL, read_list},
    {"readAnyDatabase", false, CLUSTER, list_databases_list},
    {"readAnyDatabase", false, EVERYWHERE("system.js"), read_list},
    {"readWriteAnyDatabase", false, NORMAL, read_write_list},
    {"readWriteAnyDatabase", false, CLUSTER, list_databases_list},
    {"readWriteAnyDatabase", false, EVERYWHERE("system.js"), read_write_list},
    {"userAdminAnyDatabase", false, NORMAL, user_admin_list},
    {"userAdminAnyDatabase", false, GATE_RESOURCE_DB, "config", "", user_admin_list},
    {"userAdminAnyDatabase", false, GATE_RESOURCE_DB, "local", "", user_admin_list},
    {"userAdminAnyDatabase", false, CLUSTER, any_users_list},
    {"userAdminAnyDatabase", false, ADMIN("system.users"), system_users_index_list},
    {"userAdminAnyDatabase", false, ADMIN("system.roles"), system_users_list},
    {"userAdminAnyDatabase", false, ADMIN("system.version"), system_users_list},
    {"dbAdminAnyDatabase", false, NORMAL, db_admin_list},
    {"dbAdminAnyDatabase", false, CLUSTER, list_databases_list},
    {"dbAdminAnyDatabase", false, EVERYWHERE("system.profile"), profile_list},
    {"root", false, CLUSTER, root_cluster_list},
    {"root", false, CLUSTER, backup_list},
    {"root", false, NORMAL, root_normal_list},
    {"root", false, ANY, root_any_list},
    {"root", false, EVERYWHERE("system.js"), read_write_list},
    {"root", false, EVERYWHERE("system.profile"), profile_list},
    {"root", false, ADMIN("system.users"), system_users_index_list},
    {"root", false, ADMIN("system.roles"), system_users_list},
    {"root", false, ADMIN("system.version"), system_users_list},
    {"root", false, GATE_RESOURCE_DB, "config", "", user_admin_list},
    {"root", false, GATE_RESOURCE_DB, "local", "", user_admin_list},
    {"root", false, GATE_RESOURCE_DB, "config", "", manager_local_list},
    {"root", false, GATE_RESOURCE_DB, "config", "", monitor_local_list},
    {"root", false, GATE_RESOURCE_DB, "local", "", manager_local_list},
    {"root", false, GATE_RESOURCE_DB, "local", "", monitor_local_list},
    {"root", false, GATE_RESOURCE_COLLECTION, "local", "system.replset", find_list},
    {"__system", false, ANY, NULL},
};

static bool builtin_matches(const builtin_t *row, gate_role_ref_t ref)
{
    return vd_slice_is(ref.role, row->role) && (row->any_db || vd_slice_is(ref.db, "admin"));
}

bool gate_role_is_builtin(gate_role_ref_t ref)
{
    for (size_t i = 0; i < VD_COUNT_OF(builtins); i++) {
        if (builtin_matches(&builtins[i], ref))
            return true;
    }
    return false;
}

const char *gate_role_builtin_name(vd_slice_t db, uint32_t position)
{
    const char *last = "";
    for (size_t i = 0; i < VD_COUNT_OF(builtins); i++) {
        const builtin_t *row = &builtins[i];
        if (strcmp(row->role, last) == 0 || (!row->any_db && !vd_slice_is(db, "admin")))
            continue;
        last = row->role;
        if (position-- == 0)
            return row->role;
    }
    return NULL;
}

void gate_role_builtin_privileges(gate_role_ref_t ref, gate_privileges_t *privileges)
{
    for (size_t i = 0; i < VD_COUNT_OF(builtins); i++) {
        const builtin_t *row = &builtins[i];
        if (!builtin_matches(row, ref))
            continue;
        gate_actions_t actions = {{0}};
        if (row->actions == NULL)
            actions.bits[0] = actions.bits[1] = UINT64_MAX;
        else
            for (const uint8_t *a = row->actions; *a != GATE_ACTION_COUNT; a++)
                gate_actions_add(&actions, (gate_action_t)*a);
        gate_resource_t resource = {row->kind, vd_slice_str(row->db),
                                    vd_slice_str(row->collection)};
        if ((row->kind == GATE_RESOURCE_DB || row->kind == GATE_RESOURCE_COLLECTION) &&
            row->db[0] == 0)
            resource.db = ref.db;
        gate_privileges_add(privileges, &resource, &actions);
    }
}

/* ---- custom roles ---- */

static int resource_parse(vd_value_t v, gate_resource_t *ret, vd_error_t *err)
{
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "resource must be an object");
    vd_bson_t document = vd_value_document(v);
    vd_value_t cluster = vd_bson_get(document, "cluster"),
               any = vd_bson_get(document, "anyResource");
    vd_value_t db = vd_bson_get(document, "db"), collection = vd_bson_get(document, "collection");
    memset(ret, 0, sizeof *ret);
    if (!vd_value_is_missing(cluster) || !vd_value_is_missing(any)) {
        if (vd_bson_count(document) != 1 ||
            !vd_value_as_flag(vd_value_is_missing(cluster) ? any : cluster))
            return vd_error_set(
                err, VD_ERR_FAILED_TO_PARSE,
                "resource must be cluster: true, anyResource: true, or have db and collection");
        ret->kind = vd_value_is_missing(cluster) ? GATE_RESOURCE_ANY : GATE_RESOURCE_CLUSTER;
        return VD_OK;
    }
    if (db.type != VD_BSON_STRING || collection.type != VD_BSON_STRING ||
        vd_bson_count(document) != 2)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "resource must have db and collection strings");
    ret->db = vd_value_string(db), ret->collection = vd_value_string(collection);
    if (ret->db.len == 0)
        ret->kind =
            ret->collection.len == 0 ? GATE_RESOURCE_NORMAL : GATE_RESOURCE_COLLECTION_ANY_DB;
    else
        ret->kind = ret->collection.len == 0 ? GATE_RESOURCE_DB : GATE_RESOURCE_COLLECTION;
    return VD_OK;
}

int gate_privileges_parse(vd_arena_t *arena, vd_value_t array, gate_privileges_t *ret_privileges,
                          vd_error_t *err)
{
    *ret_privileges = (gate_privileges_t){.arena = arena};
    if (vd_value_is_missing(array))
        return VD_OK;
    if (array.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "\"privileges\" must be an array");
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(array));
    while (vd_bson_iter_next(&each)) {
        if (each.value.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "each privilege must be an object");
        vd_bson_t privilege = vd_value_document(each.value);
        gate_resource_t resource;
        int rc = resource_parse(vd_bson_get(privilege, "resource"), &resource, err);
        if (rc != VD_OK)
            return rc;
        vd_value_t list = vd_bson_get(privilege, "actions");
        if (list.type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "a privilege needs an array of actions");
        gate_actions_t actions = {{0}};
        vd_bson_iter_t each_action;
        vd_bson_iter_init(&each_action, vd_value_document(list));
        while (vd_bson_iter_next(&each_action)) {
            gate_action_t action;
            if (each_action.value.type != VD_BSON_STRING)
                return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "actions must be strings");
            vd_slice_t name = vd_value_string(each_action.value);
            if (vd_slice_is(name, "anyAction"))
                actions.bits[0] = actions.bits[1] = UINT64_MAX;
            else if (gate_action_by_name(name, &action))
                gate_actions_add(&actions, action);
            else
                return vd_error_set(err, VD_ERR_BAD_VALUE,
                                    "Unrecognized action privilege strings: %.*s",
                                    VD_SLICE_FMT(name));
        }
        gate_privileges_add(ret_privileges, &resource, &actions);
    }
    return each.bad ? vd_error_set(err, VD_ERR_INVALID_BSON, "privileges are not BSON") : VD_OK;
}

int gate_role_refs_parse(vd_arena_t *arena, vd_value_t array, vd_slice_t default_db,
                         gate_role_ref_t **ret_refs, uint32_t *ret_count, vd_error_t *err)
{
    *ret_refs = NULL, *ret_count = 0;
    if (array.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "\"roles\" must be an array");
    uint32_t count = vd_bson_count(vd_value_document(array)), n = 0;
    if (count > GATE_ROLES_MAX)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "too many roles");
    gate_role_ref_t *refs = VD_ARENA_ARRAY(arena, gate_role_ref_t, count + 1);
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(array));
    while (n < count && vd_bson_iter_next(&each)) {
        gate_role_ref_t *ref = &refs[n++];
        if (each.value.type == VD_BSON_STRING) {
            *ref = (gate_role_ref_t){vd_value_string(each.value), default_db};
        } else if (each.value.type == VD_BSON_OBJECT) {
            vd_value_t role = vd_bson_get(vd_value_document(each.value), "role"),
                       db = vd_bson_get(vd_value_document(each.value), "db");
            if (role.type != VD_BSON_STRING || db.type != VD_BSON_STRING)
                return vd_error_set(
                    err, VD_ERR_BAD_VALUE,
                    "Role names must be either strings or objects with role and db");
            *ref = (gate_role_ref_t){vd_value_string(role), vd_value_string(db)};
        } else {
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "Role names must be either strings or objects");
        }
        if (ref->role.len == 0)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "Role name must be non-empty");
        if (ref->db.len == 0)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "Role db must be non-empty");
    }
    *ret_refs = refs, *ret_count = n;
    return VD_OK;
}

int gate_role_parse(vd_arena_t *arena, vd_bson_t document, gate_role_t *ret_role, vd_error_t *err)
{
    memset(ret_role, 0, sizeof *ret_role);
    vd_value_t role = vd_bson_get(document, "role"), db = vd_bson_get(document, "db");
    if (role.type != VD_BSON_STRING || db.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_UNSUPPORTED_FORMAT, "a stored role has no name");
    ret_role->name = (gate_role_ref_t){vd_value_string(role), vd_value_string(db)};
    int rc = gate_privileges_parse(arena, vd_bson_get(document, "privileges"),
                                   &ret_role->privileges, err);
    if (rc != VD_OK)
        return rc;
    vd_value_t roles = vd_bson_get(document, "roles"),
               restrictions = vd_bson_get(document, "authenticationRestrictions");
    if (restrictions.type == VD_BSON_ARRAY)
        ret_role->restrictions = vd_value_document(restrictions);
    if (vd_value_is_missing(roles))
        return VD_OK;
    return gate_role_refs_parse(arena, roles, ret_role->name.db, &ret_role->roles,
                                &ret_role->role_count, err);
}

gate_role_t *gate_role_find(const gate_role_set_t *set, gate_role_ref_t ref)
{
    for (uint32_t i = 0; set != NULL && i < set->count; i++) {
        if (gate_role_ref_equal(set->items[i].name, ref))
            return &set->items[i];
    }
    return NULL;
}

/* ---- what roles add up to ---- */

typedef struct {
    vd_arena_t *arena;
    gate_role_ref_t *items;
    uint32_t count, cap;
} ref_list_t;

static bool list_add(ref_list_t *list, gate_role_ref_t ref)
{
    for (uint32_t i = 0; i < list->count; i++) {
        if (gate_role_ref_equal(list->items[i], ref))
            return false;
    }
    if (list->count == list->cap) {
        uint32_t cap = list->cap == 0 ? 8 : list->cap * 2;
        gate_role_ref_t *items = VD_ARENA_ARRAY(list->arena, gate_role_ref_t, cap);
        if (list->count != 0)
            memcpy(items, list->items, list->count * sizeof *items);
        list->items = items, list->cap = cap;
    }
    list->items[list->count++] = ref;
    return true;
}

void gate_roles_resolve(const gate_role_set_t *set, const gate_role_ref_t *refs, uint32_t count,
                        gate_privileges_t *privileges, gate_role_ref_t **ret_all,
                        uint32_t *ret_all_count)
{
    /* The list of roles reached is also the queue: it only grows by roles not in it, so a cycle
     * ends. */
    ref_list_t reached = {.arena = privileges->arena};
    for (uint32_t i = 0; i < count; i++)
        (void)list_add(&reached, refs[i]);
    for (uint32_t i = 0; i < reached.count; i++) {
        gate_role_ref_t ref = reached.items[i];
        if (gate_role_is_builtin(ref)) {
            gate_role_builtin_privileges(ref, privileges);
            continue;
        }
        const gate_role_t *role = gate_role_find(set, ref);
        if (role == NULL)
            continue;
        for (uint32_t k = 0; k < role->privileges.count; k++)
            gate_privileges_add(privileges, &role->privileges.items[k].resource,
                                &role->privileges.items[k].actions);
        for (uint32_t k = 0; k < role->role_count; k++)
            (void)list_add(&reached, role->roles[k]);
    }
    if (ret_all != NULL)
        *ret_all = reached.items, *ret_all_count = reached.count;
}

bool gate_roles_reach(const gate_role_set_t *set, gate_role_ref_t to, gate_role_ref_t from)
{
    vd_arena_t *arena = vd_arena_create();
    gate_privileges_t ignored = {.arena = arena};
    gate_role_ref_t *all;
    uint32_t count;
    gate_roles_resolve(set, &to, 1, &ignored, &all, &count);
    bool reached = false;
    for (uint32_t i = 0; i < count && !reached; i++)
        reached = gate_role_ref_equal(all[i], from);
    vd_arena_destroy(&arena);
    return reached;
}

/* ---- printing ---- */

static void print_resource(const gate_resource_t *resource, vd_bb_t *bb)
{
    vd_bb_begin_document(bb, "resource");
    if (resource->kind == GATE_RESOURCE_CLUSTER)
        vd_bb_bool(bb, "cluster", true);
    else if (resource->kind == GATE_RESOURCE_ANY)
        vd_bb_bool(bb, "anyResource", true);
    else {
        vd_bb_string(bb, "db", resource->db);
        vd_bb_string(bb, "collection", resource->collection);
    }
    vd_bb_close(bb);
}

void gate_privileges_print(const gate_privileges_t *privileges, const char *name, vd_bb_t *bb)
{
    char key[12];
    vd_bb_begin_array(bb, name);
    for (uint32_t i = 0; i < privileges->count; i++) {
        const gate_privilege_t *p = &privileges->items[i];
        vd_bb_open_document(bb, vd_array_name(i, key));
        print_resource(&p->resource, bb);
        vd_bb_begin_array(bb, "actions");
        uint32_t n = 0;
        for (unsigned a = 0; a < GATE_ACTION_COUNT; a++) {
            if (!gate_actions_has(&p->actions, (gate_action_t)a))
                continue;
            vd_slice_t position = vd_array_name(n++, key);
            char position_name[13] = {0};
            memcpy(position_name, position.data, position.len);
            vd_bb_cstr(bb, position_name, action_names[a]);
        }
        vd_bb_close(bb);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

void gate_role_refs_print(const gate_role_ref_t *refs, uint32_t count, const char *name,
                          vd_bb_t *bb)
{
    char key[12];
    vd_bb_begin_array(bb, name);
    for (uint32_t i = 0; i < count; i++) {
        vd_bb_open_document(bb, vd_array_name(i, key));
        vd_bb_string(bb, "role", refs[i].role);
        vd_bb_string(bb, "db", refs[i].db);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}
