/* veddb-replicad/messages.c — what nodes tell and ask each other: greeting, heartbeats, and to whom
 * a question goes. Contract in node.h. */
#include "libcommon/base/clock.h"
#include "veddb-replicad/node.h"

#include <stdio.h>

/* ---- peers: greeting ---- */

void repl_peer_greet(void *context, vdp_peer_hello_t *hello)
{
    repl_node_t *node = context;
    const repl_storage_state_t *state = repl_state(node);
    hello->set = vd_slice_str(node->set);
    if (node->config->version != 0 && state->has_set_id)
        hello->set_id = vd_slice(state->set_id, 12);
    hello->node = vd_slice_str(node->name);
    hello->peer = vd_slice_str(node->peer);
    hello->host = vd_slice_str(node->host);
    hello->config_version = node->config->version;
    hello->config_term = node->config->term;
    hello->instance = vd_slice(node->instance, 16);
}

/* Set ids are compared where both have data of their own: a node that is to be loaded takes the
 * set's over with the snapshot. */
int repl_peer_check(void *context, const repl_greeting_t *greeting, vd_error_t *err)
{
    repl_node_t *node = context;
    const repl_storage_state_t *state = repl_state(node);
    if (strcmp(greeting->set, node->set) != 0)
        return vd_error_set(err, VD_ERR_INVALID_REPLICA_SET_CONFIG,
                            "it is of the set %s, we are of %s", greeting->set, node->set);
    if (strcmp(greeting->node, node->name) == 0)
        return vd_error_set(err, VD_ERR_INVALID_REPLICA_SET_CONFIG,
                            "it has our own name, %s: node.name must differ", node->name);
    bool both = greeting->has_set_id && greeting->config_version != 0 && state->has_set_id &&
                node->stored_version != 0;
    if (both && repl_config_find(node->config, vd_slice_str(greeting->node)) == NULL &&
        memcmp(greeting->set_id, state->set_id, 12) != 0)
        return vd_error_set(err, VD_ERR_INVALID_REPLICA_SET_CONFIG,
                            "it is of another set of the same name");
    return VD_OK;
}

/* ---- heartbeats ---- */

vdp_peer_status_t repl_own_status(repl_node_t *node)
{
    const repl_storage_state_t *state = repl_state(node);
    const repl_pull_t *pull = &node->pull;
    bool primary = state->role == VDP_ROLE_PRIMARY;
    vdp_peer_status_t own = {.state = (uint32_t)node->role.state,
                             .term = node->role.term,
                             .leader = node->role.leader,
                             .config_version = node->config->version,
                             .config_term = node->config->term,
                             .sync_source = pull->conn != NULL ? pull->member : 0,
                             .role = state->loading ? VDP_ROLE_RECOVERING : state->role,
                             .empty = state->empty,
                             .problem = vd_slice_str(pull->problem)};
    own.builds = vd_slice(state->builds, state->builds_len);
    own.majority = repl_leads(node) ? node->majority : pull->majority;
    if (node->resync.state != REPL_RESYNC_NONE) {
        own.role = VDP_ROLE_RECOVERING;
        own.sync_source = node->resync.source;
        own.builds = VD_SLICE_NULL;
        return own; /* no positions: what stands here is not a copy */
    }
    own.applied = primary || pull->applied == 0 ? state->newest : pull->applied;
    own.flushed = primary || pull->applied == 0 ? state->durable : pull->flushed;
    if (repl_leads(node) && primary && state->made_ms != 0)
        own.newest_age_ms = vd_monotonic_ms() - state->made_ms + 1;
    own.auth_position = own.newest_age_ms != 0 ? state->auth_position : 0;
    own.received = pull->streaming && pull->received > own.applied ? pull->received : own.applied;
    return own;
}

static vd_slice_t config_for(repl_node_t *node, int64_t term, int64_t version)
{
    repl_config_t theirs = {.version = version, .term = term};
    return repl_config_newer(node->config->term, node->config->version, &theirs)
               ? vd_buf_slice(&node->config_doc)
               : VD_SLICE_NULL;
}

/* Who leads goes by its own, until it has made that one of its term. */
static bool may_adopt(const repl_node_t *node, const vdp_peer_status_t *said)
{
    return repl_config_newer(said->config_term, said->config_version, node->config) &&
           (!repl_leads(node) || said->config_term >= (int64_t)node->role.term);
}

/* Of a heartbeat, or of its answer (answers: sent_ms is of ours). */
static void peer_said(repl_node_t *node, repl_conn_t *conn, const vdp_peer_status_t *said,
                      vd_slice_t body, bool answers)
{
    vd_error_t err = VD_ERROR_INIT;
    if (body.len != 0 && may_adopt(node, said) &&
        vd_bson_validate(body, VD_BSON_CHECK_UTF8, 16, &err) == VD_OK)
        repl_adopt_logged(node, (vd_bson_t){body.data, (uint32_t)body.len},
                          repl_conn_greeting(conn)->node);
    repl_member_t *member = repl_member_of(node, conn);
    if (member == NULL)
        return;
    uint64_t now = repl_now(node);
    if (!member->up) {
        member->up_since_ms = now;
        node->positions_due = true;
    }
    if (!vd_slice_equal(member->said.builds, said->builds))
        node->positions_due = true;
    member->said = *said;
    if (said->builds.len > 0)
        memcpy(member->builds, said->builds.data, said->builds.len); /* bounded by the message */
    member->said.builds = vd_slice(member->builds, said->builds.len);
    (void)snprintf(member->problem, sizeof member->problem, "%.*s", VD_SLICE_FMT(said->problem));
    member->said.problem = vd_slice_str(member->problem);
    member->heard = member->up = true;
    member->heard_ms = now;
    if (answers && now >= said->sent_ms)
        member->ping_ms = now - said->sent_ms;
    repl_pull_majority(node, said->term, said->majority);
    if (answers)
        repl_fresh_hear(node, said);
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_PEER,
                                         .from = member->id,
                                         .term = said->term,
                                         .state = (int)said->state,
                                         .leader = said->leader,
                                         .position = said->flushed,
                                         .sent_ms = answers ? said->sent_ms : 0});
}

typedef struct {
    repl_node_t *node;
    repl_conn_t *conn;
} beat_t;

static void beat_answered(void *context, const repl_answer_t *answer)
{
    beat_t beat = *(beat_t *)context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_peer_status_t said = {0};
    vd_slice_t body;
    vd_free(context);
    if (repl_answer_take(answer, &vdp_peer_status, &said, &body, &err) == VD_OK)
        peer_said(beat.node, beat.conn, &said, body, true);
}

void repl_beat_send(void *context, repl_conn_t *conn)
{
    repl_node_t *node = context;
    const repl_greeting_t *greeting = repl_conn_greeting(conn);
    if (repl_conn_link(conn) == NULL)
        return; /* we ask on the connections that we made */
    repl_member_t *member = repl_member_of(node, conn);
    vdp_peer_status_t own = repl_own_status(node);
    own.sent_ms = repl_now(node);
    vd_slice_t body = member != NULL && member->heard
                          ? config_for(node, member->said.config_term, member->said.config_version)
                          : config_for(node, greeting->config_term, greeting->config_version);
    beat_t *beat = vd_xalloc(sizeof *beat);
    *beat = (beat_t){node, conn};
    (void)repl_conn_ask(conn, &vdp_peer_heartbeat, &own, body, false, 10 * node->lease_ms,
                        beat_answered, beat);
}

void repl_heartbeat(repl_node_t *node)
{
    repl_peers_each(node->peers, repl_beat_send, node);
}

/* ---- peers: questions ---- */

typedef struct {
    repl_node_t *node;
    uint64_t tag, request; /* tag of the connection: it may go meanwhile */
} peer_ask_t;

typedef struct {
    uint64_t tag;
    repl_conn_t *conn;
} find_conn_t;

static void find_conn(void *context, repl_conn_t *conn)
{
    find_conn_t *find = context;
    if (repl_conn_tag(conn) == find->tag)
        find->conn = conn;
}

static void peer_ask_answer(void *context, int code, const char *message, vd_slice_t body)
{
    peer_ask_t *ask = context;
    find_conn_t find = {.tag = ask->tag};
    vdp_peer_answer_t answer = {.code = code, .message = vd_slice_str(message)};
    repl_peers_each(ask->node->peers, find_conn, &find);
    if (find.conn != NULL &&
        repl_conn_send(find.conn, &vdp_peer_answer, ask->request, &answer, body, NULL) != VD_OK)
        VD_DEBUG("an answer to a node was not sent", "code=%d", code);
    vd_free(ask);
}

static int on_heartbeat(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                        vd_slice_t rest, vd_error_t *err)
{
    vdp_peer_status_t said = {0};
    vd_slice_t body;
    int rc = vdp_decode(&vdp_peer_heartbeat, rest, &said, &body, err);
    if (rc != VD_OK)
        return rc;
    peer_said(node, conn, &said, body, false);
    repl_member_t *member = repl_member_of(node, conn);
    if (member != NULL)
        repl_send_heard(node, member);
    vdp_peer_status_t own = repl_own_status(node);
    own.sent_ms = said.sent_ms;
    return repl_conn_send(conn, &vdp_peer_status, envelope->request_id, &own,
                          config_for(node, said.config_term, said.config_version), err);
}

static int on_ask(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                  vd_slice_t rest, vd_error_t *err)
{
    vdp_peer_ask_t said = {0};
    vd_slice_t body;
    int rc = vdp_decode(&vdp_peer_ask, rest, &said, &body, err);
    if (rc != VD_OK)
        return rc;
    peer_ask_t *ask = vd_xalloc(sizeof *ask);
    *ask = (peer_ask_t){node, repl_conn_tag(conn), envelope->request_id};
    repl_asker_t asker = {.done = peer_ask_answer, .context = ask, .hops = said.hops};
    repl_ask(node, &asker, said.verb, said.argument, said.argument2, body);
    return VD_OK;
}

static int on_pull(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                   vd_slice_t rest, vd_error_t *err)
{
    vdp_peer_pull_t pull = {0};
    int rc = vdp_decode(&vdp_peer_pull, rest, &pull, NULL, err);
    if (rc == VD_OK)
        repl_ship_pull(node, conn, envelope->request_id, &pull);
    return rc;
}

static int on_ack(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                  vd_slice_t rest, vd_error_t *err)
{
    (void)envelope;
    vdp_peer_ack_t ack = {0};
    int rc = vdp_decode(&vdp_peer_ack, rest, &ack, NULL, err);
    if (rc == VD_OK)
        repl_ship_ack(node, conn, &ack);
    return rc;
}

static int on_majority(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                       vd_slice_t rest, vd_error_t *err)
{
    (void)envelope;
    vdp_peer_majority_t said = {0};
    int rc = vdp_decode(&vdp_peer_majority, rest, &said, NULL, err);
    if (rc == VD_OK && conn == node->pull.conn)
        repl_pull_majority(node, said.term, said.majority);
    return rc;
}

static int on_fence(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                    vd_slice_t rest, vd_error_t *err)
{
    vdp_peer_fence_t fence = {0};
    int rc = vdp_decode(&vdp_peer_fence, rest, &fence, NULL, err);
    repl_member_t *member = repl_member_of(node, conn);
    if (rc != VD_OK)
        return rc;
    member->fence_conn = conn;
    member->fence_request = envelope->request_id;
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_FENCE,
                                         .from = member->id,
                                         .term = fence.term,
                                         .position = fence.position});
    return VD_OK;
}

static int on_handover(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                       vd_slice_t rest, vd_error_t *err)
{
    (void)envelope;
    vdp_peer_handover_t said = {0};
    int rc = vdp_decode(&vdp_peer_handover, rest, &said, NULL, err);
    if (rc == VD_OK)
        repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_HANDOVER,
                                             .from = repl_member_of(node, conn)->id,
                                             .term = said.term,
                                             .position = said.position});
    return rc;
}

static int on_snapshot(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                       vd_slice_t rest, vd_error_t *err)
{
    (void)err; /* answered there */
    repl_send_snapshot(node, conn, envelope, rest);
    return VD_OK;
}

static int on_audit_head(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                         vd_slice_t rest, vd_error_t *err)
{
    vdp_audit_head_t shown = {0};
    int rc = vdp_decode(&vdp_peer_audit_head, rest, &shown, NULL, err);
    if (rc == VD_OK)
        repl_heads_shown(node, conn, envelope->request_id, &shown);
    return rc;
}

static const struct {
    uint32_t id;
    bool strangers; /* also of one who is no member */
    int (*handle)(repl_node_t *node, repl_conn_t *conn, const vdp_envelope_t *envelope,
                  vd_slice_t rest, vd_error_t *err);
} peer_table[] = {
    {VDP_PEER_HEARTBEAT, true, on_heartbeat},
    {VDP_PEER_ASK, true, on_ask},
    {VDP_PEER_PULL, false, on_pull},
    {VDP_PEER_ACK, false, on_ack},
    {VDP_PEER_FENCE, false, on_fence},
    {VDP_PEER_HANDOVER, false, on_handover},
    {VDP_PEER_FIND, false, on_snapshot},
    {VDP_PEER_SNAPSHOT_OPEN, false, on_snapshot},
    {VDP_PEER_SNAPSHOT_READ, false, on_snapshot},
    {VDP_PEER_SNAPSHOT_CLOSE, false, on_snapshot},
    {VDP_PEER_MAJORITY, false, on_majority},
    {VDP_PEER_AUDIT_HEAD, false, on_audit_head},
};

void repl_peer_item(void *context, repl_conn_t *conn, const vdp_envelope_t *envelope,
                    vd_slice_t rest)
{
    repl_node_t *node = context;
    vd_error_t err = VD_ERROR_INIT;
    int rc = VD_ERR_PROTOCOL;
    for (size_t i = 0; i < VD_COUNT_OF(peer_table); i++) {
        if (peer_table[i].id != envelope->id)
            continue;
        rc = !peer_table[i].strangers && repl_member_of(node, conn) == NULL
                 ? vd_error_set(&err, VD_ERR_NODE_NOT_FOUND, "%s is no member of the set",
                                repl_conn_greeting(conn)->node)
                 : peer_table[i].handle(node, conn, envelope, rest, &err);
    }
    if (rc == VD_OK)
        return;
    (void)vd_error_set(&err, rc, "%s is not for a node", vdp_id_name(envelope->id));
    repl_conn_send_failure(conn, envelope->request_id, &err);
    if (rc == VD_ERR_PROTOCOL)
        repl_conn_close(conn, err.message);
}
