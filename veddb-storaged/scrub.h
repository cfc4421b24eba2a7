/* veddb-storaged/scrub.h — the background check: count and hash of a collection by a scan, against
 * the kept values.
 *
 * Duty:    scans in short steps, each in its own snapshot; writes that happen meanwhile are
 *          accounted for through the journal, so the comparison is exact without holding a
 *          snapshot. A difference is an error in the log, a metric and a mark in the status;
 *          nothing is repaired.
 * Threads: keeper; stor_scrub_collection by tests and validate. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"

typedef struct {
    int64_t documents, bytes;
    uint64_t hash;
    int64_t documents_kept, bytes_kept;
    uint64_t hash_kept;
    bool equal;
    bool inconclusive; /* dropped meanwhile, or the journal was cut below the start */
} stor_scrub_result_t;

/* Checks one collection from start to end. pause_us: between steps. stop (may be NULL): end early
 * when it becomes true. */
VD_MUST_CHECK int stor_scrub_collection(stor_storage_t *storage, stor_session_t *session,
                                        uint64_t collection_id, uint32_t pause_us,
                                        const atomic_bool *stop, stor_scrub_result_t *ret_result,
                                        vd_error_t *err);
