/* tests/unit/storaged/test_delta.c — differences of documents: what is made gives the exact bytes
 * again; what does not fit is refused. */
#include "libcommon/base/rand.h"
#include "tests/support/random_value.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/delta.h"

#define PAIRS 20000

static bool equal(vd_bson_t a, vd_bson_t b)
{
    return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

/* ---- by hand ---- */

#define PAD                                                                                        \
    "'p': 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'"

typedef struct {
    const char *before, *after, *delta; /* NULL: none is made */
} case_t;

static const case_t cases[] = {
    {"{'_id': 1, 'a': 1, " PAD "}", "{'_id': 1, 'a': 1, " PAD "}", "{}"},
    {"{'_id': 1, 'a': 1, " PAD "}", "{'_id': 1, 'a': 2, " PAD "}", "{'ua': 2}"},
    {"{'_id': 1, 'a': 1, " PAD "}", "{'_id': 1, 'a': 1.0, " PAD "}", "{'ua': 1.0}"},
    {"{'_id': 1, 'a': 1, " PAD "}", "{'_id': 1, " PAD "}", "{'da': false}"},
    {"{'_id': 1, " PAD "}", "{'_id': 1, " PAD ", 'a': [1], 'b': {}}", "{'ia': [1], 'ib': {}}"},
    {"{'_id': 1, 'a': 1, " PAD ", 'b': 2}", "{'_id': 1, 'a': {'x': 1}, " PAD ", 'c': 3}",
     "{'ua': {'x': 1}, 'db': false, 'ic': 3}"},
    {"{'_id': 1, '': 1, " PAD "}", "{'_id': 1, '': 2, " PAD "}", "{'u': 2}"},
    {"{'_id': 1, 'i': 1, 'd': 1, " PAD "}", "{'_id': 1, 'i': 2, " PAD ", 'u': 1}",
     "{'ui': 2, 'dd': false, 'iu': 1}"},
    /* inside large sub-documents, not inside small ones or arrays */
    {"{'_id': 1, 's': {'a': 1, " PAD ", 'q': 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy'}}",
     "{'_id': 1, 's': {'a': 2, " PAD ", 'q': 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy'}}",
     "{'ss': {'ua': 2}}"},
    {"{'_id': 1, 's': {'a': 1}, " PAD "}", "{'_id': 1, 's': {'a': 2}, " PAD "}",
     "{'us': {'a': 2}}"},
    {"{'_id': 1, 't': [1, 2], " PAD "}", "{'_id': 1, 't': [1, 3], " PAD "}", "{'ut': [1, 3]}"},
    /* twice the same name */
    {"{'_id': 1, 'a': 1, 'a': 2, " PAD "}", "{'_id': 1, 'a': 1, 'a': 3, " PAD "}", NULL},
    /* not worth it, too small */
    {"{'_id': 1, " PAD "}", "{'_id': 1, 'q': 1, " PAD "}", NULL},
    {"{'_id': 1, 'a': 1}", "{'_id': 1, 'a': 2}", NULL},
};

Test(delta, by_hand)
{
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_bson_t before = query_json(arena, cases[i].before);
        vd_bson_t after = query_json(arena, cases[i].after), delta, back;
        bool made = stor_delta_make(arena, before, after, &delta);
        cr_assert_eq(made, cases[i].delta != NULL, "%s -> %s", cases[i].before, cases[i].after);
        if (!made)
            continue;
        cr_assert(equal(delta, query_json(arena, cases[i].delta)), "%s -> %s: %s", cases[i].before,
                  cases[i].after, vd_bson_to_json(arena, delta, 500));
        cr_assert_eq(stor_delta_apply(arena, before, delta, &back, NULL), VD_OK);
        cr_assert(equal(back, after));
    }
    vd_arena_destroy(&arena);
}

static const char *const misfits[] = {
    "{'': 1}",
    "{'x': 1}",
    "{'ux': 1}",
    "{'dx': false}",
    "{'sx': {}}",
    "{'sa': {'ux': 1}}",
    "{'sa': {}}",
    "{'ss': 1}",
    "{'ss': {'ux': 1}}",
    "{'xa': 1}",
    "{'ib': 1, 'ua': 2}",
    "{'ib': 1, '': 2}",
    "{'ub': 1, 'ua': 2}",
    "{'ua': 1, 'ua': 2}",
    "{'ss': {'ib': 1, 'da': 1}}",
};

Test(delta, what_does_not_fit)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t before = query_json(arena, "{'_id': 1, 'a': 1, 's': {'a': 2}, 'b': 3}"), back;
    for (size_t i = 0; i < VD_COUNT_OF(misfits); i++) {
        vd_error_t err = VD_ERROR_INIT;
        vd_bson_t delta = query_json(arena, misfits[i]);
        int rc = stor_delta_apply(arena, before, delta, &back, &err);
        cr_assert_eq(rc, VD_ERR_CORRUPT, "%s", misfits[i]);
        cr_assert_eq(err.code, VD_ERR_CORRUPT);
    }
    /* What fits is not looked at further: an inserted name may be there already. */
    cr_assert_eq(
        stor_delta_apply(arena, before, query_json(arena, "{'i': 1, 'ib': 2}"), &back, NULL),
        VD_OK);
    cr_assert_eq(vd_bson_count(back), 6);
    vd_arena_destroy(&arena);
}

/* Bottom to top: {'x': {'x': ... {'a': n, pad}}}. */
static vd_bson_t nested(vd_arena_t *arena, int depth, int32_t n)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t document;
    char pad[400];
    memset(pad, 'x', sizeof pad);
    vd_bb_init_arena(bb, arena, 65536);
    for (int i = 0; i < depth; i++)
        vd_bb_begin_document(bb, "x");
    vd_bb_int32(bb, "a", n);
    vd_bb_string(bb, "p", vd_slice(pad, sizeof pad));
    for (int i = 0; i < depth; i++)
        vd_bb_close(bb);
    cr_assert_eq(vd_bb_finish(bb, &document, NULL), VD_OK);
    return document;
}

Test(delta, deep)
{
    vd_arena_t *arena = vd_arena_create();
    for (int depth = 0; depth < 90; depth++) {
        vd_bson_t before = nested(arena, depth, 1), after = nested(arena, depth, 2), delta, back;
        bool made = stor_delta_make(arena, before, after, &delta);
        cr_assert_eq(made, depth <= 20, "%d",
                     depth); /* else the whole of what is below stands in it */
        if (!made)
            continue;
        cr_assert_lt(delta.len, 300);
        cr_assert_eq(stor_delta_apply(arena, before, delta, &back, NULL), VD_OK);
        cr_assert(equal(back, after));
    }
    /* A delta that goes deeper than make goes is refused. */
    vd_bb_t bb;
    vd_bson_t delta, back;
    vd_bb_init_arena(&bb, arena, 65536);
    for (int i = 0; i < 70; i++)
        vd_bb_begin_document(&bb, "sx");
    for (int i = 0; i < 70; i++)
        vd_bb_close(&bb);
    cr_assert_eq(vd_bb_finish(&bb, &delta, NULL), VD_OK);
    cr_assert_eq(stor_delta_apply(arena, nested(arena, 80, 1), delta, &back, NULL), VD_ERR_CORRUPT);
    vd_arena_destroy(&arena);
}

/* ---- by chance ---- */

static vd_slice_t name_make(vd_rand_t *rand, char buf[16])
{
    static const char *const names[] = {"_id", "a", "b", "c", "d", "i", "s", "u", "", "ua", "long"};
    /* From few names, so that they are there twice now and then. */
    if (vd_rand_below(rand, 6) == 0)
        return vd_slice_str(names[vd_rand_below(rand, VD_COUNT_OF(names))]);
    int len = snprintf(buf, 16, "f%u", (unsigned)vd_rand_below(rand, 200));
    return vd_slice(buf, (size_t)len);
}

static void field_make(vd_rand_t *rand, vd_bb_t *bb, vd_arena_t *arena, vd_slice_t name, int depth)
{
    char buf[16], pad[300];
    if (depth < 4 && vd_rand_below(rand, 5) == 0) {
        vd_bb_open_document(bb, name);
        for (uint64_t n = vd_rand_below(rand, 12); n > 0; n--)
            field_make(rand, bb, arena, name_make(rand, buf), depth + 1);
        vd_bb_close(bb);
        return;
    }
    if (vd_rand_below(rand, 3) == 0) {
        memset(pad, 'p', sizeof pad);
        vd_bb_value(bb, name,
                    vd_value_from_string(arena, vd_slice(pad, vd_rand_below(rand, sizeof pad))));
        return;
    }
    random_append(rand, bb, arena, name, 0);
}

static vd_bson_t document_make(vd_rand_t *rand, vd_arena_t *arena)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t document;
    char buf[16];
    vd_bb_init_arena(bb, arena, 1 << 20);
    for (uint64_t n = vd_rand_below(rand, 25); n > 0; n--)
        field_make(rand, bb, arena, name_make(rand, buf), 0);
    cr_assert_eq(vd_bb_finish(bb, &document, NULL), VD_OK);
    return document;
}

/* Fields go, change, come, change places; inside sub-documents too. */
static void mutate(vd_rand_t *rand, vd_bb_t *bb, vd_arena_t *arena, vd_bson_t before, int depth)
{
    vd_bson_iter_t iter;
    char buf[16];
    uint64_t calm = 1 + vd_rand_below(rand, 30);
    vd_bson_iter_init(&iter, before);
    while (vd_bson_iter_next(&iter)) {
        bool document = iter.value.type == VD_BSON_OBJECT && depth < 4;
        switch (vd_rand_below(rand, 4 + 2 * calm)) {
        case 0:
            break;
        case 1:
            field_make(rand, bb, arena, iter.name, depth);
            break;
        case 2:
            field_make(rand, bb, arena, name_make(rand, buf), depth);
            vd_bb_value(bb, iter.name, iter.value);
            break;
        case 3:
            if (document) {
                vd_bb_open_document(bb, iter.name);
                mutate(rand, bb, arena, vd_value_document(iter.value), depth + 1);
                vd_bb_close(bb);
                break;
            }
            vd_bb_value(bb, name_make(rand, buf), iter.value);
            break;
        default:
            if (document && vd_rand_below(rand, 2) == 0) {
                vd_bb_open_document(bb, iter.name);
                mutate(rand, bb, arena, vd_value_document(iter.value), depth + 1);
                vd_bb_close(bb);
            } else {
                vd_bb_value(bb, iter.name, iter.value);
            }
        }
    }
    for (uint64_t n = vd_rand_below(rand, 3); n > 0; n--)
        field_make(rand, bb, arena, name_make(rand, buf), depth);
}

static bool pair_make(vd_rand_t *rand, vd_arena_t *arena, vd_bson_t *ret_before,
                      vd_bson_t *ret_after, vd_bson_t *ret_delta)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    *ret_before = document_make(rand, arena);
    vd_bb_init_arena(bb, arena, 1 << 20);
    mutate(rand, bb, arena, *ret_before, 0);
    cr_assert_eq(vd_bb_finish(bb, ret_after, NULL), VD_OK);
    return stor_delta_make(arena, *ret_before, *ret_after, ret_delta);
}

Test(delta, what_is_made_gives_the_exact_bytes, .timeout = 300)
{
    vd_rand_t rand;
    vd_arena_t *arena = vd_arena_create();
    int made = 0;
    vd_rand_seed(&rand, 4711);
    for (int i = 0; i < PAIRS; i++) {
        vd_bson_t before, after, delta, back;
        vd_error_t err = VD_ERROR_INIT;
        vd_arena_reset(arena);
        if (!pair_make(&rand, arena, &before, &after, &delta))
            continue;
        made++;
        cr_assert_leq(delta.len, after.len / 4 * 3);
        cr_assert_eq(vd_bson_validate(vd_slice(delta.data, delta.len), 0, 200, NULL), VD_OK);
        cr_assert_eq(stor_delta_apply(arena, before, delta, &back, &err), VD_OK, "%d: %s", i,
                     err.message);
        cr_assert(equal(back, after), "pair %d\n%s\n%s\n%s\n%s", i,
                  vd_bson_to_json(arena, before, 4000), vd_bson_to_json(arena, after, 4000),
                  vd_bson_to_json(arena, delta, 4000), vd_bson_to_json(arena, back, 4000));
    }
    cr_assert_gt(made, PAIRS / 10, "only %d", made);
    vd_arena_destroy(&arena);
}

/* Damaged deltas and documents in memory of exactly their size, so that a sanitizer sees each read
 * behind the end. Given back is a document or an error. */
static void apply_exact(vd_arena_t *arena, vd_bson_t before, vd_bson_t delta)
{
    uint8_t *b = malloc(before.len), *d = malloc(delta.len);
    vd_bson_t after;
    memcpy(b, before.data, before.len);
    memcpy(d, delta.data, delta.len);
    int rc = stor_delta_apply(arena, (vd_bson_t){b, before.len}, (vd_bson_t){d, delta.len}, &after,
                              NULL);
    if (rc == VD_OK) {
        cr_assert_geq(after.len, 5);
        cr_assert_eq(vd_get_u32(after.data), after.len);
        cr_assert_eq(after.data[after.len - 1], 0);
    }
    free(b);
    free(d);
}

Test(delta, damaged, .timeout = 300)
{
    vd_rand_t rand;
    vd_arena_t *arena = vd_arena_create();
    vd_rand_seed(&rand, 815);
    for (int i = 0; i < 1500; i++) {
        vd_bson_t before, after, delta;
        vd_arena_reset(arena);
        if (!pair_make(&rand, arena, &before, &after, &delta))
            continue;
        uint8_t *bytes = vd_arena_copy(arena, delta.data, delta.len);
        vd_arena_mark_t mark = vd_arena_mark(arena);
        for (int n = 0; n < 40; n++) {
            memcpy(bytes, delta.data, delta.len);
            uint32_t len = delta.len;
            if (n % 4 == 0 && len > 5) { /* cut, with and without a length that says so */
                len = 5 + (uint32_t)vd_rand_below(&rand, len - 5);
                if (n % 8 == 0)
                    vd_put_u32(bytes, len), bytes[len - 1] = 0;
            } else {
                for (uint64_t flips = 1 + vd_rand_below(&rand, 3); flips > 0; flips--)
                    bytes[4 + vd_rand_below(&rand, len - 4)] ^=
                        (uint8_t)(1u << vd_rand_below(&rand, 8));
            }
            vd_bson_t bad = {bytes, len};
            apply_exact(arena, before, bad);
            apply_exact(arena, bad, delta); /* the document instead */
            vd_arena_rewind(arena, mark);
        }
    }
    vd_arena_destroy(&arena);
}

/* A delta of one document over another: refused, or a document. */
Test(delta, of_another_document, .timeout = 300)
{
    vd_rand_t rand;
    vd_arena_t *arena = vd_arena_create();
    vd_rand_seed(&rand, 99);
    for (int i = 0; i < 4000; i++) {
        vd_bson_t before, after, delta, back;
        vd_arena_reset(arena);
        if (!pair_make(&rand, arena, &before, &after, &delta))
            continue;
        vd_bson_t other = document_make(&rand, arena);
        int rc = stor_delta_apply(arena, other, delta, &back, NULL);
        cr_assert(rc == VD_OK || rc == VD_ERR_CORRUPT, "%d", rc);
        if (rc == VD_OK)
            cr_assert_eq(vd_bson_validate(vd_slice(back.data, back.len), 0, 200, NULL), VD_OK);
    }
    vd_arena_destroy(&arena);
}
