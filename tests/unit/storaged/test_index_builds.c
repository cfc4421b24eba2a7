/* tests/unit/storaged/test_index_builds.c — builds of indexes beside writers, builds that are given
 * up, and crashes at each of their steps. */
#include "libcommon/base/fault.h"
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/index_support.h"
#include "veddb-storaged/index/build.h"
#include "veddb-storaged/index/builds.h"
#include "veddb-storaged/scrub_indexes.h"

#include <pthread.h>

#define OK(reads, command)                                                                         \
    cr_assert_eq(reads_run((reads), "db", (command)), VD_OK, "%s: %s", (command), reads_text(reads))

/* A command on a thread of its own, with a session of its own. */
typedef struct {
    reads_t *reads;
    const char *json;
    vd_arena_t *arena;
    stor_session_t *session;
    stor_request_t request;
    pthread_t thread;
    int rc;
} beside_t;

static void *beside_run(void *context)
{
    beside_t *b = context;
    vd_slice_t name;
    vd_value_t value;
    vd_bson_t body = query_json(b->arena, b->json);
    if (vd_bson_first(body, &name, &value))
        b->request.command.name = name;
    b->request.sections.body = body;
    stor_registry_add(&b->request);
    stor_request_run(&b->request, b->session);
    stor_registry_remove(&b->request);
    b->rc = b->request.status;
    return NULL;
}

static void beside_start(beside_t *b, reads_t *reads, const char *json)
{
    vd_error_t err = VD_ERROR_INIT;
    memset(b, 0, sizeof *b);
    b->reads = reads;
    b->json = json;
    b->arena = vd_arena_create();
    reads_ok(stor_session_open(reads->storage.engine, &b->session, &err), &err);
    stor_request_init(&b->request, &reads->storage, b->arena);
    b->request.command.db = b->request.db = VD_SLICE_LIT("db");
    b->request.command.user = vd_slice_str(reads->user);
    b->request.command.flags = reads->flags;
    cr_assert_eq(pthread_create(&b->thread, NULL, beside_run, b), 0);
}

/* The text of its reply lives in reads->texts. */
static const char *beside_join(beside_t *b)
{
    (void)pthread_join(b->thread, NULL);
    const char *text = vd_bson_to_json(b->reads->texts, b->request.reply_document, 2000);
    stor_session_close(&b->session);
    vd_arena_destroy(&b->arena);
    return text;
}

static void reached(const char *point)
{
    for (int i = 0; i < 30000 && vd_fault_count(point) == 0; i++)
        usleep(1000);
    cr_assert_gt(vd_fault_count(point), 0, "%s was not reached", point);
}

static void arm(const char *spec)
{
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(vd_fault_arm(spec, &err), &err);
}

static void fill(reads_t *reads, int from, int count)
{
    for (int at = from; at < from + count; at += 1000) {
        size_t len = 0, room = 1000 * 80 + 100;
        char *text = malloc(room);
        len += (size_t)snprintf(text + len, room - len, "{'insert': 'c', 'documents': [");
        for (int i = at; i < at + 1000 && i < from + count; i++)
            len += (size_t)snprintf(text + len, room - len, "%s{'_id': %d, 'a': %d, 'b': [%d, %d]}",
                                    i == at ? "" : ", ", i, i, i % 10, i % 7);
        (void)snprintf(text + len, room - len, "]}");
        OK(reads, text);
        free(text);
    }
}

/* Some writes of every kind. `a` stays unique: it is _id, negative or not, or a number above all.
 */
static void scribble(reads_t *reads, vd_rand_t *rand, int documents, int writes)
{
    static int next = 1000000;
    for (int i = 0; i < writes; i++) {
        char text[300];
        int id = (int)vd_rand_below(rand, (uint64_t)documents);
        switch (vd_rand_below(rand, 5)) {
        case 0:
            snprintf(text, sizeof text,
                     "{'insert': 'c', 'documents': [{'_id': %d, 'a': %d, 'b': "
                     "[1, 'n', %d]}]}",
                     next, next, id);
            next++;
            break;
        case 1:
            snprintf(text, sizeof text,
                     "{'delete': 'c', 'deletes': [{'q': {'_id': %d}, 'limit': "
                     "1}]}",
                     id);
            break;
        case 2:
            snprintf(text, sizeof text,
                     "{'update': 'c', 'updates': [{'q': {'_id': %d}, 'u': {'$set': {'a': %d}}}]}",
                     id, next++);
            break;
        case 3:
            snprintf(text, sizeof text,
                     "{'update': 'c', 'updates': [{'q': {'_id': %d}, 'u': {'$set': {'a': %d}}}]}",
                     id, id);
            break;
        default:
            snprintf(text, sizeof text,
                     "{'update': 'c', 'updates': [{'q': {'_id': %d}, 'u': {'$set': {'b': %d}}}]}",
                     id, id);
            break;
        }
        OK(reads, text);
    }
}

#define BUILD                                                                                      \
    "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a', 'unique': true}, {'key': "  \
    "{'b': 1, 'a': -1}, 'name': 'ba'}, {'key': {'b': 1}, 'name': 'w', 'partialFilterExpression': " \
    "{'a': {'$gt': 100}}}]}"

/* ---- beside writers ---- */

Test(index_builds, writes_at_every_step_are_in, .timeout = 300)
{
    static const char *const points[] = {"index.begun", "index.scanned", "index.loaded",
                                         "index.caught_up"};
    reads_t *reads = reads_open();
    vd_rand_t rand;
    vd_rand_seed(&rand, 7);
    fill(reads, 0, 6000);
    for (size_t i = 0; i < VD_COUNT_OF(points); i++) {
        beside_t build;
        char spec[64];
        snprintf(spec, sizeof spec, "%s=wait", points[i]);
        arm(spec);
        beside_start(&build, reads, BUILD);
        reached(points[i]);
        scribble(reads, &rand, 6000, 400);
        vd_fault_disarm(points[i]);
        scribble(reads, &rand, 6000, 100);
        const char *reply = beside_join(&build);
        cr_assert_eq(build.rc, VD_OK, "%s: %s", points[i], reply);
        index_sound(reads, "db", "c", "a");
        index_sound(reads, "db", "c", "ba");
        index_sound(reads, "db", "c", "w");
        OK(reads, "{'validate': 'c'}");
        reads_expect(reads, points[i], "{'valid': true, 'nIndexes': 4}");
        OK(reads, "{'dropIndexes': 'c', 'index': '*'}");
    }
    reads_close(reads);
}

typedef struct {
    reads_t *reads;
    atomic_bool stop;
    uint64_t seed;
    pthread_t thread;
    int failures;
} writer_t;

/* Writes on a session of its own until it is told to stop. */
static void *writer_run(void *context)
{
    writer_t *w = context;
    vd_rand_t rand;
    vd_error_t err = VD_ERROR_INIT;
    stor_session_t *session = NULL;
    vd_arena_t *arena = vd_arena_create();
    stor_request_t *request = calloc(1, sizeof *request);
    vd_rand_seed(&rand, w->seed);
    w->failures += stor_session_open(w->reads->storage.engine, &session, &err) != VD_OK;
    while (!atomic_load(&w->stop) && w->failures == 0) {
        vd_arena_reset(arena);
        int id = (int)vd_rand_below(&rand, 8000);
        bool remove = vd_rand_below(&rand, 4) == 0;
        const char *json =
            remove ? vd_arena_printf(arena,
                                     "{'delete': 'c', 'deletes': [{'q': {'_id': %d}, "
                                     "'limit': 1}]}",
                                     id)
                   : vd_arena_printf(arena,
                                     "{'update': 'c', 'updates': [{'q': {'_id': %d}, 'u': {'$set': "
                                     "{'b': [%d, 'x']}, '$setOnInsert': {'a': %d}}, 'upsert': "
                                     "true}]}",
                                     id, (int)vd_rand_below(&rand, 50), id);
        vd_slice_t name;
        vd_value_t value;
        vd_bson_t body = query_json(arena, json);
        (void)vd_bson_first(body, &name, &value);
        stor_request_init(request, &w->reads->storage, arena);
        request->command.db = request->db = VD_SLICE_LIT("db");
        request->command.user = vd_slice_str(w->reads->user);
        request->command.name = name;
        request->sections.body = body;
        stor_request_run(request, session);
        w->failures += request->status != VD_OK ||
                       vd_bson_get(request->reply_document, "writeErrors").type != VD_BSON_MISSING;
    }
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    free(request);
    return NULL;
}

/* What the background check says of the indexes. */
static void scrubbed(reads_t *reads, bool sound)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_session_t *session = NULL;
    stor_scrub_indexes_t result = {0};
    uint64_t id = index_hold(reads, "db", "c")->id;
    stor_catalog_release_all(&reads->request);
    reads_ok(stor_session_open(reads->storage.engine, &session, &err), &err);
    reads_ok(stor_scrub_indexes(&reads->storage, session, id, 0, NULL, &result, &err), &err);
    stor_session_close(&session);
    cr_assert_gt(result.keys, 0);
    cr_assert_gt(result.entries, 0);
    cr_assert_eq(result.index_id == 0, sound, "%lld missing, %lld extra, %lld malformed",
                 (long long)result.missing, (long long)result.extra, (long long)result.malformed);
    cr_assert_eq(result.missing + result.extra + result.malformed == 0, sound);
}

Test(index_builds, beside_writers_that_never_stop, .timeout = 300)
{
    reads_t *reads = reads_open();
    writer_t writers[2] = {{.reads = reads, .seed = 1}, {.reads = reads, .seed = 2}};
    fill(reads, 0, 8000); /* enough for a build that sorts */
    for (size_t i = 0; i < VD_COUNT_OF(writers); i++)
        cr_assert_eq(pthread_create(&writers[i].thread, NULL, writer_run, &writers[i]), 0);
    for (int i = 0; i < 3; i++) {
        OK(reads, BUILD);
        scrubbed(reads, true);
        if (i < 2)
            OK(reads, "{'dropIndexes': 'c', 'index': '*'}");
    }
    for (size_t i = 0; i < VD_COUNT_OF(writers); i++) {
        atomic_store(&writers[i].stop, true);
        (void)pthread_join(writers[i].thread, NULL);
        cr_assert_eq(writers[i].failures, 0);
    }
    index_sound(reads, "db", "c", "a");
    index_sound(reads, "db", "c", "ba");
    OK(reads, "{'validate': 'c'}");
    reads_expect(reads, "validate", "{'valid': true, 'nIndexes': 4}");
    reads_close(reads);
}

/* Passes over the log that gain nothing on the writers make these wait, twice as long each time, up
 * to a bound; when it has ended nobody waits. */
Test(index_builds, writers_that_are_faster_are_slowed_down, .timeout = 300)
{
    reads_t *reads = reads_open();
    beside_t build;
    uint32_t pause = 0, most = 0, grown = 0;
    fill(reads, 0, 1000);
    arm("index.pass=wait,index.caught_up=wait");
    beside_start(&build, reads,
                 "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a'}]}");
    for (int pass = 0; pass < 12; pass++) {
        reached("index.pass");
        stor_index_t *index =
            stor_index_set_named(index_hold(reads, "db", "c")->indexes, VD_SLICE_LIT("a"));
        pause = atomic_load(&index->log->pause_us);
        stor_catalog_release_all(&reads->request);
        cr_assert(pause == most || pause == 2 * most || most == 0 ||
                      pause == STOR_INDEX_PAUSE_MAX_US,
                  "%u after %u", pause, most);
        cr_assert_leq(pause, STOR_INDEX_PAUSE_MAX_US);
        grown += pause > most;
        most = pause > most ? pause : most;
        fill(reads, 1000 + 3000 * pass, 3000); /* more than may be left for the fence */
        arm("index.pass=wait");                /* this pass runs, the next one waits */
    }
    cr_assert_eq(most, STOR_INDEX_PAUSE_MAX_US, "%u", most);
    cr_assert_gt(grown, 3);
    vd_fault_disarm("index.pass");
    reached("index.caught_up");
    vd_fault_disarm(NULL);
    (void)beside_join(&build);
    cr_assert_eq(build.rc, VD_OK);
    stor_index_t *index = stor_index_by_name(index_hold(reads, "db", "c"), VD_SLICE_LIT("a"));
    cr_assert_eq(atomic_load(&index->state), STOR_INDEX_READY);
    stor_catalog_release_all(&reads->request);
    cr_assert_eq(index_sound(reads, "db", "c", "a"), 37000);
    reads_close(reads);
}

/* How long a build that is ready waits for the others. */
Test(index_builds, how_long_others_are_waited_for)
{
    enum { ALL = STOR_BUILDS_ALL_MS, MOST = STOR_BUILDS_MAJORITY_MS };
    static const struct {
        bool asked, met, majority;
        uint64_t took_ms, waited_ms;
        bool enough, alone;
    } cases[] = {
        {false, true, true, 100, 0, true, false}, /* all have it */
        {true, true, false, 100, 0, true, false},
        {true, false, true, 0, UINT64_MAX / 2, false, false}, /* asked for: without an end */
        {false, false, true, 100, 100 + ALL - 1, false, false},
        {false, false, true, 100, 100 + ALL, true, false},
        {false, false, true, 60000, 60000 + ALL - 1, false, false}, /* a long one waits longer */
        {false, false, false, 100, 100 + ALL, false, false},
        {false, false, false, 100, 1000 + MOST - 1, false, false},
        {false, false, false, 100, 1000 + MOST, true, true},
        {false, false, false, 0, MOST, true, true},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        bool alone = !cases[i].alone;
        cr_assert_eq(stor_builds_enough(cases[i].asked, cases[i].met, cases[i].majority,
                                        cases[i].took_ms, cases[i].waited_ms, &alone),
                     cases[i].enough, "%zu", i);
        cr_assert_eq(alone, cases[i].alone, "%zu", i);
    }
}

Test(index_builds, duplicates_that_come_and_go, .timeout = 300)
{
    reads_t *reads = reads_open();
    beside_t build;
    fill(reads, 0, 5000);
    arm("index.scanned=wait");
    beside_start(&build, reads, BUILD);
    reached("index.scanned");
    OK(reads, "{'insert': 'c', 'documents': [{'_id': 'x', 'a': 7}, {'_id': 'y', 'a': 8}, {'_id': "
              "'z', 'a': 9}]}");
    OK(reads, "{'delete': 'c', 'deletes': [{'q': {'_id': 'x'}, 'limit': 1}]}");
    OK(reads, "{'delete': 'c', 'deletes': [{'q': {'_id': 8}, 'limit': 1}]}");
    OK(reads, "{'update': 'c', 'updates': [{'q': {'_id': 9}, 'u': {'$set': {'a': -9}}}]}");
    vd_fault_disarm(NULL);
    const char *reply = beside_join(&build);
    cr_assert_eq(build.rc, VD_OK, "%s", reply);
    cr_assert_eq(index_sound(reads, "db", "c", "a"), 5001);
    OK(reads, "{'dropIndexes': 'c', 'index': '*'}");

    arm("index.loaded=wait");
    beside_start(&build, reads, BUILD);
    reached("index.loaded");
    OK(reads, "{'insert': 'c', 'documents': [{'_id': 'x', 'a': 7}]}");
    vd_fault_disarm(NULL);
    reply = beside_join(&build);
    cr_assert_eq(build.rc, VD_ERR_DUPLICATE_KEY, "%s", reply);
    cr_assert_not_null(strstr(reply, "E11000 duplicate key error collection: db.c index: a dup "
                                     "key: { a: 7 }"),
                       "%s", reply);
    OK(reads, "{'listIndexes': 'c'}");
    reads_expect(reads, "listIndexes", "{'cursor.firstBatch.1': null}");
    OK(reads, "{'insert': 'c', 'documents': [{'_id': 'u', 'a': 7}]}");
    reads_close(reads);
}

/* One leaves, and two that came behind it have the key. */
Test(index_builds, a_key_that_three_claim, .timeout = 300)
{
    reads_t *reads = reads_open();
    beside_t build;
    fill(reads, 0, 5000);
    OK(reads, "{'insert': 'c', 'documents': [{'_id': 'x', 'a': 7}]}");
    arm("index.loaded=wait");
    beside_start(&build, reads, BUILD);
    reached("index.loaded");
    OK(reads, "{'delete': 'c', 'deletes': [{'q': {'_id': 7}, 'limit': 1}]}");
    OK(reads, "{'insert': 'c', 'documents': [{'_id': 'y', 'a': 7}]}");
    vd_fault_disarm(NULL);
    const char *reply = beside_join(&build);
    cr_assert_eq(build.rc, VD_ERR_DUPLICATE_KEY, "%s", reply);
    reads_close(reads);
}

Test(index_builds, duplicates_without_number, .timeout = 300)
{
    reads_t *reads = reads_open();
    for (int at = 0; at < 2; at++) { /* every `a` is there twice */
        fill(reads, at * 200000, 1000);
        for (int n = 1; n < 105; n++)
            fill(reads, at * 200000 + n * 1000, 1000);
        if (at == 0)
            continue;
        OK(reads,
           "{'update': 'c', 'updates': [{'q': {'_id': {'$gte': 200000}}, 'u': {'$inc': {'a': "
           "-200000}}, 'multi': true}]}");
    }
    int rc = reads_run(reads, "db",
                       "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': "
                       "'a', 'unique': true}]}");
    cr_assert_eq(rc, VD_ERR_DUPLICATE_KEY, "%s", reads_text(reads));
    reads_close(reads);
}

/* ---- given up ---- */

Test(index_builds, given_up, .timeout = 300)
{
    reads_t *reads = reads_open();
    beside_t build;
    fill(reads, 0, 5000);
    /* dropIndexes of one that is built */
    arm("index.scanned=sleep_ms=400");
    beside_start(&build, reads, BUILD);
    reached("index.scanned");
    OK(reads, "{'dropIndexes': 'c', 'index': 'ba'}");
    const char *reply = beside_join(&build);
    cr_assert_eq(build.rc, VD_ERR_INDEX_BUILD_ABORTED, "%s", reply);
    OK(reads, "{'insert': 'c', 'documents': [{'_id': 'x', 'a': 7}]}");
    /* killOp */
    beside_start(&build, reads, BUILD);
    while (!stor_registry_kill(&reads->storage, build.request.number, VD_SLICE_NULL, true))
        usleep(100);
    reply = beside_join(&build);
    cr_assert_eq(build.rc, VD_ERR_INTERRUPTED, "%s", reply);
    /* drop of the collection */
    vd_fault_disarm(NULL);
    arm("index.loaded=sleep_ms=400");
    beside_start(&build, reads,
                 "{'createIndexes': 'c', 'indexes': [{'key': {'b': 1}, 'name': "
                 "'b'}]}");
    reached("index.loaded");
    OK(reads, "{'drop': 'c'}");
    reply = beside_join(&build);
    cr_assert_neq(build.rc, VD_OK, "%s", reply);
    vd_fault_disarm(NULL);
    fill(reads, 0, 100);
    OK(reads, "{'listIndexes': 'c'}");
    reads_expect(reads, "listIndexes", "{'cursor.firstBatch.1': null}");
    /* a rename goes on */
    arm("index.loaded=wait");
    beside_start(&build, reads, BUILD);
    reached("index.loaded");
    cr_assert_eq(reads_run(reads, "admin", "{'renameCollection': 'db.c', 'to': 'db.d'}"), VD_OK);
    vd_fault_disarm(NULL);
    reply = beside_join(&build);
    cr_assert_eq(index_sound(reads, "db", "d", "a"), 100, "%s", reply);
    reads_close(reads);
}

Test(index_builds, told_while_they_run, .timeout = 300)
{
    reads_t *reads = reads_open();
    beside_t build;
    fill(reads, 0, 5000);
    arm("index.scanned=wait");
    beside_start(&build, reads, BUILD);
    reached("index.scanned");
    cr_assert_eq(reads_run(reads, "admin", "{'currentOp': 1, 'msg': {'$exists': true}}"), VD_OK,
                 "%s", reads_text(reads));
    reads_expect(reads, "currentOp",
                 "{'inprog.0.msg': 'Index Build: scanning collection', 'inprog.0.progress': "
                 "{'done': 5000, 'total': 5000}}");
    OK(reads, "{'collStats': 'c'}");
    reads_expect(reads, "collStats", "{'nindexes': 1, 'indexBuilds': ['a', 'ba', 'w']}");
    vd_fault_disarm(NULL);
    (void)beside_join(&build);
    OK(reads, "{'collStats': 'c'}");
    reads_expect(reads, "collStats", "{'nindexes': 4, 'indexBuilds': []}");
    reads_close(reads);
}

/* ---- crashes ---- */

static int tables_count(const char *name, void *context)
{
    int *counts = context;
    counts[0] += name[0] == 'i' && name[1] == '-';
    counts[1] += name[0] == 'b' && name[1] == '-';
    counts[2] += name[0] == 'r' && name[1] == '-';
    return VD_OK;
}

static void builds_wait(reads_t *reads)
{
    for (int i = 0; i < 30000 && stor_builds_count(reads->storage.builds) > 0; i++)
        usleep(1000);
    cr_assert_eq(stor_builds_count(reads->storage.builds), 0);
}

typedef enum { BEFORE, UNDER_WAY, READY } crash_t;

/* Goes on in a copy of the folder as it is while the build waits there. */
static void crash_at(const char *point, crash_t state)
{
    reads_t *reads = reads_open();
    beside_t build;
    vd_rand_t rand;
    char spec[64], copy[300], command[1000], folder[256];
    vd_error_t err = VD_ERROR_INIT;
    vd_rand_seed(&rand, 11);
    fill(reads, 0, 5000);
    snprintf(spec, sizeof spec, "%s=wait", point);
    arm(spec);
    beside_start(&build, reads, BUILD);
    reached(point);
    if (state == UNDER_WAY)
        scribble(reads, &rand, 5000, 50);
    stor_engine_flush_soon(reads->storage.engine);
    while (stor_engine_durable(reads->storage.engine) < stor_engine_newest(reads->storage.engine))
        usleep(1000);
    snprintf(folder, sizeof folder, "%s", reads->folder);
    snprintf(copy, sizeof copy, "%s-after", folder);
    snprintf(command, sizeof command,
             "for i in 1 2 3 4 5; do rm -rf %s; cp -r %s %s && exit 0; done; exit 1", copy, folder,
             copy);
    cr_assert_eq(system(command), 0);
    vd_fault_disarm(NULL);
    (void)beside_join(&build);
    reads_stop(reads);
    snprintf(command, sizeof command, "rm -r %s && mv %s %s", folder, copy, folder);
    cr_assert_eq(system(command), 0);
    reads_start(reads, false);

    int counts[3] = {0, 0, 0};
    reads_ok(stor_engine_tables(reads->storage.engine, tables_count, counts, &err), &err);
    cr_assert_eq(counts[0], state == BEFORE ? 0 : 3, "%s: %d tables of indexes", point, counts[0]);
    cr_assert_eq(counts[1], state == UNDER_WAY ? 3 : 0, "%s: %d logs of a build", point, counts[1]);
    cr_assert_eq(counts[2], 0, "%s: %d runs of a build", point, counts[2]);
    OK(reads, "{'listIndexes': 'c'}");
    if (state != READY)
        reads_expect(reads, point, "{'cursor.firstBatch.1': null}");
    scribble(reads, &rand, 5000, 50); /* before anybody works on it, and beside it */
    stor_builds_resume(reads->storage.builds);
    if (state == UNDER_WAY) {
        cr_assert_eq(stor_builds_count(reads->storage.builds), 1);
        scribble(reads, &rand, 5000, 50);
        OK(reads, BUILD); /* who asks again waits for it */
        reads_expect(reads, point, "{'note': null, 'numIndexesBefore': 1, 'numIndexesAfter': 4}");
    }
    builds_wait(reads);
    if (state == BEFORE)
        OK(reads, BUILD);
    index_sound(reads, "db", "c", "a");
    index_sound(reads, "db", "c", "ba");
    OK(reads, "{'validate': 'c'}");
    reads_expect(reads, point, "{'valid': true, 'nIndexes': 4}");
    /* and it stays */
    reads_stop(reads);
    reads_start(reads, false);
    stor_builds_resume(reads->storage.builds);
    cr_assert_eq(stor_builds_count(reads->storage.builds), 0);
    OK(reads, "{'validate': 'c'}");
    reads_expect(reads, point, "{'valid': true, 'nIndexes': 4}");
    reads_close(reads);
}

Test(index_builds, crash_before_it_begins, .timeout = 300)
{
    crash_at("index.starting", BEFORE);
}
Test(index_builds, crash_when_started, .timeout = 300)
{
    crash_at("index.begun", UNDER_WAY);
}
Test(index_builds, crash_when_scanned, .timeout = 300)
{
    crash_at("index.scanned", UNDER_WAY);
}
Test(index_builds, crash_when_loaded, .timeout = 300)
{
    crash_at("index.loaded", UNDER_WAY);
}
Test(index_builds, crash_when_caught_up, .timeout = 300)
{
    crash_at("index.caught_up", UNDER_WAY);
}
Test(index_builds, crash_when_ready, .timeout = 300)
{
    crash_at("index.ready", UNDER_WAY);
}
Test(index_builds, crash_when_committed, .timeout = 300)
{
    crash_at("index.after_commit", READY);
}

/* A unique key that documents claim twice by the time a build that began before a crash ends. */
Test(index_builds, resumed_and_given_up, .timeout = 300)
{
    reads_t *reads = reads_open();
    beside_t build;
    int counts[3] = {0, 0, 0};
    vd_error_t err = VD_ERROR_INIT;
    fill(reads, 0, 3000);
    arm("index.begun=wait");
    beside_start(&build, reads, BUILD);
    reached("index.begun");
    OK(reads, "{'insert': 'c', 'documents': [{'_id': 'x', 'a': 7}]}");
    arm("index.scanned=wait");
    vd_fault_disarm("index.begun");
    reached("index.scanned");
    stor_builds_t *builds = reads->storage.builds;
    cr_assert_eq(stor_builds_count(builds), 1);
    /* A stop in the middle, as at a shutdown. */
    pthread_t stopper;
    cr_assert_eq(
        pthread_create(&stopper, NULL, (void *(*)(void *))(void (*)(void))stor_builds_stop, builds),
        0);
    vd_fault_disarm(NULL);
    (void)pthread_join(stopper, NULL);
    (void)beside_join(&build);
    cr_assert_neq(build.rc, VD_OK);
    reads_stop(reads);
    reads_start(reads, false);
    stor_builds_resume(reads->storage.builds);
    builds_wait(reads);
    OK(reads, "{'listIndexes': 'c'}");
    reads_expect(reads, "given up", "{'cursor.firstBatch.1': null}");
    stor_catalog_remove_dropped(reads->storage.catalog, reads->session);
    reads_ok(stor_engine_tables(reads->storage.engine, tables_count, counts, &err), &err);
    cr_assert_eq(counts[0] + counts[1] + counts[2], 0);
    reads_stop(reads);
    reads_start(reads, false);
    stor_builds_resume(reads->storage.builds);
    cr_assert_eq(stor_builds_count(reads->storage.builds), 0);
    reads_close(reads);
}

/* ---- damage ---- */

static void damage(reads_t *reads, const char *index_name, int kind)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_collection_t *collection = index_hold(reads, "db", "c");
    stor_index_t *index = stor_index_by_name(collection, vd_slice_str(index_name));
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    cr_assert_not_null(index);
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_cursor_open(reads->session, index->table, &cursor, &err), &err);
    reads_ok(stor_cursor_next(cursor, true, &key, &value, &err), &err);
    key = vd_arena_copy_slice(reads->texts, key);
    value = vd_arena_copy_slice(reads->texts, value);
    if (kind == 0) {
        reads_ok(stor_cursor_remove(cursor, key, &err), &err);
    } else if (kind == 1) { /* {a: 1 million, _id: 0}, which no document is */
        static const uint8_t entry[] = "\x2f\x1e\x84\x80\x2b";
        reads_ok(stor_cursor_put(cursor, vd_slice(entry, sizeof entry - 1), value, &err), &err);
    } else if (kind == 2) { /* bytes that are no entry */
        reads_ok(stor_cursor_put(cursor, VD_SLICE_LIT("\x01"), value, &err), &err);
    } else { /* other type bits */
        static const uint8_t other[] = {0, 0, 2};
        reads_ok(stor_cursor_put(cursor, key, vd_slice(other, sizeof other), &err), &err);
    }
    reads_ok(stor_txn_commit(reads->session, &err), &err);
    stor_catalog_release_all(&reads->request);
}

Test(index_builds, damage_is_found_and_repaired, .timeout = 300)
{
    reads_t *reads = reads_open();
    fill(reads, 0, 300);
    OK(reads, "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a'}]}");
    OK(reads, "{'validate': 'c'}");
    reads_expect(reads, "validate", "{'valid': true, 'keysPerIndex': {'_id_': 300, 'a': 300}}");
    scrubbed(reads, true);
    for (int kind = 0; kind < 4; kind++) {
        damage(reads, "a", kind);
        scrubbed(reads, false);
        OK(reads, "{'validate': 'c'}");
        reads_expect(reads, "validate",
                     "{'valid': false, 'indexDetails.a.valid': false, "
                     "'repaired': false}");
        static const char *const shown[] = {
            "{'missingIndexEntries.0.idKey': {'_id': 0}, 'extraIndexEntries': []}",
            "{'extraIndexEntries.0.indexKey': {'a': 1000000}, 'missingIndexEntries': []}",
            "{'extraIndexEntries.0.indexName': 'a', 'missingIndexEntries': []}",
            "{'missingIndexEntries.0.idKey': {'_id': 0}, 'extraIndexEntries': []}"};
        reads_expect(reads, "validate", shown[kind]);
        OK(reads, "{'validate': 'c', 'repair': true}");
        reads_expect(reads, "repair",
                     "{'valid': true, 'repaired': true, 'keysPerIndex.a': 300, 'errors': []}");
        OK(reads, "{'insert': 'c', 'documents': [{'_id': 'x', 'a': 7}]}");
        OK(reads, "{'delete': 'c', 'deletes': [{'q': {'_id': 'x'}, 'limit': 1}]}");
        if (kind == 1)
            reads_crash(reads);
        OK(reads, "{'validate': 'c'}");
        reads_expect(reads, "validate", "{'valid': true, 'repaired': false}");
    }
    reads_close(reads);
}
