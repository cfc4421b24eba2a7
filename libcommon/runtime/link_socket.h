/* libcommon/runtime/link_socket.h — the ZeroMQ sockets of a link: opened privately, closed in
 * order.
 *
 * Duty:    the process's one ZeroMQ context; a ROUTER or DEALER with its monitor, bound under a
 *          lock file or connected. Frames are link.c's.
 * Threads: those of a link: its own. */
#pragma once
#include "libcommon/base/error.h"

#define VD_LINK_PATH_MAX_BYTES 100 /* what a unix socket's address takes, with an end */

typedef struct {
    void *socket, *monitor;
    int lock_fd;
} vd_link_socket_t;

/* Fails where the folder is open to other users, or another process serves the path. */
VD_MUST_CHECK int vd_link_socket_open(const char *path, bool bind, int mode,
                                      vd_link_socket_t *ret_wire, vd_error_t *err);
/* Waits at most linger_ms for what the socket still holds. */
void vd_link_socket_close(vd_link_socket_t *wire, int linger_ms);
