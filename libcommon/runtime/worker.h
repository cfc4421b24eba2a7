/* libcommon/runtime/worker.h — a few threads with one bounded queue, for calls that may block or
 * take long (password hashing, name look-ups).
 *
 * Owner:   create/destroy by the loop that uses it.
 * Threads: run() happens on a worker thread, done() on the loop's thread (through vd_loop_post). */
#pragma once
#include "libcommon/runtime/loop.h"

typedef struct vd_worker vd_worker_t;

VD_MUST_CHECK int vd_worker_create(const char *name, uint32_t threads, uint32_t queue_max,
                                   vd_worker_t **ret_worker, vd_error_t *err);
/* Waits for what runs; what is queued is dropped, and done() is not called for it (the owner is
 * going away). */
void vd_worker_destroy(vd_worker_t **worker_p);
/* VD_ERR_FULL at queue_max. done may be NULL. */
VD_MUST_CHECK int vd_worker_put(vd_worker_t *worker, vd_loop_t *loop, void (*run)(void *context),
                                void (*done)(void *context), void *context, vd_error_t *err);
