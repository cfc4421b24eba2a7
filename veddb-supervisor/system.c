/* veddb-supervisor/system.c — see system.h. */
#include "veddb-supervisor/system.h"

#include "veddb-supervisor/kek.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/sandbox.h"
#include "veddb-supervisor/control.h"
#include "veddb-supervisor/files.h"
#include "veddb-supervisor/folders.h"
#include "veddb-supervisor/ops.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NEVER_READY_PART 20 /* of supervisor.stop_grace */

/* ---- actions ---- */

static void worker_ended(void *context, pid_t pid, int how, int code)
{
    sup_worker_t *worker = context;
    char text[160], call[64] = "";
    if (how != CLD_EXITED && code == SIGSYS &&
        vd_last_word_take(worker->last_word, call, sizeof call))
        (void)snprintf(text, sizeof text, "signal %d (%s): %s", code, strsignal(code), call);
    else if (how == CLD_EXITED && code == VD_EXIT_PROTOCOL)
        (void)snprintf(text, sizeof text, "exit code %d (cut off from a link)", code);
    else if (how == CLD_EXITED)
        (void)snprintf(text, sizeof text, "exit code %d", code);
    else
        (void)snprintf(text, sizeof text, "signal %d (%s)%s", code, strsignal(code),
                       how == CLD_DUMPED ? ", core dumped" : "");
    VD_DEBUG("worker reaped", "worker=%s worker_pid=%d", worker->kind->name, (int)pid);
    vd_loop_remove(&worker->child);
    sup_files_close(worker);
    worker->pid = 0;
    sup_worker_died(worker, text, how == CLD_EXITED && code == VD_EXIT_STRUCTURAL);
}

static void worker_spawn(sup_worker_t *worker)
{
    sup_system_t *system = worker->system;
    vd_error_t err = VD_ERROR_INIT;
    worker->generation = ++system->generation_next;
    worker->starts++;
    worker->leaving = worker->structural = false;
    worker->peer = 0;
    worker->beat_ms = vd_monotonic_ms();
    if (system->watch)
        return;
    char path[128];
    int files = -1;
    int rc = sup_files_open(worker, &files, &err);
    if (rc == VD_OK && worker->last_word == 0)
        rc = vd_last_word_make(&worker->last_word, &err);
    sup_spawn_t spawn = {
        .kind = worker->kind,
        .config = system->config,
        .control_path = sup_control_path(system, worker->kind, path, sizeof path),
        .generation = worker->generation,
        .users = system->users,
        .files = files,
        .last_word = worker->last_word,
        .listeners = system->listeners,
        .listener_count = system->listener_count,
    };
    if (rc == VD_OK)
        rc = sup_spawn(&spawn, &worker->pid, &err);
    if (files >= 0)
        (void)close(files); /* the child has its own */
    if (rc == VD_OK)
        rc = vd_loop_add_child(system->loop, worker->pid, worker_ended, worker, &worker->child,
                               &err);
    if (rc != VD_OK) {
        if (worker->pid > 0)
            (void)kill(worker->pid, SIGKILL); /* can't be watched: must not live */
        worker->pid = 0;
        sup_worker_died(worker, err.message, false);
        return;
    }
    vd_log(VD_LOG_INFO, "worker started", "worker=%s worker_pid=%d generation=%llu",
           worker->kind->name, (int)worker->pid, (unsigned long long)worker->generation);
}

static void worker_send_stop(sup_worker_t *worker)
{
    if (!sup_control_stop(worker, worker->system->times.stop_ms) && worker->pid > 0)
        (void)kill(worker->pid, SIGTERM); /* not connected yet; the end is waited for */
}

static void worker_kill(sup_worker_t *worker)
{
    vd_log(VD_LOG_WARN, "worker is killed", "worker=%s worker_pid=%d", worker->kind->name,
           (int)worker->pid);
    if (worker->pid > 0)
        (void)kill(worker->pid, SIGKILL); /* reaped later; an unreaped pid is never another's */
}

static void worker_act(sup_worker_t *worker, sup_action_t action)
{
    switch (action) {
    case SUP_ACTION_NONE:
        break;
    case SUP_ACTION_SPAWN:
        worker_spawn(worker);
        break;
    case SUP_ACTION_SEND_DRAIN:
        if (!sup_control_drain(worker, worker->system->times.stop_ms))
            sup_worker_event(worker, SUP_EVENT_DRAINED);
        break;
    case SUP_ACTION_SEND_STOP:
        worker_send_stop(worker);
        break;
    case SUP_ACTION_KILL:
        worker_kill(worker);
        break;
    case SUP_ACTION_NOTE_READY:
        sup_ops_note(worker->system, "workerStarted", "%s pid %d", worker->kind->name,
                     (int)worker->pid);
        worker->ready_since_ms = vd_monotonic_ms();
        vd_log(VD_LOG_INFO, "worker ready", "worker=%s took_ms=%llu", worker->kind->name,
               (unsigned long long)(worker->ready_since_ms - worker->state_since_ms));
        break;
    case SUP_ACTION_NOTE_DOWN:
        worker->ready_since_ms = 0;
        break;
    }
}

void sup_worker_event(sup_worker_t *worker, sup_event_t event)
{
    sup_step_t step = sup_child_step(worker->state, event);
    if (step.next != worker->state) {
        VD_DEBUG("worker state", "worker=%s from=%s to=%s", worker->kind->name,
                 sup_child_state_name(worker->state), sup_child_state_name(step.next));
        /* Ready needs the start's time before it is overwritten. */
        if (step.action == SUP_ACTION_NOTE_READY)
            worker_act(worker, step.action);
        worker->state = step.next;
        worker->state_since_ms = vd_monotonic_ms();
        if (step.action == SUP_ACTION_NOTE_READY)
            return;
    }
    worker_act(worker, step.action);
}

void sup_worker_died(sup_worker_t *worker, const char *how, bool structural)
{
    uint64_t now = vd_monotonic_ms(), wait_ms = 0;
    bool wanted_back = worker->wanted && worker->system->phase < SUP_PHASE_STOPPING;
    sup_death_t death = {
        .structural = structural || worker->structural,
        .was_ready = worker->ready_since_ms != 0,
        .ready_ms = worker->ready_since_ms == 0 ? 0 : now - worker->ready_since_ms,
        .wanted = worker->leaving,
    };
    /* Watched only: whoever starts it decides how often. */
    sup_verdict_t verdict = worker->system->watch
                                ? SUP_VERDICT_RESTART
                                : sup_policy_judge(&worker->history, &death, &wait_ms);
    if (!worker->structural) /* what it said itself stands */
        (void)snprintf(worker->last_death, sizeof worker->last_death, "%s", how);
    worker->wait_until_ms = now + wait_ms;
    worker->peer = 0;
    worker->status_pending = false;
    vd_buf_clear(&worker->status);
    if (worker->system->ops != NULL)
        sup_ops_worker_gone(worker);
    sup_ops_note(worker->system, "workerEnded", "%s %s", worker->kind->name, how);
    char quoted[300];
    if (!wanted_back) {
        vd_log(VD_LOG_INFO, "worker ended", "worker=%s how=%s", worker->kind->name,
               vd_log_quote(vd_slice_str(how), quoted, sizeof quoted));
        sup_worker_event(worker, SUP_EVENT_DIED_UNWANTED);
    } else if (verdict == SUP_VERDICT_GIVE_UP) {
        vd_log(VD_LOG_ERROR, "worker is given up: an operator must act", "worker=%s how=%s",
               worker->kind->name,
               vd_log_quote(vd_slice_str(worker->last_death), quoted, sizeof quoted));
        sup_worker_event(worker, SUP_EVENT_DIED_FINAL);
        if (worker->system->phase == SUP_PHASE_STARTING)
            sup_system_stop(worker->system, "a worker can't be started", VD_EXIT_STRUCTURAL);
    } else if (worker->system->watch) {
        vd_log(VD_LOG_WARN, "worker is gone", "worker=%s how=%s", worker->kind->name,
               vd_log_quote(vd_slice_str(worker->last_death), quoted, sizeof quoted));
        sup_worker_event(worker, SUP_EVENT_DIED);
    } else {
        vd_log(worker->leaving ? VD_LOG_INFO : VD_LOG_WARN, "worker ended, will be restarted",
               "worker=%s how=%s wait_ms=%llu", worker->kind->name,
               vd_log_quote(vd_slice_str(how), quoted, sizeof quoted), (unsigned long long)wait_ms);
        sup_worker_event(worker, SUP_EVENT_DIED);
    }
}

/* ---- the step ---- */

static bool needs_ready(const sup_system_t *system, const sup_kind_t *kind)
{
    for (int i = 0; i < SUP_KIND_COUNT; i++)
        if ((kind->needs & 1u << i) != 0 && system->workers[i].state != SUP_CHILD_RUNNING)
            return false;
    return true;
}

/* Nobody that needs it is left. */
static bool may_go(const sup_system_t *system, int kind)
{
    for (int i = 0; i < SUP_KIND_COUNT; i++) {
        sup_child_state_t state = system->workers[i].state;
        if ((sup_kinds[i].needs & 1u << kind) != 0 && state != SUP_CHILD_STOPPED &&
            state != SUP_CHILD_FAILED)
            return false;
    }
    return true;
}

static void due(uint64_t *earliest, uint64_t at)
{
    if (*earliest == 0 || at < *earliest)
        *earliest = at;
}

static void check_time(sup_worker_t *worker, uint64_t now, uint64_t limit_ms, sup_event_t event,
                       uint64_t since, uint64_t *earliest)
{
    if (now >= since + limit_ms)
        sup_worker_event(worker, event);
    else
        due(earliest, since + limit_ms);
}

/* One that was never ready has nothing to bring to an end, and may wait for who will never come. */
static uint64_t stop_ms(const sup_worker_t *worker)
{
    uint64_t all = worker->system->times.stop_ms;
    return worker->ready_since_ms != 0 ? all : all / NEVER_READY_PART;
}

static void worker_step(sup_worker_t *worker, uint64_t now, uint64_t *earliest)
{
    sup_system_t *system = worker->system;
    if (system->watch)
        return; /* it starts when it says hello, ends when its link does, and is killed elsewhere */
    switch (worker->state) {
    case SUP_CHILD_STOPPED:
        if (worker->wanted && system->phase < SUP_PHASE_STOPPING)
            sup_worker_event(worker, SUP_EVENT_WANT);
        break;
    case SUP_CHILD_WAITING:
        if (!worker->wanted)
            sup_worker_event(worker, SUP_EVENT_DRAIN);
        else if (now < worker->wait_until_ms)
            due(earliest, worker->wait_until_ms);
        else if (needs_ready(system, worker->kind))
            sup_worker_event(worker, SUP_EVENT_GO);
        break;
    case SUP_CHILD_STARTING:
        check_time(worker, now, system->times.start_ms, SUP_EVENT_TIMEOUT, worker->state_since_ms,
                   earliest);
        break;
    case SUP_CHILD_RUNNING:
        check_time(worker, now, system->times.hang_ms, SUP_EVENT_HUNG, worker->beat_ms, earliest);
        break;
    case SUP_CHILD_DRAINING:
    case SUP_CHILD_STOPPING:
        check_time(worker, now, stop_ms(worker), SUP_EVENT_TIMEOUT, worker->state_since_ms,
                   earliest);
        break;
    case SUP_CHILD_KILLED:
    case SUP_CHILD_FAILED:
    case SUP_CHILD_STATES:
        break;
    }
}

static bool system_step(void *context)
{
    sup_system_t *system = context;
    uint64_t now = vd_monotonic_ms(), earliest = 0;
    bool all_running = true, all_gone = true, changed = false;
    if (system->phase == SUP_PHASE_STOPPED)
        return false;
    bool stops = system->phase == SUP_PHASE_STOPPING && !system->watch;
    for (int i = SUP_KIND_COUNT - 1; stops && i >= 0; i--) {
        sup_worker_t *worker = &system->workers[i];
        worker->wanted = false;
        if (may_go(system, i)) {
            sup_child_state_t before = worker->state;
            worker->leaving = true;
            sup_worker_event(worker, SUP_EVENT_DRAIN);
            changed = changed || worker->state != before;
        }
    }
    for (int i = 0; i < SUP_KIND_COUNT; i++) {
        sup_worker_t *worker = &system->workers[i];
        sup_child_state_t before;
        if (!worker->joins)
            continue;
        do { /* a state may pass at once to the next: stopped, waiting, starting */
            before = worker->state;
            worker_step(worker, now, &earliest);
            changed = changed || worker->state != before;
        } while (worker->state != before);
        all_running = all_running && worker->state == SUP_CHILD_RUNNING;
        all_gone =
            all_gone && (worker->state == SUP_CHILD_STOPPED || worker->state == SUP_CHILD_FAILED);
    }
    if (system->phase == SUP_PHASE_STARTING && all_running) {
        system->phase = SUP_PHASE_RUNNING;
        vd_log(VD_LOG_INFO, "node ready", "took_ms=%llu",
               (unsigned long long)(now - system->started_ms));
    }
    if (system->phase == SUP_PHASE_STOPPING && (all_gone || system->watch)) {
        system->phase = SUP_PHASE_STOPPED;
        vd_loop_stop(system->loop);
    }
    if (earliest != 0)
        vd_loop_set_timer(system->timer, earliest > now ? earliest - now : 1, 0);
    return changed; /* the links' own step was before this one: what was sent goes out next turn */
}

static void timer_fired(void *context)
{
    (void)context; /* the step at the end of this turn does the work */
}

/* ---- wishes ---- */

void sup_system_stop(sup_system_t *system, const char *reason, int exit_code)
{
    if (system->phase >= SUP_PHASE_STOPPING)
        return;
    system->phase = SUP_PHASE_STOPPING;
    system->reason = reason;
    system->exit_code = exit_code;
    vd_log(VD_LOG_INFO, "node stops", "reason=\"%s\"", reason);
    vd_loop_wake(system->loop);
}

void sup_worker_restart(sup_worker_t *worker)
{
    worker->wanted = true;
    worker->history = (sup_history_t){0};
    worker->wait_until_ms = 0;
    if (worker->state == SUP_CHILD_FAILED || worker->state == SUP_CHILD_STOPPED) {
        sup_worker_event(worker, SUP_EVENT_WANT);
    } else if (worker->state == SUP_CHILD_RUNNING || worker->state == SUP_CHILD_STARTING) {
        worker->leaving = true;
        sup_worker_event(worker, SUP_EVENT_DRAIN);
    }
    vd_loop_wake(worker->system->loop);
}

void sup_worker_drain(sup_worker_t *worker)
{
    worker->wanted = false;
    worker->leaving = true;
    sup_worker_event(worker, SUP_EVENT_DRAIN);
    vd_loop_wake(worker->system->loop);
}

/* ---- life ---- */

static uint64_t option_ms(const vd_config_t *config, const char *name)
{
    return (uint64_t)vd_config_number(config, name);
}

static int open_listeners(sup_system_t *system, vd_error_t *err)
{
    int rc = VD_OK;
    for (size_t i = 0; rc == VD_OK && i < SUP_LISTENERS_MAX; i++) {
        if (!system->workers[sup_listenings[i].kind].joins)
            continue;
        rc = sup_listen(&sup_listenings[i], system->config,
                        &system->listeners[system->listener_count], err);
        if (rc == VD_OK)
            system->listener_count++;
    }
    return rc;
}

/* What is set otherwise than by default, for the audit log: a few options in each note. */
static void configuration_note(sup_system_t *system)
{
    char text[400] = "";
    for (size_t i = 0; i < vd_option_count; i++) {
        const char *value = vd_config_given(system->config, i);
        char one[200];
        if (value == NULL)
            continue;
        (void)snprintf(one, sizeof one, "%s=%s; ", vd_options[i].name, value);
        if (strlen(text) + strlen(one) >= sizeof text) {
            sup_ops_note(system, "configuration", "%s", text);
            text[0] = '\0';
        }
        (void)snprintf(text + strlen(text), sizeof text - strlen(text), "%s", one);
    }
    sup_ops_note(system, "configuration", "%s", text);
}

int sup_system_create(vd_loop_t *loop, const vd_config_t *config, sup_system_t **ret_system,
                      vd_error_t *err)
{
    sup_system_t *system = vd_xalloc(sizeof *system);
    system->loop = loop;
    system->config = config;
    system->watch = strcmp(vd_config_string(config, "supervisor.mode"), "watch") == 0;
    system->started_ms = vd_monotonic_ms();
    /* Generations never repeat, also not over restarts of the supervisor itself. */
    vd_rand_secret(&system->generation_next, sizeof system->generation_next);
    system->generation_next = (system->generation_next & 0xffffff) << 24;
    system->times.heartbeat_ms = option_ms(config, "supervisor.heartbeat");
    system->times.hang_ms = option_ms(config, "supervisor.hang_timeout");
    system->times.start_ms = option_ms(config, "supervisor.start_timeout");
    system->times.stop_ms = option_ms(config, "supervisor.stop_grace");
    for (int i = 0; i < SUP_KIND_COUNT; i++) {
        sup_worker_t *worker = &system->workers[i];
        worker->system = system;
        worker->kind = &sup_kinds[i];
        worker->joins = worker->wanted = sup_kind_joins((sup_kind_id_t)i, config);
        vd_buf_init(&worker->status, VD_STATUS_MAX_BYTES);
        vd_buf_init(&worker->kept, VD_KEPT_MAX_BYTES);
        if (worker->joins)
            sup_worker_event(worker,
                             SUP_EVENT_WANT); /* a hello of the first turn is heard already */
    }
    int rc = sup_users_choose(config, &system->users, err);
    if (rc == VD_OK)
        rc = sup_make_folders(config, system->users, !system->watch, err);
    if (rc == VD_OK && !system->watch)
        rc = open_listeners(system, err);
    for (int i = 0; rc == VD_OK && i < SUP_KIND_COUNT; i++)
        if (system->workers[i].joins)
            rc = sup_control_open(&system->workers[i], err);
    if (rc == VD_OK)
        rc = sup_ops_open(system, &system->ops, err);
    if (rc == VD_OK)
        configuration_note(system);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(loop, 1, 0, timer_fired, system, &system->timer, err);
    if (rc == VD_OK)
        rc = vd_loop_add_end_of_turn(loop, 1000, system_step, system, &system->step, err);
    if (rc != VD_OK) {
        sup_system_destroy(&system);
        return rc;
    }
    *ret_system = system;
    return VD_OK;
}

void sup_system_destroy(sup_system_t **system_p)
{
    sup_system_t *system = *system_p;
    if (system == NULL)
        return;
    vd_loop_remove(&system->step);
    vd_loop_remove(&system->timer);
    sup_kek_end(system);
    sup_ops_close(&system->ops);
    for (int i = 0; i < SUP_KIND_COUNT; i++) {
        vd_loop_remove(&system->workers[i].child);
        sup_files_close(&system->workers[i]);
        if (system->workers[i].last_word > 0)
            (void)close(system->workers[i].last_word);
        vd_link_close(&system->workers[i].link);
        vd_buf_done(&system->workers[i].status);
        vd_buf_done(&system->workers[i].kept);
    }
    for (size_t i = 0; i < system->listener_count; i++)
        (void)close(system->listeners[i].fd); /* nobody listens any more */
    vd_free(system);
    *system_p = NULL;
}

const char *sup_phase_name(sup_phase_t phase)
{
    static const char *const names[] = {"starting", "running", "stopping", "stopped"};
    return names[phase];
}
