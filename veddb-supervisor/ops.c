/* veddb-supervisor/ops.c — see ops.h. */
#include "veddb-supervisor/ops.h"

#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "proto/control.h"
#include "veddb-supervisor/control.h"
#include "veddb-supervisor/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NOTED_MAX          127  /* bytes of a question that stand in the audit log */
#define STATUS_WAIT_MS     1000 /* a worker that does not answer is shown without its part */
#define STATUS_CLIENTS_MAX 16
#define STATUS_JSON_MAX    (180 * 1024) /* as proto/operator.md bounds a reply */
#define STATUS_FRAME_MAX   3072         /* of it, around each worker's part */
#define ASKS_MAX           16           /* operators' questions under way at workers */
#define SUP_NOTES_MAX      64
#define SUP_NOTE_BYTES     512
#define NOTES_PERIOD_MS    500
#define ASK_WAIT_MS        30000 /* a hand-over waits for the follower */

_Static_assert(SUP_KIND_COUNT *(VD_STATUS_MAX_BYTES + STATUS_FRAME_MAX) + STATUS_FRAME_MAX <=
                   STATUS_JSON_MAX,
               "the workers' parts fit into one reply");

/* A question that was passed on to a worker. */
typedef struct {
    struct sup_ops *ops;
    uint64_t id; /* of CONTROL_ASK; 0 = free */
    sup_worker_t *worker;
    vd_local_client_t *client;
    uint64_t request_id; /* of the operator */
    vd_source_t *timer;
} ask_t;

struct sup_ops {
    sup_system_t *system;
    vd_local_t *local;
    vd_source_t *gather_timer;
    uint64_t gather_id; /* of the round of questions under way */
    bool gathering;
    size_t waiting_count;
    struct {
        vd_local_client_t *client;
        uint64_t request_id;
    } waiting[STATUS_CLIENTS_MAX];
    uint64_t ask_id; /* of the newest question; begins at a number that no earlier start has used */
    ask_t asks[ASKS_MAX];
    /* For the audit log: kept until rotated has them. */
    char notes[SUP_NOTES_MAX][SUP_NOTE_BYTES];
    size_t note_count;
    uint64_t note_ask; /* the question that carries the first; 0 = none */
    vd_source_t *note_timer;
};

typedef struct {
    sup_ops_t *ops;
    vd_local_client_t *client;
    uint64_t request_id;
    vdp_operator_request_t fields;
} request_t;

static void reply(vd_local_client_t *client, uint64_t request_id, int code, const char *message,
                  vd_slice_t body)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t buf;
    vd_buf_init(&buf, VD_LOCAL_PACKET_MAX);
    vdp_envelope_t envelope = {.id = vdp_operator_reply.id, .request_id = request_id};
    vdp_operator_reply_t fields = {.code = code, .message = vd_slice_str(message)};
    int rc = vdp_encode(&buf, &envelope, &vdp_operator_reply, &fields, body, &err);
    if (rc == VD_OK)
        rc = vd_local_reply(client, vd_buf_slice(&buf), &err);
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "operator was not answered", "code=%d error=\"%s\"", rc, err.message);
    vd_buf_done(&buf);
}

/* ---- status: one round of questions serves everybody who asked meanwhile ---- */

static void gather_finish(sup_ops_t *ops)
{
    vd_buf_t json;
    vd_buf_init(&json, STATUS_JSON_MAX);
    int rc = sup_status_print(ops->system, &json);
    ops->gathering = false;
    vd_loop_remove(&ops->gather_timer);
    for (size_t i = 0; i < ops->waiting_count; i++) {
        reply(ops->waiting[i].client, ops->waiting[i].request_id, rc,
              rc == VD_OK ? "" : "the status is too large",
              rc == VD_OK ? vd_buf_slice(&json) : VD_SLICE_NULL);
        vd_local_drop(ops->waiting[i].client);
    }
    ops->waiting_count = 0;
    vd_buf_done(&json);
}

static void gather_check(sup_ops_t *ops)
{
    for (int i = 0; i < SUP_KIND_COUNT; i++)
        if (ops->system->workers[i].status_pending)
            return;
    gather_finish(ops);
}

static void gather_timeout(void *context)
{
    sup_ops_t *ops = context;
    for (int i = 0; i < SUP_KIND_COUNT; i++) {
        sup_worker_t *worker = &ops->system->workers[i];
        if (worker->status_pending)
            (void)snprintf(worker->status_error, sizeof worker->status_error,
                           "no answer within %d ms", STATUS_WAIT_MS);
        worker->status_pending = false;
    }
    gather_finish(ops);
}

/* Its part is there, or why it is not. */
static void status_ended(sup_worker_t *worker, vd_slice_t json, const char *why)
{
    vd_buf_clear(&worker->status);
    if (json.len > 0 && vd_buf_append_slice(&worker->status, json) != VD_OK)
        why = "the status is too large";
    (void)snprintf(worker->status_error, sizeof worker->status_error, "%s", why);
    worker->status_pending = false;
    if (worker->system->ops->gathering)
        gather_check(worker->system->ops);
}

void sup_ops_status_arrived(sup_worker_t *worker, vd_slice_t json)
{
    bool good = json.len >= 2 && json.data[0] == '{' && json.data[json.len - 1] == '}';
    status_ended(worker, good ? json : VD_SLICE_NULL, good ? "" : "the status is no JSON object");
}

void sup_ops_status_failed(sup_worker_t *worker, const char *why)
{
    status_ended(worker, VD_SLICE_NULL, why);
}

static void verb_status(const request_t *request)
{
    sup_ops_t *ops = request->ops;
    if (ops->waiting_count == STATUS_CLIENTS_MAX) {
        reply(request->client, request->request_id, VD_ERR_FULL,
              "too many are asking for the status", VD_SLICE_NULL);
        return;
    }
    vd_local_hold(request->client);
    ops->waiting[ops->waiting_count].client = request->client;
    ops->waiting[ops->waiting_count++].request_id = request->request_id;
    if (ops->gathering)
        return;
    vd_error_t err = VD_ERROR_INIT;
    if (vd_loop_add_timer(ops->system->loop, STATUS_WAIT_MS, 0, gather_timeout, ops,
                          &ops->gather_timer, &err) != VD_OK) {
        gather_finish(ops); /* without the workers' parts */
        return;
    }
    ops->gathering = true;
    ops->gather_id++;
    for (int i = 0; i < SUP_KIND_COUNT; i++) {
        sup_worker_t *worker = &ops->system->workers[i];
        vd_buf_clear(&worker->status);
        worker->status_error[0] = '\0';
        worker->status_pending = sup_control_ask_status(worker, ops->gather_id);
    }
    gather_check(ops);
}

/* ---- questions for one worker ---- */

static void ask_end(ask_t *ask, int code, const char *message, vd_slice_t json)
{
    if (json.len > STATUS_JSON_MAX)
        code = VD_ERR_FULL, message = "the answer is too large", json = VD_SLICE_NULL;
    reply(ask->client, ask->request_id, code, message, json);
    vd_local_drop(ask->client);
    vd_loop_remove(&ask->timer);
    ask->id = 0;
}

static void ask_timeout(void *context)
{
    ask_t *ask = context;
    char message[128];
    (void)snprintf(message, sizeof message, "%s gave no answer within %d s",
                   ask->worker->kind->name, ASK_WAIT_MS / 1000);
    ask_end(ask, VD_ERR_EXCEEDED_TIME_LIMIT, message, VD_SLICE_NULL);
}

/* ---- notes for the audit log ---- */

static void notes_send(void *context)
{
    sup_ops_t *ops = context;
    sup_worker_t *rotated = &ops->system->workers[SUP_KIND_ROTATED];
    if (ops->note_ask != 0 || ops->note_count == 0)
        return;
    if (sup_control_ask(rotated, ops->ask_id + 1, ASK_WAIT_MS, VD_SLICE_LIT("note"),
                        vd_slice_str(ops->notes[0]), VD_SLICE_NULL))
        ops->note_ask = ++ops->ask_id;
}

void sup_ops_note(sup_system_t *system, const char *atype, const char *format, ...)
{
    sup_ops_t *ops = system->ops;
    vd_error_t err = VD_ERROR_INIT;
    va_list args;
    if (ops == NULL || !vd_config_bool(system->config, "audit.enabled"))
        return;
    if (ops->note_count == SUP_NOTES_MAX) {
        vd_log(VD_LOG_WARN, "a note for the audit log is lost: rotated takes none", "atype=%s",
               atype);
        return;
    }
    char *note = ops->notes[ops->note_count++];
    int len = snprintf(note, SUP_NOTE_BYTES, "%s\t", atype);
    va_start(args, format);
    (void)vsnprintf(note + len, (size_t)(SUP_NOTE_BYTES - len), format, args);
    va_end(args);
    for (char *c = note + len; *c != '\0'; c++)
        if (*c == '\n')
            *c = ' ';
    if (ops->note_timer == NULL && vd_loop_add_timer(system->loop, 1, NOTES_PERIOD_MS, notes_send,
                                                     ops, &ops->note_timer, &err) != VD_OK)
        notes_send(ops);
}

/* Told, or rotated keeps no audit log. */
static void note_answered(sup_ops_t *ops, int code)
{
    ops->note_ask = 0;
    if (code == VD_OK || code == VD_ERR_ILLEGAL_OPERATION) {
        ops->note_count--;
        memmove(ops->notes[0], ops->notes[1], ops->note_count * sizeof ops->notes[0]);
    }
    if (ops->note_count == 0)
        vd_loop_remove(&ops->note_timer);
    else if (code == VD_OK)
        notes_send(ops);
}

bool sup_ops_answered(sup_worker_t *worker, uint64_t request_id, int code, const char *message,
                      vd_slice_t json)
{
    if (request_id != 0 && request_id == worker->system->ops->note_ask) {
        note_answered(worker->system->ops, code);
        return true;
    }
    for (size_t i = 0; request_id != 0 && i < ASKS_MAX; i++) {
        ask_t *ask = &worker->system->ops->asks[i];
        if (ask->id != request_id || ask->worker != worker)
            continue;
        ask_end(ask, code, message, json);
        return true;
    }
    return false;
}

void sup_ops_worker_gone(sup_worker_t *worker)
{
    char message[128];
    (void)snprintf(message, sizeof message,
                   "%s ended before it answered: whether it was done is not known",
                   worker->kind->name);
    if (worker == &worker->system->workers[SUP_KIND_ROTATED])
        worker->system->ops->note_ask = 0; /* told again */
    for (size_t i = 0; i < ASKS_MAX; i++) {
        ask_t *ask = &worker->system->ops->asks[i];
        if (ask->id != 0 && ask->worker == worker)
            ask_end(ask, VD_ERR_CLOSED, message, VD_SLICE_NULL);
    }
}

static ask_t *free_ask(sup_ops_t *ops)
{
    for (size_t i = 0; i < ASKS_MAX; i++)
        if (ops->asks[i].id == 0)
            return &ops->asks[i];
    return NULL;
}

/* The operator's argument2 is the worker's two arguments with a line feed between them. */
static void ask_worker(const request_t *request, sup_worker_t *worker, vd_slice_t verb)
{
    sup_ops_t *ops = request->ops;
    vd_slice_t first = request->fields.argument2, second = VD_SLICE_NULL;
    const uint8_t *cut = first.len == 0 ? NULL : memchr(first.data, '\n', first.len);
    ask_t *ask = free_ask(ops);
    vd_error_t err = VD_ERROR_INIT;
    char message[128];
    if (cut != NULL) {
        size_t len = (size_t)(cut - first.data);
        second = vd_slice(cut + 1, first.len - len - 1);
        first.len = len;
    }
    if (ask == NULL) {
        reply(request->client, request->request_id, VD_ERR_FULL, "too many questions are under way",
              VD_SLICE_NULL);
        return;
    }
    *ask = (ask_t){
        .ops = ops, .worker = worker, .client = request->client, .request_id = request->request_id};
    if (!sup_control_ask(worker, ops->ask_id + 1, ASK_WAIT_MS, verb, first, second)) {
        (void)snprintf(message, sizeof message, "%s does not run at present: see vedctl status",
                       worker->kind->name);
        reply(request->client, request->request_id, VD_ERR_CLOSED, message, VD_SLICE_NULL);
        return;
    }
    ask->id = ++ops->ask_id;
    vd_local_hold(request->client);
    if (vd_loop_add_timer(ops->system->loop, ASK_WAIT_MS, 0, ask_timeout, ask, &ask->timer, &err) !=
        VD_OK)
        ask_end(ask, err.code, err.message, VD_SLICE_NULL); /* its answer will find nobody */
}

/* The operator's argument says what: the filter is storage's to explain, the log is rotated's. */
static void verb_audit(const request_t *request)
{
    static const char *const questions[] = {"status", "verify", "tail", "search", "prove"};
    sup_worker_t *workers = request->ops->system->workers;
    if (vd_slice_is(request->fields.argument, "explain")) {
        ask_worker(request, &workers[SUP_KIND_STORAGED], request->fields.argument);
        return;
    }
    for (size_t i = 0; i < VD_COUNT_OF(questions); i++) {
        if (vd_slice_is(request->fields.argument, questions[i])) {
            ask_worker(request, &workers[SUP_KIND_ROTATED], request->fields.argument);
            return;
        }
    }
    reply(request->client, request->request_id, VD_ERR_COMMAND_NOT_FOUND,
          "the audit log is asked for status, verify, tail, search, prove, explain", VD_SLICE_NULL);
}

/* The operator's argument says what. */
static void verb_keys(const request_t *request)
{
    static const char *const questions[] = {"status",   "rotate",  "pause",  "resume", "cancel",
                                            "throttle", "history", "verify", "rewrap"};
    char verb[32];
    for (size_t i = 0; i < VD_COUNT_OF(questions); i++) {
        if (vd_slice_is(request->fields.argument, questions[i])) {
            (void)snprintf(verb, sizeof verb, "keys.%s", questions[i]);
            ask_worker(request, &request->ops->system->workers[SUP_KIND_ROTATED],
                       vd_slice_str(verb));
            return;
        }
    }
    reply(request->client, request->request_id, VD_ERR_COMMAND_NOT_FOUND,
          "keys are asked for status, rotate, pause, resume, cancel, throttle, history, verify, "
          "rewrap",
          VD_SLICE_NULL);
}

/* argument: what; argument2: the backup's name, or nothing. */
static void verb_backup(const request_t *request)
{
    static const char *const questions[] = {"create", "list", "verify", "remove"};
    char verb[32];
    for (size_t i = 0; i < VD_COUNT_OF(questions); i++) {
        if (vd_slice_is(request->fields.argument, questions[i])) {
            (void)snprintf(verb, sizeof verb, "backup.%s", questions[i]);
            ask_worker(request, &request->ops->system->workers[SUP_KIND_STORAGED],
                       vd_slice_str(verb));
            return;
        }
    }
    reply(request->client, request->request_id, VD_ERR_COMMAND_NOT_FOUND,
          "backups are asked for create, list, verify, remove", VD_SLICE_NULL);
}

static void verb_replication(const request_t *request)
{
    sup_worker_t *worker = &request->ops->system->workers[SUP_KIND_REPLICAD];
    if (worker->joins)
        ask_worker(request, worker, request->fields.argument);
    else
        reply(request->client, request->request_id, VD_ERR_NO_REPLICATION_ENABLED,
              "this node stays alone: replication.port is not set", VD_SLICE_NULL);
}

/* ---- the other verbs ---- */

static sup_worker_t *named_worker(const request_t *request)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%.*s", VD_SLICE_FMT(request->fields.argument));
    int kind = sup_kind_by_name(name);
    if (kind >= 0 && !request->ops->system->workers[kind].joins)
        kind = -1;
    if (kind < 0)
        reply(request->client, request->request_id, VD_ERR_BAD_VALUE,
              "no worker of that name here: see vedctl status", VD_SLICE_NULL);
    return kind < 0 ? NULL : &request->ops->system->workers[kind];
}

/* True, and answered, when workers are not ours to start and stop. */
static bool refused_in_watch(const request_t *request)
{
    if (request->ops->system->watch)
        reply(request->client, request->request_id, VD_ERR_ILLEGAL_OPERATION,
              "workers run in their own containers: stop and restart them there", VD_SLICE_NULL);
    return request->ops->system->watch;
}

static void verb_stop(const request_t *request)
{
    reply(request->client, request->request_id, VD_OK, "stopping", VD_SLICE_NULL);
    sup_system_stop(request->ops->system, "asked by an operator", VD_EXIT_OK);
}

/* What the workers that speak TLS read from files: argument names one of them. */
static void verb_reload(const request_t *request)
{
    sup_worker_t *worker = named_worker(request);
    if (worker == NULL)
        return;
    int kind = (int)(worker - request->ops->system->workers);
    if (kind != SUP_KIND_GATEWAYD && kind != SUP_KIND_REPLICAD) {
        reply(request->client, request->request_id, VD_ERR_BAD_VALUE,
              "gatewayd and replicad have certificates", VD_SLICE_NULL);
        return;
    }
    vd_log(VD_LOG_INFO, "reload asked by an operator", "worker=%s", worker->kind->name);
    ask_worker(request, worker, VD_SLICE_LIT("reload"));
}

/* For tests of what a taken worker may do; nothing without test.faults. */
static void verb_misbehave(const request_t *request)
{
    sup_worker_t *worker = named_worker(request);
    if (worker == NULL)
        return;
    if (vd_config_bool(request->ops->system->config, "test.faults"))
        ask_worker(request, worker, VD_SLICE_LIT("misbehave"));
    else
        reply(request->client, request->request_id, VD_ERR_ILLEGAL_OPERATION,
              "misbehave needs test.faults", VD_SLICE_NULL);
}

/* Words for gatewayd: argument stands in the audit log, argument2 is what is asked. */
static void verb_limits(const request_t *request)
{
    if (request->fields.argument.len > NOTED_MAX ||
        !vd_slice_equal(request->fields.argument, request->fields.argument2)) {
        reply(request->client, request->request_id, VD_ERR_BAD_VALUE,
              "what is asked must be what can be noted: at most 127 bytes", VD_SLICE_NULL);
        return;
    }
    ask_worker(request, &request->ops->system->workers[SUP_KIND_GATEWAYD], VD_SLICE_LIT("limits"));
}

/* argument2: the gateway's verb, a line feed, whose or which. */
static void verb_tokens(const request_t *request)
{
    sup_worker_t *worker = &request->ops->system->workers[SUP_KIND_GATEWAYD];
    vd_log(VD_LOG_INFO, "an operator lists or revokes tokens", "worker=%s", worker->kind->name);
    ask_worker(request, worker, VD_SLICE_LIT("tokens"));
}

static void verb_restart(const request_t *request)
{
    sup_worker_t *worker = named_worker(request);
    if (worker == NULL || refused_in_watch(request))
        return;
    vd_log(VD_LOG_INFO, "restart asked by an operator", "worker=%s", worker->kind->name);
    sup_worker_restart(worker);
    reply(request->client, request->request_id, VD_OK, "restarting", VD_SLICE_NULL);
}

/* The gateway finishes what is in flight, takes nothing new and stays down; the rest goes on. */
static void verb_drain(const request_t *request)
{
    if (refused_in_watch(request))
        return;
    vd_log(VD_LOG_INFO, "drain asked by an operator", "worker=gatewayd");
    sup_worker_drain(&request->ops->system->workers[SUP_KIND_GATEWAYD]);
    reply(request->client, request->request_id, VD_OK,
          "draining; vedctl restart gatewayd opens the node again", VD_SLICE_NULL);
}

static void verb_log_level(const request_t *request)
{
    vd_log_level_t level;
    sup_worker_t *only = NULL;
    if (vd_log_level_parse(request->fields.argument2, &level) != VD_OK) {
        reply(request->client, request->request_id, VD_ERR_BAD_VALUE,
              "levels are debug, info, warn, error, fatal", VD_SLICE_NULL);
        return;
    }
    if (request->fields.argument.len > 0 && (only = named_worker(request)) == NULL)
        return;
    for (int i = 0; i < SUP_KIND_COUNT; i++)
        if (only == NULL || only == &request->ops->system->workers[i])
            (void)sup_control_log_level(&request->ops->system->workers[i],
                                        request->fields.argument2); /* a dead one reads the
                                                                      configuration */
    if (only == NULL)
        vd_log_set_level(level);
    reply(request->client, request->request_id, VD_OK, "log level set", VD_SLICE_NULL);
}

static const struct {
    const char *verb;
    void (*run)(const request_t *request);
} verbs[] = {
    {"status", verb_status},       {"stop", verb_stop},
    {"restart", verb_restart},     {"audit", verb_audit},
    {"keys", verb_keys},           {"drain", verb_drain},
    {"log-level", verb_log_level}, {"replication", verb_replication},
    {"reload", verb_reload},       {"misbehave", verb_misbehave},
    {"limits", verb_limits},       {"tokens", verb_tokens},
    {"backup", verb_backup},
};

/* Some of the argument, printable. */
static const char *argument_text(const request_t *request, char text[NOTED_MAX + 1])
{
    size_t len =
        request->fields.argument.len < NOTED_MAX ? request->fields.argument.len : NOTED_MAX;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = request->fields.argument.data[i];
        text[i] = c >= ' ' && c < 127 ? (char)c : '?';
    }
    text[len] = '\0';
    return text;
}

/* What only looks is not noted. */
static bool changes_something(const request_t *request, void (*run)(const request_t *request))
{
    if (run == verb_backup)
        return !vd_slice_is(request->fields.argument, "list");
    if (run == verb_keys)
        return !vd_slice_is(request->fields.argument, "status") &&
               !vd_slice_is(request->fields.argument, "history");
    return run != verb_status && run != verb_audit;
}

static void ops_request(void *context, vd_local_client_t *client, vd_slice_t packet)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {0};
    vd_slice_t rest, body;
    request_t request = {.ops = context, .client = client};
    char argument[NOTED_MAX + 1];
    int rc = vdp_decode_envelope(packet, &envelope, &rest, &err);
    if (rc == VD_OK && envelope.id != VDP_OPERATOR_REQUEST)
        rc = vd_error_set(&err, VD_ERR_PROTOCOL, "message %u is not for the control socket",
                          envelope.id);
    if (rc == VD_OK)
        rc = vdp_decode(&vdp_operator_request, rest, &request.fields, &body, &err);
    request.request_id = envelope.request_id;
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(verbs); i++) {
        if (vd_slice_is(request.fields.verb, verbs[i].verb)) {
            if (changes_something(&request, verbs[i].run))
                sup_ops_note(request.ops->system, "operator", "%s %.200s uid %u", verbs[i].verb,
                             argument_text(&request, argument),
                             (unsigned)vd_local_client_uid(client));
            verbs[i].run(&request);
            return;
        }
    }
    if (rc == VD_OK)
        rc = vd_error_set(&err, VD_ERR_COMMAND_NOT_FOUND, "the supervisor knows no such verb");
    reply(client, request.request_id, rc, err.message, VD_SLICE_NULL);
}

/* ---- life ---- */

int sup_ops_open(sup_system_t *system, sup_ops_t **ret_ops, vd_error_t *err)
{
    char path[128];
    const char *configured = vd_config_string(system->config, "supervisor.control_socket");
    (void)snprintf(path, sizeof path, "%s%s",
                   *configured != '\0' ? configured
                                       : vd_config_string(system->config, "node.run_folder"),
                   *configured != '\0' ? "" : "/control");
    sup_ops_t *ops = vd_xalloc(sizeof *ops);
    ops->system = system;
    ops->ask_id = system->generation_next;
    vd_local_options_t options = {.path = path,
                                  .listen_fd = -1,
                                  .allowed_uid = (uid_t)-1,
                                  .request = ops_request,
                                  .context = ops};
    int rc = vd_local_listen(system->loop, &options, &ops->local, err);
    if (rc != VD_OK) {
        vd_free(ops);
        return rc;
    }
    *ret_ops = ops;
    return VD_OK;
}

void sup_ops_close(sup_ops_t **ops_p)
{
    sup_ops_t *ops = *ops_p;
    if (ops == NULL)
        return;
    vd_loop_remove(&ops->gather_timer);
    vd_loop_remove(&ops->note_timer);
    for (size_t i = 0; i < ops->waiting_count; i++)
        vd_local_drop(ops->waiting[i].client);
    for (size_t i = 0; i < ASKS_MAX; i++) {
        if (ops->asks[i].id == 0)
            continue;
        vd_local_drop(ops->asks[i].client);
        vd_loop_remove(&ops->asks[i].timer);
    }
    vd_local_close(&ops->local);
    vd_free(ops);
    *ops_p = NULL;
}
