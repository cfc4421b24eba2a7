/* libcommon/runtime/link.c — see link.h.
 *
 * Frame:   u32 session, then items: u32 (length | kind << 28), payload.
 * Kinds:   whole item; piece (u32 stream, u32 total, bytes) of an item larger than
 *          VD_LINK_PIECE_MAX_BYTES; control (u8 type ...): the link's own hello, heartbeat, reset.
 * Session: drawn by the DEALER for each attempt to get through, repeated in every frame of both
 *          sides. What comes under another session belongs to a connection that was given up, and
 *          is dropped.
 * Hello:   the DEALER says hello until the ROUTER answers with its own; only then it is up. A
 *          ROUTER that doesn't know the sender of a frame answers reset, and the DEALER begins
 *          anew.
 * Cut:     a peer that sent what the link doesn't carry, or a malformed frame, is told so (control
 *          cut) and not listened to any more until it has connected anew: a ROUTER keeps its
 *          routing id until sending finds it gone, a DEALER waits for its connection to break.
 *
 * ZeroMQ:  its descriptor is edge-triggered: after every turn we flush, then receive until EAGAIN.
 *          IMMEDIATE keeps frames from waiting for a connection that isn't there (they would reach
 *          the next instance). High-water marks count frames and only bound what lies inside
 *          ZeroMQ: at EAGAIN frames stay with us, where bytes are counted. A monitor tells of
 *          broken connections at once. */
#include "libcommon/runtime/link.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/list.h"
#include "libcommon/base/log.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/runtime/link_socket.h"
#include "libcommon/runtime/metrics.h"

#include <errno.h>
#include <stdio.h>
#include <zmq.h>

#define LINK_PROTOCOL            1
#define KIND_SHIFT               28
#define LENGTH_MASK              ((1u << KIND_SHIFT) - 1)
#define SESSION_BYTES            4
#define HEAD_BYTES               4
#define PIECE_HEAD_BYTES         8
#define INSTANCE_BYTES           16
#define RECEIVE_FRAMES_PER_STEP  64
#define ROUNDS_PER_STEP          4
#define PIECES_PER_FLUSH         4
#define STREAMS_ACTIVE_MAX       16 /* large items under way to a peer at once; others wait */
#define STREAM_AT_ONCE_BYTES     (2u * 1024 * 1024)  /* memory taken with the first piece */
#define STREAMS_ACTIVE_MAX_BYTES (64u * 1024 * 1024) /* of those, unless a single one is larger */
#define COPY_MAX_BYTES           4096
#define CLOSE_LINGER_MS          200
#define RETRY_MS                 2
#define HELLO_RETRY_MS           20
#define PROBE_MS                 10
#define PROBES                   4

#define CUT_LOG_MS 1000
#define CUT_HELP   "Links between processes that were cut because of what was said on them"

enum { KIND_WHOLE = 0, KIND_PIECE = 1, KIND_CONTROL = 2 };
enum { CONTROL_HELLO = 1, CONTROL_HEARTBEAT = 2, CONTROL_RESET = 3, CONTROL_CUT = 4 };

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

typedef struct {
    vd_node_t node;
    uint32_t id;
    vd_buf_t bytes; /* max = the item's length */
} stream_in_t;

typedef struct {
    uint64_t number; /* 0: the DEALER's one peer */
    uint32_t session;
    bool up, blocked;
    bool cut, cutting; /* cutting: by the owner, within the item callback */
    uint8_t routing_id[255];
    uint8_t routing_id_len;
    uint8_t instance[INSTANCE_BYTES];
    uint64_t last_seen_ms, last_sent_ms;
    /* out */
    uint8_t *batch; /* the frame being filled */
    size_t batch_len, batch_cap;
    vd_list_t frames; /* frame_t, full, not yet taken by the socket */
    vd_list_t streams_active, streams_waiting;
    uint32_t streams_active_count, next_stream;
    bool ordered_active;
    uint64_t streams_active_bytes;
    uint64_t queued_bytes;
    /* in */
    vd_list_t streams_in;
    uint32_t streams_in_count;
    uint64_t partial_bytes;
} peer_t;

struct vd_link {
    vd_loop_t *loop;
    vd_link_options_t options;
    char path[VD_LINK_PATH_MAX_BYTES + 1];
    uint8_t instance[INSTANCE_BYTES];
    vd_link_socket_t wire;
    vd_source_t *socket_source, *monitor_source, *step_source, *tick_source, *retry_source;
    bool retry_armed, hello_due, in_step, closing, dirty;
    uint32_t probes_left;
    uint64_t interval_ms, last_tick_ms;
    peer_t *peers[VD_LINK_PEERS_MAX]; /* a DEALER uses slot 0 alone */
    uint32_t peer_high;               /* slots in use are below */
    uint64_t next_generation;
    vd_map_t *by_routing_id;
    char cut_reason[VD_ERROR_MESSAGE_SIZE];
    uint64_t cut_logged_ms;
    vd_metric_t *cut_by_us, *cut_by_other;
    vd_link_stats_t stats;
};

/* ---- peers ---- */

static peer_t *peer_new(vd_link_t *link, uint64_t number)
{
    peer_t *peer = vd_xalloc(sizeof *peer);
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

static void stream_in_free(peer_t *peer, stream_in_t *stream)
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
static void peer_purge(peer_t *peer)
{
    vd_node_t *node;
    while ((node = vd_list_pop_front(&peer->frames)) != NULL)
        frame_free(VD_CONTAINER_OF(node, frame_t, node));
    while ((node = vd_list_pop_front(&peer->streams_active)) != NULL)
        stream_out_free(VD_CONTAINER_OF(node, stream_out_t, node));
    while ((node = vd_list_pop_front(&peer->streams_waiting)) != NULL)
        stream_out_free(VD_CONTAINER_OF(node, stream_out_t, node));
    VD_LIST_EACH(&peer->streams_in, in)
    stream_in_free(peer, VD_CONTAINER_OF(in, stream_in_t, node));
    vd_free(peer->batch);
    peer->batch = NULL;
    peer->batch_len = peer->batch_cap = 0;
    peer->streams_active_count = 0;
    peer->streams_active_bytes = 0;
    peer->queued_bytes = 0;
    peer->blocked = false;
}

/* Its pair and its name: storage-gateway/operation. */
static const char *link_name(const vd_link_t *link)
{
    const char *name = link->path + strlen(link->path);
    for (int slashes = 0; name > link->path; name--)
        if (name[-1] == '/' && ++slashes == 2)
            break;
    return name;
}

static peer_t *peer_find(const vd_link_t *link, uint64_t number)
{
    peer_t *peer = link->peers[number & (VD_LINK_PEERS_MAX - 1)];
    return peer != NULL && peer->number == number ? peer : NULL;
}

static void peer_down(vd_link_t *link, peer_t *peer)
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

static void peer_up(vd_link_t *link, peer_t *peer)
{
    peer->up = true;
    if (link->options.peer_changed != NULL)
        link->options.peer_changed(link->options.context, peer->number, true);
}

static peer_t *peer_add(vd_link_t *link, vd_slice_t routing_id)
{
    for (uint32_t slot = 0; slot < VD_LINK_PEERS_MAX; slot++) {
        if (link->peers[slot] != NULL)
            continue;
        peer_t *peer = peer_new(link, link->next_generation++ * VD_LINK_PEERS_MAX + slot);
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

static void batch_reserve(peer_t *peer, size_t len)
{
    size_t need = peer->batch_len + len + (peer->batch_len == 0 ? SESSION_BYTES : 0);
    if (need > peer->batch_cap) {
        size_t cap = peer->batch_cap == 0 ? COPY_MAX_BYTES : peer->batch_cap;
        while (cap < need)
            cap *= 2;
        peer->batch = vd_xrealloc(peer->batch, cap);
        peer->batch_cap = cap;
    }
    if (peer->batch_len == 0) {
        vd_put_u32(peer->batch, peer->session);
        peer->batch_len = SESSION_BYTES;
    }
}

static void batch_add(peer_t *peer, vd_slice_t bytes)
{
    if (bytes.len > 0)
        memcpy(peer->batch + peer->batch_len, bytes.data, bytes.len);
    peer->batch_len += bytes.len;
}

static void batch_add_u32(peer_t *peer, uint32_t v)
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
static void batch_seal(peer_t *peer)
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

static void batch_room(peer_t *peer, size_t len)
{
    if (peer->batch_len + len + SESSION_BYTES > VD_LINK_FRAME_MAX_BYTES)
        batch_seal(peer);
    size_t before = peer->batch_len;
    batch_reserve(peer, len);
    peer->queued_bytes += peer->batch_len - before + len;
}

static void send_control(vd_link_t *link, peer_t *peer, uint8_t type)
{
    batch_room(peer, HEAD_BYTES + 1);
    batch_add_u32(peer, 1u | (uint32_t)KIND_CONTROL << KIND_SHIFT);
    batch_add(peer, vd_slice(&type, 1));
    link->dirty = true;
}

static size_t hello_write(const vd_link_t *link, uint8_t *out)
{
    vd_put_u32(out, (2 + INSTANCE_BYTES) | (uint32_t)KIND_CONTROL << KIND_SHIFT);
    out[4] = CONTROL_HELLO;
    out[5] = LINK_PROTOCOL;
    memcpy(out + 6, link->instance, INSTANCE_BYTES);
    return 6 + INSTANCE_BYTES;
}

typedef enum { SENT, BLOCKED, GONE } sent_t;

static sent_t send_msg(vd_link_t *link, peer_t *peer, zmq_msg_t *msg)
{
    int rc;
    if (link->options.bind) {
        do
            rc = zmq_send(link->wire.socket, peer->routing_id, peer->routing_id_len,
                          ZMQ_SNDMORE | ZMQ_DONTWAIT);
        while (rc < 0 && errno == EINTR);
        if (rc < 0)
            return errno == EAGAIN ? BLOCKED : GONE;
    }
    do
        rc = zmq_msg_send(msg, link->wire.socket, ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    if (rc < 0)
        return errno == EAGAIN ? BLOCKED : GONE;
    return SENT;
}

/* Past the queue: nothing else may leave for this peer. */
static sent_t control_now(vd_link_t *link, vd_slice_t routing_id, uint32_t session, uint8_t type)
{
    uint8_t frame[SESSION_BYTES + HEAD_BYTES + 1];
    vd_put_u32(frame, session);
    vd_put_u32(frame + 4, 1u | (uint32_t)KIND_CONTROL << KIND_SHIFT);
    frame[8] = type;
    int rc = 0;
    if (link->options.bind)
        rc = zmq_send(link->wire.socket, routing_id.data, routing_id.len,
                      ZMQ_SNDMORE | ZMQ_DONTWAIT);
    if (rc >= 0)
        rc = zmq_send(link->wire.socket, frame, sizeof frame, ZMQ_DONTWAIT);
    return rc >= 0 ? SENT : errno == EAGAIN || errno == EINTR ? BLOCKED : GONE;
}

static sent_t cut_tell(vd_link_t *link, const peer_t *peer)
{
    return control_now(link, vd_slice(peer->routing_id, peer->routing_id_len), peer->session,
                       CONTROL_CUT);
}

/* Nothing more is taken from it or told to it; its slot is held until its connection is gone. */
static void peer_cut(vd_link_t *link, peer_t *peer, const char *why)
{
    bool was_up = peer->up;
    char quoted[VD_ERROR_MESSAGE_SIZE * 2];
    uint64_t now = vd_loop_now_ms(link->loop);
    if (now - link->cut_logged_ms >= CUT_LOG_MS) /* whoever comes back for it fills no disk */
        vd_log(VD_LOG_ERROR, "a link was cut: its other end said what it does not carry",
               "link=%s peer=%llu cut_before=%llu reason=%s", link_name(link),
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

static sent_t flush_frames(vd_link_t *link, peer_t *peer)
{
    vd_node_t *node;
    while ((node = vd_list_first(&peer->frames)) != NULL) {
        frame_t *frame = VD_CONTAINER_OF(node, frame_t, node);
        sent_t sent = send_msg(link, peer, &frame->msg);
        if (sent != SENT)
            return sent;
        peer->queued_bytes -= frame->len;
        link->stats.frames_sent++;
        link->stats.bytes_sent += frame->len;
        vd_list_remove(&frame->node);
        frame_free(frame);
    }
    peer->last_sent_ms = vd_loop_now_ms(link->loop);
    return SENT;
}

/* Bounded, because the other end holds what has come of each until it is whole. */
static void activate_streams(peer_t *peer)
{
    VD_LIST_EACH(&peer->streams_waiting, node)
    {
        stream_out_t *stream = VD_CONTAINER_OF(node, stream_out_t, node);
        size_t len = stream->len;
        if (stream->ordered && peer->ordered_active)
            continue; /* the one before it must have left */
        if (peer->streams_active_count == STREAMS_ACTIVE_MAX ||
            (peer->streams_active_count > 0 &&
             peer->streams_active_bytes + len > STREAMS_ACTIVE_MAX_BYTES))
            return;
        peer->ordered_active |= stream->ordered;
        vd_list_remove(node);
        vd_list_push_back(&peer->streams_active, node);
        peer->streams_active_count++;
        peer->streams_active_bytes += len;
    }
}

/* One piece of the large item whose turn it is becomes a frame. */
static void cut_piece(peer_t *peer)
{
    activate_streams(peer);
    stream_out_t *stream =
        VD_CONTAINER_OF(vd_list_pop_front(&peer->streams_active), stream_out_t, node);
    size_t len = stream->len - stream->sent;
    if (len > VD_LINK_PIECE_MAX_BYTES)
        len = VD_LINK_PIECE_MAX_BYTES;
    peer->queued_bytes -= len; /* counted again as part of the batch */
    batch_room(peer, HEAD_BYTES + PIECE_HEAD_BYTES + len);
    batch_add_u32(peer, (uint32_t)(PIECE_HEAD_BYTES + len) | (uint32_t)KIND_PIECE << KIND_SHIFT);
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

static bool has_streams(peer_t *peer)
{
    return !vd_list_empty(&peer->streams_active) || !vd_list_empty(&peer->streams_waiting);
}

/* Small items first, then a few pieces. Returns true when more could go at once. */
static bool flush_peer(vd_link_t *link, peer_t *peer)
{
    for (uint32_t pieces = 0;; pieces++) {
        if (vd_list_empty(&peer->frames))
            batch_seal(peer);
        sent_t sent = vd_list_empty(&peer->frames) ? SENT : flush_frames(link, peer);
        if (sent == GONE) {
            peer_down(link, peer);
            return false;
        }
        peer->blocked = sent == BLOCKED;
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
    uint8_t frame[SESSION_BYTES + 6 + INSTANCE_BYTES];
    vd_put_u32(frame, link->peers[0]->session);
    size_t len = SESSION_BYTES + hello_write(link, frame + SESSION_BYTES);
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
        peer_t *peer = link->peers[slot];
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

/* ---- receiving ---- */

static bool take_piece(vd_link_t *link, peer_t *peer, vd_slice_t payload)
{
    if (payload.len <= PIECE_HEAD_BYTES)
        return false;
    uint32_t id = vd_get_u32(payload.data), total = vd_get_u32(payload.data + 4);
    vd_slice_t bytes = vd_slice(payload.data + PIECE_HEAD_BYTES, payload.len - PIECE_HEAD_BYTES);
    stream_in_t *stream = NULL;
    VD_LIST_EACH(&peer->streams_in, node)
    {
        stream_in_t *other = VD_CONTAINER_OF(node, stream_in_t, node);
        if (other->id == id)
            stream = other;
    }
    if (stream == NULL) {
        if (total > link->options.item_max_bytes || peer->streams_in_count == STREAMS_ACTIVE_MAX)
            return false;
        stream = vd_xalloc(sizeof *stream);
        stream->id = id;
        vd_buf_init(&stream->bytes, total);
        uint8_t *space;
        bool at_once =
            total <= STREAM_AT_ONCE_BYTES && vd_buf_reserve(&stream->bytes, total, &space) == VD_OK;
        (void)at_once; /* else it grows with the pieces */
        vd_list_push_back(&peer->streams_in, &stream->node);
        peer->streams_in_count++;
    }
    uint64_t partial_max = link->options.item_max_bytes > STREAMS_ACTIVE_MAX_BYTES
                               ? link->options.item_max_bytes
                               : STREAMS_ACTIVE_MAX_BYTES;
    if (total != stream->bytes.max || peer->partial_bytes + bytes.len > partial_max ||
        vd_buf_append_slice(&stream->bytes, bytes) != VD_OK)
        return false;
    peer->partial_bytes += bytes.len;
    if (vd_buf_len(&stream->bytes) == total) {
        link->stats.items_received++;
        link->options.item(link->options.context, peer->number, vd_buf_slice(&stream->bytes));
        stream_in_free(peer, stream);
    }
    return true;
}

/* Hello of a DEALER. The peer that had this routing id before, under another session, is over. */
static peer_t *router_hello(vd_link_t *link, peer_t *peer, vd_slice_t routing_id, uint32_t session,
                            vd_slice_t payload)
{
    if (payload.len != 2 + INSTANCE_BYTES || payload.data[1] != LINK_PROTOCOL)
        return NULL;
    bool fresh = peer == NULL || peer->session != session;
    if (fresh) {
        if (peer != NULL)
            peer_down(link, peer);
        peer = peer_add(link, routing_id);
        if (peer == NULL)
            return NULL;
        peer->session = session;
        memcpy(peer->instance, payload.data + 2, INSTANCE_BYTES);
    }
    uint8_t answer[6 + INSTANCE_BYTES];
    size_t len = hello_write(link, answer);
    batch_room(peer, len);
    batch_add(peer, vd_slice(answer, len));
    link->dirty = true;
    if (fresh)
        peer_up(link, peer);
    return peer;
}

/* The owner is told last: it may end the process. */
static void cut_by_other(vd_link_t *link, peer_t *peer)
{
    vd_log(VD_LOG_ERROR, "a link was cut by its other end: we said what it does not carry",
           "link=%s", link_name(link));
    vd_metric_add(link->cut_by_other, 1);
    peer_down(link, peer);
    if (!link->options.bind) {
        peer->cut = true;
        link->hello_due = false;
    }
    if (link->options.cut != NULL)
        link->options.cut(link->options.context);
}

static bool dealer_control(vd_link_t *link, peer_t *peer, vd_slice_t payload)
{
    switch (payload.data[0]) {
    case CONTROL_HELLO:
        if (payload.len != 2 + INSTANCE_BYTES || payload.data[1] != LINK_PROTOCOL ||
            (peer->up && memcmp(peer->instance, payload.data + 2, INSTANCE_BYTES) != 0)) {
            peer_down(link, peer); /* another release, or another process */
            return true;
        }
        memcpy(peer->instance, payload.data + 2, INSTANCE_BYTES);
        if (!peer->up) {
            link->hello_due = false;
            peer_up(link, peer);
        }
        return true;
    case CONTROL_RESET:
        peer_down(link, peer);
        return true;
    case CONTROL_CUT:
        cut_by_other(link, peer);
        return true;
    default:
        return payload.data[0] == CONTROL_HEARTBEAT;
    }
}

/* Walks the items of a frame whose session fits. False: malformed. */
static bool take_items(vd_link_t *link, peer_t *peer, vd_slice_t items)
{
    uint32_t session = peer->session;
    while (items.len > 0) {
        if (items.len < HEAD_BYTES)
            return false;
        uint32_t head = vd_get_u32(items.data), len = head & LENGTH_MASK;
        if (len == 0 || len > items.len - HEAD_BYTES)
            return false;
        vd_slice_t payload = vd_slice(items.data + HEAD_BYTES, len);
        items = vd_slice(payload.data + len, items.len - HEAD_BYTES - len);
        switch (head >> KIND_SHIFT) {
        case KIND_CONTROL:
            if (link->options.bind && payload.data[0] == CONTROL_CUT) {
                cut_by_other(link, peer);
                return true;
            }
            if (link->options.bind
                    ? payload.data[0] != CONTROL_HELLO && payload.data[0] != CONTROL_HEARTBEAT
                    : !dealer_control(link, peer, payload))
                return false;
            if (peer->session != session)
                return true; /* reset: the rest is of no interest */
            break;
        case KIND_WHOLE:
            if (!peer->up)
                break; /* before hello: nothing is believed */
            if (len > link->options.item_max_bytes)
                return false;
            link->stats.items_received++;
            link->options.item(link->options.context, peer->number, payload);
            break;
        case KIND_PIECE:
            if (peer->up && !take_piece(link, peer, payload))
                return false;
            break;
        default:
            return false;
        }
        if (link->closing)
            return true;
        if (peer->cutting) {
            peer_cut(link, peer, link->cut_reason);
            return true;
        }
    }
    return true;
}

static bool is_hello(vd_slice_t frame, vd_slice_t *ret_payload)
{
    if (frame.len < SESSION_BYTES + HEAD_BYTES + 1)
        return false;
    uint32_t head = vd_get_u32(frame.data + SESSION_BYTES), len = head & LENGTH_MASK;
    const uint8_t *payload = frame.data + SESSION_BYTES + HEAD_BYTES;
    if (head >> KIND_SHIFT != KIND_CONTROL || len > frame.len - SESSION_BYTES - HEAD_BYTES ||
        len == 0 || payload[0] != CONTROL_HELLO)
        return false;
    *ret_payload = vd_slice(payload, len);
    return true;
}

static void take_frame(vd_link_t *link, vd_slice_t routing_id, vd_slice_t frame)
{
    link->stats.frames_received++;
    link->stats.bytes_received += frame.len;
    peer_t *peer =
        link->options.bind ? vd_map_get(link->by_routing_id, routing_id) : link->peers[0];
    if (frame.len <= SESSION_BYTES) {
        link->stats.refused++;
        return;
    }
    if (peer != NULL && peer->cut) {
        link->stats.refused++;
        return;
    }
    uint32_t session = vd_get_u32(frame.data);
    vd_slice_t hello;
    if (link->options.bind && is_hello(frame, &hello)) {
        peer = router_hello(link, peer, routing_id, session, hello);
        if (peer == NULL) {
            link->stats.refused++;
            return;
        }
    }
    if (link->closing)
        return;
    if (peer == NULL || peer->session != session) {
        link->stats.refused++;
        if (link->options.bind && peer == NULL)
            (void)control_now(link, routing_id, session, CONTROL_RESET); /* it will ask again */
        return;
    }
    peer->last_seen_ms = vd_loop_now_ms(link->loop);
    vd_slice_t items = vd_slice(frame.data + SESSION_BYTES, frame.len - SESSION_BYTES);
    if (!take_items(link, peer, items)) {
        link->stats.refused++;
        peer_cut(link, peer, "a malformed frame");
    }
}

static bool receive_part(vd_link_t *link, zmq_msg_t *msg)
{
    int rc;
    do
        rc = zmq_msg_recv(msg, link->wire.socket, ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    return rc >= 0;
}

static void drain_parts(vd_link_t *link, zmq_msg_t *msg)
{
    while (zmq_msg_more(msg) && receive_part(link, msg))
        ;
}

/* Returns how many frames came; less than the maximum means EAGAIN was seen. */
static uint32_t receive(vd_link_t *link)
{
    zmq_msg_t id, body;
    uint32_t count = 0;
    (void)zmq_msg_init(&id);
    (void)zmq_msg_init(&body);
    while (count < RECEIVE_FRAMES_PER_STEP && !link->closing) {
        vd_slice_t routing_id = VD_SLICE_NULL;
        if (link->options.bind) {
            if (!receive_part(link, &id))
                break;
            routing_id = vd_slice(zmq_msg_data(&id), zmq_msg_size(&id));
            if (!zmq_msg_more(&id))
                continue;
        }
        if (!receive_part(link, &body))
            break;
        count++;
        if (zmq_msg_more(&body)) {
            drain_parts(link, &body); /* we never send several parts */
            link->stats.refused++;
            continue;
        }
        take_frame(link, routing_id, vd_slice(zmq_msg_data(&body), zmq_msg_size(&body)));
    }
    (void)zmq_msg_close(&id);
    (void)zmq_msg_close(&body);
    return count;
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
        uint32_t count = link->closing ? 0 : receive(link);
        more = more || count == RECEIVE_FRAMES_PER_STEP || link->dirty;
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
            send_control(link, link->peers[slot], CONTROL_HEARTBEAT);
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
        peer_t *peer = link->peers[slot];
        if (peer == NULL)
            continue;
        if (late)
            peer->last_seen_ms = now; /* it was we who slept: their frames wait unread */
        if (peer->cut) {
            if (link->options.bind && cut_tell(link, peer) == GONE)
                peer_down(link, peer);
            continue;
        }
        if (!peer->up) {
            link->hello_due = true;
            continue;
        }
        if (now - peer->last_seen_ms > link->options.peer_timeout_ms) {
            peer_down(link, peer);
            continue;
        }
        if (peer->queued_bytes == 0 && now - peer->last_sent_ms >= link->interval_ms / 2)
            send_control(link, peer, CONTROL_HEARTBEAT);
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
    peer_down(link, link->peers[0]);
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
    VD_ASSERT(link->options.item_max_bytes <= LENGTH_MASK);
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

    peer_t *peer = peer_find(link, number);
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
        batch_room(peer, HEAD_BYTES + len);
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

    peer_t *peer = peer_find(link, number);
    if (peer == NULL || peer->cut)
        return;
    peer->cutting = true;
    (void)snprintf(link->cut_reason, sizeof link->cut_reason, "%s", why);
}

bool vd_link_peer_up(const vd_link_t *link, uint64_t number)
{
    const peer_t *peer = peer_find(link, number);
    return peer != NULL && peer->up;
}

uint64_t vd_link_queued_bytes(const vd_link_t *link, uint64_t number)
{
    const peer_t *peer = peer_find(link, number);
    return peer == NULL ? 0 : peer->queued_bytes;
}

void vd_link_stats(const vd_link_t *link, vd_link_stats_t *ret_stats)
{
    *ret_stats = link->stats;
}
