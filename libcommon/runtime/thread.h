/* libcommon/runtime/thread.h — a thread beside the main one.
 *
 * Duty:    signals are the main loop's: the thread is born with all of them blocked, but SIGSYS,
 *          whose handler says which call it was (calls.c).
 * Owner:   the caller joins it.
 * Threads: any may start one.
 * Errors:  those of pthread_create: a positive errno; 0 = it runs. */
#pragma once
#include "libcommon/base/error.h"

#include <pthread.h>

VD_MUST_CHECK int vd_thread_start(pthread_t *ret_thread, void *(*run)(void *context),
                                  void *context);
