/* veddb-replicad/snapshot.c — snapshots between nodes: both ends. Contract in node.h.
 *
 * Receiver: a state machine, one step under way at a time (while copying: REPL_CHUNKS_MAX chunks
 * asked for or at storage, each of which names the key that it follows on). Any failure brings it
 * back to where storage says that it stands (LOAD_BEGIN), or, when the source doesn't know the
 * snapshot any more, to a new one. Storage's LOAD_STATE alone says what comes next. After a start
 * of ours storage says which copy it was, and whose: that one is asked for again first. Source:
 * passes reads on to its storage, signs manifests (seal.h); chunks leave at
 * replication.snapshot_rate. It drops a copy that its reader has given up, or never learned of, at
 * once (readers.h). */
#include "veddb-replicad/node.h"
#include "veddb-replicad/seal.h"

#include <stdio.h>

#define RETRY_MS      500
#define STEP_MS       (10 * 60 * 1000) /* storage may have much to drop or to check */
#define READ_MS       60000
#define RATE_AHEAD_US 100000
#define MANIFEST_MAX  (16 * 1024 * 1024)
#define KEY_MAX       (16 * 1024)
#define SENDING_MAX   64

static void next_step(repl_node_t *node);

/* ---- receiver ---- */

typedef struct {
    repl_node_t *node;
    uint64_t epoch, bytes;
} step_t;

static step_t *step_new(repl_node_t *node, uint64_t bytes)
{
    step_t *step = vd_xalloc(sizeof *step);
    *step = (step_t){node, node->resync.epoch, bytes};
    return step;
}

/* False: of an earlier try; nobody waits for it any more. */
static bool step_take(void *context, repl_node_t **ret_node, uint64_t *ret_bytes)
{
    step_t step = *(step_t *)context;
    vd_free(context);
    *ret_node = step.node;
    *ret_bytes = step.bytes;
    return step.epoch == step.node->resync.epoch;
}

static void enter(repl_node_t *node, repl_resync_state_t state)
{
    repl_resync_t *resync = &node->resync;
    resync->state = state;
    resync->waiting = resync->cut = resync->all = resync->flows = resync->behind = false;
    resync->loading = resync->reading = 0;
    resync->epoch++;
    node->announce_due = node->topology_due = true;
}

/* The present step again, after a pause; or an earlier one. */
static void again(repl_node_t *node, repl_resync_state_t state, const vd_error_t *err)
{
    char quoted[300];
    vd_log(VD_LOG_WARN, "the snapshot is interrupted; it goes on", "step=%d bytes=%llu error=%s",
           node->resync.state, (unsigned long long)node->resync.done_bytes,
           vd_log_quote(vd_slice_str(err->message), quoted, sizeof quoted));
    enter(node, state);
    node->resync.retry_at_ms = repl_now(node) + RETRY_MS;
}

void repl_resync_start(repl_node_t *node, bool rollback, uint64_t to, const char *why)
{
    repl_resync_t *resync = &node->resync;
    char quoted[300];
    if (resync->state != REPL_RESYNC_NONE)
        return;
    vd_buf_done(&resync->manifest);
    vd_buf_done(&resync->last_key);
    uint64_t epoch = resync->epoch;
    *resync = (repl_resync_t){.rollback = rollback, .rollback_to = to, .epoch = epoch};
    vd_buf_init(&resync->manifest, MANIFEST_MAX);
    vd_buf_init(&resync->last_key, KEY_MAX);
    resync->started_ms = repl_now(node);
    repl_ship_stop_all(node, VD_ERR_NOT_PRIMARY_OR_SECONDARY, "this node takes a snapshot");
    (void)snprintf(resync->why, sizeof resync->why, "%s", why);
    vd_log(VD_LOG_WARN, "this node takes a snapshot", "reason=%s rollback=%d",
           vd_log_quote(vd_slice_str(why), quoted, sizeof quoted), rollback);
    const repl_storage_state_t *state = repl_state(node);
    if (!rollback && state->loading && state->load_known) { /* begun before our start */
        memcpy(resync->snapshot, state->load_snapshot, 16);
        (void)snprintf(resync->from, sizeof resync->from, "%s", state->load_source);
        resync->wanted = true;
    }
    enter(node, REPL_RESYNC_ROLE);
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_STORAGE,
                                         .term = node->role.term,
                                         .role = VDP_ROLE_RECOVERING,
                                         .floor = repl_floor(node),
                                         .leader = node->role.owner});
    next_step(node);
}

static void role_is_set(void *context, const repl_answer_t *answer)
{
    repl_node_t *node;
    uint64_t bytes;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_role_set_t set;
    if (!step_take(context, &node, &bytes))
        return;
    repl_resync_t *resync = &node->resync;
    if (repl_answer_take(answer, &vdp_replication_role_set, &set, NULL, &err) != VD_OK) {
        again(node, resync->state, &err);
        return;
    }
    bool back = resync->state == REPL_RESYNC_BACK;
    enter(node, back               ? REPL_RESYNC_NONE
                : resync->rollback ? REPL_RESYNC_ROLLBACK
                : resync->opened   ? REPL_RESYNC_BEGIN
                                   : REPL_RESYNC_OPEN);
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_STORAGE,
                                         .term = set.term,
                                         .role = (int)set.role,
                                         .floor = repl_floor(node),
                                         .position = back ? node->pull.applied : 0});
    if (back) {
        vd_log(VD_LOG_INFO, "this node has its copy and follows", "position=%llx took_ms=%llu",
               (unsigned long long)node->pull.applied,
               (unsigned long long)(repl_now(node) - resync->started_ms));
        repl_pull_tick(node);
    } else {
        next_step(node);
    }
}

static void rolled_back(void *context, const repl_answer_t *answer)
{
    repl_node_t *node;
    uint64_t bytes;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_rolled_back_t said = {0};
    if (!step_take(context, &node, &bytes))
        return;
    if (repl_answer_take(answer, &vdp_replication_rolled_back, &said, NULL, &err) != VD_OK) {
        again(node, REPL_RESYNC_ROLE, &err);
        return;
    }
    char quoted[600];
    node->rollbacks++;
    node->rolled_back_documents = said.documents;
    (void)snprintf(node->rollback_folder, sizeof node->rollback_folder, "%.*s",
                   VD_SLICE_FMT(said.folder));
    vd_log(VD_LOG_WARN, "entries that the primary does not have were rolled back and saved",
           "documents=%llu to=%llx folder=%s", (unsigned long long)said.documents,
           (unsigned long long)node->resync.rollback_to,
           vd_log_quote(said.folder, quoted, sizeof quoted));
    node->resync.rollback = false;
    enter(node, REPL_RESYNC_OPEN);
    next_step(node);
}

static repl_conn_t *member_conn(repl_node_t *node)
{
    repl_member_t *source = repl_member_by_id(node, node->resync.source);
    return source == NULL ? NULL : repl_link_conn(source->link);
}

/* The source keeps it for nobody. */
static void close_there(repl_node_t *node, vd_slice_t snapshot)
{
    repl_conn_t *conn = member_conn(node);
    vdp_snapshot_close_t close = {snapshot};
    if (conn != NULL &&
        repl_conn_send(conn, &vdp_peer_snapshot_close, 0, &close, VD_SLICE_NULL, NULL) != VD_OK)
        VD_DEBUG("the end of a snapshot was not told", "member=%u", node->resync.source);
}

/* Signed by the node at the other end of this very connection, for this set. */
static int seal_check(repl_node_t *node, const vdp_snapshot_opened_t *said, vd_slice_t manifest,
                      vd_error_t *err)
{
    uint8_t text[REPL_SEAL_BYTES];
    repl_conn_t *conn = member_conn(node);
    const repl_greeting_t *greeting = conn == NULL ? NULL : repl_conn_greeting(conn);
    if (greeting == NULL)
        return vd_error_set(err, VD_ERR_CLOSED, "the source is gone");
    if (!greeting->has_set_id)
        return vd_error_set(err, VD_ERR_CLOSED, "the source did not know the set's id");
    repl_seal_text(said, vd_slice(greeting->set_id, 12), manifest, text);
    return repl_conn_verify(conn, vd_slice(text, sizeof text), said->signature, err);
}

/* It could not be checked yet: asked for again, so that the source makes no other. */
static void want_again(repl_node_t *node, vd_slice_t snapshot)
{
    repl_resync_t *resync = &node->resync;
    memcpy(resync->snapshot, snapshot.data, 16);
    (void)snprintf(resync->from, sizeof resync->from, "%s", repl_member_name(node, resync->source));
    resync->wanted = true;
}

static void opened(void *context, const repl_answer_t *answer)
{
    repl_node_t *node;
    uint64_t unused;
    vd_error_t err = VD_ERROR_INIT;
    vd_slice_t manifest;
    if (!step_take(context, &node, &unused))
        return;
    repl_resync_t *resync = &node->resync;
    vdp_snapshot_opened_t said = {0};
    int rc = repl_answer_take(answer, &vdp_peer_snapshot_opened, &said, &manifest, &err);
    bool gone = rc == VD_ERR_CLOSED || rc == VD_ERR_NETWORK_TIMEOUT;
    if (rc != VD_OK && resync->wanted && !gone)
        resync->wanted = false; /* the source has it no more: a new one */
    if (rc == VD_OK && said.snapshot.len != 16)
        rc = vd_error_set(&err, VD_ERR_PROTOCOL, "a snapshot without an identity");
    if (rc == VD_OK)
        rc = seal_check(node, &said, manifest, &err);
    if (rc == VD_ERR_SNAPSHOT_SIGNATURE) {
        resync->wanted = false;
        close_there(node, said.snapshot);
    } else if (rc == VD_ERR_CLOSED && said.snapshot.len == 16) {
        want_again(node, said.snapshot);
    }
    if (rc == VD_OK)
        rc = vd_bson_validate(manifest, VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX, &err);
    vd_buf_clear(&resync->manifest);
    if (rc == VD_OK)
        rc = vd_buf_append_slice(&resync->manifest, manifest);
    if (rc != VD_OK) {
        (void)vd_error_set(&err, rc, "the manifest is too large"); /* the first error wins */
        again(node, REPL_RESYNC_OPEN, &err);
        return;
    }
    memcpy(resync->snapshot, said.snapshot.data, 16);
    resync->fields = said;
    resync->fields.snapshot = vd_slice(resync->snapshot, 16);
    resync->opened = true;
    resync->wanted = false;
    resync->done_bytes = resync->done_documents = 0;
    vd_log(VD_LOG_INFO, "a snapshot is open", "from=%s position=%llx bytes=%llu documents=%llu",
           repl_member_name(node, resync->source), (unsigned long long)said.position,
           (unsigned long long)said.bytes, (unsigned long long)said.documents);
    enter(node, REPL_RESYNC_BEGIN);
    next_step(node);
}

static void begun(void *context, const repl_answer_t *answer)
{
    repl_node_t *node;
    uint64_t unused;
    vd_error_t err = VD_ERROR_INIT;
    vdp_load_state_t said = {0};
    vd_slice_t last_key;
    if (!step_take(context, &node, &unused))
        return;
    repl_resync_t *resync = &node->resync;
    int rc = repl_answer_take(answer, &vdp_load_state, &said, &last_key, &err);
    vd_buf_clear(&resync->last_key);
    if (rc == VD_OK)
        rc = vd_buf_append_slice(&resync->last_key, last_key);
    if (rc != VD_OK) {
        (void)vd_error_set(&err, rc, "the last key is too long"); /* the first error wins */
        again(node, REPL_RESYNC_ROLE, &err);
        return;
    }
    resync->collection = said.collection;
    VD_DEBUG("storage says where the copy goes on", "collection=%llu all=%d",
             (unsigned long long)said.collection, said.all);
    enter(node, said.all ? REPL_RESYNC_END : REPL_RESYNC_COPY);
    next_step(node);
}

static void chunk_loaded(void *context, const repl_answer_t *answer)
{
    repl_node_t *node;
    uint64_t bytes;
    vd_error_t err = VD_ERROR_INIT;
    vdp_load_chunk_done_t said = {0};
    if (!step_take(context, &node, &bytes))
        return;
    repl_resync_t *resync = &node->resync;
    if (repl_answer_take(answer, &vdp_load_chunk_done, &said, NULL, &err) != VD_OK) {
        again(node, REPL_RESYNC_ROLE, &err);
        return;
    }
    resync->loading--;
    resync->done_bytes += bytes;
    resync->done_documents += said.documents;
    next_step(node);
}

/* {u32 length, key, u32 length, value} repeated: the last key. */
static bool last_key(vd_slice_t records, uint32_t count, vd_slice_t *ret)
{
    size_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        for (int part = 0; part < 2; part++) {
            if (records.len - at < 4)
                return false;
            uint32_t len = vd_get_u32(records.data + at);
            if (len > records.len - at - 4)
                return false;
            if (part == 0)
                *ret = vd_slice(records.data + at + 4, len);
            at += 4 + (size_t)len;
        }
    }
    return at == records.len && (count == 0 || ret->len <= KEY_MAX);
}

static void chunk_came(void *context, const repl_answer_t *answer)
{
    repl_node_t *node;
    uint64_t unused;
    vd_error_t err = VD_ERROR_INIT;
    vdp_snapshot_chunk_t chunk = {0};
    vd_slice_t records, key = VD_SLICE_NULL;
    if (!step_take(context, &node, &unused))
        return;
    repl_resync_t *resync = &node->resync;
    int rc = repl_answer_take(answer, &vdp_peer_snapshot_chunk, &chunk, &records, &err);
    if (rc == VD_OK && resync->all) { /* asked for before it was known that there is no more */
        resync->reading--;
        next_step(node);
        return;
    }
    if (rc == VD_OK && (chunk.collection != resync->collection ||
                        !vd_slice_equal(chunk.after, vd_buf_slice(&resync->last_key)) ||
                        (chunk.count == 0 && !chunk.last) || !last_key(records, chunk.count, &key)))
        rc = vd_error_set(&err, VD_ERR_PROTOCOL, "a chunk that is not what was asked for");
    if (rc != VD_OK) {
        bool lost = rc == VD_ERR_SNAPSHOT_UNAVAILABLE; /* the source has closed it */
        if (lost)
            resync->opened = false;
        again(node, lost ? REPL_RESYNC_OPEN : REPL_RESYNC_BEGIN, &err);
        return;
    }
    vd_buf_clear(&resync->last_key);
    if (vd_buf_append_slice(&resync->last_key, key) != VD_OK)
        VD_UNREACHABLE(); /* its length was checked */
    resync->reading--;
    resync->flows = true;
    resync->all = chunk.last;
    resync->loading++;
    (void)repl_storage_ask(node->storage, &vdp_load_chunk, &chunk, records, STEP_MS, chunk_loaded,
                           step_new(node, records.len));
    if (resync->state == REPL_RESYNC_COPY)
        next_step(node);
}

static void ended(void *context, const repl_answer_t *answer)
{
    repl_node_t *node;
    uint64_t unused;
    vd_error_t err = VD_ERROR_INIT;
    vdp_load_ended_t said = {0};
    if (!step_take(context, &node, &unused))
        return;
    repl_resync_t *resync = &node->resync;
    int rc = repl_answer_take(answer, &vdp_load_ended, &said, NULL, &err);
    if (rc != VD_OK) {
        if (rc == VD_ERR_CORRUPT)
            resync->opened = false; /* its sums are wrong: another one */
        again(node, rc == VD_ERR_CORRUPT ? REPL_RESYNC_OPEN : REPL_RESYNC_ROLE, &err);
        return;
    }
    close_there(node, vd_slice(resync->snapshot, 16));
    repl_pull_reset(node);
    node->pull.applied = node->pull.flushed = said.position;
    node->pull.loaded_at = said.position;
    node->pull.loaded_term = resync->fields.term;
    enter(node, REPL_RESYNC_BACK);
    next_step(node);
}

/* Of the leader, as long as nothing is open; then of whom it is open at. One that was open before
 * our start: of whom it was, if that is still a member. */
static repl_conn_t *source_conn(repl_node_t *node)
{
    repl_resync_t *resync = &node->resync;
    if (resync->state == REPL_RESYNC_OPEN) {
        resync->source = node->role.leader;
        for (uint32_t i = 0; resync->wanted && i < node->config->count; i++)
            if (strcmp(node->config->members[i].name, resync->from) == 0)
                resync->source = node->config->members[i].id;
    }
    return member_conn(node);
}

static void copy_step(repl_node_t *node, repl_conn_t *conn)
{
    repl_resync_t *resync = &node->resync;
    if (resync->all) { /* of this collection: storage says what comes next */
        if (resync->loading == 0 && resync->reading == 0) {
            enter(node, REPL_RESYNC_BEGIN);
            next_step(node);
        }
        return;
    }
    if (conn == NULL) { /* it comes back, or another source is taken: repl_resync_tick */
        resync->cut = true;
        return;
    }
    /* The first names the key; the others follow on the one before, once it is known that there
     * are others. */
    uint64_t epoch = resync->epoch;
    uint32_t most = resync->flows ? REPL_CHUNKS_MAX : 1;
    while (epoch == resync->epoch && !resync->all && resync->reading + resync->loading < most) {
        vdp_snapshot_read_t read = {vd_slice(resync->snapshot, 16), resync->collection,
                                    resync->behind};
        vd_slice_t after = resync->behind ? VD_SLICE_NULL : vd_buf_slice(&resync->last_key);
        resync->behind = true;
        resync->reading++;
        (void)repl_conn_ask(conn, &vdp_peer_snapshot_read, &read, after, false, READ_MS, chunk_came,
                            step_new(node, 0));
    }
}

/* What the source said of itself, when that has the set's id, which manifests are signed for; else
 * NULL, and it is greeted anew. */
static const repl_greeting_t *source_greeting(repl_conn_t *conn)
{
    const repl_greeting_t *greeting = conn == NULL ? NULL : repl_conn_greeting(conn);
    if (greeting == NULL || greeting->has_set_id)
        return greeting; /* NULL: until it is there */
    repl_conn_close(conn, "it did not know the set's id when it greeted");
    return NULL;
}

static void begin_step(repl_node_t *node)
{
    repl_resync_t *resync = &node->resync;
    const repl_greeting_t *greeting = source_greeting(member_conn(node));
    if (greeting == NULL)
        return;
    vdp_load_begin_t begin = {vd_slice(resync->snapshot, 16), resync->fields.position,
                              resync->fields.term, vd_slice(greeting->set_id, 12),
                              vd_slice_str(repl_member_name(node, resync->source))};
    resync->waiting = true;
    (void)repl_storage_ask(node->storage, &vdp_load_begin, &begin, vd_buf_slice(&resync->manifest),
                           STEP_MS, begun, step_new(node, 0));
}

static void next_step(repl_node_t *node)
{
    repl_resync_t *resync = &node->resync;
    if (resync->waiting || !repl_state(node)->attached || repl_now(node) < resync->retry_at_ms)
        return;
    repl_conn_t *conn = source_conn(node);
    vdp_replication_rollback_t rollback = {resync->rollback_to};
    vdp_snapshot_open_t open = {0};
    vdp_load_end_t end = {vd_slice(resync->snapshot, 16)};
    switch (resync->state) {
    case REPL_RESYNC_NONE:
        return;
    case REPL_RESYNC_ROLE:
    case REPL_RESYNC_BACK:
        if (node->role.role_asked)
            return; /* one at a time */
        resync->waiting = true;
        repl_lead_role(node,
                       resync->state == REPL_RESYNC_ROLE ? VDP_ROLE_RECOVERING : VDP_ROLE_SECONDARY,
                       role_is_set, step_new(node, 0));
        return;
    case REPL_RESYNC_ROLLBACK:
        resync->waiting = true;
        (void)repl_storage_ask(node->storage, &vdp_replication_rollback, &rollback, VD_SLICE_NULL,
                               STEP_MS, rolled_back, step_new(node, 0));
        return;
    case REPL_RESYNC_OPEN:
        if (source_greeting(conn) == NULL)
            return;
        resync->waiting = true;
        if (resync->wanted)
            open.snapshot = vd_slice(resync->snapshot, 16);
        (void)repl_conn_ask(conn, &vdp_peer_snapshot_open, &open, VD_SLICE_NULL, false, READ_MS,
                            opened, step_new(node, 0));
        return;
    case REPL_RESYNC_BEGIN:
        begin_step(node);
        return;
    case REPL_RESYNC_COPY:
        copy_step(node, conn);
        return;
    case REPL_RESYNC_END:
        resync->waiting = true;
        (void)repl_storage_ask(node->storage, &vdp_load_end, &end, VD_SLICE_NULL, STEP_MS, ended,
                               step_new(node, 0));
        return;
    }
}

void repl_resync_tick(repl_node_t *node)
{
    repl_resync_t *resync = &node->resync;
    repl_member_t *source = repl_member_by_id(node, resync->source);
    bool gone = source == NULL || (source->link == NULL && source->id != 0) ||
                (!source->up && repl_now(node) - source->heard_ms > 10 * node->lease_ms);
    if (gone && resync->wanted && resync->state == REPL_RESYNC_OPEN && node->role.leader != 0 &&
        repl_now(node) - resync->started_ms > 10 * node->lease_ms)
        resync->wanted = false; /* of the leader, a new one */
    if (gone && (resync->state == REPL_RESYNC_BEGIN || resync->state == REPL_RESYNC_COPY) &&
        node->role.leader != 0 && node->role.leader != resync->source) {
        vd_error_t err = VD_ERROR_INIT;
        (void)vd_error_set(&err, VD_ERR_HOST_UNREACHABLE, "its source is gone"); /* logged */
        resync->opened = false;
        again(node, REPL_RESYNC_OPEN, &err);
    }
    next_step(node);
}

void repl_resync_reset(repl_node_t *node)
{
    repl_resync_t *resync = &node->resync;
    if (resync->state == REPL_RESYNC_NONE)
        return;
    enter(node, REPL_RESYNC_ROLE); /* the same snapshot goes on behind its last durable chunk */
    resync->retry_at_ms = 0;
}

void repl_resync_done(repl_node_t *node)
{
    vd_buf_done(&node->resync.manifest);
    vd_buf_done(&node->resync.last_key);
}

/* ---- source ---- */

typedef struct {
    vd_node_t node;
    repl_node_t *owner;
    repl_conn_t *conn; /* NULL: the asker has gone */
    uint64_t request;
    uint32_t member;              /* who asks */
    bool makes;                   /* SNAPSHOT_OPEN of a new copy */
    const vdp_message_t *message; /* of the answer to the asker */
    const vdp_message_t *from;    /* of storage's answer */
    uint64_t at_us;               /* ready: leaves then */
    bool ready;
    vd_buf_t frame, after; /* body, key */
    vdp_snapshot_chunk_t chunk;
    uint8_t snapshot[16], sha256[32];
} sending_t;

static void sending_free(sending_t *sending)
{
    vd_list_remove(&sending->node);
    vd_buf_done(&sending->frame);
    vd_buf_done(&sending->after);
    vd_free(sending);
}

static void send_chunk(sending_t *sending, vd_slice_t body)
{
    vd_error_t err = VD_ERROR_INIT;
    if (sending->conn != NULL &&
        repl_conn_send(sending->conn, &vdp_peer_snapshot_chunk, sending->request, &sending->chunk,
                       body, &err) != VD_OK)
        VD_DEBUG("a chunk was not sent", "error=%d", err.code);
    sending_free(sending);
}

static bool any_held(repl_node_t *node)
{
    VD_LIST_EACH(&node->sending, item)
    {
        if (VD_CONTAINER_OF(item, sending_t, node)->ready)
            return true;
    }
    return false;
}

/* Sends it, or keeps it back until the rate allows it; none overtakes one that is kept. */
static int take_chunk(sending_t *sending, const vdp_snapshot_chunk_t *chunk, vd_slice_t body)
{
    repl_node_t *node = sending->owner;
    uint64_t now = repl_now(node) * 1000;
    uint64_t cost = node->snapshot_rate == 0 ? 0 : body.len * 1000000 / node->snapshot_rate;
    if (node->send_at_us + RATE_AHEAD_US < now)
        node->send_at_us = now - RATE_AHEAD_US;
    sending->at_us = node->send_at_us;
    node->send_at_us += cost;
    if (chunk->sha256.len != 32 || chunk->snapshot.len != 16)
        return VD_ERR_PROTOCOL;
    sending->chunk = *chunk;
    if (sending->at_us <= now && !any_held(node)) {
        send_chunk(sending, body);
        return VD_OK;
    }
    memcpy(sending->snapshot, chunk->snapshot.data, 16);
    memcpy(sending->sha256, chunk->sha256.data, 32);
    sending->chunk.snapshot = vd_slice(sending->snapshot, 16);
    sending->chunk.sha256 = vd_slice(sending->sha256, 32);
    vd_buf_init(&sending->frame, VDP_CHUNK_MAX);
    vd_buf_init(&sending->after, KEY_MAX);
    int rc = vd_buf_append_slice(&sending->frame, body);
    if (rc == VD_OK)
        rc = vd_buf_append_slice(&sending->after, chunk->after);
    sending->chunk.after = vd_buf_slice(&sending->after);
    sending->ready = rc == VD_OK;
    return rc;
}

/* Signed with the key of the certificate that we show on that connection. */
static int send_opened(sending_t *sending, vdp_snapshot_opened_t *said, vd_slice_t manifest,
                       vd_error_t *err)
{
    const repl_storage_state_t *state = repl_state(sending->owner);
    uint8_t text[REPL_SEAL_BYTES];
    vd_buf_t signature;
    if (!state->has_set_id || said->snapshot.len != 16)
        return vd_error_set(err, VD_ERR_NOT_PRIMARY_OR_SECONDARY, "it does not know the set's id");
    vd_buf_init(&signature, VDP_SIGNATURE_MAX);
    repl_seal_text(said, vd_slice(state->set_id, 12), manifest, text);
    int rc = repl_conn_sign(sending->conn, vd_slice(text, sizeof text), &signature, err);
    said->signature = vd_buf_slice(&signature);
    if (rc == VD_OK)
        rc = repl_conn_send(sending->conn, &vdp_peer_snapshot_opened, sending->request, said,
                            manifest, err);
    vd_buf_done(&signature);
    return rc;
}

static void close_here(repl_node_t *node, vd_slice_t copy)
{
    vdp_snapshot_close_t close = {copy};
    repl_readers_forget(&node->readers, copy);
    repl_storage_tell(node->storage, &vdp_snapshot_close, &close, VD_SLICE_NULL);
}

/* Those of a member, but one. */
static void close_given_up(repl_node_t *node, uint32_t member, vd_slice_t kept)
{
    uint8_t copy[REPL_COPY_BYTES];
    while (repl_readers_take(&node->readers, member, kept, copy)) {
        vd_log(VD_LOG_INFO, "a copy that its reader has given up is dropped", "reader=%s",
               repl_member_name(node, member));
        close_here(node, vd_slice(copy, sizeof copy));
    }
}

void repl_send_heard(repl_node_t *node, const repl_member_t *member)
{
    if (repl_readers_done(member->said.role, member->said.sync_source, node->self))
        close_given_up(node, member->id, VD_SLICE_NULL);
}

/* It stands at our storage; one of which its reader did not learn would stand for nobody. */
static int pass_opened(sending_t *sending, vdp_snapshot_opened_t *said, vd_slice_t manifest,
                       vd_error_t *err)
{
    repl_node_t *node = sending->owner;
    int rc = sending->conn == NULL ? VD_ERR_CLOSED : send_opened(sending, said, manifest, err);
    if (rc == VD_OK) {
        repl_readers_note(&node->readers, sending->member, said->snapshot);
        close_given_up(node, sending->member, said->snapshot);
    } else if (sending->makes) {
        close_here(node, said->snapshot);
    }
    return rc;
}

static void storage_said(void *context, const repl_answer_t *answer)
{
    sending_t *sending = context;
    vd_error_t err = VD_ERROR_INIT;
    union {
        vdp_snapshot_opened_t opened;
        vdp_snapshot_chunk_t chunk;
        vdp_replication_found_t found;
    } said;
    vd_slice_t body;
    bool opens = sending->message == &vdp_peer_snapshot_opened;
    if (sending->conn == NULL && !opens) {
        sending_free(sending);
        return;
    }
    int rc = repl_answer_take(answer, sending->from, &said, &body, &err);
    if (rc == VD_OK && sending->message == &vdp_peer_snapshot_chunk) {
        rc = take_chunk(sending, &said.chunk, body);
        if (rc == VD_OK)
            return;                                                 /* sent, or by repl_send_tick */
        (void)vd_error_set(&err, rc, "a chunk that can't be sent"); /* for the asker */
    } else if (rc == VD_OK && sending->message == &vdp_peer_found) {
        vdp_peer_found_t found = {said.found.timestamp, repl_state(sending->owner)->oldest};
        rc = repl_conn_send(sending->conn, &vdp_peer_found, sending->request, &found, VD_SLICE_NULL,
                            &err);
    } else if (rc == VD_OK && opens) {
        rc = pass_opened(sending, &said.opened, body, &err);
    } else if (rc == VD_OK) {
        rc = repl_conn_send(sending->conn, sending->message, sending->request, &said, body, &err);
    }
    if (rc != VD_OK && sending->conn != NULL)
        repl_conn_send_failure(sending->conn, sending->request, &err);
    sending_free(sending);
}

static void pass_on(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                    const vdp_message_t *ask, const void *fields, vd_slice_t body,
                    const vdp_message_t *from, const vdp_message_t *message)
{
    uint32_t count = 0;
    VD_LIST_EACH(&node->sending, item)
    {
        count++;
    }
    if (count >= SENDING_MAX) {
        vd_error_t err = VD_ERROR_INIT;
        (void)vd_error_set(&err, VD_ERR_FULL, "too much is asked for at once"); /* for the asker */
        repl_conn_send_failure(conn, envelope->request_id, &err);
        return;
    }
    sending_t *sending = vd_xalloc(sizeof *sending);
    sending->owner = node;
    sending->conn = conn;
    sending->request = envelope->request_id;
    sending->from = from;
    sending->message = message;
    sending->member = repl_member_of(node, conn)->id; /* no stranger is heard */
    sending->makes = message == &vdp_peer_snapshot_opened &&
                     ((const vdp_snapshot_open_t *)fields)->snapshot.len == 0;
    vd_list_push_back(&node->sending, &sending->node);
    (void)repl_storage_ask(node->storage, ask, fields, body, READ_MS, storage_said, sending);
}

/* SNAPSHOT_* and FIND: questions that our storage answers. */
void repl_send_snapshot(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                        vd_slice_t rest)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_slice_t body = VD_SLICE_NULL;
    vdp_snapshot_open_t open;
    vdp_snapshot_read_t read;
    vdp_snapshot_close_t close;
    vdp_peer_find_t find;
    vdp_replication_find_t ask = {0};
    const repl_member_t *member = repl_member_of(node, conn); /* no stranger is heard */
    int rc = VD_OK;
    if (envelope->id == VDP_PEER_SNAPSHOT_OPEN) {
        rc = vdp_decode(&vdp_peer_snapshot_open, rest, &open, &body, &err);
        if (rc == VD_OK && repl_state(node)->role != VDP_ROLE_PRIMARY &&
            repl_state(node)->role != VDP_ROLE_SECONDARY)
            rc = vd_error_set(&err, VD_ERR_NOT_PRIMARY_OR_SECONDARY, "it has no data to give");
        if (rc == VD_OK)
            close_given_up(node, member->id, open.snapshot);
        if (rc == VD_OK)
            pass_on(node, conn, envelope, &vdp_snapshot_open, &open, VD_SLICE_NULL,
                    &vdp_snapshot_opened, &vdp_peer_snapshot_opened);
    } else if (envelope->id == VDP_PEER_SNAPSHOT_READ) {
        rc = vdp_decode(&vdp_peer_snapshot_read, rest, &read, &body, &err);
        if (rc == VD_OK) { /* after a start of ours it may not be known */
            repl_readers_note(&node->readers, member->id, read.snapshot);
            pass_on(node, conn, envelope, &vdp_snapshot_read, &read, body, &vdp_snapshot_chunk,
                    &vdp_peer_snapshot_chunk);
        }
    } else if (envelope->id == VDP_PEER_FIND) {
        rc = vdp_decode(&vdp_peer_find, rest, &find, &body, &err);
        if (rc == VD_OK && (body.len == 0 || body.len % 8 != 0))
            rc = vd_error_set(&err, VD_ERR_PROTOCOL, "FIND names no timestamps");
        if (rc == VD_OK)
            pass_on(node, conn, envelope, &vdp_replication_find, &ask, body, &vdp_replication_found,
                    &vdp_peer_found);
    } else {
        rc = vdp_decode(&vdp_peer_snapshot_close, rest, &close, NULL, &err);
        if (rc == VD_OK)
            close_here(node, close.snapshot);
    }
    if (rc != VD_OK)
        repl_conn_send_failure(conn, envelope->request_id, &err);
}

void repl_send_lost(repl_node_t *node, repl_conn_t *conn)
{
    VD_LIST_EACH(&node->sending, item)
    {
        sending_t *sending = VD_CONTAINER_OF(item, sending_t, node);
        if (sending->conn != conn)
            continue;
        sending->conn = NULL;
        if (sending->ready)
            sending_free(sending);
    }
}

void repl_send_tick(repl_node_t *node)
{
    uint64_t now = repl_now(node) * 1000;
    VD_LIST_EACH(&node->sending, item)
    {
        sending_t *sending = VD_CONTAINER_OF(item, sending_t, node);
        if (sending->ready && sending->at_us <= now)
            send_chunk(sending, vd_buf_slice(&sending->frame));
    }
}
