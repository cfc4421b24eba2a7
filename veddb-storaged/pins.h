/* veddb-storaged/pins.h — snapshots for reads outside of transactions: readConcern "snapshot", with
 * or without atClusterTime.
 *
 * Duty:    a read without atClusterTime pins a snapshot to its logical session and is told the
 *          snapshot's time; later reads of the session that name this time see the same, and so do
 *          the cursors that were opened in it. A time that is not pinned in the session is refused
 *          (SnapshotUnavailable), unless it is the newest one and nothing has been committed since.
 *          What is shown is on a majority: the reply waits for that.
 * Life:    until settings.transaction_lifetime_ms (60 s) are over, the session ends, the role
 *          changes, or others need the place: STOR_PINS_PER_SESSION and STOR_PINS_MAX, the oldest
 *          that is idle goes.
 * Owner:   the storage's pins (in stor_sessions_t). One request at a time in each.
 * Threads: any. */
#pragma once
#include "veddb-storaged/request.h"

#define STOR_PINS_MAX         64
#define STOR_PINS_PER_SESSION 4

typedef struct stor_pins stor_pins_t;

stor_pins_t *stor_pins_create(stor_storage_t *storage);
void stor_pins_destroy(stor_pins_t **pins_p);
/* For a read with that concern: request->session and pinned_at are set. Others: VD_OK. */
VD_MUST_CHECK int stor_pin_enter(stor_request_t *request, vd_error_t *err);
/* The same for a cursor that was opened in the snapshot of that time. */
VD_MUST_CHECK int stor_pin_again(stor_request_t *request, uint64_t at, vd_error_t *err);
/* Sets the request's session back to the worker's. */
void stor_pin_leave(stor_request_t *request);
/* Those of the sessions that match, NULL: all. A pin in use ends with its request. */
void stor_pins_end(stor_storage_t *storage,
                   bool (*matches)(const stor_session_key_t *key, const void *context),
                   const void *context);
/* Those that are too old, or in the way of a small cache (keeper). */
void stor_pins_expire(stor_storage_t *storage, bool cache_is_short);
uint64_t stor_pins_count(const stor_storage_t *storage);
