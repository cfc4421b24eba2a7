/* libcommon/runtime/link_receive.c — what comes over a link: frames, their items, pieces of large
 * ones, and the link's own control. No byte of it is trusted. The form: link_private.h. */
#include "libcommon/base/limits.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/link_private.h"

#include <errno.h>
#include <zmq.h>

#define STREAM_AT_ONCE_BYTES (2u * 1024 * 1024) /* memory taken with the first piece */

static bool take_piece(vd_link_t *link, vd_link_peer_t *peer, vd_slice_t payload)
{
    if (payload.len <= VD_LINK_PIECE_HEAD_BYTES)
        return false;
    uint32_t id = vd_get_u32(payload.data), total = vd_get_u32(payload.data + 4);
    vd_slice_t bytes =
        vd_slice(payload.data + VD_LINK_PIECE_HEAD_BYTES, payload.len - VD_LINK_PIECE_HEAD_BYTES);
    vd_link_stream_in_t *stream = NULL;
    VD_LIST_EACH(&peer->streams_in, node)
    {
        vd_link_stream_in_t *other = VD_CONTAINER_OF(node, vd_link_stream_in_t, node);
        if (other->id == id)
            stream = other;
    }
    if (stream == NULL) {
        if (total > link->options.item_max_bytes ||
            peer->streams_in_count == VD_LINK_STREAMS_ACTIVE_MAX)
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
    uint64_t partial_max = link->options.item_max_bytes > VD_LINK_STREAMS_ACTIVE_MAX_BYTES
                               ? link->options.item_max_bytes
                               : VD_LINK_STREAMS_ACTIVE_MAX_BYTES;
    if (total != stream->bytes.max || peer->partial_bytes + bytes.len > partial_max ||
        vd_buf_append_slice(&stream->bytes, bytes) != VD_OK)
        return false;
    peer->partial_bytes += bytes.len;
    if (vd_buf_len(&stream->bytes) == total) {
        link->stats.items_received++;
        link->options.item(link->options.context, peer->number, vd_buf_slice(&stream->bytes));
        vd_link_stream_in_free(peer, stream);
    }
    return true;
}

/* Hello of a DEALER. The peer that had this routing id before, under another session, is over. */
static vd_link_peer_t *router_hello(vd_link_t *link, vd_link_peer_t *peer, vd_slice_t routing_id,
                                    uint32_t session, vd_slice_t payload)
{
    if (payload.len != 2 + VD_LINK_INSTANCE_BYTES || payload.data[1] != VD_LINK_PROTOCOL)
        return NULL;
    bool fresh = peer == NULL || peer->session != session;
    if (fresh) {
        if (peer != NULL)
            vd_link_peer_lost(link, peer);
        peer = vd_link_peer_add(link, routing_id);
        if (peer == NULL)
            return NULL;
        peer->session = session;
        memcpy(peer->instance, payload.data + 2, VD_LINK_INSTANCE_BYTES);
    }
    vd_link_hello_answer(link, peer);
    if (fresh)
        vd_link_peer_found(link, peer);
    return peer;
}

/* The owner is told last: it may end the process. */
static void cut_by_other(vd_link_t *link, vd_link_peer_t *peer)
{
    vd_log(VD_LOG_ERROR, "a link was cut by its other end: we said what it does not carry",
           "link=%s", vd_link_name(link));
    vd_metric_add(link->cut_by_other, 1);
    vd_link_peer_lost(link, peer);
    if (!link->options.bind) {
        peer->cut = true;
        link->hello_due = false;
    }
    if (link->options.cut != NULL)
        link->options.cut(link->options.context);
}

static bool dealer_control(vd_link_t *link, vd_link_peer_t *peer, vd_slice_t payload)
{
    switch (payload.data[0]) {
    case VD_LINK_CONTROL_HELLO:
        if (payload.len != 2 + VD_LINK_INSTANCE_BYTES || payload.data[1] != VD_LINK_PROTOCOL ||
            (peer->up && memcmp(peer->instance, payload.data + 2, VD_LINK_INSTANCE_BYTES) != 0)) {
            vd_link_peer_lost(link, peer); /* another release, or another process */
            return true;
        }
        memcpy(peer->instance, payload.data + 2, VD_LINK_INSTANCE_BYTES);
        if (!peer->up) {
            link->hello_due = false;
            vd_link_peer_found(link, peer);
        }
        return true;
    case VD_LINK_CONTROL_RESET:
        vd_link_peer_lost(link, peer);
        return true;
    case VD_LINK_CONTROL_CUT:
        cut_by_other(link, peer);
        return true;
    default:
        return payload.data[0] == VD_LINK_CONTROL_HEARTBEAT;
    }
}

/* Walks the items of a frame whose session fits. False: malformed. */
static bool take_items(vd_link_t *link, vd_link_peer_t *peer, vd_slice_t items)
{
    uint32_t session = peer->session;
    while (items.len > 0) {
        if (items.len < VD_LINK_HEAD_BYTES)
            return false;
        uint32_t head = vd_get_u32(items.data), len = head & VD_LINK_LENGTH_MASK;
        if (len == 0 || len > items.len - VD_LINK_HEAD_BYTES)
            return false;
        vd_slice_t payload = vd_slice(items.data + VD_LINK_HEAD_BYTES, len);
        items = vd_slice(payload.data + len, items.len - VD_LINK_HEAD_BYTES - len);
        switch (head >> VD_LINK_KIND_SHIFT) {
        case VD_LINK_KIND_CONTROL:
            if (link->options.bind && payload.data[0] == VD_LINK_CONTROL_CUT) {
                cut_by_other(link, peer);
                return true;
            }
            if (link->options.bind ? payload.data[0] != VD_LINK_CONTROL_HELLO &&
                                         payload.data[0] != VD_LINK_CONTROL_HEARTBEAT
                                   : !dealer_control(link, peer, payload))
                return false;
            if (peer->session != session)
                return true; /* reset: the rest is of no interest */
            break;
        case VD_LINK_KIND_WHOLE:
            if (!peer->up)
                break; /* before hello: nothing is believed */
            if (len > link->options.item_max_bytes)
                return false;
            link->stats.items_received++;
            link->options.item(link->options.context, peer->number, payload);
            break;
        case VD_LINK_KIND_PIECE:
            if (peer->up && !take_piece(link, peer, payload))
                return false;
            break;
        default:
            return false;
        }
        if (link->closing)
            return true;
        if (peer->cutting) {
            vd_link_peer_cut(link, peer, link->cut_reason);
            return true;
        }
    }
    return true;
}

static bool is_hello(vd_slice_t frame, vd_slice_t *ret_payload)
{
    if (frame.len < VD_LINK_SESSION_BYTES + VD_LINK_HEAD_BYTES + 1)
        return false;
    uint32_t head = vd_get_u32(frame.data + VD_LINK_SESSION_BYTES),
             len = head & VD_LINK_LENGTH_MASK;
    const uint8_t *payload = frame.data + VD_LINK_SESSION_BYTES + VD_LINK_HEAD_BYTES;
    if (head >> VD_LINK_KIND_SHIFT != VD_LINK_KIND_CONTROL ||
        len > frame.len - VD_LINK_SESSION_BYTES - VD_LINK_HEAD_BYTES || len == 0 ||
        payload[0] != VD_LINK_CONTROL_HELLO)
        return false;
    *ret_payload = vd_slice(payload, len);
    return true;
}

static void take_frame(vd_link_t *link, vd_slice_t routing_id, vd_slice_t frame)
{
    link->stats.frames_received++;
    link->stats.bytes_received += frame.len;
    vd_link_peer_t *peer =
        link->options.bind ? vd_map_get(link->by_routing_id, routing_id) : link->peers[0];
    if (frame.len <= VD_LINK_SESSION_BYTES) {
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
            (void)vd_link_control_now(link, routing_id, session,
                                      VD_LINK_CONTROL_RESET); /* it will ask again */
        return;
    }
    peer->last_seen_ms = vd_loop_now_ms(link->loop);
    vd_slice_t items =
        vd_slice(frame.data + VD_LINK_SESSION_BYTES, frame.len - VD_LINK_SESSION_BYTES);
    if (!take_items(link, peer, items)) {
        link->stats.refused++;
        vd_link_peer_cut(link, peer, "a malformed frame");
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

uint32_t vd_link_receive(vd_link_t *link)
{
    zmq_msg_t id, body;
    uint32_t count = 0;
    (void)zmq_msg_init(&id);
    (void)zmq_msg_init(&body);
    while (count < VD_LINK_RECEIVE_FRAMES && !link->closing) {
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
