/* veddb-storaged/registry.c — see registry.h. */
#include "veddb-storaged/registry.h"

#include "veddb-storaged/inbox.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/sessions.h"

void stor_registry_add(stor_request_t *request)
{
    VD_ASSERT(!request->registered);
    stor_storage_t *storage = request->storage;
    pthread_mutex_lock(&storage->registry_lock);
    request->registry_prev = NULL;
    request->registry_next = storage->registry_first;
    if (storage->registry_first != NULL)
        storage->registry_first->registry_prev = request;
    storage->registry_first = request;
    storage->registry_count++;
    request->registered = true;
    pthread_mutex_unlock(&storage->registry_lock);
}

void stor_registry_remove(stor_request_t *request)
{
    if (!request->registered)
        return;
    stor_storage_t *storage = request->storage;
    pthread_mutex_lock(&storage->registry_lock);
    if (request->registry_prev != NULL)
        request->registry_prev->registry_next = request->registry_next;
    else
        storage->registry_first = request->registry_next;
    if (request->registry_next != NULL)
        request->registry_next->registry_prev = request->registry_prev;
    storage->registry_count--;
    request->registered = false;
    pthread_mutex_unlock(&storage->registry_lock);
}

void stor_registry_visit(stor_storage_t *storage,
                         void (*visit)(stor_request_t *request, void *context), void *context)
{
    pthread_mutex_lock(&storage->registry_lock);
    for (stor_request_t *r = storage->registry_first; r != NULL; r = r->registry_next)
        visit(r, context);
    pthread_mutex_unlock(&storage->registry_lock);
}

static void request_kill(stor_request_t *request, int code)
{
    int none = 0;
    /* The first reason stays. */
    (void)atomic_compare_exchange_strong(&request->killed, &none, code);
    if (!stor_replication_alone(request->storage))
        stor_positions_forget(request->storage->replication->positions, request);
}

/* Where one of them waits for a worker, none is needed any more. */
static void tell(stor_storage_t *storage, bool any)
{
    if (any && storage->inbox != NULL)
        stor_inbox_killed(storage->inbox);
}

bool stor_registry_kill(stor_storage_t *storage, uint64_t number, vd_slice_t user, bool all_users)
{
    bool found = false;
    pthread_mutex_lock(&storage->registry_lock);
    for (stor_request_t *r = storage->registry_first; r != NULL && !found; r = r->registry_next) {
        if (r->number != number || (!all_users && !vd_slice_equal(r->command.user, user)))
            continue;
        request_kill(r, VD_ERR_INTERRUPTED);
        found = true;
    }
    pthread_mutex_unlock(&storage->registry_lock);
    tell(storage, found);
    return found;
}

uint32_t stor_registry_kill_sessions(stor_storage_t *storage,
                                     bool (*matches)(const stor_session_key_t *key,
                                                     const void *context),
                                     const void *context, const stor_request_t *but_not)
{
    uint32_t killed = 0;
    pthread_mutex_lock(&storage->registry_lock);
    for (stor_request_t *r = storage->registry_first; r != NULL; r = r->registry_next) {
        stor_session_key_t key = stor_session_key_of(&r->command);
        if (r == but_not || r->command.lsid.len != 16 || !matches(&key, context))
            continue;
        request_kill(r, VD_ERR_INTERRUPTED);
        killed++;
    }
    pthread_mutex_unlock(&storage->registry_lock);
    tell(storage, killed > 0);
    return killed;
}

bool stor_registry_cancel(stor_storage_t *storage, uint64_t peer, uint64_t request_id)
{
    bool found = false;
    pthread_mutex_lock(&storage->registry_lock);
    for (stor_request_t *r = storage->registry_first; r != NULL && !found; r = r->registry_next) {
        if (r->peer != peer || r->envelope.request_id != request_id)
            continue;
        request_kill(r, VD_ERR_INTERRUPTED);
        found = true;
    }
    pthread_mutex_unlock(&storage->registry_lock);
    tell(storage, found);
    return found;
}

void stor_registry_connection_closed(stor_storage_t *storage, uint64_t peer, uint64_t connection_id)
{
    bool found = false;
    pthread_mutex_lock(&storage->registry_lock);
    for (stor_request_t *r = storage->registry_first; r != NULL; r = r->registry_next) {
        if (r->peer != peer || (connection_id != 0 && r->command.connection_id != connection_id))
            continue;
        request_kill(r, VD_ERR_CLIENT_DISCONNECT);
        found = true;
    }
    pthread_mutex_unlock(&storage->registry_lock);
    tell(storage, found);
}
