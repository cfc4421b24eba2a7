/* tests/unit/supervisor/test_control.c — the supervisor between scripted workers and an operator:
 * what a worker can't or doesn't answer is said, and delays nobody. */
#include "libcommon/base/clock.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "proto/control.h"
#include "proto/failure.h"
#include "veddb-supervisor/control.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum { ANSWERS, FAILS, REFUSES, IS_SILENT, SAYS_TOO_MUCH, SAYS_NO_JSON } manner_t;

typedef struct {
    vd_link_t *link;
    const sup_kind_t *kind;
    manner_t manner;
    size_t bytes; /* of its part */
} scripted_t;

static char folder[64];
static vd_loop_t *loop;
static vd_config_t *config;
static sup_system_t *node; /* in watch mode: it starts nobody */
static scripted_t workers[SUP_KIND_COUNT];
static char noted[256]; /* the newest note */
static char asked[256]; /* the newest question: "verb|argument|argument2" */
static uint64_t asked_id;

static void say(scripted_t *worker, const vdp_message_t *message, const void *fields,
                uint64_t request_id, vd_slice_t body)
{
    vd_buf_t head;
    vdp_envelope_t envelope = {.id = message->id, .request_id = request_id, .generation = 7};
    vd_buf_init(&head, 8192);
    cr_assert_eq(vdp_encode(&head, &envelope, message, fields, VD_SLICE_NULL, NULL), VD_OK);
    cr_assert_eq(vd_link_send(worker->link, 0, vd_buf_slice(&head), body, NULL), VD_OK);
    vd_buf_done(&head);
}

static void status_asked(scripted_t *worker, uint64_t request_id)
{
    static char json[128 * 1024];
    vdp_control_text_t text = {0};
    vdp_failure_t failure = {.code = VD_ERR_FULL, .message = VD_SLICE_LIT("it is \"scripted\"")};
    size_t len = worker->manner == SAYS_TOO_MUCH ? VD_STATUS_MAX_BYTES + 1 : worker->bytes;
    memset(json, ' ', len);
    json[0] = worker->manner == SAYS_NO_JSON ? '[' : '{', json[len - 1] = '}';
    if (worker->manner == FAILS)
        say(worker, &vdp_failure, &failure, request_id, VD_SLICE_NULL);
    else if (worker->manner != IS_SILENT)
        say(worker, &vdp_control_status_reply, &text, request_id, vd_slice(json, len));
}

static void question_asked(scripted_t *worker, uint64_t request_id, vd_slice_t rest)
{
    static char json[200 * 1024];
    vdp_control_ask_t ask;
    vdp_failure_t failure = {.code = VD_ERR_BAD_VALUE, .message = VD_SLICE_LIT("not that")};
    cr_assert_eq(vdp_decode(&vdp_control_ask, rest, &ask, NULL, NULL), VD_OK);
    bool note = vd_slice_is(ask.verb, "note"); /* for the audit log: no operator's question */
    (void)snprintf(note ? noted : asked, sizeof asked, "%.*s|%.*s|%.*s", VD_SLICE_FMT(ask.verb),
                   VD_SLICE_FMT(ask.argument), VD_SLICE_FMT(ask.argument2));
    if (!note)
        asked_id = request_id;
    memset(json, ' ', sizeof json);
    json[0] = '{', json[worker->bytes - 1] = '}';
    vdp_control_answer_t answer = {.message = VD_SLICE_LIT("done so")};
    if (worker->manner == REFUSES)
        answer = (vdp_control_answer_t){.code = VD_ERR_ILLEGAL_OPERATION,
                                        .message = VD_SLICE_LIT("there is no primary")};
    if (worker->manner == FAILS)
        say(worker, &vdp_failure, &failure, request_id, VD_SLICE_NULL);
    else if (worker->manner != IS_SILENT)
        say(worker, &vdp_control_answer, &answer, request_id, vd_slice(json, worker->bytes));
}

static void worker_item(void *context, uint64_t peer, vd_slice_t item)
{
    (void)peer; /* a DEALER has one */
    vdp_envelope_t envelope;
    vd_slice_t rest;
    cr_assert_eq(vdp_decode_envelope(item, &envelope, &rest, NULL), VD_OK);
    if (envelope.id == VDP_CONTROL_STATUS)
        status_asked(context, envelope.request_id);
    else if (envelope.id == VDP_CONTROL_ASK)
        question_asked(context, envelope.request_id, rest);
}

static void worker_up(void *context, uint64_t peer, bool up)
{
    (void)peer; /* a DEALER has one */
    scripted_t *worker = context;
    vdp_control_hello_t hello = {.program = vd_slice_str(worker->kind->program),
                                 .pid = 1,
                                 .protocol = VDP_VERSION,
                                 .version = VD_SLICE_LIT("test")};
    if (up)
        say(worker, &vdp_control_hello, &hello, 1, VD_SLICE_NULL);
}

static void turn(void)
{
    cr_assert_eq(vd_loop_turn(loop, 10, NULL), VD_OK);
}

static bool all_connected(void)
{
    for (int i = 0; i < SUP_KIND_COUNT; i++)
        if (node->workers[i].joins && node->workers[i].peer == 0)
            return false;
    return true;
}

static void connect_worker(scripted_t *worker)
{
    char path[128];
    vd_link_options_t options = {.path = sup_control_path(node, worker->kind, path, sizeof path),
                                 .item = worker_item,
                                 .peer_changed = worker_up,
                                 .context = worker};
    cr_assert_eq(vd_link_open(loop, &options, &worker->link, NULL), VD_OK);
}

static void start(bool replication)
{
    char run_folder[96];
    vd_error_t err = VD_ERROR_INIT;
    (void)snprintf(folder, sizeof folder, "/tmp/vdsupXXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(run_folder, sizeof run_folder, "--node.run_folder=%s", folder);
    char mode[] = "--supervisor.mode=watch", as_root[] = "--node.allow_root=true";
    char port[] = "--replication.port=1", certificate[] = "--replication.certificate_file=/c",
         key[] = "--replication.key_file=/k", ca[] = "--replication.ca_file=/a";
    char *const flags[] = {run_folder, mode, as_root, port, certificate, key, ca};
    cr_assert_eq(vd_config_load(NULL, flags, replication ? 7 : 3, &config, &err), VD_OK, "%s",
                 err.message);
    cr_assert_eq(vd_loop_create(&loop, NULL), VD_OK);
    cr_assert_eq(sup_system_create(loop, config, &node, &err), VD_OK, "%s", err.message);
    for (int i = 0; i < SUP_KIND_COUNT; i++) {
        workers[i] = (scripted_t){.kind = &sup_kinds[i], .bytes = 100};
        if (node->workers[i].joins)
            connect_worker(&workers[i]);
    }
    for (uint64_t end = vd_monotonic_ms() + 30000; !all_connected() && vd_monotonic_ms() < end;)
        turn();
    cr_assert(all_connected());
}

static void setup(void)
{
    start(true);
}

static void teardown(void)
{
    char command[100];
    for (int i = 0; i < SUP_KIND_COUNT; i++)
        vd_link_close(&workers[i].link);
    sup_system_destroy(&node);
    vd_config_destroy(&config);
    vd_loop_destroy(&loop);
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(control, .init = setup, .fini = teardown, .timeout = 300);

typedef struct {
    const char *verb, *argument, *argument2;
    int rc;
    vd_buf_t answer;
    _Atomic bool done;
    pthread_t thread;
    vdp_operator_reply_t reply; /* in answer */
    vd_slice_t json;
} operator_t;

static void *operator_run(void *context)
{
    operator_t *asker = context;
    char path[96];
    vd_buf_t packet;
    vdp_envelope_t envelope = {.id = VDP_OPERATOR_REQUEST, .request_id = 1};
    vdp_operator_request_t request = {.verb = vd_slice_str(asker->verb),
                                      .argument = vd_slice_str(asker->argument),
                                      .argument2 = vd_slice_str(asker->argument2)};
    (void)snprintf(path, sizeof path, "%s/control", folder);
    vd_buf_init(&packet, 4096);
    asker->rc =
        vdp_encode(&packet, &envelope, &vdp_operator_request, &request, VD_SLICE_NULL, NULL);
    if (asker->rc == VD_OK)
        asker->rc = vd_local_call(path, vd_buf_slice(&packet), 5000, -1, &asker->answer, NULL);
    vd_buf_done(&packet);
    atomic_store(&asker->done, true);
    return NULL;
}

static void operator_begin(operator_t *asker, const char *verb, const char *argument,
                           const char *argument2)
{
    *asker = (operator_t){.verb = verb, .argument = argument, .argument2 = argument2};
    vd_buf_init(&asker->answer, VD_LOCAL_PACKET_MAX);
    cr_assert_eq(pthread_create(&asker->thread, NULL, operator_run, asker), 0);
}

static void operator_end(operator_t *asker)
{
    vdp_envelope_t envelope;
    vd_slice_t rest;
    while (!atomic_load(&asker->done))
        turn();
    cr_assert_eq(pthread_join(asker->thread, NULL), 0);
    cr_assert_eq(asker->rc, VD_OK);
    cr_assert_eq(vdp_decode_envelope(vd_buf_slice(&asker->answer), &envelope, &rest, NULL), VD_OK);
    cr_assert_eq(vdp_decode(&vdp_operator_reply, rest, &asker->reply, &asker->json, NULL), VD_OK);
}

static void operator_asks(operator_t *asker, const char *argument, const char *argument2)
{
    operator_begin(asker, "replication", argument, argument2);
    operator_end(asker);
}

/* The node's status as text; *ret_ms: how long it took. */
static const char *status(uint64_t *ret_ms)
{
    static char text[VD_LOCAL_PACKET_MAX + 1];
    operator_t asker;
    uint64_t begun = vd_monotonic_ms();
    operator_begin(&asker, "status", "", "");
    operator_end(&asker);
    *ret_ms = vd_monotonic_ms() - begun;
    cr_assert_eq(asker.reply.code, VD_OK);
    (void)snprintf(text, sizeof text, "%.*s", VD_SLICE_FMT(asker.json));
    vd_buf_done(&asker.answer);
    return text;
}

Test(control, a_worker_that_cannot_answer_is_shown_so_at_once)
{
    static const struct {
        manner_t manner;
        const char *shown;
    } cases[] = {
        {FAILS, "\"status_error\":\"it is \\\"scripted\\\"\""},
        {SAYS_TOO_MUCH, "\"status_error\":\"the status is too large\""},
        {SAYS_NO_JSON, "\"status_error\":\"the status is no JSON object\""},
        {ANSWERS, "\"status\":{ "},
    };
    uint64_t ms;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *text;
        workers[SUP_KIND_STORAGED].manner = cases[i].manner;
        int tries =
            0; /* who waits for the second does so each time; a busy machine, now and then */
        do
            text = status(&ms);
        while (ms >= 800 && ++tries < 20);
        cr_expect_not_null(strstr(text, cases[i].shown), "%zu: %s", i, text);
        cr_expect_lt(ms, 800, "%zu: %llu ms", i, (unsigned long long)ms);
        if (cases[i].manner == ANSWERS)
            cr_expect_null(strstr(text, "status_error"), "no error is left from before");
    }
}

Test(control, a_worker_that_is_silent_is_waited_for_a_second)
{
    uint64_t ms;
    workers[SUP_KIND_GATEWAYD].manner = IS_SILENT;
    const char *text = status(&ms);
    cr_expect_not_null(strstr(text, "\"status_error\":\"no answer within 1000 ms\""));
    cr_expect(ms >= 900, "%llu ms", (unsigned long long)ms);
}

Test(control, the_largest_parts_fit_into_one_answer)
{
    uint64_t ms;
    for (int i = 0; i < SUP_KIND_COUNT; i++)
        workers[i].bytes = VD_STATUS_MAX_BYTES;
    const char *text = status(&ms);
    cr_expect_geq(strlen(text), SUP_KIND_COUNT * VD_STATUS_MAX_BYTES);
    cr_expect_null(strstr(text, "status_error"));
}

/* ---- questions for replicad ---- */

Test(control, a_question_reaches_replicad_and_its_answer_the_operator)
{
    static const struct {
        const char *argument2, *asked;
    } cases[] = {
        {"", "promote||"},
        {"n2", "promote|n2|"},
        {"n2\nforce", "promote|n2|force"},
        {"\nforce", "promote||force"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        operator_t asker;
        operator_asks(&asker, "promote", cases[i].argument2);
        cr_expect_str_eq(asked, cases[i].asked);
        cr_expect_eq(asker.reply.code, VD_OK);
        cr_expect(vd_slice_is(asker.reply.message, "done so"));
        cr_expect_eq(asker.json.len, 100);
        vd_buf_done(&asker.answer);
    }
    /* Notes go one after the other; those of the start are before it. */
    for (int i = 0; i < 30000 && strncmp(noted, "note|operator\treplication promote", 33) != 0; i++)
        turn();
    cr_expect_eq(strncmp(noted, "note|operator\treplication promote", 33), 0, "%s", noted);
}

Test(control, what_replicad_refuses_is_said_in_its_words)
{
    operator_t asker;
    workers[SUP_KIND_REPLICAD].manner = REFUSES;
    operator_asks(&asker, "step-down", "");
    cr_expect_eq(asker.reply.code, VD_ERR_ILLEGAL_OPERATION);
    cr_expect(vd_slice_is(asker.reply.message, "there is no primary"));
    vd_buf_done(&asker.answer);
    workers[SUP_KIND_REPLICAD].manner = FAILS;
    operator_asks(&asker, "step-down", "");
    cr_expect_eq(asker.reply.code, VD_ERR_BAD_VALUE);
    cr_expect(vd_slice_is(asker.reply.message, "not that"));
    vd_buf_done(&asker.answer);
}

Test(control, the_largest_answer_fits)
{
    operator_t asker;
    workers[SUP_KIND_REPLICAD].bytes = 180 * 1024;
    operator_asks(&asker, "status", "");
    cr_expect_eq(asker.reply.code, VD_OK);
    cr_expect_eq(asker.json.len, 180 * 1024);
    vd_buf_done(&asker.answer);
}

Test(control, a_replicad_that_goes_away_is_not_waited_for)
{
    operator_t asker;
    workers[SUP_KIND_REPLICAD].manner = IS_SILENT;
    operator_begin(&asker, "replication", "promote", "");
    while (asked_id == 0)
        turn();
    vd_link_close(&workers[SUP_KIND_REPLICAD].link);
    /* Its next start says hello about when the loss of the old link is noticed: before or after. */
    connect_worker(&workers[SUP_KIND_REPLICAD]);
    operator_end(&asker);
    while (!all_connected())
        turn();
    cr_expect_eq(asker.reply.code, VD_ERR_CLOSED); /* not that time was up */
    vd_buf_done(&asker.answer);
    /* An answer of the start before finds nobody, also not the next question's asker. */
    uint64_t old = asked_id;
    asked_id = 0;
    operator_begin(&asker, "replication", "freeze", "5");
    while (asked_id == 0)
        turn();
    cr_expect_neq(asked_id, old);
    vdp_control_answer_t answer = {.message = VD_SLICE_LIT("late")};
    say(&workers[SUP_KIND_REPLICAD], &vdp_control_answer, &answer, old, VD_SLICE_NULL);
    answer.message = VD_SLICE_LIT("right");
    say(&workers[SUP_KIND_REPLICAD], &vdp_control_answer, &answer, asked_id, VD_SLICE_NULL);
    operator_end(&asker);
    cr_expect(vd_slice_is(asker.reply.message, "right"));
    vd_buf_done(&asker.answer);
}

Test(control, only_so_many_questions_wait)
{
    enum { MOST = 16 };
    operator_t askers[MOST], one_more;
    workers[SUP_KIND_REPLICAD].manner = IS_SILENT;
    for (int i = 0; i < MOST; i++) {
        asked_id = 0;
        operator_begin(&askers[i], "replication", "status", "");
        while (asked_id == 0)
            turn();
    }
    operator_asks(&one_more, "status", "");
    cr_expect_eq(one_more.reply.code, VD_ERR_FULL);
    vd_buf_done(&one_more.answer);
    vd_link_close(&workers[SUP_KIND_REPLICAD].link);
    connect_worker(&workers[SUP_KIND_REPLICAD]);
    for (int i = 0; i < MOST; i++) {
        operator_end(&askers[i]);
        cr_expect_eq(askers[i].reply.code, VD_ERR_CLOSED);
        vd_buf_done(&askers[i].answer);
    }
}

Test(control, a_node_that_stays_alone_has_no_replicad)
{
    operator_t asker;
    char path[128];
    uint64_t ms;
    teardown();
    start(false);
    cr_expect_not(node->workers[SUP_KIND_REPLICAD].joins);
    cr_expect_null(strstr(status(&ms), "replicad"));
    (void)snprintf(path, sizeof path, "%s/storage-replicad", folder);
    cr_expect_neq(access(path, F_OK), 0);
    operator_asks(&asker, "status", "");
    cr_expect_eq(asker.reply.code, VD_ERR_NO_REPLICATION_ENABLED);
    vd_buf_done(&asker.answer);
    operator_begin(&asker, "restart", "replicad", "");
    operator_end(&asker);
    cr_expect_eq(asker.reply.code, VD_ERR_BAD_VALUE);
    vd_buf_done(&asker.answer);
}
