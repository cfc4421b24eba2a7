/* tests/unit/storaged/test_pipeline_versions.c — {$meta: "version"} in aggregations. */
#include "tests/unit/storaged/reads_support.h"

/* The version goes with a document as long as it is made of one stored document. */
Test(pipeline_versions, behind_the_first_stage)
{
    static const struct {
        const char *stages;
        bool has;
    } cases[] = {
        {"{'$match': {'a': 2}}", true},
        {"{'$set': {'x': 1}}, {'$match': {'x': 1, 'a': 2}}, {'$skip': 0}, {'$limit': 1}", true},
        {"{'$set': {'x': {'$multiply': ['$a', -1]}}}, {'$sort': {'x': 1}}, {'$limit': 1}", true},
        {"{'$match': {'a': 2}}, {'$set': {'l': [1]}}, {'$unwind': '$l'}, {'$unset': 'l'}", true},
        {"{'$set': {'w': {'$meta': 'version'}}}, {'$match': {'a': 2}}, {'$replaceWith': {'w': "
         "'$w'}}, {'$match': {'$expr': {'$eq': ['$w', {'$meta': 'version'}]}}}",
         true},
        {"{'$match': {'a': 2}}, {'$group': {'_id': '$a'}}", false},
        {"{'$match': {'a': 2}}, {'$set': {'x': 1}}, {'$group': {'_id': '$x', 'v': {'$max': "
         "{'$meta': 'version'}}}}, {'$replaceWith': {'g': '$v'}}",
         false},
    };
    reads_t *reads = reads_open();
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c', 'documents': [{'_id': 1, 'a': 1}]}"),
                 VD_OK);
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c', 'documents': [{'_id': 2, 'a': 2}]}"),
                 VD_OK);
    cr_assert_eq(reads_run(reads, "db",
                           "{'find': 'c', 'filter': {'_id': 2}, 'projection': {'v': {'$meta': "
                           "'version'}}}"),
                 VD_OK);
    int64_t version = 0, found;
    cr_assert(vd_value_as_int64(reads_at(reads, "cursor.firstBatch.0.v"), &version));
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        char command[600];
        snprintf(command, sizeof command,
                 "{'aggregate': 'c', 'cursor': {}, 'pipeline': [%s, {'$project': {'v': {'$meta': "
                 "'version'}}}]}",
                 cases[i].stages);
        cr_assert_eq(reads_run(reads, "db", command), VD_OK, "%s: %s", command, reads_text(reads));
        found = 0;
        bool has = vd_value_as_int64(reads_at(reads, "cursor.firstBatch.0.v"), &found);
        cr_assert_eq(has, cases[i].has, "%s: %s", command, reads_text(reads));
        cr_assert(!has || found == version, "%s: %s", command, reads_text(reads));
    }
    reads_close(reads);
}
