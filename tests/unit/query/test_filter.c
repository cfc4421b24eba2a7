/* tests/unit/query/test_filter.c — what the filter language refuses, and the tree that it becomes.
 */
#include "veddb-storaged/query/filter.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "tests/unit/query/query_json.h"

Test(filter, errors)
{
    static const struct {
        const char *filter;
        int code; /* MongoDB's number */
        const char *message;
    } cases[] = {
        {"{'$foo': 1}", 2,
         "unknown top level operator: $foo. If you have a field name that starts with a '$' "
         "symbol, consider using $getField or $setField."},
        {"{'$gt': 1}", 2, "unknown top level operator: $gt"},
        {"{'a': {'$foo': 1}}", 2, "unknown operator: $foo"},
        {"{'a': {'$gt': 1, 'b': 2}}", 2, "unknown operator: b"},
        {"{'a': {'$comment': 1}}", 2, "unknown operator: $comment"},
        {"{'a': {'%ref': 'c'}}", 2, "unknown operator: $ref"},
        {"{'a': {'$and': [{'b': 1}]}}", 2, "unknown operator: $and"},
        {"{'$version': 1.5}", 14,
         "$version must be a long, as {$meta: \"version\"} gives it, not 'double'"},
        {"{'$version': 0}", 2, "$version must be greater than 0"},
        {"{'$or': [{'a': 1}, {'$version': 1}]}", 2,
         "$version can only stand at the top level of a filter, or under $and"},
        {"{'$and': [{'$nor': [{'$version': 1}]}]}", 2,
         "$version can only stand at the top level of a filter, or under $and"},
        {"{'a': {'$elemMatch': {'$version': 1}}}", 2,
         "$version can only stand at the top level of a filter, or under $and"},
        {"{'$and': 1}", 2, "$and must be an array"},
        {"{'$or': {}}", 2, "$or must be an array"},
        {"{'$nor': null}", 2, "$nor must be an array"},
        {"{'$and': []}", 2, "$and/$or/$nor must be a nonempty array"},
        {"{'$or': []}", 2, "$and/$or/$nor must be a nonempty array"},
        {"{'$or': [1]}", 2, "$or/$and/$nor entries need to be full objects"},
        {"{'a': {'$undefined': true}}", 2, "cannot compare to undefined"},
        {"{'a': {'$eq': {'$undefined': true}}}", 2, "cannot compare to undefined"},
        {"{'a': {'$gt': {'$undefined': true}}}", 2, "cannot compare to undefined"},
        {"{'a': {'$ne': {'$undefined': true}}}", 2, "cannot compare to undefined"},
        {"{'a': {'$in': [{'$undefined': true}]}}", 2,
         "InMatchExpression equality cannot be undefined"},
        {"{'a.b': {'$gt': {'$regularExpression': {'pattern': 'x', 'options': ''}}}}", 2,
         "Can't have RegEx as arg to predicate over field 'a.b'."},
        {"{'a': {'$ne': {'$regularExpression': {'pattern': 'x', 'options': ''}}}}", 2,
         "Can't have regex as arg to $ne."},
        {"{'a': {'$in': 1}}", 2, "$in needs an array"},
        {"{'a': {'$nin': {}}}", 2, "$nin needs an array"},
        {"{'a': {'$in': [{'$gt': 1}]}}", 2, "cannot nest $ under $in"},
        {"{'a': {'$not': 1}}", 2, "$not needs a regex or a document"},
        {"{'a': {'$not': {}}}", 2, "$not cannot be empty"},
        {"{'a': {'$not': {'b': 1}}}", 2, "unknown operator: b"},
        {"{'a': {'$all': 1}}", 2, "$all needs an array"},
        {"{'a': {'$all': [{'$gt': 1}]}}", 2, "no $ expressions in $all"},
        {"{'a': {'$all': [{'$elemMatch': {'b': 1}}, 5]}}", 2,
         "$all/$elemMatch has to be consistent"},
        {"{'a': {'$all': [5, {'$elemMatch': {'b': 1}}]}}", 2, "no $ expressions in $all"},
        {"{'a': {'$elemMatch': 1}}", 2, "$elemMatch needs an Object"},
        {"{'a': {'$elemMatch': [1]}}", 2, "$elemMatch needs an Object"},
        {"{'a': {'$elemMatch': {'$foo': 1}}}", 2, "unknown operator: $foo"},
        {"{'a': {'$elemMatch': {'$gt': 1, 'b': 1}}}", 2, "unknown operator: b"},
        {"{'a': {'$elemMatch': {'b': 1, '$gt': 1}}}", 2, "unknown top level operator: $gt"},
        {"{'a': {'$elemMatch': {'$expr': true}}}", 2,
         "$expr can only be applied to the top-level document"},
        {"{'a': {'$size': 'x'}}", 2, "Failed to parse $size. Expected a number in: $size: \"x\""},
        {"{'a': {'$size': -1}}", 2,
         "Failed to parse $size. Expected a non-negative number in: $size: -1"},
        {"{'a': {'$size': 1.5}}", 2, "Failed to parse $size. Expected an integer: $size: 1.5"},
        {"{'a': {'$size': {'$numberDouble': 'NaN'}}}", 2,
         "Failed to parse $size. Expected an integer, but found NaN in: $size:"},
        {"{'a': {'$size': {'$numberDouble': 'Infinity'}}}", 2,
         "Failed to parse $size. Cannot represent as a 64-bit integer: $size:"},
        {"{'a': {'$size': {'$numberLong': '4294967296'}}}", 2, "Failed to parse $size."},
        {"{'a': {'%type': 'foo'}}", 2, "Unknown type name alias: foo"},
        {"{'a': {'%type': 'missing'}}", 2, "Unknown type name alias: missing"},
        {"{'a': {'%type': null}}", 14, "type must be represented as a number or a string"},
        {"{'a': {'%type': {}}}", 14, "type must be represented as a number or a string"},
        {"{'a': {'%type': 0}}", 2, "Invalid numerical type code: 0. Instead use {$exists:false}."},
        {"{'a': {'%type': 20}}", 2, "Invalid numerical type code: 20"},
        {"{'a': {'%type': 1.5}}", 2, "Invalid numerical type code: 1.5"},
        {"{'a': {'%type': 255}}", 2, "Invalid numerical type code: 255"},
        {"{'a': {'%type': []}}", 9, "a must match at least one type"},
        {"{'a': {'%type': ['int', 'foo']}}", 2, "Unknown type name alias: foo"},
        {"{'a': {'$mod': 1}}", 2, "malformed mod, needs to be an array"},
        {"{'a': {'$mod': []}}", 2, "malformed mod, not enough elements"},
        {"{'a': {'$mod': [1]}}", 2, "malformed mod, not enough elements"},
        {"{'a': {'$mod': [1, 2, 3]}}", 2, "malformed mod, too many elements"},
        {"{'a': {'$mod': ['x', 2]}}", 2, "malformed mod, divisor not a number"},
        {"{'a': {'$mod': [2, 'x']}}", 2, "malformed mod, remainder not a number"},
        {"{'a': {'$mod': [0, 0]}}", 2, "divisor cannot be 0"},
        {"{'a': {'$mod': [0.9, 0]}}", 2, "divisor cannot be 0"},
        {"{'a': {'$mod': [{'$numberDouble': 'NaN'}, 0]}}", 2,
         "malformed mod, divisor value is invalid :: caused by :: Unable to coerce NaN/Inf to "
         "integral type"},
        {"{'a': {'$mod': [2, 1e300]}}", 2,
         "malformed mod, remainder value is invalid :: caused by :: Out of bounds coercing to "
         "integral value"},
        {"{'a': {'$bitsAllSet': 'x'}}", 2, "a takes an Array, a number, or a BinData"},
        {"{'a': {'$bitsAllSet': -1}}", 9, "Expected a non-negative number in: $bitsAllSet: -1"},
        {"{'a': {'$bitsAllSet': 1.5}}", 9, "Expected an integer: $bitsAllSet: 1.5"},
        {"{'a': {'$bitsAnyClear': [-1]}}", 2,
         "Failed to parse bit position. Expected a non-negative number in: 0: -1"},
        {"{'a': {'$bitsAnyClear': [1, 'x']}}", 2, "Failed to parse bit position."},
        {"{'a': {'%regex': 1}}", 2, "$regex has to be a string"},
        {"{'a': {'%regex': 'x', '%options': 1}}", 2, "$options has to be a string"},
        {"{'a': {'%options': 'i'}}", 2, "$options needs a $regex"},
        {"{'a': {'%regex': 'x', '%options': 'g'}}", 51108, "invalid flag in regex options: g"},
        {"{'a': {'%regex': '('}}", 51091, "Regular expression is invalid:"},
        {"{'a': {'%regex': 'a\\u0000b'}}", 2,
         "Regular expression cannot contain an embedded null byte"},
        {"{'a': {'%options': 's', '%regex': {'$regularExpression': {'pattern': 'x', 'options': "
         "'i'}}}}",
         51074, "options set in both $regex and $options"},
        {"{'a': {'%regex': {'$regularExpression': {'pattern': 'x', 'options': 'i'}}, '%options': "
         "'s'}}",
         51075, "options set in both $regex and $options"},
        {"{'$alwaysTrue': 2}", 9, "$alwaysTrue must be an integer value of 1"},
        {"{'$alwaysFalse': 'x'}", 9, "Expected a number in: $alwaysFalse: \"x\""},
        {"{'$sampleRate': 2}", 2, "numeric argument to $sampleRate must be in [0, 1]"},
        {"{'$sampleRate': {'$numberDouble': 'NaN'}}", 2,
         "numeric argument to $sampleRate must be in [0, 1]"},
        {"{'$sampleRate': 'x'}", 2, "argument to $sampleRate must be a numeric type"},
        {"{'$jsonSchema': 1}", 14, "$jsonSchema must be an object"},
        {"{'$where': 'true'}", 2, "$where is not supported"},
        {"{'a': {'$where': 'true'}}", 2, "$where cannot be applied to a field"},
        {"{'$text': {'$search': 'x'}}", 27, "text index required for $text query"},
        {"{'a': {'$elemMatch': {'$text': {'$search': 'x'}}}}", 2,
         "$text can only be applied to the top-level document"},
        {"{'a': {'$near': [0, 0]}}", 238, "the geospatial operator $near is not supported"},
        {"{'a': {'$geoWithin': {'$box': []}}}", 238, "$geoWithin is not supported"},
        {"{'a': {'$geoIntersects': {}}}", 238, "$geoIntersects is not supported"},
        {"{'$expr': {'$foo': 1}}", 168, "Unrecognized expression '$foo'"},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_filter_t *tree = NULL;
        int rc = stor_filter_parse(arena, query_json(arena, cases[i].filter), NULL, &tree, &err);
        cr_expect(rc == -cases[i].code, "%s: %d %s", cases[i].filter, rc, err.message);
        cr_expect(strstr(err.message, cases[i].message) != NULL, "%s: %s", cases[i].filter,
                  err.message);
        cr_expect(tree == NULL);
        vd_arena_reset(arena);
    }
    vd_arena_destroy(&arena);
}

Test(filter, value_predicates_refuse_what_needs_a_document)
{
    vd_arena_t *arena = vd_arena_create();
    static const char *const predicates[] = {"{'$expr': true}", "{'$jsonSchema': {}}"};
    for (size_t i = 0; i < VD_COUNT_OF(predicates); i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_filter_t *tree = NULL;
        int rc =
            stor_filter_parse_value(arena, query_json(arena, predicates[i]), NULL, &tree, &err);
        cr_expect_eq(rc, -224, "%s", predicates[i]);
    }
    vd_arena_destroy(&arena);
}

/* explain's parsedQuery. */
Test(filter, printed)
{
    static const struct {
        const char *filter, *expected;
    } cases[] = {
        {"{}", "{}"},
        {"{'a': 1}", "{'a': {'$eq': 1}}"},
        {"{'a': 1, 'b': {'$gt': 2}}", "{'$and': [{'a': {'$eq': 1}}, {'b': {'$gt': 2}}]}"},
        {"{'$and': [{'a': 1}, {'$and': [{'b': 2}, {'c': 3}]}]}",
         "{'$and': [{'a': {'$eq': 1}}, {'b': {'$eq': 2}}, {'c': {'$eq': 3}}]}"},
        {"{'$or': [{'a': 1}]}", "{'a': {'$eq': 1}}"},
        {"{'$or': [{'a': 1}, {'$or': [{'b': 1}]}]}",
         "{'$or': [{'a': {'$eq': 1}}, {'b': {'$eq': 1}}]}"},
        {"{'$nor': [{'a': 1}]}", "{'$nor': [{'a': {'$eq': 1}}]}"},
        {"{'a': {'$ne': 1}}", "{'a': {'$not': {'$eq': 1}}}"},
        {"{'a': {'$not': {'$gt': 1, '$lt': 5}}}",
         "{'$nor': [{'$and': [{'a': {'$gt': 1}}, {'a': {'$lt': 5}}]}]}"},
        {"{'a': {'$exists': false}}", "{'a': {'$not': {'$exists': true}}}"},
        {"{'a': {'$in': [3, 1, 3, 2]}}", "{'a': {'$in': [1, 2, 3]}}"},
        {"{'a': {'$in': [3]}}", "{'a': {'$eq': 3}}"},
        {"{'a': {'$in': []}}", "{'$alwaysFalse': 1}"},
        {"{'a': {'$all': []}}", "{'$alwaysFalse': 1}"},
        {"{'a': {'$nin': [1, 2]}}", "{'a': {'$not': {'$in': [1, 2]}}}"},
        {"{'a': {'$all': [1, 2]}}", "{'$and': [{'a': {'$eq': 1}}, {'a': {'$eq': 2}}]}"},
        {"{'a': {'$regularExpression': {'pattern': 'x', 'options': 'i'}}}",
         "{'a': {'%regex': 'x', '%options': 'i'}}"},
        {"{'a': {'%regex': 'x'}}", "{'a': {'%regex': 'x'}}"},
        {"{'a': {'$in': [{'$regularExpression': {'pattern': 'x', 'options': ''}}, 1]}}",
         "{'a': {'$in': [1, {'$regularExpression': {'pattern': 'x', 'options': ''}}]}}"},
        {"{'a': {'%type': ['number', 'string']}}", "{'a': {'%type': ['number', 2]}}"},
        {"{'a': {'%type': 'minKey'}}", "{'a': {'%type': [-1]}}"},
        {"{'a': {'$size': 2}}", "{'a': {'$size': 2}}"},
        {"{'a': {'$mod': [4.5, 1]}}",
         "{'a': {'$mod': [{'$numberLong': '4'}, {'$numberLong': '1'}]}}"},
        {"{'a': {'$bitsAllSet': 5}}",
         "{'a': {'$bitsAllSet': [{'$numberLong': '0'}, {'$numberLong': '2'}]}}"},
        {"{'a': {'$elemMatch': {'$gt': 1, '$lt': 3}}}",
         "{'a': {'$elemMatch': {'$gt': 1, '$lt': 3}}}"},
        {"{'a': {'$elemMatch': {'b': 1}}}", "{'a': {'$elemMatch': {'b': {'$eq': 1}}}}"},
        {"{'a': {'$elemMatch': {'$not': {'$gt': 1, '$lt': 3}}}}",
         "{'a': {'$elemMatch': {'$not': {'$gt': 1, '$lt': 3}}}}"},
        {"{'a': {'$elemMatch': {'$all': [1, 2], '$nin': []}}}",
         "{'a': {'$elemMatch': {'$eq': 1, '$eq': 2, '$not': {'$in': []}}}}"},
        {"{'%id': {'b': 1}}", "{'%id': {'b': 1}}"},
        {"{'$jsonSchema': {'required': ['a']}}", "{'$jsonSchema': {'required': ['a']}}"},
        {"{'$expr': {'$eq': ['$a', 1]}}", "{'$expr': {'$eq': ['$a', 1]}}"},
        {"{'$comment': 'x', 'a': 1}", "{'a': {'$eq': 1}}"},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_filter_t *tree = NULL;
        int rc = stor_filter_parse(arena, query_json(arena, cases[i].filter), NULL, &tree, &err);
        cr_assert(rc == VD_OK, "%s: %s", cases[i].filter, err.message);
        vd_bson_t printed = stor_filter_to_bson(arena, tree);
        vd_value_t a = vd_value_from_document(printed);
        vd_value_t b = vd_value_from_document(query_json(arena, cases[i].expected));
        cr_expect(vd_value_identical(a, b), "%s: %s", cases[i].filter,
                  vd_bson_to_json(arena, printed, 400));
    }
    vd_arena_destroy(&arena);
}

Test(filter, id_equality)
{
    static const struct {
        const char *filter, *expected; /* NULL: none */
    } cases[] = {
        {"{'_id': 5}", "5"},
        {"{'_id': {'$eq': 5}}", "5"},
        {"{'a': 1, '_id': 5}", "5"},
        {"{'$and': [{'a': 1}, {'$and': [{'_id': 5}]}]}", "5"},
        {"{'_id': {'$in': [5]}}", "5"},
        {"{'_id': {'b': 1}}", "{'b': 1}"},
        {"{'$or': [{'_id': 5}]}", "5"},
        {"{}", NULL},
        {"{'_id': {'$gt': 5}}", NULL},
        {"{'_id': {'$ne': 5}}", NULL},
        {"{'_id': {'$in': [5, 6]}}", NULL},
        {"{'$or': [{'_id': 5}, {'a': 1}]}", NULL},
        {"{'_id.a': 5}", NULL},
        {"{'_id': {'$regularExpression': {'pattern': 'x', 'options': ''}}}", NULL},
        {"{'_id': {'$eq': {'$regularExpression': {'pattern': 'x', 'options': ''}}}}", NULL},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_filter_t *tree = NULL;
        cr_assert_eq(
            stor_filter_parse(arena, query_json(arena, cases[i].filter), NULL, &tree, &err), VD_OK);
        vd_value_t id = stor_filter_id_equality(tree);
        if (cases[i].expected == NULL)
            cr_expect(vd_value_is_missing(id), "%s", cases[i].filter);
        else
            cr_expect(vd_value_equal(id, query_value(arena, cases[i].expected)), "%s",
                      cases[i].filter);
    }
    vd_arena_destroy(&arena);
}

static int note_equality(const stor_path_t *path, vd_value_t value, void *context)
{
    char *text = context;
    size_t len = strlen(text);
    (void)snprintf(text + len, 200 - len, "%.*s=%d ", VD_SLICE_FMT(path->text),
                   vd_value_int32(value));
    return value.type == VD_BSON_INT32 && vd_value_int32(value) == 99 ? -54 : VD_OK;
}

Test(filter, version)
{
    static const struct {
        const char *filter;
        uint64_t version;
        const char *rest; /* as explain prints it */
    } cases[] = {
        {"{}", 0, "{}"},
        {"{'a': 1}", 0, "{'a': {'$eq': 1}}"},
        {"{'$version': 7}", 7, "{}"},
        {"{'_id': 1, '$version': 7}", 7, "{'$and': [{'_id': {'$eq': 1}}]}"},
        {"{'$and': [{'_id': 1}, {'$and': [{'$version': {'$numberLong': '9007199254740993'}}]}]}",
         9007199254740993, "{'$and': [{'_id': {'$eq': 1}}]}"},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_filter_t *filter;
        vd_error_t err = VD_ERROR_INIT;
        int rc = stor_filter_parse(arena, query_json(arena, cases[i].filter), NULL, &filter, &err);
        cr_assert_eq(rc, VD_OK, "%s: %s", cases[i].filter, err.message);
        cr_assert_eq(stor_filter_version(filter), cases[i].version, "%s", cases[i].filter);
        vd_bson_t rest = stor_filter_to_bson(arena, stor_filter_without_version(arena, filter));
        vd_bson_t want = query_json(arena, cases[i].rest);
        cr_assert(vd_value_equal(vd_value_from_document(rest), vd_value_from_document(want)),
                  "%s: %s", cases[i].filter, vd_bson_to_json(arena, rest, 300));
    }
    vd_arena_destroy(&arena);
}

Test(filter, equalities_for_upsert)
{
    static const struct {
        const char *filter, *expected;
        int rc;
    } cases[] = {
        {"{'a': 1, 'b.c': {'$eq': 2}}", "a=1 b.c=2 ", VD_OK},
        {"{'a': {'$all': [1]}, 'b': {'$in': [2]}, 'c': {'$in': [3, 4]}}", "a=1 b=2 ", VD_OK},
        {"{'$and': [{'a': 1}, {'b': {'$gt': 2}}]}", "a=1 ", VD_OK},
        {"{'$or': [{'a': 1}, {'b': 2}]}", "", VD_OK},
        {"{'$or': [{'a': 1}]}", "a=1 ", VD_OK},
        {"{'a': {'$ne': 1}}", "", VD_OK},
        {"{'a': 99, 'b': 1}", "a=99 ", -54},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_filter_t *tree = NULL;
        char text[200] = "";
        cr_assert_eq(
            stor_filter_parse(arena, query_json(arena, cases[i].filter), NULL, &tree, &err), VD_OK);
        cr_expect_eq(stor_filter_equalities(tree, note_equality, text), cases[i].rc);
        cr_expect_str_eq(text, cases[i].expected, "%s: %s", cases[i].filter, text);
    }
    vd_arena_destroy(&arena);
}

/* {$and: [{$and: [ ... ]}]}, `levels` times. */
static vd_bson_t nested_and(vd_arena_t *arena, int levels)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 1 << 20);
    vd_bb_int32(&bb, "a", 1);
    vd_bson_t doc;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(vd_bb_finish(&bb, &doc, &err), VD_OK);
    for (int i = 0; i < levels; i++) {
        vd_bb_init_arena(&bb, arena, 1 << 20);
        vd_bb_begin_array(&bb, "$and");
        vd_bb_document(&bb, "0", doc);
        vd_bb_close(&bb);
        cr_assert_eq(vd_bb_finish(&bb, &doc, &err), VD_OK);
    }
    return doc;
}

Test(filter, depth)
{
    vd_arena_t *arena = vd_arena_create();
    stor_filter_t *tree = NULL;
    vd_error_t err = VD_ERROR_INIT;
    cr_expect_eq(stor_filter_parse(arena, nested_and(arena, VD_QUERY_DEPTH_MAX), NULL, &tree, &err),
                 VD_OK);
    tree = NULL;
    cr_expect_eq(
        stor_filter_parse(arena, nested_and(arena, VD_QUERY_DEPTH_MAX + 1), NULL, &tree, &err),
        VD_ERR_BAD_VALUE);
    cr_expect(strstr(err.message, "maximum query tree depth") != NULL, "%s", err.message);
    /* Far deeper than any stack. */
    vd_error_clear(&err);
    cr_expect_eq(stor_filter_parse(arena, nested_and(arena, 5000), NULL, &tree, &err),
                 VD_ERR_BAD_VALUE);
    vd_arena_destroy(&arena);
}

Test(filter, depth_of_not_and_elem_match)
{
    static const char *const operators[] = {"$not", "$elemMatch"};
    vd_arena_t *arena = vd_arena_create();
    for (size_t k = 0; k < VD_COUNT_OF(operators); k++) {
        vd_bb_t bb;
        vd_error_t err = VD_ERROR_INIT;
        vd_bson_t doc;
        vd_bb_init_arena(&bb, arena, 1 << 20);
        vd_bb_int32(&bb, "$gt", 1);
        cr_assert_eq(vd_bb_finish(&bb, &doc, &err), VD_OK);
        for (int i = 0; i < 300; i++) {
            vd_bb_init_arena(&bb, arena, 1 << 20);
            vd_bb_document(&bb, operators[k], doc);
            cr_assert_eq(vd_bb_finish(&bb, &doc, &err), VD_OK);
        }
        vd_bb_init_arena(&bb, arena, 1 << 20);
        vd_bb_document(&bb, "a", doc);
        cr_assert_eq(vd_bb_finish(&bb, &doc, &err), VD_OK);
        stor_filter_t *tree = NULL;
        cr_expect_eq(stor_filter_parse(arena, doc, NULL, &tree, &err), VD_ERR_BAD_VALUE);
    }
    vd_arena_destroy(&arena);
}

Test(filter, wide)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bb_t bb;
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_t doc;
    char buf[12];
    vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_begin_document(&bb, "a");
    vd_bb_begin_array(&bb, "$in");
    for (uint32_t i = 0; i < 200000; i++)
        vd_bb_value(&bb, vd_array_name(i, buf),
                    vd_value_from_int32(arena, (int32_t)(i * 7919 % 100000)));
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    cr_assert_eq(vd_bb_finish(&bb, &doc, &err), VD_OK);
    stor_filter_t *tree = NULL;
    cr_assert_eq(stor_filter_parse(arena, doc, NULL, &tree, &err), VD_OK);
    cr_expect_eq(tree->value_count, 100000);
    vd_arena_destroy(&arena);
}
