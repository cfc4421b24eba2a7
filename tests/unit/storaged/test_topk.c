/* tests/unit/storaged/test_topk.c — sorts: against qsort, with and without a bound, in memory and
 * over runs on disk, and at the memory limit. */
#include "libcommon/bson/build.h"
#include "tests/unit/query/query_json.h"
#include "tests/unit/storaged/spill_support.h"
#include "veddb-storaged/exec/topk.h"

#include <stdlib.h>

#define DOCUMENTS 5000

static vd_bson_t numbered(vd_arena_t *arena, int32_t a, int32_t b)
{
    vd_bb_t bb;
    vd_bson_t document;
    vd_bb_init_arena(&bb, arena, 1024);
    vd_bb_int32(&bb, "a", a);
    vd_bb_int32(&bb, "b", b);
    cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
    return document;
}

static stor_sort_t *pattern(vd_arena_t *arena, const char *text)
{
    stor_sort_t *sort = NULL;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(stor_sort_parse(arena, query_json(arena, text), &sort, &err), VD_OK, "%s",
                 err.message);
    return sort;
}

static int by_a_then_order(const void *x, const void *y)
{
    const int32_t *a = x, *b = y;
    return a[0] != b[0] ? (a[0] < b[0] ? -1 : 1) : (a[1] > b[1]) - (a[1] < b[1]);
}

/* Equal keys must keep the order of arrival, so that the result is one exactly. */
static void check_bound(uint64_t k, uint32_t distinct, stor_work_t *work)
{
    vd_arena_t *arena = vd_arena_create(), *scratch = vd_arena_create();
    stor_topk_t *topk = stor_topk_create(pattern(arena, "{'a': 1}"), k, "Sort", work);
    int32_t(*model)[2] = calloc(DOCUMENTS, sizeof *model);
    uint64_t tag, seed = 42 + k;
    vd_bson_t document;
    for (int32_t i = 0; i < DOCUMENTS; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        model[i][0] = (int32_t)((seed >> 33) % distinct);
        model[i][1] = i;
        vd_arena_reset(scratch);
        cr_assert_eq(stor_topk_add(topk, NULL, scratch, numbered(scratch, model[i][0], i),
                                   (uint64_t)i + 7, NULL),
                     VD_OK);
    }
    cr_assert_eq(stor_topk_finish(topk, NULL, NULL), VD_OK);
    qsort(model, DOCUMENTS, sizeof *model, by_a_then_order);
    uint64_t expected = k == 0 || k > DOCUMENTS ? DOCUMENTS : k;
    for (uint64_t i = 0; i < expected; i++) {
        cr_assert_eq(stor_topk_next(topk, NULL, &document, &tag, NULL, NULL), VD_OK,
                     "k %llu at %llu", (unsigned long long)k, (unsigned long long)i);
        cr_assert_eq(vd_value_int32(vd_bson_get(document, "a")), model[i][0]);
        cr_assert_eq(vd_value_int32(vd_bson_get(document, "b")), model[i][1]);
        cr_assert_eq(tag, (uint64_t)model[i][1] + 7);
    }
    cr_assert_eq(stor_topk_next(topk, NULL, &document, &tag, NULL, NULL), VD_ERR_NOT_FOUND);
    stor_topk_destroy(&topk);
    stor_topk_destroy(&topk); /* nothing is fine */
    free(model);
    vd_arena_destroy(&scratch);
    vd_arena_destroy(&arena);
}

static const uint64_t bounds[] = {0, 1, 2, 10, 999, DOCUMENTS - 1, DOCUMENTS, DOCUMENTS + 1};

Test(topk, against_qsort)
{
    for (size_t i = 0; i < VD_COUNT_OF(bounds); i++)
        for (uint32_t distinct = 1; distinct <= 1000000; distinct *= 100) {
            stor_work_t work;
            stor_work_init(&work, NULL, false);
            check_bound(bounds[i], distinct, &work);
            cr_assert_eq(work.bytes, 0);
        }
}

/* The same over a budget that holds a fiftieth of the documents, so that runs of runs come about:
 * order and stability stay. */
Test(topk, against_qsort_on_disk)
{
    spill_t *spill = spill_open(16 * 1024, 0);
    for (size_t i = 0; i < VD_COUNT_OF(bounds); i++)
        for (uint32_t distinct = 1; distinct <= 1000000; distinct *= 100) {
            stor_work_t work;
            stor_work_init(&work, spill->node, false);
            check_bound(bounds[i], distinct, &work);
            cr_assert_eq(work.bytes, 0);
            if (bounds[i] == 0)
                cr_assert_gt(work.spilled.spills, 16);
            if (bounds[i] == 1)
                cr_assert_eq(work.spilled.spills, 0, "one is kept in memory");
        }
    spill_close(spill);
}

Test(topk, keys_of_arrays_and_missing)
{
    static const char *const given[] = {"{'_id': 1, 'a': [5, 9]}", "{'_id': 2}",
                                        "{'_id': 3, 'a': 'x'}",    "{'_id': 4, 'a': [1, 10]}",
                                        "{'_id': 5, 'a': []}",     "{'_id': 6, 'a': 6}"};
    static const struct {
        const char *sort;
        int32_t order[VD_COUNT_OF(given)];
    } cases[] = {{"{'a': 1}", {5, 2, 4, 1, 6, 3}}, {"{'a': -1}", {3, 4, 1, 6, 2, 5}}};
    for (size_t c = 0; c < VD_COUNT_OF(cases); c++) {
        vd_arena_t *arena = vd_arena_create(), *scratch = vd_arena_create();
        stor_work_t work;
        stor_work_init(&work, NULL, false);
        stor_topk_t *topk = stor_topk_create(pattern(arena, cases[c].sort), 0, "Sort", &work);
        vd_bson_t document;
        uint64_t tag;
        for (size_t i = 0; i < VD_COUNT_OF(given); i++) {
            vd_arena_reset(scratch);
            cr_assert_eq(stor_topk_add(topk, NULL, scratch, query_json(arena, given[i]), 0, NULL),
                         VD_OK);
        }
        cr_assert_eq(stor_topk_finish(topk, NULL, NULL), VD_OK);
        for (size_t i = 0; i < VD_COUNT_OF(given); i++) {
            cr_assert_eq(stor_topk_next(topk, NULL, &document, &tag, NULL, NULL), VD_OK);
            cr_assert_eq(vd_value_int32(vd_bson_get(document, "_id")), cases[c].order[i],
                         "%s at %zu", cases[c].sort, i);
        }
        stor_topk_destroy(&topk);
        vd_arena_destroy(&scratch);
        vd_arena_destroy(&arena);
    }
}

/* A bound keeps what is held small, so that it never meets the limit that all would. */
Test(topk, memory_limit)
{
    enum { LIMIT = 1024 * 1024 };
    spill_t *spill = spill_open(LIMIT, 0);
    for (int bounded = 0; bounded < 2; bounded++) {
        vd_arena_t *arena = vd_arena_create(), *scratch = vd_arena_create();
        stor_work_t work;
        stor_work_init(&work, spill->node, true); /* allowDiskUse: false */
        stor_topk_t *topk =
            stor_topk_create(pattern(arena, "{'a': 1}"), bounded ? 5 : 0, "Sort", &work);
        vd_error_t err = VD_ERROR_INIT;
        int rc = VD_OK;
        for (int32_t i = 0; i < 100000 && rc == VD_OK; i++) {
            vd_arena_reset(scratch);
            rc = stor_topk_add(topk, NULL, scratch, numbered(scratch, 100000 - i, i), 0, &err);
            cr_assert_leq(work.bytes, LIMIT + LIMIT / 32);
        }
        cr_assert_eq(rc, bounded ? VD_OK : VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE);
        stor_topk_destroy(&topk);
        cr_assert_eq(work.spilled.spills, 0);
        vd_arena_destroy(&scratch);
        vd_arena_destroy(&arena);
    }
    spill_close(spill);
}
