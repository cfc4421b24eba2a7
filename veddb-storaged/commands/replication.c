/* veddb-storaged/commands/replication.c — the administrator's commands of a replica set:
 * replSetGetStatus and replSetGetConfig from what storage keeps, appendOplogNote as a write of its
 * own, and those that replicad decides (step-down, freeze, reconfig, sync), for whose answer no
 * worker waits. */
#include "libcommon/base/clock.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/local/local.h"
#include "veddb-storaged/replication/positions.h"

#include <stdio.h>

#define SECONDS_MAX 1000000000

static int needs_set(const stor_request_t *request, vd_error_t *err)
{
    if (!stor_replication_alone(request->storage))
        return VD_OK;
    return vd_error_set(err, VD_ERR_NO_REPLICATION_ENABLED,
                        "This node was not started with replication enabled.");
}

static void put_optime(vd_bb_t *bb, const char *name, uint64_t timestamp, uint64_t term)
{
    vd_bb_begin_document(bb, name);
    vd_bb_timestamp(bb, "ts", timestamp);
    vd_bb_int64(bb, "t", (int64_t)term);
    vd_bb_close(bb);
}

/* ---- replSetGetStatus ---- */

static void own_points(const stor_request_t *request, const stor_positions_stats_t *stats)
{
    stor_storage_t *storage = request->storage;
    vd_bb_t *bb = (vd_bb_t *)(uintptr_t)&request->reply;
    uint64_t term = stor_replication_term(storage);
    uint64_t applied = stor_engine_visible(storage->engine);
    uint64_t durable = stor_engine_durable(storage->engine);
    vd_bb_int32(bb, "majorityVoteCount", (int32_t)stats->majority_count);
    vd_bb_int32(bb, "writeMajorityCount", (int32_t)stats->majority_count);
    vd_bb_int32(bb, "votingMembersCount", (int32_t)stats->voters);
    vd_bb_int32(bb, "writableVotingMembersCount", (int32_t)stats->voters);
    vd_bb_begin_document(bb, "optimes");
    put_optime(bb, "lastCommittedOpTime", stats->majority, term);
    put_optime(bb, "readConcernMajorityOpTime", stats->majority, term);
    put_optime(bb, "appliedOpTime", applied, term);
    put_optime(bb, "durableOpTime", durable, term);
    vd_bb_date(bb, "lastAppliedWallTime", (int64_t)(applied >> 32) * 1000);
    vd_bb_date(bb, "lastDurableWallTime", (int64_t)(durable >> 32) * 1000);
    vd_bb_close(bb);
}

int stor_command_repl_set_get_status(stor_request_t *request, vd_error_t *err)
{
    static const char *const own[] = {"set", "date", "myState", "term", "optimes", "ok"};
    stor_storage_t *storage = request->storage;
    stor_positions_stats_t stats;
    vd_bson_iter_t iter;
    int rc = needs_set(request, err);
    if (rc != VD_OK)
        return rc;
    vd_bson_t told = stor_replication_status(storage, request->arena);
    stor_positions_stats(storage->replication->positions, &stats);
    vd_bb_t *bb = &request->reply;
    vd_bb_cstr(bb, "set", storage->settings.replica_set);
    vd_bb_date(bb, "date", vd_wall_ms());
    vd_bb_int32(bb, "myState", stor_replication_state(stor_replication_role(storage)));
    vd_bb_int64(bb, "term", (int64_t)stor_replication_term(storage));
    own_points(request, &stats);
    vd_bson_iter_init(&iter, told); /* replicad's: members, syncSourceHost, ... */
    while (vd_bson_iter_next(&iter)) {
        bool ours = false;
        for (size_t i = 0; i < VD_COUNT_OF(own); i++)
            ours |= vd_slice_is(iter.name, own[i]);
        if (!ours)
            vd_bb_value(bb, iter.name, iter.value);
    }
    return VD_OK;
}

/* ---- replSetGetConfig ---- */

int stor_command_repl_set_get_config(stor_request_t *request, vd_error_t *err)
{
    stor_storage_t *storage = request->storage;
    vd_bb_t *bb = &request->reply;
    int rc = needs_set(request, err);
    if (rc != VD_OK)
        return rc;
    vd_bson_t config = stor_replication_config(storage, request->arena);
    if (config.len == 0)
        return vd_error_set(err, VD_ERR_NOT_YET_INITIALIZED, "no replset config has been received");
    vd_bb_begin_document(bb, "config");
    stor_local_config(bb, storage, config);
    vd_bb_close(bb);
    return VD_OK;
}

/* ---- what replicad decides ---- */

static int ask(stor_request_t *request, const char *verb, const char *argument,
               const char *argument2, vd_error_t *err)
{
    vdp_replication_ask_t fields = {
        .verb = vd_slice_str(verb),
        .argument = vd_slice_str(argument),
        .argument2 = vd_slice_str(argument2),
    };
    return stor_positions_ask(request, &fields, vd_slice(request->body.data, request->body.len),
                              err);
}

static int seconds_read(const stor_request_t *request, int64_t least, int64_t *ret, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t v;
    if (!vd_bson_first(request->body, &name, &v) || !vd_value_as_int64(v, ret))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "%s needs a number of seconds",
                            request->entry->name);
    if (*ret < least || *ret > SECONDS_MAX)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s: %lld seconds are out of range",
                            request->entry->name, (long long)*ret);
    return VD_OK;
}

typedef struct {
    int64_t catch_up;
    bool force;
} step_down_t;

int stor_command_repl_set_step_down(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("secondaryCatchUpPeriodSecs", STOR_ARG_COUNT, step_down_t, catch_up, 0),
        STOR_ARG("force", STOR_ARG_BOOL, step_down_t, force, 0),
    };
    step_down_t args = {.catch_up = -1};
    int64_t seconds = 0;
    char text[24];
    int rc = needs_set(request, err);
    if (rc == VD_OK)
        rc = stor_args_parse(request->body, "replSetStepDown", true, table, VD_COUNT_OF(table),
                             &args, err);
    if (rc == VD_OK)
        rc = seconds_read(request, 1, &seconds, err);
    if (rc != VD_OK)
        return rc;
    if (args.catch_up < 0)
        args.catch_up = args.force ? 0 : 10;
    if (args.catch_up > seconds)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "stepdown period must be longer than secondaryCatchUpPeriodSecs");
    if (stor_replication_role(request->storage) != VDP_ROLE_PRIMARY)
        return vd_error_set(err, VD_ERR_NOT_WRITABLE_PRIMARY, "not primary so can't step down");
    (void)snprintf(text, sizeof text, "%lld", (long long)seconds);
    return ask(request, "step-down", text, args.force ? "force" : "", err);
}

int stor_command_repl_set_freeze(stor_request_t *request, vd_error_t *err)
{
    int64_t seconds = 0;
    char text[24];
    int rc = needs_set(request, err);
    if (rc == VD_OK)
        rc = stor_args_parse(request->body, "replSetFreeze", true, NULL, 0, NULL, err);
    if (rc == VD_OK)
        rc = seconds_read(request, 0, &seconds, err);
    if (rc != VD_OK)
        return rc;
    if (stor_replication_role(request->storage) == VDP_ROLE_PRIMARY)
        return vd_error_set(err, VD_ERR_NOT_SECONDARY,
                            "cannot freeze node when primary or running for election. state: "
                            "Primary");
    (void)snprintf(text, sizeof text, "%lld", (long long)seconds);
    return ask(request, "freeze", text, "", err);
}

int stor_command_repl_set_reconfig(stor_request_t *request, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t v;
    int rc = needs_set(request, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_bson_first(request->body, &name, &v) || v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "no configuration specified");
    if (stor_replication_role(request->storage) != VDP_ROLE_PRIMARY)
        return vd_error_set(err, VD_ERR_NOT_WRITABLE_PRIMARY,
                            "replSetReconfig should only be run on a writable PRIMARY");
    return ask(request, "reconfig", "", "", err);
}

int stor_command_repl_set_initiate(stor_request_t *request, vd_error_t *err)
{
    int rc = needs_set(request, err);
    if (rc != VD_OK)
        return rc;
    if (stor_replication_config(request->storage, request->arena).len > 0)
        return vd_error_set(err, VD_ERR_ALREADY_INITIALIZED, "already initialized");
    return ask(request, "initiate", "", "", err);
}

int stor_command_repl_set_refused(stor_request_t *request, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED,
                        "%s is not built: VedDB's nodes choose that by themselves",
                        request->entry->name);
}

/* ---- appendOplogNote ---- */

int stor_command_append_oplog_note(stor_request_t *request, vd_error_t *err)
{
    vd_value_t data = vd_bson_get(request->body, "data");
    stor_storage_t *storage = request->storage;
    uint64_t timestamp = 0;
    int rc = needs_set(request, err);
    if (rc != VD_OK)
        return rc;
    if (data.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_NO_SUCH_KEY, "Missing required field \"data\"");
    rc = stor_replication_noop(storage, request->session, data, &timestamp, err);
    if (rc == VD_OK) {
        stor_request_depends(request, timestamp);
        request->operation_time = timestamp;
    }
    return rc;
}
