/* veddb-storaged/index/index.h — the secondary indexes of a collection: objects, entries, upkeep.
 *
 * Duty:    an index is a row in the catalog, a table "i-<id>" and an object of this kind; the set
 *          of a collection's indexes is part of its (immutable) stor_collection_t and is replaced
 *          behind the fence. Entries change in the transaction of the document. Entry: key =
 *          fields' keycodes ‖ keycode(_id), value = head.
 * Unique:  key = fields' keycodes alone, value = head with the key of the _id; insert without
 *          overwrite, so that two equal keys at once conflict. A sparse or partial unique index
 *          does not hold what it leaves out. Head: u8 epoch, u8 flags (1: key of _id follows, 2:
 *          inexact), [u16 BE length, key of _id], type bits of the fields, so that a covering
 *          plan gives back exact values.
 * Threads: objects never change but for atomics; upkeep: the worker that has the session. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/index/keys.h"

typedef enum { STOR_INDEX_BUILDING, STOR_INDEX_READY } stor_index_state_t;

struct stor_index_log; /* index_private.h */

struct stor_index {
    uint64_t id;
    uint64_t table_number;       /* its id, until a repair fills another table */
    char table[32];              /* "i-7" */
    const stor_index_def_t *def; /* lives as long as the index */
    /* A building one is kept up to date by its log, and never read by queries. Becomes ready behind
     * the fence. */
    _Atomic stor_index_state_t state;
    /* Only ever grows; durable before the first entry that makes it true is committed. A reader
     * looks at it after its snapshot was taken, each time anew. */
    atomic_uint_fast32_t multikey; /* stor_index_multikey_t */
    atomic_int_fast64_t entries;   /* about: transactions that were rolled back leave traces */
    atomic_uint_fast64_t accesses; /* $indexStats: plans that used it */
    int64_t since_wall_ms;         /* $indexStats: counting since */
    struct stor_index_log *log;    /* of one that is built; lives as long as the object */
    bool old_keys; /* made by another version of ICU; filled anew before anybody reads */
    vd_arena_t *arena;
    atomic_int references;
};
typedef struct stor_index stor_index_t;

/* Of a collection (collection->indexes; NULL = only _id). In order of creation; _id is not among
 * them. */
struct stor_index_set {
    atomic_int references;
    uint32_t count;
    stor_index_t *items[]; /* referenced */
};
typedef struct stor_index_set stor_index_set_t;

/* The index on _id is among them: the first, of a collection that has a collation. */
static inline bool stor_index_set_has_id(const stor_index_set_t *set)
{
    return set != NULL && set->count > 0 && stor_index_is_of_id(set->items[0]->def);
}
/* The table itself is the index on _id that clients see. (A time-series collection has none.) */
static inline bool stor_index_plain_id(const stor_collection_t *collection)
{
    return !stor_index_set_has_id(collection->indexes) && !collection->timeseries.is;
}
/* The ready index of that name, or with that key pattern; NULL when there is none. */
stor_index_t *stor_index_by_name(const stor_collection_t *collection, vd_slice_t name);
stor_index_t *stor_index_by_key(const stor_collection_t *collection, vd_bson_t key);

/* In the session's open transaction: the entries of a document go from those of `before` to those
 * of `after` (NONE: there was none, there will be none). id_key: the record's key in the table.
 * VD_ERR_DUPLICATE_KEY with MongoDB's message, keyPattern and keyValue, already rechecked against a
 * fresh snapshot; VD_ERR_WRITE_CONFLICT; 171. Does nothing when the collection has no index. */
VD_MUST_CHECK int stor_index_change(stor_session_t *session, const stor_collection_t *collection,
                                    vd_arena_t *arena, vd_slice_t id_key, vd_bson_t before,
                                    vd_bson_t after, vd_error_t *err);

/* Before a write's transaction begins: a short rest when a build can't keep up with the writers. */
void stor_index_writer_pause(const stor_collection_t *collection);

/* An entry, read apart. */
typedef struct {
    vd_slice_t fields;    /* keycodes of the fields */
    vd_slice_t id_key;    /* key of the record in the collection's table */
    vd_slice_t type_bits; /* of the fields */
    bool exact;
} stor_index_entry_t;
/* A value decoded from a collated key, as clients may see it: strings, which are sort keys, as "0x"
 * and digits. */
VD_MUST_CHECK int stor_index_sort_key_shown(vd_arena_t *arena, vd_value_t value,
                                            vd_value_t *ret_shown, vd_error_t *err);
VD_MUST_CHECK int stor_index_entry_read(const stor_index_def_t *def, vd_slice_t key,
                                        vd_slice_t value, stor_index_entry_t *ret_entry,
                                        vd_error_t *err);
