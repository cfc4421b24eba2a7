/* veddb-gatewayd/recheck.c — see recheck.h.
 *
 * The connections are gone through in a ring: those that were looked at stand at its end. A
 * connection keeps the user that its operation was sent for until the next command, since the
 * flight points into it. */
#include "veddb-gatewayd/recheck.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "veddb-gatewayd/request_private.h"

#define LEASE_WAIT_MS 5000
#define LEASE_LOOK_MS 10

struct gate_recheck_held {
    gate_answer_t answer;
    vdp_operation_reply_t reply;
    void (*deliver)(gate_request_t *request, const gate_answer_t *answer);
    uint64_t until_ms;
    bool sure;      /* this member knew that its users are the newest, */
    uint64_t epoch; /* which were these: as of them it must be allowed */
};

static void look(gate_request_t *request);
static void settle(gate_request_t *request);

/* ---- what may go on ---- */

static bool same_resource(const gate_resource_t *a, const gate_resource_t *b)
{
    return a->kind == b->kind && vd_slice_equal(a->db, b->db) &&
           vd_slice_equal(a->collection, b->collection);
}

static bool covers(const gate_privilege_t *now, const gate_privilege_t *before)
{
    return same_resource(&now->resource, &before->resource) &&
           (before->actions.bits[0] & ~now->actions.bits[0]) == 0 &&
           (before->actions.bits[1] & ~now->actions.bits[1]) == 0;
}

/* Mostly nothing has changed, and they stand in the same order. */
bool gate_recheck_keeps(const gate_privileges_t *before, const gate_privileges_t *now)
{
    for (uint32_t i = 0; i < before->count; i++) {
        bool kept = i < now->count && covers(&now->items[i], &before->items[i]);
        for (uint32_t k = 0; k < now->count && !kept; k++)
            kept = covers(&now->items[k], &before->items[i]);
        if (!kept)
            return false;
    }
    return true;
}

static bool may_go_on(gate_request_t *request, const gate_user_t *now)
{
    const gate_conn_t *conn = request->conn;
    const gate_user_t *before = conn->user;
    gate_access_grant_t grant;
    vd_error_t err = VD_ERROR_INIT;
    if (!now->known || memcmp(now->identity, before->identity, sizeof now->identity) != 0 ||
        !gate_user_may_come(now, conn->client, conn->server))
        return false;
    if (gate_access_check(request->command, request->db, &request->message.sections,
                          &now->principal, &grant, &err) != VD_OK)
        return false;
    if ((request->grant.all_users && !grant.all_users) ||
        (request->grant.all_visible && !grant.all_visible))
        return false;
    /* What its cursor reads by $lookup and the like was asked for when it was opened. Names are
     * listed by what one may see. */
    bool by_all = strcmp(request->command->name, "getMore") == 0 ||
                  request->command->check == GATE_CHECK_LIST_DATABASES ||
                  request->command->check == GATE_CHECK_LIST_COLLECTIONS;
    return !by_all || gate_recheck_keeps(&before->privileges, &now->privileges);
}

/* ---- an answer that waits ---- */

static void fail_ended(gate_request_t *request)
{
    vd_error_t err = VD_ERROR_INIT;
    (void)vd_error_set(&err, VD_ERR_CLIENT_DISCONNECT,
                       "the operation was interrupted: its user may not do it any more");
    gate_request_fail(request, &err);
}

static void end(gate_request_t *request)
{
    gate_conn_t *conn = request->conn;
    request->recheck_ended = true;
    vd_log(VD_LOG_INFO, "an operation was ended, its user may not do it any more",
           "conn=%llu client=%s command=%s", (unsigned long long)conn->id, conn->client,
           request->command->name);
    if (request->recheck_held != NULL)
        fail_ended(request);
    else
        gate_upstream_connection_closed(conn->thread->upstream, conn->id);
}

static void looked(void *context, gate_user_t *user, const vd_error_t *err)
{
    gate_request_t *request = context;
    gate_thread_t *thread = request->thread;
    request->recheck_waits = false;
    if (user == NULL) {
        thread->recheck_failed = true;
        if (request->recheck_held != NULL)
            gate_request_fail(request, err);
        return;
    }
    uint64_t epoch = user->epoch;
    bool fine = may_go_on(request, user);
    gate_user_drop(&user);
    if (!fine) {
        end(request);
        return;
    }
    request->recheck_epoch = epoch;
    if (request->recheck_held != NULL)
        settle(request);
    else if (epoch != thread->state.auth_epoch)
        look(request);
}

static void look(gate_request_t *request)
{
    gate_user_t *now = NULL;
    vd_error_t err = VD_ERROR_INIT;
    const gate_user_t *user = request->conn->user;
    request->recheck_waits = true;
    int rc =
        gate_users_get(request->thread->users, user->name, user->db, looked, request, &now, &err);
    if (rc != GATE_LATER)
        looked(request, rc == VD_OK ? now : NULL, &err);
}

/* As storage knows them; or it was looked at since. */
static bool is_current(const gate_request_t *request)
{
    uint64_t epoch = request->thread->state.auth_epoch;
    return request->conn->user->epoch == epoch || request->recheck_epoch == epoch;
}

static void not_sure(gate_request_t *request)
{
    vd_error_t err = VD_ERROR_INIT;
    if (vd_monotonic_ms() < request->recheck_held->until_ms) {
        if (gate_request_park(request, LEASE_LOOK_MS, settle, &err) != VD_OK)
            gate_request_fail(request, &err);
        return;
    }
    atomic_fetch_add_explicit(&request->thread->gate->stats.users_refused_unsure, 1,
                              memory_order_relaxed);
    (void)vd_error_set(
        &err, VD_ERR_NOT_PRIMARY_OR_SECONDARY,
        "this member can't confirm at present that its users and roles are the newest");
    gate_request_fail(request, &err);
}

static void settle(gate_request_t *request)
{
    gate_thread_t *thread = request->thread;
    gate_recheck_held_t *held = request->recheck_held;
    if (!held->sure) {
        if (!gate_member_knows_users(thread->gate, &thread->state, vd_monotonic_ms())) {
            not_sure(request);
            return;
        }
        held->sure = true;
        held->epoch = thread->state.auth_epoch;
    }
    if (request->conn->user->epoch != held->epoch && request->recheck_epoch < held->epoch) {
        look(request);
        return;
    }
    request->recheck_held = NULL;
    held->deliver(request, &held->answer);
}

static bool tells_something(const gate_request_t *request, const gate_answer_t *answer)
{
    return answer->rc == VD_OK && answer->reply->status == VD_OK && !request->no_reply &&
           (request->command->flags & GATE_WRITES) == 0 && !request->grant.writes &&
           request->command->check != GATE_CHECK_OPEN;
}

bool gate_recheck_hold(gate_request_t *request, const gate_answer_t *answer,
                       void (*deliver)(gate_request_t *request, const gate_answer_t *answer))
{
    gate_thread_t *thread = request->thread;
    bool waits = request->recheck_waits;
    if (request->conn->user == NULL || !tells_something(request, answer)) {
        gate_recheck_forget(request);
        return false;
    }
    if (request->recheck_ended) {
        fail_ended(request);
        return true;
    }
    bool sure = !gate_access_is_leased(request->command) ||
                gate_member_knows_users(thread->gate, &thread->state, vd_monotonic_ms());
    if (!waits && sure && is_current(request))
        return false;
    if (!gate_conn_has_room(request->conn, answer->body.len)) {
        vd_error_t err = VD_ERROR_INIT;
        gate_recheck_forget(request);
        (void)vd_error_set(&err, VD_ERR_HOST_UNREACHABLE,
                           "the reply was given up: clients leave too much unread");
        gate_request_fail(request, &err);
        return true;
    }
    gate_recheck_held_t *held = VD_ARENA_NEW(request->arena, gate_recheck_held_t);
    held->reply = *answer->reply;
    held->answer = (gate_answer_t){
        .rc = VD_OK,
        .reply = &held->reply,
        .body = vd_arena_copy_slice(request->arena, answer->body),
    };
    held->deliver = deliver;
    held->until_ms = vd_monotonic_ms() + LEASE_WAIT_MS;
    held->sure = sure;
    held->epoch = thread->state.auth_epoch;
    request->held += answer->body.len;
    thread->held_bytes += answer->body.len;
    request->recheck_held = held;
    if (!waits)
        settle(request);
    return true;
}

void gate_recheck_forget(gate_request_t *request)
{
    if (request->recheck_waits)
        gate_users_forget(request->thread->users, request);
    request->recheck_waits = false;
}

/* ---- all connections ---- */

static void conn_look(gate_conn_t *conn)
{
    gate_request_t *request = conn->request;
    if (conn->state == GATE_CONN_DEAD || conn->user == NULL || request == NULL ||
        request->flight.id == 0 || request->recheck_waits || request->recheck_ended ||
        is_current(request))
        return;
    look(request);
}

bool gate_recheck_turn(gate_thread_t *thread)
{
    vd_node_t *node;
    uint32_t looked_at = 0;
    if (!thread->state.attached)
        return false; /* what was under way has ended, or is asked again */
    if (thread->recheck_epoch != thread->state.auth_epoch) {
        thread->recheck_epoch = thread->state.auth_epoch;
        thread->recheck_pass++;
        thread->recheck_busy = true;
    }
    while (thread->recheck_busy) {
        if (looked_at++ >= GATE_RECHECKS_A_TURN)
            return true;
        node = vd_list_first(&thread->conns);
        gate_conn_t *conn = node == NULL ? NULL : VD_CONTAINER_OF(node, gate_conn_t, node);
        if (conn == NULL || conn->recheck_pass == thread->recheck_pass) {
            thread->recheck_busy = false;
            break;
        }
        conn->recheck_pass = thread->recheck_pass;
        vd_list_remove(node);
        vd_list_push_back(&thread->conns, node);
        conn_look(conn);
    }
    return false;
}

void gate_recheck_tick(gate_thread_t *thread)
{
    if (!thread->recheck_failed)
        return;
    thread->recheck_failed = false;
    thread->recheck_pass++;
    thread->recheck_busy = true;
}
