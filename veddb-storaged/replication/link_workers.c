/* veddb-storaged/replication/link_workers.c — jobs, their queues, and the threads "applier" and
 * "copier". See link.h. */
#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "veddb-storaged/replication/apply.h"
#include "veddb-storaged/replication/link_private.h"

#include <time.h>

/* ---- jobs ---- */

void stor_link_queue_init(stor_link_queue_t *queue)
{
    *queue = (stor_link_queue_t){.last = &queue->first};
}

void stor_link_queue_push(stor_link_queue_t *queue, stor_link_job_t *job)
{
    job->next = NULL;
    *queue->last = job;
    queue->last = &job->next;
    queue->count++;
}

static void queue_push_front(stor_link_queue_t *queue, stor_link_job_t *job)
{
    job->next = queue->first;
    queue->first = job;
    if (job->next == NULL)
        queue->last = &job->next;
    queue->count++;
}

stor_link_job_t *stor_link_queue_pop(stor_link_queue_t *queue)
{
    stor_link_job_t *job = queue->first;
    if (job == NULL)
        return NULL;
    queue->first = job->next;
    if (queue->first == NULL)
        queue->last = &queue->first;
    queue->count--;
    return job;
}

stor_link_job_t *stor_link_job_make(const stor_link_row_t *row, uint64_t peer, uint64_t request_id)
{
    stor_link_job_t *job = vd_xalloc(sizeof *job);
    job->row = row;
    job->peer = peer;
    job->request_id = request_id;
    vd_buf_init(&job->item, STOR_LINK_ITEM_MAX_BYTES);
    vd_buf_init(&job->out, STOR_LINK_ITEM_MAX_BYTES);
    vd_buf_init(&job->text, STOR_LINK_HEAD_MAX_BYTES);
    return job;
}

void stor_link_job_free(stor_link_job_t *job)
{
    vd_buf_done(&job->item);
    vd_buf_done(&job->out);
    vd_buf_done(&job->text);
    vd_free(job);
}

void stor_link_queue_free(stor_link_queue_t *queue)
{
    stor_link_job_t *job;
    while ((job = stor_link_queue_pop(queue)) != NULL)
        stor_link_job_free(job);
}

static void done_push(stor_replication_link_t *link, stor_link_job_t *job)
{
    stor_link_job_t *head = atomic_load(&link->done);
    do
        job->next = head;
    while (!atomic_compare_exchange_weak(&link->done, &head, job));
    vd_loop_wake(link->loop);
}

/* ---- workers ---- */

/* Until it is woken, or the first APPLY's time has come. */
static void worker_rest(stor_link_worker_t *worker)
{
    if (worker->applies.first == NULL) {
        (void)pthread_cond_wait(&worker->wake, &worker->lock);
        return;
    }
    struct timespec until = {.tv_sec = (time_t)(worker->apply_due_ms / 1000),
                             .tv_nsec = (long)(worker->apply_due_ms % 1000) * 1000000};
    (void)pthread_cond_timedwait(&worker->wake, &worker->lock, &until); /* the loop looks again */
}

static stor_link_job_t *worker_take(stor_link_worker_t *worker)
{
    stor_link_job_t *job = NULL;
    (void)pthread_mutex_lock(&worker->lock);
    while (!worker->stopping) {
        job = stor_link_queue_pop(&worker->jobs);
        if (job == NULL && vd_wall_ms() >= worker->apply_due_ms)
            job = stor_link_queue_pop(&worker->applies);
        if (job != NULL)
            break;
        worker_rest(worker);
    }
    (void)pthread_mutex_unlock(&worker->lock);
    return job;
}

/* True: it is back at the head of its queue, since what is left of it is too young, or waits for an
 * index that is still built here. */
static bool apply_again(stor_link_worker_t *worker, stor_link_job_t *job)
{
    bool young = job->asked.apply.delay_ms > 0 && !job->asked.apply.partial &&
                 job->answer.applied.applied < job->asked.apply.last;
    bool again = job->row->id == VDP_REPLICATION_APPLY && job->rc == VD_OK &&
                 (young || stor_apply_waits(worker->link->storage->replication->apply));
    (void)pthread_mutex_lock(&worker->lock);
    worker->apply_due_ms = again ? stor_apply_due_ms(worker->link->storage->replication->apply) : 0;
    if (again)
        queue_push_front(&worker->applies, job);
    (void)pthread_mutex_unlock(&worker->lock);
    return again;
}

static void beat(stor_link_worker_t *worker, bool busy)
{
    if (worker->slot != NULL)
        vd_daemon_beat(worker->slot, busy);
}

static void *worker_run(void *context)
{
    stor_link_worker_t *worker = context;
    stor_link_job_t *job;
    while ((job = worker_take(worker)) != NULL) {
        beat(worker, true);
        stor_link_job_run(worker->link, worker->session, job);
        if (job->row->id != VDP_REPLICATION_APPLY || !apply_again(worker, job))
            done_push(worker->link, job);
        beat(worker, false);
    }
    return NULL;
}

int stor_link_worker_push(stor_link_worker_t *worker, stor_link_job_t *job, vd_error_t *err)
{
    int rc = VD_OK;
    (void)pthread_mutex_lock(&worker->lock);
    if (worker->jobs.count + worker->applies.count >= STOR_LINK_JOBS_MAX)
        rc = vd_error_set(err, VD_ERR_TEMPORARILY_UNAVAILABLE, "%d requests are queued already",
                          STOR_LINK_JOBS_MAX);
    else
        stor_link_queue_push(
            job->row->id == VDP_REPLICATION_APPLY ? &worker->applies : &worker->jobs, job);
    (void)pthread_cond_signal(&worker->wake);
    (void)pthread_mutex_unlock(&worker->lock);
    return rc;
}

int stor_link_worker_start(stor_replication_link_t *link, stor_link_worker_t *worker,
                           const char *name, vd_error_t *err)
{
    worker->link = link;
    worker->name = name;
    int rc = stor_session_open(link->storage->engine, &worker->session, err);
    if (rc != VD_OK)
        return rc;
    worker->slot = link->daemon == NULL ? NULL : vd_daemon_slot(link->daemon, name);
    worker->started = vd_thread_start(&worker->thread, worker_run, worker) == 0;
    if (!worker->started)
        return vd_error_set(err, VD_ERR_INTERNAL, "the thread %s could not be started", name);
    (void)pthread_setname_np(worker->thread, name);
    return VD_OK;
}

void stor_link_worker_stop(stor_link_worker_t *worker)
{
    (void)pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    (void)pthread_cond_broadcast(&worker->wake);
    (void)pthread_mutex_unlock(&worker->lock);
    if (worker->started)
        (void)pthread_join(worker->thread, NULL);
    worker->started = false;
    stor_session_close(&worker->session);
    stor_link_queue_free(&worker->jobs);
    stor_link_queue_free(&worker->applies);
}
