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

/* As a condition, wherever a document still is one that is stored. */
Test(pipeline_versions, matched_behind_the_first_stage)
{
    static const struct {
        const char *stages; /* %lld: the version of {_id: 2} */
        int rc;
    } cases[] = {
        {"{'$set': {'x': 1}}, {'$match': {'$version': %lld}}", VD_OK},
        {"{'$match': {'a': {'$gte': 1}}}, {'$project': {'_id': 0, 'a': 1}}, {'$match': "
         "{'$version': %lld}}, {'$set': {'_id': 2}}",
         VD_OK},
        {"{'$set': {'x': {'$multiply': ['$a', -1]}}}, {'$sort': {'x': 1}}, {'$match': {'x': "
         "{'$lt': 0}, '$version': %lld}}",
         VD_OK},
        {"{'$set': {'l': [1]}}, {'$unwind': '$l'}, {'$match': {'$and': [{'$version': %lld}]}}",
         VD_OK},
        {"{'$group': {'_id': '$a'}}, {'$match': {'$version': %lld}}", VD_ERR_BAD_VALUE},
        {"{'$sort': {'a': 1}}, {'$group': {'_id': '$a'}}, {'$set': {'x': 1}}, {'$match': "
         "{'$version': %lld}}",
         VD_ERR_BAD_VALUE},
    };
    reads_t *reads = reads_open();
    int64_t version = 0;
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c', 'documents': [{'_id': 1, 'a': 1}]}"),
                 VD_OK);
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c', 'documents': [{'_id': 2, 'a': 2}]}"),
                 VD_OK);
    cr_assert_eq(reads_run(reads, "db",
                           "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a'}]}"),
                 VD_OK);
    cr_assert_eq(reads_run(reads, "db",
                           "{'find': 'c', 'filter': {'_id': 2}, 'projection': {'v': {'$meta': "
                           "'version'}}}"),
                 VD_OK);
    cr_assert(vd_value_as_int64(reads_at(reads, "cursor.firstBatch.0.v"), &version));
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        const char *at = strstr(cases[i].stages, "%lld");
        const char *command = vd_arena_printf(
            reads->texts, "{'aggregate': 'c', 'cursor': {}, 'pipeline': [%.*s%lld%s]}",
            (int)(at - cases[i].stages), cases[i].stages, (long long)version, at + 4);
        int64_t id = 0;
        cr_assert_eq(reads_run(reads, "db", command), cases[i].rc, "%s: %s", command,
                     reads_text(reads));
        if (cases[i].rc != VD_OK)
            continue;
        cr_assert_eq(vd_bson_count(vd_value_document(reads_at(reads, "cursor.firstBatch"))), 1,
                     "%s: %s", command, reads_text(reads));
        cr_assert(vd_value_as_int64(reads_at(reads, "cursor.firstBatch.0._id"), &id));
        cr_assert_eq(id, 2, "%s", command);
    }
    reads_close(reads);
}
