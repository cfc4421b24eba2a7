/* veddb-storaged/engine/engine.c — open, close, WiredTiger's messages, statistics.
 *
 * Order at open: guard (lock, format, files, log scan) -> free space -> WiredTiger (recovery) ->
 * own table -> sequencer above the stored ceiling -> flusher (first marker, new ceiling, both
 * durable) -> guard_opened. Each step refuses with a message that names the thing. */
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "veddb-storaged/engine/encryptor.h"
#include "veddb-storaged/engine/engine_private.h"
#include "veddb-storaged/engine/fs_faults.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CACHE_MIN_BYTES    (16ULL << 20)
#define LOG_FILE_BYTES     (100ULL << 20)
#define LOG_FILE_MIN_BYTES (1ULL << 20)
#define CHECKPOINT_WAIT_S  30
#define CHECKPOINT_LOG_MIN (16ULL << 20)
#define CHECKPOINT_LOG_MAX (256ULL << 20)
#define OWN_SESSIONS       32 /* flusher, admin, and those that WiredTiger opens for itself */

static stor_engine_t *of_handler(WT_EVENT_HANDLER *handler)
{
    return (stor_engine_t *)(void *)handler; /* the first member */
}

static bool speaks_of_damage(const char *message)
{
    return strcasestr(message, "corrupt") != NULL || strcasestr(message, "salvage") != NULL;
}

static bool speaks_of_reading(const char *message)
{
    return strcasestr(message, "read error") != NULL;
}

static void open_message_note(stor_engine_t *engine, const char *message, bool error)
{
    pthread_mutex_lock(&engine->message_lock);
    if (speaks_of_damage(message) && engine->open_fault[0] == '\0')
        (void)snprintf(engine->open_fault, sizeof engine->open_fault, "%s", message);
    if (error && engine->open_message[0] == '\0')
        (void)snprintf(engine->open_message, sizeof engine->open_message, "%s", message);
    pthread_mutex_unlock(&engine->message_lock);
}

static const char *quoted(const char *text, char buf[VD_ERROR_MESSAGE_SIZE + 64])
{
    return vd_log_quote(vd_slice_str(text), buf, VD_ERROR_MESSAGE_SIZE + 64);
}

/* Of the calling thread. */
static _Thread_local struct {
    void (*say)(const vd_error_t *err, void *context);
    void *context;
} last_words;
static pthread_mutex_t leaving = PTHREAD_MUTEX_INITIALIZER;

void stor_engine_last_words(void (*say)(const vd_error_t *err, void *context), void *context)
{
    last_words.say = say;
    last_words.context = context;
}

/* The environment is dead and WiredTiger's close may hang: say why and leave. Who comes second
 * waits here for the end. */
static _Noreturn void panic(const char *message)
{
    char cause[VD_ERROR_MESSAGE_SIZE + 64], last[VD_ERROR_MESSAGE_SIZE + 64];
    char own[VD_ERROR_MESSAGE_SIZE + 64];
    vd_error_t err = VD_ERROR_INIT;
    pthread_mutex_lock(&leaving); /* for good */
    bool has_error = stor_encryptor_error_take(&err);
    vd_log(VD_LOG_FATAL, "the storage engine can't go on", "cause=%s last=%s block=%s",
           quoted(stor_wt_message(), cause), quoted(message, last), quoted(err.message, own));
    if (last_words.say != NULL && speaks_of_reading(stor_wt_message())) {
        if (!has_error)
            (void)vd_error_set(&err, VD_ERR_CORRUPT, "a block can't be read");
        last_words.say(&err, last_words.context);
    }
    _exit(STOR_EXIT_PANIC);
}

static int handle_error(WT_EVENT_HANDLER *handler, WT_SESSION *session, int error,
                        const char *message)
{
    (void)session;
    stor_engine_t *engine = of_handler(handler);
    if (atomic_load(&engine->opening)) {
        open_message_note(engine, message, true);
        stor_wt_message_note(message);
        return 0;
    }
    if (error == WT_PANIC)
        panic(message);
    stor_wt_message_note(message);
    char buf[VD_ERROR_MESSAGE_SIZE + 64];
    vd_log(VD_LOG_ERROR, "storage engine", "error=%s", quoted(message, buf));
    return 0;
}

static int handle_message(WT_EVENT_HANDLER *handler, WT_SESSION *session, const char *message)
{
    (void)session;
    stor_engine_t *engine = of_handler(handler);
    if (atomic_load(&engine->opening))
        open_message_note(engine, message, false);
    char buf[VD_ERROR_MESSAGE_SIZE + 64];
    VD_DEBUG("storage engine", "text=%s", quoted(message, buf));
    return 0;
}

static int handle_progress(WT_EVENT_HANDLER *handler, WT_SESSION *session, const char *operation,
                           uint64_t progress)
{
    (void)handler;
    (void)session;
    (void)operation;
    (void)progress;
    return 0;
}

static int quiet(WT_EVENT_HANDLER *handler, WT_SESSION *session, int error, const char *message)
{
    (void)handler;
    (void)session;
    (void)error;
    (void)message;
    return 0;
}

static void *warm_up_run(void *arg)
{
    WT_EVENT_HANDLER handler = {.handle_error = quiet};
    WT_CONNECTION *conn = NULL;
    (void)arg;
    /* Refused, as it must be; the measurement is done before. */
    (void)wiredtiger_open("/dev/null/none", &handler, NULL, &conn);
    return NULL;
}

void stor_engine_warm_up(void)
{
    pthread_t thread;
    if (vd_thread_start(&thread, warm_up_run, NULL) == 0)
        (void)pthread_detach(thread); /* else the open takes longer, no more */
}

static int options_check(const stor_engine_options_t *options, vd_error_t *err)
{
    VD_ASSERT(options->folder != NULL);
    VD_ASSERT(options->keys != NULL);
    if (options->cache_bytes < CACHE_MIN_BYTES)
        return vd_error_set(err, VD_ERR_CONFIG, "the cache must have at least 16 MiB");
    if (options->log_file_max_bytes != 0 && options->log_file_max_bytes < LOG_FILE_MIN_BYTES)
        return vd_error_set(err, VD_ERR_CONFIG, "log files must have at least 1 MiB");
    if (options->sessions_max == 0 || options->sessions_max > 10000)
        return vd_error_set(err, VD_ERR_CONFIG, "engine sessions: 1 to 10000");
    if (options->eviction_threads_max == 0 || options->eviction_threads_max > 20)
        return vd_error_set(err, VD_ERR_CONFIG, "eviction threads: 1 to 20");
    uint8_t id[STOR_KEY_ID_BYTES];
    return stor_keys_active(options->keys, id, err);
}

/* Without it tables can't be made with compression, and old ones that have it can't be opened. */
static bool have_snappy(void)
{
    void *library = dlopen(STOR_SNAPPY_LIBRARY, RTLD_LAZY | RTLD_LOCAL);
    if (library != NULL)
        (void)dlclose(library); /* WiredTiger opens it again */
    return library != NULL;
}

/* So many bytes of the log make a checkpoint. */
static uint64_t checkpoint_log_bytes(const stor_engine_t *engine)
{
    uint64_t bytes = engine->options.log_file_max_bytes * 5 / 2;
    if (bytes > CHECKPOINT_LOG_MAX)
        return CHECKPOINT_LOG_MAX;
    return bytes < CHECKPOINT_LOG_MIN ? CHECKPOINT_LOG_MIN : bytes;
}

int stor_engine_checkpoints_stop(stor_engine_t *engine, bool stop, vd_error_t *err)
{
    char config[80];
    (void)snprintf(config, sizeof config, "checkpoint=(wait=%u,log_size=%" PRIu64 ")",
                   stop ? 0 : engine->options.checkpoint_wait_s,
                   stop ? 0 : checkpoint_log_bytes(engine));
    pthread_mutex_lock(&engine->admin_lock);
    stor_wt_message_clear();
    int ret = engine->conn->reconfigure(engine->conn, config);
    pthread_mutex_unlock(&engine->admin_lock);
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, config);
}

static void open_string(const stor_engine_t *engine, char *out, size_t size)
{
    const stor_engine_options_t *o = &engine->options;
    int len =
        snprintf(out, size,
                 "%ssession_max=%u,cache_size=%" PRIu64 ",eviction=(threads_min=1,threads_max=%u),"
                 "eviction_dirty_target=5,eviction_dirty_trigger=30,statistics=(fast),"
                 "checkpoint=(wait=%u,log_size=%" PRIu64 "),log=(enabled,file_max=%" PRIu64 "),"
                 "transaction_sync=(enabled=false,method=fsync),"
                 "extensions=[local={entry=stor_encryptor_entry,early_load=true}%s%s],"
                 "encryption=(name=veddb),config_base=false",
                 o->bootstrap ? "create," : "", o->sessions_max + OWN_SESSIONS, o->cache_bytes,
                 o->eviction_threads_max, o->checkpoint_wait_s, checkpoint_log_bytes(engine),
                 o->log_file_max_bytes, o->fs_faults != NULL ? "," STOR_FS_FAULTS_EXTENSION : "",
                 have_snappy() ? "," STOR_SNAPPY_LIBRARY : "");
    VD_ASSERT(len > 0 && (size_t)len < size);
}

/* Why WiredTiger refused, best reason first: our own block errors, talk of damage, its first
 * message, its code. */
static int open_refused(stor_engine_t *engine, int ret, vd_error_t *err)
{
    vd_error_t block = VD_ERROR_INIT;
    if (stor_encryptor_error_take(&block))
        return vd_error_set(err, block.code, "opening the database in %s: %s (%s)", engine->folder,
                            block.message, engine->open_message);
    if (engine->open_fault[0] != '\0')
        return vd_error_set(err, VD_ERR_CORRUPT, "the database in %s is damaged: %s",
                            engine->folder, engine->open_fault);
    int code =
        ret == ENOSPC  ? VD_ERR_OUT_OF_DISK_SPACE
        : ret == EBUSY ? VD_ERR_OBJECT_IS_BUSY
        : ret == WT_ERROR || ret == WT_PANIC || ret == EINVAL || ret == WT_NOTFOUND || ret == ENOENT
            ? VD_ERR_CORRUPT
            : VD_ERR_IO;
    return vd_error_set(err, code, "opening the database in %s: %s: %s", engine->folder,
                        wiredtiger_strerror(ret), engine->open_message);
}

static int wt_open(stor_engine_t *engine, vd_error_t *err)
{
    stor_encryptor_bind(engine->options.keys);
    engine->bound = true;
    char config[1024];
    open_string(engine, config, sizeof config);
    stor_wt_message_clear();
    atomic_store(&engine->opening, true);
    int ret = wiredtiger_open(engine->folder, &engine->handler, config, &engine->conn);
    atomic_store(&engine->opening, false);
    if (ret != 0 || engine->open_fault[0] != '\0')
        return open_refused(engine, ret, err);
    ret = engine->conn->open_session(engine->conn, NULL, "isolation=snapshot", &engine->admin);
    if (ret == 0 && engine->options.bootstrap)
        ret =
            engine->admin->create(engine->admin, STOR_OWN_TABLE_URI, "key_format=u,value_format=u");
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, "opening the engine's own table");
}

static int flusher_open(stor_engine_t *engine, vd_error_t *err)
{
    uint64_t ceiling = 0;
    int rc =
        engine->options.bootstrap ? VD_OK : stor_flusher_ceiling_read(engine->conn, &ceiling, err);
    if (rc != VD_OK)
        return rc;
    stor_flusher_options_t options = {
        .conn = engine->conn,
        .sequencer = &engine->sequencer,
        .guard = engine->guard,
        .released = engine->options.released,
        .failed = engine->options.failed,
        .released_context = engine->options.released_context,
    };
    stor_sequencer_init(&engine->sequencer, engine->options.term, engine->options.sessions_max,
                        ceiling);
    return stor_flusher_start(&options, &engine->flusher, err);
}

static void engine_free(stor_engine_t *engine)
{
    stor_sequencer_done(&engine->sequencer);
    if (engine->bound) /* not when an open was refused, perhaps beside an engine that runs */
        stor_encryptor_unbind();
    stor_guard_leave(&engine->guard);
    (void)pthread_mutex_destroy(&engine->message_lock);
    (void)pthread_mutex_destroy(&engine->admin_lock);
    (void)pthread_mutex_destroy(&engine->sessions_lock);
    (void)pthread_mutex_destroy(&engine->exclusion.lock);
    (void)pthread_cond_destroy(&engine->exclusion.changed);
    (void)pthread_mutex_destroy(&engine->hold.lock);
    (void)pthread_cond_destroy(&engine->hold.changed);
    vd_free(engine->slots);
    vd_free(engine->folder);
    free(engine);
}

static stor_engine_t *engine_make(const stor_engine_options_t *options)
{
    void *memory = NULL;
    VD_ASSERT(posix_memalign(&memory, 64, sizeof(stor_engine_t)) == 0);
    memset(memory, 0, sizeof(stor_engine_t));
    stor_engine_t *engine = memory;
    engine->handler = (WT_EVENT_HANDLER){.handle_error = handle_error,
                                         .handle_message = handle_message,
                                         .handle_progress = handle_progress,
                                         .handle_close = NULL};
    engine->options = *options;
    if (engine->options.log_file_max_bytes == 0)
        engine->options.log_file_max_bytes = LOG_FILE_BYTES;
    if (engine->options.checkpoint_wait_s == 0)
        engine->options.checkpoint_wait_s = CHECKPOINT_WAIT_S;
    engine->folder = vd_xstrdup(options->folder);
    engine->options.folder = engine->folder;
    engine->slots = vd_xalloc(sizeof(stor_session_t *) * options->sessions_max);
    VD_ASSERT(pthread_mutex_init(&engine->message_lock, NULL) == 0);
    VD_ASSERT(pthread_mutex_init(&engine->admin_lock, NULL) == 0);
    VD_ASSERT(pthread_mutex_init(&engine->sessions_lock, NULL) == 0);
    VD_ASSERT(pthread_mutex_init(&engine->exclusion.lock, NULL) == 0);
    VD_ASSERT(pthread_cond_init(&engine->exclusion.changed, NULL) == 0);
    VD_ASSERT(pthread_mutex_init(&engine->hold.lock, NULL) == 0);
    VD_ASSERT(pthread_cond_init(&engine->hold.changed, NULL) == 0);
    vd_list_init(&engine->exclusion.bulks);
    return engine;
}

int stor_engine_open(const stor_engine_options_t *options, stor_engine_t **ret_engine,
                     vd_error_t *err)
{
    VD_ASSERT(options != NULL);
    VD_ASSERT(ret_engine != NULL);
    int rc = options_check(options, err);
    if (rc != VD_OK)
        return rc;
    stor_engine_t *engine = engine_make(options);
    const stor_engine_options_t *o = &engine->options;
    rc = stor_guard_enter(engine->folder, o->bootstrap, o->keys, &engine->guard, err);
    if (rc == VD_OK)
        rc = stor_reserve_init(&engine->reserve, engine->folder, o->cache_bytes,
                               o->log_file_max_bytes, o->reserve_min_bytes, err);
    if (rc == VD_OK && o->fs_faults != NULL)
        rc = stor_fs_faults_configure(engine->folder, o->fs_faults, err);
    if (rc == VD_OK)
        rc = wt_open(engine, err);
    if (rc == VD_OK)
        stor_tables_moved_remove(engine->folder);
    if (rc == VD_OK)
        rc = flusher_open(engine, err);
    /* From its first start on a database has a checkpoint, and its turtle says where. */
    if (rc == VD_OK && (o->bootstrap || stor_guard_is_restored(engine->guard)))
        rc = stor_engine_checkpoint(engine, err);
    if (rc == VD_OK)
        rc = stor_guard_opened(engine->guard, err);
    if (rc != VD_OK)
        goto cleanup;
    *ret_engine = engine;
    return VD_OK;
cleanup:
    stor_flusher_stop(&engine->flusher);
    if (engine->conn != NULL)
        (void)engine->conn->close(engine->conn,
                                  NULL); /* the open has failed; its reason stands in err */
    engine_free(engine);
    return rc;
}

int stor_engine_close(stor_engine_t **engine_p, vd_error_t *err)
{
    stor_engine_t *engine = *engine_p;
    if (engine == NULL)
        return VD_OK;
    for (uint32_t slot = 0; slot < engine->options.sessions_max; slot++)
        VD_ASSERT(engine->slots[slot] == NULL); /* a session still open */
    stor_flusher_stop(&engine->flusher);
    stor_wt_message_clear();
    int ret = engine->conn->close(engine->conn, NULL);
    int rc = ret == 0 ? stor_guard_closed(engine->guard, err)
                      : stor_wt_error(ret, err, "closing the database");
    engine_free(engine);
    *engine_p = NULL;
    return rc;
}

_Noreturn void stor_engine_abandon(stor_engine_t *engine, int exit_code)
{
    (void)engine; /* nothing of it may be touched any more */
    _exit(exit_code);
}

bool stor_engine_exists(const char *folder)
{
    return stor_guard_exists(folder);
}

uint32_t stor_engine_keys_highest(const char *folder)
{
    return stor_guard_keys_highest(folder);
}

uint64_t stor_engine_newest(stor_engine_t *engine)
{
    return stor_sequencer_newest(&engine->sequencer);
}

uint64_t stor_engine_visible(stor_engine_t *engine)
{
    return stor_sequencer_visible(&engine->sequencer);
}

uint64_t stor_engine_durable(stor_engine_t *engine)
{
    return stor_flusher_durable(engine->flusher);
}

bool stor_engine_flush_wait(stor_engine_t *engine, uint64_t timestamp, stor_flush_waiter_t *waiter)
{
    return stor_flusher_wait(engine->flusher, timestamp, waiter);
}

void stor_engine_term_set(stor_engine_t *engine, uint64_t term)
{
    stor_sequencer_term_set(&engine->sequencer, (uint8_t)term);
}

void stor_engine_observe(stor_engine_t *engine, uint64_t timestamp)
{
    stor_sequencer_observe(&engine->sequencer, timestamp);
}

void stor_engine_position_set(stor_engine_t *engine, uint64_t position)
{
    stor_sequencer_position_set(&engine->sequencer, position);
    stor_flusher_position_set(engine->flusher, position);
}

void stor_engine_flush_soon(stor_engine_t *engine)
{
    stor_flusher_hurry(engine->flusher);
}

void stor_engine_flush_hook(stor_engine_t *engine, void (*flushed)(uint64_t durable, void *context),
                            void *context)
{
    stor_flusher_hook(engine->flusher, flushed, context);
}

int stor_engine_write_allowed(stor_engine_t *engine, vd_error_t *err)
{
    return stor_reserve_check(&engine->reserve, false, err);
}

int stor_engine_free_allowed(stor_engine_t *engine, vd_error_t *err)
{
    return stor_reserve_check(&engine->reserve, true, err);
}

static uint64_t statistic(WT_CURSOR *cursor, int which)
{
    const char *description = NULL, *text = NULL;
    int64_t value = 0;
    cursor->set_key(cursor, which);
    if (cursor->search(cursor) != 0 ||
        cursor->get_value(cursor, &description, &text, &value) != 0 || value < 0)
        return 0;
    return (uint64_t)value;
}

static void wt_stats(stor_engine_t *engine, stor_engine_stats_t *stats)
{
    WT_CURSOR *cursor = NULL;
    pthread_mutex_lock(&engine->admin_lock);
    if (engine->admin->open_cursor(engine->admin, "statistics:", NULL, NULL, &cursor) == 0) {
        stats->cache_bytes_max = statistic(cursor, WT_STAT_CONN_CACHE_BYTES_MAX);
        stats->cache_bytes_used = statistic(cursor, WT_STAT_CONN_CACHE_BYTES_INUSE);
        stats->cache_bytes_dirty = statistic(cursor, WT_STAT_CONN_CACHE_BYTES_DIRTY);
        stats->cache_bytes_read = statistic(cursor, WT_STAT_CONN_CACHE_BYTES_READ);
        stats->cache_bytes_written = statistic(cursor, WT_STAT_CONN_CACHE_BYTES_WRITE);
        stats->pages_read = statistic(cursor, WT_STAT_CONN_CACHE_READ);
        stats->pages_evicted = statistic(cursor, WT_STAT_CONN_CACHE_EVICTION_CLEAN) +
                               statistic(cursor, WT_STAT_CONN_CACHE_EVICTION_DIRTY);
        stats->old_versions_evicted = statistic(cursor, WT_STAT_CONN_CACHE_LOOKASIDE_INSERT);
        stats->log_bytes_written = statistic(cursor, WT_STAT_CONN_LOG_BYTES_WRITTEN);
        stats->log_syncs = statistic(cursor, WT_STAT_CONN_LOG_SYNC);
        stats->checkpoints = statistic(cursor, WT_STAT_CONN_TXN_CHECKPOINT);
        stats->checkpoint_ms_last = statistic(cursor, WT_STAT_CONN_TXN_CHECKPOINT_TIME_RECENT);
        (void)cursor->close(cursor); /* statistics only */
    }
    pthread_mutex_unlock(&engine->admin_lock);
}

static void txn_stats_add(stor_engine_stats_t *stats, const stor_txn_counts_t *counts)
{
    stats->txn_begins += atomic_load(&counts->begins);
    stats->txn_commits += atomic_load(&counts->commits);
    stats->txn_rollbacks += atomic_load(&counts->rollbacks);
    stats->conflicts += atomic_load(&counts->conflicts);
}

void stor_engine_stats(stor_engine_t *engine, stor_engine_stats_t *ret_stats)
{
    stor_engine_stats_t stats = {0};
    wt_stats(engine, &stats);
    stor_flusher_stats(engine->flusher, &stats);
    pthread_mutex_lock(&engine->sessions_lock);
    txn_stats_add(&stats, &engine->closed_counts);
    for (uint32_t slot = 0; slot < engine->options.sessions_max; slot++)
        if (engine->slots[slot] != NULL)
            txn_stats_add(&stats, &engine->slots[slot]->counts);
    pthread_mutex_unlock(&engine->sessions_lock);
    stats.free_bytes = atomic_load(&engine->reserve.free_bytes);
    stats.reserve_bytes = engine->reserve.reserve_bytes;
    stats.reserve_reached = atomic_load(&engine->reserve.reached);
    *ret_stats = stats;
}

uint64_t stor_engine_flushes(const stor_engine_t *engine)
{
    return stor_flusher_flushes(engine->flusher);
}
