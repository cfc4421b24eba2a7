/* tests/unit/storaged/test_concern_waits.c — role, admission, writers against a change of role, and
 * every wait with its end: on a real engine, without an inbox. */
#include "tests/support/ahead_clock.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/engine/sequencer.h"
#include "veddb-storaged/replication/positions.h"

#include <pthread.h>
#include <stdatomic.h>

static atomic_int released;
static _Atomic(stor_request_t *) last_released;

static void on_released(stor_request_t *list, void *context)
{
    (void)context;
    for (stor_request_t *next; list != NULL; list = next) {
        next = list->next;
        atomic_store(&last_released, list);
        atomic_fetch_add(&released, 1);
    }
}

#define CONFIG                                                                                     \
    "{'_id': 'rs0', 'version': 1, 'members': [{'_id': 1, 'name': 'a', 'host': 'a:1', 'tags': "     \
    "{'dc': 'x'}}, {'_id': 2, 'name': 'b', 'host': 'b:1', 'tags': {'dc': 'y'}}, {'_id': 3, "       \
    "'name': 'c', 'host': 'c:1', 'hidden': true, 'priority': 0, 'tags': {'dc': 'y'}}], "           \
    "'settings': {'getLastErrorModes': {'both': {'dc': 2}}}}"

static void flush_hook(uint64_t durable, void *context)
{
    stor_positions_flushed(context, durable);
}

static reads_t *set_open(void)
{
    reads_t *reads = reads_open();
    stor_storage_t *storage = &reads->storage;
    vd_error_t err = VD_ERROR_INIT;
    storage->settings.replicated = true;
    storage->settings.node_name = "a";
    reads_ok(stor_replication_open(storage, false, &storage->replication, &err), &err);
    stor_positions_t *positions = storage->replication->positions;
    atomic_store(&released, 0);
    stor_positions_divert(positions, on_released, NULL);
    stor_engine_flush_hook(storage->engine, flush_hook, positions);
    stor_replication_config_changed(storage, query_json(reads->texts, CONFIG));
    reads_ok(stor_positions_start(positions, &err), &err);
    return reads;
}

static void set_close(reads_t *reads)
{
    stor_storage_t *storage = &reads->storage;
    stor_engine_flush_hook(storage->engine, NULL, NULL);
    stor_positions_stop(storage->replication->positions);
    stor_replication_close(&storage->replication);
    reads_close(reads);
}

static int role(reads_t *reads, uint64_t term, int role_, const char *leader, uint64_t *newest)
{
    stor_session_t *session;
    vd_error_t err = VD_ERROR_INIT;
    uint64_t unused;
    reads_ok(stor_session_open(reads->storage.engine, &session, &err), &err);
    int rc = stor_replication_role_set(&reads->storage, session, term, role_, vd_slice_str(leader),
                                       newest == NULL ? &unused : newest, &err);
    stor_session_close(&session);
    return rc;
}

static void durable_wait(reads_t *reads, uint64_t timestamp)
{
    while (stor_engine_durable(reads->storage.engine) < timestamp) {
        stor_engine_flush_soon(reads->storage.engine);
        usleep(500);
    }
}

static bool wait_on(reads_t *reads)
{
    durable_wait(reads, reads->request.depends_on);
    return stor_positions_wait(reads->storage.replication->positions, &reads->request);
}

static void member(reads_t *reads, uint32_t id, uint64_t flushed)
{
    vdp_position_t position = {.member = id, .up = true, .flushed = flushed};
    stor_positions_note(reads->storage.replication->positions,
                        stor_replication_term(&reads->storage), 0, &position, 1);
}

static bool released_soon(int count)
{
    for (int i = 0; i < 30000 && atomic_load(&released) < count; i++)
        usleep(1000);
    return atomic_load(&released) >= count;
}

static int32_t concern_code(reads_t *reads)
{
    vd_value_t code =
        vd_bson_get_path(reads->request.reply_document, VD_SLICE_LIT("writeConcernError.code"));
    return code.type == VD_BSON_INT32 ? vd_value_int32(code) : 0;
}

#define INSERT(more) "{'insert': 'c', 'documents': [{'x': 1}]" more "}"

/* ---- role ---- */

Test(concern_waits, terms_and_roles)
{
    reads_t *reads = set_open();
    stor_storage_t *storage = &reads->storage;
    uint64_t first = 0, again = 0;
    cr_assert_eq(stor_replication_role(storage), VDP_ROLE_STARTING);
    cr_assert_eq(role(reads, 3, VDP_ROLE_PRIMARY, "a", &first), VD_OK);
    cr_assert_eq(stor_replication_term(storage), 3);
    cr_assert_eq(stor_timestamp_term(first), 3);
    cr_assert_geq(stor_engine_durable(storage->engine), first);
    cr_assert_eq(role(reads, 3, VDP_ROLE_PRIMARY, "a", &again), VD_OK);
    cr_assert_eq(first, again); /* nothing was done */
    cr_assert_eq(role(reads, 2, VDP_ROLE_SECONDARY, "b", NULL), VD_ERR_STALE_TERM);
    cr_assert_eq(role(reads, 3, VDP_ROLE_PRIMARY, "b", NULL), VD_ERR_STALE_TERM);
    cr_assert_eq(stor_replication_role(storage), VDP_ROLE_PRIMARY);
    cr_assert_eq(role(reads, 4, VDP_ROLE_SECONDARY, "", NULL), VD_OK);
    cr_assert_eq(role(reads, 4, VDP_ROLE_SECONDARY, "b", NULL), VD_OK);
    cr_assert_eq(role(reads, 4, VDP_ROLE_PRIMARY, "a", NULL), VD_ERR_STALE_TERM); /* b's term */
    cr_assert_eq(role(reads, 5, VDP_ROLE_PRIMARY, "a", &again), VD_OK);
    cr_assert_gt(again, first);
    /* Durable: a new start finds term and leader. */
    stor_replication_t *replication;
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_replication_open(storage, false, &replication, &err), &err);
    cr_assert_eq(atomic_load(&replication->term), 5);
    cr_assert_str_eq(replication->leader, "a");
    stor_replication_close(&replication);
    set_close(reads);
}

Test(concern_waits, every_command_by_role)
{
    static const int roles[] = {VDP_ROLE_STARTING, VDP_ROLE_PRIMARY, VDP_ROLE_SECONDARY,
                                VDP_ROLE_RECOVERING, VDP_ROLE_REMOVED};
    reads_t *reads = set_open();
    for (size_t i = 0; i < stor_command_count; i++)
        for (size_t r = 0; r < VD_COUNT_OF(roles); r++)
            for (int variant = 0; variant < 3; variant++) { /* plain, opted, internal */
                stor_request_t *request = &reads->request;
                vd_error_t err = VD_ERROR_INIT;
                uint32_t flags = stor_commands[i].flags;
                reads->flags = variant == 2 ? VDP_COMMAND_INTERNAL : 0;
                reads_begin(reads, "db");
                request->entry = &stor_commands[i];
                request->read_elsewhere = variant == 1;
                atomic_store(&reads->storage.replication->role, roles[r]);
                int want = VD_OK;
                bool any = (flags & STOR_COMMAND_ANY_MEMBER) != 0;
                if (roles[r] == VDP_ROLE_PRIMARY)
                    want = VD_OK;
                else if ((flags & STOR_COMMAND_WRITES) != 0)
                    want = VD_ERR_NOT_WRITABLE_PRIMARY;
                else if ((flags & STOR_COMMAND_READS) == 0)
                    want = VD_OK;
                else if (variant == 0 && !any)
                    want = VD_ERR_NOT_PRIMARY_NO_SECONDARY_OK;
                else if (variant == 2 && roles[r] != VDP_ROLE_RECOVERING)
                    want = VD_OK;
                else if (roles[r] != VDP_ROLE_SECONDARY)
                    want = VD_ERR_NOT_PRIMARY_OR_SECONDARY;
                cr_assert_eq(stor_replication_admit(request, &err), want, "%s role %d variant %d",
                             stor_commands[i].name, roles[r], variant);
            }
    /* Those that must be there in every state, by name. */
    static const char *const always[] = {"serverStatus", "replSetGetStatus", "killOp",
                                         "veddbMetrics", "_vdAudit"};
    atomic_store(&reads->storage.replication->role, VDP_ROLE_RECOVERING);
    for (size_t i = 0; i < VD_COUNT_OF(always); i++) {
        vd_error_t err = VD_ERROR_INIT;
        reads_begin(reads, "admin");
        reads->request.entry = stor_command_find(vd_slice_str(always[i]));
        cr_assert_eq(stor_replication_admit(&reads->request, &err), VD_OK, "%s", always[i]);
    }
    set_close(reads);
}

static struct {
    stor_storage_t *storage;
    atomic_bool stop;
    atomic_int inside, entered;
} writers;

static void *writer_run(void *context)
{
    (void)context;
    while (!atomic_load(&writers.stop)) {
        if (stor_replication_write_enter(writers.storage, NULL) != VD_OK)
            continue;
        atomic_fetch_add(&writers.inside, 1);
        atomic_fetch_add(&writers.entered, 1);
        atomic_fetch_sub(&writers.inside, 1);
        stor_replication_write_leave(writers.storage);
    }
    return NULL;
}

Test(concern_waits, no_writer_is_inside_once_the_role_has_gone)
{
    reads_t *reads = set_open();
    pthread_t threads[3];
    writers.storage = &reads->storage;
    for (size_t i = 0; i < VD_COUNT_OF(threads); i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, writer_run, NULL), 0);
    for (uint64_t term = 1; term < 40; term += 2) {
        cr_assert_eq(role(reads, term, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
        int before = atomic_load(&writers.entered);
        for (int i = 0; i < 30000 && atomic_load(&writers.entered) == before; i++)
            usleep(1000);
        cr_assert_gt(atomic_load(&writers.entered), before);
        cr_assert_eq(role(reads, term + 1, VDP_ROLE_SECONDARY, "b", NULL), VD_OK);
        before = atomic_load(&writers.entered);
        for (int i = 0; i < 200; i++)
            cr_assert_eq(atomic_load(&writers.inside), 0);
        cr_assert_eq(atomic_load(&writers.entered), before);
    }
    atomic_store(&writers.stop, true);
    for (size_t i = 0; i < VD_COUNT_OF(threads); i++)
        (void)pthread_join(threads[i], NULL);
    set_close(reads);
}

Test(concern_waits, a_primary_whose_replicad_is_silent_steps_down)
{
    reads_t *reads = set_open();
    reads->storage.settings.lease_ms = 300;
    /* Where we ourselves come late it is silent: we begin again, as the primary of another term. */
    bool late = true;
    for (uint64_t term = 1; late; term++) {
        cr_assert_lt(term, 50, "this machine has no time");
        cr_assert_eq(role(reads, term, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
        uint64_t heard_ms = vd_monotonic_ms();
        late = false;
        for (int i = 0; i < 8 && !late; i++) {
            usleep(100000);
            late = vd_monotonic_ms() - heard_ms > 200;
            heard_ms = vd_monotonic_ms();
            stor_replication_heard(&reads->storage);
            int now = stor_replication_role(&reads->storage);
            late = late || vd_monotonic_ms() - heard_ms > 200;
            cr_assert(late || now == VDP_ROLE_PRIMARY, "round %d", i);
        }
    }
    for (int i = 0; i < 300; i++)
        if (usleep(100000), stor_replication_role(&reads->storage) != VDP_ROLE_PRIMARY)
            break;
    cr_assert_eq(stor_replication_role(&reads->storage), VDP_ROLE_SECONDARY);
    cr_assert_eq(reads_run(reads, "db", INSERT("")), VD_ERR_NOT_WRITABLE_PRIMARY);
    reads->storage.settings.lease_ms = 600000; /* the insertion may come late, too */
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK); /* it is back */
    cr_assert_eq(reads_run(reads, "db", INSERT("")), VD_OK);
    set_close(reads);
}

/* Whoever looks may have read its clock before another thread noted that replicad was heard. */
Test(concern_waits, a_lease_that_is_renewed_meanwhile_holds)
{
    reads_t *reads = set_open();
    reads->storage.settings.lease_ms = 60000;
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    ahead_clock_use();
    atomic_fetch_add(&ahead_ms, 5000);
    stor_replication_heard(&reads->storage);
    atomic_fetch_sub(&ahead_ms, 5000);
    cr_expect_not(stor_replication_lease_check(&reads->storage));
    cr_expect_eq(stor_replication_role(&reads->storage), VDP_ROLE_PRIMARY);
    atomic_fetch_add(&ahead_ms, 5000 + 61000);
    for (int i = 0; i < 3000 && stor_replication_role(&reads->storage) == VDP_ROLE_PRIMARY; i++) {
        (void)stor_replication_lease_check(&reads->storage); /* false while another one does it */
        usleep(10000);
    }
    cr_expect_eq(stor_replication_role(&reads->storage), VDP_ROLE_SECONDARY);
    ahead_clock_back();
    set_close(reads);
}

/* ---- write concern ---- */

Test(concern_waits, write_concerns)
{
    static const struct {
        const char *command;
        bool parked;
        uint32_t members; /* bits of 2 and 3 that release it */
        int32_t code;     /* of the writeConcernError at once */
    } cases[] = {
        {INSERT(""), true, 1u << 2, 0},
        {INSERT(", 'writeConcern': {'w': 'majority'}"), true, 1u << 3, 0},
        {INSERT(", 'writeConcern': {'j': true}"), true, 1u << 3, 0},
        {INSERT(", 'writeConcern': {'w': 1}"), false, 0, 0},
        {INSERT(", 'writeConcern': {'w': 2}"), true, 1u << 2, 0},
        {INSERT(", 'writeConcern': {'w': 3}"), true, 1u << 2 | 1u << 3, 0},
        {INSERT(", 'writeConcern': {'w': 'both'}"), true, 1u << 3, 0},
        {INSERT(", 'writeConcern': {'w': 4}"), false, 0, 100},
        {INSERT(", 'writeConcern': {'w': 'none'}"), false, 0, 79},
    };
    reads_t *reads = set_open();
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        atomic_store(&released, 0);
        cr_assert_eq(reads_run(reads, "db", cases[i].command), VD_OK, "%s", reads_text(reads));
        uint64_t timestamp = reads->request.depends_on;
        bool now = wait_on(reads);
        cr_assert_eq(now, !cases[i].parked, "%s", cases[i].command);
        cr_assert_eq(concern_code(reads), cases[i].code, "%s", cases[i].command);
        member(reads, 2, timestamp - 1); /* not far enough */
        cr_assert_eq(atomic_load(&released), 0);
        for (uint32_t m = 2; m <= 3; m++) {
            if ((cases[i].members & 1u << m) == 0)
                continue;
            cr_assert_eq(atomic_load(&released), 0);
            member(reads, m, timestamp);
        }
        cr_assert_eq(atomic_load(&released), cases[i].parked ? 1 : 0, "%s", cases[i].command);
        cr_assert_eq(concern_code(reads), cases[i].code);
    }
    set_close(reads);
}

Test(concern_waits, wtimeout_leaves_the_write_and_says_so)
{
    reads_t *reads = set_open();
    stor_positions_stats_t stats;
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    cr_assert_eq(reads_run(reads, "db", INSERT(", 'writeConcern': {'w': 2, 'wtimeout': 50}")),
                 VD_OK);
    cr_assert_not(wait_on(reads));
    cr_assert(released_soon(1));
    reads->reply = reads->request.reply_document;
    reads_expect(reads, "wtimeout",
                 "{'ok': 1, 'n': 1, 'writeConcernError.code': 64, 'writeConcernError.codeName': "
                 "'WriteConcernFailed', 'writeConcernError.errmsg': 'waiting for replication timed "
                 "out', 'writeConcernError.errInfo.wtimeout': true, "
                 "'writeConcernError.errInfo.writeConcern.w': 2}");
    stor_positions_stats(reads->storage.replication->positions, &stats);
    cr_assert_eq(stats.write_timeouts, 1);
    cr_assert_eq(stats.waiting[STOR_WAIT_WRITE], 0);
    cr_assert_eq(reads_run(reads, "db", "{'count': 'c'}"), VD_OK);
    reads_expect(reads, "count", "{'n': 1}");
    /* maxTimeMS is told as such. */
    cr_assert_eq(reads_run(reads, "db", INSERT("")), VD_OK);
    reads->request.deadline_us = vd_monotonic_us() + 50000;
    reads->request.deadline_is_max_time = true;
    cr_assert_not(wait_on(reads));
    cr_assert(released_soon(2));
    cr_assert_eq(concern_code(reads), 50);
    set_close(reads);
}

Test(concern_waits, step_down_releases_writers_and_readers)
{
    reads_t *reads = set_open();
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    reads_session(reads, "ann@admin", 5);
    reads->txn_number = 1;
    cr_assert_eq(reads_run(reads, "db", INSERT("")), VD_OK, "%s", reads_text(reads));
    cr_assert_not(wait_on(reads));
    cr_assert_eq(role(reads, 2, VDP_ROLE_SECONDARY, "b", NULL), VD_OK);
    cr_assert_eq(atomic_load(&released), 1);
    reads->reply = reads->request.reply_document;
    reads_expect(reads, "step down",
                 "{'ok': 1, 'n': 1, 'writeConcernError.code': 189, 'errorLabels': "
                 "['RetryableWriteError']}");
    reads->txn_number = 0;
    reads_session(reads, "ann@admin", 0);
    /* One admitted in an older term is not acknowledged under a new one. */
    cr_assert_eq(role(reads, 3, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    cr_assert_eq(reads_run(reads, "db", INSERT("")), VD_OK);
    cr_assert_eq(role(reads, 4, VDP_ROLE_SECONDARY, "b", NULL), VD_OK);
    cr_assert_eq(role(reads, 5, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    member(reads, 2, stor_engine_newest(reads->storage.engine));
    cr_assert(wait_on(reads));
    cr_assert_eq(concern_code(reads), 189);
    set_close(reads);
}

Test(concern_waits, killed_and_stopped)
{
    reads_t *reads = set_open();
    stor_request_t *request = &reads->request;
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    cr_assert_eq(reads_run(reads, "db", INSERT("")), VD_OK);
    cr_assert_not(wait_on(reads));
    stor_registry_add(request);
    cr_assert(stor_registry_kill(&reads->storage, request->number, VD_SLICE_NULL, true));
    cr_assert(released_soon(1));
    stor_registry_remove(request);
    cr_assert_eq(concern_code(reads), 11601);
    cr_assert_eq(reads_run(reads, "db", INSERT("")), VD_OK);
    cr_assert_not(wait_on(reads));
    stor_positions_stop(reads->storage.replication->positions);
    cr_assert_eq(atomic_load(&released), 2);
    cr_assert_eq(concern_code(reads), 11600);
    set_close(reads);
}

/* ---- reads ---- */

#define FIND(more) "{'find': 'c', 'filter': {}" more "}"

Test(concern_waits, majority_and_linearizable_reads)
{
    reads_t *reads = set_open();
    stor_positions_stats_t stats;
    stor_positions_t *positions = reads->storage.replication->positions;
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    cr_assert_eq(reads_run(reads, "db", INSERT(", 'writeConcern': {'w': 1}")), VD_OK);
    uint64_t written = reads->request.depends_on;
    cr_assert_eq(reads_run(reads, "db", FIND(", 'readConcern': {'level': 'majority'}")), VD_OK);
    cr_assert_not(wait_on(reads));
    member(reads, 3, written);
    cr_assert_eq(atomic_load(&released), 1);
    cr_assert_eq(reads->request.status, VD_OK);
    cr_assert_eq(stor_replication_majority(&reads->storage), written);
    cr_assert_eq(reads_run(reads, "db", FIND(", 'readConcern': {'level': 'majority'}")), VD_OK);
    cr_assert(wait_on(reads)); /* at once */
    /* linearizable: not before an entry of our own, written afterwards, is on a majority. */
    cr_assert_eq(reads_run(reads, "db", FIND(", 'readConcern': {'level': 'linearizable'}")), VD_OK);
    cr_assert_not(wait_on(reads));
    for (int i = 0; i < 30000; i++) {
        stor_positions_stats(positions, &stats);
        if (stats.noops > 0)
            break;
        usleep(1000);
    }
    cr_assert_eq(stats.noops, 1);
    cr_assert_eq(atomic_load(&released), 1);
    usleep(20000);
    durable_wait(reads, stor_engine_newest(reads->storage.engine));
    member(reads, 2, stor_engine_newest(reads->storage.engine));
    cr_assert(released_soon(2));
    cr_assert_eq(reads->request.status, VD_OK);
    /* On a step-down a reader gets an error instead of the reply. */
    cr_assert_eq(reads_run(reads, "db", INSERT(", 'writeConcern': {'w': 1}")), VD_OK);
    cr_assert_eq(reads_run(reads, "db", FIND(", 'readConcern': {'level': 'majority'}")), VD_OK);
    cr_assert_not(wait_on(reads));
    cr_assert_eq(role(reads, 2, VDP_ROLE_SECONDARY, "b", NULL), VD_OK);
    cr_assert_eq(reads->request.status, VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE);
    cr_assert_eq(reads_run(reads, "db", FIND(", 'readConcern': {'level': 'linearizable'}")),
                 VD_ERR_NOT_WRITABLE_PRIMARY);
    set_close(reads);
}

/* A secondary believes the majority point only as far as it has applied, and not before it has an
 * entry of the present term. */
Test(concern_waits, majority_of_a_secondary)
{
    reads_t *reads = set_open();
    stor_storage_t *storage = &reads->storage;
    stor_positions_t *positions = storage->replication->positions;
    uint64_t newest = 0;
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    cr_assert_eq(role(reads, 2, VDP_ROLE_SECONDARY, "b", &newest), VD_OK);
    stor_positions_note(positions, 2, newest + (5ull << 32), NULL, 0);
    cr_assert_eq(stor_replication_majority(storage), 0); /* ours is of term 1 */
    uint64_t applied = stor_timestamp(stor_timestamp_seconds(newest) + 1, 2, 1);
    stor_engine_observe(storage->engine, applied);
    stor_positions_note(positions, 1, applied, NULL, 0); /* an old term's: stepped over */
    cr_assert_eq(stor_replication_majority(storage), 0);
    stor_positions_note(positions, 2, applied + (5ull << 32), NULL, 0);
    cr_assert_eq(stor_replication_majority(storage), applied);
    set_close(reads);
}

Test(concern_waits, a_time_is_waited_for_before_the_handler)
{
    char command[200];
    reads_t *reads = set_open();
    stor_storage_t *storage = &reads->storage;
    stor_positions_t *positions = storage->replication->positions;
    uint64_t newest = 0;
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    cr_assert_eq(role(reads, 2, VDP_ROLE_SECONDARY, "b", &newest), VD_OK);
    uint32_t seconds = stor_timestamp_seconds(newest) + 1;
    uint64_t applied = stor_timestamp(seconds, 2, 1);
    (void)snprintf(command, sizeof command,
                   "{'find': 'c', '$readPreference': {'mode': 'secondary'}, 'readConcern': "
                   "{'afterClusterTime': {'$timestamp': {'t': %u, 'i': %u}}}}",
                   seconds, (uint32_t)applied);
    vd_bson_t probe = query_json(reads->texts, command);
    if (vd_bson_get_path(probe, VD_SLICE_LIT("readConcern.afterClusterTime")).type !=
        VD_BSON_TIMESTAMP)
        cr_skip_test("no timestamps in this JSON");
    (void)reads_run(reads, "db", command);
    cr_assert_eq(reads->request.wait.kind, STOR_WAIT_TIME);
    cr_assert_not(stor_positions_wait(positions, &reads->request));
    stor_engine_observe(storage->engine, applied);
    stor_positions_applied(positions);
    cr_assert(released_soon(1));
    cr_assert(reads->request.wait.run_again);
    stor_request_run(&reads->request, reads->session);
    cr_assert_eq(reads->request.status, VD_OK);
    cr_assert_eq(reads->request.wait.kind, STOR_WAIT_NOTHING);
    set_close(reads);
}

/* ---- many ---- */

#define MANY 5000

Test(concern_waits, thousands_are_released_in_order_of_their_points)
{
    reads_t *reads = set_open();
    stor_positions_t *positions = reads->storage.replication->positions;
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    cr_assert_eq(reads_run(reads, "db", INSERT("")), VD_OK);
    (void)durable_wait(reads, reads->request.depends_on);
    uint64_t base = reads->request.depends_on;
    stor_request_t *requests = calloc(MANY, sizeof *requests);
    for (uint32_t i = 0; i < MANY; i++) {
        stor_request_init(&requests[i], &reads->storage, reads->texts);
        requests[i].entry = reads->request.entry;
        requests[i].term = 1;
        requests[i].wait.kind = STOR_WAIT_MAJORITY;
        requests[i].depends_on = base + 1 + (i * 7919u) % MANY;
        cr_assert_not(stor_positions_wait(positions, &requests[i]));
    }
    stor_positions_flushed(positions, base + MANY);
    for (uint32_t step = 0; step <= MANY; step += 500) {
        member(reads, 2, base + step);
        cr_assert_eq(atomic_load(&released), (int)step);
    }
    free(requests);
    set_close(reads);
}

/* ---- asks ---- */

static struct {
    void (*answered)(void *context, int code, vd_slice_t message, vd_slice_t body);
    void *context;
    char verb[32], argument[32];
} asked;

static int fake_ask(stor_storage_t *storage, const vdp_replication_ask_t *ask, vd_slice_t body,
                    void (*answered)(void *context, int code, vd_slice_t message, vd_slice_t body),
                    void *context, vd_error_t *err)
{
    (void)storage, (void)body, (void)err;
    asked.answered = answered;
    asked.context = context;
    (void)snprintf(asked.verb, sizeof asked.verb, "%.*s", VD_SLICE_FMT(ask->verb));
    (void)snprintf(asked.argument, sizeof asked.argument, "%.*s", VD_SLICE_FMT(ask->argument));
    return VD_OK;
}

Test(concern_waits, replicad_is_asked_without_a_worker)
{
    reads_t *reads = set_open();
    stor_positions_t *positions = reads->storage.replication->positions;
    stor_positions_divert_ask(positions, fake_ask);
    cr_assert_eq(role(reads, 1, VDP_ROLE_PRIMARY, "a", NULL), VD_OK);
    (void)reads_run(reads, "admin", "{'replSetStepDown': 60}");
    cr_assert_eq(reads->request.wait.kind, STOR_WAIT_ANSWER);
    cr_assert_str_eq(asked.verb, "step-down");
    cr_assert_str_eq(asked.argument, "60");
    cr_assert_not(stor_positions_wait(positions, &reads->request));
    vd_bson_t body = query_json(reads->texts, "{'extra': 7}");
    asked.answered(asked.context, VD_OK, VD_SLICE_NULL, vd_slice(body.data, body.len));
    cr_assert_eq(atomic_load(&released), 1);
    reads->reply = reads->request.reply_document;
    reads_expect(reads, "answer", "{'ok': 1, 'extra': 7}");
    /* The answer is there before the handler has ended; and it is a refusal. */
    (void)reads_run(reads, "admin", "{'replSetStepDown': 60}");
    asked.answered(asked.context, VD_ERR_NODE_NOT_FOUND, VD_SLICE_LIT("nobody"), VD_SLICE_NULL);
    cr_assert(stor_positions_wait(positions, &reads->request));
    cr_assert_eq(reads->request.status, VD_ERR_NODE_NOT_FOUND);
    /* Nobody waits any more when it comes. */
    (void)reads_run(reads, "admin", "{'replSetStepDown': 60}");
    reads->request.deadline_us = vd_monotonic_us() + 30000;
    cr_assert_not(stor_positions_wait(positions, &reads->request));
    cr_assert(released_soon(2));
    cr_assert_eq(reads->request.status, VD_ERR_EXCEEDED_TIME_LIMIT);
    asked.answered(asked.context, VD_OK, VD_SLICE_NULL, VD_SLICE_NULL);
    cr_assert_eq(reads_run(reads, "admin", "{'replSetFreeze': 0}"), VD_ERR_NOT_SECONDARY);
    cr_assert_eq(reads_run(reads, "admin", "{'replSetSyncFrom': 'b:1'}"),
                 VD_ERR_COMMAND_NOT_SUPPORTED);
    cr_assert_eq(reads_run(reads, "admin", "{'replSetInitiate': {}}"), VD_ERR_ALREADY_INITIALIZED);
    cr_assert_eq(reads_run(reads, "admin", "{'appendOplogNote': 1, 'data': {'a': 1}}"), VD_OK);
    cr_assert_not(wait_on(reads));
    member(reads, 2, reads->request.depends_on);
    cr_assert_eq(reads_run(reads, "admin", "{'replSetGetConfig': 1}"), VD_OK);
    reads_expect(reads, "config",
                 "{'config.members.2.hidden': true, 'config.members.2.priority': 0, "
                 "'config.members.0.votes': 1, 'config.members.0.host': 'a:1'}");
    cr_assert_eq(reads_run(reads, "admin", "{'replSetGetStatus': 1}"), VD_OK);
    reads_expect(reads, "status",
                 "{'myState': 1, 'term': 1, 'majorityVoteCount': 2, 'votingMembersCount': 3}");
    set_close(reads);
}
