/* veddb-storaged/query/match.h — does a document match a filter? MongoDB's semantics of paths
 * through arrays, null and missing.
 *
 * Pure.
 * Threads: any; scratch belongs to the caller's request. */
#pragma once
#include "veddb-storaged/query/filter.h"

typedef struct {
    vd_arena_t *arena;                 /* scratch for $expr; the caller rewinds it per document */
    const stor_variables_t *variables; /* for $expr; may be NULL when the filter has none */
    uint64_t version;                  /* of the document, for $version; 0 = not known: an error */
    int64_t
        array_position; /* out: position of the first array element that matched (for `$`), or -1 */
} stor_match_t;

/* *ret_matches tells. Errors only from $expr, $version where no
 * version is known (and regex limits). match->array_position is reset by
 * the call. */
VD_MUST_CHECK int stor_match_document(const stor_filter_t *filter, vd_bson_t document,
                                      stor_match_t *match, bool *ret_matches, vd_error_t *err);
/* The filter (parsed with stor_filter_parse_value, or any filter on an object) against one value.
 */
VD_MUST_CHECK int stor_match_value(const stor_filter_t *filter, vd_value_t value,
                                   stor_match_t *match, bool *ret_matches, vd_error_t *err);

/* Calls visit for each value that the path leads to, fanning out over arrays as filters do: every
 * leaf, and for a leaf that is an array its elements when expand_leaf_array, then the array itself.
 * Missing gives one visit with MISSING. visit returns true to stop. array_position: position in the
 * outermost array crossed, or -1. Shared with sort keys, distinct and index keys. An array that
 * holds nothing that the path could enter ("a.b" in {a: [1, 2]}) gives no visit. A numeric part
 * names a position of an array that is long enough, never a field of its elements (filters try
 * both). */
bool stor_path_walk(const stor_path_t *path, vd_bson_t document, bool expand_leaf_array,
                    bool (*visit)(vd_value_t value, int64_t array_position, void *context),
                    void *context);
