/* veddb-storaged/query/json_schema_explain.c — why a value fails a schema, in the form of MongoDB's
 * errInfo.details.schemaRulesNotSatisfied. Called only for values that have failed. */
#include "libcommon/bson/build.h"
#include "veddb-storaged/query/json_schema_private.h"
#include "veddb-storaged/query/regex.h"

/* What goes back to the client with the error; more is cut to nothing. */
#define EXPLANATION_MAX_BYTES (1024 * 1024)
#define EXPLAIN_DEPTH_MAX     30
#define EXPLAIN_ITEMS_MAX     100 /* of one list */

typedef struct {
    vd_bb_t bb;
    vd_arena_t *arena;
    uint32_t depth;
} explain_t;

static void explain_schema(explain_t *explain, const stor_json_schema_t *schema, vd_value_t v);

/* An array of documents: each entry opened under the next position. */
typedef struct {
    uint32_t count;
} entries_t;

static void open_entry(explain_t *explain, entries_t *entries)
{
    char buf[12];
    vd_bb_open_document(&explain->bb, vd_array_name(entries->count++, buf));
}

static void open_rule(explain_t *explain, entries_t *rules, const char *keyword)
{
    open_entry(explain, rules);
    vd_bb_cstr(&explain->bb, "operatorName", keyword);
}

static void add_specified(explain_t *explain, const stor_json_schema_t *schema, const char *keyword)
{
    vd_bb_begin_document(&explain->bb, "specifiedAs");
    vd_bb_value(&explain->bb, vd_slice_str(keyword), vd_bson_get(schema->spec, keyword));
    vd_bb_close(&explain->bb);
}

/* The usual rule: what was asked for, why it fails, for which value. */
static void add_rule(explain_t *explain, entries_t *rules, const stor_json_schema_t *schema,
                     const char *keyword, const char *reason, vd_value_t v)
{
    open_rule(explain, rules, keyword);
    add_specified(explain, schema, keyword);
    vd_bb_cstr(&explain->bb, "reason", reason);
    vd_bb_value(&explain->bb, VD_SLICE_LIT("consideredValue"), v);
    if (schema->type_keyword != NULL && strcmp(keyword, schema->type_keyword) == 0)
        vd_bb_cstr(&explain->bb, "consideredType", vd_bson_type_name(v.type));
    vd_bb_close(&explain->bb);
}

static void add_details(explain_t *explain, const stor_json_schema_t *schema, vd_value_t v)
{
    if (schema->title.type == VD_BSON_STRING)
        vd_bb_value(&explain->bb, VD_SLICE_LIT("title"), schema->title);
    if (schema->description.type == VD_BSON_STRING)
        vd_bb_value(&explain->bb, VD_SLICE_LIT("description"), schema->description);
    vd_bb_begin_array(&explain->bb, "details");
    explain_schema(explain, schema, v);
    vd_bb_close(&explain->bb);
}

/* ---- objects ---- */

static void explain_properties(explain_t *explain, entries_t *rules,
                               const stor_json_schema_t *schema, vd_bson_t object)
{
    entries_t failing = {0};
    for (uint32_t i = 0; i < schema->property_count; i++) {
        const schema_property_t *property = &schema->properties[i];
        vd_value_t field = vd_bson_get_slice(object, property->name);
        if (vd_value_is_missing(field) || stor_json_schema_matches(property->schema, field))
            continue;
        if (failing.count == 0) {
            open_rule(explain, rules, "properties");
            vd_bb_begin_array(&explain->bb, "propertiesNotSatisfied");
        }
        open_entry(explain, &failing);
        vd_bb_string(&explain->bb, "propertyName", property->name);
        add_details(explain, property->schema, field);
        vd_bb_close(&explain->bb);
    }
    if (failing.count > 0) {
        vd_bb_close(&explain->bb);
        vd_bb_close(&explain->bb);
    }
}

static void explain_required(explain_t *explain, entries_t *rules, const stor_json_schema_t *schema,
                             vd_bson_t object)
{
    uint32_t missing = 0;
    char buf[12];
    for (uint32_t i = 0; i < schema->required_count; i++) {
        if (!vd_value_is_missing(vd_bson_get_slice(object, schema->required[i])))
            continue;
        if (missing == 0) {
            open_rule(explain, rules, "required");
            add_specified(explain, schema, "required");
            vd_bb_begin_array(&explain->bb, "missingProperties");
        }
        vd_bb_value(&explain->bb, vd_array_name(missing++, buf),
                    vd_value_from_string(explain->arena, schema->required[i]));
    }
    if (missing > 0) {
        vd_bb_close(&explain->bb);
        vd_bb_close(&explain->bb);
    }
}

static void explain_patterns(explain_t *explain, entries_t *rules, const stor_json_schema_t *schema,
                             vd_bson_t object)
{
    entries_t failing = {0};
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, object);
    while (schema->pattern_count > 0 && vd_bson_iter_next(&iter)) {
        for (uint32_t i = 0; i < schema->pattern_count && failing.count < EXPLAIN_ITEMS_MAX; i++) {
            const schema_property_t *pattern = &schema->patterns[i];
            if (!stor_regex_matches(pattern->regex, iter.name) ||
                stor_json_schema_matches(pattern->schema, iter.value))
                continue;
            if (failing.count == 0) {
                open_rule(explain, rules, "patternProperties");
                vd_bb_begin_array(&explain->bb, "details");
            }
            open_entry(explain, &failing);
            vd_bb_string(&explain->bb, "propertyName", iter.name);
            vd_bb_string(&explain->bb, "regexMatched", pattern->name);
            add_details(explain, pattern->schema, iter.value);
            vd_bb_close(&explain->bb);
        }
    }
    if (failing.count > 0) {
        vd_bb_close(&explain->bb);
        vd_bb_close(&explain->bb);
    }
}

static void explain_additional(explain_t *explain, entries_t *rules,
                               const stor_json_schema_t *schema, vd_bson_t object)
{
    uint32_t failing = 0;
    char buf[12];
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, object);
    if (!schema->additional_properties_refused && schema->additional_properties == NULL)
        return;
    while (failing < EXPLAIN_ITEMS_MAX && vd_bson_iter_next(&iter)) {
        if (schema_names_property(schema, iter.name))
            continue;
        if (schema->additional_properties_refused) {
            if (failing == 0) {
                open_rule(explain, rules, "additionalProperties");
                add_specified(explain, schema, "additionalProperties");
                vd_bb_begin_array(&explain->bb, "additionalProperties");
            }
            vd_bb_value(&explain->bb, vd_array_name(failing++, buf),
                        vd_value_from_string(explain->arena, iter.name));
        } else if (!stor_json_schema_matches(schema->additional_properties, iter.value)) {
            /* The first one is enough, as MongoDB has it. */
            open_rule(explain, rules, "additionalProperties");
            vd_bb_cstr(&explain->bb, "reason",
                       "at least one additional property did not match the subschema");
            vd_bb_string(&explain->bb, "failingProperty", iter.name);
            add_details(explain, schema->additional_properties, iter.value);
            vd_bb_close(&explain->bb);
            return;
        }
    }
    if (failing > 0) {
        vd_bb_close(&explain->bb);
        vd_bb_close(&explain->bb);
    }
}

static void explain_dependencies(explain_t *explain, entries_t *rules,
                                 const stor_json_schema_t *schema, vd_value_t v)
{
    entries_t failing = {0};
    vd_bson_t object = vd_value_document(v);
    char buf[12];
    for (uint32_t i = 0; i < schema->dependency_count; i++) {
        const schema_dependency_t *dependency = &schema->dependencies[i];
        if (schema_dependency_holds(dependency, v))
            continue;
        if (failing.count == 0) {
            open_rule(explain, rules, "dependencies");
            vd_bb_begin_array(&explain->bb, "failingDependencies");
        }
        open_entry(explain, &failing);
        vd_bb_string(&explain->bb, "conditionalProperty", dependency->name);
        if (dependency->schema != NULL) {
            add_details(explain, dependency->schema, v);
        } else {
            uint32_t missing = 0;
            vd_bb_begin_array(&explain->bb, "missingProperties");
            for (uint32_t k = 0; k < dependency->required_count; k++)
                if (vd_value_is_missing(vd_bson_get_slice(object, dependency->required[k])))
                    vd_bb_value(&explain->bb, vd_array_name(missing++, buf),
                                vd_value_from_string(explain->arena, dependency->required[k]));
            vd_bb_close(&explain->bb);
        }
        vd_bb_close(&explain->bb);
    }
    if (failing.count > 0) {
        vd_bb_close(&explain->bb);
        vd_bb_close(&explain->bb);
    }
}

static void add_count_rule(explain_t *explain, entries_t *rules, const stor_json_schema_t *schema,
                           const char *keyword, vd_bson_t object)
{
    open_rule(explain, rules, keyword);
    add_specified(explain, schema, keyword);
    vd_bb_cstr(&explain->bb, "reason", "specified number of properties was not satisfied");
    vd_bb_int64(&explain->bb, "numberOfProperties", vd_bson_count(object));
    vd_bb_close(&explain->bb);
}

static void explain_object(explain_t *explain, entries_t *rules, const stor_json_schema_t *schema,
                           vd_value_t v)
{
    static const schema_bound_t none = {0};
    vd_bson_t object = vd_value_document(v);
    explain_properties(explain, rules, schema, object);
    explain_required(explain, rules, schema, object);
    explain_patterns(explain, rules, schema, object);
    explain_additional(explain, rules, schema, object);
    explain_dependencies(explain, rules, schema, v);
    if (!schema_properties_count_holds(&schema->min_properties, &none, v))
        add_count_rule(explain, rules, schema, "minProperties", object);
    if (!schema_properties_count_holds(&none, &schema->max_properties, v))
        add_count_rule(explain, rules, schema, "maxProperties", object);
}

/* ---- arrays ---- */

static void explain_items(explain_t *explain, entries_t *rules, const stor_json_schema_t *schema,
                          vd_value_t v)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    for (uint32_t i = 0; vd_bson_iter_next(&iter); i++) {
        bool refused;
        const stor_json_schema_t *item = schema_of_item(schema, i, &refused);
        if (!refused && (item == NULL || stor_json_schema_matches(item, iter.value)))
            continue;
        bool additional = schema->has_items_by_position && i >= schema->items_by_position.count;
        open_rule(explain, rules, additional ? "additionalItems" : "items");
        if (refused) {
            add_specified(explain, schema, "additionalItems");
            vd_bb_cstr(&explain->bb, "reason", "found additional items");
        } else {
            vd_bb_cstr(&explain->bb, "reason", "At least one item did not match the sub-schema");
            vd_bb_int32(&explain->bb, "itemIndex", (int32_t)i);
            add_details(explain, item, iter.value);
        }
        vd_bb_close(&explain->bb);
        return;
    }
}

static void explain_array(explain_t *explain, entries_t *rules, const stor_json_schema_t *schema,
                          vd_value_t v)
{
    static const schema_bound_t none = {0};
    static const char length[] = "array did not match specified length";
    if (!schema_items_count_holds(&schema->min_items, &none, v))
        add_rule(explain, rules, schema, "minItems", length, v);
    if (!schema_items_count_holds(&none, &schema->max_items, v))
        add_rule(explain, rules, schema, "maxItems", length, v);
    explain_items(explain, rules, schema, v);
    vd_value_t duplicate;
    if (!schema_unique_holds(schema, v, &duplicate)) {
        open_rule(explain, rules, "uniqueItems");
        add_specified(explain, schema, "uniqueItems");
        vd_bb_cstr(&explain->bb, "reason", "found a duplicate item");
        vd_bb_value(&explain->bb, VD_SLICE_LIT("consideredValue"), v);
        vd_bb_value(&explain->bb, VD_SLICE_LIT("duplicatedValue"), duplicate);
        vd_bb_close(&explain->bb);
    }
}

/* ---- combinations ---- */

static void add_failing_schemas(explain_t *explain, const schema_list_t *list, vd_value_t v)
{
    entries_t failing = {0};
    vd_bb_begin_array(&explain->bb, "schemasNotSatisfied");
    for (uint32_t i = 0; i < list->count && failing.count < EXPLAIN_ITEMS_MAX; i++) {
        if (stor_json_schema_matches(list->items[i], v))
            continue;
        open_entry(explain, &failing);
        vd_bb_int32(&explain->bb, "index", (int32_t)i);
        add_details(explain, list->items[i], v);
        vd_bb_close(&explain->bb);
    }
    vd_bb_close(&explain->bb);
}

static uint32_t count_matching(const schema_list_t *list, vd_value_t v)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < list->count; i++)
        count += stor_json_schema_matches(list->items[i], v);
    return count;
}

static void explain_one_of(explain_t *explain, entries_t *rules, const stor_json_schema_t *schema,
                           vd_value_t v)
{
    uint32_t matching = count_matching(&schema->one_of, v);
    if (matching == 1)
        return;
    open_rule(explain, rules, "oneOf");
    if (matching == 0) {
        add_failing_schemas(explain, &schema->one_of, v);
    } else {
        char buf[12];
        uint32_t at = 0;
        vd_bb_cstr(&explain->bb, "reason", "more than one subschema matched");
        vd_bb_begin_array(&explain->bb, "matchingSchemaIndexes");
        for (uint32_t i = 0; i < schema->one_of.count; i++)
            if (stor_json_schema_matches(schema->one_of.items[i], v))
                vd_bb_value(&explain->bb, vd_array_name(at++, buf),
                            vd_value_from_int32(explain->arena, (int32_t)i));
        vd_bb_close(&explain->bb);
    }
    vd_bb_close(&explain->bb);
}

static void explain_combinations(explain_t *explain, entries_t *rules,
                                 const stor_json_schema_t *schema, vd_value_t v)
{
    if (schema->has_all_of && count_matching(&schema->all_of, v) < schema->all_of.count) {
        open_rule(explain, rules, "allOf");
        add_failing_schemas(explain, &schema->all_of, v);
        vd_bb_close(&explain->bb);
    }
    if (schema->has_any_of && count_matching(&schema->any_of, v) == 0) {
        open_rule(explain, rules, "anyOf");
        add_failing_schemas(explain, &schema->any_of, v);
        vd_bb_close(&explain->bb);
    }
    if (schema->has_one_of)
        explain_one_of(explain, rules, schema, v);
    if (schema->not_schema != NULL && stor_json_schema_matches(schema->not_schema, v)) {
        open_rule(explain, rules, "not");
        vd_bb_cstr(&explain->bb, "reason", "child expression matched");
        vd_bb_close(&explain->bb);
    }
}

/* Appends one document per failing keyword to the open array. */
static void explain_schema(explain_t *explain, const stor_json_schema_t *schema, vd_value_t v)
{
    static const schema_bound_t none = {0};
    static const char comparison[] = "comparison failed";
    static const char length[] = "specified string length was not satisfied";
    if (explain->depth >= EXPLAIN_DEPTH_MAX)
        return;
    explain->depth++;
    entries_t rules = {0};
    if (!schema_type_holds(schema, v))
        add_rule(explain, &rules, schema, schema->type_keyword, "type did not match", v);
    if (!schema_minimum_holds(schema, v))
        add_rule(explain, &rules, schema, "minimum", comparison, v);
    if (!schema_maximum_holds(schema, v))
        add_rule(explain, &rules, schema, "maximum", comparison, v);
    if (!schema_multiple_holds(schema, v))
        add_rule(explain, &rules, schema, "multipleOf",
                 "considered value is not a multiple of the specified value", v);
    if (!schema_length_holds(&schema->min_length, &none, v))
        add_rule(explain, &rules, schema, "minLength", length, v);
    if (!schema_length_holds(&none, &schema->max_length, v))
        add_rule(explain, &rules, schema, "maxLength", length, v);
    if (!schema_pattern_holds(schema, v))
        add_rule(explain, &rules, schema, "pattern", "regular expression did not match", v);
    if (!schema_enum_holds(schema, v))
        add_rule(explain, &rules, schema, "enum", "value was not found in enum", v);
    if (v.type == VD_BSON_OBJECT)
        explain_object(explain, &rules, schema, v);
    if (v.type == VD_BSON_ARRAY)
        explain_array(explain, &rules, schema, v);
    explain_combinations(explain, &rules, schema, v);
    explain->depth--;
}

vd_bson_t stor_json_schema_explain_failure(const stor_json_schema_t *schema, vd_arena_t *arena,
                                           vd_value_t value)
{
    VD_ASSERT(schema != NULL && arena != NULL);
    explain_t explain = {.arena = arena};
    vd_bb_init_arena(&explain.bb, arena, EXPLANATION_MAX_BYTES);
    explain_schema(&explain, schema, value);
    vd_bson_t result;
    vd_error_t err = VD_ERROR_INIT;
    if (vd_bb_finish(&explain.bb, &result, &err) == VD_OK)
        return result;
    /* Values too large to send back. */
    vd_bb_init_arena(&explain.bb, arena, 256);
    vd_bb_begin_document(&explain.bb, "0");
    vd_bb_cstr(&explain.bb, "reason", "the explanation is too large to show");
    vd_bb_close(&explain.bb);
    return vd_bb_finish(&explain.bb, &result, &err) == VD_OK ? result : VD_BSON_NONE;
}
