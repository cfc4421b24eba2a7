/* tests/unit/query/test_filter_random.c — random filters on random documents: what is printed
 * agrees with what was parsed, and the laws of logic hold. Seed and round of a failure are in its
 * message. */
#include "libcommon/base/rand.h"
#include "libcommon/bson/build.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/query/match.h"

#define ROUNDS 20000

typedef struct {
    vd_rand_t rand;
    vd_bb_t *bb;
} maker_t;

static uint32_t pick(maker_t *maker, uint32_t bound)
{
    return (uint32_t)vd_rand_below(&maker->rand, bound);
}

static void make_value(maker_t *maker, const char *name, int depth)
{
    static const double doubles[] = {0.0, 1.0, 2.5, -1.0, 1e300};
    switch (pick(maker, depth > 0 ? 10 : 7)) {
    case 0:
        vd_bb_int32(maker->bb, name, (int32_t)pick(maker, 4));
        return;
    case 1:
        vd_bb_int64(maker->bb, name, (int64_t)pick(maker, 4) - 1);
        return;
    case 2:
        vd_bb_double(maker->bb, name, doubles[pick(maker, VD_COUNT_OF(doubles))]);
        return;
    case 3:
        vd_bb_cstr(maker->bb, name, (const char *[]){"", "x", "xy", "ab"}[pick(maker, 4)]);
        return;
    case 4:
        vd_bb_null(maker->bb, name);
        return;
    case 5:
        vd_bb_bool(maker->bb, name, pick(maker, 2) == 1);
        return;
    case 6:
        vd_bb_date(maker->bb, name, pick(maker, 3));
        return;
    case 7:
        vd_bb_begin_document(maker->bb, name);
        for (const char *p = "ab0"; *p != 0; p++)
            if (pick(maker, 2) == 0)
                make_value(maker, (char[]){*p, 0}, depth - 1);
        vd_bb_close(maker->bb);
        return;
    default:
        vd_bb_begin_array(maker->bb, name);
        for (uint32_t i = 0, count = pick(maker, 4); i < count; i++)
            make_value(maker, (char[]){(char)('0' + i), 0}, depth - 1);
        vd_bb_close(maker->bb);
    }
}

static void make_values(maker_t *maker, const char *name)
{
    vd_bb_begin_array(maker->bb, name);
    for (uint32_t i = 0, count = pick(maker, 4); i < count; i++)
        make_value(maker, (char[]){(char)('0' + i), 0}, 1);
    vd_bb_close(maker->bb);
}

static void make_filter(maker_t *maker, int depth);

static void make_operator(maker_t *maker, int depth)
{
    static const char *const comparisons[] = {"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"};
    static const char *const bits[] = {"$bitsAllSet", "$bitsAllClear", "$bitsAnySet",
                                       "$bitsAnyClear"};
    static const char *const lists[] = {"$in", "$nin", "$all"};
    switch (pick(maker, depth > 0 ? 12 : 9)) {
    case 0:
    case 1:
    case 2:
        make_value(maker, comparisons[pick(maker, 6)], 2);
        return;
    case 3:
        make_values(maker, lists[pick(maker, 3)]);
        return;
    case 4:
        vd_bb_bool(maker->bb, "$exists", pick(maker, 2) == 0);
        return;
    case 5:
        vd_bb_int32(maker->bb, "$size", (int32_t)pick(maker, 3));
        return;
    case 6:
        vd_bb_cstr(maker->bb, "$type",
                   (const char *[]){"int", "number", "string", "array"}[pick(maker, 4)]);
        return;
    case 7:
        vd_bb_int32(maker->bb, bits[pick(maker, 4)], (int32_t)pick(maker, 8));
        return;
    case 8:
        vd_bb_cstr(maker->bb, "$regex", (const char *[]){"^x", "y$", ""}[pick(maker, 3)]);
        return;
    case 9:
        vd_bb_begin_document(maker->bb, "$not");
        make_operator(maker, depth - 1);
        make_operator(maker, depth - 1);
        vd_bb_close(maker->bb);
        return;
    case 10:
        vd_bb_begin_document(maker->bb, "$elemMatch");
        make_operator(maker, depth - 1);
        make_operator(maker, depth - 1);
        vd_bb_close(maker->bb);
        return;
    default:
        vd_bb_begin_document(maker->bb, "$elemMatch");
        make_filter(maker, depth - 1);
        vd_bb_close(maker->bb);
    }
}

/* Fields of the open document. */
static void make_filter(maker_t *maker, int depth)
{
    static const char *const paths[] = {"a", "b", "a.b", "b.a", "a.0", "b.0.a", "a.a.b", "0"};
    static const char *const logic[] = {"$and", "$or", "$nor"};
    if (depth > 0 && pick(maker, 4) == 0) {
        vd_bb_begin_array(maker->bb, logic[pick(maker, 3)]);
        for (uint32_t i = 0, count = 1 + pick(maker, 3); i < count; i++) {
            vd_bb_begin_document(maker->bb, (char[]){(char)('0' + i), 0});
            make_filter(maker, depth - 1);
            vd_bb_close(maker->bb);
        }
        vd_bb_close(maker->bb);
        return;
    }
    for (uint32_t i = 0, count = pick(maker, 3); i < count; i++) {
        const char *path = paths[pick(maker, VD_COUNT_OF(paths))];
        if (pick(maker, 4) == 0) {
            make_value(maker, path, 2);
            continue;
        }
        vd_bb_begin_document(maker->bb, path);
        make_operator(maker, depth);
        vd_bb_close(maker->bb);
    }
}

static vd_bson_t finish(vd_bb_t *bb)
{
    vd_bson_t document;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert(vd_bb_finish(bb, &document, &err) == VD_OK, "%s", err.message);
    return document;
}

static vd_bson_t random_document(maker_t *maker, vd_arena_t *arena, bool filter)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 1 << 16);
    maker->bb = &bb;
    if (filter) {
        make_filter(maker, 3);
    } else {
        for (const char *p = "ab0"; *p != 0; p++)
            if (pick(maker, 4) != 0)
                make_value(maker, (char[]){*p, 0}, 4);
    }
    return finish(&bb);
}

static vd_bson_t join(vd_arena_t *arena, const char *name, vd_bson_t f, vd_bson_t g)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 1 << 17);
    vd_bb_begin_array(&bb, name);
    vd_bb_document(&bb, "0", f);
    vd_bb_document(&bb, "1", g);
    vd_bb_close(&bb);
    return finish(&bb);
}

static bool matches(vd_arena_t *arena, vd_bson_t filter, vd_bson_t document, int round,
                    stor_filter_t **ret_tree)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_filter_t *tree = NULL;
    int rc = stor_filter_parse(arena, filter, NULL, &tree, &err);
    cr_assert(rc == VD_OK, "round %d: %s: %s", round, err.message,
              vd_bson_to_json(arena, filter, 2000));
    stor_match_t match = {.arena = arena};
    bool result = false;
    cr_assert(stor_match_document(tree, document, &match, &result, &err) == VD_OK);
    if (ret_tree != NULL)
        *ret_tree = tree;
    return result;
}

Test(filter_random, laws, .timeout = 300)
{
    maker_t maker = {0};
    vd_rand_seed(&maker.rand, 20240615);
    vd_arena_t *arena = vd_arena_create();
    int matching = 0;
    for (int round = 0; round < ROUNDS; round++) {
        vd_bson_t document = random_document(&maker, arena, false);
        vd_bson_t f = random_document(&maker, arena, true);
        vd_bson_t g = random_document(&maker, arena, true);
        stor_filter_t *tree = NULL;
        bool of_f = matches(arena, f, document, round, &tree);
        bool of_g = matches(arena, g, document, round, NULL);
        matching += of_f;
        const char *text = vd_bson_to_json(arena, f, 2000);

        vd_bson_t printed = stor_filter_to_bson(arena, tree);
        cr_expect(matches(arena, printed, document, round, NULL) == of_f,
                  "round %d: printed: %s -> %s on %s", round, text,
                  vd_bson_to_json(arena, printed, 2000), vd_bson_to_json(arena, document, 2000));
        cr_expect(matches(arena, join(arena, "$and", f, g), document, round, NULL) ==
                      (of_f && of_g),
                  "round %d: and: %s", round, text);
        cr_expect(matches(arena, join(arena, "$or", f, g), document, round, NULL) == (of_f || of_g),
                  "round %d: or: %s", round, text);
        cr_expect(matches(arena, join(arena, "$nor", f, g), document, round, NULL) ==
                      (!of_f && !of_g),
                  "round %d: nor: %s", round, text);
        vd_arena_reset(arena);
    }
    cr_expect(matching > ROUNDS / 10 && matching < ROUNDS * 9 / 10, "%d", matching);
    vd_arena_destroy(&arena);
}
