/* tests/unit/storaged/test_index_unique.c — an index is made unique: prepareUnique, then unique. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/index_support.h"

#include <pthread.h>

Test(index_unique, prepared_and_converted)
{
    reads_t *reads = reads_open();
    static const reads_step_t steps[] = {
        {"db",
         "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a'}, {'key': {'a': 1, "
         "'b': -1}, 'name': 'ab', 'prepareUnique': true}, {'key': {'h': 'hashed'}, 'name': 'h'}]}",
         NULL, 0, NULL},
        {"db", "{'listIndexes': 'c'}", "{'cursor.firstBatch.2.prepareUnique': true}", 0, NULL},
        {"db",
         "{'insert': 'c', 'documents': [{'_id': 1, 'a': 5, 'b': 1}, {'_id': 2, 'a': 5, 'b': 2}, "
         "{'_id': 3, 'a': 6}, {'_id': 4, 'a': [7, 8]}, {'_id': 5, 'a': 9, 'b': 9}, {'_id': 6, 'a': "
         "9, 'b': 10}, {'_id': '7', 'a': 9}]}",
         "{'n': 7}", 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 20, 'a': 6}]}",
         "{'writeErrors.0.code': 11000, 'writeErrors.0.keyPattern': {'a': 1, 'b': -1}, "
         "'writeErrors.0.keyValue': {'a': 6, 'b': null}}",
         0, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': true}}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'h', 'prepareUnique': true}}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'c', 'index': {'keyPattern': {'a': 1}, 'prepareUnique': true}}",
         "{'prepareUnique_old': false, 'prepareUnique_new': true}", 0, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'prepareUnique': true}}",
         "{'prepareUnique_new': null}", 0, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': '1'}}", NULL,
         VD_ERR_TYPE_MISMATCH, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': false}}", NULL, VD_ERR_BAD_VALUE,
         "Cannot make index non-unique"},
        /* new ones are refused, old ones stay, and may change as long as they gain nothing */
        {"db", "{'insert': 'c', 'documents': [{'_id': 21, 'a': 5, 'b': 77}]}",
         "{'n': 0, 'writeErrors.0.code': 11000, 'writeErrors.0.keyValue': {'a': 5}}", 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 21, 'a': [1, 8]}]}",
         "{'n': 0, 'writeErrors.0.code': 11000, 'writeErrors.0.keyValue': {'a': 8}}", 0, NULL},
        {"db", "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'x': 1}}}]}",
         "{'nModified': 1}", 0, NULL},
        {"db", "{'update': 'c', 'updates': [{'q': {'_id': 3}, 'u': {'$set': {'a': 5}}}]}",
         "{'nModified': 0, 'writeErrors.0.code': 11000}", 0, NULL},
        {"db", "{'update': 'c', 'updates': [{'q': {'_id': 3}, 'u': {'$set': {'a': 66}}}]}",
         "{'nModified': 1}", 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 21, 'a': 6}]}", "{'n': 1}", 0, NULL},
        {"db", "{'delete': 'c', 'deletes': [{'q': {'_id': 21}, 'limit': 1}]}", "{'n': 1}", 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 21, 'a': 6}]}", "{'n': 1}", 0, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': true}}",
         "{'ok': 0, 'code': 359, 'codeName': 'CannotConvertIndexToUnique', 'violations': [{'ids': "
         "[1, 2]}, {'ids': [5, 6, '7']}]}",
         VD_ERR_CANNOT_CONVERT_INDEX_TO_UNIQUE,
         "Cannot convert the index to unique. Please resolve conflicting documents before running "
         "collMod again."},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': true}, 'dryRun': true}", NULL,
         VD_ERR_CANNOT_CONVERT_INDEX_TO_UNIQUE, NULL},
        {"db", "{'delete': 'c', 'deletes': [{'q': {'_id': {'$in': [2, 6, '7']}}, 'limit': 0}]}",
         "{'n': 3}", 0, NULL},
        /* dry runs */
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'hidden': true}, 'dryRun': true}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'c', 'validationLevel': 'off', 'dryRun': true}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db",
         "{'collMod': 'c', 'index': {'name': 'a', 'unique': true, 'hidden': true}, 'dryRun': true}",
         NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db",
         "{'collMod': 'c', 'index': {'name': 'a', 'unique': true}, 'validationLevel': 'off', "
         "'dryRun': true}",
         NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': true}, 'dryRun': true}",
         "{'unique_new': null}", 0, NULL},
        {"db", "{'listIndexes': 'c'}",
         "{'cursor.firstBatch.1.unique': null, 'cursor.firstBatch.1.prepareUnique': true}", 0,
         NULL},
        /* and it is */
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': true}}", "{'unique_new': true}",
         0, NULL},
        {"db", "{'listIndexes': 'c'}",
         "{'cursor.firstBatch.1.unique': true, 'cursor.firstBatch.1.prepareUnique': null}", 0,
         NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': true}}", "{'unique_new': null}",
         0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 22, 'a': 8, 'b': 3}]}",
         "{'writeErrors.0.code': 11000}", 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 22, 'a': 10}]}", "{'n': 1}", 0, NULL},
        {"db", "{'validate': 'c'}", "{'valid': true, 'keysPerIndex.a': 7}", 0, NULL},
        /* prepared no more */
        {"db", "{'collMod': 'c', 'index': {'name': 'ab', 'prepareUnique': false}}",
         "{'prepareUnique_old': true, 'prepareUnique_new': false}", 0, NULL},
        {"db", "{'find': 'c', 'filter': {'a': 8}, 'hint': 'a'}", "{'cursor.firstBatch.0._id': 4}",
         0, NULL},
    };
    READS_SCRIPT(reads, steps);
    reads_stop(reads);
    reads_start(reads, false);
    cr_assert_eq(reads_run(reads, "db", "{'validate': 'c'}"), VD_OK);
    reads_expect(reads, "validate", "{'valid': true, 'keysPerIndex.a': 7, 'nIndexes': 4}");
    cr_assert_eq(index_sound(reads, "db", "c", "a"), 7);
    reads_close(reads);
}

typedef struct {
    reads_t *reads;
    uint64_t seed;
    pthread_t thread;
    int inserted, refused, failures;
} racer_t;

/* Inserts, moves and deletes documents of few keys. */
static void *racer_run(void *context)
{
    racer_t *racer = context;
    vd_rand_t rand;
    vd_error_t err = VD_ERROR_INIT;
    stor_session_t *session = NULL;
    vd_arena_t *arena = vd_arena_create();
    stor_request_t *request = calloc(1, sizeof *request);
    vd_rand_seed(&rand, racer->seed);
    racer->failures += stor_session_open(racer->reads->storage.engine, &session, &err) != VD_OK;
    for (int n = 0; n < 1500 && racer->failures == 0; n++) {
        vd_arena_reset(arena);
        int key = (int)vd_rand_below(&rand, 30);
        int id = (int)(racer->seed * 1000 + vd_rand_below(&rand, 30));
        const char *json;
        switch (vd_rand_below(&rand, 3)) {
        case 0:
            json = vd_arena_printf(arena,
                                   "{'update': 'c', 'updates': [{'q': {'_id': %d}, 'u': {'$set': "
                                   "{'a': %d}}, 'upsert': true}]}",
                                   id, key);
            break;
        case 1:
            json = vd_arena_printf(arena, "{'insert': 'c', 'documents': [{'a': %d}]}", key);
            break;
        default:
            json = vd_arena_printf(
                arena, "{'delete': 'c', 'deletes': [{'q': {'a': %d}, 'limit': 1}]}", key);
            break;
        }
        vd_slice_t name;
        vd_value_t value;
        vd_bson_t body = query_json(arena, json);
        (void)vd_bson_first(body, &name, &value);
        stor_request_init(request, &racer->reads->storage, arena);
        request->command.db = request->db = VD_SLICE_LIT("db");
        request->command.user = vd_slice_str(racer->reads->user);
        request->command.name = name;
        request->sections.body = body;
        stor_request_run(request, session);
        int64_t code = 0;
        vd_value_t errors = vd_bson_get(request->reply_document, "writeErrors");
        if (errors.type == VD_BSON_ARRAY)
            (void)vd_value_as_int64(
                vd_bson_get(vd_value_document(vd_bson_get(vd_value_document(errors), "0")), "code"),
                &code);
        racer->inserted += code == 0;
        racer->refused += code == 11000;
        racer->failures += request->status != VD_OK || (code != 0 && code != 11000);
    }
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    free(request);
    return NULL;
}

/* Nobody has ever two of a key: so it can be converted in the end, whatever was raced for. */
Test(index_unique, raced_for, .timeout = 300)
{
    reads_t *reads = reads_open();
    racer_t racers[3] = {{.seed = 1}, {.seed = 2}, {.seed = 3}};
    cr_assert_eq(reads_run(reads, "db",
                           "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a', "
                           "'prepareUnique': true}]}"),
                 VD_OK);
    for (size_t i = 0; i < VD_COUNT_OF(racers); i++) {
        racers[i].reads = reads;
        cr_assert_eq(pthread_create(&racers[i].thread, NULL, racer_run, &racers[i]), 0);
    }
    for (size_t i = 0; i < VD_COUNT_OF(racers); i++) {
        (void)pthread_join(racers[i].thread, NULL);
        cr_assert_eq(racers[i].failures, 0);
        cr_assert_gt(racers[i].inserted, 100);
        cr_assert_gt(racers[i].refused, 100);
    }
    cr_assert_eq(reads_run(reads, "db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': true}}"),
                 VD_OK, "%s", reads_text(reads));
    index_sound(reads, "db", "c", "a");
    reads_close(reads);
}

/* It becomes unique while the collection is written to. */
Test(index_unique, converted_beside_writers, .timeout = 300)
{
    reads_t *reads = reads_open();
    racer_t racers[2] = {{.seed = 4}, {.seed = 5}};
    cr_assert_eq(reads_run(reads, "db",
                           "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a', "
                           "'prepareUnique': true}]}"),
                 VD_OK);
    for (size_t i = 0; i < VD_COUNT_OF(racers); i++) {
        racers[i].reads = reads;
        cr_assert_eq(pthread_create(&racers[i].thread, NULL, racer_run, &racers[i]), 0);
    }
    cr_assert_eq(reads_run(reads, "db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': true}}"),
                 VD_OK, "%s", reads_text(reads));
    for (size_t i = 0; i < VD_COUNT_OF(racers); i++) {
        (void)pthread_join(racers[i].thread, NULL);
        cr_assert_eq(racers[i].failures, 0);
    }
    index_sound(reads, "db", "c", "a");
    cr_assert_eq(reads_run(reads, "db", "{'validate': 'c'}"), VD_OK);
    reads_expect(reads, "validate", "{'valid': true}");
    reads_close(reads);
}
