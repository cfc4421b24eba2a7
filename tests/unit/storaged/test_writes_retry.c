/* tests/unit/storaged/test_writes_retry.c — writes that come twice, meet each other, or are
 * stopped: retryable writes before and after a crash, fault points, many threads on the same
 * documents. */
#include "libcommon/base/fault.h"
#include "libcommon/bson/compare.h"
#include "tests/unit/storaged/reads_support.h"

#define THREADS 4

static int64_t number_at(vd_bson_t reply, const char *path)
{
    int64_t n = -1;
    (void)vd_value_as_int64(vd_bson_get_path(reply, vd_slice_str(path)), &n);
    return n;
}

/* A retryable write when txn_number > 0. */
static void check(reads_t *reads, int64_t txn_number, const char *command, const char *expected)
{
    vd_bson_iter_t iter;
    reads->txn_number = txn_number;
    (void)reads_run(reads, "db", command); /* what came of it is in the reply */
    reads->txn_number = 0;
    vd_bson_iter_init(&iter, query_json(reads->texts, expected));
    while (vd_bson_iter_next(&iter)) {
        vd_value_t is = vd_bson_get_path(reads->reply, iter.name), want = iter.value;
        if (want.type == VD_BSON_NULL && vd_value_is_missing(is))
            continue;
        cr_assert(vd_value_equal(is, want), "%s: %.*s is %s, not %s in %s", command,
                  VD_SLICE_FMT(iter.name), vd_value_to_json(reads->texts, is, 500),
                  vd_value_to_json(reads->texts, want, 500), reads_text(reads));
    }
}

/* ---- the same command again ---- */

#define INSERT_3 "{'insert': 'c', 'documents': [{'_id': 1}, {'_id': 2}, {'_id': 3}]}"
#define UPDATES                                                                                    \
    "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': 1}}}, {'q': {'x': 7}, "     \
    "'u': {'$inc': {'a': 1}}, 'upsert': true}, {'q': {'_id': 77}, 'u': {'$inc': {'a': 1}}}, "      \
    "{'q': {'_id': 2}, 'u': {'$inc': {'a': 5}}}]}"
#define MODIFY                                                                                     \
    "{'findAndModify': 'c', 'query': {'_id': 1}, 'update': {'$inc': {'a': 1}}, 'fields': {'a': "   \
    "1}, 'new': true}"
#define DELETES                                                                                    \
    "{'delete': 'c', 'deletes': [{'q': {'_id': 2}, 'limit': 1}, {'q': {'_id': 88}, 'limit': 1}, "  \
    "{'q': {}, 'limit': 1}]}"

Test(retry, results_come_again)
{
    static const char *const both[] = {
        INSERT_3, "{'n': 3, 'retriedStmtIds': null}",
        UPDATES,  "{'n': 3, 'nModified': 2, 'retriedStmtIds': null, 'upserted.1': null}",
        MODIFY,   "{'value': {'_id': 1, 'a': 2}, 'retriedStmtId': null}"};
    reads_t *reads = reads_open();
    for (int i = 0; i < 3; i++) {
        /* Each number in a session of its own: a newer one forbids the older. */
        reads->lsid[0] = (uint8_t)i;
        check(reads, 1, both[2 * i], both[2 * i + 1]);
    }
    for (int crashed = 0; crashed < 2; crashed++) {
        reads->lsid[0] = 0;
        check(reads, 1, INSERT_3, "{'n': 3, 'retriedStmtIds': [0, 1, 2], 'writeErrors': null}");
        reads->lsid[0] = 1;
        check(reads, 1, UPDATES,
              "{'n': 3, 'nModified': 2, 'retriedStmtIds': [0, 1, 2, 3], 'upserted.0.index': 1}");
        reads->lsid[0] = 2;
        check(reads, 0, "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 2}}}]}",
              "{'n': 1}");
        check(reads, 1, MODIFY,
              "{'lastErrorObject': {'n': 1, 'updatedExisting': true}, 'value': {'_id': 1, 'a': "
              "2}, 'retriedStmtId': 0}");
        check(reads, 0, "{'find': 'c', 'filter': {'_id': {'$lt': 3}}}",
              "{'cursor.firstBatch': [{'_id': 1, 'a': 2}, {'_id': 2, 'a': 5}]}");
        if (crashed == 0)
            reads_crash(reads);
    }
    cr_assert_eq(reads->storage.counters.retried_statements, 2 * (3 + 4 + 1));
    reads_close(reads);
}

Test(retry, sessions_and_numbers)
{
    reads_t *reads = reads_open();
    check(reads, 5, INSERT_3, "{'n': 3}");
    check(reads, 4, INSERT_3, "{'ok': 0, 'code': 225}");
    check(reads, 6, DELETES, "{'n': 2, 'retriedStmtIds': null}");
    check(reads, 6, DELETES, "{'n': 2, 'retriedStmtIds': [0, 1, 2]}");
    check(reads, 5, INSERT_3, "{'ok': 0, 'code': 225}");
    reads_crash(reads);
    check(reads, 5, INSERT_3, "{'ok': 0, 'code': 225}");
    check(reads, 6, DELETES, "{'n': 2, 'retriedStmtIds': [0, 1, 2]}");
    check(reads, 7, INSERT_3, "{'n': 2, 'writeErrors.0.index': 2, 'retriedStmtIds': null}");
    check(reads, 7, UPDATES,
          "{'n': 0, 'writeErrors.0.index': 0, 'writeErrors.0.code': 40638, "
          "'retriedStmtIds': null}");
    reads_close(reads);
}

Test(retry, only_what_was_done_is_kept)
{
    static const char ordered[] = "{'insert': 'c', 'documents': [{'_id': 1}, {'_id': 1}, {'_id': "
                                  "2}]}";
    static const char unordered[] =
        "{'insert': 'c', 'ordered': false, 'stmtIds': [4, 5, 9, 10, 11], 'documents': [{'_id': "
        "11}, {'_id': 12}, {'_id': 13}, {'_id': 1}, {'_id': 14}]}";
    reads_t *reads = reads_open();
    check(reads, 1, ordered, "{'n': 1, 'writeErrors.0.index': 1}");
    check(reads, 1, ordered, "{'n': 1, 'writeErrors.0.index': 1, 'retriedStmtIds': [0]}");
    check(reads, 2, unordered, "{'n': 4, 'writeErrors.0.index': 3, 'writeErrors.1': null}");
    check(reads, 0, "{'delete': 'c', 'deletes': [{'q': {'_id': 1}, 'limit': 1}]}", "{'n': 1}");
    check(reads, 2, unordered, "{'n': 5, 'writeErrors': null, 'retriedStmtIds': [4, 5, 9, 11]}");
    check(reads, 2, unordered,
          "{'n': 5, 'writeErrors': null, 'retriedStmtIds': [4, 5, 9, 10, 11]}");
    /* A no-op before another statement: done again it would undo what came after it. */
    check(reads, 0, "{'insert': 'c', 'documents': [{'_id': 20, 'a': 1}]}", "{'n': 1}");
    for (int again = 0; again < 2; again++)
        check(reads, 3,
              "{'update': 'c', 'updates': [{'q': {'_id': 20}, 'u': {'$set': {'a': 1}}}, "
              "{'q': {'_id': 20}, 'u': {'$set': {'a': 2}}}]}",
              "{'n': 2, 'nModified': 1}");
    check(reads, 0, "{'find': 'c', 'filter': {'_id': 20}}", "{'cursor.firstBatch.0.a': 2}");
    reads_close(reads);
}

Test(retry, refused)
{
    reads_t *reads = reads_open();
    check(reads, 1, INSERT_3, "{'n': 3}");
    check(reads, 2,
          "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'a': 1}}, {'q': {}, 'u': "
          "{'$set': {'a': 1}}, 'multi': true}]}",
          "{'n': 1, 'writeErrors.0.index': 1, 'writeErrors.0.code': 72, 'writeErrors.0.errmsg': "
          "'Cannot use (or request) retryable writes with multi=true'}");
    check(reads, 3, "{'delete': 'c', 'deletes': [{'q': {}, 'limit': 0}]}",
          "{'n': 0, 'writeErrors.0.code': 72, 'writeErrors.0.errmsg': 'Cannot use (or request) "
          "retryable writes with limit=0'}");
    check(reads, 4, "{'insert': 'c', 'documents': [{}], 'stmtId': 'x'}", "{'code': 14}");
    check(reads, 4, "{'insert': 'c', 'documents': [{}], 'stmtId': -1}", "{'code': 2}");
    reads_close(reads);
}

/* ---- faults in the middle ---- */

static vdp_sequence_t many(reads_t *reads, int first, int count)
{
    vd_buf_t buf;
    vd_bb_t bb;
    vdp_sequence_t sequence = {.name = VD_SLICE_LIT("documents"), .count = (uint32_t)count};
    vd_buf_init(&buf, 16 << 20);
    vd_bb_init(&bb, 1000);
    for (int i = first; i < first + count; i++) {
        vd_bson_t document;
        vd_bb_reset(&bb);
        vd_bb_int32(&bb, "_id", i);
        cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
        cr_assert_eq(vd_buf_append(&buf, document.data, document.len), VD_OK);
    }
    sequence.documents =
        vd_slice(vd_arena_copy(reads->texts, buf.data, vd_buf_len(&buf)), vd_buf_len(&buf));
    vd_bb_done(&bb);
    vd_buf_done(&buf);
    return sequence;
}

Test(retry, faults, .timeout = 300)
{
    static const struct {
        const char *fault;
        int done; /* when the fault strikes */
    } cases[] = {
        {"write.before_commit=error:times=1", 0},
        {"write.after_commit=error:times=1", 500},
        {"write.before_commit=error:times=1:skip=1", 500},
        {"write.after_commit=error:times=1:skip=2", 1200},
    };
    reads_t *reads = reads_open();
    check(reads, 0, "{'insert': 'c', 'documents': [{'_id': -1}]}", "{'n': 1}");
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        int64_t txn = (int64_t)i + 1;
        cr_assert_eq(vd_fault_arm(cases[i].fault, NULL), VD_OK);
        reads->sequence = many(reads, (int)i * 10000, 1200);
        check(reads, txn, "{'insert': 'c'}", "{'ok': 0, 'code': 90015}");
        vd_fault_disarm(NULL);
        if (i % 2 == 1)
            reads_crash(reads);
        reads->sequence = many(reads, (int)i * 10000, 1200);
        check(reads, txn, "{'insert': 'c'}", "{'ok': 1, 'n': 1200, 'writeErrors': null}");
        vd_value_t retried = reads_at(reads, "retriedStmtIds");
        int again =
            retried.type == VD_BSON_ARRAY ? (int)vd_bson_count(vd_value_document(retried)) : 0;
        cr_assert_eq(again, cases[i].done, "case %zu: %d", i, again);
        check(reads, 0, "{'count': 'c'}",
              vd_arena_printf(reads->texts, "{'n': %d}", 1 + 1200 * ((int)i + 1)));
    }
    reads_close(reads);
}

/* Each command fails before or after its commit, and is sent again: done once. */
Test(retry, once_whatever_happens, .timeout = 300)
{
    static const struct {
        const char *command, *reply, *state;
    } cases[] = {
        {"{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': 1}}}]}",
         "{'n': 1, 'nModified': 1}", "{'cursor.firstBatch': [{'_id': 1, 'a': 2}]}"},
        {"{'update': 'c', 'updates': [{'q': {'a': 1}, 'u': {'$inc': {'a': 1}}}]}",
         "{'n': 1, 'nModified': 1}", "{'cursor.firstBatch': [{'_id': 1, 'a': 2}]}"},
        {"{'update': 'c', 'updates': [{'q': {'_id': 2}, 'u': {'$inc': {'a': 1}}, 'upsert': true}]}",
         "{'n': 1, 'nModified': 0, 'upserted': [{'index': 0, '_id': 2}]}",
         "{'cursor.firstBatch': [{'_id': 1, 'a': 1}, {'_id': 2, 'a': 1}]}"},
        {"{'delete': 'c', 'deletes': [{'q': {'a': 1}, 'limit': 1}]}", "{'n': 1}",
         "{'cursor.firstBatch': []}"},
        {"{'findAndModify': 'c', 'query': {'a': 1}, 'update': {'$inc': {'a': 1}}, 'new': true}",
         "{'value': {'_id': 1, 'a': 2}, 'lastErrorObject.n': 1}",
         "{'cursor.firstBatch': [{'_id': 1, 'a': 2}]}"},
        {"{'findAndModify': 'c', 'query': {'a': 1}, 'remove': true}",
         "{'value': {'_id': 1, 'a': 1}, 'lastErrorObject': {'n': 1}}", "{'cursor.firstBatch': []}"},
        {"{'findAndModify': 'c', 'query': {'_id': 3}, 'update': {'a': 3}, 'upsert': true, 'new': "
         "true}",
         "{'value': {'_id': 3, 'a': 3}, 'lastErrorObject': {'n': 1, 'updatedExisting': false, "
         "'upserted': 3}}",
         "{'cursor.firstBatch': [{'_id': 1, 'a': 1}, {'_id': 3, 'a': 3}]}"},
    };
    static const char *const faults[] = {"write.before_commit=error:times=1",
                                         "write.after_commit=error:times=1"};
    reads_t *reads = reads_open();
    int64_t txn = 0;
    for (size_t i = 0; i < 2 * VD_COUNT_OF(cases); i++) {
        const char *command = cases[i / 2].command;
        check(reads, 0, "{'delete': 'c', 'deletes': [{'q': {}, 'limit': 0}]}", "{'ok': 1}");
        check(reads, 0, "{'insert': 'c', 'documents': [{'_id': 1, 'a': 1}]}", "{'n': 1}");
        /* A point upsert commits its search first: nothing, so no fault is met there. */
        cr_assert_eq(vd_fault_arm(faults[i % 2], NULL), VD_OK);
        check(reads, ++txn, command, "{'ok': 0, 'code': 90015}");
        vd_fault_disarm(NULL);
        for (int again = 0; again < 2; again++)
            check(reads, txn, command, cases[i / 2].reply);
        check(reads, 0, "{'find': 'c'}", cases[i / 2].state);
    }
    reads_close(reads);
}

/* ---- many at once ---- */

typedef struct {
    reads_t *reads;
    const char *const *commands; /* NULL at the end; %d: the round */
    int rounds;
    int64_t n, failures, returned;
    const char *failure;
    vd_arena_t *texts;
} client_t;

static void client_command(client_t *client, stor_session_t *session, vd_arena_t *arena,
                           const char *text)
{
    stor_request_t request;
    vd_slice_t name;
    vd_value_t value;
    vd_bson_t body = query_json(arena, text);
    stor_request_init(&request, &client->reads->storage, arena);
    request.command.db = VD_SLICE_LIT("db");
    request.command.user = VD_SLICE_LIT("ann@admin");
    if (!vd_bson_first(body, &name, &value))
        return;
    request.command.name = name;
    request.sections.body = body;
    stor_request_run(&request, session);
    vd_bson_t reply = request.reply_document;
    if (request.status != VD_OK || !vd_value_is_missing(vd_bson_get(reply, "writeErrors"))) {
        client->failures++;
        if (client->failure == NULL)
            client->failure = vd_arena_strdup(client->texts, vd_bson_to_json(arena, reply, 400));
    }
    if (number_at(reply, "n") > 0)
        client->n += number_at(reply, "n");
    client->returned += vd_bson_get(reply, "value").type == VD_BSON_OBJECT;
}

static void *client_main(void *arg)
{
    client_t *client = arg;
    stor_session_t *session = NULL;
    vd_arena_t *arena = vd_arena_create();
    if (stor_session_open(client->reads->storage.engine, &session, NULL) == VD_OK)
        for (int round = 0; round < client->rounds; round++)
            for (const char *const *command = client->commands; *command != NULL; command++) {
                char text[1000];
                const char *mark = strstr(*command, "%d");
                vd_arena_reset(arena);
                if (mark == NULL)
                    snprintf(text, sizeof text, "%s", *command);
                else
                    snprintf(text, sizeof text, "%.*s%d%s", (int)(mark - *command), *command, round,
                             mark + 2);
                client_command(client, session, arena, text);
            }
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    return NULL;
}

/* Runs the commands in every thread at once; sums what they got. */
static client_t together(reads_t *reads, const char *const *commands, int rounds)
{
    client_t clients[THREADS], sum = {0};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        clients[i] = (client_t){
            .reads = reads, .commands = commands, .rounds = rounds, .texts = vd_arena_create()};
        cr_assert_eq(pthread_create(&threads[i], NULL, client_main, &clients[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        sum.n += clients[i].n;
        sum.failures += clients[i].failures;
        sum.returned += clients[i].returned;
        if (clients[i].failure != NULL)
            sum.failure = vd_arena_strdup(reads->texts, clients[i].failure);
        vd_arena_destroy(&clients[i].texts);
    }
    return sum;
}

Test(together, one_counter, .timeout = 300)
{
    static const char *const commands[] = {
        "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': 1}}}]}",
        "{'update': 'c', 'updates': [{'q': {'k': 1}, 'u': {'$inc': {'a': 1}}}]}",
        "{'findAndModify': 'c', 'query': {'k': 1}, 'sort': {'z': 1}, 'update': {'$inc': {'a': 1}}}",
        "{'update': 'c', 'updates': [{'q': {}, 'u': {'$inc': {'a': 1}}, 'multi': true}]}", NULL};
    reads_t *reads = reads_open();
    check(reads, 0,
          "{'insert': 'c', 'documents': [{'_id': 1, 'k': 1, 'a': 0}, {'_id': 2, 'a': 0}]}",
          "{'n': 2}");
    client_t sum = together(reads, commands, 300);
    cr_assert_eq(sum.failures, 0, "%s", sum.failure);
    cr_assert_eq(sum.n, THREADS * 300 * 4);
    cr_assert_eq(sum.returned, THREADS * 300);
    check(reads, 0, "{'find': 'c', 'projection': {'a': 1}}",
          vd_arena_printf(reads->texts,
                          "{'cursor.firstBatch': [{'_id': 1, 'a': %d}, {'_id': 2, 'a': %d}]}",
                          THREADS * 300 * 4, THREADS * 300));
    reads_close(reads);
}

Test(together, upserts, .timeout = 300)
{
    static const char *const commands[] = {
        "{'update': 'u', 'updates': [{'q': {'_id': %d}, 'u': {'$inc': {'a': 1}}, 'upsert': true}]}",
        "{'findAndModify': 'u', 'query': {'_id': {'x': %d}}, 'update': {'$inc': {'a': 1}}, "
        "'upsert': true, 'new': true}",
        "{'update': 'u', 'updates': [{'q': {'_id': 'k%d', 'k': 1}, 'u': {'$inc': {'a': 1}}, "
        "'upsert': true}]}",
        NULL};
    reads_t *reads = reads_open();
    client_t sum = together(reads, commands, 200);
    cr_assert_eq(sum.failures, 0, "%s", sum.failure);
    cr_assert_eq(sum.n, 2 * THREADS * 200);
    check(reads, 0, "{'count': 'u'}", "{'n': 600}");
    check(reads, 0, vd_arena_printf(reads->texts, "{'count': 'u', 'query': {'a': %d}}", THREADS),
          "{'n': 600}");
    reads_close(reads);
}

Test(together, inserts_of_the_same, .timeout = 300)
{
    static const char *const commands[] = {
        "{'insert': 'c', 'ordered': false, 'documents': [{'_id': %d}, {'_id': 1001}, {'_id': "
        "1002}, {'_id': 1003}]}",
        "{'delete': 'c', 'deletes': [{'q': {'_id': {'$gt': 1000}}, 'limit': 0}]}", NULL};
    reads_t *reads = reads_open();
    client_t sum = together(reads, commands, 200);
    cr_assert_gt(sum.failures, 0);
    check(reads, 0, "{'delete': 'c', 'deletes': [{'q': {'_id': {'$gt': 1000}}, 'limit': 0}]}",
          "{'ok': 1}");
    check(reads, 0, "{'count': 'c'}", "{'n': 200}");
    /* Inserted and deleted alike: the counts of all replies add up. */
    cr_assert_eq(reads->storage.counters.documents_inserted -
                     reads->storage.counters.documents_deleted,
                 200);
    reads_close(reads);
}

Test(together, queue, .timeout = 300)
{
    static const char *const commands[] = {
        "{'findAndModify': 'q', 'query': {'open': 1}, 'sort': {'p': -1}, 'remove': true}", NULL};
    reads_t *reads = reads_open();
    vd_bb_t bb;
    vd_bson_t list;
    char buf[12];
    vd_bb_init(&bb, 1 << 20);
    for (uint32_t i = 0; i < 200; i++) {
        vd_bb_open_document(&bb, vd_array_name(i, buf));
        vd_bb_int32(&bb, "_id", (int32_t)i);
        vd_bb_int32(&bb, "open", 1);
        vd_bb_int32(&bb, "p", (int32_t)(i * 37 % 200));
        vd_bb_close(&bb);
    }
    cr_assert_eq(vd_bb_finish(&bb, &list, NULL), VD_OK);
    reads_insert(reads, "db", "q", list);
    vd_bb_done(&bb);
    client_t sum = together(reads, commands, 60); /* 240 takers for 200 */
    cr_assert_eq(sum.failures, 0, "%s", sum.failure);
    cr_assert_eq(sum.returned, 200);
    check(reads, 0, "{'count': 'q'}", "{'n': 0}");
    reads_close(reads);
}

/* ---- stopped ---- */

static void *killer_main(void *arg)
{
    stor_storage_t *storage = arg;
    while (!stor_registry_kill(storage, atomic_load(&storage->next_number), VD_SLICE_NULL, true))
        usleep(100);
    return NULL;
}

Test(together, killed_in_the_middle, .timeout = 300)
{
    reads_t *reads = reads_open();
    pthread_t killer;
    reads->sequence = many(reads, 0, 60000);
    check(reads, 0, "{'insert': 'c'}", "{'n': 60000}");
    cr_assert_eq(pthread_create(&killer, NULL, killer_main, &reads->storage), 0);
    check(reads, 0,
          "{'update': 'c', 'updates': [{'q': {}, 'u': {'$set': {'a': 1}}, 'multi': "
          "true}]}",
          "{'ok': 0, 'code': 11601, 'n': null}");
    pthread_join(killer, NULL);
    reads_close(reads);
}

/* Drops the collection again and again while others write into it. */
static void *dropper_main(void *arg)
{
    client_t *client = arg;
    stor_session_t *session = NULL;
    vd_arena_t *arena = vd_arena_create();
    if (stor_session_open(client->reads->storage.engine, &session, NULL) == VD_OK)
        for (int i = 0; i < client->rounds; i++) {
            stor_request_t request;
            vd_error_t err = VD_ERROR_INIT;
            usleep(3000);
            vd_arena_reset(arena);
            stor_request_init(&request, &client->reads->storage, arena);
            request.db = VD_SLICE_LIT("db");
            request.session = session;
            request.variables.now_ms = vd_wall_ms();
            int rc = stor_catalog_drop(&request, request.db, VD_SLICE_LIT("c"), &err);
            client->n += rc == VD_OK;
            client->failures += rc != VD_OK && rc != VD_ERR_NAMESPACE_NOT_FOUND;
        }
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    return NULL;
}

Test(together, drops_get_their_turn, .timeout = 300)
{
    reads_t *reads = reads_open();
    client_t dropper = {.reads = reads, .rounds = 40};
    pthread_t thread;
    int gone = 0;
    cr_assert_eq(pthread_create(&thread, NULL, dropper_main, &dropper), 0);
    for (int i = 0; i < 60; i++) {
        reads->sequence = many(reads, 0, 5000);
        cr_assert_eq(reads_run(reads, "db", "{'insert': 'c', 'ordered': false}"), VD_OK, "%s",
                     reads_text(reads));
        cr_assert_eq(reads_run(reads, "db",
                               "{'update': 'c', 'updates': [{'q': {'a': {'$exists': "
                               "false}}, 'u': {'$set': {'a': 1}}, 'multi': true}]}"),
                     VD_OK, "%s", reads_text(reads));
        int64_t code = number_at(reads->reply, "writeErrors.0.code");
        cr_assert(code == -1 || code == 175, "%s", reads_text(reads));
        gone += code == 175;
        vd_arena_reset(reads->texts);
    }
    pthread_join(thread, NULL);
    cr_assert_eq(dropper.failures, 0);
    cr_assert_gt(dropper.n, 0);
    (void)gone; /* chance decides which of the two a drop meets */
    reads_close(reads);
}
