/* tests/unit/storaged/test_spill_reads.c — find and aggregate over a real collection whose sorts
 * and groups do not fit: the scan is given back before anything is written, results come in
 * batches, explain tells. */
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/exec/spill.h"

#define DOCUMENTS 3000

static reads_t *open_with_little_memory(void)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    stor_spill_options_t options = {.folder = reads->folder,
                                    .keys = reads->storage.keys,
                                    .engine = reads->storage.engine,
                                    .query_max_bytes = 64 * 1024};
    reads_ok(stor_spill_open(&options, &reads->storage.spill, &err), &err);
    size_t size = DOCUMENTS * 120, at = 0;
    char *list = vd_arena_alloc(reads->texts, size);
    at += (size_t)snprintf(list, size, "[");
    for (int i = 0; i < DOCUMENTS; i++)
        at += (size_t)snprintf(list + at, size - at,
                               "%s{'_id': %d, 'k': %d, 'text': 'some text to fill the memory %d'}",
                               i == 0 ? "" : ", ", i, i * 7919 % DOCUMENTS, i);
    snprintf(list + at, size - at, "]");
    reads_insert(reads, "db", "c", vd_value_document(query_value(reads->texts, list)));
    return reads;
}

static void close_all(reads_t *reads)
{
    stor_cursors_close(&reads->storage.cursors);
    stor_spill_close(&reads->storage.spill); /* asserts that nothing is left on disk */
    reads_close(reads);
}

/* Walks the cursor of the reply to its end: the values of k, in order. */
static void check_order(reads_t *reads, const char *ns, int first, int step)
{
    int expected = first, count = 0;
    const char *batch = "cursor.firstBatch";
    for (;;) {
        int64_t id = vd_value_int64(reads_at(reads, "cursor.id"));
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(reads_at(reads, batch)));
        while (vd_bson_iter_next(&iter)) {
            int k = vd_value_int32(vd_bson_get(vd_value_document(iter.value), "k"));
            cr_assert_eq(k, expected, "%d, not %d", k, expected);
            expected += step;
            count++;
        }
        if (id == 0)
            break;
        reads_ok(reads_run(reads, "db",
                           vd_arena_printf(reads->texts,
                                           "{'getMore': {'$numberLong': '%lld'}, 'collection': "
                                           "'%s', 'batchSize': 700}",
                                           (long long)id, ns)),
                 NULL);
        batch = "cursor.nextBatch";
    }
    cr_assert_eq(count, DOCUMENTS);
}

Test(spill_reads, batches_explain_refusals)
{
    reads_t *reads = open_with_little_memory();
    stor_spill_stats_t stats;
    cr_assert_eq(reads_run(reads, "db", "{'find': 'c', 'sort': {'k': 1}, 'batchSize': 100}"),
                 VD_OK);
    cr_assert(reads->request.used_disk);
    stor_spill_stats(reads->storage.spill, &stats);
    cr_assert_gt(stats.disk_bytes, 100 * 1024, "the cursor keeps its runs");
    check_order(reads, "c", 0, 1);
    stor_spill_stats(reads->storage.spill, &stats);
    cr_assert_eq(stats.disk_bytes, 0, "they go with it");
    cr_assert_eq(stats.memory_bytes, 0);
    cr_assert_eq(reads_run(reads, "db",
                           "{'aggregate': 'c', 'pipeline': [{'$group': {'_id': '$k', 'k': {'$max': "
                           "'$k'}, 't': {'$push': '$text'}}}, {'$sort': {'_id': -1}}], 'cursor': "
                           "{'batchSize': 10}}"),
                 VD_OK, "%s", reads_text(reads));
    cr_assert(reads->request.used_disk);
    check_order(reads, "c", DOCUMENTS - 1, -1);
    static const reads_step_t steps[] = {
        {"db", "{'find': 'c', 'sort': {'k': 1}, 'allowDiskUse': false}", NULL,
         VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE, NULL},
        {"db", "{'find': 'c', 'sort': {'k': 1}, 'allowDiskUse': false, 'limit': 5}", NULL, VD_OK,
         NULL},
        {"db",
         "{'aggregate': 'c', 'pipeline': [{'$group': {'_id': '$k'}}], 'cursor': {}, "
         "'allowDiskUse': false}",
         NULL, VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE, NULL},
        {"db", "{'explain': {'find': 'c', 'sort': {'k': 1}}, 'verbosity': 'executionStats'}",
         "{'executionStats.executionStages.stage': 'SORT', "
         "'executionStats.executionStages.usedDisk': true}",
         VD_OK, NULL},
        {"db",
         "{'explain': {'aggregate': 'c', 'pipeline': [{'$group': {'_id': '$k'}}], 'cursor': {}}, "
         "'verbosity': 'executionStats'}",
         "{'stages.1.usedDisk': true, 'stages.1.nReturned': 3000}", VD_OK, NULL},
        {"db",
         "{'explain': {'aggregate': 'c', 'pipeline': [{'$match': {'k': {'$lt': 3}}}, {'$group': "
         "{'_id': '$k'}}], 'cursor': {}}, 'verbosity': 'executionStats'}",
         "{'stages.1.usedDisk': false, 'stages.1.spills': 0}", VD_OK, NULL},
        {"db", "{'serverStatus': 1}",
         "{'veddb.queries.spillBytes': 0, 'veddb.queries.memoryBytes': 0}", VD_OK, NULL},
    };
    READS_SCRIPT(reads, steps);
    close_all(reads);
}

/* A cursor that nobody asks again is killed: what it kept goes. */
Test(spill_reads, killed_cursors_leave_nothing)
{
    reads_t *reads = open_with_little_memory();
    stor_spill_stats_t stats;
    cr_assert_eq(reads_run(reads, "db", "{'find': 'c', 'sort': {'k': 1}, 'batchSize': 1}"), VD_OK);
    int64_t id = vd_value_int64(reads_at(reads, "cursor.id"));
    cr_assert_eq(reads_run(reads, "db",
                           vd_arena_printf(reads->texts,
                                           "{'killCursors': 'c', 'cursors': [{'$numberLong': "
                                           "'%lld'}]}",
                                           (long long)id)),
                 VD_OK);
    stor_spill_stats(reads->storage.spill, &stats);
    cr_assert_eq(stats.disk_bytes, 0);
    cr_assert_eq(stats.memory_bytes, 0);
    close_all(reads);
}
