/* veddb-storaged/commands/server_status.c — serverStatus: the sections that storage knows, under
 * MongoDB's names. Connections and network are the gateway's, which puts its own sections in. */
#include "libcommon/base/clock.h"
#include "veddb-storaged/commands/metrics.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/exec/spill.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/sessions.h"
#include "veddb-storaged/transactions.h"

#include <stdio.h>
#include <unistd.h>

typedef struct {
    stor_request_t *request;
    stor_storage_t *storage;
    vd_bb_t *bb;
    stor_engine_stats_t engine;
    stor_inbox_stats_t inbox;
} status_t;

static void put(vd_bb_t *bb, const char *name, uint64_t n)
{
    vd_bb_int64(bb, name, n > INT64_MAX ? INT64_MAX : (int64_t)n);
}

static void counters(status_t *status)
{
    const stor_op_counters_t *c = &status->storage->counters;
    put(status->bb, "insert", c->insert);
    put(status->bb, "query", c->query);
    put(status->bb, "update", c->update);
    put(status->bb, "delete", c->remove);
    put(status->bb, "getmore", c->getmore);
    put(status->bb, "command", c->command);
}

/* What other members sent: there are none. */
static void counters_replicated(status_t *status)
{
    static const char *const names[] = {"insert", "query",   "update",
                                        "delete", "getmore", "command"};
    for (size_t i = 0; i < VD_COUNT_OF(names); i++)
        put(status->bb, names[i], 0);
}

static void latencies(status_t *status)
{
    stor_latencies_t all;
    stor_metrics_latencies(&all);
    const struct {
        const char *name;
        const stor_latency_t *latency;
    } rows[] = {{"reads", &all.reads},
                {"writes", &all.writes},
                {"commands", &all.commands},
                {"transactions", &all.transactions}};
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++) {
        vd_bb_begin_document(status->bb, rows[i].name);
        put(status->bb, "latency", rows[i].latency->us);
        put(status->bb, "ops", rows[i].latency->operations);
        put(status->bb, "queryableEncryptionLatencyMicros", 0);
        vd_bb_close(status->bb);
    }
}

/* A failed assertion ends the process, so that these stay 0 as long as it lives. */
static void asserts(status_t *status)
{
    static const char *const names[] = {"regular", "warning",  "msg",
                                        "user",    "tripwire", "rollovers"};
    for (size_t i = 0; i < VD_COUNT_OF(names); i++)
        vd_bb_int32(status->bb, names[i], 0);
}

static void global_lock(status_t *status)
{
    vd_bb_t *bb = status->bb;
    uint64_t queued = status->inbox.queued_quick + status->inbox.queued_long;
    put(bb, "totalTime", (vd_monotonic_ms() - status->storage->started_monotonic_ms) * 1000);
    vd_bb_begin_document(bb, "currentQueue");
    put(bb, "total", queued);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "activeClients");
    put(bb, "total", status->inbox.running);
    vd_bb_close(bb);
}

static void session_cache(status_t *status)
{
    put(status->bb, "activeSessionsCount", stor_sessions_count(status->storage->sessions));
}

static void metrics(status_t *status)
{
    const stor_op_counters_t *c = &status->storage->counters;
    vd_bb_t *bb = status->bb;
    stor_cursors_stats_t cursors;
    stor_cursors_stats(status->storage->cursors, &cursors);
    vd_bb_begin_document(bb, "cursor");
    put(bb, "timedOut", cursors.timed_out);
    put(bb, "totalOpened", cursors.total_opened);
    vd_bb_begin_document(bb, "open");
    put(bb, "noTimeout", cursors.open_no_timeout);
    put(bb, "pinned", cursors.pinned);
    put(bb, "total", cursors.open);
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "document");
    put(bb, "deleted", c->documents_deleted);
    put(bb, "inserted", c->documents_inserted);
    put(bb, "returned", c->documents_returned);
    put(bb, "updated", c->documents_updated);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "operation");
    put(bb, "scanAndOrder", c->scan_and_order);
    put(bb, "writeConflicts", c->write_conflicts);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "ttl");
    put(bb, "deletedDocuments", status->storage->ttl.deleted);
    put(bb, "passes", status->storage->ttl.passes);
    put(bb, "subPasses", status->storage->ttl.sub_passes);
    vd_bb_close(bb);
    const stor_stream_counters_t *s = &status->storage->streams;
    vd_bb_begin_document(bb, "changeStreams");
    put(bb, "largeEventsSplit", s->split);
    put(bb, "open", s->open);
    put(bb, "parked", s->parked);
    put(bb, "eventsDelivered", s->delivered);
    put(bb, "eventsFiltered", s->filtered);
    put(bb, "entriesRead", s->entries);
    put(bb, "entriesWatched", s->watched);
    put(bb, "wakes", s->wakes);
    put(bb, "expired", s->expired);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "queryExecutor");
    put(bb, "scanned", c->keys_examined);
    put(bb, "scannedObjects", c->documents_examined);
    vd_bb_close(bb);
}

static void wired_tiger(status_t *status)
{
    const stor_engine_stats_t *e = &status->engine;
    vd_bb_t *bb = status->bb;
    vd_bb_begin_document(bb, "cache");
    put(bb, "bytes currently in the cache", e->cache_bytes_used);
    put(bb, "bytes read into cache", e->cache_bytes_read);
    put(bb, "bytes written from cache", e->cache_bytes_written);
    put(bb, "maximum bytes configured", e->cache_bytes_max);
    put(bb, "pages read into cache", e->pages_read);
    put(bb, "tracked dirty bytes in the cache", e->cache_bytes_dirty);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "log");
    put(bb, "log bytes written", e->log_bytes_written);
    put(bb, "log sync operations", e->log_syncs);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "transaction");
    put(bb, "transaction begins", e->txn_begins);
    put(bb, "transaction checkpoints", e->checkpoints);
    put(bb, "transaction checkpoint most recent time (msecs)", e->checkpoint_ms_last);
    put(bb, "transactions committed", e->txn_commits);
    put(bb, "transactions rolled back", e->txn_rollbacks);
    put(bb, "update conflicts", e->conflicts);
    vd_bb_close(bb);
    /* One pool of workers serves both. */
    vd_bb_begin_document(bb, "concurrentTransactions");
    uint64_t workers = status->inbox.workers, running = status->inbox.running;
    for (int i = 0; i < 2; i++) {
        vd_bb_begin_document(bb, i == 0 ? "write" : "read");
        put(bb, "out", running);
        put(bb, "available", workers > running ? workers - running : 0);
        put(bb, "totalTickets", workers);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

static void storage_engine(status_t *status)
{
    vd_bb_t *bb = status->bb;
    vd_bb_cstr(bb, "name", "wiredTiger");
    vd_bb_bool(bb, "supportsCommittedReads", true);
    vd_bb_bool(bb, "persistent", true);
    vd_bb_bool(bb, "readOnly", false);
    vd_bb_bool(bb, "supportsSnapshotReadConcern", false);
    vd_bb_bool(bb, "supportsPendingDrops", true);
    vd_bb_bool(bb, "supportsTwoPhaseIndexBuild", false);
}

static void memory(status_t *status)
{
    vd_bb_t *bb = status->bb;
    unsigned long long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    bool known = file != NULL && fscanf(file, "%llu %llu", &pages, &resident) == 2;
    if (file != NULL)
        (void)fclose(file); /* was only read */
    vd_bb_int32(bb, "bits", 64);
    if (known) {
        unsigned long long page = (unsigned long long)sysconf(_SC_PAGESIZE);
        vd_bb_int32(bb, "resident", (int32_t)(resident * page / (1024 * 1024)));
        vd_bb_int32(bb, "virtual", (int32_t)(pages * page / (1024 * 1024)));
    }
    vd_bb_bool(bb, "supported", known);
}

/* What hello tells of the set, and what we are in it. */
static void replication_member(status_t *status)
{
    static const char *const told[] = {"hosts", "passives", "primary", "me", "tags", "setVersion"};
    vd_bb_t *bb = status->bb;
    stor_storage_t *storage = status->storage;
    vd_bson_t topology = stor_replication_topology(storage, status->request->arena);
    int role = stor_replication_role(storage);
    vd_bb_cstr(bb, "setName", storage->settings.replica_set);
    for (size_t i = 0; i < VD_COUNT_OF(told); i++)
        vd_bb_value(bb, vd_slice_str(told[i]), vd_bson_get(topology, told[i]));
    vd_bb_bool(bb, "isWritablePrimary", role == VDP_ROLE_PRIMARY);
    vd_bb_bool(bb, "secondary", role == VDP_ROLE_SECONDARY);
    vd_bb_begin_document(bb, "lastWrite");
    vd_bb_begin_document(bb, "opTime");
    vd_bb_timestamp(bb, "ts", stor_engine_newest(storage->engine));
    vd_bb_int64(bb, "t", (int64_t)stor_replication_term(storage));
    vd_bb_close(bb);
    vd_bb_date(bb, "lastWriteDate", atomic_load(&storage->last_write_ms));
    vd_bb_begin_document(bb, "majorityOpTime");
    vd_bb_timestamp(bb, "ts", stor_replication_majority(storage));
    vd_bb_int64(bb, "t", (int64_t)stor_replication_term(storage));
    vd_bb_close(bb);
    vd_bb_close(bb);
}

static void replication(status_t *status)
{
    if (!stor_replication_alone(status->storage)) {
        replication_member(status);
        return;
    }
    vd_bb_t *bb = status->bb;
    const stor_settings_t *settings = &status->storage->settings;
    char host[STOR_FACTS_HOST_SIZE];
    vd_slice_t name = stor_facts_host(status->storage, host);
    vd_bb_begin_array(bb, "hosts");
    vd_bb_string(bb, "0", name);
    vd_bb_close(bb);
    vd_bb_cstr(bb, "setName", settings->replica_set);
    vd_bb_int32(bb, "setVersion", 1);
    vd_bb_bool(bb, "isWritablePrimary", true);
    vd_bb_bool(bb, "secondary", false);
    vd_bb_string(bb, "primary", name);
    vd_bb_string(bb, "me", name);
    vd_bb_begin_document(bb, "lastWrite");
    vd_bb_begin_document(bb, "opTime");
    vd_bb_timestamp(bb, "ts", stor_engine_newest(status->storage->engine));
    vd_bb_int64(bb, "t", (int64_t)status->storage->term);
    vd_bb_close(bb);
    vd_bb_date(bb, "lastWriteDate", atomic_load(&status->storage->last_write_ms));
    vd_bb_close(bb);
}

static void transactions(status_t *status)
{
    vd_bb_t *bb = status->bb;
    stor_transactions_stats_t s;
    stor_transactions_stats(status->storage, &s);
    put(bb, "retriedStatementsCount", status->storage->counters.retried_statements);
    put(bb, "transactionsCollectionWriteCount", s.rows);
    put(bb, "currentActive", s.active);
    put(bb, "currentInactive", s.open > s.active ? s.open - s.active : 0);
    put(bb, "currentOpen", s.open);
    put(bb, "totalAborted", s.aborted);
    put(bb, "totalStarted", s.started);
    put(bb, "totalCommitted", s.committed);
    put(bb, "changedBytes", s.bytes);
}

static void veddb(status_t *status)
{
    const stor_engine_stats_t *e = &status->engine;
    vd_bb_t *bb = status->bb;
    stor_journal_stats_t journal;
    stor_journal_stats(status->storage->journal, &journal);
    vd_bb_cstr(bb, "version", VEDDB_VERSION);
    vd_bb_begin_document(bb, "encryptionAtRest");
    vd_bb_bool(bb, "encryptionEnabled", true);
    vd_bb_cstr(bb, "encryptionCipherMode", "AES256-GCM");
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "durability");
    vd_bb_timestamp(bb, "newest", stor_engine_newest(status->storage->engine));
    vd_bb_timestamp(bb, "visible", stor_engine_visible(status->storage->engine));
    vd_bb_timestamp(bb, "durable", stor_engine_durable(status->storage->engine));
    put(bb, "flushes", e->flushes);
    put(bb, "flushedCommits", e->flushed_commits);
    put(bb, "flushMicros", e->flush_us_sum);
    put(bb, "flushMicrosMax", e->flush_us_max);
    put(bb, "repliesParked", status->inbox.parked);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "disk");
    put(bb, "freeBytes", e->free_bytes);
    put(bb, "reserveBytes", e->reserve_bytes);
    vd_bb_bool(bb, "reserveReached", e->reserve_reached);
    vd_bb_close(bb);
    stor_spill_stats_t spill;
    stor_spill_stats(status->storage->spill, &spill);
    vd_bb_begin_document(bb, "queries"); /* sorts, groups and windows, all together */
    put(bb, "memoryBytes", spill.memory_bytes);
    put(bb, "memoryMaxBytes", spill.memory_max_bytes);
    put(bb, "spillBytes", spill.disk_bytes);
    put(bb, "spillMaxBytes", spill.disk_max_bytes);
    put(bb, "spills", spill.runs);
    put(bb, "spilledBytesTotal", spill.spilled_bytes);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "journal");
    put(bb, "segments", journal.segments);
    put(bb, "bytes", journal.bytes);
    put(bb, "entries", journal.entries);
    vd_bb_timestamp(bb, "oldest", journal.oldest);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "requests");
    put(bb, "received", status->inbox.received);
    put(bb, "refused", status->inbox.refused);
    put(bb, "inFlight", status->inbox.inflight);
    put(bb, "workers", status->inbox.workers);
    put(bb, "retriedStatements", status->storage->counters.retried_statements);
    vd_bb_close(bb);
}

static const struct {
    const char *name;
    void (*append)(status_t *status);
} sections[] = {
    {"asserts", asserts},
    {"globalLock", global_lock},
    {"logicalSessionRecordCache", session_cache},
    {"opLatencies", latencies},
    {"opcounters", counters},
    {"opcountersRepl", counters_replicated},
    {"repl", replication},
    {"storageEngine", storage_engine},
    {"transactions", transactions},
    {"veddb", veddb},
    {"wiredTiger", wired_tiger},
    {"mem", memory},
    {"metrics", metrics},
};

/* {serverStatus: 1, metrics: 0} leaves a section out; {none: true} all that are not asked for. */
static bool is_wanted(vd_bson_t body, const char *name)
{
    vd_value_t v = vd_bson_get(body, name);
    if (vd_value_is_missing(v))
        return !vd_value_as_flag(vd_bson_get(body, "none"));
    return v.type == VD_BSON_OBJECT || vd_value_as_flag(v);
}

int stor_run_server_status(stor_request_t *request, vd_error_t *err)
{
    (void)err; /* cannot fail; handlers have one form */
    stor_storage_t *storage = request->storage;
    status_t status = {.request = request, .storage = storage, .bb = &request->reply};
    char host[STOR_FACTS_HOST_SIZE];
    vd_bb_t *bb = status.bb;
    stor_engine_stats(storage->engine, &status.engine);
    if (storage->inbox != NULL)
        stor_inbox_stats(storage, &status.inbox);
    uint64_t up_ms = vd_monotonic_ms() - storage->started_monotonic_ms;
    vd_bb_string(bb, "host", stor_facts_host(storage, host));
    vd_bb_cstr(bb, "version", STOR_FACTS_VERSION);
    vd_bb_cstr(bb, "process", "mongod");
    vd_bb_int64(bb, "pid", getpid());
    vd_bb_double(bb, "uptime", (double)(up_ms / 1000));
    put(bb, "uptimeMillis", up_ms);
    put(bb, "uptimeEstimate", up_ms / 1000);
    vd_bb_date(bb, "localTime", vd_wall_ms());
    for (size_t i = 0; i < VD_COUNT_OF(sections); i++) {
        if (!is_wanted(request->body, sections[i].name))
            continue;
        vd_bb_begin_document(bb, sections[i].name);
        sections[i].append(&status);
        vd_bb_close(bb);
    }
    return VD_OK;
}
