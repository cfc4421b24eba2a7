/* veddb-replicad/lead.c — steps the role (role.h) and does what it says. Contract in node.h.
 *
 * What an action does at once may bring the next event: those are queued, never nested. */
#include "proto/replication.h"
#include "veddb-replicad/node.h"

#include <stdlib.h>

static void run(repl_node_t *node, const repl_action_t *action);

void repl_lead_configure(repl_node_t *node)
{
    const repl_config_t *config = node->config;
    repl_role_options_t options = {
        .failover = node->etcd ? REPL_FAILOVER_ETCD : REPL_FAILOVER_MANUAL,
        .lease_ms = node->lease_ms,
        .margin_ms = node->lease_ms / REPL_MARGIN_PART,
        .heartbeat_ms = node->heartbeat_ms,
        .handover_ms = 10000,
        .self = node->self,
        .member_count = config->count,
    };
    for (uint32_t i = 0; i < config->count; i++)
        options.members[i] = (repl_role_member_t){.id = config->members[i].id,
                                                  .votes = config->members[i].votes,
                                                  .priority = config->members[i].priority};
    repl_actions_t *actions = vd_xalloc(sizeof *actions);
    if (repl_now(node) > node->role.now_ms)
        node->role.now_ms = repl_now(node); /* promises are counted from it */
    repl_role_configure(&node->role, &options, actions);
    for (size_t i = 0; i < actions->count; i++)
        run(node, &actions->list[i]);
    vd_free(actions);
}

void repl_lead_event(repl_node_t *node, repl_event_t event)
{
    if (node->event_count == REPL_EVENTS_MAX) {
        vd_log(VD_LOG_WARN, "too many events of the role at once", "kind=%d", event.kind);
        return; /* all are told again: heartbeats, STATE, ticks */
    }
    node->events[node->event_count++] = event;
    if (node->stepping)
        return;
    node->stepping = true;
    repl_actions_t *actions = vd_xalloc(sizeof *actions);
    while (node->event_count > 0) {
        repl_event_t next = node->events[0];
        memmove(&node->events[0], &node->events[1], --node->event_count * sizeof node->events[0]);
        next.now_ms = vd_loop_now_ms(node->loop);
        repl_role_state_t was = node->role.state;
        uint32_t leader = node->role.leader;
        actions->count = 0;
        repl_role_step(&node->role, &next, actions);
        for (size_t i = 0; i < actions->count; i++)
            run(node, &actions->list[i]);
        if (was != node->role.state || leader != node->role.leader) {
            vd_log(VD_LOG_INFO, "role", "state=%s term=%llu leader=%s",
                   repl_role_name(node->role.state), (unsigned long long)node->role.term,
                   repl_member_name(node, node->role.leader));
            node->announce_due = node->topology_due = true;
        }
    }
    vd_free(actions);
    node->stepping = false;
}

/* ---- the role at storage ---- */

typedef struct {
    repl_node_t *node;
    uint64_t term;
    int role;
} role_ask_t;

static bool is_loading(const repl_node_t *node)
{
    return node->resync.state > REPL_RESYNC_NONE && node->resync.state < REPL_RESYNC_BACK;
}

static void role_set(void *context, const repl_answer_t *answer)
{
    role_ask_t ask = *(role_ask_t *)context;
    repl_node_t *node = ask.node;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_role_set_t set = {0};
    vd_free(context);
    int rc = repl_answer_take(answer, &vdp_replication_role_set, &set, NULL, &err);
    if (rc == VD_ERR_CLOSED)
        return; /* STORAGE_LOST has told it */
    if (rc != VD_OK) {
        uint64_t term = repl_state(node)->term;
        vd_log(VD_LOG_WARN, "storage refuses a role", "term=%llu role=%d error=%d",
               (unsigned long long)ask.term, ask.role, rc);
        if (rc == VD_ERR_STALE_TERM && term <= ask.term)
            term = ask.term + 1;
        repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_ROLE_REFUSED, .term = term});
        return;
    }
    if (ask.role == VDP_ROLE_PRIMARY) {
        node->leader_first = set.newest;
        node->majority = 0;
        node->config_at = UINT64_MAX;
    } else {
        repl_pull_position(node, set.newest, set.newest);
    }
    /* Where a load has begun meanwhile, what stands there is no copy any more. */
    bool load = ask.role == VDP_ROLE_SECONDARY && is_loading(node);
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_ROLE_SET,
                                         .term = ask.term,
                                         .role = load ? VDP_ROLE_RECOVERING : ask.role,
                                         .position = load ? 0 : set.newest});
    node->positions_due = node->topology_due = true;
    repl_config_tick(node);
}

static void set_role(repl_node_t *node, const repl_action_t *action)
{
    role_ask_t *ask = vd_xalloc(sizeof *ask);
    *ask = (role_ask_t){node, action->term, action->role};
    /* Each position is checked anew against the history that we begin to lead with. */
    if (action->role == VDP_ROLE_PRIMARY && node->role.state != REPL_HANDING_OVER)
        repl_ship_stop_all(node, VD_ERR_NOT_PRIMARY_OR_SECONDARY, "this node begins to lead");
    uint32_t role = action->role == VDP_ROLE_SECONDARY && is_loading(node) ? VDP_ROLE_RECOVERING
                                                                           : (uint32_t)action->role;
    vdp_replication_role_t fields = {action->term, role,
                                     vd_slice_str(repl_member_name(node, action->leader))};
    (void)repl_storage_ask(node->storage, &vdp_replication_role, &fields, VD_SLICE_NULL, 60000,
                           role_set, ask);
}

void repl_lead_role(repl_node_t *node, uint32_t role, repl_done_t done, void *context)
{
    vdp_replication_role_t fields = {node->role.term, role,
                                     vd_slice_str(repl_member_name(node, node->role.owner))};
    (void)repl_storage_ask(node->storage, &vdp_replication_role, &fields, VD_SLICE_NULL, 60000,
                           done, context);
}

/* ---- fences and hand-overs ---- */

typedef struct {
    repl_node_t *node;
    uint32_t member;
} fence_ask_t;

static void fenced(void *context, const repl_answer_t *answer)
{
    fence_ask_t ask = *(fence_ask_t *)context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_peer_fenced_t said = {0};
    vd_free(context);
    if (repl_answer_take(answer, &vdp_peer_fenced, &said, NULL, &err) == VD_OK)
        repl_lead_event(ask.node, (repl_event_t){.kind = REPL_EVENT_FENCED,
                                                 .from = ask.member,
                                                 .term = said.term,
                                                 .granted = said.granted,
                                                 .position = said.position,
                                                 .heard_ms = said.heard_ms});
    else
        VD_DEBUG("a fence was not answered", "member=%u error=%d", ask.member, err.code);
}

static void send_fence(repl_node_t *node, const repl_action_t *action)
{
    repl_member_t *member = repl_member_by_id(node, action->member);
    repl_conn_t *conn = member == NULL ? NULL : repl_link_conn(member->link);
    if (conn == NULL)
        return; /* it is repeated */
    fence_ask_t *ask = vd_xalloc(sizeof *ask);
    *ask = (fence_ask_t){node, action->member};
    vdp_peer_fence_t fence = {action->term, repl_state(node)->durable};
    (void)repl_conn_ask(conn, &vdp_peer_fence, &fence, VD_SLICE_NULL, false, node->lease_ms, fenced,
                        ask);
}

static void send_fenced(repl_node_t *node, const repl_action_t *action)
{
    repl_member_t *member = repl_member_by_id(node, action->member);
    if (member == NULL || member->fence_conn == NULL)
        return;
    vdp_peer_fenced_t said = {action->term, action->granted,
                              is_loading(node) ? 0 : action->position, action->heard_ms};
    vd_error_t err = VD_ERROR_INIT;
    if (repl_conn_send(member->fence_conn, &vdp_peer_fenced, member->fence_request, &said,
                       VD_SLICE_NULL, &err) != VD_OK)
        VD_DEBUG("FENCED was not sent", "member=%u", action->member);
    member->fence_conn = NULL;
}

static void send_handover(repl_node_t *node, const repl_action_t *action)
{
    repl_member_t *member = repl_member_by_id(node, action->member);
    repl_conn_t *conn = member == NULL ? NULL : repl_link_conn(member->link);
    vdp_peer_handover_t handover = {action->term, action->position};
    vd_error_t err = VD_ERROR_INIT;
    if (conn != NULL &&
        repl_conn_send(conn, &vdp_peer_handover, 0, &handover, VD_SLICE_NULL, &err) != VD_OK)
        vd_log(VD_LOG_WARN, "a hand-over was not sent", "member=%u", action->member);
}

static void run(repl_node_t *node, const repl_action_t *action)
{
    char quoted[450];
    switch (action->kind) {
    case REPL_ACTION_SET_ROLE:
        set_role(node, action);
        break;
    case REPL_ACTION_FOLLOW:
        repl_pull_follow(node, action->member, action->catch_up);
        break;
    case REPL_ACTION_FENCE:
        send_fence(node, action);
        break;
    case REPL_ACTION_FENCED:
        send_fenced(node, action);
        break;
    case REPL_ACTION_HANDOVER:
        send_handover(node, action);
        break;
    case REPL_ACTION_CLAIM:
        if (node->elect != NULL)
            repl_elect_claim(node->elect, action->term);
        break;
    case REPL_ACTION_RENEW:
        if (node->elect != NULL)
            repl_elect_renew(node->elect);
        break;
    case REPL_ACTION_RELEASE:
        if (node->elect != NULL)
            repl_elect_release(node->elect);
        break;
    case REPL_ACTION_ANNOUNCE:
        node->announce_due = node->topology_due = true;
        break;
    case REPL_ACTION_ANSWER:
        repl_ask_answered(node, action->ticket, action->code > 0 ? -action->code : action->code,
                          action->text);
        break;
    case REPL_ACTION_LOG:
        vd_log(VD_LOG_INFO, "role of this node", "note=%s",
               vd_log_quote(vd_slice_str(action->text), quoted, sizeof quoted));
        break;
    }
}

/* ---- the majority point ---- */

static int downwards(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* Of our own term only: an older entry on a majority may still be lost to one that has a newer
 * term. Storage's own figure is used where it knows more of its disk than STATE told. */
void repl_lead_count(repl_node_t *node)
{
    uint64_t flushed[REPL_MEMBERS_MAX];
    uint32_t voters = 0;
    if (!repl_leads(node))
        return;
    for (uint32_t i = 0; i < node->config->count; i++) {
        const repl_member_t *member = &node->members[i];
        if (!node->config->members[i].votes)
            continue;
        flushed[voters++] = member->id == node->self ? repl_state(node)->durable
                            : member->streams        ? member->flushed
                                                     : 0;
    }
    if (voters == 0)
        return;
    qsort(flushed, voters, sizeof flushed[0], downwards);
    uint64_t point = flushed[voters / 2];
    if (node->leader_first == 0 || point < node->leader_first)
        point = 0;
    if (repl_state(node)->majority > point)
        point = repl_state(node)->majority;
    if (point > node->majority) {
        node->majority = point;
        node->majority_due = true;
    }
}
