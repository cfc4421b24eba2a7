/* tests/unit/storaged/test_rotation.c — a rotation by orders over a whole storage: nothing that is
 * read changes, no block of the old key is left, crashes at its points; its pace. */
#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "tests/unit/storaged/rotation_support.h"
#include "veddb-storaged/rotation/figures.h"
#include "veddb-storaged/rotation/flip.h"
#include "veddb-storaged/rotation/latency.h"
#include "veddb-storaged/rotation/pace.h"

#include <bson/bson.h>
#include <sys/wait.h>

Test(rotation, nothing_changes_and_nothing_old_is_left)
{
    node_t node;
    vdp_rotation_report_t report;
    int entries = 0, entries_after = 0;
    node_make(&node);
    cr_assert_eq(node_open(&node, 1, 1, true), VD_OK, "%s", node.err.message);
    cr_assert_eq(fill(&node), VD_OK);
    cr_assert_eq(stor_engine_checkpoint(node.storage->engine, &node.err), VD_OK);
    uint64_t before = everything(&node, &entries);
    cr_assert_neq(before, 0, "%s", node.err.message);
    cr_assert(is_sound(&node));
    node.newest = 2;
    cr_assert(step_do(&node, VDP_ROTATION_REENCRYPT));
    cr_assert_eq(left_of(&node, &report, 1), 0);
    cr_assert_gt(report.blocks_rewritten, 10);
    cr_assert_geq(report.pass, 2);
    cr_assert_gt(report.documents_done, DOCUMENTS / 2);
    cr_assert_eq(report.bytes_done, report.bytes_total);
    cr_assert(step_do(&node, VDP_ROTATION_VERIFY));
    cr_assert_eq(left_of(&node, &report, 1), 0);
    cr_assert(step_do(&node, VDP_ROTATION_RETIRE));
    cr_assert_eq(left_of(&node, &report, 1), UINT64_MAX, "it is still there");
    cr_assert_eq(everything(&node, &entries_after), before);
    cr_assert_eq(entries_after, entries, "a rotation has made journal entries");
    cr_assert(is_sound(&node));
    cr_assert_eq(run(&node, "{'insert': 'c', 'documents': [{'_id': 'n', 'u': 'n'}]}", NULL), VD_OK);
    cr_assert_eq(node_close(&node), VD_OK, "%s", node.err.message);
    /* The new key is enough. */
    cr_assert_eq(node_open(&node, 2, 2, false), VD_OK, "%s", node.err.message);
    cr_assert(is_sound(&node));
    cr_assert_eq(node_close(&node), VD_OK, "%s", node.err.message);
    node_done(&node);
}

Test(rotation, verify_counts_without_moving_anything)
{
    node_t node;
    vdp_rotation_report_t report;
    node_make(&node);
    cr_assert_eq(node_open(&node, 1, 1, true), VD_OK, "%s", node.err.message);
    cr_assert_eq(fill(&node), VD_OK);
    cr_assert_eq(stor_engine_checkpoint(node.storage->engine, &node.err), VD_OK);
    cr_assert_eq(key_put(&node, 2, STOR_KEY_ACTIVE), VD_OK);
    cr_assert(step_do(&node, VDP_ROTATION_VERIFY));
    uint64_t first = left_of(&node, &report, 1);
    cr_assert_gt(first, 10);
    cr_assert_eq(report.blocks_rewritten, 0);
    cr_assert(step_do(&node, VDP_ROTATION_VERIFY));
    /* Roots and the metadata go with each checkpoint; leaves stay. */
    cr_assert_gt(left_of(&node, &report, 1), first / 3);
    cr_assert_eq(node_close(&node), VD_OK, "%s", node.err.message);
    node_done(&node);
}

Test(rotation, paused_and_cancelled_both_keys_stay_good)
{
    node_t node;
    vdp_rotation_report_t report;
    vdp_rotation_order_t order = order_of(VDP_ROTATION_REENCRYPT);
    node_make(&node);
    cr_assert_eq(node_open(&node, 1, 1, true), VD_OK, "%s", node.err.message);
    cr_assert_eq(fill(&node), VD_OK);
    cr_assert_eq(stor_engine_checkpoint(node.storage->engine, &node.err), VD_OK);
    node.newest = 2;
    order.rate_max_bytes = 1000; /* it would take many minutes */
    stor_rotation_order(node.rotation, &order, false);
    do {
        usleep(1000);
        (void)left_of(&node, &report, 1);
    } while (report.blocks_rewritten == 0);
    cr_assert_not(report.done);
    order.step = VDP_ROTATION_PAUSED;
    stor_rotation_order(node.rotation, &order, false);
    cr_assert_eq(run(&node, "{'insert': 'c', 'documents': [{'_id': 'p', 'u': 'p'}]}", NULL), VD_OK);
    order.step = VDP_ROTATION_NONE;
    stor_rotation_order(node.rotation, &order, false);
    cr_assert(is_sound(&node));
    cr_assert_eq(node_close(&node), VD_OK, "%s", node.err.message);
    cr_assert_eq(node_open(&node, 1, 2, false), VD_OK, "%s", node.err.message);
    cr_assert(is_sound(&node));
    cr_assert_eq(node_close(&node), VD_OK, "%s", node.err.message);
    node_done(&node);
}

/* ---- crashes: in children, which make their own keys ---- */

static int child(int (*body)(node_t *node, const char *fault), node_t *node, const char *fault)
{
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        _exit(body(node, fault));
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return status;
}

static int fill_child(node_t *node, const char *fault)
{
    (void)fault;
    if (node_open(node, 1, 1, true) != VD_OK || fill(node) != VD_OK)
        return 1;
    return node_close(node) == VD_OK ? 0 : 2;
}

static int rotate_child(node_t *node, const char *fault)
{
    vdp_rotation_report_t report;
    if (node_open(node, 1, 2, false) != VD_OK)
        return 1;
    if (fault != NULL && vd_fault_arm(fault, NULL) != VD_OK)
        return 2;
    if (!step_do(node, VDP_ROTATION_REENCRYPT) || !step_do(node, VDP_ROTATION_VERIFY))
        return 3;
    if (left_of(node, &report, 1) != 0)
        return 4;
    if (!step_do(node, VDP_ROTATION_RETIRE))
        return 5;
    if (!is_sound(node))
        return 6;
    return node_close(node) == VD_OK ? 0 : 7;
}

static int new_key_child(node_t *node, const char *fault)
{
    (void)fault;
    if (node_open(node, 2, 2, false) != VD_OK)
        return 1;
    return is_sound(node) && node_close(node) == VD_OK ? 0 : 2;
}

Test(rotation, goes_on_after_a_crash_at_every_point)
{
    static const char *const faults[] = {
        "rotation.after_keys=kill",  "rewrite.after_commit=kill:skip=5",
        "rotation.pass_ended=kill",  "rotation.after_verify=kill",
        "rotation.before_wipe=kill",
    };
    node_t node;
    node_make(&node);
    int status = child(fill_child, &node, NULL);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
    for (size_t i = 0; i < VD_COUNT_OF(faults); i++) {
        status = child(rotate_child, &node, faults[i]);
        cr_assert(WIFSIGNALED(status), "%s: status %x", faults[i], (unsigned)status);
    }
    status = child(rotate_child, &node, NULL);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
    status = child(new_key_child, &node, NULL);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
    node_done(&node);
}

/* ---- pure ---- */

Test(rotation, flips_change_bytes_and_come_back)
{
    static const struct {
        const char *table, *key, *value;
        size_t len;
        bool known;
    } rows[] = {
        {"c-1", "k", "\0\0abcdefgh", 10, true},
        {"i-9", "k", "\0\0", 2, true},
        {"o-9", "k", "\0k", 2, true},
        {"j-1", "k", "\1\0\0\0abcd", 8, true},
        {"b-4", "k", "\1abcdefg", 8, true},
        {"sessions", "k", "\1\0\0\0abcd", 8, true},
        {"guards", "k", "\0", 1, true},
        {"catalog", "mterm", "\5\0\0\0\0", 5, true},
        {"catalog", "n1", "abcdefghabcdefghabcdefgh", 24, true},
        {"catalog", "k1", "abcdefghabcd", 12, true},
        {"catalog", "n1", "short", 5, false},
        {"audit", "k", "\5\0\0\0\0", 5, true},
        {"statistics", "k", "\5\0\0\0\0", 5, true},
        {"load", "p", "abc", 3, false},
        {"c-1", "k", "", 0, false},
        {"x", "k", "abc", 3, false},
    };
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++) {
        vd_buf_t once, twice;
        vd_slice_t value = vd_slice(rows[i].value, rows[i].len), key = vd_slice_str(rows[i].key);
        vd_buf_init(&once, 100);
        vd_buf_init(&twice, 100);
        cr_assert_eq(stor_rotation_flip(rows[i].table, key, value, &once), rows[i].known, "row %zu",
                     i);
        if (rows[i].known) {
            cr_assert_not(vd_slice_equal(vd_buf_slice(&once), value), "row %zu", i);
            cr_assert(stor_rotation_flip(rows[i].table, key, vd_buf_slice(&once), &twice));
            cr_assert(vd_slice_equal(vd_buf_slice(&twice), value), "row %zu", i);
        }
        vd_buf_done(&once);
        vd_buf_done(&twice);
    }
}

Test(rotation, the_pace_keeps_the_rate_and_gives_way)
{
    stor_pace_t pace = {0};
    uint64_t now = 1000000;
    stor_pace_limits(&pace, 1000000, 0);
    for (int i = 0; i < 100; i++) { /* 100 steps of 50 kB in no time of their own */
        now += stor_pace_step(&pace, now, 50000);
        stor_pace_slept(&pace, now);
    }
    cr_assert_eq(now, 6000000);
}

static void took(stor_latency_look_t *look, uint64_t us, uint64_t count)
{
    static stor_latency_t latency;
    stor_latency_look_t one;
    for (uint64_t i = 0; i < count; i++)
        stor_latency_note(&latency, us);
    stor_latency_take(&latency, &one);
    for (uint32_t i = 0; i < STOR_LATENCY_BUCKETS; i++)
        look->counts[i] += one.counts[i];
    look->requests += one.requests;
}

static uint32_t drawn(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525 + 1013904223;
    return (uint32_t)(((uint64_t)*seed * below) >> 32);
}

/* Half a second of requests, more or less slow by chance, of which the rotation, as long as it is
 * at work, hits so many of a thousand. */
static void half_a_second(stor_latency_look_t *look, uint32_t *seed, double hit)
{
    static const uint64_t ms[] = {1000, 1200, 1500, 2000, 2500};
    memset(look, 0, sizeof *look);
    uint32_t slow = drawn(seed, 21); /* 1 in 100 takes longer than the rest, in the long run */
    took(look, 2600, slow);
    took(look, 20000, (uint64_t)(hit + drawn(seed, 100) / 100.0));
    for (uint32_t i = 0; i < 5; i++)
        took(look, ms[i], 190);
}

/* Whatever a rotation does to requests, it goes as fast as the rise allows, and no faster. */
Test(rotation, the_pace_holds_the_percentile)
{
    static const double hits[] = {20, 100, 400};
    for (size_t h = 0; h < VD_COUNT_OF(hits); h++) {
        stor_pace_t pace = {0};
        stor_latency_look_t look;
        uint32_t seed = 1;
        double share_sum = 0, slow = 0, all = 0;
        for (int i = 0; i < 40; i++) {
            half_a_second(&look, &seed, 0);
            stor_pace_window(&pace, &look, true);
        }
        cr_assert(pace.baseline_us >= 2400 && pace.baseline_us < 2700);
        stor_pace_limits(&pace, 0, 15);
        cr_assert_gt(pace.share, 8, "it begins gently");
        for (int i = 0; i < 2000; i++) {
            bool rests = i % 20 > 17;
            half_a_second(&look, &seed, rests ? 0 : hits[h] / (1 + pace.share));
            stor_pace_window(&pace, &look, rests);
            if (rests || i < 200)
                continue;
            slow += stor_latency_above(&look, pace.baseline_us * 115 / 100);
            all += (double)look.requests;
            share_sum += pace.share / 1620;
        }
        cr_expect(slow / all < 0.012, "hits %g: %g of a hundred", hits[h], 100 * slow / all);
        cr_expect(slow / all > 0.006, "hits %g: it could be faster: %g", hits[h], share_sum);
        for (int i = 0; i < 12; i++) {
            look.requests = 0;
            stor_pace_window(&pace, &look, false);
        }
        cr_expect_eq(pace.share, 0, "nobody is there, and it waits");
    }
}

Test(rotation, the_pace_sleeps_for_its_share)
{
    stor_pace_t pace = {.busy = true};
    stor_pace_limits(&pace, 0, 15);
    cr_assert_eq(stor_pace_step(&pace, 1000000, 50000), 0, "the first step");
    stor_pace_slept(&pace, 1000000);
    uint64_t sleep = stor_pace_step(&pace, 1010000, 50000);
    cr_assert_eq(sleep, (uint64_t)(10000 * STOR_PACE_SHARE_MAX), "as slow as it gets");
    stor_pace_slept(&pace, 1010000 + sleep / 2); /* somebody woke it */
    cr_assert_eq(stor_pace_step(&pace, 1020000 + sleep / 2, 50000), sleep);
    stor_pace_limits(&pace, 0, 0);
    cr_assert_eq(stor_pace_step(&pace, 2000000, 50000), 0, "no limit, no sleep");
    pace.busy = false;
    stor_pace_limits(&pace, 0, 15);
    cr_assert_eq(stor_pace_step(&pace, 3000000, 50000), 0, "nobody is there");
    stor_latency_look_t look = {0};
    took(&look, 1000, 1);
    stor_pace_window(&pace, &look, false);
    cr_assert_gt(stor_pace_step(&pace, 4000000, 50000), 0, "somebody is, and nothing is known");
}

Test(rotation, percentiles_of_what_came_since)
{
    static stor_latency_t latency;
    stor_latency_look_t look;
    stor_latency_memory_t memory = {0};
    stor_latency_take(&latency, &look);
    cr_assert_eq(look.requests, 0);
    cr_assert_eq(stor_latency_p99(&memory), 0);
    for (int i = 0; i < 980; i++)
        stor_latency_note(&latency, 100);
    for (int i = 0; i < 20; i++)
        stor_latency_note(&latency, 5000);
    stor_latency_take(&latency, &look);
    cr_assert_eq(look.requests, 1000);
    cr_assert_float_eq(stor_latency_above(&look, 1000), 20, 0.001);
    cr_assert_float_eq(stor_latency_above(&look, 6000), 0, 0.001);
    cr_assert_float_eq(stor_latency_above(&look, 0), 1000, 0.001);
    stor_latency_remember(&memory, &look, 0.5);
    uint64_t p99 = stor_latency_p99(&memory);
    cr_assert(p99 >= 4900 && p99 <= 5400, "%llu", (unsigned long long)p99);
    for (int i = 0; i < 1000; i++)
        stor_latency_note(&latency, 100);
    stor_latency_take(&latency, &look);
    cr_assert_eq(look.requests, 1000);
    for (int i = 0; i < 3; i++) /* what was fades */
        stor_latency_remember(&memory, &look, 0.5);
    p99 = stor_latency_p99(&memory);
    cr_assert(p99 >= 96 && p99 <= 108, "%llu", (unsigned long long)p99);
    stor_latency_note(&latency, 3);
    stor_latency_note(&latency, UINT64_MAX);
    stor_latency_take(&latency, &look);
    cr_assert_eq(look.requests, 2);
    cr_assert_float_eq(stor_latency_above(&look, 100), 1, 0.001);
}

static bool page_has(const char *line)
{
    vd_buf_t page;
    vd_buf_init(&page, 2 * STOR_FIGURES_MAX_BYTES);
    cr_assert_eq(stor_figures_print(&page), VD_OK);
    cr_assert_eq(vd_buf_append(&page, "", 1), VD_OK);
    bool has = strstr((const char *)vd_buf_slice(&page).data, line) != NULL;
    vd_buf_done(&page);
    return has;
}

Test(rotation, a_key_holder_that_says_nothing_is_told_of)
{
    cr_assert(page_has("\nveddb_keys_rotation_storage_attached 0\n"));
    bson_t *figures = BCON_NEW("text", BCON_UTF8("veddb_keys_x 7\n"));
    stor_figures_take(NULL, VD_OK, VD_SLICE_NULL, vd_slice(bson_get_data(figures), figures->len));
    bson_destroy(figures);
    cr_assert(page_has("\nveddb_keys_rotation_storage_attached 1\n"));
    cr_assert(page_has("\nveddb_keys_x 7\n"));
}
