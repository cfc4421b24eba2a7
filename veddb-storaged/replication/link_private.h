/* veddb-storaged/replication/link_private.h — what link.c, link_messages.c and link_workers.c
 * share; no one else includes it. A question's way stands at the top of link.c. */
#pragma once
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/link.h"
#include "proto/heads.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/replication/link.h"
#include "veddb-storaged/replication/load.h"

#include <limits.h>
#include <pthread.h>

#define STOR_LINK_HEAD_MAX_BYTES (64 * 1024)
#define STOR_LINK_ITEM_MAX_BYTES (VDP_ENTRIES_MAX + STOR_LINK_HEAD_MAX_BYTES)

typedef struct stor_link_job stor_link_job_t;

typedef struct {
    uint32_t id;
    const vdp_message_t *message, *answer;
    enum { HERE, APPLIER, COPIER } where;
    bool notice;
    /* States in which it is refused, or must be. */
    bool never_primary, never_loading, only_loading;
    int (*run)(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job,
               vd_error_t *err);
} stor_link_row_t;

typedef union {
    vdp_replication_attach_t attach;
    vdp_replication_role_t role;
    vdp_replication_topology_t topology;
    vdp_replication_tail_t tail;
    vdp_replication_apply_t apply;
    vdp_replication_positions_t positions;
    vdp_replication_config_t config;
    vdp_replication_status_t status;
    vdp_replication_answer_t answer;
    vdp_replication_find_t find;
    vdp_replication_count_t count;
    vdp_audit_keep_t audit_keep;
    vdp_audit_held_t audit_held;
    vdp_replication_rollback_t rollback;
    vdp_snapshot_open_t open;
    vdp_snapshot_read_t read;
    vdp_snapshot_chunk_t chunk;
    vdp_snapshot_close_t close;
    vdp_load_begin_t begin;
    vdp_load_end_t end;
} stor_link_asked_t;

typedef union {
    vdp_replication_state_t state;
    vdp_replication_role_set_t role_set;
    vdp_replication_batch_t batch;
    vdp_replication_applied_t applied;
    vdp_replication_config_set_t config_set;
    vdp_replication_found_t found;
    vdp_replication_counted_t counted;
    vdp_audit_peer_held_t audit_kept;
    vdp_replication_rolled_back_t rolled_back;
    vdp_snapshot_opened_t opened;
    vdp_snapshot_chunk_t chunk;
    vdp_load_state_t load_state;
    vdp_load_chunk_done_t chunk_done;
    vdp_load_ended_t ended;
} stor_link_answer_t;

struct stor_link_job {
    stor_link_job_t *next;
    const stor_link_row_t *row;
    uint64_t peer, request_id;
    vd_buf_t item; /* own copy, borrowed by asked and body; empty for what runs at once */
    stor_link_asked_t asked;
    vd_slice_t body;
    stor_link_answer_t answer;
    vd_buf_t out;      /* the answer's body */
    vd_buf_t text;     /* what the answer's slices point to */
    uint64_t durable;  /* the answer waits until this is on disk */
    uint64_t until_ms; /* TAIL: monotonic */
    int rc;
    vd_error_t err;
};

typedef struct {
    stor_link_job_t *first, **last;
    uint32_t count;
} stor_link_queue_t;

typedef struct {
    stor_replication_link_t *link;
    const char *name;
    stor_session_t *session;
    vd_daemon_slot_t *slot;
    pthread_t thread;
    bool started, stopping;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    stor_link_queue_t jobs, applies; /* an APPLY waits for its time without holding up the others */
    int64_t apply_due_ms;            /* wall clock; 0 = now */
} stor_link_worker_t;

typedef struct {
    uint32_t role, generation;
    uint64_t term;
    bool ready, loading;
    uint64_t builds[VDP_BUILDS_MAX]; /* index builds that are ready */
    uint32_t build_count;
} stor_link_told_t;

struct stor_replication_link {
    stor_storage_t *storage;
    vd_daemon_t *daemon;
    char path[PATH_MAX];
    pthread_t thread;
    vd_loop_t *loop;
    vd_link_t *link;
    vd_source_t *out_step, *state_timer, *tail_timer;
    stor_session_t *session;
    uint64_t peer; /* the attached replicad; 0 = none */
    stor_link_told_t told;
    uint8_t set_id[12]; /* of the state that is sent */
    stor_link_queue_t tails, held;
    vd_buf_t item;
    stor_link_worker_t applier, copier;
    bool known; /* a load that can go on: which; under the replication's lock */
    stor_load_known_t load;
    uint64_t floor;                /* the same */
    atomic_bool loading, forsaken; /* forsaken: rolled back, so what is here counts for nothing */
    atomic_bool watching;          /* somebody waits for the durable point */
    _Atomic(stor_link_job_t *) done;

    pthread_mutex_t start_lock;
    pthread_cond_t start_done;
    bool started;
    int start_rc;
    vd_error_t start_error;

    stor_asks_t asks;
    uint64_t head_peer, head_serial; /* of our audit log, told to that replicad */
};

/* ---- link.c ---- */
/* STATE or ATTACHED to the attached replicad. The loop's thread. */
void stor_link_state_send(stor_replication_link_t *link, const vdp_message_t *message,
                          uint64_t request_id);

/* ---- link_messages.c ---- */
/* NULL: no such message is for storage. */
const stor_link_row_t *stor_link_row(uint32_t id);
/* Looks whether the state permits it, and does it. Any thread that owns the session. */
void stor_link_job_run(stor_replication_link_t *link, stor_session_t *session,
                       stor_link_job_t *job);

/* ---- link_workers.c ---- */
void stor_link_queue_init(stor_link_queue_t *queue);
void stor_link_queue_push(stor_link_queue_t *queue, stor_link_job_t *job);
stor_link_job_t *stor_link_queue_pop(stor_link_queue_t *queue); /* NULL: empty */
void stor_link_queue_free(stor_link_queue_t *queue);
stor_link_job_t *stor_link_job_make(const stor_link_row_t *row, uint64_t peer, uint64_t request_id);
void stor_link_job_free(stor_link_job_t *job);
void stor_link_worker_init(stor_link_worker_t *worker);
VD_MUST_CHECK int stor_link_worker_start(stor_replication_link_t *link, stor_link_worker_t *worker,
                                         const char *name, vd_error_t *err);
void stor_link_worker_stop(stor_link_worker_t *worker);
/* Takes the job when it returns VD_OK. */
VD_MUST_CHECK int stor_link_worker_push(stor_link_worker_t *worker, stor_link_job_t *job,
                                        vd_error_t *err);
