/* veddb-storaged/inbox_arrive.c — what gateways say to the inbox, and what they are told of
 * storage's state. The I/O thread's. */
#include "libcommon/base/log.h"
#include "proto/failure.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/inbox_private.h"
#include "veddb-storaged/load.h"
#include "veddb-storaged/replication/positions.h"

/* ---- peers and what they are told ---- */

static stor_inbox_peer_t *peer_find(stor_inbox_t *inbox, uint64_t id)
{
    for (size_t i = 0; i < VD_LINK_PEERS_MAX; i++)
        if (inbox->peers[i].id == id)
            return &inbox->peers[i];
    return NULL;
}

static bool has_users(stor_storage_t *storage)
{
    stor_collection_info_t *infos;
    uint32_t count = 0;
    bool found = false;
    vd_arena_t *arena = vd_arena_create();
    if (stor_catalog_list(storage->catalog, arena, VD_SLICE_LIT("admin"), false, &infos, &count,
                          NULL) == VD_OK)
        for (uint32_t i = 0; i < count; i++)
            found |= vd_slice_is(infos[i].name, "system.users") && infos[i].documents > 0;
    vd_arena_destroy(&arena);
    return found;
}

static vdp_operation_state_t state_make(stor_inbox_t *inbox)
{
    stor_storage_t *storage = inbox->storage;
    /* Before the epoch: what it says is known must be in what is told with it. */
    uint64_t fresh_ms = stor_replication_fresh_ms(storage);
    bool ready = atomic_load(&storage->ready) && !atomic_load(&storage->draining);
    vd_slice_t topology = VD_SLICE_NULL;
    if (!stor_replication_alone(storage)) {
        vd_arena_reset(inbox->topology_arena);
        vd_bson_t copy = stor_replication_topology(storage, inbox->topology_arena);
        topology = vd_slice(copy.data, copy.len);
    }
    int role = stor_replication_role(storage);
    stor_storage_set_id(storage, inbox->set_id);
    return (vdp_operation_state_t){
        .boot_id = vd_slice(storage->boot_id, sizeof storage->boot_id),
        .ready = ready,
        .writable = role == VDP_ROLE_PRIMARY,
        .auth_epoch = atomic_load(&storage->auth_epoch),
        .term = stor_replication_term(storage),
        .newest = stor_engine_visible(storage->engine),
        .durable = stor_engine_durable(storage->engine),
        .last_write_ms = atomic_load(&storage->last_write_ms),
        .has_users = has_users(storage),
        .set_id = vd_slice(inbox->set_id, sizeof inbox->set_id),
        .role = (uint32_t)role,
        .majority = stor_replication_majority(storage),
        .topology = topology,
        .fresh_ms = fresh_ms,
    };
}

void stor_inbox_message_send(stor_inbox_t *inbox, uint64_t peer, const vdp_message_t *message,
                             const void *fields, uint64_t request_id)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {.id = message->id, .request_id = request_id};
    vd_buf_clear(&inbox->item);
    int rc = vdp_encode(&inbox->item, &envelope, message, fields, VD_SLICE_NULL, &err);
    if (rc == VD_OK)
        rc = vd_link_send(inbox->link, peer, vd_buf_slice(&inbox->item), VD_SLICE_NULL, &err);
    if (rc != VD_OK && rc != VD_ERR_CLOSED)
        vd_log(VD_LOG_WARN, "message to a gateway was not sent", "message=%s error=%d",
               message->name, -rc);
}

void stor_inbox_state_send(void *context)
{
    stor_inbox_t *inbox = context;
    vdp_operation_state_t state = state_make(inbox);
    inbox->told_role = (int)state.role;
    inbox->told_term = state.term;
    for (size_t i = 0; i < VD_LINK_PEERS_MAX; i++)
        if (inbox->peers[i].attached)
            stor_inbox_message_send(inbox, inbox->peers[i].id, &vdp_operation_state, &state, 0);
}

void stor_inbox_peer_changed(void *context, uint64_t id, bool up)
{
    stor_inbox_t *inbox = context;
    stor_inbox_peer_t *peer = peer_find(inbox, up ? 0 : id);
    if (!up)
        stor_registry_connection_closed(inbox->storage, id, 0);
    if (peer != NULL)
        *peer = (stor_inbox_peer_t){.id = up ? id : 0};
    VD_DEBUG("gateway link", "peer=%llu up=%d", (unsigned long long)id, up);
}

/* ---- what arrives ---- */

typedef struct {
    stor_inbox_t *inbox;
    stor_inbox_peer_t *peer;
    vdp_envelope_t envelope;
    vd_slice_t rest, item;
} arrival_t;

static int on_attach(const arrival_t *arrival, vd_error_t *err)
{
    stor_inbox_t *inbox = arrival->inbox;
    vdp_operation_attach_t attach = {0};
    vd_slice_t none;
    int rc = vdp_decode(&vdp_operation_attach, arrival->rest, &attach, &none, err);
    if (rc != VD_OK)
        return rc;
    arrival->peer->attached = true;
    vdp_operation_state_t state = state_make(inbox);
    stor_inbox_message_send(inbox, arrival->peer->id, &vdp_operation_attached, &state,
                            arrival->envelope.request_id);
    vd_log(VD_LOG_INFO, "gateway attached", "thread=%llu", (unsigned long long)attach.thread);
    return VD_OK;
}

/* Before others can see it (registry.h). */
static void choose_lane(stor_request_t *request)
{
    request->entry = stor_command_find(request->command.name);
    request->slow_lane = request->entry != NULL &&
                         (request->entry->flags & STOR_COMMAND_LONG) != 0 &&
                         (request->entry->point == NULL || !request->entry->point(request));
}

/* Too much waits before it. A getMore's time is what it may wait for documents. */
static int queue_check(stor_inbox_t *inbox, const stor_request_t *request, vd_error_t *err)
{
    const vdp_operation_command_t *command = &request->command;
    const stor_lane_t *lane = &inbox->lanes[request->slow_lane ? STOR_LANE_LONG : STOR_LANE_QUICK];
    uint64_t since = atomic_load_explicit(&lane->next_since_us, memory_order_relaxed);
    bool deadline = command->max_time_ms != 0 && !vd_slice_is(command->name, "getMore");
    if (VD_LIKELY(since == 0) || command->queue_wait_ms == 0 ||
        !stor_load_refuses(since, request->arrived_us, command->queue_wait_ms * 1000ull,
                           deadline ? command->max_time_ms * 1000ull : UINT64_MAX))
        return VD_OK;
    return vd_error_set(err, VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED,
                        "too much waits: what is next has waited for %llu ms",
                        (unsigned long long)((request->arrived_us - since) / 1000));
}

static int admit(stor_inbox_t *inbox, stor_request_t *request, vd_error_t *err)
{
    if (atomic_load(&inbox->storage->draining)) {
        request->reply_flags |= VDP_REPLY_RETRY;
        return vd_error_set(err, VD_ERR_INTERRUPTED_AT_SHUTDOWN, "interrupted at shutdown");
    }
    if (atomic_load_explicit(&inbox->inflight, memory_order_relaxed) < STOR_INFLIGHT_MAX &&
        inbox->held_bytes < VD_LINK_QUEUE_MAX_BYTES)
        return queue_check(inbox, request, err);
    if (request->command.queue_wait_ms != 0) /* its client is told to come back later */
        return vd_error_set(err, VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED,
                            "too many operations are in flight");
    request->reply_flags |= VDP_REPLY_RETRY;
    return vd_error_set(err, VD_ERR_TEMPORARILY_UNAVAILABLE, "too many operations are in flight");
}

static int on_command(const arrival_t *arrival, vd_error_t *err)
{
    stor_inbox_t *inbox = arrival->inbox;
    stor_request_t *request = stor_inbox_request_take(inbox);
    vd_error_t refusal = VD_ERROR_INIT;
    vd_slice_t body, none;
    request->peer = arrival->peer->id;
    /* One copy, then all that is decoded borrows it. */
    request->item = vd_arena_copy_slice(request->arena, arrival->item);
    int rc = vdp_decode_envelope(request->item, &request->envelope, &none, err);
    if (rc == VD_OK)
        rc = vdp_decode(&vdp_operation_command, none, &request->command, &body, err);
    if (rc == VD_OK && vdp_sections_parse(body, &request->sections, err) != VD_OK)
        rc = err->code = VD_ERR_BAD_VALUE; /* a client's bytes: nobody is cut off for them */
    if (rc != VD_OK) {
        stor_inbox_request_give(inbox, request);
        return rc;
    }
    choose_lane(request);
    request->queued_us = request->arrived_us;
    stor_request_set_deadline(request);
    rc = admit(inbox, request, &refusal);
    atomic_fetch_add_explicit(&inbox->inflight, 1, memory_order_relaxed);
    inbox->held_bytes += request->item.len;
    if (rc != VD_OK) {
        atomic_fetch_add_explicit(&inbox->refused, 1, memory_order_relaxed);
        stor_request_refuse(request, &refusal);
        stor_inbox_reply_encode(request);
        stor_inbox_done_push(inbox, request, request);
        return VD_OK;
    }
    atomic_fetch_add_explicit(&inbox->received, 1, memory_order_relaxed);
    stor_registry_add(request);
    if (request->deadline_us != 0)
        stor_inbox_sweep_at(inbox, request->deadline_us);
    stor_queue_push(&inbox->arrived[request->slow_lane ? STOR_LANE_LONG : STOR_LANE_QUICK],
                    request);
    return VD_OK;
}

static int on_cancel(const arrival_t *arrival, vd_error_t *err)
{
    vdp_operation_cancel_t cancel = {0};
    vd_slice_t none;
    int rc = vdp_decode(&vdp_operation_cancel, arrival->rest, &cancel, &none, err);
    if (rc == VD_OK)
        (void)stor_registry_cancel(arrival->inbox->storage, arrival->peer->id,
                                   cancel.target_request_id); /* false: it has ended */
    return rc;
}

static int on_connection_closed(const arrival_t *arrival, vd_error_t *err)
{
    vdp_operation_connection_closed_t closed = {0};
    vd_slice_t none;
    int rc = vdp_decode(&vdp_operation_connection_closed, arrival->rest, &closed, &none, err);
    if (rc == VD_OK && closed.connection_id != 0)
        stor_registry_connection_closed(arrival->inbox->storage, arrival->peer->id,
                                        closed.connection_id);
    return rc;
}

static int on_ping(const arrival_t *arrival, vd_error_t *err)
{
    vdp_operation_ping_t ping = {0};
    vd_slice_t none;
    int rc = vdp_decode(&vdp_operation_ping, arrival->rest, &ping, &none, err);
    if (rc == VD_OK)
        stor_inbox_message_send(arrival->inbox, arrival->peer->id, &vdp_operation_pong, &ping,
                                arrival->envelope.request_id);
    return rc;
}

/* All that a gateway may say, and whether it must have attached before. */
static const struct {
    uint32_t id;
    bool attached;
    int (*handle)(const arrival_t *arrival, vd_error_t *err);
} messages[] = {
    {VDP_OPERATION_COMMAND, true, on_command},
    {VDP_OPERATION_CANCEL, true, on_cancel},
    {VDP_OPERATION_CONNECTION_CLOSED, true, on_connection_closed},
    {VDP_OPERATION_PING, true, on_ping},
    {VDP_OPERATION_ATTACH, false, on_attach},
};

static int message_handle(const arrival_t *arrival, vd_error_t *err)
{
    for (size_t i = 0; i < VD_COUNT_OF(messages); i++) {
        if (messages[i].id != arrival->envelope.id)
            continue;
        if (messages[i].attached && !arrival->peer->attached)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "%s before ATTACH",
                                vdp_id_name(arrival->envelope.id));
        return messages[i].handle(arrival, err);
    }
    return vdp_foreign(arrival->envelope.id, "storage", err);
}

void stor_inbox_item_arrived(void *context, uint64_t peer, vd_slice_t item)
{
    stor_inbox_t *inbox = context;
    vd_error_t err = VD_ERROR_INIT;
    arrival_t arrival = {.inbox = inbox, .peer = peer_find(inbox, peer), .item = item};
    if (arrival.peer == NULL)
        return; /* one too many: the link bounds them */
    int rc = vdp_decode_envelope(item, &arrival.envelope, &arrival.rest, &err);
    if (rc == VD_OK)
        rc = message_handle(&arrival, &err);
    if (rc == VD_OK)
        return;
    if (rc == VD_ERR_PROTOCOL) {
        vd_link_cut(inbox->link, peer, err.message);
        stor_audit_cut(inbox->storage->audit, "veddb-gatewayd", err.message);
        return;
    }
    char text[VD_ERROR_MESSAGE_SIZE + 64];
    vd_log(VD_LOG_WARN, "message of a gateway refused", "error=%s",
           vd_log_quote(vd_slice_str(err.message), text, sizeof text));
    vdp_failure_t failure = vdp_failure_from(&err);
    stor_inbox_message_send(inbox, peer, &vdp_failure, &failure, arrival.envelope.request_id);
}
