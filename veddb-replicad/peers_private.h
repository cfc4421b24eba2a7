/* veddb-replicad/peers_private.h — what peers.c (connections) and dial.c (whom we dial) share. */
#pragma once
#include "libcommon/runtime/tls.h"
#include "libcommon/runtime/worker.h"
#include "veddb-replicad/peers.h"

#include <openssl/ssl.h>

#define REPL_REDIAL_MS     100
#define REPL_REDIAL_MAX_MS 2000

typedef enum {
    REPL_CONN_CONNECTING,
    REPL_CONN_HANDSHAKE,
    REPL_CONN_GREETING,
    REPL_CONN_OPEN,
    REPL_CONN_DEAD
} repl_conn_state_t;

struct repl_conn {
    vd_node_t node;
    repl_peers_t *peers;
    repl_link_t *link; /* NULL: accepted */
    int fd;
    SSL *ssl;
    vd_source_t *source;
    unsigned events;
    repl_conn_state_t state;
    bool told_up, read_wants_write, again, closing, has_failed;
    uint64_t opened_ms, heard_ms, tag;
    vd_buf_t in, out;
    repl_calls_t calls;
    repl_greeting_t greeting;
    char other[80]; /* address, for logs */
};

struct repl_link {
    vd_node_t node;
    repl_peers_t *peers;
    char address[VDP_PEER_ADDRESS_MAX + 1], host[VDP_PEER_ADDRESS_MAX + 1];
    uint16_t port;
    uint32_t users;
    repl_conn_t *conn; /* being made, or made */
    bool resolving;
    uint64_t redial_at_ms, pause_ms;
    char error[200];
};

struct repl_peers {
    vd_loop_t *loop;
    repl_peers_options_t options;
    vd_tls_t *server, *client;
    vd_source_t *listen_source, *tick_source, *step_source;
    vd_worker_t *resolver;
    vd_list_t conns, dead, links;
    uint32_t conn_count, strangers;
};

/* ---- peers.c ---- */
/* Takes fd. link: NULL: accepted. NULL: there is no room, or no TLS. */
repl_conn_t *repl_conn_new(repl_peers_t *peers, int fd, repl_link_t *link, const char *other);
/* At once; it is freed at the end of the turn. why: for the log, or NULL. */
void repl_conn_die(repl_conn_t *conn, const char *why);

/* ---- dial.c ---- */
void repl_link_dial(repl_link_t *link);
