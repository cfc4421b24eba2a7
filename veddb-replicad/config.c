/* veddb-replicad/config.c — the configuration in force: who is a member, how it is adopted, what a
 * new primary journals. Contract in node.h. */
#include "veddb-replicad/node.h"

#include <stdio.h>

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

void repl_adopt_logged(repl_node_t *node, vd_bson_t doc, const char *from)
{
    vd_error_t err = VD_ERROR_INIT;
    char quoted[300];
    bool first = node->config->version == 0;
    if (repl_adopt(node, doc, &err) != VD_OK)
        vd_log(VD_LOG_ERROR, "a configuration of the replica set is refused", "from=%s error=%s",
               from, vd_log_quote(vd_slice_str(err.message), quoted, sizeof quoted));
    else if (first && node->role.storage_up)
        repl_tell_role(node);
}

void repl_config_begin(repl_node_t *node)
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
        repl_adopt_logged(node, doc, "ourselves");
    else
        vd_log(VD_LOG_ERROR, "a replica set can't be begun", "error=\"%s\"", err.message);
    vd_bb_done(&bb);
    vd_free(config);
}

/* A new primary journals what it acts by, as of its own term: it is newer then than whatever
 * another primary had told and no majority has, and no other is taken before a majority has it. */
typedef struct {
    repl_node_t *node;
    repl_config_t config;
} renewal_t;

static int renewal_build(const repl_config_t *config, vd_bb_t *bb, vd_bson_t *ret, vd_error_t *err)
{
    vd_bb_init(bb, CONFIG_MAX);
    return repl_config_build(config, bb, ret, err);
}

static void config_renewed(void *context, const repl_answer_t *answer)
{
    renewal_t *renewal = context;
    repl_node_t *node = renewal->node;
    const repl_config_t *config = &renewal->config;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_config_set_t set = {0};
    vd_bb_t bb;
    vd_bson_t doc;
    node->config_under_way = false;
    if (repl_answer_take(answer, &vdp_replication_config_set, &set, NULL, &err) != VD_OK) {
        vd_log(VD_LOG_WARN, "storage does not take the configuration", "error=%d", err.code);
        vd_free(renewal);
        return;
    }
    int rc = renewal_build(config, &bb, &doc, &err);
    if (rc == VD_OK && repl_config_newer(config->term, config->version, node->config))
        repl_adopt_logged(node, doc, "ourselves");
    vd_bb_done(&bb);
    if (repl_leads(node) && config->term == (int64_t)node->role.term)
        node->config_at = set.timestamp;
    if (node->stored_term < config->term) { /* STATE comes with it, too */
        node->stored_term = config->term;
        node->stored_version = config->version;
    }
    vd_log(VD_LOG_INFO, "the configuration is journaled", "version=%lld term=%lld",
           (long long)config->version, (long long)config->term);
    vd_free(renewal);
}

void repl_config_tick(repl_node_t *node)
{
    int64_t term = (int64_t)node->role.term;
    if (!repl_leads(node) || node->config_under_way || node->config->version == 0)
        return;
    if (node->config->term == term && node->stored_term == term &&
        node->stored_version == node->config->version) {
        if (node->config_at == UINT64_MAX) /* the role was taken back: journaled before */
            node->config_at = node->leader_first;
        return;
    }
    renewal_t *renewal = vd_xalloc(sizeof *renewal);
    vd_error_t err = VD_ERROR_INIT;
    vd_bb_t bb;
    vd_bson_t doc;
    *renewal = (renewal_t){node, *node->config};
    if (renewal->config.version < node->stored_version)
        renewal->config.version = node->stored_version;
    renewal->config.term = term;
    if (renewal_build(&renewal->config, &bb, &doc, &err) == VD_OK) {
        vdp_replication_config_t fields = {renewal->config.version};
        node->config_under_way = true;
        (void)repl_storage_ask(node->storage, &vdp_replication_config, &fields,
                               vd_slice(doc.data, doc.len), 30000, config_renewed, renewal);
    } else {
        vd_log(VD_LOG_ERROR, "the configuration can't be written", "error=%d", err.code);
        vd_free(renewal);
    }
    vd_bb_done(&bb);
}
