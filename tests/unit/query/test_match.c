/* tests/unit/query/test_match.c — documents against filters: every operator's ordinary and odd
 * cases. */
#include "veddb-storaged/query/match.h"

#include "tests/unit/query/query_json.h"

typedef struct {
    const char *document, *filter;
    bool expected;
} match_case_t;

static bool match_json(vd_arena_t *arena, const char *document, const char *filter,
                       int64_t *ret_position)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_filter_t *tree = NULL;
    int rc = stor_filter_parse(arena, query_json(arena, filter), NULL, &tree, &err);
    cr_assert(rc == VD_OK, "%s: %s", filter, err.message);
    stor_match_t match = {.arena = arena, .array_position = 77};
    bool matches = false;
    rc = stor_match_document(tree, query_json(arena, document), &match, &matches, &err);
    cr_assert(rc == VD_OK, "%s | %s: %s", document, filter, err.message);
    if (ret_position != NULL)
        *ret_position = match.array_position;
    return matches;
}

static void check_matches(const match_case_t *cases, size_t count)
{
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < count; i++) {
        bool matches = match_json(arena, cases[i].document, cases[i].filter, NULL);
        cr_expect(matches == cases[i].expected, "%s | %s: expected %d", cases[i].document,
                  cases[i].filter, cases[i].expected);
        vd_arena_reset(arena);
    }
    vd_arena_destroy(&arena);
}
#define CHECK(cases) check_matches((cases), VD_COUNT_OF(cases))

Test(match, equality)
{
    static const match_case_t cases[] = {
        {"{}", "{}", true},
        {"{'a': 1}", "{}", true},
        {"{'a': 1}", "{'a': 1}", true},
        {"{'a': 1}", "{'a': 2}", false},
        {"{'a': 1}", "{'b': 1}", false},
        {"{'a': 1}", "{'a': {'$eq': 1}}", true},
        {"{'a': 1}", "{'a': {'$eq': 1.0}}", true},
        {"{'a': {'$numberLong': '1'}}", "{'a': 1}", true},
        {"{'a': {'$numberDecimal': '1.00'}}", "{'a': 1}", true},
        {"{'a': 1}", "{'a': {'$numberDecimal': '1.0'}}", true},
        {"{'a': {'$numberLong': '9007199254740993'}}", "{'a': 9007199254740992.0}", false},
        {"{'a': {'$numberDecimal': '0.1'}}", "{'a': 0.1}", false},
        {"{'a': 1}", "{'a': '1'}", false},
        {"{'a': 1}", "{'a': true}", false},
        {"{'a': true}", "{'a': true}", true},
        {"{'a': false}", "{'a': 0}", false},
        {"{'a': 'x'}", "{'a': 'x'}", true},
        {"{'a': 'x'}", "{'a': 'xy'}", false},
        {"{'a': 'X'}", "{'a': 'x'}", false},
        {"{'a': ''}", "{'a': ''}", true},
        {"{'a': 'x\\u0000y'}", "{'a': 'x'}", false},
        {"{'a': {'$symbol': 'x'}}", "{'a': 'x'}", true},
        {"{'a': {'$oid': '507f1f77bcf86cd799439011'}}",
         "{'a': {'$oid': '507f1f77bcf86cd799439011'}}", true},
        {"{'a': {'$oid': '507f1f77bcf86cd799439011'}}",
         "{'a': {'$oid': '507f1f77bcf86cd799439012'}}", false},
        {"{'a': {'$date': {'$numberLong': '5'}}}", "{'a': {'$date': {'$numberLong': '5'}}}", true},
        {"{'a': {'$date': {'$numberLong': '5'}}}", "{'a': 5}", false},
        {"{'a': {'$timestamp': {'t': 5, 'i': 1}}}", "{'a': {'$timestamp': {'t': 5, 'i': 1}}}",
         true},
        {"{'a': {'$binary': {'base64': 'AQI=', 'subType': '00'}}}",
         "{'a': {'$binary': {'base64': 'AQI=', 'subType': '00'}}}", true},
        {"{'a': {'$binary': {'base64': 'AQI=', 'subType': '00'}}}",
         "{'a': {'$binary': {'base64': 'AQI=', 'subType': '05'}}}", false},
        {"{'a': {'$minKey': 1}}", "{'a': {'$minKey': 1}}", true},
        {"{'a': {'$minKey': 1}}", "{'a': {'$maxKey': 1}}", false},
        {"{'a': {'b': 1}}", "{'a': {'b': 1}}", true},
        {"{'a': {'b': 1}}", "{'a': {'b': 1.0}}", true},
        {"{'a': {'b': 1, 'c': 2}}", "{'a': {'c': 2, 'b': 1}}", false},
        {"{'a': {'b': 1, 'c': 2}}", "{'a': {'b': 1}}", false},
        {"{'a': {}}", "{'a': {}}", true},
        {"{'a': {}}", "{'a': {'$eq': {}}}", true},
        {"{'a': 1, 'b': 2}", "{'a': 1, 'b': 2}", true},
        {"{'a': 1, 'b': 2}", "{'a': 1, 'b': 3}", false},
        {"{'': 1}", "{'': 1}", true},
        {"{'a': {'': 1}}", "{'a.': 1}", true},
        {"{'': {'a': 1}}", "{'.a': 1}", true},
        {"{'a': 0.0}", "{'a': -0.0}", true},
        {"{'a': {'$numberDouble': 'NaN'}}", "{'a': {'$numberDouble': 'NaN'}}", true},
        {"{'a': {'$numberDecimal': 'NaN'}}", "{'a': {'$numberDouble': 'NaN'}}", true},
        {"{'a': 1}", "{'a': {'$numberDouble': 'NaN'}}", false},
        {"{'a': {'$regularExpression': {'pattern': 'x', 'options': ''}}}",
         "{'a': {'$eq': {'$regularExpression': {'pattern': 'x', 'options': ''}}}}", true},
        {"{'a': 'x'}", "{'a': {'$eq': {'$regularExpression': {'pattern': 'x', 'options': ''}}}}",
         false},
        {"{'a': {'%ref': 'c', '%id': 1}}", "{'a': {'%ref': 'c', '%id': 1}}", true},
        {"{'a': {'%ref': 'c', '%id': 1}}", "{'a': {'%ref': 'c', '%id': 2}}", false},
        {"{'a': {'%ref': 'c', '%id': 1}}", "{'a.$id': 1}", true},
        {"{'a': [{'%ref': 'c', '%id': 1}]}", "{'a': {'$elemMatch': {'%id': 1}}}", true},
        {"{'a': [{'%ref': 'c', '%id': 1}]}", "{'a': {'$elemMatch': {'%id': 2}}}", false},
    };
    CHECK(cases);
}

Test(match, order)
{
    static const match_case_t cases[] = {
        {"{'a': 5}", "{'a': {'$gt': 4}}", true},
        {"{'a': 5}", "{'a': {'$gt': 5}}", false},
        {"{'a': 5}", "{'a': {'$gte': 5}}", true},
        {"{'a': 5}", "{'a': {'$lt': 6}}", true},
        {"{'a': 5}", "{'a': {'$lt': 5}}", false},
        {"{'a': 5}", "{'a': {'$lte': 5.0}}", true},
        {"{'a': 5}", "{'a': {'$gt': 4, '$lt': 6}}", true},
        {"{'a': 5}", "{'a': {'$gt': 4, '$lt': 5}}", false},
        {"{'a': 5}", "{'a': {'$gt': {'$numberDecimal': '4.9999'}}}", true},
        {"{'a': {'$numberLong': '9223372036854775807'}}", "{'a': {'$lt': 9223372036854775808.0}}",
         true},
        /* Only values of the same kind are in order with each other. */
        {"{'a': 5}", "{'a': {'$gt': '4'}}", false},
        {"{'a': 5}", "{'a': {'$lt': '4'}}", false},
        {"{'a': 'x'}", "{'a': {'$gt': 0}}", false},
        {"{'a': null}", "{'a': {'$lt': 5}}", false},
        {"{}", "{'a': {'$lt': 5}}", false},
        {"{'a': true}", "{'a': {'$gt': false}}", true},
        {"{'a': true}", "{'a': {'$gt': 0}}", false},
        {"{'a': 'abc'}", "{'a': {'$gt': 'ab'}}", true},
        {"{'a': {'$date': {'$numberLong': '5'}}}",
         "{'a': {'$gt': {'$date': {'$numberLong': '-1'}}}}", true},
        {"{'a': {'$date': {'$numberLong': '5'}}}",
         "{'a': {'$gt': {'$timestamp': {'t': 0, 'i': 0}}}}", false},
        {"{'a': {'b': 2}}", "{'a': {'$gt': {'b': 1}}}", true},
        {"{'a': {'b': 2}}", "{'a': {'$gt': {}}}", true},
        {"{'a': {'$oid': '507f1f77bcf86cd799439011'}}",
         "{'a': {'$gt': {'$oid': '000000000000000000000000'}}}", true},
        /* Null is in no order, but equal to itself and to what is missing. */
        {"{'a': null}", "{'a': {'$gte': null}}", true},
        {"{}", "{'a': {'$gte': null}}", true},
        {"{}", "{'a': {'$lte': null}}", true},
        {"{}", "{'a': {'$gt': null}}", false},
        {"{'a': null}", "{'a': {'$lt': null}}", false},
        {"{'a': {'$undefined': true}}", "{'a': {'$gte': null}}", true},
        {"{'a': 1}", "{'a': {'$gte': null}}", false},
        /* The ends of the order know all kinds. */
        {"{'a': 5}", "{'a': {'$gt': {'$minKey': 1}}}", true},
        {"{'a': 5}", "{'a': {'$lt': {'$maxKey': 1}}}", true},
        {"{'a': 5}", "{'a': {'$lte': {'$maxKey': 1}}}", true},
        {"{'a': 5}", "{'a': {'$lt': {'$minKey': 1}}}", false},
        {"{'a': 5}", "{'a': {'$gt': {'$maxKey': 1}}}", false},
        {"{'a': {'$maxKey': 1}}", "{'a': {'$gte': {'$maxKey': 1}}}", true},
        {"{'a': {'$maxKey': 1}}", "{'a': {'$gt': {'$maxKey': 1}}}", false},
        {"{}", "{'a': {'$gt': {'$minKey': 1}}}", true},
        {"{'a': {'$maxKey': 1}}", "{'a': {'$gt': 5}}", false},
        /* NaN equals itself and is in no order with numbers. */
        {"{'a': {'$numberDouble': 'NaN'}}", "{'a': {'$lt': 5}}", false},
        {"{'a': {'$numberDouble': 'NaN'}}", "{'a': {'$gt': 5}}", false},
        {"{'a': {'$numberDouble': 'NaN'}}", "{'a': {'$gte': {'$numberDouble': 'NaN'}}}", true},
        {"{'a': {'$numberDouble': 'NaN'}}", "{'a': {'$lte': {'$numberDecimal': 'NaN'}}}", true},
        {"{'a': {'$numberDouble': 'NaN'}}", "{'a': {'$gt': {'$numberDouble': 'NaN'}}}", false},
        {"{'a': 5}", "{'a': {'$lte': {'$numberDouble': 'NaN'}}}", false},
        {"{'a': 5}", "{'a': {'$gte': {'$numberDouble': 'NaN'}}}", false},
        {"{'a': -3}", "{'a': {'$gt': {'$numberDouble': '-Infinity'}}}", true},
        /* Arrays: by elements, and as a whole against an array. */
        {"{'a': [1, 9]}", "{'a': {'$gt': 5}}", true},
        {"{'a': [1, 9]}", "{'a': {'$gt': 5, '$lt': 3}}", true},
        {"{'a': [1, 2]}", "{'a': {'$gt': 5}}", false},
        {"{'a': [1, 2]}", "{'a': {'$gt': [1]}}", true},
        {"{'a': [1, 2]}", "{'a': {'$lt': [1, 3]}}", true},
        {"{'a': []}", "{'a': {'$lt': 5}}", false},
    };
    CHECK(cases);
}

Test(match, null_and_missing)
{
    static const match_case_t cases[] = {
        {"{}", "{'a': null}", true},
        {"{'a': null}", "{'a': null}", true},
        {"{'a': {'$undefined': true}}", "{'a': null}", true},
        {"{'a': 0}", "{'a': null}", false},
        {"{'a': []}", "{'a': null}", false},
        {"{'a': [null]}", "{'a': null}", true},
        {"{'a': [1]}", "{'a': null}", false},
        {"{'a': {'$numberInt': '0'}}", "{'a': {'$ne': null}}", true},
        {"{}", "{'a': {'$ne': null}}", false},
        {"{}", "{'a.b': null}", true},
        {"{'a': 1}", "{'a.b': null}", true},
        {"{'a': null}", "{'a.b': null}", true},
        {"{'a': {}}", "{'a.b': null}", true},
        {"{'a': {'b': 1}}", "{'a.b': null}", false},
        {"{'a': []}", "{'a.b': null}", false},
        {"{'a': [1, 2]}", "{'a.b': null}", false},
        {"{'a': [{}]}", "{'a.b': null}", true},
        {"{'a': [{'b': 1}, {}]}", "{'a.b': null}", true},
        {"{'a': [{'b': 1}]}", "{'a.b': null}", false},
        {"{'a': [1, {'b': 1}]}", "{'a.b': null}", false},
        {"{'a': [{'b': null}]}", "{'a.b': null}", true},
        {"{}", "{'a': {'$in': [null, 1]}}", true},
        {"{'a': {'$undefined': true}}", "{'a': {'$in': [null, 1]}}", true},
        {"{'a': 2}", "{'a': {'$in': [null, 1]}}", false},
        {"{}", "{'a': {'$nin': [null, 1]}}", false},
        {"{}", "{'a': {'$nin': [1, 2]}}", true},
        {"{}", "{'a': {'$not': {'$gt': 1}}}", true},
        {"{}", "{'a': {'$ne': 1}}", true},
    };
    CHECK(cases);
}

Test(match, paths)
{
    static const match_case_t cases[] = {
        {"{'a': {'b': {'c': 1}}}", "{'a.b.c': 1}", true},
        {"{'a': {'b': {'c': 1}}}", "{'a.b': 1}", false},
        {"{'a': {'b': {'c': 1}}}", "{'a.b': {'c': 1}}", true},
        {"{'a.b': 1}", "{'a.b': 1}", false},
        {"{'a': [{'b': 1}, {'b': 2}]}", "{'a.b': 2}", true},
        {"{'a': [{'b': 1}, {'b': 2}]}", "{'a.b': 3}", false},
        {"{'a': [{'b': [1, 2]}, {'b': [3]}]}", "{'a.b': 3}", true},
        {"{'a': [{'b': [1, 2]}, {'b': [3]}]}", "{'a.b': [1, 2]}", true},
        {"{'a': [{'b': [{'c': 1}]}]}", "{'a.b.c': 1}", true},
        /* Arrays directly inside arrays are not entered by name. */
        {"{'a': [[{'b': 1}]]}", "{'a.b': 1}", false},
        {"{'a': [[{'b': 1}]]}", "{'a.0.b': 1}", true},
        {"{'a': [[1, 2]]}", "{'a': 1}", false},
        {"{'a': [[1, 2]]}", "{'a': [1, 2]}", true},
        {"{'a': [[1, 2]]}", "{'a': [[1, 2]]}", true},
        /* Whole and by element. */
        {"{'a': [1, 2]}", "{'a': [1, 2]}", true},
        {"{'a': [1, 2]}", "{'a': [2, 1]}", false},
        {"{'a': [1, 2]}", "{'a': [1]}", false},
        {"{'a': [1, 2]}", "{'a': 2}", true},
        {"{'a': [1, 2]}", "{'a': 3}", false},
        {"{'a': []}", "{'a': []}", true},
        {"{'a': [[]]}", "{'a': []}", true},
        {"{'a': [{'b': 1}]}", "{'a': {'b': 1}}", true},
        /* Positions. */
        {"{'a': [5, 6]}", "{'a.0': 5}", true},
        {"{'a': [5, 6]}", "{'a.1': 5}", false},
        {"{'a': [5, 6]}", "{'a.2': null}", false},
        {"{'a': [5, 6]}", "{'a.00': 5}", false},
        {"{'a': [{'b': 5}, {'b': 6}]}", "{'a.1.b': 6}", true},
        {"{'a': [{'b': 5}, {'b': 6}]}", "{'a.0.b': 6}", false},
        {"{'a': [[1, 2], [3]]}", "{'a.0': 1}", false},
        {"{'a': [[1, 2], [3]]}", "{'a.0': [1, 2]}", true},
        {"{'a': [[1, 2], [3]]}", "{'a.0.1': 2}", true},
        {"{'a': [[1, 2], [3]]}", "{'a.1.0': 3}", true},
        {"{'a': [[[7]]]}", "{'a.0.0.0': 7}", true},
        {"{'a': {'0': 5}}", "{'a.0': 5}", true},
        {"{'a': [{'0': 5}]}", "{'a.0': 5}", true},
        {"{'a': [1, {'0': 5}]}", "{'a.0': 5}", true},
        {"{'a': [{'0': 5}]}", "{'a.0.0': 5}", true},
        {"{'a': [{'b': [9, {'c': 4}]}]}", "{'a.0.b.1.c': 4}", true},
        {"{'a': [{'b': [9, {'c': 4}]}]}", "{'a.b.c': 4}", true},
        {"{'a': [5]}", "{'a.0.b': null}", false},
        {"{'a': [5]}", "{'a.4294967296': 5}", false},
        {"{'a': [5]}", "{'a.-1': 5}", false},
        /* A scalar on the way ends the path. */
        {"{'a': 5}", "{'a.b': 5}", false},
        {"{'a': 'x'}", "{'a.0': 'x'}", false},
        {"{'a': {'b': 5}}", "{'a.b.c': {'$exists': false}}", true},
    };
    CHECK(cases);
}

Test(match, in)
{
    static const match_case_t cases[] = {
        {"{'a': 2}", "{'a': {'$in': [1, 2, 3]}}", true},
        {"{'a': 2.0}", "{'a': {'$in': [3, 2, 1]}}", true},
        {"{'a': 4}", "{'a': {'$in': [1, 2, 3]}}", false},
        {"{'a': 4}", "{'a': {'$in': []}}", false},
        {"{}", "{'a': {'$in': []}}", false},
        {"{'a': 4}", "{'a': {'$nin': []}}", true},
        {"{'a': [4, 2]}", "{'a': {'$in': [1, 2, 3]}}", true},
        {"{'a': [1, 2]}", "{'a': {'$in': [[1, 2], 'x']}}", true},
        {"{'a': 'abc'}",
         "{'a': {'$in': [1, {'$regularExpression': {'pattern': '^ab', 'options': ''}}]}}", true},
        {"{'a': 'xbc'}",
         "{'a': {'$in': [1, {'$regularExpression': {'pattern': '^ab', 'options': ''}}]}}", false},
        {"{'a': 'ABC'}",
         "{'a': {'$in': [{'$regularExpression': {'pattern': '^ab', 'options': 'i'}}]}}", true},
        {"{'a': 'abc'}",
         "{'a': {'$nin': [{'$regularExpression': {'pattern': '^ab', 'options': ''}}]}}", false},
        {"{'a': {'b': 1}}", "{'a': {'$in': [{'b': 1}]}}", true},
        {"{'a': {'%ref': 'c', '%id': 1}}", "{'a': {'$in': [{'%ref': 'c', '%id': 1}, 3]}}", true},
        {"{'a': {'$minKey': 1}}", "{'a': {'$in': [1, {'$minKey': 1}, 'x']}}", true},
        {"{'a': 5}", "{'a': {'$in': [1, {'$minKey': 1}, {'$maxKey': 1}]}}", false},
        {"{'a': {'$numberDouble': 'NaN'}}", "{'a': {'$in': [1, {'$numberDouble': 'NaN'}]}}", true},
        {"{'a': [1, 2]}", "{'a': {'$nin': [3, 4]}}", true},
        {"{'a': [1, 3]}", "{'a': {'$nin': [3, 4]}}", false},
        {"{'a': 1}", "{'a': {'$ne': 1}}", false},
        {"{'a': [1, 2]}", "{'a': {'$ne': 1}}", false},
        {"{'a': [2, 3]}", "{'a': {'$ne': 1}}", true},
        {"{'a': [{'b': 1}, {'b': 2}]}", "{'a.b': {'$ne': 2}}", false},
    };
    CHECK(cases);
}

Test(match, logic)
{
    static const match_case_t cases[] = {
        {"{'a': 1, 'b': 2}", "{'$and': [{'a': 1}, {'b': 2}]}", true},
        {"{'a': 1, 'b': 2}", "{'$and': [{'a': 1}, {'b': 3}]}", false},
        {"{'a': 1, 'b': 2}", "{'$or': [{'a': 9}, {'b': 2}]}", true},
        {"{'a': 1, 'b': 2}", "{'$or': [{'a': 9}, {'b': 9}]}", false},
        {"{'a': 1, 'b': 2}", "{'$nor': [{'a': 9}, {'b': 9}]}", true},
        {"{'a': 1, 'b': 2}", "{'$nor': [{'a': 9}, {'b': 2}]}", false},
        {"{'a': 1}", "{'$nor': [{'a': 1}]}", false},
        {"{'a': 1}", "{'$or': [{}]}", true},
        {"{'a': 1}", "{'$and': [{}, {}]}", true},
        {"{'a': 1}", "{'$nor': [{}]}", false},
        {"{'a': 1}", "{'a': 1, '$or': [{'a': 2}, {'$and': [{'a': 1}, {'b': null}]}]}", true},
        {"{'a': 5}", "{'a': {'$not': {'$gt': 4}}}", false},
        {"{'a': 5}", "{'a': {'$not': {'$gt': 6}}}", true},
        {"{'a': 5}", "{'a': {'$not': {'$gt': 4, '$lt': 5}}}", true},
        {"{'a': 5}", "{'a': {'$not': {'$not': {'$eq': 5}}}}", true},
        {"{'a': 'abc'}",
         "{'a': {'$not': {'$regularExpression': {'pattern': '^a', 'options': ''}}}}", false},
        {"{'a': 'abc'}", "{'a': {'$not': {'%regex': '^b'}}}", true},
        {"{'a': 'abc'}", "{'a': {'$not': {'%regex': '^A', '%options': 'i'}}}", false},
        {"{'a': [1, 9]}", "{'a': {'$not': {'$gt': 5}}}", false},
        {"{'a': [{'b': 1}]}", "{'a': {'$not': {'$elemMatch': {'b': 2}}}}", true},
        {"{'a': 1}", "{'$comment': 'why', 'a': 1}", true},
        {"{'a': 1}", "{'$comment': 'why'}", true},
        {"{'a': 1}", "{'$and': [{'$comment': {'x': 1}}]}", true},
        {"{'a': 1}", "{'$alwaysTrue': 1}", true},
        {"{'a': 1}", "{'$alwaysFalse': 1}", false},
        {"{'a': 1}", "{'$nor': [{'$alwaysFalse': 1}]}", true},
        {"{'a': 1}", "{'$sampleRate': 1.0}", true},
        {"{'a': 1}", "{'$sampleRate': 0}", false},
    };
    CHECK(cases);
}

Test(match, elem_match)
{
    static const match_case_t cases[] = {
        {"{'a': [{'b': 1, 'c': 2}]}", "{'a': {'$elemMatch': {'b': 1, 'c': 2}}}", true},
        {"{'a': [{'b': 1, 'c': 9}, {'b': 9, 'c': 2}]}", "{'a': {'$elemMatch': {'b': 1, 'c': 2}}}",
         false},
        {"{'a': [{'b': 1, 'c': 9}, {'b': 9, 'c': 2}]}", "{'a.b': 1, 'a.c': 2}", true},
        {"{'a': {'b': 1}}", "{'a': {'$elemMatch': {'b': 1}}}", false},
        {"{'a': [1, 2, 9]}", "{'a': {'$elemMatch': {'$gt': 5, '$lt': 10}}}", true},
        {"{'a': [1, 20]}", "{'a': {'$elemMatch': {'$gt': 5, '$lt': 10}}}", false},
        {"{'a': 9}", "{'a': {'$elemMatch': {'$gt': 5}}}", false},
        {"{'a': []}", "{'a': {'$elemMatch': {}}}", false},
        {"{'a': [1]}", "{'a': {'$elemMatch': {}}}", false},
        {"{'a': [{}]}", "{'a': {'$elemMatch': {}}}", true},
        {"{'a': [[]]}", "{'a': {'$elemMatch': {}}}", true},
        {"{'a': [[7, 8]]}", "{'a': {'$elemMatch': {'0': 7}}}", true},
        {"{'a': [[7, 8]]}", "{'a': {'$elemMatch': {'$eq': 7}}}", false},
        {"{'a': [[7, 8]]}", "{'a': {'$elemMatch': {'$elemMatch': {'$gt': 7}}}}", true},
        {"{'a': [[7, 8]]}", "{'a': {'$elemMatch': {'$size': 2}}}", true},
        {"{'a': [[7, 8]]}", "{'a': {'$elemMatch': {'$in': [[7, 8]]}}}", true},
        {"{'a': ['x', 5]}", "{'a': {'$elemMatch': {'%type': 'string'}}}", true},
        {"{'a': ['abc']}", "{'a': {'$elemMatch': {'%regex': 'B', '%options': 'i'}}}", true},
        {"{'a': [5]}", "{'a': {'$elemMatch': {'$not': {'$gt': 5}}}}", true},
        {"{'a': [5, 6]}", "{'a': {'$elemMatch': {'$ne': 5}}}", true},
        {"{'a': [5]}", "{'a': {'$elemMatch': {'$nin': [5]}}}", false},
        {"{'a': [5]}", "{'a': {'$elemMatch': {'$nin': []}}}", true},
        {"{'a': [5]}", "{'a': {'$elemMatch': {'$in': []}}}", false},
        {"{'a': [5]}", "{'a': {'$elemMatch': {'$gt': 1, '$all': []}}}", false},
        {"{'a': [5]}", "{'a': {'$elemMatch': {'$all': [5]}}}", true},
        {"{'a': [[5, 6]]}", "{'a': {'$elemMatch': {'$all': [5, 6]}}}", false},
        {"{'a': [null]}", "{'a': {'$elemMatch': {'$eq': null}}}", true},
        {"{'a': [1]}", "{'a': {'$elemMatch': {'$exists': true}}}", true},
        {"{'a': [{'b': 1}]}", "{'a': {'$elemMatch': {'$or': [{'b': 1}, {'c': 1}]}}}", true},
        {"{'a': [{'b': 2}]}", "{'a': {'$elemMatch': {'$and': [{'b': 1}, {'c': 1}]}}}", false},
        {"{'a': [{'b': 2}]}", "{'a': {'$elemMatch': {'$nor': [{'b': 1}]}}}", true},
        {"{'a': [{'b': [{'c': 3}]}]}", "{'a': {'$elemMatch': {'b': {'$elemMatch': {'c': 3}}}}}",
         true},
        {"{'a': [{'b': [1, 2]}]}", "{'a.b': {'$elemMatch': {'$gt': 1}}}", true},
        {"{'a': [{'b': 2}]}", "{'a.b': {'$elemMatch': {'$gt': 1}}}", false},
        {"{'a': [[1, 2]]}", "{'a.0': {'$elemMatch': {'$gt': 1}}}", true},
        {"{'a': [{'b': 1}]}", "{'a': {'$elemMatch': {'$jsonSchema': {'required': ['b']}}}}", true},
    };
    CHECK(cases);
}

Test(match, all_size_exists)
{
    static const match_case_t cases[] = {
        {"{'a': [1, 2, 3]}", "{'a': {'$all': [1, 3]}}", true},
        {"{'a': [1, 2, 3]}", "{'a': {'$all': [1, 4]}}", false},
        {"{'a': 1}", "{'a': {'$all': [1]}}", true},
        {"{'a': [1, 2]}", "{'a': {'$all': []}}", false},
        {"{'a': []}", "{'a': {'$all': []}}", false},
        {"{'a': [[1, 2]]}", "{'a': {'$all': [[1, 2]]}}", true},
        {"{'a': [1, 2]}", "{'a': {'$all': [[1, 2]]}}", true},
        {"{'a': ['abc', 'xyz']}",
         "{'a': {'$all': [{'$regularExpression': {'pattern': '^a', 'options': ''}}, 'xyz']}}",
         true},
        {"{}", "{'a': {'$all': [null]}}", true},
        {"{'a': [{'b': 1, 'c': 1}, {'b': 2}]}",
         "{'a': {'$all': [{'$elemMatch': {'b': 1, 'c': 1}}, {'$elemMatch': {'b': 2}}]}}", true},
        {"{'a': [{'b': 1, 'c': 2}, {'b': 2}]}",
         "{'a': {'$all': [{'$elemMatch': {'b': 1, 'c': 1}}, {'$elemMatch': {'b': 2}}]}}", false},
        {"{'a': [1, 9]}",
         "{'a': {'$all': [{'$elemMatch': {'$lt': 3}}, {'$elemMatch': {'$gt': 5}}]}}", true},
        {"{'a': [1, 2]}", "{'a': {'$size': 2}}", true},
        {"{'a': [1, 2]}", "{'a': {'$size': 2.0}}", true},
        {"{'a': [1, 2]}", "{'a': {'$size': {'$numberLong': '2'}}}", true},
        {"{'a': [1, 2]}", "{'a': {'$size': 1}}", false},
        {"{'a': []}", "{'a': {'$size': 0}}", true},
        {"{}", "{'a': {'$size': 0}}", false},
        {"{'a': 'xy'}", "{'a': {'$size': 2}}", false},
        {"{'a': [[1, 2], 3, 4]}", "{'a': {'$size': 2}}", false},
        {"{'a': [{'b': [1, 2]}]}", "{'a.b': {'$size': 2}}", true},
        {"{'a': 1}", "{'a': {'$exists': true}}", true},
        {"{'a': null}", "{'a': {'$exists': true}}", true},
        {"{'a': []}", "{'a': {'$exists': true}}", true},
        {"{}", "{'a': {'$exists': true}}", false},
        {"{}", "{'a': {'$exists': false}}", true},
        {"{'a': 1}", "{'a': {'$exists': 1}}", true},
        {"{}", "{'a': {'$exists': 0}}", true},
        {"{'a': 1}", "{'a': {'$exists': 0.0}}", false},
        {"{}", "{'a': {'$exists': null}}", true},
        {"{'a': 1}", "{'a': {'$exists': 'no'}}", true},
        {"{'a': 1}", "{'a': {'$exists': []}}", true},
        {"{'a': [{'b': 1}, 5]}", "{'a.b': {'$exists': true}}", true},
        {"{'a': [5]}", "{'a.b': {'$exists': true}}", false},
        {"{'a': [5]}", "{'a.0': {'$exists': true}}", true},
        {"{'a': [5]}", "{'a.1': {'$exists': true}}", false},
    };
    CHECK(cases);
}

Test(match, types)
{
    static const match_case_t cases[] = {
        {"{'a': 1}", "{'a': {'%type': 'int'}}", true},
        {"{'a': 1}", "{'a': {'%type': 16}}", true},
        {"{'a': 1}", "{'a': {'%type': 16.0}}", true},
        {"{'a': 1}", "{'a': {'%type': 'long'}}", false},
        {"{'a': 1}", "{'a': {'%type': 'number'}}", true},
        {"{'a': 1.5}", "{'a': {'%type': 'number'}}", true},
        {"{'a': {'$numberDecimal': '1'}}", "{'a': {'%type': 'number'}}", true},
        {"{'a': {'$numberDecimal': '1'}}", "{'a': {'%type': 'decimal'}}", true},
        {"{'a': 'x'}", "{'a': {'%type': 'number'}}", false},
        {"{'a': 'x'}", "{'a': {'%type': 2}}", true},
        {"{'a': 'x'}", "{'a': {'%type': ['int', 'string']}}", true},
        {"{'a': true}", "{'a': {'%type': ['int', 2]}}", false},
        {"{'a': true}", "{'a': {'%type': 'bool'}}", true},
        {"{'a': null}", "{'a': {'%type': 'null'}}", true},
        {"{}", "{'a': {'%type': 'null'}}", false},
        {"{'a': {}}", "{'a': {'%type': 'object'}}", true},
        {"{'a': []}", "{'a': {'%type': 'array'}}", true},
        {"{'a': [1]}", "{'a': {'%type': 'array'}}", true},
        {"{'a': [1, 'x']}", "{'a': {'%type': 'string'}}", true},
        {"{'a': [[1]]}", "{'a.0': {'%type': 'array'}}", true},
        {"{'a': {'$minKey': 1}}", "{'a': {'%type': 'minKey'}}", true},
        {"{'a': {'$minKey': 1}}", "{'a': {'%type': -1}}", true},
        {"{'a': {'$maxKey': 1}}", "{'a': {'%type': 127}}", true},
        {"{'a': {'$maxKey': 1}}", "{'a': {'%type': 'minKey'}}", false},
        {"{'a': {'$undefined': true}}", "{'a': {'%type': 'undefined'}}", true},
        {"{'a': {'$undefined': true}}", "{'a': {'%type': 6}}", true},
        {"{'a': {'$oid': '507f1f77bcf86cd799439011'}}", "{'a': {'%type': 'objectId'}}", true},
        {"{'a': {'$date': {'$numberLong': '5'}}}", "{'a': {'%type': 'date'}}", true},
        {"{'a': {'$timestamp': {'t': 5, 'i': 1}}}", "{'a': {'%type': 'timestamp'}}", true},
        {"{'a': {'$regularExpression': {'pattern': 'x', 'options': ''}}}",
         "{'a': {'%type': 'regex'}}", true},
        {"{'a': {'$binary': {'base64': 'AQI=', 'subType': '00'}}}", "{'a': {'%type': 'binData'}}",
         true},
        {"{'a': {'$code': 'x'}}", "{'a': {'%type': 'javascript'}}", true},
        {"{'a': {'$symbol': 'x'}}", "{'a': {'%type': 'symbol'}}", true},
    };
    CHECK(cases);
}

Test(match, regex_operator)
{
    static const match_case_t cases[] = {
        {"{'a': 'hello'}", "{'a': {'%regex': 'ell'}}", true},
        {"{'a': 'hello'}", "{'a': {'%regex': '^ell'}}", false},
        {"{'a': 'HELLO'}", "{'a': {'%regex': 'ell', '%options': 'i'}}", true},
        {"{'a': 'HELLO'}", "{'a': {'%options': 'i', '%regex': 'ell'}}", true},
        {"{'a': 'HELLO'}",
         "{'a': {'%regex': {'$regularExpression': {'pattern': 'ell', 'options': 'i'}}}}", true},
        {"{'a': 'HELLO'}",
         "{'a': {'%regex': {'$regularExpression': {'pattern': 'ell', 'options': ''}}, '%options': "
         "'i'}}",
         true},
        {"{'a': 'HELLO'}", "{'a': {'$regularExpression': {'pattern': 'ell', 'options': 'i'}}}",
         true},
        {"{'a': 'x\\ny'}", "{'a': {'%regex': '^y'}}", false},
        {"{'a': 'x\\ny'}", "{'a': {'%regex': '^y', '%options': 'm'}}", true},
        {"{'a': 'x\\ny'}", "{'a': {'%regex': 'x.y'}}", false},
        {"{'a': 'x\\ny'}", "{'a': {'%regex': 'x.y', '%options': 's'}}", true},
        {"{'a': 'xy'}", "{'a': {'%regex': 'x y # both', '%options': 'x'}}", true},
        {"{'a': 'xy'}", "{'a': {'%regex': 'xy', '%options': 'imsxu'}}", true},
        {"{'a': ''}", "{'a': {'%regex': ''}}", true},
        {"{'a': 5}", "{'a': {'%regex': '5'}}", false},
        {"{'a': ['x', 'hello']}", "{'a': {'%regex': 'ell'}}", true},
        {"{'a': {'$symbol': 'hello'}}", "{'a': {'%regex': 'ell'}}", true},
        {"{'a': {'$regularExpression': {'pattern': 'ell', 'options': 'i'}}}",
         "{'a': {'$regularExpression': {'pattern': 'ell', 'options': 'i'}}}", true},
        {"{'a': {'$regularExpression': {'pattern': 'ell', 'options': 'i'}}}",
         "{'a': {'$regularExpression': {'pattern': 'ell', 'options': ''}}}", false},
        {"{'a': 'gr\\u00fcn'}", "{'a': {'%regex': '^gr.n$'}}", true},
        {"{'a': 'GR\\u00dcN'}", "{'a': {'%regex': 'gr\\u00fcn', '%options': 'i'}}", true},
        {"{'a': 'abcd'}", "{'a': {'%regex': 'a', '$gt': 'abb'}}", true},
        {"{'a': 'abcd'}", "{'a': {'%regex': 'a', '$gt': 'b'}}", false},
        {"{}", "{'a': {'%regex': ''}}", false},
    };
    CHECK(cases);
}

Test(match, mod)
{
    static const match_case_t cases[] = {
        {"{'a': 12}", "{'a': {'$mod': [4, 0]}}", true},
        {"{'a': 13}", "{'a': {'$mod': [4, 0]}}", false},
        {"{'a': 13.9}", "{'a': {'$mod': [4, 1]}}", true},
        {"{'a': 13}", "{'a': {'$mod': [4.9, 1.9]}}", true},
        {"{'a': -13}", "{'a': {'$mod': [4, -1]}}", true},
        {"{'a': -13}", "{'a': {'$mod': [4, 3]}}", false},
        {"{'a': {'$numberDecimal': '13.9'}}", "{'a': {'$mod': [4, 1]}}", true},
        {"{'a': {'$numberDecimal': 'NaN'}}", "{'a': {'$mod': [4, 0]}}", false},
        {"{'a': {'$numberDecimal': '1E400'}}", "{'a': {'$mod': [4, 0]}}", false},
        {"{'a': {'$numberDouble': 'Infinity'}}", "{'a': {'$mod': [4, 0]}}", false},
        {"{'a': 1e300}", "{'a': {'$mod': [4, 0]}}", false},
        {"{'a': 'x'}", "{'a': {'$mod': [4, 0]}}", false},
        {"{'a': null}", "{'a': {'$mod': [4, 0]}}", false},
        {"{'a': [3, 4]}", "{'a': {'$mod': [4, 0]}}", true},
        {"{'a': {'$numberLong': '-9223372036854775808'}}", "{'a': {'$mod': [-1, 0]}}", true},
        {"{'a': {'$numberLong': '9223372036854775807'}}", "{'a': {'$mod': [10, 7]}}", true},
    };
    CHECK(cases);
}

Test(match, bits)
{
    static const match_case_t cases[] = {
        {"{'a': 54}", "{'a': {'$bitsAllSet': 50}}", true},
        {"{'a': 54}", "{'a': {'$bitsAllSet': [1, 5]}}", true},
        {"{'a': 54}", "{'a': {'$bitsAllSet': [0]}}", false},
        {"{'a': 54}", "{'a': {'$bitsAllClear': [0, 3]}}", true},
        {"{'a': 54}", "{'a': {'$bitsAllClear': 9}}", true},
        {"{'a': 54}", "{'a': {'$bitsAllClear': 10}}", false},
        {"{'a': 54}", "{'a': {'$bitsAnySet': [0, 1]}}", true},
        {"{'a': 54}", "{'a': {'$bitsAnySet': 9}}", false},
        {"{'a': 54}", "{'a': {'$bitsAnyClear': [0, 1]}}", true},
        {"{'a': 54}", "{'a': {'$bitsAnyClear': 54}}", false},
        {"{'a': 54}", "{'a': {'$bitsAllSet': {'$binary': {'base64': 'MA==', 'subType': '00'}}}}",
         true},
        {"{'a': 54.0}", "{'a': {'$bitsAllSet': 54}}", true},
        {"{'a': 54.5}", "{'a': {'$bitsAllSet': 54}}", false},
        {"{'a': {'$numberDouble': 'NaN'}}", "{'a': {'$bitsAllClear': 1}}", false},
        {"{'a': 1e300}", "{'a': {'$bitsAllClear': 1}}", false},
        {"{'a': {'$numberDecimal': '54'}}", "{'a': {'$bitsAllSet': 54}}", true},
        {"{'a': 'x'}", "{'a': {'$bitsAllClear': 1}}", false},
        {"{}", "{'a': {'$bitsAllClear': 1}}", false},
        /* The sign goes on behind the 64th bit of a number; behind a binary there are zeros. */
        {"{'a': -1}", "{'a': {'$bitsAllSet': [63, 64, 200, 2147483647]}}", true},
        {"{'a': 1}", "{'a': {'$bitsAllClear': [63, 64, 200]}}", true},
        {"{'a': {'$binary': {'base64': '/w==', 'subType': '00'}}}",
         "{'a': {'$bitsAllSet': [0, 7]}}", true},
        {"{'a': {'$binary': {'base64': '/w==', 'subType': '00'}}}", "{'a': {'$bitsAllClear': [8]}}",
         true},
        {"{'a': {'$binary': {'base64': 'AQI=', 'subType': '00'}}}",
         "{'a': {'$bitsAllSet': [0, 9]}}", true},
        {"{'a': {'$binary': {'base64': 'AQI=', 'subType': '00'}}}", "{'a': {'$bitsAllSet': 513}}",
         true},
        {"{'a': 5}", "{'a': {'$bitsAllSet': []}}", true},
        {"{'a': 5}", "{'a': {'$bitsAnySet': []}}", false},
        {"{'a': 5}", "{'a': {'$bitsAllSet': 0}}", true},
        {"{'a': [2, 8]}", "{'a': {'$bitsAllSet': 8}}", true},
    };
    CHECK(cases);
}

Test(match, expressions)
{
    static const match_case_t cases[] = {
        {"{'a': 5, 'b': 3}", "{'$expr': {'$gt': ['$a', '$b']}}", true},
        {"{'a': 5, 'b': 8}", "{'$expr': {'$gt': ['$a', '$b']}}", false},
        {"{'a': 5, 'b': 8}", "{'$expr': '$c'}", false},
        {"{'a': 5, 'b': 8}", "{'a': 5, '$expr': {'$eq': ['$b', 8]}}", true},
        {"{'a': 5, 'b': 8}", "{'$or': [{'a': 6}, {'$expr': {'$eq': ['$b', 8]}}]}", true},
        {"{'a': 5, 'b': 8}", "{'$nor': [{'$expr': {'$eq': ['$b', 8]}}]}", false},
    };
    CHECK(cases);
}

/* What `$` in an update or projection stands for. */
Test(match, array_positions)
{
    static const struct {
        const char *document, *filter;
        int64_t position;
    } cases[] = {
        {"{'a': [1, 2, 3]}", "{'a': 2}", 1},
        {"{'a': 2}", "{'a': 2}", -1},
        {"{'a': [1, 2]}", "{'a': [1, 2]}", -1},
        {"{'a': [1, 2, 3]}", "{'a': {'$gt': 1}}", 1},
        {"{'a': [1, 2, 3]}", "{'a': {'$in': [3, 9]}}", 2},
        {"{'a': [{'b': 1}, {'b': 2}]}", "{'a.b': 2}", 1},
        {"{'a': [{'b': [5]}, {'b': [6, 7]}]}", "{'a.b': 7}", 1},
        {"{'a': {'b': [5, 6]}}", "{'a.b': 6}", 1},
        {"{'a': [{'b': 1}, {'b': 2}]}", "{'a': {'$elemMatch': {'b': 2}}}", 1},
        {"{'a': [{'b': [1, 2]}, {'b': [3, 4]}]}", "{'a.b': {'$elemMatch': {'$eq': 4}}}", 1},
        {"{'a': {'b': [3, 4]}}", "{'a.b': {'$elemMatch': {'$eq': 4}}}", 1},
        {"{'a': [1, 2], 'b': [3, 4]}", "{'a': 1, 'b': 4}", 1},
        {"{'a': [1, 2], 'b': 5}", "{'a': 2, 'b': 5}", 1},
        {"{'a': [1, 2]}", "{'$or': [{'a': 9}, {'a': 2}]}", 1},
        {"{'a': [1, 2]}", "{'a': {'$ne': 9}}", -1},
        {"{'a': [1, 2]}", "{'a.1': 2}", -1},
        {"{'a': [1, 2], 'b': 1}", "{'$nor': [{'a': 2, 'b': 9}]}", -1},
        {"{'a': [1, 2], 'b': 1}", "{'$or': [{'a': 2, 'b': 9}, {'b': 1}]}", -1},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        int64_t position = 99;
        cr_expect(match_json(arena, cases[i].document, cases[i].filter, &position));
        cr_expect(position == cases[i].position, "%s | %s: %lld", cases[i].document,
                  cases[i].filter, (long long)position);
    }
    int64_t position = 99;
    cr_expect(!match_json(arena, "{'a': [1, 2], 'b': 1}", "{'a': 2, 'b': 2}", &position));
    cr_expect_eq(position, -1);
    vd_arena_destroy(&arena);
}

/* $pull's conditions. */
Test(match, values)
{
    static const struct {
        const char *value, *predicate;
        bool expected;
    } cases[] = {
        {"5", "{'$gte': 3}", true},
        {"5", "{'$gte': 6}", false},
        {"5", "{'$in': [1, 5]}", true},
        {"5", "{'$nin': [1, 5]}", false},
        {"5", "{'$nin': []}", true},
        {"'abc'", "{'%regex': '^a'}", true},
        {"[1, 9]", "{'$gte': 3}", true},
        {"[1, 9]", "{'$size': 2}", true},
        {"[[1], 9]", "{'$elemMatch': {'$eq': 1}}", false},
        {"[1, 9]", "{'$elemMatch': {'$eq': 1}}", true},
        {"5", "{'$not': {'$gt': 3}}", false},
        {"5", "{'$ne': 6}", true},
        {"{'b': 1, 'c': 2}", "{'b': 1}", true},
        {"{'b': 1, 'c': 2}", "{'b': {'$gt': 1}}", false},
        {"{'b': 1, 'c': 2}", "{'$or': [{'b': 7}, {'c': 2}]}", true},
        {"{'b': 1, 'c': 2}", "{}", true},
        {"5", "{}", false},
        {"5", "{'b': {'$ne': 1}}", false},
        {"5", "{'b': null}", false},
        {"[{'b': 1}]", "{'b': 1}", false},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_filter_t *tree = NULL;
        bool matches = false;
        stor_match_t match = {.arena = arena};
        int rc = stor_filter_parse_value(arena, query_json(arena, cases[i].predicate), NULL, &tree,
                                         &err);
        cr_assert(rc == VD_OK, "%s: %s", cases[i].predicate, err.message);
        rc = stor_match_value(tree, query_value(arena, cases[i].value), &match, &matches, &err);
        cr_assert_eq(rc, VD_OK);
        cr_expect(matches == cases[i].expected, "%s | %s", cases[i].value, cases[i].predicate);
    }
    vd_arena_destroy(&arena);
}

typedef struct {
    vd_arena_t *arena;
    char text[256];
} walked_t;

static bool walked_add(vd_value_t value, int64_t array_position, void *context)
{
    walked_t *walked = context;
    size_t len = strlen(walked->text);
    const char *json =
        value.type == VD_BSON_MISSING ? "missing" : vd_value_to_json(walked->arena, value, 64);
    (void)snprintf(walked->text + len, sizeof walked->text - len, "%s@%lld ", json,
                   (long long)array_position);
    return false;
}

Test(match, path_walk)
{
    static const struct {
        const char *document, *path;
        bool expand;
        const char *expected;
    } cases[] = {
        {"{'a': true}", "a", true, "true@-1 "},
        {"{}", "a", true, "missing@-1 "},
        {"{'a': true}", "a.b", true, "missing@-1 "},
        {"{'a': [true, false]}", "a.b", true, ""},
        {"{'a': [{}, true]}", "a.b", true, "missing@0 "},
        {"{'a': [{'b': true}, {'b': false}]}", "a.b", true, "true@0 false@1 "},
        {"{'a': [{'0': true}]}", "a.0.0", true, "true@-1 "},
        {"{'a': [{'b': true}, {'b': false}]}", "a.1.b", true, "false@-1 "},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_path_t path;
        stor_path_split(arena, vd_slice_str(cases[i].path), &path);
        walked_t walked = {arena, ""};
        cr_expect(!stor_path_walk(&path, query_json(arena, cases[i].document), cases[i].expand,
                                  walked_add, &walked));
        cr_expect_str_eq(walked.text, cases[i].expected, "%s %s: %s", cases[i].document,
                         cases[i].path, walked.text);
    }
    vd_arena_destroy(&arena);
}

Test(match, path_split)
{
    vd_arena_t *arena = vd_arena_create();
    stor_path_t path;
    stor_path_split(arena, VD_SLICE_LIT("a.10.01..x"), &path);
    cr_assert_eq(path.count, 5);
    cr_expect(vd_slice_is(path.parts[1], "10") && vd_slice_is(path.parts[3], ""));
    static const int64_t expected[] = {-1, 10, -1, -1, -1};
    for (int i = 0; i < 5; i++)
        cr_expect_eq(path.positions[i], expected[i]);
    vd_arena_destroy(&arena);
}

/* Numeric names inside nested arrays can be reached in very many ways; the walk must stay short. */
Test(match, hostile_paths, .timeout = 300)
{
    vd_arena_t *arena = vd_arena_create();
    char document[4096] = "", path[4096] = "a", closing[4096] = "";
    strcat(document, "{'a': ");
    for (int i = 0; i < 40; i++) {
        strcat(document, "[{'0': ");
        strcat(closing, "}]");
        strcat(path, ".0.0");
    }
    path[1 + 2 * 60] = 0; /* some way between all as fields and all as positions */
    strcat(document, "1");
    strcat(document, closing);
    strcat(document, "}");
    char filter[8192];
    (void)snprintf(filter, sizeof filter, "{'%s': 12345}", path);
    cr_expect(!match_json(arena, document, filter, NULL));
    vd_arena_destroy(&arena);
}
