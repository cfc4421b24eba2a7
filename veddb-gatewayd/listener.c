/* veddb-gatewayd/listener.c — see listener.h. */
#include "veddb-gatewayd/listener.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <unistd.h>

#define ACCEPTS_PER_TURN 64
#define PAUSE_MS         200 /* when the process has no descriptors left */

struct gate_listener {
    gate_t *gate;
    vd_loop_t *loop;
    int fd;
    vd_source_t *source, *pause;
};

typedef struct {
    gate_thread_t *thread;
    int fd;
    gate_address_t address;
    char client[64];
} deal_t;

uint16_t gate_listen_port(int fd)
{
    struct sockaddr_storage own = {0};
    socklen_t len = sizeof own;
    const struct sockaddr_in *v4 = (const void *)&own;
    const struct sockaddr_in6 *v6 = (const void *)&own;
    if (getsockname(fd, (struct sockaddr *)&own, &len) != 0)
        return 0;
    return ntohs(own.ss_family == AF_INET6 ? v6->sin6_port : v4->sin_port);
}

int gate_listen_socket(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port,
                       vd_error_t *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    char service[8];
    int fd = -1, one = 1, rc = VD_OK;
    (void)snprintf(service, sizeof service, "%u", port);
    int why = getaddrinfo(host, service, &hints, &list);
    if (why != 0)
        return vd_error_set(err, VD_ERR_CONFIG, "can't resolve %s: %s", host, gai_strerror(why));
    fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, list->ai_addr, list->ai_addrlen) != 0 || listen(fd, 1024) != 0) {
        rc = vd_error_set_errno(err, "can't listen on %s port %u", host, port);
        goto cleanup;
    }
    *ret_port = gate_listen_port(fd);
    *ret_fd = fd;
    fd = -1;
cleanup:
    if (fd >= 0)
        (void)close(fd);
    freeaddrinfo(list);
    return rc;
}

static void take(void *context)
{
    deal_t *deal = context;
    gate_conn_open(deal->thread, deal->fd, &deal->address, deal->client);
    vd_free(deal);
}

static void print_client(const struct sockaddr_storage *from, char out[64])
{
    char host[INET6_ADDRSTRLEN] = "?";
    uint16_t port = 0;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)from;
        (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        port = ntohs(v4->sin_port);
    } else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const void *)from;
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        port = ntohs(v6->sin6_port);
    }
    (void)snprintf(out, 64, from->ss_family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, port);
}

static void refused(gate_t *gate, gate_refusal_t kind, gate_scope_t scope,
                    const gate_address_t *address)
{
    char text[64];
    gate_notes_add(gate->notes, kind, scope,
                   scope == GATE_SCOPE_ADDRESS ? vd_slice_str(gate_address_print(address, text))
                                               : VD_SLICE_NULL);
}

bool gate_listener_enter(gate_t *gate, const gate_address_t *address)
{
    uint64_t open =
        atomic_load(&gate->stats.connections_current) + atomic_load(&gate->stats.https_current);
    gate_scope_t scope = GATE_SCOPE_TOTAL;
    if (!gate_quota_handshake(gate->quota, vd_slice(address->bytes, sizeof address->bytes),
                              vd_monotonic_us(), &scope)) {
        refused(gate, GATE_REFUSED_HANDSHAKES, scope, address);
        return false;
    }
    if (open > gate_quota_value(gate->quota, GATE_LIMIT_CONNECTIONS_TOTAL)) {
        refused(gate, GATE_REFUSED_CONNECTIONS, GATE_SCOPE_TOTAL, address);
        return false;
    }
    if (!gate_limits_enter(gate->limits, address)) {
        refused(gate, GATE_REFUSED_CONNECTIONS, GATE_SCOPE_ADDRESS, address);
        return false;
    }
    return true;
}

static void deal(gate_listener_t *listener, int fd, const struct sockaddr_storage *from)
{
    gate_t *gate = listener->gate;
    gate_address_t address = gate_address_from((const struct sockaddr *)from);
    uint64_t open = atomic_fetch_add(&gate->stats.connections_current, 1) + 1;
    if (!gate_listener_enter(gate, &address)) {
        atomic_fetch_sub(&gate->stats.connections_current, 1);
        atomic_fetch_add(&gate->stats.connections_rejected, 1);
        (void)close(fd);
        return;
    }
    gate_thread_t *thread = gate->threads[open % gate->thread_count];
    deal_t *given = vd_xalloc(sizeof *given);
    given->thread = thread;
    given->fd = fd;
    given->address = address;
    print_client(from, given->client);
    if (thread->index == 0)
        take(given);
    else
        vd_loop_post(thread->loop, take, given);
}

static void resume(void *context)
{
    gate_listener_t *listener = context;
    vd_loop_remove(&listener->pause);
    vd_loop_set_events(listener->source, VD_LOOP_READ);
}

static void ready(void *context, int fd, unsigned events)
{
    (void)events; /* READ is all that is asked for */
    gate_listener_t *listener = context;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage from;
        socklen_t len = sizeof from;
        int client = accept4(fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client >= 0) {
            deal(listener, client, &from);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            vd_log(VD_LOG_WARN, "connections can't be accepted", "errno=%d", errno);
            vd_loop_set_events(listener->source, 0);
            if (vd_loop_add_timer(listener->loop, PAUSE_MS, 0, resume, listener, &listener->pause,
                                  NULL) != VD_OK)
                vd_loop_set_events(listener->source, VD_LOOP_READ);
        }
        if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

int gate_listener_open(gate_t *gate, vd_loop_t *loop, int fd, gate_listener_t **ret_listener,
                       vd_error_t *err)
{
    gate_listener_t *listener = vd_xalloc(sizeof *listener);
    listener->gate = gate;
    listener->loop = loop;
    listener->fd = fd;
    int rc = vd_loop_add_fd(loop, fd, VD_LOOP_READ, ready, listener, &listener->source, err);
    if (rc != VD_OK) {
        gate_listener_close(&listener);
        return rc;
    }
    *ret_listener = listener;
    return VD_OK;
}

void gate_listener_close(gate_listener_t **listener_p)
{
    gate_listener_t *listener = *listener_p;
    if (listener == NULL)
        return;
    vd_loop_remove(&listener->source);
    vd_loop_remove(&listener->pause);
    (void)close(listener->fd);
    vd_free(listener);
    *listener_p = NULL;
}
