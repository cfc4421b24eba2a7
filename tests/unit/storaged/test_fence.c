/* tests/unit/storaged/test_fence.c — each kind of schema change against those who hold, wait for
 * and make the same collection; tables and rows behind the catalog. */
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/catalog/catalog_private.h"

#define D VD_SLICE_LIT("d")
#define C VD_SLICE_LIT("c")

/* ---- an actor: a request on a thread of its own ---- */

typedef struct {
    reads_t *reads;
    const char *json; /* a command; NULL: acquires d.c and gives it back */
    stor_request_t request;
    vd_arena_t *arena;
    stor_session_t *session;
    pthread_t thread;
    uint64_t id; /* of what was acquired */
    int rc;
    atomic_bool done;
} actor_t;

static void actor_init(actor_t *actor, reads_t *reads, const char *json)
{
    memset(actor, 0, sizeof *actor);
    actor->reads = reads;
    actor->json = json;
    actor->arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_session_open(reads->storage.engine, &actor->session, &err), &err);
    stor_request_init(&actor->request, &reads->storage, actor->arena);
    actor->request.session = actor->session;
    actor->request.command.db = actor->request.db = D;
    actor->request.command.user = VD_SLICE_LIT("ann@admin");
    actor->request.command.txn_number = -1;
}

static void *actor_run(void *context)
{
    actor_t *actor = context;
    stor_request_t *request = &actor->request;
    if (actor->json == NULL) {
        stor_collection_t *collection;
        actor->rc = stor_catalog_acquire(request, D, C, &collection, NULL);
        if (actor->rc == VD_OK) {
            actor->id = collection->id;
            stor_catalog_release_all(request);
        }
    } else {
        vd_value_t value;
        request->sections.body = query_json(actor->arena, actor->json);
        cr_assert(vd_bson_first(request->sections.body, &request->command.name, &value));
        if (strstr(actor->json, "renameCollection") != NULL)
            request->command.db = request->db = VD_SLICE_LIT("admin");
        stor_request_run(request, actor->session);
        actor->rc = request->status;
    }
    atomic_store(&actor->done, true);
    return NULL;
}

static void actor_start(actor_t *actor, reads_t *reads, const char *json)
{
    actor_init(actor, reads, json);
    cr_assert_eq(pthread_create(&actor->thread, NULL, actor_run, actor), 0);
}

static int actor_join(actor_t *actor)
{
    cr_assert_eq(pthread_join(actor->thread, NULL), 0);
    stor_session_close(&actor->session);
    vd_arena_destroy(&actor->arena);
    return actor->rc;
}

/* This thread holds d.c. */
static stor_collection_t *hold(reads_t *reads)
{
    stor_collection_t *collection;
    vd_error_t err = VD_ERROR_INIT;
    reads_begin(reads, "d");
    reads_ok(stor_catalog_acquire(&reads->request, D, C, &collection, &err), &err);
    return collection;
}

static void wait_state(stor_collection_t *collection, int state)
{
    while (atomic_load(&collection->state) != state)
        usleep(200);
}

/* ---- the fence ---- */

TestSuite(fence, .timeout = 300);

Test(fence, a_change_waits_for_holders_and_lets_nobody_in)
{
    static const struct {
        const char *change;
        int then; /* what those who waited at the fence get */
    } cases[] = {
        {"{'collMod': 'c', 'validator': {'a': 1}}", VD_OK},
        {"{'renameCollection': 'd.c', 'to': 'd.e', 'dropTarget': true}",
         VD_ERR_NAMESPACE_NOT_FOUND},
        {"{'drop': 'c'}", VD_ERR_NAMESPACE_NOT_FOUND},
        {"{'dropDatabase': 1}", VD_ERR_NAMESPACE_NOT_FOUND},
    };
    reads_t *reads = reads_open();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        actor_t change, waiters[3];
        cr_assert_eq(reads_run(reads, "d", "{'insert': 'c', 'documents': [{'a': 1}]}"), VD_OK);
        stor_collection_t *collection = hold(reads);
        uint64_t id = collection->id;
        actor_start(&change, reads, cases[i].change);
        wait_state(collection, STOR_FENCE_CLOSED);
        for (size_t w = 0; w < VD_COUNT_OF(waiters); w++)
            actor_start(&waiters[w], reads, NULL);
        for (int turn = 0; turn < 20; turn++) {
            usleep(1000);
            cr_assert_eq(atomic_load(&collection->state), STOR_FENCE_CLOSED);
            cr_assert_not(atomic_load(&change.done), "%s did not wait", cases[i].change);
            for (size_t w = 0; w < VD_COUNT_OF(waiters); w++)
                cr_assert_not(atomic_load(&waiters[w].done), "%s let one in", cases[i].change);
        }
        stor_catalog_release_all(&reads->request);
        cr_assert_eq(actor_join(&change), VD_OK, "%s", cases[i].change);
        for (size_t w = 0; w < VD_COUNT_OF(waiters); w++) {
            cr_assert_eq(actor_join(&waiters[w]), cases[i].then, "%s: %d", cases[i].change,
                         waiters[w].rc);
            if (cases[i].then == VD_OK)
                cr_assert_eq(waiters[w].id, id);
        }
    }
    reads_close(reads);
}

Test(fence, a_change_that_is_interrupted_leaves_the_fence_open)
{
    static const char *const changes[] = {
        "{'drop': 'c'}", "{'dropDatabase': 1}", "{'collMod': 'c', 'validator': {'a': 1}}",
        "{'renameCollection': 'd.c', 'to': 'd.f'}",
        "{'renameCollection': 'd.target', 'to': 'd.c', 'dropTarget': true}"};
    reads_t *reads = reads_open();
    reads_insert(reads, "d", "c", query_json(reads->texts, "{'0': {'_id': 1}}"));
    for (size_t i = 0; i < VD_COUNT_OF(changes); i++) {
        actor_t change, waiter;
        if (i == 4)
            cr_assert_eq(reads_run(reads, "d", "{'create': 'target'}"), VD_OK);
        stor_collection_t *collection = hold(reads);
        actor_start(&change, reads, changes[i]);
        wait_state(collection, STOR_FENCE_CLOSED);
        atomic_store(&change.request.killed, VD_ERR_INTERRUPTED);
        cr_assert_eq(actor_join(&change), VD_ERR_INTERRUPTED, "%s", changes[i]);
        cr_assert_eq(atomic_load(&collection->state), STOR_FENCE_OPEN);
        actor_start(&waiter, reads, NULL); /* in, although it is still held here */
        cr_assert_eq(actor_join(&waiter), VD_OK);
        cr_assert_eq(waiter.id, collection->id);
        stor_catalog_release_all(&reads->request);
        cr_assert_eq(reads_run(reads, "d", "{'insert': 'c', 'documents': [{}]}"), VD_OK);
        cr_assert_eq(vd_value_int32(reads_at(reads, "n")), 1, "%s", changes[i]);
    }
    cr_assert_eq(reads_run(reads, "d", "{'insert': 'target', 'documents': [{}]}"), VD_OK);
    cr_assert_eq(reads_run(reads, "d", "{'drop': 'c'}"), VD_OK);
    reads_close(reads);
}

Test(fence, one_who_waits_at_the_fence_can_be_interrupted)
{
    reads_t *reads = reads_open();
    actor_t change, waiter;
    reads_insert(reads, "d", "c", query_json(reads->texts, "{'0': {'_id': 1}}"));
    stor_collection_t *collection = hold(reads);
    actor_start(&change, reads, "{'drop': 'c'}");
    wait_state(collection, STOR_FENCE_CLOSED);
    actor_start(&waiter, reads, NULL);
    atomic_store(&waiter.request.killed, VD_ERR_INTERRUPTED);
    cr_assert_eq(actor_join(&waiter), VD_ERR_INTERRUPTED);
    cr_assert_eq(waiter.request.held_count, 0);
    cr_assert_not(atomic_load(&change.done));
    stor_catalog_release_all(&reads->request);
    cr_assert_eq(actor_join(&change), VD_OK);
    reads_close(reads);
}

Test(fence, acquire_many)
{
    reads_t *reads = reads_open();
    stor_request_t *request = &reads->request;
    stor_collection_t *got[4];
    vd_slice_t names[4] = {VD_SLICE_LIT("d.a"), VD_SLICE_LIT("d.none"), VD_SLICE_LIT("d.b"),
                           VD_SLICE_LIT("d.a")};
    vd_error_t err = VD_ERROR_INIT;
    reads_insert(reads, "d", "a", query_json(reads->texts, "{'0': {'_id': 1}}"));
    reads_insert(reads, "d", "b", query_json(reads->texts, "{'0': {'_id': 1}}"));
    reads_begin(reads, "d");
    reads_ok(stor_catalog_acquire_many(request, names, 4, got, &err), &err);
    cr_assert_eq(request->held_count, 3);
    cr_assert(vd_slice_is(got[0]->name, "a") && got[1] == NULL && vd_slice_is(got[2]->name, "b"));
    cr_assert_eq(got[3], got[0]);
    cr_assert_eq(atomic_load(&got[0]->users), 2);
    stor_catalog_release(request, got[0]);
    cr_assert_eq(atomic_load(&got[0]->users), 1);
    stor_catalog_release_all(request);
    cr_assert_eq(atomic_load(&got[0]->users), 0);
    cr_assert_eq(atomic_load(&got[2]->users), 0);
    /* None is held while one of them is fenced. */
    reads_ok(stor_catalog_fence(request, got[2], &err), &err);
    atomic_store(&request->killed, VD_ERR_INTERRUPTED);
    stor_collection_t *a = got[0], *b = got[2];
    cr_assert_eq(stor_catalog_acquire_many(request, names, 4, got, NULL), VD_ERR_INTERRUPTED);
    cr_assert_eq(request->held_count, 0);
    cr_assert_eq(atomic_load(&a->users), 0);
    cr_assert_eq(atomic_load(&b->users), 0);
    stor_catalog_unfence(reads->storage.catalog, b, false);
    reads_close(reads);
}

/* ---- the tables behind it ---- */

static bool table_exists(reads_t *reads, const char *table)
{
    uint64_t bytes, free_bytes;
    int rc = stor_engine_table_size(reads->storage.engine, table, &bytes, &free_bytes, NULL);
    cr_assert(rc == VD_OK || rc == VD_ERR_NOT_FOUND, "%d", rc);
    return rc == VD_OK;
}

Test(fence, the_file_of_a_dropped_one_goes)
{
    reads_t *reads = reads_open();
    reads_insert(reads, "d", "c", query_json(reads->texts, "{'0': {'_id': 1}}"));
    cr_assert_eq(reads_run(reads, "d", "{'find': 'c'}"), VD_OK); /* its cursor is kept open */
    cr_assert_eq(reads_run(reads, "d", "{'drop': 'c'}"), VD_OK);
    for (int i = 0; i < 20 && table_exists(reads, "c-1"); i++) {
        cr_assert_eq(reads_run(reads, "d", "{'insert': 'e', 'documents': [{}]}"), VD_OK);
        stor_catalog_remove_dropped(reads->storage.catalog, reads->session);
    }
    cr_assert_not(table_exists(reads, "c-1"));
    reads_close(reads);
}

/* A process that ends between file and metadata leaves a file; the id comes again. */
Test(fence, a_file_that_was_left_behind_stops_nobody)
{
    reads_t *reads = reads_open();
    char path[300];
    reads_insert(reads, "d", "c", query_json(reads->texts, "{'0': {'_id': 1}}"));
    reads_stop(reads);
    snprintf(path, sizeof path, "%s/c-2.wt", reads->folder);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    cr_assert_gt(fprintf(file, "left behind"), 0);
    cr_assert_eq(fclose(file), 0);
    reads_start(reads, false);
    cr_assert_eq(reads_run(reads, "d", "{'insert': 'e', 'documents': [{'_id': 2}]}"), VD_OK);
    cr_assert_eq(vd_value_int32(reads_at(reads, "n")), 1, "%s", reads_text(reads));
    cr_assert(table_exists(reads, "c-2"));
    reads_crash(reads);
    cr_assert_eq(reads_run(reads, "d", "{'find': 'e'}"), VD_OK);
    cr_assert_eq(vd_value_int32(reads_at(reads, "cursor.firstBatch.0._id")), 2);
    reads_close(reads);
}

Test(fence, malformed_rows_are_refused)
{
    /* What is missing or wrong in a row; the last is good. */
    static const char *const rows[] = {
        "{}",
        "{'id': 5, 'db': 'd', 'name': 'x', 'options': {}}",
        "{'id': 0, 'db': 'd', 'name': 'x', 'uuid': %s, 'options': {}}",
        "{'id': 'x', 'db': 'd', 'name': 'x', 'uuid': %s, 'options': {}}",
        "{'id': 5, 'db': 1, 'name': 'x', 'uuid': %s, 'options': {}}",
        "{'id': 5, 'db': 'd', 'name': 1, 'uuid': %s, 'options': {}}",
        "{'id': 5, 'db': 'd', 'name': 'x', 'uuid': %s, 'options': 1}",
        "{'id': 5, 'db': 'd', 'name': 'x', 'uuid': %s}",
        "{'id': 5, 'db': 'd', 'name': 'x', 'uuid': %s, 'options': {}}",
    };
    static const uint8_t key_bytes[9] = {'c', 0, 0, 0, 0, 0, 0, 0, 5};
    vd_slice_t key = vd_slice(key_bytes, sizeof key_bytes);
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_engine_table_create(reads->storage.engine, "c-5", false, &err), &err);
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++) {
        const char *uuid = "{'$binary': {'base64': 'AAAAAAAAAAAAAAAAAAAAAA==', 'subType': '04'}}";
        char text[400];
        const char *gap = strstr(rows[i], "%s");
        if (gap == NULL)
            snprintf(text, sizeof text, "%s", rows[i]);
        else
            snprintf(text, sizeof text, "%.*s%s%s", (int)(gap - rows[i]), rows[i], uuid, gap + 2);
        vd_bson_t row = query_json(reads->texts, text);
        stor_cursor_t *cursor;
        reads_ok(stor_txn_begin(reads->session, &err), &err);
        reads_ok(stor_cursor_open(reads->session, "catalog", &cursor, &err), &err);
        reads_ok(stor_cursor_put(cursor, key, vd_slice(row.data, row.len), &err), &err);
        reads_ok(stor_txn_commit(reads->session, &err), &err);
        stor_catalog_t *second = NULL;
        struct stor_builds *builds = reads->storage.builds; /* each catalog makes its own */
        int rc = stor_catalog_open(&reads->storage, &second, &err);
        bool good = i + 1 == VD_COUNT_OF(rows);
        cr_assert_eq(rc, good ? VD_OK : VD_ERR_CORRUPT, "%s: %d %s", rows[i], rc, err.message);
        vd_error_clear(&err);
        stor_catalog_close(&second);
        reads->storage.builds = builds;
    }
    reads_close(reads);
}

/* ---- at the same time ---- */

#define THREADS 4
#define ROUNDS  60

typedef struct {
    reads_t *reads;
    int number;
    atomic_int *made; /* by round: who made it with its own options */
} creator_t;

/* A command on a thread of its own, as a worker does. */
static int run_alone(reads_t *reads, stor_session_t *session, vd_arena_t *arena, const char *json)
{
    stor_request_t *request = calloc(1, sizeof *request);
    vd_bson_t body = query_json(arena, json);
    vd_value_t value;
    stor_request_init(request, &reads->storage, arena);
    cr_assert(vd_bson_first(body, &request->command.name, &value));
    request->command.db = request->db = VD_SLICE_LIT("d");
    request->command.user = VD_SLICE_LIT("ann@admin");
    request->sections.body = body;
    stor_registry_add(request);
    stor_request_run(request, session);
    stor_registry_remove(request);
    int rc = request->status;
    free(request);
    return rc;
}

static void *create_all(void *context)
{
    creator_t *creator = context;
    stor_session_t *session = NULL;
    vd_arena_t *arena = vd_arena_create();
    cr_assert_eq(stor_session_open(creator->reads->storage.engine, &session, NULL), VD_OK);
    for (int i = 0; i < ROUNDS; i++) {
        /* Each with options of its own: exactly one of them can be first. */
        char *json =
            vd_arena_printf(arena, "{'create': 'c%d', 'validator': {'a': %d}}", i, creator->number);
        int rc = run_alone(creator->reads, session, arena, json);
        cr_assert(rc == VD_OK || rc == VD_ERR_NAMESPACE_EXISTS, "%d", rc);
        if (rc == VD_OK)
            atomic_fetch_add(&creator->made[i], 1 + 100 * creator->number);
        /* All with the same: all find it good. */
        json = vd_arena_printf(arena, "{'create': 's%d'}", i);
        cr_assert_eq(run_alone(creator->reads, session, arena, json), VD_OK);
        vd_arena_reset(arena);
    }
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    return NULL;
}

Test(fence, many_make_the_same)
{
    reads_t *reads = reads_open();
    pthread_t threads[THREADS];
    creator_t creators[THREADS];
    atomic_int made[ROUNDS] = {0};
    stor_collection_info_t *infos;
    uint32_t count;
    for (int i = 0; i < THREADS; i++) {
        creators[i] = (creator_t){reads, i, made};
        cr_assert_eq(pthread_create(&threads[i], NULL, create_all, &creators[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    cr_assert_eq(stor_catalog_list(reads->storage.catalog, reads->texts, VD_SLICE_LIT("d"), false,
                                   &infos, &count, NULL),
                 VD_OK);
    cr_assert_eq(count, 2 * ROUNDS);
    for (uint32_t i = 0; i < count; i++) {
        if (infos[i].name.data[0] != 'c')
            continue;
        char text[16];
        snprintf(text, sizeof text, "%.*s", VD_SLICE_FMT(infos[i].name));
        int number = atoi(text + 1), has = atomic_load(&made[number]);
        cr_assert_eq(has % 100, 1, "c%d was made %d times", number, has % 100);
        cr_assert_eq(
            vd_value_int32(vd_bson_get_path(infos[i].options, VD_SLICE_LIT("validator.a"))),
            has / 100);
    }
    reads_close(reads);
}

/* Writers make the collection again and again while it is dropped and renamed away. */
static void *insert_all(void *context)
{
    creator_t *creator = context;
    stor_session_t *session = NULL;
    vd_arena_t *arena = vd_arena_create();
    cr_assert_eq(stor_session_open(creator->reads->storage.engine, &session, NULL), VD_OK);
    for (int i = 0; i < 3 * ROUNDS; i++) {
        char *json = vd_arena_printf(arena, "{'insert': 'c', 'documents': [{'_id': %d}]}",
                                     creator->number * 10000 + i);
        cr_assert_eq(run_alone(creator->reads, session, arena, json), VD_OK);
        vd_arena_reset(arena);
    }
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    return NULL;
}

Test(fence, drop_and_rename_under_writers)
{
    reads_t *reads = reads_open();
    pthread_t threads[2];
    creator_t creators[2];
    for (int i = 0; i < 2; i++) {
        creators[i] = (creator_t){reads, i, NULL};
        cr_assert_eq(pthread_create(&threads[i], NULL, insert_all, &creators[i]), 0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        cr_assert_eq(reads_run(reads, "d", "{'drop': 'c'}"), VD_OK, "%s", reads_text(reads));
        int rc = reads_run(reads, "admin",
                           "{'renameCollection': 'd.c', 'to': 'd.e', 'dropTarget': true}");
        cr_assert(rc == VD_OK || rc == VD_ERR_NAMESPACE_NOT_FOUND, "%s", reads_text(reads));
        rc = reads_run(reads, "d", "{'collMod': 'c', 'validator': {'_id': {'$gte': 0}}}");
        cr_assert(rc == VD_OK || rc == VD_ERR_NAMESPACE_NOT_FOUND, "%s", reads_text(reads));
    }
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    reads_insert(reads, "d", "c", query_json(reads->texts, "{'0': {'_id': -5}}"));
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(reads_run(reads, "d", "{'validate': 'c', 'full': true}"), VD_OK);
        cr_assert(vd_value_as_flag(reads_at(reads, "valid")), "%s", reads_text(reads));
        if (i == 0)
            reads_crash(reads);
    }
    reads_close(reads);
}
