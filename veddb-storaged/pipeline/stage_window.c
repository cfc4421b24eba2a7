/* veddb-storaged/pipeline/stage_window.c — $setWindowFields, and $fill, which is it and $addFields.
 *
 * Documents are sorted by partition and sortBy, then given out one by one; functions pull further
 * ones of the partition as their windows ask for them. */
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/exec/topk.h"
#include "veddb-storaged/pipeline/setter.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/pipeline/window.h"
#include "veddb-storaged/pipeline/window_store.h"

typedef struct {
    stor_stage_t stage;
    const stor_variables_t *variables;
    stor_work_t *work;
    stor_expr_t *partition_by; /* NULL: one partition */
    stor_sort_t *sort_by;      /* as given; NULL = none */
    stor_sort_t *order;        /* with the partition in front; NULL: as they come */
    uint32_t count;
    stor_function_t *functions;
    stor_setter_t *setter;
    stor_calc_t calc;
    stor_expr_t *sort_value;
    /* running */
    stor_function_state_t **states;
    vd_value_t *values;
    vd_arena_t *scratch, *reading;
    stor_expr_env_t env;
    stor_topk_t *sorted;
    bool sorted_all, ended, complete, waits;
    vd_bson_t waiting; /* the first of the next partition */
    vd_arena_t *keys;  /* key of the partition in work */
    vd_value_t key, waiting_key;
    stor_store_t *store;
    stor_partition_t partition;
    uint64_t next, needed;
} window_t;

/* ---- parse ---- */

static bool conflict(vd_slice_t a, vd_slice_t b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    const vd_slice_t *longer = a.len > b.len ? &a : &b;
    return memcmp(a.data, b.data, len) == 0 && (a.len == b.len || longer->data[len] == '.');
}

static int parse_output(const stor_pipeline_context_t *context, window_t *w, vd_bson_t output,
                        vd_error_t *err)
{
    uint32_t count = vd_bson_count(output);
    vd_slice_t *paths = VD_ARENA_ARRAY(context->arena, vd_slice_t, count + 1);
    vd_bson_iter_t iter;
    w->functions = VD_ARENA_ARRAY(context->arena, stor_function_t, count + 1);
    w->states = VD_ARENA_ARRAY(context->arena, stor_function_state_t *, count + 1);
    w->values = VD_ARENA_ARRAY(context->arena, vd_value_t, count + 1);
    vd_bson_iter_init(&iter, output);
    while (vd_bson_iter_next(&iter)) {
        for (uint32_t i = 0; i < w->count; i++)
            if (conflict(paths[i], iter.name))
                return vd_error_set(err, VD_ERR_LOCATION(6307900),
                                    "$setWindowFields 'output' specification contains two "
                                    "conflicting paths");
        paths[w->count] = iter.name;
        int rc = stor_function_parse(context->arena, iter.name, iter.value, w->sort_by,
                                     context->variables, &w->functions[w->count], err);
        if (rc != VD_OK)
            return rc;
        w->count++;
    }
    return stor_setter_create(context->arena, paths, w->count, &w->setter, err);
}

static int parse_partition(const stor_pipeline_context_t *context, window_t *w, vd_value_t spec,
                           vd_error_t *err)
{
    vd_value_t value;
    int rc = stor_expr_parse(context->arena, spec, context->variables, &w->partition_by, err);
    if (rc != VD_OK || !stor_expr_constant(w->partition_by, &value))
        return rc;
    w->partition_by = NULL; /* all in one */
    return value.type == VD_BSON_ARRAY
               ? vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                              "An expression used to partition cannot evaluate to value of type "
                              "array")
               : VD_OK;
}

/* The sort: the partition's key, then sortBy. */
static int make_order(const stor_pipeline_context_t *context, window_t *w, vd_error_t *err)
{
    uint32_t by = w->sort_by == NULL ? 0 : w->sort_by->count, at = 0;
    if (by == 0 && w->partition_by == NULL)
        return VD_OK;
    if (by == STOR_SORT_KEYS_MAX)
        return vd_error_set(err, VD_ERR_LOCATION(13103),
                            "too many compound keys: at most %d are sorted by",
                            STOR_SORT_KEYS_MAX - 1);
    w->order = VD_ARENA_NEW(context->arena, stor_sort_t);
    if (w->partition_by != NULL)
        w->order->directions[at++] = 1;
    for (uint32_t i = 0; i < by; i++)
        w->order->directions[at++] = w->sort_by->directions[i];
    w->order->count = at;
    if (by != 1)
        return VD_OK;
    char *path = vd_arena_printf(context->arena, "$%.*s", VD_SLICE_FMT(w->sort_by->paths[0].text));
    return stor_expr_parse(context->arena, vd_value_from_string(context->arena, vd_slice_str(path)),
                           context->variables, &w->sort_value, err);
}

static int wrong_type(const char *field, vd_value_t v, const char *expected, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                        "BSON field '%s' is the wrong type '%s', expected type '%s'", field,
                        vd_bson_type_name(v.type), expected);
}

static int window_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                        stor_stage_t **ret_stage, vd_error_t *err)
{
    window_t *w = VD_ARENA_NEW(context->arena, window_t);
    vd_value_t partition = VD_VALUE_MISSING, sort = VD_VALUE_MISSING, output = VD_VALUE_MISSING;
    vd_bson_iter_t iter;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "the $setWindowFields stage specification must be an object, found %s",
                            vd_bson_type_name(spec.type));
    w->variables = context->variables;
    w->work = context->work;
    w->stage.may_spill = true;
    *ret_stage = &w->stage;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "partitionBy"))
            partition = iter.value;
        else if (vd_slice_is(iter.name, "sortBy"))
            sort = iter.value;
        else if (vd_slice_is(iter.name, "output"))
            output = iter.value;
        else
            return vd_error_set(err, VD_ERR_LOCATION(40415),
                                "BSON field '$setWindowFields.%.*s' is an unknown field.",
                                VD_SLICE_FMT(iter.name));
    }
    if (vd_value_is_missing(output))
        return vd_error_set(err, VD_ERR_LOCATION(40414),
                            "BSON field '$setWindowFields.output' is missing but a required field");
    if (output.type != VD_BSON_OBJECT)
        return wrong_type("$setWindowFields.output", output, "object", err);
    if (!vd_value_is_missing(sort) && sort.type != VD_BSON_OBJECT)
        return wrong_type("$setWindowFields.sortBy", sort, "object", err);
    int rc = VD_OK;
    if (!vd_value_is_missing(partition))
        rc = parse_partition(context, w, partition, err);
    if (rc == VD_OK && sort.type == VD_BSON_OBJECT && !vd_bson_is_empty(vd_value_document(sort)))
        rc = stor_sort_parse(context->arena, vd_value_document(sort), &w->sort_by, err);
    if (rc == VD_OK && w->sort_by != NULL && w->sort_by->natural != 0)
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "$natural is not supported in sortBy");
    if (rc == VD_OK)
        rc = make_order(context, w, err);
    if (rc == VD_OK)
        rc = stor_calc_init(&w->calc, context->arena, err);
    return rc == VD_OK ? parse_output(context, w, vd_value_document(output), err) : rc;
}

/* ---- documents of the partition ---- */

static int take_in(window_t *w, stor_request_t *request, vd_error_t *err)
{
    vd_value_t keys[STOR_SORT_KEYS_MAX];
    vd_bson_t document;
    int rc;
    if (w->sorted == NULL)
        w->sorted = stor_topk_create(w->order, 0, "$setWindowFields", w->work);
    while ((rc = stor_stage_pull(&w->stage, request, &document, err)) == VD_OK) {
        uint32_t at = 0;
        vd_arena_reset(w->reading);
        stor_expr_env_t env;
        stor_expr_env_init(&env, w->reading, w->variables);
        stor_expr_env_document(&env, document);
        if (w->partition_by != NULL) {
            rc = stor_expr_eval(w->partition_by, &env, &keys[at++], err);
            if (rc == VD_OK && vd_value_is_missing(keys[0]))
                keys[0] = vd_value_from_null();
            if (rc == VD_OK && keys[0].type == VD_BSON_ARRAY)
                rc = vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                  "An expression used to partition cannot evaluate to value of "
                                  "type array");
        }
        if (rc == VD_OK && w->sort_by != NULL)
            rc = stor_sort_key(w->sort_by, w->reading, document, keys + at, err);
        if (rc == VD_OK)
            rc = stor_topk_put(w->sorted, request, keys, document, 0, err);
        if (rc != VD_OK)
            return rc;
    }
    return rc == VD_ERR_NOT_FOUND ? stor_topk_finish(w->sorted, request, err) : rc;
}

static int read_one(window_t *w, stor_request_t *request, vd_error_t *err)
{
    vd_bson_t document;
    const vd_value_t *keys = NULL;
    uint64_t tag;
    int rc = w->order == NULL ? stor_stage_pull(&w->stage, request, &document, err)
                              : stor_topk_next(w->sorted, request, &document, &tag, &keys, err);
    if (rc == VD_ERR_NOT_FOUND) {
        w->ended = w->complete = true;
        return VD_OK;
    }
    if (rc != VD_OK)
        return rc;
    if (w->partition_by != NULL && !vd_value_is_missing(w->key) &&
        vd_value_compare(keys[0], w->key) != 0) {
        w->waiting = document; /* stands until the next is read */
        w->waiting_key = keys[0];
        w->waits = w->complete = true;
        return VD_OK;
    }
    if (w->partition_by != NULL && vd_value_is_missing(w->key))
        w->key = vd_value_copy(w->keys, keys[0]);
    return stor_store_append(w->store, request, document, err);
}

static int pull(void *context, stor_request_t *request, uint64_t position, uint64_t *ret_count,
                vd_error_t *err)
{
    window_t *w = context;
    int rc = VD_OK;
    while (rc == VD_OK && !w->complete && stor_store_count(w->store) <= position) {
        rc = stor_request_check(request, err);
        if (rc == VD_OK)
            rc = read_one(w, request, err);
    }
    *ret_count = stor_store_count(w->store);
    return rc;
}

static int at(void *context, uint64_t position, vd_bson_t *ret_document, vd_error_t *err)
{
    return stor_store_get(((window_t *)context)->store, position, ret_document, err);
}

static void start(window_t *w)
{
    w->scratch = vd_arena_create();
    w->reading = vd_arena_create();
    w->keys = vd_arena_create();
    w->store = stor_store_create(w->work);
    w->key = VD_VALUE_MISSING;
    stor_expr_env_init(&w->env, w->scratch, w->variables);
    w->partition = (stor_partition_t){.pull = pull,
                                      .at = at,
                                      .context = w,
                                      .scratch = w->scratch,
                                      .env = &w->env,
                                      .sort_by = w->sort_value,
                                      .sort = w->sort_by,
                                      .calc = &w->calc,
                                      .work = w->work};
    for (uint32_t i = 0; i < w->count; i++)
        w->states[i] = stor_function_open(&w->functions[i], &w->partition);
}

static int next_partition(window_t *w, stor_request_t *request, vd_error_t *err)
{
    stor_store_reset(w->store);
    for (uint32_t i = 0; i < w->count; i++)
        stor_function_reset(w->states[i]);
    w->next = w->needed = 0;
    w->complete = w->waits = false;
    vd_arena_reset(w->keys);
    w->key = vd_value_copy(w->keys, w->waiting_key);
    return stor_store_append(w->store, request, w->waiting, err);
}

static int compute(window_t *w, stor_request_t *request, vd_bson_t *ret_document, vd_error_t *err)
{
    vd_bson_t document;
    uint64_t needed = w->next + 1;
    int rc = VD_OK;
    w->partition.current = w->next;
    for (uint32_t i = 0; rc == VD_OK && i < w->count; i++) {
        uint64_t of_this;
        rc = stor_function_next(w->states[i], request, &w->values[i], &of_this, err);
        needed = of_this < needed ? of_this : needed;
    }
    if (rc == VD_OK)
        rc = stor_store_get(w->store, w->next, &document, err);
    if (rc == VD_OK)
        rc = stor_setter_apply(w->setter, w->scratch, document, w->values, ret_document, err);
    w->needed = needed;
    w->next++;
    return rc;
}

static int window_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    window_t *w = (window_t *)stage;
    int rc = VD_OK;
    if (w->store == NULL)
        start(w);
    if (!w->sorted_all && w->order != NULL)
        rc = take_in(w, request, err);
    w->sorted_all |= rc == VD_OK;
    while (rc == VD_OK) {
        uint64_t count;
        vd_arena_reset(w->scratch);
        stor_store_drop_before(w->store, w->needed);
        rc = pull(w, request, w->next, &count, err);
        if (rc != VD_OK)
            break;
        if (w->next < count) {
            rc = compute(w, request, ret_document, err);
            break;
        }
        rc = w->waits ? next_partition(w, request, err) : VD_ERR_NOT_FOUND;
    }
    stage->spills = stor_store_spilled(w->store);
    if (w->sorted != NULL) {
        stor_spilled_t sorted = stor_topk_spilled(w->sorted);
        stage->spills.spills += sorted.spills;
        stage->spills.bytes += sorted.bytes;
        stage->spills.records += sorted.records;
    }
    return rc;
}

static void window_close(stor_stage_t *stage)
{
    window_t *w = (window_t *)stage;
    for (uint32_t i = 0; i < w->count; i++)
        stor_function_close(&w->states[i]);
    stor_topk_destroy(&w->sorted);
    stor_store_destroy(&w->store);
    vd_arena_destroy(&w->scratch);
    vd_arena_destroy(&w->reading);
    vd_arena_destroy(&w->keys);
}

const stor_stage_class_t stor_stage_set_window_fields = {
    .name = "$setWindowFields", .parse = window_parse, .next = window_next, .close = window_close};

/* ---- $fill ---- */

typedef struct {
    stor_stage_t stage;
    stor_stage_t *window, *values; /* either may lack */
} fill_t;

typedef struct {
    const stor_pipeline_context_t *context;
    vd_bb_t windows, values; /* specs under construction */
    bool any_window, any_value;
} fill_parse_t;

static int fill_field(fill_parse_t *parse, vd_slice_t path, vd_value_t spec, vd_error_t *err)
{
    vd_arena_t *arena = parse->context->arena;
    vd_value_t method = VD_VALUE_MISSING, value = VD_VALUE_MISSING;
    vd_bson_iter_t iter;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(
            err, VD_ERR_LOCATION(6050200),
            "Each fill output specification must be an object with exactly one field");
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "method"))
            method = iter.value;
        else if (vd_slice_is(iter.name, "value"))
            value = iter.value;
        else
            return vd_error_set(err, VD_ERR_LOCATION(40415),
                                "BSON field '$fill.%.*s' is an unknown field.",
                                VD_SLICE_FMT(iter.name));
    }
    if (vd_value_is_missing(method) == vd_value_is_missing(value))
        return vd_error_set(err, VD_ERR_LOCATION(6050201),
                            "Each fill output specification must have exactly one of 'method' or "
                            "'value' fields, not both");
    char *self = vd_arena_printf(arena, "$%.*s", VD_SLICE_FMT(path));
    if (!vd_value_is_missing(value)) {
        parse->any_value = true;
        vd_bb_open_document(&parse->values, path);
        vd_bb_begin_array(&parse->values, "$ifNull");
        vd_bb_cstr(&parse->values, "0", self);
        vd_bb_value(&parse->values, VD_SLICE_LIT("1"), value);
        vd_bb_close(&parse->values);
        vd_bb_close(&parse->values);
        return VD_OK;
    }
    if (method.type != VD_BSON_STRING)
        return wrong_type("$fill.method", method, "string", err);
    bool locf = vd_slice_is(vd_value_string(method), "locf");
    if (!locf && !vd_slice_is(vd_value_string(method), "linear"))
        return vd_error_set(err, VD_ERR_LOCATION(6050202), "Method must be either locf or linear");
    parse->any_window = true;
    vd_bb_open_document(&parse->windows, path);
    vd_bb_cstr(&parse->windows, locf ? "$locf" : "$linearFill", self);
    vd_bb_close(&parse->windows);
    return VD_OK;
}

/* partitionBy, from either form, into the window's spec. */
static int fill_partition(vd_arena_t *arena, vd_bb_t *bb, vd_value_t by, vd_value_t fields,
                          vd_error_t *err)
{
    vd_bson_iter_t iter;
    if (!vd_value_is_missing(by) && !vd_value_is_missing(fields))
        return vd_error_set(err, VD_ERR_LOCATION(6050204),
                            "Maximum one of 'partitionBy' and 'partitionByFields can be specified "
                            "in '$fill'");
    if (!vd_value_is_missing(by)) {
        if (by.type != VD_BSON_STRING && by.type != VD_BSON_OBJECT)
            return wrong_type("$fill.partitionBy", by, "string, object", err);
        vd_bb_value(bb, VD_SLICE_LIT("partitionBy"), by);
    }
    if (vd_value_is_missing(fields))
        return VD_OK;
    if (fields.type != VD_BSON_ARRAY)
        return wrong_type("$fill.partitionByFields", fields, "array", err);
    vd_bb_begin_document(bb, "partitionBy");
    vd_bson_iter_init(&iter, vd_value_document(fields));
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_STRING)
            return wrong_type("$fill.partitionByFields", iter.value, "string", err);
        vd_slice_t name = vd_value_string(iter.value);
        char *path = vd_arena_printf(arena, "$%.*s", VD_SLICE_FMT(name));
        vd_bb_value(bb, name, vd_value_from_string(arena, vd_slice_str(path)));
    }
    vd_bb_close(bb);
    return VD_OK;
}

static int fill_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                      stor_stage_t **ret_stage, vd_error_t *err)
{
    fill_t *fill = VD_ARENA_NEW(context->arena, fill_t);
    vd_value_t by = VD_VALUE_MISSING, fields = VD_VALUE_MISSING, sort = VD_VALUE_MISSING,
               output = VD_VALUE_MISSING;
    vd_bson_iter_t iter;
    vd_bson_t built;
    *ret_stage = &fill->stage;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "The $fill stage specification must be an object, found %s",
                            vd_bson_type_name(spec.type));
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        vd_value_t *to = vd_slice_is(iter.name, "partitionBy")         ? &by
                         : vd_slice_is(iter.name, "partitionByFields") ? &fields
                         : vd_slice_is(iter.name, "sortBy")            ? &sort
                         : vd_slice_is(iter.name, "output")            ? &output
                                                                       : NULL;
        if (to == NULL)
            return vd_error_set(err, VD_ERR_LOCATION(40415),
                                "BSON field '$fill.%.*s' is an unknown field.",
                                VD_SLICE_FMT(iter.name));
        *to = iter.value;
    }
    if (vd_value_is_missing(output))
        return vd_error_set(err, VD_ERR_LOCATION(40414),
                            "BSON field '$fill.output' is missing but a required field");
    if (output.type != VD_BSON_OBJECT)
        return wrong_type("$fill.output", output, "object", err);
    if (!vd_value_is_missing(sort) && sort.type != VD_BSON_OBJECT)
        return wrong_type("$fill.sortBy", sort, "object", err);
    if (vd_bson_is_empty(vd_value_document(output)))
        return vd_error_set(err, VD_ERR_LOCATION(6050203),
                            "The output field in '$fill' must contain an object with at least one "
                            "element");
    fill_parse_t parse = {.context = context};
    vd_bb_init_arena(&parse.windows, context->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_init_arena(&parse.values, context->arena, VD_BSON_INTERNAL_MAX_BYTES);
    int rc = VD_OK;
    if (!vd_value_is_missing(sort))
        vd_bb_value(&parse.windows, VD_SLICE_LIT("sortBy"), sort);
    rc = fill_partition(context->arena, &parse.windows, by, fields, err);
    vd_bb_begin_document(&parse.windows, "output");
    vd_bson_iter_init(&iter, vd_value_document(output));
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = fill_field(&parse, iter.name, iter.value, err);
    vd_bb_close(&parse.windows);
    if (rc == VD_OK && parse.any_window) {
        rc = vd_bb_finish(&parse.windows, &built, err);
        if (rc == VD_OK)
            rc = window_parse(context, vd_value_from_document(built), &fill->window, err);
        if (rc == VD_OK)
            fill->window->class = &stor_stage_set_window_fields;
    }
    if (rc == VD_OK && parse.any_value) {
        rc = vd_bb_finish(&parse.values, &built, err);
        if (rc == VD_OK)
            rc = stor_stage_add_fields.parse(context, vd_value_from_document(built), &fill->values,
                                             err);
        if (rc == VD_OK)
            fill->values->class = &stor_stage_add_fields;
    }
    fill->stage.may_spill = fill->window != NULL;
    return rc;
}

static int fill_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                     vd_error_t *err)
{
    fill_t *fill = (fill_t *)stage;
    stor_stage_t *last = stage->source;
    if (fill->window != NULL) {
        fill->window->source = last;
        last = fill->window;
    }
    if (fill->values != NULL) {
        fill->values->source = last;
        last = fill->values;
    }
    int rc = last->class->next(last, request, ret_document, err);
    if (fill->window != NULL)
        stage->spills = fill->window->spills;
    return rc;
}

static void fill_close(stor_stage_t *stage)
{
    fill_t *fill = (fill_t *)stage;
    if (fill->window != NULL)
        window_close(fill->window);
    if (fill->values != NULL && fill->values->class->close != NULL)
        fill->values->class->close(fill->values);
}

const stor_stage_class_t stor_stage_fill = {
    .name = "$fill", .parse = fill_parse, .next = fill_next, .close = fill_close};
