/* tests/unit/storaged/test_pins.c — readConcern snapshot outside of transactions. */
#include "tests/support/ahead_clock.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/pins.h"
#include "veddb-storaged/transactions.h"

#define SNAPSHOT ", 'readConcern': {'level': 'snapshot'}}"

static void run(reads_t *reads, const char *command, int code, const char *expected)
{
    reads_step_t step = {"db", command, expected, code, NULL};
    reads_script(reads, &step, 1);
}

/* The command at that time: closes its readConcern. */
static void run_at(reads_t *reads, const char *command, uint64_t at, int code, const char *expected)
{
    char text[400];
    snprintf(text, sizeof text,
             "%s, 'readConcern': {'level': 'snapshot', 'atClusterTime': {'$timestamp': {'t': %u, "
             "'i': %u}}}}",
             command, (unsigned)(at >> 32), (unsigned)at);
    run(reads, text, code, expected);
}

static uint64_t time_of(reads_t *reads, const char *path)
{
    vd_value_t v = reads_at(reads, path);
    cr_assert_eq(v.type, VD_BSON_TIMESTAMP, "%s", reads_text(reads));
    return vd_value_timestamp(v);
}

static void outside(reads_t *reads)
{
    reads_session(reads, "ann@admin", 0);
}

static reads_t *open_seeded(void)
{
    reads_t *reads = reads_open();
    outside(reads);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 1, 'a': 1}, {'_id': 2, 'a': 2}]}", VD_OK,
        NULL);
    return reads;
}

static void close_checked(reads_t *reads)
{
    stor_engine_stats_t engine;
    stor_pins_end(&reads->storage, NULL, NULL);
    cr_assert_eq(stor_pins_count(&reads->storage), 0);
    stor_engine_stats(reads->storage.engine, &engine);
    cr_assert_eq(engine.txn_begins, engine.txn_commits + engine.txn_rollbacks);
    reads_close(reads);
}

Test(pins, a_session_reads_one_snapshot)
{
    reads_t *reads = open_seeded();
    reads_session(reads, "ann@admin", 1);
    run(reads, "{'find': 'c'" SNAPSHOT, VD_OK,
        "{'cursor.firstBatch': [{'_id': 1, 'a': 1}, {'_id': 2, 'a': 2}]}");
    uint64_t at = time_of(reads, "cursor.atClusterTime");
    outside(reads);
    run(reads, "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 10}}}]}", VD_OK,
        NULL);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 3, 'a': 3}]}", VD_OK, NULL);
    reads_session(reads, "ann@admin", 1);
    run_at(reads, "{'find': 'c', 'filter': {'_id': 1}", at, VD_OK,
           "{'cursor.firstBatch': [{'_id': 1, 'a': 1}]}");
    run_at(reads, "{'distinct': 'c', 'key': 'a'", at, VD_OK, "{'values': [1, 2]}");
    cr_assert_eq(time_of(reads, "atClusterTime"), at);
    run_at(reads, "{'aggregate': 'c', 'pipeline': [{'$count': 'n'}], 'cursor': {}", at, VD_OK,
           "{'cursor.firstBatch': [{'n': 2}]}");
    cr_assert_eq(time_of(reads, "cursor.atClusterTime"), at);
    run(reads, "{'find': 'c'}", VD_OK, "{'cursor.atClusterTime': null}");
    /* A new one shows what is there now; the old one stays. */
    run(reads, "{'find': 'c', 'filter': {'_id': 1}" SNAPSHOT, VD_OK,
        "{'cursor.firstBatch': [{'_id': 1, 'a': 10}]}");
    cr_assert_gt(time_of(reads, "cursor.atClusterTime"), at);
    run_at(reads, "{'find': 'c', 'filter': {'_id': 3}", at, VD_OK, "{'cursor.firstBatch': []}");
    cr_assert_eq(stor_pins_count(&reads->storage), 2);
    /* Another session has none of that time; but of the newest, since nothing came after it. */
    reads_session(reads, "ann@admin", 2);
    run_at(reads, "{'find': 'c'", at, VD_ERR_SNAPSHOT_UNAVAILABLE, NULL);
    run_at(reads, "{'find': 'c', 'filter': {'_id': 3}", stor_engine_newest(reads->storage.engine),
           VD_OK, "{'cursor.firstBatch': [{'_id': 3, 'a': 3}]}");
    run_at(reads, "{'find': 'c'", UINT64_MAX, VD_ERR_INVALID_OPTIONS, NULL);
    outside(reads);
    run(reads, "{'killAllSessions': []}", VD_OK, NULL);
    cr_assert_eq(stor_pins_count(&reads->storage), 0);
    reads_session(reads, "ann@admin", 1);
    run_at(reads, "{'find': 'c'", at, VD_ERR_SNAPSHOT_UNAVAILABLE, NULL);
    close_checked(reads);
}

Test(pins, cursors_read_on_in_it)
{
    char more[200];
    reads_t *reads = open_seeded();
    reads_session(reads, "ann@admin", 1);
    run(reads, "{'find': 'c', 'batchSize': 1" SNAPSHOT, VD_OK, NULL);
    snprintf(more, sizeof more,
             "{'getMore': {'$numberLong': '%lld'}, 'collection': 'c', 'batchSize': 1}",
             (long long)vd_value_int64(reads_at(reads, "cursor.id")));
    outside(reads);
    run(reads, "{'update': 'c', 'updates': [{'q': {}, 'u': {'$set': {'a': 10}}, 'multi': true}]}",
        VD_OK, NULL);
    reads_session(reads, "ann@admin", 1);
    run(reads, more, VD_OK, "{'cursor.nextBatch': [{'_id': 2, 'a': 2}]}");
    reads->storage.settings.transaction_lifetime_ms = 1;
    usleep(3000);
    stor_transactions_expire(&reads->storage);
    cr_assert_eq(stor_pins_count(&reads->storage), 0);
    run(reads, more, VD_ERR_SNAPSHOT_UNAVAILABLE, NULL);
    close_checked(reads);
}

/* Whoever looks for old ones may have read its clock before another thread took one. */
Test(pins, the_youngest_is_not_old)
{
    reads_t *reads = open_seeded();
    ahead_clock_use();
    atomic_fetch_add(&ahead_ms, 5000);
    reads_session(reads, "ann@admin", 1);
    run(reads, "{'find': 'c'" SNAPSHOT, VD_OK, NULL);
    atomic_fetch_sub(&ahead_ms, 5000);
    stor_transactions_expire(&reads->storage);
    cr_assert_eq(stor_pins_count(&reads->storage), 1);
    atomic_fetch_add(&ahead_ms, 5000 + 61000);
    stor_transactions_expire(&reads->storage);
    cr_assert_eq(stor_pins_count(&reads->storage), 0);
    ahead_clock_back();
    close_checked(reads);
}

Test(pins, there_are_limits)
{
    reads_t *reads = open_seeded();
    for (int i = 0; i < 20; i++) { /* the engine of this test has 32 sessions */
        reads_session(reads, "ann@admin", (uint8_t)(1 + i % 3));
        run(reads, "{'find': 'c'" SNAPSHOT, VD_OK, NULL);
        reads->in_session = false;
        run(reads, "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': 1}}}]}",
            VD_OK, NULL);
    }
    cr_assert_eq(stor_pins_count(&reads->storage), 3 * STOR_PINS_PER_SESSION);
    /* While nothing is committed one is enough. */
    for (int i = 0; i < 10; i++) {
        reads_session(reads, "ann@admin", 9);
        run(reads, "{'find': 'c'" SNAPSHOT, VD_OK, NULL);
    }
    cr_assert_eq(stor_pins_count(&reads->storage), 3 * STOR_PINS_PER_SESSION + 1);
    close_checked(reads);
}

/* A name that has changed its meaning since can't be read as it was. */
Test(pins, and_the_catalog)
{
    reads_t *reads = open_seeded();
    reads_session(reads, "ann@admin", 1);
    run(reads, "{'find': 'c'" SNAPSHOT, VD_OK, NULL);
    uint64_t at = time_of(reads, "cursor.atClusterTime");
    reads->txn_number = 1;
    run(reads, "{'find': 'c', 'startTransaction': true, 'autocommit': false}", VD_OK, NULL);
    reads->txn_number = 0;
    outside(reads);
    run(reads, "{'insert': 'later', 'documents': [{'_id': 1}]}", VD_OK, NULL);
    reads_session(reads, "ann@admin", 1);
    run_at(reads, "{'find': 'later'", at, VD_OK, "{'cursor.firstBatch': []}");
    outside(reads);
    run(reads, "{'drop': 'later'}", VD_OK, NULL);
    reads_session(reads, "ann@admin", 1);
    run_at(reads, "{'find': 'later'", at, VD_ERR_SNAPSHOT_UNAVAILABLE, NULL);
    run_at(reads, "{'find': 'c', 'filter': {'_id': 1}", at, VD_OK,
           "{'cursor.firstBatch': [{'_id': 1, 'a': 1}]}");
    reads->txn_number = 1;
    run(reads, "{'find': 'c', 'autocommit': false}", VD_OK, NULL);
    run(reads, "{'find': 'later', 'autocommit': false}", VD_ERR_SNAPSHOT_UNAVAILABLE, NULL);
    run(reads, "{'find': 'c', 'autocommit': false}", VD_ERR_NO_SUCH_TRANSACTION, NULL);
    reads->txn_number = 0;
    close_checked(reads);
}

Test(pins, a_transaction_at_a_time)
{
    reads_t *reads = open_seeded();
    reads_session(reads, "ann@admin", 1);
    run(reads, "{'find': 'c'" SNAPSHOT, VD_OK, NULL);
    uint64_t at = time_of(reads, "cursor.atClusterTime");
    reads->txn_number = 1;
    run_at(reads, "{'find': 'c', 'startTransaction': true, 'autocommit': false", at, VD_OK, NULL);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 'new'}], 'autocommit': false}", VD_OK, NULL);
    run(reads, "{'find': 'c', 'autocommit': false, 'filter': {'_id': 'new'}}", VD_OK,
        "{'cursor.firstBatch': [{'_id': 'new'}]}");
    reads_step_t step = {"admin", "{'commitTransaction': 1, 'autocommit': false}", NULL, VD_OK,
                         NULL};
    reads_script(reads, &step, 1);
    reads->txn_number = 2; /* something was committed since */
    run_at(reads, "{'find': 'c', 'startTransaction': true, 'autocommit': false", at,
           VD_ERR_SNAPSHOT_UNAVAILABLE, NULL);
    reads->txn_number = 3;
    run_at(reads, "{'find': 'c', 'startTransaction': true, 'autocommit': false",
           at + (1000ull << 32), VD_ERR_INVALID_OPTIONS, NULL);
    reads->txn_number = 0;
    close_checked(reads);
}

Test(pins, refused)
{
    static const reads_step_t steps[] = {
        {"db", "{'find': 'c', 'readConcern': {'level': 'snapshot'}}", NULL, VD_OK, NULL},
        {"db", "{'count': 'c', 'readConcern': {'level': 'snapshot'}}", NULL, VD_ERR_INVALID_OPTIONS,
         NULL},
        {"db", "{'find': 'c', 'readConcern': {'atClusterTime': {'$timestamp': {'t': 1, 'i': 1}}}}",
         NULL, VD_ERR_INVALID_OPTIONS,
         "readConcern level must be 'snapshot' when specifying atClusterTime"},
        {"db",
         "{'find': 'c', 'readConcern': {'level': 'snapshot', 'atClusterTime': {'$timestamp': {'t': "
         "1, 'i': 1}}, 'afterClusterTime': {'$timestamp': {'t': 1, 'i': 1}}}}",
         NULL, VD_ERR_INVALID_OPTIONS, NULL},
    };
    reads_t *reads = open_seeded();
    run(reads, "{'find': 'c'" SNAPSHOT, VD_ERR_INVALID_OPTIONS, NULL); /* no session */
    reads_session(reads, "ann@admin", 1);
    READS_SCRIPT(reads, steps);
    close_checked(reads);
}
