/* veddb-storaged/replication/role.c — see replication.h, "role": what this node may do now.
 *
 * Writers and a change of role look at each other in one order (all of it sequentially consistent):
 * a writer counts itself, then looks at the role; a change stores the role, then looks at the
 * count. So either the writer sees the new role and goes, or the change sees the writer and waits.
 */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/pins.h"
#include "veddb-storaged/registry.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/transactions.h"

#include <time.h>

#define WRITERS_WAIT_MS 5000 /* they are interrupted, and look at that often */
#define FLUSH_WAIT_MS   30000
#define NOOP_MAX_BYTES  (VD_BSON_INTERNAL_MAX_BYTES)

/* ---- writers ---- */

static int not_primary(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_NOT_WRITABLE_PRIMARY, "not primary");
}

int stor_replication_write_enter(stor_storage_t *storage, vd_error_t *err)
{
    if (VD_LIKELY(stor_replication_alone(storage)))
        return VD_OK;
    stor_replication_t *replication = storage->replication;
    atomic_fetch_add(&replication->writers, 1);
    if (VD_LIKELY(atomic_load(&replication->role) == VDP_ROLE_PRIMARY))
        return VD_OK;
    atomic_fetch_sub(&replication->writers, 1);
    return not_primary(err);
}

void stor_replication_write_leave(stor_storage_t *storage)
{
    if (VD_LIKELY(stor_replication_alone(storage)))
        return;
    int before = atomic_fetch_sub(&storage->replication->writers, 1);
    VD_ASSERT(before > 0);
}

int stor_replication_request_enter(stor_request_t *request, vd_error_t *err)
{
    if (request->entered)
        return VD_OK;
    int rc = stor_replication_write_enter(request->storage, err);
    request->entered = rc == VD_OK;
    return rc;
}

void stor_replication_request_leave(stor_request_t *request)
{
    if (request->entered)
        stor_replication_write_leave(request->storage);
    request->entered = false;
}

/* The lease is not over: nobody else can lead yet. */
static bool is_led(const stor_storage_t *storage)
{
    const stor_replication_t *replication = storage->replication;
    if (replication == NULL)
        return true; /* a storage without a set */
    uint64_t until = atomic_load_explicit(&replication->lease_until_ms, memory_order_relaxed);
    return replication->alone || until == 0 || vd_monotonic_ms() < until;
}

int stor_replication_request_commit(const stor_request_t *request, vd_error_t *err)
{
    if (VD_LIKELY(stor_replication_role(request->storage) == VDP_ROLE_PRIMARY &&
                  is_led(request->storage)))
        return VD_OK;
    return vd_error_set(err, VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE,
                        "operation was interrupted");
}

/* ---- change ---- */

static void writer_interrupt(stor_request_t *request, void *context)
{
    (void)context; /* all of them */
    int none = 0;
    if (request->entry != NULL &&
        ((request->entry->flags & STOR_COMMAND_WRITES) != 0 ||
         __atomic_load_n(&request->transaction_number, __ATOMIC_RELAXED) >= 0))
        (void)atomic_compare_exchange_strong(&request->killed, &none,
                                             VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE);
}

static void pause_us(long us)
{
    struct timespec pause = {0, us * 1000};
    (void)nanosleep(&pause, NULL); /* waking early is fine */
}

/* The role is not primary any more: until the last writer has seen it. */
static int writers_wait(stor_storage_t *storage, vd_error_t *err)
{
    stor_replication_t *replication = storage->replication;
    uint64_t give_up = vd_monotonic_ms() + WRITERS_WAIT_MS;
    for (;;) {
        /* Also those that were counted just before the role went: they see it gone. */
        (void)stor_transactions_kill(storage, VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE, NULL,
                                     NULL);
        if (atomic_load(&replication->writers) == 0 && stor_transactions_open(storage) == 0)
            break;
        if (vd_monotonic_ms() > give_up)
            return vd_error_set(err, VD_ERR_LOCK_TIMEOUT,
                                "%d writes and %u transactions are still under way after %d ms",
                                atomic_load(&replication->writers), stor_transactions_open(storage),
                                WRITERS_WAIT_MS);
        pause_us(100);
    }
    return VD_OK;
}

/* What was committed before this call is on disk after it. */
static int flushed_wait(stor_storage_t *storage, vd_error_t *err)
{
    uint64_t give_up = vd_monotonic_ms() + FLUSH_WAIT_MS;
    uint64_t enough = stor_engine_flushes(storage->engine) + 2; /* one may be under way */
    while (stor_engine_flushes(storage->engine) < enough) {
        if (vd_monotonic_ms() > give_up)
            return vd_error_set(err, VD_ERR_EXCEEDED_TIME_LIMIT,
                                "the log was not flushed within %d ms", FLUSH_WAIT_MS);
        stor_engine_flush_soon(storage->engine);
        pause_us(200);
    }
    return VD_OK;
}

typedef struct {
    uint64_t term;
    vd_slice_t leader;
} rows_t;

static int rows_put(stor_session_t *session, uint64_t timestamp, void *context, vd_error_t *err)
{
    (void)timestamp; /* the rows name terms */
    const rows_t *rows = context;
    uint8_t term[8], leader[4 + VDP_NODE_NAME_MAX + 1] = {0};
    vd_put_u64(term, rows->term);
    vd_put_u32(leader, (uint32_t)rows->leader.len + 1);
    if (rows->leader.len > 0)
        memcpy(leader + 4, rows->leader.data, rows->leader.len);
    int rc =
        stor_catalog_meta_put(session, "term", (vd_value_t){term, sizeof term, VD_BSON_INT64}, err);
    if (rc != VD_OK)
        return rc;
    return stor_catalog_meta_put(
        session, "leader", (vd_value_t){leader, 4 + (uint32_t)rows->leader.len + 1, VD_BSON_STRING},
        err);
}

static int rows_commit(stor_session_t *session, rows_t *rows, vd_error_t *err)
{
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    rc = rows_put(session, 0, rows, err);
    if (rc == VD_OK)
        return stor_txn_commit(session, err);
    stor_txn_rollback(session);
    return rc;
}

static int message_note(stor_storage_t *storage, stor_session_t *session, vd_value_t message,
                        rows_t *rows, uint64_t *ret_timestamp, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t body;
    vd_bb_init(&bb, NOOP_MAX_BYTES);
    vd_bb_value(&bb, VD_SLICE_LIT("msg"), message);
    int rc = vd_bb_finish(&bb, &body, err);
    if (rc == VD_OK)
        rc = stor_journal_note(storage, session, STOR_CHANGE_NOOP, body,
                               rows == NULL ? NULL : rows_put, rows, ret_timestamp, err);
    vd_bb_done(&bb);
    return rc;
}

int stor_replication_noop(stor_storage_t *storage, stor_session_t *session, vd_value_t message,
                          uint64_t *ret_timestamp, vd_error_t *err)
{
    int rc = stor_replication_write_enter(storage, err);
    if (rc != VD_OK)
        return rc;
    rc = message_note(storage, session, message, NULL, ret_timestamp, err);
    stor_replication_write_leave(storage);
    return rc;
}

static void leader_set(stor_replication_t *replication, vd_slice_t leader)
{
    (void)pthread_mutex_lock(&replication->lock);
    memset(replication->leader, 0, sizeof replication->leader);
    if (leader.len > 0)
        memcpy(replication->leader, leader.data, leader.len);
    (void)pthread_mutex_unlock(&replication->lock);
}

/* In this order: the rows (and a primary's first entry) are on disk before anybody acts on them. */
static int primary_begin(stor_storage_t *storage, stor_session_t *session, rows_t *rows,
                         uint64_t *ret_newest, vd_error_t *err)
{
    stor_replication_t *replication = storage->replication;
    static const uint8_t text[] = "\x0c\0\0\0new primary";
    uint64_t first;
    stor_engine_term_set(storage->engine, rows->term);
    int rc = message_note(storage, session, (vd_value_t){text, sizeof text, VD_BSON_STRING}, rows,
                          &first, err);
    if (rc == VD_OK)
        rc = flushed_wait(storage, err);
    if (rc != VD_OK)
        return rc;
    atomic_store(&replication->term, rows->term);
    leader_set(replication, rows->leader);
    stor_positions_term(replication->positions, rows->term, first);
    atomic_store(&replication->lease_until_ms, 0);
    atomic_store(&replication->role, VDP_ROLE_PRIMARY);
    stor_versions_serve(storage->versions, true);
    *ret_newest = first;
    return VD_OK;
}

static int other_begin(stor_storage_t *storage, stor_session_t *session, int role, rows_t *rows,
                       bool rows_changed, uint64_t *ret_newest, vd_error_t *err)
{
    stor_replication_t *replication = storage->replication;
    int rc = rows_changed ? rows_commit(session, rows, err) : VD_OK;
    if (rc == VD_OK && rows_changed)
        rc = flushed_wait(storage, err);
    if (rc != VD_OK)
        return rc;
    atomic_store(&replication->term, rows->term);
    leader_set(replication, rows->leader);
    atomic_store(&replication->role, role);
    *ret_newest = stor_engine_newest(storage->engine);
    return VD_OK;
}

/* Out of the way at once; what waits for a write concern hears of it. */
static void step_down(stor_storage_t *storage, int role)
{
    stor_versions_serve(storage->versions, false);
    atomic_store(&storage->replication->role, role);
    stor_positions_changed(storage->replication->positions);
    stor_registry_visit(storage, writer_interrupt, NULL);
    (void)stor_transactions_kill(storage, VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE, NULL, NULL);
}

static int change(stor_storage_t *storage, stor_session_t *session, int role, rows_t *rows,
                  bool rows_changed, uint64_t *ret_newest, vd_error_t *err)
{
    bool was_primary = atomic_load(&storage->replication->role) == VDP_ROLE_PRIMARY;
    int rc = VD_OK;
    stor_pins_end(storage, NULL, NULL); /* what is loaded or undone must not be in use */
    /* Also from term to term as primary: no transaction may have begun in one and end in the other.
     */
    if (was_primary)
        step_down(storage, role == VDP_ROLE_PRIMARY ? VDP_ROLE_SECONDARY : role);
    rc = writers_wait(storage, err);
    if (rc != VD_OK)
        return rc;
    return role == VDP_ROLE_PRIMARY
               ? primary_begin(storage, session, rows, ret_newest, err)
               : other_begin(storage, session, role, rows, rows_changed, ret_newest, err);
}

static void announce(stor_storage_t *storage)
{
    atomic_store(&storage->state_changed, true);
    if (storage->inbox != NULL) {
        stor_inbox_announce(storage->inbox);
        stor_inbox_killed(storage->inbox);
    }
    stor_replication_announce(storage);
}

static int request_check(const stor_replication_t *replication, const rows_t *rows, int role,
                         vd_slice_t present, vd_error_t *err)
{
    uint64_t term = atomic_load(&replication->term);
    if (rows->term < term)
        return vd_error_set(err, VD_ERR_STALE_TERM, "term %llu was agreed to, %llu is older",
                            (unsigned long long)term, (unsigned long long)rows->term);
    if (rows->leader.len > VDP_NODE_NAME_MAX || role < VDP_ROLE_PRIMARY || role > VDP_ROLE_REMOVED)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "no role %d, or too long a leader's name", role);
    /* One leader a term: whoever asks is wrong, and two of them would both acknowledge. */
    if (rows->term == term && role == VDP_ROLE_PRIMARY && present.len > 0 &&
        !vd_slice_equal(present, rows->leader))
        return vd_error_set(err, VD_ERR_STALE_TERM, "term %llu is led by %.*s",
                            (unsigned long long)term, VD_SLICE_FMT(present));
    return VD_OK;
}

static int role_set_locked(stor_storage_t *storage, stor_session_t *session, int role, rows_t *rows,
                           uint64_t *ret_newest, vd_error_t *err)
{
    stor_replication_t *replication = storage->replication;
    /* Only changed under role_lock, which is held. */
    vd_slice_t present = vd_slice_str(replication->leader);
    int rc = request_check(replication, rows, role, present, err);
    if (rc != VD_OK)
        return rc;
    bool same_term = rows->term == atomic_load(&replication->term);
    char kept[VDP_NODE_NAME_MAX + 1];
    if (same_term && rows->leader.len == 0) { /* nobody is named: whom we agreed to stays */
        memcpy(kept, replication->leader, sizeof kept);
        rows->leader = vd_slice_str(kept);
    }
    bool same_leader = vd_slice_equal(present, rows->leader);
    int before = atomic_load(&replication->role);
    if (same_term && same_leader && before == role) {
        if (role != VDP_ROLE_PRIMARY)
            rc = writers_wait(storage, err); /* an earlier call may have given up */
        *ret_newest = role == VDP_ROLE_PRIMARY ? stor_positions_first(replication->positions)
                                               : stor_engine_newest(storage->engine);
        return rc;
    }
    rc = change(storage, session, role, rows, !same_term || !same_leader, ret_newest, err);
    stor_positions_changed(replication->positions);
    announce(storage);
    if (rc == VD_OK)
        vd_log(VD_LOG_INFO, "role", "role=%s before=%s term=%llu leader=%.*s",
               stor_replication_state_name(role), stor_replication_state_name(before),
               (unsigned long long)rows->term, VD_SLICE_FMT(rows->leader));
    return rc;
}

int stor_replication_role_set(stor_storage_t *storage, stor_session_t *session, uint64_t term,
                              int role, vd_slice_t leader, uint64_t *ret_newest, vd_error_t *err)
{
    stor_replication_t *replication = storage->replication;
    rows_t rows = {term, leader};
    VD_ASSERT(!replication->alone && !stor_txn_active(session));
    stor_replication_heard(storage);
    (void)pthread_mutex_lock(&replication->role_lock);
    int rc = role_set_locked(storage, session, role, &rows, ret_newest, err);
    (void)pthread_mutex_unlock(&replication->role_lock);
    stor_replication_heard(storage);
    return rc;
}

/* ---- without replicad ---- */

void stor_replication_lease(stor_storage_t *storage, uint64_t term, uint64_t until_ms)
{
    if (until_ms != 0 && term == stor_replication_term(storage))
        atomic_store(&storage->replication->lease_until_ms, until_ms);
}

uint64_t stor_replication_fresh_ms(const stor_storage_t *storage)
{
    return stor_replication_alone(storage) ? UINT64_MAX
                                           : atomic_load(&storage->replication->fresh_ms);
}

void stor_replication_fresh(stor_storage_t *storage, uint64_t term, uint64_t fresh_ms)
{
    stor_replication_t *replication = storage->replication;
    uint_fast64_t before = atomic_load(&replication->fresh_ms);
    if (term != stor_replication_term(storage) || fresh_ms <= before)
        return;
    /* One thread tells it: no other is overtaken. */
    atomic_store(&replication->fresh_ms, fresh_ms);
    if (storage->inbox != NULL)
        stor_inbox_announce(storage->inbox);
}

void stor_replication_heard(stor_storage_t *storage)
{
    atomic_store_explicit(&storage->replication->heard_ms, vd_monotonic_ms(), memory_order_relaxed);
}

static bool lease_over(const stor_storage_t *storage)
{
    const stor_replication_t *replication = storage->replication;
    return !replication->alone && storage->settings.lease_ms > 0 &&
           atomic_load(&replication->role) == VDP_ROLE_PRIMARY &&
           vd_elapsed(atomic_load(&replication->heard_ms), vd_monotonic_ms()) >
               storage->settings.lease_ms;
}

bool stor_replication_lease_check(stor_storage_t *storage)
{
    stor_replication_t *replication = storage->replication;
    /* Held by a change of role: which is replicad's word. */
    if (!lease_over(storage) || pthread_mutex_trylock(&replication->role_lock) != 0)
        return false;
    bool over = lease_over(storage);
    if (over) {
        step_down(storage, VDP_ROLE_SECONDARY);
        announce(storage);
        vd_log(VD_LOG_WARN, "no word of replicad: not primary any more", "lease_ms=%llu",
               (unsigned long long)storage->settings.lease_ms);
    }
    (void)pthread_mutex_unlock(&replication->role_lock);
    return over;
}

/* ---- admission ---- */

static int admit_read(const stor_request_t *request, int role, vd_error_t *err)
{
    bool internal = stor_request_internal(request);
    bool opted = request->read_elsewhere || internal ||
                 (request->entry->flags & STOR_COMMAND_ANY_MEMBER) != 0;
    if (!opted)
        return vd_error_set(err, VD_ERR_NOT_PRIMARY_NO_SECONDARY_OK,
                            "not primary and secondaryOk=false");
    /* Who may log in is asked in every state in which the data is whole. */
    if (role == VDP_ROLE_SECONDARY || (internal && role != VDP_ROLE_RECOVERING))
        return VD_OK;
    return vd_error_set(err, VD_ERR_NOT_PRIMARY_OR_SECONDARY,
                        role == VDP_ROLE_RECOVERING ? "node is recovering"
                                                    : "node is not in primary or recovering state");
}

int stor_replication_admit(stor_request_t *request, vd_error_t *err)
{
    stor_storage_t *storage = request->storage;
    if (VD_LIKELY(stor_replication_alone(storage)))
        return VD_OK;
    uint32_t flags = request->entry->flags;
    /* The role is looked at last: what was admitted as of a term belongs to no later one. */
    request->term = stor_replication_term(storage);
    int role = stor_replication_role(storage);
    if (role == VDP_ROLE_PRIMARY)
        return VD_OK;
    if ((flags & STOR_COMMAND_WRITES) != 0 || request->transaction_number >= 0)
        return not_primary(err);
    if ((flags & STOR_COMMAND_READS) == 0)
        return VD_OK;
    if (vd_slice_is(request->db, "local") && request->read_level != STOR_READ_LINEARIZABLE)
        return VD_OK; /* each node's own */
    if (request->read_level == STOR_READ_LINEARIZABLE)
        return vd_error_set(err, VD_ERR_NOT_WRITABLE_PRIMARY,
                            "cannot satisfy linearizable read concern on non-primary node");
    return admit_read(request, role, err);
}

/* ---- names ---- */

static const struct {
    const char *name;
    int32_t state;
} states[] = {
    [VDP_ROLE_STARTING] = {"STARTUP", 0},    [VDP_ROLE_PRIMARY] = {"PRIMARY", 1},
    [VDP_ROLE_SECONDARY] = {"SECONDARY", 2}, [VDP_ROLE_RECOVERING] = {"RECOVERING", 3},
    [VDP_ROLE_REMOVED] = {"REMOVED", 10},
};

const char *stor_replication_state_name(int role)
{
    return role >= 0 && role < (int)VD_COUNT_OF(states) ? states[role].name : "UNKNOWN";
}

int32_t stor_replication_state(int role)
{
    return role >= 0 && role < (int)VD_COUNT_OF(states) ? states[role].state : 6;
}
