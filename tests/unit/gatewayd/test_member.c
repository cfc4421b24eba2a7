/* tests/unit/gatewayd/test_member.c — a gateway as member of a replica set: hello in each role,
 * what is refused and how, $clusterTime signed and verified. Storage is scripted. */
#include "libcommon/base/mem.h"
#include "tests/support/gate_fixture.h"
#include "veddb-gatewayd/keys.h"
#include "veddb-gatewayd/member.h"

#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <unistd.h>

static gate_fixture_t fixture;
static gate_client_t client;
static vd_arena_t *arena;

static void setup(void)
{
    gate_fixture_init(&fixture);
    arena = vd_arena_create();
}

static void teardown(void)
{
    gate_client_close(&client);
    gate_fixture_done(&fixture);
    vd_arena_destroy(&arena);
}

TestSuite(member, .init = setup, .fini = teardown, .timeout = 300);

#define ME "n1.example:27017"

static bool automatic; /* another member leads by itself */

static vd_bson_t topology(int32_t version, const char *primary, bool hidden)
{
    vd_bb_t bb;
    vd_bson_t document;
    vd_bb_init_arena(&bb, arena, VDP_TOPOLOGY_MAX);
    vd_bb_int32(&bb, "setVersion", version);
    vd_bb_begin_array(&bb, "hosts");
    if (!hidden)
        vd_bb_cstr(&bb, "0", ME);
    vd_bb_cstr(&bb, hidden ? "0" : "1", "n2.example:27017");
    vd_bb_close(&bb);
    vd_bb_begin_array(&bb, "passives");
    vd_bb_cstr(&bb, "0", "n3.example:27017");
    vd_bb_close(&bb);
    if (primary != NULL)
        vd_bb_cstr(&bb, "primary", primary);
    vd_bb_cstr(&bb, "me", ME);
    vd_bb_begin_document(&bb, "tags");
    vd_bb_cstr(&bb, "region", "north");
    vd_bb_close(&bb);
    vd_bb_bool(&bb, "hidden", hidden);
    vd_bb_bool(&bb, "passive", hidden);
    vd_bb_int64(&bb, "secondaryDelaySecs", hidden ? 60 : 0);
    vd_bb_int64(&bb, "term", 5);
    vd_bb_bool(&bb, "automatic", automatic);
    cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
    return document;
}

static int64_t number(vd_bson_t document, const char *path)
{
    int64_t n = -1;
    (void)vd_value_as_int64(vd_bson_get_path(document, vd_slice_str(path)), &n);
    return n;
}

static bool text_is(vd_bson_t document, const char *path, const char *text)
{
    vd_value_t v = vd_bson_get_path(document, vd_slice_str(path));
    return v.type == VD_BSON_STRING && vd_slice_is(vd_value_string(v), text);
}

static bool flag(vd_bson_t document, const char *name)
{
    return vd_value_as_flag(vd_bson_get(document, name));
}

static bool has(vd_bson_t document, const char *name)
{
    return !vd_value_is_missing(vd_bson_get(document, name));
}

/* hello, once the topology's counter is above the last one seen. */
static vd_bson_t hello_after(int64_t counter)
{
    vd_bson_t reply = VD_BSON_NONE;
    for (int i = 0; i < 3000; i++) {
        cr_assert(gate_client_simple(&client, "admin", "hello", &reply));
        if (number(reply, "topologyVersion.counter") > counter)
            return reply;
        (void)usleep(10000);
    }
    cr_assert_fail("the topology did not change");
    return reply;
}

static int64_t counter_now(void)
{
    gate_member_t member;
    gate_member_read(fixture.gate, NULL, &member);
    return member.counter;
}

static vd_bson_t become(uint32_t role, uint64_t term, vd_bson_t set)
{
    int64_t counter = counter_now();
    fake_storage_set_role(fixture.storage, role, term, set);
    return hello_after(counter);
}

static void start(void)
{
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
}

/* Logged in while it is primary; then it becomes what is asked for. */
static void start_as(uint32_t role)
{
    gate_fixture_start(&fixture);
    gate_client_admin(&client, &fixture);
    (void)become(role, 5, topology(3, "n2.example:27017", false));
}

/* ---- hello ---- */

Test(member, hello_of_a_primary)
{
    start();
    vd_bson_t reply = become(VDP_ROLE_PRIMARY, 5, topology(3, "n2.example:27017", false));
    cr_expect(flag(reply, "isWritablePrimary"));
    cr_expect_not(flag(reply, "secondary"));
    cr_expect(text_is(reply, "setName", "veddb"));
    cr_expect_eq(number(reply, "setVersion"), 3);
    cr_expect(text_is(reply, "hosts.0", ME));
    cr_expect(text_is(reply, "hosts.1", "n2.example:27017"));
    cr_expect(text_is(reply, "passives.0", "n3.example:27017"));
    cr_expect(text_is(reply, "primary", ME), "what it is itself is never in doubt");
    cr_expect(text_is(reply, "me", ME));
    cr_expect(text_is(reply, "tags.region", "north"));
    cr_expect_not(has(reply, "hidden"));
    cr_expect_not(has(reply, "passive"));
    cr_expect_not(has(reply, "secondaryDelaySecs"));
    static const uint8_t election[12] = {0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 5};
    vd_value_t id = vd_bson_get(reply, "electionId");
    cr_assert_eq(id.type, VD_BSON_OBJECTID);
    cr_expect_arr_eq(vd_value_objectid(id), election, 12);
    uint64_t newest =
        vd_value_timestamp(vd_bson_get_path(reply, VD_SLICE_LIT("lastWrite.opTime.ts")));
    uint64_t majority =
        vd_value_timestamp(vd_bson_get_path(reply, VD_SLICE_LIT("lastWrite.majorityOpTime.ts")));
    cr_expect_lt(majority, newest); /* as storage says it, not what is durable here */
    cr_expect_gt(majority, 0);
    cr_expect_eq(number(reply, "lastWrite.opTime.t"), 5);
    cr_expect_eq(vd_bson_get_path(reply, VD_SLICE_LIT("lastWrite.lastWriteDate")).type,
                 VD_BSON_DATE);
}

Test(member, hello_of_a_secondary)
{
    start();
    vd_bson_t reply = become(VDP_ROLE_SECONDARY, 6, topology(4, "n2.example:27017", false));
    cr_expect_not(flag(reply, "isWritablePrimary"));
    cr_expect(flag(reply, "secondary"));
    cr_expect(text_is(reply, "primary", "n2.example:27017"));
    cr_expect_not(has(reply, "electionId"));
    cr_expect(has(reply, "lastWrite"));
    /* While nobody knows who leads; and a topology that lags behind the role. */
    reply = become(VDP_ROLE_SECONDARY, 7, topology(4, NULL, false));
    cr_expect_not(has(reply, "primary"));
    reply = become(VDP_ROLE_SECONDARY, 7, topology(4, ME, false));
    cr_expect_not(has(reply, "primary"));
    /* Hidden, passive, delayed. */
    reply = become(VDP_ROLE_SECONDARY, 7, topology(5, "n2.example:27017", true));
    cr_expect(flag(reply, "hidden"));
    cr_expect(flag(reply, "passive"));
    cr_expect_eq(number(reply, "secondaryDelaySecs"), 60);
    cr_expect(text_is(reply, "hosts.0", "n2.example:27017"));
    cr_expect_not(has(vd_value_document(vd_bson_get(reply, "hosts")), "1"));
    vd_bb_int32(gate_client_begin(&client), "isMaster", 1);
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_expect(has(reply, "ismaster"));
    cr_expect_not(flag(reply, "ismaster"));
    cr_expect(flag(reply, "secondary"));
}

Test(member, hello_of_one_that_serves_nothing)
{
    static const uint32_t roles[] = {VDP_ROLE_RECOVERING, VDP_ROLE_STARTING};
    start();
    for (size_t i = 0; i < VD_COUNT_OF(roles); i++) {
        vd_bson_t reply = become(roles[i], 8, topology(4, "n2.example:27017", false));
        cr_expect_not(flag(reply, "isWritablePrimary"));
        cr_expect_not(flag(reply, "secondary"));
        cr_expect(text_is(reply, "setName", "veddb"));
        cr_expect_not(has(reply, "isreplicaset"));
    }
    /* Storage has started anew, and its replicad has not told yet: what was known stays. */
    vd_bson_t reply = become(VDP_ROLE_STARTING, 9, VD_BSON_NONE);
    cr_expect_eq(number(reply, "setVersion"), 4);
    cr_expect(text_is(reply, "hosts.1", "n2.example:27017"));
}

static void expect_no_set(vd_bson_t reply)
{
    cr_expect(flag(reply, "isreplicaset"));
    cr_expect(text_is(reply, "info", "Does not have a valid replica set config"));
    cr_expect_not(has(reply, "setName"));
    cr_expect_not(has(reply, "hosts"));
    cr_expect(has(reply, "isWritablePrimary"));
    cr_expect_not(flag(reply, "isWritablePrimary"));
    cr_expect_not(flag(reply, "secondary"));
    cr_expect_eq(number(reply, "maxWireVersion"), 21);
}

/* Drivers must leave it alone. */
Test(member, hello_of_one_that_is_no_member)
{
    start();
    expect_no_set(become(VDP_ROLE_STARTING, 1, VD_BSON_NONE)); /* not yet */
    expect_no_set(become(VDP_ROLE_PRIMARY, 2, VD_BSON_NONE));  /* its hosts are not known yet */
    cr_expect(flag(become(VDP_ROLE_PRIMARY, 2, topology(3, ME, false)), "isWritablePrimary"));
    expect_no_set(become(VDP_ROLE_REMOVED, 3, topology(4, "n2.example:27017", false)));
}

Test(member, a_topology_that_is_no_bson_is_not_taken)
{
    static const uint8_t garbage[] = {9, 0, 0, 0, 2, 'a', 0, 9, 0};
    start();
    vd_bson_t reply = become(VDP_ROLE_SECONDARY, 5, topology(3, "n2.example:27017", false));
    reply = become(VDP_ROLE_SECONDARY, 6, (vd_bson_t){garbage, sizeof garbage});
    cr_expect_eq(number(reply, "setVersion"), 3);
}

Test(member, awaited_hello_is_answered_by_a_change_of_term)
{
    vd_bson_t reply;
    start();
    reply = become(VDP_ROLE_SECONDARY, 5, topology(3, "n2.example:27017", false));
    vd_value_t version = vd_bson_get(reply, "topologyVersion");
    vd_bb_int32(gate_client_begin(&client), "hello", 1);
    vd_bb_value(&client.bb, VD_SLICE_LIT("topologyVersion"), version);
    vd_bb_int32(&client.bb, "maxAwaitTimeMS", 20000);
    cr_assert(gate_client_send(&client, "admin", 0));
    (void)usleep(50000);
    fake_storage_set_role(fixture.storage, VDP_ROLE_SECONDARY, 6,
                          topology(3, "n2.example:27017", false));
    cr_assert(gate_client_receive(&client, &reply));
    cr_expect(flag(reply, "secondary"));
}

/* ---- refusals ---- */

static void begin_create_user(void)
{
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, "createUser", "anna");
    vd_bb_cstr(bb, "pwd", "secret");
    vd_bb_begin_array(bb, "roles");
    vd_bb_close(bb);
}

Test(member, users_are_made_on_a_primary_and_seen_on_a_secondary)
{
    vd_bson_t reply;
    start_as(VDP_ROLE_SECONDARY);
    begin_create_user();
    cr_assert(gate_client_run(&client, "test", &reply));
    cr_expect_eq(reply_code(reply), 10107);
    cr_expect(text_is(reply, "codeName", "NotWritablePrimary"));
    cr_expect_neq(number(reply, "$clusterTime.signature.keyId"), 0); /* though more follows it */
    cr_expect_eq(vd_bson_get_path(reply, VD_SLICE_LIT("topologyVersion.processId")).type,
                 VD_BSON_OBJECTID);
    vd_bb_int32(gate_client_begin(&client), "usersInfo", 1);
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_expect_eq(reply_code(reply), 13435);
    vd_bb_int32(gate_client_begin(&client), "usersInfo", 1);
    vd_bb_begin_document(&client.bb, "$readPreference");
    vd_bb_cstr(&client.bb, "mode", "secondaryPreferred");
    vd_bb_close(&client.bb);
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_expect(reply_ok(reply));
    /* Logins work here, too. */
    gate_client_t other;
    gate_client_admin(&other, &fixture);
    gate_client_close(&other);
    (void)become(VDP_ROLE_RECOVERING, 5, topology(3, NULL, false));
    vd_bb_int32(gate_client_begin(&client), "usersInfo", 1);
    vd_bb_begin_document(&client.bb, "$readPreference");
    vd_bb_cstr(&client.bb, "mode", "secondary");
    vd_bb_close(&client.bb);
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_expect_eq(reply_code(reply), 13436);
    (void)become(VDP_ROLE_PRIMARY, 6, topology(3, ME, false));
    begin_create_user();
    cr_assert(gate_client_run(&client, "test", &reply));
    cr_expect(reply_ok(reply));
}

/* By what it was told, when. */
Test(member, who_knows_its_users)
{
    static const struct {
        uint64_t lease_ms, fresh_ms;
        uint32_t role;
        bool delayed, knows;
    } rows[] = {
        {1000, 9500, VDP_ROLE_SECONDARY, false, true},
        {1000, 9000, VDP_ROLE_SECONDARY, false, true},
        {1000, 8999, VDP_ROLE_SECONDARY, false, false},
        {1000, 0, VDP_ROLE_SECONDARY, false, false},
        {1000, UINT64_MAX, VDP_ROLE_SECONDARY, false, true},
        {0, 0, VDP_ROLE_SECONDARY, false, true},
        {1000, 0, VDP_ROLE_SECONDARY, true, true},
        {1000, 0, VDP_ROLE_PRIMARY, false, true},
        {1000, 0, VDP_ROLE_RECOVERING, false, true}, /* storage refuses there */
    };
    gate_t *gate = vd_xalloc(sizeof *gate);
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++) {
        gate_storage_state_t state = {.role = rows[i].role, .fresh_ms = rows[i].fresh_ms};
        gate->settings.users_lease_ms = rows[i].lease_ms;
        atomic_store(&gate->topology.delayed, rows[i].delayed);
        cr_expect_eq(gate_member_knows_users(gate, &state, 10000), rows[i].knows, "row %zu", i);
    }
    vd_free(gate);
}

static void insert_with_number(int64_t n)
{
    static const uint8_t id[16] = {1};
    vd_bb_cstr(gate_client_begin(&client), "insert", "c");
    vd_bb_begin_document(&client.bb, "lsid");
    vd_bb_binary(&client.bb, "id", 4, vd_slice(id, sizeof id));
    vd_bb_close(&client.bb);
    vd_bb_int64(&client.bb, "txnNumber", n);
}

Test(member, errors_of_a_changed_role_say_so)
{
    static const int codes[] = {VD_ERR_NOT_WRITABLE_PRIMARY, VD_ERR_PRIMARY_STEPPED_DOWN,
                                VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE,
                                VD_ERR_NOT_PRIMARY_NO_SECONDARY_OK,
                                VD_ERR_NOT_PRIMARY_OR_SECONDARY};
    vd_bson_t reply;
    start_as(VDP_ROLE_SECONDARY);
    for (size_t i = 0; i < VD_COUNT_OF(codes); i++) {
        fake_storage_fail_next(fixture.storage, "insert", codes[i]);
        uint32_t before = fake_storage_count(fixture.storage, "insert");
        insert_with_number((int64_t)i + 1);
        cr_assert(gate_client_run(&client, "test", &reply));
        cr_expect_eq(reply_code(reply), -codes[i]);
        cr_expect(text_is(reply, "errorLabels.0", "RetryableWriteError"));
        cr_expect_eq(number(reply, "topologyVersion.counter"), counter_now());
        cr_expect_eq(fake_storage_count(fixture.storage, "insert"), before + 1, "never sent again");
        fake_storage_fail_next(fixture.storage, "find", codes[i]);
        cr_assert(gate_client_on(&client, "test", "find", "c", &reply)); /* still connected */
        cr_expect_eq(reply_code(reply), -codes[i]);
        cr_expect_not(has(reply, "errorLabels"));
        cr_expect(has(reply, "topologyVersion"));
    }
    /* The version that a driver knows would make it old news; it is another one once we drain. */
    fake_storage_fail_next(fixture.storage, "insert", VD_ERR_INTERRUPTED_AT_SHUTDOWN);
    insert_with_number(99);
    cr_assert(gate_client_run(&client, "test", &reply));
    cr_expect(text_is(reply, "errorLabels.0", "RetryableWriteError"));
    cr_expect_not(has(reply, "topologyVersion"));
    fake_storage_fail_next(fixture.storage, "insert", VD_ERR_DUPLICATE_KEY);
    insert_with_number(100);
    cr_assert(gate_client_run(&client, "test", &reply));
    cr_expect_not(has(reply, "topologyVersion"));
    cr_expect_not(has(reply, "errorLabels"));
}

/* Where another member leads by itself, drivers are sent there as soon as storage is away. */
Test(member, storage_goes_away_in_a_set_that_elects)
{
    vd_bson_t reply;
    automatic = true;
    gate_fixture_start(&fixture);
    gate_client_admin(&client, &fixture);
    (void)become(VDP_ROLE_PRIMARY, 5, topology(3, ME, false));
    int64_t counter = counter_now();
    fake_storage_silence(fixture.storage, "insert");
    insert_with_number(1);
    cr_assert(gate_client_send(&client, "test", 0));
    (void)usleep(200000);
    fake_storage_kill(fixture.storage);
    cr_assert(gate_client_receive(&client, &reply));
    cr_expect_eq(reply_code(reply), -VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE);
    cr_expect(text_is(reply, "errorLabels.0", "RetryableWriteError"));
    cr_expect_gt(number(reply, "topologyVersion.counter"), counter, "a driver takes it as news");
    insert_with_number(2);
    cr_assert(gate_client_run(&client, "test", &reply));
    cr_expect_eq(reply_code(reply), -VD_ERR_NOT_WRITABLE_PRIMARY);
    cr_assert(gate_client_on(&client, "test", "find", "c", &reply));
    cr_expect_eq(reply_code(reply), -VD_ERR_NOT_PRIMARY_OR_SECONDARY);
    cr_assert(gate_client_simple(&client, "admin", "hello", &reply));
    cr_expect_not(flag(reply, "isWritablePrimary"));
}

Test(member, the_sets_commands_go_to_storage_only_in_a_set)
{
    static const char *const names[] = {
        "replSetStepDown",  "replSetFreeze",      "replSetReconfig",
        "replSetInitiate",  "replSetMaintenance", "replSetSyncFrom",
        "replSetGetStatus", "replSetGetConfig",   "replSetAbortPrimaryCatchUp"};
    vd_bson_t reply;
    gate_fixture_start(&fixture);
    gate_client_admin(&client, &fixture);
    for (size_t i = 0; i < VD_COUNT_OF(names); i++) {
        bool asks = strncmp(names[i], "replSetGet", 10) == 0;
        cr_assert(gate_client_simple(&client, "admin", names[i], &reply));
        cr_expect_eq(reply_code(reply), asks ? 0 : 115, "%s", names[i]);
        cr_expect_eq(fake_storage_count(fixture.storage, names[i]), 0);
    }
    (void)become(VDP_ROLE_SECONDARY, 5, topology(3, NULL, false));
    for (size_t i = 0; i < VD_COUNT_OF(names); i++) {
        cr_assert(gate_client_simple(&client, "admin", names[i], &reply));
        cr_expect(text_is(reply, "echo", names[i]), "%s", names[i]);
        cr_assert(gate_client_simple(&client, "test", names[i], &reply));
        cr_expect_eq(reply_code(reply), 13, "%s: on admin only", names[i]);
    }
    cr_assert(gate_client_simple(&client, "admin", "appendOplogNote", &reply));
    cr_expect(text_is(reply, "echo", "appendOplogNote"));
}

Test(member, the_first_administrator_is_made_by_a_primary_alone)
{
    fixture.storage = fake_storage_start(fixture.settings.storage_path);
    fake_storage_set_role(fixture.storage, VDP_ROLE_SECONDARY, 1, topology(1, NULL, false));
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    (void)usleep(300000);
    cr_expect_eq(fake_storage_documents(fixture.storage, "system.users"), 0);
    cr_expect_eq(fake_storage_documents(fixture.storage, "system.keys"), 0);
    vd_bson_t reply = become(VDP_ROLE_PRIMARY, 2, topology(1, ME, false));
    cr_expect(flag(reply, "isWritablePrimary"));
    cr_expect_eq(fake_storage_documents(fixture.storage, "system.users"), 1);
    cr_expect_eq(fake_storage_documents(fixture.storage, "system.keys"), 1);
}

/* ---- $clusterTime ---- */

/* HMAC-SHA-1 of the time with 16 low bits set, written on its own. */
static void proof_of(const uint8_t key[20], uint64_t time, uint8_t out[20])
{
    uint8_t bytes[8];
    unsigned len = 20;
    time |= 0xFFFF;
    memcpy(bytes, &time, 8); /* little endian, as all machines that we run on */
    cr_assert_not_null(HMAC(EVP_sha1(), key, 20, bytes, 8, out, &len));
}

static void own_key(uint8_t key[20], int64_t *id)
{
    vd_buf_t bytes;
    vd_buf_init(&bytes, 4096);
    cr_assert(fake_storage_copy(fixture.storage, "system.keys", &bytes));
    vd_bson_t document = {vd_buf_at(&bytes, 0), (uint32_t)vd_buf_len(&bytes)};
    cr_expect(text_is(document, "purpose", "HMAC"));
    cr_expect_eq(vd_bson_get(document, "expiresAt").type, VD_BSON_TIMESTAMP);
    memcpy(key, vd_value_binary(vd_bson_get(document, "key"), NULL).data, 20);
    *id = number(document, "_id");
    vd_buf_done(&bytes);
}

static void expect_signed(vd_bson_t reply, const uint8_t key[20], int64_t id)
{
    uint8_t hash[20];
    uint64_t time =
        vd_value_timestamp(vd_bson_get_path(reply, VD_SLICE_LIT("$clusterTime.clusterTime")));
    proof_of(key, time, hash);
    vd_slice_t is =
        vd_value_binary(vd_bson_get_path(reply, VD_SLICE_LIT("$clusterTime.signature.hash")), NULL);
    cr_expect(vd_slice_equal(is, vd_slice(hash, 20)));
    cr_expect_eq(number(reply, "$clusterTime.signature.keyId"), id);
}

/* {name, $clusterTime} */
static vd_bson_t run_with_time(const char *name, uint64_t time, const uint8_t hash[20], int64_t id)
{
    vd_bson_t reply;
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, name, "c");
    vd_bb_begin_document(bb, "$clusterTime");
    vd_bb_timestamp(bb, "clusterTime", time);
    if (hash != NULL) {
        vd_bb_begin_document(bb, "signature");
        vd_bb_binary(bb, "hash", 0, vd_slice(hash, 20));
        vd_bb_int64(bb, "keyId", id);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    cr_assert(gate_client_run(&client, "test", &reply));
    return reply;
}

static void login_without_privileges(void)
{
    vd_bson_t reply;
    gate_fixture_start(&fixture);
    gate_client_admin(&client, &fixture);
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, "createUser", "anna");
    vd_bb_cstr(bb, "pwd", "secret");
    vd_bb_begin_array(bb, "roles");
    vd_bb_cstr(bb, "0", "readWrite");
    vd_bb_close(bb);
    cr_assert(gate_client_run(&client, "test", &reply));
    cr_assert(reply_ok(reply));
    gate_client_close(&client);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    cr_assert_eq(gate_client_login(&client, "test", "anna", "secret"), 0);
}

Test(member, every_reply_is_signed)
{
    uint8_t key[20];
    int64_t id;
    vd_bson_t reply;
    start_as(VDP_ROLE_PRIMARY);
    own_key(key, &id);
    cr_assert(gate_client_simple(&client, "admin", "hello", &reply));
    expect_signed(reply, key, id);
    cr_assert(gate_client_simple(&client, "admin", "ping", &reply));
    expect_signed(reply, key, id);
    cr_assert(gate_client_simple(&client, "admin", "nothing", &reply));
    expect_signed(reply, key, id);
}

Test(member, a_time_is_believed_when_one_of_us_has_signed_it)
{
    uint8_t key[20], hash[20], wrong[20];
    int64_t id;
    login_without_privileges();
    own_key(key, &id);
    uint64_t ahead = fake_storage_newest(fixture.storage) + (100ull << 32);
    proof_of(key, ahead, hash);
    memcpy(wrong, hash, 20);
    wrong[19] ^= 1;
    cr_expect_eq(reply_code(run_with_time("find", ahead, wrong, id)), 196);
    cr_expect_eq(reply_code(run_with_time("find", ahead + (1 << 16), hash, id)), 196);
    cr_expect_eq(reply_code(run_with_time("find", ahead, NULL, 0)), 211);
    cr_expect_eq(reply_code(run_with_time("find", ahead, hash, 0)), 211);
    cr_expect_eq(reply_code(run_with_time("find", ahead, hash, id + 1)), 211);
    vd_bson_t reply = run_with_time("find", 5, wrong, id); /* old: of no consequence */
    cr_expect(reply_ok(reply));
    cr_expect_eq(vd_value_timestamp(vd_bson_get(reply, "verifiedTime")), 0);
    reply = run_with_time("find", ahead, hash, id);
    cr_assert(reply_ok(reply));
    cr_expect_eq(vd_value_timestamp(vd_bson_get(reply, "verifiedTime")), ahead);
    /* From now on it is the time that we announce. */
    cr_assert(gate_client_simple(&client, "admin", "ping", &reply));
    cr_expect_eq(
        vd_value_timestamp(vd_bson_get_path(reply, VD_SLICE_LIT("$clusterTime.clusterTime"))),
        ahead);
    expect_signed(reply, key, id);
    cr_expect_lt(vd_value_timestamp(vd_bson_get(reply, "operationTime")), ahead);
}

Test(member, a_key_that_another_member_made_is_looked_up)
{
    static const uint8_t key[20] = {1, 2, 3};
    uint8_t hash[20];
    vd_bb_t bb;
    vd_bson_t document;
    login_without_privileges();
    uint64_t ahead = fake_storage_newest(fixture.storage) + (100ull << 32);
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_int64(&bb, "_id", 4711);
    vd_bb_cstr(&bb, "purpose", "HMAC");
    vd_bb_binary(&bb, "key", 0, vd_slice(key, 20));
    vd_bb_timestamp(&bb, "expiresAt", ahead + (1000ull << 32));
    cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
    fake_storage_put(fixture.storage, "system.keys", document);
    proof_of(key, ahead, hash);
    cr_expect(reply_ok(run_with_time("find", ahead, hash, 4711)));
    proof_of(key, ahead + (2000ull << 32), hash); /* the key has ended before that */
    cr_expect_eq(reply_code(run_with_time("find", ahead + (2000ull << 32), hash, 4711)), 211);
}

Test(member, who_may_advance_needs_no_signature_but_has_a_limit)
{
    vd_bson_t reply;
    gate_fixture_start(&fixture);
    gate_client_admin(&client, &fixture);
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, "createRole", "clock");
    vd_bb_begin_array(bb, "privileges");
    vd_bb_begin_document(bb, "0");
    vd_bb_begin_document(bb, "resource");
    vd_bb_bool(bb, "cluster", true);
    vd_bb_close(bb);
    vd_bb_begin_array(bb, "actions");
    vd_bb_cstr(bb, "0", "advanceClusterTime");
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_bb_begin_array(bb, "roles");
    vd_bb_close(bb);
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_assert(reply_ok(reply));
    bb = gate_client_begin(&client);
    vd_bb_cstr(bb, "createUser", "clock");
    vd_bb_cstr(bb, "pwd", "secret");
    vd_bb_begin_array(bb, "roles");
    vd_bb_cstr(bb, "0", "clock");
    vd_bb_close(bb);
    cr_assert(gate_client_run(&client, "admin", &reply));
    cr_assert(reply_ok(reply));
    gate_client_close(&client);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    cr_assert_eq(gate_client_login(&client, "admin", "clock", "secret"), 0);
    uint64_t ahead = fake_storage_newest(fixture.storage) + (100ull << 32);
    cr_expect_eq(reply_code(run_with_time("ping", UINT64_MAX, NULL, 0)), 202);
    cr_expect(reply_ok(run_with_time("ping", ahead, NULL, 0)));
    cr_assert(gate_client_simple(&client, "admin", "ping", &reply));
    cr_expect_eq(
        vd_value_timestamp(vd_bson_get_path(reply, VD_SLICE_LIT("$clusterTime.clusterTime"))),
        ahead);
}

Test(member, before_a_login_and_before_a_key_times_are_ignored)
{
    uint8_t hash[20] = {0};
    fixture.storage = fake_storage_start(fixture.settings.storage_path);
    fake_storage_set_role(fixture.storage, VDP_ROLE_SECONDARY, 1, topology(1, NULL, false));
    gate_fixture_start(&fixture);
    cr_assert(gate_client_open(&client, fixture.settings.port));
    uint64_t ahead = fake_storage_newest(fixture.storage) + (100ull << 32);
    vd_bson_t reply = run_with_time("ping", ahead, hash, 7);
    cr_expect(reply_ok(reply));
    cr_expect_lt(
        vd_value_timestamp(vd_bson_get_path(reply, VD_SLICE_LIT("$clusterTime.clusterTime"))),
        ahead);
    cr_expect_eq(number(reply, "$clusterTime.signature.keyId"), 0, "no key: unsigned");
}

/* ---- keys, without a gateway ---- */

static vd_bson_t key_document(int64_t id, uint64_t expires, uint8_t byte)
{
    uint8_t key[20];
    vd_bb_t bb;
    vd_bson_t document;
    memset(key, byte, sizeof key);
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_int64(&bb, "_id", id);
    vd_bb_cstr(&bb, "purpose", "HMAC");
    vd_bb_binary(&bb, "key", 0, vd_slice(key, sizeof key));
    vd_bb_timestamp(&bb, "expiresAt", expires);
    cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
    return document;
}

Test(member, the_key_that_ends_first_signs)
{
    gate_keys_t *keys = gate_keys_create();
    gate_proof_t proof = {0};
    uint8_t key[20], hash[20];
    vd_bson_t list[] = {key_document(2, 2000ull << 32, 2), key_document(1, 1000ull << 32, 1),
                        key_document(0, 9000ull << 32, 3), VD_BSON_NONE};
    cr_expect_not(gate_keys_sign(keys, 5, &proof));
    cr_expect_not(gate_keys_known(keys));
    gate_keys_set(keys, list, 3); /* an id of 0 says unsigned: no key */
    cr_expect(gate_keys_known(keys));
    uint64_t times[] = {999ull << 32, (999ull << 32) | 77, 1000ull << 32, 5};
    int64_t ids[] = {1, 1, 2, 1};
    for (size_t i = 0; i < VD_COUNT_OF(times); i++) {
        cr_assert(gate_keys_sign(keys, times[i], &proof));
        cr_expect_eq(proof.key_id, ids[i]);
        memset(key, (int)ids[i], sizeof key);
        proof_of(key, times[i], hash);
        cr_expect_arr_eq(proof.hash, hash, 20);
        cr_expect_eq(gate_keys_verify(keys, times[i], vd_slice(hash, 20), ids[i], NULL), VD_OK);
        cr_expect_eq(gate_keys_verify(keys, times[i], vd_slice(hash, 19), ids[i], NULL),
                     VD_ERR_TIME_PROOF_MISMATCH);
        cr_expect_eq(gate_keys_verify(keys, times[i], VD_SLICE_NULL, ids[i], NULL),
                     VD_ERR_TIME_PROOF_MISMATCH);
    }
    cr_expect_not(gate_keys_sign(keys, 2000ull << 32, &proof));
    cr_expect_eq(gate_keys_verify(keys, 1000ull << 32, vd_slice(hash, 20), 1, NULL),
                 VD_ERR_KEY_NOT_FOUND);
    /* Other keys: a proof that was kept is not used again. */
    cr_assert(gate_keys_sign(keys, 5, &proof));
    list[0] = key_document(1, 1000ull << 32, 9);
    gate_keys_set(keys, list, 1);
    cr_assert(gate_keys_sign(keys, 5, &proof));
    memset(key, 9, sizeof key);
    proof_of(key, 5, hash);
    cr_expect_arr_eq(proof.hash, hash, 20);
    gate_keys_destroy(&keys);
}

/* A name that nobody has gets the same salt from every member and after another key was made, as a
 * user does: who compares must learn nothing. */
Test(member, salts_of_nobody_are_the_sets)
{
    static const uint8_t own[2][32] = {{1}, {2}}; /* of two members */
    gate_keys_t *keys[2] = {gate_keys_create(), gate_keys_create()};
    vd_bson_t list[] = {key_document(2, 2000ull << 32, 2), key_document(1, 1000ull << 32, 1)};
    uint8_t salts[2][32], before[32];
    for (int i = 0; i < 2; i++) {
        gate_keys_salts(keys[i], own[i], salts[i]);
        cr_expect_arr_eq(salts[i], own[i], 32);
        gate_keys_set(keys[i], list + 1, 1);
        gate_keys_salts(keys[i], own[i], salts[i]);
    }
    cr_expect_arr_eq(salts[0], salts[1], 32);
    cr_expect_arr_neq(salts[0], own[0], 32);
    memcpy(before, salts[0], sizeof before);
    gate_keys_set(keys[0], list, 2);
    gate_keys_salts(keys[0], own[0], salts[0]);
    cr_expect_arr_eq(salts[0], before, 32);
    for (int i = 0; i < 2; i++)
        gate_keys_destroy(&keys[i]);
}
