/* veddb-storaged/request.c — generic arguments, checks before a handler, the frame of every reply.
 */
#include "veddb-storaged/request.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/runtime/daemon.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/commands/metrics.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/defaults.h"
#include "veddb-storaged/fail_points.h"
#include "veddb-storaged/pins.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/sessions.h"
#include "veddb-storaged/streams/waits.h"
#include "veddb-storaged/transactions.h"

#include <stdio.h>
#include <unistd.h>

#define CHECKS_PER_CLOCK 64
#define CLOCKS_APART_S   10
#define REST_US          1000
#define SLOW_US          100000 /* logged from here on */
#define REPLY_MAX_BYTES  (VD_BSON_INTERNAL_MAX_BYTES + 1024 * 1024)

void stor_request_init(stor_request_t *request, stor_storage_t *storage, vd_arena_t *arena)
{
    memset(request, 0, sizeof *request);
    request->storage = storage;
    request->arena = arena;
    request->arrived_us = vd_monotonic_us();
    request->txn_number = -1;
    request->command.txn_number = -1;
    request->transaction_number = -1;
    request->number = atomic_fetch_add_explicit(&storage->next_number, 1, memory_order_relaxed) + 1;
}

/* ---- generic arguments ---- */

static int read_concern_level(stor_request_t *request, vd_slice_t level, vd_error_t *err)
{
    uint32_t flags = request->entry->flags;
    request->names_level = true;
    request->read_available = vd_slice_is(level, "available");
    if (vd_slice_is(level, "local") || request->read_available)
        request->read_level = STOR_READ_LOCAL;
    else if (vd_slice_is(level, "majority"))
        request->read_level = STOR_READ_MAJORITY;
    else if (vd_slice_is(level, "linearizable"))
        request->read_level = STOR_READ_LINEARIZABLE;
    else if (vd_slice_is(level, "snapshot"))
        request->read_level = STOR_READ_SNAPSHOT;
    else
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Enumeration value '%.*s' for field 'readConcern.level' is not a valid "
                            "value.",
                            VD_SLICE_FMT(level));
    /* A transaction's first statement may be a write (transactions.c). */
    if (request->autocommit_given)
        return VD_OK;
    uint32_t needed = request->read_level == STOR_READ_SNAPSHOT ? STOR_COMMAND_SNAPSHOT
                                                                : STOR_COMMAND_READ_CONCERN;
    if (request->read_level != STOR_READ_LOCAL && (flags & needed) == 0)
        return vd_error_set(
            err, VD_ERR_INVALID_OPTIONS,
            "Command %s does not support { readConcern: { level: \"%.*s\", provenance: "
            "\"clientSupplied\" } } :: caused by :: read concern not supported",
            request->entry->name, VD_SLICE_FMT(level));
    return VD_OK;
}

static int read_concern_parse(stor_request_t *request, vd_value_t v, vd_error_t *err)
{
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'readConcern' is the wrong type '%s', expected type "
                            "'object'",
                            vd_bson_type_name(v.type));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    request->read_concern_given = !vd_bson_is_empty(vd_value_document(v));
    while (vd_bson_iter_next(&iter)) {
        int rc = VD_OK;
        if (vd_slice_is(iter.name, "level") && iter.value.type == VD_BSON_STRING)
            rc = read_concern_level(request, vd_value_string(iter.value), err);
        else if (vd_slice_is(iter.name, "afterClusterTime") && iter.value.type == VD_BSON_TIMESTAMP)
            request->after_cluster_time = vd_value_timestamp(iter.value);
        else if (vd_slice_is(iter.name, "atClusterTime") && iter.value.type == VD_BSON_TIMESTAMP)
            request->at_cluster_time = vd_value_timestamp(iter.value);
        else if (!vd_slice_is(iter.name, "provenance"))
            rc = vd_error_set(err, VD_ERR_LOCATION(40415),
                              "BSON field 'readConcern.%.*s' is an unknown field or has the wrong "
                              "type.",
                              VD_SLICE_FMT(iter.name));
        if (rc != VD_OK)
            return rc;
    }
    if (request->at_cluster_time != 0 && request->read_level != STOR_READ_SNAPSHOT)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "readConcern level must be 'snapshot' when specifying atClusterTime");
    if (request->at_cluster_time != 0 && request->after_cluster_time != 0)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Specifying both afterClusterTime and atClusterTime is not allowed");
    /* Snapshots belong to sessions. */
    if (request->read_level == STOR_READ_SNAPSHOT && request->command.lsid.len != 16)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "readConcern level snapshot needs a session (lsid)");
    return VD_OK;
}

static int write_concern_w(stor_request_t *request, vd_value_t v, vd_error_t *err)
{
    stor_write_concern_t *concern = &request->write_concern;
    if (v.type == VD_BSON_STRING) {
        vd_slice_t mode = vd_value_string(v);
        if (!vd_slice_is(mode, "majority") && !stor_replication_alone(request->storage)) {
            concern->mode = mode; /* looked up when it is waited for */
            return VD_OK;
        }
        if (!vd_slice_is(mode, "majority"))
            return vd_error_set(err, VD_ERR_UNKNOWN_REPL_WRITE_CONCERN,
                                "No write concern mode named '%.*s' found in replica set "
                                "configuration",
                                VD_SLICE_FMT(mode));
        concern->majority = true;
        return VD_OK;
    }
    if (v.type == VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_UNKNOWN_REPL_WRITE_CONCERN,
                            "tagged write concerns are not known in the replica set configuration");
    int64_t w;
    if (!vd_value_as_int64(v, &w))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "w has to be a number or string");
    if (w < 0 || w > 50)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "w has to be a non-negative number and not greater than 50; found: "
                            "%lld",
                            (long long)w);
    concern->w = w;
    return VD_OK;
}

static int write_concern_timeout(stor_request_t *request, vd_value_t v, vd_error_t *err)
{
    double ms = vd_value_is_number(v) ? vd_value_as_double(v) : -1;
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'writeConcern.wtimeout' is the wrong type '%s', expected a "
                            "number",
                            vd_bson_type_name(v.type));
    /* Below zero and not a number: no time-out; above what fits: as long as can be. */
    request->write_concern.timeout_ms = ms > 0 ? ms < INT32_MAX ? (uint64_t)ms : INT32_MAX : 0;
    return VD_OK;
}

static int write_concern_parse(stor_request_t *request, vd_value_t v, vd_error_t *err)
{
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'writeConcern' is the wrong type '%s', expected type "
                            "'object'",
                            vd_bson_type_name(v.type));
    stor_write_concern_t *concern = &request->write_concern;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    while (vd_bson_iter_next(&iter)) {
        int rc = VD_OK;
        concern->has_w |= vd_slice_is(iter.name, "w");
        if (vd_slice_is(iter.name, "w"))
            rc = write_concern_w(request, iter.value, err);
        else if (vd_slice_is(iter.name, "j"))
            concern->journal = vd_value_as_flag(iter.value);
        else if (vd_slice_is(iter.name, "wtimeout") || vd_slice_is(iter.name, "wtimeoutMS"))
            rc = write_concern_timeout(request, iter.value, err);
        else if (!vd_slice_is(iter.name, "fsync") && !vd_slice_is(iter.name, "provenance") &&
                 !vd_slice_is(iter.name, "getLastError"))
            rc = vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "unrecognized write concern field: %.*s",
                              VD_SLICE_FMT(iter.name));
        if (rc != VD_OK)
            return rc;
    }
    concern->present = true;
    return VD_OK;
}

static int read_preference_check(stor_request_t *request, vd_value_t v, vd_error_t *err)
{
    static const char *const modes[] = {"primary", "primaryPreferred", "secondary",
                                        "secondaryPreferred", "nearest"};
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "\"$readPreference\" had the wrong type. Expected object, found %s",
                            vd_bson_type_name(v.type));
    vd_value_t mode = vd_bson_get(vd_value_document(v), "mode");
    if (mode.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$readPreference needs a \"mode\" that is a string");
    request->read_elsewhere = !vd_slice_is(vd_value_string(mode), "primary");
    for (size_t i = 0; i < VD_COUNT_OF(modes); i++)
        if (vd_slice_is(vd_value_string(mode), modes[i]))
            return VD_OK;
    return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                        "Could not parse $readPreference mode '%.*s'. Only the modes 'primary', "
                        "'primaryPreferred', 'secondary', 'secondaryPreferred', and 'nearest' are "
                        "supported.",
                        VD_SLICE_FMT(vd_value_string(mode)));
}

static int cluster_time_check(stor_request_t *request, vd_value_t v, vd_error_t *err)
{
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "\"$clusterTime\" had the wrong type. Expected object, found %s",
                            vd_bson_type_name(v.type));
    vd_value_t time = vd_bson_get(vd_value_document(v), "clusterTime");
    if (time.type != VD_BSON_TIMESTAMP)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "\"$clusterTime.clusterTime\" must be a timestamp");
    request->cluster_time = vd_value_timestamp(time);
    return VD_OK;
}

static int generic_parse(stor_request_t *request, vd_slice_t name, vd_value_t v, vd_error_t *err)
{
    if (vd_slice_is(name, "$readPreference"))
        return read_preference_check(request, v, err);
    if (vd_slice_is(name, "$clusterTime"))
        return cluster_time_check(request, v, err);
    if (vd_slice_is(name, "readConcern"))
        return read_concern_parse(request, v, err);
    if (vd_slice_is(name, "writeConcern"))
        return write_concern_parse(request, v, err);
    if (vd_slice_is(name, "comment")) {
        request->comment = v;
        return VD_OK;
    }
    if ((vd_slice_is(name, "startTransaction") || vd_slice_is(name, "autocommit")) &&
        request->command.txn_number < 0)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "'%.*s' field requires a transaction number to also be specified",
                            VD_SLICE_FMT(name));
    if (vd_slice_is(name, "apiVersion") &&
        (v.type != VD_BSON_STRING || !vd_slice_is(vd_value_string(v), "1")))
        return vd_error_set(err, VD_ERR_API_VERSION_ERROR, "API version must be \"1\"");
    return VD_OK;
}

/* `value` is the one that the field may have; it is not there when it is missing. */
static int transaction_field(vd_bson_t body, const char *name, bool value, bool *ret_given,
                             vd_error_t *err)
{
    vd_value_t v = vd_bson_get(body, name);
    if (vd_value_is_missing(v))
        return VD_OK;
    if (v.type != VD_BSON_BOOL)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s' is the wrong type '%s', expected type 'bool'", name,
                            vd_bson_type_name(v.type));
    if (vd_value_bool(v) != value)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "Specifying %s=%s is not allowed.", name,
                            value ? "false" : "true");
    *ret_given = true;
    return VD_OK;
}

/* First of all: what the other arguments may be depends on it. */
static int transaction_fields(stor_request_t *request, vd_error_t *err)
{
    if (request->command.txn_number < 0)
        return VD_OK; /* generic_parse refuses them */
    int rc = transaction_field(request->body, "autocommit", false, &request->autocommit_given, err);
    if (rc == VD_OK)
        rc = transaction_field(request->body, "startTransaction", true, &request->start_given, err);
    if (rc == VD_OK && request->autocommit_given) {
        __atomic_store_n(&request->transaction_number, request->txn_number, __ATOMIC_RELAXED);
        request->txn_number = -1;
    }
    return rc;
}

void stor_request_set_deadline(stor_request_t *request)
{
    const vdp_operation_command_t *command = &request->command;
    if (vd_slice_is(command->name, "getMore"))
        return;
    if (command->max_time_ms != 0) {
        request->deadline_us = request->arrived_us + command->max_time_ms * 1000ull;
        request->deadline_is_max_time = true;
    }
    uint64_t asker_us = request->arrived_us + request->envelope.deadline_ms * 1000;
    if (request->envelope.deadline_ms != 0 &&
        (request->deadline_us == 0 || asker_us < request->deadline_us)) {
        request->deadline_us = asker_us;
        request->deadline_is_max_time = false;
    }
}

/* The pipeline ends with $out or $merge. */
static bool has_output(const stor_request_t *request)
{
    vd_value_t pipeline = vd_bson_get(request->body, "pipeline");
    vd_bson_iter_t iter;
    vd_slice_t name = VD_SLICE_NULL;
    vd_value_t first;
    if (pipeline.type != VD_BSON_ARRAY)
        return false;
    vd_bson_iter_init(&iter, vd_value_document(pipeline));
    while (vd_bson_iter_next(&iter))
        if (iter.value.type != VD_BSON_OBJECT ||
            !vd_bson_first(vd_value_document(iter.value), &name, &first))
            name = VD_SLICE_NULL;
    return vd_slice_is(name, "$out") || vd_slice_is(name, "$merge");
}

int stor_request_prepare(stor_request_t *request, vd_error_t *err)
{
    request->db = request->command.db;
    request->body = request->sections.body;
    if (request->entry == NULL)
        request->entry = stor_command_find(request->command.name);
    if (request->entry == NULL)
        return vd_error_set(err, VD_ERR_COMMAND_NOT_FOUND, "no such command: '%.*s'",
                            VD_SLICE_FMT(request->command.name));
    request->writes =
        (request->entry->flags & STOR_COMMAND_WRITES) != 0 ||
        ((request->entry->flags & STOR_COMMAND_MAY_WRITE) != 0 && has_output(request));
    request->variables.now_ms = vd_wall_ms();
    request->variables.user_roles =
        (vd_bson_t){request->command.roles.data, (uint32_t)request->command.roles.len};
    if (request->storage->engine != NULL)
        request->variables.cluster_time = stor_engine_newest(request->storage->engine);
    request->txn_number = request->command.txn_number;
    stor_request_set_deadline(request);
    int rc = transaction_fields(request, err);
    if (rc != VD_OK)
        return rc;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, request->body);
    while (vd_bson_iter_next(&iter)) {
        /* Cheap first letter test: most fields are the command's own. */
        uint8_t c = iter.name.len == 0 ? 0 : iter.name.data[0];
        if (c != 'r' && c != 'w' && c != 'c' && c != 's' && c != 'a' && c != '$')
            continue;
        rc = generic_parse(request, iter.name, iter.value, err);
        if (rc != VD_OK)
            return rc;
    }
    if (iter.bad)
        return vd_error_set(err, VD_ERR_INVALID_BSON, "the command is not valid BSON");
    stor_defaults_apply(request, request->names_level);
    return VD_OK;
}

/* ---- before the handler ---- */

/* The gateway has looked at lengths only: from here on everything is known to be BSON. */
static int bodies_check(const stor_request_t *request, vd_error_t *err)
{
    const vdp_sections_t *sections = &request->sections;
    int rc = vd_bson_validate(vd_slice(sections->body.data, sections->body.len), 0,
                              VD_BSON_BUILD_DEPTH_MAX, err);
    for (uint32_t i = 0; rc == VD_OK && i < sections->sequence_count; i++) {
        const vdp_sequence_t *sequence = &sections->sequences[i];
        size_t position = 0;
        vd_bson_t document;
        while (rc == VD_OK && vdp_sequence_next(sequence, &position, &document))
            rc = vd_bson_validate(vd_slice(document.data, document.len), 0, VD_BSON_BUILD_DEPTH_MAX,
                                  err);
    }
    return rc;
}

/* What a member may be asked to wait for: a time that the set has given out, as far as we can know.
 * The gateway has checked the client's $clusterTime; and another member's clock may be a little
 * ahead of ours. */
static bool time_known(const stor_request_t *request, uint64_t newest)
{
    uint64_t after = request->after_cluster_time;
    if (after <= newest)
        return true;
    if (stor_replication_alone(request->storage))
        return false;
    return after <= request->cluster_time ||
           after >> 32 <= (uint64_t)vd_wall_ms() / 1000 + CLOCKS_APART_S;
}

/* Waits for commits in flight at or below the asked time, or for what other members have: parked,
 * where there is somebody who parks (request->wait). */
static int cluster_time_wait(stor_request_t *request, vd_error_t *err)
{
    uint64_t after = request->after_cluster_time;
    stor_storage_t *storage = request->storage;
    stor_engine_t *engine = storage->engine;
    if (after == 0 || stor_engine_visible(engine) >= after)
        return VD_OK;
    uint64_t newest = stor_engine_newest(engine);
    if (!time_known(request, newest))
        return vd_error_set(
            err, VD_ERR_INVALID_OPTIONS,
            "readConcern afterClusterTime value must not be greater than the current clusterTime. "
            "Requested clusterTime: { ts: Timestamp(%u, %u) }; current clusterTime: { ts: "
            "Timestamp(%u, %u) }",
            (unsigned)(after >> 32), (unsigned)after, (unsigned)(newest >> 32), (unsigned)newest);
    if (!stor_replication_alone(storage)) {
        request->wait.kind = STOR_WAIT_TIME;
        return VD_OK;
    }
    while (stor_engine_visible(engine) < after) {
        request->checks = 0; /* each check looks at the clock */
        int rc = stor_request_check(request, err);
        if (rc != VD_OK)
            return rc;
        (void)usleep(100); /* waking early is fine */
    }
    return VD_OK;
}

int stor_request_space(const stor_request_t *request, vd_error_t *err)
{
    stor_engine_t *engine = request->storage->engine;
    bool frees = request->entry != NULL && (request->entry->flags & STOR_COMMAND_FREES) != 0;
    return frees ? stor_engine_free_allowed(engine, err) : stor_engine_write_allowed(engine, err);
}

static int admission_check(stor_request_t *request, vd_error_t *err)
{
    stor_storage_t *storage = request->storage;
    uint32_t flags = request->entry->flags;
    if ((flags & STOR_COMMAND_ADMIN_ONLY) != 0 && !vd_slice_is(request->db, "admin"))
        return vd_error_set(err, VD_ERR_UNAUTHORIZED,
                            "%s may only be run against the admin database.", request->entry->name);
    if (request->command.auth_epoch < atomic_load(&storage->auth_epoch) &&
        !stor_request_internal(request)) {
        request->reply_flags |= VDP_REPLY_RETRY;
        return vd_error_set(err, VD_ERR_AGAIN,
                            "users or roles have changed: check the privileges again");
    }
    int rc = stor_transaction_check(request, err);
    if (rc == VD_OK)
        rc = stor_replication_admit(request, err);
    if (rc != VD_OK)
        return rc;
    if (request->txn_number >= 0 && request->command.lsid.len == 0)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Transaction number requires a session ID to also be specified");
    if (request->txn_number >= 0 && (flags & STOR_COMMAND_RETRYABLE) == 0)
        return vd_error_set(err, VD_ERR_LOCATION(50768),
                            "txnNumber may only be provided for multi-document transactions and "
                            "retryable write commands. autocommit:false was not provided, and %s "
                            "is not a retryable write command.",
                            request->entry->name);
    if (request->write_concern.present && !request->writes &&
        (request->write_concern.majority || request->write_concern.mode.len > 0 ||
         request->write_concern.w > 1))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Command does not support writeConcern: %s", request->entry->name);
    if (request->writes)
        rc = stor_audit_allowed(storage->audit, err);
    if (rc != VD_OK)
        return rc;
    /* One with a number may have been done already: that is looked up first (write_common.c). */
    if ((flags & STOR_COMMAND_WRITES) != 0 && request->txn_number < 0 &&
        (flags & STOR_COMMAND_ENDS_TRANSACTION) == 0)
        rc = stor_request_space(request, err);
    if (rc == VD_OK)
        rc = stor_sessions_touch(request, err);
    if (rc == VD_OK)
        rc = cluster_time_wait(request, err);
    return rc;
}

/* ---- after the handler ---- */

static void append_times(stor_request_t *request)
{
    stor_engine_t *engine = request->storage->engine;
    uint64_t time = request->operation_time != 0 ? request->operation_time : request->depends_on;
    if (time == 0)
        time = stor_engine_visible(engine);
    request->operation_time = time;
    uint64_t newest = stor_engine_newest(engine);
    static const uint8_t no_signature[20];
    vd_bb_t *bb = &request->reply;
    vd_bb_begin_document(bb, "$clusterTime");
    vd_bb_timestamp(bb, "clusterTime", newest > time ? newest : time);
    vd_bb_begin_document(bb, "signature");
    vd_bb_binary(bb, "hash", 0, vd_slice(no_signature, sizeof no_signature));
    vd_bb_int64(bb, "keyId", 0);
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_bb_timestamp(bb, "operationTime", time);
}

static void append_concern(vd_bb_t *bb, const stor_write_concern_t *concern)
{
    bool given = concern->present && concern->has_w;
    vd_bb_begin_document(bb, "writeConcern");
    if (given && concern->mode.len > 0)
        vd_bb_string(bb, "w", concern->mode);
    else if (!given || concern->majority)
        vd_bb_cstr(bb, "w", "majority");
    else
        vd_bb_int32(bb, "w", (int32_t)concern->w);
    if (concern->journal)
        vd_bb_bool(bb, "j", true);
    vd_bb_int64(bb, "wtimeout", (int64_t)concern->timeout_ms);
    vd_bb_cstr(bb, "provenance",
               concern->custom_default ? "customDefault"
               : given                 ? "clientSupplied"
                                       : "implicitDefault");
    vd_bb_close(bb);
}

static void append_write_concern_error(stor_request_t *request, vd_bb_t *bb, int code,
                                       const char *message)
{
    char name[32];
    vd_bb_begin_document(bb, "writeConcernError");
    vd_bb_int32(bb, "code", -code);
    vd_bb_cstr(bb, "codeName", vd_error_code_name(code, name));
    vd_bb_cstr(bb, "errmsg", message);
    vd_bb_begin_document(bb, "errInfo");
    if (code == VD_ERR_WRITE_CONCERN_FAILED)
        vd_bb_bool(bb, "wtimeout", true);
    append_concern(bb, &request->write_concern);
    vd_bb_close(bb);
    vd_bb_close(bb);
}

/* A set of one: more than one can't be had. */
static void check_alone(stor_request_t *request)
{
    const stor_write_concern_t *concern = &request->write_concern;
    if (!concern->present || concern->majority || concern->w <= 1 || !request->writes ||
        !stor_replication_alone(request->storage))
        return;
    append_write_concern_error(request, &request->reply, VD_ERR_UNSATISFIABLE_WRITE_CONCERN,
                               "Not enough data-bearing nodes");
}

/* Codes after which a driver may send the same write (with its txnNumber) again. */
static bool is_retryable(int code)
{
    switch (code) {
    case VD_ERR_INTERRUPTED_AT_SHUTDOWN:
    case VD_ERR_SHUTDOWN_IN_PROGRESS:
    case VD_ERR_NOT_WRITABLE_PRIMARY:
    case VD_ERR_NOT_PRIMARY_NO_SECONDARY_OK:
    case VD_ERR_NOT_PRIMARY_OR_SECONDARY:
    case VD_ERR_PRIMARY_STEPPED_DOWN:
    case VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE:
    case VD_ERR_EXCEEDED_TIME_LIMIT:
        return true;
    default:
        return false;
    }
}

static void append_label(stor_request_t *request, vd_bb_t *bb, int code)
{
    if (request->txn_number < 0 || !is_retryable(code))
        return;
    vd_bb_begin_array(bb, "errorLabels");
    vd_bb_cstr(bb, "0", "RetryableWriteError");
    vd_bb_close(bb);
}

/* Whether a driver may open the stream again where it was. */
static void append_stream_label(const stor_request_t *request, vd_bb_t *bb, int code)
{
    bool lost = code == VD_ERR_CHANGE_STREAM_HISTORY_LOST ||
                code == VD_ERR_CHANGE_STREAM_FATAL_ERROR ||
                (request->change_stream && code == VD_ERR_BSON_OBJECT_TOO_LARGE);
    if (!lost && (!request->change_stream || !is_retryable(code)))
        return;
    vd_bb_begin_array(bb, "errorLabels");
    vd_bb_cstr(bb, "0", lost ? "NonResumableChangeStreamError" : "ResumableChangeStreamError");
    vd_bb_close(bb);
}

static void reply_error(stor_request_t *request, const vd_error_t *err)
{
    vd_bb_t *bb = &request->reply;
    char name[32];
    vd_bb_init_arena(bb, request->arena, REPLY_MAX_BYTES);
    vd_bb_double(bb, "ok", 0);
    vd_bb_cstr(bb, "errmsg", err->message);
    vd_bb_int32(bb, "code", -err->code);
    vd_bb_cstr(bb, "codeName", vd_error_code_name(err->code, name));
    append_label(request, bb, err->code);
    append_stream_label(request, bb, err->code);
    if (err->details.len >= 5)
        vd_bb_concat(bb, (vd_bson_t){err->details.data, (uint32_t)err->details.len});
    request->status = err->code;
    request->cursor_id = 0;
}

static void finish(stor_request_t *request, int rc, const vd_error_t *err)
{
    request->reply_head = VD_SLICE_NULL; /* of an earlier reply to the same request */
    if (rc == VD_OK) {
        request->status = VD_OK;
        check_alone(request);
        vd_bb_double(&request->reply, "ok", 1);
    } else {
        reply_error(request, err);
    }
    append_times(request);
    vd_error_t failure = VD_ERROR_INIT;
    if (vd_bb_finish(&request->reply, &request->reply_document, &failure) == VD_OK)
        return;
    reply_error(request, &failure);
    append_times(request);
    rc = vd_bb_finish(&request->reply, &request->reply_document, NULL);
    VD_ASSERT(rc == VD_OK); /* a few hundred bytes */
}

void stor_request_refuse(stor_request_t *request, const vd_error_t *err)
{
    vd_error_t copy = *err;
    finish(request, err->code, &copy);
}

void stor_request_finish(stor_request_t *request, int rc, const vd_error_t *err)
{
    finish(request, rc, err);
}

void stor_request_concern_failed(stor_request_t *request, int code, const char *message)
{
    vd_bb_t *bb = &request->reply;
    vd_bson_t before = request->reply_document;
    vd_bb_init_arena(bb, request->arena, REPLY_MAX_BYTES + 4096);
    append_write_concern_error(request, bb, code, message);
    if (vd_bson_get(before, "errorLabels").type == VD_BSON_MISSING)
        append_label(request, bb, code);
    vd_bb_concat(bb, before);
    request->reply_head = VD_SLICE_NULL;
    int rc = vd_bb_finish(bb, &request->reply_document, NULL);
    if (rc != VD_OK) /* can't be: a few hundred bytes are left for it */
        request->reply_document = before;
}

/* What is left to wait for, once the reply is on disk here. */
static void wait_decide(stor_request_t *request)
{
    const stor_write_concern_t *concern = &request->write_concern;
    stor_wait_t *wait = &request->wait;
    wait->kind = STOR_WAIT_NOTHING;
    if (stor_replication_alone(request->storage) || request->entry == NULL ||
        request->depends_on == 0)
        return;
    /* What a transaction reads and writes waits for its commit. */
    if (request->transaction_number >= 0 &&
        (request->entry->flags & STOR_COMMAND_ENDS_TRANSACTION) == 0)
        return;
    if (request->writes) {
        bool more = !concern->present || !concern->has_w || concern->majority ||
                    concern->mode.len > 0 || concern->w > 1;
        if (more && (request->command.flags & VDP_COMMAND_NO_REPLY) == 0)
            wait->kind = STOR_WAIT_WRITE;
    } else if (request->status == VD_OK && (request->read_level == STOR_READ_MAJORITY ||
                                            request->read_level == STOR_READ_SNAPSHOT)) {
        wait->kind = STOR_WAIT_MAJORITY;
    } else if (request->status == VD_OK && request->read_level == STOR_READ_LINEARIZABLE) {
        wait->kind = STOR_WAIT_LINEARIZABLE;
    }
}

static void note_time(const stor_request_t *request)
{
    uint64_t us = vd_monotonic_us() - request->started_us;
    if (request->entry != NULL)
        stor_metrics_observe(request->entry, us, request->status != VD_OK);
    if (us < SLOW_US)
        return;
    char user[160], ns[300];
    vd_log(VD_LOG_INFO, "slow operation",
           "op=%llu command=%s ns=%s user=%s took_ms=%llu examined=%llu returned=%llu "
           "conflicts=%llu used_disk=%s code=%d",
           (unsigned long long)request->number, request->entry == NULL ? "?" : request->entry->name,
           vd_log_quote(request->ns, ns, sizeof ns),
           vd_log_quote(request->command.user, user, sizeof user), (unsigned long long)us / 1000,
           (unsigned long long)request->documents_examined,
           (unsigned long long)request->documents_returned, (unsigned long long)request->conflicts,
           request->used_disk ? "true" : "false", -request->status);
}

/* For top and $collStats: writes count themselves. */
static void note_reads(stor_request_t *request)
{
    if (request->held_count == 0 || request->entry == NULL ||
        (request->entry->flags & STOR_COMMAND_READS) == 0)
        return;
    uint64_t us = vd_monotonic_us() - request->started_us;
    for (uint32_t i = 0; i < request->held_count; i++)
        stor_metrics_traffic(request->entry, request->held[i], us);
}

static void counters_add(stor_request_t *request)
{
    stor_op_counters_t *counters = &request->storage->counters;
    if (request->documents_examined != 0)
        atomic_fetch_add_explicit(&counters->documents_examined, request->documents_examined,
                                  memory_order_relaxed);
    if (request->documents_returned != 0)
        atomic_fetch_add_explicit(&counters->documents_returned, request->documents_returned,
                                  memory_order_relaxed);
    if (request->conflicts != 0)
        atomic_fetch_add_explicit(&counters->write_conflicts, request->conflicts,
                                  memory_order_relaxed);
}

static void park(stor_request_t *request, bool (*ready)(const stor_request_t *request))
{
    request->awaiting = true;
    request->await_ready = ready;
    request->await_until_us = request->deadline_us == 0 ? UINT64_MAX : request->deadline_us;
}

/* Past fsync {lock: true}; or request->awaiting. */
static int freeze_pass(stor_request_t *request, vd_error_t *err)
{
    request->checks = 0; /* it may have waited */
    int rc = stor_request_check(request, err);
    if (rc != VD_OK || VD_LIKELY(stor_freeze_request_enter(request)))
        return rc;
    if (!request->may_await)
        return vd_error_set(err, VD_ERR_INTERRUPTED_AT_SHUTDOWN, "interrupted at shutdown");
    park(request, stor_freeze_request_ready);
    return VD_OK;
}

/* All that comes before the handler. request->wait and request->awaiting say when that is not yet.
 */
static int begin(stor_request_t *request, vd_error_t *err)
{
    int rc = VD_OK;
    request->wait = (stor_wait_t){0};
    if (!request->prepared && (request->command.flags & VDP_COMMAND_VERSIONED) != 0)
        request->seen.epoch = stor_versions_epoch(request->storage->versions);
    if (!request->prepared)
        rc = bodies_check(request, err);
    if (rc == VD_OK && !request->prepared)
        rc = stor_request_prepare(request, err);
    request->prepared = true;
    if (rc == VD_OK)
        rc = admission_check(request, err);
    if (rc != VD_OK || request->wait.kind == STOR_WAIT_TIME)
        return rc;
    rc = VD_FAULT("request.before_handler", err);
    if (rc == VD_OK)
        rc = freeze_pass(request, err);
    if (rc == VD_OK && request->awaiting)
        return rc;
    if (rc == VD_OK)
        rc = stor_transaction_enter(request, err);
    return rc == VD_OK ? stor_pin_enter(request, err) : rc;
}

static bool storage_audits_reads(const stor_request_t *request)
{
    return request->storage->audit != NULL && request->storage->settings.audit_reads;
}

void stor_request_run(stor_request_t *request, stor_session_t *session)
{
    vd_error_t err = VD_ERROR_INIT;
    int rc = VD_OK;
    bool resumed = request->unfinished != NULL, again = resumed || request->await_cursor != NULL;
    request->session = session;
    if (!resumed)
        request->started_us = vd_monotonic_us();
    request->awaiting = false;
    request->await_ready = NULL;
    stor_collation_end();
    if (!again)
        rc = begin(request, &err);
    else if (resumed && freeze_pass(request, NULL) != VD_OK)
        rc = VD_OK; /* the handler looks at what stops it, and ends what it has begun */
    if (rc == VD_OK && request->awaiting) {
        request->session = NULL; /* to be run again, from here */
        return;
    }
    if (rc == VD_OK && request->wait.kind == STOR_WAIT_TIME) {
        request->session = NULL; /* to be run again, from here */
        return;
    }
    vd_arena_mark_t mark = vd_arena_mark(request->arena);
    if (rc == VD_OK) {
        vd_bb_init_arena(&request->reply, request->arena, REPLY_MAX_BYTES);
        rc = again && !resumed ? stor_cursors_again(request, &err)
                               : request->entry->run(request, &err);
        VD_ASSERT(rc == VD_OK || err.code != VD_OK);
    }
    stor_collation_end();
    if (request->awaiting) { /* nothing to answer yet: as if it had not run */
        VD_ASSERT(!stor_txn_active(session));
        stor_catalog_release_all(request);
        stor_replication_request_leave(request);
        stor_freeze_request_leave(request);
        if (request->unfinished == NULL) {
            vd_arena_rewind(request->arena, mark);
            request->ns = VD_SLICE_NULL;
        }
        request->session = NULL;
        return;
    }
    stor_transaction_leave(request, rc);
    stor_pin_leave(request);
    /* An error or a reply may have been decided by what an open transaction saw. */
    if (stor_txn_active(session)) {
        stor_request_depends(request, stor_txn_snapshot_newest(session));
        stor_txn_rollback(session);
    }
    if (VD_UNLIKELY(storage_audits_reads(request)) && stor_audit_read(request, rc, &err) != VD_OK)
        rc = err.code;
    stor_replication_request_leave(request);
    stor_freeze_request_leave(request);
    stor_sessions_write_end(request);
    note_reads(request);
    stor_catalog_release_all(request);
    request->session = NULL;
    if (rc == VD_OK && request->wait.kind == STOR_WAIT_ANSWER)
        return; /* stor_request_finish comes with the answer */
    uint64_t written = request->operation_time;
    finish(request, rc, &err);
    note_time(request);
    counters_add(request);
    if (rc == VD_OK || written != 0)
        wait_decide(request);
}

/* ---- for handlers ---- */

int stor_request_check(stor_request_t *request, vd_error_t *err)
{
    int killed = atomic_load_explicit(&request->killed, memory_order_relaxed);
    if (VD_UNLIKELY(killed != 0))
        return vd_error_set(err, killed,
                            killed == VD_ERR_CLIENT_DISCONNECT
                                ? "operation was interrupted because a client disconnected"
                                : "operation was interrupted");
    if (VD_LIKELY(request->checks++ % CHECKS_PER_CLOCK != 0))
        return VD_OK;
    if (request->slot != NULL)
        vd_daemon_beat(request->slot, true); /* long, not hung */
    if (request->deadline_us == 0 ||
        (vd_monotonic_us() < request->deadline_us && !stor_fail_max_time(request)))
        return VD_OK;
    if (request->deadline_is_max_time)
        return vd_error_set(err, VD_ERR_MAX_TIME_MS_EXPIRED, "operation exceeded time limit");
    return vd_error_set(err, VD_ERR_EXCEEDED_TIME_LIMIT,
                        "operation exceeded the time that the client waits");
}

bool stor_request_is_over(const stor_request_t *request, uint64_t now_us)
{
    if (request->unfinished != NULL || request->await_cursor != NULL)
        return false;
    return atomic_load_explicit(&request->killed, memory_order_relaxed) != 0 ||
           (request->deadline_us != 0 && now_us >= request->deadline_us);
}

void stor_request_give_up(stor_request_t *request)
{
    vd_error_t err = VD_ERROR_INIT;
    request->checks = 0; /* to look at the clock */
    int rc = stor_request_check(request, &err);
    VD_ASSERT(rc != VD_OK);
    stor_replication_request_leave(request);
    stor_freeze_request_leave(request);
    request->wait = (stor_wait_t){0};
    stor_request_refuse(request, &err);
}

int stor_request_wait(stor_request_t *request, bool (*ready)(const stor_request_t *request),
                      bool *ret_parked, vd_error_t *err)
{
    request->checks = 0; /* each check looks at the clock */
    int rc = stor_request_check(request, err);
    *ret_parked = rc == VD_OK && request->may_await && request->transaction == NULL;
    if (*ret_parked)
        park(request, ready);
    else if (rc == VD_OK && !ready(request))
        (void)usleep(REST_US); /* waking early is fine */
    return rc;
}

void stor_request_depends_newest(stor_request_t *request)
{
    stor_request_depends(request, stor_engine_newest(request->storage->engine));
}

int stor_request_collection_name(stor_request_t *request, vd_slice_t *ret_name, vd_error_t *err)
{
    vd_slice_t field;
    vd_value_t v;
    if (!vd_bson_first(request->body, &field, &v))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "an empty command");
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "collection name has invalid type %s",
                            vd_bson_type_name(v.type));
    vd_slice_t name = vd_value_string(v);
    int rc = stor_name_check_database(request->db, err);
    if (rc == VD_OK)
        rc = stor_name_check_collection(request->db, name, err);
    if (rc != VD_OK)
        return rc;
    (void)stor_request_namespace(request, name);
    *ret_name = name;
    return VD_OK;
}

vd_slice_t stor_request_namespace(stor_request_t *request, vd_slice_t collection)
{
    size_t len = request->db.len + 1 + collection.len;
    char *ns = vd_arena_alloc(request->arena, len + 1);
    memcpy(ns, request->db.data, request->db.len);
    ns[request->db.len] = '.';
    if (collection.len > 0)
        memcpy(ns + request->db.len + 1, collection.data, collection.len);
    ns[len] = 0;
    request->ns = vd_slice(ns, len);
    return request->ns;
}
