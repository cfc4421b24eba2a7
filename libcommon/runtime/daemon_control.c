/* libcommon/runtime/daemon_control.c — a worker's side of the conversation with the supervisor
 * (proto/control.md): what it says, what it is told, its answers. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/runtime/daemon_private.h"
#include "libcommon/runtime/misbehave.h"
#include "proto/failure.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HELLO_WAIT_MS      250
#define ANSWER_MESSAGE_MAX 4096 /* as proto/control.md bounds it */

/* ---- sending ---- */

void vd_daemon_control_send(vd_daemon_t *daemon, const vdp_message_t *message, const void *fields,
                            uint64_t request_id, vd_slice_t body)
{
    if (daemon->link == NULL || !vd_link_peer_up(daemon->link, 0))
        return;
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t item;
    char text[VD_ERROR_MESSAGE_SIZE + 64];
    vdp_envelope_t envelope = {
        .id = message->id, .request_id = request_id, .generation = daemon->generation};
    vd_buf_init(&item, message->body_max_bytes + 64 * 1024);
    int rc = vdp_encode(&item, &envelope, message, fields, body, &err);
    if (rc == VD_OK)
        rc = vd_link_send(daemon->link, 0, vd_buf_slice(&item), VD_SLICE_NULL, &err);
    vd_buf_done(&item);
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "control message not sent", "message=%s error=%s", message->name,
               vd_log_quote(vd_slice_str(err.message), text, sizeof text));
}

void vd_daemon_control_ready(vd_daemon_t *daemon)
{
    vdp_control_ready_t ready = {vd_slice_str(daemon->ready_detail)};
    vd_daemon_control_send(daemon, &vdp_control_ready, &ready, 0, VD_SLICE_NULL);
}

void vd_daemon_control_drained(vd_daemon_t *daemon)
{
    vdp_control_drain_t drained = {0};
    vd_daemon_control_send(daemon, &vdp_control_drained, &drained, daemon->drain_request_id,
                           VD_SLICE_NULL);
}

/* ---- receiving ---- */

static void answer_failure(vd_daemon_t *daemon, uint64_t request_id, const vd_error_t *err)
{
    vdp_failure_t failure = vdp_failure_from(err);
    vd_daemon_control_send(daemon, &vdp_failure, &failure, request_id, VD_SLICE_NULL);
}

static int on_welcome(vd_daemon_t *daemon, const vdp_envelope_t *envelope, vd_slice_t rest,
                      vd_error_t *err)
{
    (void)envelope;
    vdp_control_welcome_t welcome;
    int rc = vdp_decode(&vdp_control_welcome, rest, &welcome, NULL, err);
    daemon->welcomed = rc == VD_OK;
    if (rc == VD_OK && welcome.heartbeat_ms >= 10 && welcome.heartbeat_ms <= 60000)
        vd_loop_set_timer(daemon->heartbeat_source, welcome.heartbeat_ms, welcome.heartbeat_ms);
    return rc;
}

static int on_kept(vd_daemon_t *daemon, const vdp_envelope_t *envelope, vd_slice_t rest,
                   vd_error_t *err)
{
    (void)envelope;
    vdp_control_kept_t kept;
    vd_slice_t body;
    int rc = vdp_decode(&vdp_control_kept, rest, &kept, &body, err);
    if (rc == VD_OK && !daemon->has_kept && daemon->program->kept != NULL && daemon->state != NULL)
        daemon->program->kept(daemon, daemon->state, kept.format, body);
    return rc;
}

static int on_heartbeat_seen(vd_daemon_t *daemon, const vdp_envelope_t *envelope, vd_slice_t rest,
                             vd_error_t *err)
{
    (void)daemon, (void)envelope;
    vdp_control_heartbeat_t seen;
    return vdp_decode(&vdp_control_heartbeat_seen, rest, &seen, NULL, err);
}

static int on_drain(vd_daemon_t *daemon, const vdp_envelope_t *envelope, vd_slice_t rest,
                    vd_error_t *err)
{
    vdp_control_drain_t drain;
    int rc = vdp_decode(&vdp_control_drain, rest, &drain, NULL, err);
    if (rc != VD_OK)
        return rc;
    daemon->drain_request_id = envelope->request_id;
    if (daemon->phase == VD_PHASE_DRAINED)
        vd_daemon_control_drained(daemon);
    else
        vd_daemon_begin_drain(daemon, drain.grace_ms);
    return VD_OK;
}

static int on_stop(vd_daemon_t *daemon, const vdp_envelope_t *envelope, vd_slice_t rest,
                   vd_error_t *err)
{
    (void)envelope;
    vdp_control_drain_t stop;
    int rc = vdp_decode(&vdp_control_stop, rest, &stop, NULL, err);
    if (rc == VD_OK)
        vd_daemon_begin_stop(daemon, stop.grace_ms, "asked by the supervisor");
    return rc;
}

static int on_status(vd_daemon_t *daemon, const vdp_envelope_t *envelope, vd_slice_t rest,
                     vd_error_t *err)
{
    vdp_control_text_t status;
    int rc = vdp_decode(&vdp_control_status, rest, &status, NULL, err);
    if (rc != VD_OK)
        return rc;
    vd_buf_t json;
    vd_error_t why = VD_ERROR_INIT;
    vd_buf_init(&json, VD_STATUS_MAX_BYTES);
    rc = daemon->program->status != NULL && daemon->begun
             ? daemon->program->status(daemon, daemon->state, &json)
             : vd_buf_append(&json, "{}", 2);
    if (rc != VD_OK) {
        (void)vd_error_set(&why, rc, "the status can't be made within %d bytes",
                           VD_STATUS_MAX_BYTES);
        answer_failure(daemon, envelope->request_id, &why);
    } else {
        vd_daemon_control_send(daemon, &vdp_control_status_reply, &status, envelope->request_id,
                               vd_buf_slice(&json));
    }
    vd_buf_done(&json);
    return VD_OK;
}

static int on_log_level(vd_daemon_t *daemon, const vdp_envelope_t *envelope, vd_slice_t rest,
                        vd_error_t *err)
{
    vdp_control_text_t wanted;
    vd_log_level_t level;
    int rc = vdp_decode(&vdp_control_log_level, rest, &wanted, NULL, err);
    if (rc != VD_OK)
        return rc;
    vd_error_t why = VD_ERROR_INIT;
    if (wanted.text.len > 0 && vd_log_level_parse(wanted.text, &level) != VD_OK) {
        (void)vd_error_set(&why, VD_ERR_BAD_VALUE, "no such log level");
        answer_failure(daemon, envelope->request_id, &why);
        return VD_OK;
    }
    if (wanted.text.len > 0)
        vd_log_set_level(level);
    vdp_control_text_t set = {vd_slice_str(vd_log_level_name(vd_log_level()))};
    vd_daemon_control_send(daemon, &vdp_control_log_level_set, &set, envelope->request_id,
                           VD_SLICE_NULL);
    return VD_OK;
}

/* A path below the run folder as this process reaches it. */
static const char *reachable(const vd_daemon_t *daemon, const char *path, char *buf, size_t size)
{
    const char *folder = vd_config_string(daemon->config, "node.run_folder");
    size_t len = strlen(folder);
    if (path == NULL || strncmp(path, folder, len) != 0 || path[len] != '/')
        return path;
    (void)snprintf(buf, size, "%s%s", vd_daemon_folder(daemon, "node.run_folder"), path + len);
    return buf;
}

/* The ticket is the question's number: nothing is kept here, however many are asked. */
static int on_ask(vd_daemon_t *daemon, const vdp_envelope_t *envelope, vd_slice_t rest,
                  vd_error_t *err)
{
    vdp_control_ask_t ask;
    vd_error_t why = VD_ERROR_INIT;
    int rc = vdp_decode(&vdp_control_ask, rest, &ask, NULL, err);
    if (rc != VD_OK)
        return rc;
    if (vd_slice_is(ask.verb, "misbehave") && vd_config_bool(daemon->config, "test.faults")) {
        char message[256], path[512], buf[512];
        (void)snprintf(path, sizeof path, "%.*s", VD_SLICE_FMT(ask.argument2));
        rc = vd_misbehave(ask.argument, reachable(daemon, path, buf, sizeof buf), message,
                          sizeof message);
        vd_daemon_answer(daemon, envelope->request_id, rc, message, VD_SLICE_NULL);
        if (rc == VD_ERR_CLOSED)
            vd_daemon_cut_off(daemon);
        return VD_OK;
    }
    if (daemon->program->ask != NULL && daemon->begun) {
        daemon->program->ask(daemon, daemon->state, envelope->request_id, ask.verb, ask.argument,
                             ask.argument2);
        return VD_OK;
    }
    if (daemon->program->ask == NULL)
        (void)vd_error_set(&why, VD_ERR_COMMAND_NOT_FOUND, "%s knows no such verb",
                           daemon->program->program);
    else
        (void)vd_error_set(&why, VD_ERR_AGAIN, "%s is starting", daemon->program->program);
    answer_failure(daemon, envelope->request_id, &why);
    return VD_OK;
}

void vd_daemon_answer(vd_daemon_t *daemon, uint64_t ticket, int code, const char *message,
                      vd_slice_t json)
{
    VD_ASSERT(daemon != NULL && message != NULL);

    vd_error_t why = VD_ERROR_INIT;
    vdp_control_answer_t answer = {
        .code = code, .message = vd_slice(message, strnlen(message, ANSWER_MESSAGE_MAX))};
    if (json.len <= vdp_control_answer.body_max_bytes) {
        vd_daemon_control_send(daemon, &vdp_control_answer, &answer, ticket, json);
        return;
    }
    (void)vd_error_set(&why, VD_ERR_FULL, "the answer of %zu bytes is too large", json.len);
    answer_failure(daemon, ticket, &why);
}

static void send_kept(vd_daemon_t *daemon)
{
    vdp_control_kept_t keep = {.format = daemon->kept_format};
    vd_daemon_control_send(daemon, &vdp_control_keep, &keep, 0, vd_buf_slice(&daemon->kept));
}

int vd_daemon_keep(vd_daemon_t *daemon, uint64_t format, vd_slice_t bytes, vd_error_t *err)
{
    VD_ASSERT(daemon != NULL);

    vd_buf_clear(&daemon->kept);
    int rc = vd_buf_append_slice(&daemon->kept, bytes);
    if (rc != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "%zu bytes are too many to be kept", bytes.len);
    daemon->kept_format = format;
    daemon->has_kept = true;
    send_kept(daemon);
    return VD_OK;
}

static const struct {
    uint32_t id;
    int (*handle)(vd_daemon_t *daemon, const vdp_envelope_t *envelope, vd_slice_t rest,
                  vd_error_t *err);
} control_table[] = {
    {VDP_CONTROL_WELCOME, on_welcome}, {VDP_CONTROL_HEARTBEAT_SEEN, on_heartbeat_seen},
    {VDP_CONTROL_DRAIN, on_drain},     {VDP_CONTROL_STOP, on_stop},
    {VDP_CONTROL_STATUS, on_status},   {VDP_CONTROL_LOG_LEVEL, on_log_level},
    {VDP_CONTROL_ASK, on_ask},         {VDP_CONTROL_KEPT, on_kept},
};

static void control_item(void *context, uint64_t peer, vd_slice_t item)
{
    (void)peer;
    vd_daemon_t *daemon = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope;
    vd_slice_t rest;
    char quoted[VD_ERROR_MESSAGE_SIZE * 2];
    int rc = vdp_decode_envelope(item, &envelope, &rest, &err);
    if (rc == VD_OK) {
        rc = vd_error_set(&err, VD_ERR_PROTOCOL, "message %s is not for a worker",
                          vdp_id_name(envelope.id));
        for (size_t i = 0; i < VD_COUNT_OF(control_table); i++) {
            if (control_table[i].id != envelope.id)
                continue;
            vd_error_clear(&err);
            rc = control_table[i].handle(daemon, &envelope, rest, &err);
        }
    }
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "control message refused", "error=%s",
               vd_log_quote(vd_slice_str(err.message), quoted, sizeof quoted));
}

static void control_changed(void *context, uint64_t peer, bool up)
{
    (void)peer;
    vd_daemon_t *daemon = context;
    if (!up) {
        vd_log(VD_LOG_WARN, "the supervisor doesn't answer", "state=%s",
               vd_daemon_phase_name(daemon));
        return;
    }
    vdp_control_hello_t hello = {.program = vd_slice_str(daemon->program->program),
                                 .pid = (uint64_t)getpid(),
                                 .protocol = VDP_VERSION,
                                 .version = VD_SLICE_LIT(VEDDB_VERSION)};
    vd_daemon_control_send(daemon, &vdp_control_hello, &hello, 0, VD_SLICE_NULL);
    if (daemon->has_kept)
        send_kept(daemon);
    if (daemon->phase >= VD_PHASE_RUNNING)
        vd_daemon_control_ready(daemon);
    if (daemon->phase == VD_PHASE_DRAINED)
        vd_daemon_control_drained(daemon);
}

static void control_cut(void *context)
{
    vd_daemon_cut_off(context);
}

/* ---- opening ---- */

int vd_daemon_control_wait(vd_daemon_t *daemon, uint64_t wait_ms, vd_error_t *err)
{
    uint64_t until = vd_monotonic_ms() + wait_ms;
    while (daemon->link != NULL && !daemon->stopping &&
           !(vd_link_peer_up(daemon->link, 0) && daemon->welcomed) && vd_monotonic_ms() < until) {
        int rc = vd_loop_turn(daemon->loop, 10, err);
        if (rc != VD_OK)
            return rc;
    }
    return daemon->link == NULL ? VD_OK : vd_loop_turn(daemon->loop, 0, err); /* hello leaves */
}

static const char *control_path(const vd_daemon_t *daemon, char *buf, size_t size)
{
    return reachable(daemon, getenv("VEDDB_CONTROL_SOCKET"), buf, size);
}

int vd_daemon_control_open(vd_daemon_t *daemon, vd_error_t *err)
{
    char buf[256];
    const char *path = control_path(daemon, buf, sizeof buf);
    if (path == NULL || path[0] == '\0')
        return VD_OK;
    vd_link_options_t options = {.path = path,
                                 .peer_timeout_ms = daemon->hang_ms,
                                 .item = control_item,
                                 .peer_changed = control_changed,
                                 .cut = control_cut,
                                 .context = daemon};
    int rc = vd_link_open(daemon->loop, &options, &daemon->link, err);
    return rc == VD_OK ? vd_daemon_control_wait(daemon, HELLO_WAIT_MS, err) : rc;
}
