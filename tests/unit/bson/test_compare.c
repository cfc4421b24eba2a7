/* tests/unit/bson/test_compare.c — order and hash of values. */
#include "libcommon/bson/compare.h"
#include "tests/support/random_value.h"

#include <criterion/criterion.h>

static vd_arena_t *arena;

static void compare_set_up(void)
{
    arena = vd_arena_create();
}

static void compare_tear_down(void)
{
    vd_arena_destroy(&arena);
}

TestSuite(compare, .init = compare_set_up, .fini = compare_tear_down);

static vd_bson_t doc_of(const char *name, vd_value_t a, const char *name2, vd_value_t b)
{
    vd_bb_t bb;
    vd_bson_t doc;
    vd_bb_init_arena(&bb, arena, 1000);
    vd_bb_value(&bb, vd_slice_str(name), a);
    vd_bb_value(&bb, vd_slice_str(name2), b);
    cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
    return doc;
}

static vd_value_t dec(const char *s)
{
    vd_decimal_t d;
    cr_assert(vd_decimal_from_string(vd_slice_str(s), &d));
    return vd_value_from_decimal(arena, d);
}

static vd_value_t text(const char *s)
{
    return vd_value_from_string(arena, vd_slice_str(s));
}

Test(compare, ladder_of_all_types)
{
    vd_value_t one = vd_value_from_int32(arena, 1), two = vd_value_from_double(arena, 2);
    static const uint8_t zeros[32] = {5}, ones[12] = {1};
    static const uint8_t code[6] = {2, 0, 0, 0, 'f', 0};
    static const uint8_t scope[] = {15, 0, 0, 0, 2, 0, 0, 0, 'f', 0, 5, 0, 0, 0, 0};
    static const uint8_t pointer[17] = {1};
    const vd_value_t ladder[] = {
        {NULL, 0, VD_BSON_MINKEY},
        VD_VALUE_MISSING,
        {NULL, 0, VD_BSON_UNDEFINED},
        vd_value_from_null(),
        vd_value_from_double(arena, (double)NAN),
        dec("-Infinity"),
        vd_value_from_int64(arena, INT64_MIN),
        vd_value_from_int32(arena, 0),
        dec("0.1"),
        vd_value_from_double(arena, 0.1),
        one,
        dec("1.000000000000000000000000000000001"),
        vd_value_from_int64(arena, (1LL << 53) + 1),
        vd_value_from_double(arena, 0x1p53 + 2),
        vd_value_from_int64(arena, INT64_MAX),
        vd_value_from_double(arena, 0x1p63),
        dec("9223372036854775808.1"),
        vd_value_from_double(arena, (double)INFINITY),
        text(""),
        text("a"),
        vd_value_from_string(arena, vd_slice("a\0", 2)),
        text("ab"),
        vd_value_from_document(VD_BSON_NONE),
        vd_value_from_document(doc_of("a", one, "b", VD_VALUE_MISSING)),
        vd_value_from_document(doc_of("a", one, "b", one)),
        vd_value_from_document(doc_of("a", two, "b", VD_VALUE_MISSING)),
        vd_value_from_document(doc_of("b", one, "b", VD_VALUE_MISSING)),
        vd_value_from_document(
            doc_of("a", text("x"), "b", VD_VALUE_MISSING)), /* type before name */
        vd_value_from_array(VD_BSON_NONE),
        vd_value_from_array(doc_of("9", one, "b", VD_VALUE_MISSING)), /* names do not count */
        vd_value_from_array(doc_of("0", two, "1", one)),
        {zeros + 6, 5, VD_BSON_BINARY},
        {(const uint8_t *)"\1\0\0\0\1a", 6, VD_BSON_BINARY},
        {(const uint8_t *)"\1\0\0\0\2A", 6, VD_BSON_BINARY},
        {(const uint8_t *)"\2\0\0\0\0AA", 7, VD_BSON_BINARY},
        {zeros + 6, 12, VD_BSON_OBJECTID},
        {ones, 12, VD_BSON_OBJECTID},
        vd_value_from_bool(false),
        vd_value_from_bool(true),
        vd_value_from_date(arena, -1),
        vd_value_from_date(arena, 0),
        vd_value_from_timestamp(arena, 0),
        vd_value_from_timestamp(arena, UINT64_MAX),
        {(const uint8_t *)"a\0\0", 3, VD_BSON_REGEX},
        {(const uint8_t *)"a\0i\0", 4, VD_BSON_REGEX},
        {(const uint8_t *)"b\0\0", 3, VD_BSON_REGEX},
        {pointer, 17, VD_BSON_DBPOINTER},
        {code, 6, VD_BSON_CODE},
        {scope, 15, VD_BSON_CODE_WITH_SCOPE},
        {NULL, 0, VD_BSON_MAXKEY},
    };
    for (size_t i = 0; i < VD_COUNT_OF(ladder); i++)
        for (size_t j = 0; j < VD_COUNT_OF(ladder); j++) {
            int c = vd_value_compare(ladder[i], ladder[j]);
            cr_assert_eq((c > 0) - (c < 0), (i > j) - (i < j), "%zu against %zu: %d", i, j, c);
        }
}

Test(compare, equal_across_types)
{
    static const char *const groups[][4] = {{"2", "2.0", "2.00", "2000E-3"},
                                            {"0", "-0", "0E+5", "0.0"}};
    for (size_t g = 0; g < 2; g++) {
        vd_value_t values[7] = {vd_value_from_int32(arena, g == 0 ? 2 : 0),
                                vd_value_from_int64(arena, g == 0 ? 2 : 0),
                                vd_value_from_double(arena, g == 0 ? 2 : -0.0)};
        for (int i = 0; i < 4; i++)
            values[3 + i] = dec(groups[g][i]);
        for (int i = 0; i < 7; i++)
            for (int j = 0; j < 7; j++) {
                cr_assert(vd_value_equal(values[i], values[j]));
                cr_assert_eq(vd_value_hash(values[i]), vd_value_hash(values[j]));
                cr_assert_eq(vd_value_identical(values[i], values[j]), i == j);
            }
    }
    vd_value_t symbol = text("abc");
    symbol.type = VD_BSON_SYMBOL;
    cr_assert(vd_value_equal(symbol, text("abc")));
    cr_assert_eq(vd_value_hash(symbol), vd_value_hash(text("abc")));
    cr_assert_eq(vd_value_hash(vd_value_from_double(arena, 0.5)), vd_value_hash(dec("0.50")));
    cr_assert_eq(vd_value_hash(dec("1E+400")), vd_value_hash(dec("10E+399")));
    cr_assert_neq(vd_value_hash(text("a")), vd_value_hash(text("b")));
}

Test(compare, random_order_is_an_order)
{
    vd_rand_t rand;
    vd_rand_seed(&rand, 3);
    for (int i = 0; i < 30000; i++) {
        vd_arena_reset(arena);
        vd_value_t a = random_value(&rand, arena), b = random_value(&rand, arena);
        vd_value_t c = random_value(&rand, arena);
        int ab = vd_value_compare(a, b), ba = vd_value_compare(b, a);
        cr_assert_eq((ab > 0) - (ab < 0), (ba < 0) - (ba > 0));
        if (ab <= 0 && vd_value_compare(b, c) <= 0)
            cr_assert_leq(vd_value_compare(a, c), 0);
        cr_assert_eq(vd_value_compare(a, a), 0);
    }
}

/* The hash may be stored: it must never change. */
Test(compare, hash_is_fixed)
{
    uint64_t a = vd_value_hash(vd_value_from_int32(arena, 1)), b = vd_value_hash(text("veddb"));
    cr_assert_eq(a, 0xd1a99c6396c3633ULL, "%llx", (unsigned long long)a);
    cr_assert_eq(b, 0x6848258a0ae8ccecULL, "%llx", (unsigned long long)b);
}
