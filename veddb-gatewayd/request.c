/* veddb-gatewayd/request.c — see request.h. */
#include "veddb-gatewayd/request_private.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/access.h"
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/auth/token_store.h"
#include "veddb-gatewayd/compress.h"
#include "veddb-gatewayd/faults.h"
#include "veddb-gatewayd/quota/throttle.h"
#include "veddb-gatewayd/recheck.h"

#include <strings.h>

#define POOL_MAX          64
#define KEYS_WAIT_MS      3000 /* for the keys to be loaded again */
#define KEYS_LOOK_MS      50
#define LEASE_WAIT_MS     5000 /* for what was acknowledged to be known again */
#define LEASE_LOOK_MS     10
#define CLOCK_DRIFT_MAX_S (365ull * 24 * 60 * 60)

/* ---- pool ---- */

static gate_request_t *request_take(gate_thread_t *thread)
{
    vd_node_t *node = vd_list_pop_front(&thread->idle_requests);
    gate_request_t *request;
    vd_arena_t *arena;
    if (node != NULL) {
        thread->idle_request_count--;
        request = VD_CONTAINER_OF(node, gate_request_t, node);
        arena = request->arena;
        /* The reply builder's table of depths needs no clearing. */
        memset(request, 0, offsetof(gate_request_t, reply));
        memset(&request->grant, 0, sizeof *request - offsetof(gate_request_t, grant));
    } else {
        request = vd_xalloc(sizeof *request);
        arena = vd_arena_create();
    }
    request->arena = arena;
    request->thread = thread;
    vd_bb_init_arena(&request->reply, arena, GATE_REQUEST_REPLY_MAX_BYTES);
    return request;
}

static void request_free(gate_request_t *request)
{
    vd_arena_destroy(&request->arena);
    vd_free(request);
}

static void request_give(gate_request_t *request)
{
    gate_thread_t *thread = request->thread;
    gate_audit_drop(request);
    gate_recheck_forget(request);
    vd_loop_remove(&request->timer);
    vd_list_remove(&request->node);
    if (request->unpacked != NULL)
        vd_free(request->unpacked);
    request->unpacked = NULL;
    if (request->taken.cap != 0)
        vd_buf_done(&request->taken);
    thread->held_bytes -= request->held;
    thread->room_made |= request->held != 0;
    request->held = 0;
    vd_arena_reset(request->arena);
    if (thread->idle_request_count >= POOL_MAX) {
        request_free(request);
        return;
    }
    thread->idle_request_count++;
    vd_list_push_front(&thread->idle_requests, &request->node);
}

void gate_request_pool_done(gate_thread_t *thread)
{
    vd_node_t *node;
    while ((node = vd_list_pop_front(&thread->idle_requests)) != NULL)
        request_free(VD_CONTAINER_OF(node, gate_request_t, node));
    thread->idle_request_count = 0;
}

/* ---- out ---- */

static int32_t next_id(gate_thread_t *thread)
{
    return ++thread->next_message_id < 0 ? (thread->next_message_id = 1) : thread->next_message_id;
}

/* Of the reply's cluster time, whoever wrote it. Without a key for it the time goes out unsigned.
 */
static void sign(gate_thread_t *thread, uint8_t *document, size_t len)
{
    uint64_t time;
    uint8_t *hash, *key_id;
    if (!gate_reply_signature(document, len, &time, &hash, &key_id) ||
        !gate_keys_sign(thread->gate->keys, time, &thread->proof))
        return;
    memcpy(hash, thread->proof.hash, GATE_PROOF_BYTES);
    vd_put_u64(key_id, (uint64_t)thread->proof.key_id);
}

static int write_packed(gate_request_t *request, vd_buf_t *out, int32_t id, vd_slice_t document,
                        uint32_t flags)
{
    uint8_t *copy = vd_arena_copy(request->arena, document.data, document.len);
    sign(request->thread, copy, document.len);
    return gate_wire_write_compressed(out, id, request->reply_to, flags,
                                      vd_slice(copy, document.len), request->compressor, NULL);
}

static void send_document(gate_request_t *request, vd_slice_t document, uint32_t flags)
{
    gate_thread_t *thread = request->thread;
    gate_conn_t *conn = request->conn;
    if (request->no_reply || conn == NULL || conn->state != GATE_CONN_OPEN)
        return;
    vd_buf_t *out = &thread->assembly;
    vd_buf_clear(out);
    int32_t id = next_id(thread);
    bool packed = !request->legacy && request->compressed &&
                  (request->command == NULL || (request->command->flags & GATE_NO_COMPRESS) == 0);
    int rc;
    if (request->legacy)
        rc = gate_wire_write_reply(out, id, request->reply_to, document);
    else if (packed)
        rc = write_packed(request, out, id, document, flags);
    else
        rc = gate_wire_write_msg(out, id, request->reply_to, flags, document);
    if (rc == VD_OK && !packed) /* the document stands at the end of both forms */
        sign(thread, vd_buf_at(out, vd_buf_len(out) - document.len), document.len);
    request->reply_to = id; /* of the next one, when this is a stream */
    if (rc != VD_OK) {
        gate_conn_close(conn, "reply does not fit");
        return;
    }
    gate_throttle_sent(request, vd_buf_len(out));
    gate_conn_write(conn, vd_buf_slice(out));
    vd_buf_shrink(out, GATE_SCRATCH_BYTES);
}

/* The request is over; a connection that lives goes on. Connections are freed at the end of the
 * turn, so conn is valid here even when it is dead. */
void gate_request_finished(gate_request_t *request)
{
    gate_conn_t *conn = request->conn;
    bool close = request->fault.close;
    atomic_fetch_sub_explicit(&request->thread->gate->stats.connections_active, 1,
                              memory_order_relaxed);
    if (conn != NULL)
        conn->request = NULL;
    request_give(request);
    if (conn == NULL || conn->state == GATE_CONN_DEAD)
        return;
    if (close)
        gate_conn_close_softly(conn, NULL);
    else
        gate_conn_request_done(conn);
}

unsigned gate_request_labels(const gate_request_t *request, int code, unsigned facts)
{
    /* MongoDB tells a change stream by its cursor: failCommand acts before that is looked at. */
    bool more = request->command != NULL && strcmp(request->command->name, "getMore") == 0 &&
                (!request->fault.active || request->fault.after_checkout);
    return gate_reply_labels(code, facts) | (more ? gate_reply_cursor_labels(code) : 0);
}

/* Puts what a fail point asks for behind a reply. */
static vd_slice_t add_fault(gate_request_t *request, vd_slice_t document)
{
    if (!request->fault.active || request->fault.write_concern_error.len == 0 || request->no_reply)
        return document;
    vd_bb_t bb;
    vd_bson_t whole;
    vd_bb_init_arena(&bb, request->arena, GATE_REQUEST_REPLY_MAX_BYTES);
    vd_bb_concat(&bb, (vd_bson_t){document.data, (uint32_t)document.len});
    vd_bb_document(&bb, "writeConcernError", request->fault.write_concern_error);
    int64_t code = 0;
    (void)vd_value_as_int64(vd_bson_get(request->fault.write_concern_error, "code"), &code);
    unsigned labels = code <= 0 || code > INT32_MAX
                          ? 0
                          : gate_request_labels(request, -(int)code, request->facts);
    if (request->fault.has_labels)
        vd_bb_array(&bb, "errorLabels", request->fault.labels);
    else if ((labels & VD_LABEL_RETRYABLE_WRITE) != 0)
        gate_reply_label_array(&bb, VD_LABEL_RETRYABLE_WRITE);
    if (vd_bb_finish(&bb, &whole, NULL) != VD_OK)
        return document;
    return vd_slice(whole.data, whole.len);
}

void gate_request_finish_raw(gate_request_t *request, vd_slice_t document)
{
    if (gate_audit_hold(request, document))
        return;
    /* A write that fails closes the connection, which must not abandon the request under our feet.
     */
    if (request->conn != NULL)
        request->conn->request = NULL;
    send_document(request, add_fault(request, document), 0);
    gate_request_finished(request);
}

bool gate_request_stream(gate_request_t *request)
{
    gate_reply_times_t times = gate_times(request->thread);
    gate_conn_t *conn = request->conn;
    vd_bson_t document;
    gate_reply_ok(&request->reply, &times);
    VD_ASSERT(vd_bb_finish(&request->reply, &document, NULL) ==
              VD_OK); /* hello is far below the limit */
    conn->request = NULL;
    send_document(request, vd_slice(document.data, document.len), GATE_MSG_MORE_TO_COME);
    if (conn->state != GATE_CONN_OPEN) {
        gate_request_finished(request);
        return false;
    }
    conn->request = request;
    vd_arena_reset(request->arena);
    vd_bb_init_arena(&request->reply, request->arena, GATE_REQUEST_REPLY_MAX_BYTES);
    return true;
}

void gate_request_fail(gate_request_t *request, const vd_error_t *err)
{
    gate_reply_times_t times = gate_times(request->thread);
    vd_bson_t document;
    vd_bb_t bb;
    gate_audit_command(request, err->code);
    atomic_fetch_add_explicit(&request->thread->gate->stats.asserts_user, 1, memory_order_relaxed);
    vd_bb_init_arena(&bb, request->arena, GATE_REQUEST_REPLY_MAX_BYTES);
    unsigned labels = gate_request_labels(request, err->code, request->facts);
    bool draining = atomic_load_explicit(&request->thread->gate->draining, memory_order_relaxed);
    bool state_change = gate_reply_is_state_change(err->code, draining);
    if (request->fault.active && request->fault.has_labels) {
        gate_reply_error(&bb, err, 0, &times);
        if (!vd_bson_is_empty(request->fault.labels))
            vd_bb_array(&bb, "errorLabels", request->fault.labels);
    } else {
        gate_reply_error(&bb, err, labels, &times);
    }
    if (state_change)
        gate_topology_version(request->thread->gate, &bb);
    if (vd_bb_finish(&bb, &document, NULL) !=
        VD_OK) { /* details too large: send the error without */
        vd_error_t bare = {.code = err->code};
        memcpy(bare.message, err->message, sizeof bare.message);
        vd_bb_init_arena(&bb, request->arena, GATE_REQUEST_REPLY_MAX_BYTES);
        gate_reply_error(&bb, &bare, labels, &times);
        VD_ASSERT(vd_bb_finish(&bb, &document, NULL) == VD_OK);
    }
    gate_request_finish_raw(request, vd_slice(document.data, document.len));
}

/* A reply that may be large. */
void gate_request_finish_bounded(gate_request_t *request, vd_slice_t document)
{
    vd_error_t err = VD_ERROR_INIT;
    if (request->conn == NULL || gate_conn_has_room(request->conn, document.len)) {
        gate_request_finish_raw(request, document);
        return;
    }
    (void)vd_error_set(
        &err, VD_ERR_HOST_UNREACHABLE,
        "the reply was given up: clients leave too much unread"); /* the code is the reply's */
    gate_request_fail(request, &err);
}

void gate_request_finish(gate_request_t *request, int rc, const vd_error_t *err)
{
    vd_error_t own = VD_ERROR_INIT;
    if (rc != VD_OK) {
        if (err == NULL || err->code == VD_OK) {
            (void)vd_error_set(&own, rc, "the operation failed"); /* the code is the reply's */
            err = &own;
        }
        gate_request_fail(request, err);
        return;
    }
    gate_reply_times_t times = gate_times(request->thread);
    vd_bson_t document;
    gate_audit_command(request, VD_OK);
    gate_reply_ok(&request->reply, &times);
    if (vd_bb_finish(&request->reply, &document, &own) != VD_OK) {
        gate_request_fail(request, &own);
        return;
    }
    gate_request_finish_bounded(request, vd_slice(document.data, document.len));
}

/* ---- timers ---- */

static void timer_fired(void *context)
{
    gate_request_t *request = context;
    vd_loop_remove(&request->timer);
    request->timer_fired(request);
}

int gate_request_park(gate_request_t *request, uint64_t ms, void (*fired)(gate_request_t *request),
                      vd_error_t *err)
{
    request->timer_fired = fired;
    vd_loop_remove(&request->timer);
    return vd_loop_add_timer(request->thread->loop, ms == 0 ? 1 : ms, 0, timer_fired, request,
                             &request->timer, err);
}

/* ---- checks, then the work ---- */

static void count_operation(gate_request_t *request)
{
    gate_stats_t *stats = &request->thread->gate->stats;
    const char *name = request->command->name;
    unsigned kind = GATE_OPCOUNT_COMMAND;
    uint64_t n = 1;
    const vdp_sections_t *sections = &request->message.sections;
    const char *list = NULL;
    if (strcmp(name, "insert") == 0)
        kind = GATE_OPCOUNT_INSERT, list = "documents";
    else if (strcmp(name, "find") == 0)
        kind = GATE_OPCOUNT_QUERY;
    else if (strcmp(name, "update") == 0)
        kind = GATE_OPCOUNT_UPDATE, list = "updates";
    else if (strcmp(name, "delete") == 0)
        kind = GATE_OPCOUNT_DELETE, list = "deletes";
    else if (strcmp(name, "getMore") == 0)
        kind = GATE_OPCOUNT_GETMORE;
    if (list != NULL) {
        const vdp_sequence_t *sequence = vdp_sections_sequence(sections, list);
        vd_value_t array = sequence == NULL ? vd_bson_get(sections->body, list) : VD_VALUE_MISSING;
        if (sequence != NULL)
            n = sequence->count;
        else if (array.type == VD_BSON_ARRAY)
            n = vd_bson_count(vd_value_document(array));
    }
    atomic_fetch_add_explicit(&stats->opcounters[kind], n, memory_order_relaxed);
}

static void worker_run(void *context)
{
    gate_request_t *request = context;
    vd_error_clear(&request->worker_error);
    request->worker_rc = request->command->run(request, &request->reply, &request->worker_error);
}

static void worker_done(void *context)
{
    gate_request_t *request = context;
    request->on_worker = false;
    gate_request_finish(request, request->worker_rc, &request->worker_error);
}

static void run(gate_request_t *request)
{
    vd_error_t err = VD_ERROR_INIT;
    gate_member_t member;
    if (!request->restarted)
        count_operation(request);
    request->restarted = true;
    gate_member_read(request->thread->gate, NULL, &member);
    int rc = gate_member_admit(&member, request->command, gate_request_body(request), &err);
    if (rc != VD_OK) {
        gate_request_fail(request, &err);
        return;
    }
    switch (request->command->where) {
    case GATE_RUN_HERE:
        rc = request->command->run(request, &request->reply, &err);
        if (rc == VD_OK)
            gate_request_finish(request, VD_OK, NULL);
        break;
    case GATE_RUN_WORKER:
        rc = vd_bson_validate(
            vd_slice(gate_request_body(request).data, gate_request_body(request).len),
            VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX, &err);
        if (rc == VD_OK) {
            request->on_worker = true;
            rc = vd_worker_put(request->thread->gate->worker, request->thread->loop, worker_run,
                               worker_done, request, &err);
            request->on_worker = rc == VD_OK;
        }
        if (rc == VD_OK)
            rc = GATE_LATER;
        break;
    case GATE_RUN_STORAGE:
        if (gate_request_from_cache(request))
            return;
        rc = gate_request_forward(request, &err);
        if (rc == VD_OK)
            rc = GATE_LATER;
        break;
    case GATE_RUN_REFUSED:
        rc = vd_error_set(&err, request->command->refusal_code, "%s", request->command->help);
        break;
    }
    if (rc < 0)
        gate_request_fail(request, &err);
}

/* Takes the reference. Who was dropped meanwhile, or made anew under that name, is not logged in
 * any more. */
static void take_user(gate_conn_t *conn, gate_user_t *user)
{
    bool same = user->known && memcmp(user->unique, conn->user->unique, sizeof user->unique) == 0 &&
                gate_user_may_come(user, conn->client, conn->server);
    gate_user_drop(&conn->user);
    if (same)
        conn->user = user;
    else
        gate_user_drop(&user);
}

static void user_loaded(void *context, gate_user_t *user, const vd_error_t *err)
{
    gate_request_t *request = context;
    request->waiting_user = false;
    if (user == NULL) {
        gate_request_fail(request, err);
        return;
    }
    take_user(request->conn, user);
    gate_request_authorize(request);
}

/* True when the user is as storage knows it now; else gate_request_authorize() is called again
 * later, or the request has failed. */
static bool user_is_current(gate_request_t *request)
{
    gate_thread_t *thread = request->thread;
    gate_user_t *user = request->conn->user;
    if (user == NULL || !thread->state.attached || user->epoch == thread->state.auth_epoch)
        return true;
    vd_error_t err = VD_ERROR_INIT;
    gate_user_t *fresh = NULL;
    request->waiting_user = true;
    int rc =
        gate_users_get(thread->users, user->name, user->db, user_loaded, request, &fresh, &err);
    if (rc == GATE_LATER)
        return false;
    request->waiting_user = false;
    if (rc != VD_OK) {
        gate_request_fail(request, &err);
        return false;
    }
    take_user(request->conn, fresh);
    return true;
}

/* ---- $clusterTime of the client ---- */

static bool may_advance(const gate_user_t *user)
{
    return gate_privileges_allow(&user->privileges, GATE_ACTION_advanceClusterTime,
                                 GATE_RESOURCE_CLUSTER, VD_SLICE_NULL, VD_SLICE_NULL);
}

/* Who needs no signature may still not push the clock out of reach. */
static int drift_check(uint64_t time, vd_error_t *err)
{
    uint64_t now_s = (uint64_t)(vd_wall_ms() / 1000), time_s = time >> 32;
    if (time_s <= now_s + CLOCK_DRIFT_MAX_S)
        return VD_OK;
    return vd_error_set(
        err, VD_ERR_CLUSTER_TIME_FAILS_RATE_LIMITER,
        "New cluster time, %llu, is too far from this node's wall clock time, %llu.",
        (unsigned long long)time_s, (unsigned long long)now_s);
}

static int verify(gate_request_t *request, vd_bson_t fields, uint64_t time, vd_error_t *err)
{
    gate_keys_t *keys = request->thread->gate->keys;
    vd_value_t signature = vd_bson_get(fields, "signature");
    vd_slice_t hash = VD_SLICE_NULL;
    int64_t key_id = 0;
    if (signature.type == VD_BSON_OBJECT) {
        vd_value_t bytes = vd_bson_get(vd_value_document(signature), "hash"),
                   id = vd_bson_get(vd_value_document(signature), "keyId");
        if (bytes.type == VD_BSON_BINARY)
            hash = vd_value_binary(bytes, NULL);
        if (!vd_value_as_int64(id, &key_id))
            key_id = 0;
    }
    int rc = gate_keys_verify(keys, time, hash, key_id, err);
    if (rc != VD_ERR_KEY_NOT_FOUND || key_id == 0 || request->keys_waited)
        return rc;
    /* It may be one that another member has made: look once more. */
    vd_error_clear(err);
    request->keys_waited = true;
    request->keys_loads = gate_keys_loads(keys);
    request->keys_until_ms = vd_monotonic_ms() + KEYS_WAIT_MS;
    atomic_store(&request->thread->gate->keys_wanted, true);
    return GATE_LATER;
}

/* The time that the client brings moves our clock, and with the command storage's, if one of us has
 * signed it. GATE_LATER: gate_request_authorize() is called again. What is not newer than our own
 * is of no consequence and is not looked at; nor is what comes before a login. */
static int gossip_in(gate_request_t *request, vd_error_t *err)
{
    gate_thread_t *thread = request->thread;
    vd_value_t v = request->cluster_time;
    const gate_user_t *user = request->conn->user;
    if (vd_value_is_missing(v) || user == NULL)
        return VD_OK;
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "\"$clusterTime\" had the wrong type. Expected object, found %s",
                            vd_bson_type_name(v.type));
    vd_bson_t fields = vd_value_document(v);
    vd_value_t timestamp = vd_bson_get(fields, "clusterTime");
    if (timestamp.type != VD_BSON_TIMESTAMP)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "\"$clusterTime.clusterTime\" must be a timestamp");
    uint64_t time = vd_value_timestamp(timestamp);
    if (time <= gate_times(thread).cluster_time)
        return VD_OK;
    int rc;
    if (may_advance(user))
        rc = drift_check(time, err);
    else if (gate_keys_known(thread->gate->keys))
        rc = verify(request, fields, time, err);
    else
        return VD_OK; /* nobody could have signed it */
    if (rc == VD_OK)
        thread->cluster_time = time;
    return rc;
}

static void keys_look(gate_request_t *request)
{
    vd_error_t err = VD_ERROR_INIT;
    if (gate_keys_loads(request->thread->gate->keys) == request->keys_loads &&
        vd_monotonic_ms() < request->keys_until_ms) {
        if (gate_request_park(request, KEYS_LOOK_MS, keys_look, &err) != VD_OK)
            gate_request_fail(request, &err);
        return;
    }
    gate_request_authorize(request);
}

/* A query that wants the primary, which this member is not: that is known at once. */
static bool wants_primary(const gate_request_t *request)
{
    const gate_command_t *command = request->command;
    bool query = command->check == GATE_CHECK_AGGREGATE ||
                 (command->check == GATE_CHECK_COLLECTION && command->action == GATE_ACTION_find);
    return query && !vd_slice_is(request->db, "local") &&
           gate_state_role(&request->thread->state) == VDP_ROLE_SECONDARY &&
           gate_member_prefers_primary(request->message.sections.body);
}

/* Until this member knows again of all that was acknowledged; not for ever. */
static void wait_for_lease(gate_request_t *request, _Atomic uint64_t *refused, const char *why)
{
    vd_error_t err = VD_ERROR_INIT;
    uint64_t now = vd_monotonic_ms();
    if (wants_primary(request)) {
        (void)vd_error_set(&err, VD_ERR_NOT_PRIMARY_NO_SECONDARY_OK,
                           "not primary and secondaryOk=false");
        gate_request_fail(request, &err);
        return;
    }
    if (request->lease_until_ms == 0)
        request->lease_until_ms = now + LEASE_WAIT_MS;
    if (now < request->lease_until_ms) {
        if (gate_request_park(request, LEASE_LOOK_MS, gate_request_authorize, &err) != VD_OK)
            gate_request_fail(request, &err);
        return;
    }
    atomic_fetch_add_explicit(refused, 1, memory_order_relaxed);
    (void)vd_error_set(&err, VD_ERR_NOT_PRIMARY_OR_SECONDARY, "%s", why);
    gate_request_fail(request, &err);
}

/* True: it is known whether the token of the login is good. Else gate_request_authorize() is called
 * again, or the request has failed. */
static bool token_is_current(gate_request_t *request)
{
    gate_thread_t *thread = request->thread;
    gate_conn_t *conn = request->conn;
    gate_tokens_t *tokens = thread->gate->tokens;
    if (conn->token == NULL)
        return true;
    gate_stats_t *stats = &thread->gate->stats;
    bool known = gate_tokens_epoch(tokens) >= thread->state.auth_epoch;
    bool fresh = gate_tokens_fresh(tokens, thread->state.fresh_ms, vd_monotonic_ms());
    if (known && fresh) {
        gate_conn_check_token(conn); /* what came of it is conn's: token_revoked */
        return true;
    }
    if (!known)
        gate_token_store_want(thread->gate);
    wait_for_lease(request, &stats->tokens_refused_unsure,
                   "this member can't confirm at present which tokens were revoked");
    return false;
}

/* True: this member knows that its users and roles are the newest, or need not for this. Else as
 * above. */
static bool users_are_sure(gate_request_t *request)
{
    gate_thread_t *thread = request->thread;
    if (request->conn->user == NULL || !gate_access_is_leased(request->command) ||
        gate_member_knows_users(thread->gate, &thread->state, vd_monotonic_ms()))
        return true;
    wait_for_lease(request, &thread->gate->stats.users_refused_unsure,
                   "this member can't confirm at present that its users and roles are the newest");
    return false;
}

static gate_login_state_t login_state(const gate_request_t *request)
{
    const gate_conn_t *conn = request->conn;
    if (conn->user == NULL)
        return GATE_LOGIN_HOLDS; /* there is none */
    if (conn->token != NULL && conn->token_revoked)
        return GATE_LOGIN_REVOKED;
    return gate_conn_login_expired(conn, vd_loop_now_ms(request->thread->loop)) ? GATE_LOGIN_EXPIRED
                                                                                : GATE_LOGIN_HOLDS;
}

void gate_request_authorize(gate_request_t *request)
{
    const gate_command_t *command = request->command;
    vd_error_t err = VD_ERROR_INIT;
    if (!gate_throttle_admit(request, gate_request_authorize))
        return;
    if (command->check != GATE_CHECK_OPEN &&
        (!user_is_current(request) || !token_is_current(request) || !users_are_sure(request)))
        return;
    const gate_user_t *user = request->conn->user;
    gate_login_state_t login = login_state(request);
    int rc = gate_access_state(command, login, request->in_transaction, &err);
    if (rc == VD_ERR_REAUTHENTICATION_REQUIRED && login == GATE_LOGIN_REVOKED)
        gate_tokens_count_refused(request->thread->gate->tokens);
    if (rc == VD_OK)
        rc = gate_access_check(command, request->db, &request->message.sections,
                               user == NULL ? NULL : &user->principal, &request->grant, &err);
    if (rc == VD_OK)
        rc = gossip_in(request, &err);
    if (rc == GATE_LATER)
        keys_look(request);
    else if (rc != VD_OK)
        gate_request_fail(request, &err);
    else
        run(request);
}

static void fault_waited(gate_request_t *request)
{
    if (request->fault.close) {
        gate_request_finished(request);
    } else if (request->fault.has_error) {
        vd_error_t err = VD_ERROR_INIT;
        (void)vd_error_set(
            &err, request->fault.error_code,
            "Failing command via 'failCommand' failpoint"); /* the code is the reply's */
        gate_request_fail(request, &err);
    } else {
        request->fault.then(request);
    }
}

bool gate_request_meets_fault(gate_request_t *request, void (*then)(gate_request_t *request))
{
    const gate_t *gate = request->thread->gate;
    vd_error_t err = VD_ERROR_INIT;
    if (VD_LIKELY(!gate->settings.test_faults))
        return false;
    request->fault = (gate_fault_t){.then = then};
    gate_faults_match(gate->faults, request);
    if (!request->fault.active)
        return false;
    if (!request->fault.block)
        fault_waited(request);
    else if (gate_request_park(request, request->fault.block_ms, fault_waited, &err) != VD_OK)
        gate_request_fail(request, &err);
    return true;
}

static int find_command(gate_request_t *request, vd_error_t *err)
{
    const gate_command_t *command = gate_command_find(request->name);
    gate_t *gate = request->thread->gate;
    int name_len = (int)(request->name.len < 100 ? request->name.len : 100);
    if (command == NULL || ((command->flags & GATE_TEST_ONLY) != 0 && !gate->settings.test_faults))
        return vd_error_set(err, VD_ERR_COMMAND_NOT_FOUND, "no such command: '%.*s'", name_len,
                            request->name.data);
    if (request->legacy && (command->flags & GATE_LEGACY) == 0)
        return vd_error_set(
            err, VD_ERR_UNSUPPORTED_OP_QUERY,
            "Unsupported OP_QUERY command: %.*s. The client driver may require an upgrade.",
            name_len, request->name.data);
    request->command = command;
    if ((command->flags & GATE_ADMIN_ONLY) != 0 && !vd_slice_is(request->db, "admin"))
        return vd_error_set(err, VD_ERR_UNAUTHORIZED,
                            "%s may only be run against the admin database.", command->name);
    if (request->api_strict && (command->flags & GATE_API_V1) == 0)
        return vd_error_set(err, VD_ERR_API_STRICT_ERROR,
                            "Provided apiStrict:true, but the command %s is not in API Version 1",
                            command->name);
    if ((command->flags & GATE_TRANSACTION) != 0)
        request->facts |=
            strcmp(command->name, "commitTransaction") == 0 ? GATE_REPLY_COMMIT : GATE_REPLY_ABORT;
    else if (request->in_transaction)
        request->facts |= GATE_REPLY_IN_TRANSACTION;
    else if (request->has_txn && (command->flags & GATE_RETRY_WRITE) != 0)
        request->facts |= GATE_REPLY_TXN_NUMBER;
    return VD_OK;
}

static int unpack(gate_request_t *request, const gate_wire_header_t *header, vd_slice_t *payload,
                  gate_wire_header_t *inner, vd_error_t *err)
{
    *inner = *header;
    if (header->op != GATE_OP_COMPRESSED)
        return VD_OK;
    gate_wire_compressed_t packed;
    uint32_t max =
        request->conn->user != NULL ? VD_WIRE_MESSAGE_MAX_BYTES : VD_WIRE_PRELOGIN_MAX_BYTES;
    int rc = gate_wire_compressed(*payload, max, &packed, err);
    if (rc != VD_OK)
        return rc;
    request->unpacked = vd_try_alloc(packed.uncompressed_bytes + 1ul);
    if (request->unpacked == NULL)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "no memory to unpack a message");
    rc = gate_decompress(packed.compressor, packed.data, request->unpacked,
                         packed.uncompressed_bytes, err);
    if (rc != VD_OK)
        return rc;
    *payload = vd_slice(request->unpacked, packed.uncompressed_bytes);
    inner->op = packed.original_op;
    inner->length = packed.uncompressed_bytes + GATE_WIRE_HEADER_BYTES;
    request->compressed = true;
    request->compressor = packed.compressor;
    return VD_OK;
}

void gate_request_begin(gate_conn_t *conn, const gate_wire_header_t *header, vd_slice_t payload)
{
    VD_ASSERT(conn->request == NULL);
    vd_error_t err = VD_ERROR_INIT;
    gate_request_t *request = request_take(conn->thread);
    gate_wire_header_t inner;
    gate_stats_t *stats = &conn->thread->gate->stats;
    conn->request = request;
    request->conn = conn;
    request->reply_to = header->request_id;
    request->wire_bytes = header->length;
    atomic_fetch_add_explicit(&stats->requests, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&stats->connections_active, 1, memory_order_relaxed);
    if (unpack(request, header, &payload, &inner, &err) != VD_OK ||
        gate_wire_parse(&inner, payload, &request->message, &err) != VD_OK) {
        gate_conn_close(conn, err.message); /* abandons the request */
        return;
    }
    conn->said_hello = true;
    request->legacy = request->message.op == GATE_OP_QUERY;
    request->no_reply = (request->message.flags & GATE_MSG_MORE_TO_COME) != 0;
    request->exhaust = (request->message.flags & GATE_MSG_EXHAUST_ALLOWED) != 0;
    if (request->legacy)
        request->db = request->message.db;
    int rc = gate_request_read_fields(request, &err);
    if (rc == VD_OK)
        rc = find_command(request, &err);
    if (rc != VD_OK) {
        gate_request_fail(request, &err);
        return;
    }
    if (!gate_request_meets_fault(request, gate_request_authorize))
        gate_request_authorize(request);
}

/* The client's bytes, and the room they take. */
static void take_bytes(gate_request_t *request, gate_conn_t *conn)
{
    request->taken = conn->in;
    vd_buf_init(&conn->in, VD_WIRE_MESSAGE_MAX_BYTES);
    request->held = conn->held;
    conn->held = 0;
}

bool gate_request_abandon(gate_request_t *request)
{
    gate_thread_t *thread = request->thread;
    gate_conn_t *conn = request->conn;
    request->conn = NULL;
    if (request->waiting_user)
        gate_users_forget(thread->users, request);
    gate_recheck_forget(request);
    if (request->on_worker) {
        /* The worker reads the client's bytes: they stay with the request. */
        take_bytes(request, conn);
        return false;
    }
    if (request->no_reply && request->flight.id != 0 && !thread->stopping) {
        /* A write that wants no answer is still done; its bytes stay until it has gone. */
        vdp_operation_command_t *command = &request->flight.command;
        take_bytes(request, conn);
        command->user = vd_arena_copy_slice(request->arena, command->user);
        command->client = vd_arena_copy_slice(request->arena, command->client);
        command->app = vd_arena_copy_slice(request->arena, command->app);
        command->lsid_user = vd_arena_copy_slice(request->arena, command->lsid_user);
        request->closed_connection = conn->id;
        return true;
    }
    if (vd_node_linked(&request->node))
        atomic_fetch_sub_explicit(&thread->gate->stats.awaiting_hello, 1, memory_order_relaxed);
    gate_upstream_cancel(thread->upstream, &request->flight);
    gate_request_finished(request);
    return false;
}
