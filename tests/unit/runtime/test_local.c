/* tests/unit/runtime/test_local.c — request and answer over a local socket: credentials, limits,
 * slow and silent clients. */
#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/local.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[96];
static vd_loop_t *loop;
static vd_local_t *local;
static vd_local_client_t *held;
static int requests;
static enum { ECHO, SILENT, HOLD, TWICE, CLOSE } manner;

static void on_request(void *context, vd_local_client_t *client, vd_slice_t packet)
{
    (void)context;
    requests++;
    if (manner == ECHO || manner == TWICE)
        cr_assert_eq(vd_local_reply(client, packet, NULL), VD_OK);
    if (manner == TWICE)
        cr_assert_eq(vd_local_reply(client, packet, NULL), VD_OK);
    if (manner == HOLD) {
        vd_local_hold(client);
        held = client;
    }
    if (manner == CLOSE)
        vd_local_close(&local);
}

static int try_listen(vd_local_t **ret_local)
{
    vd_local_options_t options = {.path = path, .listen_fd = -1, .request = on_request};
    return vd_local_listen(loop, &options, ret_local, NULL);
}

static void setup(void)
{
    (void)snprintf(path, sizeof path, "/tmp/vdlocal-%d", (int)getpid());
    cr_assert_eq(vd_loop_create(&loop, NULL), VD_OK);
    cr_assert_eq(try_listen(&local), VD_OK);
}

static void teardown(void)
{
    char lock[112];
    vd_local_close(&local);
    vd_local_close(&local);
    vd_loop_destroy(&loop);
    (void)snprintf(lock, sizeof lock, "%s.lock", path);
    (void)unlink(lock);
    cr_assert_neq(access(path, F_OK), 0, "the socket is removed");
}

TestSuite(local, .init = setup, .fini = teardown, .timeout = 300);

typedef struct {
    vd_slice_t packet;
    uint64_t timeout_ms;
    int64_t uid;
    int rc;
    vd_buf_t reply;
    vd_error_t err;
    bool done;
} call_t;

static void *call_run(void *context)
{
    call_t *call = context;
    vd_buf_init(&call->reply, VD_LOCAL_PACKET_MAX + 1);
    call->rc =
        vd_local_call(path, call->packet, call->timeout_ms, call->uid, &call->reply, &call->err);
    __atomic_store_n(&call->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* The call blocks, so it has a thread; the listener's loop turns here. */
static void call_it(call_t *call)
{
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, call_run, call), 0);
    while (!__atomic_load_n(&call->done, __ATOMIC_ACQUIRE)) {
        cr_assert_eq(vd_loop_turn(loop, 5, NULL), VD_OK);
        if (held != NULL) {
            cr_assert_eq(vd_local_client_uid(held), geteuid());
            cr_assert_eq(vd_local_reply(held, VD_SLICE_LIT("later"), NULL), VD_OK);
            vd_local_drop(held);
            held = NULL;
        }
    }
    (void)pthread_join(thread, NULL);
}

Test(local, question_and_answer)
{
    call_t call = {.packet = VD_SLICE_LIT("hello"), .timeout_ms = 5000, .uid = (int64_t)geteuid()};
    call_it(&call);
    cr_assert_eq(call.rc, VD_OK, "%s", call.err.message);
    cr_assert(vd_slice_is(vd_buf_slice(&call.reply), "hello"));
    vd_buf_done(&call.reply);
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
}

Test(local, the_largest_packet_and_one_more)
{
    uint8_t *bytes = vd_xalloc(VD_LOCAL_PACKET_MAX + 1);
    memset(bytes, 7, VD_LOCAL_PACKET_MAX + 1);
    call_t call = {.packet = vd_slice(bytes, VD_LOCAL_PACKET_MAX), .timeout_ms = 5000, .uid = -1};
    call_it(&call);
    cr_assert_eq(call.rc, VD_OK, "%s", call.err.message);
    cr_assert(vd_slice_equal(vd_buf_slice(&call.reply), call.packet));
    vd_buf_done(&call.reply);
    call_t large = {
        .packet = vd_slice(bytes, VD_LOCAL_PACKET_MAX + 1), .timeout_ms = 5000, .uid = -1};
    call_it(&large);
    cr_assert_eq(large.rc, VD_ERR_INVALID_LENGTH);
    vd_buf_done(&large.reply);
    vd_free(bytes);
}

Test(local, an_answer_in_another_turn)
{
    manner = HOLD;
    call_t call = {.packet = VD_SLICE_LIT("hello"), .timeout_ms = 5000, .uid = -1};
    call_it(&call);
    cr_assert_eq(call.rc, VD_OK);
    cr_assert(vd_slice_is(vd_buf_slice(&call.reply), "later"));
    vd_buf_done(&call.reply);
}

Test(local, a_call_has_its_time)
{
    manner = SILENT;
    call_t call = {.packet = VD_SLICE_LIT("hello"), .timeout_ms = 200, .uid = -1};
    uint64_t before = vd_monotonic_ms();
    call_it(&call);
    cr_assert_eq(call.rc, VD_ERR_NETWORK_TIMEOUT);
    cr_assert_geq(vd_monotonic_ms() - before, 190);
    vd_buf_done(&call.reply);
}

Test(local, another_user_is_not_believed)
{
    call_t call = {
        .packet = VD_SLICE_LIT("hello"), .timeout_ms = 5000, .uid = (int64_t)geteuid() + 1};
    call_it(&call);
    cr_assert_eq(call.rc, VD_ERR_UNAUTHORIZED);
    cr_assert_eq(requests, 0);
    vd_buf_done(&call.reply);
}

Test(local, another_user_is_not_served)
{
    if (geteuid() != 0)
        return; /* needs a second user */
    cr_assert_eq(chmod(path, 0666), 0);
    pid_t pid = fork();
    if (pid == 0) {
        vd_buf_t reply;
        vd_buf_init(&reply, VD_LOCAL_PACKET_MAX);
        if (setuid(65534) != 0)
            _exit(9);
        int rc = vd_local_call(path, VD_SLICE_LIT("hello"), 5000, -1, &reply, NULL);
        _exit(rc == VD_OK ? 0 : 1);
    }
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0)
        cr_assert_eq(vd_loop_turn(loop, 5, NULL), VD_OK);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    cr_assert_eq(requests, 0);
}

Test(local, nobody_there)
{
    vd_buf_t reply;
    vd_buf_init(&reply, VD_LOCAL_PACKET_MAX);
    vd_local_close(&local);
    cr_assert_eq(vd_local_call(path, VD_SLICE_LIT("x"), 100, -1, &reply, NULL),
                 VD_ERR_HOST_UNREACHABLE);
    cr_assert_eq(vd_local_call("relative", VD_SLICE_LIT("x"), 100, -1, &reply, NULL),
                 VD_ERR_CONFIG);
    vd_buf_done(&reply);
}

Test(local, a_second_listener_is_refused)
{
    vd_local_t *second = NULL;
    cr_assert_eq(try_listen(&second), VD_ERR_EXISTS);
    cr_assert_null(second);
}

Test(local, closed_in_the_request)
{
    manner = CLOSE;
    call_t call = {.packet = VD_SLICE_LIT("hello"), .timeout_ms = 5000, .uid = -1};
    call_it(&call);
    cr_assert_eq(call.rc, VD_ERR_CLOSED);
    cr_assert_null(local);
    vd_buf_done(&call.reply);
}

static int raw_client(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void turn_a_few(void)
{
    for (int i = 0; i < 5; i++)
        cr_assert_eq(vd_loop_turn(loop, 5, NULL), VD_OK);
}

Test(local, several_answers_and_questions)
{
    char byte[8];
    manner = TWICE;
    int fd = raw_client();
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(send(fd, "q", 1, 0), 1);
        turn_a_few();
        cr_assert_eq(recv(fd, byte, sizeof byte, 0), 1);
        cr_assert_eq(recv(fd, byte, sizeof byte, 0), 1);
        cr_assert_eq(recv(fd, byte, sizeof byte, 0), -1);
    }
    (void)close(fd);
    turn_a_few();
}

Test(local, at_most_32_clients)
{
    int fds[40], closed = 0;
    for (int i = 0; i < 40; i++) {
        fds[i] = raw_client();
        turn_a_few();
    }
    for (int i = 0; i < 40; i++) {
        char byte;
        closed += recv(fds[i], &byte, 1, MSG_DONTWAIT) == 0;
    }
    cr_assert_eq(closed, 8);
    for (int i = 0; i < 40; i++)
        (void)close(fds[i]);
    turn_a_few();
    int fd = raw_client();
    cr_assert_eq(send(fd, "q", 1, 0), 1);
    turn_a_few();
    cr_assert_eq(requests, 1, "there is room again");
    (void)close(fd);
}

static uint64_t fake_us;
static uint64_t fake_monotonic(void)
{
    return fake_us;
}
static int64_t fake_wall(void)
{
    return 0;
}
static const vd_clock_t fake_clock = {fake_monotonic, fake_wall};

Test(local, who_says_nothing_is_shown_out)
{
    char byte;
    fake_us = vd_monotonic_us();
    vd_clock_replace(&fake_clock);
    int fd = raw_client();
    turn_a_few();
    cr_assert_eq(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
    fake_us += 5100 * 1000;
    turn_a_few();
    cr_assert_eq(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
    (void)close(fd);
    vd_clock_replace(NULL);
}
