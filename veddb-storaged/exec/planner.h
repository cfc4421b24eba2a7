/* veddb-storaged/exec/planner.h — plans queries of this node: gives plan/ the indexes of the
 * collection, their statistics, and what earlier queries of the same shape have shown.
 *
 * Duty:    statistics per collection (samples of its documents and of each index's keys;
 *          sampling.h): refreshed in the background when they are old, or the collection has
 *          grown or shrunk much, and kept in a table over a restart; a query takes them itself
 *          only where there are none at all. Short dives into indexes where a sample says too
 *          little. The plan cache: by collection and shape of the query, the plan that was chosen
 *          and what it cost; forgotten when the set of indexes or the statistics change, and when
 *          it does far worse than it did.
 * Owner:   storaged.c.
 * Threads: any; one lock, never held while something is read.
 * Limits:  STOR_PLANNER_COLLECTIONS_MAX collections, STOR_PLAN_CACHE_MAX shapes each. */
#pragma once
#include "libcommon/bson/build.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/exec/plan_filters.h"
#include "veddb-storaged/exec/query.h"

#define STOR_PLANNER_COLLECTIONS_MAX 1000
#define STOR_PLAN_CACHE_MAX          200 /* shapes of one collection */
#define STOR_PLAN_CACHE_WORSE        10  /* times the work it had: planned anew */

typedef struct stor_planner stor_planner_t;

stor_planner_t *stor_planner_create(void);
void stor_planner_destroy(stor_planner_t **planner_p);

/* One round over all collections, by somebody in the background: what is old is taken anew, what is
 * new is written to the table. stop: looked at between collections, with a pause behind each that
 * was read; may be NULL. */
VD_MUST_CHECK int stor_planner_refresh(stor_storage_t *storage, stor_session_t *session,
                                       const atomic_bool *stop, vd_error_t *err);
/* What is known of a collection in memory: when it was taken, and how many documents it had then.
 */
bool stor_planner_statistics(stor_planner_t *planner, uint64_t collection_id,
                             int64_t *ret_documents, int64_t *ret_taken_wall_ms);

typedef enum {
    STOR_PLANNER_CACHED, /* from the cache when it knows the shape */
    STOR_PLANNER_FRESH,
    STOR_PLANNER_WARY, /* a plan has read far more than was thought, and found nothing: no cache,
                          and nothing is hoped of a limit */
} stor_planner_mode_t;

/* The plan, in arena. *ret_budget: what it may read, while it has given nothing, before it counts
 * as far worse than thought; 0 = no limit. rejected may be NULL. */
VD_MUST_CHECK int stor_planner_plan(vd_arena_t *arena, stor_request_t *request,
                                    const stor_query_spec_t *spec, stor_planner_mode_t mode,
                                    const stor_plan_t **ret_plan, uint64_t *ret_budget,
                                    stor_plans_t *rejected, vd_error_t *err);
/* A query has ended, having read so many entries and documents: remembered. */
void stor_planner_ran(stor_request_t *request, const stor_query_spec_t *spec,
                      const stor_plan_t *plan, uint64_t works);
/* Forgets plans: of the collection, or of one shape (0 = all). */
void stor_planner_clear(stor_planner_t *planner, uint64_t collection_id, uint64_t shape);
/* Of a query, as the cache knows it; as index filters do. */
uint64_t stor_planner_shape(const stor_query_spec_t *spec);
uint64_t stor_planner_filter_shape(const stor_query_spec_t *spec);
stor_plan_filters_t *stor_planner_filters(stor_planner_t *planner);
typedef struct {
    uint64_t shape, signature, works;
    double cost;
    int64_t created_wall_ms;
    const char *summary; /* in the arena given */
    uint64_t filter_shape;
    vd_bson_t created_from; /* {query, sort, projection, collation}; NONE: too long to be kept */
} stor_plan_cache_entry_t;
/* As clients see them: queryHash, planCacheKey. */
typedef struct {
    char query[16], key[16];
} stor_plan_hashes_t;
void stor_planner_hashes(uint64_t shape, uint64_t signature, stor_plan_hashes_t *ret);
void stor_planner_entries(stor_planner_t *planner, vd_arena_t *arena, uint64_t collection_id,
                          stor_plan_cache_entry_t **ret_entries, uint32_t *ret_count);
