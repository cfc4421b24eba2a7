/* veddb-replicad/ask.c — operators' verbs, from vedctl and from the wire. Contract in node.h.
 *
 * What only the primary can do is passed on to it, at most REPL_HOPS_MAX times. */
#include "veddb-replicad/node.h"

#include <bson/bson.h>
#include <stdlib.h>

#define HOPS_MAX       2
#define ADD_WAIT_MS    10000
#define CHANGE_WAIT_MS 20000 /* for the configuration before, and then for the new one */
#define LOOK_MS        20
#define PASS_MS        28000 /* the supervisor waits for 30 s */

typedef struct {
    vd_node_t node;
    repl_node_t *owner;
    repl_asker_t asker;
    uint64_t ticket, deadline_ms;
    vd_source_t *timer;
    /* a change of the configuration */
    repl_config_t *next;
    int64_t base_version, base_term; /* of the one that `next` was made from */
    uint64_t journaled_at;
    bool force;
    char done_text[400];
    /* add */
    repl_link_t *link;
    bson_t *options;
} ticket_t;

static void say(const repl_asker_t *asker, int code, const char *message, vd_slice_t body)
{
    asker->done(asker->context, code, message, body);
}

static void say_error(const repl_asker_t *asker, const vd_error_t *err)
{
    say(asker, err->code, err->message, VD_SLICE_NULL);
}

static ticket_t *ticket_new(repl_node_t *node, const repl_asker_t *asker)
{
    ticket_t *ticket = vd_xalloc(sizeof *ticket);
    ticket->owner = node;
    ticket->asker = *asker;
    ticket->ticket = ++node->ticket_last;
    vd_list_push_back(&node->tickets, &ticket->node);
    return ticket;
}

static void ticket_free(ticket_t *ticket)
{
    vd_list_remove(&ticket->node);
    vd_loop_remove(&ticket->timer);
    repl_peers_hang_up(&ticket->link);
    if (ticket->options != NULL)
        bson_destroy(ticket->options);
    vd_free(ticket->next);
    vd_free(ticket);
}

static void ticket_end(ticket_t *ticket, int code, const char *message)
{
    say(&ticket->asker, code, message, VD_SLICE_NULL);
    ticket_free(ticket);
}

void repl_ask_answered(repl_node_t *node, uint64_t number, int code, const char *text)
{
    VD_LIST_EACH(&node->tickets, item)
    {
        ticket_t *ticket = VD_CONTAINER_OF(item, ticket_t, node);
        if (ticket->ticket == number) {
            ticket_end(ticket, code, text);
            return;
        }
    }
}

void repl_ask_done(repl_node_t *node)
{
    vd_node_t *item;
    while ((item = vd_list_first(&node->tickets)) != NULL)
        ticket_end(VD_CONTAINER_OF(item, ticket_t, node), VD_ERR_SHUTDOWN_IN_PROGRESS,
                   "replicad is stopping");
}

/* ---- passing on ---- */

static void passed(void *context, const repl_answer_t *answer)
{
    ticket_t *ticket = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_peer_answer_t said = {0};
    vd_slice_t body;
    char message[VDP_PEER_ASK_MAX + 1];
    if (repl_answer_take(answer, &vdp_peer_answer, &said, &body, &err) != VD_OK) {
        ticket_end(ticket, err.code, err.message);
        return;
    }
    (void)snprintf(message, sizeof message, "%.*s", VD_SLICE_FMT(said.message));
    int code = said.code <= 0 && said.code > INT32_MIN ? (int)said.code : VD_ERR_PROTOCOL;
    say(&ticket->asker, code, message, body);
    ticket_free(ticket);
}

static void pass_to(repl_node_t *node, const repl_asker_t *asker, uint32_t member_id,
                    const vdp_peer_ask_t *ask, vd_slice_t body)
{
    repl_member_t *member = repl_member_by_id(node, member_id);
    repl_conn_t *conn = member == NULL ? NULL : repl_link_conn(member->link);
    if (conn == NULL || asker->hops >= HOPS_MAX) {
        bool known = member_id != 0;
        say(asker, known ? VD_ERR_HOST_UNREACHABLE : VD_ERR_NOT_WRITABLE_PRIMARY,
            known ? "that member can't be reached from here" : "no primary is known here",
            VD_SLICE_NULL);
        return;
    }
    ticket_t *ticket = ticket_new(node, asker);
    vdp_peer_ask_t passed_on = *ask;
    passed_on.hops = asker->hops + 1;
    (void)repl_conn_ask(conn, &vdp_peer_ask, &passed_on, body, false, PASS_MS, passed, ticket);
}

/* ---- the configuration is changed: at the primary ----
 *
 * As replSetReconfig of MongoDB: a change waits until the configuration before it is on a majority,
 * and is answered when it is there itself; both within CHANGE_WAIT_MS or the command's maxTimeMS.
 * One that lets in a member is answered at once: its vote may come only with its copy. */

static void committed_look(void *context)
{
    ticket_t *ticket = context;
    repl_node_t *node = ticket->owner;
    if (node->majority >= ticket->journaled_at)
        ticket_end(ticket, VD_OK, ticket->done_text);
    else if (!repl_leads(node))
        ticket_end(ticket, VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE,
                   "this node stopped leading before the new configuration was on a majority");
    else if (repl_now(node) >= ticket->deadline_ms)
        ticket_end(ticket, VD_ERR_CURRENT_CONFIG_NOT_COMMITTED_YET,
                   "the new configuration is in force, but not on a majority of its votes yet");
}

static void look_again(ticket_t *ticket, void (*look)(void *context))
{
    vd_error_t err = VD_ERROR_INIT;
    if (vd_loop_add_timer(ticket->owner->loop, LOOK_MS, LOOK_MS, look, ticket, &ticket->timer,
                          &err) != VD_OK)
        ticket_end(ticket, err.code, err.message);
}

static bool grows(const ticket_t *ticket)
{
    const repl_config_t *next = ticket->next, *before = ticket->owner->config;
    for (uint32_t i = 0; i < next->count; i++)
        if (repl_config_by_id(before, next->members[i].id) == NULL)
            return true;
    return false;
}

static void config_set(void *context, const repl_answer_t *answer)
{
    ticket_t *ticket = context;
    repl_node_t *node = ticket->owner;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_config_set_t set;
    bool lets_in = grows(ticket);
    node->config_under_way = false;
    if (repl_answer_take(answer, &vdp_replication_config_set, &set, NULL, &err) != VD_OK) {
        ticket_end(ticket, err.code, err.message);
        return;
    }
    vd_bb_t bb;
    vd_bson_t doc;
    vd_bb_init(&bb, VDP_SET_CONFIG_MAX);
    if (repl_config_newer(ticket->next->term, ticket->next->version, node->config) &&
        repl_config_build(ticket->next, &bb, &doc, &err) == VD_OK &&
        repl_adopt(node, doc, &err) != VD_OK)
        vd_log(VD_LOG_ERROR, "the new configuration is not adopted", "error=%d", err.code);
    vd_bb_done(&bb);
    node->config_at = ticket->journaled_at = set.timestamp;
    if (ticket->force || lets_in)
        ticket_end(ticket, VD_OK, ticket->done_text);
    else
        look_again(ticket, committed_look);
}

/* The present one is on a majority, and so is an entry of our term: else two changes of which
 * neither knows the other could give two majorities that don't meet. */
static bool is_committed(const repl_node_t *node)
{
    return node->majority != 0 && node->majority >= node->config_at;
}

/* Those who would count from now on answer, in our term: a new vote that does not would stop all,
 * and one that loads votes only for the last whom it heard leading. */
static bool is_answering(repl_node_t *node, const ticket_t *ticket)
{
    uint32_t votes = 0, heard = 0;
    for (uint32_t i = 0; i < ticket->next->count; i++) {
        const repl_member_config_t *next = &ticket->next->members[i];
        const repl_member_t *member = repl_member_by_id(node, next->id);
        bool added = member == NULL && ticket->link != NULL && repl_link_conn(ticket->link) != NULL;
        bool up = member != NULL && member->up && member->said.term == node->role.term;
        votes += next->votes;
        heard += next->votes && (next->id == node->self || added || up);
    }
    return 2 * heard > votes;
}

/* What a change waits for, before anything is said of the change itself. */
static bool must_wait(const ticket_t *ticket)
{
    const repl_node_t *node = ticket->owner;
    return repl_leads(node) && !ticket->force && !node->role.forced &&
           (node->stored_version != node->config->version || !is_committed(node)) &&
           repl_now(node) < ticket->deadline_ms;
}

static int config_hand_over(ticket_t *ticket, vd_error_t *err)
{
    repl_node_t *node = ticket->owner;
    repl_config_t *next = ticket->next;
    bool force = ticket->force;
    vd_bb_t bb;
    vd_bson_t doc;
    if (node->config->version != ticket->base_version || node->config->term != ticket->base_term)
        return vd_error_set(err, VD_ERR_CONFIGURATION_IN_PROGRESS,
                            "the configuration was changed by another meanwhile");
    next->version = node->config->version + 1;
    next->term = (int64_t)node->role.term;
    if (node->config_under_way)
        return vd_error_set(err, VD_ERR_CONFIGURATION_IN_PROGRESS,
                            "another change of the configuration is under way");
    if (!repl_leads(node))
        return vd_error_set(err, VD_ERR_NOT_WRITABLE_PRIMARY, "this node does not lead");
    if (node->stored_version != node->config->version)
        return vd_error_set(err, VD_ERR_CURRENT_CONFIG_NOT_COMMITTED_YET,
                            "the present configuration is not journaled yet");
    /* One that an operator forced to lead has no majority: its others are to be removed. */
    bool unchecked = force || node->role.forced;
    if (!unchecked && !is_committed(node))
        return vd_error_set(err, VD_ERR_CURRENT_CONFIG_NOT_COMMITTED_YET,
                            "the present configuration is not on a majority of its votes yet");
    int rc = repl_config_check(next, err);
    if (rc == VD_OK)
        rc = repl_config_follows(node->config, next, force, err);
    const repl_member_config_t *self = repl_config_by_id(next, node->self);
    if (rc == VD_OK && (self == NULL || !self->votes))
        rc = vd_error_set(err, VD_ERR_NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE,
                          "the primary can't remove itself, nor its vote: step down first");
    if (rc == VD_OK && !unchecked && !is_answering(node, ticket))
        rc = vd_error_set(err, VD_ERR_NODE_NOT_FOUND,
                          "a majority of the new configuration's votes does not answer");
    if (rc != VD_OK)
        return rc;
    vd_bb_init(&bb, VDP_SET_CONFIG_MAX);
    rc = repl_config_build(next, &bb, &doc, err);
    if (rc == VD_OK) {
        vdp_replication_config_t fields = {next->version};
        node->config_under_way = true;
        (void)repl_storage_ask(node->storage, &vdp_replication_config, &fields,
                               vd_slice(doc.data, doc.len), 30000, config_set, ticket);
    }
    vd_bb_done(&bb);
    return rc;
}

static ticket_t *ticket_for_change(repl_node_t *node, const repl_asker_t *asker)
{
    ticket_t *ticket = ticket_new(node, asker);
    ticket->next = vd_xalloc(sizeof *ticket->next);
    *ticket->next = *node->config;
    ticket->deadline_ms = repl_now(node) + CHANGE_WAIT_MS;
    return ticket;
}

static void change_look(void *context)
{
    ticket_t *ticket = context;
    vd_error_t err = VD_ERROR_INIT;
    if (must_wait(ticket))
        return;
    vd_loop_remove(&ticket->timer);
    if (config_hand_over(ticket, &err) != VD_OK)
        ticket_end(ticket, err.code, err.message);
}

/* `next` was made, or could not be (rc, err). */
static void change(ticket_t *ticket, int rc, bool force, vd_error_t *err)
{
    ticket->force = force;
    ticket->base_version = ticket->owner->config->version;
    ticket->base_term = ticket->owner->config->term;
    if (rc != VD_OK)
        ticket_end(ticket, err->code, err->message);
    else if (must_wait(ticket))
        look_again(ticket, change_look);
    else
        change_look(ticket);
}

/* ---- add: the new node is asked who it is ---- */

static void add_look(void *context)
{
    ticket_t *ticket = context;
    repl_node_t *node = ticket->owner;
    repl_conn_t *conn = repl_link_conn(ticket->link);
    vd_error_t err = VD_ERROR_INIT;
    if (conn == NULL) {
        if (repl_now(node) < ticket->deadline_ms)
            return;
        (void)vd_error_set(&err, VD_ERR_NODE_NOT_FOUND, "%s does not answer as a node: %s",
                           repl_link_address(ticket->link), repl_link_error(ticket->link));
        ticket_end(ticket, err.code, err.message);
        return;
    }
    if (repl_leads(node) && !is_committed(node) && repl_now(node) < ticket->deadline_ms)
        return; /* one that was added just now has its copy soon */
    vd_loop_remove(&ticket->timer);
    const repl_greeting_t *greeting = repl_conn_greeting(conn);
    vd_bson_t options = {bson_get_data(ticket->options), ticket->options->len};
    *ticket->next = *node->config;
    (void)snprintf(ticket->done_text, sizeof ticket->done_text,
                   "%s (%s) was added; it takes a snapshot now", greeting->node, greeting->host);
    int rc = repl_config_add(ticket->next, greeting->node, greeting->host,
                             repl_link_address(ticket->link), options, &err);
    change(ticket, rc, false, &err);
}

static void verb_add(repl_node_t *node, const repl_asker_t *asker, const vdp_peer_ask_t *ask,
                     vd_slice_t body)
{
    (void)body;
    char address[VDP_PEER_ADDRESS_MAX + 1], host[VDP_PEER_ADDRESS_MAX + 1];
    uint16_t port;
    vd_error_t err = VD_ERROR_INIT;
    bson_error_t why;
    (void)snprintf(address, sizeof address, "%.*s", VD_SLICE_FMT(ask->argument));
    if (ask->argument.len >= sizeof address ||
        !repl_address_parse(address, host, sizeof host, &port)) {
        say(asker, VD_ERR_BAD_VALUE, "the node's replication address is needed: host:port",
            VD_SLICE_NULL);
        return;
    }
    if (repl_config_find(node->config, ask->argument) != NULL) {
        say(asker, VD_ERR_INVALID_REPLICA_SET_CONFIG, "it is a member already", VD_SLICE_NULL);
        return;
    }
    bson_t *options =
        ask->argument2.len == 0
            ? bson_new()
            : bson_new_from_json(ask->argument2.data, (ssize_t)ask->argument2.len, &why);
    if (options == NULL) {
        say(asker, VD_ERR_FAILED_TO_PARSE, "the options are not JSON", VD_SLICE_NULL);
        return;
    }
    ticket_t *ticket = ticket_for_change(node, asker);
    ticket->options = options;
    ticket->deadline_ms = repl_now(node) + ADD_WAIT_MS;
    ticket->link = repl_peers_dial(node->peers, address);
    if (vd_loop_add_timer(node->loop, 1, 50, add_look, ticket, &ticket->timer, &err) != VD_OK)
        ticket_end(ticket, err.code, err.message);
}

static void verb_remove(repl_node_t *node, const repl_asker_t *asker, const vdp_peer_ask_t *ask,
                        vd_slice_t body)
{
    (void)body;
    vd_error_t err = VD_ERROR_INIT;
    ticket_t *ticket = ticket_for_change(node, asker);
    (void)snprintf(ticket->done_text, sizeof ticket->done_text, "%.*s was removed",
                   (int)(ask->argument.len < 150 ? ask->argument.len : 150),
                   (const char *)ask->argument.data);
    change(ticket, repl_config_remove(ticket->next, ask->argument, &err), false, &err);
}

/* The whole new configuration: BSON in the body, or JSON as argument2. Its version must follow. */
static void verb_reconfig(repl_node_t *node, const repl_asker_t *asker, const vdp_peer_ask_t *ask,
                          vd_slice_t body)
{
    vd_error_t err = VD_ERROR_INIT;
    bson_error_t why;
    bson_t *parsed = NULL;
    bool force = vd_slice_is(ask->argument, "force");
    ticket_t *ticket = ticket_for_change(node, asker);
    (void)snprintf(ticket->done_text, sizeof ticket->done_text, "reconfigured");
    int rc = VD_OK;
    if (body.len == 0 && ask->argument2.len != 0) {
        parsed = bson_new_from_json(ask->argument2.data, (ssize_t)ask->argument2.len, &why);
        if (parsed == NULL)
            rc = vd_error_set(&err, VD_ERR_FAILED_TO_PARSE, "the configuration is not JSON");
        else
            body = vd_slice(bson_get_data(parsed), parsed->len);
    }
    if (rc == VD_OK)
        rc = vd_bson_validate(body, VD_BSON_CHECK_UTF8, 16, &err);
    if (rc == VD_OK) {
        vd_bson_t doc = {body.data, (uint32_t)body.len};
        vd_value_t wrapped = vd_bson_get(doc, "replSetReconfig"); /* the command as a whole */
        if (wrapped.type == VD_BSON_OBJECT) {
            int64_t limit;
            if (vd_value_as_int64(vd_bson_get(doc, "maxTimeMS"), &limit) && limit > 0 &&
                limit < CHANGE_WAIT_MS)
                ticket->deadline_ms = repl_now(node) + (uint64_t)limit;
            force = force || vd_value_as_flag(vd_bson_get(doc, "force"));
            doc = vd_value_document(wrapped);
        }
        rc = repl_config_parse(doc, node->config, ticket->next, &err);
        if (rc == VD_OK && !force && ticket->next->version != node->config->version + 1)
            rc = vd_error_set(&err, VD_ERR_NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE,
                              "version %lld must be %lld", (long long)ticket->next->version,
                              (long long)node->config->version + 1);
    }
    change(ticket, rc, force, &err);
    if (parsed != NULL)
        bson_destroy(parsed);
}

/* ---- roles ---- */

static uint64_t seconds_of(vd_slice_t text, uint64_t otherwise)
{
    char copy[24];
    if (text.len == 0 || text.len >= sizeof copy)
        return otherwise;
    (void)snprintf(copy, sizeof copy, "%.*s", VD_SLICE_FMT(text));
    return strtoull(copy, NULL, 10);
}

static void verb_promote(repl_node_t *node, const repl_asker_t *asker, const vdp_peer_ask_t *ask,
                         vd_slice_t body)
{
    (void)body;
    ticket_t *ticket = ticket_new(node, asker);
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_PROMOTE,
                                         .force = vd_slice_is(ask->argument2, "force"),
                                         .ticket = ticket->ticket});
}

/* Of the command on the wire; 0: it does not say, or vedctl asks. */
static int64_t catch_up_of(vd_slice_t body)
{
    int64_t seconds = 0;
    vd_bson_t command = {body.data, (uint32_t)body.len};
    bool given = body.len != 0 &&
                 vd_bson_validate(body, VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX, NULL) == VD_OK &&
                 vd_value_as_int64(vd_bson_get(command, "secondaryCatchUpPeriodSecs"), &seconds);
    return given && seconds > 0 ? seconds : 0;
}

static void verb_step_down(repl_node_t *node, const repl_asker_t *asker, const vdp_peer_ask_t *ask,
                           vd_slice_t body)
{
    bool force = vd_slice_is(ask->argument2, "force");
    int64_t catch_up_s = catch_up_of(body);
    const repl_member_config_t *to =
        force || ask->argument2.len == 0 ? NULL : repl_config_find(node->config, ask->argument2);
    if (to == NULL && ask->argument2.len != 0 && !force) {
        say(asker, VD_ERR_NODE_NOT_FOUND, "no such successor", VD_SLICE_NULL);
        return;
    }
    ticket_t *ticket = ticket_new(node, asker);
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_STEP_DOWN,
                                         .to = to == NULL ? 0 : to->id,
                                         .force = force,
                                         .wait_ms = seconds_of(ask->argument, 60) * 1000,
                                         .catch_up_ms = (uint64_t)catch_up_s * 1000,
                                         .ticket = ticket->ticket});
}

static void verb_freeze(repl_node_t *node, const repl_asker_t *asker, const vdp_peer_ask_t *ask,
                        vd_slice_t body)
{
    (void)body;
    ticket_t *ticket = ticket_new(node, asker);
    repl_lead_event(node, (repl_event_t){.kind = REPL_EVENT_FREEZE,
                                         .wait_ms = seconds_of(ask->argument, 0) * 1000,
                                         .ticket = ticket->ticket});
}

static void verb_force_sync(repl_node_t *node, const repl_asker_t *asker, const vdp_peer_ask_t *ask,
                            vd_slice_t body)
{
    (void)body, (void)ask;
    int code = VD_OK;
    const char *text = "drops its data and takes a snapshot";
    if (node->role.state != REPL_FOLLOWER)
        code = VD_ERR_ILLEGAL_OPERATION, text = "only a member that follows can load its data anew";
    else if (node->role.leader == 0)
        code = VD_ERR_NOT_WRITABLE_PRIMARY, text = "no primary is known: nobody to copy from";
    else if (node->resync.state != REPL_RESYNC_NONE)
        code = VD_ERR_CONFLICTING_OPERATION_IN_PROGRESS, text = "a snapshot is being taken already";
    if (code == VD_OK) {
        uint32_t member = node->pull.member;
        repl_pull_follow(node, 0, false);
        node->pull.drop_term = node->role.term;
        repl_pull_follow(node, member, false);
    }
    say(asker, code, text, VD_SLICE_NULL);
}

/* ---- shown ---- */

static void show(repl_node_t *node, const repl_asker_t *asker,
                 int (*print)(repl_node_t *node, vd_buf_t *out))
{
    vd_buf_t out;
    vd_buf_init(&out, VDP_SET_STATUS_MAX);
    int rc = print(node, &out);
    vd_slice_t body = rc == VD_OK ? vd_buf_slice(&out) : VD_SLICE_NULL;
    bson_t *doc = NULL;
    bson_error_t why;
    if (rc == VD_OK && asker->wire) {
        doc = bson_new_from_json(body.data, (ssize_t)body.len, &why);
        rc = doc == NULL ? VD_ERR_INTERNAL : VD_OK;
        body = doc == NULL ? VD_SLICE_NULL : vd_slice(bson_get_data(doc), doc->len);
    }
    say(asker, rc, rc == VD_OK ? "" : "the answer can't be made", body);
    if (doc != NULL)
        bson_destroy(doc);
    vd_buf_done(&out);
}

static void verb_status(repl_node_t *node, const repl_asker_t *asker, const vdp_peer_ask_t *ask,
                        vd_slice_t body)
{
    (void)ask, (void)body;
    show(node, asker, repl_status_json);
}

static void verb_list(repl_node_t *node, const repl_asker_t *asker, const vdp_peer_ask_t *ask,
                      vd_slice_t body)
{
    (void)ask, (void)body;
    show(node, asker, repl_list_json);
}

/* HERE: this node. PRIMARY: passed on to it. NAMED: to the member of `argument`, or this one.
 * Step-down is for whom it is said to: passed on, a second one would depose the successor. */
static const struct {
    const char *name;
    enum { HERE, PRIMARY, NAMED } where;
    void (*handle)(repl_node_t *node, const repl_asker_t *asker, const vdp_peer_ask_t *ask,
                   vd_slice_t body);
} verbs[] = {
    {"status", HERE, verb_status},          {"list", HERE, verb_list},
    {"freeze", HERE, verb_freeze},          {"add", PRIMARY, verb_add},
    {"remove", PRIMARY, verb_remove},       {"reconfig", PRIMARY, verb_reconfig},
    {"step-down", HERE, verb_step_down},    {"promote", NAMED, verb_promote},
    {"force-sync", NAMED, verb_force_sync},
};

void repl_ask(repl_node_t *node, const repl_asker_t *asker, vd_slice_t verb, vd_slice_t argument,
              vd_slice_t argument2, vd_slice_t body)
{
    vdp_peer_ask_t ask = {verb, argument, argument2, asker->hops};
    vd_error_t err = VD_ERROR_INIT;
    for (size_t i = 0; i < VD_COUNT_OF(verbs); i++) {
        if (!vd_slice_is(verb, verbs[i].name))
            continue;
        if (verbs[i].where != HERE && node->config->version == 0) {
            say(asker, VD_ERR_NOT_YET_INITIALIZED,
                "no configuration of the replica set yet: add this node at the primary",
                VD_SLICE_NULL);
            return;
        }
        uint32_t to = node->self;
        if (verbs[i].where == PRIMARY && !repl_leads(node) && node->role.state != REPL_HANDING_OVER)
            to = node->role.leader;
        if (verbs[i].handle == verb_reconfig && asker->wire && to != node->self) {
            say(asker, VD_ERR_NOT_WRITABLE_PRIMARY, /* as MongoDB: a client asks the primary */
                "replSetReconfig should only be run on a writable PRIMARY", VD_SLICE_NULL);
            return;
        }
        if (verbs[i].where == NAMED && argument.len != 0) {
            const repl_member_config_t *member = repl_config_find(node->config, argument);
            if (member == NULL) {
                say(asker, VD_ERR_NODE_NOT_FOUND, "no such member", VD_SLICE_NULL);
                return;
            }
            to = member->id;
        }
        if (verbs[i].where == HERE || (to == node->self && to != 0))
            verbs[i].handle(node, asker, &ask, body);
        else
            pass_to(node, asker, to, &ask, body);
        return;
    }
    (void)vd_error_set(&err, VD_ERR_COMMAND_NOT_FOUND, "no verb %.*s", VD_SLICE_FMT(verb));
    say_error(asker, &err);
}
