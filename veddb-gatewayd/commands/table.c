/* veddb-gatewayd/commands/table.c — see table.h. */
#include "veddb-gatewayd/commands/table.h"

#include "libcommon/base/map.h"
#include "veddb-gatewayd/commands/handlers.h"
#include "veddb-gatewayd/commands/sasl.h"
#include "veddb-gatewayd/commands/x509.h"
#include "veddb-gatewayd/faults.h"

#include <pthread.h>
#include <strings.h>

#define NONE  GATE_ACTION_COUNT
#define A(a)  GATE_ACTION_##a
#define READ  (GATE_RETRY_READ | GATE_SECONDARY_OK)
#define WRITE (GATE_RETRY_WRITE | GATE_WRITES)
#define COLL  GATE_COLLECTION_ARGUMENT
#define V1    GATE_API_V1
#define ADMIN GATE_ADMIN_ONLY
#define AUDIT GATE_AUDITED
#define ENDS  GATE_ENDS

#define HERE(name, alias, check, action, flags, run, help)                                         \
    {                                                                                              \
        name, alias, GATE_RUN_HERE, GATE_CHECK_##check, action, (flags) | GATE_SECONDARY_OK, run,  \
            help, 0                                                                                \
    }
#define WORKER(name, check, action, flags, run, help)                                              \
    {                                                                                              \
        name, NULL, GATE_RUN_WORKER, GATE_CHECK_##check, action, (flags) | GATE_NO_COMPRESS, run,  \
            help, 0                                                                                \
    }
#define STORAGE(name, alias, check, action, flags, help)                                           \
    {                                                                                              \
        name, alias, GATE_RUN_STORAGE, GATE_CHECK_##check, action, flags, NULL, help, 0            \
    }
#define REFUSED(name, code, help)                                                                  \
    {                                                                                              \
        name, NULL, GATE_RUN_REFUSED, GATE_CHECK_LOGIN, NONE, 0, NULL, help, VD_ERR_##code         \
    }
#define ATLAS                                                                                      \
    "Using Atlas Search Database Commands and the $listSearchIndexes aggregation stage requires "  \
    "additional configuration. Please connect to Atlas or an AtlasCLI local deployment to enable."

const gate_command_t gate_commands[] = {
    /* Handshake and login. */
    HERE("hello", NULL, OPEN, NONE, GATE_NO_COMPRESS | GATE_LEGACY | V1, gate_command_hello,
         "state of this node, and what it can do"),
    HERE("isMaster", "ismaster", OPEN, NONE, GATE_NO_COMPRESS | GATE_LEGACY, gate_command_hello,
         "state of this node; the older name of hello"),
    HERE("saslStart", NULL, OPEN, NONE, GATE_NO_COMPRESS | GATE_LEGACY | V1 | AUDIT,
         gate_sasl_start, "begins a login"),
    HERE("saslContinue", NULL, OPEN, NONE, GATE_NO_COMPRESS | GATE_LEGACY | V1 | AUDIT,
         gate_sasl_continue, "goes on with a login"),
    HERE("logout", NULL, OPEN, NONE, GATE_NO_COMPRESS | AUDIT, gate_command_logout,
         "ends the login of this connection"),
    HERE("connectionStatus", NULL, OPEN, NONE, 0, gate_command_connection_status,
         "who is logged in on this connection"),
    HERE("authenticate", NULL, OPEN, NONE, GATE_NO_COMPRESS | GATE_LEGACY | V1 | AUDIT,
         gate_x509_authenticate, "logs in by the client's certificate"),
    REFUSED("getnonce", COMMAND_NOT_FOUND, "no such command: 'getnonce'"),

    /* What the gateway knows itself. */
    HERE("ping", NULL, OPEN, NONE, V1, gate_command_ping, "answers"),
    HERE("buildInfo", "buildinfo", OPEN, NONE, GATE_LEGACY, gate_command_build_info,
         "version and limits"),
    HERE("hostInfo", NULL, CLUSTER, A(hostInfo), ADMIN, gate_command_host_info,
         "the machine that the gateway runs on"),
    HERE("getParameter", NULL, CLUSTER, A(getParameter), ADMIN, gate_command_get_parameter,
         "values of parameters"),
    HERE("setParameter", NULL, CLUSTER, A(setParameter), ADMIN | AUDIT, gate_command_set_parameter,
         "sets logLevel; other parameters are set in the configuration"),
    HERE("getCmdLineOpts", NULL, CLUSTER, A(getCmdLineOpts), ADMIN, gate_command_get_cmd_line_opts,
         "the configuration in force, without secrets"),
    HERE("getLog", NULL, CLUSTER, A(getLog), ADMIN, gate_command_get_log,
         "last lines of the gateway's log"),
    HERE("listCommands", NULL, OPEN, NONE, 0, gate_command_list_commands, "all commands"),
    HERE("whatsmyuri", NULL, OPEN, NONE, 0, gate_command_whatsmyuri,
         "this connection's address as seen from here"),
    HERE("features", NULL, OPEN, NONE, 0, gate_command_features, "features of the build"),
    HERE("connPoolStats", NULL, CLUSTER, A(connPoolStats), 0, gate_command_conn_pool_stats,
         "connections to other servers: there are none"),
    HERE("getLastError", "getlasterror", OPEN, NONE, GATE_LEGACY, gate_command_get_last_error,
         "for the handshake of old drivers only"),
    HERE("replSetGetStatus", NULL, CLUSTER, A(replSetGetStatus), ADMIN | READ,
         gate_command_repl_set_get_status, "state of the replica set"),
    HERE("replSetGetConfig", NULL, CLUSTER, A(replSetGetConfig), ADMIN | READ,
         gate_command_repl_set_get_config, "configuration of the replica set"),
    HERE("serverStatus", NULL, CLUSTER, A(serverStatus), READ, gate_command_server_status,
         "figures of the whole node"),
    WORKER("rotateCertificates", CLUSTER, A(rotateCertificates), ADMIN | AUDIT | GATE_SECONDARY_OK,
           gate_command_rotate_certificates, "reads the certificates again"),
    HERE("invalidateUserCache", NULL, CLUSTER, A(invalidateUserCache), ADMIN,
         gate_command_invalidate_user_cache, "forgets cached users"),
    HERE("limits", NULL, CLUSTER, A(setParameter), ADMIN | AUDIT | ENDS, gate_command_limits,
         "limits per user, per address and in all: shown, set, reset"),
    HERE("testVersion2", NULL, LOGIN, NONE, GATE_TEST_ONLY, gate_command_ping,
         "is in no API version that is offered"),
    HERE("configureFailPoint", NULL, LOGIN, NONE, ADMIN | GATE_TEST_ONLY, gate_faults_configure,
         "sets a fail point"),

    /* The replica set: storage answers, and asks its replicad; a node alone refuses. Never sent
     * again: each changes what the set does. */
    HERE("replSetInitiate", NULL, CLUSTER, A(replSetConfigure), ADMIN | AUDIT,
         gate_command_repl_set_administer, "makes the replica set"),
    HERE("replSetReconfig", NULL, CLUSTER, A(replSetConfigure), ADMIN | AUDIT,
         gate_command_repl_set_administer, "changes the configuration of the replica set"),
    HERE("replSetStepDown", NULL, CLUSTER, A(replSetStateChange), ADMIN | AUDIT,
         gate_command_repl_set_administer, "the primary becomes a secondary"),
    HERE("replSetFreeze", NULL, CLUSTER, A(replSetStateChange), ADMIN | AUDIT,
         gate_command_repl_set_administer, "this member does not become primary for a while"),
    HERE("replSetMaintenance", NULL, CLUSTER, A(replSetStateChange), ADMIN | AUDIT,
         gate_command_repl_set_administer, "takes a secondary out of service, or puts it back"),
    HERE("replSetSyncFrom", NULL, CLUSTER, A(replSetStateChange), ADMIN | AUDIT,
         gate_command_repl_set_administer, "chooses whom this member follows"),
    HERE("replSetAbortPrimaryCatchUp", NULL, CLUSTER, A(replSetStateChange), ADMIN | AUDIT,
         gate_command_repl_set_administer, "a new primary stops catching up"),
    STORAGE("appendOplogNote", NULL, CLUSTER, A(appendOplogNote), GATE_WRITES | ADMIN | AUDIT,
            "writes a note into the journal"),

    /* Users and roles. */
    WORKER("createUser", CREATE_USER, A(createUser), AUDIT | GATE_WRITES, gate_command_create_user,
           "makes a user"),
    WORKER("updateUser", UPDATE_USER, A(changePassword), AUDIT | GATE_WRITES,
           gate_command_update_user, "changes a user"),
    WORKER("dropUser", DATABASE, A(dropUser), AUDIT | GATE_WRITES, gate_command_drop_user,
           "drops a user"),
    WORKER("dropAllUsersFromDatabase", DATABASE, A(dropUser), AUDIT | GATE_WRITES,
           gate_command_drop_all_users, "drops all users of a database"),
    WORKER("grantRolesToUser", GRANT_ROLES, A(grantRole), AUDIT | GATE_WRITES,
           gate_command_grant_roles_to_user, "gives roles to a user"),
    WORKER("revokeRolesFromUser", REVOKE_ROLES, A(revokeRole), AUDIT | GATE_WRITES,
           gate_command_revoke_roles_from_user, "takes roles from a user"),
    WORKER("usersInfo", USERS_INFO, A(viewUser), GATE_SECONDARY_OK, gate_command_users_info,
           "shows users"),
    WORKER("revokeToken", CLUSTER, A(revokeTokens), ADMIN | AUDIT | GATE_WRITES,
           gate_command_revoke_token, "revokes a token by its jti, or a login by its session"),
    WORKER("revokeUserTokens", DATABASE, A(revokeTokens), AUDIT | GATE_WRITES,
           gate_command_revoke_user_tokens, "revokes all tokens of a user"),
    WORKER("rotateTokenKeys", CLUSTER, A(rotateTokenKeys), ADMIN | AUDIT | GATE_WRITES,
           gate_command_rotate_token_keys, "replaces the key of tokens: revokes all"),
    WORKER("createRole", CREATE_ROLE, A(createRole), AUDIT | GATE_WRITES, gate_command_create_role,
           "makes a role"),
    WORKER("updateRole", UPDATE_ROLE, A(grantRole), AUDIT | GATE_WRITES, gate_command_update_role,
           "changes a role"),
    WORKER("dropRole", DATABASE, A(dropRole), AUDIT | GATE_WRITES, gate_command_drop_role,
           "drops a role"),
    WORKER("dropAllRolesFromDatabase", DATABASE, A(dropRole), AUDIT | GATE_WRITES,
           gate_command_drop_all_roles, "drops all roles of a database"),
    WORKER("grantPrivilegesToRole", GRANT_PRIVILEGES, A(grantRole), AUDIT | GATE_WRITES,
           gate_command_grant_privileges_to_role, "gives privileges to a role"),
    WORKER("revokePrivilegesFromRole", REVOKE_PRIVILEGES, A(revokeRole), AUDIT | GATE_WRITES,
           gate_command_revoke_privileges_from_role, "takes privileges from a role"),
    WORKER("grantRolesToRole", GRANT_ROLES, A(grantRole), AUDIT | GATE_WRITES,
           gate_command_grant_roles_to_role, "gives roles to a role"),
    WORKER("revokeRolesFromRole", REVOKE_ROLES, A(revokeRole), AUDIT | GATE_WRITES,
           gate_command_revoke_roles_from_role, "takes roles from a role"),
    WORKER("rolesInfo", ROLES_INFO, A(viewRole), GATE_SECONDARY_OK, gate_command_roles_info,
           "shows roles"),

    /* Data. */
    STORAGE("find", NULL, COLLECTION, A(find), READ | V1 | COLL | GATE_KEPT,
            "documents that match"),
    STORAGE("getMore", NULL, CURSORS, A(find), READ | V1, "the next batch of a cursor"),
    STORAGE("killCursors", NULL, CURSORS, A(killCursors), READ | V1 | COLL | ENDS, "ends cursors"),
    STORAGE("insert", NULL, INSERT, A(insert), WRITE | V1 | COLL, "stores documents"),
    STORAGE("update", NULL, UPDATE, A(update), WRITE | V1 | COLL, "changes documents"),
    STORAGE("delete", NULL, COLLECTION, A(remove), WRITE | V1 | COLL, "removes documents"),
    STORAGE("findAndModify", "findandmodify", FIND_AND_MODIFY, A(find), WRITE | V1 | COLL,
            "changes or removes one document and returns it"),
    STORAGE("aggregate", NULL, AGGREGATE, A(find), READ | V1, "runs a pipeline"),
    STORAGE("count", NULL, COLLECTION, A(find), READ | V1 | COLL, "how many documents match"),
    STORAGE("distinct", NULL, COLLECTION, A(find), READ | COLL, "the different values of a field"),
    STORAGE("explain", NULL, EXPLAIN, A(find), READ | V1, "how a command would run"),
    STORAGE("commitTransaction", NULL, LOGIN, NONE, ADMIN | V1 | GATE_TRANSACTION | GATE_WRITES,
            "commits the session's transaction"),
    STORAGE("abortTransaction", NULL, LOGIN, NONE, ADMIN | V1 | GATE_TRANSACTION,
            "aborts the session's transaction"),

    /* Collections, indexes, databases. */
    STORAGE("create", NULL, CREATE, A(createCollection), GATE_WRITES | V1 | COLL | AUDIT,
            "makes a collection or view"),
    STORAGE("drop", NULL, COLLECTION, A(dropCollection), GATE_WRITES | V1 | COLL | AUDIT,
            "drops a collection"),
    STORAGE("collMod", NULL, COLLMOD, A(collMod), GATE_WRITES | V1 | COLL | AUDIT,
            "changes a collection's options"),
    STORAGE("renameCollection", NULL, RENAME, A(renameCollectionSameDB),
            GATE_WRITES | ADMIN | AUDIT, "renames a collection"),
    STORAGE("convertToCapped", NULL, COLLECTION, A(convertToCapped), GATE_WRITES | COLL | AUDIT,
            "makes a collection capped"),
    STORAGE("cloneCollectionAsCapped", NULL, CLONE_CAPPED, A(find), GATE_WRITES | COLL | AUDIT,
            "copies a collection into a capped one"),
    STORAGE("setIndexCommitQuorum", NULL, COLLECTION, A(createIndex), GATE_WRITES | COLL | AUDIT,
            "what a build of indexes waits for"),
    STORAGE("createIndexes", NULL, COLLECTION, A(createIndex), GATE_WRITES | V1 | COLL | AUDIT,
            "makes indexes"),
    STORAGE("dropIndexes", "deleteIndexes", COLLECTION, A(dropIndex),
            GATE_WRITES | V1 | COLL | AUDIT, "drops indexes"),
    STORAGE("listIndexes", NULL, COLLECTION, A(listIndexes), READ | V1 | COLL,
            "a collection's indexes"),
    STORAGE("listCollections", NULL, LIST_COLLECTIONS, A(listCollections), READ | V1,
            "a database's collections"),
    STORAGE("listDatabases", NULL, LIST_DATABASES, A(listDatabases), READ | ADMIN | V1,
            "all databases"),
    STORAGE("dropDatabase", NULL, DATABASE, A(dropDatabase), GATE_WRITES | V1 | AUDIT,
            "drops a database"),
    STORAGE("collStats", "collstats", COLLECTION, A(collStats), READ | COLL,
            "figures of a collection"),
    STORAGE("dbStats", "dbstats", DATABASE, A(dbStats), READ, "figures of a database"),
    STORAGE("dataSize", "datasize", LOGIN, NONE, READ, "size of a range of documents"),
    STORAGE("dbHash", "dbhash", DATABASE, A(dbHash), READ, "hashes of collections"),
    STORAGE("validate", NULL, COLLECTION, A(validate), READ | COLL, "checks a collection"),
    STORAGE("planCacheClear", NULL, COLLECTION, A(planCacheWrite), READ | COLL,
            "forgets plans of queries"),
    STORAGE("planCacheSetFilter", NULL, COLLECTION, A(planCacheIndexFilter), READ | COLL,
            "names the indexes for queries of a shape"),
    STORAGE("planCacheListFilters", NULL, COLLECTION, A(planCacheIndexFilter), READ | COLL,
            "lists index filters"),
    STORAGE("planCacheClearFilters", NULL, COLLECTION, A(planCacheIndexFilter), READ | COLL,
            "forgets index filters"),

    /* Sessions and operations. */
    STORAGE("startSession", NULL, LOGIN, NONE, READ, "begins a logical session"),
    STORAGE("refreshSessions", NULL, LOGIN, NONE, READ | V1 | ENDS, "keeps logical sessions alive"),
    STORAGE("endSessions", NULL, LOGIN, NONE, READ | V1 | ENDS, "ends logical sessions"),
    STORAGE("killSessions", NULL, LOGIN, NONE, READ | AUDIT | ENDS,
            "ends one's own logical sessions and what they run"),
    STORAGE("killAllSessions", NULL, KILL_ALL_SESSIONS, A(killAnySession), READ | AUDIT | ENDS,
            "ends all logical sessions of users"),
    STORAGE("killAllSessionsByPattern", NULL, KILL_ALL_SESSIONS, A(killAnySession),
            READ | AUDIT | ENDS, "ends logical sessions by pattern"),
    STORAGE("currentOp", NULL, CURRENT_OP, A(inprog), READ | ADMIN | ENDS, "what is running"),
    STORAGE("killOp", NULL, KILL_OP, A(killop), READ | ADMIN | AUDIT | ENDS,
            "ends what is running"),
    STORAGE("top", NULL, CLUSTER, A(top), READ | ADMIN, "time used by collection"),
    STORAGE("fsync", NULL, CLUSTER, A(fsync), GATE_SECONDARY_OK | ADMIN | AUDIT,
            "writes a checkpoint, and holds writes back if asked to"),
    STORAGE("fsyncUnlock", NULL, CLUSTER, A(unlock), GATE_SECONDARY_OK | ADMIN | AUDIT,
            "lets writes go on after fsync with lock"),
    STORAGE("profile", NULL, PROFILE, A(enableProfiler), READ, "level of the profiler"),
    HERE("setFeatureCompatibilityVersion", NULL, CLUSTER, A(setFeatureCompatibilityVersion),
         GATE_WRITES | ADMIN | AUDIT, gate_command_set_fcv, "takes 7.0, the only version there is"),
    STORAGE("getDefaultRWConcern", NULL, CLUSTER, A(getDefaultRWConcern), READ | ADMIN,
            "the read and write concern of commands that name none"),
    STORAGE("setDefaultRWConcern", NULL, CLUSTER, A(setDefaultRWConcern),
            GATE_WRITES | ADMIN | AUDIT, "sets the read and write concern of those"),

    /* The data keys: storage asks the key holder. Never sent again: each changes something. */
    STORAGE("rotateKey", NULL, CLUSTER, A(rotateKeys), ADMIN | AUDIT | GATE_SECONDARY_OK,
            "a new data key; everything is re-encrypted, the old key destroyed"),
    STORAGE("rotationStatus", NULL, CLUSTER, A(rotationStatus), ADMIN | READ,
            "how far a rotation of keys is"),
    STORAGE("pauseRotation", NULL, CLUSTER, A(rotateKeys), ADMIN | AUDIT | GATE_SECONDARY_OK,
            "pauses a rotation of keys"),
    STORAGE("resumeRotation", NULL, CLUSTER, A(rotateKeys), ADMIN | AUDIT | GATE_SECONDARY_OK,
            "goes on with a rotation of keys"),
    STORAGE("cancelRotation", NULL, CLUSTER, A(rotateKeys), ADMIN | AUDIT | GATE_SECONDARY_OK,
            "ends a rotation of keys; both keys stay"),
    STORAGE("throttleRotation", NULL, CLUSTER, A(rotateKeys), ADMIN | AUDIT | GATE_SECONDARY_OK,
            "another pace of a rotation of keys"),
    STORAGE("rotationHistory", NULL, CLUSTER, A(rotationStatus), ADMIN | READ,
            "rotations, verifies and rewraps that have ended"),
    STORAGE("verifyKeys", NULL, CLUSTER, A(rotateKeys), ADMIN | AUDIT | GATE_SECONDARY_OK,
            "counts the blocks of old keys"),
    STORAGE("rewrapKeys", NULL, CLUSTER, A(rotateKeys), ADMIN | AUDIT | GATE_SECONDARY_OK,
            "takes the next key-encryption key"),

    /* Known and refused, so that nobody wonders. */
    REFUSED("shutdown", COMMAND_NOT_SUPPORTED, "The node is stopped by its operator: vedctl stop"),
    REFUSED("mapReduce", COMMAND_NOT_SUPPORTED,
            "mapReduce needs server-side JavaScript, which is not offered; use aggregate"),
    REFUSED("applyOps", COMMAND_NOT_SUPPORTED, "applyOps is not offered"),
    REFUSED("bulkWrite", COMMAND_NOT_FOUND, "no such command: 'bulkWrite'"),
    REFUSED("logRotate", COMMAND_NOT_SUPPORTED,
            "Logs go to standard error and are rotated by whoever gathers them"),
    REFUSED("filemd5", COMMAND_NOT_SUPPORTED, "filemd5 is not offered"),
    REFUSED("replSetResizeOplog", COMMAND_NOT_SUPPORTED,
            "The journal is sized in the configuration: storage.journal_max"),
    REFUSED("setUserWriteBlockMode", COMMAND_NOT_SUPPORTED,
            "setUserWriteBlockMode is not offered: take the role that writes from who may not"),
    REFUSED("setClusterParameter", COMMAND_NOT_SUPPORTED,
            "Parameters are set in the configuration: deploy/config/veddb.yaml lists them"),
    REFUSED("getClusterParameter", COMMAND_NOT_SUPPORTED,
            "Parameters are set in the configuration: getCmdLineOpts shows it"),
    REFUSED(
        "compact", COMMAND_NOT_SUPPORTED,
        "compact is not offered: space that is free in a collection is used again by its writes"),
    REFUSED("lockInfo", COMMAND_NOT_SUPPORTED,
            "lockInfo is not offered: there are no locks to tell of; currentOp shows what runs"),
    REFUSED("validateDBMetadata", COMMAND_NOT_SUPPORTED, "validateDBMetadata is not offered"),
    REFUSED("getDiagnosticData", COMMAND_NOT_SUPPORTED,
            "Figures are kept by who asks for them: serverStatus, or /metrics over HTTPS"),
    REFUSED("configureQueryAnalyzer", COMMAND_NOT_SUPPORTED, "This server is not sharded"),
    REFUSED("analyzeShardKey", COMMAND_NOT_SUPPORTED, "This server is not sharded"),
    REFUSED("getShardMap", SHARDING_STATE_NOT_INITIALIZED, "Sharding is not enabled"),
    REFUSED("getShardVersion", SHARDING_STATE_NOT_INITIALIZED, "Sharding is not enabled"),
    REFUSED("cleanupOrphaned", SHARDING_STATE_NOT_INITIALIZED, "Sharding is not enabled"),
    REFUSED("reIndex", ILLEGAL_OPERATION,
            "reIndex is only allowed on a standalone mongod instance."),
    REFUSED("createSearchIndexes", COMMAND_NOT_SUPPORTED, ATLAS),
    REFUSED("listSearchIndexes", COMMAND_NOT_SUPPORTED, ATLAS),
    REFUSED("dropSearchIndex", COMMAND_NOT_SUPPORTED, ATLAS),
    REFUSED("updateSearchIndex", COMMAND_NOT_SUPPORTED, ATLAS),
};
const uint32_t gate_command_count = VD_COUNT_OF(gate_commands);

static vd_map_t *by_name;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void build(void)
{
    by_name = vd_map_create(2 * VD_COUNT_OF(gate_commands) + 1);
    for (uint32_t i = 0; i < gate_command_count; i++) {
        const gate_command_t *command = &gate_commands[i];
        const char *const names[] = {command->name, command->alias};
        for (size_t k = 0; k < 2; k++) {
            void *old = NULL;
            if (names[k] != NULL)
                VD_ASSERT(vd_map_put(by_name, vd_slice_str(names[k]), (void *)(uintptr_t)command,
                                     &old) == VD_OK &&
                          old == NULL);
        }
    }
}

void gate_commands_init(void)
{
    (void)pthread_once(&once, build); /* can't fail for a static once */
}

const gate_command_t *gate_command_find(vd_slice_t name)
{
    VD_ASSERT(by_name != NULL);
    const gate_command_t *command = vd_map_get(by_name, name);
    if (command != NULL)
        return command;
    /* Old drivers spell the handshake in every way. */
    if (name.len == 8 && strncasecmp((const char *)name.data, "ismaster", 8) == 0)
        return vd_map_get(by_name, VD_SLICE_LIT("isMaster"));
    if (name.len == 5 && strncasecmp((const char *)name.data, "hello", 5) == 0)
        return vd_map_get(by_name, VD_SLICE_LIT("hello"));
    return NULL;
}

uint32_t gate_command_index(const gate_command_t *command)
{
    return (uint32_t)(command - gate_commands);
}
