/* tests/unit/storaged/test_keeper.c — what a pass does, also on a full disk; the scrub's rounds;
 * start and stop. */
#include "libcommon/base/fault.h"
#include "tests/support/ahead_clock.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/keeper.h"

static void clock_back(void)
{
    vd_fault_disarm(NULL);
    ahead_clock_back();
}

TestSuite(keeper, .init = ahead_clock_use, .fini = clock_back, .timeout = 300);

static void pass(reads_t *reads)
{
    stor_keeper_pass(&reads->storage, reads->session);
}

static void insert_one(reads_t *reads, const char *name, int id)
{
    reads_insert(
        reads, "d", name,
        query_json(reads->texts, vd_arena_printf(reads->texts, "{'0': {'_id': %d, 'a': 1}}", id)));
}

static stor_collection_t *collection(reads_t *reads)
{
    stor_collection_t *c = stor_catalog_next(reads->storage.catalog, 0);
    cr_assert_not_null(c);
    return c;
}

static bool has_table(reads_t *reads, uint64_t id)
{
    char table[32];
    uint64_t bytes, free_bytes;
    snprintf(table, sizeof table, "c-%llu", (unsigned long long)id);
    return stor_engine_table_size(reads->storage.engine, table, &bytes, &free_bytes, NULL) == VD_OK;
}

static uint64_t cursors(reads_t *reads)
{
    stor_cursors_stats_t stats;
    stor_cursors_stats(reads->storage.cursors, &stats);
    return stats.open;
}

/* A cursor, a session, an entry to fold; and a table that was dropped. Returns that one's id. */
static uint64_t work_make(reads_t *reads)
{
    static const stor_session_key_t key = {{1}};
    vd_error_t err = VD_ERROR_INIT;
    insert_one(reads, "gone", 1);
    stor_collection_t *c = collection(reads);
    uint64_t id = c->id;
    stor_catalog_unreference(&c);
    reads_begin(reads, "d");
    reads_ok(stor_catalog_drop(&reads->request, VD_SLICE_LIT("d"), VD_SLICE_LIT("gone"), &err),
             &err);
    insert_one(reads, "c", 1);
    reads_begin(reads, "d");
    reads_ok(stor_sessions_use(&reads->request, &key, &err), &err);
    cr_assert_eq(reads_run(reads, "d", "{'find': 'c', 'batchSize': 0}"), VD_OK);
    cr_assert_eq(cursors(reads), 1);
    atomic_fetch_add(&ahead_ms, 3600000);
    return id;
}

Test(keeper, a_pass_does_everything)
{
    reads_t *reads = reads_open();
    uint64_t dropped = work_make(reads);
    cr_assert_eq(stor_counters_position(&reads->storage), 0);
    pass(reads);
    cr_assert_eq(cursors(reads), 0);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 0);
    cr_assert_eq(stor_counters_position(&reads->storage),
                 stor_engine_newest(reads->storage.engine));
    cr_assert_not(has_table(reads, dropped));
    /* Nothing to do: nothing is written. */
    stor_engine_stats_t before, after;
    stor_engine_stats(reads->storage.engine, &before);
    pass(reads);
    stor_engine_stats(reads->storage.engine, &after);
    cr_assert_eq(after.txn_commits, before.txn_commits);
    reads_close(reads);
}

/* What writes waits for space; what gives space back goes on. */
Test(keeper, a_pass_on_a_full_disk)
{
    reads_t *reads = reads_open();
    uint64_t dropped = work_make(reads);
    cr_assert_eq(vd_fault_arm("reserve.full=error", NULL), VD_OK);
    cr_assert_eq(stor_engine_write_allowed(reads->storage.engine, NULL), VD_ERR_OUT_OF_DISK_SPACE);
    pass(reads);
    cr_assert_eq(cursors(reads), 0);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 1);
    cr_assert_eq(stor_counters_position(&reads->storage), 0);
    cr_assert_not(has_table(reads, dropped));
    vd_fault_disarm(NULL);
    atomic_fetch_add(&ahead_ms, 1000); /* free space is looked at again */
    pass(reads);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 0);
    cr_assert_gt(stor_counters_position(&reads->storage), 0);
    reads_close(reads);
}

static void start(reads_t *reads)
{
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_keeper_start(&reads->storage, NULL, &err), &err);
}

Test(keeper, starts_works_and_stops)
{
    reads_t *reads = reads_open();
    reads->storage.settings.scrub_period_ms = 1;
    insert_one(reads, "c", 1);
    stor_collection_t *c = collection(reads);
    start(reads);
    while (atomic_load(&c->scrubs) == 0 || stor_counters_position(&reads->storage) == 0)
        usleep(1000);
    stor_keeper_stop(&reads->storage.keeper);
    cr_assert_null(reads->storage.keeper);
    stor_keeper_stop(&reads->storage.keeper); /* again is fine */
    cr_assert_eq(atomic_load(&c->scrub_failures), 0);
    cr_assert_gt(atomic_load(&c->scrubbed_wall_ms), 0);
    stor_catalog_unreference(&c);
    reads_close(reads);
}

Test(keeper, a_scrub_waits_for_its_period)
{
    reads_t *reads = reads_open();
    reads->storage.settings.scrub_period_ms = 86400000;
    insert_one(reads, "c", 1);
    stor_collection_t *c = collection(reads);
    start(reads);
    while (stor_counters_position(&reads->storage) == 0)
        usleep(1000);
    cr_assert_eq(atomic_load(&c->scrubs), 0);
    atomic_fetch_add(&ahead_ms, 86400000);
    while (atomic_load(&c->scrubs) == 0)
        usleep(1000);
    stor_keeper_stop(&reads->storage.keeper);
    stor_catalog_unreference(&c);
    reads_close(reads);
}

Test(keeper, a_difference_is_counted)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    reads->storage.settings.scrub_period_ms = 1;
    insert_one(reads, "c", 1);
    insert_one(reads, "c", 2);
    stor_collection_t *c = collection(reads);
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_cursor_open(reads->session, c->table, &cursor, &err), &err);
    reads_ok(stor_cursor_next(cursor, true, &key, &value, &err), &err);
    key = vd_arena_copy_slice(reads->texts, key);
    reads_ok(stor_cursor_remove(cursor, key, &err), &err);
    reads_ok(stor_txn_commit(reads->session, &err), &err);
    start(reads);
    while (atomic_load(&c->scrub_failures) == 0)
        usleep(1000);
    stor_keeper_stop(&reads->storage.keeper);
    cr_assert_gt(atomic_load(&c->scrubs), 0);
    stor_catalog_unreference(&c);
    reads_close(reads);
}

/* What is dropped while it is under the scrub's hands is no failure. */
Test(keeper, collections_come_and_go)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    reads->storage.settings.scrub_period_ms = 1;
    start(reads);
    uint64_t failures = 0;
    for (int i = 0; i < 60; i++) {
        insert_one(reads, "c", 1);
        stor_collection_t *c = collection(reads);
        if (i % 20 == 0)
            while (atomic_load(&c->scrubs) == 0)
                usleep(1000);
        reads_begin(reads, "d");
        reads_ok(stor_catalog_drop(&reads->request, VD_SLICE_LIT("d"), VD_SLICE_LIT("c"), &err),
                 &err);
        failures += atomic_load(&c->scrub_failures);
        stor_catalog_unreference(&c);
    }
    stor_keeper_stop(&reads->storage.keeper);
    cr_assert_eq(failures, 0);
    reads_close(reads);
}

Test(keeper, a_start_that_fails_leaves_nothing)
{
    enum { MAX = 64 };
    reads_t *reads = reads_open();
    stor_session_t *sessions[MAX] = {NULL};
    vd_error_t err = VD_ERROR_INIT;
    int count = 0;
    while (count < MAX && stor_session_open(reads->storage.engine, &sessions[count], NULL) == VD_OK)
        count++;
    cr_assert_lt(count, MAX);
    for (int i = 0; i < 4; i++) { /* no session at all, then for the first threads only */
        cr_assert_eq(stor_keeper_start(&reads->storage, NULL, NULL), VD_ERR_FULL);
        cr_assert_null(reads->storage.keeper);
        stor_session_close(&sessions[i]);
    }
    reads_ok(stor_keeper_start(&reads->storage, NULL, &err), &err);
    stor_keeper_stop(&reads->storage.keeper);
    for (int i = 0; i < count; i++)
        stor_session_close(&sessions[i]);
    reads_close(reads);
}
