/* veddb-gatewayd/request_storage.c — a request on its way to storage: what it carries of its user
 * and its client, what becomes of the answer, and replies that were kept. */
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/quota/throttle.h"
#include "veddb-gatewayd/recheck.h"
#include "veddb-gatewayd/request_private.h"

#define ROLE_LIST_MAX_BYTES (1024 * 1024)
#define TRIES_MAX           200 /* storage asked to try again so often */
#define TRY_AGAIN_MS        5
#define STATE_FRESH_MS      3000 /* storage says its state every second */

/* ---- what storage answers ---- */

/* The code of a reply's writeConcernError, negative; 0 without one. */
static int concern_code(const gate_request_t *request, vd_bson_t body)
{
    int64_t code = 0;
    if ((request->command->flags & GATE_WRITES) == 0)
        return VD_OK;
    vd_value_t concern = vd_bson_get(body, "writeConcernError");
    if (concern.type == VD_BSON_OBJECT &&
        vd_value_as_int64(vd_bson_get(vd_value_document(concern), "code"), &code) && code > 0 &&
        code <= INT32_MAX)
        return (int)-code;
    return VD_OK;
}

/* An error of storage, of the command or of its write concern, gets what only we know: labels, and
 * the topologyVersion that tells a driver whether it has heard of the change already. */
static vd_slice_t add_facts(gate_request_t *request, int status, vd_slice_t document)
{
    vd_bson_t body = {document.data, (uint32_t)document.len}, whole;
    int concern = concern_code(request, body);
    unsigned labels = 0;
    unsigned facts = request->facts | (concern != VD_OK ? GATE_REPLY_CONCERN_FAILED : 0);
    if (status != VD_OK)
        labels |= gate_request_labels(request, status, facts);
    if (concern != VD_OK)
        labels |= gate_reply_labels(concern, facts);
    if (labels != 0 && !vd_value_is_missing(vd_bson_get(body, "errorLabels")))
        labels = 0;
    bool draining = atomic_load_explicit(&request->thread->gate->draining, memory_order_relaxed);
    bool state_change = gate_reply_is_state_change(status, draining) ||
                        gate_reply_is_state_change(concern, draining);
    if (labels == 0 && !state_change)
        return document;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, request->arena, GATE_REQUEST_REPLY_MAX_BYTES);
    vd_bb_concat(&bb, body);
    if (labels != 0)
        gate_reply_label_array(&bb, labels);
    if (state_change)
        gate_topology_version(request->thread->gate, &bb);
    if (vd_bb_finish(&bb, &whole, NULL) != VD_OK)
        return document;
    return vd_slice(whole.data, whole.len);
}

static void deliver(gate_request_t *request, const gate_answer_t *answer)
{
    if (request->answered != NULL && !request->no_reply) {
        void (*answered)(gate_request_t *, const gate_answer_t *) = request->answered;
        request->answered = NULL;
        answered(request, answer);
        return;
    }
    if (answer->rc != VD_OK) {
        gate_request_fail(request, answer->err);
        return;
    }
    if (request->no_reply) { /* nor has storage sent one */
        gate_request_finish_raw(request, VD_SLICE_NULL);
        return;
    }
    if (answer->body.len < 5) {
        vd_error_t err = VD_ERROR_INIT;
        (void)vd_error_set(&err, VD_ERR_INTERNAL,
                           "storage sent an empty reply"); /* the code is the reply's */
        gate_request_fail(request, &err);
        return;
    }
    if (request->cache_key != NULL && answer->reply->status == VD_OK)
        gate_cache_put(request->thread->cache, request->cache_key, answer->reply, answer->body);
    gate_audit_command(request, (int)answer->reply->status);
    gate_request_finish_bounded(request,
                                add_facts(request, (int)answer->reply->status, answer->body));
}

/* A getMore whose cursor was opened when users were others: may its user still have all that it
 * reads ($lookup and the like)? As MongoDB looks at the privileges that a cursor was opened by. */
static void allow_cursor(gate_request_t *request, const gate_answer_t *answer)
{
    vd_error_t err = VD_ERROR_INIT;
    gate_access_grant_t grant;
    vd_slice_t name = VD_SLICE_NULL;
    vd_value_t first;
    vdp_sections_t sections = {0};
    const gate_command_t *opened = NULL;
    const gate_user_t *user = request->conn->user;
    vd_value_t originating =
        answer->body.len < 5
            ? VD_VALUE_MISSING
            : vd_bson_get((vd_bson_t){answer->body.data, (uint32_t)answer->body.len},
                          "originating");
    if (originating.type == VD_BSON_OBJECT) {
        sections.body = vd_value_document(originating);
        if (vd_bson_first(sections.body, &name, &first))
            opened = gate_command_find(name);
    }
    int rc = opened == NULL || user == NULL ? VD_ERR_UNAUTHORIZED
                                            : gate_access_check(opened, request->db, &sections,
                                                                &user->principal, &grant, &err);
    if (rc != VD_OK) {
        vd_error_clear(&err);
        (void)vd_error_set(&err, VD_ERR_UNAUTHORIZED,
                           "not authorized for getMore with this cursor");
    } else if (request->tries++ == TRIES_MAX) {
        rc = vd_error_set(&err, VD_ERR_TEMPORARILY_UNAVAILABLE, "users change all the time");
    }
    gate_recheck_forget(request);
    request->cursor_allowed = rc == VD_OK;
    if (rc == VD_OK)
        rc = gate_request_forward(request, &err);
    if (rc != VD_OK)
        gate_request_fail(request, &err);
}

static void storage_answered(void *context, const gate_answer_t *answer)
{
    gate_request_t *request = context;
    if (request->conn == NULL) { /* a write that wanted no answer, of a client who has left */
        gate_upstream_connection_closed(request->thread->upstream, request->closed_connection);
        gate_request_finished(request);
        return;
    }
    gate_throttle_answered(request, answer);
    if (answer->rc == VD_ERR_AGAIN && request->tries < TRIES_MAX) {
        /* Users or roles changed: look again who this is and what they may do, then send again. */
        vd_error_t err = VD_ERROR_INIT;
        request->tries++;
        gate_recheck_forget(request);
        if (gate_request_park(request, TRY_AGAIN_MS, gate_request_authorize, &err) != VD_OK)
            gate_request_fail(request, &err);
        return;
    }
    if (answer->rc == VD_OK && (answer->reply->flags & VDP_REPLY_CLOSE) != 0) {
        gate_recheck_forget(request);
        request->fault.close = true;
        gate_request_finished(request);
        return;
    }
    if (answer->rc == VD_OK && (answer->reply->flags & VDP_REPLY_AUTHORIZE) != 0) {
        allow_cursor(request, answer);
        return;
    }
    if (answer->rc == VD_ERR_AGAIN || !gate_recheck_hold(request, answer, deliver))
        deliver(request, answer);
}

/* ---- replies that are kept ---- */

bool gate_request_from_cache(gate_request_t *request)
{
    gate_thread_t *thread = request->thread;
    const gate_user_t *user = request->conn->user;
    const gate_storage_state_t *state = &thread->state;
    gate_cache_key_t *key = &thread->cache_key;
    if ((request->command->flags & GATE_KEPT) == 0 || !gate_cache_wants(thread->cache) ||
        user == NULL || request->legacy || request->exhaust || request->no_reply ||
        request->has_txn || request->fault.active ||
        request->message.sections.sequence_count != 0 ||
        !gate_cache_key(gate_request_body(request), key))
        return false;
    vd_slice_t kept = VD_SLICE_NULL;
    uint64_t now_ms = vd_loop_now_ms(thread->loop);
    /* A storage that is silent may have been overtaken by another member. */
    if (state->attached && state->ready && now_ms - state->heard_ms < STATE_FRESH_MS)
        kept = gate_cache_find(thread->cache,
                               &(gate_cache_question_t){key, user->epoch, state->newest,
                                                        request->has_lsid ? request->lsid : NULL,
                                                        now_ms});
    if (kept.len == 0) {
        request->cache_key = vd_arena_copy(request->arena, key, sizeof *key);
        return false;
    }
    /* What is shown is as it was when storage was on disk so far. */
    gate_reply_times_t times = {state->durable, gate_times(thread).cluster_time};
    uint8_t *document = vd_arena_copy(request->arena, kept.data, kept.len);
    if (!gate_reply_renew(document, kept.len, &times))
        return false;
    gate_request_finish_bounded(request, vd_slice(document, kept.len));
    return true;
}

/* ---- what it is sent ---- */

/* Its roles, kept with the user. False: there are too many to tell. */
static bool role_list(gate_user_t *user, vd_slice_t *ret_list)
{
    if (user->role_list.data == NULL) {
        vd_bb_t bb;
        char key[12];
        vd_bb_init_arena(&bb, user->privileges.arena, ROLE_LIST_MAX_BYTES);
        for (uint32_t i = 0; i < user->principal.role_count; i++) {
            const gate_role_ref_t *role = &user->principal.roles[i];
            vd_bb_open_document(&bb, vd_array_name(i, key));
            vd_bb_cstr(&bb, "_id",
                       vd_arena_printf(user->privileges.arena, "%.*s.%.*s", VD_SLICE_FMT(role->db),
                                       VD_SLICE_FMT(role->role)));
            vd_bb_string(&bb, "role", role->role);
            vd_bb_string(&bb, "db", role->db);
            vd_bb_close(&bb);
        }
        if (vd_bb_finish(&bb, &user->role_list, NULL) != VD_OK)
            return false;
    }
    *ret_list = vd_slice(user->role_list.data, user->role_list.len);
    return true;
}

/* Which databases and collections this user may see: {all, databases, collections}. */
static vd_slice_t visible_list(gate_request_t *request, const gate_user_t *user)
{
    vd_bb_t bb;
    vd_bson_t document;
    char key[12];
    uint32_t n = 0;
    vd_bb_init_arena(&bb, request->arena, 60000);
    vd_bb_bool(&bb, "all", false);
    vd_bb_begin_array(&bb, "databases");
    for (uint32_t i = 0; i < user->privileges.count; i++) {
        const gate_resource_t *resource = &user->privileges.items[i].resource;
        if (resource->kind == GATE_RESOURCE_DB)
            vd_bb_value(&bb, vd_array_name(n++, key),
                        vd_value_from_string(request->arena, resource->db));
    }
    vd_bb_close(&bb);
    vd_bb_begin_array(&bb, "collections");
    n = 0;
    for (uint32_t i = 0; i < user->privileges.count; i++) {
        const gate_resource_t *resource = &user->privileges.items[i].resource;
        if (resource->kind != GATE_RESOURCE_COLLECTION)
            continue;
        char *name = vd_arena_printf(request->arena, "%.*s.%.*s", VD_SLICE_FMT(resource->db),
                                     VD_SLICE_FMT(resource->collection));
        vd_bb_value(&bb, vd_array_name(n++, key),
                    vd_value_from_string(request->arena, vd_slice_str(name)));
    }
    vd_bb_close(&bb);
    if (vd_bb_finish(&bb, &document, NULL) != VD_OK)
        return VD_SLICE_NULL;
    return vd_slice(document.data, document.len);
}

static bool lists_names(const gate_command_t *command)
{
    return command->check == GATE_CHECK_LIST_DATABASES ||
           command->check == GATE_CHECK_LIST_COLLECTIONS;
}

int gate_request_forward(gate_request_t *request, vd_error_t *err)
{
    gate_conn_t *conn = request->conn;
    const gate_command_t *command = request->command;
    gate_flight_t *flight = &request->flight;
    vdp_operation_command_t *out = &flight->command;
    /* Asked to try again, a request keeps the count of its losses and the end of its waiting. */
    request->recheck_ended = false;
    request->recheck_epoch = 0;
    *flight = (gate_flight_t){.losses = flight->losses, .deadline_ms = flight->deadline_ms};
    out->name = vd_slice_str(command->name);
    out->db = request->db;
    out->flags = request->grant.all_users ? VDP_COMMAND_ALL_USERS : 0;
    if (request->no_reply)
        out->flags |= VDP_COMMAND_NO_REPLY;
    if (request->cache_key != NULL)
        out->flags |= VDP_COMMAND_VERSIONED;
    if (request->cursor_allowed)
        out->flags |= VDP_COMMAND_AUTHORIZED;
    request->cursor_allowed = false; /* by these users, once */
    if (conn->user != NULL) {
        out->user = vd_slice_str(conn->user->name_at_db);
        out->auth_epoch = conn->user->epoch;
        if (!role_list(conn->user, &out->roles))
            return vd_error_set(err, VD_ERR_UNAUTHORIZED, "the user has too many roles");
    }
    out->client = vd_slice_str(conn->client);
    out->app = vd_slice_str(conn->app);
    out->connection_id = conn->id;
    out->txn_number = request->has_txn ? request->txn_number : -1;
    out->max_time_ms = request->max_time_ms;
    if (request->thread->cluster_time > request->thread->state.newest)
        out->cluster_time = request->thread->cluster_time;
    if (request->has_lsid && conn->user != NULL) {
        out->lsid = vd_slice(request->lsid, sizeof request->lsid);
        out->lsid_user = vd_slice(conn->user->lsid_user, sizeof conn->user->lsid_user);
    }
    if (lists_names(command) && !request->grant.all_visible && conn->user != NULL) {
        out->visible = visible_list(request, conn->user);
        if (out->visible.len == 0)
            return vd_error_set(err, VD_ERR_UNAUTHORIZED,
                                "too many privileges on single databases to list by");
    }
    gate_throttle_bounds(request, out);
    flight->body = request->message.section_bytes;
    /* Commands inside a transaction are never sent again: the transaction died with storage. How it
     * ended may be asked as often as one likes. */
    flight->resend = ((command->flags & GATE_TRANSACTION) != 0 && request->has_txn) ||
                     (!request->in_transaction && !request->grant.writes &&
                      ((command->flags & GATE_RETRY_READ) != 0 ||
                       ((command->flags & GATE_RETRY_WRITE) != 0 && request->has_txn)));
    flight->elsewhere = flight->resend;
    flight->done = storage_answered;
    flight->context = request;
    conn->forwarded = true;
    return gate_upstream_send(request->thread->upstream, flight, err);
}

int gate_request_pass_on(gate_request_t *request, vd_error_t *err)
{
    int rc = gate_request_forward(request, err);
    return rc == VD_OK ? GATE_LATER : rc;
}
