/* tests/unit/query/test_sort.c — sort patterns: their forms, keys of documents, order. */
#include "libcommon/bson/compare.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/query/sort.h"

Test(sort, forms)
{
    static const struct {
        const char *spec;
        int code;
        uint32_t count;
        int natural;
    } cases[] = {
        {"{}", 0, 0, 0},
        {"{'a': 1}", 0, 1, 0},
        {"{'a': 1, 'b.c': -1}", 0, 2, 0},
        {"{'a': 1.0, 'b': {'$numberLong': '-1'}, 'c': {'$numberDecimal': '1'}}", 0, 3, 0},
        {"{'$natural': 1}", 0, 0, 1},
        {"{'$natural': -1}", 0, 0, -1},
        {"{'$natural': 2}", 2, 0, 0},
        {"{'$natural': 1, 'a': 1}", 2, 0, 0},
        {"{'a': 2}", 15975, 0, 0},
        {"{'a': 0}", 15975, 0, 0},
        {"{'a': {'$numberDouble': 'NaN'}}", 15975, 0, 0},
        {"{'a': 'x'}", 15974, 0, 0},
        {"{'a': null}", 15974, 0, 0},
        {"{'a': true}", 15974, 0, 0},
        {"{'a': {'$meta': 'textScore'}}", 31138, 0, 0},
        {"{'a': {'$meta': 'textScore', 'x': 1}}", 9, 0, 0},
        {"{'a': {'x': 1}}", 17312, 0, 0},
        {"{'a': 1, 'a': -1}", 7472500, 0, 0},
        {"{'': 1}", 40352, 0, 0},
        {"{'a.': 1}", 40353, 0, 0},
        {"{'a..b': 1}", 15998, 0, 0},
        {"{'$a': 1}", 16410, 0, 0},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_arena_t *arena = vd_arena_create();
        vd_error_t err = VD_ERROR_INIT;
        stor_sort_t *sort;
        int rc = stor_sort_parse(arena, query_json(arena, cases[i].spec), &sort, &err);
        cr_expect_eq(-rc, cases[i].code, "%s: %d %s", cases[i].spec, -rc, err.message);
        if (rc == VD_OK) {
            cr_expect_eq(sort->count, cases[i].count, "%s", cases[i].spec);
            cr_expect_eq(sort->natural, cases[i].natural, "%s", cases[i].spec);
        }
        vd_arena_destroy(&arena);
    }
}

Test(sort, most_keys)
{
    vd_arena_t *arena = vd_arena_create();
    stor_sort_t *sort;
    char *spec = vd_arena_strdup(arena, "{'k0': 1");
    for (int i = 1; i < STOR_SORT_KEYS_MAX; i++)
        spec = vd_arena_printf(arena, "%s, 'k%d': 1", spec, i);
    cr_expect_eq(
        stor_sort_parse(arena, query_json(arena, vd_arena_printf(arena, "%s}", spec)), &sort, NULL),
        VD_OK);
    cr_expect_eq(stor_sort_parse(arena,
                                 query_json(arena, vd_arena_printf(arena, "%s, 'x': 1}", spec)),
                                 &sort, NULL),
                 -13103);
    vd_arena_destroy(&arena);
}

Test(sort, keys)
{
    static const struct {
        const char *spec, *document;
        const char *key; /* array; NULL: parallel arrays */
    } cases[] = {
        {"{'a': 1, 'b': -1}", "{'a': 5, 'b': 'x'}", "[5, 'x']"},
        {"{'a': 1, 'b': 1}", "{'b': 2}", "[null, 2]"},
        {"{'a.b': 1}", "{'a': {'b': 3}}", "[3]"},
        {"{'a.b': 1}", "{'a': 3}", "[null]"},
        {"{'a': 1}", "{'a': [5, 2, 9]}", "[2]"},
        {"{'a': -1}", "{'a': [5, 2, 9]}", "[9]"},
        {"{'a': 1}", "{'a': []}", "[{'$undefined': true}]"},
        {"{'a': 1}", "{'a': ['x', 3, null]}", "[null]"},
        {"{'a': -1}", "{'a': [[7], 100]}", "[[7]]"},
        {"{'a.b': 1}", "{'a': [{'b': 4}, {'b': 2}]}", "[2]"},
        {"{'a.b': 1}", "{'a': [{'b': 4}, {'c': 2}]}", "[null]"},
        {"{'a.b': -1}", "{'a': [{'b': [4, 8]}, {'b': 5}]}", "[8]"},
        {"{'a.b': -1}", "{'a': [1, {'b': 5}]}", "[5]"},
        {"{'a.b': 1}", "{'a': []}", "[null]"},
        {"{'a.1': 1}", "{'a': [5, 2, 9]}", "[2]"},
        {"{'a.0.b': 1}", "{'a': [{'b': 5}, {'b': 1}]}", "[5]"},
        {"{'a.b': 1, 'a.c': -1}", "{'a': [{'b': 5, 'c': 1}, {'b': 1, 'c': 7}]}", "[1, 7]"},
        {"{'a': 1, 'b': 1}", "{'a': [1], 'b': [2]}", NULL},
        {"{'a': 1, 'b': 1}", "{'a': [1], 'b': 2}", "[1, 2]"},
        {"{'a': 1, 'b': 1}", "{'a': [], 'b': []}", NULL},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_arena_t *arena = vd_arena_create();
        stor_sort_t *sort;
        vd_value_t keys[STOR_SORT_KEYS_MAX];
        cr_assert_eq(stor_sort_parse(arena, query_json(arena, cases[i].spec), &sort, NULL), VD_OK);
        int rc = stor_sort_key(sort, arena, query_json(arena, cases[i].document), keys, NULL);
        cr_expect_eq(rc, cases[i].key == NULL ? VD_ERR_BAD_VALUE : VD_OK, "%s %s", cases[i].spec,
                     cases[i].document);
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, cases[i].key == NULL
                                     ? VD_BSON_NONE
                                     : vd_value_document(query_value(arena, cases[i].key)));
        for (uint32_t k = 0; rc == VD_OK && k < sort->count; k++) {
            cr_assert(vd_bson_iter_next(&iter));
            cr_expect(keys[k].type == iter.value.type && vd_value_identical(keys[k], iter.value),
                      "%s %s: key %u is %s", cases[i].spec, cases[i].document, k,
                      vd_value_to_json(arena, keys[k], 200));
        }
        vd_arena_destroy(&arena);
    }
}

Test(sort, order)
{
    /* In rising order under {a: 1, b: -1}. */
    static const char *const documents[] = {
        "{'a': []}",   "{'a': null}",           "{'a': 1, 'b': 'z'}", "{'a': 1.0, 'b': 3}",
        "{'a': 1}",    "{'a': [2, 90]}",        "{'a': 'text'}",      "{'a': {'x': 1}}",
        "{'a': true}", "{'a': {'$maxKey': 1}}",
    };
    vd_arena_t *arena = vd_arena_create();
    stor_sort_t *sort;
    vd_value_t keys[VD_COUNT_OF(documents)][2];
    cr_assert_eq(stor_sort_parse(arena, query_json(arena, "{'a': 1, 'b': -1}"), &sort, NULL),
                 VD_OK);
    for (size_t i = 0; i < VD_COUNT_OF(documents); i++)
        cr_assert_eq(stor_sort_key(sort, arena, query_json(arena, documents[i]), keys[i], NULL),
                     VD_OK);
    for (size_t i = 0; i < VD_COUNT_OF(documents); i++)
        for (size_t j = 0; j < VD_COUNT_OF(documents); j++) {
            int c = stor_sort_compare(sort, keys[i], keys[j]);
            cr_expect((c > 0) - (c < 0) == (i > j) - (i < j), "%s against %s: %d", documents[i],
                      documents[j], c);
        }
    vd_value_t missing[2], null[2];
    cr_assert_eq(stor_sort_key(sort, arena, query_json(arena, "{}"), missing, NULL), VD_OK);
    cr_assert_eq(
        stor_sort_key(sort, arena, query_json(arena, "{'a': null, 'b': null}"), null, NULL), VD_OK);
    cr_expect_eq(stor_sort_compare(sort, missing, null), 0, "missing sorts as null");
    vd_arena_destroy(&arena);
}

Test(sort, by_id)
{
    static const struct {
        const char *spec;
        int direction; /* 0: no */
    } cases[] = {{"{'_id': 1}", 1}, {"{'_id': -1}", -1}, {"{'_id': 1, 'a': 1}", 0},
                 {"{'a': 1}", 0},   {"{}", 0},           {"{'_id.x': 1}", 0}};
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_sort_t *sort;
        int direction = 0;
        cr_assert_eq(stor_sort_parse(arena, query_json(arena, cases[i].spec), &sort, NULL), VD_OK);
        cr_expect_eq(stor_sort_is_id(sort, &direction), cases[i].direction != 0, "%s",
                     cases[i].spec);
        cr_expect_eq(direction, cases[i].direction, "%s", cases[i].spec);
    }
    vd_arena_destroy(&arena);
}
