/* veddb-replicad/calls.c — see calls.h. */
#include "veddb-replicad/calls.h"

#include "libcommon/base/mem.h"
#include "proto/failure.h"

typedef struct {
    vd_node_t node;
    uint64_t id, deadline_ms;
    bool many;
    repl_done_t done;
    void *context;
} call_t;

void repl_calls_init(repl_calls_t *calls, const char *other)
{
    vd_list_init(&calls->list);
    calls->other = other;
}

uint64_t repl_calls_add(repl_calls_t *calls, bool many, uint64_t deadline_ms, repl_done_t done,
                        void *context)
{
    VD_ASSERT(done != NULL);

    call_t *call = vd_xalloc(sizeof *call);
    call->id = ++calls->last_id;
    call->many = many;
    call->deadline_ms = deadline_ms;
    call->done = done;
    call->context = context;
    vd_list_push_back(&calls->list, &call->node);
    return call->id;
}

static call_t *find(repl_calls_t *calls, uint64_t id)
{
    VD_LIST_EACH(&calls->list, node)
    {
        call_t *call = VD_CONTAINER_OF(node, call_t, node);
        if (call->id == id)
            return call;
    }
    return NULL;
}

static void finish(call_t *call, const repl_answer_t *answer)
{
    repl_done_t done = call->done;
    void *context = call->context;
    if (!call->many || answer->rc != VD_OK) {
        vd_list_remove(&call->node);
        vd_free(call);
    }
    done(context, answer);
}

static void fail(call_t *call, int code, const char *why)
{
    vd_error_t err = VD_ERROR_INIT;
    (void)vd_error_set(&err, code, "%s", why); /* goes on in the answer */
    finish(call, &(repl_answer_t){.rc = code, .err = &err});
}

bool repl_calls_answer(repl_calls_t *calls, const vdp_envelope_t *envelope, vd_slice_t rest)
{
    call_t *call = envelope->request_id == 0 ? NULL : find(calls, envelope->request_id);
    if (call == NULL)
        return false;
    vd_error_t err = VD_ERROR_INIT;
    repl_answer_t answer = {.id = envelope->id, .rest = rest};
    if (envelope->id == VDP_FAILURE) {
        vdp_failure_t failure = {0};
        answer.rc = vdp_decode(&vdp_failure, rest, &failure, NULL, &err);
        if (answer.rc == VD_OK)
            answer.rc = vdp_failure_to(&failure, &err);
        answer.err = &err;
    }
    finish(call, &answer);
    return true;
}

void repl_calls_forget(repl_calls_t *calls, uint64_t id)
{
    call_t *call = find(calls, id);
    if (call == NULL)
        return;
    vd_list_remove(&call->node);
    vd_free(call);
}

/* A done may ask anew (higher numbers, behind) or forget others: so always from the front. */
void repl_calls_fail_all(repl_calls_t *calls, int code, const char *why)
{
    uint64_t last = calls->last_id;
    vd_node_t *node;
    while ((node = vd_list_first(&calls->list)) != NULL) {
        call_t *call = VD_CONTAINER_OF(node, call_t, node);
        if (call->id > last)
            return;
        fail(call, code, why);
    }
}

void repl_calls_drop_all(repl_calls_t *calls)
{
    vd_node_t *node;
    while ((node = vd_list_pop_front(&calls->list)) != NULL)
        vd_free(VD_CONTAINER_OF(node, call_t, node));
}

static call_t *find_expired(repl_calls_t *calls, uint64_t now_ms)
{
    VD_LIST_EACH(&calls->list, node)
    {
        call_t *call = VD_CONTAINER_OF(node, call_t, node);
        if (call->deadline_ms != 0 && now_ms >= call->deadline_ms)
            return call;
    }
    return NULL;
}

void repl_calls_expire(repl_calls_t *calls, uint64_t now_ms)
{
    call_t *call;
    while ((call = find_expired(calls, now_ms)) != NULL)
        fail(call, VD_ERR_NETWORK_TIMEOUT, "no answer came in the time given");
}

int repl_answer_take(const repl_answer_t *answer, const vdp_message_t *message, void *ret_fields,
                     vd_slice_t *ret_body, vd_error_t *err)
{
    if (answer->rc != VD_OK)
        return vd_error_set(err, answer->rc, "%s", answer->err->message);
    if (answer->id != message->id)
        return vd_error_set(err, VD_ERR_PROTOCOL, "%s instead of %s", vdp_id_name(answer->id),
                            message->name);
    return vdp_decode(message, answer->rest, ret_fields, ret_body, err);
}
