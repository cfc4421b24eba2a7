/* tests/unit/storaged/test_transactions.c — multi-document transactions on one storage: what is
 * seen by whom, how they end, what is refused, and that nothing is left of them. */
#include "libcommon/base/fault.h"
#include "tests/support/ahead_clock.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/transactions.h"

#define FIRST ", 'startTransaction': true, 'autocommit': false}"
#define NEXT  ", 'autocommit': false}"
#define COMMIT                                                                                     \
    {                                                                                              \
        "admin", "{'commitTransaction': 1" NEXT, "{'ok': 1}", 0, NULL                              \
    }

static void in_transaction(reads_t *reads, uint8_t session, int64_t number)
{
    reads_session(reads, "ann@admin", session);
    reads->txn_number = number;
}

static void outside(reads_t *reads)
{
    reads_session(reads, "ann@admin", 0);
    reads->txn_number = 0;
}

static void run(reads_t *reads, const char *command, int code, const char *expected)
{
    const char *db = strstr(command, "Transaction': 1") != NULL ? "admin" : "db";
    reads_step_t step = {db, command, expected, code, NULL};
    reads_script(reads, &step, 1);
}

static void commit(reads_t *reads)
{
    run(reads, "{'commitTransaction': 1" NEXT, VD_OK, "{'ok': 1}");
}

/* Neither transactions nor snapshots are open, and the collection is what its counters say. */
static void nothing_left(reads_t *reads)
{
    stor_engine_stats_t engine;
    stor_transactions_stats_t stats;
    outside(reads);
    if (reads_run(reads, "db", "{'validate': 'c', 'full': true}") == VD_OK)
        reads_expect(reads, "validate", "{'valid': true}");
    stor_engine_stats(reads->storage.engine, &engine);
    stor_transactions_stats(&reads->storage, &stats);
    cr_assert_eq(engine.txn_begins, engine.txn_commits + engine.txn_rollbacks);
    cr_assert_eq(stats.open + stats.active + stats.bytes, 0);
    cr_assert_eq(stats.started, stats.committed + stats.aborted);
    cr_assert_eq(reads->storage.registry_count, 0);
}

static void close_checked(reads_t *reads)
{
    nothing_left(reads);
    reads_close(reads);
}

static void seed(reads_t *reads)
{
    outside(reads);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 1, 'a': 1}, {'_id': 2, 'a': 2}]}", VD_OK,
        "{'n': 2}");
}

/* ---- who sees what ---- */

Test(transactions, own_writes_are_seen_others_are_not)
{
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 1);
    run(reads, "{'find': 'c'" FIRST, VD_OK,
        "{'cursor.firstBatch': [{'_id': 1, 'a': 1}, {'_id': 2, 'a': 2}]}");
    outside(reads);
    run(reads, "{'update': 'c', 'updates': [{'q': {'_id': 2}, 'u': {'$set': {'a': 20}}}]}", VD_OK,
        "{'nModified': 1}");
    run(reads, "{'insert': 'c', 'documents': [{'_id': 3, 'a': 3}]}", VD_OK, "{'n': 1}");
    in_transaction(reads, 1, 1);
    run(reads, "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': 10}}}]" NEXT,
        VD_OK, "{'n': 1, 'nModified': 1}");
    run(reads, "{'insert': 'c', 'documents': [{'_id': 9, 'a': 9}]" NEXT, VD_OK, "{'n': 1}");
    run(reads, "{'find': 'c'" NEXT, VD_OK,
        "{'cursor.firstBatch': [{'_id': 1, 'a': 11}, {'_id': 2, 'a': 2}, {'_id': 9, 'a': 9}]}");
    run(reads, "{'find': 'c', 'filter': {'_id': 2}" NEXT, VD_OK,
        "{'cursor.firstBatch': [{'_id': 2, 'a': 2}]}");
    run(reads, "{'aggregate': 'c', 'pipeline': [{'$count': 'n'}], 'cursor': {}" NEXT, VD_OK,
        "{'cursor.firstBatch': [{'n': 3}]}");
    run(reads, "{'distinct': 'c', 'key': 'a'" NEXT, VD_OK, "{'values': [11, 2, 9]}");
    outside(reads);
    run(reads, "{'find': 'c'}", VD_OK,
        "{'cursor.firstBatch': [{'_id': 1, 'a': 1}, {'_id': 2, 'a': 20}, {'_id': 3, 'a': 3}]}");
    run(reads, "{'count': 'c'}", VD_OK, "{'n': 3}");
    in_transaction(reads, 1, 1);
    commit(reads);
    commit(reads);
    outside(reads);
    run(reads, "{'find': 'c'}", VD_OK,
        "{'cursor.firstBatch': [{'_id': 1, 'a': 11}, {'_id': 2, 'a': 20}, {'_id': 3, 'a': 3}, "
        "{'_id': 9, 'a': 9}]}");
    run(reads, "{'count': 'c'}", VD_OK, "{'n': 4}");
    close_checked(reads);
}

Test(transactions, an_abort_leaves_nothing)
{
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 1);
    run(reads, "{'delete': 'c', 'deletes': [{'q': {}, 'limit': 0}]" FIRST, VD_OK, "{'n': 2}");
    run(reads, "{'find': 'c'" NEXT, VD_OK, "{'cursor.firstBatch': []}");
    run(reads, "{'abortTransaction': 1" NEXT, VD_OK, "{'ok': 1}");
    run(reads, "{'abortTransaction': 1" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    run(reads, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    outside(reads);
    run(reads, "{'find': 'c'}", VD_OK,
        "{'cursor.firstBatch': [{'_id': 1, 'a': 1}, {'_id': 2, 'a': 2}]}");
    close_checked(reads);
}

/* The same documents again and again: each change is told, the hashes come out right. */
Test(transactions, a_document_changes_often)
{
    static const char *const statements[] = {
        "{'insert': 'c', 'documents': [{'_id': 5, 'a': 1}]" NEXT,
        "{'update': 'c', 'updates': [{'q': {'_id': 5}, 'u': {'$inc': {'a': 1}}}, {'q': {'_id': 5}, "
        "'u': {'$inc': {'a': 1}}}]" NEXT,
        "{'update': 'c', 'updates': [{'q': {'_id': 5}, 'u': {'b': 'whole'}}]" NEXT,
        "{'findAndModify': 'c', 'query': {'_id': 5}, 'update': {'$set': {'c': [1, 2, 3]}}" NEXT,
        "{'delete': 'c', 'deletes': [{'q': {'_id': 5}, 'limit': 1}]" NEXT,
        "{'insert': 'c', 'documents': [{'_id': 5, 'z': 1}]" NEXT,
        "{'update': 'c', 'updates': [{'q': {}, 'u': {'$set': {'m': 1}}, 'multi': true}]" NEXT,
        "{'update': 'c', 'updates': [{'q': {}, 'u': {'$inc': {'m': 1}}, 'multi': true}]" NEXT,
        "{'delete': 'c', 'deletes': [{'q': {'_id': 2}, 'limit': 1}]" NEXT,
        "{'update': 'c', 'updates': [{'q': {'_id': 7}, 'u': {'$set': {'u': 1}}, 'upsert': "
        "true}]" NEXT,
    };
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 1);
    run(reads, "{'find': 'c', 'filter': {'_id': 77}" FIRST, VD_OK, "{'cursor.firstBatch': []}");
    for (size_t i = 0; i < VD_COUNT_OF(statements); i++)
        run(reads, statements[i], VD_OK, "{'ok': 1, 'writeErrors': null}");
    commit(reads);
    outside(reads);
    for (int crashed = 0; crashed < 2; crashed++) {
        run(reads, "{'find': 'c'}", VD_OK,
            "{'cursor.firstBatch': [{'_id': 1, 'a': 1, 'm': 2}, {'_id': 5, 'z': 1, 'm': 2}, "
            "{'_id': 7, 'u': 1}]}");
        nothing_left(reads);
        outside(reads);
        if (crashed == 0)
            reads_crash(reads);
    }
    close_checked(reads);
}

Test(transactions, two_meet)
{
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 1);
    run(reads, "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 5}}}]" FIRST,
        VD_OK, "{'n': 1}");
    in_transaction(reads, 2, 1);
    run(reads, "{'find': 'c', 'filter': {'_id': 1}" FIRST, VD_OK,
        "{'cursor.firstBatch': [{'_id': 1, 'a': 1}]}");
    run(reads, "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 6}}}]" NEXT,
        VD_ERR_WRITE_CONFLICT, "{'ok': 0, 'code': 112}");
    run(reads, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    /* What was written since the snapshot conflicts too, also where it is not seen. */
    in_transaction(reads, 2, 2);
    run(reads, "{'find': 'c', 'filter': {'_id': 1}" FIRST, VD_OK, "{'ok': 1}");
    outside(reads);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 50}]}", VD_OK, "{'n': 1}");
    in_transaction(reads, 2, 2);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 50}]" NEXT, VD_ERR_WRITE_CONFLICT, NULL);
    in_transaction(reads, 1, 1);
    commit(reads);
    outside(reads);
    run(reads, "{'find': 'c', 'filter': {'_id': 1}}", VD_OK,
        "{'cursor.firstBatch': [{'_id': 1, 'a': 5}]}");
    close_checked(reads);
}

/* An error that is the statement's own is told in writeErrors; the transaction is over all the
 * same. */
Test(transactions, a_write_error_ends_it)
{
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 1);
    run(reads,
        "{'insert': 'c', 'ordered': false, 'documents': [{'_id': 8}, {'_id': 1}, {'_id': 9}]" FIRST,
        VD_OK, "{'n': 1, 'writeErrors.0.code': 11000, 'writeErrors.0.index': 1}");
    run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    in_transaction(reads, 1, 2);
    run(reads, "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': 'x'}}}]" FIRST,
        VD_OK, "{'writeErrors.0.code': 14}");
    run(reads, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    in_transaction(reads, 1, 3);
    run(reads, "{'find': 'c', 'filter': {'$nonsense': 1}" FIRST, VD_ERR_BAD_VALUE, NULL);
    run(reads, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    outside(reads);
    run(reads, "{'count': 'c'}", VD_OK, "{'n': 2}");
    close_checked(reads);
}

/* ---- numbers ---- */

Test(transactions, numbers)
{
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 5);
    run(reads, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    run(reads, "{'find': 'c'" FIRST, VD_OK, NULL);
    run(reads, "{'find': 'c'" FIRST, -50911, NULL);
    run(reads, "{'find': 'c'" NEXT, VD_OK, NULL);
    in_transaction(reads, 1, 4);
    run(reads, "{'find': 'c'" FIRST, VD_ERR_TRANSACTION_TOO_OLD, NULL);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 30}]}", VD_ERR_TRANSACTION_TOO_OLD, NULL);
    in_transaction(reads, 1, 5);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 30}]}", VD_ERR_INVALID_OPTIONS, NULL);
    run(reads, "{'find': 'c'" NEXT, VD_OK, NULL);
    commit(reads);
    run(reads, "{'find': 'c'" NEXT, VD_ERR_TRANSACTION_COMMITTED, NULL);
    run(reads, "{'abortTransaction': 1" NEXT, VD_ERR_TRANSACTION_COMMITTED, NULL);
    run(reads, "{'find': 'c'" FIRST, -50911, NULL);
    /* A newer number ends what is open, be it of a transaction or of a retryable write. */
    in_transaction(reads, 1, 6);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 31}]" FIRST, VD_OK, NULL);
    in_transaction(reads, 1, 7);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 32}]" FIRST, VD_OK, NULL);
    cr_assert_eq(stor_transactions_open(&reads->storage), 1);
    in_transaction(reads, 1, 8);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 33}]}", VD_OK, "{'n': 1}");
    cr_assert_eq(stor_transactions_open(&reads->storage), 0);
    run(reads, "{'find': 'c'" FIRST, -50911, NULL);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 33}]}", VD_OK, "{'retriedStmtIds': [0]}");
    outside(reads);
    run(reads, "{'find': 'c', 'filter': {'_id': {'$gt': 29}}}", VD_OK,
        "{'cursor.firstBatch': [{'_id': 33}]}");
    close_checked(reads);
}

/* ---- crashes ---- */

Test(transactions, a_crash_before_and_after_the_commit)
{
    static const struct {
        const char *point;
        bool stays;
    } faults[] = {{"transaction.before_stamp", false},
                  {"transaction.before_commit", false},
                  {"transaction.after_commit", true}};
    reads_t *reads = reads_open();
    seed(reads);
    for (size_t i = 0; i < VD_COUNT_OF(faults); i++) {
        in_transaction(reads, 1, (int64_t)i + 1);
        run(reads,
            "{'update': 'c', 'updates': [{'q': {}, 'u': {'$inc': {'a': 100}}, 'multi': "
            "true}]" FIRST,
            VD_OK, "{'n': 2}");
        char spec[80];
        vd_error_t err = VD_ERROR_INIT;
        snprintf(spec, sizeof spec, "%s=error", faults[i].point);
        reads_ok(vd_fault_arm(spec, &err), &err);
        run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_FAULT_INJECTED, NULL);
        vd_fault_disarm(NULL);
        reads_crash(reads);
        in_transaction(reads, 1, (int64_t)i + 1);
        if (faults[i].stays) {
            commit(reads);
            run(reads, "{'abortTransaction': 1" NEXT, VD_ERR_TRANSACTION_COMMITTED, NULL);
            run(reads, "{'insert': 'c', 'documents': [{'_id': 30}]}", VD_ERR_INVALID_OPTIONS, NULL);
        } else {
            run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
        }
        outside(reads);
        run(reads, "{'find': 'c', 'filter': {'_id': 1}}", VD_OK,
            faults[i].stays ? "{'cursor.firstBatch': [{'_id': 1, 'a': 101}]}"
                            : "{'cursor.firstBatch': [{'_id': 1, 'a': 1}]}");
    }
    close_checked(reads);
}

Test(transactions, an_open_one_dies_with_storage)
{
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 1);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 30}]" FIRST, VD_OK, NULL);
    reads_crash(reads);
    run(reads, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    outside(reads);
    run(reads, "{'count': 'c'}", VD_OK, "{'n': 2}");
    close_checked(reads);
}

/* ---- cursors ---- */

Test(transactions, cursors_belong_to_it)
{
    char more[200];
    reads_t *reads = reads_open();
    seed(reads);
    run(reads, "{'find': 'c', 'batchSize': 1}", VD_OK, NULL);
    int64_t other = vd_value_int64(reads_at(reads, "cursor.id"));
    in_transaction(reads, 1, 1);
    run(reads, "{'find': 'c', 'batchSize': 1" FIRST, VD_OK, NULL);
    int64_t id = vd_value_int64(reads_at(reads, "cursor.id"));
    cr_assert_neq(id, 0);
    snprintf(more, sizeof more, "{'getMore': {'$numberLong': '%lld'}, 'collection': 'c'}",
             (long long)id);
    reads->txn_number = 0;
    run(reads, more, -50740, NULL);
    outside(reads);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 3, 'a': 3}]}", VD_OK, NULL);
    in_transaction(reads, 1, 1);
    snprintf(more, sizeof more,
             "{'getMore': {'$numberLong': '%lld'}, 'collection': 'c', 'batchSize': 1" NEXT,
             (long long)id);
    run(reads, more, VD_OK, "{'cursor.nextBatch': [{'_id': 2, 'a': 2}]}");
    run(reads, more, VD_OK, "{'cursor.nextBatch': [], 'cursor.id': {'$numberLong': '0'}}");
    run(reads, "{'find': 'c', 'batchSize': 1" NEXT, VD_OK, NULL);
    commit(reads);
    snprintf(more, sizeof more, "{'killCursors': 'c', 'cursors': [{'$numberLong': '%lld'}]}",
             (long long)other);
    outside(reads);
    stor_cursors_stats_t cursors;
    stor_cursors_stats(reads->storage.cursors, &cursors);
    cr_assert_eq(cursors.open, 1); /* the one from outside */
    run(reads, more, VD_OK, NULL);
    close_checked(reads);
}

/* ---- refusals ---- */

Test(transactions, refusals_leave_it_open)
{
    static const reads_step_t steps[] = {
        {"db", "{'count': 'c'" NEXT, NULL, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION, NULL},
        {"db", "{'drop': 'c'" NEXT, NULL, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
         "Cannot run 'drop' in a multi-document transaction."},
        {"db", "{'listCollections': 1" NEXT, NULL, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
         NULL},
        {"admin", "{'find': 'c'" NEXT, NULL, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
         "Cannot run command against the 'admin' database in a transaction."},
        {"local", "{'find': 'c'" NEXT, NULL, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION, NULL},
        {"config", "{'insert': 'c', 'documents': [{}]" NEXT, NULL,
         VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION, NULL},
        {"db", "{'find': 'system.views'" NEXT, NULL, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
         NULL},
        {"db", "{'find': 'c', 'readConcern': {'level': 'local'}" NEXT, NULL, VD_ERR_INVALID_OPTIONS,
         "Only the first command in a transaction may specify a readConcern"},
        {"db", "{'insert': 'c', 'documents': [{}], 'writeConcern': {'w': 1}" NEXT, NULL,
         VD_ERR_INVALID_OPTIONS,
         "writeConcern is not allowed within a multi-statement transaction"},
        {"db", "{'find': 'c', 'autocommit': true}", NULL, VD_ERR_INVALID_OPTIONS,
         "Specifying autocommit=true is not allowed."},
        {"db", "{'find': 'c', 'autocommit': false, 'startTransaction': false}", NULL,
         VD_ERR_INVALID_OPTIONS, "Specifying startTransaction=false is not allowed."},
        {"db", "{'find': 'c', 'startTransaction': true}", NULL, VD_ERR_INVALID_OPTIONS,
         "'startTransaction' field requires 'autocommit' field to also be specified"},
        {"db", "{'find': 'c', 'autocommit': 0}", NULL, VD_ERR_TYPE_MISMATCH, NULL},
        {"db", "{'find': 'c'}", NULL, -50768, NULL},
        {"admin", "{'commitTransaction': 1}", NULL, -50768, NULL},
        {"db", "{'commitTransaction': 1" NEXT, NULL, VD_ERR_UNAUTHORIZED, NULL},
        {"db", "{'find': 'c'" NEXT, "{'ok': 1}", VD_OK, NULL},
        COMMIT,
    };
    static const reads_step_t first[] = {
        {"db", "{'find': 'c', 'readConcern': {'level': 'linearizable'}" FIRST, NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'find': 'c', 'readConcern': {'level': 'available'}" FIRST, NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"admin", "{'commitTransaction': 1" FIRST, NULL,
         VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION, NULL},
        {"db", "{'killCursors': 'c', 'cursors': []" FIRST, NULL,
         VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION, NULL},
        {"db",
         "{'insert': 'c', 'documents': [{'_id': 3}], 'readConcern': {'level': 'snapshot'}" FIRST,
         "{'n': 1}", VD_OK, NULL},
        COMMIT,
    };
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 1);
    run(reads, "{'find': 'c'" FIRST, VD_OK, NULL);
    READS_SCRIPT(reads, steps);
    in_transaction(reads, 1, 2);
    READS_SCRIPT(reads, first);
    reads->txn_number = 0; /* in the session, without a number */
    static const reads_step_t numberless[] = {
        {"db", "{'find': 'c'" NEXT, NULL, VD_ERR_INVALID_OPTIONS,
         "'autocommit' field requires a transaction number to also be specified"},
        {"db", "{'find': 'c', 'startTransaction': true}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"admin", "{'commitTransaction': 1}", NULL, -125, NULL},
        {"admin", "{'abortTransaction': 1}", NULL, -125, NULL},
    };
    READS_SCRIPT(reads, numberless);
    in_transaction(reads, 1, 3);
    run(reads, "{'aggregate': 'c', 'pipeline': [{'$collStats': {'count': {}}}], 'cursor': {}" FIRST,
        VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION, NULL);
    close_checked(reads);
}

/* ---- collections ---- */

Test(transactions, collections_are_made)
{
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 1);
    run(reads, "{'insert': 'new', 'documents': [{'_id': 1}]" FIRST, VD_OK, "{'n': 1}");
    run(reads, "{'create': 'other'" NEXT, VD_OK, NULL);
    run(reads, "{'createIndexes': 'other', 'indexes': [{'key': {'_id': 1}, 'name': '_id_'}]" NEXT,
        VD_OK, NULL);
    run(reads,
        "{'update': 'third', 'updates': [{'q': {'_id': 4}, 'u': {'$set': {'x': 1}}, "
        "'upsert': true}]" NEXT,
        VD_OK, "{'n': 1}");
    run(reads, "{'find': 'new'" NEXT, VD_OK, "{'cursor.firstBatch': [{'_id': 1}]}");
    outside(reads);
    run(reads, "{'find': 'new'}", VD_OK, "{'cursor.firstBatch': []}");
    in_transaction(reads, 1, 1);
    commit(reads);
    outside(reads);
    run(reads, "{'find': 'new'}", VD_OK, "{'cursor.firstBatch': [{'_id': 1}]}");
    in_transaction(reads, 1, 2);
    run(reads, "{'createIndexes': 'c', 'indexes': [{'key': {'_id': 1}, 'name': '_id_'}]" FIRST,
        VD_OK, "{'note': 'all indexes already exist'}");
    run(reads, "{'createIndexes': 'c', 'indexes': [{'key': {'x': 1}, 'name': 'x_1'}]" NEXT,
        VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION, NULL);
    run(reads, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    close_checked(reads);
}

static void names_are(reads_t *reads, const char *expected)
{
    outside(reads);
    run(reads, "{'listCollections': 1, 'nameOnly': true, 'filter': {'name': {'$regex': '^own'}}}",
        VD_OK, expected);
}

Test(transactions, what_it_makes_is_its_own)
{
    static const char *const nothing = "{'cursor.firstBatch': []}";
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 1);
    run(reads, "{'create': 'own'" FIRST, VD_OK, NULL);
    run(reads, "{'create': 'own', 'validationLevel': 'off'" NEXT, VD_ERR_NAMESPACE_EXISTS, NULL);
    names_are(reads, nothing);

    /* Indexes, also of a collection that they make; entries, and what they refuse. */
    in_transaction(reads, 1, 2);
    run(reads, "{'create': 'own'" FIRST, VD_OK, NULL);
    run(reads,
        "{'createIndexes': 'own', 'indexes': [{'key': {'a': 1}, 'name': 'a', 'unique': true}]" NEXT,
        VD_OK, "{'numIndexesBefore': 1, 'numIndexesAfter': 2}");
    run(reads, "{'createIndexes': 'own2', 'indexes': [{'key': {'b': 1}, 'name': 'b'}]" NEXT, VD_OK,
        "{'numIndexesAfter': 2, 'createdCollectionAutomatically': true}");
    run(reads, "{'insert': 'own', 'documents': [{'_id': 1, 'a': 5}, {'_id': 2, 'a': 6}]" NEXT,
        VD_OK, "{'n': 2}");
    run(reads, "{'find': 'own', 'filter': {'a': 6}, 'hint': 'a'" NEXT, VD_OK,
        "{'cursor.firstBatch': [{'_id': 2, 'a': 6}]}");
    run(reads, "{'insert': 'own2', 'documents': [{'_id': 1, 'b': 5}]" NEXT, VD_OK, "{'n': 1}");
    names_are(reads, nothing);
    run(reads, "{'find': 'own'}", VD_OK, nothing);
    in_transaction(reads, 1, 2);
    commit(reads);
    names_are(reads, "{'cursor.firstBatch': [{'name': 'own', 'type': 'collection'}, "
                     "{'name': 'own2', 'type': 'collection'}]}");
    run(reads, "{'find': 'own', 'filter': {'a': 6}, 'hint': 'a'}", VD_OK,
        "{'cursor.firstBatch': [{'_id': 2, 'a': 6}]}");
    run(reads, "{'insert': 'own', 'documents': [{'_id': 3, 'a': 5}]}", VD_OK, "{'n': 0}");
    run(reads, "{'count': 'own'}", VD_OK, "{'n': 2}");
    run(reads, "{'validate': 'own'}", VD_OK, "{'valid': true}");
    run(reads, "{'validate': 'own2'}", VD_OK, "{'valid': true}");

    /* Nothing stays of one that is aborted, or that fails. */
    in_transaction(reads, 1, 3);
    run(reads, "{'insert': 'own3', 'documents': [{'_id': 1}]" FIRST, VD_OK, NULL);
    run(reads, "{'createIndexes': 'own4', 'indexes': [{'key': {'b': 1}, 'name': 'b'}]" NEXT, VD_OK,
        NULL);
    run(reads, "{'abortTransaction': 1" NEXT, VD_OK, NULL);
    in_transaction(reads, 1, 4);
    run(reads, "{'insert': 'own3', 'documents': [{'_id': 1}]" FIRST, VD_OK, NULL);
    run(reads, "{'createIndexes': 'own3', 'indexes': [{'key': {'b': 1}, 'name': 'b'}]" NEXT,
        VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION, NULL);

    /* Somebody else makes one of that name. */
    in_transaction(reads, 1, 5);
    run(reads, "{'insert': 'own5', 'documents': [{'_id': 1}]" FIRST, VD_OK, NULL);
    run(reads, "{'insert': 'own6', 'documents': [{'_id': 1}]" NEXT, VD_OK, NULL);
    outside(reads);
    run(reads, "{'insert': 'own6', 'documents': [{'_id': 'theirs'}]}", VD_OK, NULL);
    in_transaction(reads, 1, 5);
    run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_WRITE_CONFLICT, NULL);
    names_are(reads, "{'cursor.firstBatch': [{'name': 'own', 'type': 'collection'}, "
                     "{'name': 'own2', 'type': 'collection'}, {'name': 'own6', 'type': "
                     "'collection'}]}");
    run(reads, "{'find': 'own6'}", VD_OK, "{'cursor.firstBatch': [{'_id': 'theirs'}]}");

    /* Nothing of them when the commit fails. */
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(vd_fault_arm("transaction.before_commit=error", &err), &err);
    in_transaction(reads, 1, 8);
    run(reads, "{'insert': 'own8', 'documents': [{'_id': 1}]" FIRST, VD_OK, NULL);
    run(reads, "{'createIndexes': 'own9', 'indexes': [{'key': {'b': 1}, 'name': 'b'}]" NEXT, VD_OK,
        NULL);
    run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_FAULT_INJECTED, NULL);
    vd_fault_disarm(NULL);
    names_are(reads, "{'cursor.firstBatch': [{'name': 'own', 'type': 'collection'}, "
                     "{'name': 'own2', 'type': 'collection'}, {'name': 'own6', 'type': "
                     "'collection'}]}");

    in_transaction(reads, 1, 9);
    run(reads, "{'create': 'own7', 'viewOn': 'c', 'pipeline': []" FIRST,
        VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION, NULL);
    close_checked(reads);
}

/* Collections, indexes and documents: all of it or nothing, whenever the process dies. Tables that
 * nobody names any more are gone after the start. */
static int table_one(const char *name, void *context)
{
    (void)name; /* how many */
    ++*(uint32_t *)context;
    return VD_OK;
}

static uint32_t tables_count(reads_t *reads)
{
    uint32_t count = 0;
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_engine_tables(reads->storage.engine, table_one, &count, &err), &err);
    return count;
}

Test(transactions, a_crash_in_a_commit_that_makes_collections)
{
    static const struct {
        const char *point;
        bool stays;
    } faults[] = {{"own.begun=error", false},
                  {"transaction.before_stamp=error", false},
                  {"own.put=error", false},
                  {"own.put=error:skip=1", false},
                  {"transaction.before_commit=error", false},
                  {"transaction.after_commit=error", true}};
    reads_t *reads = reads_open();
    seed(reads);
    reads_crash(reads);
    for (int alone = 0; alone < 2; alone++) /* with documents, also in others; or none at all */
        for (size_t i = alone == 0 ? 0 : 3; i < VD_COUNT_OF(faults); i++) {
            uint32_t tables = tables_count(reads);
            vd_error_t err = VD_ERROR_INIT;
            in_transaction(reads, 1, (int64_t)(i + 1 + 10 * (size_t)alone));
            run(reads,
                "{'createIndexes': 'own', 'indexes': [{'key': {'a': 1}, 'name': 'a', 'unique': "
                "true}]" FIRST,
                VD_OK, NULL);
            run(reads, "{'create': 'own2', 'collation': {'locale': 'en'}" NEXT, VD_OK, NULL);
            if (alone == 0) {
                run(reads, "{'insert': 'own', 'documents': [{'_id': 1, 'a': [5, 6]}]" NEXT, VD_OK,
                    "{'n': 1}");
                run(reads,
                    "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': 1}}}]" NEXT,
                    VD_OK, "{'n': 1}");
            }
            reads_ok(vd_fault_arm(faults[i].point, &err), &err);
            run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_FAULT_INJECTED, NULL);
            vd_fault_disarm(NULL);
            reads_crash(reads);
            in_transaction(reads, 1, (int64_t)(i + 1 + 10 * (size_t)alone));
            if (!faults[i].stays) {
                run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
                names_are(reads, "{'cursor.firstBatch': []}");
                cr_assert_eq(tables_count(reads), tables, "%s", faults[i].point);
                run(reads, "{'find': 'c', 'filter': {'_id': 1}}", VD_OK,
                    "{'cursor.firstBatch': [{'_id': 1, 'a': 1}]}");
                continue;
            }
            commit(reads);
            names_are(reads, "{'cursor.firstBatch': [{'name': 'own', 'type': 'collection'}, "
                             "{'name': 'own2', 'type': 'collection'}]}");
            run(reads, "{'count': 'own'}", VD_OK, alone == 0 ? "{'n': 1}" : "{'n': 0}");
            run(reads, "{'validate': 'own', 'full': true}", VD_OK,
                "{'valid': true, 'nIndexes': 2}");
            run(reads, "{'validate': 'own2', 'full': true}", VD_OK, "{'valid': true}");
            run(reads, "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'a': 1}}]}", VD_OK,
                NULL);
            run(reads, "{'drop': 'own'}", VD_OK, NULL);
            run(reads, "{'drop': 'own2'}", VD_OK, NULL);
            reads_crash(reads);
            run(reads, "{'count': 'c'}", VD_OK, "{'n': 2}");
        }
    close_checked(reads);
}

/* A drop waits for a second, then the transaction is ended; until then it goes on undisturbed. */
static void *drop_run(void *context)
{
    reads_t *reads = context;
    stor_storage_t *storage = &reads->storage;
    vd_error_t err = VD_ERROR_INIT;
    vd_arena_t *arena = vd_arena_create();
    stor_session_t *session = NULL;
    stor_request_t request;
    reads_ok(stor_session_open(storage->engine, &session, &err), &err);
    stor_request_init(&request, storage, arena);
    request.session = session;
    reads_ok(stor_catalog_drop(&request, VD_SLICE_LIT("db"), VD_SLICE_LIT("c"), &err), &err);
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    return NULL;
}

Test(transactions, a_schema_change_ends_it)
{
    pthread_t thread;
    reads_t *reads = reads_open();
    seed(reads);
    in_transaction(reads, 1, 1);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 5}]" FIRST, VD_OK, NULL);
    in_transaction(reads, 2, 1);
    run(reads, "{'insert': 'd', 'documents': [{'_id': 5}]" FIRST, VD_OK, NULL);
    cr_assert_eq(pthread_create(&thread, NULL, drop_run, reads), 0);
    usleep(50000);
    /* One with a share goes on, others give up soon. */
    in_transaction(reads, 1, 1);
    int rc = reads_run(reads, "db", "{'find': 'c', 'filter': {'_id': 5}" NEXT);
    cr_assert(rc == VD_OK || rc == VD_ERR_NO_SUCH_TRANSACTION);
    in_transaction(reads, 2, 1);
    rc = reads_run(reads, "db", "{'find': 'c'" NEXT);
    cr_assert(rc == VD_OK || rc == VD_ERR_LOCK_TIMEOUT, "%d", rc);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    in_transaction(reads, 1, 1);
    run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    in_transaction(reads, 2, 1);
    (void)reads_run(reads, "admin", "{'abortTransaction': 1" NEXT); /* perhaps over */
    outside(reads);
    run(reads, "{'find': 'c'}", VD_OK, "{'cursor.firstBatch': []}");
    close_checked(reads);
}

/* ---- ends ---- */

Test(transactions, they_end_by_age_and_by_kills)
{
    reads_t *reads = reads_open();
    seed(reads);
    reads->storage.settings.transaction_lifetime_ms = 1;
    in_transaction(reads, 1, 1);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 5}]" FIRST, VD_OK, NULL);
    usleep(3000);
    stor_transactions_expire(&reads->storage);
    cr_assert_eq(stor_transactions_open(&reads->storage), 0);
    run(reads, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    reads->storage.settings.transaction_lifetime_ms = 0;
    static const char end[] =
        "{'endSessions': [{'id': {'$binary': {'base64': 'AQEBAQEBAQEBAQEBAQEBAQ==', 'subType': "
        "'04'}}}]}";
    static const char *const kills[] = {"{'killSessions': []}", "{'killAllSessions': []}",
                                        "{'killAllSessionsByPattern': []}", end};
    for (size_t i = 0; i < VD_COUNT_OF(kills); i++) {
        in_transaction(reads, 1, 2 + (int64_t)i);
        run(reads, "{'insert': 'c', 'documents': [{'_id': 5}]" FIRST, VD_OK, NULL);
        cr_assert_eq(stor_transactions_open(&reads->storage), 1);
        outside(reads);
        run(reads, kills[i], VD_OK, NULL);
        cr_assert_eq(stor_transactions_open(&reads->storage), 0, "%s", kills[i]);
        in_transaction(reads, 1, 2 + (int64_t)i);
        run(reads, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    }
    stor_transactions_stats_t stats;
    stor_transactions_stats(&reads->storage, &stats);
    cr_assert_eq(stats.aborted, 1 + VD_COUNT_OF(kills));
    close_checked(reads);
}

/* Whoever looks for old ones may have read its clock before another thread began one. */
Test(transactions, the_youngest_is_not_old)
{
    reads_t *reads = reads_open();
    seed(reads);
    ahead_clock_use();
    atomic_fetch_add(&ahead_ms, 5000);
    in_transaction(reads, 1, 1);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 5}]" FIRST, VD_OK, NULL);
    atomic_fetch_sub(&ahead_ms, 5000);
    stor_transactions_expire(&reads->storage);
    cr_assert_eq(stor_transactions_open(&reads->storage), 1);
    atomic_fetch_add(&ahead_ms, 5000 + 61000);
    stor_transactions_expire(&reads->storage);
    cr_assert_eq(stor_transactions_open(&reads->storage), 0);
    ahead_clock_back();
    close_checked(reads);
}

/* A snapshot that stays open would fill the cache, and then the disk. */
Test(transactions, the_oldest_ends_when_the_cache_is_short, .timeout = 300)
{
    reads_t *reads = reads_open();
    char *text = malloc(400000), *at = text;
    at += sprintf(at, "{'insert': 'c', 'documents': [");
    for (int i = 0; i < 1000; i++)
        at += sprintf(at, "%s{'_id': %d, 'p': '%0200d'}", i == 0 ? "" : ", ", i, i);
    sprintf(at, "]}");
    outside(reads);
    run(reads, text, VD_OK, "{'n': 1000}");
    in_transaction(reads, 1, 1);
    run(reads, "{'find': 'c', 'filter': {'_id': 1}" FIRST, VD_OK, NULL);
    int round = 0;
    for (; round < 400 && stor_transactions_open(&reads->storage) > 0; round++) {
        at = text + sprintf(text, "{'update': 'c', 'updates': [{'q': {}, 'u': {'$set': {'p': '");
        memset(at, 'a' + round % 20, 4000);
        strcpy(at + 4000, "'}}, 'multi': true}]}");
        outside(reads);
        run(reads, text, VD_OK, "{'nModified': 1000}");
        stor_transactions_expire(&reads->storage);
    }
    cr_assert_eq(stor_transactions_open(&reads->storage), 0, "after %d rounds", round);
    in_transaction(reads, 1, 1);
    run(reads, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    free(text);
    close_checked(reads);
}

/* Changes of more than one journal part, and more than a transaction may hold. */
Test(transactions, large_ones)
{
    reads_cache_bytes = 256 << 20; /* of which a twelfth may be changed in one */
    reads_t *reads = reads_open();
    size_t len = 900 * 1024;
    char *text = malloc(len + 200);
    int n = 0;
    seed(reads);
    in_transaction(reads, 1, 1);
    for (; n < 20; n++) { /* 18 MB */
        int at = snprintf(text, 100, "{'insert': 'c', 'documents': [{'_id': %d, 't': '", 100 + n);
        memset(text + at, 'x', len);
        snprintf(text + at + len, 100, "'}]%s", n == 0 ? FIRST : NEXT);
        run(reads, text, VD_OK, "{'n': 1}");
    }
    commit(reads);
    uint32_t parts = 0;
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    stor_journal_reader_t *reader =
        stor_journal_reader_open(reads->storage.journal, reads->session, 0);
    stor_journal_entry_t entry;
    stor_journal_reader_begin(reader);
    while (stor_journal_reader_next(reader, UINT64_MAX, &entry, &err) == VD_OK)
        parts = entry.part > parts ? entry.part : parts;
    stor_journal_reader_close(&reader);
    stor_txn_rollback(reads->session);
    cr_assert_geq(parts, 1);
    nothing_left(reads);
    in_transaction(reads, 1, 2);
    int rc = VD_OK;
    for (n = 0; rc == VD_OK && n < 60; n++) {
        int at = snprintf(text, 100, "{'insert': 'c', 'documents': [{'_id': %d, 't': '", 200 + n);
        memset(text + at, 'x', len);
        snprintf(text + at + len, 100, "'}]%s", n == 0 ? FIRST : NEXT);
        rc = reads_run(reads, "db", text);
        if (rc == VD_OK && !vd_value_is_missing(reads_at(reads, "writeErrors.0.code")))
            rc = -vd_value_int32(reads_at(reads, "writeErrors.0.code"));
    }
    cr_assert_eq(rc, VD_ERR_TRANSACTION_TOO_LARGE, "%d after %d", rc, n);
    run(reads, "{'commitTransaction': 1" NEXT, VD_ERR_NO_SUCH_TRANSACTION, NULL);
    free(text);
    close_checked(reads);
}

Test(transactions, there_is_a_limit)
{
    reads_t *reads = reads_open();
    seed(reads);
    uint32_t open = 0;
    int rc = VD_OK;
    for (int i = 0; rc == VD_OK && i < 100; i++) { /* the engine of this test has 32 sessions */
        in_transaction(reads, (uint8_t)(i + 1), 1);
        rc = reads_run(reads, "db", "{'find': 'c'" FIRST);
        open += rc == VD_OK;
    }
    cr_assert_neq(rc, VD_OK);
    cr_assert_eq(stor_transactions_open(&reads->storage), open);
    outside(reads);
    run(reads, "{'killAllSessions': []}", VD_OK, NULL);
    in_transaction(reads, 200, 1);
    run(reads, "{'find': 'c'" FIRST, VD_OK, NULL);
    commit(reads);
    close_checked(reads);
}
