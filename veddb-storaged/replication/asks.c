/* veddb-storaged/replication/asks.c — see asks.h. */
#include "veddb-storaged/replication/asks.h"

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"

typedef struct stor_ask {
    struct stor_ask *next;
    uint64_t request_id, until_ms; /* until_ms 0: not sent yet */
    vd_buf_t verb, argument, argument2, body;
    stor_ask_answered_t answered;
    void *context;
} ask_t;

void stor_asks_init(stor_asks_t *asks)
{
    *asks = (stor_asks_t){0};
    (void)pthread_mutex_init(&asks->lock, NULL);
}

void stor_asks_done(stor_asks_t *asks)
{
    VD_ASSERT(asks->first == NULL); /* each was called back */
    (void)pthread_mutex_destroy(&asks->lock);
}

static bool copied(vd_buf_t *buf, vd_slice_t from)
{
    vd_buf_init(buf, VDP_SET_STATUS_MAX);
    return from.len == 0 || vd_buf_append_slice(buf, from) == VD_OK;
}

static void ask_free(ask_t *ask)
{
    vd_buf_done(&ask->verb);
    vd_buf_done(&ask->argument);
    vd_buf_done(&ask->argument2);
    vd_buf_done(&ask->body);
    vd_free(ask);
}

int stor_asks_add(stor_asks_t *asks, const vdp_replication_ask_t *question, vd_slice_t body,
                  stor_ask_answered_t answered, void *context, vd_error_t *err)
{
    ask_t *ask = vd_xalloc(sizeof *ask);
    bool fits = copied(&ask->verb, question->verb);
    fits &= copied(&ask->argument, question->argument);
    fits &= copied(&ask->argument2, question->argument2);
    fits &= copied(&ask->body, body);
    ask->answered = answered;
    ask->context = context;
    int rc = fits ? VD_OK : vd_error_set(err, VD_ERR_BAD_VALUE, "the question is too large");
    (void)pthread_mutex_lock(&asks->lock);
    if (rc == VD_OK && (asks->stopped || asks->count >= STOR_ASKS_MAX))
        rc = vd_error_set(err, VD_ERR_TEMPORARILY_UNAVAILABLE, "replicad can't be asked now");
    if (rc == VD_OK) {
        ask->request_id = ++asks->number;
        ask->next = asks->first;
        asks->first = ask;
        asks->count++;
    }
    (void)pthread_mutex_unlock(&asks->lock);
    if (rc != VD_OK)
        ask_free(ask);
    return rc;
}

void stor_asks_stop(stor_asks_t *asks)
{
    (void)pthread_mutex_lock(&asks->lock);
    asks->stopped = true;
    (void)pthread_mutex_unlock(&asks->lock);
}

/* Not under the lock: who is called back may ask again. */
static void call_back(ask_t *list, int code, const char *message)
{
    while (list != NULL) {
        ask_t *ask = list;
        list = ask->next;
        ask->answered(ask->context, code, vd_slice_str(message), VD_SLICE_NULL);
        ask_free(ask);
    }
}

/* Those whose time is over at now_ms. */
static ask_t *overdue_take(stor_asks_t *asks, uint64_t now_ms)
{
    ask_t *overdue = NULL;
    for (ask_t **at = &asks->first; *at != NULL;) {
        ask_t *ask = *at;
        if (now_ms < ask->until_ms) {
            at = &ask->next;
            continue;
        }
        *at = ask->next;
        ask->next = overdue;
        overdue = ask;
        asks->count--;
    }
    return overdue;
}

void stor_asks_look(stor_asks_t *asks, bool up,
                    void (*send)(void *context, uint64_t request_id,
                                 const vdp_replication_ask_t *question, vd_slice_t body),
                    void *context)
{
    uint64_t now_ms = vd_monotonic_ms();
    (void)pthread_mutex_lock(&asks->lock);
    for (ask_t *ask = asks->first; up && ask != NULL; ask = ask->next) {
        if (ask->until_ms != 0)
            continue;
        vdp_replication_ask_t question = {vd_buf_slice(&ask->verb), vd_buf_slice(&ask->argument),
                                          vd_buf_slice(&ask->argument2)};
        ask->until_ms = now_ms + STOR_ASK_MS;
        send(context, ask->request_id, &question, vd_buf_slice(&ask->body));
    }
    ask_t *overdue = overdue_take(asks, up ? now_ms : UINT64_MAX);
    (void)pthread_mutex_unlock(&asks->lock);
    call_back(overdue, VD_ERR_HOST_UNREACHABLE,
              up ? "replicad did not answer" : "replicad is not there");
}

bool stor_asks_answer(stor_asks_t *asks, uint64_t request_id, int code, vd_slice_t message,
                      vd_slice_t body)
{
    (void)pthread_mutex_lock(&asks->lock);
    ask_t **at = &asks->first;
    while (*at != NULL && ((*at)->request_id != request_id || (*at)->until_ms == 0))
        at = &(*at)->next;
    ask_t *ask = *at;
    if (ask != NULL) {
        *at = ask->next;
        asks->count--;
    }
    (void)pthread_mutex_unlock(&asks->lock);
    if (ask == NULL)
        return false;
    ask->answered(ask->context, code, message, body);
    ask_free(ask);
    return true;
}

void stor_asks_fail(stor_asks_t *asks, int code, const char *message)
{
    (void)pthread_mutex_lock(&asks->lock);
    ask_t *all = overdue_take(asks, UINT64_MAX);
    (void)pthread_mutex_unlock(&asks->lock);
    call_back(all, code, message);
}
