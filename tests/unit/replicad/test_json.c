/* tests/unit/replicad/test_json.c — the reader of etcd's JSON: what it takes, what it refuses. */
#include "veddb-replicad/json.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static repl_json_t json;

static int parse(const char *text)
{
    return repl_json_parse(vd_slice_str(text), &json, NULL);
}

Test(json, values_are_found_by_name)
{
    uint64_t n = 0;
    cr_assert_eq(parse(" {\"header\":{\"revision\":\"18446744073709551615\",\"x\":[1,{\"y\":2}]},"
                       "\"succeeded\":true, \"kvs\" : [ {\"key\":\"YQ==\"} , {\"key\":\"Yg==\"}],"
                       "\"n\":7,\"e\":-1.5e+3,\"s\":\"a\\\"\\u00e9\",\"z\":null,\"l\":[]}\n"),
                 VD_OK);
    const repl_json_value_t *root = &json.values[0];
    const repl_json_value_t *header = repl_json_get(&json, root, "header");
    cr_assert(repl_json_u64(repl_json_get(&json, header, "revision"), &n));
    cr_expect_eq(n, UINT64_MAX);
    cr_expect(repl_json_u64(repl_json_get(&json, root, "n"), &n));
    cr_expect_eq(n, 7);
    cr_expect_not(repl_json_u64(repl_json_get(&json, root, "e"), &n));
    cr_expect_not(repl_json_u64(repl_json_get(&json, root, "s"), &n));
    cr_expect(vd_slice_is(repl_json_get(&json, root, "s")->text, "a\\\"\\u00e9"));
    cr_expect(vd_slice_is(repl_json_get(&json, root, "succeeded")->text, "true"));
    cr_expect_null(repl_json_get(&json, root, "revision")); /* not of the object within */
    cr_expect_null(repl_json_get(&json, NULL, "n"));
    cr_expect_null(repl_json_get(&json, repl_json_get(&json, root, "n"), "n"));
    const repl_json_value_t *kvs = repl_json_get(&json, root, "kvs");
    const repl_json_value_t *kv = repl_json_first(&json, kvs);
    cr_assert_not_null(kv);
    cr_expect(vd_slice_is(repl_json_get(&json, kv, "key")->text, "YQ=="));
    cr_assert_lt(kv->next, kvs->next);
    cr_expect(vd_slice_is(repl_json_get(&json, &json.values[kv->next], "key")->text, "Yg=="));
    cr_expect_null(repl_json_first(&json, repl_json_get(&json, root, "l")));
    cr_expect_null(repl_json_first(&json, root));
}

Test(json, what_is_none_is_refused)
{
    static const char *const cases[] = {
        "",           " ",           "{",     "}",     "{\"a\"}",   "{\"a\":}",
        "{\"a\":1,}", "[1,]",        "[1 2]", "{a:1}", "\"a",       "\"\\x\"",
        "\"\\u12\"",  "\"\n\"",      "01",    "1.",    "1e",        "-",
        "+1",         "tru",         "nul",   "{} {}", "[1]]",      "{\"a\":1",
        "[[]",        "\"\\u12g4\"", "'a'",   "NaN",   "{\"a\" 1}", "{,\"a\":1}"};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++)
        cr_expect_eq(parse(cases[i]), VD_ERR_PROTOCOL, "%s", cases[i]);
    uint64_t n = 0;
    cr_assert_eq(parse("[\"18446744073709551616\",\"-1\",\"\",\"1 \",1.0]"), VD_OK);
    for (uint32_t i = 1; i < json.count; i++)
        cr_expect_not(repl_json_u64(&json.values[i], &n));
    cr_expect_eq(n, 0);
}

Test(json, depth_and_count_have_a_limit)
{
    char text[4 * REPL_JSON_VALUES_MAX];
    for (unsigned depth = REPL_JSON_DEPTH_MAX - 1; depth <= REPL_JSON_DEPTH_MAX + 1; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        text[2 * depth] = 0;
        cr_expect_eq(parse(text), depth <= REPL_JSON_DEPTH_MAX ? VD_OK : VD_ERR_PROTOCOL, "%u",
                     depth);
    }
    for (unsigned count = REPL_JSON_VALUES_MAX - 2; count <= REPL_JSON_VALUES_MAX; count++) {
        size_t n = 0;
        text[n++] = '[';
        for (unsigned i = 0; i < count; i++) {
            text[n++] = '1';
            text[n++] = ',';
        }
        text[n - 1] = ']';
        text[n] = 0;
        cr_expect_eq(parse(text), count < REPL_JSON_VALUES_MAX ? VD_OK : VD_ERR_PROTOCOL, "%u",
                     count);
    }
}

/* Bytes changed at random: never beyond the text, whatever comes out. */
Test(json, damage_is_survived)
{
    static const char good[] = "{\"a\":[{\"b\":\"c\\u0041\"},1.5e2,true],\"d\":{\"e\":null}}";
    srand(7);
    for (int round = 0; round < 20000; round++) {
        size_t len = (size_t)rand() % sizeof good;
        char *copy = malloc(len + 1); /* exactly so long, for the sanitizer */
        memcpy(copy, good, len);
        for (int i = 0; i < 3 && len != 0; i++)
            copy[(size_t)rand() % len] = (char)(rand() % 128);
        (void)!repl_json_parse(vd_slice(copy, len), &json, NULL);
        cr_assert_leq(json.count, REPL_JSON_VALUES_MAX);
        free(copy);
    }
}
