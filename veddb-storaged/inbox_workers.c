/* veddb-storaged/inbox_workers.c — the inbox's workers: they take requests from their lane, run
 * them, and park them until what they depend on is met. */
#include "libcommon/base/clock.h"
#include "libcommon/runtime/thread.h"
#include "veddb-storaged/inbox_private.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/streams/waits.h"

#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#define LONG_NICE 5 /* quick operations go first when cores are short */

static void idle_wait(stor_inbox_t *inbox, stor_inbox_worker_t *worker)
{
    worker->idle = true;
    worker->next_idle = worker->lane->idle;
    worker->lane->idle = worker;
    while (worker->idle)
        (void)pthread_cond_wait(&worker->wake, &inbox->lock);
}

/* The next request of the worker's lane, or NULL when the inbox stops. A worker that finds more
 * work than its own wakes the next one. */
static stor_request_t *work_take(stor_inbox_t *inbox, stor_inbox_worker_t *worker)
{
    stor_lane_t *lane = worker->lane;
    (void)pthread_mutex_lock(&inbox->lock);
    while (lane->queue.first == NULL && !inbox->stopping) {
        stor_lane_note_next(lane);
        idle_wait(inbox, worker);
    }
    stor_request_t *request = inbox->stopping ? NULL : stor_queue_pop(&lane->queue);
    stor_lane_note_next(lane);
    lane->running += request != NULL;
    stor_inbox_worker_t *next =
        lane->queue.count >= lane->wake_depth ? stor_lane_idle_take(lane) : NULL;
    (void)pthread_mutex_unlock(&inbox->lock);
    if (next != NULL)
        (void)pthread_cond_signal(&next->wake);
    return request;
}

static void work_ended(stor_inbox_t *inbox, stor_lane_t *lane)
{
    (void)pthread_mutex_lock(&inbox->lock);
    lane->running--;
    (void)pthread_mutex_unlock(&inbox->lock);
}

void stor_inbox_done_push(stor_inbox_t *inbox, stor_request_t *first, stor_request_t *last)
{
    stor_request_t *head = atomic_load_explicit(&inbox->done, memory_order_relaxed);
    do {
        last->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&inbox->done, &head, first,
                                                    memory_order_release, memory_order_relaxed));
    if (head == NULL)
        vd_loop_wake(inbox->loop);
}

void stor_inbox_reply_encode(stor_request_t *request)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t head;
    vdp_envelope_t envelope = {.id = VDP_OPERATION_REPLY,
                               .request_id = request->envelope.request_id};
    vdp_operation_reply_t reply = {.status = request->status,
                                   .flags = request->reply_flags,
                                   .operation_time = request->operation_time,
                                   .cursor_id = request->cursor_id,
                                   .cursor_ns = request->cursor_ns,
                                   .resume = request->resume,
                                   .examined =
                                       request->documents_examined + request->keys_examined};
    if (request->status == VD_OK && request->seen.slot != 0) {
        reply.version_slot = request->seen.slot;
        reply.version_epoch = request->seen.epoch;
        reply.version = request->seen.version;
    }
    vd_buf_init(&head, 16 * 1024);
    int rc = vdp_encode(&head, &envelope, &vdp_operation_reply, &reply, VD_SLICE_NULL, &err);
    VD_ASSERT(rc == VD_OK); /* its strings are bounded by the message that came */
    request->reply_head = vd_arena_copy_slice(request->arena, vd_buf_slice(&head));
    vd_buf_done(&head);
}

/* Under the lock. */
static void lane_push(stor_lane_t *lane, stor_request_t *request)
{
    stor_queue_push(&lane->queue, request);
    stor_lane_note_more(lane);
    stor_inbox_worker_t *worker = stor_lane_idle_take(lane);
    if (worker != NULL) /* under the lock: stor_inbox_workers_stop ends the condition behind it */
        (void)pthread_cond_signal(&worker->wake);
}

/* It goes on where its lane's queue ends, as if it came now. */
static void run_again(stor_inbox_t *inbox, stor_request_t *request)
{
    request->queued_us = vd_monotonic_us();
    (void)pthread_mutex_lock(&inbox->lock);
    lane_push(&inbox->lanes[request->slow_lane ? STOR_LANE_LONG : STOR_LANE_QUICK], request);
    (void)pthread_mutex_unlock(&inbox->lock);
}

void stor_inbox_concern_met(stor_inbox_t *inbox, stor_request_t *list)
{
    stor_request_t *first = NULL, *last = NULL;
    while (list != NULL) {
        stor_request_t *request = list;
        list = list->next;
        if (request->wait.run_again) {
            run_again(inbox, request);
            continue;
        }
        if (request->reply_head.len == 0)
            stor_inbox_reply_encode(request);
        request->next = first;
        first = request;
        if (last == NULL)
            last = request;
    }
    if (first != NULL)
        stor_inbox_done_push(inbox, first, last);
}

/* Durable, or not run yet: what is left is other members' or replicad's. */
static void concern(stor_inbox_t *inbox, stor_request_t *request)
{
    request->next = NULL;
    if (stor_positions_wait(inbox->storage->replication->positions, request))
        stor_inbox_concern_met(inbox, request);
}

/* The answer is there: it leaves when all that it depends on is on disk. */
static void park(stor_inbox_t *inbox, stor_request_t *request)
{
    if (request->wait.kind == STOR_WAIT_TIME || request->wait.kind == STOR_WAIT_ANSWER) {
        concern(inbox, request);
        return;
    }
    stor_inbox_reply_encode(request);
    atomic_fetch_add_explicit(&inbox->parked, 1, memory_order_relaxed);
    uint64_t depends_on = request->flush_all ? UINT64_MAX : request->depends_on;
    if (stor_engine_flush_wait(inbox->storage->engine, depends_on, &request->flush)) {
        if (VD_UNLIKELY(request->wait.kind != STOR_WAIT_NOTHING))
            concern(inbox, request);
        else
            stor_inbox_done_push(inbox, request, request);
        atomic_fetch_sub_explicit(&inbox->parked, 1, memory_order_release);
    }
}

void stor_inbox_released(stor_flush_waiter_t *list, void *context)
{
    stor_storage_t *storage = context;
    stor_inbox_t *inbox = storage->inbox;
    stor_request_t *first = NULL, *last = NULL;
    uint64_t count = 0;
    while (list != NULL) {
        stor_request_t *request = (stor_request_t *)(void *)list; /* its first member */
        list = list->next;
        count++;
        if (VD_UNLIKELY(request->wait.kind != STOR_WAIT_NOTHING)) {
            concern(inbox, request);
            continue;
        }
        request->next = first;
        first = request;
        if (last == NULL)
            last = request;
    }
    if (count == 0)
        return;
    /* Pushed before it is counted: the inbox may end once nothing is parked. */
    if (first != NULL)
        stor_inbox_done_push(inbox, first, last);
    stor_waits_moved(storage->waits);
    atomic_fetch_sub_explicit(&inbox->parked, count, memory_order_release);
}

static void *worker_run(void *context)
{
    stor_inbox_worker_t *worker = context;
    stor_inbox_t *inbox = worker->inbox;
    stor_request_t *request;
    if (worker->lane == &inbox->lanes[STOR_LANE_LONG])
        (void)setpriority(PRIO_PROCESS, (id_t)gettid(), LONG_NICE); /* refused: it is a wish */
    while ((request = work_take(inbox, worker)) != NULL) {
        if (worker->slot != NULL)
            vd_daemon_beat(worker->slot, true);
        request->slot = worker->slot;
        request->may_await = !atomic_load(&inbox->storage->draining);
        stor_request_run(request, worker->session);
        request->slot = NULL;
        work_ended(inbox, worker->lane);
        if (request->awaiting)
            stor_waits_park(inbox->storage->waits, request);
        else
            park(inbox, request);
        if (worker->slot != NULL)
            vd_daemon_beat(worker->slot, false);
    }
    return NULL;
}

void stor_inbox_await_over(stor_request_t *first, void *context)
{
    stor_inbox_t *inbox = context;
    stor_lane_t *lane = &inbox->lanes[STOR_LANE_QUICK];
    uint64_t now_us = vd_monotonic_us();
    (void)pthread_mutex_lock(&inbox->lock);
    while (first != NULL) {
        stor_request_t *next = first->next;
        first->queued_us = now_us;
        if (first->await_ready != NULL)
            lane_push(&inbox->lanes[first->slow_lane ? STOR_LANE_LONG : STOR_LANE_QUICK], first);
        else
            stor_queue_push(&lane->queue, first);
        first = next;
    }
    stor_lane_note_more(lane);
    stor_inbox_worker_t *worker = lane->queue.first == NULL ? NULL : stor_lane_idle_take(lane);
    if (worker != NULL) /* under the lock: stor_inbox_workers_stop ends the condition behind it */
        (void)pthread_cond_signal(&worker->wake);
    (void)pthread_mutex_unlock(&inbox->lock);
}

/* ---- life ---- */

int stor_inbox_worker_start(stor_inbox_t *inbox, uint32_t i, vd_error_t *err)
{
    stor_inbox_worker_t *worker = &inbox->workers[i];
    bool quick = i < inbox->storage->settings.threads;
    char name[32];
    (void)snprintf(name, sizeof name, "%s-%u", quick ? "worker" : "long", (unsigned)i);
    worker->inbox = inbox;
    worker->lane = &inbox->lanes[quick ? STOR_LANE_QUICK : STOR_LANE_LONG];
    (void)pthread_cond_init(&worker->wake, NULL);
    int rc = stor_session_open(inbox->storage->engine, &worker->session, err);
    if (rc != VD_OK)
        return rc;
    worker->slot = inbox->daemon == NULL ? NULL : vd_daemon_slot(inbox->daemon, name);
    if (vd_thread_start(&worker->thread, worker_run, worker) != 0)
        return vd_error_set(err, VD_ERR_INTERNAL, "a worker could not be started");
    (void)pthread_setname_np(worker->thread, name);
    worker->started = true;
    return VD_OK;
}

static void request_interrupt(stor_request_t *request, void *context)
{
    (void)context; /* all of them */
    int none = 0;
    (void)atomic_compare_exchange_strong(&request->killed, &none, VD_ERR_INTERRUPTED_AT_SHUTDOWN);
}

void stor_inbox_workers_stop(stor_inbox_t *inbox)
{
    stor_inbox_worker_t *worker;
    stor_registry_visit(inbox->storage, request_interrupt, NULL);
    (void)pthread_mutex_lock(&inbox->lock);
    inbox->stopping = true;
    for (int i = 0; i < STOR_LANE_COUNT; i++)
        while ((worker = stor_lane_idle_take(&inbox->lanes[i])) != NULL)
            (void)pthread_cond_signal(&worker->wake);
    (void)pthread_mutex_unlock(&inbox->lock);
    for (uint32_t i = 0; i < inbox->worker_count; i++) {
        worker = &inbox->workers[i];
        if (worker->started)
            (void)pthread_join(worker->thread, NULL);
        stor_session_close(&worker->session);
        (void)pthread_cond_destroy(&worker->wake);
    }
}
