/* libcommon/runtime/daemon_private.h — what the two files of the daemon share: daemon.c (its life)
 * and daemon_control.c (its conversation with the supervisor).
 *
 * Owner:   vd_daemon_main makes and ends it.
 * Threads: all but the slots is the main thread's. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/link.h"
#include "proto/control.h"

#include <pthread.h>
#include <stdatomic.h>

#define VD_DAEMON_SLOTS_MAX 64
#define VD_DAEMON_FOLDERS   4 /* that the supervisor passes as descriptors */

struct vd_daemon_slot {
    char name[32];
    _Atomic uint64_t busy_since_us; /* 0 = idle */
    _Atomic uint64_t longest_us;
};

typedef enum {
    VD_PHASE_STARTING,
    VD_PHASE_RUNNING,
    VD_PHASE_DRAINING,
    VD_PHASE_DRAINED
} vd_daemon_phase_t;

struct vd_daemon {
    const vd_program_t *program;
    /* Each process of this node has a user of its own: we are ours, or are root and will be. */
    bool users;
    char passed[VD_DAEMON_FOLDERS][32]; /* as paths; empty: by its own */
    void *state;                        /* the program's */
    vd_config_t *config;
    vd_loop_t *loop;
    vd_link_t *link; /* NULL when alone */
    pthread_t main_thread;
    uint64_t generation;
    int64_t parent_pid;
    vd_daemon_phase_t phase;
    bool begun; /* start() has returned: only then the program can be asked, or drained */
    bool stopping;
    char ready_detail[256];
    bool welcomed;
    bool has_kept; /* said here: newer than what the supervisor has */
    uint64_t kept_format;
    vd_buf_t kept;
    uint64_t drain_request_id, heartbeat_sequence, hang_ms;
    int exit_code;
    vd_source_t *heartbeat_source, *grace_source, *term_source, *int_source;
    pthread_mutex_t slots_mutex;
    vd_daemon_slot_t slots[VD_DAEMON_SLOTS_MAX];
    atomic_uint slot_count;
    bool unlocked_told;          /* that some memory for keys is not locked */
    vd_daemon_slot_t *main_slot; /* with a watchdog: stamped by the main loop for it */
    pthread_t watchdog;
    bool has_watchdog;
    atomic_bool ended;
};

/* ---- daemon.c ---- */

const char *vd_daemon_phase_name(const vd_daemon_t *daemon);
void vd_daemon_begin_drain(vd_daemon_t *daemon, uint64_t grace_ms);
void vd_daemon_begin_stop(vd_daemon_t *daemon, uint64_t grace_ms, const char *why);

/* ---- daemon_control.c ---- */

/* The link, where there is a supervisor; and a moment for it to come up. */
VD_MUST_CHECK int vd_daemon_control_open(vd_daemon_t *daemon, vd_error_t *err);
/* Gives the control link a moment to come up, so that the supervisor knows us before a long start,
 * and we what it has kept for us. */
VD_MUST_CHECK int vd_daemon_control_wait(vd_daemon_t *daemon, uint64_t wait_ms, vd_error_t *err);
/* Nothing where nobody listens; a message that can't leave is logged. */
void vd_daemon_control_send(vd_daemon_t *daemon, const vdp_message_t *message, const void *fields,
                            uint64_t request_id, vd_slice_t body);
void vd_daemon_control_ready(vd_daemon_t *daemon);
void vd_daemon_control_drained(vd_daemon_t *daemon);
