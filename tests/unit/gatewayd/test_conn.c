/* tests/unit/gatewayd/test_conn.c — a whole gateway over real TLS, before a scripted storage. */
#include "tests/support/gate_fixture.h"
#include "veddb-gatewayd/compress.h"
#include "veddb-gatewayd/conn.h"
#include "veddb-gatewayd/wire.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

static gate_fixture_t fixture;
static gate_client_t client;

static void setup(void)
{
    gate_fixture_init(&fixture);
}

static void teardown(void)
{
    gate_fixture_done(&fixture);
}

TestSuite(conn, .init = setup, .fini = teardown, .timeout = 300);

static void start_logged_in(void)
{
    gate_fixture_start(&fixture);
    gate_client_admin(&client, &fixture);
}

static bool text_is(vd_bson_t document, const char *name, const char *text)
{
    vd_value_t v = vd_bson_get(document, name);
    return v.type == VD_BSON_STRING && vd_slice_is(vd_value_string(v), text);
}

static int64_t number(vd_bson_t document, const char *path)
{
    int64_t n = -1;
    (void)vd_value_as_int64(vd_bson_get_path(document, vd_slice_str(path)), &n);
    return n;
}

Test(conn, hello_before_login_shapes_a_replica_set)
{
    vd_bson_t reply;
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    cr_assert(gate_client_simple(&client, "admin", "hello", &reply));
    cr_assert(reply_ok(reply));
    cr_expect(vd_value_as_flag(vd_bson_get(reply, "isWritablePrimary")));
    cr_expect(text_is(reply, "setName", "veddb"));
    cr_expect_eq(number(reply, "setVersion"), 1);
    cr_expect_eq(number(reply, "maxWireVersion"), 21);
    cr_expect_eq(number(reply, "minWireVersion"), 0);
    cr_expect_eq(number(reply, "logicalSessionTimeoutMinutes"), 30);
    cr_expect_eq(number(reply, "maxMessageSizeBytes"), 48000000);
    cr_expect_eq(number(reply, "maxWriteBatchSize"), 100000);
    cr_expect_eq(vd_bson_get(reply, "electionId").type, VD_BSON_OBJECTID);
    cr_expect_eq(vd_bson_get_path(reply, VD_SLICE_LIT("lastWrite.opTime.ts")).type,
                 VD_BSON_TIMESTAMP);
    cr_expect_eq(vd_bson_get_path(reply, VD_SLICE_LIT("topologyVersion.processId")).type,
                 VD_BSON_OBJECTID);
    cr_expect_eq(vd_bson_get_path(reply, VD_SLICE_LIT("$clusterTime.signature.hash")).type,
                 VD_BSON_BINARY);
    cr_expect_eq(vd_bson_get(reply, "operationTime").type, VD_BSON_TIMESTAMP);
    char me[64];
    (void)snprintf(me, sizeof me, "127.0.0.1:%u", fixture.settings.port);
    cr_expect(text_is(reply, "me", me));
    cr_expect(text_is(reply, "primary", me));
    gate_client_close(&client);
}

Test(conn, sessions_live_as_long_as_storage_says)
{
    static const struct {
        uint64_t ms;
        int64_t minutes;
    } cases[] = {{5 * 60000, 5}, {90 * 1000, 1}, {1000, 1}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        gate_t gate = {.settings = {.session_timeout_ms = cases[i].ms}};
        cr_expect_eq(gate_session_minutes(&gate), cases[i].minutes);
    }
    vd_bson_t reply;
    fixture.settings.session_timeout_ms = cases[0].ms;
    start_logged_in();
    cr_assert(gate_client_simple(&client, "admin", "hello", &reply));
    cr_expect_eq(number(reply, "logicalSessionTimeoutMinutes"), 5);
    vd_bb_int32(gate_client_begin(&client), "getParameter", 1);
    vd_bb_int32(&client.bb, "localLogicalSessionTimeoutMinutes", 1);
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_expect_eq(number(reply, "localLogicalSessionTimeoutMinutes"), 5);
    gate_client_close(&client);
}

Test(conn, legacy_hello_in_any_case_and_nothing_else)
{
    static const struct {
        const char *name;
        int code;
    } cases[] = {{"ismaster", 0},  {"isMaster", 0},     {"ISMASTER", 0}, {"hello", 0},
                 {"buildinfo", 0}, {"getlasterror", 0}, {"find", 352},   {"nothing", 59}};
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_buf_t out;
        vd_bson_t document, reply;
        vd_bb_int32(gate_client_begin(&client), cases[i].name, 1);
        cr_assert_eq(vd_bb_finish(&client.bb, &document, NULL), VD_OK);
        vd_buf_init(&out, 10000);
        (void)!vd_buf_append_u32(&out, 16 + 4 + 11 + 8 + document.len);
        (void)!vd_buf_append_u32(&out, 77);
        (void)!vd_buf_append_u32(&out, 0);
        (void)!vd_buf_append_u32(&out, GATE_OP_QUERY);
        (void)!vd_buf_append_u32(&out, 0);
        (void)!vd_buf_append(&out, "admin.$cmd", 11);
        (void)!vd_buf_append_u32(&out, 0);
        (void)!vd_buf_append_u32(&out, UINT32_MAX);
        (void)!vd_buf_append(&out, document.data, document.len);
        cr_assert(gate_client_send_bytes(&client, vd_buf_slice(&out).data, vd_buf_len(&out)));
        cr_assert(gate_client_receive(&client, &reply), "%s", cases[i].name);
        cr_expect_eq(client.last_op, GATE_OP_REPLY);
        cr_expect_eq(client.last_response_to, 77);
        cr_expect_eq(reply_code(reply), cases[i].code, "%s: %d", cases[i].name, reply_code(reply));
        vd_buf_done(&out);
    }
    gate_client_close(&client);
}

Test(conn, login_and_forward)
{
    vd_bson_t reply;
    start_logged_in();
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, "find", "things");
    vd_bb_int32(bb, "maxTimeMS", 1234);
    cr_assert(gate_client_run(&client, "test", &reply));
    cr_assert(reply_ok(reply));
    cr_expect(text_is(reply, "echo", "find"));
    cr_expect(text_is(reply, "db", "test"));
    cr_expect(text_is(reply, "user", "root@admin"));
    cr_expect_eq(number(reply, "maxTimeMS"), 1234);
    cr_expect_eq(number(reply, "txnNumber"), -1);
    cr_assert(gate_client_simple(&client, "admin", "connectionStatus", &reply));
    cr_expect_eq(vd_bson_get_path(reply, VD_SLICE_LIT("authInfo.authenticatedUsers.0.user")).type,
                 VD_BSON_STRING);
    cr_assert(gate_client_simple(&client, "admin", "logout", &reply));
    cr_expect(reply_ok(reply));
    cr_assert(gate_client_on(&client, "test", "find", "things", &reply));
    cr_expect_eq(reply_code(reply), 13);
    cr_expect(reply_message_is(reply, "Command find requires authentication"));
    gate_client_close(&client);
}

Test(conn, refusals_before_login)
{
    static const struct {
        const char *name, *db;
        int code;
    } cases[] = {
        {"find", "test", 13},           {"insert", "test", 13},
        {"listDatabases", "admin", 13}, {"createUser", "test", 13},
        {"nosuch", "test", 59},         {"ping", "test", 0},
        {"buildInfo", "x", 0},          {"replSetGetStatus", "test", 13},
        {"bulkWrite", "admin", 13},     {"configureFailPoint", "admin", 59},
    };
    vd_bson_t reply;
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        cr_assert(gate_client_simple(&client, cases[i].db, cases[i].name, &reply));
        cr_expect_eq(reply_code(reply), cases[i].code, "%s: %d", cases[i].name, reply_code(reply));
    }
    cr_assert(gate_client_simple(&client, "test", "nosuch", &reply));
    cr_expect(reply_message_is(reply, "no such command: 'nosuch'"));
    gate_client_close(&client);
}

Test(conn, wrong_password_unknown_user_and_mechanism)
{
    vd_bson_t reply;
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    cr_expect_eq(gate_client_login(&client, "admin", FIXTURE_USER, "wrong"), 18);
    cr_expect_eq(gate_client_login(&client, "admin", "nobody", "wrong"), 18);
    cr_expect_eq(gate_client_login(&client, "test", FIXTURE_USER, FIXTURE_PASSWORD), 18);
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_int32(bb, "saslStart", 1);
    vd_bb_cstr(bb, "mechanism", "SCRAM-SHA-1");
    vd_bb_binary(bb, "payload", 0, VD_SLICE_LIT("n,,n=x,r=y"));
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_expect_eq(reply_code(reply), 334);
    bb = gate_client_begin(&client);
    vd_bb_int32(bb, "saslContinue", 1);
    vd_bb_int32(bb, "conversationId", 1);
    vd_bb_binary(bb, "payload", 0, VD_SLICE_LIT("c=biws,r=x,p=y"));
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_expect_eq(reply_code(reply), 17);
    cr_expect_eq(gate_client_login(&client, "admin", FIXTURE_USER, FIXTURE_PASSWORD), 0);
    gate_client_close(&client);
}

/* The answer to the first step must not tell who exists: same shape, and the same salt each time.
 */
Test(conn, unknown_users_look_like_known_ones)
{
    vd_bson_t reply;
    char challenge[2][1024];
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    for (int i = 0; i < 2; i++) {
        vd_bb_t *bb = gate_client_begin(&client);
        vd_bb_int32(bb, "saslStart", 1);
        vd_bb_cstr(bb, "mechanism", "SCRAM-SHA-256");
        vd_bb_binary(bb, "payload", 0, VD_SLICE_LIT("n,,n=nobody,r=abcdefgh"));
        cr_assert(gate_client_run(&client, "admin", &reply));
        cr_assert(reply_ok(reply));
        vd_slice_t payload = vd_value_binary(vd_bson_get(reply, "payload"), NULL);
        (void)snprintf(challenge[i], sizeof challenge[i], "%.*s", VD_SLICE_FMT(payload));
    }
    char *salt[2] = {strstr(challenge[0], ",s="), strstr(challenge[1], ",s=")};
    cr_assert(salt[0] != NULL && salt[1] != NULL);
    cr_expect_str_eq(salt[0], salt[1]);
    cr_expect_str_neq(challenge[0], challenge[1]);
    cr_expect(strstr(salt[0], ",i=15000") != NULL);
    gate_client_close(&client);
}

Test(conn, speculative_login_inside_hello)
{
    vd_bson_t reply;
    char first[1024], final[1024];
    uint8_t server[32];
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    gate_scram_client_first(FIXTURE_USER, "zyxwvutsrq", first);
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_int32(bb, "hello", 1);
    vd_bb_cstr(bb, "saslSupportedMechs", "admin.root");
    vd_bb_begin_array(bb, "compression");
    vd_bb_cstr(bb, "0", "none");
    vd_bb_cstr(bb, "1", "zlib");
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "speculativeAuthenticate");
    vd_bb_int32(bb, "saslStart", 1);
    vd_bb_cstr(bb, "mechanism", "SCRAM-SHA-256");
    vd_bb_binary(bb, "payload", 0, vd_slice_str(first));
    vd_bb_cstr(bb, "db", "admin");
    vd_bb_close(bb);
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_expect_eq(vd_bson_get_path(reply, VD_SLICE_LIT("saslSupportedMechs.0")).type,
                 VD_BSON_STRING);
    cr_expect(vd_slice_is(vd_value_string(vd_bson_get_path(reply, VD_SLICE_LIT("compression.0"))),
                          "zlib"));
    vd_value_t payload = vd_bson_get_path(reply, VD_SLICE_LIT("speculativeAuthenticate.payload"));
    cr_assert_eq(payload.type, VD_BSON_BINARY);
    cr_assert(gate_scram_client_final(FIXTURE_USER, "zyxwvutsrq", FIXTURE_PASSWORD,
                                      vd_value_binary(payload, NULL), final, server));
    /* Without skipEmptyExchange one empty exchange is left. */
    bb = gate_client_begin(&client);
    vd_bb_int32(bb, "saslContinue", 1);
    vd_bb_int32(bb, "conversationId", 1);
    vd_bb_binary(bb, "payload", 0, vd_slice_str(final));
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_assert(reply_ok(reply));
    cr_expect_not(vd_value_as_flag(vd_bson_get(reply, "done")));
    bb = gate_client_begin(&client);
    vd_bb_int32(bb, "saslContinue", 1);
    vd_bb_int32(bb, "conversationId", 1);
    vd_bb_binary(bb, "payload", 0, VD_SLICE_NULL);
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_expect(vd_value_as_flag(vd_bson_get(reply, "done")));
    cr_assert(gate_client_on(&client, "test", "find", "x", &reply));
    cr_expect(reply_ok(reply));
    gate_client_close(&client);
}

Test(conn, metadata_is_taken_once_and_bounded)
{
    vd_bson_t reply;
    char large[600];
    memset(large, 'a', sizeof large - 1);
    large[sizeof large - 1] = 0;
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    for (int i = 0; i < 3; i++) {
        static const int codes[] = {51759, 0, 186};
        vd_bb_t *bb = gate_client_begin(&client);
        vd_bb_int32(bb, "hello", 1);
        vd_bb_begin_document(bb, "client");
        vd_bb_begin_document(bb, "application");
        vd_bb_cstr(bb, "name", i == 0 ? large : "shop");
        vd_bb_close(bb);
        vd_bb_close(bb);
        cr_assert(gate_client_run(&client, "admin", &reply));
        cr_expect_eq(reply_code(reply), codes[i], "%d: %d", i, reply_code(reply));
    }
    cr_assert_eq(gate_client_login(&client, "admin", FIXTURE_USER, FIXTURE_PASSWORD), 0);
    cr_assert(gate_client_on(&client, "test", "find", "x", &reply));
    cr_expect(text_is(reply, "app", "shop"));
    gate_client_close(&client);
}

static void send_await(vd_bson_t hello, int64_t ms, uint32_t flags)
{
    uint8_t process[12];
    int64_t counter = number(hello, "topologyVersion.counter");
    memcpy(process,
           vd_value_objectid(vd_bson_get_path(hello, VD_SLICE_LIT("topologyVersion.processId"))),
           12);
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_int32(bb, "hello", 1);
    vd_bb_begin_document(bb, "topologyVersion");
    vd_bb_objectid(bb, "processId", process);
    vd_bb_int64(bb, "counter", counter);
    vd_bb_close(bb);
    vd_bb_int64(bb, "maxAwaitTimeMS", ms);
    cr_assert(gate_client_send(&client, "admin", flags));
}

Test(conn, awaited_hello_waits_for_its_time_or_a_change)
{
    vd_bson_t reply;
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    cr_assert(gate_client_simple(&client, "admin", "hello", &reply));
    int64_t counter = number(reply, "topologyVersion.counter");
    send_await(reply, 50, 0);
    cr_assert(gate_client_receive(&client, &reply));
    cr_expect_eq(number(reply, "topologyVersion.counter"), counter);
    send_await(reply, 15000, 0);
    (void)usleep(100000);
    fake_storage_set_writable(fixture.storage, false);
    cr_assert(gate_client_receive(&client, &reply));
    cr_expect_eq(number(reply, "topologyVersion.counter"), counter + 1);
    cr_expect_not(vd_value_as_flag(vd_bson_get(reply, "isWritablePrimary")));
    gate_client_close(&client);
}

Test(conn, streamed_hello)
{
    vd_bson_t reply;
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    cr_assert(gate_client_simple(&client, "admin", "hello", &reply));
    send_await(reply, 30, GATE_MSG_EXHAUST_ALLOWED);
    int32_t before = client.next_id;
    for (int i = 0; i < 5; i++) {
        cr_assert(gate_client_receive(&client, &reply));
        cr_expect_eq(client.last_flags, GATE_MSG_MORE_TO_COME);
        cr_expect_eq(client.last_response_to, before);
        cr_expect(vd_value_as_flag(vd_bson_get(reply, "isWritablePrimary")));
        before = client.last_reply_id;
    }
    gate_client_close(&client);
    /* The gateway goes on. */
    cr_assert(gate_client_open(&client, fixture.settings.port));
    cr_assert(gate_client_simple(&client, "admin", "ping", &reply));
    gate_client_close(&client);
}

Test(conn, writes_without_reply_are_done_in_order_also_when_the_client_leaves)
{
    vd_bson_t reply;
    start_logged_in();
    for (int i = 0; i < 20; i++) {
        vd_bb_cstr(gate_client_begin(&client), "insert", "x");
        cr_assert(gate_client_send(&client, "test", GATE_MSG_MORE_TO_COME));
    }
    cr_assert(
        gate_client_simple(&client, "admin", "ping", &reply)); /* the next answer is this one's */
    cr_expect_eq(fake_storage_count(fixture.storage, "insert"), 20);
    for (int i = 0; i < 10; i++) {
        vd_bb_cstr(gate_client_begin(&client), "insert", "x");
        cr_assert(gate_client_send(&client, "test", GATE_MSG_MORE_TO_COME));
    }
    gate_client_close(&client);
    for (int i = 0; i < 3000 && fake_storage_count(fixture.storage, "insert") < 30; i++)
        (void)usleep(10000);
    cr_expect_eq(fake_storage_count(fixture.storage, "insert"), 30);
    for (int i = 0; i < 3000 && fake_storage_closed(fixture.storage) < 1; i++)
        (void)usleep(10000);
    cr_expect_eq(fake_storage_closed(fixture.storage), 1);
}

Test(conn, pipelined_requests_are_answered_in_order)
{
    vd_bson_t reply;
    vd_buf_t out;
    start_logged_in();
    vd_buf_init(&out, 1 << 20);
    for (int i = 0; i < 3000; i++) {
        vd_bson_t document;
        vd_bb_t *bb = gate_client_begin(&client);
        vd_bb_cstr(bb, i % 3 == 0 ? "ping" : "find", "x");
        vd_bb_cstr(bb, "$db", "test");
        cr_assert_eq(vd_bb_finish(bb, &document, NULL), VD_OK);
        cr_assert_eq(
            gate_wire_write_msg(&out, 1000 + i, 0, 0, vd_slice(document.data, document.len)),
            VD_OK);
    }
    cr_assert(gate_client_send_bytes(&client, vd_buf_slice(&out).data, vd_buf_len(&out)));
    for (int i = 0; i < 3000; i++) {
        cr_assert(gate_client_receive(&client, &reply), "%d", i);
        cr_expect_eq(client.last_response_to, 1000 + i);
        cr_expect(reply_ok(reply));
    }
    vd_buf_done(&out);
    gate_client_close(&client);
}

Test(conn, large_messages_both_ways)
{
    vd_bson_t reply;
    static uint8_t big[12000000];
    start_logged_in();
    for (int i = 0; i < 3; i++) {
        vd_bb_t *bb = gate_client_begin(&client);
        vd_bb_cstr(bb, "find", "x");
        vd_bb_binary(bb, "filler", 0, vd_slice(big, sizeof big));
        vd_bb_int32(bb, "replyBytes", 9000000);
        cr_assert(gate_client_run(&client, "test", &reply));
        cr_assert(reply_ok(reply));
        cr_expect_gt(number(reply, "bodyBytes"), 12000000);
        cr_expect_eq(vd_value_string(vd_bson_get(reply, "big")).len, 9000000);
    }
    gate_client_close(&client);
}

Test(conn, messages_over_the_limit_end_the_connection)
{
    vd_bson_t reply;
    static uint8_t big[70000];
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_int32(bb, "ping", 1);
    vd_bb_binary(bb, "filler", 0, vd_slice(big, sizeof big));
    (void)gate_client_send(&client, "admin", 0);
    cr_expect_not(gate_client_receive(&client, &reply));
    gate_client_close(&client);
    gate_client_admin(&client, &fixture);
    uint8_t header[16] = {0};
    vd_put_u32(header, 48000001);
    vd_put_u32(header + 12, GATE_OP_MSG);
    cr_assert(gate_client_send_bytes(&client, header, sizeof header));
    cr_expect_not(gate_client_receive(&client, &reply));
    gate_client_close(&client);
}

Test(conn, hostile_bytes_end_the_connection_and_nothing_else)
{
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
#define BYTES(s) {s, sizeof(s) - 1}
        BYTES("\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00"),
        BYTES("\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00"),
        BYTES("\x10\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00"),
        BYTES("\x14\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00\x00\x00\x00\x00"),
        BYTES(
            "\x15\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00\x00\x00\x00\x00\x07"),
        BYTES("\x1a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00\x04\x00\x00\x00\x00"
              "\x05\x00\x00\x00\x00"),
        BYTES("\x14\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xd1\x07\x00\x00\x00\x00\x00\x00"),
        BYTES("\x19\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdc\x07\x00\x00\xdd\x07\x00\x00\xff"
              "\xff\xff\x7f\x01"),
        BYTES("\x19\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdc\x07\x00\x00\xdc\x07\x00\x00\x05"
              "\x00\x00\x00\x00"),
        BYTES("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
#undef BYTES
    };
    vd_bson_t reply;
    gate_fixture_start(&fixture);
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        cr_assert(gate_client_open(&client, fixture.settings.port));
        cr_assert(gate_client_send_bytes(&client, cases[i].bytes, cases[i].len));
        cr_expect_not(gate_client_receive(&client, &reply), "case %zu was answered", i);
        gate_client_close(&client);
    }
    gate_client_admin(&client, &fixture);
    cr_assert(gate_client_on(&client, "test", "find", "x", &reply));
    cr_expect(reply_ok(reply));
    gate_client_close(&client);
}

Test(conn, compressed_requests_are_answered_compressed)
{
    vd_bson_t ignored;
    start_logged_in();
    for (uint8_t id = 0; id < GATE_COMPRESSOR_COUNT; id++) {
        vd_bson_t document;
        vd_buf_t out;
        vd_bb_t *bb = gate_client_begin(&client);
        vd_bb_cstr(bb, "find", "x");
        vd_bb_int32(bb, "replyBytes", 50000);
        vd_bb_cstr(bb, "$db", "test");
        cr_assert_eq(vd_bb_finish(bb, &document, NULL), VD_OK);
        vd_buf_init(&out, 1 << 20);
        cr_assert_eq(gate_wire_write_compressed(&out, 5, 0, 0,
                                                vd_slice(document.data, document.len), id, NULL),
                     VD_OK);
        cr_assert(gate_client_send_bytes(&client, vd_buf_slice(&out).data, vd_buf_len(&out)));
        cr_assert(gate_client_receive(&client, &ignored));
        cr_assert_eq(client.last_op, GATE_OP_COMPRESSED);
        gate_wire_compressed_t packed;
        gate_wire_message_t message;
        static uint8_t plain[100000];
        cr_assert_eq(gate_wire_compressed(vd_buf_slice(&client.reply), sizeof plain, &packed, NULL),
                     VD_OK);
        cr_expect_eq(packed.compressor, id);
        if (id != GATE_COMPRESSOR_NOOP)
            cr_expect_lt(packed.data.len, 10000);
        cr_assert_eq(gate_decompress(id, packed.data, plain, packed.uncompressed_bytes, NULL),
                     VD_OK);
        gate_wire_header_t header = {.op = packed.original_op};
        cr_assert_eq(
            gate_wire_parse(&header, vd_slice(plain, packed.uncompressed_bytes), &message, NULL),
            VD_OK);
        cr_expect(reply_ok(message.sections.body));
        vd_buf_done(&out);
    }
    gate_client_close(&client);
}

/* ---- storage goes away ---- */

Test(conn, reads_and_retryable_writes_outlive_storage)
{
    vd_bson_t reply;
    static const uint8_t session[16] = {1};
    start_logged_in();
    static const char *const names[] = {"find", "insert"};
    for (int i = 0; i < 2; i++) {
        fake_storage_silence(fixture.storage, names[i]);
        vd_bb_t *bb = gate_client_begin(&client);
        vd_bb_cstr(bb, names[i], "x");
        vd_bb_begin_document(bb, "lsid");
        vd_bb_binary(bb, "id", 4, vd_slice(session, 16));
        vd_bb_close(bb);
        if (i == 1)
            vd_bb_int64(bb, "txnNumber", 5);
        cr_assert(gate_client_send(&client, "test", 0));
        while (fake_storage_count(fixture.storage, names[i]) < 1)
            (void)usleep(1000);
        fake_storage_kill(fixture.storage);
        fake_storage_silence(fixture.storage, NULL);
        (void)usleep(50000);
        fake_storage_revive(fixture.storage);
        cr_assert(gate_client_receive(&client, &reply));
        cr_expect(reply_ok(reply), "%s", names[i]);
        cr_expect_eq(number(reply, "flags") & 4, 4);
        cr_expect_eq(number(reply, "lsid"), 16);
    }
    cr_expect_eq(fake_storage_resent(fixture.storage), 2);
    gate_client_close(&client);
}

Test(conn, other_writes_get_a_plain_error_when_storage_dies)
{
    vd_bson_t reply;
    start_logged_in();
    fake_storage_silence(fixture.storage, "update");
    vd_bb_cstr(gate_client_begin(&client), "update", "x");
    cr_assert(gate_client_send(&client, "test", 0));
    while (fake_storage_count(fixture.storage, "update") < 1)
        (void)usleep(1000);
    fake_storage_kill(fixture.storage);
    cr_assert(gate_client_receive(&client, &reply));
    cr_expect_eq(reply_code(reply), 6);
    cr_expect(vd_value_is_missing(vd_bson_get(reply, "errorLabels")));
    fake_storage_revive(fixture.storage);
    fake_storage_silence(fixture.storage, NULL);
    cr_assert(gate_client_on(&client, "test", "update", "x", &reply)); /* waits until it is back */
    cr_expect(reply_ok(reply));
    cr_expect_eq(fake_storage_count(fixture.storage, "update"), 2);
    gate_client_close(&client);
}

Test(conn, waiting_ends_with_a_label_only_where_it_is_true)
{
    vd_bson_t reply;
    static const uint8_t session[16] = {1};
    fixture.settings.storage_wait_ms = 600;
    start_logged_in();
    fake_storage_kill(fixture.storage);
    (void)usleep(50000);
    for (int retryable = 0; retryable < 2; retryable++) {
        vd_bb_t *bb = gate_client_begin(&client);
        vd_bb_cstr(bb, "insert", "x");
        if (retryable) {
            vd_bb_begin_document(bb, "lsid");
            vd_bb_binary(bb, "id", 4, vd_slice(session, 16));
            vd_bb_close(bb);
            vd_bb_int64(bb, "txnNumber", 1);
        }
        cr_assert(gate_client_run(&client, "test", &reply));
        cr_expect_eq(reply_code(reply), 6);
        vd_value_t label = vd_bson_get_path(reply, VD_SLICE_LIT("errorLabels.0"));
        cr_expect_eq(label.type == VD_BSON_STRING &&
                         vd_slice_is(vd_value_string(label), "RetryableWriteError"),
                     retryable == 1);
    }
    /* By now drivers are told. */
    cr_assert(gate_client_simple(&client, "admin", "hello", &reply));
    cr_expect_not(vd_value_as_flag(vd_bson_get(reply, "isWritablePrimary")));
    cr_expect_not(vd_value_as_flag(vd_bson_get(reply, "secondary")));
    fake_storage_revive(fixture.storage);
    for (int i = 0; i < 3000; i++) {
        cr_assert(gate_client_simple(&client, "admin", "hello", &reply));
        if (vd_value_as_flag(vd_bson_get(reply, "isWritablePrimary")))
            break;
        (void)usleep(10000);
    }
    cr_expect(vd_value_as_flag(vd_bson_get(reply, "isWritablePrimary")));
    gate_client_close(&client);
}

Test(conn, storage_errors_pass_with_labels)
{
    vd_bson_t reply;
    static const uint8_t session[16] = {1};
    start_logged_in();
    fake_storage_fail_next(fixture.storage, "insert", VD_ERR_SHUTDOWN_IN_PROGRESS);
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, "insert", "x");
    vd_bb_begin_document(bb, "lsid");
    vd_bb_binary(bb, "id", 4, vd_slice(session, 16));
    vd_bb_close(bb);
    vd_bb_int64(bb, "txnNumber", 1);
    cr_assert(gate_client_run(&client, "test", &reply));
    cr_expect_eq(reply_code(reply), 91);
    cr_expect_eq(vd_bson_get_path(reply, VD_SLICE_LIT("errorLabels.0")).type, VD_BSON_STRING);
    fake_storage_fail_next(fixture.storage, "insert", VD_ERR_SHUTDOWN_IN_PROGRESS);
    cr_assert(gate_client_on(&client, "test", "insert", "x", &reply));
    cr_expect_eq(reply_code(reply), 91);
    cr_expect(vd_value_is_missing(vd_bson_get(reply, "errorLabels")));
    fake_storage_fail_next(fixture.storage, "find", VD_ERR_AGAIN);
    cr_assert(gate_client_on(&client, "test", "find", "x", &reply));
    cr_expect(reply_ok(reply), "try again is between us and storage");
    gate_client_close(&client);
}

Test(conn, a_client_who_leaves_is_cancelled)
{
    start_logged_in();
    fake_storage_silence(fixture.storage, "find");
    vd_bb_cstr(gate_client_begin(&client), "find", "x");
    cr_assert(gate_client_send(&client, "test", 0));
    while (fake_storage_count(fixture.storage, "find") < 1)
        (void)usleep(1000);
    gate_client_close(&client);
    for (int i = 0; i < 3000 && fake_storage_closed(fixture.storage) < 1; i++)
        (void)usleep(10000);
    cr_expect_eq(fake_storage_cancelled(fixture.storage), 1);
    cr_expect_eq(fake_storage_closed(fixture.storage), 1);
}

Test(conn, hello_says_that_it_is_not_ready_without_storage)
{
    vd_bson_t reply;
    gate_fixture_start_without_storage(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    cr_assert(gate_client_simple(&client, "admin", "hello", &reply));
    cr_expect(reply_ok(reply));
    cr_expect_not(vd_value_as_flag(vd_bson_get(reply, "isWritablePrimary")));
    cr_expect_not(vd_value_as_flag(vd_bson_get(reply, "secondary")));
    cr_expect(text_is(reply, "setName", "veddb"));
    fixture.storage = fake_storage_start(fixture.settings.storage_path);
    cr_assert(gate_fixture_wait_ready(&fixture));
    cr_expect_eq(gate_client_login(&client, "admin", FIXTURE_USER, FIXTURE_PASSWORD), 0);
    gate_client_close(&client);
}

/* ---- limits ---- */

/* A find with filler, as OP_COMPRESSED; sent on `to`. */
static void send_packed(gate_client_t *to, const void *filler, size_t len)
{
    vd_bson_t document;
    vd_buf_t out;
    vd_bb_t *bb = gate_client_begin(to);
    vd_bb_cstr(bb, "aggregate", "x");
    vd_bb_begin_array(bb, "pipeline");
    vd_bb_close(bb);
    vd_bb_binary(bb, "filler", 0, vd_slice(filler, len));
    vd_bb_cstr(bb, "$db", "test");
    cr_assert_eq(vd_bb_finish(bb, &document, NULL), VD_OK);
    vd_buf_init(&out, 64u << 20);
    cr_assert_eq(
        gate_wire_write_compressed(&out, 5, 0, 0, vd_slice(document.data, document.len), 2, NULL),
        VD_OK);
    cr_assert_lt(vd_buf_len(&out), 16384);
    cr_assert(gate_client_send_bytes(to, vd_buf_slice(&out).data, vd_buf_len(&out)));
    vd_buf_done(&out);
}

Test(conn, what_a_message_unpacks_to_needs_room)
{
    static uint8_t big[900000];
    gate_client_t other;
    vd_bson_t reply;
    fixture.settings.held_max_bytes = 1u << 20;
    start_logged_in();
    gate_client_admin(&other, &fixture);
    fake_storage_silence(fixture.storage, "find");
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, "find", "x");
    vd_bb_binary(bb, "filler", 0, vd_slice(big, sizeof big));
    cr_assert(gate_client_send(&client, "test", 0));
    while (fake_storage_count(fixture.storage, "find") < 1)
        (void)usleep(1000);
    send_packed(&other, big, 500000);
    (void)usleep(300000);
    cr_expect_eq(fake_storage_count(fixture.storage, "aggregate"), 0, "it waits");
    gate_client_close(&client); /* and its room is given back */
    cr_assert(gate_client_receive(&other, &reply));
    cr_expect_eq(fake_storage_count(fixture.storage, "aggregate"), 1);
    send_packed(&other, big, sizeof big);
    send_packed(&other, big, sizeof big);
    cr_assert(gate_client_receive(&other, &reply) && gate_client_receive(&other, &reply));
    gate_client_close(&other);
}

static int find_with_reply_of(int32_t bytes)
{
    vd_bson_t reply;
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, "find", "x");
    vd_bb_int32(bb, "replyBytes", bytes);
    cr_assert(gate_client_run(&client, "test", &reply));
    return reply_code(reply);
}

Test(conn, replies_that_nobody_reads_are_bounded)
{
    gate_client_t lazy;
    vd_bson_t reply;
    fixture.settings.held_max_bytes = 1u << 20;
    start_logged_in();
    gate_client_admin(&lazy, &fixture);
    vd_bb_t *bb = gate_client_begin(&lazy);
    vd_bb_cstr(bb, "find", "x");
    vd_bb_int32(bb, "replyBytes", 20000000);
    cr_assert(gate_client_send(&lazy, "test", 0));
    /* What the sockets take is taken; the rest lies with the gateway. */
    for (int i = 0; i < 6000 && find_with_reply_of(100000) == 0; i++)
        (void)usleep(5000);
    cr_expect_eq(find_with_reply_of(100000), 6);
    cr_expect_eq(find_with_reply_of(1000), 0, "small ones go on");
    cr_assert(gate_client_receive(&lazy, &reply));
    cr_expect_eq(vd_value_string(vd_bson_get(reply, "big")).len, 20000000);
    cr_expect_eq(find_with_reply_of(100000), 0, "there is room again");
    gate_client_close(&lazy);
    gate_client_close(&client);
}

Test(conn, connections_over_a_limit_are_closed)
{
    gate_client_t many[6];
    vd_bson_t reply;
    fixture.settings.connections_per_address_max = 4;
    gate_fixture_start(&fixture);
    int open = 0;
    for (int i = 0; i < 6; i++)
        open += gate_client_open(&many[i], fixture.settings.port) &&
                gate_client_simple(&many[i], "admin", "ping", &reply);
    cr_expect_eq(open, 4);
    for (int i = 0; i < 6; i++)
        gate_client_close(&many[i]);
    for (int i = 0; i < 3000; i++) {
        if (gate_client_open(&client, fixture.settings.port) &&
            gate_client_simple(&client, "admin", "ping", &reply))
            break;
        gate_client_close(&client);
        (void)usleep(10000);
    }
    cr_expect(gate_client_simple(&client, "admin", "ping", &reply), "room again after others left");
    gate_client_close(&client);
}

Test(conn, silent_connections_are_closed_in_time)
{
    vd_bson_t reply;
    fixture.settings.handshake_timeout_ms = 300;
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    cr_expect_not(gate_client_receive(&client, &reply));
    gate_client_close(&client);
}

Test(conn, failed_logins_wait_and_others_go_on)
{
    vd_bson_t reply;
    fixture.settings.login_rate = 3;
    start_logged_in();
    gate_client_t attacker;
    cr_assert(gate_client_open(&attacker, fixture.settings.port));
    for (int i = 0; i < 3; i++)
        cr_expect_eq(gate_client_login(&attacker, "admin", FIXTURE_USER, "wrong"), 18);
    /* The next token is 20 s away: refused at once, also with the right password. */
    cr_expect_eq(gate_client_login(&attacker, "admin", FIXTURE_USER, FIXTURE_PASSWORD), 18);
    cr_assert(gate_client_on(&client, "test", "find", "x", &reply));
    cr_expect(reply_ok(reply), "who is logged in goes on");
    gate_client_close(&attacker);
    gate_client_close(&client);
}

Test(conn, several_loop_threads)
{
    gate_client_t many[8];
    vd_bson_t reply;
    fixture.settings.threads = 3;
    gate_fixture_start(&fixture);
    for (int i = 0; i < 8; i++)
        gate_client_admin(&many[i], &fixture);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 8; i++) {
            cr_assert(gate_client_on(&many[i], "test", "find", "x", &reply));
            cr_expect(reply_ok(reply));
        }
    }
    for (int i = 0; i < 8; i++)
        gate_client_close(&many[i]);
}

Test(conn, drain_ends_connections_and_says_so)
{
    vd_bson_t reply;
    start_logged_in();
    vd_loop_post(fixture.loop, (void (*)(void *))gate_drain, fixture.gate);
    for (int i = 0; i < 3000 && !atomic_load(&fixture.drained); i++)
        (void)usleep(10000);
    cr_expect(atomic_load(&fixture.drained));
    cr_expect_not(gate_client_simple(&client, "admin", "ping", &reply));
    gate_client_close(&client);
}

/* ---- transactions ---- */

static vd_bb_t *in_transaction(const char *command, const char *argument)
{
    static const uint8_t session[16] = {1};
    vd_bb_t *bb = gate_client_begin(&client);
    if (argument != NULL)
        vd_bb_cstr(bb, command, argument);
    else
        vd_bb_int32(bb, command, 1);
    vd_bb_begin_document(bb, "lsid");
    vd_bb_binary(bb, "id", 4, vd_slice(session, 16));
    vd_bb_close(bb);
    vd_bb_int64(bb, "txnNumber", 1);
    vd_bb_bool(bb, "autocommit", false);
    return bb;
}

static bool has_label(vd_bson_t reply, const char *label)
{
    vd_value_t first = vd_bson_get_path(reply, VD_SLICE_LIT("errorLabels.0"));
    return first.type == VD_BSON_STRING && vd_slice_is(vd_value_string(first), label);
}

/* A statement is lost with storage, and the client told; how the transaction ended is asked again.
 */
Test(conn, what_is_sent_again_of_a_transaction)
{
    vd_bson_t reply;
    start_logged_in();
    fake_storage_silence(fixture.storage, "insert");
    (void)in_transaction("insert", "x");
    cr_assert(gate_client_send(&client, "test", 0));
    while (fake_storage_count(fixture.storage, "insert") < 1)
        (void)usleep(1000);
    fake_storage_kill(fixture.storage);
    fake_storage_silence(fixture.storage, NULL);
    (void)usleep(50000);
    fake_storage_revive(fixture.storage);
    cr_assert(gate_client_receive(&client, &reply));
    cr_expect_eq(reply_code(reply), 6);
    cr_expect(has_label(reply, "TransientTransactionError"));
    cr_expect_eq(fake_storage_count(fixture.storage, "insert"), 1);
    fake_storage_silence(fixture.storage, "commitTransaction");
    (void)in_transaction("commitTransaction", NULL);
    cr_assert(gate_client_send(&client, "admin", 0));
    while (fake_storage_count(fixture.storage, "commitTransaction") < 1)
        (void)usleep(1000);
    fake_storage_kill(fixture.storage);
    fake_storage_silence(fixture.storage, NULL);
    (void)usleep(50000);
    fake_storage_revive(fixture.storage);
    cr_assert(gate_client_receive(&client, &reply));
    cr_expect(reply_ok(reply));
    cr_expect_eq(fake_storage_count(fixture.storage, "commitTransaction"), 2);
    (void)in_transaction("ping", NULL);
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_expect_eq(reply_code(reply), 263);
    gate_client_close(&client);
}
