/* tests/unit/storaged/test_spill.c — files of queries on disk: what is written comes back, nothing
 * of it is readable, nothing is left behind; budgets; groups that spill are those that do not. */
#include "libcommon/base/fault.h"
#include "libcommon/base/rand.h"
#include "libcommon/bson/compare.h"
#include "tests/unit/query/query_json.h"
#include "tests/unit/storaged/pipeline_bench.h"
#include "veddb-storaged/exec/runs.h"

#include <fcntl.h>
#include <sys/stat.h>

#define PLANTED "the text that must not be found on the disk"

static void put_text(stor_run_t *run, const char *text)
{
    vd_slice_t parts[2] = {vd_slice_str(text), VD_SLICE_LIT("!")};
    cr_assert_eq(stor_run_put(run, parts, 2, NULL), VD_OK);
}

/* The whole file, read as anybody could who has the disk. */
static uint8_t *file_bytes(int fd, size_t *ret_len)
{
    struct stat st;
    cr_assert_eq(fstat(fd, &st), 0);
    cr_assert_eq(st.st_nlink, 0, "the file has a name");
    uint8_t *bytes = malloc((size_t)st.st_size + 1);
    cr_assert_eq(pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
    *ret_len = (size_t)st.st_size;
    return bytes;
}

Test(spill, comes_back_and_can_not_be_read)
{
    spill_t *spill = spill_open(1 << 20, 0);
    stor_work_t work;
    stor_run_t *run = NULL;
    char text[200];
    stor_work_init(&work, spill->node, false);
    cr_assert_eq(stor_run_create(&work, &run, NULL), VD_OK);
    for (int i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "%d %s", i, PLANTED);
        put_text(run, text);
    }
    cr_assert_eq(stor_run_flush(run, NULL, NULL), VD_OK);
    size_t len;
    uint8_t *bytes = file_bytes(stor_run_fd(run), &len);
    cr_assert_gt(len, 5000 * sizeof PLANTED);
    cr_assert_eq(len, stor_run_bytes(run));
    for (size_t part = 0; part + 8 < sizeof PLANTED; part += 4)
        cr_assert_null(memmem(bytes, len, &PLANTED[part], 8), "\"%.8s\" is readable",
                       &PLANTED[part]);
    cr_assert_not_null(memmem(bytes, len, "VDB1", 4), "it is no sealed block");
    free(bytes);
    vd_slice_t record;
    for (int i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "%d %s!", i, PLANTED);
        cr_assert_eq(stor_run_next(run, &record, NULL), VD_OK);
        cr_assert(vd_slice_equal(record, vd_slice_str(text)));
    }
    cr_assert_eq(stor_run_next(run, &record, NULL), VD_ERR_NOT_FOUND);
    stor_run_destroy(&run);
    spill_close(spill);
}

/* A byte that was changed on the disk is noticed. */
Test(spill, a_changed_block_is_refused)
{
    spill_t *spill = spill_open(1 << 20, 0);
    stor_work_t work;
    stor_run_t *run = NULL;
    vd_slice_t record;
    vd_error_t err = VD_ERROR_INIT;
    stor_work_init(&work, spill->node, false);
    cr_assert_eq(stor_run_create(&work, &run, NULL), VD_OK);
    put_text(run, PLANTED);
    cr_assert_eq(stor_run_flush(run, NULL, NULL), VD_OK);
    uint8_t byte;
    cr_assert_eq(pread(stor_run_fd(run), &byte, 1, 90), 1);
    byte ^= 1;
    cr_assert_eq(pwrite(stor_run_fd(run), &byte, 1, 90), 1);
    cr_assert_neq(stor_run_next(run, &record, &err), VD_OK);
    stor_run_destroy(&run);
    spill_close(spill);
}

/* What a crash left behind goes at the next start. */
Test(spill, start_sweeps)
{
    char path[128];
    spill_t *spill = spill_open(1 << 20, 0);
    snprintf(path, sizeof path, "%s/%s/run-abc", spill->folder, STOR_SPILL_FOLDER);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    cr_assert_geq(fd, 0);
    close(fd);
    stor_spill_close(&spill->node);
    spill_node(spill, 1 << 20, 0, 0);
    cr_assert_neq(access(path, F_OK), 0);
    spill_close(spill);
}

/* ---- budgets ---- */

Test(spill, disk_budget_and_full_disk)
{
    for (int fault = 0; fault < 2; fault++) {
        spill_t *spill = spill_open(1 << 20, fault ? 0 : 1 << 20);
        stor_work_t work;
        stor_run_t *run = NULL;
        vd_error_t err = VD_ERROR_INIT;
        int rc = VD_OK;
        stor_work_init(&work, spill->node, false);
        cr_assert_eq(stor_run_create(&work, &run, NULL), VD_OK);
        if (fault)
            cr_assert_eq(vd_fault_arm("spill.full=error:skip=3", NULL), VD_OK);
        vd_slice_t part = VD_SLICE_LIT(PLANTED);
        for (int i = 0; i < 100000 && rc == VD_OK; i++)
            rc = stor_run_put(run, &part, 1, &err);
        cr_assert_eq(rc, VD_ERR_OUT_OF_DISK_SPACE);
        stor_spill_stats_t stats;
        stor_spill_stats(spill->node, &stats);
        cr_assert_leq(stats.disk_bytes, 1 << 20);
        vd_fault_disarm(NULL);
        stor_run_destroy(&run);
        spill_close(spill);
    }
}

/* What one query has taken, another may not. */
Test(spill, node_budget)
{
    spill_t *spill = spill_open(1 << 20, 0);
    stor_spill_close(&spill->node);
    spill_node(spill, 1 << 20, 0, 3 << 19);
    stor_work_t a, b;
    size_t held_a = 0, held_b = 0;
    vd_error_t err = VD_ERROR_INIT;
    stor_work_init(&a, spill->node, false);
    stor_work_init(&b, spill->node, true);
    cr_assert_eq(stor_work_charge(&a, &held_a, 1 << 20, "$group", &err), VD_OK);
    cr_assert_eq(stor_work_charge(&b, &held_b, 1 << 18, "$group", &err), VD_OK);
    cr_assert_eq(stor_work_charge(&b, &held_b, 1 << 20, "$group", &err),
                 VD_ERR_EXCEEDED_MEMORY_LIMIT);
    stor_work_release(&b, &held_b);
    cr_assert_eq(stor_work_charge(&a, &held_a, 2 << 20, "$group", &err), VD_ERR_AGAIN);
    cr_assert_eq(stor_work_charge(&a, &held_a, 4 << 20, "$group", &err), VD_ERR_AGAIN);
    stor_work_release(&a, &held_a);
    spill_close(spill);
}

/* A small step beside one that holds everything goes on for a while. */
Test(spill, small_steps_are_left_alone)
{
    spill_t *spill = spill_open(1 << 20, 0);
    stor_work_t work;
    size_t large = 0, small = 0;
    vd_error_t err = VD_ERROR_INIT;
    stor_work_init(&work, spill->node, false);
    cr_assert_eq(stor_work_charge(&work, &large, 1 << 20, "Sort", &err), VD_OK);
    cr_assert_eq(stor_work_charge(&work, &small, 1 << 16, "$group", &err), VD_OK);
    cr_assert_eq(stor_work_charge(&work, &small, 1 << 17, "$group", &err), VD_ERR_AGAIN);
    stor_work_release(&work, &small);
    stor_work_release(&work, &large);
    spill_close(spill);
}

/* ---- groups ---- */

static int compare_values(const void *a, const void *b)
{
    return vd_value_compare(*(const vd_value_t *)a, *(const vd_value_t *)b);
}

/* All results, in the order of values. */
static int run_all(bench_t *bench, vd_value_t **ret_results, uint32_t *ret_count, vd_error_t *err)
{
    uint32_t count = 0;
    vd_value_t *results = vd_arena_alloc(bench->arena, 100000 * sizeof *results);
    vd_bson_t document;
    int rc;
    while ((rc = stor_pipeline_next(bench->pipeline, &bench->request, &document, err)) == VD_OK) {
        cr_assert_lt(count, 100000);
        results[count++] = vd_value_copy(bench->arena, vd_value_from_document(document));
    }
    qsort(results, count, sizeof *results, compare_values);
    *ret_results = results;
    *ret_count = count;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

/* Numbers that add up exactly in any order: what is compared is the spilling, not the rounding. */
static const char *random_documents(vd_arena_t *arena, vd_rand_t *rand, int count, int keys)
{
    size_t size = (size_t)count * 160 + 10, at = 0;
    char *text = vd_arena_alloc(arena, size);
    at += (size_t)snprintf(text, size, "[");
    for (int i = 0; i < count; i++) {
        int k = (int)vd_rand_below(rand, (uint64_t)keys);
        at += (size_t)snprintf(text + at, size - at, "%s{'i': %d, 'k': ", i == 0 ? "" : ", ", i);
        static const char *const forms[] = {"%d", "%d.0", "'k%d'", "{'a': %d}", "null", "[%d]"};
        const char *form = forms[vd_rand_below(rand, VD_COUNT_OF(forms))];
        if (strcmp(form, "null") == 0)
            at += (size_t)snprintf(text + at, size - at, "null");
        else if (strcmp(form, "%d") == 0)
            at += (size_t)snprintf(text + at, size - at, "%d", k);
        else if (strcmp(form, "%d.0") == 0)
            at += (size_t)snprintf(text + at, size - at, "%d.0", k);
        else if (form[0] == '\'')
            at += (size_t)snprintf(text + at, size - at, "'k%d'", k);
        else if (form[0] == '{')
            at += (size_t)snprintf(text + at, size - at, "{'a': %d}", k);
        else
            at += (size_t)snprintf(text + at, size - at, "[%d]", k);
        if (vd_rand_below(rand, 5) > 0)
            at += (size_t)snprintf(text + at, size - at, ", 'n': %d.%s",
                                   (int)vd_rand_below(rand, 1000), i % 2 == 0 ? "5" : "25");
        at += (size_t)snprintf(text + at, size - at, ", 'm': %d}", (int)vd_rand_below(rand, 30));
    }
    snprintf(text + at, size - at, "]");
    return text;
}

#define ALL_ACCUMULATORS                                                                           \
    "'sum': {'$sum': '$n'}, 'avg': {'$avg': '$m'}, 'min': {'$min': '$n'}, 'max': {'$max': '$k'}, " \
    "'first': {'$first': '$i'}, 'last': {'$last': '$i'}, 'push': {'$push': '$m'}, 'count': "       \
    "{'$count': {}}, 'merged': {'$mergeObjects': {'i': '$i', 'n': '$n'}}, 'top': {'$top': "        \
    "{'sortBy': {'m': 1}, 'output': '$i'}}, 'topN': {'$topN': {'n': 3, 'sortBy': {'m': -1}, "      \
    "'output': ['$i', '$m']}}, 'bottomN': {'$bottomN': {'n': 3, 'sortBy': {'m': 1}, 'output': "    \
    "'$i'}}, 'firstN': {'$firstN': {'n': 4, 'input': '$i'}}, 'lastN': {'$lastN': {'n': 4, "        \
    "'input': '$i'}}, 'minN': {'$minN': {'n': 4, 'input': '$m'}}, 'maxN': {'$maxN': {'n': 4, "     \
    "'input': '$m'}}, 'median': {'$median': {'input': '$n', 'method': 'approximate'}}, 'p': "      \
    "{'$percentile': {'input': '$n', 'method': 'approximate', 'p': [0.1, 0.9]}}"

Test(spill, groups_are_the_same_on_disk, .timeout = 300)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        vd_arena_t *arena = vd_arena_create();
        vd_rand_t rand;
        vd_rand_seed(&rand, seed);
        int keys = seed % 3 == 0 ? 3 : seed % 3 == 1 ? 60 : 1000;
        vd_value_t stages = query_value(
            arena, vd_arena_printf(arena,
                                   "[{'$documents': %s}, {'$group': {'_id': '$k', "
                                   "%s}}]",
                                   random_documents(arena, &rand, 2000, keys), ALL_ACCUMULATORS));
        spill_t *spill = spill_open(64 * 1024, 0);
        bench_t memory, disk;
        vd_value_t *expected, *results;
        uint32_t expected_count, count;
        vd_error_t err = VD_ERROR_INIT;
        bench_open(&memory, NULL, stages, false);
        bench_open(&disk, spill, stages, false);
        cr_assert_eq(run_all(&memory, &expected, &expected_count, &err), VD_OK, "%s", err.message);
        cr_assert_eq(run_all(&disk, &results, &count, &err), VD_OK, "seed %llu: %s",
                     (unsigned long long)seed, err.message);
        stor_spilled_t spills;
        cr_assert(stor_pipeline_stage_spills(disk.pipeline, 1, &spills));
        cr_assert_gt(spills.spills, 2);
        cr_assert_gt(spills.bytes, 64 * 1024);
        cr_assert(disk.request.used_disk);
        cr_assert_not(memory.request.used_disk);
        cr_assert_eq(count, expected_count);
        for (uint32_t i = 0; i < count; i++)
            cr_assert_eq(vd_value_compare(results[i], expected[i]), 0, "seed %llu: %s, not %s",
                         (unsigned long long)seed, vd_value_to_json(arena, results[i], 4000),
                         vd_value_to_json(arena, expected[i], 4000));
        bench_close(&memory);
        bench_close(&disk);
        spill_close(spill);
        vd_arena_destroy(&arena);
    }
}

/* Sums of what does not add up exactly, deviations, and sets, whose order is nobody's. */
Test(spill, groups_with_rounding_and_sets)
{
    static const char stages[] =
        "[{'$documents': {'$map': {'input': {'$range': [0, 20000]}, 'as': 'i', 'in': {'k': "
        "{'$mod': ['$$i', 700]}, 'x': {'$divide': ['$$i', 7]}, 's': {'$mod': ['$$i', 1400]}}}}}, "
        "{'$group': {'_id': '$k', 'sum': {'$sum': '$x'}, 'avg': {'$avg': '$x'}, 'pop': "
        "{'$stdDevPop': '$x'}, 'samp': {'$stdDevSamp': '$x'}, 'set': {'$addToSet': '$s'}}}, "
        "{'$project': {'_id': 1, 'size': {'$size': '$set'}, 'all': {'$sortArray': {'input': "
        "'$set', 'sortBy': 1}}, 'sum': {'$round': ['$sum', 6]}, 'avg': {'$round': ['$avg', 6]}, "
        "'pop': {'$round': ['$pop', 6]}, 'samp': {'$round': ['$samp', 6]}}}]";
    spill_t *spill = spill_open(128 * 1024, 0);
    vd_arena_t *arena = vd_arena_create();
    vd_value_t parsed = query_value(arena, stages), *expected, *results;
    bench_t memory, disk;
    uint32_t expected_count, count;
    vd_error_t err = VD_ERROR_INIT;
    bench_open(&memory, NULL, parsed, false);
    bench_open(&disk, spill, parsed, false);
    cr_assert_eq(run_all(&memory, &expected, &expected_count, &err), VD_OK);
    cr_assert_eq(run_all(&disk, &results, &count, &err), VD_OK, "%s", err.message);
    cr_assert(disk.request.used_disk);
    cr_assert_eq(count, expected_count);
    for (uint32_t i = 0; i < count; i++)
        cr_assert_eq(vd_value_compare(results[i], expected[i]), 0, "%s, not %s",
                     vd_value_to_json(arena, results[i], 500),
                     vd_value_to_json(arena, expected[i], 500));
    bench_close(&memory);
    bench_close(&disk);
    vd_arena_destroy(&arena);
    spill_close(spill);
}

#define MANY_KEYS                                                                                  \
    "{'$documents': {'$map': {'input': {'$range': [0, 150000]}, 'as': 'i', 'in': {'k': "           \
    "{'$concat': ['key number ', {'$toString': '$$i'}]}}}}}"

/* Keys of 50 times the budget: it ends, and never holds more than twice the budget. */
Test(spill, many_keys_in_bounded_memory, .timeout = 300)
{
    enum { BUDGET = 512 * 1024 };
    spill_t *spill = spill_open(BUDGET, 0);
    vd_arena_t *arena = vd_arena_create();
    bench_t bench;
    vd_bson_t document;
    vd_error_t err = VD_ERROR_INIT;
    uint64_t count = 0, most = 0;
    int rc;
    bench_open(&bench, spill,
               query_value(arena, "[" MANY_KEYS ", {'$group': {'_id': '$k', 'n': {'$sum': 1}}}]"),
               false);
    while ((rc = stor_pipeline_next(bench.pipeline, &bench.request, &document, &err)) == VD_OK) {
        stor_spill_stats_t stats;
        stor_spill_stats(spill->node, &stats);
        most = stats.memory_bytes > most ? stats.memory_bytes : most;
        cr_assert_eq(vd_value_int32(vd_bson_get(document, "n")), 1);
        count++;
    }
    cr_assert_eq(rc, VD_ERR_NOT_FOUND, "%s", err.message);
    cr_assert_eq(count, 150000);
    cr_assert_leq(most, BUDGET);
    stor_spilled_t spills;
    cr_assert(stor_pipeline_stage_spills(bench.pipeline, 1, &spills));
    cr_assert_gt(spills.bytes, 20 * BUDGET);
    bench_close(&bench);
    vd_arena_destroy(&arena);
    spill_close(spill);
}

static const struct {
    const char *stages;
    bool no_disk;
    int code;
} refusals[] = {
    {"{'$group': {'_id': '$k', 'n': {'$sum': 1}}}", true,
     VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE},
    {"{'$sort': {'k': -1}}", true, VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE},
    {"{'$sortByCount': '$k'}", true, VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE},
    /* one group that can't be divided */
    {"{'$group': {'_id': 1, 'all': {'$push': '$k'}}}", false, VD_ERR_EXCEEDED_MEMORY_LIMIT},
};

Test(spill, refusals)
{
    for (size_t i = 0; i < VD_COUNT_OF(refusals); i++) {
        spill_t *spill = spill_open(512 * 1024, 0);
        vd_arena_t *arena = vd_arena_create();
        bench_t bench;
        vd_bson_t document;
        vd_error_t err = VD_ERROR_INIT;
        bench_open(
            &bench, spill,
            query_value(arena, vd_arena_printf(arena, "[%s, %s]", MANY_KEYS, refusals[i].stages)),
            refusals[i].no_disk);
        int rc = stor_pipeline_next(bench.pipeline, &bench.request, &document, &err);
        cr_assert_eq(rc, refusals[i].code, "%s: %d %s", refusals[i].stages, -rc, err.message);
        bench_close(&bench);
        vd_arena_destroy(&arena);
        spill_close(spill);
    }
}

/* Killed, out of disk: whatever ends it, everything is given back. */
Test(spill, ends_in_the_middle)
{
    for (int kind = 0; kind < 2; kind++) {
        spill_t *spill = spill_open(512 * 1024, 0);
        vd_arena_t *arena = vd_arena_create();
        bench_t bench;
        vd_bson_t document;
        vd_error_t err = VD_ERROR_INIT;
        bench_open(&bench, spill,
                   query_value(arena, "[" MANY_KEYS ", {'$group': {'_id': '$k', 'n': {'$sum': 1}}},"
                                      " {'$sort': {'_id': 1}}]"),
                   false);
        if (kind == 0)
            cr_assert_eq(vd_fault_arm("spill.full=error:skip=30", NULL), VD_OK);
        int rc = VD_OK;
        for (int i = 0; rc == VD_OK && i < 1000; i++) {
            if (kind == 1 && i == 500)
                atomic_store(&bench.request.killed, VD_ERR_INTERRUPTED);
            rc = stor_pipeline_next(bench.pipeline, &bench.request, &document, &err);
        }
        cr_assert_eq(rc, kind == 0 ? VD_ERR_OUT_OF_DISK_SPACE : VD_ERR_INTERRUPTED, "%d", -rc);
        vd_fault_disarm(NULL);
        bench_close(&bench);
        vd_arena_destroy(&arena);
        spill_close(spill);
    }
}

/* With a limit behind it a sort keeps little, and writes nothing. */
Test(spill, a_bounded_sort_does_not)
{
    spill_t *spill = spill_open(512 * 1024, 0);
    vd_arena_t *arena = vd_arena_create();
    bench_t bench;
    vd_value_t *results;
    uint32_t count;
    vd_error_t err = VD_ERROR_INIT;
    bench_open(&bench, spill,
               query_value(arena, "[" MANY_KEYS ", {'$sort': {'k': -1}}, {'$skip': 2}, {'$limit': "
                                  "3}]"),
               true);
    cr_assert_eq(run_all(&bench, &results, &count, &err), VD_OK, "%s", err.message);
    cr_assert_eq(count, 3);
    cr_assert(vd_value_equal(vd_bson_get(vd_value_document(results[2]), "k"),
                             query_value(arena, "'key number 99997'")));
    cr_assert_not(bench.request.used_disk);
    bench_close(&bench);
    vd_arena_destroy(&arena);
    spill_close(spill);
}

/* A stage tells what it wrote itself, not what those before it did while it pulled from them. */
Test(spill, each_stage_tells_its_own)
{
    spill_t *spill = spill_open(512 * 1024, 0);
    vd_arena_t *arena = vd_arena_create();
    bench_t bench;
    vd_value_t *results;
    uint32_t count;
    vd_error_t err = VD_ERROR_INIT;
    stor_spilled_t of_group, of_sort;
    bench_open(&bench, spill,
               query_value(arena, "[" MANY_KEYS ", {'$group': {'_id': '$k'}}, {'$group': {'_id': "
                                  "1, 'n': {'$sum': 1}}}, {'$sort': {'n': 1}}]"),
               false);
    cr_assert_eq(run_all(&bench, &results, &count, &err), VD_OK, "%s", err.message);
    cr_assert_eq(count, 1);
    cr_assert(stor_pipeline_stage_spills(bench.pipeline, 1, &of_group));
    cr_assert_gt(of_group.spills, 2);
    for (uint32_t i = 2; i < 4; i++) {
        cr_assert(stor_pipeline_stage_spills(bench.pipeline, i, &of_sort));
        cr_assert_eq(of_sort.spills + of_sort.bytes + of_sort.records, 0, "stage %u", i);
    }
    bench_close(&bench);
    vd_arena_destroy(&arena);
    spill_close(spill);
}
