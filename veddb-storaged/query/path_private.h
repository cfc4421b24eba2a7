/* veddb-storaged/query/path_private.h — the walk along a path, as the matcher needs it.
 *
 * Pure.
 * Threads: any. */
#pragma once
#include "veddb-storaged/query/match.h"

typedef bool (*path_visit_fn)(vd_value_t value, int64_t array_position, void *context);

typedef struct {
    const stor_path_t *path;
    bool expand_leaf_array; /* a leaf that is an array: its elements, then itself; else itself alone
                             */
    bool position_only; /* a numeric part inside an array is a position, not also a field name */
    uint32_t doubled; /* how often on the way down a part was tried as a field and as a position */
    path_visit_fn visit;
    void *context;
} path_walk_t;

/* Walks path->parts[from..] into a document; true when visit stopped it. */
bool path_walk_document(path_walk_t *walk, uint32_t from, vd_bson_t document, int64_t position);
/* The same, from a value that stands where parts[0..from) lead to. */
bool path_walk_value(path_walk_t *walk, uint32_t from, vd_value_t value, int64_t position);
