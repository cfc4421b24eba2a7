/* tests/unit/query/test_accumulate.c — accumulators: each over the same few documents, empty
 * groups, refusals, memory that does not grow for nothing. */
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/query/accumulate.h"

static int gather(vd_arena_t *arena, const char *spec, const char *documents, vd_value_t *ret,
                  vd_error_t *err)
{
    stor_accumulator_t *accumulator;
    int rc = stor_accumulator_parse(arena, VD_SLICE_LIT("out"), query_value(arena, spec), NULL,
                                    &accumulator, err);
    if (rc != VD_OK)
        return rc;
    vd_arena_t *own = vd_arena_create(), *scratch = vd_arena_create();
    stor_accumulator_state_t *state = stor_accumulator_begin(accumulator, own);
    stor_expr_env_t env;
    stor_expr_env_init(&env, scratch, NULL);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(query_value(arena, documents)));
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        /* The document and what was computed from it go after each step: the state must have
         * copied. */
        vd_bson_t document = {vd_arena_copy(scratch, iter.value.data, iter.value.len),
                              iter.value.len};
        stor_expr_env_document(&env, document);
        rc = stor_accumulator_add(state, &env, err);
        vd_arena_reset(scratch);
    }
    if (rc == VD_OK)
        rc = stor_accumulator_finish(state, arena, ret, err);
    vd_arena_destroy(&own);
    vd_arena_destroy(&scratch);
    return rc;
}

/* The same in parts: states of the first `cut` documents and of the rest, saved, then merged. */
static int gather_parts(vd_arena_t *arena, const char *spec, const char *documents, uint32_t cut,
                        vd_value_t *ret, vd_error_t *err)
{
    stor_accumulator_t *accumulator;
    int rc = stor_accumulator_parse(arena, VD_SLICE_LIT("out"), query_value(arena, spec), NULL,
                                    &accumulator, err);
    if (rc != VD_OK)
        return rc;
    vd_buf_t saved;
    stor_expr_env_t env;
    vd_bson_iter_t iter;
    vd_buf_init(&saved, 1 << 20);
    stor_expr_env_init(&env, arena, NULL);
    vd_bson_iter_init(&iter, vd_value_document(query_value(arena, documents)));
    for (int part = 0; rc == VD_OK && part < 2; part++) {
        vd_arena_t *own = vd_arena_create();
        stor_accumulator_state_t *state = stor_accumulator_begin(accumulator, own);
        for (uint32_t i = 0; rc == VD_OK && (part == 1 || i < cut) && vd_bson_iter_next(&iter);
             i++) {
            stor_expr_env_document(&env, vd_value_document(iter.value));
            rc = stor_accumulator_add(state, &env, err);
        }
        if (rc == VD_OK)
            rc = stor_accumulator_save(state, &saved);
        vd_arena_destroy(&own);
    }
    vd_slice_t bytes = vd_buf_slice(&saved);
    stor_accumulator_state_t *whole = stor_accumulator_begin(accumulator, arena);
    for (int part = 0; rc == VD_OK && part < 2; part++)
        rc = stor_accumulator_merge(whole, &bytes, arena, err);
    if (rc == VD_OK) {
        cr_assert_eq(bytes.len, 0, "%s: bytes are left", spec);
        rc = stor_accumulator_finish(whole, arena, ret, err);
    }
    vd_buf_done(&saved);
    return rc;
}

#define DOCS                                                                                       \
    "[{'q': 5, 's': 'b', 'o': {'x': 1}}, {'q': 2.5, 's': 'a', 'o': {'y': 2}}, {'s': 'b'}, {'q': "  \
    "null, 's': 'c', 'o': {'x': 3}}, {'q': 7}]"

Test(accumulate, results)
{
    static const struct {
        const char *spec, *documents, *result;
        int code;
    } cases[] = {
        {"{'$sum': '$q'}", DOCS, "14.5", 0},
        {"{'$sum': 1}", DOCS, "5", 0},
        {"{'$sum': '$q'}", "[]", "0", 0},
        {"{'$sum': '$q'}", "[{'q': 2147483647}, {'q': 1}]", "{'$numberLong': '2147483648'}", 0},
        {"{'$sum': '$q'}", "[{'q': [1, 2]}]", "0", 0},
        {"{'$sum': '$q'}", "[{'q': {'$numberLong': '9223372036854775807'}}, {'q': 1}, {'q': -1}]",
         "{'$numberLong': '9223372036854775807'}", 0},
        {"{'$sum': '$q'}", "[{'q': {'$numberDecimal': '0.1'}}, {'q': 2}]",
         "{'$numberDecimal': '2.1'}", 0},
        {"{'$avg': '$q'}", DOCS, "4.833333333333333", 0},
        {"{'$avg': '$none'}", DOCS, "null", 0},
        {"{'$min': '$q'}", DOCS, "2.5", 0},
        {"{'$max': '$q'}", DOCS, "7", 0},
        {"{'$max': '$s'}", DOCS, "'c'", 0},
        {"{'$min': '$none'}", DOCS, "null", 0},
        {"{'$first': '$s'}", DOCS, "'b'", 0},
        {"{'$last': '$q'}", DOCS, "7", 0},
        {"{'$last': '$s'}", DOCS, "null", 0},
        {"{'$first': '$s'}", "[]", "null", 0},
        {"{'$push': '$s'}", DOCS, "['b', 'a', 'b', 'c']", 0},
        {"{'$push': {'s': '$s', 'q': '$q'}}", "[{'s': 1, 'q': 2}, {'s': 3}]",
         "[{'s': 1, 'q': 2}, {'s': 3}]", 0},
        {"{'$push': '$s'}", "[]", "[]", 0},
        {"{'$addToSet': '$s'}", DOCS, "['b', 'a', 'c']", 0},
        {"{'$addToSet': '$v'}", "[{'v': 1}, {'v': 1.0}, {'v': [1]}, {'v': null}, {'v': null}]",
         "[1, [1], null]", 0},
        {"{'$count': {}}", DOCS, "5", 0},
        {"{'$mergeObjects': '$o'}", DOCS, "{'x': 3, 'y': 2}", 0},
        {"{'$mergeObjects': '$o'}", "[]", "{}", 0},
        {"{'$mergeObjects': '$s'}", DOCS, NULL, 40400},
        {"{'$stdDevPop': '$q'}", "[{'q': 1}, {'q': 2}, {'q': 3}, {'q': 4}, {'q': 'x'}]",
         "1.118033988749895", 0},
        {"{'$stdDevSamp': '$q'}", "[{'q': 1}]", "null", 0},
        {"{'$top': {'sortBy': {'s': 1}, 'output': '$q'}}", DOCS, "7", 0},
        {"{'$bottom': {'sortBy': {'s': 1}, 'output': ['$s', '$q']}}", DOCS, "['c', null]", 0},
        {"{'$topN': {'n': 2, 'sortBy': {'s': -1}, 'output': '$s'}}", DOCS, "['c', 'b']", 0},
        {"{'$topN': {'n': 9, 'sortBy': {'s': 1, 'q': -1}, 'output': ['$s', '$q']}}", DOCS,
         "[[null, 7], ['a', 2.5], ['b', 5], ['b', null], ['c', null]]", 0},
        {"{'$bottomN': {'n': 2, 'sortBy': {'s': 1}, 'output': '$s'}}", DOCS, "['b', 'c']", 0},
        {"{'$topN': {'n': 2, 'sortBy': {'s': 1}, 'output': '$s'}}", "[]", "[]", 0},
        {"{'$top': {'sortBy': {'s': 1}, 'output': '$s'}}", "[]", "null", 0},
        {"{'$firstN': {'n': 2, 'input': '$s'}}", DOCS, "['b', 'a']", 0},
        {"{'$lastN': {'n': 2, 'input': '$s'}}", DOCS, "['c', null]", 0},
        {"{'$minN': {'n': 2, 'input': '$q'}}", DOCS, "[2.5, 5]", 0},
        {"{'$maxN': {'n': 2, 'input': '$q'}}", DOCS, "[7, 5]", 0},
        {"{'$maxN': {'n': {'$add': [1, 1]}, 'input': '$s'}}", DOCS, "['c', 'b']", 0},
        {"{'$median': {'input': '$q', 'method': 'approximate'}}", DOCS, "5.0", 0},
        {"{'$median': {'input': '$s', 'method': 'approximate'}}", DOCS, "null", 0},
        {"{'$percentile': {'input': '$q', 'method': 'approximate', 'p': [0, 0.5, 1]}}", DOCS,
         "[2.5, 5.0, 7.0]", 0},
        {"{'$percentile': {'input': '$s', 'method': 'approximate', 'p': [0.5]}}", DOCS, "[null]",
         0},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_arena_t *arena = vd_arena_create();
        vd_error_t err = VD_ERROR_INIT;
        vd_value_t got = VD_VALUE_MISSING;
        int rc = gather(arena, cases[i].spec, cases[i].documents, &got, &err);
        cr_expect_eq(-rc, cases[i].code, "%s: %d %s", cases[i].spec, -rc, err.message);
        if (rc == VD_OK && cases[i].result != NULL) {
            vd_value_t want = query_value(arena, cases[i].result);
            cr_expect(got.type == want.type && vd_value_identical(got, want), "%s: got %s, want %s",
                      cases[i].spec, got.type == 0 ? "missing" : vd_value_to_json(arena, got, 2000),
                      cases[i].result);
            for (uint32_t cut = 0; cut <= 5; cut++) {
                rc = gather_parts(arena, cases[i].spec, cases[i].documents, cut, &got, &err);
                cr_expect(rc == VD_OK && vd_value_compare(got, want) == 0,
                          "%s in parts, cut at %u: %s, not %s", cases[i].spec, cut,
                          vd_value_to_json(arena, got, 2000), cases[i].result);
            }
        }
        vd_arena_destroy(&arena);
    }
}

Test(accumulate, refusals)
{
    static const struct {
        const char *field, *spec;
        int code;
    } cases[] = {
        {"a.b", "{'$sum': 1}", 40235},
        {"$a", "{'$sum': 1}", 40236},
        {"a", "5", 40234},
        {"a", "{}", 40234},
        {"a", "{'x': 1}", 40234},
        {"a", "{'$sum': 1, '$avg': 1}", 40238},
        {"a", "{'$sum': [1, 2]}", 40237},
        {"a", "{'$nope': 1}", 15952},
        {"a", "{'$accumulator': {}}", 238},
        {"a", "{'$count': 1}", 14},
        {"a", "{'$count': {'x': 1}}", 14},
        {"a", "{'$sum': '$'}", 16872},
        {"a", "{'$topN': 1}", 5788001},
        {"a", "{'$topN': {'x': 1}}", 5788002},
        {"a", "{'$top': {'n': 1, 'sortBy': {'a': 1}, 'output': 1}}", 5788002},
        {"a", "{'$topN': {'sortBy': {'a': 1}, 'output': 1}}", 5788003},
        {"a", "{'$topN': {'n': 1, 'sortBy': {'a': 1}}}", 5788004},
        {"a", "{'$topN': {'n': 1, 'output': 1}}", 5788005},
        {"a", "{'$topN': {'n': 1, 'output': 1, 'sortBy': 1}}", 5788604},
        {"a", "{'$topN': {'n': 1, 'output': 1, 'sortBy': {'a': 3}}}", 15975},
        {"a", "{'$firstN': 1}", 5787900},
        {"a", "{'$firstN': {'x': 1}}", 5787901},
        {"a", "{'$firstN': {'n': '$a', 'input': 1}}", 5787902},
        {"a", "{'$firstN': {'input': 1}}", 5787906},
        {"a", "{'$firstN': {'n': 1}}", 5787907},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_arena_t *arena = vd_arena_create();
        vd_error_t err = VD_ERROR_INIT;
        stor_accumulator_t *accumulator;
        int rc =
            stor_accumulator_parse(arena, vd_slice_str(cases[i].field),
                                   query_value(arena, cases[i].spec), NULL, &accumulator, &err);
        cr_expect_eq(-rc, cases[i].code, "%s: %d %s", cases[i].spec, -rc, err.message);
        vd_arena_destroy(&arena);
    }
    vd_arena_t *arena = vd_arena_create();
    vd_value_t v;
    cr_expect_eq(gather(arena, "{'$firstN': {'n': 0, 'input': 1}}", DOCS, &v, NULL), -5787908);
    cr_expect_eq(gather(arena, "{'$firstN': {'n': 1.5, 'input': 1}}", DOCS, &v, NULL), -5787903);
    cr_expect_eq(gather(arena, "{'$firstN': {'n': 'x', 'input': 1}}", DOCS, &v, NULL), -5787902);
    vd_arena_destroy(&arena);
}

Test(accumulate, memory)
{
    static const struct {
        const char *spec;
        size_t bytes_min, bytes_max; /* after 10,000 documents */
    } cases[] = {
        {"{'$sum': '$v'}", 0, 0},
        {"{'$max': '$v'}", 1, 64},
        {"{'$last': '$v'}", 1, 64},
        {"{'$mergeObjects': {'v': '$v'}}", 1, 64},
        {"{'$topN': {'n': 3, 'sortBy': {'v': -1}, 'output': '$v'}}", 1, 2000},
        {"{'$lastN': {'n': 3, 'input': '$v'}}", 1, 2000},
        {"{'$push': '$v'}", 10000 * 4, 1000000},
        {"{'$addToSet': '$v'}", 10000 * 4, 2000000},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_arena_t *arena = vd_arena_create(), *scratch = vd_arena_create();
        stor_accumulator_t *accumulator;
        cr_assert_eq(stor_accumulator_parse(arena, VD_SLICE_LIT("x"),
                                            query_value(arena, cases[i].spec), NULL, &accumulator,
                                            NULL),
                     VD_OK);
        stor_accumulator_state_t *state = stor_accumulator_begin(accumulator, arena);
        stor_expr_env_t env;
        stor_expr_env_init(&env, scratch, NULL);
        for (int n = 0; n < 10000; n++) {
            vd_bb_t bb;
            vd_bson_t document;
            vd_bb_init_arena(&bb, scratch, 1000);
            vd_bb_int32(&bb, "v", n);
            cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
            stor_expr_env_document(&env, document);
            cr_assert_eq(stor_accumulator_add(state, &env, NULL), VD_OK);
            vd_arena_reset(scratch);
        }
        size_t bytes = stor_accumulator_bytes(state);
        cr_expect(bytes >= cases[i].bytes_min && bytes <= cases[i].bytes_max, "%s: %zu",
                  cases[i].spec, bytes);
        vd_value_t v;
        cr_expect_eq(stor_accumulator_finish(state, arena, &v, NULL), VD_OK);
        if (v.type == VD_BSON_ARRAY && cases[i].bytes_min > 1)
            cr_expect_eq(vd_bson_count(vd_value_document(v)), 10000);
        vd_arena_destroy(&arena);
        vd_arena_destroy(&scratch);
    }
}
