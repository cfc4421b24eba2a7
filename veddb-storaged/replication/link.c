/* veddb-storaged/replication/link.c — see link.h.
 *
 * A question's way: item_arrived (loop's thread) -> answered at once, or a job with its own copy of
 * the item -> its worker's queue -> run -> done stack -> answered by the loop's thread, an APPLY
 * not before it is durable. */
#include "veddb-storaged/replication/link.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/link.h"
#include "proto/failure.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/replication/apply.h"
#include "veddb-storaged/replication/load.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/replication/snapshot.h"
#include "veddb-storaged/replication/tail.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#define OUT_STEP_ORDER  (VD_LINK_STEP_ORDER - 50)
#define STATE_PERIOD_MS 250
#define HEAD_MAX_BYTES  (64 * 1024)
#define ITEM_MAX_BYTES  (VDP_ENTRIES_MAX + HEAD_MAX_BYTES)
#define BATCH_MAX_BYTES (32u * 1024 * 1024)
#define QUEUED_ENOUGH   (64u * 1024 * 1024) /* given to the link: a BATCH waits until less is */
#define FOUND_MAX       64
#define POSITIONS_MAX   64

typedef struct job job_t;
typedef struct stor_replication_link link_t;

typedef struct {
    uint32_t id;
    const vdp_message_t *message, *answer;
    enum { HERE, APPLIER, COPIER } where;
    bool notice;
    /* States in which it is refused, or must be. */
    bool never_primary, never_loading, only_loading;
    int (*run)(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err);
} row_t;

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
    vdp_replication_rollback_t rollback;
    vdp_snapshot_open_t open;
    vdp_snapshot_read_t read;
    vdp_snapshot_chunk_t chunk;
    vdp_snapshot_close_t close;
    vdp_load_begin_t begin;
    vdp_load_end_t end;
} asked_t;

typedef union {
    vdp_replication_state_t state;
    vdp_replication_role_set_t role_set;
    vdp_replication_batch_t batch;
    vdp_replication_applied_t applied;
    vdp_replication_config_set_t config_set;
    vdp_replication_found_t found;
    vdp_replication_rolled_back_t rolled_back;
    vdp_snapshot_opened_t opened;
    vdp_snapshot_chunk_t chunk;
    vdp_load_state_t load_state;
    vdp_load_chunk_done_t chunk_done;
    vdp_load_ended_t ended;
} answer_t;

struct job {
    job_t *next;
    const row_t *row;
    uint64_t peer, request_id;
    vd_buf_t item; /* own copy, borrowed by asked and body; empty for what runs at once */
    asked_t asked;
    vd_slice_t body;
    answer_t answer;
    vd_buf_t out;      /* the answer's body */
    vd_buf_t text;     /* what the answer's slices point to */
    uint64_t durable;  /* the answer waits until this is on disk */
    uint64_t until_ms; /* TAIL: monotonic */
    int rc;
    vd_error_t err;
};

typedef struct {
    job_t *first, **last;
    uint32_t count;
} queue_t;

typedef struct {
    link_t *link;
    const char *name;
    stor_session_t *session;
    vd_daemon_slot_t *slot;
    pthread_t thread;
    bool started, stopping;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    queue_t jobs, applies; /* an APPLY waits for its time without holding up the others */
    int64_t apply_due_ms;  /* wall clock; 0 = now */
} worker_t;

typedef struct {
    uint32_t role, generation;
    uint64_t term;
    bool ready, loading;
} told_t;

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
    told_t told;
    queue_t tails, held;
    vd_buf_t item;
    uint8_t set_id[12]; /* of the state that is sent */
    worker_t applier, copier;
    atomic_bool loading, forsaken; /* forsaken: rolled back, so what is here counts for nothing */
    atomic_bool watching;          /* somebody waits for the durable point */
    _Atomic(job_t *) done;

    pthread_mutex_t start_lock;
    pthread_cond_t start_done;
    bool started;
    int start_rc;
    vd_error_t start_error;

    stor_asks_t asks;
};

/* ---- jobs ---- */

static void queue_init(queue_t *queue)
{
    *queue = (queue_t){.last = &queue->first};
}

static void queue_push(queue_t *queue, job_t *job)
{
    job->next = NULL;
    *queue->last = job;
    queue->last = &job->next;
    queue->count++;
}

static void queue_push_front(queue_t *queue, job_t *job)
{
    job->next = queue->first;
    queue->first = job;
    if (job->next == NULL)
        queue->last = &job->next;
    queue->count++;
}

static job_t *queue_pop(queue_t *queue)
{
    job_t *job = queue->first;
    if (job == NULL)
        return NULL;
    queue->first = job->next;
    if (queue->first == NULL)
        queue->last = &queue->first;
    queue->count--;
    return job;
}

static job_t *job_make(const row_t *row, uint64_t peer, uint64_t request_id)
{
    job_t *job = vd_xalloc(sizeof *job);
    job->row = row;
    job->peer = peer;
    job->request_id = request_id;
    vd_buf_init(&job->item, ITEM_MAX_BYTES);
    vd_buf_init(&job->out, ITEM_MAX_BYTES);
    vd_buf_init(&job->text, HEAD_MAX_BYTES);
    return job;
}

static void job_free(job_t *job)
{
    vd_buf_done(&job->item);
    vd_buf_done(&job->out);
    vd_buf_done(&job->text);
    vd_free(job);
}

static void queue_free(queue_t *queue)
{
    job_t *job;
    while ((job = queue_pop(queue)) != NULL)
        job_free(job);
}

static void done_push(link_t *link, job_t *job)
{
    job_t *head = atomic_load(&link->done);
    do
        job->next = head;
    while (!atomic_compare_exchange_weak(&link->done, &head, job));
    vd_loop_wake(link->loop);
}

/* ---- what the worker "applier" does ---- */

static int run_role(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    const vdp_replication_role_t *asked = &job->asked.role;
    vdp_replication_role_set_t *set = &job->answer.role_set;
    if (asked->role < VDP_ROLE_PRIMARY || asked->role > VDP_ROLE_REMOVED)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "role %u is unknown", asked->role);
    if (asked->role == VDP_ROLE_PRIMARY && atomic_load(&link->loading))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "a half-loaded node can't be primary");
    set->term = asked->term;
    set->role = asked->role;
    return stor_replication_role_set(link->storage, session, asked->term, (int)asked->role,
                                     asked->leader, &set->newest, err);
}

static int run_apply(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    stor_apply_t *apply = link->storage->replication->apply;
    uint64_t applied = 0;
    int rc = stor_apply_batch(apply, session, &job->asked.apply, job->body, &applied, err);
    job->answer.applied.applied = applied;
    job->durable = applied;
    if (rc == VD_OK) {
        stor_positions_applied(link->storage->replication->positions);
        stor_engine_flush_soon(link->storage->engine);
    }
    return rc;
}

static int config_put(stor_session_t *session, uint64_t timestamp, void *context, vd_error_t *err)
{
    (void)timestamp; /* the row is the configuration alone */
    return stor_replication_config_put(session, *(const vd_bson_t *)context, err);
}

static int64_t config_version(vd_bson_t config)
{
    int64_t version = 0;
    return vd_value_as_int64(vd_bson_get(config, "version"), &version) ? version : 0;
}

static int config_check(link_t *link, int64_t version, vd_bson_t config, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t present = stor_replication_config(link->storage, arena);
    int64_t before = present.len > 0 ? config_version(present) : 0;
    vd_arena_destroy(&arena);
    if (vd_bson_validate(vd_slice(config.data, config.len), 0, VD_BSON_DEPTH_MAX, NULL) != VD_OK ||
        config_version(config) != version)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "the configuration is malformed");
    if (version != before + 1)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "configuration %lld does not follow %lld",
                            (long long)version, (long long)before);
    return VD_OK;
}

static int run_config(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    stor_storage_t *storage = link->storage;
    vd_bson_t config = {job->body.data, (uint32_t)job->body.len};
    uint64_t timestamp = 0;
    int rc = config_check(link, job->asked.config.version, config, err);
    if (rc == VD_OK)
        rc = stor_replication_write_enter(storage, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_journal_note(storage, session, STOR_CHANGE_CONFIG, config, config_put, &config,
                           &timestamp, err);
    stor_replication_write_leave(storage);
    if (rc != VD_OK)
        return rc;
    stor_replication_config_changed(storage, config);
    job->answer.config_set.timestamp = timestamp;
    job->durable = timestamp;
    stor_engine_flush_soon(storage->engine);
    return VD_OK;
}

static int run_rollback(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    vdp_replication_rolled_back_t *answer = &job->answer.rolled_back;
    if (stor_replication_role(link->storage) != VDP_ROLE_RECOVERING)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "only a recovering node rolls back");
    int rc = stor_rollback_save(link->storage, session, job->asked.rollback.to, &answer->documents,
                                &job->text, err);
    answer->folder = vd_buf_slice(&job->text);
    if (rc == VD_OK)
        atomic_store(&link->forsaken, true);
    return rc;
}

static int run_load_begin(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    vd_bson_t manifest = {job->body.data, (uint32_t)job->body.len};
    if (vd_bson_validate(job->body, 0, VD_BSON_DEPTH_MAX, err) != VD_OK)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "the manifest is malformed");
    int rc = stor_load_begin(link->storage, session, &job->asked.begin, manifest,
                             &job->answer.load_state, &job->out, err);
    if (rc == VD_OK) {
        job->answer.load_state.snapshot = job->asked.begin.snapshot;
        atomic_store(&link->loading, true);
    }
    return rc;
}

static int run_load_chunk(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    job->answer.chunk_done.collection = job->asked.chunk.collection;
    return stor_load_chunk(link->storage, session, &job->asked.chunk, job->body,
                           &job->answer.chunk_done.documents, err);
}

static int run_load_end(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    int rc =
        stor_load_end(link->storage, session, &job->asked.end, &job->answer.ended.position, err);
    if (rc == VD_OK) {
        stor_apply_position_set(link->storage->replication->apply, job->answer.ended.position);
        atomic_store(&link->loading, false);
        atomic_store(&link->forsaken, false);
    }
    return rc;
}

/* ---- what the worker "copier" does ---- */

static int run_snapshot_open(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    int rc = stor_snapshot_open(link->storage->replication->snapshots, session, &job->answer.opened,
                                &job->out, err);
    if (rc == VD_OK && vd_buf_append_slice(&job->text, job->answer.opened.snapshot) == VD_OK)
        job->answer.opened.snapshot = vd_buf_slice(&job->text); /* it may be closed meanwhile */
    return rc;
}

static int run_snapshot_read(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    vdp_snapshot_chunk_t *chunk = &job->answer.chunk;
    int rc = stor_snapshot_read(link->storage->replication->snapshots, session, &job->asked.read,
                                job->body, &job->out, chunk, err);
    if (rc == VD_OK && vd_buf_append_slice(&job->text, chunk->sha256) == VD_OK)
        chunk->sha256 = vd_buf_slice(&job->text);
    chunk->snapshot = job->asked.read.snapshot;
    return rc;
}

static int run_snapshot_close(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    (void)session, (void)err; /* a notice about what may be gone already */
    stor_snapshot_close(link->storage->replication->snapshots, job->asked.close.snapshot);
    return VD_OK;
}

/* ---- what is done at once ---- */

static vdp_replication_state_t state_make(link_t *link)
{
    stor_storage_t *storage = link->storage;
    stor_replication_t *replication = storage->replication;
    stor_journal_stats_t journal;
    stor_journal_stats(storage->journal, &journal);
    stor_collection_t *any = stor_catalog_next(storage->catalog, 0);
    bool empty = any == NULL || atomic_load(&link->forsaken);
    stor_catalog_unreference(&any);
    stor_storage_set_id(storage, link->set_id);
    return (vdp_replication_state_t){
        .boot_id = vd_slice(storage->boot_id, sizeof storage->boot_id),
        .ready = atomic_load(&storage->ready) && !atomic_load(&storage->draining),
        .role = (uint32_t)stor_replication_role(storage),
        .term = atomic_load(&replication->term),
        .newest = stor_engine_visible(storage->engine),
        .durable = stor_engine_durable(storage->engine),
        .oldest = journal.oldest,
        .majority = stor_replication_majority(storage),
        .set_id = vd_slice(link->set_id, sizeof link->set_id),
        .empty = empty,
        .loading = atomic_load(&link->loading),
    };
}

static void message_send(link_t *link, uint64_t peer, const vdp_message_t *message,
                         const void *fields, uint64_t request_id, vd_slice_t body)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {.id = message->id, .request_id = request_id};
    vd_buf_clear(&link->item);
    int rc = vdp_encode(&link->item, &envelope, message, fields, body, &err);
    if (rc == VD_OK)
        rc = vd_link_send(link->link, peer, vd_buf_slice(&link->item), VD_SLICE_NULL, &err);
    vd_buf_shrink(&link->item, HEAD_MAX_BYTES);
    if (rc != VD_OK && rc != VD_ERR_CLOSED)
        vd_log(VD_LOG_WARN, "message to replicad was not sent", "message=%s error=%d",
               message->name, -rc);
}

static void failure_send(link_t *link, uint64_t peer, uint64_t request_id, const vd_error_t *err)
{
    vdp_failure_t failure = vdp_failure_from(err);
    message_send(link, peer, &vdp_failure, &failure, request_id, VD_SLICE_NULL);
}

static void state_send_as(link_t *link, const vdp_message_t *message, uint64_t request_id)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t config = stor_replication_config(link->storage, arena);
    vdp_replication_state_t state = state_make(link);
    (void)pthread_mutex_lock(&link->storage->replication->lock);
    state.leader = vd_arena_copy_slice(arena, vd_slice_str(link->storage->replication->leader));
    (void)pthread_mutex_unlock(&link->storage->replication->lock);
    link->told =
        (told_t){.role = state.role,
                 .term = state.term,
                 .ready = state.ready,
                 .loading = state.loading,
                 .generation = atomic_load(&link->storage->replication->config_generation)};
    message_send(link, link->peer, message, &state, request_id, vd_slice(config.data, config.len));
    vd_arena_destroy(&arena);
}

static void job_answer(link_t *link, job_t *job)
{
    if (job->rc != VD_OK) {
        char text[VD_ERROR_MESSAGE_SIZE + 64];
        vd_log(VD_LOG_WARN, "replicad's request failed", "message=%s error=%s",
               vdp_id_name(job->row->id),
               vd_log_quote(vd_slice_str(job->err.message), text, sizeof text));
    }
    if (job->row->notice || job->peer != link->peer)
        ; /* nobody waits */
    else if (job->rc != VD_OK)
        failure_send(link, job->peer, job->request_id, &job->err);
    else
        message_send(link, job->peer, job->row->answer, &job->answer, job->request_id,
                     vd_buf_slice(&job->out));
    job_free(job);
}

static int run_topology(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    (void)session;
    if (vd_bson_validate(job->body, 0, VD_BSON_DEPTH_MAX, err) != VD_OK)
        return VD_ERR_PROTOCOL;
    stor_replication_topology_set(link->storage, job->asked.topology.version,
                                  (vd_bson_t){job->body.data, (uint32_t)job->body.len});
    if (link->storage->inbox != NULL)
        stor_inbox_announce(link->storage->inbox);
    return VD_OK;
}

static int run_status(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    (void)session;
    if (vd_bson_validate(job->body, 0, VD_BSON_DEPTH_MAX, err) != VD_OK)
        return VD_ERR_PROTOCOL;
    stor_replication_status_set(link->storage,
                                (vd_bson_t){job->body.data, (uint32_t)job->body.len});
    return VD_OK;
}

static int run_positions(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    (void)session;
    vdp_position_t members[POSITIONS_MAX];
    size_t count = job->body.len / VDP_POSITION_BYTES;
    if (job->body.len % VDP_POSITION_BYTES != 0 || count > POSITIONS_MAX)
        return vd_error_set(err, VD_ERR_PROTOCOL, "positions of %zu bytes", job->body.len);
    for (size_t i = 0; i < count; i++)
        vdp_position_read(job->body.data + i * VDP_POSITION_BYTES, &members[i]);
    stor_positions_note(link->storage->replication->positions, job->asked.positions.term,
                        job->asked.positions.majority, members, (uint32_t)count);
    return VD_OK;
}

static int run_find(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    stor_tail_t *tail = link->storage->replication->tail;
    uint64_t timestamps[FOUND_MAX];
    uint32_t count = 0;
    if (job->asked.find.sample && job->body.len == 0) {
        int rc = stor_tail_sample(tail, session, timestamps, FOUND_MAX, &count, err);
        for (uint32_t i = 0; rc == VD_OK && i < count; i++)
            rc = vd_buf_append_u64(&job->out, timestamps[i]);
        return rc;
    }
    if (job->body.len % 8 != 0 || job->body.len / 8 > FOUND_MAX)
        return vd_error_set(err, VD_ERR_PROTOCOL, "a search for %zu bytes", job->body.len);
    for (; count < job->body.len / 8; count++)
        timestamps[count] = vd_get_u64(job->body.data + (size_t)count * 8);
    return stor_tail_find(tail, session, timestamps, count, &job->answer.found.timestamp, err);
}

/* VD_ERR_NOT_FOUND: parked. */
static int run_tail(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    vdp_replication_tail_t *ask = &job->asked.tail;
    if (ask->bytes_max > BATCH_MAX_BYTES)
        ask->bytes_max = BATCH_MAX_BYTES;
    if (vd_link_queued_bytes(link->link, job->peer) > QUEUED_ENOUGH)
        return VD_ERR_NOT_FOUND;
    /* Before the look: a flush after it wakes us. */
    atomic_store(&link->watching, true);
    return stor_tail_read(link->storage->replication->tail, session, ask, &job->out,
                          &job->answer.batch, err);
}

static int run_answer(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    (void)session;
    const vdp_replication_answer_t *answer = &job->asked.answer;
    int code = answer->code >= INT_MIN && answer->code <= 0 ? (int)answer->code : VD_ERR_PROTOCOL;
    if (stor_asks_answer(&link->asks, job->request_id, code, answer->message, job->body))
        return VD_OK;
    return vd_error_set(err, VD_ERR_PROTOCOL, "an answer that nobody waits for");
}

/* A new replicad: what the one before asked for is of no use any more. */
static int run_attach(link_t *link, stor_session_t *session, job_t *job, vd_error_t *err)
{
    (void)session, (void)err;
    link->peer = job->peer;
    queue_free(&link->tails);
    queue_free(&link->held);
    (void)pthread_mutex_lock(&link->applier.lock);
    queue_free(&link->applier.applies);
    (void)pthread_mutex_unlock(&link->applier.lock);
    state_send_as(link, &vdp_replication_attached, job->request_id);
    vd_log(VD_LOG_INFO, "replicad attached", "node=%.*s", VD_SLICE_FMT(job->asked.attach.node));
    return VD_OK;
}

/* ---- the table ---- */

static const row_t rows[] = {
    {.id = VDP_REPLICATION_ATTACH,
     .message = &vdp_replication_attach,
     .notice = true, /* answers by itself */
     .run = run_attach},
    {.id = VDP_REPLICATION_ROLE,
     .message = &vdp_replication_role,
     .answer = &vdp_replication_role_set,
     .where = APPLIER,
     .run = run_role},
    {.id = VDP_REPLICATION_TAIL,
     .message = &vdp_replication_tail,
     .answer = &vdp_replication_batch,
     .never_loading = true,
     .run = run_tail},
    {.id = VDP_REPLICATION_APPLY,
     .message = &vdp_replication_apply,
     .answer = &vdp_replication_applied,
     .where = APPLIER,
     .never_primary = true,
     .never_loading = true,
     .run = run_apply},
    {.id = VDP_REPLICATION_POSITIONS,
     .message = &vdp_replication_positions,
     .notice = true,
     .run = run_positions},
    {.id = VDP_REPLICATION_TOPOLOGY,
     .message = &vdp_replication_topology,
     .notice = true,
     .run = run_topology},
    {.id = VDP_REPLICATION_STATUS,
     .message = &vdp_replication_status,
     .notice = true,
     .run = run_status},
    {.id = VDP_REPLICATION_ANSWER,
     .message = &vdp_replication_answer,
     .notice = true,
     .run = run_answer},
    {.id = VDP_REPLICATION_CONFIG,
     .message = &vdp_replication_config,
     .answer = &vdp_replication_config_set,
     .where = APPLIER,
     .run = run_config},
    {.id = VDP_REPLICATION_FIND,
     .message = &vdp_replication_find,
     .answer = &vdp_replication_found,
     .run = run_find},
    {.id = VDP_REPLICATION_ROLLBACK,
     .message = &vdp_replication_rollback,
     .answer = &vdp_replication_rolled_back,
     .where = APPLIER,
     .never_primary = true,
     .run = run_rollback},
    {.id = VDP_SNAPSHOT_OPEN,
     .message = &vdp_snapshot_open,
     .answer = &vdp_snapshot_opened,
     .where = COPIER,
     .never_loading = true,
     .run = run_snapshot_open},
    {.id = VDP_SNAPSHOT_READ,
     .message = &vdp_snapshot_read,
     .answer = &vdp_snapshot_chunk,
     .where = COPIER,
     .run = run_snapshot_read},
    {.id = VDP_SNAPSHOT_CLOSE,
     .message = &vdp_snapshot_close,
     .where = COPIER,
     .notice = true,
     .run = run_snapshot_close},
    {.id = VDP_LOAD_BEGIN,
     .message = &vdp_load_begin,
     .answer = &vdp_load_state,
     .where = APPLIER,
     .never_primary = true,
     .run = run_load_begin},
    {.id = VDP_LOAD_CHUNK,
     .message = &vdp_load_chunk,
     .answer = &vdp_load_chunk_done,
     .where = APPLIER,
     .never_primary = true,
     .only_loading = true,
     .run = run_load_chunk},
    {.id = VDP_LOAD_END,
     .message = &vdp_load_end,
     .answer = &vdp_load_ended,
     .where = APPLIER,
     .never_primary = true,
     .only_loading = true,
     .run = run_load_end},
};

/* Where it runs, just before it does: what was queued before it may have changed the state. */
static int state_check(link_t *link, const row_t *row, vd_error_t *err)
{
    if (row->never_primary && stor_replication_role(link->storage) == VDP_ROLE_PRIMARY)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s to a primary", vdp_id_name(row->id));
    if (row->never_loading && atomic_load(&link->loading))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s while a snapshot is loaded",
                            vdp_id_name(row->id));
    if (row->only_loading && !atomic_load(&link->loading))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s before LOAD_BEGIN", vdp_id_name(row->id));
    return VD_OK;
}

static void job_run(link_t *link, stor_session_t *session, job_t *job)
{
    job->err = (vd_error_t)VD_ERROR_INIT;
    job->rc = state_check(link, job->row, &job->err);
    if (job->rc == VD_OK)
        job->rc = job->row->run(link, session, job, &job->err);
    VD_ASSERT(stor_txn_active(session) == false);
}

/* ---- workers ---- */

static void signals_block(void)
{
    sigset_t all;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, NULL); /* the main loop takes them */
}

/* Until it is woken, or the first APPLY's time has come. */
static void worker_rest(worker_t *worker)
{
    if (worker->applies.first == NULL) {
        (void)pthread_cond_wait(&worker->wake, &worker->lock);
        return;
    }
    struct timespec until = {.tv_sec = (time_t)(worker->apply_due_ms / 1000),
                             .tv_nsec = (long)(worker->apply_due_ms % 1000) * 1000000};
    (void)pthread_cond_timedwait(&worker->wake, &worker->lock, &until); /* the loop looks again */
}

static job_t *worker_take(worker_t *worker)
{
    job_t *job = NULL;
    (void)pthread_mutex_lock(&worker->lock);
    while (!worker->stopping) {
        job = queue_pop(&worker->jobs);
        if (job == NULL && vd_wall_ms() >= worker->apply_due_ms)
            job = queue_pop(&worker->applies);
        if (job != NULL)
            break;
        worker_rest(worker);
    }
    (void)pthread_mutex_unlock(&worker->lock);
    return job;
}

/* True: it is back at the head of its queue, since what is left of it is too young. */
static bool apply_again(worker_t *worker, job_t *job)
{
    bool again = job->row->id == VDP_REPLICATION_APPLY && job->rc == VD_OK &&
                 job->asked.apply.delay_ms > 0 && !job->asked.apply.partial &&
                 job->answer.applied.applied < job->asked.apply.last;
    (void)pthread_mutex_lock(&worker->lock);
    worker->apply_due_ms = again ? stor_apply_due_ms(worker->link->storage->replication->apply) : 0;
    if (again)
        queue_push_front(&worker->applies, job);
    (void)pthread_mutex_unlock(&worker->lock);
    return again;
}

static void beat(worker_t *worker, bool busy)
{
    if (worker->slot != NULL)
        vd_daemon_beat(worker->slot, busy);
}

static void *worker_run(void *context)
{
    worker_t *worker = context;
    job_t *job;
    signals_block();
    while ((job = worker_take(worker)) != NULL) {
        beat(worker, true);
        job_run(worker->link, worker->session, job);
        if (job->row->id != VDP_REPLICATION_APPLY || !apply_again(worker, job))
            done_push(worker->link, job);
        beat(worker, false);
    }
    return NULL;
}

static int worker_push(worker_t *worker, job_t *job, vd_error_t *err)
{
    int rc = VD_OK;
    (void)pthread_mutex_lock(&worker->lock);
    if (worker->jobs.count + worker->applies.count >= STOR_LINK_JOBS_MAX)
        rc = vd_error_set(err, VD_ERR_TEMPORARILY_UNAVAILABLE, "%d requests are queued already",
                          STOR_LINK_JOBS_MAX);
    else
        queue_push(job->row->id == VDP_REPLICATION_APPLY ? &worker->applies : &worker->jobs, job);
    (void)pthread_cond_signal(&worker->wake);
    (void)pthread_mutex_unlock(&worker->lock);
    return rc;
}

static int worker_start(link_t *link, worker_t *worker, const char *name, vd_error_t *err)
{
    worker->link = link;
    worker->name = name;
    int rc = stor_session_open(link->storage->engine, &worker->session, err);
    if (rc != VD_OK)
        return rc;
    worker->slot = link->daemon == NULL ? NULL : vd_daemon_slot(link->daemon, name);
    worker->started = pthread_create(&worker->thread, NULL, worker_run, worker) == 0;
    if (!worker->started)
        return vd_error_set(err, VD_ERR_INTERNAL, "the thread %s could not be started", name);
    (void)pthread_setname_np(worker->thread, name);
    return VD_OK;
}

static void worker_stop(worker_t *worker)
{
    (void)pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    (void)pthread_cond_broadcast(&worker->wake);
    (void)pthread_mutex_unlock(&worker->lock);
    if (worker->started)
        (void)pthread_join(worker->thread, NULL);
    worker->started = false;
    stor_session_close(&worker->session);
    queue_free(&worker->jobs);
    queue_free(&worker->applies);
}

/* ---- the loop's thread: what arrives ---- */

static int job_decode(job_t *job, vd_slice_t item, vd_error_t *err)
{
    vdp_envelope_t envelope;
    vd_slice_t rest;
    int rc = vdp_decode_envelope(item, &envelope, &rest, err);
    return rc == VD_OK ? vdp_decode(job->row->message, rest, &job->asked, &job->body, err) : rc;
}

static void tail_park(link_t *link, job_t *job)
{
    if (link->tails.count >= STOR_LINK_TAILS_MAX) {
        job->rc = vd_error_set(&job->err, VD_ERR_TEMPORARILY_UNAVAILABLE, "%d wait already",
                               STOR_LINK_TAILS_MAX);
        job_answer(link, job);
        return;
    }
    queue_push(&link->tails, job);
    uint64_t wait_ms = job->asked.tail.wait_ms;
    vd_loop_set_timer(link->tail_timer, wait_ms < 1 ? 1 : wait_ms, 0);
}

/* Runs it, or gives it to its worker. */
static int message_take(link_t *link, job_t *job, vd_slice_t item, vd_error_t *err)
{
    const row_t *row = job->row;
    if (row->id != VDP_REPLICATION_ATTACH && (link->peer == 0 || job->peer != link->peer))
        return vd_error_set(err, VD_ERR_PROTOCOL, "%s before ATTACH", vdp_id_name(row->id));
    stor_replication_heard(link->storage);
    bool kept = row->where != HERE || row->id == VDP_REPLICATION_TAIL;
    if (kept && vd_buf_append_slice(&job->item, item) != VD_OK)
        return vd_error_set(err, VD_ERR_PROTOCOL, "the message is too large");
    int rc = job_decode(job, kept ? vd_buf_slice(&job->item) : item, err);
    if (rc != VD_OK)
        return rc;
    if (row->where != HERE)
        return worker_push(row->where == APPLIER ? &link->applier : &link->copier, job, err);
    job->until_ms =
        row->id == VDP_REPLICATION_TAIL ? vd_monotonic_ms() + job->asked.tail.wait_ms : 0;
    job_run(link, link->session, job);
    if (row->id == VDP_REPLICATION_TAIL && job->rc == VD_ERR_NOT_FOUND)
        tail_park(link, job);
    else
        job_answer(link, job);
    return VD_OK;
}

static void item_arrived(void *context, uint64_t peer, vd_slice_t item)
{
    link_t *link = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {0};
    vd_slice_t rest;
    int rc = vdp_decode_envelope(item, &envelope, &rest, &err);
    const row_t *row = NULL;
    for (size_t i = 0; i < VD_COUNT_OF(rows) && row == NULL; i++)
        row = rows[i].id == envelope.id ? &rows[i] : NULL;
    if (rc == VD_OK && row == NULL)
        rc = vd_error_set(&err, VD_ERR_PROTOCOL, "message %u is not for storage", envelope.id);
    if (rc == VD_OK) {
        job_t *job = job_make(row, peer, envelope.request_id);
        rc = message_take(link, job, item, &err);
        if (rc != VD_OK)
            job_free(job);
    }
    if (rc == VD_OK)
        return;
    char text[VD_ERROR_MESSAGE_SIZE + 64];
    vd_log(VD_LOG_WARN, "message of replicad refused", "error=%s",
           vd_log_quote(vd_slice_str(err.message), text, sizeof text));
    if (row == NULL || !row->notice || row->id == VDP_REPLICATION_ATTACH)
        failure_send(link, peer, envelope.request_id, &err);
}

/* ---- our questions ---- */

int stor_replication_link_ask(stor_replication_link_t *link, const vdp_replication_ask_t *ask,
                              vd_slice_t body, stor_ask_answered_t answered, void *context,
                              vd_error_t *err)
{
    int rc = stor_asks_add(&link->asks, ask, body, answered, context, err);
    if (rc == VD_OK)
        vd_loop_wake(link->loop);
    return rc;
}

static void ask_send(void *context, uint64_t request_id, const vdp_replication_ask_t *question,
                     vd_slice_t body)
{
    link_t *link = context;
    message_send(link, link->peer, &vdp_replication_ask, question, request_id, body);
}

static void peer_changed(void *context, uint64_t peer, bool up)
{
    link_t *link = context;
    if (up || peer != link->peer)
        return;
    link->peer = 0;
    queue_free(&link->tails);
    queue_free(&link->held);
    stor_asks_fail(&link->asks, VD_ERR_HOST_UNREACHABLE, "replicad is gone");
    vd_log(VD_LOG_WARN, "replicad is gone", "peer=%llu", (unsigned long long)peer);
}

/* ---- the loop's thread: the step of a turn ---- */

static void done_take(link_t *link)
{
    job_t *list = atomic_exchange(&link->done, NULL), *ordered = NULL;
    while (list != NULL) { /* the stack's top is the newest */
        job_t *next = list->next;
        list->next = ordered;
        ordered = list;
        list = next;
    }
    while (ordered != NULL) {
        job_t *job = ordered;
        ordered = job->next;
        if (job->rc == VD_OK && job->durable != 0 && job->peer == link->peer)
            queue_push(&link->held, job);
        else
            job_answer(link, job);
    }
}

static void held_release(link_t *link)
{
    queue_t left;
    job_t *job;
    queue_init(&left);
    if (link->held.first != NULL)
        atomic_store(&link->watching, true); /* before the look: a flush after it wakes us */
    uint64_t durable = stor_engine_durable(link->storage->engine);
    while ((job = queue_pop(&link->held)) != NULL) {
        if (job->durable > durable) {
            queue_push(&left, job);
            continue;
        }
        if (job->row->id == VDP_REPLICATION_APPLY)
            job->answer.applied.durable = durable;
        job_answer(link, job);
    }
    while ((job = queue_pop(&left)) != NULL)
        queue_push(&link->held, job);
}

static void tail_empty(job_t *job)
{
    const vdp_replication_tail_t *ask = &job->asked.tail;
    job->rc = VD_OK;
    vd_error_clear(&job->err);
    vd_buf_clear(&job->out);
    job->answer.batch = (vdp_replication_batch_t){.after = ask->after, .last = ask->after};
}

static void tails_look(link_t *link)
{
    queue_t left;
    job_t *job;
    uint64_t now_ms = vd_monotonic_ms(), next_ms = UINT64_MAX;
    queue_init(&left);
    while ((job = queue_pop(&link->tails)) != NULL) {
        job_run(link, link->session, job);
        if (job->rc == VD_ERR_NOT_FOUND && now_ms < job->until_ms) {
            next_ms = job->until_ms < next_ms ? job->until_ms : next_ms;
            queue_push(&left, job);
            continue;
        }
        if (job->rc == VD_ERR_NOT_FOUND) {
            tail_empty(job);
            job->answer.batch.newest = stor_engine_visible(link->storage->engine);
        }
        job_answer(link, job);
    }
    while ((job = queue_pop(&left)) != NULL)
        queue_push(&link->tails, job);
    if (next_ms != UINT64_MAX)
        vd_loop_set_timer(link->tail_timer, next_ms - now_ms, 0);
}

static void state_look(link_t *link)
{
    stor_replication_t *replication = link->storage->replication;
    told_t now = {.role = (uint32_t)atomic_load(&replication->role),
                  .term = atomic_load(&replication->term),
                  .generation = atomic_load(&replication->config_generation),
                  .ready =
                      atomic_load(&link->storage->ready) && !atomic_load(&link->storage->draining),
                  .loading = atomic_load(&link->loading)};
    if (link->peer != 0 && (now.role != link->told.role || now.term != link->told.term ||
                            now.generation != link->told.generation ||
                            now.ready != link->told.ready || now.loading != link->told.loading))
        state_send_as(link, &vdp_replication_state, 0);
}

static bool step_out(void *context)
{
    link_t *link = context;
    done_take(link);
    held_release(link);
    tails_look(link);
    stor_asks_look(&link->asks, link->peer != 0, ask_send, link);
    state_look(link);
    return false;
}

static void state_due(void *context)
{
    link_t *link = context;
    if (link->peer != 0)
        state_send_as(link, &vdp_replication_state, 0);
}

static void tail_due(void *context)
{
    (void)context; /* the turn that this begins does it */
}

/* ---- life ---- */

static int io_open(link_t *link, vd_error_t *err)
{
    vd_link_options_t options = {
        .path = link->path,
        .bind = true,
        .socket_mode = 0660, /* the folder lets in only ourselves and replicad's group */
        .item_max_bytes = ITEM_MAX_BYTES,
        .item = item_arrived,
        .peer_changed = peer_changed,
        .context = link,
    };
    int rc = stor_session_open(link->storage->engine, &link->session, err);
    if (rc == VD_OK)
        atomic_store(&link->loading, stor_load_pending(link->storage, link->session));
    if (rc == VD_OK)
        rc = vd_link_open(link->loop, &options, &link->link, err);
    if (rc == VD_OK)
        rc = vd_loop_add_end_of_turn(link->loop, OUT_STEP_ORDER, step_out, link, &link->out_step,
                                     err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(link->loop, STATE_PERIOD_MS, STATE_PERIOD_MS, state_due, link,
                               &link->state_timer, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(link->loop, STATE_PERIOD_MS, 0, tail_due, link, &link->tail_timer,
                               err);
    return rc;
}

static void io_close(link_t *link)
{
    vd_loop_remove(&link->out_step);
    vd_loop_remove(&link->state_timer);
    vd_loop_remove(&link->tail_timer);
    if (link->link != NULL)
        vd_link_close(&link->link);
    queue_free(&link->tails);
    queue_free(&link->held);
    stor_session_close(&link->session);
}

static void *io_run(void *context)
{
    link_t *link = context;
    vd_error_t err = VD_ERROR_INIT;
    signals_block();
    int rc = io_open(link, &err);
    (void)pthread_mutex_lock(&link->start_lock);
    link->start_rc = rc;
    link->start_error = err;
    link->started = true;
    (void)pthread_cond_signal(&link->start_done);
    (void)pthread_mutex_unlock(&link->start_lock);
    if (rc == VD_OK && vd_loop_run(link->loop, &err) != VD_OK)
        stor_inbox_failed(&err, link->storage);
    io_close(link);
    return NULL;
}

static int io_start(link_t *link, vd_error_t *err)
{
    int rc = vd_loop_create(&link->loop, err);
    if (rc != VD_OK)
        return rc;
    if (pthread_create(&link->thread, NULL, io_run, link) != 0)
        return vd_error_set(err, VD_ERR_INTERNAL, "the replication thread could not be started");
    (void)pthread_setname_np(link->thread, "replication");
    (void)pthread_mutex_lock(&link->start_lock);
    while (!link->started)
        (void)pthread_cond_wait(&link->start_done, &link->start_lock);
    (void)pthread_mutex_unlock(&link->start_lock);
    if (link->start_rc == VD_OK)
        return VD_OK;
    (void)pthread_join(link->thread, NULL);
    link->started = false;
    if (err != NULL)
        *err = link->start_error;
    return link->start_rc;
}

static void worker_init(worker_t *worker)
{
    queue_init(&worker->jobs);
    queue_init(&worker->applies);
    (void)pthread_mutex_init(&worker->lock, NULL);
    (void)pthread_cond_init(&worker->wake, NULL); /* wall clock, as the delay of entries is */
}

int stor_replication_link_start(stor_storage_t *storage, struct vd_daemon *daemon,
                                const char *socket_path, stor_replication_link_t **ret_link,
                                vd_error_t *err)
{
    link_t *link = vd_xalloc(sizeof *link);
    link->storage = storage;
    link->daemon = daemon;
    (void)snprintf(link->path, sizeof link->path, "%s", socket_path);
    queue_init(&link->tails);
    queue_init(&link->held);
    vd_buf_init(&link->item, ITEM_MAX_BYTES);
    (void)pthread_mutex_init(&link->start_lock, NULL);
    (void)pthread_cond_init(&link->start_done, NULL);
    stor_asks_init(&link->asks);
    worker_init(&link->applier);
    worker_init(&link->copier);
    int rc = io_start(link, err);
    if (rc == VD_OK)
        rc = worker_start(link, &link->applier, "applier", err);
    if (rc == VD_OK)
        rc = worker_start(link, &link->copier, "copier", err);
    if (rc != VD_OK) {
        stor_replication_link_stop(link);
        stor_replication_link_destroy(&link);
        return rc;
    }
    stor_apply_slot_set(storage->replication->apply, link->applier.slot);
    *ret_link = link;
    return VD_OK;
}

void stor_replication_link_stop(stor_replication_link_t *link)
{
    stor_asks_stop(&link->asks);
    worker_stop(&link->applier);
    worker_stop(&link->copier);
    if (link->started) {
        vd_loop_stop(link->loop);
        (void)pthread_join(link->thread, NULL);
        link->started = false;
    }
    job_t *done = atomic_exchange(&link->done, NULL);
    while (done != NULL) {
        job_t *next = done->next;
        job_free(done);
        done = next;
    }
    stor_asks_fail(&link->asks, VD_ERR_INTERRUPTED_AT_SHUTDOWN, "interrupted at shutdown");
}

void stor_replication_link_destroy(stor_replication_link_t **link_p)
{
    link_t *link = *link_p;
    if (link == NULL)
        return;
    vd_loop_destroy(&link->loop);
    vd_buf_done(&link->item);
    (void)pthread_mutex_destroy(&link->start_lock);
    (void)pthread_cond_destroy(&link->start_done);
    stor_asks_done(&link->asks);
    (void)pthread_mutex_destroy(&link->applier.lock);
    (void)pthread_cond_destroy(&link->applier.wake);
    (void)pthread_mutex_destroy(&link->copier.lock);
    (void)pthread_cond_destroy(&link->copier.wake);
    vd_free(link);
    *link_p = NULL;
}

void stor_replication_link_flushed(stor_replication_link_t *link)
{
    if (atomic_exchange(&link->watching, false))
        vd_loop_wake(link->loop);
}

void stor_replication_link_wake(stor_replication_link_t *link)
{
    vd_loop_wake(link->loop);
}
