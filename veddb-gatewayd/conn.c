/* veddb-gatewayd/conn.c — see conn.h.
 *
 * `in` holds one message and nothing more; bytes behind it wait in `ahead`. An idle connection owns
 * neither. Reading goes through the thread's scratch memory, but the rest of a large message is
 * read in place. */
#include "veddb-gatewayd/conn.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/commands/sasl.h"
#include "veddb-gatewayd/quota/throttle.h"
#include "veddb-gatewayd/request.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

#define TURN_BYTES_MAX     (256 * 1024) /* read from one connection before others have their turn */
#define KEEP_BYTES         (16 * 1024)  /* buffers of a busy connection stay allocated up to here */
#define BUFFER_IDLE_MS     3000
#define MESSAGE_STALL_MS   30000 /* a message begun and not going on */
#define WRITE_STALL_MS     60000
#define FULL_STALL_MS      5000 /* the same while memory is short */
#define PACKED_BYTES       8    /* of OP_COMPRESSED behind the header: code, and size unpacked */
#define UNKNOWN_IDLE_MS    (10 * 60 * 1000) /* nobody logged in, nothing said */
#define REFUSALS_NOTED_MAX 20               /* lines a second and thread */

static void pump(gate_conn_t *conn, bool readable);

static void update_events(gate_conn_t *conn)
{
    if (conn->state == GATE_CONN_DEAD)
        return;
    unsigned events = 0;
    bool flushing = vd_buf_len(&conn->out) != 0;
    if (flushing || conn->read_wants_write)
        events |= VD_LOOP_WRITE;
    if (conn->state == GATE_CONN_OPEN && !flushing && !conn->end_seen &&
        !vd_node_linked(&conn->paused_node) && vd_buf_len(&conn->ahead) < GATE_AHEAD_MAX)
        events |= VD_LOOP_READ;
    if (conn->state == GATE_CONN_HANDSHAKE)
        events |= VD_LOOP_READ;
    if (events != conn->events) {
        conn->events = events;
        vd_loop_set_events(conn->source, events);
    }
}

/* ---- accounting of what is large ---- */

static bool hold(gate_conn_t *conn, uint64_t bytes)
{
    gate_thread_t *thread = conn->thread;
    if (thread->held_bytes != 0 && thread->held_bytes + bytes > thread->held_max_bytes)
        return false;
    thread->held_bytes += bytes;
    conn->held = bytes;
    return true;
}

static void release(gate_conn_t *conn)
{
    VD_ASSERT(conn->thread->held_bytes >= conn->held);
    conn->thread->held_bytes -= conn->held;
    conn->thread->room_made |= conn->held != 0;
    conn->held = 0;
}

/* `out` is counted as it stands: what doesn't fit was not written. */
static void account_out(gate_conn_t *conn)
{
    gate_thread_t *thread = conn->thread;
    thread->room_made |= conn->out.cap < conn->held_out;
    thread->held_bytes = thread->held_bytes - conn->held_out + conn->out.cap;
    conn->held_out = conn->out.cap;
}

bool gate_conn_has_room(const gate_conn_t *conn, uint64_t bytes)
{
    const gate_thread_t *thread = conn->thread;
    return bytes <= GATE_HELD_FREE_BYTES || thread->held_bytes == conn->held ||
           thread->held_bytes + bytes <= GATE_HELD_REPLIES_TIMES * thread->held_max_bytes;
}

/* ---- writing ---- */

static void flush_out(gate_conn_t *conn)
{
    while (vd_buf_len(&conn->out) != 0) {
        int n = gate_transport_write(&conn->io, vd_buf_slice(&conn->out));
        if (n <= 0) {
            if (n != GATE_IO_WANT_WRITE && n != GATE_IO_WANT_READ)
                gate_conn_close(conn, "write failed");
            return;
        }
        vd_buf_consume(&conn->out, (size_t)n);
        conn->write_ms = vd_loop_now_ms(conn->thread->loop);
    }
    vd_buf_shrink(&conn->out, 0);
    account_out(conn);
    if (conn->state == GATE_CONN_CLOSING)
        gate_conn_close(conn, NULL);
}

void gate_conn_write(gate_conn_t *conn, vd_slice_t bytes)
{
    if (conn->state == GATE_CONN_DEAD)
        return;
    atomic_fetch_add_explicit(&conn->thread->gate->stats.bytes_out, bytes.len,
                              memory_order_relaxed);
    while (bytes.len != 0 && vd_buf_len(&conn->out) == 0) {
        int n = gate_transport_write(&conn->io, bytes);
        if (n <= 0) {
            if (n == GATE_IO_WANT_WRITE || n == GATE_IO_WANT_READ)
                break;
            gate_conn_close(conn, "write failed");
            return;
        }
        bytes = vd_slice(bytes.data + n, bytes.len - (size_t)n);
    }
    if (bytes.len == 0)
        return;
    conn->write_ms = vd_loop_now_ms(conn->thread->loop);
    if (vd_buf_append_slice(&conn->out, bytes) != VD_OK) {
        gate_conn_close(conn, "reply does not fit");
        return;
    }
    account_out(conn);
    update_events(conn);
}

/* ---- reading ---- */

static void dispatch(gate_conn_t *conn)
{
    vd_slice_t bytes = vd_buf_slice(&conn->in);
    gate_wire_header_t header;
    vd_error_t err = VD_ERROR_INIT;
    if (gate_wire_header(bytes, VD_WIRE_MESSAGE_MAX_BYTES, &header, &err) !=
        VD_OK) { /* was checked when it came in */
        gate_conn_close(conn, err.message);
        return;
    }
    atomic_fetch_add_explicit(&conn->thread->gate->stats.bytes_in, bytes.len, memory_order_relaxed);
    gate_request_begin(
        conn, &header,
        vd_slice(bytes.data + GATE_WIRE_HEADER_BYTES, bytes.len - GATE_WIRE_HEADER_BYTES));
}

/* So much of a message tells what room it takes: of a packed one also its size unpacked. */
static size_t head_bytes(const gate_conn_t *conn)
{
    vd_slice_t have = vd_buf_slice(&conn->in);
    bool packed = have.len >= GATE_WIRE_HEADER_BYTES &&
                  vd_get_u32(have.data) > GATE_WIRE_HEADER_BYTES + PACKED_BYTES &&
                  vd_get_u32(have.data + 12) == GATE_OP_COMPRESSED;
    return GATE_WIRE_HEADER_BYTES + (packed ? PACKED_BYTES : 0);
}

/* Large parts only: the message, and what it unpacks to (the size is checked when it is done). All
 * at once, or messages that have half of it would wait for each other. */
static uint64_t room_wanted(const gate_conn_t *conn, uint32_t length, uint32_t max)
{
    uint64_t room = length > GATE_HELD_FREE_BYTES ? length : 0;
    if (head_bytes(conn) == GATE_WIRE_HEADER_BYTES)
        return room;
    uint32_t unpacked = vd_get_u32(vd_buf_slice(&conn->in).data + GATE_WIRE_HEADER_BYTES + 4);
    return unpacked > GATE_HELD_FREE_BYTES && unpacked <= max ? room + unpacked : room;
}

static bool header_complete(gate_conn_t *conn)
{
    gate_wire_header_t header;
    vd_error_t err = VD_ERROR_INIT;
    uint32_t max = conn->user != NULL ? VD_WIRE_MESSAGE_MAX_BYTES : VD_WIRE_PRELOGIN_MAX_BYTES;
    if (gate_wire_header(vd_buf_slice(&conn->in), max, &header, &err) != VD_OK) {
        gate_conn_close(conn, err.message);
        return false;
    }
    uint64_t room = room_wanted(conn, header.length, max);
    if (room != 0 && !hold(conn, room)) {
        conn->wants_room = true;
        vd_list_push_back(&conn->thread->paused, &conn->paused_node);
        return false;
    }
    conn->need = header.length;
    uint8_t *space;
    if (vd_buf_reserve(&conn->in, header.length - vd_buf_len(&conn->in), &space) != VD_OK) {
        gate_conn_close(conn, "no memory for a message");
        return false;
    }
    return true;
}

/* Takes bytes up to the end of one message; returns how many. Runs the message when it is whole. */
static size_t feed(gate_conn_t *conn, vd_slice_t bytes)
{
    size_t used = 0;
    if (conn->need == 0) {
        size_t have = vd_buf_len(&conn->in), wanted = head_bytes(conn) - have;
        used = bytes.len < wanted ? bytes.len : wanted;
        if (have == 0)
            conn->message_ms = vd_loop_now_ms(conn->thread->loop);
        if (vd_buf_append(&conn->in, bytes.data, used) != VD_OK) {
            gate_conn_close(conn, "no memory for a message");
            return used;
        }
        if (have + used < head_bytes(conn) || !header_complete(conn))
            return used;
    }
    size_t left = conn->need - vd_buf_len(&conn->in),
           take = bytes.len - used < left ? bytes.len - used : left;
    if (vd_buf_append(&conn->in, bytes.data + used, take) != VD_OK) {
        gate_conn_close(conn, "no memory for a message");
        return used;
    }
    if (take == left)
        dispatch(conn);
    return used + take;
}

static bool may_take(const gate_conn_t *conn)
{
    return conn->state == GATE_CONN_OPEN && conn->request == NULL && vd_buf_len(&conn->out) == 0 &&
           !vd_node_linked(&conn->paused_node);
}

static void end_of_stream(gate_conn_t *conn)
{
    /* Writes that want no reply are still done after the client has gone; anything else is not
     * wanted any more. */
    bool more = vd_buf_len(&conn->ahead) != 0 || conn->request != NULL;
    if (!more || (conn->request != NULL && !conn->request->no_reply)) {
        gate_conn_close(conn, NULL);
        return;
    }
    conn->end_seen = true;
}

/* Returns false when nothing more can be read now. */
static bool read_once(gate_conn_t *conn, size_t *budget)
{
    gate_thread_t *thread = conn->thread;
    size_t left = conn->need == 0 ? 0 : conn->need - vd_buf_len(&conn->in);
    bool in_place = may_take(conn) && vd_buf_len(&conn->ahead) == 0 && left >= KEEP_BYTES;
    uint8_t *space = thread->scratch;
    size_t room = GATE_SCRATCH_BYTES;
    if (in_place) {
        room = left;
        if (vd_buf_reserve(&conn->in, room, &space) != VD_OK) {
            gate_conn_close(conn, "no memory for a message");
            return false;
        }
    }
    int n = gate_transport_read(&conn->io, space, room);
    if (n <= 0) {
        conn->read_wants_write = n == GATE_IO_WANT_WRITE;
        if (n == GATE_IO_END)
            end_of_stream(conn);
        else if (n == GATE_IO_FAILED)
            gate_conn_close(conn, NULL);
        return false;
    }
    conn->active_ms = vd_loop_now_ms(thread->loop);
    *budget = (size_t)n < *budget ? *budget - (size_t)n : 0;
    if (in_place) {
        vd_buf_commit(&conn->in, (size_t)n);
        if ((size_t)n == left)
            dispatch(conn);
    } else {
        vd_slice_t bytes = vd_slice(space, (size_t)n);
        while (bytes.len != 0 && may_take(conn) && vd_buf_len(&conn->ahead) == 0) {
            size_t used = feed(conn, bytes);
            bytes = vd_slice(bytes.data + used, bytes.len - used);
        }
        if (bytes.len != 0 && conn->state == GATE_CONN_OPEN &&
            vd_buf_append_slice(&conn->ahead, bytes) != VD_OK)
            gate_conn_close(conn, "too much was sent ahead");
    }
    if (conn->state != GATE_CONN_OPEN)
        return false; /* the message ended the connection */
    return gate_transport_pending(&conn->io) || (size_t)n == room;
}

static void pump(gate_conn_t *conn, bool readable)
{
    if (conn->pumping || conn->state != GATE_CONN_OPEN)
        return;
    conn->pumping = true;
    size_t budget = TURN_BYTES_MAX;
    for (;;) {
        while (may_take(conn) && vd_buf_len(&conn->ahead) != 0) {
            size_t used = feed(conn, vd_buf_slice(&conn->ahead));
            if (conn->state == GATE_CONN_DEAD)
                break; /* its buffers are gone */
            vd_buf_consume(&conn->ahead, used);
        }
        if (conn->state != GATE_CONN_OPEN)
            break;
        if (conn->end_seen) {
            if (conn->request == NULL && vd_buf_len(&conn->ahead) == 0)
                gate_conn_close(conn, NULL);
            break;
        }
        bool can_read = vd_buf_len(&conn->out) == 0 && vd_buf_len(&conn->ahead) < GATE_AHEAD_MAX &&
                        !vd_node_linked(&conn->paused_node);
        if (!can_read || !(readable || gate_transport_pending(&conn->io)))
            break;
        if (!read_once(conn, &budget))
            readable = false;
        else if (budget == 0)
            break; /* the rest of the bytes sits in the socket or in OpenSSL; see below */
        if (conn->state != GATE_CONN_OPEN)
            break;
        if (!readable && (vd_buf_len(&conn->ahead) == 0 || !may_take(conn)))
            break;
    }
    conn->pumping = false;
    update_events(conn);
    /* What OpenSSL has taken from the socket wakes nobody: come back in the next turn. */
    if (conn->state == GATE_CONN_OPEN && budget == 0 && gate_transport_pending(&conn->io) &&
        !vd_node_linked(&conn->paused_node) && conn->request == NULL)
        vd_list_push_back(&conn->thread->paused, &conn->paused_node);
}

void gate_conn_resume(gate_conn_t *conn)
{
    vd_list_remove(&conn->paused_node);
    conn->wants_room = false;
    if (conn->state != GATE_CONN_OPEN)
        return;
    if (conn->need == 0 && vd_buf_len(&conn->in) == head_bytes(conn) && !header_complete(conn)) {
        update_events(conn);
        return;
    }
    pump(conn, true);
}

void gate_conn_request_done(gate_conn_t *conn)
{
    conn->request = NULL;
    conn->need = 0;
    vd_buf_clear(&conn->in);
    vd_buf_shrink(&conn->in, KEEP_BYTES);
    release(conn);
    if (conn->state == GATE_CONN_OPEN &&
        atomic_load_explicit(&conn->thread->gate->draining, memory_order_relaxed)) {
        gate_conn_close_softly(conn, NULL);
        return;
    }
    pump(conn, false);
}

/* ---- life ---- */

/* One line for each refusal, but not more than a flood of them may fill. */
static void note_refused(gate_conn_t *conn)
{
    char why[200], quoted[256];
    gate_thread_t *thread = conn->thread;
    atomic_fetch_add_explicit(&thread->gate->stats.handshakes_failed, 1, memory_order_relaxed);
    (void)gate_transport_failure(&conn->io, why, sizeof why);
    gate_audit_handshake(thread, conn->client, why);
    if (++thread->refusals_noted > REFUSALS_NOTED_MAX)
        return;
    vd_log(VD_LOG_WARN, "TLS handshake refused", "conn=%llu client=%s reason=%s",
           (unsigned long long)conn->id, conn->client,
           vd_log_quote(vd_slice_str(why), quoted, sizeof quoted));
}

static void handshake(gate_conn_t *conn)
{
    int rc = gate_transport_handshake(&conn->io);
    if (rc == 0) {
        int64_t left_s = conn->io.ssl == NULL ? INT64_MAX : vd_tls_peer_expires_in_s(conn->io.ssl);
        if (left_s < INT32_MAX)
            conn->certificate_until_ms =
                vd_loop_now_ms(conn->thread->loop) + (uint64_t)(left_s > 0 ? left_s : 0) * 1000 + 1;
        conn->state = GATE_CONN_OPEN;
        pump(conn, true);
        return;
    }
    conn->read_wants_write = rc == GATE_IO_WANT_WRITE;
    if (rc != GATE_IO_WANT_READ && rc != GATE_IO_WANT_WRITE) {
        if (rc == GATE_IO_FAILED)
            note_refused(conn);
        gate_conn_close(conn, NULL);
        return;
    }
    update_events(conn);
}

static void ready(void *context, int fd, unsigned events)
{
    (void)fd; /* conn has it */
    gate_conn_t *conn = context;
    if (conn->state == GATE_CONN_DEAD)
        return;
    if ((events & VD_LOOP_ERROR) != 0 && (events & VD_LOOP_READ) == 0) {
        gate_conn_close(conn, NULL);
        return;
    }
    if (conn->state == GATE_CONN_HANDSHAKE) {
        handshake(conn);
        return;
    }
    if ((events & VD_LOOP_WRITE) != 0) {
        conn->read_wants_write = false;
        flush_out(conn);
    }
    pump(conn, true);
    update_events(conn);
}

static void own_name(gate_conn_t *conn)
{
    struct sockaddr_storage own = {0};
    socklen_t len = sizeof own;
    char host[INET6_ADDRSTRLEN] = "";
    uint16_t port = 0;
    if (getsockname(conn->fd, (struct sockaddr *)&own, &len) != 0)
        return;
    if (own.ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)&own;
        (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        port = ntohs(v4->sin_port);
    } else if (own.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const void *)&own;
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        port = ntohs(v6->sin6_port);
    }
    (void)snprintf(conn->server, sizeof conn->server, "%s:%u", host, port);
}

void gate_conn_open(gate_thread_t *thread, int fd, const gate_address_t *address,
                    const char *client)
{
    gate_t *gate = thread->gate;
    vd_error_t err = VD_ERROR_INIT;
    gate_conn_t *conn = vd_xalloc(sizeof *conn);
    conn->thread = thread;
    conn->fd = fd;
    conn->id = atomic_fetch_add(&gate->next_connection_id, 1) + 1;
    conn->address = *address;
    conn->opened_ms = conn->active_ms = vd_loop_now_ms(thread->loop);
    (void)snprintf(conn->client, sizeof conn->client, "%s", client);
    own_name(conn);
    vd_buf_init(&conn->in, VD_WIRE_MESSAGE_MAX_BYTES);
    vd_buf_init(&conn->ahead, GATE_AHEAD_MAX + GATE_SCRATCH_BYTES);
    vd_buf_init(&conn->out, 2ul * VD_WIRE_MESSAGE_MAX_BYTES);
    conn->recheck_pass = thread->recheck_pass;
    vd_list_push_back(&thread->conns, &conn->node);
    atomic_fetch_add_explicit(&gate->stats.connections_total, 1, memory_order_relaxed);
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* only slower without */
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    if (gate_transport_open(&conn->io, fd, gate->tls, gate->settings.insecure_dev, &err) != VD_OK) {
        gate_conn_close(conn, err.message);
        return;
    }
    conn->events = VD_LOOP_READ;
    if (vd_loop_add_fd(thread->loop, fd, VD_LOOP_READ, ready, conn, &conn->source, &err) != VD_OK)
        gate_conn_close(conn, err.message);
}

void gate_conn_set_token(gate_conn_t *conn, const gate_token_t *token)
{
    if (conn->token != NULL) {
        conn->thread->token_conns--;
        vd_free(conn->token);
        conn->token = NULL;
    }
    conn->token_revoked = false;
    conn->token_generation = 0;
    if (token == NULL)
        return;
    conn->token = vd_xalloc(sizeof *conn->token);
    *conn->token = *token;
    conn->thread->token_conns++;
}

static void end_login(gate_conn_t *conn)
{
    conn->login_ended = true;
    if (conn->request != NULL && conn->forwarded)
        gate_upstream_connection_closed(conn->thread->upstream, conn->id);
}

void gate_conn_check_token(gate_conn_t *conn)
{
    gate_tokens_t *tokens = conn->thread->gate->tokens;
    if (conn->state == GATE_CONN_DEAD || conn->token == NULL || conn->token_revoked)
        return;
    uint64_t generation = gate_tokens_generation(tokens),
             epoch = conn->user == NULL ? 0 : conn->user->epoch;
    if (conn->token_generation == generation && conn->token_epoch == epoch)
        return;
    conn->token_generation = generation, conn->token_epoch = epoch;
    if (gate_tokens_holds(tokens, conn->token, conn->user))
        return;
    conn->token_revoked = true;
    vd_log(VD_LOG_INFO, "the token of a login was revoked", "conn=%llu client=%s",
           (unsigned long long)conn->id, conn->client);
    if (!conn->login_ended)
        end_login(conn);
}

void gate_conn_logout(gate_conn_t *conn)
{
    gate_sasl_destroy(&conn->sasl);
    gate_user_drop(&conn->user);
    gate_throttle_logout(conn);
    gate_conn_set_token(conn, NULL);
    conn->login_until_ms = 0;
    conn->login_ended = conn->oidc_begun = false;
}

void gate_conn_close(gate_conn_t *conn, const char *why)
{
    if (conn->state == GATE_CONN_DEAD)
        return;
    gate_thread_t *thread = conn->thread;
    bool polite = conn->state != GATE_CONN_HANDSHAKE;
    conn->state = GATE_CONN_DEAD;
    if (why != NULL) {
        char quoted[256];
        vd_log(VD_LOG_INFO, "connection closed", "conn=%llu client=%s reason=%s",
               (unsigned long long)conn->id, conn->client,
               vd_log_quote(vd_slice_str(why), quoted, sizeof quoted));
    }
    bool goes_on = conn->request != NULL && gate_request_abandon(conn->request);
    conn->request = NULL;
    if (conn->forwarded && !goes_on)
        gate_upstream_connection_closed(thread->upstream, conn->id);
    gate_conn_logout(conn);
    gate_throttle_closed(conn);
    vd_loop_remove(&conn->source);
    gate_transport_close(&conn->io, polite);
    (void)close(conn->fd);
    release(conn);
    vd_buf_done(&conn->in);
    vd_buf_done(&conn->ahead);
    vd_buf_done(&conn->out);
    account_out(conn);
    vd_free(conn->metadata);
    conn->metadata = NULL;
    vd_list_remove(&conn->paused_node);
    vd_list_remove(&conn->node);
    vd_list_push_back(&thread->dead, &conn->node);
    gate_limits_leave(thread->gate->limits, &conn->address);
    atomic_fetch_sub(&thread->gate->stats.connections_current, 1);
}

void gate_conn_check_certificate(gate_conn_t *conn)
{
    if (conn->state != GATE_CONN_DEAD && conn->io.ssl != NULL &&
        SSL_is_init_finished(conn->io.ssl) &&
        !vd_tls_still_trusts(conn->thread->gate->tls, conn->io.ssl))
        gate_conn_close(conn, "the client's certificate is not accepted any more");
}

void gate_conn_close_softly(gate_conn_t *conn, const char *why)
{
    if (conn->state == GATE_CONN_DEAD || vd_buf_len(&conn->out) == 0 ||
        conn->state == GATE_CONN_HANDSHAKE) {
        gate_conn_close(conn, why);
        return;
    }
    conn->state = GATE_CONN_CLOSING;
    conn->write_ms = vd_loop_now_ms(conn->thread->loop);
    update_events(conn);
}

void gate_conn_tick(gate_conn_t *conn, uint64_t now_ms)
{
    const gate_settings_t *settings = &conn->thread->gate->settings;
    bool young = now_ms < conn->opened_ms + settings->handshake_timeout_ms;
    uint64_t idle_ms = vd_elapsed(conn->active_ms, now_ms);
    if (!young && (conn->state == GATE_CONN_HANDSHAKE || !conn->said_hello)) {
        gate_conn_close(conn, "handshake took too long");
        return;
    }
    if (gate_conn_login_expired(conn, now_ms) && !conn->login_ended)
        end_login(conn);
    if (conn->certificate_until_ms != 0 && now_ms > conn->certificate_until_ms) {
        gate_conn_close(conn, "the client's certificate has expired");
        return;
    }
    if (conn->sasl != NULL &&
        gate_sasl_age_ms(conn->sasl, now_ms) > settings->handshake_timeout_ms) {
        gate_conn_close(conn, "login took too long");
        return;
    }
    bool full = conn->thread->held_bytes > conn->thread->held_max_bytes;
    if (vd_buf_len(&conn->out) != 0 &&
        now_ms > conn->write_ms + (full ? FULL_STALL_MS : WRITE_STALL_MS)) {
        gate_conn_close(conn, "client does not read its reply");
        return;
    }
    bool begun =
        conn->request == NULL && vd_buf_len(&conn->in) != 0 && !vd_node_linked(&conn->paused_node);
    if (begun && idle_ms > MESSAGE_STALL_MS) {
        gate_conn_close(conn, "message stays incomplete");
        return;
    }
    if (conn->request == NULL && conn->user == NULL && idle_ms > UNKNOWN_IDLE_MS) {
        gate_conn_close(conn, "idle without login");
        return;
    }
    if (idle_ms > BUFFER_IDLE_MS && conn->request == NULL) {
        if (vd_buf_len(&conn->in) == 0)
            vd_buf_shrink(&conn->in, 0);
        if (vd_buf_len(&conn->ahead) == 0)
            vd_buf_shrink(&conn->ahead, 0);
    }
}
