/* tests/unit/storaged/test_audit.c — heads of other nodes' audit logs: kept, frozen, bounded;
 * records of writes, and the one that tells what is missing. */
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/audit/audit_private.h"
#include "veddb-storaged/change_names.h"

#include <openssl/sha.h>

static reads_t *reads;
static vd_error_t err;

static void set_up(void)
{
    stor_audit_options_t options = {.backlog_max_bytes = 8 << 20, .shed = true};
    err = (vd_error_t)VD_ERROR_INIT;
    reads = reads_open();
    reads_ok(stor_audit_open(&reads->storage, &options, &reads->storage.audit, &err), &err);
}

static void tear_down(void)
{
    stor_audit_close(&reads->storage.audit);
    reads_close(reads);
}

TestSuite(audit, .init = set_up, .fini = tear_down, .timeout = 300);

/* ---- heads ---- */

typedef struct {
    uint64_t held, other; /* numbers; 0: none */
    bool frozen;
    int rc;
} kept_t;

static uint64_t number_of(vd_slice_t head)
{
    return head.len == 0 ? 0 : vd_get_u64(head.data + 24);
}

static void head_make(uint8_t head[VDP_AUDIT_HEAD_BYTES], uint8_t log, uint64_t number)
{
    memset(head, 0, VDP_AUDIT_HEAD_BYTES);
    memcpy(head, "VDAH\1", 5);
    head[8] = log;
    vd_put_u64(head + 24, number);
}

/* checked: the number that rotated has been told of and found good; 0: none. */
static kept_t keep_checked(const char *node, uint8_t log, uint64_t number, bool alarm,
                           uint64_t checked)
{
    uint8_t head[VDP_AUDIT_HEAD_BYTES], good[VDP_AUDIT_HEAD_BYTES];
    uint8_t digests[2 * VDP_AUDIT_CHECKED_BYTES] = {0}; /* the first is of another node's */
    vdp_audit_peer_held_t held = {0};
    vd_buf_t text;
    head_make(head, log, number);
    head_make(good, log, checked);
    (void)SHA256(good, sizeof good, digests + VDP_AUDIT_CHECKED_BYTES);
    vdp_audit_keep_t ask = {vd_slice_str(node), vd_slice(head, sizeof head), alarm,
                            vd_slice(digests, checked == 0 ? 0 : sizeof digests)};
    vd_buf_init(&text, 4096);
    int rc = stor_audit_keep(&reads->storage, reads->session, &ask, &text, &held, NULL);
    kept_t kept = {number_of(held.head), number_of(held.other), held.frozen, rc};
    vd_buf_done(&text);
    return kept;
}

/* Until what is held has been checked: as it goes in the end. */
static kept_t keep(const char *node, uint8_t log, uint64_t number, bool alarm)
{
    kept_t kept = keep_checked(node, log, number, alarm, 0);
    if (!alarm && kept.rc == VD_OK && kept.held != 0)
        (void)keep_checked(node, log, number, alarm, kept.held);
    return kept;
}

static void check(kept_t kept, uint64_t held, uint64_t other, bool frozen)
{
    cr_expect_eq(kept.rc, VD_OK);
    cr_expect_eq(kept.held, held, "%llu held, not %llu", (unsigned long long)kept.held,
                 (unsigned long long)held);
    cr_expect_eq(kept.other, other);
    cr_expect_eq(kept.frozen, frozen);
}

Test(audit, heads_are_kept_and_an_alarm_freezes_them)
{
    check(keep("a", 1, 5, false), 0, 0, false);
    check(keep("a", 1, 9, false), 5, 0, false);
    check(keep("a", 1, 9, false), 9, 0, false);
    check(keep("a", 1, 7, false), 9, 0, false); /* comes late: nothing is lost */
    check(keep("b", 1, 1, false), 0, 0, false); /* of another node */
    check(keep("a", 1, 8, true), 9, 0, false);
    check(keep("a", 1, 100, false), 9, 0, true);
    check(keep("a", 1, 101, true), 9, 0, true);
    check(keep("a", 2, 1, false), 0, 9, false); /* a new log says nothing of the old one */
    check(keep("a", 2, 3, false), 1, 9, false);
    check(keep("a", 1, 200, false), 9, 3, true);
    stor_audit_stats_t stats;
    stor_audit_stats(reads->storage.audit, &stats);
    cr_expect_eq(stats.events, 1, "the alarm is an event here, once");
}

/* rotated looks later, or the answer is lost, or rotated is another one that has looked at nothing.
 */
Test(audit, what_is_held_is_given_up_only_when_it_was_checked)
{
    check(keep_checked("a", 1, 9, false, 0), 0, 0, false);
    check(keep_checked("a", 1, 12, false, 0), 9, 0, false); /* put back before 9, went on to 12 */
    check(keep_checked("a", 1, 13, false, 8), 9, 0, false); /* of another one */
    check(keep_checked("a", 1, 14, true, 0), 9, 0, false);  /* the alarm: what is held is 9 */
    check(keep_checked("a", 1, 15, false, 9), 9, 0, true);
    check(keep_checked("a", 1, 15, false, 0), 9, 0, true);
    check(keep_checked("b", 1, 9, false, 0), 0, 0, false);
    check(keep_checked("b", 1, 12, false, 9), 9, 0, false);
    check(keep_checked("b", 1, 12, false, 9), 12, 0, false);
}

Test(audit, heads_are_bounded_and_checked)
{
    for (uint8_t log = 1; log <= STOR_AUDIT_LOGS_MAX + 3; log++)
        check(keep("a", log, 1, false), 0, log > 1, false);
    check(keep("a", 1, 1, false), 0, 1, false); /* the oldest had given way */
    for (uint8_t log = 50; log < 50 + STOR_AUDIT_LOGS_MAX; log++) {
        cr_expect_eq(keep("b", log, 4, false).rc, VD_OK);
        cr_expect_eq(keep("b", log, 3, true).rc, VD_OK);
    }
    cr_expect_eq(keep("b", 99, 1, false).rc, VD_ERR_FULL, "evidence does not give way");
    check(keep("b", 50, 9, false), 4, 4, true);

    static const char *const bad[] = {"", "VDAT\1", "VDAH\2"};
    for (size_t i = 0; i < VD_COUNT_OF(bad); i++) {
        uint8_t head[VDP_AUDIT_HEAD_BYTES] = {0};
        vdp_audit_peer_held_t held;
        vd_buf_t text;
        memcpy(head, bad[i], strlen(bad[i]));
        vdp_audit_keep_t ask = {VD_SLICE_LIT("a"), vd_slice(head, sizeof head - (i == 0)), false,
                                VD_SLICE_NULL};
        vd_buf_init(&text, 4096);
        cr_expect_eq(stor_audit_keep(&reads->storage, reads->session, &ask, &text, &held, NULL),
                     VD_ERR_BAD_VALUE);
        vd_buf_done(&text);
    }
}

/* ---- records ---- */

/* atypes of a batch, joined; and how far it reaches. */
static const char *batch(vdp_audit_pull_t *pull, char text[512])
{
    vd_buf_t body;
    vdp_audit_batch_t reached = {0};
    pull->credit_bytes = 1 << 20;
    vd_buf_init(&body, 1 << 22);
    reads_ok(stor_audit_batch(reads->storage.audit, reads->session, pull, &body, &reached, &err),
             &err);
    text[0] = '\0';
    for (vd_slice_t rest = vd_buf_slice(&body); rest.len > 0;) {
        uint32_t len = vd_get_u32(rest.data + VDP_AUDIT_RECORD_HEAD_BYTES);
        vd_bson_t event = {rest.data + VDP_AUDIT_RECORD_HEAD_BYTES, len};
        vd_slice_t atype = vd_value_string(vd_bson_get(event, "atype"));
        (void)snprintf(text + strlen(text), 512 - strlen(text), "%.*s ", VD_SLICE_FMT(atype));
        size_t all = VDP_AUDIT_RECORD_HEAD_BYTES + (size_t)len;
        rest = vd_slice(rest.data + all, rest.len - all);
    }
    pull->journal = reached.journal;
    pull->journal_part = reached.journal_part;
    pull->events = reached.events;
    vd_buf_done(&body);
    return text;
}

static void durable(void)
{
    while (stor_engine_durable(reads->storage.engine) < stor_engine_newest(reads->storage.engine))
        usleep(1000);
}

static void insert(const char *list)
{
    reads_insert(reads, "test", "c", query_json(reads->texts, list));
    durable();
}

Test(audit, what_the_journal_lost_has_a_record)
{
    char text[512];
    stor_audit_stats_t stats;
    vdp_audit_pull_t pull = {.journal = reads->storage.audit->begin, .journal_part = UINT32_MAX};
    insert("[{'_id': 1}]");
    cr_assert_str_eq(batch(&pull, text), "createDatabase createCollection insert ");
    insert("[{'_id': 2}, {'_id': 3}]");
    cr_assert_str_eq(batch(&pull, text), "insert ");
    cr_assert_str_eq(batch(&pull, text), "");
    insert("[{'_id': 4}]");
    reads_ok(stor_journal_restart(reads->storage.journal, reads->session,
                                  stor_engine_newest(reads->storage.engine), &err),
             &err);
    insert("[{'_id': 5}]");
    cr_assert_str_eq(batch(&pull, text), "auditGap ");
    cr_assert_str_eq(batch(&pull, text), "insert ");
    stor_audit_stats(reads->storage.audit, &stats);
    cr_expect_eq(stats.gaps, 1);
}

Test(audit, a_database_comes_with_its_first_collection)
{
    char text[512];
    vdp_audit_pull_t pull = {.journal = reads->storage.audit->begin, .journal_part = UINT32_MAX};
    insert("[{'_id': 1}]");
    reads_insert(reads, "test", "d", query_json(reads->texts, "[{'_id': 1}]"));
    reads_insert(reads, "other", "c", query_json(reads->texts, "[{'_id': 1}]"));
    durable();
    cr_assert_str_eq(batch(&pull, text),
                     "createDatabase createCollection insert createCollection insert "
                     "createDatabase createCollection insert ");
}

Test(audit, too_many_events_are_refused_or_shed_and_counted)
{
    vd_bb_t bb;
    vd_bson_t event;
    stor_audit_stats_t stats;
    stor_audit_t *audit = reads->storage.audit;
    uint64_t committed = atomic_load(&audit->committed);
    vd_bb_init(&bb, 4096);
    stor_audit_begin(&bb, "authenticate", 1, VD_SLICE_LIT("ann@admin"), VD_SLICE_LIT("::1:1"));
    vd_bb_int32(&bb, "result", 0);
    reads_ok(vd_bb_finish(&bb, &event, &err), &err);
    reads_ok(stor_audit_event(audit, reads->session, event, &err), &err);
    cr_assert_eq(atomic_load(&audit->committed), committed + 1);
    /* As if so many waited. */
    atomic_store(&audit->committed, atomic_load(&audit->sealed_events) + STOR_AUDIT_EVENTS_MAX);
    reads_ok(stor_audit_event(audit, reads->session, event, &err), &err);
    stor_audit_stats(audit, &stats);
    cr_expect_eq(stats.shed, 1);
    cr_expect_eq(stats.refused, 0);
    cr_expect_eq(stats.events, 1);
    audit->options.shed = false;
    cr_expect_eq(stor_audit_event(audit, reads->session, event, &err), VD_ERR_AUDIT_FULL);
    stor_audit_stats(audit, &stats);
    cr_expect_eq(stats.shed, 1);
    cr_expect_eq(stats.refused, 1);
    atomic_store(&audit->committed, committed + 1);
    vd_error_clear(&err);
    reads_ok(stor_audit_event(audit, reads->session, event, &err), &err);
    vd_bb_done(&bb);
}

Test(audit, changes_have_one_name_for_each_reader)
{
    static const struct {
        int kind;
        const char *stream, *audit;
        bool write;
    } rows[] = {
        {STOR_CHANGE_INSERT, "insert", "insert", true},
        {STOR_CHANGE_UPDATE_WHOLE, "update", "update", true},
        {STOR_CHANGE_DELTA, "update", "update", true},
        {STOR_CHANGE_IMAGE, NULL, NULL, false},
        {STOR_CHANGE_DROP, "drop", "dropCollection", false},
        {STOR_CHANGE_CONFIG, NULL, "replSetReconfig", false},
        {STOR_CHANGE_MODIFY_INDEX, "modify", "collMod", false},
        {STOR_CHANGE_NOOP, NULL, NULL, false},
        {255, NULL, NULL, false},
    };
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++) {
        stor_change_names_t names = stor_change_names((stor_change_kind_t)rows[i].kind);
        cr_expect((names.stream == NULL) == (rows[i].stream == NULL), "%d", rows[i].kind);
        cr_expect((names.audit == NULL) == (rows[i].audit == NULL), "%d", rows[i].kind);
        cr_expect(names.stream == NULL || strcmp(names.stream, rows[i].stream) == 0);
        cr_expect(names.audit == NULL || strcmp(names.audit, rows[i].audit) == 0);
        cr_expect_eq(stor_change_is_write((stor_change_kind_t)rows[i].kind), rows[i].write);
    }
}
