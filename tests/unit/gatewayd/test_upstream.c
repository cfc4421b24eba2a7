/* tests/unit/gatewayd/test_upstream.c — what becomes of requests when storage dies again and again,
 * puts off, or says what can't be read: each ends once, in bounded time. */
#include "libcommon/base/clock.h"
#include "tests/support/gate_fixture.h"
#include "veddb-gatewayd/wire.h"

#include <criterion/criterion.h>
#include <unistd.h>

static gate_fixture_t fixture;
static gate_client_t client;
static vd_bson_t reply;

static void setup(void)
{
    gate_fixture_init(&fixture);
}

static void teardown(void)
{
    gate_client_close(&client);
    gate_fixture_done(&fixture);
}

TestSuite(upstream, .init = setup, .fini = teardown, .timeout = 300);

static void start(void)
{
    gate_fixture_start(&fixture);
    gate_client_admin(&client, &fixture);
}

/* {name: "x"}, as a retryable write when txn_number is not negative. */
static void ask(const char *name, int64_t txn_number)
{
    static const uint8_t session[16] = {1};
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, name, "x");
    if (txn_number >= 0) {
        vd_bb_begin_document(bb, "lsid");
        vd_bb_binary(bb, "id", 4, vd_slice(session, 16));
        vd_bb_close(bb);
        vd_bb_int64(bb, "txnNumber", txn_number);
    }
    cr_assert(gate_client_send(&client, "test", 0));
}

static int receive(void)
{
    cr_assert(gate_client_receive(&client, &reply));
    return reply_ok(reply) ? 0 : reply_code(reply);
}

static bool has_retry_label(void)
{
    vd_value_t label = vd_bson_get_path(reply, VD_SLICE_LIT("errorLabels.0"));
    return label.type == VD_BSON_STRING &&
           vd_slice_is(vd_value_string(label), "RetryableWriteError");
}

static void kill_when(uint32_t (*count)(fake_storage_t *storage, const char *name),
                      const char *name, uint32_t wanted)
{
    for (int i = 0; i < 30000 && count(fixture.storage, name) < wanted; i++)
        (void)usleep(1000);
    cr_assert_eq(count(fixture.storage, name), wanted);
    fake_storage_kill(fixture.storage);
    (void)usleep(20000);
}

static uint32_t mishaps(fake_storage_t *storage, const char *name)
{
    (void)name; /* of all */
    return fake_storage_mishaps(storage);
}

Test(upstream, what_storage_dies_of_is_sent_only_so_often)
{
    static const char *const names[] = {"find", "insert"};
    start();
    for (int i = 0; i < 2; i++) {
        fake_storage_silence(fixture.storage, names[i]);
        ask(names[i], i == 0 ? -1 : 5);
        for (uint32_t n = 1; n <= GATE_SENDS_MAX; n++) {
            kill_when(fake_storage_count, names[i], n);
            fake_storage_revive(fixture.storage);
        }
        cr_expect_eq(receive(), 6, "%s: %d", names[i], reply_code(reply));
        cr_expect_eq(has_retry_label(), i == 1);
        cr_expect_eq(fake_storage_count(fixture.storage, names[i]), GATE_SENDS_MAX);
    }
    ask("aggregate", -1);
    cr_expect_eq(receive(), 0, "others go on");
}

Test(upstream, losses_are_counted_over_tries_of_one_request)
{
    start();
    /* Each life begins with "try again", which starts a new flight of the same request. */
    fake_storage_silence(fixture.storage, "find");
    fake_storage_fail_next(fixture.storage, "find", VD_ERR_AGAIN);
    ask("find", -1);
    for (uint32_t n = 1; n <= GATE_SENDS_MAX; n++) {
        kill_when(fake_storage_count, "find", n);
        fake_storage_fail_next(fixture.storage, "find", VD_ERR_AGAIN);
        fake_storage_revive(fixture.storage);
    }
    cr_expect_eq(receive(), 6);
}

Test(upstream, waiting_is_counted_from_the_first_wait)
{
    fixture.settings.storage_wait_ms = 1500;
    start();
    fake_storage_silence(fixture.storage, "find");
    /* From the second on it would be 2200 ms, each time; a busy machine is late now and then. */
    uint64_t took = UINT64_MAX;
    for (int tries = 0; took >= 2100 && tries < 10; tries++) {
        uint32_t before = fake_storage_count(fixture.storage, "find");
        fake_storage_kill(fixture.storage);
        (void)usleep(20000);
        uint64_t begun = vd_monotonic_ms();
        ask("find", -1);
        (void)usleep(700000);
        fake_storage_revive(fixture.storage);
        for (int i = 0; i < 1000 && fake_storage_count(fixture.storage, "find") == before; i++)
            (void)usleep(1000);
        fake_storage_kill(fixture.storage);
        cr_expect_eq(receive(), 6);
        cr_expect_geq(vd_monotonic_ms() - begun, 1400);
        if (fake_storage_count(fixture.storage, "find") > before) /* else it came too late for it */
            took = vd_monotonic_ms() - begun;
    }
    cr_expect_lt(took, 2100, "%llu ms", (unsigned long long)took);
}

Test(upstream, an_internal_command_that_is_put_off_ends)
{
    fixture.settings.storage_wait_ms = 900;
    start();
    fake_storage_put_off(fixture.storage, true);
    gate_client_t other;
    uint64_t begun = vd_monotonic_ms();
    cr_assert(gate_client_open(&other, fixture.settings.port));
    cr_expect_eq(gate_client_login(&other, "admin", "nobody", "p"), 6);
    uint64_t took = vd_monotonic_ms() - begun;
    cr_expect(took >= 800, "%llu ms", (unsigned long long)took);
    fake_storage_put_off(fixture.storage, false);
    cr_expect_eq(gate_client_login(&other, "admin", FIXTURE_USER, FIXTURE_PASSWORD), 0);
    gate_client_close(&other);
}

Test(upstream, answers_that_cannot_be_read_end_their_flight)
{
    start();
    fake_storage_mishap_next(fixture.storage, "find", FAKE_STORAGE_GARBLE);
    ask("find", -1);
    cr_expect_neq(receive(), 0);
    fake_storage_kill(fixture.storage); /* it was cut off, and ends */
    fake_storage_revive(fixture.storage);
    fake_storage_mishap_next(fixture.storage, "find", FAKE_STORAGE_REFUSE);
    ask("find", -1);
    cr_expect_eq(receive(), 17, "%d", reply_code(reply));
    ask("find", -1);
    cr_expect_eq(receive(), 0, "and nothing else");
}

Test(upstream, a_refusal_of_nobody_is_a_loss_of_all)
{
    start();
    fake_storage_mishap_next(fixture.storage, "find", FAKE_STORAGE_DENY);
    ask("find", -1);
    (void)usleep(50000);
    /* As storage does each second. */
    fake_storage_set_ready(fixture.storage, true);
    cr_expect_eq(receive(), 0, "a read is sent again");
    cr_expect_eq(fake_storage_resent(fixture.storage), 1);
    fake_storage_mishap_next(fixture.storage, "update", FAKE_STORAGE_DENY);
    ask("update", -1);
    cr_expect_eq(receive(), 6, "another is not");
    cr_expect_not(has_retry_label());
}

/* The write is done, storage dies before it answers, and is asked again. */
static void lose_answer_to(const char *internal)
{
    uint32_t n = fake_storage_mishaps(fixture.storage);
    fake_storage_mishap_next(fixture.storage, internal, FAKE_STORAGE_SWALLOW);
    cr_assert(gate_client_send(&client, "test", 0));
    kill_when(mishaps, internal, n + 1);
    fake_storage_revive(fixture.storage);
}

Test(upstream, administration_outlives_storage_exactly_once)
{
    start();
    for (int round = 0; round < 2; round++) {
        vd_bb_t *bb = gate_client_begin(&client);
        vd_bb_cstr(bb, "createUser", "anna");
        vd_bb_cstr(bb, "pwd", "p");
        vd_bb_begin_array(bb, "roles");
        vd_bb_close(bb);
        lose_answer_to("insert");
        cr_expect_eq(receive(), 0, "not: exists already (%d)", reply_code(reply));
        cr_expect_eq(fake_storage_documents(fixture.storage, "system.users"), 2);
        bb = gate_client_begin(&client);
        vd_bb_cstr(bb, "updateUser", "anna");
        vd_bb_cstr(bb, "pwd", "q");
        lose_answer_to("update");
        cr_expect_eq(receive(), 0);
        bb = gate_client_begin(&client);
        vd_bb_cstr(bb, "dropUser", "anna");
        lose_answer_to("delete");
        cr_expect_eq(receive(), 0, "not: no such user (%d)", reply_code(reply));
        cr_expect_eq(fake_storage_documents(fixture.storage, "system.users"), 1);
    }
    cr_expect_eq(fake_storage_resent(fixture.storage), 6);
}

Test(upstream, a_write_that_wants_no_reply_gets_none)
{
    start();
    static const char *const names[] = {"insert", "serverStatus"};
    for (uint32_t i = 0; i < 2; i++) {
        vd_bb_int32(gate_client_begin(&client), names[i], 1);
        cr_assert(gate_client_send(&client, "test", GATE_MSG_MORE_TO_COME));
        ask("find", -1);
        cr_expect_eq(receive(), 0);
        cr_expect_eq(client.last_response_to, client.next_id, "the next reply is the next one's");
        cr_expect_eq(fake_storage_unanswered(fixture.storage), i + 1);
    }
}

/* Two logins in one go, the first of which fails to load: the second has a load of its own. */
Test(upstream, a_load_that_fails_does_not_spoil_the_next)
{
    char first[1024];
    vd_buf_t out;
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    gate_scram_client_first(FIXTURE_USER, "abcdefghijklmnop", first);
    vd_buf_init(&out, 1 << 16);
    for (int32_t i = 1; i <= 3; i++) {
        vd_bson_t document;
        vd_bb_t *bb = gate_client_begin(&client);
        vd_bb_int32(bb, "saslStart", 1);
        vd_bb_cstr(bb, "mechanism", "SCRAM-SHA-256");
        vd_bb_binary(bb, "payload", 0, vd_slice_str(first));
        vd_bb_cstr(bb, "$db", "admin");
        cr_assert_eq(vd_bb_finish(bb, &document, NULL), VD_OK);
        cr_assert_eq(gate_wire_write_msg(&out, i, 0, 0, vd_slice(document.data, document.len)),
                     VD_OK);
    }
    fake_storage_mishap_next(fixture.storage, "find", FAKE_STORAGE_REFUSE);
    cr_assert(gate_client_send_bytes(&client, vd_buf_slice(&out).data, vd_buf_len(&out)));
    vd_buf_done(&out);
    for (int32_t i = 1; i <= 3; i++)
        cr_expect_eq(receive(), i == 1 ? 17 : 0, "%d: %d", i, reply_code(reply));
    cr_expect_eq(gate_client_login(&client, "admin", FIXTURE_USER, FIXTURE_PASSWORD), 0);
}
