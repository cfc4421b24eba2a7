/* veddb-replicad/peers.h — mutual TLS connections between the nodes.
 *
 * Duty:    dials members (again, with growing pauses, until hung up) and accepts their
 *          connections; checks chain, purpose, name and the organisational unit "veddb-node" both
 *          ways; frames; nothing but HELLO/WELCOME before both have said who they are; closes what
 *          is silent, malformed or too slow. Knows nothing of what is said.
 * Owner:   create/destroy by the loop's thread. A conn lives until its `lost`; a link until hung
 *          up.
 * Threads: the loop's; names are resolved in a worker.
 * Limits:  REPL_CONNS_MAX; frames.h; out_max_bytes held for one connection, above which it is
 *          closed.
 * Order:   what is sent in a turn leaves at its end (REPL_PEERS_STEP_ORDER, after the link to
 *          storage was read). */
#pragma once
#include "libcommon/base/list.h"
#include "libcommon/runtime/loop.h"
#include "proto/peer.h"
#include "veddb-replicad/calls.h"

#define REPL_PEERS_STEP_ORDER 120 /* VD_LINK_STEP_ORDER is before */
#define REPL_CONNS_MAX        256

typedef struct repl_peers repl_peers_t;
typedef struct repl_conn repl_conn_t;
typedef struct repl_link repl_link_t; /* somebody whom we dial */

/* What the other said of itself; own copies. */
typedef struct {
    char node[VDP_NODE_NAME_MAX + 1], set[VDP_NODE_NAME_MAX + 1];
    char peer[VDP_PEER_ADDRESS_MAX + 1], host[VDP_PEER_ADDRESS_MAX + 1];
    uint8_t set_id[12];
    bool has_set_id;
    int64_t config_version, config_term;
} repl_greeting_t;

typedef struct {
    const char *certificate_file, *key_file, *ca_file, *crl_file;
    int listen_fd;       /* taken */
    uint64_t timeout_ms; /* silent for so long: closed */
    size_t out_max_bytes;
    /* Our HELLO or WELCOME. */
    void (*greet)(void *context, vdp_peer_hello_t *ret_hello);
    /* May this node be spoken with? */
    int (*check)(void *context, const repl_greeting_t *greeting, vd_error_t *err);
    void (*up)(void *context, repl_conn_t *conn);
    /* A question or notice of the other; answers go to who asked. */
    void (*item)(void *context, repl_conn_t *conn, const vdp_envelope_t *envelope, vd_slice_t rest);
    /* After `up` only. Calls on it fail afterwards. */
    void (*lost)(void *context, repl_conn_t *conn);
    void *context;
} repl_peers_options_t;

VD_MUST_CHECK int repl_peers_create(vd_loop_t *loop, const repl_peers_options_t *options,
                                    repl_peers_t **ret_peers, vd_error_t *err);
void repl_peers_destroy(repl_peers_t **peers_p);
int64_t repl_peers_certificate_expires_in_s(repl_peers_t *peers);
/* Reads certificates, key and revocations again, off the loop; done() on the loop, once. Nodes that
 * would not be let in any more are hung up. */
void repl_peers_reload(repl_peers_t *peers,
                       void (*done)(void *context, int code, const char *message), void *context);

/* address: host:port. The same address twice gives the same link; each needs a hang-up. */
repl_link_t *repl_peers_dial(repl_peers_t *peers, const char *address);
void repl_peers_hang_up(repl_link_t **link_p);
/* NULL while it is not up. */
repl_conn_t *repl_link_conn(repl_link_t *link);
const char *repl_link_address(const repl_link_t *link);
/* Why the last try failed; "" when none did. */
const char *repl_link_error(const repl_link_t *link);

/* Any open conn, to all of them. */
void repl_peers_each(repl_peers_t *peers, void (*each)(void *context, repl_conn_t *conn),
                     void *context);

/* NULL: we were called. */
repl_link_t *repl_conn_link(repl_conn_t *conn);
const repl_greeting_t *repl_conn_greeting(const repl_conn_t *conn);
/* The user's own number for it. */
void repl_conn_set_tag(repl_conn_t *conn, uint64_t tag);
uint64_t repl_conn_tag(const repl_conn_t *conn);

/* On failure (VD_ERR_FULL, VD_ERR_CLOSED) the connection is closed at the turn's end. */
VD_MUST_CHECK int repl_conn_send(repl_conn_t *conn, const vdp_message_t *message, uint64_t request,
                                 const void *fields, vd_slice_t body, vd_error_t *err);
void repl_conn_send_failure(repl_conn_t *conn, uint64_t request, const vd_error_t *why);
/* Returns the request's number; done is always called, also when the connection is lost or
 * timeout_ms (0 = none) are over. many: until a failure. */
uint64_t repl_conn_ask(repl_conn_t *conn, const vdp_message_t *message, const void *fields,
                       vd_slice_t body, bool many, uint64_t timeout_ms, repl_done_t done,
                       void *context);
void repl_conn_forget(repl_conn_t *conn, uint64_t request);
/* At the end of this turn. why: for the log, or NULL. */
void repl_conn_close(repl_conn_t *conn, const char *why);

/* With the private key of the certificate that we show on this connection; appended to `out`. */
VD_MUST_CHECK int repl_conn_sign(repl_conn_t *conn, vd_slice_t text, vd_buf_t *out,
                                 vd_error_t *err);
/* Against the certificate that was shown and checked on this connection:
 * VD_ERR_SNAPSHOT_SIGNATURE. */
VD_MUST_CHECK int repl_conn_verify(repl_conn_t *conn, vd_slice_t text, vd_slice_t signature,
                                   vd_error_t *err);

/* "host:port" or "[v6]:port" taken apart; false: it isn't one. */
bool repl_address_parse(const char *address, char *host, size_t host_size, uint16_t *ret_port);
