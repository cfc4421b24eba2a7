/* veddb-storaged/index/keys.h — what an index has to say about one document: its definition,
 * parsed, and the keys that it takes from a document.
 *
 * Duty:    parses a specification that was checked (commands/index_spec) into a definition; makes
 *          the sorted, distinct keys of a document as MongoDB 7.0 does: compound with mixed
 *          directions, arrays (one key for each element; two arrays in parallel: error 171
 *          CannotIndexParallelArrays), missing as null, sparse, partial, hashed, wildcard (with its
 *          projection). Tells which fields went through an array (multikey). Pure: knows documents
 *          and keycode, no tables.
 * Owner:   a definition lives in the arena given; keys in the arena given to make.
 * Threads: any; a definition never changes.
 * Limits:  VD_INDEX_FIELDS_MAX fields, STOR_INDEX_KEYS_MAX keys a document. */
#pragma once
#include "libcommon/base/arena.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/engine/keycode.h"
#include "veddb-storaged/query/filter.h"

#define STOR_INDEX_FIELDS_MAX 32
#define STOR_INDEX_KEYS_MAX   500000

typedef enum {
    STOR_INDEX_ASCENDING,
    STOR_INDEX_DESCENDING,
    STOR_INDEX_HASHED,
    STOR_INDEX_WILDCARD
} stor_index_order_t;

typedef struct {
    vd_slice_t path; /* "a.b"; of a wildcard: the prefix in front of "$**", may be empty */
    stor_index_order_t order;
} stor_index_field_t;

/* Bit i: field i went through an array on its way in some document. */
typedef uint32_t stor_index_multikey_t;

typedef struct {
    vd_slice_t name;
    vd_bson_t key;  /* {a: 1, b: -1} */
    vd_bson_t spec; /* as listIndexes shows it: {v: 2, key, name, ...} */
    uint32_t field_count;
    const stor_index_field_t *fields;
    bool unique, sparse, hidden;
    bool prepare_unique;             /* no document gains a key that another one has */
    bool has_wildcard;               /* one of the fields is */
    vd_bson_t wildcard_projection;   /* NONE = none */
    const stor_filter_t *partial;    /* NULL = none; means strings as `collation` has them */
    const vd_collation_t *collation; /* strings stand as its sort keys; NULL = as bytes */
    vd_bson_t collation_spec;        /* whole; NONE = none */
    int64_t expire_after_seconds;    /* -1 = not a TTL index */
} stor_index_def_t;

VD_MUST_CHECK int stor_index_def_parse(vd_arena_t *arena, vd_bson_t spec,
                                       const stor_index_def_t **ret_def, vd_error_t *err);

/* One key: the fields' keycodes joined, each in its direction. Of a wildcard field: keycode of the
 * path (string), then keycode of the value. */
typedef struct {
    vd_slice_t key;
    vd_slice_t type_bits; /* keycode.h; trailing zeroes left out */
    bool exact;           /* no field was cut */
} stor_index_key_t;

typedef struct {
    uint32_t count;
    stor_index_key_t *keys; /* ascending by bytes, distinct */
    stor_index_multikey_t multikey;
} stor_index_keys_t;

/* None when the document is not in the index (sparse, partial). variables: for the partial filter.
 */
VD_MUST_CHECK int stor_index_keys_make(const stor_index_def_t *def, vd_arena_t *arena,
                                       vd_bson_t document, stor_index_keys_t *ret_keys,
                                       vd_error_t *err);
/* The number that a hashed index has for a value (keycode of int64 stands in the key). Under a
 * collation it is the same for what is equal; what holds no string has the same as without one. */
VD_MUST_CHECK int stor_index_hash(vd_value_t value, const vd_collation_t *collation,
                                  int64_t *ret_hash, vd_error_t *err);
/* The index on _id of a collection that has a collation: unique, and never dropped. (Records are
 * found by the bytes of their _id.) */
static inline bool stor_index_is_of_id(const stor_index_def_t *def)
{
    return vd_slice_is(def->name, "_id_");
}
