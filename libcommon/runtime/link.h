/* libcommon/runtime/link.h — a ZeroMQ ipc socket that carries proto items, one batch per loop turn.
 *
 * Duty:    everything sent in one turn goes out in one frame (u32 length + item, repeated; frames
 *          <= VD_LINK_FRAME_MAX_BYTES; a larger item is cut in pieces, which are interleaved with
 *          other items, and joined again at the other end). After every turn: flush, then receive
 *          with DONTWAIT until EAGAIN. Peers that stop answering heartbeats are reported gone.
 *          ROUTER_MANDATORY; nothing is dropped silently: a send that can't be queued returns
 *          VD_ERR_FULL.
 * Owner:   create/close by the loop's thread.
 * Threads: that thread only; other threads hand over through their own queue and vd_loop_wake.
 * Order:   items up to VD_LINK_PIECE_MAX_BYTES arrive in the order in which they were sent; a
 *          larger one may be overtaken by others sent after it. Items of vd_link_send_ordered, of
 *          whatever size, arrive in the order in which they were sent, among themselves. The
 *          link's own step has order VD_LINK_STEP_ORDER: steps before it hand in what is to be
 *          sent this turn, steps after it act on what came in.
 * Limits:  VD_LINK_PEERS_MAX peers; item_max_bytes per item; queue_max_bytes held for a peer
 *          (credit is in bytes). */
#pragma once
#include "libcommon/runtime/loop.h"

#define VD_LINK_STEP_ORDER      100
#define VD_LINK_PEERS_MAX       256
#define VD_LINK_PIECE_MAX_BYTES (64 * 1024)

typedef struct vd_link vd_link_t;

typedef struct {
    /* of the unix socket; its folder must be private (checked: not world-accessible) */
    const char *path;
    bool bind;                /* true: ROUTER, many peers; false: DEALER, one peer */
    uint64_t item_max_bytes;  /* 0 = VD_LINK_ITEM_MAX_BYTES */
    uint64_t queue_max_bytes; /* 0 = VD_LINK_QUEUE_MAX_BYTES */
    /* no frame for so long = gone; idle links send heartbeats at a third of it; 0 = 3000 */
    uint64_t peer_timeout_ms;
    int socket_mode; /* permission bits of a bound socket, 0 = 0600 */
    /* peer: 0 for a DEALER's one peer; else a number that is never reused while the link lives. The
     * item is borrowed during the call. */
    void (*item)(void *context, uint64_t peer, vd_slice_t item);
    /* up: first frame from it (or, for a DEALER, connected); down: timed out, disconnected. In
     * flight items to or from it are lost. */
    void (*peer_changed)(void *context, uint64_t peer, bool up);
    /* The other end has cut us off, after peer_changed: a process that says what it must not ends
     * (vd_daemon_cut_off). NULL: a DEALER stays down until its connection breaks. */
    void (*cut)(void *context);
    void *context;
} vd_link_options_t;

VD_MUST_CHECK int vd_link_open(vd_loop_t *loop, const vd_link_options_t *options,
                               vd_link_t **ret_link, vd_error_t *err);
/* Hands over what is queued (waiting at most 200 ms for it to leave). May be called from the link's
 * own callbacks. */
void vd_link_close(vd_link_t **link_p);
/* Gives everything queued to the socket now, not at the end of the turn: for a last word before the
 * process ends. */
void vd_link_flush(vd_link_t *link);
/* Queues one item for the end of this turn. The parts are copied into the batch buffer once.
 * VD_ERR_CLOSED: that peer is not up. VD_ERR_FULL: queue_max_bytes reached.
 * VD_ERR_INVALID_LENGTH: the item is too large. */
VD_MUST_CHECK int vd_link_send(vd_link_t *link, uint64_t peer, vd_slice_t head, vd_slice_t body,
                               vd_error_t *err);
/* The same, in order among those sent with it. */
VD_MUST_CHECK int vd_link_send_ordered(vd_link_t *link, uint64_t peer, vd_slice_t head,
                                       vd_slice_t body, vd_error_t *err);
/* The peer has said what this link does not carry, or what can't be decoded: logged, counted, told
 * to it (cut), then nothing more is taken from it or sent to it until it has connected anew. Within
 * the item callback only; peer_changed follows it. why: for a person. */
void vd_link_cut(vd_link_t *link, uint64_t peer, const char *why);
bool vd_link_peer_up(const vd_link_t *link, uint64_t peer);
/* Bytes queued for a peer and not yet given to the socket. */
uint64_t vd_link_queued_bytes(const vd_link_t *link, uint64_t peer);
typedef struct {
    uint64_t items_sent, items_received, frames_sent, frames_received, bytes_sent, bytes_received,
        refused, cut;
} vd_link_stats_t;
void vd_link_stats(const vd_link_t *link, vd_link_stats_t *ret_stats);
