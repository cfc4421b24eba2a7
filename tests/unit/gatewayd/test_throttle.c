/* tests/unit/gatewayd/test_throttle.c — limits on the way of requests: a whole gateway before a
 * fake storage. */
#include "tests/support/gate_fixture.h"
#include "veddb-gatewayd/commands/limits.h"

#include <criterion/criterion.h>

static gate_fixture_t fixture;

static void setup(void)
{
    gate_fixture_init(&fixture);
    fixture.settings.limits.values[GATE_LIMIT_BURST] = 1000;
    gate_fixture_start(&fixture);
    cr_assert(gate_fixture_wait_ready(&fixture));
}

static void teardown(void)
{
    gate_fixture_done(&fixture);
}

TestSuite(throttle, .init = setup, .fini = teardown, .timeout = 300);

static int find(gate_client_t *client)
{
    vd_bson_t reply;
    cr_assert(gate_client_on(client, "test", "find", "c", &reply));
    return reply_ok(reply) ? 0 : reply_code(reply);
}

/* By the command, as a client gives it. */
static void set(gate_client_t *client, gate_limit_t limit, int64_t value)
{
    vd_bson_t reply;
    vd_bb_t *bb = gate_client_begin(client);
    vd_bb_int32(bb, "limits", 1);
    vd_bb_begin_document(bb, "set");
    vd_bb_int64(bb, gate_limit_rows[limit].name, value);
    vd_bb_close(bb);
    cr_assert(gate_client_run(client, "admin", &reply));
    cr_assert(reply_ok(reply));
}

Test(throttle, over_a_rate)
{
    static const gate_limit_t limits[] = {
        GATE_LIMIT_OPERATIONS_PER_USER, GATE_LIMIT_OPERATIONS_PER_ADDRESS,
        GATE_LIMIT_OPERATIONS_TOTAL, GATE_LIMIT_BYTES_IN_PER_USER, GATE_LIMIT_BYTES_OUT_PER_USER};
    gate_client_t client;
    vd_bson_t reply;
    gate_client_admin(&client, &fixture);
    for (size_t i = 0; i < VD_COUNT_OF(limits); i++) {
        set(&client, limits[i], 1); /* a reply of hundreds of bytes is minutes of debt */
        int code = 0;
        for (int k = 0; k < 100 && code == 0; k++)
            code = find(&client);
        cr_expect_eq(code, 462, "%s: %d", gate_limit_rows[limits[i]].name, code);
        cr_expect(gate_client_simple(&client, "admin", "ping", &reply) && reply_ok(reply),
                  "what the gateway answers itself is not refused");
        cr_expect(gate_client_on(&client, "test", "killCursors", "c", &reply));
        cr_expect_neq(reply_code(reply), 462, "what ends something is not refused");
        set(&client, limits[i], 0);
        cr_expect_eq(find(&client), 0);
    }
    gate_client_close(&client);
}

Test(throttle, who_waits_gets_his_answer_or_leaves)
{
    gate_client_t client, other;
    gate_client_admin(&client, &fixture);
    gate_client_admin(&other, &fixture);
    set(&client, GATE_LIMIT_WAIT_MAX, 60000);
    set(&client, GATE_LIMIT_OPERATIONS_PER_USER, 100);
    for (int i = 0; i < 110; i++) /* some of them more than may be saved up */
        cr_expect_eq(find(&client), 0);
    set(&client, GATE_LIMIT_OPERATIONS_PER_USER, 1);
    for (int i = 0; i < 3; i++) { /* sent ahead */
        vd_bb_cstr(gate_client_begin(&other), "find", "c");
        cr_expect(gate_client_send(&other, "test", 0));
    }
    gate_client_close(&other); /* while they wait */
    set(&client, GATE_LIMIT_OPERATIONS_PER_USER, 0);
    cr_expect_eq(find(&client), 0);
    gate_client_close(&client);
}

Test(throttle, connections_of_a_user)
{
    gate_client_t first, second;
    vd_bson_t reply;
    gate_client_admin(&first, &fixture);
    set(&first, GATE_LIMIT_CONNECTIONS_PER_USER, 1);
    cr_expect_eq(find(&first), 0);
    gate_client_admin(&second, &fixture);
    cr_expect_eq(find(&second), 462);
    cr_expect_not(gate_client_simple(&second, "admin", "ping", &reply), "it was closed");
    gate_client_close(&second);
    cr_expect_eq(find(&first), 0);
    gate_client_close(&first);
}

Test(throttle, words_of_an_operator)
{
    static const struct {
        const char *words;
        bool good;
    } cases[] = {
        {"show", true},
        {"set operations_per_user=5", true},
        {"  set   user=a@b  cursors_per_user=5 sessions_per_user=6 ", true},
        {"set burst=2s bytes_in_total=5MB", true},
        {"reset user=a@b", true},
        {"reset", true},
        {"", false},
        {"frob", false},
        {"set", false},
        {"set user=a@b", false},
        {"set operations_per_user", false},
        {"set operations_per_user=", false},
        {"set =5", false},
        {"set user=a cursors_per_user=5", false},
        {"set user=a@b burst=2s", false},
        {"show operations_per_user", false},
        {"reset operations_per_user=5", false},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_buf_t out;
        vd_buf_init(&out, 1 << 18);
        int rc = gate_limits_ask(fixture.gate, vd_slice_str(cases[i].words), &out, NULL);
        cr_expect_eq(rc == VD_OK, cases[i].good, "%s", cases[i].words);
        cr_expect_eq(vd_buf_len(&out) > 2, cases[i].good, "%s", cases[i].words);
        vd_buf_done(&out);
    }
    cr_expect_eq(gate_quota_on(fixture.gate->quota), 0);
}
