/* tests/unit/storaged/test_sessions.c — results of retryable writes kept and given again, sessions
 * that wait for each other, their limits and their end. */
#include "libcommon/bson/compare.h"
#include "tests/support/ahead_clock.h"
#include "tests/unit/storaged/reads_support.h"

#include <pthread.h>

/* Sessions are idle for half an hour. */
TestSuite(sessions, .init = ahead_clock_use, .fini = ahead_clock_back, .timeout = 300);

static const uint8_t nobody[32] = {7};

static void begin(stor_request_t *request, reads_t *reads, const uint8_t lsid[16], int64_t txn)
{
    request->command.lsid = vd_slice(lsid, 16);
    request->command.lsid_user = vd_slice(nobody, 32);
    request->txn_number = txn;
    request->session = reads->session;
    request->variables.now_ms = vd_wall_ms();
}

static stor_request_t *request_of(reads_t *reads, const uint8_t lsid[16], int64_t txn)
{
    reads_begin(reads, "d");
    begin(&reads->request, reads, lsid, txn);
    return &reads->request;
}

/* Records a result as a write does; the status of write_begin when that refuses. */
static int record(reads_t *reads, const uint8_t lsid[16], int64_t txn,
                  const stor_statement_result_t *result)
{
    stor_request_t *request = request_of(reads, lsid, txn);
    vd_error_t err = VD_ERROR_INIT;
    bool replay;
    int rc = stor_sessions_write_begin(request, &replay, &err);
    if (rc == VD_OK) {
        reads_ok(stor_txn_begin(reads->session, &err), &err);
        (void)stor_txn_timestamp(reads->session);
        reads_ok(stor_sessions_record(request, result, &err), &err);
        reads_ok(stor_txn_commit(reads->session, &err), &err);
    }
    stor_sessions_write_end(request);
    return rc;
}

static int look(reads_t *reads, const uint8_t lsid[16], int64_t txn, int32_t statement,
                stor_statement_result_t *ret)
{
    stor_statement_result_t ignored;
    return stor_sessions_lookup(request_of(reads, lsid, txn), statement,
                                ret == NULL ? &ignored : ret, NULL);
}

static void check_modify(reads_t *reads, const stor_statement_result_t *is)
{
    cr_assert_eq(is->kind, 4);
    cr_assert_eq(is->timestamp, 12345);
    cr_assert_eq(is->n, 1);
    cr_assert_eq(is->n_modified, 1);
    cr_assert_eq(is->statement, 9);
    cr_assert(is->updated_existing && is->has_value);
    cr_assert(vd_value_equal(is->upserted, query_value(reads->texts, "'up'")));
    cr_assert_eq(vd_bson_compare(is->value, query_json(reads->texts, "{'_id': 1, 'a': 2}")), 0);
}

Test(sessions, results_come_again_also_after_reopening)
{
    static const uint8_t one[16] = {1}, two[16] = {2};
    reads_t *reads = reads_open();
    stor_statement_result_t group = {.statement = 4, .count = 3, .n = 1, .kind = 1};
    stor_statement_result_t modify = {.statement = 9,
                                      .count = 1,
                                      .timestamp = 12345,
                                      .n = 1,
                                      .n_modified = 1,
                                      .upserted = query_value(reads->texts, "'up'"),
                                      .value = query_json(reads->texts, "{'_id': 1, 'a': 2}"),
                                      .updated_existing = true,
                                      .has_value = true,
                                      .kind = 4};
    cr_assert_eq(record(reads, one, 5, &group), VD_OK);
    cr_assert_eq(record(reads, one, 5, &modify), VD_OK);
    for (int reopened = 0; reopened < 2; reopened++) {
        stor_statement_result_t found;
        for (int32_t statement = 4; statement <= 6; statement++) {
            cr_assert_eq(look(reads, one, 5, statement, &found), VD_OK);
            cr_assert_eq(found.statement, 4);
            cr_assert_eq(found.count, 3);
            cr_assert_eq(found.kind, 1);
            cr_assert(vd_value_is_missing(found.upserted) && !found.has_value);
        }
        cr_assert_eq(look(reads, one, 5, 9, &found), VD_OK);
        check_modify(reads, &found);
        cr_assert_eq(reads->request.depends_on, 12345);
        cr_assert_eq(look(reads, one, 5, 3, NULL), VD_ERR_NOT_FOUND);
        cr_assert_eq(look(reads, one, 5, 7, NULL), VD_ERR_NOT_FOUND);
        cr_assert_eq(look(reads, one, 5, 10, NULL), VD_ERR_NOT_FOUND);
        cr_assert_gt(reads->request.depends_on, 0); /* a miss depends on what was seen */
        cr_assert_eq(look(reads, one, 6, 4, NULL), VD_ERR_NOT_FOUND);
        cr_assert_eq(look(reads, two, 5, 4, NULL), VD_ERR_NOT_FOUND);
        if (reopened == 0)
            reads_crash(reads);
    }
    reads_close(reads);
}

Test(sessions, numbers_only_rise)
{
    static const uint8_t one[16] = {1}, two[16] = {2};
    stor_statement_result_t result = {.statement = 0, .count = 1, .n = 1, .kind = 2};
    reads_t *reads = reads_open();
    cr_assert_eq(record(reads, one, 5, &result), VD_OK);
    for (int reopened = 0; reopened < 2; reopened++) {
        bool replay = true;
        vd_error_t err = VD_ERROR_INIT;
        cr_assert_eq(record(reads, one, 4, &result), VD_ERR_TRANSACTION_TOO_OLD);
        cr_assert_eq(record(reads, one, 0, &result), VD_ERR_TRANSACTION_TOO_OLD);
        stor_request_t *request = request_of(reads, one, 5);
        reads_ok(stor_sessions_write_begin(request, &replay, &err), &err);
        cr_assert(replay);
        stor_sessions_write_end(request);
        stor_sessions_write_end(request); /* twice is fine: the frame does so */
        request = request_of(reads, two, 1 + reopened);
        reads_ok(stor_sessions_write_begin(request, &replay, &err), &err);
        cr_assert_not(replay);
        stor_sessions_write_end(request);
        request = request_of(reads, two, -1); /* no retryable write */
        reads_ok(stor_sessions_write_begin(request, &replay, &err), &err);
        cr_assert_not(replay);
        cr_assert_null(request->executing);
        if (reopened == 0)
            reads_crash(reads);
    }
    reads_close(reads);
}

/* What a refused or failed transaction recorded is not there. */
Test(sessions, a_rolled_back_write_leaves_no_result)
{
    static const uint8_t one[16] = {1};
    stor_statement_result_t result = {.statement = 0, .count = 1, .n = 1, .kind = 2};
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    stor_request_t *request = request_of(reads, one, 1);
    bool replay;
    reads_ok(stor_sessions_write_begin(request, &replay, &err), &err);
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_sessions_record(request, &result, &err), &err);
    reads_ok(stor_sessions_lookup(request, 0, &result, &err), &err); /* in its own transaction */
    stor_txn_rollback(reads->session);
    stor_sessions_write_end(request);
    cr_assert_eq(look(reads, one, 1, 0, NULL), VD_ERR_NOT_FOUND);
    reads_close(reads);
}

/* ---- one at a time ---- */

typedef struct {
    reads_t *reads;
    int *counter; /* guarded by the session alone */
    int rounds;
    int rc;
    stor_request_t *request;
    atomic_bool waiting;
} user_t;

static void *user_run(void *context)
{
    static const uint8_t one[16] = {1};
    user_t *user = context;
    stor_session_t *session = NULL;
    vd_arena_t *arena = vd_arena_create();
    cr_assert_eq(stor_session_open(user->reads->storage.engine, &session, NULL), VD_OK);
    for (int i = 0; i < user->rounds && user->rc == VD_OK; i++) {
        bool replay;
        begin(user->request, user->reads, one, 1);
        user->request->session = session;
        atomic_store(&user->waiting, true);
        user->rc = stor_sessions_write_begin(user->request, &replay, NULL);
        if (user->rc == VD_OK)
            ++*user->counter;
        stor_sessions_write_end(user->request);
    }
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    return NULL;
}

static user_t user_make(reads_t *reads, int *counter, int rounds)
{
    user_t user = {.reads = reads, .counter = counter, .rounds = rounds};
    user.request = calloc(1, sizeof *user.request);
    stor_request_init(user.request, &reads->storage, reads->arena);
    return user;
}

Test(sessions, writes_of_one_session_wait_for_each_other)
{
    enum { USERS = 4, ROUNDS = 300 };
    reads_t *reads = reads_open();
    user_t users[USERS];
    pthread_t threads[USERS];
    int counter = 0;
    for (int i = 0; i < USERS; i++) {
        users[i] = user_make(reads, &counter, ROUNDS);
        cr_assert_eq(pthread_create(&threads[i], NULL, user_run, &users[i]), 0);
    }
    for (int i = 0; i < USERS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
        cr_assert_eq(users[i].rc, VD_OK);
        free(users[i].request);
    }
    cr_assert_eq(counter, USERS * ROUNDS);
    reads_close(reads);
}

Test(sessions, who_waits_can_be_killed_and_a_busy_session_stays)
{
    static const uint8_t one[16] = {1};
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    pthread_t thread;
    int counter = 0;
    bool replay;
    stor_request_t *request = request_of(reads, one, 1);
    reads_ok(stor_sessions_write_begin(request, &replay, &err), &err);
    user_t user = user_make(reads, &counter, 1);
    cr_assert_eq(pthread_create(&thread, NULL, user_run, &user), 0);
    while (!atomic_load(&user.waiting))
        usleep(100);
    stor_session_key_t key = stor_session_key_of(&request->command);
    atomic_fetch_add(&ahead_ms, 3600000);
    stor_sessions_expire(&reads->storage, reads->session);
    stor_sessions_end(&reads->storage, &key, reads->session);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 1);
    atomic_store(&user.request->killed, VD_ERR_INTERRUPTED);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_assert_eq(user.rc, VD_ERR_INTERRUPTED);
    cr_assert_eq(counter, 0);
    stor_sessions_write_end(request);
    stor_sessions_end(&reads->storage, &key, reads->session);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 0);
    free(user.request);
    reads_close(reads);
}

/* Whoever looks for idle ones may have read its clock before another thread used one: ended, it
 * would forget the write whose retry is on its way. */
Test(sessions, the_latest_used_is_not_idle)
{
    reads_t *reads = reads_open();
    stor_session_key_t key = {{7}};
    vd_error_t err = VD_ERROR_INIT;
    atomic_fetch_add(&ahead_ms, 5000);
    reads_begin(reads, "d");
    reads_ok(stor_sessions_use(&reads->request, &key, &err), &err);
    atomic_fetch_sub(&ahead_ms, 5000);
    stor_sessions_expire(&reads->storage, reads->session);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 1);
    reads_close(reads);
}

/* ---- limits, the end ---- */

Test(sessions, there_is_a_limit)
{
    reads_t *reads = reads_open();
    stor_sessions_t *sessions = reads->storage.sessions;
    stor_session_key_t key = {{0}};
    vd_error_t err = VD_ERROR_INIT;
    reads_begin(reads, "d");
    for (uint32_t i = 0; i < VD_SESSIONS_MAX; i++) {
        vd_put_u32(key.bytes + 12, i);
        reads_ok(stor_sessions_use(&reads->request, &key, &err), &err);
    }
    cr_assert_eq(stor_sessions_count(sessions), VD_SESSIONS_MAX);
    reads_ok(stor_sessions_use(&reads->request, &key, &err), &err); /* a known one */
    key.bytes[0] = 1;
    cr_assert_eq(stor_sessions_use(&reads->request, &key, NULL), VD_ERR_TOO_MANY_LOGICAL_SESSIONS);
    key.bytes[0] = 0;
    stor_sessions_end(&reads->storage, &key, reads->session);
    key.bytes[0] = 1;
    reads_ok(stor_sessions_use(&reads->request, &key, &err), &err);
    reads_close(reads);
}

Test(sessions, of_one_user_there_is_another)
{
    reads_t *reads = reads_open();
    stor_session_key_t key = {{0}}, other = {{0}};
    vd_error_t err = VD_ERROR_INIT;
    other.bytes[20] = 1; /* another user's */
    for (int pass = 0; pass < 2; pass++) {
        reads_begin(reads, "d");
        reads->request.command.sessions_max = 2;
        key.bytes[0] = 1;
        reads_ok(stor_sessions_use(&reads->request, &key, &err), &err);
        key.bytes[0] = 2;
        reads_ok(stor_sessions_use(&reads->request, &key, &err), &err);
        reads_ok(stor_sessions_use(&reads->request, &key, &err), &err); /* a known one */
        key.bytes[0] = 3;
        cr_assert_eq(stor_sessions_use(&reads->request, &key, NULL),
                     VD_ERR_TOO_MANY_LOGICAL_SESSIONS);
        reads_ok(stor_sessions_use(&reads->request, &other, &err), &err);
        key.bytes[0] = 1;
        stor_sessions_end(&reads->storage, &key, reads->session);
        if (pass == 1) /* what is forgotten does not count either */
            stor_sessions_forget(reads->storage.sessions);
        key.bytes[0] = 3;
        reads_ok(stor_sessions_use(&reads->request, &key, &err), &err);
        stor_sessions_end(&reads->storage, &key, reads->session);
    }
    reads_close(reads);
}

Test(sessions, touch_checks_the_id)
{
    static const uint8_t bytes[20] = {1};
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    reads_begin(reads, "d");
    reads_ok(stor_sessions_touch(&reads->request, &err), &err);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 0);
    reads->request.command.lsid = vd_slice(bytes, 15);
    cr_assert_eq(stor_sessions_touch(&reads->request, NULL), VD_ERR_INVALID_UUID);
    reads->request.command.lsid = vd_slice(bytes, 16);
    reads_ok(stor_sessions_touch(&reads->request, &err), &err);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 1);
    reads_close(reads);
}

Test(sessions, idle_ones_end_with_their_rows)
{
    static const uint8_t one[16] = {1}, two[16] = {2};
    stor_statement_result_t result = {.count = 1, .n = 1, .kind = 2};
    reads_t *reads = reads_open();
    for (result.statement = 0; result.statement < 250; result.statement++)
        cr_assert_eq(record(reads, one, 1, &result), VD_OK);
    stor_sessions_expire(&reads->storage, reads->session);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 1);
    cr_assert_eq(look(reads, one, 1, 249, NULL), VD_OK);
    atomic_fetch_add(&ahead_ms, 1801000);
    result.statement = 0;
    cr_assert_eq(record(reads, two, 1, &result), VD_OK);
    stor_sessions_expire(&reads->storage, reads->session);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 1);
    for (int32_t statement = 0; statement < 250; statement++)
        cr_assert_eq(look(reads, one, 1, statement, NULL), VD_ERR_NOT_FOUND);
    cr_assert_eq(look(reads, two, 1, 0, NULL), VD_OK);
    /* Of an earlier start: swept, when old. */
    reads_crash(reads);
    stor_sessions_expire(&reads->storage, reads->session);
    cr_assert_eq(look(reads, two, 1, 0, NULL), VD_OK);
    atomic_fetch_add(&ahead_ms, 1801000);
    stor_sessions_expire(&reads->storage, reads->session);
    cr_assert_eq(look(reads, two, 1, 0, NULL), VD_ERR_NOT_FOUND);
    reads_close(reads);
}

/* A session that wrote many statements long ago and one just before a restart: its retry comes
 * after the keeper's first pass. */
Test(sessions, an_old_row_does_not_take_a_new_result_with_it)
{
    static const uint8_t one[16] = {1};
    stor_statement_result_t result = {.count = 1, .n = 1, .kind = 2};
    reads_t *reads = reads_open();
    for (result.statement = 0; result.statement < 5; result.statement++)
        cr_assert_eq(record(reads, one, 1, &result), VD_OK);
    atomic_fetch_add(&ahead_ms, 1801000);
    result.statement = 2;
    cr_assert_eq(record(reads, one, 2, &result), VD_OK);
    reads_crash(reads);
    stor_sessions_expire(&reads->storage, reads->session);
    cr_assert_eq(look(reads, one, 2, 2, NULL), VD_OK);
    cr_assert_eq(look(reads, one, 1, 0, NULL), VD_ERR_NOT_FOUND);
    cr_assert_eq(look(reads, one, 1, 4, NULL), VD_ERR_NOT_FOUND);
    cr_assert_eq(record(reads, one, 1, &result), VD_ERR_TRANSACTION_TOO_OLD);
    reads_close(reads);
}

Test(sessions, damaged_rows_are_corrupt)
{
    static const uint8_t one[16] = {1};
    stor_statement_result_t result = {.count = 1, .n = 1, .kind = 4, .has_value = true};
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    result.upserted = query_value(reads->texts, "'up'");
    result.value = query_json(reads->texts, "{'a': 1}");
    cr_assert_eq(record(reads, one, 1, &result), VD_OK);
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_cursor_open(reads->session, "sessions", &cursor, &err), &err);
    reads_ok(stor_cursor_next(cursor, true, &key, &value, &err), &err);
    key = vd_arena_copy_slice(reads->texts, key);
    value = vd_arena_copy_slice(reads->texts, value);
    stor_txn_rollback(reads->session);
    for (size_t len = 0; len < value.len; len++) {
        reads_ok(stor_txn_begin(reads->session, &err), &err);
        reads_ok(stor_cursor_open(reads->session, "sessions", &cursor, &err), &err);
        reads_ok(stor_cursor_update(cursor, key, vd_slice(value.data, len), &err), &err);
        reads_ok(stor_txn_commit(reads->session, &err), &err);
        int rc = look(reads, one, 1, 0, NULL);
        cr_assert(rc == VD_ERR_CORRUPT || rc == VD_ERR_INVALID_BSON, "%zu bytes: %d", len, rc);
        stor_sessions_expire(&reads->storage, reads->session); /* survives it */
    }
    reads_close(reads);
}
