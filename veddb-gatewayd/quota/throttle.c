/* veddb-gatewayd/quota/throttle.c — see throttle.h. */
#include "veddb-gatewayd/quota/throttle.h"

#include "libcommon/base/clock.h"
#include "veddb-gatewayd/audit.h"

#include <stdio.h>

#define NOTES_AT_ONCE 16
#define US_PER_MS     1000

/* ---- whose it is ---- */

static vd_slice_t address_key(const gate_conn_t *conn)
{
    return vd_slice(conn->address.bytes, sizeof conn->address.bytes);
}

static void note(gate_request_t *request, gate_refusal_t kind, gate_scope_t scope)
{
    const gate_conn_t *conn = request->conn;
    char address[64];
    vd_slice_t who = VD_SLICE_NULL;
    if (scope == GATE_SCOPE_USER && conn->user != NULL)
        who = vd_slice_str(conn->user->name_at_db);
    else if (scope == GATE_SCOPE_ADDRESS)
        who = vd_slice_str(gate_address_print(&conn->address, address));
    gate_notes_add(request->thread->gate->notes, kind, scope, who);
}

static void refuse(gate_request_t *request, gate_scope_t scope, const char *what, uint64_t limit,
                   uint64_t wait_us)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_bb_t bb;
    vd_bson_t details;
    unsigned long long wait_ms = wait_us / US_PER_MS + 1;
    (void)vd_error_set(&err, VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED,
                       "over the limit of %s per %s (%llu): try again in %llu ms", what,
                       scope == GATE_SCOPE_TOTAL ? "node" : gate_scope_names[scope],
                       (unsigned long long)limit, wait_ms); /* the code is the reply's */
    vd_bb_init_arena(&bb, request->arena, 256);
    vd_bb_int64(&bb, "baseBackoffMS", (int64_t)wait_ms); /* drivers that know it wait for that */
    if (vd_bb_finish(&bb, &details, NULL) == VD_OK)
        err.details = vd_slice(details.data, details.len);
    gate_request_finish(request, err.code, &err);
}

/* False: refused, and over; so is the connection then. */
static bool enter_user(gate_request_t *request)
{
    gate_thread_t *thread = request->thread;
    gate_conn_t *conn = request->conn;
    if (conn->by_user != NULL || conn->user == NULL)
        return true;
    gate_account_t *account =
        gate_accounts_open(thread->accounts, GATE_SCOPE_USER, vd_slice_str(conn->user->name_at_db));
    if (gate_account_enter(thread->accounts, account)) {
        conn->by_user = account;
        return true;
    }
    uint64_t limit = gate_account_limit(thread->accounts, account, GATE_LIMIT_CONNECTIONS_PER_USER);
    gate_accounts_close(thread->accounts, &account);
    note(request, GATE_REFUSED_CONNECTIONS, GATE_SCOPE_USER);
    request->fault.close = true;
    refuse(request, GATE_SCOPE_USER, "connections", limit, 0);
    return false;
}

void gate_throttle_logout(gate_conn_t *conn)
{
    gate_accounts_t *accounts = conn->thread->accounts;
    if (conn->by_user == NULL)
        return;
    gate_account_leave(accounts, conn->by_user);
    gate_accounts_close(accounts, &conn->by_user);
}

void gate_throttle_closed(gate_conn_t *conn)
{
    gate_throttle_logout(conn);
    if (conn->by_address != NULL)
        gate_accounts_close(conn->thread->accounts, &conn->by_address);
}

static gate_account_t *account_of(gate_request_t *request, unsigned on, gate_scope_t scope)
{
    gate_conn_t *conn = request->conn;
    if ((on & (1u << scope)) == 0)
        return NULL;
    if (scope == GATE_SCOPE_TOTAL)
        return request->thread->total;
    if (scope == GATE_SCOPE_USER)
        return conn->by_user;
    if (conn->by_address == NULL)
        conn->by_address =
            gate_accounts_open(request->thread->accounts, GATE_SCOPE_ADDRESS, address_key(conn));
    return conn->by_address;
}

/* ---- before ---- */

static bool may_be_refused(const gate_command_t *command)
{
    return command->where == GATE_RUN_STORAGE &&
           (command->flags & (GATE_TRANSACTION | GATE_ENDS)) == 0;
}

typedef struct {
    int64_t wait_us; /* -1: refused */
    uint64_t would_us;
    gate_scope_t scope;
    gate_rate_t rate;
} verdict_t;

static verdict_t take(gate_request_t *request, unsigned on)
{
    gate_thread_t *thread = request->thread;
    /* One document and a byte at least: so what others owe is met here, too. */
    const double cost[GATE_RATES] = {[GATE_RATE_OPERATIONS] = 1,
                                     [GATE_RATE_BYTES_IN] = request->wire_bytes,
                                     [GATE_RATE_BYTES_OUT] = 1,
                                     [GATE_RATE_EXAMINED] = 1};
    uint64_t now_us = vd_monotonic_us(),
             wait_max_us = gate_quota_value(thread->gate->quota, GATE_LIMIT_WAIT_MAX) * US_PER_MS;
    verdict_t verdict = {0};
    for (unsigned scope = 0; scope < GATE_SCOPES; scope++) {
        gate_account_t *account = account_of(request, on, (gate_scope_t)scope);
        gate_rate_t rate = GATE_RATE_NONE;
        uint64_t would_us;
        if (account == NULL)
            continue;
        int64_t wait = gate_account_take(thread->accounts, account, now_us, cost, wait_max_us,
                                         &rate, &would_us);
        if (wait < 0) {
            for (unsigned k = 0; k < scope; k++) {
                gate_account_t *before = account_of(request, on, (gate_scope_t)k);
                if (before != NULL)
                    gate_account_give(before, cost);
            }
            return (verdict_t){-1, would_us, (gate_scope_t)scope, rate};
        }
        if (wait > verdict.wait_us)
            verdict = (verdict_t){wait, would_us, (gate_scope_t)scope, rate};
    }
    return verdict;
}

/* Who may set limits can always do so. */
static bool is_free(const gate_command_t *command)
{
    return command->where == GATE_RUN_HERE && (command->flags & GATE_ENDS) != 0;
}

bool gate_throttle_admit(gate_request_t *request, void (*go)(gate_request_t *))
{
    gate_t *gate = request->thread->gate;
    unsigned on = gate_quota_on(gate->quota);
    if (VD_LIKELY(on == 0) || request->admitted || is_free(request->command))
        return true;
    request->admitted = true;
    if ((on & (GATE_ON_USER | GATE_ON_USER_BOUNDS)) != 0 && !enter_user(request))
        return false;
    verdict_t verdict = take(request, on);
    if (verdict.wait_us == 0)
        return true;
    vd_error_t err = VD_ERROR_INIT;
    gate_refusal_t kind = (gate_refusal_t)verdict.rate; /* rates come first, in their order */
    if (verdict.wait_us < 0 && may_be_refused(request->command)) {
        gate_limit_t limit = gate_limit_of_rate(verdict.scope, verdict.rate);
        gate_account_t *account = account_of(request, on, verdict.scope);
        note(request, kind, verdict.scope);
        refuse(request, verdict.scope, gate_refusal_names[kind],
               gate_account_limit(request->thread->accounts, account, limit), verdict.would_us);
        return false;
    }
    uint64_t wait_us = verdict.wait_us > 0
                           ? (uint64_t)verdict.wait_us
                           : gate_quota_value(gate->quota, GATE_LIMIT_WAIT_MAX) * US_PER_MS;
    gate_notes_waited(gate->notes, kind, verdict.scope);
    if (gate_request_park(request, (wait_us + US_PER_MS - 1) / US_PER_MS, go, &err) != VD_OK)
        gate_request_finish(request, err.code, &err);
    return false;
}

/* ---- after ---- */

static void charge(gate_request_t *request, gate_rate_t rate, double amount)
{
    gate_thread_t *thread = request->thread;
    unsigned on = gate_quota_on(thread->gate->quota);
    if (VD_LIKELY((on & ~GATE_ON_USER_BOUNDS) == 0) || request->conn == NULL || amount <= 0)
        return;
    uint64_t now_us = vd_monotonic_us();
    for (unsigned scope = 0; scope < GATE_SCOPES; scope++) {
        gate_account_t *account = account_of(request, on, (gate_scope_t)scope);
        if (account != NULL)
            gate_account_charge(thread->accounts, account, now_us, rate, amount);
    }
}

void gate_throttle_sent(gate_request_t *request, size_t bytes)
{
    charge(request, GATE_RATE_BYTES_OUT, (double)bytes - 1);
}

void gate_throttle_answered(gate_request_t *request, const gate_answer_t *answer)
{
    if (answer->rc != VD_OK)
        return;
    if (answer->reply->examined > 1)
        charge(request, GATE_RATE_EXAMINED, (double)answer->reply->examined - 1);
    switch (answer->reply->status) {
    case VD_OK:
        break;
    case VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED:
        note(request, GATE_REFUSED_QUEUE, GATE_SCOPE_TOTAL);
        break;
    case VD_ERR_TOO_MANY_CURSORS:
        note(request, GATE_REFUSED_CURSORS, GATE_SCOPE_USER);
        break;
    case VD_ERR_TOO_MANY_LOGICAL_SESSIONS:
        note(request, GATE_REFUSED_SESSIONS, GATE_SCOPE_USER);
        break;
    case VD_ERR_RESULT_TOO_LARGE:
        note(request, GATE_REFUSED_RESULT, GATE_SCOPE_USER);
        break;
    default:
        break;
    }
}

void gate_throttle_bounds(gate_request_t *request, vdp_operation_command_t *command)
{
    gate_thread_t *thread = request->thread;
    gate_quota_t *quota = thread->gate->quota;
    if (may_be_refused(request->command)) {
        uint32_t bound = (uint32_t)gate_quota_value(quota, GATE_LIMIT_QUEUE_WAIT);
        command->queue_wait_ms = bound == 0 ? UINT32_MAX : bound;
    }
    gate_account_t *account = request->conn->by_user;
    if (VD_LIKELY((gate_quota_on(quota) & GATE_ON_USER_BOUNDS) == 0) || account == NULL)
        return;
    gate_accounts_t *accounts = thread->accounts;
    command->cursors_max =
        (uint32_t)gate_account_limit(accounts, account, GATE_LIMIT_CURSORS_PER_USER);
    command->sessions_max =
        (uint32_t)gate_account_limit(accounts, account, GATE_LIMIT_SESSIONS_PER_USER);
    command->batch_max = (uint32_t)gate_account_limit(accounts, account, GATE_LIMIT_BATCH_BYTES);
    command->result_max = gate_account_limit(accounts, account, GATE_LIMIT_RESULT_BYTES);
}

void gate_throttle_tell(gate_thread_t *thread, bool all)
{
    gate_note_t notes[NOTES_AT_ONCE];
    uint32_t count;
    do {
        count = gate_notes_take(thread->gate->notes, all, notes, NOTES_AT_ONCE);
        if (count != 0)
            gate_audit_limits(thread, notes, count);
    } while (count == NOTES_AT_ONCE);
}
