/* veddb-storaged/pipeline/stage_densify.c — $densify: documents for the values of a field that are
 * not there.
 *
 * Documents are sorted by partition and field; each partition is walked once, with the next value
 * that is to be there. */
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/exec/topk.h"
#include "veddb-storaged/pipeline/setter.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/pipeline/window.h"
#include "veddb-storaged/query/date.h"

#define GENERATED_MAX 500000 /* MongoDB's internalQueryMaxAllowedDensifyDocs */

typedef enum { BOUNDS_FULL, BOUNDS_PARTITION, BOUNDS_EXPLICIT } bounds_t;

typedef struct {
    stor_stage_t stage;
    stor_work_t *work;
    vd_slice_t field;
    uint32_t partition_count;
    vd_slice_t *partitions;
    vd_value_t step;
    int unit; /* -1: numbers */
    int64_t unit_step;
    bounds_t bounds;
    vd_value_t low, high; /* of EXPLICIT; of FULL with partitions: least and greatest of all */
    stor_sort_t *order;
    stor_setter_t *setter;
    stor_calc_t calc;
    /* running */
    stor_topk_t *sorted;
    vd_arena_t *extremes, *state, *scratch; /* state: of the partition in work, swapped */
    bool sorted_all, ended, has_document, in_partition, finishing, seen;
    vd_bson_t document; /* the next one, not given yet */
    vd_value_t *keys;   /* its keys: partitions and the field's value */
    vd_value_t *values; /* of the partition in work; the last is the field's */
    vd_value_t next;    /* value to be there; MISSING: none yet */
    uint64_t generated;
} densify_t;

/* ---- parse ---- */

static int range_bounds(densify_t *d, vd_value_t spec, vd_error_t *err)
{
    if (spec.type == VD_BSON_STRING) {
        bool full = vd_slice_is(vd_value_string(spec), "full");
        if (!full && !vd_slice_is(vd_value_string(spec), "partition"))
            return vd_error_set(err, VD_ERR_LOCATION(5946802),
                                "Bounds string must either be 'full' or 'partition'");
        d->bounds = full ? BOUNDS_FULL : BOUNDS_PARTITION;
        return VD_OK;
    }
    if (spec.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(5733404),
                            "The bounds in a range statement must be the string 'full', "
                            "'partition', or an ascending array of two numbers or two dates");
    vd_bson_t pair = vd_value_document(spec);
    if (vd_bson_count(pair) != 2)
        return vd_error_set(err, VD_ERR_LOCATION(5733403),
                            "A bounding array in a range statement must have exactly two elements");
    d->bounds = BOUNDS_EXPLICIT;
    d->low = vd_bson_get(pair, "0");
    d->high = vd_bson_get(pair, "1");
    if (vd_value_compare(d->low, d->high) > 0)
        return vd_error_set(
            err, VD_ERR_LOCATION(5733402),
            "A bounding array must be an ascending array of either two dates or two numbers");
    if (vd_value_is_number(d->low)) {
        if (d->unit >= 0)
            return vd_error_set(err, VD_ERR_LOCATION(5733409),
                                "Numeric bounds may not have unit parameter");
        if (!vd_value_is_number(d->high))
            return vd_error_set(
                err, VD_ERR_LOCATION(5733406),
                "A bounding array must contain either both dates or both numeric types");
        if (d->low.type != d->high.type || d->low.type != d->step.type)
            return vd_error_set(err, VD_ERR_LOCATION(5876900),
                                "Upper bound, lower bound, and step must all have the same type");
        return VD_OK;
    }
    if (d->low.type != VD_BSON_DATE)
        return vd_error_set(err, VD_ERR_LOCATION(5946800),
                            "Explicit bounds must be numeric or dates");
    if (d->high.type != VD_BSON_DATE)
        return vd_error_set(
            err, VD_ERR_LOCATION(5733405),
            "A bounding array must contain either both dates or both numeric types");
    if (d->unit < 0)
        return vd_error_set(err, VD_ERR_LOCATION(5733410),
                            "A bounding array of dates must specify a unit");
    return VD_OK;
}

static int missing_field(const char *name, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_LOCATION(40414),
                        "BSON field '$densify.%s' is missing but a required field", name);
}

static int wrong_type(const char *name, vd_value_t v, const char *expected, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                        "BSON field '$densify.%s' is the wrong type '%s', expected type '%s'", name,
                        vd_bson_type_name(v.type), expected);
}

static int unknown_field(const char *prefix, vd_slice_t name, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_LOCATION(40415),
                        "BSON field '$densify.%s%.*s' is an unknown field.", prefix,
                        VD_SLICE_FMT(name));
}

static int parse_range(densify_t *d, vd_value_t spec, vd_error_t *err)
{
    vd_value_t unit = VD_VALUE_MISSING, bounds = VD_VALUE_MISSING;
    vd_bson_iter_t iter;
    if (spec.type != VD_BSON_OBJECT)
        return wrong_type("range", spec, "object", err);
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        vd_value_t *to = vd_slice_is(iter.name, "step")     ? &d->step
                         : vd_slice_is(iter.name, "unit")   ? &unit
                         : vd_slice_is(iter.name, "bounds") ? &bounds
                                                            : NULL;
        if (to == NULL)
            return unknown_field("range.", iter.name, err);
        *to = iter.value;
    }
    if (vd_value_is_missing(d->step))
        return missing_field("range.step", err);
    if (vd_value_is_missing(bounds))
        return missing_field("range.bounds", err);
    if (!vd_value_is_number(d->step) || !(vd_value_as_double(d->step) > 0))
        return vd_error_set(err, VD_ERR_LOCATION(5733401),
                            "The step parameter in a range statement must be a strictly positive "
                            "numeric value");
    if (!vd_value_is_missing(unit)) {
        if (unit.type != VD_BSON_STRING)
            return wrong_type("range.unit", unit, "string", err);
        if (!vd_value_as_int64(d->step, &d->unit_step))
            return vd_error_set(err, VD_ERR_LOCATION(6586400),
                                "The step parameter in a range statement must be a whole number "
                                "when densifying a date range");
        if (!stor_date_unit_find(vd_value_string(unit), &d->unit))
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "unknown time unit value: %.*s",
                                VD_SLICE_FMT(vd_value_string(unit)));
    }
    return range_bounds(d, bounds, err);
}

static int parse_partitions(vd_arena_t *arena, densify_t *d, vd_value_t spec, vd_error_t *err)
{
    vd_bson_iter_t iter;
    if (spec.type != VD_BSON_ARRAY)
        return wrong_type("partitionByFields", spec, "array", err);
    uint32_t count = vd_bson_count(vd_value_document(spec));
    if (count >= STOR_SORT_KEYS_MAX)
        return vd_error_set(err, VD_ERR_LOCATION(13103),
                            "too many compound keys: at most %d are sorted by",
                            STOR_SORT_KEYS_MAX - 1);
    d->partitions = VD_ARENA_ARRAY(arena, vd_slice_t, count + 1);
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_STRING)
            return wrong_type("partitionByFields", iter.value, "string", err);
        d->partitions[d->partition_count++] = vd_value_string(iter.value);
    }
    return VD_OK;
}

static int densify_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                         stor_stage_t **ret_stage, vd_error_t *err)
{
    vd_arena_t *arena = context->arena;
    densify_t *d = VD_ARENA_NEW(arena, densify_t);
    vd_value_t field = VD_VALUE_MISSING, partitions = VD_VALUE_MISSING, range = VD_VALUE_MISSING;
    vd_bson_iter_t iter;
    *ret_stage = &d->stage;
    d->unit = -1;
    d->work = context->work;
    d->stage.may_spill = true;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "The $densify stage specification must be an object, found %s",
                            vd_bson_type_name(spec.type));
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        vd_value_t *to = vd_slice_is(iter.name, "field")               ? &field
                         : vd_slice_is(iter.name, "partitionByFields") ? &partitions
                         : vd_slice_is(iter.name, "range")             ? &range
                                                                       : NULL;
        if (to == NULL)
            return unknown_field("", iter.name, err);
        *to = iter.value;
    }
    if (vd_value_is_missing(field))
        return missing_field("field", err);
    if (vd_value_is_missing(range))
        return missing_field("range", err);
    if (field.type != VD_BSON_STRING)
        return wrong_type("field", field, "string", err);
    d->field = vd_value_string(field);
    int rc = parse_range(d, range, err);
    if (rc == VD_OK && !vd_value_is_missing(partitions))
        rc = parse_partitions(arena, d, partitions, err);
    if (rc == VD_OK && d->bounds == BOUNDS_PARTITION && d->partition_count == 0)
        rc = vd_error_set(err, VD_ERR_LOCATION(5733408),
                          "One cannot specify the bounds as 'partition' without specifying a "
                          "non-empty array of partitionByFields. You may have meant to specify "
                          "'full' bounds.");
    if (rc != VD_OK)
        return rc;
    uint32_t count = d->partition_count + 1;
    vd_slice_t *paths = VD_ARENA_ARRAY(arena, vd_slice_t, count);
    d->order = VD_ARENA_NEW(arena, stor_sort_t);
    d->order->count = count;
    d->keys = VD_ARENA_ARRAY(arena, vd_value_t, count);
    d->values = VD_ARENA_ARRAY(arena, vd_value_t, count);
    for (uint32_t i = 0; i < count; i++) {
        d->order->directions[i] = 1;
        paths[i] = i < d->partition_count ? d->partitions[i] : d->field;
    }
    rc = stor_setter_create(arena, paths, count, &d->setter, err); /* checks the paths too */
    return rc == VD_OK ? stor_calc_init(&d->calc, arena, err) : rc;
}

/* ---- taking in ---- */

static int check_value(const densify_t *d, vd_value_t v, vd_error_t *err)
{
    if (!vd_value_is_number(v) && v.type != VD_BSON_DATE)
        return vd_error_set(err, VD_ERR_LOCATION(5733201),
                            "Densify field type must be numeric or a date");
    if (vd_value_is_number(v) == (d->unit < 0))
        return VD_OK;
    return vd_error_set(err, VD_ERR_LOCATION(6053600),
                        vd_value_is_number(v)
                            ? "Encountered numeric densify value in collection when step has a "
                              "date unit."
                            : "Encountered date densify value in collection when step does not "
                              "have a date unit.");
}

static int take_in(densify_t *d, stor_request_t *request, vd_error_t *err)
{
    bool all_extremes = d->bounds == BOUNDS_FULL && d->partition_count > 0;
    vd_bson_t document;
    int rc;
    if (d->sorted == NULL) {
        d->sorted = stor_topk_create(d->order, 0, "$densify", d->work);
        d->extremes = vd_arena_create();
        d->state = vd_arena_create();
        d->scratch = vd_arena_create();
    }
    while ((rc = stor_stage_pull(&d->stage, request, &document, err)) == VD_OK) {
        vd_value_t v = vd_bson_get_path(document, d->field);
        for (uint32_t i = 0; i < d->partition_count; i++)
            d->keys[i] = vd_bson_get_path(document, d->partitions[i]);
        d->keys[d->partition_count] = v;
        if (!vd_value_is_nullish(v))
            rc = check_value(d, v, err);
        if (rc == VD_OK && all_extremes && !vd_value_is_nullish(v)) {
            if (vd_value_is_missing(d->low) || vd_value_compare(v, d->low) < 0)
                d->low = vd_value_copy(d->extremes, v);
            if (vd_value_is_missing(d->high) || vd_value_compare(v, d->high) > 0)
                d->high = vd_value_copy(d->extremes, v);
        }
        if (rc == VD_OK && vd_arena_used(d->extremes) > 64 * 1024) { /* values that fall and fall */
            vd_value_t low = vd_value_copy(d->state, d->low),
                       high = vd_value_copy(d->state, d->high);
            vd_arena_reset(d->extremes);
            d->low = vd_value_copy(d->extremes, low);
            d->high = vd_value_copy(d->extremes, high);
            vd_arena_reset(d->state);
        }
        if (rc == VD_OK)
            rc = stor_topk_put(d->sorted, request, d->keys, document, 0, err);
        if (rc != VD_OK)
            return rc;
    }
    return rc == VD_ERR_NOT_FOUND ? stor_topk_finish(d->sorted, request, err) : rc;
}

/* ---- giving out ---- */

static int advance(densify_t *d, vd_value_t from, vd_error_t *err)
{
    int64_t ms;
    vd_value_t sum;
    vd_arena_reset(d->scratch);
    if (d->unit >= 0) {
        if (!stor_date_unit_add(d->unit, vd_value_int64(from), d->unit_step, &ms))
            return vd_error_set(err, VD_ERR_LOCATION(5166406), "$densify: a date overflows");
        sum = vd_value_from_date(d->scratch, ms);
    } else {
        int rc = stor_calc_run(&d->calc, d->scratch, STOR_CALC_ADD, from, d->step, &sum, err);
        if (rc != VD_OK)
            return rc;
    }
    if (vd_value_compare(sum, from) <= 0) /* a step lost in the rounding would never end */
        return vd_error_set(err, VD_ERR_LOCATION(5897900),
                            "$densify: the step is too small for the values");
    /* The state's other values must survive: they are copied along when it has grown. */
    if (vd_arena_used(d->state) > 64 * 1024) {
        for (uint32_t i = 0; i < d->partition_count; i++)
            d->values[i] = vd_value_copy(d->scratch, d->values[i]);
        vd_arena_reset(d->state);
        for (uint32_t i = 0; i < d->partition_count; i++)
            d->values[i] = vd_value_copy(d->state, d->values[i]);
    }
    d->next = vd_value_copy(d->state, sum);
    return VD_OK;
}

static int generate(densify_t *d, vd_bson_t *ret_document, vd_error_t *err)
{
    if (++d->generated > GENERATED_MAX)
        return vd_error_set(err, VD_ERR_LOCATION(5897900),
                            "Generated %llu documents in $densify, which is over the limit of %d",
                            (unsigned long long)d->generated, GENERATED_MAX);
    /* A number or a date; of its own, because the state may move. */
    uint8_t bytes[16];
    VD_ASSERT(d->next.len <= sizeof bytes);
    memcpy(bytes, d->next.data, d->next.len);
    vd_value_t value = {bytes, d->next.len, d->next.type};
    int rc = advance(d, value, err);
    if (rc != VD_OK)
        return rc;
    d->values[d->partition_count] = value;
    return stor_setter_apply(d->setter, d->scratch, VD_BSON_NONE, d->values, ret_document, err);
}

static bool same_partition(const densify_t *d)
{
    for (uint32_t i = 0; i < d->partition_count; i++)
        if (vd_value_compare(d->keys[i], d->values[i]) != 0)
            return false;
    return true;
}

/* What a partition's value would stand in the way of. */
static int check_partition(const densify_t *d, vd_error_t *err)
{
    for (uint32_t i = 0; i < d->partition_count; i++) {
        vd_slice_t p = d->partitions[i];
        if (p.len >= d->field.len || memcmp(p.data, d->field.data, p.len) != 0 ||
            d->field.data[p.len] != '.')
            continue;
        if (d->values[i].type == VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_LOCATION(5733307),
                                "$densify cannot generate fields nested inside arrays");
        if (d->values[i].type != VD_BSON_OBJECT && !vd_value_is_missing(d->values[i]))
            return vd_error_set(err, VD_ERR_LOCATION(5733308),
                                "$densify cannot overwrite non-object values with objects");
    }
    return VD_OK;
}

static int begin_partition(densify_t *d, vd_error_t *err)
{
    vd_arena_reset(d->state);
    for (uint32_t i = 0; i < d->partition_count; i++)
        d->values[i] = vd_value_copy(d->state, d->keys[i]);
    d->next = d->bounds == BOUNDS_EXPLICIT || (d->bounds == BOUNDS_FULL && d->partition_count > 0)
                  ? vd_value_copy(d->state, d->low)
                  : VD_VALUE_MISSING;
    d->in_partition = true;
    d->seen = false;
    return check_partition(d, err);
}

static int read_one(densify_t *d, stor_request_t *request, vd_error_t *err)
{
    const vd_value_t *keys;
    uint64_t tag;
    int rc = stor_topk_next(d->sorted, request, &d->document, &tag, &keys, err);
    if (rc == VD_ERR_NOT_FOUND) {
        d->ended = true;
        return VD_OK;
    }
    if (rc == VD_OK)
        for (uint32_t i = 0; i < d->order->count; i++)
            d->keys[i] = keys[i];
    d->has_document = rc == VD_OK;
    return rc;
}

/* Behind the last document of a partition. */
static bool more_behind(const densify_t *d)
{
    if (vd_value_is_missing(d->next))
        return false;
    if (d->bounds == BOUNDS_EXPLICIT)
        return (d->seen || d->partition_count == 0) && vd_value_compare(d->next, d->high) < 0;
    return d->bounds == BOUNDS_FULL && d->partition_count > 0 && d->seen &&
           vd_value_compare(d->next, d->high) <= 0;
}

static int give_document(densify_t *d, vd_value_t v, vd_bson_t *ret_document, vd_error_t *err)
{
    bool inside = d->bounds != BOUNDS_EXPLICIT || vd_value_compare(v, d->high) < 0;
    int rc = VD_OK;
    d->seen = true;
    if (vd_value_is_missing(d->next) || (inside && vd_value_compare(v, d->next) == 0))
        rc = advance(d, v, err);
    *ret_document = d->document;
    d->has_document = false;
    return rc;
}

static int densify_step(densify_t *d, stor_request_t *request, bool *ret_given,
                        vd_bson_t *ret_document, vd_error_t *err)
{
    *ret_given = true;
    if (!d->has_document && !d->ended) {
        int rc = read_one(d, request, err);
        if (rc != VD_OK)
            return rc;
    }
    bool leaves = d->ended || (d->in_partition && !same_partition(d));
    if (leaves && d->in_partition) {
        if (more_behind(d))
            return generate(d, ret_document, err);
        d->in_partition = false;
    }
    if (d->ended) {
        /* a range is filled also where nothing is */
        if (d->bounds == BOUNDS_EXPLICIT && d->partition_count == 0 && !d->finishing) {
            d->finishing = true;
            if (vd_value_is_missing(d->next)) {
                *ret_given = false;
                return begin_partition(d, err);
            }
        }
        return VD_ERR_NOT_FOUND;
    }
    vd_value_t v = d->keys[d->partition_count];
    if (!d->in_partition) {
        int rc = begin_partition(d, err);
        if (rc != VD_OK)
            return rc;
    }
    if (vd_value_is_nullish(v)) {
        *ret_document = d->document;
        d->has_document = false;
        return VD_OK;
    }
    d->seen = true;
    if (!vd_value_is_missing(d->next) && vd_value_compare(d->next, v) < 0 &&
        (d->bounds != BOUNDS_EXPLICIT || vd_value_compare(d->next, d->high) < 0))
        return generate(d, ret_document, err);
    return give_document(d, v, ret_document, err);
}

static int densify_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                        vd_error_t *err)
{
    densify_t *d = (densify_t *)stage;
    bool given = false;
    int rc = VD_OK;
    if (!d->sorted_all) {
        rc = take_in(d, request, err);
        stage->spills = stor_topk_spilled(d->sorted);
        d->sorted_all = rc == VD_OK;
    }
    while (rc == VD_OK && !given)
        rc = densify_step(d, request, &given, ret_document, err);
    return rc;
}

static void densify_close(stor_stage_t *stage)
{
    densify_t *d = (densify_t *)stage;
    stor_topk_destroy(&d->sorted);
    vd_arena_destroy(&d->extremes);
    vd_arena_destroy(&d->state);
    vd_arena_destroy(&d->scratch);
}

const stor_stage_class_t stor_stage_densify = {
    .name = "$densify", .parse = densify_parse, .next = densify_next, .close = densify_close};
