/* tests/unit/rotated/test_audit_log.c — the audit log as it is written: faults at every step, torn
 * tails, retention, what was cut. Each ends with a log that verifies and holds each record once. */
#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "veddb-rotated/audit/ask.h"
#include "veddb-rotated/audit/held.h"
#include "veddb-rotated/audit/log.h"
#include "veddb-rotated/audit/seal.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define WANTED 60

static char top[64], folder[128], second[128];
static rot_data_key_t keys[1] = {
    {.id = "an id, 16 bytes", .key = "a key of thirty-two bytes in all"}};
static const rot_data_keys_t all = {keys, 1};
static rot_log_options_t options;
static rot_log_t *log_;
static vd_error_t err;

static void set_up(void)
{
    (void)snprintf(top, sizeof top, "/tmp/vd-audit-XXXXXX");
    cr_assert_not_null(mkdtemp(top));
    (void)snprintf(folder, sizeof folder, "%s/audit", top);
    (void)snprintf(second, sizeof second, "%s/second", top);
    cr_assert_eq(mkdir(second, 0700), 0);
    options = (rot_log_options_t){.folder = folder,
                                  .second_place = second,
                                  .keys = all,
                                  .active = &keys[0],
                                  .segment_max_bytes = 7000,
                                  .key_max_ms = 1u << 30};
    err = (vd_error_t)VD_ERROR_INIT;
    log_ = NULL;
}

static void tear_down(void)
{
    char command[256];
    rot_log_close(&log_);
    vd_fault_disarm(NULL);
    (void)snprintf(command, sizeof command, "rm -r %s", top);
    cr_expect_eq(system(command), 0);
}

TestSuite(audit_log, .init = set_up, .fini = tear_down);

static int log_open(void)
{
    rot_log_close(&log_);
    err = (vd_error_t)VD_ERROR_INIT;
    return rot_log_open(&options, &log_, &err);
}

static int append(uint64_t n)
{
    vd_bb_t bb;
    vd_bson_t document;
    vd_bb_init(&bb, 4096);
    vd_bb_cstr(&bb, "atype", "insert");
    vd_bb_int64(&bb, "n", (int64_t)n);
    cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
    int rc =
        rot_log_append(log_, ROT_SOURCE_EVENTS, n, 0, vd_slice(document.data, document.len), &err);
    if (rc == VD_OK)
        rot_log_reached(log_, (rot_positions_t){.events = n});
    vd_bb_done(&bb);
    return rc;
}

/* As rotated does: what is behind the sealed position is appended again. */
static int go_on(uint64_t upto)
{
    int rc = log_ == NULL ? log_open() : VD_OK;
    while (rc == VD_OK && rot_log_reached_positions(log_).events < upto) {
        uint64_t n = rot_log_reached_positions(log_).events + 1;
        rc = append(n);
        if (rc == VD_OK && n % 5 == 0)
            rc = rot_log_seal(log_, &err);
    }
    if (rc == VD_OK)
        rc = rot_log_seal(log_, &err);
    if (rc != VD_OK)
        rot_log_close(&log_);
    return rc;
}

typedef struct {
    uint64_t next, own;
} seen_t;

static int record_see(void *context, const rot_record_t *record, vd_error_t *error)
{
    seen_t *seen = context;
    if (record->source == ROT_SOURCE_LOG) {
        seen->own++;
        return VD_OK;
    }
    if (seen->next == 0)
        seen->next = record->position; /* what came before was dropped */
    if (record->position != seen->next)
        return vd_error_set(error, VD_ERR_INTERNAL, "position %llu instead of %llu",
                            (unsigned long long)record->position, (unsigned long long)seen->next);
    seen->next++;
    return VD_OK;
}

static void verify(uint64_t first, uint64_t last)
{
    seen_t seen = {.next = first};
    rot_verdict_t verdict;
    err = (vd_error_t)VD_ERROR_INIT;
    rot_log_close(&log_);
    rot_verify_options_t ask = {.folder = folder,
                                .second_place = second,
                                .keys = all,
                                .record = record_see,
                                .context = &seen};
    cr_assert_eq(rot_verify(&ask, &verdict, &err), VD_OK, "%s", err.message);
    cr_assert_eq(seen.next, last + 1);
}

Test(audit_log, is_whole_after_a_fault_at_every_point, .timeout = 300)
{
    static const char *const points[] = {"audit.write",          "audit.head_durable",
                                         "audit.segment_closed", "audit.next_key_durable",
                                         "audit.handed_over",    "audit.seal_half_erased"};
    options.key_max_ms = 0; /* hands over as often as the clock moves */
    uint64_t upto = 0;
    for (size_t i = 0; i < VD_COUNT_OF(points); i++) {
        for (int skip = 0; skip < 60; skip += 1 + skip / 4) {
            char spec[128];
            (void)snprintf(spec, sizeof spec, "%s=error:times=1:skip=%d", points[i], skip);
            cr_assert_eq(vd_fault_arm(spec, &err), VD_OK, "%s", err.message);
            upto += 7;
            int rc = go_on(upto);
            vd_fault_disarm(NULL);
            if (rc != VD_OK) {
                cr_assert_eq(rc, VD_ERR_FAULT_INJECTED, "%s", err.message);
                cr_assert_eq(go_on(upto), VD_OK, "%s at %d: %s", points[i], skip, err.message);
            }
        }
    }
    verify(1, upto);
}

static off_t size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_size : -1;
}

Test(audit_log, cuts_a_torn_tail_and_takes_it_anew, .timeout = 300)
{
    char path[PATH_MAX];
    uint64_t upto = 0;
    for (int cut = 0; cut < 300; cut += 7) {
        cr_assert_eq(go_on(upto += 3), VD_OK, "%s", err.message);
        uint64_t segment = rot_log_sealed(log_)->segment, sealed = rot_log_sealed(log_)->offset;
        rot_log_close(&log_);
        /* Bytes that no head covers, whole or torn. */
        rot_segment_path(folder, segment, "seg", path, sizeof path);
        int fd = open(path, O_WRONLY | O_APPEND);
        uint8_t junk[300];
        memset(junk, cut, sizeof junk);
        cr_assert_eq(write(fd, junk, (size_t)cut), cut);
        cr_assert_eq(close(fd), 0);
        cr_assert_eq(log_open(), VD_OK, "%s", err.message);
        if (rot_log_sealed(log_)->segment == segment)
            cr_assert_geq((uint64_t)size_of(path), sealed);
    }
    verify(1, upto);
}

Test(audit_log, refuses_a_log_that_ends_before_what_was_sealed)
{
    char path[PATH_MAX];
    cr_assert_eq(go_on(40), VD_OK, "%s", err.message);
    uint64_t segment = rot_log_sealed(log_)->segment, offset = rot_log_sealed(log_)->offset;
    rot_log_close(&log_);
    rot_segment_path(folder, segment, "seg", path, sizeof path);
    cr_assert_eq(truncate(path, (off_t)offset - 1), 0);
    cr_assert_eq(log_open(), VD_ERR_CORRUPT);
    cr_assert_not_null(strstr(err.message, "was cut or changed"));
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(log_open(), VD_ERR_CORRUPT);
}

Test(audit_log, refuses_a_folder_without_its_seal)
{
    char path[PATH_MAX];
    cr_assert_eq(go_on(10), VD_OK, "%s", err.message);
    rot_log_close(&log_);
    (void)snprintf(path, sizeof path, "%s/seal", folder);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(log_open(), VD_ERR_KEY_MISSING);
}

Test(audit_log, drops_what_is_past_retention_behind_a_tombstone, .timeout = 300)
{
    char path[PATH_MAX];
    options.retention_bytes = 20000;
    cr_assert_eq(go_on(300), VD_OK, "%s", err.message);
    rot_segment_path(folder, 1, "seg", path, sizeof path);
    cr_assert_eq(size_of(path), -1);
    rot_segment_path(folder, 1, "key", path, sizeof path);
    cr_assert_eq(size_of(path), -1);
    verify(0, 300);
    /* A crash between the tombstone and the removal. */
    cr_assert_eq(log_open(), VD_OK);
    cr_assert_eq(vd_fault_arm("audit.tombstone_durable=error:times=1", &err), VD_OK);
    cr_assert_eq(go_on(600), VD_ERR_FAULT_INJECTED);
    vd_fault_disarm(NULL);
    cr_assert_eq(go_on(600), VD_OK, "%s", err.message);
    verify(0, 600);
}

/* ---- age ---- */

static int64_t later_ms;

static int64_t wall_later(void)
{
    return vd_clock_system.wall_ms() + later_ms;
}

Test(audit_log, segments_are_cut_and_dropped_by_age_alone)
{
    static vd_clock_t clock;
    char path[PATH_MAX];
    clock = vd_clock_system;
    clock.wall_ms = wall_later;
    later_ms = 0;
    vd_clock_replace(&clock);
    options.segment_max_bytes = 1u << 30;
    options.segment_max_ms = 3600000;
    options.retention_ms = 86400000;
    cr_assert_eq(go_on(10), VD_OK, "%s", err.message);
    cr_assert_eq(rot_log_sealed(log_)->segment, 1);
    later_ms = 3599000;
    cr_assert_eq(go_on(20), VD_OK, "%s", err.message);
    cr_assert_eq(rot_log_sealed(log_)->segment, 1, "not yet");
    later_ms = 3601000 + 60000;
    cr_assert_eq(go_on(25), VD_OK, "%s", err.message);
    cr_assert_eq(go_on(30), VD_OK, "%s", err.message);
    cr_assert_gt(rot_log_sealed(log_)->segment, 1, "its hour is over");
    rot_segment_path(folder, 1, "seg", path, sizeof path);
    cr_assert_gt(size_of(path), 0, "and its day is not");
    later_ms = 2 * 86400000;
    cr_assert_eq(go_on(40), VD_OK, "%s", err.message);
    cr_assert_eq(go_on(50), VD_OK, "%s", err.message);
    cr_assert_eq(size_of(path), -1, "its day is over");
    verify(0, 50);
    vd_clock_replace(NULL);
}

/* Whether a slot of `seal`, opened as who has the keyring can, has those bytes. */
static bool seal_has(const uint8_t private_key[32])
{
    char path[PATH_MAX];
    uint8_t block[256 + ROT_BLOCK_EXTRA_BYTES], plain[256];
    bool found = false;
    (void)snprintf(path, sizeof path, "%s/seal", folder);
    int fd = open(path, O_RDONLY);
    cr_assert_geq(fd, 0);
    for (int slot = 0; slot < 2; slot++) {
        cr_assert_eq(pread(fd, block, sizeof block, slot * 4096), (ssize_t)sizeof block);
        cr_assert_eq(rot_unseal(&keys[0], vd_slice(block, sizeof block), plain, &err), VD_OK);
        found |= memmem(plain, sizeof plain, private_key, 32) != NULL;
    }
    (void)close(fd);
    return found;
}

Test(audit_log, a_sealing_key_is_gone_once_its_successor_has_taken_over)
{
    rot_seal_t *seal = NULL;
    rot_hash_t hash = {{1}};
    cr_assert_eq(mkdir(folder, 0700), 0);
    cr_assert_eq(rot_seal_open(folder, &keys[0], all, &seal, &err), VD_OK, "%s", err.message);
    for (uint64_t head = 1; head < 7; head++) {
        uint8_t former[32];
        bool dies = head % 2 == 0; /* in the middle of it, and is started again */
        memcpy(former, rot_seal_state(seal)->key.private_key, sizeof former);
        cr_assert_eq(rot_seal_head(seal, head, &hash, &err), VD_OK, "%s", err.message);
        cr_assert(seal_has(former), "it signs");
        if (dies)
            cr_assert_eq(vd_fault_arm("audit.seal_half_erased=error:times=1", &err), VD_OK);
        cr_assert_eq(rot_seal_hand_over(seal, &err), dies ? VD_ERR_FAULT_INJECTED : VD_OK);
        vd_fault_disarm(NULL);
        if (dies) {
            cr_assert(seal_has(former), "one slot still has it");
            rot_seal_close(&seal);
            vd_error_clear(&err);
            cr_assert_eq(rot_seal_open(folder, &keys[0], all, &seal, &err), VD_OK, "%s",
                         err.message);
        }
        cr_assert_not(seal_has(former), "epoch %llu", (unsigned long long)head);
        cr_assert_eq(rot_seal_state(seal)->epoch, head);
    }
    rot_seal_close(&seal);
}

Test(audit_log, a_held_log_drops_nothing)
{
    char path[PATH_MAX];
    atomic_bool hold = true;
    options.retention_bytes = 20000;
    options.hold = &hold;
    cr_assert_eq(go_on(300), VD_OK, "%s", err.message);
    rot_segment_path(folder, 1, "seg", path, sizeof path);
    cr_assert_gt(size_of(path), 0);
    verify(1, 300);
}

/* The proof is checked as docs/audit-format.md says. */
static void prove(uint64_t number, const char *argument)
{
    vd_buf_t out;
    vd_buf_init(&out, ROT_ASK_BYTES_MAX);
    rot_ask_t ask = {.verb = "prove",
                     .folder = folder,
                     .second_place = second,
                     .keys = all,
                     .limit_segment = rot_log_sealed(log_)->segment,
                     .limit_offset = rot_log_sealed(log_)->offset};
    (void)snprintf(ask.argument, sizeof ask.argument, "%s", argument);
    err = (vd_error_t)VD_ERROR_INIT;
    int rc = rot_ask_run(&ask, &out, &err);
    if (number == 0)
        cr_assert_neq(rc, VD_OK);
    else
        cr_assert_eq(rc, VD_OK, "%s", err.message);
    vd_buf_done(&out);
}

Test(audit_log, answers_while_it_is_written)
{
    cr_assert_eq(go_on(WANTED), VD_OK, "%s", err.message);
    cr_assert_eq(append(WANTED + 1), VD_OK); /* no head covers it */
    prove(1, "1");
    prove(WANTED, "60");
    prove(0, "61");
    prove(0, "0");
    prove(0, "x");
    prove(0, "");
}

Test(audit_log, tree_is_that_of_the_rfc)
{
    /* Against the recursive definition, for each count. */
    rot_hash_t leaves[33], root;
    rot_tree_t tree = {0};
    for (uint8_t i = 0; i < 33; i++) {
        rot_tree_leaf(vd_slice(&i, 1), &leaves[i]);
        rot_tree_add(&tree, &leaves[i]);
        rot_tree_root(&tree, &root);
        /* Level by level, an odd one is carried up: the same tree. */
        rot_hash_t level[33];
        uint32_t n = i + 1u;
        memcpy(level, leaves, n * sizeof level[0]);
        while (n > 1) {
            uint32_t half = 0;
            for (uint32_t k = 0; k < n; k += 2) {
                rot_hash_t node = level[k];
                if (k + 1 < n)
                    rot_tree_node(&level[k], &level[k + 1], &node);
                level[half++] = node;
            }
            n = half;
        }
        cr_assert(rot_hash_equal(&root, &level[0]), "%u leaves", i + 1u);
    }
}

Test(audit_log, verifies_up_to_a_head_while_more_are_written)
{
    vd_buf_t out;
    cr_assert_eq(go_on(20), VD_OK, "%s", err.message);
    rot_ask_t ask = {.verb = "verify",
                     .folder = folder,
                     .second_place = second,
                     .keys = all,
                     .limit_segment = rot_log_sealed(log_)->segment,
                     .limit_offset = rot_log_sealed(log_)->offset,
                     .limit_copy = rot_log_copied(log_)};
    cr_assert_eq(go_on(40), VD_OK, "%s", err.message);
    vd_buf_init(&out, ROT_ASK_BYTES_MAX);
    int rc = rot_ask_run(&ask, &out, &err);
    cr_assert_eq(rc, VD_OK, "%s", err.message);
    ask.limit_copy = rot_log_copied(log_); /* the second place knows of more than the log shows */
    cr_assert_eq(rot_ask_run(&ask, &out, &err), VD_ERR_CORRUPT);
    vd_buf_done(&out);
}

/* ---- what other nodes hold ---- */

static rot_held_verdict_t held_take(rot_held_t *held, const uint8_t *head, bool frozen)
{
    char why[ROT_HELD_WHY_MAX];
    return rot_held_take(held, folder, log_, VD_SLICE_LIT("other"), vd_slice(head, ROT_HEAD_BYTES),
                         frozen, why);
}

Test(audit_log, is_found_when_it_was_put_back)
{
    char command[512];
    uint8_t old[ROT_HEAD_BYTES], newest[ROT_HEAD_BYTES], forged[ROT_HEAD_BYTES],
        fork[ROT_HEAD_BYTES];
    rot_held_t held = {0};
    rot_verdict_t verdict;
    cr_assert_eq(go_on(7), VD_OK, "%s", err.message);
    memcpy(old, rot_log_head(log_), sizeof old);
    rot_log_close(&log_);
    (void)snprintf(command, sizeof command, "cp -r %s %s/copy", folder, top);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(go_on(20), VD_OK, "%s", err.message);
    memcpy(newest, rot_log_head(log_), sizeof newest);

    /* What is below, or the same, is fine; what another key has signed is told as that. */
    cr_assert_eq(held_take(&held, old, false), ROT_HELD_GOOD);
    cr_assert_eq(held_take(&held, newest, false), ROT_HELD_GOOD);
    memcpy(forged, newest, sizeof forged);
    vd_put_u64(forged + 24, 1000000);
    rot_held_t lied = {0};
    cr_assert_eq(held_take(&lied, forged, false), ROT_HELD_ALARM);
    cr_assert_not_null(strstr(lied.why, "of another key for its epoch"), "%s", lied.why);
    forged[8] ^= 1; /* of another log */
    cr_assert_eq(held_take(&held, forged, false), ROT_HELD_IGNORED);
    cr_assert(!held.alarm);
    cr_assert_eq(held.count, 1);
    uint8_t room[ROT_HELD_MAX * VDP_AUDIT_CHECKED_BYTES];
    rot_hash_t digest;
    rot_hash(&digest, vd_slice(newest, sizeof newest), VD_SLICE_NULL);
    vd_slice_t checked = rot_held_checked(&held, room);
    cr_assert(vd_slice_equal(checked, vd_slice(&digest, sizeof digest)));
    verify(1, 20);

    (void)snprintf(command, sizeof command, "rm -r %s && mv %s/copy %s", folder, top, folder);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(log_open(), VD_OK, "%s", err.message);
    held = (rot_held_t){0};
    cr_assert_eq(held_take(&held, newest, false), ROT_HELD_ALARM);
    cr_assert(held.alarm && strstr(held.why, "other holds head") != NULL, "%s", held.why);
    cr_assert_eq(held_take(&held, newest, true), ROT_HELD_KNOWN, "once for each node");
    cr_assert_eq(rot_held_checked(&held, room).len, 0, "evidence is not given up");

    /* It went on: verify holds its own head of that number against the one that is held. */
    cr_assert_eq(go_on(30), VD_OK, "%s", err.message);
    memcpy(fork, rot_log_head(log_), sizeof fork);
    rot_held_t late = {0}; /* told only now that it has more heads than what is held */
    cr_assert_eq(held_take(&late, newest, false), ROT_HELD_ALARM);
    cr_assert_not_null(strstr(late.why, "another one of that number"), "%s", late.why);
    rot_log_close(&log_);
    rot_verify_options_t ask = {
        .folder = folder, .keys = all, .held = held.heads, .held_count = held.count};
    cr_assert_eq(rot_verify(&ask, &verdict, &err), VD_ERR_AUDIT_ROLLED_BACK);
    cr_assert_not_null(strstr(err.message, "node other holds head"), "%s", err.message);
    held = (rot_held_t){0};
    cr_assert_eq(log_open(), VD_OK, "%s", err.message);
    cr_assert_eq(held_take(&held, fork, false), ROT_HELD_GOOD);
    cr_assert_eq(held_take(&held, old, true), ROT_HELD_ALARM, "frozen by an earlier alarm");
}
