/* veddb-storaged/main.c — the program: data keys from the key holder, storage over them, then the
 * threads that serve. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/machine.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "proto/failure.h"
#include "proto/keys.h"
#include "proto/versions.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/backup/backup.h"
#include "veddb-storaged/engine/rewrite.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/keeper.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/rotation/rotation.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_ENTRY_BYTES (STOR_KEY_ID_BYTES + STOR_KEY_BYTES + 1 + 4)
#define KEYS_CALL_MS    5000
#define KEYS_WAIT_MS    30000 /* for a key holder that is not there yet */
#define KEYS_RETRY_MS   100
#define CACHE_MIN_BYTES (32ull << 20)
#define WORKERS_MIN     2 /* one may be busy with a long operation */

typedef struct {
    vd_daemon_t *daemon;
    stor_keys_t *keys;
    stor_storage_t *storage;
    char folder[PATH_MAX];
    char address[300]; /* as clients know this node */
} state_t;

/* ---- data keys ---- */

/* One that becomes active is noted first: blocks may need it from then on. */
static int key_take(state_t *state, const uint8_t *entry, stor_key_state_t key_state,
                    vd_error_t *err)
{
    uint32_t version = vd_get_u32(entry + STOR_KEY_ID_BYTES + STOR_KEY_BYTES + 1);
    int rc = VD_OK;
    if (key_state == STOR_KEY_ACTIVE && state->storage != NULL)
        rc = stor_engine_key_note(state->storage->engine, entry, version, err);
    return rc == VD_OK ? stor_keys_put_version(state->keys, entry, entry + STOR_KEY_ID_BYTES,
                                               key_state, version, err)
                       : rc;
}

/* The active one first: there is one all the time. */
static int keys_take(state_t *state, const vdp_keys_opened_t *opened, vd_slice_t body,
                     vd_error_t *err)
{
    static const stor_key_state_t states[] = {STOR_KEY_ACTIVE, STOR_KEY_DECRYPT_ONLY,
                                              STOR_KEY_RETIRING};
    if (opened->count == 0 || opened->count > STOR_KEYS_MAX ||
        body.len != (size_t)opened->count * KEY_ENTRY_BYTES)
        return vd_error_set(err, VD_ERR_PROTOCOL, "the key holder's answer is malformed");
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < 2 * opened->count; i++) {
        const uint8_t *entry = body.data + (size_t)(i % opened->count) * KEY_ENTRY_BYTES;
        uint8_t number = entry[STOR_KEY_ID_BYTES + STOR_KEY_BYTES];
        if (number >= VD_COUNT_OF(states))
            return vd_error_set(err, VD_ERR_PROTOCOL, "a key has an unknown state");
        if ((states[number] == STOR_KEY_ACTIVE) == (i < opened->count))
            rc = key_take(state, entry, states[number], err);
    }
    return rc;
}

static int answer_read(state_t *state, vd_slice_t packet, vd_error_t *err)
{
    vdp_envelope_t envelope;
    vd_slice_t rest, body;
    int rc = vdp_decode_envelope(packet, &envelope, &rest, err);
    if (rc != VD_OK)
        return rc;
    if (envelope.id == VDP_FAILURE) {
        vdp_failure_t failure = {0};
        rc = vdp_decode(&vdp_failure, rest, &failure, &body, err);
        if (rc == VD_OK)
            rc = vdp_failure_to(&failure, err);
        return rc == VD_OK ? vd_error_set(err, VD_ERR_PROTOCOL, "a failure without a code") : rc;
    }
    vdp_keys_opened_t opened = {0};
    if (envelope.id != VDP_KEYS_OPENED)
        return vd_error_set(err, VD_ERR_PROTOCOL, "message %u instead of keys", envelope.id);
    rc = vdp_decode(&vdp_keys_opened, rest, &opened, &body, err);
    return rc == VD_OK ? keys_take(state, &opened, body, err) : rc;
}

/* The user as whom the key holder must run. */
static int64_t holder_uid(const vd_daemon_t *daemon)
{
    int64_t uid = vd_daemon_uid_of(daemon, "veddb-rotated");
    return uid >= 0 ? uid : (int64_t)geteuid();
}

static int keys_ask(state_t *state, bool bootstrap, vd_error_t *err)
{
    char path[PATH_MAX];
    vd_buf_t ask, reply;
    vdp_envelope_t envelope = {.id = VDP_KEYS_OPEN, .request_id = 1};
    vdp_keys_open_t open = {.bootstrap = bootstrap,
                            .highest_version = state->storage == NULL
                                                   ? stor_engine_keys_highest(state->folder)
                                                   : stor_rotation_highest_key(state->storage)};
    (void)vd_daemon_socket_path(state->daemon, "storage-rotated", "keys", path, sizeof path);
    vd_buf_init(&ask, 4096);
    vd_buf_init(&reply, VD_LOCAL_PACKET_MAX);
    int rc = vdp_encode(&ask, &envelope, &vdp_keys_open, &open, VD_SLICE_NULL, err);
    if (rc == VD_OK)
        rc = vd_local_call(path, vd_buf_slice(&ask), KEYS_CALL_MS, holder_uid(state->daemon),
                           &reply, err);
    if (rc == VD_OK)
        rc = answer_read(state, vd_buf_slice(&reply), err);
    vd_wipe(reply.data, reply.cap);
    vd_buf_done(&reply);
    vd_buf_done(&ask);
    return rc;
}

/* A key holder that can't be reached may be starting; one that refuses has said why. */
static bool is_worth_waiting(int rc)
{
    return rc == VD_ERR_HOST_UNREACHABLE || rc == VD_ERR_CLOSED || rc == VD_ERR_IO ||
           rc == VD_ERR_AGAIN || rc == VD_ERR_NETWORK_TIMEOUT;
}

static int keys_fetch(state_t *state, bool bootstrap, vd_error_t *err)
{
    uint64_t give_up_ms = vd_monotonic_ms() + KEYS_WAIT_MS;
    for (;;) {
        int rc = keys_ask(state, bootstrap, err);
        if (rc == VD_OK || !is_worth_waiting(rc) || vd_monotonic_ms() > give_up_ms)
            return rc;
        vd_error_clear(err);
        if (!vd_daemon_pause(state->daemon, KEYS_RETRY_MS))
            return vd_error_set(err, VD_ERR_CLOSED, "told to stop");
    }
}

/* Again, for a rotation: on its thread. */
static int keys_fetch_again(void *context, vd_error_t *err)
{
    return keys_ask(context, false, err);
}

/* ---- settings ---- */

/* The same as the gateway's. */
static void address_read(state_t *state)
{
    const vd_config_t *config = vd_daemon_config(state->daemon);
    const char *address = vd_config_string(config, "node.address");
    const char *listen = vd_config_string(config, "gateway.listen");
    bool brackets = address[0] == 0 && strchr(listen, ':') != NULL;
    if (address[0] != 0)
        (void)snprintf(state->address, sizeof state->address, "%s", address);
    else
        (void)snprintf(state->address, sizeof state->address, "%s%s%s:%lld", brackets ? "[" : "",
                       listen, brackets ? "]" : "",
                       (long long)vd_config_number(config, "gateway.port"));
}

static stor_settings_t settings_read(state_t *state)
{
    const vd_config_t *config = vd_daemon_config(state->daemon);
    address_read(state);
    uint64_t threads = (uint64_t)vd_config_number(config, "storage.threads");
    if (threads == 0)
        threads = vd_machine_cores();
    return (stor_settings_t){
        .threads = threads,
        .cursor_idle_max_ms = (uint64_t)vd_config_number(config, "storage.cursor_timeout"),
        .session_idle_max_ms = (uint64_t)vd_config_number(config, "storage.session_timeout"),
        .transaction_lifetime_ms =
            (uint64_t)vd_config_number(config, "storage.transaction_lifetime"),
        .journal_max_bytes = (uint64_t)vd_config_number(config, "storage.journal_max"),
        .scrub_period_ms = (uint64_t)vd_config_number(config, "storage.scrub"),
        .ttl_period_ms = (uint64_t)vd_config_number(config, "storage.ttl_period"),
        .replica_set = vd_config_string(config, "node.replica_set"),
        .node_name = vd_config_string(config, "node.name"),
        .lease_ms = (uint64_t)vd_config_number(config, "replication.lease"),
        .address = state->address,
        .data_folder = state->folder,
        .audit = vd_config_bool(config, "audit.enabled"),
        .audit_filter = vd_config_string(config, "audit.filter"),
        .audit_reads = vd_config_bool(config, "audit.reads"),
        .audit_shed = strcmp(vd_config_string(config, "audit.on_full"), "shed") == 0,
        .audit_backlog_max_bytes = (uint64_t)vd_config_number(config, "audit.backlog_max"),
        .replicated = vd_config_number(config, "replication.port") != 0,
        .test_faults = vd_config_bool(config, "test.faults"),
    };
}

/* Half of the node's memory is the engine's; the other half is for requests, links, the rest. */
static uint64_t cache_bytes(const vd_config_t *config)
{
    uint64_t cache = (uint64_t)vd_config_number(config, "storage.cache");
    uint64_t node = (uint64_t)vd_config_number(config, "node.memory");
    if (cache == 0)
        cache = (node == 0 ? vd_machine_memory_bytes() / 2 : node) / 2;
    return cache < CACHE_MIN_BYTES ? CACHE_MIN_BYTES : cache;
}

/* ---- life ---- */

static int prepare(vd_daemon_t *daemon, void **state_p, vd_error_t *err)
{
    const char *root = vd_daemon_folder(daemon, "node.folder");
    state_t *state = vd_xalloc(sizeof *state);
    *state_p = state;
    state->daemon = daemon;
    state->keys = stor_keys_create();
    if (snprintf(state->folder, sizeof state->folder, "%s/data", root) >= (int)sizeof state->folder)
        return vd_error_set(err, VD_ERR_CONFIG, "node.folder is too long");
    if (mkdir(root, 0711) != 0 && errno != EEXIST)
        return vd_error_set_errno(err, "can't make folder %s", root);
    int rc = vd_daemon_make_folder(daemon, state->folder, err);
    const char *backups = vd_daemon_folder(daemon, "backup.folder");
    return rc == VD_OK && *backups != '\0' ? vd_daemon_make_folder(daemon, backups, err) : rc;
}

static int backups_start(state_t *state, vd_error_t *err)
{
    const vd_config_t *config = vd_daemon_config(state->daemon);
    char folder[PATH_MAX], shown[PATH_MAX];
    const char *configured = vd_daemon_folder(state->daemon, "backup.folder");
    if (snprintf(folder, sizeof folder, "%s%s", *configured != '\0' ? configured : state->folder,
                 *configured != '\0' ? "" : "/backups") >= (int)sizeof folder)
        return vd_error_set(err, VD_ERR_CONFIG, "backup.folder is too long");
    (void)snprintf(shown, sizeof shown, "%s%s",
                   vd_config_string(config, *configured != '\0' ? "backup.folder" : "node.folder"),
                   *configured != '\0' ? "" : "/data/backups");
    stor_backups_options_t options = {.folder = folder,
                                      .shown = shown,
                                      .data_folder = state->folder,
                                      .node = vd_config_string(config, "node.name"),
                                      .rate = (uint64_t)vd_config_number(config, "backup.rate")};
    return stor_backups_start(state->storage, &options, &state->storage->backups, err);
}

static int start(vd_daemon_t *daemon, void *context, vd_error_t *err)
{
    state_t *state = context;
    const vd_config_t *config = vd_daemon_config(daemon);
    stor_settings_t settings = settings_read(state);
    stor_storage_options_t options = {
        .folder = state->folder,
        .cache_bytes = cache_bytes(config),
        .reserve_min_bytes = (uint64_t)vd_config_number(config, "storage.reserve"),
        .checkpoint_ms = (uint64_t)vd_config_number(config, "storage.checkpoint"),
        .bootstrap = !stor_engine_exists(state->folder),
    };
    char path[PATH_MAX], versions[PATH_MAX], detail[128];
    uint64_t began_ms = vd_monotonic_ms();
    (void)vd_daemon_socket_path(daemon, "storage-gateway", VDP_VERSIONS_FILE, versions,
                                sizeof versions);
    options.versions = versions;
    int rc = keys_fetch(state, options.bootstrap, err);
    if (rc == VD_OK && !stor_keys_memory_locked(state->keys))
        vd_log(VD_LOG_WARN, "data keys are not in locked memory: raise RLIMIT_MEMLOCK",
               "keys_may_be_swapped=%d", 1);
    if (rc == VD_OK)
        rc = stor_storage_open(&options, &settings, state->keys, &state->storage, err);
    if (rc == VD_OK)
        rc = stor_keeper_start(state->storage, daemon, err);
    if (rc == VD_OK) {
        if (settings.audit) {
            (void)vd_daemon_socket_path(daemon, "storage-rotated", "audit", path, sizeof path);
            rc = stor_audit_link_start(state->storage, daemon, path, &state->storage->audit_link,
                                       err);
        }
    }
    if (rc == VD_OK) {
        stor_rotation_options_t rotation = {.keys_fetch = keys_fetch_again, .context = state};
        rc = stor_rotation_start(state->storage, &rotation, &state->storage->rotation, err);
    }
    if (rc == VD_OK)
        rc = backups_start(state, err);
    if (rc == VD_OK) {
        (void)vd_daemon_socket_path(daemon, "storage-rotated", "rotation", path, sizeof path);
        rc = stor_rotation_link_start(state->storage, state->storage->rotation, path,
                                      &state->storage->rotation_link, err);
    }
    if (rc == VD_OK) {
        atomic_store(&state->storage->ready, true);
        (void)vd_daemon_socket_path(daemon, "storage-gateway", "operation", path, sizeof path);
        rc = stor_inbox_start(state->storage, daemon, path, err);
    }
    if (rc == VD_OK && settings.replicated) {
        (void)vd_daemon_socket_path(daemon, "storage-replicad", "replication", path, sizeof path);
        rc = stor_replication_start(state->storage, daemon, path, err);
    }
    if (rc != VD_OK)
        return rc;
    (void)snprintf(
        detail, sizeof detail, "%s in %llu ms, cache %llu MiB, %llu workers",
        options.bootstrap ? "made" : "opened", (unsigned long long)(vd_monotonic_ms() - began_ms),
        (unsigned long long)(options.cache_bytes >> 20), (unsigned long long)settings.threads);
    vd_daemon_ready(daemon, detail);
    return VD_OK;
}

static void drained(void *context)
{
    state_t *state = context;
    vd_daemon_drained(state->daemon);
}

static void drain(vd_daemon_t *daemon, void *context)
{
    state_t *state = context;
    if (state->storage != NULL && state->storage->inbox != NULL)
        stor_inbox_drain(state->storage->inbox, drained, state);
    else
        vd_daemon_drained(daemon);
}

static void stop(vd_daemon_t *daemon, void *context)
{
    (void)daemon; /* its parts go with it */
    state_t *state = context;
    vd_error_t err = VD_ERROR_INIT;
    if (state->storage != NULL) {
        stor_replication_stop(state->storage); /* first: requests may wait for replicad */
        stor_inbox_stop(&state->storage->inbox);
        stor_backups_halt(state->storage->backups);
        stor_rotation_link_stop(&state->storage->rotation_link);
        stor_backups_stop(&state->storage->backups);
        stor_rotation_stop(&state->storage->rotation);
        stor_keeper_stop(&state->storage->keeper);
        stor_audit_link_stop(&state->storage->audit_link);
    }
    if (stor_storage_close(&state->storage, &err) != VD_OK) {
        char text[VD_ERROR_MESSAGE_SIZE + 64];
        vd_log(VD_LOG_ERROR, "storage was not closed cleanly", "error=%s",
               vd_log_quote(vd_slice_str(err.message), text, sizeof text));
    }
    stor_keys_destroy(&state->keys);
    vd_free(state);
}

static int status(vd_daemon_t *daemon, void *context, vd_buf_t *out)
{
    (void)daemon; /* the state has all */
    const state_t *state = context;
    if (state->storage == NULL)
        return vd_buf_printf(out, "{}");
    stor_engine_t *engine = state->storage->engine;
    stor_engine_stats_t stats;
    stor_inbox_stats_t inbox;
    stor_engine_stats(engine, &stats);
    stor_inbox_stats(state->storage, &inbox);
    return vd_buf_printf(
        out,
        "{\"newest\":%llu,\"visible\":%llu,\"durable\":%llu,\"inflight\":%llu,\"parked\":%llu,"
        "\"queued\":%llu,\"running\":%llu,\"workers\":%llu,\"flushes\":%llu,"
        "\"cache_bytes\":%llu,\"cache_bytes_max\":%llu,\"free_bytes\":%llu,"
        "\"reserve_bytes\":%llu,\"reserve_reached\":%s}",
        (unsigned long long)stor_engine_newest(engine),
        (unsigned long long)stor_engine_visible(engine),
        (unsigned long long)stor_engine_durable(engine), (unsigned long long)inbox.inflight,
        (unsigned long long)inbox.parked,
        (unsigned long long)(inbox.queued_quick + inbox.queued_long),
        (unsigned long long)inbox.running, (unsigned long long)inbox.workers,
        (unsigned long long)stats.flushes, (unsigned long long)stats.cache_bytes_used,
        (unsigned long long)stats.cache_bytes_max, (unsigned long long)stats.free_bytes,
        (unsigned long long)stats.reserve_bytes, stats.reserve_reached ? "true" : "false");
}

static int backup_ask(state_t *state, vd_slice_t verb, vd_slice_t name, vd_buf_t *json,
                      vd_error_t *err)
{
    static const char *const verbs[] = {"create", "verify", "remove"};
    stor_backups_t *backups = state->storage == NULL ? NULL : state->storage->backups;
    uint64_t number = 0;
    if (backups == NULL)
        return vd_error_set(err, VD_ERR_AGAIN, "storage is starting");
    for (size_t i = 0; i < VD_COUNT_OF(verbs); i++) {
        if (!vd_slice_is(verb, verbs[i]))
            continue;
        int rc = stor_backups_begin(backups, (stor_backup_verb_t)i, name, &number, err);
        if (rc != VD_OK)
            return rc;
    }
    return stor_backups_list(backups, json);
}

static void ask(vd_daemon_t *daemon, void *context, uint64_t ticket, vd_slice_t verb,
                vd_slice_t argument, vd_slice_t argument2)
{
    state_t *state = context;
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t json;
    (void)argument2; /* no question has one */
    vd_buf_init(&json, VD_STATUS_MAX_BYTES);
    int rc = VD_OK;
    if (verb.len > 7 && memcmp(verb.data, "backup.", 7) == 0)
        rc = backup_ask(state, vd_slice(verb.data + 7, verb.len - 7), argument, &json, &err);
    else if (!vd_slice_is(verb, "explain"))
        rc = vd_error_set(&err, VD_ERR_COMMAND_NOT_FOUND, "storage knows no such question");
    else if (state->storage == NULL || state->storage->audit == NULL)
        rc = vd_error_set(&err, VD_ERR_ILLEGAL_OPERATION,
                          "there is no audit log: audit.enabled is false");
    else
        rc = stor_audit_explain(state->storage->audit, &json, &err);
    vd_daemon_answer(daemon, ticket, rc, err.message,
                     rc == VD_OK ? vd_buf_slice(&json) : VD_SLICE_NULL);
    vd_buf_done(&json);
}

int main(int argc, char **argv)
{
    static const vd_program_t program = {
        .program = "veddb-storaged",
        .letter = 't',
        .summary = "documents: storage engine, query language, journal; no network",
        .network = false,
        .openssl_memory = VD_OPENSSL_ALL,
        .prepare = prepare,
        .start = start,
        .drain = drain,
        .stop = stop,
        .status = status,
        .ask = ask,
    };
    stor_engine_warm_up();
    return vd_daemon_main(&program, argc, argv);
}
