/* tests/unit/storaged/test_fail_points.c — fail points of drivers' tests: what they meet, what is
 * left of it. */
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/fail_points.h"

static reads_t *open_with_faults(void)
{
    reads_t *reads = reads_open();
    reads->storage.settings.test_faults = true;
    reads->storage.fail_points = stor_fail_points_create(&reads->storage.settings);
    return reads;
}

static void close_with_faults(reads_t *reads)
{
    stor_fail_points_destroy(&reads->storage.fail_points);
    reads_close(reads);
}

static void set(reads_t *reads, const char *rest, int code, int before)
{
    char text[300];
    snprintf(text, sizeof text, "{'configureFailPoint': 'onPrimaryTransactionalWrite', %s}", rest);
    reads->txn_number = 0;
    cr_assert_eq(reads_run(reads, "admin", text), code, "%s: %s", rest, reads_text(reads));
    if (code == VD_OK)
        cr_assert_eq(vd_value_int32(reads_at(reads, "count")), before);
}

/* True when the client's connection would be closed. */
static bool written(reads_t *reads, int64_t number, const char *text, int code)
{
    reads->txn_number = number;
    int rc = reads_run(reads, "db", text);
    reads->txn_number = 0;
    cr_assert_eq(rc, code, "%s", reads_text(reads));
    return (reads->request.reply_flags & VDP_REPLY_CLOSE) != 0;
}

static void expect(reads_t *reads, const char *documents)
{
    char text[200];
    cr_assert_eq(reads_run(reads, "db", "{'find': 'c', 'sort': {'_id': 1}}"), VD_OK);
    snprintf(text, sizeof text, "{'cursor.firstBatch': %s}", documents);
    reads_expect(reads, "left", text);
}

Test(fail_points, committed_and_the_connection_closed)
{
    reads_t *reads = open_with_faults();
    set(reads, "'mode': {'times': 2}", VD_OK, 0);
    cr_expect_not(written(reads, 0, "{'insert': 'c', 'documents': [{'_id': 1}]}", VD_OK),
                  "not retryable");
    cr_expect(written(reads, 1, "{'insert': 'c', 'documents': [{'_id': 2}]}", VD_OK));
    cr_expect_not(written(reads, 1, "{'insert': 'c', 'documents': [{'_id': 2}]}", VD_OK),
                  "what was done is done");
    cr_expect(written(reads, 2,
                      "{'findAndModify': 'c', 'query': {'_id': 2}, 'update': {'$set': {'a': 1}}}",
                      VD_OK));
    cr_expect_not(
        written(reads, 3, "{'delete': 'c', 'deletes': [{'q': {'_id': 1}, 'limit': 1}]}", VD_OK));
    expect(reads, "[{'_id': 2, 'a': 1}]");
    set(reads, "'mode': 'off'", VD_OK, 2);
    close_with_faults(reads);
}

Test(fail_points, failed_before_the_commit)
{
    reads_t *reads = open_with_faults();
    set(reads, "'mode': {'skip': 1}, 'data': {'failBeforeCommitExceptionCode': 1}", VD_OK, 0);
    static const char updates[] =
        "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': 1}}, 'upsert': true}, "
        "{'q': {'_id': 1}, 'u': {'$inc': {'a': 1}}}]}";
    cr_expect(written(reads, 1, updates, VD_ERR_INTERNAL));
    expect(reads, "[{'_id': 1, 'a': 1}]");
    cr_expect(written(reads, 1, updates, VD_ERR_INTERNAL), "the first one is not done again");
    expect(reads, "[{'_id': 1, 'a': 1}]");
    set(reads,
        "'mode': {'times': 1}, 'data': {'failBeforeCommitExceptionCode': 1, 'closeConnection': "
        "false}",
        VD_OK, 2);
    cr_expect_not(written(reads, 1, updates, VD_ERR_INTERNAL));
    cr_expect_not(written(reads, 1, updates, VD_OK));
    expect(reads, "[{'_id': 1, 'a': 2}]");
    close_with_faults(reads);
}

Test(fail_points, refused)
{
    reads_t *reads = open_with_faults();
    set(reads, "'mode': 'perhaps'", VD_ERR_BAD_VALUE, 0);
    set(reads, "'mode': 'alwaysOn', 'data': {'errorCode': 1}", VD_ERR_BAD_VALUE, 0);
    set(reads, "'mode': 'alwaysOn', 'data': {'failBeforeCommitExceptionCode': 'x'}",
        VD_ERR_BAD_VALUE, 0);
    cr_expect_not(written(reads, 1, "{'insert': 'c', 'documents': [{'_id': 1}]}", VD_OK));
    stor_fail_points_destroy(&reads->storage.fail_points);
    set(reads, "'mode': 'alwaysOn'", VD_ERR_COMMAND_NOT_FOUND, 0);
    reads->storage.settings.test_faults = false;
    cr_expect_null(stor_fail_points_create(&reads->storage.settings));
    close_with_faults(reads);
}

Test(fail_points, without_a_limit_time_is_not_over)
{
    reads_t *reads = open_with_faults();
    cr_expect_not(
        written(reads, 0, "{'insert': 'c', 'documents': [{'_id': 1}, {'_id': 2}]}", VD_OK));
    cr_assert_eq(reads_run(reads, "admin",
                           "{'configureFailPoint': 'maxTimeAlwaysTimeOut', 'mode': {'times': 1}}"),
                 VD_OK);
    cr_assert_eq(reads_run(reads, "db", "{'find': 'c'}"), VD_OK, "it has none");
    cr_assert_eq(reads_run(reads, "admin", "{'configureFailPoint': 'another', 'mode': 'off'}"),
                 VD_ERR_LOCATION(82));
    close_with_faults(reads);
}
