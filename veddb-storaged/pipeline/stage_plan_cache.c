/* veddb-storaged/pipeline/stage_plan_cache.c — $planCacheStats: what the plan cache remembers of
 * the collection. All documents are made at the first pull: there are few. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/exec/planner.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/pipeline/stages.h"

typedef struct {
    stor_stage_t stage;
    uint64_t collection_id;
    vd_arena_t *arena;
    stor_plan_cache_entry_t *entries;
    uint32_t count, position;
} plan_cache_t;

static int stats_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT || !vd_bson_is_empty(vd_value_document(spec)))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$planCacheStats must take an empty object");
    plan_cache_t *stats = VD_ARENA_NEW(context->arena, plan_cache_t);
    stats->collection_id = context->collection_id;
    *ret_stage = &stats->stage;
    return VD_OK;
}

static int stats_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    plan_cache_t *stats = (plan_cache_t *)stage;
    stor_plan_hashes_t hashes;
    vd_bb_t bb;
    if (stats->arena == NULL) {
        stats->arena = vd_arena_create();
        stor_planner_entries(request->storage->planner, stats->arena, stats->collection_id,
                             &stats->entries, &stats->count);
    }
    int rc = stor_request_check(request, err);
    if (rc != VD_OK)
        return rc;
    if (stats->position == stats->count)
        return VD_ERR_NOT_FOUND;
    const stor_plan_cache_entry_t *entry = &stats->entries[stats->position++];
    stor_planner_hashes(entry->shape, entry->signature, &hashes);
    vd_bb_init_arena(&bb, stats->arena, VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_cstr(&bb, "version", "1");
    vd_bb_cstr(&bb, "queryHash", hashes.query);
    vd_bb_cstr(&bb, "planCacheKey", hashes.key);
    vd_bb_bool(&bb, "isActive", true);
    if (entry->created_from.len > 0)
        vd_bb_document(&bb, "createdFromQuery", entry->created_from);
    vd_bb_int64(&bb, "works", (int64_t)entry->works);
    vd_bb_date(&bb, "timeOfCreation", entry->created_wall_ms);
    vd_bb_begin_document(&bb, "cachedPlan");
    vd_bb_cstr(&bb, "planSummary", entry->summary);
    vd_bb_double(&bb, "cost", entry->cost);
    vd_bb_close(&bb);
    vd_bb_bool(&bb, "indexFilterSet",
               stor_plan_filters_has(stor_planner_filters(request->storage->planner),
                                     stats->collection_id, entry->filter_shape));
    return vd_bb_finish(&bb, ret_document, err);
}

static void stats_close(stor_stage_t *stage)
{
    vd_arena_destroy(&((plan_cache_t *)stage)->arena);
}

const stor_stage_class_t stor_stage_plan_cache_stats = {.name = "$planCacheStats",
                                                        .parse = stats_parse,
                                                        .next = stats_next,
                                                        .close = stats_close,
                                                        .first_only = true};
