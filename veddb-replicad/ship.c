/* veddb-replicad/ship.c — entries of our storage for those who pull. Contract in node.h.
 *
 * One TAIL of a stream is under way at a time, for as many bytes as there is credit; the next is
 * asked as soon as its batch was put on the connection. Before anything is sent our own storage
 * says whether the follower's position is one of our history. */
#include "veddb-replicad/node.h"

#define BATCH_BYTES_MAX (1024 * 1024)
#define TAIL_WAIT_MS    2000
#define STREAMS_MAX     128

typedef struct {
    vd_node_t node;
    repl_node_t *owner;
    repl_conn_t *conn; /* NULL: its end has come, but storage still owes an answer */
    uint64_t request, term, after, newest;
    uint32_t member, after_part;
    int64_t credit;
    bool asking, checked;
} stream_t;

static void read_on(stream_t *stream);

/* May be called while storage owes an answer: freed then. */
static void end(stream_t *stream)
{
    repl_member_t *member = repl_member_by_id(stream->owner, stream->member);
    if (stream->conn != NULL && stream->checked && member != NULL) {
        member->streams = false;
        stream->owner->positions_due = true;
    }
    stream->conn = NULL;
    if (stream->asking)
        return;
    vd_list_remove(&stream->node);
    vd_free(stream);
}

static void refuse(stream_t *stream, const vd_error_t *why)
{
    char quoted[300];
    vd_log(VD_LOG_INFO, "a stream to a member ends", "member=%s after=%llx reason=%s",
           repl_member_name(stream->owner, stream->member), (unsigned long long)stream->after,
           vd_log_quote(vd_slice_str(why->message), quoted, sizeof quoted));
    repl_conn_send_failure(stream->conn, stream->request, why);
    end(stream);
}

static void send_batch(stream_t *stream, const vdp_replication_batch_t *batch, vd_slice_t body)
{
    repl_node_t *node = stream->owner;
    repl_member_t *member = repl_member_by_id(node, stream->member);
    vd_error_t err = VD_ERROR_INIT;
    vdp_peer_entries_t entries = {.term = node->role.term,
                                  .after = batch->after,
                                  .last = batch->last,
                                  .count = batch->count,
                                  .newest = batch->newest,
                                  .partial = batch->partial,
                                  .last_part = batch->last_part,
                                  .majority = node->majority};
    stream->newest = batch->newest;
    repl_marks_note(&stream->owner->marks, batch->newest, repl_now(stream->owner));
    if (repl_conn_send(stream->conn, &vdp_peer_entries, stream->request, &entries, body, &err) !=
        VD_OK) {
        end(stream); /* the connection is being closed */
        return;
    }
    stream->credit -= (int64_t)body.len;
    stream->after = batch->last;
    stream->after_part = batch->partial ? batch->last_part : UINT32_MAX;
    if (member != NULL)
        member->bytes_behind += body.len;
    read_on(stream);
}

static void tail_came(void *context, const repl_answer_t *answer)
{
    stream_t *stream = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_batch_t batch = {0};
    vd_slice_t body;
    stream->asking = false;
    if (stream->conn == NULL) {
        end(stream);
        return;
    }
    int rc = repl_answer_take(answer, &vdp_replication_batch, &batch, &body, &err);
    if (rc != VD_OK)
        refuse(stream, &err);
    else if (batch.count == 0)
        read_on(stream);
    else
        send_batch(stream, &batch, body);
}

static void read_on(stream_t *stream)
{
    repl_node_t *node = stream->owner;
    if (stream->asking || !stream->checked || stream->credit <= 0)
        return;
    int64_t most = stream->credit < BATCH_BYTES_MAX ? stream->credit : BATCH_BYTES_MAX;
    vdp_replication_tail_t tail = {.after = stream->after,
                                   .bytes_max = (uint32_t)most,
                                   .wait_ms = TAIL_WAIT_MS,
                                   .reader = stream->member,
                                   .after_part = stream->after_part};
    stream->asking = true;
    (void)repl_storage_ask(node->storage, &vdp_replication_tail, &tail, VD_SLICE_NULL, 60000,
                           tail_came, stream);
}

/* ---- is its history ours ---- */

static void admit(stream_t *stream)
{
    repl_member_t *member = repl_member_by_id(stream->owner, stream->member);
    stream->checked = true;
    if (member != NULL) {
        member->streams = true;
        member->received = member->flushed = member->applied = stream->after;
        member->bytes_behind = 0;
    }
    stream->owner->positions_due = true;
    vd_log(VD_LOG_INFO, "a stream to a member begins", "member=%s after=%llx",
           repl_member_name(stream->owner, stream->member), (unsigned long long)stream->after);
    read_on(stream);
}

static void found(void *context, const repl_answer_t *answer)
{
    stream_t *stream = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_found_t said = {0};
    vd_slice_t body;
    stream->asking = false;
    if (stream->conn == NULL) {
        end(stream);
        return;
    }
    int rc = repl_answer_take(answer, &vdp_replication_found, &said, &body, &err);
    uint64_t oldest = repl_state(stream->owner)->oldest;
    if (rc == VD_OK && (said.timestamp == stream->after || stream->after == oldest)) {
        admit(stream);
        return;
    }
    if (rc == VD_OK && stream->after < oldest)
        (void)vd_error_set(&err, VD_ERR_CHANGE_STREAM_HISTORY_LOST,
                           "our journal begins later than your position");
    else if (rc == VD_OK &&
             (!repl_leads(stream->owner) || stream->term != stream->owner->role.term))
        /* We may have lost what was not flushed here yet and is acknowledged elsewhere: only who
         * leads, and so has all that a majority has, may say that others must roll back. */
        (void)vd_error_set(&err, VD_ERR_NOT_WRITABLE_PRIMARY,
                           "your newest entry is not in our journal, and this node does not lead");
    else if (rc == VD_OK)
        (void)vd_error_set(&err, VD_ERR_DIVERGED, "your newest entry is not in our journal");
    refuse(stream, &err);
}

void repl_ship_pull(repl_node_t *node, repl_conn_t *conn, uint64_t request,
                    const vdp_peer_pull_t *pull)
{
    vd_error_t err = VD_ERROR_INIT;
    repl_member_t *member = repl_member_of(node, conn);
    size_t count = 0;
    VD_LIST_EACH(&node->ships, item)
    {
        stream_t *old = VD_CONTAINER_OF(item, stream_t, node);
        if (old->conn == conn)
            end(old); /* it begins anew */
        else
            count++;
    }
    if (count >= STREAMS_MAX || pull->credit == 0 || pull->credit > INT64_MAX) {
        (void)vd_error_set(&err, VD_ERR_FULL, "no room for another stream");
    } else if (!repl_state(node)->attached || node->resync.state != REPL_RESYNC_NONE) {
        (void)vd_error_set(&err, VD_ERR_NOT_PRIMARY_OR_SECONDARY, "storage is not ready here");
    } else if (pull->term > node->role.term) {
        (void)vd_error_set(&err, VD_ERR_STALE_TERM, "term %llu is not agreed to here",
                           (unsigned long long)pull->term);
    }
    if (err.code != VD_OK) {
        repl_conn_send_failure(conn, request, &err);
        return;
    }
    stream_t *stream = vd_xalloc(sizeof *stream);
    *stream = (stream_t){.owner = node,
                         .conn = conn,
                         .request = request,
                         .term = pull->term,
                         .after = pull->after,
                         .member = member->id,
                         .after_part = UINT32_MAX,
                         .credit = (int64_t)pull->credit};
    vd_list_push_back(&node->ships, &stream->node);
    if (pull->loaded && repl_leads(node) && pull->loaded_term == node->role.term) {
        admit(stream);
        return;
    }
    uint8_t position[8];
    vdp_replication_find_t find = {0};
    vd_put_u64(position, pull->after);
    stream->asking = true;
    (void)repl_storage_ask(node->storage, &vdp_replication_find, &find, vd_slice(position, 8),
                           10000, found, stream);
}

void repl_ship_ack(repl_node_t *node, repl_conn_t *conn, const vdp_peer_ack_t *ack)
{
    VD_LIST_EACH(&node->ships, item)
    {
        stream_t *stream = VD_CONTAINER_OF(item, stream_t, node);
        if (stream->conn != conn || stream->request != ack->stream || !stream->checked)
            continue;
        repl_member_t *member = repl_member_by_id(node, stream->member);
        stream->credit += (int64_t)(ack->credit < (1u << 30) ? ack->credit : 1u << 30);
        if (member != NULL && ack->term == node->role.term) {
            member->received = ack->received;
            member->flushed = ack->flushed;
            member->applied = ack->applied;
            member->bytes_behind -=
                ack->credit < member->bytes_behind ? ack->credit : member->bytes_behind;
            node->positions_due = true;
            if (node->role.state == REPL_HANDING_OVER) /* it waits for just this */
                repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_PEER,
                                                     .from = member->id,
                                                     .term = ack->term,
                                                     .state = (int)member->said.state,
                                                     .leader = member->said.leader,
                                                     .position = ack->flushed});
        }
        read_on(stream);
        return;
    }
}

void repl_ship_lost(repl_node_t *node, repl_conn_t *conn)
{
    VD_LIST_EACH(&node->ships, item)
    {
        stream_t *stream = VD_CONTAINER_OF(item, stream_t, node);
        if (stream->conn == conn)
            end(stream);
    }
}

void repl_ship_stop_all(repl_node_t *node, int code, const char *why)
{
    vd_error_t err = VD_ERROR_INIT;
    (void)vd_error_set(&err, code, "%s", why); /* for those who pull */
    VD_LIST_EACH(&node->ships, item)
    {
        stream_t *stream = VD_CONTAINER_OF(item, stream_t, node);
        if (stream->conn != NULL)
            refuse(stream, &err);
    }
}

void repl_ship_majority(repl_node_t *node)
{
    vdp_peer_majority_t majority = {node->role.term, node->majority};
    VD_LIST_EACH(&node->ships, item)
    {
        stream_t *stream = VD_CONTAINER_OF(item, stream_t, node);
        if (stream->conn != NULL && stream->checked &&
            repl_conn_send(stream->conn, &vdp_peer_majority, 0, &majority, VD_SLICE_NULL, NULL) !=
                VD_OK)
            VD_DEBUG("the majority point was not sent", "member=%u", stream->member);
    }
}
