/* veddb-storaged/query/json_schema_private.h — a parsed schema, shared by its parser, matcher and
 * explainer. */
#pragma once
#include "veddb-storaged/query/json_schema.h"

typedef struct {
    vd_slice_t name;
    stor_json_schema_t *schema;
    stor_regex_t *regex; /* patternProperties */
} schema_property_t;

typedef struct {
    vd_slice_t name;            /* when this field is there ... */
    stor_json_schema_t *schema; /* ... the whole object must satisfy this, or (NULL) */
    vd_slice_t *required;       /* ... these fields must be there, too */
    uint32_t required_count;
} schema_dependency_t;

typedef struct {
    stor_json_schema_t **items;
    uint32_t count;
} schema_list_t;

/* The optional bound of a count: minLength and its like. */
typedef struct {
    bool set;
    int64_t value;
} schema_bound_t;

struct stor_json_schema {
    vd_bson_t spec;
    vd_value_t title, description; /* strings or MISSING */

    uint32_t type_mask;       /* 0 = any */
    const char *type_keyword; /* "type" or "bsonType" */

    vd_value_t minimum, maximum, multiple_of; /* numbers or MISSING */
    bool exclusive_minimum, exclusive_maximum;
    schema_bound_t min_length, max_length, min_items, max_items, min_properties, max_properties;
    stor_regex_t *pattern;

    vd_slice_t *required;
    uint32_t required_count;
    schema_property_t *properties, *patterns;
    uint32_t property_count, pattern_count;
    bool additional_properties_refused;
    stor_json_schema_t *additional_properties; /* or NULL */
    schema_dependency_t *dependencies;
    uint32_t dependency_count;

    stor_json_schema_t *items; /* for each item, or NULL */
    schema_list_t items_by_position;
    bool has_items_by_position;
    bool additional_items_refused;
    stor_json_schema_t *additional_items; /* or NULL */
    bool unique_items;

    bool has_enum;
    vd_value_t *enum_values;
    uint32_t enum_count;

    bool has_all_of, has_any_of, has_one_of;
    schema_list_t all_of, any_of, one_of;
    stor_json_schema_t *not_schema;
};

/* Single keywords, shared by the matcher and the explainer. All are true for a value of a type that
 * the keyword is not about. */
bool schema_type_holds(const stor_json_schema_t *schema, vd_value_t v);
bool schema_minimum_holds(const stor_json_schema_t *schema, vd_value_t v);
bool schema_maximum_holds(const stor_json_schema_t *schema, vd_value_t v);
bool schema_multiple_holds(const stor_json_schema_t *schema, vd_value_t v);
bool schema_length_holds(const schema_bound_t *min, const schema_bound_t *max, vd_value_t v);
bool schema_items_count_holds(const schema_bound_t *min, const schema_bound_t *max, vd_value_t v);
bool schema_properties_count_holds(const schema_bound_t *min, const schema_bound_t *max,
                                   vd_value_t v);
bool schema_pattern_holds(const stor_json_schema_t *schema, vd_value_t v);
bool schema_enum_holds(const stor_json_schema_t *schema, vd_value_t v);
/* *ret_duplicate gets one that stands twice. */
bool schema_unique_holds(const stor_json_schema_t *schema, vd_value_t v, vd_value_t *ret_duplicate);
/* The schema that rules item `position`; *ret_refused when none may be there. NULL = any item is
 * good. */
const stor_json_schema_t *schema_of_item(const stor_json_schema_t *schema, uint32_t position,
                                         bool *ret_refused);
/* True when the field is named by properties or patternProperties. */
bool schema_names_property(const stor_json_schema_t *schema, vd_slice_t name);
bool schema_dependency_holds(const schema_dependency_t *dependency, vd_value_t v);
/* Equal as JSON Schema has it: fields of objects in any order. */
bool schema_values_equal(vd_value_t a, vd_value_t b);
