/* tests/unit/engine/test_keycode.c — keys sort as values do, and give the value back. */
#include "veddb-storaged/engine/keycode.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "tests/support/random_value.h"

#include <criterion/criterion.h>

static vd_arena_t *arena;

static void keycode_set_up(void)
{
    arena = vd_arena_create();
}

static void keycode_tear_down(void)
{
    vd_arena_destroy(&arena);
}

TestSuite(keycode, .init = keycode_set_up, .fini = keycode_tear_down);

static int sign_of(int v)
{
    return (v > 0) - (v < 0);
}

static bool key_of(vd_value_t v, bool descending, vd_buf_t *key)
{
    bool exact = false;
    cr_assert_eq(stor_keycode_append(key, v, descending, &exact, NULL), VD_OK);
    return exact;
}

static void check_decodes(vd_value_t v, bool descending)
{
    vd_buf_t key, bits;
    vd_buf_init(&key, 65536);
    vd_buf_init(&bits, 65536);
    cr_assert(key_of(v, descending, &key));
    cr_assert_eq(stor_keycode_append_type_bits(&bits, v, NULL), VD_OK);
    cr_assert_eq(vd_buf_append(&key, "tail", 4), VD_OK);
    cr_assert_eq(vd_buf_append(&bits, "\1", 1), VD_OK);
    vd_slice_t k = vd_buf_slice(&key), b = vd_buf_slice(&bits), skipped = k;
    vd_value_t back;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(stor_keycode_decode(arena, &k, &b, descending, &back, &err), VD_OK, "%s: %s",
                 err.message, vd_value_to_json(arena, v, 500));
    cr_assert(vd_value_identical(v, back), "%s became %s", vd_value_to_json(arena, v, 500),
              vd_value_to_json(arena, back, 500));
    cr_assert(vd_slice_is(k, "tail"));
    cr_assert_eq(b.len, 1);
    /* As an index stores them: without zeroes at the end. */
    k = vd_buf_slice(&key), b = vd_buf_slice(&bits);
    for (b.len--; b.len > 0 && b.data[b.len - 1] == 0;)
        b.len--;
    cr_assert_eq(stor_keycode_decode(arena, &k, &b, descending, &back, &err), VD_OK, "%s: %s",
                 err.message, vd_value_to_json(arena, v, 500));
    cr_assert(vd_value_identical(v, back), "%s became %s", vd_value_to_json(arena, v, 500),
              vd_value_to_json(arena, back, 500));
    bool exact = false;
    cr_assert_eq(stor_keycode_skip(&skipped, descending, &exact, NULL), VD_OK);
    cr_assert(exact && vd_slice_is(skipped, "tail"));
    vd_buf_done(&key);
    vd_buf_done(&bits);
}

Test(keycode, random_pairs_sort_and_decode, .timeout = 300)
{
    vd_rand_t rand;
    vd_rand_seed(&rand, 20240917);
    vd_buf_t key_a, key_b;
    vd_buf_init(&key_a, 65536);
    vd_buf_init(&key_b, 65536);
    for (int i = 0; i < 200000; i++) {
        vd_arena_reset(arena);
        vd_value_t a = random_value(&rand, arena), b = random_value(&rand, arena);
        if (i % 2 == 0) /* numbers against numbers is where it may go wrong */
            a = vd_value_from_double(arena, random_double(&rand)),
            b = vd_value_from_decimal(arena, random_decimal(&rand));
        bool descending = i % 5 == 0;
        vd_buf_clear(&key_a);
        vd_buf_clear(&key_b);
        (void)key_of(a, descending, &key_a);
        (void)key_of(b, descending, &key_b);
        int want = sign_of(vd_value_compare(a, b));
        int have = sign_of(vd_slice_compare(vd_buf_slice(&key_a), vd_buf_slice(&key_b)));
        cr_assert_eq(descending ? -have : have, want, "round %d: %s against %s: %d, key %d", i,
                     vd_value_to_json(arena, a, 500), vd_value_to_json(arena, b, 500), want, have);
        cr_assert_eq(sign_of(vd_value_compare(b, a)), -want);
        if (want == 0)
            cr_assert_eq(vd_value_hash(a), vd_value_hash(b));
        if (i % 4 == 0) {
            check_decodes(a, descending);
            check_decodes(b, !descending);
        }
    }
    vd_buf_done(&key_a);
    vd_buf_done(&key_b);
}

/* BSON may name the elements of an array as it likes; the last bits may be zeroes, or none. */
Test(keycode, arrays_with_names_of_their_own)
{
    static const char *const names[][2] = {{"a", "b"}, {"1", "0"}, {"", "0"}, {"0", ""}, {"", ""}};
    for (size_t i = 0; i < VD_COUNT_OF(names); i++) {
        vd_bb_t bb;
        vd_bson_t doc;
        vd_bb_init_arena(&bb, arena, 65536);
        vd_bb_int32(&bb, names[i][0], 0);
        vd_bb_cstr(&bb, names[i][1], "x");
        cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
        check_decodes(vd_value_from_array(doc), false);
        check_decodes(vd_value_from_array(doc), true);
    }
}

Test(keycode, numbers_of_all_types_in_order)
{
    /* ascending; equal neighbours stand in one line */
    const struct {
        vd_value_t v;
        bool equals_before;
    } cases[] = {
        {vd_value_from_double(arena, (double)NAN), false},
        {vd_value_from_decimal(arena, vd_decimal_nan()), true},
        {vd_value_from_double(arena, -(double)INFINITY), false},
        {vd_value_from_decimal(arena, vd_decimal_infinity(true)), true},
        {vd_value_from_int64(arena, INT64_MIN), false},
        {vd_value_from_double(arena, -0x1p63), true},
        {vd_value_from_int64(arena, INT64_MIN + 1), false},
        {vd_value_from_int32(arena, -1), false},
        {vd_value_from_double(arena, -0.5), false},
        {vd_value_from_int32(arena, 0), false},
        {vd_value_from_double(arena, -0.0), true},
        {vd_value_from_double(arena, 5e-324), false},
        {vd_value_from_decimal(arena, vd_decimal_from_double(0.1)), false},
        {vd_value_from_double(arena, 0.1), false},
        {vd_value_from_int64(arena, 1LL << 53), false},
        {vd_value_from_int64(arena, (1LL << 53) + 1), false},
        {vd_value_from_double(arena, 0x1p53 + 2), false},
        {vd_value_from_int64(arena, INT64_MAX), false},
        {vd_value_from_double(arena, 0x1p63), false},
        {vd_value_from_double(arena, (double)INFINITY), false},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        check_decodes(cases[i].v, false);
        check_decodes(cases[i].v, true);
        if (i == 0)
            continue;
        vd_buf_t a, b;
        vd_buf_init(&a, 100);
        vd_buf_init(&b, 100);
        (void)key_of(cases[i - 1].v, false, &a);
        (void)key_of(cases[i].v, false, &b);
        int have = vd_slice_compare(vd_buf_slice(&a), vd_buf_slice(&b));
        cr_assert_eq(sign_of(have), cases[i].equals_before ? 0 : -1, "case %zu", i);
        vd_buf_done(&a);
        vd_buf_done(&b);
    }
}

Test(keycode, length_at_the_limit)
{
    static char text[3 * VD_KEYCODE_MAX_BYTES];
    memset(text, 'x', sizeof text);
    /* type byte and two bytes of end; up to 2015 bytes are exact */
    const size_t exact_text = VD_KEYCODE_MAX_BYTES - 32 - 1 - 3;
    for (size_t len = exact_text - 2; len < exact_text + 40; len++) {
        vd_buf_t key;
        vd_buf_init(&key, 65536);
        bool exact = key_of(vd_value_from_string(arena, vd_slice(text, len)), len % 2 == 0, &key);
        cr_assert_eq(exact, len <= exact_text, "%zu", len);
        cr_assert_eq(vd_buf_len(&key), exact ? len + 3 : VD_KEYCODE_MAX_BYTES);
        cr_assert_eq(vd_buf_append(&key, "Z", 1), VD_OK);
        vd_slice_t k = vd_buf_slice(&key), skipped = k, bits = VD_SLICE_NULL;
        vd_value_t back;
        int rc = stor_keycode_decode(arena, &k, &bits, len % 2 == 0, &back, NULL);
        cr_assert_eq(rc, exact ? VD_OK : VD_ERR_INVALID);
        cr_assert(vd_slice_is(k, "Z"));
        bool skip_exact = !exact;
        cr_assert_eq(stor_keycode_skip(&skipped, len % 2 == 0, &skip_exact, NULL), VD_OK);
        cr_assert(skip_exact == exact && vd_slice_is(skipped, "Z"));
        vd_buf_done(&key);
    }
}

Test(keycode, cut_keys_differ_by_what_is_cut)
{
    static char text[3 * VD_KEYCODE_MAX_BYTES];
    memset(text, 'x', sizeof text);
    vd_buf_t a, b, c;
    vd_buf_init(&a, 65536);
    vd_buf_init(&b, 65536);
    vd_buf_init(&c, 65536);
    vd_slice_t whole = vd_slice(text, sizeof text);
    cr_assert_not(key_of(vd_value_from_string(arena, whole), false, &a));
    vd_value_t symbol = vd_value_from_string(arena, whole);
    symbol.type = VD_BSON_SYMBOL;
    cr_assert_not(key_of(symbol, false, &b));
    cr_assert(vd_slice_equal(vd_buf_slice(&a), vd_buf_slice(&b)));
    text[sizeof text - 1] = 'y';
    cr_assert_not(key_of(vd_value_from_string(arena, whole), false, &c));
    cr_assert_not(vd_slice_equal(vd_buf_slice(&a), vd_buf_slice(&c)));
    cr_assert_eq(memcmp(vd_buf_slice(&a).data, vd_buf_slice(&c).data, 2016), 0);
    vd_buf_done(&a);
    vd_buf_done(&b);
    vd_buf_done(&c);
}

Test(keycode, buffer_too_small_leaves_it_as_it_was)
{
    vd_buf_t buf;
    vd_buf_init(&buf, 12);
    bool exact;
    uint8_t oid[12] = {0};
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(
        stor_keycode_append(&buf, (vd_value_t){oid, 12, VD_BSON_OBJECTID}, false, &exact, &err),
        VD_ERR_FULL);
    cr_assert_eq(vd_buf_len(&buf), 0);
    vd_buf_done(&buf);
}

Test(keycode, bytes_that_are_no_key)
{
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {"", 0},
        {"\x00", 1},
        {"\x01", 1},
        {"\xFF", 1},
        {"\x64 short", 7},
        {"\x3C"
         "abc",
         4},
        {"\x3C\x00\x07", 3},
        {"\x46\x0C", 2},
        {"\x5A\xFF\x00\x00\x00\x01\x00z", 8},
        {"\x8C\x00\x00\x00\x01z", 6},
        {"\x2D", 1},
        {"\x2C\x80\x00\x00\x00\x00\x00\x00\x00\x00", 10},
        {"\x50\x50\x50", 3},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_slice_t key = vd_slice(cases[i].bytes, cases[i].len), bits = VD_SLICE_NULL;
        vd_value_t v;
        cr_assert_eq(stor_keycode_decode(arena, &key, &bits, false, &v, NULL), VD_ERR_CORRUPT,
                     "%zu", i);
        cr_assert_eq(key.len, cases[i].len);
    }
    /* type bits that contradict the key: 0.5 as an int */
    vd_buf_t buf;
    vd_buf_init(&buf, 100);
    (void)key_of(vd_value_from_double(arena, 0.5), false, &buf);
    vd_slice_t key = vd_buf_slice(&buf), bits = VD_SLICE_NULL;
    vd_value_t v;
    cr_assert_eq(stor_keycode_decode(arena, &key, &bits, false, &v, NULL), VD_ERR_CORRUPT);
    vd_buf_done(&buf);
}

Test(keycode, missing_and_depth)
{
    check_decodes(VD_VALUE_MISSING, false);
    static uint8_t deep[16 * 1024];
    size_t levels = 600, len = 5 + levels * 8;
    for (size_t i = 0, at = 0, left = len; i <= levels; i++, at += 7, left -= 8) {
        vd_put_u32(deep + at, (uint32_t)left);
        if (i < levels)
            memcpy(deep + at + 4,
                   "\x03"
                   "a",
                   3);
    }
    vd_buf_t buf;
    vd_buf_init(&buf, 100000);
    bool exact;
    vd_value_t v = {deep, (uint32_t)len, VD_BSON_OBJECT};
    cr_assert_eq(stor_keycode_append(&buf, v, false, &exact, NULL), VD_ERR_OVERFLOW);
    cr_assert_eq(vd_buf_len(&buf), 0);
    vd_buf_done(&buf);
}

Test(keycode, successor)
{
    static const struct {
        const char *key;
        size_t len;
        const char *want; /* NULL: none */
    } cases[] = {
        {"a", 1, "b"}, {"a\xFF\xFF", 3, "b"}, {"\xFF", 1, NULL}, {"", 0, NULL}, {"ab", 2, "ac"}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_buf_t key;
        vd_buf_init(&key, 100);
        cr_assert_eq(vd_buf_append(&key, cases[i].key, cases[i].len), VD_OK);
        cr_assert_eq(stor_keycode_successor(&key), cases[i].want != NULL);
        if (cases[i].want != NULL)
            cr_assert(vd_slice_is(vd_buf_slice(&key), cases[i].want));
        vd_buf_done(&key);
    }
}
