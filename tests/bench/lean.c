/* tests/bench/lean.c — a lean load generator: one epoll thread, N connections that speak OP_MSG
 * over TLS, so that the server is measured and not a driver.
 *
 * Workloads are YCSB's: A (50 % update), B (5 % update), C (reads), D (reads of the latest, 5 %
 * insert), E (short scans, 5 % insert), F (read-modify-write), and load (bulk insert on one
 * connection). Documents have ten fields of 100 bytes. Writes carry lsid and txnNumber as a stock
 * driver's do. Prints one JSON object: ops/s, latency percentiles, CPU microseconds per operation
 * of the server's processes (--pids) and of itself. */
#include <arpa/inet.h>
#include <bson/bson.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FIELDS            10
#define FIELD_BYTES       100
#define CONNECTIONS_MAX   1024
#define HISTOGRAM_BUCKETS 4096
#define LOAD_BATCH        1000
#define MESSAGE_MAX       (4 << 20)

static struct {
    const char *host, *ca, *user, *password, *workload, *pids;
    int port, clients;
    double seconds;
    int64_t records;
    bool zipfian;
} options = {.host = "127.0.0.1",
             .workload = "C",
             .clients = 16,
             .seconds = 10,
             .records = 200000,
             .zipfian = true};

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
static uint64_t histogram[HISTOGRAM_BUCKETS], operations, errors, inserted;
static bool measuring;
static int32_t next_request_id = 1;

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "lean: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- chance ---- */

static uint64_t random_state = 88172645463325252ull;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13, random_state ^= random_state >> 7,
        random_state ^= random_state << 17;
    return random_state;
}

static double random_double(void)
{
    return (double)(random_u64() >> 11) / 9007199254740992.0;
}

/* Gray's zipfian generator as YCSB has it (theta 0.99), scattered over the key space by a hash. */
static double zipf_zetan, zipf_eta, zipf_alpha, zipf_theta = 0.99;

static void zipf_prepare(int64_t n)
{
    double zeta2 = 1 + pow(0.5, zipf_theta);
    zipf_zetan = 0;
    for (int64_t i = 1; i <= n; i++)
        zipf_zetan += 1 / pow((double)i, zipf_theta);
    zipf_alpha = 1 / (1 - zipf_theta);
    zipf_eta = (1 - pow(2.0 / (double)n, 1 - zipf_theta)) / (1 - zeta2 / zipf_zetan);
}

static int64_t zipf_next(int64_t n)
{
    double u = random_double(), uz = u * zipf_zetan;
    if (uz < 1)
        return 0;
    if (uz < 1 + pow(0.5, zipf_theta))
        return 1;
    return (int64_t)((double)n * pow(zipf_eta * u - zipf_eta + 1, zipf_alpha));
}

static int64_t pick_key(bool latest)
{
    int64_t n = options.records + (int64_t)inserted;
    if (latest)
        return n - 1 - zipf_next(options.records);
    if (!options.zipfian)
        return (int64_t)(random_u64() % (uint64_t)options.records);
    uint64_t hash = (uint64_t)zipf_next(options.records) * 0x9E3779B97F4A7C15ull;
    return (int64_t)((hash ^ hash >> 29) % (uint64_t)options.records);
}

static void random_text(char *out, size_t len)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 8) {
        uint64_t r = random_u64();
        for (size_t j = 0; j < 8 && i + j < len; j++, r >>= 6)
            out[i + j] = letters[r & 63];
    }
}

/* ---- messages ---- */

static void out_reset(conn_t *conn)
{
    conn->out_len = 16;
    conn->out_done = 0;
}

static void out_bytes(conn_t *conn, const void *data, size_t len)
{
    if (conn->out_len + len > MESSAGE_MAX)
        die("a message is too large");
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
    if (write)
        BSON_APPEND_INT64(body, "txnNumber", ++conn->txn_number);
}

static void out_command(conn_t *conn, const bson_t *body)
{
    out_reset(conn);
    out_bytes(conn, "\0\0\0\0\0", 5); /* flags, kind 0 */
    out_bytes(conn, bson_get_data(body), body->len);
    out_header(conn);
}

static void key_text(int64_t key, char out[32])
{
    snprintf(out, 32, "user%012" PRId64, key);
}

static void make_document(bson_t *doc, int64_t key)
{
    char text[32], name[16], value[FIELD_BYTES + 1];
    key_text(key, text);
    BSON_APPEND_UTF8(doc, "_id", text);
    value[FIELD_BYTES] = '\0';
    for (int i = 0; i < FIELDS; i++) {
        snprintf(name, sizeof name, "field%d", i);
        random_text(value, FIELD_BYTES);
        BSON_APPEND_UTF8(doc, name, value);
    }
}

static void send_read(conn_t *conn)
{
    bson_t body = BSON_INITIALIZER, filter;
    char text[32];
    key_text(conn->key, text);
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
    int32_t limit = 1 + (int32_t)(random_u64() % 100);
    key_text(conn->key, text);
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

static void send_update(conn_t *conn)
{
    bson_t body = BSON_INITIALIZER, updates, update, q, u, set;
    char text[32], name[16], value[FIELD_BYTES + 1];
    key_text(conn->key, text);
    snprintf(name, sizeof name, "field%d", (int)(random_u64() % FIELDS));
    random_text(value, FIELD_BYTES);
    value[FIELD_BYTES] = '\0';
    BSON_APPEND_UTF8(&body, "update", "usertable");
    BSON_APPEND_ARRAY_BEGIN(&body, "updates", &updates);
    BSON_APPEND_DOCUMENT_BEGIN(&updates, "0", &update);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "q", &q);
    BSON_APPEND_UTF8(&q, "_id", text);
    bson_append_document_end(&update, &q);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "u", &u);
    BSON_APPEND_DOCUMENT_BEGIN(&u, "$set", &set);
    BSON_APPEND_UTF8(&set, name, value);
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
        make_document(&doc, key + i);
        out_bytes(conn, bson_get_data(&doc), doc.len);
        bson_destroy(&doc);
    }
    int32_t len = (int32_t)(conn->out_len - at);
    memcpy(conn->out + at, &len, 4);
    out_header(conn);
}

static void send_next(conn_t *conn)
{
    double r = random_double();
    switch (options.workload[0]) {
    case 'l':
        send_insert(conn, conn->load_next,
                    (int)(options.records - conn->load_next < LOAD_BATCH
                              ? options.records - conn->load_next
                              : LOAD_BATCH));
        return;
    case 'D':
    case 'E':
        if (r < 0.05) {
            send_insert(conn, options.records + (int64_t)inserted++, 1);
            return;
        }
        conn->key = pick_key(options.workload[0] == 'D');
        options.workload[0] == 'D' ? send_read(conn) : send_scan(conn);
        return;
    case 'F':
        conn->key = pick_key(false);
        conn->second_half = r < 0.5;
        send_read(conn);
        return;
    default:
        conn->key = pick_key(false);
        if (r < (options.workload[0] == 'A' ? 0.5 : options.workload[0] == 'B' ? 0.05 : 0))
            send_update(conn);
        else
            send_read(conn);
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
            die("the server closed a connection while it was written to");
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
            die("a reply has a wrong length");
        if (conn->in_len >= 16 && conn->in_len >= (size_t)len)
            return true;
        int n = SSL_read(conn->ssl, conn->in + conn->in_len, (int)(MESSAGE_MAX - conn->in_len));
        if (n <= 0) {
            int why = SSL_get_error(conn->ssl, n);
            if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
                return false;
            die("the server closed a connection");
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
        die("a reply is not BSON");
    bool good = bson_iter_init_find(&iter, ret, "ok") && bson_iter_as_double(&iter) == 1 &&
                !bson_iter_init_find(&iter, ret, "writeErrors");
    if (!good && errors++ == 0) {
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
        die("login failed");
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
    snprintf(first_bare, sizeof first_bare, "n=%s,r=%s", options.user, nonce);
    snprintf(message, sizeof message, "n,,%s", first_bare);
    BSON_APPEND_INT32(&body, "saslStart", 1);
    BSON_APPEND_UTF8(&body, "mechanism", "SCRAM-SHA-256");
    BSON_APPEND_BINARY(&body, "payload", BSON_SUBTYPE_BINARY, (uint8_t *)message,
                       (uint32_t)strlen(message));
    BSON_APPEND_UTF8(&body, "$db", "admin");
    call(conn, &body, &reply);
    if (!bson_iter_init_find(&iter, &reply, "payload"))
        die("no payload");
    bson_iter_binary(&iter, &subtype, &payload_len, &payload);
    snprintf(server_first, sizeof server_first, "%.*s", (int)payload_len, payload);
    int32_t conversation =
        bson_iter_init_find(&iter, &reply, "conversationId") ? bson_iter_int32(&iter) : 1;

    char combined[256], salt_text[128];
    int iterations;
    if (sscanf(server_first, "r=%255[^,],s=%127[^,],i=%d", combined, salt_text, &iterations) != 3)
        die("the server's first message can't be read");
    int salt_len = EVP_DecodeBlock(salt, (uint8_t *)salt_text, (int)strlen(salt_text));
    for (size_t i = strlen(salt_text); i > 0 && salt_text[i - 1] == '='; i--)
        salt_len--;
    PKCS5_PBKDF2_HMAC(options.password, -1, salt, salt_len, iterations, EVP_sha256(), 32, salted);
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
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    int one = 1;
    inet_pton(AF_INET, options.host, &at.sin_addr);
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(conn->fd, (struct sockaddr *)&at, sizeof at) != 0)
        die("can't connect");
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    conn->ssl = SSL_new(ctx);
    SSL_set_fd(conn->ssl, conn->fd);
    if (SSL_connect(conn->ssl) != 1)
        die("the TLS handshake failed");
    conn->in = malloc(MESSAGE_MAX);
    conn->out = malloc(MESSAGE_MAX);
    RAND_bytes(conn->lsid, sizeof conn->lsid);
    if (options.user != NULL)
        scram_login(conn);
    conn->in_len = 0;
    fcntl(conn->fd, F_SETFL, O_NONBLOCK);
}

/* ---- figures ---- */

/* Log-linear: 64 steps per doubling from 1 us. */
static void observe(double seconds)
{
    double us = seconds * 1e6;
    int bucket = us <= 1 ? 0 : (int)(log2(us) * 64);
    histogram[bucket >= HISTOGRAM_BUCKETS ? HISTOGRAM_BUCKETS - 1 : bucket]++;
}

static double quantile(double q)
{
    uint64_t seen = 0, want = (uint64_t)((double)operations * q);
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++)
        if ((seen += histogram[i]) > want)
            return pow(2, (double)i / 64);
    return 0;
}

/* User and system seconds so far of the processes in --pids. */
static double server_cpu(void)
{
    double total = 0;
    char *copy = strdup(options.pids == NULL ? "" : options.pids), *rest = copy;
    for (char *word; (word = strsep(&rest, ",")) != NULL;) {
        char path[64], line[1024];
        snprintf(path, sizeof path, "/proc/%s/stat", word);
        FILE *f = fopen(path, "r");
        unsigned long user, sys;
        if (f != NULL && fgets(line, sizeof line, f) != NULL &&
            sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                   &user, &sys) == 2)
            total += (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
        if (f != NULL)
            fclose(f);
    }
    free(copy);
    return total;
}

static double own_cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
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
        operations += options.workload[0] == 'l' ? LOAD_BATCH : 1;
        observe(now - conn->started);
    }
    if (options.workload[0] == 'l' && (conn->load_next += LOAD_BATCH) >= options.records)
        return false;
    conn->started = now;
    send_next(conn);
    return true;
}

static void run(int epoll, double seconds)
{
    struct epoll_event events[256];
    for (double end = now_s() + seconds, now = 0; now < end;) {
        int n = epoll_wait(epoll, events, 256, 1000);
        now = now_s();
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

static void parse(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--host") == 0)
            options.host = value;
        else if (strcmp(name, "--port") == 0)
            options.port = atoi(value);
        else if (strcmp(name, "--ca") == 0)
            options.ca = value;
        else if (strcmp(name, "--user") == 0)
            options.user = value;
        else if (strcmp(name, "--workload") == 0)
            options.workload = value;
        else if (strcmp(name, "--clients") == 0)
            options.clients = atoi(value);
        else if (strcmp(name, "--seconds") == 0)
            options.seconds = atof(value);
        else if (strcmp(name, "--records") == 0)
            options.records = atoll(value);
        else if (strcmp(name, "--distribution") == 0)
            options.zipfian = strcmp(value, "zipfian") == 0;
        else if (strcmp(name, "--pids") == 0)
            options.pids = value;
        else
            die("unknown option");
    }
    options.password = getenv("BENCH_PASSWORD"); /* never an argument: everybody sees those */
    if (options.port == 0 || options.ca == NULL || options.clients < 1 ||
        options.clients > CONNECTIONS_MAX)
        die("usage: lean --port P --ca FILE --user U [--workload A-F|load] [--clients N] "
            "[--seconds S] [--records N] [--distribution "
            "zipfian|uniform] [--pids a,b,c], password in BENCH_PASSWORD");
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (SSL_CTX_load_verify_locations(ctx, options.ca, NULL) != 1)
        die("can't read --ca");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    zipf_prepare(options.records);
    bool load = options.workload[0] == 'l';
    if (load)
        options.clients = 1;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < options.clients; i++) {
        connect_one(&conns[i], ctx);
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &conns[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, conns[i].fd, &event);
    }
    for (int i = 0; i < options.clients; i++) {
        conns[i].started = now_s();
        send_next(&conns[i]);
        (void)flush_out(&conns[i]); /* the rest goes out when the socket is writable */
    }
    if (!load)
        run(epoll, options.seconds / 5); /* warm up */
    measuring = true;
    double start = now_s(), server = server_cpu(), own = own_cpu();
    run(epoll, load ? 3600 : options.seconds);
    double took = now_s() - start;
    server = server_cpu() - server, own = own_cpu() - own;
    double per = operations == 0 ? 0 : 1e6 / (double)operations;
    printf("{\"workload\":\"%s\",\"clients\":%d,\"ops\":%" PRIu64 ",\"errors\":%" PRIu64
           ",\"ops_per_s\":%.0f,\"p50_us\":%.0f,\"p99_us\":%.0f,\"server_cpu_us\":%.2f,\"client_"
           "cpu_us\":%.2f}\n",
           options.workload, options.clients, operations, errors, (double)operations / took,
           quantile(0.5), quantile(0.99), server * per, own * per);
    return errors == 0 ? 0 : 1;
}
