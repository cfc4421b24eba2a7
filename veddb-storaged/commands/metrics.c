/* veddb-storaged/commands/metrics.c — storage's figures in Prometheus' text form, for the gateway's
 * /metrics page; and the latency of every command.
 *
 * The command is the gateway's own: users have no row for it in the gateway's table. */
#include "veddb-storaged/commands/metrics.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/metrics.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/backup/backup.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/exec/spill.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/index/builds.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/rotation/figures.h"
#include "veddb-storaged/sessions.h"
#include "veddb-storaged/transactions.h"

#include <pthread.h>
#include <stdio.h>

#define TEXT_MAX_BYTES (4u << 20)

static struct {
    vd_metric_t *latency, *errors;
} * figures; /* by position in stor_commands */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void build(void)
{
    char label[96];
    figures = vd_xalloc(stor_command_count * sizeof *figures);
    for (size_t i = 0; i < stor_command_count; i++) {
        (void)snprintf(label, sizeof label, "command=\"%s\"", stor_commands[i].name);
        figures[i].latency = vd_metric_histogram("veddb_storage_command_seconds", label,
                                                 "from a worker's start to the finished reply");
        figures[i].errors = vd_metric_counter("veddb_storage_command_errors_total", label,
                                              "commands that ended with an error");
    }
}

void stor_metrics_observe(const stor_command_t *entry, uint64_t us, bool failed)
{
    (void)pthread_once(&once, build); /* can't fail for a static once */
    uintptr_t at = (uintptr_t)entry, first = (uintptr_t)stor_commands;
    size_t i = (at - first) / sizeof *entry;
    if (at < first || i >= stor_command_count)
        return; /* a test's own table */
    vd_metric_observe_us(figures[i].latency, us);
    if (failed)
        vd_metric_add(figures[i].errors, 1);
}

void stor_metrics_traffic(const stor_command_t *entry, stor_collection_t *collection, uint64_t us)
{
    stor_traffic_kind_t kind = (entry->flags & STOR_COMMAND_WRITES) != 0
                                   ? STOR_TRAFFIC_WRITE_COMMAND
                                   : STOR_TRAFFIC_READ_COMMAND;
    if (entry->run == stor_run_find)
        kind = STOR_TRAFFIC_QUERY;
    else if (entry->run == stor_run_get_more)
        kind = STOR_TRAFFIC_GETMORE;
    else if (entry->run == stor_command_insert)
        kind = STOR_TRAFFIC_INSERT;
    else if (entry->run == stor_command_update)
        kind = STOR_TRAFFIC_UPDATE;
    else if (entry->run == stor_command_delete)
        kind = STOR_TRAFFIC_REMOVE;
    stor_traffic_t *traffic = &collection->traffic[kind];
    atomic_fetch_add_explicit(&traffic->operations, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&traffic->us, us, memory_order_relaxed);
}

void stor_metrics_latencies(stor_latencies_t *ret)
{
    (void)pthread_once(&once, build); /* can't fail for a static once */
    *ret = (stor_latencies_t){0};
    for (size_t i = 0; i < stor_command_count; i++) {
        const stor_command_t *entry = &stor_commands[i];
        bool data = (entry->flags & STOR_COMMAND_TRANSACTION) != 0;
        stor_latency_t *latency =
            (entry->flags & STOR_COMMAND_ENDS_TRANSACTION) != 0    ? &ret->transactions
            : data && (entry->flags & STOR_COMMAND_RETRYABLE) != 0 ? &ret->writes
            : (data || entry->run == stor_run_count) && (entry->flags & STOR_COMMAND_READS) != 0
                ? &ret->reads
                : &ret->commands;
        latency->operations += vd_metric_value(figures[i].latency);
        latency->us += vd_metric_sum_us(figures[i].latency);
    }
}

/* ---- the page ---- */

typedef struct {
    const char *name;
    bool gauge;
    const char *help;
    uint64_t value;
} row_t;

static int rows_print(vd_buf_t *out, const row_t *rows, size_t count)
{
    int rc = VD_OK;
    for (size_t i = 0; rc == VD_OK && i < count; i++)
        rc = vd_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", rows[i].name, rows[i].help,
                           rows[i].name, rows[i].gauge ? "gauge" : "counter", rows[i].name,
                           (unsigned long long)rows[i].value);
    return rc;
}

static int engine_print(const stor_storage_t *storage, vd_buf_t *out)
{
    stor_engine_stats_t s;
    stor_keys_counts_t keys;
    stor_spill_stats_t spill;
    stor_spill_stats(storage->spill, &spill);
    stor_engine_stats(storage->engine, &s);
    stor_keys_counts(storage->keys, &keys);
    const row_t rows[] = {
        {"veddb_storage_flushes_total", false, "flushes of the log", s.flushes},
        {"veddb_storage_flushed_commits_total", false, "commits made durable", s.flushed_commits},
        {"veddb_storage_flush_microseconds_total", false, "time in flushes", s.flush_us_sum},
        {"veddb_storage_cache_bytes", true, "engine cache in use", s.cache_bytes_used},
        {"veddb_storage_cache_dirty_bytes", true, "of these not yet written", s.cache_bytes_dirty},
        {"veddb_storage_cache_max_bytes", true, "engine cache at most", s.cache_bytes_max},
        {"veddb_storage_cache_read_bytes_total", false, "read into the cache", s.cache_bytes_read},
        {"veddb_storage_cache_written_bytes_total", false, "written from the cache",
         s.cache_bytes_written},
        {"veddb_storage_pages_evicted_total", false, "pages put out of the cache", s.pages_evicted},
        {"veddb_storage_old_versions_evicted_total", false,
         "versions that snapshots kept and the cache could not", s.old_versions_evicted},
        {"veddb_storage_log_written_bytes_total", false, "write-ahead log", s.log_bytes_written},
        {"veddb_storage_checkpoints_total", false, "checkpoints", s.checkpoints},
        {"veddb_storage_transactions_committed_total", false, "commits", s.txn_commits},
        {"veddb_storage_transactions_rolled_back_total", false, "rollbacks", s.txn_rollbacks},
        {"veddb_storage_conflicts_total", false, "write conflicts", s.conflicts},
        {"veddb_storage_disk_free_bytes", true, "free space of the disk", s.free_bytes},
        {"veddb_storage_disk_reserve_bytes", true, "below this, writes are refused",
         s.reserve_bytes},
        {"veddb_storage_disk_reserve_reached", true, "1: writes are refused", s.reserve_reached},
        {"veddb_storage_query_memory_bytes", true, "sorts, groups and windows keep in memory",
         spill.memory_bytes},
        {"veddb_storage_spill_bytes", true, "sorts, groups and windows keep on disk",
         spill.disk_bytes},
        {"veddb_storage_spilled_bytes_total", false, "written to disk by them",
         spill.spilled_bytes},
        {"veddb_storage_blocks_sealed_total", false, "blocks encrypted", keys.sealed_blocks},
        {"veddb_storage_blocks_opened_total", false, "blocks decrypted", keys.opened_blocks},
        {"veddb_storage_blocks_failed_total", false, "blocks that could not be decrypted",
         keys.failed},
    };
    return rows_print(out, rows, VD_COUNT_OF(rows));
}

static int audit_print(const stor_storage_t *storage, vd_buf_t *out)
{
    stor_audit_stats_t a = {0};
    if (storage->audit == NULL)
        return VD_OK;
    stor_audit_stats(storage->audit, &a);
    int64_t ago_ms = a.sealed_wall_ms == 0 ? 0 : vd_wall_ms() - a.sealed_wall_ms;
    bool waits = a.backlog_bytes > 0 || a.pending_events > 0;
    const row_t rows[] = {
        {"veddb_audit_events_total", false, "events written", a.events},
        {"veddb_audit_records_total", false, "records handed over to be sealed", a.records},
        {"veddb_audit_filtered_total", false, "left out by audit.filter", a.filtered},
        {"veddb_audit_head", true, "number of the last signed head", a.head},
        {"veddb_audit_pending_events", true, "events that wait to be sealed", a.pending_events},
        {"veddb_audit_backlog_bytes", true, "journal that waits to be sealed", a.backlog_bytes},
        {"veddb_audit_lag_seconds", true, "since the last head, while something waits",
         waits && ago_ms > 0 ? (uint64_t)ago_ms / 1000 : 0},
        {"veddb_audit_refused_total", false, "refused because it could not be audited", a.refused},
        {"veddb_audit_shed_total", false, "events that went unaudited (audit.on_full: shed)",
         a.shed},
        {"veddb_audit_gaps_total", false, "gaps in what was audited", a.gaps},
        {"veddb_audit_refusing", true, "1: what is audited is refused", a.refusing},
        {"veddb_audit_rolled_back", true,
         "1: other nodes hold heads that the audit log does not have", a.rolled_back},
        {"veddb_audit_attached", true, "1: rotated takes what is to be sealed", a.attached},
    };
    return rows_print(out, rows, VD_COUNT_OF(rows));
}

static int work_print(const stor_storage_t *storage, vd_buf_t *out)
{
    stor_inbox_stats_t inbox = {0};
    stor_cursors_stats_t cursors;
    stor_journal_stats_t journal;
    stor_transactions_stats_t transactions;
    if (storage->inbox != NULL)
        stor_inbox_stats(storage, &inbox);
    stor_cursors_stats(storage->cursors, &cursors);
    stor_journal_stats(storage->journal, &journal);
    stor_transactions_stats(storage, &transactions);
    const stor_op_counters_t *c = &storage->counters;
    const row_t rows[] = {
        {"veddb_storage_requests_total", false, "commands taken", inbox.received},
        {"veddb_storage_requests_refused_total", false, "sent back: too many, or draining",
         inbox.refused},
        {"veddb_storage_requests_given_up_total", false,
         "answered in their queue: late, killed, or of a client that has gone", inbox.given_up},
        {"veddb_storage_requests_in_flight", true, "commands not yet answered", inbox.inflight},
        {"veddb_storage_requests_parked", true, "answers that wait for the disk", inbox.parked},
        {"veddb_storage_requests_queued", true, "commands that wait for a worker",
         inbox.queued_quick + inbox.queued_long},
        {"veddb_storage_index_builds", true, "indexes that are being built",
         storage->builds == NULL ? 0 : stor_builds_count(storage->builds)},
        {"veddb_storage_scrubs_total", false, "collections compared with their count and hash",
         atomic_load(&storage->scrub.collections)},
        {"veddb_storage_scrub_failures_total", false, "of these, not what they were kept to be",
         atomic_load(&storage->scrub.collection_failures)},
        {"veddb_storage_index_scrubs_total", false, "collections compared with their indexes",
         atomic_load(&storage->scrub.indexes)},
        {"veddb_storage_index_scrub_failures_total", false, "of these, with a damaged index",
         atomic_load(&storage->scrub.index_failures)},
        {"veddb_storage_documents_inserted_total", false, "documents stored",
         atomic_load(&c->documents_inserted)},
        {"veddb_storage_documents_updated_total", false, "documents changed",
         atomic_load(&c->documents_updated)},
        {"veddb_storage_documents_deleted_total", false, "documents removed",
         atomic_load(&c->documents_deleted)},
        {"veddb_storage_documents_returned_total", false, "documents sent",
         atomic_load(&c->documents_returned)},
        {"veddb_storage_documents_examined_total", false, "documents looked at",
         atomic_load(&c->documents_examined)},
        {"veddb_storage_write_conflicts_total", false, "statements tried again",
         atomic_load(&c->write_conflicts)},
        {"veddb_storage_cursors_open", true, "open client cursors", cursors.open},
        {"veddb_storage_cursors_timed_out_total", false, "cursors idle for too long",
         cursors.timed_out},
        {"veddb_storage_sessions", true, "logical sessions",
         stor_sessions_count(storage->sessions)},
        {"veddb_storage_multi_transactions_open", true, "multi-document transactions open",
         transactions.open},
        {"veddb_storage_multi_transactions_changed_bytes", true, "changes that they hold in memory",
         transactions.bytes},
        {"veddb_storage_multi_transactions_committed_total", false,
         "multi-document transactions committed", transactions.committed},
        {"veddb_storage_multi_transactions_aborted_total", false,
         "multi-document transactions aborted", transactions.aborted},
        {"veddb_storage_journal_bytes", true, "journal kept", journal.bytes},
        {"veddb_storage_journal_segments", true, "journal segments kept", journal.segments},
    };
    return rows_print(out, rows, VD_COUNT_OF(rows));
}

static int streams_print(const stor_storage_t *storage, vd_buf_t *out)
{
    const stor_stream_counters_t *s = &storage->streams;
    const row_t rows[] = {
        {"veddb_streams_open", true, "change streams open", atomic_load(&s->open)},
        {"veddb_streams_parked", true, "getMores of streams that wait, without a worker",
         atomic_load(&s->parked)},
        {"veddb_streams_events_delivered_total", false, "events given to clients",
         atomic_load(&s->delivered)},
        {"veddb_streams_events_filtered_total", false, "events that a $match kept from being built",
         atomic_load(&s->filtered)},
        {"veddb_streams_events_split_total", false, "events told in fragments",
         atomic_load(&s->split)},
        {"veddb_streams_entries_read_total", false, "journal entries that streams read",
         atomic_load(&s->entries)},
        {"veddb_streams_entries_watched_total", false,
         "journal entries read once for all that wait", atomic_load(&s->watched)},
        {"veddb_streams_wakes_total", false, "waits ended because something came for the stream",
         atomic_load(&s->wakes)},
        {"veddb_streams_expired_total", false,
         "streams that ended because the journal was cut (286)", atomic_load(&s->expired)},
    };
    return rows_print(out, rows, VD_COUNT_OF(rows));
}

static int backups_print(const stor_storage_t *storage, vd_buf_t *out)
{
    stor_backups_stats_t s;
    if (storage->backups == NULL)
        return VD_OK;
    stor_backups_stats(storage->backups, &s);
    const row_t rows[] = {
        {"veddb_backups", true, "backups that are kept", s.kept},
        {"veddb_backups_bytes", true, "bytes that they have", s.bytes},
        {"veddb_backups_newest_seconds", true,
         "when the newest one that is kept was made, since 1970; 0: there is none",
         (uint64_t)s.made_ms / 1000},
        {"veddb_backups_running", true, "1: one is being made, checked or removed", s.running},
        {"veddb_backups_made_total", false, "backups made", s.made},
        {"veddb_backups_failures_total", false, "backups that could not be made", s.failed},
        {"veddb_backups_verified_total", false, "backups checked, and good", s.verified},
        {"veddb_backups_verify_failures_total", false, "backups checked, and damaged",
         s.verify_failed},
    };
    return rows_print(out, rows, VD_COUNT_OF(rows));
}

static int replication_print(const stor_storage_t *storage, vd_buf_t *out)
{
    stor_positions_stats_t s;
    if (stor_replication_alone(storage))
        return VD_OK;
    stor_positions_stats(storage->replication->positions, &s);
    uint64_t newest = stor_engine_newest(storage->engine);
    uint64_t behind_s = newest > s.majority ? (newest >> 32) - (s.majority >> 32) : 0;
    const row_t rows[] = {
        {"veddb_replication_role", true, "1 primary, 2 secondary, 3 recovering, 4 removed",
         (uint64_t)stor_replication_role(storage)},
        {"veddb_replication_term", true, "newest term agreed to", stor_replication_term(storage)},
        {"veddb_replication_majority_lag_seconds", true,
         "newest entry here to the newest on a majority", s.majority == 0 ? 0 : behind_s},
        {"veddb_replication_waiting_write_concern", true, "answers that wait for members",
         s.waiting[STOR_WAIT_WRITE]},
        {"veddb_replication_waiting_read_majority", true, "reads that wait for the majority point",
         s.waiting[STOR_WAIT_MAJORITY]},
        {"veddb_replication_waiting_linearizable", true, "reads that wait for an entry of ours",
         s.waiting[STOR_WAIT_LINEARIZABLE]},
        {"veddb_replication_waiting_cluster_time", true, "commands that wait for a time",
         s.waiting[STOR_WAIT_TIME]},
        {"veddb_replication_waiting_answer", true, "commands that wait for replicad",
         s.waiting[STOR_WAIT_ANSWER]},
        {"veddb_replication_write_concern_timeouts_total", false, "wtimeouts", s.write_timeouts},
        {"veddb_replication_waits_interrupted_total", false, "waits ended by a change of role",
         s.interrupted},
        {"veddb_replication_noops_total", false, "entries written for waiting reads", s.noops},
    };
    return rows_print(out, rows, VD_COUNT_OF(rows));
}

static int member_print(vd_bson_t member, vd_arena_t *arena, vd_buf_t *out)
{
    static const struct {
        const char *field, *entries, *stage;
    } lags[] = {{"lagReceivedSeconds", "lagReceivedEntries", "received"},
                {"lagFlushedSeconds", "lagFlushedEntries", "flushed"},
                {"lagAppliedSeconds", "lagAppliedEntries", "applied"}};
    vd_value_t own = vd_bson_get(member, "veddb"), health = vd_bson_get(member, "health");
    int64_t bytes = 0;
    if (own.type != VD_BSON_OBJECT)
        return VD_OK;
    vd_bson_t shown = vd_value_document(own);
    /* Quoted as JSON, which is as a label is quoted. */
    const char *name = vd_value_to_json(arena, vd_bson_get(shown, "name"), 200);
    bool up = health.type == VD_BSON_DOUBLE && vd_value_as_double(health) > 0;
    (void)vd_value_as_int64(vd_bson_get(shown, "lagBytes"), &bytes); /* else 0 */
    int rc = vd_buf_printf(out,
                           "veddb_replication_member_up{member=%s} %d\n"
                           "veddb_replication_member_lag_bytes{member=%s} %lld\n",
                           name, up, name, (long long)bytes);
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(lags); i++) {
        int64_t entries;
        if (vd_value_as_int64(vd_bson_get(shown, lags[i].entries), &entries))
            rc = vd_buf_printf(
                out, "veddb_replication_member_lag_entries{member=%s,stage=\"%s\"} %lld\n", name,
                lags[i].stage, (long long)entries);
        if (rc != VD_OK)
            break;
        vd_value_t lag = vd_bson_get(shown, lags[i].field);
        rc = vd_buf_printf(
            out, "veddb_replication_member_lag_seconds{member=%s,stage=\"%s\"} %.3f\n", name,
            lags[i].stage, lag.type == VD_BSON_DOUBLE ? vd_value_as_double(lag) : 0.0);
    }
    return rc;
}

/* As replicad last told: at most a second old. */
static int members_print(stor_request_t *request, vd_buf_t *out)
{
    if (stor_replication_alone(request->storage))
        return VD_OK;
    vd_bson_t status = stor_replication_status(request->storage, request->arena);
    if (status.len == 0)
        return VD_OK;
    vd_value_t members = vd_bson_get(status, "members");
    int64_t rollbacks = 0;
    (void)vd_value_as_int64(vd_bson_get_path(status, VD_SLICE_LIT("veddb.rollbacks")), &rollbacks);
    int rc = vd_buf_printf(
        out,
        "# HELP veddb_replication_rollbacks_total diverged tails that were saved and undone\n"
        "# TYPE veddb_replication_rollbacks_total counter\n"
        "veddb_replication_rollbacks_total %lld\n"
        "# HELP veddb_replication_member_up 1: it answers\n"
        "# TYPE veddb_replication_member_up gauge\n"
        "# HELP veddb_replication_member_lag_bytes sent to it and not yet acknowledged\n"
        "# TYPE veddb_replication_member_lag_bytes gauge\n"
        "# HELP veddb_replication_member_lag_seconds how long it has not been level\n"
        "# TYPE veddb_replication_member_lag_seconds gauge\n"
        "# HELP veddb_replication_member_lag_entries journal entries it has yet to take; on the "
        "primary\n"
        "# TYPE veddb_replication_member_lag_entries gauge\n",
        (long long)rollbacks);
    if (rc != VD_OK || members.type != VD_BSON_ARRAY)
        return rc;
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(members));
    while (rc == VD_OK && vd_bson_iter_next(&each))
        if (each.value.type == VD_BSON_OBJECT)
            rc = member_print(vd_value_document(each.value), request->arena, out);
    return rc;
}

int stor_run_metrics(stor_request_t *request, vd_error_t *err)
{
    vd_buf_t out;
    if (!stor_request_internal(request))
        return vd_error_set(err, VD_ERR_COMMAND_NOT_FOUND, "no such command: 'veddbMetrics'");
    vd_buf_init(&out, TEXT_MAX_BYTES);
    int rc = engine_print(request->storage, &out);
    if (rc == VD_OK)
        rc = work_print(request->storage, &out);
    if (rc == VD_OK)
        rc = audit_print(request->storage, &out);
    if (rc == VD_OK)
        rc = stor_figures_print(&out);
    if (rc == VD_OK)
        rc = streams_print(request->storage, &out);
    if (rc == VD_OK)
        rc = backups_print(request->storage, &out);
    if (rc == VD_OK)
        rc = replication_print(request->storage, &out);
    if (rc == VD_OK)
        rc = members_print(request, &out);
    if (rc == VD_OK)
        rc = vd_metrics_print(&out);
    if (rc == VD_OK)
        vd_bb_string(&request->reply, "text", vd_buf_slice(&out));
    else
        rc = vd_error_set(err, rc, "the page of metrics is too large");
    vd_buf_done(&out);
    return rc;
}
