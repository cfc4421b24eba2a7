/* tests/unit/base/test_map.c — the hash map against a plain array, at its limit, and removal while
 * walking. */
#include "libcommon/base/map.h"
#include "libcommon/base/rand.h"

#include <criterion/criterion.h>

#define KEYS 500

Test(map, agrees_with_an_array)
{
    static char values[KEYS];
    void *model[KEYS] = {0};
    size_t count = 0;
    vd_rand_t rand;
    vd_rand_seed(&rand, 7);
    vd_map_t *map = vd_map_create(KEYS);
    for (int i = 0; i < 100000; i++) {
        uint64_t key = vd_rand_below(&rand, KEYS);
        void *value = &values[vd_rand_below(&rand, KEYS)], *old = NULL;
        if (vd_rand_below(&rand, 2) == 0) {
            cr_assert_eq(vd_map_put(map, vd_key_u64(&key), value, &old), VD_OK);
            cr_assert_eq(old, model[key]);
            count += model[key] == NULL;
            model[key] = value;
        } else {
            cr_assert_eq(vd_map_remove(map, vd_key_u64(&key)), model[key]);
            count -= model[key] != NULL;
            model[key] = NULL;
        }
        key = vd_rand_below(&rand, KEYS);
        cr_assert_eq(vd_map_get(map, vd_key_u64(&key)), model[key]);
        cr_assert_eq(vd_map_count(map), count);
    }
    vd_map_destroy(&map);
    cr_assert_null(map);
    vd_map_destroy(&map);
}

Test(map, full_and_replace)
{
    int a, b;
    void *old = &a;
    vd_map_t *map = vd_map_create(2);
    cr_assert_null(vd_map_get(map, VD_SLICE_LIT("x")));
    cr_assert_null(vd_map_remove(map, VD_SLICE_LIT("x")));
    cr_assert_eq(vd_map_put(map, VD_SLICE_LIT("x"), &a, &old), VD_OK);
    cr_assert_null(old);
    cr_assert_eq(vd_map_put(map, VD_SLICE_NULL, &b, NULL), VD_OK);
    cr_assert_eq(vd_map_put(map, VD_SLICE_LIT("z"), &b, NULL), VD_ERR_FULL);
    cr_assert_eq(vd_map_put(map, VD_SLICE_LIT("x"), &b, &old), VD_OK);
    cr_assert_eq(old, &a);
    cr_assert_eq(vd_map_get(map, VD_SLICE_NULL), &b);
    vd_map_destroy(&map);
}

Test(map, remove_while_walking)
{
    int value;
    vd_map_t *map = vd_map_create(1000);
    for (uint64_t i = 0; i < 1000; i++)
        cr_assert_eq(vd_map_put(map, vd_key_u64(&i), &value, NULL), VD_OK);
    size_t position = 0, seen = 0;
    vd_slice_t key;
    void *found;
    while (vd_map_next(map, &position, &key, &found)) {
        uint64_t k;
        memcpy(&k, key.data, sizeof k);
        seen++;
        if (k % 2 == 0)
            cr_assert_eq(vd_map_remove(map, vd_key_u64(&k)), &value);
    }
    cr_assert_eq(seen, 1000);
    cr_assert_eq(vd_map_count(map), 500);
    vd_map_destroy(&map);
}

Test(map, hash_spreads_and_repeats)
{
    uint64_t a = vd_hash(VD_SLICE_LIT("abcdefgh")), b = vd_hash(VD_SLICE_LIT("abcdefgi"));
    cr_assert_neq(a, b);
    cr_assert_eq(a, vd_hash(VD_SLICE_LIT("abcdefgh")));
    cr_assert_neq(vd_hash(VD_SLICE_LIT("")), vd_hash(VD_SLICE_LIT("\0")));
}
