/* veddb-storaged/audit/audit.c — see audit.h: events, the filter, the bound. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/audit/audit_private.h"
#include "veddb-storaged/catalog/catalog.h"

#include <bson/bson.h>
#include <stdio.h>
#include <stdlib.h>

static const char meta_row[] = "audit";

/* ---- the filter ---- */

int stor_audit_filter_parse(vd_arena_t *arena, const char *text, stor_filter_t **ret_filter,
                            vd_error_t *err)
{
    bson_error_t why;
    vd_error_t wrong = VD_ERROR_INIT;
    *ret_filter = NULL;
    if (*text == '\0')
        return VD_OK;
    bson_t *parsed = bson_new_from_json((const uint8_t *)text, -1, &why);
    if (parsed == NULL)
        return vd_error_set(err, VD_ERR_CONFIG, "audit.filter is no JSON document: %s",
                            why.message);
    vd_slice_t copy = vd_arena_copy_slice(arena, vd_slice(bson_get_data(parsed), parsed->len));
    vd_bson_t filter = {copy.data, (uint32_t)copy.len};
    bson_destroy(parsed);
    int rc = vd_bson_validate(vd_slice(filter.data, filter.len), 0, VD_BSON_DEPTH_MAX, &wrong);
    if (rc == VD_OK)
        rc = stor_filter_parse(arena, filter, NULL, ret_filter, &wrong);
    return rc == VD_OK
               ? VD_OK
               : vd_error_set(err, VD_ERR_CONFIG, "audit.filter is no filter: %s", wrong.message);
}

bool stor_audit_filter_takes(const stor_filter_t *filter, vd_arena_t *arena, vd_bson_t event)
{
    if (filter == NULL)
        return true;
    vd_arena_mark_t mark = vd_arena_mark(arena);
    stor_match_t match = {.arena = arena};
    bool takes = false;
    /* What the filter can't tell is kept. */
    if (stor_match_document(filter, event, &match, &takes, NULL) != VD_OK)
        takes = true;
    vd_arena_rewind(arena, mark);
    return takes;
}

bool stor_audit_takes(const stor_audit_t *audit, vd_arena_t *arena, vd_bson_t event)
{
    return stor_audit_filter_takes(audit->filter, arena, event);
}

/* ---- open ---- */

static int find_table(const char *name, void *context)
{
    *(bool *)context |= strcmp(name, STOR_AUDIT_TABLE) == 0;
    return VD_OK;
}

static int positions_put(stor_audit_t *audit, stor_session_t *session, uint64_t journal,
                         uint64_t events, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t row;
    vd_bb_init_arena(&bb, audit->scratch, 4096);
    vd_bb_int64(&bb, "journal", (int64_t)journal);
    vd_bb_int64(&bb, "events", (int64_t)events);
    vd_bb_int64(&bb, "begin", (int64_t)audit->begin);
    int rc = vd_bb_finish(&bb, &row, err);
    return rc == VD_OK ? stor_catalog_meta_put(session, meta_row,
                                               (vd_value_t){row.data, row.len, VD_BSON_OBJECT}, err)
                       : rc;
}

static int journal_newest(stor_session_t *session, uint64_t *ret_newest, vd_error_t *err)
{
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_journal_newest(session, ret_newest, err);
    stor_txn_rollback(session);
    return rc;
}

/* The first start with an audit: what the journal has from before is not in it. */
static int audit_begin(stor_audit_t *audit, stor_session_t *session, vd_error_t *err)
{
    int rc = journal_newest(session, &audit->begin, err);
    if (rc == VD_OK)
        rc = positions_put(audit, session, audit->begin, 0, err);
    atomic_store(&audit->sealed_journal, audit->begin);
    return rc;
}

static int positions_load(stor_audit_t *audit, stor_session_t *session, vd_error_t *err)
{
    vd_value_t value;
    vd_error_t miss = VD_ERROR_INIT;
    int rc = stor_catalog_meta_get(session, meta_row, audit->arena, &value, &miss);
    if (rc == VD_ERR_NOT_FOUND)
        return audit_begin(audit, session, err);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s", miss.message);
    if (value.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_CORRUPT, "the audit's positions are malformed");
    int64_t journal = 0, events = 0, begin = 0;
    (void)vd_value_as_int64(vd_bson_get(vd_value_document(value), "journal"), &journal);
    (void)vd_value_as_int64(vd_bson_get(vd_value_document(value), "events"), &events);
    (void)vd_value_as_int64(vd_bson_get(vd_value_document(value), "begin"), &begin);
    audit->begin = (uint64_t)begin;
    atomic_store(&audit->sealed_journal, (uint64_t)journal);
    atomic_store(&audit->sealed_events, (uint64_t)events);
    return VD_OK;
}

static int last_event(stor_audit_t *audit, stor_session_t *session, vd_error_t *err)
{
    stor_cursor_t *cursor;
    vd_slice_t key;
    vd_error_t step = VD_ERROR_INIT;
    uint64_t last = atomic_load(&audit->sealed_events);
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_open(session, STOR_AUDIT_TABLE, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_next(cursor, false, &key, NULL, &step);
    if (rc == VD_OK && key.len == 8 && vd_get_u64_be(key.data) > last)
        last = vd_get_u64_be(key.data);
    stor_txn_rollback(session);
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND)
        return vd_error_set(err, rc, "%s", step.message);
    uint64_t newest = 0, sealed = atomic_load(&audit->sealed_journal);
    rc = journal_newest(session, &newest, err);
    if (rc != VD_OK)
        return rc;
    if (newest > sealed)
        audit->before_bytes = stor_journal_bytes_above(audit->storage->journal, sealed);
    audit->last = last;
    atomic_store(&audit->committed, last);
    audit->durable = last; /* all of an earlier start that is there was recovered from the disk */
    return VD_OK;
}

int stor_audit_open(stor_storage_t *storage, const stor_audit_options_t *options,
                    stor_audit_t **ret_audit, vd_error_t *err)
{
    bool found = false;
    stor_session_t *session = NULL;
    stor_audit_t *audit = vd_xalloc(sizeof *audit);
    audit->storage = storage;
    audit->options = *options;
    audit->arena = vd_arena_create();
    audit->scratch = vd_arena_create();
    vd_bb_init(&audit->bb, STOR_AUDIT_RECORD_MAX_BYTES + 4096);
    (void)pthread_mutex_init(&audit->lock, NULL);
    (void)pthread_mutex_init(&audit->heads_lock, NULL);
    audit->names = vd_map_create(STOR_AUDIT_NAMES_MAX);
    int rc = stor_audit_filter_parse(audit->arena, options->filter == NULL ? "" : options->filter,
                                     &audit->filter, err);
    if (rc == VD_OK)
        rc = stor_engine_tables(storage->engine, find_table, &found, err);
    if (rc == VD_OK && !found)
        rc = stor_engine_table_create(storage->engine, STOR_AUDIT_TABLE, false, err);
    if (rc == VD_OK)
        rc = stor_session_open(storage->engine, &session, err);
    if (rc == VD_OK)
        rc = positions_load(audit, session, err);
    if (rc == VD_OK)
        rc = last_event(audit, session, err);
    stor_session_close(&session);
    if (rc != VD_OK)
        stor_audit_close(&audit);
    else
        *ret_audit = audit;
    return rc;
}

void stor_audit_close(stor_audit_t **audit_p)
{
    stor_audit_t *audit = *audit_p;
    if (audit == NULL)
        return;
    size_t position = 0;
    vd_slice_t key;
    void *name;
    while (vd_map_next(audit->names, &position, &key, &name))
        vd_free(name);
    vd_map_destroy(&audit->names);
    vd_bb_done(&audit->bb);
    vd_arena_destroy(&audit->arena);
    vd_arena_destroy(&audit->scratch);
    (void)pthread_mutex_destroy(&audit->lock);
    (void)pthread_mutex_destroy(&audit->heads_lock);
    vd_free(audit);
    *audit_p = NULL;
}

/* ---- events ---- */

void stor_audit_begin(vd_bb_t *bb, const char *atype, int64_t wall_ms, vd_slice_t user,
                      vd_slice_t client)
{
    vd_bb_cstr(bb, "atype", atype);
    vd_bb_date(bb, "ts", wall_ms);
    vd_bb_begin_array(bb, "users");
    if (user.len > 0) {
        size_t at = user.len;
        while (at > 0 && user.data[at - 1] != '@')
            at--;
        vd_bb_begin_document(bb, "0");
        vd_bb_string(bb, "user", vd_slice(user.data, at > 0 ? at - 1 : user.len));
        vd_bb_string(bb, "db", at > 0 ? vd_slice(user.data + at, user.len - at) : VD_SLICE_NULL);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    if (client.len > 0) {
        size_t at = client.len;
        int32_t port = 0;
        while (at > 0 && client.data[at - 1] != ':')
            at--;
        for (size_t i = at; at > 0 && i < client.len && i < at + 5; i++)
            if (client.data[i] >= '0' && client.data[i] <= '9')
                port = port * 10 + (client.data[i] - '0');
        vd_bb_begin_document(bb, "remote");
        vd_bb_string(bb, "ip", vd_slice(client.data, at > 0 ? at - 1 : client.len));
        vd_bb_int32(bb, "port", port);
        vd_bb_close(bb);
    }
}

int stor_audit_allowed(stor_audit_t *audit, vd_error_t *err)
{
    if (VD_LIKELY(audit == NULL || !atomic_load_explicit(&audit->refusing, memory_order_relaxed)))
        return VD_OK;
    atomic_fetch_add(&audit->refused, 1);
    return vd_error_set(err, VD_ERR_AUDIT_FULL,
                        "the audit log can't keep up or can't be written: what would be audited is "
                        "refused until it can");
}

static uint64_t pending_events(const stor_audit_t *audit)
{
    uint64_t committed = atomic_load(&audit->committed),
             sealed = atomic_load(&audit->sealed_events);
    return committed > sealed ? committed - sealed : 0;
}

/* One number after the other, each committed before the next is drawn: so there is no hole below
 * `committed`. */
static int event_write(stor_audit_t *audit, stor_session_t *session, vd_bson_t event,
                       vd_error_t *err)
{
    uint8_t key[8];
    stor_cursor_t *cursor;
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    vd_put_u64_be(key, audit->last + 1);
    rc = stor_cursor_open(session, STOR_AUDIT_TABLE, &cursor, err);
    if (rc == VD_OK)
        rc = stor_cursor_put(cursor, vd_slice(key, sizeof key), vd_slice(event.data, event.len),
                             err);
    if (rc != VD_OK) {
        stor_txn_rollback(session);
        return rc;
    }
    rc = stor_txn_commit(session, err);
    if (rc == VD_OK)
        atomic_store(&audit->committed, ++audit->last);
    return rc;
}

int stor_audit_event(stor_audit_t *audit, stor_session_t *session, vd_bson_t event, vd_error_t *err)
{
    VD_ASSERT(!stor_txn_active(session));
    if (event.len > STOR_AUDIT_EVENT_MAX_BYTES)
        return vd_error_set(err, VD_ERR_BSON_OBJECT_TOO_LARGE, "an audit event of %u bytes",
                            event.len);
    if (audit->filter != NULL) {
        vd_arena_t *arena = vd_arena_create();
        bool takes = stor_audit_takes(audit, arena, event);
        vd_arena_destroy(&arena);
        if (!takes) {
            atomic_fetch_add(&audit->filtered, 1);
            return VD_OK;
        }
    }
    if (pending_events(audit) >= STOR_AUDIT_EVENTS_MAX) {
        if (audit->options.shed) {
            atomic_fetch_add(&audit->shed, 1);
            return VD_OK;
        }
        atomic_fetch_add(&audit->refused, 1);
        return vd_error_set(err, VD_ERR_AUDIT_FULL, "too many audit events wait to be sealed");
    }
    (void)pthread_mutex_lock(&audit->lock);
    int rc = event_write(audit, session, event, err);
    (void)pthread_mutex_unlock(&audit->lock);
    if (rc == VD_OK)
        atomic_fetch_add(&audit->events, 1);
    return rc;
}

int stor_audit_read(stor_request_t *request, int status, vd_error_t *err)
{
    stor_audit_t *audit = request->storage->audit;
    if (audit == NULL || !audit->options.reads || request->entry == NULL ||
        (request->entry->flags & STOR_COMMAND_READS) == 0 || stor_request_internal(request) ||
        stor_txn_active(request->session))
        return VD_OK;
    vd_bb_t bb;
    vd_bson_t event;
    vd_bb_init_arena(&bb, request->arena, STOR_AUDIT_EVENT_MAX_BYTES);
    stor_audit_begin(&bb, "authCheck", vd_wall_ms(), request->command.user,
                     request->command.client);
    vd_bb_begin_document(&bb, "param");
    vd_bb_cstr(&bb, "command", request->entry->name);
    if (request->ns.len > 0)
        vd_bb_string(&bb, "ns", request->ns);
    else
        vd_bb_string(&bb, "ns", request->db);
    vd_bb_close(&bb);
    vd_bb_int32(&bb, "result", -status);
    int rc = vd_bb_finish(&bb, &event, err);
    if (rc == VD_OK)
        rc = stor_audit_event(audit, request->session, event, err);
    request->flush_all = rc == VD_OK;
    return rc;
}

static void own_begin(vd_bb_t *bb, const char *atype)
{
    vd_bb_init(bb, 8192);
    stor_audit_begin(bb, atype, vd_wall_ms(), VD_SLICE_NULL, VD_SLICE_NULL);
    vd_bb_begin_document(bb, "param");
}

/* Whatever the filter says, and however many wait. Ends bb. */
static int own_write(stor_audit_t *audit, stor_session_t *session, vd_bb_t *bb, vd_error_t *err)
{
    vd_bson_t event;
    vd_bb_close(bb);
    vd_bb_int32(bb, "result", 0);
    int rc = vd_bb_finish(bb, &event, err);
    if (rc == VD_OK) {
        (void)pthread_mutex_lock(&audit->lock);
        rc = event_write(audit, session, event, err);
        (void)pthread_mutex_unlock(&audit->lock);
    }
    vd_bb_done(bb);
    return rc;
}

int stor_audit_restarted(stor_audit_t *audit, stor_session_t *session, uint64_t position,
                         vd_error_t *err)
{
    vd_bb_t bb;
    if (audit == NULL)
        return VD_OK;
    own_begin(&bb, STOR_AUDIT_RESTART);
    vd_bb_timestamp(&bb, "position", position);
    return own_write(audit, session, &bb, err);
}

int stor_audit_rolled_back(stor_audit_t *audit, stor_session_t *session, uint64_t to,
                           uint64_t documents, vd_slice_t folder, vd_error_t *err)
{
    vd_bb_t bb;
    if (audit == NULL)
        return VD_OK;
    own_begin(&bb, "rollback");
    vd_bb_timestamp(&bb, "to", to);
    vd_bb_int64(&bb, "documents", (int64_t)documents);
    vd_bb_string(&bb, "folder", folder);
    return own_write(audit, session, &bb, err);
}

int stor_audit_backup(stor_audit_t *audit, stor_session_t *session, const char *atype,
                      vd_slice_t name, vd_slice_t error, vd_error_t *err)
{
    vd_bb_t bb;
    if (audit == NULL)
        return VD_OK;
    own_begin(&bb, atype);
    vd_bb_string(&bb, "name", name);
    if (error.len > 0)
        vd_bb_string(&bb, "error", error);
    return own_write(audit, session, &bb, err);
}

/* ---- sealed ---- */

static int rows_drop(stor_session_t *session, uint64_t upto, uint32_t max, bool *ret_more,
                     vd_error_t *err)
{
    stor_cursor_t *cursor;
    *ret_more = false;
    int rc = stor_cursor_open(session, STOR_AUDIT_TABLE, &cursor, err);
    for (uint32_t n = 0; rc == VD_OK; n++) {
        vd_slice_t key;
        uint8_t copy[8];
        vd_error_t step = VD_ERROR_INIT;
        static const uint8_t lowest[8];
        rc = stor_cursor_seek(cursor, vd_slice(lowest, sizeof lowest), true, &key, NULL, &step);
        if (rc == VD_ERR_NOT_FOUND)
            return VD_OK;
        if (rc != VD_OK)
            return vd_error_set(err, rc, "%s", step.message);
        if (key.len != 8 || vd_get_u64_be(key.data) > upto)
            return VD_OK;
        if (n == max) {
            *ret_more = true;
            return VD_OK;
        }
        memcpy(copy, key.data, sizeof copy);
        rc = stor_cursor_remove(cursor, vd_slice(copy, sizeof copy), err);
    }
    return rc;
}

int stor_audit_sealed(stor_audit_t *audit, stor_session_t *session,
                      const vdp_audit_sealed_t *sealed, vd_error_t *err)
{
    bool more = true;
    int rc = VD_OK;
    vd_arena_reset(audit->scratch);
    while (rc == VD_OK && more) {
        rc = stor_txn_begin(session, err);
        if (rc != VD_OK)
            break;
        rc = rows_drop(session, sealed->events, 1000, &more, err);
        if (rc == VD_OK)
            rc = positions_put(audit, session, sealed->journal, sealed->events, err);
        if (rc == VD_OK)
            rc = stor_txn_commit(session, err);
        else
            stor_txn_rollback(session);
    }
    if (rc != VD_OK)
        return rc;
    (void)pthread_mutex_lock(&audit->lock);
    /* Of an older copy of the data: numbers that were sealed are not given again. */
    if (sealed->events > audit->last) {
        audit->last = sealed->events;
        atomic_store(&audit->committed, audit->last);
    }
    (void)pthread_mutex_unlock(&audit->lock);
    stor_audit_marks_sealed(audit, sealed->journal, sealed->journal_part);
    atomic_store(&audit->sealed_journal, sealed->journal);
    atomic_store(&audit->sealed_events, sealed->events);
    atomic_store(&audit->head, sealed->head);
    atomic_store(&audit->sealed_wall_ms, vd_wall_ms());
    stor_audit_own_head_take(audit, sealed);
    return VD_OK;
}

/* ---- the bound ---- */

static uint64_t backlog(const stor_audit_t *audit)
{
    stor_journal_stats_t stats;
    stor_journal_stats(audit->storage->journal, &stats);
    uint64_t base = atomic_load(&audit->sealed_bytes);
    uint64_t all = stats.appended + audit->before_bytes;
    return all > base ? all - base : 0;
}

uint64_t stor_audit_keep_above(const stor_audit_t *audit)
{
    if (audit == NULL || (audit->options.shed && atomic_load(&audit->over)))
        return UINT64_MAX;
    return atomic_load(&audit->sealed_journal);
}

void stor_audit_look(stor_audit_t *audit)
{
    uint64_t bytes = backlog(audit), events = pending_events(audit);
    uint64_t max = audit->options.backlog_max_bytes;
    bool over = bytes > max || events >= STOR_AUDIT_EVENTS_MAX,
         half = over || bytes > max / 2 || events > STOR_AUDIT_EVENTS_MAX / 2;
    if (half != atomic_exchange(&audit->alarmed, half))
        vd_log(half ? VD_LOG_ERROR : VD_LOG_INFO,
               half ? "much waits to be sealed by the audit log" : "the audit log has caught up",
               "bytes=%llu bytes_max=%llu events=%llu", (unsigned long long)bytes,
               (unsigned long long)max, (unsigned long long)events);
    if (over != atomic_exchange(&audit->over, over))
        vd_log(VD_LOG_ERROR,
               !over ? "what is audited is accepted again"
               : audit->options.shed
                   ? "the audit log is too far behind: what is not sealed may be lost"
                   : "the audit log is too far behind: writes are refused",
               "bytes=%llu events=%llu", (unsigned long long)bytes, (unsigned long long)events);
    atomic_store(&audit->refusing, over && !audit->options.shed);
}

void stor_audit_stats(const stor_audit_t *audit, stor_audit_stats_t *ret_stats)
{
    *ret_stats = (stor_audit_stats_t){
        .events = atomic_load(&audit->events),
        .records = atomic_load(&audit->records),
        .sealed_journal = atomic_load(&audit->sealed_journal),
        .sealed_events = atomic_load(&audit->sealed_events),
        .pending_events = pending_events(audit),
        .backlog_bytes = backlog(audit),
        .head = atomic_load(&audit->head),
        .refused = atomic_load(&audit->refused),
        .shed = atomic_load(&audit->shed),
        .gaps = atomic_load(&audit->gaps),
        .filtered = atomic_load(&audit->filtered),
        .sealed_wall_ms = atomic_load(&audit->sealed_wall_ms),
        .refusing = atomic_load(&audit->refusing),
        .attached = atomic_load(&audit->attached),
        .rolled_back = atomic_load(&audit->rolled_back),
    };
}

void stor_audit_attached(stor_audit_t *audit, bool attached)
{
    atomic_store(&audit->attached, attached);
}

/* ---- explain ---- */

/* Kinds that the filter is asked about; writes, and what storage and the gateway see. */
static const char *const filtered_kinds[] = {
    "insert",
    "update",
    "replace",
    "delete",
    "createDatabase",
    "createCollection",
    "dropCollection",
    "renameCollection",
    "collMod",
    "dropDatabase",
    "createIndex",
    "dropIndex",
    "replSetReconfig",
    "clientMetadata",
    "authenticate",
    "logout",
    "authCheck",
    "createUser",
    "updateUser",
    "dropUser",
    "dropAllUsersFromDatabase",
    "grantRolesToUser",
    "revokeRolesFromUser",
    "createRole",
    "updateRole",
    "dropRole",
    "dropAllRolesFromDatabase",
    "grantRolesToRole",
    "revokeRolesFromRole",
    "grantPrivilegesToRole",
    "revokePrivilegesFromRole",
    "revokeToken",
    "revokeUserTokens",
    "rotateTokenKeys",
    "refreshTokenReuse",
    "setParameter",
    "limits",
    "limitExceeded",
    "tlsHandshakeRefused",
    "certificateReload",
    "certificateExpires",
    "startup",
    "shutdown",
    "linkCut",
};
/* What says that something is missing, or what happened to processes, keys and the log itself. */
static const char *const kept_kinds[] = {
    "auditGap",       "journalRestart", "rollback",    "auditRollback", "auditLogReplaced",
    "auditRetention", "workerStarted",  "workerEnded", "operator",      "configuration",
    "keyCreate",      "keysHandedOut",  "keysRefused",
};

static bool kind_kept(const stor_audit_t *audit, vd_arena_t *arena, const char *atype,
                      bool *ret_kept, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t event;
    vd_bb_init_arena(&bb, arena, 4096);
    stor_audit_begin(&bb, atype, vd_wall_ms(), VD_SLICE_LIT("somebody@admin"),
                     VD_SLICE_LIT("127.0.0.1:1"));
    vd_bb_begin_document(&bb, "param");
    vd_bb_cstr(&bb, "ns", "test.sample");
    vd_bb_close(&bb);
    vd_bb_int32(&bb, "result", 0);
    if (vd_bb_finish(&bb, &event, err) != VD_OK)
        return false;
    *ret_kept = stor_audit_takes(audit, arena, event);
    return true;
}

static int kind_print(const char *atype, bool kept, bool first, vd_buf_t *out)
{
    return vd_buf_printf(out, "%s{\"atype\":\"%s\",\"kept\":%s}", first ? "" : ",", atype,
                         kept ? "true" : "false");
}

int stor_audit_explain(stor_audit_t *audit, vd_buf_t *out, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    int rc =
        vd_buf_printf(out, "{\"reads\":%s,\"kinds\":[", audit->options.reads ? "true" : "false");
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(filtered_kinds); i++) {
        bool kept = false;
        if (!kind_kept(audit, arena, filtered_kinds[i], &kept, err))
            rc = VD_ERR_INTERNAL;
        else
            rc = kind_print(filtered_kinds[i], kept, i == 0, out);
    }
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(kept_kinds); i++)
        rc = kind_print(kept_kinds[i], true, false, out);
    vd_arena_destroy(&arena);
    return rc == VD_OK ? vd_buf_printf(out, "]}") : rc;
}
