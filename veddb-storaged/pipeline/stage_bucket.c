/* veddb-storaged/pipeline/stage_bucket.c — $bucket: a $group by the boundary below a value, in
 * order: the two stages that it stands for, one behind the other. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/query/expr.h"

typedef struct {
    stor_stage_t stage;
    stor_stage_t *group, *sort;
} bucket_t;

typedef struct {
    vd_value_t group_by, fallback;
    vd_bson_t output;
    vd_value_t *boundaries;
    uint32_t count;
} bucket_args_t;

static int constant(const stor_pipeline_context_t *context, vd_value_t spec, bool *ret_constant,
                    vd_value_t *ret_value, vd_error_t *err)
{
    stor_expr_t *expr;
    int rc = stor_expr_parse(context->arena, spec, context->variables, &expr, err);
    if (rc == VD_OK)
        *ret_constant = stor_expr_constant(expr, ret_value);
    return rc;
}

static int group_by_check(const stor_pipeline_context_t *context, vd_value_t value, vd_error_t *err)
{
    vd_slice_t name = VD_SLICE_NULL;
    vd_value_t ignored;
    bool ok = false;
    if (value.type == VD_BSON_STRING)
        ok = vd_value_string(value).len > 0 && vd_value_string(value).data[0] == '$';
    else if (value.type == VD_BSON_OBJECT)
        ok = vd_bson_first(vd_value_document(value), &name, &ignored) && name.len > 0 &&
             name.data[0] == '$';
    return ok ? VD_OK
              : vd_error_set(err, VD_ERR_LOCATION(40202),
                             "The $bucket 'groupBy' field must be defined as a $-prefixed path or "
                             "an expression, but found: %s.",
                             vd_value_to_json(context->arena, value, 100));
}

static int boundaries_parse(const stor_pipeline_context_t *context, vd_value_t value,
                            bucket_args_t *args, vd_error_t *err)
{
    vd_bson_iter_t iter;
    if (value.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(40200),
                            "The $bucket 'boundaries' field must be an array, but found type: %s.",
                            vd_bson_type_name(value.type));
    args->boundaries =
        VD_ARENA_ARRAY(context->arena, vd_value_t, vd_bson_count(vd_value_document(value)) + 1);
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (vd_bson_iter_next(&iter)) {
        bool ok = false;
        int rc = constant(context, iter.value, &ok, &args->boundaries[args->count], err);
        if (rc != VD_OK)
            return rc;
        if (!ok)
            return vd_error_set(err, VD_ERR_LOCATION(40191),
                                "The $bucket 'boundaries' field must be an array of constant "
                                "values, but found value: %s.",
                                vd_value_to_json(context->arena, iter.value, 100));
        args->count++;
    }
    if (args->count < 2)
        return vd_error_set(err, VD_ERR_LOCATION(40192),
                            "The $bucket 'boundaries' field must have at least 2 values, but found "
                            "%u value(s).",
                            args->count);
    for (uint32_t i = 1; i < args->count; i++) {
        vd_value_t lower = args->boundaries[i - 1], upper = args->boundaries[i];
        if (vd_bson_canonical_type(lower.type) != vd_bson_canonical_type(upper.type))
            return vd_error_set(err, VD_ERR_LOCATION(40193),
                                "All values in the the 'boundaries' option to $bucket must have "
                                "the same type. Found conflicting types %s and %s.",
                                vd_bson_type_name(lower.type), vd_bson_type_name(upper.type));
        if (vd_value_compare(lower, upper) >= 0)
            return vd_error_set(err, VD_ERR_LOCATION(40194),
                                "The 'boundaries' option to $bucket must be sorted, but elements "
                                "%u and %u are not in ascending order (%s is not less than %s).",
                                i - 1, i, vd_value_to_json(context->arena, lower, 100),
                                vd_value_to_json(context->arena, upper, 100));
    }
    return VD_OK;
}

static int option(const stor_pipeline_context_t *context, vd_slice_t name, vd_value_t value,
                  bucket_args_t *args, vd_error_t *err)
{
    if (vd_slice_is(name, "groupBy")) {
        args->group_by = value;
        return group_by_check(context, value, err);
    }
    if (vd_slice_is(name, "boundaries"))
        return boundaries_parse(context, value, args, err);
    if (vd_slice_is(name, "default")) {
        bool ok = false;
        int rc = constant(context, value, &ok, &args->fallback, err);
        if (rc == VD_OK && !ok)
            rc = vd_error_set(err, VD_ERR_LOCATION(40195),
                              "The $bucket 'default' field must be a constant expression, but "
                              "found: %s.",
                              vd_value_to_json(context->arena, value, 100));
        return rc;
    }
    if (!vd_slice_is(name, "output"))
        return vd_error_set(err, VD_ERR_LOCATION(40197), "Unrecognized option to $bucket: %.*s.",
                            VD_SLICE_FMT(name));
    if (value.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40196),
                            "The $bucket 'output' field must be an object, but found type: %s.",
                            vd_bson_type_name(value.type));
    args->output = vd_value_document(value);
    return VD_OK;
}

static int args_check(const bucket_args_t *args, vd_error_t *err)
{
    if (vd_value_is_missing(args->group_by) || args->count == 0)
        return vd_error_set(err, VD_ERR_LOCATION(40198),
                            "$bucket requires 'groupBy' and 'boundaries' to be specified.");
    vd_value_t lowest = args->boundaries[0], highest = args->boundaries[args->count - 1];
    if (!vd_value_is_missing(args->fallback) &&
        vd_bson_canonical_type(args->fallback.type) == vd_bson_canonical_type(lowest.type) &&
        vd_value_compare(args->fallback, lowest) >= 0 &&
        vd_value_compare(args->fallback, highest) < 0)
        return vd_error_set(err, VD_ERR_LOCATION(40199),
                            "The $bucket 'default' field must be less than the lowest boundary or "
                            "greater than or equal to the highest boundary.");
    return VD_OK;
}

static void append_literal(vd_bb_t *bb, const char *name, vd_value_t value)
{
    vd_bb_begin_document(bb, name);
    vd_bb_value(bb, VD_SLICE_LIT("$literal"), value);
    vd_bb_close(bb);
}

static void append_compare(vd_bb_t *bb, const char *position, const char *operator,
                           vd_value_t group_by, vd_value_t boundary)
{
    vd_bb_begin_document(bb, position);
    vd_bb_begin_array(bb, operator);
    vd_bb_value(bb, VD_SLICE_LIT("0"), group_by);
    append_literal(bb, "1", boundary);
    vd_bb_close(bb);
    vd_bb_close(bb);
}

/* {_id: {$switch: ...}, and the output} */
static int group_spec(vd_arena_t *arena, const bucket_args_t *args, vd_bson_t *ret_spec,
                      vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    char buf[12];
    vd_bb_init_arena(bb, arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_begin_document(bb, "_id");
    vd_bb_begin_document(bb, "$switch");
    vd_bb_begin_array(bb, "branches");
    for (uint32_t i = 1; i < args->count; i++) {
        vd_bb_open_document(bb, vd_array_name(i - 1, buf));
        vd_bb_begin_document(bb, "case");
        vd_bb_begin_array(bb, "$and");
        append_compare(bb, "0", "$gte", args->group_by, args->boundaries[i - 1]);
        append_compare(bb, "1", "$lt", args->group_by, args->boundaries[i]);
        vd_bb_close(bb);
        vd_bb_close(bb);
        append_literal(bb, "then", args->boundaries[i - 1]);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    if (!vd_value_is_missing(args->fallback))
        append_literal(bb, "default", args->fallback);
    vd_bb_close(bb);
    vd_bb_close(bb);
    if (args->output.data != NULL) {
        vd_bb_concat(bb, args->output);
    } else {
        vd_bb_begin_document(bb, "count");
        vd_bb_int32(bb, "$sum", 1);
        vd_bb_close(bb);
    }
    return vd_bb_finish(bb, ret_spec, err);
}

static int bucket_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                        stor_stage_t **ret_stage, vd_error_t *err)
{
    bucket_t *bucket = VD_ARENA_NEW(context->arena, bucket_t);
    bucket_args_t args = {.group_by = VD_VALUE_MISSING, .fallback = VD_VALUE_MISSING};
    vd_bson_iter_t iter;
    vd_bson_t group, order;
    vd_bb_t bb;
    int rc = VD_OK;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40201),
                            "Argument to $bucket stage must be an object, but found type: %s.",
                            vd_bson_type_name(spec.type));
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = option(context, iter.name, iter.value, &args, err);
    if (rc == VD_OK)
        rc = args_check(&args, err);
    if (rc == VD_OK)
        rc = group_spec(context->arena, &args, &group, err);
    if (rc == VD_OK)
        rc = stor_stage_group.parse(context, vd_value_from_document(group), &bucket->group, err);
    vd_bb_init_arena(&bb, context->arena, 256);
    vd_bb_int32(&bb, "_id", 1);
    if (rc == VD_OK)
        rc = vd_bb_finish(&bb, &order, err);
    if (rc == VD_OK)
        rc = stor_stage_sort.parse(context, vd_value_from_document(order), &bucket->sort, err);
    if (rc != VD_OK)
        return rc;
    bucket->group->class = &stor_stage_group;
    bucket->sort->class = &stor_stage_sort;
    bucket->sort->source = bucket->group;
    *ret_stage = &bucket->stage;
    return VD_OK;
}

static int bucket_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    bucket_t *bucket = (bucket_t *)stage;
    bucket->group->source = stage->source;
    return stor_stage_sort.next(bucket->sort, request, ret_document, err);
}

static void bucket_release(stor_stage_t *stage)
{
    bucket_t *bucket = (bucket_t *)stage;
    if (stor_stage_sort.release != NULL)
        stor_stage_sort.release(bucket->sort);
    if (stor_stage_group.release != NULL)
        stor_stage_group.release(bucket->group);
}

static void bucket_close(stor_stage_t *stage)
{
    bucket_t *bucket = (bucket_t *)stage;
    if (stor_stage_sort.close != NULL)
        stor_stage_sort.close(bucket->sort);
    if (stor_stage_group.close != NULL)
        stor_stage_group.close(bucket->group);
}

const stor_stage_class_t stor_stage_bucket = {.name = "$bucket",
                                              .parse = bucket_parse,
                                              .next = bucket_next,
                                              .release = bucket_release,
                                              .close = bucket_close};
