/* veddb-storaged/freeze.c — see freeze.h.
 *
 * Writers and the lock look at each other in one order (sequentially consistent, as in role.c): a
 * writer counts itself, then looks at the state; the lock stores the state, then looks at the
 * count. */
#include "veddb-storaged/freeze.h"

#include "libcommon/base/log.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/request.h"
#include "veddb-storaged/streams/waits.h"
#include "veddb-storaged/transactions.h"

void stor_freeze_init(stor_freeze_t *freeze)
{
    (void)pthread_mutex_init(&freeze->lock, NULL);
}

void stor_freeze_done(stor_freeze_t *freeze)
{
    (void)pthread_mutex_destroy(&freeze->lock);
}

/* ---- writers ---- */

static bool enter(stor_storage_t *storage, bool begun)
{
    stor_freeze_t *freeze = &storage->freeze;
    atomic_fetch_add(&freeze->writers, 1);
    int state = atomic_load(&freeze->state);
    if (VD_LIKELY(state == STOR_FREEZE_OPEN) || (begun && state == STOR_FREEZE_WANTED))
        return true;
    stor_freeze_leave(storage);
    return false;
}

bool stor_freeze_enter(stor_storage_t *storage)
{
    return enter(storage, false);
}

void stor_freeze_leave(stor_storage_t *storage)
{
    int before = atomic_fetch_sub(&storage->freeze.writers, 1);
    VD_ASSERT(before > 0);
    if (VD_UNLIKELY(before == 1 && !stor_freeze_is_open(&storage->freeze)))
        stor_waits_moved(storage->waits);
}

static bool writes(const stor_request_t *request)
{
    if (request->writes)
        return request->entry->run != stor_command_abort_transaction;
    return vd_slice_is(request->command.name, "validate") &&
           vd_value_as_flag(vd_bson_get(request->body, "repair"));
}

/* What it belongs to has begun before, and is waited for. */
static bool is_begun(const stor_request_t *request)
{
    return request->transaction_number >= 0 && !request->start_given;
}

bool stor_freeze_request_enter(stor_request_t *request)
{
    if (request->freezes || !writes(request))
        return true;
    request->freezes = enter(request->storage, is_begun(request));
    return request->freezes;
}

void stor_freeze_request_leave(stor_request_t *request)
{
    if (request->freezes)
        stor_freeze_leave(request->storage);
    request->freezes = false;
}

bool stor_freeze_request_ready(const stor_request_t *request)
{
    int state = atomic_load(&request->storage->freeze.state);
    return state == STOR_FREEZE_OPEN || (state == STOR_FREEZE_WANTED && is_begun(request));
}

/* ---- the lock ---- */

static void state_set(stor_freeze_t *freeze, stor_freeze_state_t state)
{
    atomic_store(&freeze->state, state);
}

void stor_freeze_want(stor_storage_t *storage)
{
    stor_freeze_t *freeze = &storage->freeze;
    (void)pthread_mutex_lock(&freeze->lock);
    if (freeze->count++ == 0)
        state_set(freeze, STOR_FREEZE_WANTED);
    (void)pthread_mutex_unlock(&freeze->lock);
}

static void changed_count(const stor_transaction_info_t *info, void *context)
{
    *(uint32_t *)context += info->changes > 0;
}

static bool is_quiet(stor_storage_t *storage)
{
    uint32_t changed = 0;
    if (atomic_load(&storage->freeze.writers) != 0)
        return false;
    stor_transactions_visit(storage, changed_count, &changed);
    return changed == 0;
}

bool stor_freeze_may_take(stor_storage_t *storage)
{
    int state = atomic_load(&storage->freeze.state);
    return state == STOR_FREEZE_HELD || (state == STOR_FREEZE_WANTED && is_quiet(storage));
}

static int files_settle(stor_storage_t *storage, vd_error_t *err)
{
    int rc = stor_engine_checkpoints_stop(storage->engine, true, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_engine_checkpoint(storage->engine, err);
    if (rc != VD_OK && stor_engine_checkpoints_stop(storage->engine, false, NULL) != VD_OK)
        vd_log(VD_LOG_ERROR, "checkpoints could not be resumed", "engine=%s", "running");
    return rc;
}

int stor_freeze_take(stor_storage_t *storage, int64_t *ret_count, vd_error_t *err)
{
    stor_freeze_t *freeze = &storage->freeze;
    int rc = VD_OK;
    (void)pthread_mutex_lock(&freeze->lock);
    int state = atomic_load(&freeze->state);
    *ret_count = state == STOR_FREEZE_HELD ? freeze->count : 0;
    bool taking = state == STOR_FREEZE_WANTED && is_quiet(storage);
    if (taking) /* nobody goes in any more; who was faster is waited for */
        state_set(freeze, STOR_FREEZE_TAKING);
    (void)pthread_mutex_unlock(&freeze->lock);
    if (!taking)
        return VD_OK;
    bool quiet = is_quiet(storage);
    if (quiet)
        rc = files_settle(storage, err);
    (void)pthread_mutex_lock(&freeze->lock);
    state_set(freeze, quiet && rc == VD_OK ? STOR_FREEZE_HELD : STOR_FREEZE_WANTED);
    *ret_count = quiet && rc == VD_OK ? freeze->count : 0;
    (void)pthread_mutex_unlock(&freeze->lock);
    if (*ret_count > 0)
        vd_log(VD_LOG_INFO, "locked against writes", "locks=%lld", (long long)*ret_count);
    return rc;
}

/* Under the lock: one less. */
static void count_down(stor_storage_t *storage)
{
    stor_freeze_t *freeze = &storage->freeze;
    if (--freeze->count > 0)
        return;
    if (atomic_load(&freeze->state) == STOR_FREEZE_HELD) {
        vd_log(VD_LOG_INFO, "not locked against writes any more", "locks=%d", 0);
        if (stor_engine_checkpoints_stop(storage->engine, false, NULL) != VD_OK)
            vd_log(VD_LOG_ERROR, "checkpoints could not be resumed", "engine=%s", "running");
    }
    state_set(freeze, STOR_FREEZE_OPEN);
    stor_waits_moved(storage->waits);
}

void stor_freeze_give_up(stor_storage_t *storage)
{
    (void)pthread_mutex_lock(&storage->freeze.lock);
    count_down(storage);
    (void)pthread_mutex_unlock(&storage->freeze.lock);
}

bool stor_freeze_unlock(stor_storage_t *storage, int64_t *ret_count)
{
    stor_freeze_t *freeze = &storage->freeze;
    (void)pthread_mutex_lock(&freeze->lock);
    bool held = atomic_load(&freeze->state) == STOR_FREEZE_HELD;
    if (held)
        count_down(storage);
    *ret_count = freeze->count;
    (void)pthread_mutex_unlock(&freeze->lock);
    return held;
}
