/* veddb-gatewayd/main.c — options into settings, and one call. */
#include "libcommon/base/log.h"
#include "libcommon/base/machine.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/daemon.h"
#include "proto/versions.h"
#include "veddb-gatewayd/certificates.h"
#include "veddb-gatewayd/commands/limits.h"
#include "veddb-gatewayd/compress.h"
#include "veddb-gatewayd/gatewayd.h"
#include "veddb-gatewayd/token_ask.h"

#include <stdio.h>
#include <unistd.h>

#define LIMITS_JSON_MAX   (256 * 1024)
#define RESULT_CACHE_PART 16 /* of the node's memory */

typedef struct {
    gate_t *gate;
    vd_daemon_t *daemon;
    vd_daemon_slot_t *slots[GATE_THREADS_MAX];
} state_t;

static void ready(void *context, const char *detail)
{
    state_t *state = context;
    vd_daemon_ready(state->daemon, detail);
}

static void drained(void *context)
{
    state_t *state = context;
    vd_daemon_drained(state->daemon);
}

static void cut_off(void *context)
{
    state_t *state = context;
    vd_daemon_cut_off(state->daemon);
}

static void beat(void *context, uint32_t thread, bool busy)
{
    state_t *state = context;
    if (state->slots[thread] != NULL)
        vd_daemon_beat(state->slots[thread], busy);
}

#define KEPT_LIMITS 1 /* format */

static void keep(void *context, vd_slice_t bytes)
{
    state_t *state = context;
    vd_error_t err = VD_ERROR_INIT;
    if (vd_daemon_keep(state->daemon, KEPT_LIMITS, bytes, &err) != VD_OK)
        vd_log(VD_LOG_ERROR, "limits are not kept over a restart of the gateway", "error=\"%s\"",
               err.message);
}

static void kept(vd_daemon_t *daemon, void *context, uint64_t format, vd_slice_t bytes)
{
    (void)daemon; /* the state has it */
    state_t *state = context;
    if (format == KEPT_LIMITS)
        gate_limits_kept(state->gate, bytes);
}

static void copy(char *out, size_t size, const char *text)
{
    (void)snprintf(out, size, "%s", text); /* bounded by the option's own limit */
}

static int read_compressors(const char *list, gate_settings_t *settings, vd_error_t *err)
{
    while (*list != 0) {
        size_t len = strcspn(list, ",");
        uint8_t id;
        if (len != 0) {
            if (!gate_compressor_by_name(vd_slice(list, len), &id) || id == GATE_COMPRESSOR_NOOP)
                return vd_error_set(err, VD_ERR_CONFIG,
                                    "gateway.compressors: \"%.*s\" is not snappy, zlib or zstd",
                                    (int)len, list);
            bool there = false;
            for (uint32_t i = 0; i < settings->compressor_count; i++)
                there = there || settings->compressors[i] == id;
            if (!there)
                settings->compressors[settings->compressor_count++] = id;
        }
        list += len;
        list += *list == ',';
    }
    return VD_OK;
}

/* A small part of the node's memory at most: most of that is storage's. None where every read is
 * audited: storage does that. */
static uint64_t result_cache_bytes(const vd_config_t *config)
{
    uint64_t wanted = (uint64_t)vd_config_number(config, "gateway.result_cache");
    uint64_t node = (uint64_t)vd_config_number(config, "node.memory");
    uint64_t most = (node == 0 ? vd_machine_memory_bytes() / 2 : node) / RESULT_CACHE_PART;
    if (vd_config_bool(config, "audit.enabled") && vd_config_bool(config, "audit.reads"))
        return 0;
    return wanted < most ? wanted : most;
}

static void read_oidc(const vd_config_t *config, gate_oidc_settings_t *oidc)
{
    copy(oidc->issuer, sizeof oidc->issuer, vd_config_string(config, "oidc.issuer"));
    copy(oidc->audience, sizeof oidc->audience, vd_config_string(config, "oidc.audience"));
    copy(oidc->jwks_file, sizeof oidc->jwks_file, vd_config_string(config, "oidc.jwks_file"));
    copy(oidc->principal_claim, sizeof oidc->principal_claim,
         vd_config_string(config, "oidc.principal_claim"));
    copy(oidc->name_prefix, sizeof oidc->name_prefix, vd_config_string(config, "oidc.name_prefix"));
    copy(oidc->client_id, sizeof oidc->client_id, vd_config_string(config, "oidc.client_id"));
}

static void read_tokens(const vd_config_t *config, gate_settings_t *settings)
{
    gate_token_settings_t *tokens = &settings->tokens;
    copy(tokens->issuer, sizeof tokens->issuer, vd_config_string(config, "tokens.issuer"));
    copy(tokens->audience, sizeof tokens->audience, vd_config_string(config, "tokens.audience"));
    tokens->access_ms = (uint64_t)vd_config_number(config, "tokens.access_lifetime");
    tokens->refresh_ms = (uint64_t)vd_config_number(config, "tokens.refresh_lifetime");
    tokens->key_ms = (uint64_t)vd_config_number(config, "tokens.key_lifetime");
    tokens->lease_ms = (uint64_t)vd_config_number(config, "tokens.lease");
    if (tokens->lease_ms == 0)
        vd_log(VD_LOG_WARN,
               "tokens.lease is 0: A MEMBER THAT IS CUT OFF GOES ON TAKING TOKENS THAT WERE "
               "REVOKED",
               "node=%s", settings->node_name);
    tokens->with_data_keys = vd_config_bool(config, "tokens.rotate_with_data_keys");
}

static void read_users_lease(const vd_config_t *config, gate_settings_t *settings)
{
    settings->users_lease_ms = (uint64_t)vd_config_number(config, "users.lease");
    if (settings->users_lease_ms == 0)
        vd_log(VD_LOG_WARN,
               "users.lease is 0: A SECONDARY THAT IS CUT OFF GOES ON SERVING USERS WHO WERE "
               "DROPPED, BY THEIR OLD PASSWORDS AND PRIVILEGES",
               "node=%s", settings->node_name);
}

/* What of storage's run folder is reached, and how. */
static void read_paths(vd_daemon_t *daemon, gate_settings_t *settings)
{
    (void)vd_daemon_socket_path(daemon, "storage-gateway", "operation", settings->storage_path,
                                sizeof settings->storage_path);
    if (vd_daemon_passed_fd(daemon, "FILES") < 0)
        (void)vd_daemon_socket_path(daemon, "storage-gateway", VDP_VERSIONS_FILE,
                                    settings->versions_path, sizeof settings->versions_path);
    else /* the supervisor opens it, by its name */
        (void)snprintf(
            settings->versions_path, sizeof settings->versions_path, "%s/storage-gateway/%s",
            vd_config_string(vd_daemon_config(daemon), "node.run_folder"), VDP_VERSIONS_FILE);
}

static int read_tls(const vd_config_t *config, gate_settings_t *settings, vd_error_t *err)
{
    const char *verify = vd_config_string(config, "tls.client_certificates");
    settings->tls = (vd_tls_options_t){
        .certificate_file = vd_config_string(config, "tls.certificate_file"),
        .key_file = vd_config_string(config, "tls.key_file"),
        .ca_file = vd_config_string(config, "tls.ca_file"),
        .crl_file = vd_config_string(config, "tls.crl_file"),
        .ocsp_file = vd_config_string(config, "tls.ocsp_file"),
        .suites = vd_config_string(config, "tls.suites"),
        .server = true,
        .verify = strcmp(verify, "required") == 0   ? 2
                  : strcmp(verify, "optional") == 0 ? 1
                                                    : 0,
        .tls13_only = strcmp(vd_config_string(config, "tls.min_version"), "1.3") == 0,
    };
    if (settings->tls.certificate_file[0] == 0 || settings->tls.key_file[0] == 0)
        return vd_error_set(
            err, VD_ERR_CONFIG,
            "tls.certificate_file and tls.key_file must be set: clients are served over TLS only");
    return VD_OK;
}

static int read_settings(vd_daemon_t *daemon, gate_settings_t *settings, vd_error_t *err)
{
    const vd_config_t *config = vd_daemon_config(daemon);
    copy(settings->node_name, sizeof settings->node_name, vd_config_string(config, "node.name"));
    copy(settings->replica_set, sizeof settings->replica_set,
         vd_config_string(config, "node.replica_set"));
    copy(settings->address, sizeof settings->address, vd_config_string(config, "node.address"));
    copy(settings->listen, sizeof settings->listen, vd_config_string(config, "gateway.listen"));
    copy(settings->bootstrap_file, sizeof settings->bootstrap_file,
         vd_config_string(config, "gateway.bootstrap_file"));
    settings->port = (uint16_t)vd_config_number(config, "gateway.port");
    settings->http_port = (uint16_t)vd_config_number(config, "gateway.http_port");
    settings->listen_fd = vd_daemon_passed_fd(daemon, "MONGODB");
    settings->http_fd = vd_daemon_passed_fd(daemon, "HTTPS");
    int64_t threads = vd_config_number(config, "gateway.threads"),
            cores = sysconf(_SC_NPROCESSORS_ONLN);
    settings->threads = threads != 0 ? (uint32_t)threads : cores < 4 ? 1 : (uint32_t)(cores / 2);
    settings->connections_max = (uint32_t)vd_config_number(config, "gateway.connections_max");
    settings->connections_per_address_max =
        (uint32_t)vd_config_number(config, "gateway.connections_per_address_max");
    settings->login_rate = (uint32_t)vd_config_number(config, "gateway.login_rate");
    for (unsigned i = 0; i < GATE_LIMITS; i++)
        settings->limits.values[i] = (uint64_t)vd_config_number(config, gate_limit_rows[i].option);
    settings->handshake_timeout_ms =
        (uint64_t)vd_config_number(config, "gateway.handshake_timeout");
    settings->storage_wait_ms = (uint64_t)vd_config_number(config, "gateway.storage_wait");
    settings->held_max_bytes = (uint64_t)vd_config_number(config, "gateway.held_max");
    settings->session_timeout_ms = (uint64_t)vd_config_number(config, "storage.session_timeout");
    settings->audit = vd_config_bool(config, "audit.enabled");
    settings->lockout_failures = (uint32_t)vd_config_number(config, "gateway.lockout_failures");
    settings->lockout_ms = (uint64_t)vd_config_number(config, "gateway.lockout");
    settings->insecure_dev = vd_config_bool(config, "tls.insecure_dev");
    settings->test_faults = vd_config_bool(config, "test.faults");
    settings->result_cache_bytes = result_cache_bytes(config);
    if (settings->insecure_dev)
        vd_log(VD_LOG_WARN,
               "tls.insecure_dev: CLIENTS MAY CONNECT WITHOUT TLS, passwords' proofs and "
               "documents go in the clear; for development on this machine only",
               "listen=%s", settings->listen);
    read_oidc(config, &settings->oidc);
    read_tokens(config, settings);
    read_users_lease(config, settings);
    read_paths(daemon, settings);
    int rc = read_tls(config, settings, err);
    return rc == VD_OK
               ? read_compressors(vd_config_string(config, "gateway.compressors"), settings, err)
               : rc;
}

/* Certificates are read while we may still read them. */
static int prepare(vd_daemon_t *daemon, void **state_p, vd_error_t *err)
{
    state_t *state = vd_xalloc(sizeof *state);
    gate_settings_t *settings = vd_xalloc(sizeof *settings);
    gate_events_t events = {ready, drained, beat, cut_off, keep, state};
    state->daemon = daemon;
    *state_p = state;
    int rc = read_settings(daemon, settings, err);
    if (rc == VD_OK)
        rc = gate_create(settings, &events, &state->gate, err);
    vd_free(settings);
    return rc;
}

static int start(vd_daemon_t *daemon, void *context, vd_error_t *err)
{
    state_t *state = context;
    for (uint32_t i = 1; i < state->gate->settings.threads && i < GATE_THREADS_MAX; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "loop-%u", i);
        state->slots[i] = vd_daemon_slot(daemon, name);
    }
    return gate_start(state->gate, vd_daemon_loop(daemon), err);
}

static void drain(vd_daemon_t *daemon, void *context)
{
    (void)daemon; /* the state has it */
    state_t *state = context;
    gate_drain(state->gate);
}

static void stop(vd_daemon_t *daemon, void *context)
{
    (void)daemon; /* the state has it */
    state_t *state = context;
    gate_destroy(&state->gate);
    vd_free(state);
}

static int status(vd_daemon_t *daemon, void *context, vd_buf_t *out)
{
    (void)daemon; /* the state has it */
    state_t *state = context;
    return gate_status(state->gate, out);
}

typedef struct {
    vd_daemon_t *daemon;
    uint64_t ticket;
} question_t;

static void reloaded(void *context, int code, const char *message)
{
    question_t *question = context;
    vd_daemon_answer(question->daemon, question->ticket, code, message, VD_SLICE_NULL);
    vd_free(question);
}

static void tokens_answered(void *context, int code, const char *message, vd_slice_t json)
{
    question_t *question = context;
    vd_daemon_answer(question->daemon, question->ticket, code, message, json);
    vd_free(question);
}

static void ask_limits(vd_daemon_t *daemon, state_t *state, uint64_t ticket, vd_slice_t words)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t json;
    vd_buf_init(&json, LIMITS_JSON_MAX);
    int rc = gate_limits_ask(state->gate, words, &json, &err);
    vd_daemon_answer(daemon, ticket, rc, err.message, vd_buf_slice(&json));
    vd_buf_done(&json);
}

static void ask(vd_daemon_t *daemon, void *context, uint64_t ticket, vd_slice_t verb,
                vd_slice_t argument, vd_slice_t argument2)
{
    state_t *state = context;
    bool tokens = vd_slice_is(verb, "tokens");
    if (vd_slice_is(verb, "limits")) {
        ask_limits(daemon, state, ticket, argument);
        return;
    }
    if (!tokens && !vd_slice_is(verb, "reload")) {
        vd_daemon_answer(daemon, ticket, VD_ERR_COMMAND_NOT_FOUND, "gatewayd knows no such verb",
                         VD_SLICE_NULL);
        return;
    }
    question_t *question = vd_xalloc(sizeof *question);
    *question = (question_t){daemon, ticket};
    if (tokens)
        gate_token_ask(state->gate, vd_daemon_loop(daemon), argument, argument2, tokens_answered,
                       question);
    else
        gate_certificates_ask(state->gate, vd_daemon_loop(daemon), reloaded, question);
}

int main(int argc, char **argv)
{
    static const vd_program_t program = {
        .program = "veddb-gatewayd",
        .letter = 'g',
        .summary = "MongoDB's wire protocol over TLS: logins, privileges, limits; holds no data",
        .network = true,
        .openssl_memory = VD_OPENSSL_KEYS,
        .prepare = prepare,
        .start = start,
        .drain = drain,
        .stop = stop,
        .status = status,
        .kept = kept,
        .ask = ask,
    };
    return vd_daemon_main(&program, argc, argv);
}
