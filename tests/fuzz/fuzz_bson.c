/* tests/fuzz/fuzz_bson.c — bytes that may be BSON: check, walk, compare, print, copy. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "tests/fuzz/fuzz.h"

static size_t walk(vd_bson_t doc, unsigned depth)
{
    vd_bson_iter_t iter;
    size_t count = 0;
    for (vd_bson_iter_init(&iter, doc); vd_bson_iter_next(&iter); count++)
        if (depth < 200 && (iter.value.type == VD_BSON_OBJECT || iter.value.type == VD_BSON_ARRAY))
            count += walk(vd_value_document(iter.value), depth + 1);
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vd_slice_t bytes = vd_slice(data, size);
    vd_bson_t doc = {data, (uint32_t)size};
    if (size > INT32_MAX)
        return 0;
    (void)walk(doc, 0); /* unchecked bytes: only bounds count */
    (void)vd_bson_get_path(doc, VD_SLICE_LIT("a.b.0"));
    bool strict = vd_bson_validate(bytes, VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX, NULL) == VD_OK;
    bool loose = vd_bson_validate(bytes, 0, VD_BSON_DEPTH_MAX, NULL) == VD_OK;
    VD_ASSERT(loose || !strict);
    if (!loose)
        return 0;

    vd_arena_t *arena = vd_arena_create();
    VD_ASSERT(vd_bson_compare(doc, doc) == 0);
    (void)vd_bson_to_json(arena, doc, 4096);
    vd_bb_t bb;
    vd_bson_t copy;
    vd_bson_iter_t iter;
    vd_bb_init_arena(&bb, arena, size);
    for (vd_bson_iter_init(&iter, doc); vd_bson_iter_next(&iter);) {
        vd_bb_value(&bb, iter.name, iter.value);
        (void)vd_value_hash(iter.value);
        (void)vd_value_truthy(iter.value);
    }
    VD_ASSERT(!iter.bad);
    int rc = vd_bb_finish(&bb, &copy, NULL);
    VD_ASSERT(rc == VD_OK && copy.len == size && memcmp(copy.data, data, size) == 0);
    vd_value_t whole = vd_value_from_document(doc), again = vd_value_from_document(copy);
    VD_ASSERT(vd_value_identical(whole, again) && vd_value_hash(whole) == vd_value_hash(again));
    vd_arena_destroy(&arena);
    return 0;
}
