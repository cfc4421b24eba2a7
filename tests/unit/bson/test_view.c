/* tests/unit/bson/test_view.c — what is BSON and what is not, walking, paths, meaning of values. */
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "tests/support/random_value.h"

#include <criterion/criterion.h>

static vd_arena_t *arena;

static void view_set_up(void)
{
    arena = vd_arena_create();
}

static void view_tear_down(void)
{
    vd_arena_destroy(&arena);
}

TestSuite(view, .init = view_set_up, .fini = view_tear_down);

#define BYTES(s)                                                                                   \
    {                                                                                              \
        (const uint8_t *)(s), sizeof(s) - 1                                                        \
    }

Test(view, documents_that_are_none)
{
    static const struct {
        const char *what;
        vd_slice_t bytes;
    } cases[] = {
        {"empty", BYTES("")},
        {"four bytes", BYTES("\x05\0\0\0")},
        {"length 4", BYTES("\x04\0\0\0\0")},
        {"negative length", BYTES("\xFF\xFF\xFF\xFF\0")},
        {"length too long", BYTES("\x06\0\0\0\0")},
        {"bytes behind", BYTES("\x05\0\0\0\0\0")},
        {"no final NUL", BYTES("\x05\0\0\0\1")},
        {"ends early", BYTES("\x07\0\0\0\0\0\0")},
        {"unknown type", BYTES("\x08\0\0\0\x14"
                               "a\0\0")},
        {"name without end", BYTES("\x07\0\0\0\x0A"
                                   "a\0")},
        {"int32 cut", BYTES("\x0B\0\0\0\x10"
                            "a\0\1\0\0\0")},
        {"boolean 2", BYTES("\x09\0\0\0\x08"
                            "a\0\2\0")},
        {"string length 0", BYTES("\x0D\0\0\0\x02"
                                  "a\0\0\0\0\0\0\0")},
        {"string negative", BYTES("\x0D\0\0\0\x02"
                                  "a\0\xFF\xFF\xFF\xFF\0\0")},
        {"string too long", BYTES("\x0D\0\0\0\x02"
                                  "a\0\3\0\0\0\0\0")},
        {"string without NUL", BYTES("\x0D\0\0\0\x02"
                                     "a\0\1\0\0\0x\0")},
        {"sub-document length 4", BYTES("\x0D\0\0\0\x03"
                                        "a\0\4\0\0\0\0\0")},
        {"sub-document too long", BYTES("\x0D\0\0\0\x03"
                                        "a\0\6\0\0\0\0\0")},
        {"binary negative", BYTES("\x0D\0\0\0\x05"
                                  "a\0\xFF\xFF\xFF\xFF\0\0")},
        {"binary too long", BYTES("\x0D\0\0\0\x05"
                                  "a\0\1\0\0\0\0\0")},
        {"regex with one part", BYTES("\x0A\0\0\0\x0B"
                                      "a\0x\0\0")},
        {"DBPointer cut", BYTES("\x10\0\0\0\x0C"
                                "a\0\1\0\0\0\0ab\0\0")},
        {"scope does not fill", BYTES("\x17\0\0\0\x0F"
                                      "a\0\x0F\0\0\0\1\0\0\0\0\5\0\0\0\0\0\0")},
        {"code too long", BYTES("\x16\0\0\0\x0F"
                                "a\0\x0E\0\0\0\2\0\0\0\0\5\0\0\0\0\0")},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        cr_assert_eq(vd_bson_validate(cases[i].bytes, VD_BSON_CHECK_UTF8, 180, &err),
                     VD_ERR_INVALID_BSON, "%s", cases[i].what);
        cr_assert_neq(err.message[0], '\0');
        /* the iterator stays inside, whatever it is given */
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, (vd_bson_t){cases[i].bytes.data, (uint32_t)cases[i].bytes.len});
        while (vd_bson_iter_next(&iter))
            continue;
    }
    static const vd_slice_t valid[] = {
        BYTES("\x05\0\0\0\0"),
        BYTES("\x09\0\0\0\x08"
              "a\0\1\0"),
        BYTES("\x0D\0\0\0\x02"
              "a\0\1\0\0\0\0\0"),
        BYTES("\x16\0\0\0\x0F"
              "a\0\x0E\0\0\0\1\0\0\0\0\5\0\0\0\0\0"),
        BYTES("\x07\0\0\0\xFF\0\0"),
    };
    for (size_t i = 0; i < VD_COUNT_OF(valid); i++)
        cr_assert_eq(vd_bson_validate(valid[i], VD_BSON_CHECK_UTF8, 1 + (i == 3), NULL), VD_OK,
                     "%zu", i);
}

Test(view, random_documents_are_valid_and_damage_is_survived)
{
    vd_rand_t rand;
    vd_rand_seed(&rand, 99);
    for (int i = 0; i < 20000; i++) {
        vd_arena_reset(arena);
        vd_bb_t bb;
        vd_bson_t doc;
        vd_bb_init_arena(&bb, arena, 65536);
        random_elements(&rand, &bb, arena, false, 0);
        cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
        cr_assert_eq(vd_bson_validate(vd_slice(doc.data, doc.len), 0, 20, NULL), VD_OK);
        uint8_t *damaged = vd_arena_copy(arena, doc.data, doc.len);
        damaged[vd_rand_below(&rand, doc.len)] ^= (uint8_t)(1u << vd_rand_below(&rand, 8));
        vd_bson_t bad = {damaged, doc.len};
        if (vd_bson_validate(vd_slice(damaged, doc.len), 0, 20, NULL) == VD_OK) {
            (void)vd_bson_compare(doc, bad);
            (void)vd_bson_to_json(arena, bad, 100);
        }
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, bad);
        while (vd_bson_iter_next(&iter))
            continue;
    }
}

Test(view, depth_at_the_limit)
{
    for (uint32_t levels = 178; levels <= 182; levels++) {
        vd_bb_t bb;
        vd_bson_t doc;
        vd_bb_init_arena(&bb, arena, 65536);
        for (uint32_t i = 1; i < levels; i++)
            vd_bb_begin_document(&bb, "a");
        for (uint32_t i = 1; i < levels; i++)
            vd_bb_close(&bb);
        cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
        cr_assert_eq(vd_bson_validate(vd_slice(doc.data, doc.len), 0, VD_BSON_DEPTH_MAX, NULL),
                     levels <= VD_BSON_DEPTH_MAX ? VD_OK : VD_ERR_OVERFLOW);
    }
}

Test(view, utf8)
{
    static const struct {
        const char *s;
        bool valid;
    } cases[] = {{"", true},
                 {"plain ascii, longer than eight", true},
                 {"\xC3\xA9", true},
                 {"12345678\xC3\xA9", true},
                 {"\xE2\x82\xAC", true},
                 {"\xF0\x9F\x98\x80", true},
                 {"\xF4\x8F\xBF\xBF", true},
                 {"\xF4\x90\x80\x80", false},
                 {"\xC0\x80", false},
                 {"\xC1\xBF", false},
                 {"\xE0\x9F\xBF", false},
                 {"\xED\xA0\x80", false},
                 {"\xED\x9F\xBF", true},
                 {"\xF0\x8F\xBF\xBF", false},
                 {"\x80", false},
                 {"\xE2\x82", false},
                 {"abcdefg\xFF", false},
                 {"\xF5\x80\x80\x80", false},
                 {"\xE2\x28\xA1", false},
                 {"12345678\xE2\x82", false}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_slice_t s = vd_slice_str(cases[i].s);
        cr_assert_eq(vd_utf8_valid(s), cases[i].valid, "%zu", i);
        vd_bb_t bb;
        vd_bson_t doc;
        vd_bb_init_arena(&bb, arena, 1000);
        vd_bb_string(&bb, "s", s);
        vd_bb_begin_document(&bb, cases[i].s);
        vd_bb_close(&bb);
        cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
        vd_slice_t bytes = vd_slice(doc.data, doc.len);
        cr_assert_eq(vd_bson_validate(bytes, VD_BSON_CHECK_UTF8, 5, NULL) == VD_OK, cases[i].valid);
        cr_assert_eq(vd_bson_validate(bytes, 0, 5, NULL), VD_OK);
    }
}

Test(view, get_path_count_first)
{
    vd_bb_t bb;
    vd_bson_t doc;
    vd_bb_init_arena(&bb, arena, 1000);
    vd_bb_begin_document(&bb, "a");
    vd_bb_begin_array(&bb, "b");
    vd_bb_int32(&bb, "0", 10);
    vd_bb_begin_document(&bb, "1");
    vd_bb_int64(&bb, "c", 11);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_cstr(&bb, "", "empty name");
    cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
    cr_assert_eq(vd_value_int64(vd_bson_get_path(doc, VD_SLICE_LIT("a.b.1.c"))), 11);
    cr_assert_eq(vd_value_int32(vd_bson_get_path(doc, VD_SLICE_LIT("a.b.0"))), 10);
    cr_assert(vd_value_is_missing(vd_bson_get_path(doc, VD_SLICE_LIT("a.b.c"))));
    cr_assert(vd_value_is_missing(vd_bson_get_path(doc, VD_SLICE_LIT("a.b.0.x"))));
    cr_assert(vd_value_is_missing(vd_bson_get_path(doc, VD_SLICE_LIT("a."))));
    cr_assert_eq(vd_bson_get_path(doc, VD_SLICE_NULL).type, VD_BSON_STRING);
    cr_assert_eq(vd_bson_count(doc), 2);
    vd_slice_t name;
    vd_value_t value;
    cr_assert(vd_bson_first(doc, &name, &value));
    cr_assert(vd_slice_is(name, "a"));
    cr_assert(vd_bson_is_empty(VD_BSON_NONE));
    cr_assert_not(vd_bson_first(VD_BSON_NONE, &name, &value));
    cr_assert_eq(vd_bson_count(VD_BSON_NONE), 0);
    cr_assert(vd_value_is_missing(vd_bson_get(doc, "zz")));
}

Test(view, meaning_of_values)
{
    const struct {
        vd_value_t v;
        bool truthy, whole;
        int64_t n;
    } cases[] = {
        {VD_VALUE_MISSING, false, false, 0},
        {vd_value_from_null(), false, false, 0},
        {vd_value_from_bool(true), true, false, 0},
        {vd_value_from_bool(false), false, false, 0},
        {vd_value_from_int32(arena, 0), false, true, 0},
        {vd_value_from_int64(arena, -7), true, true, -7},
        {vd_value_from_double(arena, 2.0), true, true, 2},
        {vd_value_from_double(arena, -0.0), false, true, 0},
        {vd_value_from_double(arena, 2.5), true, false, 0},
        {vd_value_from_double(arena, (double)NAN), true, false, 0},
        {vd_value_from_double(arena, 0x1p63), true, false, 0},
        {vd_value_from_double(arena, -0x1p63), true, true, INT64_MIN},
        {vd_value_from_decimal(arena, vd_decimal_from_int64(INT64_MIN)), true, true, INT64_MIN},
        {vd_value_from_decimal(arena, vd_decimal_nan()), true, false, 0},
        {vd_value_from_string(arena, VD_SLICE_NULL), true, false, 0},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        int64_t n = 0;
        cr_assert_eq(vd_value_truthy(cases[i].v), cases[i].truthy, "%zu", i);
        cr_assert_eq(vd_value_as_int64(cases[i].v, &n), cases[i].whole, "%zu", i);
        cr_assert_eq(n, cases[i].n, "%zu", i);
    }
    cr_assert_eq(vd_value_as_double(vd_value_from_int32(arena, 3)), 3.0);
    cr_assert_eq(vd_value_as_double(vd_value_from_bool(true)), 0);
}

Test(view, type_names)
{
    for (int type = 1; type < 256; type++) {
        const char *name = vd_bson_type_name((uint8_t)type);
        if (strcmp(name, "unknown") != 0)
            cr_assert_eq(vd_bson_type_by_name(vd_slice_str(name)), type);
    }
    cr_assert_str_eq(vd_bson_type_name(VD_BSON_MISSING), "missing");
    cr_assert_eq(vd_bson_type_by_name(VD_SLICE_LIT("number")), 0);
    cr_assert_eq(vd_bson_type_by_name(VD_SLICE_LIT("Int")), -1);
}

Test(view, json)
{
    vd_bb_t bb;
    vd_bson_t doc;
    vd_bb_init_arena(&bb, arena, 1000);
    vd_bb_double(&bb, "d", 1);
    vd_bb_double(&bb, "e", 0.1);
    vd_bb_cstr(&bb, "s", "q\"\n\x01");
    vd_bb_begin_array(&bb, "a");
    vd_bb_int32(&bb, "0", 1);
    vd_bb_null(&bb, "1");
    vd_bb_close(&bb);
    vd_bb_date(&bb, "t", 1700000000123);
    vd_bb_date(&bb, "u", -1);
    vd_bb_binary(&bb, "b", 0, VD_SLICE_LIT("ab"));
    vd_bb_timestamp(&bb, "ts", 1ull << 32 | 2);
    cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
    cr_assert_str_eq(vd_bson_to_json(arena, doc, 1000),
                     "{ \"d\": 1.0, \"e\": 0.1, \"s\": \"q\\\"\\n\\u0001\", \"a\": [ 1, null ], "
                     "\"t\": {\"$date\":\"2023-11-14T22:13:20.123Z\"}, "
                     "\"u\": {\"$date\":{\"$numberLong\":\"-1\"}}, "
                     "\"b\": {\"$binary\":{\"base64\":\"YWI=\",\"subType\":\"00\"}}, "
                     "\"ts\": {\"$timestamp\":{\"t\":1,\"i\":2}} }");
    cr_assert_str_eq(vd_bson_to_json(arena, doc, 10), "{ \"d\": ...");
    cr_assert_str_eq(vd_bson_to_json(arena, VD_BSON_NONE, 10), "{ }");
}
