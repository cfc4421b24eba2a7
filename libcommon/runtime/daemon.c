/* libcommon/runtime/daemon.c — see daemon.h.
 *
 * States:  starting -> running (vd_daemon_ready) -> draining (DRAIN, STOP or SIGTERM) -> ended. A
 *          drain that was asked for by itself ends in "drained" and waits for STOP; one that is
 *          part of a stop ends the loop. */
#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/paths.h"
#include "libcommon/runtime/confine.h"
#include "libcommon/runtime/daemon_private.h"
#include "libcommon/runtime/files.h"
#include "libcommon/runtime/sandbox.h"
#include "libcommon/runtime/secret_heap.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_BLOB_MAX   (256 * 1024)
#define LAST_WORD_WAIT_MS 500
#define WATCHDOG_MS       100

/* Folders that the supervisor passes as descriptors. */
static const struct {
    const char *option, *name;
} passed_folders[] = {
    {"node.folder", "FOLDER"},
    {"node.run_folder", "RUN"},
    {"audit.second_place", "SECOND"},
    {"backup.folder", "BACKUPS"},
};
_Static_assert(VD_COUNT_OF(passed_folders) == VD_DAEMON_FOLDERS, "each has its path");

const char *vd_daemon_phase_name(const vd_daemon_t *daemon)
{
    static const char *const names[] = {"starting", "running", "draining", "drained"};
    return names[daemon->phase];
}

/* ---- is everybody alive? ---- */

static void pause_ms(long ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000 * 1000};
    (void)nanosleep(&pause, NULL);
}

/* The name of a slot that is busy for longer than the hang time, or NULL. */
static const char *hung_slot(vd_daemon_t *daemon)
{
    uint64_t now = vd_monotonic_us();
    unsigned count = atomic_load(&daemon->slot_count);
    for (unsigned i = 0; i < count; i++) {
        uint64_t since = atomic_load(&daemon->slots[i].busy_since_us);
        if (since != 0 && vd_elapsed(since, now) > daemon->hang_ms * 1000)
            return daemon->slots[i].name;
    }
    return NULL;
}

static uint64_t take_busy_max_ms(vd_daemon_t *daemon)
{
    uint64_t longest_us = vd_loop_take_longest_turn_ms(daemon->loop) * 1000;
    uint64_t now = vd_monotonic_us();
    unsigned count = atomic_load(&daemon->slot_count);
    for (unsigned i = 0; i < count; i++) {
        if (&daemon->slots[i] == daemon->main_slot)
            continue; /* stamped once in a heartbeat; the loop's turns count */
        uint64_t slot_us = atomic_exchange(&daemon->slots[i].longest_us, 0);
        uint64_t since = atomic_load(&daemon->slots[i].busy_since_us);
        if (since != 0 && vd_elapsed(since, now) > slot_us)
            slot_us = vd_elapsed(since, now);
        if (slot_us > longest_us)
            longest_us = slot_us;
    }
    return longest_us / 1000;
}

/* Once: it goes on, but an operator should know. */
static void tell_unlocked(vd_daemon_t *daemon)
{
    vd_secret_heap_stats_t stats;
    vd_secret_heap_stats(&stats);
    if (stats.unlocked_bytes == 0 || daemon->unlocked_told)
        return;
    daemon->unlocked_told = true;
    vd_log(VD_LOG_WARN,
           "MEMORY FOR KEYS IS NOT LOCKED and may reach swap: raise RLIMIT_MEMLOCK (LimitMEMLOCK=, "
           "--ulimit memlock)",
           "unlocked_bytes=%llu of_bytes=%llu", (unsigned long long)stats.unlocked_bytes,
           (unsigned long long)stats.held_bytes);
}

static void heartbeat(void *context)
{
    vd_daemon_t *daemon = context;
    tell_unlocked(daemon);
    if (daemon->main_slot != NULL) {
        vd_daemon_beat(daemon->main_slot, false);
        vd_daemon_beat(daemon->main_slot, true);
    }
    if (daemon->link == NULL)
        return;
    const char *hung = hung_slot(daemon);
    if (hung != NULL) {
        vd_log(VD_LOG_ERROR, "no heartbeat: a thread hangs", "thread=%s", hung);
        return; /* the supervisor will draw its conclusion */
    }
    vdp_control_heartbeat_t beat = {.sequence = ++daemon->heartbeat_sequence,
                                    .state = vd_slice_str(vd_daemon_phase_name(daemon)),
                                    .busy_ms_max = take_busy_max_ms(daemon)};
    vd_daemon_control_send(daemon, &vdp_control_heartbeat, &beat, 0, VD_SLICE_NULL);
}

/* Without a parent there is nobody to kill us: a thread of our own watches the slots, the main
 * loop's among them. When it slept for too long itself the whole process was stopped, and the
 * others get time to go on. */
static void *watchdog_run(void *context)
{
    vd_daemon_t *daemon = context;
    uint64_t woken_ms = vd_monotonic_ms(), patient_until_ms = 0;
    while (!atomic_load(&daemon->ended)) {
        pause_ms(WATCHDOG_MS);
        uint64_t now = vd_monotonic_ms();
        if (now - woken_ms > 10 * WATCHDOG_MS)
            patient_until_ms = now + daemon->hang_ms;
        woken_ms = now;
        const char *hung = hung_slot(daemon);
        if (hung == NULL || now < patient_until_ms)
            continue;
        vd_log(VD_LOG_FATAL, "a thread hangs: the process ends", "thread=%s", hung);
        _exit(VD_EXIT_FAILURE);
    }
    return NULL;
}

vd_daemon_slot_t *vd_daemon_slot(vd_daemon_t *daemon, const char *name)
{
    VD_ASSERT(daemon != NULL && name != NULL);

    (void)pthread_mutex_lock(&daemon->slots_mutex);
    unsigned index = atomic_load(&daemon->slot_count);
    VD_ASSERT(index < VD_DAEMON_SLOTS_MAX);
    vd_daemon_slot_t *slot = &daemon->slots[index];
    (void)snprintf(slot->name, sizeof slot->name, "%s", name);
    atomic_store(&daemon->slot_count, index + 1);
    (void)pthread_mutex_unlock(&daemon->slots_mutex);
    return slot;
}

void vd_daemon_beat(vd_daemon_slot_t *slot, bool busy)
{
    VD_ASSERT(slot != NULL);

    uint64_t now = vd_monotonic_us();
    uint64_t since =
        atomic_exchange_explicit(&slot->busy_since_us, busy ? now : 0, memory_order_relaxed);
    if (since != 0 &&
        vd_elapsed(since, now) > atomic_load_explicit(&slot->longest_us, memory_order_relaxed))
        atomic_store_explicit(&slot->longest_us, now - since, memory_order_relaxed);
}

/* ---- drain and stop ---- */

static void grace_over(void *context)
{
    vd_daemon_t *daemon = context;
    if (daemon->stopping) {
        vd_log(VD_LOG_WARN, "grace is over with work in flight", "state=%s",
               vd_daemon_phase_name(daemon));
        vd_loop_stop(daemon->loop);
        return;
    }
    vd_log(VD_LOG_WARN, "not drained in the time given", "state=%s", vd_daemon_phase_name(daemon));
}

void vd_daemon_begin_drain(vd_daemon_t *daemon, uint64_t grace_ms)
{
    if (grace_ms > 0)
        vd_loop_set_timer(daemon->grace_source, grace_ms, 0);
    if (daemon->phase >= VD_PHASE_DRAINING)
        return;
    daemon->phase = VD_PHASE_DRAINING;
    if (daemon->program->drain != NULL && daemon->begun)
        daemon->program->drain(daemon, daemon->state);
    else
        vd_daemon_drained(daemon);
}

void vd_daemon_begin_stop(vd_daemon_t *daemon, uint64_t grace_ms, const char *why)
{
    if (daemon->stopping) {
        vd_loop_stop(daemon->loop); /* asked twice */
        return;
    }
    vd_log(VD_LOG_INFO, "stopping", "reason=%s", why);
    daemon->stopping = true;
    if (daemon->phase == VD_PHASE_DRAINED) {
        vd_loop_stop(daemon->loop);
        return;
    }
    /* A little is kept back for stop() itself. */
    vd_daemon_begin_drain(daemon, grace_ms > 4 ? grace_ms - grace_ms / 4 : grace_ms + 1);
}

static void on_signal(void *context, int signal_number)
{
    vd_daemon_t *daemon = context;
    vd_daemon_begin_stop(daemon,
                         (uint64_t)vd_config_number(daemon->config, "supervisor.stop_grace"),
                         signal_number == SIGTERM ? "SIGTERM" : "SIGINT");
}

static void on_drained(void *context)
{
    vd_daemon_t *daemon = context;
    if (daemon->phase != VD_PHASE_DRAINING)
        return;
    daemon->phase = VD_PHASE_DRAINED;
    vd_log(VD_LOG_INFO, "drained", "stopping=%d", daemon->stopping);
    vd_daemon_control_drained(daemon);
    if (daemon->stopping)
        vd_loop_stop(daemon->loop);
}

void vd_daemon_drained(vd_daemon_t *daemon)
{
    vd_loop_post(daemon->loop, on_drained, daemon);
}

typedef struct {
    vd_daemon_t *daemon;
    char detail[256];
} ready_note_t;

static void on_ready(void *context)
{
    ready_note_t *note = context;
    vd_daemon_t *daemon = note->daemon;
    memcpy(daemon->ready_detail, note->detail, sizeof note->detail);
    vd_free(note);
    if (daemon->phase != VD_PHASE_STARTING)
        return;
    daemon->phase = VD_PHASE_RUNNING;
    char quoted[600];
    vd_log(VD_LOG_INFO, "ready", "detail=%s",
           vd_log_quote(vd_slice_str(daemon->ready_detail), quoted, sizeof quoted));
    vd_daemon_control_ready(daemon);
}

void vd_daemon_ready(vd_daemon_t *daemon, const char *detail)
{
    ready_note_t *note = vd_xalloc(sizeof *note);
    note->daemon = daemon;
    (void)snprintf(note->detail, sizeof note->detail, "%s", detail == NULL ? "" : detail);
    vd_loop_post(daemon->loop, on_ready, note);
}

bool vd_daemon_pause(vd_daemon_t *daemon, uint64_t ms)
{
    uint64_t now = vd_monotonic_ms(), until = now + ms;
    for (; !daemon->stopping && now < until; now = vd_monotonic_ms())
        if (vd_loop_turn(daemon->loop, (int)(until - now), NULL) != VD_OK)
            break;
    return !daemon->stopping;
}

/* ---- last words ---- */

static void send_fatal(vd_daemon_t *daemon, bool structural, const char *message)
{
    vdp_control_fatal_t fatal = {.structural = structural, .message = vd_slice_str(message)};
    vd_daemon_control_send(daemon, &vdp_control_fatal, &fatal, 0, VD_SLICE_NULL);
    if (daemon->link == NULL)
        return;
    vd_link_flush(daemon->link);
    pause_ms(50); /* ZeroMQ's own thread does the writing */
}

typedef struct {
    vd_daemon_t *daemon;
    bool structural;
    int code;
    char message[VD_ERROR_MESSAGE_SIZE + 64];
} fatal_note_t;

static void on_fatal(void *context)
{
    fatal_note_t *note = context;
    send_fatal(note->daemon, note->structural, note->message);
    _exit(note->code);
}

static _Noreturn void end(vd_daemon_t *daemon, bool structural, int code, const vd_error_t *err)
{
    static atomic_flag once = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set(&once))
        for (;;)
            pause_ms(1000); /* another thread is at it */
    static fatal_note_t note;
    char quoted[sizeof note.message * 2];
    note.daemon = daemon;
    note.structural = structural;
    note.code = code;
    (void)vd_error_print(err, note.message, sizeof note.message);
    vd_log(VD_LOG_FATAL, "the process ends", "structural=%d error=%s", structural,
           vd_log_quote(vd_slice_str(note.message), quoted, sizeof quoted));
    if (pthread_equal(pthread_self(), daemon->main_thread))
        on_fatal(&note);
    vd_loop_post(daemon->loop, on_fatal, &note);
    pause_ms(1000);
    _exit(code);
}

void vd_daemon_fatal(vd_daemon_t *daemon, bool structural, const vd_error_t *err)
{
    VD_ASSERT(daemon != NULL && err != NULL);

    end(daemon, structural, structural ? VD_EXIT_STRUCTURAL : VD_EXIT_FAILURE, err);
}

void vd_daemon_cut_off(vd_daemon_t *daemon)
{
    VD_ASSERT(daemon != NULL);

    vd_error_t err = VD_ERROR_INIT;
    (void)vd_error_set(&err, VD_ERR_PROTOCOL,
                       "cut off by another program, for a message that its link does not carry");
    end(daemon, false, VD_EXIT_PROTOCOL, &err);
}

/* ---- the life ---- */

static int64_t environment_number(const char *name, int64_t absent)
{
    const char *text = getenv(name);
    if (text == NULL || !isdigit((unsigned char)text[0]))
        return absent;
    return strtoll(text, NULL, 10);
}

static int read_config_blob(int fd, vd_config_t **ret_config, vd_error_t *err)
{
    vd_buf_t blob;
    int rc = VD_OK;
    vd_buf_init(&blob, CONFIG_BLOB_MAX);
    for (;;) {
        uint8_t *space = NULL;
        rc = vd_buf_reserve(&blob, 4096, &space);
        if (rc != VD_OK) {
            rc = vd_error_set(err, VD_ERR_CONFIG, "the configuration handed over is too large");
            break;
        }
        ssize_t len = read(fd, space, 4096);
        if (len < 0 && errno == EINTR)
            continue;
        if (len < 0)
            rc = vd_error_set_errno(err, "configuration from the supervisor");
        if (len <= 0)
            break;
        vd_buf_commit(&blob, (size_t)len);
    }
    (void)close(fd);
    if (rc == VD_OK)
        rc = vd_config_unpack(vd_buf_slice(&blob), ret_config, err);
    vd_wipe(blob.data, blob.cap);
    vd_buf_done(&blob);
    return rc;
}

static int print_usage(const vd_program_t *program)
{
    vd_buf_t text;
    vd_config_t *config = NULL, *part = NULL;
    vd_error_t err = VD_ERROR_INIT;
    (void)printf("%s — %s\n\nusage: %s [--config FILE] [--name=value ...]\n"
                 "       %s --help | --version\n\noptions, as in the configuration file:\n\n",
                 program->program, program->summary, program->program, program->program);
    vd_buf_init(&text, 1024 * 1024);
    (void)clearenv(); /* the defaults are shown */
    int rc = vd_config_load(NULL, NULL, 0, &config, &err);
    if (rc == VD_OK)
        rc = vd_config_pack(config, program->letter, &text, &err);
    if (rc == VD_OK)
        rc = vd_config_unpack(vd_buf_slice(&text), &part, &err);
    vd_buf_clear(&text);
    if (rc == VD_OK)
        rc = vd_config_print(part, &text, true, &err);
    if (rc == VD_OK)
        (void)fwrite(text.data + text.start, 1, vd_buf_len(&text), stdout);
    vd_config_destroy(&config);
    vd_config_destroy(&part);
    vd_buf_done(&text);
    return rc == VD_OK ? VD_EXIT_OK : VD_EXIT_FAILURE;
}

/* Returns true when the process has nothing more to do: *ret_code says how it ends. */
static bool parse_arguments(const vd_program_t *program, int argc, char **argv,
                            const char **ret_file, char **flags, int *ret_flag_count, int *ret_code)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            *ret_code = print_usage(program);
            return true;
        }
        if (strcmp(argv[i], "--version") == 0) {
            (void)printf("%s %s\n", program->program, VEDDB_VERSION);
            *ret_code = VD_EXIT_OK;
            return true;
        }
        if (strncmp(argv[i], "--config=", 9) == 0) {
            *ret_file = argv[i] + 9;
        } else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) {
            *ret_file = argv[++i];
        } else if (strncmp(argv[i], "--", 2) != 0) {
            (void)fprintf(stderr, "%s: argument %s is not understood; see --help\n",
                          program->program, argv[i]);
            *ret_code = VD_EXIT_USAGE;
            return true;
        } else {
            flags[count++] = argv[i];
        }
    }
    *ret_flag_count = count;
    return false;
}

static int load_config(vd_daemon_t *daemon, const char *file, char **flags, int flag_count,
                       vd_error_t *err)
{
    int64_t fd = environment_number("VEDDB_CONFIG_FD", -1);
    int rc = fd >= 0 ? read_config_blob((int)fd, &daemon->config, err)
                     : vd_config_load(file, flags, flag_count, &daemon->config, err);
    if (rc != VD_OK)
        return rc;
    vd_log_level_t level = VD_LOG_INFO;
    bool json = strcmp(vd_config_string(daemon->config, "log.format"), "json") == 0;
    rc = vd_log_level_parse(vd_slice_str(vd_config_string(daemon->config, "log.level")), &level);
    VD_ASSERT(rc == VD_OK); /* a checked choice */
    vd_log_setup(daemon->program->program, level, json ? VD_LOG_JSON : VD_LOG_LOGFMT);
    vd_log_set_generation(daemon->generation);
    daemon->hang_ms = (uint64_t)vd_config_number(daemon->config, "supervisor.hang_timeout");
    const char *points = vd_config_string(daemon->config, "test.fault_points");
    if (points[0] != '\0' && vd_config_bool(daemon->config, "test.faults"))
        rc = vd_fault_arm(points, err);
    return rc;
}

static int add_sources(vd_daemon_t *daemon, vd_error_t *err)
{
    uint64_t beat_ms = (uint64_t)vd_config_number(daemon->config, "supervisor.heartbeat");
    int rc =
        vd_loop_add_signal(daemon->loop, SIGTERM, on_signal, daemon, &daemon->term_source, err);
    if (rc == VD_OK)
        rc = vd_loop_add_signal(daemon->loop, SIGINT, on_signal, daemon, &daemon->int_source, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(daemon->loop, beat_ms, beat_ms, heartbeat, daemon,
                               &daemon->heartbeat_source, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(daemon->loop, UINT32_MAX, 0, grace_over, daemon,
                               &daemon->grace_source, err);
    return rc;
}

static int start_watchdog(vd_daemon_t *daemon, vd_error_t *err)
{
    if (daemon->main_slot == NULL)
        return VD_OK;
    int rc = pthread_create(&daemon->watchdog, NULL, watchdog_run, daemon);
    if (rc != 0)
        return vd_error_set(err, VD_ERR_FULL, "watchdog thread: %s", strerror(rc));
    daemon->has_watchdog = true;
    return VD_OK;
}

/* A worker needs many descriptors; what the system lets us have is taken. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit); /* the lower one serves too */
}

/* A thread that is woken waits for its turn instead of taking the core from the one that woke it,
 * so that a loop finds a batch where it would find one item (docs/decisions/0005). Where a core is
 * free nothing changes. Threads made later inherit it. */
static void wake_politely(void)
{
    struct sched_param none = {0};
    (void)sched_setscheduler(0, SCHED_BATCH, &none); /* refused: it is a wish */
}

/* Root serves nobody, unless somebody says so loudly. */
static int choose_user(vd_daemon_t *daemon, vd_error_t *err)
{
    const vd_config_t *config = daemon->config;
    const char *program = daemon->program->program;
    bool users = vd_config_bool(config, "node.users"),
         allow_root = vd_config_bool(config, "node.allow_root");
    const struct passwd *own = getpwnam(program);
    if (geteuid() != 0) {
        daemon->users = own != NULL && own->pw_uid == geteuid();
        return VD_OK;
    }
    daemon->users = users && !allow_root;
    if (allow_root)
        vd_log(VD_LOG_WARN,
               "node.allow_root: THIS PROGRAM RUNS AS ROOT; who takes it over has the machine",
               "program=%s", program);
    else if (!users)
        return vd_error_set(err, VD_ERR_CONFIG,
                            "%s is not run as root: node.users is off, and node.allow_root too",
                            program);
    else if (own == NULL)
        return vd_error_set(err, VD_ERR_CONFIG,
                            "%s is not run as root, and there is no user %s: systemd-sysusers "
                            "makes it from deploy/sysusers.d/veddb.conf",
                            program, program);
    return VD_OK;
}

/* The process's own name for it, and the one that people read. The names outlive the daemon: its
 * last log line may have one. */
static void tell_as(vd_daemon_t *daemon, size_t i, int fd)
{
    (void)snprintf(daemon->passed[i], sizeof daemon->passed[i], "/proc/self/fd/%d", fd);
    vd_paths_told(vd_xstrdup(daemon->passed[i]),
                  vd_xstrdup(vd_config_string(daemon->config, passed_folders[i].option)));
}

static void take_folders(vd_daemon_t *daemon)
{
    for (size_t i = 0; i < VD_COUNT_OF(passed_folders); i++) {
        int fd = vd_daemon_passed_fd(daemon, passed_folders[i].name);
        if (fd < 0)
            continue;
        if (access(vd_config_string(daemon->config, passed_folders[i].option), X_OK) == 0)
            (void)close(fd); /* not needed */
        else
            tell_as(daemon, i, fd);
    }
}

static int bring_up(vd_daemon_t *daemon, vd_error_t *err)
{
    const vd_program_t *program = daemon->program;
    int rc = choose_user(daemon, err);
    if (rc != VD_OK)
        return rc;
    take_folders(daemon);
    vd_files_setup(vd_daemon_passed_fd(daemon, "FILES"));
    rc = vd_loop_create(&daemon->loop, err);
    if (rc == VD_OK)
        rc = add_sources(daemon, err);
    if (rc == VD_OK && program->prepare != NULL)
        rc = program->prepare(daemon, &daemon->state, err);
    if (rc == VD_OK && daemon->users && geteuid() == 0)
        rc = vd_sandbox_user(program->program, err);
    if (rc == VD_OK) /* again: a change of user clears it */
        rc = vd_sandbox_basic(daemon->parent_pid, err);
    if (rc == VD_OK)
        rc = vd_confine_view(daemon, program, err);
    if (rc == VD_OK && daemon->parent_pid == 0)
        daemon->main_slot = vd_daemon_slot(daemon, "main");
    if (rc == VD_OK)
        rc = vd_daemon_control_open(daemon, err);
    if (rc != VD_OK || daemon->stopping)
        return rc;
    if (program->start != NULL)
        rc = program->start(daemon, daemon->state, err);
    if (daemon->stopping)
        return VD_OK;
    daemon->begun = rc == VD_OK;
    if (rc == VD_OK)
        rc = start_watchdog(daemon, err);
    if (rc == VD_OK)
        rc = vd_confine_calls(daemon, program, err);
    return rc;
}

static bool is_structural(int code)
{
    switch (code) {
    case VD_ERR_CONFIG:
    case VD_ERR_CORRUPT:
    case VD_ERR_KEY_MISSING:
    case VD_ERR_KEY_WRONG:
    case VD_ERR_KEY_DESTROYED:
    case VD_ERR_KEYRING_OLD:
    case VD_ERR_NOT_ENCRYPTED:
    case VD_ERR_UNSUPPORTED_FORMAT:
        return true;
    default:
        return false;
    }
}

static int report_failure(vd_daemon_t *daemon, const vd_error_t *err)
{
    char message[VD_ERROR_MESSAGE_SIZE + 64], quoted[sizeof message * 2];
    bool structural = is_structural(err->code);
    (void)vd_error_print(err, message, sizeof message);
    vd_log(VD_LOG_FATAL, "the process ends", "structural=%d error=%s", structural,
           vd_log_quote(vd_slice_str(message), quoted, sizeof quoted));
    if (daemon->link != NULL && vd_daemon_control_wait(daemon, LAST_WORD_WAIT_MS, NULL) == VD_OK)
        send_fatal(daemon, structural, message);
    return structural ? VD_EXIT_STRUCTURAL : VD_EXIT_FAILURE;
}

static void bring_down(vd_daemon_t *daemon)
{
    if (daemon->main_slot != NULL)
        vd_daemon_beat(daemon->main_slot, false); /* the loop has ended; this takes its time */
    if (daemon->state != NULL && daemon->program->stop != NULL)
        daemon->program->stop(daemon, daemon->state);
    atomic_store(&daemon->ended, true);
    if (daemon->has_watchdog)
        (void)pthread_join(daemon->watchdog, NULL);
    vd_link_close(&daemon->link);
    if (daemon->loop != NULL) {
        vd_loop_remove(&daemon->heartbeat_source);
        vd_loop_remove(&daemon->grace_source);
        vd_loop_remove(&daemon->term_source);
        vd_loop_remove(&daemon->int_source);
    }
    vd_loop_destroy(&daemon->loop);
    vd_config_destroy(&daemon->config);
    vd_buf_done(&daemon->kept);
    (void)pthread_mutex_destroy(&daemon->slots_mutex);
}

static void set_signals(void)
{
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL); /* whoever started us may have blocked some */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
}

int vd_daemon_main(const vd_program_t *program, int argc, char **argv)
{
    VD_ASSERT(program != NULL && program->program != NULL);

    const char *file = NULL;
    int flag_count = 0, code = VD_EXIT_OK;
    char **flags = vd_xalloc(sizeof *flags * (size_t)(argc + 1));
    if (parse_arguments(program, argc, argv, &file, flags, &flag_count, &code)) {
        vd_free(flags);
        return code;
    }
    (void)prctl(PR_SET_NAME, program->program); /* run by descriptor, it would be a number */
    set_signals();
    raise_descriptor_limit();
    wake_politely();
    (void)umask(0077);

    vd_error_t err = VD_ERROR_INIT;
    vd_daemon_t *daemon = vd_xalloc(sizeof *daemon);
    int rc = program->openssl_memory == VD_OPENSSL_NONE
                 ? VD_OK
                 : vd_secret_heap_start(program->openssl_memory == VD_OPENSSL_ALL, &err);
    daemon->program = program;
    daemon->main_thread = pthread_self();
    daemon->generation = (uint64_t)environment_number("VEDDB_GENERATION", 0);
    daemon->parent_pid = environment_number("VEDDB_PARENT_PID", 0);
    (void)pthread_mutex_init(&daemon->slots_mutex, NULL);
    vd_buf_init(&daemon->kept, VD_KEPT_MAX_BYTES);
    vd_log_setup(program->program, VD_LOG_INFO, VD_LOG_LOGFMT);

    tell_unlocked(daemon);
    if (rc == VD_OK)
        rc = load_config(daemon, file, flags, flag_count, &err);
    if (rc == VD_OK)
        rc = vd_sandbox_basic(daemon->parent_pid, &err);
    if (rc == VD_OK)
        rc = bring_up(daemon, &err);
    if (rc == VD_OK)
        rc = vd_loop_run(daemon->loop, &err);
    if (rc != VD_OK)
        code = report_failure(daemon, &err);
    else
        vd_log(VD_LOG_INFO, "stopped", "state=%s", vd_daemon_phase_name(daemon));
    bring_down(daemon);
    vd_free(daemon);
    vd_free(flags);
    return code;
}

/* ---- for the program ---- */

vd_loop_t *vd_daemon_loop(vd_daemon_t *daemon)
{
    return daemon->loop;
}

const vd_config_t *vd_daemon_config(const vd_daemon_t *daemon)
{
    return daemon->config;
}

int vd_daemon_passed_fd(const vd_daemon_t *daemon, const char *name)
{
    VD_ASSERT(daemon != NULL && name != NULL);

    char variable[64];
    int len = snprintf(variable, sizeof variable, "VEDDB_FD_%s", name);
    VD_ASSERT(len > 0 && (size_t)len < sizeof variable);
    for (int i = 0; i < len; i++)
        variable[i] = (char)toupper((unsigned char)variable[i]);
    int fd = (int)environment_number(variable, -1);
    if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return -1;
    return fd;
}

int64_t vd_daemon_uid_of(const vd_daemon_t *daemon, const char *program)
{
    const struct passwd *user = daemon->users ? getpwnam(program) : NULL;
    return user == NULL ? -1 : (int64_t)user->pw_uid;
}

const char *vd_daemon_folder(const vd_daemon_t *daemon, const char *option)
{
    for (size_t i = 0; i < VD_COUNT_OF(passed_folders); i++)
        if (strcmp(option, passed_folders[i].option) == 0 && daemon->passed[i][0] != '\0')
            return daemon->passed[i];
    return vd_config_string(daemon->config, option);
}

int vd_daemon_make_folder(const vd_daemon_t *daemon, const char *path, vd_error_t *err)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return vd_error_set_errno(err, "can't make folder %s", path);
    if (geteuid() != 0 || !daemon->users)
        return VD_OK;
    const struct passwd *user = getpwnam(daemon->program->program);
    if (user == NULL || chown(path, user->pw_uid, user->pw_gid) != 0)
        return vd_error_set_errno(err, "can't give folder %s to its user", path);
    return VD_OK;
}

const char *vd_daemon_socket_path(const vd_daemon_t *daemon, const char *pair, const char *name,
                                  char *buf, size_t size)
{
    VD_ASSERT(daemon != NULL && pair != NULL && name != NULL && buf != NULL);

    int len =
        snprintf(buf, size, "%s/%s/%s", vd_daemon_folder(daemon, "node.run_folder"), pair, name);
    VD_ASSERT(len > 0 && (size_t)len < size);
    return buf;
}
