/* libcommon/runtime/link_socket.c — see link_socket.h.
 *
 * ZeroMQ:  IMMEDIATE keeps frames from waiting for a connection that isn't there (they would reach
 *          the next instance). High-water marks count frames and only bound what lies inside
 *          ZeroMQ. A monitor tells of broken connections at once. */
#include "libcommon/runtime/link_socket.h"
#include "libcommon/base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#define HIGH_WATER_FRAMES 32

/* ---- the process's one ZeroMQ context, alive while any link is ---- */

static pthread_mutex_t context_mutex = PTHREAD_MUTEX_INITIALIZER;
static void *context_shared;
static uint32_t context_users;

static void *context_take(void)
{
    (void)pthread_mutex_lock(&context_mutex);
    if (context_shared == NULL) {
        context_shared = zmq_ctx_new();
        VD_ASSERT(context_shared != NULL);
        (void)zmq_ctx_set(context_shared, ZMQ_IO_THREADS, 1);
    }
    context_users++;
    void *context = context_shared;
    (void)pthread_mutex_unlock(&context_mutex);
    return context;
}

static void context_drop(void)
{
    (void)pthread_mutex_lock(&context_mutex);
    if (--context_users == 0) {
        while (zmq_ctx_term(context_shared) != 0 && errno == EINTR)
            ;
        context_shared = NULL;
    }
    (void)pthread_mutex_unlock(&context_mutex);
}

/* ---- opening ---- */

static int check_folder(const char *path, bool bind, vd_error_t *err)
{
    char folder[VD_LINK_PATH_MAX_BYTES + 1];
    (void)snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    slash[slash == folder ? 1 : 0] = '\0';
    struct stat st;
    if (stat(folder, &st) != 0) {
        if (!bind && errno == ENOENT)
            return VD_OK; /* the other end makes it; we keep trying */
        return vd_error_set_errno(err, "folder of socket %s", path);
    }
    if (!S_ISDIR(st.st_mode) || (st.st_mode & S_IRWXO) != 0)
        return vd_error_set(err, VD_ERR_CONFIG, "folder of socket %s is open to other users", path);
    return VD_OK;
}

/* A second bind on a live path would succeed and take the name away: the lock refuses it. */
static int lock_path(vd_link_socket_t *wire, const char *path, vd_error_t *err)
{
    char lock[VD_LINK_PATH_MAX_BYTES + 8];
    (void)snprintf(lock, sizeof lock, "%s.lock", path);
    wire->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (wire->lock_fd < 0)
        return vd_error_set_errno(err, "%s", lock);
    if (flock(wire->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            return vd_error_set(err, VD_ERR_EXISTS, "%s is served by another process", path);
        return vd_error_set_errno(err, "%s", lock);
    }
    if (unlink(path) != 0 && errno != ENOENT)
        return vd_error_set_errno(err, "%s", path);
    return VD_OK;
}

static int zmq_failed(vd_error_t *err, const char *what, const char *path)
{
    return vd_error_set(err, VD_ERR_IO, "%s %s: %s", what, path, zmq_strerror(zmq_errno()));
}

static int attach(vd_link_socket_t *wire, const char *path, bool bind, int mode, vd_error_t *err)
{
    char endpoint[VD_LINK_PATH_MAX_BYTES + 8];
    (void)snprintf(endpoint, sizeof endpoint, "ipc://%s", path);
    if (!bind) {
        if (zmq_connect(wire->socket, endpoint) != 0)
            return zmq_failed(err, "connect", path);
        return VD_OK;
    }
    int rc = lock_path(wire, path, err);
    if (rc != VD_OK)
        return rc;
    /* Private from birth: zmq_bind makes the socket in this thread, then the mode is opened as
     * asked. */
    mode_t mask = umask(0177);
    int bound = zmq_bind(wire->socket, endpoint);
    (void)umask(mask);
    if (bound != 0)
        return zmq_failed(err, "bind", path);
    if (chmod(path, (mode_t)(mode == 0 ? 0600 : mode)))
        return vd_error_set_errno(err, "%s", path);
    return VD_OK;
}

static void set_int(void *socket, int option, int value)
{
    int rc = zmq_setsockopt(socket, option, &value, sizeof value);
    VD_ASSERT(rc == 0); /* constants of ours */
}

static int make_sockets(vd_link_socket_t *wire, const char *path, bool bind, vd_error_t *err)
{
    static atomic_uint monitors;
    void *context = context_take();
    wire->socket = zmq_socket(context, bind ? ZMQ_ROUTER : ZMQ_DEALER);
    wire->monitor = zmq_socket(context, ZMQ_PAIR);
    if (wire->socket == NULL || wire->monitor == NULL)
        return zmq_failed(err, "socket for", path);
    set_int(wire->socket, ZMQ_LINGER, 0);
    set_int(wire->monitor, ZMQ_LINGER, 0);
    set_int(wire->socket, ZMQ_SNDHWM, HIGH_WATER_FRAMES);
    set_int(wire->socket, ZMQ_RCVHWM, HIGH_WATER_FRAMES);
    int64_t frame_max = VD_LINK_FRAME_MAX_BYTES + 64;
    int rc = zmq_setsockopt(wire->socket, ZMQ_MAXMSGSIZE, &frame_max, sizeof frame_max);
    VD_ASSERT(rc == 0);
    if (bind) {
        set_int(wire->socket, ZMQ_ROUTER_MANDATORY, 1);
    } else {
        set_int(wire->socket, ZMQ_IMMEDIATE, 1);
        set_int(wire->socket, ZMQ_RECONNECT_IVL, 10);
        set_int(wire->socket, ZMQ_RECONNECT_IVL_MAX, 100);
    }
    char endpoint[64];
    (void)snprintf(endpoint, sizeof endpoint, "inproc://vd-link-monitor-%u",
                   atomic_fetch_add(&monitors, 1));
    if (zmq_socket_monitor(wire->socket, endpoint, ZMQ_EVENT_DISCONNECTED) != 0 ||
        zmq_connect(wire->monitor, endpoint) != 0)
        return zmq_failed(err, "monitor of", path);
    /* A pipe tells its reader of news only after the reader has found it empty once. */
    char nothing;
    (void)zmq_recv(wire->monitor, &nothing, 1, ZMQ_DONTWAIT);
    return VD_OK;
}

int vd_link_socket_open(const char *path, bool bind, int mode, vd_link_socket_t *ret_wire,
                        vd_error_t *err)
{
    vd_link_socket_t wire = {.lock_fd = -1};
    int rc = check_folder(path, bind, err);
    if (rc != VD_OK)
        return rc;
    rc = make_sockets(&wire, path, bind, err);
    if (rc == VD_OK)
        rc = attach(&wire, path, bind, mode, err);
    if (rc != VD_OK) {
        vd_link_socket_close(&wire, 0);
        return rc;
    }
    *ret_wire = wire;
    return VD_OK;
}

void vd_link_socket_close(vd_link_socket_t *wire, int linger_ms)
{
    if (wire->socket != NULL) {
        set_int(wire->socket, ZMQ_LINGER, linger_ms);
        (void)zmq_socket_monitor(wire->socket, NULL, 0);
        (void)zmq_close(wire->socket);
    }
    if (wire->monitor != NULL)
        (void)zmq_close(wire->monitor);
    context_drop();
    if (wire->lock_fd >= 0)
        (void)close(wire->lock_fd); /* the file stays: removing it would race with the next owner */
}
