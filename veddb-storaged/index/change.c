/* veddb-storaged/index/change.c — upkeep: what a write of a document does to the entries.
 *
 * First all keys are made and the unique ones are looked for; only then is anything changed: a
 * write that is refused leaves the transaction as it was. */
#include "libcommon/base/clock.h"
#include "libcommon/base/map.h"
#include "veddb-storaged/catalog/rows.h"
#include "veddb-storaged/index/index_private.h"

#include <time.h>

#define RAISE_TRIES_MAX 1000

typedef struct {
    stor_session_t *session;
    const stor_collection_t *collection;
    vd_arena_t *arena;
    vd_slice_t id_key;
    bool given; /* another node's write: it was checked there */
} change_t;

/* What one index loses, gains, and keeps under another value. */
typedef struct {
    stor_index_t *index;
    stor_index_keys_t before, after;
} keys_t;

/* ---- multikey ---- */

static int multikey_put(stor_session_t *session, stor_index_t *index, stor_index_multikey_t bits,
                        vd_error_t *err)
{
    uint32_t kept;
    int64_t entries;
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_rows_index_state_get(session, index->id, &kept, &entries, err);
    if (rc == VD_OK)
        rc = stor_rows_index_state_put(session, index->id, kept | bits, entries, err);
    if (rc != VD_OK) {
        stor_txn_rollback(session);
        return rc;
    }
    return stor_txn_commit(session, err);
}

int stor_index_multikey_raise(stor_engine_t *engine, stor_index_t *index,
                              stor_index_multikey_t bits, vd_error_t *err)
{
    stor_session_t *session = NULL;
    int rc = stor_session_open(engine, &session, err);
    for (int i = 0; rc == VD_OK; i++) {
        vd_error_t step = VD_ERROR_INIT;
        rc = multikey_put(session, index, bits, &step);
        if (rc == VD_OK)
            break;
        if (rc != VD_ERR_WRITE_CONFLICT || i >= RAISE_TRIES_MAX) {
            if (err != NULL)
                vd_error_copy(&step, err);
            break;
        }
        struct timespec pause = {.tv_nsec = 500000}; /* another worker, or the keeper */
        (void)nanosleep(&pause, NULL);               /* waking early is fine */
        rc = VD_OK;
    }
    stor_session_close(&session);
    if (rc == VD_OK)
        atomic_fetch_or(&index->multikey, bits);
    return rc;
}

/* ---- keys ---- */

static int keys_make(const change_t *change, keys_t *keys, vd_bson_t before, vd_bson_t after,
                     vd_error_t *err)
{
    stor_index_t *index = keys->index;
    int rc = VD_OK;
    if (before.data != NULL)
        rc = stor_index_keys_make(index->def, change->arena, before, &keys->before, err);
    if (rc == VD_OK && after.data != NULL)
        rc = stor_index_keys_make(index->def, change->arena, after, &keys->after, err);
    stor_index_multikey_t bits = keys->after.multikey;
    if (rc != VD_OK || (bits & ~atomic_load(&index->multikey)) == 0)
        return rc;
    if (atomic_load(&index->state) == STOR_INDEX_READY)
        return stor_index_multikey_raise(stor_session_engine(change->session), index, bits, err);
    atomic_fetch_or(&index->multikey, bits); /* kept when it becomes ready */
    return VD_OK;
}

/* One step through two sorted lists: *old or *new or both point to the next key. False at the end.
 */
static bool pair_next(const keys_t *keys, uint32_t *a, uint32_t *b, const stor_index_key_t **old,
                      const stor_index_key_t **new)
{
    const stor_index_keys_t *x = &keys->before, *y = &keys->after;
    *old = *a < x->count ? &x->keys[*a] : NULL;
    *new = *b < y->count ? &y->keys[*b] : NULL;
    if (*old == NULL && *new == NULL)
        return false;
    int c = *old == NULL ? 1 : *new == NULL ? -1 : vd_slice_compare((*old)->key, (*new)->key);
    if (c > 0)
        *old = NULL;
    if (c < 0)
        *new = NULL;
    *a += *old != NULL;
    *b += *new != NULL;
    return true;
}

static bool same_value(const stor_index_key_t *a, const stor_index_key_t *b)
{
    return a->exact == b->exact && vd_slice_equal(a->type_bits, b->type_bits);
}

/* ---- unique ---- */

/* The key is in our snapshot, of another document. Writing the same value again tells whether it
 * still is: if it was changed since, that is a conflict, and the write is tried anew. */
static int duplicate_check(const change_t *change, const stor_index_t *index, stor_cursor_t *cursor,
                           const stor_index_key_t *key, vd_slice_t value, vd_error_t *err)
{
    vd_slice_t own = vd_arena_copy_slice(change->arena, value);
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_cursor_update(cursor, key->key, own, &step);
    if (rc == VD_OK)
        return stor_index_duplicate(change->arena, change->collection->ns, index->def, key->key,
                                    key->type_bits, err);
    if (rc == VD_ERR_NOT_FOUND)
        rc = VD_ERR_INTERNAL; /* it was there a moment ago, in the same snapshot */
    return vd_error_set(err, rc, "%s", step.message);
}

static int prepared_look(const change_t *change, const stor_index_t *index, stor_cursor_t *cursor,
                         const stor_index_key_t *key, vd_error_t *err);

static int unique_look(const change_t *change, const stor_index_t *index, stor_cursor_t *cursor,
                       const stor_index_key_t *key, vd_error_t *err)
{
    vd_slice_t value;
    stor_index_entry_t entry;
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_cursor_search(cursor, key->key, &value, &step);
    if (rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (rc == VD_OK)
        rc = stor_index_entry_read(index->def, key->key, value, &entry, &step);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s", step.message);
    return vd_slice_equal(entry.id_key, change->id_key)
               ? VD_OK
               : duplicate_check(change, index, cursor, key, value, err);
}

static int unique_check(const change_t *change, const keys_t *keys, vd_error_t *err)
{
    const stor_index_key_t *old, *new;
    stor_cursor_t *cursor = NULL;
    uint32_t a = 0, b = 0;
    int rc = VD_OK;
    while (rc == VD_OK && pair_next(keys, &a, &b, &old, &new)) {
        if (old != NULL)
            continue;
        if (cursor == NULL)
            rc = stor_cursor_open(change->session, keys->index->table, &cursor, err);
        if (rc == VD_OK)
            rc = keys->index->def->unique ? unique_look(change, keys->index, cursor, new, err)
                                          : prepared_look(change, keys->index, cursor, new, err);
    }
    return rc;
}

/* ---- prepareUnique ---- */

static int guard_put(const change_t *change, const stor_index_t *index, vd_slice_t fields,
                     vd_error_t *err)
{
    static const uint8_t none[1] = {0};
    uint8_t key[10];
    stor_cursor_t *guards;
    vd_put_u64_be(key, index->id);
    uint64_t hash = vd_hash(fields);
    key[8] = (uint8_t)(hash >> 8), key[9] = (uint8_t)hash;
    int rc = stor_cursor_open(change->session, STOR_INDEX_GUARDS_TABLE, &guards, err);
    return rc == VD_OK ? stor_cursor_put(guards, vd_slice(key, sizeof key),
                                         vd_slice(none, sizeof none), err)
                       : rc;
}

/* An entry of another document with that key. VD_ERR_NOT_FOUND: there is none. */
static int other_find(const change_t *change, const stor_index_t *index, stor_cursor_t *cursor,
                      vd_slice_t fields, vd_slice_t *ret_key, vd_slice_t *ret_value,
                      vd_error_t *err)
{
    vd_slice_t key, value;
    stor_index_entry_t entry;
    int rc = stor_cursor_seek(cursor, fields, true, &key, &value, err);
    while (rc == VD_OK && vd_slice_starts_with(key, fields)) {
        rc = stor_index_entry_read(index->def, key, value, &entry, err);
        if (rc != VD_OK)
            return rc;
        if (vd_slice_equal(entry.fields, fields) && !vd_slice_equal(entry.id_key, change->id_key)) {
            *ret_key = vd_arena_copy_slice(change->arena, key);
            *ret_value = vd_arena_copy_slice(change->arena, value);
            return VD_OK;
        }
        rc = stor_cursor_next(cursor, true, &key, &value, err);
    }
    return rc == VD_OK ? VD_ERR_NOT_FOUND : rc;
}

/* Who has put the guard knows that nobody has gained a key of its bucket since the snapshot;
 * whether somebody has lost it, writing the entry again tells, as above. */
static int prepared_look(const change_t *change, const stor_index_t *index, stor_cursor_t *cursor,
                         const stor_index_key_t *key, vd_error_t *err)
{
    vd_slice_t at, value;
    vd_error_t step = VD_ERROR_INIT;
    int rc = guard_put(change, index, key->key, err);
    if (rc != VD_OK)
        return rc;
    rc = other_find(change, index, cursor, key->key, &at, &value, &step);
    if (rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (rc == VD_OK)
        rc = stor_cursor_update(cursor, at, value, &step);
    if (rc == VD_OK)
        return stor_index_duplicate(change->arena, change->collection->ns, index->def, key->key,
                                    key->type_bits, err);
    return vd_error_set(err, rc == VD_ERR_NOT_FOUND ? VD_ERR_INTERNAL : rc, "%s", step.message);
}

/* ---- entries ---- */

static int entry_remove(const change_t *change, stor_index_t *index, stor_cursor_t *cursor,
                        const stor_index_key_t *key, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    vd_slice_t value;
    stor_index_entry_t entry;
    int rc = VD_OK;
    if (index->def->unique) {
        rc = stor_cursor_search(cursor, key->key, &value, &step);
        if (rc == VD_OK)
            rc = stor_index_entry_read(index->def, key->key, value, &entry, &step);
        if (rc == VD_OK && !vd_slice_equal(entry.id_key, change->id_key))
            return VD_OK; /* another document has it by now (applied writes) */
    }
    if (rc == VD_OK)
        rc = stor_cursor_remove(
            cursor, stor_index_entry_key(change->arena, index->def, key->key, change->id_key),
            &step);
    if (rc == VD_ERR_NOT_FOUND)
        return VD_OK; /* damage; validate tells */
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s", step.message);
    atomic_fetch_sub_explicit(&index->entries, 1, memory_order_relaxed);
    return VD_OK;
}

static int entry_put(const change_t *change, stor_index_t *index, stor_cursor_t *cursor,
                     const stor_index_key_t *key, bool was_there, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    vd_slice_t at = stor_index_entry_key(change->arena, index->def, key->key, change->id_key);
    vd_slice_t value = stor_index_entry_value(change->arena, index->def, key, change->id_key);
    int rc = index->def->unique && !change->given && !was_there
                 ? stor_cursor_insert(cursor, at, value, &step)
                 : stor_cursor_put(cursor, at, value, &step);
    if (rc == VD_ERR_DUPLICATE_KEY) /* of this very document, by unique_check: damage, mended */
        rc = stor_cursor_put(cursor, at, value, err);
    else if (rc != VD_OK)
        return vd_error_set(err, rc, "%s", step.message);
    if (rc == VD_OK && !was_there)
        atomic_fetch_add_explicit(&index->entries, 1, memory_order_relaxed);
    return rc;
}

static int entries_change(const change_t *change, const keys_t *keys, vd_error_t *err)
{
    const stor_index_key_t *old, *new;
    stor_index_t *index = keys->index;
    stor_cursor_t *cursor = NULL;
    uint32_t a = 0, b = 0;
    int rc = VD_OK;
    while (rc == VD_OK && pair_next(keys, &a, &b, &old, &new)) {
        if (old != NULL && new != NULL && same_value(old, new))
            continue;
        if (cursor == NULL)
            rc = stor_cursor_open(change->session, index->table, &cursor, err);
        if (rc != VD_OK)
            break;
        rc = new == NULL ? entry_remove(change, index, cursor, old, err)
                         : entry_put(change, index, cursor, new, old != NULL, err);
    }
    return rc;
}

static int log_change(const change_t *change, const keys_t *keys, vd_error_t *err)
{
    const stor_index_key_t *old, *new;
    uint32_t a = 0, b = 0;
    int rc = VD_OK;
    while (rc == VD_OK && pair_next(keys, &a, &b, &old, &new)) {
        if (old != NULL && new != NULL && same_value(old, new))
            continue;
        const stor_index_key_t *key = new == NULL ? old : new;
        stor_index_log_entry_t entry = {.op = new == NULL ? STOR_INDEX_LOG_REMOVE
                                                          : STOR_INDEX_LOG_PUT,
                                        .fields = key->key,
                                        .id_key = change->id_key,
                                        .type_bits = key->type_bits,
                                        .exact = key->exact};
        rc = stor_index_log_add(change->session, change->arena, keys->index->log, &entry, err);
    }
    return rc;
}

static bool is_ready(const stor_index_t *index)
{
    return atomic_load(&index->state) == STOR_INDEX_READY;
}

static int set_change(const change_t *change, const stor_index_set_t *set, vd_bson_t before,
                      vd_bson_t after, vd_error_t *err)
{
    keys_t *keys = VD_ARENA_ARRAY(change->arena, keys_t, set->count);
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < set->count; i++) {
        keys[i].index = set->items[i];
        rc = keys_make(change, &keys[i], before, after, err);
    }
    for (uint32_t i = 0; rc == VD_OK && i < set->count; i++)
        if ((set->items[i]->def->unique || set->items[i]->def->prepare_unique) &&
            is_ready(set->items[i]) && !change->given)
            rc = unique_check(change, &keys[i], err);
    for (uint32_t i = 0; rc == VD_OK && i < set->count; i++)
        rc = is_ready(set->items[i]) ? entries_change(change, &keys[i], err)
                                     : log_change(change, &keys[i], err);
    return rc;
}

int stor_index_change(stor_session_t *session, const stor_collection_t *collection,
                      vd_arena_t *arena, vd_slice_t id_key, vd_bson_t before, vd_bson_t after,
                      vd_error_t *err)
{
    if (VD_LIKELY(collection->indexes == NULL))
        return VD_OK;
    vd_arena_mark_t mark = vd_arena_mark(arena);
    change_t change = {.session = session,
                       .collection = collection,
                       .arena = arena,
                       .id_key = id_key,
                       .given = stor_txn_is_given(session)};
    int rc = set_change(&change, collection->indexes, before, after, err);
    if (rc == VD_OK)
        vd_arena_rewind(arena, mark); /* else the error's details live there */
    return rc;
}

void stor_index_writer_pause(const stor_collection_t *collection)
{
    const stor_index_set_t *set = collection->indexes;
    uint32_t most = 0;
    for (uint32_t i = 0; set != NULL && i < set->count; i++) {
        const stor_index_t *index = set->items[i];
        if (VD_LIKELY(index->log == NULL || is_ready(index)))
            continue;
        uint32_t pause = atomic_load_explicit(&index->log->pause_us, memory_order_relaxed);
        most = pause > most ? pause : most;
    }
    if (most == 0)
        return;
    struct timespec pause = {.tv_nsec = (long)most * 1000};
    (void)nanosleep(&pause, NULL); /* waking early is fine */
}
