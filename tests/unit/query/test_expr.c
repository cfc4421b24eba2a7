/* tests/unit/query/test_expr.c — paths, variables, literals, comparison, boolean and conditional
 * operators; the parser's refusals. */
#include "libcommon/bson/build.h"
#include "tests/unit/query/expr_cases.h"

Test(expr, paths)
{
    static const expr_case_t cases[] = {
        {"{'a': 1}", "'$a'", "1", 0},
        {"{'a': {'b': {'c': 2}}}", "'$a.b.c'", "2", 0},
        {"{'a': 1}", "'$b'", "MISSING", 0},
        {"{'a': 1}", "'$a.b'", "MISSING", 0},
        {"{'a': [{'b': 1}, {'b': 2}, {'c': 3}, 4]}", "'$a.b'", "[1, 2]", 0},
        {"{'a': [{'b': [{'c': 1}, {'c': 2}]}, {'b': {'c': 3}}]}", "'$a.b.c'", "[[1, 2], 3]", 0},
        {"{'a': [[{'b': 1}]]}", "'$a.b'", "[]", 0},
        {"{'a': [1, 2]}", "'$a.0'", "[]", 0},
        {"{'a': {'0': 5}}", "'$a.0'", "5", 0},
        {"{'a': null}", "'$a'", "null", 0},
        {"{'a': 1, 'b': 2}", "'$$ROOT'", "{'a': 1, 'b': 2}", 0},
        {"{'a': 1}", "'$$ROOT.a'", "1", 0},
        {"{'a': 1}", "'$$CURRENT.a'", "1", 0},
        {"{'a': 1}", "'$$CURRENT'", "{'a': 1}", 0},
        {"{'a': 1}", "'$$REMOVE'", "MISSING", 0},
        {NULL, "'$$NOW'", "{'$date': {'$numberLong': '1700000000123'}}", 0},
        {NULL, "'$$CLUSTER_TIME'", "{'$timestamp': {'t': 7, 'i': 9}}", 0},
        {NULL, "'$$USER_ROLES'", "[]", 0},
        {NULL, "'$'", NULL, 16872},
        {NULL, "'$$'", NULL, 9},
        {NULL, "'$$nothing'", NULL, 17276},
        {NULL, "'$$KEEP'", NULL, 17276},
        {NULL, "'$$a-b'", NULL, 9},
        {NULL, "'$a.'", NULL, 40353},
        {NULL, "'$.a'", NULL, 15998},
        {NULL, "'$a..b'", NULL, 15998},
        {NULL, "'$a.$b'", NULL, 16410},
    };
    EXPR_CHECK(cases);
}

Test(expr, literals)
{
    static const expr_case_t cases[] = {
        {NULL, "5", "5", 0},
        {NULL, "'text'", "'text'", 0},
        {NULL, "''", "''", 0},
        {NULL, "{'$literal': '$a'}", "'$a'", 0},
        {NULL, "{'$const': {'$add': [1]}}", "{'$add': [1]}", 0},
        {"{'a': 1}", "['$a', '$b', 3]", "[1, null, 3]", 0},
        {"{'a': 1}", "{'x': '$a', 'y': {'z': '$a', 'n': '$none'}, 'n': '$none'}",
         "{'x': 1, 'y': {'z': 1}}", 0},
        {NULL, "{}", "{}", 0},
        {NULL, "{'a': [{'b': {'$add': [1, 2]}}]}", "{'a': [{'b': 3}]}", 0},
        {NULL, "{'a.b': 1}", NULL, 16412},
        {NULL, "{'a': 1, '$b': 2}", NULL, 16410},
        {NULL, "{'a': 1, 'a': 2}", NULL, 16406},
        {NULL, "{'$add': [1], 'x': 2}", NULL, 15983},
        {NULL, "{'$nope': 1}", NULL, 168},
        {NULL, "{'$function': {'body': 'f', 'args': [], 'lang': 'js'}}", NULL, 238},
    };
    EXPR_CHECK(cases);
}

Test(expr, comparison)
{
    static const expr_case_t cases[] = {
        {"{'a': 5}", "{'$eq': ['$a', 5]}", "true", 0},
        {"{'a': 5}", "{'$eq': ['$a', 5.0]}", "true", 0},
        {"{'a': 5}", "{'$ne': ['$a', '5']}", "true", 0},
        {"{'a': 5}", "{'$gt': ['$a', 4]}", "true", 0},
        {"{'a': 5}", "{'$gte': ['$a', 5]}", "true", 0},
        {"{'a': 5}", "{'$lt': ['$a', 5]}", "false", 0},
        {"{'a': 5}", "{'$lte': ['$a', 5]}", "true", 0},
        {"{'a': 5}", "{'$cmp': ['$a', 7]}", "-1", 0},
        {"{'a': 5}", "{'$cmp': ['$a', 5]}", "0", 0},
        {"{'a': 5}", "{'$cmp': ['x', '$a']}", "1", 0},
        {NULL, "{'$lt': ['$missing', null]}", "true", 0},
        {NULL, "{'$eq': ['$missing', null]}", "false", 0},
        {NULL, "{'$lt': [null, 1]}", "true", 0},
        {NULL, "{'$gt': [[1], {'a': 1}]}", "true", 0},
        {NULL, "{'$eq': [1]}", NULL, 16020},
        {NULL, "{'$eq': [1, 2, 3]}", NULL, 16020},
    };
    EXPR_CHECK(cases);
}

Test(expr, boolean)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$and': []}", "true", 0},
        {NULL, "{'$or': []}", "false", 0},
        {NULL, "{'$and': [1, 'x', {}]}", "true", 0},
        {NULL, "{'$and': [1, 0]}", "false", 0},
        {NULL, "{'$and': [1, null]}", "false", 0},
        {"{'a': 0}", "{'$or': ['$a', '$b', false]}", "false", 0},
        {"{'a': 0}", "{'$or': ['$a', 'no']}", "true", 0},
        {"{'a': 0}", "{'$and': ['$a', {'$divide': [1, 0]}]}", "false", 0},
        {"{'a': 0}", "{'$not': ['$a']}", "true", 0},
        {"{'a': 0}", "{'$not': '$a'}", "true", 0},
        {NULL, "{'$not': [[false]]}", "false", 0},
        {NULL, "{'$not': []}", NULL, 16020},
    };
    EXPR_CHECK(cases);
}

Test(expr, conditional)
{
    static const expr_case_t cases[] = {
        {"{'qty': 250}", "{'$cond': {'if': {'$gte': ['$qty', 250]}, 'then': 30, 'else': 20}}", "30",
         0},
        {"{'qty': 200}", "{'$cond': [{'$gte': ['$qty', 250]}, 30, 20]}", "20", 0},
        {"{'qty': 1}", "{'$cond': [true, '$qty', {'$divide': [1, 0]}]}", "1", 0},
        {NULL, "{'$cond': [true, '$none', 1]}", "MISSING", 0},
        {NULL, "{'$cond': [true, 1]}", NULL, 16020},
        {NULL, "{'$cond': {'then': 1, 'else': 2}}", NULL, 17080},
        {NULL, "{'$cond': {'if': 1, 'else': 2}}", NULL, 17081},
        {NULL, "{'$cond': {'if': 1, 'then': 2}}", NULL, 17082},
        {NULL, "{'$cond': {'if': 1, 'then': 2, 'else': 3, 'x': 4}}", NULL, 17083},
        {"{'a': null}", "{'$ifNull': ['$a', '$b', 'none']}", "'none'", 0},
        {"{'b': 2}", "{'$ifNull': ['$a', '$b', 'none']}", "2", 0},
        {NULL, "{'$ifNull': ['$a', '$b']}", "MISSING", 0},
        {NULL, "{'$ifNull': ['$a']}", NULL, 1257300},
        {"{'a': 2}",
         "{'$switch': {'branches': [{'case': {'$eq': ['$a', 1]}, 'then': 'one'}, {'case': {'$eq': "
         "['$a', 2]}, 'then': "
         "'two'}], 'default': 'many'}}",
         "'two'", 0},
        {"{'a': 3}",
         "{'$switch': {'branches': [{'case': {'$eq': ['$a', 1]}, 'then': 'one'}], 'default': "
         "'many'}}",
         "'many'", 0},
        {"{'a': 3}", "{'$switch': {'branches': [{'case': {'$eq': ['$a', 1]}, 'then': 'one'}]}}",
         NULL, 40066},
        {NULL, "{'$switch': 1}", NULL, 40060},
        {NULL, "{'$switch': {'branches': 1}}", NULL, 40061},
        {NULL, "{'$switch': {'branches': [1]}}", NULL, 40062},
        {NULL, "{'$switch': {'branches': [{'x': 1}]}}", NULL, 40063},
        {NULL, "{'$switch': {'branches': [{'then': 1}]}}", NULL, 40064},
        {NULL, "{'$switch': {'branches': [{'case': 1}]}}", NULL, 40065},
        {NULL, "{'$switch': {'x': 1}}", NULL, 40067},
        {NULL, "{'$switch': {'branches': []}}", NULL, 40068},
        {NULL, "{'$switch': {}}", NULL, 40068},
    };
    EXPR_CHECK(cases);
}

Test(expr, let)
{
    static const expr_case_t cases[] = {
        {"{'price': 10, 'tax': 0.5, 'applyDiscount': true}",
         "{'$let': {'vars': {'total': {'$add': ['$price', '$tax']}, 'discounted': {'$cond': {'if': "
         "'$applyDiscount', 'then': 0.5, "
         "'else': 1}}}, 'in': {'$multiply': ['$$total', '$$discounted']}}}",
         "5.25", 0},
        {"{'a': {'b': 7}}", "{'$let': {'vars': {'x': '$a'}, 'in': '$$x.b'}}", "7", 0},
        {"{'a': {'b': 7}}", "{'$let': {'vars': {'CURRENT': '$a'}, 'in': '$b'}}", "7", 0},
        {"{'a': 1}", "{'$let': {'vars': {'x': '$none'}, 'in': '$$x'}}", "MISSING", 0},
        {NULL,
         "{'$let': {'vars': {'x': 1}, 'in': {'$let': {'vars': {'x': {'$add': ['$$x', 1]}, 'y': "
         "'$$x'}, 'in': ['$$x', '$$y']}}}}",
         "[2, 1]", 0},
        {NULL, "{'$let': {'vars': {'x': 1, 'y': '$$x'}, 'in': 1}}", NULL, 17276},
        {NULL, "{'$let': 1}", NULL, 16874},
        {NULL, "{'$let': {'vars': {}, 'in': 1, 'x': 2}}", NULL, 16875},
        {NULL, "{'$let': {'in': 1}}", NULL, 16876},
        {NULL, "{'$let': {'vars': {}}}", NULL, 16877},
        {NULL, "{'$let': {'vars': {'Big': 1}, 'in': 1}}", NULL, 9},
        {NULL, "{'$let': {'vars': {'a b': 1}, 'in': 1}}", NULL, 9},
        {NULL, "{'$let': {'vars': {'ROOT': 1}, 'in': 1}}", NULL, 9},
    };
    EXPR_CHECK(cases);
}

Test(expr, meta_and_rand)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$meta': 'version'}", "MISSING", 0}, {NULL, "{'$meta': 'textScore'}", NULL, 40218},
        {NULL, "{'$meta': 'nothing'}", NULL, 17308},  {NULL, "{'$meta': 1}", NULL, 17307},
        {NULL, "{'$rand': {'a': 1}}", NULL, 3040501}, {NULL, "{'$rand': 1}", NULL, 10065},
    };
    EXPR_CHECK(cases);

    vd_arena_t *arena = vd_arena_create();
    stor_expr_t *expr;
    stor_expr_env_t env;
    vd_value_t v, w;
    stor_expr_env_init(&env, arena, NULL);
    cr_assert_eq(
        stor_expr_parse(arena, query_value(arena, "{'$meta': 'version'}"), NULL, &expr, NULL),
        VD_OK);
    env.version = 42;
    cr_assert_eq(stor_expr_eval(expr, &env, &v, NULL), VD_OK);
    cr_expect(v.type == VD_BSON_INT64 && vd_value_int64(v) == 42);

    cr_assert_eq(stor_expr_parse(arena, query_value(arena, "{'$rand': {}}"), NULL, &expr, NULL),
                 VD_OK);
    cr_expect_not(stor_expr_constant(expr, &v), "$rand is never folded");
    cr_assert_eq(stor_expr_eval(expr, &env, &v, NULL), VD_OK);
    cr_assert_eq(stor_expr_eval(expr, &env, &w, NULL), VD_OK);
    cr_expect(vd_value_double(v) >= 0 && vd_value_double(v) < 1);
    cr_expect(vd_value_double(v) != vd_value_double(w));
    vd_arena_destroy(&arena);
}

Test(expr, folding)
{
    vd_arena_t *arena = vd_arena_create();
    stor_expr_t *expr;
    vd_value_t v;
    vd_slice_t path;
    cr_assert_eq(stor_expr_parse(arena, query_value(arena, "{'$add': [1, {'$multiply': [2, 3]}]}"),
                                 NULL, &expr, NULL),
                 VD_OK);
    cr_assert(stor_expr_constant(expr, &v));
    cr_expect_eq(vd_value_int32(v), 7);
    cr_assert_eq(stor_expr_parse(arena, query_value(arena, "{'x': [1, {'y': '$$REMOVE'}]}"), NULL,
                                 &expr, NULL),
                 VD_OK);
    cr_expect(stor_expr_constant(expr, &v));
    cr_assert_eq(
        stor_expr_parse(arena, query_value(arena, "{'$divide': [1, 0]}"), NULL, &expr, NULL), VD_OK,
        "an error stays until it is reached");
    cr_expect_not(stor_expr_constant(expr, &v));
    cr_assert_eq(stor_expr_parse(arena, query_value(arena, "'$a.b'"), NULL, &expr, NULL), VD_OK);
    cr_assert(stor_expr_field_path(expr, &path));
    cr_expect(vd_slice_is(path, "a.b"));
    cr_expect(stor_expr_reads_document(expr));
    cr_assert_eq(stor_expr_parse(arena, query_value(arena, "{'$abs': '$a'}"), NULL, &expr, NULL),
                 VD_OK);
    cr_expect_not(stor_expr_field_path(expr, &path));
    vd_arena_destroy(&arena);
}

Test(expr, command_let)
{
    vd_arena_t *arena = vd_arena_create();
    stor_variables_t variables;
    vd_error_t err = VD_ERROR_INIT;
    expr_test_variables(&variables);
    cr_assert_eq(stor_variables_parse_let(arena,
                                          query_json(arena, "{'x': 5, 'y': {'$add': ['$$x', 1]}}"),
                                          &variables, &err),
                 VD_OK);
    cr_expect_eq(variables.count, 2);
    stor_expr_t *expr;
    stor_expr_env_t env;
    vd_value_t v;
    cr_assert_eq(stor_expr_parse(arena, query_value(arena, "{'$multiply': ['$$x', '$$y']}"),
                                 &variables, &expr, &err),
                 VD_OK);
    stor_expr_env_init(&env, arena, &variables);
    cr_assert_eq(stor_expr_eval(expr, &env, &v, &err), VD_OK);
    cr_expect_eq(vd_value_int32(v), 30);
    cr_expect_eq(
        stor_variables_parse_let(arena, query_json(arena, "{'z': '$a'}"), &variables, &err),
        -4890500);
    cr_expect_eq(stor_variables_parse_let(arena, query_json(arena, "{'Z': 1}"), &variables, NULL),
                 -9);
    char *many = vd_arena_strdup(arena, "{'a0': 1");
    for (int i = 1; i < STOR_VARIABLES_MAX; i++)
        many = vd_arena_printf(arena, "%s, 'a%d': 1", many, i);
    expr_test_variables(&variables);
    cr_expect_eq(stor_variables_parse_let(arena,
                                          query_json(arena, vd_arena_printf(arena, "%s}", many)),
                                          &variables, NULL),
                 VD_OK);
    expr_test_variables(&variables);
    cr_expect_eq(stor_variables_parse_let(
                     arena, query_json(arena, vd_arena_printf(arena, "%s, 'last': 1}", many)),
                     &variables, NULL),
                 VD_ERR_OVERFLOW);
    vd_arena_destroy(&arena);
}

Test(expr, limits)
{
    vd_arena_t *arena = vd_arena_create();
    stor_expr_t *expr;
    vd_value_t v = query_value(arena, "'$a'");
    for (int i = 0; i < VD_QUERY_DEPTH_MAX; i++) {
        vd_bb_t bb;
        vd_bson_t doc;
        int rc = stor_expr_parse(arena, v, NULL, &expr, NULL);
        cr_expect_eq(rc, VD_OK, "%d levels", i);
        vd_bb_init_arena(&bb, arena, 1 << 20);
        vd_bb_value(&bb, VD_SLICE_LIT("$abs"), v);
        cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
        v = vd_value_from_document(doc);
    }
    cr_expect_eq(stor_expr_parse(arena, v, NULL, &expr, NULL), VD_ERR_OVERFLOW);

    /* A string that doubles forty times ends in an error, not in all memory. */
    static const expr_case_t grows[] = {
        {NULL,
         "{'$reduce': {'input': {'$range': [0, 40]}, 'initialValue': 'x', 'in': {'$concat': "
         "['$$value', '$$value']}}}",
         NULL, 146},
        {NULL, "{'$range': [0, 2000000000]}", NULL, 146},
    };
    EXPR_CHECK(grows);
    vd_arena_destroy(&arena);
}
