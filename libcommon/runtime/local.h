/* libcommon/runtime/local.h — request and answer over a unix SOCK_SEQPACKET socket, with the other
 * end's credentials checked.
 *
 * Duty:    the operators' control socket and the hand-over of keys: small, rare, private. Not for
 *          the request path. Buffers are wiped after use.
 * Limits:  a packet <= VD_LOCAL_PACKET_MAX; a client has 5 s to say something. A listener serves at
 *          most 32 clients. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/runtime/loop.h"

#define VD_LOCAL_PACKET_MAX (192 * 1024)

typedef struct vd_local vd_local_t;
typedef struct vd_local_client vd_local_client_t;

typedef struct {
    const char *path;
    int socket_mode; /* 0 = 0600 */
    /* >= 0: already bound and listening (passed down), stays the caller's; path is then only a
     * name. -1: bind path */
    int listen_fd;
    uid_t allowed_uid; /* besides root and our own uid */
    /* One packet from a client; answer now or later (also from another turn) with vd_local_reply
     * (hold the client for that). */
    void (*request)(void *context, vd_local_client_t *client, vd_slice_t packet);
    void *context;
} vd_local_options_t;

VD_MUST_CHECK int vd_local_listen(vd_loop_t *loop, const vd_local_options_t *options,
                                  vd_local_t **ret_local, vd_error_t *err);
void vd_local_close(vd_local_t **local_p);
/* Sends the answer; the client may ask again. Fine when the client has gone. Several answers to one
 * request are fine (watching). */
VD_MUST_CHECK int vd_local_reply(vd_local_client_t *client, vd_slice_t packet, vd_error_t *err);
/* Keeps the client object alive for a later answer; every hold needs a drop. */
void vd_local_hold(vd_local_client_t *client);
void vd_local_drop(vd_local_client_t *client);
uid_t vd_local_client_uid(const vd_local_client_t *client);

/* Blocking client: connect, send, wait for one answer into reply (cleared first). required_uid:
 * refuse a server that runs as somebody else (-1: any). */
VD_MUST_CHECK int vd_local_call(const char *path, vd_slice_t packet, uint64_t timeout_ms,
                                int64_t required_uid, vd_buf_t *reply, vd_error_t *err);
