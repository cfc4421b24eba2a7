/* veddb-storaged/index/keys_private.h — what keys.c and keys_wildcard.c share: a definition with
 * its parts, and the keys under way.
 *
 * Threads: as keys.h. */
#pragma once
#include "veddb-storaged/index/keys.h"

/* What stor_index_def_parse really makes; the public part stands first. */
typedef struct {
    stor_index_def_t def;
    bool has_hashed;
    uint32_t wildcard; /* position of that field */
    /* Of a wildcard: dotted paths; included (or the prefix alone) or excluded; none: all but _id.
     */
    uint32_t path_count;
    vd_slice_t *paths;
    bool excludes, includes_id;
} index_def_t;

typedef struct {
    const index_def_t *def;
    vd_arena_t *arena;
    vd_buf_t key, bits;
    stor_index_key_t *keys;
    uint32_t count, cap;
    stor_index_multikey_t multikey;
    vd_error_t *err;
} maker_t;

/* The first array on the path, or the value at its end, or MISSING; *path: what is left behind it
 * (empty at the end). */
vd_value_t keys_extract(vd_bson_t document, vd_slice_t *path);
/* Begins a key, adds values in the order of the fields, ends it. */
void key_begin(maker_t *m);
VD_MUST_CHECK int key_value(maker_t *m, vd_value_t value, bool descending, bool *exact);
VD_MUST_CHECK int key_end(maker_t *m, bool exact);

/* keys_wildcard.c */
VD_MUST_CHECK int wildcard_parse(vd_arena_t *arena, index_def_t *def, vd_error_t *err);
VD_MUST_CHECK int wildcard_keys(maker_t *m, vd_bson_t document);
