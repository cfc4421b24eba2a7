/* veddb-storaged/exec/sampling.h — statistics of one collection: samples of its documents and of
 * each index's keys, taken, kept in a table, read back.
 *
 * Duty:    takes them in one snapshot; writes them to the table "statistics" (encrypted as all)
 *          and reads them back, but only for the same set of indexes. They are this node's own,
 *          in no journal. What they mean stands in plan/statistics.h.
 * Owner:   counted references.
 * Threads: any; they never change.
 * Limits:  STOR_STATISTICS_ROW_MAX bytes are kept of a collection; more stays in memory only. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/plan/statistics.h"

#define STOR_STATISTICS_ROW_MAX (4u * 1024 * 1024)
#define STOR_STATISTICS_INDEXES 64

typedef struct {
    atomic_int references;
    atomic_bool stored; /* in the table */
    vd_arena_t *arena;
    uint64_t set;      /* of indexes, as a hash */
    int64_t documents; /* when they were taken */
    int64_t taken_wall_ms;
    stor_document_sample_t sample;
    uint32_t index_count;
    uint64_t index_ids[STOR_STATISTICS_INDEXES];
    stor_key_sample_t indexes[STOR_STATISTICS_INDEXES];
} stor_statistics_t;

void stor_statistics_unreference(stor_statistics_t **statistics_p);
struct stor_index_set;
/* Changes with every index that comes, goes, is hidden or filled anew. */
uint64_t stor_statistics_set(const struct stor_index_set *set);
/* The collection is held by the request. NULL: it could not be read. */
stor_statistics_t *stor_statistics_take(stor_request_t *request,
                                        const stor_collection_t *collection);
/* Makes the table when it is not there. */
VD_MUST_CHECK int stor_statistics_open(stor_engine_t *engine, vd_error_t *err);
/* In the session's open transaction, or in one of its own. NULL: there are none of this set. */
stor_statistics_t *stor_statistics_load(stor_session_t *session,
                                        const stor_collection_t *collection);
VD_MUST_CHECK int stor_statistics_store(stor_session_t *session, uint64_t collection_id,
                                        stor_statistics_t *statistics, vd_error_t *err);
/* Rows of collections that are gone are removed. */
VD_MUST_CHECK int stor_statistics_sweep(stor_catalog_t *catalog, stor_session_t *session,
                                        vd_error_t *err);
