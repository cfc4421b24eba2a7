/* tests/unit/rotated/test_rotation.c — the plain cases of rotation/machine.c (the rest is
 * tests/simrot's), its record, what is shown and asked; the audit log's keys wrapped anew. */
#include "libcommon/base/assert.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/bson/build.h"
#include "proto/rotation.h"
#include "veddb-rotated/audit/log.h"
#include "veddb-rotated/audit/rewrap.h"
#include "veddb-rotated/rotation/record.h"
#include "veddb-rotated/rotation/show.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static rot_machine_t machine;
static rot_actions_t actions;
static rot_facts_t facts;
static rot_left_t left[2];
static vd_error_t err;

static void set_up(void)
{
    memset(&machine, 0, sizeof machine);
    facts = (rot_facts_t){.now_ms = 1000000,
                          .active_version = 1,
                          .highest_version = 1,
                          .copies_known = true,
                          .active_since_ms = 1000000,
                          .rate_default = 7,
                          .latency_rise_default = 15};
    err = (vd_error_t)VD_ERROR_INIT;
}

TestSuite(rotation, .init = set_up);

static const rot_action_t *action_of(rot_action_kind_t kind)
{
    for (size_t i = 0; i < actions.count; i++)
        if (actions.list[i].kind == kind)
            return &actions.list[i];
    return NULL;
}

static void happen(rot_event_t event)
{
    event.facts = facts;
    rot_machine_step(&machine, &event, &actions);
    const rot_action_t *saved = action_of(ROT_ACTION_SAVE);
    if (saved != NULL && saved->add)
        facts.active_version = ++facts.highest_version;
}

static int code_of(rot_event_kind_t kind)
{
    happen((rot_event_t){.kind = kind, .ticket = 9});
    const rot_action_t *answer = action_of(ROT_ACTION_ANSWER);
    cr_assert_not_null(answer);
    cr_assert_eq(answer->ticket, 9);
    return answer->code;
}

static void attach(void)
{
    happen((rot_event_t){.kind = ROT_EVENT_ATTACH, .version = 1});
    cr_assert_not_null(action_of(ROT_ACTION_ORDER));
}

/* Storage tells how much it has encrypted with the key that is active for it. */
static void encrypted(uint32_t version, uint64_t blocks)
{
    left[0] = (rot_left_t){version, 0};
    happen((rot_event_t){
        .kind = ROT_EVENT_REPORT, .versions = 1, .left = left, .blocks_encrypted = blocks});
}

static void wrapped(uint32_t version)
{
    happen((rot_event_t){.kind = ROT_EVENT_WRAPPED, .version = version});
}

/* Of the order in force. */
static void report(bool done, uint64_t old_blocks)
{
    rot_order_t now = rot_machine_order(&machine, facts.active_version);
    left[0] = (rot_left_t){1, old_blocks};
    left[1] = (rot_left_t){2, 50};
    happen((rot_event_t){.kind = ROT_EVENT_REPORT,
                         .rotation = now.rotation,
                         .step = now.step,
                         .done = done,
                         .versions = 2,
                         .left = left});
}

static void failed(const char *why)
{
    rot_order_t now = rot_machine_order(&machine, facts.active_version);
    rot_event_t event = {
        .kind = ROT_EVENT_REPORT, .rotation = now.rotation, .step = now.step, .failed = true};
    (void)snprintf(event.note, sizeof event.note, "%s", why);
    happen(event);
}

/* The machine in that state, with storage attached. */
static void bring_to(rot_state_t state)
{
    set_up();
    attach();
    if (state == ROT_IDLE)
        return;
    if (state == ROT_CHECKING) {
        cr_assert_eq(code_of(ROT_EVENT_CHECK), VD_OK);
        return;
    }
    cr_assert_eq(code_of(ROT_EVENT_ROTATE), VD_OK);
    if (state == ROT_PAUSED)
        (void)code_of(ROT_EVENT_PAUSE);
    else if (state == ROT_CANCELLED)
        (void)code_of(ROT_EVENT_CANCEL);
    else if (state == ROT_FAILED)
        failed("the disk is broken");
    if (state != ROT_VERIFYING && state != ROT_RETIRING && state != ROT_COMPLETED)
        return;
    report(true, 0);
    if (state == ROT_VERIFYING)
        return;
    wrapped(2);
    report(true, 0);
    if (state == ROT_COMPLETED)
        report(true, 0);
}

/* What each verb does in each state. */
Test(rotation, verbs_in_every_state)
{
    static const rot_event_kind_t verbs[] = {ROT_EVENT_ROTATE, ROT_EVENT_PAUSE,    ROT_EVENT_RESUME,
                                             ROT_EVENT_CANCEL, ROT_EVENT_THROTTLE, ROT_EVENT_CHECK};
    enum {
        OK = VD_OK,
        BUSY = VD_ERR_ROTATION_IN_PROGRESS,
        NONE = VD_ERR_NO_ROTATION,
        LATE = VD_ERR_ILLEGAL_OPERATION
    };
    static const struct {
        rot_state_t from;
        int codes[6];
        rot_state_t to[6];
    } rows[] = {
        {ROT_IDLE,
         {OK, NONE, NONE, NONE, NONE, OK},
         {ROT_REENCRYPTING, ROT_IDLE, ROT_IDLE, ROT_IDLE, ROT_IDLE, ROT_CHECKING}},
        {ROT_REENCRYPTING,
         {BUSY, OK, OK, OK, OK, BUSY},
         {ROT_REENCRYPTING, ROT_PAUSED, ROT_REENCRYPTING, ROT_CANCELLED, ROT_REENCRYPTING,
          ROT_REENCRYPTING}},
        {ROT_PAUSED,
         {BUSY, OK, OK, OK, OK, BUSY},
         {ROT_PAUSED, ROT_PAUSED, ROT_REENCRYPTING, ROT_CANCELLED, ROT_PAUSED, ROT_PAUSED}},
        {ROT_VERIFYING,
         {BUSY, OK, OK, OK, OK, BUSY},
         {ROT_VERIFYING, ROT_PAUSED, ROT_VERIFYING, ROT_CANCELLED, ROT_VERIFYING, ROT_VERIFYING}},
        {ROT_RETIRING,
         {BUSY, LATE, LATE, LATE, LATE, BUSY},
         {ROT_RETIRING, ROT_RETIRING, ROT_RETIRING, ROT_RETIRING, ROT_RETIRING, ROT_RETIRING}},
        {ROT_COMPLETED,
         {OK, NONE, NONE, NONE, NONE, OK},
         {ROT_REENCRYPTING, ROT_COMPLETED, ROT_COMPLETED, ROT_COMPLETED, ROT_COMPLETED,
          ROT_CHECKING}},
        {ROT_CANCELLED,
         {OK, NONE, NONE, NONE, NONE, OK},
         {ROT_REENCRYPTING, ROT_CANCELLED, ROT_CANCELLED, ROT_CANCELLED, ROT_CANCELLED,
          ROT_CHECKING}},
        {ROT_FAILED,
         {BUSY, LATE, OK, OK, OK, BUSY},
         {ROT_FAILED, ROT_FAILED, ROT_REENCRYPTING, ROT_CANCELLED, ROT_FAILED, ROT_FAILED}},
        {ROT_CHECKING,
         {BUSY, NONE, NONE, NONE, NONE, BUSY},
         {ROT_CHECKING, ROT_CHECKING, ROT_CHECKING, ROT_CHECKING, ROT_CHECKING, ROT_CHECKING}},
    };
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++) {
        for (size_t verb = 0; verb < VD_COUNT_OF(verbs); verb++) {
            bring_to(rows[i].from);
            cr_assert_eq(machine.kept.state, rows[i].from, "%s", rot_state_name(rows[i].from));
            cr_assert_eq(code_of(verbs[verb]), rows[i].codes[verb], "%s, verb %zu",
                         rot_state_name(rows[i].from), verb);
            cr_assert_eq(machine.kept.state, rows[i].to[verb], "%s, verb %zu: %s",
                         rot_state_name(rows[i].from), verb, rot_state_name(machine.kept.state));
        }
    }
}

Test(rotation, goes_from_the_first_order_to_the_destroyed_key)
{
    bring_to(ROT_REENCRYPTING);
    rot_order_t now = rot_machine_order(&machine, facts.active_version);
    cr_assert_eq(now.step, VDP_ROTATION_REENCRYPT);
    cr_assert_eq(now.old_version, 1);
    cr_assert_eq(now.active_version, 2);
    cr_assert_eq(now.rate_max_bytes, 7);
    report(true, 3);
    cr_assert_eq(machine.kept.state, ROT_VERIFYING);
    report(true, 3);
    cr_assert_eq(machine.kept.state, ROT_REENCRYPTING, "the proof found some");
    cr_assert_eq(machine.kept.returns, 1);
    report(true, 0);
    report(false, 0);
    cr_assert_eq(machine.kept.state, ROT_VERIFYING, "not done");
    report(true, 0);
    cr_assert_eq(machine.kept.state, ROT_VERIFYING, "the audit log still needs the old key");
    wrapped(1);
    cr_assert_eq(machine.kept.state, ROT_VERIFYING);
    wrapped(2);
    cr_assert_eq(machine.kept.state, ROT_RETIRING);
    cr_assert_eq(action_of(ROT_ACTION_SAVE)->retire_upto, 1);
    cr_assert_eq(action_of(ROT_ACTION_SAVE)->destroy_upto, 0);
    failed("busy");
    cr_assert_eq(machine.kept.state, ROT_RETIRING, "it goes on until storage has forgotten");
    report(true, 0);
    cr_assert_eq(machine.kept.state, ROT_COMPLETED);
    cr_assert_eq(action_of(ROT_ACTION_SAVE)->destroy_upto, 1);
    cr_assert_eq(machine.kept.past[0].outcome, ROT_COMPLETED);
    now = rot_machine_order(&machine, facts.active_version);
    cr_assert_eq(now.step, VDP_ROTATION_NONE);
    cr_assert_eq(now.rotation, 0);
}

Test(rotation, a_proof_without_a_count_is_none)
{
    bring_to(ROT_VERIFYING);
    wrapped(2);
    rot_order_t now = rot_machine_order(&machine, facts.active_version);
    happen((rot_event_t){
        .kind = ROT_EVENT_REPORT, .rotation = now.rotation, .step = now.step, .done = true});
    cr_assert_eq(machine.kept.state, ROT_VERIFYING);
}

Test(rotation, a_proof_ends_with_storage)
{
    bring_to(ROT_VERIFYING);
    report(true, 0);
    happen((rot_event_t){.kind = ROT_EVENT_DETACH});
    wrapped(2);
    cr_assert_eq(machine.kept.state, ROT_VERIFYING, "it is counted anew when storage is back");
    attach();
    report(true, 0);
    cr_assert_eq(machine.kept.state, ROT_RETIRING);
}

Test(rotation, retained_copies_hold_the_key_until_forced)
{
    bring_to(ROT_VERIFYING);
    wrapped(2);
    facts.retained_copies = 1;
    facts.copies_names = "monday";
    report(true, 0);
    cr_assert_eq(machine.kept.state, ROT_VERIFYING);
    const rot_action_t *noted = action_of(ROT_ACTION_NOTE);
    cr_assert_str_eq(noted->name, "keysRetained");
    cr_assert_not_null(strstr(noted->text, "monday"));
    happen((rot_event_t){.kind = ROT_EVENT_TICK});
    cr_assert_eq(actions.count, 0, "said once");
    cr_assert_eq(code_of(ROT_EVENT_RESUME), VD_ERR_KEY_IN_USE);
    cr_assert_eq(machine.kept.state, ROT_VERIFYING);
    happen((rot_event_t){.kind = ROT_EVENT_RESUME, .ticket = 1, .force = true});
    cr_assert_eq(actions.list[0].kind, ROT_ACTION_SAVE);
    cr_assert(machine.kept.force);
    happen((rot_event_t){.kind = ROT_EVENT_TICK});
    cr_assert_eq(machine.kept.state, ROT_RETIRING);
}

Test(rotation, retained_copies_that_go_let_the_key_go)
{
    bring_to(ROT_VERIFYING);
    wrapped(2);
    facts.copies_known = false;
    report(true, 0);
    cr_assert_eq(machine.kept.state, ROT_VERIFYING, "storage has not said which there are");
    facts.copies_known = true;
    facts.retained_copies = 2;
    happen((rot_event_t){.kind = ROT_EVENT_TICK});
    cr_assert(machine.waits_for_copies);
    facts.retained_copies = 0;
    happen((rot_event_t){.kind = ROT_EVENT_TICK});
    cr_assert_eq(machine.kept.state, ROT_RETIRING);
}

Test(rotation, copies_are_taken_whole_or_not)
{
    static rot_copies_t copies;
    uint8_t body[3 * VDP_ROTATION_BACKUP_BYTES] = {0};
    char names[20];
    for (uint32_t i = 0; i < 3; i++) {
        vd_put_u32(body + i * VDP_ROTATION_BACKUP_BYTES, i + 1);
        memset(body + i * VDP_ROTATION_BACKUP_BYTES + 4, 'a' + (int)i, 10);
    }
    cr_assert_eq(rot_copies_take(&copies, vd_slice(body, sizeof body), &err), VD_OK);
    cr_assert(copies.known);
    cr_assert_eq(rot_copies_count(&copies, 0), 0);
    cr_assert_eq(rot_copies_count(&copies, 2), 2);
    cr_assert_str_eq(rot_copies_names(&copies, 2, names, sizeof names), "aaaaaaaaaa, ...");
    cr_assert_str_eq(rot_copies_names(&copies, 1, names, sizeof names), "aaaaaaaaaa");
    cr_assert_eq(rot_copies_take(&copies, vd_slice(body, sizeof body - 1), &err), VD_ERR_PROTOCOL);
    body[5] = '"';
    cr_assert_eq(rot_copies_take(&copies, vd_slice(body, sizeof body), &err), VD_ERR_PROTOCOL);
    body[4] = 0;
    cr_assert_eq(rot_copies_take(&copies, vd_slice(body, sizeof body), &err), VD_ERR_PROTOCOL);
    cr_assert_eq(copies.count, 3, "as it was");
    cr_assert_eq(rot_copies_take(&copies, VD_SLICE_NULL, &err), VD_OK);
    cr_assert_eq(copies.count, 0);
}

Test(rotation, many_proofs_that_find_blocks_ask_for_an_operator)
{
    bring_to(ROT_REENCRYPTING);
    for (int i = 0; i < ROT_RETURNS_MAX; i++) {
        report(true, 0);
        cr_assert_eq(machine.kept.state, ROT_VERIFYING, "round %d", i);
        report(true, 1);
    }
    cr_assert_eq(machine.kept.state, ROT_FAILED);
    cr_assert_not_null(strstr(machine.kept.note, "1 blocks of old keys"));
    cr_assert_eq(machine.kept.failures, 1);
}

Test(rotation, an_older_keyring_is_refused_by_name)
{
    bring_to(ROT_IDLE);
    happen((rot_event_t){.kind = ROT_EVENT_ATTACH, .version = 5});
    const rot_action_t *fatal = action_of(ROT_ACTION_FATAL);
    cr_assert_not_null(fatal);
    cr_assert_eq(fatal->code, VD_ERR_KEYRING_OLD);
    cr_assert_not_null(strstr(fatal->text, "version 5"));
    cr_assert_not_null(strstr(fatal->text, "version 1"));
    happen((rot_event_t){.kind = ROT_EVENT_ATTACH, .version = 1, .rotation = 3});
    fatal = action_of(ROT_ACTION_FATAL);
    cr_assert_not_null(fatal);
    cr_assert_not_null(strstr(fatal->text, "rotation 3"));
    machine.kept = (rot_kept_t){.number = 4, .order = 4, .state = ROT_REENCRYPTING, .target = 2};
    happen((rot_event_t){.kind = ROT_EVENT_START});
    cr_assert_not_null(action_of(ROT_ACTION_FATAL), "the record names a key that isn't there");
}

Test(rotation, schedule)
{
    static const struct {
        const char *what;
        uint64_t after_ms, blocks, encrypted;
        int64_t age_ms;
        rot_state_t from;
        bool begins;
        rot_reason_t reason;
    } rows[] = {
        {"off", 0, 0, 1u << 30, 1LL << 40, ROT_IDLE, false, 0},
        {"young", 5000, 0, 0, 4999, ROT_IDLE, false, 0},
        {"of age", 5000, 0, 0, 5000, ROT_IDLE, true, ROT_BY_AGE},
        {"few", 0, 100, 99, 0, ROT_IDLE, false, 0},
        {"many", 0, 100, 100, 0, ROT_IDLE, true, ROT_BY_BLOCKS},
        {"of age, completed", 5000, 0, 0, 5000, ROT_COMPLETED, true, ROT_BY_AGE},
        {"of age, under way", 5000, 0, 0, 5000, ROT_PAUSED, false, 0},
        {"of age, verifying alone", 5000, 0, 0, 5000, ROT_CHECKING, false, 0},
        {"of age, failed", 5000, 0, 0, 5000, ROT_FAILED, false, 0},
    };
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++) {
        bring_to(rows[i].from);
        uint64_t number = machine.kept.number;
        facts.rotate_after_ms = rows[i].after_ms;
        facts.rotate_blocks = rows[i].blocks;
        facts.active_since_ms = facts.now_ms - rows[i].age_ms;
        encrypted(facts.active_version, rows[i].encrypted);
        happen((rot_event_t){.kind = ROT_EVENT_TICK});
        cr_assert_eq(machine.kept.number, number + rows[i].begins, "%s", rows[i].what);
        if (rows[i].begins)
            cr_assert_eq(machine.kept.reason, rows[i].reason, "%s", rows[i].what);
    }
}

Test(rotation, blocks_are_counted_over_starts_of_storage)
{
    bring_to(ROT_IDLE);
    static const uint64_t reports[] = {10, 25, 25, 5, 6}; /* the fourth: storage began anew */
    for (size_t i = 0; i < VD_COUNT_OF(reports); i++)
        encrypted(1, reports[i]);
    cr_assert_eq(machine.kept.encrypted_blocks, 31);
}

Test(rotation, blocks_of_the_key_before_are_not_counted_to_the_new_one)
{
    bring_to(ROT_IDLE);
    facts.rotate_blocks = 100;
    encrypted(1, 100);
    happen((rot_event_t){.kind = ROT_EVENT_TICK});
    cr_assert_eq(facts.active_version, 2);
    encrypted(1, 120); /* it has not fetched the new key yet */
    cr_assert_eq(machine.kept.encrypted_blocks, 0);
    encrypted(2, 3);
    cr_assert_eq(machine.kept.encrypted_blocks, 3, "else the next rotation would follow at once");
}

/* The key holder starts again with what is in its record. */
static void start_again(void)
{
    static rot_kept_t kept;
    vd_buf_t buf;
    vd_buf_init(&buf, ROT_KEYRING_NOTE_MAX);
    cr_assert_eq(rot_record_pack(&machine.kept, &buf, &err), VD_OK);
    cr_assert_eq(rot_record_unpack(vd_buf_slice(&buf), &kept, &err), VD_OK, "%s", err.message);
    vd_buf_done(&buf);
    memset(&machine, 0, sizeof machine);
    machine.kept = kept;
    happen((rot_event_t){.kind = ROT_EVENT_START});
}

static void attach_of(uint8_t boot)
{
    happen((rot_event_t){.kind = ROT_EVENT_ATTACH, .version = 1, .boot_id = {boot}});
}

Test(rotation, blocks_are_counted_once_when_the_key_holder_starts_again)
{
    set_up();
    attach_of(7);
    encrypted(1, 40);
    start_again();
    attach_of(7);
    encrypted(1, 45);
    cr_assert_eq(machine.kept.encrypted_blocks, 45, "storage is the one of before");
    start_again();
    attach_of(8);
    encrypted(1, 41);
    cr_assert_eq(machine.kept.encrypted_blocks, 86, "storage began anew, too");
}

/* Storage tells how many blocks it has rewritten under the order in force. */
static void rewritten(uint64_t blocks)
{
    rot_order_t now = rot_machine_order(&machine, facts.active_version);
    happen((rot_event_t){.kind = ROT_EVENT_REPORT,
                         .rotation = now.rotation,
                         .step = now.step,
                         .blocks_rewritten = blocks});
}

Test(rotation, what_a_rotation_counted_is_saved_when_storage_goes)
{
    bring_to(ROT_REENCRYPTING);
    happen((rot_event_t){.kind = ROT_EVENT_DETACH});
    happen((rot_event_t){.kind = ROT_EVENT_TICK});
    cr_assert_null(action_of(ROT_ACTION_SAVE), "nothing was counted");
    attach();
    rewritten(100);
    facts.now_ms += ROT_KEEP_BUSY_MS - 1;
    happen((rot_event_t){.kind = ROT_EVENT_TICK});
    cr_assert_null(action_of(ROT_ACTION_SAVE), "not yet");
    happen((rot_event_t){.kind = ROT_EVENT_DETACH});
    happen((rot_event_t){.kind = ROT_EVENT_TICK});
    cr_assert_not_null(action_of(ROT_ACTION_SAVE), "at once");
    happen((rot_event_t){.kind = ROT_EVENT_TICK});
    cr_assert_null(action_of(ROT_ACTION_SAVE), "once");
    attach();
    rewritten(20); /* begun anew */
    facts.now_ms += ROT_KEEP_BUSY_MS;
    happen((rot_event_t){.kind = ROT_EVENT_TICK});
    cr_assert_not_null(action_of(ROT_ACTION_SAVE), "by time");
    cr_assert_eq(machine.kept.blocks, 120);
}

/* Else a schedule by fewer blocks than it takes to move everything would never end. */
Test(rotation, what_a_rotation_moved_does_not_begin_the_next_one)
{
    static const rot_state_t ends[] = {ROT_COMPLETED, ROT_CANCELLED};
    for (size_t i = 0; i < VD_COUNT_OF(ends); i++) {
        bring_to(ROT_REENCRYPTING);
        facts.rotate_blocks = 100;
        encrypted(2, 5000);
        if (ends[i] == ROT_CANCELLED) {
            (void)code_of(ROT_EVENT_CANCEL);
        } else {
            report(true, 0); /* each says 0: storage began anew */
            wrapped(2);
            report(true, 0);
            report(true, 0);
        }
        cr_assert_eq(machine.kept.state, ends[i]);
        uint64_t moved = machine.kept.encrypted_blocks;
        cr_assert_geq(moved, 5000, "they are the key's all the same");
        happen((rot_event_t){.kind = ROT_EVENT_TICK});
        cr_assert_eq(machine.kept.number, 1);
        start_again();
        attach();
        uint64_t told = machine.kept.told_encrypted;
        encrypted(2, told + 99);
        happen((rot_event_t){.kind = ROT_EVENT_TICK});
        cr_assert_eq(machine.kept.number, 1, "one is lacking");
        encrypted(2, told + 100);
        happen((rot_event_t){.kind = ROT_EVENT_TICK});
        cr_assert_eq(machine.kept.number, 2);
        cr_assert_eq(machine.kept.reason, ROT_BY_BLOCKS);
    }
}

Test(rotation, a_verify_alone_ends_where_it_began)
{
    bring_to(ROT_COMPLETED);
    facts.now_ms += 5000;
    rot_kept_t before = machine.kept;
    cr_assert_eq(code_of(ROT_EVENT_CHECK), VD_OK);
    cr_assert_gt(machine.kept.order, before.order, "a number for storage that is used once");
    cr_assert_eq(machine.kept.check.number, 1);
    rot_order_t now = rot_machine_order(&machine, facts.active_version);
    cr_assert_eq(now.step, VDP_ROTATION_VERIFY);
    cr_assert_eq(now.old_version, 1);
    report(true, 4);
    cr_assert_eq(machine.kept.state, ROT_COMPLETED);
    const rot_past_t *past = &machine.kept.past[machine.kept.past_count - 1];
    cr_assert_eq(past->kind, ROT_KIND_CHECK);
    cr_assert_eq(past->blocks, 4);
    cr_assert_eq(past->outcome, ROT_FAILED);
    cr_assert_eq(past->number, 1);
    cr_assert_eq(past->started_ms, facts.now_ms);
    cr_assert_eq(machine.kept.check.outcome, ROT_FAILED);
    cr_assert_eq(machine.kept.number, before.number, "it takes no number of a rotation");
    cr_assert_eq(machine.kept.started_ms, before.started_ms, "nor hides the last one");
    cr_assert_eq(machine.kept.changed_ms, before.changed_ms);
    cr_assert_eq(machine.kept.target, before.target);
    cr_assert_eq(machine.kept.blocks, before.blocks);
    cr_assert_eq(code_of(ROT_EVENT_CHECK), VD_OK);
    happen((rot_event_t){.kind = ROT_EVENT_REPORT,
                         .rotation = machine.kept.order,
                         .step = VDP_ROTATION_VERIFY,
                         .done = true});
    cr_assert_eq(machine.kept.past[machine.kept.past_count - 1].outcome, ROT_COMPLETED,
                 "storage has no old key of which it could count blocks");
    cr_assert_eq(code_of(ROT_EVENT_CHECK), VD_OK);
    failed("a table can't be read");
    cr_assert_eq(machine.kept.state, ROT_COMPLETED);
    cr_assert_eq(machine.kept.past[machine.kept.past_count - 1].blocks, UINT64_MAX);
}

Test(rotation, history_is_bounded)
{
    set_up();
    attach();
    for (int i = 0; i < ROT_HISTORY_MAX + 5; i++) {
        cr_assert_eq(code_of(ROT_EVENT_ROTATE), VD_OK);
        cr_assert_eq(code_of(ROT_EVENT_CANCEL), VD_OK);
    }
    cr_assert_eq(machine.kept.past_count, ROT_HISTORY_MAX);
    cr_assert_eq(machine.kept.past[ROT_HISTORY_MAX - 1].number, ROT_HISTORY_MAX + 5);
    cr_assert_eq(machine.kept.past[0].number, 6);
}

/* ---- the record ---- */

Test(rotation, record_keeps_everything)
{
    vd_buf_t buf;
    rot_kept_t back;
    bring_to(ROT_FAILED);
    machine.kept.past_count = ROT_HISTORY_MAX;
    machine.kept.rewraps = 3;
    memset(machine.kept.told_boot, 0xb0, sizeof machine.kept.told_boot);
    machine.kept.encrypted_blocks = machine.kept.told_encrypted = 70;
    machine.kept.schedule_from = 30;
    machine.kept.check = (rot_check_t){.number = 7, .outcome = ROT_FAILED, .blocks = UINT64_MAX};
    for (uint32_t i = 0; i < ROT_HISTORY_MAX; i++)
        machine.kept.past[i] = (rot_past_t){.number = i, .blocks = UINT64_MAX, .ended_ms = -1};
    vd_buf_init(&buf, ROT_KEYRING_NOTE_MAX);
    cr_assert_eq(rot_record_pack(&machine.kept, &buf, &err), VD_OK);
    cr_assert_eq(rot_record_unpack(vd_buf_slice(&buf), &back, &err), VD_OK, "%s", err.message);
    cr_assert_eq(back.number, machine.kept.number);
    cr_assert_eq(back.state, ROT_FAILED);
    cr_assert_str_eq(back.note, "the disk is broken");
    cr_assert_eq(back.past[31].number, 31);
    cr_assert_eq(back.order, machine.kept.order);
    cr_assert_eq(back.rewraps, 3);
    cr_assert_eq(back.check.number, 7);
    cr_assert_eq(back.check.blocks, UINT64_MAX);
    cr_assert_eq(back.past[31].ended_ms, -1);
    cr_assert_arr_eq(back.told_boot, machine.kept.told_boot, sizeof back.told_boot);
    cr_assert_eq(back.told_encrypted, 70);
    cr_assert_eq(back.schedule_from, 30);
    vd_buf_t again;
    vd_buf_init(&again, ROT_KEYRING_NOTE_MAX);
    cr_assert_eq(rot_record_pack(&back, &again, &err), VD_OK);
    cr_assert(vd_slice_equal(vd_buf_slice(&buf), vd_buf_slice(&again)));
    vd_buf_done(&buf);
    vd_buf_done(&again);
}

Test(rotation, record_refuses_what_it_does_not_know)
{
    vd_buf_t buf;
    rot_kept_t back;
    cr_assert_eq(rot_record_unpack(VD_SLICE_NULL, &back, &err), VD_OK, "a new keyring");
    cr_assert_eq(back.number, 0);
    bring_to(ROT_CANCELLED);
    vd_buf_init(&buf, ROT_KEYRING_NOTE_MAX);
    cr_assert_eq(rot_record_pack(&machine.kept, &buf, &err), VD_OK);
    vd_slice_t good = vd_buf_slice(&buf);
    for (size_t len = 1; len < good.len; len++)
        cr_assert_eq(rot_record_unpack(vd_slice(good.data, len), &back, NULL), VD_ERR_CORRUPT);
    buf.data[5] = 4;
    cr_assert_eq(rot_record_unpack(good, &back, &err), VD_ERR_UNSUPPORTED_FORMAT);
    /* The second format ended before what storage had told. */
    vd_slice_t second = vd_slice(good.data, good.len - 32);
    buf.data[5] = 2;
    cr_assert_eq(rot_record_unpack(second, &back, &err), VD_OK);
    cr_assert_eq(back.order, machine.kept.order);
    cr_assert_eq(back.schedule_from, 0);
    buf.data[5] = 1;
    /* The first, before order, rewraps and the check, too. */
    cr_assert_eq(rot_record_unpack(vd_slice(second.data, second.len - 60), &back, &err), VD_OK);
    cr_assert_eq(back.order, machine.kept.number);
    cr_assert_eq(back.check.number, 0);
    buf.data[5] = 3;
    buf.data[good.len - 1] = 1; /* the schedule's count begins above what was counted */
    cr_assert_eq(rot_record_unpack(good, &back, NULL), VD_ERR_CORRUPT);
    buf.data[good.len - 1] = 0;
    cr_assert_eq(rot_record_unpack(good, &back, NULL), VD_OK);
    buf.data[16] = 200; /* the state */
    cr_assert_eq(rot_record_unpack(good, &back, NULL), VD_ERR_CORRUPT);
    buf.data[6] = 255;
    cr_assert_eq(rot_record_unpack(good, &back, NULL), VD_ERR_CORRUPT);
    vd_buf_done(&buf);
}

/* ---- what is asked and shown ---- */

Test(rotation, options_of_a_verb)
{
    static const struct {
        const char *text;
        bool good;
        uint64_t rate;
        uint32_t rise;
        bool force;
    } rows[] = {
        {"", true, 0, 0, false},
        {"{}", true, 0, 0, false},
        {" { } ", true, 0, 0, false},
        {"{\"rate\":104857600}", true, 104857600, 0, false},
        {"{ \"rate\" : 5.0 , \"maxLatencyRise\":10 , \"force\" : true }", true, 5, 10, true},
        {"{\"force\":false}", true, 0, 0, false},
        {"{\"rate\":-1}", false, 0, 0, false},
        {"{\"rate\":1.5}", false, 0, 0, false},
        {"{\"rate\":}", false, 0, 0, false},
        {"{\"rate\":99999999999999999999}", false, 0, 0, false},
        {"{\"maxLatencyRise\":10001}", false, 0, 0, false},
        {"{\"pace\":1}", false, 0, 0, false},
        {"{\"rate\":1,}", false, 0, 0, false},
        {"{\"rate\":1} x", false, 0, 0, false},
        {"{\"rate\":1", false, 0, 0, false},
        {"[1]", false, 0, 0, false},
        {"{\"force\":1}", false, 0, 0, false},
        {".", false, 0, 0, false},
    };
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++) {
        rot_ask_options_t options = {0};
        int rc = rot_ask_options_parse(vd_slice_str(rows[i].text), &options, NULL);
        cr_assert_eq(rc == VD_OK, rows[i].good, "%s", rows[i].text);
        cr_assert_eq(options.rate, rows[i].rate, "%s", rows[i].text);
        cr_assert_eq(options.rise, rows[i].rise, "%s", rows[i].text);
        cr_assert_eq(options.force, rows[i].force, "%s", rows[i].text);
    }
}

Test(rotation, status_is_json_whatever_storage_says)
{
    vd_buf_t buf;
    bring_to(ROT_REENCRYPTING);
    report(false, 12);
    memset(machine.current, '"', sizeof machine.current - 1);
    memset(machine.note, '\n', sizeof machine.note - 1);
    vd_buf_init(&buf, 32768);
    cr_assert_eq(rot_show_status(&machine, NULL, facts.now_ms, true, &buf), VD_OK);
    cr_assert_eq(vd_buf_append_u8(&buf, 0), VD_OK);
    const char *text = (const char *)vd_buf_slice(&buf).data;
    cr_assert_not_null(strstr(text, "\"blocksLeft\":[{\"version\":1,\"blocks\":12}"));
    cr_assert_not_null(strstr(text, "\"blocksLeftEstimated\":false"));
    cr_assert_not_null(strstr(text, "\"state\":\"reencrypting\""));
    cr_assert_not_null(strstr(text, "\\\"\\\"\\\""));
    cr_assert_not_null(strstr(text, "\\u000a\\u000a"));
    cr_assert_null(strchr(text, '\n'));
    vd_buf_done(&buf);
}

/* ---- the audit log's keys ---- */

static char top[64], folder[96];
static rot_data_key_t keys[2] = {
    {.id = "first id 16 byte", .key = "the first key of thirty-two byte"},
    {.id = "other id 16 byte", .key = "another key, of thirty-two bytes"}};
static rot_log_t *log_;

static void log_set_up(void)
{
    err = (vd_error_t)VD_ERROR_INIT;
    (void)snprintf(top, sizeof top, "/tmp/vd-rewrap-XXXXXX");
    cr_assert_not_null(mkdtemp(top));
    (void)snprintf(folder, sizeof folder, "%s/audit", top);
}

static void log_tear_down(void)
{
    char command[96];
    rot_log_close(&log_);
    vd_fault_disarm(NULL);
    (void)snprintf(command, sizeof command, "rm -r %s", top);
    cr_expect_eq(system(command), 0);
}

TestSuite(rewrap, .init = log_set_up, .fini = log_tear_down);

static int log_open(const rot_data_key_t *with, uint32_t count, const rot_data_key_t *active)
{
    rot_log_options_t options = {.folder = folder,
                                 .second_place = "",
                                 .keys = {with, count},
                                 .active = active,
                                 .segment_max_bytes = 7000,
                                 .key_max_ms = 1u << 30};
    rot_log_close(&log_);
    vd_error_clear(&err);
    return rot_log_open(&options, &log_, &err);
}

static void records_append(uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++) {
        vd_bb_t bb;
        vd_bson_t document;
        vd_bb_init(&bb, 4096);
        vd_bb_int64(&bb, "n", (int64_t)i);
        cr_assert_eq(vd_bb_finish(&bb, &document, &err), VD_OK);
        cr_assert_eq(rot_log_append(log_, ROT_SOURCE_EVENTS, i, 0,
                                    vd_slice(document.data, document.len), &err),
                     VD_OK, "%s", err.message);
        vd_bb_done(&bb);
        cr_assert_eq(rot_log_seal(log_, &err), VD_OK, "%s", err.message);
    }
}

static uint64_t verified(const rot_data_key_t *with, uint32_t count)
{
    rot_verdict_t verdict = {0};
    rot_verify_options_t options = {.folder = folder, .keys = {with, count}};
    vd_error_clear(&err);
    cr_assert_eq(rot_verify(&options, &verdict, &err), VD_OK, "%s", err.message);
    return verdict.records;
}

/* A fault at each file: it is done again, and in the end the old key is needed by nothing. */
Test(rewrap, leaves_nothing_under_the_old_key, .timeout = 300)
{
    rot_data_keys_t both = {keys, 2};
    bool more = true;
    cr_assert_eq(log_open(keys, 2, &keys[0]), VD_OK, "%s", err.message);
    records_append(1, 40);
    cr_assert_gt(rot_log_sealed(log_)->segment, 2);
    cr_assert_eq(vd_fault_arm("audit.seal_half_wrapped=error:times=1", &err), VD_OK);
    cr_assert_neq(rot_log_rekey(log_, both, &keys[1], &err), VD_OK);
    vd_fault_disarm(NULL);
    cr_assert_eq(log_open(keys, 2, &keys[1]), VD_OK, "%s", err.message);
    cr_assert_eq(rot_log_rekey(log_, both, &keys[1], &err), VD_OK, "%s", err.message);
    records_append(41, 3);
    for (int tries = 0; more; tries++) {
        vd_error_clear(&err);
        if (tries % 2 == 0)
            cr_assert_eq(vd_fault_arm("audit.segment_rewrapped=error:times=1", &err), VD_OK);
        int rc = rot_rewrap_segments(folder, both, &keys[1], 2, &more, &err);
        cr_assert(rc == VD_OK || rc == VD_ERR_FAULT_INJECTED, "%s", err.message);
        more = more || rc != VD_OK;
        vd_fault_disarm(NULL);
        cr_assert_lt(tries, 100);
    }
    records_append(44, 3);
    rot_log_close(&log_);
    cr_assert_eq(verified(&keys[1], 1), 46, "the new key alone opens all of it");
    cr_assert_eq(log_open(&keys[1], 1, &keys[1]), VD_OK, "%s", err.message);
}

Test(rewrap, of_a_log_that_nobody_has_open)
{
    static const uint8_t kek[ROT_KEY_BYTES] = "a key-encryption key of 32 byte";
    char path[80];
    rot_keyring_t *ring = NULL;
    (void)snprintf(path, sizeof path, "%s/keys", top);
    cr_assert_eq(rot_keyring_open(path, kek, &ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_rewrap_folder(folder, ring, &err), VD_OK, "there is no log");
    rot_data_key_t copy[2];
    uint32_t active = 9;
    cr_assert_eq(rot_data_keys_copy(ring, copy, &active), 1);
    cr_assert_eq(log_open(copy, 1, &copy[0]), VD_OK, "%s", err.message);
    records_append(1, 20);
    rot_log_close(&log_);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_rewrap_folder(folder, ring, &err), VD_OK, "%s", err.message);
    cr_assert_eq(rot_keyring_set_state(ring, 1, ROT_KEY_DESTROYED, &err), VD_OK);
    cr_assert_eq(rot_data_keys_copy(ring, copy, &active), 1, "destroyed ones are no more");
    cr_assert_eq(verified(copy, 1), 20);
    rot_keyring_close(&ring);
}
