/* veddb-storaged/fail_points.h — fail points, as driver test suites use them. Exist only under
 * test.faults.
 *
 * onPrimaryTransactionalWrite: the statement of a retryable write fails before its commit, or is
 *   committed while its client's connection is closed.
 * maxTimeAlwaysTimeOut: whatever has a maxTimeMS is out of time.
 *
 * Owner:   the storage.
 * Threads: any (one lock). */
#pragma once
#include "veddb-storaged/request.h"

typedef struct stor_fail_points stor_fail_points_t;

/* NULL without settings.test_faults. */
stor_fail_points_t *stor_fail_points_create(const stor_settings_t *settings);
void stor_fail_points_destroy(stor_fail_points_t **points_p);
/* {configureFailPoint: name, mode, data: {closeConnection (true unless told otherwise),
 * failBeforeCommitExceptionCode}}, the data of the first alone. How often it acted before is in
 * ret_hits. VD_ERR_BAD_VALUE; location 82: no such fail point. */
VD_MUST_CHECK int stor_fail_points_configure(stor_fail_points_t *points, vd_bson_t body,
                                             uint64_t *ret_hits, vd_error_t *err);
/* A statement of a retryable write is about to be recorded. The code that it fails by, or VD_OK. */
VD_MUST_CHECK int stor_fail_write(stor_request_t *request, vd_error_t *err);
/* It has a maxTimeMS: true when that is to be over. */
bool stor_fail_max_time(stor_request_t *request);
