/* veddb-storaged/pipeline/stage_filter.c — $match, $limit, $skip, $sort: stages that choose and
 * order documents. */
#include "libcommon/base/limits.h"
#include "veddb-storaged/exec/topk.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/query/match.h"

/* ---- $match ---- */

typedef struct {
    stor_stage_t stage;
    stor_filter_t *filter;
    const stor_variables_t *variables;
    vd_arena_t *scratch;
} match_t;

static int match_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(15959),
                            "the match filter must be an expression in an object");
    match_t *match = VD_ARENA_NEW(context->arena, match_t);
    match->variables = context->variables;
    *ret_stage = &match->stage;
    return stor_filter_parse(context->arena, vd_value_document(spec), context->variables,
                             &match->filter, err);
}

static int match_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    match_t *match = (match_t *)stage;
    if (match->scratch == NULL)
        match->scratch = vd_arena_create();
    stor_match_t state = {.arena = match->scratch, .variables = match->variables};
    for (;;) {
        bool matches = false;
        int rc = stor_stage_pull(stage, request, ret_document, err);
        vd_arena_reset(match->scratch);
        state.version = stage->source->version;
        if (rc == VD_OK)
            rc = stor_match_document(match->filter, *ret_document, &state, &matches, err);
        if (rc != VD_OK || matches)
            return rc;
    }
}

static void match_close(stor_stage_t *stage)
{
    vd_arena_destroy(&((match_t *)stage)->scratch);
}

const stor_stage_class_t stor_stage_match = {.name = "$match",
                                             .parse = match_parse,
                                             .next = match_next,
                                             .close = match_close,
                                             .keeps_version = true};

stor_stage_t *stor_stage_match_new(const stor_pipeline_context_t *context, stor_filter_t *filter)
{
    match_t *match = VD_ARENA_NEW(context->arena, match_t);
    match->variables = context->variables;
    match->filter = filter;
    match->stage.class = &stor_stage_match;
    return &match->stage;
}

const stor_filter_t *stor_stage_match_filter(const stor_stage_t *stage)
{
    return ((const match_t *)stage)->filter;
}

/* ---- $limit, $skip ---- */

typedef struct {
    stor_stage_t stage;
    int64_t count, done;
} cut_t;

static int cut_parse(const stor_pipeline_context_t *context, const char *name, int64_t least,
                     vd_value_t spec, stor_stage_t **ret_stage, vd_error_t *err)
{
    cut_t *cut = VD_ARENA_NEW(context->arena, cut_t);
    if (!vd_value_is_number(spec) || !vd_value_as_int64(spec, &cut->count) || cut->count < 0)
        return vd_error_set(
            err, least == 1 ? VD_ERR_LOCATION(5107201) : VD_ERR_LOCATION(5107200),
            "invalid argument to %s stage: Expected a non-negative number in: %s: %s", name, name,
            vd_value_to_json(context->arena, spec, 100));
    if (cut->count < least)
        return vd_error_set(err, VD_ERR_LOCATION(15958), "the limit must be positive");
    *ret_stage = &cut->stage;
    return VD_OK;
}

static int limit_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    return cut_parse(context, "$limit", 1, spec, ret_stage, err);
}

static int skip_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                      stor_stage_t **ret_stage, vd_error_t *err)
{
    return cut_parse(context, "$skip", 0, spec, ret_stage, err);
}

static int limit_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    cut_t *cut = (cut_t *)stage;
    if (cut->done >= cut->count)
        return VD_ERR_NOT_FOUND;
    cut->done++;
    return stor_stage_pull(stage, request, ret_document, err);
}

static int skip_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                     vd_error_t *err)
{
    cut_t *cut = (cut_t *)stage;
    int rc = stor_stage_pull(stage, request, ret_document, err);
    for (; rc == VD_OK && cut->done < cut->count; cut->done++)
        rc = stor_stage_pull(stage, request, ret_document, err);
    return rc;
}

const stor_stage_class_t stor_stage_limit = {
    .name = "$limit", .parse = limit_parse, .next = limit_next, .keeps_version = true};
const stor_stage_class_t stor_stage_skip = {
    .name = "$skip", .parse = skip_parse, .next = skip_next, .keeps_version = true};

int64_t stor_stage_cut_count(const stor_stage_t *stage)
{
    return ((const cut_t *)stage)->count;
}

void stor_stage_cut_set(stor_stage_t *stage, int64_t count)
{
    ((cut_t *)stage)->count = count;
}

/* ---- $sort ---- */

typedef struct {
    stor_stage_t stage;
    stor_sort_t *sort;
    stor_topk_t *sorted;
    stor_work_t *work;
    uint64_t k; /* 0 = all */
    bool done;
} sort_t;

static int sort_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                      stor_stage_t **ret_stage, vd_error_t *err)
{
    sort_t *sort = VD_ARENA_NEW(context->arena, sort_t);
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(15973),
                            "the $sort key specification must be an object");
    if (vd_bson_is_empty(vd_value_document(spec)))
        return vd_error_set(err, VD_ERR_LOCATION(15976),
                            "$sort stage must have at least one sort key");
    sort->work = context->work;
    sort->stage.may_spill = true;
    *ret_stage = &sort->stage;
    int rc = stor_sort_parse(context->arena, vd_value_document(spec), &sort->sort, err);
    if (rc == VD_OK && sort->sort->natural != 0)
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "$natural sort is not supported in $sort");
    return rc;
}

static int sort_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                     vd_error_t *err)
{
    sort_t *sort = (sort_t *)stage;
    uint64_t tag;
    if (!sort->done) {
        vd_arena_t *scratch = vd_arena_create();
        if (sort->sorted == NULL)
            sort->sorted = stor_topk_create(sort->sort, sort->k, "Sort", sort->work);
        int rc;
        while ((rc = stor_stage_pull(stage, request, ret_document, err)) == VD_OK) {
            vd_arena_reset(scratch);
            rc = stor_topk_add(sort->sorted, request, scratch, *ret_document,
                               stage->source->version, err);
            if (rc != VD_OK)
                break;
        }
        vd_arena_destroy(&scratch);
        if (rc == VD_ERR_NOT_FOUND)
            rc = stor_topk_finish(sort->sorted, request, err);
        stage->spills = stor_topk_spilled(sort->sorted);
        if (rc != VD_OK)
            return rc;
        sort->done = true;
    }
    int next_rc = stor_topk_next(sort->sorted, request, ret_document, &tag, NULL, err);
    stage->version = next_rc == VD_OK ? tag : 0;
    return next_rc;
}

static void sort_close(stor_stage_t *stage)
{
    stor_topk_destroy(&((sort_t *)stage)->sorted);
}

const stor_stage_class_t stor_stage_sort = {
    .name = "$sort", .parse = sort_parse, .next = sort_next, .close = sort_close};

void stor_stage_sort_bound(stor_stage_t *stage, uint64_t k)
{
    ((sort_t *)stage)->k = k;
}

const stor_sort_t *stor_stage_sort_pattern(const stor_stage_t *stage)
{
    return ((const sort_t *)stage)->sort;
}
