/* tests/unit/engine/test_engine.c — sessions, transactions, cursors, tables, the flusher and the
 * reserve, on a real engine. */
#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "tests/unit/engine/engine_support.h"
#include "veddb-storaged/engine/reserve.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

static place_t place;
static stor_session_t *one, *two;
static stor_cursor_t *c1, *c2;

static void start(void)
{
    place_init(&place);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    cr_assert_eq(stor_engine_table_create(place.engine, "c-1", false, NULL), VD_OK);
    cr_assert_eq(stor_session_open(place.engine, &one, NULL), VD_OK);
    cr_assert_eq(stor_session_open(place.engine, &two, NULL), VD_OK);
    cr_assert_eq(stor_cursor_open(one, "c-1", &c1, NULL), VD_OK);
    cr_assert_eq(stor_cursor_open(two, "c-1", &c2, NULL), VD_OK);
}

static void end(void)
{
    stor_session_close(&one);
    stor_session_close(&two);
    cr_assert_eq(place_close(&place), VD_OK, "%s", place.err.message);
    place_done(&place);
}

#define KEY(s)   vd_slice_str(s)
#define OK(call) cr_assert_eq((call), VD_OK)

Test(engine, cursor_operations)
{
    start();
    vd_slice_t key, value;
    OK(stor_txn_begin(one, NULL));
    cr_assert(stor_txn_active(one));
    OK(stor_cursor_insert(c1, KEY("b"), KEY("1"), NULL));
    cr_assert_eq(stor_cursor_insert(c1, KEY("b"), KEY("2"), NULL), VD_ERR_DUPLICATE_KEY);
    OK(stor_cursor_put(c1, KEY("d"), KEY("2"), NULL));
    OK(stor_cursor_put(c1, KEY("d"), KEY("3"), NULL));
    cr_assert_eq(stor_cursor_update(c1, KEY("x"), KEY("2"), NULL), VD_ERR_NOT_FOUND);
    OK(stor_cursor_update(c1, KEY("b"), KEY("4"), NULL));
    cr_assert_eq(stor_cursor_remove(c1, KEY("x"), NULL), VD_ERR_NOT_FOUND);
    OK(stor_cursor_search(c1, KEY("d"), &value, NULL));
    cr_assert(vd_slice_is(value, "3"));
    cr_assert_eq(stor_cursor_search(c1, KEY("c"), &value, NULL), VD_ERR_NOT_FOUND);
    /* Seek both ways, on, between and beyond. */
    OK(stor_cursor_seek(c1, KEY("c"), true, &key, &value, NULL));
    cr_assert(vd_slice_is(key, "d"));
    OK(stor_cursor_seek(c1, KEY("c"), false, &key, &value, NULL));
    cr_assert(vd_slice_is(key, "b") && vd_slice_is(value, "4"));
    OK(stor_cursor_seek(c1, KEY("d"), true, &key, &value, NULL));
    cr_assert(vd_slice_is(key, "d"));
    cr_assert_eq(stor_cursor_seek(c1, KEY("e"), true, &key, &value, NULL), VD_ERR_NOT_FOUND);
    cr_assert_eq(stor_cursor_seek(c1, KEY("a"), false, &key, &value, NULL), VD_ERR_NOT_FOUND);
    stor_cursor_reset(c1);
    OK(stor_cursor_next(c1, true, &key, &value, NULL));
    cr_assert(vd_slice_is(key, "b"));
    OK(stor_cursor_next(c1, true, &key, &value, NULL));
    cr_assert_eq(stor_cursor_next(c1, true, &key, &value, NULL), VD_ERR_NOT_FOUND);
    stor_cursor_reset(c1);
    OK(stor_cursor_next(c1, false, &key, &value, NULL));
    cr_assert(vd_slice_is(key, "d"));
    /* Two positions on one table. */
    stor_cursor_t *other = NULL;
    OK(stor_cursor_acquire(one, "c-1", &other, NULL));
    OK(stor_cursor_next(other, true, &key, NULL, NULL));
    cr_assert(vd_slice_is(key, "b"));
    stor_cursor_release(&other);
    cr_assert_null(other);
    OK(stor_cursor_remove(c1, KEY("b"), NULL));
    cr_assert_eq(stor_cursor_search(c1, KEY("b"), NULL, NULL), VD_ERR_NOT_FOUND);
    stor_txn_rollback(one);
    OK(stor_txn_begin(one, NULL));
    cr_assert_eq(stor_cursor_next(c1, true, &key, &value, NULL), VD_ERR_NOT_FOUND);
    stor_txn_rollback(one);
    end();
}

Test(engine, snapshot_and_conflict)
{
    start();
    vd_slice_t value;
    uint64_t timestamp = 0;
    OK(put_one(one, "c-1", "k", "1", &timestamp, NULL));
    OK(stor_txn_begin(two, NULL));
    cr_assert_eq(stor_txn_snapshot_newest(two), timestamp);
    uint64_t later = 0;
    OK(put_one(one, "c-1", "k", "2", &later, NULL));
    cr_assert_gt(later, timestamp);
    OK(stor_cursor_search(c2, KEY("k"), &value, NULL));
    cr_assert(vd_slice_is(value, "1"));
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(stor_cursor_put(c2, KEY("k"), KEY("3"), &err), VD_ERR_WRITE_CONFLICT);
    /* The transaction is dead: WiredTiger would commit it with 0 and keep nothing. */
    cr_assert_eq(stor_cursor_put(c2, KEY("l"), KEY("3"), NULL), VD_ERR_WRITE_CONFLICT);
    cr_assert_eq(stor_txn_commit(two, NULL), VD_ERR_WRITE_CONFLICT);
    cr_assert_not(stor_txn_active(two));
    /* Concurrent equal inserts conflict. */
    OK(stor_txn_begin(one, NULL));
    OK(stor_txn_begin(two, NULL));
    OK(stor_cursor_insert(c1, KEY("u"), KEY("1"), NULL));
    cr_assert_eq(stor_cursor_insert(c2, KEY("u"), KEY("2"), NULL), VD_ERR_WRITE_CONFLICT);
    OK(stor_txn_commit(one, NULL));
    stor_txn_rollback(two);
    stor_engine_stats_t stats;
    stor_engine_stats(place.engine, &stats);
    cr_assert_eq(stats.conflicts, 2);
    cr_assert_eq(stats.txn_commits, 3);
    end();
}

static int count_table(const char *name, void *context)
{
    cr_assert(strcmp(name, "c-1") == 0 || strcmp(name, "i-7") == 0, "%s", name);
    ++*(int *)context;
    return VD_OK;
}

Test(engine, tables)
{
    static const char long_name[] =
        "01234567890123456789012345678901234567890123456789012345678901234";
    static const char *const bad[] = {"",     "C-1",          "a/b", "a.b",
                                      "../x", "veddb-engine", "a:b", long_name};
    start();
    int count = 0;
    stor_cursor_t *cursor = NULL;
    for (size_t i = 0; i < VD_COUNT_OF(bad); i++)
        cr_assert_eq(stor_engine_table_create(place.engine, bad[i], false, NULL), VD_ERR_INVALID,
                     "%s", bad[i]);
    cr_assert_eq(stor_engine_table_create(place.engine, "c-1", false, NULL), VD_ERR_EXISTS);
    OK(stor_engine_table_create(place.engine, "i-7", true, NULL));
    OK(stor_engine_tables(place.engine, count_table, &count, NULL));
    cr_assert_eq(count, 2);
    cr_assert_eq(stor_cursor_open(one, "c-9", &cursor, NULL), VD_ERR_NOT_FOUND);
    OK(put_one(one, "i-7", "k", "v", NULL, NULL));
    OK(stor_engine_checkpoint(place.engine, NULL));
    uint64_t bytes = 0, free_bytes = 0;
    OK(stor_engine_table_size(place.engine, "i-7", &bytes, &free_bytes, NULL));
    cr_assert_gt(bytes, 0);
    /* Cursors in idle sessions let go; a session in a transaction does at its end. */
    OK(stor_cursor_open(two, "i-7", &cursor, NULL));
    cr_assert_eq(stor_engine_table_drop(place.engine, "i-7", NULL), VD_ERR_OBJECT_IS_BUSY);
    OK(stor_txn_begin(two, NULL));
    OK(stor_cursor_search(cursor, KEY("k"), NULL, NULL));
    stor_engine_table_retire(place.engine, "i-7");
    cr_assert_eq(stor_engine_table_drop(place.engine, "i-7", NULL), VD_ERR_OBJECT_IS_BUSY);
    OK(stor_cursor_search(cursor, KEY("k"), NULL, NULL));
    stor_txn_rollback(two);
    OK(stor_txn_begin(two, NULL));
    cr_assert_eq(stor_cursor_search(cursor, KEY("k"), NULL, NULL), VD_ERR_NOT_FOUND);
    stor_txn_rollback(two);
    cr_assert_eq(stor_cursor_open(two, "i-7", &cursor, NULL), VD_ERR_NOT_FOUND);
    OK(stor_engine_table_verify(place.engine, "i-7", &place.err));
    OK(stor_engine_table_drop(place.engine, "i-7", &place.err));
    cr_assert_eq(stor_engine_table_drop(place.engine, "i-7", NULL), VD_ERR_NOT_FOUND);
    count = 0;
    OK(stor_engine_tables(place.engine, count_table, &count, NULL));
    cr_assert_eq(count, 1);
    end();
}

static int random_visit(vd_slice_t key, vd_slice_t value, void *context)
{
    cr_assert_eq(key.len, 4);
    cr_assert_eq(value.len, 1);
    ++*(int *)context;
    return VD_OK;
}

/* As a process leaves it that dies in the middle of making a table. */
Test(engine, a_file_that_nothing_names_is_no_obstacle_and_goes)
{
    char left[512], moved[512];
    place_init(&place);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    place_path(&place, "c-9.wt", left);
    place_path(&place, "c-9.wt.1", moved);
    FILE *file = fopen(left, "w");
    cr_assert_not_null(file);
    (void)fputs("half of it", file);
    cr_assert_eq(fclose(file), 0);
    OK(stor_engine_table_create(place.engine, "c-9", false, NULL));
    cr_assert_eq(access(moved, F_OK), 0);
    OK(stor_session_open(place.engine, &one, NULL));
    OK(put_one(one, "c-9", "key", "value", NULL, NULL));
    stor_session_close(&one);
    OK(place_close(&place));
    cr_assert_eq(place_open(&place, false), VD_OK, "%s", place.err.message);
    cr_assert_neq(access(moved, F_OK), 0);
    cr_assert_eq(access(left, F_OK), 0, "the table itself stays");
    OK(stor_session_open(place.engine, &one, NULL));
    OK(stor_cursor_open(one, "c-9", &c1, NULL));
    vd_slice_t value;
    OK(stor_txn_begin(one, NULL));
    OK(stor_cursor_search(c1, KEY("key"), &value, NULL));
    cr_assert(vd_slice_is(value, "value"));
    stor_txn_rollback(one);
    stor_session_close(&one);
    OK(place_close(&place));
    place_done(&place);
}

Test(engine, random_records)
{
    start();
    int count = 0;
    OK(stor_txn_begin(one, NULL));
    OK(stor_cursor_random(one, "c-1", random_visit, &count, 5, NULL));
    cr_assert_eq(count, 0);
    for (int i = 0; i < 200; i++) {
        char key[8];
        (void)snprintf(key, sizeof key, "%04d", i);
        OK(stor_cursor_put(c1, KEY(key), KEY("v"), NULL));
    }
    OK(stor_txn_commit(one, NULL));
    OK(stor_txn_begin(one, NULL));
    OK(stor_cursor_random(one, "c-1", random_visit, &count, 10, NULL));
    cr_assert_eq(count, 10);
    stor_txn_rollback(one);
    end();
}

Test(engine, sessions_are_bounded)
{
    place_init(&place);
    place.options.sessions_max = 3;
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    stor_session_t *sessions[4] = {0};
    for (int i = 0; i < 3; i++)
        OK(stor_session_open(place.engine, &sessions[i], NULL));
    cr_assert_eq(stor_session_open(place.engine, &sessions[3], NULL), VD_ERR_FULL);
    stor_session_close(&sessions[1]);
    OK(stor_session_open(place.engine, &sessions[3], NULL));
    for (int i = 0; i < 4; i++)
        stor_session_close(&sessions[i]);
    OK(place_close(&place));
    place_done(&place);
}

static atomic_int released_count;

static void released(stor_flush_waiter_t *list, void *context)
{
    (void)context;
    for (; list != NULL; list = list->next)
        atomic_fetch_add(&released_count, 1);
}

static bool reaches(atomic_int *counter, int value)
{
    for (int i = 0; i < 60000 && atomic_load(counter) < value; i++)
        usleep(500);
    return atomic_load(counter) >= value;
}

static void start_with_release(void)
{
    place_init(&place);
    place.options.released = released;
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    OK(stor_engine_table_create(place.engine, "c-1", false, NULL));
    OK(stor_session_open(place.engine, &one, NULL));
    OK(stor_session_open(place.engine, &two, NULL));
    OK(stor_cursor_open(one, "c-1", &c1, NULL));
    OK(stor_cursor_open(two, "c-1", &c2, NULL));
}

Test(engine, flusher_releases_per_commit)
{
    start_with_release();
    stor_flush_waiter_t waiter;
    uint64_t older, newer;
    /* An older transaction is in flight: the newer commit is released nevertheless, and `visible`
     * stays below the older. */
    OK(stor_txn_begin(two, NULL));
    older = stor_txn_timestamp(two);
    OK(put_one(one, "c-1", "k", "v", &newer, NULL));
    cr_assert_gt(newer, older);
    if (stor_engine_flush_wait(place.engine, newer, &waiter))
        atomic_fetch_add(&released_count, 1);
    cr_assert(reaches(&released_count, 1));
    cr_assert_lt(stor_engine_visible(place.engine), older);
    cr_assert_lt(stor_engine_durable(place.engine), older);
    /* Nothing is dirty: who reads now need not wait. */
    cr_assert(stor_engine_flush_wait(place.engine, newer, &waiter));
    OK(stor_cursor_put(c2, KEY("o"), KEY("v"), NULL));
    OK(stor_txn_commit(two, NULL));
    cr_assert_eq(stor_engine_visible(place.engine), newer);
    wait_durable(place.engine, newer);
    cr_assert_geq(stor_engine_durable(place.engine), newer);
    end();
}

Test(engine, flusher_waits_for_the_disk)
{
    start_with_release();
    stor_flush_waiter_t waiter;
    uint64_t timestamp;
    OK(put_one(one, "c-1", "j", "v", &timestamp, NULL));
    wait_durable(place.engine, timestamp);
    OK(vd_fault_arm("flusher.before_sync=wait", NULL));
    OK(put_one(one, "c-1", "k", "v", &timestamp, NULL));
    cr_assert_not(stor_engine_flush_wait(place.engine, timestamp, &waiter));
    usleep(50000);
    cr_assert_eq(atomic_load(&released_count), 0);
    cr_assert_lt(stor_engine_durable(place.engine), timestamp);
    vd_fault_disarm(NULL);
    cr_assert(reaches(&released_count, 1));
    cr_assert_geq(stor_engine_durable(place.engine), timestamp);
    end();
}

static int flush_fails(void *arg)
{
    (void)arg;
    if (freopen("/dev/null", "w", stderr) == NULL)
        return 99;
    place_keys(&place, 1, 1);
    uint64_t timestamp;
    stor_session_t *session = NULL;
    if (place_open(&place, true) != VD_OK ||
        stor_engine_table_create(place.engine, "c-1", false, NULL) != VD_OK ||
        stor_session_open(place.engine, &session, NULL) != VD_OK ||
        vd_fault_arm("flusher.before_sync=error", NULL) != VD_OK)
        return 1;
    either(put_one(session, "c-1", "k", "v", &timestamp, NULL));
    sleep(30);
    return 2;
}

Test(engine, failed_flush_ends_the_process)
{
    place_init(&place);
    int status = in_child(flush_fails, NULL);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == STOR_EXIT_PANIC, "status %x", status);
    place_done(&place);
}

/* Nothing to do: no flush, hardly any processor time. */
Test(engine, idle_costs_nothing)
{
    start();
    uint64_t timestamp;
    OK(put_one(one, "c-1", "k", "v", &timestamp, NULL));
    wait_durable(place.engine, timestamp);
    usleep(600000);
    stor_engine_stats_t before, after;
    struct timespec cpu[2];
    stor_engine_stats(place.engine, &before);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu[0]);
    usleep(1500000);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu[1]);
    stor_engine_stats(place.engine, &after);
    cr_assert_eq(before.flushes, after.flushes);
    cr_assert_eq(before.log_bytes_written, after.log_bytes_written);
    /* A draw after a long sleep gets its ceiling. */
    OK(put_one(one, "c-1", "k", "w", &timestamp, NULL));
    wait_durable(place.engine, timestamp);
    cr_assert_geq(stor_engine_durable(place.engine), timestamp);
    end();
}

/* Writers and a reader: whatever the reader sees is at or below what it may depend on. */
enum { WRITERS = 4, WRITES = 400 };

static void *writer_run(void *arg)
{
    const char *key = arg;
    stor_session_t *session = NULL;
    char value[32];
    if (stor_session_open(place.engine, &session, NULL) != VD_OK)
        return arg;
    for (int i = 0; i < WRITES; i++) {
        stor_cursor_t *cursor = NULL;
        if (stor_cursor_open(session, "c-1", &cursor, NULL) != VD_OK ||
            stor_txn_begin(session, NULL) != VD_OK)
            return arg;
        (void)snprintf(value, sizeof value, "%llu",
                       (unsigned long long)stor_txn_timestamp(session));
        if (stor_cursor_put(cursor, vd_slice_str(key), vd_slice_str(value), NULL) != VD_OK ||
            stor_txn_commit(session, NULL) != VD_OK)
            return arg;
    }
    stor_session_close(&session);
    return NULL;
}

Test(engine, reads_know_what_they_depend_on, .timeout = 300)
{
    static const char *const names[WRITERS] = {"a", "b", "c", "d"};
    start();
    pthread_t threads[WRITERS];
    for (int i = 0; i < WRITERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, writer_run, (void *)names[i]), 0);
    for (int i = 0; i < 2000; i++) {
        uint64_t visible = stor_engine_visible(place.engine), highest = 0;
        OK(stor_txn_begin(one, NULL));
        for (int k = 0; k < WRITERS; k++) {
            vd_slice_t value;
            if (stor_cursor_search(c1, KEY(names[k]), &value, NULL) != VD_OK)
                continue;
            uint64_t seen = strtoull((const char *)value.data, NULL, 10);
            highest = seen > highest ? seen : highest;
        }
        cr_assert_leq(highest, stor_txn_snapshot_newest(one));
        (void)visible;
        stor_txn_rollback(one);
    }
    for (int i = 0; i < WRITERS; i++) {
        void *failed = NULL;
        cr_assert_eq(pthread_join(threads[i], &failed), 0);
        cr_assert_null(failed);
    }
    end();
}

Test(engine, options_are_checked)
{
    place_init(&place);
    place.options.cache_bytes = 1;
    cr_assert_eq(place_open(&place, true), VD_ERR_CONFIG);
    place.options.cache_bytes = 32 << 20;
    place.options.log_file_max_bytes = 1000;
    cr_assert_eq(place_open(&place, true), VD_ERR_CONFIG);
    place.options.log_file_max_bytes = 0;
    place.options.sessions_max = 0;
    cr_assert_eq(place_open(&place, true), VD_ERR_CONFIG);
    place_done(&place);
}

Test(reserve, formula)
{
    const uint64_t mb = 1 << 20;
    /* A large disk: the whole formula. 1 GB cache, 100 MB log files: 461 + 400 + 256 + 128. */
    uint64_t large = stor_reserve_compute(1024 * mb, 100 * mb, 1000000 * mb);
    cr_assert(large > 1200 * mb && large < 1260 * mb, "%llu", (unsigned long long)(large / mb));
    /* A smaller disk: a fifth; never less than the dirty part, the logs and lookaside. */
    cr_assert_eq(stor_reserve_compute(1024 * mb, 100 * mb, 6000 * mb), 1200 * mb);
    uint64_t small = stor_reserve_compute(32 * mb, 1 * mb, 64 * mb);
    cr_assert(small > 20 * mb && small < 25 * mb, "%llu", (unsigned long long)(small / mb));
}

Test(reserve, writes_are_refused_and_come_back)
{
    start();
    vd_error_t err = VD_ERROR_INIT;
    vd_slice_t value;
    OK(stor_engine_write_allowed(place.engine, &err));
    OK(put_one(one, "c-1", "k", "v", NULL, NULL));
    OK(vd_fault_arm("reserve.full=error", NULL));
    usleep(150000);
    cr_assert_eq(stor_engine_write_allowed(place.engine, &err), VD_ERR_OUT_OF_DISK_SPACE);
    cr_assert_not_null(strstr(err.message, "reads go on"));
    vd_error_clear(&err);
    cr_assert_eq(stor_engine_free_allowed(place.engine, &err), VD_ERR_OUT_OF_DISK_SPACE);
    cr_assert_not_null(strstr(err.message, "even deletions"));
    OK(stor_txn_begin(one, NULL));
    OK(stor_cursor_search(c1, KEY("k"), &value, NULL));
    stor_txn_rollback(one);
    vd_fault_disarm(NULL);
    usleep(150000);
    OK(stor_engine_write_allowed(place.engine, NULL));
    end();
}

static uint64_t free_now(int fd)
{
    struct statvfs fs;
    cr_assert_eq(fstatvfs(fd, &fs), 0);
    return (uint64_t)fs.f_bavail * fs.f_frsize;
}

/* Lets the file at path grow until percent of the reserve is free and stays so: WiredTiger removes
 * old log files a while after the checkpoint that no longer needs them. Ends with an aged sample.
 */
static void fill_until_free(const char *path, uint64_t percent)
{
    static const char block[4096];
    stor_engine_stats_t stats;
    stor_engine_stats(place.engine, &stats);
    uint64_t target = stats.reserve_bytes / 100 * percent;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    cr_assert(fd >= 0);
    for (int quiet = 0; quiet < 8;) {
        uint64_t before = free_now(fd);
        while (free_now(fd) > target)
            cr_assert_eq(write(fd, block, sizeof block), (ssize_t)sizeof block);
        usleep(150000);
        quiet = free_now(fd) == before ? quiet + 1 : 0;
    }
    (void)close(fd);
}

/* A real small disk: writes until refused, WiredTiger never meets the end, the engine opens again
 * and recovers. */
Test(reserve, full_disk, .timeout = 300)
{
    place_init(&place);
    /* In a namespace of its own: the disk goes with this process, however the test ends. */
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", place.folder, "tmpfs", 0, "size=48m") != 0) {
        (void)fprintf(stderr, "skipped: a tmpfs can't be mounted here (%s)\n", strerror(errno));
        place_done(&place);
        return;
    }
    place.options.reserve_min_bytes = 0;
    place.options.cache_bytes = 16 << 20;
    char value[60000], key[32];
    memset(value, 'v', sizeof value);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    OK(stor_engine_table_create(place.engine, "c-1", false, NULL));
    OK(stor_session_open(place.engine, &one, NULL));
    OK(stor_cursor_open(one, "c-1", &c1, NULL));
    /* Near to the edge: WiredTiger prepares as many log files as were used up within its last look,
     * and what other disks take in seconds is written here in one. */
    char filler[512];
    place_path(&place, "filler", filler);
    fill_until_free(filler, 130);
    int written = 0;
    for (; written < 2000; written++) {
        if (stor_engine_write_allowed(place.engine, &place.err) != VD_OK)
            break;
        (void)snprintf(key, sizeof key, "key-%06d", written);
        OK(stor_txn_begin(one, NULL));
        (void)stor_txn_timestamp(one);
        OK(stor_cursor_put(c1, KEY(key), vd_slice(value, sizeof value), NULL));
        OK(stor_txn_commit(one, NULL));
    }
    cr_assert(written > 20 && written < 2000, "%d", written);
    cr_assert_eq(place.err.code, VD_ERR_OUT_OF_DISK_SPACE);
    /* A checkpoint that runs takes from the reserve until it ends. With none running the free space
     * is set to each side of the edge below which deletions are refused, too. */
    OK(stor_engine_checkpoint(place.engine, NULL));
    fill_until_free(filler, 80);
    cr_assert_eq(stor_engine_write_allowed(place.engine, NULL), VD_ERR_OUT_OF_DISK_SPACE);
    OK(stor_engine_free_allowed(place.engine, NULL)); /* what gives space back may still be done */
    fill_until_free(filler, 56);
    cr_assert_eq(stor_engine_free_allowed(place.engine, NULL), VD_ERR_OUT_OF_DISK_SPACE);
    cr_assert_eq(unlink(filler), 0);
    usleep(150000);
    OK(stor_engine_free_allowed(place.engine, NULL));
    vd_slice_t found;
    OK(stor_txn_begin(one, NULL));
    OK(stor_cursor_search(c1, KEY("key-000000"), &found, NULL));
    stor_txn_rollback(one);
    /* Deleting gives room inside the file, a checkpoint and the log's end give it back to the disk.
     */
    stor_session_close(&one);
    OK(place_close(&place));
    cr_assert_eq(place_open(&place, false), VD_OK, "%s", place.err.message);
    stor_engine_table_retire(place.engine, "c-1");
    OK(stor_engine_table_drop(place.engine, "c-1", NULL));
    OK(stor_engine_checkpoint(place.engine, NULL));
    usleep(150000);
    OK(stor_engine_write_allowed(place.engine, &place.err));
    OK(place_close(&place));
    /* Somebody else fills the disk: open is refused before WiredTiger is called. */
    char path[512];
    place_path(&place, "junk", path);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    while (write(fd, value, sizeof value) == (ssize_t)sizeof value)
        continue;
    (void)close(fd);
    cr_assert_eq(place_open(&place, false), VD_ERR_OUT_OF_DISK_SPACE);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(place_open(&place, false), VD_OK, "%s", place.err.message);
    OK(place_close(&place));
    (void)umount(place.folder);
    place_done(&place);
}
