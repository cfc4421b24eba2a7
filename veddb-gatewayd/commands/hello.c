/* veddb-gatewayd/commands/hello.c — hello and isMaster: what drivers learn about this node, once,
 * awaited, or as a stream.
 *
 * A hello that waits is parked on a timer and in the thread's list of watchers; no thread waits
 * with it. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/commands/handlers.h"
#include "veddb-gatewayd/commands/login.h"
#include "veddb-gatewayd/commands/sasl.h"
#include "veddb-gatewayd/commands/x509.h"
#include "veddb-gatewayd/compress.h"

#define AWAIT_MAX_MS (60ull * 60 * 1000)

static bool is_legacy_spelling(const gate_request_t *request)
{
    return request->name.len != 5; /* "hello" */
}

static int take_metadata(gate_request_t *request, vd_error_t *err)
{
    gate_conn_t *conn = request->conn;
    vd_value_t client = vd_bson_get(gate_request_body(request), "client");
    if (vd_value_is_missing(client))
        return VD_OK;
    if (client.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "The client metadata document must be a document");
    if (conn->metadata_seen)
        return vd_error_set(err, VD_ERR_CLIENT_METADATA_CANNOT_BE_MUTATED,
                            "The client metadata document may only be sent in the first hello");
    vd_bson_t document = vd_value_document(client);
    if (document.len > GATE_METADATA_MAX)
        return vd_error_set(err, VD_ERR_LOCATION(51759),
                            "The client metadata document must be less then or equal to %d bytes",
                            GATE_METADATA_MAX);
    vd_value_t name = vd_bson_get_path(document, VD_SLICE_LIT("application.name"));
    if (name.type == VD_BSON_STRING) {
        vd_slice_t text = vd_value_string(name);
        if (text.len > GATE_APP_NAME_MAX)
            return vd_error_set(err, VD_ERR_LOCATION(51760),
                                "The 'client.application.name' field must be less then or equal to "
                                "%d bytes in length",
                                GATE_APP_NAME_MAX);
        memcpy(conn->app, text.data, text.len);
        conn->app[text.len] = 0;
    }
    conn->metadata_seen = true;
    gate_audit_metadata(request, document);
    vd_value_t driver = vd_bson_get_path(document, VD_SLICE_LIT("driver.name")),
               version = vd_bson_get_path(document, VD_SLICE_LIT("driver.version"));
    char quoted[3][160];
    VD_DEBUG("client metadata", "conn=%llu app=%s driver=%s version=%s",
             (unsigned long long)conn->id,
             vd_log_quote(vd_slice_str(conn->app), quoted[0], sizeof quoted[0]),
             vd_log_quote(driver.type == VD_BSON_STRING ? vd_value_string(driver) : VD_SLICE_NULL,
                          quoted[1], sizeof quoted[1]),
             vd_log_quote(version.type == VD_BSON_STRING ? vd_value_string(version) : VD_SLICE_NULL,
                          quoted[2], sizeof quoted[2]));
    return VD_OK;
}

static void write_compression(gate_request_t *request, vd_bb_t *reply)
{
    const gate_settings_t *settings = &request->thread->gate->settings;
    vd_value_t wanted = vd_bson_get(gate_request_body(request), "compression");
    if (wanted.type != VD_BSON_ARRAY)
        return;
    char key[12];
    uint32_t n = 0;
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(wanted));
    while (n < GATE_COMPRESSOR_COUNT && vd_bson_iter_next(&each)) {
        uint8_t id;
        if (each.value.type != VD_BSON_STRING ||
            !gate_compressor_by_name(vd_value_string(each.value), &id))
            continue;
        for (uint32_t i = 0; i < settings->compressor_count; i++) {
            if (settings->compressors[i] != id)
                continue;
            if (n == 0)
                vd_bb_begin_array(reply, "compression");
            vd_bb_value(reply, vd_array_name(n++, key), each.value);
        }
    }
    if (n != 0)
        vd_bb_close(reply);
}

/* ---- the replica set ---- */

static void put_write(vd_bb_t *reply, const char *optime, const char *date, uint64_t ts,
                      uint64_t term, int64_t date_ms)
{
    vd_bb_begin_document(reply, optime);
    vd_bb_timestamp(reply, "ts", ts);
    vd_bb_int64(reply, "t", (int64_t)term);
    vd_bb_close(reply);
    vd_bb_date(reply, date, date_ms);
}

/* In a set the dates are those of the timestamps, which all members draw from one clock: drivers
 * compare members by them (maxStalenessSeconds). */
static void write_last_write(gate_request_t *request, const gate_member_t *member, vd_bb_t *reply)
{
    const gate_storage_state_t *state = &request->thread->state;
    uint64_t majority = state->majority < state->newest ? state->majority : state->newest;
    bool alone = !member->in_set;
    vd_bb_begin_document(reply, "lastWrite");
    put_write(reply, "opTime", "lastWriteDate", state->newest, member->term,
              alone ? state->last_write_ms : (int64_t)(state->newest >> 32) * 1000);
    put_write(reply, "majorityOpTime", "majorityWriteDate", alone ? state->durable : majority,
              member->term, alone ? state->last_write_ms : (int64_t)(majority >> 32) * 1000);
    vd_bb_close(reply);
}

static void copy_array(vd_bb_t *reply, vd_bson_t set, const char *name, bool also_empty)
{
    vd_value_t v = vd_bson_get(set, name);
    vd_slice_t first_name;
    vd_value_t first;
    if (v.type == VD_BSON_ARRAY &&
        (also_empty || vd_bson_first(vd_value_document(v), &first_name, &first)))
        vd_bb_array(reply, name, vd_value_document(v));
}

static vd_slice_t text_of(vd_bson_t set, const char *name)
{
    vd_value_t v = vd_bson_get(set, name);
    return v.type == VD_BSON_STRING ? vd_value_string(v) : VD_SLICE_NULL;
}

static void put_state(gate_request_t *request, const gate_member_t *member, vd_bb_t *reply)
{
    vd_bb_bool(reply, is_legacy_spelling(request) ? "ismaster" : "isWritablePrimary",
               member->primary);
    vd_bb_bool(reply, "secondary", member->secondary);
}

/* ObjectId 7fffffff and the term: with setVersion what drivers tell an old primary by. */
static void put_election(const gate_member_t *member, vd_bb_t *reply)
{
    uint8_t election[12] = {0x7F, 0xFF, 0xFF, 0xFF};
    vd_put_u64_be(election + 4, member->term);
    vd_bb_objectid(reply, "electionId", election);
}

/* One that is in no set (any more) must not be taken for a member: drivers leave it alone. */
static void write_no_set(gate_request_t *request, vd_bb_t *reply)
{
    static const gate_member_t nothing;
    put_state(request, &nothing, reply);
    vd_bb_cstr(reply, "info", "Does not have a valid replica set config");
    vd_bb_bool(reply, "isreplicaset", true);
}

/* A set of this node alone, which needs nobody to tell it so. */
static void write_alone(gate_request_t *request, const gate_member_t *member, vd_bb_t *reply)
{
    gate_t *gate = request->thread->gate;
    vd_slice_t me = vd_slice_str(gate->settings.address);
    vd_bb_begin_array(reply, "hosts");
    vd_bb_string(reply, "0", me);
    vd_bb_close(reply);
    vd_bb_cstr(reply, "setName", gate->settings.replica_set);
    vd_bb_int32(reply, "setVersion", 1);
    put_state(request, member, reply);
    if (member->primary)
        vd_bb_string(reply, "primary", me);
    vd_bb_string(reply, "me", me);
    if (member->primary)
        put_election(member, reply);
    if (member->ready)
        write_last_write(request, member, reply);
}

/* What the configuration says of this member alone, where it is not the usual. */
static void write_own(vd_bson_t set, vd_bb_t *reply)
{
    int64_t delay = 0;
    vd_value_t tags = vd_bson_get(set, "tags");
    vd_slice_t name;
    vd_value_t first;
    if (vd_value_as_flag(vd_bson_get(set, "passive")))
        vd_bb_bool(reply, "passive", true);
    if (vd_value_as_flag(vd_bson_get(set, "hidden")))
        vd_bb_bool(reply, "hidden", true);
    if (vd_value_as_int64(vd_bson_get(set, "secondaryDelaySecs"), &delay) && delay > 0)
        vd_bb_int64(reply, "secondaryDelaySecs", delay);
    if (tags.type == VD_BSON_OBJECT && vd_bson_first(vd_value_document(tags), &name, &first))
        vd_bb_document(reply, "tags", vd_value_document(tags));
}

static void write_member(gate_request_t *request, const gate_member_t *member, vd_bb_t *reply)
{
    gate_t *gate = request->thread->gate;
    vd_bson_t set = member->set;
    vd_slice_t me = text_of(set, "me"), primary = text_of(set, "primary");
    int64_t version = 1;
    (void)vd_value_as_int64(vd_bson_get(set, "setVersion"), &version); /* replicad always says */
    if (me.len == 0)
        me = vd_slice_str(gate->settings.address);
    copy_array(reply, set, "hosts", true);
    copy_array(reply, set, "passives", false);
    vd_bb_cstr(reply, "setName", gate->settings.replica_set);
    vd_bb_int32(reply, "setVersion", (int32_t)version);
    put_state(request, member, reply);
    /* The role and who leads come from two sources: what we are ourselves is never in doubt. */
    if (member->primary)
        vd_bb_string(reply, "primary", me);
    else if (primary.len != 0 && !vd_slice_equal(primary, me))
        vd_bb_string(reply, "primary", primary);
    write_own(set, reply);
    vd_bb_string(reply, "me", me);
    if (member->primary)
        put_election(member, reply);
    if (member->ready)
        write_last_write(request, member, reply);
}

static void write_hello(gate_request_t *request)
{
    gate_t *gate = request->thread->gate;
    vd_bb_t *reply = &request->reply;
    vd_bson_t body = gate_request_body(request);
    gate_member_t member;
    gate_member_read(gate, request->arena, &member);
    if (vd_value_as_flag(vd_bson_get(body, "helloOk")))
        vd_bb_bool(reply, "helloOk", true);
    vd_bb_begin_document(reply, "topologyVersion");
    vd_bb_objectid(reply, "processId", gate->topology.process_id);
    vd_bb_int64(reply, "counter", member.counter); /* of this copy: a later one is another hello */
    vd_bb_close(reply);
    /* Also a primary whose replicad has not told yet who else there is: a list of hosts without the
     * others would make drivers leave them. */
    bool no_set =
        member.role == VDP_ROLE_REMOVED || (member.in_set && vd_bson_is_empty(member.set));
    if (no_set)
        write_no_set(request, reply);
    else if (member.in_set)
        write_member(request, &member, reply);
    else
        write_alone(request, &member, reply);
    vd_bb_int32(reply, "maxBsonObjectSize", VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_int32(reply, "maxMessageSizeBytes", VD_WIRE_MESSAGE_MAX_BYTES);
    vd_bb_int32(reply, "maxWriteBatchSize", VD_WRITE_BATCH_MAX);
    vd_bb_date(reply, "localTime", vd_wall_ms());
    vd_bb_int32(reply, "logicalSessionTimeoutMinutes", gate_session_minutes(gate));
    vd_bb_int32(reply, "connectionId", (int32_t)(request->conn->id & INT32_MAX));
    vd_bb_int32(reply, "minWireVersion", 0);
    vd_bb_int32(reply, "maxWireVersion", GATE_MAX_WIRE_VERSION);
    vd_bb_bool(reply, "readOnly", false);
    write_compression(request, reply);
    if (vd_bson_get(body, "saslSupportedMechs").type == VD_BSON_STRING) {
        /* The same for every name: it must not tell who exists. */
        vd_bb_begin_array(reply, "saslSupportedMechs");
        vd_bb_cstr(reply, "0", "SCRAM-SHA-256");
        vd_bb_close(reply);
    }
}

static void answer_watch(gate_request_t *request);

static void watch(gate_request_t *request)
{
    vd_error_t err = VD_ERROR_INIT;
    atomic_fetch_add_explicit(&request->thread->gate->stats.awaiting_hello, 1,
                              memory_order_relaxed);
    vd_list_push_back(&request->thread->watchers, &request->node);
    if (gate_request_park(request, request->watch_ms, answer_watch, &err) != VD_OK)
        answer_watch(request); /* too early an answer is no harm */
}

static void answer_watch(gate_request_t *request)
{
    if (vd_node_linked(&request->node)) {
        vd_list_remove(&request->node);
        atomic_fetch_sub_explicit(&request->thread->gate->stats.awaiting_hello, 1,
                                  memory_order_relaxed);
    }
    vd_loop_remove(&request->timer);
    write_hello(request);
    if (!request->exhaust) {
        gate_request_finish(request, VD_OK, NULL);
        return;
    }
    /* Each reply of a stream is as one to a command of its own. */
    if (gate_request_stream(request) && !gate_request_meets_fault(request, watch))
        watch(request);
}

void gate_hello_wake(gate_thread_t *thread)
{
    vd_list_t changed;
    vd_list_init(&changed);
    vd_node_t *node;
    while ((node = vd_list_pop_front(&thread->watchers)) != NULL)
        vd_list_push_back(&changed, node);
    while ((node = vd_list_first(&changed)) !=
           NULL) /* answering may close the connection of another */
        answer_watch(VD_CONTAINER_OF(node, gate_request_t, node));
}

/* topologyVersion and maxAwaitTimeMS: both or none. *ret_await: the client knows the present state
 * and waits for another. */
static int read_await(gate_request_t *request, bool *ret_await, bool *ret_stream, vd_error_t *err)
{
    gate_t *gate = request->thread->gate;
    vd_bson_t body = gate_request_body(request);
    vd_value_t version = vd_bson_get(body, "topologyVersion"),
               await = vd_bson_get(body, "maxAwaitTimeMS");
    *ret_await = *ret_stream = false;
    if (vd_value_is_missing(version) && vd_value_is_missing(await))
        return VD_OK;
    if (vd_value_is_missing(version))
        return vd_error_set(err, VD_ERR_LOCATION(31368),
                            "A request with 'maxAwaitTimeMS' must include a 'topologyVersion'");
    if (vd_value_is_missing(await))
        return vd_error_set(err, VD_ERR_LOCATION(31368),
                            "A request with a 'topologyVersion' must include 'maxAwaitTimeMS'");
    int64_t ms, counter;
    if (version.type != VD_BSON_OBJECT || !vd_value_as_int64(await, &ms) || ms < 0)
        return vd_error_set(err, VD_ERR_LOCATION(31373),
                            "maxAwaitTimeMS must be a non-negative integer");
    vd_value_t process = vd_bson_get(vd_value_document(version), "processId");
    if (process.type != VD_BSON_OBJECTID ||
        !vd_value_as_int64(vd_bson_get(vd_value_document(version), "counter"), &counter) ||
        counter < 0)
        return vd_error_set(err, VD_ERR_LOCATION(31372),
                            "topologyVersion must have a non-negative counter and a processId");
    int64_t now = atomic_load(&gate->topology.counter);
    *ret_stream = request->exhaust;
    request->watch_ms = (uint64_t)ms < AWAIT_MAX_MS ? (uint64_t)ms : AWAIT_MAX_MS;
    if (memcmp(vd_value_objectid(process), gate->topology.process_id, 12) != 0)
        return VD_OK; /* of another process: answer at once */
    if (counter > now)
        return vd_error_set(err, VD_ERR_LOCATION(31382),
                            "Received a topology version with counter: %lld which is greater than "
                            "the server topology version counter: %lld",
                            (long long)counter, (long long)now);
    *ret_await = counter == now;
    return VD_OK;
}

static void speculated(gate_request_t *request)
{
    write_hello(request);
    gate_sasl_speculated(request, &request->reply);
    gate_login_put_speculated(request, &request->reply);
    gate_request_finish(request, VD_OK, NULL);
}

int gate_command_hello(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    (void)reply; /* request->reply, also in the parked forms */
    bool await, stream;
    int rc = take_metadata(request, err);
    if (rc == VD_OK)
        rc = read_await(request, &await, &stream, err);
    if (rc != VD_OK)
        return rc;
    request->exhaust = stream;
    vd_value_t speculative = vd_bson_get(gate_request_body(request), "speculativeAuthenticate");
    if (await) {
        watch(request);
        return GATE_LATER;
    }
    if (stream) {
        answer_watch(request);
        return GATE_LATER;
    }
    if (speculative.type == VD_BSON_OBJECT && request->conn->user == NULL) {
        vd_bson_t login = vd_value_document(speculative);
        if (!gate_x509_speculate(request, login, speculated))
            gate_sasl_speculate(request, login, speculated);
        return GATE_LATER;
    }
    write_hello(request);
    return VD_OK;
}
