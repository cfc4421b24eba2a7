/* veddb-storaged/query/json_schema.c — parses $jsonSchema: one function per keyword, found by
 * table. */
#include "veddb-storaged/query/json_schema.h"

#include "libcommon/base/limits.h"
#include "veddb-storaged/query/filter_private.h"
#include "veddb-storaged/query/json_schema_private.h"
#include "veddb-storaged/query/regex.h"

#include <stdlib.h>

typedef struct {
    vd_arena_t *arena;
    vd_error_t *err;
    uint32_t depth;
} schema_parse_t;

static int parse_schema(schema_parse_t *parse, vd_bson_t spec, stor_json_schema_t **ret_schema);

typedef int (*keyword_fn)(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                          vd_value_t v);

static int must_be(schema_parse_t *parse, vd_slice_t name, const char *what)
{
    return vd_error_set(parse->err, VD_ERR_TYPE_MISMATCH, "$jsonSchema keyword '%.*s' must be %s",
                        VD_SLICE_FMT(name), what);
}

static int bad_form(schema_parse_t *parse, vd_slice_t name, const char *what)
{
    return vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE, "$jsonSchema keyword '%.*s' %s",
                        VD_SLICE_FMT(name), what);
}

/* ---- types ---- */

static int json_type_mask(schema_parse_t *parse, vd_slice_t alias, uint32_t *ret_mask)
{
    static const struct {
        const char *name;
        uint32_t mask;
    } types[] = {
        {"array", 1u << VD_BSON_ARRAY},   {"boolean", 1u << VD_BSON_BOOL},
        {"null", 1u << VD_BSON_NULL},     {"number", STOR_TYPE_BITS_NUMBER},
        {"object", 1u << VD_BSON_OBJECT}, {"string", 1u << VD_BSON_STRING},
    };
    for (size_t i = 0; i < VD_COUNT_OF(types); i++) {
        if (vd_slice_is(alias, types[i].name)) {
            *ret_mask = types[i].mask;
            return VD_OK;
        }
    }
    if (vd_slice_is(alias, "integer"))
        return vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                            "$jsonSchema type 'integer' is not currently supported.");
    return vd_error_set(parse->err, VD_ERR_BAD_VALUE, "Unknown type name alias: %.*s",
                        VD_SLICE_FMT(alias));
}

static int parse_one_type(schema_parse_t *parse, vd_slice_t name, vd_value_t v, uint32_t *ret_mask)
{
    if (v.type != VD_BSON_STRING)
        return must_be(parse, name, "either a string or an array of strings");
    if (vd_slice_is(name, "type"))
        return json_type_mask(parse, vd_value_string(v), ret_mask);
    return filter_parse_type(v, ret_mask, parse->err);
}

static int parse_type(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                      vd_value_t v)
{
    if (schema->type_keyword != NULL)
        return vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                            "Cannot specify both $jsonSchema keywords 'type' and 'bsonType'");
    schema->type_keyword = vd_slice_is(name, "type") ? "type" : "bsonType";
    if (v.type != VD_BSON_ARRAY)
        return parse_one_type(parse, name, v, &schema->type_mask);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    while (vd_bson_iter_next(&iter)) {
        uint32_t mask = 0;
        int rc = parse_one_type(parse, name, iter.value, &mask);
        if (rc != VD_OK)
            return rc;
        /* "number" may stand beside "int", the same alias may not stand twice. */
        vd_bson_iter_t earlier;
        vd_bson_iter_init(&earlier, vd_value_document(v));
        while (vd_bson_iter_next(&earlier) && earlier.value.data != iter.value.data)
            if (vd_slice_equal(vd_value_string(earlier.value), vd_value_string(iter.value)))
                return bad_form(parse, name, "has duplicate value");
        schema->type_mask |= mask;
    }
    return schema->type_mask == 0 ? bad_form(parse, name, "must name at least one type") : VD_OK;
}

/* ---- numbers, strings, counts ---- */

static int parse_number(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                        vd_value_t v)
{
    if (!vd_value_is_number(v))
        return must_be(parse, name, "a number");
    if (vd_slice_is(name, "minimum")) {
        schema->minimum = v;
    } else if (vd_slice_is(name, "maximum")) {
        schema->maximum = v;
    } else {
        if (!(vd_value_as_double(v) > 0))
            return bad_form(parse, name, "must have a positive value");
        schema->multiple_of = v;
    }
    return VD_OK;
}

static int parse_flag(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                      vd_value_t v)
{
    if (v.type != VD_BSON_BOOL)
        return must_be(parse, name, "a boolean");
    if (vd_slice_is(name, "exclusiveMinimum"))
        schema->exclusive_minimum = vd_value_bool(v);
    else if (vd_slice_is(name, "exclusiveMaximum"))
        schema->exclusive_maximum = vd_value_bool(v);
    else
        schema->unique_items = vd_value_bool(v);
    return VD_OK;
}

static int parse_bound(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                       vd_value_t v)
{
    schema_bound_t *bound = vd_slice_is(name, "minLength")       ? &schema->min_length
                            : vd_slice_is(name, "maxLength")     ? &schema->max_length
                            : vd_slice_is(name, "minItems")      ? &schema->min_items
                            : vd_slice_is(name, "maxItems")      ? &schema->max_items
                            : vd_slice_is(name, "minProperties") ? &schema->min_properties
                                                                 : &schema->max_properties;
    bound->set = true;
    return filter_parse_not_negative(name, v, &bound->value, parse->err);
}

static int parse_pattern(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                         vd_value_t v)
{
    if (v.type != VD_BSON_STRING)
        return must_be(parse, name, "a string");
    return stor_regex_compile(parse->arena, vd_value_string(v), VD_SLICE_NULL, &schema->pattern,
                              parse->err);
}

static int parse_text(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                      vd_value_t v)
{
    if (v.type != VD_BSON_STRING)
        return must_be(parse, name, "of type string");
    *(vd_slice_is(name, "title") ? &schema->title : &schema->description) = v;
    return VD_OK;
}

/* ---- schemas within ---- */

static int parse_not(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                     vd_value_t v)
{
    if (v.type != VD_BSON_OBJECT)
        return must_be(parse, name, "an object");
    return parse_schema(parse, vd_value_document(v), &schema->not_schema);
}

static int parse_list(schema_parse_t *parse, vd_slice_t name, vd_bson_t array,
                      schema_list_t *ret_list)
{
    schema_list_t list = {VD_ARENA_ARRAY(parse->arena, stor_json_schema_t *, vd_bson_count(array)),
                          0};
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, array);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT)
            return vd_error_set(parse->err, VD_ERR_TYPE_MISMATCH,
                                "$jsonSchema keyword '%.*s' must be an array of objects, but "
                                "found an element of type %s",
                                VD_SLICE_FMT(name), vd_bson_type_name(iter.value.type));
        int rc = parse_schema(parse, vd_value_document(iter.value), &list.items[list.count]);
        if (rc != VD_OK)
            return rc;
        list.count++;
    }
    *ret_list = list;
    return VD_OK;
}

static int parse_combination(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                             vd_value_t v)
{
    if (v.type != VD_BSON_ARRAY)
        return must_be(parse, name, "an array");
    if (vd_bson_is_empty(vd_value_document(v)))
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                            "$jsonSchema keyword '%.*s' must be a non-empty array",
                            VD_SLICE_FMT(name));
    schema_list_t *list;
    if (vd_slice_is(name, "allOf")) {
        schema->has_all_of = true;
        list = &schema->all_of;
    } else if (vd_slice_is(name, "anyOf")) {
        schema->has_any_of = true;
        list = &schema->any_of;
    } else {
        schema->has_one_of = true;
        list = &schema->one_of;
    }
    return parse_list(parse, name, vd_value_document(v), list);
}

static int parse_properties(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                            vd_value_t v)
{
    if (v.type != VD_BSON_OBJECT)
        return must_be(parse, name, "an object");
    bool by_pattern = vd_slice_is(name, "patternProperties");
    vd_bson_t spec = vd_value_document(v);
    schema_property_t *list = VD_ARENA_ARRAY(parse->arena, schema_property_t, vd_bson_count(spec));
    uint32_t count = 0;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT && by_pattern)
            return vd_error_set(parse->err, VD_ERR_TYPE_MISMATCH,
                                "$jsonSchema keyword 'patternProperties' has property '%.*s' "
                                "which is not an object",
                                VD_SLICE_FMT(iter.name));
        if (iter.value.type != VD_BSON_OBJECT)
            return vd_error_set(parse->err, VD_ERR_TYPE_MISMATCH,
                                "Nested schema for $jsonSchema property '%.*s' must be an object",
                                VD_SLICE_FMT(iter.name));
        schema_property_t *property = &list[count++];
        property->name = iter.name;
        int rc = parse_schema(parse, vd_value_document(iter.value), &property->schema);
        if (rc == VD_OK && by_pattern)
            rc = stor_regex_compile(parse->arena, iter.name, VD_SLICE_NULL, &property->regex,
                                    parse->err);
        if (rc != VD_OK)
            return rc;
    }
    if (by_pattern) {
        schema->patterns = list;
        schema->pattern_count = count;
    } else {
        schema->properties = list;
        schema->property_count = count;
    }
    return VD_OK;
}

/* additionalProperties and additionalItems: a boolean or a schema. */
static int parse_additional(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                            vd_value_t v)
{
    bool of_items = vd_slice_is(name, "additionalItems");
    if (v.type == VD_BSON_BOOL) {
        *(of_items ? &schema->additional_items_refused : &schema->additional_properties_refused) =
            !vd_value_bool(v);
        return VD_OK;
    }
    if (v.type != VD_BSON_OBJECT)
        return must_be(parse, name,
                       of_items ? "either an object or a boolean" : "an object or a boolean");
    return parse_schema(parse, vd_value_document(v),
                        of_items ? &schema->additional_items : &schema->additional_properties);
}

static int parse_items(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                       vd_value_t v)
{
    if (v.type == VD_BSON_OBJECT)
        return parse_schema(parse, vd_value_document(v), &schema->items);
    if (v.type != VD_BSON_ARRAY)
        return must_be(parse, name, "an array or an object");
    schema->has_items_by_position = true;
    return parse_list(parse, name, vd_value_document(v), &schema->items_by_position);
}

/* ---- lists of names and values ---- */

static int parse_names(schema_parse_t *parse, vd_slice_t name, vd_bson_t array,
                       vd_slice_t **ret_names, uint32_t *ret_count)
{
    if (vd_bson_is_empty(array))
        return bad_form(parse, name, "cannot be an empty array");
    vd_slice_t *names = VD_ARENA_ARRAY(parse->arena, vd_slice_t, vd_bson_count(array));
    uint32_t count = 0;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, array);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_STRING)
            return vd_error_set(parse->err, VD_ERR_TYPE_MISMATCH,
                                "$jsonSchema keyword '%.*s' must be an array of strings, but "
                                "found an element of type: %s",
                                VD_SLICE_FMT(name), vd_bson_type_name(iter.value.type));
        names[count++] = vd_value_string(iter.value);
    }
    *ret_names = names;
    *ret_count = count;
    return VD_OK;
}

static int compare_slices(const void *a, const void *b)
{
    return vd_slice_compare(*(const vd_slice_t *)a, *(const vd_slice_t *)b);
}

/* Names in the order given, each once. */
static int parse_unique_names(schema_parse_t *parse, vd_slice_t name, vd_bson_t array,
                              vd_slice_t **ret_names, uint32_t *ret_count)
{
    int rc = parse_names(parse, name, array, ret_names, ret_count);
    if (rc != VD_OK)
        return rc;
    vd_slice_t *sorted =
        vd_arena_copy(parse->arena, *ret_names, sizeof(vd_slice_t) * (size_t)*ret_count);
    qsort(sorted, *ret_count, sizeof *sorted, compare_slices);
    for (uint32_t i = 1; i < *ret_count; i++)
        if (vd_slice_equal(sorted[i - 1], sorted[i]))
            return bad_form(parse, name, "array cannot contain duplicate values");
    return VD_OK;
}

static int parse_required(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                          vd_value_t v)
{
    if (v.type != VD_BSON_ARRAY)
        return vd_error_set(parse->err, VD_ERR_TYPE_MISMATCH,
                            "$jsonSchema keyword 'required' must be an array, but found an "
                            "element of type %s",
                            vd_bson_type_name(v.type));
    return parse_unique_names(parse, name, vd_value_document(v), &schema->required,
                              &schema->required_count);
}

static int parse_dependencies(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                              vd_value_t v)
{
    if (v.type != VD_BSON_OBJECT)
        return must_be(parse, name, "an object");
    vd_bson_t spec = vd_value_document(v);
    schema->dependencies = VD_ARENA_ARRAY(parse->arena, schema_dependency_t, vd_bson_count(spec));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        schema_dependency_t *dependency = &schema->dependencies[schema->dependency_count++];
        dependency->name = iter.name;
        int rc;
        if (iter.value.type == VD_BSON_OBJECT)
            rc = parse_schema(parse, vd_value_document(iter.value), &dependency->schema);
        else if (iter.value.type == VD_BSON_ARRAY)
            rc = parse_unique_names(parse, name, vd_value_document(iter.value),
                                    &dependency->required, &dependency->required_count);
        else
            rc = vd_error_set(parse->err, VD_ERR_TYPE_MISMATCH,
                              "Dependency '%.*s' in $jsonSchema keyword 'dependencies' must be an "
                              "object or an array",
                              VD_SLICE_FMT(iter.name));
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

static int parse_enum(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                      vd_value_t v)
{
    if (v.type != VD_BSON_ARRAY)
        return vd_error_set(parse->err, VD_ERR_TYPE_MISMATCH,
                            "$jsonSchema keyword 'enum' must be an array, but found an element of "
                            "type %s",
                            vd_bson_type_name(v.type));
    vd_bson_t array = vd_value_document(v);
    if (vd_bson_is_empty(array))
        return bad_form(parse, name, "cannot be an empty array");
    vd_value_t duplicate;
    stor_json_schema_t unique = {.unique_items = true};
    if (!schema_unique_holds(&unique, v, &duplicate))
        return bad_form(parse, name, "array cannot contain duplicate values");
    schema->has_enum = true;
    schema->enum_values = VD_ARENA_ARRAY(parse->arena, vd_value_t, vd_bson_count(array));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, array);
    while (vd_bson_iter_next(&iter))
        schema->enum_values[schema->enum_count++] = iter.value;
    return VD_OK;
}

/* ---- the table ---- */

static int refuse_known(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                        vd_value_t v)
{
    (void)schema, (void)v;
    return bad_form(parse, name, "is not currently supported");
}

static int refuse_encryption(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                             vd_value_t v)
{
    (void)schema, (void)v;
    return bad_form(parse, name, "is not supported: field level encryption is not offered");
}

static const struct {
    const char *name;
    keyword_fn parse;
} keywords[] = {
    {"additionalItems", parse_additional},
    {"additionalProperties", parse_additional},
    {"allOf", parse_combination},
    {"anyOf", parse_combination},
    {"bsonType", parse_type},
    {"dependencies", parse_dependencies},
    {"description", parse_text},
    {"enum", parse_enum},
    {"exclusiveMaximum", parse_flag},
    {"exclusiveMinimum", parse_flag},
    {"items", parse_items},
    {"maxItems", parse_bound},
    {"maxLength", parse_bound},
    {"maxProperties", parse_bound},
    {"maximum", parse_number},
    {"minItems", parse_bound},
    {"minLength", parse_bound},
    {"minProperties", parse_bound},
    {"minimum", parse_number},
    {"multipleOf", parse_number},
    {"not", parse_not},
    {"oneOf", parse_combination},
    {"pattern", parse_pattern},
    {"patternProperties", parse_properties},
    {"properties", parse_properties},
    {"required", parse_required},
    {"title", parse_text},
    {"type", parse_type},
    {"uniqueItems", parse_flag},
    {"$ref", refuse_known},
    {"$schema", refuse_known},
    {"default", refuse_known},
    {"definitions", refuse_known},
    {"format", refuse_known},
    {"id", refuse_known},
    {"encrypt", refuse_encryption},
    {"encryptMetadata", refuse_encryption},
};

static int parse_keyword(schema_parse_t *parse, stor_json_schema_t *schema, vd_slice_t name,
                         vd_value_t v)
{
    for (size_t i = 0; i < VD_COUNT_OF(keywords); i++)
        if (vd_slice_is(name, keywords[i].name))
            return keywords[i].parse(parse, schema, name, v);
    return vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE, "Unknown $jsonSchema keyword: %.*s",
                        VD_SLICE_FMT(name));
}

static int check_exclusive(schema_parse_t *parse, vd_bson_t spec, const char *exclusive,
                           const char *bound)
{
    if (vd_value_is_missing(vd_bson_get(spec, exclusive)) ||
        !vd_value_is_missing(vd_bson_get(spec, bound)))
        return VD_OK;
    return vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                        "$jsonSchema keyword '%s' must be a present if %s is present", bound,
                        exclusive);
}

static int parse_schema(schema_parse_t *parse, vd_bson_t spec, stor_json_schema_t **ret_schema)
{
    if (parse->depth >= VD_QUERY_DEPTH_MAX)
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                            "$jsonSchema exceeds the maximum depth of %d levels",
                            VD_QUERY_DEPTH_MAX);
    parse->depth++;
    stor_json_schema_t *schema = VD_ARENA_NEW(parse->arena, stor_json_schema_t);
    schema->spec = spec;
    int rc = VD_OK;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        /* The last of doubled names must not leave half of the first: refuse it. */
        if (vd_bson_get_slice(spec, iter.name).data != iter.value.data)
            rc = vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                              "Duplicate $jsonSchema keyword: %.*s", VD_SLICE_FMT(iter.name));
        else
            rc = parse_keyword(parse, schema, iter.name, iter.value);
    }
    if (rc == VD_OK)
        rc = check_exclusive(parse, spec, "exclusiveMaximum", "maximum");
    if (rc == VD_OK)
        rc = check_exclusive(parse, spec, "exclusiveMinimum", "minimum");
    parse->depth--;
    if (rc == VD_OK)
        *ret_schema = schema;
    return rc;
}

int stor_json_schema_parse(vd_arena_t *arena, vd_bson_t schema, stor_json_schema_t **ret_schema,
                           vd_error_t *err)
{
    VD_ASSERT(arena != NULL);
    VD_ASSERT(ret_schema != NULL);
    schema_parse_t parse = {arena, err, 0};
    return parse_schema(&parse, schema, ret_schema);
}
