/* tests/unit/storaged/test_catalog.c — the catalog: what changes leave behind, the fence under
 * concurrent users, what is there after a close, a crash and a SIGKILL in the middle; orphaned
 * tables; counters that are exact after all of these. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/envelope.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

static vd_slice_t text(const char *s)
{
    return vd_slice_str(s);
}

/* ---- what is there ---- */

typedef struct {
    int64_t documents, bytes;
    uint64_t hash;
} sums_t;

/* What a walk over the table finds. */
static sums_t sums_of(reads_t *reads, uint64_t id)
{
    sums_t sums = {0};
    char table[32];
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    vd_error_t err = VD_ERROR_INIT;
    snprintf(table, sizeof table, "c-%llu", (unsigned long long)id);
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_cursor_open(reads->session, table, &cursor, &err), &err);
    int rc = stor_cursor_seek(cursor, vd_slice("", 1), true, &key, &value, &err);
    for (; rc == VD_OK; rc = stor_cursor_next(cursor, true, &key, &value, &err)) {
        vd_bson_t document;
        uint64_t version;
        reads_ok(stor_envelope_read(value, &document, &version, &err), &err);
        sums.documents++;
        sums.bytes += document.len;
        sums.hash += stor_record_hash(version, document);
    }
    cr_assert_eq(rc, VD_ERR_NOT_FOUND, "%s", err.message);
    stor_txn_rollback(reads->session);
    return sums;
}

static uint32_t list(reads_t *reads, stor_collection_info_t **ret_infos)
{
    uint32_t count;
    cr_assert_eq(stor_catalog_list(reads->storage.catalog, reads->texts, VD_SLICE_NULL, false,
                                   ret_infos, &count, NULL),
                 VD_OK);
    return count;
}

typedef struct {
    const stor_collection_info_t *infos;
    uint32_t count, found, others;
} tables_t;

static int table_visit(const char *name, void *context)
{
    tables_t *tables = context;
    if (strncmp(name, "c-", 2) != 0)
        return VD_OK;
    bool known = false;
    for (uint32_t i = 0; i < tables->count; i++)
        known |= tables->infos[i].id == strtoull(name + 2, NULL, 10);
    tables->found += known;
    tables->others += !known;
    return VD_OK;
}

/* Every collection has its table and its counters are those of a walk; dropped: tables that wait
 * for their end. */
static void check_whole(reads_t *reads, uint32_t dropped)
{
    stor_collection_info_t *infos;
    vd_error_t err = VD_ERROR_INIT;
    uint32_t count = list(reads, &infos);
    tables_t tables = {infos, count, 0, 0};
    reads_ok(stor_engine_tables(reads->storage.engine, table_visit, &tables, &err), &err);
    cr_assert_eq(tables.found, count);
    cr_assert_eq(tables.others, dropped, "%u tables of no collection", tables.others);
    for (uint32_t i = 0; i < count; i++) {
        sums_t sums = sums_of(reads, infos[i].id);
        cr_assert_eq(infos[i].documents, sums.documents, "%.*s: %lld, not %lld",
                     VD_SLICE_FMT(infos[i].name), (long long)infos[i].documents,
                     (long long)sums.documents);
        cr_assert_eq(infos[i].bytes, sums.bytes);
        cr_assert_eq(infos[i].hash, sums.hash);
    }
}

static void remove_dropped(reads_t *reads)
{
    /* Sessions put back their cursors on retired tables when they begin the next time. */
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    stor_txn_rollback(reads->session);
    stor_catalog_remove_dropped(reads->storage.catalog, reads->session);
}

static void reopen(reads_t *reads)
{
    reads_stop(reads);
    reads_start(reads, false);
}

static const stor_collection_info_t *info_of(reads_t *reads, const char *db, const char *name)
{
    stor_collection_info_t *infos;
    uint32_t count = list(reads, &infos);
    for (uint32_t i = 0; i < count; i++)
        if (vd_slice_is(infos[i].db, db) && vd_slice_is(infos[i].name, name))
            return &infos[i];
    return NULL;
}

/* ---- changes ---- */

static int create(reads_t *reads, const char *db, const char *name, const char *options,
                  const uint8_t *uuid)
{
    stor_create_options_t create_options = {
        options == NULL ? VD_BSON_NONE : query_json(reads->texts, options), uuid};
    reads_begin(reads, db);
    return stor_catalog_create(&reads->request, text(db), text(name), &create_options, NULL);
}

static int drop(reads_t *reads, const char *db, const char *name)
{
    reads_begin(reads, db);
    return stor_catalog_drop(&reads->request, text(db), text(name), NULL);
}

static int rename_to(reads_t *reads, const char *db, const char *name, const char *to_db,
                     const char *to_name, bool drop_target)
{
    reads_begin(reads, db);
    return stor_catalog_rename(&reads->request, text(db), text(name), text(to_db), text(to_name),
                               drop_target, NULL);
}

typedef struct {
    vd_bson_t options;
    int rc;
} change_t;

static int change(void *context, vd_bson_t old, vd_bson_t *ret_options, vd_error_t *err)
{
    const change_t *c = context;
    (void)old;
    *ret_options = c->options;
    return c->rc == VD_OK ? VD_OK : vd_error_set(err, c->rc, "refused");
}

static int modify(reads_t *reads, const char *db, const char *name, const char *options)
{
    change_t c = {query_json(reads->texts, options), VD_OK};
    reads_begin(reads, db);
    return stor_catalog_modify(&reads->request, text(db), text(name), change, &c, NULL);
}

static void insert(reads_t *reads, const char *db, const char *name, const char *documents)
{
    reads_insert(reads, db, name, query_json(reads->texts, documents));
}

Test(catalog, create)
{
    static const uint8_t uuid[16] = {1, 2, 3};
    reads_t *reads = reads_open();
    cr_assert_eq(create(reads, "a", "x", NULL, NULL), VD_OK);
    cr_assert_eq(create(reads, "a", "x", NULL, NULL), VD_ERR_NAMESPACE_EXISTS);
    cr_assert_eq(create(reads, "A", "y", NULL, NULL), VD_ERR_LOCATION(13297));
    cr_assert_eq(create(reads, "a", "y", "{'validator': {'$bad': 1}}", NULL), VD_ERR_BAD_VALUE);
    cr_assert_eq(create(reads, "a", "system.y", NULL, NULL), VD_ERR_INVALID_NAMESPACE);
    cr_assert_eq(create(reads, "a", "z", "{'validationLevel': 'off'}", uuid), VD_OK);
    const stor_collection_info_t *x = info_of(reads, "a", "x"), *z = info_of(reads, "a", "z");
    cr_assert_eq(x->uuid[6] >> 4, 4);
    cr_assert_eq(memcmp(z->uuid, uuid, 16), 0);
    cr_assert_gt(z->id, x->id);
    cr_assert_eq(info_of(reads, "a", "y"), NULL);
    for (int i = 0; i < 2; i++, reopen(reads)) {
        check_whole(reads, 0);
        z = info_of(reads, "a", "z");
        cr_assert_eq(memcmp(z->uuid, uuid, 16), 0);
        cr_assert(vd_value_equal(vd_value_from_document(z->options),
                                 query_value(reads->texts, "{'validationLevel': 'off'}")));
    }
    reads_close(reads);
}

Test(catalog, ids_are_never_used_twice)
{
    reads_t *reads = reads_open();
    uint64_t last = 0;
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(create(reads, "a", "x", NULL, NULL), VD_OK);
        uint64_t id = info_of(reads, "a", "x")->id;
        cr_assert_gt(id, last);
        last = id;
        insert(reads, "a", "x", "{'0': {'_id': 1}}");
        cr_assert_eq(drop(reads, "a", "x"), VD_OK);
        if (i % 2 == 0)
            reopen(reads);
        else
            reads_crash(reads);
    }
    check_whole(reads, 0);
    reads_close(reads);
}

Test(catalog, drop)
{
    reads_t *reads = reads_open();
    uint32_t dropped;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(drop(reads, "a", "x"), VD_ERR_NAMESPACE_NOT_FOUND);
    insert(reads, "a", "x", "{'0': {'_id': 1}}");
    insert(reads, "a", "y", "{'0': {'_id': 1}}");
    insert(reads, "ab", "x", "{'0': {'_id': 1}}");
    cr_assert_eq(drop(reads, "a", "x"), VD_OK);
    cr_assert_eq(drop(reads, "a", "x"), VD_ERR_NAMESPACE_NOT_FOUND);
    check_whole(reads, 1);
    remove_dropped(reads);
    check_whole(reads, 0);
    insert(reads, "a", "x", "{'0': {'_id': 2}}");
    cr_assert_eq(info_of(reads, "a", "x")->documents, 1);
    reads_begin(reads, "a");
    reads_ok(stor_catalog_drop_database(&reads->request, text("a"), &dropped, &err), &err);
    cr_assert_eq(dropped, 2);
    reads_ok(stor_catalog_drop_database(&reads->request, text("a"), &dropped, &err), &err);
    cr_assert_eq(dropped, 0);
    cr_assert_not_null(info_of(reads, "ab", "x"));
    check_whole(reads, 2);
    reopen(reads); /* the sweep at open does it too */
    check_whole(reads, 0);
    cr_assert_not_null(info_of(reads, "ab", "x"));
    cr_assert_eq(info_of(reads, "a", "y"), NULL);
    reads_close(reads);
}

Test(catalog, rename)
{
    reads_t *reads = reads_open();
    insert(reads, "a", "x", "{'0': {'_id': 1}, '1': {'_id': 2}}");
    insert(reads, "b", "y", "{'0': {'_id': 'gone'}}");
    cr_assert_eq(modify(reads, "a", "x", "{'validationLevel': 'off'}"), VD_OK);
    stor_collection_info_t before = *info_of(reads, "a", "x");
    cr_assert_eq(rename_to(reads, "a", "none", "b", "z", false), VD_ERR_NAMESPACE_NOT_FOUND);
    cr_assert_eq(rename_to(reads, "a", "x", "a", "x", true), VD_ERR_ILLEGAL_OPERATION);
    cr_assert_eq(rename_to(reads, "a", "x", "b", "y", false), VD_ERR_NAMESPACE_EXISTS);
    cr_assert_eq(rename_to(reads, "a", "x", "B", "y", false), VD_ERR_LOCATION(13297));
    cr_assert_eq(rename_to(reads, "a", "x", "b", "y", true), VD_OK);
    cr_assert_eq(info_of(reads, "a", "x"), NULL);
    for (int i = 0; i < 3; i++) {
        const stor_collection_info_t *after = info_of(reads, "b", "y");
        cr_assert_eq(after->id, before.id);
        cr_assert_eq(memcmp(after->uuid, before.uuid, 16), 0);
        cr_assert_eq(after->documents, 2);
        cr_assert_eq(after->hash, before.hash);
        cr_assert(vd_value_equal(vd_value_from_document(after->options),
                                 vd_value_from_document(before.options)));
        check_whole(reads, i == 0);
        if (i == 0)
            reopen(reads);
        else if (i == 1)
            reads_crash(reads);
    }
    insert(reads, "b", "y", "{'0': {'_id': 3}}");
    cr_assert_eq(info_of(reads, "b", "y")->documents, 3);
    check_whole(reads, 0);
    reads_close(reads);
}

Test(catalog, modify)
{
    reads_t *reads = reads_open();
    stor_collection_t *collection;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(modify(reads, "a", "x", "{}"), VD_ERR_NAMESPACE_NOT_FOUND);
    insert(reads, "a", "x", "{'0': {'_id': 1}}");
    uint64_t id = info_of(reads, "a", "x")->id;
    cr_assert_eq(modify(reads, "a", "x",
                        "{'validator': {'n': 1}, 'validationLevel': 'moderate', "
                        "'validationAction': 'warn'}"),
                 VD_OK);
    for (int i = 0; i < 2; i++, reads_crash(reads)) {
        reads_begin(reads, "a");
        reads_ok(stor_catalog_acquire_id(&reads->request, id, &collection, &err), &err);
        cr_assert_not_null(collection->validator);
        cr_assert_eq(collection->validation_level, STOR_VALIDATION_MODERATE);
        cr_assert_eq(collection->validation_action, STOR_VALIDATION_WARN);
        cr_assert_eq(atomic_load(&collection->documents), 1);
        stor_catalog_release_all(&reads->request);
    }
    /* A refusal, also one of the parser, leaves what was there; and the fence is open. */
    change_t refused = {VD_BSON_NONE, VD_ERR_BAD_VALUE};
    reads_begin(reads, "a");
    cr_assert_eq(stor_catalog_modify(&reads->request, text("a"), text("x"), change, &refused, NULL),
                 VD_ERR_BAD_VALUE);
    cr_assert_eq(modify(reads, "a", "x", "{'validator': {'n': {'$bad': 1}}}"), VD_ERR_BAD_VALUE);
    reads_begin(reads, "a");
    reads_ok(stor_catalog_acquire(&reads->request, text("a"), text("x"), &collection, &err), &err);
    cr_assert_eq(collection->validation_level, STOR_VALIDATION_MODERATE);
    stor_catalog_release_all(&reads->request);
    check_whole(reads, 0);
    reads_close(reads);
}

Test(catalog, acquire)
{
    reads_t *reads = reads_open();
    stor_request_t *request = &reads->request;
    stor_collection_t *one, *many[3];
    char longest[400];
    vd_error_t err = VD_ERROR_INIT;
    insert(reads, "a", "x", "{'0': {'_id': 1}}");
    insert(reads, "a", "y", "{'0': {'_id': 1}}");
    uint64_t id = info_of(reads, "a", "x")->id;
    reads_begin(reads, "a");
    reads_ok(stor_catalog_acquire(request, text("a"), text("x"), &one, &err), &err);
    cr_assert_str_eq(one->ns, "a.x");
    const vd_slice_t names[] = {text("a.y"), text("a.none"), text("a.x")};
    reads_ok(stor_catalog_acquire_many(request, names, 3, many, &err), &err);
    cr_assert_str_eq(many[0]->ns, "a.y");
    cr_assert_eq(many[1], NULL);
    cr_assert_eq(many[2], one);
    cr_assert_eq(request->held_count, 3);
    cr_assert_eq(atomic_load(&one->users), 2);
    stor_catalog_release(request, one);
    cr_assert_eq(atomic_load(&one->users), 1);
    stor_catalog_release_all(request);
    cr_assert_eq(atomic_load(&one->users), 0);
    /* What is not there: the answer depends on the newest commit. */
    reads_begin(reads, "a");
    cr_assert_eq(stor_catalog_acquire(request, text("a"), text("none"), &one, NULL),
                 VD_ERR_NAMESPACE_NOT_FOUND);
    cr_assert_eq(request->depends_on, stor_engine_newest(reads->storage.engine));
    cr_assert_eq(stor_catalog_acquire_id(request, id + 100, &one, NULL),
                 VD_ERR_NAMESPACE_NOT_FOUND);
    memset(longest, 'n', sizeof longest);
    cr_assert_eq(
        stor_catalog_acquire(request, text("a"), vd_slice(longest, sizeof longest), &one, NULL),
        VD_ERR_NAMESPACE_NOT_FOUND);
    cr_assert_eq(stor_catalog_acquire_or_create(request, text("a"), text("system.no"), &one, NULL),
                 VD_ERR_INVALID_NAMESPACE);
    cr_assert_eq(request->held_count, 0);
    reads_close(reads);
}

/* ---- the fence ---- */

/* A thread's own means. */
typedef struct {
    reads_t *reads;
    stor_session_t *session;
    vd_arena_t *arena;
    stor_request_t request;
} worker_t;

static void worker_begin(worker_t *worker)
{
    vd_arena_reset(worker->arena);
    stor_request_init(&worker->request, &worker->reads->storage, worker->arena);
    worker->request.session = worker->session;
    worker->request.command.user = VD_SLICE_LIT("ann@admin");
}

static void worker_init(worker_t *worker, reads_t *reads)
{
    worker->reads = reads;
    worker->arena = vd_arena_create();
    cr_assert_eq(stor_session_open(reads->storage.engine, &worker->session, NULL), VD_OK);
    worker_begin(worker);
}

static void worker_done(worker_t *worker)
{
    stor_session_close(&worker->session);
    vd_arena_destroy(&worker->arena);
}

typedef struct {
    worker_t worker;
    enum { DROP, RENAME, MODIFY, ACQUIRE, ACQUIRE_MANY } what;
    atomic_int rc; /* 1 = not yet */
    pthread_t thread;
} task_t;

static void *task_run(void *context)
{
    task_t *task = context;
    stor_request_t *request = &task->worker.request;
    stor_collection_t *collection;
    vd_slice_t ns = VD_SLICE_LIT("a.x");
    change_t off = {VD_BSON_NONE, VD_OK};
    int rc;
    switch (task->what) {
    case DROP:
        rc = stor_catalog_drop(request, text("a"), text("x"), NULL);
        break;
    case RENAME:
        rc = stor_catalog_rename(request, text("a"), text("x"), text("a"), text("z"), false, NULL);
        break;
    case MODIFY:
        rc = stor_catalog_modify(request, text("a"), text("x"), change, &off, NULL);
        break;
    case ACQUIRE:
        rc = stor_catalog_acquire(request, text("a"), text("x"), &collection, NULL);
        break;
    default:
        rc = stor_catalog_acquire_many(request, &ns, 1, &collection, NULL);
        if (rc == VD_OK && collection == NULL)
            rc = VD_ERR_NAMESPACE_NOT_FOUND;
    }
    stor_catalog_release_all(request);
    atomic_store(&task->rc, rc);
    return NULL;
}

static void task_start(task_t *task, reads_t *reads, int what)
{
    worker_init(&task->worker, reads);
    task->what = what;
    atomic_store(&task->rc, 1);
    cr_assert_eq(pthread_create(&task->thread, NULL, task_run, task), 0);
}

static int task_end(task_t *task)
{
    cr_assert_eq(pthread_join(task->thread, NULL), 0);
    worker_done(&task->worker);
    return atomic_load(&task->rc);
}

/* A change waits for who is inside; who comes meanwhile waits for the change. */
Test(catalog, the_fence_keeps_both_apart, .timeout = 300)
{
    static const struct {
        int what, later; /* what who came meanwhile gets */
    } cases[] = {
        {DROP, VD_ERR_NAMESPACE_NOT_FOUND}, {RENAME, VD_ERR_NAMESPACE_NOT_FOUND}, {MODIFY, VD_OK}};
    reads_t *reads = reads_open();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        task_t changer = {0}, one = {0}, many = {0};
        worker_t inside;
        stor_collection_t *collection;
        (void)create(reads, "a", "x", NULL, NULL);
        worker_init(&inside, reads);
        cr_assert_eq(stor_catalog_acquire(&inside.request, text("a"), text("x"), &collection, NULL),
                     VD_OK);
        task_start(&changer, reads, cases[i].what);
        while (atomic_load(&collection->state) == 0)
            usleep(1000);
        task_start(&one, reads, ACQUIRE);
        task_start(&many, reads, ACQUIRE_MANY);
        usleep(60000);
        cr_assert_eq(atomic_load(&changer.rc), 1);
        cr_assert_eq(atomic_load(&one.rc), 1);
        cr_assert_eq(atomic_load(&many.rc), 1);
        cr_assert_not_null(info_of(reads, "a", "x"), "nothing has happened yet");
        stor_catalog_release_all(&inside.request);
        cr_assert_eq(task_end(&changer), VD_OK);
        cr_assert_eq(task_end(&one), cases[i].later);
        cr_assert_eq(task_end(&many), cases[i].later);
        worker_done(&inside);
    }
    reads_close(reads);
}

/* A change that gives up leaves everything as it was. */
Test(catalog, who_waits_at_the_fence_can_be_stopped, .timeout = 300)
{
    reads_t *reads = reads_open();
    stor_collection_t *collection;
    worker_t inside;
    insert(reads, "a", "x", "{'0': {'_id': 1}}");
    worker_init(&inside, reads);
    cr_assert_eq(stor_catalog_acquire(&inside.request, text("a"), text("x"), &collection, NULL),
                 VD_OK);
    for (int what = DROP; what <= MODIFY; what++) {
        task_t changer = {0};
        task_start(&changer, reads, what);
        while (atomic_load(&collection->state) == 0)
            usleep(1000);
        atomic_store(&changer.worker.request.killed, VD_ERR_INTERRUPTED);
        cr_assert_eq(task_end(&changer), VD_ERR_INTERRUPTED);
        cr_assert_eq(atomic_load(&collection->state), 0, "open again");
        /* maxTimeMS, to the moment: a busy machine is late now and then, not each time */
        uint64_t took_ms = UINT64_MAX;
        for (int tries = 0; took_ms >= 700 && tries < 20; tries++) {
            task_t late = {0};
            worker_init(&late.worker, reads);
            late.what = what;
            late.worker.request.deadline_us = vd_monotonic_us() + 100000;
            late.worker.request.deadline_is_max_time = true;
            uint64_t start = vd_monotonic_ms();
            cr_assert_eq(pthread_create(&late.thread, NULL, task_run, &late), 0);
            cr_assert_eq(task_end(&late), VD_ERR_MAX_TIME_MS_EXPIRED);
            took_ms = vd_monotonic_ms() - start;
        }
        cr_assert_lt(took_ms, 700);
    }
    task_t other = {0};
    task_start(&other, reads, ACQUIRE);
    cr_assert_eq(task_end(&other), VD_OK);
    stor_catalog_release_all(&inside.request);
    worker_done(&inside);
    check_whole(reads, 0);
    cr_assert_eq(drop(reads, "a", "x"), VD_OK);
    reads_close(reads);
}

/* The keeper's fold may hold a collection's counters: a change waits for it. */
Test(catalog, a_change_waits_for_a_conflicting_transaction, .timeout = 300)
{
    reads_t *reads = reads_open();
    stor_counters_row_t row = {0};
    vd_error_t err = VD_ERROR_INIT;
    bool more;
    insert(reads, "a", "x", "{'0': {'_id': 1}}");
    reads_ok(stor_counters_fold(&reads->storage, reads->session, 100, &more, &err), &err);
    for (int killed = 1; killed >= 0; killed--) {
        task_t changer = {0};
        reads_ok(stor_txn_begin(reads->session, &err), &err);
        reads_ok(stor_rows_counters_put(reads->session, info_of(reads, "a", "x")->id, &row, &err),
                 &err);
        task_start(&changer, reads, DROP);
        usleep(100000);
        cr_assert_eq(atomic_load(&changer.rc), 1, "%d", atomic_load(&changer.rc));
        if (killed)
            atomic_store(&changer.worker.request.killed, VD_ERR_INTERRUPTED);
        else
            stor_txn_rollback(reads->session);
        cr_assert_eq(task_end(&changer), killed ? VD_ERR_INTERRUPTED : VD_OK);
        if (killed)
            stor_txn_rollback(reads->session);
        check_whole(reads, !killed);
    }
    cr_assert_eq(info_of(reads, "a", "x"), NULL);
    reads_close(reads);
}

/* ---- many at once ---- */

#define NAMES 4

typedef struct {
    worker_t worker;
    vd_rand_t rand;
    atomic_bool *stop;
    uint64_t number, done, missed;
    vd_bson_t options; /* that a changer gives */
    pthread_t thread;
    int bad_line, bad_rc;
} hammer_t;

/* Assertions are for the main thread: the others keep the first that fails. */
static void check(hammer_t *hammer, bool good, int rc, int line)
{
    if (good || hammer->bad_line != 0)
        return;
    hammer->bad_line = line;
    hammer->bad_rc = rc;
}
#define CHECK(hammer, good) check((hammer), (good), 0, __LINE__)
#define CHECK_RC(hammer, call)                                                                     \
    do {                                                                                           \
        int check_rc = (call);                                                                     \
        check((hammer), check_rc == VD_OK, check_rc, __LINE__);                                    \
    } while (0)

static void hammer_end(hammer_t *hammer, size_t number)
{
    cr_assert_eq(pthread_join(hammer->thread, NULL), 0);
    worker_done(&hammer->worker);
    cr_assert_eq(hammer->bad_line, 0, "thread %zu failed in line %d with %d", number,
                 hammer->bad_line, -hammer->bad_rc);
    cr_assert_gt(hammer->done, 0, "thread %zu did nothing", number);
}

static vd_slice_t name_of(uint64_t i)
{
    static const char *const names[NAMES] = {"n0", "n1", "n2", "n3"};
    return text(names[i % NAMES]);
}

static void hammer_write(hammer_t *hammer, stor_collection_t *collection)
{
    stor_request_t *request = &hammer->worker.request;
    vd_arena_t *arena = hammer->worker.arena;
    stor_write_t write;
    vd_bb_t bb;
    vd_bson_t document;
    vd_slice_t key;
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_int64(&bb, "_id", (int64_t)(hammer->number << 40 | hammer->done++));
    CHECK_RC(hammer, vd_bb_finish(&bb, &document, NULL));
    CHECK_RC(hammer, stor_id_key(arena, vd_bson_get(document, "_id"), &key, NULL));
    stor_write_init(&write, request, collection);
    CHECK_RC(hammer, stor_write_begin(&write, NULL));
    CHECK_RC(hammer, stor_write_insert(&write, key, document, -1, NULL));
    CHECK_RC(hammer, stor_write_commit(&write, NULL));
    stor_write_done(&write);
}

static void hammer_use(hammer_t *hammer, vd_slice_t name, bool make)
{
    stor_request_t *request = &hammer->worker.request;
    stor_collection_t *collection;
    int rc = make ? stor_catalog_acquire_or_create(request, text("h"), name, &collection, NULL)
                  : stor_catalog_acquire(request, text("h"), name, &collection, NULL);
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND && !make)
        return;
    CHECK_RC(hammer, rc);
    if (rc != VD_OK)
        return;
    CHECK(hammer, vd_slice_equal(collection->name, name));
    CHECK_RC(hammer, vd_bson_validate(vd_slice(collection->options.data, collection->options.len),
                                      0, 100, NULL));
    hammer_write(hammer, collection);
    stor_catalog_release_all(request);
}

static void hammer_list(hammer_t *hammer)
{
    stor_collection_info_t *infos;
    uint32_t count;
    CHECK_RC(hammer, stor_catalog_list(hammer->worker.reads->storage.catalog, hammer->worker.arena,
                                       text("h"), false, &infos, &count, NULL));
    for (uint32_t i = 0; i < count; i++)
        CHECK_RC(hammer, vd_bson_validate(vd_slice(infos[i].options.data, infos[i].options.len), 0,
                                          100, NULL));
}

static void hammer_many(hammer_t *hammer)
{
    stor_collection_t *collections[2];
    vd_slice_t ns[2] = {VD_SLICE_LIT("h.n1"), VD_SLICE_LIT("h.n2")};
    CHECK_RC(hammer, stor_catalog_acquire_many(&hammer->worker.request, ns, 2, collections, NULL));
    for (int i = 0; i < 2; i++)
        CHECK(hammer, collections[i] == NULL || vd_slice_is(ns[i], collections[i]->ns));
    stor_catalog_release_all(&hammer->worker.request);
}

static void *user_run(void *context)
{
    hammer_t *hammer = context;
    while (!atomic_load(hammer->stop)) {
        uint64_t dice = vd_rand_below(&hammer->rand, 10);
        worker_begin(&hammer->worker);
        if (dice < 2)
            hammer_list(hammer);
        else if (dice < 4)
            hammer_many(hammer);
        else
            hammer_use(hammer, name_of(vd_rand_u64(&hammer->rand)), dice > 7);
    }
    return NULL;
}

static void *changer_run(void *context)
{
    hammer_t *hammer = context;
    stor_request_t *request = &hammer->worker.request;
    stor_create_options_t none = {VD_BSON_NONE, NULL};
    change_t off = {hammer->options, VD_OK}, on = {VD_BSON_NONE, VD_OK};
    while (!atomic_load(hammer->stop)) {
        vd_slice_t name = name_of(vd_rand_u64(&hammer->rand));
        vd_slice_t to = name_of(vd_rand_u64(&hammer->rand));
        int rc;
        worker_begin(&hammer->worker);
        switch (vd_rand_below(&hammer->rand, 6)) {
        case 0:
            rc = stor_catalog_drop(request, text("h"), name, NULL);
            break;
        case 1:
            rc = stor_catalog_create(request, text("h"), name, &none, NULL);
            break;
        case 2:
        case 3:
            rc = stor_catalog_rename(request, text("h"), name, text("h"), to, true, NULL);
            break;
        default:
            rc = stor_catalog_modify(request, text("h"), name, change,
                                     vd_rand_below(&hammer->rand, 2) ? &off : &on, NULL);
        }
        hammer->done += rc == VD_OK;
        if (rc != VD_ERR_NAMESPACE_NOT_FOUND && rc != VD_ERR_NAMESPACE_EXISTS &&
            rc != VD_ERR_ILLEGAL_OPERATION)
            CHECK_RC(hammer, rc);
        stor_catalog_remove_dropped(hammer->worker.reads->storage.catalog, hammer->worker.session);
    }
    return NULL;
}

/* Puts a new collection into the place of the old one, again and again. */
static void *replacer_run(void *context)
{
    hammer_t *hammer = context;
    stor_request_t *request = &hammer->worker.request;
    stor_create_options_t none = {VD_BSON_NONE, NULL};
    while (!atomic_load(hammer->stop)) {
        worker_begin(&hammer->worker);
        CHECK_RC(hammer, stor_catalog_create(request, text("r"), text("next"), &none, NULL));
        CHECK_RC(hammer, stor_catalog_rename(request, text("r"), text("next"), text("r"),
                                             text("live"), true, NULL));
        hammer->done++;
        usleep(500); /* leaves others a turn */
    }
    return NULL;
}

/* Who looks never finds the place empty. */
static void *looker_run(void *context)
{
    hammer_t *hammer = context;
    stor_request_t *request = &hammer->worker.request;
    stor_collection_t *collection;
    while (!atomic_load(hammer->stop)) {
        worker_begin(&hammer->worker);
        int rc = stor_catalog_acquire(request, text("r"), text("live"), &collection, NULL);
        hammer->missed += rc != VD_OK;
        hammer->done++;
        stor_catalog_release_all(request);
    }
    return NULL;
}

Test(catalog, many_users_while_everything_changes, .timeout = 300)
{
    static void *(*const runs[])(void *) = {user_run,     user_run,    user_run,
                                            user_run,     changer_run, changer_run,
                                            replacer_run, looker_run,  looker_run};
    reads_t *reads = reads_open();
    hammer_t hammers[VD_COUNT_OF(runs)] = {0};
    atomic_bool stop = false;
    cr_assert_eq(create(reads, "r", "live", NULL, NULL), VD_OK);
    for (size_t i = 0; i < VD_COUNT_OF(runs); i++) {
        worker_init(&hammers[i].worker, reads);
        vd_rand_seed(&hammers[i].rand, 1000 + i);
        hammers[i].stop = &stop;
        hammers[i].number = i + 1;
        hammers[i].options =
            query_json(reads->texts, "{'validator': {'_id': {'$gt': 1}}, 'validationLevel': "
                                     "'off'}");
        cr_assert_eq(pthread_create(&hammers[i].thread, NULL, runs[i], &hammers[i]), 0);
    }
    for (int i = 0; i < 60; i++) {
        bool more;
        vd_error_t err = VD_ERROR_INIT;
        usleep(50000);
        int rc = stor_counters_fold(&reads->storage, reads->session, 1000, &more, &err);
        cr_assert(rc == VD_OK || rc == VD_ERR_WRITE_CONFLICT, "%d: %s", -rc, err.message);
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < VD_COUNT_OF(runs); i++) {
        hammer_end(&hammers[i], i);
        cr_assert_eq(hammers[i].missed, 0, "the place was empty %llu times",
                     (unsigned long long)hammers[i].missed);
    }
    remove_dropped(reads);
    check_whole(reads, 0);
    reopen(reads);
    check_whole(reads, 0);
    reads_close(reads);
}

/* Options of 100 KB, so that a list is long at them. */
static vd_bson_t large_options(vd_arena_t *arena, uint8_t byte)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t options;
    char *filler = vd_arena_alloc(arena, 100000);
    memset(filler, byte, 100000);
    vd_bb_init_arena(bb, arena, 1 << 20);
    vd_bb_begin_document(bb, "validator");
    vd_bb_string(bb, "_id", vd_slice(filler, 100000));
    vd_bb_close(bb);
    cr_assert_eq(vd_bb_finish(bb, &options, NULL), VD_OK);
    return options;
}

static void *modifier_run(void *context)
{
    hammer_t *hammer = context;
    while (!atomic_load(hammer->stop)) {
        worker_begin(&hammer->worker);
        change_t c = {large_options(hammer->worker.arena, (uint8_t)('a' + hammer->done % 26)),
                      VD_OK};
        CHECK_RC(hammer, stor_catalog_modify(&hammer->worker.request, text("h"), text("n0"), change,
                                             &c, NULL));
        hammer->done++;
    }
    return NULL;
}

/* Sees the options whole, of one change. */
static void *lister_run(void *context)
{
    hammer_t *hammer = context;
    while (!atomic_load(hammer->stop)) {
        stor_collection_info_t *infos;
        uint32_t count;
        worker_begin(&hammer->worker);
        CHECK_RC(hammer,
                 stor_catalog_list(hammer->worker.reads->storage.catalog, hammer->worker.arena,
                                   text("h"), false, &infos, &count, NULL));
        CHECK(hammer, count == 1);
        vd_value_t value = vd_bson_get_path(infos[0].options, text("validator._id"));
        vd_slice_t filler = vd_value_string(value);
        CHECK(hammer, filler.len == 100000);
        for (size_t i = 0; i < filler.len; i++)
            CHECK(hammer, filler.data[i] == filler.data[0]);
        hammer->done++;
    }
    return NULL;
}

Test(catalog, lists_while_options_change, .timeout = 300)
{
    static void *(*const runs[])(void *) = {modifier_run, lister_run, lister_run};
    reads_t *reads = reads_open();
    hammer_t hammers[VD_COUNT_OF(runs)] = {0};
    atomic_bool stop = false;
    vd_error_t err = VD_ERROR_INIT;
    stor_create_options_t options = {large_options(reads->texts, 'x'), NULL};
    reads_begin(reads, "h");
    reads_ok(stor_catalog_create(&reads->request, text("h"), text("n0"), &options, &err), &err);
    for (size_t i = 0; i < VD_COUNT_OF(runs); i++) {
        worker_init(&hammers[i].worker, reads);
        hammers[i].stop = &stop;
        cr_assert_eq(pthread_create(&hammers[i].thread, NULL, runs[i], &hammers[i]), 0);
    }
    usleep(1000000);
    atomic_store(&stop, true);
    for (size_t i = 0; i < VD_COUNT_OF(runs); i++) {
        hammer_end(&hammers[i], i);
    }
    check_whole(reads, 0);
    reads_close(reads);
}

/* ---- orphans ---- */

Test(catalog, orphaned_tables_are_swept)
{
    static const char *const orphans[] = {"c-77", "c-12345678901", "j-99999"};
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    insert(reads, "a", "x", "{'0': {'_id': 1}}");
    for (size_t i = 0; i < VD_COUNT_OF(orphans); i++)
        reads_ok(stor_engine_table_create(reads->storage.engine, orphans[i], false, &err), &err);
    check_whole(reads, 2);
    reads_crash(reads);
    check_whole(reads, 0);
    for (size_t i = 0; i < VD_COUNT_OF(orphans); i++) /* the name is free */
        cr_assert_eq(stor_engine_table_drop(reads->storage.engine, orphans[i], NULL),
                     VD_ERR_NOT_FOUND);
    cr_assert_eq(info_of(reads, "a", "x")->documents, 1);
    reads_close(reads);
}

/* ---- counters ---- */

static void random_write(reads_t *reads, vd_rand_t *rand)
{
    const char *name = vd_rand_below(rand, 2) ? "x" : "y";
    int id = (int)vd_rand_below(rand, 60);
    const char *command;
    switch (vd_rand_below(rand, 4)) {
    case 0:
        command = vd_arena_printf(reads->texts,
                                  "{'delete': '%s', 'deletes': [{'q': {'_id': %d}, 'limit': 1}]}",
                                  name, id);
        break;
    case 1:
        command = vd_arena_printf(reads->texts,
                                  "{'update': '%s', 'updates': [{'q': {'_id': {'$lt': %d}}, 'u': "
                                  "{'$set': {'s': '%*s'}}, 'multi': true}]}",
                                  name, id / 4, 1 + id, "x");
        break;
    default:
        command = vd_arena_printf(reads->texts,
                                  "{'update': '%s', 'updates': [{'q': {'_id': %d}, 'u': {'$inc': "
                                  "{'n': 1}}, 'upsert': true}]}",
                                  name, id);
    }
    cr_assert_eq(reads_run(reads, "a", command), VD_OK, "%s", reads_text(reads));
}

Test(catalog, counters_are_exact_after_crashes, .timeout = 300)
{
    reads_t *reads = reads_open();
    vd_rand_t rand;
    vd_error_t err = VD_ERROR_INIT;
    vd_rand_seed(&rand, 42);
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 150; i++) {
            bool more;
            random_write(reads, &rand);
            if (vd_rand_below(&rand, 30) == 0) /* never to the end */
                reads_ok(stor_counters_fold(&reads->storage, reads->session,
                                            1 + (uint32_t)vd_rand_below(&rand, 10), &more, &err),
                         &err);
            if (vd_rand_below(&rand, 60) == 0)
                (void)rename_to(reads, "a", "x", "a", "y", true);
        }
        remove_dropped(reads);
        check_whole(reads, 0);
        if (round % 2 == 0)
            reads_crash(reads);
        else
            reopen(reads);
        check_whole(reads, 0);
    }
    reads_close(reads);
}

/* ---- SIGKILL ---- */

/* What a process that is killed does: the same for a seed, so that the parent can follow it without
 * seeing it. */
typedef struct {
    bool exists[NAMES];
    int64_t documents[NAMES];
    bool off[NAMES]; /* validationLevel */
} model_t;

typedef enum { STEP_CREATE, STEP_DROP, STEP_RENAME, STEP_MODIFY, STEP_INSERT } step_kind_t;

typedef struct {
    step_kind_t kind;
    uint32_t name, to;
    bool off;
} kill_step_t;

static kill_step_t step_draw(vd_rand_t *rand)
{
    static const step_kind_t kinds[] = {STEP_CREATE, STEP_DROP,   STEP_RENAME, STEP_RENAME,
                                        STEP_MODIFY, STEP_MODIFY, STEP_INSERT, STEP_INSERT,
                                        STEP_INSERT, STEP_INSERT, STEP_INSERT};
    kill_step_t step;
    step.kind = kinds[vd_rand_below(rand, VD_COUNT_OF(kinds))];
    step.name = (uint32_t)vd_rand_below(rand, NAMES);
    step.to = (uint32_t)vd_rand_below(rand, NAMES);
    step.off = vd_rand_below(rand, 2) == 1;
    return step;
}

static void model_apply(model_t *model, kill_step_t step)
{
    uint32_t n = step.name, to = step.to;
    switch (step.kind) {
    case STEP_CREATE:
        if (!model->exists[n])
            model->exists[n] = true, model->documents[n] = 0, model->off[n] = false;
        break;
    case STEP_DROP:
        model->exists[n] = false;
        break;
    case STEP_RENAME:
        if (!model->exists[n] || n == to)
            break;
        model->exists[to] = true, model->documents[to] = model->documents[n];
        model->off[to] = model->off[n], model->exists[n] = false;
        break;
    case STEP_MODIFY:
        if (model->exists[n])
            model->off[n] = step.off;
        break;
    case STEP_INSERT:
        if (!model->exists[n])
            model->exists[n] = true, model->documents[n] = 0, model->off[n] = false;
        model->documents[n]++;
    }
}

/* No assertions in here: in a forked child they hang. False: not as it should be. */
static bool step_run(reads_t *reads, kill_step_t step, uint32_t number)
{
    static const char *const names[NAMES] = {"n0", "n1", "n2", "n3"};
    const char *command, *name = names[step.name];
    const char *db = "h";
    switch (step.kind) {
    case STEP_CREATE:
        command = vd_arena_printf(reads->texts, "{'create': '%s'}", name);
        break;
    case STEP_DROP:
        command = vd_arena_printf(reads->texts, "{'drop': '%s'}", name);
        break;
    case STEP_RENAME:
        db = "admin";
        command = vd_arena_printf(reads->texts,
                                  "{'renameCollection': 'h.%s', 'to': 'h.%s', 'dropTarget': true}",
                                  name, names[step.to]);
        break;
    case STEP_MODIFY:
        command = vd_arena_printf(reads->texts, "{'collMod': '%s', 'validationLevel': '%s'}", name,
                                  step.off ? "off" : "strict");
        break;
    default:
        command = vd_arena_printf(reads->texts, "{'insert': '%s', 'documents': [{'_id': %u}]}",
                                  name, number);
    }
    int rc = reads_run(reads, db, command);
    return rc == VD_OK || (step.kind == STEP_CREATE && rc == VD_ERR_NAMESPACE_EXISTS) ||
           (step.kind == STEP_RENAME &&
            (rc == VD_ERR_NAMESPACE_NOT_FOUND || rc == VD_ERR_ILLEGAL_OPERATION)) ||
           (step.kind == STEP_MODIFY && rc == VD_ERR_NAMESPACE_NOT_FOUND);
}

/* Tells the number of each step when its answer could have been sent. */
static _Noreturn void child_run(const char *folder, int out, uint64_t seed)
{
    reads_t *reads = reads_open_at(folder, true);
    stor_engine_t *engine = reads->storage.engine;
    vd_rand_t rand, own;
    vd_rand_seed(&rand, seed);
    vd_rand_seed(&own, seed + 1);
    for (uint32_t number = 1;; number++) {
        bool more;
        if (!step_run(reads, step_draw(&rand), number))
            _exit(3);
        while (stor_engine_durable(engine) < reads->request.depends_on)
            usleep(50);
        if (write(out, &number, sizeof number) != sizeof number)
            _exit(4);
        if (vd_rand_below(&own, 10) == 0 &&
            stor_counters_fold(&reads->storage, reads->session, 20, &more, NULL) != VD_OK)
            _exit(5);
        if (vd_rand_below(&own, 10) == 0)
            remove_dropped(reads);
        if (vd_rand_below(&own, 40) == 0 && stor_engine_checkpoint(engine, NULL) != VD_OK)
            _exit(6);
        vd_arena_reset(reads->texts);
    }
}

/* The number of the last step that was answered. */
static uint32_t child_kill(pid_t child, int in, uint32_t after, uint32_t pause_us)
{
    uint32_t number = 0, last = 0;
    while (last < after && read(in, &number, sizeof number) == sizeof number)
        last = number;
    usleep(pause_us);
    cr_assert_eq(kill(child, SIGKILL), 0);
    while (read(in, &number, sizeof number) == sizeof number)
        last = number;
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFSIGNALED(status), "the child ended by itself: %d after %u", WEXITSTATUS(status),
              last);
    return last;
}

static bool is_model(reads_t *reads, const model_t *model)
{
    static const char *const names[NAMES] = {"n0", "n1", "n2", "n3"};
    bool same = true;
    for (int i = 0; i < NAMES; i++) {
        const stor_collection_info_t *info = info_of(reads, "h", names[i]);
        same &= (info != NULL) == model->exists[i];
        if (!same || info == NULL)
            continue;
        vd_value_t level = vd_bson_get(info->options, "validationLevel");
        bool off = level.type == VD_BSON_STRING && vd_slice_is(vd_value_string(level), "off");
        same &= info->documents == model->documents[i] && off == model->off[i];
    }
    return same;
}

static void kill_once(uint64_t seed)
{
    int pipes[2];
    char folder[200];
    vd_rand_t rand;
    reads_folder(folder, sizeof folder);
    cr_assert_eq(pipe(pipes), 0);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        close(pipes[0]);
        child_run(folder, pipes[1], seed);
    }
    close(pipes[1]);
    vd_rand_seed(&rand, seed + 2);
    uint32_t last = child_kill(child, pipes[0], 15 + (uint32_t)vd_rand_below(&rand, 80),
                               (uint32_t)vd_rand_below(&rand, 3000));
    close(pipes[0]);

    model_t answered = {0}, next;
    vd_rand_seed(&rand, seed);
    for (uint32_t i = 0; i < last; i++)
        model_apply(&answered, step_draw(&rand));
    next = answered;
    model_apply(&next, step_draw(&rand)); /* may have happened: nobody was told */
    reads_t *reads = reads_open_at(folder, false);
    cr_assert(is_model(reads, &answered) || is_model(reads, &next),
              "seed %llu: after %u steps it is neither", (unsigned long long)seed, last);
    check_whole(reads, 0);
    /* It goes on: a start after the start, and changes. */
    reopen(reads);
    check_whole(reads, 0);
    for (uint32_t i = 0; i < 20; i++)
        cr_assert(step_run(reads, step_draw(&rand), 1000000 + i));
    remove_dropped(reads);
    check_whole(reads, 0);
    reads_close(reads);
}

/* Each fork is made by a process that has opened nothing before: a test of its own. */
Test(catalog, killed_in_the_middle_1, .timeout = 300)
{
    kill_once(100);
}

Test(catalog, killed_in_the_middle_2, .timeout = 300)
{
    kill_once(200);
}

Test(catalog, killed_in_the_middle_3, .timeout = 300)
{
    kill_once(300);
}

Test(catalog, killed_in_the_middle_4, .timeout = 300)
{
    kill_once(400);
}

Test(catalog, killed_in_the_middle_5, .timeout = 300)
{
    kill_once(500);
}

Test(catalog, killed_in_the_middle_6, .timeout = 300)
{
    kill_once(600);
}
