/* veddb-gatewayd/http/http.c — see http.h.
 *
 * A page behind a login is a job: it looks up the login and is printed on the worker, and is
 * answered on the HTTPS thread. When the client leaves meanwhile, libevent takes the request from
 * its connection and leaves it to us; answering it then only frees it. */
#include "veddb-gatewayd/http/http.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "veddb-gatewayd/commands/x509.h"
#include "veddb-gatewayd/http/private.h"
#include "veddb-gatewayd/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define HEADERS_MAX_BYTES 8192
#define BODY_MAX_BYTES    4096
#define TIMEOUT_S         10
#define STORAGE_WAIT_MS   1000
#define JOBS_MAX          16 /* that wait for the worker */

static struct bufferevent *make_tls(struct event_base *base, void *context)
{
    gate_http_t *http = context;
    SSL *ssl = NULL;
    /* Without a transport of ours libevent would take one without TLS: better end the process. */
    int rc = vd_tls_ssl_new(http->gate->tls, -1, &ssl, NULL);
    VD_ASSERT(rc == VD_OK);
    rc = gate_http_admission_attach(http->gate, ssl, NULL);
    VD_ASSERT(rc == VD_OK);
    /* The connection layer of libevent sets its own reading and writing ends. */
    struct bufferevent *transport = bufferevent_openssl_socket_new(
        base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    VD_ASSERT(transport != NULL);
    return transport;
}

static void answer(struct evhttp_request *request, int code, const char *reason, const char *type,
                   vd_slice_t text)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(request);
    (void)evhttp_add_header(headers, "Content-Type", type);
    (void)evhttp_add_header(headers, "Cache-Control", "no-store");
    (void)evhttp_add_header(headers, "X-Content-Type-Options", "nosniff");
    struct evbuffer *body = evbuffer_new();
    if (body != NULL)
        (void)evbuffer_add(body, text.data, text.len); /* out of memory: an empty body */
    evhttp_send_reply(request, code, reason, body);
    if (body != NULL)
        evbuffer_free(body);
}

static void read_origin(struct evhttp_request *request, gate_http_origin_t *ret)
{
    struct evhttp_connection *conn = evhttp_request_get_connection(request);
    struct sockaddr_storage own = {0};
    socklen_t len = sizeof own;
    char *host = NULL;
    ev_uint16_t port = 0;
    evhttp_connection_get_peer(conn, &host, &port);
    (void)snprintf(ret->client, sizeof ret->client, "%s", host == NULL ? "" : host);
    int fd = bufferevent_getfd(evhttp_connection_get_bufferevent(conn));
    if (fd < 0 || getsockname(fd, (struct sockaddr *)&own, &len) != 0)
        return;
    const struct sockaddr_in *v4 = (const void *)&own;
    const struct sockaddr_in6 *v6 = (const void *)&own;
    const void *from = own.ss_family == AF_INET ? (const void *)&v4->sin_addr : &v6->sin6_addr;
    (void)inet_ntop(own.ss_family, from, ret->server, sizeof ret->server);
}

static bool peer_address(struct evhttp_request *request, gate_address_t *ret)
{
    char *host = NULL;
    ev_uint16_t port = 0;
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    evhttp_connection_get_peer(evhttp_request_get_connection(request), &host, &port);
    if (host != NULL && inet_pton(AF_INET, host, &v4.sin_addr) == 1)
        *ret = gate_address_from((const struct sockaddr *)&v4);
    else if (host != NULL && inet_pton(AF_INET6, host, &v6.sin6_addr) == 1)
        *ret = gate_address_from((const struct sockaddr *)&v6);
    else
        return false;
    return true;
}

static void put_challenge(struct evhttp_request *request)
{
    (void)evhttp_add_header(evhttp_request_get_output_headers(request), "WWW-Authenticate",
                            "Basic realm=\"VedDB\", charset=\"UTF-8\"");
}

static void refuse(struct evhttp_request *request, gate_http_login_t login)
{
    switch (login) {
    case GATE_HTTP_LOGIN_THROTTLED:
        answer(request, 429, "Too Many Requests", "text/plain",
               VD_SLICE_LIT("too many failed logins\n"));
        break;
    case GATE_HTTP_LOGIN_LATER:
        answer(request, 503, "Service Unavailable", "text/plain",
               VD_SLICE_LIT("storage is not there\n"));
        break;
    case GATE_HTTP_LOGIN_FORBIDDEN:
        answer(request, 403, "Forbidden", "text/plain",
               VD_SLICE_LIT("needs the privilege serverStatus (role clusterMonitor)\n"));
        break;
    case GATE_HTTP_LOGIN_GOOD:
    case GATE_HTTP_LOGIN_BAD:
        put_challenge(request);
        answer(request, 401, "Unauthorized", "text/plain",
               VD_SLICE_LIT("log in with a user of the admin database\n"));
        break;
    }
}

/* ---- pages ---- */

static void healthz(struct evhttp_request *request, void *context)
{
    (void)context; /* answering is the answer */
    answer(request, 200, "OK", "text/plain", VD_SLICE_LIT("ok\n"));
}

static void readyz(struct evhttp_request *request, void *context)
{
    gate_http_t *http = context;
    gate_member_t member;
    gate_member_read(http->gate, NULL, &member);
    if (member.primary || member.secondary) /* both serve reads */
        answer(request, 200, "OK", "text/plain", VD_SLICE_LIT("ready\n"));
    else
        answer(request, 503, "Service Unavailable", "text/plain", VD_SLICE_LIT("not ready\n"));
}

/* The set's name is text of the configuration: bounded, and without quotes once it is printed. */
static int print_member(gate_t *gate, vd_buf_t *out)
{
    gate_member_t member;
    char set[sizeof gate->settings.replica_set];
    (void)snprintf(set, sizeof set, "%s", gate->settings.replica_set);
    for (char *c = set; *c != 0; c++) {
        if (*c == '"' || *c == '\\' || *c == '\n')
            *c = '_';
    }
    gate_member_read(gate, NULL, &member);
    int state = gate_member_state(&member);
    return vd_buf_printf(
        out,
        "# HELP veddb_gateway_member_state state of this member, as MongoDB numbers them\n"
        "# TYPE veddb_gateway_member_state gauge\n"
        "veddb_gateway_member_state{set=\"%s\",state=\"%s\"} %d\n"
        "# HELP veddb_gateway_primary this member takes writes\n"
        "# TYPE veddb_gateway_primary gauge\nveddb_gateway_primary{set=\"%s\"} %d\n"
        "# HELP veddb_gateway_term term of the replica set\n"
        "# TYPE veddb_gateway_term gauge\nveddb_gateway_term{set=\"%s\"} %llu\n"
        "# HELP veddb_gateway_state_changes_total changes of role, term or topology\n"
        "# TYPE veddb_gateway_state_changes_total counter\n"
        "veddb_gateway_state_changes_total{set=\"%s\"} %lld\n",
        set, gate_member_state_name(state), state, set, member.primary, set,
        (unsigned long long)member.term, set, (long long)member.counter);
}

enum {
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_INVALIDATIONS,
    CACHE_EVICTIONS,
    CACHE_ENTRIES,
    CACHE_BYTES,
    CACHE_FIGURES
};

/* Of all threads together. */
static void cache_figures(const gate_t *gate, uint64_t figures[CACHE_FIGURES])
{
    memset(figures, 0, CACHE_FIGURES * sizeof *figures);
    for (uint32_t i = 0; i < gate->thread_count; i++) {
        if (gate->threads[i] == NULL || gate->threads[i]->cache == NULL)
            continue;
        const gate_cache_stats_t *stats = gate_cache_stats(gate->threads[i]->cache);
        figures[CACHE_HITS] += atomic_load(&stats->hits);
        figures[CACHE_MISSES] += atomic_load(&stats->misses);
        figures[CACHE_INVALIDATIONS] += atomic_load(&stats->invalidations);
        figures[CACHE_EVICTIONS] += atomic_load(&stats->evictions);
        figures[CACHE_ENTRIES] += atomic_load(&stats->entries);
        figures[CACHE_BYTES] += atomic_load(&stats->bytes);
    }
}

/* Zeros are left out: most pairs can't be. */
static int print_counts(gate_t *gate, vd_buf_t *out, const char *name, const char *help,
                        uint64_t (*count)(const gate_notes_t *, gate_refusal_t, gate_scope_t))
{
    int rc = vd_buf_printf(out, "# HELP %s %s\n# TYPE %s counter\n", name, help, name);
    for (unsigned kind = 0; kind < GATE_REFUSALS; kind++) {
        for (unsigned scope = 0; scope < GATE_SCOPES && rc == VD_OK; scope++) {
            uint64_t value = count(gate->notes, (gate_refusal_t)kind, (gate_scope_t)scope);
            if (value != 0)
                rc = vd_buf_printf(out, "%s{kind=\"%s\",scope=\"%s\"} %llu\n", name,
                                   gate_refusal_names[kind], gate_scope_names[scope],
                                   (unsigned long long)value);
        }
    }
    return rc;
}

static int print_limits(gate_t *gate, vd_buf_t *out)
{
    int rc = print_counts(gate, out, "veddb_gateway_limits_refused_total",
                          "refused by a limit, by kind and scope", gate_notes_refused);
    return rc != VD_OK
               ? rc
               : print_counts(gate, out, "veddb_gateway_limits_delayed_total",
                              "made to wait by a limit, by kind and scope", gate_notes_delayed);
}

static int print_figures(gate_t *gate, vd_buf_t *out)
{
    const gate_stats_t *stats = &gate->stats;
    uint64_t cache[CACHE_FIGURES];
    cache_figures(gate, cache);
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } rows[] = {
        {"veddb_gateway_connections", "gauge", "open client connections",
         atomic_load(&stats->connections_current)},
        {"veddb_gateway_requests_in_flight", "gauge", "requests being worked on",
         atomic_load(&stats->connections_active)},
        {"veddb_gateway_connections_accepted_total", "counter", "connections taken",
         atomic_load(&stats->connections_total)},
        {"veddb_gateway_connections_rejected_total", "counter", "connections over a limit",
         atomic_load(&stats->connections_rejected)},
        {"veddb_gateway_https_connections", "gauge", "open HTTPS connections",
         atomic_load(&stats->https_current)},
        {"veddb_gateway_https_connections_rejected_total", "counter",
         "HTTPS connections over a limit", atomic_load(&stats->https_rejected)},
        {"veddb_gateway_handshakes_failed_total", "counter", "TLS handshakes that failed",
         atomic_load(&stats->handshakes_failed)},
        {"veddb_gateway_requests_total", "counter", "requests", atomic_load(&stats->requests)},
        {"veddb_gateway_errors_total", "counter",
         "requests that the gateway answered with an error", atomic_load(&stats->asserts_user)},
        {"veddb_gateway_received_bytes_total", "counter", "bytes of requests",
         atomic_load(&stats->bytes_in)},
        {"veddb_gateway_sent_bytes_total", "counter", "bytes of replies",
         atomic_load(&stats->bytes_out)},
        {"veddb_gateway_logins_total", "counter", "logins", atomic_load(&stats->logins)},
        {"veddb_gateway_logins_failed_total", "counter", "logins refused",
         atomic_load(&stats->logins_failed)},
        {"veddb_gateway_cache_hits_total", "counter", "reads answered from the cache of results",
         cache[CACHE_HITS]},
        {"veddb_gateway_cache_misses_total", "counter",
         "reads that it could have answered and did not", cache[CACHE_MISSES]},
        {"veddb_gateway_cache_invalidations_total", "counter",
         "results found changed when they were asked for", cache[CACHE_INVALIDATIONS]},
        {"veddb_gateway_cache_evictions_total", "counter", "results that made room for others",
         cache[CACHE_EVICTIONS]},
        {"veddb_gateway_cache_entries", "gauge", "results that are kept", cache[CACHE_ENTRIES]},
        {"veddb_gateway_cache_bytes", "gauge", "memory of the results that are kept",
         cache[CACHE_BYTES]},
        {"veddb_gateway_certificate_expires_seconds", "gauge", "until the certificate expires",
         (uint64_t)vd_tls_expires_in_s(gate->tls)},
    };
    int rc = VD_OK;
    for (size_t i = 0; i < VD_COUNT_OF(rows) && rc == VD_OK; i++)
        rc = vd_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", rows[i].name, rows[i].help,
                           rows[i].name, rows[i].type, rows[i].name,
                           (unsigned long long)rows[i].value);
    return rc;
}

static int print_staple(gate_t *gate, vd_buf_t *out)
{
    bool soon;
    int64_t staple_s = vd_tls_staple_expires_in_s(gate->tls, &soon);
    return staple_s == INT64_MAX
               ? VD_OK
               : vd_buf_printf(
                     out,
                     "# HELP veddb_gateway_ocsp_expires_seconds until clients get no OCSP "
                     "response\n# TYPE veddb_gateway_ocsp_expires_seconds gauge\n"
                     "veddb_gateway_ocsp_expires_seconds %lld\n",
                     (long long)staple_s);
}

static int print_operations(gate_t *gate, vd_buf_t *out)
{
    static const char *const kinds[GATE_OPCOUNTS] = {"insert", "query",   "update",
                                                     "delete", "getmore", "command"};
    int rc = vd_buf_printf(out, "# HELP veddb_gateway_operations_total operations by kind\n# TYPE "
                                "veddb_gateway_operations_total counter\n");
    for (unsigned i = 0; i < GATE_OPCOUNTS && rc == VD_OK; i++)
        rc = vd_buf_printf(out, "veddb_gateway_operations_total{kind=\"%s\"} %llu\n", kinds[i],
                           (unsigned long long)atomic_load(&gate->stats.opcounters[i]));
    return rc;
}

/* Refused for what is known of users and tokens. */
static int print_refused(gate_t *gate, vd_buf_t *out)
{
    const gate_stats_t *stats = &gate->stats;
    return vd_buf_printf(
        out,
        "# HELP veddb_gateway_tokens_refused_total refused since a token was revoked, or since "
        "this member could not confirm what was\n"
        "# TYPE veddb_gateway_tokens_refused_total counter\n"
        "veddb_gateway_tokens_refused_total{reason=\"revoked\"} %llu\n"
        "veddb_gateway_tokens_refused_total{reason=\"unsure\"} %llu\n"
        "# HELP veddb_gateway_users_refused_total refused since this member could not confirm "
        "who its users are\n"
        "# TYPE veddb_gateway_users_refused_total counter\n"
        "veddb_gateway_users_refused_total{reason=\"unsure\"} %llu\n"
        "# HELP veddb_gateway_tokens_data_key the data key whose rotation the signing key of "
        "tokens follows; 0: none, or this member is no primary\n"
        "# TYPE veddb_gateway_tokens_data_key gauge\n"
        "veddb_gateway_tokens_data_key %lld\n",
        (unsigned long long)gate_tokens_refused(gate->tokens),
        (unsigned long long)atomic_load(&stats->tokens_refused_unsure),
        (unsigned long long)atomic_load(&stats->users_refused_unsure),
        (long long)atomic_load(&gate->tokens_data_key));
}

static int print_stats(gate_t *gate, vd_buf_t *out)
{
    static int (*const parts[])(gate_t * gate, vd_buf_t * out) = {
        print_member, print_staple, print_figures, print_operations, print_refused, print_limits};
    int rc = VD_OK;
    for (size_t i = 0; i < VD_COUNT_OF(parts) && rc == VD_OK; i++)
        rc = parts[i](gate, out);
    return rc != VD_OK ? rc : vd_metrics_print(out);
}

/* Storage's own page, behind ours; while storage is away ours stands alone and says so. */
static int print_storage(gate_t *gate, vd_buf_t *out)
{
    vd_buf_t reply;
    vd_bb_t bb;
    vd_bson_t command;
    vd_value_t text = VD_VALUE_MISSING;
    vd_bb_init(&bb, 1024);
    vd_buf_init(&reply, 5u << 20);
    vd_bb_int32(&bb, "veddbMetrics", 1);
    vd_bb_cstr(&bb, "$db", "admin");
    if (vd_bb_finish(&bb, &command, NULL) == VD_OK &&
        gate_internal_call(gate, GATE_CALL_IDEMPOTENT, VD_SLICE_LIT("admin"), command,
                           STORAGE_WAIT_MS, &reply, NULL) == VD_OK)
        text = vd_bson_get((vd_bson_t){vd_buf_at(&reply, 0), (uint32_t)vd_buf_len(&reply)}, "text");
    bool there = text.type == VD_BSON_STRING;
    int rc = vd_buf_printf(out,
                           "# HELP veddb_storage_up storage answers\n# TYPE veddb_storage_up "
                           "gauge\nveddb_storage_up %d\n",
                           there);
    if (rc == VD_OK && there)
        rc = vd_buf_append_slice(out, vd_value_string(text));
    vd_bb_done(&bb);
    vd_buf_done(&reply);
    return rc;
}

static int print_metrics(gate_t *gate, vd_buf_t *out)
{
    int rc = print_stats(gate, out);
    return rc == VD_OK ? print_storage(gate, out) : rc;
}

/* ---- jobs ---- */

static void wake(gate_http_t *http)
{
    uint64_t one = 1;
    while (write(http->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        continue;
}

static void show(gate_http_job_t *job)
{
    gate_limits_t *limits = job->http->gate->limits;
    if (gate_limits_login_wait_ms(limits, &job->address) != 0)
        job->login = GATE_HTTP_LOGIN_THROTTLED;
    else
        job->login = gate_http_check_monitor(job);
    if (job->login == GATE_HTTP_LOGIN_BAD)
        gate_limits_login_failed(limits, &job->address);
    if (job->login == GATE_HTTP_LOGIN_GOOD)
        job->rc = job->page->print(job->http->gate, &job->out);
}

static void job_run(void *context)
{
    gate_http_job_t *job = context;
    if (job->page->act != NULL) {
        if (job->forged)
            gate_http_forged(job);
        else
            job->page->act(job);
        job->login = GATE_HTTP_LOGIN_GOOD;
    } else {
        show(job);
    }
    atomic_store(&job->done, true);
    wake(job->http);
}

static void wipe_text(char *text)
{
    if (text != NULL)
        vd_wipe(text, strlen(text));
    vd_free(text);
}

/* Passwords and tokens were in it. */
static void wipe_buf(vd_buf_t *buf)
{
    if (vd_buf_len(buf) != 0)
        vd_wipe(vd_buf_at(buf, 0), vd_buf_len(buf));
    vd_buf_done(buf);
}

static void job_free(gate_http_job_t *job)
{
    vd_list_remove(&job->node);
    wipe_text(job->header);
    vd_free(job->type);
    vd_free(job->certificate);
    vd_free(job->query);
    wipe_buf(&job->body);
    wipe_buf(&job->out);
    vd_free(job);
}

static void job_answer(gate_http_job_t *job)
{
    if (job->login != GATE_HTTP_LOGIN_GOOD) {
        refuse(job->request, job->login);
    } else if (job->rc == VD_OK) {
        if (job->challenge)
            put_challenge(job->request);
        answer(job->request, job->status, job->reason, job->page->type, vd_buf_slice(&job->out));
    } else {
        answer(job->request, 500, "Internal Server Error", "text/plain",
               VD_SLICE_LIT("too large\n"));
    }
    job_free(job);
}

static const gate_http_page_t metrics_page = {"text/plain; version=0.0.4; charset=utf-8",
                                              print_metrics, NULL, EVHTTP_REQ_GET, NULL},
                              status_page = {"application/json", gate_status, NULL, EVHTTP_REQ_GET,
                                             NULL};

static char *header_of(struct evhttp_request *request, const char *name)
{
    const char *value = evhttp_find_header(evhttp_request_get_input_headers(request), name);
    return value == NULL ? NULL : vd_xstrdup(value);
}

static char *query_of(struct evhttp_request *request)
{
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(request);
    const char *query = uri == NULL ? NULL : evhttp_uri_get_query(uri);
    return query == NULL ? NULL : vd_xstrdup(query);
}

/* The one that it showed, if it would be accepted now: connections stay open for long. */
static char *certificate_of(const gate_t *gate, struct evhttp_request *request)
{
    char subject[GATE_SCRAM_NAME_MAX + 1];
    struct bufferevent *transport =
        evhttp_connection_get_bufferevent(evhttp_request_get_connection(request));
    SSL *ssl = transport == NULL ? NULL : bufferevent_openssl_get_ssl(transport);
    return ssl != NULL && vd_tls_still_trusts(gate->tls, ssl) && gate_x509_subject(ssl, subject)
               ? vd_xstrdup(subject)
               : NULL;
}

/* GET stands for HEAD, too. */
static bool method_fits(struct evhttp_request *request, const gate_http_page_t *what)
{
    int method = evhttp_request_get_command(request);
    return method == what->method || (method == EVHTTP_REQ_HEAD && what->method == EVHTTP_REQ_GET);
}

/* A browser sends along the password or certificate that it knows with what any page tells it to
 * post, and says so: nobody else sends Origin (RFC 6454, 7). */
static bool is_forged(struct evhttp_request *request, const gate_http_page_t *what)
{
    return what->method == EVHTTP_REQ_POST &&
           evhttp_find_header(evhttp_request_get_input_headers(request), "Origin") != NULL;
}

static void page(gate_http_t *http, struct evhttp_request *request, const gate_http_page_t *what)
{
    gate_address_t address;
    struct evbuffer *input = evhttp_request_get_input_buffer(request);
    char *header = header_of(request, "Authorization");
    if (!method_fits(request, what)) {
        (void)evhttp_add_header(evhttp_request_get_output_headers(request), "Allow",
                                what->method == EVHTTP_REQ_POST ? "POST" : "GET, HEAD");
        answer(request, 405, "Method Not Allowed", "text/plain", VD_SLICE_LIT("no such method\n"));
        wipe_text(header);
        return;
    }
    if ((header == NULL && what->act == NULL) || !peer_address(request, &address)) {
        refuse(request, GATE_HTTP_LOGIN_BAD);
        wipe_text(header);
        return;
    }
    gate_http_job_t *job = vd_xalloc(sizeof *job);
    job->http = http;
    job->request = request;
    job->page = what;
    job->address = address;
    read_origin(request, &job->origin);
    job->header = header;
    job->type = header_of(request, "Content-Type");
    job->query = query_of(request);
    job->forged = is_forged(request, what);
    job->certificate = what->act == NULL ? NULL : certificate_of(http->gate, request);
    job->login = GATE_HTTP_LOGIN_LATER;
    job->status = 200, job->reason = "OK";
    vd_buf_init(&job->out, 4u << 20);
    vd_buf_init(&job->body, BODY_MAX_BYTES);
    size_t len = evbuffer_get_length(input);
    uint8_t *space;
    if (len != 0 && len <= BODY_MAX_BYTES && vd_buf_reserve(&job->body, len, &space) == VD_OK &&
        evbuffer_remove(input, space, len) == (int)len)
        vd_buf_commit(&job->body, len);
    vd_list_push_back(&http->jobs, &job->node);
    if (vd_worker_put(http->worker, NULL, job_run, NULL, job, NULL) != VD_OK) {
        answer(request, 503, "Service Unavailable", "text/plain",
               VD_SLICE_LIT("too many ask at once\n"));
        job_free(job);
    }
}

static void metrics(struct evhttp_request *request, void *context)
{
    page(context, request, &metrics_page);
}

static void status(struct evhttp_request *request, void *context)
{
    page(context, request, &status_page);
}

#define PAGE(name)                                                                                 \
    static void name(struct evhttp_request *request, void *context)                                \
    {                                                                                              \
        page(context, request, &gate_http_##name##_page);                                          \
    }
PAGE(token)
PAGE(token_revoke)
PAGE(user_revoke)
PAGE(all_revoke)
PAGE(jwks)
PAGE(sessions)
#undef PAGE

static void keys(struct evhttp_request *request, void *context)
{
    const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(request));
    for (size_t i = 0; i < GATE_HTTP_KEYS; i++) {
        if (strcmp(gate_http_keys_pages[i].path, path) == 0) {
            page(context, request, &gate_http_keys_pages[i].page);
            return;
        }
    }
    answer(request, 404, "Not Found", "text/plain", VD_SLICE_LIT("not found\n"));
}

static void nothing(struct evhttp_request *request, void *context)
{
    (void)context; /* the same for every path */
    answer(request, 404, "Not Found", "text/plain", VD_SLICE_LIT("not found\n"));
}

/* ---- life ---- */

static void woken(evutil_socket_t fd, short what, void *context)
{
    (void)what; /* readable */
    gate_http_t *http = context;
    uint64_t count;
    (void)!read(fd, &count, sizeof count); /* only a bell */
    VD_LIST_EACH(&http->jobs, node)
    {
        gate_http_job_t *job = VD_CONTAINER_OF(node, gate_http_job_t, node);
        if (atomic_load(&job->done))
            job_answer(job);
    }
    if (atomic_load(&http->stopping))
        (void)event_base_loopbreak(http->base);
}

static void *thread_main(void *context)
{
    gate_http_t *http = context;
    (void)event_base_dispatch(http->base);
    return NULL;
}

static int start_thread(gate_http_t *http, vd_error_t *err)
{
    int why = vd_thread_start(&http->thread, thread_main, http);
    http->started = why == 0;
    return why == 0
               ? VD_OK
               : vd_error_set(err, VD_ERR_NO_MEMORY, "the HTTPS thread can't be started: %d", why);
}

int gate_http_open(gate_t *gate, gate_http_t **ret_http, vd_error_t *err)
{
    static const struct {
        const char *path;
        void (*handler)(struct evhttp_request *request, void *context);
    } pages[] = {{"/healthz", healthz},
                 {"/readyz", readyz},
                 {"/metrics", metrics},
                 {"/status", status},
                 {"/v1/token", token},
                 {"/v1/token/revoke", token_revoke},
                 {"/v1/tokens/revoke-user", user_revoke},
                 {"/v1/tokens/revoke-all", all_revoke},
                 {"/v1/jwks", jwks},
                 {"/v1/sessions", sessions}};
    static pthread_once_t wipes = PTHREAD_ONCE_INIT;
    gate_http_t *http = vd_xalloc(sizeof *http);
    int fd = gate->settings.http_fd, rc = VD_OK;
    (void)pthread_once(&wipes, gate_http_json_wipes); /* can't fail for a static once */
    http->gate = gate;
    vd_list_init(&http->jobs);
    http->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    http->base = event_base_new();
    http->server = http->base == NULL ? NULL : evhttp_new(http->base);
    if (http->wake_fd < 0 || http->server == NULL) {
        rc = vd_error_set(err, VD_ERR_NO_MEMORY, "the HTTPS listener can't be made");
        goto cleanup;
    }
    if (fd < 0)
        rc = gate_listen_socket(gate->settings.listen, gate->settings.http_port, &fd,
                                &gate->settings.http_port, err);
    else
        gate->settings.http_port = gate_listen_port(fd);
    if (rc != VD_OK)
        goto cleanup;
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); /* a passed one may block */
    evhttp_set_bevcb(http->server, make_tls, http);
    evhttp_set_max_headers_size(http->server, HEADERS_MAX_BYTES);
    evhttp_set_max_body_size(http->server, BODY_MAX_BYTES);
    evhttp_set_timeout(http->server, TIMEOUT_S);
    evhttp_set_allowed_methods(http->server, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD | EVHTTP_REQ_POST);
    evhttp_set_gencb(http->server, nothing, http);
    for (size_t i = 0; i < VD_COUNT_OF(pages); i++)
        (void)evhttp_set_cb(http->server, pages[i].path, pages[i].handler,
                            http); /* fails only for doubles */
    for (size_t i = 0; i < GATE_HTTP_KEYS; i++)
        (void)evhttp_set_cb(http->server, gate_http_keys_pages[i].path, keys, http); /* as above */
    if (evhttp_accept_socket(http->server, fd) != 0) {
        (void)close(fd);
        rc = vd_error_set(err, VD_ERR_IO, "the HTTPS listener can't accept");
        goto cleanup;
    }
    http->wake_event = event_new(http->base, http->wake_fd, EV_READ | EV_PERSIST, woken, http);
    if (http->wake_event == NULL || event_add(http->wake_event, NULL) != 0) {
        rc = vd_error_set(err, VD_ERR_NO_MEMORY, "the HTTPS listener can't be watched");
        goto cleanup;
    }
    rc = vd_worker_create("https", 1, JOBS_MAX, &http->worker, err);
    if (rc == VD_OK)
        rc = start_thread(http, err);
    if (rc != VD_OK)
        goto cleanup;
    *ret_http = http;
    http = NULL;
cleanup:
    gate_http_close(&http);
    return rc;
}

void gate_http_close(gate_http_t **http_p)
{
    gate_http_t *http = *http_p;
    if (http == NULL)
        return;
    if (http->started) {
        atomic_store(&http->stopping, true);
        wake(http);
        (void)pthread_join(http->thread, NULL);
    }
    vd_worker_destroy(&http->worker); /* of the jobs that it drops, login is still "later" */
    VD_LIST_EACH(&http->jobs, node)
    {
        job_answer(VD_CONTAINER_OF(node, gate_http_job_t, node));
    }
    if (http->wake_event != NULL)
        event_free(http->wake_event);
    if (http->server != NULL)
        evhttp_free(http->server);
    if (http->base != NULL)
        event_base_free(http->base);
    if (http->wake_fd >= 0)
        (void)close(http->wake_fd);
    vd_wipe(http->last_login, sizeof http->last_login);
    vd_free(http);
    *http_p = NULL;
}
