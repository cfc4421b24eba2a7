/* libcommon/runtime/link.c — see link.h.
 *
 * ZeroMQ:  its descriptor is edge-triggered: after every turn we flush, then receive until EAGAIN.
 *          IMMEDIATE keeps frames from waiting for a connection that isn't there (they would reach
 *          the next instance). High-water marks count frames and only bound what lies inside
 *          ZeroMQ: at EAGAIN frames stay with us, where bytes are counted. A monitor tells of
 *          broken connections at once. */
#include "libcommon/base/limits.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/runtime/link_private.h"

#include <errno.h>
#include <stdio.h>
#include <zmq.h>

#define ROUNDS_PER_STEP  4
#define PIECES_PER_FLUSH 4
#define COPY_MAX_BYTES   4096
#define CLOSE_LINGER_MS  200
#define RETRY_MS         2
#define HELLO_RETRY_MS   20
#define PROBE_MS         10
#define PROBES           4

#define CUT_LOG_MS 1000
#define CUT_HELP   "Links between processes that were cut because of what was said on them"

typedef struct {
    vd_node_t node;
    zmq_msg_t msg;
    size_t len;
} frame_t;

typedef struct {
    vd_node_t node;
    uint32_t id;
    uint8_t *data;
    size_t len, sent;
    bool ordered; /* under way alone among those that are */
} stream_out_t;

/* ---- peers ---- */

static vd_link_peer_t *peer_new(vd_link_t *link, uint64_t number)
{
    vd_link_peer_t *peer = vd_xalloc(sizeof *peer);
    peer->number = number;
    vd_list_init(&peer->frames);
    vd_list_init(&peer->streams_active);
    vd_list_init(&peer->streams_waiting);
    vd_list_init(&peer->streams_in);
    peer->last_seen_ms = vd_loop_now_ms(link->loop);
    return peer;
}

static void stream_out_free(stream_out_t *stream)
{
    vd_free(stream->data);
    vd_free(stream);
}

void vd_link_stream_in_free(vd_link_peer_t *peer, vd_link_stream_in_t *stream)
{
    vd_list_remove(&stream->node);
    peer->streams_in_count--;
    peer->partial_bytes -= vd_buf_len(&stream->bytes);
    vd_buf_done(&stream->bytes);
    vd_free(stream);
}

static void frame_free(frame_t *frame)
{
    (void)zmq_msg_close(&frame->msg);
    vd_free(frame);
}

/* Forgets everything that was on its way to or from a peer. */
static void peer_purge(vd_link_peer_t *peer)
{
    vd_node_t *node;
    while ((node = vd_list_pop_front(&peer->frames)) != NULL)
        frame_free(VD_CONTAINER_OF(node, frame_t, node));
    while ((node = vd_list_pop_front(&peer->streams_active)) != NULL)
        stream_out_free(VD_CONTAINER_OF(node, stream_out_t, node));
    while ((node = vd_list_pop_front(&peer->streams_waiting)) != NULL)
        stream_out_free(VD_CONTAINER_OF(node, stream_out_t, node));
    VD_LIST_EACH(&peer->streams_in, in)
    vd_link_stream_in_free(peer, VD_CONTAINER_OF(in, vd_link_stream_in_t, node));
    vd_free(peer->batch);
    peer->batch = NULL;
    peer->batch_len = peer->batch_cap = 0;
    peer->streams_active_count = 0;
    peer->streams_active_bytes = 0;
    peer->queued_bytes = 0;
    peer->blocked = false;
}

const char *vd_link_name(const vd_link_t *link)
{
    const char *name = link->path + strlen(link->path);
    for (int slashes = 0; name > link->path; name--)
        if (name[-1] == '/' && ++slashes == 2)
            break;
    return name;
}

static vd_link_peer_t *peer_find(const vd_link_t *link, uint64_t number)
{
    vd_link_peer_t *peer = link->peers[number & (VD_LINK_PEERS_MAX - 1)];
    return peer != NULL && peer->number == number ? peer : NULL;
}

void vd_link_peer_lost(vd_link_t *link, vd_link_peer_t *peer)
{
    bool was_up = peer->up;
    uint64_t number = peer->number;
    peer->up = false;
    peer_purge(peer);
    if (link->options.bind) {
        (void)vd_map_remove(link->by_routing_id, vd_slice(peer->routing_id, peer->routing_id_len));
        link->peers[number & (VD_LINK_PEERS_MAX - 1)] = NULL;
        vd_free(peer);
    } else {
        peer->session++;
        peer->cut = peer->cutting = false;
        link->hello_due = true;
        link->dirty = true;
    }
    if (was_up && link->options.peer_changed != NULL)
        link->options.peer_changed(link->options.context, number, false);
}

void vd_link_peer_found(vd_link_t *link, vd_link_peer_t *peer)
{
    peer->up = true;
    if (link->options.peer_changed != NULL)
        link->options.peer_changed(link->options.context, peer->number, true);
}

vd_link_peer_t *vd_link_peer_add(vd_link_t *link, vd_slice_t routing_id)
{
    for (uint32_t slot = 0; slot < VD_LINK_PEERS_MAX; slot++) {
        if (link->peers[slot] != NULL)
            continue;
        vd_link_peer_t *peer = peer_new(link, link->next_generation++ * VD_LINK_PEERS_MAX + slot);
        memcpy(peer->routing_id, routing_id.data, routing_id.len);
        peer->routing_id_len = (uint8_t)routing_id.len;
        if (vd_map_put(link->by_routing_id, routing_id, peer, NULL) != VD_OK) {
            vd_free(peer);
            return NULL;
        }
        link->peers[slot] = peer;
        if (slot >= link->peer_high)
            link->peer_high = slot + 1;
        return peer;
    }
    return NULL;
}

/* ---- sending ---- */

static void batch_reserve(vd_link_peer_t *peer, size_t len)
{
    size_t need = peer->batch_len + len + (peer->batch_len == 0 ? VD_LINK_SESSION_BYTES : 0);
    if (need > peer->batch_cap) {
        size_t cap = peer->batch_cap == 0 ? COPY_MAX_BYTES : peer->batch_cap;
        while (cap < need)
            cap *= 2;
        peer->batch = vd_xrealloc(peer->batch, cap);
        peer->batch_cap = cap;
    }
    if (peer->batch_len == 0) {
        vd_put_u32(peer->batch, peer->session);
        peer->batch_len = VD_LINK_SESSION_BYTES;
    }
}

static void batch_add(vd_link_peer_t *peer, vd_slice_t bytes)
{
    if (bytes.len > 0)
        memcpy(peer->batch + peer->batch_len, bytes.data, bytes.len);
    peer->batch_len += bytes.len;
}

static void batch_add_u32(vd_link_peer_t *peer, uint32_t v)
{
    vd_put_u32(peer->batch + peer->batch_len, v);
    peer->batch_len += 4;
}

static void free_data(void *data, void *hint)
{
    (void)hint;
    vd_free(data);
}

/* Makes the batch a frame of its own. Small ones are copied, so that the buffer stays. */
static void batch_seal(vd_link_peer_t *peer)
{
    if (peer->batch_len == 0)
        return;
    frame_t *frame = vd_xalloc(sizeof *frame);
    int rc;
    if (peer->batch_len <= COPY_MAX_BYTES) {
        rc = zmq_msg_init_size(&frame->msg, peer->batch_len);
        VD_ASSERT(rc == 0); /* out of memory */
        memcpy(zmq_msg_data(&frame->msg), peer->batch, peer->batch_len);
    } else {
        rc = zmq_msg_init_data(&frame->msg, peer->batch, peer->batch_len, free_data, NULL);
        VD_ASSERT(rc == 0); /* out of memory */
        peer->batch = NULL;
        peer->batch_cap = 0;
    }
    frame->len = peer->batch_len;
    peer->batch_len = 0;
    vd_list_push_back(&peer->frames, &frame->node);
}

static void batch_room(vd_link_peer_t *peer, size_t len)
{
    if (peer->batch_len + len + VD_LINK_SESSION_BYTES > VD_LINK_FRAME_MAX_BYTES)
        batch_seal(peer);
    size_t before = peer->batch_len;
    batch_reserve(peer, len);
    peer->queued_bytes += peer->batch_len - before + len;
}

static void send_control(vd_link_t *link, vd_link_peer_t *peer, uint8_t type)
{
    batch_room(peer, VD_LINK_HEAD_BYTES + 1);
    batch_add_u32(peer, 1u | (uint32_t)VD_LINK_KIND_CONTROL << VD_LINK_KIND_SHIFT);
    batch_add(peer, vd_slice(&type, 1));
    link->dirty = true;
}

static size_t hello_write(const vd_link_t *link, uint8_t *out)
{
    vd_put_u32(out,
               (2 + VD_LINK_INSTANCE_BYTES) | (uint32_t)VD_LINK_KIND_CONTROL << VD_LINK_KIND_SHIFT);
    out[4] = VD_LINK_CONTROL_HELLO;
    out[5] = VD_LINK_PROTOCOL;
    memcpy(out + 6, link->instance, VD_LINK_INSTANCE_BYTES);
    return 6 + VD_LINK_INSTANCE_BYTES;
}

void vd_link_hello_answer(vd_link_t *link, vd_link_peer_t *peer)
{
    uint8_t answer[6 + VD_LINK_INSTANCE_BYTES];
    size_t len = hello_write(link, answer);
    batch_room(peer, len);
    batch_add(peer, vd_slice(answer, len));
    link->dirty = true;
}

static vd_link_sent_t send_msg(vd_link_t *link, vd_link_peer_t *peer, zmq_msg_t *msg)
{
    int rc;
    if (link->options.bind) {
        do
            rc = zmq_send(link->wire.socket, peer->routing_id, peer->routing_id_len,
                          ZMQ_SNDMORE | ZMQ_DONTWAIT);
        while (rc < 0 && errno == EINTR);
        if (rc < 0)
            return errno == EAGAIN ? VD_LINK_BLOCKED : VD_LINK_GONE;
    }
    do
        rc = zmq_msg_send(msg, link->wire.socket, ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    if (rc < 0)
        return errno == EAGAIN ? VD_LINK_BLOCKED : VD_LINK_GONE;
    return VD_LINK_SENT;
}

vd_link_sent_t vd_link_control_now(vd_link_t *link, vd_slice_t routing_id, uint32_t session,
                                   uint8_t type)
{
    uint8_t frame[VD_LINK_SESSION_BYTES + VD_LINK_HEAD_BYTES + 1];
    vd_put_u32(frame, session);
    vd_put_u32(frame + 4, 1u | (uint32_t)VD_LINK_KIND_CONTROL << VD_LINK_KIND_SHIFT);
    frame[8] = type;
    int rc = 0;
    if (link->options.bind)
        rc = zmq_send(link->wire.socket, routing_id.data, routing_id.len,
                      ZMQ_SNDMORE | ZMQ_DONTWAIT);
    if (rc >= 0)
        rc = zmq_send(link->wire.socket, frame, sizeof frame, ZMQ_DONTWAIT);
    return rc >= 0                             ? VD_LINK_SENT
           : errno == EAGAIN || errno == EINTR ? VD_LINK_BLOCKED
                                               : VD_LINK_GONE;
}

static vd_link_sent_t cut_tell(vd_link_t *link, const vd_link_peer_t *peer)
{
    return vd_link_control_now(link, vd_slice(peer->routing_id, peer->routing_id_len),
                               peer->session, VD_LINK_CONTROL_CUT);
}

void vd_link_peer_cut(vd_link_t *link, vd_link_peer_t *peer, const char *why)
{
    bool was_up = peer->up;
    char quoted[VD_ERROR_MESSAGE_SIZE * 2];
    uint64_t now = vd_loop_now_ms(link->loop);
    if (now - link->cut_logged_ms >= CUT_LOG_MS) /* whoever comes back for it fills no disk */
        vd_log(VD_LOG_ERROR, "a link was cut: its other end said what it does not carry",
               "link=%s peer=%llu cut_before=%llu reason=%s", vd_link_name(link),
               (unsigned long long)peer->number, (unsigned long long)link->stats.cut,
               vd_log_quote(vd_slice_str(why), quoted, sizeof quoted));
    link->cut_logged_ms = now - link->cut_logged_ms >= CUT_LOG_MS ? now : link->cut_logged_ms;
    vd_metric_add(link->cut_by_us, 1);
    link->stats.cut++;
    peer->up = peer->cutting = false;
    peer->cut = true;
    peer_purge(peer);
    (void)cut_tell(link, peer); /* a ROUTER tells it again at each tick */
    link->hello_due = false;
    if (was_up && link->options.peer_changed != NULL)
        link->options.peer_changed(link->options.context, peer->number, false);
}

static vd_link_sent_t flush_frames(vd_link_t *link, vd_link_peer_t *peer)
{
    vd_node_t *node;
    while ((node = vd_list_first(&peer->frames)) != NULL) {
        frame_t *frame = VD_CONTAINER_OF(node, frame_t, node);
        vd_link_sent_t sent = send_msg(link, peer, &frame->msg);
        if (sent != VD_LINK_SENT)
            return sent;
        peer->queued_bytes -= frame->len;
        link->stats.frames_sent++;
        link->stats.bytes_sent += frame->len;
        vd_list_remove(&frame->node);
        frame_free(frame);
    }
    peer->last_sent_ms = vd_loop_now_ms(link->loop);
    return VD_LINK_SENT;
}

/* Bounded, because the other end holds what has come of each until it is whole. */
static void activate_streams(vd_link_peer_t *peer)
{
    VD_LIST_EACH(&peer->streams_waiting, node)
    {
        stream_out_t *stream = VD_CONTAINER_OF(node, stream_out_t, node);
        size_t len = stream->len;
        if (stream->ordered && peer->ordered_active)
            continue; /* the one before it must have left */
        if (peer->streams_active_count == VD_LINK_STREAMS_ACTIVE_MAX ||
            (peer->streams_active_count > 0 &&
             peer->streams_active_bytes + len > VD_LINK_STREAMS_ACTIVE_MAX_BYTES))
            return;
        peer->ordered_active |= stream->ordered;
        vd_list_remove(node);
        vd_list_push_back(&peer->streams_active, node);
        peer->streams_active_count++;
        peer->streams_active_bytes += len;
    }
}

/* One piece of the large item whose turn it is becomes a frame. */
static void cut_piece(vd_link_peer_t *peer)
{
    activate_streams(peer);
    stream_out_t *stream =
        VD_CONTAINER_OF(vd_list_pop_front(&peer->streams_active), stream_out_t, node);
    size_t len = stream->len - stream->sent;
    if (len > VD_LINK_PIECE_MAX_BYTES)
        len = VD_LINK_PIECE_MAX_BYTES;
    peer->queued_bytes -= len; /* counted again as part of the batch */
    batch_room(peer, VD_LINK_HEAD_BYTES + VD_LINK_PIECE_HEAD_BYTES + len);
    batch_add_u32(peer, (uint32_t)(VD_LINK_PIECE_HEAD_BYTES + len) | (uint32_t)VD_LINK_KIND_PIECE
                                                                         << VD_LINK_KIND_SHIFT);
    batch_add_u32(peer, stream->id);
    batch_add_u32(peer, (uint32_t)stream->len);
    batch_add(peer, vd_slice(stream->data + stream->sent, len));
    stream->sent += len;
    if (stream->sent < stream->len) {
        vd_list_push_back(&peer->streams_active, &stream->node);
        return;
    }
    peer->streams_active_count--;
    peer->streams_active_bytes -= stream->len;
    if (stream->ordered)
        peer->ordered_active = false;
    stream_out_free(stream);
}

static bool has_streams(vd_link_peer_t *peer)
{
    return !vd_list_empty(&peer->streams_active) || !vd_list_empty(&peer->streams_waiting);
}

/* Small items first, then a few pieces. Returns true when more could go at once. */
static bool flush_peer(vd_link_t *link, vd_link_peer_t *peer)
{
    for (uint32_t pieces = 0;; pieces++) {
        if (vd_list_empty(&peer->frames))
            batch_seal(peer);
        vd_link_sent_t sent =
            vd_list_empty(&peer->frames) ? VD_LINK_SENT : flush_frames(link, peer);
        if (sent == VD_LINK_GONE) {
            vd_link_peer_lost(link, peer);
            return false;
        }
        peer->blocked = sent == VD_LINK_BLOCKED;
        if (peer->blocked)
            return false;
        if (peer->batch_len > 0)
            continue;
        if (!has_streams(peer))
            return false;
        if (pieces >= PIECES_PER_FLUSH)
            return true;
        cut_piece(peer);
    }
}

static void try_hello(vd_link_t *link)
{
    uint8_t frame[VD_LINK_SESSION_BYTES + 6 + VD_LINK_INSTANCE_BYTES];
    vd_put_u32(frame, link->peers[0]->session);
    size_t len = VD_LINK_SESSION_BYTES + hello_write(link, frame + VD_LINK_SESSION_BYTES);
    if (zmq_send(link->wire.socket, frame, len, ZMQ_DONTWAIT) >= 0)
        link->hello_due = false;
}

/* Returns true when more could be sent at once. */
static bool flush_all(vd_link_t *link)
{
    bool more = false;
    link->dirty = false;
    if (!link->options.bind) {
        if (link->hello_due)
            try_hello(link);
        return link->peers[0]->up && flush_peer(link, link->peers[0]);
    }
    for (uint32_t slot = 0; slot < link->peer_high; slot++) {
        vd_link_peer_t *peer = link->peers[slot];
        if (peer != NULL && peer->queued_bytes > 0 && flush_peer(link, peer))
            more = true;
    }
    return more;
}

static bool any_blocked(const vd_link_t *link)
{
    for (uint32_t slot = 0; slot < link->peer_high; slot++)
        if (link->peers[slot] != NULL && link->peers[slot]->blocked)
            return true;
    return false;
}

/* ---- turns and time ---- */

static void link_free(vd_link_t *link);

static void arm_retry(vd_link_t *link, uint64_t ms)
{
    if (link->retry_armed)
        return;
    link->retry_armed = true;
    vd_loop_set_timer(link->retry_source, ms, 0);
}

static bool link_step(void *context)
{
    vd_link_t *link = context;
    bool more = false;
    link->in_step = true;
    for (int round = 0; round < ROUNDS_PER_STEP && !link->closing; round++) {
        more = flush_all(link);
        uint32_t count = link->closing ? 0 : vd_link_receive(link);
        more = more || count == VD_LINK_RECEIVE_FRAMES || link->dirty;
        if (count == 0 && !link->dirty)
            break;
        more = true;
    }
    link->in_step = false;
    if (link->closing) {
        link_free(link);
        return false;
    }
    /* A peer's room, or the connection that hello waits for, may have been announced while we
     * received, where the socket's descriptor no longer tells of it: look again soon. */
    if (any_blocked(link))
        arm_retry(link, RETRY_MS);
    else if (link->hello_due)
        arm_retry(link, HELLO_RETRY_MS);
    return more;
}

static void retry_fired(void *context)
{
    vd_link_t *link = context;
    link->retry_armed = false;
    if (link->probes_left == 0)
        return;
    link->probes_left--;
    for (uint32_t slot = 0; slot < link->peer_high; slot++)
        if (link->peers[slot] != NULL && !link->peers[slot]->cut &&
            link->peers[slot]->queued_bytes == 0)
            send_control(link, link->peers[slot], VD_LINK_CONTROL_HEARTBEAT);
    if (link->probes_left > 0)
        arm_retry(link, PROBE_MS);
}

static void tick_fired(void *context)
{
    vd_link_t *link = context;
    uint64_t now = vd_loop_now_ms(link->loop);
    bool late = now - link->last_tick_ms > 2 * link->interval_ms;
    link->last_tick_ms = now;
    link->in_step = true; /* callbacks may close the link */
    for (uint32_t slot = 0; slot < link->peer_high && !link->closing; slot++) {
        vd_link_peer_t *peer = link->peers[slot];
        if (peer == NULL)
            continue;
        if (late)
            peer->last_seen_ms = now; /* it was we who slept: their frames wait unread */
        if (peer->cut) {
            if (link->options.bind && cut_tell(link, peer) == VD_LINK_GONE)
                vd_link_peer_lost(link, peer);
            continue;
        }
        if (!peer->up) {
            link->hello_due = true;
            continue;
        }
        if (now - peer->last_seen_ms > link->options.peer_timeout_ms) {
            vd_link_peer_lost(link, peer);
            continue;
        }
        if (peer->queued_bytes == 0 && now - peer->last_sent_ms >= link->interval_ms / 2)
            send_control(link, peer, VD_LINK_CONTROL_HEARTBEAT);
    }
    link->in_step = false;
    if (link->closing)
        link_free(link);
}

static void socket_ready(void *context, int fd, unsigned events)
{
    /* The end-of-turn step does the work. */
    (void)context, (void)fd, (void)events;
}

/* A connection broke. A DEALER has one and is down; a ROUTER isn't told which, and finds out by
 * sending. */
static void monitor_ready(void *context, int fd, unsigned events)
{
    (void)fd, (void)events;
    vd_link_t *link = context;
    bool broken = false;
    uint8_t part[512];
    for (int i = 0; i < 1000; i++) {
        int len = zmq_recv(link->wire.monitor, part, sizeof part, ZMQ_DONTWAIT);
        if (len < 0 && errno == EINTR)
            continue;
        if (len < 0)
            break;
        if (len == 6) /* u16 event, u32 value; the other part is an address */
            broken = broken || (part[0] | part[1] << 8) == ZMQ_EVENT_DISCONNECTED;
    }
    if (!broken)
        return;
    if (link->options.bind) {
        link->probes_left = PROBES;
        arm_retry(link, RETRY_MS);
        return;
    }
    link->in_step = true;
    vd_link_peer_lost(link, link->peers[0]);
    link->in_step = false;
    if (link->closing)
        link_free(link);
}

/* ---- opening and closing ---- */

static int watch_socket(vd_link_t *link, void *socket, void (*ready)(void *, int, unsigned),
                        vd_source_t **ret_source, vd_error_t *err)
{
    int fd = -1;
    size_t size = sizeof fd;
    if (zmq_getsockopt(socket, ZMQ_FD, &fd, &size) != 0)
        return vd_error_set(err, VD_ERR_IO, "descriptor of %s: %s", link->path,
                            zmq_strerror(zmq_errno()));
    return vd_loop_add_fd(link->loop, fd, VD_LOOP_READ, ready, link, ret_source, err);
}

static int add_sources(vd_link_t *link, vd_error_t *err)
{
    int rc = watch_socket(link, link->wire.socket, socket_ready, &link->socket_source, err);
    if (rc == VD_OK)
        rc = watch_socket(link, link->wire.monitor, monitor_ready, &link->monitor_source, err);
    if (rc == VD_OK)
        rc = vd_loop_add_end_of_turn(link->loop, VD_LINK_STEP_ORDER, link_step, link,
                                     &link->step_source, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(link->loop, link->interval_ms, link->interval_ms, tick_fired, link,
                               &link->tick_source, err);
    if (rc == VD_OK) /* the first, early firing does nothing */
        rc = vd_loop_add_timer(link->loop, 0, 0, retry_fired, link, &link->retry_source, err);
    return rc;
}

int vd_link_open(vd_loop_t *loop, const vd_link_options_t *options, vd_link_t **ret_link,
                 vd_error_t *err)
{
    VD_ASSERT(loop != NULL && options != NULL && options->item != NULL && ret_link != NULL);

    if (options->path == NULL || options->path[0] != '/' ||
        strlen(options->path) > VD_LINK_PATH_MAX_BYTES)
        return vd_error_set(err, VD_ERR_CONFIG, "socket path %s: absolute, at most %d bytes",
                            options->path == NULL ? "(none)" : options->path,
                            VD_LINK_PATH_MAX_BYTES);

    vd_link_t *link = vd_xalloc(sizeof *link);
    link->loop = loop;
    link->options = *options;
    memcpy(link->path, options->path, strlen(options->path));
    if (link->options.item_max_bytes == 0)
        link->options.item_max_bytes = VD_LINK_ITEM_MAX_BYTES;
    if (link->options.queue_max_bytes == 0)
        link->options.queue_max_bytes = VD_LINK_QUEUE_MAX_BYTES;
    if (link->options.peer_timeout_ms == 0)
        link->options.peer_timeout_ms = 3000;
    VD_ASSERT(link->options.item_max_bytes <= VD_LINK_LENGTH_MASK);
    link->interval_ms = link->options.peer_timeout_ms / 3;
    if (link->interval_ms < 10)
        link->interval_ms = 10;
    link->last_tick_ms = vd_loop_now_ms(loop);
    link->next_generation = 1;
    link->cut_by_us = vd_metric_counter("veddb_link_cut_total", "by=\"us\"", CUT_HELP);
    link->cut_by_other =
        vd_metric_counter("veddb_link_cut_total", "by=\"the other end\"", CUT_HELP);
    vd_rand_secret(link->instance, sizeof link->instance);
    if (options->bind) {
        link->by_routing_id = vd_map_create(VD_LINK_PEERS_MAX);
    } else {
        link->peers[0] = peer_new(link, 0);
        link->peer_high = 1;
        vd_rand_secret(&link->peers[0]->session, sizeof link->peers[0]->session);
        link->hello_due = true;
    }
    int rc = vd_link_socket_open(link->path, options->bind, options->socket_mode, &link->wire, err);
    if (rc == VD_OK)
        rc = add_sources(link, err);
    if (rc != VD_OK) {
        link_free(link);
        return rc;
    }
    *ret_link = link;
    return VD_OK;
}

static void link_free(vd_link_t *link)
{
    vd_loop_remove(&link->socket_source);
    vd_loop_remove(&link->monitor_source);
    vd_loop_remove(&link->step_source);
    vd_loop_remove(&link->tick_source);
    vd_loop_remove(&link->retry_source);
    link->options.peer_changed = NULL; /* the owner is closing: it needs no news */
    if (link->wire.socket != NULL)
        (void)flush_all(link);
    for (uint32_t slot = 0; slot < link->peer_high; slot++) {
        if (link->peers[slot] == NULL)
            continue;
        peer_purge(link->peers[slot]);
        vd_free(link->peers[slot]);
    }
    if (link->wire.socket != NULL)
        vd_link_socket_close(&link->wire, link->peer_high > 0 ? CLOSE_LINGER_MS : 0);
    vd_map_destroy(&link->by_routing_id);
    vd_free(link);
}

void vd_link_close(vd_link_t **link_p)
{
    vd_link_t *link = *link_p;
    if (link == NULL)
        return;
    *link_p = NULL;
    if (link->in_step)
        link->closing = true;
    else
        link_free(link);
}

void vd_link_flush(vd_link_t *link)
{
    VD_ASSERT(link != NULL);

    while (flush_all(link))
        ;
}

/* ---- for the owner ---- */

static int send_item(vd_link_t *link, uint64_t number, vd_slice_t head, vd_slice_t body,
                     bool ordered, vd_error_t *err)
{
    VD_ASSERT(link != NULL && head.len + body.len > 0);

    vd_link_peer_t *peer = peer_find(link, number);
    size_t len = head.len + body.len;
    if (peer == NULL || !peer->up)
        return vd_error_set(err, VD_ERR_CLOSED, "the other end of %s is not there", link->path);
    if (len > link->options.item_max_bytes)
        return vd_error_set(err, VD_ERR_INVALID_LENGTH, "an item of %zu bytes, at most %llu", len,
                            (unsigned long long)link->options.item_max_bytes);
    if (peer->queued_bytes + len > link->options.queue_max_bytes)
        return vd_error_set(err, VD_ERR_FULL, "%llu bytes wait for the other end of %s",
                            (unsigned long long)peer->queued_bytes, link->path);
    link->dirty = true;
    vd_loop_again(link->loop);
    link->stats.items_sent++;
    if (!ordered && len <= VD_LINK_PIECE_MAX_BYTES) {
        batch_room(peer, VD_LINK_HEAD_BYTES + len);
        batch_add_u32(peer, (uint32_t)len);
        batch_add(peer, head);
        batch_add(peer, body);
        return VD_OK;
    }
    stream_out_t *stream = vd_xalloc(sizeof *stream);
    stream->data = vd_try_alloc(len);
    if (stream->data == NULL) {
        vd_free(stream);
        return vd_error_set(err, VD_ERR_NO_MEMORY, "an item of %zu bytes", len);
    }
    if (head.len > 0)
        memcpy(stream->data, head.data, head.len);
    if (body.len > 0)
        memcpy(stream->data + head.len, body.data, body.len);
    stream->len = len;
    stream->id = peer->next_stream++;
    stream->ordered = ordered;
    peer->queued_bytes += len;
    vd_list_push_back(&peer->streams_waiting, &stream->node);
    return VD_OK;
}

int vd_link_send(vd_link_t *link, uint64_t number, vd_slice_t head, vd_slice_t body,
                 vd_error_t *err)
{
    return send_item(link, number, head, body, false, err);
}

int vd_link_send_ordered(vd_link_t *link, uint64_t number, vd_slice_t head, vd_slice_t body,
                         vd_error_t *err)
{
    return send_item(link, number, head, body, true, err);
}

void vd_link_cut(vd_link_t *link, uint64_t number, const char *why)
{
    VD_ASSERT(link != NULL && link->in_step && why != NULL);

    vd_link_peer_t *peer = peer_find(link, number);
    if (peer == NULL || peer->cut)
        return;
    peer->cutting = true;
    (void)snprintf(link->cut_reason, sizeof link->cut_reason, "%s", why);
}

bool vd_link_peer_up(const vd_link_t *link, uint64_t number)
{
    const vd_link_peer_t *peer = peer_find(link, number);
    return peer != NULL && peer->up;
}

uint64_t vd_link_queued_bytes(const vd_link_t *link, uint64_t number)
{
    const vd_link_peer_t *peer = peer_find(link, number);
    return peer == NULL ? 0 : peer->queued_bytes;
}

void vd_link_stats(const vd_link_t *link, vd_link_stats_t *ret_stats)
{
    *ret_stats = link->stats;
}
