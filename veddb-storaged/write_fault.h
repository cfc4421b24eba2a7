/* veddb-storaged/write_fault.h — the fail point onPrimaryTransactionalWrite, as driver test suites
 * use it: the statement of a retryable write fails before its commit, or is committed while its
 * client's connection is closed. Exists only under test.faults.
 *
 * Owner:   the storage.
 * Threads: any (one lock). */
#pragma once
#include "veddb-storaged/request.h"

typedef struct stor_write_fault stor_write_fault_t;

/* NULL without settings.test_faults. */
stor_write_fault_t *stor_write_fault_create(const stor_settings_t *settings);
void stor_write_fault_destroy(stor_write_fault_t **fault_p);
/* {mode, data: {closeConnection (true unless told otherwise), failBeforeCommitExceptionCode}}. How
 * often the one before acted is in ret_hits. VD_ERR_BAD_VALUE. */
VD_MUST_CHECK int stor_write_fault_configure(stor_write_fault_t *fault, vd_bson_t body,
                                             uint64_t *ret_hits, vd_error_t *err);
/* A statement of a retryable write is about to be recorded. The code that it fails by, or VD_OK. */
VD_MUST_CHECK int stor_write_fault_hit(stor_request_t *request, vd_error_t *err);
