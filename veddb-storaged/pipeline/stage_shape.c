/* veddb-storaged/pipeline/stage_shape.c — stages that make one document of one ($project,
 * $addFields, $set, $unset, $replaceRoot, $replaceWith) or several of one ($unwind). */
#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/query/project.h"

typedef struct {
    stor_stage_t stage;
    stor_project_t *project;
    vd_arena_t *scratch;
    stor_expr_env_t env;
    const stor_variables_t *variables;
} shape_t;

static int shape_parse(const stor_pipeline_context_t *context, stor_project_kind_t kind,
                       vd_value_t spec, stor_stage_t **ret_stage, vd_error_t *err)
{
    shape_t *shape = VD_ARENA_NEW(context->arena, shape_t);
    shape->variables = context->variables;
    *ret_stage = &shape->stage;
    return stor_project_parse(context->arena, kind, spec, NULL, context->variables, &shape->project,
                              err);
}

static int project_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                         stor_stage_t **ret_stage, vd_error_t *err)
{
    return shape_parse(context, STOR_PROJECT_AGGREGATE, spec, ret_stage, err);
}

static int add_fields_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                            stor_stage_t **ret_stage, vd_error_t *err)
{
    return shape_parse(context, STOR_PROJECT_ADD, spec, ret_stage, err);
}

static int unset_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    return shape_parse(context, STOR_PROJECT_UNSET, spec, ret_stage, err);
}

static int replace_with_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                              stor_stage_t **ret_stage, vd_error_t *err)
{
    return shape_parse(context, STOR_PROJECT_REPLACE, spec, ret_stage, err);
}

static int replace_root_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                              stor_stage_t **ret_stage, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40229),
                            "expected an object as specification for $replaceRoot stage, got %s",
                            vd_bson_type_name(spec.type));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter))
        if (!vd_slice_is(iter.name, "newRoot"))
            return vd_error_set(err, VD_ERR_LOCATION(40415),
                                "BSON field '$replaceRoot.%.*s' is an unknown field.",
                                VD_SLICE_FMT(iter.name));
    vd_value_t root = vd_bson_get(vd_value_document(spec), "newRoot");
    if (vd_value_is_missing(root))
        return vd_error_set(err, VD_ERR_LOCATION(40414),
                            "BSON field '$replaceRoot.newRoot' is missing but a required field");
    return shape_parse(context, STOR_PROJECT_REPLACE, root, ret_stage, err);
}

static int shape_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    shape_t *shape = (shape_t *)stage;
    vd_bson_t document;
    int rc = stor_stage_pull(stage, request, &document, err);
    if (rc != VD_OK)
        return rc;
    if (shape->scratch == NULL)
        shape->scratch = vd_arena_create();
    vd_arena_reset(shape->scratch);
    stor_expr_env_init(&shape->env, shape->scratch, shape->variables);
    stor_expr_env_document(&shape->env, document);
    shape->env.version = stage->source->version;
    shape->env.index_key = stage->source->index_key;
    return stor_project_apply(shape->project, &shape->env, document, -1, ret_document, err);
}

static void shape_close(stor_stage_t *stage)
{
    vd_arena_destroy(&((shape_t *)stage)->scratch);
}

#define SHAPE(symbol, stage_name, parser)                                                          \
    const stor_stage_class_t symbol = {.name = stage_name,                                         \
                                       .parse = parser,                                            \
                                       .next = shape_next,                                         \
                                       .close = shape_close,                                       \
                                       .keeps_version = true}
SHAPE(stor_stage_project, "$project", project_parse);
SHAPE(stor_stage_add_fields, "$addFields", add_fields_parse);
SHAPE(stor_stage_set, "$set", add_fields_parse);
SHAPE(stor_stage_unset, "$unset", unset_parse);
SHAPE(stor_stage_replace_with, "$replaceWith", replace_with_parse);
SHAPE(stor_stage_replace_root, "$replaceRoot", replace_root_parse);

/* ---- $unwind ---- */

typedef struct {
    stor_stage_t stage;
    stor_path_t path;
    vd_slice_t index_field; /* empty = none */
    bool keep_empty;
    vd_arena_t *scratch;
    vd_bson_t document; /* being unwound, copied */
    uint8_t *held;
    vd_bson_iter_t elements;
    bool inside;
    int64_t index;
} unwind_t;

static int unwind_options(vd_bson_t options, unwind_t *unwind, vd_slice_t *path, vd_error_t *err)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, options);
    while (vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "path")) {
            if (iter.value.type != VD_BSON_STRING)
                return vd_error_set(err, VD_ERR_LOCATION(28808),
                                    "expected a string as the path for $unwind stage, got %s",
                                    vd_bson_type_name(iter.value.type));
            *path = vd_value_string(iter.value);
        } else if (vd_slice_is(iter.name, "preserveNullAndEmptyArrays")) {
            if (iter.value.type != VD_BSON_BOOL)
                return vd_error_set(err, VD_ERR_LOCATION(28809),
                                    "expected a boolean for the preserveNullAndEmptyArrays option "
                                    "to $unwind stage, got %s",
                                    vd_bson_type_name(iter.value.type));
            unwind->keep_empty = vd_value_bool(iter.value);
        } else if (vd_slice_is(iter.name, "includeArrayIndex")) {
            if (iter.value.type != VD_BSON_STRING || vd_value_string(iter.value).len == 0)
                return vd_error_set(err, VD_ERR_LOCATION(28810),
                                    "expected a non-empty string for the includeArrayIndex  option "
                                    "to $unwind stage");
            unwind->index_field = vd_value_string(iter.value);
            if (unwind->index_field.data[0] == '$')
                return vd_error_set(err, VD_ERR_LOCATION(28822),
                                    "includeArrayIndex option to $unwind stage should not be "
                                    "prefixed with a '$': %.*s",
                                    VD_SLICE_FMT(unwind->index_field));
        } else {
            return vd_error_set(err, VD_ERR_LOCATION(28811),
                                "unrecognized option to $unwind stage: %.*s",
                                VD_SLICE_FMT(iter.name));
        }
    }
    return VD_OK;
}

static int unwind_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                        stor_stage_t **ret_stage, vd_error_t *err)
{
    unwind_t *unwind = VD_ARENA_NEW(context->arena, unwind_t);
    vd_slice_t path = VD_SLICE_NULL;
    int rc = VD_OK;
    if (spec.type == VD_BSON_STRING)
        path = vd_value_string(spec);
    else if (spec.type == VD_BSON_OBJECT)
        rc = unwind_options(vd_value_document(spec), unwind, &path, err);
    else
        rc = vd_error_set(
            err, VD_ERR_LOCATION(15981),
            "expected either a string or an object as specification for $unwind stage, got %s",
            vd_bson_type_name(spec.type));
    if (rc == VD_OK && path.len == 0)
        rc = vd_error_set(err, VD_ERR_LOCATION(28812), "no path specified to $unwind stage");
    if (rc == VD_OK && path.data[0] != '$')
        rc = vd_error_set(err, VD_ERR_LOCATION(28818),
                          "path option to $unwind stage should be prefixed with a '$': %.*s",
                          VD_SLICE_FMT(path));
    if (rc == VD_OK && path.len < 2)
        rc = vd_error_set(err, VD_ERR_LOCATION(40353),
                          "FieldPath cannot be constructed with empty string");
    if (rc != VD_OK)
        return rc;
    stor_path_split(context->arena, vd_slice(path.data + 1, path.len - 1), &unwind->path);
    *ret_stage = &unwind->stage;
    return VD_OK;
}

/* document with the value at path[depth..] replaced; MISSING removes the field. */
static void replace_at(vd_bb_t *bb, const stor_path_t *path, uint32_t depth, vd_bson_t document,
                       vd_value_t value)
{
    vd_bson_iter_t iter;
    bool found = false;
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter)) {
        if (found || !vd_slice_equal(iter.name, path->parts[depth])) {
            vd_bb_value(bb, iter.name, iter.value);
        } else if (depth + 1 == path->count) {
            found = true;
            vd_bb_value(bb, iter.name, value);
        } else if (iter.value.type == VD_BSON_OBJECT) {
            found = true;
            vd_bb_open_document(bb, iter.name);
            replace_at(bb, path, depth + 1, vd_value_document(iter.value), value);
            vd_bb_close(bb);
        } else {
            vd_bb_value(bb, iter.name, iter.value);
        }
    }
}

static int unwind_emit(unwind_t *unwind, vd_value_t element, bool replace, int64_t index,
                       vd_bson_t *ret_document, vd_error_t *err)
{
    if (!replace && unwind->index_field.len == 0) {
        *ret_document = unwind->document;
        return VD_OK;
    }
    vd_bb_t bb;
    vd_arena_reset(unwind->scratch);
    vd_bb_init_arena(&bb, unwind->scratch, VD_BSON_INTERNAL_MAX_BYTES);
    if (replace)
        replace_at(&bb, &unwind->path, 0, unwind->document, element);
    else
        vd_bb_concat(&bb, unwind->document);
    if (unwind->index_field.len > 0)
        vd_bb_value(&bb, unwind->index_field,
                    index < 0 ? vd_value_from_null() : vd_value_from_int64(unwind->scratch, index));
    return vd_bb_finish(&bb, ret_document, err);
}

/* Plain walk: $unwind does not look into arrays on the way. */
static vd_value_t value_at(const stor_path_t *path, vd_bson_t document)
{
    vd_value_t value = VD_VALUE_MISSING;
    for (uint32_t i = 0; i < path->count; i++) {
        value = vd_bson_get_slice(document, path->parts[i]);
        if (i + 1 < path->count && value.type != VD_BSON_OBJECT)
            return VD_VALUE_MISSING;
        if (i + 1 < path->count)
            document = vd_value_document(value);
    }
    return value;
}

static int unwind_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    unwind_t *unwind = (unwind_t *)stage;
    if (unwind->scratch == NULL)
        unwind->scratch = vd_arena_create();
    for (;;) {
        int rc = stor_request_check(request, err); /* one document may have a million elements */
        if (rc != VD_OK)
            return rc;
        if (unwind->inside && vd_bson_iter_next(&unwind->elements))
            return unwind_emit(unwind, unwind->elements.value, true, unwind->index++, ret_document,
                               err);
        unwind->inside = false;
        vd_bson_t document;
        rc = stor_stage_pull(stage, request, &document, err);
        if (rc != VD_OK)
            return rc;
        vd_free(unwind->held); /* a batch may end while its elements are given out */
        unwind->held = vd_xalloc(document.len);
        memcpy(unwind->held, document.data, document.len);
        unwind->document = (vd_bson_t){unwind->held, document.len};
        vd_value_t value = value_at(&unwind->path, unwind->document);
        if (value.type == VD_BSON_ARRAY && !vd_bson_is_empty(vd_value_document(value))) {
            vd_bson_iter_init(&unwind->elements, vd_value_document(value));
            unwind->inside = true;
            unwind->index = 0;
        } else if (value.type == VD_BSON_ARRAY || vd_value_is_nullish(value)) {
            if (unwind->keep_empty)
                return unwind_emit(unwind, VD_VALUE_MISSING, value.type == VD_BSON_ARRAY, -1,
                                   ret_document, err);
        } else {
            return unwind_emit(unwind, value, false, -1, ret_document, err);
        }
    }
}

static void unwind_close(stor_stage_t *stage)
{
    unwind_t *unwind = (unwind_t *)stage;
    vd_arena_destroy(&unwind->scratch);
    vd_free(unwind->held);
    unwind->held = NULL;
}

stor_unwind_facts_t stor_stage_unwind_facts(const stor_stage_t *stage)
{
    const unwind_t *unwind = (const unwind_t *)stage;
    return (stor_unwind_facts_t){unwind->path.text, unwind->index_field, unwind->keep_empty};
}

const stor_stage_class_t stor_stage_unwind = {.name = "$unwind",
                                              .parse = unwind_parse,
                                              .next = unwind_next,
                                              .close = unwind_close,
                                              .keeps_version = true};
