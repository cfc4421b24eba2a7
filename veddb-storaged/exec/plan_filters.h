/* veddb-storaged/exec/plan_filters.h — index filters: for queries of one shape, the only indexes
 * that the planner may think of.
 *
 * Duty:    as MongoDB's planCacheSetFilter: by collection and shape (filter without its values,
 *          sort, projection, collation), in memory of this node, until they are cleared or it
 *          restarts. A hint counts for nothing where there is one. Indexes that are not there are
 *          passed over; reading the whole collection is always thought of.
 * Owner:   the planner.
 * Threads: any; a lock of its own.
 * Limits:  STOR_PLAN_FILTERS_MAX in a node. */
#pragma once
#include "veddb-storaged/plan/plan.h"

#define STOR_PLAN_FILTERS_MAX 1000

typedef struct stor_plan_filters stor_plan_filters_t;

stor_plan_filters_t *stor_plan_filters_create(void);
void stor_plan_filters_destroy(stor_plan_filters_t **filters_p);
/* document: {query, sort, projection, collation, indexes: [pattern or name, ...]}, copied; takes
 * the place of one of the same shape. VD_ERR_FULL. */
VD_MUST_CHECK int stor_plan_filters_set(stor_plan_filters_t *filters, uint64_t collection_id,
                                        uint64_t shape, vd_bson_t document, vd_error_t *err);
/* Of one shape, or all of the collection (0). */
void stor_plan_filters_clear(stor_plan_filters_t *filters, uint64_t collection_id, uint64_t shape);
/* In the order in which they were set, copied into the arena. */
void stor_plan_filters_list(stor_plan_filters_t *filters, vd_arena_t *arena, uint64_t collection_id,
                            vd_bson_t **ret_documents, uint32_t *ret_count);
/* False: there is none for the query. Else facts->indexes keeps only those that it names. */
bool stor_plan_filters_apply(stor_plan_filters_t *filters, uint64_t collection_id,
                             const stor_plan_query_t *query, stor_plan_facts_t *facts);
bool stor_plan_filters_has(stor_plan_filters_t *filters, uint64_t collection_id, uint64_t shape);
