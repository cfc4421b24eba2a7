/* tests/unit/storaged/test_cursors.c — client cursors by themselves: owners, a batch in work,
 * kills, idle time, the limit. (Over commands: test_reads.c.) */
#include "tests/support/ahead_clock.h"
#include "tests/unit/storaged/reads_support.h"

TestSuite(cursors, .init = ahead_clock_use, .fini = ahead_clock_back, .timeout = 300);

/* ---- a source that counts down ---- */

typedef struct source {
    int left;
    int *closed;
    void (*during)(struct source *source); /* called inside of a batch */
    reads_t *reads;
    int64_t id;
    int fail;
} source_t;

static int source_fill(void *state, stor_request_t *request, stor_batch_t *batch, bool *ret_done,
                       vd_error_t *err)
{
    source_t *source = state;
    static const uint8_t document[5] = {5};
    if (source->during != NULL)
        source->during(source);
    int rc = stor_request_check(request, err);
    if (rc == VD_OK && source->fail != 0)
        rc = vd_error_set(err, source->fail, "as asked for");
    if (rc != VD_OK)
        return rc;
    for (; source->left > 0; source->left--)
        if (!stor_batch_add(batch, (vd_bson_t){document, 5}))
            return VD_OK;
    *ret_done = true;
    return VD_OK;
}

static void source_close(void *state)
{
    ++*((source_t *)state)->closed;
}

static const stor_cursor_class_t source_class = {.fill = source_fill, .close = source_close};

static stor_request_t *begin(reads_t *reads)
{
    reads_begin(reads, "d");
    vd_bb_init_arena(&reads->request.reply, reads->arena, 1 << 20);
    return &reads->request;
}

static const stor_client_cursor_options_t plain = {.class = &source_class,
                                                   .ns = {(const uint8_t *)"d.c", 3}};

static source_t *make(reads_t *reads, stor_request_t *request,
                      const stor_client_cursor_options_t *options, int left, int *closed)
{
    vd_arena_t *arena = vd_arena_create();
    source_t *source = VD_ARENA_NEW(arena, source_t);
    vd_error_t err = VD_ERROR_INIT;
    *source = (source_t){.left = left, .closed = closed, .reads = reads};
    reads_ok(stor_cursors_create(request, options, &arena, source, &source->id, &err), &err);
    cr_assert_null(arena);
    cr_assert_gt(source->id, 0);
    return source;
}

static int more(reads_t *reads, int64_t id, uint32_t size)
{
    return stor_cursors_more(begin(reads), id, VD_SLICE_LIT("d.c"), size, NULL);
}

static uint64_t open_count(reads_t *reads)
{
    stor_cursors_stats_t stats;
    stor_cursors_stats(reads->storage.cursors, &stats);
    return stats.open;
}

Test(cursors, batches_until_the_end)
{
    reads_t *reads = reads_open();
    int closed = 0;
    source_t *source = make(reads, begin(reads), &plain, 5, &closed);
    int64_t id = source->id;
    cr_assert_eq(more(reads, id, 2), VD_OK);
    cr_assert_eq(reads->request.cursor_id, id);
    cr_assert_eq(reads->request.documents_returned, 2);
    cr_assert_eq(more(reads, id, 0), VD_OK); /* as many as fit */
    cr_assert_eq(reads->request.cursor_id, 0);
    cr_assert_eq(reads->request.documents_returned, 3);
    cr_assert_eq(closed, 1);
    cr_assert_eq(more(reads, id, 2), VD_ERR_CURSOR_NOT_FOUND);
    cr_assert_eq(open_count(reads), 0);
    reads_close(reads);
}

Test(cursors, an_error_ends_it)
{
    reads_t *reads = reads_open();
    int closed = 0;
    source_t *source = make(reads, begin(reads), &plain, 5, &closed);
    int64_t id = source->id;
    source->fail = VD_ERR_FAILED_TO_PARSE;
    cr_assert_eq(more(reads, id, 2), VD_ERR_FAILED_TO_PARSE);
    cr_assert_eq(closed, 1);
    cr_assert_eq(more(reads, id, 2), VD_ERR_CURSOR_NOT_FOUND);
    reads_close(reads);
}

Test(cursors, first_batch)
{
    static const struct {
        uint32_t size;
        bool single;
        int fail;
        bool open; /* afterwards */
    } cases[] = {{0, false, 0, true},
                 {3, false, 0, true},
                 {3, true, 0, false},
                 {50, false, 0, false},
                 {3, false, VD_ERR_FAILED_TO_PARSE, false}};
    int closed[VD_COUNT_OF(cases)] = {0};
    reads_t *reads = reads_open();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_arena_t *arena = vd_arena_create();
        source_t *source = VD_ARENA_NEW(arena, source_t);
        *source = (source_t){.left = 5, .closed = &closed[i], .fail = cases[i].fail};
        uint64_t before = open_count(reads);
        int rc = stor_cursors_first(begin(reads), &plain, &arena, source, cases[i].size,
                                    cases[i].single, NULL);
        cr_assert_eq(rc, cases[i].fail, "case %zu: %d", i, rc);
        cr_assert_null(arena);
        cr_assert_eq(open_count(reads) - before, cases[i].open, "case %zu", i);
        cr_assert_eq(closed[i], !cases[i].open, "case %zu", i);
        cr_assert_eq(reads->request.cursor_id != 0, cases[i].open, "case %zu", i);
    }
    reads_close(reads);
}

Test(cursors, only_for_its_owner)
{
    static const uint8_t one[16] = {1}, two[16] = {2}, user[32] = {3};
    reads_t *reads = reads_open();
    int closed = 0;
    reads->flags = 0;
    int64_t free_id = make(reads, begin(reads), &plain, 5, &closed)->id;
    stor_request_t *request = begin(reads);
    request->command.lsid = vd_slice(one, 16);
    request->command.lsid_user = vd_slice(user, 32);
    int64_t id = make(reads, request, &plain, 5, &closed)->id;
    cr_assert_eq(more(reads, id, 1), VD_ERR_LOCATION(50738)); /* without its session */
    request = begin(reads);
    request->command.lsid = vd_slice(two, 16);
    cr_assert_eq(stor_cursors_more(request, id, VD_SLICE_LIT("d.c"), 1, NULL),
                 VD_ERR_LOCATION(50738));
    cr_assert_eq(stor_cursors_more(request, free_id, VD_SLICE_LIT("d.c"), 1, NULL),
                 VD_ERR_LOCATION(50738));
    cr_assert_eq(stor_cursors_more(begin(reads), free_id, VD_SLICE_LIT("d.x"), 1, NULL),
                 VD_ERR_UNAUTHORIZED);
    cr_assert_eq(stor_cursors_kill(begin(reads), free_id, VD_SLICE_LIT("d.x")),
                 STOR_KILL_NOT_FOUND);
    reads->user = "bob@admin";
    cr_assert_eq(more(reads, free_id, 1), VD_ERR_UNAUTHORIZED);
    cr_assert_eq(stor_cursors_kill(begin(reads), free_id, VD_SLICE_LIT("d.c")), STOR_KILL_ALIVE);
    reads->flags = VDP_COMMAND_ALL_USERS;
    cr_assert_eq(more(reads, free_id, 1), VD_OK);
    cr_assert_eq(stor_cursors_kill(begin(reads), free_id, VD_SLICE_LIT("d.c")), STOR_KILL_KILLED);
    reads->user = "ann@admin";
    reads->flags = 0;
    request = begin(reads);
    request->command.lsid = vd_slice(one, 16);
    cr_assert_eq(stor_cursors_more(request, id, VD_SLICE_LIT("d.c"), 1, NULL), VD_OK);
    cr_assert_eq(closed, 1);
    reads_close(reads);
    cr_assert_eq(closed, 2); /* those that are open end with the table */
}

/* ---- inside of a batch ---- */

static stor_request_t *other_request(source_t *source, vd_arena_t *arena)
{
    stor_request_t *request = calloc(1, sizeof *request);
    stor_request_init(request, &source->reads->storage, arena);
    vd_bb_init_arena(&request->reply, arena, 1 << 20);
    request->command.user = vd_slice_str(source->reads->user);
    return request;
}

static void second_batch(source_t *source)
{
    vd_arena_t *arena = vd_arena_create();
    stor_request_t *request = other_request(source, arena);
    cr_assert_eq(stor_cursors_more(request, source->id, VD_SLICE_LIT("d.c"), 1, NULL),
                 VD_ERR_LOCATION(12051));
    /* In use is not idle. */
    atomic_fetch_add(&ahead_ms, 3600000);
    cr_assert_eq(stor_cursors_expire(source->reads->storage.cursors), 0);
    stor_cursors_stats_t stats;
    stor_cursors_stats(source->reads->storage.cursors, &stats);
    cr_assert_eq(stats.pinned, 1);
    free(request);
    vd_arena_destroy(&arena);
}

static void kill_it(source_t *source)
{
    vd_arena_t *arena = vd_arena_create();
    stor_request_t *request = other_request(source, arena);
    cr_assert_eq(stor_cursors_kill(request, source->id, VD_SLICE_LIT("d.c")), STOR_KILL_KILLED);
    cr_assert_eq(stor_cursors_kill(request, source->id, VD_SLICE_LIT("d.c")), STOR_KILL_NOT_FOUND);
    cr_assert_eq(*source->closed, 0); /* not under the hands of who works with it */
    free(request);
    vd_arena_destroy(&arena);
}

Test(cursors, a_batch_in_work_pins_it)
{
    reads_t *reads = reads_open();
    int closed = 0;
    source_t *source = make(reads, begin(reads), &plain, 5, &closed);
    int64_t id = source->id;
    source->during = second_batch;
    cr_assert_eq(more(reads, id, 1), VD_OK);
    source->during = NULL;
    cr_assert_eq(more(reads, id, 1), VD_OK);
    cr_assert_eq(closed, 0);
    reads_close(reads);
}

Test(cursors, killed_in_the_middle)
{
    for (int registered = 0; registered < 2; registered++) {
        reads_t *reads = reads_open();
        int closed = 0;
        source_t *source = make(reads, begin(reads), &plain, 5, &closed);
        int64_t id = source->id;
        source->during = kill_it;
        stor_request_t *request = begin(reads);
        request->number = 77;
        if (registered)
            stor_registry_add(request);
        int rc = stor_cursors_more(request, id, VD_SLICE_LIT("d.c"), 1, NULL);
        if (registered)
            stor_registry_remove(request);
        /* The operation is told when it is known; else the cursor just ends behind the batch. */
        cr_assert_eq(rc, registered ? VD_ERR_INTERRUPTED : VD_ERR_LOCATION(237), "%d", rc);
        cr_assert_eq(closed, 1);
        cr_assert_eq(more(reads, id, 1), VD_ERR_CURSOR_NOT_FOUND);
        reads_close(reads);
    }
}

/* ---- many at once ---- */

static bool of_one(const stor_session_key_t *key, const void *context)
{
    return key->bytes[0] == *(const uint8_t *)context;
}

Test(cursors, kills_by_session_and_collection)
{
    static const uint8_t one[16] = {1}, two[16] = {2};
    reads_t *reads = reads_open();
    int closed = 0;
    stor_client_cursor_options_t of_collection = plain;
    of_collection.collection_id = 12;
    for (int i = 0; i < 3; i++) {
        stor_request_t *request = begin(reads);
        request->command.lsid = vd_slice(i == 0 ? two : one, 16);
        (void)make(reads, request, &plain, 5, &closed);
        (void)make(reads, begin(reads), &of_collection, 5, &closed);
    }
    cr_assert_eq(stor_cursors_kill_sessions(reads->storage.cursors, of_one, one), 2);
    cr_assert_eq(closed, 2);
    cr_assert_eq(stor_cursors_kill_collection(reads->storage.cursors, 0), 0);
    cr_assert_eq(stor_cursors_kill_collection(reads->storage.cursors, 13), 0);
    cr_assert_eq(stor_cursors_kill_collection(reads->storage.cursors, 12), 3);
    cr_assert_eq(closed, 5);
    cr_assert_eq(open_count(reads), 1);
    reads_close(reads);
}

Test(cursors, idle_ones_end)
{
    reads_t *reads = reads_open();
    int closed = 0;
    stor_client_cursor_options_t forever = plain;
    forever.no_timeout = true;
    (void)make(reads, begin(reads), &forever, 5, &closed);
    int64_t used = make(reads, begin(reads), &plain, 50, &closed)->id;
    int64_t idle = make(reads, begin(reads), &plain, 50, &closed)->id;
    atomic_fetch_add(&ahead_ms, 400000);
    cr_assert_eq(more(reads, used, 1), VD_OK);
    cr_assert_eq(stor_cursors_expire(reads->storage.cursors), 0);
    atomic_fetch_add(&ahead_ms, 400000);
    cr_assert_eq(stor_cursors_expire(reads->storage.cursors), 1);
    cr_assert_eq(more(reads, idle, 1), VD_ERR_CURSOR_NOT_FOUND);
    cr_assert_eq(more(reads, used, 1), VD_OK);
    stor_cursors_stats_t stats;
    stor_cursors_stats(reads->storage.cursors, &stats);
    cr_assert_eq(stats.open, 2);
    cr_assert_eq(stats.open_no_timeout, 1);
    cr_assert_eq(stats.timed_out, 1);
    cr_assert_eq(stats.total_opened, 3);
    cr_assert_eq(closed, 1);
    reads_close(reads);
}

Test(cursors, there_is_a_limit)
{
    reads_t *reads = reads_open();
    int closed = 0;
    int64_t last = 0, id = -1;
    for (int i = 0; i < VD_CURSORS_OPEN_MAX; i++)
        last = make(reads, begin(reads), &plain, 5, &closed)->id;
    vd_arena_t *arena = vd_arena_create();
    source_t *source = VD_ARENA_NEW(arena, source_t);
    *source = (source_t){.left = 5, .closed = &closed};
    cr_assert_eq(stor_cursors_create(begin(reads), &plain, &arena, source, &id, NULL),
                 VD_ERR_TEMPORARILY_UNAVAILABLE);
    cr_assert_null(arena);
    cr_assert_eq(id, -1);
    cr_assert_eq(closed, 1);
    cr_assert_eq(stor_cursors_kill(begin(reads), last, VD_SLICE_LIT("d.c")), STOR_KILL_KILLED);
    (void)make(reads, begin(reads), &plain, 5, &closed);
    reads_close(reads);
}

/* ---- limits of users ---- */

/* Tries to make one for that user, who may have so many. */
static int try_make(reads_t *reads, const char *user, uint32_t max, int *closed, int64_t *ret_id)
{
    stor_request_t *request = begin(reads);
    vd_arena_t *arena = vd_arena_create();
    source_t *source = VD_ARENA_NEW(arena, source_t);
    *source = (source_t){.left = 5, .closed = closed};
    request->command.user = vd_slice_str(user);
    request->command.cursors_max = max;
    return stor_cursors_create(request, &plain, &arena, source, ret_id, NULL);
}

Test(cursors, of_one_user_there_is_another_limit)
{
    reads_t *reads = reads_open();
    int closed = 0;
    int64_t first = 0, id = 0;
    cr_assert_eq(try_make(reads, "anna@x", 2, &closed, &first), VD_OK);
    cr_assert_eq(try_make(reads, "anna@x", 2, &closed, &id), VD_OK);
    cr_assert_eq(try_make(reads, "anna@x", 2, &closed, &id), VD_ERR_TOO_MANY_CURSORS);
    cr_assert_eq(closed, 1, "what was not made is closed");
    cr_assert_eq(try_make(reads, "bert@x", 2, &closed, &id), VD_OK);
    stor_request_t *request = begin(reads);
    request->command.user = VD_SLICE_LIT("anna@x");
    cr_assert_eq(stor_cursors_kill(request, first, VD_SLICE_LIT("d.c")), STOR_KILL_KILLED);
    cr_assert_eq(try_make(reads, "anna@x", 2, &closed, &id), VD_OK);
    cr_assert_eq(try_make(reads, "anna@x", 2, &closed, &id), VD_ERR_TOO_MANY_CURSORS);
    cr_assert_eq(try_make(reads, "anna@x", 0, &closed, &id), VD_OK, "no limit any more");
    cr_assert_eq(open_count(reads), 4);
    reads_close(reads);
}

/* A document is counted as 21 bytes: its own 5, and what stands around it. */
Test(cursors, bytes_of_a_batch_and_of_a_result)
{
    static const struct {
        uint32_t batch_max;
        uint64_t result_max;
        int left, batches, rc; /* how many batches until the end or the error */
    } cases[] = {
        {0, 0, 10, 1, VD_OK},    {42, 0, 10, 5, VD_OK},
        {1, 0, 3, 3, VD_OK}, /* one document fits always */
        {0, 210, 10, 1, VD_OK},  {0, 209, 10, 1, VD_ERR_RESULT_TOO_LARGE},
        {42, 210, 10, 5, VD_OK}, {42, 100, 10, 3, VD_ERR_RESULT_TOO_LARGE},
    };
    reads_t *reads = reads_open();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        int closed = 0, batches = 0, rc = VD_OK;
        stor_request_t *request = begin(reads);
        request->command.result_max = cases[i].result_max;
        int64_t id = make(reads, request, &plain, cases[i].left, &closed)->id;
        do {
            request = begin(reads);
            request->command.batch_max = cases[i].batch_max;
            rc = stor_cursors_more(request, id, VD_SLICE_LIT("d.c"), 0, NULL);
            batches++;
        } while (rc == VD_OK && request->cursor_id != 0);
        cr_expect_eq(rc, cases[i].rc, "case %zu: %d", i, rc);
        cr_expect_eq(batches, cases[i].batches, "case %zu: %d", i, batches);
        cr_expect_eq(closed, 1, "case %zu", i);
        cr_expect_eq(open_count(reads), 0, "case %zu", i);
    }
    reads_close(reads);
}
