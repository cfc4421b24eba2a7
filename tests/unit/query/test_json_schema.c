/* tests/unit/query/test_json_schema.c — $jsonSchema: keywords, refusals, explanations. */
#include "veddb-storaged/query/json_schema.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "tests/unit/query/query_json.h"

static stor_json_schema_t *parse_schema_text(vd_arena_t *arena, const char *text)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_json_schema_t *schema = NULL;
    int rc = stor_json_schema_parse(arena, query_json(arena, text), &schema, &err);
    cr_assert(rc == VD_OK, "%s: %s", text, err.message);
    return schema;
}

Test(json_schema, matches)
{
    static const struct {
        const char *schema, *document;
        bool expected;
    } cases[] = {
        {"{}", "{'a': 1}", true},
        {"{'title': 't', 'description': 'd'}", "{}", true},
        /* types */
        {"{'type': 'object'}", "{}", true},
        {"{'type': 'array'}", "{}", false},
        {"{'bsonType': 'object'}", "{}", true},
        {"{'properties': {'a': {'type': 'number'}}}", "{'a': 1}", true},
        {"{'properties': {'a': {'type': 'number'}}}", "{'a': {'$numberDecimal': '1'}}", true},
        {"{'properties': {'a': {'type': 'number'}}}", "{'a': 'x'}", false},
        {"{'properties': {'a': {'type': 'number'}}}", "{}", true},
        {"{'properties': {'a': {'type': 'number'}}}", "{'a': [1]}", false},
        {"{'properties': {'a': {'bsonType': 'int'}}}", "{'a': 1}", true},
        {"{'properties': {'a': {'bsonType': 'int'}}}", "{'a': 1.0}", false},
        {"{'properties': {'a': {'bsonType': ['int', 'string']}}}", "{'a': 'x'}", true},
        {"{'properties': {'a': {'bsonType': ['int', 'number']}}}", "{'a': 1.5}", true},
        {"{'properties': {'a': {'type': ['boolean', 'null']}}}", "{'a': null}", true},
        {"{'properties': {'a': {'bsonType': 'array'}}}", "{'a': []}", true},
        {"{'properties': {'a': {'bsonType': 'objectId'}}}",
         "{'a': {'$oid': '507f1f77bcf86cd799439011'}}", true},
        /* numbers */
        {"{'properties': {'a': {'minimum': 5}}}", "{'a': 5}", true},
        {"{'properties': {'a': {'minimum': 5}}}", "{'a': 4.9}", false},
        {"{'properties': {'a': {'minimum': 5}}}", "{'a': 'x'}", true},
        {"{'properties': {'a': {'minimum': 5, 'exclusiveMinimum': true}}}", "{'a': 5}", false},
        {"{'properties': {'a': {'minimum': 5, 'exclusiveMinimum': false}}}", "{'a': 5}", true},
        {"{'properties': {'a': {'maximum': 5}}}", "{'a': {'$numberDecimal': '5.1'}}", false},
        {"{'properties': {'a': {'maximum': 5, 'exclusiveMaximum': true}}}", "{'a': 5}", false},
        {"{'properties': {'a': {'multipleOf': 3}}}", "{'a': 9}", true},
        {"{'properties': {'a': {'multipleOf': 3}}}", "{'a': 10}", false},
        {"{'properties': {'a': {'multipleOf': {'$numberDecimal': '0.1'}}}}",
         "{'a': {'$numberDecimal': '0.3'}}", true},
        {"{'properties': {'a': {'multipleOf': 3}}}", "{'a': 'x'}", true},
        /* strings */
        {"{'properties': {'a': {'minLength': 2}}}", "{'a': 'x'}", false},
        {"{'properties': {'a': {'minLength': 2}}}", "{'a': 'xy'}", true},
        {"{'properties': {'a': {'maxLength': 2}}}", "{'a': '\\u00fc\\u00e4'}", true},
        {"{'properties': {'a': {'maxLength': 2}}}", "{'a': 'xyz'}", false},
        {"{'properties': {'a': {'maxLength': 2}}}", "{'a': 12345}", true},
        {"{'properties': {'a': {'pattern': '^x'}}}", "{'a': 'xy'}", true},
        {"{'properties': {'a': {'pattern': '^x'}}}", "{'a': 'yx'}", false},
        {"{'properties': {'a': {'pattern': '^x'}}}", "{'a': 5}", true},
        /* objects */
        {"{'required': ['a', 'b']}", "{'a': 1, 'b': null}", true},
        {"{'required': ['a', 'b']}", "{'a': 1}", false},
        {"{'properties': {'a': {'required': ['b']}}}", "{'a': 5}", true},
        {"{'properties': {'a': {'required': ['b']}}}", "{'a': {}}", false},
        {"{'minProperties': 2}", "{'a': 1}", false},
        {"{'minProperties': 2}", "{'a': 1, 'b': 1}", true},
        {"{'maxProperties': 1}", "{'a': 1, 'b': 1}", false},
        {"{'properties': {'a': {}}, 'additionalProperties': false}", "{'a': 1}", true},
        {"{'properties': {'a': {}}, 'additionalProperties': false}", "{'a': 1, 'b': 1}", false},
        {"{'properties': {'a': {}}, 'additionalProperties': true}", "{'a': 1, 'b': 1}", true},
        {"{'properties': {'a': {}}, 'additionalProperties': {'type': 'string'}}",
         "{'a': 1, 'b': 'x'}", true},
        {"{'properties': {'a': {}}, 'additionalProperties': {'type': 'string'}}",
         "{'a': 1, 'b': 2}", false},
        {"{'patternProperties': {'^n': {'type': 'number'}}}", "{'n1': 1, 'x': 'y'}", true},
        {"{'patternProperties': {'^n': {'type': 'number'}}}", "{'n1': 'x'}", false},
        {"{'patternProperties': {'^n': {}}, 'additionalProperties': false}", "{'n1': 'x'}", true},
        {"{'patternProperties': {'^n': {}}, 'additionalProperties': false}", "{'x': 'x'}", false},
        {"{'properties': {'n': {'minimum': 1}}, 'patternProperties': {'^n': {'maximum': 5}}}",
         "{'n': 6}", false},
        {"{'dependencies': {'a': ['b', 'c']}}", "{'a': 1, 'b': 1, 'c': 1}", true},
        {"{'dependencies': {'a': ['b', 'c']}}", "{'a': 1, 'b': 1}", false},
        {"{'dependencies': {'a': ['b', 'c']}}", "{'b': 1}", true},
        {"{'dependencies': {'a': {'required': ['b']}}}", "{'a': 1}", false},
        {"{'dependencies': {'a': {'required': ['b']}}}", "{'c': 1}", true},
        {"{'properties': {'a': {'properties': {'b': {'minimum': 5}}}}}", "{'a': {'b': 4}}", false},
        {"{'properties': {'a': {'properties': {'b': {'minimum': 5}}}}}", "{'a': [{'b': 4}]}", true},
        /* arrays */
        {"{'properties': {'a': {'minItems': 1, 'maxItems': 2}}}", "{'a': []}", false},
        {"{'properties': {'a': {'minItems': 1, 'maxItems': 2}}}", "{'a': [1, 2]}", true},
        {"{'properties': {'a': {'minItems': 1, 'maxItems': 2}}}", "{'a': [1, 2, 3]}", false},
        {"{'properties': {'a': {'items': {'type': 'number'}}}}", "{'a': [1, 2.5]}", true},
        {"{'properties': {'a': {'items': {'type': 'number'}}}}", "{'a': [1, 'x']}", false},
        {"{'properties': {'a': {'items': {'type': 'number'}}}}", "{'a': 'x'}", true},
        {"{'properties': {'a': {'items': [{'type': 'number'}, {'type': 'string'}]}}}",
         "{'a': [1, 'x', true]}", true},
        {"{'properties': {'a': {'items': [{'type': 'number'}, {'type': 'string'}]}}}",
         "{'a': [1, 2]}", false},
        {"{'properties': {'a': {'items': [{'type': 'number'}], 'additionalItems': false}}}",
         "{'a': [1, 2]}", false},
        {"{'properties': {'a': {'items': [{'type': 'number'}], 'additionalItems': {'type': "
         "'string'}}}}",
         "{'a': [1, 'x']}", true},
        {"{'properties': {'a': {'items': {}, 'additionalItems': false}}}", "{'a': [1, 2]}", true},
        {"{'properties': {'a': {'uniqueItems': true}}}", "{'a': [1, 2, '1']}", true},
        {"{'properties': {'a': {'uniqueItems': true}}}", "{'a': [1, 2, 1.0]}", false},
        {"{'properties': {'a': {'uniqueItems': true}}}",
         "{'a': [{'x': 1, 'y': 2}, {'y': 2.0, 'x': 1}]}", false},
        {"{'properties': {'a': {'uniqueItems': true}}}", "{'a': [[1, 2], [2, 1]]}", true},
        {"{'properties': {'a': {'uniqueItems': false}}}", "{'a': [1, 1]}", true},
        /* enum and combinations */
        {"{'properties': {'a': {'enum': [1, 'x', null]}}}", "{'a': 1.0}", true},
        {"{'properties': {'a': {'enum': [1, 'x', null]}}}", "{'a': null}", true},
        {"{'properties': {'a': {'enum': [1, 'x', null]}}}", "{'a': 'y'}", false},
        {"{'properties': {'a': {'enum': [{'x': 1, 'y': 2}]}}}", "{'a': {'y': 2, 'x': 1}}", true},
        {"{'properties': {'a': {'enum': [[1, 2]]}}}", "{'a': [2, 1]}", false},
        {"{'properties': {'a': {'enum': [1]}}}", "{'a': [1]}", false},
        {"{'enum': [{'a': 1}]}", "{'a': 1}", true},
        {"{'allOf': [{'required': ['a']}, {'required': ['b']}]}", "{'a': 1, 'b': 1}", true},
        {"{'allOf': [{'required': ['a']}, {'required': ['b']}]}", "{'a': 1}", false},
        {"{'anyOf': [{'required': ['a']}, {'required': ['b']}]}", "{'b': 1}", true},
        {"{'anyOf': [{'required': ['a']}, {'required': ['b']}]}", "{'c': 1}", false},
        {"{'oneOf': [{'required': ['a']}, {'required': ['b']}]}", "{'b': 1}", true},
        {"{'oneOf': [{'required': ['a']}, {'required': ['b']}]}", "{'a': 1, 'b': 1}", false},
        {"{'oneOf': [{'required': ['a']}, {'required': ['b']}]}", "{}", false},
        {"{'not': {'required': ['a']}}", "{'b': 1}", true},
        {"{'not': {'required': ['a']}}", "{'a': 1}", false},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_json_schema_t *schema = parse_schema_text(arena, cases[i].schema);
        vd_value_t v = vd_value_from_document(query_json(arena, cases[i].document));
        cr_expect(stor_json_schema_matches(schema, v) == cases[i].expected, "%s | %s: expected %d",
                  cases[i].schema, cases[i].document, cases[i].expected);
        /* A failing document is always explained, a good one never. */
        vd_bson_t why = stor_json_schema_explain_failure(schema, arena, v);
        cr_expect(vd_bson_is_empty(why) == cases[i].expected, "%s | %s: %s", cases[i].schema,
                  cases[i].document, vd_bson_to_json(arena, why, 400));
        vd_error_t err = VD_ERROR_INIT;
        cr_expect_eq(vd_bson_validate(vd_slice(why.data, why.len), 0, 200, &err), VD_OK);
        vd_arena_reset(arena);
    }
    vd_arena_destroy(&arena);
}

Test(json_schema, refusals)
{
    static const struct {
        const char *schema;
        int code;
        const char *message;
    } cases[] = {
        {"{'foo': 1}", 9, "Unknown $jsonSchema keyword: foo"},
        {"{'%ref': 'x'}", 9, "$jsonSchema keyword '$ref' is not currently supported"},
        {"{'$schema': 'x'}", 9, "$jsonSchema keyword '$schema' is not currently supported"},
        {"{'default': 1}", 9, "$jsonSchema keyword 'default' is not currently supported"},
        {"{'definitions': {}}", 9, "is not currently supported"},
        {"{'format': 'x'}", 9, "is not currently supported"},
        {"{'id': 'x'}", 9, "is not currently supported"},
        {"{'properties': {'a': {'foo': 1}}}", 9, "Unknown $jsonSchema keyword: foo"},
        {"{'encrypt': {}}", 9, "field level encryption is not offered"},
        {"{'type': 1}", 14, "must be either a string or an array of strings"},
        {"{'bsonType': 1}", 14, "must be either a string or an array of strings"},
        {"{'type': [1]}", 14, "must be either a string or an array of strings"},
        {"{'type': 'integer'}", 9, "$jsonSchema type 'integer' is not currently supported."},
        {"{'type': 'int'}", 2, "Unknown type name alias: int"},
        {"{'bsonType': 'foo'}", 2, "Unknown type name alias: foo"},
        {"{'type': []}", 9, "must name at least one type"},
        {"{'type': ['string', 'string']}", 9, "has duplicate value"},
        {"{'type': 'string', 'bsonType': 'string'}", 9, "Cannot specify both"},
        {"{'minimum': 'x'}", 14, "$jsonSchema keyword 'minimum' must be a number"},
        {"{'exclusiveMinimum': true}", 9, "'minimum' must be a present if exclusiveMinimum"},
        {"{'exclusiveMaximum': true}", 9, "'maximum' must be a present if exclusiveMaximum"},
        {"{'maximum': 1, 'exclusiveMaximum': 1}", 14, "must be a boolean"},
        {"{'multipleOf': 0}", 9, "must have a positive value"},
        {"{'multipleOf': -1}", 9, "must have a positive value"},
        {"{'multipleOf': {'$numberDouble': 'NaN'}}", 9, "must have a positive value"},
        {"{'minLength': -1}", 9, "Expected a non-negative number in: minLength: -1"},
        {"{'maxLength': 1.5}", 9, "Expected an integer: maxLength: 1.5"},
        {"{'minItems': 'x'}", 9, "Expected a number in: minItems"},
        {"{'pattern': 1}", 14, "must be a string"},
        {"{'pattern': '('}", 51091, "Regular expression is invalid"},
        {"{'required': 'a'}", 14, "must be an array"},
        {"{'required': []}", 9, "cannot be an empty array"},
        {"{'required': [1]}", 14, "must be an array of strings"},
        {"{'required': ['a', 'b', 'a']}", 9, "cannot contain duplicate values"},
        {"{'properties': 1}", 14, "must be an object"},
        {"{'properties': {'a': 1}}", 14,
         "Nested schema for $jsonSchema property 'a' must be an object"},
        {"{'patternProperties': {'a': 1}}", 14, "which is not an object"},
        {"{'patternProperties': {'(': {}}}", 51091, "Regular expression is invalid"},
        {"{'additionalProperties': 1}", 14, "must be an object or a boolean"},
        {"{'additionalItems': 1}", 14, "must be either an object or a boolean"},
        {"{'items': 1}", 14, "must be an array or an object"},
        {"{'items': [1]}", 14, "must be an array of objects"},
        {"{'uniqueItems': 1}", 14, "must be a boolean"},
        {"{'enum': 1}", 14, "must be an array"},
        {"{'enum': []}", 9, "cannot be an empty array"},
        {"{'enum': [1, 1.0]}", 9, "cannot contain duplicate values"},
        {"{'allOf': 1}", 14, "must be an array"},
        {"{'anyOf': []}", 2, "must be a non-empty array"},
        {"{'oneOf': [1]}", 14, "must be an array of objects"},
        {"{'not': 1}", 14, "must be an object"},
        {"{'dependencies': 1}", 14, "must be an object"},
        {"{'dependencies': {'a': 1}}", 14, "must be an object or an array"},
        {"{'dependencies': {'a': []}}", 9, "cannot be an empty array"},
        {"{'title': 1}", 14, "must be of type string"},
        {"{'description': 1}", 14, "must be of type string"},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_json_schema_t *schema = NULL;
        int rc = stor_json_schema_parse(arena, query_json(arena, cases[i].schema), &schema, &err);
        cr_expect(rc == -cases[i].code, "%s: %d %s", cases[i].schema, rc, err.message);
        cr_expect(strstr(err.message, cases[i].message) != NULL, "%s: %s", cases[i].schema,
                  err.message);
        vd_arena_reset(arena);
    }
    vd_arena_destroy(&arena);
}

Test(json_schema, explanations)
{
    static const struct {
        const char *schema, *document, *expected;
    } cases[] = {
        {"{'required': ['a', 'b']}", "{'a': 1}",
         "{'v': [{'operatorName': 'required', 'specifiedAs': {'required': ['a', 'b']}, "
         "'missingProperties': ['b']}]}"},
        {"{'properties': {'a': {'bsonType': 'int', 'description': 'a whole number'}}}",
         "{'a': 'x'}",
         "{'v': [{'operatorName': 'properties', 'propertiesNotSatisfied': [{'propertyName': 'a', "
         "'description': 'a whole number', 'details': [{'operatorName': 'bsonType', "
         "'specifiedAs': {'bsonType': 'int'}, 'reason': 'type did not match', "
         "'consideredValue': 'x', 'consideredType': 'string'}]}]}]}"},
        {"{'properties': {'a': {'minimum': 5}}}", "{'a': 3}",
         "{'v': [{'operatorName': 'properties', 'propertiesNotSatisfied': [{'propertyName': 'a', "
         "'details': [{'operatorName': 'minimum', 'specifiedAs': {'minimum': 5}, 'reason': "
         "'comparison failed', 'consideredValue': 3}]}]}]}"},
        {"{'properties': {'a': {}}, 'additionalProperties': false}", "{'a': 1, 'b': 2}",
         "{'v': [{'operatorName': 'additionalProperties', 'specifiedAs': "
         "{'additionalProperties': false}, 'additionalProperties': ['b']}]}"},
        {"{'oneOf': [{}, {}]}", "{}",
         "{'v': [{'operatorName': 'oneOf', 'reason': 'more than one subschema matched', "
         "'matchingSchemaIndexes': [0, 1]}]}"},
        {"{'not': {}}", "{}",
         "{'v': [{'operatorName': 'not', 'reason': 'child expression matched'}]}"},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_json_schema_t *schema = parse_schema_text(arena, cases[i].schema);
        vd_value_t v = vd_value_from_document(query_json(arena, cases[i].document));
        vd_value_t why = vd_value_from_array(stor_json_schema_explain_failure(schema, arena, v));
        vd_value_t expected = vd_bson_get(query_json(arena, cases[i].expected), "v");
        cr_expect(vd_value_identical(why, expected), "%s: %s", cases[i].schema,
                  vd_value_to_json(arena, why, 900));
    }
    vd_arena_destroy(&arena);
}

Test(json_schema, depth)
{
    vd_arena_t *arena = vd_arena_create();
    for (int levels = 90; levels <= 300; levels += 105) {
        vd_bb_t bb;
        vd_error_t err = VD_ERROR_INIT;
        vd_bson_t doc;
        vd_bb_init_arena(&bb, arena, 1 << 20);
        vd_bb_cstr(&bb, "type", "object");
        cr_assert_eq(vd_bb_finish(&bb, &doc, &err), VD_OK);
        for (int i = 0; i < levels; i++) {
            vd_bb_init_arena(&bb, arena, 1 << 20);
            vd_bb_document(&bb, "not", doc);
            cr_assert_eq(vd_bb_finish(&bb, &doc, &err), VD_OK);
        }
        stor_json_schema_t *schema = NULL;
        int rc = stor_json_schema_parse(arena, doc, &schema, &err);
        cr_expect_eq(rc, levels < VD_QUERY_DEPTH_MAX ? VD_OK : VD_ERR_BAD_VALUE);
    }
    vd_arena_destroy(&arena);
}

/* Many equal hashes would be slow, many different ones must not be. */
Test(json_schema, unique_items_of_a_long_array, .timeout = 300)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bb_t bb;
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_t doc;
    char buf[12];
    vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_begin_array(&bb, "a");
    for (uint32_t i = 0; i < 300000; i++)
        vd_bb_value(&bb, vd_array_name(i, buf), vd_value_from_int32(arena, (int32_t)i));
    vd_bb_close(&bb);
    cr_assert_eq(vd_bb_finish(&bb, &doc, &err), VD_OK);
    stor_json_schema_t *schema =
        parse_schema_text(arena, "{'properties': {'a': {'uniqueItems': true}}}");
    cr_expect(stor_json_schema_matches(schema, vd_value_from_document(doc)));
    vd_arena_destroy(&arena);
}
