/* veddb-storaged/query/json_schema_match.c — does a value satisfy a schema? Each keyword rules
 * values of one type and is true for all others; so is the schema of a field that is not there. */
#include "libcommon/base/mem.h"
#include "libcommon/bson/compare.h"
#include "libcommon/bson/decimal.h"
#include "veddb-storaged/query/json_schema_private.h"
#include "veddb-storaged/query/regex.h"

#include <stdlib.h>

/* ---- equality without the order of fields ---- */

static bool objects_equal(vd_bson_t a, vd_bson_t b)
{
    if (vd_bson_count(a) != vd_bson_count(b))
        return false;
    vd_bson_iter_t in_a, in_b;
    vd_bson_iter_init(&in_a, a);
    vd_bson_iter_init(&in_b, b);
    while (vd_bson_iter_next(&in_a)) {
        /* Mostly both have the same order; look further only when not. */
        vd_value_t other = VD_VALUE_MISSING;
        if (vd_bson_iter_next(&in_b) && vd_slice_equal(in_a.name, in_b.name))
            other = in_b.value;
        else
            other = vd_bson_get_slice(b, in_a.name);
        if (vd_value_is_missing(other) || !schema_values_equal(in_a.value, other))
            return false;
    }
    return true;
}

static bool arrays_equal(vd_bson_t a, vd_bson_t b)
{
    vd_bson_iter_t in_a, in_b;
    vd_bson_iter_init(&in_a, a);
    vd_bson_iter_init(&in_b, b);
    for (;;) {
        bool more_a = vd_bson_iter_next(&in_a), more_b = vd_bson_iter_next(&in_b);
        if (!more_a || !more_b)
            return more_a == more_b;
        if (!schema_values_equal(in_a.value, in_b.value))
            return false;
    }
}

bool schema_values_equal(vd_value_t a, vd_value_t b)
{
    if (a.type == VD_BSON_OBJECT && b.type == VD_BSON_OBJECT)
        return objects_equal(vd_value_document(a), vd_value_document(b));
    if (a.type == VD_BSON_ARRAY && b.type == VD_BSON_ARRAY)
        return arrays_equal(vd_value_document(a), vd_value_document(b));
    return vd_bson_canonical_type(a.type) == vd_bson_canonical_type(b.type) && vd_value_equal(a, b);
}

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* Agrees with schema_values_equal. */
static uint64_t hash_value(vd_value_t v)
{
    if (v.type != VD_BSON_OBJECT && v.type != VD_BSON_ARRAY)
        return vd_value_hash(v);
    uint64_t hash = v.type;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    while (vd_bson_iter_next(&iter)) {
        uint64_t inner = mix(hash_value(iter.value));
        if (v.type == VD_BSON_ARRAY) {
            hash = mix(hash * 31 + inner);
            continue;
        }
        for (size_t i = 0; i < iter.name.len; i++)
            inner = (inner ^ iter.name.data[i]) * 0x100000001b3u;
        hash += mix(inner);
    }
    return hash;
}

/* ---- keywords ---- */

bool schema_type_holds(const stor_json_schema_t *schema, vd_value_t v)
{
    return schema->type_mask == 0 || (stor_type_bit(v.type) & schema->type_mask) != 0;
}

bool schema_minimum_holds(const stor_json_schema_t *schema, vd_value_t v)
{
    if (!vd_value_is_number(schema->minimum) || !vd_value_is_number(v))
        return true;
    int order = vd_value_compare(v, schema->minimum);
    return schema->exclusive_minimum ? order > 0 : order >= 0;
}

bool schema_maximum_holds(const stor_json_schema_t *schema, vd_value_t v)
{
    if (!vd_value_is_number(schema->maximum) || !vd_value_is_number(v))
        return true;
    int order = vd_value_compare(v, schema->maximum);
    return schema->exclusive_maximum ? order < 0 : order <= 0;
}

bool schema_multiple_holds(const stor_json_schema_t *schema, vd_value_t v)
{
    if (!vd_value_is_number(schema->multiple_of) || !vd_value_is_number(v))
        return true;
    vd_decimal_t rest =
        vd_decimal_mod(vd_value_as_decimal(v), vd_value_as_decimal(schema->multiple_of));
    return vd_decimal_is_zero(rest);
}

static bool within(const schema_bound_t *min, const schema_bound_t *max, int64_t count)
{
    return (!min->set || count >= min->value) && (!max->set || count <= max->value);
}

bool schema_length_holds(const schema_bound_t *min, const schema_bound_t *max, vd_value_t v)
{
    if ((!min->set && !max->set) || v.type != VD_BSON_STRING)
        return true;
    vd_slice_t s = vd_value_string(v);
    int64_t characters = 0;
    for (size_t i = 0; i < s.len; i++)
        characters += (s.data[i] & 0xc0) != 0x80;
    return within(min, max, characters);
}

bool schema_items_count_holds(const schema_bound_t *min, const schema_bound_t *max, vd_value_t v)
{
    return (!min->set && !max->set) || v.type != VD_BSON_ARRAY ||
           within(min, max, vd_bson_count(vd_value_document(v)));
}

bool schema_properties_count_holds(const schema_bound_t *min, const schema_bound_t *max,
                                   vd_value_t v)
{
    return (!min->set && !max->set) || v.type != VD_BSON_OBJECT ||
           within(min, max, vd_bson_count(vd_value_document(v)));
}

bool schema_pattern_holds(const stor_json_schema_t *schema, vd_value_t v)
{
    return schema->pattern == NULL || v.type != VD_BSON_STRING ||
           stor_regex_matches(schema->pattern, vd_value_string(v));
}

bool schema_enum_holds(const stor_json_schema_t *schema, vd_value_t v)
{
    for (uint32_t i = 0; i < schema->enum_count; i++)
        if (schema_values_equal(v, schema->enum_values[i]))
            return true;
    return !schema->has_enum;
}

typedef struct {
    uint64_t hash;
    vd_value_t value;
} hashed_t;

static int compare_hashed(const void *a, const void *b)
{
    uint64_t x = ((const hashed_t *)a)->hash, y = ((const hashed_t *)b)->hash;
    return (x > y) - (x < y);
}

bool schema_unique_holds(const stor_json_schema_t *schema, vd_value_t v, vd_value_t *ret_duplicate)
{
    if (!schema->unique_items || v.type != VD_BSON_ARRAY)
        return true;
    uint32_t count = vd_bson_count(vd_value_document(v));
    if (count < 2)
        return true;
    hashed_t *items = vd_try_alloc(sizeof *items * (size_t)count);
    if (items == NULL) {
        *ret_duplicate = VD_VALUE_MISSING; /* what can't be checked is not accepted */
        return false;
    }
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    for (uint32_t i = 0; i < count && vd_bson_iter_next(&iter); i++)
        items[i] = (hashed_t){hash_value(iter.value), iter.value};
    qsort(items, count, sizeof *items, compare_hashed);
    bool unique = true;
    for (uint32_t i = 0; unique && i < count; i++) {
        for (uint32_t k = i + 1; unique && k < count && items[k].hash == items[i].hash; k++) {
            unique = !schema_values_equal(items[i].value, items[k].value);
            if (!unique)
                *ret_duplicate = items[i].value;
        }
    }
    vd_free(items);
    return unique;
}

const stor_json_schema_t *schema_of_item(const stor_json_schema_t *schema, uint32_t position,
                                         bool *ret_refused)
{
    *ret_refused = false;
    if (schema->items != NULL)
        return schema->items;
    if (!schema->has_items_by_position)
        return NULL;
    if (position < schema->items_by_position.count)
        return schema->items_by_position.items[position];
    *ret_refused = schema->additional_items_refused;
    return schema->additional_items;
}

bool schema_names_property(const stor_json_schema_t *schema, vd_slice_t name)
{
    for (uint32_t i = 0; i < schema->property_count; i++)
        if (vd_slice_equal(schema->properties[i].name, name))
            return true;
    for (uint32_t i = 0; i < schema->pattern_count; i++)
        if (stor_regex_matches(schema->patterns[i].regex, name))
            return true;
    return false;
}

bool schema_dependency_holds(const schema_dependency_t *dependency, vd_value_t v)
{
    vd_bson_t object = vd_value_document(v);
    if (vd_value_is_missing(vd_bson_get_slice(object, dependency->name)))
        return true;
    if (dependency->schema != NULL)
        return stor_json_schema_matches(dependency->schema, v);
    for (uint32_t i = 0; i < dependency->required_count; i++)
        if (vd_value_is_missing(vd_bson_get_slice(object, dependency->required[i])))
            return false;
    return true;
}

/* ---- the whole ---- */

static bool match_fields(const stor_json_schema_t *schema, vd_bson_t object)
{
    bool checks_additional =
        schema->additional_properties_refused || schema->additional_properties != NULL;
    if (schema->pattern_count == 0 && !checks_additional)
        return true;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, object);
    while (vd_bson_iter_next(&iter)) {
        for (uint32_t i = 0; i < schema->pattern_count; i++)
            if (stor_regex_matches(schema->patterns[i].regex, iter.name) &&
                !stor_json_schema_matches(schema->patterns[i].schema, iter.value))
                return false;
        if (!checks_additional || schema_names_property(schema, iter.name))
            continue;
        if (schema->additional_properties_refused ||
            !stor_json_schema_matches(schema->additional_properties, iter.value))
            return false;
    }
    return true;
}

static bool match_object(const stor_json_schema_t *schema, vd_value_t v)
{
    vd_bson_t object = vd_value_document(v);
    for (uint32_t i = 0; i < schema->required_count; i++)
        if (vd_value_is_missing(vd_bson_get_slice(object, schema->required[i])))
            return false;
    for (uint32_t i = 0; i < schema->property_count; i++) {
        vd_value_t field = vd_bson_get_slice(object, schema->properties[i].name);
        if (!vd_value_is_missing(field) &&
            !stor_json_schema_matches(schema->properties[i].schema, field))
            return false;
    }
    for (uint32_t i = 0; i < schema->dependency_count; i++)
        if (!schema_dependency_holds(&schema->dependencies[i], v))
            return false;
    return schema_properties_count_holds(&schema->min_properties, &schema->max_properties, v) &&
           match_fields(schema, object);
}

static bool match_array(const stor_json_schema_t *schema, vd_value_t v)
{
    if (!schema_items_count_holds(&schema->min_items, &schema->max_items, v))
        return false;
    if (schema->items != NULL || schema->has_items_by_position) {
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(v));
        for (uint32_t i = 0; vd_bson_iter_next(&iter); i++) {
            bool refused;
            const stor_json_schema_t *item = schema_of_item(schema, i, &refused);
            if (refused || (item != NULL && !stor_json_schema_matches(item, iter.value)))
                return false;
        }
    }
    vd_value_t duplicate;
    return schema_unique_holds(schema, v, &duplicate);
}

static uint32_t count_matches(const schema_list_t *list, vd_value_t v)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < list->count; i++)
        count += stor_json_schema_matches(list->items[i], v);
    return count;
}

static bool match_combinations(const stor_json_schema_t *schema, vd_value_t v)
{
    for (uint32_t i = 0; i < schema->all_of.count; i++)
        if (!stor_json_schema_matches(schema->all_of.items[i], v))
            return false;
    bool any = !schema->has_any_of;
    for (uint32_t i = 0; !any && i < schema->any_of.count; i++)
        any = stor_json_schema_matches(schema->any_of.items[i], v);
    return any && (!schema->has_one_of || count_matches(&schema->one_of, v) == 1) &&
           (schema->not_schema == NULL || !stor_json_schema_matches(schema->not_schema, v));
}

bool stor_json_schema_matches(const stor_json_schema_t *schema, vd_value_t value)
{
    if (!schema_type_holds(schema, value) || !schema_minimum_holds(schema, value) ||
        !schema_maximum_holds(schema, value) || !schema_multiple_holds(schema, value) ||
        !schema_length_holds(&schema->min_length, &schema->max_length, value) ||
        !schema_pattern_holds(schema, value) || !schema_enum_holds(schema, value))
        return false;
    if (value.type == VD_BSON_OBJECT && !match_object(schema, value))
        return false;
    if (value.type == VD_BSON_ARRAY && !match_array(schema, value))
        return false;
    return match_combinations(schema, value);
}
