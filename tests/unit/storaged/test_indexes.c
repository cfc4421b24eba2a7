/* tests/unit/storaged/test_indexes.c — createIndexes, dropIndexes, listIndexes and the upkeep by
 * writes, on a real engine. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/index_support.h"

#define OK(reads, command)                                                                         \
    cr_assert_eq(reads_run((reads), "db", (command)), VD_OK, "%s: %s", (command), reads_text(reads))

/* Documents {_id: from.., a, b} in commands of a thousand. */
static void fill(reads_t *reads, int from, int count)
{
    for (int at = from; at < from + count; at += 1000) {
        size_t len = 0, room = 1000 * 80 + 100;
        char *text = malloc(room);
        len += (size_t)snprintf(text + len, room - len, "{'insert': 'c', 'documents': [");
        for (int i = at; i < at + 1000 && i < from + count; i++)
            len += (size_t)snprintf(text + len, room - len, "%s{'_id': %d, 'a': %d, 'b': 's%d'}",
                                    i == at ? "" : ", ", i, i * 7919 % 100003, i % 100);
        (void)snprintf(text + len, room - len, "]}");
        OK(reads, text);
        free(text);
    }
}

Test(indexes, created_on_an_empty_collection_and_kept)
{
    reads_t *reads = reads_open();
    static const reads_step_t steps[] = {
        {"db", "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a_1'}]}",
         "{'numIndexesBefore': 1, 'numIndexesAfter': 2, 'createdCollectionAutomatically': true, "
         "'note': null}",
         0, NULL},
        {"db", "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a_1'}]}",
         "{'numIndexesBefore': 2, 'numIndexesAfter': 2, 'note': 'all indexes already exist'}", 0,
         NULL},
        {"db",
         "{'insert': 'c', 'documents': [{'_id': 1, 'a': 5}, {'_id': 2, 'a': [1, 2, 2]}, "
         "{'_id': 3}]}",
         "{'n': 3}", 0, NULL},
        {"db", "{'listIndexes': 'c'}",
         "{'cursor.firstBatch.0.name': '_id_', 'cursor.firstBatch.1': {'v': 2, 'key': {'a': 1}, "
         "'name': 'a_1'}, 'cursor.firstBatch.2': null}",
         0, NULL},
    };
    READS_SCRIPT(reads, steps);
    cr_assert_eq(index_sound(reads, "db", "c", "a_1"), 4);
    OK(reads, "{'update': 'c', 'updates': [{'q': {'_id': 2}, 'u': {'$set': {'a': [2, 9]}}}]}");
    OK(reads, "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 5.0}}}]}");
    OK(reads, "{'delete': 'c', 'deletes': [{'q': {'_id': 3}, 'limit': 1}]}");
    cr_assert_eq(index_sound(reads, "db", "c", "a_1"), 3);
    reads_close(reads);
}

Test(indexes, created_on_a_filled_collection)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 300);
    OK(reads, "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a_1'}]}");
    cr_assert_eq(index_sound(reads, "db", "c", "a_1"), 300);
    fill(reads, 300, 9700);
    cr_assert_eq(index_sound(reads, "db", "c", "a_1"), 10000);
    OK(reads, "{'createIndexes': 'c', 'indexes': [{'key': {'b': -1, 'a': 1}, 'name': 'ba'}, "
              "{'key': {'a': 1}, 'name': 'ua', 'unique': true}, "
              "{'key': {'b': 'hashed'}, 'name': 'h'}, {'key': {'$**': 1}, 'name': 'w'}]}");
    reads_expect(reads, "createIndexes", "{'numIndexesBefore': 2, 'numIndexesAfter': 6}");
    cr_assert_eq(index_sound(reads, "db", "c", "ba"), 10000);
    cr_assert_eq(index_sound(reads, "db", "c", "ua"), 10000);
    cr_assert_eq(index_sound(reads, "db", "c", "h"), 10000);
    cr_assert_eq(index_sound(reads, "db", "c", "w"), 20000);
    reads_crash(reads);
    cr_assert_eq(index_sound(reads, "db", "c", "ua"), 10000);
    cr_assert_eq(index_sound(reads, "db", "c", "w"), 20000);
    OK(reads, "{'delete': 'c', 'deletes': [{'q': {'_id': {'$lt': 5000}}, 'limit': 0}]}");
    cr_assert_eq(index_sound(reads, "db", "c", "ba"), 5000);
    cr_assert_eq(index_sound(reads, "db", "c", "w"), 10000);
    reads_close(reads);
}

Test(indexes, unique)
{
    reads_t *reads = reads_open();
    static const reads_step_t steps[] = {
        {"db",
         "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a_1', 'unique': "
         "true}]}",
         NULL, 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 1, 'a': 1}, {'_id': 2, 'a': 2}, {'_id': 3}]}",
         "{'n': 3}", 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 4, 'a': 1}]}",
         "{'n': 0, 'writeErrors.0.code': 11000, 'writeErrors.0.errmsg': 'E11000 duplicate key "
         "error collection: db.c index: a_1 dup key: { a: 1 }', 'writeErrors.0.keyPattern': {'a': "
         "1}, 'writeErrors.0.keyValue': {'a': 1}}",
         0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 4}]}",
         "{'n': 0, 'writeErrors.0.code': 11000, 'writeErrors.0.errmsg': 'E11000 duplicate key "
         "error collection: db.c index: a_1 dup key: { a: null }'}",
         0, NULL},
        /* one of many, in one transaction */
        {"db",
         "{'insert': 'c', 'ordered': false, 'documents': [{'_id': 5, 'a': 5}, {'_id': 6, 'a': 5}, "
         "{'_id': 7, 'a': [7, 8]}, {'_id': 8, 'a': 8}]}",
         "{'n': 2, 'writeErrors.0.index': 1, 'writeErrors.1.index': 3, 'writeErrors.2': null}", 0,
         NULL},
        {"db", "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 2}}}]}",
         "{'n': 0, 'writeErrors.0.code': 11000}", 0, NULL},
        {"db", "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 1.0, 'x': 1}}}]}",
         "{'n': 1, 'nModified': 1}", 0, NULL},
        {"db", "{'delete': 'c', 'deletes': [{'q': {'_id': 2}, 'limit': 1}]}", NULL, 0, NULL},
        {"db", "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 2}}}]}",
         "{'nModified': 1}", 0, NULL},
    };
    READS_SCRIPT(reads, steps);
    cr_assert_eq(index_sound(reads, "db", "c", "a_1"), 5);
    reads_close(reads);
}

Test(indexes, unique_on_duplicates_is_refused)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 6000);
    OK(reads, "{'insert': 'c', 'documents': [{'_id': 'x', 'a': 7919}]}");
    int rc = reads_run(reads, "db",
                       "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a_1', "
                       "'unique': true}]}");
    cr_assert_eq(rc, VD_ERR_DUPLICATE_KEY, "%s", reads_text(reads));
    reads_expect(reads, "createIndexes", "{'keyValue': {'a': 7919}, 'keyPattern': {'a': 1}}");
    OK(reads, "{'listIndexes': 'c'}");
    reads_expect(reads, "listIndexes", "{'cursor.firstBatch.1': null}");
    OK(reads, "{'insert': 'c', 'documents': [{'_id': 'y', 'a': 7919}]}");
    OK(reads, "{'delete': 'c', 'deletes': [{'q': {'a': 7919, '_id': {'$type': 'string'}}, "
              "'limit': 0}]}");
    OK(reads, "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a_1', 'unique': "
              "true}]}");
    cr_assert_eq(index_sound(reads, "db", "c", "a_1"), 6000);
    reads_close(reads);
}

Test(indexes, dropped)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 100);
    static const reads_step_t steps[] = {
        {"db",
         "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a_1'}, {'key': {'b': "
         "1}, 'name': 'b_1'}, {'key': {'c': 1}, 'name': 'c_1'}, {'key': {'d': 1}, 'name': "
         "'d_1'}]}",
         "{'numIndexesAfter': 5}", 0, NULL},
        {"db", "{'dropIndexes': 'c', 'index': 'a_1'}", "{'nIndexesWas': 5}", 0, NULL},
        {"db", "{'dropIndexes': 'c', 'index': 'a_1'}", NULL, VD_ERR_INDEX_NOT_FOUND,
         "index not found with name [a_1]"},
        {"db", "{'dropIndexes': 'c', 'index': {'b': 1}}", "{'nIndexesWas': 4}", 0, NULL},
        {"db", "{'dropIndexes': 'c', 'index': ['c_1', 'x']}", NULL, VD_ERR_INDEX_NOT_FOUND, NULL},
        {"db", "{'dropIndexes': 'c', 'index': ['c_1']}", "{'nIndexesWas': 3}", 0, NULL},
        {"db", "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a_1'}]}",
         "{'numIndexesBefore': 2, 'numIndexesAfter': 3}", 0, NULL},
        {"db", "{'dropIndexes': 'c', 'index': '*'}",
         "{'nIndexesWas': 3, 'msg': 'non-_id indexes dropped for collection'}", 0, NULL},
        {"db", "{'dropIndexes': 'c', 'index': '_id_'}", NULL, VD_ERR_INVALID_OPTIONS,
         "cannot drop _id index"},
        {"db", "{'insert': 'c', 'documents': [{'_id': -1, 'a': 5}]}", "{'n': 1}", 0, NULL},
    };
    READS_SCRIPT(reads, steps);
    reads_close(reads);
}

Test(indexes, go_with_their_collection)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 100);
    OK(reads, "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a_1'}]}");
    cr_assert_eq(reads_run(reads, "admin", "{'renameCollection': 'db.c', 'to': 'db.d'}"), VD_OK);
    OK(reads, "{'insert': 'd', 'documents': [{'_id': -1, 'a': 5}]}");
    cr_assert_eq(index_sound(reads, "db", "d", "a_1"), 101);
    OK(reads, "{'collMod': 'd', 'validationLevel': 'off'}");
    OK(reads, "{'insert': 'd', 'documents': [{'_id': -2, 'a': 5}]}");
    cr_assert_eq(index_sound(reads, "db", "d", "a_1"), 102);
    reads_crash(reads);
    cr_assert_eq(index_sound(reads, "db", "d", "a_1"), 102);
    OK(reads, "{'drop': 'd'}");
    OK(reads, "{'insert': 'd', 'documents': [{'_id': -2, 'a': 5}]}");
    OK(reads, "{'listIndexes': 'd'}");
    reads_expect(reads, "listIndexes", "{'cursor.firstBatch.1': null}");
    reads_crash(reads);
    OK(reads, "{'listIndexes': 'd'}");
    reads_expect(reads, "listIndexes", "{'cursor.firstBatch.1': null}");
    reads_close(reads);
}
