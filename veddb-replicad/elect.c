/* veddb-replicad/elect.c — see elect.h. */
#include "veddb-replicad/elect.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/list.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "veddb-replicad/etcd.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS_MAX                                                                                 \
    1000 /* not yet taken by the loop; above it the oldest LEASE is worth nothing                  \
          */
#define LOOK_MIN_MS 50

typedef enum { ORDER_CLAIM, ORDER_RENEW, ORDER_RELEASE } order_kind_t;

typedef struct {
    order_kind_t kind;
    uint64_t term;
} order_t;

typedef struct {
    vd_node_t node;
    repl_event_t event;
} event_node_t;

struct repl_elect {
    repl_etcd_t *etcd; /* the thread's, but for wake and stop */
    pthread_t thread;
    bool started;
    _Atomic bool stopping;
    uint32_t self;
    uint64_t lease_ms;
    char node_name[REPL_ETCD_NAME_MAX + 1];
    void (*event)(void *context, const repl_event_t *event);
    void *context;
    vd_source_t *source;
    int fd; /* an event waits */

    pthread_mutex_t lock; /* for what follows */
    order_t orders[REPL_ELECT_QUEUE_MAX];
    uint32_t order_count;
    vd_list_t events;
    uint32_t event_count;
    /* As the status shows it. */
    repl_etcd_record_t record;
    bool away, known, watching;
    uint64_t answered_ms, failures;
    char endpoint[REPL_ETCD_URL_MAX], why[300];

    /* The thread's own. */
    uint64_t lease; /* ours; 0 = none */
    uint64_t look_at_ms;
};

/* ---- events ---- */

static void emit(repl_elect_t *elect, const repl_event_t *event)
{
    event_node_t *node = vd_xalloc(sizeof *node);
    uint64_t one = 1;
    node->event = *event;
    (void)pthread_mutex_lock(&elect->lock);
    if (elect->event_count >= EVENTS_MAX) { /* the loop stands still: newer news replace older */
        vd_free(VD_CONTAINER_OF(vd_list_pop_front(&elect->events), event_node_t, node));
        elect->event_count--;
    }
    vd_list_push_back(&elect->events, &node->node);
    elect->event_count++;
    (void)pthread_mutex_unlock(&elect->lock);
    while (write(elect->fd, &one, sizeof one) < 0 && errno == EINTR)
        continue;
}

static event_node_t *take_event(repl_elect_t *elect)
{
    (void)pthread_mutex_lock(&elect->lock);
    vd_node_t *node = vd_list_pop_front(&elect->events);
    if (node != NULL)
        elect->event_count--;
    (void)pthread_mutex_unlock(&elect->lock);
    return node == NULL ? NULL : VD_CONTAINER_OF(node, event_node_t, node);
}

static void deliver(void *context, int fd, unsigned events)
{
    (void)events; /* reading is all that is watched */
    repl_elect_t *elect = context;
    uint64_t count;
    event_node_t *node;
    if (read(fd, &count, sizeof count) < 0 && errno != EAGAIN && errno != EINTR)
        vd_log(VD_LOG_ERROR, "events of etcd can't be read", "errno=%d", errno);
    while ((node = take_event(elect)) != NULL) {
        repl_event_t event = node->event;
        vd_free(node);
        event.now_ms = vd_monotonic_ms();
        elect->event(elect->context, &event);
    }
}

/* ---- what etcd said ---- */

static void answered(repl_elect_t *elect, const repl_etcd_record_t *record)
{
    (void)pthread_mutex_lock(&elect->lock);
    bool was_away = elect->away;
    elect->away = false;
    elect->known = true;
    elect->answered_ms = vd_monotonic_ms();
    elect->watching = repl_etcd_is_watching(elect->etcd);
    if (record != NULL)
        elect->record = *record;
    (void)snprintf(elect->endpoint, sizeof elect->endpoint, "%s", repl_etcd_endpoint(elect->etcd));
    (void)pthread_mutex_unlock(&elect->lock);
    if (was_away)
        vd_log(VD_LOG_INFO, "etcd answers again", "node=%s", elect->node_name);
}

static void away(repl_elect_t *elect, const vd_error_t *err)
{
    char text[300], quoted[400];
    (void)vd_error_print(err, text, sizeof text);
    (void)pthread_mutex_lock(&elect->lock);
    bool first = !elect->away;
    elect->away = true;
    elect->watching = false;
    elect->failures++;
    (void)snprintf(elect->why, sizeof elect->why, "%s", text);
    (void)pthread_mutex_unlock(&elect->lock);
    if (atomic_load(&elect->stopping))
        return;
    if (first)
        vd_log(VD_LOG_WARN, "etcd can't be asked", "error=%s",
               vd_log_quote(vd_slice_str(text), quoted, sizeof quoted));
    emit(elect, &(repl_event_t){.kind = REPL_EVENT_ETCD_AWAY});
}

/* ---- orders ---- */

static void look_later(repl_elect_t *elect)
{
    uint64_t ms = elect->lease_ms / (repl_etcd_is_watching(elect->etcd) ? 2 : 5);
    elect->look_at_ms = vd_monotonic_ms() + (ms > LOOK_MIN_MS ? ms : LOOK_MIN_MS);
}

static int look_up(repl_elect_t *elect, repl_etcd_record_t *ret_record, vd_error_t *err)
{
    int rc = repl_etcd_read(elect->etcd, ret_record, err);
    if (rc == VD_OK)
        answered(elect, ret_record);
    else
        away(elect, err);
    return rc;
}

static void look(repl_elect_t *elect)
{
    vd_error_t err = VD_ERROR_INIT;
    repl_etcd_record_t record;
    uint64_t sent = vd_monotonic_ms(), left_s = 0;
    if (look_up(elect, &record, &err) == VD_OK) {
        /* Whole seconds are what etcd tells: there may be almost one more. */
        bool timed = record.leader != 0 &&
                     repl_etcd_time_left(elect->etcd, record.lease, &left_s, &err) == VD_OK;
        emit(elect, &(repl_event_t){.kind = REPL_EVENT_LEASE,
                                    .term = record.leader != 0 ? record.leader_term : record.term,
                                    .leader = record.leader,
                                    .left_ms = timed ? (left_s + 1) * 1000 : 0,
                                    .sent_ms = sent});
    }
    look_later(elect);
}

static void give_back(repl_elect_t *elect, uint64_t lease)
{
    vd_error_t err = VD_ERROR_INIT;
    if (lease != 0 && repl_etcd_revoke(elect->etcd, lease, &err) != VD_OK)
        VD_DEBUG("a lease was not given back", "error=%d", err.code); /* it ends by itself */
}

static void claim_lost(repl_elect_t *elect, const repl_etcd_record_t *record)
{
    emit(elect, &(repl_event_t){.kind = REPL_EVENT_CLAIM_LOST,
                                .term = record->leader != 0 ? record->leader_term : record->term,
                                .leader = record->leader});
}

static bool may_claim(const repl_elect_t *elect, const repl_etcd_record_t *record, uint64_t term)
{
    return record->term < term || (record->term == term && record->owner == elect->self);
}

/* The keys say who has it: also when the answer to the claim was lost. */
static void claim_settle(repl_elect_t *elect, uint64_t term, uint64_t lease, uint64_t sent)
{
    vd_error_t err = VD_ERROR_INIT;
    repl_etcd_record_t record;
    if (look_up(elect, &record, &err) != VD_OK)
        return; /* the lease ends by itself; if it got the key, looks will say so */
    if (record.leader == elect->self && record.lease == lease && record.leader_term == term) {
        elect->lease = lease;
        emit(elect,
             &(repl_event_t){
                 .kind = REPL_EVENT_CLAIMED, .term = term, .leader = elect->self, .sent_ms = sent});
        return;
    }
    give_back(elect, lease);
    claim_lost(elect, &record);
}

static void claim(repl_elect_t *elect, uint64_t term)
{
    vd_error_t err = VD_ERROR_INIT;
    repl_etcd_record_t record;
    uint64_t lease = 0;
    bool granted;
    if (look_up(elect, &record, &err) != VD_OK)
        return;
    if (!may_claim(elect, &record, term)) {
        claim_lost(elect, &record);
        return;
    }
    uint64_t sent = vd_monotonic_ms();
    if (repl_etcd_grant(elect->etcd, (elect->lease_ms + 999) / 1000, &lease, &err) != VD_OK) {
        away(elect, &err);
        return;
    }
    int rc = repl_etcd_claim(elect->etcd, &record, term, elect->self, elect->node_name, lease,
                             &granted, &err);
    if (rc != VD_OK)
        VD_DEBUG("the answer to a claim is missing", "term=%llu error=%d", (unsigned long long)term,
                 rc);
    claim_settle(elect, term, lease, sent);
}

static void renew(repl_elect_t *elect)
{
    vd_error_t err = VD_ERROR_INIT;
    uint64_t sent = vd_monotonic_ms(), left_s = 0;
    if (elect->lease == 0) {
        look(elect); /* it was lost: who has it? */
        return;
    }
    if (repl_etcd_keep_alive(elect->etcd, elect->lease, &left_s, &err) != VD_OK) {
        away(elect, &err);
        return;
    }
    answered(elect, NULL);
    if (left_s != 0) {
        emit(elect, &(repl_event_t){.kind = REPL_EVENT_RENEWED, .sent_ms = sent});
        return;
    }
    elect->lease = 0;
    look(elect);
}

static void release(repl_elect_t *elect)
{
    vd_error_t err = VD_ERROR_INIT;
    uint64_t lease = elect->lease;
    repl_etcd_record_t record;
    elect->lease = 0;
    /* It may be of the process before us, or of a claim whose answer was lost. */
    if (lease == 0 && look_up(elect, &record, &err) == VD_OK && record.leader == elect->self)
        lease = record.lease;
    if (lease == 0)
        return;
    if (repl_etcd_revoke(elect->etcd, lease, &err) != VD_OK && err.code != VD_ERR_OPERATION_FAILED)
        away(elect, &err); /* refused: it had ended */
    else
        look(elect);
}

/* ---- the thread ---- */

static bool take_order(repl_elect_t *elect, order_t *ret_order)
{
    (void)pthread_mutex_lock(&elect->lock);
    bool found = elect->order_count != 0;
    if (found) {
        *ret_order = elect->orders[0];
        elect->order_count--;
        memmove(elect->orders, elect->orders + 1, elect->order_count * sizeof elect->orders[0]);
    }
    (void)pthread_mutex_unlock(&elect->lock);
    return found;
}

static void do_order(repl_elect_t *elect, const order_t *order)
{
    switch (order->kind) {
    case ORDER_CLAIM:
        claim(elect, order->term);
        break;
    case ORDER_RENEW:
        renew(elect);
        break;
    case ORDER_RELEASE:
        release(elect);
        break;
    }
}

static void *thread_main(void *context)
{
    repl_elect_t *elect = context;
    order_t order;
    look(elect);
    while (!atomic_load(&elect->stopping)) {
        if (take_order(elect, &order)) {
            do_order(elect, &order);
            continue;
        }
        uint64_t now = vd_monotonic_ms();
        bool news = now < elect->look_at_ms && repl_etcd_wait(elect->etcd, elect->look_at_ms - now);
        if (!atomic_load(&elect->stopping) && (news || vd_monotonic_ms() >= elect->look_at_ms))
            look(elect);
    }
    return NULL;
}

static int thread_start(repl_elect_t *elect, vd_error_t *err)
{
    int why = vd_thread_start(&elect->thread, thread_main, elect);
    if (why != 0)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "a thread can't be started: %d", why);
    elect->started = true;
    return VD_OK;
}

int repl_elect_create(vd_loop_t *loop, const repl_elect_options_t *options,
                      repl_elect_t **ret_elect, vd_error_t *err)
{
    VD_ASSERT(loop != NULL && options != NULL && options->event != NULL && ret_elect != NULL);
    VD_ASSERT(options->self != 0 && options->lease_ms != 0);
    if (strlen(options->node_name) > REPL_ETCD_NAME_MAX)
        return vd_error_set(err, VD_ERR_CONFIG, "the node's name has more than %d bytes",
                            REPL_ETCD_NAME_MAX);
    repl_elect_t *elect = vd_xalloc(sizeof *elect);
    repl_etcd_options_t etcd = {options->endpoints, options->ca_file,  options->certificate_file,
                                options->key_file,  options->set_name, options->lease_ms / 3};
    elect->self = options->self;
    elect->lease_ms = options->lease_ms;
    elect->event = options->event;
    elect->context = options->context;
    (void)snprintf(elect->node_name, sizeof elect->node_name, "%s", options->node_name);
    (void)pthread_mutex_init(&elect->lock, NULL); /* can't fail with default attributes */
    vd_list_init(&elect->events);
    elect->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = elect->fd < 0 ? vd_error_set_errno(err, "an eventfd can't be had") : VD_OK;
    if (rc == VD_OK)
        rc = repl_etcd_create(&etcd, &elect->etcd, err);
    if (rc == VD_OK)
        rc = vd_loop_add_fd(loop, elect->fd, VD_LOOP_READ, deliver, elect, &elect->source, err);
    if (rc == VD_OK)
        rc = thread_start(elect, err);
    if (rc != VD_OK) {
        repl_elect_destroy(&elect);
        return rc;
    }
    *ret_elect = elect;
    return VD_OK;
}

void repl_elect_destroy(repl_elect_t **elect_p)
{
    repl_elect_t *elect = *elect_p;
    event_node_t *node;
    if (elect == NULL)
        return;
    vd_loop_remove(&elect->source);
    atomic_store(&elect->stopping, true);
    if (elect->started) {
        repl_etcd_stop(elect->etcd);
        (void)pthread_join(elect->thread, NULL);
    }
    while ((node = take_event(elect)) != NULL)
        vd_free(node);
    repl_etcd_destroy(&elect->etcd);
    if (elect->fd >= 0)
        (void)close(elect->fd);
    (void)pthread_mutex_destroy(&elect->lock);
    vd_free(elect);
    *elect_p = NULL;
}

static void put_order(repl_elect_t *elect, order_kind_t kind, uint64_t term)
{
    (void)pthread_mutex_lock(&elect->lock);
    uint32_t n = elect->order_count;
    bool twice = kind == ORDER_RENEW && n != 0 && elect->orders[n - 1].kind == ORDER_RENEW;
    if (!twice && n == REPL_ELECT_QUEUE_MAX) { /* etcd hangs: of all orders the newest count */
        memmove(elect->orders, elect->orders + 1, (n - 1) * sizeof elect->orders[0]);
        n--;
    }
    if (!twice) {
        elect->orders[n] = (order_t){kind, term};
        elect->order_count = n + 1;
    }
    (void)pthread_mutex_unlock(&elect->lock);
    repl_etcd_wake(elect->etcd);
}

void repl_elect_claim(repl_elect_t *elect, uint64_t term)
{
    VD_ASSERT(term != 0);
    put_order(elect, ORDER_CLAIM, term);
}

void repl_elect_renew(repl_elect_t *elect)
{
    put_order(elect, ORDER_RENEW, 0);
}

void repl_elect_release(repl_elect_t *elect)
{
    put_order(elect, ORDER_RELEASE, 0);
}

static void quote(const char *text, char *out, size_t size)
{
    size_t n = 0;
    for (const char *c = text; *c != 0 && n + 3 < size; c++) {
        if (*c == '"' || *c == '\\')
            out[n++] = '\\';
        out[n++] = (unsigned char)*c < 0x20 ? ' ' : *c;
    }
    out[n] = 0;
}

int repl_elect_status(repl_elect_t *elect, vd_buf_t *out)
{
    char endpoint[REPL_ETCD_URL_MAX + 100], why[600];
    (void)pthread_mutex_lock(&elect->lock);
    repl_etcd_record_t record = elect->record;
    bool reachable = elect->known && !elect->away, watching = elect->watching;
    uint64_t failures = elect->failures,
             ago_ms = elect->known ? vd_monotonic_ms() - elect->answered_ms : 0;
    quote(elect->endpoint, endpoint, sizeof endpoint);
    quote(elect->why, why, sizeof why);
    (void)pthread_mutex_unlock(&elect->lock);
    return vd_buf_printf(
        out,
        "{\"reachable\":%s,\"endpoint\":\"%s\",\"watching\":%s,\"answeredMsAgo\":%llu,"
        "\"leader\":%u,\"term\":%llu,\"failures\":%llu,\"lastError\":\"%s\"}",
        reachable ? "true" : "false", endpoint, watching ? "true" : "false",
        (unsigned long long)ago_ms, record.leader,
        (unsigned long long)(record.leader != 0 ? record.leader_term : record.term),
        (unsigned long long)failures, why);
}
