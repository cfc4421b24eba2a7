/* veddb-storaged/pipeline/stage_bucket_auto.c — $bucketAuto: documents in order of a value, cut
 * into buckets of about equal numbers. */
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/exec/topk.h"
#include "veddb-storaged/pipeline/granularity.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/query/accumulate.h"

#include <math.h>

typedef struct {
    stor_stage_t stage;
    const stor_variables_t *variables;
    stor_work_t *work;
    stor_expr_t *group_by;
    int32_t buckets;
    const stor_granularity_t *granularity; /* NULL = none */
    uint32_t field_count;
    vd_slice_t *fields;
    stor_accumulator_t **accumulators;
    stor_accumulator_state_t **states;
    stor_sort_t *order;
    /* running */
    stor_topk_t *sorted;
    vd_arena_t *scratch, *bucket, *kept; /* kept: the boundary between buckets */
    size_t held;
    bool sorted_all, waits;
    vd_bson_t document; /* waits: the next one, */
    vd_value_t key;     /* and its value */
    vd_value_t previous_max;
    uint64_t per_bucket;
    int32_t number; /* of the bucket in work, from 1 */
} bucket_auto_t;

/* ---- parse ---- */

static int parse_group_by(const stor_pipeline_context_t *context, bucket_auto_t *b, vd_value_t spec,
                          vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t ignored;
    bool object = spec.type == VD_BSON_OBJECT &&
                  vd_bson_first(vd_value_document(spec), &name, &ignored) && name.len > 0 &&
                  name.data[0] == '$';
    bool path = spec.type == VD_BSON_STRING && vd_value_string(spec).len > 1 &&
                vd_value_string(spec).data[0] == '$';
    if (!object && !path)
        return vd_error_set(err, VD_ERR_LOCATION(40239),
                            "The $bucketAuto 'groupBy' field must be defined as a $-prefixed path "
                            "or an expression object, but found: %s",
                            vd_value_to_json(context->arena, spec, 200));
    return stor_expr_parse(context->arena, spec, context->variables, &b->group_by, err);
}

static int parse_buckets(bucket_auto_t *b, vd_value_t spec, vd_error_t *err)
{
    int64_t n;
    if (!vd_value_is_number(spec))
        return vd_error_set(err, VD_ERR_LOCATION(40241),
                            "The $bucketAuto 'buckets' field must be a numeric value, but found "
                            "type: %s",
                            vd_bson_type_name(spec.type));
    if (!vd_value_as_int64(spec, &n) || n > INT32_MAX || n < INT32_MIN)
        return vd_error_set(err, VD_ERR_LOCATION(40242),
                            "The $bucketAuto 'buckets' field must be representable as a 32-bit "
                            "integer, but found %g",
                            vd_value_as_double(spec));
    if (n <= 0)
        return vd_error_set(err, VD_ERR_LOCATION(40243),
                            "The $bucketAuto 'buckets' field must be greater than 0, but found: "
                            "%lld",
                            (long long)n);
    b->buckets = (int32_t)n;
    return VD_OK;
}

static int parse_output(const stor_pipeline_context_t *context, bucket_auto_t *b, vd_value_t spec,
                        vd_error_t *err)
{
    vd_bson_iter_t iter;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40244),
                            "The $bucketAuto 'output' field must be an object, but found type: %s",
                            vd_bson_type_name(spec.type));
    uint32_t count = vd_bson_count(vd_value_document(spec));
    b->fields = VD_ARENA_ARRAY(context->arena, vd_slice_t, count + 1);
    b->accumulators = VD_ARENA_ARRAY(context->arena, stor_accumulator_t *, count + 1);
    b->field_count = 0;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        b->fields[b->field_count] = iter.name;
        int rc = stor_accumulator_parse(context->arena, iter.name, iter.value, context->variables,
                                        &b->accumulators[b->field_count], err);
        if (rc != VD_OK)
            return rc;
        b->field_count++;
    }
    return VD_OK;
}

/* Without an output, documents are counted. */
static int default_output(const stor_pipeline_context_t *context, bucket_auto_t *b, vd_error_t *err)
{
    vd_bson_t output;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, context->arena, 256);
    vd_bb_begin_document(&bb, "count");
    vd_bb_int32(&bb, "$sum", 1);
    vd_bb_close(&bb);
    int rc = vd_bb_finish(&bb, &output, err);
    return rc == VD_OK ? parse_output(context, b, vd_value_from_document(output), err) : rc;
}

static int bucket_auto_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                             stor_stage_t **ret_stage, vd_error_t *err)
{
    bucket_auto_t *b = VD_ARENA_NEW(context->arena, bucket_auto_t);
    vd_bson_iter_t iter;
    int rc = VD_OK;
    *ret_stage = &b->stage;
    b->variables = context->variables;
    b->work = context->work;
    b->stage.may_spill = true;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40240),
                            "The argument to $bucketAuto must be an object, but found type: %s",
                            vd_bson_type_name(spec.type));
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "groupBy"))
            rc = parse_group_by(context, b, iter.value, err);
        else if (vd_slice_is(iter.name, "buckets"))
            rc = parse_buckets(b, iter.value, err);
        else if (vd_slice_is(iter.name, "output"))
            rc = parse_output(context, b, iter.value, err);
        else if (!vd_slice_is(iter.name, "granularity"))
            rc = vd_error_set(err, VD_ERR_LOCATION(40245),
                              "Unrecognized option to $bucketAuto: %.*s", VD_SLICE_FMT(iter.name));
        else if (iter.value.type != VD_BSON_STRING)
            rc = vd_error_set(err, VD_ERR_LOCATION(40261),
                              "The $bucketAuto 'granularity' field must be a string, but found "
                              "type: %s",
                              vd_bson_type_name(iter.value.type));
        else if ((b->granularity = stor_granularity_find(vd_value_string(iter.value))) == NULL)
            rc = vd_error_set(err, VD_ERR_LOCATION(40257), "Unknown rounding granularity '%.*s'",
                              VD_SLICE_FMT(vd_value_string(iter.value)));
    }
    if (rc == VD_OK && (b->group_by == NULL || b->buckets == 0))
        rc = vd_error_set(err, VD_ERR_LOCATION(40246),
                          "$bucketAuto requires 'groupBy' and 'buckets' to be specified");
    if (rc == VD_OK && b->field_count == 0)
        rc = default_output(context, b, err);
    b->states = VD_ARENA_ARRAY(context->arena, stor_accumulator_state_t *, b->field_count + 1);
    b->order = VD_ARENA_NEW(context->arena, stor_sort_t);
    b->order->count = 1;
    b->order->directions[0] = 1;
    return rc;
}

/* ---- taking in ---- */

static int check_key(vd_value_t key, vd_error_t *err)
{
    if (!vd_value_is_number(key))
        return vd_error_set(err, VD_ERR_LOCATION(40258),
                            "$bucketAuto can specify a 'granularity' with numeric boundaries only, "
                            "but found a value with type: %s",
                            vd_bson_type_name(key.type));
    double d = vd_value_as_double(key);
    if (isnan(d))
        return vd_error_set(err, VD_ERR_LOCATION(40259),
                            "$bucketAuto can specify a 'granularity' with numeric boundaries only, "
                            "but found a NaN");
    if (d < 0)
        return vd_error_set(err, VD_ERR_LOCATION(40260),
                            "$bucketAuto can specify a 'granularity' with non-negative numbers "
                            "only, but found a negative number");
    return VD_OK;
}

static int take_in(bucket_auto_t *b, stor_request_t *request, vd_error_t *err)
{
    vd_bson_t document;
    int rc;
    if (b->sorted == NULL) {
        b->sorted = stor_topk_create(b->order, 0, "$bucketAuto", b->work);
        b->scratch = vd_arena_create();
        b->bucket = vd_arena_create();
        b->kept = vd_arena_create();
    }
    stor_expr_env_t env;
    stor_expr_env_init(&env, b->scratch, b->variables);
    while ((rc = stor_stage_pull(&b->stage, request, &document, err)) == VD_OK) {
        vd_value_t key;
        vd_arena_reset(b->scratch);
        stor_expr_env_document(&env, document);
        rc = stor_expr_eval(b->group_by, &env, &key, err);
        if (rc == VD_OK && b->granularity != NULL)
            rc = check_key(key, err);
        if (rc == VD_OK && vd_value_is_missing(key))
            key = vd_value_from_null();
        if (rc == VD_OK)
            rc = stor_topk_put(b->sorted, request, &key, document, 0, err);
        if (rc != VD_OK)
            return rc;
    }
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    rc = stor_topk_finish(b->sorted, request, err);
    b->per_bucket = (uint64_t)round((double)stor_topk_count(b->sorted) / (double)b->buckets);
    if (b->per_bucket == 0)
        b->per_bucket = 1;
    return rc;
}

/* ---- giving out ---- */

static int read_one(bucket_auto_t *b, stor_request_t *request, vd_error_t *err)
{
    const vd_value_t *keys;
    uint64_t tag;
    int rc = stor_topk_next(b->sorted, request, &b->document, &tag, &keys, err);
    b->waits = rc == VD_OK;
    if (rc == VD_OK)
        b->key = keys[0];
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

/* The waiting document joins the bucket; the next one waits. */
static int take_one(bucket_auto_t *b, stor_request_t *request, stor_expr_env_t *env,
                    vd_value_t *max, vd_error_t *err)
{
    int rc = request == NULL ? VD_OK : stor_request_check(request, err);
    vd_arena_reset(b->scratch);
    stor_expr_env_document(env, b->document);
    for (uint32_t i = 0; rc == VD_OK && i < b->field_count; i++)
        rc = stor_accumulator_add(b->states[i], env, err);
    if (rc == VD_OK && (vd_value_is_missing(*max) || vd_value_compare(b->key, *max) != 0 ||
                        b->key.type != max->type))
        *max = vd_value_copy(b->bucket, b->key);
    if (rc == VD_OK)
        rc = stor_work_pin(b->work, &b->held, vd_arena_used(b->bucket), "$bucketAuto", err);
    return rc == VD_OK ? read_one(b, request, err) : rc;
}

static int fill_bucket(bucket_auto_t *b, stor_request_t *request, vd_value_t *ret_min,
                       vd_value_t *ret_max, vd_error_t *err)
{
    stor_expr_env_t env;
    vd_value_t max = VD_VALUE_MISSING;
    int rc = VD_OK;
    stor_expr_env_init(&env, b->scratch, b->variables);
    vd_arena_reset(b->bucket);
    for (uint32_t i = 0; i < b->field_count; i++)
        b->states[i] = stor_accumulator_begin(b->accumulators[i], b->bucket);
    vd_value_t min = vd_value_copy(b->bucket, b->key);
    if (b->granularity != NULL)
        min = vd_value_is_missing(b->previous_max)
                  ? stor_granularity_round(b->granularity, b->bucket, min, false)
                  : vd_value_copy(b->bucket, b->previous_max);
    for (uint64_t i = 0; rc == VD_OK && b->waits && (i < b->per_bucket || b->number == b->buckets);
         i++)
        rc = take_one(b, request, &env, &max, err);
    /* What is equal to the boundary, or below it once it is rounded, belongs here too. */
    vd_value_t boundary = max;
    if (rc == VD_OK && b->granularity != NULL)
        boundary = stor_granularity_round(b->granularity, b->bucket, max, true);
    while (rc == VD_OK && b->waits &&
           (vd_value_compare(b->key, max) == 0 ||
            (b->granularity != NULL && vd_value_compare(b->key, boundary) < 0)))
        rc = take_one(b, request, &env, &max, err);
    if (rc != VD_OK)
        return rc;
    if (b->granularity == NULL)
        boundary = b->waits ? vd_value_copy(b->bucket, b->key) : max;
    else if (vd_value_as_double(boundary) == 0 && b->waits)
        boundary = stor_granularity_round(b->granularity, b->bucket,
                                          vd_value_copy(b->bucket, b->key), false);
    vd_arena_reset(b->kept);
    b->previous_max = vd_value_copy(b->kept, boundary);
    *ret_min = min;
    *ret_max = boundary;
    return VD_OK;
}

static int bucket_auto_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                            vd_error_t *err)
{
    bucket_auto_t *b = (bucket_auto_t *)stage;
    vd_value_t min, max;
    int rc = VD_OK;
    if (!b->sorted_all) {
        rc = take_in(b, request, err);
        stage->spills = stor_topk_spilled(b->sorted);
        if (rc == VD_OK)
            rc = read_one(b, request, err);
        b->sorted_all = rc == VD_OK;
    }
    if (rc != VD_OK)
        return rc;
    if (!b->waits || b->number == b->buckets)
        return VD_ERR_NOT_FOUND;
    b->number++;
    rc = fill_bucket(b, request, &min, &max, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_t bb;
    vd_arena_reset(b->scratch);
    vd_bb_init_arena(&bb, b->scratch, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_begin_document(&bb, "_id");
    vd_bb_value(&bb, VD_SLICE_LIT("min"), min);
    vd_bb_value(&bb, VD_SLICE_LIT("max"), max);
    vd_bb_close(&bb);
    for (uint32_t i = 0; rc == VD_OK && i < b->field_count; i++) {
        vd_value_t value;
        rc = stor_accumulator_finish(b->states[i], b->scratch, &value, err);
        if (rc == VD_OK)
            vd_bb_value(&bb, b->fields[i],
                        vd_value_is_missing(value) ? vd_value_from_null() : value);
    }
    return rc == VD_OK ? vd_bb_finish(&bb, ret_document, err) : rc;
}

static void bucket_auto_close(stor_stage_t *stage)
{
    bucket_auto_t *b = (bucket_auto_t *)stage;
    stor_topk_destroy(&b->sorted);
    stor_work_release(b->work, &b->held);
    vd_arena_destroy(&b->scratch);
    vd_arena_destroy(&b->bucket);
    vd_arena_destroy(&b->kept);
}

const stor_stage_class_t stor_stage_bucket_auto = {.name = "$bucketAuto",
                                                   .parse = bucket_auto_parse,
                                                   .next = bucket_auto_next,
                                                   .close = bucket_auto_close};
