/* veddb-replicad/storage.c — see storage.h. */
#include "veddb-replicad/storage.h"

#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/view.h"
#include "libcommon/runtime/link.h"

#include <stdio.h>

#define ITEM_MAX_BYTES (VDP_ENTRIES_MAX + 64 * 1024)
#define TICK_MS        500

struct repl_storage {
    vd_loop_t *loop;
    repl_storage_options_t options;
    char *node;
    vd_link_t *link;
    vd_source_t *tick_source;
    repl_calls_t calls;
    repl_storage_state_t state;
    vd_buf_t head; /* scratch: an item without its body */
};

/* The body goes to the link as it is: entries are not copied twice. */
static int put(repl_storage_t *storage, const vdp_message_t *message, uint64_t request,
               const void *fields, vd_slice_t body, vd_error_t *err)
{
    if (!vd_link_peer_up(storage->link, 0))
        return vd_error_set(err, VD_ERR_CLOSED, "storage is not there");
    if (body.len > message->body_max_bytes)
        return vd_error_set(err, VD_ERR_INVALID_LENGTH, "%s: a body of %zu bytes", message->name,
                            body.len);
    vdp_envelope_t envelope = {.id = message->id, .request_id = request};
    vd_buf_clear(&storage->head);
    int rc = vdp_encode(&storage->head, &envelope, message, fields, VD_SLICE_NULL, err);
    if (rc == VD_OK && message == &vdp_load_chunk) /* each follows on the one before */
        rc = vd_link_send_ordered(storage->link, 0, vd_buf_slice(&storage->head), body, err);
    else if (rc == VD_OK)
        rc = vd_link_send(storage->link, 0, vd_buf_slice(&storage->head), body, err);
    return rc;
}

uint64_t repl_storage_ask(repl_storage_t *storage, const vdp_message_t *message, const void *fields,
                          vd_slice_t body, uint64_t timeout_ms, repl_done_t done, void *context)
{
    vd_error_t err = VD_ERROR_INIT;
    uint64_t deadline = timeout_ms == 0 ? 0 : vd_loop_now_ms(storage->loop) + timeout_ms;
    uint64_t id = repl_calls_add(&storage->calls, false, deadline, done, context);
    int rc = storage->state.attached || message->id == VDP_REPLICATION_ATTACH
                 ? put(storage, message, id, fields, body, &err)
                 : vd_error_set(&err, VD_ERR_CLOSED, "storage is not there");
    if (rc == VD_OK)
        return id;
    repl_calls_forget(&storage->calls, id);
    done(context, &(repl_answer_t){.rc = rc, .err = &err});
    return id;
}

void repl_storage_tell(repl_storage_t *storage, const vdp_message_t *message, const void *fields,
                       vd_slice_t body)
{
    vd_error_t err = VD_ERROR_INIT;
    if (storage->state.attached && put(storage, message, 0, fields, body, &err) != VD_OK)
        vd_log(VD_LOG_WARN, "a notice to storage was not sent", "message=%s error=%d",
               message->name, err.code);
}

void repl_storage_answer(repl_storage_t *storage, uint64_t request, int code, const char *message,
                         vd_slice_t body)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_answer_t answer = {.code = code, .message = vd_slice_str(message)};
    if (put(storage, &vdp_replication_answer, request, &answer, body, &err) != VD_OK)
        vd_log(VD_LOG_WARN, "an answer to storage was not sent", "error=%d", err.code);
}

const repl_storage_state_t *repl_storage_state(const repl_storage_t *storage)
{
    return &storage->state;
}

static void lose(repl_storage_t *storage, const char *why)
{
    if (!storage->state.attached)
        return;
    vd_log(VD_LOG_WARN, "storage is lost", "reason=\"%s\"", why);
    storage->state.attached = false;
    repl_calls_fail_all(&storage->calls, VD_ERR_CLOSED, "storage is not there any more");
    storage->options.lost(storage->options.context);
}

static void take_state(repl_storage_t *storage, const vdp_replication_state_t *fields,
                       vd_slice_t body)
{
    repl_storage_state_t *state = &storage->state;
    bool other = fields->boot_id.len == 16 && memcmp(state->boot_id, fields->boot_id.data, 16) != 0;
    if (other)
        lose(storage, "it has begun anew");
    bool attached = !state->attached;
    if (fields->boot_id.len == 16)
        memcpy(state->boot_id, fields->boot_id.data, 16);
    state->has_set_id = fields->set_id.len == 12;
    if (state->has_set_id)
        memcpy(state->set_id, fields->set_id.data, 12);
    state->attached = true;
    state->ready = fields->ready, state->empty = fields->empty, state->loading = fields->loading;
    state->role = fields->role, state->term = fields->term;
    state->newest = fields->newest, state->durable = fields->durable;
    state->made_ms = fields->made_ms, state->auth_position = fields->auth_position;
    state->oldest = fields->oldest, state->majority = fields->majority;
    state->floor = fields->floor;
    state->load_known = fields->load_snapshot.len == 16;
    if (state->load_known)
        memcpy(state->load_snapshot, fields->load_snapshot.data, 16);
    (void)snprintf(state->load_source, sizeof state->load_source, "%.*s",
                   VD_SLICE_FMT(fields->load_source));
    (void)snprintf(state->leader, sizeof state->leader, "%.*s", VD_SLICE_FMT(fields->leader));
    state->builds_changed =
        !vd_slice_equal(fields->builds, vd_slice(state->builds, state->builds_len));
    state->builds_len = (uint32_t)fields->builds.len; /* bounded by the message */
    if (state->builds_len > 0)
        memcpy(state->builds, fields->builds.data, state->builds_len);
    vd_bson_t config = VD_BSON_NONE;
    vd_error_t err = VD_ERROR_INIT;
    if (body.len != 0) {
        if (vd_bson_validate(body, VD_BSON_CHECK_UTF8, 16, &err) == VD_OK)
            config = (vd_bson_t){body.data, (uint32_t)body.len};
        else
            vd_log(VD_LOG_ERROR, "storage's configuration of the replica set can't be read",
                   "error=%d", err.code);
    }
    if (attached)
        vd_log(VD_LOG_INFO, "storage is attached", "role=%u term=%llu newest=%llx empty=%d",
               state->role, (unsigned long long)state->term, (unsigned long long)state->newest,
               state->empty);
    storage->options.state(storage->options.context, attached, config);
}

static void attached(void *context, const repl_answer_t *answer)
{
    repl_storage_t *storage = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_state_t state = {0};
    vd_slice_t body;
    char quoted[300];
    if (repl_answer_take(answer, &vdp_replication_attached, &state, &body, &err) == VD_OK)
        take_state(storage, &state, body);
    else if (err.code != VD_ERR_CLOSED)
        vd_log(VD_LOG_WARN, "storage refuses to be attached", "error=%s",
               vd_log_quote(vd_slice_str(err.message), quoted, sizeof quoted));
}

static void attach(repl_storage_t *storage)
{
    vdp_replication_attach_t fields = {.instance = vd_slice(storage->options.instance, 16),
                                       .node = vd_slice_str(storage->node)};
    (void)repl_storage_ask(storage, &vdp_replication_attach, &fields, VD_SLICE_NULL, 5000, attached,
                           storage); /* the answer comes by itself */
}

static void peer_changed(void *context, uint64_t peer, bool up)
{
    (void)peer; /* a DEALER has one */
    repl_storage_t *storage = context;
    if (up)
        attach(storage);
    else
        lose(storage, "the link is down");
}

static void on_item(repl_storage_t *storage, const vdp_envelope_t *envelope, vd_slice_t rest,
                    vd_error_t *err)
{
    vdp_replication_state_t state = {0};
    vdp_replication_ask_t ask = {0};
    vdp_audit_head_t head = {0};
    vd_slice_t body;
    if ((envelope->id & 1) != 0) {
        (void)repl_calls_answer(&storage->calls, envelope, rest); /* false: given up meanwhile */
    } else if (envelope->id == VDP_REPLICATION_STATE) {
        if (vdp_decode(&vdp_replication_state, rest, &state, &body, err) == VD_OK &&
            storage->state.attached)
            take_state(storage, &state, body);
    } else if (envelope->id == VDP_REPLICATION_ASK) {
        if (vdp_decode(&vdp_replication_ask, rest, &ask, &body, err) == VD_OK)
            storage->options.ask(storage->options.context, envelope->request_id, &ask, body);
    } else if (envelope->id == VDP_REPLICATION_AUDIT_HEAD) {
        if (vdp_decode(&vdp_replication_audit_head, rest, &head, &body, err) == VD_OK)
            storage->options.audit_head(storage->options.context, &head);
    } else {
        (void)!vdp_foreign(envelope->id, "replicad", err); /* told by the caller */
    }
}

static void item_arrived(void *context, uint64_t peer, vd_slice_t item)
{
    repl_storage_t *storage = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope;
    vd_slice_t rest;
    char quoted[300];
    if (vdp_decode_envelope(item, &envelope, &rest, &err) == VD_OK)
        on_item(storage, &envelope, rest, &err);
    if (err.code == VD_ERR_PROTOCOL)
        vd_link_cut(storage->link, peer, err.message);
    else if (err.code != VD_OK)
        vd_log(VD_LOG_ERROR, "storage sent something that can't be read", "error=%s",
               vd_log_quote(vd_slice_str(err.message), quoted, sizeof quoted));
}

static void cut_off(void *context)
{
    repl_storage_t *storage = context;
    if (storage->options.cut_off != NULL)
        storage->options.cut_off(storage->options.context);
}

static void tick(void *context)
{
    repl_storage_t *storage = context;
    repl_calls_expire(&storage->calls, vd_loop_now_ms(storage->loop));
    if (!storage->state.attached && vd_link_peer_up(storage->link, 0) &&
        vd_list_empty(&storage->calls.list))
        attach(storage);
}

int repl_storage_open(vd_loop_t *loop, const repl_storage_options_t *options,
                      repl_storage_t **ret_storage, vd_error_t *err)
{
    repl_storage_t *storage = vd_xalloc(sizeof *storage);
    storage->loop = loop;
    storage->options = *options;
    storage->node = vd_xstrdup(options->node);
    vd_buf_init(&storage->head, 64 * 1024);
    repl_calls_init(&storage->calls, "storage");
    vd_link_options_t link = {.path = options->path,
                              .item_max_bytes = ITEM_MAX_BYTES,
                              .item = item_arrived,
                              .peer_changed = peer_changed,
                              .cut = cut_off,
                              .context = storage};
    int rc = vd_link_open(loop, &link, &storage->link, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(loop, TICK_MS, TICK_MS, tick, storage, &storage->tick_source, err);
    if (rc != VD_OK) {
        repl_storage_close(&storage);
        return rc;
    }
    *ret_storage = storage;
    return VD_OK;
}

void repl_storage_close(repl_storage_t **storage_p)
{
    repl_storage_t *storage = *storage_p;
    if (storage == NULL)
        return;
    *storage_p = NULL;
    storage->state.attached = false;
    if (storage->link != NULL)
        vd_link_close(&storage->link);
    vd_loop_remove(&storage->tick_source);
    repl_calls_drop_all(&storage->calls); /* who asked is going away, too */
    vd_buf_done(&storage->head);
    vd_free(storage->node);
    vd_free(storage);
}
