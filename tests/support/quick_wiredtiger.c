/* tests/support/quick_wiredtiger.c — unit tests open databases without WiredTiger's calibration.
 *
 * WiredTiger 3.2 begins, once per process, by counting to 300 million to learn how fast the
 * processor's clock runs: most of a second. Criterion starts a process for each test, and that was
 * most of what the tests of storage took. It calls __wt_once and __wt_epoch as any other program
 * would, by name: ours stand before its own. The calibration is the last thing it does there, and
 * begins with __wt_epoch: ours leaves then. What is left is what WiredTiger falls back to where no
 * good reading comes, its clock by clock_gettime. Another version that begins in another way does
 * what it does: nothing here counts on it. Programs that users get are not linked with this file.
 */
#include "libcommon/base/assert.h"

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

typedef void epoch_t(void *session, struct timespec *ret_now);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void (*first_steps)(void);
static epoch_t *real_epoch;
static _Thread_local bool in_first_steps;
static jmp_buf end_of_first_steps;

int __wt_once(void (*init)(void));
epoch_t __wt_epoch;

static void run(void)
{
    real_epoch = (epoch_t *)dlsym(RTLD_NEXT, "__wt_epoch");
    VD_ASSERT(real_epoch != NULL);
    in_first_steps = true;
    if (setjmp(end_of_first_steps) == 0)
        first_steps();
    in_first_steps = false;
}

/* Only one routine is ever given to it. */
int __wt_once(void (*init)(void))
{
    first_steps = init;
    return pthread_once(&once, run);
}

void __wt_epoch(void *session, struct timespec *ret_now)
{
    if (in_first_steps)
        longjmp(end_of_first_steps, 1);
    real_epoch(session, ret_now);
}
