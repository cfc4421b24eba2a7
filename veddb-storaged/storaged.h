/* veddb-storaged/storaged.h — the program's context: what exists once, and who owns it.
 *
 * Duty:    wiring. Every module gets its dependencies from here; nobody keeps globals.
 * Owner:   storaged.c makes and ends it. Fields never change between start and stop, unless
 *          marked atomic.
 * Threads: main (daemon loop, status), I/O (inbox.c: the link), workers (inbox_workers.c: one
 *          engine session each), keeper (keeper.c: expiry, counters, journal segments, scrub),
 *          and the engine's flusher. */
#pragma once
#include "libcommon/runtime/metrics.h"
#include "veddb-storaged/engine/engine.h"
#include "veddb-storaged/engine/session.h"
#include "veddb-storaged/freeze.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct stor_builds stor_builds_t;
typedef struct stor_catalog stor_catalog_t;
typedef struct stor_journal stor_journal_t;
typedef struct stor_sessions stor_sessions_t;
typedef struct stor_cursors stor_cursors_t;
typedef struct stor_inbox stor_inbox_t;
typedef struct stor_keeper stor_keeper_t;
typedef struct stor_request stor_request_t;
typedef struct stor_replication stor_replication_t;

/* serverStatus.opcounters, opcountersRepl, metrics.document: counted by commands. */
typedef struct {
    atomic_uint_fast64_t insert, query, update, remove, getmore, command;
    atomic_uint_fast64_t documents_inserted, documents_updated, documents_deleted,
        documents_returned;
    atomic_uint_fast64_t keys_examined, documents_examined, scan_and_order, write_conflicts,
        retried_statements;
} stor_op_counters_t;

/* serverStatus.metrics.ttl: ttl.c. */
typedef struct {
    atomic_uint_fast64_t passes, sub_passes, deleted;
} stor_ttl_counters_t;

/* What the background checks have looked at, and found wrong: keeper.c. */
typedef struct {
    atomic_uint_fast64_t collections, collection_failures, indexes, index_failures;
} stor_scrub_counters_t;
/* Change streams: streams/. entries: of the journal, read by streams; watched: the same, read by
 * waits for all that wait; filtered: events that a pushed filter kept from being built. */
typedef struct {
    atomic_uint_fast64_t open, parked, delivered, entries, filtered, split, expired, wakes, watched;
} stor_stream_counters_t;

typedef struct {
    uint64_t threads;            /* workers for quick operations */
    uint64_t cursor_idle_max_ms; /* storage.cursor_timeout */
    uint64_t session_idle_max_ms;
    uint64_t transaction_lifetime_ms; /* 0 = 60 s */
    uint64_t journal_max_bytes;
    uint64_t scrub_period_ms;
    uint64_t ttl_period_ms;  /* between passes; 0 = STOR_TTL_PERIOD_MS */
    const char *replica_set; /* name that drivers see */
    const char *address;     /* host:port that drivers see; may be empty */
    const char *data_folder;
    const char *node_name; /* node.name: what the set's configuration calls us; NULL = "" */
    uint64_t
        lease_ms; /* replication.lease: a primary without its replicad for so long steps down */
    bool audit;   /* the options below count */
    const char *audit_filter;
    bool audit_reads, audit_shed;
    uint64_t audit_backlog_max_bytes;
    bool replicated;  /* a replicad says what we are; else we are primary, alone */
    bool test_faults; /* test.faults */
} stor_settings_t;

typedef struct stor_storage {
    stor_settings_t settings;
    stor_keys_t *keys;
    stor_engine_t *engine;
    stor_catalog_t *catalog;
    stor_builds_t *builds; /* index/builds.h; the catalog's */
    stor_journal_t *journal;
    stor_sessions_t *sessions;
    stor_cursors_t *cursors;
    struct stor_planner *planner;       /* exec/planner.h; NULL in some unit tests: no statistics */
    struct stor_spill *spill;           /* exec/spill.h; NULL in unit tests: queries never spill */
    stor_keeper_t *keeper;              /* NULL in unit tests */
    stor_inbox_t *inbox;                /* NULL in unit tests */
    stor_replication_t *replication;    /* replication/replication.h */
    struct stor_audit *audit;           /* audit/audit.h; NULL: nothing is audited */
    struct stor_audit_link *audit_link; /* NULL in unit tests */
    stor_freeze_t freeze;               /* fsync {lock: true} */
    struct stor_fail_points *fail_points;     /* fail_points.h; NULL without test.faults */
    struct stor_rotation *rotation;           /* rotation/rotation.h; NULL in unit tests */
    struct stor_rotation_link *rotation_link; /* NULL in unit tests */
    struct stor_backups *backups;             /* backup/backup.h; NULL in unit tests */
    struct stor_latency *latency;             /* rotation/latency.h: of quick requests */
    struct stor_defaults *defaults;           /* defaults.h; NULL in unit tests */
    struct stor_waits *waits;                 /* streams/waits.h; the inbox's; NULL in unit tests */
    stor_versions_t *versions; /* engine/versions.h; NULL: nothing that is read is kept */
    stor_op_counters_t counters;
    stor_ttl_counters_t ttl;
    stor_scrub_counters_t scrub;
    stor_stream_counters_t streams;
    uint8_t boot_id[16]; /* new at each start */
    uint8_t set_id[12];  /* made at bootstrap, or copied with the data: by the functions below */
    uint64_t term;
    int64_t started_wall_ms;
    uint64_t started_monotonic_ms;
    atomic_uint_fast64_t auth_epoch;   /* timestamp of the newest change of users or roles */
    atomic_int_fast64_t last_write_ms; /* wall clock of the newest write */
    atomic_uint_fast64_t next_number;  /* of requests: opid */
    pthread_mutex_t registry_lock;     /* registry.c; and of set_id */
    stor_request_t *registry_first;
    uint64_t registry_count;
    atomic_bool ready, draining;
    atomic_bool state_changed; /* the I/O thread announces STATE at its next turn */
} stor_storage_t;

/* The set's id. Any thread. */
void stor_storage_set_id(stor_storage_t *storage, uint8_t ret_id[12]);
void stor_storage_set_id_put(stor_storage_t *storage, const uint8_t id[12]);

/* Users or roles have changed: older privileges are worth nothing from now on. Any thread. */
void stor_storage_auth_epoch_raise(stor_storage_t *storage, uint64_t epoch);

typedef struct {
    const char *folder; /* data folder */
    uint64_t cache_bytes;
    uint64_t reserve_min_bytes;
    uint64_t checkpoint_ms;
    bool bootstrap;              /* make a new database when there is none */
    const char *fs_faults;       /* tests only: engine/fs_faults.h */
    uint64_t log_file_max_bytes; /* 0 = the engine's own */
    const char *versions;        /* path of the table of versions; NULL = none */
} stor_storage_options_t;

/* Opens engine, catalog (with the sweep of orphans), journal, sessions, cursors over a folder. keys
 * are borrowed; settings' strings too. Starts no threads besides the engine's: inbox and keeper are
 * started by the program, and stopped by it before close. */
VD_MUST_CHECK int stor_storage_open(const stor_storage_options_t *options,
                                    const stor_settings_t *settings, stor_keys_t *keys,
                                    stor_storage_t **ret_storage, vd_error_t *err);
VD_MUST_CHECK int stor_storage_close(stor_storage_t **storage_p, vd_error_t *err);
