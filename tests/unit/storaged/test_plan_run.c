/* tests/unit/storaged/test_plan_run.c — plans at work: what explain shows of each kind, what
 * happens when an index changes under a cursor, writes that move what they read, the plan cache. */
#include "tests/unit/storaged/index_support.h"
#include "veddb-storaged/exec/planner.h"
#include "veddb-storaged/exec/sampling.h"

#define OK(reads, command)                                                                         \
    cr_assert_eq(reads_run((reads), "db", (command)), VD_OK, "%s: %s", (command), reads_text(reads))

/* {_id: i, a: i % 10, b: i, c: 's<i % 3>', t: [i % 7, 100 + i % 5], deep: {x: i % 4}} */
static void fill(reads_t *reads, int from, int count)
{
    for (int at = from; at < from + count; at += 500) {
        size_t len = 0, room = 500 * 150 + 100;
        char *text = malloc(room);
        len += (size_t)snprintf(text, room, "{'insert': 'c', 'documents': [");
        for (int i = at; i < at + 500 && i < from + count; i++)
            len += (size_t)snprintf(text + len, room - len,
                                    "%s{'_id': %d, 'a': %d, 'b': %d, 'c': 's%d', 't': [%d, %d], "
                                    "'deep': {'x': %d}}",
                                    i == at ? "" : ", ", i, i % 10, i, i % 3, i % 7, 100 + i % 5,
                                    i % 4);
        (void)snprintf(text + len, room - len, "]}");
        OK(reads, text);
        free(text);
    }
}

static void index_of(reads_t *reads, const char *key, const char *more)
{
    char command[400];
    (void)snprintf(command, sizeof command, "{'createIndexes': 'c', 'indexes': [{'key': %s, %s}]}",
                   key, more);
    OK(reads, command);
}

Test(plan_run, explain_of_each_kind)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 600);
    index_of(reads, "{'a': 1, 'b': 1}", "'name': 'ab'");
    index_of(reads, "{'b': -1}", "'name': 'b', 'unique': true");
    index_of(reads, "{'t': 1}", "'name': 't'");
    index_of(reads, "{'deep.x': 1}", "'name': 'x', 'sparse': true");
    static const reads_step_t steps[] = {
        {"db", "{'explain': {'find': 'c', 'filter': {'a': 3, 'c': 's1'}}}",
         "{'queryPlanner.winningPlan.stage': 'FETCH', "
         "'queryPlanner.winningPlan.filter': {'c': {'$eq': 's1'}}, "
         "'queryPlanner.winningPlan.inputStage': {'stage': 'IXSCAN', 'keyPattern': {'a': 1, 'b': "
         "1}, 'indexName': 'ab', 'isMultiKey': false, 'multiKeyPaths': {'a': [], 'b': []}, "
         "'isUnique': false, 'isSparse': false, 'isPartial': false, 'indexVersion': 2, "
         "'direction': 'forward', 'indexBounds': {'a': ['[3, 3]'], 'b': ['[MinKey, MaxKey]']}}, "
         "'executionStats.nReturned': 20, 'executionStats.totalKeysExamined': 60, "
         "'executionStats.totalDocsExamined': 60, 'executionStats.executionStages.stage': 'FETCH', "
         "'executionStats.executionStages.docsExamined': 60, "
         "'executionStats.executionStages.inputStage.keysExamined': 60}",
         0, NULL},
        {"db", "{'explain': {'find': 'c', 'filter': {'a': 3}, 'sort': {'b': -1}, 'limit': 5}}",
         "{'queryPlanner.winningPlan.stage': 'LIMIT', "
         "'queryPlanner.winningPlan.inputStage.inputStage.direction': 'backward', "
         "'queryPlanner.winningPlan.inputStage.inputStage.indexBounds': {'a': ['[3, 3]'], 'b': "
         "['[MaxKey, MinKey]']}, 'executionStats.totalKeysExamined': 5, "
         "'executionStats.totalDocsExamined': 5}",
         0, NULL},
        {"db",
         "{'explain': {'find': 'c', 'filter': {'a': {'$in': [1, 2]}}, 'sort': {'b': 1}, "
         "'limit': 3}}",
         "{'queryPlanner.winningPlan.inputStage.stage': 'FETCH', "
         "'queryPlanner.winningPlan.inputStage.inputStage.stage': 'SORT_MERGE', "
         "'queryPlanner.winningPlan.inputStage.inputStage.sortPattern': {'b': 1}, "
         "'queryPlanner.winningPlan.inputStage.inputStage.inputStages.1.indexBounds.a': "
         "['[2, 2]'], 'executionStats.nReturned': 3, 'executionStats.totalKeysExamined': 4}",
         0, NULL},
        {"db", "{'explain': {'find': 'c', 'filter': {'$or': [{'a': 3, 'b': 3}, {'b': 17}]}}}",
         "{'queryPlanner.winningPlan.stage': 'FETCH', 'queryPlanner.winningPlan.inputStage.stage': "
         "'OR', 'queryPlanner.winningPlan.inputStage.inputStages.1.indexName': 'b', "
         "'executionStats.nReturned': 2, 'executionStats.totalDocsExamined': 2}",
         0, NULL},
        {"db", "{'explain': {'find': 'c', 'filter': {'a': 3}, 'projection': {'b': 1, '_id': 0}}}",
         "{'queryPlanner.winningPlan.stage': 'PROJECTION_COVERED', "
         "'executionStats.totalDocsExamined': 0, 'executionStats.nReturned': 60}",
         0, NULL},
        {"db", "{'explain': {'count': 'c', 'query': {'a': {'$lt': 3}}}}",
         "{'queryPlanner.winningPlan.stage': 'COUNT', 'queryPlanner.winningPlan.inputStage.stage': "
         "'COUNT_SCAN', 'executionStats.totalDocsExamined': 0, "
         "'executionStats.totalKeysExamined': 180, 'executionStats.executionStages.nCounted': 180}",
         0, NULL},
        {"db", "{'explain': {'count': 'c', 'query': {'t': {'$gte': 100}}}}",
         "{'queryPlanner.winningPlan.inputStage.stage': 'COUNT_SCAN', "
         "'executionStats.totalDocsExamined': 0, 'executionStats.executionStages.nCounted': 600}",
         0, NULL},
        {"db", "{'explain': {'distinct': 'c', 'key': 'a', 'query': {}}}",
         "{'queryPlanner.winningPlan.stage': 'PROJECTION_COVERED', "
         "'queryPlanner.winningPlan.inputStage.stage': 'DISTINCT_SCAN', "
         "'executionStats.totalKeysExamined': 10, 'executionStats.totalDocsExamined': 0, "
         "'executionStats.nReturned': 10}",
         0, NULL},
        {"db", "{'distinct': 'c', 'key': 'a', 'query': {'a': {'$gt': 6}}}", "{'values': [7, 8, 9]}",
         0, NULL},
        {"db", "{'explain': {'find': 'c', 'filter': {'t': 103}}}",
         "{'queryPlanner.winningPlan.inputStage.isMultiKey': true, "
         "'queryPlanner.winningPlan.inputStage.multiKeyPaths': {'t': ['t']}, "
         "'executionStats.nReturned': 120}",
         0, NULL},
        {"db", "{'explain': {'find': 'c', 'filter': {'b': {'$gte': 590}}}}",
         "{'queryPlanner.winningPlan.inputStage.isUnique': true, "
         "'queryPlanner.winningPlan.inputStage.indexBounds': {'b': ['[inf.0, 590]']}, "
         "'executionStats.nReturned': 10}",
         0, NULL},
        {"db", "{'explain': {'find': 'c', 'filter': {'a': {'$gte': 0}, 'b': 7}, 'hint': 'ab'}}",
         "{'executionStats.nReturned': 1, 'executionStats.totalDocsExamined': 1}", 0, NULL},
        {"db",
         "{'explain': {'aggregate': 'c', 'pipeline': [{'$match': {'a': 3}}, {'$group': "
         "{'_id': '$b', 'n': {'$sum': 1}}}], 'cursor': {}}}",
         "{'stages.0.$cursor.executionStats.totalDocsExamined': 0, "
         "'stages.0.$cursor.queryPlanner.winningPlan.stage': 'IXSCAN', 'stages.0.nReturned': 60}",
         0, NULL},
        {"db", "{'explain': {'delete': 'c', 'deletes': [{'q': {'a': 3}, 'limit': 0}]}}",
         "{'queryPlanner.winningPlan.stage': 'DELETE', 'executionStats.executionStages."
         "nWouldDelete': 60}",
         0, NULL},
        {"db",
         "{'explain': {'update': 'c', 'updates': [{'q': {'b': 3}, 'u': {'$set': {'z': 1}}}]}}",
         "{'queryPlanner.winningPlan.stage': 'UPDATE', "
         "'queryPlanner.winningPlan.inputStage.inputStage.indexName': 'b', "
         "'executionStats.executionStages.nMatched': 1}",
         0, NULL},
        {"db",
         "{'explain': {'findAndModify': 'c', 'query': {'a': 3}, 'sort': {'b': -1}, 'remove': "
         "true}}",
         "{'queryPlanner.winningPlan.stage': 'DELETE', 'executionStats.totalDocsExamined': 1}", 0,
         NULL},
        {"db", "{'count': 'c'}", "{'n': 600}", 0, NULL},
    };
    READS_SCRIPT(reads, steps);
    OK(reads, "{'explain': {'find': 'c', 'filter': {'a': 3, 'b': {'$gt': 500}}}, 'verbosity': "
              "'allPlansExecution'}");
    cr_assert(vd_value_is_number(reads_at(reads, "queryPlanner.estimates.cost")));
    cr_assert_eq(reads_at(reads, "queryPlanner.rejectedPlans.0.stage").type, VD_BSON_STRING);
    cr_assert_eq(reads_at(reads, "executionStats.allPlansExecution.0.executionStages").type,
                 VD_BSON_OBJECT);
    reads_close(reads);
}

Test(plan_run, hints_min_max_and_return_key)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 100);
    index_of(reads, "{'a': 1, 'b': -1}", "'name': 'ab'");
    index_of(reads, "{'q': 1}", "'name': 'q', 'sparse': true");
    index_of(reads, "{'b': 1}", "'name': 'p', 'partialFilterExpression': {'a': {'$gt': 5}}");
    index_of(reads, "{'$**': 1}", "'name': 'w'");
    OK(reads, "{'insert': 'c', 'documents': [{'_id': 1000, 'q': 1}]}");
    static const reads_step_t steps[] = {
        {"db", "{'find': 'c', 'hint': 'nope'}", NULL, VD_ERR_BAD_VALUE,
         "error processing query: planner returned error: bad hint: hint provided does not "
         "correspond to an existing index"},
        {"db", "{'find': 'c', 'hint': {'a': 1}}", NULL, VD_ERR_BAD_VALUE, NULL},
        {"db", "{'find': 'c', 'filter': {'_id': 5}, 'hint': {'zz': 1}}", NULL, VD_ERR_BAD_VALUE,
         NULL},
        {"db", "{'count': 'c', 'hint': 'nope'}", NULL, VD_ERR_BAD_VALUE, NULL},
        {"db", "{'distinct': 'c', 'key': 'a', 'hint': 'nope'}", NULL, VD_ERR_BAD_VALUE, NULL},
        {"db", "{'aggregate': 'c', 'pipeline': [], 'cursor': {}, 'hint': 'nope'}", NULL,
         VD_ERR_BAD_VALUE, NULL},
        {"db",
         "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'z': 1}}, 'hint': "
         "'nope'}]}",
         "{'n': 0, 'writeErrors.0.code': 2}", 0, NULL},
        {"db", "{'delete': 'c', 'deletes': [{'q': {'a': 99}, 'limit': 0, 'hint': {'x': 1}}]}",
         "{'n': 0, 'writeErrors.0.code': 2}", 0, NULL},
        {"db", "{'findAndModify': 'c', 'query': {'a': 1}, 'remove': true, 'hint': 'nope'}", NULL,
         VD_ERR_BAD_VALUE, NULL},
        {"db", "{'find': 'none', 'hint': 'nope'}", "{'cursor.firstBatch': []}", 0, NULL},
        {"db", "{'find': 'c', 'hint': 5}", NULL, VD_ERR_FAILED_TO_PARSE, NULL},
        {"db", "{'find': 'c', 'hint': {'$natural': 2}}", NULL, VD_ERR_BAD_VALUE, NULL},
        /* a sparse index gives what it has; a partial or wildcard one refuses */
        {"db", "{'find': 'c', 'hint': 'q', 'projection': {'_id': 1}}",
         "{'cursor.firstBatch': [{'_id': 1000}]}", 0, NULL},
        {"db", "{'count': 'c', 'hint': 'q'}", "{'n': 1}", 0, NULL},
        {"db", "{'find': 'c', 'filter': {'b': 5}, 'hint': 'p'}", NULL, VD_ERR_LOCATION(291), NULL},
        {"db", "{'find': 'c', 'filter': {'b': 28, 'a': 8}, 'hint': 'p', 'projection': {'_id': 1}}",
         "{'cursor.firstBatch': [{'_id': 28}]}", 0, NULL},
        {"db", "{'find': 'c', 'filter': {}, 'hint': 'w'}", NULL, VD_ERR_LOCATION(291), NULL},
        {"db",
         "{'find': 'c', 'filter': {'deep.x': 1, 'b': 5}, 'hint': 'w', 'projection': {'_id': "
         "1}}",
         "{'cursor.firstBatch': [{'_id': 5}]}", 0, NULL},
        {"db",
         "{'find': 'c', 'hint': {'a': 1, 'b': -1}, 'min': {'a': 3, 'b': 50}, 'max': {'a': 4, "
         "'b': 90}, 'projection': {'_id': 1}}",
         "{'cursor.firstBatch': [{'_id': 43}, {'_id': 33}, {'_id': 23}, {'_id': 13}, {'_id': 3}, "
         "{'_id': 94}]}",
         0, NULL},
        {"db", "{'find': 'c', 'min': {'a': 3}}", NULL, VD_ERR_LOCATION(51173), NULL},
        {"db", "{'find': 'c', 'hint': 'ab', 'min': {'a': 3}}", NULL, VD_ERR_LOCATION(51174), NULL},
        {"db", "{'find': 'c', 'hint': 'q', 'min': {'q': 3}, 'max': {'q': 3}}", NULL,
         VD_ERR_LOCATION(51175), NULL},
        /* of _id: a range of the collection */
        {"db",
         "{'find': 'c', 'hint': {'_id': 1}, 'min': {'_id': 3}, 'max': {'_id': 5}, 'projection': "
         "{'_id': 1}}",
         "{'cursor.firstBatch': [{'_id': 3}, {'_id': 4}]}", 0, NULL},
        {"db",
         "{'find': 'c', 'filter': {'a': {'$ne': 1}}, 'hint': '_id_', 'max': {'_id': 4}, 'sort': "
         "{'_id': -1}, 'projection': {'_id': 1}}",
         "{'cursor.firstBatch': [{'_id': 3}, {'_id': 2}, {'_id': 0}]}", 0, NULL},
        {"db", "{'find': 'c', 'hint': '_id_', 'min': {'a': 3}}", NULL, VD_ERR_LOCATION(51174),
         NULL},
        {"db", "{'find': 'c', 'hint': '_id_', 'min': {'_id': 3}, 'max': {'_id': 3}}", NULL,
         VD_ERR_LOCATION(51175), NULL},
        {"db", "{'find': 'c', 'filter': {'a': 9, 'b': 99}, 'hint': 'ab', 'returnKey': true}",
         "{'cursor.firstBatch': [{'a': 9, 'b': 99}]}", 0, NULL},
        {"db", "{'find': 'c', 'filter': {'_id': 5}, 'returnKey': true}",
         "{'cursor.firstBatch': [{'_id': 5}]}", 0, NULL},
        /* Collections are in the order of _id: its key is what a record is known by. */
        {"db",
         "{'find': 'c', 'filter': {'_id': 5}, 'projection': {'a': 1, '_id': 0}, 'showRecordId': "
         "true}",
         "{'cursor.firstBatch': [{'a': 5, '$recordId': {'$binary': {'base64': 'LQo=', 'subType': "
         "'00'}}}]}",
         0, NULL},
        {"db",
         "{'update': 'c', 'updates': [{'q': {'a': 3}, 'u': {'$set': {'z': 1}}, 'multi': true, "
         "'hint': 'ab'}]}",
         "{'n': 10, 'nModified': 10}", 0, NULL},
        {"db",
         "{'findAndModify': 'c', 'query': {'a': 3}, 'sort': {'b': 1}, 'update': {'$set': "
         "{'z': 2}}, 'hint': 'ab', 'fields': {'_id': 1}}",
         "{'value': {'_id': 3}}", 0, NULL},
    };
    READS_SCRIPT(reads, steps);
    reads_close(reads);
}

/* ---- writes that move what they read ---- */

Test(plan_run, a_document_that_a_write_moves_ahead_is_changed_once)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 900);
    index_of(reads, "{'b': 1}", "'name': 'b'");
    index_of(reads, "{'t': 1}", "'name': 't'");
    static const reads_step_t steps[] = {
        {"db",
         "{'update': 'c', 'updates': [{'q': {'b': {'$gte': 0}}, 'u': {'$inc': {'b': 1000, "
         "'n': 1}}, 'multi': true, 'hint': 'b'}]}",
         "{'n': 900, 'nModified': 900}", 0, NULL},
        {"db", "{'count': 'c', 'query': {'n': 1}}", "{'n': 900}", 0, NULL},
        {"db",
         "{'update': 'c', 'updates': [{'q': {'t': {'$gte': 0}}, 'u': {'$inc': {'t.0': 500, "
         "'n': 1}}, 'multi': true, 'hint': 't'}]}",
         "{'n': 900, 'nModified': 900}", 0, NULL},
        {"db", "{'count': 'c', 'query': {'n': 2}}", "{'n': 900}", 0, NULL},
        {"db",
         "{'delete': 'c', 'deletes': [{'q': {'t': {'$gte': 500}}, 'limit': 0, 'hint': "
         "'t'}]}",
         "{'n': 900}", 0, NULL},
        {"db", "{'count': 'c'}", "{'n': 0}", 0, NULL},
    };
    READS_SCRIPT(reads, steps);
    reads_close(reads);
}

/* ---- indexes that change under a cursor ---- */

/* Goes on with the cursor; returns how many more documents come, or minus the code. */
static int64_t rest(reads_t *reads, int64_t cursor)
{
    int64_t count = 0;
    while (cursor != 0) {
        char command[200];
        (void)snprintf(command, sizeof command,
                       "{'getMore': {'$numberLong': '%lld'}, 'collection': 'c', 'batchSize': 50}",
                       (long long)cursor);
        if (reads_run(reads, "db", command) != VD_OK)
            return -(int64_t)vd_value_int32(reads_at(reads, "code"));
        count += vd_bson_count(vd_value_document(reads_at(reads, "cursor.nextBatch")));
        cursor = vd_value_int64(reads_at(reads, "cursor.id"));
    }
    return count;
}

static int64_t cursor_of(reads_t *reads)
{
    return vd_value_int64(reads_at(reads, "cursor.id"));
}

Test(plan_run, an_index_dropped_under_a_cursor)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 300);
    index_of(reads, "{'b': 1}", "'name': 'b'");
    OK(reads, "{'find': 'c', 'filter': {'b': {'$gte': 0}}, 'hint': 'b', 'batchSize': 10}");
    int64_t cursor = cursor_of(reads);
    OK(reads, "{'dropIndexes': 'c', 'index': 'b'}");
    cr_assert_eq(rest(reads, cursor), -175, "%s", reads_text(reads));
    /* nothing was given yet: planned anew, with a hint that is no longer good an error */
    index_of(reads, "{'b': 1}", "'name': 'b'");
    OK(reads, "{'find': 'c', 'filter': {'b': {'$lt': 5}}, 'batchSize': 0}");
    cursor = cursor_of(reads);
    OK(reads, "{'dropIndexes': 'c', 'index': 'b'}");
    cr_assert_eq(rest(reads, cursor), 5, "%s", reads_text(reads));
    reads_close(reads);
}

Test(plan_run, the_first_array_under_a_cursor)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 300);
    index_of(reads, "{'b': 1}", "'name': 'b'");
    OK(reads, "{'find': 'c', 'filter': {'b': {'$gte': 0}}, 'hint': 'b', 'batchSize': 10, "
              "'projection': {'b': 1, '_id': 0}}");
    int64_t cursor = cursor_of(reads);
    OK(reads, "{'update': 'c', 'updates': [{'q': {'_id': 200}, 'u': {'$set': {'b': [201, 250, "
              "251]}}}]}");
    cr_assert_eq(rest(reads, cursor), 290, "%s", reads_text(reads));
    reads_close(reads);
}

Test(plan_run, documents_that_change_between_batches)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 300);
    index_of(reads, "{'b': 1}", "'name': 'b'");
    OK(reads,
       "{'find': 'c', 'filter': {'b': {'$gte': 0}}, 'sort': {'b': 1}, 'hint': 'b', 'batchSize': "
       "10}");
    int64_t cursor = cursor_of(reads);
    OK(reads, "{'delete': 'c', 'deletes': [{'q': {'_id': {'$gte': 9, '$lt': 20}}, 'limit': 0}]}");
    OK(reads, "{'update': 'c', 'updates': [{'q': {'_id': 50}, 'u': {'$set': {'b': -5}}}, {'q': "
              "{'_id': 60}, 'u': {'$unset': {'b': 1}}}]}");
    cr_assert_eq(rest(reads, cursor), 300 - 10 - 10 - 2, "%s", reads_text(reads));
    reads_close(reads);
}

/* ---- keys that were cut ---- */

Test(plan_run, keys_that_were_cut_are_sorted_by_their_values)
{
    enum { COUNT = 40, LONG = 3000 };
    reads_t *reads = reads_open();
    char *text = malloc(COUNT * (LONG + 100) + 1000);
    size_t len = (size_t)sprintf(text, "{'insert': 'c', 'documents': [");
    for (int i = 0; i < COUNT; i++) {
        len += (size_t)sprintf(text + len, "%s{'_id': %d, 's': '", i == 0 ? "" : ", ", i);
        memset(text + len, 'x', LONG);
        len += i % 4 == 0 ? 3 : LONG; /* some are short */
        len += (size_t)sprintf(text + len, "%02d'}", i * 7 % COUNT);
    }
    (void)sprintf(text + len, "]}");
    OK(reads, text);
    free(text);
    index_of(reads, "{'s': 1}", "'name': 's'");
    static const char *const orders[] = {"1", "-1"};
    for (int k = 0; k < 2; k++) {
        char command[200];
        (void)snprintf(command, sizeof command,
                       "{'find': 'c', 'filter': {'s': {'$gte': 'a'}}, 'sort': {'s': %s}, 'hint': "
                       "'s', 'skip': 3, 'limit': 30}",
                       orders[k]);
        OK(reads, command);
        vd_bson_iter_t iter;
        vd_value_t before = VD_VALUE_MISSING;
        uint32_t count = 0;
        vd_bson_iter_init(&iter, vd_value_document(reads_at(reads, "cursor.firstBatch")));
        while (vd_bson_iter_next(&iter)) {
            vd_value_t s = vd_bson_get(vd_value_document(iter.value), "s");
            if (count++ > 0)
                cr_assert(k == 0 ? vd_value_compare(before, s) < 0
                                 : vd_value_compare(before, s) > 0);
            before = s;
        }
        cr_assert_eq(count, 30);
    }
    OK(reads, "{'distinct': 'c', 'key': 's'}");
    cr_assert_eq(vd_bson_count(vd_value_document(reads_at(reads, "values"))), COUNT);
    reads_close(reads);
}

/* ---- the plan cache ---- */

Test(plan_run, the_plan_cache)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 600);
    index_of(reads, "{'a': 1}", "'name': 'a'");
    index_of(reads, "{'b': 1}", "'name': 'b'");
    static const reads_step_t steps[] = {
        {"db", "{'aggregate': 'c', 'pipeline': [{'$planCacheStats': {}}], 'cursor': {}}",
         "{'cursor.firstBatch': []}", 0, NULL},
        {"db", "{'find': 'c', 'filter': {'a': 3, 'b': 3}}", NULL, 0, NULL},
        {"db", "{'find': 'c', 'filter': {'a': 4, 'b': 14}}", NULL, 0, NULL},
        {"db", "{'aggregate': 'c', 'pipeline': [{'$planCacheStats': {}}], 'cursor': {}}",
         "{'cursor.firstBatch.0.isActive': true, 'cursor.firstBatch.0.works': 2, "
         "'cursor.firstBatch.0.cachedPlan.planSummary': 'IXSCAN { b: 1 }', "
         "'cursor.firstBatch.0.createdFromQuery': {'query': {'a': 3, 'b': 3}, 'sort': {}, "
         "'projection': {}}, 'cursor.firstBatch.0.indexFilterSet': false, "
         "'cursor.firstBatch.1': null}",
         0, NULL},
        {"db", "{'planCacheClear': 'c', 'query': {'x': 1}}", NULL, 0, NULL},
        {"db",
         "{'aggregate': 'c', 'pipeline': [{'$planCacheStats': {}}, {'$count': 'n'}], "
         "'cursor': {}}",
         "{'cursor.firstBatch.0.n': 1}", 0, NULL},
        {"db", "{'planCacheClear': 'c', 'query': {'a': 1, 'b': 1}}", NULL, 0, NULL},
        {"db", "{'aggregate': 'c', 'pipeline': [{'$planCacheStats': {}}], 'cursor': {}}",
         "{'cursor.firstBatch': []}", 0, NULL},
        {"db", "{'planCacheClear': 'c', 'sort': {'x': 1}}", NULL, VD_ERR_BAD_VALUE, NULL},
        {"db", "{'planCacheClear': 'none'}", NULL, 0, NULL},
        {"db", "{'aggregate': 'c', 'pipeline': [{'$planCacheStats': {'x': 1}}], 'cursor': {}}",
         NULL, VD_ERR_FAILED_TO_PARSE, NULL},
        /* a plan that was good for one value, and is bad for another, is given up */
        {"db", "{'find': 'c', 'filter': {'b': {'$gte': 598}, 'c': 's1'}}", NULL, 0, NULL},
        {"db", "{'find': 'c', 'filter': {'b': {'$gte': 0}, 'c': 's1'}, 'batchSize': 1000}", NULL, 0,
         NULL},
        {"db", "{'dropIndexes': 'c', 'index': 'b'}", NULL, 0, NULL},
        {"db", "{'find': 'c', 'filter': {'a': 3, 'b': 3}}", "{'cursor.firstBatch.0._id': 3}", 0,
         NULL},
    };
    READS_SCRIPT(reads, steps);
    reads_close(reads);
}

/* ---- each candidate, run for a while ---- */

Test(plan_run, all_plans_are_really_run)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 3000);
    index_of(reads, "{'a': 1}", "'name': 'a'");
    index_of(reads, "{'b': 1}", "'name': 'b'");
    OK(reads, "{'explain': {'find': 'c', 'filter': {'a': 3, 'b': {'$lt': 100}}}, 'verbosity': "
              "'allPlansExecution'}");
    vd_bson_t all = vd_value_document(reads_at(reads, "executionStats.allPlansExecution"));
    vd_bson_iter_t iter;
    bool by_a = false, by_b = false;
    uint32_t count = 0;
    vd_bson_iter_init(&iter, all);
    for (; vd_bson_iter_next(&iter); count++) {
        vd_bson_t plan = vd_value_document(iter.value);
        vd_value_t name =
            vd_bson_get_path(plan, VD_SLICE_LIT("executionStages.inputStage.indexName"));
        double keys = vd_value_as_double(vd_bson_get(plan, "totalKeysExamined"));
        double documents = vd_value_as_double(vd_bson_get(plan, "totalDocsExamined"));
        cr_assert_eq(vd_value_as_double(vd_bson_get(plan, "nReturned")), 10);
        cr_assert_eq(
            vd_value_as_double(vd_bson_get_path(plan, VD_SLICE_LIT("executionStages.nReturned"))),
            10);
        if (name.type == VD_BSON_STRING && vd_slice_is(vd_value_string(name), "a")) {
            by_a = true;
            cr_assert(keys == 300 && documents == 300, "%f %f", keys, documents);
        } else if (name.type == VD_BSON_STRING && vd_slice_is(vd_value_string(name), "b")) {
            by_b = true;
            cr_assert(keys == 100 && documents == 100, "%f %f", keys, documents);
            cr_assert_eq(count, 0, "the chosen one comes first");
        } else {
            cr_assert_eq(documents, 3000, "the whole collection");
        }
    }
    cr_assert(by_a && by_b && count == 3, "%u", count);
    /* bounded: a trial ends behind so many results, or so much work, and does not replace the run
     */
    OK(reads, "{'explain': {'find': 'c', 'filter': {'b': {'$gte': 0}, 'a': {'$gte': 0}}, 'sort': "
              "{'a': 1}}, 'verbosity': 'allPlansExecution'}");
    cr_assert_eq(vd_value_as_double(reads_at(reads, "executionStats.nReturned")), 3000);
    vd_bson_iter_init(&iter,
                      vd_value_document(reads_at(reads, "executionStats.allPlansExecution")));
    while (vd_bson_iter_next(&iter))
        cr_assert_leq(vd_value_as_double(vd_bson_get(vd_value_document(iter.value), "nReturned")),
                      101);
    OK(reads, "{'explain': {'find': 'c', 'filter': {'_id': 5}}, 'verbosity': "
              "'allPlansExecution'}");
    cr_assert(
        vd_bson_is_empty(vd_value_document(reads_at(reads, "executionStats.allPlansExecution"))),
        "there was only one");
    reads_close(reads);
}

/* ---- index filters ---- */

Test(plan_run, index_filters)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 600);
    index_of(reads, "{'a': 1}", "'name': 'a'");
    index_of(reads, "{'b': 1}", "'name': 'b'");
#define EXPLAIN(filter, more) "{'explain': {'find': 'c', 'filter': " filter more "}}"
    static const reads_step_t steps[] = {
        {"db", EXPLAIN("{'a': 3, 'b': 3}", ""),
         "{'queryPlanner.winningPlan.inputStage.indexName': 'b', 'queryPlanner.indexFilterSet': "
         "false}",
         0, NULL},
        {"db", "{'planCacheListFilters': 'c'}", "{'filters': []}", 0, NULL},
        {"db", "{'planCacheSetFilter': 'c', 'query': {'a': 1, 'b': 1}, 'indexes': [{'a': 1}]}",
         NULL, 0, NULL},
        {"db", EXPLAIN("{'a': 3, 'b': 9}", ""),
         "{'queryPlanner.winningPlan.inputStage.indexName': 'a', 'queryPlanner.indexFilterSet': "
         "true}",
         0, NULL},
        {"db", EXPLAIN("{'a': 3, 'b': 9}", ", 'hint': 'b'"),
         "{'queryPlanner.winningPlan.inputStage.indexName': 'a'}", 0, NULL},
        {"db", "{'explain': {'count': 'c', 'query': {'a': 3, 'b': 9}}}",
         "{'queryPlanner.indexFilterSet': true}", 0, NULL},
        {"db", EXPLAIN("{'a': 3, 'b': {'$gt': 9}}", ""), "{'queryPlanner.indexFilterSet': false}",
         0, NULL},
        {"db", EXPLAIN("{'a': 3, 'b': 9}", ", 'sort': {'c': 1}"),
         "{'queryPlanner.indexFilterSet': false}", 0, NULL},
        {"db", EXPLAIN("{'a': 3, 'b': 9}", ", 'collation': {'locale': 'en'}"),
         "{'queryPlanner.indexFilterSet': false}", 0, NULL},
        {"db", "{'planCacheSetFilter': 'c', 'query': {'a': 0, 'b': 0}, 'indexes': ['none']}", NULL,
         0, NULL},
        {"db", EXPLAIN("{'a': 3, 'b': 9}", ""),
         "{'queryPlanner.winningPlan.stage': 'COLLSCAN', 'queryPlanner.indexFilterSet': true}", 0,
         NULL},
        {"db",
         "{'planCacheSetFilter': 'c', 'query': {'a': 1}, 'sort': {'b': 1}, 'projection': "
         "{'a': 1}, 'indexes': ['b', {'a': 1}]}",
         NULL, 0, NULL},
        {"db", "{'planCacheListFilters': 'c'}",
         "{'filters': [{'query': {'a': 0, 'b': 0}, 'sort': {}, 'projection': {}, 'indexes': "
         "['none']}, {'query': {'a': 1}, 'sort': {'b': 1}, 'projection': {'a': 1}, 'indexes': "
         "['b', {'a': 1}]}]}",
         0, NULL},
        {"db", "{'planCacheClearFilters': 'c', 'query': {'a': 7, 'b': 8}}", NULL, 0, NULL},
        {"db", EXPLAIN("{'a': 3, 'b': 3}", ""),
         "{'queryPlanner.winningPlan.inputStage.indexName': 'b', 'queryPlanner.indexFilterSet': "
         "false}",
         0, NULL},
        {"db", "{'planCacheClearFilters': 'c'}", NULL, 0, NULL},
        {"db", "{'planCacheListFilters': 'c'}", "{'filters': []}", 0, NULL},
        {"db", "{'planCacheListFilters': 'none'}", "{'filters': []}", 0, NULL},
        {"db", "{'planCacheSetFilter': 'c', 'query': {'a': 1}}", NULL, VD_ERR_LOCATION(40414),
         NULL},
        {"db", "{'planCacheSetFilter': 'c', 'query': {'a': 1}, 'indexes': []}", NULL,
         VD_ERR_BAD_VALUE, "required field indexes must contain at least one index"},
        {"db", "{'planCacheSetFilter': 'c', 'query': {'a': 1}, 'indexes': [5]}", NULL,
         VD_ERR_BAD_VALUE, "each item in indexes must be an object or string"},
        {"db", "{'planCacheSetFilter': 'c', 'indexes': ['a']}", NULL, VD_ERR_BAD_VALUE, NULL},
        {"db", "{'planCacheSetFilter': 'none', 'query': {'a': 1}, 'indexes': ['a']}", NULL,
         VD_ERR_BAD_VALUE, "no such collection"},
        {"db", "{'planCacheClearFilters': 'c', 'sort': {'a': 1}}", NULL, VD_ERR_BAD_VALUE, NULL},
    };
    READS_SCRIPT(reads, steps);
    reads_close(reads);
}

/* ---- statistics: refreshed, kept, read back ---- */

static bool known(reads_t *reads, int64_t *ret_documents, int64_t *ret_taken)
{
    stor_collection_t *c = index_hold(reads, "db", "c");
    uint64_t id = c->id;
    stor_catalog_release_all(&reads->request);
    return stor_planner_statistics(reads->storage.planner, id, ret_documents, ret_taken);
}

static void refresh(reads_t *reads)
{
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_planner_refresh(&reads->storage, reads->session, NULL, &err), &err);
}

static void restart(reads_t *reads)
{
    reads_stop(reads);
    stor_planner_destroy(&reads->storage.planner);
    reads->storage.planner = stor_planner_create();
    reads_start(reads, false);
}

Test(plan_run, statistics_outlive_a_restart, .timeout = 300)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    int64_t documents = 0, taken = 0, again = 0;
    reads_ok(stor_statistics_open(reads->storage.engine, &err), &err);
    reads_ok(stor_statistics_open(reads->storage.engine, &err), &err); /* it is there */
    fill(reads, 0, 100);
    index_of(reads, "{'a': 1}", "'name': 'a'");
    index_of(reads, "{'t': 1, 'b': -1}", "'name': 't'");
    refresh(reads);
    cr_assert_not(known(reads, &documents, &taken), "dives tell all about so few");
    fill(reads, 100, 900);
    refresh(reads);
    cr_assert(known(reads, &documents, &taken));
    cr_assert_eq(documents, 1000);
    /* nothing has changed: neither taken nor lost */
    refresh(reads);
    cr_assert(known(reads, &documents, &again) && again == taken);
    usleep(5000); /* what is taken anew has another time */
    restart(reads);
    cr_assert_not(known(reads, &documents, &again));
    OK(reads, "{'explain': {'find': 'c', 'filter': {'a': 3, 'b': {'$gt': 5}}}}");
    cr_assert(known(reads, &documents, &again), "by the first query that asks");
    cr_assert_eq(again, taken, "not taken anew, but read back");
    /* old ones serve queries until the background has new ones */
    fill(reads, 1000, 2000);
    refresh(reads);
    cr_assert(known(reads, &documents, &again) && documents == 3000 && again > taken);
    fill(reads, 3000, 3000);
    OK(reads, "{'find': 'c', 'filter': {'a': 3, 'b': 5}}");
    cr_assert(known(reads, &documents, &again) && documents == 3000);
    refresh(reads);
    cr_assert(known(reads, &documents, &again) && documents == 6000);
    /* of another set of indexes they say nothing, also behind a restart */
    restart(reads);
    OK(reads, "{'dropIndexes': 'c', 'index': 'a'}");
    refresh(reads);
    cr_assert(known(reads, &documents, &taken) && taken > again);
    OK(reads, "{'drop': 'c'}");
    refresh(reads);
    fill(reads, 0, 500);
    index_of(reads, "{'a': 1}", "'name': 'a'");
    cr_assert_not(known(reads, &documents, &again));
    refresh(reads);
    cr_assert(known(reads, &documents, &again) && documents == 500);
    reads_close(reads);
}

/* A row that is damaged, or of another form, is as if there were none. */
Test(plan_run, statistics_that_can_not_be_read, .timeout = 300)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    int64_t documents = 0, taken = 0, again = 0;
    reads_ok(stor_statistics_open(reads->storage.engine, &err), &err);
    fill(reads, 0, 500);
    index_of(reads, "{'a': 1, 'c': -1}", "'name': 'a'");
    refresh(reads);
    cr_assert(known(reads, &documents, &taken));
    stor_collection_t *c = index_hold(reads, "db", "c");
    uint8_t key[8];
    vd_put_u64_be(key, c->id);
    stor_catalog_release_all(&reads->request);
    stor_cursor_t *cursor;
    vd_slice_t value;
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_cursor_open(reads->session, "statistics", &cursor, &err), &err);
    reads_ok(stor_cursor_search(cursor, vd_slice(key, 8), &value, &err), &err);
    size_t len = value.len;
    uint8_t *good = malloc(len), *bad = malloc(len);
    memcpy(good, value.data, len);
    stor_txn_rollback(reads->session);
    for (size_t i = 0; i < 60; i++) {
        size_t at = i * 7919 % len;
        memcpy(bad, good, len);
        bad[at] ^= (uint8_t)(1u << (i % 8));
        reads_ok(stor_txn_begin(reads->session, &err), &err);
        reads_ok(stor_cursor_open(reads->session, "statistics", &cursor, &err), &err);
        reads_ok(stor_cursor_put(cursor, vd_slice(key, 8),
                                 i % 5 == 4 ? vd_slice(good, at) : vd_slice(bad, len), &err),
                 &err);
        reads_ok(stor_txn_commit(reads->session, &err), &err);
        stor_planner_destroy(&reads->storage.planner);
        reads->storage.planner = stor_planner_create();
        OK(reads, "{'find': 'c', 'filter': {'a': 3, 'b': {'$gt': 5}}}");
        cr_assert(known(reads, &documents, &again), "read or taken anew");
    }
    free(good);
    free(bad);
    reads_close(reads);
}
