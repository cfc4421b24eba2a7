/* veddb-gatewayd/commands/info.c — what the gateway knows by itself: version, machine, parameters,
 * log, commands. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/machine.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/commands/handlers.h"

#include <stdio.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#define LOG_REPLY_MAX_BYTES (2u << 20)

int gate_command_ping(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)request, (void)reply, (void)err; /* ok says it all */
    return VD_OK;
}

int gate_command_build_info(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)err; /* can't fail */
    static const int32_t version[] = {7, 0, 14, 0};
    char key[12];
    vd_bb_cstr(reply, "version", GATE_VERSION);
    vd_bb_cstr(reply, "gitVersion", "veddb-" VEDDB_VERSION);
    vd_bb_begin_array(reply, "modules");
    vd_bb_close(reply);
    vd_bb_cstr(reply, "allocator", "system");
    vd_bb_cstr(reply, "javascriptEngine", "none");
    vd_bb_cstr(reply, "sysInfo", "deprecated");
    vd_bb_begin_array(reply, "versionArray");
    for (uint32_t i = 0; i < 4; i++)
        vd_bb_value(reply, vd_array_name(i, key), vd_value_from_int32(request->arena, version[i]));
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "openssl");
    vd_bb_cstr(reply, "running", OpenSSL_version(OPENSSL_VERSION));
    vd_bb_cstr(reply, "compiled", OPENSSL_VERSION_TEXT);
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "buildEnvironment");
    vd_bb_cstr(reply, "cc", __VERSION__);
    vd_bb_cstr(reply, "target_os", "linux");
    vd_bb_close(reply);
    vd_bb_int32(reply, "bits", 64);
    vd_bb_bool(reply, "debug", VEDDB_DEBUG != 0);
    vd_bb_int32(reply, "maxBsonObjectSize", VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_begin_array(reply, "storageEngines");
    vd_bb_cstr(reply, "0", "wiredTiger");
    vd_bb_close(reply);
    vd_bb_cstr(reply, "veddb", VEDDB_VERSION);
    return VD_OK;
}

int gate_command_host_info(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    struct utsname system;
    struct sysinfo memory;
    if (uname(&system) != 0 || sysinfo(&memory) != 0)
        return vd_error_set_errno(err, "the machine can't be asked");
    int64_t megabytes = (int64_t)((uint64_t)memory.totalram * memory.mem_unit >> 20);
    vd_bb_begin_document(reply, "system");
    vd_bb_date(reply, "currentTime", vd_wall_ms());
    vd_bb_cstr(reply, "hostname", request->thread->gate->hostname);
    vd_bb_int32(reply, "cpuAddrSize", 64);
    vd_bb_int64(reply, "memSizeMB", megabytes);
    vd_bb_int64(reply, "memLimitMB", megabytes);
    vd_bb_int32(reply, "numCores", (int32_t)vd_machine_cores());
    vd_bb_cstr(reply, "cpuArch", system.machine);
    vd_bb_bool(reply, "numaEnabled", false);
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "os");
    vd_bb_cstr(reply, "type", system.sysname);
    vd_bb_cstr(reply, "name", system.sysname);
    vd_bb_cstr(reply, "version", system.release);
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "extra");
    vd_bb_cstr(reply, "versionString", system.version);
    vd_bb_cstr(reply, "kernelVersion", system.release);
    vd_bb_int32(reply, "pageSize", (int32_t)sysconf(_SC_PAGESIZE));
    vd_bb_close(reply);
    return VD_OK;
}

/* ---- parameters ---- */

static void put_fcv(const gate_t *gate, const char *name, vd_bb_t *reply)
{
    (void)gate; /* one value */
    vd_bb_begin_document(reply, name);
    vd_bb_cstr(reply, "version", "7.0");
    vd_bb_close(reply);
}

static void put_mechanisms(const gate_t *gate, const char *name, vd_bb_t *reply)
{
    (void)gate; /* one value */
    vd_bb_begin_array(reply, name);
    vd_bb_cstr(reply, "0", "SCRAM-SHA-256");
    vd_bb_close(reply);
}

static void put_iterations(const gate_t *gate, const char *name, vd_bb_t *reply)
{
    (void)gate; /* one value */
    vd_bb_int32(reply, name, GATE_SCRAM_ITERATIONS);
}

static void put_test_commands(const gate_t *gate, const char *name, vd_bb_t *reply)
{
    vd_bb_bool(reply, name, gate->settings.test_faults);
}

static void put_session_timeout(const gate_t *gate, const char *name, vd_bb_t *reply)
{
    vd_bb_int32(reply, name, gate_session_minutes(gate));
}

static void put_tls_mode(const gate_t *gate, const char *name, vd_bb_t *reply)
{
    (void)gate; /* one value */
    vd_bb_cstr(reply, name, "requireTLS");
}

static void put_auth_schema(const gate_t *gate, const char *name, vd_bb_t *reply)
{
    (void)gate; /* one value */
    vd_bb_int32(reply, name, 5);
}

/* The tree that db.getLogComponents() wants; VedDB has one level for the whole process. */
static void put_log_verbosity(const gate_t *gate, const char *name, vd_bb_t *reply)
{
    static const char *const components[] = {"accessControl", "command", "network", "query",
                                             "replication",   "storage", "write"};
    (void)gate; /* the level is the process's */
    vd_bb_begin_document(reply, name);
    vd_bb_int32(reply, "verbosity", vd_log_level() == VD_LOG_DEBUG ? 1 : 0);
    for (size_t i = 0; i < VD_COUNT_OF(components); i++) {
        vd_bb_begin_document(reply, components[i]);
        vd_bb_int32(reply, "verbosity", -1); /* as the one above */
        vd_bb_close(reply);
    }
    vd_bb_close(reply);
}

static void put_log_level(const gate_t *gate, const char *name, vd_bb_t *reply)
{
    (void)gate; /* the level is the process's */
    vd_bb_int32(reply, name, vd_log_level() == VD_LOG_DEBUG ? 1 : 0);
}

/* One line per event: there is nothing to leave out. */
static void put_quiet(const gate_t *gate, const char *name, vd_bb_t *reply)
{
    (void)gate; /* one value */
    vd_bb_bool(reply, name, false);
}

static const struct {
    const char *name;
    void (*put)(const gate_t *gate, const char *name, vd_bb_t *reply);
} parameters[] = {
    {"authSchemaVersion", put_auth_schema},
    {"authenticationMechanisms", put_mechanisms},
    {"enableTestCommands", put_test_commands},
    {"featureCompatibilityVersion", put_fcv},
    {"localLogicalSessionTimeoutMinutes", put_session_timeout},
    {"logComponentVerbosity", put_log_verbosity},
    {"logLevel", put_log_level},
    {"quiet", put_quiet},
    {"scramSHA256IterationCount", put_iterations},
    {"sslMode", put_tls_mode},
    {"tlsMode", put_tls_mode},
};

int gate_command_get_parameter(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    vd_bson_t body = gate_request_body(request);
    bool all = request->first.type == VD_BSON_STRING &&
               vd_slice_is(vd_value_string(request->first), "*"),
         details = false;
    if (request->first.type == VD_BSON_OBJECT) {
        all = vd_value_as_flag(vd_bson_get(vd_value_document(request->first), "allParameters"));
        details = vd_value_as_flag(vd_bson_get(vd_value_document(request->first), "showDetails"));
    }
    uint32_t found = 0;
    for (size_t i = 0; i < VD_COUNT_OF(parameters); i++) {
        if (!all && vd_value_is_missing(vd_bson_get(body, parameters[i].name)))
            continue;
        found++;
        if (!details) {
            parameters[i].put(request->thread->gate, parameters[i].name, reply);
            continue;
        }
        vd_bb_begin_document(reply, parameters[i].name);
        parameters[i].put(request->thread->gate, "value", reply);
        vd_bb_bool(reply, "settableAtRuntime", parameters[i].put == put_log_level);
        vd_bb_bool(reply, "settableAtStartup", false);
        vd_bb_close(reply);
    }
    if (found == 0)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "no option found to get");
    return VD_OK;
}

/* The gateway's own level: vedctl's log-level sets those of all programs. */
static int set_log_level(vd_value_t value, vd_bb_t *reply, vd_error_t *err)
{
    int64_t level;
    if (!vd_value_as_int64(value, &level) || level < 0 || level > 5)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Invalid value for parameter logLevel: it is from 0 to 5");
    put_log_level(NULL, "was", reply);
    vd_log_set_level(level == 0 ? VD_LOG_INFO : VD_LOG_DEBUG);
    return VD_OK;
}

int gate_command_set_parameter(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, gate_request_body(request));
    (void)vd_bson_iter_next(&each); /* the command itself */
    if (!vd_bson_iter_next(&each) || each.name.data[0] == '$')
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "no option found to set, use help:true to see options ");
    if (vd_slice_is(each.name, "logLevel"))
        return set_log_level(each.value, reply, err);
    for (size_t i = 0; i < VD_COUNT_OF(parameters); i++) {
        if (vd_slice_is(each.name, parameters[i].name))
            return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION,
                                "not allowed to change [%s] at runtime", parameters[i].name);
    }
    return vd_error_set(
        err, VD_ERR_INVALID_OPTIONS,
        "attempted to set unrecognized parameter [%.*s], use help:true to see options ",
        (int)(each.name.len < 100 ? each.name.len : 100), each.name.data);
}

int gate_command_set_fcv(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* nothing to tell */
    if (request->first.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'setFeatureCompatibilityVersion."
                            "setFeatureCompatibilityVersion' is the wrong type, expected 'string'");
    if (!vd_slice_is(vd_value_string(request->first), "7.0"))
        return vd_error_set(err, VD_ERR_LOCATION(4926900),
                            "Invalid feature compatibility version value; expected '7.0'");
    if (!vd_value_as_flag(vd_bson_get(gate_request_body(request), "confirm")))
        return vd_error_set(
            err, VD_ERR_LOCATION(7369100),
            "Once you have upgraded to 7.0, you will not be able to downgrade FCV and binary "
            "version without support assistance. Please re-run this command with 'confirm: true' "
            "to acknowledge this and continue with the FCV upgrade.");
    return VD_OK;
}

int gate_command_get_cmd_line_opts(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)err; /* can't fail */
    const gate_settings_t *settings = &request->thread->gate->settings;
    vd_bb_begin_array(reply, "argv");
    vd_bb_cstr(reply, "0", "veddb-gatewayd");
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "parsed");
    vd_bb_begin_document(reply, "net");
    vd_bb_cstr(reply, "bindIp", settings->listen);
    vd_bb_int32(reply, "port", settings->port);
    vd_bb_int32(reply, "maxIncomingConnections", (int32_t)settings->connections_max);
    vd_bb_begin_document(reply, "tls");
    vd_bb_cstr(reply, "mode", "requireTLS");
    vd_bb_close(reply);
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "replication");
    vd_bb_cstr(reply, "replSet", settings->replica_set);
    vd_bb_close(reply);
    vd_bb_begin_document(reply, "security");
    vd_bb_cstr(reply, "authorization", "enabled");
    vd_bb_close(reply);
    vd_bb_close(reply);
    return VD_OK;
}

/* ---- log ---- */

typedef struct {
    vd_bb_t *reply;
    vd_arena_t *arena;
    uint32_t lines;
} log_reader_t;

static void read_line(vd_slice_t line, void *context)
{
    log_reader_t *reader = context;
    char key[12];
    if (vd_bb_len(reader->reply) + line.len + 64 > LOG_REPLY_MAX_BYTES || !vd_utf8_valid(line))
        return;
    vd_bb_value(reader->reply, vd_array_name(reader->lines++, key),
                vd_value_from_string(reader->arena, line));
}

int gate_command_get_log(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    if (request->first.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "Argument to getLog must be of type String; found %s",
                            vd_bson_type_name(request->first.type));
    vd_slice_t name = vd_value_string(request->first);
    if (vd_slice_is(name, "*")) {
        vd_bb_begin_array(reply, "names");
        vd_bb_cstr(reply, "0", "global");
        vd_bb_cstr(reply, "1", "startupWarnings");
        vd_bb_close(reply);
        return VD_OK;
    }
    bool global = vd_slice_is(name, "global");
    if (!global && !vd_slice_is(name, "startupWarnings"))
        return vd_error_set(err, VD_ERR_OPERATION_FAILED, "No log named '%.*s'",
                            (int)(name.len < 100 ? name.len : 100), name.data);
    log_reader_t reader = {reply, request->arena, 0};
    vd_bb_begin_array(reply, "log");
    if (global)
        vd_log_ring_read(read_line, &reader);
    vd_bb_close(reply);
    vd_bb_int32(reply, "totalLinesWritten", (int32_t)reader.lines);
    return VD_OK;
}

/* ---- commands ---- */

int gate_command_list_commands(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)err; /* can't fail */
    bool tests = request->thread->gate->settings.test_faults;
    vd_bb_begin_document(reply, "commands");
    for (uint32_t i = 0; i < gate_command_count; i++) {
        const gate_command_t *command = &gate_commands[i];
        if (command->where == GATE_RUN_REFUSED ||
            ((command->flags & GATE_TEST_ONLY) != 0 && !tests))
            continue;
        vd_bb_begin_document(reply, command->name);
        vd_bb_cstr(reply, "help", command->help);
        vd_bb_bool(reply, "requiresAuth", command->check != GATE_CHECK_OPEN);
        vd_bb_bool(reply, "secondaryOk", (command->flags & GATE_SECONDARY_OK) != 0);
        vd_bb_bool(reply, "adminOnly", (command->flags & GATE_ADMIN_ONLY) != 0);
        vd_bb_begin_array(reply, "apiVersions");
        if ((command->flags & GATE_API_V1) != 0)
            vd_bb_cstr(reply, "0", "1");
        vd_bb_close(reply);
        vd_bb_begin_array(reply, "deprecatedApiVersions");
        vd_bb_close(reply);
        vd_bb_close(reply);
    }
    vd_bb_close(reply);
    return VD_OK;
}

int gate_command_whatsmyuri(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)err; /* can't fail */
    vd_bb_cstr(reply, "you", request->conn->client);
    return VD_OK;
}

int gate_command_features(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)request, (void)err; /* constant */
    vd_bb_bool(reply, "js", false);
    return VD_OK;
}

int gate_command_conn_pool_stats(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)request, (void)err; /* a node of its own opens no connections to others */
    static const char *const zeroes[] = {
        "numClientConnections", "numAScopedConnections", "totalInUse",     "totalAvailable",
        "totalLeased",          "totalCreated",          "totalRefreshing"};
    static const char *const empties[] = {"pools", "hosts", "replicaSets"};
    for (size_t i = 0; i < VD_COUNT_OF(zeroes); i++)
        vd_bb_int32(reply, zeroes[i], 0);
    for (size_t i = 0; i < VD_COUNT_OF(empties); i++) {
        vd_bb_begin_document(reply, empties[i]);
        vd_bb_close(reply);
    }
    return VD_OK;
}

int gate_command_get_last_error(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    /* Old drivers ask it once, in the handshake, to learn their connection's number; as a write
     * concern it would be a lie. */
    if (!request->legacy)
        return vd_error_set(err, VD_ERR_COMMAND_NOT_FOUND, "no such command: '%.*s'",
                            VD_SLICE_FMT(request->name));
    vd_bb_int32(reply, "connectionId", (int32_t)(request->conn->id & INT32_MAX));
    vd_bb_int32(reply, "n", 0);
    vd_bb_null(reply, "err");
    return VD_OK;
}
