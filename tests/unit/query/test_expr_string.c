/* tests/unit/query/test_expr_string.c — strings and regular expressions. */
#include "tests/unit/query/expr_cases.h"

Test(expr_string, join_and_case)
{
    static const expr_case_t cases[] = {
        {"{'item': 'ABC1', 'description': 'product 1'}",
         "{'$concat': ['$item', ' - ', '$description']}", "'ABC1 - product 1'", 0},
        {"{'a': 'x'}", "{'$concat': ['$a', '$b']}", "null", 0},
        {NULL, "{'$concat': []}", "''", 0},
        {NULL, "{'$concat': ['a', 1]}", NULL, 16702},
        {NULL, "{'$toUpper': 'abcÃŸ9'}", "'ABCÃŸ9'", 0},
        {NULL, "{'$toLower': 'ABC'}", "'abc'", 0},
        {NULL, "{'$toUpper': '$none'}", "''", 0},
        {NULL, "{'$toLower': 12}", "'12'", 0},
        {NULL, "{'$toUpper': {'$date': {'$numberLong': '0'}}}", "'1970-01-01T00:00:00.000Z'", 0},
        {NULL, "{'$toUpper': [[1]]}", NULL, 16007},
        {NULL, "{'$strcasecmp': ['abc', 'ABC']}", "0", 0},
        {NULL, "{'$strcasecmp': ['abc', 'ABD']}", "-1", 0},
        {NULL, "{'$strcasecmp': ['b', 'ABD']}", "1", 0},
        {NULL, "{'$strcasecmp': ['a', null]}", "1", 0},
    };
    EXPR_CHECK(cases);
}

Test(expr_string, cut)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$substr': ['13Q1', 0, 2]}", "'13'", 0},
        {NULL, "{'$substrBytes': ['13Q1', 2, -1]}", "'Q1'", 0},
        {NULL, "{'$substrBytes': ['abc', 5, 1]}", "''", 0},
        {NULL, "{'$substrBytes': ['abc', 1, 100]}", "'bc'", 0},
        {NULL, "{'$substrBytes': [null, 0, 1]}", "''", 0},
        {NULL, "{'$substrBytes': [1234, 1, 2]}", "'23'", 0},
        {NULL, "{'$substrBytes': ['\\u00e9x', 1, 1]}", NULL, 28656},
        {NULL, "{'$substrBytes': ['\\u00e9x', 0, 1]}", NULL, 28657},
        {NULL, "{'$substrBytes': ['abc', -1, 1]}", NULL, 50752},
        {NULL, "{'$substrBytes': ['abc', 'x', 1]}", NULL, 16034},
        {NULL, "{'$substrBytes': ['abc', 1, 'x']}", NULL, 16035},
        {NULL, "{'$substrCP': ['\\u00e9xyz', 1, 2]}", "'xy'", 0},
        {NULL, "{'$substrCP': ['abc', 9, 2]}", "''", 0},
        {NULL, "{'$substrCP': ['\\u5bff\\u53f8', 1, 9]}", "'\\u53f8'", 0},
        {NULL, "{'$substrCP': ['abc', 'x', 1]}", NULL, 34450},
        {NULL, "{'$substrCP': ['abc', 1.5, 1]}", NULL, 34451},
        {NULL, "{'$substrCP': ['abc', 1, 'x']}", NULL, 34452},
        {NULL, "{'$substrCP': ['abc', 1, 1.5]}", NULL, 34453},
        {NULL, "{'$substrCP': ['abc', 1, -1]}", NULL, 34454},
        {NULL, "{'$substrCP': ['abc', -1, 1]}", NULL, 34455},
        {NULL, "{'$strLenBytes': 'caf\\u00e9'}", "5", 0},
        {NULL, "{'$strLenCP': 'caf\\u00e9'}", "4", 0},
        {NULL, "{'$strLenBytes': 1}", NULL, 34473},
        {NULL, "{'$strLenCP': '$none'}", NULL, 34471},
        {NULL, "{'$binarySize': {'$binary': {'base64': 'AAEC', 'subType': '00'}}}", "3", 0},
        {NULL, "{'$binarySize': 'abcd'}", "4", 0},
        {NULL, "{'$binarySize': '$none'}", "null", 0},
        {NULL, "{'$binarySize': 1}", NULL, 51276},
    };
    EXPR_CHECK(cases);
}

Test(expr_string, split_and_index)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$split': ['June-15-2013', '-']}", "['June', '15', '2013']", 0},
        {NULL, "{'$split': ['banana split', 'a']}", "['b', 'n', 'n', ' split']", 0},
        {NULL, "{'$split': ['astronomical', 'astro']}", "['', 'nomical']", 0},
        {NULL, "{'$split': ['pea green boat', 'owl']}", "['pea green boat']", 0},
        {NULL, "{'$split': ['', 'x']}", "['']", 0},
        {NULL, "{'$split': ['$none', 'x']}", "null", 0},
        {NULL, "{'$split': ['a', '']}", NULL, 40087},
        {NULL, "{'$split': [1, 'x']}", NULL, 40085},
        {NULL, "{'$split': ['a', 7]}", NULL, 40086},
        {NULL, "{'$indexOfBytes': ['cafeteria', 'e']}", "3", 0},
        {NULL, "{'$indexOfBytes': ['foo.bar.fi', '.', 5]}", "7", 0},
        {NULL, "{'$indexOfBytes': ['foo.bar', '.', 0, 2]}", "-1", 0},
        {NULL, "{'$indexOfBytes': ['vanilla', 'll', 12]}", "-1", 0},
        {NULL, "{'$indexOfBytes': ['vanilla', '']}", "0", 0},
        {NULL, "{'$indexOfBytes': [null, 'x']}", "null", 0},
        {NULL, "{'$indexOfBytes': [1, 'x']}", NULL, 40091},
        {NULL, "{'$indexOfBytes': ['x', 1]}", NULL, 40092},
        {NULL, "{'$indexOfBytes': ['x', 'x', -1]}", NULL, 40097},
        {NULL, "{'$indexOfBytes': ['x', 'x', 1.5]}", NULL, 40096},
        {NULL, "{'$indexOfCP': ['\\u00e9a\\u00e9b', 'b']}", "3", 0},
        {NULL, "{'$indexOfCP': ['\\u00e9a\\u00e9b', '\\u00e9', 1]}", "2", 0},
        {NULL, "{'$indexOfCP': ['abc', 'c', 0, 2]}", "-1", 0},
        {NULL, "{'$indexOfCP': ['', '']}", "0", 0},
        {NULL, "{'$indexOfCP': [1, '']}", NULL, 40093},
    };
    EXPR_CHECK(cases);
}

Test(expr_string, trim_and_replace)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$trim': {'input': '  \\n good  bye \\t  '}}", "'good  bye'", 0},
        {NULL, "{'$trim': {'input': ' ggggoodbyeeeee', 'chars': 'ge'}}", "' ggggoodby'", 0},
        {NULL, "{'$trim': {'input': ' ggggoodbyeeeee', 'chars': ' ge'}}", "'oodby'", 0},
        {NULL, "{'$ltrim': {'input': '  x  '}}", "'x  '", 0},
        {NULL, "{'$rtrim': {'input': '  x  '}}", "'  x'", 0},
        {NULL, "{'$trim': {'input': '\\u00a0x\\u2003'}}", "'x'", 0},
        {NULL, "{'$trim': {'input': 'aaa', 'chars': 'a'}}", "''", 0},
        {NULL, "{'$trim': {'input': '\\u00e9x\\u00e9', 'chars': '\\u00e9'}}", "'x'", 0},
        {NULL, "{'$trim': {'input': null}}", "null", 0},
        {NULL, "{'$trim': {'input': 'x', 'chars': '$none'}}", "null", 0},
        {NULL, "{'$trim': {'input': 1}}", NULL, 50699},
        {NULL, "{'$trim': {'input': 'a', 'chars': 1}}", NULL, 50700},
        {NULL, "{'$trim': 'x'}", NULL, 50696},
        {NULL, "{'$trim': {'chars': 'x'}}", NULL, 50695},
        {NULL, "{'$trim': {'input': 'x', 'y': 1}}", NULL, 50694},
        {NULL,
         "{'$replaceOne': {'input': 'blue paint, blue', 'find': 'blue', 'replacement': 'red'}}",
         "'red paint, blue'", 0},
        {NULL,
         "{'$replaceAll': {'input': 'blue paint, blue', 'find': 'blue', 'replacement': 'red'}}",
         "'red paint, red'", 0},
        {NULL, "{'$replaceAll': {'input': 'aaa', 'find': 'aa', 'replacement': 'b'}}", "'ba'", 0},
        {NULL, "{'$replaceAll': {'input': 'abc', 'find': '', 'replacement': '-'}}", "'-a-b-c-'", 0},
        {NULL, "{'$replaceOne': {'input': 'abc', 'find': '', 'replacement': '-'}}", "'-abc'", 0},
        {NULL, "{'$replaceAll': {'input': '', 'find': '', 'replacement': '-'}}", "'-'", 0},
        {NULL, "{'$replaceAll': {'input': 'abc', 'find': 'x', 'replacement': '-'}}", "'abc'", 0},
        {NULL, "{'$replaceOne': {'input': '$none', 'find': 'x', 'replacement': '-'}}", "null", 0},
        {NULL, "{'$replaceOne': {'input': 1, 'find': 'x', 'replacement': '-'}}", NULL, 51746},
        {NULL, "{'$replaceOne': {'input': 'x', 'find': 1, 'replacement': '-'}}", NULL, 51745},
        {NULL, "{'$replaceOne': {'input': 'x', 'find': 'x', 'replacement': 1}}", NULL, 51744},
        {NULL, "{'$replaceOne': {'input': 'x', 'find': 'x'}}", NULL, 51747},
        {NULL, "{'$replaceOne': {'input': 'x', 'replacement': 'x'}}", NULL, 51748},
        {NULL, "{'$replaceOne': {'find': 'x', 'replacement': 'x'}}", NULL, 51749},
        {NULL, "{'$replaceOne': {'find': 'x', 'z': 'x'}}", NULL, 51750},
        {NULL, "{'$replaceOne': 1}", NULL, 51751},
    };
    EXPR_CHECK(cases);
}

Test(expr_string, regular_expressions)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$regexMatch': {'input': 'caf\\u00e9 Line', 'regex': 'line', 'options': 'i'}}",
         "true", 0},
        {NULL, "{'$regexMatch': {'input': 'x', 'regex': 'y'}}", "false", 0},
        {NULL, "{'$regexMatch': {'input': null, 'regex': 'y'}}", "false", 0},
        {"{'p': 'A'}", "{'$regexMatch': {'input': 'BA', 'regex': '$p'}}", "true", 0},
        {NULL,
         "{'$regexMatch': {'input': 'xLINEx', 'regex': {'$regularExpression': {'pattern': 'line', "
         "'options': 'i'}}}}",
         "true", 0},
        {NULL, "{'$regexFind': {'input': 'caf\\u00e9t\\u00e9ria', 'regex': '(t)(z)?'}}",
         "{'match': 't', 'idx': 4, 'captures': ['t', null]}", 0},
        {NULL, "{'$regexFind': {'input': 'abc', 'regex': 'x'}}", "null", 0},
        {NULL, "{'$regexFind': {'input': 'abc', 'regex': null}}", "null", 0},
        {NULL, "{'$regexFindAll': {'input': 'a1b22', 'regex': '[0-9]+'}}",
         "[{'match': '1', 'idx': 1, 'captures': []}, {'match': '22', 'idx': 3, 'captures': []}]",
         0},
        {NULL, "{'$regexFindAll': {'input': '\\u00e9a\\u00e9a', 'regex': 'a'}}",
         "[{'match': 'a', 'idx': 1, 'captures': []}, {'match': 'a', 'idx': 3, 'captures': []}]", 0},
        {NULL, "{'$regexFindAll': {'input': 'ab', 'regex': 'x*'}}",
         "[{'match': '', 'idx': 0, 'captures': []}, {'match': '', 'idx': 1, 'captures': []}]", 0},
        {NULL, "{'$regexFindAll': {'input': '', 'regex': 'x*'}}",
         "[{'match': '', 'idx': 0, 'captures': []}]", 0},
        {NULL, "{'$regexFindAll': {'input': '$none', 'regex': 'x*'}}", "[]", 0},
        {NULL, "{'$regexFind': 1}", NULL, 51103},
        {NULL, "{'$regexFind': {'regex': 'a'}}", NULL, 31022},
        {NULL, "{'$regexFind': {'input': 'a'}}", NULL, 31023},
        {NULL, "{'$regexFind': {'input': 'a', 'regex': 'a', 'x': 1}}", NULL, 31024},
        {NULL, "{'$regexFind': {'input': 1, 'regex': 'a'}}", NULL, 51104},
        {NULL, "{'$regexFind': {'input': 'a', 'regex': 1}}", NULL, 51105},
        {NULL, "{'$regexFind': {'input': 'a', 'regex': 'a', 'options': 1}}", NULL, 51106},
        {NULL,
         "{'$regexFind': {'input': 'a', 'regex': {'$regularExpression': {'pattern': 'a', "
         "'options': 'i'}}, 'options': 'i'}}",
         NULL, 51107},
        {NULL, "{'$regexFind': {'input': 'a', 'regex': 'a', 'options': 'q'}}", NULL, 51108},
        {NULL, "{'$regexFind': {'input': 'a', 'regex': 'a\\u0000b'}}", NULL, 51109},
        {NULL, "{'$regexFind': {'input': 'a', 'regex': '(a'}}", NULL, 51111},
    };
    EXPR_CHECK(cases);
}
