/* veddb-storaged/inbox.c — see inbox.h.
 *
 * A request's way: item_arrived (I/O thread: copied into a pooled request's arena, admitted) ->
 * arrived list of this turn -> one push into the lanes -> a worker -> parked at the flusher or
 * straight onto the done stack -> sent and recycled by the I/O thread.
 *
 * Order in a turn of the I/O thread: replies are handed to the link before the link's own step
 * sends them; what the link has received is pushed to the workers after it. */
#include "veddb-storaged/inbox.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/link.h"
#include "libcommon/runtime/thread.h"
#include "proto/failure.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/load.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/request_queue.h"
#include "veddb-storaged/rotation/latency.h"
#include "veddb-storaged/streams/waits.h"

#include <limits.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define REPLY_STEP_ORDER    (VD_LINK_STEP_ORDER - 50)
#define DISPATCH_STEP_ORDER (VD_LINK_STEP_ORDER + 50)
#define IDLE_REQUESTS_MAX   256
#define STATE_PERIOD_MS     1000
#define UNSENT_RETRY_MS     2
#define QUICK_WAKE_DEPTH    8
#define SWEEP_PAUSE_US      10000 /* between two looks at all that waits */
#define LEFT_MS             2     /* so long one waits while a worker is idle */
#define LONG_NICE           5     /* quick operations go first when cores are short */

typedef struct worker {
    stor_inbox_t *inbox;
    stor_session_t *session;
    vd_daemon_slot_t *slot; /* NULL without a daemon */
    struct lane *lane;
    pthread_t thread;
    pthread_cond_t wake;
    struct worker *next_idle;
    bool idle, started;
} worker_t;

/* Under inbox->lock. */
typedef struct lane {
    stor_queue_t queue;
    /* Since when the first of the queue waits; 0: nobody does. When that one was given up it stays
     * until a worker comes: others would not have been taken before. */
    _Atomic uint64_t next_since_us;
    worker_t *idle;
    uint32_t running;
    /* So much waits that another worker is woken for it. A wake costs as much as several quick
     * operations; where one blocks, the next turn's arrivals find its leftovers (step_dispatch), or
     * a timer does (left_due). */
    uint32_t wake_depth;
} lane_t;

enum { LANE_QUICK, LANE_LONG, LANE_COUNT };

typedef struct {
    uint64_t id; /* of the link's peer; 0 = free */
    bool attached;
} peer_t;

struct stor_inbox {
    stor_storage_t *storage;
    vd_daemon_t *daemon;
    char path[PATH_MAX];

    /* The I/O thread's own. */
    pthread_t thread;
    vd_loop_t *loop;
    vd_link_t *link;
    vd_source_t *reply_step, *dispatch_step, *state_timer, *unsent_timer, *sweep_timer, *left_timer;
    peer_t peers[VD_LINK_PEERS_MAX];
    stor_queue_t arrived[LANE_COUNT];
    stor_queue_t unsent; /* finished, but the peer's credit is used up */
    stor_request_t *idle_first;
    uint32_t idle_count;
    uint64_t held_bytes;
    uint64_t sweep_us; /* when the first of those that wait is late, or was: UINT64_MAX = none */
    uint64_t swept_us; /* when it was last looked at */
    vd_buf_t item;
    vd_arena_t *topology_arena; /* of the last STATE */
    uint8_t set_id[12];         /* of the state that is sent */
    int told_role;              /* as of that */
    uint64_t told_term;

    /* Start of the thread. */
    pthread_mutex_t start_lock;
    pthread_cond_t start_done;
    int start_rc;
    bool started;
    vd_error_t start_error;

    pthread_mutex_t lock;
    lane_t lanes[LANE_COUNT];
    worker_t *workers; /* those of the quick lane first */
    uint32_t worker_count;
    bool stopping; /* under lock */

    _Atomic(stor_request_t *) done;
    atomic_uint_fast64_t inflight, parked, refused, received, given_up;
    atomic_bool drain_asked, sweep_asked;
    void (*drained)(void *context);
    void *drained_context;
};

/* ---- lanes ---- */

/* A worker has come to the lane's queue, under the lock. */
static void note_next(lane_t *lane)
{
    const stor_request_t *next = lane->queue.first;
    atomic_store_explicit(&lane->next_since_us, next == NULL ? 0 : next->queued_us,
                          memory_order_relaxed);
}

/* The queue has grown, under the lock. */
static void note_more(lane_t *lane)
{
    if (atomic_load_explicit(&lane->next_since_us, memory_order_relaxed) == 0)
        note_next(lane);
}

/* ---- pool ---- */

static stor_request_t *request_take(stor_inbox_t *inbox)
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

static void request_give(stor_inbox_t *inbox, stor_request_t *request)
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

/* ---- workers ---- */

static worker_t *idle_take(lane_t *lane)
{
    worker_t *worker = lane->idle;
    if (worker != NULL) {
        lane->idle = worker->next_idle;
        worker->idle = false;
    }
    return worker;
}

static void idle_wait(stor_inbox_t *inbox, worker_t *worker)
{
    worker->idle = true;
    worker->next_idle = worker->lane->idle;
    worker->lane->idle = worker;
    while (worker->idle)
        (void)pthread_cond_wait(&worker->wake, &inbox->lock);
}

/* The next request of the worker's lane, or NULL when the inbox stops. A worker that finds more
 * work than its own wakes the next one. */
static stor_request_t *work_take(stor_inbox_t *inbox, worker_t *worker)
{
    lane_t *lane = worker->lane;
    (void)pthread_mutex_lock(&inbox->lock);
    while (lane->queue.first == NULL && !inbox->stopping) {
        note_next(lane);
        idle_wait(inbox, worker);
    }
    stor_request_t *request = inbox->stopping ? NULL : stor_queue_pop(&lane->queue);
    note_next(lane);
    lane->running += request != NULL;
    worker_t *next = lane->queue.count >= lane->wake_depth ? idle_take(lane) : NULL;
    (void)pthread_mutex_unlock(&inbox->lock);
    if (next != NULL)
        (void)pthread_cond_signal(&next->wake);
    return request;
}

static void work_ended(stor_inbox_t *inbox, lane_t *lane)
{
    (void)pthread_mutex_lock(&inbox->lock);
    lane->running--;
    (void)pthread_mutex_unlock(&inbox->lock);
}

/* Pushes a chain first..last of finished requests; wakes the I/O thread when it may sleep. */
static void done_push(stor_inbox_t *inbox, stor_request_t *first, stor_request_t *last)
{
    stor_request_t *head = atomic_load_explicit(&inbox->done, memory_order_relaxed);
    do {
        last->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&inbox->done, &head, first,
                                                    memory_order_release, memory_order_relaxed));
    if (head == NULL)
        vd_loop_wake(inbox->loop);
}

static void reply_encode(stor_request_t *request)
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

/* It goes on where its lane's queue ends, as if it came now. */
static void run_again(stor_inbox_t *inbox, stor_request_t *request)
{
    lane_t *lane = &inbox->lanes[request->slow_lane ? LANE_LONG : LANE_QUICK];
    request->queued_us = vd_monotonic_us();
    (void)pthread_mutex_lock(&inbox->lock);
    stor_queue_push(&lane->queue, request);
    note_more(lane);
    worker_t *worker = idle_take(lane);
    if (worker != NULL) /* under the lock: workers_stop ends the condition behind it */
        (void)pthread_cond_signal(&worker->wake);
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
            reply_encode(request);
        request->next = first;
        first = request;
        if (last == NULL)
            last = request;
    }
    if (first != NULL)
        done_push(inbox, first, last);
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
    reply_encode(request);
    atomic_fetch_add_explicit(&inbox->parked, 1, memory_order_relaxed);
    uint64_t depends_on = request->flush_all ? UINT64_MAX : request->depends_on;
    if (stor_engine_flush_wait(inbox->storage->engine, depends_on, &request->flush)) {
        if (VD_UNLIKELY(request->wait.kind != STOR_WAIT_NOTHING))
            concern(inbox, request);
        else
            done_push(inbox, request, request);
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
        done_push(inbox, first, last);
    stor_waits_moved(storage->waits);
    atomic_fetch_sub_explicit(&inbox->parked, count, memory_order_release);
}

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

static void *worker_run(void *context)
{
    worker_t *worker = context;
    stor_inbox_t *inbox = worker->inbox;
    stor_request_t *request;
    if (worker->lane == &inbox->lanes[LANE_LONG])
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

/* Under the lock. */
static void lane_push(lane_t *lane, stor_request_t *request)
{
    stor_queue_push(&lane->queue, request);
    note_more(lane);
    worker_t *worker = idle_take(lane);
    if (worker != NULL) /* under the lock: workers_stop ends the condition behind it */
        (void)pthread_cond_signal(&worker->wake);
}

/* A wait is over (thread of waits): getMores run again all together, by one worker first. */
static void await_over(stor_request_t *first, void *context)
{
    stor_inbox_t *inbox = context;
    lane_t *lane = &inbox->lanes[LANE_QUICK];
    uint64_t now_us = vd_monotonic_us();
    (void)pthread_mutex_lock(&inbox->lock);
    while (first != NULL) {
        stor_request_t *next = first->next;
        first->queued_us = now_us;
        if (first->await_ready != NULL)
            lane_push(&inbox->lanes[first->slow_lane ? LANE_LONG : LANE_QUICK], first);
        else
            stor_queue_push(&lane->queue, first);
        first = next;
    }
    note_more(lane);
    worker_t *worker = lane->queue.first == NULL ? NULL : idle_take(lane);
    if (worker != NULL) /* under the lock: workers_stop ends the condition behind it */
        (void)pthread_cond_signal(&worker->wake);
    (void)pthread_mutex_unlock(&inbox->lock);
}

/* ---- I/O thread: peers and what they are told ---- */

static peer_t *peer_find(stor_inbox_t *inbox, uint64_t id)
{
    for (size_t i = 0; i < VD_LINK_PEERS_MAX; i++)
        if (inbox->peers[i].id == id)
            return &inbox->peers[i];
    return NULL;
}

static bool has_users(stor_storage_t *storage)
{
    stor_collection_info_t *infos;
    uint32_t count = 0;
    bool found = false;
    vd_arena_t *arena = vd_arena_create();
    if (stor_catalog_list(storage->catalog, arena, VD_SLICE_LIT("admin"), false, &infos, &count,
                          NULL) == VD_OK)
        for (uint32_t i = 0; i < count; i++)
            found |= vd_slice_is(infos[i].name, "system.users") && infos[i].documents > 0;
    vd_arena_destroy(&arena);
    return found;
}

static vdp_operation_state_t state_make(stor_inbox_t *inbox)
{
    stor_storage_t *storage = inbox->storage;
    /* Before the epoch: what it says is known must be in what is told with it. */
    uint64_t fresh_ms = stor_replication_fresh_ms(storage);
    bool ready = atomic_load(&storage->ready) && !atomic_load(&storage->draining);
    vd_slice_t topology = VD_SLICE_NULL;
    if (!stor_replication_alone(storage)) {
        vd_arena_reset(inbox->topology_arena);
        vd_bson_t copy = stor_replication_topology(storage, inbox->topology_arena);
        topology = vd_slice(copy.data, copy.len);
    }
    int role = stor_replication_role(storage);
    stor_storage_set_id(storage, inbox->set_id);
    return (vdp_operation_state_t){
        .boot_id = vd_slice(storage->boot_id, sizeof storage->boot_id),
        .ready = ready,
        .writable = role == VDP_ROLE_PRIMARY,
        .auth_epoch = atomic_load(&storage->auth_epoch),
        .term = stor_replication_term(storage),
        .newest = stor_engine_visible(storage->engine),
        .durable = stor_engine_durable(storage->engine),
        .last_write_ms = atomic_load(&storage->last_write_ms),
        .has_users = has_users(storage),
        .set_id = vd_slice(inbox->set_id, sizeof inbox->set_id),
        .role = (uint32_t)role,
        .majority = stor_replication_majority(storage),
        .topology = topology,
        .fresh_ms = fresh_ms,
    };
}

static void message_send(stor_inbox_t *inbox, uint64_t peer, const vdp_message_t *message,
                         const void *fields, uint64_t request_id)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {.id = message->id, .request_id = request_id};
    vd_buf_clear(&inbox->item);
    int rc = vdp_encode(&inbox->item, &envelope, message, fields, VD_SLICE_NULL, &err);
    if (rc == VD_OK)
        rc = vd_link_send(inbox->link, peer, vd_buf_slice(&inbox->item), VD_SLICE_NULL, &err);
    if (rc != VD_OK && rc != VD_ERR_CLOSED)
        vd_log(VD_LOG_WARN, "message to a gateway was not sent", "message=%s error=%d",
               message->name, -rc);
}

static void state_send(void *context)
{
    stor_inbox_t *inbox = context;
    vdp_operation_state_t state = state_make(inbox);
    inbox->told_role = (int)state.role;
    inbox->told_term = state.term;
    for (size_t i = 0; i < VD_LINK_PEERS_MAX; i++)
        if (inbox->peers[i].attached)
            message_send(inbox, inbox->peers[i].id, &vdp_operation_state, &state, 0);
}

static void peer_changed(void *context, uint64_t id, bool up)
{
    stor_inbox_t *inbox = context;
    peer_t *peer = peer_find(inbox, up ? 0 : id);
    if (!up)
        stor_registry_connection_closed(inbox->storage, id, 0);
    if (peer != NULL)
        *peer = (peer_t){.id = up ? id : 0};
    VD_DEBUG("gateway link", "peer=%llu up=%d", (unsigned long long)id, up);
}

/* ---- I/O thread: what arrives ---- */

typedef struct {
    stor_inbox_t *inbox;
    peer_t *peer;
    vdp_envelope_t envelope;
    vd_slice_t rest, item;
} arrival_t;

static int on_attach(const arrival_t *arrival, vd_error_t *err)
{
    stor_inbox_t *inbox = arrival->inbox;
    vdp_operation_attach_t attach = {0};
    vd_slice_t none;
    int rc = vdp_decode(&vdp_operation_attach, arrival->rest, &attach, &none, err);
    if (rc != VD_OK)
        return rc;
    arrival->peer->attached = true;
    vdp_operation_state_t state = state_make(inbox);
    message_send(inbox, arrival->peer->id, &vdp_operation_attached, &state,
                 arrival->envelope.request_id);
    vd_log(VD_LOG_INFO, "gateway attached", "thread=%llu", (unsigned long long)attach.thread);
    return VD_OK;
}

/* Before others can see it (registry.h). */
static void choose_lane(stor_request_t *request)
{
    request->entry = stor_command_find(request->command.name);
    request->slow_lane = request->entry != NULL &&
                         (request->entry->flags & STOR_COMMAND_LONG) != 0 &&
                         (request->entry->point == NULL || !request->entry->point(request));
}

/* Too much waits before it. A getMore's time is what it may wait for documents. */
static int queue_check(stor_inbox_t *inbox, const stor_request_t *request, vd_error_t *err)
{
    const vdp_operation_command_t *command = &request->command;
    const lane_t *lane = &inbox->lanes[request->slow_lane ? LANE_LONG : LANE_QUICK];
    uint64_t since = atomic_load_explicit(&lane->next_since_us, memory_order_relaxed);
    bool deadline = command->max_time_ms != 0 && !vd_slice_is(command->name, "getMore");
    if (VD_LIKELY(since == 0) || command->queue_wait_ms == 0 ||
        !stor_load_refuses(since, request->arrived_us, command->queue_wait_ms * 1000ull,
                           deadline ? command->max_time_ms * 1000ull : UINT64_MAX))
        return VD_OK;
    return vd_error_set(err, VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED,
                        "too much waits: what is next has waited for %llu ms",
                        (unsigned long long)((request->arrived_us - since) / 1000));
}

static int admit(stor_inbox_t *inbox, stor_request_t *request, vd_error_t *err)
{
    if (atomic_load(&inbox->storage->draining)) {
        request->reply_flags |= VDP_REPLY_RETRY;
        return vd_error_set(err, VD_ERR_INTERRUPTED_AT_SHUTDOWN, "interrupted at shutdown");
    }
    if (atomic_load_explicit(&inbox->inflight, memory_order_relaxed) < STOR_INFLIGHT_MAX &&
        inbox->held_bytes < VD_LINK_QUEUE_MAX_BYTES)
        return queue_check(inbox, request, err);
    if (request->command.queue_wait_ms != 0) /* its client is told to come back later */
        return vd_error_set(err, VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED,
                            "too many operations are in flight");
    request->reply_flags |= VDP_REPLY_RETRY;
    return vd_error_set(err, VD_ERR_TEMPORARILY_UNAVAILABLE, "too many operations are in flight");
}

/* The timer is set when that is earlier than what it was set to: seldom, where deadlines are much
 * alike. Whoever has been taken by a worker meanwhile has made it ring for nothing. */
static void sweep_at(stor_inbox_t *inbox, uint64_t at_us)
{
    if (at_us >= inbox->sweep_us)
        return;
    inbox->sweep_us = at_us;
    uint64_t now_us = vd_monotonic_us(), first_us = inbox->swept_us + SWEEP_PAUSE_US;
    if (at_us < first_us)
        at_us = first_us;
    vd_loop_set_timer(inbox->sweep_timer, at_us <= now_us ? 0 : (at_us - now_us + 999) / 1000, 0);
}

static int on_command(const arrival_t *arrival, vd_error_t *err)
{
    stor_inbox_t *inbox = arrival->inbox;
    stor_request_t *request = request_take(inbox);
    vd_error_t refusal = VD_ERROR_INIT;
    vd_slice_t body, none;
    request->peer = arrival->peer->id;
    /* One copy, then all that is decoded borrows it. */
    request->item = vd_arena_copy_slice(request->arena, arrival->item);
    int rc = vdp_decode_envelope(request->item, &request->envelope, &none, err);
    if (rc == VD_OK)
        rc = vdp_decode(&vdp_operation_command, none, &request->command, &body, err);
    if (rc == VD_OK && vdp_sections_parse(body, &request->sections, err) != VD_OK)
        rc = err->code = VD_ERR_BAD_VALUE; /* a client's bytes: nobody is cut off for them */
    if (rc != VD_OK) {
        request_give(inbox, request);
        return rc;
    }
    choose_lane(request);
    request->queued_us = request->arrived_us;
    stor_request_set_deadline(request);
    rc = admit(inbox, request, &refusal);
    atomic_fetch_add_explicit(&inbox->inflight, 1, memory_order_relaxed);
    inbox->held_bytes += request->item.len;
    if (rc != VD_OK) {
        atomic_fetch_add_explicit(&inbox->refused, 1, memory_order_relaxed);
        stor_request_refuse(request, &refusal);
        reply_encode(request);
        done_push(inbox, request, request);
        return VD_OK;
    }
    atomic_fetch_add_explicit(&inbox->received, 1, memory_order_relaxed);
    stor_registry_add(request);
    if (request->deadline_us != 0)
        sweep_at(inbox, request->deadline_us);
    stor_queue_push(&inbox->arrived[request->slow_lane ? LANE_LONG : LANE_QUICK], request);
    return VD_OK;
}

static int on_cancel(const arrival_t *arrival, vd_error_t *err)
{
    vdp_operation_cancel_t cancel = {0};
    vd_slice_t none;
    int rc = vdp_decode(&vdp_operation_cancel, arrival->rest, &cancel, &none, err);
    if (rc == VD_OK)
        (void)stor_registry_cancel(arrival->inbox->storage, arrival->peer->id,
                                   cancel.target_request_id); /* false: it has ended */
    return rc;
}

static int on_connection_closed(const arrival_t *arrival, vd_error_t *err)
{
    vdp_operation_connection_closed_t closed = {0};
    vd_slice_t none;
    int rc = vdp_decode(&vdp_operation_connection_closed, arrival->rest, &closed, &none, err);
    if (rc == VD_OK && closed.connection_id != 0)
        stor_registry_connection_closed(arrival->inbox->storage, arrival->peer->id,
                                        closed.connection_id);
    return rc;
}

static int on_ping(const arrival_t *arrival, vd_error_t *err)
{
    vdp_operation_ping_t ping = {0};
    vd_slice_t none;
    int rc = vdp_decode(&vdp_operation_ping, arrival->rest, &ping, &none, err);
    if (rc == VD_OK)
        message_send(arrival->inbox, arrival->peer->id, &vdp_operation_pong, &ping,
                     arrival->envelope.request_id);
    return rc;
}

/* All that a gateway may say, and whether it must have attached before. */
static const struct {
    uint32_t id;
    bool attached;
    int (*handle)(const arrival_t *arrival, vd_error_t *err);
} messages[] = {
    {VDP_OPERATION_COMMAND, true, on_command},
    {VDP_OPERATION_CANCEL, true, on_cancel},
    {VDP_OPERATION_CONNECTION_CLOSED, true, on_connection_closed},
    {VDP_OPERATION_PING, true, on_ping},
    {VDP_OPERATION_ATTACH, false, on_attach},
};

static int message_handle(const arrival_t *arrival, vd_error_t *err)
{
    for (size_t i = 0; i < VD_COUNT_OF(messages); i++) {
        if (messages[i].id != arrival->envelope.id)
            continue;
        if (messages[i].attached && !arrival->peer->attached)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "%s before ATTACH",
                                vdp_id_name(arrival->envelope.id));
        return messages[i].handle(arrival, err);
    }
    return vdp_foreign(arrival->envelope.id, "storage", err);
}

static void item_arrived(void *context, uint64_t peer, vd_slice_t item)
{
    stor_inbox_t *inbox = context;
    vd_error_t err = VD_ERROR_INIT;
    arrival_t arrival = {.inbox = inbox, .peer = peer_find(inbox, peer), .item = item};
    if (arrival.peer == NULL)
        return; /* one too many: the link bounds them */
    int rc = vdp_decode_envelope(item, &arrival.envelope, &arrival.rest, &err);
    if (rc == VD_OK)
        rc = message_handle(&arrival, &err);
    if (rc == VD_OK)
        return;
    if (rc == VD_ERR_PROTOCOL) {
        vd_link_cut(inbox->link, peer, err.message);
        stor_audit_cut(inbox->storage->audit, "veddb-gatewayd", err.message);
        return;
    }
    char text[VD_ERROR_MESSAGE_SIZE + 64];
    vd_log(VD_LOG_WARN, "message of a gateway refused", "error=%s",
           vd_log_quote(vd_slice_str(err.message), text, sizeof text));
    vdp_failure_t failure = vdp_failure_from(&err);
    message_send(inbox, peer, &vdp_failure, &failure, arrival.envelope.request_id);
}

/* ---- I/O thread: the two steps of a turn ---- */

static void reply_finished(stor_inbox_t *inbox, stor_request_t *request)
{
    stor_registry_remove(request);
    inbox->held_bytes -= request->item.len;
    request_give(inbox, request);
    atomic_fetch_sub_explicit(&inbox->inflight, 1, memory_order_relaxed);
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
        state_send(inbox);
    }
    int rc = vd_link_send(inbox->link, request->peer, request->reply_head, body, &err);
    if (rc == VD_ERR_FULL)
        return false;
    /* Not what waited for others, or is long by its nature. */
    if (!request->slow_lane && request->await_until_us == 0 &&
        request->wait.kind == STOR_WAIT_NOTHING)
        stor_latency_note(inbox->storage->latency, vd_monotonic_us() - request->arrived_us);
    if (rc != VD_OK && rc != VD_ERR_CLOSED) { /* whoever waits must hear something */
        vdp_failure_t failure = vdp_failure_from(&err);
        vd_log(VD_LOG_ERROR, "a reply was not sent", "error=%d bytes=%zu", -rc, body.len);
        message_send(inbox, request->peer, &vdp_failure, &failure, request->envelope.request_id);
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
        state_send(inbox);
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
    for (int i = 0; i < LANE_COUNT; i++)
        queue_sweep(&inbox->lanes[i].queue, now_us, &over, &soonest_us);
    (void)pthread_mutex_unlock(&inbox->lock);
    inbox->swept_us = now_us;
    inbox->sweep_us = UINT64_MAX;
    if (soonest_us != UINT64_MAX)
        sweep_at(inbox, soonest_us);
    atomic_fetch_add_explicit(&inbox->given_up, over.count, memory_order_relaxed);
    while ((request = stor_queue_pop(&over)) != NULL) {
        stor_request_give_up(request);
        reply_encode(request);
        done_push(inbox, request, request);
    }
}

static bool step_dispatch(void *context)
{
    stor_inbox_t *inbox = context;
    worker_t *workers[LANE_COUNT] = {NULL};
    bool left = false;
    if (inbox->arrived[LANE_QUICK].first != NULL || inbox->arrived[LANE_LONG].first != NULL) {
        (void)pthread_mutex_lock(&inbox->lock);
        for (int i = 0; i < LANE_COUNT; i++) {
            lane_t *lane = &inbox->lanes[i];
            bool wake = lane->running == 0 || lane->queue.first != NULL;
            stor_queue_join(&lane->queue, &inbox->arrived[i]);
            note_more(lane);
            wake |= lane->queue.count >= lane->wake_depth;
            left |= lane->queue.first != NULL && lane->idle != NULL;
            workers[i] = wake && lane->queue.first != NULL ? idle_take(lane) : NULL;
        }
        (void)pthread_mutex_unlock(&inbox->lock);
    }
    for (int i = 0; i < LANE_COUNT; i++)
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
    for (int i = 0; i < LANE_COUNT; i++) {
        worker_t *worker = inbox->lanes[i].queue.first == NULL ? NULL : idle_take(&inbox->lanes[i]);
        if (worker != NULL) /* under the lock: workers_stop ends the condition behind it */
            (void)pthread_cond_signal(&worker->wake);
    }
    (void)pthread_mutex_unlock(&inbox->lock);
}

/* ---- life ---- */

static int io_open(stor_inbox_t *inbox, vd_error_t *err)
{
    vd_link_options_t options = {
        .path = inbox->path,
        .bind = true,
        .socket_mode = 0660, /* the folder lets in only ourselves and the gateway's group */
        .item = item_arrived,
        .peer_changed = peer_changed,
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
        rc = vd_loop_add_timer(inbox->loop, STATE_PERIOD_MS, STATE_PERIOD_MS, state_send, inbox,
                               &inbox->state_timer, err);
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

static int worker_start(stor_inbox_t *inbox, uint32_t i, vd_error_t *err)
{
    worker_t *worker = &inbox->workers[i];
    bool quick = i < inbox->storage->settings.threads;
    char name[32];
    (void)snprintf(name, sizeof name, "%s-%u", quick ? "worker" : "long", (unsigned)i);
    worker->inbox = inbox;
    worker->lane = &inbox->lanes[quick ? LANE_QUICK : LANE_LONG];
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

int stor_inbox_start(stor_storage_t *storage, vd_daemon_t *daemon, const char *socket_path,
                     vd_error_t *err)
{
    stor_inbox_t *inbox = vd_xalloc(sizeof *inbox);
    inbox->storage = storage;
    inbox->daemon = daemon;
    (void)snprintf(inbox->path, sizeof inbox->path, "%s", socket_path);
    inbox->sweep_us = UINT64_MAX;
    stor_queue_init(&inbox->unsent);
    for (int i = 0; i < LANE_COUNT; i++) {
        stor_queue_init(&inbox->arrived[i]);
        stor_queue_init(&inbox->lanes[i].queue);
        inbox->lanes[i].wake_depth = i == LANE_QUICK ? QUICK_WAKE_DEPTH : 1;
    }
    vd_buf_init(&inbox->item, 64 * 1024);
    inbox->topology_arena = vd_arena_create();
    (void)pthread_mutex_init(&inbox->start_lock, NULL);
    (void)pthread_cond_init(&inbox->start_done, NULL);
    (void)pthread_mutex_init(&inbox->lock, NULL);
    inbox->worker_count = (uint32_t)storage->settings.threads + STOR_LONG_WORKERS;
    inbox->workers = vd_xalloc(inbox->worker_count * sizeof *inbox->workers);
    storage->inbox = inbox;
    int rc = stor_waits_start(storage, await_over, inbox, &storage->waits, err);
    for (uint32_t i = 0; rc == VD_OK && i < inbox->worker_count; i++)
        rc = worker_start(inbox, i, err);
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

static void request_interrupt(stor_request_t *request, void *context)
{
    (void)context; /* all of them */
    int none = 0;
    (void)atomic_compare_exchange_strong(&request->killed, &none, VD_ERR_INTERRUPTED_AT_SHUTDOWN);
}

static void workers_stop(stor_inbox_t *inbox)
{
    worker_t *worker;
    stor_registry_visit(inbox->storage, request_interrupt, NULL);
    (void)pthread_mutex_lock(&inbox->lock);
    inbox->stopping = true;
    for (int i = 0; i < LANE_COUNT; i++)
        while ((worker = idle_take(&inbox->lanes[i])) != NULL)
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
    workers_stop(inbox);
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
    for (int i = 0; i < LANE_COUNT; i++) {
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
    ret_stats->queued_quick = inbox->lanes[LANE_QUICK].queue.count;
    ret_stats->queued_long = inbox->lanes[LANE_LONG].queue.count;
    ret_stats->running = inbox->lanes[LANE_QUICK].running + inbox->lanes[LANE_LONG].running;
    (void)pthread_mutex_unlock(&inbox->lock);
}
