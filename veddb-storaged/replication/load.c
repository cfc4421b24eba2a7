/* veddb-storaged/replication/load.c — see load.h.
 *
 * The collections' tables, and the table "load" with the place to go on from and the sums so far,
 * are not logged while they are filled: writing each record to the log as well was most of the
 * work. A checkpoint is one moment of all tables, so after a crash the place is the one of the
 * records that are there; records of a table that is ahead of it (WiredTiger may write one file
 * alone) are put once more, the same. At the end: a checkpoint, the tables become logged, and only
 * then the mark goes, in a logged transaction.
 * Tried: bulk cursors. They know no place to go on from within a collection. */
#include "veddb-storaged/replication/load.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/capped.h"
#include "veddb-storaged/catalog/counters.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/engine/checkpoint.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/replication/apply.h"
#include "veddb-storaged/replication/manifest.h"
#include "veddb-storaged/replication/snapshot.h"
#include "veddb-storaged/sessions.h"

#include <inttypes.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define ROW           "load"
#define ALL           UINT64_MAX /* -1 in the row: nothing is missing */
#define CONFLICTS_MAX 100
#define TABLE         "load" /* 'p': the place; 's' + id: sums of a collection */
#define BUSY_WAIT_MS  60000

typedef struct {
    stor_engine_t *engine;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool started, stopping, wanted;
} checkpointer_t;

struct stor_load {
    uint8_t snapshot[16], set_id[12];
    uint64_t position, term, floor;
    vd_arena_t *arena; /* the manifest */
    stor_manifest_t manifest;
    bool ready;               /* tables are made: chunks may come */
    uint64_t collection;      /* to go on with; 0 = results; ALL */
    vd_buf_t key;             /* the last that is there; empty = none */
    stor_counters_row_t sums; /* of the collection, up to the key */
    char source[VDP_NODE_NAME_MAX + 1];
    checkpointer_t checkpointer;
    uint64_t since_checkpoint; /* bytes */
};

/* ---- a checkpoint now and then, while chunks go on ---- */

static void *checkpointer_run(void *context)
{
    checkpointer_t *c = context;
    (void)pthread_mutex_lock(&c->lock);
    while (!c->stopping) {
        if (!c->wanted) {
            (void)pthread_cond_wait(&c->wake, &c->lock);
            continue;
        }
        c->wanted = false;
        (void)pthread_mutex_unlock(&c->lock);
        vd_error_t err = VD_ERROR_INIT;
        char text[VD_ERROR_MESSAGE_SIZE + 64];
        if (stor_engine_checkpoint(c->engine, &err) != VD_OK) /* the next one has it, too */
            vd_log(VD_LOG_WARN, "a checkpoint of a load failed", "error=%s",
                   vd_log_quote(vd_slice_str(err.message), text, sizeof text));
        (void)pthread_mutex_lock(&c->lock);
    }
    (void)pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* Without the thread the engine's own checkpoints do. */
static void checkpointer_start(checkpointer_t *c, stor_engine_t *engine)
{
    c->engine = engine;
    (void)pthread_mutex_init(&c->lock, NULL);
    (void)pthread_cond_init(&c->wake, NULL);
    c->started = vd_thread_start(&c->thread, checkpointer_run, c) == 0;
    if (c->started)
        (void)pthread_setname_np(c->thread, "load-checkpoint");
}

static void checkpointer_want(checkpointer_t *c)
{
    (void)pthread_mutex_lock(&c->lock);
    c->wanted = true;
    (void)pthread_cond_signal(&c->wake);
    (void)pthread_mutex_unlock(&c->lock);
}

/* Waits for one that is being made. */
static void checkpointer_stop(checkpointer_t *c)
{
    if (!c->started)
        return;
    (void)pthread_mutex_lock(&c->lock);
    c->stopping = true;
    (void)pthread_cond_signal(&c->wake);
    (void)pthread_mutex_unlock(&c->lock);
    (void)pthread_join(c->thread, NULL);
    (void)pthread_mutex_destroy(&c->lock);
    (void)pthread_cond_destroy(&c->wake);
    c->started = false;
}

void stor_load_forget(stor_load_t **load_p)
{
    stor_load_t *load = *load_p;
    if (load == NULL)
        return;
    checkpointer_stop(&load->checkpointer);
    vd_arena_destroy(&load->arena);
    vd_buf_done(&load->key);
    vd_free(load);
    *load_p = NULL;
}

/* ---- the mark: which copy; logged ---- */

static int mark_put(const stor_load_t *load, stor_session_t *session, bool ready, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t row;
    vd_bb_init(&bb, 32 * 1024);
    vd_bb_binary(&bb, "snapshot", 0, vd_slice(load->snapshot, 16));
    vd_bb_int64(&bb, "position", (int64_t)load->position);
    vd_bb_int64(&bb, "term", (int64_t)load->term);
    vd_bb_objectid(&bb, "setId", load->set_id);
    vd_bb_bool(&bb, "ready", ready);
    vd_bb_string(&bb, "source", vd_slice_str(load->source));
    vd_bb_int64(&bb, "floor", (int64_t)load->floor);
    int rc = vd_bb_finish(&bb, &row, err);
    if (rc == VD_OK)
        rc = stor_catalog_meta_put(session, ROW, vd_value_from_document(row), err);
    vd_bb_done(&bb);
    return rc;
}

uint64_t stor_load_floor(stor_session_t *session)
{
    vd_arena_t *arena = vd_arena_create();
    vd_value_t value;
    vd_error_t err = VD_ERROR_INIT;
    int64_t floor = 0;
    if (stor_catalog_meta_get(session, ROW, arena, &value, &err) == VD_OK &&
        value.type == VD_BSON_OBJECT &&
        !vd_value_as_int64(vd_bson_get(vd_value_document(value), "floor"), &floor))
        floor = 0; /* of a version that did not write it */
    vd_arena_destroy(&arena);
    return (uint64_t)floor;
}

bool stor_load_known(stor_session_t *session, stor_load_known_t *ret_known)
{
    vd_arena_t *arena = vd_arena_create();
    vd_value_t value;
    vd_error_t err = VD_ERROR_INIT;
    bool known = false;
    if (stor_catalog_meta_get(session, ROW, arena, &value, &err) == VD_OK &&
        value.type == VD_BSON_OBJECT) {
        vd_bson_t row = vd_value_document(value);
        vd_value_t snapshot = vd_bson_get(row, "snapshot"), ready = vd_bson_get(row, "ready"),
                   position = vd_bson_get(row, "position"), source = vd_bson_get(row, "source");
        known = snapshot.type == VD_BSON_BINARY && vd_value_binary(snapshot, NULL).len == 16 &&
                ready.type == VD_BSON_BOOL && vd_value_bool(ready) &&
                position.type == VD_BSON_INT64 && source.type == VD_BSON_STRING &&
                vd_value_string(source).len < sizeof ret_known->source;
        if (known) {
            *ret_known = (stor_load_known_t){.position = (uint64_t)vd_value_int64(position)};
            memcpy(ret_known->snapshot, vd_value_binary(snapshot, NULL).data, 16);
            (void)snprintf(ret_known->source, sizeof ret_known->source, "%.*s",
                           VD_SLICE_FMT(vd_value_string(source)));
        }
    }
    vd_arena_destroy(&arena);
    return known;
}

/* ---- the place to go on from, and sums: not logged ----
 *
 * No cursor stays open: the table must be free to be altered. */

static int table_put(stor_session_t *session, vd_slice_t key, vd_slice_t value, vd_error_t *err)
{
    stor_cursor_t *cursor = NULL;
    int rc = stor_cursor_acquire(session, TABLE, &cursor, err);
    if (rc == VD_OK)
        rc = stor_cursor_put(cursor, key, value, err);
    stor_cursor_release(&cursor);
    return rc;
}

static int place_put(const stor_load_t *load, stor_session_t *session, uint64_t collection,
                     vd_slice_t key, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t row;
    vd_bb_init(&bb, 32 * 1024);
    vd_bb_binary(&bb, "snapshot", 0, vd_slice(load->snapshot, 16));
    vd_bb_int64(&bb, "collection", (int64_t)collection);
    vd_bb_binary(&bb, "key", 0, key);
    int rc = vd_bb_finish(&bb, &row, err);
    if (rc == VD_OK)
        rc = table_put(session, VD_SLICE_LIT("p"), vd_slice(row.data, row.len), err);
    vd_bb_done(&bb);
    return rc;
}

static vd_slice_t sums_key(uint64_t collection, uint8_t key[9])
{
    key[0] = 's';
    vd_put_u64(key + 1, collection);
    return vd_slice(key, 9);
}

static int sums_put(stor_session_t *session, uint64_t collection, const stor_counters_row_t *sums,
                    vd_error_t *err)
{
    uint8_t key[9], value[24];
    vd_put_u64(value, (uint64_t)sums->documents);
    vd_put_u64(value + 8, (uint64_t)sums->bytes);
    vd_put_u64(value + 16, sums->hash);
    return table_put(session, sums_key(collection, key), vd_slice(value, sizeof value), err);
}

/* Not there: none were loaded. In the session's transaction. */
static int sums_get(stor_session_t *session, uint64_t collection, stor_counters_row_t *ret_sums,
                    vd_error_t *err)
{
    uint8_t key[9];
    vd_slice_t value;
    stor_cursor_t *cursor = NULL;
    vd_error_t step = VD_ERROR_INIT;
    *ret_sums = (stor_counters_row_t){0};
    int rc = stor_cursor_acquire(session, TABLE, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_search(cursor, sums_key(collection, key), &value, &step);
    if (rc == VD_OK && value.len != 24)
        rc = vd_error_set(&step, VD_ERR_CORRUPT, "sums of a load are malformed");
    if (rc == VD_OK)
        *ret_sums =
            (stor_counters_row_t){(int64_t)vd_get_u64(value.data),
                                  (int64_t)vd_get_u64(value.data + 8), vd_get_u64(value.data + 16)};
    stor_cursor_release(&cursor);
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND && err != NULL)
        vd_error_copy(&step, err);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static bool place_take(stor_load_t *load, stor_session_t *session, vd_bson_t row)
{
    vd_value_t snapshot = vd_bson_get(row, "snapshot"), key = vd_bson_get(row, "key"),
               collection = vd_bson_get(row, "collection");
    if (snapshot.type != VD_BSON_BINARY || key.type != VD_BSON_BINARY ||
        collection.type != VD_BSON_INT64 ||
        !vd_slice_equal(vd_value_binary(snapshot, NULL), vd_slice(load->snapshot, 16)))
        return false;
    load->collection = (uint64_t)vd_value_int64(collection);
    vd_buf_clear(&load->key);
    return vd_buf_append_slice(&load->key, vd_value_binary(key, NULL)) == VD_OK &&
           (load->collection == ALL || load->collection == 0 ||
            sums_get(session, load->collection, &load->sums, NULL) == VD_OK);
}

/* Where to go on, if the mark is of this copy and its tables are made. */
static bool place_get(stor_load_t *load, stor_session_t *session)
{
    stor_load_known_t known;
    stor_cursor_t *cursor = NULL;
    vd_slice_t value;
    if (!stor_load_known(session, &known) || memcmp(known.snapshot, load->snapshot, 16) != 0 ||
        known.position != load->position || stor_txn_begin(session, NULL) != VD_OK)
        return false;
    bool there = stor_cursor_acquire(session, TABLE, &cursor, NULL) == VD_OK &&
                 stor_cursor_search(cursor, VD_SLICE_LIT("p"), &value, NULL) == VD_OK &&
                 vd_bson_validate(value, 0, VD_BSON_DEPTH_MAX, NULL) == VD_OK;
    if (there) {
        vd_arena_t *arena = vd_arena_create();
        vd_bson_t row = {vd_arena_copy(arena, value.data, value.len), (uint32_t)value.len};
        there = place_take(load, session, row);
        vd_arena_destroy(&arena);
    }
    stor_cursor_release(&cursor);
    stor_txn_rollback(session);
    return there;
}

bool stor_load_pending(stor_storage_t *storage, stor_session_t *session)
{
    (void)storage;
    vd_arena_t *arena = vd_arena_create();
    vd_value_t value;
    vd_error_t err = VD_ERROR_INIT;
    int rc = stor_catalog_meta_get(session, ROW, arena, &value, &err);
    vd_arena_destroy(&arena);
    return rc != VD_ERR_NOT_FOUND; /* one that can't be read is no reason to serve */
}

/* ---- begin ---- */

/* The keeper may write the same rows at this moment (counters, old results). */
static int in_transaction(stor_session_t *session,
                          int (*work)(stor_session_t *session, void *context, vd_error_t *err),
                          void *context, vd_error_t *err)
{
    for (int tries = 0;; tries++) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = stor_txn_begin(session, &step);
        if (rc == VD_OK) {
            rc = work(session, context, &step);
            if (rc == VD_OK)
                rc = stor_txn_commit(session, &step);
            else
                stor_txn_rollback(session);
        }
        if (rc == VD_ERR_WRITE_CONFLICT && tries < CONFLICTS_MAX) {
            struct timespec pause = {0, 2000000};
            (void)nanosleep(&pause, NULL); /* waking early is fine */
            continue;
        }
        if (rc != VD_OK && err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
}

static int position_rows(stor_session_t *session, void *context, vd_error_t *err)
{
    const stor_load_t *load = context;
    uint8_t payload[8];
    vd_put_u64(payload, load->position);
    int rc = stor_counters_position_put(session, load->position, err);
    if (rc == VD_OK)
        rc = stor_catalog_meta_put(session, "position",
                                   (vd_value_t){payload, sizeof payload, VD_BSON_INT64}, err);
    return rc;
}

/* The mark is on disk before anything goes: files are removed at once, beside the log. Collections
 * go before the counters' position moves: a row of one that stays must not lose its entries. */
static int everything_drop(stor_storage_t *storage, stor_session_t *session, stor_load_t *load,
                           vd_error_t *err)
{
    int rc = mark_put(load, session, false, err);
    if (rc == VD_OK)
        rc = stor_engine_log_sync(storage->engine, err);
    if (rc == VD_OK && storage->replication->snapshots != NULL)
        stor_snapshots_close_all(storage->replication->snapshots);
    if (rc == VD_OK)
        rc = stor_catalog_clear(storage->catalog, session, err);
    if (rc == VD_OK)
        rc = in_transaction(session, position_rows, load, err);
    if (rc == VD_OK)
        rc = stor_audit_restarted(storage->audit, session, load->position, err);
    if (rc == VD_OK)
        rc = stor_journal_restart(storage->journal, session, load->position, err);
    if (rc == VD_OK)
        rc = stor_catalog_table_renew(storage->catalog, session, STOR_SESSIONS_TABLE, err);
    if (rc == VD_OK) {
        stor_counters_position_set(storage, load->position);
        stor_sessions_forget(storage->sessions);
    }
    return rc;
}

static const char *table_of(uint64_t collection, char table[32])
{
    (void)snprintf(table, 32, "c-%" PRIu64, collection);
    return table;
}

/* A checkpoint, or who has just let go of it, may hold it for a moment. */
static int table_log(stor_storage_t *storage, const char *table, bool logged, vd_error_t *err)
{
    uint64_t give_up = vd_monotonic_ms() + BUSY_WAIT_MS;
    for (;;) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = stor_engine_table_log(storage->engine, table, logged, &step);
        if (rc == VD_ERR_OBJECT_IS_BUSY && vd_monotonic_ms() < give_up) {
            struct timespec pause = {0, 2000000};
            (void)nanosleep(&pause, NULL); /* waking early is fine */
            continue;
        }
        if (rc != VD_OK && err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
}

/* What an earlier load left goes; the place is the start of this copy. */
static int table_reset(stor_session_t *session, void *context, vd_error_t *err)
{
    stor_cursor_t *cursor = NULL;
    vd_slice_t key, value;
    int rc = stor_cursor_acquire(session, TABLE, &cursor, err);
    while (rc == VD_OK && (rc = stor_cursor_next(cursor, true, &key, &value, NULL)) == VD_OK) {
        uint8_t copy[64];
        VD_ASSERT(key.len <= sizeof copy); /* of ours alone */
        memcpy(copy, key.data, key.len);
        rc = stor_cursor_remove(cursor, vd_slice(copy, key.len), err);
    }
    stor_cursor_release(&cursor);
    if (rc == VD_ERR_NOT_FOUND)
        rc = VD_OK;
    return rc == VD_OK ? place_put(context, session, 0, VD_SLICE_NULL, err) : rc;
}

static int everything_make(stor_storage_t *storage, stor_session_t *session, stor_load_t *load,
                           vd_error_t *err)
{
    int rc = stor_engine_table_create(storage->engine, TABLE, false, NULL);
    if (rc == VD_OK || rc == VD_ERR_EXISTS) /* of an earlier load */
        rc = table_log(storage, TABLE, false, err);
    if (rc == VD_OK)
        rc = in_transaction(session, table_reset, load, err);
    for (uint32_t i = 0; rc == VD_OK && i < load->manifest.count; i++) {
        char table[32];
        const stor_adopt_t *what = &load->manifest.collections[i].what;
        rc = stor_catalog_adopt(storage->catalog, session, what, err);
        if (rc == VD_OK)
            rc = table_log(storage, table_of(what->id, table), false, err);
    }
    if (rc == VD_OK)
        rc = stor_catalog_next_id_raise(storage->catalog, session, load->manifest.next_id, err);
    if (rc == VD_OK)
        rc = stor_engine_checkpoint(storage->engine, err); /* the place is of this copy, durably */
    if (rc == VD_OK)
        rc = VD_FAULT("load.made", err);
    if (rc == VD_OK)
        rc = mark_put(load, session, true, err);
    return rc;
}

/* Index + 1 in the manifest; 0 = not there. */
static uint32_t manifest_find(const stor_manifest_t *manifest, uint64_t id)
{
    for (uint32_t i = 0; i < manifest->count; i++)
        if (manifest->collections[i].what.id == id)
            return i + 1;
    return 0;
}

static int begin_check(const stor_storage_t *storage, const vdp_load_begin_t *begin,
                       vd_error_t *err)
{
    if (stor_replication_role(storage) != VDP_ROLE_RECOVERING)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "a copy is loaded only while the role is recovering");
    if (begin->snapshot.len != 16 || begin->set_id.len != 12 ||
        begin->source.len > VDP_NODE_NAME_MAX)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "a load is malformed");
    return VD_OK;
}

static int load_make(const vdp_load_begin_t *begin, vd_bson_t manifest, stor_load_t **ret,
                     vd_error_t *err)
{
    stor_load_t *load = vd_xalloc(sizeof *load);
    memcpy(load->snapshot, begin->snapshot.data, 16);
    memcpy(load->set_id, begin->set_id.data, 12);
    load->position = begin->position;
    load->term = begin->term;
    (void)snprintf(load->source, sizeof load->source, "%.*s", VD_SLICE_FMT(begin->source));
    load->arena = vd_arena_create();
    vd_buf_init(&load->key, 16 * 1024);
    int rc = stor_manifest_read(manifest, load->arena, &load->manifest, err);
    if (rc != VD_OK) {
        stor_load_forget(&load);
        return rc;
    }
    *ret = load;
    return VD_OK;
}

/* A collection has ended, or the way was cut: the manifest is known, and so is the place. */
static bool is_under_way(const stor_load_t *load, const vdp_load_begin_t *begin)
{
    return load != NULL && load->ready && load->position == begin->position &&
           load->term == begin->term &&
           vd_slice_equal(begin->snapshot, vd_slice(load->snapshot, 16)) &&
           vd_slice_equal(begin->set_id, vd_slice(load->set_id, 12));
}

static int state_fill(const stor_load_t *load, const vdp_load_begin_t *begin,
                      vdp_load_state_t *ret_state, vd_buf_t *ret_last_key, vd_error_t *err)
{
    *ret_state = (vdp_load_state_t){.snapshot = begin->snapshot,
                                    .collection = load->collection == ALL ? 0 : load->collection,
                                    .all = load->collection == ALL};
    return vd_buf_append_slice(ret_last_key, vd_buf_slice(&load->key)) == VD_OK
               ? VD_OK
               : vd_error_set(err, VD_ERR_FULL, "no room for the last key");
}

int stor_load_begin(stor_storage_t *storage, stor_session_t *session, const vdp_load_begin_t *begin,
                    vd_bson_t manifest, vdp_load_state_t *ret_state, vd_buf_t *ret_last_key,
                    vd_error_t *err)
{
    stor_load_t *load = NULL;
    VD_ASSERT(!stor_txn_active(session));
    int rc = begin_check(storage, begin, err);
    if (rc == VD_OK && is_under_way(storage->replication->load, begin)) {
        load = storage->replication->load;
        return state_fill(load, begin, ret_state, ret_last_key, err);
    }
    if (rc == VD_OK)
        rc = load_make(begin, manifest, &load, err);
    if (rc != VD_OK)
        return rc;
    stor_load_forget(&storage->replication->load);
    storage->replication->load = load;
    /* From one load to the next it stays: nothing is acknowledged meanwhile. */
    load->floor = stor_load_pending(storage, session) ? stor_load_floor(session)
                                                      : stor_engine_newest(storage->engine);
    bool goes_on = place_get(load, session);
    if (goes_on && load->collection != 0 && load->collection != ALL)
        goes_on = manifest_find(&load->manifest, load->collection) != 0;
    if (!goes_on) {
        load->collection = 0;
        load->sums = (stor_counters_row_t){0};
        vd_buf_clear(&load->key);
        rc = everything_drop(storage, session, load, err);
        if (rc == VD_OK)
            rc = everything_make(storage, session, load, err);
        if (rc != VD_OK)
            return rc;
    }
    load->ready = true;
    checkpointer_start(&load->checkpointer, storage->engine);
    vd_log(VD_LOG_INFO, goes_on ? "a load goes on" : "a load begins",
           "position=%" PRIu64 " collections=%u", load->position, load->manifest.count);
    return state_fill(load, begin, ret_state, ret_last_key, err);
}

/* ---- chunk ---- */

typedef struct {
    stor_load_t *load;
    const vdp_snapshot_chunk_t *chunk;
    vd_slice_t records;
    vd_slice_t last; /* key of the last record */
    uint64_t next;   /* collection to go on with */
    stor_counters_row_t sums;
} filling_t;

static int bad_chunk(vd_error_t *err, const char *what)
{
    return vd_error_set(err, VD_ERR_CORRUPT, "a chunk of a copy is damaged: %s", what);
}

/* Takes one record off the front. */
static bool record_take(vd_slice_t *records, vd_slice_t *ret_key, vd_slice_t *ret_value)
{
    vd_slice_t *parts[2] = {ret_key, ret_value};
    for (int i = 0; i < 2; i++) {
        if (records->len < 4)
            return false;
        size_t len = vd_get_u32(records->data);
        if (len > records->len - 4)
            return false;
        *parts[i] = vd_slice(records->data + 4, len);
        *records = vd_slice(records->data + 4 + len, records->len - 4 - len);
    }
    return ret_key->len > 0;
}

static int document_check(filling_t *filling, vd_slice_t value, vd_error_t *err)
{
    vd_bson_t document;
    uint64_t version;
    int rc = stor_envelope_read(value, &document, &version, err);
    if (rc == VD_OK)
        rc = vd_bson_validate(vd_slice(document.data, document.len), 0, VD_BSON_BUILD_DEPTH_MAX,
                              err);
    if (rc == VD_OK && version > filling->load->position)
        rc = bad_chunk(err, "a document from behind the position");
    if (rc != VD_OK)
        return rc;
    filling->sums.documents++;
    filling->sums.bytes += document.len;
    filling->sums.hash += stor_record_hash(version, document);
    return VD_OK;
}

static int records_put(filling_t *filling, stor_cursor_t *cursor, vd_error_t *err)
{
    vd_slice_t left = filling->records, key, value;
    uint64_t collection = filling->chunk->collection;
    uint32_t count = 0;
    filling->last = vd_buf_slice(&filling->load->key);
    for (; left.len > 0; count++) {
        if (!record_take(&left, &key, &value))
            return bad_chunk(err, "a record does not end");
        if (filling->last.len > 0 && vd_slice_compare(key, filling->last) <= 0)
            return bad_chunk(err, "records are not in order");
        int rc = VD_OK;
        if (collection != 0)
            rc = document_check(filling, value, err);
        else if (!stor_sessions_row_ok(key, value))
            rc = bad_chunk(err, "a result of a write is malformed");
        if (rc == VD_OK)
            rc = stor_cursor_put(cursor, key, value, err); /* it may be there: see above */
        if (rc != VD_OK)
            return rc;
        filling->last = key;
    }
    return count == filling->chunk->count ? VD_OK : bad_chunk(err, "the number of records");
}

static int chunk_fill(stor_session_t *session, void *context, vd_error_t *err)
{
    filling_t *filling = context;
    const vdp_snapshot_chunk_t *chunk = filling->chunk;
    stor_cursor_t *cursor;
    char table[32] = STOR_SESSIONS_TABLE;
    if (chunk->collection != 0)
        (void)table_of(chunk->collection, table);
    filling->sums = filling->load->sums;
    /* Not the session's cached cursor: the table must be free to become logged. */
    int rc = stor_cursor_acquire(session, table, &cursor, err);
    if (rc != VD_OK)
        return rc;
    rc = records_put(filling, cursor, err);
    if (rc == VD_OK && chunk->collection != 0)
        rc = sums_put(session, chunk->collection, &filling->sums, err);
    if (rc == VD_OK)
        rc = place_put(filling->load, session, filling->next,
                       chunk->last ? VD_SLICE_NULL : filling->last, err);
    stor_cursor_release(&cursor);
    return rc;
}

static int chunk_check(stor_storage_t *storage, const vdp_snapshot_chunk_t *chunk,
                       vd_slice_t records, vd_error_t *err)
{
    const stor_load_t *load = storage->replication->load;
    uint8_t digest[SHA256_DIGEST_LENGTH];
    if (load == NULL || !load->ready ||
        !vd_slice_equal(chunk->snapshot, vd_slice(load->snapshot, 16)))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "no load of that copy is under way");
    if (stor_replication_role(storage) != VDP_ROLE_RECOVERING)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "a copy is loaded only while the role is recovering");
    /* Chunks are under way together: one that follows on one that was refused has no place. */
    if (load->collection == ALL || chunk->collection != load->collection ||
        !vd_slice_equal(chunk->after, vd_buf_slice(&load->key)))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "not the chunk that comes next");
    if (records.len > VDP_CHUNK_MAX || chunk->sha256.len != sizeof digest)
        return bad_chunk(err, "its size");
    (void)SHA256(records.len > 0 ? records.data : digest, records.len, digest);
    if (!vd_slice_equal(chunk->sha256, vd_slice(digest, sizeof digest)))
        return bad_chunk(err, "its checksum is another");
    if (chunk->count == 0 && !chunk->last)
        return bad_chunk(err, "it is empty");
    return stor_engine_write_allowed(storage->engine, err);
}

static uint64_t next_of(const stor_manifest_t *manifest, uint64_t collection)
{
    uint32_t at = collection == 0 ? 0 : manifest_find(manifest, collection);
    return at < manifest->count ? manifest->collections[at].what.id : ALL;
}

int stor_load_chunk(stor_storage_t *storage, stor_session_t *session,
                    const vdp_snapshot_chunk_t *chunk, vd_slice_t records, uint64_t *ret_documents,
                    vd_error_t *err)
{
    int rc = chunk_check(storage, chunk, records, err);
    if (rc != VD_OK)
        return rc;
    stor_load_t *load = storage->replication->load;
    rc = VD_FAULT("load.chunk", err);
    if (rc != VD_OK)
        return rc;
    filling_t filling = {.load = load, .chunk = chunk, .records = records};
    filling.next = chunk->last ? next_of(&load->manifest, chunk->collection) : chunk->collection;
    rc = in_transaction(session, chunk_fill, &filling, err);
    if (rc != VD_OK)
        return rc;
    if (chunk->last)
        vd_buf_clear(&load->key);
    else if (filling.last.data != vd_buf_slice(&load->key).data) {
        vd_buf_clear(&load->key);
        rc = vd_buf_append_slice(&load->key, filling.last);
        if (rc != VD_OK) {
            load->ready = false; /* never: such a key has no room in the mark either */
            return vd_error_set(err, VD_ERR_CORRUPT, "a key is too long");
        }
    }
    load->collection = filling.next;
    load->sums = chunk->last ? (stor_counters_row_t){0} : filling.sums;
    load->since_checkpoint += records.len;
    if (load->since_checkpoint >= STOR_LOAD_CHECKPOINT_BYTES && load->checkpointer.started) {
        load->since_checkpoint = 0;
        checkpointer_want(&load->checkpointer);
    }
    *ret_documents = (uint64_t)filling.sums.documents;
    return VD_OK;
}

/* ---- end ---- */

static int sums_compare(stor_session_t *session, const stor_manifest_t *manifest, vd_error_t *err)
{
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    for (uint32_t i = 0; rc == VD_OK && i < manifest->count; i++) {
        const stor_manifest_collection_t *c = &manifest->collections[i];
        stor_counters_row_t is;
        rc = sums_get(session, c->what.id, &is, err);
        if (rc == VD_OK && (is.documents != c->kept.documents || is.bytes != c->kept.bytes ||
                            is.hash != c->kept.hash))
            rc = vd_error_set(err, VD_ERR_CORRUPT,
                              "the copy of collection %" PRIu64
                              " is not what it must be: %lld documents of %lld, %lld bytes of "
                              "%lld, hash %016llx of %016llx",
                              c->what.id, (long long)is.documents, (long long)c->kept.documents,
                              (long long)is.bytes, (long long)c->kept.bytes,
                              (unsigned long long)is.hash, (unsigned long long)c->kept.hash);
    }
    stor_txn_rollback(session);
    return rc;
}

/* From what was loaded; those that an earlier try has made are kept. */
static int indexes_make(stor_storage_t *storage, stor_session_t *session, const stor_load_t *load,
                        vd_error_t *err)
{
    const stor_manifest_t *manifest = &load->manifest;
    stor_request_t *request = vd_xalloc(sizeof *request);
    vd_arena_t *arena = vd_arena_create();
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < manifest->count; i++) {
        const stor_manifest_collection_t *c = &manifest->collections[i];
        stor_collection_t *collection = stor_catalog_reference(storage->catalog, c->what.id);
        stor_request_init(request, storage, arena);
        request->session = session;
        if (storage->replication->apply != NULL)
            request->slot = stor_apply_slot(storage->replication->apply);
        if (collection != NULL && collection->capped.is)
            rc = stor_capped_fill(request, collection, err);
        stor_catalog_unreference(&collection);
        if (rc != VD_OK || c->index_count == 0)
            continue;
        rc = stor_catalog_indexes_adopt(request, c->what.id, c->index_ids, c->index_specs,
                                        c->index_building, c->index_count, err);
        vd_arena_reset(arena);
    }
    vd_arena_destroy(&arena);
    vd_free(request);
    return rc;
}

typedef struct {
    stor_storage_t *storage;
    const stor_load_t *load;
    uint64_t term;
} ending_t;

static int number_put(stor_session_t *session, const char *name, uint64_t number, vd_error_t *err)
{
    uint8_t payload[8];
    vd_put_u64(payload, number);
    return stor_catalog_meta_put(session, name,
                                 (vd_value_t){payload, sizeof payload, VD_BSON_INT64}, err);
}

static int end_rows(stor_session_t *session, void *context, vd_error_t *err)
{
    const ending_t *ending = context;
    const stor_load_t *load = ending->load;
    int rc = number_put(session, "position", load->position, err);
    if (rc == VD_OK)
        rc = number_put(session, "term", ending->term, err);
    /* Not older than the newest change of users that came with the copy. */
    if (rc == VD_OK)
        rc = number_put(session, "auth_epoch", load->position, err);
    if (rc == VD_OK)
        rc = stor_catalog_meta_put(session, "set_id",
                                   (vd_value_t){load->set_id, 12, VD_BSON_OBJECTID}, err);
    if (rc == VD_OK && load->manifest.config.len > 0)
        rc = stor_replication_config_put(session, load->manifest.config, err);
    for (uint32_t i = 0; rc == VD_OK && i < load->manifest.count; i++)
        rc = stor_rows_counters_put(session, load->manifest.collections[i].what.id,
                                    &load->manifest.collections[i].kept, err);
    if (rc == VD_OK)
        rc = stor_catalog_meta_put(session, ROW, VD_VALUE_MISSING, err);
    return rc;
}

static void counters_take(stor_storage_t *storage, const stor_manifest_t *manifest)
{
    for (uint32_t i = 0; i < manifest->count; i++) {
        const stor_manifest_collection_t *c = &manifest->collections[i];
        stor_collection_t *collection = stor_catalog_reference(storage->catalog, c->what.id);
        if (collection == NULL)
            continue;
        atomic_store(&collection->documents, c->kept.documents);
        atomic_store(&collection->bytes, c->kept.bytes);
        atomic_store(&collection->hash, c->kept.hash);
        stor_catalog_unreference(&collection);
    }
}

static void ended(const ending_t *ending)
{
    stor_storage_t *storage = ending->storage;
    const stor_load_t *load = ending->load;
    counters_take(storage, &load->manifest);
    stor_sessions_forget(storage->sessions);
    stor_storage_set_id_put(storage, load->set_id);
    atomic_store(&storage->auth_epoch, load->position);
    stor_versions_auth_epoch(storage->versions, load->position);
    atomic_store(&storage->replication->term, ending->term);
    if (load->manifest.config.len > 0)
        stor_replication_config_changed(storage, load->manifest.config);
    atomic_store(&storage->state_changed, true);
}

/* All is on disk before a table becomes logged: what is written to it from then on is in the log
 * behind this checkpoint. */
static int tables_finish(stor_storage_t *storage, stor_load_t *load, vd_error_t *err)
{
    checkpointer_stop(&load->checkpointer);
    int rc = stor_engine_checkpoint(storage->engine, err);
    if (rc == VD_OK)
        rc = VD_FAULT("load.checkpointed", err);
    for (uint32_t i = 0; rc == VD_OK && i < load->manifest.count; i++) {
        char table[32];
        rc = table_log(storage, table_of(load->manifest.collections[i].what.id, table), true, err);
    }
    return rc == VD_OK ? VD_FAULT("load.logged", err) : rc;
}

int stor_load_end(stor_storage_t *storage, stor_session_t *session, const vdp_load_end_t *end,
                  uint64_t *ret_position, vd_error_t *err)
{
    stor_load_t *load = storage->replication->load;
    if (load == NULL || !load->ready ||
        !vd_slice_equal(end->snapshot, vd_slice(load->snapshot, 16)))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "no load of that copy is under way");
    if (stor_replication_role(storage) != VDP_ROLE_RECOVERING)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "a copy is loaded only while the role is recovering");
    if (load->collection != ALL)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "chunks are missing");
    int rc = sums_compare(session, &load->manifest, err);
    if (rc != VD_OK) {
        /* What is here is wrong: the next begin starts over, of the same copy too. */
        int marked = mark_put(load, session, false, NULL);
        (void)marked; /* the sums are compared again then */
        load->ready = false;
        return rc;
    }
    /* First, while nobody else has the tables open. */
    rc = tables_finish(storage, load, err);
    if (rc == VD_OK)
        rc = indexes_make(storage, session, load, err);
    if (rc != VD_OK)
        return rc; /* asked for again, it goes on */
    uint64_t known = atomic_load(&storage->replication->term);
    ending_t ending = {storage, load, known};
    if (load->term > ending.term)
        ending.term = load->term;
    if (load->manifest.term > ending.term)
        ending.term = load->manifest.term;
    rc = in_transaction(session, end_rows, &ending, err);
    if (rc == VD_OK)
        rc = VD_FAULT("load.ended", err);
    if (rc == VD_OK)
        rc = stor_engine_log_sync(storage->engine, err);
    if (rc != VD_OK)
        return rc;
    ended(&ending);
    *ret_position = load->position;
    vd_log(VD_LOG_INFO, "a load has ended", "position=%" PRIu64 " collections=%u", load->position,
           load->manifest.count);
    stor_load_forget(&storage->replication->load);
    return VD_OK;
}
