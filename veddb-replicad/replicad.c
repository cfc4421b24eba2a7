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

#define STATUS_MS 1000

/* ---- storage ---- */

uint64_t repl_floor(const repl_node_t *node)
{
    const repl_storage_state_t *state = repl_state(node);
    uint64_t newest = state->newest > node->pull.applied ? state->newest : node->pull.applied;
    /* Until the load begins all is there yet; what was acknowledged came from it. */
    return state->loading ? state->floor : newest;
}

/* What storage says of role, term and position; its leader's name means something once there is a
 * configuration. */
void repl_tell_role(repl_node_t *node)
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
                                         .floor = repl_floor(node),
                                         .leader = named != NULL ? named->id : known});
}

static void storage_state(void *context, bool attached, vd_bson_t doc)
{
    repl_node_t *node = context;
    const repl_storage_state_t *state = repl_state(node);
    if (attached) {
        repl_pull_reset(node);
        repl_resync_reset(node);
        node->config_under_way = false;
        node->stored_version = node->stored_term = 0;
        node->topology_due = node->positions_due = true;
        node->status_at_ms = 0;
    }
    if (doc.len != 0) {
        int64_t version = 0, term = 0;
        (void)vd_value_as_int64(vd_bson_get(doc, "version"), &version); /* 0: refused below */
        (void)vd_value_as_int64(vd_bson_get(doc, "term"), &term);
        node->stored_version = version;
        node->stored_term = term;
        /* (What we are handing over is acted by when it is on the disk.) */
        if (repl_config_newer(term, version, node->config) && !node->config_under_way)
            repl_adopt_logged(node, doc, "storage");
    } else if (node->found_set && node->config->version == 0 && state->ready && !state->loading) {
        /* Also with data: a node that was alone so far. */
        repl_config_begin(node);
    }
    if (!state->ready)
        return;
    repl_marks_note(&node->marks, state->newest, repl_now(node));
    if (state->role != VDP_ROLE_PRIMARY)
        repl_pull_position(node, state->newest, state->durable);
    repl_tell_role(node);
    node->positions_due = true;
    if (state->builds_changed)
        node->announce_due = true; /* the primary waits for it */
    repl_pull_tick(node);
}

static void storage_lost(void *context)
{
    repl_node_t *node = context;
    repl_ship_stop_all(node, VD_ERR_HOST_UNREACHABLE, "storage is lost here");
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_STORAGE_LOST});
}

static void storage_cut_off(void *context)
{
    repl_node_t *node = context;
    vd_daemon_cut_off(node->daemon);
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

/* ---- peers ---- */

static void peer_up(void *context, repl_conn_t *conn)
{
    static uint64_t last_tag;
    repl_conn_set_tag(conn, ++last_tag);
    repl_beat_send(context, conn);
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
    repl_config_tick(node);
    repl_pull_tick(node);
    repl_resync_tick(node);
    repl_heads_tick(node);
    if (now >= node->status_at_ms) {
        node->status_at_ms = now + STATUS_MS;
        repl_status_tell(node);
    }
}

static void rate_tick(void *context)
{
    repl_send_tick(context);
}

/* As leader; the clock is the host's, and so storage's. */
static uint64_t lease_until(const repl_node_t *node)
{
    return node->role.forced ? UINT64_MAX : node->role.lease_until_ms;
}

/* {member, count, ids}; nothing of a member that has none. */
static size_t put_builds(uint8_t *at, const repl_member_t *member)
{
    vd_slice_t builds = member->said.builds;
    if (builds.len == 0)
        return 0;
    vd_put_u32(at, member->id);
    vd_put_u32(at + 4, (uint32_t)(builds.len / 8));
    memcpy(at + 8, builds.data, builds.len / 8 * 8);
    return 8 + builds.len / 8 * 8;
}

static void tell_positions(repl_node_t *node)
{
    uint8_t records[REPL_MEMBERS_MAX * VDP_POSITION_BYTES];
    uint8_t builds[REPL_MEMBERS_MAX * VDP_MEMBER_BUILDS_MAX];
    size_t len = 0, builds_len = 0;
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
        if (member->up)
            builds_len += put_builds(builds + builds_len, member);
    }
    node->told_lease_ms = lease_until(node);
    vdp_replication_positions_t fields = {node->role.term, node->majority, node->told_lease_ms,
                                          vd_slice(builds, builds_len), node->fresh.fresh_ms};
    repl_storage_tell(node->storage, &vdp_replication_positions, &fields, vd_slice(records, len));
}

/* Twice in a turn, see above. True: something was put on the link to storage. */
static bool send_due(void *context)
{
    repl_node_t *node = context;
    bool told = false;
    repl_fresh_look(node);
    bool fresher = node->fresh.fresh_ms != node->fresh.told_ms;
    node->fresh.told_ms = node->fresh.fresh_ms;
    bool renewed = node->told_lease_ms != lease_until(node);
    if ((node->positions_due || renewed || fresher) && repl_leads(node)) {
        tell_positions(node);
        told = true;
    }
    node->positions_due = false;
    if (node->majority_due && repl_leads(node)) {
        repl_ship_majority(node);
    } else if (node->majority_due || (fresher && !repl_leads(node))) {
        vdp_replication_positions_t fields = {.term = node->role.term,
                                              .majority = node->pull.majority,
                                              .fresh_ms = node->fresh.fresh_ms};
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
    vd_buf_init(&node->config_doc, VDP_SET_CONFIG_MAX);
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
        .greet = repl_peer_greet,
        .check = repl_peer_check,
        .up = peer_up,
        .item = repl_peer_item,
        .lost = peer_lost,
        .context = node,
    };
    repl_storage_options_t storage = {
        .path = vd_daemon_socket_path(daemon, "storage-replicad", "replication", path, sizeof path),
        .node = node->name,
        .state = storage_state,
        .lost = storage_lost,
        .cut_off = storage_cut_off,
        .ask = storage_ask,
        .audit_head = repl_heads_own,
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
    .openssl_memory = VD_OPENSSL_KEYS,
    .prepare = replicad_prepare,
    .start = replicad_start,
    .drain = replicad_drain,
    .stop = replicad_stop,
    .status = replicad_status,
    .ask = replicad_ask,
};
