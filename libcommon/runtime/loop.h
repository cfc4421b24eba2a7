/* libcommon/runtime/loop.h — one epoll loop per thread that does I/O.
 *
 * Duty:    readers, timers, signals (signalfd), child ends (pidfd), wake-ups from other threads
 *          (eventfd), bounded work per turn, an ordered end-of-turn step, and a watchdog figure
 *          (longest turn).
 * Owner:   create/destroy by the thread that runs it.
 * Threads: all calls from that thread, except those that say otherwise.
 *
 * Handlers never block and do bounded work. A source removed inside a handler gets no further
 * events, also not of the same turn. */
#pragma once
#include "libcommon/base/error.h"

#include <sys/types.h>

typedef struct vd_loop vd_loop_t;
typedef struct vd_source vd_source_t; /* a descriptor, timer, signal or child being watched */

enum { VD_LOOP_READ = 1, VD_LOOP_WRITE = 2, VD_LOOP_ERROR = 4 };

VD_MUST_CHECK int vd_loop_create(vd_loop_t **ret_loop, vd_error_t *err);
void vd_loop_destroy(vd_loop_t **loop_p);
/* Until vd_loop_stop. */
VD_MUST_CHECK int vd_loop_run(vd_loop_t *loop, vd_error_t *err);
/* One turn, waiting at most timeout_ms (-1 = until something happens); for tests and the simulator.
 */
VD_MUST_CHECK int vd_loop_turn(vd_loop_t *loop, int timeout_ms, vd_error_t *err);
void vd_loop_stop(vd_loop_t *loop); /* any thread */

VD_MUST_CHECK int vd_loop_add_fd(vd_loop_t *loop, int fd, unsigned events,
                                 void (*ready)(void *context, int fd, unsigned events),
                                 void *context, vd_source_t **ret_source, vd_error_t *err);
void vd_loop_set_events(vd_source_t *source, unsigned events);
/* First run after first_ms, then every period_ms (0 = once). Coarse: milliseconds, from one heap
 * that bounds the wait. */
VD_MUST_CHECK int vd_loop_add_timer(vd_loop_t *loop, uint64_t first_ms, uint64_t period_ms,
                                    void (*fired)(void *context), void *context,
                                    vd_source_t **ret_source, vd_error_t *err);
void vd_loop_set_timer(vd_source_t *source, uint64_t first_ms, uint64_t period_ms);
/* One watcher per signal; it is blocked in this thread while watched: add before other threads
 * start, and clear the mask between fork and exec. */
VD_MUST_CHECK int vd_loop_add_signal(vd_loop_t *loop, int signal_number,
                                     void (*arrived)(void *context, int signal_number),
                                     void *context, vd_source_t **ret_source, vd_error_t *err);
/* pidfd of a child: ended() gets the siginfo-style status (CLD_EXITED/KILLED/DUMPED and code); the
 * child is reaped. A process that isn't our child may be watched too; then how and code are 0. */
VD_MUST_CHECK int vd_loop_add_child(vd_loop_t *loop, pid_t pid,
                                    void (*ended)(void *context, pid_t pid, int how, int code),
                                    void *context, vd_source_t **ret_source, vd_error_t *err);
/* Signals a watched child through its pidfd: never hits a process that got the number later.
 * VD_ERR_CLOSED when it has ended. */
VD_MUST_CHECK int vd_loop_child_signal(vd_source_t *source, int signal_number, vd_error_t *err);
/* NULL is fine. The descriptor stays the caller's: remove first, close then. */
void vd_loop_remove(vd_source_t **source_p);

/* Called at the end of every turn, in ascending order of `order`, before the loop sleeps; returns
 * true when it wants another turn at once. */
VD_MUST_CHECK int vd_loop_add_end_of_turn(vd_loop_t *loop, int order, bool (*step)(void *context),
                                          void *context, vd_source_t **ret_source, vd_error_t *err);
/* From the loop's own thread, outside of a turn: the next turn doesn't wait, so that its
 * end-of-turn steps run at once. In a turn: nothing to do. */
void vd_loop_again(vd_loop_t *loop);
/* From any thread: the loop wakes and runs its end-of-turn steps. Cheap when it is awake anyway. */
void vd_loop_wake(vd_loop_t *loop);
/* From any thread: run(context) on the loop's thread. Dropped unrun when the loop is destroyed
 * first. */
void vd_loop_post(vd_loop_t *loop, void (*run)(void *context), void *context);
/* Monotonic time of this turn's start (one clock call a turn). */
uint64_t vd_loop_now_ms(const vd_loop_t *loop);
/* Longest turn since the last call, for heartbeats. Threads: any. */
uint64_t vd_loop_take_longest_turn_ms(vd_loop_t *loop);
