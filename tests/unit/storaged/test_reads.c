/* tests/unit/storaged/test_reads.c — the commands that read, on a real engine: replies by tables of
 * paths, cursors over several batches, what an ordinary user may see. */
#include "libcommon/bson/compare.h"
#include "tests/unit/storaged/reads_support.h"

#define CITIES 300

static void fill(reads_t *reads)
{
    vd_bb_t bb;
    vd_bson_t list;
    char buf[12];
    vd_bb_init(&bb, 16 << 20);
    for (uint32_t i = 0; i < CITIES; i++) {
        vd_bb_open_document(&bb, vd_array_name(i, buf));
        vd_bb_int32(&bb, "_id", (int32_t)i);
        vd_bb_int32(&bb, "n", (int32_t)(i * 7 % CITIES));
        vd_bb_cstr(&bb, "c", i % 3 == 0 ? "de" : "fr");
        vd_bb_begin_array(&bb, "t");
        vd_bb_int32(&bb, "0", (int32_t)(i % 5));
        vd_bb_int32(&bb, "1", 100);
        vd_bb_close(&bb);
        vd_bb_close(&bb);
    }
    cr_assert_eq(vd_bb_finish(&bb, &list, NULL), VD_OK);
    reads_insert(reads, "geo", "cities", list);
    vd_bb_done(&bb);
    reads_insert(reads, "geo", "rivers",
                 query_json(reads->texts, "{'0': {'_id': 'Po', 'km': 652}}"));
    reads_insert(reads, "abc", "one", query_json(reads->texts, "{'0': {'_id': 1}}"));
}

/* code 0: every path of `expected` has that value (null: is missing). */
typedef struct {
    const char *db, *command, *expected;
    int code;
} case_t;

static void check_cases(reads_t *reads, const case_t *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int rc = reads_run(reads, cases[i].db, cases[i].command);
        cr_assert_eq(rc, cases[i].code, "%s: %s", cases[i].command, reads_text(reads));
        cr_assert_eq(vd_value_as_double(reads_at(reads, "ok")), rc == VD_OK ? 1.0 : 0.0);
        if (rc != VD_OK)
            cr_assert_eq(vd_value_int32(reads_at(reads, "code")), -rc);
        if (cases[i].expected == NULL)
            continue;
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, query_json(reads->texts, cases[i].expected));
        while (vd_bson_iter_next(&iter)) {
            vd_value_t is = vd_bson_get_path(reads->reply, iter.name), want = iter.value;
            if (want.type == VD_BSON_NULL && vd_value_is_missing(is))
                continue;
            cr_assert(vd_value_equal(is, want), "%s: %.*s is %s, not %s in %s", cases[i].command,
                      VD_SLICE_FMT(iter.name), vd_value_to_json(reads->texts, is, 300),
                      vd_value_to_json(reads->texts, want, 300), reads_text(reads));
        }
    }
}
#define CHECK(reads, cases) check_cases((reads), (cases), VD_COUNT_OF(cases))

Test(reads, find)
{
    static const case_t cases[] = {
        {"geo", "{'find': 'cities', 'filter': {'_id': 5}, 'projection': {'n': 1}}",
         "{'cursor.firstBatch': [{'_id': 5, 'n': 35}], 'cursor.id': 0, 'cursor.ns': 'geo.cities'}",
         0},
        {"geo", "{'find': 'cities', 'filter': {'_id': 9999}}", "{'cursor.firstBatch': []}", 0},
        {"geo", "{'find': 'none', 'filter': {}}", "{'cursor.firstBatch': [], 'cursor.id': 0}", 0},
        {"geo", "{'find': 'none', 'filter': {'_id': 5}}", "{'cursor.firstBatch': []}", 0},
        {"geo",
         "{'find': 'cities', 'sort': {'n': -1}, 'limit': 2, 'projection': {'_id': 0, 'n': 1}}",
         "{'cursor.firstBatch': [{'n': 299}, {'n': 298}], 'cursor.id': 0}", 0},
        {"geo",
         "{'find': 'cities', 'sort': {'n': 1}, 'skip': 3, 'limit': 1, 'projection': {'_id': 0, "
         "'n': "
         "1}}",
         "{'cursor.firstBatch': [{'n': 3}]}", 0},
        {"geo", "{'find': 'cities', 'sort': {'_id': -1}, 'limit': 1, 'projection': {'_id': 1}}",
         "{'cursor.firstBatch': [{'_id': 299}]}", 0},
        {"geo",
         "{'find': 'cities', 'hint': {'$natural': -1}, 'limit': 1, 'projection': {'_id': 1}}",
         "{'cursor.firstBatch': [{'_id': 299}]}", 0},
        {"geo", "{'find': 'cities', 'filter': {'_id': {'$in': [7, 3]}}, 'projection': {'_id': 1}}",
         "{'cursor.firstBatch': [{'_id': 3}, {'_id': 7}]}", 0},
        {"geo",
         "{'find': 'cities', 'filter': {'_id': {'$gte': 298}}, 'projection': {'t': {'$slice': 1}, "
         "'n': 0, 'c': 0}}",
         "{'cursor.firstBatch': [{'_id': 298, 't': [3]}, {'_id': 299, 't': [4]}]}", 0},
        {"geo", "{'find': 'cities', 'filter': {'t': 3, '_id': 3}, 'projection': {'t.$': 1}}",
         "{'cursor.firstBatch': [{'_id': 3, 't': [3]}]}", 0},
        {"geo", "{'find': 'cities', 'batchSize': 2, 'singleBatch': true, 'projection': {'_id': 1}}",
         "{'cursor.firstBatch': [{'_id': 0}, {'_id': 1}], 'cursor.id': 0}", 0},
        {"geo", "{'find': 'cities', 'foo': 1}", NULL, VD_ERR_LOCATION(40415)},
        {"geo", "{'find': 'cities', 'limit': -1}", NULL, VD_ERR_LOCATION(51024)},
        {"geo", "{'find': 'cities', 'filter': 1}", NULL, VD_ERR_TYPE_MISMATCH},
        {"geo", "{'find': 'cities', 'filter': {'a': {'$bad': 1}}}", NULL, VD_ERR_BAD_VALUE},
        {"geo", "{'find': 'cities', 'hint': 'other'}", NULL, VD_ERR_BAD_VALUE},
        {"geo", "{'find': 'cities', 'tailable': true}", NULL, VD_ERR_BAD_VALUE},
        {"geo", "{'find': 'cities', 'awaitData': true}", NULL, VD_ERR_FAILED_TO_PARSE},
        {"geo", "{'find': 'cities', 'min': {'a': 1}}", NULL, VD_ERR_LOCATION(51173)},
        {"geo", "{'find': ''}", NULL, VD_ERR_INVALID_NAMESPACE},
    };
    reads_t *reads = reads_open();
    fill(reads);
    CHECK(reads, cases);
    reads_close(reads);
}

/* Pulls everything; ids must come 0, 1, 2 ... when in_order. Returns how many. */
static uint32_t drain(reads_t *reads, const char *command, const char *collection, int batch)
{
    uint32_t seen = 0;
    const char *field = "cursor.firstBatch";
    int rc = reads_run(reads, "geo", command);
    for (;;) {
        cr_assert_eq(rc, VD_OK, "%s: %s", command, reads_text(reads));
        seen += vd_bson_count(vd_value_document(reads_at(reads, field)));
        int64_t id = vd_value_int64(reads_at(reads, "cursor.id"));
        if (id == 0)
            return seen;
        rc = reads_run(reads, "geo",
                       vd_arena_printf(reads->texts,
                                       "{'getMore': {'$numberLong': '%lld'}, 'collection': '%s', "
                                       "'batchSize': %d}",
                                       (long long)id, collection, batch));
        field = "cursor.nextBatch";
    }
}

Test(reads, batches)
{
    static const struct {
        const char *command, *collection;
        uint32_t expected;
    } cases[] = {
        {"{'find': 'cities'}", "cities", CITIES},
        {"{'find': 'cities', 'batchSize': 0}", "cities", CITIES},
        {"{'find': 'cities', 'batchSize': 1, 'sort': {'n': 1}}", "cities", CITIES},
        {"{'find': 'cities', 'batchSize': 7, 'limit': 50}", "cities", 50},
        {"{'aggregate': 'cities', 'pipeline': [], 'cursor': {}}", "cities", CITIES},
        {"{'aggregate': 'cities', 'pipeline': [{'$unwind': '$t'}], 'cursor': {'batchSize': 0}}",
         "cities", 2 * CITIES},
        {"{'aggregate': 'cities', 'pipeline': [{'$group': {'_id': '$n'}}, {'$sort': {'_id': 1}}], "
         "'cursor': {'batchSize': 10}}",
         "cities", CITIES},
        {"{'listCollections': 1, 'cursor': {'batchSize': 1}}", "$cmd.listCollections", 2},
        {"{'listCollections': 1, 'cursor': {'batchSize': 0}}", "$cmd.listCollections", 2},
    };
    static const int sizes[] = {1, 7, 0};
    reads_t *reads = reads_open();
    fill(reads);
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++)
        for (size_t s = 0; s < VD_COUNT_OF(sizes); s++)
            cr_assert_eq(drain(reads, cases[i].command, cases[i].collection, sizes[s]),
                         cases[i].expected, "%s", cases[i].command);
    stor_cursors_stats_t stats;
    stor_cursors_stats(reads->storage.cursors, &stats);
    cr_assert_eq(stats.open, 0);
    cr_assert_gt(stats.total_opened, 10);
    reads_close(reads);
}

Test(reads, cursors_end)
{
    reads_t *reads = reads_open();
    fill(reads);
    cr_assert_eq(reads_run(reads, "geo", "{'find': 'cities', 'batchSize': 1}"), VD_OK);
    long long id = vd_value_int64(reads_at(reads, "cursor.id"));
    cr_assert_neq(id, 0);
    char *more = vd_arena_printf(
        reads->texts, "{'getMore': {'$numberLong': '%lld'}, 'collection': 'cities'}", id);
    char *other = vd_arena_printf(
        reads->texts, "{'getMore': {'$numberLong': '%lld'}, 'collection': 'rivers'}", id);
    char *kill = vd_arena_printf(
        reads->texts, "{'killCursors': 'cities', 'cursors': [{'$numberLong': '%lld'}]}", id);
    cr_assert_eq(reads_run(reads, "geo", other), VD_ERR_UNAUTHORIZED);
    reads->user = "eve@admin";
    reads->flags = 0;
    cr_assert_eq(reads_run(reads, "geo", more), VD_ERR_UNAUTHORIZED);
    reads->user = "ann@admin";
    cr_assert_eq(reads_run(reads, "geo", kill), VD_OK);
    cr_assert_eq(vd_bson_count(vd_value_document(reads_at(reads, "cursorsKilled"))), 1, "%s",
                 reads_text(reads));
    cr_assert_eq(reads_run(reads, "geo", more), VD_ERR_CURSOR_NOT_FOUND);
    cr_assert_eq(reads_run(reads, "geo", kill), VD_OK);
    cr_assert_eq(vd_bson_count(vd_value_document(reads_at(reads, "cursorsNotFound"))), 1);
    cr_assert_eq(reads_run(reads, "geo", "{'getMore': 5, 'collection': 'cities'}"),
                 VD_ERR_TYPE_MISMATCH);
    reads_close(reads);
}

Test(reads, count_distinct_aggregate)
{
    static const case_t cases[] = {
        {"geo", "{'count': 'cities'}", "{'n': 300}", 0},
        {"geo", "{'count': 'cities', 'query': {}, 'skip': 290, 'limit': 100}", "{'n': 10}", 0},
        {"geo", "{'count': 'cities', 'query': {'c': 'de'}}", "{'n': 100}", 0},
        {"geo", "{'count': 'cities', 'query': {'c': 'de'}, 'limit': -5}", "{'n': 5}", 0},
        {"geo", "{'count': 'cities', 'query': {'_id': {'$lt': 10}}, 'skip': 4}", "{'n': 6}", 0},
        {"geo", "{'count': 'none', 'query': {'a': 1}}", "{'n': 0}", 0},
        {"geo", "{'distinct': 'cities', 'key': 'c'}", "{'values': ['de', 'fr']}", 0},
        {"geo", "{'distinct': 'cities', 'key': 't', 'query': {'_id': {'$lt': 3}}}",
         "{'values': [0, 100, 1, 2]}", 0},
        {"geo", "{'distinct': 'none', 'key': 'c'}", "{'values': []}", 0},
        {"geo", "{'distinct': 'cities'}", NULL, VD_ERR_LOCATION(40414)},
        {"geo",
         "{'aggregate': 'cities', 'pipeline': [{'$match': {}}, {'$group': {'_id': 1, 'n': {'$sum': "
         "1}}}], 'cursor': {}}",
         "{'cursor.firstBatch': [{'_id': 1, 'n': 300}], 'cursor.id': 0, 'cursor.ns': 'geo.cities'}",
         0},
        {"geo",
         "{'aggregate': 'cities', 'pipeline': [{'$match': {'c': 'de'}}, {'$group': {'_id': 1, 'n': "
         "{'$sum': 1}}}], 'cursor': {}}",
         "{'cursor.firstBatch': [{'_id': 1, 'n': 100}]}", 0},
        {"geo",
         "{'aggregate': 'none', 'pipeline': [{'$match': {}}, {'$group': {'_id': 1, 'n': {'$sum': "
         "1}}}], 'cursor': {}}",
         "{'cursor.firstBatch': []}", 0},
        {"geo",
         "{'aggregate': 'cities', 'pipeline': [{'$match': {}}, {'$group': {'_id': '$c', 'n': "
         "{'$sum': 1}}}, {'$sort': {'_id': 1}}], 'cursor': {}}",
         "{'cursor.firstBatch': [{'_id': 'de', 'n': 100}, {'_id': 'fr', 'n': 200}]}", 0},
        {"geo",
         "{'aggregate': 'cities', 'pipeline': [{'$match': {'$expr': {'$eq': ['$_id', '$$x']}}}, "
         "{'$project': {'_id': 1}}], 'cursor': {}, 'let': {'x': 9}}",
         "{'cursor.firstBatch': [{'_id': 9}]}", 0},
        {"geo",
         "{'aggregate': 'cities', 'pipeline': [{'$limit': 1}, {'$project': {'_id': 1}}], 'cursor': "
         "{}, 'hint': {'$natural': -1}}",
         "{'cursor.firstBatch': [{'_id': 299}]}", 0},
        {"geo", "{'aggregate': 1, 'pipeline': [{'%documents': [{'a': 1}]}], 'cursor': {}}",
         "{'cursor.firstBatch': [{'a': 1}], 'cursor.ns': 'geo.$cmd.aggregate'}", 0},
        {"geo", "{'aggregate': 'cities', 'pipeline': [{'$indexStats': {}}], 'cursor': {}}",
         "{'cursor.firstBatch.0.name': '_id_', 'cursor.firstBatch.0.key': {'_id': 1}}", 0},
        {"geo", "{'aggregate': 'cities', 'pipeline': []}", NULL, VD_ERR_FAILED_TO_PARSE},
        {"geo", "{'aggregate': 'cities', 'cursor': {}}", NULL, VD_ERR_LOCATION(40414)},
        {"geo", "{'aggregate': 2, 'pipeline': [], 'cursor': {}}", NULL, VD_ERR_FAILED_TO_PARSE},
        {"geo", "{'aggregate': 'cities', 'pipeline': [], 'cursor': 1}", NULL, VD_ERR_TYPE_MISMATCH},
        {"geo", "{'aggregate': 'cities', 'pipeline': [{'$geoNear': {}}], 'cursor': {}}", NULL,
         VD_ERR_NOT_IMPLEMENTED},
    };
    reads_t *reads = reads_open();
    fill(reads);
    CHECK(reads, cases);
    reads_close(reads);
}

Test(reads, explain)
{
    static const case_t cases[] = {
        {"geo", "{'explain': {'find': 'cities', 'filter': {'n': 5}}, 'verbosity': 'queryPlanner'}",
         "{'explainVersion': '1', 'queryPlanner.namespace': 'geo.cities', "
         "'queryPlanner.parsedQuery': {'n': {'$eq': 5}}, 'queryPlanner.winningPlan': {'stage': "
         "'COLLSCAN', 'filter': {'n': {'$eq': 5}}, 'direction': 'forward'}, "
         "'queryPlanner.rejectedPlans': [], 'executionStats': null, 'serverInfo.host': "
         "'db.example', 'serverInfo.port': 27018, 'serverInfo.version': '7.0.14', 'command': "
         "{'find': 'cities', 'filter': {'n': 5}, '%db': 'geo'}}",
         0},
        {"geo", "{'explain': {'find': 'cities', 'filter': {'_id': 5}}}",
         "{'queryPlanner.winningPlan': {'stage': 'IDHACK'}, 'executionStats.nReturned': 1, "
         "'executionStats.totalDocsExamined': 1, 'executionStats.totalKeysExamined': 1, "
         "'executionStats.allPlansExecution': []}",
         0},
        {"geo",
         "{'explain': {'find': 'cities', 'filter': {'_id': {'$gte': 10}, 'c': 'de'}, 'sort': {'n': "
         "1}, 'skip': 2, 'limit': 5, 'projection': {'n': 1}}, 'verbosity': 'executionStats'}",
         "{'queryPlanner.winningPlan.stage': 'PROJECTION_SIMPLE', "
         "'queryPlanner.winningPlan.inputStage.stage': 'SKIP', "
         "'queryPlanner.winningPlan.inputStage.skipAmount': 2, "
         "'queryPlanner.winningPlan.inputStage.inputStage.stage': 'SORT', "
         "'queryPlanner.winningPlan.inputStage.inputStage.limitAmount': 7, "
         "'queryPlanner.winningPlan.inputStage.inputStage.sortPattern': {'n': 1}, "
         "'queryPlanner.winningPlan.inputStage.inputStage.inputStage.stage': 'CLUSTERED_IXSCAN', "
         "'executionStats.nReturned': 5, 'executionStats.totalDocsExamined': 290, "
         "'executionStats.executionStages.nReturned': 5, "
         "'executionStats.executionStages.inputStage.inputStage.nReturned': 7, "
         "'executionStats.executionStages.inputStage.inputStage.inputStage.nReturned': 96, "
         "'executionStats.allPlansExecution': null}",
         0},
        {"geo",
         "{'explain': {'find': 'cities', 'sort': {'_id': -1}, 'limit': 3}, 'verbosity': "
         "'executionStats'}",
         "{'queryPlanner.winningPlan': {'stage': 'LIMIT', 'limitAmount': 3, 'inputStage': "
         "{'stage': "
         "'COLLSCAN', 'direction': 'backward'}}, 'executionStats.totalDocsExamined': 3}",
         0},
        {"geo", "{'explain': {'find': 'none', 'filter': {'a': 1}}}",
         "{'queryPlanner.winningPlan': {'stage': 'EOF'}, 'executionStats.nReturned': 0}", 0},
        {"geo", "{'explain': {'count': 'cities', 'query': {'c': 'de'}}}",
         "{'queryPlanner.winningPlan.stage': 'COUNT', "
         "'queryPlanner.winningPlan.inputStage.stage': 'COLLSCAN', "
         "'executionStats.executionStages.nCounted': 100}",
         0},
        {"geo", "{'explain': {'count': 'cities'}}",
         "{'queryPlanner.winningPlan': {'stage': 'RECORD_STORE_FAST_COUNT'}, "
         "'executionStats.totalDocsExamined': 0}",
         0},
        {"geo", "{'explain': {'distinct': 'cities', 'key': 'c'}, 'verbosity': 'queryPlanner'}",
         "{'queryPlanner.winningPlan.stage': 'COLLSCAN'}", 0},
        {"geo",
         "{'explain': {'aggregate': 'cities', 'pipeline': [{'$match': {'c': 'de'}}], 'cursor': "
         "{}}}",
         "{'queryPlanner.winningPlan.stage': 'COLLSCAN', 'executionStats.nReturned': 100, "
         "'stages': "
         "null}",
         0},
        {"geo",
         "{'explain': {'aggregate': 'cities', 'pipeline': [{'$match': {'c': 'de'}}, {'$group': "
         "{'_id': '$t'}}, {'$limit': 2}], 'cursor': {}}, 'verbosity': 'executionStats'}",
         "{'stages.0.$cursor.queryPlanner.winningPlan.stage': 'COLLSCAN', "
         "'stages.0.$cursor.executionStats.nReturned': 100, 'stages.0.nReturned': 100, "
         "'stages.1.$group': {'_id': '$t'}, 'stages.2.$limit': 2, 'stages.2.nReturned': 2}",
         0},
        {"geo", "{'aggregate': 'cities', 'pipeline': [{'$sort': {'n': 1}}], 'explain': true}",
         "{'queryPlanner.winningPlan.stage': 'SORT', 'executionStats': null}", 0},
        {"geo",
         "{'explain': {'update': 'cities', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': "
         "1}}}]}, 'verbosity': 'queryPlanner'}",
         "{'queryPlanner.winningPlan': {'stage': 'UPDATE', 'inputStage': {'stage': 'IDHACK'}}}", 0},
        {"geo",
         "{'explain': {'delete': 'cities', 'deletes': [{'q': {}, 'limit': 0}]}, 'verbosity': "
         "'queryPlanner'}",
         "{'queryPlanner.winningPlan': {'stage': 'DELETE', 'inputStage': {'stage': 'COLLSCAN', "
         "'direction': 'forward'}}}",
         0},
        {"geo",
         "{'explain': {'findAndModify': 'cities', 'query': {'c': 'x'}, 'remove': true}, "
         "'verbosity': 'queryPlanner'}",
         "{'queryPlanner.winningPlan.stage': 'DELETE'}", 0},
        {"geo", "{'explain': {'delete': 'cities', 'deletes': [{'q': {}, 'limit': 0}]}}",
         "{'executionStats.executionStages.nWouldDelete': 300}", 0},
        {"geo", "{'explain': {'delete': 'cities', 'deletes': []}, 'verbosity': 'queryPlanner'}",
         NULL, VD_ERR_INVALID_LENGTH},
        {"geo", "{'explain': {'foo': 1}}", NULL, VD_ERR_COMMAND_NOT_FOUND},
        {"geo", "{'explain': 1}", NULL, VD_ERR_FAILED_TO_PARSE},
        {"geo", "{'explain': {'find': 'cities'}, 'verbosity': 'x'}", NULL, VD_ERR_BAD_VALUE},
        {"geo", "{'explain': {'find': 'cities', '%db': 'other'}}", NULL, VD_ERR_INVALID_NAMESPACE},
        {"geo", "{'explain': {'find': 'cities', 'foo': 1}}", NULL, VD_ERR_LOCATION(40415)},
    };
    reads_t *reads = reads_open();
    fill(reads);
    CHECK(reads, cases);
    reads_close(reads);
}

Test(reads, lists)
{
    static const case_t all[] = {
        {"geo", "{'listCollections': 1, 'filter': {}, 'cursor': {}, 'nameOnly': true}",
         "{'cursor.firstBatch': [{'name': 'cities', 'type': 'collection'}, {'name': 'rivers', "
         "'type': 'collection'}], 'cursor.id': 0, 'cursor.ns': 'geo.$cmd.listCollections'}",
         0},
        {"geo", "{'listCollections': 1, 'filter': {'name': 'rivers'}, 'cursor': {}}",
         "{'cursor.firstBatch.0.name': 'rivers', 'cursor.firstBatch.0.options': {}, "
         "'cursor.firstBatch.0.info.readOnly': false, 'cursor.firstBatch.0.idIndex': {'v': 2, "
         "'key': {'_id': 1}, 'name': '_id_'}, 'cursor.firstBatch.1': null}",
         0},
        {"geo", "{'listCollections': 1, 'filter': {'name': {'$in': ['x']}}}",
         "{'cursor.firstBatch': []}", 0},
        {"none", "{'listCollections': 1}", "{'cursor.firstBatch': []}", 0},
        {"geo", "{'listCollections': 1, 'cursor': {'foo': 1}}", NULL, VD_ERR_LOCATION(40415)},
        {"geo", "{'listCollections': 1, 'filter': {'a': {'$bad': 1}}}", NULL, VD_ERR_BAD_VALUE},
        {"admin", "{'listDatabases': 1, 'nameOnly': true}",
         "{'databases': [{'name': 'abc'}, {'name': 'geo'}], 'totalSize': null}", 0},
        {"admin", "{'listDatabases': 1, 'filter': {'name': 'geo'}}",
         "{'databases.0.name': 'geo', 'databases.0.empty': false, 'databases.1': null}", 0},
        {"geo", "{'listDatabases': 1}", NULL, VD_ERR_UNAUTHORIZED},
    };
    static const case_t some[] = {
        {"geo", "{'listCollections': 1, 'nameOnly': true}",
         "{'cursor.firstBatch': [{'name': 'rivers', 'type': 'collection'}]}", 0},
        {"abc", "{'listCollections': 1, 'nameOnly': true}",
         "{'cursor.firstBatch': [{'name': 'one', 'type': 'collection'}]}", 0},
        {"admin", "{'listDatabases': 1, 'nameOnly': true}",
         "{'databases': [{'name': 'abc'}, {'name': 'geo'}]}", 0},
    };
    static const case_t nothing[] = {
        {"geo", "{'listCollections': 1, 'nameOnly': true}", "{'cursor.firstBatch': []}", 0},
        {"admin", "{'listDatabases': 1}", "{'databases': [], 'totalSize': 0}", 0},
    };
    reads_t *reads = reads_open();
    fill(reads);
    CHECK(reads, all);
    reads->visible = "{'all': false, 'databases': ['abc'], 'collections': ['geo.rivers']}";
    CHECK(reads, some);
    reads->visible = "{'all': false}";
    CHECK(reads, nothing);
    reads_close(reads);
}

Test(reads, statistics)
{
    static const case_t cases[] = {
        {"geo", "{'collStats': 'cities'}",
         "{'ns': 'geo.cities', 'count': 300, 'nindexes': 1, 'indexSizes': {'_id_': 0}, 'capped': "
         "false, 'scaleFactor': 1}",
         0},
        {"geo", "{'collStats': 'rivers', 'scale': 10}", "{'count': 1, 'scaleFactor': 10}", 0},
        {"geo", "{'collStats': 'none'}",
         "{'ns': 'geo.none', 'count': 0, 'size': 0, 'nindexes': 0, 'indexSizes': {}}", 0},
        {"geo", "{'collStats': 'cities', 'scale': 0}", NULL, VD_ERR_LOCATION(51024)},
        {"geo", "{'dbStats': 1, 'scale': 1}",
         "{'db': 'geo', 'collections': 2, 'views': 0, 'objects': 301, 'indexes': 2, 'scaleFactor': "
         "1, 'freeStorageSize': null}",
         0},
        {"geo", "{'dbStats': 1, 'freeStorage': 1}", "{'indexFreeStorageSize': 0}", 0},
        {"none", "{'dbStats': 1}", "{'collections': 0, 'objects': 0, 'avgObjSize': 0}", 0},
        {"geo", "{'dataSize': 'geo.rivers'}", "{'size': 25, 'numObjects': 1, 'estimate': false}",
         0},
        {"geo", "{'dataSize': 'abc.one'}", NULL, VD_ERR_INVALID_NAMESPACE},
        {"geo", "{'dataSize': 'geo.rivers', 'min': {}}", NULL, VD_ERR_NOT_IMPLEMENTED},
        {"geo",
         "{'aggregate': 'cities', 'pipeline': [{'$collStats': {'storageStats': {'scale': 1}, "
         "'count': {}, 'latencyStats': {}}}], 'cursor': {}}",
         "{'cursor.firstBatch.0.ns': 'geo.cities', 'cursor.firstBatch.0.storageStats.count': 300, "
         "'cursor.firstBatch.0.count': 300, 'cursor.firstBatch.0.host': 'db.example:27018', "
         "'cursor.firstBatch.0.latencyStats.writes.queryableEncryptionLatencyMicros': 0}",
         0},
        {"geo",
         "{'aggregate': 'cities', 'pipeline': [{'$collStats': {'storageStats': {}}}, {'$group': "
         "{'_id': null, 'value': {'$sum': '$storageStats.totalIndexSize'}}}], 'cursor': {}}",
         "{'cursor.firstBatch': [{'_id': null, 'value': 0}]}", 0},
        {"geo",
         "{'aggregate': 'none', 'pipeline': [{'$collStats': {'storageStats': {}}}], 'cursor': {}}",
         NULL, VD_ERR_NAMESPACE_NOT_FOUND},
        {"admin", "{'serverStatus': 1}",
         "{'host': 'db.example:27018', 'version': '7.0.14', 'process': 'mongod', 'repl.setName': "
         "'rs0', 'repl.isWritablePrimary': true, 'storageEngine.name': 'wiredTiger', "
         "'mem.bits': 64, 'metrics.cursor.open.total': 0, 'asserts.regular': 0}",
         0},
        {"admin", "{'serverStatus': 1, 'metrics': 0, 'repl': 0}", "{'metrics': null, 'repl': null}",
         0},
        {"admin", "{'top': 1}", "{'totals.note': 'all times in microseconds'}", 0},
        {"admin", "{'fsync': 1}", "{'numFiles': 1}", 0},
        {"admin", "{'fsyncUnlock': 1}", NULL, VD_ERR_ILLEGAL_OPERATION},
        {"admin", "{'fsync': 1, 'lock': true, 'fsyncLockAcquisitionTimeoutMillis': -1}", NULL,
         VD_ERR_BAD_VALUE},
        {"admin", "{'fsync': 1, 'lock': true}",
         "{'info': 'now locked against writes, use db.fsyncUnlock() to unlock', 'lockCount': 1, "
         "'seeAlso': 'http://dochub.mongodb.org/core/fsynccommand', 'numFiles': null}",
         0},
        {"admin", "{'fsync': 1, 'lock': true}", "{'lockCount': 2}", 0},
        {"admin", "{'fsync': 1}", "{'numFiles': 1, 'lockCount': null}", 0},
        {"admin", "{'fsyncUnlock': 1}", "{'info': 'fsyncUnlock completed', 'lockCount': 1}", 0},
        /* nobody parks here: as when storage drains */
        {"geo", "{'insert': 'x', 'documents': [{}]}", NULL, VD_ERR_INTERRUPTED_AT_SHUTDOWN},
        {"geo", "{'aggregate': 'cities', 'pipeline': [{'$out': 'x'}], 'cursor': {}}", NULL,
         VD_ERR_INTERRUPTED_AT_SHUTDOWN},
        {"geo", "{'aggregate': 'none', 'pipeline': [], 'cursor': {}}", "{'cursor.firstBatch': []}",
         0},
        {"admin", "{'fsyncUnlock': 1}", "{'lockCount': 0}", 0},
        {"admin", "{'fsyncUnlock': 1}", NULL, VD_ERR_ILLEGAL_OPERATION},
        {"geo", "{'insert': 'x', 'documents': [{}]}", "{'n': 1}", 0},
        {"geo", "{'profile': -1}", "{'was': 0, 'slowms': 100, 'sampleRate': 1.0}", 0},
        {"geo", "{'profile': 0}", "{'was': 0}", 0},
        {"geo", "{'profile': 2}", NULL, VD_ERR_NOT_IMPLEMENTED},
        {"geo", "{'profile': 7}", NULL, VD_ERR_BAD_VALUE},
        {"geo", "{'profile': 0, 'slowms': 20}", NULL, VD_ERR_NOT_IMPLEMENTED},
        {"geo", "{'dbHash': 1}", "{'capped': []}", 0},
    };
    reads_t *reads = reads_open();
    fill(reads);
    CHECK(reads, cases);
    reads_close(reads);
}

Test(reads, validate)
{
    static const case_t cases[] = {
        {"geo", "{'validate': 'cities'}",
         "{'ns': 'geo.cities', 'nInvalidDocuments': 0, 'nNonCompliantDocuments': 0, 'nrecords': "
         "300, 'nIndexes': 1, 'keysPerIndex': {'_id_': 300}, 'indexDetails': {'_id_': {'valid': "
         "true}}, 'valid': true, 'repaired': false, 'errors': [], 'extraIndexEntries': [], "
         "'missingIndexEntries': [], 'corruptRecords': []}",
         0},
        {"geo", "{'validate': 'cities', 'full': true}", "{'valid': true, 'errors': []}", 0},
        {"geo", "{'validate': 'cities', 'checkBSONConformance': true}",
         "{'valid': true, 'nNonCompliantDocuments': 0}", 0},
        {"geo", "{'validate': 'cities', 'metadata': true}", "{'valid': true, 'nrecords': null}", 0},
        {"geo", "{'validate': 'cities', 'fixMultikey': true}", NULL, VD_ERR_NOT_IMPLEMENTED},
        {"geo", "{'validate': 'cities', 'repair': true, 'background': true}", NULL,
         VD_ERR_INVALID_OPTIONS},
        {"geo", "{'validate': 'cities', 'full': true, 'background': true}", NULL,
         VD_ERR_INVALID_OPTIONS},
        {"geo", "{'validate': 'none'}", NULL, VD_ERR_NAMESPACE_NOT_FOUND},
    };
    reads_t *reads = reads_open();
    fill(reads);
    CHECK(reads, cases);
    reads_close(reads);
}

/* The hash of a database depends on what is in it, not on how it came. */
Test(reads, db_hash)
{
    reads_t *reads = reads_open();
    fill(reads);
    cr_assert_eq(reads_run(reads, "geo", "{'dbHash': 1}"), VD_OK);
    vd_value_t before = vd_value_copy(reads->texts, reads_at(reads, "md5"));
    cr_assert_eq(before.type, VD_BSON_STRING);
    cr_assert_eq(vd_value_string(before).len, 32);
    cr_assert_eq(reads_run(reads, "geo", "{'dbHash': 1}"), VD_OK);
    cr_assert(vd_value_equal(before, reads_at(reads, "md5")));
    reads_insert(reads, "geo", "rivers", query_json(reads->texts, "{'0': {'_id': 'Elbe'}}"));
    cr_assert_eq(reads_run(reads, "geo", "{'dbHash': 1}"), VD_OK);
    cr_assert_not(vd_value_equal(before, reads_at(reads, "md5")));
    reads_close(reads);
}

Test(reads, operations)
{
    static const case_t mine[] = {
        {"admin", "{'currentOp': 1}",
         "{'inprog.0.type': 'op', 'inprog.0.op': 'command', 'inprog.0.ns': 'admin.$cmd', "
         "'inprog.0.active': true, 'inprog.0.desc': 'conn7', 'inprog.0.effectiveUsers': [{'user': "
         "'ann', 'db': 'admin'}], 'inprog.0.command.currentOp': 1, 'inprog.1': null}",
         0},
        {"admin", "{'currentOp': 1, 'desc': 'conn8'}", "{'inprog': []}", 0},
        {"admin", "{'currentOp': 1, '$all': true}",
         "{'inprog.1.type': 'idleCursor', 'inprog.1.ns': 'geo.cities', "
         "'inprog.1.cursor.originatingCommand.find': 'cities'}",
         0},
        {"admin",
         "{'aggregate': 1, 'pipeline': [{'$currentOp': {'allUsers': true, 'idleConnections': "
         "false, 'truncateOps': false}}, {'$match': {}}], 'cursor': {}}",
         "{'cursor.firstBatch.0.command.aggregate': 1, 'cursor.ns': 'admin.$cmd.aggregate'}", 0},
        {"admin", "{'killOp': 1, 'op': 123456}", "{'info': 'attempting to kill op'}", 0},
        {"admin", "{'killOp': 1}", NULL, VD_ERR_LOCATION(40414)},
        {"geo", "{'currentOp': 1}", NULL, VD_ERR_UNAUTHORIZED},
    };
    static const case_t others[] = {
        {"admin", "{'currentOp': 1}", NULL, VD_ERR_UNAUTHORIZED},
        {"admin", "{'currentOp': 1, '$ownOps': true, '$all': true}",
         "{'inprog.0.effectiveUsers.0.user': 'eve', 'inprog.1': null}", 0},
        {"admin",
         "{'aggregate': 1, 'pipeline': [{'$currentOp': {'allUsers': true}}], 'cursor': {}}", NULL,
         VD_ERR_UNAUTHORIZED},
        {"admin", "{'aggregate': 1, 'pipeline': [{'$currentOp': {}}], 'cursor': {}}",
         "{'cursor.firstBatch.0.effectiveUsers.0.user': 'eve', 'cursor.firstBatch.1': null}", 0},
    };
    reads_t *reads = reads_open();
    fill(reads);
    cr_assert_eq(reads_run(reads, "geo", "{'find': 'cities', 'batchSize': 1}"), VD_OK);
    CHECK(reads, mine);
    reads->user = "eve@admin";
    reads->flags = 0;
    CHECK(reads, others);
    /* What proves passwords never shows. */
    reads->user = "ann@admin";
    reads->flags = VDP_COMMAND_ALL_USERS | VDP_COMMAND_INTERNAL;
    cr_assert_eq(reads_run(reads, "admin", "{'currentOp': 1, 'secret': {'$exists': false}}"),
                 VD_OK);
    cr_assert(vd_value_is_missing(reads_at(reads, "inprog.0.command.currentOp")), "%s",
              reads_text(reads));
    reads_close(reads);
}
