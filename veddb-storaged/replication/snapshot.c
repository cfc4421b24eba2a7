/* veddb-storaged/replication/snapshot.c — see snapshot.h. */
#include "veddb-storaged/replication/snapshot.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "veddb-storaged/catalog/counters.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/engine/checkpoint.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/replication/manifest.h"
#include "veddb-storaged/replication/overlay.h"
#include "veddb-storaged/sessions.h"

#include <inttypes.h>
#include <openssl/sha.h>
#include <stdio.h>

#define NAME_PREFIX  "copy-"
#define ATTEMPTS_MAX 10
#define KEY_MAX      (16 * 1024)

typedef struct {
    bool used, closed;
    uint8_t id[16];
    char checkpoint[32]; /* empty: none is there */
    stor_session_t *copy;
    vd_arena_t *arena; /* manifest and overlay */
    stor_manifest_t manifest;
    stor_overlay_t overlay;
    uint64_t position;
    uint64_t read_ms; /* last use */
    uint8_t sha256[SHA256_DIGEST_LENGTH];
    vd_buf_t after, last;     /* keys: before the chunk that was read last, and its last */
    uint64_t last_collection; /* that it is of */
    bool any;                 /* one was read */
} snapshot_t;

struct stor_snapshots {
    stor_storage_t *storage;
    pthread_mutex_t lock; /* held through a read, and while a copy is made */
    uint64_t number;      /* of the last checkpoint's name */
    snapshot_t slots[STOR_SNAPSHOTS_MAX];
    atomic_uint_fast64_t keep_above; /* asked for without the lock */
};

/* ---- the end of a copy ---- */

static void keep_update(stor_snapshots_t *snapshots)
{
    uint64_t keep = UINT64_MAX;
    for (int i = 0; i < STOR_SNAPSHOTS_MAX; i++) {
        const snapshot_t *s = &snapshots->slots[i];
        if (s->used && !s->closed && s->position < keep)
            keep = s->position;
    }
    atomic_store(&snapshots->keep_above, keep);
}

/* Gives the session and the memory back; the checkpoint is dropped later. */
static void snapshot_end(stor_snapshots_t *snapshots, snapshot_t *s)
{
    stor_session_close(&s->copy);
    vd_arena_destroy(&s->arena);
    vd_buf_done(&s->after);
    vd_buf_done(&s->last);
    s->closed = true;
    keep_update(snapshots);
}

static void snapshot_drop(stor_snapshots_t *snapshots, snapshot_t *s)
{
    vd_error_t err = VD_ERROR_INIT;
    if (!s->closed)
        snapshot_end(snapshots, s);
    if (s->checkpoint[0] != '\0' &&
        stor_checkpoint_drop(snapshots->storage->engine, s->checkpoint, &err) != VD_OK) {
        char text[VD_ERROR_MESSAGE_SIZE + 64];
        vd_log(VD_LOG_WARN, "a copy's checkpoint can't be dropped yet", "checkpoint=%s error=%s",
               s->checkpoint, vd_log_quote(vd_slice_str(err.message), text, sizeof text));
        return; /* again at the next pass; at the latest at the next start */
    }
    stor_catalog_files_release(snapshots->storage->catalog);
    memset(s, 0, sizeof *s);
}

static void closed_drop(stor_snapshots_t *snapshots)
{
    for (int i = 0; i < STOR_SNAPSHOTS_MAX; i++)
        if (snapshots->slots[i].used && snapshots->slots[i].closed)
            snapshot_drop(snapshots, &snapshots->slots[i]);
}

/* ---- what an earlier start left ---- */

typedef struct {
    char names[64][32];
    uint32_t count;
} old_t;

static int old_note(const char *name, void *context)
{
    old_t *old = context;
    if (strncmp(name, NAME_PREFIX, strlen(NAME_PREFIX)) == 0 &&
        old->count < VD_COUNT_OF(old->names) && strlen(name) < sizeof old->names[0])
        memcpy(old->names[old->count++], name, strlen(name) + 1);
    return VD_OK;
}

static void old_drop(stor_storage_t *storage)
{
    old_t old = {.count = 0};
    vd_error_t err = VD_ERROR_INIT;
    int rc = stor_checkpoint_names(storage->engine, STOR_CATALOG_TABLE, old_note, &old, &err);
    for (uint32_t i = 0; rc == VD_OK && i < old.count; i++)
        rc = stor_checkpoint_drop(storage->engine, old.names[i], &err);
    char text[VD_ERROR_MESSAGE_SIZE + 64];
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "checkpoints of an earlier start can't be dropped", "error=%s",
               vd_log_quote(vd_slice_str(err.message), text, sizeof text));
    else if (old.count > 0)
        vd_log(VD_LOG_INFO, "checkpoints of an earlier start dropped", "count=%u", old.count);
}

stor_snapshots_t *stor_snapshots_create(stor_storage_t *storage)
{
    stor_snapshots_t *snapshots = vd_xalloc(sizeof *snapshots);
    snapshots->storage = storage;
    (void)pthread_mutex_init(&snapshots->lock, NULL);
    atomic_init(&snapshots->keep_above, UINT64_MAX);
    old_drop(storage);
    return snapshots;
}

void stor_snapshots_close_all(stor_snapshots_t *snapshots)
{
    (void)pthread_mutex_lock(&snapshots->lock);
    for (int i = 0; i < STOR_SNAPSHOTS_MAX; i++)
        if (snapshots->slots[i].used)
            snapshot_drop(snapshots, &snapshots->slots[i]);
    (void)pthread_mutex_unlock(&snapshots->lock);
}

void stor_snapshots_destroy(stor_snapshots_t **snapshots_p)
{
    stor_snapshots_t *snapshots = *snapshots_p;
    if (snapshots == NULL)
        return;
    stor_snapshots_close_all(snapshots);
    (void)pthread_mutex_destroy(&snapshots->lock);
    vd_free(snapshots);
    *snapshots_p = NULL;
}

/* ---- open: what the copy has ---- */

typedef struct {
    snapshot_t *s;
    stor_session_t *copy;
    uint32_t room;
    vd_map_t *by_id;
} listing_t;

static int collection_list(vd_bson_t row, void *context, vd_error_t *err)
{
    listing_t *listing = context;
    stor_manifest_t *manifest = &listing->s->manifest;
    vd_arena_t *arena = listing->s->arena;
    int64_t id = 0;
    vd_bson_t own = {vd_arena_copy(arena, row.data, row.len), row.len};
    vd_value_t db = vd_bson_get(own, "db"), name = vd_bson_get(own, "name"),
               uuid = vd_bson_get(own, "uuid"), options = vd_bson_get(own, "options");
    if (!vd_value_as_int64(vd_bson_get(own, "id"), &id) || id <= 0 || db.type != VD_BSON_STRING ||
        name.type != VD_BSON_STRING || uuid.type != VD_BSON_BINARY ||
        vd_value_binary(uuid, NULL).len != 16 || options.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_CORRUPT, "a row of the catalog is malformed");
    if (manifest->count == listing->room) {
        uint32_t room = listing->room == 0 ? 64 : listing->room * 2;
        stor_manifest_collection_t *grown = VD_ARENA_ARRAY(arena, stor_manifest_collection_t, room);
        if (manifest->count > 0)
            memcpy(grown, manifest->collections, manifest->count * sizeof *grown);
        manifest->collections = grown;
        listing->room = room;
    }
    manifest->collections[manifest->count++].what =
        (stor_adopt_t){(uint64_t)id, vd_value_string(db), vd_value_string(name),
                       vd_value_binary(uuid, NULL).data, vd_value_document(options)};
    return VD_OK;
}

static int index_list(vd_bson_t row, void *context, vd_error_t *err)
{
    listing_t *listing = context;
    vd_arena_t *arena = listing->s->arena;
    int64_t id = 0, collection_id = 0;
    vd_bson_t own = {vd_arena_copy(arena, row.data, row.len), row.len};
    vd_value_t spec = vd_bson_get(own, "spec");
    if (!vd_value_as_int64(vd_bson_get(own, "id"), &id) || id <= 0 ||
        !vd_value_as_int64(vd_bson_get(own, "collection"), &collection_id) ||
        spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_CORRUPT, "a row of an index is malformed");
    stor_manifest_collection_t *c =
        vd_map_get(listing->by_id, vd_key_u64(&(uint64_t){(uint64_t)collection_id}));
    if (c == NULL || c->index_count == STOR_INDEXES_MAX - 1)
        return vd_error_set(err, VD_ERR_CORRUPT, "an index is of a collection that is not there");
    if (c->index_count == 0) {
        c->index_ids = VD_ARENA_ARRAY(arena, uint64_t, STOR_INDEXES_MAX);
        c->index_specs = VD_ARENA_ARRAY(arena, vd_bson_t, STOR_INDEXES_MAX);
        c->index_building = VD_ARENA_ARRAY(arena, vd_bson_t, STOR_INDEXES_MAX);
    }
    vd_value_t building = vd_bson_get(own, "building");
    c->index_building[c->index_count] =
        building.type == VD_BSON_OBJECT ? vd_value_document(building) : VD_BSON_NONE;
    c->index_ids[c->index_count] = (uint64_t)id;
    c->index_specs[c->index_count++] = vd_value_document(spec);
    return VD_OK;
}

static int counters_list(listing_t *listing, vd_error_t *err)
{
    stor_manifest_t *manifest = &listing->s->manifest;
    for (uint32_t i = 0; i < manifest->count; i++) {
        stor_manifest_collection_t *c = &manifest->collections[i];
        vd_error_t step = VD_ERROR_INIT;
        int rc = stor_rows_counters_get(listing->copy, c->what.id, &c->kept, &step);
        if (rc == VD_ERR_NOT_FOUND) {
            c->kept = (stor_counters_row_t){0};
        } else if (rc != VD_OK) {
            if (err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
        if (vd_map_put(listing->by_id, vd_key_u64(&c->what.id), c, NULL) != VD_OK)
            return vd_error_set(err, VD_ERR_FULL, "too many collections for a copy");
    }
    return VD_OK;
}

static void delta_add(void *context, uint64_t collection_id, const stor_counters_row_t *delta)
{
    listing_t *listing = context;
    stor_manifest_collection_t *c = vd_map_get(listing->by_id, vd_key_u64(&collection_id));
    if (c == NULL)
        return; /* dropped at P already */
    c->kept.documents += delta->documents;
    c->kept.bytes += delta->bytes;
    c->kept.hash += delta->hash;
}

static uint64_t meta_number(stor_session_t *session, vd_arena_t *arena, const char *name)
{
    vd_value_t value;
    int64_t number = 0;
    vd_error_t err = VD_ERROR_INIT;
    if (stor_catalog_meta_get(session, name, arena, &value, &err) == VD_OK)
        (void)vd_value_as_int64(value, &number); /* written by us alone; else 0 */
    return (uint64_t)number;
}

/* Rows as they are in the copy: what is folded there, and the deltas of the entries from there on
 * to the position, from the live journal (which has all of them, see overlay.h). */
static int manifest_fill(stor_storage_t *storage, snapshot_t *s, stor_session_t *live,
                         vd_error_t *err)
{
    listing_t listing = {.s = s, .copy = s->copy, .by_id = vd_map_create(1000000)};
    int rc = stor_txn_begin(s->copy, err);
    uint64_t folded = 0;
    if (rc == VD_OK) {
        rc = stor_rows_collections(s->copy, collection_list, &listing, err);
        if (rc == VD_OK)
            rc = counters_list(&listing, err);
        if (rc == VD_OK)
            rc = stor_rows_indexes(s->copy, 0, index_list, &listing, err);
        folded = stor_counters_position_read(s->copy);
        s->manifest.next_id = meta_number(s->copy, s->arena, "next_id");
        stor_txn_rollback(s->copy);
    }
    if (rc == VD_OK && folded < s->position) {
        rc = stor_txn_begin(live, err);
        if (rc == VD_OK) {
            rc = stor_counters_deltas(storage, live, folded, s->position, delta_add, &listing, err);
            stor_txn_rollback(live);
        }
    }
    vd_map_destroy(&listing.by_id);
    s->manifest.term = storage->term;
    if (storage->replication != NULL) {
        s->manifest.term = atomic_load(&storage->replication->term);
        s->manifest.config = stor_replication_config(storage, s->arena);
    }
    return rc;
}

/* The newest entry in the copy. An empty journal: where the load that it began with ended. */
static int position_find(snapshot_t *s, vd_error_t *err)
{
    int rc = stor_txn_begin(s->copy, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_journal_newest(s->copy, &s->position, err);
    if (rc == VD_OK && s->position == 0)
        s->position = meta_number(s->copy, s->arena, "position");
    stor_txn_rollback(s->copy);
    return rc;
}

static int attempt(stor_snapshots_t *snapshots, snapshot_t *s, stor_session_t *live,
                   vd_error_t *err)
{
    stor_engine_t *engine = snapshots->storage->engine;
    /* An ordinary one first: the named one then has little to write, so little is in the journal
     * between the visible point and its end. */
    int rc = stor_engine_checkpoint(engine, err);
    if (rc != VD_OK)
        return rc;
    uint64_t visible = stor_engine_visible(engine);
    s->arena = vd_arena_create();
    s->manifest = (stor_manifest_t){0};
    (void)snprintf(s->checkpoint, sizeof s->checkpoint, NAME_PREFIX "%" PRIu64,
                   ++snapshots->number);
    rc = stor_checkpoint_make(engine, s->checkpoint, err);
    if (rc == VD_OK)
        rc = stor_session_open_checkpoint(engine, s->checkpoint, &s->copy, err);
    if (rc == VD_OK)
        rc = position_find(s, err);
    if (rc == VD_OK)
        rc = stor_overlay_make(snapshots->storage, s->copy, live, visible, s->position, s->arena,
                               &s->overlay, err);
    if (rc == VD_OK)
        rc = manifest_fill(snapshots->storage, s, live, err);
    return rc;
}

static int copy_take(stor_snapshots_t *snapshots, snapshot_t *s, stor_session_t *live,
                     vd_error_t *err)
{
    int rc = VD_ERR_INTERNAL;
    for (int i = 0; i < ATTEMPTS_MAX; i++) {
        vd_error_t step = VD_ERROR_INIT;
        memset(s, 0, sizeof *s);
        s->used = true;
        vd_buf_init(&s->after, KEY_MAX);
        vd_buf_init(&s->last, KEY_MAX);
        stor_catalog_files_hold(snapshots->storage->catalog); /* before the checkpoint */
        rc = attempt(snapshots, s, live, &step);
        if (rc == VD_OK)
            return VD_OK;
        snapshot_drop(snapshots, s);
        bool retry = rc == VD_ERR_CONFLICTING_OPERATION_IN_PROGRESS ||
                     rc == VD_ERR_CHANGE_STREAM_HISTORY_LOST;
        if (!retry || s->used || i + 1 == ATTEMPTS_MAX) {
            if (err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
    }
    return rc;
}

static int slot_find(stor_snapshots_t *snapshots, snapshot_t **ret, vd_error_t *err)
{
    closed_drop(snapshots);
    for (int i = 0; i < STOR_SNAPSHOTS_MAX; i++) {
        if (!snapshots->slots[i].used) {
            *ret = &snapshots->slots[i];
            return VD_OK;
        }
    }
    return vd_error_set(err, VD_ERR_FULL, "%d copies are being read already", STOR_SNAPSHOTS_MAX);
}

static void opened_fill(const snapshot_t *s, vdp_snapshot_opened_t *opened)
{
    *opened = (vdp_snapshot_opened_t){.snapshot = vd_slice(s->id, sizeof s->id),
                                      .position = s->position,
                                      .term = s->manifest.term};
    for (uint32_t i = 0; i < s->manifest.count; i++) {
        opened->bytes += (uint64_t)s->manifest.collections[i].kept.bytes;
        opened->documents += (uint64_t)s->manifest.collections[i].kept.documents;
    }
}

int stor_snapshot_open(stor_snapshots_t *snapshots, stor_session_t *session,
                       vdp_snapshot_opened_t *ret_opened, vd_buf_t *ret_manifest, vd_error_t *err)
{
    snapshot_t *s = NULL;
    VD_ASSERT(!stor_txn_active(session));
    int rc = stor_engine_write_allowed(snapshots->storage->engine, err);
    if (rc != VD_OK)
        return rc; /* a copy makes files grow */
    (void)pthread_mutex_lock(&snapshots->lock);
    rc = slot_find(snapshots, &s, err);
    if (rc == VD_OK)
        rc = copy_take(snapshots, s, session, err);
    if (rc == VD_OK) {
        vd_rand_secret(s->id, sizeof s->id);
        s->read_ms = vd_monotonic_ms();
        rc = stor_manifest_write(&s->manifest, ret_manifest, err);
        if (rc != VD_OK)
            snapshot_drop(snapshots, s);
    }
    if (rc == VD_OK) {
        keep_update(snapshots);
        opened_fill(s, ret_opened);
        vd_log(VD_LOG_INFO, "a copy for another node begins",
               "position=%" PRIu64 " collections=%u documents=%" PRIu64 " overlay=%u lacking=%u",
               s->position, s->manifest.count, ret_opened->documents, s->overlay.count,
               s->overlay.lacking);
    }
    (void)pthread_mutex_unlock(&snapshots->lock);
    return rc;
}

static snapshot_t *snapshot_find(stor_snapshots_t *snapshots, vd_slice_t id)
{
    for (int i = 0; i < STOR_SNAPSHOTS_MAX; i++) {
        snapshot_t *s = &snapshots->slots[i];
        if (s->used && !s->closed && vd_slice_equal(id, vd_slice(s->id, sizeof s->id)))
            return s;
    }
    return NULL;
}

int stor_snapshot_reopen(stor_snapshots_t *snapshots, vd_slice_t snapshot,
                         vdp_snapshot_opened_t *ret_opened, vd_buf_t *ret_manifest, vd_error_t *err)
{
    (void)pthread_mutex_lock(&snapshots->lock);
    snapshot_t *s = snapshot_find(snapshots, snapshot);
    int rc = s == NULL ? vd_error_set(err, VD_ERR_SNAPSHOT_UNAVAILABLE,
                                      "there is no such copy (any more)")
                       : stor_manifest_write(&s->manifest, ret_manifest, err);
    if (rc == VD_OK) {
        s->read_ms = vd_monotonic_ms();
        opened_fill(s, ret_opened);
    }
    (void)pthread_mutex_unlock(&snapshots->lock);
    return rc;
}

/* ---- read ---- */

typedef struct {
    snapshot_t *s;
    uint64_t collection;
    stor_cursor_t *cursor;
    bool ended; /* nothing more in the checkpoint */
    vd_slice_t key, value;
    uint32_t over; /* next record of the overlay */
    vd_buf_t *out;
    size_t begin, last; /* of the last record, from `begin` */
    uint32_t count;
} reading_t;

static int cursor_step(reading_t *r, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_cursor_next(r->cursor, true, &r->key, &r->value, &step);
    r->ended = rc == VD_ERR_NOT_FOUND;
    if (rc == VD_OK || r->ended)
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

static int cursor_first(reading_t *r, vd_slice_t after, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    if (after.len == 0)
        return cursor_step(r, err);
    int rc = stor_cursor_seek(r->cursor, after, true, &r->key, &r->value, &step);
    r->ended = rc == VD_ERR_NOT_FOUND;
    if (r->ended)
        return VD_OK;
    if (rc != VD_OK && err != NULL)
        vd_error_copy(&step, err);
    return rc == VD_OK && vd_slice_equal(r->key, after) ? cursor_step(r, err) : rc;
}

static const stor_overlay_record_t *over_now(const reading_t *r)
{
    const stor_overlay_t *overlay = &r->s->overlay;
    return r->over < overlay->count && overlay->records[r->over].collection == r->collection
               ? &overlay->records[r->over]
               : NULL;
}

/* False: no room, and at least one record is in. */
static int record_append(reading_t *r, vd_slice_t key, vd_slice_t value, bool *ret_room,
                         vd_error_t *err)
{
    size_t len = 8 + key.len + value.len;
    uint8_t *at;
    *ret_room = r->count == 0 || vd_buf_len(r->out) - r->begin + len <= STOR_SNAPSHOT_CHUNK_BYTES;
    if (!*ret_room)
        return VD_OK;
    if (vd_buf_reserve(r->out, len, &at) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "a record of %zu bytes does not fit", len);
    r->last = vd_buf_len(r->out) - r->begin;
    vd_put_u32(at, (uint32_t)key.len);
    memcpy(at + 4, key.data, key.len);
    vd_put_u32(at + 4 + key.len, (uint32_t)value.len);
    if (value.len > 0)
        memcpy(at + 8 + key.len, value.data, value.len);
    vd_buf_commit(r->out, len);
    r->count++;
    return VD_OK;
}

/* The checkpoint's records, and over them those of the overlay. */
static int records_merge(reading_t *r, bool *ret_last, vd_error_t *err)
{
    bool room = true;
    int rc = VD_OK;
    while (rc == VD_OK && room) {
        const stor_overlay_record_t *over = over_now(r);
        if (over == NULL && r->ended) {
            *ret_last = true;
            return VD_OK;
        }
        int c = over == NULL ? 1 : r->ended ? -1 : vd_slice_compare(over->key, r->key);
        if (c > 0)
            rc = record_append(r, r->key, r->value, &room, err);
        else if (over->present)
            rc = record_append(r, over->key, over->value, &room, err);
        if (rc != VD_OK || !room)
            break;
        r->over += c <= 0;
        if (c >= 0)
            rc = cursor_step(r, err);
    }
    return rc;
}

/* The chunk's last key; an empty chunk's is the one before. */
static int last_note(const reading_t *r, vd_error_t *err)
{
    snapshot_t *s = r->s;
    vd_slice_t key = vd_buf_slice(&s->after);
    if (r->count > 0) {
        const uint8_t *at = vd_buf_at(r->out, r->begin + r->last);
        key = vd_slice(at + 4, vd_get_u32(at));
    }
    vd_buf_clear(&s->last);
    return vd_buf_append_slice(&s->last, key) == VD_OK
               ? VD_OK
               : vd_error_set(err, VD_ERR_FULL, "a key of %zu bytes does not fit", key.len);
}

static int snapshot_read(snapshot_t *s, uint64_t collection, vd_slice_t after, vd_buf_t *out,
                         uint32_t *ret_count, bool *ret_last, vd_error_t *err)
{
    char table[32] = STOR_SESSIONS_TABLE;
    reading_t r = {.s = s, .collection = collection, .out = out, .begin = vd_buf_len(out)};
    if (collection != 0)
        (void)snprintf(table, sizeof table, "c-%" PRIu64, collection);
    *ret_last = false;
    int rc = stor_txn_begin(s->copy, err);
    if (rc != VD_OK)
        return rc;
    r.over = stor_overlay_find(&s->overlay, collection, after);
    /* Not the session's cached cursor: thousands of collections would stay open till the end. */
    rc = stor_cursor_acquire(s->copy, table, &r.cursor, err);
    if (rc == VD_OK)
        rc = cursor_first(&r, after, err);
    if (rc == VD_OK)
        rc = records_merge(&r, ret_last, err);
    stor_cursor_release(&r.cursor);
    stor_txn_rollback(s->copy);
    *ret_count = r.count;
    if (rc == VD_OK)
        rc = last_note(&r, err);
    if (rc != VD_OK)
        vd_buf_truncate(out, r.begin);
    return rc;
}

static bool has_collection(const snapshot_t *s, uint64_t id)
{
    uint32_t low = 0, high = s->manifest.count;
    while (low < high) { /* rows come in order of ids */
        uint32_t middle = low + (high - low) / 2;
        if (s->manifest.collections[middle].what.id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return id == 0 || (low < s->manifest.count && s->manifest.collections[low].what.id == id);
}

/* Where to read: behind what was asked for, or behind the chunk before. Into s->after. */
static int after_find(snapshot_t *s, const vdp_snapshot_read_t *read, vd_slice_t after,
                      vd_error_t *err)
{
    if (read->next && (!s->any || s->last_collection != read->collection))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "no chunk of this collection was read before");
    vd_buf_clear(&s->after);
    return vd_buf_append_slice(&s->after, read->next ? vd_buf_slice(&s->last) : after) == VD_OK
               ? VD_OK
               : vd_error_set(err, VD_ERR_BAD_VALUE, "a key of %zu bytes", after.len);
}

int stor_snapshot_read(stor_snapshots_t *snapshots, stor_session_t *session,
                       const vdp_snapshot_read_t *read, vd_slice_t after, vd_buf_t *out,
                       vdp_snapshot_chunk_t *ret_chunk, vd_error_t *err)
{
    (void)session;
    (void)pthread_mutex_lock(&snapshots->lock);
    snapshot_t *s = snapshot_find(snapshots, read->snapshot);
    int rc = VD_OK;
    if (s == NULL)
        rc = vd_error_set(err, VD_ERR_SNAPSHOT_UNAVAILABLE, "there is no such copy (any more)");
    else if (!has_collection(s, read->collection))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "the copy has no collection %" PRIu64,
                          read->collection);
    if (rc == VD_OK)
        rc = after_find(s, read, after, err);
    if (s != NULL)
        s->any = false; /* until this one is read */
    if (rc == VD_OK) {
        vdp_snapshot_chunk_t chunk = {.snapshot = vd_slice(s->id, sizeof s->id),
                                      .collection = read->collection,
                                      .sha256 = vd_slice(s->sha256, sizeof s->sha256),
                                      .after = vd_buf_slice(&s->after)};
        size_t begin = vd_buf_len(out);
        rc = snapshot_read(s, read->collection, chunk.after, out, &chunk.count, &chunk.last, err);
        if (rc == VD_OK) {
            s->any = true;
            s->last_collection = read->collection;
            vd_slice_t all = vd_buf_slice(out);
            (void)SHA256(all.len > begin ? all.data + begin : s->id, all.len - begin, s->sha256);
            s->read_ms = vd_monotonic_ms();
            *ret_chunk = chunk;
        }
    }
    (void)pthread_mutex_unlock(&snapshots->lock);
    return rc;
}

void stor_snapshot_close(stor_snapshots_t *snapshots, vd_slice_t snapshot)
{
    (void)pthread_mutex_lock(&snapshots->lock);
    snapshot_t *s = snapshot_find(snapshots, snapshot);
    if (s != NULL)
        snapshot_end(snapshots, s);
    (void)pthread_mutex_unlock(&snapshots->lock);
}

void stor_snapshots_expire(stor_snapshots_t *snapshots)
{
    uint64_t now = vd_monotonic_ms();
    bool full = stor_engine_write_allowed(snapshots->storage->engine, NULL) != VD_OK;
    if (pthread_mutex_trylock(&snapshots->lock) != 0)
        return; /* in use; the keeper does not wait */
    for (int i = 0; i < STOR_SNAPSHOTS_MAX; i++) {
        snapshot_t *s = &snapshots->slots[i];
        bool idle = vd_elapsed(s->read_ms, now) > STOR_SNAPSHOT_IDLE_MAX_MS;
        if (!s->used || s->closed || (!idle && !full))
            continue;
        vd_log(VD_LOG_WARN, "a copy for another node ends before it is read", "reason=\"%s\"",
               full ? "the disk is nearly full" : "nobody reads it");
        snapshot_end(snapshots, s);
    }
    closed_drop(snapshots);
    (void)pthread_mutex_unlock(&snapshots->lock);
}

uint64_t stor_snapshots_keep_above(stor_snapshots_t *snapshots)
{
    return atomic_load(&snapshots->keep_above);
}
