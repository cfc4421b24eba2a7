/* tests/unit/bson/test_build.c — the builder: bytes as the specification has them, limits that
 * stick. */
#include "libcommon/bson/build.h"

#include <criterion/criterion.h>

Test(build, bytes)
{
    vd_bb_t bb;
    vd_bson_t doc, inner;
    vd_bb_init(&bb, 1000);
    vd_bb_cstr(&bb, "hello", "world");
    cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
    static const char want[] = "\x16\0\0\0\x02hello\0\x06\0\0\0world\0";
    cr_assert_eq(doc.len, sizeof want);
    cr_assert_eq(memcmp(doc.data, want, sizeof want), 0);

    vd_bb_t other;
    vd_bb_init(&other, 1000);
    vd_bb_int32(&other, "before", 1);
    vd_bb_concat(&other, doc);
    vd_bb_concat(&other, VD_BSON_NONE);
    vd_bb_document(&other, "sub", doc);
    vd_bb_array(&other, "none", VD_BSON_NONE);
    vd_bb_value(&other, VD_SLICE_LIT("not"), VD_VALUE_MISSING);
    uint8_t oid[12] = "twelve bytes";
    vd_bb_objectid(&other, "oid", oid);
    vd_bb_bool(&other, "yes", true);
    cr_assert_eq(vd_bb_finish(&other, &inner, NULL), VD_OK);
    cr_assert_eq(vd_bson_validate(vd_slice(inner.data, inner.len), 1, 3, NULL), VD_OK);
    cr_assert_eq(vd_bson_count(inner), 6);
    cr_assert(vd_slice_is(vd_value_string(vd_bson_get(inner, "hello")), "world"));
    cr_assert_eq(vd_bson_get(inner, "none").type, VD_BSON_ARRAY);
    vd_bb_reset(&other);
    cr_assert_eq(vd_bb_finish(&other, &inner, NULL), VD_OK);
    cr_assert(vd_bson_is_empty(inner));
    vd_bb_done(&other);
    vd_bb_done(&bb);
}

Test(build, size_at_the_limit)
{
    static char text[1000];
    memset(text, 'x', sizeof text);
    for (size_t len = 80; len < 100; len++) {
        vd_bb_t bb;
        vd_bson_t doc;
        vd_error_t err = VD_ERROR_INIT;
        vd_bb_init(&bb, 100);
        vd_bb_string(&bb, "s", vd_slice(text, len));
        int rc = vd_bb_finish(&bb, &doc, &err);
        bool fits = len + 4 + 1 + 2 + 4 + 1 + 1 <= 100;
        cr_assert_eq(rc, fits ? VD_OK : VD_ERR_BSON_OBJECT_TOO_LARGE, "%zu", len);
        if (!fits) {
            vd_bb_reset(&bb); /* the failure does not outlive a reset */
            cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
        }
        vd_bb_done(&bb);
    }
}

Test(build, failures_stick)
{
    vd_bb_t bb;
    vd_bson_t doc;
    vd_bb_init(&bb, 100000);
    vd_bb_value(&bb, vd_slice("a\0b", 3), vd_value_from_null());
    vd_bb_begin_document(&bb, "later");
    vd_bb_close(&bb);
    cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_ERR_INVALID_BSON);
    vd_bb_reset(&bb);
    for (int i = 1; i < VD_BSON_BUILD_DEPTH_MAX; i++)
        vd_bb_begin_array(&bb, "0");
    cr_assert_eq(bb.rc, VD_OK);
    vd_bb_begin_array(&bb, "0");
    cr_assert_eq(bb.rc, VD_ERR_OVERFLOW);
    for (int i = 0; i < VD_BSON_BUILD_DEPTH_MAX; i++)
        vd_bb_close(&bb);
    cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_ERR_OVERFLOW);
    vd_bb_done(&bb);
    vd_bb_init(&bb, 3);
    cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_ERR_BSON_OBJECT_TOO_LARGE);
    vd_bb_done(&bb);
}

Test(build, grows_in_an_arena)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bb_t bb;
    vd_bson_t doc;
    vd_bb_init_arena(&bb, arena, 1 << 20);
    vd_bb_begin_array(&bb, "a");
    for (uint32_t i = 0; i < 20000; i++) {
        char name[12];
        vd_bb_value(&bb, vd_array_name(i, name), vd_value_from_bool(i % 2 != 0));
    }
    vd_bb_close(&bb);
    cr_assert_eq(vd_bb_finish(&bb, &doc, NULL), VD_OK);
    cr_assert_eq(vd_bb_len(&bb), doc.len);
    cr_assert_eq(vd_bson_validate(vd_slice(doc.data, doc.len), 1, 2, NULL), VD_OK);
    cr_assert(vd_value_bool(vd_bson_get_path(doc, VD_SLICE_LIT("a.19999"))));
    vd_bb_done(&bb);
    vd_arena_destroy(&arena);
}

Test(build, array_names_and_object_ids)
{
    char name[12];
    cr_assert(vd_slice_is(vd_array_name(0, name), "0"));
    cr_assert(vd_slice_is(vd_array_name(10, name), "10"));
    cr_assert(vd_slice_is(vd_array_name(UINT32_MAX, name), "4294967295"));
    uint8_t a[12], b[12];
    vd_objectid_new(a);
    vd_objectid_new(b);
    cr_assert_eq(memcmp(a + 4, b + 4, 5), 0);
    cr_assert_neq(memcmp(a, b, 12), 0);
}
