/* veddb-storaged/replication/link.c — see link.h.
 *
 * A question's way: item_arrived (loop's thread) -> answered at once, or a job with its own copy of
 * the item -> its worker's queue -> run -> done stack -> answered by the loop's thread, an APPLY
 * not before it is durable. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "proto/failure.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/index/builds.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/replication/apply.h"
#include "veddb-storaged/replication/link_private.h"
#include "veddb-storaged/replication/load.h"

#include <stdio.h>

#define OUT_STEP_ORDER  (VD_LINK_STEP_ORDER - 50)
#define STATE_PERIOD_MS 250

/* ---- what is sent ---- */

static vdp_replication_state_t state_make(stor_replication_link_t *link)
{
    stor_storage_t *storage = link->storage;
    stor_replication_t *replication = storage->replication;
    stor_journal_stats_t journal;
    stor_journal_stats(storage->journal, &journal);
    stor_collection_t *any = stor_catalog_next(storage->catalog, 0);
    bool empty = any == NULL || atomic_load(&link->forsaken);
    stor_catalog_unreference(&any);
    stor_storage_set_id(storage, link->set_id);
    uint64_t made_ms = vd_monotonic_ms(); /* before: what was acknowledged by then is in it */
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
        .made_ms = made_ms,
        .auth_position = atomic_load(&storage->auth_epoch) + 1,
    };
}

static void message_send(stor_replication_link_t *link, uint64_t peer, const vdp_message_t *message,
                         const void *fields, uint64_t request_id, vd_slice_t body)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {.id = message->id, .request_id = request_id};
    vd_buf_clear(&link->item);
    /* The body goes to the link as it is: entries and chunks are not copied twice. */
    int rc = body.len > message->body_max_bytes
                 ? vd_error_set(&err, VD_ERR_INVALID_LENGTH, "a body of %zu bytes", body.len)
                 : vdp_encode(&link->item, &envelope, message, fields, VD_SLICE_NULL, &err);
    if (rc == VD_OK && message == &vdp_snapshot_chunk) /* each follows on the one before */
        rc = vd_link_send_ordered(link->link, peer, vd_buf_slice(&link->item), body, &err);
    else if (rc == VD_OK)
        rc = vd_link_send(link->link, peer, vd_buf_slice(&link->item), body, &err);
    if (rc != VD_OK && rc != VD_ERR_CLOSED)
        vd_log(VD_LOG_WARN, "message to replicad was not sent", "message=%s error=%d",
               message->name, -rc);
}

static void failure_send(stor_replication_link_t *link, uint64_t peer, uint64_t request_id,
                         const vd_error_t *err)
{
    vdp_failure_t failure = vdp_failure_from(err);
    message_send(link, peer, &vdp_failure, &failure, request_id, VD_SLICE_NULL);
}

static void builds_look(stor_replication_link_t *link, stor_link_told_t *told)
{
    stor_builds_t *builds = link->storage->builds;
    told->build_count =
        builds == NULL ? 0 : stor_builds_ready(builds, told->builds, VDP_BUILDS_MAX);
}

static bool builds_same(const stor_link_told_t *a, const stor_link_told_t *b)
{
    return a->build_count == b->build_count &&
           memcmp(a->builds, b->builds, a->build_count * sizeof a->builds[0]) == 0;
}

void stor_link_state_send(stor_replication_link_t *link, const vdp_message_t *message,
                          uint64_t request_id)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t config = stor_replication_config(link->storage, arena);
    vdp_replication_state_t state = state_make(link);
    (void)pthread_mutex_lock(&link->storage->replication->lock);
    state.leader = vd_arena_copy_slice(arena, vd_slice_str(link->storage->replication->leader));
    if (link->known) {
        state.load_snapshot = vd_arena_copy_slice(arena, vd_slice(link->load.snapshot, 16));
        state.load_source = vd_arena_copy_slice(arena, vd_slice_str(link->load.source));
    }
    state.floor = link->floor;
    (void)pthread_mutex_unlock(&link->storage->replication->lock);
    link->told = (stor_link_told_t){
        .role = state.role,
        .term = state.term,
        .ready = state.ready,
        .loading = state.loading,
        .generation = atomic_load(&link->storage->replication->config_generation)};
    builds_look(link, &link->told);
    uint8_t *builds = vd_arena_alloc(arena, sizeof link->told.builds);
    for (uint32_t i = 0; i < link->told.build_count; i++)
        vd_put_u64(builds + 8 * (size_t)i, link->told.builds[i]);
    state.builds = vd_slice(builds, 8 * (size_t)link->told.build_count);
    message_send(link, link->peer, message, &state, request_id, vd_slice(config.data, config.len));
    vd_arena_destroy(&arena);
}

static void job_answer(stor_replication_link_t *link, stor_link_job_t *job)
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
    stor_link_job_free(job);
}

/* ---- the loop's thread: what arrives ---- */

static int job_decode(stor_link_job_t *job, vd_slice_t item, vd_error_t *err)
{
    vdp_envelope_t envelope;
    vd_slice_t rest;
    int rc = vdp_decode_envelope(item, &envelope, &rest, err);
    return rc == VD_OK ? vdp_decode(job->row->message, rest, &job->asked, &job->body, err) : rc;
}

static void tail_park(stor_replication_link_t *link, stor_link_job_t *job)
{
    if (link->tails.count >= STOR_LINK_TAILS_MAX) {
        job->rc = vd_error_set(&job->err, VD_ERR_TEMPORARILY_UNAVAILABLE, "%d wait already",
                               STOR_LINK_TAILS_MAX);
        job_answer(link, job);
        return;
    }
    stor_link_queue_push(&link->tails, job);
    uint64_t wait_ms = job->asked.tail.wait_ms;
    vd_loop_set_timer(link->tail_timer, wait_ms < 1 ? 1 : wait_ms, 0);
}

/* Runs it, or gives it to its worker. */
static int message_take(stor_replication_link_t *link, stor_link_job_t *job, vd_slice_t item,
                        vd_error_t *err)
{
    const stor_link_row_t *row = job->row;
    if (row->id != VDP_REPLICATION_ATTACH && (link->peer == 0 || job->peer != link->peer))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s before ATTACH", vdp_id_name(row->id));
    stor_replication_heard(link->storage);
    bool kept = row->where != HERE || row->id == VDP_REPLICATION_TAIL;
    if (kept && vd_buf_append_slice(&job->item, item) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "the message is too large");
    int rc = job_decode(job, kept ? vd_buf_slice(&job->item) : item, err);
    if (rc != VD_OK)
        return rc;
    if (row->where != HERE)
        return stor_link_worker_push(row->where == APPLIER ? &link->applier : &link->copier, job,
                                     err);
    job->until_ms =
        row->id == VDP_REPLICATION_TAIL ? vd_monotonic_ms() + job->asked.tail.wait_ms : 0;
    stor_link_job_run(link, link->session, job);
    if (row->id == VDP_REPLICATION_TAIL && job->rc == VD_ERR_NOT_FOUND)
        tail_park(link, job);
    else
        job_answer(link, job);
    return VD_OK;
}

static void item_arrived(void *context, uint64_t peer, vd_slice_t item)
{
    stor_replication_link_t *link = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {0};
    vd_slice_t rest;
    int rc = vdp_decode_envelope(item, &envelope, &rest, &err);
    const stor_link_row_t *row = rc == VD_OK ? stor_link_row(envelope.id) : NULL;
    if (rc == VD_OK && row == NULL)
        rc = vdp_foreign(envelope.id, "storage", &err);
    if (rc == VD_OK) {
        stor_link_job_t *job = stor_link_job_make(row, peer, envelope.request_id);
        rc = message_take(link, job, item, &err);
        if (rc != VD_OK)
            stor_link_job_free(job);
    }
    if (rc == VD_OK)
        return;
    if (rc == VD_ERR_PROTOCOL) {
        vd_link_cut(link->link, peer, err.message);
        stor_audit_cut(link->storage->audit, "veddb-replicad", err.message);
        return;
    }
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
    stor_replication_link_t *link = context;
    message_send(link, link->peer, &vdp_replication_ask, question, request_id, body);
}

static void peer_changed(void *context, uint64_t peer, bool up)
{
    stor_replication_link_t *link = context;
    if (up || peer != link->peer)
        return;
    link->peer = 0;
    stor_link_queue_free(&link->tails);
    stor_link_queue_free(&link->held);
    stor_asks_fail(&link->asks, VD_ERR_HOST_UNREACHABLE, "replicad is gone");
    vd_log(VD_LOG_WARN, "replicad is gone", "peer=%llu", (unsigned long long)peer);
}

/* ---- the loop's thread: the step of a turn ---- */

static void done_take(stor_replication_link_t *link)
{
    stor_link_job_t *list = atomic_exchange(&link->done, NULL), *ordered = NULL;
    while (list != NULL) { /* the stack's top is the newest */
        stor_link_job_t *next = list->next;
        list->next = ordered;
        ordered = list;
        list = next;
    }
    while (ordered != NULL) {
        stor_link_job_t *job = ordered;
        ordered = job->next;
        if (job->rc == VD_OK && job->durable != 0 && job->peer == link->peer)
            stor_link_queue_push(&link->held, job);
        else
            job_answer(link, job);
    }
}

static void held_release(stor_replication_link_t *link)
{
    stor_link_queue_t left;
    stor_link_job_t *job;
    stor_link_queue_init(&left);
    if (link->held.first != NULL)
        atomic_store(&link->watching, true); /* before the look: a flush after it wakes us */
    uint64_t durable = stor_engine_durable(link->storage->engine);
    while ((job = stor_link_queue_pop(&link->held)) != NULL) {
        if (job->durable > durable) {
            stor_link_queue_push(&left, job);
            continue;
        }
        if (job->row->id == VDP_REPLICATION_APPLY)
            job->answer.applied.durable = durable;
        job_answer(link, job);
    }
    while ((job = stor_link_queue_pop(&left)) != NULL)
        stor_link_queue_push(&link->held, job);
}

static void tail_empty(stor_link_job_t *job)
{
    const vdp_replication_tail_t *ask = &job->asked.tail;
    job->rc = VD_OK;
    vd_error_clear(&job->err);
    vd_buf_clear(&job->out);
    job->answer.batch = (vdp_replication_batch_t){.after = ask->after, .last = ask->after};
}

static void tails_look(stor_replication_link_t *link)
{
    stor_link_queue_t left;
    stor_link_job_t *job;
    uint64_t now_ms = vd_monotonic_ms(), next_ms = UINT64_MAX;
    stor_link_queue_init(&left);
    while ((job = stor_link_queue_pop(&link->tails)) != NULL) {
        stor_link_job_run(link, link->session, job);
        if (job->rc == VD_ERR_NOT_FOUND && now_ms < job->until_ms) {
            next_ms = job->until_ms < next_ms ? job->until_ms : next_ms;
            stor_link_queue_push(&left, job);
            continue;
        }
        if (job->rc == VD_ERR_NOT_FOUND) {
            tail_empty(job);
            job->answer.batch.newest = stor_engine_visible(link->storage->engine);
        }
        job_answer(link, job);
    }
    while ((job = stor_link_queue_pop(&left)) != NULL)
        stor_link_queue_push(&link->tails, job);
    if (next_ms != UINT64_MAX)
        vd_loop_set_timer(link->tail_timer, next_ms - now_ms, 0);
}

static void state_look(stor_replication_link_t *link)
{
    stor_replication_t *replication = link->storage->replication;
    stor_link_told_t now = {.role = (uint32_t)atomic_load(&replication->role),
                            .term = atomic_load(&replication->term),
                            .generation = atomic_load(&replication->config_generation),
                            .ready = atomic_load(&link->storage->ready) &&
                                     !atomic_load(&link->storage->draining),
                            .loading = atomic_load(&link->loading)};
    builds_look(link, &now);
    if (link->peer != 0 &&
        (now.role != link->told.role || now.term != link->told.term ||
         now.generation != link->told.generation || now.ready != link->told.ready ||
         now.loading != link->told.loading || !builds_same(&now, &link->told)))
        stor_link_state_send(link, &vdp_replication_state, 0);
}

static bool step_out(void *context)
{
    stor_replication_link_t *link = context;
    done_take(link);
    held_release(link);
    tails_look(link);
    stor_asks_look(&link->asks, link->peer != 0, ask_send, link);
    state_look(link);
    return false;
}

/* For the other nodes. */
static void audit_head_send(stor_replication_link_t *link)
{
    stor_audit_head_room_t room;
    vdp_audit_head_t fields;
    if (link->head_peer != link->peer)
        link->head_serial = 0;
    link->head_peer = link->peer;
    if (link->storage->audit != NULL &&
        stor_audit_own_head(link->storage->audit, &link->head_serial, &room, &fields))
        message_send(link, link->peer, &vdp_replication_audit_head, &fields, 0, VD_SLICE_NULL);
}

static void state_due(void *context)
{
    stor_replication_link_t *link = context;
    if (link->peer == 0)
        return;
    stor_link_state_send(link, &vdp_replication_state, 0);
    audit_head_send(link);
}

static void tail_due(void *context)
{
    (void)context; /* the turn that this begins does it */
}

/* ---- life ---- */

static void cut_off(void *context)
{
    stor_replication_link_t *link = context;
    stor_inbox_cut_off(link->storage);
}

static int io_open(stor_replication_link_t *link, vd_error_t *err)
{
    vd_link_options_t options = {
        .path = link->path,
        .bind = true,
        .socket_mode = 0660, /* the folder lets in only ourselves and replicad's group */
        .item_max_bytes = STOR_LINK_ITEM_MAX_BYTES,
        .item = item_arrived,
        .peer_changed = peer_changed,
        .cut = cut_off,
        .context = link,
    };
    int rc = stor_session_open(link->storage->engine, &link->session, err);
    if (rc == VD_OK)
        atomic_store(&link->loading, stor_load_pending(link->storage, link->session));
    if (rc == VD_OK) {
        link->known = stor_load_known(link->session, &link->load);
        link->floor = stor_load_floor(link->session);
    }
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

static void io_close(stor_replication_link_t *link)
{
    vd_loop_remove(&link->out_step);
    vd_loop_remove(&link->state_timer);
    vd_loop_remove(&link->tail_timer);
    if (link->link != NULL)
        vd_link_close(&link->link);
    stor_link_queue_free(&link->tails);
    stor_link_queue_free(&link->held);
    stor_session_close(&link->session);
}

static void *io_run(void *context)
{
    stor_replication_link_t *link = context;
    vd_error_t err = VD_ERROR_INIT;
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

static int io_start(stor_replication_link_t *link, vd_error_t *err)
{
    int rc = vd_loop_create(&link->loop, err);
    if (rc != VD_OK)
        return rc;
    if (vd_thread_start(&link->thread, io_run, link) != 0)
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

void stor_link_worker_init(stor_link_worker_t *worker)
{
    stor_link_queue_init(&worker->jobs);
    stor_link_queue_init(&worker->applies);
    (void)pthread_mutex_init(&worker->lock, NULL);
    (void)pthread_cond_init(&worker->wake, NULL); /* wall clock, as the delay of entries is */
}

int stor_replication_link_start(stor_storage_t *storage, struct vd_daemon *daemon,
                                const char *socket_path, stor_replication_link_t **ret_link,
                                vd_error_t *err)
{
    stor_replication_link_t *link = vd_xalloc(sizeof *link);
    link->storage = storage;
    link->daemon = daemon;
    (void)snprintf(link->path, sizeof link->path, "%s", socket_path);
    stor_link_queue_init(&link->tails);
    stor_link_queue_init(&link->held);
    vd_buf_init(&link->item, STOR_LINK_HEAD_MAX_BYTES);
    (void)pthread_mutex_init(&link->start_lock, NULL);
    (void)pthread_cond_init(&link->start_done, NULL);
    stor_asks_init(&link->asks);
    stor_link_worker_init(&link->applier);
    stor_link_worker_init(&link->copier);
    int rc = io_start(link, err);
    if (rc == VD_OK)
        rc = stor_link_worker_start(link, &link->applier, "applier", err);
    if (rc == VD_OK)
        rc = stor_link_worker_start(link, &link->copier, "copier", err);
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
    stor_link_worker_stop(&link->applier);
    stor_link_worker_stop(&link->copier);
    if (link->started) {
        vd_loop_stop(link->loop);
        (void)pthread_join(link->thread, NULL);
        link->started = false;
    }
    stor_link_job_t *done = atomic_exchange(&link->done, NULL);
    while (done != NULL) {
        stor_link_job_t *next = done->next;
        stor_link_job_free(done);
        done = next;
    }
    stor_asks_fail(&link->asks, VD_ERR_INTERRUPTED_AT_SHUTDOWN, "interrupted at shutdown");
}

void stor_replication_link_destroy(stor_replication_link_t **link_p)
{
    stor_replication_link_t *link = *link_p;
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
