/* tests/unit/query/test_expr_arith.c — numbers: types of results, overflow, rounding, refusals. */
#include "tests/unit/query/expr_cases.h"

#define LONG_MAX_JSON "{'$numberLong': '9223372036854775807'}"
#define LONG_MIN_JSON "{'$numberLong': '-9223372036854775808'}"
#define L(n)          "{'$numberLong': '" #n "'}"
#define D(n)          "{'$numberDecimal': '" #n "'}"

Test(expr_arith, add)
{
    static const expr_case_t cases[] = {
        {"{'price': 10, 'fee': 2}", "{'$add': ['$price', '$fee']}", "12", 0},
        {NULL, "{'$add': []}", "0", 0},
        {NULL, "{'$add': 3}", "3", 0},
        {NULL, "{'$add': [2147483647, 1]}", L(2147483648), 0},
        {NULL, "{'$add': [1, " L(1) "]}", L(2), 0},
        {NULL, "{'$add': [" LONG_MAX_JSON ", 1]}", "9223372036854775808.0", 0},
        {NULL, "{'$add': [1, 2.5]}", "3.5", 0},
        {NULL, "{'$add': [1.5, " D(2.25) "]}", D(3.75), 0},
        {NULL, "{'$add': [1, null]}", "null", 0},
        {NULL, "{'$add': [1, '$none', 'x']}", "null", 0},
        {NULL, "{'$add': [1, 'x']}", NULL, 14},
        {NULL, "{'$add': [{'$date': {'$numberLong': '1000'}}, 5]}",
         "{'$date': {'$numberLong': '1005'}}", 0},
        {NULL, "{'$add': [2.5, {'$date': {'$numberLong': '1000'}}]}",
         "{'$date': {'$numberLong': '1003'}}", 0},
        {NULL, "{'$add': [{'$date': {'$numberLong': '1'}}, {'$date': {'$numberLong': '1'}}]}", NULL,
         16612},
        {NULL, "{'$add': [{'$date': {'$numberLong': '1'}}, 1e300]}", NULL, 15},
    };
    EXPR_CHECK(cases);
}

Test(expr_arith, subtract_multiply)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$subtract': [5, 3]}", "2", 0},
        {NULL, "{'$subtract': [-2147483648, 1]}", L(-2147483649), 0},
        {NULL, "{'$subtract': [" LONG_MIN_JSON ", 1]}", "-9223372036854775809.0", 0},
        {NULL, "{'$subtract': [5.5, 3]}", "2.5", 0},
        {NULL, "{'$subtract': [" D(5.5) ", 3]}", D(2.5), 0},
        {NULL,
         "{'$subtract': [{'$date': {'$numberLong': '5000'}}, {'$date': {'$numberLong': '1000'}}]}",
         L(4000), 0},
        {NULL, "{'$subtract': [{'$date': {'$numberLong': '5000'}}, 1000]}",
         "{'$date': {'$numberLong': '4000'}}", 0},
        {NULL, "{'$subtract': [5, {'$date': {'$numberLong': '5000'}}]}", NULL, 14},
        {NULL, "{'$subtract': [5, '$none']}", "null", 0},
        {NULL, "{'$subtract': [5, 'x']}", NULL, 14},
        {NULL, "{'$subtract': [5]}", NULL, 16020},
        {NULL, "{'$multiply': [3, 4]}", "12", 0},
        {NULL, "{'$multiply': [65536, 65536]}", L(4294967296), 0},
        {NULL, "{'$multiply': [" LONG_MAX_JSON ", 2]}", "18446744073709551616.0", 0},
        {NULL, "{'$multiply': [2.5, 2]}", "5.0", 0},
        {NULL, "{'$multiply': [2, " D(1.5) "]}", D(3.0), 0},
        {NULL, "{'$multiply': []}", "1", 0},
        {NULL, "{'$multiply': [2, null]}", "null", 0},
        {NULL, "{'$multiply': [2, true]}", NULL, 14},
    };
    EXPR_CHECK(cases);
}

Test(expr_arith, divide_mod)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$divide': [80, 8]}", "10.0", 0},
        {NULL, "{'$divide': [1, 3]}", "0.3333333333333333", 0},
        {NULL, "{'$divide': [" D(1) ", 4]}", D(0.25), 0},
        {NULL, "{'$divide': [1, 0]}", NULL, 2},
        {NULL, "{'$divide': [" D(1) ", 0]}", NULL, 2},
        {NULL, "{'$divide': ['$none', 0]}", "null", 0},
        {NULL, "{'$divide': ['x', 1]}", NULL, 14},
        {NULL, "{'$mod': [80, 7]}", "3", 0},
        {NULL, "{'$mod': [-80, 7]}", "-3", 0},
        {NULL, "{'$mod': [80, " L(7) "]}", L(3), 0},
        {NULL, "{'$mod': [80.5, 7]}", "3.5", 0},
        {NULL, "{'$mod': [80, 7.0]}", "3", 0},
        {NULL, "{'$mod': [80, 7.5]}", "5.0", 0},
        {NULL, "{'$mod': [" LONG_MIN_JSON ", -1]}", L(0), 0},
        {NULL, "{'$mod': [" D(5.5) ", 2]}", D(1.5), 0},
        {NULL, "{'$mod': [1, 0]}", NULL, 16610},
        {NULL, "{'$mod': [" D(1) ", 0]}", NULL, 5733415},
        {NULL, "{'$mod': [1, 'x']}", NULL, 16611},
        {NULL, "{'$mod': [null, 1]}", "null", 0},
    };
    EXPR_CHECK(cases);
}

Test(expr_arith, rounding)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$abs': -5}", "5", 0},
        {NULL, "{'$abs': -2147483648}", L(2147483648), 0},
        {NULL, "{'$abs': -1.5}", "1.5", 0},
        {NULL, "{'$abs': " D(-1.5) "}", D(1.5), 0},
        {NULL, "{'$abs': " LONG_MIN_JSON "}", NULL, 28680},
        {NULL, "{'$abs': '$none'}", "null", 0},
        {NULL, "{'$abs': 'x'}", NULL, 28765},
        {NULL, "{'$ceil': 7.8}", "8.0", 0},
        {NULL, "{'$ceil': -2.8}", "-2.0", 0},
        {NULL, "{'$ceil': 3}", "3", 0},
        {NULL, "{'$ceil': " D(2.1) "}", D(3), 0},
        {NULL, "{'$floor': -2.1}", "-3.0", 0},
        {NULL, "{'$floor': " D(2.9) "}", D(2), 0},
        {NULL, "{'$round': [19.25, 1]}", "19.2", 0},
        {NULL, "{'$round': [28.73, 1]}", "28.7", 0},
        {NULL, "{'$round': [2.5]}", "2.0", 0},
        {NULL, "{'$round': 3.5}", "4.0", 0},
        {NULL, "{'$round': [1234.5678, 2]}", "1234.57", 0},
        {NULL, "{'$round': [1234.5678, -2]}", "1200.0", 0},
        {NULL, "{'$round': [1250, -2]}", "1200", 0},
        {NULL, "{'$round': [1350, -2]}", "1400", 0},
        {NULL, "{'$round': [-1350, -2]}", "-1400", 0},
        {NULL, "{'$round': [5, 3]}", "5", 0},
        {NULL, "{'$round': [2147483647, -1]}", L(2147483650), 0},
        {NULL, "{'$round': [" LONG_MAX_JSON ", -1]}", NULL, 51080},
        {NULL, "{'$round': [5, -20]}", "0", 0},
        {NULL, "{'$round': [" D(1.25) ", 1]}", D(1.2), 0},
        {NULL, "{'$round': [1, -21]}", NULL, 51083},
        {NULL, "{'$round': [1, 101]}", NULL, 51083},
        {NULL, "{'$round': [1, 1.5]}", NULL, 51082},
        {NULL, "{'$round': ['x', 1]}", NULL, 51081},
        {NULL, "{'$round': [1, null]}", "null", 0},
        {NULL, "{'$round': [1, 2, 3]}", NULL, 28667},
        {NULL, "{'$trunc': [19.29, 1]}", "19.2", 0},
        {NULL, "{'$trunc': -7.8}", "-7.0", 0},
        {NULL, "{'$trunc': [1299, -2]}", "1200", 0},
        {NULL, "{'$trunc': " D(7.9) "}", D(7), 0},
    };
    EXPR_CHECK(cases);
}

Test(expr_arith, powers)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$pow': [5, 2]}", "25", 0},
        {NULL, "{'$pow': [5, 0]}", "1", 0},
        {NULL, "{'$pow': [2, 40]}", L(1099511627776), 0},
        {NULL, "{'$pow': [2, 63]}", "9223372036854775808.0", 0},
        {NULL, "{'$pow': [-2, 63]}", LONG_MIN_JSON, 0},
        {NULL, "{'$pow': [5, -2]}", "0.04", 0},
        {NULL, "{'$pow': [-1, -3]}", "-1", 0},
        {NULL, "{'$pow': [-5, 0.5]}", "{'$numberDouble': 'NaN'}", 0},
        {NULL, "{'$pow': [" D(1.5) ", 2]}", D(2.25), 0},
        {NULL, "{'$pow': [0, -1]}", NULL, 28764},
        {NULL, "{'$pow': ['x', 1]}", NULL, 28762},
        {NULL, "{'$pow': [1, 'x']}", NULL, 28763},
        {NULL, "{'$pow': [1, '$none']}", "null", 0},
        {NULL, "{'$sqrt': 25}", "5.0", 0},
        {NULL, "{'$sqrt': " D(2.25) "}", D(1.5), 0},
        {NULL, "{'$sqrt': -1}", NULL, 28714},
        {NULL, "{'$sqrt': null}", "null", 0},
        {NULL, "{'$exp': 0}", "1.0", 0},
        {NULL, "{'$ln': 1}", "0.0", 0},
        {NULL, "{'$ln': 0}", NULL, 28766},
        {NULL, "{'$log10': 1000}", "3.0", 0},
        {NULL, "{'$log10': -1}", NULL, 28761},
        {NULL, "{'$log': [100, 10]}", "2.0", 0},
        {NULL, "{'$log': [0, 10]}", NULL, 28758},
        {NULL, "{'$log': [10, 1]}", NULL, 28759},
        {NULL, "{'$log': ['x', 1]}", NULL, 28756},
        {NULL, "{'$log': [1, 'x']}", NULL, 28757},
    };
    EXPR_CHECK(cases);
}

Test(expr_arith, bits_and_angles)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$bitAnd': [6, 3]}", "2", 0},
        {NULL, "{'$bitOr': [6, " L(1) "]}", L(7), 0},
        {NULL, "{'$bitXor': [6, 3]}", "5", 0},
        {NULL, "{'$bitAnd': []}", "-1", 0},
        {NULL, "{'$bitNot': 5}", "-6", 0},
        {NULL, "{'$bitAnd': [1, null]}", "null", 0},
        {NULL, "{'$bitOr': [1, 1.5]}", NULL, 14},
        {NULL, "{'$bitNot': 1.5}", NULL, 28765},
        {NULL, "{'$sin': 0}", "0.0", 0},
        {NULL, "{'$cos': 0}", "1.0", 0},
        {NULL, "{'$atan2': [0, 1]}", "0.0", 0},
        {NULL, "{'$acos': 2}", NULL, 50989},
        {NULL, "{'$sin': {'$numberDouble': 'Infinity'}}", NULL, 50989},
        {NULL, "{'$degreesToRadians': 180}", "3.141592653589793", 0},
        {NULL, "{'$radiansToDegrees': '$none'}", "null", 0},
        {NULL, "{'$tanh': 'x'}", NULL, 28765},
    };
    EXPR_CHECK(cases);
}

Test(expr_arith, totals)
{
    static const expr_case_t cases[] = {
        {"{'a': [1, 2, 3]}", "{'$sum': '$a'}", "6", 0},
        {"{'a': [1, 'x', null, 2.5]}", "{'$sum': '$a'}", "3.5", 0},
        {"{'a': [1, 2], 'b': 3}", "{'$sum': ['$a', '$b']}", "3", 0},
        {NULL, "{'$sum': []}", "0", 0},
        {NULL, "{'$sum': [2147483647, 1]}", L(2147483648), 0},
        {NULL, "{'$sum': [" LONG_MAX_JSON ", 1]}", "9223372036854775808.0", 0},
        {NULL, "{'$sum': [0.1, 0.2, 0.3]}", "0.6", 0},
        {NULL, "{'$sum': [1e100, 1, -1e100]}", "1.0", 0},
        {NULL, "{'$sum': [" D(1.5) ", 2]}", D(3.5), 0},
        {"{'a': [1, 2, 4]}", "{'$avg': '$a'}", "2.3333333333333335", 0},
        {NULL, "{'$avg': ['x']}", "null", 0},
        {NULL, "{'$avg': [" D(1) ", 2]}", D(1.5), 0},
        {"{'a': [3, 1, null, 2]}", "{'$min': '$a'}", "1", 0},
        {"{'a': [3, 1, 'z', 2]}", "{'$max': '$a'}", "'z'", 0},
        {NULL, "{'$max': ['$none', null]}", "null", 0},
        {"{'a': [1, 2, 3, 4]}", "{'$stdDevPop': '$a'}", "1.118033988749895", 0},
        {"{'a': [1, 2, 3, 4]}", "{'$stdDevSamp': '$a'}", "1.2909944487358056", 0},
        {NULL, "{'$stdDevSamp': [1]}", "null", 0},
        {NULL, "{'$stdDevPop': []}", "null", 0},
    };
    EXPR_CHECK(cases);
}
