/* veddb-replicad/status.c — what operators, clients and storage are told. Contract in node.h. */
#include "libcommon/base/clock.h"
#include "veddb-replicad/node.h"

/* ---- figures of one member, ourselves too ---- */

typedef struct {
    bool self, up;
    int state;
    uint32_t role, sync_source;
    const char *problem;
    uint64_t term, received, flushed, applied, bytes;
    int64_t config_version, config_term;
} figures_t;

static figures_t figures_of(repl_node_t *node, const repl_member_t *member)
{
    figures_t f = {.self = member->id == node->self, .up = member->up};
    vdp_peer_status_t said = f.self ? repl_own_status(node) : member->said;
    f.state = (int)said.state, f.role = said.role, f.term = said.term;
    f.sync_source = said.sync_source, f.problem = f.self ? node->pull.problem : member->problem;
    f.received = said.received, f.flushed = said.flushed, f.applied = said.applied;
    f.config_version = said.config_version, f.config_term = said.config_term;
    if (f.self)
        f.up = repl_state(node)->attached;
    if (member->streams && repl_leads(node)) { /* newer than its heartbeat */
        f.received = member->received, f.flushed = member->flushed, f.applied = member->applied;
        f.bytes = member->bytes_behind;
    }
    if (f.self)
        f.bytes = node->pull.queue_bytes;
    return f;
}

/* ---- entries that members are behind: only who leads has them all ---- */

static void entries_forget(repl_node_t *node)
{
    for (uint32_t i = 0; i < node->config->count; i++)
        node->members[i].entries = (repl_entries_t){0};
}

typedef struct {
    repl_node_t *node;
    uint32_t count;
    uint32_t members[REPL_MEMBERS_MAX];
} counted_t;

static void entries_counted(void *context, const repl_answer_t *answer)
{
    counted_t *counted = context;
    repl_node_t *node = counted->node;
    vdp_replication_counted_t said = {0};
    vd_slice_t body;
    node->counting = false;
    int rc = repl_answer_take(answer, &vdp_replication_counted, &said, &body, NULL);
    if (rc != VD_OK || !repl_leads(node) || body.len != (size_t)counted->count * REPL_STAGES * 8)
        entries_forget(node);
    for (uint32_t i = 0; rc == VD_OK && repl_leads(node) && i < counted->count; i++) {
        repl_member_t *member = repl_member_by_id(node, counted->members[i]);
        if (member == NULL || body.len < (size_t)(i + 1) * REPL_STAGES * 8)
            continue;
        repl_entries_t entries = {.known = true};
        for (uint32_t stage = 0; stage < REPL_STAGES; stage++) {
            uint64_t n = vd_get_u64(body.data + (size_t)(i * REPL_STAGES + stage) * 8);
            entries.at_least |= (n & VDP_COUNT_AT_LEAST) != 0;
            entries.behind[stage] = n & ~VDP_COUNT_AT_LEAST;
        }
        member->entries = entries;
    }
    vd_free(counted);
}

static void entries_ask(repl_node_t *node)
{
    uint8_t body[REPL_MEMBERS_MAX * REPL_STAGES * 8];
    vdp_replication_count_t count = {0};
    _Static_assert(REPL_MEMBERS_MAX * REPL_STAGES <= VDP_COUNTS_MAX, "one question for all");
    if (!repl_leads(node) || !repl_state(node)->attached) {
        entries_forget(node);
        return;
    }
    if (node->counting)
        return;
    counted_t *counted = vd_xalloc(sizeof *counted);
    counted->node = node;
    for (uint32_t i = 0; i < node->config->count; i++) {
        repl_member_t *member = &node->members[i];
        figures_t f = figures_of(node, member);
        if (f.received == 0 || f.flushed == 0 || f.applied == 0) {
            member->entries = (repl_entries_t){0};
            continue;
        }
        uint8_t *at = body + (size_t)counted->count * REPL_STAGES * 8;
        vd_put_u64(at, f.received);
        vd_put_u64(at + 8, f.flushed);
        vd_put_u64(at + 16, f.applied);
        counted->members[counted->count++] = member->id;
    }
    node->counting = true;
    (void)repl_storage_ask(node->storage, &vdp_replication_count, &count,
                           vd_slice(body, (size_t)counted->count * REPL_STAGES * 8), 10000,
                           entries_counted, counted);
}

static uint64_t newest_known(repl_node_t *node)
{
    uint64_t newest = repl_state(node)->newest;
    if (node->pull.newest > newest)
        newest = node->pull.newest;
    for (uint32_t i = 0; i < node->config->count; i++) {
        const repl_member_t *member = &node->members[i];
        if (member->id != node->self && member->up && member->said.state == REPL_LEADER &&
            member->said.applied > newest)
            newest = member->said.applied;
    }
    return newest;
}

/* Since when it has not been level. Timestamps count whole seconds; what we have seen ourselves is
 * finer, as far as it goes back. */
static double lag_seconds(repl_node_t *node, uint64_t newest, uint64_t position)
{
    if (position == 0 || newest <= position)
        return 0;
    double seen = (double)repl_marks_behind_ms(&node->marks, position, repl_now(node)) / 1000;
    double told = (double)((newest >> 32) - (position >> 32)) - 1;
    return seen > told ? seen : told;
}

/* Names and addresses were checked as UTF-8; what JSON must not hold is escaped. */
static void put_text(vd_buf_t *out, const char *text, int *rc)
{
    if (*rc == VD_OK)
        *rc = vd_buf_append_u8(out, '"');
    for (; *text != '\0' && *rc == VD_OK; text++) {
        uint8_t c = (uint8_t)*text;
        if (c < 0x20)
            *rc = vd_buf_printf(out, "\\u%04x", c);
        else if (c == '"' || c == '\\')
            *rc = vd_buf_printf(out, "\\%c", c);
        else
            *rc = vd_buf_append_u8(out, c);
    }
    if (*rc == VD_OK)
        *rc = vd_buf_append_u8(out, '"');
}

static void put_named(vd_buf_t *out, const char *name, const char *text, int *rc)
{
    if (*rc == VD_OK)
        *rc = vd_buf_printf(out, ",\"%s\":", name);
    put_text(out, text, rc);
}

/* As operators and vedctl know it (proto/operator.md). */
static const char *state_name(const figures_t *f)
{
    static const char *const names[] = {"STARTING", "PRIMARY", "SECONDARY", "RECOVERING",
                                        "REMOVED"};
    if (!f->up)
        return "DOWN";
    if (f->role == VDP_ROLE_PRIMARY && f->state != REPL_LEADER && f->state != REPL_HANDING_OVER)
        return "STARTING"; /* storage still thinks so; it is not asked to */
    return f->role < VD_COUNT_OF(names) ? names[f->role] : "STARTING";
}

static int put_member(repl_node_t *node, uint32_t i, uint64_t newest, vd_buf_t *out)
{
    const repl_member_config_t *config = &node->config->members[i];
    repl_member_t *member = &node->members[i];
    figures_t f = figures_of(node, member);
    int rc = vd_buf_printf(out, "%s{\"id\":%u", i == 0 ? "" : ",", config->id);
    put_named(out, "name", config->name, &rc);
    put_named(out, "host", config->host, &rc);
    put_named(out, "peer", config->peer, &rc);
    put_named(out, "state", state_name(&f), &rc);
    if (rc == VD_OK)
        rc = vd_buf_printf(
            out,
            ",\"up\":%s,\"self\":%s,\"term\":%llu,\"received\":%llu,\"flushed\":%llu,"
            "\"applied\":%llu,\"lagSeconds\":%.3f,\"lagReceivedSeconds\":%.3f,"
            "\"lagFlushedSeconds\":%.3f,\"lagBytes\":%llu,\"pingMs\":%llu,\"heardMsAgo\":%llu,"
            "\"votes\":%d,\"priority\":%u,\"hidden\":%s,\"secondaryDelaySecs\":%lld,"
            "\"configVersion\":%lld",
            f.up ? "true" : "false", f.self ? "true" : "false", (unsigned long long)f.term,
            (unsigned long long)f.received, (unsigned long long)f.flushed,
            (unsigned long long)f.applied, lag_seconds(node, newest, f.applied),
            lag_seconds(node, newest, f.received), lag_seconds(node, newest, f.flushed),
            (unsigned long long)f.bytes, (unsigned long long)member->ping_ms,
            (unsigned long long)(f.self || !member->heard ? 0 : repl_now(node) - member->heard_ms),
            config->votes, config->priority, config->hidden ? "true" : "false",
            (long long)config->delay_secs, (long long)f.config_version);
    if (rc == VD_OK && member->entries.known)
        rc = vd_buf_printf(out,
                           ",\"lagEntries\":%llu,\"lagReceivedEntries\":%llu,"
                           "\"lagFlushedEntries\":%llu,\"lagEntriesAtLeast\":%s",
                           (unsigned long long)member->entries.behind[REPL_APPLIED],
                           (unsigned long long)member->entries.behind[REPL_RECEIVED],
                           (unsigned long long)member->entries.behind[REPL_FLUSHED],
                           member->entries.at_least ? "true" : "false");
    put_named(out, "syncSource", repl_member_name(node, f.sync_source), &rc);
    put_named(out, "problem", f.problem, &rc);
    if (member->link != NULL)
        put_named(out, "error", repl_link_error(member->link), &rc);
    return rc == VD_OK ? vd_buf_append_u8(out, '}') : rc;
}

static int put_snapshot(repl_node_t *node, vd_buf_t *out)
{
    static const char *const steps[] = {"none", "role", "rollback", "open",
                                        "load", "copy", "check",    "done"};
    const repl_resync_t *resync = &node->resync;
    if (resync->state == REPL_RESYNC_NONE)
        return vd_buf_printf(out, ",\"snapshot\":null");
    uint64_t ms = repl_now(node) - resync->started_ms + 1, done = resync->done_bytes;
    uint64_t rate = done * 1000 / ms, total = resync->fields.bytes;
    int rc = vd_buf_printf(out, ",\"snapshot\":{\"step\":\"%s\"", steps[resync->state]);
    put_named(out, "from", repl_member_name(node, resync->source), &rc);
    put_named(out, "to", node->name, &rc);
    put_named(out, "reason", resync->why, &rc);
    return rc != VD_OK
               ? rc
               : vd_buf_printf(
                     out,
                     ",\"doneBytes\":%llu,\"totalBytes\":%llu,\"doneDocuments\":%llu,"
                     "\"totalDocuments\":%llu,\"bytesPerSecond\":%llu,"
                     "\"etaSeconds\":%llu}",
                     (unsigned long long)done, (unsigned long long)total,
                     (unsigned long long)resync->done_documents,
                     (unsigned long long)resync->fields.documents, (unsigned long long)rate,
                     (unsigned long long)(rate == 0 || total < done ? 0 : (total - done) / rate));
}

int repl_status_json(repl_node_t *node, vd_buf_t *out)
{
    uint64_t newest = newest_known(node);
    repl_member_t own = {.id = node->self};
    figures_t self = figures_of(node, &own);
    self.self = true, self.up = repl_state(node)->attached;
    int rc = vd_buf_append(out, "{\"set\":", 7);
    put_text(out, node->set, &rc);
    put_named(out, "node", node->name, &rc);
    put_named(out, "state", state_name(&self), &rc);
    put_named(out, "leader", repl_member_name(node, node->role.leader), &rc);
    uint64_t majority = repl_leads(node) ? node->majority : node->pull.majority;
    if (repl_state(node)->majority > majority)
        majority = repl_state(node)->majority;
    if (rc == VD_OK)
        rc =
            vd_buf_printf(out,
                          ",\"term\":%llu,\"configVersion\":%lld,\"configTerm\":%lld,"
                          "\"majority\":%llu,\"newest\":%llu,\"storage\":%s,"
                          "\"certificateExpiresInSeconds\":%lld,\"members\":[",
                          (unsigned long long)node->role.term, (long long)node->config->version,
                          (long long)node->config->term, (unsigned long long)majority,
                          (unsigned long long)newest, repl_state(node)->attached ? "true" : "false",
                          (long long)repl_peers_certificate_expires_in_s(node->peers));
    for (uint32_t i = 0; i < node->config->count && rc == VD_OK; i++)
        rc = put_member(node, i, newest, out);
    if (rc == VD_OK)
        rc = vd_buf_append_u8(out, ']');
    if (rc == VD_OK)
        rc = put_snapshot(node, out);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, ",\"rollbacks\":%llu,\"rolledBackDocuments\":%llu",
                           (unsigned long long)node->rollbacks,
                           (unsigned long long)node->rolled_back_documents);
    put_named(out, "rollbackFolder", node->rollback_folder, &rc);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, ",\"etcd\":");
    if (rc == VD_OK)
        rc = node->elect == NULL ? vd_buf_printf(out, "null") : repl_elect_status(node->elect, out);
    return rc == VD_OK ? vd_buf_append_u8(out, '}') : rc;
}

int repl_list_json(repl_node_t *node, vd_buf_t *out)
{
    vd_arena_t *arena = vd_arena_create();
    int rc = vd_buf_append(out, "{\"set\":", 7);
    put_text(out, node->set, &rc);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, ",\"version\":%lld,\"term\":%lld,\"members\":[",
                           (long long)node->config->version, (long long)node->config->term);
    for (uint32_t i = 0; i < node->config->count && rc == VD_OK; i++) {
        const repl_member_config_t *member = &node->config->members[i];
        vd_bson_t tags = {member->tags, member->tags_len};
        rc = vd_buf_printf(out, "%s{\"id\":%u", i == 0 ? "" : ",", member->id);
        put_named(out, "name", member->name, &rc);
        put_named(out, "host", member->host, &rc);
        put_named(out, "peer", member->peer, &rc);
        if (rc == VD_OK)
            rc = vd_buf_printf(out,
                               ",\"priority\":%u,\"votes\":%d,\"hidden\":%s,"
                               "\"secondaryDelaySecs\":%lld,\"tags\":%s}",
                               member->priority, member->votes, member->hidden ? "true" : "false",
                               (long long)member->delay_secs,
                               tags.len == 0 ? "{}" : vd_bson_to_json(arena, tags, 4096));
    }
    vd_arena_destroy(&arena);
    return rc == VD_OK ? vd_buf_printf(out, "]}") : rc;
}

/* ---- storage: replSetGetStatus ---- */

static int mongo_state(const figures_t *f)
{
    if (!f->up)
        return 8; /* DOWN */
    if (f->role == VDP_ROLE_RECOVERING)
        return 3;
    switch (f->state) {
    case REPL_LEADER:
    case REPL_HANDING_OVER:
        return 1;
    case REPL_FOLLOWER:
    case REPL_CANDIDATE:
    case REPL_CLAIMING:
        return 2;
    case REPL_REMOVED:
        return 10;
    default:
        return 0;
    }
}

static const char *mongo_state_name(int state)
{
    return state == 1    ? "PRIMARY"
           : state == 2  ? "SECONDARY"
           : state == 3  ? "RECOVERING"
           : state == 8  ? "(not reachable/healthy)"
           : state == 10 ? "REMOVED"
                         : "STARTUP";
}

static void put_optime(vd_bb_t *bb, const char *name, uint64_t position, uint64_t term)
{
    vd_bb_begin_document(bb, name);
    vd_bb_timestamp(bb, "ts", position);
    vd_bb_int64(bb, "t", (int64_t)term);
    vd_bb_close(bb);
}

static int64_t wall_of(uint64_t position)
{
    return (int64_t)(position >> 32) * 1000;
}

static const char *host_of(repl_node_t *node, uint32_t id)
{
    const repl_member_config_t *member = repl_config_by_id(node->config, id);
    return member == NULL ? "" : member->host;
}

static void put_status_member(repl_node_t *node, uint32_t i, uint64_t newest, vd_bb_t *bb)
{
    const repl_member_config_t *config = &node->config->members[i];
    repl_member_t *member = &node->members[i];
    figures_t f = figures_of(node, member);
    int state = mongo_state(&f);
    uint64_t since = f.self ? node->started_ms : member->up_since_ms;
    uint64_t now = repl_now(node);
    char position[12];
    vd_bb_open_document(bb, vd_array_name(i, position));
    vd_bb_int32(bb, "_id", (int32_t)config->id);
    vd_bb_cstr(bb, "name", config->host);
    vd_bb_double(bb, "health", f.up ? 1 : 0);
    vd_bb_int32(bb, "state", state);
    vd_bb_cstr(bb, "stateStr", mongo_state_name(state));
    vd_bb_int32(bb, "uptime", f.up ? (int32_t)((now - since) / 1000) : 0);
    put_optime(bb, "optime", f.applied, f.term);
    put_optime(bb, "optimeDurable", f.flushed, f.term);
    vd_bb_date(bb, "optimeDate", wall_of(f.applied));
    vd_bb_date(bb, "optimeDurableDate", wall_of(f.flushed));
    vd_bb_date(bb, "lastAppliedWallTime", wall_of(f.applied));
    vd_bb_date(bb, "lastDurableWallTime", wall_of(f.flushed));
    if (!f.self) {
        vd_bb_date(bb, "lastHeartbeat",
                   member->heard ? vd_wall_ms() - (int64_t)(now - member->heard_ms) : 0);
        vd_bb_int64(bb, "pingMs", (int64_t)member->ping_ms);
        const char *link = member->link == NULL ? "" : repl_link_error(member->link);
        vd_bb_cstr(bb, "lastHeartbeatMessage", *link == '\0' ? f.problem : link);
    }
    if (f.self && *f.problem != '\0')
        vd_bb_cstr(bb, "infoMessage", f.problem);
    vd_bb_cstr(bb, "syncSourceHost", host_of(node, f.sync_source));
    vd_bb_int32(bb, "syncSourceId", f.sync_source == 0 ? -1 : (int32_t)f.sync_source);
    vd_bb_int32(bb, "configVersion", (int32_t)f.config_version);
    vd_bb_int32(bb, "configTerm", (int32_t)f.config_term);
    if (f.self)
        vd_bb_bool(bb, "self", true);
    vd_bb_begin_document(bb, "veddb"); /* for /metrics */
    vd_bb_cstr(bb, "name", config->name);
    vd_bb_double(bb, "lagReceivedSeconds", lag_seconds(node, newest, f.received));
    vd_bb_double(bb, "lagFlushedSeconds", lag_seconds(node, newest, f.flushed));
    vd_bb_double(bb, "lagAppliedSeconds", lag_seconds(node, newest, f.applied));
    vd_bb_int64(bb, "lagBytes", (int64_t)f.bytes);
    if (member->entries.known) {
        vd_bb_int64(bb, "lagReceivedEntries", (int64_t)member->entries.behind[REPL_RECEIVED]);
        vd_bb_int64(bb, "lagFlushedEntries", (int64_t)member->entries.behind[REPL_FLUSHED]);
        vd_bb_int64(bb, "lagAppliedEntries", (int64_t)member->entries.behind[REPL_APPLIED]);
        vd_bb_bool(bb, "lagEntriesAtLeast", member->entries.at_least);
    }
    vd_bb_close(bb);
    vd_bb_close(bb);
}

void repl_status_tell(repl_node_t *node)
{
    vd_bb_t bb;
    vd_bson_t doc;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_status_t fields = {0};
    repl_member_t own = {.id = node->self};
    figures_t self = figures_of(node, &own);
    uint64_t majority = repl_leads(node) ? node->majority : node->pull.majority;
    self.up = true;
    vd_bb_init(&bb, VDP_SET_STATUS_MAX);
    vd_bb_cstr(&bb, "set", node->set);
    vd_bb_date(&bb, "date", vd_wall_ms());
    vd_bb_int32(&bb, "myState", mongo_state(&self));
    vd_bb_int64(&bb, "term", (int64_t)node->role.term);
    vd_bb_cstr(&bb, "syncSourceHost", host_of(node, node->pull.conn ? node->pull.member : 0));
    vd_bb_int32(&bb, "syncSourceId", node->pull.conn ? (int32_t)node->pull.member : -1);
    vd_bb_int64(&bb, "heartbeatIntervalMillis", (int64_t)node->heartbeat_ms);
    vd_bb_begin_document(&bb, "optimes");
    put_optime(&bb, "lastCommittedOpTime", majority, node->role.term);
    put_optime(&bb, "appliedOpTime", self.applied, node->role.term);
    put_optime(&bb, "durableOpTime", self.flushed, node->role.term);
    vd_bb_close(&bb);
    vd_bb_begin_array(&bb, "members");
    for (uint32_t i = 0; i < node->config->count; i++)
        put_status_member(node, i, newest_known(node), &bb);
    vd_bb_close(&bb);
    vd_bb_begin_document(&bb, "veddb");
    vd_bb_cstr(&bb, "node", node->name);
    vd_bb_int64(&bb, "rollbacks", (int64_t)node->rollbacks);
    vd_bb_cstr(&bb, "rollbackFolder", node->rollback_folder);
    vd_bb_close(&bb);
    if (vd_bb_finish(&bb, &doc, &err) == VD_OK)
        repl_storage_tell(node->storage, &vdp_replication_status, &fields,
                          vd_slice(doc.data, doc.len));
    else
        vd_log(VD_LOG_ERROR, "the status can't be made", "error=%d", err.code);
    vd_bb_done(&bb);
    entries_ask(node); /* for the next time */
}

/* ---- storage: what hello shows ---- */

static void put_hosts(repl_node_t *node, vd_bb_t *bb, const char *name, bool passive)
{
    uint32_t n = 0;
    char position[12];
    vd_bb_begin_array(bb, name);
    for (uint32_t i = 0; i < node->config->count; i++) {
        const repl_member_config_t *member = &node->config->members[i];
        if (member->hidden || (member->priority == 0) != passive)
            continue;
        vd_arena_t *arena = vd_arena_create();
        vd_bb_value(bb, vd_array_name(n++, position),
                    vd_value_from_string(arena, vd_slice_str(member->host)));
        vd_arena_destroy(&arena);
    }
    vd_bb_close(bb);
}

/* When this node goes away another one leads before long, by itself. */
static bool others_may_lead(const repl_node_t *node)
{
    bool others = false;
    for (uint32_t i = 0; i < node->config->count; i++) {
        const repl_member_config_t *member = &node->config->members[i];
        others |= member->id != node->self && member->votes > 0 && member->priority > 0;
    }
    return others && node->elect != NULL;
}

void repl_topology_tell(repl_node_t *node)
{
    vd_bb_t bb;
    vd_bson_t doc;
    vd_error_t err = VD_ERROR_INIT;
    const repl_member_config_t *self = repl_config_by_id(node->config, node->self);
    const char *primary = host_of(node, node->role.leader);
    vdp_replication_topology_t fields = {++node->topology_version};
    vd_bb_init(&bb, VDP_TOPOLOGY_MAX);
    vd_bb_int32(&bb, "setVersion", (int32_t)node->config->version);
    put_hosts(node, &bb, "hosts", false);
    put_hosts(node, &bb, "passives", true);
    if (primary[0] != '\0')
        vd_bb_cstr(&bb, "primary", primary);
    vd_bb_cstr(&bb, "me", self != NULL ? self->host : node->host);
    if (self != NULL && self->tags_len != 0)
        vd_bb_document(&bb, "tags", (vd_bson_t){self->tags, self->tags_len});
    vd_bb_bool(&bb, "hidden", self != NULL && self->hidden);
    vd_bb_bool(&bb, "passive", self != NULL && self->priority == 0);
    vd_bb_int64(&bb, "secondaryDelaySecs", self == NULL ? 0 : self->delay_secs);
    vd_bb_int64(&bb, "term", (int64_t)node->role.term);
    vd_bb_bool(&bb, "automatic", others_may_lead(node));
    if (vd_bb_finish(&bb, &doc, &err) == VD_OK)
        repl_storage_tell(node->storage, &vdp_replication_topology, &fields,
                          vd_slice(doc.data, doc.len));
    else
        vd_log(VD_LOG_ERROR, "the topology can't be made", "error=%d", err.code);
    vd_bb_done(&bb);
}
