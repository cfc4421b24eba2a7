/* veddb-storaged/commands/table.c — see table.h. */
#include "veddb-storaged/commands/table.h"

#include "libcommon/base/map.h"

#include <pthread.h>

#define REPL  (STOR_COMMAND_DIAGNOSTIC | STOR_COMMAND_ADMIN_ONLY)
#define TXN   STOR_COMMAND_TRANSACTION
#define WRITE (STOR_COMMAND_WRITES | STOR_COMMAND_RETRYABLE | TXN)
#define END   (STOR_COMMAND_ADMIN_ONLY | STOR_COMMAND_ENDS_TRANSACTION | TXN)

const stor_command_t stor_commands[] = {
    /* writes; whether one goes to the fast lane is told by its size or its filter */
    {"insert", WRITE | STOR_COMMAND_LONG, stor_command_insert, stor_point_insert},
    {"update", WRITE | STOR_COMMAND_LONG, stor_command_update, stor_point_update},
    {"delete", WRITE | STOR_COMMAND_FREES | STOR_COMMAND_LONG, stor_command_delete,
     stor_point_delete},
    {"findAndModify", WRITE | STOR_COMMAND_LONG, stor_command_find_and_modify,
     stor_point_find_and_modify},

    /* collections, indexes, databases */
    {"create", STOR_COMMAND_WRITES | TXN, stor_command_create, NULL},
    {"drop", STOR_COMMAND_WRITES | STOR_COMMAND_FREES | STOR_COMMAND_LONG, stor_command_drop, NULL},
    {"dropDatabase", STOR_COMMAND_WRITES | STOR_COMMAND_FREES | STOR_COMMAND_LONG,
     stor_command_drop_database, NULL},
    {"renameCollection", STOR_COMMAND_WRITES | STOR_COMMAND_ADMIN_ONLY | STOR_COMMAND_LONG,
     stor_command_rename_collection, NULL},
    {"collMod", STOR_COMMAND_WRITES | STOR_COMMAND_LONG, stor_command_coll_mod, NULL},
    {"convertToCapped", STOR_COMMAND_WRITES | STOR_COMMAND_LONG, stor_command_convert_to_capped,
     NULL},
    {"cloneCollectionAsCapped", STOR_COMMAND_WRITES | STOR_COMMAND_LONG,
     stor_command_clone_as_capped, NULL},
    {"setIndexCommitQuorum", STOR_COMMAND_WRITES, stor_command_set_commit_quorum, NULL},
    {"createIndexes", STOR_COMMAND_WRITES | STOR_COMMAND_LONG | TXN, stor_command_create_indexes,
     NULL},
    {"dropIndexes", STOR_COMMAND_WRITES | STOR_COMMAND_FREES | STOR_COMMAND_LONG,
     stor_command_drop_indexes, NULL},
    {"listIndexes", STOR_COMMAND_READS, stor_command_list_indexes, NULL},

    /* sessions */
    {"startSession", 0, stor_command_start_session, NULL},
    {"refreshSessions", 0, stor_command_refresh_sessions, NULL},
    {"endSessions", 0, stor_command_end_sessions, NULL},
    {"killSessions", 0, stor_command_kill_sessions, NULL},
    {"killAllSessions", 0, stor_command_kill_all_sessions, NULL},
    {"killAllSessionsByPattern", 0, stor_command_kill_all_sessions_by_pattern, NULL},
    {"commitTransaction", STOR_COMMAND_WRITES | STOR_COMMAND_LONG | END,
     stor_command_commit_transaction, stor_point_commit},
    {"abortTransaction", STOR_COMMAND_WRITES | END, stor_command_abort_transaction, NULL},

    /* the replica set; asked for by the gateway when this node is not alone */
    {"replSetGetStatus", REPL, stor_command_repl_set_get_status, NULL},
    {"replSetGetConfig", REPL, stor_command_repl_set_get_config, NULL},
    {"replSetStepDown", REPL, stor_command_repl_set_step_down, NULL},
    {"replSetFreeze", REPL, stor_command_repl_set_freeze, NULL},
    {"replSetReconfig", REPL, stor_command_repl_set_reconfig, NULL},
    {"replSetInitiate", REPL, stor_command_repl_set_initiate, NULL},
    {"replSetMaintenance", REPL, stor_command_repl_set_refused, NULL},
    {"replSetSyncFrom", REPL, stor_command_repl_set_refused, NULL},
    {"replSetAbortPrimaryCatchUp", REPL, stor_command_repl_set_refused, NULL},
    {"appendOplogNote", STOR_COMMAND_WRITES | STOR_COMMAND_ADMIN_ONLY,
     stor_command_append_oplog_note, NULL},
    {"setDefaultRWConcern", STOR_COMMAND_WRITES | STOR_COMMAND_ADMIN_ONLY,
     stor_command_set_default_rw_concern, NULL},
    {"configureFailPoint", REPL, stor_command_configure_fail_point, NULL},
    {"rotateKey", REPL, stor_command_rotate_key, NULL},
    {"rotationStatus", REPL, stor_command_rotation_status, NULL},
    {"pauseRotation", REPL, stor_command_pause_rotation, NULL},
    {"resumeRotation", REPL, stor_command_resume_rotation, NULL},
    {"cancelRotation", REPL, stor_command_cancel_rotation, NULL},
    {"throttleRotation", REPL, stor_command_throttle_rotation, NULL},
    {"rotationHistory", REPL, stor_command_rotation_history, NULL},
    {"verifyKeys", REPL, stor_command_verify_keys, NULL},
    {"rewrapKeys", REPL, stor_command_rewrap_keys, NULL},
    {"_vdAudit", STOR_COMMAND_DIAGNOSTIC | STOR_COMMAND_ADMIN_ONLY, stor_command_audit_events,
     NULL},
    {"getDefaultRWConcern", STOR_COMMAND_DIAGNOSTIC | STOR_COMMAND_ADMIN_ONLY,
     stor_command_get_default_rw_concern, NULL},

#define STOR_READ_ROW(name, flags, handler, point) {name, flags, handler, point},
#include "veddb-storaged/commands/reads.def"
#undef STOR_READ_ROW
};
const size_t stor_command_count = VD_COUNT_OF(stor_commands);

static vd_map_t *by_name;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void build(void)
{
    by_name = vd_map_create(2 * VD_COUNT_OF(stor_commands) + 1);
    for (size_t i = 0; i < stor_command_count; i++) {
        void *old = NULL;
        int rc = vd_map_put(by_name, vd_slice_str(stor_commands[i].name),
                            (void *)(uintptr_t)&stor_commands[i], &old);
        VD_ASSERT(rc == VD_OK && old == NULL);
    }
}

const stor_command_t *stor_command_find(vd_slice_t name)
{
    (void)pthread_once(&once, build); /* can't fail for a static once */
    return vd_map_get(by_name, name);
}
