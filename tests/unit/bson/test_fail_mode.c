/* tests/unit/bson/test_fail_mode.c — when fail points act. */
#include "libcommon/bson/build.h"
#include "libcommon/bson/fail_mode.h"

#include <criterion/criterion.h>

static vd_arena_t *arena;

static void fail_mode_set_up(void)
{
    arena = vd_arena_create();
}

static void fail_mode_tear_down(void)
{
    vd_arena_destroy(&arena);
}

TestSuite(fail_mode, .init = fail_mode_set_up, .fini = fail_mode_tear_down);

/* {mode: text}, or {mode: {name: n}}. */
static int parse(const char *text, const char *name, int n, vd_fail_mode_t *ret_mode)
{
    vd_bb_t bb;
    vd_bson_t document;
    vd_bb_init_arena(&bb, arena, 1000);
    if (text != NULL) {
        vd_bb_cstr(&bb, "mode", text);
    } else {
        vd_bb_begin_document(&bb, "mode");
        vd_bb_int32(&bb, name, n);
        vd_bb_close(&bb);
    }
    cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
    return vd_fail_mode_parse(vd_bson_get(document, "mode"), ret_mode, NULL);
}

static uint64_t hits_of_ten(vd_fail_mode_t *mode)
{
    uint64_t hits = 0;
    for (int i = 0; i < 10; i++)
        hits += vd_fail_mode_hit(mode);
    cr_expect_eq(mode->hits, hits);
    return hits;
}

Test(fail_mode, acts)
{
    vd_fail_mode_t mode = {0};
    cr_expect_eq(hits_of_ten(&mode), 0);
    cr_assert_eq(parse("off", NULL, 0, &mode), VD_OK);
    cr_expect_eq(hits_of_ten(&mode), 0);
    cr_assert_eq(parse("alwaysOn", NULL, 0, &mode), VD_OK);
    cr_expect_eq(hits_of_ten(&mode), 10);
    cr_assert_eq(parse(NULL, "times", 3, &mode), VD_OK);
    cr_expect_eq(hits_of_ten(&mode), 3);
    cr_assert_eq(parse(NULL, "times", 0, &mode), VD_OK);
    cr_expect_eq(hits_of_ten(&mode), 0);
    cr_assert_eq(parse(NULL, "skip", 3, &mode), VD_OK);
    cr_expect_not(vd_fail_mode_hit(&mode));
    cr_expect_eq(hits_of_ten(&mode), 8);
}

Test(fail_mode, refused)
{
    vd_fail_mode_t mode;
    cr_expect_eq(parse("sometimes", NULL, 0, &mode), VD_ERR_BAD_VALUE);
    cr_expect_eq(parse(NULL, "times", -1, &mode), VD_ERR_BAD_VALUE);
    cr_expect_eq(parse(NULL, "skip", -2, &mode), VD_ERR_BAD_VALUE);
    cr_expect_eq(parse(NULL, "often", 1, &mode), VD_ERR_BAD_VALUE);
    cr_expect_eq(vd_fail_mode_parse(VD_VALUE_MISSING, &mode, NULL), VD_ERR_BAD_VALUE);
    cr_expect_not(vd_fail_mode_hit(&mode));
}
