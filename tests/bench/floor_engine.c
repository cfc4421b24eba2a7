/* tests/bench/floor_engine.c — the floor under everything: the engine alone, in one process,
 * without wire, query or journal.
 *
 * Usage: floor_engine [EMPTY-FOLDER [SECONDS]] (none: a temporary one, removed at the end). Prints
 *        one line per measurement: sealing of 1 KB blocks; durable commits per second with 16 and
 *        64 writers whose replies are parked (two threads commit, a writer goes on when its flush
 *        has released it); unsynced commits; point reads. Encrypted, as always. */
#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "veddb-storaged/engine/session.h"

#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define RECORDS     100000
#define VALUE_BYTES 1024
#define THREADS     2
#define WRITERS_MAX 64

typedef struct writer {
    stor_flush_waiter_t waiter; /* first */
    struct writer *next;
} writer_t;

/* Writers whose reply is out: ready for their next write. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t some;
    writer_t *list;
} ready = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL};

static stor_engine_t *engine;
static atomic_bool stop;
static atomic_uint_fast64_t done;
static bool durable;

static void ready_put(writer_t *first, writer_t *last)
{
    pthread_mutex_lock(&ready.lock);
    last->next = ready.list;
    ready.list = first;
    pthread_cond_broadcast(&ready.some);
    pthread_mutex_unlock(&ready.lock);
}

static void released(stor_flush_waiter_t *list, void *context)
{
    (void)context;
    writer_t *first = NULL, *last = NULL;
    for (uint64_t n = 0; list != NULL; n++) {
        writer_t *writer = (writer_t *)(void *)list;
        list = list->next;
        writer->next = first;
        if (first == NULL)
            last = writer;
        first = writer;
        atomic_fetch_add(&done, 1);
    }
    if (first != NULL)
        ready_put(first, last);
}

static writer_t *ready_take(void)
{
    pthread_mutex_lock(&ready.lock);
    while (ready.list == NULL && !atomic_load(&stop))
        (void)pthread_cond_wait(&ready.some, &ready.lock);
    writer_t *writer = ready.list;
    if (writer != NULL)
        ready.list = writer->next;
    pthread_mutex_unlock(&ready.lock);
    return writer;
}

static void must(int rc, const char *what)
{
    if (rc == VD_OK)
        return;
    (void)fprintf(stderr, "%s: error %d\n", what, rc);
    exit(1);
}

static vd_slice_t key_of(uint64_t n, char buf[32])
{
    return vd_slice(buf, (size_t)snprintf(buf, 32, "user%012" PRIu64, n));
}

/* Returns the timestamp, or 0 on a conflict. */
static uint64_t write_one(stor_session_t *session, stor_cursor_t *cursor, uint64_t n,
                          vd_slice_t value)
{
    char buf[32];
    must(stor_txn_begin(session, NULL), "begin");
    uint64_t timestamp = stor_txn_timestamp(session);
    int rc = stor_cursor_put(cursor, key_of(n, buf), value, NULL);
    if (rc == VD_ERR_WRITE_CONFLICT) {
        stor_txn_rollback(session);
        return 0;
    }
    must(rc, "put");
    must(stor_txn_commit(session, NULL), "commit");
    return timestamp;
}

static void *commit_run(void *arg)
{
    stor_session_t *session = NULL;
    stor_cursor_t *cursor = NULL;
    uint8_t value[VALUE_BYTES];
    vd_rand_t rand;
    vd_rand_seed(&rand, (uint64_t)(uintptr_t)arg);
    for (size_t i = 0; i < sizeof value; i++)
        value[i] = (uint8_t)vd_rand_u64(&rand);
    must(stor_session_open(engine, &session, NULL), "session");
    must(stor_cursor_open(session, "c-1", &cursor, NULL), "cursor");
    while (!atomic_load(&stop)) {
        writer_t *writer = durable ? ready_take() : NULL;
        if (durable && writer == NULL)
            break;
        uint64_t timestamp;
        do
            timestamp = write_one(session, cursor, vd_rand_below(&rand, RECORDS),
                                  vd_slice(value, sizeof value));
        while (timestamp == 0);
        if (!durable)
            atomic_fetch_add(&done, 1);
        else if (stor_engine_flush_wait(engine, timestamp, &writer->waiter))
            released(&writer->waiter, NULL);
    }
    stor_session_close(&session);
    return NULL;
}

static void *read_run(void *arg)
{
    stor_session_t *session = NULL;
    stor_cursor_t *cursor = NULL;
    vd_rand_t rand;
    char buf[32];
    vd_slice_t value;
    uint64_t n = 0;
    vd_rand_seed(&rand, (uint64_t)(uintptr_t)arg);
    must(stor_session_open(engine, &session, NULL), "session");
    must(stor_cursor_open(session, "c-1", &cursor, NULL), "cursor");
    for (; !atomic_load(&stop); n++) {
        must(stor_txn_begin(session, NULL), "begin");
        must(stor_cursor_search(cursor, key_of(vd_rand_below(&rand, RECORDS), buf), &value, NULL),
             "search");
        stor_txn_rollback(session);
    }
    atomic_fetch_add(&done, n);
    stor_session_close(&session);
    return NULL;
}

static uint64_t cpu_us(void)
{
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage); /* can't fail for SELF */
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void measure(const char *name, unsigned seconds, void *(*run)(void *))
{
    pthread_t threads[THREADS];
    atomic_store(&stop, false);
    atomic_store(&done, 0);
    uint64_t start_us = vd_monotonic_us(), start_cpu_us = cpu_us();
    for (uintptr_t i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, run, (void *)(i + 1)), "thread");
    sleep(seconds);
    atomic_store(&stop, true);
    pthread_mutex_lock(&ready.lock);
    pthread_cond_broadcast(&ready.some);
    pthread_mutex_unlock(&ready.lock);
    for (int i = 0; i < THREADS; i++)
        (void)pthread_join(threads[i], NULL);
    double took_s = (double)(vd_monotonic_us() - start_us) / 1e6;
    double n = (double)atomic_load(&done);
    (void)printf("%-28s %10.0f /s   %6.2f CPU us each\n", name, n / took_s,
                 (double)(cpu_us() - start_cpu_us) / n);
    (void)fflush(stdout);
}

static void measure_durable(const char *name, unsigned seconds, unsigned writers_count)
{
    static writer_t writers[2][WRITERS_MAX];
    static int use;
    writer_t *mine = writers[use++];
    stor_engine_stats_t before, after;
    durable = true;
    ready.list = NULL;
    for (unsigned i = 0; i < writers_count; i++) {
        mine[i].next = ready.list;
        ready.list = &mine[i];
    }
    stor_engine_stats(engine, &before);
    measure(name, seconds, commit_run);
    usleep(300000); /* the last ones come back */
    stor_engine_stats(engine, &after);
    uint64_t flushes = after.flushes - before.flushes;
    (void)printf("%-28s %10.1f commits per flush, %" PRIu64 " us per flush\n", "",
                 (double)(after.flushed_commits - before.flushed_commits) / (double)flushes,
                 (after.flush_us_sum - before.flush_us_sum) / flushes);
}

static void measure_seal(stor_keys_t *keys)
{
    static uint8_t plain[VALUE_BYTES], block[VALUE_BYTES + STOR_BLOCK_OVERHEAD_BYTES];
    size_t len = 0;
    const int count = 500000;
    for (int opening = 0; opening < 2; opening++) {
        uint64_t start_us = vd_monotonic_us();
        for (int i = 0; i < count; i++)
            must(opening ? stor_keys_open(keys, vd_slice(block, sizeof block), plain, &len, NULL)
                         : stor_keys_seal(keys, vd_slice(plain, sizeof plain), block, &len, NULL),
                 "block");
        (void)printf("%-28s %10.0f ns\n", opening ? "open a block of 1 KB" : "seal a block of 1 KB",
                     (double)(vd_monotonic_us() - start_us) * 1000 / count);
    }
}

static void fill(void)
{
    stor_session_t *session = NULL;
    stor_cursor_t *cursor = NULL;
    uint8_t value[VALUE_BYTES];
    memset(value, 'v', sizeof value);
    must(stor_session_open(engine, &session, NULL), "session");
    must(stor_cursor_open(session, "c-1", &cursor, NULL), "cursor");
    for (uint64_t n = 0; n < RECORDS; n++)
        (void)write_one(session, cursor, n, vd_slice(value, sizeof value));
    stor_session_close(&session);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

int main(int argc, char **argv)
{
    uint8_t id[STOR_KEY_ID_BYTES] = {1}, key[STOR_KEY_BYTES];
    unsigned seconds = argc > 2 ? (unsigned)atoi(argv[2]) : 3;
    char own[] = "/tmp/veddb-floor-XXXXXX";
    const char *folder = argc > 1 ? argv[1] : mkdtemp(own);
    if (folder == NULL) {
        perror(own);
        return 2;
    }
    vd_rand_secret(key, sizeof key);
    stor_keys_t *keys = stor_keys_create();
    must(stor_keys_put(keys, id, key, STOR_KEY_ACTIVE, NULL), "key");
    measure_seal(keys);
    stor_engine_options_t options = {.folder = folder,
                                     .cache_bytes = 1ULL << 30,
                                     .eviction_threads_max = 2,
                                     .sessions_max = 16,
                                     .bootstrap = true,
                                     .keys = keys,
                                     .released = released};
    vd_error_t err = VD_ERROR_INIT;
    if (stor_engine_open(&options, &engine, &err) != VD_OK) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    must(stor_engine_table_create(engine, "c-1", false, NULL), "table");
    fill();
    measure("point reads, 2 threads", seconds, read_run);
    durable = false;
    measure("unsynced commits, 2 threads", seconds, commit_run);
    measure_durable("durable commits, 16 writers", seconds, 16);
    measure_durable("durable commits, 64 writers", seconds, 64);
    must(stor_engine_close(&engine, NULL), "close");
    stor_keys_destroy(&keys);
    if (argc <= 1)
        (void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS); /* what stays is small */
    return 0;
}
