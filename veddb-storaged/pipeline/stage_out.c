/* veddb-storaged/pipeline/stage_out.c — $out and $merge: what they say. The command writes
 * (commands/aggregate_out.c): here documents only pass. */
#include "libcommon/bson/compare.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/pipeline/sources.h"
#include "veddb-storaged/pipeline/stages.h"

typedef struct {
    stor_stage_t stage;
    stor_output_t output;
} out_t;

static int out_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                    vd_error_t *err)
{
    return stor_stage_pull(stage, request, ret_document, err);
}

static bool is_internal_db(vd_slice_t db)
{
    return vd_slice_is(db, "admin") || vd_slice_is(db, "config") || vd_slice_is(db, "local");
}

static int target_check(const stor_output_t *output, vd_error_t *err)
{
    bool merge = output->merge;
    vd_slice_t db = output->db, name = output->collection;
    if (stor_name_check_database(db, NULL) != VD_OK ||
        stor_name_check_collection(db, name, NULL) != VD_OK)
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                            "Invalid %s target namespace: '%.*s.%.*s'", merge ? "$merge" : "$out",
                            VD_SLICE_FMT(db), VD_SLICE_FMT(name));
    if (vd_slice_starts_with(name, VD_SLICE_LIT("system.")))
        return merge ? vd_error_set(err, VD_ERR_LOCATION(31319),
                                    "Cannot $merge to special collection: %.*s", VD_SLICE_FMT(name))
                     : vd_error_set(err, VD_ERR_LOCATION(17385),
                                    "Can't $out to special collection: %.*s", VD_SLICE_FMT(name));
    if (is_internal_db(db))
        return merge ? vd_error_set(err, VD_ERR_LOCATION(31320),
                                    "Cannot $merge to internal database: %.*s", VD_SLICE_FMT(db))
                     : vd_error_set(err, VD_ERR_LOCATION(31321),
                                    "Can't $out to internal database: %.*s", VD_SLICE_FMT(db));
    return VD_OK;
}

/* ---- $out ---- */

static int out_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                     stor_stage_t **ret_stage, vd_error_t *err)
{
    out_t *out = VD_ARENA_NEW(context->arena, out_t);
    stor_output_t *output = &out->output;
    output->db = context->db;
    if (spec.type == VD_BSON_STRING) {
        output->collection = vd_value_string(spec);
    } else if (spec.type == VD_BSON_OBJECT) {
        vd_value_t db = vd_bson_get(vd_value_document(spec), "db");
        vd_value_t name = vd_bson_get(vd_value_document(spec), "coll");
        vd_value_t series = vd_bson_get(vd_value_document(spec), "timeseries");
        if (!vd_value_is_missing(series) && series.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "BSON field '$out.timeseries' is the wrong type '%s', expected "
                                "type 'object'",
                                vd_bson_type_name(series.type));
        output->timeseries = vd_value_is_missing(series) ? VD_BSON_NONE : vd_value_document(series);
        if (vd_bson_count(vd_value_document(spec)) != (series.type == VD_BSON_OBJECT ? 3 : 2) ||
            db.type != VD_BSON_STRING || name.type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_LOCATION(16994),
                                "If an object is passed to $out it must have exactly 2 fields: "
                                "'db' and 'coll'");
        output->db = vd_value_string(db);
        output->collection = vd_value_string(name);
    } else {
        return vd_error_set(err, VD_ERR_LOCATION(16990),
                            "$out only supports a string or object argument, but found %s",
                            vd_bson_type_name(spec.type));
    }
    *ret_stage = &out->stage;
    return target_check(output, err);
}

#define NOWHERE_INSIDE (STOR_INSIDE_LOOKUP | STOR_INSIDE_UNION | STOR_INSIDE_FACET)

const stor_stage_class_t stor_stage_out = {.name = "$out",
                                           .parse = out_parse,
                                           .next = out_next,
                                           .last_only = true,
                                           .not_inside = NOWHERE_INSIDE};

/* ---- $merge ---- */

static int into_parse(vd_value_t value, stor_output_t *output, vd_error_t *err)
{
    if (value.type == VD_BSON_STRING) {
        output->collection = vd_value_string(value);
        return VD_OK;
    }
    if (value.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(51178),
                            "$merge 'into' field  must be either a string or an object, but found "
                            "%s",
                            vd_bson_type_name(value.type));
    vd_bson_iter_t iter;
    bool seen[2] = {false};
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (vd_bson_iter_next(&iter)) {
        bool db = vd_slice_is(iter.name, "db");
        if (!db && !vd_slice_is(iter.name, "coll"))
            return vd_error_set(err, VD_ERR_LOCATION(40415),
                                "BSON field 'into.%.*s' is an unknown field.",
                                VD_SLICE_FMT(iter.name));
        if (iter.value.type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "BSON field 'into.%.*s' is the wrong type '%s', expected type "
                                "'string'",
                                VD_SLICE_FMT(iter.name), vd_bson_type_name(iter.value.type));
        int rc = stor_stage_once(seen[db], "into", iter.name, err);
        if (rc != VD_OK)
            return rc;
        seen[db] = true;
        *(db ? &output->db : &output->collection) = vd_value_string(iter.value);
    }
    return VD_OK;
}

static int on_add(const stor_pipeline_context_t *context, vd_value_t value, stor_output_t *output,
                  vd_error_t *err)
{
    vd_slice_t name = vd_value_string(value);
    for (uint32_t i = 0; i < output->on_count; i++)
        if (vd_slice_equal(output->on[i].text, name))
            return vd_error_set(err, VD_ERR_LOCATION(31465), "Found a duplicate field '%.*s'",
                                VD_SLICE_FMT(name));
    return stor_stage_field_path(context->arena, name, &output->on[output->on_count++], err);
}

static int on_parse(const stor_pipeline_context_t *context, vd_value_t value, stor_output_t *output,
                    vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (value.type != VD_BSON_STRING && value.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(51186),
                            "'on' field  must be either a string or an array of strings, but found "
                            "%s",
                            vd_bson_type_name(value.type));
    bool array = value.type == VD_BSON_ARRAY;
    output->on = VD_ARENA_ARRAY(context->arena, stor_path_t,
                                array ? vd_bson_count(vd_value_document(value)) + 1 : 1);
    if (!array)
        return on_add(context, value, output, err);
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = iter.value.type == VD_BSON_STRING
                 ? on_add(context, iter.value, output, err)
                 : vd_error_set(err, VD_ERR_LOCATION(51134),
                                "'on' array elements must be strings, but found %s",
                                vd_bson_type_name(iter.value.type));
    if (rc == VD_OK && output->on_count == 0)
        rc = vd_error_set(err, VD_ERR_LOCATION(51187),
                          "If explicitly specifying 'on', must include at least one field");
    return rc;
}

static const char *const matched_names[] = {[STOR_MATCHED_MERGE] = "merge",
                                            [STOR_MATCHED_REPLACE] = "replace",
                                            [STOR_MATCHED_KEEP] = "keepExisting",
                                            [STOR_MATCHED_FAIL] = "fail",
                                            [STOR_MATCHED_PIPELINE] = "pipeline"};
static const char *const missed_names[] = {[STOR_MISSED_INSERT] = "insert",
                                           [STOR_MISSED_DISCARD] = "discard",
                                           [STOR_MISSED_FAIL] = "fail"};

static int word_parse(const char *field, const char *const *names, int count, vd_value_t value,
                      int *ret_word, vd_error_t *err)
{
    if (value.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '$merge.%s' is the wrong type '%s', expected type 'string'",
                            field, vd_bson_type_name(value.type));
    for (int i = 0; i < count; i++)
        if (vd_slice_is(vd_value_string(value), names[i])) {
            *ret_word = i;
            return VD_OK;
        }
    return vd_error_set(err, VD_ERR_BAD_VALUE,
                        "Enumeration value '%.*s' for field '$merge.%s' is not a valid value.",
                        VD_SLICE_FMT(vd_value_string(value)), field);
}

static int matched_parse(vd_value_t value, stor_output_t *output, vd_error_t *err)
{
    if (value.type == VD_BSON_ARRAY) {
        output->matched = STOR_MATCHED_PIPELINE;
        output->pipeline = value;
        return VD_OK;
    }
    if (value.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(51191),
                            "$merge 'whenMatched' field  must be either a string or an array, but "
                            "found %s",
                            vd_bson_type_name(value.type));
    int word;
    int rc = word_parse("whenMatched", matched_names, STOR_MATCHED_PIPELINE, value, &word, err);
    if (rc == VD_OK)
        output->matched = (stor_when_matched_t)word;
    return rc;
}

typedef struct {
    vd_value_t into, let;
    bool matched, missed; /* said */
} merge_args_t;

static int merge_option(const stor_pipeline_context_t *context, vd_slice_t name, vd_value_t value,
                        stor_output_t *output, merge_args_t *args, vd_error_t *err)
{
    if (vd_slice_is(name, "into")) {
        int rc = stor_stage_once(!vd_value_is_missing(args->into), "$merge", name, err);
        args->into = value;
        return rc == VD_OK ? into_parse(value, output, err) : rc;
    }
    if (vd_slice_is(name, "on"))
        return output->on_count != 0 ? stor_stage_once(true, "$merge", name, err)
                                     : on_parse(context, value, output, err);
    if (vd_slice_is(name, "whenMatched")) {
        int rc = stor_stage_once(args->matched, "$merge", name, err);
        args->matched = true;
        return rc == VD_OK ? matched_parse(value, output, err) : rc;
    }
    if (vd_slice_is(name, "whenNotMatched")) {
        int word = 0;
        int rc = stor_stage_once(args->missed, "$merge", name, err);
        args->missed = true;
        if (rc != VD_OK)
            return rc;
        rc = word_parse("whenNotMatched", missed_names, VD_COUNT_OF(missed_names), value, &word,
                        err);
        output->missed = (stor_when_missed_t)word;
        return rc;
    }
    if (!vd_slice_is(name, "let"))
        return vd_error_set(err, VD_ERR_LOCATION(40415),
                            "BSON field '$merge.%.*s' is an unknown field.", VD_SLICE_FMT(name));
    if (value.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '$merge.let' is the wrong type '%s', expected type "
                            "'object'",
                            vd_bson_type_name(value.type));
    args->let = value;
    return VD_OK;
}

/* `let`, and `new`, which is the document itself unless it says the same. */
static int let_parse(const stor_pipeline_context_t *context, vd_bson_t let, stor_output_t *output,
                     vd_error_t *err)
{
    vd_bson_iter_t iter;
    uint32_t count = let.data == NULL ? 0 : vd_bson_count(let);
    stor_variables_t *variables =
        vd_arena_copy(context->arena, context->variables, sizeof *context->variables);
    output->variables = variables;
    output->let_names = VD_ARENA_ARRAY(context->arena, vd_slice_t, count + 1);
    output->let_exprs = VD_ARENA_ARRAY(context->arena, stor_expr_t *, count + 1);
    int rc = stor_variables_bind(variables, VD_SLICE_LIT("new"), VD_VALUE_MISSING, err);
    if (count > 0)
        vd_bson_iter_init(&iter, let);
    while (rc == VD_OK && count > 0 && vd_bson_iter_next(&iter)) {
        uint32_t at = output->let_count;
        if (vd_slice_is(iter.name, "new")) {
            if (iter.value.type != VD_BSON_STRING ||
                !vd_slice_is(vd_value_string(iter.value), "$$ROOT"))
                return vd_error_set(err, VD_ERR_LOCATION(51273),
                                    "'let' may not define a value for the reserved 'new' variable "
                                    "other than '$$ROOT'");
            continue;
        }
        rc = stor_variables_bind(variables, iter.name, VD_VALUE_MISSING, err);
        if (rc == VD_OK)
            rc = stor_expr_parse(context->arena, iter.value, context->variables,
                                 &output->let_exprs[at], err);
        output->let_names[at] = iter.name;
        output->let_count += rc == VD_OK;
    }
    if (rc != VD_OK)
        return rc;
    stor_update_options_t options = {.update = output->pipeline, .variables = variables};
    return stor_update_parse(context->arena, &options, &output->update, err);
}

static int modes_check(const stor_output_t *output, const merge_args_t *args, vd_error_t *err)
{
    if ((output->matched == STOR_MATCHED_KEEP || output->matched == STOR_MATCHED_FAIL) &&
        output->missed != STOR_MISSED_INSERT)
        return vd_error_set(err, VD_ERR_LOCATION(51181),
                            "Combination of $merge modes 'whenMatched: %s' and 'whenNotMatched: "
                            "%s' is not supported",
                            matched_names[output->matched], missed_names[output->missed]);
    if (output->matched != STOR_MATCHED_PIPELINE && !vd_value_is_missing(args->let))
        return vd_error_set(err, VD_ERR_LOCATION(51199),
                            "Cannot use 'let' variables with 'whenMatched: %s' mode",
                            matched_names[output->matched]);
    return VD_OK;
}

static int merge_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    out_t *out = VD_ARENA_NEW(context->arena, out_t);
    stor_output_t *output = &out->output;
    merge_args_t args = {.into = VD_VALUE_MISSING, .let = VD_VALUE_MISSING};
    int rc = VD_OK;
    output->merge = true;
    output->db = context->db;
    if (spec.type == VD_BSON_STRING) {
        output->collection = vd_value_string(spec);
    } else if (spec.type == VD_BSON_OBJECT) {
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(spec));
        while (rc == VD_OK && vd_bson_iter_next(&iter))
            rc = merge_option(context, iter.name, iter.value, output, &args, err);
        if (rc == VD_OK && vd_value_is_missing(args.into))
            rc = vd_error_set(err, VD_ERR_LOCATION(40414),
                              "BSON field '$merge.into' is missing but a required field");
    } else {
        rc = vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                          "$merge requires a string or object argument, but found %s",
                          vd_bson_type_name(spec.type));
    }
    if (rc == VD_OK)
        rc = target_check(output, err);
    if (rc == VD_OK)
        rc = modes_check(output, &args, err);
    if (rc == VD_OK && output->matched == STOR_MATCHED_PIPELINE)
        rc = let_parse(context,
                       args.let.type == VD_BSON_OBJECT ? vd_value_document(args.let) : VD_BSON_NONE,
                       output, err);
    if (rc == VD_OK && output->on_count == 0) {
        output->on = VD_ARENA_NEW(context->arena, stor_path_t);
        stor_path_split(context->arena, VD_SLICE_LIT("_id"), &output->on[output->on_count++]);
    }
    *ret_stage = &out->stage;
    return rc;
}

const stor_stage_class_t stor_stage_merge = {.name = "$merge",
                                             .parse = merge_parse,
                                             .next = out_next,
                                             .last_only = true,
                                             .not_inside = NOWHERE_INSIDE};

stor_output_t *stor_stage_output(stor_stage_t *stage)
{
    return stage->class == &stor_stage_out || stage->class == &stor_stage_merge
               ? &((out_t *)stage)->output
               : NULL;
}
