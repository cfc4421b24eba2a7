/* libcommon/runtime/loop.c — see loop.h.
 *
 * A turn: wait in epoll -> due timers -> ready descriptors -> posted calls -> end-of-turn steps ->
 * free what was removed. Timers need no descriptor: the heap's top bounds the wait.
 *
 * Waking costs a system call only when the loop really sleeps. The waker sets `woken`, then looks
 * at `asleep`; the loop sets `asleep`, then looks at `woken`. Both orders are sequentially
 * consistent, so at least one of the two sees the other. */
#include "libcommon/runtime/loop.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/list.h"
#include "libcommon/base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define EVENTS_PER_TURN 128
#define SIGNALS_MAX     65
#define NOT_IN_HEAP     SIZE_MAX
#define STEPS_MAX       32

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

typedef enum { SOURCE_FD, SOURCE_TIMER, SOURCE_SIGNAL, SOURCE_CHILD, SOURCE_STEP } source_kind_t;

struct vd_source {
    vd_node_t node; /* in loop->live, or in loop->dead until the end of the turn */
    vd_loop_t *loop;
    source_kind_t kind;
    bool dead;
    int fd;            /* FD: the caller's; CHILD: our pidfd */
    unsigned events;   /* FD */
    size_t heap_index; /* TIMER */
    uint64_t due_ms, period_ms;
    int signal_number;
    pid_t pid;
    int order; /* STEP */
    union {
        void (*ready)(void *context, int fd, unsigned events);
        void (*fired)(void *context);
        void (*arrived)(void *context, int signal_number);
        void (*ended)(void *context, pid_t pid, int how, int code);
        bool (*step)(void *context);
    } call;
    void *context;
};

typedef struct post {
    struct post *next;
    void (*run)(void *context);
    void *context;
} post_t;

struct vd_loop {
    int epoll_fd, wake_fd, signal_fd;
    vd_list_t live, dead;
    vd_source_t **heap; /* timers, earliest first */
    size_t heap_count, heap_cap;
    vd_source_t *steps[STEPS_MAX]; /* by order */
    size_t step_count;
    sigset_t signals;         /* watched through signal_fd */
    sigset_t blocked_by_loop; /* of those: not blocked before us */
    uint64_t now_ms;
    bool in_turn, again;
    atomic_bool stop, asleep, woken;
    _Atomic(post_t *) posts;          /* newest first */
    _Atomic uint64_t turn_started_us; /* 0 while asleep */
    _Atomic uint64_t longest_turn_us;
};

/* ---- timers: a binary heap by due_ms ---- */

static bool earlier(const vd_source_t *a, const vd_source_t *b)
{
    return a->due_ms < b->due_ms;
}

static void heap_set(vd_loop_t *loop, size_t index, vd_source_t *source)
{
    loop->heap[index] = source;
    source->heap_index = index;
}

static void heap_up(vd_loop_t *loop, size_t index)
{
    vd_source_t *source = loop->heap[index];
    while (index > 0 && earlier(source, loop->heap[(index - 1) / 2])) {
        heap_set(loop, index, loop->heap[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    heap_set(loop, index, source);
}

static void heap_down(vd_loop_t *loop, size_t index)
{
    vd_source_t *source = loop->heap[index];
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= loop->heap_count)
            break;
        if (child + 1 < loop->heap_count && earlier(loop->heap[child + 1], loop->heap[child]))
            child++;
        if (!earlier(loop->heap[child], source))
            break;
        heap_set(loop, index, loop->heap[child]);
        index = child;
    }
    heap_set(loop, index, source);
}

static void heap_remove(vd_loop_t *loop, vd_source_t *source)
{
    size_t index = source->heap_index;
    if (index == NOT_IN_HEAP)
        return;
    source->heap_index = NOT_IN_HEAP;
    vd_source_t *last = loop->heap[--loop->heap_count];
    if (last == source)
        return;
    heap_set(loop, index, last);
    heap_up(loop, index);
    heap_down(loop, last->heap_index);
}

static void heap_add(vd_loop_t *loop, vd_source_t *source, uint64_t due_ms)
{
    if (loop->heap_count == loop->heap_cap) {
        loop->heap_cap = loop->heap_cap == 0 ? 64 : loop->heap_cap * 2;
        loop->heap = vd_xrealloc(loop->heap, loop->heap_cap * sizeof *loop->heap);
    }
    source->due_ms = due_ms;
    heap_set(loop, loop->heap_count++, source);
    heap_up(loop, source->heap_index);
}

/* ---- sources ---- */

static vd_source_t *source_new(vd_loop_t *loop, source_kind_t kind, void *context)
{
    vd_source_t *source = vd_xalloc(sizeof *source);
    source->loop = loop;
    source->kind = kind;
    source->context = context;
    source->fd = -1;
    source->heap_index = NOT_IN_HEAP;
    vd_list_push_back(&loop->live, &source->node);
    return source;
}

static uint32_t epoll_mask(unsigned events)
{
    return (events & VD_LOOP_READ ? EPOLLIN | EPOLLRDHUP : 0) |
           (events & VD_LOOP_WRITE ? EPOLLOUT : 0);
}

static int epoll_add(vd_loop_t *loop, int fd, unsigned events, void *pointer, vd_error_t *err)
{
    struct epoll_event event = {.events = epoll_mask(events), .data.ptr = pointer};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return vd_error_set_errno(err, "epoll_ctl");
    return VD_OK;
}

static void epoll_drop(vd_loop_t *loop, int fd)
{
    /* Fails only when the descriptor was closed first, which has taken it out already. */
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

int vd_loop_create(vd_loop_t **ret_loop, vd_error_t *err)
{
    VD_ASSERT(ret_loop != NULL);

    vd_loop_t *loop = vd_xalloc(sizeof *loop);
    int rc = VD_OK;
    vd_list_init(&loop->live);
    vd_list_init(&loop->dead);
    (void)sigemptyset(&loop->signals);
    (void)sigemptyset(&loop->blocked_by_loop);
    loop->signal_fd = -1;
    loop->now_ms = vd_monotonic_ms();
    loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->wake_fd < 0 || loop->epoll_fd < 0) {
        rc = vd_error_set_errno(err, "event loop");
        goto cleanup;
    }
    rc = epoll_add(loop, loop->wake_fd, VD_LOOP_READ, &loop->wake_fd, err);
    if (rc != VD_OK)
        goto cleanup;
    *ret_loop = loop;
    loop = NULL;
cleanup:
    vd_loop_destroy(&loop);
    return rc;
}

static void free_list(vd_list_t *list)
{
    vd_node_t *node;
    while ((node = vd_list_pop_front(list)) != NULL) {
        vd_source_t *source = VD_CONTAINER_OF(node, vd_source_t, node);
        if (source->kind == SOURCE_CHILD && source->fd >= 0)
            (void)close(source->fd);
        vd_free(source);
    }
}

void vd_loop_destroy(vd_loop_t **loop_p)
{
    vd_loop_t *loop = *loop_p;
    if (loop == NULL)
        return;
    *loop_p = NULL;
    VD_ASSERT(!loop->in_turn);
    free_list(&loop->live);
    free_list(&loop->dead);
    post_t *post = atomic_exchange(&loop->posts, NULL);
    while (post != NULL) {
        post_t *next = post->next;
        vd_free(post);
        post = next;
    }
    (void)pthread_sigmask(SIG_UNBLOCK, &loop->blocked_by_loop, NULL);
    if (loop->signal_fd >= 0)
        (void)close(loop->signal_fd);
    if (loop->epoll_fd >= 0)
        (void)close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        (void)close(loop->wake_fd);
    vd_free(loop->heap);
    vd_free(loop);
}

/* ---- what happens in a turn ---- */

static void run_timers(vd_loop_t *loop)
{
    /* Bounded: a timer that sets itself anew for now waits for the next turn. */
    size_t left = loop->heap_count;
    while (left-- > 0 && loop->heap_count > 0 && loop->heap[0]->due_ms <= loop->now_ms) {
        vd_source_t *source = loop->heap[0];
        heap_remove(loop, source);
        if (source->period_ms > 0)
            heap_add(loop, source, loop->now_ms + source->period_ms);
        source->call.fired(source->context);
    }
}

static void run_signals(vd_loop_t *loop)
{
    struct signalfd_siginfo info;
    for (int i = 0; i < SIGNALS_MAX && read(loop->signal_fd, &info, sizeof info) == sizeof info;
         i++) {
        VD_LIST_EACH(&loop->live, node)
        {
            vd_source_t *source = VD_CONTAINER_OF(node, vd_source_t, node);
            if (source->kind != SOURCE_SIGNAL || source->signal_number != (int)info.ssi_signo)
                continue;
            source->call.arrived(source->context, source->signal_number);
            break; /* the list may have changed; one watcher per signal */
        }
    }
}

static void run_child(vd_source_t *source)
{
    siginfo_t info = {0};
    int rc;
    do
        rc = waitid((idtype_t)P_PIDFD, (id_t)source->fd, &info, WEXITED | WNOHANG);
    while (rc != 0 && errno == EINTR);
    if (rc == 0 && info.si_pid == 0)
        return; /* not yet */
    epoll_drop(source->loop, source->fd);
    (void)close(source->fd);
    source->fd = -1;
    /* Not our child (ECHILD): that it ended is known, how it ended is not: 0, 0. */
    int how = rc == 0 ? info.si_code : 0, code = rc == 0 ? info.si_status : 0;
    source->call.ended(source->context, source->pid, how, code);
}

static void run_event(vd_loop_t *loop, const struct epoll_event *event)
{
    void *pointer = event->data.ptr;
    if (pointer == &loop->wake_fd) {
        uint64_t count;
        if (read(loop->wake_fd, &count, sizeof count) < 0)
            return; /* a wake that was taken already */
        return;
    }
    if (pointer == &loop->signal_fd) {
        run_signals(loop);
        return;
    }
    vd_source_t *source = pointer;
    if (source->dead)
        return;
    if (source->kind == SOURCE_CHILD) {
        run_child(source);
        return;
    }
    unsigned events = (event->events & (EPOLLIN | EPOLLRDHUP) ? VD_LOOP_READ : 0) |
                      (event->events & EPOLLOUT ? VD_LOOP_WRITE : 0) |
                      (event->events & (EPOLLERR | EPOLLHUP) ? VD_LOOP_ERROR : 0);
    source->call.ready(source->context, source->fd, events);
}

static void run_posts(vd_loop_t *loop)
{
    post_t *newest = atomic_exchange(&loop->posts, NULL), *oldest = NULL;
    while (newest != NULL) {
        post_t *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest != NULL) {
        post_t *next = oldest->next;
        oldest->run(oldest->context);
        vd_free(oldest);
        oldest = next;
    }
}

static bool run_steps(vd_loop_t *loop)
{
    bool again = false;
    /* A copy: a step may add or remove steps. The dead are skipped; they are freed after the turn.
     */
    vd_source_t *steps[STEPS_MAX];
    size_t count = loop->step_count;
    memcpy(steps, loop->steps, count * sizeof *steps);
    for (size_t i = 0; i < count; i++)
        if (!steps[i]->dead)
            again = steps[i]->call.step(steps[i]->context) || again;
    return again;
}

static int wait_ms(const vd_loop_t *loop, int timeout_ms)
{
    if (loop->again || atomic_load(&loop->stop))
        return 0;
    if (loop->heap_count > 0) {
        uint64_t now = vd_monotonic_ms(), due = loop->heap[0]->due_ms;
        uint64_t left = due > now ? due - now : 0;
        if (left > 1000000)
            left = 1000000; /* an early, empty turn does no harm */
        if (timeout_ms < 0 || left < (uint64_t)timeout_ms)
            return (int)left;
    }
    return timeout_ms;
}

int vd_loop_turn(vd_loop_t *loop, int timeout_ms, vd_error_t *err)
{
    VD_ASSERT(loop != NULL && !loop->in_turn);

    struct epoll_event events[EVENTS_PER_TURN];
    int timeout = wait_ms(loop, timeout_ms);
    if (timeout != 0) {
        atomic_store(&loop->asleep, true);
        if (atomic_load(&loop->woken))
            timeout = 0;
    }
    int count = epoll_wait(loop->epoll_fd, events, EVENTS_PER_TURN, timeout);
    int wait_errno = errno;
    atomic_store(&loop->asleep, false);
    (void)atomic_exchange(&loop->woken, false);
    uint64_t started_us = vd_monotonic_us();
    atomic_store_explicit(&loop->turn_started_us, started_us, memory_order_relaxed);
    if (count < 0 && wait_errno != EINTR) {
        errno = wait_errno;
        return vd_error_set_errno(err, "epoll_wait");
    }

    loop->now_ms = started_us / 1000;
    loop->in_turn = true;
    run_timers(loop);
    for (int i = 0; i < count; i++)
        run_event(loop, &events[i]);
    run_posts(loop);
    loop->again = run_steps(loop);
    free_list(&loop->dead);
    loop->in_turn = false;

    uint64_t took_us = vd_monotonic_us() - started_us;
    atomic_store_explicit(&loop->turn_started_us, 0, memory_order_relaxed);
    if (took_us > atomic_load_explicit(&loop->longest_turn_us, memory_order_relaxed))
        atomic_store_explicit(&loop->longest_turn_us, took_us, memory_order_relaxed);
    return VD_OK;
}

int vd_loop_run(vd_loop_t *loop, vd_error_t *err)
{
    while (!atomic_load_explicit(&loop->stop, memory_order_relaxed)) {
        int rc = vd_loop_turn(loop, -1, err);
        if (rc != VD_OK)
            return rc;
    }
    atomic_store(&loop->stop, false);
    return VD_OK;
}

void vd_loop_stop(vd_loop_t *loop)
{
    atomic_store(&loop->stop, true);
    vd_loop_wake(loop);
}

/* ---- adding and removing ---- */

int vd_loop_add_fd(vd_loop_t *loop, int fd, unsigned events,
                   void (*ready)(void *context, int fd, unsigned events), void *context,
                   vd_source_t **ret_source, vd_error_t *err)
{
    VD_ASSERT(loop != NULL && fd >= 0 && ready != NULL && ret_source != NULL);

    vd_source_t *source = source_new(loop, SOURCE_FD, context);
    source->fd = fd;
    source->events = events;
    source->call.ready = ready;
    int rc = epoll_add(loop, fd, events, source, err);
    if (rc != VD_OK) {
        vd_list_remove(&source->node);
        vd_free(source);
        return rc;
    }
    *ret_source = source;
    return VD_OK;
}

void vd_loop_set_events(vd_source_t *source, unsigned events)
{
    VD_ASSERT(source != NULL && source->kind == SOURCE_FD && !source->dead);

    if (source->events == events)
        return;
    source->events = events;
    struct epoll_event event = {.events = epoll_mask(events), .data.ptr = source};
    int rc = epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
    VD_ASSERT(rc == 0); /* closed before it was removed: our bug */
}

static uint64_t time_now(const vd_loop_t *loop)
{
    return loop->in_turn ? loop->now_ms : vd_monotonic_ms();
}

int vd_loop_add_timer(vd_loop_t *loop, uint64_t first_ms, uint64_t period_ms,
                      void (*fired)(void *context), void *context, vd_source_t **ret_source,
                      vd_error_t *err)
{
    VD_ASSERT(loop != NULL && fired != NULL && ret_source != NULL);
    (void)err; /* can't fail; the signature is the one of all sources */

    vd_source_t *source = source_new(loop, SOURCE_TIMER, context);
    source->call.fired = fired;
    source->period_ms = period_ms;
    heap_add(loop, source, time_now(loop) + first_ms);
    *ret_source = source;
    return VD_OK;
}

void vd_loop_set_timer(vd_source_t *source, uint64_t first_ms, uint64_t period_ms)
{
    VD_ASSERT(source != NULL && source->kind == SOURCE_TIMER && !source->dead);

    heap_remove(source->loop, source);
    source->period_ms = period_ms;
    heap_add(source->loop, source, time_now(source->loop) + first_ms);
}

int vd_loop_add_signal(vd_loop_t *loop, int signal_number,
                       void (*arrived)(void *context, int signal_number), void *context,
                       vd_source_t **ret_source, vd_error_t *err)
{
    VD_ASSERT(loop != NULL && arrived != NULL && ret_source != NULL);

    sigset_t one, before;
    (void)sigemptyset(&one);
    if (sigaddset(&one, signal_number) != 0)
        return vd_error_set(err, VD_ERR_INVALID, "signal %d", signal_number);
    if (sigismember(&loop->signals, signal_number) == 1)
        return vd_error_set(err, VD_ERR_EXISTS, "signal %d is watched already", signal_number);
    (void)pthread_sigmask(SIG_BLOCK, &one, &before);
    (void)sigaddset(&loop->signals, signal_number);
    if (sigismember(&before, signal_number) == 0)
        (void)sigaddset(&loop->blocked_by_loop, signal_number);

    bool first = loop->signal_fd < 0;
    int fd = signalfd(loop->signal_fd, &loop->signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        return vd_error_set_errno(err, "signalfd");
    loop->signal_fd = fd;
    if (first) {
        int rc = epoll_add(loop, fd, VD_LOOP_READ, &loop->signal_fd, err);
        if (rc != VD_OK)
            return rc;
    }
    vd_source_t *source = source_new(loop, SOURCE_SIGNAL, context);
    source->signal_number = signal_number;
    source->call.arrived = arrived;
    *ret_source = source;
    return VD_OK;
}

int vd_loop_add_child(vd_loop_t *loop, pid_t pid,
                      void (*ended)(void *context, pid_t pid, int how, int code), void *context,
                      vd_source_t **ret_source, vd_error_t *err)
{
    VD_ASSERT(loop != NULL && pid > 0 && ended != NULL && ret_source != NULL);

    int fd = (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by itself */
    if (fd < 0)
        return vd_error_set_errno(err, "pidfd_open %d", (int)pid);
    vd_source_t *source = source_new(loop, SOURCE_CHILD, context);
    source->fd = fd;
    source->pid = pid;
    source->call.ended = ended;
    int rc = epoll_add(loop, fd, VD_LOOP_READ, source, err);
    if (rc != VD_OK) {
        vd_list_remove(&source->node);
        (void)close(fd);
        vd_free(source);
        return rc;
    }
    *ret_source = source;
    return VD_OK;
}

int vd_loop_child_signal(vd_source_t *source, int signal_number, vd_error_t *err)
{
    VD_ASSERT(source != NULL && source->kind == SOURCE_CHILD);

    if (source->fd < 0)
        return vd_error_set(err, VD_ERR_CLOSED, "process %d has ended", (int)source->pid);
    if (syscall(SYS_pidfd_send_signal, source->fd, signal_number, NULL, 0) != 0)
        return vd_error_set_errno(err, "signal %d to process %d", signal_number, (int)source->pid);
    return VD_OK;
}

static void remove_signal(vd_source_t *source)
{
    vd_loop_t *loop = source->loop;
    sigset_t one;
    (void)sigdelset(&loop->signals, source->signal_number);
    (void)signalfd(loop->signal_fd, &loop->signals, 0); /* a shrunk set can't fail */
    if (sigismember(&loop->blocked_by_loop, source->signal_number) == 1) {
        (void)sigdelset(&loop->blocked_by_loop, source->signal_number);
        (void)sigemptyset(&one);
        (void)sigaddset(&one, source->signal_number);
        (void)pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    }
}

static void remove_step(vd_source_t *source)
{
    vd_loop_t *loop = source->loop;
    size_t kept = 0;
    for (size_t i = 0; i < loop->step_count; i++)
        if (loop->steps[i] != source)
            loop->steps[kept++] = loop->steps[i];
    loop->step_count = kept;
}

void vd_loop_remove(vd_source_t **source_p)
{
    vd_source_t *source = *source_p;
    if (source == NULL)
        return;
    *source_p = NULL;
    VD_ASSERT(!source->dead);
    switch (source->kind) {
    case SOURCE_FD:
        epoll_drop(source->loop, source->fd);
        break;
    case SOURCE_TIMER:
        heap_remove(source->loop, source);
        break;
    case SOURCE_SIGNAL:
        remove_signal(source);
        break;
    case SOURCE_CHILD:
        if (source->fd >= 0)
            epoll_drop(source->loop, source->fd);
        break;
    case SOURCE_STEP:
        remove_step(source);
        break;
    }
    source->dead = true;
    vd_list_remove(&source->node);
    vd_list_push_back(&source->loop->dead, &source->node);
}

int vd_loop_add_end_of_turn(vd_loop_t *loop, int order, bool (*step)(void *context), void *context,
                            vd_source_t **ret_source, vd_error_t *err)
{
    VD_ASSERT(loop != NULL && step != NULL && ret_source != NULL);

    if (loop->step_count == STEPS_MAX)
        return vd_error_set(err, VD_ERR_FULL, "more than %d end-of-turn steps", STEPS_MAX);
    vd_source_t *source = source_new(loop, SOURCE_STEP, context);
    source->order = order;
    source->call.step = step;
    size_t at = loop->step_count++;
    for (; at > 0 && loop->steps[at - 1]->order > order; at--)
        loop->steps[at] = loop->steps[at - 1];
    loop->steps[at] = source;
    *ret_source = source;
    return VD_OK;
}

void vd_loop_again(vd_loop_t *loop)
{
    if (!loop->in_turn)
        loop->again = true;
}

void vd_loop_wake(vd_loop_t *loop)
{
    if (atomic_exchange(&loop->woken, true) || !atomic_load(&loop->asleep))
        return;
    uint64_t one = 1;
    if (write(loop->wake_fd, &one, sizeof one) < 0)
        return; /* EAGAIN: the counter is full of wakes already */
}

void vd_loop_post(vd_loop_t *loop, void (*run)(void *context), void *context)
{
    VD_ASSERT(loop != NULL && run != NULL);

    post_t *post = vd_xalloc(sizeof *post);
    post->run = run;
    post->context = context;
    post->next = atomic_load(&loop->posts);
    while (!atomic_compare_exchange_weak(&loop->posts, &post->next, post))
        ;
    vd_loop_wake(loop);
}

uint64_t vd_loop_now_ms(const vd_loop_t *loop)
{
    return loop->now_ms;
}

uint64_t vd_loop_take_longest_turn_ms(vd_loop_t *loop)
{
    uint64_t longest = atomic_exchange(&loop->longest_turn_us, 0);
    uint64_t started = atomic_load_explicit(&loop->turn_started_us, memory_order_relaxed);
    uint64_t now = vd_monotonic_us();
    if (started != 0 && vd_elapsed(started, now) > longest)
        longest = now - started; /* the turn that still runs, perhaps for ever */
    return longest / 1000;
}
