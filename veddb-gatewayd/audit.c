/* veddb-gatewayd/audit.c — see audit.h. */
#include "veddb-gatewayd/audit.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define COMMAND_MAX_BYTES (256 * 1024)
#define ROLES_MAX_BYTES   (32 * 1024)
#define ROLES_MAX         64
#define OUTSIDE_WAIT_MS   10000
#define TOKEN_NAME_MAX    64

struct gate_audit {
    gate_flight_t flight;
    gate_request_t *request; /* NULL: its client has left */
    gate_thread_t *thread;
    vd_bb_t bb; /* the command that carries the events */
    uint32_t count;
    bool sent, done, login;
    uint8_t *body; /* a section: kind 0 and the command */
    vd_slice_t document;
};

static void audit_free(gate_audit_t *audit)
{
    vd_bb_done(&audit->bb);
    vd_free(audit->body);
    vd_free(audit);
}

static gate_audit_t *audit_new(gate_thread_t *thread)
{
    gate_audit_t *audit = vd_xalloc(sizeof *audit);
    audit->thread = thread;
    vd_bb_init(&audit->bb, COMMAND_MAX_BYTES);
    vd_bb_int32(&audit->bb, "_vdAudit", 1);
    vd_bb_begin_array(&audit->bb, "events");
    return audit;
}

/* ---- notes ---- */

static gate_audit_t *audit_get(gate_request_t *request)
{
    gate_audit_t *audit = request->audit;
    if (!request->thread->gate->settings.audit || request->conn == NULL)
        return NULL;
    if (audit == NULL) {
        audit = request->audit = audit_new(request->thread);
        audit->request = request;
    }
    return audit->sent || audit->count == GATE_AUDIT_EVENTS_MAX ? NULL : audit;
}

static void put_user(vd_bb_t *bb, vd_slice_t user, vd_slice_t db)
{
    vd_bb_begin_array(bb, "users");
    if (user.len > 0) {
        vd_bb_begin_document(bb, "0");
        vd_bb_string(bb, "user", user);
        vd_bb_string(bb, "db", db);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

/* Those that were granted, as MongoDB's messages have them. */
static void put_roles(vd_bb_t *bb, const gate_user_t *user)
{
    char name[12];
    vd_bb_begin_array(bb, "roles");
    for (uint32_t i = 0; user != NULL && i < user->direct_count && i < ROLES_MAX; i++) {
        vd_bb_open_document(bb, vd_array_name(i, name));
        vd_bb_string(bb, "role", user->direct[i].role);
        vd_bb_string(bb, "db", user->direct[i].db);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

/* "10.0.0.1:27017" as MongoDB has an end of a connection. */
static void put_end(vd_bb_t *bb, const char *name, const char *end)
{
    const char *colon = strrchr(end, ':');
    size_t len = colon == NULL ? strlen(end) : (size_t)(colon - end);
    vd_bb_begin_document(bb, name);
    vd_bb_string(bb, "ip", vd_slice(end, len));
    vd_bb_int32(bb, "port", colon == NULL ? 0 : (int32_t)strtol(colon + 1, NULL, 10));
    vd_bb_close(bb);
}

static void who(const gate_request_t *request, vd_slice_t *ret_user, vd_slice_t *ret_db)
{
    const gate_user_t *user = request->conn->user;
    *ret_user = user == NULL ? VD_SLICE_NULL : user->name;
    *ret_db = user == NULL ? VD_SLICE_NULL : user->db;
}

/* Opens the next event up to its param; the caller fills that, then event_end. */
static vd_bb_t *event_begin(gate_audit_t *audit, const char *atype, vd_slice_t user, vd_slice_t db)
{
    vd_bb_t *bb = &audit->bb;
    const gate_conn_t *conn = audit->request->conn;
    char name[12];
    vd_bb_open_document(bb, vd_array_name(audit->count++, name));
    vd_bb_cstr(bb, "atype", atype);
    vd_bb_date(bb, "ts", vd_wall_ms());
    put_user(bb, user, db);
    put_roles(bb, conn->user);
    put_end(bb, "remote", conn->client);
    vd_bb_begin_document(bb, "param");
    if (audit->thread->audit_suppressed > 0) {
        vd_bb_int64(bb, "suppressed", (int64_t)audit->thread->audit_suppressed);
        audit->thread->audit_suppressed = 0;
    }
    return bb;
}

static void event_end(vd_bb_t *bb, int result)
{
    vd_bb_close(bb);
    vd_bb_int32(bb, "result", -result);
    vd_bb_close(bb);
}

/* Whether one more refusal of this second has a record of its own. */
static bool refusal_fits(gate_thread_t *thread)
{
    uint64_t second = vd_loop_now_ms(thread->loop) / 1000;
    if (thread->audit_second != second) {
        thread->audit_second = second;
        thread->audit_refusals = 0;
    }
    if (thread->audit_refusals++ < GATE_AUDIT_REFUSALS_MAX)
        return true;
    thread->audit_suppressed++;
    return false;
}

/* ---- on the way to storage ---- */

static int send_events(gate_audit_t *audit,
                       void (*done)(void *context, const gate_answer_t *answer), vd_error_t *err)
{
    vd_bson_t command;
    vd_bb_close(&audit->bb);
    vd_bb_cstr(&audit->bb, "$db", "admin");
    int rc = vd_bb_finish(&audit->bb, &command, err);
    if (rc != VD_OK)
        return rc;
    audit->body = vd_xalloc(command.len + 1);
    memcpy(audit->body + 1, command.data, command.len);
    audit->flight = (gate_flight_t){.resend = true, /* an event twice is no gap */
                                    .body = vd_slice(audit->body, command.len + 1),
                                    .done = done,
                                    .context = audit};
    audit->flight.command = (vdp_operation_command_t){.name = VD_SLICE_LIT("_vdAudit"),
                                                      .db = VD_SLICE_LIT("admin"),
                                                      .flags = VDP_COMMAND_INTERNAL,
                                                      .user = VD_SLICE_LIT(GATE_SYSTEM_USER),
                                                      .txn_number = -1};
    return gate_upstream_send(audit->thread->upstream, &audit->flight, err);
}

static void note_answered(void *context, const gate_answer_t *answer)
{
    gate_audit_t *audit = context;
    if (answer->rc != VD_OK || answer->reply->status != VD_OK)
        vd_log(VD_LOG_WARN, "an audit event could not be kept", "error=%d",
               answer->rc != VD_OK ? answer->rc : (int)answer->reply->status);
    audit_free(audit);
}

/* ---- from elsewhere ---- */

static vd_slice_t clean(vd_slice_t name)
{
    if (name.len > 256)
        name.len = 256;
    return vd_utf8_valid(name) ? name : VD_SLICE_LIT("(not UTF-8)");
}

static void put_note(vd_bb_t *bb, const gate_audit_note_t *note)
{
    vd_bb_int32(bb, "_vdAudit", 1);
    vd_bb_begin_array(bb, "events");
    vd_bb_begin_document(bb, "0");
    vd_bb_cstr(bb, "atype", note->atype);
    vd_bb_date(bb, "ts", vd_wall_ms());
    put_user(bb, note->user == NULL ? VD_SLICE_NULL : clean(note->user->name),
             note->user == NULL ? VD_SLICE_NULL : clean(note->user->db));
    put_roles(bb, note->user);
    if (note->client != NULL) {
        put_end(bb, "remote", note->client);
    } else {
        vd_bb_begin_document(bb, "remote");
        vd_bb_cstr(bb, "unix", "control");
        vd_bb_close(bb);
    }
    vd_bb_begin_document(bb, "param");
    vd_bb_cstr(bb, "command", note->param);
    if (note->subject.len != 0) {
        vd_bb_string(bb, "user", clean(note->subject));
        vd_bb_string(bb, "db", clean(note->subject_db));
    }
    if (note->detail != NULL)
        vd_bb_cstr(bb, "detail", note->detail);
    vd_bb_close(bb);
    vd_bb_int32(bb, "result", -note->result);
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_bb_cstr(bb, "$db", "admin");
}

int gate_audit_outside(gate_t *gate, const gate_audit_note_t *note, vd_error_t *err)
{
    uint64_t second = vd_monotonic_ms() / 1000;
    vd_bb_t bb;
    vd_buf_t reply;
    vd_bson_t command;
    if (!gate->settings.audit)
        return VD_OK;
    if (note->result != VD_OK) {
        if (atomic_exchange(&gate->audit_second, second) != second)
            atomic_store(&gate->audit_refusals, 0);
        if (atomic_fetch_add(&gate->audit_refusals, 1) >= GATE_AUDIT_REFUSALS_MAX)
            return VD_OK;
    }
    vd_bb_init(&bb, COMMAND_MAX_BYTES);
    vd_buf_init(&reply, 64 * 1024);
    put_note(&bb, note);
    int rc = vd_bb_finish(&bb, &command, err);
    if (rc == VD_OK)
        rc = gate_internal_call(gate, GATE_CALL_IDEMPOTENT, VD_SLICE_LIT("admin"), command,
                                OUTSIDE_WAIT_MS, &reply, err);
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "an audit event could not be kept", "atype=%s error=%d", note->atype,
               -rc);
    vd_bb_done(&bb);
    vd_buf_done(&reply);
    return rc;
}

static void metadata_put(gate_audit_t *audit, vd_bson_t client)
{
    vd_slice_t user, db;
    who(audit->request, &user, &db);
    vd_bb_t *bb = event_begin(audit, "clientMetadata", user, db);
    put_end(bb, "localEndpoint", audit->request->conn->server);
    vd_bb_document(bb, "clientMetadata", client);
    event_end(bb, VD_OK);
}

/* A line a second at most: where the log of audit is full, the other log may be soon. */
static void metadata_lost(gate_thread_t *thread, int rc)
{
    uint64_t second = vd_loop_now_ms(thread->loop) / 1000;
    if (thread->audit_metadata_lost != second)
        vd_log(VD_LOG_WARN, "audit events could not be kept", "atype=clientMetadata error=%d", -rc);
    thread->audit_metadata_lost = second;
}

static void metadata_answered(void *context, const gate_answer_t *answer)
{
    gate_audit_t *audit = context;
    int rc = answer->rc != VD_OK ? answer->rc : (int)answer->reply->status;
    if (rc != VD_OK)
        metadata_lost(audit->thread, rc);
    audit_free(audit);
}

static bool metadata_fits(gate_thread_t *thread)
{
    uint64_t second = vd_loop_now_ms(thread->loop) / 1000;
    if (thread->audit_metadata_second != second)
        thread->audit_metadata = 0;
    thread->audit_metadata_second = second;
    return thread->audit_metadata++ < GATE_AUDIT_METADATA_MAX;
}

void gate_audit_metadata(gate_request_t *request, vd_bson_t client)
{
    gate_thread_t *thread = request->thread;
    vd_error_t err = VD_ERROR_INIT;
    if (!thread->gate->settings.audit || request->conn == NULL ||
        vd_bson_validate(vd_slice(client.data, client.len), VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX,
                         NULL) != VD_OK)
        return; /* no document is no evidence */
    if (thread->upstream == NULL || !metadata_fits(thread)) {
        vd_free(request->conn->metadata);
        request->conn->metadata = vd_xalloc(GATE_METADATA_MAX);
        memcpy(request->conn->metadata, client.data, client.len);
        return;
    }
    gate_audit_t *audit = audit_new(thread);
    audit->request = request;
    metadata_put(audit, client);
    audit->request = NULL;
    audit->sent = true;
    int rc = send_events(audit, metadata_answered, &err);
    if (rc == VD_OK)
        return;
    metadata_lost(thread, rc);
    audit_free(audit);
}

/* What was said on a connection that has just become somebody's. */
static void metadata_late(gate_request_t *request)
{
    gate_conn_t *conn = request->conn;
    gate_audit_t *audit = conn->metadata == NULL ? NULL : audit_get(request);
    vd_bson_t client;
    if (audit != NULL &&
        vd_bson_peek(vd_slice(conn->metadata, GATE_METADATA_MAX), &client, NULL) == VD_OK)
        metadata_put(audit, client);
    vd_free(conn->metadata);
    conn->metadata = NULL;
}

void gate_audit_login(gate_request_t *request, vd_slice_t user, vd_slice_t db, int result)
{
    if (result != VD_OK && request->thread->gate->settings.audit && !refusal_fits(request->thread))
        return;
    gate_audit_t *audit = audit_get(request);
    if (audit == NULL)
        return;
    if (user.len > 256)
        user.len = 256;
    if (!vd_utf8_valid(user))
        user = VD_SLICE_LIT("(not UTF-8)");
    vd_bb_t *bb = event_begin(audit, "authenticate", result == VD_OK ? user : VD_SLICE_NULL, db);
    vd_bb_string(bb, "user", user);
    vd_bb_string(bb, "db", db);
    vd_bb_string(bb, "command", request->name);
    event_end(bb, result);
    audit->login = audit->login || result == VD_OK;
    if (result == VD_OK)
        metadata_late(request);
}

void gate_audit_logout(gate_request_t *request)
{
    vd_slice_t user, db;
    gate_audit_t *audit = request->conn->user == NULL ? NULL : audit_get(request);
    if (audit == NULL)
        return;
    who(request, &user, &db);
    event_end(event_begin(audit, "logout", user, db), VD_OK);
}

/* A name that storage takes: what is none must not cost the event. */
static bool is_name(vd_value_t v)
{
    return v.type == VD_BSON_STRING && v.len < 1024 && vd_utf8_valid(vd_value_string(v));
}

/* Of the command limits: whose, and which values. */
static void put_limits(vd_bb_t *bb, const gate_request_t *request)
{
    vd_bson_t body = gate_request_body(request);
    vd_value_t set = vd_bson_get(body, "set"), user = vd_bson_get(body, "user");
    vd_bson_iter_t each;
    int64_t value;
    if (strcmp(request->command->name, "limits") != 0)
        return;
    if (is_name(user))
        vd_bb_value(bb, VD_SLICE_LIT("user"), user);
    if (vd_value_as_flag(vd_bson_get(body, "reset")))
        vd_bb_bool(bb, "reset", true);
    if (set.type != VD_BSON_OBJECT)
        return;
    vd_bb_begin_document(bb, "set");
    vd_bson_iter_init(&each, vd_value_document(set));
    for (uint32_t i = 0; i < GATE_LIMITS && vd_bson_iter_next(&each); i++) {
        gate_limit_t limit = gate_limit_by_name(each.name);
        if (limit != GATE_LIMITS && vd_value_as_int64(each.value, &value))
            vd_bb_int64(bb, gate_limit_rows[limit].name, value);
    }
    vd_bb_close(bb);
}

/* A token has dots, its name has none: what is no name of one may be a secret. */
static void put_token_name(vd_bb_t *bb, vd_bson_t body, const char *field)
{
    vd_value_t v = vd_bson_get(body, field);
    if (is_name(v) && vd_value_string(v).len <= TOKEN_NAME_MAX && v.len > 1 &&
        memchr(vd_value_string(v).data, '.', vd_value_string(v).len) == NULL)
        vd_bb_value(bb, vd_slice_str(field), v);
}

/* What of a command may stand in the log: what it is done to, roles; no password, no content. */
static void put_param(vd_bb_t *bb, const gate_request_t *request)
{
    vd_bson_t body = gate_request_body(request);
    vd_value_t first = request->first, roles = vd_bson_get(body, "roles"),
               to = vd_bson_get(body, "to");
    vd_bb_cstr(bb, "command", request->command->name);
    vd_slice_t db = vd_utf8_valid(request->db) ? request->db : VD_SLICE_LIT("(not UTF-8)");
    vd_bb_string(bb, "db", db);
    if (is_name(first))
        vd_bb_value(bb, VD_SLICE_LIT("name"), first);
    put_token_name(bb, body, "jti");
    put_token_name(bb, body, "session");
    if (is_name(to))
        vd_bb_value(bb, VD_SLICE_LIT("to"), to);
    if (roles.type == VD_BSON_ARRAY && roles.len < ROLES_MAX_BYTES &&
        vd_bson_validate(vd_slice(roles.data, roles.len), VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX,
                         NULL) == VD_OK)
        vd_bb_value(bb, VD_SLICE_LIT("roles"), roles);
    put_limits(bb, request);
    if ((request->command->flags & GATE_COLLECTION_ARGUMENT) != 0 && is_name(first)) {
        vd_slice_t name = vd_value_string(first);
        char *ns =
            vd_arena_printf(request->arena, "%.*s.%.*s", VD_SLICE_FMT(db), VD_SLICE_FMT(name));
        vd_bb_cstr(bb, "ns", ns);
    }
}

void gate_audit_command(gate_request_t *request, int result)
{
    const gate_command_t *command = request->command;
    if (!request->thread->gate->settings.audit || request->conn == NULL || command == NULL ||
        request->db.len == 0)
        return;
    bool refused = result == VD_ERR_UNAUTHORIZED;
    bool sasl = command->check == GATE_CHECK_OPEN; /* logins note themselves */
    if (!refused && ((command->flags & GATE_AUDITED) == 0 || sasl))
        return;
    if (refused && !refusal_fits(request->thread))
        return;
    gate_audit_t *audit = audit_get(request);
    vd_slice_t user, db;
    if (audit == NULL)
        return;
    who(request, &user, &db);
    vd_bb_t *bb = event_begin(audit, refused ? "authCheck" : command->name, user, db);
    put_param(bb, request);
    event_end(bb, result);
}

/* ---- what was held until storage had it ---- */

static void answered(void *context, const gate_answer_t *answer)
{
    gate_audit_t *audit = context;
    gate_request_t *request = audit->request;
    vd_error_t err = VD_ERROR_INIT;
    if (request == NULL) {
        audit_free(audit);
        return;
    }
    audit->done = true;
    int rc = answer->rc != VD_OK ? answer->rc : (int)answer->reply->status;
    if (rc == VD_OK) {
        gate_request_finish_raw(request, audit->document);
        return;
    }
    (void)vd_error_set(&err, answer->rc != VD_OK ? rc : VD_ERR_AUDIT_FULL,
                       "the audit log did not take what it must have of this command: %s",
                       answer->rc != VD_OK && answer->err != NULL ? answer->err->message
                                                                  : "see the log of storage");
    if (audit->login && request->conn != NULL)
        gate_user_drop(&request->conn->user);
    gate_request_finish(request, rc, &err);
}

/* ---- what nobody waits for ---- */

static void told(void *context, const gate_answer_t *answer)
{
    gate_audit_t *audit = context;
    int rc = answer->rc != VD_OK ? answer->rc : (int)answer->reply->status;
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "refusals by limits are not in the audit log", "error=%d kinds=%u", -rc,
               audit->count);
    audit_free(audit);
}

static void put_refusals(gate_audit_t *audit, const gate_note_t *note)
{
    vd_bb_t *bb = &audit->bb;
    vd_slice_t who = vd_slice_str(note->who), db = VD_SLICE_NULL;
    const char *at = strrchr(note->who, '@');
    char name[12];
    if (note->scope == GATE_SCOPE_USER && at != NULL) {
        who = vd_slice(note->who, (size_t)(at - note->who));
        db = vd_slice_str(at + 1);
    }
    vd_bb_open_document(bb, vd_array_name(audit->count++, name));
    vd_bb_cstr(bb, "atype", "limitExceeded");
    vd_bb_date(bb, "ts", vd_wall_ms());
    put_user(bb, db.len != 0 ? who : VD_SLICE_NULL, db);
    vd_bb_begin_document(bb, "remote");
    if (note->scope == GATE_SCOPE_ADDRESS) {
        vd_bb_string(bb, "ip", who);
        vd_bb_int32(bb, "port", 0);
    }
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "param");
    vd_bb_cstr(bb, "kind", gate_refusal_names[note->kind]);
    vd_bb_cstr(bb, "scope", gate_scope_names[note->scope]);
    vd_bb_string(bb, "who", vd_slice_str(note->who));
    vd_bb_int64(bb, "count", (int64_t)note->count);
    vd_bb_date(bb, "since", note->since_ms);
    event_end(bb, VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED);
}

void gate_audit_limits(gate_thread_t *thread, const gate_note_t *notes, uint32_t count)
{
    vd_error_t err = VD_ERROR_INIT;
    if (!thread->gate->settings.audit || thread->upstream == NULL)
        return;
    gate_audit_t *audit = audit_new(thread);
    for (uint32_t i = 0; i < count; i++)
        put_refusals(audit, &notes[i]);
    audit->sent = true;
    if (send_events(audit, told, &err) == VD_OK)
        return;
    vd_log(VD_LOG_WARN, "refusals by limits are not in the audit log", "error=\"%s\" kinds=%u",
           err.message, count);
    audit_free(audit);
}

bool gate_audit_hold(gate_request_t *request, vd_slice_t document)
{
    gate_audit_t *audit = request->audit;
    vd_error_t err = VD_ERROR_INIT;
    if (audit == NULL || audit->done || audit->count == 0 || request->conn == NULL)
        return false;
    VD_ASSERT(!audit->sent);
    audit->sent = true;
    audit->document = vd_arena_copy_slice(request->arena, document);
    if (send_events(audit, answered, &err) == VD_OK)
        return true;
    audit->done = true;
    if (audit->login)
        gate_user_drop(&request->conn->user);
    gate_request_finish(request, err.code, &err); /* comes back here, done */
    return true;
}

void gate_audit_drop(gate_request_t *request)
{
    gate_audit_t *audit = request->audit;
    request->audit = NULL;
    if (audit == NULL)
        return;
    audit->request = NULL;
    if (!audit->sent && audit->count > 0) { /* the client has left before its reply */
        vd_error_t err = VD_ERROR_INIT;
        audit->sent = true;
        if (!audit->thread->stopping && send_events(audit, answered, &err) == VD_OK)
            return;
        vd_log(VD_LOG_WARN, "an audit event could not be kept", "error=\"%s\"", err.message);
    }
    if (!audit->sent || audit->done || audit->flight.id == 0)
        audit_free(audit);
}

/* ---- what belongs to no request ---- */

typedef struct {
    gate_thread_t *thread;
    char atype[32], detail[400];
    int result;
} own_event_t;

/* On its thread. */
static void note_send(void *context)
{
    own_event_t *note = context;
    vd_error_t err = VD_ERROR_INIT;
    gate_audit_t *audit = vd_xalloc(sizeof *audit);
    vd_bb_t *bb = &audit->bb;
    char name[12];
    audit->thread = note->thread;
    vd_bb_init(bb, COMMAND_MAX_BYTES);
    vd_bb_int32(bb, "_vdAudit", 1);
    vd_bb_begin_array(bb, "events");
    vd_bb_open_document(bb, vd_array_name(0, name));
    vd_bb_cstr(bb, "atype", note->atype);
    vd_bb_date(bb, "ts", vd_wall_ms());
    put_user(bb, VD_SLICE_NULL, VD_SLICE_NULL);
    vd_bb_begin_document(bb, "param");
    vd_bb_cstr(bb, "detail", note->detail);
    event_end(bb, note->result);
    int rc = note->thread->stopping
                 ? vd_error_set(&err, VD_ERR_SHUTDOWN_IN_PROGRESS, "the gateway stops")
                 : send_events(audit, note_answered, &err);
    if (rc != VD_OK) {
        vd_log(VD_LOG_WARN, "an audit event could not be kept", "atype=%s error=%d", note->atype,
               rc);
        audit_free(audit);
    }
    vd_free(note);
}

void gate_audit_note(gate_t *gate, const char *atype, int result, const char *format, ...)
{
    va_list args;
    if (!gate->settings.audit || gate->thread_count == 0)
        return;
    own_event_t *note = vd_xalloc(sizeof *note);
    note->thread = gate->threads[0];
    note->result = result;
    (void)snprintf(note->atype, sizeof note->atype, "%s", atype);
    va_start(args, format);
    (void)vsnprintf(note->detail, sizeof note->detail, format, args);
    va_end(args);
    for (char *c = note->detail; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c > '~')
            *c = '?'; /* what storage takes */
    (void)pthread_mutex_lock(&gate->call_lock);
    bool stopping = gate->stopping;
    if (!stopping)
        vd_loop_post(note->thread->loop, note_send, note);
    (void)pthread_mutex_unlock(&gate->call_lock);
    if (stopping)
        vd_free(note);
}

void gate_audit_handshake(gate_thread_t *thread, const char *client, const char *why)
{
    thread->audit_handshakes++;
    (void)snprintf(thread->audit_handshake, sizeof thread->audit_handshake, "%.64s: %.180s", client,
                   why);
}

void gate_audit_tick(gate_thread_t *thread)
{
    if (thread->audit_handshakes == 0)
        return;
    gate_audit_note(thread->gate, "tlsHandshakeRefused", VD_ERR_AUTHENTICATION_FAILED,
                    "%u refused; the last was %s", thread->audit_handshakes,
                    thread->audit_handshake);
    thread->audit_handshakes = 0;
}
