/* veddb-gatewayd/upstream.c — see upstream.h.
 *
 * A flight's id is its slot and the slot's round, so that an answer that comes too late meets
 * nobody. */
#include "veddb-gatewayd/upstream.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "proto/failure.h"
#include "veddb-gatewayd/gatewayd.h"

/* Of what is no command: in the first slot's round 0, which no flight has. 0 would be what storage
 * says of an item that it can't read at all. */
#define NOTICE_ID 1

typedef struct {
    gate_flight_t *flight; /* NULL: free */
    uint32_t round;
    uint32_t next_free;
} slot_t;

struct gate_upstream {
    gate_thread_t *thread;
    vd_link_t *link;
    uint64_t wait_ms;
    slot_t *slots;
    uint32_t slot_count, free_head, used; /* free_head: index + 1 */
    vd_list_t waiting;
    uint32_t waiting_count;
    vd_buf_t head;
    bool up;
};

static bool is_ready(const gate_upstream_t *upstream)
{
    return upstream->thread->state.attached && upstream->thread->state.ready;
}

static gate_flight_t *flight_of(gate_upstream_t *upstream, uint64_t id)
{
    uint32_t index = (uint32_t)id - 1, round = (uint32_t)(id >> 32);
    if ((uint32_t)id == 0 || index >= upstream->slot_count || upstream->slots[index].round != round)
        return NULL;
    return upstream->slots[index].flight;
}

static int slot_take(gate_upstream_t *upstream, gate_flight_t *flight, vd_error_t *err)
{
    if (upstream->free_head == 0) {
        if (upstream->slot_count >= GATE_FLIGHTS_MAX)
            return vd_error_set(err, VD_ERR_TEMPORARILY_UNAVAILABLE,
                                "too many requests are in flight");
        uint32_t count = upstream->slot_count == 0 ? 64 : upstream->slot_count * 2;
        upstream->slots = vd_xrealloc(upstream->slots, count * sizeof *upstream->slots);
        for (uint32_t i = count; i-- > upstream->slot_count;) {
            upstream->slots[i] = (slot_t){.round = 1, .next_free = upstream->free_head};
            upstream->free_head = i + 1;
        }
        upstream->slot_count = count;
    }
    uint32_t index = upstream->free_head - 1;
    slot_t *slot = &upstream->slots[index];
    upstream->free_head = slot->next_free;
    slot->flight = flight;
    upstream->used++;
    flight->id = (uint64_t)slot->round << 32 | (index + 1);
    return VD_OK;
}

static void slot_give(gate_upstream_t *upstream, gate_flight_t *flight)
{
    uint32_t index = (uint32_t)flight->id - 1;
    slot_t *slot = &upstream->slots[index];
    VD_ASSERT(slot->flight == flight);
    slot->flight = NULL;
    slot->round++;
    slot->next_free = upstream->free_head;
    upstream->free_head = index + 1;
    upstream->used--;
    flight->id = 0;
    if (vd_node_linked(&flight->node)) {
        vd_list_remove(&flight->node);
        upstream->waiting_count--;
    }
}

static void finish(gate_upstream_t *upstream, gate_flight_t *flight, const gate_answer_t *answer)
{
    slot_give(upstream, flight);
    flight->done(flight->context, answer);
}

static void fail(gate_upstream_t *upstream, gate_flight_t *flight, int code, const char *message)
{
    vd_error_t err = VD_ERROR_INIT;
    (void)vd_error_set(&err, code, "%s", message); /* the code is the answer's */
    finish(upstream, flight, &(gate_answer_t){.rc = code, .err = &err});
}

static void wait_in_line(gate_upstream_t *upstream, gate_flight_t *flight)
{
    flight->sent = false;
    if (flight->deadline_ms == 0) /* of all its waiting, from the first */
        flight->deadline_ms =
            vd_monotonic_ms() + (flight->wait_ms != 0 ? flight->wait_ms : upstream->wait_ms);
    vd_list_push_back(&upstream->waiting, &flight->node);
    upstream->waiting_count++;
}

/* One that was sent already: it goes out again when storage is ready, unless its time is over. */
static void wait_again(gate_upstream_t *upstream, gate_flight_t *flight)
{
    if (flight->deadline_ms != 0 && vd_monotonic_ms() >= flight->deadline_ms)
        fail(upstream, flight, VD_ERR_HOST_UNREACHABLE, "storage did not come back in time");
    else
        wait_in_line(upstream, flight);
}

static int send_notice(gate_upstream_t *upstream, const vdp_message_t *message, const void *fields,
                       vd_error_t *err)
{
    vd_buf_clear(&upstream->head);
    vdp_envelope_t envelope = {.id = message->id, .request_id = NOTICE_ID};
    int rc = vdp_encode(&upstream->head, &envelope, message, fields, VD_SLICE_NULL, err);
    return rc != VD_OK
               ? rc
               : vd_link_send(upstream->link, 0, vd_buf_slice(&upstream->head), VD_SLICE_NULL, err);
}

static int transmit(gate_upstream_t *upstream, gate_flight_t *flight, vd_error_t *err)
{
    if ((flight->command.flags & VDP_COMMAND_INTERNAL) != 0)
        flight->command.auth_epoch = upstream->thread->state.auth_epoch;
    vd_buf_clear(&upstream->head);
    vdp_envelope_t envelope = {.id = VDP_OPERATION_COMMAND,
                               .request_id = flight->id,
                               .deadline_ms = flight->command.max_time_ms};
    int rc = vdp_encode(&upstream->head, &envelope, &vdp_operation_command, &flight->command,
                        VD_SLICE_NULL, err);
    if (rc == VD_OK)
        rc = vd_link_send(upstream->link, 0, vd_buf_slice(&upstream->head), flight->body, err);
    if (rc == VD_OK)
        flight->sent = true;
    return rc;
}

/* Sends what waits, first come first served, as far as the link takes it. */
static void flush_waiting(gate_upstream_t *upstream)
{
    while (is_ready(upstream) && !vd_list_empty(&upstream->waiting)) {
        gate_flight_t *flight =
            VD_CONTAINER_OF(vd_list_first(&upstream->waiting), gate_flight_t, node);
        vd_error_t err = VD_ERROR_INIT;
        int rc = transmit(upstream, flight, &err);
        if (rc == VD_ERR_FULL || rc == VD_ERR_CLOSED || rc == VD_ERR_AGAIN)
            return;
        if (rc != VD_OK) {
            finish(upstream, flight, &(gate_answer_t){.rc = rc, .err = &err});
            continue;
        }
        vd_list_remove(&flight->node);
        upstream->waiting_count--;
    }
}

/* What storage was asked and hasn't answered will never be answered: it is gone, or something that
 * it said can't be read. Its next state attaches it again. */
static void lost(gate_upstream_t *upstream)
{
    if (upstream->thread->state.attached)
        vd_log(VD_LOG_WARN, "storage went away", "thread=%u in_flight=%u", upstream->thread->index,
               upstream->used);
    upstream->thread->state.attached = false;
    gate_note_state(upstream->thread); /* first: the refusals name the new topologyVersion */
    /* done() may start new flights and so move the slots: they are looked up by number each time,
     * and new ones are not sent. */
    for (uint32_t i = 0; i < upstream->slot_count; i++) {
        gate_flight_t *flight = upstream->slots[i].flight;
        if (flight == NULL || !flight->sent)
            continue;
        flight->losses++;
        if (!flight->resend) {
            fail(upstream, flight, VD_ERR_HOST_UNREACHABLE,
                 "storage ended before it answered; whether the operation was done is not known");
        } else if (flight->elsewhere && gate_member_others_lead(upstream->thread->gate)) {
            fail(upstream, flight, VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE,
                 "storage of this member ended before it answered; another member may lead soon");
        } else if (flight->losses >= GATE_SENDS_MAX) {
            fail(upstream, flight, VD_ERR_HOST_UNREACHABLE,
                 "storage ended each time that it was asked this; it is not asked again");
        } else {
            flight->command.flags |= VDP_COMMAND_RESENT;
            wait_again(upstream, flight);
        }
    }
}

static void peer_changed(void *context, uint64_t peer, bool up)
{
    (void)peer; /* a DEALER has one */
    gate_upstream_t *upstream = context;
    vd_error_t err = VD_ERROR_INIT;
    upstream->up = up;
    if (!up) {
        lost(upstream);
        return;
    }
    vdp_operation_attach_t attach = {vd_slice(upstream->thread->gate->instance, 16),
                                     upstream->thread->index};
    if (send_notice(upstream, &vdp_operation_attach, &attach, &err) != VD_OK)
        vd_log(VD_LOG_ERROR, "can't attach to storage", "error=%d", err.code);
}

/* Of thread 0 alone, which tells the others (member.h). */
static void take_topology(gate_storage_state_t *state, vd_slice_t topology)
{
    vd_free(state->topology);
    state->topology = NULL;
    state->topology_len = (uint32_t)topology.len;
    if (topology.len == 0)
        return;
    state->topology = vd_xalloc(topology.len);
    memcpy(state->topology, topology.data, topology.len);
}

static void apply_state(gate_upstream_t *upstream, const vdp_operation_state_t *fields)
{
    gate_storage_state_t *state = &upstream->thread->state;
    if (fields->boot_id.len == 16) {
        if (state->attached && memcmp(state->boot_id, fields->boot_id.data, 16) != 0)
            lost(upstream); /* it died and came back faster than the link noticed */
        memcpy(state->boot_id, fields->boot_id.data, 16);
        gate_cache_attach(upstream->thread->cache, state->boot_id);
    }
    state->heard_ms = vd_loop_now_ms(upstream->thread->loop);
    if (fields->set_id.len == 12)
        memcpy(state->set_id, fields->set_id.data, 12);
    if (!state->attached)
        vd_log(VD_LOG_INFO, "storage is attached", "thread=%u ready=%d waiting=%u",
               upstream->thread->index, fields->ready, upstream->waiting_count);
    state->attached = state->known = true;
    state->ready = fields->ready, state->writable = fields->writable,
    state->has_users = fields->has_users;
    state->auth_epoch = fields->auth_epoch, state->term = fields->term;
    state->durable = fields->durable, state->last_write_ms = fields->last_write_ms;
    state->majority = fields->topology.len == 0 ? fields->durable : fields->majority;
    state->role = fields->role;
    state->fresh_ms = fields->fresh_ms;
    if (upstream->thread->index == 0)
        atomic_store(&upstream->thread->gate->fresh_ms, fields->fresh_ms);
    if (upstream->thread->index == 0)
        take_topology(state, fields->topology);
    if (fields->newest > state->newest)
        state->newest = fields->newest;
    gate_note_state(upstream->thread);
    flush_waiting(upstream);
}

/* An answer that can't be read is one all the same: its flight would wait for ever. */
static void on_reply(gate_upstream_t *upstream, uint64_t id, vd_slice_t rest, vd_error_t *err)
{
    vdp_operation_reply_t reply = {0};
    vd_slice_t body;
    gate_flight_t *flight = flight_of(upstream, id); /* NULL: the client has left meanwhile */
    int rc = vdp_decode(&vdp_operation_reply, rest, &reply, &body, err);
    if (rc == VD_OK && reply.operation_time > upstream->thread->state.newest)
        upstream->thread->state.newest = reply.operation_time;
    if (flight == NULL)
        return;
    if (rc != VD_OK)
        finish(upstream, flight, &(gate_answer_t){.rc = rc, .err = err});
    else if ((reply.flags & VDP_REPLY_RETRY) == 0)
        finish(upstream, flight, &(gate_answer_t){.rc = VD_OK, .reply = &reply, .body = body});
    else if ((flight->command.flags & VDP_COMMAND_INTERNAL) != 0)
        wait_again(upstream, flight); /* with the new epoch: at the next state, or tick */
    else
        fail(upstream, flight, VD_ERR_AGAIN, "storage asks to try again");
}

static void on_failure(gate_upstream_t *upstream, uint64_t id, vd_slice_t rest, vd_error_t *err)
{
    vdp_failure_t failure = {0};
    vd_slice_t body;
    vd_error_t said = VD_ERROR_INIT;
    gate_flight_t *flight = flight_of(upstream, id);
    int rc = vdp_decode(&vdp_failure, rest, &failure, &body, err);
    if (rc == VD_OK) {
        rc = vdp_failure_to(&failure, &said);
        vd_log(VD_LOG_WARN, "storage refused a message", "thread=%u request=%llu error=%d",
               upstream->thread->index, (unsigned long long)id, rc);
    }
    if (flight != NULL)
        finish(upstream, flight,
               &(gate_answer_t){.rc = rc == VD_OK ? VD_ERR_INTERNAL : rc,
                                .err = said.code != VD_OK ? &said : err});
    else if (id == 0) /* it could not even read of whom the message was */
        lost(upstream);
}

static void item_arrived(void *context, uint64_t peer, vd_slice_t item)
{
    gate_upstream_t *upstream = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope;
    vd_slice_t rest, body;
    if (vdp_decode_envelope(item, &envelope, &rest, &err) != VD_OK)
        goto cleanup;
    switch (envelope.id) {
    case VDP_OPERATION_REPLY:
        on_reply(upstream, envelope.request_id, rest, &err);
        break;
    case VDP_OPERATION_ATTACHED:
    case VDP_OPERATION_STATE: {
        vdp_operation_state_t state = {0};
        const vdp_message_t *message =
            envelope.id == VDP_OPERATION_STATE ? &vdp_operation_state : &vdp_operation_attached;
        if (vdp_decode(message, rest, &state, &body, &err) == VD_OK)
            apply_state(upstream, &state);
        break;
    }
    case VDP_FAILURE:
        on_failure(upstream, envelope.request_id, rest, &err);
        break;
    case VDP_OPERATION_PONG:
        break;
    default:
        (void)!vdp_foreign(envelope.id, "a gateway", &err); /* told below */
        break;
    }
cleanup:
    if (err.code == VD_ERR_PROTOCOL)
        vd_link_cut(upstream->link, peer, err.message); /* what is under way is lost with it */
    else if (err.code != VD_OK)
        vd_log(VD_LOG_ERROR, "storage sent something that can't be read", "error=%d", err.code);
}

static void cut_off(void *context)
{
    gate_upstream_t *upstream = context;
    const gate_events_t *events = &upstream->thread->gate->events;
    if (events->cut_off != NULL)
        events->cut_off(events->context);
}

int gate_upstream_create(gate_thread_t *thread, const char *path, uint64_t wait_ms,
                         gate_upstream_t **ret_upstream, vd_error_t *err)
{
    gate_upstream_t *upstream = vd_xalloc(sizeof *upstream);
    upstream->thread = thread;
    upstream->wait_ms = wait_ms;
    vd_list_init(&upstream->waiting);
    vd_buf_init(&upstream->head, 64 * 1024);
    /* Callbacks may come before vd_link_open returns its link to us only from the loop, never from
     * inside. */
    vd_link_options_t options = {.path = path,
                                 .item = item_arrived,
                                 .peer_changed = peer_changed,
                                 .cut = cut_off,
                                 .context = upstream};
    int rc = vd_link_open(thread->loop, &options, &upstream->link, err);
    if (rc != VD_OK) {
        gate_upstream_destroy(&upstream);
        return rc;
    }
    *ret_upstream = upstream;
    return VD_OK;
}

void gate_upstream_destroy(gate_upstream_t **upstream_p)
{
    gate_upstream_t *upstream = *upstream_p;
    if (upstream == NULL)
        return;
    for (uint32_t i = 0; i < upstream->slot_count; i++) {
        if (upstream->slots[i].flight != NULL)
            fail(upstream, upstream->slots[i].flight, VD_ERR_SHUTDOWN_IN_PROGRESS,
                 "the gateway is stopping");
    }
    if (upstream->link != NULL)
        vd_link_close(&upstream->link);
    vd_buf_done(&upstream->head);
    take_topology(&upstream->thread->state, VD_SLICE_NULL);
    vd_free(upstream->slots);
    vd_free(upstream);
    *upstream_p = NULL;
}

int gate_upstream_send(gate_upstream_t *upstream, gate_flight_t *flight, vd_error_t *err)
{
    VD_ASSERT(flight->id == 0 && flight->done != NULL);
    flight->sent = false;
    flight->node = (vd_node_t){0};
    int rc = slot_take(upstream, flight, err);
    if (rc != VD_OK)
        return rc;
    if (!is_ready(upstream) || upstream->waiting_count != 0) {
        wait_in_line(upstream, flight);
        return VD_OK;
    }
    rc = transmit(upstream, flight, err);
    if (rc == VD_ERR_FULL || rc == VD_ERR_CLOSED || rc == VD_ERR_AGAIN) {
        vd_error_clear(err);
        wait_in_line(upstream, flight);
        return VD_OK;
    }
    if (rc != VD_OK)
        slot_give(upstream, flight);
    return rc;
}

void gate_upstream_cancel(gate_upstream_t *upstream, gate_flight_t *flight)
{
    if (upstream == NULL || flight->id == 0)
        return;
    uint64_t id = flight->id;
    bool sent = flight->sent && upstream->thread->state.attached;
    slot_give(upstream, flight);
    vdp_operation_cancel_t cancel = {id};
    /* Best effort: an operation that is not cancelled ends by itself. */
    if (sent && send_notice(upstream, &vdp_operation_cancel, &cancel, NULL) != VD_OK)
        VD_DEBUG("cancel was not sent", "id=%llu", (unsigned long long)id);
}

void gate_upstream_connection_closed(gate_upstream_t *upstream, uint64_t connection_id)
{
    vdp_operation_connection_closed_t closed = {connection_id};
    /* Best effort: cursors of a lost connection also time out. */
    if (upstream != NULL && upstream->thread->state.attached &&
        send_notice(upstream, &vdp_operation_connection_closed, &closed, NULL) != VD_OK)
        VD_DEBUG("end of connection was not sent", "conn=%llu", (unsigned long long)connection_id);
}

void gate_upstream_tick(gate_upstream_t *upstream, uint64_t now_ms)
{
    vd_list_t over; /* apart, since done() may change the line */
    vd_list_init(&over);
    flush_waiting(upstream);
    VD_LIST_EACH(&upstream->waiting, node)
    {
        if (now_ms < VD_CONTAINER_OF(node, gate_flight_t, node)->deadline_ms)
            continue;
        vd_list_remove(node);
        vd_list_push_back(&over, node);
    }
    while (!vd_list_empty(&over))
        fail(upstream, VD_CONTAINER_OF(vd_list_first(&over), gate_flight_t, node),
             VD_ERR_HOST_UNREACHABLE, "storage did not come back in time");
}
