/* veddb-replicad/dial.c — whom we dial: addresses are looked up, tried again after growing pauses.
 * See peers.h. */
#include "libcommon/base/mem.h"
#include "veddb-replicad/peers_private.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <unistd.h>

typedef struct {
    repl_peers_t *peers;
    char address[VDP_PEER_ADDRESS_MAX + 1], host[VDP_PEER_ADDRESS_MAX + 1];
    uint16_t port;
    struct sockaddr_storage found;
    socklen_t found_len; /* 0: not found */
    int why;
} lookup_t;

static void link_failed(repl_link_t *link, const char *why)
{
    (void)snprintf(link->error, sizeof link->error, "%s", why);
    link->redial_at_ms = vd_loop_now_ms(link->peers->loop) + link->pause_ms;
    link->pause_ms =
        link->pause_ms * 2 < REPL_REDIAL_MAX_MS ? link->pause_ms * 2 + 1 : REPL_REDIAL_MAX_MS;
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
    link->conn = repl_conn_new(link->peers, fd, link, link->address);
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

void repl_link_dial(repl_link_t *link)
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
        link->pause_ms = REPL_REDIAL_MS;
        (void)snprintf(link->address, sizeof link->address, "%s", address);
        vd_list_push_back(&peers->links, &link->node);
        if (!repl_address_parse(address, link->host, sizeof link->host, &link->port))
            (void)snprintf(link->error, sizeof link->error, "not an address: host:port");
        else
            repl_link_dial(link);
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
        repl_conn_die(conn, NULL);
        conn->link = NULL;
    }
    vd_list_remove(&link->node);
    vd_free(link);
}

repl_conn_t *repl_link_conn(repl_link_t *link)
{
    return link != NULL && link->conn != NULL && link->conn->state == REPL_CONN_OPEN &&
                   !link->conn->closing
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
