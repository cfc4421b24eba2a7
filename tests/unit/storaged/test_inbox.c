/* tests/unit/storaged/test_inbox.c — the inbox between a real link and real storage: admission,
 * lanes, replies in time, drain, stop. */
#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/runtime/link.h"
#include "proto/failure.h"
#include "proto/keys.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/rotation/latency.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWERS_MAX 4096

typedef struct {
    uint64_t request_id;
    uint32_t id; /* message */
    int status;  /* REPLY: status; FAILURE: code */
    uint32_t flags;
    int32_t n; /* the reply's n, or documents in its first batch */
} answer_t;

static struct {
    char folder[64], path[128];
    stor_keys_t *keys;
    stor_storage_t *storage;
    vd_loop_t *loop;
    vd_link_t *link;
    vd_arena_t *arena;
    bool up;
    vdp_operation_state_t state;
    uint32_t states;
    answer_t answers[ANSWERS_MAX];
    uint32_t answer_count, cuts;
    atomic_int drained;
} t;

static int32_t documents_of(vd_bson_t reply)
{
    vd_value_t batch = vd_bson_get_path(reply, VD_SLICE_LIT("cursor.firstBatch"));
    vd_value_t n = vd_bson_get(reply, "n");
    int32_t count = 0;
    vd_bson_iter_t iter;
    if (batch.type != VD_BSON_ARRAY)
        return vd_value_is_number(n) ? (int32_t)vd_value_as_double(n) : -1;
    vd_bson_iter_init(&iter, vd_value_document(batch));
    while (vd_bson_iter_next(&iter))
        count++;
    return count;
}

static void on_item(void *context, uint64_t peer, vd_slice_t item)
{
    (void)context, (void)peer;
    vdp_envelope_t envelope;
    vd_slice_t rest, body;
    cr_assert_eq(vdp_decode_envelope(item, &envelope, &rest, NULL), VD_OK);
    cr_assert_lt(t.answer_count, ANSWERS_MAX);
    answer_t *answer = &t.answers[t.answer_count];
    *answer = (answer_t){.request_id = envelope.request_id, .id = envelope.id};
    if (envelope.id == VDP_OPERATION_STATE || envelope.id == VDP_OPERATION_ATTACHED) {
        const vdp_message_t *message =
            envelope.id == VDP_OPERATION_STATE ? &vdp_operation_state : &vdp_operation_attached;
        cr_assert_eq(vdp_decode(message, rest, &t.state, &body, NULL), VD_OK);
        t.states++;
        return;
    }
    if (envelope.id == VDP_OPERATION_REPLY) {
        vdp_operation_reply_t reply = {0};
        cr_assert_eq(vdp_decode(&vdp_operation_reply, rest, &reply, &body, NULL), VD_OK);
        answer->status = (int)reply.status;
        answer->flags = reply.flags;
        answer->n = body.len >= 5 ? documents_of((vd_bson_t){body.data, (uint32_t)body.len}) : -2;
    } else if (envelope.id == VDP_FAILURE) {
        vdp_failure_t failure = {0};
        cr_assert_eq(vdp_decode(&vdp_failure, rest, &failure, &body, NULL), VD_OK);
        answer->status = (int)failure.code;
    }
    t.answer_count++;
}

static void on_peer(void *context, uint64_t peer, bool up)
{
    (void)context, (void)peer;
    t.up = up;
}

static void on_cut(void *context)
{
    (void)context;
    t.cuts++;
}

static void turns_until(const uint32_t *value, uint32_t wanted)
{
    uint64_t limit_ms = vd_monotonic_ms() + 30000;
    while (*value < wanted) {
        cr_assert_lt(vd_monotonic_ms(), limit_ms, "waited in vain: %u of %u", *value, wanted);
        cr_assert_eq(vd_loop_turn(t.loop, 5, NULL), VD_OK);
    }
}

static void send_message(const vdp_message_t *message, const void *fields, uint64_t request_id,
                         vd_slice_t body)
{
    vd_buf_t item;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {.id = message->id, .request_id = request_id};
    vd_buf_init(&item, VD_LINK_ITEM_MAX_BYTES);
    cr_assert_eq(vdp_encode(&item, &envelope, message, fields, body, &err), VD_OK, "%s",
                 err.message);
    cr_assert_eq(vd_link_send(t.link, 0, vd_buf_slice(&item), VD_SLICE_NULL, &err), VD_OK, "%s",
                 err.message);
    vd_buf_done(&item);
}

/* What the gateway adds. */
typedef struct {
    uint32_t flags, max_time_ms, queue_wait_ms;
    uint64_t connection_id;
} extra_t;

static void send_extra(uint64_t request_id, const char *json, extra_t extra)
{
    vd_bson_t body = query_json(t.arena, json);
    vd_slice_t name;
    vd_value_t first;
    cr_assert(vd_bson_first(body, &name, &first));
    uint8_t *sections = vd_arena_alloc(t.arena, body.len + 1);
    sections[0] = 0;
    memcpy(sections + 1, body.data, body.len);
    vdp_operation_command_t command = {.name = name,
                                       .db = VD_SLICE_LIT("test"),
                                       .flags = extra.flags,
                                       .user = VD_SLICE_LIT("ann@admin"),
                                       .connection_id = extra.connection_id,
                                       .max_time_ms = extra.max_time_ms,
                                       .queue_wait_ms = extra.queue_wait_ms,
                                       .auth_epoch = UINT64_MAX >> 1,
                                       .txn_number = -1};
    send_message(&vdp_operation_command, &command, request_id, vd_slice(sections, body.len + 1));
}

static void send_command(uint64_t request_id, const char *json, uint32_t flags)
{
    send_extra(request_id, json, (extra_t){.flags = flags, .connection_id = 9});
}

static void attach(void)
{
    static const uint8_t instance[16] = {1};
    vdp_operation_attach_t fields = {vd_slice(instance, 16), 0};
    uint32_t states = t.states;
    send_message(&vdp_operation_attach, &fields, 1, VD_SLICE_NULL);
    turns_until(&t.states, states + 1);
}

static const answer_t *answer_to(uint64_t request_id)
{
    for (uint32_t i = 0; i < t.answer_count; i++)
        if (t.answers[i].request_id == request_id)
            return &t.answers[i];
    cr_assert_fail("no answer to %llu", (unsigned long long)request_id);
    return NULL;
}

static const answer_t *ask(uint64_t request_id, const char *json)
{
    uint32_t before = t.answer_count;
    send_command(request_id, json, 0);
    turns_until(&t.answer_count, before + 1);
    return answer_to(request_id);
}

static int unlink_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void setup(void)
{
    uint8_t key_id[STOR_KEY_ID_BYTES] = {1}, key[STOR_KEY_BYTES] = {1};
    vd_error_t err = VD_ERROR_INIT;
    (void)snprintf(t.folder, sizeof t.folder, "/tmp/vdinboxXXXXXX");
    cr_assert_not_null(mkdtemp(t.folder));
    (void)snprintf(t.path, sizeof t.path, "%s/socket", t.folder);
    t.arena = vd_arena_create();
    t.keys = stor_keys_create();
    cr_assert_eq(stor_keys_put(t.keys, key_id, key, STOR_KEY_ACTIVE, &err), VD_OK);
    stor_storage_options_t options = {.folder = t.folder,
                                      .cache_bytes = 32 << 20,
                                      .reserve_min_bytes = 1 << 20,
                                      .bootstrap = true};
    stor_settings_t settings = {.threads = 2,
                                .cursor_idle_max_ms = 600000,
                                .session_idle_max_ms = 1800000,
                                .journal_max_bytes = 1 << 26,
                                .scrub_period_ms = 600000,
                                .replica_set = "rs0",
                                .address = "",
                                .data_folder = t.folder};
    cr_assert_eq(stor_storage_open(&options, &settings, t.keys, &t.storage, &err), VD_OK, "%s",
                 err.message);
    atomic_store(&t.storage->ready, true);
    cr_assert_eq(stor_inbox_start(t.storage, NULL, t.path, &err), VD_OK, "%s", err.message);
    vd_link_options_t link = {
        .path = t.path, .item = on_item, .peer_changed = on_peer, .cut = on_cut};
    cr_assert_eq(vd_loop_create(&t.loop, NULL), VD_OK);
    cr_assert_eq(vd_link_open(t.loop, &link, &t.link, &err), VD_OK, "%s", err.message);
    uint64_t limit_ms = vd_monotonic_ms() + 30000;
    while (!t.up && vd_monotonic_ms() < limit_ms)
        cr_assert_eq(vd_loop_turn(t.loop, 5, NULL), VD_OK);
    cr_assert(t.up);
}

static void teardown(void)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_fault_disarm(NULL);
    stor_inbox_stop(&t.storage->inbox);
    vd_link_close(&t.link);
    vd_loop_destroy(&t.loop);
    cr_assert_eq(stor_storage_close(&t.storage, &err), VD_OK, "%s", err.message);
    stor_keys_destroy(&t.keys);
    vd_arena_destroy(&t.arena);
    (void)nftw(t.folder, unlink_one, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(inbox, .init = setup, .fini = teardown, .timeout = 300);

Test(inbox, nothing_before_attach_and_state_after_it)
{
    send_command(5, "{'find': 'c'}", 0);
    turns_until(&t.answer_count, 1);
    cr_assert_eq(t.answers[0].id, VDP_FAILURE);
    cr_assert_eq(t.answers[0].status, VD_ERR_BAD_VALUE);
    attach();
    cr_assert(t.state.ready && t.state.writable && !t.state.has_users);
    cr_assert_eq(t.state.boot_id.len, 16);
    cr_assert_eq(ask(6, "{'find': 'c'}")->status, VD_OK);
    cr_assert_eq(answer_to(6)->n, 0);
}

Test(inbox, many_in_flight_are_each_answered_once)
{
    attach();
    for (uint32_t i = 0; i < 1000; i++) {
        send_command(100 + i,
                     vd_arena_printf(t.arena, "{'insert': 'c', 'documents': [{'_id': %u}]}", i), 0);
        if (i % 7 == 0)
            cr_assert_eq(vd_loop_turn(t.loop, 0, NULL), VD_OK);
    }
    turns_until(&t.answer_count, 1000);
    bool seen[1000] = {false};
    for (uint32_t i = 0; i < 1000; i++) {
        const answer_t *answer = &t.answers[i];
        cr_assert_eq(answer->id, VDP_OPERATION_REPLY);
        cr_assert_eq(answer->status, VD_OK);
        cr_assert_eq(answer->n, 1);
        cr_assert_not(seen[answer->request_id - 100]);
        seen[answer->request_id - 100] = true;
    }
    cr_assert_eq(ask(5000, "{'count': 'c'}")->n, 1000);
    stor_inbox_stats_t stats;
    stor_inbox_stats(t.storage, &stats);
    cr_assert_eq(stats.received, 1001);
    cr_assert_eq(stats.inflight, 0);
}

/* What a rotation makes way for is what users do, not that somebody watches it. */
Test(inbox, who_watches_is_no_request_of_the_rotations_pace)
{
    stor_latency_look_t look;
    attach();
    for (uint32_t i = 0; i < 5; i++)
        cr_assert_eq(ask(10 + i, "{'serverStatus': 1}")->status, VD_OK);
    stor_latency_take(t.storage->latency, &look);
    cr_assert_eq(look.requests, 0);
    cr_assert_eq(ask(2, "{'insert': 'c', 'documents': [{'_id': 1}]}")->n, 1);
    cr_assert_eq(ask(3, "{'find': 'c', 'filter': {'_id': 1}}")->n, 1);
    stor_latency_take(t.storage->latency, &look);
    cr_assert_eq(look.requests, 2);
}

Test(inbox, a_long_operation_holds_up_neither_quick_nor_long_ones)
{
    attach();
    cr_assert_eq(ask(2, "{'insert': 'c', 'documents': [{'_id': 1}, {'_id': 2}]}")->n, 2);
    cr_assert_eq(vd_fault_arm("request.before_handler=wait:times=3", NULL), VD_OK);
    for (uint64_t i = 0; i < 3; i++) /* three long ones wait in the fault */
        send_command(3 + i, "{'find': 'c', 'filter': {'x': 1}}", 0);
    uint64_t limit_ms = vd_monotonic_ms() + 30000;
    while (vd_fault_count("request.before_handler") < 3 && vd_monotonic_ms() < limit_ms)
        cr_assert_eq(vd_loop_turn(t.loop, 5, NULL), VD_OK);
    for (uint64_t i = 0; i < 20; i++) {
        cr_assert_eq(ask(10 + i, "{'find': 'c', 'filter': {'_id': 1}}")->n, 1);
        cr_assert_eq(ask(50 + i, "{'find': 'c', 'filter': {'y': null}}")->n, 2);
    }
    cr_assert_eq(t.answer_count, 41);
    vd_fault_disarm("request.before_handler");
    turns_until(&t.answer_count, 44);
    cr_assert_eq(answer_to(3)->n, 0);
    cr_assert_eq(answer_to(5)->n, 0);
}

Test(inbox, nothing_waits_behind_a_quick_one_that_blocks_while_a_worker_is_idle)
{
    attach();
    cr_assert_eq(ask(2, "{'insert': 'c', 'documents': [{'_id': 1}]}")->n, 1);
    cr_assert_eq(vd_fault_arm("request.before_handler=wait:times=1", NULL), VD_OK);
    for (uint64_t i = 0; i < 3; i++) /* nothing comes after them */
        send_command(3 + i, "{'find': 'c', 'filter': {'_id': 1}}", 0);
    turns_until(&t.answer_count, 3);
    vd_fault_disarm("request.before_handler");
    turns_until(&t.answer_count, 4);
}

Test(inbox, cancel_ends_what_waits)
{
    attach();
    cr_assert_eq(vd_fault_arm("request.before_handler=wait:times=1", NULL), VD_OK);
    send_command(3, "{'find': 'c', 'filter': {'x': 1}}", 0);
    uint64_t limit_ms = vd_monotonic_ms() + 30000;
    while (vd_fault_count("request.before_handler") < 1 && vd_monotonic_ms() < limit_ms)
        cr_assert_eq(vd_loop_turn(t.loop, 5, NULL), VD_OK);
    vdp_operation_cancel_t cancel = {3};
    send_message(&vdp_operation_cancel, &cancel, 0, VD_SLICE_NULL);
    vdp_operation_ping_t ping = {0};
    send_message(&vdp_operation_ping, &ping, 7, VD_SLICE_NULL); /* what was sent before is in */
    turns_until(&t.answer_count, 1);
    cr_assert_eq(answer_to(7)->id, VDP_OPERATION_PONG);
    vd_fault_disarm("request.before_handler");
    turns_until(&t.answer_count, 2);
    cr_assert_eq(answer_to(3)->status, VD_ERR_INTERRUPTED);
}

/* Every worker of the long lane stands in the fault. */
static void long_lane_block(void)
{
    char fault[64];
    (void)snprintf(fault, sizeof fault, "request.before_handler=wait:times=%d", STOR_LONG_WORKERS);
    cr_assert_eq(vd_fault_arm(fault, NULL), VD_OK);
    for (uint64_t i = 0; i < STOR_LONG_WORKERS; i++)
        send_command(1000 + i, "{'find': 'c', 'filter': {'x': 1}}", 0);
    uint64_t limit_ms = vd_monotonic_ms() + 30000;
    while (vd_fault_count("request.before_handler") < STOR_LONG_WORKERS &&
           vd_monotonic_ms() < limit_ms)
        cr_assert_eq(vd_loop_turn(t.loop, 5, NULL), VD_OK);
}

Test(inbox, what_waits_for_a_worker_and_needs_none_is_answered_without_one)
{
    static const char find[] = "{'find': 'c', 'filter': {'x': 1}}";
    stor_inbox_stats_t stats;
    attach();
    long_lane_block();
    send_extra(10, find, (extra_t){.connection_id = 9, .max_time_ms = 60000});
    send_extra(11, find, (extra_t){.connection_id = 9, .max_time_ms = 20});
    send_extra(12, find, (extra_t){.connection_id = 12});
    send_extra(13, find, (extra_t){.connection_id = 9});
    send_extra(14, "{'getMore': {'$numberLong': '7'}, 'collection': 'c'}",
               (extra_t){.connection_id = 9, .max_time_ms = 1});
    turns_until(&t.answer_count, 1);
    cr_assert_eq(answer_to(11)->status, VD_ERR_MAX_TIME_MS_EXPIRED);
    vdp_operation_connection_closed_t closed = {12};
    send_message(&vdp_operation_connection_closed, &closed, 0, VD_SLICE_NULL);
    turns_until(&t.answer_count, 2);
    cr_assert_eq(answer_to(12)->status, VD_ERR_CLIENT_DISCONNECT);
    vdp_operation_cancel_t cancel = {13};
    send_message(&vdp_operation_cancel, &cancel, 0, VD_SLICE_NULL);
    turns_until(&t.answer_count, 3);
    cr_assert_eq(answer_to(13)->status, VD_ERR_INTERRUPTED);
    stor_inbox_stats(t.storage, &stats);
    cr_assert_eq(stats.queued_long, 2); /* the patient one, and getMore: that is no deadline */
    cr_assert_eq(stats.given_up, 3);
    cr_assert_eq(stats.running, STOR_LONG_WORKERS);
    cr_assert_eq(stats.inflight, STOR_LONG_WORKERS + 2);
    vd_fault_disarm("request.before_handler");
    turns_until(&t.answer_count, 3 + STOR_LONG_WORKERS + 2);
    cr_assert_eq(answer_to(10)->status, VD_OK);
    cr_assert_eq(answer_to(14)->status, VD_ERR_CURSOR_NOT_FOUND);
}

Test(inbox, those_that_gave_up_do_not_make_the_queue_look_short)
{
    static const char find[] = "{'find': 'c', 'filter': {'x': 1}}";
    attach();
    long_lane_block();
    send_extra(10, find, (extra_t){.connection_id = 9, .max_time_ms = 20});
    turns_until(&t.answer_count, 1);
    cr_assert_eq(answer_to(10)->status, VD_ERR_MAX_TIME_MS_EXPIRED);
    /* Nobody waits now, and still nobody would have been taken for 20 ms. */
    send_extra(11, find, (extra_t){.connection_id = 9, .queue_wait_ms = 5});
    turns_until(&t.answer_count, 2);
    cr_assert_eq(answer_to(11)->status, VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED);
    vd_fault_disarm("request.before_handler");
    turns_until(&t.answer_count, 2 + STOR_LONG_WORKERS);
    send_extra(12, find, (extra_t){.connection_id = 9, .queue_wait_ms = 60000});
    turns_until(&t.answer_count, 3 + STOR_LONG_WORKERS);
    cr_assert_eq(answer_to(12)->status, VD_OK);
}

Test(inbox, a_write_that_wants_no_answer_gets_an_empty_one)
{
    attach();
    send_command(3, "{'insert': 'c', 'documents': [{'_id': 1}]}", VDP_COMMAND_NO_REPLY);
    turns_until(&t.answer_count, 1);
    cr_assert_eq(answer_to(3)->n, -2);
    cr_assert_eq(ask(4, "{'count': 'c'}")->n, 1);
}

/* A client's bytes, or a message of a newer release, cost the gateway nothing but an error. */
Test(inbox, what_may_happen_is_refused_and_harms_nobody)
{
    attach();
    /* Sections that claim more than there is. */
    static const uint8_t cut[] = {0, 200, 0, 0, 0, 1, 'a', 0};
    vdp_operation_command_t command = {
        .name = VD_SLICE_LIT("find"), .db = VD_SLICE_LIT("test"), .txn_number = -1};
    send_message(&vdp_operation_command, &command, 8, vd_slice(cut, sizeof cut));
    turns_until(&t.answer_count, 1);
    cr_assert_eq(answer_to(8)->id, VDP_FAILURE);
    /* Well framed, but a string's length leads out of the document. */
    uint8_t bad[32] = {0, 30, 0, 0, 0, 2, 'f', 'i', 'n', 'd', 0, 0xff, 0xff, 0xff, 0x7f};
    send_message(&vdp_operation_command, &command, 9, vd_slice(bad, 31));
    turns_until(&t.answer_count, 2);
    cr_assert_eq(answer_to(9)->status, VD_ERR_INVALID_BSON);
    static const vdp_message_t newer = {.id = 60000, .name = "NEWER"};
    send_message(&newer, &command, 10, VD_SLICE_NULL);
    turns_until(&t.answer_count, 3);
    cr_assert_eq(answer_to(10)->status, VD_ERR_COMMAND_NOT_FOUND);
    cr_assert_eq(ask(11, "{'find': 'c'}")->status, VD_OK);
    cr_assert_eq(t.cuts, 0);
}

/* What only a gateway that is not itself says: it is cut off, and nothing more is answered. */
static void cut_off_for(const char *what)
{
    send_command(20, "{'find': 'c'}", 0);
    turns_until(&t.cuts, 1);
    cr_assert_eq(t.answer_count, 0, "%s", what);
    cr_assert(!vd_link_peer_up(t.link, 0), "%s", what);
}

Test(inbox, bytes_that_are_no_message_cut_the_link)
{
    attach();
    static const uint8_t junk[] = {0xdf, 0xff, 0xff, 0xff, 0xff};
    cr_assert_eq(vd_link_send(t.link, 0, vd_slice(junk, sizeof junk), VD_SLICE_NULL, NULL), VD_OK);
    cut_off_for("junk");
}

Test(inbox, a_message_of_storages_own_cuts_the_link)
{
    attach();
    vdp_operation_ping_t pong = {0};
    send_message(&vdp_operation_pong, &pong, 10, VD_SLICE_NULL);
    cut_off_for("pong");
}

Test(inbox, a_question_for_keys_cuts_the_link)
{
    vdp_keys_open_t keys = {0};
    send_message(&vdp_keys_open, &keys, 10, VD_SLICE_NULL);
    cut_off_for("keys");
}

static void on_drained(void *context)
{
    (void)context;
    atomic_store(&t.drained, 1);
}

Test(inbox, drain_finishes_what_runs_and_sends_the_rest_back)
{
    attach();
    cr_assert_eq(vd_fault_arm("request.before_handler=wait:times=1", NULL), VD_OK);
    send_command(3, "{'insert': 'c', 'documents': [{'_id': 1}]}", 0);
    uint64_t limit_ms = vd_monotonic_ms() + 30000;
    while (vd_fault_count("request.before_handler") == 0 && vd_monotonic_ms() < limit_ms)
        cr_assert_eq(vd_loop_turn(t.loop, 5, NULL), VD_OK);
    uint32_t states = t.states;
    stor_inbox_drain(t.storage->inbox, on_drained, NULL);
    turns_until(&t.states, states + 1);
    cr_assert_not(t.state.ready);
    const answer_t *late = ask(4, "{'find': 'c'}");
    cr_assert_eq(late->flags, VDP_REPLY_RETRY);
    cr_assert_eq(late->status, VD_ERR_INTERRUPTED_AT_SHUTDOWN);
    cr_assert_eq(atomic_load(&t.drained), 0);
    vd_fault_disarm("request.before_handler");
    turns_until(&t.answer_count, 2);
    cr_assert_eq(answer_to(3)->n, 1);
    while (atomic_load(&t.drained) == 0 && vd_monotonic_ms() < limit_ms)
        cr_assert_eq(vd_loop_turn(t.loop, 5, NULL), VD_OK);
    cr_assert_eq(atomic_load(&t.drained), 1);
}

Test(inbox, stop_answers_what_is_parked)
{
    attach();
    for (uint32_t i = 0; i < 200; i++)
        send_command(100 + i,
                     vd_arena_printf(t.arena, "{'insert': 'c', 'documents': [{'_id': %u}]}", i), 0);
    turns_until(&t.answer_count, 1);
    stor_inbox_stop(&t.storage->inbox);
    uint64_t until_ms = vd_monotonic_ms() + 300;
    while (vd_monotonic_ms() < until_ms)
        cr_assert_eq(vd_loop_turn(t.loop, 5, NULL), VD_OK);
    uint32_t good = 0;
    for (uint32_t i = 0; i < t.answer_count; i++)
        good += t.answers[i].id == VDP_OPERATION_REPLY && t.answers[i].status == VD_OK;
    stor_collection_info_t *infos;
    uint32_t count;
    cr_assert_eq(stor_catalog_list(t.storage->catalog, t.arena, VD_SLICE_LIT("test"), false, &infos,
                                   &count, NULL),
                 VD_OK);
    cr_assert_eq(count, 1);
    cr_assert_leq(good, infos[0].documents, "%u answers, %lld documents", good,
                  (long long)infos[0].documents);
}
