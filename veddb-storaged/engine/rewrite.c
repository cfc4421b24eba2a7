/* veddb-storaged/engine/rewrite.c — see rewrite.h. Works with sessions of WiredTiger's own, beside
 * the sequencer and the flusher: what it changes means the same as before. */
#include "veddb-storaged/engine/rewrite.h"

#include "libcommon/base/fault.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/engine/checkpoint.h"
#include "veddb-storaged/engine/engine_private.h"
#include "veddb-storaged/engine/log_scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define METADATA_URI     "file:WiredTiger.wt"
#define LAST             "checkpoint=WiredTigerCheckpoint"
#define LAST_PREFIX      "WiredTigerCheckpoint."
#define VALUE_MAX_BYTES  (64u << 20)
#define PACE_BYTES       (256u << 10)
#define TABLES_MAX       1000000
#define FILLER_BYTES     (256u << 10)
#define LOG_RECORD_BYTES 128
#define LOG_BLOCK_OFFSET 20 /* of the sealed block in a log record */
#define FRESH_TRIES      20
#define FLUSHES_WAIT_US  200
#define BEHIND_ALL_BYTES 64

struct stor_rewrite {
    stor_engine_t *engine;
    stor_rewrite_options_t options;
    WT_SESSION *session; /* of the checkpoints; and of the transactions */
    WT_SESSION *writer;
    vd_map_t *walked; /* table -> number of the newest checkpoint that was walked (uint64_t *) */
    vd_buf_t value, last;
    uint64_t walked_bytes, old_bytes; /* since pace was last called */
    uint64_t slice_bytes;
    bool yielded;
};

/* ---- who needs a table alone ---- */

static bool is_kept_out(const stor_exclusion_t *exclusion, const char *table)
{
    for (uint32_t i = 0; i < STOR_EXCLUSIONS_MAX; i++)
        if (strcmp(exclusion->names[i], table) == 0)
            return true;
    return false;
}

void stor_rewrite_keep_out(stor_engine_t *engine, const char *table)
{
    stor_exclusion_t *exclusion = &engine->exclusion;
    pthread_mutex_lock(&exclusion->lock);
    uint32_t at = 0;
    for (;;) {
        for (at = 0; at < STOR_EXCLUSIONS_MAX && exclusion->names[at][0] != '\0'; at++)
            continue;
        if (at < STOR_EXCLUSIONS_MAX)
            break;
        pthread_cond_wait(&exclusion->changed, &exclusion->lock);
    }
    (void)snprintf(exclusion->names[at], sizeof exclusion->names[at], "%s", table);
    while (strcmp(exclusion->walking, table) == 0) {
        atomic_store(&exclusion->yield, true);
        pthread_cond_wait(&exclusion->changed, &exclusion->lock);
    }
    pthread_mutex_unlock(&exclusion->lock);
}

void stor_rewrite_let_in(stor_engine_t *engine, const char *table)
{
    stor_exclusion_t *exclusion = &engine->exclusion;
    pthread_mutex_lock(&exclusion->lock);
    for (uint32_t i = 0; i < STOR_EXCLUSIONS_MAX; i++) {
        if (strcmp(exclusion->names[i], table) == 0) {
            exclusion->names[i][0] = '\0';
            break;
        }
    }
    pthread_cond_broadcast(&exclusion->changed);
    pthread_mutex_unlock(&exclusion->lock);
}

/* False: somebody needs it alone. */
static bool walk_enter(stor_rewrite_t *rewrite, const char *table)
{
    stor_exclusion_t *exclusion = &rewrite->engine->exclusion;
    pthread_mutex_lock(&exclusion->lock);
    bool ok = !is_kept_out(exclusion, table);
    if (ok)
        (void)snprintf(exclusion->walking, sizeof exclusion->walking, "%s", table);
    atomic_store(&exclusion->yield, false);
    pthread_mutex_unlock(&exclusion->lock);
    return ok;
}

static void walk_leave(stor_rewrite_t *rewrite)
{
    stor_exclusion_t *exclusion = &rewrite->engine->exclusion;
    pthread_mutex_lock(&exclusion->lock);
    exclusion->walking[0] = '\0';
    pthread_cond_broadcast(&exclusion->changed);
    pthread_mutex_unlock(&exclusion->lock);
}

bool stor_rewrite_is_wanted(const stor_engine_t *engine)
{
    return atomic_load_explicit(&engine->exclusion.yield, memory_order_relaxed);
}

/* ---- open, close ---- */

int stor_rewrite_open(stor_engine_t *engine, const stor_rewrite_options_t *options,
                      stor_rewrite_t **ret_rewrite, vd_error_t *err)
{
    stor_rewrite_t *rewrite = vd_xalloc(sizeof *rewrite);
    rewrite->engine = engine;
    rewrite->options = *options;
    if (options->slice_bytes == 0)
        rewrite->options.slice_bytes = STOR_REWRITE_SLICE_BYTES;
    rewrite->walked = vd_map_create(TABLES_MAX);
    vd_buf_init(&rewrite->value, VALUE_MAX_BYTES);
    vd_buf_init(&rewrite->last, VALUE_MAX_BYTES);
    stor_wt_message_clear();
    WT_CONNECTION *conn = engine->conn;
    int ret = conn->open_session(conn, NULL, "cache_cursors=false", &rewrite->session);
    if (ret == 0)
        ret = conn->open_session(conn, NULL, "isolation=snapshot,cache_cursors=false",
                                 &rewrite->writer);
    if (ret != 0) {
        int rc = stor_wt_error(ret, err, "opening a session");
        stor_rewrite_close(&rewrite);
        return rc;
    }
    *ret_rewrite = rewrite;
    return VD_OK;
}

void stor_rewrite_close(stor_rewrite_t **rewrite_p)
{
    stor_rewrite_t *rewrite = *rewrite_p;
    size_t position = 0;
    vd_slice_t key;
    void *value;
    if (rewrite == NULL)
        return;
    if (rewrite->session != NULL)
        (void)rewrite->session->close(rewrite->session, NULL); /* no transaction is open */
    if (rewrite->writer != NULL)
        (void)rewrite->writer->close(rewrite->writer, NULL); /* none here, either */
    while (vd_map_next(rewrite->walked, &position, &key, &value))
        vd_free(value);
    vd_map_destroy(&rewrite->walked);
    vd_buf_done(&rewrite->value);
    vd_buf_done(&rewrite->last);
    vd_free(rewrite);
    *rewrite_p = NULL;
}

/* ---- checkpoints ---- */

static int is_own(const char *table)
{
    return strcmp(table, STOR_OWN_TABLE) == 0 || strcmp(table, METADATA_URI) == 0;
}

static int uri_of(const char *table, char uri[STOR_TABLE_NAME_MAX_BYTES + 16], vd_error_t *err)
{
    if (!is_own(table))
        return stor_table_uri(table, uri, err);
    (void)snprintf(uri, STOR_TABLE_NAME_MAX_BYTES + 16, "%s",
                   strcmp(table, STOR_OWN_TABLE) == 0 ? STOR_OWN_TABLE_URI : table);
    return VD_OK;
}

/* The number in "checkpoint=(...,WiredTigerCheckpoint.7=(": 0 = it has none. */
static int newest_number(stor_rewrite_t *rewrite, const char *uri, uint64_t *ret_number)
{
    WT_CURSOR *cursor = NULL;
    const char *value = NULL;
    uint64_t number = 0;
    int ret = rewrite->session->open_cursor(rewrite->session, "metadata:", NULL, NULL, &cursor);
    if (ret != 0)
        return ret;
    cursor->set_key(cursor, uri);
    ret = cursor->search(cursor);
    if (ret == 0)
        ret = cursor->get_value(cursor, &value);
    if (ret == 0)
        for (const char *at = value; (at = strstr(at, LAST_PREFIX)) != NULL;) {
            at += sizeof LAST_PREFIX - 1;
            uint64_t n = strtoull(at, NULL, 10);
            number = n > number ? n : number;
        }
    (void)cursor->close(cursor); /* a reading cursor */
    if (ret == 0)
        *ret_number = number;
    return ret;
}

typedef struct {
    stor_rewrite_t *rewrite;
    uint32_t stale;
} fresh_t;

/* Only files that are open get a checkpoint: opening one for a moment does. */
static int table_touch(const char *table, void *context)
{
    fresh_t *fresh = context;
    stor_rewrite_t *rewrite = fresh->rewrite;
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    WT_CURSOR *cursor = NULL;
    if (uri_of(table, uri, NULL) != VD_OK || !walk_enter(rewrite, table))
        return VD_OK;
    if (rewrite->session->open_cursor(rewrite->session, uri, NULL, NULL, &cursor) == 0)
        (void)cursor->close(cursor); /* gone, or somebody's alone: the walk says so */
    walk_leave(rewrite);
    return VD_OK;
}

static int checkpoint_take(stor_rewrite_t *rewrite, const char *how, vd_error_t *err)
{
    stor_wt_message_clear();
    int ret = rewrite->session->checkpoint(rewrite->session, how);
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, "checkpoint");
}

int stor_rewrite_checkpoint(stor_rewrite_t *rewrite, vd_error_t *err)
{
    fresh_t fresh = {.rewrite = rewrite};
    int rc = VD_FAULT("rewrite.before_checkpoint", err);
    if (rc == VD_OK)
        rc = stor_engine_tables(rewrite->engine, table_touch, &fresh, err);
    if (rc != VD_OK)
        return rc;
    (void)table_touch(STOR_OWN_TABLE, &fresh);
    rc = checkpoint_take(rewrite, "force=true", err);
    return rc == VD_OK ? VD_FAULT("rewrite.after_checkpoint", err) : rc;
}

/* ---- one block ---- */

static WT_ITEM item(vd_slice_t s)
{
    return (WT_ITEM){.data = s.data, .size = s.len};
}

/* The record's value, changed and unchanged in meaning. WT_ROLLBACK and WT_NOTFOUND: somebody has
 * changed it since the checkpoint, and so its block. */
static int record_flip(stor_rewrite_t *rewrite, WT_CURSOR *live, const char *table, vd_slice_t key)
{
    WT_ITEM k = item(key), v;
    live->set_key(live, &k);
    int ret = live->search(live);
    if (ret == 0)
        ret = live->get_value(live, &v);
    if (ret != 0)
        return ret;
    vd_slice_t value = vd_slice(v.data, v.size);
    vd_buf_clear(&rewrite->value);
    if (rewrite->options.flip == NULL ||
        !rewrite->options.flip(table, key, value, &rewrite->value)) {
        vd_buf_clear(&rewrite->value);
        if (vd_buf_append_slice(&rewrite->value, value) != VD_OK)
            return ENOMEM;
    }
    k = item(key);
    v = item(vd_buf_slice(&rewrite->value));
    live->set_key(live, &k);
    live->set_value(live, &v);
    return live->update(live);
}

/* Behind all records there may be a block that has none: a record comes and goes there unseen. */
static int page_touch(WT_CURSOR *live)
{
    uint8_t behind[BEHIND_ALL_BYTES];
    memset(behind, 0xff, sizeof behind);
    WT_ITEM k = {.data = behind, .size = sizeof behind}, v = {.data = behind, .size = 1};
    live->set_key(live, &k);
    live->set_value(live, &v);
    int ret = live->insert(live);
    if (ret == 0) {
        live->set_key(live, &k);
        ret = live->remove(live);
    }
    return ret;
}

/* key NULL: page_touch. */
static int block_rewrite(stor_rewrite_t *rewrite, WT_CURSOR *live, const char *table,
                         const vd_slice_t *key, stor_rewrite_counts_t *counts, vd_error_t *err)
{
    WT_SESSION *writer = rewrite->writer;
    int ret = writer->begin_transaction(writer, NULL);
    if (ret != 0)
        return stor_wt_error(ret, err, "beginning a transaction");
    ret = key == NULL ? page_touch(live) : record_flip(rewrite, live, table, *key);
    int rc = ret == 0 ? VD_FAULT("rewrite.before_commit", err) : VD_OK;
    (void)live->reset(live);
    if (ret != 0 || rc != VD_OK) {
        (void)writer->rollback_transaction(writer, NULL); /* fails only by panic */
        if (rc != VD_OK)
            return rc;
        counts->conflicts++;
        return ret == WT_ROLLBACK || ret == WT_NOTFOUND || ret == WT_DUPLICATE_KEY
                   ? VD_OK
                   : stor_wt_error(ret, err, table);
    }
    ret = writer->commit_transaction(writer, NULL);
    if (ret != 0)
        return stor_wt_error(ret, err, "committing");
    counts->rewritten++;
    stor_reserve_written(&rewrite->engine->reserve, vd_buf_len(&rewrite->value));
    return VD_FAULT("rewrite.after_commit", err);
}

static int pace(stor_rewrite_t *rewrite, vd_error_t *err)
{
    uint64_t walked = rewrite->walked_bytes, old = rewrite->old_bytes;
    rewrite->walked_bytes = rewrite->old_bytes = 0;
    return rewrite->options.pace == NULL
               ? VD_OK
               : rewrite->options.pace(walked, old, rewrite->options.context, err);
}

/* ---- a table ---- */

typedef struct {
    const char *table;
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    WT_CURSOR *old, *live; /* live NULL: only counted */
    stor_rewrite_counts_t *counts;
    bool any; /* rewrite->last is the last record seen */
} walk_t;

/* Blocks of old keys that the last step read. */
static uint64_t step_take(stor_rewrite_t *rewrite, walk_t *walk)
{
    uint64_t blocks = stor_keys_thread_old_blocks();
    if (VD_LIKELY(blocks == 0))
        return 0;
    uint64_t bytes = stor_keys_thread_old_bytes();
    walk->counts->old_blocks += blocks;
    rewrite->old_bytes += bytes;
    rewrite->slice_bytes += bytes;
    stor_keys_thread_old_by_key(walk->counts->by_key);
    return blocks;
}

static int seek(stor_rewrite_t *rewrite, walk_t *walk)
{
    if (!walk->any)
        return walk->old->next(walk->old);
    int exact = 0;
    WT_ITEM k = item(vd_buf_slice(&rewrite->last));
    walk->old->set_key(walk->old, &k);
    int ret = walk->old->search_near(walk->old, &exact);
    return ret == 0 && exact <= 0 ? walk->old->next(walk->old) : ret;
}

/* From behind the last record to the end, or of the slice. *ret_end: the table's end was reached.
 */
static int slice_walk(stor_rewrite_t *rewrite, walk_t *walk, bool *ret_end, vd_error_t *err)
{
    int rc = VD_OK;
    int ret = seek(rewrite, walk);
    for (; ret == 0; ret = walk->old->next(walk->old)) {
        WT_ITEM k, v;
        ret = walk->old->get_key(walk->old, &k);
        if (ret == 0)
            ret = walk->old->get_value(walk->old, &v); /* an overflow value is read here */
        if (ret != 0)
            break;
        walk->counts->records++;
        rewrite->walked_bytes += k.size + v.size;
        uint64_t blocks = step_take(rewrite, walk);
        vd_slice_t key = vd_slice(k.data, k.size);
        vd_buf_clear(&rewrite->last);
        rc = vd_buf_append_slice(&rewrite->last, key);
        walk->any = rc == VD_OK;
        if (rc == VD_OK && blocks > 0 && walk->live != NULL)
            rc = block_rewrite(rewrite, walk->live, walk->table, &key, walk->counts, err);
        if (rc == VD_OK && (blocks > 0 || rewrite->walked_bytes >= PACE_BYTES))
            rc = pace(rewrite, err);
        if (rc != VD_OK)
            return rc;
        if (stor_rewrite_is_wanted(rewrite->engine)) {
            rewrite->yielded = true;
            return VD_OK;
        }
        if (walk->live != NULL && rewrite->slice_bytes >= rewrite->options.slice_bytes)
            return VD_OK;
    }
    if (ret != WT_NOTFOUND)
        return stor_wt_error(ret, err, walk->table);
    if (step_take(rewrite, walk) > 0 && walk->live != NULL)
        rc = block_rewrite(rewrite, walk->live, walk->table, NULL, walk->counts, err);
    *ret_end = true;
    return rc == VD_OK ? pace(rewrite, err) : rc;
}

static void walk_close(walk_t *walk)
{
    if (walk->old != NULL)
        (void)walk->old->close(walk->old); /* a reading cursor */
    if (walk->live != NULL)
        (void)walk->live->close(walk->live); /* reset: nothing is lost */
    walk->old = walk->live = NULL;
}

/* Opens both cursors; the old one first, so that what is opened is what was walked. *ret_none: the
 * table is gone, or has no checkpoint, and so no old block. */
static int cursors_open(stor_rewrite_t *rewrite, walk_t *walk, bool write, bool *ret_none,
                        vd_error_t *err)
{
    /* raw: the metadata's rows are text */
    int ret =
        rewrite->session->open_cursor(rewrite->session, walk->uri, NULL, "raw," LAST, &walk->old);
    if (ret == 0 && write)
        ret = rewrite->writer->open_cursor(rewrite->writer, walk->uri, NULL, "overwrite=false",
                                           &walk->live);
    *ret_none = ret == ENOENT || ret == WT_NOTFOUND;
    if (ret == EBUSY) {
        walk->counts->busy = true;
        *ret_none = true;
    }
    if (ret == 0 || *ret_none)
        return VD_OK;
    return stor_wt_error(ret, err, walk->table);
}

static int walk_slices(stor_rewrite_t *rewrite, walk_t *walk, bool write, uint64_t *number,
                       vd_error_t *err)
{
    bool end = false, none = false;
    int rc = VD_OK;
    for (rewrite->yielded = false; rc == VD_OK && !end && !rewrite->yielded;) {
        rewrite->slice_bytes = 0;
        int ret = newest_number(rewrite, walk->uri, number);
        if (ret == WT_NOTFOUND)
            return VD_OK; /* gone */
        if (ret != 0)
            return stor_wt_error(ret, err, walk->table);
        rc = cursors_open(rewrite, walk, write, &none, err);
        if (rc == VD_OK && !none)
            rc = slice_walk(rewrite, walk, &end, err);
        walk_close(walk);
        if (none)
            return rc;
        if (rc == VD_OK && !end && !rewrite->yielded)
            rc = checkpoint_take(rewrite, NULL, err);
    }
    if (rewrite->yielded)
        walk->counts->busy = true;
    return rc;
}

static uint64_t *walked_of(stor_rewrite_t *rewrite, const char *table)
{
    uint64_t *walked = vd_map_get(rewrite->walked, vd_slice_str(table));
    if (walked != NULL)
        return walked;
    walked = vd_xalloc(sizeof *walked);
    if (vd_map_put(rewrite->walked, vd_slice_str(table), walked, NULL) == VD_OK)
        return walked;
    vd_free(walked);
    return NULL;
}

static void counters_clear(void)
{
    uint64_t ignored[STOR_KEYS_MAX] = {0};
    (void)stor_keys_thread_old_blocks();
    (void)stor_keys_thread_old_bytes();
    stor_keys_thread_old_by_key(ignored);
}

static int table_walk(stor_rewrite_t *rewrite, const char *table, bool write,
                      stor_rewrite_counts_t *counts, vd_error_t *err)
{
    walk_t walk = {.table = table, .counts = counts};
    uint64_t number = 0, before = 0;
    int rc = uri_of(table, walk.uri, err);
    if (rc != VD_OK)
        return rc;
    uint64_t *walked = walked_of(rewrite, table);
    if (walked == NULL)
        return vd_error_set(err, VD_ERR_FULL, "too many tables");
    int ret = newest_number(rewrite, walk.uri, &before);
    if (ret == WT_NOTFOUND)
        return VD_OK; /* gone */
    if (ret != 0)
        return stor_wt_error(ret, err, table);
    if (before != 0 && before <= *walked)
        return vd_error_set(err, VD_ERR_AGAIN, "table %s has no checkpoint since it was walked",
                            table);
    if (!walk_enter(rewrite, table)) {
        counts->busy = true;
        return VD_OK;
    }
    counters_clear();
    rc = walk_slices(rewrite, &walk, write, &number, err);
    walk_leave(rewrite);
    /* The one that was opened, or one since. */
    if (newest_number(rewrite, walk.uri, &number) == 0)
        *walked = number;
    return rc;
}

/* A checkpoint of somebody else in the middle of ours may leave a table without one of its own. */
static int fresh_walk(stor_rewrite_t *rewrite, const char *table, bool write,
                      stor_rewrite_counts_t *counts, vd_error_t *err)
{
    for (int tries = 0;; tries++) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = table_walk(rewrite, table, write, counts, &step);
        if (rc == VD_ERR_AGAIN && tries < FRESH_TRIES) {
            rc = stor_rewrite_checkpoint(rewrite, &step);
            if (rc == VD_OK)
                continue;
        }
        if (rc == VD_ERR_AGAIN) { /* nobody can say what it has: not zero */
            counts->busy = true;
            return VD_OK;
        }
        if (rc != VD_OK && err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
}

int stor_rewrite_table(stor_rewrite_t *rewrite, const char *table, bool write,
                       stor_rewrite_counts_t *counts, vd_error_t *err)
{
    VD_ASSERT(!is_own(table));
    return fresh_walk(rewrite, table, write, counts, err);
}

int stor_rewrite_own(stor_rewrite_t *rewrite, stor_rewrite_counts_t *counts, vd_error_t *err)
{
    int rc = fresh_walk(rewrite, STOR_OWN_TABLE, false, counts, err);
    return rc == VD_OK ? fresh_walk(rewrite, METADATA_URI, false, counts, err) : rc;
}

/* ---- the log ---- */

/* Counts at every place where a record can begin: nothing that is there is missed, whatever the
 * records before it look like. */
static void log_bytes_count(const uint8_t *data, size_t len, const stor_key_info_t *infos,
                            uint32_t count, stor_rewrite_counts_t *counts)
{
    uint8_t id[STOR_KEY_ID_BYTES];
    for (size_t at = 0; at + LOG_RECORD_BYTES <= len; at += LOG_RECORD_BYTES) {
        vd_slice_t block = vd_slice(data + at + LOG_BLOCK_OFFSET, STOR_BLOCK_OVERHEAD_BYTES);
        if (data[at + LOG_BLOCK_OFFSET] == 0 || stor_keys_block_key(block, id, NULL) != VD_OK)
            continue;
        for (uint32_t i = 0; i < count; i++) {
            if (infos[i].state != STOR_KEY_ACTIVE &&
                memcmp(infos[i].id, id, STOR_KEY_ID_BYTES) == 0) {
                counts->by_key[i]++;
                counts->old_blocks++;
            }
        }
    }
}

/* A file that is removed meanwhile has nothing. */
static int log_file_count(const char *path, const stor_key_info_t *infos, uint32_t count,
                          stor_rewrite_counts_t *counts, vd_error_t *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? VD_OK : vd_error_set_errno(err, "%s", path);
    int rc = fstat(fd, &st) == 0 ? VD_OK : vd_error_set_errno(err, "%s", path);
    /* Read, not mapped: WiredTiger may cut the file off. */
    uint8_t *buf = vd_xalloc(FILLER_BYTES);
    for (off_t at = 0; rc == VD_OK && at < st.st_size;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0 && errno != ENXIO)
            rc = vd_error_set_errno(err, "reading %s", path);
        if (data < 0)
            break; /* holes to the end */
        at = data / LOG_RECORD_BYTES * LOG_RECORD_BYTES;
        ssize_t n = pread(fd, buf, FILLER_BYTES, at);
        if (n < 0)
            rc = vd_error_set_errno(err, "reading %s", path);
        if (n < LOG_RECORD_BYTES)
            break;
        log_bytes_count(buf, (size_t)n, infos, count, counts);
        at += n / LOG_RECORD_BYTES * LOG_RECORD_BYTES;
    }
    vd_free(buf);
    (void)close(fd); /* was only read */
    return rc;
}

/* Calls for each log file; returns the highest number. */
static int log_each(stor_rewrite_t *rewrite, const stor_key_info_t *infos, uint32_t count,
                    stor_rewrite_counts_t *counts, uint32_t *ret_highest, vd_error_t *err)
{
    char path[4096];
    const size_t prefix_len = sizeof STOR_LOG_FILE_PREFIX - 1;
    int rc = VD_OK;
    DIR *dir = opendir(rewrite->engine->folder);
    if (dir == NULL)
        return vd_error_set_errno(err, "reading the folder %s", rewrite->engine->folder);
    *ret_highest = 0;
    for (struct dirent *entry; rc == VD_OK && (entry = readdir(dir)) != NULL;) {
        const char *digits = entry->d_name + prefix_len;
        if (strncmp(entry->d_name, STOR_LOG_FILE_PREFIX, prefix_len) != 0 || strlen(digits) != 10)
            continue;
        uint32_t number = (uint32_t)strtoul(digits, NULL, 10);
        *ret_highest = number > *ret_highest ? number : *ret_highest;
        (void)snprintf(path, sizeof path, "%s/%s", rewrite->engine->folder, entry->d_name);
        if (counts != NULL)
            rc = log_file_count(path, infos, count, counts, err);
    }
    (void)closedir(dir); /* was only read */
    return rc;
}

int stor_rewrite_log_count(stor_rewrite_t *rewrite, stor_rewrite_counts_t *counts, vd_error_t *err)
{
    stor_key_info_t *infos = vd_xalloc(STOR_KEYS_MAX * sizeof *infos);
    uint32_t highest, count = stor_keys_list(rewrite->engine->options.keys, infos);
    int rc = log_each(rewrite, infos, count, counts, &highest, err);
    vd_free(infos);
    return rc;
}

int stor_rewrite_log_renew(stor_rewrite_t *rewrite, vd_error_t *err)
{
    WT_SESSION *session = rewrite->session;
    uint32_t before = 0, now = 0;
    uint64_t filled = 0;
    char *filler = vd_xalloc(FILLER_BYTES + 1);
    memset(filler, '.', FILLER_BYTES);
    int rc = VD_FAULT("rewrite.before_log", err);
    if (rc == VD_OK)
        rc = log_each(rewrite, NULL, 0, NULL, &before, err);
    for (now = before; rc == VD_OK && now == before;) {
        int ret = session->log_printf(session, "%s", filler);
        if (ret == 0)
            ret = session->log_flush(session, "sync=off");
        if (ret != 0)
            rc = stor_wt_error(ret, err, "filling the log");
        filled += FILLER_BYTES;
        if (rc == VD_OK && filled > 4 * rewrite->engine->options.log_file_max_bytes)
            rc = vd_error_set(err, VD_ERR_INTERNAL, "the log does not go on in a new file");
        if (rc == VD_OK)
            rc = log_each(rewrite, NULL, 0, NULL, &now, err);
        if (rc == VD_OK)
            rc = pace(rewrite, err);
    }
    vd_free(filler);
    /* Forced: one with nothing to write is skipped, and the log of before kept. */
    return rc == VD_OK ? checkpoint_take(rewrite, "force=true", err) : rc;
}

/* ---- what else there is ---- */

int stor_rewrite_small(stor_rewrite_t *rewrite, vd_error_t *err)
{
    stor_flusher_t *flusher = rewrite->engine->flusher;
    int rc = stor_guard_reseal(rewrite->engine->guard, err);
    if (rc != VD_OK)
        return rc;
    /* One that is under way may have begun before. */
    uint64_t enough = stor_flusher_flushes(flusher) + 2;
    stor_flusher_ceiling_renew(flusher);
    while (stor_flusher_flushes(flusher) < enough) {
        struct timespec pause = {.tv_nsec = FLUSHES_WAIT_US * 1000};
        stor_flusher_hurry(flusher);
        (void)nanosleep(&pause, NULL); /* waking early is fine */
    }
    return VD_OK;
}

void stor_rewrite_small_count(stor_rewrite_t *rewrite, stor_rewrite_counts_t *counts)
{
    uint8_t id[STOR_KEY_ID_BYTES];
    stor_key_info_t *infos = vd_xalloc(STOR_KEYS_MAX * sizeof *infos);
    uint32_t count = stor_keys_list(rewrite->engine->options.keys, infos);
    stor_guard_sealed_with(rewrite->engine->guard, id);
    for (uint32_t i = 0; i < count; i++) {
        if (infos[i].state != STOR_KEY_ACTIVE && memcmp(infos[i].id, id, sizeof id) == 0) {
            counts->by_key[i]++;
            counts->old_blocks++;
        }
    }
    vd_free(infos);
}

uint32_t stor_rewrite_old_bulks(stor_rewrite_t *rewrite)
{
    stor_exclusion_t *exclusion = &rewrite->engine->exclusion;
    uint64_t now = stor_keys_generation(rewrite->engine->options.keys);
    uint32_t count = 0;
    pthread_mutex_lock(&exclusion->lock);
    VD_LIST_EACH(&exclusion->bulks, node)
    if (((const stor_bulk_mark_t *)(void *)node)->generation < now)
        count++;
    pthread_mutex_unlock(&exclusion->lock);
    return count;
}

/* ---- keys ---- */

int stor_engine_key_note(stor_engine_t *engine, const uint8_t id[STOR_KEY_ID_BYTES],
                         uint32_t version, vd_error_t *err)
{
    return stor_guard_key_note(engine->guard, id, version, err);
}

int stor_engine_key_forget(stor_engine_t *engine, const uint8_t id[STOR_KEY_ID_BYTES],
                           vd_error_t *err)
{
    return stor_guard_key_forget(engine->guard, id, err);
}
