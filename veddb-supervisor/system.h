/* veddb-supervisor/system.h — the state of the whole node and of each worker, and the one step that
 * moves them.
 *
 * Duty:    events (a death, a message, a time that is over, an operator's wish) only note facts;
 *          system_step, once at the end of every loop turn, compares what is with what is wanted
 *          and acts: start in order of readiness, stop in reverse.
 * Owner:   main creates and destroys.
 * Threads: the loop's. */
#pragma once
#include "libcommon/runtime/config.h"
#include "libcommon/runtime/link.h"
#include "libcommon/runtime/loop.h"
#include "veddb-supervisor/child.h"
#include "veddb-supervisor/kinds.h"
#include "veddb-supervisor/policy.h"
#include "veddb-supervisor/spawn.h"

typedef enum {
    SUP_PHASE_STARTING,
    SUP_PHASE_RUNNING,
    SUP_PHASE_STOPPING,
    SUP_PHASE_STOPPED
} sup_phase_t;

typedef struct sup_system sup_system_t;

typedef struct {
    sup_system_t *system;
    const sup_kind_t *kind;
    sup_child_state_t state;
    uint64_t state_since_ms;
    bool joins;   /* this node has such a worker; else it is shown nowhere and never runs */
    bool wanted;  /* shall run */
    bool leaving; /* told to go (stop, restart): its death is no failure */
    sup_history_t history;
    uint64_t wait_until_ms;
    uint64_t generation; /* of the present start; messages of others are dropped */
    uint64_t starts;
    uint64_t ready_since_ms; /* 0: not ready */
    uint64_t beat_ms;        /* when it was last heard */
    uint64_t busy_ms_max;
    pid_t pid; /* 0: none, or not ours to signal (watch mode) */
    vd_source_t *child;
    vd_source_t *files_source; /* files.h; NULL: closed */
    int files_fd;
    int last_word; /* where it notes which system call it died of; 0 = none yet */
    vd_link_t *link;
    uint64_t peer; /* on the link; 0 = not connected */
    bool structural;
    char detail[128];       /* what it said when ready */
    char last_death[256];   /* for the operator */
    vd_buf_t status;        /* its part of the status, JSON */
    char status_error[256]; /* why there is none */
    bool status_pending;
    /* What it asked us to keep for its next start; it is nobody's but the worker's. */
    bool has_kept;
    uint64_t kept_format;
    vd_buf_t kept;
} sup_worker_t;

struct sup_system {
    vd_loop_t *loop;
    const vd_config_t *config;
    bool watch; /* workers run in their own containers */
    bool users;
    sup_phase_t phase;
    const char *reason; /* of stopping */
    int exit_code;
    uint64_t started_ms;
    uint64_t generation_next;
    sup_worker_t workers[SUP_KIND_COUNT];
    sup_listener_t listeners[SUP_LISTENERS_MAX];
    size_t listener_count;
    vd_source_t *timer, *step;
    struct sup_ops *ops;
    struct sup_kek *kek; /* kek.h; NULL: no command runs */
    struct {
        uint64_t heartbeat_ms, hang_ms, start_ms, stop_ms;
    } times;
};

VD_MUST_CHECK int sup_system_create(vd_loop_t *loop, const vd_config_t *config,
                                    sup_system_t **ret_system, vd_error_t *err);
void sup_system_destroy(sup_system_t **system_p);

/* Wishes. */
void sup_system_stop(sup_system_t *system, const char *reason, int exit_code);
void sup_worker_restart(sup_worker_t *worker);
void sup_worker_drain(sup_worker_t *worker); /* finish what is in flight, then stop and stay down */

/* Facts, from control.c. */
void sup_worker_event(sup_worker_t *worker, sup_event_t event);
void sup_worker_died(sup_worker_t *worker, const char *how, bool structural);
const char *sup_phase_name(sup_phase_t phase);
