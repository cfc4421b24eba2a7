/* veddb-storaged/delta.h — the difference between two versions of a document, field by field.
 *
 * Duty:    one document whose field names are a letter and the field's name, in the order of the
 *          old document: "d" removed, "u" replaced in place, "s" a sub-document with its own
 *          delta, "a" an array with its own; then "i" appended. An array's delta: "n" the new
 *          length where it is shorter, then "u", "s" and "a" with positions, ascending; those
 *          behind the old end are appended. make gives a delta only if applying it to `before`
 *          yields exactly `after`, byte for byte; else false. Pure. */
#pragma once
#include "libcommon/bson/build.h"
#include "veddb-storaged/query/update.h"

/* Of an update: as fine as scope says and however large, since it is also what change streams tell
 * of it. False (the whole document is journaled) only where a delta can't be exact: the document
 * has a name twice. */
bool stor_delta_make_update(vd_arena_t *arena, vd_bson_t before, vd_bson_t after,
                            stor_update_scope_t scope, vd_bson_t *ret_delta);
/* Only if it is clearly smaller than the document; coarse. */
bool stor_delta_make(vd_arena_t *arena, vd_bson_t before, vd_bson_t after, vd_bson_t *ret_delta);
/* VD_ERR_CORRUPT: the delta is not BSON to the bottom, or does not fit the document. */
VD_MUST_CHECK int stor_delta_apply(vd_arena_t *arena, vd_bson_t before, vd_bson_t delta,
                                   vd_bson_t *ret_after, vd_error_t *err);
