/* veddb-storaged/commands/operations.c — currentOp, killOp, top, fsync, fsyncUnlock,
 * profile: for operators; configureFailPoint: for tests. */
#include "libcommon/base/clock.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/fail_points.h"
#include "veddb-storaged/query/match.h"
#include "veddb-storaged/registry.h"

#define SLOW_MS 100 /* what request.c logs as slow */

/* ---- currentOp: fields that are no option are a filter over the operations ---- */

static int current_op_filter(stor_request_t *request, bool *ret_all, bool *ret_own,
                             stor_filter_t **ret_filter, vd_error_t *err)
{
    vd_bson_iter_t iter;
    vd_bson_t filter;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bson_iter_init(&iter, request->body);
    for (bool first = true; vd_bson_iter_next(&iter); first = false) {
        if (vd_slice_is(iter.name, "$all"))
            *ret_all = vd_value_as_flag(iter.value);
        else if (vd_slice_is(iter.name, "$ownOps"))
            *ret_own = vd_value_as_flag(iter.value);
        else if (!first && !vd_slice_is(iter.name, "$truncateOps") &&
                 !stor_args_is_generic(iter.name))
            vd_bb_value(&bb, iter.name, iter.value);
    }
    int rc = vd_bb_finish(&bb, &filter, err);
    return rc == VD_OK
               ? stor_filter_parse(request->arena, filter, &request->variables, ret_filter, err)
               : rc;
}

int stor_run_current_op(stor_request_t *request, vd_error_t *err)
{
    bool all = false, own = false;
    stor_filter_t *filter = NULL;
    vd_bson_t *documents;
    uint32_t count, position = 0;
    char buf[12];
    int rc = current_op_filter(request, &all, &own, &filter, err);
    if (rc == VD_OK && !own && !stor_request_all_users(request))
        rc = vd_error_set(err, VD_ERR_UNAUTHORIZED,
                          "not authorized on admin to see the operations of all users");
    stor_operations_options_t options = {
        .all_users = !own, .idle_cursors = all, .idle_sessions = all, .truncate = true};
    if (rc == VD_OK)
        rc = stor_facts_operations(request, &options, request->arena, &documents, &count, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_begin_array(&request->reply, "inprog");
    for (uint32_t i = 0; rc == VD_OK && i < count; i++) {
        stor_match_t match = {.arena = request->arena, .variables = &request->variables};
        bool matches = false;
        rc = stor_match_document(filter, documents[i], &match, &matches, err);
        if (rc == VD_OK && matches)
            vd_bb_value(&request->reply, vd_array_name(position++, buf),
                        vd_value_from_document(documents[i]));
    }
    vd_bb_close(&request->reply);
    if (stor_freeze_is_held(&request->storage->freeze)) {
        vd_bb_bool(&request->reply, "fsyncLock", true);
        vd_bb_cstr(&request->reply, "info",
                   "use db.fsyncUnlock() to terminate the fsync write/snapshot lock");
    }
    return rc;
}

/* ---- killOp ---- */

typedef struct {
    int64_t op;
} kill_args_t;

int stor_run_kill_op(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("op", STOR_ARG_INT, kill_args_t, op, STOR_ARG_REQUIRED)};
    kill_args_t args = {0};
    int rc = stor_args_parse(request->body, "killOp", true, table, VD_COUNT_OF(table), &args, err);
    if (rc != VD_OK)
        return rc;
    bool all = stor_request_all_users(request);
    bool found =
        stor_registry_kill(request->storage, (uint64_t)args.op, request->command.user, all);
    if (!found && !all) /* whether somebody else's runs under that number is not told */
        return vd_error_set(err, VD_ERR_UNAUTHORIZED, "Unauthorized");
    /* Who may kill any is not told whether there was one: it may have ended meanwhile. */
    vd_bb_cstr(&request->reply, "info", "attempting to kill op");
    return VD_OK;
}

/* ---- top ---- */

static void append_time(vd_bb_t *bb, const char *name, uint64_t us, uint64_t count)
{
    vd_bb_begin_document(bb, name);
    vd_bb_int64(bb, "time", (int64_t)us);
    vd_bb_int64(bb, "count", (int64_t)count);
    vd_bb_close(bb);
}

static void append_top(vd_bb_t *bb, const stor_collection_t *collection)
{
    uint64_t us[STOR_TRAFFIC_COUNT], count[STOR_TRAFFIC_COUNT], sum_us[2] = {0}, sum[2] = {0};
    for (int i = 0; i < STOR_TRAFFIC_COUNT; i++) {
        us[i] = atomic_load(&collection->traffic[i].us);
        count[i] = atomic_load(&collection->traffic[i].operations);
        sum_us[i > STOR_TRAFFIC_READ_COMMAND] += us[i];
        sum[i > STOR_TRAFFIC_READ_COMMAND] += count[i];
    }
    vd_bb_begin_document(bb, collection->ns);
    append_time(bb, "total", sum_us[0] + sum_us[1], sum[0] + sum[1]);
    append_time(bb, "readLock", sum_us[0], sum[0]);
    append_time(bb, "writeLock", sum_us[1], sum[1]);
    append_time(bb, "queries", us[STOR_TRAFFIC_QUERY], count[STOR_TRAFFIC_QUERY]);
    append_time(bb, "getmore", us[STOR_TRAFFIC_GETMORE], count[STOR_TRAFFIC_GETMORE]);
    append_time(bb, "insert", us[STOR_TRAFFIC_INSERT], count[STOR_TRAFFIC_INSERT]);
    append_time(bb, "update", us[STOR_TRAFFIC_UPDATE], count[STOR_TRAFFIC_UPDATE]);
    append_time(bb, "remove", us[STOR_TRAFFIC_REMOVE], count[STOR_TRAFFIC_REMOVE]);
    append_time(bb, "commands", us[STOR_TRAFFIC_READ_COMMAND] + us[STOR_TRAFFIC_WRITE_COMMAND],
                count[STOR_TRAFFIC_READ_COMMAND] + count[STOR_TRAFFIC_WRITE_COMMAND]);
    vd_bb_close(bb);
}

int stor_run_top(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {{"unused", STOR_ARG_REFUSED, 0, 0}};
    stor_catalog_t *catalog = request->storage->catalog;
    vd_bb_t *bb = &request->reply;
    char none;
    int rc = stor_args_parse(request->body, "top", true, table, 0, &none, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_begin_document(bb, "totals");
    vd_bb_cstr(bb, "note", "all times in microseconds");
    for (uint64_t after = 0;;) {
        stor_collection_t *collection = stor_catalog_next(catalog, after);
        if (collection == NULL)
            break;
        after = collection->id;
        if (collection->view) {
            stor_catalog_unreference(&collection);
            continue;
        }
        append_top(bb, collection);
        stor_catalog_unreference(&collection);
    }
    vd_bb_close(bb);
    return VD_OK;
}

/* ---- fsync: a checkpoint; the reply waits for the log's flush like every other ---- */

typedef struct {
    bool lock;
    int64_t wait_ms;
} fsync_args_t;

/* Of a command that wants the lock and runs again. */
typedef struct {
    uint64_t give_up_us; /* monotonic */
} locking_t;

static bool lock_ready(const stor_request_t *request)
{
    const locking_t *locking = request->unfinished;
    return stor_freeze_may_take(request->storage) || vd_monotonic_us() >= locking->give_up_us;
}

static int lock_take(stor_request_t *request, locking_t *locking, vd_error_t *err)
{
    stor_storage_t *storage = request->storage;
    int64_t count = 0;
    bool parked = false;
    int rc = VD_OK;
    while (rc == VD_OK && !parked && count == 0) {
        rc = stor_freeze_take(storage, &count, err);
        if (rc == VD_OK && count == 0 && vd_monotonic_us() >= locking->give_up_us)
            rc = vd_error_set(err, VD_ERR_LOCK_TIMEOUT, "Fsync lock timed out");
        if (rc == VD_OK && count == 0)
            rc = stor_request_wait(request, lock_ready, &parked, err);
    }
    if (rc != VD_OK)
        stor_freeze_give_up(storage);
    if (rc != VD_OK || parked)
        return rc;
    stor_request_depends_newest(request);
    vd_bb_cstr(&request->reply, "info",
               "now locked against writes, use db.fsyncUnlock() to unlock");
    vd_bb_int64(&request->reply, "lockCount", count);
    vd_bb_cstr(&request->reply, "seeAlso", "http://dochub.mongodb.org/core/fsynccommand");
    return VD_OK;
}

int stor_run_fsync(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("lock", STOR_ARG_BOOL, fsync_args_t, lock, 0),
        STOR_ARG("fsyncLockAcquisitionTimeoutMillis", STOR_ARG_INT, fsync_args_t, wait_ms, 0),
        {"async", STOR_ARG_IGNORED, 0, 0}, /* of old storage engines */
    };
    if (request->unfinished != NULL)
        return lock_take(request, request->unfinished, err);
    fsync_args_t args = {.wait_ms = STOR_FREEZE_WAIT_MS};
    int rc = stor_args_parse(request->body, "fsync", true, table, VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK && (args.wait_ms < 0 || args.wait_ms > INT32_MAX))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "%lld value for fsyncLockAcquisitionTimeoutMillis is out of range",
                          (long long)args.wait_ms);
    if (rc == VD_OK && args.lock) {
        locking_t *locking = VD_ARENA_NEW(request->arena, locking_t);
        locking->give_up_us = vd_monotonic_us() + (uint64_t)args.wait_ms * 1000;
        request->unfinished = locking;
        stor_freeze_want(request->storage);
        return lock_take(request, locking, err);
    }
    if (rc == VD_OK)
        rc = stor_engine_checkpoint(request->storage->engine, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    vd_bb_int32(&request->reply, "numFiles", 1);
    return VD_OK;
}

int stor_run_fsync_unlock(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {{"unused", STOR_ARG_REFUSED, 0, 0}};
    char none;
    int64_t left;
    int rc = stor_args_parse(request->body, "fsyncUnlock", true, table, 0, &none, err);
    if (rc == VD_OK && !stor_freeze_unlock(request->storage, &left))
        rc = vd_error_set(err, VD_ERR_ILLEGAL_OPERATION, "fsyncUnlock called when not locked");
    if (rc != VD_OK)
        return rc;
    vd_bb_cstr(&request->reply, "info", "fsyncUnlock completed");
    vd_bb_int64(&request->reply, "lockCount", left);
    return VD_OK;
}

/* ---- profile: off, and what it would be ---- */

typedef struct {
    int64_t slow_ms;
    vd_value_t sample_rate;
} profile_args_t;

int stor_run_profile(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("slowms", STOR_ARG_INT, profile_args_t, slow_ms, 0),
        STOR_ARG("sampleRate", STOR_ARG_VALUE, profile_args_t, sample_rate, 0),
        {"filter", STOR_ARG_REFUSED, 0, 0},
    };
    profile_args_t args = {.slow_ms = SLOW_MS};
    vd_slice_t name;
    vd_value_t level;
    int64_t n;
    int rc = stor_args_parse(request->body, "profile", true, table, VD_COUNT_OF(table), &args, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_bson_first(request->body, &name, &level) || !vd_value_as_int64(level, &n) || n < -1 ||
        n > 2)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "BSON field 'profile.profile' must be one of -1, 0, 1, 2");
    if (n > 0)
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "profiling is not built");
    if (args.slow_ms != SLOW_MS ||
        (!vd_value_is_nullish(args.sample_rate) && vd_value_as_double(args.sample_rate) != 1.0))
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                            "profile: changing slowms or sampleRate is not built");
    vd_bb_int32(&request->reply, "was", 0);
    vd_bb_int32(&request->reply, "slowms", SLOW_MS);
    vd_bb_double(&request->reply, "sampleRate", 1.0);
    return VD_OK;
}

/* ---- configureFailPoint: what the gateway passes on ---- */

int stor_command_configure_fail_point(stor_request_t *request, vd_error_t *err)
{
    uint64_t hits = 0;
    if (request->storage->fail_points == NULL)
        return vd_error_set(err, VD_ERR_COMMAND_NOT_FOUND, "no such command: 'configureFailPoint'");
    int rc = stor_fail_points_configure(request->storage->fail_points, request->body, &hits, err);
    if (rc == VD_OK)
        vd_bb_int32(&request->reply, "count", (int32_t)hits);
    return rc;
}
