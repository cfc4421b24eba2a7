/* veddb-storaged/engine/engine.h — a thin wrap of WiredTiger and its traps; with session.h the only
 * headers of the engine that others include. wiredtiger.h is included only in this room.
 *
 * Duty:    opens the database behind every guard of guard.h, with encryption (encryptor.c), log and
 *          checkpoints as engine.c sets them; hands out sessions; owns the sequencer (timestamps),
 *          the flusher (group commit) and the reserve (free space).
 * Owner:   one engine per process at a time; open/close. close drains the flusher and takes a last
 *          checkpoint; stor_engine_abandon leaves at once (after a WiredTiger panic close may
 *          hang).
 * Threads: open/close by one; the rest any. A WiredTiger panic ends the process with exit code
 *          STOR_EXIT_PANIC after naming the cause. */
#pragma once
#include "veddb-storaged/engine/keys.h"
#include "veddb-storaged/engine/versions.h"

/* Exit code: the engine can't go on (WiredTiger panic, failed flush); the cause was logged. */
#define STOR_EXIT_PANIC 120

typedef struct stor_engine stor_engine_t;

/* WiredTiger measures the processor's clock once per process, 0.6 s of a core, inside its first
 * open. This pays for it in a thread of its own: call it first thing in main, then fetch keys and
 * configuration meanwhile. Optional; once. */
void stor_engine_warm_up(void);

struct stor_flush_waiter;

typedef struct {
    const char *folder;   /* data folder (0700); the engine's files stand in it */
    uint64_t cache_bytes; /* >= 16 MiB */
    uint32_t eviction_threads_max;
    uint32_t sessions_max;
    bool bootstrap; /* make a new database; refused when the folder holds one (or remains of one) */
    stor_keys_t *keys;           /* borrowed; outlives the engine */
    uint64_t log_file_max_bytes; /* 0 = 100 MB */
    uint64_t reserve_min_bytes;  /* free-space reserve; 0 = computed from the cache */
    uint32_t checkpoint_wait_s;  /* 0 = 30 */
    const char *fs_faults; /* tests only: file-system layer that drops/reorders unsynced writes (see
                              fs_faults.h); NULL = none */
    uint8_t term;          /* this node's term, 8 bits in each timestamp */
    stor_versions_t *versions; /* borrowed; outlives the engine; NULL = none */
    /* Called on the flusher thread with the parked waiters that a finished flush releases (linked
     * by next). */
    void (*released)(struct stor_flush_waiter *list, void *context);
    void *released_context;
    /* Called when the flush itself fails (I/O error): nothing more may be acknowledged; the process
     * must end. */
    void (*failed)(const vd_error_t *err, void *context);
} stor_engine_options_t;

VD_MUST_CHECK int stor_engine_open(const stor_engine_options_t *options, stor_engine_t **ret_engine,
                                   vd_error_t *err);
VD_MUST_CHECK int stor_engine_close(stor_engine_t **engine_p, vd_error_t *err);
/* Leaves the process at once, without closing anything (after a fatal error close may hang). */
_Noreturn void stor_engine_abandon(stor_engine_t *engine, int exit_code);
/* When the calling thread meets a block that can't be read, the engine is dead: this is called with
 * the reason before the process ends (STOR_EXIT_PANIC), while others that find it dead wait. It
 * must not use the engine, and come back soon. NULL: nothing is called. */
void stor_engine_last_words(void (*say)(const vd_error_t *err, void *context), void *context);
/* True when the folder already holds a database (turtle, metadata and log files present in full or
 * in part). */
bool stor_engine_exists(const char *folder);

/* The greatest version of the data keys that what is in the folder may need; 0: not known. */
uint32_t stor_engine_keys_highest(const char *folder);

/* Tables. Names are opaque ids ("c-12", "i-7", "j-3", "catalog"). Creating and dropping are their
 * own small transactions in WiredTiger. */
VD_MUST_CHECK int stor_engine_table_create(stor_engine_t *engine, const char *name, bool snappy,
                                           vd_error_t *err);
/* VD_ERR_OBJECT_IS_BUSY while cursors are open on it: sessions close theirs when
 * stor_engine_table_retire() has been called. */
VD_MUST_CHECK int stor_engine_table_drop(stor_engine_t *engine, const char *name, vd_error_t *err);
/* Whether writes to it go to the log; without, they are durable with the next checkpoint. Needs its
 * cursors closed: VD_ERR_OBJECT_IS_BUSY. What it has is on disk afterwards. */
VD_MUST_CHECK int stor_engine_table_log(stor_engine_t *engine, const char *name, bool logged,
                                        vd_error_t *err);
void stor_engine_table_retire(stor_engine_t *engine, const char *name);
/* Calls visit for every table in the metadata (for the sweep of orphans). */
VD_MUST_CHECK int stor_engine_tables(stor_engine_t *engine,
                                     int (*visit)(const char *name, void *context), void *context,
                                     vd_error_t *err);
/* Bytes of the table's file and, of these, bytes free for reuse. */
VD_MUST_CHECK int stor_engine_table_size(stor_engine_t *engine, const char *name,
                                         uint64_t *ret_file_bytes, uint64_t *ret_free_bytes,
                                         vd_error_t *err);
/* WiredTiger's verify() of one table; VD_ERR_CORRUPT with what it said. Needs the table's cursors
 * closed. */
VD_MUST_CHECK int stor_engine_table_verify(stor_engine_t *engine, const char *name,
                                           vd_error_t *err);
VD_MUST_CHECK int stor_engine_checkpoint(stor_engine_t *engine, vd_error_t *err);
/* None by themselves from here on; or as usual again. */
VD_MUST_CHECK int stor_engine_checkpoints_stop(stor_engine_t *engine, bool stop, vd_error_t *err);

/* ---- timestamps: {seconds u32, term u8, counter u24}; see sequencer.c ---- */
/* Newest timestamp of any committed write (a read's dependency when it found nothing). */
uint64_t stor_engine_newest(stor_engine_t *engine);
/* No commit at or below this is still to come; everything at or below it can be seen by a
 * transaction begun now. */
uint64_t stor_engine_visible(stor_engine_t *engine);
/* Everything at or below this is on disk. */
uint64_t stor_engine_durable(stor_engine_t *engine);

/* ---- as a member of a replica set ---- */
/* Timestamps are drawn under this term from now on, in a later second than anything drawn or
 * observed. Nothing is in flight. */
void stor_engine_term_set(stor_engine_t *engine, uint64_t term);
/* Commits of other nodes up to here have been taken over, or will be before anybody looks: the
 * points follow, and draws stay above. (stor_txn_timestamp_given does it for a transaction.) */
void stor_engine_observe(stor_engine_t *engine, uint64_t timestamp);
/* What is here ends at `position`, lower or higher than before: after opening a replica, whose
 * start would otherwise stand at the ceiling, and after loading a snapshot. Nothing is in flight.
 * Waits for a flush. */
void stor_engine_position_set(stor_engine_t *engine, uint64_t position);

/* ---- durability ---- */
/* The log is flushed at once, whether anybody is parked or not. Any thread. */
void stor_engine_flush_soon(stor_engine_t *engine);
/* flushed: called after each flush on the flusher's thread; NULL: no more. One at a time. */
void stor_engine_flush_hook(stor_engine_t *engine, void (*flushed)(uint64_t durable, void *context),
                            void *context);

typedef struct stor_flush_waiter {
    struct stor_flush_waiter *next;
} stor_flush_waiter_t;
/* True: everything at or below `timestamp` is flushed, answer now. False: the waiter is parked and
 * comes back through `released`. Threads: any. */
bool stor_engine_flush_wait(stor_engine_t *engine, uint64_t timestamp, stor_flush_waiter_t *waiter);
/* Flushes that have ended. What was committed before is on disk when this has grown by two. */
uint64_t stor_engine_flushes(const stor_engine_t *engine);

/* ---- free space ---- */
/* VD_OK, or VD_ERR_OUT_OF_DISK_SPACE with a clear message while the reserve is used up. Cheap
 * (sampled in the background). */
VD_MUST_CHECK int stor_engine_write_allowed(stor_engine_t *engine, vd_error_t *err);
/* The same for a write that gives space back (drop, delete): it may use a part of the reserve. */
VD_MUST_CHECK int stor_engine_free_allowed(stor_engine_t *engine, vd_error_t *err);

typedef struct {
    uint64_t flushes, flushed_commits, flush_us_sum, flush_us_max;
    uint64_t cache_bytes_max, cache_bytes_used, cache_bytes_dirty, cache_bytes_read,
        cache_bytes_written, pages_read, pages_evicted;
    uint64_t old_versions_evicted; /* written aside, because a snapshot still needs them */
    uint64_t log_bytes_written, log_syncs, checkpoints, checkpoint_ms_last;
    uint64_t txn_begins, txn_commits, txn_rollbacks, conflicts;
    uint64_t free_bytes, reserve_bytes;
    bool reserve_reached;
} stor_engine_stats_t;
void stor_engine_stats(stor_engine_t *engine, stor_engine_stats_t *ret_stats);
