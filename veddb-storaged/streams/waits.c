/* veddb-storaged/streams/waits.c — see waits.h.
 *
 * What waits belongs to the thread; others only leave requests at its door (`parked`), under the
 * lock. A stream that the watch does not take is blind: whatever moves wakes it. */
#include "veddb-storaged/streams/waits.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/list.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/streams/watch.h"

#include <time.h>

#define PAUSE_US     1000
#define PAUSE_EACH   10 /* for each that was woken */
#define PAUSE_MAX_US 20000
#define KEEP_US      5000000 /* so long the watch goes on when nobody waits */

typedef struct {
    vd_node_t node;
    stor_watcher_t watcher; /* place NULL: blind */
    stor_request_t *request;
} waiter_t;

struct stor_waits {
    stor_storage_t *storage;
    void (*ready)(stor_request_t *first, void *context);
    void *context;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    stor_request_t *parked; /* under lock: not yet taken */
    bool moved, stop;       /* under lock */
    bool pressing;          /* under lock: one of the parked can't wait for the next pass */
    bool idle;              /* under lock: the thread has nobody to look after */
    uint64_t until_us;      /* under lock: it sleeps so long; 0: it is awake */
    atomic_uint_fast64_t count;

    /* the thread's */
    stor_session_t *session;
    stor_watch_t *watch;
    vd_list_t watched, blind;
    uint64_t due_us, looked_us, used_us;
    bool more; /* the watch has not read all */
    stor_request_t *first_ready, **last_ready;
    uint64_t ready_count;
};

/* ---- one that waits ---- */

static void give_back(stor_waits_t *waits, waiter_t *waiter)
{
    stor_request_t *request = waiter->request;
    if (waiter->watcher.place != NULL)
        stor_watch_remove(waits->watch, &waiter->watcher);
    vd_list_remove(&waiter->node);
    vd_free(waiter);
    request->next = NULL;
    *waits->last_ready = request;
    waits->last_ready = &request->next;
    waits->ready_count++;
    if (request->await_ready == NULL)
        atomic_fetch_sub(&waits->storage->streams.parked, 1);
}

static void woken(stor_watcher_t *watcher, void *context)
{
    give_back(context, VD_CONTAINER_OF(watcher, waiter_t, watcher));
}

/* The watch is of no use now: all are woken by whatever moves, and it begins anew with the next. */
static void watch_failed(stor_waits_t *waits, const vd_error_t *err)
{
    VD_DEBUG("the journal can't be watched", "error=%d", -err->code);
    VD_LIST_EACH(&waits->watched, item)
    {
        waiter_t *waiter = VD_CONTAINER_OF(item, waiter_t, node);
        stor_watch_remove(waits->watch, &waiter->watcher);
        vd_list_remove(item);
        vd_list_push_back(&waits->blind, item);
    }
    stor_watch_end(waits->watch);
    waits->more = false;
}

/* How far what it waits for has come. */
static uint64_t reached(const stor_waits_t *waits, const stor_request_t *request)
{
    return request->await_stream != NULL ? stor_replication_majority(waits->storage)
                                         : stor_engine_visible(waits->storage->engine);
}

static bool has_cause(const stor_waits_t *waits, const stor_request_t *request)
{
    return request->await_ready != NULL ? request->await_ready(request)
                                        : reached(waits, request) > request->await_seen;
}

static void take(stor_waits_t *waits, stor_request_t *request)
{
    vd_error_t err = VD_ERROR_INIT;
    waiter_t *waiter = vd_xalloc(sizeof *waiter);
    waiter->request = request;
    if (request->await_until_us < waits->due_us)
        waits->due_us = request->await_until_us;
    if (request->await_stream == NULL) { /* tailable, or no cursor at all */
        vd_list_push_back(&waits->blind, &waiter->node);
        return;
    }
    if (stor_watch_begin(waits->watch, waits->session, stor_replication_majority(waits->storage),
                         &err) != VD_OK)
        watch_failed(waits, &err);
    bool taken =
        stor_watch_add(waits->watch, &waiter->watcher, request->await_stream, request->await_seen);
    vd_list_push_back(taken ? &waits->watched : &waits->blind, &waiter->node);
}

static bool anybody(const stor_waits_t *waits)
{
    return !vd_list_empty(&waits->watched) || !vd_list_empty(&waits->blind);
}

/* ---- a pass ---- */

/* When to wake although nothing moved; UINT64_MAX: never. */
static uint64_t next_look_us(const stor_waits_t *waits)
{
    uint64_t look = waits->looked_us + STOR_WAITS_LOOK_MS * 1000;
    if (anybody(waits))
        return waits->due_us < look ? waits->due_us : look;
    return stor_watch_active(waits->watch) ? waits->used_us + KEEP_US : UINT64_MAX;
}

/* Under the lock: until something moved or was parked that is pressing, or a look is due. */
static void wait_for_cause(stor_waits_t *waits)
{
    waits->until_us = next_look_us(waits);
    waits->pressing = waits->parked != NULL;
    waits->idle = !anybody(waits);
    while (!waits->moved && !waits->stop && !waits->more && !waits->pressing &&
           vd_monotonic_us() < waits->until_us) {
        if (waits->until_us == UINT64_MAX) {
            (void)pthread_cond_wait(&waits->wake, &waits->lock);
            continue;
        }
        struct timespec at = {.tv_sec = (time_t)(waits->until_us / 1000000),
                              .tv_nsec = (long)(waits->until_us % 1000000) * 1000};
        (void)pthread_cond_timedwait(&waits->wake, &waits->lock, &at); /* looked at by the loop */
    }
    waits->moved = false;
    waits->until_us = 0;
}

static void read_on(stor_waits_t *waits, uint64_t majority)
{
    vd_error_t err = VD_ERROR_INIT;
    waits->more = false;
    if (!vd_list_empty(&waits->watched) &&
        stor_watch_read(waits->watch, majority, woken, waits, &waits->more, &err) != VD_OK)
        watch_failed(waits, &err);
    VD_LIST_EACH(&waits->blind, item)
    {
        waiter_t *waiter = VD_CONTAINER_OF(item, waiter_t, node);
        if (has_cause(waits, waiter->request))
            give_back(waits, waiter);
    }
    atomic_fetch_add_explicit(&waits->storage->streams.wakes, waits->ready_count,
                              memory_order_relaxed);
}

static void list_look(stor_waits_t *waits, vd_list_t *list, uint64_t now, bool all)
{
    VD_LIST_EACH(list, item)
    {
        waiter_t *waiter = VD_CONTAINER_OF(item, waiter_t, node);
        const stor_request_t *request = waiter->request;
        if (all || now >= request->await_until_us ||
            atomic_load_explicit(&request->killed, memory_order_relaxed) != 0)
            give_back(waits, waiter);
        else if (request->await_until_us < waits->due_us)
            waits->due_us = request->await_until_us;
    }
}

/* Those whose time is over, or who were killed. */
static void look(stor_waits_t *waits, bool all)
{
    uint64_t now = vd_monotonic_us(), soon = now + STOR_WAITS_DUE_MS * 1000;
    if (!all && now < waits->due_us && now < waits->looked_us + STOR_WAITS_LOOK_MS * 1000)
        return;
    waits->looked_us = now;
    waits->due_us = UINT64_MAX;
    list_look(waits, &waits->watched, now, all);
    list_look(waits, &waits->blind, now, all);
    if (waits->due_us < soon) /* many that end one after the other are looked at together */
        waits->due_us = soon;
}

static void forget(stor_waits_t *waits)
{
    uint64_t now = vd_monotonic_us();
    if (anybody(waits))
        waits->used_us = now;
    else if (stor_watch_active(waits->watch) && now >= waits->used_us + KEEP_US)
        stor_watch_end(waits->watch);
}

/* What was found goes to the workers. */
static void hand_over(stor_waits_t *waits)
{
    uint64_t count = waits->ready_count;
    if (count == 0)
        return;
    atomic_fetch_sub(&waits->count, count);
    waits->ready(waits->first_ready, waits->context);
}

static void rest(uint64_t woken_count)
{
    uint64_t pause = PAUSE_US + PAUSE_EACH * woken_count;
    struct timespec at = {.tv_nsec = (long)(pause < PAUSE_MAX_US ? pause : PAUSE_MAX_US) * 1000};
    (void)nanosleep(&at, NULL); /* waking early is fine */
}

/* False: it was the last. */
static bool pass(stor_waits_t *waits)
{
    (void)pthread_mutex_lock(&waits->lock);
    wait_for_cause(waits);
    bool stop = waits->stop;
    stor_request_t *parked = waits->parked;
    waits->parked = NULL;
    (void)pthread_mutex_unlock(&waits->lock);

    waits->first_ready = NULL;
    waits->last_ready = &waits->first_ready;
    waits->ready_count = 0;
    for (stor_request_t *next; parked != NULL; parked = next) {
        next = parked->next;
        take(waits, parked);
    }
    read_on(waits, stor_replication_majority(waits->storage));
    look(waits, stop || atomic_load(&waits->storage->draining));
    forget(waits);
    hand_over(waits);
    if (!stop && anybody(waits) && !waits->more)
        rest(waits->ready_count);
    return !stop;
}

static void *waits_run(void *context)
{
    while (pass(context))
        continue;
    return NULL;
}

/* ---- for others ---- */

int stor_waits_start(stor_storage_t *storage, void (*ready)(stor_request_t *first, void *context),
                     void *context, stor_waits_t **ret_waits, vd_error_t *err)
{
    stor_waits_t *waits = vd_xalloc(sizeof *waits);
    pthread_condattr_t attr;
    waits->storage = storage;
    waits->ready = ready;
    waits->context = context;
    waits->due_us = UINT64_MAX;
    vd_list_init(&waits->watched);
    vd_list_init(&waits->blind);
    (void)pthread_mutex_init(&waits->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&waits->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    waits->watch = stor_watch_create(storage);
    int rc = stor_session_open(storage->engine, &waits->session, err);
    if (rc == VD_OK && vd_thread_start(&waits->thread, waits_run, waits) != 0)
        rc = vd_error_set(err, VD_ERR_INTERNAL, "the streams' thread could not be started");
    if (rc != VD_OK) {
        stor_waits_destroy(&waits);
        return rc;
    }
    waits->started = true;
    (void)pthread_setname_np(waits->thread, "streams");
    *ret_waits = waits;
    return VD_OK;
}

void stor_waits_stop(stor_waits_t *waits)
{
    if (waits == NULL)
        return;
    if (waits->started) {
        (void)pthread_mutex_lock(&waits->lock);
        waits->stop = true;
        (void)pthread_cond_signal(&waits->wake);
        (void)pthread_mutex_unlock(&waits->lock);
        (void)pthread_join(waits->thread, NULL);
    }
    waits->started = false;
    stor_watch_destroy(&waits->watch);
    stor_session_close(&waits->session);
}

void stor_waits_destroy(stor_waits_t **waits_p)
{
    stor_waits_t *waits = *waits_p;
    if (waits == NULL)
        return;
    stor_waits_stop(waits);
    (void)pthread_mutex_destroy(&waits->lock);
    (void)pthread_cond_destroy(&waits->wake);
    vd_free(waits);
    *waits_p = NULL;
}

void stor_waits_park(stor_waits_t *waits, stor_request_t *request)
{
    (void)pthread_mutex_lock(&waits->lock);
    request->next = waits->parked;
    waits->parked = request;
    atomic_fetch_add(&waits->count, 1);
    if (request->await_ready == NULL)
        atomic_fetch_add(&waits->storage->streams.parked, 1);
    /* What moved since the stream looked, before it was counted, was told to nobody. */
    waits->moved |= has_cause(waits, request);
    waits->pressing |= waits->idle || request->await_until_us < waits->until_us;
    if (waits->moved || waits->pressing)
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
