/* libcommon/runtime/link_private.h — what the files of a link share: link.c (its life, and what
 * leaves) and link_receive.c (what comes).
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
 * Owner:   link.c. Threads: those of the link: its own. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/base/list.h"
#include "libcommon/base/map.h"
#include "libcommon/runtime/link.h"
#include "libcommon/runtime/link_socket.h"
#include "libcommon/runtime/metrics.h"

#define VD_LINK_PROTOCOL           1
#define VD_LINK_KIND_SHIFT         28
#define VD_LINK_LENGTH_MASK        ((1u << VD_LINK_KIND_SHIFT) - 1)
#define VD_LINK_SESSION_BYTES      4
#define VD_LINK_HEAD_BYTES         4
#define VD_LINK_PIECE_HEAD_BYTES   8
#define VD_LINK_INSTANCE_BYTES     16
#define VD_LINK_STREAMS_ACTIVE_MAX 16 /* large items under way to a peer at once; others wait */
#define VD_LINK_STREAMS_ACTIVE_MAX_BYTES                                                           \
    (64u * 1024 * 1024)           /* of those, unless a single one is larger */
#define VD_LINK_RECEIVE_FRAMES 64 /* in one step */

enum { VD_LINK_KIND_WHOLE = 0, VD_LINK_KIND_PIECE = 1, VD_LINK_KIND_CONTROL = 2 };
enum {
    VD_LINK_CONTROL_HELLO = 1,
    VD_LINK_CONTROL_HEARTBEAT = 2,
    VD_LINK_CONTROL_RESET = 3,
    VD_LINK_CONTROL_CUT = 4
};
typedef enum { VD_LINK_SENT, VD_LINK_BLOCKED, VD_LINK_GONE } vd_link_sent_t;

typedef struct {
    vd_node_t node;
    uint32_t id;
    vd_buf_t bytes; /* max = the item's length */
} vd_link_stream_in_t;

typedef struct {
    uint64_t number; /* 0: the DEALER's one peer */
    uint32_t session;
    bool up, blocked;
    bool cut, cutting; /* cutting: by the owner, within the item callback */
    uint8_t routing_id[255];
    uint8_t routing_id_len;
    uint8_t instance[VD_LINK_INSTANCE_BYTES];
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
} vd_link_peer_t;

struct vd_link {
    vd_loop_t *loop;
    vd_link_options_t options;
    char path[VD_LINK_PATH_MAX_BYTES + 1];
    uint8_t instance[VD_LINK_INSTANCE_BYTES];
    vd_link_socket_t wire;
    vd_source_t *socket_source, *monitor_source, *step_source, *tick_source, *retry_source;
    bool retry_armed, hello_due, in_step, closing, dirty;
    uint32_t probes_left;
    uint64_t interval_ms, last_tick_ms;
    vd_link_peer_t *peers[VD_LINK_PEERS_MAX]; /* a DEALER uses slot 0 alone */
    uint32_t peer_high;                       /* slots in use are below */
    uint64_t next_generation;
    vd_map_t *by_routing_id;
    char cut_reason[VD_ERROR_MESSAGE_SIZE];
    uint64_t cut_logged_ms;
    vd_metric_t *cut_by_us, *cut_by_other;
    vd_link_stats_t stats;
};

/* ---- link.c ---- */

/* Its pair and its name: storage-gateway/operation. */
const char *vd_link_name(const vd_link_t *link);
/* NULL: there are as many as may be. */
vd_link_peer_t *vd_link_peer_add(vd_link_t *link, vd_slice_t routing_id);
/* The owner is told. A ROUTER's peer is gone behind it; a DEALER's begins anew. */
void vd_link_peer_found(vd_link_t *link, vd_link_peer_t *peer);
void vd_link_peer_lost(vd_link_t *link, vd_link_peer_t *peer);
/* Nothing more is taken from it or told to it; its slot is held until its connection is gone. */
void vd_link_peer_cut(vd_link_t *link, vd_link_peer_t *peer, const char *why);
void vd_link_stream_in_free(vd_link_peer_t *peer, vd_link_stream_in_t *stream);
/* A ROUTER's answer to a hello, into the queue. */
void vd_link_hello_answer(vd_link_t *link, vd_link_peer_t *peer);
/* Past the queue: nothing else may leave for this peer. */
vd_link_sent_t vd_link_control_now(vd_link_t *link, vd_slice_t routing_id, uint32_t session,
                                   uint8_t type);

/* ---- link_receive.c ---- */

/* Returns how many frames came; less than VD_LINK_RECEIVE_FRAMES means EAGAIN was seen. The owner
 * may close the link meanwhile: look at `closing`. */
VD_MUST_CHECK uint32_t vd_link_receive(vd_link_t *link);
