/* tests/unit/runtime/test_worker.c — run on a worker, done on the loop; the full queue; the end
 * with work still queued. */
#include "libcommon/runtime/worker.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static vd_loop_t *loop;
static vd_worker_t *worker;
static atomic_int ran, finished;
static pthread_t main_thread;
static atomic_bool gate_open;

static void setup(void)
{
    main_thread = pthread_self();
    cr_assert_eq(vd_loop_create(&loop, NULL), VD_OK);
}

static void teardown(void)
{
    vd_worker_destroy(&worker);
    vd_worker_destroy(&worker);
    vd_loop_destroy(&loop);
}

TestSuite(worker, .init = setup, .fini = teardown, .timeout = 300);

static void run(void *context)
{
    (void)context;
    cr_assert_not(pthread_equal(pthread_self(), main_thread));
    atomic_fetch_add(&ran, 1);
}

static void done(void *context)
{
    (void)context;
    cr_assert(pthread_equal(pthread_self(), main_thread));
    atomic_fetch_add(&finished, 1);
}

static void wait_at_gate(void *context)
{
    run(context);
    while (!atomic_load(&gate_open))
        (void)usleep(1000);
}

Test(worker, runs_there_ends_here)
{
    cr_assert_eq(vd_worker_create("test", 3, 1000, &worker, NULL), VD_OK);
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(vd_worker_put(worker, loop, run, i % 2 ? done : NULL, NULL, NULL), VD_OK);
    while (atomic_load(&finished) < 500 || atomic_load(&ran) < 1000)
        cr_assert_eq(vd_loop_turn(loop, 100, NULL), VD_OK);
}

Test(worker, the_queue_is_bounded)
{
    cr_assert_eq(vd_worker_create("a-name-that-is-far-too-long", 1, 2, &worker, NULL), VD_OK);
    cr_assert_eq(vd_worker_put(worker, loop, wait_at_gate, done, NULL, NULL), VD_OK);
    while (atomic_load(&ran) == 0)
        (void)usleep(1000);
    cr_assert_eq(vd_worker_put(worker, loop, run, done, NULL, NULL), VD_OK);
    cr_assert_eq(vd_worker_put(worker, loop, run, done, NULL, NULL), VD_OK);
    cr_assert_eq(vd_worker_put(worker, loop, run, done, NULL, NULL), VD_ERR_FULL);
    atomic_store(&gate_open, true);
    while (atomic_load(&finished) < 3)
        cr_assert_eq(vd_loop_turn(loop, 100, NULL), VD_OK);
}

static void *open_gate(void *context)
{
    (void)context;
    (void)usleep(50 * 1000);
    atomic_store(&gate_open, true);
    return NULL;
}

Test(worker, destroy_waits_for_what_runs)
{
    pthread_t opener;
    cr_assert_eq(vd_worker_create("test", 1, 10, &worker, NULL), VD_OK);
    cr_assert_eq(vd_worker_put(worker, loop, wait_at_gate, done, NULL, NULL), VD_OK);
    cr_assert_eq(vd_worker_put(worker, loop, run, done, NULL, NULL), VD_OK);
    while (atomic_load(&ran) == 0)
        (void)usleep(1000);
    cr_assert_eq(pthread_create(&opener, NULL, open_gate, NULL), 0);
    vd_worker_destroy(&worker);
    cr_assert(atomic_load(&gate_open));
    cr_assert_eq(atomic_load(&ran), 1, "what was queued is dropped");
    cr_assert_eq(vd_loop_turn(loop, 0, NULL), VD_OK);
    cr_assert_eq(atomic_load(&finished), 0);
    (void)pthread_join(opener, NULL);
}
