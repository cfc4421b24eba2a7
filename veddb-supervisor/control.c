/* veddb-supervisor/control.c — see control.h. */
#include "veddb-supervisor/control.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "proto/control.h"
#include "proto/failure.h"
#include "veddb-supervisor/ops.h"

#include <stdio.h>

#define CONTROL_SEND_MAX (16 * 1024)  /* fits CONTROL_ASK */
#define CONTROL_ITEM_MAX (640 * 1024) /* fits CONTROL_ANSWER with its JSON, and CONTROL_KEEP */

static bool control_send(sup_worker_t *worker, const vdp_message_t *message, const void *fields,
                         uint64_t request_id, uint32_t deadline_ms)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t buf;
    vd_buf_init(&buf, CONTROL_SEND_MAX);
    vdp_envelope_t envelope = {.id = message->id,
                               .request_id = request_id,
                               .generation = worker->generation,
                               .deadline_ms = deadline_ms};
    int rc = worker->peer == 0 ? VD_ERR_CLOSED
                               : vdp_encode(&buf, &envelope, message, fields, VD_SLICE_NULL, &err);
    if (rc == VD_OK)
        rc = vd_link_send(worker->link, worker->peer, vd_buf_slice(&buf), VD_SLICE_NULL, &err);
    vd_buf_done(&buf);
    return rc == VD_OK;
}

bool sup_control_drain(sup_worker_t *worker, uint64_t grace_ms)
{
    vdp_control_drain_t fields = {.grace_ms = grace_ms,
                                  .reason = vd_slice_str(worker->system->reason)};
    return control_send(worker, &vdp_control_drain, &fields, 0, 0);
}

bool sup_control_stop(sup_worker_t *worker, uint64_t grace_ms)
{
    vdp_control_drain_t fields = {.grace_ms = grace_ms,
                                  .reason = vd_slice_str(worker->system->reason)};
    return control_send(worker, &vdp_control_stop, &fields, 0, 0);
}

bool sup_control_ask_status(sup_worker_t *worker, uint64_t request_id)
{
    vdp_control_text_t fields = {0};
    return control_send(worker, &vdp_control_status, &fields, request_id, 0);
}

bool sup_control_ask(sup_worker_t *worker, uint64_t request_id, uint32_t wait_ms, vd_slice_t verb,
                     vd_slice_t argument, vd_slice_t argument2)
{
    vdp_control_ask_t fields = {.verb = verb, .argument = argument, .argument2 = argument2};
    return control_send(worker, &vdp_control_ask, &fields, request_id, wait_ms);
}

bool sup_control_log_level(sup_worker_t *worker, vd_slice_t level)
{
    vdp_control_text_t fields = {.text = level};
    return control_send(worker, &vdp_control_log_level, &fields, 0, 0);
}

/* ---- what workers say ---- */

typedef struct {
    sup_worker_t *worker;
    uint64_t peer;
    vdp_envelope_t envelope;
    vd_slice_t rest;
} arrival_t;

/* What was kept for it, then the welcome, in this order whatever their size: who has been welcomed
 * has all. */
static void welcome(sup_worker_t *worker, uint64_t request_id)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t buf;
    vdp_envelope_t envelope = {.id = VDP_CONTROL_KEPT, .generation = worker->generation};
    vdp_control_kept_t kept = {.format = worker->kept_format};
    vdp_control_welcome_t fields = {.heartbeat_ms = worker->system->times.heartbeat_ms};
    int rc = VD_OK;
    vd_buf_init(&buf, CONTROL_ITEM_MAX);
    if (worker->has_kept) {
        rc = vdp_encode(&buf, &envelope, &vdp_control_kept, &kept, vd_buf_slice(&worker->kept),
                        &err);
        if (rc == VD_OK)
            rc = vd_link_send_ordered(worker->link, worker->peer, vd_buf_slice(&buf), VD_SLICE_NULL,
                                      &err);
    }
    envelope.id = VDP_CONTROL_WELCOME;
    envelope.request_id = request_id;
    vd_buf_clear(&buf);
    if (rc == VD_OK)
        rc = vdp_encode(&buf, &envelope, &vdp_control_welcome, &fields, VD_SLICE_NULL, &err);
    if (rc == VD_OK)
        rc = vd_link_send_ordered(worker->link, worker->peer, vd_buf_slice(&buf), VD_SLICE_NULL,
                                  &err);
    vd_buf_done(&buf);
    if (rc != VD_OK && rc != VD_ERR_CLOSED) /* then it says hello again */
        vd_log(VD_LOG_WARN, "a worker was not welcomed", "worker=%s code=%d", worker->kind->name,
               rc);
}

static int on_hello(const arrival_t *arrival, vd_error_t *err)
{
    sup_worker_t *worker = arrival->worker;
    vdp_control_hello_t hello;
    vd_slice_t body;
    int rc = vdp_decode(&vdp_control_hello, arrival->rest, &hello, &body, err);
    if (rc != VD_OK)
        return rc;
    if (hello.protocol != VDP_VERSION || !vd_slice_is(hello.program, worker->kind->program))
        return vd_error_set(err, VD_ERR_PROTOCOL, "%.*s speaks protocol %llu, not %s protocol %u",
                            VD_SLICE_FMT(hello.program), (unsigned long long)hello.protocol,
                            worker->kind->program, VDP_VERSION);
    if (worker->system->watch) {
        if (worker->peer != 0) /* the loss of its link is noticed later than its new start */
            sup_worker_died(worker, "started again", false);
        sup_worker_event(worker, SUP_EVENT_GO); /* it started by itself; forgets an earlier peer */
        worker->generation = arrival->envelope.generation;
    }
    worker->peer = arrival->peer;
    welcome(worker, arrival->envelope.request_id);
    return VD_OK;
}

static int on_ready(const arrival_t *arrival, vd_error_t *err)
{
    sup_worker_t *worker = arrival->worker;
    vdp_control_ready_t ready;
    vd_slice_t body;
    int rc = vdp_decode(&vdp_control_ready, arrival->rest, &ready, &body, err);
    if (rc != VD_OK)
        return rc;
    (void)snprintf(worker->detail, sizeof worker->detail, "%.*s", VD_SLICE_FMT(ready.detail));
    sup_worker_event(worker, SUP_EVENT_READY);
    return VD_OK;
}

static int on_heartbeat(const arrival_t *arrival, vd_error_t *err)
{
    vdp_control_heartbeat_t beat;
    vd_slice_t body;
    int rc = vdp_decode(&vdp_control_heartbeat, arrival->rest, &beat, &body, err);
    if (rc == VD_OK)
        arrival->worker->busy_ms_max = beat.busy_ms_max;
    return rc;
}

static int on_drained(const arrival_t *arrival, vd_error_t *err)
{
    (void)err; /* nothing to read */
    sup_worker_event(arrival->worker, SUP_EVENT_DRAINED);
    return VD_OK;
}

static int on_status(const arrival_t *arrival, vd_error_t *err)
{
    vdp_control_text_t text;
    vd_slice_t body;
    int rc = vdp_decode(&vdp_control_status_reply, arrival->rest, &text, &body, err);
    if (rc == VD_OK)
        sup_ops_status_arrived(arrival->worker, body);
    return rc;
}

static int on_log_level(const arrival_t *arrival, vd_error_t *err)
{
    (void)err; /* nothing to do: vedctl was answered when it was sent */
    VD_DEBUG("log level set", "worker=%s", arrival->worker->kind->name);
    return VD_OK;
}

/* It can't answer a question. Those about the log level have no number and are only logged. */
static int on_failure(const arrival_t *arrival, vd_error_t *err)
{
    sup_worker_t *worker = arrival->worker;
    vdp_failure_t failure;
    vd_error_t why = VD_ERROR_INIT;
    vd_slice_t body;
    char quoted[300];
    int rc = vdp_decode(&vdp_failure, arrival->rest, &failure, &body, err);
    if (rc != VD_OK)
        return rc;
    (void)vdp_failure_to(&failure, &why); /* logged */
    vd_log(VD_LOG_WARN, "worker can't answer", "worker=%s code=%d error=%s", worker->kind->name,
           why.code, vd_log_quote(vd_slice_str(why.message), quoted, sizeof quoted));
    uint64_t request_id = arrival->envelope.request_id;
    if (!sup_ops_answered(worker, request_id, why.code, why.message, VD_SLICE_NULL) &&
        request_id != 0)
        sup_ops_status_failed(worker, why.message);
    return VD_OK;
}

static int on_answer(const arrival_t *arrival, vd_error_t *err)
{
    vdp_control_answer_t answer;
    vd_slice_t body;
    char message[4096 + 1];
    int rc = vdp_decode(&vdp_control_answer, arrival->rest, &answer, &body, err);
    if (rc != VD_OK)
        return rc;
    (void)snprintf(message, sizeof message, "%.*s", VD_SLICE_FMT(answer.message));
    int code = answer.code <= 0 && answer.code > INT32_MIN ? (int)answer.code : VD_ERR_PROTOCOL;
    if (!sup_ops_answered(arrival->worker, arrival->envelope.request_id, code, message, body))
        VD_DEBUG("answer comes too late", "worker=%s", arrival->worker->kind->name);
    return VD_OK;
}

static int on_keep(const arrival_t *arrival, vd_error_t *err)
{
    sup_worker_t *worker = arrival->worker;
    vdp_control_kept_t keep;
    vd_slice_t body;
    int rc = vdp_decode(&vdp_control_keep, arrival->rest, &keep, &body, err);
    if (rc != VD_OK)
        return rc;
    vd_buf_clear(&worker->kept);
    rc = vd_buf_append_slice(&worker->kept, body);
    worker->has_kept = rc == VD_OK;
    worker->kept_format = keep.format;
    return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "%zu bytes are not kept", body.len);
}

static int on_fatal(const arrival_t *arrival, vd_error_t *err)
{
    sup_worker_t *worker = arrival->worker;
    vdp_control_fatal_t fatal;
    vd_slice_t body;
    int rc = vdp_decode(&vdp_control_fatal, arrival->rest, &fatal, &body, err);
    if (rc != VD_OK)
        return rc;
    worker->structural = fatal.structural;
    (void)snprintf(worker->last_death, sizeof worker->last_death, "%.*s",
                   VD_SLICE_FMT(fatal.message));
    return VD_OK;
}

#define IN(state) (1u << SUP_CHILD_##state)
#define ALIVE     (IN(STARTING) | IN(RUNNING) | IN(DRAINING) | IN(STOPPING))

/* Message, states in which it is permitted, handler. Anything else is dropped and told. */
static const struct {
    uint32_t id;
    uint32_t states;
    int (*handle)(const arrival_t *arrival, vd_error_t *err);
} arrivals[] = {
    {VDP_CONTROL_HELLO, ALIVE | IN(WAITING), on_hello},
    {VDP_CONTROL_READY, ALIVE, on_ready},
    {VDP_CONTROL_HEARTBEAT, ALIVE, on_heartbeat},
    {VDP_CONTROL_DRAINED, ALIVE, on_drained},
    {VDP_CONTROL_STATUS_REPLY, ALIVE, on_status},
    {VDP_CONTROL_LOG_LEVEL_SET, ALIVE, on_log_level},
    {VDP_CONTROL_FATAL, ALIVE, on_fatal},
    {VDP_CONTROL_ANSWER, ALIVE, on_answer},
    {VDP_CONTROL_KEEP, ALIVE, on_keep},
    {VDP_FAILURE, ALIVE, on_failure},
};

static void control_item(void *context, uint64_t peer, vd_slice_t item)
{
    sup_worker_t *worker = context;
    vd_error_t err = VD_ERROR_INIT;
    arrival_t arrival = {.worker = worker, .peer = peer};
    int rc = vdp_decode_envelope(item, &arrival.envelope, &arrival.rest, &err);
    if (rc == VD_OK && !worker->system->watch && arrival.envelope.generation != worker->generation)
        return; /* from a start that is over */
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(arrivals); i++) {
        if (arrivals[i].id != arrival.envelope.id)
            continue;
        if ((arrivals[i].states & 1u << worker->state) == 0)
            return; /* crossed with a change of state */
        worker->beat_ms = vd_monotonic_ms();
        rc = arrivals[i].handle(&arrival, &err);
        if (rc == VD_OK)
            return;
    }
    if (rc == VD_OK)
        rc = vd_error_set(&err, VD_ERR_PROTOCOL, "message %u is not for the supervisor",
                          arrival.envelope.id);
    vd_log(VD_LOG_WARN, "message dropped", "worker=%s code=%d error=\"%s\"", worker->kind->name, rc,
           err.message);
}

static void control_peer(void *context, uint64_t peer, bool up)
{
    sup_worker_t *worker = context;
    if (up || peer != worker->peer)
        return;
    worker->peer = 0;
    if (worker->system->ops != NULL)
        sup_ops_worker_gone(worker);
    if (worker->system->watch)
        sup_worker_died(worker, "link lost", false);
}

const char *sup_control_path(const sup_system_t *system, const sup_kind_t *kind, char *buf,
                             size_t size)
{
    (void)snprintf(buf, size, "%s/supervisor-%s/control",
                   vd_config_string(system->config, "node.run_folder"), kind->name);
    return buf;
}

int sup_control_open(sup_worker_t *worker, vd_error_t *err)
{
    char path[128];
    vd_link_options_t options = {
        .path = sup_control_path(worker->system, worker->kind, path, sizeof path),
        .bind = true,
        .item_max_bytes = CONTROL_ITEM_MAX,
        .queue_max_bytes = 1 << 20,
        .peer_timeout_ms = worker->system->times.hang_ms,
        .socket_mode = 0660, /* the folder lets in only the worker */
        .item = control_item,
        .peer_changed = control_peer,
        .context = worker,
    };
    return vd_link_open(worker->system->loop, &options, &worker->link, err);
}
