/* tests/unit/query/test_expr_convert.c — $convert and its short forms. */
#include "tests/unit/query/expr_cases.h"

#define L(n)    "{'$numberLong': '" #n "'}"
#define D(n)    "{'$numberDecimal': '" #n "'}"
#define DATE(n) "{'$date': {'$numberLong': '" #n "'}}"

Test(expr_convert, numbers)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$toInt': true}", "1", 0},
        {NULL, "{'$toInt': 1.99999}", "1", 0},
        {NULL, "{'$toInt': -5.5}", "-5", 0},
        {NULL, "{'$toInt': " D(5.9) "}", "5", 0},
        {NULL, "{'$toInt': '-2'}", "-2", 0},
        {NULL, "{'$toInt': '+7'}", "7", 0},
        {NULL, "{'$toInt': '2.5'}", NULL, 241},
        {NULL, "{'$toInt': ''}", NULL, 241},
        {NULL, "{'$toInt': ' 1'}", NULL, 241},
        {NULL, "{'$toInt': '0x1F'}", NULL, 241},
        {NULL, "{'$toInt': '2147483648'}", NULL, 241},
        {NULL, "{'$toInt': " L(2147483648) "}", NULL, 241},
        {NULL, "{'$toInt': 2147483648.0}", NULL, 241},
        {NULL, "{'$toInt': " D(1E3) "}", "1000", 0},
        {NULL, "{'$toInt': " D(1E30) "}", NULL, 241},
        {NULL, "{'$toInt': {'$numberDouble': 'NaN'}}", NULL, 241},
        {NULL, "{'$toInt': {'$numberDouble': 'Infinity'}}", NULL, 241},
        {NULL, "{'$toInt': " DATE(1) "}", NULL, 241},
        {NULL, "{'$toInt': {'a': 1}}", NULL, 241},
        {NULL, "{'$toInt': null}", "null", 0},
        {NULL, "{'$toInt': '$none'}", "null", 0},
        {NULL, "{'$toInt': [1, 2]}", NULL, 50723},
        {NULL, "{'$toLong': " DATE(1522127087890) "}", L(1522127087890), 0},
        {NULL, "{'$toLong': '9223372036854775807'}", L(9223372036854775807), 0},
        {NULL, "{'$toLong': '-9223372036854775808'}", L(-9223372036854775808), 0},
        {NULL, "{'$toLong': '9223372036854775808'}", NULL, 241},
        {NULL, "{'$toLong': 9223372036854775808.0}", NULL, 241},
        {NULL, "{'$toLong': 5}", L(5), 0},
        {NULL, "{'$toDouble': true}", "1.0", 0},
        {NULL, "{'$toDouble': '-5.5'}", "-5.5", 0},
        {NULL, "{'$toDouble': '1e3'}", "1000.0", 0},
        {NULL, "{'$toDouble': 'abc'}", NULL, 241},
        {NULL, "{'$toDouble': " DATE(5) "}", "5.0", 0},
        {NULL, "{'$toDouble': " D(1E400) "}", NULL, 241},
        {NULL, "{'$toDecimal': '2.50'}", D(2.50), 0},
        {NULL, "{'$toDecimal': 5}", D(5), 0},
        {NULL, "{'$toDecimal': false}", D(0), 0},
        {NULL, "{'$toDecimal': 'x'}", NULL, 241},
    };
    EXPR_CHECK(cases);
}

Test(expr_convert, others)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$toString': 2.5}", "'2.5'", 0},
        {NULL, "{'$toString': 5}", "'5'", 0},
        {NULL, "{'$toString': " L(8) "}", "'8'", 0},
        {NULL, "{'$toString': " D(1.50) "}", "'1.50'", 0},
        {NULL, "{'$toString': true}", "'true'", 0},
        {NULL, "{'$toString': {'$numberDouble': '-Infinity'}}", "'-Infinity'", 0},
        {NULL, "{'$toString': -0.0}", "'-0'", 0},
        {NULL, "{'$toString': {'$oid': '5ab9c3da31c2ab715d421285'}}", "'5ab9c3da31c2ab715d421285'",
         0},
        {NULL, "{'$toString': " DATE(1522127087890) "}", "'2018-03-27T05:04:47.890Z'", 0},
        {NULL, "{'$toString': [[1]]}", NULL, 241},
        {NULL, "{'$toBool': 'false'}", "true", 0},
        {NULL, "{'$toBool': 0}", "false", 0},
        {NULL, "{'$toBool': [[]]}", "true", 0},
        {NULL, "{'$toBool': null}", "null", 0},
        {NULL, "{'$toObjectId': '5ab9cbfa31c2ab715d42129e'}",
         "{'$oid': '5ab9cbfa31c2ab715d42129e'}", 0},
        {NULL, "{'$toObjectId': '5ab9cbfa31c2ab715d42129'}", NULL, 241},
        {NULL, "{'$toObjectId': '5ab9cbfa31c2ab715d42129x'}", NULL, 241},
        {NULL, "{'$toObjectId': 5}", NULL, 241},
        {NULL, "{'$toDate': 120000000000.5}", DATE(120000000000), 0},
        {NULL, "{'$toDate': " L(1100000000000) "}", DATE(1100000000000), 0},
        {NULL, "{'$toDate': 5}", NULL, 241},
        {NULL, "{'$toDate': {'$oid': '5ab9c3da31c2ab715d421285'}}", DATE(1522123738000), 0},
        {NULL, "{'$toDate': {'$timestamp': {'t': 5, 'i': 1}}}", DATE(5000), 0},
        {NULL, "{'$toDate': '2018-03-20'}", DATE(1521504000000), 0},
        {NULL, "{'$toDate': '2018-03-20 11:00:06 +0500'}", DATE(1521525606000), 0},
        {NULL, "{'$toDate': 'Friday'}", NULL, 241},
        {NULL, "{'$convert': {'input': '5', 'to': 'int'}}", "5", 0},
        {NULL, "{'$convert': {'input': '5', 'to': 16}}", "5", 0},
        {NULL, "{'$convert': {'input': 'x', 'to': 'int', 'onError': 'bad'}}", "'bad'", 0},
        {NULL, "{'$convert': {'input': null, 'to': 'int', 'onNull': 'none'}}", "'none'", 0},
        {NULL, "{'$convert': {'input': null, 'to': 'int', 'onError': 'bad'}}", "null", 0},
        {NULL, "{'$convert': {'input': 5, 'to': null}}", "null", 0},
        {NULL, "{'$convert': {'input': 5, 'to': 'array'}}", NULL, 241},
        {NULL, "{'$convert': {'input': 5, 'to': 'minKey', 'onError': 1}}", "1", 0},
        {NULL, "{'$convert': {'input': 5, 'to': 'nothing'}}", NULL, 2},
        {NULL, "{'$convert': {'input': 5, 'to': 77}}", NULL, 9},
        {NULL, "{'$convert': {'input': 5, 'to': true}}", NULL, 9},
        {NULL, "{'$convert': {'input': 5, 'to': 1.5}}", NULL, 9},
        {NULL, "{'$convert': {'input': 5}}", NULL, 9},
        {NULL, "{'$convert': {'to': 'int'}}", NULL, 9},
        {NULL, "{'$convert': {'input': 5, 'to': 'int', 'x': 1}}", NULL, 9},
        {NULL, "{'$convert': 5}", NULL, 9},
    };
    EXPR_CHECK(cases);
}
