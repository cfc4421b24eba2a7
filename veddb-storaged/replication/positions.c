/* veddb-storaged/replication/positions.c — see positions.h.
 *
 * One lock for points, queues and deadlines. What is released is linked up under it and handed on
 * after it, so that replies are built, and the inbox called, without it. */
#include "veddb-storaged/replication/positions.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/engine/sequencer.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/replication/points.h"
#include "veddb-storaged/replication/waiters.h"
#include "veddb-storaged/streams/waits.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define LOOK_US        100000 /* the lease is looked at so often */
#define TIME_LOOK_US   20000  /* while somebody waits for a time */
#define ANSWER_WAIT_US (120ull * 1000000)
#define MESSAGE_MAX    300

#define UNSATISFIABLE "Not enough data-bearing nodes"
#define UNKNOWN_MODE  "No write concern mode named '%.*s' found in replica set configuration"

/* Queues: what their requests' timestamps are compared with. */
enum {
    QUEUE_MAJORITY,
    QUEUE_TIME,
    QUEUE_LINEARIZABLE, /* nothing yet: an entry is to be written */
    QUEUE_ANSWER,       /* nothing */
    QUEUE_COUNT,        /* + n of w: n */
    QUEUE_MODE = QUEUE_COUNT + STOR_POINT_MEMBERS_MAX + 1,
    QUEUES = QUEUE_MODE + STOR_POINT_MODES_MAX,
};

struct stor_positions {
    stor_storage_t *storage;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    stor_session_t *session; /* the thread's */
    bool started, closing;

    stor_points_t points;
    uint64_t own;             /* our durable point */
    uint64_t told_term, told; /* a secondary's */
    uint8_t builds[STOR_POINT_MEMBERS_MAX * VDP_MEMBER_BUILDS_MAX];
    size_t builds_len;
    uint64_t builds_term;
    stor_waiters_t queues[QUEUES], deadlines;
    stor_positions_stats_t stats;

    void (*released)(stor_request_t *list, void *context);
    void *released_context;
    stor_positions_ask_t ask;
};

/* What came of an ask. Under the lock until the request has gone on. */
typedef struct {
    stor_positions_t *positions;
    stor_request_t *request; /* NULL: it has given up */
    bool answered;
    int code;
    char message[MESSAGE_MAX];
    vd_bson_t body;
} answer_t;

/* Requests that leave, linked by next. */
typedef struct {
    stor_request_t *first, **last;
} leaving_t;

static void leaving_init(leaving_t *leaving)
{
    leaving->first = NULL;
    leaving->last = &leaving->first;
}

static void leaving_add(leaving_t *leaving, stor_request_t *request)
{
    request->next = NULL;
    *leaving->last = request;
    leaving->last = &request->next;
}

static void hand_on(stor_positions_t *positions, const leaving_t *leaving)
{
    if (leaving->first != NULL)
        positions->released(leaving->first, positions->released_context);
}

/* ---- queues, under the lock ---- */

static void put(stor_positions_t *positions, stor_request_t *request)
{
    stor_wait_t *wait = &request->wait;
    wait->parked = true;
    stor_waiters_put(&positions->queues[wait->queue], request);
    stor_waiters_put(&positions->deadlines, request);
    positions->stats.waiting[wait->kind]++;
}

static void take(stor_positions_t *positions, stor_request_t *request)
{
    stor_wait_t *wait = &request->wait;
    wait->parked = false;
    stor_waiters_remove(&positions->queues[wait->queue], request);
    stor_waiters_remove(&positions->deadlines, request);
    positions->stats.waiting[wait->kind]--;
}

static void queue_release(stor_positions_t *positions, uint32_t queue, uint64_t point,
                          leaving_t *met)
{
    stor_request_t *request;
    while ((request = stor_waiters_first(&positions->queues[queue])) != NULL &&
           request->wait.key[STOR_WAIT_BY_POINT] <= point) {
        take(positions, request);
        request->wait.run_again = request->wait.kind == STOR_WAIT_TIME;
        leaving_add(met, request);
    }
}

static void queue_empty(stor_positions_t *positions, uint32_t queue, leaving_t *out)
{
    queue_release(positions, queue, UINT64_MAX, out);
}

/* ---- points, under the lock ---- */

static uint64_t queue_point(stor_positions_t *positions, uint32_t queue)
{
    stor_storage_t *storage = positions->storage;
    if (queue == QUEUE_MAJORITY)
        return stor_replication_majority(storage);
    if (queue == QUEUE_TIME)
        return stor_engine_visible(storage->engine);
    if (queue >= QUEUE_MODE)
        return stor_points_mode(&positions->points, queue - QUEUE_MODE, positions->own);
    if (queue >= QUEUE_COUNT)
        return stor_points_count(&positions->points, queue - QUEUE_COUNT, positions->own);
    return 0;
}

/* As a primary by counting; as a secondary what the primary said, as far as it is here, and not
 * before an entry of the present term is: until then what we have may be of another history. */
static uint64_t majority_find(stor_positions_t *positions)
{
    stor_storage_t *storage = positions->storage;
    uint64_t term = stor_replication_term(storage);
    int role = stor_replication_role(storage);
    if (role == VDP_ROLE_PRIMARY)
        return positions->points.first == 0
                   ? 0
                   : stor_points_majority(&positions->points, positions->own);
    if (role != VDP_ROLE_SECONDARY || positions->told_term != term)
        return 0;
    uint64_t applied = stor_engine_visible(storage->engine);
    if (stor_timestamp_term(applied) != (uint8_t)term)
        return 0;
    return applied < positions->told ? applied : positions->told;
}

static void recount(stor_positions_t *positions, leaving_t *met)
{
    atomic_uint_fast64_t *majority = &positions->storage->replication->majority;
    uint64_t found = majority_find(positions);
    if (found > atomic_load(majority)) {
        atomic_store_explicit(majority, found, memory_order_release);
        stor_waits_moved(positions->storage->waits);
    }
    for (uint32_t queue = 0; queue < QUEUES; queue++)
        if (queue != QUEUE_LINEARIZABLE && queue != QUEUE_ANSWER &&
            positions->queues[queue].count > 0)
            queue_release(positions, queue, queue_point(positions, queue), met);
}

/* ---- what becomes of those who did not get what they waited for; without the lock ---- */

static void answer_free(answer_t *answer)
{
    vd_free((void *)(uintptr_t)answer->body.data);
    vd_free(answer);
}

/* Its answer is there: the reply is whole. */
static void answer_finish(stor_request_t *request, answer_t *answer)
{
    vd_error_t err = VD_ERROR_INIT;
    if (answer->code != VD_OK)
        (void)vd_error_set(&err, answer->code, "%s", answer->message);
    else if (answer->body.len > 0)
        vd_bb_concat(&request->reply, answer->body);
    stor_request_finish(request, answer->code, &err);
    request->wait.answer = NULL;
    answer_free(answer);
}

static void fail(stor_request_t *request, int code, const char *message)
{
    vd_error_t err = VD_ERROR_INIT;
    request->wait.run_again = false;
    if (request->wait.kind == STOR_WAIT_WRITE) {
        stor_request_concern_failed(request, code, message);
        return;
    }
    if (request->cursor_id != 0) /* nobody will hear of it */
        (void)stor_cursors_kill(request, request->cursor_id, request->cursor_ns);
    (void)vd_error_set(&err, code, "%s", message);
    stor_request_refuse(request, &err);
}

static void fail_all(const leaving_t *failed, int code, const char *message)
{
    for (stor_request_t *request = failed->first; request != NULL; request = request->next)
        fail(request, code, message);
}

/* Killed, or its time is over. */
static void fail_late(stor_positions_t *positions, stor_request_t *request)
{
    int killed = atomic_load(&request->killed);
    if (killed != 0) {
        fail(request, killed, "operation was interrupted");
    } else if (request->deadline_us != 0 && vd_monotonic_us() >= request->deadline_us) {
        fail(request,
             request->deadline_is_max_time ? VD_ERR_MAX_TIME_MS_EXPIRED
                                           : VD_ERR_EXCEEDED_TIME_LIMIT,
             "operation exceeded time limit");
    } else if (request->wait.kind == STOR_WAIT_WRITE) {
        (void)pthread_mutex_lock(&positions->lock);
        positions->stats.write_timeouts++;
        (void)pthread_mutex_unlock(&positions->lock);
        fail(request, VD_ERR_WRITE_CONCERN_FAILED, "waiting for replication timed out");
    } else {
        fail(request, VD_ERR_EXCEEDED_TIME_LIMIT, "the answer did not come in time");
    }
}

/* ---- parking ---- */

/* The queue of a write concern; else why there is none. */
static int write_queue(stor_positions_t *positions, const stor_request_t *request,
                       uint8_t *ret_queue, vd_error_t *err)
{
    const stor_write_concern_t *concern = &request->write_concern;
    const stor_points_t *points = &positions->points;
    uint32_t mode;
    if (concern->present && concern->mode.len > 0) {
        if (!stor_points_mode_find(points, concern->mode, &mode))
            return vd_error_set(err, VD_ERR_UNKNOWN_REPL_WRITE_CONCERN, UNKNOWN_MODE,
                                VD_SLICE_FMT(concern->mode));
        *ret_queue = (uint8_t)(QUEUE_MODE + mode);
        if (stor_points_mode_possible(points, mode))
            return VD_OK;
    } else if (!concern->present || !concern->has_w || concern->majority) {
        *ret_queue = QUEUE_MAJORITY;
        return VD_OK;
    } else if (stor_points_count_possible(points, concern->w)) {
        *ret_queue = (uint8_t)(QUEUE_COUNT + concern->w); /* 2..STOR_POINT_MEMBERS_MAX */
        return VD_OK;
    }
    return vd_error_set(err, VD_ERR_UNSATISFIABLE_WRITE_CONCERN, UNSATISFIABLE);
}

static const char *role_message(const stor_request_t *request)
{
    switch (request->wait.kind) {
    case STOR_WAIT_WRITE:
        return "Primary stepped down while waiting for replication";
    case STOR_WAIT_LINEARIZABLE:
        return "no longer primary while waiting for a linearizable read";
    default:
        return "operation was interrupted";
    }
}

/* The role or the term is not the one any more under which the request was admitted. */
static int role_check(const stor_positions_t *positions, const stor_request_t *request,
                      vd_error_t *err)
{
    const stor_storage_t *storage = positions->storage;
    int role = stor_replication_role(storage);
    bool leads = role == VDP_ROLE_PRIMARY;
    bool same_term = request->term == stor_replication_term(storage);
    switch (request->wait.kind) {
    case STOR_WAIT_WRITE:
        if (leads && same_term)
            return VD_OK;
        return vd_error_set(err, VD_ERR_PRIMARY_STEPPED_DOWN, "%s", role_message(request));
    case STOR_WAIT_LINEARIZABLE:
        if (leads && same_term)
            return VD_OK;
        return vd_error_set(err, VD_ERR_NOT_WRITABLE_PRIMARY, "%s", role_message(request));
    case STOR_WAIT_MAJORITY:
        if ((leads || role == VDP_ROLE_SECONDARY) && same_term)
            return VD_OK;
        return vd_error_set(err, VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE, "%s",
                            role_message(request));
    default:
        return VD_OK;
    }
}

static uint64_t deadline_of(const stor_request_t *request)
{
    uint64_t deadline = request->deadline_us == 0 ? UINT64_MAX : request->deadline_us;
    uint64_t now = vd_monotonic_us(), own = UINT64_MAX;
    if (request->wait.kind == STOR_WAIT_WRITE && request->write_concern.timeout_ms != 0)
        own = now + request->write_concern.timeout_ms * 1000;
    if (request->wait.kind == STOR_WAIT_ANSWER)
        own = now + ANSWER_WAIT_US;
    return own < deadline ? own : deadline;
}

typedef enum { GO_ON, PARKED, FAILED, LATE } outcome_t;

static bool reached(stor_positions_t *positions, const stor_request_t *request)
{
    const stor_wait_t *wait = &request->wait;
    if (wait->kind == STOR_WAIT_ANSWER)
        return ((const answer_t *)wait->answer)->answered;
    return wait->queue != QUEUE_LINEARIZABLE &&
           queue_point(positions, wait->queue) >= wait->key[STOR_WAIT_BY_POINT];
}

/* Under the lock. */
static outcome_t enter(stor_positions_t *positions, stor_request_t *request, uint8_t queue,
                       uint64_t timestamp, vd_error_t *err)
{
    stor_wait_t *wait = &request->wait;
    wait->queue = queue;
    wait->key[STOR_WAIT_BY_POINT] = timestamp;
    if (wait->kind == STOR_WAIT_WRITE &&
        write_queue(positions, request, &wait->queue, err) != VD_OK)
        return FAILED;
    if (role_check(positions, request, err) != VD_OK)
        return FAILED;
    if (reached(positions, request))
        return GO_ON;
    if (positions->closing) {
        (void)vd_error_set(err, VD_ERR_INTERRUPTED_AT_SHUTDOWN, "interrupted at shutdown");
        return FAILED;
    }
    wait->key[STOR_WAIT_BY_DEADLINE] = deadline_of(request);
    if (atomic_load(&request->killed) != 0 || wait->key[STOR_WAIT_BY_DEADLINE] <= vd_monotonic_us())
        return LATE;
    put(positions, request);
    if (wait->queue == QUEUE_LINEARIZABLE || wait->queue == QUEUE_TIME ||
        stor_waiters_first(&positions->deadlines) == request)
        (void)pthread_cond_signal(&positions->wake);
    return PARKED;
}

/* An answer that is not wanted any more: who comes later frees it. */
static void answer_abandon(stor_positions_t *positions, stor_request_t *request)
{
    answer_t *answer = request->wait.answer;
    if (request->wait.kind != STOR_WAIT_ANSWER || answer == NULL)
        return;
    request->wait.answer = NULL;
    (void)pthread_mutex_lock(&positions->lock);
    answer->request = NULL;
    bool answered = answer->answered;
    (void)pthread_mutex_unlock(&positions->lock);
    if (answered)
        answer_free(answer);
}

bool stor_positions_wait(stor_positions_t *positions, stor_request_t *request)
{
    static const uint8_t queues[] = {
        [STOR_WAIT_MAJORITY] = QUEUE_MAJORITY,
        [STOR_WAIT_LINEARIZABLE] = QUEUE_LINEARIZABLE,
        [STOR_WAIT_TIME] = QUEUE_TIME,
        [STOR_WAIT_ANSWER] = QUEUE_ANSWER,
    };
    stor_wait_t *wait = &request->wait;
    vd_error_t err = VD_ERROR_INIT;
    if (wait->kind == STOR_WAIT_NOTHING)
        return true;
    uint64_t timestamp = wait->kind == STOR_WAIT_TIME     ? request->after_cluster_time
                         : wait->kind == STOR_WAIT_ANSWER ? UINT64_MAX
                                                          : request->depends_on;
    (void)pthread_mutex_lock(&positions->lock);
    outcome_t outcome = enter(positions, request, queues[wait->kind], timestamp, &err);
    (void)pthread_mutex_unlock(&positions->lock);
    if (outcome == PARKED)
        return false; /* may be gone already */
    if (outcome == GO_ON && wait->kind == STOR_WAIT_ANSWER)
        answer_finish(request, wait->answer);
    else if (outcome == GO_ON)
        wait->run_again = wait->kind == STOR_WAIT_TIME;
    if (outcome == FAILED || outcome == LATE)
        answer_abandon(positions, request);
    if (outcome == FAILED)
        fail(request, err.code, err.message);
    if (outcome == LATE)
        fail_late(positions, request);
    return true;
}

void stor_positions_forget(stor_positions_t *positions, stor_request_t *request)
{
    if (positions == NULL)
        return;
    /* Called under the registry's lock, so the thread does the rest. */
    (void)pthread_mutex_lock(&positions->lock);
    if (request->wait.parked) {
        request->wait.key[STOR_WAIT_BY_DEADLINE] = 0;
        stor_waiters_hurry(&positions->deadlines, request);
        (void)pthread_cond_signal(&positions->wake);
    }
    (void)pthread_mutex_unlock(&positions->lock);
}

/* ---- what moves the points ---- */

void stor_positions_note(stor_positions_t *positions, uint64_t term, uint64_t majority,
                         const vdp_position_t *members, uint32_t count)
{
    leaving_t met;
    leaving_init(&met);
    stor_replication_heard(positions->storage);
    (void)pthread_mutex_lock(&positions->lock);
    if (term == stor_replication_term(positions->storage)) {
        for (uint32_t i = 0; i < count; i++)
            stor_points_note(&positions->points, &members[i]);
        if (positions->told_term != term || majority > positions->told) {
            positions->told_term = term;
            positions->told = majority;
        }
        recount(positions, &met);
    }
    (void)pthread_mutex_unlock(&positions->lock);
    hand_on(positions, &met);
}

void stor_positions_flushed(stor_positions_t *positions, uint64_t durable)
{
    leaving_t met;
    leaving_init(&met);
    (void)pthread_mutex_lock(&positions->lock);
    positions->own = durable;
    recount(positions, &met);
    (void)pthread_mutex_unlock(&positions->lock);
    hand_on(positions, &met);
}

void stor_positions_applied(stor_positions_t *positions)
{
    leaving_t met;
    leaving_init(&met);
    (void)pthread_mutex_lock(&positions->lock);
    if (positions->queues[QUEUE_TIME].count > 0)
        queue_release(positions, QUEUE_TIME, queue_point(positions, QUEUE_TIME), &met);
    (void)pthread_mutex_unlock(&positions->lock);
    hand_on(positions, &met);
}

void stor_positions_term(stor_positions_t *positions, uint64_t term, uint64_t first)
{
    (void)term; /* the entry's timestamp holds it */
    (void)pthread_mutex_lock(&positions->lock);
    stor_points_term(&positions->points, first);
    if (positions->own < first)
        positions->own = first; /* flushed, and all before it */
    (void)pthread_mutex_unlock(&positions->lock);
}

uint64_t stor_positions_first(stor_positions_t *positions)
{
    (void)pthread_mutex_lock(&positions->lock);
    uint64_t first = positions->points.first;
    (void)pthread_mutex_unlock(&positions->lock);
    return first;
}

/* All that wait are looked at again, as if they came now; those that can't be met any more fail. A
 * wtimeout goes on from where it was. */
static void review(stor_positions_t *positions, leaving_t *again, leaving_t *met, leaving_t *failed)
{
    leaving_t all;
    leaving_init(&all);
    queue_empty(positions, QUEUE_TIME, again);
    for (uint32_t queue = 0; queue < QUEUES; queue++)
        if (queue != QUEUE_ANSWER)
            queue_empty(positions, queue, &all);
    for (stor_request_t *request = all.first, *next; request != NULL; request = next) {
        stor_wait_t *wait = &request->wait;
        vd_error_t err = VD_ERROR_INIT;
        next = request->next;
        wait->code = role_check(positions, request, &err);
        if (wait->code == VD_OK && wait->kind == STOR_WAIT_WRITE)
            wait->code = write_queue(positions, request, &wait->queue, &err);
        if (wait->code != VD_OK)
            leaving_add(failed, request);
        else if (reached(positions, request))
            leaving_add(met, request);
        else
            put(positions, request);
    }
}

static void review_fail(stor_positions_t *positions, const leaving_t *failed)
{
    uint64_t count = 0;
    for (stor_request_t *request = failed->first; request != NULL; request = request->next) {
        vd_slice_t mode = request->write_concern.mode;
        char message[MESSAGE_MAX];
        switch (request->wait.code) {
        case VD_ERR_UNKNOWN_REPL_WRITE_CONCERN:
            (void)snprintf(message, sizeof message, UNKNOWN_MODE, VD_SLICE_FMT(mode));
            break;
        case VD_ERR_UNSATISFIABLE_WRITE_CONCERN:
            (void)snprintf(message, sizeof message, UNSATISFIABLE);
            break;
        default:
            (void)snprintf(message, sizeof message, "%s", role_message(request));
            break;
        }
        fail(request, request->wait.code, message);
        count++;
    }
    (void)pthread_mutex_lock(&positions->lock);
    positions->stats.interrupted += count;
    (void)pthread_mutex_unlock(&positions->lock);
}

void stor_positions_changed(stor_positions_t *positions)
{
    stor_storage_t *storage = positions->storage;
    const char *name = storage->settings.node_name;
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t config = stor_replication_config(storage, arena);
    leaving_t met, failed;
    leaving_init(&met);
    leaving_init(&failed);
    (void)pthread_mutex_lock(&positions->lock);
    stor_points_configure(&positions->points, config, name == NULL ? "" : name);
    review(positions, &met, &met, &failed);
    recount(positions, &met);
    (void)pthread_mutex_unlock(&positions->lock);
    vd_arena_destroy(&arena);
    review_fail(positions, &failed);
    hand_on(positions, &met);
    hand_on(positions, &failed);
}

/* ---- asks ---- */

static void answered(void *context, int code, vd_slice_t message, vd_slice_t body)
{
    answer_t *answer = context;
    stor_positions_t *positions = answer->positions;
    leaving_t met;
    leaving_init(&met);
    answer->code = code;
    (void)snprintf(answer->message, sizeof answer->message, "%.*s", VD_SLICE_FMT(message));
    if (body.len > 0 && vd_bson_validate(body, 0, VD_BSON_DEPTH_MAX, NULL) == VD_OK) {
        uint8_t *copy = vd_xalloc(body.len);
        memcpy(copy, body.data, body.len);
        answer->body = (vd_bson_t){copy, (uint32_t)body.len};
    }
    (void)pthread_mutex_lock(&positions->lock);
    stor_request_t *request = answer->request;
    answer->answered = true;
    bool parked = request != NULL && request->wait.parked;
    if (parked)
        take(positions, request);
    (void)pthread_mutex_unlock(&positions->lock);
    if (request == NULL) {
        answer_free(answer);
    } else if (parked) {
        answer_finish(request, answer);
        leaving_add(&met, request);
        hand_on(positions, &met);
    } /* else its handler is about to wait, and will find it */
}

int stor_positions_ask(stor_request_t *request, const vdp_replication_ask_t *ask, vd_slice_t body,
                       vd_error_t *err)
{
    stor_storage_t *storage = request->storage;
    if (stor_replication_alone(storage))
        return vd_error_set(err, VD_ERR_NO_REPLICATION_ENABLED,
                            "This node was not started with replication enabled.");
    return stor_positions_ask_by(request, storage->replication->positions->ask, ask, body, err);
}

int stor_positions_ask_by(stor_request_t *request, stor_positions_ask_t asker,
                          const vdp_replication_ask_t *ask, vd_slice_t body, vd_error_t *err)
{
    stor_storage_t *storage = request->storage;
    stor_positions_t *positions = storage->replication->positions;
    answer_t *answer = vd_xalloc(sizeof *answer);
    answer->positions = positions;
    answer->request = request;
    request->wait.kind = STOR_WAIT_ANSWER;
    request->wait.answer = answer;
    int rc = asker(storage, ask, body, answered, answer, err);
    if (rc == VD_OK)
        return VD_OK;
    request->wait.kind = STOR_WAIT_NOTHING;
    request->wait.answer = NULL;
    answer_free(answer);
    return rc;
}

/* ---- the thread ---- */

static void expire(stor_positions_t *positions, uint64_t now, leaving_t *late)
{
    stor_request_t *request;
    while ((request = stor_waiters_first(&positions->deadlines)) != NULL &&
           request->wait.key[STOR_WAIT_BY_DEADLINE] <= now) {
        answer_t *answer = request->wait.answer;
        take(positions, request);
        if (request->wait.kind == STOR_WAIT_ANSWER)
            answer->request = NULL; /* it frees itself when it comes */
        request->wait.answer = NULL;
        leaving_add(late, request);
    }
}

/* A no-op entry brings the clock to where somebody waits for it: once it can get there. */
static bool time_wants_noop(const stor_positions_t *positions)
{
    const stor_request_t *request = stor_waiters_first(&positions->queues[QUEUE_TIME]);
    stor_storage_t *storage = positions->storage;
    if (request == NULL || stor_replication_role(storage) != VDP_ROLE_PRIMARY)
        return false;
    uint64_t wanted = request->wait.key[STOR_WAIT_BY_POINT];
    return wanted > stor_engine_newest(storage->engine) &&
           (uint64_t)vd_wall_ms() / 1000 >= stor_timestamp_seconds(wanted);
}

/* One entry for all that have read before it. */
static void noop_write(stor_positions_t *positions, leaving_t *readers)
{
    static const uint8_t text[] = "\x0e\0\0\0periodic noop";
    leaving_t out;
    uint64_t timestamp = 0;
    vd_error_t err = VD_ERROR_INIT;
    leaving_init(&out);
    int rc =
        stor_replication_noop(positions->storage, positions->session,
                              (vd_value_t){text, sizeof text, VD_BSON_STRING}, &timestamp, &err);
    if (rc == VD_OK)
        stor_engine_flush_soon(positions->storage->engine);
    (void)pthread_mutex_lock(&positions->lock);
    positions->stats.noops += rc == VD_OK;
    (void)pthread_mutex_unlock(&positions->lock);
    for (stor_request_t *request = readers->first, *next; request != NULL; request = next) {
        vd_error_t step = VD_ERROR_INIT;
        outcome_t outcome = FAILED;
        next = request->next;
        if (rc == VD_OK) {
            (void)pthread_mutex_lock(&positions->lock);
            outcome = enter(positions, request, QUEUE_MAJORITY, timestamp, &step);
            (void)pthread_mutex_unlock(&positions->lock);
        } else {
            vd_error_copy(&err, &step);
        }
        if (outcome == FAILED)
            fail(request, step.code, step.message);
        if (outcome == LATE)
            fail_late(positions, request);
        if (outcome != PARKED)
            leaving_add(&out, request);
    }
    hand_on(positions, &out);
}

static void rest(stor_positions_t *positions)
{
    const stor_request_t *first = stor_waiters_first(&positions->deadlines);
    uint64_t now = vd_monotonic_us(), look = LOOK_US;
    if (positions->queues[QUEUE_TIME].count > 0)
        look = TIME_LOOK_US;
    uint64_t until = now + look;
    if (first != NULL && first->wait.key[STOR_WAIT_BY_DEADLINE] < until)
        until = first->wait.key[STOR_WAIT_BY_DEADLINE];
    struct timespec at = {(time_t)(until / 1000000), (long)(until % 1000000) * 1000};
    (void)pthread_cond_timedwait(&positions->wake, &positions->lock, &at); /* the loop looks */
}

/* One look, under the lock at both ends. True: something was done. */
static bool step(stor_positions_t *positions)
{
    leaving_t late, readers, met;
    leaving_init(&late);
    leaving_init(&readers);
    leaving_init(&met);
    expire(positions, vd_monotonic_us(), &late);
    if (positions->queues[QUEUE_TIME].count > 0)
        queue_release(positions, QUEUE_TIME, queue_point(positions, QUEUE_TIME), &met);
    bool noop = time_wants_noop(positions) || positions->queues[QUEUE_LINEARIZABLE].count > 0;
    queue_empty(positions, QUEUE_LINEARIZABLE, &readers);
    (void)pthread_mutex_unlock(&positions->lock);
    for (stor_request_t *request = late.first; request != NULL; request = request->next)
        fail_late(positions, request);
    hand_on(positions, &late);
    hand_on(positions, &met);
    if (noop)
        noop_write(positions, &readers);
    bool lost = stor_replication_lease_check(positions->storage);
    (void)pthread_mutex_lock(&positions->lock);
    return late.first != NULL || readers.first != NULL || lost;
}

static void *run(void *context)
{
    stor_positions_t *positions = context;
    (void)pthread_mutex_lock(&positions->lock);
    while (!positions->closing)
        if (!step(positions) && !positions->closing)
            rest(positions);
    (void)pthread_mutex_unlock(&positions->lock);
    return NULL;
}

int stor_positions_start(stor_positions_t *positions, vd_error_t *err)
{
    stor_storage_t *storage = positions->storage;
    if (stor_replication_alone(storage))
        return VD_OK;
    int rc = stor_session_open(storage->engine, &positions->session, err);
    if (rc != VD_OK)
        return rc;
    if (vd_thread_start(&positions->thread, run, positions) != 0)
        return vd_error_set(err, VD_ERR_INTERNAL, "the positions' thread could not be started");
    (void)pthread_setname_np(positions->thread, "positions");
    positions->started = true;
    return VD_OK;
}

void stor_positions_stop(stor_positions_t *positions)
{
    leaving_t all;
    leaving_init(&all);
    (void)pthread_mutex_lock(&positions->lock);
    positions->closing = true;
    (void)pthread_cond_signal(&positions->wake);
    (void)pthread_mutex_unlock(&positions->lock);
    if (positions->started)
        (void)pthread_join(positions->thread, NULL);
    positions->started = false;
    stor_session_close(&positions->session);
    (void)pthread_mutex_lock(&positions->lock);
    expire(positions, UINT64_MAX, &all);
    (void)pthread_mutex_unlock(&positions->lock);
    fail_all(&all, VD_ERR_INTERRUPTED_AT_SHUTDOWN, "interrupted at shutdown");
    hand_on(positions, &all);
}

/* ---- index builds ---- */

void stor_positions_builds_note(stor_positions_t *positions, uint64_t term, vd_slice_t builds)
{
    (void)pthread_mutex_lock(&positions->lock);
    positions->builds_term = term;
    positions->builds_len = builds.len <= sizeof positions->builds ? builds.len : 0;
    if (positions->builds_len > 0)
        memcpy(positions->builds, builds.data, positions->builds_len);
    (void)pthread_mutex_unlock(&positions->lock);
}

/* Whether the record of `member` names the build. */
static bool has_built(const stor_positions_t *positions, uint32_t member, uint64_t build)
{
    size_t at = 0;
    while (positions->builds_len - at >= 8) {
        const uint8_t *record = positions->builds + at;
        uint32_t count = vd_get_u32(record + 4);
        if (count > (positions->builds_len - at - 8) / 8)
            return false;
        for (uint32_t i = 0; vd_get_u32(record) == member && i < count; i++)
            if (vd_get_u64(record + 8 + 8 * (size_t)i) == build)
                return true;
        at += 8 + 8 * (size_t)count;
    }
    return false;
}

void stor_positions_built(stor_positions_t *positions, uint64_t build, vd_value_t quorum,
                          stor_positions_built_t *ret)
{
    bool have[STOR_POINT_MEMBERS_MAX] = {false};
    const stor_points_t *points = &positions->points;
    uint32_t mode;
    int64_t count = 0;
    (void)pthread_mutex_lock(&positions->lock);
    bool fresh = positions->builds_term == stor_replication_term(positions->storage);
    for (uint32_t i = 0; i < points->member_count; i++)
        have[i] = points->members[i].self ||
                  (fresh && has_built(positions, points->members[i].id, build));
    stor_points_have_t is = stor_points_have(points, have);
    *ret = (stor_positions_built_t){.all_voters = is.all_voters, .majority = is.majority};
    if (vd_value_as_int64(quorum, &count))
        ret->met = count <= (int64_t)is.count;
    else if (quorum.type != VD_BSON_STRING || vd_slice_is(vd_value_string(quorum), "votingMembers"))
        ret->met = is.all_voters;
    else if (vd_slice_is(vd_value_string(quorum), "majority"))
        ret->met = is.majority;
    else /* one that was taken out of the configuration can't be waited for */
        ret->met = !stor_points_mode_find(points, vd_value_string(quorum), &mode) ||
                   stor_points_mode_have(points, mode, have);
    (void)pthread_mutex_unlock(&positions->lock);
}

int stor_positions_quorum_check(stor_positions_t *positions, vd_value_t quorum, vd_error_t *err)
{
    int rc = VD_OK;
    int64_t count = 0;
    uint32_t mode;
    bool named = quorum.type == VD_BSON_STRING;
    vd_slice_t name = named ? vd_value_string(quorum) : VD_SLICE_NULL;
    (void)pthread_mutex_lock(&positions->lock);
    const stor_points_t *points = &positions->points;
    bool possible = true;
    if (named && !vd_slice_is(name, "votingMembers") && !vd_slice_is(name, "majority")) {
        if (!stor_points_mode_find(points, name, &mode))
            rc = vd_error_set(err, VD_ERR_UNKNOWN_REPL_WRITE_CONCERN, UNKNOWN_MODE,
                              VD_SLICE_FMT(name));
        else
            possible = stor_points_mode_possible(points, mode);
    } else if (!named && vd_value_as_int64(quorum, &count)) {
        possible = stor_points_count_possible(points, count);
    }
    (void)pthread_mutex_unlock(&positions->lock);
    if (rc == VD_OK && !possible)
        rc = vd_error_set(err, VD_ERR_UNSATISFIABLE_COMMIT_QUORUM,
                          "Commit quorum cannot be satisfied with the current replica set "
                          "configuration");
    return rc;
}

/* ---- life ---- */

static void to_inbox(stor_request_t *list, void *context)
{
    stor_positions_t *positions = context;
    stor_inbox_concern_met(positions->storage->inbox, list);
}

stor_positions_t *stor_positions_create(stor_storage_t *storage)
{
    stor_positions_t *positions = vd_xalloc(sizeof *positions);
    pthread_condattr_t attr;
    positions->storage = storage;
    (void)pthread_mutex_init(&positions->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&positions->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    positions->deadlines.order = STOR_WAIT_BY_DEADLINE;
    stor_points_init(&positions->points);
    positions->released = to_inbox;
    positions->released_context = positions;
    positions->ask = stor_replication_ask;
    return positions;
}

void stor_positions_destroy(stor_positions_t **positions_p)
{
    stor_positions_t *positions = *positions_p;
    if (positions == NULL)
        return;
    VD_ASSERT(!positions->started);
    for (uint32_t queue = 0; queue < QUEUES; queue++)
        stor_waiters_done(&positions->queues[queue]);
    stor_waiters_done(&positions->deadlines);
    stor_points_done(&positions->points);
    (void)pthread_mutex_destroy(&positions->lock);
    (void)pthread_cond_destroy(&positions->wake);
    vd_free(positions);
    *positions_p = NULL;
}

void stor_positions_stats(stor_positions_t *positions, stor_positions_stats_t *ret_stats)
{
    (void)pthread_mutex_lock(&positions->lock);
    *ret_stats = positions->stats;
    ret_stats->majority = stor_replication_majority(positions->storage);
    ret_stats->own = positions->own;
    ret_stats->first = positions->points.first;
    ret_stats->members = positions->points.member_count;
    ret_stats->voters = stor_points_voters(&positions->points);
    ret_stats->majority_count = stor_points_majority_count(&positions->points);
    (void)pthread_mutex_unlock(&positions->lock);
}

void stor_positions_divert(stor_positions_t *positions,
                           void (*released)(stor_request_t *list, void *context), void *context)
{
    positions->released = released;
    positions->released_context = context;
}

void stor_positions_divert_ask(stor_positions_t *positions, stor_positions_ask_t ask)
{
    positions->ask = ask;
}
