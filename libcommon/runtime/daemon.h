/* libcommon/runtime/daemon.h — the skeleton main of every worker.
 *
 * Duty:    options and configuration (a blob from the supervisor on descriptor VEDDB_CONFIG_FD,
 *          or the file when alone), logging, signals, sandbox, PDEATHSIG, control link (hello,
 *          ready, heartbeat, status, log level, drain, stop), exit codes. Alone (no
 *          VEDDB_CONTROL_SOCKET): no control link. Not started by the supervisor (no
 *          VEDDB_PARENT_PID): its own watchdog.
 * Order:   load config -> program->prepare (open what needs privileges; no threads yet) -> user
 *          change, no-new-privs, limits, view of the file system -> program->start (threads,
 *          links) -> seccomp -> run the main loop -> drain -> stop. Under a supervisor it has its
 *          user from birth. The program calls vd_daemon_ready() when it can serve.
 * Threads: the main loop belongs to the main thread; vd_daemon_ready, _fatal and _beat may be
 *          called from any. */
#pragma once
#include "libcommon/runtime/config.h"
#include "libcommon/runtime/loop.h"

/* One program's part of the status: those of all fit into one packet to an operator. */
#define VD_STATUS_MAX_BYTES (40 * 1024)

/* Of vd_daemon_keep. */
#define VD_KEPT_MAX_BYTES (512 * 1024)

typedef struct vd_daemon vd_daemon_t;

/* Exit codes (sysexits where one fits). */
enum {
    VD_EXIT_OK = 0,
    VD_EXIT_FAILURE = 1,
    VD_EXIT_USAGE = 64,
    VD_EXIT_PROTOCOL = 76,    /* cut off by another program (link.h); started again */
    VD_EXIT_STRUCTURAL = 125, /* an operator must act: don't restart */
};

/* What of OpenSSL's memory is locked, in no dump and cleared when freed (secret_heap.h). */
typedef enum {
    VD_OPENSSL_NONE,
    VD_OPENSSL_KEYS, /* what is allocated between vd_secret_heap_enter and _leave */
    VD_OPENSSL_ALL,
} vd_openssl_memory_t;

typedef struct {
    const char *program; /* "veddb-storaged" */
    char letter;         /* in options.def */
    const char *summary; /* for --help */
    bool network;        /* seccomp: may use inet sockets (gatewayd, replicad) */
    vd_openssl_memory_t openssl_memory;
    /* All return VD_OK or an error that ends the process: VD_ERR_CONFIG, VD_ERR_CORRUPT,
     * VD_ERR_KEY_* are structural (exit 125). state_p is the program's. */
    int (*prepare)(vd_daemon_t *daemon, void **state_p, vd_error_t *err);
    int (*start)(vd_daemon_t *daemon, void *state, vd_error_t *err);
    /* drain, status and ask: only after start() has returned. */
    /* Begin to refuse new work; call vd_daemon_drained() when what was in flight is done. */
    void (*drain)(vd_daemon_t *daemon, void *state);
    /* Release everything; called once, after the loop has ended. */
    void (*stop)(vd_daemon_t *daemon, void *state);
    /* Appends one JSON object with the program's status, at most VD_STATUS_MAX_BYTES. */
    int (*status)(vd_daemon_t *daemon, void *state, vd_buf_t *out);
    /* What an earlier start of this worker gave to vd_daemon_keep. Before start(), where the
     * supervisor was quick enough; else later. Borrowed; check it like any input. NULL: not wanted.
     * Main thread. */
    void (*kept)(vd_daemon_t *daemon, void *state, uint64_t format, vd_slice_t bytes);
    /* An operator's question that the supervisor passed on (CONTROL_ASK); answered by
     * vd_daemon_answer with the same ticket, at once or later. NULL: refused. Main thread. */
    void (*ask)(vd_daemon_t *daemon, void *state, uint64_t ticket, vd_slice_t verb,
                vd_slice_t argument, vd_slice_t argument2);
} vd_program_t;

/* The whole life; returns the exit code. */
int vd_daemon_main(const vd_program_t *program, int argc, char **argv);

vd_loop_t *vd_daemon_loop(vd_daemon_t *daemon);
const vd_config_t *vd_daemon_config(const vd_daemon_t *daemon);
/* Descriptor that the supervisor passed under that name (VEDDB_FD_<NAME>), or -1. */
int vd_daemon_passed_fd(const vd_daemon_t *daemon, const char *name);
/* The user that a program of this node runs as; -1: the same as ours. */
int64_t vd_daemon_uid_of(const vd_daemon_t *daemon, const char *program);
/* How this process reaches a folder of the configuration (node.folder, node.run_folder,
 * audit.second_place, backup.folder), also below a folder that its user can't enter: then it is the
 * descriptor that the supervisor passed, as a path. Valid as long as the daemon. */
const char *vd_daemon_folder(const vd_daemon_t *daemon, const char *option);
/* Makes a folder (0700) that belongs to the user as whom we run or will run. */
VD_MUST_CHECK int vd_daemon_make_folder(const vd_daemon_t *daemon, const char *path,
                                        vd_error_t *err);
/* Path of a socket between two programs: <run_folder>/<pair>/<name>; the pair's folder is made by
 * the supervisor. */
const char *vd_daemon_socket_path(const vd_daemon_t *daemon, const char *pair, const char *name,
                                  char *buf, size_t size);
/* In start(): waits, while the main loop goes on. False: the process is to end; then it does not
 * matter what start() returns. */
bool vd_daemon_pause(vd_daemon_t *daemon, uint64_t ms);
/* Any thread. */
void vd_daemon_ready(vd_daemon_t *daemon, const char *detail);
void vd_daemon_drained(vd_daemon_t *daemon);
/* The supervisor keeps these bytes (at most VD_KEPT_MAX_BYTES, else VD_ERR_FULL) beyond the death
 * of this process, in place of those before. Alone: nobody does. Main thread. */
VD_MUST_CHECK int vd_daemon_keep(vd_daemon_t *daemon, uint64_t format, vd_slice_t bytes,
                                 vd_error_t *err);
/* Main thread only. message: for a person; json may be empty. */
void vd_daemon_answer(vd_daemon_t *daemon, uint64_t ticket, int code, const char *message,
                      vd_slice_t json);
/* Reports and ends the process (structural: no restart). Any thread; does not return. */
_Noreturn void vd_daemon_fatal(vd_daemon_t *daemon, bool structural, const vd_error_t *err);
/* Another program has cut one of our links, because of what we said on it: reports and ends the
 * process with VD_EXIT_PROTOCOL, so that it begins anew instead of waiting on a link that answers
 * nothing. Any thread; does not return. */
_Noreturn void vd_daemon_cut_off(vd_daemon_t *daemon);
/* A thread that works outside the main loop registers a slot and stamps it when it begins (true)
 * and ends (false) a piece of work; a slot busy for longer than the hang timeout stops the
 * heartbeats, so that the supervisor kills the process. */
typedef struct vd_daemon_slot vd_daemon_slot_t;
vd_daemon_slot_t *vd_daemon_slot(vd_daemon_t *daemon, const char *name);
void vd_daemon_beat(vd_daemon_slot_t *slot, bool busy);
