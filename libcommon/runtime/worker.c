/* libcommon/runtime/worker.c — see worker.h. */
#include "libcommon/runtime/worker.h"
#include "libcommon/base/list.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define THREADS_MAX 64

typedef struct {
    vd_node_t node;
    vd_loop_t *loop;
    void (*run)(void *context);
    void (*done)(void *context);
    void *context;
} job_t;

struct vd_worker {
    pthread_mutex_t mutex;
    pthread_cond_t arrived;
    vd_list_t queue;
    uint32_t queued, queue_max, thread_count;
    bool ending;
    char name[16]; /* as the kernel has it */
    pthread_t threads[THREADS_MAX];
};

static job_t *next_job(vd_worker_t *worker)
{
    (void)pthread_mutex_lock(&worker->mutex);
    while (!worker->ending && vd_list_empty(&worker->queue))
        (void)pthread_cond_wait(&worker->arrived, &worker->mutex);
    job_t *job = NULL;
    if (!worker->ending) {
        job = VD_CONTAINER_OF(vd_list_pop_front(&worker->queue), job_t, node);
        worker->queued--;
    }
    (void)pthread_mutex_unlock(&worker->mutex);
    return job;
}

static void *thread_run(void *context)
{
    vd_worker_t *worker = context;
    job_t *job;
    (void)pthread_setname_np(pthread_self(), worker->name);
    while ((job = next_job(worker)) != NULL) {
        job->run(job->context);
        (void)pthread_mutex_lock(&worker->mutex);
        bool ending = worker->ending;
        (void)pthread_mutex_unlock(&worker->mutex);
        if (job->done != NULL && !ending)
            vd_loop_post(job->loop, job->done, job->context);
        vd_free(job);
    }
    return NULL;
}

int vd_worker_create(const char *name, uint32_t threads, uint32_t queue_max,
                     vd_worker_t **ret_worker, vd_error_t *err)
{
    VD_ASSERT(name != NULL && threads > 0 && threads <= THREADS_MAX && queue_max > 0);
    VD_ASSERT(ret_worker != NULL);

    vd_worker_t *worker = vd_xalloc(sizeof *worker);
    (void)pthread_mutex_init(&worker->mutex, NULL);
    (void)pthread_cond_init(&worker->arrived, NULL);
    vd_list_init(&worker->queue);
    worker->queue_max = queue_max;
    (void)snprintf(worker->name, sizeof worker->name, "%s", name);
    int failed = 0;
    while (worker->thread_count < threads && failed == 0) {
        failed = vd_thread_start(&worker->threads[worker->thread_count], thread_run, worker);
        worker->thread_count += failed == 0;
    }
    if (failed != 0) {
        vd_worker_destroy(&worker);
        return vd_error_set(err, VD_ERR_FULL, "thread %s: %s", name, strerror(failed));
    }
    *ret_worker = worker;
    return VD_OK;
}

void vd_worker_destroy(vd_worker_t **worker_p)
{
    vd_worker_t *worker = *worker_p;
    if (worker == NULL)
        return;
    *worker_p = NULL;
    (void)pthread_mutex_lock(&worker->mutex);
    worker->ending = true;
    (void)pthread_cond_broadcast(&worker->arrived);
    (void)pthread_mutex_unlock(&worker->mutex);
    for (uint32_t i = 0; i < worker->thread_count; i++)
        (void)pthread_join(worker->threads[i], NULL);
    vd_node_t *node;
    while ((node = vd_list_pop_front(&worker->queue)) != NULL)
        vd_free(VD_CONTAINER_OF(node, job_t, node));
    (void)pthread_cond_destroy(&worker->arrived);
    (void)pthread_mutex_destroy(&worker->mutex);
    vd_free(worker);
}

int vd_worker_put(vd_worker_t *worker, vd_loop_t *loop, void (*run)(void *context),
                  void (*done)(void *context), void *context, vd_error_t *err)
{
    VD_ASSERT(worker != NULL && run != NULL && (done == NULL || loop != NULL));

    job_t *job = vd_xalloc(sizeof *job);
    job->loop = loop;
    job->run = run;
    job->done = done;
    job->context = context;
    (void)pthread_mutex_lock(&worker->mutex);
    bool full = worker->queued == worker->queue_max;
    if (!full) {
        vd_list_push_back(&worker->queue, &job->node);
        worker->queued++;
        (void)pthread_cond_signal(&worker->arrived);
    }
    (void)pthread_mutex_unlock(&worker->mutex);
    if (full) {
        vd_free(job);
        return vd_error_set(err, VD_ERR_FULL, "the queue of %s is full", worker->name);
    }
    return VD_OK;
}
