/* veddb-storaged/replication/apply.c — see apply.h.
 *
 * A batch's way: framed and decoded (items) -> what we have is stepped over -> pieces: up to 1000
 * entries in one transaction, one transaction that makes collections, or one schema change. The
 * position is the engine's visible point:
 * while we are no primary nothing else moves it. */
#include "veddb-storaged/replication/apply.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/daemon.h"
#include "veddb-storaged/capped.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/catalog/own.h"
#include "veddb-storaged/delta.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/index/index.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/sessions.h"

#include <time.h>

#define FRAME_BYTES     (STOR_JOURNAL_KEY_BYTES + 4)
#define CONFLICTS_MAX   1000 /* in a row; each waits */
#define CONFLICT_PAUSE  1000000
#define VALUE_MAX_BYTES (VD_BSON_INTERNAL_MAX_BYTES + STOR_ENVELOPE_BYTES_MAX)
#define BUILD_LOOK_MS   10

typedef struct {
    vd_slice_t key, value;
    stor_journal_entry_t entry;
    bool schema; /* one change of what exists, and nothing else */
    bool makes;  /* begins with the collections that its transaction has made */
} item_t;

struct stor_apply {
    stor_storage_t *storage;
    struct vd_daemon_slot *slot;
    int64_t due_ms;
    bool waits; /* for an index that is built here, or fsyncUnlock: the next entry is not applied
                   yet */
    vdp_replication_apply_t waiting; /* the batch that waits */
    vd_buf_t pending;                /* framed entries of one timestamp that has more parts */
    uint64_t pending_timestamp;
    vd_arena_t *arena; /* of the piece under way */
    vd_buf_t value;
};

/* A collection that the piece changes. */
typedef struct {
    stor_collection_t *collection;
    stor_cursor_t *table;
    int64_t documents, bytes;
    uint64_t hash;
} touched_t;

typedef struct row {
    struct row *next;
    vd_slice_t key, value;
} row_t;

/* Collections that the transaction has made, which is the whole piece. */
typedef struct {
    stor_collection_t *collections[STOR_OWN_MAX];
    uint32_t count;
    bool entered;
} own_t;

typedef struct {
    stor_apply_t *apply;
    stor_session_t *session;
    touched_t *touched;
    uint32_t touched_count, touched_cap, recent;
    row_t *rows;
    vd_bson_t config;
    uint64_t auth_timestamp; /* 0: no users or roles changed */
    int64_t wall_ms;         /* of the newest entry that changes something */
    const own_t *own;
} piece_t;

static int malformed(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CORRUPT, "a batch of journal entries is malformed");
}

static int diverged(vd_error_t *err, uint64_t timestamp, const char *what)
{
    return vd_error_set(err, VD_ERR_DIVERGED, "entry %llu: %s", (unsigned long long)timestamp,
                        what);
}

/* ---- life ---- */

int stor_apply_create(stor_storage_t *storage, stor_apply_t **ret_apply, vd_error_t *err)
{
    (void)err; /* nothing of it can fail */
    stor_apply_t *apply = vd_xalloc(sizeof *apply);
    apply->storage = storage;
    apply->arena = vd_arena_create();
    vd_buf_init(&apply->pending, STOR_APPLY_PENDING_MAX + VDP_ENTRIES_MAX);
    vd_buf_init(&apply->value, VALUE_MAX_BYTES);
    *ret_apply = apply;
    return VD_OK;
}

void stor_apply_destroy(stor_apply_t **apply_p)
{
    stor_apply_t *apply = *apply_p;
    if (apply == NULL)
        return;
    vd_buf_done(&apply->pending);
    vd_buf_done(&apply->value);
    vd_arena_destroy(&apply->arena);
    vd_free(apply);
    *apply_p = NULL;
}

void stor_apply_slot_set(stor_apply_t *apply, struct vd_daemon_slot *slot)
{
    apply->slot = slot;
}

struct vd_daemon_slot *stor_apply_slot(const stor_apply_t *apply)
{
    return apply->slot;
}

uint64_t stor_apply_position(const stor_apply_t *apply)
{
    return stor_engine_visible(apply->storage->engine);
}

void stor_apply_position_set(stor_apply_t *apply, uint64_t position)
{
    vd_buf_clear(&apply->pending);
    apply->pending_timestamp = 0;
    stor_engine_position_set(apply->storage->engine, position);
}

int64_t stor_apply_due_ms(const stor_apply_t *apply)
{
    return apply->due_ms;
}

bool stor_apply_waits(const stor_apply_t *apply)
{
    return apply->waits;
}

/* ---- what came ---- */

static bool frame_take(vd_slice_t *rest, item_t *ret)
{
    if (rest->len < FRAME_BYTES)
        return false;
    uint32_t len = vd_get_u32(rest->data + STOR_JOURNAL_KEY_BYTES);
    if (len > rest->len - FRAME_BYTES)
        return false;
    ret->key = vd_slice(rest->data, STOR_JOURNAL_KEY_BYTES);
    ret->value = vd_slice(rest->data + FRAME_BYTES, len);
    *rest = vd_slice(rest->data + FRAME_BYTES + len, rest->len - FRAME_BYTES - len);
    return true;
}

/* An entry that changes what exists holds that one change, and nothing else; but one of a
 * transaction begins with what it has made (catalog/own.h). */
static int schema_look(item_t *item, vd_error_t *err)
{
    vd_slice_t changes = item->entry.changes;
    stor_change_t change;
    int rc = stor_journal_change_next(&changes, &change, err);
    if (rc != VD_OK || !stor_change_is_schema(change.kind))
        return rc; /* where one follows that is, it is refused when it is applied */
    item->schema = item->entry.change_count == 1;
    item->makes = !item->schema && change.kind == STOR_CHANGE_CREATE && item->entry.part == 0;
    return item->schema || item->makes ? VD_OK : malformed(err);
}

/* Ascending; the parts of a timestamp from 0 on, without a hole. */
static bool follows(const item_t *before, const item_t *item)
{
    if (before == NULL || before->entry.timestamp < item->entry.timestamp)
        return item->entry.part == 0;
    return before->entry.timestamp == item->entry.timestamp && !before->schema && !item->schema &&
           before->entry.part + 1 == item->entry.part;
}

static int items_read(vd_arena_t *arena, vd_slice_t bytes, item_t **ret_items, uint32_t *ret_count,
                      vd_error_t *err)
{
    uint32_t count = 0;
    item_t *items, none;
    vd_slice_t rest = bytes;
    for (; rest.len > 0; count++)
        if (!frame_take(&rest, &none))
            return malformed(err);
    items = VD_ARENA_ARRAY(arena, item_t, count + 1);
    rest = bytes;
    for (uint32_t i = 0; i < count; i++) {
        memset(&items[i], 0, sizeof items[i]);
        (void)frame_take(&rest, &items[i]); /* as above */
        int rc = stor_journal_decode(items[i].key, items[i].value, &items[i].entry, err);
        if (rc == VD_OK && items[i].entry.change_count > 0)
            rc = schema_look(&items[i], err);
        if (rc != VD_OK)
            return rc;
        if (!follows(i == 0 ? NULL : &items[i - 1], &items[i]))
            return vd_error_set(err, VD_ERR_BAD_VALUE, "entries are missing within the batch");
    }
    *ret_items = items;
    *ret_count = count;
    return VD_OK;
}

/* ---- documents ---- */

static stor_collection_t *own_find(const piece_t *piece, uint64_t id)
{
    for (uint32_t i = 0; piece->own != NULL && i < piece->own->count; i++)
        if (piece->own->collections[i]->id == id)
            return piece->own->collections[i];
    return NULL;
}

static touched_t *touched_get(piece_t *piece, uint64_t id, vd_error_t *err)
{
    if (piece->recent < piece->touched_count && piece->touched[piece->recent].collection->id == id)
        return &piece->touched[piece->recent];
    for (uint32_t i = 0; i < piece->touched_count; i++)
        if (piece->touched[i].collection->id == id) {
            piece->recent = i;
            return &piece->touched[i];
        }
    stor_collection_t *collection = own_find(piece, id);
    if (collection != NULL)
        atomic_fetch_add(&collection->references, 1);
    else
        collection = stor_catalog_reference(piece->apply->storage->catalog, id);
    if (collection == NULL)
        return NULL;
    if (piece->touched_count == piece->touched_cap) {
        uint32_t cap = piece->touched_cap == 0 ? 16 : 2 * piece->touched_cap;
        touched_t *grown = VD_ARENA_ARRAY(piece->apply->arena, touched_t, cap);
        if (piece->touched_count > 0)
            memcpy(grown, piece->touched, piece->touched_count * sizeof *grown);
        piece->touched = grown;
        piece->touched_cap = cap;
    }
    touched_t *touched = &piece->touched[piece->touched_count];
    *touched = (touched_t){.collection = collection};
    piece->recent = piece->touched_count++;
    int rc = stor_cursor_open(piece->session, collection->table, &touched->table, err);
    return rc == VD_OK ? touched : NULL;
}

static int value_make(stor_apply_t *apply, uint64_t version, uint64_t place, vd_bson_t document,
                      vd_error_t *err)
{
    uint8_t *at;
    vd_buf_clear(&apply->value);
    if (vd_buf_reserve(&apply->value, STOR_ENVELOPE_BYTES_MAX + (size_t)document.len, &at) != VD_OK)
        return malformed(err);
    vd_buf_commit(&apply->value, stor_envelope_write_placed(at, version, place, document));
    return VD_OK;
}

/* What our documents give must be what they gave there. */
static int sums_check(const stor_change_t *change, uint64_t timestamp, int64_t bytes, uint64_t hash,
                      vd_error_t *err)
{
    return change->bytes_delta == bytes && change->hash_delta == hash
               ? VD_OK
               : diverged(err, timestamp, "the document's size or hash is not the primary's");
}

static bool is_whole(vd_bson_t document)
{
    return vd_bson_validate(vd_slice(document.data, document.len), 0, VD_BSON_BUILD_DEPTH_MAX,
                            NULL) == VD_OK;
}

static int insert_apply(piece_t *piece, touched_t *to, uint64_t timestamp, vd_slice_t key,
                        const stor_change_t *change, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    int rc = is_whole(change->body) ? VD_OK : malformed(err);
    if (rc == VD_OK)
        rc = sums_check(change, timestamp, change->body.len,
                        stor_record_hash(timestamp, change->body), err);
    if (rc == VD_OK)
        rc = value_make(piece->apply, timestamp, 0, change->body, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_insert(to->table, key, vd_buf_slice(&piece->apply->value), &step);
    if (rc == VD_ERR_DUPLICATE_KEY)
        return diverged(err, timestamp, "the document is here already");
    if (rc == VD_OK)
        rc = stor_index_change(piece->session, to->collection, piece->apply->arena, key,
                               VD_BSON_NONE, change->body, &step);
    if (rc == VD_OK && to->collection->capped.is)
        rc = stor_capped_put(piece->session, to->collection, timestamp, key, &step);
    if (rc != VD_OK && err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

/* The document before the change. Borrows the engine's memory. */
static int old_read(touched_t *to, uint64_t timestamp, vd_slice_t key, const stor_change_t *change,
                    stor_record_t *ret, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    vd_slice_t value;
    int rc = stor_cursor_search(to->table, key, &value, &step);
    if (rc == VD_ERR_NOT_FOUND)
        return diverged(err, timestamp, "the document is not here");
    if (rc == VD_OK)
        rc = stor_envelope_read(value, &ret->document, &ret->version, &step);
    if (rc != VD_OK) {
        if (err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
    ret->place = to->collection->capped.is ? stor_envelope_place(value) : 0;
    return ret->version == change->previous_version
               ? VD_OK
               : diverged(err, timestamp, "the document's previous version is another one");
}

static int change_old(piece_t *piece, touched_t *to, uint64_t timestamp, vd_slice_t key,
                      const stor_change_t *change, vd_error_t *err)
{
    stor_record_t old;
    int rc = old_read(to, timestamp, key, change, &old, err);
    if (rc != VD_OK)
        return rc;
    uint64_t old_hash = stor_record_hash(old.version, old.document);
    int64_t old_len = old.document.len;
    if (change->kind == STOR_CHANGE_DELETE) {
        rc = sums_check(change, timestamp, -old_len, 0 - old_hash, err);
        if (rc == VD_OK)
            rc = stor_index_change(piece->session, to->collection, piece->apply->arena, key,
                                   old.document, VD_BSON_NONE, err);
        if (rc == VD_OK && to->collection->capped.is)
            rc = stor_capped_remove(piece->session, to->collection, old.place, err);
        return rc == VD_OK ? stor_cursor_remove(to->table, key, err) : rc;
    }
    vd_bson_t after = change->body;
    if (!is_whole(change->body))
        return malformed(err);
    if (change->kind == STOR_CHANGE_DELTA)
        rc = stor_delta_apply(piece->apply->arena, old.document, change->body, &after, err);
    if (rc == VD_OK)
        rc = sums_check(change, timestamp, (int64_t)after.len - old_len,
                        stor_record_hash(timestamp, after) - old_hash, err);
    if (rc == VD_OK)
        rc = stor_index_change(piece->session, to->collection, piece->apply->arena, key,
                               old.document, after, err);
    if (rc == VD_OK)
        rc = value_make(piece->apply, timestamp, old.place, after, err);
    return rc == VD_OK ? stor_cursor_update(to->table, key, vd_buf_slice(&piece->apply->value), err)
                       : rc;
}

static int document_apply(piece_t *piece, uint64_t timestamp, const stor_change_t *change,
                          vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    vd_slice_t key;
    touched_t *to = touched_get(piece, change->collection_id, &step);
    if (to == NULL && step.code != VD_OK) {
        if (err != NULL)
            vd_error_copy(&step, err);
        return step.code;
    }
    if (to == NULL)
        return diverged(err, timestamp, "its collection is not here");
    int rc = stor_id_key(piece->apply->arena, change->id, &key, err);
    if (rc == VD_OK)
        rc = change->kind == STOR_CHANGE_INSERT
                 ? insert_apply(piece, to, timestamp, key, change, err)
                 : change_old(piece, to, timestamp, key, change, err);
    to->documents += change->documents_delta;
    to->bytes += change->bytes_delta;
    to->hash += change->hash_delta;
    if (to->collection->is_auth)
        piece->auth_timestamp = timestamp;
    return rc;
}

/* ---- what is not a document ---- */

static int result_apply(piece_t *piece, vd_bson_t body, vd_error_t *err)
{
    if (!is_whole(body))
        return malformed(err);
    vd_value_t key = vd_bson_get(body, "key"), value = vd_bson_get(body, "value");
    if (key.type != VD_BSON_BINARY || value.type != VD_BSON_BINARY)
        return malformed(err);
    row_t *row = VD_ARENA_NEW(piece->apply->arena, row_t);
    *row = (row_t){piece->rows, vd_value_binary(key, NULL), vd_value_binary(value, NULL)};
    piece->rows = row;
    return stor_sessions_row_put(piece->session, row->key, row->value, err);
}

static int config_apply(piece_t *piece, vd_bson_t body, vd_error_t *err)
{
    if (body.len > VDP_SET_CONFIG_MAX || !is_whole(body))
        return malformed(err);
    piece->config = body;
    return stor_replication_config_put(piece->session, body, err);
}

static int change_apply(piece_t *piece, uint64_t timestamp, const stor_change_t *change,
                        vd_error_t *err)
{
    switch (change->kind) {
    case STOR_CHANGE_INSERT:
    case STOR_CHANGE_REPLACE:
    case STOR_CHANGE_UPDATE_WHOLE:
    case STOR_CHANGE_DELTA:
    case STOR_CHANGE_DELETE:
        return document_apply(piece, timestamp, change, err);
    case STOR_CHANGE_RESULT:
        return result_apply(piece, change->body, err);
    case STOR_CHANGE_CONFIG:
        return config_apply(piece, change->body, err);
    case STOR_CHANGE_NOOP:
    case STOR_CHANGE_IMAGE:
    case STOR_CHANGE_DROP_DATABASE: /* behind the drops of its collections */
        return VD_OK;
    case STOR_CHANGE_CREATE:
    case STOR_CHANGE_CREATE_INDEXES: /* of what was made before (own_make) */
        return own_find(piece, change->collection_id) != NULL ? VD_OK : malformed(err);
    case STOR_CHANGE_DROP:
    case STOR_CHANGE_RENAME:
    case STOR_CHANGE_MODIFY:
    case STOR_CHANGE_DROP_INDEXES:
    case STOR_CHANGE_MODIFY_INDEX:
    case STOR_CHANGE_START_INDEXES:
    case STOR_CHANGE_ABORT_INDEXES:
        break;
    }
    return malformed(err); /* a schema change among others */
}

static int item_apply(piece_t *piece, const item_t *item, vd_error_t *err)
{
    vd_slice_t changes = item->entry.changes;
    stor_change_t change;
    int rc;
    while ((rc = stor_journal_change_next(&changes, &change, err)) == VD_OK) {
        if (change.kind != STOR_CHANGE_NOOP)
            piece->wall_ms = item->entry.wall_ms;
        rc = change_apply(piece, item->entry.timestamp, &change, err);
        if (rc != VD_OK)
            return rc;
    }
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    return stor_journal_append_raw(piece->apply->storage->journal, piece->session, item->key,
                                   item->value, err);
}

/* ---- pieces ---- */

static void piece_done(piece_t *piece)
{
    for (uint32_t i = 0; i < piece->touched_count; i++)
        stor_catalog_unreference(&piece->touched[i].collection);
    vd_arena_reset(piece->apply->arena);
}

static int epoch_put(piece_t *piece, vd_error_t *err)
{
    uint8_t payload[8];
    vd_put_u64(payload, piece->auth_timestamp);
    return stor_catalog_meta_put(piece->session, "auth_epoch",
                                 (vd_value_t){payload, sizeof payload, VD_BSON_INT64}, err);
}

static void piece_committed(piece_t *piece)
{
    stor_storage_t *storage = piece->apply->storage;
    for (uint32_t i = 0; i < piece->touched_count; i++) {
        const touched_t *touched = &piece->touched[i];
        stor_collection_t *collection = touched->collection;
        atomic_fetch_add_explicit(&collection->documents, touched->documents, memory_order_relaxed);
        atomic_fetch_add_explicit(&collection->bytes, touched->bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&collection->hash, touched->hash, memory_order_relaxed);
    }
    for (const row_t *row = piece->rows; row != NULL; row = row->next)
        stor_sessions_row_applied(storage->sessions, row->key, row->value);
    if (piece->wall_ms != 0)
        atomic_store_explicit(&storage->last_write_ms, piece->wall_ms, memory_order_relaxed);
    if (piece->config.len > 0)
        stor_replication_config_changed(storage, piece->config);
    if (piece->auth_timestamp != 0)
        stor_storage_auth_epoch_raise(storage, piece->auth_timestamp);
    if (piece->config.len == 0 && piece->auth_timestamp == 0)
        return;
    atomic_store(&storage->state_changed, true);
    if (storage->inbox != NULL)
        stor_inbox_announce(storage->inbox);
}

/* own: NULL, or what it makes. */
static int piece_try(stor_apply_t *apply, stor_session_t *session, own_t *own, const item_t *items,
                     uint32_t count, vd_error_t *err)
{
    stor_catalog_t *catalog = apply->storage->catalog;
    piece_t piece = {.apply = apply, .session = session, .own = own};
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    stor_txn_timestamp_given(session, items[count - 1].entry.timestamp);
    if (own != NULL)
        rc = stor_catalog_own_put_applied(catalog, session, own->collections, own->count, err);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++)
        rc = item_apply(&piece, &items[i], err);
    if (rc == VD_OK && piece.auth_timestamp != 0)
        rc = epoch_put(&piece, err);
    if (rc == VD_OK)
        rc = VD_FAULT("apply.before_commit", err);
    if (rc != VD_OK)
        stor_txn_rollback(session);
    else if (own != NULL)
        rc = stor_catalog_own_commit(catalog, session, own->collections, own->count, err);
    else
        rc = stor_txn_commit(session, err);
    if (rc == VD_OK)
        piece_committed(&piece);
    if (own != NULL)
        own->entered = rc == VD_OK;
    piece_done(&piece);
    return rc == VD_OK ? VD_FAULT("apply.after_commit", err) : rc;
}

static int schema_apply(stor_apply_t *apply, stor_session_t *session, const item_t *item,
                        vd_error_t *err)
{
    vd_slice_t changes = item->entry.changes;
    stor_request_t *request = vd_xalloc(sizeof *request);
    stor_change_t change;
    stor_request_init(request, apply->storage, apply->arena);
    request->session = session;
    request->slot = apply->slot;
    int rc = stor_journal_change_next(&changes, &change, err);
    if (rc == VD_OK && change.kind != STOR_CHANGE_DROP)
        rc = stor_engine_write_allowed(apply->storage->engine, err);
    if (rc == VD_OK)
        rc = stor_catalog_apply(request, change.kind, change.collection_id, change.body,
                                item->entry.timestamp, item->key, item->value, err);
    if (rc == VD_OK)
        atomic_store_explicit(&apply->storage->last_write_ms, item->entry.wall_ms,
                              memory_order_relaxed);
    vd_free(request);
    vd_arena_reset(apply->arena);
    return rc;
}

/* The keeper removes rows of old sessions and folds counters: such a conflict is waited for. */
static int piece_tries(stor_apply_t *apply, stor_session_t *session, own_t *own,
                       const item_t *items, uint32_t count, vd_error_t *err)
{
    for (int i = 1;; i++) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = piece_try(apply, session, own, items, count, &step);
        if (rc == VD_OK)
            return VD_OK;
        if (rc != VD_ERR_WRITE_CONFLICT || i == CONFLICTS_MAX) {
            if (err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
        struct timespec pause = {.tv_nsec = CONFLICT_PAUSE};
        (void)nanosleep(&pause, NULL); /* waking early is fine */
    }
}

/* Objects and tables of what the transaction's entry begins with. */
static int own_make(stor_apply_t *apply, stor_session_t *session, const item_t *item, own_t *own,
                    vd_error_t *err)
{
    vd_slice_t changes = item->entry.changes;
    stor_request_t *request = vd_xalloc(sizeof *request);
    stor_change_t change;
    int rc;
    stor_request_init(request, apply->storage, apply->arena);
    request->session = session;
    request->slot = apply->slot;
    while ((rc = stor_journal_change_next(&changes, &change, err)) == VD_OK &&
           (change.kind == STOR_CHANGE_CREATE || change.kind == STOR_CHANGE_CREATE_INDEXES))
        if ((rc = stor_catalog_own_applied(request, &change, own->collections, &own->count, err)) !=
            VD_OK)
            break;
    vd_free(request);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int making_apply(stor_apply_t *apply, stor_session_t *session, const item_t *items,
                        uint32_t count, vd_error_t *err)
{
    stor_catalog_t *catalog = apply->storage->catalog;
    own_t *own = vd_xalloc(sizeof *own);
    stor_catalog_own_begin_applied(catalog);
    int rc = own_make(apply, session, &items[0], own, err);
    if (rc == VD_OK)
        rc = piece_tries(apply, session, own, items, count, err);
    stor_catalog_own_end(catalog);
    for (uint32_t i = 0; i < own->count; i++)
        stor_catalog_own_done(catalog, &own->collections[i], own->entered);
    vd_free(own);
    vd_arena_reset(apply->arena);
    return rc;
}

static int piece_apply(stor_apply_t *apply, stor_session_t *session, const item_t *items,
                       uint32_t count, vd_error_t *err)
{
    if (items[0].schema)
        return schema_apply(apply, session, &items[0], err);
    int rc = stor_engine_write_allowed(apply->storage->engine, err);
    if (rc != VD_OK)
        return rc;
    return items[0].makes ? making_apply(apply, session, items, count, err)
                          : piece_tries(apply, session, NULL, items, count, err);
}

/* How many items from here on go into one transaction; whole timestamps. */
static uint32_t piece_size(const item_t *items, uint32_t count)
{
    size_t bytes = 0;
    uint32_t n = 0;
    if (items[0].schema)
        return 1;
    while (n < count && !items[n].schema && (n == 0 || !items[n].makes)) {
        bool border = n > 0 && items[n].entry.timestamp != items[n - 1].entry.timestamp;
        if (border &&
            (items[0].makes || n >= STOR_APPLY_ENTRIES_MAX || bytes >= STOR_APPLY_BYTES_MAX))
            break;
        bytes += items[n++].value.len;
    }
    return n;
}

/* Entries that we say we have must be in our journal, as far as it goes back. */
static int had_check(stor_apply_t *apply, stor_session_t *session, const item_t *items,
                     uint32_t count, vd_error_t *err)
{
    stor_journal_stats_t stats;
    stor_journal_stats(apply->storage->journal, &stats);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t timestamp = items[i].entry.timestamp, found = 0;
        if (timestamp <= stats.oldest)
            continue;
        int rc = stor_journal_before(apply->storage->journal, session, timestamp, &found, err);
        if (rc != VD_OK)
            return rc;
        if (found != timestamp)
            return diverged(err, timestamp, "it is older than our position, and not here");
    }
    return VD_OK;
}

/* The first item that is younger than the delay; count when none is. */
static uint32_t ripe_count(stor_apply_t *apply, const item_t *items, uint32_t count,
                           int64_t delay_ms)
{
    uint32_t n = 0;
    if (delay_ms <= 0)
        return count;
    int64_t now_ms = vd_wall_ms();
    for (; n < count; n++) {
        int64_t made_ms = (int64_t)(items[n].entry.timestamp >> 32) * 1000;
        if (made_ms > now_ms - delay_ms) {
            apply->due_ms = made_ms + delay_ms;
            break;
        }
    }
    return n;
}

/* again: the batch was looked at before, and stopped. */
static int items_apply(stor_apply_t *apply, stor_session_t *session, const item_t *items,
                       uint32_t count, bool again, vd_error_t *err)
{
    uint64_t position = stor_apply_position(apply);
    uint32_t at = 0;
    while (at < count && items[at].entry.timestamp <= position)
        at++;
    int rc = again ? VD_OK : had_check(apply, session, items, at, err);
    while (rc == VD_OK && at < count) {
        uint32_t n = piece_size(items + at, count - at);
        if (apply->slot != NULL)
            vd_daemon_beat(apply->slot, true);
        vd_error_t step = VD_ERROR_INIT;
        rc = piece_apply(apply, session, items + at, n, &step);
        if (rc == VD_ERR_AGAIN && items[at].schema) {
            apply->waits = true;
            apply->due_ms = vd_wall_ms() + BUILD_LOOK_MS;
            return VD_OK;
        }
        if (rc != VD_OK && err != NULL)
            vd_error_copy(&step, err);
        at += n;
    }
    return rc;
}

/* ---- batches ---- */

static int batch_check(stor_apply_t *apply, const vdp_replication_apply_t *batch, vd_error_t *err)
{
    stor_replication_t *replication = apply->storage->replication;
    uint64_t position = stor_apply_position(apply);
    if (batch->term < atomic_load(&replication->term))
        return vd_error_set(err, VD_ERR_STALE_TERM, "a batch of term %llu, after term %llu",
                            (unsigned long long)batch->term,
                            (unsigned long long)atomic_load(&replication->term));
    if (stor_replication_role(apply->storage) == VDP_ROLE_PRIMARY)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "a primary applies nothing");
    if (batch->after != apply->pending_timestamp) {
        vd_buf_clear(&apply->pending);
        apply->pending_timestamp = 0;
    }
    if (batch->after > position && apply->pending_timestamp == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "a batch after %llu, where %llu is what is applied",
                            (unsigned long long)batch->after, (unsigned long long)position);
    return VD_OK;
}

/* The parts of the last timestamp, of which there are more, are kept until the rest is here. */
static int pending_keep(stor_apply_t *apply, const item_t *items, uint32_t whole, uint32_t count,
                        vd_error_t *err)
{
    vd_buf_t kept;
    vd_buf_init(&kept, STOR_APPLY_PENDING_MAX);
    int rc = VD_OK;
    for (uint32_t i = whole; rc == VD_OK && i < count; i++) {
        rc = vd_buf_append_slice(&kept, items[i].key);
        if (rc == VD_OK)
            rc = vd_buf_append_u32(&kept, (uint32_t)items[i].value.len);
        if (rc == VD_OK)
            rc = vd_buf_append_slice(&kept, items[i].value);
    }
    if (rc != VD_OK) {
        vd_buf_done(&kept);
        return vd_error_set(err, VD_ERR_FULL, "a transaction of more than %u bytes",
                            STOR_APPLY_PENDING_MAX);
    }
    vd_buf_done(&apply->pending);
    apply->pending = kept;
    apply->pending_timestamp = whole < count ? items[whole].entry.timestamp : 0;
    return VD_OK;
}

static int joined_apply(stor_apply_t *apply, stor_session_t *session, vd_arena_t *arena,
                        const vdp_replication_apply_t *batch, vd_slice_t bytes, uint32_t had,
                        vd_error_t *err)
{
    item_t *items = NULL;
    uint32_t count = 0;
    int rc = items_read(arena, bytes, &items, &count, err);
    if (rc != VD_OK)
        return rc;
    if (count != had + batch->count ||
        (count > 0 && items[count - 1].entry.timestamp != batch->last))
        return malformed(err);
    uint32_t whole = count;
    while (batch->partial && whole > 0 && items[whole - 1].entry.timestamp == batch->last)
        whole--;
    uint32_t ripe = ripe_count(apply, items, whole, batch->delay_ms);
    const vdp_replication_apply_t *before = &apply->waiting;
    bool again = apply->waits && before->term == batch->term && before->after == batch->after &&
                 before->last == batch->last && before->count == batch->count;
    apply->waits = false;
    apply->waiting = *batch;
    rc = items_apply(apply, session, items, ripe, again, err);
    return rc == VD_OK && ripe == whole && !apply->waits
               ? pending_keep(apply, items, whole, count, err)
               : rc;
}

static uint32_t frames_count(vd_slice_t bytes)
{
    uint32_t count = 0;
    item_t item;
    while (frame_take(&bytes, &item))
        count++;
    return count;
}

int stor_apply_batch(stor_apply_t *apply, stor_session_t *session,
                     const vdp_replication_apply_t *batch, vd_slice_t entries,
                     uint64_t *ret_applied, vd_error_t *err)
{
    VD_ASSERT(!stor_txn_active(session));
    int rc = batch_check(apply, batch, err);
    if (rc != VD_OK)
        return rc;
    if (!stor_freeze_enter(apply->storage)) { /* it is asked again */
        apply->waits = true;
        apply->due_ms = vd_wall_ms() + BUILD_LOOK_MS;
        *ret_applied = stor_apply_position(apply);
        return VD_OK;
    }
    vd_arena_t *arena = vd_arena_create();
    vd_buf_t joined;
    vd_slice_t bytes = entries;
    uint32_t had = frames_count(vd_buf_slice(&apply->pending));
    vd_buf_init(&joined, STOR_APPLY_PENDING_MAX + VDP_ENTRIES_MAX);
    if (had > 0) {
        rc = vd_buf_append_slice(&joined, vd_buf_slice(&apply->pending));
        if (rc == VD_OK)
            rc = vd_buf_append_slice(&joined, entries);
        if (rc != VD_OK)
            rc = vd_error_set(err, VD_ERR_FULL, "a transaction of too many bytes");
        bytes = vd_buf_slice(&joined);
    }
    if (rc == VD_OK)
        rc = joined_apply(apply, session, arena, batch, bytes, had, err);
    vd_buf_done(&joined);
    vd_arena_destroy(&arena);
    stor_freeze_leave(apply->storage);
    if (rc == VD_OK)
        *ret_applied = stor_apply_position(apply);
    return rc;
}
