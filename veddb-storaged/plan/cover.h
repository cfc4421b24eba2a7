/* veddb-storaged/plan/cover.h — documents put together from an index entry alone.
 *
 * Duty:    which fields of an index give the paths that are needed, and the making of a document
 *          that has just them. An entry can't tell null from missing, nor give back what was cut:
 *          then the caller must read the document. Pure.
 * Owner:   arena; a document made lives in the arena given to make. */
#pragma once
#include "veddb-storaged/index/keys.h"

/* Paths that are read of a document. */
typedef struct {
    bool all;
    uint32_t count, room;
    vd_slice_t *paths;
} stor_needs_t;

void stor_needs_add(vd_arena_t *arena, stor_needs_t *needs, vd_slice_t path);

typedef struct {
    uint32_t count;
    struct {
        uint32_t field; /* of the index */
        vd_slice_t path;
    } items[STOR_INDEX_FIELDS_MAX]; /* in order of path, so that siblings stand together */
    uint32_t last_field;
    bool id; /* _id, from the entry's key of the record */
    bool descending[STOR_INDEX_FIELDS_MAX + 1];
} stor_cover_t;

/* NULL: the index can't give them all (or led through arrays somewhere, or has a collation: its
 * strings can't be had back). */
const stor_cover_t *stor_cover_make(vd_arena_t *arena, const stor_index_def_t *def,
                                    stor_index_multikey_t multikey, const stor_needs_t *needs);
/* *ret_told false: the document must be read. */
VD_MUST_CHECK int stor_cover_document(const stor_cover_t *cover, vd_arena_t *arena,
                                      vd_slice_t fields, vd_slice_t type_bits, vd_slice_t id_key,
                                      vd_bson_t *ret_document, bool *ret_told, vd_error_t *err);
