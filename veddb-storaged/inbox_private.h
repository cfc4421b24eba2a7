/* veddb-storaged/inbox_private.h — what the files of the inbox share: inbox.c (its life, and what
 * leaves), inbox_arrive.c (what arrives), inbox_workers.c (lanes, workers, parking).
 *
 * Owner:   inbox.c makes and ends it.
 * Threads: as each field and each function says; lanes under inbox->lock. */
#pragma once
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/link.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/request_queue.h"

#include <limits.h>
#include <pthread.h>

typedef struct stor_inbox_worker {
    stor_inbox_t *inbox;
    stor_session_t *session;
    vd_daemon_slot_t *slot; /* NULL without a daemon */
    struct stor_lane *lane;
    pthread_t thread;
    pthread_cond_t wake;
    struct stor_inbox_worker *next_idle;
    bool idle, started;
} stor_inbox_worker_t;

/* Under inbox->lock. */
typedef struct stor_lane {
    stor_queue_t queue;
    /* Since when the first of the queue waits; 0: nobody does. When that one was given up it stays
     * until a worker comes: others would not have been taken before. */
    _Atomic uint64_t next_since_us;
    stor_inbox_worker_t *idle;
    uint32_t running;
    /* So much waits that another worker is woken for it. A wake costs as much as several quick
     * operations; where one blocks, the next turn's arrivals find its leftovers (step_dispatch), or
     * a timer does (left_due). */
    uint32_t wake_depth;
} stor_lane_t;

enum { STOR_LANE_QUICK, STOR_LANE_LONG, STOR_LANE_COUNT };

typedef struct {
    uint64_t id; /* of the link's peer; 0 = free */
    bool attached;
} stor_inbox_peer_t;

struct stor_inbox {
    stor_storage_t *storage;
    vd_daemon_t *daemon;
    char path[PATH_MAX];

    /* The I/O thread's own. */
    pthread_t thread;
    vd_loop_t *loop;
    vd_link_t *link;
    vd_source_t *reply_step, *dispatch_step, *state_timer, *unsent_timer, *sweep_timer, *left_timer;
    stor_inbox_peer_t peers[VD_LINK_PEERS_MAX];
    stor_queue_t arrived[STOR_LANE_COUNT];
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
    stor_lane_t lanes[STOR_LANE_COUNT];
    stor_inbox_worker_t *workers; /* those of the quick lane first */
    uint32_t worker_count;
    bool stopping; /* under lock */

    _Atomic(stor_request_t *) done;
    atomic_uint_fast64_t inflight, parked, refused, received, given_up;
    atomic_bool drain_asked, sweep_asked;
    void (*drained)(void *context);
    void *drained_context;
};

/* ---- lanes, under the lock ---- */

/* A worker has come to the lane's queue, under the lock. */
static inline void stor_lane_note_next(stor_lane_t *lane)
{
    const stor_request_t *next = lane->queue.first;
    atomic_store_explicit(&lane->next_since_us, next == NULL ? 0 : next->queued_us,
                          memory_order_relaxed);
}

/* The queue has grown, under the lock. */
static inline void stor_lane_note_more(stor_lane_t *lane)
{
    if (atomic_load_explicit(&lane->next_since_us, memory_order_relaxed) == 0)
        stor_lane_note_next(lane);
}

static inline stor_inbox_worker_t *stor_lane_idle_take(stor_lane_t *lane)
{
    stor_inbox_worker_t *worker = lane->idle;
    if (worker != NULL) {
        lane->idle = worker->next_idle;
        worker->idle = false;
    }
    return worker;
}

/* ---- inbox_workers.c ---- */

/* Pushes a chain first..last of finished requests; wakes the I/O thread when it may sleep. Any
 * thread. */
void stor_inbox_done_push(stor_inbox_t *inbox, stor_request_t *first, stor_request_t *last);
/* The head of its reply, from what the request says. Whoever has the request. */
void stor_inbox_reply_encode(stor_request_t *request);
/* A wait is over (thread of waits): getMores run again all together, by one worker first. */
void stor_inbox_await_over(stor_request_t *first, void *context);
/* By whoever starts and stops the inbox. */
VD_MUST_CHECK int stor_inbox_worker_start(stor_inbox_t *inbox, uint32_t i, vd_error_t *err);
void stor_inbox_workers_stop(stor_inbox_t *inbox);

/* ---- the I/O thread's: inbox_arrive.c ---- */

void stor_inbox_message_send(stor_inbox_t *inbox, uint64_t peer, const vdp_message_t *message,
                             const void *fields, uint64_t request_id);
/* To all gateways; context: the inbox. */
void stor_inbox_state_send(void *context);
/* The link's callbacks. */
void stor_inbox_peer_changed(void *context, uint64_t id, bool up);
void stor_inbox_item_arrived(void *context, uint64_t peer, vd_slice_t item);

/* ---- the I/O thread's: inbox.c ---- */

/* A request with an empty arena, from the pool and back. */
stor_request_t *stor_inbox_request_take(stor_inbox_t *inbox);
void stor_inbox_request_give(stor_inbox_t *inbox, stor_request_t *request);
/* Somebody who waits is late at that time. */
void stor_inbox_sweep_at(stor_inbox_t *inbox, uint64_t at_us);
