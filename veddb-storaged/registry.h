/* veddb-storaged/registry.h — the requests in flight: for currentOp, killOp, killSessions and
 * cancels.
 *
 * Owner:   the storage context (list and lock); requests are their owners'.
 * Threads: any. */
#pragma once
#include "veddb-storaged/request.h"

void stor_registry_add(stor_request_t *request);
void stor_registry_remove(stor_request_t *request);
/* Visits what is in flight under the lock: quick, no calls back. */
void stor_registry_visit(stor_storage_t *storage,
                         void (*visit)(stor_request_t *request, void *context), void *context);
/* Marks the operation with that opid; false when there is none (or it belongs to another user and
 * all_users is false). */
bool stor_registry_kill(stor_storage_t *storage, uint64_t number, vd_slice_t user, bool all_users);
/* Marks every operation of the sessions that match. */
uint32_t stor_registry_kill_sessions(stor_storage_t *storage,
                                     bool (*matches)(const stor_session_key_t *key,
                                                     const void *context),
                                     const void *context, const stor_request_t *but_not);
/* A gateway asks to stop one request of its own. */
bool stor_registry_cancel(stor_storage_t *storage, uint64_t peer, uint64_t request_id);
/* Marks what a connection (0 = every one of that gateway link) still has in flight. */
void stor_registry_connection_closed(stor_storage_t *storage, uint64_t peer,
                                     uint64_t connection_id);
