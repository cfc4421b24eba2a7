/* veddb-gatewayd/gatewayd.c — see gatewayd.h. Wiring only: what happens to a request is in
 * request.c. */
#include "veddb-gatewayd/gatewayd.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/runtime/files.h"
#include "libcommon/runtime/thread.h"
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/auth/token_store.h"
#include "veddb-gatewayd/bootstrap.h"
#include "veddb-gatewayd/certificates.h"
#include "veddb-gatewayd/commands/handlers.h"
#include "veddb-gatewayd/faults.h"
#include "veddb-gatewayd/http/http.h"
#include "veddb-gatewayd/listener.h"
#include "veddb-gatewayd/quota/throttle.h"
#include "veddb-gatewayd/recheck.h"

#include <fcntl.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <unistd.h>

#define TICK_MS          250
#define TICKS_PER_SECOND 4
/* Of a session that is read from the cache alone, within storage's time-out for it. */
#define SESSION_REFRESHES 8
#define KEYS_REFRESH_MS   60000
#define TOKENS_TIDY_S     5
#define KEYS_AGAIN_MS     1000 /* not more often, whoever asks */

/* ---- what hello announces ---- */

static void wake_all(gate_t *gate)
{
    for (uint32_t i = 0; i < gate->thread_count; i++) {
        if (gate->threads[i] != NULL && gate->threads[i]->loop != NULL)
            vd_loop_wake(gate->threads[i]->loop);
    }
}

/* A failed try is made again when storage tells its state the next time. */
static void prepare_done(void *context)
{
    gate_thread_t *thread = context;
    gate_t *gate = thread->gate;
    atomic_store(&gate->preparing, false);
    if (atomic_load(&gate->keys_failed))
        gate->keys_due_ms = vd_monotonic_ms() +
                            (gate_keys_loads(gate->keys) == 0 ? KEYS_AGAIN_MS : 10 * KEYS_AGAIN_MS);
    if (!gate->prepare_failed)
        gate_note_state(thread);
}

static void log_error(const char *what, const vd_error_t *err)
{
    char text[600], quoted[700];
    vd_log(
        VD_LOG_ERROR, what, "error=%s",
        vd_log_quote(vd_slice_str(vd_error_print(err, text, sizeof text)), quoted, sizeof quoted));
}

static void bootstrap_run(gate_t *gate)
{
    vd_error_t err = VD_ERROR_INIT;
    int rc = gate_bootstrap(gate, &err);
    gate->prepare_failed = rc != VD_OK;
    if (rc == VD_OK) {
        atomic_store(&gate->bootstrap_state, 2);
        return;
    }
    log_error("first administrator can't be made", &err);
    atomic_store(&gate->bootstrap_state,
                 rc == VD_ERR_CONFIG
                     ? 3
                     : 0); /* 3: an operator must act; we serve nobody, and say why in the log */
}

/* Keys first: who can log in finds them, also on a member that is behind. */
static void prepare_run(void *context)
{
    gate_thread_t *thread = context;
    gate_t *gate = thread->gate;
    vd_error_t err = VD_ERROR_INIT;
    bool primary = gate->prepare_primary;
    gate->prepare_failed = false;
    atomic_store(&gate->keys_wanted, false);
    int rc = gate_keys_load(gate, &err);
    if (rc == VD_OK && primary)
        rc = gate_keys_ensure(gate, gate->prepare_time, &err);
    if (rc != VD_OK) /* without them times are not signed, and clients' are not believed */
        log_error("keys of cluster times can't be had", &err);
    atomic_store(&gate->keys_failed, rc != VD_OK);
    if (primary && atomic_load(&gate->bootstrap_state) == 1)
        bootstrap_run(gate);
}

static bool wants_bootstrap(gate_thread_t *thread)
{
    gate_t *gate = thread->gate;
    uint32_t state = atomic_load(&gate->bootstrap_state);
    if (thread->state.has_users || state == 2)
        return false;
    if (gate->settings.bootstrap_file[0] != 0)
        return true;
    if (atomic_exchange(&gate->bootstrap_state, 2) != 2)
        vd_log(VD_LOG_WARN,
               "there are no users, and gateway.bootstrap_file is not set: nobody can log in",
               "node=%s", gate->settings.node_name);
    return false;
}

/* Keys are loaded at first, after each change of role or term (what was not on a majority may have
 * gone), from time to time, when a client names one that is not known, and while there is none. */
static bool wants_keys(const gate_t *gate, uint32_t role, uint64_t term)
{
    uint64_t now = vd_monotonic_ms();
    if (atomic_load(&gate->keys_failed))
        return now >= gate->keys_due_ms;
    return gate_keys_loads(gate->keys) == 0 || gate->keys_role != role || gate->keys_term != term ||
           now >= gate->keys_due_ms ||
           ((atomic_load(&gate->keys_wanted) || !gate_keys_known(gate->keys)) &&
            now + KEYS_REFRESH_MS >= gate->keys_due_ms + KEYS_AGAIN_MS);
}

static void prepare(gate_thread_t *thread, bool bootstrap)
{
    gate_t *gate = thread->gate;
    const gate_storage_state_t *state = &thread->state;
    uint32_t none = 0;
    if (atomic_exchange(&gate->preparing, true))
        return;
    bool ours = bootstrap && atomic_compare_exchange_strong(&gate->bootstrap_state, &none, 1);
    gate->prepare_primary = gate_state_role(state) == VDP_ROLE_PRIMARY;
    gate->prepare_time = state->newest;
    gate->keys_role = gate_state_role(state);
    gate->keys_term = state->term;
    gate->keys_due_ms = vd_monotonic_ms() + KEYS_REFRESH_MS;
    if (vd_worker_put(gate->worker, thread->loop, prepare_run, prepare_done, thread, NULL) == VD_OK)
        return;
    atomic_store(&gate->preparing, false); /* the next state tries again */
    gate->keys_due_ms = 0;
    if (ours)
        atomic_store(&gate->bootstrap_state, 0);
}

/* True when clients may be served: logins are possible, times can be signed. On thread 0. */
static bool prepared(gate_thread_t *thread)
{
    gate_t *gate = thread->gate;
    uint32_t role = gate_state_role(&thread->state);
    if (role != VDP_ROLE_PRIMARY && role != VDP_ROLE_SECONDARY)
        return true; /* it has nothing to serve, and says so */
    bool bootstrap = role == VDP_ROLE_PRIMARY && wants_bootstrap(thread);
    if ((bootstrap && atomic_load(&gate->bootstrap_state) == 0) ||
        wants_keys(gate, role, thread->state.term))
        prepare(thread, bootstrap);
    return !bootstrap && (gate_keys_loads(gate->keys) != 0 || atomic_load(&gate->keys_failed));
}

void gate_note_state(gate_thread_t *thread)
{
    gate_t *gate = thread->gate;
    const gate_storage_state_t *state = &thread->state;
    if (thread->index != 0)
        return;
    atomic_store(&gate->auth_epoch, state->auth_epoch);
    bool usable = state->attached && state->ready && prepared(thread);
    if (gate_member_note(gate, state, usable))
        wake_all(gate);
    if (usable && !atomic_exchange(&gate->ready_said, true) && gate->events.ready != NULL)
        gate->events.ready(gate->events.context, gate->settings.address);
}

/* Rounded down, so that drivers give a session up before storage does; 0 would say that there are
 * no sessions. */
int32_t gate_session_minutes(const gate_t *gate)
{
    uint64_t minutes = gate->settings.session_timeout_ms / 60000;
    return minutes == 0 ? 1 : (int32_t)minutes;
}

static void forget_users(void *context)
{
    gate_thread_t *thread = context;
    if (thread->users != NULL)
        gate_users_invalidate(thread->users);
}

void gate_users_forget_all(gate_t *gate)
{
    for (uint32_t i = 0; i < gate->thread_count; i++)
        vd_loop_post(gate->threads[i]->loop, forget_users, gate->threads[i]);
}

static void end_revoked(void *context)
{
    gate_thread_t *thread = context;
    VD_LIST_EACH(&thread->conns, node)
    {
        gate_conn_check_token(VD_CONTAINER_OF(node, gate_conn_t, node));
    }
}

void gate_tokens_changed(gate_t *gate)
{
    for (uint32_t i = 0; i < gate->thread_count; i++)
        vd_loop_post(gate->threads[i]->loop, end_revoked, gate->threads[i]);
}

gate_reply_times_t gate_times(const gate_thread_t *thread)
{
    uint64_t newest = thread->state.newest;
    return (gate_reply_times_t){newest,
                                thread->cluster_time > newest ? thread->cluster_time : newest};
}

/* ---- one thread ---- */

static bool end_of_turn(void *context)
{
    gate_thread_t *thread = context;
    vd_node_t *node;
    int64_t counter = atomic_load(&thread->gate->topology.counter);
    if (counter != thread->seen_counter) {
        thread->seen_counter = counter;
        gate_hello_wake(thread);
    }
    /* Those that had their share of the turn go on; those that want memory only when some was given
     * back. */
    bool again = false, room = thread->room_made;
    vd_list_t paused;
    vd_list_init(&paused);
    thread->room_made = false;
    while ((node = vd_list_pop_front(&thread->paused)) != NULL)
        vd_list_push_back(&paused, node);
    while ((node = vd_list_pop_front(&paused)) != NULL) {
        gate_conn_t *conn = VD_CONTAINER_OF(node, gate_conn_t, paused_node);
        if (conn->wants_room && !room && thread->held_bytes != 0) {
            vd_list_push_back(&thread->paused, node);
            continue;
        }
        gate_conn_resume(conn);
        again = true;
    }
    again |= gate_recheck_turn(thread);
    while ((node = vd_list_pop_front(&thread->dead)) != NULL)
        vd_free(VD_CONTAINER_OF(node, gate_conn_t, node));
    if (thread->stopping && thread->own_loop)
        vd_loop_stop(thread->loop);
    return again;
}

static void drain_thread(gate_thread_t *thread)
{
    gate_t *gate = thread->gate;
    bool busy = false;
    VD_LIST_EACH(&thread->conns, node)
    {
        gate_conn_t *conn = VD_CONTAINER_OF(node, gate_conn_t, node);
        bool parked = conn->request != NULL && vd_node_linked(&conn->request->node);
        if (conn->request == NULL || parked)
            gate_conn_close(conn, NULL);
        else
            busy = true;
    }
    if (!busy && !thread->stopping && atomic_load(&gate->stats.connections_current) == 0) {
        uint32_t before = atomic_exchange(&gate->threads_drained, 1);
        if (before == 0 && gate->events.drained != NULL)
            gate->events.drained(gate->events.context);
    }
}

static void tick(void *context)
{
    gate_thread_t *thread = context;
    uint64_t now = vd_loop_now_ms(thread->loop);
    gate_upstream_tick(thread->upstream, now);
    if (thread->gate->events.beat != NULL && thread->own_loop)
        thread->gate->events.beat(thread->gate->events.context, thread->index, true);
    if (!thread->state.attached || !thread->state.ready || atomic_load(&thread->gate->keys_wanted))
        gate_note_state(thread);
    /* Somebody is logged in with a token, perhaps in the middle of a long operation. */
    if (thread->token_conns != 0 &&
        gate_tokens_epoch(thread->gate->tokens) < thread->state.auth_epoch)
        gate_token_store_want(thread->gate);
    gate_recheck_tick(thread);
    if (++thread->ticks % TICKS_PER_SECOND != 0)
        return;
    if (thread->index == 0 && thread->ticks / TICKS_PER_SECOND % TOKENS_TIDY_S == 0 &&
        vd_worker_put(thread->gate->token_worker, NULL, gate_token_store_maintain, NULL,
                      thread->gate, NULL) != VD_OK)
        VD_DEBUG("tokens are tidied up the next time", "threads=%u", thread->gate->thread_count);
    thread->refusals_noted = 0;
    gate_audit_tick(thread);
    if (thread->index == 0) {
        gate_certificates_tick(thread->gate);
        gate_throttle_tell(thread, false);
    }
    VD_LIST_EACH(&thread->conns, node)
    {
        gate_conn_tick(VD_CONTAINER_OF(node, gate_conn_t, node), now);
    }
    if (atomic_load(&thread->gate->draining))
        drain_thread(thread);
}

static int thread_open(gate_thread_t *thread, vd_error_t *err)
{
    gate_t *gate = thread->gate;
    thread->scratch = vd_xalloc(GATE_SCRATCH_BYTES);
    vd_buf_init(&thread->assembly, 2ul * VD_WIRE_MESSAGE_MAX_BYTES);
    thread->held_max_bytes = gate->settings.held_max_bytes / gate->thread_count;
    thread->seen_counter = atomic_load(&gate->topology.counter);
    thread->users = gate_users_create(thread);
    thread->accounts = gate_accounts_create(gate->quota);
    thread->total = gate_accounts_open(thread->accounts, GATE_SCOPE_TOTAL, VD_SLICE_NULL);
    thread->cache = gate_cache_create(&(gate_cache_options_t){
        .versions_path = gate->settings.versions_path,
        .bytes_max = gate->settings.result_cache_bytes / gate->thread_count,
        .session_refresh_ms = gate->settings.session_timeout_ms / SESSION_REFRESHES});
    int rc = gate_upstream_create(thread, gate->settings.storage_path,
                                  gate->settings.storage_wait_ms, &thread->upstream, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(thread->loop, TICK_MS, TICK_MS, tick, thread, &thread->tick, err);
    /* Behind the link's own step, which finishes requests; what is sent here asks for another turn.
     */
    if (rc == VD_OK)
        rc = vd_loop_add_end_of_turn(thread->loop, VD_LINK_STEP_ORDER + 100, end_of_turn, thread,
                                     &thread->end_of_turn, err);
    return rc;
}

static void close_conns(gate_thread_t *thread)
{
    VD_LIST_EACH(&thread->conns, node)
    {
        gate_conn_close(VD_CONTAINER_OF(node, gate_conn_t, node), NULL);
    }
}

static void thread_close(gate_thread_t *thread)
{
    close_conns(thread);
    gate_users_destroy(&thread->users);
    gate_upstream_destroy(&thread->upstream);
    gate_cache_destroy(&thread->cache);
    gate_accounts_close(thread->accounts, &thread->total);
    gate_accounts_destroy(&thread->accounts);
    vd_loop_remove(&thread->tick);
    vd_loop_remove(&thread->end_of_turn);
    vd_node_t *node;
    while ((node = vd_list_pop_front(&thread->dead)) != NULL)
        vd_free(VD_CONTAINER_OF(node, gate_conn_t, node));
    gate_request_pool_done(thread);
    vd_free(thread->scratch);
    vd_buf_done(&thread->assembly);
    thread->scratch = NULL;
}

static void *thread_main(void *context)
{
    gate_thread_t *thread = context;
    vd_error_t err = VD_ERROR_INIT;
    if (vd_loop_run(thread->loop, &err) != VD_OK)
        vd_log(VD_LOG_ERROR, "a loop ended", "thread=%u error=%d", thread->index, err.code);
    thread_close(thread);
    return NULL;
}

static int thread_start(gate_t *gate, uint32_t index, vd_loop_t *loop, vd_error_t *err)
{
    gate_thread_t *thread = vd_xalloc(sizeof *thread);
    int rc = VD_OK;
    gate->threads[index] = thread;
    thread->gate = gate;
    thread->index = index;
    thread->loop = loop;
    thread->own_loop = loop == NULL;
    vd_list_init(&thread->conns);
    vd_list_init(&thread->dead);
    vd_list_init(&thread->idle_requests);
    vd_list_init(&thread->paused);
    vd_list_init(&thread->watchers);
    if (thread->own_loop)
        rc = vd_loop_create(&thread->loop, err);
    if (rc == VD_OK)
        rc = thread_open(thread, err);
    if (rc != VD_OK || !thread->own_loop)
        return rc;
    int why = vd_thread_start(&thread->pthread, thread_main, thread);
    if (why != 0)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "a thread can't be started: %d", why);
    thread->started = true;
    return VD_OK;
}

/* ---- internal commands from other threads ---- */

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    gate_thread_t *thread;
    gate_flight_t flight;
    vd_buf_t *out;
    bool is_done;
    int rc;
    vd_error_t err;
    uint8_t *body;
} call_t;

static void call_end(call_t *call, int rc)
{
    (void)pthread_mutex_lock(&call->lock);
    call->rc = rc;
    call->is_done = true;
    (void)pthread_cond_signal(&call->ended);
    (void)pthread_mutex_unlock(&call->lock);
}

static void call_answered(void *context, const gate_answer_t *answer)
{
    call_t *call = context;
    int rc = answer->rc;
    if (rc != VD_OK) {
        vd_error_copy(answer->err, &call->err);
    } else {
        vd_bson_t body = {answer->body.data, (uint32_t)answer->body.len};
        if (answer->reply->status != VD_OK) {
            vd_value_t message = vd_bson_get(body, "errmsg");
            vd_slice_t text = message.type == VD_BSON_STRING ? vd_value_string(message)
                                                             : VD_SLICE_LIT("storage refused");
            rc = vd_error_set(&call->err, (int)answer->reply->status, "%.*s",
                              (int)(text.len < 400 ? text.len : 400), text.data);
        } else if (vd_buf_append_slice(call->out, answer->body) != VD_OK) {
            rc = vd_error_set(&call->err, VD_ERR_FULL, "the reply is too large");
        }
    }
    call_end(call, rc);
}

static void call_begin(void *context)
{
    call_t *call = context;
    int rc = call->thread->upstream == NULL
                 ? vd_error_set(&call->err, VD_ERR_SHUTDOWN_IN_PROGRESS, "the gateway is stopping")
                 : gate_upstream_send(call->thread->upstream, &call->flight, &call->err);
    if (rc != VD_OK)
        call_end(call, rc);
}

int gate_internal_call(gate_t *gate, gate_call_t kind, vd_slice_t db, vd_bson_t command,
                       uint64_t timeout_ms, vd_buf_t *out, vd_error_t *err)
{
    call_t call = {.thread = gate->threads[0], .out = out};
    vd_slice_t name;
    vd_value_t first;
    VD_ASSERT(vd_bson_first(command, &name, &first));
    call.body = vd_xalloc(command.len + 1);
    memcpy(call.body + 1, command.data, command.len);
    call.flight = (gate_flight_t){.resend = kind != GATE_CALL_ONE_TRY,
                                  .wait_ms = timeout_ms,
                                  .body = vd_slice(call.body, command.len + 1),
                                  .done = call_answered,
                                  .context = &call};
    call.flight.command = (vdp_operation_command_t){.name = name,
                                                    .db = db,
                                                    .flags = VDP_COMMAND_INTERNAL,
                                                    .user = VD_SLICE_LIT(GATE_SYSTEM_USER),
                                                    .txn_number = -1};
    if (kind == GATE_CALL_ONE_TRY)
        call.flight.command.max_time_ms = (uint32_t)timeout_ms;
    if (kind == GATE_CALL_ONCE) {
        call.flight.command.lsid = vd_slice(gate->instance, sizeof gate->instance);
        call.flight.command.lsid_user = vd_slice(gate->system_digest, sizeof gate->system_digest);
        call.flight.command.txn_number = atomic_fetch_add(&gate->last_txn_number, 1) + 1;
    }
    (void)pthread_mutex_init(&call.lock, NULL);
    (void)pthread_cond_init(&call.ended, NULL);
    (void)pthread_mutex_lock(&gate->call_lock);
    if (gate->stopping)
        call_end(&call,
                 vd_error_set(&call.err, VD_ERR_SHUTDOWN_IN_PROGRESS, "the gateway is stopping"));
    else
        vd_loop_post(gate->threads[0]->loop, call_begin, &call);
    (void)pthread_mutex_unlock(&gate->call_lock);
    /* Ends always: with an answer, when storage was away too long, or when the gateway stops. */
    (void)pthread_mutex_lock(&call.lock);
    while (!call.is_done)
        (void)pthread_cond_wait(&call.ended, &call.lock);
    (void)pthread_mutex_unlock(&call.lock);
    (void)pthread_cond_destroy(&call.ended);
    (void)pthread_mutex_destroy(&call.lock);
    vd_free(call.body);
    if (call.rc != VD_OK)
        (void)vd_error_set(err, call.rc, "%s", call.err.message); /* returned below */
    return call.rc;
}

/* ---- the whole ---- */

/* Drawn from the private key, so that it outlives a restart and nobody else can know it. */
static void make_fake_secret(gate_t *gate)
{
    uint8_t bytes[8192];
    int fd = vd_files_open(gate->settings.tls.key_file);
    ssize_t n = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);
    if (fd >= 0)
        (void)close(fd);
    if (n <= 0) {
        vd_rand_secret(gate->fake_secret, sizeof gate->fake_secret);
        return;
    }
    static const char label[] = "veddb salts of nobody";
    uint8_t digest[32 + sizeof label];
    (void)SHA256(bytes, (size_t)n, digest);
    memcpy(digest + 32, label, sizeof label);
    (void)SHA256(digest, sizeof digest, gate->fake_secret);
    vd_wipe(bytes, sizeof bytes);
    vd_wipe(digest, sizeof digest);
}

int gate_create(const gate_settings_t *settings, const gate_events_t *events, gate_t **ret_gate,
                vd_error_t *err)
{
    VD_ASSERT(settings != NULL && ret_gate != NULL);
    gate_t *gate = vd_xalloc(sizeof *gate);
    gate->settings = *settings;
    if (events != NULL)
        gate->events = *events;
    gate->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    gate->started_wall_ms = vd_wall_ms();
    gate->started_ms = vd_monotonic_ms();
    gate_commands_init();
    (void)pthread_mutex_init(&gate->topology.lock, NULL); /* can't fail with default attributes */
    (void)pthread_mutex_init(&gate->call_lock, NULL);
    vd_objectid_new(gate->topology.process_id);
    vd_rand_secret(gate->instance, sizeof gate->instance);
    (void)SHA256((const uint8_t *)GATE_SYSTEM_USER, sizeof GATE_SYSTEM_USER - 1,
                 gate->system_digest);
    make_fake_secret(gate);
    if (gethostname(gate->hostname, sizeof gate->hostname - 1) != 0)
        (void)snprintf(gate->hostname, sizeof gate->hostname, "localhost");
    gate->limits = gate_limits_create(settings->connections_per_address_max, settings->login_rate);
    gate->settings.limits.values[GATE_LIMIT_CONNECTIONS_TOTAL] = settings->connections_max;
    gate->settings.limits.values[GATE_LIMIT_CONNECTIONS_PER_ADDRESS] =
        settings->connections_per_address_max;
    gate->quota = gate_quota_create(&gate->settings.limits);
    gate->notes = gate_notes_create();
    gate->lockout = gate_lockout_create(settings->lockout_failures, settings->lockout_ms);
    (void)pthread_mutex_init(&gate->token_lock, NULL); /* can't fail with default attributes */
    gate_token_settings_t tokens = settings->tokens;
    if (tokens.audience[0] == 0)
        (void)snprintf(tokens.audience, sizeof tokens.audience, "%s", settings->replica_set);
    gate->tokens = gate_tokens_create(&tokens);
    gate->faults = gate_faults_create();
    gate->keys = gate_keys_create();
    int rc = vd_tls_create(&settings->tls, &gate->tls, err);
    if (rc == VD_OK)
        rc = gate_oidc_create(&settings->oidc, &gate->oidc, err);
    if (rc == VD_OK && strcmp(settings->oidc.issuer, settings->tokens.issuer) == 0)
        rc = vd_error_set(err, VD_ERR_CONFIG,
                          "oidc.issuer and tokens.issuer must differ: a token is of one of them");
    if (rc == VD_OK)
        rc = vd_worker_create("administration", 1, 1000, &gate->worker, err);
    if (rc == VD_OK)
        rc = vd_worker_create("tokens", 1, 16, &gate->token_worker, err);
    if (rc != VD_OK) {
        gate_destroy(&gate);
        return rc;
    }
    *ret_gate = gate;
    return VD_OK;
}

static int open_listener(gate_t *gate, vd_loop_t *loop, vd_error_t *err)
{
    gate_settings_t *settings = &gate->settings;
    int fd = settings->listen_fd, rc = VD_OK;
    uint16_t port = fd < 0 ? settings->port : gate_listen_port(fd);
    if (fd < 0)
        rc = gate_listen_socket(settings->listen, settings->port, &fd, &port, err);
    if (rc != VD_OK)
        return rc;
    settings->port = port;
    if (settings->address[0] == 0) {
        bool any = strcmp(settings->listen, "0.0.0.0") == 0 || strcmp(settings->listen, "::") == 0;
        (void)snprintf(settings->address, sizeof settings->address,
                       strchr(settings->listen, ':') != NULL && !any ? "[%s]:%u" : "%s:%u",
                       any ? gate->hostname : settings->listen, port);
    }
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); /* a passed one may block */
    return gate_listener_open(gate, loop, fd, &gate->listener, err);
}

int gate_start(gate_t *gate, vd_loop_t *loop, vd_error_t *err)
{
    int rc = VD_OK;
    gate->thread_count =
        gate->settings.threads < GATE_THREADS_MAX ? gate->settings.threads : GATE_THREADS_MAX;
    VD_ASSERT(gate->thread_count > 0);
    uint32_t wanted = gate->thread_count;
    for (uint32_t i = 0; i < wanted && rc == VD_OK; i++)
        rc = thread_start(gate, i, i == 0 ? loop : NULL, err);
    if (rc == VD_OK)
        rc = open_listener(gate, loop, err);
    if (rc == VD_OK)
        rc = gate_http_open(gate, &gate->http, err);
    if (rc == VD_OK)
        vd_log(VD_LOG_INFO, "gateway listens", "address=%s port=%u http_port=%u threads=%u",
               gate->settings.address, gate->settings.port, gate->settings.http_port,
               gate->thread_count);
    return rc;
}

void gate_drain(gate_t *gate)
{
    gate_member_drain(gate);
    if (gate->thread_count > 0 && gate->threads[0] != NULL)
        gate_throttle_tell(gate->threads[0], true); /* what is not in the audit log yet */
    gate_listener_close(&gate->listener);
    atomic_store(&gate->draining, true);
    wake_all(gate);
}

static void stop_thread(void *context)
{
    gate_thread_t *thread = context;
    thread->stopping = true;
}

void gate_destroy(gate_t **gate_p)
{
    gate_t *gate = *gate_p;
    if (gate == NULL)
        return;
    atomic_store(&gate->draining, true);
    gate_listener_close(&gate->listener);
    (void)pthread_mutex_lock(&gate->call_lock);
    gate->stopping = true;
    (void)pthread_mutex_unlock(&gate->call_lock);
    /* First those who may wait for storage through thread 0's loop: its upstream ends their calls.
     */
    if (gate->thread_count > 0 && gate->threads[0] != NULL && gate->threads[0]->scratch != NULL) {
        gate_thread_t *thread = gate->threads[0];
        vd_error_t ignored = VD_ERROR_INIT;
        close_conns(thread);
        gate_users_destroy(&thread->users);
        gate_upstream_destroy(&thread->upstream);
        vd_loop_remove(&thread->tick);
        vd_loop_remove(&thread->end_of_turn);
        if (vd_loop_turn(thread->loop, 0, &ignored) != VD_OK) /* calls that were posted end here */
            vd_log(VD_LOG_WARN, "the last turn failed", "error=\"%s\"", ignored.message);
    }
    gate_http_close(&gate->http);
    vd_worker_destroy(&gate->worker);
    vd_worker_destroy(&gate->token_worker);
    for (uint32_t i = gate->thread_count; i-- > 0;) {
        gate_thread_t *thread = gate->threads[i];
        if (thread == NULL)
            continue;
        if (thread->started) {
            vd_loop_post(thread->loop, stop_thread, thread);
            (void)pthread_join(thread->pthread, NULL);
        } else if (thread->scratch != NULL) {
            thread_close(thread);
        }
        if (thread->own_loop)
            vd_loop_destroy(&thread->loop);
        vd_free(thread);
        gate->threads[i] = NULL;
    }
    gate_faults_destroy(&gate->faults);
    gate_limits_destroy(&gate->limits);
    gate_quota_destroy(&gate->quota);
    gate_notes_destroy(&gate->notes);
    gate_lockout_destroy(&gate->lockout);
    gate_tokens_destroy(&gate->tokens);
    vd_tls_destroy(&gate->tls);
    gate_oidc_destroy(&gate->oidc);
    gate_keys_destroy(&gate->keys);
    gate_member_done(gate);
    (void)pthread_mutex_destroy(&gate->call_lock);
    (void)pthread_mutex_destroy(&gate->token_lock);
    vd_wipe(gate->fake_secret, sizeof gate->fake_secret);
    if (gate->statm_fd >= 0)
        (void)close(gate->statm_fd); /* only read from */
    vd_free(gate);
    *gate_p = NULL;
}

static const char *quoted(vd_arena_t *arena, const char *text)
{
    return vd_value_to_json(arena, vd_value_from_string(arena, vd_slice_str(text)), 4096);
}

int gate_status(gate_t *gate, vd_buf_t *out)
{
    gate_member_t member;
    gate_stats_t *stats = &gate->stats;
    vd_arena_t *arena = vd_arena_create();
    gate_member_read(gate, arena, &member);
    int64_t version = 1;
    (void)vd_value_as_int64(vd_bson_get(member.set, "setVersion"), &version); /* 1 when alone */
    int rc = vd_buf_printf(
        out,
        "{\"ready\":%s,\"writable\":%s,\"state\":\"%s\",\"term\":%llu,\"address\":%s,"
        "\"replicaSet\":%s,\"port\":%u,\"httpPort\":%u,\"threads\":%u,"
        "\"connections\":%llu,\"connectionsTotal\":%llu,\"connectionsRejected\":%"
        "llu,\"requests\":%llu,\"bytesIn\":%llu,\"bytesOut\":%llu,"
        "\"logins\":%llu,\"loginsFailed\":%llu,\"handshakesFailed\":%llu,"
        "\"certificateExpiresInSeconds\":%lld,\"setVersion\":%lld,\"timesSigned\":%s,"
        "\"uptimeSeconds\":%llu}",
        member.ready ? "true" : "false", member.primary ? "true" : "false",
        gate_member_state_name(gate_member_state(&member)), (unsigned long long)member.term,
        quoted(arena, gate->settings.address), quoted(arena, gate->settings.replica_set),
        gate->settings.port, gate->settings.http_port, gate->thread_count,
        (unsigned long long)atomic_load(&stats->connections_current),
        (unsigned long long)atomic_load(&stats->connections_total),
        (unsigned long long)atomic_load(&stats->connections_rejected),
        (unsigned long long)atomic_load(&stats->requests),
        (unsigned long long)atomic_load(&stats->bytes_in),
        (unsigned long long)atomic_load(&stats->bytes_out),
        (unsigned long long)atomic_load(&stats->logins),
        (unsigned long long)atomic_load(&stats->logins_failed),
        (unsigned long long)atomic_load(&stats->handshakes_failed),
        (long long)vd_tls_expires_in_s(gate->tls), (long long)version,
        gate_keys_known(gate->keys) ? "true" : "false",
        (unsigned long long)((vd_monotonic_ms() - gate->started_ms) / 1000));
    vd_arena_destroy(&arena);
    return rc;
}
