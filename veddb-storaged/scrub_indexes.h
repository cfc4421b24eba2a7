/* veddb-storaged/scrub_indexes.h — the background check of indexes: every key of a document has its
 * entry, and every entry its document.
 *
 * Duty:    in short steps, each in a snapshot of its own, in which documents and entries belong
 *          together; so writers go on. First over the documents, then over each index. What was
 *          dropped, or made, meanwhile is stepped over. Nothing is repaired (validate does).
 * Threads: keeper; tests. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"

typedef struct {
    uint64_t index_id; /* the first that is damaged; 0: none is */
    int64_t keys, entries;
    int64_t missing, extra, malformed; /* entries that lack, have no document, can't be read */
} stor_scrub_indexes_t;

/* As stor_scrub_collection. */
VD_MUST_CHECK int stor_scrub_indexes(stor_storage_t *storage, stor_session_t *session,
                                     uint64_t collection_id, uint32_t pause_us,
                                     const atomic_bool *stop, stor_scrub_indexes_t *ret_result,
                                     vd_error_t *err);
