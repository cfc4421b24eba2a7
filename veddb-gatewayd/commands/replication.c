/* veddb-gatewayd/commands/replication.c — the replica set: of one member told from what storage
 * says of itself; of several what storage and its replicad answer. */
#include "libcommon/base/clock.h"
#include "veddb-gatewayd/commands/handlers.h"

static void put_optime(vd_bb_t *reply, const char *name, uint64_t ts, uint64_t term)
{
    vd_bb_begin_document(reply, name);
    vd_bb_timestamp(reply, "ts", ts);
    vd_bb_int64(reply, "t", (int64_t)term);
    vd_bb_close(reply);
}

int gate_command_repl_set_administer(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* storage's */
    gate_member_t member;
    gate_member_read(request->thread->gate, NULL, &member);
    if (!member.in_set)
        return vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED, "The replica set has one member");
    return gate_request_pass_on(request, err);
}

int gate_command_repl_set_get_status(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    gate_t *gate = request->thread->gate;
    const gate_storage_state_t *state = &request->thread->state;
    gate_member_t about;
    gate_member_read(gate, NULL, &about);
    uint64_t term = about.term;
    if (about.in_set)
        return gate_request_pass_on(request, err);
    if (!state->known)
        return vd_error_set(err, VD_ERR_NOT_PRIMARY_OR_SECONDARY, "storage is not there yet");
    int32_t member = about.primary ? GATE_MEMBER_PRIMARY : GATE_MEMBER_RECOVERING;
    int64_t now = vd_wall_ms();
    vd_bb_cstr(reply, "set", gate->settings.replica_set);
    vd_bb_date(reply, "date", now);
    vd_bb_int32(reply, "myState", member);
    vd_bb_int64(reply, "term", (int64_t)term);
    vd_bb_cstr(reply, "syncSourceHost", "");
    vd_bb_int32(reply, "syncSourceId", -1);
    vd_bb_int64(reply, "heartbeatIntervalMillis", 2000);
    vd_bb_int32(reply, "majorityVoteCount", 1);
    vd_bb_int32(reply, "writeMajorityCount", 1);
    vd_bb_int32(reply, "votingMembersCount", 1);
    vd_bb_int32(reply, "writableVotingMembersCount", 1);
    vd_bb_begin_document(reply, "optimes");
    put_optime(reply, "lastCommittedOpTime", state->durable, term);
    vd_bb_date(reply, "lastCommittedWallTime", state->last_write_ms);
    put_optime(reply, "readConcernMajorityOpTime", state->durable, term);
    put_optime(reply, "appliedOpTime", state->newest, term);
    put_optime(reply, "durableOpTime", state->durable, term);
    vd_bb_date(reply, "lastAppliedWallTime", state->last_write_ms);
    vd_bb_date(reply, "lastDurableWallTime", state->last_write_ms);
    vd_bb_close(reply);
    vd_bb_begin_array(reply, "members");
    vd_bb_begin_document(reply, "0");
    vd_bb_int32(reply, "_id", 0);
    vd_bb_cstr(reply, "name", gate->settings.address);
    vd_bb_double(reply, "health", 1.0);
    vd_bb_int32(reply, "state", member);
    vd_bb_cstr(reply, "stateStr", member == 1 ? "PRIMARY" : "RECOVERING");
    vd_bb_int32(reply, "uptime", (int32_t)((vd_monotonic_ms() - gate->started_ms) / 1000));
    put_optime(reply, "optime", state->newest, term);
    vd_bb_date(reply, "optimeDate", state->last_write_ms);
    vd_bb_date(reply, "lastAppliedWallTime", state->last_write_ms);
    vd_bb_date(reply, "lastDurableWallTime", state->last_write_ms);
    vd_bb_cstr(reply, "syncSourceHost", "");
    vd_bb_int32(reply, "syncSourceId", -1);
    vd_bb_cstr(reply, "infoMessage", "");
    vd_bb_int32(reply, "configVersion", 1);
    vd_bb_int64(reply, "configTerm", (int64_t)term);
    vd_bb_bool(reply, "self", true);
    vd_bb_cstr(reply, "lastHeartbeatMessage", "");
    vd_bb_close(reply);
    vd_bb_close(reply);
    return VD_OK;
}

int gate_command_repl_set_get_config(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    gate_t *gate = request->thread->gate;
    gate_member_t about;
    gate_member_read(gate, NULL, &about);
    if (about.in_set)
        return gate_request_pass_on(request, err);
    vd_bb_begin_document(reply, "config");
    vd_bb_cstr(reply, "_id", gate->settings.replica_set);
    vd_bb_int32(reply, "version", 1);
    vd_bb_int64(reply, "term", (int64_t)about.term);
    vd_bb_begin_array(reply, "members");
    vd_bb_begin_document(reply, "0");
    vd_bb_int32(reply, "_id", 0);
    vd_bb_cstr(reply, "host", gate->settings.address);
    vd_bb_bool(reply, "arbiterOnly", false);
    vd_bb_bool(reply, "buildIndexes", true);
    vd_bb_bool(reply, "hidden", false);
    vd_bb_int32(reply, "priority", 1);
    vd_bb_begin_document(reply, "tags");
    vd_bb_close(reply);
    vd_bb_int64(reply, "secondaryDelaySecs", 0);
    vd_bb_int32(reply, "votes", 1);
    vd_bb_close(reply);
    vd_bb_close(reply);
    vd_bb_int64(reply, "protocolVersion", 1);
    vd_bb_bool(reply, "writeConcernMajorityJournalDefault", true);
    vd_bb_begin_document(reply, "settings");
    vd_bb_bool(reply, "chainingAllowed", true);
    vd_bb_int32(reply, "heartbeatIntervalMillis", 2000);
    vd_bb_int32(reply, "heartbeatTimeoutSecs", 10);
    vd_bb_int32(reply, "electionTimeoutMillis", 10000);
    vd_bb_objectid(reply, "replicaSetId", about.set_id);
    vd_bb_close(reply);
    vd_bb_close(reply);
    return VD_OK;
}
