/* tests/unit/runtime/test_loop.c — descriptors, timers, signals, children, wake-ups and the
 * end-of-turn steps of a loop. */
#include "libcommon/base/clock.h"
#include "libcommon/runtime/loop.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static vd_loop_t *loop;

static void setup(void)
{
    cr_assert_eq(vd_loop_create(&loop, NULL), VD_OK);
}

static void teardown(void)
{
    vd_loop_destroy(&loop);
    cr_assert_null(loop);
    vd_loop_destroy(&loop);
}

TestSuite(loop, .init = setup, .fini = teardown, .timeout = 300);

static void turns(int count)
{
    for (int i = 0; i < count; i++)
        cr_assert_eq(vd_loop_turn(loop, 10, NULL), VD_OK);
}

typedef struct {
    vd_source_t *source, *other;
    int count;
    unsigned events;
} note_t;

static void on_fd(void *context, int fd, unsigned events)
{
    note_t *note = context;
    char byte;
    note->events |= events;
    if (events & VD_LOOP_READ && read(fd, &byte, 1) == 1)
        note->count++;
}

Test(loop, descriptors)
{
    int pair[2];
    note_t note = {0};
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    cr_assert_eq(vd_loop_add_fd(loop, pair[0], VD_LOOP_READ, on_fd, &note, &note.source, NULL),
                 VD_OK);
    turns(1);
    cr_assert_eq(note.count, 0);
    cr_assert_eq(write(pair[1], "ab", 2), 2);
    turns(3);
    cr_assert_eq(note.count, 2, "level-triggered: what is left is told again");
    cr_assert_eq(note.events, VD_LOOP_READ);
    vd_loop_set_events(note.source, VD_LOOP_READ | VD_LOOP_WRITE);
    turns(1);
    cr_assert(note.events & VD_LOOP_WRITE);
    (void)close(pair[1]);
    turns(1);
    cr_assert(note.events & VD_LOOP_ERROR);
    vd_loop_remove(&note.source);
    cr_assert_null(note.source);
    vd_loop_remove(&note.source);
    (void)close(pair[0]);
}

static void remove_other(void *context, int fd, unsigned events)
{
    note_t *note = context;
    (void)fd, (void)events;
    note->count++;
    vd_loop_remove(&note->other);
    vd_loop_remove(&note->source);
}

Test(loop, removed_in_a_handler_gets_nothing_more)
{
    int a[2], b[2];
    note_t note = {0};
    cr_assert_eq(pipe(a), 0);
    cr_assert_eq(pipe(b), 0);
    cr_assert_eq(write(a[1], "x", 1) + write(b[1], "x", 1), 2);
    cr_assert_eq(vd_loop_add_fd(loop, a[0], VD_LOOP_READ, remove_other, &note, &note.source, NULL),
                 VD_OK);
    cr_assert_eq(vd_loop_add_fd(loop, b[0], VD_LOOP_READ, remove_other, &note, &note.other, NULL),
                 VD_OK);
    turns(3);
    cr_assert_eq(note.count, 1);
    (void)close(a[0]), (void)close(a[1]), (void)close(b[0]), (void)close(b[1]);
}

Test(loop, bad_descriptor_is_refused)
{
    vd_source_t *source = NULL;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_neq(vd_loop_add_fd(loop, 900, VD_LOOP_READ, on_fd, NULL, &source, &err), VD_OK);
    cr_assert_null(source);
    cr_assert_neq(err.code, VD_OK);
}

/* ---- timers, under a clock of our own ---- */

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

static char order[64];
static size_t order_len;

static void mark(void *context)
{
    order[order_len++] = *(const char *)context;
}

Test(loop, timers_in_order)
{
    static const uint64_t due[] = {50, 10, 30, 20, 40, 10};
    static const char names[] = "eadbcA";
    vd_source_t *sources[6];
    fake_us = 1000000;
    vd_clock_replace(&fake_clock);
    for (int i = 0; i < 6; i++)
        cr_assert_eq(vd_loop_add_timer(loop, due[i], 0, mark, (void *)(uintptr_t)&names[i],
                                       &sources[i], NULL),
                     VD_OK);
    vd_loop_remove(&sources[4]); /* 40 ms: from the middle of the heap */
    for (int i = 0; i < 6; i++) {
        fake_us += 10 * 1000;
        cr_assert_eq(vd_loop_turn(loop, 0, NULL), VD_OK);
    }
    order[order_len] = '\0';
    cr_assert(strcmp(order, "aAbde") == 0 || strcmp(order, "Aabde") == 0, "%s", order);
    vd_clock_replace(NULL);
}

static void count_up(void *context)
{
    ((note_t *)context)->count++;
}

Test(loop, periods_and_setting_anew)
{
    note_t note = {0};
    fake_us = 1000000;
    vd_clock_replace(&fake_clock);
    cr_assert_eq(vd_loop_add_timer(loop, 5, 10, count_up, &note, &note.source, NULL), VD_OK);
    for (int i = 0; i < 50; i++) {
        fake_us += 1000;
        cr_assert_eq(vd_loop_turn(loop, 0, NULL), VD_OK);
    }
    cr_assert_eq(note.count, 5);
    fake_us += 1000 * 1000; /* asleep for a second: once, not a hundred times */
    turns(1);
    cr_assert_eq(note.count, 6);
    vd_loop_set_timer(note.source, 3, 0);
    fake_us += 3000;
    turns(1);
    fake_us += 90000;
    turns(1);
    cr_assert_eq(note.count, 7);
    vd_clock_replace(NULL);
}

static void again_now(void *context)
{
    note_t *note = context;
    note->count++;
    vd_loop_set_timer(note->source, 0, 0);
}

Test(loop, a_timer_for_now_waits_for_the_next_turn)
{
    note_t note = {0};
    cr_assert_eq(vd_loop_add_timer(loop, 0, 0, again_now, &note, &note.source, NULL), VD_OK);
    turns(3);
    cr_assert_eq(note.count, 3);
}

Test(loop, a_thousand_timers)
{
    static vd_source_t *sources[1000];
    note_t note = {0};
    fake_us = 1000000;
    vd_clock_replace(&fake_clock);
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(vd_loop_add_timer(loop, (uint64_t)(i * 7919 % 1000), 0, count_up, &note,
                                       &sources[i], NULL),
                     VD_OK);
    for (int i = 0; i < 1000; i += 3)
        vd_loop_remove(&sources[i]);
    fake_us += 499 * 1000;
    turns(1);
    int half = note.count;
    cr_assert(half > 250 && half < 420, "%d", half);
    fake_us += 600 * 1000;
    turns(1);
    cr_assert_eq(note.count, 666);
    vd_clock_replace(NULL);
}

/* ---- signals and children ---- */

static void on_signal(void *context, int signal_number)
{
    note_t *note = context;
    note->count++;
    note->events = (unsigned)signal_number;
}

Test(loop, signals)
{
    note_t note = {0};
    sigset_t now;
    cr_assert_eq(vd_loop_add_signal(loop, SIGUSR1, on_signal, &note, &note.source, NULL), VD_OK);
    cr_assert_eq(vd_loop_add_signal(loop, SIGUSR1, on_signal, &note, &note.other, NULL),
                 VD_ERR_EXISTS);
    cr_assert_eq(vd_loop_add_signal(loop, 999, on_signal, &note, &note.other, NULL),
                 VD_ERR_INVALID);
    (void)kill(getpid(), SIGUSR1);
    turns(1);
    cr_assert_eq(note.count, 1);
    cr_assert_eq(note.events, SIGUSR1);
    vd_loop_remove(&note.source);
    (void)pthread_sigmask(SIG_SETMASK, NULL, &now);
    cr_assert_eq(sigismember(&now, SIGUSR1), 0, "the mask is as before");
}

typedef struct {
    int count, how, code;
    pid_t pid;
} end_t;

static void on_end(void *context, pid_t pid, int how, int code)
{
    end_t *end = context;
    *end = (end_t){end->count + 1, how, code, pid};
}

static pid_t child(int exit_code)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (exit_code >= 0)
            _exit(exit_code);
        for (;;)
            (void)pause();
    }
    return pid;
}

Test(loop, children)
{
    end_t end = {0};
    vd_source_t *source = NULL;
    pid_t pid = child(7);
    cr_assert_eq(vd_loop_add_child(loop, pid, on_end, &end, &source, NULL), VD_OK);
    for (int i = 0; i < 100 && end.count == 0; i++)
        turns(1);
    cr_assert_eq(end.pid, pid);
    cr_assert_eq(end.how, CLD_EXITED);
    cr_assert_eq(end.code, 7);
    cr_assert_eq(waitpid(pid, NULL, WNOHANG), -1, "it is reaped");
    cr_assert_eq(vd_loop_child_signal(source, SIGTERM, NULL), VD_ERR_CLOSED);
    turns(2);
    cr_assert_eq(end.count, 1);
    vd_loop_remove(&source);

    pid = child(-1);
    end.count = 0;
    cr_assert_eq(vd_loop_add_child(loop, pid, on_end, &end, &source, NULL), VD_OK);
    turns(1);
    cr_assert_eq(end.count, 0);
    cr_assert_eq(vd_loop_child_signal(source, SIGKILL, NULL), VD_OK);
    for (int i = 0; i < 100 && end.count == 0; i++)
        turns(1);
    cr_assert_eq(end.how, CLD_KILLED);
    cr_assert_eq(end.code, SIGKILL);
    vd_loop_remove(&source);
}

/* ---- end of turn, wake, post ---- */

static bool step_mark(void *context)
{
    mark(context);
    return false;
}

Test(loop, steps_run_in_order)
{
    vd_source_t *a, *b, *c;
    cr_assert_eq(vd_loop_add_end_of_turn(loop, 20, step_mark, (void *)(uintptr_t) "b", &b, NULL),
                 VD_OK);
    cr_assert_eq(vd_loop_add_end_of_turn(loop, 30, step_mark, (void *)(uintptr_t) "c", &c, NULL),
                 VD_OK);
    cr_assert_eq(vd_loop_add_end_of_turn(loop, 10, step_mark, (void *)(uintptr_t) "a", &a, NULL),
                 VD_OK);
    turns(1);
    vd_loop_remove(&b);
    turns(1);
    order[order_len] = '\0';
    cr_assert_str_eq(order, "abcac");
}

static bool want_more(void *context)
{
    note_t *note = context;
    return ++note->count < 5;
}

Test(loop, a_step_that_wants_more_gets_it_without_sleep)
{
    note_t note = {0};
    cr_assert_eq(vd_loop_add_end_of_turn(loop, 1, want_more, &note, &note.source, NULL), VD_OK);
    uint64_t before = vd_monotonic_ms();
    for (int i = 0; i < 5; i++)
        cr_assert_eq(vd_loop_turn(loop, i == 0 ? 0 : 60000, NULL), VD_OK);
    cr_assert_lt(vd_monotonic_ms() - before, 30000);
    cr_assert_eq(note.count, 5);
}

Test(loop, steps_are_bounded)
{
    vd_source_t *source;
    int rc = VD_OK, count = 0;
    while ((rc = vd_loop_add_end_of_turn(loop, 1, step_mark, (void *)(uintptr_t) "a", &source,
                                         NULL)) == VD_OK)
        cr_assert_lt(++count, 1000);
    cr_assert_eq(rc, VD_ERR_FULL);
}

enum { POSTS = 20000, POSTERS = 4 };
static atomic_int posted;

static void on_post(void *context)
{
    (void)context;
    if (atomic_fetch_add(&posted, 1) + 1 == POSTS * POSTERS)
        vd_loop_stop(loop);
}

static void *poster(void *context)
{
    (void)context;
    for (int i = 0; i < POSTS; i++)
        vd_loop_post(loop, on_post, NULL);
    return NULL;
}

Test(loop, posts_from_threads_are_never_lost)
{
    pthread_t threads[POSTERS];
    for (int i = 0; i < POSTERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, poster, NULL), 0);
    cr_assert_eq(vd_loop_run(loop, NULL), VD_OK);
    for (int i = 0; i < POSTERS; i++)
        (void)pthread_join(threads[i], NULL);
    cr_assert_eq(atomic_load(&posted), POSTS * POSTERS);
}

static atomic_int pings, pongs;

static bool answer_ping(void *context)
{
    (void)context;
    atomic_store(&pongs, atomic_load(&pings));
    return false;
}

static void *pinger(void *context)
{
    (void)context;
    for (int i = 1; i <= 20000; i++) {
        atomic_store(&pings, i);
        vd_loop_wake(loop);
        while (atomic_load(&pongs) < i)
            ;
    }
    vd_loop_stop(loop);
    return NULL;
}

/* A lost wake would hang here (and end by the suite's time limit). */
Test(loop, no_wake_is_lost)
{
    pthread_t thread;
    vd_source_t *source;
    cr_assert_eq(vd_loop_add_end_of_turn(loop, 1, answer_ping, NULL, &source, NULL), VD_OK);
    cr_assert_eq(pthread_create(&thread, NULL, pinger, NULL), 0);
    cr_assert_eq(vd_loop_run(loop, NULL), VD_OK);
    (void)pthread_join(thread, NULL);
    cr_assert_eq(atomic_load(&pongs), 20000);
}

static void slow(void *context)
{
    (void)context;
    (void)usleep(30 * 1000);
}

Test(loop, longest_turn)
{
    vd_source_t *source;
    cr_assert_eq(vd_loop_add_timer(loop, 0, 0, slow, NULL, &source, NULL), VD_OK);
    turns(2);
    uint64_t longest = vd_loop_take_longest_turn_ms(loop);
    cr_assert(longest >= 29 && longest < 1000, "%llu", (unsigned long long)longest);
    cr_assert_lt(vd_loop_take_longest_turn_ms(loop), 29);
}
