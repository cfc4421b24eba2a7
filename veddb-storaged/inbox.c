/* veddb-storaged/inbox.c — see inbox.h.
 *
 * A request's way: item_arrived (I/O thread: copied into a pooled request's arena, admitted) ->
 * arrived list of this turn -> one push into the lanes -> a worker -> parked at the flusher or
 * straight onto the done stack -> sent and recycled by the I/O thread.
 *
 * Order in a turn of the I/O thread: replies are handed to the link before the link's own step
 * sends them; what the link has received is pushed to the workers after it. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "proto/failure.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/inbox_private.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/rotation/latency.h"
#include "veddb-storaged/streams/waits.h"

#include <stdio.h>
#include <time.h>

#define REPLY_STEP_ORDER    (VD_LINK_STEP_ORDER - 50)
#define DISPATCH_STEP_ORDER (VD_LINK_STEP_ORDER + 50)
#define IDLE_REQUESTS_MAX   256
#define STATE_PERIOD_MS     1000
#define UNSENT_RETRY_MS     2
#define QUICK_WAKE_DEPTH    8
#define SWEEP_PAUSE_US      10000 /* between two looks at all that waits */
#define LEFT_MS             2     /* so long one waits while a worker is idle */

/* ---- pool ---- */

stor_request_t *stor_inbox_request_take(stor_inbox_t *inbox)
{
    stor_request_t *request = inbox->idle_first;
    vd_arena_t *arena;
    if (request != NULL) {
        inbox->idle_first = request->next;
        inbox->idle_count--;
        arena = request->arena;
    } else {
        request = vd_xalloc(sizeof *request);
        arena = vd_arena_create();
    }
    stor_request_init(request, inbox->storage, arena);
    return request;
}

static void request_free(stor_request_t *request)
{
    vd_arena_destroy(&request->arena);
    vd_free(request);
}

void stor_inbox_request_give(stor_inbox_t *inbox, stor_request_t *request)
{
    if (inbox->idle_count >= IDLE_REQUESTS_MAX) {
        request_free(request);
        return;
    }
    vd_arena_reset(request->arena);
    request->next = inbox->idle_first;
    inbox->idle_first = request;
    inbox->idle_count++;
}

/* ---- I/O thread: the two steps of a turn ---- */

static void reply_finished(stor_inbox_t *inbox, stor_request_t *request)
{
    stor_registry_remove(request);
    inbox->held_bytes -= request->item.len;
    stor_inbox_request_give(inbox, request);
    atomic_fetch_sub_explicit(&inbox->inflight, 1, memory_order_relaxed);
}

/* A rotation makes way for it: not for what waited for others, is long by its nature, or asks how
 * the node (and the rotation) is doing. */
static bool of_pace(const stor_request_t *request)
{
    return !request->slow_lane && request->await_until_us == 0 &&
           request->wait.kind == STOR_WAIT_NOTHING && request->entry != NULL &&
           (request->entry->flags & STOR_COMMAND_DIAGNOSTIC) == 0;
}

/* False: the peer's credit is used up. */
static bool reply_send(stor_inbox_t *inbox, stor_request_t *request)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_slice_t body = vd_slice(request->reply_document.data, request->reply_document.len);
    if ((request->command.flags & VDP_COMMAND_NO_REPLY) != 0)
        body = VD_SLICE_NULL;
    /* A driver that is refused asks who is primary: hello must know it before the refusal leaves.
     */
    bool changed = inbox->told_role != stor_replication_role(inbox->storage) ||
                   inbox->told_term != stor_replication_term(inbox->storage);
    if (request->announce || VD_UNLIKELY(changed)) {
        request->announce = false;
        stor_inbox_state_send(inbox);
    }
    int rc = vd_link_send(inbox->link, request->peer, request->reply_head, body, &err);
    if (rc == VD_ERR_FULL)
        return false;
    if (of_pace(request))
        stor_latency_note(inbox->storage->latency, vd_monotonic_us() - request->arrived_us);
    if (rc != VD_OK && rc != VD_ERR_CLOSED) { /* whoever waits must hear something */
        vdp_failure_t failure = vdp_failure_from(&err);
        vd_log(VD_LOG_ERROR, "a reply was not sent", "error=%d bytes=%zu", -rc, body.len);
        stor_inbox_message_send(inbox, request->peer, &vdp_failure, &failure,
                                request->envelope.request_id);
    }
    reply_finished(inbox, request);
    return true;
}

static void unsent_retry(stor_inbox_t *inbox)
{
    for (uint64_t n = inbox->unsent.count; n > 0; n--) {
        stor_request_t *request = stor_queue_pop(&inbox->unsent);
        if (!reply_send(inbox, request))
            stor_queue_push(&inbox->unsent, request);
    }
    if (inbox->unsent.count > 0)
        vd_loop_set_timer(inbox->unsent_timer, UNSENT_RETRY_MS, 0);
}

static void drain_check(stor_inbox_t *inbox)
{
    if (!atomic_load(&inbox->drain_asked) || atomic_load(&inbox->inflight) != 0)
        return;
    atomic_store(&inbox->drain_asked, false);
    inbox->drained(inbox->drained_context);
}

static bool step_replies(void *context)
{
    stor_inbox_t *inbox = context;
    stor_request_t *list = atomic_exchange_explicit(&inbox->done, NULL, memory_order_acquire);
    stor_request_t *ordered = NULL;
    while (list != NULL) { /* the stack's top is the newest */
        stor_request_t *next = list->next;
        list->next = ordered;
        ordered = list;
        list = next;
    }
    if (atomic_exchange(&inbox->storage->state_changed, false))
        stor_inbox_state_send(inbox);
    if (inbox->unsent.count > 0)
        unsent_retry(inbox);
    while (ordered != NULL) {
        stor_request_t *request = ordered;
        ordered = ordered->next;
        if (!reply_send(inbox, request)) {
            stor_queue_push(&inbox->unsent, request);
            vd_loop_set_timer(inbox->unsent_timer, UNSENT_RETRY_MS, 0);
        }
    }
    drain_check(inbox);
    return false;
}

/* The timer is set when that is earlier than what it was set to: seldom, where deadlines are much
 * alike. Whoever has been taken by a worker meanwhile has made it ring for nothing. */
void stor_inbox_sweep_at(stor_inbox_t *inbox, uint64_t at_us)
{
    if (at_us >= inbox->sweep_us)
        return;
    inbox->sweep_us = at_us;
    uint64_t now_us = vd_monotonic_us(), first_us = inbox->swept_us + SWEEP_PAUSE_US;
    if (at_us < first_us)
        at_us = first_us;
    vd_loop_set_timer(inbox->sweep_timer, at_us <= now_us ? 0 : (at_us - now_us + 999) / 1000, 0);
}

/* Takes those out of a queue that need no worker any more; *soonest_us: the next deadline of who
 * stays. Under the lock. */
static void queue_sweep(stor_queue_t *queue, uint64_t now_us, stor_queue_t *over,
                        uint64_t *soonest_us)
{
    stor_queue_t all = *queue;
    stor_request_t *request;
    if (all.first == NULL)
        return;
    stor_queue_init(queue);
    while ((request = stor_queue_pop(&all)) != NULL) {
        bool is_over = stor_request_is_over(request, now_us);
        stor_queue_push(is_over ? over : queue, request);
        /* One that has begun is a worker's to end. */
        if (!is_over && request->deadline_us > now_us && request->deadline_us < *soonest_us)
            *soonest_us = request->deadline_us;
    }
}

/* In time: at once, or a little later when it has just been done. */
static bool sweep_is_due(stor_inbox_t *inbox, uint64_t now_us)
{
    bool asked = atomic_load_explicit(&inbox->sweep_asked, memory_order_relaxed);
    if (VD_LIKELY(!asked && inbox->sweep_us > now_us))
        return false;
    if (now_us >= inbox->swept_us + SWEEP_PAUSE_US)
        return true;
    inbox->sweep_us = now_us;
    vd_loop_set_timer(inbox->sweep_timer, (inbox->swept_us + SWEEP_PAUSE_US - now_us + 999) / 1000,
                      0);
    return false;
}

/* Who waits for a worker, but needs none any more, is answered. */
static void sweep(stor_inbox_t *inbox)
{
    uint64_t now_us = vd_monotonic_us(), soonest_us = UINT64_MAX;
    stor_queue_t over;
    stor_request_t *request;
    if (!sweep_is_due(inbox, now_us))
        return;
    stor_queue_init(&over);
    atomic_store(&inbox->sweep_asked, false); /* before: who is killed from here on asks again */
    (void)pthread_mutex_lock(&inbox->lock);
    for (int i = 0; i < STOR_LANE_COUNT; i++)
        queue_sweep(&inbox->lanes[i].queue, now_us, &over, &soonest_us);
    (void)pthread_mutex_unlock(&inbox->lock);
    inbox->swept_us = now_us;
    inbox->sweep_us = UINT64_MAX;
    if (soonest_us != UINT64_MAX)
        stor_inbox_sweep_at(inbox, soonest_us);
    atomic_fetch_add_explicit(&inbox->given_up, over.count, memory_order_relaxed);
    while ((request = stor_queue_pop(&over)) != NULL) {
        stor_request_give_up(request);
        stor_inbox_reply_encode(request);
        stor_inbox_done_push(inbox, request, request);
    }
}

static bool step_dispatch(void *context)
{
    stor_inbox_t *inbox = context;
    stor_inbox_worker_t *workers[STOR_LANE_COUNT] = {NULL};
    bool left = false;
    if (inbox->arrived[STOR_LANE_QUICK].first != NULL ||
        inbox->arrived[STOR_LANE_LONG].first != NULL) {
        (void)pthread_mutex_lock(&inbox->lock);
        for (int i = 0; i < STOR_LANE_COUNT; i++) {
            stor_lane_t *lane = &inbox->lanes[i];
            bool wake = lane->running == 0 || lane->queue.first != NULL;
            stor_queue_join(&lane->queue, &inbox->arrived[i]);
            stor_lane_note_more(lane);
            wake |= lane->queue.count >= lane->wake_depth;
            left |= lane->queue.first != NULL && lane->idle != NULL;
            workers[i] = wake && lane->queue.first != NULL ? stor_lane_idle_take(lane) : NULL;
        }
        (void)pthread_mutex_unlock(&inbox->lock);
    }
    for (int i = 0; i < STOR_LANE_COUNT; i++)
        if (workers[i] != NULL)
            (void)pthread_cond_signal(&workers[i]->wake);
    if (left)
        vd_loop_set_timer(inbox->left_timer, LEFT_MS, 0);
    sweep(inbox);
    return atomic_load_explicit(&inbox->done, memory_order_relaxed) != NULL;
}

static void turn_due(void *context)
{
    (void)context; /* the turn that this begins does it */
}

/* Nothing came for a while that would have found it: what was left to a worker that blocks goes to
 * another. */
static void left_due(void *context)
{
    stor_inbox_t *inbox = context;
    (void)pthread_mutex_lock(&inbox->lock);
    for (int i = 0; i < STOR_LANE_COUNT; i++) {
        stor_inbox_worker_t *worker =
            inbox->lanes[i].queue.first == NULL ? NULL : stor_lane_idle_take(&inbox->lanes[i]);
        if (worker !=
            NULL) /* under the lock: stor_inbox_workers_stop ends the condition behind it */
            (void)pthread_cond_signal(&worker->wake);
    }
    (void)pthread_mutex_unlock(&inbox->lock);
}

/* ---- life ---- */

void stor_inbox_failed(const vd_error_t *err, void *context)
{
    stor_storage_t *storage = context;
    if (storage->inbox != NULL && storage->inbox->daemon != NULL)
        vd_daemon_fatal(storage->inbox->daemon, false, err);
    stor_engine_abandon(storage->engine, STOR_EXIT_PANIC);
}

void stor_inbox_cut_off(stor_storage_t *storage)
{
    if (storage->inbox != NULL && storage->inbox->daemon != NULL)
        vd_daemon_cut_off(storage->inbox->daemon);
    stor_engine_abandon(storage->engine, VD_EXIT_PROTOCOL);
}

static void cut_off(void *context)
{
    stor_inbox_t *inbox = context;
    stor_inbox_cut_off(inbox->storage);
}

static int io_open(stor_inbox_t *inbox, vd_error_t *err)
{
    vd_link_options_t options = {
        .path = inbox->path,
        .bind = true,
        .socket_mode = 0660, /* the folder lets in only ourselves and the gateway's group */
        .item = stor_inbox_item_arrived,
        .peer_changed = stor_inbox_peer_changed,
        .cut = cut_off,
        .context = inbox,
    };
    int rc = vd_loop_create(&inbox->loop, err);
    if (rc == VD_OK)
        rc = vd_link_open(inbox->loop, &options, &inbox->link, err);
    if (rc == VD_OK)
        rc = vd_loop_add_end_of_turn(inbox->loop, REPLY_STEP_ORDER, step_replies, inbox,
                                     &inbox->reply_step, err);
    if (rc == VD_OK)
        rc = vd_loop_add_end_of_turn(inbox->loop, DISPATCH_STEP_ORDER, step_dispatch, inbox,
                                     &inbox->dispatch_step, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(inbox->loop, STATE_PERIOD_MS, STATE_PERIOD_MS, stor_inbox_state_send,
                               inbox, &inbox->state_timer, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(inbox->loop, STATE_PERIOD_MS, 0, turn_due, inbox,
                               &inbox->unsent_timer, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(inbox->loop, STATE_PERIOD_MS, 0, turn_due, inbox,
                               &inbox->sweep_timer, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(inbox->loop, STATE_PERIOD_MS, 0, left_due, inbox, &inbox->left_timer,
                               err);
    return rc;
}

static void io_close(stor_inbox_t *inbox)
{
    vd_loop_remove(&inbox->reply_step);
    vd_loop_remove(&inbox->dispatch_step);
    vd_loop_remove(&inbox->state_timer);
    vd_loop_remove(&inbox->unsent_timer);
    vd_loop_remove(&inbox->sweep_timer);
    vd_loop_remove(&inbox->left_timer);
    if (inbox->link != NULL)
        vd_link_close(&inbox->link);
    vd_loop_destroy(&inbox->loop);
}

static void *io_run(void *context)
{
    stor_inbox_t *inbox = context;
    vd_error_t err = VD_ERROR_INIT;
    int rc = io_open(inbox, &err);
    (void)pthread_mutex_lock(&inbox->start_lock);
    inbox->start_rc = rc;
    inbox->start_error = err;
    inbox->started = true;
    (void)pthread_cond_signal(&inbox->start_done);
    (void)pthread_mutex_unlock(&inbox->start_lock);
    if (rc == VD_OK && vd_loop_run(inbox->loop, &err) != VD_OK)
        stor_inbox_failed(&err, inbox->storage);
    if (rc == VD_OK)
        (void)step_replies(inbox); /* what came after the last turn */
    io_close(inbox);
    return NULL;
}

static int io_start(stor_inbox_t *inbox, vd_error_t *err)
{
    if (vd_thread_start(&inbox->thread, io_run, inbox) != 0)
        return vd_error_set(err, VD_ERR_INTERNAL, "the I/O thread could not be started");
    (void)pthread_setname_np(inbox->thread, "io");
    (void)pthread_mutex_lock(&inbox->start_lock);
    while (!inbox->started)
        (void)pthread_cond_wait(&inbox->start_done, &inbox->start_lock);
    (void)pthread_mutex_unlock(&inbox->start_lock);
    if (inbox->start_rc == VD_OK)
        return VD_OK;
    (void)pthread_join(inbox->thread, NULL);
    if (err != NULL)
        *err = inbox->start_error;
    return inbox->start_rc;
}

int stor_inbox_start(stor_storage_t *storage, vd_daemon_t *daemon, const char *socket_path,
                     vd_error_t *err)
{
    stor_inbox_t *inbox = vd_xalloc(sizeof *inbox);
    inbox->storage = storage;
    inbox->daemon = daemon;
    (void)snprintf(inbox->path, sizeof inbox->path, "%s", socket_path);
    inbox->sweep_us = UINT64_MAX;
    stor_queue_init(&inbox->unsent);
    for (int i = 0; i < STOR_LANE_COUNT; i++) {
        stor_queue_init(&inbox->arrived[i]);
        stor_queue_init(&inbox->lanes[i].queue);
        inbox->lanes[i].wake_depth = i == STOR_LANE_QUICK ? QUICK_WAKE_DEPTH : 1;
    }
    vd_buf_init(&inbox->item, 64 * 1024);
    inbox->topology_arena = vd_arena_create();
    (void)pthread_mutex_init(&inbox->start_lock, NULL);
    (void)pthread_cond_init(&inbox->start_done, NULL);
    (void)pthread_mutex_init(&inbox->lock, NULL);
    inbox->worker_count = (uint32_t)storage->settings.threads + STOR_LONG_WORKERS;
    inbox->workers = vd_xalloc(inbox->worker_count * sizeof *inbox->workers);
    storage->inbox = inbox;
    int rc = stor_waits_start(storage, stor_inbox_await_over, inbox, &storage->waits, err);
    for (uint32_t i = 0; rc == VD_OK && i < inbox->worker_count; i++)
        rc = stor_inbox_worker_start(inbox, i, err);
    if (rc == VD_OK && storage->replication != NULL)
        rc = stor_positions_start(storage->replication->positions, err);
    if (rc == VD_OK)
        rc = io_start(inbox, err);
    if (rc != VD_OK)
        stor_inbox_stop(&storage->inbox);
    return rc;
}

void stor_inbox_drain(stor_inbox_t *inbox, void (*idle)(void *context), void *context)
{
    inbox->drained = idle;
    inbox->drained_context = context;
    atomic_store(&inbox->storage->draining, true);
    atomic_store(&inbox->drain_asked, true);
    stor_inbox_announce(inbox);
}

void stor_inbox_killed(stor_inbox_t *inbox)
{
    atomic_store(&inbox->sweep_asked, true);
    vd_loop_wake(inbox->loop);
}

void stor_inbox_announce(stor_inbox_t *inbox)
{
    atomic_store(&inbox->storage->state_changed, true);
    vd_loop_wake(inbox->loop);
}

/* Until the flusher has given back all that it held. It keeps running, so this is short; where the
 * disk hangs, the supervisor ends the wait. */
static void parked_wait(stor_inbox_t *inbox)
{
    while (atomic_load_explicit(&inbox->parked, memory_order_acquire) != 0) {
        struct timespec pause = {.tv_nsec = 1000000};
        (void)nanosleep(&pause, NULL); /* waking early is fine */
    }
}

static void queue_free(stor_queue_t *queue)
{
    stor_request_t *request;
    while ((request = stor_queue_pop(queue)) != NULL) {
        stor_registry_remove(request);
        request_free(request);
    }
}

void stor_inbox_stop(stor_inbox_t **inbox_p)
{
    stor_inbox_t *inbox = *inbox_p;
    if (inbox == NULL)
        return;
    stor_inbox_workers_stop(inbox);
    parked_wait(inbox);
    if (inbox->storage->replication != NULL)
        stor_positions_stop(inbox->storage->replication->positions);
    stor_waits_stop(inbox->storage->waits); /* behind the flusher's last word to it */
    if (inbox->started && inbox->start_rc == VD_OK) {
        vd_loop_stop(inbox->loop);
        (void)pthread_join(inbox->thread, NULL);
    }
    stor_queue_t left;
    stor_queue_init(&left);
    stor_request_t *done = atomic_exchange(&inbox->done, NULL), *next;
    for (; done != NULL; done = next) {
        next = done->next;
        stor_queue_push(&left, done);
    }
    queue_free(&left);
    queue_free(&inbox->unsent);
    for (int i = 0; i < STOR_LANE_COUNT; i++) {
        queue_free(&inbox->lanes[i].queue);
        queue_free(&inbox->arrived[i]);
    }
    while ((done = inbox->idle_first) != NULL) {
        inbox->idle_first = done->next;
        request_free(done);
    }
    vd_buf_done(&inbox->item);
    vd_arena_destroy(&inbox->topology_arena);
    (void)pthread_mutex_destroy(&inbox->start_lock);
    (void)pthread_cond_destroy(&inbox->start_done);
    (void)pthread_mutex_destroy(&inbox->lock);
    vd_free(inbox->workers);
    vd_free(inbox);
    *inbox_p = NULL;
}

void stor_inbox_stats(const stor_storage_t *storage, stor_inbox_stats_t *ret_stats)
{
    stor_inbox_t *inbox = storage->inbox;
    *ret_stats = (stor_inbox_stats_t){0};
    if (inbox == NULL)
        return;
    ret_stats->inflight = atomic_load_explicit(&inbox->inflight, memory_order_relaxed);
    ret_stats->parked = atomic_load_explicit(&inbox->parked, memory_order_relaxed);
    ret_stats->refused = atomic_load_explicit(&inbox->refused, memory_order_relaxed);
    ret_stats->received = atomic_load_explicit(&inbox->received, memory_order_relaxed);
    ret_stats->given_up = atomic_load_explicit(&inbox->given_up, memory_order_relaxed);
    ret_stats->workers = inbox->worker_count;
    (void)pthread_mutex_lock(&inbox->lock);
    ret_stats->queued_quick = inbox->lanes[STOR_LANE_QUICK].queue.count;
    ret_stats->queued_long = inbox->lanes[STOR_LANE_LONG].queue.count;
    ret_stats->running =
        inbox->lanes[STOR_LANE_QUICK].running + inbox->lanes[STOR_LANE_LONG].running;
    (void)pthread_mutex_unlock(&inbox->lock);
}
