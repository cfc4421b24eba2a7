/* veddb-storaged/streams/waits.c — see waits.h. */
#include "veddb-storaged/streams/waits.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/replication/replication.h"

#include <signal.h>
#include <time.h>

#define PAUSE_US     1000
#define PAUSE_EACH   10 /* for each that was woken */
#define PAUSE_MAX_US 20000

struct stor_waits {
    stor_storage_t *storage;
    void (*ready)(stor_request_t *first, void *context);
    void *context;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    stor_request_t *first; /* under lock */
    bool moved, stop;      /* under lock */
    atomic_uint_fast64_t count;
};

static void rest_us(uint64_t us)
{
    struct timespec pause = {.tv_nsec = (long)(us * 1000)};
    (void)nanosleep(&pause, NULL); /* waking early is fine */
}

/* Under the lock: until something moved, or the next look is due. */
static void wait_for_cause(stor_waits_t *waits)
{
    while (!waits->moved && !waits->stop) {
        if (waits->first == NULL) {
            (void)pthread_cond_wait(&waits->wake, &waits->lock);
            continue;
        }
        uint64_t until = vd_monotonic_us() + STOR_WAITS_LOOK_MS * 1000;
        for (const stor_request_t *r = waits->first; r != NULL; r = r->next)
            until = r->await_until_us < until ? r->await_until_us : until;
        struct timespec at = {.tv_sec = (time_t)(until / 1000000),
                              .tv_nsec = (long)(until % 1000000) * 1000};
        if (pthread_cond_timedwait(&waits->wake, &waits->lock, &at) != 0)
            return;
    }
}

/* Under the lock: takes out those whose wait is over. */
static stor_request_t *collect(stor_waits_t *waits, uint64_t *ret_count)
{
    stor_storage_t *storage = waits->storage;
    uint64_t now = vd_monotonic_us(), majority = stor_replication_majority(storage);
    uint64_t visible = stor_engine_visible(storage->engine);
    bool all = waits->stop || atomic_load(&storage->draining);
    stor_request_t *ready = NULL, **last = &ready, **at = &waits->first;
    *ret_count = 0;
    waits->moved = false;
    while (*at != NULL) {
        stor_request_t *request = *at;
        if (!all && (request->await_visible ? visible : majority) <= request->await_seen &&
            now < request->await_until_us &&
            atomic_load_explicit(&request->killed, memory_order_relaxed) == 0) {
            at = &request->next;
            continue;
        }
        *at = request->next;
        request->next = NULL;
        *last = request;
        last = &request->next;
        (*ret_count)++;
    }
    atomic_fetch_sub(&waits->count, *ret_count);
    return ready;
}

static void *waits_run(void *context)
{
    stor_waits_t *waits = context;
    bool stop = false;
    sigset_t all;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, NULL); /* the main loop takes them */
    while (!stop) {
        uint64_t woken;
        (void)pthread_mutex_lock(&waits->lock);
        wait_for_cause(waits);
        stop = waits->stop;
        stor_request_t *ready = collect(waits, &woken);
        (void)pthread_mutex_unlock(&waits->lock);
        if (ready != NULL)
            waits->ready(ready, waits->context);
        uint64_t pause = PAUSE_US + PAUSE_EACH * woken;
        if (woken > 0 && !stop)
            rest_us(pause < PAUSE_MAX_US ? pause : PAUSE_MAX_US);
    }
    return NULL;
}

int stor_waits_start(stor_storage_t *storage, void (*ready)(stor_request_t *first, void *context),
                     void *context, stor_waits_t **ret_waits, vd_error_t *err)
{
    stor_waits_t *waits = vd_xalloc(sizeof *waits);
    pthread_condattr_t attr;
    waits->storage = storage;
    waits->ready = ready;
    waits->context = context;
    (void)pthread_mutex_init(&waits->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&waits->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    if (pthread_create(&waits->thread, NULL, waits_run, waits) != 0) {
        vd_free(waits);
        return vd_error_set(err, VD_ERR_INTERNAL, "the streams' thread could not be started");
    }
    (void)pthread_setname_np(waits->thread, "streams");
    *ret_waits = waits;
    return VD_OK;
}

void stor_waits_stop(stor_waits_t **waits_p)
{
    stor_waits_t *waits = *waits_p;
    if (waits == NULL)
        return;
    (void)pthread_mutex_lock(&waits->lock);
    waits->stop = true;
    (void)pthread_cond_signal(&waits->wake);
    (void)pthread_mutex_unlock(&waits->lock);
    (void)pthread_join(waits->thread, NULL);
    (void)pthread_mutex_destroy(&waits->lock);
    (void)pthread_cond_destroy(&waits->wake);
    vd_free(waits);
    *waits_p = NULL;
}

void stor_waits_park(stor_waits_t *waits, stor_request_t *request)
{
    (void)pthread_mutex_lock(&waits->lock);
    request->next = waits->first;
    waits->first = request;
    atomic_fetch_add(&waits->count, 1);
    /* What moved since the stream looked, before it was counted, was told to nobody. */
    waits->moved |=
        (request->await_visible ? stor_engine_visible(waits->storage->engine)
                                : stor_replication_majority(waits->storage)) > request->await_seen;
    if (waits->moved || request->next == NULL)
        (void)pthread_cond_signal(&waits->wake);
    (void)pthread_mutex_unlock(&waits->lock);
}

void stor_waits_moved(stor_waits_t *waits)
{
    if (waits == NULL || atomic_load(&waits->count) == 0)
        return;
    (void)pthread_mutex_lock(&waits->lock);
    waits->moved = true;
    (void)pthread_cond_signal(&waits->wake);
    (void)pthread_mutex_unlock(&waits->lock);
}
