/* veddb-storaged/pipeline/optimize.c — puts stages into an order that is cheaper and gives the same
 * documents: $unwind into the $lookup before it, $match in front of what does not touch its fields,
 * $limit and $skip with their like; and tells the query what equalities in $expr say, which is how
 * a $lookup with `let` finds its documents by an index.
 *
 * A $match that has come to the head becomes the query's filter (pipeline.c), which is what all
 * this is for. Fields are told apart by their first part only: careful, and always right. */
#include "libcommon/bson/build.h"
#include "veddb-storaged/pipeline/sources.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/query/expr.h"

#define SPLITS_MAX 16

/* ---- fields ---- */

static vd_slice_t root_of(vd_slice_t path)
{
    const uint8_t *dot = path.len == 0 ? NULL : memchr(path.data, '.', path.len);
    return dot == NULL ? path : vd_slice(path.data, (size_t)(dot - path.data));
}

static bool same_root(vd_slice_t a, vd_slice_t b)
{
    return vd_slice_equal(root_of(a), root_of(b));
}

static bool is_plain_yes(vd_value_t v)
{
    return v.type == VD_BSON_BOOL || vd_value_is_number(v) ? vd_value_truthy(v) : false;
}

static bool is_plain_no(vd_value_t v)
{
    return v.type == VD_BSON_BOOL || vd_value_is_number(v) ? !vd_value_truthy(v) : false;
}

/* The path has the same value before and behind a $project. */
static bool project_keeps(vd_bson_t spec, vd_slice_t path)
{
    vd_bson_iter_t iter;
    bool excludes = false, included = vd_slice_is(root_of(path), "_id");
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        if (is_plain_no(iter.value)) {
            if (same_root(iter.name, path))
                return false;
            excludes |= !vd_slice_is(iter.name, "_id");
        } else if (is_plain_yes(iter.value)) {
            included |= vd_slice_equal(root_of(path), iter.name);
        } else if (same_root(iter.name, path)) {
            return false;
        }
    }
    return excludes || included;
}

static bool names_root(vd_bson_t spec, vd_slice_t path)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter))
        if (same_root(iter.name, path))
            return true;
    return false;
}

static bool unset_names(vd_value_t spec, vd_slice_t path)
{
    vd_bson_iter_t iter;
    if (spec.type == VD_BSON_STRING)
        return same_root(vd_value_string(spec), path);
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter))
        if (iter.value.type == VD_BSON_STRING && same_root(vd_value_string(iter.value), path))
            return true;
    return false;
}

/* A document matches on this path before the stage just when it does behind it. */
static bool stage_keeps(const stor_stage_t *stage, vd_slice_t path)
{
    const stor_stage_class_t *class = stage->class;
    vd_value_t spec = vd_bson_get(stage->spec, class->name);
    if (class == &stor_stage_sort)
        return true;
    if (class == &stor_stage_project)
        return spec.type == VD_BSON_OBJECT && project_keeps(vd_value_document(spec), path);
    if (class == &stor_stage_add_fields || class == &stor_stage_set)
        return spec.type == VD_BSON_OBJECT && !names_root(vd_value_document(spec), path);
    if (class == &stor_stage_unset)
        return !unset_names(spec, path);
    if (class == &stor_stage_unwind) {
        stor_unwind_facts_t unwind = stor_stage_unwind_facts(stage);
        return !same_root(unwind.path, path) &&
               (unwind.index_field.len == 0 || !same_root(unwind.index_field, path));
    }
    vd_slice_t as = class == &stor_stage_lookup         ? stor_stage_lookup_as(stage)
                    : class == &stor_stage_graph_lookup ? stor_stage_graph_as(stage)
                                                        : VD_SLICE_NULL;
    if (as.len == 0 || same_root(as, path))
        return false;
    vd_value_t unwinding = spec.type == VD_BSON_OBJECT
                               ? vd_bson_get(vd_value_document(spec), "unwinding")
                               : VD_VALUE_MISSING;
    vd_value_t index = unwinding.type == VD_BSON_OBJECT
                           ? vd_bson_get(vd_value_document(unwinding), "includeArrayIndex")
                           : VD_VALUE_MISSING;
    return index.type != VD_BSON_STRING || !same_root(vd_value_string(index), path);
}

static bool filter_moves(const stor_filter_t *filter, const stor_stage_t *stage)
{
    switch (filter->kind) {
    case STOR_FILTER_AND:
    case STOR_FILTER_OR:
    case STOR_FILTER_NOR:
    case STOR_FILTER_NOT:
        for (uint32_t i = 0; i < filter->child_count; i++)
            if (!filter_moves(filter->children[i], stage))
                return false;
        return true;
    case STOR_FILTER_TRUE:
    case STOR_FILTER_FALSE:
        return true;
    case STOR_FILTER_EXPR:
    case STOR_FILTER_JSON_SCHEMA:
        return stage->class == &stor_stage_sort;
    default:
        return stage_keeps(stage, filter->path.text);
    }
}

/* ---- $match ---- */

typedef struct {
    const stor_pipeline_context_t *context;
    stor_stage_t **stages;
    uint32_t count, cap;
} list_t;

static int match_make(const stor_pipeline_context_t *context, stor_filter_t *filter,
                      stor_stage_t **ret_stage, vd_error_t *err)
{
    vd_bb_t bb;
    *ret_stage = stor_stage_match_new(context, filter);
    vd_bb_init_arena(&bb, context->arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_document(&bb, "$match", stor_filter_to_bson(context->arena, filter));
    return vd_bb_finish(&bb, &(*ret_stage)->spec, err);
}

static stor_filter_t *and_of(vd_arena_t *arena, stor_filter_t **children, uint32_t count)
{
    if (count == 1)
        return children[0];
    stor_filter_t *filter = VD_ARENA_NEW(arena, stor_filter_t);
    filter->kind = STOR_FILTER_AND;
    filter->children = children;
    filter->child_count = count;
    return filter;
}

/* Parts of an $and that may go in front of the stage do so; the rest stays. *ret_moved: the place
 * `at - 1` holds a $match now. */
static int match_split(list_t *list, uint32_t at, bool *ret_moved, vd_error_t *err)
{
    const stor_filter_t *filter = stor_stage_match_filter(list->stages[at]);
    stor_stage_t *before = list->stages[at - 1], *front, *rest;
    vd_arena_t *arena = list->context->arena;
    *ret_moved = false;
    if (filter->kind != STOR_FILTER_AND || list->count == list->cap)
        return VD_OK;
    stor_filter_t **moving = VD_ARENA_ARRAY(arena, stor_filter_t *, filter->child_count);
    stor_filter_t **staying = VD_ARENA_ARRAY(arena, stor_filter_t *, filter->child_count);
    uint32_t moves = 0, stays = 0;
    for (uint32_t i = 0; i < filter->child_count; i++) {
        if (filter_moves(filter->children[i], before))
            moving[moves++] = filter->children[i];
        else
            staying[stays++] = filter->children[i];
    }
    if (moves == 0)
        return VD_OK;
    int rc = match_make(list->context, and_of(arena, moving, moves), &front, err);
    if (rc == VD_OK)
        rc = match_make(list->context, and_of(arena, staying, stays), &rest, err);
    if (rc != VD_OK)
        return rc;
    memmove(&list->stages[at + 1], &list->stages[at], (list->count - at) * sizeof list->stages[0]);
    list->count++;
    list->stages[at - 1] = front;
    list->stages[at] = before;
    list->stages[at + 1] = rest;
    *ret_moved = true;
    return VD_OK;
}

static int match_forward(list_t *list, uint32_t at, vd_error_t *err)
{
    while (at > 0) {
        stor_stage_t *before = list->stages[at - 1], *match = list->stages[at];
        bool moved = true;
        if (before->class == &stor_stage_match)
            return VD_OK;
        if (filter_moves(stor_stage_match_filter(match), before)) {
            list->stages[at - 1] = match;
            list->stages[at] = before;
        } else {
            int rc = match_split(list, at, &moved, err);
            if (rc != VD_OK || !moved)
                return rc;
        }
        at--;
    }
    return VD_OK;
}

/* ---- $expr ---- */

typedef struct {
    vd_arena_t *arena;
    stor_filter_t **added;
    uint32_t count, cap;
} narrow_t;

static void narrow_visit(vd_slice_t path, vd_value_t value, void *context)
{
    narrow_t *narrow = context;
    if (narrow->count == narrow->cap)
        return;
    stor_filter_t *filter = VD_ARENA_NEW(narrow->arena, stor_filter_t);
    filter->kind = STOR_FILTER_EQ;
    stor_path_split(narrow->arena, path, &filter->path);
    filter->value = vd_value_copy(narrow->arena, value);
    narrow->added[narrow->count++] = filter;
}

static int narrow_by(const stor_pipeline_context_t *context, const stor_filter_t *filter,
                     narrow_t *narrow, vd_error_t *err)
{
    stor_expr_env_t env;
    if (filter->kind != STOR_FILTER_EXPR)
        return VD_OK;
    stor_expr_env_init(&env, narrow->arena, context->variables);
    return stor_expr_equalities(filter->expr, &env, narrow_visit, narrow, err);
}

int stor_pipeline_narrow(const stor_pipeline_context_t *context, const stor_filter_t **filter,
                         vd_error_t *err)
{
    const stor_filter_t *old = *filter;
    stor_filter_t *added[8];
    narrow_t narrow = {context->arena, added, 0, VD_COUNT_OF(added)};
    bool is_and = old->kind == STOR_FILTER_AND;
    uint32_t count = is_and ? old->child_count : 1;
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < count; i++)
        rc = narrow_by(context, is_and ? old->children[i] : old, &narrow, err);
    if (rc != VD_OK || narrow.count == 0)
        return rc;
    stor_filter_t *both = VD_ARENA_NEW(context->arena, stor_filter_t);
    both->kind = STOR_FILTER_AND;
    both->children = VD_ARENA_ARRAY(context->arena, stor_filter_t *, count + narrow.count);
    memcpy(both->children, added, narrow.count * sizeof added[0]);
    for (uint32_t i = 0; i < count; i++)
        both->children[narrow.count + i] = is_and ? old->children[i] : (stor_filter_t *)old;
    both->child_count = count + narrow.count;
    *filter = both;
    return VD_OK;
}

/* ---- pairs ---- */

static void remove_at(list_t *list, uint32_t at)
{
    memmove(&list->stages[at], &list->stages[at + 1],
            (list->count - at - 1) * sizeof list->stages[0]);
    list->count--;
}

/* {$lookup: {..., unwinding: {...}}} as explain shows it. */
static int spec_with_unwind(const stor_pipeline_context_t *context, stor_stage_t *stage,
                            const stor_unwind_facts_t *unwind, vd_error_t *err)
{
    vd_bb_t bb;
    vd_value_t spec = vd_bson_get(stage->spec, stage->class->name);
    vd_bb_init_arena(&bb, context->arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_begin_document(&bb, stage->class->name);
    vd_bb_concat(&bb, vd_value_document(spec));
    vd_bb_begin_document(&bb, "unwinding");
    vd_bb_bool(&bb, "preserveNullAndEmptyArrays", unwind->keep_empty);
    if (unwind->index_field.len > 0)
        vd_bb_string(&bb, "includeArrayIndex", unwind->index_field);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    return vd_bb_finish(&bb, &stage->spec, err);
}

static int fold_unwind(list_t *list, uint32_t at, vd_error_t *err)
{
    stor_stage_t *stage = list->stages[at];
    if (at + 1 == list->count || list->stages[at + 1]->class != &stor_stage_unwind)
        return VD_OK;
    stor_unwind_facts_t unwind = stor_stage_unwind_facts(list->stages[at + 1]);
    bool folded = stage->class == &stor_stage_lookup ? stor_stage_lookup_fold(stage, &unwind)
                  : stage->class == &stor_stage_graph_lookup ? stor_stage_graph_fold(stage, &unwind)
                                                             : false;
    if (!folded)
        return VD_OK;
    remove_at(list, at + 1);
    return spec_with_unwind(list->context, stage, &unwind, err);
}

/* Two $limit are the smaller one, two $skip their sum. */
static int merge_cuts(list_t *list, uint32_t at, bool *ret_merged, vd_error_t *err)
{
    const stor_stage_class_t *class = list->stages[at]->class;
    *ret_merged = false;
    if (at + 1 == list->count || list->stages[at + 1]->class != class ||
        (class != &stor_stage_limit && class != &stor_stage_skip))
        return VD_OK;
    int64_t a = stor_stage_cut_count(list->stages[at]),
            b = stor_stage_cut_count(list->stages[at + 1]), both = a < b ? a : b;
    vd_bb_t bb;
    if (class == &stor_stage_skip && __builtin_add_overflow(a, b, &both))
        return VD_OK;
    stor_stage_cut_set(list->stages[at], both);
    remove_at(list, at + 1);
    vd_bb_init_arena(&bb, list->context->arena, 256);
    vd_bb_int64(&bb, class->name, both);
    *ret_merged = true;
    return vd_bb_finish(&bb, &list->stages[at]->spec, err);
}

int stor_pipeline_optimize(const stor_pipeline_context_t *context, stor_stage_t ***stages,
                           uint32_t *count, vd_error_t *err)
{
    list_t list = {context, NULL, *count, *count + SPLITS_MAX};
    int rc = VD_OK;
    if (*count < 2 || (*stages)[0]->class == &stor_stage_change_stream)
        return VD_OK;
    list.stages = VD_ARENA_ARRAY(context->arena, stor_stage_t *, list.cap);
    memcpy(list.stages, *stages, *count * sizeof **stages);
    for (uint32_t i = 0; rc == VD_OK && i < list.count; i++) {
        bool merged = true;
        rc = fold_unwind(&list, i, err);
        while (rc == VD_OK && merged)
            rc = merge_cuts(&list, i, &merged, err);
    }
    for (uint32_t i = 1; rc == VD_OK && i < list.count; i++)
        if (list.stages[i]->class == &stor_stage_match)
            rc = match_forward(&list, i, err);
    if (rc == VD_OK) {
        *stages = list.stages;
        *count = list.count;
    }
    return rc;
}
