/* veddb-replicad/replicad.c — see replicad.h and node.h.
 *
 * What must leave at once (positions, acknowledgements, the majority point) is gathered in a turn
 * and sent at its end: before the link to storage is flushed for what came from peers, and before
 * the peers are for what came from storage. No timer stands in that chain. */
#include "veddb-replicad/replicad.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/rand.h"
#include "veddb-replicad/node.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STATUS_MS  1000
#define CONFIG_MAX VDP_SET_CONFIG_MAX

/* ---- members ---- */

repl_member_t *repl_member_by_id(repl_node_t *node, uint32_t id)
{
    for (uint32_t i = 0; id != 0 && i < node->config->count; i++)
        if (node->members[i].id == id)
            return &node->members[i];
    return NULL;
}

repl_member_t *repl_member_of(repl_node_t *node, repl_conn_t *conn)
{
    const repl_greeting_t *greeting = repl_conn_greeting(conn);
    for (uint32_t i = 0; i < node->config->count; i++)
        if (strcmp(node->config->members[i].name, greeting->node) == 0 &&
            node->config->members[i].id != node->self)
            return &node->members[i];
    return NULL;
}

const char *repl_member_name(const repl_node_t *node, uint32_t id)
{
    const repl_member_config_t *member = repl_config_by_id(node->config, id);
    return member == NULL || id == 0 ? "" : member->name;
}

static void members_follow(repl_node_t *node, const repl_config_t *old)
{
    repl_member_t before[REPL_MEMBERS_MAX];
    memcpy(before, node->members, sizeof before);
    memset(node->members, 0, sizeof node->members);
    for (uint32_t i = 0; i < node->config->count; i++) {
        repl_member_t *member = &node->members[i];
        const repl_member_config_t *config = &node->config->members[i];
        for (uint32_t j = 0; j < old->count; j++)
            if (before[j].id == config->id && strcmp(old->members[j].peer, config->peer) == 0) {
                *member = before[j];
                memset(&before[j], 0, sizeof before[j]);
            }
        member->id = config->id;
        if (member->link == NULL && config->id != node->self)
            member->link = repl_peers_dial(node->peers, config->peer);
    }
    for (uint32_t j = 0; j < old->count; j++)
        repl_peers_hang_up(&before[j].link); /* those that are members no more */
}

static void joins_follow(repl_node_t *node)
{
    bool wanted = node->self == 0 && !node->found_set;
    if (!wanted) {
        for (uint32_t i = 0; i < node->join_count; i++)
            repl_peers_hang_up(&node->joins[i]);
        node->join_count = 0;
    }
}

static uint32_t own_id(const repl_node_t *node, const repl_config_t *config)
{
    const repl_member_config_t *self = repl_config_find(config, vd_slice_str(node->name));
    return self == NULL || strcmp(self->name, node->name) != 0 ? 0 : self->id;
}

int repl_adopt(repl_node_t *node, vd_bson_t doc, vd_error_t *err)
{
    repl_config_t *next = vd_xalloc(sizeof *next);
    int rc = repl_config_parse(doc, NULL, next, err);
    if (rc == VD_OK && strcmp(next->set, node->set) != 0)
        rc = vd_error_set(err, VD_ERR_INVALID_REPLICA_SET_CONFIG, "it is of the set %s", next->set);
    if (rc == VD_OK && node->config->version == 0 && own_id(node, next) == 0)
        goto cleanup; /* we are to be added yet */
    if (rc != VD_OK)
        goto cleanup;
    vd_buf_clear(&node->config_doc);
    rc = vd_buf_append(&node->config_doc, doc.data, doc.len);
    if (rc != VD_OK)
        goto cleanup;
    repl_config_t *old = node->config;
    node->config = next;
    next = old; /* freed below */
    node->self = own_id(node, node->config);
    vd_log(VD_LOG_INFO, "configuration of the replica set",
           "version=%lld term=%lld members=%u self=%u", (long long)node->config->version,
           (long long)node->config->term, node->config->count, node->self);
    members_follow(node, old);
    joins_follow(node);
    repl_lead_configure(node);
    node->announce_due = node->topology_due = node->positions_due = true;
cleanup:
    vd_free(next);
    return rc;
}

/* What storage says of role, term and position; its leader's name means something once there is a
 * configuration. */
static void tell_role(repl_node_t *node)
{
    const repl_storage_state_t *state = repl_state(node);
    const repl_member_config_t *named =
        state->leader[0] == '\0' ? NULL
                                 : repl_config_find(node->config, vd_slice_str(state->leader));
    uint32_t known = node->role.term == state->term ? node->role.owner : 0;
    /* From the moment a load is decided on, before storage says so: our vote counts no more. */
    bool loads = node->resync.state != REPL_RESYNC_NONE;
    bool none = loads || (state->empty && node->stored_version == 0);
    if (!state->ready)
        return;
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_STORAGE,
                                         .term = state->term,
                                         .role = loads && state->role == VDP_ROLE_SECONDARY
                                                     ? VDP_ROLE_RECOVERING
                                                     : (int)state->role,
                                         .position = none ? 0 : state->durable,
                                         .leader = named != NULL ? named->id : known});
}

static void adopt_logged(repl_node_t *node, vd_bson_t doc, const char *from)
{
    vd_error_t err = VD_ERROR_INIT;
    char quoted[300];
    bool first = node->config->version == 0;
    if (repl_adopt(node, doc, &err) != VD_OK)
        vd_log(VD_LOG_ERROR, "a configuration of the replica set is refused", "from=%s error=%s",
               from, vd_log_quote(vd_slice_str(err.message), quoted, sizeof quoted));
    else if (first && node->role.storage_up)
        tell_role(node);
}

static void begin_set(repl_node_t *node)
{
    repl_config_t *config = vd_xalloc(sizeof *config);
    vd_error_t err = VD_ERROR_INIT;
    vd_bb_t bb;
    vd_bson_t doc;
    (void)snprintf(config->set, sizeof config->set, "%s", node->set);
    config->version = config->term = 1;
    vd_bb_init(&bb, CONFIG_MAX);
    int rc = repl_config_add(config, node->name, node->host, node->peer, VD_BSON_NONE, &err);
    if (rc == VD_OK)
        rc = repl_config_build(config, &bb, &doc, &err);
    if (rc == VD_OK)
        adopt_logged(node, doc, "ourselves");
    else
        vd_log(VD_LOG_ERROR, "a replica set can't be begun", "error=\"%s\"", err.message);
    vd_bb_done(&bb);
    vd_free(config);
}

/* A new primary hands over what it acts by and storage has not: version 1, or what a primary that
 * has gone had told and not journaled. */
static void config_stored(void *context, const repl_answer_t *answer)
{
    repl_node_t *node = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_config_set_t set = {0};
    node->config_under_way = false;
    if (repl_answer_take(answer, &vdp_replication_config_set, &set, NULL, &err) != VD_OK) {
        vd_log(VD_LOG_WARN, "storage does not take the configuration", "error=%d", err.code);
        return;
    }
    node->config_at = set.timestamp;
    vd_log(VD_LOG_INFO, "the configuration is journaled", "version=%lld",
           (long long)node->config->version);
}

static void config_tick(repl_node_t *node)
{
    if (!repl_leads(node) || node->config_under_way ||
        node->config->version != node->stored_version + 1)
        return;
    vdp_replication_config_t fields = {node->config->version};
    node->config_under_way = true;
    (void)repl_storage_ask(node->storage, &vdp_replication_config, &fields,
                           vd_buf_slice(&node->config_doc), 30000, config_stored, node);
}

/* ---- storage ---- */

static void storage_state(void *context, bool attached, vd_bson_t doc)
{
    repl_node_t *node = context;
    const repl_storage_state_t *state = repl_state(node);
    if (attached) {
        repl_pull_reset(node);
        repl_resync_reset(node);
        node->config_under_way = false;
        node->stored_version = 0;
        node->topology_due = node->positions_due = true;
        node->status_at_ms = 0;
    }
    if (doc.len != 0) {
        int64_t version = 0, term = 0;
        (void)vd_value_as_int64(vd_bson_get(doc, "version"), &version); /* 0: refused below */
        (void)vd_value_as_int64(vd_bson_get(doc, "term"), &term);
        node->stored_version = version;
        node->stored_term = term;
        if (repl_config_newer(term, version, node->config))
            adopt_logged(node, doc, "storage");
    } else if (node->found_set && node->config->version == 0 && state->ready && !state->loading) {
        /* Also with data: a node that was alone so far. */
        begin_set(node);
    }
    if (!state->ready)
        return;
    repl_marks_note(&node->marks, state->newest, repl_now(node));
    if (state->role != VDP_ROLE_PRIMARY)
        repl_pull_position(node, state->newest, state->durable);
    tell_role(node);
    node->positions_due = true;
    repl_pull_tick(node);
}

static void storage_lost(void *context)
{
    repl_node_t *node = context;
    repl_ship_stop_all(node, VD_ERR_HOST_UNREACHABLE, "storage is lost here");
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_STORAGE_LOST});
}

typedef struct {
    repl_node_t *node;
    uint64_t request;
} wire_ask_t;

static void wire_answer(void *context, int code, const char *message, vd_slice_t body)
{
    wire_ask_t *ask = context;
    repl_storage_answer(ask->node->storage, ask->request, code, message, body);
    vd_free(ask);
}

static void storage_ask(void *context, uint64_t request, const vdp_replication_ask_t *ask,
                        vd_slice_t body)
{
    repl_node_t *node = context;
    wire_ask_t *wire = vd_xalloc(sizeof *wire);
    *wire = (wire_ask_t){node, request};
    repl_asker_t asker = {.done = wire_answer, .context = wire, .wire = true};
    repl_ask(node, &asker, ask->verb, ask->argument, ask->argument2, body);
}

/* ---- peers: greeting ---- */

static void peer_greet(void *context, vdp_peer_hello_t *hello)
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
static int peer_check(void *context, const repl_greeting_t *greeting, vd_error_t *err)
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
                             .role = state->role,
                             .empty = state->empty,
                             .problem = vd_slice_str(pull->problem)};
    own.majority = repl_leads(node) ? node->majority : pull->majority;
    if (node->resync.state != REPL_RESYNC_NONE) {
        own.role = VDP_ROLE_RECOVERING;
        own.sync_source = node->resync.source;
        return own; /* no positions: what stands here is not a copy */
    }
    own.applied = primary || pull->applied == 0 ? state->newest : pull->applied;
    own.flushed = primary || pull->applied == 0 ? state->durable : pull->flushed;
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

/* Of a heartbeat, or of its answer (answers: sent_ms is of ours). */
static void peer_said(repl_node_t *node, repl_conn_t *conn, const vdp_peer_status_t *said,
                      vd_slice_t body, bool answers)
{
    vd_error_t err = VD_ERROR_INIT;
    if (body.len != 0 && repl_config_newer(said->config_term, said->config_version, node->config) &&
        vd_bson_validate(body, VD_BSON_CHECK_UTF8, 16, &err) == VD_OK)
        adopt_logged(node, (vd_bson_t){body.data, (uint32_t)body.len},
                     repl_conn_greeting(conn)->node);
    repl_member_t *member = repl_member_of(node, conn);
    if (member == NULL)
        return;
    uint64_t now = repl_now(node);
    if (!member->up) {
        member->up_since_ms = now;
        node->positions_due = true;
    }
    member->said = *said;
    (void)snprintf(member->problem, sizeof member->problem, "%.*s", VD_SLICE_FMT(said->problem));
    member->said.problem = vd_slice_str(member->problem);
    member->heard = member->up = true;
    member->heard_ms = now;
    if (answers && now >= said->sent_ms)
        member->ping_ms = now - said->sent_ms;
    repl_pull_majority(node, said->term, said->majority);
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

static void beat_send(void *context, repl_conn_t *conn)
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
    repl_peers_each(node->peers, beat_send, node);
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
};

static void peer_item(void *context, repl_conn_t *conn, const vdp_envelope_t *envelope,
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

static void peer_up(void *context, repl_conn_t *conn)
{
    static uint64_t last_tag;
    repl_conn_set_tag(conn, ++last_tag);
    beat_send(context, conn);
    repl_pull_tick(context);
    repl_resync_tick(context);
}

static void peer_lost(void *context, repl_conn_t *conn)
{
    repl_node_t *node = context;
    repl_pull_lost(node, conn);
    repl_ship_lost(node, conn);
    repl_send_lost(node, conn);
    for (uint32_t i = 0; i < node->config->count; i++)
        if (node->members[i].fence_conn == conn)
            node->members[i].fence_conn = NULL;
}

/* ---- ticks, and the end of a turn ---- */

static void etcd_event(void *context, const repl_event_t *event)
{
    repl_lead_event(context, *event);
}

static void tick(void *context)
{
    repl_node_t *node = context;
    uint64_t now = repl_now(node);
    repl_heartbeat(node);
    for (uint32_t i = 0; i < node->config->count; i++) {
        repl_member_t *member = &node->members[i];
        if (!member->up || now - member->heard_ms <= node->lease_ms)
            continue;
        member->up = false;
        node->positions_due = true;
        repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_PEER_LOST, .from = member->id});
    }
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_TICK});
    config_tick(node);
    repl_pull_tick(node);
    repl_resync_tick(node);
    if (now >= node->status_at_ms) {
        node->status_at_ms = now + STATUS_MS;
        repl_status_tell(node);
    }
}

static void rate_tick(void *context)
{
    repl_send_tick(context);
}

static void tell_positions(repl_node_t *node)
{
    uint8_t records[REPL_MEMBERS_MAX * VDP_POSITION_BYTES];
    size_t len = 0;
    repl_lead_count(node);
    for (uint32_t i = 0; i < node->config->count; i++) {
        const repl_member_t *member = &node->members[i];
        if (member->id == node->self)
            continue;
        vdp_position_t position = {member->id, member->up, 0, 0, 0};
        if (member->streams) {
            position.received = member->received;
            position.flushed = member->flushed;
            position.applied = member->applied;
        }
        vdp_position_write(records + len, &position);
        len += VDP_POSITION_BYTES;
    }
    vdp_replication_positions_t fields = {node->role.term, node->majority};
    repl_storage_tell(node->storage, &vdp_replication_positions, &fields, vd_slice(records, len));
}

/* Twice in a turn, see above. True: something was put on the link to storage. */
static bool send_due(void *context)
{
    repl_node_t *node = context;
    bool told = false;
    if (node->positions_due && repl_leads(node)) {
        tell_positions(node);
        told = true;
    }
    node->positions_due = false;
    if (node->majority_due && repl_leads(node)) {
        repl_ship_majority(node);
    } else if (node->majority_due) {
        vdp_replication_positions_t fields = {node->role.term, node->pull.majority};
        repl_storage_tell(node->storage, &vdp_replication_positions, &fields, VD_SLICE_NULL);
        told = true;
    }
    node->majority_due = false;
    repl_pull_ack(node);
    if (node->announce_due) {
        repl_heartbeat(node);
        node->announce_due = false;
    }
    if (node->topology_due) {
        repl_topology_tell(node);
        repl_status_tell(node);
        node->topology_due = false;
        told = true;
    }
    return told;
}

/* ---- life ---- */

static int listen_on(const char *host, uint16_t port, int *ret_fd, vd_error_t *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    char service[8];
    int one = 1, rc = VD_OK;
    (void)snprintf(service, sizeof service, "%u", port);
    int why = getaddrinfo(host, service, &hints, &list); /* before the loop runs: may block */
    if (why != 0)
        return vd_error_set(err, VD_ERR_CONFIG, "replication.listen %s: %s", host,
                            gai_strerror(why));
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, list->ai_addr, list->ai_addrlen) != 0 || listen(fd, 128) != 0) {
        rc = vd_error_set_errno(err, "can't listen on %s port %u", host, port);
        if (fd >= 0)
            (void)close(fd);
    } else {
        *ret_fd = fd;
    }
    freeaddrinfo(list);
    return rc;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage own = {0};
    socklen_t len = sizeof own;
    if (getsockname(fd, (struct sockaddr *)&own, &len) != 0)
        return 0;
    return ntohs(own.ss_family == AF_INET6
                     ? ((const struct sockaddr_in6 *)(const void *)&own)->sin6_port
                     : ((const struct sockaddr_in *)(const void *)&own)->sin_port);
}

static int read_addresses(repl_node_t *node, const vd_config_t *config, int fd, vd_error_t *err)
{
    const char *peer = vd_config_string(config, "replication.address");
    const char *host = vd_config_string(config, "node.address");
    char part[VDP_PEER_ADDRESS_MAX + 1];
    uint16_t port;
    if (peer[0] != '\0')
        (void)snprintf(node->peer, sizeof node->peer, "%s", peer);
    else
        (void)snprintf(node->peer, sizeof node->peer, "%.240s:%u",
                       vd_config_string(config, "replication.listen"), port_of(fd));
    const char *listen = vd_config_string(config, "gateway.listen");
    bool any = strcmp(listen, "0.0.0.0") == 0 || strcmp(listen, "::") == 0;
    if (host[0] != '\0' || any || vd_config_number(config, "gateway.port") == 0)
        (void)snprintf(node->host, sizeof node->host, "%s", host);
    else
        (void)snprintf(node->host, sizeof node->host,
                       strchr(listen, ':') != NULL ? "[%.240s]:%u" : "%.240s:%u", listen,
                       (unsigned)vd_config_number(config, "gateway.port"));
    if (!repl_address_parse(node->peer, part, sizeof part, &port))
        return vd_error_set(err, VD_ERR_CONFIG, "replication.address %s is not host:port",
                            node->peer);
    if (!repl_address_parse(node->host, part, sizeof part, &port))
        return vd_error_set(err, VD_ERR_CONFIG,
                            "node.address must be the host:port under which clients reach this "
                            "node, since the other nodes tell it to them");
    return VD_OK;
}

static int replicad_prepare(vd_daemon_t *daemon, void **state_p, vd_error_t *err)
{
    (void)err; /* nothing here can fail */
    const vd_config_t *config = vd_daemon_config(daemon);
    repl_node_t *node = vd_xalloc(sizeof *node);
    *state_p = node;
    node->daemon = daemon;
    node->loop = vd_daemon_loop(daemon);
    node->config = vd_xalloc(sizeof *node->config);
    vd_buf_init(&node->config_doc, CONFIG_MAX);
    vd_list_init(&node->ships);
    vd_list_init(&node->sending);
    vd_list_init(&node->tickets);
    repl_pull_init(node);
    vd_rand_secret(node->instance, sizeof node->instance);
    (void)snprintf(node->name, sizeof node->name, "%s", vd_config_string(config, "node.name"));
    (void)snprintf(node->set, sizeof node->set, "%s", vd_config_string(config, "node.replica_set"));
    node->etcd = strcmp(vd_config_string(config, "replication.failover"), "etcd") == 0;
    node->found_set = vd_config_string(config, "replication.join")[0] == '\0';
    node->lease_ms = (uint64_t)vd_config_number(config, "replication.lease");
    node->heartbeat_ms = node->lease_ms / 15 < 500 ? node->lease_ms / 15 : 500;
    node->buffer_bytes = (uint64_t)vd_config_number(config, "replication.buffer");
    node->snapshot_rate = (uint64_t)vd_config_number(config, "replication.snapshot_rate");
    node->started_ms = vd_monotonic_ms();
    /* Grows over restarts: gateways take a newer topology only. */
    node->topology_version = vd_wall_ms();
    return VD_OK;
}

static int dial_joins(repl_node_t *node, const char *list, vd_error_t *err)
{
    char *copy = vd_xstrdup(list), *rest = NULL;
    int rc = VD_OK;
    for (char *word = strtok_r(copy, ", ", &rest); word != NULL && rc == VD_OK;
         word = strtok_r(NULL, ", ", &rest)) {
        char host[VDP_PEER_ADDRESS_MAX + 1];
        uint16_t port;
        if (node->join_count == REPL_JOINS_MAX ||
            !repl_address_parse(word, host, sizeof host, &port))
            rc = vd_error_set(err, VD_ERR_CONFIG,
                              "replication.join: %s is not host:port, or more "
                              "than %d are named",
                              word, REPL_JOINS_MAX);
        else if (strcmp(word, node->peer) != 0)
            node->joins[node->join_count++] = repl_peers_dial(node->peers, word);
    }
    vd_free(copy);
    return rc;
}

static int start_elect(repl_node_t *node, const vd_config_t *config, vd_error_t *err)
{
    repl_elect_options_t options = {
        .endpoints = vd_config_string(config, "replication.etcd_endpoints"),
        .ca_file = vd_config_string(config, "replication.etcd_ca_file"),
        .certificate_file = vd_config_string(config, "replication.etcd_certificate_file"),
        .key_file = vd_config_string(config, "replication.etcd_key_file"),
        .set_name = node->set,
        .node_name = node->name,
        .self = node->self,
        .lease_ms = node->lease_ms,
        .event = etcd_event,
        .context = node,
    };
    return repl_elect_create(node->loop, &options, &node->elect, err);
}

/* etcd is asked under our member's id: from the time when we have one. */
static void elect_tick(void *context)
{
    repl_node_t *node = context;
    vd_error_t err = VD_ERROR_INIT;
    if (node->etcd && node->elect == NULL && node->self != 0 &&
        start_elect(node, vd_daemon_config(node->daemon), &err) != VD_OK)
        vd_daemon_fatal(node->daemon, true, &err);
    tick(node);
}

static int start_timers(repl_node_t *node, vd_error_t *err)
{
    int rc = vd_loop_add_timer(node->loop, node->heartbeat_ms, node->heartbeat_ms, elect_tick, node,
                               &node->tick_source, err);
    if (rc == VD_OK && node->snapshot_rate != 0)
        rc = vd_loop_add_timer(node->loop, 10, 10, rate_tick, node, &node->rate_source, err);
    if (rc == VD_OK)
        rc = vd_loop_add_end_of_turn(node->loop, VD_LINK_STEP_ORDER - 10, send_due, node,
                                     &node->early_source, err);
    if (rc == VD_OK)
        rc = vd_loop_add_end_of_turn(node->loop, VD_LINK_STEP_ORDER + 10, send_due, node,
                                     &node->late_source, err);
    return rc;
}

static int replicad_start(vd_daemon_t *daemon, void *state, vd_error_t *err)
{
    repl_node_t *node = state;
    const vd_config_t *config = vd_daemon_config(daemon);
    char path[PATH_MAX];
    uint16_t port = (uint16_t)vd_config_number(config, "replication.port");
    int fd = vd_daemon_passed_fd(daemon, "replication"), rc = VD_OK;
    if (fd < 0 && port == 0)
        return vd_error_set(err, VD_ERR_CONFIG, "replication.port is not set: this node is alone");
    if (fd < 0)
        rc = listen_on(vd_config_string(config, "replication.listen"), port, &fd, err);
    if (rc == VD_OK)
        rc = read_addresses(node, config, fd, err);
    repl_peers_options_t peers = {
        .certificate_file = vd_config_string(config, "replication.certificate_file"),
        .key_file = vd_config_string(config, "replication.key_file"),
        .ca_file = vd_config_string(config, "replication.ca_file"),
        .crl_file = vd_config_string(config, "replication.crl_file"),
        .listen_fd = fd,
        .timeout_ms = 2 * node->lease_ms,
        .out_max_bytes = node->buffer_bytes + 2 * (size_t)VDP_ENTRIES_MAX,
        .greet = peer_greet,
        .check = peer_check,
        .up = peer_up,
        .item = peer_item,
        .lost = peer_lost,
        .context = node,
    };
    repl_storage_options_t storage = {
        .path = vd_daemon_socket_path(daemon, "storage-replicad", "replication", path, sizeof path),
        .node = node->name,
        .state = storage_state,
        .lost = storage_lost,
        .ask = storage_ask,
        .context = node,
    };
    memcpy(storage.instance, node->instance, 16);
    repl_role_options_t nobody = {.lease_ms = node->lease_ms,
                                  .margin_ms = node->lease_ms / REPL_MARGIN_PART,
                                  .heartbeat_ms = node->heartbeat_ms,
                                  .handover_ms = 10000};
    repl_role_init(&node->role, &nobody, vd_monotonic_ms());
    if (rc == VD_OK)
        rc = repl_storage_open(node->loop, &storage, &node->storage, err);
    if (rc == VD_OK)
        rc = repl_peers_create(node->loop, &peers, &node->peers, err);
    if (rc == VD_OK)
        rc = dial_joins(node, vd_config_string(config, "replication.join"), err);
    if (rc == VD_OK)
        rc = start_timers(node, err);
    if (rc == VD_OK)
        vd_daemon_ready(daemon, node->peer);
    return rc;
}

static void replicad_drain(vd_daemon_t *daemon, void *state)
{
    (void)state; /* the role is given up by its lease, or was by an operator before */
    vd_daemon_drained(daemon);
}

static void replicad_stop(vd_daemon_t *daemon, void *state)
{
    (void)daemon; /* its parts go with it */
    repl_node_t *node = state;
    repl_ask_done(node);
    if (node->elect != NULL)
        repl_elect_destroy(&node->elect);
    repl_peers_destroy(&node->peers);
    repl_storage_close(&node->storage);
    vd_loop_remove(&node->tick_source);
    vd_loop_remove(&node->rate_source);
    vd_loop_remove(&node->early_source);
    vd_loop_remove(&node->late_source);
    repl_pull_done(node);
    repl_resync_done(node);
    vd_buf_done(&node->config_doc);
    vd_free(node->config);
    vd_free(node);
}

static int replicad_status(vd_daemon_t *daemon, void *state, vd_buf_t *out)
{
    (void)daemon; /* state has all */
    repl_node_t *node = state;
    if (node->peers == NULL)
        return vd_buf_printf(out, "{}");
    return repl_status_json(node, out);
}

typedef struct {
    vd_daemon_t *daemon;
    uint64_t ticket;
} daemon_ask_t;

static void daemon_answer(void *context, int code, const char *message, vd_slice_t body)
{
    daemon_ask_t *ask = context;
    vd_daemon_answer(ask->daemon, ask->ticket, code, message, body);
    vd_free(ask);
}

static void daemon_reloaded(void *context, int code, const char *message)
{
    daemon_answer(context, code, message, VD_SLICE_NULL);
}

static void replicad_ask(vd_daemon_t *daemon, void *state, uint64_t ticket, vd_slice_t verb,
                         vd_slice_t argument, vd_slice_t argument2)
{
    daemon_ask_t *ask = vd_xalloc(sizeof *ask);
    *ask = (daemon_ask_t){daemon, ticket};
    repl_node_t *node = state;
    if (vd_slice_is(verb, "reload") && node->peers != NULL) {
        repl_peers_reload(node->peers, daemon_reloaded, ask);
        return;
    }
    repl_asker_t asker = {.done = daemon_answer, .context = ask};
    repl_ask(state, &asker, verb, argument, argument2, VD_SLICE_NULL);
}

const vd_program_t repl_program = {
    .program = "veddb-replicad",
    .letter = 'p',
    .summary = "keeps the copies of a replica set equal; decides with the others who leads",
    .network = true,
    .prepare = replicad_prepare,
    .start = replicad_start,
    .drain = replicad_drain,
    .stop = replicad_stop,
    .status = replicad_status,
    .ask = replicad_ask,
};
