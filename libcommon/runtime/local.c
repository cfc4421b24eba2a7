/* libcommon/runtime/local.c — see local.h. One buffer per listener and call, wiped after each
 * packet. */
#include "libcommon/runtime/local.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/list.h"
#include "libcommon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENTS_MAX    32
#define IDLE_MAX_MS    5000
#define SEND_BUF_BYTES (2 * VD_LOCAL_PACKET_MAX)

struct vd_local_client {
    vd_node_t node; /* in local->clients while connected */
    vd_local_t *local;
    int fd; /* -1: gone */
    uid_t uid;
    uint32_t holds; /* the listener's own while connected, and those of vd_local_hold */
    vd_source_t *source, *idle;
};

struct vd_local {
    vd_loop_t *loop;
    vd_local_options_t options;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    int fd, lock_fd;
    bool own_socket;
    vd_source_t *source;
    vd_list_t clients;
    uint32_t client_count;
};

static int fill_address(const char *path, struct sockaddr_un *ret_address, vd_error_t *err)
{
    size_t len = strlen(path);
    if (path[0] != '/' || len >= sizeof ret_address->sun_path)
        return vd_error_set(err, VD_ERR_CONFIG, "socket path %s: absolute, at most %zu bytes", path,
                            sizeof ret_address->sun_path - 1);
    memset(ret_address, 0, sizeof *ret_address);
    ret_address->sun_family = AF_UNIX;
    memcpy(ret_address->sun_path, path, len + 1);
    return VD_OK;
}

static bool peer_uid(int fd, uid_t *ret_uid)
{
    struct ucred credentials;
    socklen_t len = sizeof credentials;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &len) != 0)
        return false;
    *ret_uid = credentials.uid;
    return true;
}

static void grow_buffer(int fd)
{
    int size = SEND_BUF_BYTES;
    /* Best effort: a packet that doesn't fit is refused when it is sent. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

/* ---- clients ---- */

void vd_local_hold(vd_local_client_t *client)
{
    client->holds++;
}

void vd_local_drop(vd_local_client_t *client)
{
    VD_ASSERT(client->holds > 0);
    if (--client->holds == 0)
        vd_free(client);
}

static void client_gone(vd_local_client_t *client)
{
    if (client->fd < 0)
        return;
    vd_loop_remove(&client->source);
    vd_loop_remove(&client->idle);
    (void)close(client->fd);
    client->fd = -1;
    vd_list_remove(&client->node);
    client->local->client_count--;
    client->local = NULL;
    vd_local_drop(client);
}

static void client_idle(void *context)
{
    vd_local_client_t *client = context;
    if (client->holds > 1) { /* it waits for us, not we for it */
        vd_loop_set_timer(client->idle, IDLE_MAX_MS, 0);
        return;
    }
    client_gone(client);
}

static void client_ready(void *context, int fd, unsigned events)
{
    vd_local_client_t *client = context;
    (void)events;
    uint8_t *packet =
        vd_xalloc(VD_LOCAL_PACKET_MAX); /* rare enough; and it outlives the listener */
    ssize_t len = recv(fd, packet, VD_LOCAL_PACKET_MAX, MSG_DONTWAIT | MSG_TRUNC);
    if (len < 0 && (errno == EAGAIN || errno == EINTR)) {
        vd_free(packet);
        return;
    }
    if (len <= 0 || len > VD_LOCAL_PACKET_MAX) {
        vd_free_secret(packet, VD_LOCAL_PACKET_MAX);
        client_gone(client);
        return;
    }
    vd_loop_set_timer(client->idle, IDLE_MAX_MS, 0);
    vd_local_hold(client);
    const vd_local_options_t *options = &client->local->options;
    options->request(options->context, client, vd_slice(packet, (size_t)len));
    vd_free_secret(packet, (size_t)len);
    vd_local_drop(client);
}

uid_t vd_local_client_uid(const vd_local_client_t *client)
{
    return client->uid;
}

int vd_local_reply(vd_local_client_t *client, vd_slice_t packet, vd_error_t *err)
{
    VD_ASSERT(client != NULL && packet.len > 0);

    if (packet.len > VD_LOCAL_PACKET_MAX)
        return vd_error_set(err, VD_ERR_INVALID_LENGTH, "an answer of %zu bytes, at most %d",
                            packet.len, VD_LOCAL_PACKET_MAX);
    if (client->fd < 0)
        return VD_OK;
    ssize_t sent = send(client->fd, packet.data, packet.len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == (ssize_t)packet.len)
        return VD_OK;
    if (errno == EAGAIN) {
        client_gone(client);
        return vd_error_set(err, VD_ERR_FULL, "a client doesn't read its answers");
    }
    if (errno == EPIPE || errno == ECONNRESET)
        return VD_OK;
    return vd_error_set_errno(err, "answer");
}

/* ---- the listener ---- */

static bool is_allowed(const vd_local_t *local, uid_t uid)
{
    return uid == 0 || uid == geteuid() || uid == local->options.allowed_uid;
}

static void client_add(vd_local_t *local, int fd)
{
    uid_t uid;
    if (local->client_count == CLIENTS_MAX || !peer_uid(fd, &uid) || !is_allowed(local, uid)) {
        (void)close(fd);
        return;
    }
    grow_buffer(fd);
    vd_local_client_t *client = vd_xalloc(sizeof *client);
    client->local = local;
    client->fd = fd;
    client->uid = uid;
    client->holds = 1;
    vd_list_push_back(&local->clients, &client->node);
    local->client_count++;
    if (vd_loop_add_fd(local->loop, fd, VD_LOOP_READ, client_ready, client, &client->source,
                       NULL) != VD_OK ||
        vd_loop_add_timer(local->loop, IDLE_MAX_MS, 0, client_idle, client, &client->idle, NULL) !=
            VD_OK)
        client_gone(client);
}

static void listener_ready(void *context, int fd, unsigned events)
{
    vd_local_t *local = context;
    (void)events;
    for (int i = 0; i < CLIENTS_MAX; i++) {
        int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client < 0)
            return;
        client_add(local, client);
    }
}

static int bind_socket(vd_local_t *local, vd_error_t *err)
{
    struct sockaddr_un address;
    char lock[sizeof local->path + 8];
    int rc = fill_address(local->path, &address, err);
    if (rc != VD_OK)
        return rc;
    (void)snprintf(lock, sizeof lock, "%s.lock", local->path);
    local->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (local->lock_fd < 0)
        return vd_error_set_errno(err, "%s", lock);
    if (flock(local->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return vd_error_set(err, VD_ERR_EXISTS, "%s is served by another process", local->path);
    if (unlink(local->path) != 0 && errno != ENOENT)
        return vd_error_set_errno(err, "%s", local->path);
    local->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (local->fd < 0)
        return vd_error_set_errno(err, "socket %s", local->path);
    local->own_socket = true;
    mode_t mask = umask(0177);
    int bound = bind(local->fd, (const struct sockaddr *)&address, sizeof address);
    int bind_errno = errno;
    (void)umask(mask);
    errno = bind_errno;
    mode_t mode = local->options.socket_mode == 0 ? 0600 : (mode_t)local->options.socket_mode;
    if (bound != 0 || chmod(local->path, mode) != 0 || listen(local->fd, CLIENTS_MAX) != 0)
        return vd_error_set_errno(err, "socket %s", local->path);
    return VD_OK;
}

int vd_local_listen(vd_loop_t *loop, const vd_local_options_t *options, vd_local_t **ret_local,
                    vd_error_t *err)
{
    VD_ASSERT(loop != NULL && options != NULL && options->request != NULL && ret_local != NULL);

    if (options->listen_fd < 0 && options->path == NULL)
        return vd_error_set(err, VD_ERR_INVALID, "a listener without a path");
    vd_local_t *local = vd_xalloc(sizeof *local);
    local->loop = loop;
    local->options = *options;
    local->fd = local->lock_fd = -1;
    vd_list_init(&local->clients);
    int rc = VD_OK;
    if (options->path != NULL && strlen(options->path) >= sizeof local->path)
        rc = vd_error_set(err, VD_ERR_CONFIG, "socket path %s is too long", options->path);
    else
        (void)snprintf(local->path, sizeof local->path, "%s",
                       options->path == NULL ? "" : options->path);
    if (rc == VD_OK && options->listen_fd >= 0) {
        local->fd = options->listen_fd;
        if (fcntl(local->fd, F_SETFL, O_NONBLOCK) != 0)
            rc = vd_error_set_errno(err, "listener %s", local->path);
    } else if (rc == VD_OK) {
        rc = bind_socket(local, err);
    }
    if (rc == VD_OK)
        rc = vd_loop_add_fd(loop, local->fd, VD_LOOP_READ, listener_ready, local, &local->source,
                            err);
    if (rc != VD_OK) {
        vd_local_close(&local);
        return rc;
    }
    *ret_local = local;
    return VD_OK;
}

void vd_local_close(vd_local_t **local_p)
{
    vd_local_t *local = *local_p;
    if (local == NULL)
        return;
    *local_p = NULL;
    VD_LIST_EACH(&local->clients, node)
    client_gone(VD_CONTAINER_OF(node, vd_local_client_t, node));
    vd_loop_remove(&local->source);
    if (local->own_socket) {
        (void)unlink(local->path);
        (void)close(local->fd);
    }
    if (local->lock_fd >= 0)
        (void)close(local->lock_fd);
    vd_free(local);
}

/* ---- the blocking client ---- */

static int wait_for(int fd, short events, uint64_t until_ms, const char *path, vd_error_t *err)
{
    for (;;) {
        uint64_t now = vd_monotonic_ms();
        if (now >= until_ms)
            return vd_error_set(err, VD_ERR_NETWORK_TIMEOUT, "%s doesn't answer", path);
        struct pollfd waiting = {.fd = fd, .events = events};
        uint64_t left = until_ms - now;
        int ready = poll(&waiting, 1, left > 1000000 ? 1000000 : (int)left);
        if (ready > 0)
            return VD_OK;
        if (ready < 0 && errno != EINTR)
            return vd_error_set_errno(err, "%s", path);
    }
}

static int connect_to(int fd, const char *path, uint64_t until_ms, vd_error_t *err)
{
    struct sockaddr_un address;
    int rc = fill_address(path, &address, err);
    if (rc != VD_OK)
        return rc;
    /* A full backlog gives EAGAIN on a unix socket, with nothing to poll for. */
    while (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        if (errno == ENOENT || errno == ECONNREFUSED)
            return vd_error_set(err, VD_ERR_HOST_UNREACHABLE, "nobody serves %s", path);
        if (errno != EAGAIN && errno != EINTR)
            return vd_error_set_errno(err, "%s", path);
        if (vd_monotonic_ms() >= until_ms)
            return vd_error_set(err, VD_ERR_NETWORK_TIMEOUT, "%s doesn't answer", path);
        (void)poll(NULL, 0, 10);
    }
    return VD_OK;
}

static int exchange(int fd, const char *path, vd_slice_t packet, uint64_t until_ms, vd_buf_t *reply,
                    vd_error_t *err)
{
    int rc = wait_for(fd, POLLOUT, until_ms, path, err);
    if (rc != VD_OK)
        return rc;
    if (send(fd, packet.data, packet.len, MSG_NOSIGNAL) != (ssize_t)packet.len)
        return vd_error_set_errno(err, "request to %s", path);
    rc = wait_for(fd, POLLIN, until_ms, path, err);
    if (rc != VD_OK)
        return rc;
    uint8_t *space = NULL;
    vd_buf_clear(reply);
    rc = vd_buf_reserve(reply, VD_LOCAL_PACKET_MAX, &space);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "answer of %s", path);
    ssize_t len = recv(fd, space, VD_LOCAL_PACKET_MAX, MSG_TRUNC);
    if (len < 0 && errno != ECONNRESET)
        return vd_error_set_errno(err, "answer of %s", path);
    if (len <= 0)
        return vd_error_set(err, VD_ERR_CLOSED, "%s closed without an answer", path);
    if (len > VD_LOCAL_PACKET_MAX)
        return vd_error_set(err, VD_ERR_PROTOCOL, "answer of %s is too large", path);
    vd_buf_commit(reply, (size_t)len);
    return VD_OK;
}

int vd_local_call(const char *path, vd_slice_t packet, uint64_t timeout_ms, int64_t required_uid,
                  vd_buf_t *reply, vd_error_t *err)
{
    VD_ASSERT(path != NULL && packet.len > 0 && reply != NULL);

    uint64_t until_ms = vd_monotonic_ms() + timeout_ms;
    if (packet.len > VD_LOCAL_PACKET_MAX)
        return vd_error_set(err, VD_ERR_INVALID_LENGTH, "a request of %zu bytes, at most %d",
                            packet.len, VD_LOCAL_PACKET_MAX);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return vd_error_set_errno(err, "socket");
    grow_buffer(fd);
    uid_t uid = 0;
    int rc = connect_to(fd, path, until_ms, err);
    if (rc == VD_OK && required_uid >= 0 && (!peer_uid(fd, &uid) || (int64_t)uid != required_uid))
        rc = vd_error_set(err, VD_ERR_UNAUTHORIZED, "%s is served by user %u, not %lld", path,
                          (unsigned)uid, (long long)required_uid);
    if (rc == VD_OK)
        rc = exchange(fd, path, packet, until_ms, reply, err);
    (void)close(fd);
    return rc;
}
