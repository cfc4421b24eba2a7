/* veddb-gatewayd/commands/status.c — serverStatus: storage's figures with the gateway's put in. */
#include "libcommon/base/clock.h"
#include "veddb-gatewayd/commands/handlers.h"

#include <stdio.h>
#include <unistd.h>

/* Fields that the gateway writes: left out of storage's document. */
static const char *const own_fields[] = {"host",       "version", "process",      "service",
                                         "pid",        "uptime",  "uptimeMillis", "uptimeEstimate",
                                         "localTime",  "asserts", "connections",  "network",
                                         "opcounters", "security"};

static bool is_own(vd_slice_t name)
{
    for (size_t i = 0; i < VD_COUNT_OF(own_fields); i++) {
        if (vd_slice_is(name, own_fields[i]))
            return true;
    }
    return false;
}

static void put_memory(const gate_t *gate, vd_bb_t *reply)
{
    unsigned long size = 0, resident = 0;
    char text[128];
    ssize_t len = pread(gate->statm_fd, text, sizeof text - 1, 0);
    text[len > 0 ? len : 0] = '\0';
    if (sscanf(text, "%lu %lu", &size, &resident) != 2)
        size = resident = 0;
    unsigned long page = (unsigned long)sysconf(_SC_PAGESIZE);
    vd_bb_begin_document(reply, "mem");
    vd_bb_int32(reply, "bits", 64);
    vd_bb_int32(reply, "resident", (int32_t)(resident * page >> 20));
    vd_bb_int32(reply, "virtual", (int32_t)(size * page >> 20));
    vd_bb_bool(reply, "supported", true);
    vd_bb_close(reply);
}

static int64_t load(const _Atomic uint64_t *counter)
{
    return (int64_t)atomic_load_explicit(counter, memory_order_relaxed);
}

static void put_head(gate_t *gate, vd_bb_t *reply)
{
    int64_t up = (int64_t)(vd_monotonic_ms() - gate->started_ms);
    vd_bb_cstr(reply, "host", gate->settings.address);
    vd_bb_cstr(reply, "version", GATE_VERSION);
    vd_bb_cstr(reply, "process", "mongod");
    vd_bb_begin_array(reply, "service");
    vd_bb_cstr(reply, "0", "shard");
    vd_bb_close(reply);
    vd_bb_int64(reply, "pid", getpid());
    vd_bb_double(reply, "uptime", (double)(up / 1000));
    vd_bb_int64(reply, "uptimeMillis", up);
    vd_bb_int64(reply, "uptimeEstimate", up / 1000);
    vd_bb_date(reply, "localTime", vd_wall_ms());
}

static void put_figures(gate_t *gate, vd_bb_t *reply)
{
    static const char *const names[GATE_OPCOUNTS] = {"insert", "query",   "update",
                                                     "delete", "getmore", "command"};
    gate_stats_t *stats = &gate->stats;
    int64_t current = load(&stats->connections_current);
    vd_bb_begin_document(reply, "asserts");
    vd_bb_int32(reply, "regular", 0);
    vd_bb_int32(reply, "warning", 0);
    vd_bb_int32(reply, "msg", (int32_t)load(&stats->asserts_msg));
    vd_bb_int32(reply, "user", (int32_t)load(&stats->asserts_user));
    vd_bb_int32(reply, "tripwire", 0);
    vd_bb_int32(reply, "rollovers", 0);
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "connections");
    vd_bb_int32(reply, "current", (int32_t)current);
    vd_bb_int32(reply, "available", (int32_t)((int64_t)gate->settings.connections_max - current));
    vd_bb_int32(reply, "totalCreated", (int32_t)load(&stats->connections_total));
    vd_bb_int32(reply, "rejected", (int32_t)load(&stats->connections_rejected));
    vd_bb_int32(reply, "active", (int32_t)load(&stats->connections_active));
    vd_bb_int32(reply, "threaded", (int32_t)current);
    vd_bb_int32(reply, "awaitingTopologyChanges", (int32_t)load(&stats->awaiting_hello));
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "network");
    vd_bb_int64(reply, "bytesIn", load(&stats->bytes_in));
    vd_bb_int64(reply, "bytesOut", load(&stats->bytes_out));
    vd_bb_int64(reply, "physicalBytesIn", load(&stats->bytes_in));
    vd_bb_int64(reply, "physicalBytesOut", load(&stats->bytes_out));
    vd_bb_int64(reply, "numRequests", load(&stats->requests));
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "opcounters");
    for (unsigned i = 0; i < GATE_OPCOUNTS; i++)
        vd_bb_int64(reply, names[i], load(&stats->opcounters[i]));
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "security");
    vd_bb_begin_document(reply, "authentication");
    vd_bb_begin_document(reply, "mechanisms");
    vd_bb_begin_document(reply, "SCRAM-SHA-256");
    vd_bb_begin_document(reply, "authenticate");
    vd_bb_int64(reply, "received", load(&stats->logins) + load(&stats->logins_failed));
    vd_bb_int64(reply, "successful", load(&stats->logins));
    vd_bb_close(reply);
    vd_bb_close(reply);
    vd_bb_close(reply);
    vd_bb_close(reply);
    vd_bb_close(reply);
}

static void answered(gate_request_t *request, const gate_answer_t *answer)
{
    if (answer->rc != VD_OK) {
        gate_request_finish(request, answer->rc, answer->err);
        return;
    }
    if (answer->reply->status != VD_OK) {
        gate_request_finish_raw(request, answer->body);
        return;
    }
    gate_t *gate = request->thread->gate;
    vd_bb_t *reply = &request->reply;
    vd_bson_t body = {answer->body.data, (uint32_t)answer->body.len}, whole;
    vd_error_t err = VD_ERROR_INIT;
    put_head(gate, reply);
    put_figures(gate, reply);
    if (vd_value_is_missing(vd_bson_get(body, "mem")))
        put_memory(gate, reply);
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, body);
    while (vd_bson_iter_next(&each)) {
        if (!is_own(each.name))
            vd_bb_value(reply, each.name, each.value);
    }
    if (vd_bb_finish(reply, &whole, &err) != VD_OK)
        gate_request_finish(request, err.code, &err);
    else
        gate_request_finish_raw(request, vd_slice(whole.data, whole.len));
}

int gate_command_server_status(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* filled when storage has answered */
    request->answered = answered;
    return gate_request_pass_on(request, err);
}
