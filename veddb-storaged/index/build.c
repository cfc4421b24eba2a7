/* veddb-storaged/index/build.c — see build.h. */
#include "veddb-storaged/index/build.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/daemon.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/catalog/rows.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/index/entry_sort.h"
#include "veddb-storaged/index/index_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define STRETCH_MS         20   /* of a snapshot */
#define CLOCK_EVERY        64   /* documents between looks at the clock */
#define PLAIN_MAX          4096 /* entries: up to it they are inserted as writes are */
#define PLAIN_BATCH        1000
#define DRAIN_BATCH        500
#define DRAIN_PASSES_MAX   40
#define DRAIN_LITTLE       STOR_INDEX_DRAIN_LITTLE
#define CONTESTED_BYTES    (64u << 20)
#define DRAIN_PAUSE_MIN_US 250
#define DRAIN_PAUSE_MAX_US STOR_INDEX_PAUSE_MAX_US
#define FREEZE_LOOK_NS     50000000

/* A key that two documents claimed: both (or more) of them. */
typedef struct claim {
    struct claim *next;
    vd_slice_t id_key;
} claim_t;

typedef struct contested {
    struct contested *next;
    vd_slice_t fields;
    claim_t *claims;
} contested_t;

typedef struct {
    stor_index_t *index;
    stor_entry_sort_t *sort;
    stor_index_multikey_t multikey;
    int64_t entries;
    uint64_t log_start; /* of the next pass */
    vd_map_t *contested_by_key;
    contested_t *contested;
    vd_arena_t *contested_arena;
} part_t;

typedef struct stor_index_build {
    stor_request_t *request;
    uint64_t collection_id;
    bool alone; /* nobody writes: no shares are taken, no log is read */
    bool again; /* the tables hold what an earlier try left: they are not loaded in bulk */
    bool caught_up;
    char table[32];
    char ns[VD_NAMESPACE_MAX_BYTES + 2]; /* for messages */
    part_t *parts;
    uint32_t count;
    vd_arena_t *arena; /* of a document, a batch */
    vd_buf_t last;     /* key of the last document read */
    uint64_t scanned;
} build_t;

static int check(build_t *build, vd_error_t *err)
{
    for (uint32_t i = 0; i < build->count && !build->alone; i++) {
        int code = atomic_load(&build->parts[i].index->log->cancelled);
        if (code != 0)
            return vd_error_set(err, code, "the build of index '%.*s' was aborted",
                                VD_SLICE_FMT(build->parts[i].index->def->name));
    }
    int rc = stor_request_space(build->request, err); /* it writes much */
    return rc == VD_OK ? stor_request_check(build->request, err) : rc;
}

static void ns_keep(build_t *build, const char *ns)
{
    (void)snprintf(build->ns, sizeof build->ns, "%s", ns);
}

static void told(build_t *build, const char *message, uint64_t done, uint64_t total)
{
    stor_request_t *request = build->request;
    __atomic_store_n(&request->progress_message, message, __ATOMIC_RELAXED);
    __atomic_store_n(&request->progress_total, total, __ATOMIC_RELAXED);
    __atomic_store_n(&request->progress_done, done, __ATOMIC_RELAXED);
}

/* ---- keys that two claim ---- */

static int claim_add(part_t *part, vd_slice_t fields, vd_slice_t id_key, vd_error_t *err)
{
    contested_t *contested = vd_map_get(part->contested_by_key, fields);
    if (contested == NULL) {
        contested = VD_ARENA_NEW(part->contested_arena, contested_t);
        contested->fields = vd_arena_copy_slice(part->contested_arena, fields);
        contested->next = part->contested;
        if (vd_arena_used(part->contested_arena) > CONTESTED_BYTES ||
            vd_map_put(part->contested_by_key, contested->fields, contested, NULL) != VD_OK)
            return vd_error_set(err, VD_ERR_FULL,
                                "too many documents have the same keys in the unique index '%.*s'",
                                VD_SLICE_FMT(part->index->def->name));
        part->contested = contested;
    }
    for (const claim_t *claim = contested->claims; claim != NULL; claim = claim->next)
        if (vd_slice_equal(claim->id_key, id_key))
            return VD_OK;
    claim_t *claim = VD_ARENA_NEW(part->contested_arena, claim_t);
    *claim = (claim_t){contested->claims, vd_arena_copy_slice(part->contested_arena, id_key)};
    contested->claims = claim;
    return VD_OK;
}

static int claims_add(part_t *part, vd_slice_t fields, vd_slice_t a, vd_slice_t b, vd_error_t *err)
{
    int rc = claim_add(part, fields, a, err);
    return rc == VD_OK ? claim_add(part, fields, b, err) : rc;
}

/* ---- scan ---- */

static int document_add(build_t *build, vd_slice_t key, vd_bson_t document, vd_error_t *err)
{
    int rc = VD_OK;
    vd_arena_mark_t mark = vd_arena_mark(build->arena);
    for (uint32_t i = 0; rc == VD_OK && i < build->count; i++) {
        part_t *part = &build->parts[i];
        stor_index_keys_t keys;
        rc = stor_index_keys_make(part->index->def, build->arena, document, &keys, err);
        part->multikey |= rc == VD_OK ? keys.multikey : 0;
        for (uint32_t k = 0; rc == VD_OK && k < keys.count; k++)
            rc = stor_entry_sort_add(part->sort, &keys.keys[k], key, err);
    }
    vd_arena_rewind(build->arena, mark);
    return rc;
}

static int last_keep(build_t *build, vd_slice_t key, vd_error_t *err)
{
    vd_buf_clear(&build->last);
    return vd_buf_append_slice(&build->last, key) == VD_OK
               ? VD_OK
               : vd_error_set(err, VD_ERR_CORRUPT, "a stored key is too long");
}

/* Documents of one snapshot. VD_ERR_NOT_FOUND behind the last one. */
static int stretch_walk(build_t *build, stor_cursor_t *cursor, vd_error_t *err)
{
    vd_slice_t key, value, last = vd_buf_slice(&build->last);
    uint64_t ends_us = vd_monotonic_us() + STRETCH_MS * 1000;
    int rc = last.len == 0 ? stor_cursor_next(cursor, true, &key, &value, err)
                           : stor_cursor_seek(cursor, last, true, &key, &value, err);
    if (rc == VD_OK && last.len > 0 && vd_slice_equal(key, last))
        rc = stor_cursor_next(cursor, true, &key, &value, err);
    for (uint32_t n = 1; rc == VD_OK; n++) {
        vd_bson_t document;
        uint64_t version;
        rc = stor_envelope_read(value, &document, &version, err);
        if (rc == VD_OK)
            rc = document_add(build, key, document, err);
        build->scanned++;
        if (rc == VD_OK && n % CLOCK_EVERY == 0 && vd_monotonic_us() > ends_us)
            return last_keep(build, key, err);
        if (rc == VD_OK)
            rc = stor_cursor_next(cursor, true, &key, &value, err);
    }
    return rc;
}

static int stretch(build_t *build, vd_error_t *err)
{
    stor_session_t *session = build->request->session;
    stor_cursor_t *cursor;
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_open(session, build->table, &cursor, err);
    if (rc == VD_OK)
        rc = stretch_walk(build, cursor, err);
    stor_txn_rollback(session); /* it only read */
    return rc;
}

/* A share for each stretch: a drop, a rename need not wait for a scan. */
static int stretch_shared(build_t *build, uint64_t *ret_documents, vd_error_t *err)
{
    stor_collection_t *collection;
    if (build->alone)
        return stretch(build, err);
    int rc = stor_catalog_acquire_id(build->request, build->collection_id, &collection, err);
    if (rc != VD_OK)
        return rc == VD_ERR_NAMESPACE_NOT_FOUND ? VD_ERR_INDEX_BUILD_ABORTED : rc;
    *ret_documents = (uint64_t)atomic_load(&collection->documents);
    ns_keep(build, collection->ns);
    rc = stretch(build, err);
    stor_catalog_release(build->request, collection);
    return rc;
}

static int scan(build_t *build, vd_error_t *err)
{
    uint64_t documents = 0;
    for (;;) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = check(build, err);
        if (rc != VD_OK)
            return rc;
        rc = stretch_shared(build, &documents, &step);
        told(build, "Index Build: scanning collection", build->scanned, documents);
        if (rc == VD_ERR_NOT_FOUND)
            return VD_FAULT("index.scanned", err);
        if (rc != VD_OK) {
            if (rc == VD_ERR_INDEX_BUILD_ABORTED)
                return vd_error_set(err, rc, "the collection was dropped");
            if (err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
    }
}

/* ---- load ---- */

/* Where the sorted entries go: a bulk load, or ordinary inserts when they are few. */
typedef struct {
    build_t *build;
    part_t *part;
    stor_bulk_t *bulk;
    stor_cursor_t *cursor;
    uint32_t in_batch;
    vd_buf_t fields, id_key; /* of the entry before */
    uint64_t done;
} load_t;

static int plain_add(load_t *load, vd_slice_t key, vd_slice_t value, vd_error_t *err)
{
    stor_session_t *session = load->build->request->session;
    int rc = VD_OK;
    if (load->in_batch == PLAIN_BATCH) {
        load->in_batch = 0;
        rc = stor_txn_commit(session, err);
    }
    if (rc == VD_OK && load->in_batch == 0) {
        rc = stor_txn_begin(session, err);
        if (rc == VD_OK)
            rc = stor_cursor_open(session, load->part->index->table, &load->cursor, err);
    }
    if (rc != VD_OK)
        return rc;
    load->in_batch++;
    return stor_cursor_put(load->cursor, key, value, err);
}

static int entry_load(load_t *load, const stor_sorted_entry_t *entry, vd_error_t *err)
{
    part_t *part = load->part;
    const stor_index_def_t *def = part->index->def;
    vd_arena_t *arena = load->build->arena;
    int rc = VD_OK;
    if (def->unique) {
        if (vd_slice_equal(vd_buf_slice(&load->fields), entry->fields))
            return claims_add(part, entry->fields, vd_buf_slice(&load->id_key), entry->id_key, err);
        vd_buf_clear(&load->fields);
        vd_buf_clear(&load->id_key);
        if (vd_buf_append_slice(&load->fields, entry->fields) != VD_OK ||
            vd_buf_append_slice(&load->id_key, entry->id_key) != VD_OK)
            return vd_error_set(err, VD_ERR_FULL, "a key of an index is too long");
    }
    vd_arena_mark_t mark = vd_arena_mark(arena);
    stor_index_key_t key = {entry->fields, entry->type_bits, entry->exact};
    vd_slice_t at = stor_index_entry_key(arena, def, entry->fields, entry->id_key);
    vd_slice_t value = stor_index_entry_value(arena, def, &key, entry->id_key);
    rc = load->bulk != NULL ? stor_bulk_add(load->bulk, at, value, err)
                            : plain_add(load, at, value, err);
    vd_arena_rewind(arena, mark);
    part->entries++;
    return rc;
}

static int entries_load(load_t *load, vd_error_t *err)
{
    build_t *build = load->build;
    stor_sorted_entry_t entry;
    vd_error_t step = VD_ERROR_INIT;
    uint64_t total = stor_entry_sort_count(load->part->sort);
    int rc = VD_OK;
    while (rc == VD_OK && (rc = stor_entry_sort_next(load->part->sort, &entry, &step)) == VD_OK) {
        rc = entry_load(load, &entry, &step);
        if (rc == VD_OK && ++load->done % 1024 == 0) {
            told(build, "Index Build: inserting keys from external sorter into index", load->done,
                 total);
            rc = check(build, &step);
        }
    }
    if (rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

static int part_load(build_t *build, part_t *part, bool *bulked, vd_error_t *err)
{
    stor_session_t *session = build->request->session;
    load_t load = {.build = build, .part = part};
    int rc = stor_entry_sort_finish(part->sort, err);
    if (rc != VD_OK)
        return rc;
    vd_buf_init(&load.fields, 64 << 20);
    vd_buf_init(&load.id_key, 64 << 10);
    if (stor_entry_sort_count(part->sort) > PLAIN_MAX && !build->again) {
        rc = stor_bulk_open(stor_session_engine(session), part->index->table, &load.bulk, err);
        *bulked = true;
    }
    if (rc == VD_OK)
        rc = entries_load(&load, err);
    if (load.bulk != NULL) {
        int closed = stor_bulk_close(&load.bulk, rc == VD_OK ? err : NULL);
        rc = rc == VD_OK ? closed : rc;
    }
    if (stor_txn_active(session)) {
        if (rc == VD_OK)
            rc = stor_txn_commit(session, err);
        else
            stor_txn_rollback(session);
    }
    vd_buf_done(&load.fields);
    vd_buf_done(&load.id_key);
    stor_entry_sort_destroy(&part->sort);
    return rc;
}

/* What was loaded beside the log must be on disk before anything of these tables is logged, and
 * before they are committed: hence the checkpoint. */
static int load(build_t *build, vd_error_t *err)
{
    bool bulked = false;
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < build->count; i++)
        rc = part_load(build, &build->parts[i], &bulked, err);
    if (rc == VD_OK && bulked) {
        if (build->request->slot != NULL)
            vd_daemon_beat(build->request->slot, true);
        while (rc == VD_OK && !stor_freeze_is_open(&build->request->storage->freeze)) {
            struct timespec pause = {.tv_nsec = FREEZE_LOOK_NS};
            (void)nanosleep(&pause, NULL); /* waking early is fine */
            rc = check(build, err);
        }
        if (rc == VD_OK)
            rc = stor_engine_checkpoint(build->request->storage->engine, err);
    }
    return rc == VD_OK ? VD_FAULT("index.loaded", err) : rc;
}

/* ---- drain ---- */

static int put_apply(build_t *build, part_t *part, stor_cursor_t *cursor,
                     const stor_index_log_entry_t *entry, vd_error_t *err)
{
    const stor_index_def_t *def = part->index->def;
    vd_slice_t at = stor_index_entry_key(build->arena, def, entry->fields, entry->id_key), is_value;
    stor_index_key_t key = {entry->fields, entry->type_bits, entry->exact};
    vd_slice_t value = stor_index_entry_value(build->arena, def, &key, entry->id_key);
    stor_index_entry_t is;
    vd_error_t step = VD_ERROR_INIT;
    int rc = VD_OK;
    /* Of a key that was ever claimed twice everybody who claims it is known. */
    if (def->unique && vd_map_get(part->contested_by_key, entry->fields) != NULL)
        rc = claim_add(part, entry->fields, entry->id_key, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_insert(cursor, at, value, &step);
    if (rc == VD_OK) {
        part->entries++;
        return VD_OK;
    }
    if (rc != VD_ERR_DUPLICATE_KEY)
        return vd_error_set(err, rc, "%s", step.message);
    if (def->unique) {
        rc = stor_cursor_search(cursor, at, &is_value, err);
        if (rc == VD_OK)
            rc = stor_index_entry_read(def, at, is_value, &is, err);
        if (rc == VD_OK && !vd_slice_equal(is.id_key, entry->id_key))
            return claims_add(part, entry->fields, is.id_key, entry->id_key, err);
        if (rc != VD_OK)
            return rc;
    }
    return stor_cursor_put(cursor, at, value, err);
}

static int remove_apply(build_t *build, part_t *part, stor_cursor_t *cursor,
                        const stor_index_log_entry_t *entry, vd_error_t *err)
{
    const stor_index_def_t *def = part->index->def;
    vd_slice_t at = stor_index_entry_key(build->arena, def, entry->fields, entry->id_key), value;
    stor_index_entry_t is;
    vd_error_t step = VD_ERROR_INIT;
    int rc = def->unique ? stor_cursor_search(cursor, at, &value, &step) : VD_OK;
    if (rc == VD_OK && def->unique) {
        rc = stor_index_entry_read(def, at, value, &is, &step);
        if (rc == VD_OK && !vd_slice_equal(is.id_key, entry->id_key))
            return VD_OK; /* another one's */
    }
    if (rc == VD_OK)
        rc = stor_cursor_remove(cursor, at, &step);
    if (rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    part->entries -= rc == VD_OK;
    return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "%s", step.message);
}

typedef struct {
    vd_buf_t after; /* key of the log's entry taken last */
    uint64_t limit; /* entries below: writers would keep a pass going for ever */
    uint32_t taken;
} pass_t;

typedef struct {
    uint8_t last[8]; /* key of the last one */
    stor_index_log_entry_t entries[DRAIN_BATCH];
    uint32_t count;
} batch_t;

/* VD_ERR_NOT_FOUND: no more. */
static int batch_read(build_t *build, part_t *part, const pass_t *pass, batch_t *batch,
                      vd_error_t *err)
{
    stor_cursor_t *log;
    vd_slice_t key, value, after = vd_buf_slice(&pass->after);
    int rc = stor_cursor_open(build->request->session, part->index->log->table, &log, err);
    if (rc == VD_OK)
        rc = after.len == 0 ? stor_cursor_next(log, true, &key, &value, err)
                            : stor_cursor_seek(log, after, true, &key, &value, err);
    if (rc == VD_OK && after.len > 0 && vd_slice_equal(key, after))
        rc = stor_cursor_next(log, true, &key, &value, err);
    while (rc == VD_OK) {
        if (key.len != 8 || vd_get_u64_be(key.data) >= pass->limit)
            return VD_ERR_NOT_FOUND;
        memcpy(batch->last, key.data, sizeof batch->last);
        rc = stor_index_log_read(vd_arena_copy_slice(build->arena, value),
                                 &batch->entries[batch->count], err);
        if (rc != VD_OK || ++batch->count == DRAIN_BATCH)
            break;
        rc = stor_cursor_next(log, true, &key, &value, err);
    }
    return rc;
}

static int batch_apply(build_t *build, part_t *part, const batch_t *batch, vd_error_t *err)
{
    stor_cursor_t *table;
    int rc = stor_cursor_open(build->request->session, part->index->table, &table, err);
    for (uint32_t i = 0; rc == VD_OK && i < batch->count; i++) {
        const stor_index_log_entry_t *entry = &batch->entries[i];
        rc = entry->op == STOR_INDEX_LOG_PUT ? put_apply(build, part, table, entry, err)
                                             : remove_apply(build, part, table, entry, err);
    }
    return rc;
}

/* Some entries of the log, taken in one transaction. VD_ERR_NOT_FOUND: no more. */
static int batch_fill(build_t *build, part_t *part, pass_t *pass, vd_error_t *err)
{
    batch_t *batch = VD_ARENA_NEW(build->arena, batch_t);
    vd_error_t step = VD_ERROR_INIT;
    int read = batch_read(build, part, pass, batch, &step);
    if (read != VD_OK && read != VD_ERR_NOT_FOUND)
        return vd_error_set(err, read, "%s", step.message);
    int rc = batch_apply(build, part, batch, &step);
    if (rc != VD_OK) /* what is not there is no end of the log */
        return vd_error_set(err, rc == VD_ERR_NOT_FOUND ? VD_ERR_INTERNAL : rc, "%s", step.message);
    pass->taken += batch->count;
    if (batch->count > 0) {
        vd_buf_clear(&pass->after);
        if (vd_buf_append(&pass->after, batch->last, sizeof batch->last) != VD_OK)
            return vd_error_set(err, VD_ERR_INTERNAL, "a key of a build's log is too long");
    }
    return read;
}

static int batch_try(build_t *build, part_t *part, pass_t *pass, vd_error_t *err)
{
    stor_session_t *session = build->request->session;
    vd_error_t step = VD_ERROR_INIT;
    vd_arena_reset(build->arena);
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    rc = batch_fill(build, part, pass, &step);
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND) {
        stor_txn_rollback(session);
        if (err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
    int committed = stor_txn_commit(session, err);
    return committed == VD_OK ? rc : committed;
}

/* Once over the log, from its floor. The table is ours to write: nobody conflicts. */
static int pass_run(build_t *build, part_t *part, bool last, uint32_t *ret_taken, vd_error_t *err)
{
    pass_t pass = {.limit = last ? UINT64_MAX : stor_index_log_next(part->index->log)};
    uint64_t floor = stor_index_log_floor(part->index->log); /* before the first snapshot */
    uint8_t start[8];
    int rc = VD_OK;
    vd_buf_init(&pass.after, 64);
    if (part->log_start > 0) {
        vd_put_u64_be(start, part->log_start - 1);
        rc = vd_buf_append(&pass.after, start, sizeof start);
    }
    while (rc == VD_OK) {
        rc = check(build, err);
        if (rc != VD_OK)
            break;
        vd_error_t step = VD_ERROR_INIT;
        rc = batch_try(build, part, &pass, &step);
        if (rc != VD_OK && rc != VD_ERR_NOT_FOUND && err != NULL)
            vd_error_copy(&step, err);
        told(build, "Index Build: draining writes received during build", pass.taken,
             stor_index_log_next(part->index->log));
    }
    vd_buf_done(&pass.after);
    if (rc == VD_ERR_NOT_FOUND)
        part->log_start = floor;
    *ret_taken = pass.taken;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

/* ---- keys that two claimed, looked at ---- */

static bool has_key(const stor_index_keys_t *keys, vd_slice_t fields, const stor_index_key_t **ret)
{
    for (uint32_t i = 0; i < keys->count; i++)
        if (vd_slice_equal(keys->keys[i].key, fields)) {
            *ret = &keys->keys[i];
            return true;
        }
    return false;
}

/* Who of those that claimed the key has it in this snapshot. */
static int claims_look(build_t *build, part_t *part, const contested_t *contested, bool settle,
                       vd_error_t *err)
{
    stor_session_t *session = build->request->session;
    stor_cursor_t *documents, *table;
    const stor_index_key_t *found = NULL;
    vd_slice_t owner = VD_SLICE_NULL;
    int rc = stor_cursor_open(session, build->table, &documents, err);
    if (rc == VD_OK)
        rc = stor_cursor_open(session, part->index->table, &table, err);
    for (const claim_t *claim = contested->claims; rc == VD_OK && claim != NULL;
         claim = claim->next) {
        vd_slice_t value;
        vd_bson_t document;
        uint64_t version;
        stor_index_keys_t keys;
        const stor_index_key_t *key;
        vd_error_t step = VD_ERROR_INIT;
        rc = stor_cursor_search(documents, claim->id_key, &value, &step);
        if (rc == VD_ERR_NOT_FOUND) {
            rc = VD_OK;
            continue;
        }
        if (rc == VD_OK)
            rc = stor_envelope_read(value, &document, &version, &step);
        if (rc == VD_OK)
            rc = stor_index_keys_make(part->index->def, build->arena, document, &keys, &step);
        if (rc != VD_OK)
            return vd_error_set(err, rc, "%s", step.message);
        if (!has_key(&keys, contested->fields, &key))
            continue;
        if (found != NULL)
            return stor_index_duplicate(build->request->arena, build->ns, part->index->def,
                                        contested->fields, key->type_bits, err);
        found = key;
        owner = claim->id_key;
    }
    if (rc != VD_OK || !settle)
        return rc;
    if (found != NULL)
        return stor_cursor_put(table, contested->fields,
                               stor_index_entry_value(build->arena, part->index->def, found, owner),
                               err);
    vd_error_t step = VD_ERROR_INIT;
    rc = stor_cursor_remove(table, contested->fields, &step);
    return rc == VD_OK || rc == VD_ERR_NOT_FOUND ? VD_OK
                                                 : vd_error_set(err, rc, "%s", step.message);
}

/* settle: behind the fence, and the entries are set right. Before it: only a look, so that what is
 * twice is told without stopping anybody. */
static int contested_look(build_t *build, part_t *part, bool settle, vd_error_t *err)
{
    stor_session_t *session = build->request->session;
    const contested_t *contested = part->contested;
    int rc = VD_OK;
    while (rc == VD_OK && contested != NULL) {
        rc = check(build, err);
        if (rc == VD_OK)
            rc = stor_txn_begin(session, err);
        if (rc != VD_OK)
            return rc;
        for (int n = 0; rc == VD_OK && contested != NULL && n < 200; n++) {
            rc = claims_look(build, part, contested, settle, err);
            contested = contested->next;
        }
        vd_arena_reset(build->arena);
        if (rc == VD_OK)
            rc = stor_txn_commit(session, err);
        else
            stor_txn_rollback(session);
    }
    return rc;
}

/* ---- catching up, and the end ---- */

/* One pass over the log of each. *ret_most: entries taken of the longest. */
static int pass_all(build_t *build, uint32_t *ret_most, vd_error_t *err)
{
    *ret_most = 0;
    int rc = VD_FAULT("index.pass", err);
    for (uint32_t i = 0; rc == VD_OK && i < build->count; i++) {
        uint32_t taken;
        rc = pass_run(build, &build->parts[i], false, &taken, err);
        if (rc == VD_OK)
            *ret_most = taken > *ret_most ? taken : *ret_most;
    }
    return rc;
}

static void slow_down(build_t *build, uint32_t pause_us)
{
    for (uint32_t i = 0; i < build->count; i++)
        atomic_store_explicit(&build->parts[i].index->log->pause_us, pause_us,
                              memory_order_relaxed);
}

/* Until little is left. Writers that are as fast as the passes wait before each write, longer with
 * each pass that gains nothing on them: so the end is always near, and the fence stays closed
 * for a short time. */
static int passes(build_t *build, vd_error_t *err)
{
    uint32_t before = UINT32_MAX, most, pause_us = 0;
    int rc = VD_OK;
    for (int pass = 0; rc == VD_OK && pass < DRAIN_PASSES_MAX; pass++) {
        rc = pass_all(build, &most, err);
        if (rc != VD_OK || most < DRAIN_LITTLE)
            break;
        if (pass >= 2 && most / 2 >= before / 3) {
            pause_us = pause_us == 0 ? DRAIN_PAUSE_MIN_US : 2 * pause_us;
            pause_us = pause_us > DRAIN_PAUSE_MAX_US ? DRAIN_PAUSE_MAX_US : pause_us;
            slow_down(build, pause_us);
        }
        before = most;
    }
    if (pause_us > 0)
        VD_DEBUG("writers were slowed down for a build of indexes", "pause_us=%u", pause_us);
    return rc;
}

static int contested_early(build_t *build, vd_error_t *err)
{
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < build->count; i++) {
        stor_collection_t *collection;
        if (build->parts[i].contested == NULL)
            continue;
        rc = stor_catalog_acquire_id(build->request, build->collection_id, &collection, err);
        if (rc != VD_OK)
            return rc;
        ns_keep(build, collection->ns);
        rc = contested_look(build, &build->parts[i], false, err);
        stor_catalog_release(build->request, collection);
    }
    return rc;
}

int stor_index_build_catch_up(stor_index_build_t *build, bool judge, vd_error_t *err)
{
    int rc = passes(build, err);
    if (rc == VD_OK && judge)
        rc = contested_early(build, err);
    if (rc != VD_OK || build->caught_up)
        return rc;
    build->caught_up = true;
    return VD_FAULT("index.caught_up", err);
}

void stor_index_build_let_go(stor_index_build_t *build)
{
    slow_down(build, 0);
}

int stor_index_build_last(void *context, vd_error_t *err)
{
    build_t *build = context;
    for (uint32_t i = 0; i < build->count; i++) {
        part_t *part = &build->parts[i];
        uint32_t taken;
        int rc = pass_run(build, part, true, &taken, err);
        if (rc == VD_OK)
            rc = contested_look(build, part, true, err);
        if (rc != VD_OK)
            return rc;
        atomic_fetch_or(&part->index->multikey, part->multikey);
        atomic_store(&part->index->entries, part->entries);
    }
    return VD_FAULT("index.drained", err);
}

static void build_init(build_t *build, stor_request_t *request, uint64_t collection_id,
                       stor_index_t *const *indexes, uint32_t count)
{
    *build = (build_t){.request = request, .collection_id = collection_id, .count = count};
    (void)snprintf(build->table, sizeof build->table, "c-%" PRIu64, collection_id);
    build->arena = vd_arena_create();
    vd_buf_init(&build->last, 64 << 10);
    build->parts = vd_xalloc(count * sizeof *build->parts);
    for (uint32_t i = 0; i < count; i++) {
        char name[32];
        part_t *part = &build->parts[i];
        (void)snprintf(name, sizeof name, "r-%" PRIu64, indexes[i]->table_number);
        part->index = indexes[i];
        part->sort = stor_entry_sort_create(request->storage->engine, name, STOR_INDEX_SORT_BYTES);
        part->contested_by_key = vd_map_create(STOR_INDEX_CONTESTED_MAX);
        part->contested_arena = vd_arena_create();
    }
}

static void build_done(build_t *build)
{
    for (uint32_t i = 0; i < build->count; i++) {
        stor_entry_sort_destroy(&build->parts[i].sort);
        vd_map_destroy(&build->parts[i].contested_by_key);
        vd_arena_destroy(&build->parts[i].contested_arena);
    }
    vd_free(build->parts);
    vd_buf_done(&build->last);
    vd_arena_destroy(&build->arena);
    told(build, NULL, 0, 0);
}

stor_index_build_t *stor_index_build_create(stor_request_t *request, uint64_t collection_id,
                                            stor_index_t *const *indexes, uint32_t count,
                                            bool again)
{
    build_t *build = vd_xalloc(sizeof *build);
    build_init(build, request, collection_id, indexes, count);
    build->again = again;
    return build;
}

void stor_index_build_destroy(stor_index_build_t **build_p)
{
    if (*build_p == NULL)
        return;
    slow_down(*build_p, 0);
    build_done(*build_p);
    vd_free(*build_p);
    *build_p = NULL;
}

int stor_index_build_run(stor_index_build_t *build, vd_error_t *err)
{
    int rc = VD_FAULT("index.begun", err);
    if (rc == VD_OK)
        rc = scan(build, err);
    return rc == VD_OK ? load(build, err) : rc;
}

stor_request_t *stor_index_build_lend(stor_index_build_t *build, stor_request_t *request)
{
    stor_request_t *before = build->request;
    build->request = request;
    return before;
}

uint64_t stor_index_build_scanned(const stor_index_build_t *build)
{
    return build->scanned;
}

/* So many keys are claimed twice that they can't be remembered: most likely they are duplicates,
 * and one of them is told. */
int stor_index_build_explain(stor_index_build_t *build, int rc, vd_error_t *err)
{
    for (uint32_t i = 0; rc == VD_ERR_FULL && i < build->count; i++) {
        vd_error_t step = VD_ERROR_INIT;
        if (contested_look(build, &build->parts[i], false, &step) != VD_ERR_DUPLICATE_KEY)
            continue;
        vd_error_clear(err);
        if (err != NULL)
            vd_error_copy(&step, err);
        rc = VD_ERR_DUPLICATE_KEY;
    }
    return rc;
}

int stor_index_fill_alone(stor_request_t *request, const stor_collection_t *collection,
                          stor_index_t *const *indexes, uint32_t count, vd_error_t *err)
{
    build_t build;
    build_init(&build, request, collection->id, indexes, count);
    build.alone = true;
    ns_keep(&build, collection->ns);
    int rc = scan(&build, err);
    if (rc == VD_OK)
        rc = load(&build, err);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++) {
        part_t *part = &build.parts[i];
        rc = contested_look(&build, part, true, err);
        atomic_store(&part->index->multikey, part->multikey);
        atomic_store(&part->index->entries, part->entries);
    }
    build_done(&build);
    return rc;
}
