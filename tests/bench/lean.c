/* tests/bench/lean.c — a lean load generator: one epoll thread, N connections that speak OP_MSG
 * over TLS, so that the server is measured and not a driver. Writes carry lsid and txnNumber as a
 * stock driver's do. */
#include "tests/bench/ycsb.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1024
#define MESSAGE_MAX     (4 << 20)

typedef struct {
    int fd;
    SSL *ssl;
    uint8_t *in;
    size_t in_len;
    uint8_t *out;
    size_t out_len, out_done;
    uint8_t lsid[16];
    int64_t txn_number;
    double started;
    bool second_half; /* of a read-modify-write */
    int64_t key;
    int64_t load_next;
} conn_t;

static conn_t conns[CONNECTIONS_MAX];
static ycsb_t ycsb;
static bool measuring;
static int32_t next_request_id = 1;

/* ---- messages ---- */

static void out_reset(conn_t *conn)
{
    conn->out_len = 16;
    conn->out_done = 0;
}

static void out_bytes(conn_t *conn, const void *data, size_t len)
{
    if (conn->out_len + len > MESSAGE_MAX)
        ycsb_die("a message is too large");
    memcpy(conn->out + conn->out_len, data, len);
    conn->out_len += len;
}

static void out_header(conn_t *conn)
{
    int32_t header[4] = {(int32_t)conn->out_len, next_request_id++, 0, 2013};
    memcpy(conn->out, header, sizeof header);
}

static void append_session(conn_t *conn, bson_t *body, bool write)
{
    bson_t lsid;
    BSON_APPEND_UTF8(body, "$db", "ycsb");
    bson_append_document_begin(body, "lsid", -1, &lsid);
    bson_append_binary(&lsid, "id", -1, BSON_SUBTYPE_UUID, conn->lsid, 16);
    bson_append_document_end(body, &lsid);
    if (!write)
        return;
    BSON_APPEND_INT64(body, "txnNumber", ++conn->txn_number);
    if (ycsb_options.write_concern == NULL)
        return;
    bson_t concern;
    BSON_APPEND_DOCUMENT_BEGIN(body, "writeConcern", &concern);
    if (strcmp(ycsb_options.write_concern, "majority") == 0)
        BSON_APPEND_UTF8(&concern, "w", "majority");
    else
        BSON_APPEND_INT32(&concern, "w", atoi(ycsb_options.write_concern));
    bson_append_document_end(body, &concern);
}

static void out_command(conn_t *conn, const bson_t *body)
{
    out_reset(conn);
    out_bytes(conn, "\0\0\0\0\0", 5); /* flags, kind 0 */
    out_bytes(conn, bson_get_data(body), body->len);
    out_header(conn);
}

static void send_read(conn_t *conn)
{
    bson_t body = BSON_INITIALIZER, filter;
    char text[32];
    ycsb_key_text(conn->key, text);
    BSON_APPEND_UTF8(&body, "find", "usertable");
    BSON_APPEND_DOCUMENT_BEGIN(&body, "filter", &filter);
    BSON_APPEND_UTF8(&filter, "_id", text);
    bson_append_document_end(&body, &filter);
    BSON_APPEND_INT32(&body, "limit", 1);
    BSON_APPEND_BOOL(&body, "singleBatch", true);
    append_session(conn, &body, false);
    out_command(conn, &body);
    bson_destroy(&body);
}

static void send_scan(conn_t *conn)
{
    bson_t body = BSON_INITIALIZER, filter, gte, sort;
    char text[32];
    int32_t limit = 1 + (int32_t)ycsb_below(&ycsb, 100);
    ycsb_key_text(conn->key, text);
    BSON_APPEND_UTF8(&body, "find", "usertable");
    BSON_APPEND_DOCUMENT_BEGIN(&body, "filter", &filter);
    BSON_APPEND_DOCUMENT_BEGIN(&filter, "_id", &gte);
    BSON_APPEND_UTF8(&gte, "$gte", text);
    bson_append_document_end(&filter, &gte);
    bson_append_document_end(&body, &filter);
    BSON_APPEND_DOCUMENT_BEGIN(&body, "sort", &sort);
    BSON_APPEND_INT32(&sort, "_id", 1);
    bson_append_document_end(&body, &sort);
    BSON_APPEND_INT32(&body, "limit", limit);
    BSON_APPEND_INT32(&body, "batchSize", limit);
    BSON_APPEND_BOOL(&body, "singleBatch", true);
    append_session(conn, &body, false);
    out_command(conn, &body);
    bson_destroy(&body);
}

static void send_lookup(conn_t *conn)
{
    bson_t body = BSON_INITIALIZER, filter;
    BSON_APPEND_UTF8(&body, "find", "usertable");
    BSON_APPEND_DOCUMENT_BEGIN(&body, "filter", &filter);
    BSON_APPEND_INT32(&filter, "group", ycsb_group(conn->key));
    bson_append_document_end(&body, &filter);
    append_session(conn, &body, false);
    out_command(conn, &body);
    bson_destroy(&body);
}

static void send_update(conn_t *conn)
{
    bson_t body = BSON_INITIALIZER, updates, update, q, u, set;
    char text[32];
    ycsb_key_text(conn->key, text);
    BSON_APPEND_UTF8(&body, "update", "usertable");
    BSON_APPEND_ARRAY_BEGIN(&body, "updates", &updates);
    BSON_APPEND_DOCUMENT_BEGIN(&updates, "0", &update);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "q", &q);
    BSON_APPEND_UTF8(&q, "_id", text);
    bson_append_document_end(&update, &q);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "u", &u);
    BSON_APPEND_DOCUMENT_BEGIN(&u, "$set", &set);
    ycsb_change(&ycsb, &set);
    bson_append_document_end(&u, &set);
    bson_append_document_end(&update, &u);
    bson_append_document_end(&updates, &update);
    bson_append_array_end(&body, &updates);
    BSON_APPEND_BOOL(&body, "ordered", true);
    append_session(conn, &body, true);
    out_command(conn, &body);
    bson_destroy(&body);
}

/* A document sequence of count documents from key on. */
static void send_insert(conn_t *conn, int64_t key, int count)
{
    bson_t body = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&body, "insert", "usertable");
    BSON_APPEND_BOOL(&body, "ordered", true);
    append_session(conn, &body, true);
    out_command(conn, &body);
    bson_destroy(&body);
    size_t at = conn->out_len + 1;
    out_bytes(conn, "\1\0\0\0\0documents", 15); /* kind 1, length, name with its NUL */
    for (int i = 0; i < count; i++) {
        bson_t doc = BSON_INITIALIZER;
        ycsb_document(&ycsb, &doc, key + i);
        out_bytes(conn, bson_get_data(&doc), doc.len);
        bson_destroy(&doc);
    }
    int32_t len = (int32_t)(conn->out_len - at);
    memcpy(conn->out + at, &len, 4);
    out_header(conn);
}

static void send_next(conn_t *conn)
{
    if (ycsb_options.workload[0] == 'l') {
        int64_t left = ycsb_options.records - conn->load_next;
        send_insert(conn, conn->load_next, (int)(left < YCSB_LOAD_BATCH ? left : YCSB_LOAD_BATCH));
        return;
    }
    switch (ycsb_next(&ycsb, &conn->key)) {
    case YCSB_READ:
        send_read(conn);
        break;
    case YCSB_UPDATE:
        send_update(conn);
        break;
    case YCSB_INSERT:
        send_insert(conn, conn->key, 1);
        break;
    case YCSB_SCAN:
        send_scan(conn);
        break;
    case YCSB_LOOKUP:
        send_lookup(conn);
        break;
    case YCSB_READ_MODIFY_WRITE:
        conn->second_half = true;
        send_read(conn);
        break;
    }
}

/* ---- connections ---- */

static bool flush_out(conn_t *conn)
{
    while (conn->out_done < conn->out_len) {
        int n =
            SSL_write(conn->ssl, conn->out + conn->out_done, (int)(conn->out_len - conn->out_done));
        if (n <= 0) {
            int why = SSL_get_error(conn->ssl, n);
            if (why == SSL_ERROR_WANT_WRITE || why == SSL_ERROR_WANT_READ)
                return false;
            ycsb_die("the server closed a connection while it was written to");
        }
        conn->out_done += (size_t)n;
    }
    return true;
}

/* True when a whole message stands in conn->in. */
static bool read_message(conn_t *conn)
{
    for (;;) {
        int32_t len = 16;
        if (conn->in_len >= 16)
            memcpy(&len, conn->in, 4);
        if (len < 16 || len > MESSAGE_MAX)
            ycsb_die("a reply has a wrong length");
        if (conn->in_len >= 16 && conn->in_len >= (size_t)len)
            return true;
        int n = SSL_read(conn->ssl, conn->in + conn->in_len, (int)(MESSAGE_MAX - conn->in_len));
        if (n <= 0) {
            int why = SSL_get_error(conn->ssl, n);
            if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
                return false;
            ycsb_die("the server closed a connection");
        }
        conn->in_len += (size_t)n;
    }
}

static bool reply_ok(conn_t *conn, bson_t *ret)
{
    bson_iter_t iter;
    int32_t len;
    memcpy(&len, conn->in + 21, 4);
    if (!bson_init_static(ret, conn->in + 21, (size_t)len))
        ycsb_die("a reply is not BSON");
    bool good = bson_iter_init_find(&iter, ret, "ok") && bson_iter_as_double(&iter) == 1 &&
                !bson_iter_init_find(&iter, ret, "writeErrors");
    if (!good && ycsb.errors++ == 0) {
        char *json = bson_as_relaxed_extended_json(ret, NULL);
        fprintf(stderr, "lean: first error: %s\n", json);
        bson_free(json);
    }
    return good;
}

/* Blocking request and answer, for the login. */
static void call(conn_t *conn, const bson_t *body, bson_t *ret)
{
    out_command(conn, body);
    conn->in_len = 0;
    if (!flush_out(conn) || !read_message(conn) || !reply_ok(conn, ret))
        ycsb_die("login failed");
}

static void base64(const uint8_t *in, size_t len, char *out)
{
    EVP_EncodeBlock((uint8_t *)out, in, (int)len);
}

static void scram_login(conn_t *conn)
{
    char nonce[64], first_bare[256], message[1024], server_first[512];
    uint8_t raw[24], salt[64], salted[32], client_key[32], stored[32], signature[32], proof[32];
    bson_t body = BSON_INITIALIZER, reply;
    bson_iter_t iter;
    bson_subtype_t subtype;
    const uint8_t *payload;
    uint32_t payload_len;
    RAND_bytes(raw, sizeof raw);
    base64(raw, sizeof raw, nonce);
    snprintf(first_bare, sizeof first_bare, "n=%s,r=%s", ycsb_options.user, nonce);
    snprintf(message, sizeof message, "n,,%s", first_bare);
    BSON_APPEND_INT32(&body, "saslStart", 1);
    BSON_APPEND_UTF8(&body, "mechanism", "SCRAM-SHA-256");
    BSON_APPEND_BINARY(&body, "payload", BSON_SUBTYPE_BINARY, (uint8_t *)message,
                       (uint32_t)strlen(message));
    BSON_APPEND_UTF8(&body, "$db", "admin");
    call(conn, &body, &reply);
    if (!bson_iter_init_find(&iter, &reply, "payload"))
        ycsb_die("no payload");
    bson_iter_binary(&iter, &subtype, &payload_len, &payload);
    snprintf(server_first, sizeof server_first, "%.*s", (int)payload_len, payload);
    int32_t conversation =
        bson_iter_init_find(&iter, &reply, "conversationId") ? bson_iter_int32(&iter) : 1;

    char combined[256], salt_text[128];
    int iterations;
    if (sscanf(server_first, "r=%255[^,],s=%127[^,],i=%d", combined, salt_text, &iterations) != 3)
        ycsb_die("the server's first message can't be read");
    int salt_len = EVP_DecodeBlock(salt, (uint8_t *)salt_text, (int)strlen(salt_text));
    for (size_t i = strlen(salt_text); i > 0 && salt_text[i - 1] == '='; i--)
        salt_len--;
    PKCS5_PBKDF2_HMAC(ycsb_options.password, -1, salt, salt_len, iterations, EVP_sha256(), 32,
                      salted);
    HMAC(EVP_sha256(), salted, 32, (const uint8_t *)"Client Key", 10, client_key, NULL);
    EVP_Digest(client_key, 32, stored, NULL, EVP_sha256(), NULL);
    char final[512], auth[2048], proof_text[64];
    snprintf(final, sizeof final, "c=biws,r=%s", combined);
    snprintf(auth, sizeof auth, "%s,%s,%s", first_bare, server_first, final);
    HMAC(EVP_sha256(), stored, 32, (uint8_t *)auth, strlen(auth), signature, NULL);
    for (int i = 0; i < 32; i++)
        proof[i] = client_key[i] ^ signature[i];
    base64(proof, 32, proof_text);
    snprintf(message, sizeof message, "%s,p=%s", final, proof_text);
    for (bool done = false; !done;) {
        bson_reinit(&body);
        BSON_APPEND_INT32(&body, "saslContinue", 1);
        BSON_APPEND_INT32(&body, "conversationId", conversation);
        BSON_APPEND_BINARY(&body, "payload", BSON_SUBTYPE_BINARY, (uint8_t *)message,
                           (uint32_t)strlen(message));
        BSON_APPEND_UTF8(&body, "$db", "admin");
        call(conn, &body, &reply);
        done = bson_iter_init_find(&iter, &reply, "done") && bson_iter_bool(&iter);
        message[0] = '\0';
    }
    bson_destroy(&body);
}

static void connect_one(conn_t *conn, SSL_CTX *ctx)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)ycsb_options.port)};
    int one = 1;
    inet_pton(AF_INET, ycsb_options.host, &at.sin_addr);
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(conn->fd, (struct sockaddr *)&at, sizeof at) != 0)
        ycsb_die("can't connect");
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    conn->ssl = SSL_new(ctx);
    SSL_set_fd(conn->ssl, conn->fd);
    if (SSL_connect(conn->ssl) != 1)
        ycsb_die("the TLS handshake failed");
    conn->in = malloc(MESSAGE_MAX);
    conn->out = malloc(MESSAGE_MAX);
    RAND_bytes(conn->lsid, sizeof conn->lsid);
    if (ycsb_options.user != NULL)
        scram_login(conn);
    conn->in_len = 0;
    fcntl(conn->fd, F_SETFL, O_NONBLOCK);
}

/* ---- the run ---- */

/* A whole reply is in; true when the connection has sent its next request. */
static bool take_reply(conn_t *conn, double now)
{
    bson_t reply;
    (void)reply_ok(conn, &reply);
    conn->in_len = 0;
    if (conn->second_half) {
        conn->second_half = false;
        send_update(conn);
        return true;
    }
    if (measuring) {
        ycsb.operations += ycsb_options.workload[0] == 'l' ? YCSB_LOAD_BATCH : 1;
        ycsb_observe(&ycsb, now - conn->started);
    }
    if (ycsb_options.workload[0] == 'l' &&
        (conn->load_next += YCSB_LOAD_BATCH) >= ycsb_options.records)
        return false;
    conn->started = now;
    send_next(conn);
    return true;
}

static void run(int epoll, double seconds)
{
    struct epoll_event events[256];
    for (double end = ycsb_now_s() + seconds, now = 0; now < end;) {
        int n = epoll_wait(epoll, events, 256, 1000);
        now = ycsb_now_s();
        for (int i = 0; i < n; i++) {
            conn_t *conn = events[i].data.ptr;
            if (!flush_out(conn))
                continue;
            while (read_message(conn)) {
                if (!take_reply(conn, now))
                    return;
                if (!flush_out(conn))
                    break;
            }
        }
    }
}

int main(int argc, char **argv)
{
    ycsb_parse(argc, argv, "lean");
    ycsb_init(&ycsb, 1);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (SSL_CTX_load_verify_locations(ctx, ycsb_options.ca, NULL) != 1)
        ycsb_die("can't read --ca");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (ycsb_options.clients > CONNECTIONS_MAX)
        ycsb_die("too many --clients");
    bool load = ycsb_options.workload[0] == 'l';
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < ycsb_options.clients; i++) {
        connect_one(&conns[i], ctx);
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &conns[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, conns[i].fd, &event);
    }
    for (int i = 0; i < ycsb_options.clients; i++) {
        conns[i].started = ycsb_now_s();
        send_next(&conns[i]);
        (void)flush_out(&conns[i]); /* the rest goes out when the socket is writable */
    }
    if (!load)
        run(epoll, ycsb_options.seconds / 5); /* warm up */
    measuring = true;
    ycsb_measure_begin();
    run(epoll, load ? 3600 : ycsb_options.seconds);
    return ycsb_report(&ycsb);
}
