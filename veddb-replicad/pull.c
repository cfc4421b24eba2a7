/* veddb-replicad/pull.c — entries of the upstream for our storage. Contract in node.h.
 *
 * Bounded by the credit that we give; whole batches are handed over in order, REPL_APPLIES_MAX
 * under way, small ones joined. What storage has not confirmed is pulled again after a loss: always
 * from the position that is applied. */
#include "veddb-replicad/node.h"

#include <stdio.h>

#define JOIN_BYTES_MAX  (1024 * 1024)
#define RETRY_MS        200
#define SAMPLE_MAX      64
#define ENTRY_HEAD_BYTE 16

typedef struct {
    vd_node_t node;
    uint64_t after, last;
    uint32_t count, capacity;
    bool partial;
    size_t len;
    uint8_t data[];
} batch_t;

typedef struct {
    repl_node_t *node;
    uint64_t bytes, epoch;
} apply_t;

static void apply_more(repl_node_t *node);

static void drop_queue(repl_pull_t *pull)
{
    vd_node_t *item;
    while ((item = vd_list_pop_front(&pull->queue)) != NULL)
        vd_free(VD_CONTAINER_OF(item, batch_t, node));
    pull->queue_bytes = 0;
}

/* What was handed over comes to its end at storage; nothing of it is acknowledged any more. */
static void stop(repl_node_t *node)
{
    repl_pull_t *pull = &node->pull;
    if (pull->conn != NULL && pull->request != 0)
        repl_conn_forget(pull->conn, pull->request);
    pull->conn = NULL;
    pull->request = 0;
    pull->streaming = pull->ack_due = pull->asking = false;
    pull->credit_back = 0;
    pull->epoch++;
    drop_queue(pull);
}

void repl_pull_init(repl_node_t *node)
{
    vd_list_init(&node->pull.queue);
}

void repl_pull_done(repl_node_t *node)
{
    drop_queue(&node->pull);
}

void repl_pull_follow(repl_node_t *node, uint32_t member, bool catch_up)
{
    if (node->pull.member == member && node->pull.catch_up == catch_up)
        return;
    stop(node);
    node->pull.member = member;
    node->pull.catch_up = catch_up;
    node->pull.retry_at_ms = 0;
    repl_pull_tick(node);
}

void repl_pull_lost(repl_node_t *node, repl_conn_t *conn)
{
    if (node->pull.conn == conn) {
        stop(node);
        node->pull.retry_at_ms = 0;
    }
}

void repl_pull_reset(repl_node_t *node)
{
    stop(node);
    node->pull.applying = 0;
    node->pull.applied = node->pull.flushed = 0;
    node->pull.problem[0] = '\0';
}

void repl_pull_position(repl_node_t *node, uint64_t applied, uint64_t durable)
{
    repl_pull_t *pull = &node->pull;
    if (pull->applying > 0)
        return; /* APPLIED knows better */
    if (applied > pull->applied)
        pull->applied = applied;
    durable = durable < pull->applied ? durable : pull->applied;
    if (durable > pull->flushed) {
        pull->flushed = durable;
        pull->ack_due = pull->streaming;
    }
}

static void retry(repl_node_t *node, const char *why, const vd_error_t *err)
{
    char quoted[300];
    vd_log(VD_LOG_INFO, why, "from=%s applied=%llx error=%s",
           repl_member_name(node, node->pull.member), (unsigned long long)node->pull.applied,
           vd_log_quote(vd_slice_str(err->message), quoted, sizeof quoted));
    stop(node);
    node->pull.retry_at_ms = repl_now(node) + RETRY_MS;
}

/* Cut where a letter ends: it travels as UTF-8. */
static void problem_set(repl_pull_t *pull, const char *why)
{
    (void)snprintf(pull->problem, sizeof pull->problem, "%.*s", VDP_PEER_PROBLEM_MAX, why);
    for (size_t len = strlen(pull->problem); !vd_utf8_valid(vd_slice_str(pull->problem));)
        pull->problem[--len] = '\0';
}

/* ---- to storage ---- */

static void applied(void *context, const repl_answer_t *answer)
{
    apply_t call = *(apply_t *)context;
    repl_node_t *node = call.node;
    repl_pull_t *pull = &node->pull;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_applied_t said = {0};
    vd_free(context);
    if (pull->applying > 0)
        pull->applying--;
    int rc = repl_answer_take(answer, &vdp_replication_applied, &said, NULL, &err);
    if (rc == VD_OK) {
        if (said.applied > pull->applied)
            pull->applied = said.applied;
        if (said.durable > pull->flushed)
            pull->flushed = said.durable < said.applied ? said.durable : said.applied;
        pull->loaded_at = pull->loaded_at != pull->applied ? 0 : pull->loaded_at;
        pull->problem[0] = '\0';
    }
    if (call.epoch != pull->epoch)
        return; /* of a stream that has ended */
    if (rc == VD_ERR_DIVERGED && !pull->catch_up) {
        stop(node);
        repl_resync_start(node, false, 0, err.message);
    } else if (rc != VD_OK) {
        problem_set(pull, err.message);
        retry(node, "storage did not apply a batch; it is pulled again", &err);
    } else {
        pull->credit_back += call.bytes;
        pull->ack_due = true;
        apply_more(node);
    }
}

/* Takes the next whole batches off the queue as one, if they are small. */
static batch_t *take_batch(repl_pull_t *pull)
{
    batch_t *batch = VD_CONTAINER_OF(vd_list_pop_front(&pull->queue), batch_t, node);
    pull->queue_bytes -= batch->len;
    for (;;) {
        vd_node_t *item = vd_list_first(&pull->queue);
        batch_t *next = item == NULL ? NULL : VD_CONTAINER_OF(item, batch_t, node);
        if (next == NULL || batch->partial || next->partial || next->after != batch->last ||
            batch->len + next->len > JOIN_BYTES_MAX)
            return batch;
        vd_list_remove(item);
        pull->queue_bytes -= next->len;
        batch = vd_xrealloc(batch, sizeof *batch + batch->len + next->len); /* bounded above */
        memcpy(batch->data + batch->len, next->data, next->len);
        batch->len += next->len;
        batch->last = next->last;
        batch->count += next->count;
        vd_free(next);
    }
}

static void apply_more(repl_node_t *node)
{
    repl_pull_t *pull = &node->pull;
    while (pull->streaming && pull->applying < REPL_APPLIES_MAX && !vd_list_empty(&pull->queue)) {
        batch_t *batch = take_batch(pull);
        const repl_member_config_t *self = repl_config_by_id(node->config, node->self);
        vdp_replication_apply_t fields = {
            .term = node->role.term,
            .after = batch->after,
            .last = batch->last,
            .count = batch->count,
            .partial = batch->partial,
            .delay_ms = self == NULL ? 0 : self->delay_secs * 1000,
        };
        apply_t *call = vd_xalloc(sizeof *call);
        *call = (apply_t){node, batch->len, pull->epoch};
        pull->applying++;
        /* A delayed member's storage answers when the time has come: no deadline. */
        (void)repl_storage_ask(node->storage, &vdp_replication_apply, &fields,
                               vd_slice(batch->data, batch->len), 0, applied, call);
        vd_free(batch);
    }
}

/* ---- from the upstream ---- */

/* Entries {key 12, u32 length, value}: as many as it says, and nothing behind. */
static bool is_whole(vd_slice_t body, uint32_t count)
{
    size_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (body.len - at < ENTRY_HEAD_BYTE)
            return false;
        uint32_t len = vd_get_u32(body.data + at + 12);
        if (len > body.len - at - ENTRY_HEAD_BYTE)
            return false;
        at += ENTRY_HEAD_BYTE + len;
    }
    return at == body.len;
}

static void take_entries(repl_node_t *node, const vdp_peer_entries_t *entries, vd_slice_t body)
{
    repl_pull_t *pull = &node->pull;
    vd_error_t err = VD_ERROR_INIT;
    if (entries->term != node->role.term && !pull->catch_up) {
        (void)vd_error_set(&err, VD_ERR_STALE_TERM, "entries of term %llu",
                           (unsigned long long)entries->term);
    } else if (entries->after != pull->received || entries->last < entries->after ||
               entries->count == 0 || !is_whole(body, entries->count)) {
        (void)vd_error_set(&err, VD_ERR_PROTOCOL, "a gap: entries after %llx instead of %llx",
                           (unsigned long long)entries->after, (unsigned long long)pull->received);
    }
    batch_t *batch = err.code != VD_OK ? NULL : vd_try_alloc(sizeof *batch + body.len);
    if (batch == NULL) {
        if (err.code == VD_OK)
            (void)vd_error_set(&err, VD_ERR_NO_MEMORY, "no memory for a batch");
        retry(node, "a batch can't be taken; it is pulled again", &err);
        return;
    }
    *batch = (batch_t){.after = entries->after,
                       .last = entries->last,
                       .count = entries->count,
                       .partial = entries->partial,
                       .len = body.len};
    memcpy(batch->data, body.data, body.len);
    vd_list_push_back(&pull->queue, &batch->node);
    pull->queue_bytes += body.len;
    pull->received = entries->last;
    pull->newest = entries->newest;
    pull->ack_due = true;
    repl_pull_majority(node, entries->term, entries->majority);
    apply_more(node);
}

/* ---- histories that part ---- */

static void common_found(void *context, const repl_answer_t *answer)
{
    repl_node_t *node = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_peer_found_t said = {0};
    node->pull.asking = false;
    if (repl_answer_take(answer, &vdp_peer_found, &said, NULL, &err) != VD_OK) {
        retry(node, "the common point was not found out", &err);
        return;
    }
    if (said.timestamp == node->pull.applied) { /* it has come there meanwhile */
        node->pull.retry_at_ms = 0;
        return;
    }
    char why[120];
    (void)snprintf(why, sizeof why, "our entries above %llx are not the primary's",
                   (unsigned long long)said.timestamp);
    repl_resync_start(node, true, said.timestamp, why);
}

static void sample_came(void *context, const repl_answer_t *answer)
{
    repl_node_t *node = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_found_t said = {0};
    vdp_peer_find_t find = {0};
    vd_slice_t sample;
    repl_member_t *member = repl_member_by_id(node, node->pull.member);
    repl_conn_t *conn = member == NULL ? NULL : repl_link_conn(member->link);
    int rc = repl_answer_take(answer, &vdp_replication_found, &said, &sample, &err);
    if (rc == VD_OK && conn == NULL)
        rc = vd_error_set(&err, VD_ERR_CLOSED, "the upstream is gone");
    if (rc != VD_OK) {
        node->pull.asking = false;
        retry(node, "the common point was not found out", &err);
        return;
    }
    (void)repl_conn_ask(conn, &vdp_peer_find, &find, sample, false, 10000, common_found, node);
}

static void diverged(repl_node_t *node)
{
    vdp_replication_find_t find = {.sample = true};
    stop(node);
    node->pull.asking = true;
    (void)repl_storage_ask(node->storage, &vdp_replication_find, &find, VD_SLICE_NULL, 10000,
                           sample_came, node);
}

static void entries_came(void *context, const repl_answer_t *answer)
{
    repl_node_t *node = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_peer_entries_t entries = {0};
    vd_slice_t body;
    int rc = repl_answer_take(answer, &vdp_peer_entries, &entries, &body, &err);
    if (rc == VD_OK) {
        take_entries(node, &entries, body);
        return;
    }
    if (answer->rc != VD_OK)
        node->pull.request = 0; /* a failure has ended it */
    /* What we have is dropped under a primary only whose configuration its disk has: another one,
     * which nobody has agreed to, could take its vote, and leave nobody who has the data. */
    if (node->pull.catch_up || !repl_config_of_term(node) ||
        (rc != VD_ERR_DIVERGED && rc != VD_ERR_CHANGE_STREAM_HISTORY_LOST))
        retry(node, "the stream from the upstream ended", &err);
    else if (rc == VD_ERR_DIVERGED)
        diverged(node);
    else {
        stop(node);
        repl_resync_start(node, false, 0, err.message);
    }
}

void repl_pull_tick(repl_node_t *node)
{
    repl_pull_t *pull = &node->pull;
    const repl_storage_state_t *state = repl_state(node);
    repl_member_t *member = repl_member_by_id(node, pull->member);
    if (pull->conn != NULL || pull->asking || pull->member == 0 || member == NULL ||
        pull->applying > 0 || node->resync.state != REPL_RESYNC_NONE || !state->attached ||
        !state->ready || state->role == VDP_ROLE_PRIMARY || node->role.role_asked ||
        repl_now(node) < pull->retry_at_ms)
        return;
    repl_conn_t *conn = repl_link_conn(member->link);
    if (conn == NULL)
        return;
    repl_pull_position(node, state->newest, state->durable);
    if (pull->drop_term != node->role.term)
        pull->drop_term = 0; /* of another primary */
    if (pull->drop_term != 0 && !pull->catch_up) {
        /* What we acknowledged may not be on the primary's disk yet, and while we load we vote for
         * it: it must have everything then. */
        if (member->said.term != node->role.term || member->said.flushed < state->newest ||
            !repl_config_of_term(node))
            return;
        pull->drop_term = 0;
        repl_resync_start(node, false, 0, "an operator wants it");
        return;
    }
    if (state->loading || pull->applied == 0 || (state->empty && node->stored_version == 0)) {
        if (!pull->catch_up && repl_config_of_term(node))
            repl_resync_start(node, false, 0, "this node has no data yet");
        return;
    }
    uint64_t share = node->buffer_bytes / (node->config->count > 1 ? node->config->count - 1 : 1);
    vdp_peer_pull_t ask = {.term = pull->catch_up ? 0 : node->role.term,
                           .after = pull->applied,
                           .credit = share < (1u << 20) ? 1u << 20 : share,
                           .loaded = pull->loaded_at == pull->applied,
                           .loaded_term = pull->loaded_term};
    pull->conn = conn;
    pull->streaming = true;
    pull->received = pull->applied;
    pull->ack_due = true;
    uint64_t request =
        repl_conn_ask(conn, &vdp_peer_pull, &ask, VD_SLICE_NULL, true, 0, entries_came, node);
    if (pull->conn == conn)
        pull->request = request;
    vd_log(VD_LOG_INFO, "pulls entries", "from=%s after=%llx", repl_member_name(node, pull->member),
           (unsigned long long)ask.after);
}

void repl_pull_ack(repl_node_t *node)
{
    repl_pull_t *pull = &node->pull;
    if (!pull->ack_due || pull->conn == NULL || pull->request == 0)
        return;
    pull->ack_due = false;
    vdp_peer_ack_t ack = {.stream = pull->request,
                          .term = node->role.term,
                          .received = pull->received,
                          .flushed = pull->flushed,
                          .applied = pull->applied,
                          .credit = pull->credit_back};
    pull->credit_back = 0;
    if (repl_conn_send(pull->conn, &vdp_peer_ack, 0, &ack, VD_SLICE_NULL, NULL) != VD_OK)
        VD_DEBUG("an acknowledgement was not sent", "member=%u", pull->member);
}

void repl_pull_majority(repl_node_t *node, uint64_t term, uint64_t majority)
{
    if (term == node->role.term && majority > node->pull.majority) {
        node->pull.majority = majority;
        node->majority_due = true;
    }
}
