/* veddb-supervisor/spawn.h — fork, exec, descriptors, listeners. Mechanism only, no
 * decisions. */
#pragma once
#include "libcommon/runtime/config.h"
#include "veddb-supervisor/kinds.h"

#include <sys/types.h>

typedef struct {
    const sup_listening_t *what;
    int fd;
    uint16_t port;
} sup_listener_t;

/* Opens a listening TCP socket (port 0: a free one; the port in use comes back). The address is an
 * IPv4 or IPv6 literal or "localhost". */
VD_MUST_CHECK int sup_listen(const sup_listening_t *what, const vd_config_t *config,
                             sup_listener_t *ret_listener, vd_error_t *err);

typedef struct {
    const sup_kind_t *kind;
    const vd_config_t *config;
    const char *control_path; /* control link of this kind */
    uint64_t generation;
    bool users;
    int files;                       /* the child's end of files.h */
    int last_word;                   /* libcommon/runtime/sandbox.h */
    const sup_listener_t *listeners; /* of all kinds: the child gets its own */
    size_t listener_count;
} sup_spawn_t;

/* Starts the program that stands beside our own. The child holds: 0-2, its configuration (a sealed
 * memory file), its listeners, and what VEDDB_FD_* name. */
VD_MUST_CHECK int sup_spawn(const sup_spawn_t *spawn, pid_t *ret_pid, vd_error_t *err);
