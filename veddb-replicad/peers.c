/* veddb-replicad/peers.c — see peers.h.
 *
 * A connection is freed at the end of the turn in which it died, so that a handler may close what
 * it was called for. */
#include "veddb-replicad/peers.h"

#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/worker.h"
#include "proto/failure.h"
#include "veddb-replicad/certificate.h"
#include "veddb-replicad/frames.h"
#include "veddb-replicad/seal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define READ_BYTES        (64 * 1024)
#define TURN_BYTES_MAX    (1024 * 1024) /* read from one connection before others have their turn */
#define GREETING_MS       5000          /* from the first byte to WELCOME */
#define REDIAL_MS         100
#define REDIAL_MAX_MS     2000
#define TICK_MS           100
#define ACCEPTS_PER_TURN  16
#define STRANGERS_MAX     64 /* connections that have not greeted yet */
#define KEEP_BUFFER_BYTES (256 * 1024)

typedef enum { CONNECTING, HANDSHAKE, GREETING, OPEN, DEAD } conn_state_t;

struct repl_conn {
    vd_node_t node;
    repl_peers_t *peers;
    repl_link_t *link; /* NULL: accepted */
    int fd;
    SSL *ssl;
    vd_source_t *source;
    unsigned events;
    conn_state_t state;
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

typedef struct {
    repl_peers_t *peers;
    char address[VDP_PEER_ADDRESS_MAX + 1], host[VDP_PEER_ADDRESS_MAX + 1];
    uint16_t port;
    struct sockaddr_storage found;
    socklen_t found_len; /* 0: not found */
    int why;
} lookup_t;

bool repl_address_parse(const char *address, char *host, size_t host_size, uint16_t *ret_port)
{
    const char *colon = strrchr(address, ':');
    if (colon == NULL || colon == address)
        return false;
    const char *from = address;
    size_t len = (size_t)(colon - address);
    if (from[0] == '[') {
        if (len < 3 || from[len - 1] != ']')
            return false;
        from++, len -= 2;
    } else if (memchr(from, ':', len) != NULL) {
        return false; /* an IPv6 address without brackets */
    }
    char *end = NULL;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || port == 0 || port > 65535 ||
        len + 1 > host_size)
        return false;
    memcpy(host, from, len);
    host[len] = '\0';
    *ret_port = (uint16_t)port;
    return true;
}

/* ---- a connection's end ---- */

static void note_error(repl_conn_t *conn, const char *why)
{
    if (conn->link != NULL && why != NULL)
        (void)snprintf(conn->link->error, sizeof conn->link->error, "%s", why);
}

static void die(repl_conn_t *conn, const char *why)
{
    repl_peers_t *peers = conn->peers;
    char quoted[300];
    if (conn->state == DEAD)
        return;
    conn_state_t was = conn->state;
    conn->state = DEAD;
    note_error(conn, why);
    if (why != NULL && was == OPEN)
        vd_log(VD_LOG_INFO, "connection to a node ended", "node=%s address=%s reason=%s",
               conn->greeting.node, conn->other,
               vd_log_quote(vd_slice_str(why), quoted, sizeof quoted));
    vd_loop_remove(&conn->source);
    if (conn->ssl != NULL) {
        ERR_clear_error();
        if (was == GREETING || was == OPEN)
            (void)SSL_shutdown(conn->ssl); /* best effort; nobody waits for its answer */
        SSL_free(conn->ssl);
        conn->ssl = NULL;
    }
    (void)close(conn->fd);
    conn->fd = -1;
    if (conn->link == NULL && was != OPEN)
        peers->strangers--;
    if (conn->link != NULL && conn->link->conn == conn) {
        repl_link_t *link = conn->link;
        link->conn = NULL;
        link->redial_at_ms = vd_loop_now_ms(peers->loop) + link->pause_ms;
        link->pause_ms =
            link->pause_ms * 2 < REDIAL_MAX_MS ? link->pause_ms * 2 + 1 : REDIAL_MAX_MS;
    }
    vd_list_remove(&conn->node);
    vd_list_push_back(&peers->dead, &conn->node);
    peers->conn_count--;
    repl_calls_fail_all(&conn->calls, VD_ERR_CLOSED, "the connection to the node was lost");
    if (conn->told_up)
        peers->options.lost(peers->options.context, conn);
}

static void conn_free(repl_conn_t *conn)
{
    vd_list_remove(&conn->node);
    vd_buf_done(&conn->in);
    vd_buf_done(&conn->out);
    vd_free(conn);
}

static void update_events(repl_conn_t *conn)
{
    if (conn->state == DEAD)
        return;
    unsigned events = conn->state == CONNECTING ? VD_LOOP_WRITE : VD_LOOP_READ;
    if (vd_buf_len(&conn->out) != 0 || conn->read_wants_write)
        events |= VD_LOOP_WRITE;
    if (events != conn->events) {
        conn->events = events;
        vd_loop_set_events(conn->source, events);
    }
}

/* ---- writing ---- */

static void flush(repl_conn_t *conn)
{
    while (conn->state >= GREETING && conn->state != DEAD && vd_buf_len(&conn->out) != 0) {
        vd_slice_t left = vd_buf_slice(&conn->out);
        ERR_clear_error();
        int n = SSL_write(conn->ssl, left.data, left.len > INT32_MAX ? INT32_MAX : (int)left.len);
        if (n <= 0) {
            int why = SSL_get_error(conn->ssl, n);
            if (why != SSL_ERROR_WANT_WRITE && why != SSL_ERROR_WANT_READ)
                die(conn, "a write failed");
            break;
        }
        vd_buf_consume(&conn->out, (size_t)n);
    }
    if (conn->state != DEAD && vd_buf_len(&conn->out) == 0)
        vd_buf_shrink(&conn->out, KEEP_BUFFER_BYTES);
    update_events(conn);
}

static int put(repl_conn_t *conn, const vdp_message_t *message, uint64_t request,
               const void *fields, vd_slice_t body, vd_error_t *err)
{
    if (conn->state == DEAD || conn->closing)
        return vd_error_set(err, VD_ERR_CLOSED, "the connection to the node was lost");
    vdp_envelope_t envelope = {.id = message->id, .request_id = request};
    int rc = repl_frame_put(&conn->out, &envelope, message, fields, body, err);
    if (rc == VD_ERR_FULL)
        repl_conn_close(conn, "more waits to be sent than may be held");
    return rc;
}

int repl_conn_send(repl_conn_t *conn, const vdp_message_t *message, uint64_t request,
                   const void *fields, vd_slice_t body, vd_error_t *err)
{
    VD_ASSERT(conn->state == OPEN || conn->state == DEAD);

    int rc = put(conn, message, request, fields, body, err);
    vd_loop_again(conn->peers->loop);
    return rc;
}

void repl_conn_send_failure(repl_conn_t *conn, uint64_t request, const vd_error_t *why)
{
    vdp_failure_t failure = vdp_failure_from(why);
    vd_error_t err = VD_ERROR_INIT;
    if (request != 0 && put(conn, &vdp_failure, request, &failure, VD_SLICE_NULL, &err) != VD_OK)
        VD_DEBUG("failure was not sent", "node=%s error=%d", conn->greeting.node, err.code);
    vd_loop_again(conn->peers->loop);
}

static uint64_t deadline_of(const repl_conn_t *conn, uint64_t timeout_ms)
{
    return timeout_ms == 0 ? 0 : vd_loop_now_ms(conn->peers->loop) + timeout_ms;
}

int repl_conn_sign(repl_conn_t *conn, vd_slice_t text, vd_buf_t *out, vd_error_t *err)
{
    if (conn->state == DEAD)
        return vd_error_set(err, VD_ERR_CLOSED, "the connection to the node was lost");
    return repl_seal_sign(SSL_get_privatekey(conn->ssl), text, out, err);
}

int repl_conn_verify(repl_conn_t *conn, vd_slice_t text, vd_slice_t signature, vd_error_t *err)
{
    if (conn->state == DEAD)
        return vd_error_set(err, VD_ERR_CLOSED, "the connection to the node was lost");
    X509 *certificate = SSL_get0_peer_certificate(conn->ssl);
    return repl_seal_verify(certificate == NULL ? NULL : X509_get0_pubkey(certificate), text,
                            signature, err);
}

uint64_t repl_conn_ask(repl_conn_t *conn, const vdp_message_t *message, const void *fields,
                       vd_slice_t body, bool many, uint64_t timeout_ms, repl_done_t done,
                       void *context)
{
    vd_error_t err = VD_ERROR_INIT;
    uint64_t id = repl_calls_add(&conn->calls, many, deadline_of(conn, timeout_ms), done, context);
    int rc = repl_conn_send(conn, message, id, fields, body, &err);
    if (rc == VD_OK)
        return id;
    repl_calls_forget(&conn->calls, id);
    done(context, &(repl_answer_t){.rc = rc, .err = &err});
    return id;
}

void repl_conn_forget(repl_conn_t *conn, uint64_t request)
{
    repl_calls_forget(&conn->calls, request);
}

void repl_conn_close(repl_conn_t *conn, const char *why)
{
    if (conn->state == DEAD || conn->closing)
        return;
    conn->closing = true;
    note_error(conn, why);
    if (why != NULL)
        vd_log(VD_LOG_WARN, "connection to a node is closed", "node=%s address=%s reason=\"%s\"",
               conn->greeting.node, conn->other, why);
    vd_loop_again(conn->peers->loop);
}

/* ---- greeting ---- */

static void copy_text(char *out, size_t size, vd_slice_t text)
{
    (void)snprintf(out, size, "%.*s", VD_SLICE_FMT(text));
}

static void greeting_from(repl_greeting_t *greeting, const vdp_peer_hello_t *hello)
{
    copy_text(greeting->node, sizeof greeting->node, hello->node);
    copy_text(greeting->set, sizeof greeting->set, hello->set);
    copy_text(greeting->peer, sizeof greeting->peer, hello->peer);
    copy_text(greeting->host, sizeof greeting->host, hello->host);
    greeting->has_set_id = hello->set_id.len == 12;
    if (greeting->has_set_id)
        memcpy(greeting->set_id, hello->set_id.data, 12);
    greeting->config_version = hello->config_version;
    greeting->config_term = hello->config_term;
}

static void say_hello(repl_conn_t *conn, const vdp_message_t *message, uint64_t request)
{
    vdp_peer_hello_t hello = {.protocol = VDP_PEER_PROTOCOL};
    vd_error_t err = VD_ERROR_INIT;
    conn->peers->options.greet(conn->peers->options.context, &hello);
    if (put(conn, message, request, &hello, VD_SLICE_NULL, &err) != VD_OK)
        die(conn, err.message);
}

static void refuse(repl_conn_t *conn, uint64_t request, const vd_error_t *why)
{
    char quoted[VD_ERROR_MESSAGE_SIZE + 80];
    vd_log(VD_LOG_WARN, "a node was refused", "address=%s node=%s error=%s", conn->other,
           conn->greeting.node, vd_log_quote(vd_slice_str(why->message), quoted, sizeof quoted));
    note_error(conn, why->message);
    if (request != 0) {
        vdp_failure_t failure = vdp_failure_from(why);
        (void)put(conn, &vdp_failure, request, &failure, VD_SLICE_NULL, NULL); /* closed anyway */
        flush(conn);
    }
    die(conn, why->message);
}

static int read_greeting(repl_conn_t *conn, const vdp_message_t *message, vd_slice_t rest,
                         vd_error_t *err)
{
    vdp_peer_hello_t hello = {0};
    int rc = vdp_decode(message, rest, &hello, NULL, err);
    if (rc != VD_OK)
        return rc;
    greeting_from(&conn->greeting, &hello);
    if (hello.protocol != VDP_PEER_PROTOCOL)
        return vd_error_set(err, VD_ERR_PROTOCOL, "it speaks protocol %u, we speak %d",
                            hello.protocol, VDP_PEER_PROTOCOL);
    char host[VDP_PEER_ADDRESS_MAX + 1];
    uint16_t port;
    for (size_t i = 0; i < hello.node.len; i++)
        if (hello.node.data[i] <= ' ' || hello.node.data[i] == '"' || hello.node.data[i] == 0x7f) {
            conn->greeting.node[0] = '\0'; /* it stands in log lines */
            return vd_error_set(err, VD_ERR_PROTOCOL, "its name has blanks or quotes in it");
        }
    if (hello.node.len == 0 || !repl_address_parse(conn->greeting.peer, host, sizeof host, &port))
        return vd_error_set(err, VD_ERR_PROTOCOL, "it has no name or no address of its own");
    /* Whom we dialed was checked by its address in the handshake. */
    rc = conn->link != NULL ? VD_OK : repl_certificate_names(conn->ssl, host, err);
    if (rc == VD_OK)
        rc = conn->peers->options.check(conn->peers->options.context, &conn->greeting, err);
    return rc;
}

static void become_open(repl_conn_t *conn)
{
    repl_peers_t *peers = conn->peers;
    conn->state = OPEN;
    if (conn->link != NULL) {
        conn->link->pause_ms = REDIAL_MS;
        conn->link->error[0] = '\0';
    } else {
        peers->strangers--;
    }
    vd_log(VD_LOG_INFO, conn->link != NULL ? "connected to a node" : "a node has connected",
           "node=%s address=%s", conn->greeting.node, conn->other);
    conn->told_up = true;
    peers->options.up(peers->options.context, conn);
}

static void greet(repl_conn_t *conn, const vdp_envelope_t *envelope, vd_slice_t rest)
{
    vd_error_t err = VD_ERROR_INIT;
    const vdp_message_t *expected = conn->link != NULL ? &vdp_peer_welcome : &vdp_peer_hello;
    if (conn->link != NULL && envelope->id == VDP_FAILURE) {
        vdp_failure_t failure = {0};
        if (vdp_decode(&vdp_failure, rest, &failure, NULL, &err) == VD_OK)
            (void)vdp_failure_to(&failure, &err); /* into err, for refuse */
        (void)vd_error_prefix(&err, "it refuses us");
        refuse(conn, 0, &err);
        return;
    }
    int rc = envelope->id == expected->id ? read_greeting(conn, expected, rest, &err)
                                          : vd_error_set(&err, VD_ERR_PROTOCOL, "%s before %s",
                                                         vdp_id_name(envelope->id), expected->name);
    if (rc != VD_OK) {
        refuse(conn, conn->link != NULL ? 0 : envelope->request_id, &err);
        return;
    }
    if (conn->link == NULL)
        say_hello(conn, &vdp_peer_welcome, envelope->request_id);
    if (conn->state == GREETING)
        become_open(conn);
}

/* ---- reading ---- */

static void take_item(repl_conn_t *conn, vd_slice_t item)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope;
    vd_slice_t rest;
    if (vdp_decode_envelope(item, &envelope, &rest, &err) != VD_OK) {
        vd_log(VD_LOG_WARN, "a node sent something that can't be read", "node=%s address=%s",
               conn->greeting.node, conn->other);
        die(conn, err.message);
        return;
    }
    if (conn->state == GREETING) {
        greet(conn, &envelope, rest);
        return;
    }
    bool answer = (envelope.id & 1) != 0; /* odd numbers answer */
    if (answer)
        (void)repl_calls_answer(&conn->calls, &envelope, rest); /* false: not waited for any more */
    else
        conn->peers->options.item(conn->peers->options.context, conn, &envelope, rest);
}

static void take_frames(repl_conn_t *conn)
{
    while (conn->state == GREETING || conn->state == OPEN) {
        vd_error_t err = VD_ERROR_INIT;
        vd_slice_t item;
        size_t used;
        int rc = repl_frame_take(vd_buf_slice(&conn->in),
                                 conn->state == OPEN ? REPL_FRAME_MAX_BYTES : REPL_FRAME_HELLO_MAX,
                                 &item, &used, &err);
        if (rc == VD_ERR_AGAIN)
            break;
        if (rc != VD_OK) {
            vd_log(VD_LOG_WARN,
                   rc == VD_ERR_CORRUPT ? "a frame's checksum is wrong; it is fetched anew"
                                        : "a frame's length can't be",
                   "node=%s address=%s", conn->greeting.node, conn->other);
            die(conn, err.message);
            return;
        }
        take_item(conn, item);
        if (conn->state == DEAD)
            return;
        vd_buf_consume(&conn->in, used);
        if (conn->closing)
            return;
    }
    if (vd_buf_len(&conn->in) == 0)
        vd_buf_shrink(&conn->in, KEEP_BUFFER_BYTES);
}

/* Bytes that the frame at the head of `in` still lacks: read in one go. */
static size_t wanted(const repl_conn_t *conn)
{
    vd_slice_t have = vd_buf_slice(&conn->in);
    if (have.len < 4)
        return READ_BYTES;
    uint64_t whole = (uint64_t)vd_get_u32(have.data) + 4;
    if (whole > REPL_FRAME_MAX_BYTES || whole <= have.len + READ_BYTES)
        return READ_BYTES;
    return whole - have.len < TURN_BYTES_MAX ? (size_t)whole - have.len : TURN_BYTES_MAX;
}

static bool read_once(repl_conn_t *conn, size_t *budget)
{
    uint8_t *space = NULL;
    size_t room = wanted(conn);
    if (vd_buf_reserve(&conn->in, room, &space) != VD_OK) {
        die(conn, "no memory for what was sent");
        return false;
    }
    ERR_clear_error();
    errno = 0;
    int n = SSL_read(conn->ssl, space, (int)room);
    if (n <= 0) {
        int why = SSL_get_error(conn->ssl, n);
        conn->read_wants_write = why == SSL_ERROR_WANT_WRITE;
        if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
            repl_certificate_log_alert(conn->other);
            die(conn, why == SSL_ERROR_ZERO_RETURN ? "it has closed" : "the connection broke");
        }
        return false;
    }
    vd_buf_commit(&conn->in, (size_t)n);
    conn->heard_ms = vd_loop_now_ms(conn->peers->loop);
    *budget = (size_t)n < *budget ? *budget - (size_t)n : 0;
    return true;
}

static void pump(repl_conn_t *conn)
{
    size_t budget = TURN_BYTES_MAX;
    conn->again = false;
    while (conn->state == GREETING || conn->state == OPEN) {
        if (!read_once(conn, &budget))
            break;
        take_frames(conn);
        if (budget == 0 && conn->state != DEAD) {
            conn->again = true; /* what OpenSSL holds wakes nobody */
            break;
        }
    }
    update_events(conn);
}

/* ---- connecting ---- */

static void handshake(repl_conn_t *conn)
{
    vd_error_t err = VD_ERROR_INIT;
    ERR_clear_error();
    int n = SSL_do_handshake(conn->ssl);
    if (n != 1) {
        int why = SSL_get_error(conn->ssl, n);
        conn->read_wants_write = why == SSL_ERROR_WANT_WRITE;
        if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
            update_events(conn);
            return;
        }
        die(conn, repl_certificate_log_refusal(conn->ssl, conn->other));
        return;
    }
    if (repl_certificate_check_node(conn->ssl, &err) != VD_OK) {
        vd_log(VD_LOG_WARN, "certificate refused: it is not a node's", "address=%s", conn->other);
        die(conn, err.message);
        return;
    }
    conn->state = GREETING;
    SSL_set_read_ahead(conn->ssl, 1);
    if (conn->link != NULL)
        say_hello(conn, &vdp_peer_hello, 1);
    flush(conn);
    pump(conn);
}

static void connected(repl_conn_t *conn)
{
    int failed = 0;
    socklen_t len = sizeof failed;
    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &failed, &len) != 0)
        failed = errno;
    if (failed != 0) {
        char text[128];
        die(conn, strerror_r(failed, text, sizeof text));
        return;
    }
    conn->state = HANDSHAKE;
    handshake(conn);
}

static void ready(void *context, int fd, unsigned events)
{
    (void)fd; /* conn has it */
    repl_conn_t *conn = context;
    if (conn->state == CONNECTING) {
        if ((events & (VD_LOOP_WRITE | VD_LOOP_ERROR)) != 0)
            connected(conn);
        return;
    }
    if (conn->state == HANDSHAKE) {
        handshake(conn);
        return;
    }
    if ((events & VD_LOOP_WRITE) != 0)
        flush(conn);
    if (conn->state != DEAD)
        pump(conn);
}

static repl_conn_t *conn_new(repl_peers_t *peers, int fd, repl_link_t *link, const char *other)
{
    repl_conn_t *conn = vd_xalloc(sizeof *conn);
    vd_error_t err = VD_ERROR_INIT;
    int one = 1;
    conn->peers = peers;
    conn->fd = fd;
    conn->link = link;
    conn->state = link != NULL ? CONNECTING : HANDSHAKE;
    conn->opened_ms = conn->heard_ms = vd_loop_now_ms(peers->loop);
    (void)snprintf(conn->other, sizeof conn->other, "%s", other);
    vd_buf_init(&conn->in, REPL_FRAME_MAX_BYTES + TURN_BYTES_MAX);
    vd_buf_init(&conn->out, peers->options.out_max_bytes);
    repl_calls_init(&conn->calls, conn->greeting.node);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* without it only slower */
    int rc = vd_tls_ssl_new(link != NULL ? peers->client : peers->server, fd, &conn->ssl, &err);
    if (rc == VD_OK && link != NULL)
        rc = repl_certificate_expect(conn->ssl, link->host, &err);
    conn->events = link != NULL ? VD_LOOP_WRITE : VD_LOOP_READ;
    if (rc == VD_OK)
        rc = vd_loop_add_fd(peers->loop, fd, conn->events, ready, conn, &conn->source, &err);
    if (rc != VD_OK) {
        vd_log(VD_LOG_ERROR, "connection to a node can't be made", "address=%s error=%d", other,
               rc);
        SSL_free(conn->ssl);
        (void)close(fd);
        conn_free(conn);
        return NULL;
    }
    vd_list_push_back(&peers->conns, &conn->node);
    peers->conn_count++;
    if (link == NULL)
        peers->strangers++;
    return conn;
}

static void print_address(const struct sockaddr_storage *from, char out[80])
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)from;
        (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        (void)snprintf(out, 80, "%s:%u", host, ntohs(v4->sin_port));
    } else {
        const struct sockaddr_in6 *v6 = (const void *)from;
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        (void)snprintf(out, 80, "[%s]:%u", host, ntohs(v6->sin6_port));
    }
}

static void accept_ready(void *context, int fd, unsigned events)
{
    (void)events; /* READ is all that is asked for */
    repl_peers_t *peers = context;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage from;
        socklen_t len = sizeof from;
        char other[80];
        int client = accept4(fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client < 0)
            return; /* a lack of descriptors is met again in the next turn */
        if (peers->strangers >= STRANGERS_MAX || peers->conn_count >= REPL_CONNS_MAX) {
            (void)close(client);
            continue;
        }
        print_address(&from, other);
        (void)conn_new(peers, client, NULL, other); /* lives in the list */
    }
}

/* ---- dialing ---- */

static void link_failed(repl_link_t *link, const char *why)
{
    (void)snprintf(link->error, sizeof link->error, "%s", why);
    link->redial_at_ms = vd_loop_now_ms(link->peers->loop) + link->pause_ms;
    link->pause_ms = link->pause_ms * 2 < REDIAL_MAX_MS ? link->pause_ms * 2 + 1 : REDIAL_MAX_MS;
}

static void link_connect(repl_link_t *link, const struct sockaddr_storage *to, socklen_t to_len)
{
    char text[128];
    int fd = socket(to->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || (connect(fd, (const struct sockaddr *)to, to_len) != 0 && errno != EINPROGRESS)) {
        link_failed(link, strerror_r(errno, text, sizeof text));
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    link->conn = conn_new(link->peers, fd, link, link->address);
    if (link->conn == NULL)
        link_failed(link, "no connection can be made");
}

static bool look_up(const char *host, uint16_t port, int flags, lookup_t *ret)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICSERV | flags},
                    *list = NULL;
    char service[8];
    (void)snprintf(service, sizeof service, "%u", port);
    ret->why = getaddrinfo(host, service, &hints, &list);
    if (ret->why != 0)
        return false;
    memcpy(&ret->found, list->ai_addr, list->ai_addrlen);
    ret->found_len = list->ai_addrlen;
    freeaddrinfo(list);
    return true;
}

static void resolve_run(void *context)
{
    lookup_t *lookup = context;
    (void)look_up(lookup->host, lookup->port, 0, lookup); /* found_len tells */
}

static repl_link_t *find_link(repl_peers_t *peers, const char *address)
{
    VD_LIST_EACH(&peers->links, node)
    {
        repl_link_t *link = VD_CONTAINER_OF(node, repl_link_t, node);
        if (strcmp(link->address, address) == 0)
            return link;
    }
    return NULL;
}

static void resolve_done(void *context)
{
    lookup_t *lookup = context;
    repl_link_t *link = find_link(lookup->peers, lookup->address); /* may be hung up by now */
    if (link != NULL && link->resolving) {
        link->resolving = false;
        if (lookup->found_len == 0)
            link_failed(link, gai_strerror(lookup->why));
        else if (link->conn == NULL)
            link_connect(link, &lookup->found, lookup->found_len);
    }
    vd_free(lookup);
}

static void link_dial(repl_link_t *link)
{
    repl_peers_t *peers = link->peers;
    lookup_t now = {0};
    if (look_up(link->host, link->port, AI_NUMERICHOST, &now)) {
        link_connect(link, &now.found, now.found_len);
        return;
    }
    lookup_t *lookup = vd_xalloc(sizeof *lookup);
    lookup->peers = peers;
    lookup->port = link->port;
    memcpy(lookup->address, link->address, sizeof lookup->address);
    memcpy(lookup->host, link->host, sizeof lookup->host);
    if (vd_worker_put(peers->resolver, peers->loop, resolve_run, resolve_done, lookup, NULL) !=
        VD_OK) {
        vd_free(lookup);
        link_failed(link, "too many names are being resolved");
        return;
    }
    link->resolving = true;
}

repl_link_t *repl_peers_dial(repl_peers_t *peers, const char *address)
{
    repl_link_t *link = find_link(peers, address);
    if (link == NULL) {
        link = vd_xalloc(sizeof *link);
        link->peers = peers;
        link->pause_ms = REDIAL_MS;
        (void)snprintf(link->address, sizeof link->address, "%s", address);
        vd_list_push_back(&peers->links, &link->node);
        if (!repl_address_parse(address, link->host, sizeof link->host, &link->port))
            (void)snprintf(link->error, sizeof link->error, "not an address: host:port");
        else
            link_dial(link);
    }
    link->users++;
    return link;
}

void repl_peers_hang_up(repl_link_t **link_p)
{
    repl_link_t *link = *link_p;
    *link_p = NULL;
    if (link == NULL || --link->users != 0)
        return;
    repl_conn_t *conn = link->conn;
    link->conn = NULL;
    if (conn != NULL) {
        die(conn, NULL);
        conn->link = NULL;
    }
    vd_list_remove(&link->node);
    vd_free(link);
}

repl_conn_t *repl_link_conn(repl_link_t *link)
{
    return link != NULL && link->conn != NULL && link->conn->state == OPEN && !link->conn->closing
               ? link->conn
               : NULL;
}

const char *repl_link_address(const repl_link_t *link)
{
    return link->address;
}

const char *repl_link_error(const repl_link_t *link)
{
    return link->error;
}

/* ---- small things ---- */

void repl_peers_each(repl_peers_t *peers, void (*each)(void *context, repl_conn_t *conn),
                     void *context)
{
    VD_LIST_EACH(&peers->conns, node)
    {
        repl_conn_t *conn = VD_CONTAINER_OF(node, repl_conn_t, node);
        if (conn->state == OPEN && !conn->closing)
            each(context, conn);
    }
}

repl_link_t *repl_conn_link(repl_conn_t *conn)
{
    return conn->link;
}

const repl_greeting_t *repl_conn_greeting(const repl_conn_t *conn)
{
    return &conn->greeting;
}

void repl_conn_set_tag(repl_conn_t *conn, uint64_t tag)
{
    conn->tag = tag;
}

uint64_t repl_conn_tag(const repl_conn_t *conn)
{
    return conn->tag;
}

/* ---- life ---- */

/* Silence is looked at on the receiving side alone: both sides send heartbeats. A conn may be
 * freed only in the step, so the walk is safe. */
static void tick(void *context)
{
    repl_peers_t *peers = context;
    uint64_t now = vd_loop_now_ms(peers->loop);
    VD_LIST_EACH(&peers->conns, node)
    {
        repl_conn_t *conn = VD_CONTAINER_OF(node, repl_conn_t, node);
        if (conn->state != OPEN && now - conn->opened_ms > GREETING_MS)
            repl_conn_close(conn, conn->state == CONNECTING ? "no answer to the call"
                                                            : "no greeting in the time given");
        else if (conn->state == OPEN && now - conn->heard_ms > peers->options.timeout_ms)
            repl_conn_close(conn, "it is silent");
        repl_calls_expire(&conn->calls, now);
    }
    VD_LIST_EACH(&peers->links, node)
    {
        repl_link_t *link = VD_CONTAINER_OF(node, repl_link_t, node);
        if (link->conn == NULL && !link->resolving && link->port != 0 && now >= link->redial_at_ms)
            link_dial(link);
    }
}

static bool step(void *context)
{
    repl_peers_t *peers = context;
    bool more = false;
    VD_LIST_EACH(&peers->conns, node)
    {
        repl_conn_t *conn = VD_CONTAINER_OF(node, repl_conn_t, node);
        if (vd_buf_len(&conn->out) != 0)
            flush(conn);
    }
    /* From the front each time: what `lost` and answers do may end others. */
    for (bool found = true; found;) {
        found = false;
        VD_LIST_EACH(&peers->conns, node)
        {
            repl_conn_t *conn = VD_CONTAINER_OF(node, repl_conn_t, node);
            if (!conn->closing)
                continue;
            die(conn, NULL);
            found = true;
            break;
        }
        more |= found;
    }
    VD_LIST_EACH(&peers->conns, node)
    {
        repl_conn_t *conn = VD_CONTAINER_OF(node, repl_conn_t, node);
        if (!conn->again)
            continue;
        vd_list_remove(&conn->node); /* to the end: the others' turns come */
        vd_list_push_back(&peers->conns, &conn->node);
        pump(conn);
        more = true;
        break;
    }
    vd_node_t *node;
    while ((node = vd_list_pop_front(&peers->dead)) != NULL)
        conn_free(VD_CONTAINER_OF(node, repl_conn_t, node));
    return more;
}

int repl_peers_create(vd_loop_t *loop, const repl_peers_options_t *options,
                      repl_peers_t **ret_peers, vd_error_t *err)
{
    VD_ASSERT(options->greet != NULL && options->check != NULL && options->item != NULL);

    repl_peers_t *peers = vd_xalloc(sizeof *peers);
    peers->loop = loop;
    peers->options = *options;
    vd_list_init(&peers->conns);
    vd_list_init(&peers->dead);
    vd_list_init(&peers->links);
    vd_tls_options_t tls = {.certificate_file = options->certificate_file,
                            .key_file = options->key_file,
                            .ca_file = options->ca_file,
                            .crl_file = options->crl_file,
                            .verify = 2,
                            .tls13_only = true};
    int rc = vd_tls_create(&tls, &peers->client, err);
    tls.server = true;
    if (rc == VD_OK)
        rc = vd_tls_create(&tls, &peers->server, err);
    if (rc == VD_OK)
        rc = vd_worker_create("resolver", 1, 64, &peers->resolver, err);
    if (rc == VD_OK)
        rc = vd_loop_add_fd(loop, options->listen_fd, VD_LOOP_READ, accept_ready, peers,
                            &peers->listen_source, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(loop, TICK_MS, TICK_MS, tick, peers, &peers->tick_source, err);
    if (rc == VD_OK)
        rc = vd_loop_add_end_of_turn(loop, REPL_PEERS_STEP_ORDER, step, peers, &peers->step_source,
                                     err);
    if (rc != VD_OK) {
        repl_peers_destroy(&peers);
        return rc;
    }
    *ret_peers = peers;
    return VD_OK;
}

void repl_peers_destroy(repl_peers_t **peers_p)
{
    repl_peers_t *peers = *peers_p;
    if (peers == NULL)
        return;
    *peers_p = NULL;
    vd_worker_destroy(&peers->resolver);
    vd_node_t *node;
    while ((node = vd_list_first(&peers->conns)) != NULL) {
        repl_conn_t *conn = VD_CONTAINER_OF(node, repl_conn_t, node);
        conn->told_up = false; /* the owner is going away, too */
        repl_calls_drop_all(&conn->calls);
        die(conn, NULL);
    }
    while ((node = vd_list_pop_front(&peers->dead)) != NULL)
        conn_free(VD_CONTAINER_OF(node, repl_conn_t, node));
    while ((node = vd_list_pop_front(&peers->links)) != NULL)
        vd_free(VD_CONTAINER_OF(node, repl_link_t, node));
    vd_loop_remove(&peers->listen_source);
    vd_loop_remove(&peers->tick_source);
    vd_loop_remove(&peers->step_source);
    if (peers->options.listen_fd >= 0)
        (void)close(peers->options.listen_fd);
    vd_tls_destroy(&peers->server);
    vd_tls_destroy(&peers->client);
    vd_free(peers);
}

typedef struct {
    repl_peers_t *peers;
    void (*done)(void *context, int code, const char *message);
    void *context;
    vd_error_t err;
} reload_t;

static void reload_run(void *context)
{
    reload_t *reload = context;
    if (vd_tls_reload(reload->peers->server, &reload->err) == VD_OK &&
        vd_tls_reload(reload->peers->client, &reload->err) == VD_OK)
        vd_error_clear(&reload->err);
}

static void reload_done(void *context)
{
    reload_t *reload = context;
    repl_peers_t *peers = reload->peers;
    int code = reload->err.code;
    if (code == VD_OK) {
        vd_log(VD_LOG_INFO, "certificates were read again", "expires_in_days=%lld",
               (long long)(vd_tls_expires_in_s(peers->server) / 86400));
        VD_LIST_EACH(&peers->conns, node)
        {
            repl_conn_t *conn = VD_CONTAINER_OF(node, repl_conn_t, node);
            vd_tls_t *tls = conn->link != NULL ? peers->client : peers->server;
            if ((conn->state == GREETING || conn->state == OPEN) &&
                !vd_tls_still_trusts(tls, conn->ssl))
                die(conn, "the node's certificate is not accepted any more");
        }
    }
    reload->done(reload->context, code,
                 code == VD_OK ? "certificates were read again" : reload->err.message);
    vd_free(reload);
}

void repl_peers_reload(repl_peers_t *peers,
                       void (*done)(void *context, int code, const char *message), void *context)
{
    reload_t *reload = vd_xalloc(sizeof *reload);
    *reload = (reload_t){peers, done, context, VD_ERROR_INIT};
    if (vd_worker_put(peers->resolver, peers->loop, reload_run, reload_done, reload,
                      &reload->err) != VD_OK)
        reload_done(reload);
}

int64_t repl_peers_certificate_expires_in_s(repl_peers_t *peers)
{
    return vd_tls_expires_in_s(peers->server);
}
