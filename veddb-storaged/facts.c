/* veddb-storaged/facts.c — see facts.h.
 *
 * Operations are other threads' requests: under the registry's lock only what never changes after
 * decoding is read (head of the message, body), and copied; documents are made afterwards. */
#include "veddb-storaged/facts.h"

#include "libcommon/base/clock.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/registry.h"
#include "veddb-storaged/transactions.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define COMMAND_MAX_BYTES   (64 * 1024)
#define COMMAND_TRUNCATE_AT 1024

vd_slice_t stor_facts_host(const stor_storage_t *storage, char buf[STOR_FACTS_HOST_SIZE])
{
    if (storage->settings.address != NULL && storage->settings.address[0] != 0) {
        snprintf(buf, STOR_FACTS_HOST_SIZE, "%s", storage->settings.address);
    } else if (gethostname(buf, STOR_FACTS_HOST_SIZE - 1) != 0) {
        snprintf(buf, STOR_FACTS_HOST_SIZE, "localhost");
    }
    buf[STOR_FACTS_HOST_SIZE - 1] = 0;
    return vd_slice_str(buf);
}

void stor_facts_number(vd_bb_t *bb, const char *name, int64_t n)
{
    if (n >= INT32_MIN && n <= INT32_MAX)
        vd_bb_int32(bb, name, (int32_t)n);
    else
        vd_bb_int64(bb, name, n);
}

/* ---- a collection ---- */

void stor_facts_id_index(vd_bb_t *bb, vd_bson_t collation)
{
    vd_bb_int32(bb, "v", 2);
    vd_bb_begin_document(bb, "key");
    vd_bb_int32(bb, "_id", 1);
    vd_bb_close(bb);
    vd_bb_cstr(bb, "name", "_id_");
    if (collation.len > 0)
        vd_bb_document(bb, "collation", collation);
}

/* The figures of the table that are known, under the names that WiredTiger gives them. */
static void storage_engine(vd_bb_t *bb, const stor_collection_t *collection, uint64_t file_bytes,
                           uint64_t free_bytes)
{
    char uri[64];
    vd_bb_begin_document(bb, "wiredTiger");
    vd_bb_cstr(bb, "type", "file");
    snprintf(uri, sizeof uri, "statistics:table:%s", collection->table);
    vd_bb_cstr(bb, "uri", uri);
    vd_bb_begin_document(bb, "block-manager");
    stor_facts_number(bb, "file size in bytes", (int64_t)file_bytes);
    stor_facts_number(bb, "file bytes available for reuse", (int64_t)free_bytes);
    vd_bb_close(bb);
    vd_bb_close(bb);
}

void stor_facts_index_size(const stor_storage_t *storage, const char *table, int64_t *ret_bytes,
                           int64_t *ret_free)
{
    uint64_t file_bytes = 0, free_bytes = 0;
    int rc = stor_engine_table_size(storage->engine, table, &file_bytes, &free_bytes, NULL);
    *ret_bytes = rc == VD_OK ? (int64_t)file_bytes : 0; /* dropped meanwhile */
    *ret_free = rc == VD_OK ? (int64_t)free_bytes : 0;
}

static void indexes_of(vd_bb_t *bb, const stor_storage_t *storage,
                       const stor_collection_t *collection, int64_t table_bytes, int64_t scale)
{
    const stor_index_set_t *set = collection == NULL ? NULL : collection->indexes;
    int64_t sizes[STOR_INDEXES_MAX] = {0}, total = 0, unused;
    uint32_t ready = 0;
    for (uint32_t i = 0; set != NULL && i < set->count; i++) {
        stor_facts_index_size(storage, set->items[i]->table, &sizes[i], &unused);
        ready += atomic_load(&set->items[i]->state) == STOR_INDEX_READY;
        total += sizes[i];
    }
    vd_bb_int32(bb, "nindexes",
                collection == NULL ? 0 : (int32_t)ready + stor_index_plain_id(collection));
    if (collection != NULL) {
        uint32_t at = 0;
        char buf[12];
        vd_bb_begin_array(bb, "indexBuilds");
        for (uint32_t i = 0; set != NULL && i < set->count; i++)
            if (atomic_load(&set->items[i]->state) == STOR_INDEX_BUILDING)
                vd_bb_value(bb, vd_array_name(at++, buf),
                            vd_bson_get(set->items[i]->def->spec, "name"));
        vd_bb_close(bb);
    }
    /* Documents stand in the order of _id: its index is the table itself and has no size of its
     * own. */
    stor_facts_number(bb, "totalIndexSize", total / scale);
    stor_facts_number(bb, "totalSize", (table_bytes + total) / scale);
    vd_bb_begin_document(bb, "indexSizes");
    if (collection != NULL && stor_index_plain_id(collection))
        vd_bb_int32(bb, "_id_", 0);
    for (uint32_t i = 0; set != NULL && i < set->count; i++) {
        uint8_t payload[8];
        vd_put_u64(payload, (uint64_t)(sizes[i] / scale));
        if (atomic_load(&set->items[i]->state) == STOR_INDEX_READY)
            vd_bb_value(bb, set->items[i]->def->name, (vd_value_t){payload, 8, VD_BSON_INT64});
    }
    vd_bb_close(bb);
}

void stor_facts_storage(vd_bb_t *bb, const stor_storage_t *storage,
                        const stor_collection_t *collection, int64_t scale)
{
    VD_ASSERT(scale >= 1);
    uint64_t file_bytes = 0, free_bytes = 0;
    int64_t documents = 0, bytes = 0;
    bool sized = false;
    if (collection != NULL) {
        documents = atomic_load(&collection->documents);
        bytes = atomic_load(&collection->bytes);
        sized = stor_engine_table_size(storage->engine, collection->table, &file_bytes, &free_bytes,
                                       NULL) == VD_OK;
    }
    stor_facts_number(bb, "size", bytes / scale);
    stor_facts_number(bb, "count", documents);
    if (documents > 0)
        stor_facts_number(bb, "avgObjSize", bytes / documents);
    vd_bb_int32(bb, "numOrphanDocs", 0);
    stor_facts_number(bb, "storageSize", (int64_t)file_bytes / scale);
    if (collection != NULL) {
        stor_facts_number(bb, "freeStorageSize", (int64_t)free_bytes / scale);
        vd_bb_bool(bb, "capped", collection->capped.is);
        if (collection->capped.is) {
            stor_facts_number(bb, "max", collection->capped.max);
            stor_facts_number(bb, "maxSize", collection->capped.size / scale);
        }
        if (collection->timeseries.is) { /* each measurement stands by itself */
            vd_bb_begin_document(bb, "timeseries");
            stor_facts_number(bb, "bucketCount", documents);
            stor_facts_number(bb, "avgBucketSize", documents == 0 ? 0 : bytes / documents);
            stor_facts_number(bb, "numMeasurementsCommitted", documents);
            vd_bb_close(bb);
        }
        if (sized)
            storage_engine(bb, collection, file_bytes, free_bytes);
    }
    indexes_of(bb, storage, collection, (int64_t)file_bytes, scale);
    stor_facts_number(bb, "scaleFactor", scale);
}

static void latency_of(vd_bb_t *bb, const char *name, uint64_t us, uint64_t operations)
{
    vd_bb_begin_document(bb, name);
    vd_bb_int64(bb, "latency", (int64_t)us);
    vd_bb_int64(bb, "ops", (int64_t)operations);
    vd_bb_int64(bb, "queryableEncryptionLatencyMicros", 0);
    vd_bb_close(bb);
}

void stor_facts_latency(vd_bb_t *bb, const stor_collection_t *collection)
{
    uint64_t us[2] = {0}, operations[2] = {0};
    for (int i = 0; collection != NULL && i < STOR_TRAFFIC_COUNT; i++) {
        bool writes = i > STOR_TRAFFIC_READ_COMMAND;
        us[writes] += atomic_load(&collection->traffic[i].us);
        operations[writes] += atomic_load(&collection->traffic[i].operations);
    }
    latency_of(bb, "reads", us[0], operations[0]);
    latency_of(bb, "writes", us[1], operations[1]);
    latency_of(bb, "commands", 0, 0);
    latency_of(bb, "transactions", 0, 0);
}

void stor_facts_user(vd_bb_t *bb, const char *name, vd_slice_t user)
{
    size_t at = user.len;
    while (at > 0 && user.data[at - 1] != '@')
        at--;
    vd_bb_begin_document(bb, name);
    vd_bb_string(bb, "user", at == 0 ? user : vd_slice(user.data, at - 1));
    vd_bb_string(bb, "db", at == 0 ? VD_SLICE_NULL : vd_slice(user.data + at, user.len - at));
    vd_bb_close(bb);
}

/* ---- operations ---- */

typedef struct fact {
    struct fact *next;
    bool cursor, idle_session, internal, killed, no_timeout, tailable, awaits;
    uint64_t number, arrived_us, connection_id;
    vd_slice_t name, db, ns, user, client, app, lsid, lsid_user;
    vd_bson_t command;
    const char *truncated; /* the command as cut text, instead */
    const char *plan, *progress;
    uint64_t progress_done, progress_total;
    int64_t cursor_id;
    uint64_t opened_ms, used_ms; /* wall clock */
    uint64_t batches, documents;
    int64_t transaction_number;                 /* -1 */
    const stor_transaction_info_t *transaction; /* alone: of an idle session */
} fact_t;

typedef struct {
    const stor_request_t *asker;
    const stor_operations_options_t *options;
    vd_arena_t *arena;
    fact_t *first, **tail;
    uint32_t count;
} gather_t;

static fact_t *gather_add(gather_t *gather)
{
    fact_t *fact = VD_ARENA_NEW(gather->arena, fact_t);
    *gather->tail = fact;
    gather->tail = &fact->next;
    gather->count++;
    return fact;
}

/* What a client sent was not checked deeply: it is shown only when it is sound. */
static void gather_command(gather_t *gather, fact_t *fact, vd_bson_t command)
{
    size_t max = gather->options->truncate ? COMMAND_TRUNCATE_AT : COMMAND_MAX_BYTES;
    if (command.len > max) {
        fact->truncated = vd_bson_to_json(gather->arena, command, COMMAND_TRUNCATE_AT);
        if (!vd_utf8_valid(vd_slice_str(fact->truncated)))
            fact->truncated = "";
        return;
    }
    if (command.len >= 5 && vd_bson_validate(vd_slice(command.data, command.len),
                                             VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX, NULL) == VD_OK)
        fact->command =
            (vd_bson_t){vd_arena_copy(gather->arena, command.data, command.len), command.len};
}

static bool may_see(const gather_t *gather, vd_slice_t user)
{
    return gather->options->all_users || vd_slice_equal(user, gather->asker->command.user);
}

static void visit_request(stor_request_t *request, void *context)
{
    gather_t *gather = context;
    const vdp_operation_command_t *head = &request->command;
    if (!may_see(gather, head->user))
        return;
    vd_arena_t *arena = gather->arena;
    fact_t *fact = gather_add(gather);
    fact->number = request->number;
    fact->arrived_us = request->arrived_us;
    fact->connection_id = head->connection_id;
    fact->name = vd_arena_copy_slice(arena, head->name);
    fact->db = vd_arena_copy_slice(arena, head->db);
    fact->user = vd_arena_copy_slice(arena, head->user);
    fact->client = vd_arena_copy_slice(arena, head->client);
    fact->app = vd_arena_copy_slice(arena, head->app);
    fact->lsid = vd_arena_copy_slice(arena, head->lsid);
    fact->lsid_user = vd_arena_copy_slice(arena, head->lsid_user);
    fact->transaction_number = __atomic_load_n(&request->transaction_number, __ATOMIC_RELAXED);
    fact->internal = (head->flags & VDP_COMMAND_INTERNAL) != 0;
    fact->killed = atomic_load(&request->killed) != 0;
    fact->plan = __atomic_load_n(&request->plan_summary, __ATOMIC_RELAXED);
    fact->progress = __atomic_load_n(&request->progress_message, __ATOMIC_RELAXED);
    fact->progress_done = __atomic_load_n(&request->progress_done, __ATOMIC_RELAXED);
    fact->progress_total = __atomic_load_n(&request->progress_total, __ATOMIC_RELAXED);
    vd_slice_t name;
    vd_value_t value;
    if (vd_bson_first(request->sections.body, &name, &value)) {
        vd_slice_t collection = VD_SLICE_LIT("$cmd");
        if (value.type == VD_BSON_STRING)
            collection = vd_value_string(value);
        if (value.type == VD_BSON_INT64 && vd_slice_is(name, "getMore")) {
            value = vd_bson_get(request->sections.body, "collection");
            if (value.type == VD_BSON_STRING)
                collection = vd_value_string(value);
        }
        fact->ns = vd_slice_str(
            vd_arena_printf(arena, "%.*s.%.*s", VD_SLICE_FMT(head->db), VD_SLICE_FMT(collection)));
    }
    if (!fact->internal) /* the gateway's own commands carry what proves passwords */
        gather_command(gather, fact, request->sections.body);
}

static void visit_cursor(const stor_client_cursor_info_t *info, void *context)
{
    gather_t *gather = context;
    if (!may_see(gather, info->user))
        return;
    fact_t *fact = gather_add(gather);
    fact->cursor = true;
    fact->cursor_id = info->id;
    fact->ns = vd_arena_copy_slice(gather->arena, info->ns);
    fact->user = vd_arena_copy_slice(gather->arena, info->user);
    fact->lsid = vd_arena_copy_slice(gather->arena, info->lsid);
    uint64_t now = vd_monotonic_ms(), wall = (uint64_t)vd_wall_ms();
    fact->opened_ms = wall - (now - info->opened_ms);
    fact->used_ms = wall - (now - info->last_used_ms);
    fact->batches = info->batches;
    fact->documents = info->documents;
    fact->no_timeout = info->no_timeout;
    fact->tailable = info->tailable;
    fact->awaits = info->awaits;
    fact->tailable = info->tailable;
    fact->awaits = info->awaits;
    gather_command(gather, fact, info->originating);
}

/* A statement's transaction is shown with it, when its session is among the operations. */
static bool shown_with(gather_t *gather, const stor_transaction_info_t *info)
{
    for (fact_t *fact = gather->first; fact != NULL; fact = fact->next)
        if (!fact->cursor && fact->transaction_number == info->number && fact->lsid.len == 16 &&
            fact->lsid_user.len == 32 && memcmp(fact->lsid.data, info->session.bytes, 16) == 0 &&
            memcmp(fact->lsid_user.data, info->session.bytes + 16, 32) == 0) {
            fact->transaction = info;
            return true;
        }
    return false;
}

static void visit_transaction(const stor_transaction_info_t *info, void *context)
{
    gather_t *gather = context;
    if (!may_see(gather, info->user))
        return;
    stor_transaction_info_t *copy = vd_arena_copy(gather->arena, info, sizeof *info);
    copy->user = vd_arena_copy_slice(gather->arena, info->user);
    copy->client = vd_arena_copy_slice(gather->arena, info->client);
    copy->app = vd_arena_copy_slice(gather->arena, info->app);
    if (shown_with(gather, copy) || info->active || !gather->options->idle_sessions)
        return;
    fact_t *fact = gather_add(gather);
    fact->idle_session = true;
    fact->transaction = copy;
    fact->user = copy->user;
    fact->client = copy->client;
    fact->app = copy->app;
    fact->lsid = vd_slice(copy->session.bytes, 16);
    fact->lsid_user = vd_slice(copy->session.bytes + 16, 32);
}

static const char *operation_kind(vd_slice_t name)
{
    static const char *const kinds[][2] = {{"find", "query"},    {"getMore", "getmore"},
                                           {"insert", "insert"}, {"update", "update"},
                                           {"delete", "remove"}, {"killCursors", "killcursors"}};
    for (size_t i = 0; i < VD_COUNT_OF(kinds); i++)
        if (vd_slice_is(name, kinds[i][0]))
            return kinds[i][1];
    return "command";
}

static void append_command(vd_bb_t *bb, const char *name, const fact_t *fact)
{
    vd_bb_begin_document(bb, name);
    if (fact->truncated != NULL)
        vd_bb_cstr(bb, "$truncated", fact->truncated);
    else
        vd_bb_concat(bb, fact->command);
    if (!fact->cursor && vd_value_is_missing(vd_bson_get(fact->command, "$db")))
        vd_bb_string(bb, "$db", fact->db);
    vd_bb_close(bb);
}

static void append_session(vd_bb_t *bb, const fact_t *fact)
{
    if (fact->lsid.len != 16)
        return;
    vd_bb_begin_document(bb, "lsid");
    vd_bb_binary(bb, "id", 4, fact->lsid);
    if (fact->lsid_user.len > 0)
        vd_bb_binary(bb, "uid", 0, fact->lsid_user);
    vd_bb_close(bb);
}

static void append_users(vd_bb_t *bb, const fact_t *fact)
{
    if (fact->user.len == 0)
        return;
    vd_bb_begin_array(bb, "effectiveUsers");
    stor_facts_user(bb, "0", fact->user);
    vd_bb_close(bb);
}

static void time_text(int64_t ms, char text[48])
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    size_t used = strftime(text, 48, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + used, 48 - used, ".%03d+00:00", (int)(ms % 1000));
}

static void append_transaction(vd_bb_t *bb, const stor_transaction_info_t *info)
{
    static const char *const levels[] = {
        [STOR_READ_MAJORITY] = "majority", [STOR_READ_SNAPSHOT] = "snapshot"};
    const char *level = info->read_level < VD_COUNT_OF(levels) ? levels[info->read_level] : NULL;
    char text[48];
    vd_bb_begin_document(bb, "transaction");
    vd_bb_begin_document(bb, "parameters");
    vd_bb_int64(bb, "txnNumber", info->number);
    vd_bb_bool(bb, "autocommit", false);
    vd_bb_begin_document(bb, "readConcern");
    vd_bb_cstr(bb, "level", level == NULL ? "local" : level);
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_bb_timestamp(bb, "readTimestamp", info->snapshot);
    time_text(info->started_wall_ms, text);
    vd_bb_cstr(bb, "startWallClockTime", text);
    vd_bb_int64(bb, "timeOpenMicros", (int64_t)info->opened_us);
    vd_bb_int64(bb, "timeActiveMicros", (int64_t)info->active_us);
    vd_bb_int64(bb, "timeInactiveMicros", (int64_t)(info->opened_us - info->active_us));
    time_text(info->expires_wall_ms, text);
    vd_bb_cstr(bb, "expiryTime", text);
    vd_bb_int64(bb, "changes", (int64_t)info->changes);
    vd_bb_int64(bb, "bytes", (int64_t)info->bytes);
    vd_bb_close(bb);
}

static void append_idle_session(vd_bb_t *bb, const fact_t *fact, const char *now)
{
    vd_bb_cstr(bb, "desc", "inactive transaction");
    if (fact->client.len > 0)
        vd_bb_string(bb, "client", fact->client);
    if (fact->app.len > 0)
        vd_bb_string(bb, "appName", fact->app);
    vd_bb_bool(bb, "active", false);
    vd_bb_cstr(bb, "currentOpTime", now);
    append_users(bb, fact);
    append_session(bb, fact);
    append_transaction(bb, fact->transaction);
}

static void append_operation(vd_bb_t *bb, const fact_t *fact, const char *now)
{
    char text[48];
    uint64_t us = vd_monotonic_us() - fact->arrived_us;
    snprintf(text, sizeof text, "conn%llu", (unsigned long long)fact->connection_id);
    vd_bb_cstr(bb, "desc", text);
    vd_bb_int64(bb, "connectionId", (int64_t)fact->connection_id);
    if (fact->client.len > 0)
        vd_bb_string(bb, "client", fact->client);
    if (fact->app.len > 0)
        vd_bb_string(bb, "appName", fact->app);
    vd_bb_bool(bb, "active", true);
    vd_bb_cstr(bb, "currentOpTime", now);
    append_users(bb, fact);
    vd_bb_int64(bb, "opid", (int64_t)fact->number);
    append_session(bb, fact);
    vd_bb_int64(bb, "secs_running", (int64_t)(us / 1000000));
    vd_bb_int64(bb, "microsecs_running", (int64_t)us);
    if (fact->killed)
        vd_bb_bool(bb, "killPending", true);
    vd_bb_cstr(bb, "op", operation_kind(fact->name));
    vd_bb_string(bb, "ns", fact->ns);
    vd_bb_bool(bb, "redacted", fact->internal);
    append_command(bb, "command", fact);
    if (fact->plan != NULL)
        vd_bb_cstr(bb, "planSummary", fact->plan);
    if (fact->transaction != NULL)
        append_transaction(bb, fact->transaction);
    if (fact->progress == NULL)
        return;
    vd_bb_cstr(bb, "msg", fact->progress);
    vd_bb_begin_document(bb, "progress");
    stor_facts_number(bb, "done", (int64_t)fact->progress_done);
    stor_facts_number(bb, "total", (int64_t)fact->progress_total);
    vd_bb_close(bb);
}

static void append_cursor(vd_bb_t *bb, const fact_t *fact)
{
    append_session(bb, fact);
    append_users(bb, fact);
    vd_bb_string(bb, "ns", fact->ns);
    vd_bb_begin_document(bb, "cursor");
    vd_bb_int64(bb, "cursorId", fact->cursor_id);
    vd_bb_date(bb, "createdDate", (int64_t)fact->opened_ms);
    vd_bb_date(bb, "lastAccessDate", (int64_t)fact->used_ms);
    vd_bb_int64(bb, "nDocsReturned", (int64_t)fact->documents);
    vd_bb_int64(bb, "nBatchesReturned", (int64_t)fact->batches);
    vd_bb_bool(bb, "noCursorTimeout", fact->no_timeout);
    vd_bb_bool(bb, "tailable", fact->tailable);
    vd_bb_bool(bb, "awaitData", fact->awaits);
    append_command(bb, "originatingCommand", fact);
    vd_bb_close(bb);
}

int stor_facts_operations(stor_request_t *request, const stor_operations_options_t *options,
                          vd_arena_t *arena, vd_bson_t **ret_documents, uint32_t *ret_count,
                          vd_error_t *err)
{
    gather_t gather = {.asker = request, .options = options, .arena = arena};
    char host[STOR_FACTS_HOST_SIZE], now[48];
    gather.tail = &gather.first;
    stor_registry_visit(request->storage, visit_request, &gather);
    if (options->idle_cursors)
        stor_cursors_visit(request->storage->cursors, visit_cursor, &gather);

    stor_transactions_visit(request->storage, visit_transaction, &gather);
    time_text(vd_wall_ms(), now);
    vd_slice_t host_name = stor_facts_host(request->storage, host);
    vd_bson_t *documents = VD_ARENA_ARRAY(arena, vd_bson_t, gather.count + 1);
    uint32_t count = 0;
    for (const fact_t *fact = gather.first; fact != NULL; fact = fact->next) {
        vd_bb_t bb;
        vd_bb_init_arena(&bb, arena, 4 * COMMAND_MAX_BYTES);
        vd_bb_cstr(&bb, "type",
                   fact->idle_session ? "idleSession"
                   : fact->cursor     ? "idleCursor"
                                      : "op");
        vd_bb_string(&bb, "host", host_name);
        if (fact->idle_session)
            append_idle_session(&bb, fact, now);
        else if (fact->cursor)
            append_cursor(&bb, fact);
        else
            append_operation(&bb, fact, now);
        int rc = vd_bb_finish(&bb, &documents[count++], err);
        if (rc != VD_OK)
            return rc;
    }
    *ret_documents = documents;
    *ret_count = count;
    return VD_OK;
}
