/* tests/unit/storaged/test_replication_link.c — storage's link to replicad: this test is replicad.
 * Real storage, real socket, real threads. */
#include "libcommon/base/clock.h"
#include "libcommon/base/rand.h"
#include "libcommon/runtime/link.h"
#include "proto/failure.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/replication/asks.h"
#include "veddb-storaged/replication/replication.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct {
    char folder[64], path[128];
    stor_keys_t *keys;
    stor_storage_t *storage;
    stor_session_t *session;
    vd_loop_t *loop;
    vd_link_t *link;
    vd_arena_t *arena;
    bool up;
    uint64_t number; /* of the newest question */
    /* What came last. */
    vdp_replication_state_t state;
    uint32_t states;
    uint64_t got[4096]; /* message id by request_id; 0 = no answer yet */
    int failed[4096];
    union {
        vdp_replication_role_set_t role_set;
        vdp_replication_batch_t batch;
        vdp_replication_applied_t applied;
        vdp_replication_config_set_t config_set;
        vdp_replication_found_t found;
        vdp_replication_counted_t counted;
        vdp_replication_ask_t ask;
    } last;
    uint64_t ask_id;
    char ask_verb[32];
    vd_buf_t body;
} t;

static const vdp_message_t *message_of(uint32_t id)
{
    static const vdp_message_t *const all[] = {
        &vdp_replication_role_set,   &vdp_replication_batch, &vdp_replication_applied,
        &vdp_replication_config_set, &vdp_replication_found, &vdp_replication_counted};
    for (size_t i = 0; i < VD_COUNT_OF(all); i++)
        if (all[i]->id == id)
            return all[i];
    return NULL;
}

static void on_item(void *context, uint64_t peer, vd_slice_t item)
{
    (void)context, (void)peer;
    vdp_envelope_t envelope;
    vd_slice_t rest, body = VD_SLICE_NULL;
    cr_assert_eq(vdp_decode_envelope(item, &envelope, &rest, NULL), VD_OK);
    if (envelope.id == VDP_REPLICATION_STATE || envelope.id == VDP_REPLICATION_ATTACHED) {
        cr_assert_eq(vdp_decode(envelope.id == VDP_REPLICATION_STATE ? &vdp_replication_state
                                                                     : &vdp_replication_attached,
                                rest, &t.state, &body, NULL),
                     VD_OK);
        t.states++;
    } else if (envelope.id == VDP_REPLICATION_ASK) {
        cr_assert_eq(vdp_decode(&vdp_replication_ask, rest, &t.last.ask, &body, NULL), VD_OK);
        snprintf(t.ask_verb, sizeof t.ask_verb, "%.*s", VD_SLICE_FMT(t.last.ask.verb));
        t.ask_id = envelope.request_id;
        return;
    } else if (envelope.id == VDP_FAILURE) {
        vdp_failure_t failure = {0};
        cr_assert_eq(vdp_decode(&vdp_failure, rest, &failure, &body, NULL), VD_OK);
        t.failed[envelope.request_id] = (int)failure.code;
    } else {
        const vdp_message_t *message = message_of(envelope.id);
        cr_assert_not_null(message, "message %u", envelope.id);
        cr_assert_eq(vdp_decode(message, rest, &t.last, &body, NULL), VD_OK);
    }
    vd_buf_clear(&t.body);
    cr_assert(body.len == 0 || vd_buf_append_slice(&t.body, body) == VD_OK);
    t.got[envelope.request_id] = envelope.id;
}

static void on_peer(void *context, uint64_t peer, bool up)
{
    (void)context, (void)peer;
    t.up = up;
}

static void turn(void)
{
    cr_assert_eq(vd_loop_turn(t.loop, 2, NULL), VD_OK);
}

static void turns_ms(uint64_t ms)
{
    for (uint64_t until = vd_monotonic_ms() + ms; vd_monotonic_ms() < until;)
        turn();
}

#define TURNS_UNTIL(condition)                                                                     \
    for (uint64_t limit_ms = vd_monotonic_ms() + 30000; !(condition); turn())                      \
    cr_assert_lt(vd_monotonic_ms(), limit_ms, "waited in vain: " #condition)

static uint64_t post(const vdp_message_t *message, const void *fields, vd_slice_t body)
{
    vd_buf_t item;
    vdp_envelope_t envelope = {.id = message->id, .request_id = ++t.number};
    vd_buf_init(&item, VDP_ENTRIES_MAX + 65536);
    cr_assert_eq(vdp_encode(&item, &envelope, message, fields, body, NULL), VD_OK);
    cr_assert_eq(vd_link_send(t.link, 0, vd_buf_slice(&item), VD_SLICE_NULL, NULL), VD_OK);
    vd_buf_done(&item);
    return t.number;
}

/* VD_OK, or the failure's code; the answer stands in t.last. */
static int call(const vdp_message_t *message, const void *fields, vd_slice_t body)
{
    uint64_t id = post(message, fields, body);
    TURNS_UNTIL(t.got[id] != 0);
    return t.failed[id];
}

static int role(uint64_t term, int wanted)
{
    vdp_replication_role_t role = {
        .term = term, .role = (uint32_t)wanted, .leader = VD_SLICE_LIT("one")};
    return call(&vdp_replication_role, &role, VD_SLICE_NULL);
}

static void attach(void)
{
    vdp_replication_attach_t attach = {.instance = vd_slice("0123456789abcdef", 16),
                                       .node = VD_SLICE_LIT("one")};
    cr_assert_eq(call(&vdp_replication_attach, &attach, VD_SLICE_NULL), VD_OK);
}

static void connect_link(void)
{
    vd_link_options_t link = {.path = t.path,
                              .item_max_bytes = VDP_ENTRIES_MAX + 65536,
                              .item = on_item,
                              .peer_changed = on_peer};
    cr_assert_eq(vd_link_open(t.loop, &link, &t.link, NULL), VD_OK);
    TURNS_UNTIL(t.up);
}

static void set_up(void)
{
    vd_error_t err = VD_ERROR_INIT;
    uint8_t id[STOR_KEY_ID_BYTES] = {1}, key[STOR_KEY_BYTES] = {1};
    memset(&t, 0, sizeof t);
    snprintf(t.folder, sizeof t.folder, "/tmp/veddb-repl-XXXXXX");
    cr_assert_not_null(mkdtemp(t.folder));
    snprintf(t.path, sizeof t.path, "%s/replication", t.folder);
    t.keys = stor_keys_create();
    cr_assert_eq(stor_keys_put(t.keys, id, key, STOR_KEY_ACTIVE, &err), VD_OK);
    stor_storage_options_t options = {.folder = t.folder,
                                      .cache_bytes = 32 << 20,
                                      .reserve_min_bytes = 1 << 20,
                                      .bootstrap = true};
    stor_settings_t settings = {.threads = 2,
                                .journal_max_bytes = 1 << 26,
                                .replica_set = "rs0",
                                .address = "",
                                .data_folder = t.folder,
                                .replicated = true};
    cr_assert_eq(stor_storage_open(&options, &settings, t.keys, &t.storage, &err), VD_OK, "%s",
                 err.message);
    cr_assert_eq(stor_session_open(t.storage->engine, &t.session, &err), VD_OK);
    atomic_store(&t.storage->ready, true);
    cr_assert_eq(stor_replication_start(t.storage, NULL, t.path, &err), VD_OK, "%s", err.message);
    t.arena = vd_arena_create();
    vd_buf_init(&t.body, VDP_ENTRIES_MAX);
    cr_assert_eq(vd_loop_create(&t.loop, NULL), VD_OK);
    connect_link();
}

static int unlink_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void tear_down(void)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_link_close(&t.link);
    vd_loop_destroy(&t.loop);
    stor_replication_stop(t.storage);
    stor_session_close(&t.session);
    cr_assert_eq(stor_storage_close(&t.storage, &err), VD_OK, "%s", err.message);
    stor_keys_destroy(&t.keys);
    vd_arena_destroy(&t.arena);
    vd_buf_done(&t.body);
    (void)nftw(t.folder, unlink_one, 8, FTW_DEPTH | FTW_PHYS);
}

static uint64_t write_one(void)
{
    vd_error_t err = VD_ERROR_INIT;
    uint64_t timestamp = 0;
    int rc = stor_journal_note(t.storage, t.session, STOR_CHANGE_NOOP,
                               query_json(t.arena, "{'msg': 'one'}"), NULL, NULL, &timestamp, &err);
    cr_assert_eq(rc, VD_OK, "%s", err.message);
    return timestamp;
}

/* A framed no-op at that timestamp. */
static void frame_add(vd_buf_t *out, uint64_t timestamp)
{
    uint8_t key[12] = {0};
    stor_change_t change = {
        .kind = STOR_CHANGE_NOOP, .statement = -1, .body = query_json(t.arena, "{'msg': 'other'}")};
    vd_buf_t value;
    vd_buf_init(&value, 4096);
    vd_put_u64_be(key, timestamp);
    cr_assert_eq(stor_journal_begin(&value, NULL, 1, NULL), VD_OK);
    cr_assert_eq(stor_journal_add(&value, &change, NULL), VD_OK);
    cr_assert_eq(vd_buf_append(out, key, sizeof key), VD_OK);
    cr_assert_eq(vd_buf_append_u32(out, (uint32_t)vd_buf_len(&value)), VD_OK);
    cr_assert_eq(vd_buf_append_slice(out, vd_buf_slice(&value)), VD_OK);
    vd_buf_done(&value);
}

static uint64_t apply_post(uint64_t after, uint64_t timestamp, int64_t delay_ms)
{
    vd_buf_t out;
    vd_buf_init(&out, 1 << 20);
    frame_add(&out, timestamp);
    vdp_replication_apply_t apply = {
        .term = 3, .after = after, .last = timestamp, .count = 1, .delay_ms = delay_ms};
    uint64_t id = post(&vdp_replication_apply, &apply, vd_buf_slice(&out));
    vd_buf_done(&out);
    return id;
}

/* ---- tests ---- */

Test(replication_link, attach_role_state)
{
    set_up();
    cr_assert_eq(role(2, VDP_ROLE_PRIMARY), VD_ERR_BAD_VALUE); /* before ATTACH */
    attach();
    cr_assert_eq(t.state.role, VDP_ROLE_STARTING);
    cr_assert(t.state.ready && t.state.empty && !t.state.loading);
    cr_assert_eq(vd_buf_len(&t.body), 0);
    uint32_t before = t.states;
    cr_assert_eq(role(2, VDP_ROLE_PRIMARY), VD_OK);
    cr_assert_eq(t.last.role_set.term, 2);
    cr_assert_eq(role(1, VDP_ROLE_SECONDARY), VD_ERR_STALE_TERM);
    /* Told at once: before the answer to what was asked next, not with the next tick. */
    cr_assert_eq(t.state.role, VDP_ROLE_PRIMARY);
    cr_assert_eq(t.state.term, 2);
    cr_assert_gt(t.states, before);
    cr_assert_eq(role(3, 77), VD_ERR_BAD_VALUE);
    /* Nobody is named: whom it agreed to in this term stays. */
    vdp_replication_role_t nobody = {.term = 2, .role = VDP_ROLE_REMOVED};
    cr_assert_eq(call(&vdp_replication_role, &nobody, VD_SLICE_NULL), VD_OK);
    cr_assert_str_eq(t.storage->replication->leader, "one");
    nobody.term = 3;
    cr_assert_eq(call(&vdp_replication_role, &nobody, VD_SLICE_NULL), VD_OK);
    cr_assert_str_eq(t.storage->replication->leader, "");
    before = t.states;
    uint64_t began_ms = vd_monotonic_ms();
    TURNS_UNTIL(t.states - before >= 4); /* with each tick, four a second */
    cr_assert_geq(vd_monotonic_ms() - began_ms, 500);
    tear_down();
}

Test(replication_link, configuration)
{
    set_up();
    attach();
    vd_bson_t config = query_json(t.arena, "{'_id': 'rs0', 'version': 1, 'members': []}");
    vdp_replication_config_t ask = {.version = 1};
    cr_assert_eq(call(&vdp_replication_config, &ask, vd_slice(config.data, config.len)),
                 VD_ERR_NOT_WRITABLE_PRIMARY);
    cr_assert_eq(role(2, VDP_ROLE_PRIMARY), VD_OK);
    cr_assert_eq(call(&vdp_replication_config, &ask, vd_slice(config.data, config.len)), VD_OK);
    cr_assert_leq(t.last.config_set.timestamp, stor_engine_durable(t.storage->engine));
    TURNS_UNTIL(vd_buf_len(&t.body) == config.len); /* with STATE */
    cr_assert_eq(call(&vdp_replication_config, &ask, vd_slice(config.data, config.len)),
                 VD_ERR_BAD_VALUE); /* does not follow */
    ask.version = 2;
    cr_assert_eq(call(&vdp_replication_config, &ask, vd_slice(config.data, config.len)),
                 VD_ERR_BAD_VALUE); /* says something else */
    cr_assert_eq(call(&vdp_replication_config, &ask, vd_slice("\x09\0\0\0xxxx", 9)),
                 VD_ERR_BAD_VALUE);
    /* A new primary makes it its own; nobody goes back. */
    static const struct {
        const char *config;
        int64_t version;
        int code;
    } next[] = {
        {"{'_id': 'rs0', 'version': 1, 'term': 2, 'members': []}", 1, VD_OK},
        {"{'_id': 'rs0', 'version': 1, 'term': 2, 'members': []}", 1, VD_ERR_BAD_VALUE},
        {"{'_id': 'rs0', 'version': 2, 'term': 2, 'members': []}", 2, VD_OK},
        {"{'_id': 'rs0', 'version': 1, 'term': 3, 'members': []}", 1, VD_ERR_BAD_VALUE},
        {"{'_id': 'rs0', 'version': 4, 'term': 2, 'members': []}", 4, VD_ERR_BAD_VALUE},
        {"{'_id': 'rs0', 'version': 4, 'term': 3, 'members': []}", 4, VD_OK},
    };
    for (size_t i = 0; i < VD_COUNT_OF(next); i++) {
        config = query_json(t.arena, next[i].config);
        ask.version = next[i].version;
        cr_assert_eq(call(&vdp_replication_config, &ask, vd_slice(config.data, config.len)),
                     next[i].code, "%zu", i);
    }
    tear_down();
}

static void lease(uint64_t term, uint64_t until_ms)
{
    vdp_replication_positions_t positions = {.term = term, .lease_until_ms = until_ms};
    vdp_replication_find_t find = {.sample = true};
    (void)post(&vdp_replication_positions, &positions, VD_SLICE_NULL);
    cr_assert_eq(call(&vdp_replication_find, &find, VD_SLICE_NULL), VD_OK); /* it was read */
}

/* Where replicad is gone nobody else says that another may lead. */
Test(replication_link, nothing_is_committed_after_the_lease)
{
    set_up();
    attach();
    stor_request_t request = {.storage = t.storage};
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(role(2, VDP_ROLE_PRIMARY), VD_OK);
    cr_assert_eq(stor_replication_request_commit(&request, &err), VD_OK);
    lease(2, vd_monotonic_ms() + 3600000);
    cr_assert_eq(stor_replication_request_commit(&request, &err), VD_OK);
    lease(2, vd_monotonic_ms());
    cr_assert_eq(stor_replication_request_commit(&request, &err),
                 VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE);
    lease(1, UINT64_MAX); /* of a term that is over */
    lease(2, 0);          /* of one that does not lead */
    cr_assert_eq(stor_replication_request_commit(&request, &err),
                 VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE);
    lease(2, UINT64_MAX);
    vd_error_clear(&err);
    cr_assert_eq(stor_replication_request_commit(&request, &err), VD_OK);
    lease(2, vd_monotonic_ms());
    cr_assert_eq(role(3, VDP_ROLE_PRIMARY), VD_OK); /* a new one: its lease is told yet */
    cr_assert_eq(stor_replication_request_commit(&request, &err), VD_OK);
    tear_down();
}

Test(replication_link, tail_waits_for_the_disk)
{
    set_up();
    attach();
    cr_assert_eq(role(2, VDP_ROLE_PRIMARY), VD_OK);
    uint64_t first = write_one();
    vdp_replication_tail_t ask = {
        .bytes_max = 1 << 20, .wait_ms = 120000, .after_part = UINT32_MAX, .reader = 2};
    do {
        cr_assert_eq(call(&vdp_replication_tail, &ask, VD_SLICE_NULL), VD_OK);
        cr_assert_gt(t.last.batch.last, ask.after);
        ask.after = t.last.batch.last;
    } while (ask.after < first);
    cr_assert_eq(ask.after, first);
    uint64_t id = post(&vdp_replication_tail, &ask, VD_SLICE_NULL);
    turns_ms(100);
    cr_assert_eq(t.got[id], 0); /* parked */
    uint64_t second = write_one();
    TURNS_UNTIL(t.got[id] != 0); /* long before its wait is over */
    cr_assert_eq(t.last.batch.last, second);
    cr_assert_eq(t.last.batch.count, 1);
    cr_assert_leq(second, stor_engine_durable(t.storage->engine));
    /* Nothing comes: an empty one, in time. */
    ask.after = second;
    ask.wait_ms = 50;
    uint64_t began_ms = vd_monotonic_ms();
    cr_assert_eq(call(&vdp_replication_tail, &ask, VD_SLICE_NULL), VD_OK);
    cr_assert_geq(vd_monotonic_ms() - began_ms, 45);
    cr_assert_eq(t.last.batch.count, 0);
    cr_assert_eq(t.last.batch.last, second);
    vdp_replication_find_t find = {.sample = true};
    cr_assert_eq(call(&vdp_replication_find, &find, VD_SLICE_NULL), VD_OK);
    cr_assert_geq(vd_buf_len(&t.body), 16);
    cr_assert_eq(vd_get_u64(vd_buf_at(&t.body, 0)), second);
    uint8_t known[16];
    vd_put_u64(known, second + 5);
    vd_put_u64(known + 8, first);
    find.sample = false;
    cr_assert_eq(call(&vdp_replication_find, &find, vd_slice(known, 16)), VD_OK);
    cr_assert_eq(t.last.found.timestamp, first);
    cr_assert_eq(call(&vdp_replication_find, &find, vd_slice(known, 15)), VD_ERR_PROTOCOL);
    vdp_replication_count_t count = {0};
    vd_put_u64(known, second);
    cr_assert_eq(call(&vdp_replication_count, &count, vd_slice(known, 16)), VD_OK);
    cr_assert_eq(vd_buf_len(&t.body), 16);
    cr_assert_eq(vd_get_u64(vd_buf_at(&t.body, 0)), 0);
    cr_assert_eq(vd_get_u64(vd_buf_at(&t.body, 8)), 1);
    cr_assert_geq(t.last.counted.newest, second);
    cr_assert_eq(call(&vdp_replication_count, &count, vd_slice(known, 15)), VD_ERR_PROTOCOL);
    tear_down();
}

Test(replication_link, apply_in_order_and_durable)
{
    set_up();
    attach();
    cr_assert_eq(role(3, VDP_ROLE_PRIMARY), VD_OK);
    uint64_t base = (uint64_t)(vd_wall_ms() / 1000 + 10) << 32 | 3u << 24, after = 0;
    uint64_t id = apply_post(0, base + 1, 0);
    TURNS_UNTIL(t.got[id] != 0);
    cr_assert_eq(t.failed[id], VD_ERR_BAD_VALUE); /* a primary applies nothing */
    cr_assert_eq(role(3, VDP_ROLE_SECONDARY), VD_OK);
    uint64_t ids[20];
    for (uint64_t i = 0; i < 20; i++) { /* pipelined */
        ids[i] = apply_post(after, base + 1 + i, 0);
        after = base + 1 + i;
    }
    for (int i = 0; i < 20; i++) {
        TURNS_UNTIL(t.got[ids[i]] != 0);
        cr_assert_eq(t.failed[ids[i]], VD_OK);
    }
    cr_assert_eq(t.last.applied.applied, after);
    cr_assert_geq(t.last.applied.durable, after);
    cr_assert_eq(stor_engine_visible(t.storage->engine), after);
    id = apply_post(after + 5, after + 6, 0);
    TURNS_UNTIL(t.got[id] != 0);
    cr_assert_eq(t.failed[id], VD_ERR_BAD_VALUE); /* a hole */
    /* A delayed one waits, and holds up neither a change of role nor others' questions. */
    uint64_t young = ((uint64_t)(vd_wall_ms() / 1000) + 11) << 32 | 3u << 24 | 9;
    id = apply_post(after, young, 1);
    turns_ms(300);
    cr_assert_eq(t.got[id], 0);
    cr_assert_eq(role(3, VDP_ROLE_RECOVERING), VD_OK);
    cr_assert_eq(role(3, VDP_ROLE_SECONDARY), VD_OK);
    cr_assert_eq(t.got[id], 0);
    tear_down();
}

static int answered_code;
static char answered_text[64];
static atomic_int answered_count;

static void answered(void *context, int code, vd_slice_t message, vd_slice_t body)
{
    (void)context, (void)body;
    answered_code = code;
    snprintf(answered_text, sizeof answered_text, "%.*s", VD_SLICE_FMT(message));
    atomic_fetch_add(&answered_count, 1);
}

Test(replication_link, our_questions)
{
    set_up();
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_ask_t ask = {.verb = VD_SLICE_LIT("promote")};
    cr_assert_eq(stor_replication_ask(t.storage, &ask, VD_SLICE_NULL, answered, NULL, &err), VD_OK);
    TURNS_UNTIL(atomic_load(&answered_count) == 1); /* nobody is attached */
    cr_assert_eq(answered_code, VD_ERR_HOST_UNREACHABLE);
    attach();
    cr_assert_eq(stor_replication_ask(t.storage, &ask, VD_SLICE_NULL, answered, NULL, &err), VD_OK);
    TURNS_UNTIL(t.ask_id != 0);
    cr_assert_str_eq(t.ask_verb, "promote");
    vdp_replication_answer_t answer = {.code = VD_ERR_BAD_VALUE, .message = VD_SLICE_LIT("no")};
    t.number = t.ask_id - 1; /* an answer repeats the question's number */
    post(&vdp_replication_answer, &answer, VD_SLICE_NULL);
    TURNS_UNTIL(atomic_load(&answered_count) == 2);
    cr_assert_eq(answered_code, VD_ERR_BAD_VALUE);
    cr_assert_str_eq(answered_text, "no");
    /* replicad dies with one open; and one is open when storage stops. */
    cr_assert_eq(stor_replication_ask(t.storage, &ask, VD_SLICE_NULL, answered, NULL, &err), VD_OK);
    turns_ms(50);
    vd_link_close(&t.link);
    for (int i = 0; i < 30000 && atomic_load(&answered_count) < 3; i++)
        usleep(1000);
    cr_assert_eq(answered_code, VD_ERR_HOST_UNREACHABLE);
    t.up = false;
    connect_link();
    t.number = 100;
    attach();
    cr_assert_eq(stor_replication_ask(t.storage, &ask, VD_SLICE_NULL, answered, NULL, &err), VD_OK);
    turns_ms(50);
    stor_replication_stop(t.storage);
    cr_assert_eq(atomic_load(&answered_count), 4);
    cr_assert_eq(answered_code, VD_ERR_INTERRUPTED_AT_SHUTDOWN);
    cr_assert_eq(stor_replication_ask(t.storage, &ask, VD_SLICE_NULL, answered, NULL, &err),
                 VD_ERR_TEMPORARILY_UNAVAILABLE);
    tear_down();
}

Test(replication_link, garbage)
{
    set_up();
    attach();
    vd_rand_t rand;
    uint8_t bytes[300];
    vd_rand_seed(&rand, 3);
    for (int i = 0; i < 30; i++) { /* each cuts the link; another connection is heard */
        size_t len = 1 + (size_t)vd_rand_below(&rand, sizeof bytes - 1);
        for (size_t n = 0; n < len; n++)
            bytes[n] = (uint8_t)vd_rand_u64(&rand);
        cr_assert_eq(vd_link_send(t.link, 0, vd_slice(bytes, len), VD_SLICE_NULL, NULL), VD_OK);
        TURNS_UNTIL(!t.up);
        vd_link_close(&t.link);
        connect_link();
    }
    attach();
    vdp_replication_apply_t apply = {.term = 9, .last = 5, .count = 1};
    cr_assert_eq(call(&vdp_replication_apply, &apply, vd_slice(bytes, 300)), VD_ERR_CORRUPT);
    vdp_load_end_t end = {.snapshot = vd_slice(bytes, 16)};
    cr_assert_eq(call(&vdp_load_end, &end, VD_SLICE_NULL),
                 VD_ERR_BAD_VALUE); /* before LOAD_BEGIN */
    cr_assert_eq(role(2, VDP_ROLE_SECONDARY), VD_OK);
    tear_down();
}
