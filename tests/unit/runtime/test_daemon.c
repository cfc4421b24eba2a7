/* tests/unit/runtime/test_daemon.c — a small program of the skeleton, in a process of its own, and
 * this test as its supervisor: operators' questions and their answers. */
#include "libcommon/base/clock.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/link.h"
#include "proto/control.h"
#include "proto/failure.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define GENERATION 77

/* ---- the program ---- */

static struct {
    bool started, waits;
    vd_source_t *timer;
    uint64_t held[8]; /* tickets */
    size_t held_count;
} fake;

static int fake_prepare(vd_daemon_t *daemon, void **state_p, vd_error_t *err)
{
    (void)daemon, (void)err;
    *state_p = &fake;
    return VD_OK;
}

static int fake_start(vd_daemon_t *daemon, void *state, vd_error_t *err)
{
    (void)state;
    while (fake.waits)
        if (!vd_daemon_pause(daemon, 20))
            return vd_error_set(err, VD_ERR_CORRUPT, "of no consequence");
    fake.started = true;
    vd_daemon_ready(daemon, "fake");
    return VD_OK;
}

/* What start() makes would be missing. */
static int fake_status(vd_daemon_t *daemon, void *state, vd_buf_t *out)
{
    (void)daemon, (void)state;
    VD_ASSERT(fake.started);
    return vd_buf_printf(out, "{\"whole\": 1}");
}

static void fake_drain(vd_daemon_t *daemon, void *state)
{
    (void)state;
    VD_ASSERT(fake.started);
    vd_daemon_drained(daemon);
}

/* "hold" keeps the ticket; "go" answers all that were held, the newest first. */
static void fake_ask(vd_daemon_t *daemon, void *state, uint64_t ticket, vd_slice_t verb,
                     vd_slice_t argument, vd_slice_t argument2)
{
    static char json[512 * 1024];
    char text[256];
    VD_ASSERT(state == &fake && fake.started);
    (void)snprintf(text, sizeof text, "%.*s|%.*s|%.*s", VD_SLICE_FMT(verb), VD_SLICE_FMT(argument),
                   VD_SLICE_FMT(argument2));
    memset(json, ' ', sizeof json);
    if (vd_slice_is(verb, "hold")) {
        fake.held[fake.held_count++] = ticket;
    } else if (vd_slice_is(verb, "large")) {
        vd_daemon_answer(daemon, ticket, VD_OK, text,
                         vd_slice(json, strtoull((const char *)argument.data, NULL, 10)));
    } else if (vd_slice_is(verb, "refuse")) {
        vd_daemon_answer(daemon, ticket, VD_ERR_ILLEGAL_OPERATION, "not now", VD_SLICE_NULL);
    } else if (vd_slice_is(verb, "go")) {
        while (fake.held_count > 0)
            vd_daemon_answer(daemon, fake.held[--fake.held_count], VD_OK, "held", VD_SLICE_NULL);
        vd_daemon_answer(daemon, ticket, VD_OK, text, VD_SLICE_LIT("{}"));
    } else {
        vd_daemon_answer(daemon, ticket, VD_OK, text, VD_SLICE_LIT("{\"a\": 1}"));
    }
}

/* ---- its supervisor ---- */

static char folder[64];
static vd_loop_t *loop;
static vd_link_t *supervisor;
static uint64_t worker; /* peer */
static pid_t pid;
static bool worker_ready;
static uint32_t early; /* what is said as soon as it has said hello */

static void say(uint32_t id, uint64_t request_id);

typedef struct {
    uint32_t id;
    uint64_t request_id;
    int64_t code;
    char text[256];
    size_t json_len;
} heard_t;
static heard_t heard[16];
static size_t heard_count;

static void item(void *context, uint64_t peer, vd_slice_t bytes)
{
    (void)context;
    vdp_envelope_t envelope;
    vd_slice_t rest, body;
    cr_assert_eq(vdp_decode_envelope(bytes, &envelope, &rest, NULL), VD_OK);
    cr_assert_eq(envelope.generation, GENERATION);
    if (envelope.id == VDP_CONTROL_HELLO) {
        worker = peer;
        if (early != 0)
            say(early, 800);
    }
    if (envelope.id == VDP_CONTROL_READY)
        worker_ready = true;
    if (envelope.id != VDP_CONTROL_ANSWER && envelope.id != VDP_FAILURE &&
        envelope.id != VDP_CONTROL_STATUS_REPLY)
        return;
    heard_t *at = &heard[heard_count++];
    *at = (heard_t){.id = envelope.id, .request_id = envelope.request_id};
    if (envelope.id == VDP_CONTROL_ANSWER) {
        vdp_control_answer_t answer;
        cr_assert_eq(vdp_decode(&vdp_control_answer, rest, &answer, &body, NULL), VD_OK);
        at->code = answer.code, at->json_len = body.len;
        (void)snprintf(at->text, sizeof at->text, "%.*s", VD_SLICE_FMT(answer.message));
    } else if (envelope.id == VDP_CONTROL_STATUS_REPLY) {
        vdp_control_text_t reply;
        cr_assert_eq(vdp_decode(&vdp_control_status_reply, rest, &reply, &body, NULL), VD_OK);
        (void)snprintf(at->text, sizeof at->text, "%.*s", VD_SLICE_FMT(body));
    } else {
        vdp_failure_t failure;
        cr_assert_eq(vdp_decode(&vdp_failure, rest, &failure, &body, NULL), VD_OK);
        at->code = failure.code;
    }
}

static void turn(void)
{
    cr_assert_eq(vd_loop_turn(loop, 10, NULL), VD_OK);
}

static void begin(bool takes_questions)
{
    char run_folder[96], path[128];
    vd_program_t program = {.program = "veddb-replicad",
                            .letter = 'p',
                            .summary = "a fake",
                            .prepare = fake_prepare,
                            .start = fake_start,
                            .status = fake_status,
                            .drain = fake_drain,
                            .ask = takes_questions ? fake_ask : NULL};
    (void)snprintf(folder, sizeof folder, "/tmp/vddaemonXXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/control", folder);
    (void)snprintf(run_folder, sizeof run_folder, "--node.run_folder=%s", folder);
    pid = fork(); /* before any thread of ours */
    if (pid == 0) {
        char name[] = "veddb-replicad";
        char as_root[] = "--node.allow_root=true"; /* whoever runs the tests */
        char *argv[] = {name, run_folder, as_root, NULL};
        char generation[16];
        (void)snprintf(generation, sizeof generation, "%d", GENERATION);
        (void)setenv("VEDDB_CONTROL_SOCKET", path, 1);
        (void)setenv("VEDDB_GENERATION", generation, 1);
        _exit(vd_daemon_main(&program, 3, argv));
    }
    cr_assert_gt(pid, 0);
    cr_assert_eq(vd_loop_create(&loop, NULL), VD_OK);
    vd_link_options_t options = {.path = path, .bind = true, .item = item};
    cr_assert_eq(vd_link_open(loop, &options, &supervisor, NULL), VD_OK);
}

static void start(bool takes_questions)
{
    begin(takes_questions);
    for (uint64_t end = vd_monotonic_ms() + 30000; !worker_ready && vd_monotonic_ms() < end;)
        turn();
    cr_assert(worker_ready);
}

static void teardown(void)
{
    char command[100];
    int status = -1;
    (void)kill(pid, SIGTERM);
    cr_expect_eq(waitpid(pid, &status, 0), pid);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    vd_link_close(&supervisor);
    vd_loop_destroy(&loop);
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(daemon, .fini = teardown, .timeout = 300);

static void say(uint32_t id, uint64_t request_id)
{
    vd_buf_t item_bytes;
    vdp_envelope_t envelope = {.id = id, .request_id = request_id, .generation = GENERATION};
    vdp_control_text_t status = {VD_SLICE_NULL};
    vdp_control_drain_t stop = {.grace_ms = 5000, .reason = VD_SLICE_LIT("test")};
    vdp_control_ask_t question = {.verb = VD_SLICE_LIT("hold")};
    vd_buf_init(&item_bytes, 16 * 1024);
    int rc =
        id == VDP_CONTROL_STATUS
            ? vdp_encode(&item_bytes, &envelope, &vdp_control_status, &status, VD_SLICE_NULL, NULL)
        : id == VDP_CONTROL_STOP
            ? vdp_encode(&item_bytes, &envelope, &vdp_control_stop, &stop, VD_SLICE_NULL, NULL)
            : vdp_encode(&item_bytes, &envelope, &vdp_control_ask, &question, VD_SLICE_NULL, NULL);
    cr_assert_eq(rc, VD_OK);
    cr_assert_eq(vd_link_send(supervisor, worker, vd_buf_slice(&item_bytes), VD_SLICE_NULL, NULL),
                 VD_OK);
    vd_buf_done(&item_bytes);
}

static void ask(uint64_t request_id, const char *verb, const char *argument, const char *argument2)
{
    vd_buf_t item_bytes;
    vdp_envelope_t envelope = {
        .id = VDP_CONTROL_ASK, .request_id = request_id, .generation = GENERATION};
    vdp_control_ask_t fields = {.verb = vd_slice_str(verb),
                                .argument = vd_slice_str(argument),
                                .argument2 = vd_slice_str(argument2)};
    vd_buf_init(&item_bytes, 16 * 1024);
    cr_assert_eq(vdp_encode(&item_bytes, &envelope, &vdp_control_ask, &fields, VD_SLICE_NULL, NULL),
                 VD_OK);
    cr_assert_eq(vd_link_send(supervisor, worker, vd_buf_slice(&item_bytes), VD_SLICE_NULL, NULL),
                 VD_OK);
    vd_buf_done(&item_bytes);
}

static void wait_for(size_t count)
{
    for (uint64_t end = vd_monotonic_ms() + 30000; heard_count < count && vd_monotonic_ms() < end;)
        turn();
    cr_assert_eq(heard_count, count);
}

Test(daemon, a_question_is_answered_with_its_number)
{
    start(true);
    ask(901, "promote", "n2", "force");
    ask(902, "refuse", "", "");
    wait_for(2);
    cr_expect_eq(heard[0].request_id, 901);
    cr_expect_eq(heard[0].code, VD_OK);
    cr_expect_str_eq(heard[0].text, "promote|n2|force");
    cr_expect_eq(heard[0].json_len, strlen("{\"a\": 1}"));
    cr_expect_eq(heard[1].request_id, 902);
    cr_expect_eq(heard[1].code, VD_ERR_ILLEGAL_OPERATION);
    cr_expect_str_eq(heard[1].text, "not now");
}

Test(daemon, questions_may_be_answered_later_and_in_any_order)
{
    start(true);
    ask(11, "hold", "", "");
    ask(12, "hold", "", "");
    ask(13, "go", "", "");
    wait_for(3);
    cr_expect_eq(heard[0].request_id, 12);
    cr_expect_eq(heard[1].request_id, 11);
    cr_expect_eq(heard[2].request_id, 13);
}

Test(daemon, an_answer_that_is_too_large_is_a_failure)
{
    start(true);
    ask(21, "large", "184320", "");
    wait_for(1);
    cr_expect_eq(heard[0].id, VDP_CONTROL_ANSWER);
    cr_expect_eq(heard[0].json_len, 180 * 1024);
    ask(22, "large", "184321", "");
    wait_for(2);
    cr_expect_eq(heard[1].id, VDP_FAILURE);
    cr_expect_eq(heard[1].request_id, 22);
    cr_expect_eq(heard[1].code, VD_ERR_FULL);
}

Test(daemon, a_program_that_takes_no_questions_says_so)
{
    start(false);
    ask(31, "promote", "", "");
    wait_for(1);
    cr_expect_eq(heard[0].id, VDP_FAILURE);
    cr_expect_eq(heard[0].request_id, 31);
    cr_expect_eq(heard[0].code, VD_ERR_COMMAND_NOT_FOUND);
}

Test(daemon, what_is_asked_before_it_has_started_is_not_the_programs)
{
    early = VDP_CONTROL_STATUS;
    start(true);
    wait_for(1);
    cr_expect_eq(heard[0].id, VDP_CONTROL_STATUS_REPLY);
    cr_expect_str_eq(heard[0].text, "{}");
    say(VDP_CONTROL_STATUS, 801);
    wait_for(2);
    cr_expect_str_eq(heard[1].text, "{\"whole\": 1}");
}

Test(daemon, a_question_before_it_has_started_comes_too_early)
{
    early = VDP_CONTROL_ASK;
    start(true);
    wait_for(1);
    cr_expect_eq(heard[0].id, VDP_FAILURE);
    cr_expect_eq(heard[0].code, VD_ERR_AGAIN);
}

/* Its end is looked at behind each test. */
static void wait_for_end(void)
{
    bool ended = false;
    for (uint64_t end = vd_monotonic_ms() + 30000; !ended && vd_monotonic_ms() < end;) {
        turn();
        siginfo_t info = {0};
        ended =
            waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
    }
    cr_expect(ended, "it was told to stop, and did not");
    cr_expect_not(worker_ready);
}

Test(daemon, told_to_stop_before_it_has_started_it_does_not_start)
{
    early = VDP_CONTROL_STOP;
    begin(true);
    wait_for_end();
}

Test(daemon, told_to_stop_while_it_starts_it_does_so_in_order)
{
    fake.waits = true;
    begin(true);
    /* Behind the moment in which it waits to be welcomed it is in start(). */
    for (uint64_t end = vd_monotonic_ms() + 600; vd_monotonic_ms() < end;)
        turn();
    for (uint64_t end = vd_monotonic_ms() + 30000; worker == 0 && vd_monotonic_ms() < end;)
        turn();
    say(VDP_CONTROL_STATUS, 802);
    wait_for(1);
    cr_expect_str_eq(heard[0].text, "{}");
    say(VDP_CONTROL_STOP, 803);
    wait_for_end();
}
